/**
 * From the ledger to the executors and back: waiting calls run in the order of their arrival, so many at a time, and what became of them
 * is journaled. In memory are the calls that run and, for each job that cannot run now, where to go on with it.
 */

import type { CancelTimer, Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { Executed, ExecutorRegistry } from '../executor/registry.ts';
import type { JobCall, JobResult } from '../job/call.ts';
import type { CallRecord, Ledger } from '../ledger/ledger.ts';
import type { CallTraces } from './call-traces.ts';
import type { RunnerEmitter } from './events.ts';
import type { RunnerMetrics } from './metrics.ts';
import { backoffMs } from './supervisor.ts';
import type { Suspects } from './suspects.ts';

type DispatchLedger = Pick<
  Ledger,
  'waiting' | 'recordAttempt' | 'recordAttemptFailed' | 'recordExecuted' | 'recordFailed' | 'recordIgnored'
>;

export interface DispatchOptions {
  readonly ledger: DispatchLedger;
  readonly executors: Pick<ExecutorRegistry, 'execute' | 'room'>;
  /** Before a call is executed; a failure is one of the call. */
  readonly prepare: (call: JobCall) => Promise<void> | undefined;
  /** Gives results to the consumers; never fails. */
  readonly deliver: (results: readonly JobResult[], call: JobCall) => Promise<void> | undefined;
  /** A result waits for settlement. */
  readonly onResult: () => void;
  readonly onFailed: (error: RunnerError, call: JobCall) => void;
  /** What the runner survives. */
  readonly onError: (error: RunnerError, source: string) => void;
  /** The ledger is broken: nothing can go on. */
  readonly onFatal: (error: RunnerError) => void;
  /** Calls that run at the same time. */
  readonly concurrency: number;
  readonly suspects: Suspects;
  readonly clock: Clock;
  readonly events: RunnerEmitter;
  readonly metrics: RunnerMetrics;
  readonly traces?: CallTraces | undefined;
}

/** A job that cannot run now. */
interface Hold {
  failures: number;
  /** The first of its calls that was passed over. */
  firstSeq: number;
  /** Undefined: its calls are tried. */
  cancel: CancelTimer | undefined;
}

/** Rows that one turn of the event loop looks at. */
const SCAN_MAX = 1_024;
const SCAN_STEP_MAX = 256;
const DISK_FULL_RETRY_MS = 1_000;
const DISK_FULL_QUIET_MS = 60_000;
const ABANDON_MS = 1_000;
const PROBE_MS = 250;

export class Dispatch {
  readonly #options: DispatchOptions;
  readonly #running = new Map<number, AbortController>();
  readonly #holds = new Map<bigint, Hold>();
  /** Jobs that have no room for a call: the last row of theirs that was taken. What comes after it waits in the ledger. */
  readonly #full = new Map<bigint, number>();
  /** Calls that were taken and have no place at their executor yet. */
  #preparing = 0;
  readonly #abandoned = new AbortController();
  /** Rows up to here were taken or passed over. */
  #afterSeq = 0;
  #frontier = 0;
  readonly #queue: (() => void)[] = [];
  #pumpDue = false;
  #stopped = false;
  #stoppedByLedger = false;
  #diskFullSaidMs = Number.NEGATIVE_INFINITY;
  #idle: (() => void) | undefined;

  constructor(options: DispatchOptions) {
    this.#options = options;
  }

  get running(): number {
    return this.#running.size;
  }

  /** For producers: a promise while all places are taken. */
  whenFree(): Promise<void> | undefined {
    if (this.#running.size < this.#options.concurrency || this.#stopped) return undefined;
    return new Promise((resolve) => this.#queue.push(resolve));
  }

  /** Takes as many waiting calls as may run. */
  pump(): void {
    try {
      this.#pump();
    } catch (thrown) {
      const error = toRunnerError(thrown);
      if (error.code !== 'LEDGER_FULL') return this.#broken(error);
      this.#sayDiskFull(error);
      if (this.#pumpDue) return;
      this.#pumpDue = true;
      this.#options.clock.after(DISK_FULL_RETRY_MS, () => this.#duePump());
    }
  }

  /** After a reorg: calls that were passed may wait again. What these rows run is cancelled. */
  orphaned(seqs: readonly number[]): void {
    this.#afterSeq = 0;
    this.#full.clear();
    for (const seq of seqs) this.#running.get(seq)?.abort();
  }

  /** Earlier rows may wait again. */
  rescan(): void {
    this.#afterSeq = 0;
    this.#full.clear();
    this.pump();
  }

  /** Writes to the ledger; waits while its disk is full. Ends with the runner when the ledger is broken. Rejects with `PAYLOAD_TOO_LARGE`. */
  async write<T>(change: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await change();
      } catch (thrown) {
        const error = toRunnerError(thrown);
        if (this.#abandoned.signal.aborted || error.code === 'PAYLOAD_TOO_LARGE') throw error;
        if (error.code !== 'LEDGER_FULL') {
          this.#broken(error);
          throw error;
        }
        this.#sayDiskFull(error);
        await this.#options.clock.sleep(DISK_FULL_RETRY_MS, this.#abandoned.signal);
      }
    }
  }

  /** Takes no more calls, waits for those that run and cancels what is left at `deadline` (milliseconds since the epoch). False: some were. */
  async drain(deadline: number): Promise<boolean> {
    const { clock } = this.#options;
    this.#stopped = true;
    for (const hold of this.#holds.values()) hold.cancel?.();
    const isDone = await this.#untilIdle(deadline - clock.now());
    this.#abandoned.abort();
    if (isDone) return true;
    const reason = new RunnerError('EXECUTOR_CLOSED', 'the runner stops');
    for (const controller of this.#running.values()) controller.abort(reason);
    await this.#untilIdle(ABANDON_MS);
    return false;
  }

  /** Small changes may fit between large ones that do not: it is said once for all of them. */
  #sayDiskFull(error: RunnerError): void {
    const nowMs = this.#options.clock.monotonic();
    if (nowMs < this.#diskFullSaidMs + DISK_FULL_QUIET_MS) return;
    this.#diskFullSaidMs = nowMs;
    this.#options.onError(error, 'ledger');
  }

  #untilIdle(waitMs: number): Promise<boolean> {
    if (this.#running.size === 0) return Promise.resolve(true);
    return new Promise((resolve) => {
      const cancel = this.#options.clock.after(Math.max(0, waitMs), () => resolve(false));
      this.#idle = () => {
        cancel();
        resolve(true);
      };
    });
  }

  #pump(): void {
    const { ledger, concurrency } = this.#options;
    for (const [jobId, afterSeq] of this.#full) this.#pumpJob(jobId, afterSeq);
    for (let scanned = 0; !this.#stopped && this.#running.size < concurrency;) {
      if (scanned >= SCAN_MAX) return this.#pumpSoon();
      // Behind the frontier most rows run already.
      const passing = this.#afterSeq < this.#frontier ? this.#running.size : 0;
      const limit = Math.min(concurrency - this.#running.size + passing, SCAN_STEP_MAX);
      const records = ledger.waiting(this.#afterSeq, limit);
      for (const record of records) if (this.#running.size < concurrency) this.#take(record);
      if (records.length < limit) return;
      scanned += records.length;
    }
  }

  /** Takes calls of a job that had no room, as far as it has some now. */
  #pumpJob(jobId: bigint, afterSeq: number): void {
    if (this.#stopped || this.#holds.get(jobId)?.cancel) return;
    const places = Math.min(this.#options.concurrency - this.#running.size, this.#room(jobId));
    if (places <= 0) return;
    // Those that were tried and wait again are among those that run.
    const limit = Math.min(places + this.#running.size, SCAN_STEP_MAX);
    const records = this.#options.ledger.waiting(afterSeq, limit, jobId);
    for (const record of records) {
      if (this.#running.size >= this.#options.concurrency || this.#room(jobId) <= 0) return;
      this.#full.set(jobId, record.seq);
      if (!this.#running.has(record.seq)) this.#start(record);
    }
    if (records.length < limit) this.#full.delete(jobId);
  }

  #room(jobId: bigint): number {
    return this.#options.executors.room(jobId) - this.#preparing;
  }

  #take(record: CallRecord): void {
    const { seq, call } = record;
    this.#afterSeq = seq;
    this.#frontier = Math.max(this.#frontier, seq);
    if (this.#running.has(seq)) return;
    const hold = this.#holds.get(call.jobId);
    if (hold?.cancel) {
      hold.firstSeq = Math.min(hold.firstSeq, seq);
      return;
    }
    if (this.#full.has(call.jobId)) return;
    if (this.#room(call.jobId) > 0) this.#start(record);
    else this.#full.set(call.jobId, seq - 1);
  }

  #start(record: CallRecord): void {
    const { seq } = record;
    if (!this.#options.suspects.enter(record)) return;
    const controller = new AbortController();
    this.#running.set(seq, controller);
    this.#options.metrics.inFlight.add(1);
    void this.#run(record, controller.signal);
  }

  /** Many calls end in the same turn: one look at the ledger serves them all. */
  #pumpSoon(): void {
    if (this.#pumpDue || this.#stopped) return;
    this.#pumpDue = true;
    setImmediate(() => this.#duePump());
  }

  #duePump(): void {
    this.#pumpDue = false;
    this.pump();
  }

  /** Never rejects. */
  async #run(record: CallRecord, signal: AbortSignal): Promise<void> {
    const { seq } = record;
    let isDone = false;
    try {
      isDone = await this.#execute(record, signal);
    } catch (thrown) {
      // A broken ledger ends the runner, an abandoned call stays as it is; anything else is a fault of ours.
      if (!this.#stopped) this.#broken(thrown);
    }
    this.#running.delete(seq);
    this.#options.metrics.inFlight.add(-1);
    if (!isDone) this.#waitsAgain(record);
    for (const suspect of this.#options.suspects.left(seq)) this.#waitsAgain(suspect);
    this.#queue.shift()?.();
    if (this.#running.size === 0) this.#idle?.();
    this.#pumpSoon();
  }

  #waitsAgain({ seq, call: { jobId } }: CallRecord): void {
    this.#afterSeq = Math.min(this.#afterSeq, seq - 1);
    const fullSince = this.#full.get(jobId);
    if (fullSince !== undefined) this.#full.set(jobId, Math.min(fullSince, seq - 1));
  }

  /** False: the call may wait again. */
  async #execute(record: CallRecord, signal: AbortSignal): Promise<boolean> {
    const { clock, executors, prepare } = this.#options;
    const { seq, call, attempts } = record;
    const startedAt = clock.monotonic();
    let executed: Executed;
    try {
      const prepared = prepare(call);
      if (prepared) await this.#prepared(prepared);
      executed = await executors.execute(call, {
        signal,
        attemptsBefore: attempts,
        parent: this.#options.traces?.of(call),
        onAttempt: (number, executor, reason) => this.#attempted(record, { number, executor, reason }),
        onAttemptFailed: (number, { code, message }, nextAt) => {
          // Its place is free until the next attempt.
          if (nextAt !== undefined) this.#pumpSoon();
          return this.write(() =>
            this.#options.ledger.recordAttemptFailed(seq, { number, code, message, ...(nextAt !== undefined && { nextAt }) }),
          );
        },
      });
    } catch (thrown) {
      if (signal.aborted || this.#stoppedByLedger) return false;
      return this.#failed(record, toRunnerError(thrown, 'JOB_FAILED'));
    }
    const durationMs = clock.monotonic() - startedAt;
    return this.#succeeded(record, executed, durationMs).catch((thrown: unknown) => {
      const error = toRunnerError(thrown);
      if (error.code !== 'PAYLOAD_TOO_LARGE') throw error;
      return this.#failed(record, error);
    });
  }

  async #prepared(prepared: Promise<void>): Promise<void> {
    this.#preparing += 1;
    try {
      await prepared;
    } finally {
      this.#preparing -= 1;
      this.#pumpSoon();
    }
  }

  async #attempted(
    record: CallRecord,
    attempt: { readonly number: number; readonly executor: string; readonly reason: string },
  ): Promise<void> {
    const { ledger, events, suspects } = this.#options;
    const { seq, call } = record;
    const { number, executor, reason } = attempt;
    suspects.check(record, executor);
    await this.write(() => ledger.recordAttempt(seq, attempt));
    if (events.hears('attempt')) events.emit('attempt', { seq, call, attempt: number, executor, reason });
  }

  async #succeeded({ seq, call }: CallRecord, executed: Executed, durationMs: number): Promise<boolean> {
    const { ledger, events, metrics, onResult, deliver } = this.#options;
    const { results, executor, attempt } = executed;
    const isKept = await this.write(() => ledger.recordExecuted(seq, results[0], { executor, durationMs }));
    if (!isKept) return false;
    metrics.executed.add();
    if (results.length > 0) onResult();
    this.#free(call.jobId);
    if (events.hears('executed')) events.emit('executed', { seq, call, results, executor, attempt, durationMs });
    const delivered = deliver(results, call);
    if (delivered) await delivered;
    return true;
  }

  async #failed({ seq, call }: CallRecord, error: RunnerError): Promise<boolean> {
    const { ledger, onFailed, events, metrics } = this.#options;
    const { code, message } = error;
    if (error.retry === 'safe') {
      this.#hold(call.jobId, seq, error);
      return false;
    }
    this.#free(call.jobId);
    const reason = { code, message };
    await this.write(() => (code === 'JOB_UNKNOWN' ? ledger.recordIgnored(seq, reason) : ledger.recordFailed(seq, reason)));
    metrics.failed.add();
    if (events.hears('failed')) events.emit('failed', { seq, call, error });
    onFailed(error, call);
    return true;
  }

  /** The job did not run, and would not now: its calls wait. */
  #hold(jobId: bigint, seq: number, error: RunnerError): void {
    let hold = this.#holds.get(jobId);
    if (!hold) this.#holds.set(jobId, (hold = { failures: 0, firstSeq: seq, cancel: undefined }));
    hold.firstSeq = Math.min(hold.firstSeq, seq);
    if (hold.cancel || this.#stopped) return;
    hold.failures += 1;
    if (hold.failures === 1) this.#options.onError(error, `job ${jobId}`);
    const { clock } = this.#options;
    hold.cancel = clock.after(probeMs(error, clock) ?? backoffMs(hold.failures), () => this.#release(hold));
  }

  #release(hold: Hold): void {
    hold.cancel?.();
    hold.cancel = undefined;
    this.#afterSeq = Math.min(this.#afterSeq, hold.firstSeq - 1);
    hold.firstSeq = Number.POSITIVE_INFINITY;
    this.#pumpSoon();
  }

  /** The job ran: nothing holds it any more. */
  #free(jobId: bigint): void {
    const hold = this.#holds.get(jobId);
    if (!hold) return;
    this.#holds.delete(jobId);
    this.#release(hold);
  }

  #broken(thrown: unknown): void {
    if (this.#stoppedByLedger) return;
    this.#stoppedByLedger = true;
    this.#stopped = true;
    this.#options.onFatal(toRunnerError(thrown));
  }
}

/** Until the circuit that refused a call lets another one through; while one is under way, a moment. */
function probeMs({ code, details }: RunnerError, clock: Clock): number | undefined {
  const { probeAt } = details;
  if (code !== 'EXECUTOR_CIRCUIT_OPEN' || typeof probeAt !== 'number') return undefined;
  return Math.max(PROBE_MS, probeAt - clock.now());
}
