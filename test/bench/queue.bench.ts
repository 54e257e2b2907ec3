/**
 * What the embedded queue costs on top of SQLite, for the three durable steps of each job: published, claimed, completed.
 *
 * The peer is bare SQLite (WAL, synchronous FULL) with group commit: the queue's own schema and the same values in every row, without
 * leases, waiting claims, deadlines, counts or checks. 1 / ratio is the share of the peer's rate; goal: 0.6. The limit of both is the disk:
 * as many bytes as the log of the queue gets for each group, written and synchronised, and nothing else.
 *
 * Where redis-server and PostgreSQL 15 are installed, also BullMQ on Redis with AOF always, and PostgreSQL with SKIP LOCKED. They are
 * reached over loopback, which is part of their time; goals: 5 and 10 times their rate with many jobs at once.
 */

import { randomUUID } from 'node:crypto';
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { StatementSync } from 'node:sqlite';
import { EmbeddedQueue } from '../../src/queue/embedded.ts';
import { SQL } from '../../src/queue/rows.ts';
import { compare } from './measure.ts';
import { bullmq, postgres } from './queue-peers.ts';

const folder = mkdtempSync(join(tmpdir(), 'queue-bench-'));
const payload = Buffer.alloc(100, 7);
const result = Buffer.alloc(32, 9);
const WORKER = 'worker-1';
const LEASE_MS = 30_000;
const WIDTHS = [1, 16, 128];
/** Durable ones of a job. */
const STEPS = 3;
const DISK_BYTES = 16 * 1024 * 1024;
const LOG_ROUNDS = 8;

let last = 0;
const nextId = (): string => `job-${String((last += 1)).padStart(9, '0')}`;

/** Changes of one turn of the event loop share a transaction. */
class Bare {
  readonly #database: DatabaseSync;
  readonly #sql: Readonly<Record<'insert' | 'next' | 'claim' | 'complete' | 'begin' | 'commit', StatementSync>>;
  #group: (() => void)[] = [];

  constructor(path: string) {
    this.#database = new DatabaseSync(path);
    this.#database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL');
    const sql = (text: string): StatementSync => this.#database.prepare(text);
    this.#sql = {
      insert: sql(SQL.insert),
      next: sql(SQL.next),
      claim: sql(SQL.claim),
      complete: sql(SQL.complete),
      begin: sql('BEGIN IMMEDIATE'),
      commit: sql('COMMIT'),
    };
  }

  async run(width: number): Promise<void> {
    await Promise.all(Array.from({ length: width }, () => this.#job()));
  }

  close(): void {
    this.#database.close();
  }

  async #job(): Promise<void> {
    const { insert, next, claim, complete } = this.#sql;
    await this.#durable(() => insert.run(nextId(), 'square', 0, 4, '', 3, 1, Date.now(), null, null, null, null, null, payload));
    const seq = await this.#durable(() => {
      const row = next.get('', 1);
      claim.run(1, randomUUID(), WORKER, LEASE_MS, Date.now(), Number(row?.['seq']));
      return Number(row?.['seq']);
    });
    await this.#durable(() => complete.run(Date.now(), null, null, result, seq));
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
    this.#sql.begin.run();
    for (const change of changes) change();
    this.#sql.commit.run();
  }
}

/** Groups on the disk, one after the other: three for all that run at once. They are written where something lies already, like a log that is used again. */
class Disk {
  readonly #file: number;
  readonly #group: Buffer;
  #position = 0;

  constructor(path: string, groupBytes: number) {
    this.#file = openSync(path, 'w');
    this.#group = Buffer.alloc(groupBytes, 7);
    writeSync(this.#file, Buffer.alloc(DISK_BYTES));
    fdatasyncSync(this.#file);
  }

  run(): void {
    for (let step = 0; step < STEPS; step += 1) {
      if (this.#position + this.#group.length > DISK_BYTES) this.#position = 0;
      writeSync(this.#file, this.#group, 0, this.#group.length, this.#position);
      fdatasyncSync(this.#file);
      this.#position += this.#group.length;
    }
  }

  close(): void {
    closeSync(this.#file);
  }
}

/** What the log grows by for one group of so many jobs. */
async function groupBytes(width: number): Promise<number> {
  const path = join(folder, `log-${width}`);
  const queue = EmbeddedQueue.open({ folder: path });
  const size = (): number => statSync(join(path, 'queue.db-wal')).size;
  const run = (): Promise<unknown> => Promise.all(Array.from({ length: width }, () => job(queue)));
  await run();
  const before = size();
  for (let round = 0; round < LOG_ROUNDS; round += 1) await run();
  const grown = size() - before;
  await queue.close();
  return Math.round(grown / LOG_ROUNDS / STEPS);
}

async function job(queue: EmbeddedQueue): Promise<void> {
  await queue.publish({ id: nextId(), type: 'square', payload });
  const [claimed] = await queue.claim({ workerId: WORKER, leaseMs: LEASE_MS });
  if (claimed) await queue.complete(claimed.lease, { body: result });
}

/** The schema is made by the queue itself. */
async function bare(): Promise<Bare> {
  const path = join(folder, 'bare');
  await EmbeddedQueue.open({ folder: path }).close();
  return new Bare(join(path, 'queue.db'));
}

const peer = await bare();
const queue = EmbeddedQueue.open({ folder: join(folder, 'ours') });
const ours = (width: number) => (): Promise<unknown> => Promise.all(Array.from({ length: width }, () => job(queue)));
const options = { rounds: 7, sliceMs: 150 };
for (const width of WIDTHS)
  await compare(
    `queue against the same rows, ${width} at once`,
    { peer: () => peer.run(width), ours: ours(width) },
    { ...options, goal: 1 / 0.6 },
  );
peer.close();
for (const width of WIDTHS) {
  const bytes = await groupBytes(width);
  const disk = new Disk(join(folder, `disk-${width}`), bytes);
  const name = `queue against ${STEPS} writes of ${Math.round(bytes / 1024)} KiB, ${width} at once`;
  await compare(name, { peer: () => disk.run(), ours: ours(width) }, options);
  disk.close();
}
for (const [open, times] of [
  [bullmq, 5],
  [postgres, 10],
] as const) {
  const server = await open(join(folder, open.name), Math.max(...WIDTHS));
  if (!server) console.log(`${open.name} is not here and was left out`);
  else {
    for (const width of WIDTHS) {
      const goal = width >= 16 ? { goal: 1 / times } : {};
      await compare(
        `queue against ${server.name}, ${width} at once`,
        { peer: () => server.run(width), ours: ours(width) },
        { ...options, ...goal },
      );
    }
    await server.close();
  }
}
await queue.close();
rmSync(folder, { recursive: true, force: true });
