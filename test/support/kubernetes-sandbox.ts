/**
 * Pods for tests that are more than processes: a root of their own, their mounts where they say, their own process ids and user, killed with all
 * that they started, and when they use more memory than their limit. By bubblewrap; the network is that of this machine.
 */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DataOf, Volume } from './kubernetes-pods.ts';

interface SandboxedContainer {
  readonly name: string;
  readonly image: string;
  readonly command: readonly string[];
  readonly env?: readonly { readonly name: string; readonly value?: string }[];
  readonly resources?: { readonly limits?: { readonly memory?: string } };
  readonly securityContext?: { readonly readOnlyRootFilesystem?: boolean };
  readonly volumeMounts?: readonly {
    readonly name: string;
    readonly mountPath: string;
    readonly subPath?: string;
    readonly readOnly?: boolean;
  }[];
}

export interface SandboxedSpec {
  readonly initContainers?: readonly SandboxedContainer[];
  readonly containers: readonly SandboxedContainer[];
  readonly volumes?: readonly (Volume & { readonly emptyDir?: { readonly medium?: string; readonly sizeLimit?: string } })[];
  readonly securityContext?: { readonly runAsUser?: number; readonly runAsGroup?: number };
}

interface End {
  readonly exitCode: number;
  readonly reason: string;
}

const MISSING_IMAGE = /^missing\//;
const BWRAP = 'bwrap';
const MIB = 1_024 * 1_024;
const LOOK_MS = 20;
const PAGE_BYTES = 4_096;

export class SandboxedPod {
  readonly #spec: SandboxedSpec;
  readonly #dataOf: DataOf;
  readonly #say: (status: object) => void;
  readonly #logs = new Map<string, string[]>();
  readonly #folder = mkdtempSync(join(tmpdir(), 'pod-'));
  readonly #over = Promise.withResolvers<void>();
  #child: ChildProcess | undefined;
  #isStopping = false;

  constructor(spec: SandboxedSpec, { dataOf, say }: { readonly dataOf: DataOf; readonly say: (status: object) => void }) {
    this.#spec = spec;
    this.#dataOf = dataOf;
    this.#say = say;
    chmodSync(this.#folder, 0o755);
  }

  log(container: string | null): string {
    return (this.#logs.get(container ?? this.#spec.containers[0]?.name ?? '') ?? []).join('');
  }

  /** Nothing of it runs any more. */
  get ended(): Promise<void> {
    return this.#over.promise;
  }

  async run(): Promise<void> {
    try {
      await this.#run();
    } catch (error) {
      this.#say({
        phase: 'Failed',
        containerStatuses: [this.#status({ waiting: { reason: 'CreateContainerError', message: String(error) } })],
      });
    } finally {
      this.#over.resolve();
    }
  }

  /** SIGTERM, and by force after what a test waits for. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    // The sandbox takes all that is in it along.
    this.#child?.kill('SIGKILL');
    await this.#over.promise;
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #run(): Promise<void> {
    const [container] = this.#spec.containers;
    if (!container) throw new Error('a pod without containers');
    this.#say({ phase: 'Pending', containerStatuses: [this.#status({ waiting: { reason: 'ContainerCreating' } })] });
    const missing = [...(this.#spec.initContainers ?? []), container].find(({ image }) => MISSING_IMAGE.test(image));
    if (missing) {
      const message = `Back-off pulling image ${JSON.stringify(missing.image)}`;
      return this.#say({ phase: 'Pending', containerStatuses: [this.#status({ waiting: { reason: 'ImagePullBackOff', message } })] });
    }
    for (const each of this.#spec.initContainers ?? []) {
      const { exitCode, reason } = await this.#runContainer(each);
      if (exitCode === 0) continue;
      const terminated = { exitCode, reason };
      return this.#say({
        phase: 'Failed',
        initContainerStatuses: [{ name: each.name, state: { terminated } }],
        containerStatuses: [this.#status({ waiting: { reason: 'PodInitializing' } })],
      });
    }
    this.#say({ phase: 'Running', containerStatuses: [this.#status({ running: {} })] });
    const terminated = await this.#runContainer(container);
    return this.#say({ phase: terminated.exitCode === 0 ? 'Succeeded' : 'Failed', containerStatuses: [this.#status({ terminated })] });
  }

  #status(state: object): object {
    const [{ name, image } = { name: '', image: '' }] = this.#spec.containers;
    return { name, image, ready: 'running' in state, restartCount: 0, state };
  }

  #runContainer(container: SandboxedContainer): Promise<End> {
    if (this.#isStopping) return Promise.resolve({ exitCode: 137, reason: 'Error' });
    const [command = '', ...args] = container.command;
    const env = Object.fromEntries((container.env ?? []).map(({ name, value = '' }) => [name, value]));
    const child = spawn(BWRAP, [...this.#sandbox(container), command, ...args], {
      env: { PATH: '/usr/local/bin:/usr/bin:/bin', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    const lines: string[] = [];
    this.#logs.set(container.name, lines);
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data: Buffer) => void lines.push(data.toString('utf8')));
    const limit = Number(/^(\d+)Mi$/.exec(container.resources?.limits?.memory ?? '')?.[1] ?? Number.POSITIVE_INFINITY) * MIB;
    let isKilled = false;
    const watch = setInterval(() => {
      if (residentBytes(child.pid) <= limit) return;
      isKilled = true;
      child.kill('SIGKILL');
    }, LOOK_MS);
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) => {
        clearInterval(watch);
        const exitCode = code ?? 137;
        resolve({ exitCode, reason: isKilled ? 'OOMKilled' : exitCode === 0 ? 'Completed' : 'Error' });
      });
    });
  }

  #sandbox({ volumeMounts = [], securityContext = {} }: SandboxedContainer): readonly string[] {
    const { runAsUser = 0, runAsGroup = 0 } = this.#spec.securityContext ?? {};
    const mounts = volumeMounts.flatMap(({ name, mountPath, subPath, readOnly = false }) => {
      const volume = this.#spec.volumes?.find((each) => each.name === name);
      if (!volume) throw new Error(`there is no volume ${name}`);
      if (volume.emptyDir?.medium === 'Memory') {
        const mib = Number(/^(\d+)Mi$/.exec(volume.emptyDir.sizeLimit ?? '')?.[1] ?? 64);
        return ['--size', String(mib * MIB), '--tmpfs', mountPath];
      }
      const place = join(this.#folder, name, subPath ?? '');
      this.#fill(volume, join(this.#folder, name));
      mkdirSync(place, { recursive: true });
      return [readOnly ? '--ro-bind' : '--bind', place, mountPath];
    });
    const links = ['bin', 'lib', 'lib64', 'sbin'].flatMap((name) => ['--symlink', `usr/${name}`, `/${name}`]);
    return [
      '--unshare-user',
      '--unshare-pid',
      '--unshare-ipc',
      '--die-with-parent',
      '--new-session',
      '--cap-drop',
      'ALL',
      '--uid',
      String(runAsUser),
      '--gid',
      String(runAsGroup),
      '--ro-bind',
      '/usr',
      '/usr',
      ...links,
      '--ro-bind',
      '/etc',
      '/etc',
      '--proc',
      '/proc',
      '--dev',
      '/dev',
      '--tmpfs',
      '/usr/local/bin',
      '--ro-bind',
      process.execPath,
      '/usr/local/bin/node',
      ...mounts,
      ...(securityContext.readOnlyRootFilesystem ? ['--remount-ro', '/', '--remount-ro', '/usr/local/bin'] : []),
      '--chdir',
      '/',
      '--',
    ];
  }

  /** What is in a ConfigMap or a Secret is a file by its key. */
  #fill(volume: Volume, folder: string): void {
    mkdirSync(folder, { recursive: true });
    const write = (path: string, bytes: Buffer | undefined): void => {
      if (!bytes) throw new Error(`there is nothing for ${path}`);
      writeFileSync(join(folder, path), bytes, { mode: 0o644 });
    };
    for (const { configMap } of volume.projected?.sources ?? [])
      for (const { key, path } of configMap.items) write(path, this.#dataOf('ConfigMap', configMap.name)?.get(key));
    if (!volume.secret) return;
    const data = this.#dataOf('Secret', volume.secret.secretName);
    if (!data) throw new Error(`there is no Secret ${volume.secret.secretName}`);
    for (const [key, bytes] of data) write(key, bytes);
  }
}

/** Of a process and all below it. */
function residentBytes(root: number | undefined): number {
  if (root === undefined) return 0;
  const parents = new Map<number, number>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const stat = read(`/proc/${name}/stat`);
    parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]));
  }
  const isBelow = (pid: number): boolean => pid === root || (pid > 1 && isBelow(parents.get(pid) ?? 0));
  const pids = [...parents.keys()].filter(isBelow);
  return pids.reduce((sum, pid) => sum + Number(read(`/proc/${pid}/statm`).split(' ')[1] ?? 0) * PAGE_BYTES, 0);
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
