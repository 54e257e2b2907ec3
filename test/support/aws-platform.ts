/** moto as the platform of the suite of deployers, and what the tests of AWS share. */

import { createHash } from 'node:crypto';
import { CloudWatchLogs } from '@aws-sdk/client-cloudwatch-logs';
import { EventBridge } from '@aws-sdk/client-eventbridge';
import { IAM } from '@aws-sdk/client-iam';
import { Lambda } from '@aws-sdk/client-lambda';
import { Scheduler } from '@aws-sdk/client-scheduler';
import { SQS } from '@aws-sdk/client-sqs';
import { zipSync } from 'fflate';
import { LambdaDeployer } from '../../plugins/aws-lambda/index.ts';
import type { LambdaDeployerOptions } from '../../plugins/aws-lambda/index.ts';
import { systemClock } from '../../src/clock.ts';
import type { Clock } from '../../src/clock.ts';
import { conformanceFunction } from '../../src/conformance/conformance.ts';
import type { Connection, DeployerPlatform } from '../../src/conformance/deployer.ts';
import type { FunctionPackage } from '../../src/executor/deployer.ts';
import type { AwsProxy, Moto } from './moto.ts';

export const REGION = 'eu-central-1';
const KEYS = { accessKeyId: 'AKIAEXAMPLE', secretAccessKey: 'not-so-secret' };
export const settings = (endpoint: string, region = REGION) => ({ endpoint, region, credentials: KEYS, maxAttempts: 1 });
export const credentials = () => Promise.resolve(KEYS);

/** A hundred times as fast. */
export const fastClock: Clock = { ...systemClock, sleep: (ms, signal) => systemClock.sleep(ms / 100, signal) };

export function packageOf(files: Readonly<Record<string, string | Uint8Array>>): FunctionPackage {
  const entries = Object.entries(files).map(([name, data]) => [name, typeof data === 'string' ? Buffer.from(data) : data] as const);
  const zip = zipSync(Object.fromEntries(entries), { mtime: new Date(1980, 0, 1), level: 0 });
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

export const handlerPackage = (tag: string): FunctionPackage =>
  packageOf({ 'handler.mjs': `export const handler = (event) => (${conformanceFunction(tag)})(event, process.env);\n` });

export interface AwsWorld {
  readonly moto: Moto;
  readonly proxy: AwsProxy;
}

export function deployerOf({ proxy }: AwsWorld, options: LambdaDeployerOptions = {}): LambdaDeployer {
  return new LambdaDeployer({ endpoint: proxy.url, region: REGION, credentials, clock: fastClock, ...options });
}

export interface AwsSnapshot {
  readonly functions: readonly unknown[];
  readonly roles: readonly { readonly RoleName: string }[];
  readonly schedules: readonly unknown[];
  readonly rules: readonly unknown[];
  readonly queues: readonly string[];
  readonly layers: readonly (string | undefined)[];
}

/** Everything on moto besides logs and managed policies; with a region, only what is there, with the roles that are named after it. */
export async function snapshotOf({ moto }: Pick<AwsWorld, 'moto'>, region?: string): Promise<AwsSnapshot> {
  const aws = settings(moto.url, region);
  const [lambda, iam, scheduler, events, sqs] = [new Lambda(aws), new IAM(aws), new Scheduler(aws), new EventBridge(aws), new SQS(aws)];
  try {
    return {
      functions: await functionsOf(lambda),
      roles: await rolesOf(iam, region === undefined ? '' : `-${region}-`),
      schedules: await schedulesOf(scheduler),
      rules: await rulesOf(events),
      queues: (await sqs.listQueues({})).QueueUrls?.toSorted() ?? [],
      layers: (await lambda.listLayers({})).Layers?.map(({ LayerName }) => LayerName) ?? [],
    };
  } finally {
    for (const client of [lambda, iam, scheduler, events, sqs]) client.destroy();
  }
}

async function functionsOf(lambda: Lambda): Promise<readonly unknown[]> {
  const { Functions = [] } = await lambda.listFunctions({ MaxItems: 10_000 });
  const names = Functions.map(({ FunctionName = '' }) => FunctionName).toSorted();
  return Promise.all(
    names.map(async (FunctionName) => {
      const { Configuration = {}, Tags = {}, Concurrency } = await lambda.getFunction({ FunctionName });
      const { LastModified: _, RevisionId: __, Version: ___, ...rest } = Configuration;
      const { Aliases = [] } = await lambda.listAliases({ FunctionName });
      const aliases = await Promise.all(
        Aliases.map(async ({ Name = '', RoutingConfig }) => {
          const live = await lambda.getFunctionConfiguration({ FunctionName, Qualifier: Name });
          return { Name, RoutingConfig, sha256: live.CodeSha256, memory: live.MemorySize, environment: live.Environment };
        }),
      );
      const tags = Object.entries(Tags).toSorted(([a], [b]) => (a < b ? -1 : 1));
      return JSON.parse(JSON.stringify({ ...rest, tags, Concurrency, aliases })) as unknown;
    }),
  );
}

async function rolesOf(iam: IAM, part: string): Promise<AwsSnapshot['roles']> {
  const { Roles = [] } = await iam.listRoles({});
  return Promise.all(
    Roles.map(({ RoleName = '' }) => RoleName)
      .filter((name) => name.includes(part))
      .toSorted()
      .map(async (RoleName) => {
        const { AttachedPolicies = [] } = await iam.listAttachedRolePolicies({ RoleName });
        const { PolicyNames } = await iam.listRolePolicies({ RoleName });
        const { Tags = [] } = await iam.listRoleTags({ RoleName });
        const tags = Tags.map(({ Key, Value }) => `${Key}=${Value}`).toSorted();
        return { RoleName, attached: AttachedPolicies.map(({ PolicyArn = '' }) => PolicyArn).toSorted(), PolicyNames, tags };
      }),
  );
}

async function schedulesOf(scheduler: Scheduler): Promise<readonly unknown[]> {
  const { Schedules = [] } = await scheduler.listSchedules({});
  const found = await Promise.all(Schedules.map(({ Name = '', GroupName = '' }) => scheduler.getSchedule({ Name, GroupName })));
  return found
    .map(({ Name, ScheduleExpression, ScheduleExpressionTimezone, Target }) => ({
      Name,
      ScheduleExpression,
      ScheduleExpressionTimezone,
      Target,
    }))
    .toSorted((a, b) => ((a.Name ?? '') < (b.Name ?? '') ? -1 : 1));
}

async function rulesOf(events: EventBridge): Promise<readonly unknown[]> {
  const { Rules = [] } = await events.listRules({});
  return Promise.all(
    Rules.map(async ({ Name, ScheduleExpression }) => ({
      Name,
      ScheduleExpression,
      targets: (await events.listTargetsByRule({ Rule: Name ?? '' })).Targets,
    })),
  );
}

/** Each case begins on an empty moto. */
export async function motoPlatform(world: AwsWorld): Promise<DeployerPlatform> {
  const { moto, proxy } = world;
  await moto.reset();
  proxy.reset();
  const connections: Readonly<Record<Connection, LambdaDeployerOptions>> = {
    well: {},
    nowhere: { endpoint: 'http://127.0.0.1:1' },
    nameless: { credentials: () => Promise.reject(Object.assign(new Error('there is nobody'), { name: 'CredentialsProviderError' })) },
  };
  const lambda = new Lambda(settings(moto.url));
  const logs = new CloudWatchLogs(settings(moto.url));
  const scheduler = new Scheduler(settings(moto.url));
  let at = Date.now() - 60_000;
  return {
    connect: (how) => deployerOf(world, connections[how]),
    codeOf: handlerPackage,
    snapshot: () => snapshotOf(world),
    writes: () => proxy.writes.length,
    cutAfter: (writes) => proxy.cutAfter(writes),
    throttle: (requests) => proxy.throttle(requests),
    schedules: async () => (await scheduler.listSchedules({})).Schedules?.length ?? 0,
    async makeForeign(FunctionName) {
      const iam = new IAM(settings(moto.url));
      await iam
        .createRole({ RoleName: 'theirs', AssumeRolePolicyDocument: '{"Version":"2012-10-17","Statement":[]}' })
        .catch(() => undefined);
      iam.destroy();
      const { zip } = packageOf({ 'index.js': 'exports.handler = async () => 1;' });
      const Role = 'arn:aws:iam::123456789012:role/theirs';
      await lambda.createFunction({ FunctionName, Role, Runtime: 'nodejs22.x', Handler: 'index.handler', Code: { ZipFile: zip } });
    },
    async say(name, lines) {
      const logGroupName = `/aws/lambda/${name}`;
      const stream = { logGroupName, logStreamName: '2026/01/01/[1]0123' };
      await logs.createLogGroup({ logGroupName }).catch(() => undefined);
      await logs.createLogStream(stream).catch(() => undefined);
      const logEvents = lines.map((message) => ({ message, timestamp: (at += 10) }));
      await logs.putLogEvents({ ...stream, logEvents });
    },
    async close() {
      for (const client of [lambda, logs, scheduler]) client.destroy();
    },
  };
}
