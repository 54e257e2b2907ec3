import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { systemClock } from '../clock.ts';
import { toRunnerError } from '../errors.ts';
import { FunctionStore } from '../runtime/store.ts';
import { Functions } from './functions.ts';
import { platformRoutes } from './platform-api.ts';

test('what fails within is not told: callers get no paths of the disk', () => {
  const folder = mkdtempSync(join(tmpdir(), 'pa-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const store = FunctionStore.open({ folder });
  onTestFinished(() => store.close());
  const functions = new Functions({ store, runtimes: new Map(), defaultBackend: 'process' });
  for (const { failure } of platformRoutes({ functions, provider: 'aws', clock: systemClock })) {
    const error = toRunnerError(new Error(`ENOSPC: no space left on device, open '${folder}/x'`));
    const reply = failure?.(error, { id: 'r', params: { function_id: 'f' } });
    expect(reply).toMatchObject({ status: 500, body: expect.stringContaining('"code":"INTERNAL"') as string });
    expect(reply?.body).not.toContain(folder);
  }
});
