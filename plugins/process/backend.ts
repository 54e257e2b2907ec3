/** Instances as processes of this machine: sandboxed, limited, and where it can be, waiting before they are needed. */

import { createHash, randomUUID } from 'node:crypto';
import { chmodSync, existsSync, lstatSync, mkdirSync, realpathSync, renameSync, writeFileSync } from 'node:fs';
import { freemem, loadavg, availableParallelism, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { RunnerError, nodeClientSource, silentTelemetry, systemClock, toRunnerError } from '../../src/plugin.ts';
import type { Clock, FunctionVersion, Instance, InstanceBackend, LaunchSpec, Telemetry } from '../../src/plugin.ts';
import { Builder } from './builder.ts';
import type { WorkerClass } from './builder.ts';
import { forgetOwner, noteProcess, reap } from './leftovers.ts';
import { needsSocket, programOf } from './program.ts';
import type { Program } from './program.ts';
import { probe } from './sandbox.ts';
import type { Confinement, SandboxKind } from './sandbox.ts';
import { Worker } from './worker.ts';

export interface ProcessBackendOptions {
  /** What must hold: `auto` takes the strongest that works here. Default `auto`. */
  readonly sandbox?: SandboxKind | 'auto';
  /** Processes that wait for each kind of function; 0 for none. Default 2, as soon as the machine is idle enough. */
  readonly blanks?: number;
  /** Runtime name to the program that is its node. Default: `nodejs20.x`, `nodejs22.x` and `nodejs24.x` run on the node that runs this. */
  readonly runtimes?: Readonly<Record<string, string>>;
  /** Where instances have their files; made with mode 0711. Default: a folder of this user below the temporary folder of the system. */
  readonly folder?: string;
  /** Processes and threads of one instance. Default 128. */
  readonly pidsMax?: number;
  /** Processors that one instance may use. Default: one for 1,769 MB of memory, and at least one. */
  readonly cpus?: number;
  /** False leaves control groups alone. Default true. */
  readonly cgroups?: boolean;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
}

/** What is in force on this machine. */
export interface ProcessBackendDescription {
  readonly sandbox: SandboxKind;
  readonly controlGroups: 'v1' | 'v2' | 'none';
  /** Each instance has a user of its own. */
  readonly ownUser: boolean;
  /** What does not hold here, and why. */
  readonly gaps: readonly string[];
  /** Processes that wait. */
  readonly blanks: number;
  /** Sandboxes that wait without a program. */
  readonly boxes: number;
}

const BLANKS_DEFAULT = 2;
const CLASSES_MAX = 4;
const BOXES = 2;
const PIDS_DEFAULT = 128;
/** What most functions are. */
const KIND_DEFAULT = { memoryMb: 128, ephemeralMb: 512, network: 'none' } as const;
/** A waiting process must not slow down the one that was just launched. */
const REFILL_DELAY_MS = 20;
const BUSY_DELAY_MS = 1_000;
/** What one waiting process takes. */
const BLANK_BYTES = 64 * 1024 * 1024;

interface Launch {
  readonly spec: LaunchSpec;
  readonly program: Program;
  /** Monotonic. */
  readonly started: number;
}

/** Those that wait for functions of one kind. */
interface Waiting {
  readonly of: WorkerClass;
  readonly workers: Worker[];
  isFilling: boolean;
}

/**
 * @example
 * const backend = new ProcessBackend({ sandbox: 'bubblewrap' });
 * const runtime = new FunctionRuntime({ backend, folder });
 */
export class ProcessBackend implements InstanceBackend {
  readonly name = 'process';
  readonly #options: ProcessBackendOptions;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #folder: string;
  readonly #workers = new Map<string, Worker>();
  readonly #all = new Set<Worker>();
  /** By class; the last used comes last. */
  readonly #blanks = new Map<string, Waiting>();
  /** Sandboxes without a program; by class, but of any memory. */
  readonly #boxes = new Map<string, Waiting>();
  /** Those that are not over. */
  readonly #launches = new Set<Promise<Instance>>();
  /** Folders of owners. */
  readonly #owners = new Set<string>();
  #builder: Promise<Builder> | undefined;
  #isClosed = false;

  constructor(options: ProcessBackendOptions = {}) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#telemetry = options.telemetry ?? silentTelemetry;
    this.#folder = options.folder ?? join(tmpdir(), `blueprint-runner-process-${process.getuid?.() ?? 0}`);
  }

  /** What holds on this machine. Rejects with `BACKEND_UNAVAILABLE` when what the options demand does not. */
  async describe(): Promise<ProcessBackendDescription> {
    const { confinement } = await this.#build();
    const { sandbox, cgroups, ownUser, gaps } = confinement;
    const controlGroups = cgroups ? (`v${cgroups.version}` as const) : 'none';
    return { sandbox, controlGroups, ownUser, gaps, blanks: sizeOf(this.#blanks), boxes: sizeOf(this.#boxes) };
  }

  async unavailable(): Promise<string | undefined> {
    if (process.platform === 'win32') return 'processes of functions need unix sockets and signals: use a container backend on Windows';
    return this.#build().then(
      () => undefined,
      (error: unknown) => toRunnerError(error).message,
    );
  }

  launch(spec: LaunchSpec): Promise<Instance> {
    const launch = this.#launch(spec);
    this.#launches.add(launch);
    return launch.finally(() => this.#launches.delete(launch));
  }

  async #launch(spec: LaunchSpec): Promise<Instance> {
    const started = this.#clock.monotonic();
    if (this.#isClosed) throw new RunnerError('BACKEND_UNAVAILABLE', 'the process backend is closed');
    const [builder, program] = await Promise.all([this.#build(), programOf(spec.fn, this.#options.runtimes ?? {})]);
    if (needsSocket(spec, program)) await spec.runtimeApi.listen();
    this.#throwIfAborted(spec);
    if (this.#isClosed) throw new RunnerError('BACKEND_UNAVAILABLE', 'the process backend is closed');
    const kind = this.#classOf(spec.fn, spec.ownerId, program);
    // What waits is our client on node: a package that brings its own program needs a process of its own.
    const waiting = program.kind === 'node' ? this.#fromWaiting(builder, spec, kind) : undefined;
    let instance = waiting && (await this.#ofWaiting(waiting, { spec, program, started }));
    instance ??= await this.#started(await this.#cold(builder, spec, { ...kind, program }), { spec, program, started });
    if (program.kind === 'node') this.#refillLater(builder, kind);
    return instance;
  }

  /** Undefined: it ended before it had begun with the function. */
  async #ofWaiting(worker: Worker, launch: Launch): Promise<Instance | undefined> {
    try {
      return await this.#started(worker, launch);
    } catch (error) {
      if (launch.spec.signal.aborted || this.#isClosed) throw error;
      this.#warnOfUseless(error);
      return undefined;
    }
  }

  async #started(worker: Worker, { spec, program, started }: Launch): Promise<Instance> {
    const { instanceId: id } = spec;
    const createMs = this.#clock.monotonic() - started;
    this.#workers.set(id, worker);
    void worker.ended.then(() => this.#workers.get(id) === worker && this.#workers.delete(id));
    await this.#untilStarted(worker, spec, program);
    return { id, handle: { kind: 'process', pid: worker.pid ?? 0 }, ended: worker.ended, createMs };
  }

  async terminate(instance: Instance): Promise<void> {
    await this.#workers.get(instance.id)?.terminate();
  }

  async reapStale(ownerId: string): Promise<number> {
    const own = new Set([...this.#all].map(({ id }) => id));
    const count = await reap(this.#folder, { ownerId, own, clock: this.#clock });
    const kind = { ...KIND_DEFAULT, ownerId, node: realpathSync(process.execPath) };
    if (!this.#isClosed) this.#fillBoxes(await this.#build(), kind);
    return count;
  }

  async memoryBytes(instance: Instance): Promise<number | undefined> {
    return this.#workers.get(instance.id)?.plan.cgroup?.memoryBytes();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const endAll = (): Promise<unknown> => Promise.all([...this.#all].map((worker) => worker.terminate()));
    await endAll();
    // What was on its way may have begun another process meanwhile.
    await Promise.allSettled([...this.#launches, this.#builder]);
    await endAll();
    for (const folder of this.#owners) forgetOwner(folder);
  }

  #build(): Promise<Builder> {
    this.#builder ??= this.#prepare().catch((error: unknown) => {
      this.#builder = undefined;
      throw toRunnerError(error, 'BACKEND_UNAVAILABLE');
    });
    return this.#builder;
  }

  async #prepare(): Promise<Builder> {
    const { sandbox = 'auto', cgroups = true, pidsMax = PIDS_DEFAULT, cpus } = this.#options;
    const confinement: Confinement = await probe({ sandbox, cgroups });
    const client = this.#makeFolder();
    const { gaps } = confinement;
    const fields = { sandbox: confinement.sandbox, controlGroups: confinement.cgroups?.version ?? 0, ownUser: confinement.ownUser, gaps };
    if (gaps.length === 0) this.#telemetry.log.info('functions run in a sandbox', fields);
    else this.#telemetry.log.warn('functions run in a sandbox that has gaps on this machine', fields);
    return new Builder({ confinement, folder: this.#folder, client, pidsMax, cpus });
  }

  /** With the client in it, whose path this is. Systems remove from temporary folders what was not written for days: then it is made again. */
  #makeFolder(): string {
    mkdirSync(this.#folder, { recursive: true, mode: 0o711 });
    // Everybody knows its name, and may make it before us.
    if (this.#options.folder === undefined) checkOwn(this.#folder);
    chmodSync(this.#folder, 0o711);
    return writeClient(this.#folder);
  }

  #classOf(fn: FunctionVersion, ownerId: string, program: Program): WorkerClass {
    return { ownerId, node: realpathSync(program.node), memoryMb: fn.memoryMb, ephemeralMb: fn.ephemeralMb, network: fn.network };
  }

  async #cold(builder: Builder, spec: LaunchSpec, kind: WorkerClass & { program: Program & { folder: string } }): Promise<Worker> {
    this.#makeFolder();
    const { plan, assignment } = await builder.cold(spec, kind);
    const worker = this.#start(plan);
    worker.sendOutput(spec.onOutput);
    if (assignment) worker.assign(assignment, spec.runtimeApi);
    return worker;
  }

  #start(plan: Worker['plan']): Worker {
    const worker = new Worker(plan, this.#clock);
    this.#all.add(worker);
    this.#owners.add(dirname(plan.folder));
    void worker.ended.then(() => this.#all.delete(worker));
    if (worker.pid !== undefined) noteProcess(plan.folder, worker.pid);
    return worker;
  }

  #fromWaiting(builder: Builder, spec: LaunchSpec, kind: WorkerClass): Worker | undefined {
    if (!builder.suitsBlank(spec)) return undefined;
    const blank = taken(this.#blanks.get(keyOf(kind)));
    const worker = blank ?? taken(this.#boxes.get(boxKeyOf(kind)));
    if (!worker) return undefined;
    try {
      const assignment = builder.furnish(worker.plan, spec);
      if (assignment) {
        if (!blank) worker.begin(builder.fit(worker.plan, kind));
        worker.sendOutput(spec.onOutput);
        worker.assign(assignment, spec.runtimeApi);
        return worker;
      }
    } catch (error) {
      this.#warnOfUseless(error);
    }
    void worker.terminate();
    return undefined;
  }

  /** A fresh process takes its place. */
  #warnOfUseless(error: unknown): void {
    this.#telemetry.log.warn('what waited for a function cannot be used', { error });
  }

  async #untilStarted(worker: Worker, spec: LaunchSpec, program: Program): Promise<void> {
    const aborted = Promise.withResolvers<never>();
    const onAbort = (): void => aborted.reject(new RunnerError('ABORTED', `the start of instance ${spec.instanceId} was given up`));
    spec.signal.addEventListener('abort', onAbort, { once: true });
    try {
      if (worker.pid === undefined || program.kind === 'node') await Promise.race([worker.said, aborted.promise]);
      this.#throwIfAborted(spec);
    } catch (error) {
      await worker.terminate();
      throw error;
    } finally {
      spec.signal.removeEventListener('abort', onAbort);
    }
  }

  #throwIfAborted({ signal, instanceId }: LaunchSpec): void {
    if (signal.aborted) throw new RunnerError('ABORTED', `the start of instance ${instanceId} was given up`, { cause: signal.reason });
  }

  #refillLater(builder: Builder, kind: WorkerClass): void {
    this.#clock.after(REFILL_DELAY_MS, () => this.#fillBoxes(builder, kind));
    const { blanks = BLANKS_DEFAULT } = this.#options;
    if (blanks === 0) return;
    const key = keyOf(kind);
    const entry = lastUsed(this.#blanks, key, kind);
    if (entry.isFilling) return;
    entry.isFilling = true;
    this.#refillAfter(REFILL_DELAY_MS, { builder, key, count: blanks });
  }

  #refillAfter(delayMs: number, refill: { builder: Builder; key: string; count: number }): void {
    const { builder, key, count } = refill;
    this.#clock.after(delayMs, () => {
      const entry = this.#blanks.get(key);
      if (this.#isClosed || !entry) return;
      // Who asked for a number gets it; the default leaves a busy machine alone.
      if (this.#options.blanks === undefined && !isMachineIdle(count)) {
        this.#refillAfter(BUSY_DELAY_MS, refill);
        return;
      }
      entry.isFilling = false;
      this.#fill(entry.workers, { count, make: () => builder.blank(entry.of, `blank-${randomUUID()}`) });
    });
  }

  #fillBoxes(builder: Builder, kind: WorkerClass): void {
    if (this.#isClosed || !builder.usesBoxes) return;
    const { workers } = lastUsed(this.#boxes, boxKeyOf(kind), kind);
    this.#fill(workers, { count: BOXES, make: () => builder.box(kind, `box-${randomUUID()}`) });
  }

  /** Starts processes that wait, until there are enough; those that end leave the list. */
  #fill(workers: Worker[], { count, make }: { count: number; make: () => Worker['plan'] }): void {
    while (!this.#isClosed && workers.length < count) {
      try {
        this.#makeFolder();
        const worker = this.#start(make());
        workers.push(worker);
        void worker.ended.then(() => {
          const index = workers.indexOf(worker);
          if (index >= 0) workers.splice(index, 1);
        });
      } catch (error) {
        this.#telemetry.log.warn('no process can be made to wait', { error });
        return;
      }
    }
  }
}

/** Who can write there can change what instances run. Throws `BACKEND_UNAVAILABLE`. */
function checkOwn(folder: string): void {
  const found = lstatSync(folder);
  const { uid, mode } = found;
  const isOurs = found.isDirectory() && (process.getuid === undefined || uid === process.getuid()) && (mode & 0o022) === 0;
  if (isOurs) return;
  const what = `${folder} is a link, or can be written by others than user ${process.getuid?.()}`;
  throw new RunnerError('BACKEND_UNAVAILABLE', `${what}: remove it, or give the process backend a folder of its own (option folder)`, {
    details: { folder },
  });
}

/** Those of a kind, which is now the last used; of too many kinds those that were not used for longest end. */
function lastUsed(all: Map<string, Waiting>, key: string, kind: WorkerClass): Waiting {
  const entry = all.get(key) ?? { of: kind, workers: [], isFilling: false };
  all.delete(key);
  all.set(key, entry);
  for (const [oldKey, old] of all) {
    if (all.size <= CLASSES_MAX) break;
    all.delete(oldKey);
    for (const worker of old.workers) void worker.terminate();
  }
  return entry;
}

function sizeOf(all: ReadonlyMap<string, Waiting>): number {
  return [...all.values()].reduce((sum, { workers }) => sum + workers.length, 0);
}

/** The first that still lives. */
function taken(waiting: Waiting | undefined): Worker | undefined {
  for (;;) {
    const worker = waiting?.workers.shift();
    if (!worker || worker.isAlive) return worker;
  }
}

function keyOf(kind: WorkerClass): string {
  return JSON.stringify([kind.ownerId, kind.node, kind.memoryMb, kind.ephemeralMb, kind.network]);
}

function boxKeyOf(kind: WorkerClass): string {
  return keyOf({ ...kind, memoryMb: 0 });
}

function isMachineIdle(count: number): boolean {
  return freemem() > 4 * count * BLANK_BYTES && (loadavg()[0] ?? 0) < 4 * availableParallelism();
}

let clientName: string | undefined;

/** The client as a file; the same for all instances of this version. */
function writeClient(folder: string): string {
  clientName ??= `client-${createHash('sha256').update(nodeClientSource()).digest('hex').slice(0, 16)}.cjs`;
  const file = join(folder, clientName);
  if (!existsSync(file)) {
    const fresh = `${file}.${randomUUID()}`;
    writeFileSync(fresh, nodeClientSource(), { mode: 0o644 });
    chmodSync(fresh, 0o644);
    renameSync(fresh, file);
  }
  return file;
}
