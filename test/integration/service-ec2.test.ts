/** A service whose functions are on Lambda and whose orchestrator is on EC2, as moto has them: deployed, killed halfway, deployed again, looked at, removed. */

import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EC2 } from '@aws-sdk/client-ec2';
import { IAM } from '@aws-sdk/client-iam';
import { S3 } from '@aws-sdk/client-s3';
import { expect } from 'vitest';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import { REGION, settings, snapshotOf } from '../support/aws-platform.ts';
import { CliUser } from '../support/cli-user.ts';
import { probeMoto, startAwsProxy, startMoto } from '../support/moto.ts';
import { requirePeer } from '../require.ts';

const testMoto = requirePeer('moto', probeMoto);

const JOBS = new URL('../fixtures/deploy/jobs.ts', import.meta.url).pathname;
const HASTY = new URL('../fixtures/cli/hasty-bpr.ts', import.meta.url).pathname;
const SECRET_KEY = 'wJalrXUtnFEMIbPxRfiCYzMoTo';
const profile = { avgDurationMs: 20, p95DurationMs: 40, peakMemoryMb: 80, stateful: false, persistentConnections: false };
const BUCKET = 'orchestrators';
const KILLED_AFTER_WRITES = 8;

testMoto(
  'bpr service deploy --target ec2 makes functions and one small instance, whatever interrupts it, and writes nothing the second time',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'service-ec2-'));
    const [chain, moto] = await Promise.all([startLocalChain(), startMoto()]);
    await moto.reset();
    const proxy = await startAwsProxy(moto.url);
    const aws = settings(moto.url);
    const [ec2, iam, s3] = [new EC2(aws), new IAM(aws), new S3({ ...aws, forcePathStyle: true })];
    try {
      const tangle = await deployTangle(chain);
      const service = await tangle.startService({
        jobs: [
          { name: 'quick', profile },
          { name: 'small', profile },
          { name: 'stateful', profile: { ...profile, stateful: true } },
        ],
      });
      const key = service.operators[0]?.privateKey ?? '';
      const user = new CliUser(folder, {
        HTTP_RPC_URL: chain.rpcUrl,
        TANGLE_CONTRACT: tangle.contract,
        OPERATOR_PRIVATE_KEY: key,
        AWS_ACCESS_KEY_ID: 'AKIAEXAMPLE',
        AWS_SECRET_ACCESS_KEY: SECRET_KEY,
        LOG_LEVEL: 'debug',
      });
      user.program = HASTY;
      const bare = await snapshotOf({ moto });
      await s3.createBucket({ Bucket: BUCKET, CreateBucketConfiguration: { LocationConstraint: REGION } });
      await iam.createInstanceProfile({ InstanceProfileName: 'orchestrator' });
      const imageId = (await ec2.describeImages({ Owners: ['amazon'] })).Images?.[0]?.ImageId ?? '';
      const policy = ['--serverless', 'true', '--faas-provider', 'aws-lambda', '--serverless-fallback', 'false'];
      expect((await user.bpr('cloud', 'policy', ...policy)).code).toBe(0);
      const id = ['--service-id', String(service.serviceId)];
      const host = { endpoint: proxy.url, region: REGION, imageId, instanceProfile: 'orchestrator', bucket: BUCKET };
      const deploy = [
        ['service', 'deploy', JOBS, ...id, '--target', 'ec2', '--from-block', '0', '--deployer-option', `aws-lambda.endpoint=${proxy.url}`],
        ['--deployer-option', `aws-lambda.region=${REGION}`],
        Object.entries(host).flatMap(([name, value]) => ['--host-option', `${name}=${value}`]),
      ].flat();
      const deployWell = [...deploy, '--key', 'ssm:/blueprint/operator-key'];

      // A key of this machine would lie in the user data for others to read.
      const inClear = await user.bpr(...deploy);
      expect([inClear.code, inClear.stderr]).toEqual([1, expect.stringMatching(/^CONFIG_INVALID: .*ssm:\//m)]);
      expect(proxy.writes).toEqual([]);
      expect((await user.json(...deployWell, '--dry-run'))['changes']).not.toEqual([]);
      expect(proxy.writes).toEqual([]);

      const records = (): unknown[] =>
        readdirSync(user.records)
          .filter((name) => name.endsWith('.json'))
          .map((name) => JSON.parse(readFileSync(join(user.records, name), 'utf8')) as unknown);
      // Among its writes; every single one is the business of the tests of deployers and hosts.
      const { child, ended } = user.start(deployWell);
      proxy.answer = () => {
        if (proxy.writes.length === KILLED_AFTER_WRITES) child.kill('SIGKILL');
        return undefined;
      };
      expect((await ended).code).toBe(-1);
      proxy.answer = undefined;
      expect(records()).toEqual([expect.objectContaining({ version: 1, serviceId: String(service.serviceId), status: 'deploying' })]);
      const { record, machine } = (await user.json(...deployWell)) as {
        record: { status: string; strategy: string };
        machine: { id: string };
      };
      expect(record).toMatchObject({ status: 'deployed', strategy: 'hybrid' });
      const { length } = proxy.writes;
      expect(await user.json(...deployWell)).toMatchObject({ changes: [], machine: { id: machine.id } });
      expect(proxy.writes.slice(length)).toEqual([]);

      const { Reservations = [] } = await ec2.describeInstances({});
      const instances = Reservations.flatMap(({ Instances = [] }) => Instances).filter(({ State }) => State?.Name !== 'terminated');
      expect(instances).toEqual([
        expect.objectContaining({
          InstanceId: machine.id,
          InstanceType: 't4g.nano',
          Tags: expect.arrayContaining([
            { Key: 'managed-by', Value: 'blueprint-runner' },
            { Key: 'blueprint-runner:program', Value: `blueprint-${service.serviceId}-orchestrator` },
          ]) as unknown,
        }),
      ]);
      const { UserData } = await ec2.describeInstanceAttribute({ InstanceId: machine.id, Attribute: 'userData' });
      const userData = Buffer.from(UserData?.Value ?? '', 'base64').toString();
      const script = /s3:\/\/orchestrators\/(\S+?)'? /.exec(userData)?.[1] ?? '';
      const fetched = (await (await s3.getObject({ Bucket: BUCKET, Key: script })).Body?.transformToString()) ?? '';
      const files = [...fetched.matchAll(/<<'END'\n([^]*?)\nEND/g)].map(([, base64 = '']) => Buffer.from(base64, 'base64').toString());
      expect(files.join('\n')).toContain("aws ssm get-parameter --with-decryption --name '/blueprint/operator-key'");
      for (const text of [userData, fetched, ...files]) for (const secret of [key.slice(2), SECRET_KEY]) expect(text).not.toContain(secret);

      const status = await user.json('service', 'status', ...id);
      expect(status).toMatchObject({ orchestrator: { id: machine.id }, functions: { 0: { state: { status: 'active' } } } });
      expect((await user.bpr('service', 'remove', ...id)).code).toBe(0);
      expect(await snapshotOf({ moto })).toEqual(bare);
      expect((await ec2.describeInstances({ InstanceIds: [machine.id] })).Reservations?.[0]?.Instances?.[0]?.State?.Name).toBe(
        'terminated',
      );
      expect((await user.json('service', 'list'))['services']).toEqual([]);
      expect(user.leaks([key.slice(2), SECRET_KEY])).toEqual([]);
    } finally {
      for (const client of [ec2, iam, s3]) client.destroy();
      await proxy.close();
      await Promise.all([chain.stop(), moto.close()]);
      rmSync(folder, { recursive: true });
    }
  },
  120_000,
);
