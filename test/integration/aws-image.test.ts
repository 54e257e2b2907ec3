/** Functions that are container images: moto holds Lambda and ECR, and Lambda takes only what ECR has. */

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Lambda } from '@aws-sdk/client-lambda';
import { afterAll, beforeAll, beforeEach, describe, expect } from 'vitest';
import { systemClock } from '../../src/clock.ts';
import { writeImageLayout } from '../../src/deploy/image.ts';
import { ServiceRecords } from '../../src/deploy/record.ts';
import type { RecordedFunction, ServiceRecord } from '../../src/deploy/record.ts';
import { ServiceOperator } from '../../src/deploy/service.ts';
import type { ServiceStatus } from '../../src/deploy/service.ts';
import { REGION, deployerOf, handlerPackage, settings, snapshotOf } from '../support/aws-platform.ts';
import { CliUser } from '../support/cli-user.ts';
import { useMoto } from '../support/moto-file.ts';

const { testMoto, isThere, world, empty } = useMoto();

let lambda: Lambda;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bpr-aws-image-'));
  if (!isThere) return;
  lambda = new Lambda(settings(world.moto.url));
});

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
  if (!isThere) return;
  lambda.destroy();
});

beforeEach(async () => {
  if (!isThere) return;
  await empty();
  await ecr('CreateRepository', { repositoryName: 'squaring' });
});

async function ecr(operation: string, input: object): Promise<unknown> {
  const response = await fetch(world.moto.url, {
    method: 'POST',
    headers: {
      'content-type': 'application/x-amz-json-1.1',
      'x-amz-target': `AmazonEC2ContainerRegistry_V20150921.${operation}`,
      authorization: `AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260101/${REGION}/ecr/aws4_request, SignedHeaders=host, Signature=0`,
    },
    body: JSON.stringify(input),
  });
  expect(response.status, operation).toBe(200);
  return response.json();
}

/** The image of a package, in ECR. */
async function imageOf(tag: string): Promise<string> {
  const { zip } = handlerPackage(tag);
  const { digest, directory } = await writeImageLayout({ zip, outDir: join(folder, tag) });
  const imageManifest = await readFile(join(directory, 'blobs', digest.replace(':', '/')), 'utf8');
  await ecr('PutImage', { repositoryName: 'squaring', imageManifest, imageDigest: digest, imageTag: tag });
  return `123456789012.dkr.ecr.${REGION}.amazonaws.com/squaring@${digest}`;
}

/** Of a service with one function. */
function recordOf(fn: RecordedFunction): ServiceRecord {
  return {
    version: 1,
    serviceId: '1',
    blueprintId: '1',
    blueprintName: 'squares',
    chainId: 31_337,
    contract: `0x${'ab'.repeat(20)}`,
    status: 'deployed',
    strategy: 'serverless',
    reasons: [],
    entry: '/jobs.ts',
    jobs: { 0: { name: 'square', place: 'function', reason: 'fits', function: fn } },
    leftovers: [],
    createdAt: '',
    updatedAt: '',
    history: [],
  };
}

const digestIn = (image: string): string => image.slice(image.indexOf('@sha256:') + '@sha256:'.length);
const CODE = handlerPackage('not sent');
const CONFIG = { memoryMb: 256, timeoutMs: 30_000, environment: { COLOUR: 'blue' } };

describe('a function that is an image', () => {
  testMoto('is made from it; again nothing is written', async () => {
    const image = await imageOf('a');
    const wanted = { ...CONFIG, platform: { image } };
    const { state, changes } = await deployerOf(world).deploy('squaring', CODE, wanted);
    expect(changes.map(({ action, resource }) => `${action} ${resource}`)).toContain('create function');
    expect(state).toMatchObject({ status: 'active', sha256: digestIn(image), config: CONFIG });
    expect(state?.config).not.toHaveProperty('runtime');
    const { Configuration, Code } = await lambda.getFunction({ FunctionName: 'squaring', Qualifier: 'live' });
    expect(Configuration).toMatchObject({ PackageType: 'Image', CodeSha256: digestIn(image) });
    expect(Code).toMatchObject({ ImageUri: image, RepositoryType: 'ECR' });
    world.proxy.reset();
    expect((await deployerOf(world).deploy('squaring', CODE, wanted)).changes).toEqual([]);
    expect(world.proxy.writes).toEqual([]);
  });

  testMoto('is deployed by command without a package, and is no drift afterwards', async () => {
    const image = await imageOf('a');
    const user = new CliUser(folder, { AWS_ACCESS_KEY_ID: 'AKIAEXAMPLE', AWS_SECRET_ACCESS_KEY: 'secret' });
    const flags = ['-p', 'aws-lambda', '--deployer-option', `aws-lambda.endpoint=${world.proxy.url}`];
    flags.push('--deployer-option', `aws-lambda.region=${REGION}`);
    const deploy = ['cloud', 'deploy', '--name', 'squaring', ...flags, '--platform-option', `image=${image}`];
    expect(await user.json(...deploy)).toMatchObject({ state: { sha256: digestIn(image) } });
    const { length } = world.proxy.writes;
    expect(await user.json(...deploy)).toMatchObject({ changes: [] });
    expect(world.proxy.writes).toHaveLength(length);
    expect(await user.json('cloud', 'status', 'squaring', ...flags)).toMatchObject({ status: 'active', sha256: digestIn(image) });
    expect(JSON.stringify(await user.json('cloud', 'list', ...flags))).toContain(digestIn(image));
    const other = await user.bpr(...deploy.slice(0, 4), '-p', 'kubernetes', '--platform-option', `image=${image}`);
    expect([other.code, other.stderr]).toEqual([1, expect.stringMatching(/^CONFIG_INVALID: a function of kubernetes needs a package/m)]);
    const nothing = await user.bpr(...deploy.slice(0, 4));
    expect([nothing.code, nothing.stderr]).toEqual([2, expect.stringContaining("missing required argument 'entry'")]);
  });

  testMoto('of a service is as it was deployed', async () => {
    const image = await imageOf('a');
    const plugins = { deployer: async () => deployerOf(world), host: () => Promise.reject(new Error('no host')) };
    const records = new ServiceRecords(join(folder, 'records'));
    const operator = new ServiceOperator({ plugins, records, clock: systemClock });
    const deployed = await deployerOf(world).deploy('squaring', CODE, { platform: { image } });
    const { sha256 } = deployed.state ?? {};
    const status = (recorded: string | undefined): Promise<ServiceStatus> =>
      operator.status(
        recordOf({ name: 'squaring', deployer: { use: 'aws-lambda', options: {} }, ...(recorded !== undefined && { sha256: recorded }) }),
      );
    expect((await status(sha256)).drift).toEqual([]);
    expect((await status(CODE.sha256)).drift).toEqual([expect.stringContaining('another package')]);
    await operator.close();
  });

  testMoto('becomes another image, keeps its configuration, and is rolled back', async () => {
    const [a, b] = [await imageOf('a'), await imageOf('b')];
    const deployer = deployerOf(world);
    await deployer.deploy('squaring', CODE, { ...CONFIG, platform: { image: a } });
    const { state, changes } = await deployer.deploy('squaring', CODE, { platform: { image: b } });
    expect(changes).toContainEqual({ action: 'update', resource: 'code', id: 'squaring', fields: ['image'] });
    expect(state).toMatchObject({ sha256: digestIn(b), config: CONFIG });
    expect((await deployer.versions('squaring')).map(({ sha256, current }) => [sha256, current])).toEqual([
      [digestIn(b), true],
      [digestIn(a), false],
    ]);
    expect((await deployer.rollback('squaring')).state?.sha256).toBe(digestIn(a));
    await deployer.close();
  });

  testMoto('takes a configuration without its image, and leaves nothing when it is removed', async () => {
    const before = await snapshotOf(world);
    const image = await imageOf('a');
    const deployer = deployerOf(world);
    await deployer.deploy('squaring', CODE, { ...CONFIG, platform: { image } });
    const { state } = await deployer.updateConfiguration('squaring', { memoryMb: 512 });
    expect(state).toMatchObject({ sha256: digestIn(image), config: { memoryMb: 512 } });
    await deployer.remove('squaring');
    expect(await snapshotOf(world)).toEqual(before);
    await deployer.close();
  });

  testMoto('is never made one from a package, nor the other way round; nothing is written', async () => {
    const image = await imageOf('a');
    const deployer = deployerOf(world);
    await deployer.deploy('squaring', CODE, { platform: { image } });
    await deployer.deploy('zipped', CODE, {});
    world.proxy.reset();
    await expect(deployer.updateCode('squaring', CODE)).rejects.toMatchObject({ code: 'OPERATION_UNSUPPORTED' });
    await expect(deployer.deploy('squaring', CODE, {})).rejects.toMatchObject({ code: 'OPERATION_UNSUPPORTED' });
    await expect(deployer.deploy('zipped', CODE, { platform: { image } })).rejects.toMatchObject({ code: 'OPERATION_UNSUPPORTED' });
    expect(world.proxy.writes).toEqual([]);
    await deployer.close();
  });

  testMoto('that ECR does not have is the error of AWS; again, with the image there, it converges', async () => {
    const image = await imageOf('a');
    const missing = image.replace(digestIn(image), '0'.repeat(64));
    const deployer = deployerOf(world);
    await expect(deployer.deploy('squaring', CODE, { platform: { image: missing } })).rejects.toMatchObject({ code: 'DEPLOY_FAILED' });
    expect((await deployer.deploy('squaring', CODE, { platform: { image } })).state?.sha256).toBe(digestIn(image));
    await deployer.close();
  });

  testMoto('has no runtime, handler or layers, and is named with its digest', async () => {
    const image = `123456789012.dkr.ecr.${REGION}.amazonaws.com/squaring@sha256:${'a'.repeat(64)}`;
    const deployer = deployerOf(world);
    const violations = deployer.violations('squaring', CODE, { runtime: 'nodejs24', handler: 'a.b', platform: { image } });
    expect(violations.map(({ limit }) => limit)).toEqual(['runtime', 'handler']);
    for (const platform of [{ image, layers: [] }, { image: 'squaring:latest' }, { image: 'host/squaring:latest' }])
      expect(() => deployer.violations('squaring', CODE, { platform })).toThrow(
        expect.objectContaining({ code: 'CONFIG_INVALID' }) as Error,
      );
  });
});
