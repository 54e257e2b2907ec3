/** Every change of a job: what is read, what is written and on which condition. */

import { leaseLost } from '../../src/plugin.ts';
import type { CheckedClaim, CheckedFailure, ClaimedJob, Clock, Lease, Logger, QueueCounts } from '../../src/plugin.ts';
import type { NatsClient } from './client.ts';
import type { Delivery } from './lane.ts';
import { Leases, keyOf } from './leases.ts';
import type { Grant, Held, Tokens } from './leases.ts';
import { availableAtOf, currentRecord, hasEnded, isAlwaysRecorded, jobOf, payloadOf, recordOf, stateOf, workerLost } from './records.ts';
import type { Entry, JobMeta, JobRecord, Names, Stored, StoredJob } from './records.ts';

const NO_BYTES: Uint8Array = new Uint8Array();
const NANOS = 1_000_000;

export interface JobsOptions {
  readonly client: NatsClient;
  readonly names: Names;
  readonly tokens: Tokens;
  readonly clock: Clock;
  readonly log: Logger;
  readonly counts: QueueCounts;
  readonly ackWaitMs: number;
  readonly recordClaims: boolean;
  /** Different in every process, each time. */
  readonly makeNonce: () => string;
}

/** What a record says besides what it is of. */
export type Change = Omit<JobRecord, 'jobSeq' | 'job'>;

export class Jobs {
  readonly leases: Leases;
  readonly #options: JobsOptions;
  /** Changes that nobody waits for. */
  readonly #own = new Set<Promise<unknown>>();

  constructor(options: JobsOptions) {
    this.#options = options;
    this.leases = new Leases(options.clock, (held) => this.background(this.#lapse(held)));
  }

  /** Of both what the leader has. */
  async find(id: string): Promise<Entry> {
    const { client, names } = this.#options;
    const [job, record] = await Promise.all([client.last(names.jobs(id)), client.last(names.record(id))]);
    return { job: job && jobOf(job), record: record && recordOf(record) };
  }

  /** Undefined when somebody else has written since. */
  async write(
    entry: { readonly seq: number; readonly job: JobMeta; readonly rev: number },
    change: Change,
    body = NO_BYTES,
  ): Promise<number | undefined> {
    const { client, names, makeNonce } = this.#options;
    const nonce = makeNonce();
    const subject = names.record(entry.job.id);
    const header = JSON.stringify({ ...change, jobSeq: entry.seq, job: entry.job, nonce });
    const written = await client.write({ subject, header, body, expected: entry.rev });
    if (written !== undefined) return written;
    // An earlier try, whose answer was lost, may have been ours.
    const last = await client.last(subject);
    return last && isOf(last, nonce) ? last.seq : undefined;
  }

  /** Undefined when the job is not to be handed out: the server is told why. */
  async admit(delivery: Delivery, claim: CheckedClaim): Promise<ClaimedJob | undefined> {
    const job = jobOf(delivery);
    const now = this.#options.clock.now();
    if (this.#isFresh(delivery, job.meta, claim) && (job.meta.deadline ?? now + 1) > now)
      return this.#grant(delivery, job, { claim, attempt: 1, rev: 0 });
    for (;;) {
      const entry = await this.#entryOf(job);
      const handed = await this.#admitKnown(delivery, entry, claim);
      if (handed !== 'conflict') return handed;
    }
  }

  /** It was handed to us, and nobody wants it: the attempt does not count. */
  async putBack(delivery: Delivery): Promise<void> {
    const { client } = this.#options;
    const { meta, seq } = jobOf(delivery);
    if (delivery.deliveries === 1 && !isAlwaysRecorded(meta))
      await this.write({ seq, job: meta, rev: 0 }, { state: 'queued', attempts: 0 });
    await client.tell(delivery.ack, '-NAK');
  }

  /** The lease as it is now. Rejects with `LEASE_LOST`. */
  async held(lease: Lease): Promise<Held> {
    const { tokens, clock } = this.#options;
    const known = this.leases.get(lease);
    if (known && known.until > clock.now()) return known;
    const grant = tokens.read(lease);
    if (!grant) throw leaseLost(lease, 'nobody gave it');
    const { job, record } = await this.find(lease.jobId);
    const meta = job?.meta ?? record?.meta.job;
    if (!meta) throw leaseLost(lease, 'the queue has no record of the job');
    const current = currentRecord({ job, record });
    if (current && hasEnded(current.state)) throw leaseLost(lease, `the job is ${current.state}`);
    if (job && job.seq !== grant.seq) throw leaseLost(lease, 'the job was queued again');
    if (current && (current.state !== 'claimed' || current.key !== keyOf(lease.token)))
      throw leaseLost(lease, current.state === 'claimed' ? 'another claim holds it' : 'it ran out or was given back');
    const until = current?.state === 'claimed' ? (current.until ?? 0) : grant.until;
    if (until <= clock.now()) throw leaseLost(lease, 'it ran out');
    return { ...grant, token: lease.token, job: meta, rev: record?.seq ?? 0, until };
  }

  /** What the holder of a lease decides. Rejects with `LEASE_LOST`. */
  async change(lease: Lease, change: (held: Held) => Change, body?: Uint8Array): Promise<Held> {
    let isOurs = false;
    for (;;) {
      const held = await this.held(lease);
      // One that another process gave is that one's to watch over.
      if (isOurs) this.leases.add(held);
      const rev = await this.write(
        held,
        { key: keyOf(held.token), workerId: held.workerId, claimedAt: held.claimedAt, ...change(held) },
        body,
      );
      if (rev !== undefined) {
        held.rev = rev;
        return held;
      }
      isOurs = this.leases.remove(held.token);
    }
  }

  /** Writes down what time has decided: that a job has expired, or was lost with its last worker. */
  async settle(entry: Entry): Promise<void> {
    const now = this.#options.clock.now();
    const job = entry.job?.meta ?? entry.record?.meta.job;
    const record = currentRecord(entry);
    if (!job || (record && hasEnded(record.state))) return;
    const seq = entry.job?.seq ?? record?.jobSeq ?? 0;
    const at = { seq, job, rev: entry.record?.seq ?? 0 };
    const isLapsed = record?.state === 'claimed' && (record.until ?? 0) <= now;
    const kept = { attempts: record?.attempts ?? 0, ...(record?.workerId !== undefined && { workerId: record.workerId }) };
    if (stateOf(entry, now) === 'expired') {
      const error = isLapsed ? { error: workerLost(record) } : {};
      await this.write(at, { ...kept, ...error, state: 'expired', endedAt: job.deadline ?? now });
    } else if (isLapsed && record.attempts >= job.attemptsMax)
      await this.write(at, this.#lost(job, { ...record, attempts: record.attempts }));
  }

  /** After a failure: another attempt if one is left. */
  afterFailure(held: Held, { code, message, delayMs }: CheckedFailure & { readonly delayMs: number }): Change {
    const { clock } = this.#options;
    const error = { code, message };
    if (held.attempt >= held.job.attemptsMax)
      return { state: held.job.deadLetter === false ? 'failed' : 'dead', attempts: held.attempt, error, endedAt: clock.now() };
    return { state: 'queued', attempts: held.attempt, error, ...(delayMs > 0 && { availableAt: clock.now() + delayMs }) };
  }

  /** Tells the server what became of the message. */
  async told({ ack }: { readonly ack: string }, { state, availableAt }: Change): Promise<void> {
    const { client, clock } = this.#options;
    if (hasEnded(state)) client.send(ack, '+ACK');
    else await client.tell(ack, nak((availableAt ?? 0) - clock.now()));
  }

  background(work: Promise<unknown>): void {
    const { log } = this.#options;
    const done = work.catch((error: unknown) => log.warn('a job is left to the server', { error })).finally(() => this.#own.delete(done));
    this.#own.add(done);
  }

  /** Those changes are finished. */
  async idle(): Promise<void> {
    while (this.#own.size > 0) await Promise.all(this.#own);
  }

  /** Long leases are kept alive at the server while this process is. */
  keepAlive(): void {
    const { client, ackWaitMs, clock } = this.#options;
    for (const { ack, claimedAt, until } of this.leases.values())
      if (until > clock.now() && until - claimedAt > ackWaitMs) client.send(ack, '+WPI');
  }

  /** Nobody can have begun it, and if we fall silent the server gives it to others in time: nothing has to be written down. */
  #isFresh({ deliveries, seq, lane }: Delivery, job: JobMeta, { leaseMs }: CheckedClaim): boolean {
    const { ackWaitMs, recordClaims } = this.#options;
    return deliveries === 1 && seq > lane.checkedTo && leaseMs <= ackWaitMs && !recordClaims && !isAlwaysRecorded(job);
  }

  async #entryOf(job: StoredJob): Promise<Entry> {
    const record = await this.#options.client.last(this.#options.names.record(job.meta.id));
    return { job, record: record && recordOf(record) };
  }

  async #admitKnown(
    delivery: Delivery,
    entry: Entry & { job: StoredJob | undefined },
    claim: CheckedClaim,
  ): Promise<ClaimedJob | undefined | 'conflict'> {
    const { client, clock } = this.#options;
    const now = clock.now();
    const job = entry.job as StoredJob; // the delivery
    const record = currentRecord(entry);
    const state = stateOf(entry, now);
    if (hasEnded(state)) {
      await this.settle(entry);
      client.send(delivery.ack, '+ACK');
      return undefined;
    }
    const waitMs = (state === 'claimed' ? (record?.until ?? 0) : (availableAtOf(entry) ?? this.#forgotten(delivery, job))) - now;
    if (waitMs > 0) {
      client.send(delivery.ack, nak(waitMs));
      return undefined;
    }
    const isLost = record?.state === 'claimed' || (!record && delivery.deliveries > 1 && !isAlwaysRecorded(job.meta));
    const attempts = record?.attempts ?? (isLost ? 1 : 0);
    const last = { workerId: record?.workerId ?? '(unknown)', attempts };
    const at = { seq: job.seq, job: job.meta, rev: entry.record?.seq ?? 0 };
    if (attempts >= job.meta.attemptsMax) {
      if ((await this.write(at, this.#lost(job.meta, last))) === undefined) return 'conflict';
      client.send(delivery.ack, '+ACK');
      return undefined;
    }
    if (!isLost && !record && this.#isFresh({ ...delivery, seq: Number.POSITIVE_INFINITY }, job.meta, claim))
      return this.#grant(delivery, job, { claim, attempt: 1, rev: at.rev });
    const error = isLost ? workerLost(last) : record?.error;
    return this.#grantRecorded(delivery, job, { claim, attempt: attempts + 1, rev: at.rev, ...(error && { error }) });
  }

  /** Until when we hold what a server that was killed alone does not remember to have given us. */
  #forgotten({ ack }: Delivery, { meta, seq }: StoredJob): number {
    const held = this.leases.ofJob(meta.id);
    if (held?.seq !== seq) return 0;
    held.ack = ack;
    return held.until;
  }

  async #grantRecorded(
    delivery: Delivery,
    job: StoredJob,
    how: {
      readonly claim: CheckedClaim;
      readonly attempt: number;
      readonly rev: number;
      readonly error?: { code: string; message: string };
    },
  ): Promise<ClaimedJob | 'conflict'> {
    const handed = this.#grant(delivery, job, how);
    const held = this.leases.get(handed.lease) as Held; // just given
    const { workerId, claimedAt, until, attempt } = held;
    const error = how.error && { error: how.error };
    const change: Change = { state: 'claimed', attempts: attempt, key: keyOf(held.token), workerId, claimedAt, until, ...error };
    const rev = await this.write(held, change).catch((failed: unknown) => {
      this.leases.remove(held.token);
      throw failed;
    });
    if (rev === undefined) {
      this.leases.remove(held.token);
      return 'conflict';
    }
    held.rev = rev;
    return handed;
  }

  #grant(
    { seq, ack }: Delivery,
    job: StoredJob,
    { claim, attempt, rev }: { readonly claim: CheckedClaim; readonly attempt: number; readonly rev: number },
  ): ClaimedJob {
    const { clock, tokens } = this.#options;
    const { meta } = job;
    const now = clock.now();
    const until = Math.min(now + claim.leaseMs, meta.deadline ?? Number.POSITIVE_INFINITY);
    const grant: Grant = {
      jobId: meta.id,
      seq,
      rev,
      until,
      leaseMs: claim.leaseMs,
      attempt,
      claimedAt: now,
      workerId: claim.workerId,
      ack,
    };
    const token = tokens.issue(grant);
    this.leases.add({ ...grant, token, job: meta });
    return {
      id: meta.id,
      type: meta.type,
      payload: payloadOf(job),
      headers: meta.headers ?? {},
      priority: meta.priority,
      requires: meta.requires ?? [],
      attempt,
      attemptsMax: meta.attemptsMax,
      publishedAt: meta.publishedAt,
      ...(meta.deadline !== undefined && { deadline: meta.deadline }),
      lease: { jobId: meta.id, token, until },
    };
  }

  async #lapse(held: Held): Promise<void> {
    const { clock, counts, log } = this.#options;
    const now = clock.now();
    this.leases.remove(held.token);
    const error = workerLost({ workerId: held.workerId, attempts: held.attempt });
    const isExpired = held.job.deadline !== undefined && held.job.deadline <= now;
    const change: Change = isExpired
      ? { state: 'expired', attempts: held.attempt, error, endedAt: held.job.deadline ?? now }
      : this.afterFailure(held, { ...error, retryable: true, delayMs: 0 });
    const rev = await this.write(held, { ...change, key: keyOf(held.token), workerId: held.workerId, claimedAt: held.claimedAt });
    if (rev === undefined) return; // completed, or prolonged by another process
    counts.lost(held.workerId);
    log.warn('a lease ran out', { job: held.jobId, worker: held.workerId, attempt: held.attempt });
    await this.told(held, change);
  }

  #lost(job: JobMeta, { workerId, attempts }: { readonly workerId?: string; readonly attempts: number }): Change {
    const { clock, log } = this.#options;
    if (job.deadLetter !== false) log.warn('a job went to the dead letter', { job: job.id, attempts });
    const error = workerLost({ attempts, ...(workerId !== undefined && { workerId }) });
    return {
      state: job.deadLetter === false ? 'failed' : 'dead',
      attempts,
      error,
      endedAt: clock.now(),
      ...(workerId !== undefined && { workerId }),
    };
  }
}

function isOf({ header }: Stored, nonce: string): boolean {
  return (JSON.parse(header) as { readonly nonce?: string }).nonce === nonce;
}

function nak(delayMs: number): string {
  return delayMs > 0 ? `-NAK {"delay": ${Math.ceil(delayMs) * NANOS}}` : '-NAK';
}
