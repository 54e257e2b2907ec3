import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { afterEach, describe, expect, test } from 'vitest';
import { DigitalOceanDeployer, DigitalOceanExecutor } from '../../plugins/digitalocean/index.ts';
import type { FunctionConfig, FunctionPackage } from '../../src/executor/deployer.ts';
import type { Execution } from '../../src/executor/executor.ts';
import { Metadata } from '../../src/job/call.ts';
import { systemClock } from '../../src/clock.ts';
import { createPluginRegistry } from '../../src/plugin/registry.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { startDigitalOcean } from '../support/digitalocean.ts';
import type { DigitalOceanEmulator, DigitalOceanEmulatorOptions, EmulatedNamespace } from '../support/digitalocean.ts';
import { zipOf } from '../support/gateway.ts';

const TOKEN = 'token-of-digitalocean-for-tests';
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

const HELLO = `exports.main = ({ name = 'nobody' }) => { console.log('hello to ' + name); return { greeting: process.env.WORD + ' ' + name }; };`;

function packageOf(source: string): FunctionPackage {
  const zip = zipOf({ 'index.js': source });
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

async function start(options: Partial<DigitalOceanEmulatorOptions> = {}): Promise<DigitalOceanEmulator> {
  const emulator = await startDigitalOcean({ token: TOKEN, ...options });
  cleanUps.push(() => emulator.close());
  return emulator;
}

function deployerOf(
  { url }: DigitalOceanEmulator,
  options: { readonly namespace?: string; readonly token?: () => string } = {},
): DigitalOceanDeployer {
  const deployer = new DigitalOceanDeployer({ apiUrl: url, token: () => TOKEN, ...options }, { clock: systemClock });
  cleanUps.push(() => deployer.close());
  return deployer;
}

/** The part of the client of Apache OpenWhisk that is used here. */
interface OpenWhisk {
  readonly actions: {
    create(options: object): Promise<Record<string, unknown>>;
    update(options: object): Promise<Record<string, unknown>>;
    get(options: object): Promise<Record<string, unknown>>;
    list(options?: object): Promise<Record<string, unknown>[]>;
    invoke(options: object): Promise<Record<string, unknown>>;
    delete(options: object): Promise<Record<string, unknown>>;
  };
  readonly activations: {
    list(options?: object): Promise<{ activationId: string; name: string }[]>;
    get(options: object): Promise<Record<string, unknown>>;
    logs(options: object): Promise<{ logs: string[] }>;
  };
}

function openWhisk({ url }: DigitalOceanEmulator, { uuid, whisk }: EmulatedNamespace): OpenWhisk {
  const make = createRequire(import.meta.url)('openwhisk') as (options: object) => OpenWhisk;
  return make({ api: `${url}/api/v1/`, api_key: `${uuid}:${whisk.key}` });
}

function onlyNamespace({ namespaces }: DigitalOceanEmulator): EmulatedNamespace {
  const [namespace] = namespaces.values();
  if (!namespace) throw new Error('there is no namespace');
  return namespace;
}

const CONFIG: FunctionConfig = { memoryMb: 256, timeoutMs: 5_000, environment: { WORD: 'Good day' } };

describe('the client of Apache OpenWhisk', () => {
  test('sees, lists, calls and reads what the deployer wrote', async () => {
    const emulator = await start();
    const { sha256, zip } = packageOf(HELLO);
    await deployerOf(emulator).deploy('hello', { sha256, zip }, CONFIG);
    const client = openWhisk(emulator, onlyNamespace(emulator));
    const action = await client.actions.get({ name: 'hello' });
    expect(action).toMatchObject({
      name: 'hello',
      limits: { memory: 256, timeout: 5_000 },
      parameters: [{ key: 'WORD', value: 'Good day', init: true }],
      exec: { kind: 'nodejs:24', binary: true, main: 'main', code: Buffer.from(zip).toString('base64') },
    });
    expect(action['annotations']).toEqual(
      expect.arrayContaining([
        { key: 'managed-by', value: 'blueprint-runner' },
        { key: 'blueprint-sha256', value: sha256 },
        { key: 'raw-http', value: true },
      ]),
    );
    expect((await client.actions.list()).map(({ name }) => name)).toEqual(expect.arrayContaining(['hello', 'hello.v1']));
    expect(await client.actions.invoke({ name: 'hello', blocking: true, result: true, params: { name: 'Ada' } })).toEqual({
      greeting: 'Good day Ada',
    });
    const [activation] = await client.activations.list({ name: 'hello' });
    expect((await client.activations.logs({ name: activation?.activationId })).logs).toEqual([
      expect.stringMatching(/stdout: hello to Ada$/) as string,
    ]);
  });

  test('writes what the deployer reads, as foreign, and drift of what the deployer made is exact', async () => {
    const emulator = await start();
    const deployer = deployerOf(emulator);
    await deployer.deploy('hello', packageOf(HELLO), CONFIG);
    const client = openWhisk(emulator, onlyNamespace(emulator));
    await client.actions.create({ name: 'theirs', action: Buffer.from(packageOf(HELLO).zip), kind: 'nodejs:22', limits: { memory: 512 } });
    expect(await deployer.describe('theirs')).toMatchObject({ status: 'foreign', config: { memoryMb: 512 } });
    await expect(deployer.remove('theirs')).rejects.toMatchObject({ code: 'RESOURCE_FOREIGN' });

    const other = packageOf(HELLO.replace('hello', 'servus'));
    await client.actions.update({ name: 'hello', action: Buffer.from(other.zip), kind: 'nodejs:24' });
    expect(await deployer.describe('hello')).toMatchObject({ status: 'active', sha256: other.sha256 });
    const { changes } = await deployer.deploy('hello', packageOf(HELLO), CONFIG);
    expect(changes).toMatchObject([{ action: 'update', resource: 'code', id: 'hello' }]);
    expect((await deployer.describe('hello'))?.sha256).toBe(packageOf(HELLO).sha256);
    await client.actions.delete({ name: 'theirs' });
  });
});

test('the emulator is as strict as the platform', async () => {
  const emulator = await start();
  await deployerOf(emulator).deploy('hello', packageOf(HELLO), CONFIG);
  const namespace = onlyNamespace(emulator);
  const client = openWhisk(emulator, namespace);
  const action = { exec: { kind: 'nodejs:22', code: '', binary: true } };
  await expect(client.actions.create({ name: 'x', action: { ...action, colour: 'red' } })).rejects.toThrow(/unknown fields colour/);
  await expect(client.actions.create({ name: 'x', action: { exec: { kind: 'cobol', code: '' } } })).rejects.toThrow(/kind 'cobol'/);
  await expect(client.actions.create({ name: 'hello', action })).rejects.toMatchObject({ statusCode: 409 });
  await expect(client.actions.list({ limit: 201 })).rejects.toMatchObject({ statusCode: 400 });
  const wrong = openWhisk(emulator, { ...namespace, uuid: 'another' });
  await expect(wrong.actions.list()).rejects.toMatchObject({ statusCode: 401 });
  const web = await fetch(`${emulator.url}/api/v1/web/${namespace.whisk.id}/default/hello`, { method: 'POST', body: '{}' });
  expect(web.status).toBe(401);
  expect((await fetch(`${emulator.url}/v2/functions/namespaces`)).status).toBe(401);
});

test('the plugin makes an executor out of what a deployment reports', async () => {
  const emulator = await start();
  process.env['DIGITALOCEAN_TOKEN_OF_TEST'] = TOKEN;
  cleanUps.push(() => delete process.env['DIGITALOCEAN_TOKEN_OF_TEST']);
  const plugins = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
  const deployer = await plugins.deployer('digitalocean', {
    apiUrl: emulator.url,
    token: 'env:DIGITALOCEAN_TOKEN_OF_TEST',
    namespace: 'mine',
  });
  cleanUps.push(() => deployer.close?.());
  const { state, changes } = await deployer.deploy('hello', packageOf(HELLO), CONFIG);
  expect(changes.map(({ action, resource, id }) => `${action} ${resource} ${id}`)).toEqual([
    'create namespace mine',
    'create function hello',
    'create version hello.v1',
  ]);
  expect(JSON.stringify(state)).not.toContain(TOKEN);
  expect(state?.executor).toEqual({
    use: 'digitalocean',
    options: { function: 'hello', token: 'env:DIGITALOCEAN_TOKEN_OF_TEST', namespace: 'mine', apiUrl: emulator.url },
  });
  const executor = await plugins.executor(state?.executor.use ?? '', state?.executor.options);
  cleanUps.push(() => executor.close?.());
  await executor.health?.(0n);
});

describe('limits of the platform', () => {
  test('all that are broken are told at once', async () => {
    const emulator = await start();
    const config = { memoryMb: 300, timeoutMs: 16 * 60_000, description: 'x'.repeat(300) };
    await expect(deployerOf(emulator).deploy('a/b', packageOf(HELLO), config)).rejects.toMatchObject({
      code: 'LIMIT_EXCEEDED',
      details: { violations: [{ limit: 'name' }, { limit: 'memoryMb' }, { limit: 'timeoutMs' }, { limit: 'descriptionLength' }] },
    });
    expect(emulator.namespaces.size).toBe(0);
  });

  test('one schedule too many is LIMIT_EXCEEDED with the words of the platform, and what cannot be kept is said', async () => {
    const emulator = await start();
    const deployer = deployerOf(emulator);
    const daily = (hour: number) => ({ name: `at-${hour}`, schedule: { kind: 'calendar', expression: `*-*-* 0${hour}:00:00` } }) as const;
    const schedules = [1, 2, 3, 4].map(daily);
    await expect(deployer.deploy('hello', packageOf(HELLO), { ...CONFIG, schedules })).rejects.toMatchObject({
      code: 'LIMIT_EXCEEDED',
      message: expect.stringContaining('triggers limit reached') as string,
    });
    const { warnings, state } = await deployer.deploy('hello', packageOf(HELLO), {
      ...CONFIG,
      concurrencyMax: 5,
      schedules: [{ name: 'often', schedule: { kind: 'periodic', periodMs: 420_000 } }],
    });
    expect(warnings[0]).toBe('concurrencyMax is left out: DigitalOcean has no such setting');
    expect(warnings[1]).toMatch(/^schedule often: /);
    expect(state?.config.schedules?.map(({ name }) => name)).toEqual(['often']);
    await expect(deployer.deploy('hello', packageOf(HELLO), { ...CONFIG, concurrencyMax: 5 }, { strict: true })).rejects.toMatchObject({
      code: 'LIMIT_EXCEEDED',
    });
  });

  test('a runtime that is not offered is named with those that are', async () => {
    const emulator = await start();
    emulator.createNamespace('blueprint-functions');
    await expect(deployerOf(emulator).deploy('hello', packageOf(HELLO), { ...CONFIG, runtime: 'nodejs99' })).rejects.toMatchObject({
      code: 'RUNTIME_UNSUPPORTED',
      message: expect.stringContaining('nodejs:22, nodejs:24') as string,
    });
  });
});

test('a call that takes longer than the platform waits gives its result all the same', async () => {
  const emulator = await start({ blockingMs: 50 });
  const deployer = deployerOf(emulator);
  await deployer.deploy(
    'slow',
    packageOf(`exports.main = () => new Promise((resolve) => setTimeout(resolve, 400, { done: true }));`),
    CONFIG,
  );
  const { body, failed, requestId } = await deployer.invoke('slow', new TextEncoder().encode('{}'));
  expect({ text: new TextDecoder().decode(body), failed }).toEqual({ text: '{"done":true}', failed: false });
  expect(requestId).toMatch(/^[0-9a-f]{32}$/);
});

describe('a job that takes longer than the platform waits', () => {
  const slow = (answer: string): FunctionPackage =>
    packageOf(`exports.main = () => new Promise((resolve) => setTimeout(resolve, 400, ${answer}));`);

  async function run(answer: string, emulator: DigitalOceanEmulator, timeoutMs = 30_000): Promise<Execution> {
    await deployerOf(emulator).deploy('slow', slow(answer), CONFIG);
    const executor = new DigitalOceanExecutor({ apiUrl: emulator.url, token: () => TOKEN, function: 'slow' }, { clock: systemClock });
    cleanUps.push(() => executor.close());
    const call = { id: 'slow-call', jobId: 0n, body: Buffer.of(1), metadata: new Metadata() };
    return executor.invoke(call, { attempt: 1, deadline: Date.now() + timeoutMs });
  }

  test('gives its bytes', async () => {
    const answer = "{ statusCode: 200, headers: { 'Content-Type': 'application/octet-stream' }, body: 'AAECAw==' }";
    const { results, report } = await run(answer, await start({ blockingMs: 50 }));
    expect(results.map(({ body }) => [...body])).toEqual([[0, 1, 2, 3]]);
    expect(report?.requestId).toMatch(/^[0-9a-f]{32}$/);
  });

  test('gives the error that the handler reports', async () => {
    const body = "{ error: 'no such thing', code: 'JOB_ARGS_INVALID' }";
    const answer = `{ statusCode: 400, headers: { 'content-type': 'application/json' }, body: ${body} }`;
    await expect(run(answer, await start({ blockingMs: 50 }))).rejects.toMatchObject({ code: 'JOB_ARGS_INVALID' });
  });

  test('may have run when the platform says that it failed, or when the deadline passes', async () => {
    const emulator = await start({ blockingMs: 50 });
    await expect(run("{ error: 'The action exceeded its time limits of 100 milliseconds.' }", emulator)).rejects.toMatchObject({
      message: expect.stringContaining('exceeded its time limits') as string,
      retry: 'idempotent',
    });
    const never = 'new Promise(() => {})';
    await expect(run(never, emulator, 600)).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'idempotent' });
  });
});

test('three versions are kept, and a rollback can be rolled forward', async () => {
  const emulator = await start();
  const deployer = deployerOf(emulator);
  for (const word of ['one', 'two', 'three', 'four']) await deployer.deploy('hello', packageOf(HELLO.replace('hello', word)), CONFIG);
  expect((await deployer.versions('hello')).map(({ version, current }) => [version, current])).toEqual([
    ['4', true],
    ['3', false],
    ['2', false],
  ]);
  await deployer.rollback('hello', '2');
  await expect(deployer.rollback('hello')).rejects.toMatchObject({ code: 'NOT_FOUND' });
  expect((await deployer.describe('hello'))?.version).toBe('2');
  const invoked = await deployer.invoke('hello', new TextEncoder().encode('{"name":"Ada"}'), { version: '3' });
  expect(new TextDecoder().decode(invoked.body)).toBe('{"greeting":"Good day Ada"}');
  await deployer.rollback('hello', '4');
  expect((await deployer.describe('hello'))?.sha256).toBe(packageOf(HELLO.replace('hello', 'four')).sha256);
  await deployer.remove('hello');
  expect(onlyNamespace(emulator).whisk.actions.size).toBe(0);
});

test('a rollback brings the runtime back that the version was deployed with', async () => {
  const emulator = await start();
  const deployer = deployerOf(emulator);
  const codes = ['one', 'two', 'three'].map((word) => packageOf(HELLO.replace('hello', word)));
  for (const [index, runtime] of ['nodejs22', 'nodejs24', 'nodejs22'].entries())
    await deployer.deploy('hello', codes[index] ?? packageOf(HELLO), { ...CONFIG, runtime });
  await deployer.rollback('hello', '2');
  const client = openWhisk(emulator, onlyNamespace(emulator));
  expect(await client.actions.get({ name: 'hello' })).toMatchObject({ exec: { kind: 'nodejs:24' } });
});

test('a function that is called like a version stays as it is, whoever made it', async () => {
  const emulator = await start();
  const deployer = deployerOf(emulator);
  await deployer.deploy('hello.v1', packageOf(HELLO), CONFIG);
  const theirs = packageOf(HELLO.replace('hello', 'servus'));
  const client = openWhisk(emulator, onlyNamespace(emulator));
  await client.actions.create({ name: 'hello.v2', action: Buffer.from(theirs.zip), kind: 'nodejs:22' });
  const { changes } = await deployer.deploy('hello', packageOf(HELLO.replace('hello', 'other')), CONFIG);
  expect(changes.map(({ resource, id }) => `${resource} ${id}`)).toEqual(['function hello', 'version hello.v3']);
  expect(await deployer.describe('hello.v1')).toMatchObject({ status: 'active', sha256: packageOf(HELLO).sha256 });
  expect(await client.actions.get({ name: 'hello.v2' })).toMatchObject({ exec: { code: Buffer.from(theirs.zip).toString('base64') } });
  const event = new TextEncoder().encode('{}');
  await expect(deployer.invoke('hello', event, { version: '2' })).rejects.toMatchObject({ code: 'FUNCTION_NOT_FOUND' });
});

test('an empty environment is written once', async () => {
  const emulator = await start();
  const deployer = deployerOf(emulator);
  await deployer.deploy('hello', packageOf(HELLO), CONFIG);
  const bare = { ...CONFIG, environment: {} };
  expect((await deployer.deploy('hello', packageOf(HELLO), bare)).changes).toMatchObject([{ fields: ['environment'] }]);
  expect((await deployer.deploy('hello', packageOf(HELLO), bare)).changes).toEqual([]);
});

test('functions of one name in two namespaces have two ids', async () => {
  const emulator = await start();
  const deployed = await Promise.all(
    ['mine', 'yours'].map((namespace) => deployerOf(emulator, { namespace }).deploy('hello', packageOf(HELLO), CONFIG)),
  );
  expect(new Set(deployed.map(({ state }) => state?.id)).size).toBe(2);
});

test('a wrong token is EXECUTOR_UNAUTHORIZED in the words of the platform', async () => {
  const emulator = await start();
  await expect(deployerOf(emulator, { token: () => 'another' }).describe('hello')).rejects.toMatchObject({
    code: 'EXECUTOR_UNAUTHORIZED',
    message: expect.stringContaining('Unable to authenticate you') as string,
  });
});
