import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { strToU8, zipSync } from 'fflate';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { HttpFaasDeployer, HttpFaasExecutor } from '../../plugins/http/index.ts';
import { CONFORMANCE_JOBS, checkExecutor, conformanceRouter, runExecutorConformance } from '../../src/conformance/conformance.ts';
import type { FaasExecutor } from '../../src/executor/executor.ts';
import { LocalExecutor } from '../../src/executor/local.ts';
import { decodeRequest, encodeError, encodeResponse } from '../../src/job/wire.ts';
import type { WireResponse } from '../../src/job/wire.ts';
import { startFaasServer } from '../../src/testing/faas-server.ts';
import type { FaasServer } from '../../src/testing/faas-server.ts';
import { RunnerError } from '../../src/errors.ts';

const NO_LIMIT = 'a call in the same process has no limit';

runExecutorConformance(
  { describe, it },
  {
    name: 'in-process',
    create: () => new LocalExecutor(conformanceRouter()),
    skip: { 'takes a call of exactly its limit': NO_LIMIT, 'refuses a call above its limit before it is sent': NO_LIMIT },
  },
);

/** A handler as small as it can be: it takes what the wire formats say; `v1` one that knows only JSON. */
async function serveHandler(v1: boolean): Promise<{ url: string; formats: string[]; close: () => Promise<unknown> }> {
  const router = conformanceRouter();
  const formats: string[] = [];
  const answer = async (request: IncomingMessage, signal: AbortSignal): Promise<WireResponse> => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    if (request.method === 'HEAD') return { status: 200, headers: {}, body: new Uint8Array() };
    if (v1 && request.headers['content-type'] !== 'application/json') return { status: 415, headers: {}, body: new Uint8Array() };
    const { format, call } = decodeRequest(request.headers, Buffer.concat(chunks), { jobId: request.url?.split('/').at(-1) ?? '' });
    formats.push(format);
    const results = await router.call(call, { signal });
    if (!results) throw new RunnerError('JOB_UNKNOWN', `no job ${call.jobId}`);
    return encodeResponse(format, results);
  };
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    void answer(request, gone.signal)
      .catch(encodeError)
      .then(({ status, headers, body }) =>
        response.writeHead(status, { ...headers, ...(!v1 && { 'x-blueprint-wire': 'v1,v2' }) }).end(body),
      );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    formats,
    close: () => new Promise((resolve) => (server.closeAllConnections(), server.close(resolve))),
  };
}

describe('http, plain', () => {
  let upstream: Awaited<ReturnType<typeof serveHandler>>;
  let current: Awaited<ReturnType<typeof serveHandler>>;
  beforeAll(async () => {
    upstream = await serveHandler(true);
    current = await serveHandler(false);
  });
  afterAll(() => Promise.all([upstream.close(), current.close()]));

  runExecutorConformance(
    { describe, it },
    { name: 'http, a handler that knows only JSON', create: () => new HttpFaasExecutor(upstream.url) },
  );
  runExecutorConformance({ describe, it }, { name: 'http, a handler that knows both', create: () => new HttpFaasExecutor(current.url) });
  runExecutorConformance({ describe, it }, { name: 'http, binary', create: () => new HttpFaasExecutor(current.url, { wire: 'binary' }) });

  it('finds out by itself which format a handler takes', () => {
    expect(new Set(upstream.formats)).toEqual(new Set(['json']));
    expect(new Set(current.formats)).toEqual(new Set(['json', 'octets']));
  });
});

describe('http, platform', () => {
  let platform: FaasServer;
  const functionId = (jobId: bigint): string => `conformance-${jobId}`;
  const executor = (): HttpFaasExecutor => new HttpFaasExecutor(platform.url, { mode: 'platform', functionId, bearer: () => 'key' });

  beforeAll(async () => {
    platform = await startFaasServer({ apiKey: 'key', payloadBytesMax: 32 * 1024 * 1024 });
    const source = (path: string): string => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).href);
    const bootstrap = `#!${process.execPath}
Promise.all([import(${source('conformance/conformance.ts')}), import(${source('job/wire.ts')}), import(${source('errors.ts')})]).then(async ([{ conformanceRouter }, wire, { RunnerError }]) => {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  const headers = { 'content-type': 'application/json' };
  try {
    const { format, call } = wire.decodeRequest(headers, Buffer.concat(chunks));
    const results = await conformanceRouter().call(call, { signal: new AbortController().signal });
    if (!results) throw new RunnerError('JOB_UNKNOWN', 'no such job');
    process.stdout.write(wire.encodeResponse(format, results).body);
  } catch (error) {
    process.stdout.write(wire.encodeError(error).body);
  }
});
`;
    const zip = zipSync({ bootstrap: strToU8(bootstrap) });
    const deployer = new HttpFaasDeployer(platform.url, { bearer: () => 'key' });
    await Promise.all(
      Object.values(CONFORMANCE_JOBS).map((jobId) =>
        deployer.deploy(functionId(jobId), { zip, sha256: '' }, { timeoutMs: 60_000, concurrencyMax: 40 }),
      ),
    );
    await deployer.close();
  });
  afterAll(() => platform.close());

  runExecutorConformance(
    { describe, it },
    {
      name: 'http, platform',
      create: executor,
      skip: {
        'the job sees the metadata of its call': 'the specification hands a function only job_id and args',
      },
    },
  );
});

describe('the suite itself', () => {
  const broken = (change: (executor: FaasExecutor) => Partial<FaasExecutor>): FaasExecutor => {
    const inner = new LocalExecutor(conformanceRouter());
    return {
      name: 'broken',
      limits: { ...inner.limits, requestBytesMax: 1_000, responseBytesMax: 2_000_000 },
      invoke: (call, options) => inner.invoke(call, options),
      close: () => inner.close(),
      ...change(inner),
    };
  };
  const failures = async (change: (executor: FaasExecutor) => Partial<FaasExecutor>): Promise<string[]> =>
    (await checkExecutor({ name: 'broken', create: () => broken(change) }))
      .filter(({ outcome }) => outcome === 'failed')
      .map(({ name }) => name);

  it('finds nothing wrong with a good executor', async () => {
    expect(await failures(() => ({}))).toEqual([]);
  });

  it('finds an executor that tries again by itself', async () => {
    expect(
      await failures((inner) => ({
        invoke: (call, options) =>
          inner.invoke(call, options).catch((error: unknown) => {
            if (call.jobId === CONFORMANCE_JOBS.mark) return inner.invoke(call, options);
            throw error;
          }),
      })),
    ).toEqual(['runs a failing job once']);
  });

  it('finds an executor that loses the metadata of a result', async () => {
    const { Metadata } = await import('../../src/job/call.ts');
    expect(
      await failures((inner) => ({
        invoke: async (call, options) => ({
          results: (await inner.invoke(call, options)).results.map(({ body }) => ({ body, metadata: new Metadata() })),
        }),
      })),
    ).toEqual(['the result carries the call id and the service id of its call', 'calls at the same time keep their identity']);
  });

  it('finds an executor that ignores deadline and signal', async () => {
    const deadline = Number.MAX_SAFE_INTEGER;
    const found = await failures((inner) => ({
      invoke: (call, options) =>
        inner.invoke(call.jobId === CONFORMANCE_JOBS.wait ? { ...call, body: Buffer.from('500') } : call, {
          ...options,
          deadline,
          signal: undefined,
        }),
    }));
    expect(found).toEqual([
      'a call that is not done at its deadline is EXECUTOR_TIMEOUT, and the next one works',
      'an abort ends the call with ABORTED, and the next one works',
      'a call that was aborted before is not run',
      'close lets running calls end, refuses new ones, and can be repeated',
    ]);
  });

  it('refuses a skip that names no case or gives no reason', async () => {
    const create = (): FaasExecutor => broken(() => ({}));
    await expect(checkExecutor({ name: 'x', create, skip: { 'no such case': 'why' } })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(checkExecutor({ name: 'x', create, skip: { 'echoes 1 bytes': ' ' } })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});
