/** Functions in pods: from the function runtime through the plugin to an emulated cluster whose pods are sandboxed processes. */

import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KubernetesBackend } from '../../plugins/kubernetes/index.ts';
import type { KubernetesBackendOptions } from '../../plugins/kubernetes/index.ts';
import { CIPHER, InstanceHub } from '../../plugins/kubernetes/instance-hub.ts';
import { instancePod, networkPolicies } from '../../plugins/kubernetes/instance-manifests.ts';
import { systemClock as clock } from '../../src/clock.ts';
import { isRunnerError } from '../../src/errors.ts';
import type { RunnerError } from '../../src/errors.ts';
import { fingerprintOf } from '../../src/runtime/fingerprint.ts';
import { FunctionRuntime } from '../../src/runtime/function-runtime.ts';
import type { FunctionVersion, LaunchSpec } from '../../src/runtime/runtime.ts';
import { requirePeer, runs } from '../require.ts';
import { zipOf } from '../support/gateway.ts';
import { startKubernetes } from '../support/kubernetes.ts';
import type { KubernetesEmulator } from '../support/kubernetes.ts';
import { kubeconfigFor } from '../support/kubernetes-config.ts';
import { invalidity, unknownFields } from '../support/kubernetes-schema.ts';

const TOKEN = 'token-of-a-cluster-for-tests';
const SECRET = 'a value that nobody else may read';
const testSandboxed = requirePeer('bwrap', () => runs('bwrap', '--unshare-all', '--ro-bind', '/', '/', 'true'));

let folder: string;
let emulator: KubernetesEmulator;
let kubeconfig: string;
const closing: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kb-'));
  emulator = await startKubernetes({ token: TOKEN });
  kubeconfig = join(folder, 'config');
  writeFileSync(kubeconfig, kubeconfigFor({ server: emulator.url, token: TOKEN }));
});

afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
  await emulator.close();
  rmSync(folder, { recursive: true, force: true });
});

function backendWith(options: KubernetesBackendOptions = {}): KubernetesBackend {
  return new KubernetesBackend({ kubeconfig, address: '127.0.0.1', listen: '127.0.0.1:0', ...options }, { clock, environment: {} });
}

async function runtimeWith(options: KubernetesBackendOptions = {}): Promise<FunctionRuntime> {
  const backend = backendWith(options);
  const runtime = new FunctionRuntime({ backend, folder: join(folder, 'run') });
  closing.push(() => runtime.close().then(() => backend.close()));
  await runtime.start();
  return runtime;
}

function functionOf(source: string, more: Partial<FunctionVersion> = {}): FunctionVersion {
  const path = mkdtempSync(join(folder, 'code-'));
  writeFileSync(join(path, 'index.mjs'), source);
  const fn: Omit<FunctionVersion, 'fingerprint'> = {
    name: 'greet',
    version: '1',
    code: { kind: 'folder', path, sha256: 'c0de' },
    layers: [],
    runtime: 'nodejs24.x',
    handler: 'index.handler',
    memoryMb: 128,
    timeoutMs: 20_000,
    ephemeralMb: 64,
    environment: { WORD: SECRET },
    concurrencyPerInstance: 1,
    network: 'none',
    ...more,
  };
  return { ...fn, fingerprint: fingerprintOf(fn) };
}

const GREET = `export const handler = async ({ name }) => { console.log('greets ' + name); return { hello: name, word: process.env.WORD, uid: process.getuid() }; };`;
const kinds = (): string[] => [...emulator.store.objects.values()].map(({ kind }) => kind).toSorted();

async function failureOf(work: Promise<unknown>): Promise<RunnerError> {
  return work.then(
    () => expect.unreachable('it did not fail'),
    (error: unknown) => (isRunnerError(error) ? error : expect.unreachable(String(error))),
  );
}

describe('functions in pods', () => {
  testSandboxed('answer, write into their log, are reused, and leave nothing', async () => {
    const runtime = await runtimeWith();
    const fn = functionOf(GREET);
    const call = async (name: string): Promise<unknown> => {
      const { body, logTail } = await runtime.invoke(fn, Buffer.from(JSON.stringify({ name })), { awaitLog: true });
      expect(Buffer.from(logTail).toString()).toContain(`greets ${name}`);
      return JSON.parse(Buffer.from(body).toString());
    };
    expect([await call('Ada'), await call('Bob')]).toEqual([
      { hello: 'Ada', word: SECRET, uid: 1_000 },
      { hello: 'Bob', word: SECRET, uid: 1_000 },
    ]);
    expect(runtime.instances()).toHaveLength(1);
    expect(runtime.log('greet').map(({ text }) => text)).toEqual(['greets Ada', 'greets Bob']);
    expect(kinds()).toEqual(['ConfigMap', 'NetworkPolicy', 'NetworkPolicy', 'Pod', 'Secret']);
    // What is secret is in the Secret alone.
    const open = [...emulator.store.objects.values()].filter(({ kind }) => kind !== 'Secret');
    expect(JSON.stringify(open)).not.toContain(SECRET);
    for (const close of closing.splice(0)) await close();
    expect([kinds(), emulator.instances.size]).toEqual([[], 0]);
  });

  testSandboxed('of a version share its package; one that crashes is told as such and replaced', async () => {
    const runtime = await runtimeWith();
    const fn = functionOf(
      `export const handler = async (event) => { if (event.die) process.exit(9); await new Promise((go) => setTimeout(go, 200)); return 1; };`,
    );
    await Promise.all([1, 2].map(() => runtime.invoke(fn, Buffer.from('{}'))));
    expect(kinds().filter((kind) => kind === 'ConfigMap' || kind === 'Pod')).toEqual(['ConfigMap', 'Pod', 'Pod']);
    expect(await failureOf(runtime.invoke(fn, Buffer.from('{"die":1}')))).toMatchObject({ code: 'FUNCTION_CRASHED' });
    const { body } = await runtime.invoke(fn, Buffer.from('{}'));
    expect(Buffer.from(body).toString()).toBe('1');
  });

  testSandboxed('with a layer and a bootstrap of their own', async () => {
    const layer = mkdtempSync(join(folder, 'layer-'));
    writeFileSync(join(layer, 'word.txt'), 'from a layer');
    const fn = functionOf('', { runtime: 'provided.al2023', layers: [{ path: layer, sha256: 'aaaa' }] });
    const path = fn.code.kind === 'folder' ? fn.code.path : '';
    const source = `#!/usr/local/bin/node
const api = 'http://' + process.env.AWS_LAMBDA_RUNTIME_API + '/2018-06-01/runtime/invocation/';
(async () => { for (;;) {
  const next = await fetch(api + 'next');
  await next.text();
  await fetch(api + next.headers.get('lambda-runtime-aws-request-id') + '/response', { method: 'POST', body: JSON.stringify(require('node:fs').readFileSync('/opt/word.txt', 'utf8')) });
} })();`;
    writeFileSync(join(path, 'bootstrap'), source, { mode: 0o755 });
    const runtime = await runtimeWith();
    const { body } = await runtime.invoke(fn, Buffer.from('{}'));
    expect(JSON.parse(Buffer.from(body).toString())).toBe('from a layer');
  });
});

describe('what does not start', () => {
  testSandboxed('because somebody deleted its package starts the next time', async () => {
    const runtime = await runtimeWith();
    const fn = functionOf(`export const handler = () => process.exit(0);`);
    expect(await failureOf(runtime.invoke(fn, Buffer.from('{}')))).toMatchObject({ code: 'FUNCTION_CRASHED' });
    const name = emulator.store.of('ConfigMap')[0]?.metadata.name;
    const headers = { authorization: `Bearer ${TOKEN}` };
    await fetch(`${emulator.url}/api/v1/namespaces/default/configmaps/${name}`, { method: 'DELETE', headers });
    expect(kinds()).not.toContain('ConfigMap');
    expect(await failureOf(runtime.invoke(fn, Buffer.from('{}')))).toMatchObject({ code: 'INSTANCE_START_FAILED' });
    expect(await failureOf(runtime.invoke(fn, Buffer.from('{}')))).toMatchObject({ code: 'FUNCTION_CRASHED' });
  });

  testSandboxed('an image that nobody has is told at once, and nothing is left of the pod', async () => {
    const runtime = await runtimeWith({ image: 'missing/node:1' });
    const error = await failureOf(runtime.invoke(functionOf(GREET), Buffer.from('{}')));
    expect(error).toMatchObject({
      code: 'INSTANCE_START_FAILED',
      message: expect.stringContaining('ImagePullBackOff: Back-off pulling image "missing/node:1"') as string,
    });
    expect(kinds()).not.toContain('Pod');
    expect(kinds()).not.toContain('Secret');
  });

  testSandboxed('an image function, and a cluster that nobody knows', async () => {
    const backend = backendWith({ kubeconfig: join(folder, 'none') });
    closing.push(() => backend.close());
    expect(await backend.unavailable()).toMatch(/^there is no kubeconfig at /);
    const away = backendWith();
    closing.push(() => away.close());
    writeFileSync(kubeconfig, kubeconfigFor({ server: emulator.url, token: 'another' }));
    expect(await away.unavailable()).toMatch(/does not know who asks/);
    writeFileSync(kubeconfig, kubeconfigFor({ server: emulator.url, token: TOKEN }));
    const runtime = await runtimeWith();
    const image = functionOf('', { code: { kind: 'image', uri: 'registry/app:1' } });
    expect(await failureOf(runtime.invoke(image, Buffer.from('{}')))).toMatchObject({ code: 'RUNTIME_UNSUPPORTED' });
  });
});

/** A process of its own that keeps one instance warm. */
const OWNER = `
const [modules, kubeconfig, folder, code] = process.argv.slice(1);
const { KubernetesBackend } = await import(modules + '/plugins/kubernetes/index.ts');
const { FunctionRuntime } = await import(modules + '/src/runtime/function-runtime.ts');
const { systemClock } = await import(modules + '/src/clock.ts');
const backend = new KubernetesBackend({ kubeconfig, address: '127.0.0.1', listen: '127.0.0.1:0' }, { clock: systemClock, environment: {} });
const runtime = new FunctionRuntime({ backend, folder });
await runtime.start();
await runtime.warm(JSON.parse(code), 1);
console.log('warm');
setInterval(() => {}, 1000);
`;

/** Which timer each connection at this port has, as the kernel tells it: 02 asks the other side now and then whether it is there. */
async function timersAt(port: number): Promise<string[]> {
  const at = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  const rows = (await readFile('/proc/net/tcp', 'utf8')).split('\n').map((line) => line.trim().split(/\s+/));
  return rows
    .filter(([, local = '', remote = '', state]) => state === '01' && (local.endsWith(at) || remote.endsWith(at)))
    .map(([, , , , , timer = '']) => timer.slice(0, 2));
}

describe('an owner that is killed', () => {
  testSandboxed('with its machine says nothing: both sides ask now and then whether the other is there', async () => {
    const runtime = await runtimeWith();
    await runtime.warm(functionOf(GREET), 1);
    const secret = emulator.store.of('Secret')[0]?.['data'] as { 'instance.json': string };
    const { port } = JSON.parse(Buffer.from(secret['instance.json'], 'base64').toString()) as { port: number };
    // Control and one call that waits, each seen from both sides.
    await expect.poll(() => timersAt(port)).toEqual(['02', '02', '02', '02']);
  });

  testSandboxed('leaves pods that end by themselves, and what is left is reaped; pods of others are not touched', async () => {
    const foreign = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'foreign' },
      spec: { containers: [{ name: 'a', image: 'node:24', command: ['sleep', '60'] }] },
    };
    const created = await fetch(`${emulator.url}/api/v1/namespaces/default/pods?fieldManager=somebody`, {
      method: 'POST',
      headers: { authorization: `Bearer ${TOKEN}` },
      body: JSON.stringify(foreign),
    });
    expect(created.status).toBe(201);
    const place = join(folder, 'run');
    const args = [join(import.meta.dirname, '../..'), kubeconfig, place, JSON.stringify(functionOf(GREET))];
    const owner = spawn(process.execPath, ['--input-type=module', '-e', OWNER, '--', ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(owner.stdout, 'data');
    const name = [...emulator.instances.keys()].find((each) => each !== 'foreign') ?? '';
    const ended = emulator.instances.get(name)?.ended;
    owner.kill('SIGKILL');
    await ended;
    expect(emulator.store.find('Pod', 'default', name)).toMatchObject({ status: { phase: 'Failed' } });
    expect(kinds()).toContain('Secret');
    await runtimeWith();
    expect(kinds()).toEqual(['Pod']);
    expect([...emulator.instances.keys()]).toEqual(['foreign']);
    expect(emulator.store.find('Pod', 'default', 'foreign')).toMatchObject({ status: { phase: 'Running' } });
  });

  testSandboxed('with another owner at work: his pods go on', async () => {
    const runtime = await runtimeWith();
    const fn = functionOf(GREET);
    await runtime.warm(fn, 1);
    const other = backendWith();
    closing.push(() => other.close());
    expect(await other.reapStale('somebody-else')).toBe(0);
    await runtime.invoke(fn, Buffer.from('{"name":"x"}'));
    expect(runtime.instances()).toHaveLength(1);
  });
});

describe('the port for instances', () => {
  testSandboxed('turns strangers away: without a key, with a wrong one, with that of another instance', async () => {
    const backend = backendWith();
    const runtime = new FunctionRuntime({ backend, folder: join(folder, 'run') });
    closing.push(() => runtime.close().then(() => backend.close()));
    await runtime.start();
    await runtime.warm(functionOf(GREET), 1);
    const secret = emulator.store.of('Secret')[0]?.['data'] as { 'instance.json': string };
    const { port, key, identity } = JSON.parse(Buffer.from(secret['instance.json'], 'base64').toString()) as {
      port: number;
      key: string;
      identity: string;
    };
    const dial = (psk: Buffer, who: string, purpose: string): Promise<string> =>
      new Promise((resolve) => {
        const versions = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' } as const;
        const pskCallback = (): { psk: Buffer; identity: string } => ({ psk, identity: who });
        const socket = connect({
          host: '127.0.0.1',
          port,
          ciphers: CIPHER,
          ...versions,
          pskCallback,
          checkServerIdentity: () => undefined,
        });
        socket.once('secureConnect', () => socket.write(purpose));
        socket.once('data', () => {
          socket.destroy();
          resolve('answered');
        });
        socket.once('error', () => resolve('refused'));
        socket.once('close', () => resolve('closed'));
      });
    const right = Buffer.from(key, 'base64');
    const next = 'api\nGET /2018-06-01/runtime/nothing HTTP/1.1\r\nhost: a\r\n\r\n';
    expect(await dial(right, identity, next)).toBe('answered');
    expect(await dial(Buffer.alloc(32, 1), identity, next)).toBe('refused');
    expect(await dial(right, 'another', next)).toBe('refused');
    // One agent speaks for an instance.
    expect(await dial(right, identity, 'control\n')).toBe('closed');
    const plain = await fetch(`http://127.0.0.1:${port}/`).then(
      () => 'answered',
      () => 'refused',
    );
    expect(plain).toBe('refused');
    await runtime.invoke(functionOf(GREET), Buffer.from('{"name":"x"}'));
  });
});

describe('an instance that floods its owner with output', () => {
  it('is slowed down', async () => {
    const hub = new InstanceHub(clock);
    const key = randomBytes(32);
    let bytes = 0;
    const link = {
      key,
      socketPath: '',
      started() {},
      output: (_: string, chunk: Buffer) => void (bytes += chunk.length),
      ended() {},
      lost() {},
    };
    hub.expect('flood', link);
    const port = await hub.open('127.0.0.1', 0);
    const socket = connect({
      host: '127.0.0.1',
      port,
      ciphers: CIPHER,
      minVersion: 'TLSv1.2',
      maxVersion: 'TLSv1.2',
      pskCallback: () => ({ psk: key, identity: 'flood' }),
      checkServerIdentity: () => undefined,
    });
    closing.push(
      async () => void socket.destroy(),
      () => hub.close(),
    );
    socket.on('error', () => {});
    await once(socket, 'secureConnect');
    const frame = Buffer.alloc(5 + 65_536);
    frame[0] = 1;
    frame.writeUInt32BE(65_536, 1);
    const flood = (): void => {
      while (socket.write(frame)) void 0;
    };
    socket.write('control\n');
    socket.on('drain', flood);
    flood();
    await expect.poll(() => bytes).toBeGreaterThan(0);
    const [before, startedAt] = [bytes, performance.now()];
    await clock.sleep(1_500);
    const perSecond = ((bytes - before) * 1_000) / (performance.now() - startedAt);
    expect(perSecond).toBeGreaterThan(100_000);
    expect(perSecond).toBeLessThan(8_000_000);
  });
});

describe('manifests', () => {
  const origin = { ownerId: 'owner', bootId: 'boot', namespace: 'default' };

  testSandboxed('of instances are valid, restricted, and their /tmp is in memory', () => {
    const fn = functionOf(GREET);
    // No more of it is read.
    const spec = { instanceId: 'one', fn } as LaunchSpec;
    const code = { sha256: 'a'.repeat(64), maps: ['code-0'], hasLayers: true };
    const options = { image: 'registry/node:24', cpu: '50m', cpuMax: '2', imagePullSecrets: ['registry'] };
    const pod = instancePod(
      { origin, spec, code, options },
      { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'bpr-one', uid: 'uid' } },
    );
    expect([invalidity(pod), unknownFields(pod)]).toEqual([undefined, []]);
    const security = { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } };
    expect(pod).toMatchObject({
      metadata: { labels: { 'blueprint-runner.dev/owner': 'owner', 'blueprint-runner.dev/network': 'none' } },
      spec: {
        automountServiceAccountToken: false,
        restartPolicy: 'Never',
        securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
        initContainers: [{ image: 'registry/node:24', securityContext: security }],
        containers: [
          {
            image: 'registry/node:24',
            securityContext: security,
            resources: { requests: { cpu: '50m' }, limits: { cpu: '2', memory: '256Mi' } },
          },
        ],
        volumes: expect.arrayContaining([{ name: 'tmp', emptyDir: { medium: 'Memory', sizeLimit: '64Mi' } }]) as unknown,
      },
    });
  });

  testSandboxed('of policies let nobody in, and an instance without network out to its owner alone', () => {
    const policies = networkPolicies(origin, { host: '10.0.0.7', port: 9_443 });
    for (const each of policies) expect([invalidity(each), unknownFields(each)]).toEqual([undefined, []]);
    expect(policies.map(({ spec }) => spec)).toMatchObject([
      {
        policyTypes: ['Ingress', 'Egress'],
        egress: [{ to: [{ ipBlock: { cidr: '10.0.0.7/32' } }], ports: [{ protocol: 'TCP', port: 9_443 }] }],
      },
      { policyTypes: ['Ingress'] },
    ]);
    expect(JSON.stringify(policies)).not.toContain('"ingress":');
    const [named] = networkPolicies(origin, { host: 'runner.example.org', port: 9_443 });
    expect(named).toMatchObject({
      spec: { egress: [{ ports: [{ port: 9_443 }] }, { ports: [{ protocol: 'UDP', port: 53 }, { port: 53 }] }] },
    });
  });
});

describe('the command line', () => {
  const bpr = async (...args: readonly string[]): Promise<string> => {
    const env = { ...process.env, KUBECONFIG: join(folder, 'none') };
    const file = join(import.meta.dirname, '../../src/cli/main.ts');
    const program = `const { main } = await import(${JSON.stringify(file)}); process.exitCode = await main(process.argv.slice(1));`;
    const line = ['--no-warnings', '--input-type=module', '-e', program, '--', ...args];
    const { stdout, stderr } = await promisify(execFile)(process.execPath, line, { env, cwd: folder }).catch(
      (error: { stdout: string; stderr: string }) => error,
    );
    return stdout + stderr;
  };

  testSandboxed(
    'serves functions from pods: bpr gateway --backend kubernetes',
    async () => {
      const options = ['address=127.0.0.1', 'listen=127.0.0.1:0', `kubeconfig=${kubeconfig}`].flatMap((each) => [
        '--backend-option',
        `kubernetes.${each}`,
      ]);
      const file = join(import.meta.dirname, '../../src/cli/main.ts');
      const program = `const { main } = await import(${JSON.stringify(file)}); process.exitCode = await main(process.argv.slice(1));`;
      const line = ['gateway', '--backend', 'kubernetes', ...options, '--port', '0', '--data-dir', join(folder, 'g'), '--json'];
      const gateway = spawn(process.execPath, ['--no-warnings', '--input-type=module', '-e', program, '--', ...line], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const ended = once(gateway, 'exit');
      closing.push(async () => {
        gateway.kill('SIGTERM');
        await ended;
      });
      const [said] = (await once(gateway.stdout, 'data')) as [Buffer];
      const { url, backends } = JSON.parse(said.toString()) as { url: string; backends: string[] };
      expect(backends).toEqual(['kubernetes']);
      const zip = zipOf({ 'index.mjs': GREET });
      const put = await fetch(`${url}/api/v1/functions/greet?runtime=nodejs24.x&handler=index.handler`, {
        method: 'PUT',
        body: new Uint8Array(zip),
      });
      expect(put.ok).toBe(true);
      const answer = await fetch(`${url}/api/v1/functions/greet/invoke`, { method: 'POST', body: '{"name":"Ada"}' });
      expect(await answer.json()).toMatchObject({ hello: 'Ada', uid: 1_000 });
      expect(emulator.instances.size).toBe(1);
      gateway.kill('SIGTERM');
      expect(await ended).toEqual([0, null]);
      expect(kinds()).toEqual([]);
    },
    240_000,
  );

  testSandboxed(
    'names the backend with its reason when there is no cluster',
    async () => {
      const { checks } = JSON.parse((await bpr('doctor', '--json')).replace(/^[^{]*/, '')) as {
        checks: { name: string; status: string; detail: string }[];
      };
      expect(checks.find(({ name }) => name === 'backend kubernetes')).toMatchObject({
        status: 'warn',
        detail: expect.stringMatching(/^there is no kubeconfig at /) as string,
      });
      const report = await bpr('conformance', '--backend', 'kubernetes', '--vector', 'every byte', '--json');
      expect(report).toMatch(/there is no kubeconfig at /);
      expect(await bpr('gateway', '--backend', 'kubernetes', '--port', '0', '--data-dir', 'g')).toMatch(/there is no kubeconfig at /);
    },
    240_000,
  );
});
