/** One function on every kind of instance that this machine has, side by side in one gateway. */

import { join } from 'node:path';
import { describe, expect } from 'vitest';
import { ProcessBackend } from '../../plugins/process/index.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import type { InstanceBackend } from '../../src/runtime/runtime.ts';
import { DRIVERS } from '../support/container-engine.ts';
import { newFolder, onEnd, send, zipOf } from '../support/gateway.ts';

const CODE = zipOf({
  'index.mjs': `export const handler = awslambda.streamifyResponse(async (event, stream) => { stream.write('a'); stream.end(JSON.stringify(event)); });`,
});

describe.each(DRIVERS)('processes and containers by $name', ({ name, test, make }) => {
  test('deploy, call, stream, move from one to the other, list', async () => {
    const folder = await newFolder();
    const backends = new Map<string, InstanceBackend>([
      ['process', new ProcessBackend({ folder: join(folder, 'p') })],
      [name, make({ folder: join(folder, 'c') })],
    ]);
    const gateway = new Gateway({ folder, backends });
    onEnd(() => gateway.close(0));
    const url = await gateway.listen({ port: 0 });
    const settings = 'runtime=nodejs24.x&handler=index.handler&timeout_ms=20000';
    for (const backend of backends.keys()) {
      expect((await send(url, `PUT /api/v1/functions/on-${backend}?${settings}&backend=${backend}`, { body: CODE })).json).toMatchObject({
        backend,
      });
      expect((await send(url, `POST /api/v1/functions/on-${backend}/invoke`, { body: '{"b":1}' })).text).toBe('a{"b":1}');
      expect((await send(url, `POST /api/v1/functions/on-${backend}/stream`, { body: '2' })).text).toBe('a2');
    }
    const { instances } = (await send(url, 'GET /api/v1/instances')).json as {
      instances: { backend: string; function: string; handle: { kind: string } }[];
    };
    expect(
      instances.map((one) => [one.function, one.backend]).toSorted((left, right) => String(left).localeCompare(String(right))),
    ).toEqual(
      [...backends.keys()]
        .map((backend) => [`on-${backend}`, backend])
        .toSorted((left, right) => String(left).localeCompare(String(right))),
    );
    expect((await send(url, 'PATCH /api/v1/functions/on-process', { body: JSON.stringify({ backend: name }) })).json).toMatchObject({
      backend: name,
    });
    const moved = await send(url, 'POST /api/v1/functions/on-process/invoke', { body: '3' });
    expect(moved.text).toBe('a3');
    const after = (await send(url, 'GET /api/v1/instances?function=on-process')).json as typeof instances extends unknown
      ? { instances: { backend: string; state: string }[] }
      : never;
    expect(after.instances.filter(({ state }) => state !== 'stopping').map(({ backend }) => backend)).toContain(name);
  });
});
