/** Deployments to AWS as moto has it: everything that belongs to a function, and what can go wrong between here and there. */

import { randomBytes } from 'node:crypto';
import { EventBridge } from '@aws-sdk/client-eventbridge';
import { IAM } from '@aws-sdk/client-iam';
import { CloudWatchLogs } from '@aws-sdk/client-cloudwatch-logs';
import { Lambda } from '@aws-sdk/client-lambda';
import { S3 } from '@aws-sdk/client-s3';
import { Scheduler } from '@aws-sdk/client-scheduler';
import { afterAll, beforeAll, beforeEach, describe, expect } from 'vitest';
import type { FunctionConfig, FunctionSchedule } from '../../src/executor/deployer.ts';
import type { LambdaDeployer, LambdaPlatform } from '../../plugins/aws-lambda/index.ts';
import { REGION, deployerOf, handlerPackage, packageOf, settings, snapshotOf } from '../support/aws-platform.ts';
import { useMoto } from '../support/moto-file.ts';

const { testMoto, isThere, world, empty } = useMoto();

let deployer: LambdaDeployer;
let lambda: Lambda;
let iam: IAM;
let logs: CloudWatchLogs;
let scheduler: Scheduler;
let events: EventBridge;
let s3: S3;

beforeAll(async () => {
  if (!isThere) return;
  const aws = settings(world.moto.url);
  lambda = new Lambda(aws);
  iam = new IAM(aws);
  logs = new CloudWatchLogs(aws);
  scheduler = new Scheduler(aws);
  events = new EventBridge(aws);
  s3 = new S3({ ...aws, forcePathStyle: true });
});

afterAll(async () => {
  if (!isThere) return;
  for (const client of [lambda, iam, logs, scheduler, events, s3]) client.destroy();
});

beforeEach(async () => {
  if (!isThere) return;
  await empty();
  deployer = deployerOf(world);
});

const NAME = 'squaring';
const code = handlerPackage('a');
const platformOf = (platform: LambdaPlatform): Record<string, unknown> => ({ ...platform });
const WEEKDAYS: FunctionSchedule = {
  name: 'weekdays',
  schedule: { kind: 'calendar', expression: 'Mon-Fri 09:00 Europe/Berlin' },
  event: { why: 'work' },
};
const OFTEN: FunctionSchedule = { name: 'often', schedule: { kind: 'periodic', periodMs: 300_000 } };

/** Deploys, deploys again without a write, and gives the first report. */
async function deployTwice(config: FunctionConfig, by = deployer) {
  const report = await by.deploy(NAME, code, config);
  const before = world.proxy.writes.length;
  const again = await by.deploy(NAME, code, config);
  expect(again.changes).toEqual([]);
  expect(world.proxy.writes.slice(before)).toEqual([]);
  return report;
}

describe('a function with everything', () => {
  testMoto('is made, is found again as it is, and goes away with all of it', async () => {
    const bare = await snapshotOf(world);
    const config: FunctionConfig = {
      description: 'squares',
      runtime: 'nodejs22',
      memoryMb: 512,
      timeoutMs: 45_500,
      ephemeralStorageMb: 1_024,
      architecture: 'arm64',
      environment: { COLOUR: 'red' },
      concurrencyMax: 5,
      schedules: [WEEKDAYS, OFTEN],
      tags: { team: 'a' },
      logRetentionDays: 14,
      platform: platformOf({
        layers: [{ name: 'lib', zip: packageOf({ 'nodejs/x.js': '1' }).zip }],
        url: { auth: 'NONE', mode: 'RESPONSE_STREAM', cors: { origins: ['https://a.example'] } },
        tracing: true,
        async: { retriesMax: 1, ageMaxSeconds: 120, onFailure: 'arn:aws:sqs:eu-central-1:123456789012:failures' },
        scheduleGroup: 'nightly',
      }),
    };
    const { state, changes } = await deployTwice(config);
    expect(changes.map(({ action, resource }) => `${action} ${resource}`)).toEqual([
      'create layer',
      'create log-group',
      'create role',
      'create function',
      'create alias',
      'create url',
      'create permission',
      'create async',
      'create concurrency',
      'create schedule-group',
      'create role',
      'create schedule',
      'create schedule',
    ]);
    expect(state).toMatchObject({
      status: 'active',
      sha256: code.sha256,
      version: '1',
      endpoint: expect.stringMatching(/^https:\/\/.*lambda-url/) as string,
      config: {
        runtime: 'nodejs22',
        handler: 'handler.handler',
        memoryMb: 512,
        timeoutMs: 46_000,
        architecture: 'arm64',
        environment: { COLOUR: 'red' },
        concurrencyMax: 5,
        logRetentionDays: 14,
        tags: { team: 'a' },
        schedules: [
          { name: 'often', schedule: { kind: 'periodic', periodMs: 300_000 } },
          { name: 'weekdays', event: { why: 'work' } },
        ],
      },
      executor: { use: 'aws-lambda', options: { function: NAME, qualifier: 'live', region: REGION, endpoint: world.proxy.url } },
    });
    expect(state?.resources.map(({ kind }) => kind).toSorted()).toEqual(
      ['function', 'alias', 'role', 'layer', 'schedule', 'schedule', 'url', 'log-group'].toSorted(),
    );

    const role = `${NAME}-${REGION}-role`;
    const { AttachedPolicies = [] } = await iam.listAttachedRolePolicies({ RoleName: role });
    expect(AttachedPolicies.map(({ PolicyName = '' }) => PolicyName).toSorted()).toEqual([
      'AWSLambdaBasicExecutionRole',
      'AWSXRayDaemonWriteAccess',
    ]);
    const { PolicyDocument = '' } = await iam.getRolePolicy({ RoleName: role, PolicyName: 'blueprint-runner' });
    expect(JSON.parse(decodeURIComponent(PolicyDocument))).toMatchObject({
      Statement: [{ Action: ['sqs:SendMessage'], Resource: expect.stringMatching(/:failures$/) as string }],
    });
    const { Schedules = [] } = await scheduler.listSchedules({ GroupName: 'nightly' });
    expect(Schedules).toHaveLength(2);
    const weekdays = await scheduler.getSchedule({
      GroupName: 'nightly',
      Name: Schedules.find(({ Name }) => Name?.endsWith('-weekdays'))?.Name,
    });
    expect(weekdays).toMatchObject({
      ScheduleExpression: 'cron(00 09 ? * MON-FRI *)',
      ScheduleExpressionTimezone: 'Europe/Berlin',
      Target: { Arn: expect.stringMatching(/:function:squaring:live$/) as string, Input: '{"why":"work"}' },
    });
    const { Policy = '' } = await lambda.getPolicy({ FunctionName: NAME, Qualifier: 'live' });
    expect((JSON.parse(Policy) as { Statement: { Action: string }[] }).Statement.map(({ Action }) => Action)).toEqual([
      'lambda:InvokeFunctionUrl',
      'lambda:InvokeFunction',
    ]);

    await deployer.remove(NAME);
    expect(await snapshotOf(world)).toEqual(bare);
    expect((await scheduler.listScheduleGroups({})).ScheduleGroups?.map(({ Name }) => Name)).toEqual(['default']);
    expect((await logs.describeLogGroups({})).logGroups?.map(({ logGroupName }) => logGroupName)).toEqual([`/aws/lambda/${NAME}`]);
    expect((await deployer.remove(NAME)).changes).toEqual([]);
  });

  testMoto('loses what is switched off, and keeps what is not named', async () => {
    const platform: LambdaPlatform = {
      vpc: { subnetIds: ['subnet-1'], securityGroupIds: ['sg-1'] },
      url: { auth: 'NONE' },
      async: { retriesMax: 0 },
    };
    await deployTwice({ concurrencyMax: 3, tags: { team: 'a', stage: 'b' }, platform: platformOf(platform) });
    const attached = async (): Promise<string[]> =>
      ((await iam.listAttachedRolePolicies({ RoleName: `${NAME}-${REGION}-role` })).AttachedPolicies ?? [])
        .map(({ PolicyName = '' }) => PolicyName)
        .toSorted();
    expect(await attached()).toEqual(['AWSLambdaBasicExecutionRole', 'AWSLambdaVPCAccessExecutionRole']);
    await lambda.tagResource({ Resource: (await deployer.describe(NAME))?.id, Tags: { theirs: 'x' } });
    await iam.attachRolePolicy({ RoleName: `${NAME}-${REGION}-role`, PolicyArn: 'arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess' });
    await deployTwice({ tags: { team: 'c' } });
    expect((await deployer.describe(NAME))?.config).toMatchObject({ concurrencyMax: 3, tags: { team: 'c', theirs: 'x' }, platform });
    await deployTwice({ platform: platformOf({ vpc: false, url: false, async: false, unreserved: true }) });
    const { config, resources } = (await deployer.describe(NAME)) ?? {};
    expect(config?.platform).toBeUndefined();
    expect(config?.concurrencyMax).toBeUndefined();
    expect(config?.tags).toEqual({ team: 'c', theirs: 'x' });
    expect(resources?.map(({ kind }) => kind)).toEqual(['function', 'alias', 'role']);
    expect(await attached()).toEqual(['AWSLambdaBasicExecutionRole', 'AmazonS3ReadOnlyAccess']);
    await expect(lambda.getFunctionUrlConfig({ FunctionName: NAME, Qualifier: 'live' })).rejects.toMatchObject({
      name: 'ResourceNotFoundException',
    });
  });

  testMoto('gets another alias: calls and schedules go there, the old one goes away', async () => {
    await deployTwice({ schedules: [WEEKDAYS] });
    await deployTwice({ platform: platformOf({ alias: 'green' }) });
    expect((await lambda.listAliases({ FunctionName: NAME })).Aliases?.map(({ Name }) => Name)).toEqual(['green']);
    const [{ Name = '' } = {}] = (await scheduler.listSchedules({})).Schedules ?? [];
    expect((await scheduler.getSchedule({ Name })).Target?.Arn).toMatch(/:squaring:green$/);
    expect((await deployer.describe(NAME))?.executor.options['qualifier']).toBe('green');
  });
});

describe('packages', () => {
  testMoto(
    'above 50 MB go through the bucket, and the one before is removed from it',
    async () => {
      await s3.createBucket({ Bucket: 'code', CreateBucketConfiguration: { LocationConstraint: 'eu-central-1' } });
      const large = (tag: string) => packageOf({ 'handler.mjs': tag, 'data.bin': randomBytes(51 * 1024 * 1024) });
      const [first, second] = [large('a'), large('b')];
      expect(deployer.violations(NAME, first, {}).map(({ limit }) => limit)).toEqual(['package']);
      const through = deployerOf(world, { bucket: 'code' });
      const { changes } = await through.deploy(NAME, first, {});
      expect(changes.map(({ resource }) => resource)).toContain('package');
      const keys = async (): Promise<(string | undefined)[]> =>
        ((await s3.listObjectsV2({ Bucket: 'code' })).Contents ?? []).map(({ Key }) => Key);
      expect(await keys()).toEqual([`blueprint-runner/${NAME}/${first.sha256}.zip`]);
      const writes = world.proxy.writes.length;
      expect((await through.deploy(NAME, first, {})).changes).toEqual([]);
      expect(world.proxy.writes).toHaveLength(writes);
      const { state } = await through.updateCode(NAME, second);
      expect(state?.sha256).toBe(second.sha256);
      expect(await keys()).toEqual([`blueprint-runner/${NAME}/${second.sha256}.zip`]);
      await through.remove(NAME);
      expect(await keys()).toEqual([]);
    },
    180_000,
  );

  testMoto(
    'of layers above 50 MB go through the bucket, and away with the layer',
    async () => {
      await s3.createBucket({ Bucket: 'layers', CreateBucketConfiguration: { LocationConstraint: 'eu-central-1' } });
      const { zip, sha256 } = packageOf({ 'nodejs/data.bin': randomBytes(51 * 1024 * 1024) });
      const through = deployerOf(world, { bucket: 'layers' });
      const config = { platform: platformOf({ layers: [{ name: 'large', zip }] }) };
      const keys = async (): Promise<(string | undefined)[]> =>
        ((await s3.listObjectsV2({ Bucket: 'layers' })).Contents ?? []).map(({ Key }) => Key);
      await through.deploy(NAME, code, config);
      await through.deploy('other', code, config);
      expect(await keys()).toEqual([`blueprint-runner/layers/large/${sha256}.zip`]);
      await through.remove(NAME);
      expect(await keys()).toHaveLength(1);
      await through.remove('other');
      expect(await keys()).toEqual([]);
    },
    180_000,
  );

  testMoto('of layers are published once for all functions, and stay while another one has them', async () => {
    const layers = [
      { name: 'lib', zip: packageOf({ 'nodejs/x.js': '1' }).zip },
      { name: 'more', zip: packageOf({ 'nodejs/y.js': '1' }).zip },
    ];
    const config = { platform: platformOf({ layers }) };
    await deployTwice(config);
    const other = await deployer.deploy('other', code, config);
    expect(other.changes.map(({ resource }) => resource)).not.toContain('layer');
    const attached = (await lambda.getFunction({ FunctionName: NAME })).Configuration?.Layers?.map(({ Arn }) =>
      Arn?.split(':').slice(-2).join(':'),
    );
    expect(attached).toEqual(['lib:1', 'more:1']);
    await deployer.remove(NAME);
    expect((await lambda.listLayers({})).Layers).toHaveLength(2);
    await deployer.remove('other');
    expect((await lambda.listLayers({})).Layers ?? []).toEqual([]);
  });
});

describe('schedules as rules', () => {
  testMoto('each has its permission, stale ones go, foreign ones stay', async () => {
    const config = (schedules: readonly FunctionSchedule[]): FunctionConfig => ({
      schedules,
      platform: platformOf({ schedules: 'rules' }),
    });
    const utc: FunctionSchedule = { name: 'weekdays', schedule: { kind: 'calendar', expression: 'Mon-Fri 09:00' } };
    await deployTwice(config([utc, OFTEN]));
    const { Rules = [] } = await events.listRules({});
    expect(Rules.map(({ ScheduleExpression = '' }) => ScheduleExpression).toSorted()).toEqual([
      'cron(00 09 ? * MON-FRI *)',
      'rate(5 minutes)',
    ]);
    const policy = async (): Promise<unknown[]> => {
      const found = await lambda.getPolicy({ FunctionName: NAME, Qualifier: 'live' }).catch(() => undefined);
      const { Statement } = JSON.parse(found?.Policy ?? '{"Statement":[]}') as { Statement: { Sid: string; Condition: unknown }[] };
      return Statement.map(({ Sid, Condition }) => [Sid, Condition]);
    };
    expect(await policy()).toEqual(Rules.map(({ Name, Arn }) => [Name, { ArnLike: { 'AWS:SourceArn': Arn } }]));
    const often = Rules.find(({ Name }) => Name?.endsWith('-often'));
    await events.putRule({ Name: often?.Name?.replace('often', 'theirs'), ScheduleExpression: 'rate(1 day)' });
    await deployTwice(config([OFTEN]));
    expect((await events.listRules({})).Rules?.map(({ Name = '' }) => Name.split('-').at(-1)).toSorted()).toEqual(['often', 'theirs']);
    expect(await policy()).toHaveLength(1);
    const theirs: FunctionSchedule = { ...OFTEN, name: 'theirs' };
    const before = world.proxy.writes.length;
    await expect(deployer.deploy(NAME, code, config([OFTEN, theirs]))).rejects.toMatchObject({ code: 'RESOURCE_FOREIGN' });
    expect(world.proxy.writes).toHaveLength(before);
    await deployTwice({ schedules: [WEEKDAYS], platform: platformOf({ schedules: 'scheduler' }) });
    expect((await events.listRules({})).Rules?.map(({ Name = '' }) => Name.split('-').at(-1))).toEqual(['theirs']);
    expect((await scheduler.listSchedules({})).Schedules).toHaveLength(1);
  });

  testMoto('a time zone is told as a loss, and is an error when strict', async () => {
    const config: FunctionConfig = { schedules: [WEEKDAYS], platform: platformOf({ schedules: 'rules' }) };
    const { warnings } = await deployer.deploy(NAME, code, config);
    expect(warnings.join()).toMatch(/Europe\/Berlin/);
    await expect(deployer.deploy('strict', code, config, { strict: true })).rejects.toMatchObject({ code: 'SCHEDULE_LOSSY' });
    expect(await deployer.describe('strict')).toBeUndefined();
  });
});

const json = (status: number, name: string, message: string) => ({
  status,
  headers: { 'content-type': 'application/json', 'x-amzn-errortype': name },
  body: JSON.stringify({ __type: name, Type: 'User', message, Message: message }),
});

describe('what goes wrong', () => {
  testMoto('a role that is not assumable yet is waited for, with progress, for a minute and more', async () => {
    let refusals = 18;
    world.proxy.answer = (operation) =>
      operation === 'POST /2015-03-31/functions' && refusals-- > 0
        ? json(400, 'InvalidParameterValueException', 'The role defined for the function cannot be assumed by Lambda.')
        : undefined;
    const steps: string[] = [];
    const { state } = await deployer.deploy(NAME, code, {}, { onProgress: ({ step }) => void steps.push(step) });
    expect(state?.status).toBe('active');
    expect(steps.filter((step) => step.startsWith('waiting for the role'))).toHaveLength(18);
  });

  testMoto('a role that is never assumable is an error with the words of Lambda', async () => {
    world.proxy.answer = (operation) =>
      operation === 'POST /2015-03-31/functions'
        ? json(400, 'InvalidParameterValueException', 'The role defined for the function cannot be assumed by Lambda.')
        : undefined;
    const virtual = { ...deployerClock() };
    await expect(deployerOf(world, { clock: virtual }).deploy(NAME, code, {})).rejects.toMatchObject({
      code: 'DEPLOY_FAILED',
      message: expect.stringMatching(/after 12\d s: The role defined for the function cannot be assumed/) as string,
    });
    expect(virtual.now() - virtual.startMs).toBeGreaterThanOrEqual(120_000);
  });

  testMoto('an update that is refused while another one is in progress is made afterwards', async () => {
    await deployer.deploy(NAME, code, { memoryMb: 256 });
    let refusals = 3;
    world.proxy.answer = (operation) =>
      operation.startsWith('PUT') && refusals-- > 0
        ? json(409, 'ResourceConflictException', 'The operation cannot be performed at this time. An update is in progress for resource: x')
        : undefined;
    const { state } = await deployer.deploy(NAME, handlerPackage('b'), { memoryMb: 512 });
    expect(refusals).toBeLessThan(0);
    expect(state).toMatchObject({ sha256: handlerPackage('b').sha256, config: { memoryMb: 512 } });
  });

  testMoto('a function that Lambda still works on is waited for between code and configuration', async () => {
    await deployer.deploy(NAME, code, { memoryMb: 256 });
    let busy = 0;
    const order: string[] = [];
    world.proxy.answer = (operation) => {
      if (operation.startsWith('PUT')) order.push(operation.split('/').at(-1) ?? '');
      if (operation.endsWith('/code')) busy = 2;
      if (operation === `GET /2015-03-31/functions/${NAME}/configuration`) order.push('look');
      if (busy === 0 || !operation.startsWith('PUT') || !operation.endsWith('/configuration')) return undefined;
      return json(500, 'ServiceException', 'the configuration was sent while the code was updated');
    };
    const real = world.proxy.answer;
    world.proxy.answer = (operation, body) => {
      if (busy > 0 && operation === `GET /2015-03-31/functions/${NAME}/configuration`) {
        busy -= 1;
        order.push('look');
        return {
          status: 200,
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({
            FunctionName: NAME,
            State: 'Active',
            LastUpdateStatus: busy > 0 ? 'InProgress' : 'Successful',
            CodeSha256: 'x',
          }),
        };
      }
      if (operation.endsWith('/code') && operation.startsWith('PUT')) {
        order.push('code');
        busy = 2;
        return {
          status: 200,
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ FunctionName: NAME, State: 'Active', LastUpdateStatus: 'InProgress', CodeSha256: 'x' }),
        };
      }
      return real(operation, body);
    };
    await deployer.deploy(NAME, handlerPackage('b'), { memoryMb: 512 });
    expect(order.slice(0, 4)).toEqual(['code', 'look', 'look', 'configuration']);
  });

  testMoto('a role of somebody else under the name that is needed is left alone', async () => {
    const RoleName = `${NAME}-${REGION}-role`;
    await iam.createRole({ RoleName, AssumeRolePolicyDocument: '{"Version":"2012-10-17","Statement":[]}' });
    await expect(deployer.deploy(NAME, code, {})).rejects.toMatchObject({
      code: 'RESOURCE_FOREIGN',
      details: { kind: 'role', name: RoleName },
    });
    expect(world.proxy.writes).toEqual([]);
    expect((await deployer.remove(NAME)).changes).toEqual([]);
    const { Role } = await iam.getRole({ RoleName });
    expect(Role?.AssumeRolePolicyDocument).toContain('Statement');
  });

  testMoto('a role is given: none is made, and the one that was made before is removed', async () => {
    await deployTwice({});
    const theirs = await iam.createRole({ RoleName: 'theirs', AssumeRolePolicyDocument: '{"Version":"2012-10-17","Statement":[]}' });
    await deployTwice({ platform: platformOf({ role: theirs.Role?.Arn ?? '' }) });
    expect((await iam.listRoles({})).Roles?.map(({ RoleName }) => RoleName)).toEqual(['theirs']);
    await deployer.remove(NAME);
    expect((await iam.listRoles({})).Roles?.map(({ RoleName }) => RoleName)).toEqual(['theirs']);
  });

  testMoto('what is removed after a deployment that broke off leaves nothing, wherever it broke off', async () => {
    const bare = await snapshotOf(world);
    // moto does not know which queue a function has.
    for (const deadLetters of [true, false]) {
      const config: FunctionConfig = { schedules: [WEEKDAYS], platform: platformOf({ deadLetters, scheduleGroup: 'nightly' }) };
      for (let writes = 1, isWhole = false; !isWhole; writes += 1) {
        world.proxy.cutAfter(writes);
        isWhole = await deployer.deploy(NAME, code, config).then(
          () => true,
          () => false,
        );
        world.proxy.cutAfter(undefined);
        if (deadLetters && (await deployer.describe(NAME))) break;
        await deployer.remove(NAME);
        expect([writes, await snapshotOf(world)]).toEqual([writes, bare]);
      }
      await empty();
    }
  });

  testMoto('a group of schedules stays while another page of it has some of others', async () => {
    await deployer.deploy(NAME, code, { schedules: [WEEKDAYS], platform: platformOf({ scheduleGroup: 'nightly' }) });
    world.proxy.answer = (operation) => {
      const { pathname, searchParams } = new URL(operation.replace(/^GET /, ''), world.proxy.url);
      if (pathname !== '/schedules' || searchParams.has('NamePrefix')) return undefined;
      const page = searchParams.has('NextToken')
        ? { Schedules: [{ Name: 'theirs', GroupName: 'nightly' }] }
        : { NextToken: 'more', Schedules: [] };
      return { status: 200, headers: { 'content-type': 'application/json' }, body: JSON.stringify(page) };
    };
    const { changes } = await deployer.remove(NAME);
    expect(changes.map(({ resource }) => resource)).not.toContain('schedule-group');
    expect((await scheduler.listScheduleGroups({})).ScheduleGroups?.map(({ Name }) => Name)).toContain('nightly');
  });

  testMoto('a role that is given takes the place of the one that was made, wherever it broke off', async () => {
    const AssumeRolePolicyDocument = '{"Version":"2012-10-17","Statement":[]}';
    const theirs = await iam.createRole({ RoleName: 'theirs', AssumeRolePolicyDocument });
    const bare = await snapshotOf(world);
    const wanted = { platform: platformOf({ role: theirs.Role?.Arn ?? '' }) };
    for (let writes = 1, isWhole = false; !isWhole; writes += 1) {
      await deployer.deploy(NAME, code, {});
      world.proxy.cutAfter(writes);
      isWhole = await deployer.deploy(NAME, code, wanted).then(
        () => true,
        () => false,
      );
      world.proxy.cutAfter(undefined);
      // Every other time it is removed as it is.
      if (writes % 2 === 0) {
        await deployTwice(wanted);
        expect([writes, (await snapshotOf(world)).roles.map(({ RoleName }) => RoleName)]).toEqual([writes, ['theirs']]);
      }
      await deployer.remove(NAME);
      expect([writes, await snapshotOf(world)]).toEqual([writes, bare]);
    }
  });

  testMoto('after a rollback the configuration alone is refused, and code keeps the configuration that calls had', async () => {
    await deployer.deploy(NAME, code, { memoryMb: 256 });
    await deployer.deploy(NAME, handlerPackage('b'), { memoryMb: 512 });
    await deployer.rollback(NAME);
    expect(await deployer.describe(NAME)).toMatchObject({ sha256: code.sha256, version: '1', config: { memoryMb: 256 } });
    await expect(deployer.updateConfiguration(NAME, { memoryMb: 300 })).rejects.toMatchObject({ code: 'STATE_INVALID' });
    const { state } = await deployer.updateCode(NAME, handlerPackage('c'));
    expect(state).toMatchObject({ sha256: handlerPackage('c').sha256, config: { memoryMb: 256 } });
  });
});

/** Time that passes only while somebody sleeps. */
function deployerClock() {
  const startMs = Date.UTC(2026, 0, 1);
  let now = startMs;
  return {
    startMs,
    now: () => now,
    monotonic: () => now,
    after: () => () => {},
    async sleep(ms: number) {
      now += ms;
    },
  };
}
