/** Instances as containers of Docker or podman. */

import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { RunnerError, isRunnerError, systemClock } from '../../src/plugin.ts';
import type { Clock, FunctionVersion, Instance, InstanceBackend, InstanceEnd, LaunchSpec } from '../../src/plugin.ts';
import { Freezer, memoryFolders, memoryOf } from './cgroup.ts';
import { Engine, statusOf } from './client.ts';
import type { EngineOptions } from './client.ts';
import { LABELS, containerOptions } from './container-options.ts';
import type { ContainerPlan } from './container-options.ts';
import { HostFiles, giveSocket } from './host-files.ts';
import { Images } from './images.ts';
import type { ChosenImage, ImageOptions } from './images.ts';
import { checkLimits, resourcesOf } from './limits.ts';
import type { InstanceLimits } from './limits.ts';
import { endOf } from './outcome.ts';
import { InstanceOutput } from './output.ts';
import { eventProgram } from './program.ts';
import type { Surface } from './program.ts';
import { INSTANCE_UID } from './rootfs.ts';
import { closedError, guardedStart } from './start-guard.ts';

export interface ContainerBackendOptions extends ImageOptions {
  /** For what instances are given: the client, merged layers, a root file system. The engine must see it under the same path. */
  readonly folder: string;
  /** As `DOCKER_HOST`. Default: that variable, else the first socket of Docker or podman that answers. */
  readonly host?: string;
  readonly limits?: InstanceLimits;
  /** A runtime that the engine knows, such as `runsc` (gVisor; it must be set up with `--host-uds=all`). Default: the engine's. */
  readonly runtime?: string;
  /** The engine's init process in every instance: without it some signals are told wrong and orphans stay. Default true. */
  readonly init?: boolean;
  /** Until an instance runs; fetching its image does not count. Default 60,000. */
  readonly startTimeoutMs?: number;
  /** The node that the base image is made of. Default: the one that runs this. */
  readonly nodePath?: string;
  readonly clock?: Clock;
  readonly environment?: Readonly<Record<string, string | undefined>>;
  readonly platform?: NodeJS.Platform;
}

/** A container of ours that runs. */
interface Live {
  readonly instance: Instance;
  isTerminated: boolean;
  pid: number | undefined;
  paused: { readonly resume: () => Promise<void> } | undefined;
}

/**
 * Each instance is one container: code and layers mounted read-only, a read-only root, /tmp in memory, no capabilities, no network
 * unless the function asks for it. It reaches its Runtime API over a socket that is mounted into it; no port is published.
 *
 * @example
 * const backend = new ContainerBackend({ folder: '/var/lib/runner/containers' });
 * const runtime = new FunctionRuntime({ backend, folder: '/var/lib/runner/functions' });
 */
export class ContainerBackend implements InstanceBackend {
  readonly #options: ContainerBackendOptions;
  readonly #clock: Clock;
  readonly #files: HostFiles;
  /** Tells the containers of this process from those of an earlier one of the same owner. */
  readonly #bootId = randomUUID();
  readonly #live = new Map<string, Live>();
  /** Starts that go on, and clean up when nobody wants them any more. */
  readonly #starting = new Set<Promise<void>>();
  #engine: Promise<Engine> | undefined;
  #images: Images | undefined;
  #kind: 'docker' | 'podman' = 'docker';
  #isClosed = false;

  constructor(options: ContainerBackendOptions) {
    checkLimits(options.limits ?? {});
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#files = new HostFiles(options.folder, options.nodePath ?? process.execPath);
  }

  /** What the engine says it is; `docker` until one was asked. */
  get name(): string {
    return this.#kind;
  }

  async unavailable(): Promise<string | undefined> {
    try {
      await this.#connected();
      return undefined;
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  async prepull(fn: FunctionVersion, signal: AbortSignal): Promise<void> {
    const engine = await this.#connected();
    await this.#imagesOf(engine).choose(fn, signal);
  }

  async launch(spec: LaunchSpec): Promise<Instance> {
    if (this.#isClosed) throw closedError(this.name);
    const started = this.#clock.monotonic();
    const engine = await this.#connected();
    const image = await this.#imagesOf(engine).choose(spec.fn, spec.signal);
    const bytesPerSecond = this.#options.limits?.outputBytesPerSecond;
    const output = new InstanceOutput({ clock: this.#clock, sink: spec.onOutput, bytesPerSecond });
    const options = { clock: this.#clock, timeoutMs: this.#options.startTimeoutMs, starting: this.#starting };
    const id = await guardedStart(spec, options, async (signal) => {
      const plan = await this.#plan(spec, engine, image);
      return this.#start(engine, plan, { output, signal });
    });
    return this.#watch(engine, id, { spec, output, createMs: this.#clock.monotonic() - started });
  }

  async terminate({ handle, ended }: Instance): Promise<void> {
    const id = String(handle['containerId']);
    const live = this.#live.get(id);
    if (live) live.isTerminated = true;
    // What is frozen dies only when it thaws.
    await live?.paused?.resume().catch(() => {});
    const engine = await this.#connected();
    await engine.remove(id);
    if (live) await ended;
  }

  async reapStale(ownerId: string): Promise<number> {
    const engine = await this.#connected();
    const found = await engine.list(LABELS.owner, ownerId);
    const stale = found.filter(({ labels }) => labels[LABELS.owner] === ownerId && labels[LABELS.boot] !== this.#bootId);
    await Promise.all(stale.map(({ id }) => engine.remove(id)));
    return stale.length;
  }

  /** Where the control groups of the engine are to be seen from here they are frozen by hand, which the engine takes ten times as long for. */
  async pause({ handle }: Instance): Promise<void> {
    const id = String(handle['containerId']);
    const live = this.#live.get(id);
    if (!live || live.paused) return;
    const engine = await this.#connected();
    const freezer = Freezer.of(await this.#cgroupOf(id, live));
    live.paused = { resume: () => (freezer ? freezer.thaw() : engine.resume(id)) };
    await (freezer ? freezer.freeze(this.#clock) : engine.pause(id));
  }

  async resume({ handle }: Instance): Promise<void> {
    const live = this.#live.get(String(handle['containerId']));
    const paused = live?.paused;
    if (!live || !paused) return;
    await paused.resume();
    live.paused = undefined;
  }

  async #cgroupOf(id: string, live: Live): Promise<string> {
    const engine = await this.#connected();
    live.pid ??= (await engine.inspect(id))?.pid;
    const text = await readFile(`/proc/${live.pid}/cgroup`, 'utf8').catch(() => '');
    // The engine may run on another machine, where this number is another process.
    return text.includes(id) ? text : '';
  }

  async memoryBytes({ handle }: Instance): Promise<number | undefined> {
    const id = String(handle['containerId']);
    const live = this.#live.get(id);
    if (!live) return undefined;
    const [folder] = memoryFolders(await this.#cgroupOf(id, live));
    const bytes = folder === undefined ? undefined : await memoryOf(folder);
    return bytes ?? (await this.#connected()).memoryBytes(id);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(this.#starting);
    await Promise.all([...this.#live.values()].map(({ instance }) => this.terminate(instance)));
  }

  async #connected(): Promise<Engine> {
    this.#engine ??= Engine.connect(this.#engineOptions());
    try {
      const engine = await this.#engine;
      this.#kind = engine.info.kind;
      const { runtime } = this.#options;
      if (runtime !== undefined && !engine.info.runtimes.includes(runtime)) {
        const known = engine.info.runtimes.join(', ');
        throw new RunnerError('BACKEND_UNAVAILABLE', `the engine has no runtime ${runtime}, only ${known}; add it to its configuration`);
      }
      return engine;
    } catch (error) {
      // It may be started meanwhile.
      this.#engine = undefined;
      throw error;
    }
  }

  #engineOptions(): EngineOptions {
    const { environment = process.env, platform = process.platform, host } = this.#options;
    return { clock: this.#clock, environment, platform, host, uid: process.getuid?.(), home: homedir() };
  }

  #imagesOf(engine: Engine): Images {
    const nodeMajor = Number(process.versions.node.split('.')[0]);
    this.#images ??= new Images(engine, { ...this.#options, rootfs: () => this.#files.rootfs(), nodeMajor });
    return this.#images;
  }

  async #plan(spec: LaunchSpec, engine: Engine, image: ChosenImage): Promise<ContainerPlan> {
    const { fn, runtimeApi } = spec;
    const uid = userOf(engine);
    const [client, layers] = await Promise.all([
      this.#files.client(),
      this.#files.layers(fn.layers),
      this.#files.checkCode(fn, uid),
      giveSocket(runtimeApi.socketPath, uid),
    ]);
    const surface = await surfaceOf(engine, image);
    const program = await eventProgram(fn, surface, { client, layers, node: () => this.#files.node(), socketPath: runtimeApi.socketPath });
    return {
      name: `bpr-${spec.instanceId}`,
      image: image.reference,
      program,
      environment: spec.environment,
      labels: {
        [LABELS.owner]: spec.ownerId,
        [LABELS.boot]: this.#bootId,
        [LABELS.instance]: spec.instanceId,
        [LABELS.function]: `${fn.name}:${fn.version}`,
        [LABELS.fingerprint]: fn.fingerprint,
      },
      resources: resourcesOf(fn, this.#options.limits ?? {}, engine.info.cpus),
      network: fn.network,
      user: `${uid}:${uid}`,
      runtime: this.#options.runtime,
      hasStdin: false,
      hasInit: this.#options.init ?? true,
      hasTask: fn.code.kind === 'folder',
    };
  }

  /** Resolves with the id of a container that runs; when it rejects, or when the caller gave up, none is left. */
  async #start(
    engine: Engine,
    plan: ContainerPlan,
    { output, signal }: { readonly output: InstanceOutput; readonly signal: AbortSignal },
  ): Promise<string> {
    let id: string | undefined;
    try {
      signal.throwIfAborted();
      id = await engine.create(containerOptions(plan));
      signal.throwIfAborted();
      output.read(await engine.attach(id, false), 'frames');
      signal.throwIfAborted();
      await engine.start(id);
      signal.throwIfAborted();
      return id;
    } catch (error) {
      if (id !== undefined) await engine.remove(id);
      if (isRunnerError(error)) throw error;
      throw this.#startError(error, plan, output);
    }
  }

  #startError(error: unknown, { image, name }: ContainerPlan, output: InstanceOutput): RunnerError {
    const reason = error instanceof Error ? error.message : String(error);
    if (statusOf(error) === undefined) {
      this.#engine = undefined;
      return new RunnerError('BACKEND_UNAVAILABLE', `the container engine is gone: ${reason}`, { cause: error });
    }
    // The image may have been removed; the next launch looks.
    this.#images?.forget();
    return new RunnerError('INSTANCE_START_FAILED', `the container ${name} of ${image} did not start: ${reason}${output.lastLines()}`, {
      cause: error,
      details: { image, status: statusOf(error) },
    });
  }

  #watch(
    engine: Engine,
    id: string,
    { spec, output, createMs }: { readonly spec: LaunchSpec; readonly output: InstanceOutput; readonly createMs: number },
  ): Instance {
    const ended = this.#ended(engine, id, output);
    const instance: Instance = { id: spec.instanceId, handle: { kind: engine.info.kind, containerId: id }, ended, createMs };
    this.#live.set(id, { instance, isTerminated: false, pid: undefined, paused: undefined });
    return instance;
  }

  async #ended(engine: Engine, id: string, output: InstanceOutput): Promise<InstanceEnd> {
    const state = await engine.ended(id);
    await output.finish();
    const terminated = this.#live.get(id)?.isTerminated ?? false;
    this.#live.delete(id);
    // What cannot be removed now is found by its label later.
    await engine.remove(id).catch(() => {});
    if (!state) return { reason: 'terminated' };
    return endOf({ exitCode: state.exitCode, outOfMemory: state.oomKilled, terminated, tail: output.tail() });
  }
}

/** Rootless engines map user 0 to the unprivileged user outside; without root only our own user can reach what is ours. */
function userOf({ info }: Engine): number {
  if (info.rootless) return 0;
  const uid = process.getuid?.() ?? 0;
  return uid === 0 ? INSTANCE_UID : uid;
}

async function surfaceOf(engine: Engine, image: ChosenImage): Promise<Surface> {
  if (image.own) return { entryPoint: [], command: [], labels: {}, hasNode: true };
  const info = await engine.image(image.reference);
  return { entryPoint: [], command: [], labels: {}, ...info, hasNode: false };
}
