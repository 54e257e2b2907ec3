/** Servers that the bench of the queue compares it with, each started on loopback with every acknowledgement on disk. */

import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Queue, Worker } from 'bullmq';
import pg from 'pg';

const POSTGRES = '/usr/lib/postgresql/15/bin';
const START_MS_MAX = 20_000;
/** PostgreSQL takes 100 by default, some of them reserved. */
const CONNECTIONS_MAX = 64;
const payload = Buffer.alloc(100, 7);
const result = Buffer.alloc(32, 9);

export interface QueuePeer {
  readonly name: string;
  /** So many jobs at once: published, claimed, completed. */
  run(width: number): Promise<unknown>;
  close(): Promise<void>;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

async function end(child: ChildProcess): Promise<void> {
  child.kill('SIGINT');
  await once(child, 'exit');
}

async function until(isThere: () => Promise<unknown>): Promise<void> {
  const started = performance.now();
  for (;;) {
    try {
      await isThere();
      return;
    } catch (error) {
      if (performance.now() - started > START_MS_MAX) throw error;
      await sleep(50);
    }
  }
}

/** Redis with `appendfsync always`; jobs go through one BullMQ worker as wide as the load. Undefined when there is no redis-server. */
export async function bullmq(folder: string, widthMax: number): Promise<QueuePeer | undefined> {
  if (!existsSync('/usr/bin/redis-server')) return undefined;
  mkdirSync(folder, { recursive: true });
  const port = await freePort();
  const options = [
    '--port',
    String(port),
    '--bind',
    '127.0.0.1',
    '--dir',
    folder,
    '--save',
    '',
    '--appendonly',
    'yes',
    '--appendfsync',
    'always',
  ];
  const server = spawn('/usr/bin/redis-server', options, { stdio: 'ignore' });
  const connection = { host: '127.0.0.1', port, maxRetriesPerRequest: null };
  const queue = new Queue('bench', { connection, defaultJobOptions: { removeOnComplete: false } });
  await queue.waitUntilReady();
  let [left, done] = [0, Promise.withResolvers<void>()];
  const worker = new Worker('bench', async () => result.toString('base64'), { connection, concurrency: widthMax });
  worker.on('completed', () => {
    left -= 1;
    if (left === 0) done.resolve();
  });
  await worker.waitUntilReady();
  const data = payload.toString('base64');
  return {
    name: 'BullMQ, AOF always',
    async run(width) {
      left = width;
      done = Promise.withResolvers();
      await Promise.all([...Array.from({ length: width }, () => queue.add('square', data)), done.promise]);
    },
    async close() {
      await worker.close();
      await queue.close();
      await end(server);
    },
  };
}

const SCHEMA = `CREATE TABLE jobs (seq bigserial PRIMARY KEY, state smallint NOT NULL DEFAULT 0, payload bytea NOT NULL, result bytea);
  CREATE INDEX jobs_ready ON jobs (seq) WHERE state = 0`;
const PUBLISH = { name: 'publish', text: 'INSERT INTO jobs (payload) VALUES ($1)', values: [payload] };
const CLAIM = {
  name: 'claim',
  text: `UPDATE jobs SET state = 1 WHERE seq = (SELECT seq FROM jobs WHERE state = 0 ORDER BY seq FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING seq, payload`,
};
const COMPLETE = { name: 'complete', text: 'UPDATE jobs SET state = 2, result = $1 WHERE seq = $2' };

/**
 * PostgreSQL with its default `synchronous_commit = on`: one prepared statement for each step, over as many connections as there are callers.
 * Undefined when it is not there, or we may not change the user.
 */
export async function postgres(folder: string, widthMax: number): Promise<QueuePeer | undefined> {
  if (!existsSync(POSTGRES) || process.getuid?.() !== 0) return undefined;
  mkdirSync(folder, { recursive: true });
  chmodSync(join(folder, '..'), 0o755);
  execFileSync('chown', ['postgres:postgres', folder]);
  const asPostgres = ['--reuid=postgres', '--regid=postgres', '--clear-groups'];
  const data = join(folder, 'data');
  execFileSync('setpriv', [...asPostgres, join(POSTGRES, 'initdb'), '-D', data, '-A', 'trust', '-U', 'postgres'], { stdio: 'ignore' });
  const port = await freePort();
  const options = ['-D', data, '-p', String(port), '-k', folder, '-h', '127.0.0.1'];
  const server = spawn('setpriv', [...asPostgres, join(POSTGRES, 'postgres'), ...options], { stdio: 'ignore' });
  const pool = new pg.Pool({ host: '127.0.0.1', port, user: 'postgres', database: 'postgres', max: Math.min(widthMax, CONNECTIONS_MAX) });
  // At the end the server closes connections that the pool still lets go of.
  pool.on('error', () => undefined);
  await until(() => pool.query('SELECT 1'));
  await pool.query(SCHEMA);
  const job = async (): Promise<void> => {
    await pool.query(PUBLISH);
    const { rows } = await pool.query<{ seq: string }>(CLAIM);
    await pool.query({ ...COMPLETE, values: [result, rows[0]?.seq] });
  };
  return {
    name: 'PostgreSQL, SKIP LOCKED',
    run: (width) => Promise.all(Array.from({ length: width }, job)),
    async close() {
      await pool.end();
      await end(server);
    },
  };
}
