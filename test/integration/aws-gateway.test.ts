/** What the deployer of AWS Lambda puts there runs, and the executor calls it: the Lambda API is that of a gateway, the rest of AWS is moto. */

import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { IAM } from '@aws-sdk/client-iam';
import { SQS } from '@aws-sdk/client-sqs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LambdaDeployer, LambdaExecutor } from '../../plugins/aws-lambda/index.ts';
import type { LambdaExecutorOptions, LambdaPlatform } from '../../plugins/aws-lambda/index.ts';
import { ProcessBackend } from '../../plugins/process/index.ts';
import { systemClock } from '../../src/clock.ts';
import { CONFORMANCE_JOBS, runExecutorConformance } from '../../src/conformance/conformance.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import type { FaasExecutor } from '../../src/executor/executor.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import { Metadata } from '../../src/job/call.ts';
import type { JobCall } from '../../src/job/call.ts';
import { createPluginRegistry } from '../../src/plugin/registry.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { REGION, credentials, fastClock, handlerPackage, settings } from '../support/aws-platform.ts';
import type { AwsWorld } from '../support/aws-platform.ts';
import { probeMoto, startAwsProxy, startMoto } from '../support/moto.ts';
import { requirePeer } from '../require.ts';

let isThere = false;
const declared = requirePeer('moto', () => {
  probeMoto();
  isThere = true;
});
const testMoto = (title: string, run: () => Promise<void>, timeoutMs?: number): void => declared(title, run, timeoutMs);

let world: AwsWorld;
let folder: string;
let gateway: Gateway;
let url: string;
let deployer: LambdaDeployer;

beforeAll(async () => {
  if (!isThere) return;
  folder = mkdtempSync(join(tmpdir(), 'bpr-aws-'));
  // Instances run as other users.
  chmodSync(folder, 0o711);
  const moto = await startMoto();
  world = { moto, proxy: await startAwsProxy(moto.url) };
  gateway = new Gateway({
    folder: join(folder, 'gateway'),
    backends: new Map([['process', new ProcessBackend({ folder: join(folder, 'process') })]]),
  });
  url = await gateway.listen({ port: 0 });
  deployer = new LambdaDeployer({ region: REGION, credentials, clock: fastClock, endpoint: world.proxy.url, endpoints: { lambda: url } });
  const built = await buildHandler({ entry: 'test/fixtures/gateway/jobs.ts', outDir: join(folder, 'build') });
  const code = { zip: readFileSync(built.zipFile), sha256: built.sha256 };
  await deployer.deploy('conformance', code, { memoryMb: 512, timeoutMs: 60_000, environment: { BLUEPRINT_REQUEST_BYTES_MAX: '8000000' } });
});

afterAll(async () => {
  if (!isThere) return;
  await deployer.close();
  await gateway.close(0);
  await world.proxy.close();
  await world.moto.close();
  rmSync(folder, { recursive: true, force: true });
});

const executorOf = (options: Partial<LambdaExecutorOptions> = {}): LambdaExecutor =>
  new LambdaExecutor({ region: REGION, credentials, endpoint: url, function: 'conformance', qualifier: 'live', ...options });

const skipped = (title: string): void => test(title, (context) => context.skip());

for (const wire of ['base64', 'json'] as const)
  runExecutorConformance(
    { describe, it: Object.assign(testMoto, { skip: skipped }) },
    {
      name: `aws-lambda, ${wire}`,
      create: () => executorOf({ wire }),
      skip: {
        'runs a failing job once': 'the job notes its runs in a file of this machine, which its instance does not reach',
        ...(wire === 'json' && { 'the job sees the metadata of its call': 'the older wire format has no metadata in its body' }),
      },
    },
  );

const callOf = (jobId: bigint, body: string): JobCall => ({ id: 'call-1', jobId, body: Buffer.from(body), metadata: new Metadata() });
const soon = (ms = 20_000) => ({ deadline: Date.now() + ms, attempt: 1 });

async function invoked(executor: FaasExecutor, call: JobCall): Promise<string> {
  const { results } = await executor.invoke(call, soon());
  return Buffer.from(results[0]?.body ?? []).toString();
}

describe('a deployed handler', () => {
  testMoto('tells what a call cost, and streams its result', async () => {
    const executor = executorOf();
    const { report } = await executor.invoke(callOf(CONFORMANCE_JOBS.echo, 'x'), soon());
    expect(report).toMatchObject({
      executionMs: expect.any(Number) as number,
      requestId: expect.stringMatching(/^[0-9a-f-]{36}$/) as string,
    });
    const chunks: string[] = [];
    for await (const chunk of executor.invokeStream(callOf(CONFORMANCE_JOBS.echo, 'streamed'), soon()))
      chunks.push(Buffer.from(chunk).toString());
    expect(chunks.join('')).toBe('streamed');
    const failing = executor.invokeStream(callOf(CONFORMANCE_JOBS.fail, 'x'), soon())[Symbol.asyncIterator]();
    await expect(failing.next()).rejects.toMatchObject({ code: 'JOB_FAILED' });
    await executor.close();
  });

  testMoto(
    'is called through what its state says, goes on while it is replaced, and goes back',
    async () => {
      const build = async (minify: boolean) => {
        const { zipFile, sha256 } = await buildHandler({
          entry: 'examples/incredible-squaring/jobs.ts',
          outDir: join(folder, `s-${minify}`),
          minify,
        });
        return { zip: readFileSync(zipFile), sha256 };
      };
      const [first, second] = [await build(true), await build(false)];
      const { state } = await deployer.deploy('squaring', first, {
        runtime: 'custom',
        handler: 'bootstrap',
        memoryMb: 256,
        timeoutMs: 30_000,
      });
      expect(state).toMatchObject({ status: 'active', version: '1', sha256: first.sha256 });
      const plugins = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
      const executor = await plugins.executor(state?.executor.use ?? '', { ...state?.executor.options, credentials });
      const word = (value: bigint): string => value.toString(16).padStart(64, '0');
      const call = { ...callOf(0n, ''), body: Buffer.from(word(12n), 'hex') };
      const square = async (): Promise<string> => Buffer.from((await executor.invoke(call, soon())).results[0]?.body ?? []).toString('hex');
      expect(await square()).toBe(word(144n));
      const calls = Array.from({ length: 20 }, square);
      const { state: updated } = await deployer.updateCode('squaring', second);
      expect(new Set(await Promise.all(calls))).toEqual(new Set([word(144n)]));
      expect(updated).toMatchObject({ version: '2', sha256: second.sha256, config: { memoryMb: 256 } });
      expect((await deployer.invoke('squaring', Buffer.from('{}'))).version).toBe('2');
      expect((await deployer.rollback('squaring')).state).toMatchObject({ version: '1', sha256: first.sha256 });
      expect(await square()).toBe(word(144n));
      expect(
        (await deployer.deploy('squaring', first, { memoryMb: 256, instancesMin: 1 })).changes.map(({ resource }) => resource),
      ).toContain('provisioned-concurrency');
      expect((await deployer.describe('squaring'))?.config.instancesMin).toBe(1);
      await deployer.remove('squaring');
      await expect(executor.invoke(call, soon())).rejects.toMatchObject({ code: 'EXECUTOR_NOT_FOUND' });
      await executor.close?.();
    },
    180_000,
  );

  testMoto('has dead letters, tracing, a network and a log format, and loses them', async () => {
    const { zip, sha256 } = handlerPackage('a');
    const deployTwice = async (platform: LambdaPlatform) => {
      const { state } = await deployer.deploy('dressed', { zip, sha256 }, { platform: { ...platform } });
      expect((await deployer.deploy('dressed', { zip, sha256 }, { platform: { ...platform } })).changes).toEqual([]);
      return state;
    };
    const network = { subnetIds: ['subnet-1'], securityGroupIds: ['sg-1'] };
    const dressed = await deployTwice({ deadLetters: true, tracing: true, logFormat: 'JSON', vpc: network });
    expect(dressed?.config.platform).toEqual({
      deadLetters: expect.stringMatching(/:dressed-dead-letters$/) as string,
      tracing: true,
      logFormat: 'JSON',
      vpc: network,
    });
    expect(dressed?.resources.map(({ kind }) => kind)).toEqual(['function', 'alias', 'role', 'dead-letters']);
    const iam = new IAM(settings(world.moto.url));
    const RoleName = `dressed-${REGION}-role`;
    const { PolicyDocument = '' } = await iam.getRolePolicy({ RoleName, PolicyName: 'blueprint-runner' });
    expect(decodeURIComponent(PolicyDocument)).toMatch(/"sqs:SendMessage"\],"Resource":"arn:aws:sqs:[^"]*:dressed-dead-letters"/);
    const attached = async () =>
      ((await iam.listAttachedRolePolicies({ RoleName })).AttachedPolicies ?? []).map(({ PolicyName }) => PolicyName);
    expect(await attached()).toHaveLength(3);
    const bare = await deployTwice({ deadLetters: false, tracing: false, logFormat: 'Text', vpc: false });
    expect(bare?.config.platform).toBeUndefined();
    expect(await attached()).toEqual(['AWSLambdaBasicExecutionRole']);
    const sqs = new SQS(settings(world.moto.url));
    expect((await sqs.listQueues({})).QueueUrls ?? []).toEqual([]);
    await deployTwice({ deadLetters: true });
    await deployer.remove('dressed');
    expect((await sqs.listQueues({})).QueueUrls ?? []).toEqual([]);
    await expect(iam.getRole({ RoleName })).rejects.toMatchObject({ name: 'NoSuchEntityException' });
    for (const client of [iam, sqs]) client.destroy();
  });

  testMoto('that is not there, or does not start, or may not be called is told as such', async () => {
    const nobody = executorOf({ function: 'nobody', qualifier: undefined });
    await expect(nobody.health(0n)).rejects.toMatchObject({ code: 'EXECUTOR_NOT_FOUND' });
    await expect(nobody.warm(0n)).rejects.toMatchObject({ code: 'EXECUTOR_NOT_FOUND' });
    await nobody.close();
    const byJob = executorOf({ function: { '2': 'conformance' } });
    expect(await invoked(byJob, callOf(CONFORMANCE_JOBS.echo, 'by job'))).toBe('by job');
    await expect(byJob.invoke(callOf(3n, ''), soon())).rejects.toMatchObject({ code: 'EXECUTOR_NOT_FOUND', retry: 'never' });
    await byJob.close();
    const nameless = executorOf({ credentials: () => Promise.reject(Object.assign(new Error('x'), { name: 'CredentialsProviderError' })) });
    await expect(nameless.invoke(callOf(2n, ''), soon())).rejects.toMatchObject({ code: 'CREDENTIALS_MISSING' });
    await nameless.close();
  });
});

/** A server that ends every connection at once, after it has read a request. */
async function hangingUp(): Promise<Server> {
  const server = createServer((socket: Socket) => {
    socket.once('data', () => socket.resetAndDestroy());
    socket.on('error', () => {});
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  return server;
}

describe('a call on its way', () => {
  testMoto('was not made when nobody listens, and may have been when the connection is lost', async () => {
    const server = await hangingUp();
    const lost = executorOf({ endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
    await expect(lost.invoke(callOf(2n, 'x'), soon())).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST', retry: 'idempotent' });
    await new Promise((resolve) => server.close(resolve));
    await expect(lost.invoke(callOf(2n, 'x'), soon())).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE', retry: 'safe' });
    await lost.close();
    const late = executorOf();
    await expect(late.invoke(callOf(2n, 'x'), { deadline: Date.now() - 1, attempt: 1 })).rejects.toMatchObject({
      code: 'EXECUTOR_TIMEOUT',
      retry: 'safe',
    });
    await late.close();
  });
});
