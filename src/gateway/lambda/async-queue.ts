/**
 * Calls that nobody waits for: on disk before they are acknowledged, then tried until they succeed, are out of attempts, or too old; what they
 * came to is told to where the function says (https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html).
 *
 * At least once: a call that ran when the process was killed runs again, and counts as an attempt; also after its last one, but only once.
 */

import type { SQLOutputValue } from 'node:sqlite';
import type { CancelTimer } from '../../clock.ts';
import { RunnerError, toRunnerError } from '../../errors.ts';
import { StoreDatabase } from '../../runtime/store-database.ts';
import type { StoreDatabaseOptions } from '../../runtime/store-database.ts';
import type { Counter } from '../../telemetry/telemetry.ts';
import type { QueuedCallEvent } from '../events.ts';
import type { Destinations } from './destinations.ts';
import type { LambdaParts } from './operation.ts';
import { runQueued } from './queued-call.ts';
import type { Ending, QueuedCall, Task } from './queued-call.ts';

export interface AsyncQueueOptions extends LambdaParts {
  /** A file, or `:memory:`. */
  readonly path: string;
  readonly destinations: Destinations;
  /** Calls that run at the same time. Default 64; one function may have half of them. */
  readonly runningMax?: number;
  /** Calls that wait. Default 100,000. */
  readonly queuedMax?: number;
  /** Where the disk is waited for: beside the event loop, or by each commit. Default `background`. */
  readonly sync?: StoreDatabaseOptions['sync'];
  /** Must not throw. */
  readonly onEvent?: (kind: QueuedCallEvent['kind'], make: () => QueuedCallEvent) => void;
}

const MINUTE_MS = 60_000;
/** Functions that tell functions that tell functions: here it ends. */
const DEPTH_MAX = 3;
const CLOSE_MS = 10_000;
/** After the disk failed, or the runtime closed. */
const REST_MS = 1_000;
const THROTTLE_MS = { first: 1_000, most: 5 * MINUTE_MS } as const;

const SCHEMA = `
CREATE TABLE IF NOT EXISTS tasks (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL, name TEXT NOT NULL, qualifier TEXT, target TEXT, body BLOB NOT NULL,
  client_context TEXT, trace_id TEXT, depth INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, delays INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL, due_at INTEGER NOT NULL, running INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS tasks_due ON tasks (due_at, seq) WHERE running = 0;
`;

const INSERT = `INSERT INTO tasks (id, name, qualifier, target, body, client_context, trace_id, depth, created_at, due_at)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`;

const DUE = `SELECT * FROM tasks WHERE running = 0 AND due_at <= ? AND name NOT IN (SELECT value FROM json_each(?))
  ORDER BY due_at, seq LIMIT ?`;

export class AsyncQueue {
  readonly #options: AsyncQueueOptions;
  readonly #database: StoreDatabase;
  readonly #runningMax: number;
  readonly #queuedMax: number;
  /** By function or address. */
  readonly #runningOf = new Map<string, number>();
  readonly #running = new Set<Promise<void>>();
  readonly #counters: (outcome: string) => Counter;
  #queued: number;
  #cancelTimer: CancelTimer | undefined;
  #isStarted = false;
  #isWoken = false;
  #closing: Promise<void> | undefined;

  /** Throws `STORE_FAILED`. */
  constructor(options: AsyncQueueOptions) {
    this.#options = options;
    this.#runningMax = options.runningMax ?? 64;
    this.#queuedMax = options.queuedMax ?? 100_000;
    this.#database = new StoreDatabase({
      path: options.path,
      mark: 'BPRQ',
      version: 1,
      schema: SCHEMA,
      sync: options.sync ?? 'background',
    });
    // What ran when the process ended is due again.
    this.#database.transact(() => this.#database.prepare('UPDATE tasks SET running = 0 WHERE running = 1').run());
    this.#queued = Number(this.#database.prepare('SELECT count(*) AS value FROM tasks').get()?.['value']);
    const { metrics } = options.telemetry;
    this.#counters = (outcome) =>
      metrics.counter({ name: 'gateway_async_calls_total', help: 'Queued calls by what became of them.', labels: { outcome } });
  }

  /** Resolves when it is on disk. Throws `QUEUE_FULL`, `EXECUTOR_CLOSED`. */
  async add(call: QueuedCall): Promise<void> {
    if (this.#closing) throw new RunnerError('EXECUTOR_CLOSED', 'the queue of calls is closed');
    if (this.#queued >= this.#queuedMax) {
      throw new RunnerError('QUEUE_FULL', `${this.#queued} calls wait already`, { details: { queuedMax: this.#queuedMax } });
    }
    this.#queued += 1;
    try {
      await this.#database.write(() => this.#insert(call));
    } catch (thrown) {
      this.#queued -= 1;
      throw thrown;
    }
    this.#counters('queued').add();
    this.#tell(call, 'accepted');
    this.#work();
  }

  /** Waiting and running. */
  get size(): number {
    return this.#queued;
  }

  start(): void {
    this.#isStarted = true;
    this.#work();
  }

  /**
   * Starts nothing more; resolves when what runs has ended, or after the deadline: then it runs again after the next start, as does what is
   * left. Idempotent.
   */
  close(deadlineMs = CLOSE_MS): Promise<void> {
    return (this.#closing ??= this.#close(deadlineMs));
  }

  async #close(deadlineMs: number): Promise<void> {
    this.#cancelTimer?.();
    const over = Promise.withResolvers<void>();
    const stop = this.#options.clock.after(deadlineMs, over.resolve);
    await Promise.race([Promise.all(this.#running), over.promise]);
    stop();
    this.#database.close();
  }

  #insert({ id, name, qualifier, target, event, clientContext, traceId, depth }: QueuedCall): void {
    const now = this.#options.clock.now();
    this.#database
      .prepare(INSERT)
      .run(id, name, qualifier ?? null, target ?? null, event, clientContext ?? null, traceId ?? null, depth, now, now);
  }

  /** Once for all that happens in a turn of the event loop. */
  #work(): void {
    if (!this.#isStarted || this.#closing || this.#isWoken) return;
    this.#isWoken = true;
    setImmediate(() => {
      this.#isWoken = false;
      if (this.#closing) return;
      this.#cancelTimer?.();
      try {
        this.#startDue();
      } catch (thrown) {
        this.#options.telemetry.log.error('queued calls could not be started', { error: toRunnerError(thrown) });
        this.#cancelTimer = this.#options.clock.after(REST_MS, () => this.#work());
      }
    });
  }

  /** Starts what is due, and sees to it that what is due later is started then. */
  #startDue(): void {
    const { clock } = this.#options;
    this.#hasten(clock.now());
    const share = Math.ceil(this.#runningMax / 2);
    const running = new Map(this.#runningOf);
    for (let free = this.#runningMax - this.#running.size; free > 0; free = this.#runningMax - this.#running.size) {
      const full = [...running].flatMap(([name, count]) => (count >= share ? [name] : []));
      const due = this.#database.prepare(DUE).all(clock.now(), JSON.stringify(full), free).map(toTask); // prettier-ignore
      const mine = due.filter(({ name }) => {
        const count = running.get(name) ?? 0;
        if (count < share) running.set(name, count + 1);
        return count < share;
      });
      if (mine.length === 0) break;
      this.#begin(mine);
    }
    const next = this.#database.prepare('SELECT min(due_at) AS value FROM tasks WHERE running = 0 AND due_at > ?').get(clock.now())?.[
      'value'
    ];
    if (typeof next === 'number') this.#cancelTimer = clock.after(Math.max(1, next - clock.now()), () => this.#work());
  }

  /** Nothing is put off for longer than this: what is due later than that was put off before the clock was set back. */
  #hasten(now: number): void {
    const latest = this.#database.prepare('SELECT max(due_at) AS value FROM tasks WHERE running = 0').get()?.['value'];
    const most = now + THROTTLE_MS.most;
    if (typeof latest !== 'number' || latest <= most) return;
    this.#database.transact(() => this.#database.prepare('UPDATE tasks SET due_at = ? WHERE running = 0 AND due_at > ?').run(now, most));
  }

  #begin(tasks: readonly Task[]): void {
    this.#database.transact(() => {
      for (const { seq } of tasks) this.#database.prepare('UPDATE tasks SET running = 1, attempts = attempts + 1 WHERE seq = ?').run(seq);
    });
    const noted = this.#database.synced();
    for (const task of tasks) {
      this.#runningOf.set(task.name, (this.#runningOf.get(task.name) ?? 0) + 1);
      const run = this.#run({ ...task, attempts: task.attempts + 1 }, noted).finally(() => {
        this.#running.delete(run);
        const left = (this.#runningOf.get(task.name) ?? 1) - 1;
        if (left > 0) this.#runningOf.set(task.name, left);
        else this.#runningOf.delete(task.name);
        this.#work();
      });
      this.#running.add(run);
    }
  }

  /** Begins when the attempt is on disk. Never rejects. */
  async #run(task: Task, noted: Promise<void>): Promise<void> {
    const { telemetry } = this.#options;
    try {
      await noted;
      const ending = await (task.target === undefined ? runQueued(task, this.#options) : this.#deliver(task));
      while (await this.#isRefused(task, this.#end(task, ending))) await this.#rest();
    } catch (thrown) {
      // The disk failed, or the deadline of the end was over: the call stays marked as running, and runs again after the next start.
      telemetry.log.error('a queued call could not be settled', { requestId: task.id, function: task.name, error: toRunnerError(thrown) });
    }
  }

  /** Nothing of the change was written, as when the disk is full, and there is time to try again: to run the call again would be worse. */
  async #isRefused(task: Task, ended: Promise<void>): Promise<boolean> {
    try {
      await ended;
      return false;
    } catch (thrown) {
      const error = toRunnerError(thrown);
      if (this.#closing || error.details['sqliteCode'] === undefined) throw error;
      this.#options.telemetry.log.error('a queued call cannot be settled yet', { requestId: task.id, function: task.name, error });
      return true;
    }
  }

  #rest(): Promise<void> {
    return new Promise((resolve) => this.#options.clock.after(REST_MS, resolve));
  }

  async #deliver(task: Task): Promise<Ending> {
    const { destinations, telemetry } = this.#options;
    try {
      const target = destinations.check(task.target ?? '');
      if (target.kind !== 'function') await destinations.deliver(target, { id: task.id, body: task.event });
      return { kind: 'done', outcome: 'told', tell: [] };
    } catch (thrown) {
      telemetry.log.warn('the outcome of a queued call could not be told', {
        requestId: task.id,
        target: task.target,
        reason: toRunnerError(thrown).message,
      });
      return { kind: 'delayed', ageMaxMs: 6 * 60 * MINUTE_MS };
    }
  }

  async #end(task: Task, ending: Ending): Promise<void> {
    const { clock } = this.#options;
    switch (ending.kind) {
      case 'done':
        return this.#settle(task, ending.outcome, ending.tell);
      case 'again': {
        const dueAt = clock.now() + ending.afterMs;
        await this.#database.write(
          () => void this.#database.prepare('UPDATE tasks SET running = 0, due_at = ? WHERE seq = ?').run(dueAt, task.seq),
        );
        return this.#counters('retried').add();
      }
      case 'delayed': {
        const delayMs = Math.min(THROTTLE_MS.most, THROTTLE_MS.first * 2 ** task.delays);
        const dueAt = clock.now() + delayMs;
        if (dueAt - task.createdAt > ending.ageMaxMs) return this.#settle(task, 'expired', ending.expired?.() ?? []);
        const sql = 'UPDATE tasks SET running = 0, attempts = attempts - 1, delays = delays + 1, due_at = ? WHERE seq = ?';
        await this.#database.write(() => void this.#database.prepare(sql).run(dueAt, task.seq));
        return this.#counters('delayed').add();
      }
      case 'stopped':
        // It stays marked as running.
        return this.#closing ? undefined : this.#end(task, ending.otherwise);
      case 'kept': {
        const sql = 'UPDATE tasks SET running = 0, attempts = attempts - 1, due_at = ? WHERE seq = ?';
        return this.#database.write(() => void this.#database.prepare(sql).run(clock.now() + REST_MS, task.seq));
      }
    }
  }

  /** The call goes and those it tells come, at once. */
  async #settle(task: Task, outcome: string, tell: readonly QueuedCall[]): Promise<void> {
    const { telemetry } = this.#options;
    const allowed = tell.filter(({ depth, name }) => {
      if (depth <= DEPTH_MAX) return true;
      telemetry.log.warn('a chain of destinations ends here', { requestId: task.id, function: name, depth });
      return false;
    });
    await this.#database.write(() => {
      this.#database.prepare('DELETE FROM tasks WHERE seq = ?').run(task.seq);
      for (const call of allowed) this.#insert(call);
    });
    this.#queued += allowed.length - 1;
    this.#counters(outcome).add();
    this.#tell(task, 'settled', outcome);
    for (const call of allowed) this.#tell(call, 'accepted');
  }

  /** Records that are told are no calls. */
  #tell({ id, name, qualifier = '$LATEST', target }: QueuedCall, state: QueuedCallEvent['state'], outcome?: string): void {
    if (target !== undefined) return;
    this.#options.onEvent?.('invocation', () => ({
      kind: 'invocation',
      at: this.#options.clock.now(),
      requestId: id,
      name,
      version: qualifier,
      state,
      ...(outcome !== undefined && { outcome }),
    }));
  }
}

function toTask(row: Record<string, SQLOutputValue>): Task {
  const text = (name: string): string | undefined => (typeof row[name] === 'string' ? row[name] : undefined);
  const [qualifier, target, clientContext, traceId] = ['qualifier', 'target', 'client_context', 'trace_id'].map(text);
  return {
    seq: Number(row['seq']),
    id: String(row['id']),
    name: String(row['name']),
    ...(qualifier !== undefined && { qualifier }),
    ...(target !== undefined && { target }),
    event: row['body'] instanceof Uint8Array ? row['body'] : new Uint8Array(),
    ...(clientContext !== undefined && { clientContext }),
    ...(traceId !== undefined && { traceId }),
    depth: Number(row['depth']),
    attempts: Number(row['attempts']),
    delays: Number(row['delays']),
    createdAt: Number(row['created_at']),
  };
}
