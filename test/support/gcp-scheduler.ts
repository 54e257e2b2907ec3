/** Cloud Scheduler for tests: jobs, as strict as the service. */

import { JOB, Refusal, bodyAs, invalid, masked, pageOf, textOf } from './gcp-schema.ts';
import type { Fields } from './gcp-schema.ts';

interface Request {
  readonly method: string;
  readonly query: URLSearchParams;
  readonly body: Buffer;
}

const CRON = /^\S+ \S+ \S+ \S+ \S+$/;

export class Scheduler {
  readonly jobs = new Map<string, Fields>();
  readonly #parent: string;

  constructor(parent: string) {
    this.#parent = parent;
  }

  answer(id: string | undefined, { method, query, body }: Request): Fields {
    if (id === undefined && method === 'GET') {
      const [jobs, next] = pageOf([...this.jobs.values()], {
        size: Number(query.get('pageSize') ?? 500),
        token: query.get('pageToken') ?? '',
      });
      return { jobs, ...next };
    }
    if (id === undefined && method === 'POST') return this.#create(bodyAs(body, JOB));
    const job = this.jobs.get(id ?? '');
    if (id === undefined || !job) throw new Refusal(404, 'NOT_FOUND', 'Job not found.');
    if (method === 'GET') return job;
    if (method === 'DELETE') {
      this.jobs.delete(id);
      return {};
    }
    if (method !== 'PATCH') throw new Refusal(405, 'UNIMPLEMENTED', 'Method not allowed.');
    const changed = told(masked(job, bodyAs(body, JOB), { mask: query.get('updateMask'), shape: JOB }));
    this.jobs.set(id, changed);
    return changed;
  }

  #create(given: Fields): Fields {
    const [, id] = new RegExp(`^${this.#parent}/jobs/([a-zA-Z0-9_-]{1,500})$`).exec(String(given['name'])) ?? [];
    if (id === undefined) throw invalid(`Job name must be formatted: "${this.#parent}/jobs/JOB_ID".`);
    if (this.jobs.has(id)) throw new Refusal(409, 'ALREADY_EXISTS', `Job ${String(given['name'])} already exists.`);
    const job = told({ state: 'ENABLED', ...given });
    this.jobs.set(id, job);
    return job;
  }
}

/** What the service makes of what it is given. */
function told(given: Fields): Fields {
  const { schedule, timeZone = 'UTC', attemptDeadline = '180s', description = '' } = given;
  if (!CRON.test(String(schedule))) throw invalid('Schedule or time zone is invalid.');
  if (!zoneExists(String(timeZone))) throw invalid('Schedule or time zone is invalid.');
  const seconds = Number(/^([\d.]+)s$/.exec(String(attemptDeadline))?.[1]);
  if (!(seconds >= 15 && seconds <= 1_800)) throw invalid('Attempt deadline is out of range.');
  if (String(description).length > 499) throw invalid('Description is too long.');
  // Shapes were checked.
  const target = given['httpTarget'] as Fields | undefined;
  if (!target || !URL.canParse(String(target['uri']))) throw invalid('The target is missing or its address is invalid.');
  const body = textOf(target['body']);
  if (Buffer.from(body, 'base64').toString('base64') !== body) throw invalid('The body is not base64.');
  const retry = given['retryConfig'] as Fields | undefined;
  if (Number(retry?.['retryCount'] ?? 0) > 5) throw invalid('Retry count is out of range.');
  return {
    ...given,
    timeZone,
    attemptDeadline,
    userUpdateTime: new Date().toISOString(),
    // Zero is what is left out.
    retryConfig: { maxRetryDuration: '0s', minBackoffDuration: '5s', maxBackoffDuration: '3600s', maxDoublings: 5, ...withoutZeros(retry) },
    httpTarget: { ...target, headers: { 'User-Agent': 'Google-Cloud-Scheduler', ...(target['headers'] as Fields | undefined) } },
  };
}

function withoutZeros(fields: Fields = {}): Fields {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== 0));
}

function zoneExists(timeZone: string): boolean {
  try {
    return new Intl.DateTimeFormat('en', { timeZone }).resolvedOptions().timeZone !== '';
  } catch {
    return false;
  }
}
