/** The execution role that functions share, against moto: by `bpr`, and by the AWS CLI with the commands that `bpr` prints. */

import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { IAM } from '@aws-sdk/client-iam';
import { afterAll, beforeAll, beforeEach, describe, expect } from 'vitest';
import { REGION, settings } from '../support/aws-platform.ts';
import { useMoto } from '../support/moto-file.ts';
import { requirePeer, runs } from '../require.ts';

const run = promisify(execFile);
const BPR = join(import.meta.dirname, '../fixtures/cli/bpr.ts');

const { testMoto, isThere, world, empty } = useMoto();
const testAwsCli = requirePeer('aws', () => runs('aws', '--version'));

let iam: IAM;
let home: string;

beforeAll(async () => {
  if (!isThere) return;
  iam = new IAM(settings(world.moto.url));
  home = mkdtempSync(join(tmpdir(), 'bpr-aws-role-'));
});

afterAll(async () => {
  if (!isThere) return;
  iam.destroy();
  rmSync(home, { recursive: true, force: true });
});

beforeEach(async () => {
  if (!isThere) return;
  await empty();
});

const KEYS = { AWS_ACCESS_KEY_ID: 'testing', AWS_SECRET_ACCESS_KEY: 'testing', AWS_DEFAULT_REGION: REGION, AWS_REGION: REGION };

interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function bpr(...args: readonly string[]): Promise<Ran> {
  const flags = ['--deployer-option', `aws-lambda.endpoint=${world.proxy.url}`];
  const env = { PATH: '/usr/bin:/bin', HOME: home, ...KEYS };
  return run(process.execPath, [BPR, 'cloud', 'aws', 'bootstrap-role', ...flags, ...args], { cwd: home, env }).then(
    ({ stdout, stderr }) => ({ status: 0, stdout, stderr }),
    // What execFile rejects with has these.
    ({ code, stdout, stderr }: { code: number; stdout: string; stderr: string }) => ({ status: code, stdout, stderr }),
  );
}

/** All that makes the role what it is. */
async function roleAsItIs(RoleName: string): Promise<unknown> {
  const [{ Role }, { AttachedPolicies }, { PolicyNames }] = await Promise.all([
    iam.getRole({ RoleName }),
    iam.listAttachedRolePolicies({ RoleName }),
    iam.listRolePolicies({ RoleName }),
  ]);
  return {
    arn: Role?.Arn,
    trust: JSON.parse(decodeURIComponent(Role?.AssumeRolePolicyDocument ?? '')) as unknown,
    tags: Role?.Tags?.toSorted((a, b) => ((a.Key ?? '') < (b.Key ?? '') ? -1 : 1)),
    attached: AttachedPolicies?.map(({ PolicyArn }) => PolicyArn),
    inline: PolicyNames,
  };
}

describe('bpr cloud aws bootstrap-role', () => {
  testMoto('makes the role with the basic policy and prints its ARN; again it writes nothing', async () => {
    const first = await bpr('--name', 'shared-role');
    expect(first).toMatchObject({ status: 0, stdout: 'arn:aws:iam::123456789012:role/shared-role\n' });
    expect(first.stderr).toMatch(/create role shared-role/);
    expect(await roleAsItIs('shared-role')).toMatchObject({
      trust: { Statement: [{ Principal: { Service: 'lambda.amazonaws.com' }, Action: 'sts:AssumeRole' }] },
      attached: ['arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole'],
      inline: [],
    });
    const writes = world.proxy.writes.length;
    const again = await bpr('--name', 'shared-role', '--json');
    expect(JSON.parse(again.stdout)).toMatchObject({ name: 'shared-role', arn: 'arn:aws:iam::123456789012:role/shared-role', changes: [] });
    expect(world.proxy.writes).toHaveLength(writes);
  });

  testMoto('what is missing from it is put back', async () => {
    await bpr();
    const [RoleName, PolicyArn] = ['blueprint-lambda-execution', 'arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole'];
    const whole = await roleAsItIs(RoleName);
    await iam.detachRolePolicy({ RoleName, PolicyArn });
    const { stderr } = await bpr();
    expect(stderr).toMatch(/update role blueprint-lambda-execution: policies/);
    expect(await roleAsItIs(RoleName)).toEqual(whole);
  });

  testMoto('a dry run tells what it would do, and does nothing', async () => {
    const { status, stdout, stderr } = await bpr('--name', 'shared-role', '--dry-run');
    expect({ status, stdout }).toMatchObject({ status: 0, stdout: expect.not.stringContaining('arn:') as string });
    expect(stderr).toMatch(/would create role shared-role/);
    expect(world.proxy.writes).toEqual([]);
    await expect(iam.getRole({ RoleName: 'shared-role' })).rejects.toMatchObject({ name: 'NoSuchEntityException' });
  });

  testMoto('a role of somebody else is left alone', async () => {
    await iam.createRole({ RoleName: 'theirs', AssumeRolePolicyDocument: '{"Version":"2012-10-17","Statement":[]}' });
    const before = await roleAsItIs('theirs');
    const { status, stdout } = await bpr('--name', 'theirs', '--json');
    expect(status).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'RESOURCE_FOREIGN' } });
    expect(await roleAsItIs('theirs')).toEqual(before);
    expect(world.proxy.writes).toEqual([]);
  });

  testMoto('a name that IAM refuses is refused before anything is asked', async () => {
    expect((await bpr('--name', 'no/slash')).stderr).toMatch(/^CONFIG_INVALID: .*name of a role/);
  });

  testAwsCli(
    'the commands that it prints do the same with the AWS CLI, and what they made is known as ours',
    async () => {
      if (!isThere) return;
      await bpr('--name', 'shared-role');
      const wanted = await roleAsItIs('shared-role');
      await world.moto.reset();
      world.proxy.reset();
      const { stdout } = await bpr('--name', 'shared-role', '--print');
      expect(world.proxy.requests).toEqual([]);
      const env = { ...process.env, ...KEYS, HOME: home, AWS_ENDPOINT_URL: world.moto.url, AWS_PAGER: '' };
      const shell = await run('/bin/sh', ['-e', '-c', stdout], { env });
      expect(shell.stdout.trim().split('\n').at(-1)).toBe('arn:aws:iam::123456789012:role/shared-role');
      expect(await roleAsItIs('shared-role')).toEqual(wanted);
      const { changes } = JSON.parse((await bpr('--name', 'shared-role', '--json')).stdout) as { changes: unknown };
      expect(changes).toEqual([]);
    },
    180_000,
  );
});
