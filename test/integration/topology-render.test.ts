/** What `bpr topology render` writes, as its readers take it: the schemas of Kubernetes, systemd, shells, and Docker, which runs a job with it. */

import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it, onTestFinished } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { TOPOLOGY_OPTIONS } from '../../src/topology/topology.ts';
import type { TopologyOption } from '../../src/topology/topology.ts';
import { requirePeer, runs } from '../require.ts';
import { testDocker } from '../support/container-engine.ts';
import { invalidity, unknownFields } from '../support/kubernetes-schema.ts';
import { SquaringJobs, bpr, squaringModule } from '../support/topology.ts';

const testSystemd = requirePeer('systemd-analyze', () => runs('systemd-analyze', '--version'));
const run = promisify(execFile);

/** Of so many workers. */
async function rendered(option: TopologyOption, format: string, workers = 3): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'tr-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const flags = ['--option', option, '--workers', String(workers), '--format', format, '--out', folder, '--json'];
  expect(await bpr('topology', 'render', ...flags)).toMatchObject({ status: 0 });
  return folder;
}

interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly spec: {
    readonly replicas?: number;
    readonly selector?: { readonly matchLabels?: unknown };
    readonly template?: {
      readonly metadata: { readonly labels: unknown };
      readonly spec: { readonly containers: readonly { readonly name: string }[] };
    };
  };
}

describe('bpr topology render', () => {
  it.each(TOPOLOGY_OPTIONS)('option %s as manifests that Kubernetes knows, and a script that a shell can read', async (option) => {
    const folder = await rendered(option, 'kubernetes');
    const manifests = parseAllDocuments(readFileSync(join(folder, 'manifests.yaml'), 'utf8')).map((one) => one.toJS() as Manifest);
    expect(manifests.length).toBeGreaterThan(4);
    for (const manifest of manifests)
      expect([manifest.kind, manifest.metadata.name, invalidity(manifest), unknownFields(manifest)]).toEqual([
        manifest.kind,
        manifest.metadata.name,
        undefined,
        [],
      ]);
    const deployments = manifests.filter(({ kind }) => kind === 'Deployment');
    for (const { spec } of deployments) expect(spec.selector?.matchLabels).toEqual(spec.template?.metadata.labels);
    const containers = deployments.flatMap(({ metadata: { name }, spec: { template, replicas = 1 } }) =>
      (template?.spec.containers ?? []).map((one) => `${name}/${one.name} x ${replicas}`),
    );
    expect(containers).toEqual(
      {
        1: ['control-plane/control-plane x 1', 'worker/worker x 3'],
        2: ['control-plane/control-plane x 1', 'worker/worker x 3'],
        3: [...['control-plane', 'engine-1', 'engine-2', 'engine-3'].map((name) => `${name}/${name} x 1`), 'worker/worker x 3'],
        4: ['control-plane/control-plane x 1', 'worker/worker x 3'],
        hybrid: [
          ...['control-plane', 'engine-1', 'engine-2'].map((name) => `${name}/${name} x 1`),
          'worker/worker x 3',
          'pool-worker/pool-worker x 1',
        ],
      }[option],
    );
    await run('sh', ['-n', join(folder, 'apply.sh')]);
  });

  testSystemd('units that systemd finds nothing wrong with', async () => {
    for (const option of TOPOLOGY_OPTIONS) {
      const folder = await rendered(option, 'systemd');
      const units = readdirSync(folder).filter((name) => /\.(?:service|target)$/.test(name));
      expect(units).toContain('blueprint.target');
      const target = readFileSync(join(folder, 'blueprint.target'), 'utf8');
      expect(target.match(/blueprint-worker@/g)).toHaveLength(3);
      const files = units.map((name) => join(folder, name.replace('@.', '@27288.')));
      const { stdout, stderr } = await run('systemd-analyze', ['verify', '--man=no', ...files]);
      // It warns of what belongs to the machine, too.
      expect(`${stdout}${stderr}`.split('\n').filter((line) => line.includes('blueprint'))).toEqual([]);
      await run('sh', ['-n', join(folder, 'install.sh')]);
    }
  });

  // Two images with node in them are built, without a cache: that takes its time.
  testDocker(
    'containers: the images are built from what is on disk, and a worker on a network without a way out runs jobs on the engine of the control plane',
    async () => {
      const module = await squaringModule();
      const folder = await rendered('4', 'script', 1);
      const prefix = `bpr-topology-${process.pid}`;
      const env = { ...process.env, PREFIX: prefix, NETWORK_FLAGS: '--internal', PUBLISH: '' };
      onTestFinished(async () => {
        await run(join(folder, 'stop-cluster.sh'), ['--purge'], { env });
      });
      const { stdout } = await run(join(folder, 'start-cluster.sh'), [], { env });
      expect(stdout).toContain('option 4: 2 containers run');
      const docker = async (...args: readonly string[]): Promise<string> => (await run('docker', args, { env })).stdout.trim();
      const read = (path: string): Promise<string> =>
        docker('exec', `${prefix}-control-plane`, 'node', '-p', `fs.readFileSync('/data/control/${path}', 'utf8').trim()`);
      const { tlsKeySha256 } = JSON.parse(await read('control.json')) as { tlsKeySha256: string };
      const address = await docker(
        'inspect',
        '--format',
        `{{(index .NetworkSettings.Networks "${prefix}").IPAddress}}`,
        `${prefix}-control-plane`,
      );
      const jobs = await SquaringJobs.connect({ url: `https://${address}:3020`, token: await read('admin.token'), tlsKeySha256 }, module);
      await jobs.done(await jobs.publish({ count: 5, ms: 10, requires: ['engine:shared'] }));
      for (const name of ['control-plane', 'worker-1']) {
        const inspected = JSON.parse(await docker('inspect', `${prefix}-${name}`)) as readonly [
          { readonly Config: { readonly User: string }; readonly HostConfig: Readonly<Record<string, unknown>>; readonly Image: string },
        ];
        expect(inspected[0].Config.User).toBe('993:993');
        expect(inspected[0].HostConfig).toMatchObject({
          ReadonlyRootfs: true,
          CapDrop: ['ALL'],
          SecurityOpt: ['no-new-privileges'],
          PidsLimit: 256,
        });
      }
      // One process of the control plane ends: so does the container, which is started anew.
      const id = await docker('inspect', '--format', '{{.State.StartedAt}}', `${prefix}-control-plane`);
      const killEngine = `for (const pid of fs.readdirSync('/proc')) if (/^\\d+$/.test(pid)) try { const text = fs.readFileSync('/proc/' + pid + '/cmdline', 'utf8'); if (text.includes('bpr.mjs\\0wasm')) process.kill(Number(pid), 'SIGKILL'); } catch { /* It has ended. */ }`;
      // It may be gone with the container before it ends itself.
      await docker('exec', '--detach', `${prefix}-control-plane`, 'node', '-e', killEngine);
      await expect
        .poll(() => docker('inspect', '--format', '{{.State.StartedAt}} {{.State.Running}}', `${prefix}-control-plane`), {
          timeout: 60_000,
        })
        .toMatch(new RegExp(`^(?!${id}).* true$`));
      await jobs.done(await jobs.publish({ count: 3, ms: 10, prefix: 'again' }));
      // A second start leaves nothing of the first one, a second end finds nothing to do.
      const volume = await docker('inspect', '--format', '{{range .Mounts}}{{.Name}}{{end}}', `${prefix}-worker-1`);
      const isThere = (): Promise<string> => docker('volume', 'ls', '--quiet', '--filter', `name=${volume}`);
      expect([volume, await isThere()]).toEqual([expect.stringMatching(/^[0-9a-f]{64}$/), volume]);
      const again = await run(join(folder, 'start-cluster.sh'), [], { env: { ...env, WORKERS: '0' } });
      expect([again.stdout.trim().split('\n').at(-1), await isThere()]).toEqual(['option 4: 1 containers run', '']);
      for (const _ of [1, 2]) await run(join(folder, 'stop-cluster.sh'), ['--purge'], { env });
    },
    600_000,
  );
});
