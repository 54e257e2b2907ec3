import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FakeBackend } from '../../test/support/fake-backend.ts';
import { Metadata } from '../job/call.ts';
import type { JobCall } from '../job/call.ts';
import { FunctionExecutor } from './function-executor.ts';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fx-'));
  writeFileSync(join(folder, 'jobs.zip'), zipSync({ 'handler.js': Buffer.from('exports.handler = () => 1;') }));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

function executorOf(): FunctionExecutor {
  const backend = new FakeBackend({ handler: () => Promise.resolve(Buffer.from('{"result_base64":"AQ=="}')) });
  return new FunctionExecutor({ artifact: join(folder, 'jobs.zip') }, { name: 'fake', backend, folder });
}

const call: JobCall = { id: 'c1', jobId: 0n, body: new Uint8Array(), metadata: new Metadata() };
const soon = () => ({ deadline: Date.now() + 10_000, attempt: 1 });

it('takes nothing when it is asked after its close: the next one in its folder works', async () => {
  const closed = executorOf();
  await closed.close();
  await expect(closed.invoke(call, soon())).rejects.toMatchObject({ code: 'EXECUTOR_CLOSED' });
  await expect(closed.health(0n)).rejects.toMatchObject({ code: 'EXECUTOR_CLOSED' });
  const next = executorOf();
  const { results } = await next.invoke(call, soon());
  expect(results.map(({ body }) => [...body])).toEqual([[1]]);
  await next.close();
});
