/** One package, as it is built for the clouds, through the Lambda API: by its own bootstrap and by the handler that it exports. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { ProcessBackend } from '../../plugins/process/index.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import type { InstanceBackend } from '../../src/runtime/runtime.ts';
import { DRIVERS } from '../support/container-engine.ts';
import { newFolder, onEnd, send, until } from '../support/gateway.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';

const EVENT = JSON.stringify({ job_id: 0, args: [...new Uint8Array(31), 5] });
const SQUARED = JSON.stringify({ result: [...new Uint8Array(31), 25] });
/** A handler of Node first: what the backend then keeps ready is for handlers of Node alone. */
const WAYS = [
  ['nodejs24.x', 'handler.handler'],
  ['provided.al2023', 'bootstrap'],
  ['nodejs22.x', 'handler.main'],
  ['provided.al2', 'whatever'],
] as const;

let zip: string;

beforeAll(async () => {
  const entry = join(import.meta.dirname, '../fixtures/gateway/jobs.ts');
  zip = readFileSync((await buildHandler({ entry, outDir: temporaryFolder('artifact') })).zipFile).toString('base64');
});

/** `between`: before each but the first way. */
async function runs(name: string, backend: InstanceBackend, between: () => Promise<void> = async () => {}): Promise<void> {
  const gateway = new Gateway({ folder: await newFolder(), backends: new Map([[name, backend]]) });
  onEnd(() => gateway.close(0));
  const url = await gateway.listen({ port: 0 });
  for (const [index, [Runtime, Handler]] of WAYS.entries()) {
    if (index > 0) await between();
    const FunctionName = `way-${index}`;
    const Role = 'arn:aws:iam::000000000000:role/jobs';
    const body = JSON.stringify({ FunctionName, Runtime, Handler, Role, Code: { ZipFile: zip }, MemorySize: 256, Timeout: 20 });
    expect((await send(url, 'POST /2015-03-31/functions', { body })).status).toBe(201);
    for (let call = 0; call < 2; call += 1) {
      const { status, headers, text } = await send(url, `POST /2015-03-31/functions/${FunctionName}/invocations`, { body: EVENT });
      expect([Runtime, status, headers.get('x-amz-function-error'), text]).toEqual([Runtime, 200, null, SQUARED]);
    }
  }
}

test('a package runs as processes, whatever waits for the next function', async () => {
  const folder = await newFolder();
  const backend = new ProcessBackend({ folder: join(folder, 'p'), blanks: 1 });
  await runs('process', backend, () => until(async () => (await backend.describe()).blanks > 0));
});

describe.each(DRIVERS)('containers by $name', ({ name, test: testDriver, make }) => {
  testDriver('a package runs', async () => runs(name, make({ folder: join(await newFolder(), 'c') })), 120_000);
});
