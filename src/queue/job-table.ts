/**
 * The jobs of an embedded queue: the table in the file and what is kept of it in memory (leases, ready jobs by what they require, counts).
 * Every method that changes something runs inside a transaction; a refusal is returned, not thrown, so that it does not undo its neighbours.
 */

import type { StatementSync } from 'node:sqlite';
import { RunnerError } from '../errors.ts';
import type { SqliteFile } from '../sqlite-file.ts';
import type { Claim } from './claims.ts';
import { JobTally, kindOf } from './job-tally.ts';
import { Leases, leaseEnd, leaseOf, subjectOf, tokenOf } from './leases.ts';
import type { HeldLease } from './leases.ts';
import { isReference, retryDelayMs } from './queue.ts';
import type { ClaimedJob, Content, Lease, ObjectReference, Published, Purged, QueueJobStatus } from './queue.ts';
import { ReadyRows, claimedOf } from './ready-rows.ts';
import type { ReadyRow } from './ready-rows.ts';
import { leaseLost, queueFull, sameContent } from './requests.ts';
import type { CheckedFailure, CheckedJob, CheckedResult } from './requests.ts';
import {
  ROW_PAYLOAD_BYTES_MAX,
  SQL,
  STATE,
  bytesOf,
  contentColumns,
  headersColumn,
  numberOf,
  referenceOf,
  resultOf,
  shownState,
  statusOf,
  subjectOfRow,
} from './rows.ts';
import type { Row, Subject } from './rows.ts';

/** Leases and due jobs that one transaction takes care of. */
const SWEEP_MAX = 1_000;
/** Payloads of one claim, bytes: who has so many gets no more jobs. */
const CLAIM_BYTES_MAX = 32 * 1024 * 1024;

/** What is told of a change once it is committed. */
export interface TableEvents {
  published(count: number): void;
  claimed(claim: Claim, jobs: readonly ClaimedJob[], now: number): void;
  completed(lease: HeldLease, now: number): void;
  failed(lease: HeldLease, now: number): void;
  lost(lease: HeldLease): void;
  dead(jobId: string, attempts: number): void;
  ended(jobId: string): void;
}

export interface JobTableOptions {
  readonly file: SqliteFile;
  readonly makeId: () => string;
  /** Jobs that may wait. */
  readonly jobsMax: number;
  readonly events: TableEvents;
}

type Cause = Pick<CheckedFailure, 'code' | 'message'>;

type Entered = Published & { readonly state?: number; readonly dueAt?: number | null };

export class JobTable {
  readonly leases = new Leases();
  readonly tally = new JobTally();
  /** When the first waiting job has something due: its delay ends, or its deadline passes. */
  dueAt = Number.POSITIVE_INFINITY;
  readonly #options: JobTableOptions;
  readonly #sql: Readonly<Record<keyof typeof SQL, StatementSync>>;
  readonly #effects: (() => void)[] = [];

  constructor(options: JobTableOptions) {
    this.#options = options;
    const statements = Object.entries(SQL).map(([name, sql]) => [name, options.file.prepare(sql)]);
    this.#sql = Object.fromEntries(statements) as Record<keyof typeof SQL, StatementSync>;
    this.#sql.next.setReturnArrays(true);
  }

  /** Reads anew what memory holds of the file. A lease that memory does not know gets its whole time. */
  reload(now: number): void {
    const known = new Map([...this.leases.values()].map(({ token, until }) => [token, until]));
    this.#effects.length = 0;
    this.leases.clear();
    this.tally.load(this.#sql.counts.all(), this.#sql.types.all(), this.#sql.ready.all());
    for (const row of this.#sql.claimed.all()) {
      const lease = leaseOf(row, now);
      this.leases.add({ ...lease, until: known.get(lease.token) ?? lease.until });
    }
    this.dueAt = numberOf(this.#sql.firstDue.get()?.['due_at']) ?? Number.POSITIVE_INFINITY;
  }

  /** Tells of what the committed changes did. */
  tell(): void {
    this.tally.news = false;
    for (const effect of this.#effects.splice(0)) effect();
  }

  insert(job: CheckedJob, now: number): Published | RunnerError {
    const entered = this.#insert(job, now);
    if (entered instanceof Error) return entered;
    this.#entered([job], [entered]);
    return { id: entered.id, duplicate: entered.duplicate };
  }

  /** All or none. */
  insertMany(jobs: readonly CheckedJob[], now: number): Published[] | RunnerError {
    this.#sql.savepoint.run();
    const entered: Entered[] = [];
    let others = 0;
    for (const job of jobs) {
      const one = this.#insert(job, now, others);
      if (one instanceof Error) {
        this.#sql.rollback.run();
        this.#sql.releaseSavepoint.run();
        return one;
      }
      entered.push(one);
      others += one.duplicate ? 0 : 1;
    }
    this.#sql.releaseSavepoint.run();
    this.#entered(jobs, entered);
    return entered.map(({ id, duplicate }) => ({ id, duplicate }));
  }

  /** For the claims of one transaction, after all of its other changes. */
  readyRows(): ReadyRows {
    return new ReadyRows(this.#sql.next);
  }

  take(claim: Claim, { rows, wanted, now }: { readonly rows: ReadyRows; readonly wanted: number; readonly now: number }): ClaimedJob[] {
    const lanes = this.tally.ready.matching(claim.has);
    const taken = rows.take(lanes, claim.max, wanted);
    const jobs: ClaimedJob[] = [];
    for (let bytes = 0; jobs.length < taken.length && bytes < CLAIM_BYTES_MAX;) {
      const job = this.#take(taken[jobs.length] as ReadyRow, claim, now);
      bytes += isReference(job.payload) ? 0 : job.payload.length;
      jobs.push(job);
    }
    if (jobs.length < taken.length) rows.giveBack(taken.slice(jobs.length));
    if (jobs.length > 0) this.#effects.push(() => this.#options.events.claimed(claim, jobs, now));
    return jobs;
  }

  /** Undefined when it was kept. */
  complete(lease: Lease, { body, headers }: CheckedResult, now: number): RunnerError | undefined {
    const held = this.held(lease, now);
    if (held instanceof Error) {
      const row = this.outcome(lease.jobId);
      const isRepeat = row?.['state'] === STATE.completed && row['token'] === lease.token && sameContent(resultOf(row), body);
      return isRepeat ? undefined : held;
    }
    const [reference, bytes] = contentColumns(body);
    this.#sql.complete.run(now, headersColumn(headers), reference, bytes, held.seq);
    this.leases.remove(held);
    this.tally.move(subjectOf(held), STATE.completed);
    this.#effects.push(() => {
      this.#options.events.completed(held, now);
      this.#options.events.ended(held.jobId);
    });
    return undefined;
  }

  fail(lease: Lease, failure: CheckedFailure, now: number): 'queued' | 'failed' | 'dead' | RunnerError {
    const held = this.held(lease, now);
    if (held instanceof Error) return held;
    this.leases.remove(held);
    this.#effects.push(() => this.#options.events.failed(held, now));
    if (!failure.retryable) {
      this.#end(subjectOf(held), STATE.failed, { cause: failure, now });
      return 'failed';
    }
    return this.#again(held, { cause: failure, delayMs: failure.delayMs ?? retryDelayMs(held.attempt), now });
  }

  release(lease: Lease, delayMs: number, now: number): RunnerError | undefined {
    const held = this.held(lease, now);
    if (held instanceof Error) return held;
    this.leases.remove(held);
    this.#queue(subjectOf(held), { attempts: held.attempt - 1, delayMs, now });
    return undefined;
  }

  /** Durable only as far as it has to be: a queue that is opened gives every lease its whole time again. */
  lengthen(held: HeldLease, leaseMs: number): void {
    held.leaseMs = leaseMs;
    this.#sql.lengthen.run(leaseMs, held.seq);
  }

  held(lease: Lease, now: number): HeldLease | RunnerError {
    const held = this.leases.get(lease.token);
    if (held?.jobId === lease.jobId && now < held.until) return held;
    if (held?.jobId === lease.jobId) return leaseLost(lease, 'it ran out');
    const state = numberOf(this.row(lease.jobId)?.['state']);
    if (state === undefined) return leaseLost(lease, 'the queue has no record of the job');
    if (state === STATE.claimed) return leaseLost(lease, 'another claim holds it');
    return leaseLost(lease, state <= STATE.delayed ? 'it ran out or was given back' : `the job is ${shownState(state)}`);
  }

  cancel(id: string, now: number): boolean {
    const row = this.row(id);
    if (!row || Number(row['state']) > STATE.claimed) return false;
    const held = this.leases.get(String(row['token']));
    if (held) this.leases.remove(held);
    this.#end(subjectOfRow(row), STATE.cancelled, { now });
    return true;
  }

  requeue(id: string): boolean {
    const row = this.row(id);
    if (row?.['state'] !== STATE.dead) return false;
    this.#sql.renew.run(Number(row['seq']));
    this.tally.move(subjectOfRow(row), STATE.ready);
    return true;
  }

  discard(id: string): Purged | undefined {
    const row = this.row(id);
    return row?.['state'] === STATE.dead ? this.#remove([row]) : undefined; // without a result
  }

  /** Of the rows from `first` to `last`, those that ended at `before` or earlier. */
  purge(first: number, last: number, before: number): Purged {
    return this.#remove(this.#sql.ended.all(first, last, before));
  }

  /** Leases that ran out, delays that ended, deadlines that passed. */
  sweep(now: number): void {
    for (let count = 0; count < SWEEP_MAX; count += 1) {
      const lease = this.leases.first;
      if (!lease || lease.until > now) break;
      this.#lose(lease, now);
    }
    if (this.dueAt > now) return;
    for (const row of this.#sql.due.all(now, SWEEP_MAX)) {
      const subject = subjectOfRow(row);
      if (subject.deadline !== undefined && subject.deadline <= now) this.#end(subject, STATE.expired, { now });
      else this.#queue(subject, { attempts: Number(row['attempts']), delayMs: 0, now });
    }
    this.dueAt = numberOf(this.#sql.firstDue.get()?.['due_at']) ?? Number.POSITIVE_INFINITY;
  }

  row(id: string): Row | undefined {
    return this.#sql.get.get(id);
  }

  /** With the result. */
  outcome(id: string): Row | undefined {
    return this.#sql.result.get(id);
  }

  status(row: Row): QueueJobStatus {
    return statusOf(row, row['state'] === STATE.claimed ? this.leases.get(String(row['token']))?.until : undefined);
  }

  dead(after: Row | undefined, limit: number): Row[] {
    return this.#sql.dead.all(numberOf(after?.['ended_at']) ?? -1, numberOf(after?.['seq']) ?? -1, limit);
  }

  span(): readonly [first: number, last: number] {
    const row = this.#sql.span.get();
    return [numberOf(row?.['first']) ?? 0, numberOf(row?.['last']) ?? -1];
  }

  oldestMs(now: number): number {
    let oldest = now;
    for (const requires of this.tally.ready.names())
      for (let priority = 0; priority <= 9; priority += 1)
        oldest = Math.min(oldest, numberOf(this.#sql.oldest.get(requires, priority)?.['published_at']) ?? now);
    return now - oldest;
  }

  /** With `others` that are not counted yet. */
  #insert(job: CheckedJob, now: number, others = 0): Entered | RunnerError {
    const { payload, deadline = null } = job;
    const id = job.id ?? this.#options.makeId();
    if (this.tally.waiting + others >= this.#options.jobsMax) return this.#known(id, job) ?? queueFull(this.#options.jobsMax);
    const state = job.delayMs > 0 ? STATE.delayed : STATE.ready;
    const availableAt = job.delayMs > 0 ? now + job.delayMs : null;
    const dueAt = availableAt === null ? deadline : Math.min(availableAt, deadline ?? availableAt);
    const isLarge = payload instanceof Uint8Array && payload.length > ROW_PAYLOAD_BYTES_MAX;
    const [reference, bytes] = contentColumns(payload);
    const flags = [job.attemptsMax, job.deadLetter ? 1 : 0, now, deadline, availableAt, dueAt];
    const content = [headersColumn(job.headers), reference, isLarge ? null : bytes];
    const requires = job.requires.join(' ');
    const { changes, lastInsertRowid } = this.#sql.insert.run(id, job.type, state, job.priority, requires, ...flags, ...content);
    if (changes === 0) return this.#known(id, job) ?? new RunnerError('INTERNAL', `the queue neither took nor has the job ${id}`);
    if (isLarge) this.#sql.insertBody.run(lastInsertRowid, bytes);
    return { id, duplicate: false, state, dueAt };
  }

  #known(id: string, job: CheckedJob): Published | RunnerError | undefined {
    const row = this.#sql.payload.get(id);
    if (!row) return undefined;
    if (row['type'] === job.type && sameContent(this.#payloadOf(row), job.payload)) return { id, duplicate: true };
    return new RunnerError('REQUEST_CONFLICT', `the queue has a job ${id} of another type or payload`, { details: { jobId: id } });
  }

  #entered(jobs: readonly CheckedJob[], entered: readonly Entered[]): void {
    let count = 0;
    for (const [index, { state, dueAt }] of entered.entries()) {
      if (state === undefined) continue;
      count += 1;
      this.tally.add(state, kindOf(jobs[index] as CheckedJob));
      if (dueAt !== null && dueAt !== undefined && dueAt < this.dueAt) this.dueAt = dueAt;
    }
    if (count > 0) this.#effects.push(() => this.#options.events.published(count));
  }

  #take(row: ReadyRow, { workerId, leaseMs, claimId }: Claim, now: number): ClaimedJob {
    const { seq, id, type, requires, attemptsMax, deadLetter, deadline } = row;
    const token = tokenOf(claimId, this.#options.makeId());
    const attempt = row.attempts + 1;
    const until = leaseEnd(now + leaseMs, deadline);
    this.#sql.claim.run(attempt, token, workerId, leaseMs, now, seq);
    this.leases.add({
      seq,
      jobId: id,
      token,
      workerId,
      type,
      requires,
      leaseMs,
      claimedAt: now,
      deadline,
      attempt,
      attemptsMax,
      deadLetter,
      until,
      place: 0,
      next: undefined,
    });
    this.tally.move({ from: STATE.ready, type, requires }, STATE.claimed);
    return claimedOf(row, { payload: row.payload ?? this.#body(seq), attempt, lease: { jobId: id, token, until } });
  }

  #lose(lease: HeldLease, now: number): void {
    this.leases.remove(lease);
    this.#effects.push(() => this.#options.events.lost(lease));
    const cause = { code: 'WORKER_LOST', message: `worker ${lease.workerId} let the lease of attempt ${lease.attempt} run out` };
    if (lease.deadline !== undefined && lease.deadline <= now) this.#end(subjectOf(lease), STATE.expired, { cause, now });
    else this.#again(lease, { cause, delayMs: 0, now });
  }

  /** Another attempt if one is left. */
  #again(lease: HeldLease, how: { readonly cause: Cause; readonly delayMs: number; readonly now: number }): 'queued' | 'failed' | 'dead' {
    const { attempt, attemptsMax, deadLetter, jobId } = lease;
    if (attempt < attemptsMax) {
      this.#queue(subjectOf(lease), { ...how, attempts: attempt });
      return 'queued';
    }
    this.#end(subjectOf(lease), deadLetter ? STATE.dead : STATE.failed, how);
    if (deadLetter) this.#effects.push(() => this.#options.events.dead(jobId, attempt));
    return deadLetter ? 'dead' : 'failed';
  }

  #queue(
    subject: Subject,
    how: { readonly attempts: number; readonly delayMs: number; readonly now: number; readonly cause?: Cause },
  ): void {
    const { deadline = null, seq } = subject;
    const { attempts, delayMs, now, cause } = how;
    const to = delayMs > 0 ? STATE.delayed : STATE.ready;
    const availableAt = delayMs > 0 ? now + delayMs : null;
    const dueAt = availableAt === null ? deadline : Math.min(availableAt, deadline ?? availableAt);
    this.#sql.queue.run(to, attempts, availableAt, dueAt, cause?.code ?? null, cause?.message ?? null, seq);
    this.tally.move(subject, to);
    if (dueAt !== null && dueAt < this.dueAt) this.dueAt = dueAt;
  }

  #end(subject: Subject, to: number, { cause, now }: { readonly cause?: Cause; readonly now: number }): void {
    this.#sql.end.run(to, now, cause?.code ?? null, cause?.message ?? null, subject.seq);
    this.tally.move(subject, to);
    this.#effects.push(() => this.#options.events.ended(subject.jobId));
  }

  #remove(rows: readonly Row[]): Purged {
    const objects: ObjectReference[] = [];
    for (const row of rows) {
      const seq = Number(row['seq']);
      for (const column of ['payload_reference', 'result_reference']) {
        const reference = referenceOf(row[column]);
        if (reference) objects.push(reference);
      }
      this.#sql.remove.run(seq);
      this.#sql.removeBody.run(seq);
      this.tally.remove(Number(row['state']), { type: '', requires: '' });
    }
    return { jobs: rows.length, objects };
  }

  #payloadOf(row: Row): Content {
    return bytesOf(row['payload']) ?? referenceOf(row['payload_reference']) ?? this.#body(Number(row['seq']));
  }

  #body(seq: number): Uint8Array {
    return bytesOf(this.#sql.body.get(seq)?.['payload']) ?? new Uint8Array();
  }
}
