/** A topology on this machine: its parts as long-running programs, and the record of them. */

import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { DeployOptions } from '../executor/deployer.ts';
import type { Machine, MachineHost, ProgramSpec } from '../executor/machine.ts';
import { mapLimited } from '../map-limited.ts';
import { CONTROL_PORT, ENGINE_PORT, checkWorker, localParts, partsOf, placesIn } from './topology.ts';
import type { LocalPart, Part, Role, TopologyOption, TopologySize } from './topology.ts';

export interface ClusterOptions {
  /** Of everything that belongs to it. */
  readonly folder: string;
  /** Runs programs in the folder `machines` of that folder. */
  readonly host: MachineHost;
  /** The module with the command line; it exports `main(args)`. */
  readonly mainUrl: string;
  /** The wanted port when it is free, else any. */
  readonly freePort: (wanted?: number) => Promise<number>;
  readonly random?: (bytes: number) => Uint8Array;
}

export interface UpOptions extends TopologySize {
  /** Of the control plane; 0: any free one. Default: that of before, or 3020. */
  readonly port?: number | undefined;
  /** Of the first engine; the others follow it. 0: any free ones. Default: those of before, or 27288. */
  readonly enginePort?: number | undefined;
  readonly engineHost: string;
  readonly engineAddress: string;
  readonly concurrency: number;
  readonly leaseMs: number;
  readonly logLevel: string;
}

export interface PartReport {
  readonly name: string;
  readonly role: Role;
  readonly status: Machine['status'] | 'missing';
  readonly pid: number | undefined;
  readonly startedAt: string | undefined;
  readonly port: number;
  readonly url: string;
  readonly log: string;
  readonly memoryBytes: number | undefined;
  /** Its last lines, when it has ended. */
  readonly reason: string | undefined;
}

export interface ClusterReport {
  readonly option: TopologyOption;
  readonly workers: number;
  readonly engines: number;
  readonly folder: string;
  readonly controlUrl: string;
  readonly ticketFile: string;
  readonly engineUrls: readonly string[];
  readonly parts: readonly PartReport[];
}

export interface UpReport extends ClusterReport {
  /** Names of the parts that were started, or started anew because they are to run otherwise now. */
  readonly started: readonly string[];
  /** Of those that ran and are not wanted any more. */
  readonly ended: readonly string[];
}

interface RecordedPart extends Part {
  readonly port: number;
  readonly pid?: number | undefined;
  readonly startedAt?: string | undefined;
  readonly log: string;
}

interface ClusterRecord {
  readonly version: 1;
  readonly option: TopologyOption;
  readonly engineAddress: string;
  readonly ticketFile: string;
  readonly parts: readonly RecordedPart[];
}

const START = 'start.mjs';
const PORT_MAX = 65_535;
const PART_NAME = /^(?:engine-\d+|worker-\d+|pool-worker)$/;

/**
 * Everything can be repeated: `up` starts what is missing and leaves alone what runs as it should, `down` ends what is there. The record is
 * written before the first part is started, so that `down` finds all of them however `up` ended.
 *
 * @example
 * const cluster = new Cluster({ folder, host, mainUrl, freePort });
 * await cluster.up({ option: '3', workers: 4, ...settings });
 * await cluster.down();
 */
export class Cluster {
  readonly #options: ClusterOptions;

  /** Does no I/O. */
  constructor(options: ClusterOptions) {
    this.#options = options;
  }

  /**
   * Resolves when every part is ready. Whenever it rejects, the parts that it started have ended. Rejects with `CONFIG_INVALID`,
   * `STATE_INVALID` while another option runs, `DEPLOY_FAILED` with the last words of a part that does not become ready, `ABORTED`.
   */
  async up(options: UpOptions, work: DeployOptions = {}): Promise<UpReport> {
    const { folder } = this.#options;
    const { option } = options;
    const parts = partsOf(options);
    checkWorker(options);
    // What was begun is undone also after an interruption.
    const { signal: _, ...undoing } = work;
    const before = this.#read();
    const running = await this.#running();
    if (before && before.option !== option && running.size > 0)
      throw new RunnerError('STATE_INVALID', `option ${before.option} runs in ${folder}; end it first with bpr topology down`, {
        details: { folder, running: [...running] },
      });
    const ports = await this.#portsOf(parts, options, { before, running });
    await this.#checkPorts(parts, ports, { before, running });
    this.#openToken();
    const local = localParts(parts, { ...options, folder, ports });
    const record = recordOf(
      options,
      placesIn(folder).ticket,
      local.map((part) => this.#recorded(part)),
    );
    this.#write(record);
    const wanted = new Set(parts.map(({ name }) => name));
    const ended = [...running].filter((name) => !wanted.has(name));
    await this.#terminateAll(ended, work);
    const started: string[] = [];
    try {
      // A ticket that lies there may name the port of an earlier control plane: workers read it when the new one has written it.
      for (const wave of [local.filter(({ role }) => role !== 'worker'), local.filter(({ role }) => role === 'worker')])
        await this.#start(wave, { running, started }, work);
    } catch (thrown) {
      await this.#terminateAll(started, undoing);
      if (before) this.#write(before);
      else rmSync(placesIn(folder).record, { force: true });
      throw thrown;
    }
    const report = await this.#report(record);
    this.#write({ ...record, parts: record.parts.map((part) => ({ ...part, ...processOf(report, part.name) })) });
    return { ...report, started: local.map(({ name }) => name).filter((name) => started.includes(name)), ended };
  }

  /** Undefined: there is none. */
  async status(): Promise<ClusterReport | undefined> {
    const record = this.#read();
    return record && this.#report(record);
  }

  /** Names of the parts that ended: workers first, which give back what they have not begun. `purge` removes what they have written. */
  async down({ purge = false }: { readonly purge?: boolean } = {}, work: DeployOptions = {}): Promise<readonly string[]> {
    const { folder } = this.#options;
    const record = this.#read();
    const names = await this.#known();
    const roles = new Map(record?.parts.map(({ name, role }) => [name, role]));
    const isWorker = (name: string): boolean => (roles.get(name) ?? 'worker') === 'worker';
    for (const wave of [names.filter(isWorker), names.filter((name) => !isWorker(name))]) await this.#terminateAll(wave, work);
    // The key is written before all else, and removed last: a folder without it is somebody else's.
    const isOurs = record !== undefined || existsSync(placesIn(folder).engineToken);
    rmSync(placesIn(folder).record, { force: true });
    if (purge && isOurs) this.#purge();
    return names;
  }

  /** At the same time. */
  async #terminateAll(names: readonly string[], work: DeployOptions): Promise<void> {
    await mapLimited(names, names.length, (name) => this.#options.host.terminate(name, work));
  }

  async #start(wave: readonly LocalPart[], { running, started }: Started, work: DeployOptions): Promise<void> {
    const { host } = this.#options;
    work.signal?.throwIfAborted();
    const outcomes = await Promise.allSettled(
      wave.map(async (part) => {
        // Known before it is started: an interruption must find it.
        if (!running.has(part.name)) started.push(part.name);
        const { changes } = await host.run(this.#programOf(part), work);
        if (changes.length > 0 && !started.includes(part.name)) started.push(part.name);
      }),
    );
    const failures = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [toRunnerError(outcome.reason)] : []));
    // An interruption ends all of them: what failed before it says more.
    const failure = failures.find(({ code }) => code !== 'ABORTED') ?? failures[0];
    if (failure) throw failure;
  }

  #programOf({ name, args, environment, secrets, port }: LocalPart): ProgramSpec {
    const text = `import * as nodeModule from 'node:module';
nodeModule.enableCompileCache?.();
const { main } = await import(${JSON.stringify(this.#options.mainUrl)});
process.exitCode = await main(process.argv.slice(2));
`;
    return { name, files: { [START]: Buffer.from(text) }, args: [START, ...args], environment, secrets, healthPort: port };
  }

  /** Those of the record stay, unless others are asked for: the ticket of workers elsewhere names one. */
  async #portsOf(parts: readonly Part[], options: UpOptions, { before, running }: Found): Promise<Map<string, number>> {
    const { freePort } = this.#options;
    const known = new Map(before?.parts.map(({ name, port }) => [name, port]));
    const ports = new Map<string, number>();
    const taken = new Set<number>();
    for (const part of parts) {
      const recorded = known.get(part.name);
      let port = wantedPort(part, options) ?? recorded ?? defaultPort(part);
      // Any: that of before, when nobody else has it now.
      if (port === 0) port = recorded !== undefined && running.has(part.name) ? recorded : await freePort(recorded);
      while (taken.has(port)) port = await freePort();
      if (port > PORT_MAX)
        throw new RunnerError('CONFIG_INVALID', `${part.name} would have port ${port}; choose lower ones with --engine-port`, {
          details: { port, part: part.name },
        });
      taken.add(port);
      ports.set(part.name, port);
    }
    return ports;
  }

  /** Another program there would pass for the part that is waited for. */
  async #checkPorts(parts: readonly Part[], ports: ReadonlyMap<string, number>, { before, running }: Found): Promise<void> {
    const known = new Map(before?.parts.map(({ name, port }) => [name, port]));
    for (const { name } of parts) {
      const port = ports.get(name) ?? 0;
      const isItsOwn = running.has(name) && (known.get(name) ?? port) === port;
      if (isItsOwn || (await this.#options.freePort(port)) === port) continue;
      throw new RunnerError(
        'CONFIG_INVALID',
        `port ${port} of ${name} is taken by another program; choose others with --port, --engine-port`,
        {
          details: { port, part: name },
        },
      );
    }
  }

  async #known(): Promise<readonly string[]> {
    const names: string[] = [];
    for await (const { name } of this.#options.host.list()) names.push(name);
    return names;
  }

  async #running(): Promise<ReadonlySet<string>> {
    const names = new Set<string>();
    for await (const { name, status } of this.#options.host.list()) if (status === 'running' || status === 'starting') names.add(name);
    return names;
  }

  async #report(record: ClusterRecord): Promise<ClusterReport> {
    const { folder, host } = this.#options;
    const { option, engineAddress, ticketFile } = record;
    const parts = await Promise.all(
      record.parts.map(async ({ name, role, port, log }): Promise<PartReport> => {
        const machine = await host.describe(name);
        const isAlive = machine?.status === 'running' || machine?.status === 'starting';
        return {
          name,
          role,
          status: machine?.status ?? 'missing',
          pid: isAlive ? Number(machine.id) : undefined,
          startedAt: machine?.startedAt,
          port,
          url: `http://127.0.0.1:${port}`,
          log,
          memoryBytes: machine?.memoryBytes,
          reason: machine?.reason,
        };
      }),
    );
    const engines = parts.filter(({ role }) => role === 'engine');
    return {
      option,
      workers: parts.filter(({ role }) => role === 'worker').length,
      engines: engines.length,
      folder,
      controlUrl: parts.find(({ role }) => role === 'control-plane')?.url ?? '',
      ticketFile,
      engineUrls: engines.map(({ port }) => `http://${engineAddress}:${port}`),
      parts,
    };
  }

  #recorded({ name, role, backend, port }: LocalPart): RecordedPart {
    return { name, role, ...(backend && { backend }), port, log: join(placesIn(this.#options.folder).machines, name, 'log') };
  }

  #read(): ClusterRecord | undefined {
    const { record: file } = placesIn(this.#options.folder);
    if (!existsSync(file)) return undefined;
    try {
      return JSON.parse(readFileSync(file, 'utf8')) as ClusterRecord; // as: we wrote it
    } catch (cause) {
      throw new RunnerError('STORE_FAILED', `the record ${file} of a topology cannot be read`, { cause, details: { file } });
    }
  }

  #write(record: ClusterRecord): void {
    mkdirSync(this.#options.folder, { recursive: true, mode: 0o700 });
    writeWhole(placesIn(this.#options.folder).record, `${JSON.stringify(record, null, 2)}\n`);
  }

  /** What engines ask for: they run whatever whoever has it sends. */
  #openToken(): void {
    const { folder, random = randomBytes } = this.#options;
    const { engineToken: file } = placesIn(folder);
    if (existsSync(file)) return;
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    writeWhole(file, Buffer.from(random(32)).toString('base64url'));
  }

  #purge(): void {
    const { folder } = this.#options;
    const { control, machines, engineToken, part } = placesIn(folder);
    const entries = existsSync(folder) ? readdirSync(folder) : [];
    // Also of parts that a smaller size has ended before.
    for (const path of [control, machines, ...entries.filter((name) => PART_NAME.test(name)).map(part), engineToken])
      rmSync(path, { recursive: true, force: true });
    // What somebody else put there stays.
    if (existsSync(folder) && readdirSync(folder).length === 0) rmdirSync(folder);
  }
}

interface Found {
  readonly before: ClusterRecord | undefined;
  readonly running: ReadonlySet<string>;
}

interface Started {
  readonly running: ReadonlySet<string>;
  /** Grows. */
  readonly started: string[];
}

/** What was asked for; undefined: nothing. */
function wantedPort({ name, role }: Part, { port, enginePort }: UpOptions): number | undefined {
  if (role === 'worker') return 0;
  if (role === 'control-plane') return port;
  return enginePort === undefined || enginePort === 0 ? enginePort : enginePort + numberOf(name) - 1;
}

function defaultPort({ name, role }: Part): number {
  return role === 'control-plane' ? CONTROL_PORT : ENGINE_PORT + numberOf(name) - 1;
}

const numberOf = (name: string): number => Number(/\d+$/.exec(name)?.[0] ?? 1);

function recordOf({ option, engineAddress }: UpOptions, ticketFile: string, parts: readonly RecordedPart[]): ClusterRecord {
  return { version: 1, option, engineAddress, ticketFile, parts };
}

function processOf({ parts }: ClusterReport, name: string): Pick<RecordedPart, 'pid' | 'startedAt'> {
  const { pid, startedAt } = parts.find((part) => part.name === name) ?? {};
  return { pid, startedAt };
}

/** For its owner only, there whole or not at all. */
function writeWhole(file: string, text: string): void {
  writeFileSync(`${file}.new`, text, { mode: 0o600, flush: true });
  renameSync(`${file}.new`, file);
}
