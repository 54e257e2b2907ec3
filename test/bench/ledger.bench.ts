/**
 * What the durable ledger costs on top of SQLite, for the three durable steps of each call: taken, started, done.
 *
 * The peer is bare SQLite with group commit, twice: with the ledger's own schema and the same values in every row (the raw limit for what
 * is kept), and with a table of four columns and no index (the raw limit for keeping almost nothing). 1 / ratio is the share of the
 * peer's rate; goal for the ledger alone and for the whole runner: 0.6 of the same rows.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { StatementSync } from 'node:sqlite';
import { BlueprintRunner, JobRouter, Metadata, defineJob } from '../../src/index.ts';
import type { JobCall } from '../../src/index.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { compare } from './measure.ts';

const folder = mkdtempSync(join(tmpdir(), 'ledger-bench-'));
const body = Buffer.alloc(100, 7);
const output = Buffer.alloc(32, 9);
const metadata = new Metadata();
const EXECUTOR = 'in-process';
const GOAL = 1 / 0.6;

const callOf = (number: number): JobCall => ({ id: `call-${String(number).padStart(9, '0')}`, jobId: 0n, body, metadata });

interface Steps {
  readonly take: (number: number) => unknown;
  readonly start: (number: number) => unknown;
  readonly finish: (number: number) => unknown;
}

/** Changes of one turn of the event loop share a transaction. */
class Bare {
  readonly #database: DatabaseSync;
  readonly #steps: Steps;
  readonly #begin: StatementSync;
  readonly #commit: StatementSync;
  #group: (() => void)[] = [];
  #last = 0;

  constructor(path: string, steps: (database: DatabaseSync) => Steps) {
    this.#database = new DatabaseSync(path);
    this.#database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL');
    this.#steps = steps(this.#database);
    this.#begin = this.#database.prepare('BEGIN IMMEDIATE');
    this.#commit = this.#database.prepare('COMMIT');
  }

  async run(width: number): Promise<void> {
    const numbers = Array.from({ length: width }, () => (this.#last += 1));
    await Promise.all(numbers.map((number) => this.#call(number)));
  }

  async #call(number: number): Promise<void> {
    const { take, start, finish } = this.#steps;
    await this.#durable(() => take(number));
    await this.#durable(() => start(number));
    await this.#durable(() => finish(number));
  }

  #durable<T>(change: () => T): Promise<T> {
    return new Promise((resolve) => {
      if (this.#group.length === 0) setImmediate(() => this.#flush());
      this.#group.push(() => resolve(change()));
    });
  }

  #flush(): void {
    const changes = this.#group;
    this.#group = [];
    this.#begin.run();
    for (const change of changes) change();
    this.#commit.run();
  }
}

async function sameRows(): Promise<Bare> {
  const path = join(folder, 'same.db');
  await SqliteLedger.open({ path }).close();
  return new Bare(path, (database) => {
    const take = database.prepare(
      'INSERT INTO calls (id, job_id, body, metadata, state, seen_at, updated_at) VALUES (?, ?, ?, ?, 0, ?, ?) ON CONFLICT (id) DO NOTHING',
    );
    const start = database.prepare(
      'UPDATE calls SET state = 1, attempts = ?, executor = ?, reason = ?, started_at = ?, updated_at = ? WHERE seq = ?',
    );
    const finish = database.prepare(
      'UPDATE calls SET state = 5, output = ?, executor = ?, duration_ms = ?, executed_at = ?, updated_at = ? WHERE seq = ?',
    );
    return {
      take: (number) => take.run(callOf(number).id, '0', body, '[]', Date.now(), Date.now()),
      start: (number) => start.run(1, EXECUTOR, 'default executor', Date.now(), Date.now(), number),
      finish: (number) => finish.run(output, EXECUTOR, 0, Date.now(), Date.now(), number),
    };
  });
}

function fewColumns(): Bare {
  return new Bare(join(folder, 'few.db'), (database) => {
    database.exec('CREATE TABLE calls (seq INTEGER PRIMARY KEY, body BLOB, state INTEGER, output BLOB)');
    const take = database.prepare('INSERT INTO calls (body, state) VALUES (?, 0)');
    const start = database.prepare('UPDATE calls SET state = 1 WHERE seq = ?');
    const finish = database.prepare('UPDATE calls SET state = 2, output = ? WHERE seq = ?');
    return { take: () => take.run(body), start: (number) => start.run(number), finish: (number) => finish.run(output, number) };
  });
}

function ledgerAlone(): (width: number) => Promise<unknown> {
  const ledger = SqliteLedger.open({ path: join(folder, 'ledger.db') });
  let last = 0;
  const run = async (seq: number): Promise<void> => {
    await ledger.recordProduced(callOf(seq));
    await ledger.recordAttempt(seq, { number: 1, executor: EXECUTOR, reason: 'default executor' });
    await ledger.recordExecuted(seq, { body: output, metadata }, { executor: EXECUTOR, durationMs: 0 });
  };
  return (width) => Promise.all(Array.from({ length: width }, () => run((last += 1))));
}

/** A whole runner that is given calls `width` at a time. */
class WholeRunner {
  #wanted = Promise.withResolvers<number>();
  #done = Promise.withResolvers<void>();
  #left = 0;
  #last = 0;

  start(): Promise<BlueprintRunner> {
    const answer = defineJob({ raw: true, name: 'answer' }, async () => output);
    return BlueprintRunner.builder({ ledger: join(folder, 'runner.db'), metrics: false, logLevel: 'silent' }, {})
      .router(new JobRouter().route(0, answer))
      .producer({ name: 'bench', calls: (signal) => this.#calls(signal) })
      .consumer({ name: 'count', consume: () => this.#count() })
      .start();
  }

  run(width: number): Promise<void> {
    this.#left = width;
    this.#done = Promise.withResolvers();
    this.#wanted.resolve(width);
    return this.#done.promise;
  }

  async *#calls(signal: AbortSignal): AsyncGenerator<JobCall[]> {
    signal.addEventListener('abort', () => this.#wanted.resolve(0));
    for (;;) {
      const width = await this.#wanted.promise;
      if (width === 0) return;
      this.#wanted = Promise.withResolvers();
      yield Array.from({ length: width }, () => callOf((this.#last += 1)));
    }
  }

  #count(): void {
    this.#left -= 1;
    if (this.#left === 0) this.#done.resolve();
  }
}

const same = await sameRows();
const few = fewColumns();
const alone = ledgerAlone();
const whole = new WholeRunner();
const runner = await whole.start();
for (const width of [1, 16, 128]) {
  const options = { rounds: 7, sliceMs: 120 };
  const peer = (): Promise<void> => same.run(width);
  await compare(`ledger against the same rows, ${width} at once`, { peer, ours: () => alone(width) }, { ...options, goal: GOAL });
  await compare(`runner against the same rows, ${width} at once`, { peer, ours: () => whole.run(width) }, { ...options, goal: GOAL });
  await compare(`runner against four columns, ${width} at once`, { peer: () => few.run(width), ours: () => whole.run(width) }, options);
}
await runner.stop();
rmSync(folder, { recursive: true, force: true });
