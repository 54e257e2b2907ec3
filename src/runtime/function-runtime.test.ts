import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { FakeBackend, versionOf } from '../../test/support/fake-backend.ts';
import type { FakeBackendOptions } from '../../test/support/fake-backend.ts';
import { FunctionRuntime } from './function-runtime.ts';
import type { FunctionRuntimeOptions } from './function-runtime.ts';

const opened: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of opened.splice(0).toReversed()) await close();
});

async function start(
  backendOptions: FakeBackendOptions = {},
  options: Partial<FunctionRuntimeOptions> = {},
): Promise<{ runtime: FunctionRuntime; backend: FakeBackend; folder: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'fr-'));
  const backend = new FakeBackend(backendOptions);
  const runtime = new FunctionRuntime({ backend, folder, ...options });
  opened.push(() => rm(folder, { recursive: true, force: true }));
  opened.push(() => runtime.close(0));
  await runtime.start();
  return { runtime, backend, folder };
}

const text = ({ body }: { readonly body: Uint8Array }): string => Buffer.from(body).toString();

describe('a call', () => {
  test('starts an instance, and the next one uses it again', async () => {
    const { runtime, backend } = await start();
    const first = await runtime.invoke(versionOf(), Buffer.from('one'));
    const second = await runtime.invoke(versionOf(), Buffer.from('two'));
    expect([text(first), text(second)]).toEqual(['one', 'two']);
    expect([first.report.coldStart, second.report.coldStart]).toEqual([true, false]);
    expect(second.report.instanceId).toBe(first.report.instanceId);
    expect(backend.programs).toHaveLength(1);
  });

  test('streams', async () => {
    const { runtime } = await start({
      async handler({ id, program }) {
        await program.stream(
          id,
          (async function* () {
            yield Buffer.from('a');
            await delay(20);
            yield Buffer.from('b');
          })(),
        );
        return undefined;
      },
    });
    const { chunks, done } = await runtime.stream(versionOf(), Buffer.from('x'));
    const seen: string[] = [];
    for await (const chunk of chunks) seen.push(Buffer.from(chunk).toString());
    expect(seen).toEqual(['a', 'b']);
    expect((await done).report.runMs).toBeGreaterThan(15);
  });

  test('close leaves nothing', async () => {
    const { runtime, backend, folder } = await start();
    await runtime.invoke(versionOf(), Buffer.from('one'));
    await runtime.close();
    expect(backend.running).toEqual([]);
    expect((await readdir(folder)).toSorted()).toEqual(['owner']);
  });
});
