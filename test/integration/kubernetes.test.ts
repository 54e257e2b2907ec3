import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { KubernetesDeployer, KubernetesMachineHost, kubernetesPlugin, manifestsOf, toYaml } from '../../plugins/kubernetes/index.ts';
import type { KubernetesOptions, Manifest } from '../../plugins/kubernetes/index.ts';
import { Cluster } from '../../plugins/kubernetes/client.ts';
import { clusterAccess } from '../../plugins/kubernetes/kubeconfig.ts';
import { systemClock } from '../../src/clock.ts';
import type { RunnerError } from '../../src/errors.ts';
import type { FunctionConfig, FunctionPackage, LogEntry } from '../../src/executor/deployer.ts';
import type { ProgramSpec } from '../../src/executor/machine.ts';
import { requirePeer, runs } from '../require.ts';
import { makeCertificate } from '../support/certificates.ts';
import { zipOf } from '../support/gateway.ts';
import { startKubernetes } from '../support/kubernetes.ts';
import type { KubernetesEmulator } from '../support/kubernetes.ts';
import { kubeconfigFor } from '../support/kubernetes-config.ts';
import { invalidity, unknownFields } from '../support/kubernetes-schema.ts';
import { reservedPort } from '../support/reserved-port.ts';

const TOKEN = 'token-of-a-cluster-for-tests';
const testKubectl = requirePeer('kubectl', () => runs('kubectl', 'version', '--client'));
const clock = systemClock;

function packageOf(files: Readonly<Record<string, string>>): FunctionPackage {
  const zip = zipOf(files);
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

/** Answers with what it got and with its tag; says on its log what it got. */
function echo(tag = 'a', more = ''): FunctionPackage {
  const source = `import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
const server = createServer(async (request, response) => {
  if (request.method === 'GET') return response.end('ok');
  const got = await text(request);
  console.log('got ' + got.length + ' ' + got.slice(0, 40));
  return response.end(JSON.stringify({ tag: ${JSON.stringify(tag)}, got: got.length }));
});
server.listen(Number(process.env.PORT), process.env.HOST);
process.on('SIGTERM', () => server.close());
`;
  return packageOf({ 'handler.mjs': source, 'more.txt': more });
}

async function failureOf(work: Promise<unknown>): Promise<RunnerError> {
  return work.then(
    () => expect.unreachable('it did not fail'),
    (error: RunnerError) => error,
  );
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}

let folder: string;
const closing: (() => Promise<void>)[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kube-'));
});

afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
  await rm(folder, { recursive: true, force: true });
});

interface Started {
  readonly emulator: KubernetesEmulator;
  readonly kubeconfig: string;
  deployer(options?: KubernetesOptions): KubernetesDeployer;
}

async function start(pods: 'lazy' | 'eager' = 'lazy', { isSecure = false } = {}): Promise<Started> {
  const ca = makeCertificate('an authority');
  const emulator = await startKubernetes({ token: TOKEN, pods, ...(isSecure && { tls: makeCertificate('a cluster', ca) }) });
  closing.push(() => emulator.close());
  const kubeconfig = join(folder, 'config');
  const cluster = isSecure ? { 'certificate-authority-data': Buffer.from(ca.cert).toString('base64') } : {};
  await writeFile(kubeconfig, kubeconfigFor({ server: emulator.url, token: TOKEN, cluster }));
  const deployer = (options: KubernetesOptions = {}): KubernetesDeployer => {
    const made = new KubernetesDeployer({ kubeconfig, ...options }, { clock, environment: {} });
    closing.push(() => made.close());
    return made;
  };
  return { emulator, kubeconfig, deployer };
}

async function logWith(deployer: KubernetesDeployer, name: string, text: string): Promise<readonly LogEntry[]> {
  const until = Date.now() + 60_000;
  for (;;) {
    const entries = await all(deployer.logs(name));
    if (entries.some(({ message }) => message.includes(text))) return entries;
    if (Date.now() > until) return expect.unreachable(`the log has no ${text}: ${JSON.stringify(entries)}`);
    await clock.sleep(50);
  }
}

const FULL: FunctionConfig = {
  description: 'counts',
  memoryMb: 256,
  timeoutMs: 30_000,
  ephemeralStorageMb: 64,
  architecture: 'arm64',
  environment: { COLOUR: 'crimson', 'with.dot': '1' },
  concurrencyMax: 9,
  instancesMin: 3,
  tags: { team: 'any name at all' },
  schedules: [
    { name: 'daily', schedule: { kind: 'calendar', expression: '*-*-* 03:00:00 Europe/Berlin' }, event: { say: 'daily' } },
    { name: 'a-rather-long-name-of-a-schedule-that-is-cut', schedule: { kind: 'periodic', periodMs: 3_600_000, relativeTo: 'finish' } },
  ],
};

function manifests(code: FunctionPackage = echo()): readonly Manifest[] {
  return manifestsOf({ name: 'count', namespace: 'default', config: FULL, pods: { imagePullSecrets: ['registry'] } }, code);
}

describe('manifests', () => {
  test('are what the schemas of Kubernetes say, without unknown fields', () => {
    const made = manifests(packageOf({ 'handler.mjs': '', 'noise.bin': randomBytes(1_500_000).toString('latin1') }));
    expect(made.map(({ kind }) => kind)).toEqual([
      'Secret',
      'ConfigMap',
      'ConfigMap',
      'ConfigMap',
      'Deployment',
      'Service',
      'CronJob',
      'CronJob',
    ]);
    for (const manifest of made)
      expect([manifest.kind, invalidity(manifest), unknownFields(manifest)]).toEqual([manifest.kind, undefined, []]);
  });

  test('the check of unknown fields sees them at every depth', () => {
    const deployment = structuredClone(manifests().find(({ kind }) => kind === 'Deployment')) as unknown as {
      nope: number;
      spec: { replicaz: number; template: { spec: { containers: { securityContext: { nope: number } }[] } } };
    };
    deployment.nope = 1;
    deployment.spec.replicaz = 1;
    const [container] = deployment.spec.template.spec.containers;
    if (container) container.securityContext = { ...container.securityContext, nope: 1 };
    expect([...unknownFields(deployment)].toSorted()).toEqual([
      'nope',
      'spec.replicaz',
      'spec.template.spec.containers[0].securityContext.nope',
    ]);
  });

  test('pods are restricted, and get no account of the cluster', () => {
    const pods = manifests().flatMap(({ kind, spec }) => {
      const { template, jobTemplate } = (spec ?? {}) as {
        template?: { spec: object };
        jobTemplate?: { spec: { template: { spec: object } } };
      };
      return kind === 'Deployment' ? [template?.spec] : kind === 'CronJob' ? [jobTemplate?.spec.template.spec] : [];
    });
    expect(pods).toHaveLength(3);
    for (const pod of pods)
      expect(pod).toMatchObject({
        automountServiceAccountToken: false,
        enableServiceLinks: false,
        securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
        containers: [
          {
            securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } },
            resources: {
              requests: { memory: expect.stringMatching(/Mi$/) as string },
              limits: { memory: expect.stringMatching(/Mi$/) as string },
            },
          },
        ],
      });
  });

  test('values of the environment are in the Secret alone, names of CronJobs are short, zones are kept', () => {
    const made = manifests();
    const others = JSON.stringify(made.filter(({ kind }) => kind !== 'Secret'));
    expect(others).not.toMatch(/crimson|Y3JpbXNvbg/);
    expect(made[0]?.['data']).toEqual({ COLOUR: 'Y3JpbXNvbg==', 'with.dot': 'MQ==' });
    const cronJobs = made.filter(({ kind }) => kind === 'CronJob');
    for (const { metadata } of cronJobs) expect(metadata.name.length).toBeLessThanOrEqual(52);
    expect(cronJobs.map(({ spec }) => spec)).toMatchObject([
      { schedule: '0 3 * * *', timeZone: 'Europe/Berlin', concurrencyPolicy: 'Allow' },
      { schedule: '0 * * * *', timeZone: 'UTC', concurrencyPolicy: 'Forbid' },
    ]);
  });

  test('YAML says the same', () => {
    const made = manifests();
    expect(parseAllDocuments(toYaml(made)).map((document) => document.toJS() as unknown)).toEqual(JSON.parse(JSON.stringify(made)));
  });
});

describe('deployments', () => {
  test('an unknown field is refused by the cluster, with its own words', async () => {
    const { kubeconfig } = await start();
    const cluster = new Cluster({ kubeconfig }, { clock, environment: {} });
    closing.push(() => cluster.close());
    const manifest = { apiVersion: 'v1', kind: 'Service', metadata: { name: 'x' }, spec: { ports: [{ port: 80, porto: 1 }] } };
    expect(await failureOf(cluster.apply(manifest))).toMatchObject({
      code: 'DEPLOY_FAILED',
      message: expect.stringContaining('unknown field "spec.ports[0].porto"') as string,
      details: { platformCode: 'BadRequest', status: 400 },
    });
  });

  test('a field that somebody else manages is not taken over: it is told with its manager', async () => {
    const { emulator, deployer } = await start();
    await deployer().deploy('count', echo(), { memoryMb: 256 });
    emulator.edit('Deployment', 'count', { spec: { replicas: 4 } });
    const error = await failureOf(deployer().deploy('count', echo(), { memoryMb: 512 }));
    expect(error).toMatchObject({
      code: 'RESOURCE_FOREIGN',
      message: expect.stringMatching(/\.spec\.replicas \(conflict with "kubectl-edit"\)/) as string,
    });
    expect(emulator.store.find('Deployment', 'default', 'count')).toMatchObject({ spec: { replicas: 4 } });
  });

  test('what others added stays, what was changed behind the back of nobody is put right', async () => {
    const { emulator, deployer } = await start();
    await deployer().deploy('count', echo(), {});
    emulator.edit('Service', 'count', { metadata: { annotations: { 'example.org/note': 'mine' } } });
    const { changes } = await deployer().deploy('count', echo(), {});
    expect(changes).toEqual([]);
    emulator.edit('Service', 'count', { spec: { type: 'NodePort' } }, 'blueprint-runner');
    const again = await deployer().deploy('count', echo(), {});
    expect(again.changes).toEqual([{ action: 'update', resource: 'service', id: 'count', fields: ['spec.type'] }]);
    expect(emulator.store.find('Service', 'default', 'count')).toMatchObject({
      metadata: { annotations: { 'example.org/note': 'mine' } },
      spec: { type: 'ClusterIP' },
    });
  });

  test('an image that nobody has fails the rollout, with the reason of the pod', async () => {
    const { deployer } = await start('eager');
    const error = await failureOf(deployer({ image: 'missing/node:1' }).deploy('count', echo(), {}));
    expect(error).toMatchObject({
      code: 'DEPLOY_FAILED',
      message: expect.stringMatching(/ImagePullBackOff: Back-off pulling image "missing\/node:1"/) as string,
      details: { platformCode: 'ImagePullBackOff' },
    });
    expect(await deployer().describe('count')).toMatchObject({ status: 'busy' });
  });

  test('a program that ends at its start fails the rollout, with its last lines; the old one goes on', async () => {
    const { deployer } = await start('eager');
    await deployer().deploy('count', echo(), {});
    const bad = packageOf({ 'handler.mjs': 'throw new Error("no oven here")' });
    const error = await failureOf(deployer().deploy('count', bad, {}));
    expect(error).toMatchObject({ code: 'DEPLOY_FAILED', message: expect.stringContaining('no oven here') as string });
    const { body } = await deployer().invoke('count', Buffer.from('{}'));
    expect(JSON.parse(Buffer.from(body).toString())).toEqual({ tag: 'a', got: 2 });
  });

  test('what repairs a function that does not start is not held up by the pods that it replaces', async () => {
    const { emulator, deployer } = await start('eager');
    const bad = packageOf({ 'handler.mjs': 'throw new Error("no oven here")' });
    expect(await failureOf(deployer().deploy('count', bad, {}))).toMatchObject({ code: 'DEPLOY_FAILED' });
    const [broken] = emulator.pods();
    expect(await failureOf(deployer({ image: 'missing/node:1' }).deploy('count', echo(), {}))).toMatchObject({
      message: expect.stringContaining('missing/node:1') as string,
    });
    expect(emulator.pods()).toContain(broken);
    expect((await deployer().deploy('count', echo(), {})).state).toMatchObject({ status: 'active' });
    expect(emulator.pods()).not.toContain(broken);
  });

  test('a package of several parts is put together', async () => {
    const { emulator, deployer } = await start('eager');
    const code = echo('large', randomBytes(1_300_000).toString('base64'));
    expect(code.zip.length).toBeGreaterThan(1_200_000);
    const { changes } = await deployer().deploy('count', code, {});
    expect(changes.filter(({ resource }) => resource === 'package')).toHaveLength(2);
    expect(emulator.store.of('ConfigMap')).toHaveLength(2);
    const { body, failed } = await deployer().invoke('count', Buffer.from('{}'));
    expect([failed, JSON.parse(Buffer.from(body).toString())]).toEqual([false, { tag: 'large', got: 2 }]);
  });

  test('a package above all parts is a limit', async () => {
    const { deployer } = await start();
    const code = { zip: Buffer.alloc(16 * 768 * 1_024 + 1), sha256: 'a'.repeat(64) };
    expect(
      deployer()
        .violations('count', code, {})
        .map(({ limit }) => limit),
    ).toEqual(['zipBytes']);
  });

  test('a schedule calls the function with its event', async () => {
    const { emulator, deployer } = await start('eager');
    const schedule = {
      name: 'daily',
      schedule: { kind: 'calendar', expression: '*-*-* 03:00:00' },
      event: { say: 'from a schedule' },
    } as const;
    await deployer().deploy('count', echo(), { schedules: [schedule] });
    expect(await emulator.trigger('count-daily')).toEqual({ exitCode: 0, lines: [] });
    await logWith(deployer(), 'count', 'got 25 {"say":"from a schedule"}');
    await deployer().updateCode('count', packageOf({ 'handler.mjs': echoThatFails() }));
    const { exitCode, lines } = await emulator.trigger('count-daily');
    expect([exitCode, lines[0]]).toEqual([1, expect.stringContaining('status 500: out of eggs')]);
  });

  test('a CronJob of another function, or of nobody, stays as it is', async () => {
    const { deployer } = await start();
    const kubernetes = deployer();
    const at = (name: string, expression = '*-*-* 09:00') => ({
      schedules: [{ name, schedule: { kind: 'calendar', expression } as const }],
    });
    await kubernetes.deploy('report', echo(), at('weekly-sums'));
    const taken = kubernetes.deploy('report-weekly', echo(), at('sums', '*-*-* 17:00'));
    await expect(taken).rejects.toMatchObject({ code: 'RESOURCE_FOREIGN', details: { kind: 'CronJob', name: 'report-weekly-sums' } });
    expect((await kubernetes.describe('report'))?.config.schedules).toEqual(at('weekly-sums').schedules);
    expect(await kubernetes.describe('report-weekly')).toBeUndefined();
  });

  test('two schedules that would be one CronJob are refused before anything is written', async () => {
    const { deployer } = await start();
    const kubernetes = deployer();
    const schedules = [
      { name: 'often', schedule: { kind: 'periodic', periodMs: 90 * 60_000 } as const },
      { name: 'often-2', schedule: { kind: 'calendar', expression: '*-*-* 12:00' } as const },
    ];
    await expect(kubernetes.deploy('report', echo(), { schedules })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    expect(await kubernetes.describe('report')).toBeUndefined();
  });

  test('functions of one name in two clusters have two ids', async () => {
    const first = await (await start()).deployer().deploy('report', echo(), {});
    const second = await (await start()).deployer().deploy('report', echo(), {});
    expect(second.changes).toHaveLength(first.changes.length);
    expect(second.state?.id).not.toBe(first.state?.id);
  });

  test('a call without an answer runs in a Job; a large event is a file of it', async () => {
    const { emulator, deployer } = await start();
    await deployer().deploy('count', echo(), {});
    const { requestId } = await deployer().invoke('count', Buffer.from(`"${'x'.repeat(200_000)}"`), { type: 'async' });
    await logWith(deployer(), 'count', 'got 200002');
    const [job] = emulator.store.of('Job');
    expect(job).toMatchObject({ metadata: { name: requestId }, spec: { backoffLimit: 0, ttlSecondsAfterFinished: 600 } });
    expect(emulator.store.find('ConfigMap', 'default', requestId ?? '')).toMatchObject({
      metadata: { ownerReferences: [{ uid: job?.metadata.uid }] },
    });
    await deployer().remove('count');
    expect([...emulator.store.objects.keys()]).toEqual([]);
  });

  test('ten packages are kept', async () => {
    const { emulator, deployer } = await start();
    for (let index = 1; index <= 12; index += 1) await deployer().deploy('count', echo(String(index)), {});
    const versions = await deployer().versions('count');
    expect(versions.map(({ version }) => version)).toEqual(['12', '11', '10', '9', '8', '7', '6', '5', '4', '3']);
    expect(emulator.store.of('ConfigMap')).toHaveLength(10);
  });

  test('a namespace that is not there is told as such', async () => {
    const { deployer } = await start();
    const error = await failureOf(deployer({ namespace: 'nowhere' }).deploy('count', echo(), {}));
    expect(error).toMatchObject({ code: 'DEPLOY_FAILED', message: expect.stringContaining('namespaces "nowhere" not found') as string });
  });
});

function echoThatFails(): string {
  return `import { createServer } from 'node:http';
const server = createServer((request, response) => (request.method === 'GET' ? response.end('ok') : response.writeHead(500).end('out of eggs')));
server.listen(Number(process.env.PORT), process.env.HOST);
process.on('SIGTERM', () => server.close());
`;
}

describe('access', () => {
  const environment = { PATH: process.env['PATH'] };

  async function describes(config: string, more: NodeJS.ProcessEnv = {}): Promise<unknown> {
    const file = join(folder, 'access');
    await writeFile(file, config);
    const deployer = new KubernetesDeployer({}, { clock, environment: { ...environment, KUBECONFIG: file, ...more } });
    closing.push(() => deployer.close());
    return deployer.describe('nothing');
  }

  test('a token from a file, and from a program', async () => {
    const { emulator } = await start();
    await writeFile(join(folder, 'token'), `${TOKEN}\n`);
    expect(await describes(kubeconfigFor({ server: emulator.url, user: { tokenFile: 'token' } }))).toBeUndefined();
    const credential = { apiVersion: 'client.authentication.k8s.io/v1', kind: 'ExecCredential', status: { token: TOKEN } };
    const script = `if (JSON.parse(process.env.KUBERNETES_EXEC_INFO).kind === 'ExecCredential' && process.env.EXTRA === 'yes') console.log(${JSON.stringify(JSON.stringify(credential))}); else throw new Error('asked wrongly')`;
    const exec = {
      apiVersion: credential.apiVersion,
      command: process.execPath,
      args: ['-e', script],
      env: [{ name: 'EXTRA', value: 'yes' }],
    };
    expect(await describes(kubeconfigFor({ server: emulator.url, user: { exec } }))).toBeUndefined();
    const failing = { ...exec, args: ['-e', 'console.error("log in first"); process.exit(1)'] };
    expect(await failureOf(describes(kubeconfigFor({ server: emulator.url, user: { exec: failing } })))).toMatchObject({
      code: 'CREDENTIALS_MISSING',
      message: expect.stringContaining('log in first') as string,
    });
  });

  test('a token that the cluster does not know', async () => {
    const { emulator } = await start();
    const error = await failureOf(describes(kubeconfigFor({ server: emulator.url, token: 'another-token' })));
    expect(error).toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED', details: { platformCode: 'Unauthorized' } });
    expect(error.message).not.toContain('another-token');
  });

  test('authority and certificate of the client as text, over TLS', async () => {
    const ca = makeCertificate('an authority');
    const [server, client] = [makeCertificate('a cluster', ca), makeCertificate('an operator', ca)];
    const tls = { cert: server.cert, key: server.key, ca: ca.cert, requestCert: true, rejectUnauthorized: false };
    const emulator = await startKubernetes({ token: TOKEN, tls });
    closing.push(() => emulator.close());
    const data = (pem: string): string => Buffer.from(pem).toString('base64');
    const cluster = { 'certificate-authority-data': data(ca.cert) };
    const user = { 'client-certificate-data': data(client.cert), 'client-key-data': data(client.key) };
    expect(await describes(kubeconfigFor({ server: emulator.url, cluster, user }))).toBeUndefined();
    expect(await failureOf(describes(kubeconfigFor({ server: emulator.url, cluster })))).toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED' });
    expect(await failureOf(describes(kubeconfigFor({ server: emulator.url, user })))).toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
    const careless = kubeconfigFor({ server: emulator.url, cluster: { 'insecure-skip-tls-verify': true }, user });
    expect(await failureOf(describes(careless))).toMatchObject({ code: 'CONFIG_INVALID' });
  });

  test('the account of a pod', async () => {
    await Promise.all([writeFile(join(folder, 'namespace'), 'mine'), writeFile(join(folder, 'token'), 't')]);
    const inPod = { KUBERNETES_SERVICE_HOST: 'fd00::1', KUBERNETES_SERVICE_PORT: '6443' };
    const access = await clusterAccess({}, { clock, environment: inPod, accountFolder: folder });
    expect(access).toEqual({
      server: 'https://[fd00::1]:6443',
      tls: { caFile: join(folder, 'ca.crt') },
      bearer: `file:${join(folder, 'token')}`,
      namespace: 'mine',
    });
  });

  test('several files are one, and the first one wins; contexts have a namespace', async () => {
    const [first, second] = [join(folder, 'one'), join(folder, 'two')];
    await writeFile(first, JSON.stringify({ 'current-context': 'test', users: [{ name: 'test', user: { token: 'first' } }] }));
    await writeFile(second, kubeconfigFor({ server: 'https://example.org', token: 'second', namespace: 'theirs' }));
    const { bearer, ...access } = await clusterAccess(
      {},
      { clock, environment: { KUBECONFIG: `${first}:${second}:${join(folder, 'none')}` } },
    );
    expect(access).toEqual({ server: 'https://example.org', tls: {}, namespace: 'theirs' });
    expect(typeof bearer === 'function' && bearer()).toBe('first');
    const missing = clusterAccess({ context: 'other' }, { clock, environment: { KUBECONFIG: second } });
    expect(await failureOf(missing)).toMatchObject({
      code: 'CREDENTIALS_MISSING',
      message: expect.stringContaining('no context other') as string,
    });
  });

  test('options are checked', () => {
    const made: unknown[] = [];
    const refuse =
      (options: unknown): (() => void) =>
      () =>
        kubernetesPlugin.register({
          executor: () => {},
          deployer: (factory) => void made.push(factory(options, { clock, telemetry: undefined as never })),
          backend: () => {},
          host: () => {},
          queue: () => {},
        });
    expect(refuse({ namspace: 'x' })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }) as Error);
    expect(refuse({ namespace: 'Not a label' })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }) as Error);
    refuse({ namespace: 'functions', image: 'node:24-slim', cpu: '250m' })();
    expect(made).toHaveLength(1);
  });
});

describe('programs', () => {
  function program(healthPort: number, word: string): ProgramSpec {
    const source = `import { createServer } from 'node:http';
import { word } from './lib/word.mjs';
const server = createServer((request, response) => response.end('ok')).listen(${healthPort}, '127.0.0.1');
console.log(word, process.argv[2], process.env.SETTING, process.env.KEY.length);
process.on('SIGTERM', () => server.close());
`;
    return {
      name: 'runner',
      files: { 'main.mjs': Buffer.from(source), 'lib/word.mjs': Buffer.from(`export const word = ${JSON.stringify(word)};`) },
      args: ['main.mjs', '--flag'],
      environment: { SETTING: 'set' },
      secrets: { KEY: 'env:RUNNER_KEY' },
      memoryMb: 256,
      healthPort,
    };
  }

  test('run, are replaced, tell what they say, and end', async () => {
    const { emulator, kubeconfig } = await start('eager');
    const host = new KubernetesMachineHost({ kubeconfig, storage: '1Gi' }, { clock, environment: { RUNNER_KEY: 'sesame' } });
    closing.push(() => host.close());
    const port = await reservedPort();
    const planned = await host.run(program(port, 'first'), { dryRun: true });
    expect([planned.machine, emulator.store.objects.size]).toEqual([undefined, 0]);
    const { machine, changes } = await host.run(program(port, 'first'));
    expect(machine).toMatchObject({ name: 'runner', status: 'running', id: 'default/bpr-runner' });
    expect(changes.map(({ resource }) => resource)).toEqual(['Secret', 'ConfigMap', 'PersistentVolumeClaim', 'program']);
    expect(planned.changes).toEqual(changes);
    for (const object of emulator.store.objects.values()) expect(JSON.stringify(object)).not.toContain('sesame');
    const [again, listed] = [await host.run(program(port, 'first')), await all(host.list())];
    expect([again.changes, listed.map(({ name, status }) => `${name} ${status}`)]).toEqual([[], ['runner running']]);
    expect((await all(host.logs('runner'))).map(({ message }) => message)).toEqual(['first --flag set 6']);
    const replaced = await host.run(program(port, 'second'));
    expect(replaced.changes.map(({ action, resource }) => `${action} ${resource}`)).toEqual(['create ConfigMap', 'update program']);
    expect(replaced.machine?.specSha256).not.toBe(machine?.specSha256);
    expect((await all(host.logs('runner'))).map(({ message }) => message)).toEqual(['second --flag set 6']);
    expect(emulator.store.of('ConfigMap')).toHaveLength(1);
    expect((await host.terminate('runner')).changes).toHaveLength(1);
    expect([await host.describe('runner'), (await host.terminate('runner')).changes]).toEqual([undefined, []]);
    // Its data outlives it.
    expect([...emulator.store.objects.values()].map(({ kind }) => kind)).toEqual(['PersistentVolumeClaim']);
  });

  test('what others made is left alone', async () => {
    const { emulator, kubeconfig } = await start();
    const host = new KubernetesMachineHost({ kubeconfig }, { clock, environment: { RUNNER_KEY: 'sesame' } });
    closing.push(() => host.close());
    emulator.makeForeign('bpr-runner');
    expect(await failureOf(host.run(program(1, 'x')))).toMatchObject({ code: 'RESOURCE_FOREIGN' });
    expect(await failureOf(host.terminate('runner'))).toMatchObject({ code: 'RESOURCE_FOREIGN' });
    expect(await host.describe('runner')).toMatchObject({ status: 'foreign' });
    expect(emulator.store.objects.size).toBe(1);
  });
});

describe('kubectl', () => {
  /** It sends no token over a connection that others can read. */
  const SECURE = { isSecure: true };
  const kubectl = async (kubeconfig: string, ...args: readonly string[]): Promise<string> => {
    const { stdout } = await promisify(execFile)('kubectl', ['--kubeconfig', kubeconfig, `--cache-dir=${join(folder, 'cache')}`, ...args], {
      timeout: 30_000,
    });
    return stdout;
  };

  testKubectl('sees what was deployed, and deletes all of it with its Secret', async () => {
    const { emulator, kubeconfig, deployer } = await start('lazy', SECURE);
    await deployer().deploy('count', echo(), { memoryMb: 256, schedules: FULL.schedules ?? [] });
    const deployment = JSON.parse(await kubectl(kubeconfig, 'get', 'deploy', 'count', '-o', 'json')) as { spec: unknown; status: unknown };
    expect(deployment).toMatchObject({ kind: 'Deployment', spec: { replicas: 1 }, status: { availableReplicas: 1 } });
    const listed = await kubectl(kubeconfig, 'get', 'cronjobs', '-l', 'app.kubernetes.io/managed-by=blueprint-runner', '-o', 'name');
    expect(listed.trim().split('\n')).toHaveLength(2);
    await deployer().invoke('count', Buffer.from('{"hello":1}'));
    expect(await kubectl(kubeconfig, 'logs', emulator.pods()[0]?.name ?? '')).toContain('got 11');
    await kubectl(kubeconfig, 'delete', 'secret', 'count', '--wait=false');
    expect([...emulator.store.objects.keys()]).toEqual([]);
    expect(await deployer().describe('count')).toBeUndefined();
  });

  testKubectl('applies the manifests of an export, which the deployer then takes over', async () => {
    const { emulator, kubeconfig, deployer } = await start('eager', SECURE);
    const config: FunctionConfig = { memoryMb: 256, environment: { COLOUR: 'blue' } };
    const file = join(folder, 'all.yaml');
    await writeFile(file, toYaml(manifestsOf({ name: 'count', namespace: 'default', config, pods: {} }, echo())));
    const applied = await kubectl(kubeconfig, 'apply', '--server-side', '--validate=false', '-f', file);
    expect(applied.trim().split('\n')).toHaveLength(4);
    expect(await deployer().describe('count')).toMatchObject({ sha256: echo().sha256, config });
    const { state } = await deployer().deploy('count', echo(), { environment: { COLOUR: 'blue' } });
    expect(state).toMatchObject({ status: 'active', sha256: echo().sha256 });
    expect(JSON.parse(Buffer.from((await deployer().invoke('count', Buffer.from('{}'))).body).toString())).toEqual({ tag: 'a', got: 2 });
    expect(emulator.store.of('Deployment')).toHaveLength(1);
  });

  testKubectl('is told of a field of the deployer that it would change', async () => {
    const { kubeconfig, deployer } = await start('lazy', SECURE);
    await deployer().deploy('count', echo(), { memoryMb: 256 });
    const file = join(folder, 'all.yaml');
    await writeFile(file, toYaml(manifestsOf({ name: 'count', namespace: 'default', config: { memoryMb: 512 }, pods: {} }, echo())));
    const error = await failureOf(kubectl(kubeconfig, 'apply', '--server-side', '--validate=false', '-f', file));
    expect(error.message).toContain('conflict with "blueprint-runner"');
  });
});
