/** Programs on EC2, as moto has it. */

import { EC2 } from '@aws-sdk/client-ec2';
import { IAM } from '@aws-sdk/client-iam';
import { S3 } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, beforeEach, describe, expect } from 'vitest';
import { Ec2Host } from '../../plugins/aws-lambda/index.ts';
import type { Ec2HostOptions } from '../../plugins/aws-lambda/index.ts';
import type { Machine, ProgramSpec } from '../../src/executor/machine.ts';
import { REGION, credentials, fastClock, settings } from '../support/aws-platform.ts';
import { useMoto } from '../support/moto-file.ts';

const { testMoto, isThere, world, empty } = useMoto();

let ec2: EC2;
let s3: S3;
let imageId: string;

beforeAll(async () => {
  if (!isThere) return;
  ec2 = new EC2(settings(world.moto.url));
  s3 = new S3({ ...settings(world.moto.url), forcePathStyle: true });
});

afterAll(async () => {
  if (!isThere) return;
  ec2.destroy();
  s3.destroy();
});

beforeEach(async () => {
  if (!isThere) return;
  await empty();
  imageId = (await ec2.describeImages({ Owners: ['amazon'] })).Images?.[0]?.ImageId ?? '';
});

const hostOf = (options: Ec2HostOptions = {}): Ec2Host =>
  new Ec2Host({ endpoint: world.proxy.url, region: REGION, credentials, clock: fastClock, imageId, ...options });

const SPEC: ProgramSpec = {
  name: 'orchestrator',
  files: { 'program.mjs': Buffer.from('console.log(1)') },
  args: ['program.mjs'],
  environment: { RPC_URL: 'http://localhost' },
  healthPort: 9_000,
  tags: { team: 'a' },
};

async function all(machines: AsyncIterable<Machine>): Promise<Machine[]> {
  const seen: Machine[] = [];
  for await (const one of machines) seen.push(one);
  return seen;
}

describe('a program on EC2', () => {
  testMoto(
    'runs on a small machine that nobody can connect to, once, until it is ended',
    async () => {
      const host = hostOf();
      expect(await host.describe('orchestrator')).toBeUndefined();
      const planned = await host.run(SPEC, { dryRun: true });
      expect(world.proxy.writes).toEqual([]);
      const { machine, changes } = await host.run(SPEC);
      expect(changes).toEqual(planned.changes);
      expect(machine).toMatchObject({ name: 'orchestrator', status: 'starting' });
      const { Reservations = [] } = await ec2.describeInstances({ InstanceIds: [machine?.id ?? ''] });
      const instance = Reservations[0]?.Instances?.[0];
      expect(instance).toMatchObject({ InstanceType: 't4g.nano', State: { Name: 'running' } });
      const { SecurityGroups = [] } = await ec2.describeSecurityGroups({
        GroupIds: (instance?.SecurityGroups ?? []).map(({ GroupId = '' }) => GroupId),
      });
      expect(SecurityGroups.map(({ IpPermissions }) => IpPermissions)).toEqual([[]]);
      const { UserData } = await ec2.describeInstanceAttribute({ InstanceId: machine?.id ?? '', Attribute: 'userData' });
      expect(Buffer.from(UserData?.Value ?? '', 'base64').toString()).toContain(Buffer.from('console.log(1)').toString('base64'));
      const writes = world.proxy.writes.length;
      expect((await hostOf().run(SPEC)).changes).toEqual([]);
      expect(world.proxy.writes).toHaveLength(writes);
      expect((await all(host.list())).map(({ id }) => id)).toEqual([machine?.id]);

      const other = await host.run({ ...SPEC, environment: { RPC_URL: 'http://elsewhere' } });
      expect(other.changes.map(({ action }) => action)).toEqual(['delete', 'create']);
      expect(other.warnings).toEqual([`what the program kept is on the disk of instance ${machine?.id ?? ''} and ends with it`]);
      expect(other.machine?.id).not.toBe(machine?.id);
      expect(await all(host.list())).toHaveLength(1);
      // One that would be refused does not end the one that runs.
      const large = { ...SPEC, files: { 'program.mjs': Buffer.alloc(100_000, 'x') } };
      await expect(host.run(large)).rejects.toMatchObject({ code: 'LIMIT_EXCEEDED' });
      expect((await all(host.list())).map(({ id }) => id)).toEqual([other.machine?.id]);

      await ec2.stopInstances({ InstanceIds: [other.machine?.id ?? ''] });
      const started = await host.run({ ...SPEC, environment: { RPC_URL: 'http://elsewhere' } });
      expect(started.changes).toEqual([{ action: 'update', resource: 'instance', id: other.machine?.id, fields: ['state'] }]);

      expect((await host.terminate('orchestrator')).changes).toHaveLength(1);
      expect(await host.describe('orchestrator')).toBeUndefined();
      expect((await host.terminate('orchestrator')).changes).toEqual([]);
      await host.close();
    },
    180_000,
  );

  testMoto(
    'is started once when the start was interrupted after every write',
    async () => {
      for (const cut of [1, 2]) {
        const host = hostOf();
        world.proxy.cutAfter(cut);
        await expect(host.run(SPEC)).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
        world.proxy.cutAfter(undefined);
        await host.run(SPEC);
        expect(await all(host.list())).toHaveLength(1);
        await world.moto.reset();
        world.proxy.reset();
        await host.close();
      }
    },
    180_000,
  );

  testMoto(
    'that is large comes from a bucket, and one of somebody else is left alone',
    async () => {
      const large = { ...SPEC, files: { 'program.mjs': Buffer.alloc(100_000, 'x') } };
      const host = hostOf();
      await expect(host.run(large)).rejects.toMatchObject({ code: 'LIMIT_EXCEEDED' });
      await expect(host.run({ ...SPEC, secrets: { KEY: 'ssm:/x' } })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
      expect(world.proxy.writes.filter((operation) => operation.startsWith('RunInstances'))).toEqual([]);
      await s3.createBucket({ Bucket: 'code', CreateBucketConfiguration: { LocationConstraint: 'eu-central-1' } });
      const iam = new IAM(settings(world.moto.url));
      await iam.createInstanceProfile({ InstanceProfileName: 'orchestrator' });
      iam.destroy();
      const through = hostOf({ bucket: 'code', instanceProfile: 'orchestrator' });
      await through.run(large);
      const { Contents = [] } = await s3.listObjectsV2({ Bucket: 'code' });
      const script = await (await s3.getObject({ Bucket: 'code', Key: Contents[0]?.Key ?? '' })).Body?.transformToString();
      expect(script).toContain('systemctl enable --now blueprint-runner');
      const keys = async (): Promise<unknown[]> => ((await s3.listObjectsV2({ Bucket: 'code' })).Contents ?? []).map(({ Key }) => Key);
      await through.run({ ...large, environment: { RPC_URL: 'http://elsewhere' } });
      const [second, ...more] = await keys();
      expect([second === Contents[0]?.Key, more]).toEqual([false, []]);
      // Whose credentials may not remove it can end the program all the same.
      world.proxy.answer = (operation) => (operation.startsWith('HEAD /code/') ? { status: 403, body: '' } : undefined);
      const { warnings } = await through.terminate('orchestrator');
      expect(warnings).toEqual([`s3://code/${String(second)} may still be there: these credentials may not look at it or remove it`]);
      world.proxy.answer = undefined;
      await through.run(large);
      await through.terminate('orchestrator');
      expect(await keys()).toEqual([second]);
      await ec2.runInstances({
        ImageId: imageId,
        MinCount: 1,
        MaxCount: 1,
        TagSpecifications: [{ ResourceType: 'instance', Tags: [{ Key: 'blueprint-runner:program', Value: 'theirs' }] }],
      });
      await expect(host.run({ ...SPEC, name: 'theirs' })).rejects.toMatchObject({ code: 'RESOURCE_FOREIGN' });
      await expect(host.terminate('theirs')).rejects.toMatchObject({ code: 'RESOURCE_FOREIGN' });
      expect(await host.describe('theirs')).toMatchObject({ status: 'foreign' });
      expect(await all(host.list())).toEqual([]);
    },
    180_000,
  );
});
