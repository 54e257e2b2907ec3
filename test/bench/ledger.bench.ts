/**
 * The ledger against bare SQLite with group commit: three durable steps for each call (seen, attempt, executed), the peer's being an
 * insert and two updates of a table without indexes. Time per call; 1 / ratio is the share of the bare rate. Goal: ratio <= 1 / 0.6.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { ChainCall, Hex } from '../../src/job/call.ts';
import { Metadata } from '../../src/job/call.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { compare } from './measure.ts';

const CONTRACT: Hex = `0x${'aa'.repeat(20)}`;
const HASH: Hex = `0x${'11'.repeat(32)}`;
const folder = mkdtempSync(join(tmpdir(), 'ledger-bench-'));

function bareQueue(): (inputs: Uint8Array, output: Uint8Array) => Promise<void> {
  const database = new DatabaseSync(join(folder, 'bare.db'));
  database.exec(
    'PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE jobs (id INTEGER PRIMARY KEY, body BLOB, state INTEGER, output BLOB)',
  );
  const insert = database.prepare('INSERT INTO jobs (body, state) VALUES (?, 0)');
  const claim = database.prepare('UPDATE jobs SET state = 1 WHERE id = ?');
  const complete = database.prepare('UPDATE jobs SET state = 2, output = ? WHERE id = ?');
  let group: (() => void)[] = [];
  const durable = <T>(change: () => T): Promise<T> =>
    new Promise((resolve) => {
      if (group.length === 0) setImmediate(flush);
      group.push(() => resolve(change()));
    });
  const flush = (): void => {
    const changes = group;
    group = [];
    database.exec('BEGIN IMMEDIATE');
    for (const change of changes) change();
    database.exec('COMMIT');
  };
  return async (inputs, output) => {
    const id = await durable(() => insert.run(inputs).lastInsertRowid);
    await durable(() => claim.run(id));
    await durable(() => complete.run(output, id));
  };
}

type Round = (width: number) => Promise<unknown>;

/** A block brings the calls of a round, as from the chain: journaled together with the cursor. */
function ledgerRounds(): Round {
  const ledger = SqliteLedger.open({ path: join(folder, 'ledger.db') });
  const result = { body: output, metadata: new Metadata() };
  const chainId = 31337;
  let last = 0;
  const execute = async (seq: number): Promise<void> => {
    await ledger.recordAttempt(seq, { number: 1, executor: 'in-process' });
    await ledger.recordExecuted(seq, result, { executor: 'in-process', durationMs: 0 });
  };
  return async (width) => {
    const calls = Array.from({ length: width }, (_, index) => callOf(last + index + 1));
    last += width;
    await ledger.recordSeen(calls, { chainId, contract: CONTRACT, block: { number: BigInt(last), hash: HASH } });
    await Promise.all(calls.map(({ callId }) => execute(Number(callId))));
  };
}

const inputs = Buffer.alloc(100, 7);
const output = Buffer.alloc(32, 9);

function callOf(callId: number): ChainCall {
  return {
    chainId: 31337,
    contract: CONTRACT,
    serviceId: 0n,
    callId: BigInt(callId),
    jobIndex: 0,
    caller: CONTRACT,
    inputs,
    blockNumber: BigInt(callId),
    blockHash: HASH,
    transactionHash: HASH,
    logIndex: 0,
  };
}

const bare = bareQueue();
const ours = ledgerRounds();
const peerRound = (width: number): Promise<unknown> => Promise.all(Array.from({ length: width }, () => bare(inputs, output)));
for (const width of [1, 16, 128]) {
  const contestants = { peer: () => peerRound(width), ours: () => ours(width) };
  await compare(`seen, attempt, executed; ${width} at once`, contestants, { rounds: 9, sliceMs: 150, goal: 1 / 0.6 });
}
rmSync(folder, { recursive: true, force: true });
