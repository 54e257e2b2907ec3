/** One package on the platforms that load it: each passes the cases that every platform passes, and does what only it can ask for. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createHandler } from '../../handler/index.ts';
import { canRunHandlerCase, checkHandlerCase, handlerCases } from '../../src/conformance/handler.ts';
import { packageFor } from '../../src/deploy/package-platform.ts';
import { router } from '../fixtures/handler/jobs.ts';
import { buildFixture, call, start } from '../fixtures/handler/process.ts';
import type { HttpAnswer } from '../fixtures/handler/process.ts';
import { requirePeer } from '../require.ts';
import {
  azureModel,
  azureWorker,
  functionsFramework,
  hasWorkerd,
  hostInvocation,
  openWhisk,
  overHttp,
  plainAction,
  unpackedFor,
  webAction,
  workerd,
} from '../support/handler-platforms.ts';
import type { OpenPlatform, OpenWhisk, Server } from '../support/handler-platforms.ts';

let zipFile: string;
beforeAll(async () => {
  ({ zipFile } = (await buildFixture()).built);
});

const opened: { close(): Promise<void> }[] = [];
const keep = <Opened extends { close(): Promise<void> }>(each: Opened): Opened => {
  opened.push(each);
  return each;
};
afterEach(async () => {
  for (const each of opened.splice(0).toReversed()) await each.close();
});

const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const JSON_HEADERS = { 'content-type': 'application/json' };
const base64 = (text: string): string => Buffer.from(text).toString('base64');
const event = (jobId: number, body = '', metadata: Readonly<Record<string, string>> = {}) => ({
  job_id: jobId,
  args_base64: base64(body),
  metadata,
});
/** The text in a result, or the code of an error. */
const saidIn = (document: unknown): string => {
  const { result_base64: result, code } = document as { result_base64?: string; code?: string };
  return code ?? Buffer.from(result ?? '', 'base64').toString();
};
const said = ({ body }: Pick<HttpAnswer, 'body'>): string => saidIn(JSON.parse(body.toString()));

const openWhiskPackage = async (): Promise<OpenWhisk> => openWhisk((await packageFor('digitalocean', readFileSync(zipFile))).zip);

async function customHandler(env: Readonly<Record<string, string>> = {}): Promise<Server> {
  const directory = await unpackedFor('azure-custom', zipFile);
  const { customHandler: custom } = JSON.parse(readFileSync(join(directory, 'host.json'), 'utf8')) as {
    customHandler: { description: { defaultExecutablePath: string } };
  };
  const executable = join(directory, custom.description.defaultExecutablePath);
  const handler = start(executable, { executable, env: { FUNCTIONS_CUSTOMHANDLER_PORT: '0', ...env } });
  return { address: await handler.address, output: handler.stderr, close: () => handler.stop() };
}

async function customHandlerInvocations(): Promise<OpenPlatform> {
  const server = await customHandler();
  return {
    offers: ['text'],
    async send(request) {
      const answer = await call(server.address, { path: '/call', headers: JSON_HEADERS }, json(hostInvocation(request)));
      const { Outputs: outputs, ReturnValue: value } = JSON.parse(answer.body.toString()) as {
        Outputs: { res: { statusCode: number; body: string } };
        ReturnValue: unknown;
      };
      expect(value).toEqual(outputs.res);
      return { status: outputs.res.statusCode, body: Buffer.from(outputs.res.body) };
    },
    close: server.close,
  };
}

const testWorkerd = requirePeer('workerd', hasWorkerd);

interface PlatformUnderTest {
  readonly name: string;
  readonly open: () => Promise<OpenPlatform>;
  readonly declare?: typeof testWorkerd;
  /** Cases that never reach the handler: the platform answers with 400 itself. */
  readonly refuses?: readonly string[];
}

const platforms: readonly PlatformUnderTest[] = [
  {
    name: 'Google Cloud functions-framework',
    // It reads JSON itself, and takes objects and arrays only.
    refuses: ['WIRE_MALFORMED: null'],
    open: async () => overHttp(await functionsFramework(await unpackedFor('gcp', zipFile)), ['http', 'large']),
  },
  {
    name: 'Cloudflare workerd',
    open: async () => overHttp(await workerd(await unpackedFor('cloudflare', zipFile))),
    declare: testWorkerd,
  },
  { name: 'Azure Node model v4', open: async () => azureModel(await azureWorker(await unpackedFor('azure', zipFile))) },
  { name: 'Azure custom handler, forwarded requests', open: async () => overHttp(await customHandler()) },
  { name: 'Azure custom handler, invocations', open: customHandlerInvocations },
  { name: 'OpenWhisk raw web action', open: async () => webAction(await openWhiskPackage()) },
  { name: 'OpenWhisk action', open: async () => plainAction(await openWhiskPackage()) },
];

describe.each(platforms)('the cases of every platform: $name', ({ open, declare = test, refuses = [] }) => {
  let platform: OpenPlatform | undefined;
  const reference = createHandler(router);
  afterAll(() => platform?.close());

  for (const handlerCase of handlerCases) {
    declare(handlerCase.name, async () => {
      platform ??= await open();
      if (refuses.includes(handlerCase.name)) {
        expect((await platform.send(handlerCase.request())).status).toBe(400);
        return;
      }
      if (!canRunHandlerCase(handlerCase, platform)) {
        expect(handlerCase.needs).not.toEqual([]);
        return;
      }
      const { body } = await checkHandlerCase(handlerCase, platform);
      if (!('code' in handlerCase.expected)) return;
      const { code } = JSON.parse(Buffer.from((await reference.handle(handlerCase.request())).body).toString()) as { code: string };
      expect(JSON.parse(Buffer.from(body).toString())).toMatchObject({ code });
    });
  }
});

describe('Google Cloud functions-framework', () => {
  test('a CloudEvent carries the request: of the scheduler in a Pub/Sub message, of others as data', async () => {
    const server = keep(await functionsFramework(await unpackedFor('gcp', zipFile), { signature: 'cloudevent' }));
    const cloudEvent = (data: unknown): Promise<HttpAnswer> =>
      call(
        server.address,
        { headers: { 'content-type': 'application/cloudevents+json' } },
        json({ specversion: '1.0', id: '1', source: '//scheduler', type: 'google.cloud.pubsub.topic.v1.messagePublished', data }),
      );
    const message = { message: { data: base64(JSON.stringify(event(2, 'in a message'))) }, subscription: 's' };
    expect(said(await cloudEvent(message))).toBe('in a message');
    expect(said(await cloudEvent(event(2, 'as data')))).toBe('as data');
    // The platform repeats a failed event: a failed call is an answer.
    const failed = await cloudEvent(event(3));
    expect([failed.status, said(failed)]).toEqual([200, 'JOB_FAILED']);
  });

  test('calls end before Cloud Run ends them, and need the token', async () => {
    const env = { CLOUD_RUN_TIMEOUT_SECONDS: '1', BLUEPRINT_TOKEN: 'secret' };
    const server = keep(await functionsFramework(await unpackedFor('gcp', zipFile), { env }));
    const headers = { ...JSON_HEADERS, authorization: 'Bearer secret' };
    const slow = await call(server.address, { headers }, json(event(102, '60000')));
    expect([slow.status, said(slow)]).toEqual([504, 'EXECUTOR_TIMEOUT']);
    await expect.poll(server.output).toContain('slow job cancelled: EXECUTOR_TIMEOUT');
    expect(said(await call(server.address, { headers: JSON_HEADERS }, json(event(2))))).toBe('EXECUTOR_UNAUTHORIZED');
    expect((await call(server.address, { method: 'GET', path: '/healthz' })).body.toString()).toContain('"status":"ok"');
  });

  test('a start that fails is told by the framework', async () => {
    const directory = await unpackedFor('gcp', zipFile);
    await expect(functionsFramework(directory, { env: { FAIL_AT_LOAD: '1' } })).rejects.toThrow('there is no database address');
  });
});

describe('Cloudflare workerd', () => {
  const SCHEDULES = JSON.stringify([
    { name: 'nightly', cron: '0 3 * * *', event: event(102, '0') },
    { name: 'hourly', cron: '0 * * * *', event: event(3) },
  ]);

  testWorkerd('a time runs the calls of its expression; one that fails is logged', async () => {
    const server = keep(await workerd(await unpackedFor('cloudflare', zipFile), { BLUEPRINT_SCHEDULES: SCHEDULES }));
    const time = (cron: string): Promise<HttpAnswer> =>
      call(server.address, { method: 'GET', path: `/scheduled/${encodeURIComponent(cron)}` });
    expect((await time('0 * * * *')).body.toString()).toBe('ok');
    await expect.poll(server.output).toContain('"code":"JOB_FAILED"');
    expect(server.output()).not.toContain('slow job runs');
    expect((await time('0 3 * * *')).body.toString()).toBe('ok');
    await expect.poll(server.output).toContain('slow job runs');
  });

  testWorkerd('bindings are the environment of the jobs and of the handler', async () => {
    const server = keep(await workerd(await unpackedFor('cloudflare', zipFile), { GREETING: 'hello', BLUEPRINT_TOKEN: 'secret' }));
    expect(said(await call(server.address, { headers: JSON_HEADERS }, json(event(103, 'GREETING'))))).toBe('EXECUTOR_UNAUTHORIZED');
    const headers = { ...JSON_HEADERS, authorization: 'Bearer secret' };
    expect(said(await call(server.address, { headers }, json(event(103, 'GREETING'))))).toBe('hello');
    const late = await call(server.address, { headers }, json(event(102, '60000', { 'x-blueprint-timeout-ms': '50' })));
    expect([late.status, said(late)]).toEqual([504, 'EXECUTOR_TIMEOUT']);
  });
});

describe('Azure', () => {
  const SCHEDULES = JSON.stringify([{ name: 'nightly', cron: '0 0 3 * * *', event: event(102, '0') }]);
  const timer = { Schedule: { AdjustForDST: true }, ScheduleStatus: null, IsPastDue: false };

  test('the model v4 gets one function for all routes and one for each schedule', async () => {
    const worker = await azureWorker(await unpackedFor('azure', zipFile), { BLUEPRINT_SCHEDULES: SCHEDULES });
    keep({ close: () => worker.process.stop() });
    const bindings = worker.started.functions.map(({ name, bindings: each }) => [name, ...Object.values(each)]);
    expect(worker.started.model).toBe('@azure/functions');
    expect(bindings).toEqual([
      [
        'call',
        expect.objectContaining({ type: 'httpTrigger', route: '{*path}', authLevel: 'function', methods: ['GET', 'HEAD', 'POST'] }),
        expect.objectContaining({ type: 'http', direction: 'out' }),
      ],
      ['nightly', expect.objectContaining({ type: 'timerTrigger', schedule: '0 0 3 * * *' })],
    ]);
    await worker.invoke({ name: 'nightly', trigger: 'timerTrigger', data: { json: JSON.stringify(timer) } });
    await worker.process.logged('slow job runs');
  });

  test('a custom handler runs the call of the schedule that has the name of the function', async () => {
    const server = keep(await customHandler({ BLUEPRINT_SCHEDULES: SCHEDULES }));
    const invoke = (name: string, invocation: unknown): Promise<HttpAnswer> =>
      call(server.address, { path: `/${name}`, headers: JSON_HEADERS }, json(invocation));
    const invocation = { Data: { timer }, Metadata: { sys: { MethodName: 'nightly' } } };
    expect(JSON.parse((await invoke('nightly', invocation)).body.toString())).toEqual({ Outputs: {}, Logs: [], ReturnValue: null });
    await expect.poll(server.output).toContain('slow job runs');
    const unknown = await invoke('weekly', invocation);
    expect([unknown.status, said(unknown)]).toEqual([400, 'CONFIG_INVALID']);
    const binary = hostInvocation({ headers: { 'content-type': 'application/octet-stream' }, jobId: '2', body: Buffer.from([0, 255]) });
    const refused = JSON.parse((await invoke('call', binary)).body.toString()) as { Outputs: { res: { statusCode: number } } };
    expect(refused.Outputs.res.statusCode).toBe(400);
  });

  test('a call of a schedule that fails is in the logs of the invocation', async () => {
    const env = { BLUEPRINT_SCHEDULES: JSON.stringify([{ name: 'broken', cron: '* * * * * *', event: event(3) }]) };
    const server = keep(await customHandler(env));
    const { body } = await call(server.address, { path: '/broken', headers: JSON_HEADERS }, json({ Data: { timer }, Metadata: {} }));
    expect(JSON.parse(body.toString())).toMatchObject({ Outputs: {}, Logs: [expect.stringContaining('JOB_FAILED')] });
  });
});

describe('OpenWhisk and DigitalOcean', () => {
  test('a web action that is not raw has the members of the body among its parameters', async () => {
    const action = keep(await openWhiskPackage());
    const parameters = { __ow_method: 'post', __ow_headers: { ...JSON_HEADERS }, __ow_path: '/invoke', ...event(2, 'merged') };
    const { result } = await action.run(parameters);
    expect([result['statusCode'], saidIn(result['body'])]).toEqual([200, 'merged']);
  });

  test('a request under the name of http, its body as text or as base64', async () => {
    const action = keep(await openWhiskPackage());
    const http = (body: string, isBase64Encoded?: boolean) => ({
      http: { method: 'POST', headers: JSON_HEADERS, path: '/job/2', body, ...(isBase64Encoded !== undefined && { isBase64Encoded }) },
    });
    const text = JSON.stringify(event(2, 'text'));
    const results = [await action.run(http(text)), await action.run(http(text, false)), await action.run(http(base64(text), true))];
    expect(results.map(({ result }) => saidIn(result['body']))).toEqual(['text', 'text', 'text']);
    const health = await action.run({ http: { method: 'GET', headers: {}, path: '/health', body: '' } });
    expect(health.result['body']).toMatchObject({ status: 'ok' });
  });

  test('a call ends before the deadline of its activation', async () => {
    const action = keep(await openWhiskPackage());
    const { result } = await action.run(event(102, '60000'), { deadline: String(Date.now() + 400) });
    expect(saidIn(result)).toBe('EXECUTOR_TIMEOUT');
  });
});

test('the package of a platform is the same for the same package, and says what differs', async () => {
  const zip = readFileSync(zipFile);
  const [first, second] = [await packageFor('digitalocean', zip), await packageFor('digitalocean', zip)];
  expect(first.sha256).toBe(second.sha256);
  expect((await packageFor('aws', zip)).zip).toBe(zip);
  await expect(packageFor('gcp', Buffer.from('no zip'))).rejects.toMatchObject({ code: 'PACKAGE_INVALID' });
});
