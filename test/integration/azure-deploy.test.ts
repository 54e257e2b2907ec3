/** What the deployer and the executor of Azure do besides what every deployer does, on the emulator. */

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { AzureDeployer, AzureExecutor, azurePlugin } from '../../plugins/azure/index.ts';
import type { AzureExecutorOptions, AzureOptions } from '../../plugins/azure/index.ts';
import { systemClock } from '../../src/clock.ts';
import { readModules } from '../../src/deploy/dependencies.ts';
import { packageFor } from '../../src/deploy/package-platform.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import type { FaasDeployer, FunctionConfig, FunctionPackage, LogEntry, LogQuery } from '../../src/executor/deployer.ts';
import { Metadata } from '../../src/job/call.ts';
import type { JobCall } from '../../src/job/call.ts';
import { createPluginRegistry } from '../../src/plugin/registry.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import type { AzureApp } from '../support/azure-app.ts';
import type { AzureEmulator } from '../support/azure.ts';
import { IDENTITY, azurePlatform, codeOf } from '../support/azure-platform.ts';
import type { AzureTestPlatform } from '../support/azure-platform.ts';
import { ROOT } from '../support/handler-platforms.ts';

const CONFIG: FunctionConfig = { memoryMb: 512, environment: { COLOUR: 'blue' } };
const NAME = 'one';

let platform: AzureTestPlatform;
let emulator: AzureEmulator;
const opened: { close?(): Promise<void> }[] = [];

beforeEach(async () => {
  platform = await azurePlatform();
  ({ emulator } = platform);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  for (const each of opened.splice(0)) await each.close?.();
  await platform.close();
});

function deployerWith(more: AzureOptions = {}): AzureDeployer {
  const deployer = new AzureDeployer({ ...platform.options, ...more }, { clock: systemClock });
  opened.push(deployer);
  return deployer;
}

function executorWith(more: AzureExecutorOptions = {}): AzureExecutor {
  const executor = new AzureExecutor({ ...platform.options, function: NAME, ...more }, { clock: systemClock });
  opened.push(executor);
  return executor;
}

const app = (name = NAME): AzureApp => {
  const found = emulator.apps.find((each) => each.name === name);
  if (!found) throw new Error(`there is no app ${name}`);
  return found;
};

async function fixturePackage(): Promise<FunctionPackage> {
  const folder = await mkdtemp(join(tmpdir(), 'azure-'));
  const { zipFile } = await buildHandler({ entry: join(import.meta.dirname, '../fixtures/handler/jobs.ts'), outDir: folder });
  const code = await packageFor('azure', await readFile(zipFile), { modules: await readModules(['@azure/functions'], ROOT) });
  await rm(folder, { recursive: true, force: true });
  return code;
}

async function logged(deployer: FaasDeployer, text: string): Promise<readonly LogEntry[]> {
  const entries: LogEntry[] = [];
  for await (const entry of deployer.logs(NAME, { follow: true, signal: AbortSignal.timeout(20_000) })) {
    entries.push(entry);
    if (entry.message.includes(text)) return entries;
  }
  throw new Error(`the log has no ${text}`);
}

describe('tokens', () => {
  it('are asked for once, and again shortly before their end', async () => {
    const deployer = deployerWith();
    await deployer.describe(NAME);
    await Promise.all([deployer.describe(NAME), deployer.describe('two'), deployer.describe('three')]);
    expect(emulator.tokens).toBe(1);
    let now = Date.now();
    const clock = { ...systemClock, now: () => now };
    const aging = new AzureDeployer(platform.options, { clock });
    opened.push(aging);
    await aging.describe(NAME);
    now += 3_200_000;
    await aging.describe(NAME);
    expect(emulator.tokens).toBe(2);
    now += 200_000;
    await Promise.all([aging.describe(NAME), aging.describe('two')]);
    expect(emulator.tokens).toBe(3);
  });

  it('come from the identity of a machine, and of an app', async () => {
    const machine = deployerWith({ identity: 'managed', clientSecret: 'env:NOBODY_SETS_THIS' });
    expect(await machine.describe(NAME)).toBeUndefined();
    vi.stubEnv('IDENTITY_ENDPOINT', `${platform.options.endpoints?.metadata}/metadata/identity/oauth2/token`);
    vi.stubEnv('IDENTITY_HEADER', 'header-of-the-identity');
    expect(await deployerWith({ clientSecret: 'env:NOBODY_SETS_THIS' }).describe(NAME)).toBeUndefined();
    vi.stubEnv('IDENTITY_HEADER', 'another');
    await expect(deployerWith({ clientSecret: 'env:NOBODY_SETS_THIS' }).describe(NAME)).rejects.toMatchObject({
      code: 'EXECUTOR_UNAUTHORIZED',
    });
    expect(emulator.tokens).toBe(2);
  });

  it('a wrong secret is told with the words of the login, and is not repeated', async () => {
    const wrong = deployerWith({ clientSecret: () => 'a-wrong-secret' }).describe(NAME);
    await expect(wrong).rejects.toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED', details: { platformCode: 'invalid_client' } });
    await expect(wrong).rejects.toThrow('AADSTS7000215: Invalid client secret provided. (invalid_client)');
    await expect(wrong).rejects.not.toThrow('a-wrong-secret');
  });

  it('one that was given and is not valid is told with the words of the Resource Manager', async () => {
    await expect(deployerWith({ token: () => 'expired' }).describe(NAME)).rejects.toMatchObject({
      code: 'EXECUTOR_UNAUTHORIZED',
      details: { platformCode: 'InvalidAuthenticationToken' },
    });
  });
});

describe('deployments', () => {
  it('a failed one tells the log of Azure, and the next one makes up for it', async () => {
    emulator.deploymentFault = 'npm could not be found';
    const failed = deployerWith().deploy(NAME, codeOf('a'), CONFIG);
    await expect(failed).rejects.toMatchObject({ code: 'DEPLOY_FAILED', details: { platformCode: 'failed' } });
    await expect(failed).rejects.toThrow('Deployment started; npm could not be found');
    expect(await deployerWith().describe(NAME)).toMatchObject({ status: 'failed', reason: 'no package was deployed to the app' });
    emulator.deploymentFault = undefined;
    const { state, changes } = await deployerWith().deploy(NAME, codeOf('a'), CONFIG);
    expect(state?.status).toBe('active');
    expect(changes.map(({ resource }) => resource)).toEqual(['code']);
  });

  it('an operation that fails is told with the words of the Resource Manager', async () => {
    emulator.operationFault = { code: 'SubscriptionIsOverQuotaForSku', message: 'Current Limit (Flex VMs): 0.' };
    const failed = deployerWith().deploy(NAME, codeOf('a'), CONFIG);
    await expect(failed).rejects.toMatchObject({ code: 'DEPLOY_FAILED', details: { platformCode: 'SubscriptionIsOverQuotaForSku' } });
    await expect(failed).rejects.toThrow('Current Limit (Flex VMs): 0.');
  });

  it('an operation that is asked about goes on when an answer is lost', async () => {
    let asked = 0;
    platform.lose((method, path) => method === 'GET' && path.includes('/operations/') && (asked += 1) % 2 === 1);
    const { state } = await deployerWith().deploy(NAME, codeOf('a'), CONFIG);
    expect(state).toMatchObject({ status: 'active' });
    expect(asked).toBeGreaterThan(1);
    platform.lose((method, path) => method === 'GET' && path.includes('/operations/'));
    await expect(deployerWith().remove(NAME)).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
  });

  it('tokens go nowhere but to the Resource Manager', async () => {
    emulator.publicUrl = 'http://127.0.0.2:1';
    await expect(deployerWith().deploy(NAME, codeOf('a'), CONFIG)).rejects.toMatchObject({
      code: 'EXECUTOR_RESPONSE_INVALID',
      message: expect.stringContaining('http://127.0.0.2:1'),
    });
  });

  it('a custom handler is told that its timers are its own', async () => {
    const schedules = [{ name: 'nightly', schedule: { kind: 'calendar', expression: '*-*-* 03:00:00' } }] as const;
    const { warnings } = await deployerWith().deploy(NAME, codeOf('a'), { runtime: 'custom', schedules }, { dryRun: true });
    expect(warnings).toEqual([expect.stringContaining('function.json')]);
    await expect(deployerWith().deploy(NAME, codeOf('a'), { runtime: 'ruby3.3' })).rejects.toMatchObject({ code: 'RUNTIME_UNSUPPORTED' });
    expect(platform.writes?.()).toBe(0);
  });

  it('a deployment of somebody else is seen, and undone', async () => {
    await deployerWith().deploy(NAME, codeOf('a'), CONFIG);
    await deployerWith().deploy('two', codeOf('b'), CONFIG);
    const other = deployerWith();
    const { endpoints } = platform.options;
    const token = (await (
      await fetch(`${endpoints?.login}/${IDENTITY.tenant}/oauth2/v2.0/token`, {
        method: 'POST',
        headers: { 'content-type': 'application/x-www-form-urlencoded' },
        body: `grant_type=client_credentials&client_id=${IDENTITY.clientId}&client_secret=${IDENTITY.clientSecret}&scope=https://management.azure.com/.default`,
      })
    ).json()) as { access_token: string };
    const published = await fetch(`${endpoints?.scm?.replace('{app}', NAME)}/api/publish?RemoteBuild=false`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token.access_token}`, 'content-type': 'application/zip' },
      body: Buffer.from(codeOf('b').zip),
    });
    expect(published.status).toBe(202);
    expect((await other.describe(NAME))?.sha256).toBeUndefined();
    const { changes, state } = await other.deploy(NAME, codeOf('a'), CONFIG);
    expect(changes.map(({ resource }) => resource)).toEqual(['code']);
    expect(state?.sha256).toBe(codeOf('a').sha256);
  });

  it('five packages are kept, the oldest goes, and one can be gone back to by its number', async () => {
    const deployer = deployerWith();
    for (const tag of ['a', 'b', 'c', 'd', 'e', 'f', 'g']) await deployer.deploy(NAME, codeOf(tag), CONFIG);
    expect((await deployer.versions(NAME)).map(({ version, current }) => [version, current])).toEqual([
      ['7', true],
      ['6', false],
      ['5', false],
      ['4', false],
      ['3', false],
    ]);
    await deployer.rollback(NAME, '3');
    const { body } = await deployer.invoke(NAME, Buffer.from('{}'), { version: '3' });
    expect(JSON.parse(Buffer.from(body).toString())).toMatchObject({ tag: 'c' });
    await expect(deployer.invoke(NAME, Buffer.from('{}'), { version: '7' })).rejects.toMatchObject({ code: 'OPERATION_UNSUPPORTED' });
    await expect(deployer.rollback(NAME, '2')).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  it('scale, runtime, timeout, tags and schedules become what Azure calls them, and come back', async () => {
    const config: FunctionConfig = {
      description: 'counts sheep',
      runtime: 'nodejs22',
      memoryMb: 4_096,
      timeoutMs: 90_500,
      concurrencyMax: 400,
      instancesMin: 2,
      environment: { COLOUR: 'blue' },
      tags: { team: 'sheep' },
      schedules: [{ name: 'nightly', schedule: { kind: 'calendar', expression: '*-*-* 03:00:30' }, event: { say: 'good night' } }],
      platform: { perInstanceConcurrency: 8 },
    };
    const { state, warnings } = await deployerWith().deploy(NAME, codeOf('a'), config);
    const { platform: _, ...said } = config;
    expect(state?.config).toEqual(said);
    expect(warnings).toEqual([]);
    const { functionAppConfig, settings, tags, timers } = app();
    expect(functionAppConfig).toMatchObject({
      runtime: { name: 'node', version: '22' },
      scaleAndConcurrency: {
        maximumInstanceCount: 50,
        instanceMemoryMB: 4_096,
        alwaysReady: [{ name: 'http', instanceCount: 2 }],
        triggers: { http: { perInstanceConcurrency: 8 } },
      },
      siteUpdateStrategy: { type: 'RollingUpdate' },
    });
    expect(settings['AzureFunctionsJobHost__functionTimeout']).toBe('00:01:30.500');
    expect(tags).toMatchObject({ 'managed-by': 'blueprint-runner', team: 'sheep', 'blueprint-description': 'counts sheep' });
    expect(timers).toEqual([{ name: 'nightly', schedule: '30 0 3 * * *' }]);
    const { changes } = await deployerWith().updateConfiguration(NAME, { tags: { flock: 'two' }, instancesMin: 0 });
    expect(changes.map(({ fields }) => fields?.toSorted())).toEqual([['instancesMin', 'tags']]);
    expect(app().tags).toMatchObject({ flock: 'two', 'blueprint-description': 'counts sheep', 'blueprint-sha256': codeOf('a').sha256 });
    expect(app().tags).not.toHaveProperty('team');
  });

  it('what Azure cannot do as asked is a warning, and under strict LIMIT_EXCEEDED', async () => {
    const config: FunctionConfig = { ...CONFIG, concurrencyMax: 3, architecture: 'arm64', logRetentionDays: 7 };
    await expect(deployerWith().deploy(NAME, codeOf('a'), config, { strict: true })).rejects.toMatchObject({ code: 'LIMIT_EXCEEDED' });
    expect(platform.writes?.()).toBe(0);
    const { warnings } = await deployerWith().deploy(NAME, codeOf('a'), config);
    expect(warnings).toEqual([
      'concurrencyMax becomes 40: 40 instances with 1 calls each',
      expect.stringContaining('x86_64 only'),
      expect.stringContaining('logRetentionDays is left out'),
    ]);
  });

  it('no report tells the key of the storage, and a key that was changed is written', async () => {
    const { state, changes } = await deployerWith().deploy(NAME, codeOf('a'), CONFIG);
    const [account] = [...emulator.groups.values()].flatMap(({ accounts }) => [...accounts.values()]);
    const { key } = account?.blobs ?? { key: '' };
    expect(key.length).toBeGreaterThan(80);
    expect(JSON.stringify([state, changes])).not.toContain(key);
    expect(JSON.stringify([state, changes])).not.toContain(app().functionKey);
    app().settings = { ...app().settings, AzureWebJobsStorage: 'AccountKey=old' };
    const again = await deployerWith().deploy(NAME, codeOf('a'), CONFIG);
    expect(again.changes).toEqual([{ action: 'update', resource: 'configuration', id: NAME, fields: ['storage'] }]);
    expect(app().settings['AzureWebJobsStorage']).toContain(key);
  });

  it('the connection to Application Insights is a setting that no environment shows', async () => {
    const insightsConnection = (): string => 'InstrumentationKey=of-tests';
    const { state } = await deployerWith({ insightsConnection }).deploy(NAME, codeOf('a'), CONFIG);
    expect(app().settings['APPLICATIONINSIGHTS_CONNECTION_STRING']).toBe('InstrumentationKey=of-tests');
    expect(state?.config.environment).toEqual({ COLOUR: 'blue' });
  });
});

describe('removal', () => {
  it('leaves the group with what others have in it, and the storage that others made', async () => {
    await platform.makeForeign?.('foreign-one');
    await deployerWith().deploy(NAME, codeOf('a'), CONFIG);
    const { changes } = await deployerWith().remove(NAME);
    expect(changes.map(({ resource }) => resource)).toEqual(['function', 'plan', 'container']);
    expect(emulator.apps.map(({ name }) => name)).toEqual(['foreign-one']);
  });

  it('of one function leaves the packages of the others, of the last one nothing', async () => {
    await deployerWith().deploy(NAME, codeOf('a'), CONFIG);
    await deployerWith().deploy('two', codeOf('b'), CONFIG);
    await deployerWith().remove(NAME);
    expect((await deployerWith().versions('two')).map(({ version }) => version)).toEqual(['1']);
    const { changes } = await deployerWith().remove('two');
    expect(changes.map(({ resource }) => resource)).toEqual(['function', 'plan', 'container', 'storage-account', 'resource-group']);
    expect(emulator.groups.size).toBe(0);
  });

  it('leaves group and storage to what came while it was under way', async () => {
    await deployerWith().deploy(NAME, codeOf('a'), CONFIG);
    const made: unknown[] = [];
    const onProgress = ({ step }: { readonly step: string }): void => {
      if (step.startsWith('delete plan')) made.push(platform.makeForeign?.('late'));
    };
    await deployerWith().remove(NAME, { onProgress });
    await Promise.all(made);
    expect(made).toHaveLength(1);
    expect([...emulator.groups.values()].map(({ accounts, apps }) => [accounts.size, [...apps.keys()]])).toEqual([[1, ['late']]]);
    await deployerWith().deploy('two', codeOf('b'), CONFIG);
    expect((await deployerWith().describe('two'))?.status).toBe('active');
  });

  it('of the last function leaves a storage account that was named, and its group', async () => {
    const storageAccount = 'givenbysomebody';
    await deployerWith({ storageAccount }).deploy(NAME, codeOf('a'), CONFIG);
    const { changes } = await deployerWith({ storageAccount }).remove(NAME);
    expect(changes.map(({ resource }) => resource)).toEqual(['function', 'plan', 'container']);
    expect([...emulator.groups.values()].flatMap(({ accounts }) => [...accounts.keys()])).toEqual([storageAccount]);
  });
});

describe('the package of a handler', () => {
  it('a schedule can be started by hand, and what it says is in the logs', async () => {
    const schedules = [
      { name: 'nightly', schedule: { kind: 'calendar', expression: '*-*-* 03:00:00' }, event: { job_id: 102, args: [48] } } as const,
    ];
    const deployer = deployerWith();
    await deployer.deploy(NAME, await fixturePackage(), { memoryMb: 512, schedules });
    expect(app().timers).toEqual([{ name: 'nightly', schedule: '0 0 3 * * *' }]);
    await deployer.startSchedule(NAME, 'nightly');
    expect((await logged(deployer, 'slow job runs')).length).toBeGreaterThan(0);
    await expect(deployer.startSchedule(NAME, 'weekly')).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(deployer.startSchedule('two', 'nightly')).rejects.toMatchObject({ code: 'FUNCTION_NOT_FOUND' });
    const call = { job_id: 103, args_base64: Buffer.from('BLUEPRINT_ADAPTER').toString('base64') };
    const { body, failed, requestId } = await deployer.invoke(NAME, Buffer.from(JSON.stringify(call)));
    const { result_base64: result } = JSON.parse(Buffer.from(body).toString()) as { result_base64: string };
    expect([failed, Buffer.from(result, 'base64').toString()]).toEqual([false, 'azure']);
    expect(requestId).toMatch(/^[\w-]{36}$/);
  });

  it('logs are asked for by level and by text, whatever is in it', async () => {
    const deployer = deployerWith();
    await deployer.deploy(NAME, codeOf('a'), CONFIG);
    const lines = [
      '{"level":50,"msg":"the oven is cold"}',
      'plain',
      '{"level":30,"msg":"warm"}',
      "it's a \\ line",
      '{"level":"warn","msg":"warmer"}',
    ];
    app().traces.push(...lines.map((message, at) => ({ at: Date.now() + at, message, id: `item-${at}` })));
    const read = async (query: LogQuery): Promise<(string | undefined)[]> => {
      const found: (string | undefined)[] = [];
      for await (const { message, level } of deployer.logs(NAME, query)) found.push(message, level);
      return found;
    };
    expect(await read({ level: 'error', limit: 1 })).toEqual([lines[0], 'error']);
    expect(await read({ level: 'warn' })).toEqual([lines[0], 'error', lines[4], 'warn']);
    expect(await read({ search: "it's a \\" })).toEqual([lines[3], 'info']);
    expect(await read({ search: 'it is' })).toEqual([]);
  });

  it('without the id of an Application Insights logs are OPERATION_UNSUPPORTED, with what to set', async () => {
    const deployer = deployerWith({ insightsAppId: undefined });
    await expect(deployer.logs(NAME).next()).rejects.toMatchObject({
      code: 'OPERATION_UNSUPPORTED',
      message: expect.stringContaining('insightsAppId'),
    });
  });
});

describe('the executor', () => {
  const callOf = (text: string): JobCall => ({ id: `call-${text}`, jobId: 2n, body: Buffer.from(text), metadata: new Metadata() });
  const said = async (executor: AzureExecutor, text: string): Promise<string> => {
    const { results } = await executor.invoke(callOf(text), { deadline: Date.now() + 60_000, attempt: 1 });
    return Buffer.from(results[0]?.body ?? '').toString();
  };

  it('asks for the key once, and again after a refusal', async () => {
    await deployerWith().deploy(NAME, await fixturePackage(), { memoryMb: 512 });
    const executor = executorWith();
    expect(await said(executor, 'one')).toBe('one');
    expect(emulator.tokens).toBe(2);
    app().functionKey = 'another';
    await expect(said(executor, 'two')).rejects.toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED' });
    expect(await said(executor, 'three')).toBe('three');
  });

  it('takes and gives as much as it says', async () => {
    await deployerWith().deploy(NAME, await fixturePackage(), { memoryMb: 512 });
    const body = Buffer.alloc(8 * 1024 * 1024, 'large');
    const executor = executorWith();
    expect(executor.limits.requestBytesMax).toBeGreaterThan(body.length);
    const { results } = await executor.invoke({ ...callOf('large'), body }, { deadline: Date.now() + 60_000, attempt: 1 });
    expect(body.equals(results[0]?.body ?? Buffer.alloc(0))).toBe(true);
  });

  it('takes the key from where it is told, and then asks Azure nothing', async () => {
    await deployerWith().deploy(NAME, await fixturePackage(), { memoryMb: 512 });
    const url = platform.options.endpoints?.functions?.replace('{app}', NAME) ?? '';
    vi.stubEnv('JOBS_KEY', app().functionKey);
    const executor = new AzureExecutor({ url, key: 'env:JOBS_KEY' }, { clock: systemClock });
    opened.push(executor);
    const { tokens } = emulator;
    expect(await said(executor, 'one')).toBe('one');
    expect(emulator.tokens).toBe(tokens);
  });

  it('a function that is not there is EXECUTOR_NOT_FOUND, no credentials CREDENTIALS_MISSING', async () => {
    await expect(said(executorWith(), 'one')).rejects.toMatchObject({ code: 'EXECUTOR_NOT_FOUND' });
    await expect(said(executorWith({ clientSecret: 'env:NOBODY_SETS_THIS' }), 'one')).rejects.toMatchObject({
      code: 'CREDENTIALS_MISSING',
    });
    const nobody = executorWith({ endpoints: emulator.endpoints('http://127.0.0.1:1') });
    await expect(said(nobody, 'one')).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE', retry: 'safe' });
  });

  it('is made from what the deployer says, without a secret in it', async () => {
    const { state } = await deployerWith().deploy(NAME, await fixturePackage(), { memoryMb: 512 });
    const reference = JSON.parse(JSON.stringify(state?.executor)) as {
      use: string;
      options: Record<string, unknown>;
      environment: string[];
    };
    expect(reference).toMatchObject({ use: 'azure', environment: ['AZURE_TENANT_ID', 'AZURE_CLIENT_ID', 'AZURE_CLIENT_SECRET'] });
    vi.stubEnv('AZURE_CLIENT_SECRET', IDENTITY.clientSecret);
    const registry = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
    const executor = await registry.executor(reference.use, reference.options);
    opened.push(executor);
    await executor.health?.(2n);
    const { results } = await executor.invoke(callOf('told'), { deadline: Date.now() + 60_000, attempt: 1 });
    expect(Buffer.from(results[0]?.body ?? '').toString()).toBe('told');
  });
});

describe('options', () => {
  it.each([
    [{ region: 'eastus' }, 'subscriptionId'],
    [{ subscriptionId: 'a b' }, 'subscriptionId'],
    [{ subscriptionId: 's', identity: 'nobody' }, 'identity'],
    [{ subscriptionId: 's', endpoints: { portal: 'https://portal.azure.com' } }, 'endpoints'],
    [{ subscriptionId: 's', color: 'red' }, 'color'],
    [{ subscriptionId: 's', pollMs: 0 }, 'pollMs'],
  ])('%j is refused for %s', async (options, name) => {
    const registry = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
    await expect(registry.deployer(azurePlugin.name, options)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining(name),
    });
  });
});
