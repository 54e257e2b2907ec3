/** What only the deployer of Cloud Run functions does: masks, builds that fail, who may call, jobs of Cloud Scheduler, rollbacks by traffic. */

import { createHash } from 'node:crypto';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { GcpDeployer } from '../../plugins/gcp/index.ts';
import { RunnerError } from '../../src/errors.ts';
import type { FunctionConfig, FunctionPackage, FunctionSchedule } from '../../src/executor/deployer.ts';
import { Tokens } from '../../plugins/gcp/auth.ts';
import { Connections } from '../../src/http/connection.ts';
import { impatientClock } from '../support/gcp-clock.ts';
import { PROJECT, REGION, startGcp } from '../support/gcp.ts';
import type { GcpEmulator } from '../support/gcp.ts';
import { startFaultyProxy } from '../support/faulty-proxy.ts';
import type { FaultyProxy } from '../support/faulty-proxy.ts';
import { zipOf } from '../support/gateway.ts';

const SOURCE = 'exports.handler = (request, response) => response.json({ said: request.body });';
const PARENT = `projects/${PROJECT}/locations/${REGION}`;
const NIGHTLY: FunctionSchedule = {
  name: 'nightly',
  schedule: { kind: 'calendar', expression: '*-*-* 03:00:00 America/New_York' },
  event: { hour: 3 },
};

let emulator: GcpEmulator;
let proxy: FaultyProxy;
let queries: string[];
const opened: GcpDeployer[] = [];

beforeEach(async () => {
  emulator = await startGcp();
  queries = [];
  proxy = await startFaultyProxy({
    target: emulator.url,
    isWrite(method, path) {
      if (method === 'PATCH') queries.push(decodeURIComponent(path.split('updateMask=')[1] ?? ''));
      return method !== 'GET' && !path.startsWith('/token');
    },
  });
  emulator.publicUrl = proxy.url;
});

afterEach(async () => {
  await Promise.all(opened.splice(0).map((deployer) => deployer.close()));
  await proxy.close();
  await emulator.close();
});

function connect(): GcpDeployer {
  const options = { projectId: PROJECT, region: REGION, endpoints: emulator.endpoints, credentials: () => emulator.credentials };
  const deployer = new GcpDeployer(options, { clock: impatientClock, environment: {} });
  opened.push(deployer);
  return deployer;
}

function codeOf(source = SOURCE, file = 'index.js'): FunctionPackage {
  const zip = zipOf({ [file]: source });
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

const codeAndMessage = (promise: Promise<unknown>): Promise<RunnerError> =>
  promise.then(
    () => new RunnerError('INTERNAL', 'it was done'),
    (error: unknown) => error as RunnerError,
  );

const EVERYTHING: FunctionConfig = {
  description: 'all of it',
  runtime: 'nodejs22',
  memoryMb: 2_048,
  timeoutMs: 3_600_000,
  environment: { A: '1' },
  concurrencyMax: 240,
  instancesMin: 1,
  tags: { team: 'kitchen' },
  platform: {
    concurrency: 80,
    cpu: '2',
    serviceAccount: `worker@${PROJECT}.iam.gserviceaccount.com`,
    vpcConnector: `${PARENT}/connectors/c`,
    vpcEgress: 'all',
    ingress: 'internal-and-gclb',
    secrets: { KEY: { secret: 'key', version: '3' }, OTHER: { secret: 'other', project: 'elsewhere' } },
    buildServiceAccount: `builder@${PROJECT}.iam.gserviceaccount.com`,
  },
};

test('every setting arrives, is told again, and is not written twice', async () => {
  const deployer = connect();
  const { state } = await deployer.deploy('all', codeOf(), EVERYTHING);
  const { cpu: _, buildServiceAccount: __, ...platform } = EVERYTHING.platform ?? {};
  expect(state?.config).toEqual({
    ...EVERYTHING,
    handler: 'handler',
    platform: {
      ...platform,
      secrets: {
        KEY: { secret: 'key', version: '3', project: PROJECT },
        OTHER: { secret: 'other', version: 'latest', project: 'elsewhere' },
      },
    },
  });
  expect(emulator.functions.get('all')?.fields).toMatchObject({
    buildConfig: { serviceAccount: `projects/${PROJECT}/serviceAccounts/builder@${PROJECT}.iam.gserviceaccount.com` },
    serviceConfig: { maxInstanceCount: 3, minInstanceCount: 1, availableCpu: '2', timeoutSeconds: 3_600, availableMemory: '2048Mi' },
  });
  const before = proxy.writes();
  expect((await deployer.deploy('all', codeOf(), EVERYTHING)).changes).toEqual([]);
  expect((await deployer.deploy('all', codeOf(), state?.config ?? {})).changes).toEqual([]);
  expect(proxy.writes()).toBe(before);
});

test('an update names what differs, and nothing else', async () => {
  const deployer = connect();
  await deployer.deploy('one', codeOf(), { memoryMb: 256, environment: { A: '1' } });
  const { changes } = await deployer.updateConfiguration('one', { memoryMb: 512, timeoutMs: 60_000, environment: { A: '1' } });
  expect(queries).toEqual(['serviceConfig.availableMemory']);
  expect(changes).toEqual([{ action: 'update', resource: 'configuration', id: 'one', fields: ['memoryMb'] }]);
  const update = await deployer.updateCode('one', codeOf(`${SOURCE} // changed`));
  expect(queries[1]).toBe('serviceConfig.environmentVariables,buildConfig.source');
  expect(update.changes).toEqual([{ action: 'update', resource: 'code', id: 'one', fields: ['code'] }]);
});

test('a build that fails is told with the code of the platform, and a sound package repairs the function', async () => {
  const deployer = connect();
  const error = await codeAndMessage(deployer.deploy('one', codeOf(SOURCE, 'nothing.js'), {}));
  expect(error).toMatchObject({ code: 'DEPLOY_FAILED', retry: 'never', details: { platformCode: 'INVALID_ARGUMENT' } });
  expect(error.message).toMatch(/INVALID_ARGUMENT: Build failed .*cloud-build/);
  expect(await deployer.describe('one')).toMatchObject({ status: 'failed', reason: expect.stringContaining('Build failed') as string });
  const { state } = await deployer.deploy('one', codeOf(), {});
  expect(state?.status).toBe('active');
  expect((await deployer.invoke('one', Buffer.from('{"a":1}'))).failed).toBe(false);
});

test('a build that is asked about goes on when an answer is lost, or the platform cannot say for a moment', async () => {
  let asked = 0;
  proxy.lose((method, path) => method === 'GET' && path.includes('/operations/') && (asked += 1) % 2 === 1);
  expect((await connect().deploy('patient', codeOf(), {})).state).toMatchObject({ status: 'active' });
  expect(asked).toBeGreaterThan(1);
  proxy.lose((method, path) => method === 'GET' && path.includes('/operations/'));
  expect(await codeAndMessage(connect().deploy('patient', codeOf('exports.handler = () => 2;'), {}))).toMatchObject({
    code: 'PLATFORM_UNREACHABLE',
  });
});

test('a function that the platform works on for ever is not waited for any longer than a build may take', async () => {
  await connect().deploy('stuck', codeOf(), {});
  const present = emulator.functions.get('stuck');
  if (present) present.state = 'DEPLOYING';
  let now = Date.now();
  const clock = { ...impatientClock, now: () => now, sleep: async (ms: number) => void (now += ms) };
  const options = { projectId: PROJECT, region: REGION, endpoints: emulator.endpoints, credentials: () => emulator.credentials };
  const deployer = new GcpDeployer(options, { clock, environment: {} });
  opened.push(deployer);
  expect(await codeAndMessage(deployer.deploy('stuck', codeOf('exports.handler = () => 2;'), {}))).toMatchObject({
    code: 'DEPLOY_FAILED',
    message: expect.stringContaining('for more than 30 minutes') as string,
  });
});

test('a permission that lacks is named, with a role that has it', async () => {
  emulator.denied.add('cloudfunctions.functions.create');
  const error = await codeAndMessage(connect().deploy('one', codeOf(), {}));
  expect(error).toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED', details: { platformCode: 'PERMISSION_DENIED' } });
  expect(error.message).toMatch(/the permission cloudfunctions\.functions\.create is missing.*roles\/cloudfunctions\.developer/);
  expect(emulator.functions.size).toBe(0);
});

test('who has no right to look at schedules deploys and removes functions without any', async () => {
  emulator.denied.add('cloudscheduler.jobs.list');
  const deployer = connect();
  const { state } = await deployer.deploy('one', codeOf(), {});
  expect(state?.status).toBe('active');
  for await (const { name } of deployer.list()) expect(name).toBe('one');
  const error = await codeAndMessage(deployer.deploy('two', codeOf(), { schedules: [NIGHTLY] }));
  expect(error).toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED', details: { lacks: expect.stringContaining('roles/cloudscheduler.admin') } });
  const { changes, warnings } = await deployer.remove('one');
  expect(changes).toEqual([{ action: 'delete', resource: 'function', id: 'one' }]);
  expect(warnings).toEqual([expect.stringMatching(/^whether schedules of one are left is not known: .*cloudscheduler\.jobs\.list/)]);
  expect(emulator.functions.size).toBe(0);
});

test('who may call: everybody when asked for, nobody more when taken back, others stay', async () => {
  const deployer = connect();
  const { changes } = await deployer.deploy('open', codeOf(), { platform: { public: true } });
  expect(changes.map(({ resource }) => resource)).toEqual(['function', 'access']);
  const call = async (): Promise<number> => (await fetch(`${emulator.publicUrl}/invoke/open`, { method: 'POST' })).status;
  expect(await call()).toBe(200);
  expect((await deployer.deploy('open', codeOf(), { platform: { public: true } })).changes).toEqual([]);
  const deployed = emulator.functions.get('open');
  const viewer = { role: 'roles/run.viewer', members: ['user:somebody@example.org'] };
  const conditional = { role: 'roles/run.invoker', members: ['user:late@example.org'], condition: { title: 'late', expression: 'false' } };
  if (deployed) deployed.policy = { etag: 'x', bindings: [...(deployed.policy['bindings'] as object[]), viewer, conditional] };
  await deployer.updateConfiguration('open', { platform: { public: false } });
  expect(await call()).toBe(403);
  expect(deployed?.policy['bindings']).toEqual([viewer, conditional]);
});

test('a schedule calls the function as an account that may, in its time zone', async () => {
  const deployer = connect();
  const { state } = await deployer.deploy('timed', codeOf(), { timeoutMs: 20_000, schedules: [NIGHTLY], platform: { retries: 2 } });
  const job = emulator.scheduler.jobs.get('timed_nightly');
  expect(job).toMatchObject({
    schedule: '0 3 * * *',
    timeZone: 'America/New_York',
    attemptDeadline: '20s',
    retryConfig: { retryCount: 2 },
  });
  expect(state?.config.schedules).toEqual([{ ...NIGHTLY, schedule: { kind: 'calendar', expression: '*-*-* 3:0:00 America/New_York' } }]);
  const { uri, body, headers, oidcToken } = (job ?? {})['httpTarget'] as {
    uri: string;
    body: string;
    headers: Record<string, string>;
    oidcToken: { serviceAccountEmail: string; audience: string };
  };
  // What Cloud Scheduler does when the time has come.
  const generated = await fetch(`${emulator.url}/v1/projects/-/serviceAccounts/${oidcToken.serviceAccountEmail}:generateIdToken`, {
    method: 'POST',
    headers: { authorization: `Bearer ${[...emulator.tokens].at(-1)}` },
    body: JSON.stringify({ audience: oidcToken.audience }),
  });
  const { token } = (await generated.json()) as { token: string };
  const { 'Content-Type': type = '' } = headers;
  const answer = await fetch(uri, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': type },
    body: Buffer.from(body, 'base64'),
  });
  expect(await answer.json()).toEqual({ said: { hour: 3 } });
});

test('jobs of others are left alone: those of another function, and one that has the name of a schedule', async () => {
  const deployer = connect();
  await deployer.deploy('a', codeOf(), { schedules: [NIGHTLY] });
  await deployer.deploy('a-nightly', codeOf(), { schedules: [NIGHTLY] });
  emulator.scheduler.jobs.set('a_weekly', { name: `${PARENT}/jobs/a_weekly`, schedule: '0 0 * * 0', description: 'by hand' });
  const before = proxy.writes();
  const weekly = { ...NIGHTLY, name: 'weekly' };
  expect(await codeAndMessage(deployer.deploy('a', codeOf(), { schedules: [NIGHTLY, weekly] }))).toMatchObject({
    code: 'RESOURCE_FOREIGN',
  });
  expect(proxy.writes()).toBe(before);
  await deployer.remove('a');
  expect([...emulator.scheduler.jobs.keys()].toSorted()).toEqual(['a-nightly_nightly', 'a_weekly']);
});

test('after a rollback the older version is told, and a configuration alone does not bring the newest code back', async () => {
  const deployer = connect();
  const [first, second] = [codeOf(), codeOf(`${SOURCE} // second`)];
  await deployer.deploy('one', first, { environment: { A: '1' }, memoryMb: 256 });
  await deployer.deploy('one', second, { environment: { A: '2' }, memoryMb: 512 });
  const { state, changes } = await deployer.rollback('one');
  expect(changes).toMatchObject([{ action: 'update', resource: 'traffic', id: 'one' }]);
  expect(state).toMatchObject({ sha256: first.sha256, config: { environment: { A: '1' }, memoryMb: 256 } });
  const before = proxy.writes();
  expect(await codeAndMessage(deployer.updateConfiguration('one', { memoryMb: 1_024 }))).toMatchObject({ code: 'OPERATION_UNSUPPORTED' });
  expect((await deployer.updateCode('one', first)).changes).toEqual([]);
  expect(proxy.writes()).toBe(before);
  await deployer.deploy('one', second, { environment: { A: '2' }, memoryMb: 1_024 });
  expect(await deployer.describe('one')).toMatchObject({ sha256: second.sha256, config: { memoryMb: 1_024 } });
});

test('names what GCP does not take, all at once', () => {
  const config: FunctionConfig = {
    memoryMb: 64,
    environment: { PORT: '1', 'a b': '2' },
    tags: { Team: 'x' },
    platform: { concurrency: 80 },
    schedules: [{ ...NIGHTLY, name: 'Not This' }],
  };
  const violations = connect().violations('Not_A_Name', codeOf(), config);
  expect(violations.map(({ limit }) => limit)).toEqual([
    'name',
    'memoryMb',
    'platform.concurrency',
    'schedule',
    'environment',
    'environment',
    'tags',
  ]);
  expect(() => connect().violations('one', codeOf(), { platform: { colour: 'blue' } })).toThrow(/no platform option colour/);
});

test('what Cloud Run functions cannot do is a warning, and an error when it is to be strict', async () => {
  const deployer = connect();
  const config: FunctionConfig = { architecture: 'arm64', logRetentionDays: 7 };
  expect(await codeAndMessage(deployer.deploy('one', codeOf(), config, { strict: true }))).toMatchObject({ code: 'LIMIT_EXCEEDED' });
  const { warnings } = await deployer.deploy('one', codeOf(), config);
  expect(warnings).toHaveLength(2);
  expect(await codeAndMessage(deployer.deploy('two', codeOf(), { runtime: 'custom' }))).toMatchObject({ code: 'RUNTIME_UNSUPPORTED' });
});

test('access tokens are kept until shortly before their end, and fetched once for all who ask', async () => {
  let now = Date.now() - 3_400_000;
  const clock = { ...impatientClock, now: () => now };
  const connections = new Connections({}, clock);
  const tokens = new Tokens({ credentials: () => emulator.credentials }, { clock, connections, environment: {} });
  const [first, ...others] = await Promise.all([tokens.access(), tokens.access(), tokens.access()]);
  expect(new Set([first, ...others]).size).toBe(1);
  now += 3_400_000;
  expect(await tokens.access()).toBe(first);
  expect(emulator.granted.access).toBe(1);
  now += 100_000;
  expect(await tokens.access()).not.toBe(first);
  expect(emulator.granted.access).toBe(2);
  tokens.forget();
  await tokens.access();
  expect(emulator.granted.access).toBe(3);
  await connections.close();
});
