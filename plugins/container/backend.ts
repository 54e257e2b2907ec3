/** Instances as containers of Docker or podman. */

import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { RunnerError, isRunnerError } from '../../src/plugin.ts';
import type { FunctionVersion, Instance, InstanceBackend, InstanceEnd, LaunchSpec } from '../../src/plugin.ts';
import { Freezer, memoryFolders, memoryOf } from './cgroup.ts';
import { statusOf } from './client.ts';
import type { Engine } from './client.ts';
import { LABELS, containerOptions } from './container-options.ts';
import type { ContainerPlan } from './container-options.ts';
import { ContainerHost } from './host.ts';
import type { ContainerBackendOptions, Place } from './host.ts';
import { giveSocket } from './host-files.ts';
import { endOf } from './outcome.ts';
import { InstanceOutput } from './output.ts';
import { eventProgram } from './program.ts';
import { closedError, guardedStart } from './start-guard.ts';
import { runStdio } from './stdio.ts';
import type { StdioOptions, StdioResult } from './stdio.ts';

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
  readonly #host: ContainerHost;
  /** Tells the containers of this process from those of an earlier one of the same owner. */
  readonly #bootId = randomUUID();
  readonly #live = new Map<string, Live>();
  /** Starts that go on, and clean up when nobody wants them any more. */
  readonly #starting = new Set<Promise<void>>();
  #isClosed = false;

  constructor(options: ContainerBackendOptions) {
    this.#host = new ContainerHost(options);
  }

  /** What the engine says it is; `docker` until one was asked. */
  get name(): string {
    return this.#host.kind;
  }

  async unavailable(): Promise<string | undefined> {
    try {
      await this.#host.engine();
      return undefined;
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  async prepull(fn: FunctionVersion, signal: AbortSignal): Promise<void> {
    await this.#host.place(fn, signal);
  }

  async launch(spec: LaunchSpec): Promise<Instance> {
    if (this.#isClosed) throw closedError(this.name);
    const { clock, options } = this.#host;
    const started = clock.monotonic();
    const place = await this.#host.place(spec.fn, spec.signal);
    if (this.#isClosed) throw closedError(this.name);
    const output = new InstanceOutput({ clock, sink: spec.onOutput, bytesPerSecond: options.limits?.outputBytesPerSecond });
    return guardedStart(spec, { clock, timeoutMs: options.startTimeoutMs, starting: this.#starting }, async (signal) => {
      const plan = await this.#plan(spec, place);
      const id = await this.#start(place.engine, plan, { output, signal });
      // Before the start is over: who closes ends those that are known then.
      return this.#watch(place.engine, id, { spec, output, createMs: clock.monotonic() - started });
    });
  }

  /**
   * Runs a function once as a program that reads `input` from stdin and writes one JSON value to stdout. What it writes to stderr is its
   * log. Rejects with `FUNCTION_CRASHED` (an exit code but 0, a signal), `FUNCTION_OUT_OF_MEMORY`, `EXECUTOR_TIMEOUT` (killed before),
   * `EXECUTOR_RESPONSE_INVALID` (not JSON), `PAYLOAD_TOO_LARGE`, `ABORTED`, and those of a start.
   *
   * @example
   * const { output } = await backend.runStdio(fn, Buffer.from('{"job_id":0,"args":[4]}'));
   */
  async runStdio(fn: FunctionVersion, input: Uint8Array, options: StdioOptions = {}): Promise<StdioResult> {
    if (this.#isClosed) throw closedError(this.name);
    const labels = {
      [LABELS.owner]: options.ownerId ?? this.#bootId,
      [LABELS.boot]: this.#bootId,
      [LABELS.function]: `${fn.name}:${fn.version}`,
    };
    const run = runStdio(this.#host, fn, { ...options, input, labels });
    const settled: Promise<void> = run.then(
      () => void this.#starting.delete(settled),
      () => void this.#starting.delete(settled),
    );
    this.#starting.add(settled);
    return run;
  }

  async terminate({ handle, ended }: Instance): Promise<void> {
    const id = String(handle['containerId']);
    const live = this.#live.get(id);
    if (live) live.isTerminated = true;
    // What is frozen dies only when it thaws.
    await live?.paused?.resume().catch(() => {});
    const engine = await this.#host.engine();
    await engine.remove(id);
    if (live) await ended;
  }

  async reapStale(ownerId: string): Promise<number> {
    const engine = await this.#host.engine();
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
    const engine = await this.#host.engine();
    const freezer = Freezer.of(await this.#cgroupOf(id, live));
    live.paused = { resume: () => (freezer ? freezer.thaw() : engine.resume(id)) };
    await (freezer ? freezer.freeze(this.#host.clock) : engine.pause(id));
  }

  async resume({ handle }: Instance): Promise<void> {
    const live = this.#live.get(String(handle['containerId']));
    const paused = live?.paused;
    if (!live || !paused) return;
    await paused.resume();
    live.paused = undefined;
  }

  async #cgroupOf(id: string, live: Live): Promise<string> {
    const engine = await this.#host.engine();
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
    return bytes ?? (await this.#host.engine()).memoryBytes(id);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(this.#starting);
    await Promise.all([...this.#live.values()].map(({ instance }) => this.terminate(instance)));
  }

  async #plan({ fn, runtimeApi, ...spec }: LaunchSpec, place: Place): Promise<ContainerPlan> {
    const { files } = this.#host;
    const { socketPath } = runtimeApi;
    await runtimeApi.listen();
    const parts = [files.client(), files.layers(fn.layers), files.checkCode(fn, place.uid), giveSocket(socketPath, place.uid)] as const;
    // When one of them fails, the others are still being written.
    await Promise.allSettled(parts);
    const [client, layers] = await Promise.all(parts);
    return {
      ...this.#host.planOf(fn, place),
      name: `bpr-${spec.instanceId}`,
      program: await eventProgram(fn, place.surface, { client, layers, node: () => files.node(), socketPath }),
      environment: spec.environment,
      labels: {
        [LABELS.owner]: spec.ownerId,
        [LABELS.boot]: this.#bootId,
        [LABELS.instance]: spec.instanceId,
        [LABELS.function]: `${fn.name}:${fn.version}`,
        [LABELS.fingerprint]: fn.fingerprint,
      },
      hasStdin: false,
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
    // The engine may have ended or the image may have been removed.
    this.#host.forget();
    if (statusOf(error) === undefined) {
      return new RunnerError('BACKEND_UNAVAILABLE', `the container engine is gone: ${reason}`, { cause: error });
    }
    return new RunnerError(
      'INSTANCE_START_FAILED',
      `the container ${name} of ${image} did not start: ${reason}${output.tail.lastLines()}`,
      {
        cause: error,
        details: { image, status: statusOf(error) },
      },
    );
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
    return endOf({ exitCode: state.exitCode, outOfMemory: state.oomKilled, terminated, tail: output.tail.text() });
  }
}
