/** Keeps long-running programs alive as processes of this machine, apart from the one that started them. */

import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  RunnerError,
  Secret,
  checkProgram,
  programDigest,
  secretsFingerprint,
  systemClock,
  toRunnerError,
  writeProgram,
} from '../../src/plugin.ts';
import type { Clock, DeployOptions, LogEntry, LogQuery, Machine, MachineHost, MachineReport, ProgramSpec } from '../../src/plugin.ts';
import { logLimiter, readLog } from './host-log.ts';
import { identityOf } from './leftovers.ts';

export interface ProcessHostOptions {
  /** Where programs, their records and logs lie. Default: `blueprint-runner/machines` in the user's state folder. */
  readonly folder?: string | undefined;
  /** How long a program may take until it is ready, milliseconds. Default 60,000. */
  readonly readyTimeoutMs?: number | undefined;
  /** How long it may take to drain, milliseconds. Default 45,000. */
  readonly stopTimeoutMs?: number | undefined;
  readonly clock?: Clock | undefined;
  readonly environment?: NodeJS.ProcessEnv | undefined;
}

interface Note {
  readonly name: string;
  readonly specSha256: string;
  readonly healthPort: number;
  readonly startedAt: string;
  /** Absent: the sender died between the note and the start. The process, if there is one, carries the token. */
  readonly process?: { readonly pid: number; readonly bootId: string; readonly startTime: string };
  readonly token: string;
}

const LIMITER_FILE = '.log-limiter.mjs';
const POLL_MS = 50;
const HEAP_SHARE = 0.75;
const TOKEN_VARIABLE = 'BPR_MACHINE_TOKEN';
const REASON_LINES = 20;
/** For what no signal ends at once: a process in the kernel. */
const KILL_WAIT_MS = 10_000;

/**
 * Programs outlive the process that starts them: each has a session, a folder, a log and data of its own. A program is recognised by process id,
 * boot and start time, so that another process with its id is never taken for it.
 */
export class ProcessHost implements MachineHost {
  readonly name = 'process';
  readonly #folder: string;
  readonly #readyTimeoutMs: number;
  readonly #stopTimeoutMs: number;
  readonly #clock: Clock;
  readonly #environment: NodeJS.ProcessEnv;

  constructor(options: ProcessHostOptions = {}) {
    const { readyTimeoutMs = 60_000, stopTimeoutMs = 45_000, clock = systemClock, environment = process.env } = options;
    const state = environment['XDG_STATE_HOME'] ?? join(homedir(), '.local', 'state');
    this.#folder = options.folder ?? join(state, 'blueprint-runner', 'machines');
    this.#readyTimeoutMs = readyTimeoutMs;
    this.#stopTimeoutMs = stopTimeoutMs;
    this.#clock = clock;
    this.#environment = environment;
  }

  dataFolder(name: string): string {
    return join(this.#folder, '.data', name);
  }

  async run(spec: ProgramSpec, options: DeployOptions = {}): Promise<MachineReport> {
    checkProgram(spec);
    const secrets = await readSecrets(spec.secrets ?? {}, this.#environment);
    const specSha256 = programDigest(spec, secretsFingerprint(secrets, { folder: this.#folder, dryRun: options.dryRun }));
    const present = this.#find(spec.name);
    const isSame = present?.note.specSha256 === specSha256 && present.pid !== undefined;
    const action = present?.pid === undefined ? 'create' : 'update';
    const changes = [{ action, resource: 'process', id: spec.name } as const];
    if (options.dryRun) return { ...(present && { machine: await this.#machine(present) }), changes: isSame ? [] : changes, warnings: [] };
    const machine = isSame ? await this.#recovered(spec.name, options) : undefined;
    if (machine) return { machine, changes: [], warnings: [] };
    const pid = this.#find(spec.name)?.pid;
    if (pid !== undefined) await this.#end(spec.name, pid, options);
    options.onProgress?.({ step: 'starting the process', function: spec.name, writes: true });
    this.#start(spec, specSha256, secrets);
    options.onProgress?.({ step: 'waiting until it is ready', function: spec.name });
    return { machine: await this.#untilReady(spec.name, options.signal), changes, warnings: [] };
  }

  /** Undefined: it runs and does not become ready, so that it is to be started again. */
  async #recovered(name: string, { onProgress, signal }: DeployOptions): Promise<Machine | undefined> {
    onProgress?.({ step: 'waiting until it is ready', function: name });
    try {
      return await this.#untilReady(name, signal);
    } catch (thrown) {
      if (toRunnerError(thrown).code === 'DEPLOY_FAILED') return undefined;
      throw thrown;
    }
  }

  async describe(name: string): Promise<Machine | undefined> {
    const found = this.#find(name);
    return found && this.#machine(found);
  }

  async *list(): AsyncGenerator<Machine> {
    const names = existsSync(this.#folder) ? readdirSync(this.#folder).toSorted() : [];
    for (const name of names) {
      const machine = await this.describe(name);
      if (machine) yield machine;
    }
  }

  logs(name: string, query: LogQuery = {}): AsyncIterable<LogEntry> {
    if (!this.#find(name)) throw notFound(name);
    return readLog(this.#logFile(name), query, this.#clock);
  }

  async terminate(name: string, options: DeployOptions = {}): Promise<MachineReport> {
    const found = this.#find(name);
    if (!found) return { changes: [], warnings: [] };
    const changes = [{ action: 'delete', resource: 'process', id: name } as const];
    if (options.dryRun) return { machine: await this.#machine(found), changes, warnings: [] };
    if (found.pid !== undefined) await this.#end(name, found.pid, options);
    rmSync(join(this.#folder, name), { recursive: true, force: true });
    return { changes, warnings: [] };
  }

  #start(spec: ProgramSpec, specSha256: string, secrets: Readonly<Record<string, string>>): void {
    const folder = join(this.#folder, spec.name);
    const programs = join(folder, `program-${specSha256.slice(0, 12)}`);
    writeProgram(spec, programs, { folder: 0o700, file: 0o600 });
    const limiter = join(programs, LIMITER_FILE);
    writeFileSync(limiter, logLimiter(this.#logFile(spec.name)), { mode: 0o600 });
    mkdirSync(this.dataFolder(spec.name), { recursive: true, mode: 0o700 });
    for (const other of readdirSync(folder))
      if (other.startsWith('program-') && join(folder, other) !== programs) rmSync(join(folder, other), { recursive: true, force: true });
    const note: Note = {
      name: spec.name,
      specSha256,
      healthPort: spec.healthPort,
      startedAt: new Date(this.#clock.now()).toISOString(),
      token: randomUUID(),
    };
    this.#write(note);
    const log = openSync(this.#logFile(spec.name), 'a', 0o600);
    try {
      const heap = spec.memoryMb === undefined ? [] : [`--max-old-space-size=${Math.floor(spec.memoryMb * HEAP_SHARE)}`];
      const child = spawn(process.execPath, [...heap, '--import', pathToFileURL(limiter).href, ...spec.args], {
        cwd: programs,
        detached: true,
        env: { PATH: '/usr/local/bin:/usr/bin:/bin', TMPDIR: '/tmp', ...spec.environment, ...secrets, [TOKEN_VARIABLE]: note.token },
        stdio: ['ignore', log, log],
      });
      child.unref();
      child.once('error', () => {});
      const identity = child.pid === undefined ? undefined : identityOf(child.pid);
      if (identity) this.#write({ ...note, process: identity });
    } finally {
      closeSync(log);
    }
  }

  async #untilReady(name: string, signal: AbortSignal | undefined): Promise<Machine> {
    const until = this.#clock.monotonic() + this.#readyTimeoutMs;
    for (;;) {
      const found = this.#find(name);
      if (!found) throw new RunnerError('DEPLOY_FAILED', `the program ${name} was removed while it started`, { details: { name } });
      const machine = await this.#machine(found);
      if (machine.status === 'running') return machine;
      const isLate = this.#clock.monotonic() > until;
      if (machine.status !== 'starting' || isLate) {
        const what = isLate ? `was not ready within ${this.#readyTimeoutMs} ms` : 'ended before it was ready';
        throw new RunnerError('DEPLOY_FAILED', `the program ${name} ${what}:\n${this.#lastLines(name)}`, {
          details: { name, log: this.#logFile(name) },
        });
      }
      await this.#clock.sleep(POLL_MS, signal);
    }
  }

  async #machine({ note, pid }: Found): Promise<Machine> {
    const url = `http://127.0.0.1:${note.healthPort}`;
    const isReady = pid !== undefined && (await answers(`${url}/readyz`));
    const memoryBytes = pid === undefined ? undefined : residentBytes(pid);
    return {
      name: note.name,
      id: String(pid ?? note.process?.pid ?? ''),
      status: pid === undefined ? 'stopped' : isReady ? 'running' : 'starting',
      ...(pid === undefined ? { reason: this.#lastLines(note.name) } : { healthUrl: url }),
      specSha256: note.specSha256,
      startedAt: note.startedAt,
      ...(memoryBytes !== undefined && { memoryBytes }),
    };
  }

  async #end(name: string, pid: number, { onProgress, signal }: DeployOptions): Promise<void> {
    onProgress?.({ step: 'waiting until it has drained', function: name });
    const until = this.#clock.monotonic() + this.#stopTimeoutMs;
    signalProcess(pid, 'SIGTERM');
    while (this.#find(name)?.pid === pid) {
      const late = this.#clock.monotonic() - until;
      if (late > KILL_WAIT_MS) throw new RunnerError('DEPLOY_FAILED', `process ${pid} of ${name} does not end`, { details: { name, pid } });
      if (late > 0) signalProcess(-pid, 'SIGKILL');
      await this.#clock.sleep(POLL_MS, signal);
    }
  }

  #find(name: string): Found | undefined {
    const file = join(this.#folder, name, 'machine.json');
    if (!existsSync(file)) return undefined;
    let note: Note;
    try {
      note = JSON.parse(readFileSync(file, 'utf8')) as Note; // as: we wrote it
    } catch (cause) {
      // What it spoke of may run: another one beside it would settle the same calls.
      throw new RunnerError('STORE_FAILED', `the record ${file} of program ${name} cannot be read`, { cause, details: { file } });
    }
    if (!note.process) return { note, pid: processWith(note.token) };
    const now = identityOf(note.process.pid);
    return { note, pid: now?.bootId === note.process.bootId && now.startTime === note.process.startTime ? note.process.pid : undefined };
  }

  #write(note: Note): void {
    const file = join(this.#folder, note.name, 'machine.json');
    writeFileSync(`${file}.new`, JSON.stringify(note, null, 2), { mode: 0o600, flush: true });
    renameSync(`${file}.new`, file);
  }

  #logFile(name: string): string {
    return join(this.#folder, name, 'log');
  }

  #lastLines(name: string): string {
    const file = this.#logFile(name);
    if (!existsSync(file)) return '';
    return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-REASON_LINES).join('\n');
  }
}

interface Found {
  readonly note: Note;
  /** Undefined: it does not run. */
  readonly pid: number | undefined;
}

function notFound(name: string): RunnerError {
  return new RunnerError('NOT_FOUND', `there is no program ${name} on this machine`, { details: { name } });
}

async function readSecrets(references: Readonly<Record<string, string>>, environment: NodeJS.ProcessEnv): Promise<Record<string, string>> {
  const read: Record<string, string> = {};
  for (const [name, reference] of Object.entries(references)) read[name] = await new Secret(reference, { environment }).read();
  return read;
}

function signalProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended.
  }
}

/** The process that carries the token in its environment. */
function processWith(token: string): number | undefined {
  const needle = `${TOKEN_VARIABLE}=${token}`;
  for (const entry of existsSync('/proc') ? readdirSync('/proc') : []) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      if (readFileSync(`/proc/${entry}/environ`, 'latin1').includes(needle)) return Number(entry);
    } catch {
      // Another user's, or it has ended.
    }
  }
  return undefined;
}

function residentBytes(pid: number): number | undefined {
  try {
    const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return kib === undefined ? undefined : Number(kib) * 1024;
  } catch {
    return undefined;
  }
}

function answers(url: string): Promise<boolean> {
  return new Promise((resolve) => {
    const asked = request(url, { timeout: 2_000 }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    asked.on('timeout', () => asked.destroy());
    asked.on('error', () => resolve(false));
    asked.end();
  });
}
