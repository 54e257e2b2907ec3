/**
 * In-process calls through the whole runner with its durable ledger, against bare SQLite with group commit that does the same three
 * durable steps for each call (taken, started, done) on a table of its own. Time per call; the goal is 0.6 of the bare rate.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { BlueprintRunner, JobRouter, Metadata, defineJob } from '../../src/index.ts';
import type { JobCall } from '../../src/index.ts';
import { compare } from './measure.ts';

const folder = mkdtempSync(join(tmpdir(), 'durable-bench-'));
const body = Buffer.alloc(100, 7);
const output = Buffer.alloc(32, 9);
const metadata = new Metadata();

/** Changes of one turn of the event loop share a transaction. */
class BareTable {
  readonly #database = new DatabaseSync(join(folder, 'bare.db'));
  readonly #steps;
  #group: (() => void)[] = [];

  constructor() {
    this.#database.exec(
      'PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE calls (seq INTEGER PRIMARY KEY, body BLOB, state INTEGER, output BLOB)',
    );
    this.#steps = {
      insert: this.#database.prepare('INSERT INTO calls (body, state) VALUES (?, 0)'),
      start: this.#database.prepare('UPDATE calls SET state = 1 WHERE seq = ?'),
      finish: this.#database.prepare('UPDATE calls SET state = 2, output = ? WHERE seq = ?'),
    };
  }

  async run(): Promise<void> {
    const { insert, start, finish } = this.#steps;
    const seq = await this.#durable(() => insert.run(body).lastInsertRowid);
    await this.#durable(() => start.run(seq));
    await this.#durable(() => finish.run(output, seq));
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
    this.#database.exec('BEGIN IMMEDIATE');
    for (const change of changes) change();
    this.#database.exec('COMMIT');
  }
}

/** A runner that is given calls `width` at a time. */
class DurableRunner {
  #wanted = Promise.withResolvers<number>();
  #done = Promise.withResolvers<void>();
  #left = 0;
  #last = 0;

  async start(): Promise<BlueprintRunner> {
    const router = new JobRouter().route(
      0,
      defineJob({ raw: true, name: 'answer' }, async () => output),
    );
    return BlueprintRunner.builder({ ledger: join(folder, 'ledger.db'), metrics: false, logLevel: 'silent' }, {})
      .router(router)
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
      yield Array.from({ length: width }, () => ({ id: String((this.#last += 1)), jobId: 0n, body, metadata }));
    }
  }

  #count(): void {
    this.#left -= 1;
    if (this.#left === 0) this.#done.resolve();
  }
}

const bare = new BareTable();
const durable = new DurableRunner();
const runner = await durable.start();
for (const width of [1, 16, 128]) {
  const peer = (): Promise<unknown> => Promise.all(Array.from({ length: width }, () => bare.run()));
  await compare(
    `durable calls through the runner, ${width} at once`,
    { peer, ours: () => durable.run(width) },
    { rounds: 9, sliceMs: 150, goal: 1 / 0.6 },
  );
}
await runner.stop();
rmSync(folder, { recursive: true, force: true });
