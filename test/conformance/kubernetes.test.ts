import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { KubernetesDeployer, KubernetesExecutor } from '../../plugins/kubernetes/index.ts';
import { systemClock } from '../../src/clock.ts';
import { conformanceFunction, runDeployerConformance, runExecutorConformance } from '../../src/conformance/conformance.ts';
import type { Connection, DeployerPlatform } from '../../src/conformance/conformance.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import type { FunctionPackage } from '../../src/executor/deployer.ts';
import { startFaultyProxy } from '../support/faulty-proxy.ts';
import { zipOf } from '../support/gateway.ts';
import { startKubernetes } from '../support/kubernetes.ts';
import type { KubernetesEmulator } from '../support/kubernetes.ts';
import { kubeconfigFor } from '../support/kubernetes-config.ts';

const TOKEN = 'token-of-a-cluster-for-tests';

/** What a handler does as an HTTP server: answers, drains, ends. */
function codeOf(tag: string): FunctionPackage {
  const source = `import { createServer } from 'node:http';
import { json } from 'node:stream/consumers';
const run = ${conformanceFunction(tag)};
const server = createServer((request, response) => {
  if (request.method === 'GET') return response.end('ok');
  return json(request).then((event) => run(event, process.env)).then(
    (answer) => response.end(JSON.stringify(answer)),
    (error) => response.writeHead(500).end(error.message),
  );
});
server.listen(Number(process.env.PORT), process.env.HOST);
process.on('SIGTERM', () => server.close());
`;
  const zip = zipOf({ 'handler.mjs': source });
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

/** What is not the same after every way that leads to a state: ids, times, counters, kept versions. */
function snapshot({ store }: KubernetesEmulator): unknown {
  // What Knative makes goes with its Service; which revision gets the calls is told by its hash.
  const isMade = ({ ownerReferences = [] }: { readonly ownerReferences?: readonly object[] }): boolean =>
    JSON.stringify(ownerReferences).includes('serving.knative.dev');
  return ['Deployment', 'Secret', 'Service', 'KnativeService', 'CronJob'].flatMap((kind) =>
    store
      .of(kind)
      .filter(({ metadata }) => !isMade(metadata))
      .map(({ kind: _, status: __, metadata, ...rest }) => {
        const { uid: ___, resourceVersion: ____, generation: _____, creationTimestamp: ______, ownerReferences = [], ...meta } = metadata;
        return JSON.stringify({ kind, owners: ownerReferences.length, meta, rest }).replaceAll(/-\d{5}"/g, '-number"');
      }),
  );
}

async function platform(workload: 'deployment' | 'knative'): Promise<DeployerPlatform> {
  const isServed = workload === 'knative';
  const emulator = await startKubernetes({ token: TOKEN, knative: isServed });
  const isWrite = (method: string, path: string): boolean =>
    method !== 'GET' && method !== 'HEAD' && !path.includes('dryRun=All') && !path.includes('/proxy') && !/\/jobs\b/.test(path);
  const proxy = await startFaultyProxy({ target: emulator.url, isWrite });
  const folder = await mkdtemp(join(tmpdir(), 'kube-'));
  const [well, nowhere] = [join(folder, 'well'), join(folder, 'nowhere')];
  await writeFile(well, kubeconfigFor({ server: proxy.url, token: TOKEN }));
  await writeFile(nowhere, kubeconfigFor({ server: 'http://127.0.0.1:1', token: TOKEN }));
  const files: Readonly<Record<Connection, string>> = { well, nowhere, nameless: join(folder, 'none') };
  return {
    ...proxy,
    connect: (how) => new KubernetesDeployer({ kubeconfig: files[how], workload }, { clock: systemClock, environment: {} }),
    codeOf,
    snapshot: () => snapshot(emulator),
    schedules: () => emulator.store.of('CronJob').length,
    makeForeign: async (name) => emulator.makeForeign(name, isServed ? 'KnativeService' : 'Deployment'),
    async close() {
      await proxy.close();
      await emulator.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

runDeployerConformance({ describe, it }, { name: 'kubernetes', create: () => platform('deployment') });
runDeployerConformance({ describe, it }, { name: 'kubernetes, knative', create: () => platform('knative') });

describe('the bundle in a pod of the emulator', () => {
  let emulator: KubernetesEmulator;
  let folder: string;

  beforeAll(async () => {
    emulator = await startKubernetes({ token: TOKEN, pods: 'eager' });
    folder = await mkdtemp(join(tmpdir(), 'kube-'));
    await writeFile(join(folder, 'config'), kubeconfigFor({ server: emulator.url, token: TOKEN }));
    const { zipFile, sha256 } = await buildHandler({ entry: join(import.meta.dirname, '../fixtures/gateway/jobs.ts'), outDir: folder });
    const deployer = new KubernetesDeployer({ kubeconfig: join(folder, 'config') }, { clock: systemClock, environment: {} });
    await deployer.deploy('conformance', { zip: await readFile(zipFile), sha256 }, { timeoutMs: 60_000, memoryMb: 512 });
    await deployer.close();
  });

  afterAll(async () => {
    await emulator.close();
    await rm(folder, { recursive: true, force: true });
  });

  runExecutorConformance(
    { describe, it },
    {
      name: 'kubernetes',
      create: () =>
        new KubernetesExecutor(
          { kubeconfig: join(folder, 'config'), function: (id) => (id === 4_000_000n ? 'nobody' : 'conformance') },
          { clock: systemClock, environment: {} },
        ),
    },
  );
});
