/** Keeps long-running programs alive as containers of Docker or podman. */

import { createHash } from 'node:crypto';
import { chownSync, mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import {
  RunnerError,
  Secret,
  checkProgram,
  logFilter,
  logLevelOf,
  programDigest,
  secretsFingerprint,
  systemClock,
  toRunnerError,
  writeProgram,
} from '../../src/plugin.ts';
import type { Clock, DeployOptions, LogEntry, LogQuery, Machine, MachineHost, MachineReport, ProgramSpec } from '../../src/plugin.ts';
import { ContainerHost } from './host.ts';
import type { Engine } from './client.ts';

export interface ContainerMachineOptions {
  /** For programs and their data. The engine must see it under the same path. */
  readonly folder: string;
  /** As `DOCKER_HOST`. */
  readonly host?: string;
  /** A network of the engine, or `host`. Default `bridge`: out, but not in. */
  readonly network?: string;
  /** Default 60,000. */
  readonly readyTimeoutMs?: number;
  /** Time to drain, milliseconds. Default 45,000. */
  readonly stopTimeoutMs?: number;
  /** Processors. Default 1. */
  readonly cpus?: number;
  readonly clock?: Clock;
  readonly environment?: NodeJS.ProcessEnv;
}

const LABEL = {
  machine: 'dev.blueprint-runner.machine',
  /** Whose: several users and folders may share an engine. */
  owner: 'dev.blueprint-runner.machine-owner',
  spec: 'dev.blueprint-runner.spec',
  started: 'dev.blueprint-runner.started',
} as const;
const PROGRAM_FOLDER = '/var/task';
const DATA_FOLDER = '/var/lib/blueprint-runner';
const POLL_MS = 200;
const MIB = 1024 * 1024;
const DEFAULT_MEMORY_MB = 512;
const TMP_BYTES = 64 * MIB;
const PIDS_MAX = 256;
const OPEN_FILES_MAX = 4_096;
const HEAP_SHARE = 0.75;
const REASON_LINES = 20;

/**
 * One container per program, of the image that is made of the node on disk: no capabilities, no new privileges, read-only root, bounded memory,
 * processors and processes, the program read-only, its data in a folder of this machine. The engine starts it again when it fails.
 */
export class ContainerMachineHost implements MachineHost {
  readonly name = 'container';
  readonly #options: ContainerMachineOptions;
  readonly #clock: Clock;
  readonly #host: ContainerHost;
  readonly #owner: string;

  /** Does no I/O. */
  constructor(options: ContainerMachineOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    const { folder, host, clock, environment } = options;
    this.#owner = createHash('sha256')
      .update(`${process.getuid?.() ?? ''} ${resolve(folder)}`)
      .digest('hex')
      .slice(0, 16);
    this.#host = new ContainerHost({
      folder,
      ...(host !== undefined && { host }),
      ...(clock && { clock }),
      ...(environment && { environment }),
    });
  }

  dataFolder(): string {
    return DATA_FOLDER;
  }

  async run(spec: ProgramSpec, options: DeployOptions = {}): Promise<MachineReport> {
    checkProgram(spec);
    const secrets = await this.#secrets(spec);
    const engine = await this.#host.engine();
    const { folder, network = 'bridge' } = this.#options;
    const specSha256 = programDigest(
      { ...spec, environment: { ...spec.environment, network } },
      secretsFingerprint(secrets, { folder, dryRun: options.dryRun }),
    );
    const present = await this.#find(engine, spec.name);
    if (present?.isForeign) throw foreign(spec.name);
    const isSame = present?.specSha256 === specSha256 && present.running;
    const changes = [{ action: present ? 'update' : 'create', resource: 'container', id: containerName(spec.name) } as const];
    if (options.dryRun)
      return { ...(present && { machine: await this.#machine(engine, spec.name, present) }), changes: isSame ? [] : changes, warnings: [] };
    const machine = isSame ? await this.#recovered(engine, spec.name, options) : undefined;
    if (machine) return { machine, changes: [], warnings: [] };
    if (present) await this.#end(engine, present.id, options);
    options.onProgress?.({ step: 'starting the container', function: spec.name, writes: true });
    await this.#start(engine, spec, { specSha256, secrets, signal: options.signal ?? new AbortController().signal });
    options.onProgress?.({ step: 'waiting until it is ready', function: spec.name });
    return { machine: await this.#untilReady(engine, spec.name, options.signal), changes, warnings: [] };
  }

  /** Undefined: it runs and does not become ready, so that it is to be started again. */
  async #recovered(engine: Engine, name: string, { onProgress, signal }: DeployOptions): Promise<Machine | undefined> {
    onProgress?.({ step: 'waiting until it is ready', function: name });
    try {
      return await this.#untilReady(engine, name, signal);
    } catch (thrown) {
      if (toRunnerError(thrown).code === 'DEPLOY_FAILED') return undefined;
      throw thrown;
    }
  }

  async describe(name: string): Promise<Machine | undefined> {
    const engine = await this.#host.engine();
    const found = await this.#find(engine, name);
    if (found?.isForeign) return { name, id: found.id, status: 'foreign' };
    return found && this.#machine(engine, name, found);
  }

  async *list(): AsyncGenerator<Machine> {
    const engine = await this.#host.engine();
    const names = (await engine.list(LABEL.owner, this.#owner)).map(({ labels }) => labels[LABEL.machine] ?? '').toSorted();
    for (const name of names) {
      const machine = await this.describe(name);
      if (machine) yield machine;
    }
  }

  async *logs(name: string, query: LogQuery = {}): AsyncGenerator<LogEntry> {
    const engine = await this.#host.engine();
    const found = await this.#find(engine, name);
    if (!found || found.isForeign) throw new RunnerError('NOT_FOUND', `there is no program ${name} in a container`, { details: { name } });
    const isWanted = logFilter(query);
    const lines = (await engine.output(found.id)).map(entryOf).filter(isWanted);
    yield* lines.slice(-(query.limit ?? 100));
    if (!query.follow) return;
    for await (const line of engine.outputFrom(found.id, Math.ceil(this.#clock.now() / 1_000), query.signal)) {
      const entry = entryOf(line);
      if (isWanted(entry)) yield entry;
    }
  }

  async terminate(name: string, options: DeployOptions = {}): Promise<MachineReport> {
    const engine = await this.#host.engine();
    const found = await this.#find(engine, name);
    if (!found) return { changes: [], warnings: [] };
    if (found.isForeign) throw foreign(name);
    const changes = [{ action: 'delete', resource: 'container', id: containerName(name) } as const];
    if (!options.dryRun) await this.#end(engine, found.id, options);
    return { changes, warnings: [] };
  }

  async #find(engine: Engine, name: string): Promise<Found | undefined> {
    const found = await engine.named(containerName(name));
    return (
      found && {
        id: found.id,
        running: found.running,
        restarts: found.restarts,
        isForeign: found.labels[LABEL.machine] !== name || found.labels[LABEL.owner] !== this.#owner,
        specSha256: found.labels[LABEL.spec] ?? '',
        startedAt: found.labels[LABEL.started] ?? '',
        healthPort: Number(found.labels[`${LABEL.machine}.port`]),
      }
    );
  }

  async #start(engine: Engine, spec: ProgramSpec, { specSha256, secrets, signal }: StartOptions): Promise<void> {
    const { image, uid } = await this.#host.place(nodeFunction(), signal);
    const program = join(this.#options.folder, spec.name, `program-${specSha256.slice(0, 12)}`);
    const data = join(this.#options.folder, spec.name, 'data');
    writeProgram(spec, program, { folder: 0o755, file: 0o644 });
    mkdirSync(data, { recursive: true, mode: 0o700 });
    if (process.getuid?.() === 0) chownSync(data, uid, uid);
    const memoryBytes = (spec.memoryMb ?? DEFAULT_MEMORY_MB) * MIB;
    const heapMb = Math.floor((memoryBytes / MIB) * HEAP_SHARE);
    const environment = { ...spec.environment, ...secrets };
    const id = await engine.create({
      name: containerName(spec.name),
      Image: image.reference,
      Entrypoint: ['node'],
      Cmd: [`--max-old-space-size=${heapMb}`, ...spec.args],
      Env: Object.entries(environment).map(([key, value]) => `${key}=${value}`),
      User: `${uid}:${uid}`,
      WorkingDir: PROGRAM_FOLDER,
      Labels: {
        ...spec.tags,
        [LABEL.machine]: spec.name,
        [LABEL.owner]: this.#owner,
        [`${LABEL.machine}.port`]: String(spec.healthPort),
        [LABEL.spec]: specSha256,
        [LABEL.started]: new Date(this.#clock.now()).toISOString(),
      },
      HostConfig: {
        NetworkMode: this.#options.network ?? 'bridge',
        RestartPolicy: { Name: 'unless-stopped' },
        ReadonlyRootfs: true,
        Tmpfs: { '/tmp': `rw,noexec,nosuid,nodev,mode=1777,size=${TMP_BYTES}` },
        CapDrop: ['ALL'],
        SecurityOpt: ['no-new-privileges'],
        PidsLimit: PIDS_MAX,
        Memory: memoryBytes,
        MemorySwap: memoryBytes,
        NanoCpus: Math.round((this.#options.cpus ?? 1) * 1e9),
        Ulimits: [{ Name: 'nofile', Soft: OPEN_FILES_MAX, Hard: OPEN_FILES_MAX }],
        LogConfig: { Type: 'json-file', Config: { 'max-size': '10m', 'max-file': '3' } },
        Init: true,
        Mounts: [
          { Type: 'bind', Source: program, Target: PROGRAM_FOLDER, ReadOnly: true },
          { Type: 'bind', Source: data, Target: DATA_FOLDER, ReadOnly: false },
        ],
      },
    });
    await engine.start(id);
  }

  async #untilReady(engine: Engine, name: string, signal: AbortSignal | undefined): Promise<Machine> {
    const { readyTimeoutMs = 60_000 } = this.#options;
    const until = this.#clock.monotonic() + readyTimeoutMs;
    for (;;) {
      const found = await this.#find(engine, name);
      const machine = found && (await this.#machine(engine, name, found));
      if (machine?.status === 'running') return machine;
      const isLate = this.#clock.monotonic() > until;
      if (machine?.status !== 'starting' || isLate) {
        const what = isLate ? `was not ready within ${readyTimeoutMs} ms` : 'ended before it was ready';
        const lines = found ? await this.#lastLines(engine, found.id) : '';
        throw new RunnerError('DEPLOY_FAILED', `the program ${name} ${what}:\n${lines}`, { details: { name } });
      }
      await this.#clock.sleep(POLL_MS, signal);
    }
  }

  async #machine(engine: Engine, name: string, found: Found): Promise<Machine> {
    const { id, running, restarts, specSha256, startedAt, healthPort } = found;
    const probe = `fetch('http://127.0.0.1:${healthPort}/readyz').then((r)=>process.exit(r.ok?0:1),()=>process.exit(1))`;
    const isReady = running && (await engine.succeeds(id, ['node', '-e', probe]));
    const status = isReady ? 'running' : running && restarts === 0 ? 'starting' : running ? 'failed' : 'stopped';
    const memoryBytes = running ? await engine.memoryBytes(id) : undefined;
    return {
      name,
      id,
      status,
      ...((status === 'failed' || status === 'stopped') && { reason: await this.#lastLines(engine, id) }),
      ...(this.#options.network === 'host' && { healthUrl: `http://127.0.0.1:${healthPort}` }),
      specSha256,
      startedAt,
      ...(memoryBytes !== undefined && { memoryBytes }),
    };
  }

  async #end(engine: Engine, id: string, { onProgress }: DeployOptions): Promise<void> {
    onProgress?.({ step: 'waiting until it has drained', function: id.slice(0, 12) });
    await engine.stop(id, Math.ceil((this.#options.stopTimeoutMs ?? 45_000) / 1_000));
    await engine.remove(id);
  }

  async #lastLines(engine: Engine, id: string): Promise<string> {
    return (await engine.output(id)).slice(-REASON_LINES).join('\n');
  }

  async #secrets({ secrets = {} }: ProgramSpec): Promise<Record<string, string>> {
    const { environment = process.env } = this.#options;
    const read: Record<string, string> = {};
    for (const [name, reference] of Object.entries(secrets)) read[name] = await new Secret(reference, { environment }).read();
    return read;
  }
}

interface Found {
  readonly id: string;
  readonly running: boolean;
  readonly restarts: number;
  readonly isForeign: boolean;
  readonly specSha256: string;
  readonly startedAt: string;
  readonly healthPort: number;
}

interface StartOptions {
  readonly specSha256: string;
  readonly secrets: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
}

/** What the image of the node on disk is asked for with. */
const nodeFunction = () =>
  ({ code: { kind: 'folder', path: '', sha256: '' }, runtime: `nodejs${process.versions.node.split('.')[0]}.x` }) as const;

const containerName = (name: string): string => `bpr-${name}`;

function foreign(name: string): RunnerError {
  const id = containerName(name);
  return new RunnerError('RESOURCE_FOREIGN', `the container ${id} was not made by this tool for this folder; it is left alone`, {
    details: { container: id },
  });
}

/** `TIME LINE`, as the engine writes with time stamps; a line of pino tells its level. */
function entryOf(line: string): LogEntry {
  const space = line.indexOf(' ');
  const message = line.slice(space + 1);
  const at = Date.parse(line.slice(0, space));
  const level = logLevelOf(message);
  return { at, message, ...(level !== undefined && { level }) };
}
