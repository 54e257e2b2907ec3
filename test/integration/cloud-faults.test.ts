/** `bpr cloud ...` against AWS as moto has it, when the platform throttles, cuts connections, or holds what is somebody else's, and when it is killed. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { IAM } from '@aws-sdk/client-iam';
import { Lambda } from '@aws-sdk/client-lambda';
import { S3 } from '@aws-sdk/client-s3';
import type { BucketLocationConstraint } from '@aws-sdk/client-s3';
import { Scheduler } from '@aws-sdk/client-scheduler';
import { afterAll, afterEach, beforeAll, describe, expect } from 'vitest';
import { Random } from '../../src/testing/fake-clock.ts';
import { handlerPackage, packageOf, settings, snapshotOf } from '../support/aws-platform.ts';
import { CliUser } from '../support/cli-user.ts';
import type { Ended } from '../support/cli-user.ts';
import { probeMoto, startAwsProxy, startMoto } from '../support/moto.ts';
import type { AwsProxy, Moto } from '../support/moto.ts';
import { requirePeer } from '../require.ts';

let isThere = false;
const testMoto = requirePeer('moto', () => {
  probeMoto();
  isThere = true;
});

const HASTY = join(import.meta.dirname, '../fixtures/cli/hasty-bpr.ts');
/** Of which none may be seen anywhere. */
const SECRETS = {
  key: 'wJalrXUtnFEMIbPxRfiCYzMoTo',
  token: 'session-token-4f1c9a',
  variable: 'hunter2-b7e1',
  url: 'pass-of-a-database-91c',
};
const SECRET_FLAGS = ['--env', `PLAIN_NAME=${SECRETS.variable}`, '--env', `DATABASE_URL=postgres://user:${SECRETS.url}@db.example/x`];

let folder: string;
let moto: Moto;
let zip: string;
let other: string;
const users: CliUser[] = [];
const closing: (() => Promise<void> | void)[] = [];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cloud-faults-'));
  if (!isThere) return;
  moto = await startMoto();
  await moto.reset();
  zip = join(folder, 'a.zip');
  other = join(folder, 'b.zip');
  writeFileSync(zip, handlerPackage('a').zip);
  writeFileSync(other, handlerPackage('b').zip);
});

afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

afterAll(async () => {
  if (isThere) await moto.close();
  rmSync(folder, { recursive: true });
});

/** One place on moto, a way to it that can fail, and somebody who deploys there. */
interface Place {
  readonly region: string;
  readonly proxy: AwsProxy;
  readonly user: CliUser;
  readonly deploy: (name: string, ...more: readonly string[]) => string[];
  readonly flags: readonly string[];
}

const FREE_REGIONS =
  'eu-central-1 eu-west-1 eu-west-2 eu-west-3 eu-north-1 us-east-1 us-east-2 us-west-1 us-west-2 ca-central-1 sa-east-1 ap-south-1 ap-southeast-1 ap-southeast-2 ap-northeast-1 ap-northeast-2 ap-northeast-3 eu-south-1 me-south-1 af-south-1 ap-east-1 eu-central-2 eu-south-2'.split(
    ' ',
  );

/** Each test is in regions of its own: they share one moto. */
async function place(): Promise<Place> {
  const region = FREE_REGIONS.pop() ?? '';
  const proxy = await startAwsProxy(moto.url);
  closing.push(() => proxy.close());
  const user = new CliUser(folder, {
    AWS_ACCESS_KEY_ID: 'AKIAEXAMPLE',
    AWS_SECRET_ACCESS_KEY: SECRETS.key,
    AWS_SESSION_TOKEN: SECRETS.token,
    LOG_LEVEL: 'debug',
  });
  users.push(user);
  const options = [`aws-lambda.endpoint=${proxy.url}`, `aws-lambda.region=${region}`];
  const flags = ['-p', 'aws-lambda', ...options.flatMap((option) => ['--deployer-option', option])];
  const deploy = (name: string, ...more: readonly string[]): string[] => ['cloud', 'deploy', zip, '--name', name, ...flags, ...more];
  return { region, proxy, user, deploy, flags };
}

const EVERYTHING = [
  ['--memory', '512', '--log-retention', '14', '--concurrency', '3', '--tag', 'team=a'],
  ['--schedule', 'weekdays=Mon-Fri 09:00 Europe/Berlin', '--schedule', 'often={"kind":"periodic","periodMs":300000}'],
  ['--schedule-event', 'weekdays={}', '--schedule-event', 'often={}'],
  [
    '--platform-option',
    'url={"auth":"NONE"}',
    '--platform-option',
    'async={"retriesMax":1}',
    '--platform-option',
    'scheduleGroup="nightly"',
  ],
  SECRET_FLAGS,
].flat();

/** What is in a region, as it would be in any other. */
async function stateOf({ region }: Pick<Place, 'region'>): Promise<unknown> {
  const state = JSON.stringify(await snapshotOf({ moto }, region));
  return JSON.parse(state.replaceAll(region, 'REGION').replaceAll(/"https?:\/\/[^"]*"/g, '"URL"'));
}

const EMPTY = { functions: [], roles: [], schedules: [], rules: [], queues: [], layers: [] };

interface Reference {
  readonly state: unknown;
  readonly writes: number;
  readonly requests: number;
}

let reference: Promise<Reference> | undefined;

/** What an undisturbed deployment of everything leaves, and what it takes. */
function undisturbed(): Promise<Reference> {
  reference ??= (async () => {
    const here = await place();
    succeeded(await here.user.bpr(...here.deploy('squaring', ...EVERYTHING)));
    return { state: await stateOf(here), writes: here.proxy.writes.length, requests: here.proxy.requests.length };
  })();
  return reference;
}

function succeeded({ code, stderr }: Ended): void {
  expect([code, stderr]).toEqual([0, expect.not.stringMatching(/^[A-Z_]+: /m)]);
}

describe('a platform that throttles', () => {
  testMoto('for a while is waited for, and the command says so where no terminal is', async () => {
    const { state, writes } = await undisturbed();
    const { region, proxy, user, deploy } = await place();
    proxy.throttleEach();
    const ended = await user.start(deploy('squaring', ...EVERYTHING), HASTY).ended;
    succeeded(ended);
    expect(ended.stderr).toMatch(/^squaring: AWS throttles \w+: trying again in \d+(\.\d+)? s, after \d+ s$/m);
    expect(proxy.writes).toHaveLength(writes);
    expect(await stateOf({ region })).toEqual(state);
  });

  testMoto('for ever is an error with a code, after a limited number of attempts', async () => {
    const { proxy, user, deploy, region } = await place();
    proxy.throttle(Number.POSITIVE_INFINITY);
    const { code, stderr } = await user.start(deploy('squaring'), HASTY).ended;
    expect(stderr).toMatch(/^PLATFORM_THROTTLED: AWS throttles GetFunction: TooManyRequestsException: Rate exceeded$/m);
    expect(stderr).not.toContain('    at ');
    expect(code).toBe(1);
    expect(proxy.requests).toHaveLength(11);
    expect(await stateOf({ region })).toEqual(EMPTY);
  });

  testMoto('only what creates functions: the error says what is done, and the next deployment goes on', async () => {
    const here = await place();
    const { proxy, user, deploy, region } = here;
    proxy.answer = (operation) =>
      operation === 'POST /2015-03-31/functions'
        ? { status: 400, headers: { 'x-amzn-errortype': 'ThrottlingException' }, body: '{"message":"Rate exceeded"}' }
        : undefined;
    const { code, stderr } = await user.start(deploy('squaring'), HASTY).ended;
    expect(code).toBe(1);
    expect(stderr).toMatch(/^PLATFORM_THROTTLED: AWS throttles CreateFunction: ThrottlingException: Rate exceeded$/m);
    expect(stderr).toContain(`done: creating role squaring-${region}-role; begun, perhaps done: creating function squaring`);
    proxy.answer = undefined;
    succeeded(await user.bpr(...deploy('squaring')));
    expect(await user.json(...deploy('squaring'))).toMatchObject({ changes: [] });
  });
});

const NOT_ASSUMABLE = {
  status: 400,
  headers: { 'content-type': 'application/json', 'x-amzn-errortype': 'InvalidParameterValueException' },
  body: '{"Type":"User","message":"The role defined for the function cannot be assumed by Lambda."}',
};

describe('a role that is new', () => {
  testMoto('is waited for', async () => {
    const { proxy, user, deploy } = await place();
    let refusals = 6;
    proxy.answer = (operation) => (operation === 'POST /2015-03-31/functions' && refusals-- > 0 ? NOT_ASSUMABLE : undefined);
    succeeded(await user.start(deploy('squaring'), HASTY).ended);
    expect(refusals).toBe(-1);
    expect(await user.json(...deploy('squaring'))).toMatchObject({ changes: [], state: { status: 'active' } });
  });

  testMoto('SIGTERM and SIGINT while it is waited for end the command, which says what is done', async () => {
    const { proxy, user, deploy, region } = await place();
    const interrupt = async (signal: 'SIGTERM' | 'SIGINT', ...more: string[]): Promise<Ended> => {
      const { child, ended } = user.start(deploy('squaring', ...more));
      let calls = 0;
      proxy.answer = (operation) => {
        if (operation !== 'POST /2015-03-31/functions') return undefined;
        if ((calls += 1) === 2) child.kill(signal);
        return NOT_ASSUMABLE;
      };
      return ended;
    };
    const term = await interrupt('SIGTERM');
    expect(term.stderr).toMatch(/^ABORTED: interrupted by SIGTERM$/m);
    expect(term.stderr).toContain(`done: creating role squaring-${region}-role; begun, perhaps done: creating function squaring; all that`);
    expect([term.code, term.stdout]).toEqual([143, '']);
    const int = await interrupt('SIGINT', '--json');
    expect(int.code).toBe(130);
    expect(JSON.parse(int.stdout)).toMatchObject({
      error: { code: 'ABORTED', details: { signal: 'SIGINT', done: [], doubtful: ['creating function squaring'] } },
    });
    proxy.answer = undefined;
    succeeded(await user.bpr(...deploy('squaring')));
    expect(await user.json(...deploy('squaring'))).toMatchObject({ changes: [] });
  });
});

describe('a deployment that stopped', () => {
  testMoto('because its connections were cut after a write leaves nothing else behind when it is run again', async () => {
    const { state, writes } = await undisturbed();
    expect(writes).toBeGreaterThan(12);
    // At the beginning, in the middle and at the end; every write in turn is the business of the deployer's own tests.
    await Promise.all(
      [2, Math.floor(writes / 2), writes - 1].map(async (after) => {
        const { region, proxy, user, deploy } = await place();
        proxy.cutAfter(after);
        const broken = await user.start(deploy('squaring', ...EVERYTHING), HASTY).ended;
        expect([broken.code, broken.stderr]).toEqual([1, expect.stringMatching(/^PLATFORM_UNREACHABLE: /m)]);
        proxy.cutAfter(undefined);
        succeeded(await user.bpr(...deploy('squaring', ...EVERYTHING)));
        expect(await stateOf({ region }), `cut after ${after} writes`).toEqual(state);
      }),
    );
  });

  testMoto(
    'because it was killed at any request converges, and then nothing is written',
    async () => {
      const { state, requests } = await undisturbed();
      const random = new Random(20_261_121);
      let kills = 0;
      const here = await Promise.all([place(), place()]);
      await Promise.all(
        here.map(async ({ proxy, user, deploy }) => {
          for (let round = 0; round < 2; round += 1) {
            const { child, ended } = user.start(deploy('squaring', ...EVERYTHING));
            const at = random.int(1, requests);
            let seen = 0;
            proxy.answer = () => {
              if ((seen += 1) === at) child.kill('SIGKILL');
              return undefined;
            };
            if ((await ended).code === -1) kills += 1;
            proxy.answer = undefined;
          }
        }),
      );
      expect(kills).toBeGreaterThanOrEqual(3);
      const rounds: number[] = [];
      for (const one of here) {
        succeeded(await one.user.bpr(...one.deploy('squaring', ...EVERYTHING)));
        expect(await stateOf(one)).toEqual(state);
        one.proxy.reset();
        expect(await one.user.json(...one.deploy('squaring', ...EVERYTHING))).toMatchObject({ changes: [] });
        expect(one.proxy.writes).toEqual([]);
        rounds.push(one.proxy.rounds() / one.proxy.requests.length);
      }
      // Side by side: one after the other would be 1. How far they overlap depends on the machine, too.
      expect(Math.min(...rounds)).toBeLessThanOrEqual(0.5);
    },
    180_000,
  );
});

describe('what is somebody else\u2019s', () => {
  const TRUST = '{"Version":"2012-10-17","Statement":[]}';
  const theirs = { zip: packageOf({ 'index.js': 'exports.handler = async () => 1;' }).zip, prefix: 'squaring-' };

  /** The command is refused with a word on what to do, and neither wrote anything nor changed what there is. */
  async function refused(
    here: Place,
    args: readonly string[],
    { kind, name }: { readonly kind: string; readonly name: string },
  ): Promise<void> {
    const before = await stateOf(here);
    const { length } = here.proxy.writes;
    const { code, stderr, stdout } = await here.user.bpr(...args);
    expect([code, stdout]).toEqual([1, '']);
    expect(stderr).toContain(`RESOURCE_FOREIGN: there is a ${kind} ${name} that this tool did not make`);
    expect(stderr).toContain('choose another name, or remove it');
    expect(here.proxy.writes.slice(length)).toEqual([]);
    expect(await stateOf(here)).toEqual(before);
  }

  testMoto('a function, an alias, a role and a schedule of that name are left alone', async () => {
    const here = await place();
    const { region, deploy, flags, user } = here;
    const aws = settings(moto.url, region);
    const [lambda, iam, scheduler] = [new Lambda(aws), new IAM(aws), new Scheduler(aws)];
    closing.push(() => [lambda, iam, scheduler].forEach((client) => client.destroy()));
    const make = (FunctionName: string): Promise<unknown> =>
      lambda.createFunction({
        FunctionName,
        Role: `arn:aws:iam::123456789012:role/theirs-${region}-x`,
        Runtime: 'nodejs22.x',
        Handler: 'index.handler',
        Code: { ZipFile: theirs.zip },
      });
    await iam.createRole({ RoleName: `theirs-${region}-x`, AssumeRolePolicyDocument: TRUST });
    await make('theirs');
    const name = 'theirs';
    await refused(here, deploy(name, ...EVERYTHING), { kind: 'function', name });
    await refused(here, ['cloud', 'update', name, '--memory', '512', ...flags], { kind: 'function', name });
    await refused(here, ['cloud', 'rollback', name, ...flags], { kind: 'function', name });
    await refused(here, ['cloud', 'terminate', name, ...flags], { kind: 'function', name });

    const role = `cubing-${region}-role`;
    await iam.createRole({ RoleName: role, AssumeRolePolicyDocument: TRUST });
    await refused(here, deploy('cubing'), { kind: 'role', name: role });
    succeeded(await user.bpr('cloud', 'terminate', 'cubing', ...flags));

    succeeded(await user.bpr(...deploy('squaring', '--schedule', 'often=*:0/5', '--schedule-event', 'often={}')));
    const [{ Name = '' } = {}] = (await scheduler.listSchedules({})).Schedules ?? [];
    const Target = {
      Arn: `arn:aws:lambda:${region}:123456789012:function:theirs`,
      RoleArn: `arn:aws:iam::123456789012:role/theirs-${region}-x`,
    };
    const schedule = Name.replace(/often$/, 'daily');
    await scheduler.createSchedule({ Name: schedule, ScheduleExpression: 'rate(1 day)', FlexibleTimeWindow: { Mode: 'OFF' }, Target });
    await refused(here, deploy('squaring', '--schedule', 'daily=09:00', '--schedule-event', 'daily={}'), {
      kind: 'schedule',
      name: schedule,
    });

    await lambda.createAlias({ FunctionName: 'squaring', Name: 'blue', FunctionVersion: '$LATEST' });
    await refused(here, deploy('squaring', '--platform-option', 'alias="blue"'), { kind: 'alias', name: 'squaring:blue' });
    succeeded(await user.bpr('cloud', 'terminate', '--all', '--yes', ...flags));
    expect(await stateOf(here)).toMatchObject({
      functions: [{ FunctionName: 'theirs' }],
      schedules: [{ Name: schedule }],
      roles: [{ RoleName: `cubing-REGION-role` }, { RoleName: 'theirs-REGION-x' }],
    });
  });

  testMoto('an object and a bucket are left alone, before anything else is written', async () => {
    const here = await place();
    const { region, deploy, proxy, user } = here;
    const large = packageOf({ 'handler.mjs': 'x', 'data.bin': new Uint8Array(51 * 1024 * 1024) });
    const file = join(folder, 'large.zip');
    writeFileSync(file, large.zip);
    const args = ['cloud', 'deploy', file, ...deploy('squaring', '--deployer-option', 'aws-lambda.bucket=theirs-1').slice(3)];
    const s3 = new S3({ ...settings(moto.url, region), forcePathStyle: true });
    closing.push(() => s3.destroy());
    const nowhere = await user.bpr(...args);
    expect([nowhere.code, nowhere.stderr]).toEqual([1, expect.stringMatching(/^CONFIG_INVALID: there is no bucket theirs-1/m)]);
    await s3.createBucket({ Bucket: 'theirs-1', CreateBucketConfiguration: { LocationConstraint: region as BucketLocationConstraint } });
    const Key = `blueprint-runner/squaring/${large.sha256}.zip`;
    await s3.putObject({ Bucket: 'theirs-1', Key, Body: 'theirs' });
    await refused(here, args, { kind: 'package', name: `theirs-1/${Key}` });
    expect(await (await s3.getObject({ Bucket: 'theirs-1', Key })).Body?.transformToString()).toBe('theirs');
    proxy.answer = (operation) => (operation.startsWith('HEAD /theirs-1/') ? { status: 403, body: '' } : undefined);
    const denied = await user.bpr(...args);
    expect([denied.code, denied.stderr]).toEqual([1, expect.stringMatching(/^DEPLOY_FAILED: the bucket theirs-1 cannot be read/m)]);
    expect(await stateOf(here)).toEqual(EMPTY);
    expect(proxy.writes).toEqual([]);
  });
});

describe('secrets', () => {
  testMoto('are in nothing that any command says, in no file and in no log', async () => {
    const { proxy, user, deploy, flags } = await place();
    const said: Ended[] = [];
    const json = async (...args: string[]): Promise<void> => void said.push(await user.bpr(...args, ...flags, '--json'));
    const text = async (...args: string[]): Promise<void> => void said.push(await user.bpr(...args, ...flags));
    await user.bpr('cloud', 'policy', '--serverless', 'true', '--faas-provider', 'aws-lambda');
    await user.bpr(...deploy('squaring', ...SECRET_FLAGS, '--dry-run', '--json'));
    await user.bpr(...deploy('squaring', ...SECRET_FLAGS, '--json'));
    await text('cloud', 'update', 'squaring', '--env', `PLAIN_NAME=${SECRETS.variable}`, '--env', 'MORE=x');
    await Promise.all([json('cloud', 'update', 'squaring', '--code', other), json('cloud', 'preflight')]);
    await json('cloud', 'rollback', 'squaring');
    await Promise.all([json('cloud', 'status', 'squaring'), text('cloud', 'list')]);
    await Promise.all([text('cloud', 'status', 'squaring'), json('cloud', 'list')]);
    await Promise.all([json('cloud', 'logs', 'squaring'), text('cloud', 'invoke', 'squaring')]);
    expect(said.filter(({ stdout }) => stdout.includes('PLAIN_NAME')).length).toBeGreaterThan(2);
    // What the platform itself says may hold them.
    proxy.answer = (operation) =>
      operation.startsWith('PUT')
        ? {
            status: 403,
            headers: { 'x-amzn-errortype': 'InvalidSignatureException', 'content-type': 'application/json' },
            body: JSON.stringify({ message: `the signature is wrong; aws_secret_access_key=${SECRETS.key}` }),
          }
        : undefined;
    await Promise.all([json, text].map((run) => run('cloud', 'update', 'squaring', '--memory', '1024')));
    expect(said.at(-1)?.code).toBe(1);
    proxy.answer = undefined;
    await json('cloud', 'terminate', 'squaring');
    expect(user.leaks(Object.values(SECRETS))).toEqual([]);
    expect(users.flatMap((each) => each.leaks(Object.values(SECRETS)))).toEqual([]);
  });
});
