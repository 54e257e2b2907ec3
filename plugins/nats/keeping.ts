/** What is done with jobs by their ids, and with the queue as a whole: then its stream is read once, without bodies. */

import { RunnerError, TypeTally } from '../../src/plugin.ts';
import type { Clock, ObjectReference, Purged, QueueJobState, QueueJobStatus, QueueStats } from '../../src/plugin.ts';
import type { NatsClient } from './client.ts';
import type { Jobs } from './jobs.ts';
import type { Lanes } from './lanes.ts';
import {
  availableAtOf,
  currentRecord,
  digestOf,
  hasEnded,
  isAlwaysRecorded,
  jobMetaOf,
  jobOf,
  payloadOf,
  recordOf,
  stateOf,
  statusOf,
} from './records.ts';
import type { Entry, JobMeta, Names, StoredJob } from './records.ts';

/** Messages that are deleted at the same time. */
const FORGET_MAX = 64;

export interface KeepingOptions {
  readonly client: NatsClient;
  readonly lanes: Lanes;
  readonly jobs: Jobs;
  readonly names: Names;
  readonly clock: Clock;
  readonly makeNonce: () => string;
}

export interface Stock {
  readonly byState: Record<QueueJobState, number>;
  readonly byType: Required<QueueStats>['byType'];
  readonly delayed: number;
  /** Of the oldest job that could be handed out. */
  readonly oldestMs: number;
  /** Leases: of this process, and of others that wrote them down. */
  readonly held: readonly { readonly workerId: string }[];
}

export class Keeping {
  readonly #options: KeepingOptions;

  constructor(options: KeepingOptions) {
    this.#options = options;
  }

  async cancel(id: string): Promise<boolean> {
    const { jobs, client, clock } = this.#options;
    for (;;) {
      const now = clock.now();
      const entry = await jobs.find(id);
      const job = jobMetaOf(entry);
      if (!job || hasEnded(stateOf(entry, now))) return false;
      const record = currentRecord(entry);
      const digest = entry.job ? { digest: digestOf(payloadOf(entry.job)) } : {};
      const held = jobs.leases.ofJob(id);
      const at = { seq: entry.job?.seq ?? record?.jobSeq ?? 0, job, rev: entry.record?.seq ?? 0 };
      const attempts = record?.attempts ?? held?.attempt ?? 0;
      if ((await jobs.write(at, { state: 'cancelled', attempts, endedAt: now, ...digest })) === undefined) continue;
      if (held) jobs.leases.remove(held.token);
      // What is gone is not handed out.
      if (entry.job) await client.remove(entry.job.seq);
      return true;
    }
  }

  async deadLetters(after: string | undefined, limit: number): Promise<QueueJobStatus[]> {
    const now = this.#options.clock.now();
    const dead = [...(await this.#survey()).values()]
      .filter((entry) => currentRecord(entry)?.state === 'dead')
      .toSorted((a, b) => endOf(a) - endOf(b) || (a.record?.seq ?? 0) - (b.record?.seq ?? 0));
    const from = after === undefined ? 0 : 1 + dead.findIndex((entry) => jobMetaOf(entry)?.id === after);
    if (after !== undefined && from === 0) throw new RunnerError('NOT_FOUND', `the dead letter has no job ${after}`);
    return dead.slice(from, from + limit).map((entry) => statusOf(entry, now) as QueueJobStatus); // it has a record
  }

  async requeue(id: string): Promise<boolean> {
    const entry = await this.#options.jobs.find(id);
    if (currentRecord(entry)?.state !== 'dead' || !entry.job) return false;
    const { deadline: _deadline, availableAt: _availableAt, ...meta } = entry.job.meta;
    return this.#renew(entry.job, meta);
  }

  async discard(id: string): Promise<Purged | undefined> {
    const entry = await this.#options.jobs.find(id);
    if (currentRecord(entry)?.state !== 'dead' || !(await this.#forget(entry))) return undefined;
    return { jobs: 1, objects: objectsOf(entry) };
  }

  /** What ended at `before` or earlier. */
  async purge(before: number): Promise<Purged> {
    const old = [...(await this.#survey()).values()].filter((entry) => {
      const { state, endedAt = 0 } = statusOf(entry, before) ?? {};
      return state !== undefined && hasEnded(state) && state !== 'dead' && endedAt <= before;
    });
    const objects: (readonly ObjectReference[])[] = [];
    for (let from = 0; from < old.length; from += FORGET_MAX) {
      const some = old.slice(from, from + FORGET_MAX);
      const forgotten = await Promise.all(some.map((entry) => this.#forget(entry)));
      for (const [index, entry] of some.entries()) if (forgotten[index]) objects.push(objectsOf(entry));
    }
    return { jobs: objects.length, objects: objects.flat() };
  }

  /**
   * Queues again, as if new, what has not ended and what the server will not hand out any more: everything before the floor of a lane was
   * acknowledged, and we acknowledge only what has ended. So this finds something only after servers lost what they had acknowledged.
   */
  async reconcile(): Promise<number> {
    const { client, lanes, clock, jobs } = this.#options;
    const now = clock.now();
    const floors = new Map<string, number>();
    for (const { consumer, priority, requires } of lanes.all())
      floors.set(this.#laneOf({ priority, requires }), (await client.consumer(consumer))?.ack_floor.stream_seq ?? 0);
    let renewed = 0;
    for (const [id, { job }] of await this.#survey()) {
      if (!job || job.seq > (floors.get(this.#laneOf(job.meta)) ?? 0)) continue;
      const entry = await jobs.find(id);
      if (entry.job?.seq !== job.seq || stateOf(entry, now) !== 'queued' || jobs.leases.ofJob(id)) continue;
      await jobs.settle(entry);
      if (hasEnded((await jobs.find(id)).record?.meta.state ?? 'queued')) continue;
      if (await this.#renew(entry.job, entry.job.meta)) renewed += 1;
    }
    return renewed;
  }

  /** Whether another process has it that did not have to write that down. */
  async isTaken({ job, record }: Entry): Promise<boolean> {
    if (!job) return false;
    const lane = await this.#options.lanes.ensure(job.meta.priority, job.meta.requires ?? []);
    return isTaken({ job, record }, await this.#handedOut(lane.consumer));
  }

  async takeStock(): Promise<Stock> {
    const { clock, jobs, lanes } = this.#options;
    const byState: Stock['byState'] = { queued: 0, claimed: 0, completed: 0, failed: 0, dead: 0, expired: 0, cancelled: 0 };
    const types = new TypeTally();
    const entries = await this.#survey();
    const handed = new Map<string, number>();
    for (const lane of lanes.all()) handed.set(this.#laneOf(lane), await this.#handedOut(lane.consumer));
    const now = clock.now();
    const leases = [...jobs.leases.values()];
    const ours = new Set(leases.map(({ jobId }) => jobId));
    const held: { readonly workerId: string }[] = [...leases];
    let [delayed, oldest] = [0, now];
    for (const [id, entry] of entries) {
      const job = jobMetaOf(entry);
      if (!job) continue;
      const derived = stateOf(entry, now);
      const state = derived === 'queued' && isTaken(entry, handed.get(this.#laneOf(job)) ?? 0) ? 'claimed' : derived;
      byState[state] += 1;
      if (state === 'queued' || state === 'claimed') types.add(job.type, state);
      const workerId = currentRecord(entry)?.workerId;
      if (state === 'claimed' && workerId !== undefined && !ours.has(id)) held.push({ workerId });
      if (state !== 'queued') continue;
      if ((availableAtOf(entry) ?? 0) > now) delayed += 1;
      else oldest = Math.min(oldest, job.publishedAt);
    }
    return { byState, byType: types.largest(), delayed, oldestMs: now - oldest, held };
  }

  /** Keys of payloads, results and packages, of jobs in any state and of records whose job is gone. */
  async referred(): Promise<ReadonlySet<string>> {
    const keys = new Set<string>();
    for (const { job, record } of (await this.#survey()).values()) {
      for (const meta of [job?.meta, record?.meta.job]) {
        const { reference, headers = {} } = meta ?? {};
        for (const key of [reference?.key, headers['function-object'], headers['function-sha256']]) if (key !== undefined) keys.add(key);
      }
      if (record?.meta.resultReference) keys.add(record.meta.resultReference.key);
    }
    return keys;
  }

  #laneOf({ priority, requires = [] }: { readonly priority: number; readonly requires?: readonly string[] }): string {
    return this.#options.names.lane(priority, requires);
  }

  /** Up to which sequence the server has handed out the messages of a lane at least once. */
  async #handedOut(consumer: string): Promise<number> {
    return (await this.#options.client.consumer(consumer))?.delivered.stream_seq ?? 0;
  }

  /** The message anew, at the end: what was recorded of the old one is void. */
  async #renew({ seq, body }: StoredJob, meta: JobMeta): Promise<boolean> {
    const { client, lanes, names, makeNonce } = this.#options;
    const { id, priority, requires = [] } = meta;
    await lanes.ensure(priority, requires);
    const nonce = makeNonce();
    const subject = names.job(id, priority, requires);
    const written = await client.write({ subject, header: JSON.stringify({ ...meta, nonce }), body, expected: seq });
    if (written !== undefined) {
      lanes.stored(meta, written);
      return true;
    }
    const last = await client.last(subject);
    return last !== undefined && jobOf(last).meta.nonce === nonce;
  }

  /** The job first: a record without a job can be forgotten again, a job without a record would be run again. */
  async #forget({ job, record }: Entry): Promise<boolean> {
    const { client } = this.#options;
    const isGone = job ? await client.remove(job.seq) : false;
    return record ? client.remove(record.seq) : isGone;
  }

  /** By id, in the order of publication. */
  async #survey(): Promise<Map<string, Entry>> {
    const { client, names } = this.#options;
    const entries = new Map<string, { job: Entry['job']; record: Entry['record'] }>();
    const entryOf = (id: string): { job: Entry['job']; record: Entry['record'] } => {
      const entry = entries.get(id) ?? { job: undefined, record: undefined };
      entries.set(id, entry);
      return entry;
    };
    for await (const stored of client.scan(names.all)) {
      if (names.isJob(stored.subject)) {
        const job = jobOf(stored);
        entryOf(job.meta.id).job = job;
      } else if (names.isRecord(stored.subject)) {
        const record = recordOf(stored);
        entryOf(record.meta.job.id).record = record;
      }
    }
    return entries;
  }
}

function endOf(entry: Entry): number {
  return currentRecord(entry)?.endedAt ?? 0;
}

/** Handed out without a record: claimed by a process that has not had to write it down. */
function isTaken(entry: Entry, handedOutTo: number): boolean {
  const { job } = entry;
  return job !== undefined && !currentRecord(entry) && !isAlwaysRecorded(job.meta) && job.seq <= handedOutTo;
}

function objectsOf(entry: Entry): ObjectReference[] {
  return [jobMetaOf(entry)?.reference, currentRecord(entry)?.resultReference].filter((reference) => reference !== undefined);
}
