/**
 * The least that a server of durable jobs can do: bare `node:http`, JSON, and three statements of SQLite whose group is on disk before anybody is
 * answered. No leases, no checks, nobody who must say who he is.
 */

import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { SqliteFile } from '../../src/sqlite-file.ts';

const SCHEMA = `
CREATE TABLE IF NOT EXISTS jobs (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, state INTEGER NOT NULL, token TEXT, worker TEXT, payload BLOB NOT NULL, result BLOB
);
CREATE INDEX IF NOT EXISTS jobs_ready ON jobs (seq) WHERE state = 0;
`;
/** Rows that one query reads. */
const AHEAD_MAX = 64;

interface LeastLease {
  readonly seq: number;
  readonly token: string;
}

export interface LeastJob {
  readonly payload: string;
  readonly lease: LeastLease;
}

/** Of one request; each part may lack. */
export interface LeastRequest {
  readonly publish?: readonly { readonly id: string; readonly type: string; readonly payload: string }[];
  readonly completions?: readonly { readonly lease: LeastLease; readonly body: string }[];
  readonly claim?: { readonly workerId: string; readonly max: number };
}

interface Claim {
  readonly workerId: string;
  readonly max: number;
  readonly jobs: LeastJob[];
}

/** Resolves with its port. */
export async function serveLeastQueue(folder: string): Promise<number> {
  let claims: Claim[] = [];
  const file = new SqliteFile({
    path: join(folder, 'least.db'),
    noun: 'queue',
    mark: 'LEST',
    version: 1,
    schema: SCHEMA,
    codes: { corrupt: 'QUEUE_CORRUPT', full: 'QUEUE_DISK_FULL', locked: 'QUEUE_LOCKED', version: 'QUEUE_VERSION' },
    remedy: 'begin anew',
    sync: 'background',
    hooks: {
      beforeCommit() {
        give(claims);
        claims = [];
      },
      committed() {},
      rolledBack() {},
    },
  });
  const insert = file.prepare('INSERT INTO jobs (id, type, state, payload) VALUES (?, ?, 0, ?)');
  const next = file.prepare('SELECT seq, id, type, payload FROM jobs WHERE state = 0 ORDER BY seq LIMIT +?');
  const take = file.prepare('UPDATE jobs SET state = 1, token = ?, worker = ? WHERE seq = ?');
  const complete = file.prepare('UPDATE jobs SET state = 2, result = ? WHERE seq = ? AND token = ?');

  function give(asking: readonly Claim[]): void {
    let wanted = asking.reduce((sum, { max }) => sum + max, 0);
    let rows: ReturnType<typeof next.all> = [];
    for (const { workerId, max, jobs } of asking) {
      while (jobs.length < max) {
        if (rows.length === 0) rows = next.all(Math.min(wanted, AHEAD_MAX)).toReversed();
        const row = rows.pop();
        if (!row) return;
        wanted -= 1;
        const token = randomUUID();
        take.run(token, workerId, row['seq'] as number);
        jobs.push(jobOf(row, token));
      }
    }
  }

  async function answer({ publish = [], completions = [], claim }: LeastRequest): Promise<unknown> {
    const own = claim && { ...claim, jobs: [] };
    await file.write(() => {
      for (const { id, type, payload } of publish) insert.run(id, type, Buffer.from(payload, 'base64'));
      for (const { lease, body } of completions) complete.run(Buffer.from(body, 'base64'), lease.seq, lease.token);
      if (own) claims.push(own);
    });
    return { completions: completions.map(() => ({})), jobs: own?.jobs };
  }

  const server = createServer((request, response) => {
    void readJson(request)
      .then((asked) => answer(asked as LeastRequest))
      .then((told) => {
        const body = JSON.stringify(told);
        response.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
        response.end(body);
      });
  });
  server.listen({ host: '127.0.0.1', port: 0 });
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

function jobOf({ seq, id, type, payload }: Readonly<Record<string, unknown>>, token: string): LeastJob {
  const bytes = payload as Uint8Array;
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
  return wireJob({ id, type, payload: text }, { jobId: id, token, until: 1_795_273_961_861, seq: Number(seq) });
}

/** As long as a job of the control plane. */
export function wireJob<J extends object, L>(job: J, lease: L) {
  return { ...job, headers: {}, priority: 4, requires: [], attempt: 1, attemptsMax: 3, publishedAt: 1_795_273_961_861, lease };
}

export function readJson(request: IncomingMessage): Promise<unknown> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => resolve(JSON.parse(Buffer.concat(chunks).toString('utf8'))));
  });
}
