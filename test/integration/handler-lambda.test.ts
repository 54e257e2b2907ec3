import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { startLambdaRuntimeApi } from '../../src/testing/lambda-runtime-api.ts';
import type { LambdaOutcome, LambdaRuntimeApi, LambdaRuntimeApiOptions } from '../../src/testing/lambda-runtime-api.ts';
import { buildFixture, managedRuntime, start, startGate } from '../fixtures/handler/process.ts';
import type { HandlerProcess, UnpackedHandler } from '../fixtures/handler/process.ts';

let unpacked: UnpackedHandler;
beforeAll(async () => {
  unpacked = await buildFixture();
});

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).toReversed()) await each.close();
});

async function boot(
  env: Readonly<Record<string, string>> = {},
  options: LambdaRuntimeApiOptions = {},
): Promise<{ readonly api: LambdaRuntimeApi; readonly runtime: HandlerProcess }> {
  const api = await startLambdaRuntimeApi(options);
  opened.push(api);
  const runtime = start(unpacked.bootstrap, {
    executable: unpacked.bootstrap,
    env: { AWS_LAMBDA_RUNTIME_API: api.address, _HANDLER: 'handler.handler', ...env },
  });
  opened.push({ close: () => runtime.stop() });
  return { api, runtime };
}

const event = (jobId: number, body = '', metadata: Readonly<Record<string, string>> = {}): string =>
  JSON.stringify({ job_id: jobId, call_id: 'k', args_base64: Buffer.from(body).toString('base64'), metadata });

/** The result in an outcome, or the code of its error. */
function said(outcome: LambdaOutcome): unknown {
  if (outcome.kind === 'error') return outcome.fault.type;
  const { result_base64: result, code } = JSON.parse(outcome.body.toString()) as { result_base64?: string; code?: string };
  return code ?? Buffer.from(result ?? '', 'base64').toString();
}

describe('custom runtime', () => {
  test('answers one event after the other', async () => {
    const { api } = await boot();
    expect([said(await api.invoke(event(2, 'a'))), said(await api.invoke(event(3))), said(await api.invoke(event(2, 'b')))]).toEqual([
      'a',
      'JOB_FAILED',
      'b',
    ]);
    expect(api.refused).toEqual([]);
  });

  test('may be frozen in the middle of an event: the Runtime API keeps connections on which nothing comes', async () => {
    const { api } = await boot();
    const { status, headers } = await fetch(`http://${api.address}/2018-06-01/runtime/nothing`);
    expect([status, headers.get('keep-alive')]).toEqual([404, null]);
  });

  test('reaches a Runtime API on this machine through a unix socket', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'bpr-runtime-api-'));
    opened.push({ close: async () => rmSync(folder, { recursive: true }) });
    const { api } = await boot({}, { socketPath: join(folder, 'api.sock') });
    expect(api.address).toBe(`unix:${join(folder, 'api.sock')}`);
    expect(said(await api.invoke(event(2, 'a')))).toBe('a');
  });

  test('puts the trace id of the event where the X-Ray SDK looks for it', async () => {
    const { api } = await boot();
    const trace = { traceId: 'Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1' };
    expect([said(await api.invoke(event(103, '_X_AMZN_TRACE_ID'), trace)), said(await api.invoke(event(103, '_X_AMZN_TRACE_ID')))]).toEqual(
      [trace.traceId, 'unset'],
    );
  });

  test('works on as many events at the same time as it is told', async () => {
    const { api, runtime } = await boot({ AWS_LAMBDA_MAX_CONCURRENCY: '4' });
    await api.waitForPolls(4);
    const slow = [1, 2, 3].map(() => api.invoke(event(102, '60000', { 'x-blueprint-timeout-ms': '400' })));
    await runtime.logged('slow job runs');
    expect(said(await api.invoke(event(2, 'quick')))).toBe('quick');
    expect((await Promise.all(slow)).map(said)).toEqual(['EXECUTOR_TIMEOUT', 'EXECUTOR_TIMEOUT', 'EXECUTOR_TIMEOUT']);
    await api.waitForPolls(4);
  });

  test('ends a call shortly before the platform would end the environment', async () => {
    const { api } = await boot();
    await api.waitForPolls(1);
    // It would be done before that, but without time for its answer.
    expect(said(await api.invoke(event(102, '500'), { deadlineMs: Date.now() + 600 }))).toBe('EXECUTOR_TIMEOUT');
    // Though there is time for the call itself.
    expect(said(await api.invoke(event(2, 'a'), { deadlineMs: Date.now() + 240 }))).toBe('EXECUTOR_TIMEOUT');
    expect(said(await api.invoke(event(2, 'b'), { deadlineMs: Date.now() + 60_000 }))).toBe('b');
  });

  test('an answer that is too large is reported as an error, and the next event is taken', async () => {
    const { api } = await boot();
    const outcome = await api.invoke(event(104, String(5 * 1024 * 1024)));
    expect(outcome).toMatchObject({ kind: 'error', fault: { type: 'Function.ResponseSizeTooLarge' } });
    expect(said(await api.invoke(event(2, 'next')))).toBe('next');
    expect(api.refused).toEqual([expect.stringMatching(/^413 .*\/response$/)]);
  });

  test('an exception that nobody catches is reported for the running event; the process ends with 1', async () => {
    const { api, runtime } = await boot();
    const outcome = await api.invoke(event(100));
    expect(outcome).toMatchObject({ kind: 'error', fault: { type: 'Function.Internal' } });
    if (outcome.kind === 'error')
      expect(JSON.parse(outcome.fault.body)).toMatchObject({
        errorMessage: 'nobody catches this',
        errorType: 'Function.Internal',
        stackTrace: expect.any(Array),
      });
    expect(await runtime.exit).toBe(1);
  });

  test('a rejected promise that nobody handles does not touch the event', async () => {
    const { api, runtime } = await boot();
    expect(said(await api.invoke(event(101, 'x')))).toBe('x');
    await runtime.logged('nobody handles it');
    expect(said(await api.invoke(event(2, 'alive')))).toBe('alive');
  });

  test('a module that does not load is reported as an init error; the process ends with 1', async () => {
    const { api, runtime } = await boot({ FAIL_AT_LOAD: '1' });
    const fault = await api.initError;
    expect(fault.type).toBe('Function.Internal');
    expect(JSON.parse(fault.body)).toMatchObject({ errorMessage: 'there is no database address' });
    expect(await runtime.exit).toBe(1);
  });

  test.each([
    ['an address that is none', { AWS_LAMBDA_RUNTIME_API: 'ftp://x' }, 'AWS_LAMBDA_RUNTIME_API is'],
    [
      'a concurrency that is none',
      { AWS_LAMBDA_MAX_CONCURRENCY: '0' },
      'AWS_LAMBDA_MAX_CONCURRENCY is "0"; it must be a whole number from 1 to 1024',
    ],
    [
      'a response mode that is none',
      { BLUEPRINT_RESPONSE_MODE: 'chunky' },
      'BLUEPRINT_RESPONSE_MODE is chunky; it must be buffered or streaming',
    ],
  ])('%s: it says so and ends with 1', async (_, env, message) => {
    const { runtime } = await boot(env);
    expect(await runtime.exit).toBe(1);
    expect((JSON.parse(runtime.stderr().trim()) as { reason: string }).reason).toContain(message);
  });

  test('a Runtime API that goes away ends the process with 1', async () => {
    const { api, runtime } = await boot();
    await api.waitForPolls(1);
    await api.close();
    expect(await runtime.exit).toBe(1);
    expect(runtime.stderr()).toContain('the Runtime API is gone');
  });
});

describe('SIGTERM', () => {
  test('idle: ends with 0', async () => {
    const { api, runtime } = await boot();
    await api.waitForPolls(1);
    await runtime.address;
    runtime.child.kill('SIGTERM');
    expect(await runtime.exit).toBe(0);
  });

  test('answers the running event, asks for no other, ends with 0', async () => {
    const { api, runtime } = await boot();
    const gate = await startGate();
    const slow = api.invoke(event(102, gate.url));
    await runtime.logged('slow job runs');
    runtime.child.kill('SIGTERM');
    const queued = api.invoke(event(2));
    queued.catch(() => {});
    await runtime.logged('the handler stops');
    gate.open();
    expect(said(await slow)).toBe('done');
    expect(await runtime.exit).toBe(0);
    await api.close();
    await expect(queued).rejects.toThrow('was queued');
  });

  test('an event that does not end is cancelled and answered; the status is 1', async () => {
    const { api, runtime } = await boot({ BLUEPRINT_DRAIN_MS: '50' });
    const slow = api.invoke(event(102, '60000'));
    await runtime.logged('slow job runs');
    runtime.child.kill('SIGTERM');
    expect(said(await slow)).toBe('ABORTED');
    expect(await runtime.exit).toBe(1);
  });
});

describe('streamed responses', () => {
  const streaming = { BLUEPRINT_RESPONSE_MODE: 'streaming' };

  test('may be larger than a buffered one, and come in pieces', async () => {
    const { api } = await boot(streaming);
    const outcome = await api.invoke(event(104, String(12 * 1024 * 1024)));
    expect(outcome).toMatchObject({ kind: 'response', streamed: true, contentType: 'application/json' });
    if (outcome.kind === 'response')
      expect([said(outcome) === 'a'.repeat(12 * 1024 * 1024), outcome.chunks > 50, outcome.fault]).toEqual([true, true, undefined]);
  });

  test('over HTTP begin with status and headers', async () => {
    const { api } = await boot(streaming);
    const http = {
      version: '2.0',
      rawPath: '/job/2',
      headers: { 'Content-Type': 'application/octet-stream' },
      requestContext: { http: { method: 'POST' } },
      body: 'hello',
      isBase64Encoded: false,
    };
    const outcome = await api.invoke(JSON.stringify(http));
    if (outcome.kind !== 'response') throw new Error(outcome.fault.body);
    const end = outcome.body.indexOf(Buffer.alloc(8));
    expect(outcome.contentType).toBe('application/vnd.awslambda.http-integration-response');
    expect(JSON.parse(outcome.body.toString('utf8', 0, end))).toEqual({
      statusCode: 200,
      headers: { 'content-type': 'application/octet-stream', 'x-blueprint-wire': 'v1,v2' },
    });
    expect(outcome.body.toString('utf8', end + 8)).toBe('hello');
  });

  test('that do not get through in time end with the error as trailers, and the next event is taken', async () => {
    const isRead = Promise.withResolvers<void>();
    const { api } = await boot(streaming, { onStreamChunk: () => isRead.promise });
    await api.waitForPolls(1);
    const deadlineMs = Date.now() + 5_000;
    const outcome = api.invoke(event(104, String(40 * 1024 * 1024)), { deadlineMs });
    setTimeout(isRead.resolve, deadlineMs - Date.now() + 200);
    const response = await outcome;
    if (response.kind !== 'response') throw new Error(response.fault.body);
    expect([response.fault?.type, JSON.parse(response.fault?.body ?? '')]).toEqual([
      'Function.ExecutorTimeout',
      expect.objectContaining({ errorType: 'Function.ExecutorTimeout', errorMessage: 'the deadline passed while the response was sent' }),
    ]);
    expect(response.body.length).toBeLessThan(40 * 1024 * 1024);
    expect(said(await api.invoke(event(2, 'next')))).toBe('next');
  });
});

describe('managed runtime', () => {
  async function managed(
    env: Readonly<Record<string, string>> = {},
  ): Promise<{ readonly runtime: HandlerProcess; invoke(eventJson: string, remainingMs?: number): Promise<unknown> }> {
    const runtime = start(managedRuntime, { args: [unpacked.file], env });
    opened.push({ close: () => runtime.stop() });
    return {
      runtime,
      async invoke(eventJson, remainingMs = 60_000) {
        runtime.child.stdin.write(`{"remainingMs":${remainingMs},"event":${eventJson}}\n`);
        return JSON.parse(String((await runtime.replies.next()).value));
      },
    };
  }

  test('calls the export of the bundle; the bundle starts nothing by itself', async () => {
    const { invoke, runtime } = await managed({ AWS_LAMBDA_RUNTIME_API: '127.0.0.1:9', PORT: '0' });
    expect(await invoke(event(2, 'hello'))).toEqual({ result_base64: Buffer.from('hello').toString('base64'), metadata: {} });
    expect(await invoke('{"job_id":2,"args":[1,2]}')).toEqual({ result: [1, 2] });
    runtime.child.stdin.end();
    expect(await runtime.exit).toBe(0);
  });

  test('an error is an answer', async () => {
    expect(await (await managed()).invoke(event(3))).toMatchObject({ code: 'JOB_FAILED' });
  });

  test('an HTTP event is answered with status, headers and text', async () => {
    const { invoke } = await managed();
    const http = (method: string, rawPath: string): string =>
      JSON.stringify({
        rawPath,
        headers: { 'content-type': 'application/json' },
        requestContext: { http: { method } },
        body: '{"job_id":2,"args":[7]}',
      });
    expect(await invoke(http('POST', '/'))).toEqual({
      statusCode: 200,
      headers: { 'content-type': 'application/json', 'x-blueprint-wire': 'v1,v2' },
      body: '{"result":[7]}',
      isBase64Encoded: false,
    });
    expect(await invoke(http('GET', '/healthz'))).toMatchObject({ statusCode: 200, body: expect.stringContaining('"status":"ok"') });
    expect(await invoke(http('GET', '/'))).toMatchObject({ statusCode: 404 });
  });

  test('the token is asked of HTTP events only: other events come through IAM', async () => {
    const { invoke } = await managed({ BLUEPRINT_TOKEN: 'open-sesame' });
    const http = (authorization: string): string =>
      JSON.stringify({
        rawPath: '/',
        headers: { Authorization: authorization },
        requestContext: { http: { method: 'POST' } },
        body: '{"job_id":2,"args":[7]}',
      });
    expect(await invoke(http('Bearer open'))).toMatchObject({ statusCode: 401 });
    expect(await invoke(http('Bearer open-sesame'))).toMatchObject({ statusCode: 200 });
    expect(await invoke('{"job_id":2,"args":[7]}')).toEqual({ result: [7] });
  });

  test('the time that remains is the deadline, less what the answer needs', async () => {
    expect(await (await managed()).invoke(event(5), 300)).toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
  });

  test.each(['null', '"text"', '[]', '{}', '{"requestContext":null}', '{"requestContext":{"http":{}},"headers":7}'])(
    'an event that is no request (%s) is answered',
    async (eventJson) => {
      expect(JSON.stringify(await (await managed()).invoke(eventJson))).toContain('WIRE_MALFORMED');
    },
  );

  test('a module that does not load fails the import, with its own error', async () => {
    const { runtime } = await managed({ FAIL_AT_LOAD: '1' });
    expect(await runtime.exit).toBe(1);
    expect(runtime.stderr()).toContain('TypeError: there is no database address');
  });
});
