import { expect, it } from 'vitest';
import type { InstanceBackend } from '../runtime/runtime.ts';
import { BackendBench } from './backend-bench.ts';

const NEVER = new Promise<never>(() => {});

/** Its programs never ask for work, answer nothing and do not end. */
const silent = (): InstanceBackend => ({
  name: 'silent',
  unavailable: async () => undefined,
  launch: async ({ instanceId }) => ({ id: instanceId, handle: { kind: 'silent' }, ended: NEVER, createMs: 0 }),
  terminate: async () => {},
});

const timers = (): number => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;

it('what a case waited for ends with it: no timer keeps the process of the tests', async () => {
  const bench = await BackendBench.open({ name: 'silent', create: silent });
  const before = timers();
  const instance = await bench.launch();
  const waits = [instance.ready, instance.call({ do: 'echo' }), instance.end()];
  const over = waits.map((wait) => expect(wait).rejects.toThrow('the case is over'));
  expect(timers()).toBeGreaterThan(before);
  await bench.close();
  await Promise.all(over);
  expect(timers()).toBe(before);
});
