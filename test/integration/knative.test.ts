/** Functions as Services of Knative, on an emulator that takes what the webhook of Knative takes. */

import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { KubernetesDeployer, KubernetesExecutor, manifestsOf } from '../../plugins/kubernetes/index.ts';
import type { KubernetesOptions, Manifest } from '../../plugins/kubernetes/index.ts';
import { Cluster } from '../../plugins/kubernetes/client.ts';
import { systemClock as clock } from '../../src/clock.ts';
import { runExecutorConformance } from '../../src/conformance/conformance.ts';
import { exportPlan } from '../../src/deploy/export.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import { isRunnerError } from '../../src/errors.ts';
import type { RunnerError } from '../../src/errors.ts';
import type { FunctionConfig, FunctionPackage } from '../../src/executor/deployer.ts';
import { zipOf } from '../support/gateway.ts';
import { startKubernetes } from '../support/kubernetes.ts';
import type { KubernetesEmulator } from '../support/kubernetes.ts';
import { kubeconfigFor } from '../support/kubernetes-config.ts';
import { invalidity, unknownFields } from '../support/kubernetes-schema.ts';

const TOKEN = 'token-of-a-cluster-for-tests';

/** Answers with its tag and two variables. */
function answering(tag: string): FunctionPackage {
  const source = `import { createServer } from 'node:http';
const { COLOUR, SHAPE } = process.env;
console.log('on duty: ' + ${JSON.stringify(tag)});
const server = createServer((request, response) => request.resume().on('end', () => response.end(JSON.stringify({ tag: ${JSON.stringify(tag)}, COLOUR, SHAPE }))));
server.listen(Number(process.env.PORT), process.env.HOST);
process.on('SIGTERM', () => server.close());
`;
  return packageOf({ 'handler.mjs': source });
}

function packageOf(files: Readonly<Record<string, string>>): FunctionPackage {
  const zip = zipOf(files);
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

async function failureOf(work: Promise<unknown>): Promise<RunnerError> {
  return work.then(
    () => expect.unreachable('it did not fail'),
    (error: unknown) => (isRunnerError(error) ? error : expect.unreachable(String(error))),
  );
}

interface ServedSpec {
  readonly traffic: readonly { readonly revisionName: string }[];
  readonly template: {
    readonly metadata: { readonly name: string; readonly annotations: Readonly<Record<string, string>> };
    readonly spec: { readonly containers: readonly object[] } & Readonly<Record<string, unknown>>;
  };
}

let folder: string;
const closing: (() => Promise<void>)[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'knative-'));
});

afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
  await rm(folder, { recursive: true, force: true });
});

interface Started {
  readonly emulator: KubernetesEmulator;
  readonly kubeconfig: string;
  deployer(options?: KubernetesOptions): KubernetesDeployer;
  /** What is in the cluster. */
  served(name?: string): ServedSpec;
  /** The answer of the function. */
  answer(name?: string): Promise<unknown>;
}

async function start(pods: 'lazy' | 'eager' = 'lazy', knative = true): Promise<Started> {
  const emulator = await startKubernetes({ token: TOKEN, pods, knative });
  closing.push(() => emulator.close());
  const kubeconfig = join(folder, 'config');
  await writeFile(kubeconfig, kubeconfigFor({ server: emulator.url, token: TOKEN }));
  const deployer = (options: KubernetesOptions = {}): KubernetesDeployer => {
    const made = new KubernetesDeployer({ kubeconfig, workload: 'knative', ...options }, { clock, environment: {} });
    closing.push(() => made.close());
    return made;
  };
  const served = (name = 'count'): ServedSpec => emulator.store.find('KnativeService', 'default', name)?.['spec'] as ServedSpec;
  const answer = async (name = 'count'): Promise<unknown> =>
    JSON.parse(Buffer.from((await deployer().invoke(name, Buffer.from('{}'))).body).toString());
  return { emulator, kubeconfig, deployer, served, answer };
}

const FULL: FunctionConfig = { memoryMb: 256, timeoutMs: 30_000, environment: { COLOUR: 'crimson' }, concurrencyMax: 25, instancesMin: 1 };

function servedManifest(config: FunctionConfig, options: KubernetesOptions = {}): Manifest {
  const made = manifestsOf({ name: 'count', namespace: 'default', config, pods: { workload: 'knative', ...options } }, answering('a'));
  expect(made.map(({ kind }) => kind)).toEqual(['Secret', 'ConfigMap', 'Service']);
  return made[2] ?? expect.unreachable('there are three');
}

describe('manifests', () => {
  test('hold what Knative takes, and nothing else', () => {
    const manifest = servedManifest(FULL);
    expect([manifest.apiVersion, invalidity(manifest), unknownFields(manifest)]).toEqual(['serving.knative.dev/v1', undefined, []]);
    const spoilt = structuredClone(manifest) as unknown as { spec: ServedSpec };
    Object.assign(spoilt.spec, { replicas: 1 });
    Object.assign(spoilt.spec.template.spec, { terminationGracePeriodSeconds: 1 });
    Object.assign(spoilt.spec.template.spec.containers[0] ?? {}, { lifecycle: {} });
    expect([...unknownFields(spoilt)].toSorted()).toEqual([
      'spec.replicas',
      'spec.template.spec.containers[0].lifecycle',
      'spec.template.spec.terminationGracePeriodSeconds',
    ]);
  });

  test('are restricted, stay inside the cluster, and hold no value of the environment', () => {
    const manifest = servedManifest(FULL);
    expect(manifest).toMatchObject({
      metadata: { labels: { 'networking.knative.dev/visibility': 'cluster-local' } },
      spec: {
        template: {
          spec: {
            automountServiceAccountToken: false,
            containers: [
              {
                securityContext: {
                  allowPrivilegeEscalation: false,
                  readOnlyRootFilesystem: true,
                  capabilities: { drop: ['ALL'] },
                  runAsNonRoot: true,
                  seccompProfile: { type: 'RuntimeDefault' },
                },
              },
            ],
          },
        },
      },
    });
    expect(JSON.stringify(manifest)).not.toMatch(/crimson|Y3JpbXNvbg/);
  });

  test('the limit of a function is that of all its pods together', () => {
    const scale = (config: FunctionConfig, options: KubernetesOptions = {}): unknown => {
      const { template } = servedManifest(config, options)['spec'] as ServedSpec;
      const of = (key: string): string | undefined => template.metadata.annotations[`autoscaling.knative.dev/${key}`];
      return [template.spec['containerConcurrency'], of('min-scale'), of('max-scale'), template.spec['timeoutSeconds']];
    };
    expect(scale({})).toEqual([0, '0', undefined, 300]);
    expect(scale(FULL)).toEqual([10, '1', '2', 30]);
    expect(scale({ concurrencyMax: 25 }, { containerConcurrency: 5 })).toEqual([5, '0', '5', 300]);
    expect(scale({ concurrencyMax: 3 })).toEqual([3, '0', '1', 300]);
    expect(scale({ timeoutMs: 1_500 }, { instancesMax: 7, containerConcurrency: 1 })).toEqual([1, '0', '7', 2]);
  });
});

describe('deployments', () => {
  test('without Knative in the cluster it is said that there is none, and nothing is written', async () => {
    const { emulator, deployer, kubeconfig } = await start('lazy', false);
    const executor = new KubernetesExecutor({ kubeconfig, workload: 'knative', via: 'proxy' }, { clock, environment: {} });
    closing.push(() => executor.close());
    const refused = { code: 'OPERATION_UNSUPPORTED', message: expect.stringContaining('Knative Serving is not installed') as string };
    expect(await failureOf(deployer().deploy('count', answering('a'), {}))).toMatchObject(refused);
    expect(await failureOf(deployer().describe('count'))).toMatchObject(refused);
    expect(await failureOf(deployer().list().next())).toMatchObject(refused);
    expect(await failureOf(executor.health(1n))).toMatchObject(refused);
    expect(emulator.store.objects.size).toBe(0);
    await deployer({ workload: 'deployment' }).deploy('count', answering('a'), {});
  });

  test('no pods while nobody calls, and a call brings one up', async () => {
    const { emulator, deployer, answer } = await start('eager');
    const { state } = await deployer().deploy('count', answering('a'), { environment: { COLOUR: 'blue' } });
    expect(state).toMatchObject({
      status: 'active',
      version: '1',
      executor: { use: 'kubernetes', options: { function: 'count', namespace: 'default', workload: 'knative' } },
    });
    await emulator.scaleToZero('count');
    expect(emulator.pods()).toEqual([]);
    expect(await deployer().describe('count')).toMatchObject({ status: 'active' });
    expect(await answer()).toEqual({ tag: 'a', COLOUR: 'blue' });
    expect(emulator.pods()).toHaveLength(1);
  });

  test('a rollback moves the calls: the revision is as it was made, with the environment of now', async () => {
    const { emulator, deployer, served, answer } = await start('eager');
    await deployer().deploy('count', answering('a'), { memoryMb: 256, environment: { COLOUR: 'blue', SHAPE: 'round' } });
    await deployer().deploy('count', answering('b'), { memoryMb: 512, environment: { COLOUR: 'green' } });
    const { changes, state } = await deployer().rollback('count');
    expect(changes).toEqual([{ action: 'update', resource: 'code', id: 'count', fields: ['traffic'] }]);
    expect(state).toMatchObject({
      version: '1',
      sha256: answering('a').sha256,
      config: { memoryMb: 256, environment: { COLOUR: 'green' } },
    });
    expect(served()).toMatchObject({ traffic: [{ revisionName: 'count-00001' }], template: { metadata: { name: 'count-00002' } } });
    await emulator.scaleToZero('count');
    expect(await answer()).toEqual({ tag: 'a', COLOUR: 'green' });
    const listed = [];
    for await (const each of deployer().list()) listed.push([each.version, each.sha256]);
    expect(listed).toEqual([['1', answering('a').sha256]]);
    expect((await deployer().deploy('count', answering('b'), { memoryMb: 512 })).state).toMatchObject({ version: '2' });
    expect(await answer()).toEqual({ tag: 'b', COLOUR: 'green' });
    expect(emulator.store.of('KnativeRevision')).toHaveLength(2);
  });

  test('after a rollback, deploying what runs changes nothing', async () => {
    const { deployer } = await start();
    const config = { memoryMb: 256 };
    await deployer().deploy('count', answering('a'), config);
    await deployer().deploy('count', answering('b'), config);
    await deployer().rollback('count');
    expect((await deployer().deploy('count', answering('a'), config)).changes).toEqual([]);
    await deployer().rollback('count', '2');
    expect((await deployer().deploy('count', answering('b'), config)).changes).toEqual([]);
  });

  test('a revision that does not start is told with its last lines, and the one before goes on', async () => {
    const { deployer, answer } = await start('eager');
    await deployer().deploy('count', answering('a'), {});
    const error = await failureOf(deployer().deploy('count', packageOf({ 'handler.mjs': 'throw new Error("no oven here")' }), {}));
    expect(error).toMatchObject({ code: 'DEPLOY_FAILED', message: expect.stringContaining('no oven here') as string });
    expect(await deployer().describe('count')).toMatchObject({
      status: 'failed',
      reason: expect.stringContaining('RevisionFailed') as string,
    });
    expect(await answer()).toEqual({ tag: 'a' });
  });

  test('its log is that of the function, not of what Knative puts into its pods', async () => {
    const { deployer } = await start('eager');
    await deployer().deploy('count', answering('a'), { instancesMin: 1 });
    const done = new AbortController();
    for await (const { message } of deployer().logs('count', { follow: true, signal: done.signal })) {
      expect(message).toBe('on duty: a');
      done.abort();
    }
    expect(done.signal.aborted).toBe(true);
  });

  test('calls that somebody sent to a revision of his own come back in a new one', async () => {
    const { emulator, deployer, served } = await start();
    await deployer().deploy('count', answering('a'), {});
    const { template } = served();
    const containers = template.spec.containers.map((each) => ({ ...each, image: 'node:20' }));
    const changed = { ...template, metadata: { ...template.metadata, name: 'count-by-hand' }, spec: { ...template.spec, containers } };
    emulator.edit(
      'KnativeService',
      'count',
      { spec: { template: changed, traffic: [{ revisionName: 'count-by-hand', percent: 100 }] } },
      'blueprint-runner',
    );
    const { changes } = await deployer().deploy('count', answering('a'), {});
    expect(changes).toHaveLength(1);
    expect(served().template).toMatchObject({ metadata: { name: 'count-00002' }, spec: { containers: [{ image: 'node:24-slim' }] } });
  });

  test('a Deployment of the same name is in the way, and so is a Service of Knative for a Deployment', async () => {
    const { deployer } = await start();
    await deployer({ workload: 'deployment' }).deploy('count', answering('a'), {});
    expect(await failureOf(deployer().deploy('count', answering('b'), {}))).toMatchObject({ code: 'RESOURCE_FOREIGN' });
    expect(await failureOf(deployer().remove('count'))).toMatchObject({ code: 'RESOURCE_FOREIGN' });
    await deployer({ workload: 'deployment' }).remove('count');
    await deployer().deploy('count', answering('b'), {});
    expect(await failureOf(deployer({ workload: 'deployment' }).deploy('count', answering('a'), {}))).toMatchObject({
      code: 'RESOURCE_FOREIGN',
    });
  });

  test('limits of Knative are told before anything is written', async () => {
    const { deployer } = await start();
    const broken = deployer({ containerConcurrency: 2 }).violations('count', answering('a'), {
      timeoutMs: 601_000,
      concurrencyMax: 4,
      instancesMin: 3,
    });
    expect(broken.map(({ limit, value }) => [limit, value])).toEqual([
      ['timeoutMs', 601_000],
      ['instancesMin', 3],
    ]);
  });

  test('schedules and calls without an answer work as before, and nothing is left after the removal', async () => {
    const { emulator, deployer } = await start();
    const daily = { name: 'daily', schedule: { kind: 'calendar', expression: '*-*-* 03:00:00' } } as const;
    await deployer().deploy('count', answering('a'), { schedules: [daily] });
    expect(await emulator.trigger('count-daily')).toEqual({ exitCode: 0, lines: [] });
    expect(await deployer().invoke('count', Buffer.from('{}'), { type: 'async' })).toMatchObject({ version: '1', failed: false });
    await deployer().remove('count');
    expect([...emulator.store.objects.keys()]).toEqual([]);
  });
});

describe('an export', () => {
  test('is what Knative takes, runs, and keeps the values of the environment in its Secret', async () => {
    const { emulator, kubeconfig } = await start('eager');
    const config: FunctionConfig = {
      ...FULL,
      environment: { COLOUR: 'crimson' },
      schedules: [{ name: 'daily', schedule: { kind: 'calendar', expression: '*-*-* 03:00:00' } }],
    };
    const input = { functions: [{ name: 'count', code: answering('exported'), config }] };
    const { files, warnings, usage } = exportPlan('knative', input);
    expect([warnings, usage]).toEqual([[], 'kubectl apply -f count.yaml']);
    const documents = parseAllDocuments(String(files['count.yaml'])).map((document) => document.toJS() as Manifest);
    expect(documents.map(({ kind }) => kind)).toEqual(['ConfigMap', 'Secret', 'Service', 'CronJob']);
    for (const each of documents) expect([each.kind, invalidity(each), unknownFields(each)]).toEqual([each.kind, undefined, []]);
    expect(JSON.stringify(documents.filter(({ kind }) => kind !== 'Secret'))).not.toContain('crimson');
    const cluster = new Cluster({ kubeconfig }, { clock, environment: {} });
    closing.push(() => cluster.close());
    for (const each of documents) await cluster.apply(each);
    expect(emulator.store.find('KnativeService', 'default', 'count')).toMatchObject({ kind: 'Service' });
    expect(() => exportPlan('knative', { functions: [{ name: 'x', code: packageOf({ 'a.txt': '' }), config: {} }] })).toThrow(
      /none of handler.mjs/,
    );
  });
});

describe('the bundle behind Knative', () => {
  let emulator: KubernetesEmulator;
  let place: string;

  beforeAll(async () => {
    emulator = await startKubernetes({ token: TOKEN, pods: 'eager', knative: true });
    place = await mkdtemp(join(tmpdir(), 'knative-'));
    await writeFile(join(place, 'config'), kubeconfigFor({ server: emulator.url, token: TOKEN }));
    const { zipFile, sha256 } = await buildHandler({ entry: join(import.meta.dirname, '../fixtures/gateway/jobs.ts'), outDir: place });
    const deployer = new KubernetesDeployer({ kubeconfig: join(place, 'config'), workload: 'knative' }, { clock, environment: {} });
    await deployer.deploy('conformance', { zip: await readFile(zipFile), sha256 }, { timeoutMs: 60_000, memoryMb: 512 });
    await deployer.close();
  });

  afterAll(async () => {
    await emulator.close();
    await rm(place, { recursive: true, force: true });
  });

  runExecutorConformance(
    { describe, it },
    {
      name: 'kubernetes, knative',
      create: () =>
        new KubernetesExecutor(
          { kubeconfig: join(place, 'config'), workload: 'knative', function: (id) => (id === 4_000_000n ? 'nobody' : 'conformance') },
          { clock, environment: {} },
        ),
    },
  );
});
