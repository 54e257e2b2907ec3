import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';
import { temporaryFolder } from '../../test/support/temporary-folders.ts';
import { EmbeddedQueue } from '../queue/embedded.ts';
import { ZIP_LIMITS } from '../runtime/unzip.ts';
import { Worker } from '../worker/worker.ts';
import { TOPOLOGY_FORMATS, renderTopology } from './render.ts';
import type { RenderSettings, TopologyFormat } from './render.ts';
import { TOPOLOGY_OPTIONS } from './topology.ts';
import type { TopologyOption } from './topology.ts';

const settingsOf = (option: TopologyOption): RenderSettings => ({
  option,
  workers: 5,
  version: '1.2.3',
  nodePath: '/usr/bin/node',
  bprPath: '/opt/bpr/bin/bpr.mjs',
});

function rendered(format: TopologyFormat, option: TopologyOption): Readonly<Record<string, string>> {
  return renderTopology(format, settingsOf(option)).files;
}

interface Service {
  readonly image: string;
  readonly build: { readonly context: string; readonly dockerfile: string };
  readonly scale?: number;
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly networks?: readonly string[];
  readonly ports?: readonly string[];
  readonly volumes: readonly string[];
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>;
  readonly healthcheck: Readonly<Record<string, unknown>>;
}

interface Compose {
  readonly services: Readonly<Record<string, Service>>;
  readonly networks: Readonly<Record<string, unknown>>;
  readonly volumes: Readonly<Record<string, unknown>>;
}

const compose = (option: TopologyOption): Compose => parse(rendered('compose', option)['compose.yaml'] ?? '') as Compose;
const engineUrls = ({ services }: Compose, name: string): string | undefined => services[name]?.environment['BPR_WASM_URL'];

/** What a compose file may say of a service: https://github.com/compose-spec/compose-spec/blob/main/05-services.md */
const SERVICE_KEYS = new Set(
  'build cap_drop command cpus depends_on entrypoint environment healthcheck hostname image init logging mem_limit networks pids_limit ports read_only restart scale security_opt stop_grace_period tmpfs ulimits user volumes'.split(
    ' ',
  ),
);

describe('a compose file', () => {
  it.each(TOPOLOGY_OPTIONS)('of option %s closes its containers, waits for health, and names no container', (option) => {
    const { services, networks, volumes } = compose(option);
    expect([Object.keys(networks), Object.keys(volumes)]).toEqual([['blueprint'], ['control-data']]);
    for (const [name, service] of Object.entries(services)) {
      expect(Object.keys(service).filter((key) => !SERVICE_KEYS.has(key))).toEqual([]);
      expect(service).toMatchObject({
        user: '993:993',
        read_only: true,
        cap_drop: ['ALL'],
        security_opt: ['no-new-privileges:true'],
        pids_limit: 256,
        healthcheck: { test: ['CMD', 'node', '/app/health.mjs'], interval: '10s', timeout: '5s', retries: 3 },
      });
      expect(service.environment['BPR_HEALTH']).toMatch(/^https?:\/\/127\.0\.0\.1:\d+\/readyz/);
      if (name === 'control-plane') continue;
      const isWorker = name.includes('worker');
      expect(service.depends_on?.['control-plane']).toEqual(isWorker ? { condition: 'service_healthy' } : undefined);
      expect(service.ports).toBe(undefined);
    }
    expect(services['control-plane']?.volumes).toEqual(['control-data:/data']);
    expect(services['control-plane']?.ports).toEqual(['3020:3020']);
  });

  it('is read by the first Compose, too: what names the project is no part of it', () => {
    const files = rendered('compose', '1');
    expect(Object.keys(compose('1'))).toEqual(['services', 'networks', 'volumes']);
    expect(files['.env']).toBe('COMPOSE_PROJECT_NAME=blueprint-topology\n');
    const script = files['start-cluster.sh'] ?? '';
    expect(script).toContain('if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi');
    // Options of the second alone.
    expect(script).not.toMatch(/--wait\b/);
  });

  it('of option 4 has one engine at the control plane, on the network at 27288, and a service of workers that can be scaled', () => {
    const file = compose('4');
    expect(Object.keys(file.services)).toEqual(['control-plane', 'worker']);
    expect(file.services['control-plane']?.command.join(' ')).toContain('wasm serve --host 0.0.0.0 --port 27288');
    expect(file.services['worker']).toMatchObject({ scale: 5, environment: { CONTROL_PLANE_TICKET: '${CONTROL_PLANE_TICKET:-}' } });
    expect(engineUrls(file, 'worker')).toBe('http://control-plane:27288');
    expect(rendered('compose', '4')['start-cluster.sh']).toContain('--scale worker="${WORKERS:-5}"');
  });

  it('of option 2 has an engine that only the control plane reaches, and workers that know neither its address nor its key', () => {
    const { services } = compose('2');
    const started = services['control-plane']?.command.join(' ');
    expect(started).toContain('--engine http://127.0.0.1:27288 -- wasm serve --host 127.0.0.1 --port 27288');
    expect(Object.keys(services)).toEqual(['control-plane', 'worker']);
    expect(services['worker']).toMatchObject({ scale: 5, networks: ['blueprint'] });
    expect(services['worker']?.command.join(' ')).toContain('--backend engine --capabilities engine:shared');
    expect(Object.keys(services['worker']?.environment ?? {})).toEqual(['BPR_HEALTH', 'CONTROL_PLANE_TICKET']);
    expect(Object.keys(services['control-plane']?.environment ?? {})).toContain('BPR_WASM_TOKEN');
  });

  it('of option 2 as manifests and units: the same', () => {
    const manifests = parseAllDocuments(rendered('kubernetes', '2')['manifests.yaml'] ?? '').map((one) => String(one));
    const of = (name: string): string =>
      manifests.find((text) => text.includes('kind: Deployment') && text.includes(`name: ${name}\n`)) ?? '';
    expect(of('control-plane')).toContain('- --engine');
    expect(of('worker')).toContain('- engine:shared');
    expect(of('worker')).not.toMatch(/BPR_WASM|27288/);
    const units = rendered('systemd', '2');
    expect(units['blueprint-control-plane.service']).toMatch(
      /--engine http:\/\/127\.0\.0\.1:27288\n[^]*EnvironmentFile=\/var\/lib\/blueprint\/engine\.env\n/,
    );
    expect(units['blueprint-worker@.service']).not.toMatch(/BPR_WASM|engine\.env|27288/);
  });

  it('of a package in a folder with any name as units: each path is one word', () => {
    const places = { nodePath: '/opt/my app/node', bprPath: '/opt/100% "mine"/bpr.mjs' };
    const { files } = renderTopology('systemd', { option: '1', workers: 1, version: '1.2.3', ...places });
    expect(files['blueprint-control-plane.service']).toContain(
      'ExecStart="/opt/my app/node" "/opt/100%% \\"mine\\"/bpr.mjs" control-plane --host',
    );
  });

  it('of the others: engines within workers, or as services that workers wait for', () => {
    expect(Object.keys(compose('1').services)).toEqual(['control-plane', 'worker']);
    expect(engineUrls(compose('1'), 'worker')).toBe(undefined);
    const three = compose('3');
    expect(engineUrls(three, 'worker')).toBe('http://engine-1:27288,http://engine-2:27288,http://engine-3:27288');
    expect(Object.keys(three.services['worker']?.depends_on ?? {})).toEqual(['control-plane', 'engine-1', 'engine-2', 'engine-3']);
    expect(Object.keys(compose('hybrid').services)).toEqual(['control-plane', 'engine-1', 'engine-2', 'worker', 'pool-worker']);
    expect(compose('hybrid').services['control-plane']?.command.join(' ')).not.toContain('wasm');
  });
});

/** Runs the script of a format with a docker that only says what it was told; returns that, and the folder. */
function ranScript(format: 'compose' | 'script', name: string, args: readonly string[] = []) {
  const folder = temporaryFolder('render-script');
  for (const [path, text] of Object.entries(rendered(format, '3'))) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text, { mode: path.endsWith('.sh') ? 0o755 : 0o644 });
  }
  const docker = `#!/bin/sh
echo "$*" >>"$DOCKER_TOLD"
case "$*" in
  'network inspect'*) exit 1 ;;
  'ps '*role=worker*) echo w1 w2 ;;
  'ps --all'*) echo c1 ;;
  *'node -p '*) echo bprt1.ticket ;;
esac
`;
  const bin = join(folder, 'fake');
  mkdirSync(bin);
  writeFileSync(join(bin, 'docker'), docker, { mode: 0o755 });
  const told = join(folder, 'told');
  const env = { PATH: `${bin}:${process.env['PATH']}`, DOCKER_TOLD: told, WORKERS: '2' };
  const run = (): string[] => {
    writeFileSync(told, '');
    execFileSync('sh', [join(folder, name), ...args], { env, stdio: 'pipe' });
    return readFileSync(told, 'utf8').trim().split('\n');
  };
  return { folder, run };
}

describe('a script', () => {
  it('of Compose keeps what its file refers to, for whoever uses Compose after it', () => {
    const { folder, run } = ranScript('compose', 'start-cluster.sh');
    run();
    const kept = readFileSync(join(folder, '.env'), 'utf8');
    expect(kept).toMatch(/^COMPOSE_PROJECT_NAME=blueprint-topology\nBPR_WASM_TOKEN=[0-9a-f]{64}\nCONTROL_PLANE_TICKET=bprt1\.ticket\n$/);
    expect(statSync(join(folder, '.env')).mode & 0o777).toBe(0o600);
    const names = new Set([...readFileSync(join(folder, 'compose.yaml'), 'utf8').matchAll(/\$\{(\w+)/g)].map(([, name]) => name));
    expect([...names].filter((name) => !kept.includes(`${name}=`))).toEqual([]);
    run();
    expect(readFileSync(join(folder, '.env'), 'utf8')).toBe(kept);
    expect(readFileSync(join(folder, '.dockerignore'), 'utf8')).toMatch(/^\*\n/);
  });

  it('of docker ends workers before what they report to, each with its volume, and then starts all anew', () => {
    const told = ranScript('script', 'start-cluster.sh').run();
    const at = (text: string): number => told.findIndex((line) => line.startsWith(text));
    const order = ['build', 'stop --time 45 w1 w2', 'rm --force --volumes w1 w2', 'stop --time 45 c1', 'rm --force --volumes c1', 'run'];
    expect(order.map(at)).toEqual(order.map(at).toSorted((left, right) => left - right));
    expect(order.map(at)).not.toContain(-1);
    const started = told.flatMap((line) => /^run .*--name (\S+) .*--label blueprint-role=(\S+)/.exec(line)?.slice(1).join(' ') ?? []);
    expect(started).toEqual([
      'blueprint-control-plane control-plane',
      ...[1, 2, 3].map((number) => `blueprint-engine-${number} engine`),
      ...[1, 2].map((number) => `blueprint-worker-${number} worker`),
    ]);
  });

  it('of docker that ends it can be repeated', () => {
    const told = ranScript('script', 'stop-cluster.sh', ['--purge']).run();
    expect(told.filter((line) => /^(?:stop|rm|volume)/.test(line))).toEqual([
      'stop --time 45 w1 w2',
      'rm --force --volumes w1 w2',
      'stop --time 45 c1',
      'rm --force --volumes c1',
      'volume rm --force blueprint-control-data',
    ]);
  });
});

describe('manifests', () => {
  it('give workers and engines more room than their packages take at most', () => {
    const text = rendered('kubernetes', 'hybrid')['manifests.yaml'] ?? '';
    const sizes = [...text.matchAll(/- name: data\n +emptyDir:\n +sizeLimit: (\d+)Gi\n/g)].map(([, gib]) => Number(gib));
    const packagesGib = 2 + ZIP_LIMITS.unpackedBytesMax / 1024 ** 3;
    expect(sizes.map((gib) => gib > packagesGib)).toEqual([true, true, true, true]);
  });
});

describe('what installs units', () => {
  it('ends those of an earlier size before it starts what is wanted now', () => {
    const script = rendered('systemd', '1')['install.sh'] ?? '';
    expect(script.match(/^systemctl .*$/gm)).toEqual([
      'systemctl stop blueprint.target 2>/dev/null || true',
      'systemctl daemon-reload',
      'systemctl enable --now blueprint.target',
    ]);
  });
});

describe('what is rendered', () => {
  it.each(TOPOLOGY_FORMATS)('as %s has no workers that would refuse their settings', (format) => {
    const at = (concurrency: number) => () => renderTopology(format, { ...settingsOf('3'), concurrency });
    const queue = EmbeddedQueue.open({ folder: temporaryFolder('render-queue') });
    onTestFinished(() => queue.close());
    const handler = { run: () => Promise.resolve({ body: new Uint8Array() }) };
    const workerAt = (concurrency: number) => () => new Worker({ queue, workerId: 'w', handler, concurrency });
    for (const make of [at, workerAt]) {
      for (const good of [1, 1_000]) expect(make(good)).not.toThrow();
      for (const bad of [0, 1.5, 1_001, 5_000]) expect(make(bad)).toThrow(new RegExp(`concurrency.*${bad}`));
    }
  });

  it.each(TOPOLOGY_FORMATS)('as %s is the same each time, sleeps nowhere, and holds no secret', (format) => {
    for (const option of TOPOLOGY_OPTIONS) {
      const files = rendered(format, option);
      expect(rendered(format, option)).toEqual(files);
      for (const [path, text] of Object.entries(files)) {
        expect(path.endsWith('.sh') && /\bsleep\b/.test(text)).toBe(false);
        expect(text).not.toMatch(/bprt1\.|BPR_WASM_TOKEN[=:] ?['"]?[0-9a-f]{16}/);
        if (path.endsWith('.sh')) expect(text).toMatch(/^#!\/bin\/sh\n[^]*\nset -eu\n/);
      }
    }
  });

  it('scripts stop when the ticket is empty', () => {
    const scripts = [
      rendered('compose', '4')['start-cluster.sh'],
      rendered('script', '4')['start-cluster.sh'],
      rendered('kubernetes', '4')['apply.sh'],
    ];
    for (const script of scripts)
      expect(script).toMatch(/if \[ -z "\$\w+" \]; then\n {2}echo 'the control plane has written no ticket' >&2\n {2}exit 1/);
  });

  it('images are built from scratch, as a user without rights', () => {
    const files = rendered('dockerfile', '4');
    for (const name of ['Dockerfile.control-plane', 'Dockerfile.worker'])
      expect(files[name]).toMatch(
        /^FROM scratch\nCOPY root\/ \/[^]*\nUSER 993:993\n[^]*HEALTHCHECK --interval=10s --timeout=5s --retries=3/m,
      );
    expect(files['Dockerfile.control-plane']).toContain('"/app/start.mjs"');
    expect(rendered('dockerfile', '1')['Dockerfile.control-plane']).not.toContain('/app/start.mjs');
  });
});
