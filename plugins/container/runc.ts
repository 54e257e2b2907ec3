/** Instances by `runc`, without a daemon: a third of the time that Docker takes to start one. */

import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { watch } from 'node:fs';
import { access, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { RunnerError, isRunnerError, systemClock } from '../../src/plugin.ts';
import type { Clock, FunctionVersion, Instance, InstanceBackend, InstanceEnd, LaunchSpec } from '../../src/plugin.ts';
import { bundleConfig } from './bundle.ts';
import { Freezer, memoryFolders, memoryOf, oomKillsOf } from './cgroup.ts';
import { LABELS } from './container-options.ts';
import { HostFiles, giveSocket } from './host-files.ts';
import { checkLimits, resourcesOf } from './limits.ts';
import type { InstanceLimits } from './limits.ts';
import { endOf } from './outcome.ts';
import { InstanceOutput } from './output.ts';
import { eventProgram } from './program.ts';
import { INSTANCE_UID } from './rootfs.ts';
import { closedError, guardedStart } from './start-guard.ts';

export interface RuncBackendOptions {
  /** For bundles, the root file system, merged layers, the state of runc. Its own per machine; on tmpfs starts are a little faster. */
  readonly folder: string;
  readonly limits?: InstanceLimits;
  /** Default `runc`, from PATH. Version 1.1 or later. */
  readonly runcPath?: string;
  /** Until an instance runs. Default 60,000. */
  readonly startTimeoutMs?: number;
  /** The node that functions run with. Default: the one that runs this. */
  readonly nodePath?: string;
  readonly clock?: Clock;
}

interface Live {
  readonly child: ChildProcess;
  readonly output: InstanceOutput;
  readonly memoryFolder: string | undefined;
  readonly freezer: Freezer | undefined;
  readonly pid: number;
  isTerminated: boolean;
  isPaused: boolean;
  hasExited: boolean;
}

const PID_FILE = 'pid';
const COMMAND_MS = 20_000;
const HANG_MS = 2_000;
const CLEAN_ENVIRONMENT = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' };

/**
 * Each instance is a container with the same walls as those of the container engine, started by `runc` in the foreground: its exit is the
 * exit of the container. Needs root. Runs `nodejs*` and `provided*` functions from folders; images need an engine. An open network is
 * the network of the machine itself.
 *
 * @example
 * const backend = new RuncBackend({ folder: '/run/runner/instances' });
 */
export class RuncBackend implements InstanceBackend {
  readonly name = 'runc';
  readonly #options: RuncBackendOptions;
  readonly #clock: Clock;
  readonly #files: HostFiles;
  readonly #bundles: string;
  readonly #runc: readonly [path: string, ...parameters: string[]];
  /** Tells the instances of this process from those of an earlier one of the same owner. */
  readonly #bootId = randomUUID();
  readonly #live = new Map<string, Live>();
  readonly #instances = new Map<string, Instance>();
  /** Starts that go on, and clean up when nobody wants them any more. */
  readonly #starting = new Set<Promise<void>>();
  /** What is still being removed. */
  readonly #removals = new Set<Promise<void>>();
  #isClosed = false;

  constructor(options: RuncBackendOptions) {
    checkLimits(options.limits ?? {});
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    const folder = resolve(options.folder);
    this.#files = new HostFiles(folder, options.nodePath ?? process.execPath);
    this.#bundles = join(folder, 'bundles');
    this.#runc = [options.runcPath ?? 'runc', '--root', join(folder, 'state')];
  }

  async unavailable(): Promise<string | undefined> {
    if (process.platform !== 'linux') return 'runc needs Linux; use the container engine';
    if (process.getuid?.() !== 0) return 'runc needs root; run as root, or use the container engine';
    try {
      await this.#command('--version');
      await this.#files.rootfs();
      return undefined;
    } catch (error) {
      return isRunnerError(error) ? error.message : `runc cannot be run (${messageOf(error)}); install the package runc`;
    }
  }

  async prepull(fn: FunctionVersion): Promise<void> {
    checkRuntime(fn);
    await this.#files.node();
  }

  async launch(spec: LaunchSpec): Promise<Instance> {
    if (this.#isClosed) throw closedError(this.name);
    const started = this.#clock.monotonic();
    checkRuntime(spec.fn);
    const options = { clock: this.#clock, timeoutMs: this.#options.startTimeoutMs, starting: this.#starting };
    return guardedStart(spec, options, async (signal) => {
      const bundle = await this.#makeBundle(spec);
      try {
        signal.throwIfAborted();
        const live = await this.#start(spec, bundle, signal);
        return this.#watch(spec.instanceId, live, this.#clock.monotonic() - started);
      } catch (error) {
        await this.#remove(spec.instanceId);
        throw isRunnerError(error) ? error : startFailed(spec, messageOf(error), error);
      }
    });
  }

  async terminate({ id, ended }: Instance): Promise<void> {
    const live = this.#live.get(id);
    if (!live) return;
    live.isTerminated = true;
    // What is frozen dies only when it thaws.
    if (live.isPaused) await live.freezer?.thaw().catch(() => {});
    if (!live.hasExited) killProcess(live.pid);
    await ended;
  }

  async reapStale(ownerId: string): Promise<number> {
    const stale: string[] = [];
    for (const id of await readdir(this.#bundles).catch(() => [])) {
      const labels = await annotationsOf(join(this.#bundles, id));
      if (labels?.[LABELS.owner] === ownerId && labels[LABELS.boot] !== this.#bootId) stale.push(id);
    }
    await Promise.all(stale.map((id) => this.#remove(id)));
    return stale.length;
  }

  async pause({ id }: Instance): Promise<void> {
    const live = this.#live.get(id);
    if (!live?.freezer || live.isPaused) return;
    live.isPaused = true;
    await live.freezer.freeze(this.#clock);
  }

  async resume({ id }: Instance): Promise<void> {
    const live = this.#live.get(id);
    if (!live?.isPaused) return;
    await live.freezer?.thaw();
    live.isPaused = false;
  }

  async memoryBytes({ id }: Instance): Promise<number | undefined> {
    const folder = this.#live.get(id)?.memoryFolder;
    return folder === undefined ? undefined : memoryOf(folder);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(this.#starting);
    await Promise.all([...this.#instances.values()].map((instance) => this.terminate(instance)));
    await Promise.all(this.#removals);
  }

  async #command(...parameters: string[]): Promise<string> {
    const [path, ...first] = this.#runc;
    const { stdout } = await promisify(execFile)(path, [...first, ...parameters], { timeout: COMMAND_MS, env: CLEAN_ENVIRONMENT });
    return stdout;
  }

  async #makeBundle(spec: LaunchSpec): Promise<string> {
    const { fn, runtimeApi, instanceId } = spec;
    await runtimeApi.listen();
    const parts = [
      this.#files.client(),
      this.#files.layers(fn.layers),
      this.#files.node(),
      this.#files.checkCode(fn, INSTANCE_UID),
      giveSocket(runtimeApi.socketPath, INSTANCE_UID),
    ] as const;
    // When one of them fails, the others are still being written.
    await Promise.allSettled(parts);
    const [client, layers, node] = await Promise.all(parts);
    const surface = { entryPoint: [], command: [], labels: {}, hasNode: true };
    const sources = { client, layers, node: () => this.#files.node(), socketPath: resolve(runtimeApi.socketPath) };
    const config = bundleConfig({
      rootFolder: node.folder,
      cgroupsPath: (await hasUnifiedCgroups()) ? `/bpr/${instanceId}` : `bpr-${instanceId}`,
      program: await eventProgram(fn, surface, sources),
      environment: spec.environment,
      annotations: {
        [LABELS.owner]: spec.ownerId,
        [LABELS.boot]: this.#bootId,
        [LABELS.instance]: instanceId,
        [LABELS.function]: `${fn.name}:${fn.version}`,
        [LABELS.fingerprint]: fn.fingerprint,
      },
      resources: resourcesOf(fn, this.#options.limits ?? {}, cpus().length),
      network: fn.network,
      uid: INSTANCE_UID,
      hostname: instanceId.slice(0, 63),
    });
    const bundle = join(this.#bundles, instanceId);
    await mkdir(bundle, { recursive: true, mode: 0o700 });
    await writeFile(join(bundle, 'config.json'), JSON.stringify(config), { mode: 0o600 });
    return bundle;
  }

  async #start(spec: LaunchSpec, bundle: string, signal: AbortSignal): Promise<Live> {
    const [path, ...first] = this.#runc;
    const watcher = watch(bundle);
    const pidFile = join(bundle, PID_FILE);
    const bytesPerSecond = this.#options.limits?.outputBytesPerSecond;
    const output = new InstanceOutput({ clock: this.#clock, sink: spec.onOutput, bytesPerSecond });
    const child = spawn(path, [...first, 'run', '--keep', '--bundle', bundle, '--pid-file', pidFile, spec.instanceId], {
      env: CLEAN_ENVIRONMENT,
      stdio: ['ignore', 'pipe', 'pipe'],
      // What interrupts this process from a terminal is not for the instances.
      detached: true,
    });
    output.read(child.stdout, 'stdout');
    output.read(child.stderr, 'stderr');
    // A start that hangs is not waited for.
    signal.addEventListener('abort', () => this.#clock.after(HANG_MS, () => child.kill('SIGKILL')), { once: true });
    const over = Promise.race([
      once(child, 'exit').then(async () => {
        // A program that ends at once may be gone before its start was seen.
        const pid = await pidOf(pidFile);
        if (pid !== undefined) return pid;
        await output.finish();
        throw startFailed(spec, `runc ended with ${child.exitCode}${output.tail.lastLines()}`);
      }),
      once(child, 'error').then(([error]) => {
        throw unavailable(error);
      }),
    ]);
    try {
      const pid = await Promise.race([pidWritten(watcher, pidFile), over]);
      signal.throwIfAborted();
      const groups = await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '');
      return {
        child,
        output,
        pid,
        memoryFolder: memoryFolders(groups)[0],
        freezer: Freezer.of(groups),
        isTerminated: false,
        isPaused: false,
        hasExited: false,
      };
    } finally {
      over.catch(() => {});
      watcher.close();
    }
  }

  #watch(id: string, live: Live, createMs: number): Instance {
    this.#live.set(id, live);
    const instance: Instance = { id, handle: { kind: 'runc', containerId: id, pid: live.pid }, ended: this.#ended(id, live), createMs };
    this.#instances.set(id, instance);
    return instance;
  }

  async #ended(id: string, live: Live): Promise<InstanceEnd> {
    const { child } = live;
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    live.hasExited = true;
    await live.output.finish();
    const kills = live.memoryFolder === undefined ? 0 : await oomKillsOf(live.memoryFolder);
    // What cannot be removed now is found by its bundle later.
    const removal = this.#remove(id).catch(() => {});
    // Somebody ended runc itself: what it started goes on until it is removed.
    if (child.exitCode === null) await removal;
    this.#live.delete(id);
    this.#instances.delete(id);
    const exitCode = child.exitCode ?? 137;
    return endOf({ exitCode, outOfMemory: kills > 0, terminated: live.isTerminated, tail: live.output.tail.text() });
  }

  /** Ends and removes all of it; succeeds when there is nothing. */
  #remove(id: string): Promise<void> {
    const remove = async (): Promise<void> => {
      // What is frozen dies only when it thaws.
      const pid = await readFile(join(this.#bundles, id, PID_FILE), 'utf8').catch(() => '');
      const groups = pid === '' ? '' : await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '');
      if (groups.includes(id))
        await Freezer.of(groups)
          ?.thaw()
          .catch(() => {});
      await this.#command('delete', '-f', id).catch(() => {});
      await rm(join(this.#bundles, id), { recursive: true, force: true });
    };
    const removal = remove().finally(() => this.#removals.delete(removal));
    this.#removals.add(removal);
    return removal;
  }
}

function checkRuntime({ code, runtime }: FunctionVersion): void {
  if (code.kind === 'folder' && /^(?:nodejs|provided)/.test(runtime)) return;
  const what = code.kind === 'image' ? `the image ${code.uri}` : `the runtime ${runtime}`;
  throw new RunnerError('RUNTIME_UNSUPPORTED', `runc runs nodejs* and provided* from folders, not ${what}; use a container engine for it`, {
    details: { runtime },
  });
}

function startFailed({ instanceId, fn }: LaunchSpec, reason: string, cause?: unknown): RunnerError {
  return new RunnerError('INSTANCE_START_FAILED', `the instance ${instanceId} of ${fn.name} did not start: ${reason}`, { cause });
}

function unavailable(error: unknown): RunnerError {
  return new RunnerError('BACKEND_UNAVAILABLE', `runc cannot be run (${messageOf(error)}); install the package runc`, { cause: error });
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Of the first process of the container; runc writes the file under another name and renames it, so it is complete when it is there. */
async function pidWritten(watcher: ReturnType<typeof watch>, file: string): Promise<number> {
  for await (const [, name] of events(watcher)) if (name === PID_FILE) break;
  return Number(await readFile(file, 'utf8'));
}

async function pidOf(file: string): Promise<number | undefined> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text === '' ? undefined : Number(text);
}

async function* events(watcher: ReturnType<typeof watch>): AsyncGenerator<readonly [string, string | null]> {
  for (;;) yield (await once(watcher, 'change')) as [string, string | null];
}

/** The container's own first process: with it everything in its process namespace ends. */
function killProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}

/** Undefined when the file is not there or not complete: somebody writes it now, or was killed before anything was started with it. */
async function annotationsOf(bundle: string): Promise<Readonly<Record<string, string>> | undefined> {
  try {
    // Our own file.
    return (JSON.parse(await readFile(join(bundle, 'config.json'), 'utf8')) as { annotations?: Readonly<Record<string, string>> })
      .annotations;
  } catch {
    return undefined;
  }
}

async function hasUnifiedCgroups(): Promise<boolean> {
  return access('/sys/fs/cgroup/cgroup.controllers').then(
    () => true,
    () => false,
  );
}
