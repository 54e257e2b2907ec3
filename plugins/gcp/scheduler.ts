/**
 * Schedules as jobs of Cloud Scheduler that call the function with an ID token.
 *
 * https://docs.cloud.google.com/scheduler/docs/reference/rest/v1/projects.locations.jobs
 */

import { RunnerError, count, fieldsOf, isRunnerError, text, translate } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionSchedule } from '../../src/plugin.ts';
import { asFields } from './client.ts';
import type { Fields, GcpClient } from './client.ts';
import { canonical } from './functions.ts';
import { platformOf } from './platform-options.ts';

/** Jobs have no labels. */
const MARK = 'managed-by: blueprint-runner';
/** Names of functions have none, so that the jobs of `a` and of `a-b` are told apart. */
const SEPARATOR = '_';
const DEADLINE_MS = { min: 15_000, max: 30 * 60_000, default: 180_000 };

export interface Job {
  /** Without its path. */
  readonly id: string;
  readonly isOurs: boolean;
  readonly schedule: string;
  readonly timeZone: string;
  readonly body: string;
  readonly retries: number;
  readonly attemptDeadlineMs: number;
  /** What is called. Undefined: not known before the function is there. */
  readonly uri: string | undefined;
  readonly serviceAccount: string | undefined;
}

/** What jobs need to know of their function. */
export interface JobTarget {
  readonly uri: string | undefined;
  readonly serviceAccount: string | undefined;
}

export interface JobPlan {
  readonly jobs: readonly Job[];
  readonly warnings: readonly string[];
}

/** The jobs of a function. Throws `SCHEDULE_INVALID`, `SCHEDULE_LOSSY`. */
export function jobsFor(
  name: string,
  config: FunctionConfig,
  { strict, target }: { readonly strict: boolean; readonly target: JobTarget },
): JobPlan {
  const { schedules = [], timeoutMs = DEADLINE_MS.default } = config;
  const { attemptDeadlineMs = timeoutMs, retries = 0 } = platformOf(config);
  const warnings: string[] = [];
  const jobs = schedules.flatMap(({ name: schedule, schedule: when, event = {} }) => {
    const { expressions, timezone = 'UTC', losses } = translate('gcp', when, { strict });
    warnings.push(...losses.map(({ message }) => `schedule ${schedule}: ${message}`));
    return expressions.map((expression, index) => ({
      id: [name, schedule, ...(index === 0 ? [] : [index + 1])].join(SEPARATOR),
      isOurs: true,
      schedule: expression,
      timeZone: timezone,
      body: Buffer.from(JSON.stringify(event)).toString('base64'),
      retries,
      attemptDeadlineMs: Math.min(DEADLINE_MS.max, Math.max(DEADLINE_MS.min, attemptDeadlineMs)),
      ...target,
    }));
  });
  return { jobs, warnings };
}

/** What the jobs of a function say, as schedules: one for each job. */
export function schedulesOf(name: string, jobs: readonly Job[]): FunctionSchedule[] {
  return jobs.map(({ id, schedule, timeZone, body }) => {
    const event = fieldsOf(Buffer.from(body, 'base64'));
    return {
      name: id.slice(name.length + SEPARATOR.length),
      schedule: { kind: 'calendar', expression: `${calendarOf(schedule)} ${timeZone}` },
      ...(event && Object.keys(event).length > 0 && { event }),
    };
  });
}

const WEEKDAYS = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'];

/** Five fields of cron in the grammar of systemd. */
function calendarOf(cron: string): string {
  const [minute = '*', hour = '*', day = '*', month = '*', weekday = '*'] = cron.split(/\s+/);
  const part = (field: string, first: number): string => field.replaceAll('-', '..').replaceAll('*/', `${first}/`);
  const named = weekday
    .replaceAll(/\d/g, (digit) => WEEKDAYS[Number(digit)] ?? digit)
    .replaceAll(/[A-Z]{3}/g, (upper) => upper.charAt(0) + upper.slice(1).toLowerCase());
  const days = weekday === '*' ? '' : `${named.replaceAll('-', '..')} `;
  return `${days}*-${part(month, 1)}-${part(day, 1)} ${part(hour, 0)}:${part(minute, 0)}:00`;
}

/** Of the fields of a job those that differ; a target that is not known yet differs. */
export function jobDifferences(present: Job, wanted: Job): string[] {
  const now = asFields(bodyOf(present));
  return Object.entries(bodyOf(wanted)).flatMap(([field, value]) => (canonical(value) === canonical(now[field]) ? [] : [field]));
}

export class Jobs {
  readonly #client: GcpClient;
  readonly #parent: string;

  /** `projects/p/locations/l`. */
  constructor(client: GcpClient, parent: string) {
    this.#client = client;
    this.#parent = parent;
  }

  /** All jobs whose name says that they are of this function, those of others among them. */
  async of(name: string, signal: AbortSignal | undefined): Promise<readonly Job[]> {
    return (await this.all(signal)).filter(({ id }) => id.startsWith(name + SEPARATOR));
  }

  async all(signal: AbortSignal | undefined): Promise<readonly Job[]> {
    const jobs: Job[] = [];
    const request = { method: 'GET', path: `/v1/${this.#parent}/jobs?pageSize=500`, what: 'list schedules', signal } as const;
    for await (const fields of this.#client.items('scheduler', request, 'jobs')) jobs.push(jobOf(fields));
    return jobs.toSorted((a, b) => (a.id < b.id ? -1 : 1));
  }

  async create(job: Job, signal: AbortSignal | undefined): Promise<void> {
    const json = { name: this.#name(job.id), ...bodyOf(job) };
    await this.#client.request('scheduler', {
      method: 'POST',
      path: `/v1/${this.#parent}/jobs`,
      json,
      what: `create the schedule ${job.id}`,
      signal,
    });
  }

  async update(job: Job, fields: readonly string[], signal: AbortSignal | undefined): Promise<void> {
    const path = `/v1/${this.#name(job.id)}?updateMask=${fields.join(',')}`;
    const body = bodyOf(job);
    const json = { name: this.#name(job.id), ...Object.fromEntries(fields.map((field) => [field, body[field]])) };
    await this.#client.request('scheduler', { method: 'PATCH', path, json, what: `change the schedule ${job.id}`, signal });
  }

  async delete(id: string, signal: AbortSignal | undefined): Promise<void> {
    await this.#client.find('scheduler', { method: 'DELETE', path: `/v1/${this.#name(id)}`, what: `remove the schedule ${id}`, signal });
  }

  #name(id: string): string {
    return `${this.#parent}/jobs/${id}`;
  }
}

/** None where they may not be looked at, or there is no Cloud Scheduler: a function needs no schedules. `onDenied` is told why. */
export async function ifTold(work: Promise<readonly Job[]>, onDenied?: (reason: string) => void): Promise<readonly Job[]> {
  try {
    return await work;
  } catch (error) {
    if (!isRunnerError(error) || error.details['status'] !== 403) throw error;
    onDenied?.(error.message);
    return [];
  }
}

/** Throws `RESOURCE_FOREIGN` when one of these names belongs to somebody else. */
export function checkJobsOwned(present: readonly Job[], wanted: readonly Job[]): void {
  const foreign = present.find(({ id, isOurs }) => !isOurs && wanted.some((job) => job.id === id));
  if (foreign)
    throw new RunnerError('RESOURCE_FOREIGN', `somebody else made the job ${foreign.id} of Cloud Scheduler: it is left as it is`, {
      details: { name: foreign.id },
    });
}

function bodyOf({ schedule, timeZone, body, retries, attemptDeadlineMs, uri, serviceAccount }: Job): Fields {
  return {
    description: MARK,
    schedule,
    timeZone,
    attemptDeadline: `${attemptDeadlineMs / 1_000}s`,
    retryConfig: { retryCount: retries },
    httpTarget: {
      uri,
      httpMethod: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body,
      ...(serviceAccount !== undefined && { oidcToken: { serviceAccountEmail: serviceAccount, audience: uri } }),
    },
  };
}

function jobOf(fields: Fields): Job {
  const target = asFields(fields['httpTarget']);
  const deadline = /^([\d.]+)s$/.exec(text(fields['attemptDeadline']) ?? '')?.[1];
  return {
    id: String(fields['name']).split('/').at(-1) ?? '',
    isOurs: fields['description'] === MARK,
    schedule: String(fields['schedule']),
    timeZone: text(fields['timeZone']) ?? 'UTC',
    body: text(target['body']) ?? '',
    retries: count(asFields(fields['retryConfig'])['retryCount']) ?? 0,
    attemptDeadlineMs: deadline === undefined ? DEADLINE_MS.default : Number(deadline) * 1_000,
    uri: text(target['uri']),
    serviceAccount: text(asFields(target['oidcToken'])['serviceAccountEmail']),
  };
}
