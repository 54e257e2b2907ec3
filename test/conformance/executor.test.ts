import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { strToU8, zipSync } from 'fflate';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startHttp } from '../../handler/adapters/http.ts';
import { createHandler } from '../../handler/index.ts';
import type { RunningAdapter } from '../../handler/index.ts';
import { HttpFaasDeployer, HttpFaasExecutor } from '../../plugins/http/index.ts';
import { CONFORMANCE_JOBS, checkExecutor, conformanceRouter, runExecutorConformance } from '../../src/conformance/conformance.ts';
import type { FaasExecutor } from '../../src/executor/executor.ts';
import { LocalExecutor } from '../../src/executor/local.ts';
import { decodeRequest, encodeError, encodeResponse } from '../../src/job/wire.ts';
import type { WireResponse } from '../../src/job/wire.ts';
import { startFaasServer } from '../../src/testing/faas-server.ts';
import type { FaasServer } from '../../src/testing/faas-server.ts';
import { RunnerError } from '../../src/errors.ts';

runExecutorConformance(
  { describe, it },
  {
    name: 'in-process',
    create: () => new LocalExecutor(conformanceRouter()),
    skip: {
      'takes a call of exactly its limit, and one byte more is refused before it is sent': 'a call in the same process has no limit',
    },
  },
);

/** A handler as those of the Blueprint SDK: it takes JSON and nothing else, and says nothing of wire formats. */
async function serveUpstream(): Promise<{ url: string; close: () => Promise<unknown> }> {
  const router = conformanceRouter();
  const answer = async (request: IncomingMessage, signal: AbortSignal): Promise<WireResponse> => {
    const body = await buffer(request);
    if (request.method === 'HEAD') return { status: 200, headers: {}, body: new Uint8Array() };
    if (request.headers['content-type'] !== 'application/json') return { status: 415, headers: {}, body: new Uint8Array() };
    const { format, call } = decodeRequest(request.headers, body, { jobId: request.url?.split('/').at(-1) ?? '' });
    const results = await router.call(call, { signal });
    if (!results) throw new RunnerError('JOB_UNKNOWN', `no job ${call.jobId}`);
    return encodeResponse(format, results);
  };
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    void answer(request, gone.signal)
      .catch(encodeError)
      .then(({ status, headers, body }) => response.writeHead(status, headers).end(body));
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const close = (): Promise<void> =>
    new Promise((resolve) => {
      server.closeAllConnections();
      server.close(() => resolve());
    });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close };
}

describe('http, plain', () => {
  let upstream: Awaited<ReturnType<typeof serveUpstream>>;
  let ours: RunningAdapter;
  let overSocket: RunningAdapter;
  let directory: string;
  beforeAll(async () => {
    upstream = await serveUpstream();
    directory = await mkdtemp(join(tmpdir(), 'executor-conformance-'));
    const handler = createHandler(conformanceRouter(), { requestBytesMax: 32 * 1024 * 1024 });
    ours = await startHttp(handler, { host: '127.0.0.1', port: 0, concurrencyMax: 100 });
    overSocket = await startHttp(handler, { host: '', port: 0, socketPath: join(directory, 'socket'), concurrencyMax: 100 });
  });
  afterAll(async () => {
    await Promise.all([upstream.close(), ours.close(AbortSignal.abort()), overSocket.close(AbortSignal.abort())]);
    await rm(directory, { recursive: true });
  });

  const framework = { describe, it };
  runExecutorConformance(framework, { name: 'http, a handler that knows only JSON', create: () => new HttpFaasExecutor(upstream.url) });
  runExecutorConformance(framework, { name: 'http, our handler', create: () => new HttpFaasExecutor(ours.address) });
  runExecutorConformance(framework, {
    name: 'http, our handler, binary from the first call on',
    create: () => new HttpFaasExecutor(ours.address, { wire: 'binary' }),
  });
  runExecutorConformance(framework, { name: 'http, our handler on a unix socket', create: () => new HttpFaasExecutor(overSocket.address) });
});

describe('http, platform', () => {
  let platform: FaasServer;
  const functionId = (jobId: bigint): string => `conformance-${jobId}`;
  const executor = (): HttpFaasExecutor => new HttpFaasExecutor(platform.url, { mode: 'platform', functionId, bearer: () => 'key' });

  beforeAll(async () => {
    platform = await startFaasServer({ apiKey: 'key', payloadBytesMax: 32 * 1024 * 1024 });
    const source = (path: string): string => JSON.stringify(new URL(`../../${path}`, import.meta.url).href);
    const bootstrap = `#!${process.execPath}
Promise.all([import(${source('src/conformance/jobs.ts')}), import(${source('handler/index.ts')}), import('node:stream/consumers')]).then(
  async ([{ conformanceRouter }, { createHandler }, { buffer }]) => {
    const handler = createHandler(conformanceRouter(), { requestBytesMax: 2 ** 30 });
    const request = { headers: { 'content-type': 'application/json' }, body: await buffer(process.stdin) };
    process.stdout.write((await handler.handle(request)).body);
  },
);
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
