/** What only Cloudflare has: tokens of Workers, secrets, crons without events, versions that share traffic, addresses that are late. */

import { createHash, randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { CloudflareDeployer, CloudflareExecutor, cloudflarePlugin } from '../../plugins/cloudflare/index.ts';
import type { CloudflareOptions } from '../../plugins/cloudflare/index.ts';
import { systemClock } from '../../src/clock.ts';
import type { Clock } from '../../src/clock.ts';
import { packageFor } from '../../src/deploy/package-platform.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import type { FunctionPackage, LogEntry } from '../../src/executor/deployer.ts';
import { Metadata } from '../../src/job/call.ts';
import type { JobCall } from '../../src/job/call.ts';
import { createPluginRegistry } from '../../src/plugin/registry.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { requirePeer } from '../require.ts';
import { startCloudflare } from '../support/cloudflare.ts';
import type { CloudflareEmulator, EmulatedScript, EmulatedVersion } from '../support/cloudflare.ts';
import { startFaultyProxy } from '../support/faulty-proxy.ts';
import { zipOf } from '../support/gateway.ts';
import { hasWorkerd } from '../support/handler-platforms.ts';

const testWorkerd = requirePeer('workerd', hasWorkerd);

const ACCOUNT = '0123456789abcdef0123456789abcdef';
const API_TOKEN = 'token-of-the-api-for-tests';
const TOKEN = 'token-of-the-worker-for-tests';
/** A second is ten milliseconds. */
const hasty: Clock = { ...systemClock, sleep: (delayMs, signal) => systemClock.sleep(delayMs / 100, signal) };

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

/** Answers with the variables that it is asked for. */
function packageOf(tag: string): FunctionPackage {
  const source = `export default {
  async fetch(request, env) {
    if (env.BLUEPRINT_TOKEN !== undefined && request.headers.get('authorization') !== 'Bearer ' + env.BLUEPRINT_TOKEN)
      return new Response('who is this', { status: 401 });
    if (request.method === 'HEAD') return new Response();
    const { variable, crash, say } = await request.json();
    if (say) console.warn(say);
    if (crash) throw new Error('nobody catches this');
    return Response.json({ tag: ${JSON.stringify(tag)}, value: env[variable] ?? null });
  },
};`;
  const zip = zipOf({ 'handler.mjs': source });
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

interface World {
  readonly emulator: CloudflareEmulator;
  readonly writes: () => readonly string[];
  deployer(options?: Partial<CloudflareOptions>): CloudflareDeployer;
  ask(event: object, name?: string): Promise<unknown>;
}

async function start(options: { readonly subdomain?: string } = {}): Promise<World> {
  const emulator = await startCloudflare({ accountId: ACCOUNT, apiToken: API_TOKEN, ...options });
  const proxy = await startFaultyProxy({ target: emulator.url, isWrite: (method, path) => method !== 'GET' && !path.includes('/tele') });
  cleanUps.push(
    () => emulator.close(),
    () => proxy.close(),
  );
  const deployer = (more: Partial<CloudflareOptions> = {}): CloudflareDeployer => {
    const tokens = { apiToken: () => API_TOKEN, token: () => TOKEN };
    const urls = { apiUrl: proxy.url, workersUrl: emulator.workersUrl };
    const made = new CloudflareDeployer({ accountId: ACCOUNT, ...tokens, ...urls, ...more }, { clock: hasty });
    cleanUps.push(() => made.close());
    return made;
  };
  return {
    emulator,
    writes: () => [...proxy.written],
    deployer,
    async ask(event, name = 'one') {
      const { body } = await deployer().invoke(name, Buffer.from(JSON.stringify(event)));
      return JSON.parse(Buffer.from(body).toString()) as unknown;
    },
  };
}

function scriptOf({ emulator }: World, name = 'one'): EmulatedScript & { readonly current: EmulatedVersion } {
  const script = emulator.scripts.get(name);
  const current = script?.versions.find(({ id }) => id === script.deployments.at(-1)?.versions[0]?.version_id);
  if (!script || !current) throw new Error(`there is no ${name}`);
  return Object.assign(script, { current });
}

const callOf = (jobId: bigint, body: Uint8Array): JobCall => ({ id: randomUUID(), jobId, body, metadata: new Metadata() });
const uint64 = (value: bigint): Buffer => Buffer.from(value.toString(16).padStart(64, '0'), 'hex');

async function squares(): Promise<FunctionPackage> {
  const outDir = await mkdtemp(join(tmpdir(), 'cloudflare-'));
  cleanUps.push(() => rm(outDir, { recursive: true, force: true }));
  const { zipFile } = await buildHandler({ entry: join(import.meta.dirname, '../../examples/incredible-squaring/jobs.ts'), outDir });
  return packageFor('cloudflare', await readFile(zipFile));
}

testWorkerd('the plugin deploys the squaring example, and its executor calls it with what the deployment reports', async () => {
  const { emulator } = await start();
  process.env['CLOUDFLARE_API_TOKEN'] = API_TOKEN;
  process.env['CLOUDFLARE_WORKER_TOKEN'] = TOKEN;
  cleanUps.push(
    () => delete process.env['CLOUDFLARE_API_TOKEN'],
    () => delete process.env['CLOUDFLARE_WORKER_TOKEN'],
  );
  const plugins = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
  const options = { accountId: ACCOUNT, apiUrl: emulator.url, workersUrl: emulator.workersUrl };
  const deployer = await plugins.deployer('cloudflare', options);
  cleanUps.push(() => deployer.close?.());
  const code = await squares();
  const { state, changes, warnings } = await deployer.deploy('squares', code, { memoryMb: 128, timeoutMs: 30_000, tags: { service: '3' } });
  expect({ outline: changes.map(({ action, resource, id }) => `${action} ${resource} ${id}`), warnings }).toEqual({
    outline: ['create function squares', 'create address squares'],
    warnings: [],
  });
  expect(state).toMatchObject({
    status: 'active',
    sha256: code.sha256,
    config: { memoryMb: 128, timeoutMs: 30_000, tags: { service: '3' } },
  });
  expect(JSON.stringify(state)).not.toMatch(new RegExp(`${TOKEN}|${API_TOKEN}`));
  expect(state?.executor).toEqual({
    use: 'cloudflare',
    options: { function: 'squares', subdomain: 'example', workersUrl: emulator.workersUrl, token: 'env:CLOUDFLARE_WORKER_TOKEN' },
    environment: ['CLOUDFLARE_WORKER_TOKEN'],
  });
  const executor = await plugins.executor(state?.executor.use ?? '', state?.executor.options);
  cleanUps.push(() => executor.close?.());
  await executor.health?.(0n);
  for (const jobId of [0n, 1n, 2n]) {
    const { results, report } = await executor.invoke(callOf(jobId, uint64(9n)), { deadline: Date.now() + 60_000, attempt: 1 });
    expect(Buffer.from(results[0]?.body ?? []).toString('hex')).toBe(uint64(81n).toString('hex'));
    expect(report?.requestId).toMatch(/^[0-9a-f]{16}$/);
  }
});

describe('the token of a Worker', () => {
  testWorkerd('is asked of every caller, and only the deployer and the executor that have it get through', async () => {
    const { emulator, deployer } = await start();
    await deployer().deploy('squares', await squares(), {});
    const executorWith = (token: string): CloudflareExecutor => {
      const options = { token: () => token, function: 'squares', subdomain: 'example', workersUrl: emulator.workersUrl };
      const executor = new CloudflareExecutor(options, { clock: systemClock });
      cleanUps.push(() => executor.close());
      return executor;
    };
    const options = { deadline: Date.now() + 60_000, attempt: 1 };
    await expect(executorWith('guessed').invoke(callOf(0n, uint64(2n)), options)).rejects.toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED' });
    expect((await executorWith(TOKEN).invoke(callOf(0n, uint64(2n)), options)).results).toHaveLength(1);
    const nameless = new CloudflareExecutor({ token: 'env:NO_SUCH_TOKEN', workersUrl: emulator.workersUrl }, { clock: systemClock });
    await expect(nameless.invoke(callOf(0n, uint64(2n)), options)).rejects.toMatchObject({ code: 'CREDENTIALS_MISSING', retry: 'never' });
  });

  testWorkerd('cannot be left out by accident, but on purpose', async () => {
    const world = await start();
    const nameless = world.deployer({ token: 'env:NO_SUCH_TOKEN' });
    const refused = nameless.deploy('one', packageOf('a'), {});
    await expect(refused).rejects.toMatchObject({
      code: 'CREDENTIALS_MISSING',
      message: expect.stringContaining('public: true') as string,
    });
    expect(world.writes()).toEqual([]);
    const open = world.deployer({ public: true });
    const { state } = await open.deploy('one', packageOf('a'), {});
    expect(state?.executor.options).toEqual({ function: 'one', subdomain: 'example', workersUrl: world.emulator.workersUrl, public: true });
    expect(scriptOf(world).current.bindings).toEqual([]);
    const { changes } = await world.deployer().deploy('one', packageOf('a'), {});
    expect(changes).toEqual([{ action: 'update', resource: 'configuration', id: 'one', fields: ['token'] }]);
    expect((await open.invoke('one', Buffer.from('{}'))).failed).toBe(true);
    expect(await world.ask({})).toEqual({ tag: 'a', value: null });
  });

  testWorkerd('is not sent to a Worker that somebody else made', async () => {
    const { emulator, deployer } = await start();
    emulator.makeForeign('theirs');
    await expect(deployer().invoke('theirs', Buffer.from('{}'))).rejects.toMatchObject({ code: 'RESOURCE_FOREIGN' });
  });
});

describe('secrets', () => {
  const secrets = (password: string) => ({ platform: { secrets: { PASSWORD: () => password } } });

  testWorkerd('reach the Worker, are never told, and are written only when they change', async () => {
    const world = await start();
    const deploy = (config: object) => world.deployer().deploy('one', packageOf('a'), config);
    const { state } = await deploy({ environment: { COLOUR: 'blue' }, ...secrets('hunter2') });
    expect(await world.ask({ variable: 'PASSWORD' })).toEqual({ tag: 'a', value: 'hunter2' });
    expect(JSON.stringify(state)).not.toContain('hunter2');
    expect(state?.config.environment).toEqual({ COLOUR: 'blue' });
    const digests = scriptOf(world).current.bindings.find(({ name }) => name === 'BLUEPRINT_SECRETS');
    const plain = createHash('sha256').update('hunter2').digest('hex');
    expect(JSON.stringify(digests)).not.toContain(plain.slice(0, 16));
    expect((await deploy(secrets('hunter2'))).changes).toEqual([]);
    expect((await deploy(secrets('hunter3'))).changes).toMatchObject([{ action: 'update', fields: ['secrets'] }]);
    expect(await world.ask({ variable: 'PASSWORD' })).toEqual({ tag: 'a', value: 'hunter3' });
  });

  testWorkerd('stay when only the code or the environment changes, and go when they are no longer named', async () => {
    const world = await start();
    await world.deployer().deploy('one', packageOf('a'), secrets('hunter2'));
    await world.deployer().updateCode('one', packageOf('b'));
    expect(await world.ask({ variable: 'PASSWORD' })).toEqual({ tag: 'b', value: 'hunter2' });
    await world.deployer().updateConfiguration('one', { environment: { COLOUR: 'red' } });
    expect(await world.ask({ variable: 'PASSWORD' })).toEqual({ tag: 'b', value: 'hunter2' });
    await world.deployer().updateConfiguration('one', { platform: { secrets: {} } });
    expect(await world.ask({ variable: 'PASSWORD' })).toEqual({ tag: 'b', value: null });
  });

  testWorkerd('are not variables at the same time, and have no name that the deployer needs', async () => {
    const world = await start();
    const both = { environment: { PASSWORD: 'x' }, ...secrets('y') };
    await expect(world.deployer().deploy('one', packageOf('a'), both)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    const reserved = { platform: { secrets: { BLUEPRINT_TOKEN: () => 'x' } } };
    await expect(world.deployer().deploy('one', packageOf('a'), reserved)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    const spoken = { platform: { secrets: { PASSWORD: 'hunter2' } } };
    await expect(world.deployer().deploy('one', packageOf('a'), spoken)).rejects.toThrow(/^(?!.*hunter2)/);
    expect(world.writes()).toEqual([]);
  });
});

testWorkerd('what others bound to a Worker stays', async () => {
  const world = await start();
  await world.deployer().deploy('one', packageOf('a'), { environment: { COLOUR: 'blue' } });
  const { bindings } = scriptOf(world).current;
  bindings.push({ type: 'kv_namespace', name: 'STORE', namespace_id: 'abc' }, { type: 'secret_text', name: 'THEIRS', text: 'kept' });
  await world.deployer().deploy('one', packageOf('b'), { environment: { COLOUR: 'red' } });
  expect(scriptOf(world).current.bindings).toEqual(expect.arrayContaining([{ type: 'kv_namespace', name: 'STORE', namespace_id: 'abc' }]));
  expect(await world.ask({ variable: 'THEIRS' })).toEqual({ tag: 'b', value: 'kept' });
});

testWorkerd('tags of Cloudflare stay when tags change, and tags may hold any text', async () => {
  const world = await start();
  await world.deployer().deploy('one', packageOf('a'), { tags: { service: 'a,b&c:d=e' } });
  scriptOf(world).tags = [...scriptOf(world).tags, 'cf:service=one'];
  expect((await world.deployer().describe('one'))?.config.tags).toEqual({ service: 'a,b&c:d=e' });
  const { changes } = await world.deployer().updateConfiguration('one', { tags: { service: 'f' } });
  expect(changes).toMatchObject([{ fields: ['tags'] }]);
  expect(scriptOf(world).tags).toEqual(['cf:service=one', 'managed-by=blueprint-runner', 'service=f']);
  expect(scriptOf(world).versions).toHaveLength(1);
});

describe('schedules', () => {
  const DAILY = { name: 'daily', schedule: { kind: 'calendar', expression: '*-*-* 03:00:00' } } as const;
  const event = { job_id: 0, args: [...uint64(4n)] };

  testWorkerd('a time that comes runs the calls of its expression', async () => {
    const world = await start();
    const wrong = { ...DAILY, event: { job_id: 99, args: [] } };
    const hourly = { name: 'hourly', schedule: { kind: 'periodic', periodMs: 3_600_000 }, event } as const;
    await world.deployer().deploy('squares', await squares(), { schedules: [wrong, hourly] });
    const [, nightly = ''] = scriptOf(world, 'squares').crons;
    expect(nightly).toBe('0 3 * * *');
    expect(await world.emulator.fire('squares', '0 * * * *')).toBe('ok');
    expect(await world.emulator.fire('squares', nightly)).toBe('ok');
    const lines: LogEntry[] = [];
    while (lines.length === 0) for await (const line of world.deployer().logs('squares', { search: 'JOB_UNKNOWN' })) lines.push(line);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatchObject({ level: 'error' });
  });

  testWorkerd('go back with the version, and crons that somebody changed are set again', async () => {
    const world = await start();
    const weekly = { name: 'weekly', schedule: { kind: 'calendar', expression: 'Mon *-*-* 09:30:00' } } as const;
    await world.deployer().deploy('one', packageOf('a'), { schedules: [DAILY] });
    await world.deployer().deploy('one', packageOf('b'), { schedules: [weekly] });
    expect(scriptOf(world).crons).toEqual(['30 9 * * MON']);
    const { state } = await world.deployer().rollback('one');
    expect(scriptOf(world).crons).toEqual(['0 3 * * *']);
    expect(state?.config.schedules).toEqual([DAILY]);
    scriptOf(world).crons = ['1 1 * * *'];
    const { changes } = await world.deployer().deploy('one', packageOf('a'), { schedules: [DAILY] });
    expect(changes).toEqual([{ action: 'update', resource: 'schedule', id: 'crons' }]);
    expect(scriptOf(world).crons).toEqual(['0 3 * * *']);
  });

  testWorkerd('that do not fit into a variable are too many, and one that is not kept as it is warns', async () => {
    const world = await start();
    const many = Array.from({ length: 60 }, (_, index) => ({ ...DAILY, name: `daily-${index}` }));
    await expect(world.deployer().deploy('one', packageOf('a'), { schedules: many })).rejects.toMatchObject({
      code: 'LIMIT_EXCEEDED',
      details: { violations: [{ limit: 'scheduleBytes' }] },
    });
    const odd = [{ name: 'odd', schedule: { kind: 'periodic', periodMs: 420_000 } }] as const;
    const { warnings } = await world.deployer().deploy('one', packageOf('a'), { schedules: odd, concurrencyMax: 3 });
    expect(warnings).toEqual([expect.stringMatching(/^concurrencyMax/), expect.stringMatching(/^schedule odd: /)]);
  });
});

describe('versions', () => {
  testWorkerd('a configuration that changes after a rollback keeps the code that runs', async () => {
    const world = await start();
    await world.deployer().deploy('one', packageOf('a'), { environment: { COLOUR: 'blue' } });
    await world.deployer().deploy('one', packageOf('b'), { environment: { COLOUR: 'red' } });
    await world.deployer().rollback('one');
    await world.deployer().updateConfiguration('one', { timeoutMs: 10_000 });
    expect(await world.ask({ variable: 'COLOUR' })).toEqual({ tag: 'a', value: 'blue' });
    expect((await world.deployer().describe('one'))?.sha256).toBe(packageOf('a').sha256);
  });

  testWorkerd('can be called for by number, and one that never got calls is not the one before', async () => {
    const world = await start();
    await world.deployer().deploy('one', packageOf('a'), {});
    const script = scriptOf(world);
    script.versions.push({ ...script.current, id: randomUUID(), number: 2 });
    await world.deployer().deploy('one', packageOf('c'), {});
    expect((await world.deployer().versions('one')).map(({ current }) => current)).toEqual([true, false, false]);
    await world.deployer().rollback('one');
    expect(scriptOf(world).current.number).toBe(1);
    await world.deployer().rollback('one', '3');
    expect(await world.ask({})).toEqual({ tag: 'c', value: null });
    expect((await world.deployer().rollback('one', '3')).changes).toEqual([]);
  });

  testWorkerd('that share the calls are a change: the next deployment gets all of them', async () => {
    const world = await start();
    await world.deployer().deploy('one', packageOf('a'), {});
    await world.deployer().deploy('one', packageOf('b'), {});
    const { versions, deployments } = scriptOf(world);
    const shares = versions.map(({ id }, index) => ({ version_id: id, percentage: index === 0 ? 10 : 90 })).toReversed();
    deployments.push({ id: randomUUID(), createdOn: new Date().toISOString(), versions: shares });
    const { changes } = await world.deployer().deploy('one', packageOf('b'), {});
    expect(changes).toMatchObject([{ action: 'update', fields: ['traffic'] }]);
    expect(scriptOf(world).deployments.at(-1)?.versions).toHaveLength(1);
  });

  testWorkerd('only the deployed one can be invoked', async () => {
    const world = await start();
    const { state } = await world.deployer().deploy('one', packageOf('a'), {});
    await world.deployer().deploy('one', packageOf('b'), {});
    const old = world.deployer().invoke('one', Buffer.from('{}'), { version: state?.version ?? '' });
    await expect(old).rejects.toMatchObject({ code: 'OPERATION_UNSUPPORTED' });
  });
});

describe('the edge of Cloudflare', () => {
  testWorkerd('an exception that nobody catches is a failed invocation; too many requests are not one', async () => {
    const world = await start();
    await world.deployer().deploy('one', packageOf('a'), {});
    const { failed, body } = await world.deployer().invoke('one', Buffer.from('{"crash":true}'));
    expect([failed, Buffer.from(body).toString()]).toEqual([true, 'error code: 1101']);
    world.emulator.edge.push({ status: 429, type: 'text/plain', body: 'error code: 1015' });
    await expect(world.ask({})).rejects.toMatchObject({ code: 'EXECUTOR_THROTTLED', retry: 'safe' });
  });

  testWorkerd('a Worker that the API does not see yet, at an address that nobody knows yet, is waited for', async () => {
    const world = await start();
    world.emulator.lateAddresses = 2;
    world.emulator.lateAnswers = 3;
    const steps: string[] = [];
    const onProgress = ({ step }: { readonly step: string }): void => void steps.push(step);
    const { warnings } = await world.deployer().deploy('one', packageOf('a'), {}, { onProgress });
    expect({ warnings, late: world.emulator.lateAnswers + world.emulator.lateAddresses }).toEqual({ warnings: [], late: 0 });
    expect(steps.at(-1)).toMatch(/^wait until http:.* answers$/);
  });

  testWorkerd('an account without a subdomain is told to choose one', async () => {
    const { deployer } = await start({ subdomain: '' });
    await expect(deployer().deploy('one', packageOf('a'), {})).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('workers.dev') as string,
    });
  });
});

describe('logs', () => {
  testWorkerd('have levels and the id of the request, and those of the level asked for', async () => {
    const world = await start();
    await world.deployer().deploy('one', packageOf('a'), {});
    const { requestId } = await world.deployer().invoke('one', Buffer.from('{"say":"careful"}'));
    const entries: LogEntry[] = [];
    while (entries.length === 0) for await (const entry of world.deployer().logs('one', { level: 'warn' })) entries.push(entry);
    expect(entries).toEqual([expect.objectContaining({ message: 'careful', level: 'warn', requestId })]);
    for await (const entry of world.deployer().logs('one', { level: 'error' })) throw new Error(entry.message);
  });

  testWorkerd('a live log that the platform ends is an error, and leaves no tail behind', async () => {
    const world = await start();
    await world.deployer().deploy('one', packageOf('a'), {});
    const seen: string[] = [];
    const follow = async (): Promise<void> => {
      for await (const { message } of world.deployer().logs('one', { follow: true })) {
        seen.push(message);
        for (const socket of scriptOf(world).tails.values()) socket?.close();
      }
    };
    const following = expect(follow()).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
    while (![...(world.emulator.scripts.get('one')?.tails.values() ?? [])].some((socket) => socket !== undefined)) await hasty.sleep(100);
    await world.ask({ say: 'live' });
    await following;
    expect(seen).toEqual(['live']);
    expect(scriptOf(world).tails.size).toBe(0);
  });
});

test('a wrong token is EXECUTOR_UNAUTHORIZED in the words of the platform', async () => {
  const { deployer } = await start();
  await expect(deployer({ apiToken: () => 'another' }).describe('one')).rejects.toMatchObject({
    code: 'EXECUTOR_UNAUTHORIZED',
    message: expect.stringContaining('Authentication error (10000)') as string,
    details: { platformCode: 10_000 },
  });
});

test('all limits that are broken are told at once', async () => {
  const { deployer, writes } = await start();
  const environment = { 'not-a-name': 'x', BLUEPRINT_TOKEN: 'x', LONG: 'x'.repeat(6_000) };
  const config = { memoryMb: 256, timeoutMs: 400_000, description: 'x'.repeat(300), environment };
  const limits = ['name', 'memoryMb', 'timeoutMs', 'descriptionLength', 'environmentName', 'environmentName', 'environmentValueBytes'];
  await expect(deployer().deploy('a.b', packageOf('a'), config)).rejects.toMatchObject({
    code: 'LIMIT_EXCEEDED',
    details: { violations: limits.map((limit) => ({ limit })) },
  });
  await expect(deployer().deploy('one', { ...packageOf('a'), zip: zipOf({ 'other.mjs': '' }) }, {})).rejects.toMatchObject({
    code: 'PACKAGE_INVALID',
  });
  await expect(deployer().deploy('one', packageOf('a'), { runtime: 'custom' })).rejects.toMatchObject({ code: 'RUNTIME_UNSUPPORTED' });
  expect(writes()).toEqual([]);
});

test('options that nobody knows, or of the wrong kind, are CONFIG_INVALID and not repeated', async () => {
  const plugins = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
  const invalid = { code: 'CONFIG_INVALID' };
  expect(cloudflarePlugin.peers?.map(({ name }) => name)).toEqual(['undici', 'ws']);
  await expect(plugins.deployer('cloudflare', {})).rejects.toMatchObject(invalid);
  await expect(plugins.deployer('cloudflare', { accountId: 'a', colour: 'red' })).rejects.toMatchObject(invalid);
  await expect(plugins.deployer('cloudflare', { accountId: 'a', apiToken: 'hunter2' })).rejects.toThrow(/^(?!.*hunter2)/);
  await expect(plugins.executor('cloudflare', {})).rejects.toThrow(/subdomain/);
  await expect(plugins.executor('cloudflare', { subdomain: 'a', wire: 'xml' })).rejects.toMatchObject(invalid);
});

describe('the emulator is as strict as the platform', () => {
  const upload = async (
    { emulator }: World,
    metadata: object,
    part: { readonly name: string; readonly type: string },
  ): Promise<unknown> => {
    const form = new FormData();
    form.set('metadata', JSON.stringify(metadata));
    form.set(part.name, new File(['export default {}'], part.name, { type: part.type }));
    const headers = { authorization: `Bearer ${API_TOKEN}` };
    const response = await fetch(`${emulator.url}/accounts/${ACCOUNT}/workers/scripts/one`, { method: 'PUT', headers, body: form });
    const { success, errors } = (await response.json()) as { success: boolean; errors: { code: number; message: string }[] };
    return success || errors[0]?.message;
  };

  test.each([
    [{ main_module: 'a.mjs', compatibility_date: '2026-01-01', colour: 'red' }, 'a.mjs', 'metadata has unknown fields colour'],
    [{ main_module: 'b.mjs', compatibility_date: '2026-01-01' }, 'a.mjs', 'the main module b.mjs is not among the parts'],
    [{ main_module: 'a.mjs' }, 'a.mjs', 'compatibility_date is needed'],
    [{ main_module: 'a.mjs', compatibility_date: '2026-01-01', limits: { wall_ms: 1 } }, 'a.mjs', 'limits has unknown fields wall_ms'],
    [
      { main_module: 'a.mjs', compatibility_date: '2026-01-01', bindings: [{ type: 'inherit', name: 'X' }] },
      'a.mjs',
      'the binding X cannot be inherited: it was not there',
    ],
    [{ main_module: 'a.mjs', compatibility_date: '2026-01-01' }, 'a.mjs', true],
  ])('%j', async (metadata, name, said) => {
    const world = await start();
    expect(await upload(world, metadata, { name, type: 'application/javascript+module' })).toBe(said);
    expect(world.emulator.scripts.size).toBe(said === true ? 1 : 0);
  });

  test('a module of another type, no token, another account', async () => {
    const world = await start();
    const metadata = { main_module: 'a.js', compatibility_date: '2026-01-01' };
    expect(await upload(world, metadata, { name: 'a.js', type: 'application/javascript' })).toContain(
      'has the type application/javascript',
    );
    const statusOf = async (path: string, headers: Record<string, string>): Promise<number> =>
      (await fetch(world.emulator.url + path, { headers })).status;
    expect(await statusOf(`/accounts/${ACCOUNT}/workers/scripts`, {})).toBe(400);
    expect(await statusOf(`/accounts/${ACCOUNT}/workers/scripts`, { authorization: 'Bearer no' })).toBe(403);
    expect(await statusOf('/accounts/other/workers/scripts', { authorization: `Bearer ${API_TOKEN}` })).toBe(404);
  });
});
