import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildHandler } from '../../src/deploy/package.ts';
import { BlueprintRunner, JobRouter, Metadata } from '../../src/index.ts';
import type { JobCall } from '../../src/index.ts';
import { encodeAbi } from '../../src/job/abi.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import { requirePeer, runs } from '../require.ts';
import { DRIVERS } from '../support/container-engine.ts';
import { startKubernetes } from '../support/kubernetes.ts';
import { kubeconfigFor } from '../support/kubernetes-config.ts';

const testSandboxed = requirePeer('bwrap', () => runs('bwrap', '--unshare-all', '--ro-bind', '/', '/', 'true'));
const UINT64 = parseParameters('uint64 x');
let folder: string;
let artifact: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'rf-'));
  const built = await buildHandler({
    entry: new URL('../../examples/incredible-squaring/jobs.ts', import.meta.url).pathname,
    outDir: folder,
  });
  artifact = built.zipFile;
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What a runner without any job of its own makes of two calls that a backend runs. */
async function resultsOf(use: string, backend?: Readonly<Record<string, unknown>>): Promise<readonly (readonly [string, string])[]> {
  const got: [string, string][] = [];
  const done = Promise.withResolvers<void>();
  async function* calls(): AsyncGenerator<readonly JobCall[]> {
    yield [3n, 12n].map((x) => ({ id: `call-${x}`, jobId: 0n, body: encodeAbi(UINT64, [x]), metadata: new Metadata() }));
  }
  const dataDir = mkdtempSync(join(tmpdir(), 'rd-'));
  const runner = await BlueprintRunner.builder({ dataDir, ledger: false, metrics: false, logLevel: 'silent' }, {})
    .router(new JobRouter())
    .withFaasExecutor(0, { use, options: { artifact, ...(backend && { backend }) } })
    .producer({ name: 'two', calls })
    .consumer({
      name: 'list',
      consume: ({ body }, { id }) => {
        got.push([id, BigInt(`0x${Buffer.from(body).toString('hex')}`).toString()]);
        if (got.length === 2) done.resolve();
      },
    })
    .onError((error) => done.reject(error))
    .start();
  try {
    await done.promise;
    expect(runner.status().executors.find(({ jobId }) => jobId === 0n)?.executor).toBe(use);
  } finally {
    await runner.stop();
    rmSync(dataDir, { recursive: true, force: true });
  }
  return got.toSorted(([a], [b]) => a.localeCompare(b));
}

const SQUARES = [
  ['call-12', '144'],
  ['call-3', '9'],
];

describe('withFaasExecutor(jobId, { use, options: { artifact } })', () => {
  it('runs the bundle in processes', async () => {
    expect(await resultsOf('process')).toEqual(SQUARES);
  });

  for (const { name, test } of DRIVERS) {
    const backend = name === 'runc' ? { driver: name } : undefined;
    test(`runs the bundle in containers of ${name}`, async () => expect(await resultsOf('container', backend)).toEqual(SQUARES), 120_000);
  }

  testSandboxed(
    'runs the bundle in pods, and leaves none',
    async () => {
      const emulator = await startKubernetes({ token: 'a token' });
      try {
        const kubeconfig = join(folder, 'kubeconfig');
        writeFileSync(kubeconfig, kubeconfigFor({ server: emulator.url, token: 'a token' }));
        expect(await resultsOf('kubernetes', { kubeconfig, address: '127.0.0.1', listen: '127.0.0.1:0' })).toEqual(SQUARES);
        expect([emulator.store.objects.size, emulator.instances.size]).toEqual([0, 0]);
        expect(emulator.requests.some((request) => request === 'POST /api/v1/namespaces/default/pods')).toBe(true);
      } finally {
        await emulator.close();
      }
    },
    60_000,
  );

  it('refuses options that it does not know, and says which there are', async () => {
    const builder = BlueprintRunner.builder({ ledger: false, metrics: false }, {}).withFaasExecutor(0, {
      use: 'process',
      options: { artefact: 'x' },
    });
    await expect(builder.build()).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining('artifact') as string });
  });
});
