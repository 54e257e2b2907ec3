/**
 * A call of a WASM engine through the control plane against the same call straight to the engine: engine, control plane and caller are processes
 * of their own. One call at a time, and 16.
 *
 * `node test/bench/engine-proxy.bench.ts`. The ratios are what the way through the control plane costs; they have no goal.
 */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { zipSync } from 'fflate';
import { systemClock } from '../../src/clock.ts';
import { EnginePool } from '../../src/engine/engine-pool.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { ControlEngines } from '../../src/worker/control-engines.ts';
import type { FunctionTarget } from '../../src/worker/function-jobs.ts';
import { BPR } from '../support/bpr.ts';
import { ECHO, versionOf } from '../support/wasm.ts';
import { compare } from './measure.ts';

const WIDTH = 16;
const EVENT = Buffer.from(JSON.stringify({ name: 'Ada', numbers: [1, 2, 3] }));
const folder = mkdtempSync(join(tmpdir(), 'be-'));
const children: ChildProcess[] = [];

/** Resolves with its address. */
async function start(...words: string[]): Promise<string> {
  const env = { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, LOG_LEVEL: 'error' };
  const child = spawn(process.execPath, [BPR, ...words, '--port', '0', '--json'], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
  return String((JSON.parse(line) as { readonly url: string }).url);
}

const engine = await start('wasm', 'serve', '--data-dir', join(folder, 'e'));
await start('control-plane', '--data', join(folder, 'c'), '--engine', engine);
const ticket = readFileSync(join(folder, 'c', 'endpoint.ticket'), 'utf8');
const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
const zip = zipSync({ 'handler.wasm': ECHO }, { mtime: '2026-01-01' });
const { key, sha256 } = await new RemoteObjects(queue.control).keep(zip);
const fn = versionOf({ kind: 'folder', path: key, sha256 });
const pool = new EnginePool({ urls: [engine], zipOf: async () => zip });
const through = new ControlEngines({ control: queue.control, clock: systemClock });
const call = async (target: Pick<FunctionTarget, 'invoke'>): Promise<void> => {
  const { body } = await target.invoke(fn, EVENT, {});
  if (!EVENT.equals(body)) throw new Error('the answer is not the event');
};
const many = (target: Pick<FunctionTarget, 'invoke'>): Promise<unknown> => Promise.all(Array.from({ length: WIDTH }, () => call(target)));
try {
  // Until a call is cheap on both sides.
  for (let index = 0; index < 60; index += 1) await Promise.all([many(pool), many(through)]);
  const options = { rounds: 7, sliceMs: 300 };
  await compare('a call through the control plane, by one to the engine', { peer: () => call(pool), ours: () => call(through) }, options);
  await compare(`${WIDTH} at a time`, { peer: () => many(pool), ours: () => many(through) }, options);
} finally {
  await pool.close();
  await queue.close();
  for (const child of children) {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'close');
  }
  rmSync(folder, { recursive: true, force: true });
}
