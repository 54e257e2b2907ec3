import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import { expect, onTestFinished, test } from 'vitest';
import { systemClock } from '../clock.ts';
import { FunctionStore } from '../runtime/store.ts';
import { ANONYMOUS } from './auth.ts';
import { functionRoutes } from './functions-api.ts';
import { Functions } from './functions.ts';
import { Router } from './router.ts';

test('a deployment changes code and settings at once: nobody ever sees, or finds after a crash, the one without the other', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fa-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const seen: string[] = [];
  const store = FunctionStore.open({
    folder,
    onChange: (name) => {
      const { code, handler, memoryMb, extra, environment } = store.get(name);
      seen.push(`${code.kind === 'zip' ? code.zipBytes : 0} ${handler} ${memoryMb} ${JSON.stringify({ ...extra, ...environment })}`);
    },
  });
  onTestFinished(() => store.close());
  const functions = new Functions({ store, runtimes: new Map(), defaultBackend: 'process' });
  const router = new Router(functionRoutes({ functions, provider: 'aws', clock: systemClock }));
  const deploy = async (
    body: Uint8Array,
    query: Readonly<Record<string, string>>,
    headers: Record<string, string> = {},
  ): Promise<number> => {
    const { route, params } = router.find('PUT', '/api/v1/functions/hello');
    const { signal } = new AbortController();
    const request = { id: 'r', method: 'PUT', path: '', headers, origin: '', caller: ANONYMOUS, signal, closing: signal };
    return (await route.handle({ ...request, params, query: new URLSearchParams(query), body })).status;
  };
  const [one, two] = [zipSync({ 'a.mjs': Buffer.from('1') }), zipSync({ 'b.mjs': Buffer.from('2'), c: Buffer.from('3') })];
  expect(await deploy(one, { runtime: 'nodejs24.x', handler: 'a.handler', idempotent: 'true' })).toBe(201);
  expect(await deploy(two, { handler: 'b.handler', memory_mb: '256' })).toBe(200);
  expect(await deploy(one, {})).toBe(200);
  // Values of variables have no place in a query.
  const document = (value: object): Uint8Array => Buffer.from(JSON.stringify(value));
  const json = { 'content-type': 'application/json; charset=utf-8' };
  const withValues = document({ zip: Buffer.from(two).toString('base64'), handler: 'c.handler', environment: { STAGE: 'live' } });
  expect(await deploy(withValues, {}, json)).toBe(200);
  const refused = document({ zip: Buffer.from(one).toString('base64'), environment: { 'no name': 'x' } });
  await expect(deploy(refused, {}, json)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  await expect(deploy(withValues, { memory_mb: '256' }, json)).rejects.toMatchObject({ code: 'REQUEST_INVALID' });
  expect(seen).toEqual([
    `${one.length} a.handler 128 {"idempotent":true}`,
    `${two.length} b.handler 256 {"idempotent":true}`,
    `${one.length} b.handler 256 {"idempotent":true}`,
    `${two.length} c.handler 256 {"idempotent":true,"STAGE":"live"}`,
  ]);
});

test('versions are all listed, also those after a thousand deployments', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fa-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const store = FunctionStore.open({ folder });
  onTestFinished(() => store.close());
  await store.create({ name: 'hello', code: { kind: 'image', uri: 'registry.example/jobs:1' } });
  for (let number = 1; number <= 1_001; number += 1) {
    await store.updateSettings('hello', { description: String(number) });
    store.publish('hello');
  }
  const functions = new Functions({ store, runtimes: new Map(), defaultBackend: 'process' });
  const { route, params } = new Router(functionRoutes({ functions, provider: 'aws', clock: systemClock })).find(
    'GET',
    '/api/v1/functions/hello/versions',
  );
  const { signal } = new AbortController();
  const request = { id: 'r', method: 'GET', path: '', headers: {}, origin: '', caller: ANONYMOUS, signal, closing: signal };
  const { body } = await route.handle({ ...request, params, query: new URLSearchParams(), body: new Uint8Array() });
  expect(body).toContain('"version":"1001"');
});
