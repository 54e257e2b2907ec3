/** The worker as one file: the same bytes each time, and jobs run with it where nothing else is. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import { ControlPlane } from '../../src/control/control.ts';
import { packFunction } from '../../src/deploy/function-package.ts';
import { functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { CliUser } from '../support/cli-user.ts';
import { zipOf } from '../support/gateway.ts';

let folder: string;
let user: CliUser;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'wb-'));
  user = new CliUser(folder);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Its exit status, and what it printed. */
async function runWorker(args: readonly string[]): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> {
  const child = spawn(process.execPath, ['worker.mjs', ...args], {
    cwd: join(user.home, 'alone'),
    env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, HOME: join(user.home, 'alone') },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const out = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) child[name].on('data', (text: Buffer) => (out[name] += text.toString('utf8')));
  const ended = once(child, 'close');
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const [code] = (await ended) as [number | null];
  return { code: code ?? -1, ...out };
}

it('is written with the same bytes each time, and runs jobs with node alone', async () => {
  const first = await user.json('worker', 'bundle', '--out', 'alone/worker.mjs');
  const second = await user.json('worker', 'bundle', '--out', 'again.mjs');
  expect(first['sha256']).toBe(second['sha256']);
  expect(readFileSync(join(user.home, 'alone/worker.mjs'))).toEqual(readFileSync(join(user.home, 'again.mjs')));
  expect(Number(first['bytes'])).toBeLessThan(2_500_000);
  expect(readdirSync(join(user.home, 'alone'))).toEqual(['worker.mjs']);
  expect((await user.bpr('worker', 'bundle', '--out', 'worker.txt')).stderr).toMatch(/^CONFIG_INVALID: --out is to end in \.mjs/);

  const control = new ControlPlane({ folder: join(folder, 'control') });
  await control.listen({ port: 0 });
  onTestFinished(() => control.close(0));
  const { ticket } = await control.tickets.create({ uses: 10 });
  const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
  onTestFinished(() => queue.close());
  const objects = new RemoteObjects(queue.control);
  const publish = async (id: string, zip: Uint8Array, settings: { readonly runtime: string; readonly handler: string }): Promise<void> => {
    const object = await objects.keep(zip);
    const headers = functionHeaders({ name: 'hello', settings: functionSettings(settings), code: { kind: 'package', object } });
    await queue.publish({ id, type: 'function', payload: Buffer.from('{"name":"Ada"}'), headers, attemptsMax: 1 });
  };
  const answer = async (id: string): Promise<string> => Buffer.from((await queue.result(id)).body as Uint8Array).toString();

  const hello = zipOf({ 'index.mjs': 'export const handler = async ({ name }) => `Hello, ${name}`;' });
  await publish('node', hello, { runtime: 'nodejs24.x', handler: 'index.handler' });
  const ran = await runWorker(['--ticket', ticket, '--data', join(folder, 'w'), '--once', '--json']);
  expect(ran).toMatchObject({ code: 0, stderr: '' });
  expect(await answer('node')).toBe('"Hello, Ada"');

  const source = join(import.meta.dirname, '../../examples/wasm/hello.ts');
  const { zip } = await packFunction(source, { runtime: 'wasm', handler: 'handler.wasm' });
  await publish('wasm', zip, { runtime: 'wasm', handler: 'handler.wasm' });
  const onWasm = await runWorker(['--ticket', ticket, '--data', join(folder, 'w'), '--backend', 'wasm', '--once', '--json']);
  expect(onWasm).toMatchObject({ code: 0, stderr: '' });
  expect(await answer('wasm')).toBe('{"greeting":"Hello, Ada"}');
  // What is not in it is said.
  const missing = await runWorker(['--ticket', ticket, '--data', join(folder, 'w'), '--backend', 'docker', '--once', '--json']);
  expect(missing.code).toBe(1);
  expect(missing.stdout).toMatch(/BACKEND_UNAVAILABLE/);
}, 300_000);
