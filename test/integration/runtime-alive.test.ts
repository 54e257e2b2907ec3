/** A program that does nothing but wait for the function runtime. */

import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { newFolder } from '../support/gateway.ts';

const run = promisify(execFile);
const SOURCE = join(import.meta.dirname, '../../src/runtime/function-runtime.ts');

/** Its backend has nothing that keeps a process alive, and starts nothing. */
const program = (folder: string): string => `
import { FunctionRuntime } from ${JSON.stringify(SOURCE)};
const backend = { name: 'still', unavailable: async () => undefined, launch: ({ signal }) => new Promise((_, reject) => {
  signal.addEventListener('abort', () => reject(signal.reason));
}), terminate: async () => {} };
const runtime = new FunctionRuntime({ backend, folder: ${JSON.stringify(folder)}, limits: { queueTimeoutMs: 300 } });
await runtime.start();
const fn = { name: 'f', version: '1', fingerprint: 'f', code: { kind: 'folder', path: '/', sha256: '' }, layers: [], runtime: 'nodejs24.x',
  handler: 'index.handler', memoryMb: 128, timeoutMs: 1000, ephemeralMb: 64, environment: {}, concurrencyPerInstance: 1, network: 'none' };
console.log(await runtime.invoke(fn, Buffer.from('1')).catch(({ code }) => code));
await runtime.close(0);
console.log('closed');
`;

test('a call that waits keeps its process alive until it is told; a closed runtime does not', async () => {
  const folder = await newFolder();
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', program(folder)], {
    env: { NODE_NO_WARNINGS: '1' },
    timeout: 20_000,
  });
  expect(stdout).toBe('QUEUE_TIMEOUT\nclosed\n');
});
