import { readFileSync, readdirSync, statSync } from 'node:fs';
import { request as httpsRequest } from 'node:https';
import { join } from 'node:path';
import {
  CreateFunctionCommand,
  DeleteLayerVersionCommand,
  GetFunctionCommand,
  GetFunctionConfigurationCommand,
  InvokeCommand,
  LambdaClient,
  ListFunctionsCommand,
  ListLayerVersionsCommand,
  ListVersionsByFunctionCommand,
  PublishLayerVersionCommand,
  PutFunctionEventInvokeConfigCommand,
  UpdateFunctionConfigurationCommand,
  UpdateFunctionEventInvokeConfigCommand,
} from '@aws-sdk/client-lambda';
import { describe, expect, test } from 'vitest';
import { Gateway } from '../../src/gateway/gateway.ts';
import type { Scope } from '../../src/gateway/http.ts';
import { KeyFolder } from '../../src/gateway/keys.ts';
import { FakeClock } from '../../src/testing/fake-clock.ts';
import { makeCertificate } from '../support/certificates.ts';
import { FakeBackend } from '../support/fake-backend.ts';
import { HELLO, newFolder, send, startGateway } from '../support/gateway.ts';
import type { TestGateway, TestReply } from '../support/gateway.ts';

const deploy = (name: string): string => `PUT /api/v1/functions/${name}?runtime=nodejs24.x&handler=index.handler&timeout_ms=60000`;

async function startWithKeys(
  options: Parameters<typeof startGateway>[0] = {},
): Promise<TestGateway & { readonly keys: KeyFolder; readonly admin: string }> {
  const keys = new KeyFolder({ folder: join(await newFolder(), 'keys') });
  const admin = keys.create({ name: 'admin', scopes: ['admin'] }).secret;
  return { ...(await startGateway({ auth: { keys }, ...options })), keys, admin };
}

const bearer = (key: string): { headers: Record<string, string> } => ({ headers: { authorization: `Bearer ${key}` } });

describe('keys', () => {
  test('without one only what is public is answered', async () => {
    const { url, admin } = await startWithKeys();
    for (const line of [
      'GET /api/v1/functions',
      'POST /api/v1/execute',
      'GET /metrics',
      'GET /api/v1/instances',
      'GET /2015-03-31/functions/',
      'GET /api/functions/job1',
    ]) {
      const reply = await send(url, line);
      expect([line, reply.status >= 401 && reply.status <= 403, reply.headers.get('x-request-id')?.length]).toEqual([line, true, 36]);
      const wrong = await send(url, line, bearer(`${admin.slice(0, -2)}xx`));
      expect([line, wrong.status >= 401 && wrong.status <= 403]).toEqual([line, true]);
    }
    expect((await send(url, 'GET /api/v1/functions')).headers.get('www-authenticate')).toBe('Bearer');
    expect(await send(url, 'GET /api/v1/functions', bearer('nonsense'))).toMatchObject({ status: 401, code: 'UNAUTHORIZED' });
    expect((await send(url, 'GET /healthz')).status).toBe(200);
    expect((await send(url, 'GET /api/v1/functions', bearer(admin))).status).toBe(200);
    expect((await send(url, 'GET /api/v1/functions', { headers: { 'x-api-key': admin } })).status).toBe(200);
  });

  test('each scope opens its routes and no other', async () => {
    const { url, admin, keys } = await startWithKeys();
    await send(url, deploy('hello'), { body: HELLO, ...bearer(admin) });
    const lines: Readonly<Record<Scope, readonly string[]>> = {
      'functions:read': [
        'GET /api/v1/functions',
        'GET /api/v1/functions/hello',
        'GET /api/v1/instances',
        'GET /api/v1/info',
        'GET /metrics',
      ],
      'functions:write': ['PATCH /api/v1/functions/hello', 'POST /api/v1/functions/hello/versions', 'GET /api/v1/functions/hello/code'],
      invoke: ['POST /api/v1/functions/hello/invoke', 'POST /api/v1/functions/hello/stream'],
      // What it opens is a subscription.
      invocations: [],
      logs: ['GET /api/v1/functions/hello/logs'],
      admin: [],
    };
    for (const scope of Object.keys(lines) as Scope[]) {
      const { secret } = keys.create({ name: scope, scopes: [scope] });
      for (const [needed, routes] of Object.entries(lines)) {
        for (const line of routes) {
          const body = line.startsWith('GET') ? {} : { body: '{}' };
          const { status, code } = await send(url, line, { ...body, ...bearer(secret) });
          const allowed = scope === needed || scope === 'admin';
          expect([scope, line, status < 300, allowed ? undefined : code]).toEqual([
            scope,
            line,
            allowed,
            allowed ? undefined : 'FORBIDDEN',
          ]);
        }
      }
    }
  });

  test('a key may be for some functions', async () => {
    const { url, admin, keys } = await startWithKeys();
    for (const name of ['job-a', 'other']) await send(url, deploy(name), { body: HELLO, ...bearer(admin) });
    const key = bearer(keys.create({ name: 'jobs', scopes: ['invoke', 'functions:read', 'functions:write'], functions: ['job-*'] }).secret);
    expect((await send(url, 'POST /api/v1/functions/job-a/invoke', { body: '1', ...key })).status).toBe(200);
    expect(await send(url, 'POST /api/v1/functions/other/invoke', { body: '1', ...key })).toMatchObject({ status: 403, code: 'FORBIDDEN' });
    expect(await send(url, 'POST /api/v1/execute', { body: '{"function":"other"}', ...key })).toMatchObject({ status: 403 });
    expect(await send(url, 'POST /api/v1/instances/warm', { body: '{"function":"other","count":1}', ...key })).toMatchObject({
      status: 403,
    });
    expect(await send(url, deploy('other'), { body: HELLO, ...key })).toMatchObject({ status: 403 });
    expect(await send(url, 'GET /api/v1/functions', key)).toMatchObject({ json: { functions: [{ name: 'job-a' }] } });
    const zip = Buffer.from(HELLO).toString('base64');
    expect(
      await send(url, 'POST /api/v1/execute', { body: JSON.stringify({ zip, runtime: 'nodejs24.x', handler: 'i.h' }), ...key }),
    ).toMatchObject({ status: 403 });
  });

  test('values of variables are for those who may change the function', async () => {
    const { url, admin, keys } = await startWithKeys();
    await send(url, deploy('hello'), { body: HELLO, ...bearer(admin) });
    await send(url, 'PATCH /api/v1/functions/hello', { body: '{"environment":{"TOKEN":"secret"}}', ...bearer(admin) });
    const reader = keys.create({ name: 'r', scopes: ['functions:read'] }).secret;
    const { text } = await send(url, 'GET /api/v1/functions/hello', bearer(reader));
    expect([text.includes('secret'), text.includes('TOKEN')]).toEqual([false, true]);
    expect((await send(url, 'GET /api/v1/functions/hello', bearer(admin))).text).toContain('secret');
  });

  test('expire, are revoked, and lie on disk as hashes', async () => {
    const clock = new FakeClock();
    const folder = join(await newFolder(), 'keys');
    const keys = new KeyFolder({ folder, clock });
    const { secret, key } = keys.create({ name: 'short', scopes: ['invoke'], expiresAt: clock.now() + 60_000 });
    const other = keys.create({ name: 'long', scopes: ['invoke'] });
    expect(keys.find(secret)?.name).toBe('short');
    const files = readdirSync(folder);
    expect(files).toHaveLength(2);
    for (const file of files) {
      expect(statSync(join(folder, file)).mode & 0o777).toBe(0o600);
      const text = readFileSync(join(folder, file), 'utf8');
      expect([text.includes(secret.slice(-43)), text.includes(other.secret.slice(-43))]).toEqual([false, false]);
    }
    expect(statSync(folder).mode & 0o777).toBe(0o700);
    // Another process revokes: this one notices within a second.
    expect(new KeyFolder({ folder }).revoke(other.key.id)).toBe(true);
    await clock.advance(1_001);
    expect(keys.find(other.secret)).toBeUndefined();
    await clock.advance(60_000);
    expect(keys.find(secret)).toBeUndefined();
    expect(keys.list().map(({ id }) => id)).toEqual([key.id]);
    expect(keys.revoke('../../etc/passwd')).toBe(false);
    expect(keys.find(`bpr_${key.id}_`)).toBeUndefined();
  });

  test('have a name that can be read again', async () => {
    const keys = new KeyFolder({ folder: join(await newFolder(), 'keys') });
    const make = (name: string): unknown => keys.create({ name, scopes: ['invoke'] });
    for (const name of ['', ' ', 'a\nb', 'x'.repeat(129)])
      expect(() => make(name)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }) as Error);
    make('x'.repeat(128));
    expect(keys.list()).toHaveLength(1);
  });
});

test('bearer tokens that were made elsewhere', async () => {
  const token = 'a-token-of-somebody-else';
  const { url } = await startGateway({ auth: { tokens: [{ name: 'ops', token, scopes: ['functions:read'] }] } });
  expect((await send(url, 'GET /api/v1/functions', bearer(token))).status).toBe(200);
  expect((await send(url, 'POST /api/v1/execute', { body: '{}', ...bearer(token) })).status).toBe(403);
  expect((await send(url, 'GET /api/v1/functions', bearer(`${token}x`))).status).toBe(401);
  const backends = new Map([['fake', new FakeBackend()]]);
  expect(() => new Gateway({ folder: '/nowhere', backends, auth: { tokens: [{ name: 'ops', token: 'short' }] } })).toThrow(
    /less than 16 characters/,
  );
});

test('client certificates', async () => {
  const authority = makeCertificate('authority');
  const own = makeCertificate('gateway', authority);
  const client = makeCertificate('operator-7', authority);
  const stranger = makeCertificate('operator-7', makeCertificate('another authority'));
  const { url } = await startGateway({
    auth: { certificates: { scopes: ['functions:read'] } },
    address: { tls: { cert: own.cert, key: own.key, ca: authority.cert } },
  });
  const ask = (line: string, certificate?: { cert: string; key: string }): Promise<number> =>
    new Promise((resolve, reject) => {
      const [method, path] = line.split(' ');
      const options = {
        method,
        ca: authority.cert,
        agent: false as const,
        ...(certificate && { cert: certificate.cert, key: certificate.key }),
      };
      const outgoing = httpsRequest(url + path, options, (incoming) => {
        incoming.resume();
        resolve(incoming.statusCode ?? 0);
      });
      outgoing.on('error', reject).end();
    });
  expect(await ask('GET /api/v1/functions', client)).toBe(200);
  const unreadable = { auth: { certificates: {} }, address: { tls: { cert: own.cert, key: own.key, ca: own.key } } };
  await expect(startGateway(unreadable)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  expect(await ask('POST /api/v1/execute', client)).toBe(403);
  expect(await ask('GET /api/v1/functions')).toBe(401);
  expect(await ask('GET /api/v1/functions', stranger)).toBe(401);
  expect(await ask('GET /healthz')).toBe(200);
  await expect(startGateway({ auth: { certificates: {} } })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
});

const HIDDEN = { Error: { ErrorCode: 'AccessDeniedException', Message: expect.stringContaining('functions:write') as string } };

function clientOf(
  url: string,
  keys: KeyFolder,
  grant: { readonly scopes: readonly Scope[]; readonly functions?: readonly string[] },
): LambdaClient {
  const { key, secretAccessKey = '' } = keys.create({ name: 'aws', ...grant, signing: true });
  const credentials = { accessKeyId: key.accessKeyId ?? '', secretAccessKey };
  return new LambdaClient({ endpoint: url, region: 'us-east-1', maxAttempts: 1, credentials });
}

describe('signatures of AWS', () => {
  test('of the unmodified SDK are checked to the last bit', async () => {
    const { url, keys, admin } = await startWithKeys();
    await send(url, deploy('hello'), { body: HELLO, ...bearer(admin) });
    const { key, secretAccessKey = '' } = keys.create({
      name: 'aws',
      scopes: ['invoke', 'functions:read'],
      functions: ['hello'],
      signing: true,
    });
    const client = (secret: string, accessKeyId = key.accessKeyId ?? ''): LambdaClient =>
      new LambdaClient({ endpoint: url, region: 'eu-north-1', maxAttempts: 1, credentials: { accessKeyId, secretAccessKey: secret } });
    const { Payload } = await client(secretAccessKey).send(
      new InvokeCommand({ FunctionName: 'hello', Qualifier: '$LATEST', Payload: '{"a":"ü"}' }),
    );
    expect(Buffer.from(Payload ?? []).toString()).toBe('{"a":"ü"}');
    expect((await client(secretAccessKey).send(new ListFunctionsCommand({ MaxItems: 5 }))).Functions).toHaveLength(1);
    await expect(client('wrong').send(new ListFunctionsCommand({}))).rejects.toMatchObject({ name: 'UnrecognizedClientException' });
    await expect(client(secretAccessKey, 'BPRK0000000000000000').send(new ListFunctionsCommand({}))).rejects.toMatchObject({
      name: 'UnrecognizedClientException',
    });
    await expect(client(secretAccessKey).send(new InvokeCommand({ FunctionName: 'other', Payload: '1' }))).rejects.toMatchObject({
      name: 'AccessDeniedException',
    });
    keys.revoke(key.id);
    const other = new KeyFolder({ folder: keys.folder });
    expect(other.findSigning(key.accessKeyId ?? '')).toBeUndefined();
  });

  test('code and values of variables are for those who may change the function', async () => {
    const { url, keys, admin } = await startWithKeys();
    await send(url, deploy('hello'), { body: HELLO, ...bearer(admin) });
    await send(url, 'PATCH /api/v1/functions/hello', { body: '{"environment":{"TOKEN":"secret"}}', ...bearer(admin) });
    const name = { FunctionName: 'hello' };
    const reader = clientOf(url, keys, { scopes: ['functions:read'] });
    const { Code, Configuration } = await reader.send(new GetFunctionCommand(name));
    expect([Code?.Location, Configuration?.Environment]).toEqual([undefined, HIDDEN]);
    expect((await reader.send(new GetFunctionConfigurationCommand(name))).Environment).toEqual(HIDDEN);
    expect((await reader.send(new ListVersionsByFunctionCommand(name))).Versions?.map((each) => each.Environment)).toEqual([HIDDEN]);
    expect((await reader.send(new ListFunctionsCommand({}))).Functions?.map((each) => each.Environment)).toEqual([HIDDEN]);
    const author = clientOf(url, keys, { scopes: ['functions:read', 'functions:write'] });
    const own = await author.send(new GetFunctionCommand(name));
    expect(own.Configuration?.Environment).toEqual({ Variables: { TOKEN: 'secret' } });
    expect((await fetch(own.Code?.Location ?? '')).status).toBe(200);
  });

  test('a function is told only by who may call it', async () => {
    const { url, keys, admin } = await startWithKeys();
    for (const name of ['job-a', 'job-b', 'other']) await send(url, deploy(name), { body: HELLO, ...bearer(admin) });
    const client = clientOf(url, keys, { scopes: ['invoke', 'functions:write'], functions: ['job-*'] });
    const refused = { name: 'AccessDeniedException' };
    const where = { FunctionName: 'job-a' };
    const told = (Destination: string) => ({ ...where, DestinationConfig: { OnSuccess: { Destination } } });
    const letters = (TargetArn: string) => ({ ...where, DeadLetterConfig: { TargetArn } });
    for (const target of ['other', 'arn:aws:lambda:us-east-1:000000000000:function:other:$LATEST']) {
      await expect(client.send(new PutFunctionEventInvokeConfigCommand(told(target)))).rejects.toMatchObject(refused);
      await expect(client.send(new UpdateFunctionConfigurationCommand(letters(target)))).rejects.toMatchObject(refused);
      const made = {
        ...letters(target),
        Role: 'arn:aws:iam::000000000000:role/x',
        Runtime: 'nodejs24.x',
        Handler: 'index.handler',
      } as const;
      const create = new CreateFunctionCommand({ ...made, FunctionName: 'job-c', Code: { ZipFile: HELLO } });
      await expect(client.send(create)).rejects.toMatchObject(refused);
    }
    await client.send(new PutFunctionEventInvokeConfigCommand(told('job-b')));
    await client.send(new UpdateFunctionConfigurationCommand(letters('job-b')));
    await client.send(new UpdateFunctionConfigurationCommand(letters('arn:aws:sqs:us-east-1:000000000000:q')));
    await client.send(new UpdateFunctionConfigurationCommand(letters('')));
    // What somebody else has set stays.
    await clientOf(url, keys, { scopes: ['admin'] }).send(new PutFunctionEventInvokeConfigCommand(told('other')));
    await client.send(new UpdateFunctionEventInvokeConfigCommand({ ...where, MaximumRetryAttempts: 0 }));
  });

  test('layers are changed only by who may change functions of their names', async () => {
    const { url, keys } = await startWithKeys();
    const publish = (LayerName: string) => new PublishLayerVersionCommand({ LayerName, Content: { ZipFile: HELLO } });
    const remove = (LayerName: string) => new DeleteLayerVersionCommand({ LayerName, VersionNumber: 1 });
    const admin = clientOf(url, keys, { scopes: ['admin'] });
    await admin.send(publish('other'));
    const client = clientOf(url, keys, { scopes: ['functions:read', 'functions:write'], functions: ['job-*'] });
    const refused = { name: 'AccessDeniedException' };
    await expect(client.send(publish('other'))).rejects.toMatchObject(refused);
    await expect(client.send(remove('other'))).rejects.toMatchObject(refused);
    expect((await admin.send(new ListLayerVersionsCommand({ LayerName: 'other' }))).LayerVersions).toHaveLength(1);
    await client.send(publish('job-parts'));
    await client.send(remove('job-parts'));
  });

  test('do not open the routes of the gateway itself', async () => {
    const { url } = await startWithKeys();
    const authorization =
      'AWS4-HMAC-SHA256 Credential=BPRK0000000000000000/20261121/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=' +
      '0'.repeat(64);
    expect(await send(url, 'GET /api/v1/functions', { headers: { authorization } })).toMatchObject({ status: 401, code: 'UNAUTHORIZED' });
  });
});

describe('limits of a caller', () => {
  test('requests per second: 429 says when to come again', async () => {
    const clock = new FakeClock();
    const { url, keys, admin } = await startWithKeys({ limits: { requestsPerSecond: 0.5, burst: 2 }, clock });
    const ask = (key: string): Promise<TestReply> => send(url, 'GET /api/v1/functions', bearer(key));
    expect([(await ask(admin)).status, (await ask(admin)).status]).toEqual([200, 200]);
    const refused = await ask(admin);
    expect(refused).toMatchObject({ status: 429, code: 'RATE_LIMITED' });
    expect(refused.headers.get('retry-after')).toBe('2');
    // Another caller is not his keeper.
    expect((await ask(keys.create({ name: 'x', scopes: ['admin'] }).secret)).status).toBe(200);
    await clock.advance(2_000);
    expect((await ask(admin)).status).toBe(200);
  });

  test('requests at the same time', async () => {
    const started = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<string>();
    const handler = (): Promise<string> => {
      started.resolve();
      return answer.promise;
    };
    const { url, admin } = await startWithKeys({ limits: { concurrent: 1 }, backend: { handler } });
    await send(url, deploy('hello'), { body: HELLO, ...bearer(admin) });
    const call = send(url, 'POST /api/v1/functions/hello/invoke', { body: '1', ...bearer(admin) });
    await started.promise;
    expect(await send(url, 'GET /api/v1/functions', bearer(admin))).toMatchObject({ status: 429, code: 'RATE_LIMITED' });
    answer.resolve('1');
    expect((await call).status).toBe(200);
    expect((await send(url, 'GET /api/v1/functions', bearer(admin))).status).toBe(200);
  });
});

test('the log names callers and routes, and no secret', async () => {
  const lines: string[] = [];
  const note = (message: string, fields?: unknown): void => void lines.push(`${message} ${JSON.stringify(fields)}`);
  const log = { debug: note, info: note, warn: note, error: note, child: () => log };
  const silent = { add() {}, set() {}, record() {} };
  const metrics = { counter: () => silent, gauge: () => silent, histogram: () => silent };
  const { url, admin } = await startWithKeys({ telemetry: { log, metrics, startSpan: undefined } });
  await send(url, 'GET /api/v1/functions?after=topsecret', bearer(admin));
  await send(url, 'GET /api/v1/functions', bearer(`${admin}x`));
  const written = lines.join('\n');
  expect(written).toMatch(/"route":"\/api\/v1\/functions","status":200,.*"caller":"key:[0-9a-f]{16}"/);
  expect(written).toMatch(/"status":401,.*"code":"UNAUTHORIZED"/);
  expect([written.includes(admin), written.includes('topsecret')]).toEqual([false, false]);
});
