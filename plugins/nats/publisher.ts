/** How jobs come into the stream: once per id. */

import { randomUUID } from 'node:crypto';
import { RunnerError, sameContent } from '../../src/plugin.ts';
import type { CheckedJob, Clock, Published } from '../../src/plugin.ts';
import type { NatsClient, Write } from './client.ts';
import type { Jobs } from './jobs.ts';
import type { Lanes } from './lanes.ts';
import { bytesOf, digestOf, jobMetaOf, metaOf, payloadOf } from './records.ts';
import type { Names } from './records.ts';

/** What one atomic batch of the server takes. */
const BATCH_MAX = 1_000;

type PublishJob = CheckedJob & { readonly id: string };

export interface PublisherOptions {
  readonly client: NatsClient;
  readonly lanes: Lanes;
  readonly jobs: Jobs;
  readonly names: Names;
  readonly clock: Clock;
  readonly makeNonce: () => string;
}

/** One write for each job, on the condition that the stream has nothing of its id, in whatever lane: the server itself keeps ids unique. */
export class Publisher {
  readonly #options: PublisherOptions;

  constructor(options: PublisherOptions) {
    this.#options = options;
  }

  async publish(checked: CheckedJob): Promise<Published> {
    const { client, lanes } = this.#options;
    const job = identified(checked);
    const write = await this.#writeOf(job);
    for (;;) {
      const seq = await client.write(write);
      if (seq !== undefined) lanes.stored(job, seq);
      const published = seq === undefined ? await this.#known(job, write) : { id: job.id, duplicate: false };
      if (published) return published;
    }
  }

  async publishMany(checked: readonly CheckedJob[]): Promise<Published[]> {
    const jobs = checked.map((job) => identified(job));
    const first = new Map<string, PublishJob>();
    for (const job of jobs) {
      const other = first.get(job.id);
      if (other && (other.type !== job.type || !sameContent(other.payload, job.payload))) throw conflict(job.id);
      if (!other) first.set(job.id, job);
    }
    const fresh = await this.#publishAll([...first.values()]);
    return jobs.map((job) => ({ id: job.id, duplicate: !(first.get(job.id) === job && fresh.has(job.id)) }));
  }

  async #writeOf(job: PublishJob): Promise<Write> {
    const { lanes, names, clock, makeNonce } = this.#options;
    await lanes.ensure(job.priority, job.requires);
    const header = JSON.stringify(metaOf(job, makeNonce(), clock.now()));
    const subject = names.job(job.id, job.priority, job.requires);
    return { subject, header, body: bytesOf(job.payload), expected: 0, of: names.either(job.id) };
  }

  /** What the queue has of the id already; undefined when it was forgotten meanwhile. */
  async #known(job: PublishJob, { header }: Write): Promise<Published | undefined> {
    const { jobs, lanes } = this.#options;
    const entry = await jobs.find(job.id);
    if (entry.job) lanes.stored(entry.job.meta, entry.job.seq);
    const meta = jobMetaOf(entry);
    if (!meta) return undefined;
    const { nonce } = JSON.parse(header) as { readonly nonce: string };
    const digest = entry.job ? digestOf(payloadOf(entry.job)) : entry.record?.meta.digest;
    if (meta.type !== job.type || (digest !== undefined && digest !== digestOf(job.payload))) throw conflict(job.id);
    return { id: job.id, duplicate: meta.nonce !== nonce };
  }

  /** Those that were not known. */
  async #publishAll(jobs: readonly PublishJob[]): Promise<Set<string>> {
    const { client, lanes } = this.#options;
    const fresh = new Set<string>();
    let parts: (readonly PublishJob[])[] = [];
    for (let from = 0; from < jobs.length; from += BATCH_MAX) parts.push(jobs.slice(from, from + BATCH_MAX));
    // All are looked at before the first of several parts is written.
    if (parts.length > 1) parts = await Promise.all(parts.map((part) => this.#unknown(part, new Map())));
    for (const part of parts) {
      const writes = new Map<string, Write>();
      for (const job of part) writes.set(job.id, await this.#writeOf(job));
      for (let left = part; left.length > 0;) {
        const seq = await client.writeAll(left.map(({ id }) => writes.get(id) as Write));
        for (const job of seq === undefined ? [] : left) {
          fresh.add(job.id);
          lanes.stored(job, seq ?? 0);
        }
        left = seq === undefined ? await this.#unknown(left, writes, fresh) : [];
      }
    }
    return fresh;
  }

  /** Those among them that the queue does not know; `fresh` gets those that an earlier try has written. */
  async #unknown(jobs: readonly PublishJob[], writes: ReadonlyMap<string, Write>, fresh = new Set<string>()): Promise<PublishJob[]> {
    const known = await Promise.all(jobs.map((job) => this.#known(job, writes.get(job.id) ?? ({ header: '{}' } as Write))));
    for (const published of known) if (published && !published.duplicate) fresh.add(published.id);
    return jobs.filter((_, index) => !known[index]);
  }
}

function identified(job: CheckedJob): PublishJob {
  return { ...job, id: job.id ?? randomUUID() };
}

function conflict(id: string): RunnerError {
  return new RunnerError('REQUEST_CONFLICT', `the queue has a job ${id} of another type or payload`, { details: { jobId: id } });
}
