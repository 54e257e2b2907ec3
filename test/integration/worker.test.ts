/** Calls through a queue, on workers in this process whose functions run in processes of their own. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import { ProcessBackend } from '../../plugins/process/index.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import { EmbeddedQueue, FolderObjects, Metadata, QueueExecutor, Worker } from '../../src/index.ts';
import { encodeAbi } from '../../src/job/abi.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import { FunctionRuntime } from '../../src/runtime/function-runtime.ts';
import { functionJobs } from '../../src/worker/function-jobs.ts';

const UINT64 = parseParameters('uint64 x');
let folder: string;
let artifact: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'wk-'));
  const entry = new URL('../../examples/incredible-squaring/jobs.ts', import.meta.url).pathname;
  artifact = (await buildHandler({ entry, outDir: folder })).zipFile;
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

it('a call is executed by a function of the worker, with a package that it fetched once', async () => {
  const queue = EmbeddedQueue.open({ folder: join(folder, 'queue') });
  const objects = new FolderObjects({ folder: join(folder, 'objects') });
  let fetched = 0;
  const counted = {
    put: (bytes: Uint8Array) => objects.put(bytes),
    get: (reference: Parameters<typeof objects.get>[0]) => ((fetched += 1), objects.get(reference)),
    remove: (reference: Parameters<typeof objects.get>[0]) => objects.remove(reference),
  };
  const runtime = new FunctionRuntime({ backend: new ProcessBackend({ folder: join(folder, 'b') }), folder: join(folder, 'r') });
  await runtime.start();
  const { jobs, packages } = functionJobs({ target: runtime, objects: counted, folder: join(folder, 'packages') });
  const worker = new Worker({ queue, workerId: 'w1', handler: jobs, concurrency: 4 });
  worker.start();
  const executor = new QueueExecutor({ queue, objects, artifact });
  onTestFinished(async () => {
    await executor.close();
    await worker.drain(1_000);
    await runtime.close();
    packages.close();
    await queue.close();
  });
  const square = async (x: bigint): Promise<bigint> => {
    const call = { id: `call-${x}`, jobId: 0n, body: encodeAbi(UINT64, [x]), metadata: new Metadata() };
    const { results } = await executor.invoke(call, { deadline: Date.now() + 60_000, attempt: 1 });
    return BigInt(`0x${Buffer.from(results[0]?.body ?? []).toString('hex')}`);
  };
  const numbers = Array.from({ length: 20 }, (_, index) => BigInt(index));
  expect(await Promise.all(numbers.map(square))).toEqual(numbers.map((x) => x * x));
  expect(fetched).toBe(1);
  expect((await queue.stats()).byState).toMatchObject({ completed: 20, queued: 0, claimed: 0 });
});
