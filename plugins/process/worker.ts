/** One process with everything that was made for it: from its start until nothing of it is left. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { constants } from 'node:os';
import { RunnerError } from '../../src/plugin.ts';
import type { Clock, InstanceEnd, LaunchSpec } from '../../src/plugin.ts';
import type { Cgroup } from './cgroup.ts';
import { LAUNCHER } from './sandbox.ts';

export interface WorkerPlan {
  readonly id: string;
  /** All that was made for it on disk; removed at its end. */
  readonly folder: string;
  readonly command: readonly string[];
  readonly cwd: string;
  /** The environment of the program itself. */
  readonly env: Readonly<Record<string, string>>;
  /** Pairs for `ulimit`. */
  readonly limits: readonly (readonly [name: string, value: number])[];
  readonly cgroup: Cgroup | undefined;
  /** Its exit status tells the signal as 128 and the number. */
  readonly isWrapped: boolean;
  /** The user that it runs as; undefined: ours. */
  readonly user: number | undefined;
}

export interface Assignment {
  /** The Runtime API is served over the connection that tells this. */
  readonly isServed: boolean;
  readonly environment: Readonly<Record<string, string>>;
  readonly folder: string;
}

/** Waits for a line on descriptor 3, then becomes the program, with the line as its first argument; what follows the line is for the program. */
export const WAIT = 'read -r first <&3 || exit 0; exec "$0" "$first" "$@"';

/** V8 shows its stack behind the words that tell why it ends. */
const TAIL_BYTES = 4_096;
/** What one instance may write; one that writes more waits. */
const OUTPUT_BYTES_PER_SECOND = 16 * 1024 * 1024;
const END_WAIT_MS = 1;
const END_ROUNDS_MAX = 5_000;
/** Output that is still on its way when everything has ended. */
const OUTPUT_WAIT_MS = 1_000;
/** Those that end a program; every other status above 128 is its own. */
const FATAL = [
  'SIGILL',
  'SIGTRAP',
  'SIGABRT',
  'SIGBUS',
  'SIGFPE',
  'SIGKILL',
  'SIGSEGV',
  'SIGTERM',
  'SIGXCPU',
  'SIGXFSZ',
  'SIGSYS',
] as const;
const HEAP_EXHAUSTED = 'heap out of memory';

export class Worker {
  readonly id: string;
  readonly plan: WorkerPlan;
  readonly ended: Promise<InstanceEnd>;
  /** Resolves when its program runs; rejects with `INSTANCE_START_FAILED` when it ended first. Only for our client. */
  readonly said: Promise<void>;
  readonly #child: ChildProcess;
  readonly #clock: Clock;
  readonly #closed = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<InstanceEnd>();
  readonly #said = Promise.withResolvers<void>();
  #onOutput: LaunchSpec['onOutput'] | undefined;
  #early: (readonly [stream: 'stdout' | 'stderr', chunk: Uint8Array])[] = [];
  #tail = Buffer.alloc(0);
  #hasSaid = false;
  /** Hands the connection over to the Runtime API. */
  #serve: ((head: Buffer) => void) | undefined;
  #isTerminated = false;
  #hasEnded = false;
  #windowStart = 0;
  #windowBytes = 0;

  constructor(plan: WorkerPlan, clock: Clock) {
    this.id = plan.id;
    this.plan = plan;
    this.#clock = clock;
    this.ended = this.#ended.promise;
    this.said = this.#said.promise;
    this.said.catch(() => {});
    const parameters = [
      ...(plan.cgroup?.joinFiles ?? []),
      ...plan.limits.flatMap(([name, value]) => [name, String(value)]),
      '--',
      ...plan.command,
    ];
    this.#child = spawn('/bin/sh', ['-c', LAUNCHER, 'sh', ...parameters], {
      cwd: plan.cwd,
      env: plan.env,
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
      detached: true,
    });
    this.#follow();
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  get isAlive(): boolean {
    return !this.#hasEnded && !this.#isTerminated && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** The last of what it wrote. */
  get tail(): string {
    return this.#tail.toString('utf8').trim();
  }

  /** From now on output goes there; what came before, first. */
  sendOutput(onOutput: LaunchSpec['onOutput']): void {
    this.#onOutput = onOutput;
    for (const [stream, chunk] of this.#early) onOutput(stream, chunk);
    this.#early = [];
  }

  /** Has a shell that waits become its program, with this as the first argument. */
  begin(argument: string): void {
    this.#control?.write(`${argument}\n`);
  }

  /** Tells a process that waits what it is to run. */
  assign(assignment: Omit<Assignment, 'isServed'>, { serve }: LaunchSpec['runtimeApi']): void {
    const told: Assignment = { ...assignment, isServed: serve !== undefined };
    const control = this.#control;
    control?.write(`${JSON.stringify(told)}\n`);
    if (!serve || !control) return;
    if (this.#hasSaid) serve(control, Buffer.alloc(0));
    else this.#serve = (head) => serve(control, head);
  }

  async terminate(): Promise<void> {
    if (!this.#hasEnded && !this.#isTerminated) {
      this.#isTerminated = true;
      this.plan.cgroup?.kill();
      this.#killGroup();
    }
    await this.ended;
  }

  get #control(): Socket | undefined {
    // The fourth entry of stdio is a pipe. A child that could not be made for want of files has none, whatever the types say.
    return (this.#child.stdio as ChildProcess['stdio'] | undefined)?.[3] as Socket | undefined;
  }

  #follow(): void {
    const child = this.#child;
    child.once('error', (error) => {
      this.#said.reject(this.#startFailed(error.message));
      if (child.pid === undefined) void this.#finish({ reason: 'exited', exitCode: 127 });
    });
    child.once('close', () => this.#closed.resolve());
    child.once('exit', (code, signal) => void this.#finish(this.#endOf(code, signal)));
    if (child.pid === undefined) return;
    this.#control?.on('error', () => {});
    this.#control?.once('data', (said: Buffer) => {
      this.#hasSaid = true;
      this.#said.resolve();
      // Behind the line there may be the first of what it says to the Runtime API.
      this.#serve?.(said.subarray(1));
    });
    for (const name of ['stdout', 'stderr'] as const)
      child[name]?.on('data', (chunk: Buffer) => this.#output(name, chunk)).on('error', () => {});
  }

  #output(stream: 'stdout' | 'stderr', chunk: Buffer): void {
    this.#tail = Buffer.concat([this.#tail, chunk.subarray(-TAIL_BYTES)]).subarray(-TAIL_BYTES);
    if (this.#onOutput) this.#onOutput(stream, chunk);
    else if (this.#early.length < 16) this.#early.push([stream, chunk]);
    this.#throttle(chunk.length);
  }

  /** One instance that floods its log must not take the time of all the others. */
  #throttle(bytes: number): void {
    const now = this.#clock.monotonic();
    if (now - this.#windowStart >= 1_000) {
      this.#windowStart = now;
      this.#windowBytes = 0;
    }
    this.#windowBytes += bytes;
    if (this.#windowBytes < OUTPUT_BYTES_PER_SECOND) return;
    const { stdout, stderr } = this.#child;
    stdout?.pause();
    stderr?.pause();
    this.#clock.after(1_000 - (now - this.#windowStart), () => {
      stdout?.resume();
      stderr?.resume();
    });
  }

  #endOf(exitCode: number | null, exitSignal: string | null): InstanceEnd {
    const { isWrapped, cgroup } = this.plan;
    const wrapped = isWrapped && exitCode !== null ? FATAL.find((name) => constants.signals[name] === exitCode - 128) : undefined;
    const signal = exitSignal ?? wrapped;
    if (this.#isTerminated) return { reason: 'terminated', ...(signal !== undefined && { signal }) };
    if (signal === undefined) return { reason: 'exited', exitCode: exitCode ?? 0 };
    const isKilledForMemory = signal === 'SIGKILL' && (cgroup?.oomKills() ?? 0) > 0;
    return { reason: isKilledForMemory ? 'out-of-memory' : 'signalled', signal };
  }

  #startFailed(what: string): RunnerError {
    const said = this.tail === '' ? '' : `; it said: ${this.tail}`;
    return new RunnerError('INSTANCE_START_FAILED', `instance ${this.id} did not start: ${what}${said}`, {
      details: { instanceId: this.id },
    });
  }

  async #finish(end: InstanceEnd): Promise<void> {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    const { cgroup, folder } = this.plan;
    this.#killGroup();
    // Descendants die on their own time; nothing tells when the last one is gone.
    for (let round = 0; cgroup?.kill() === false && round < END_ROUNDS_MAX; round += 1) await this.#clock.sleep(END_WAIT_MS);
    for (let round = 0; cgroup?.remove() === false && round < END_ROUNDS_MAX; round += 1) await this.#clock.sleep(END_WAIT_MS);
    this.#child.stdout?.resume();
    this.#child.stderr?.resume();
    if (this.pid !== undefined) await this.#outputEnd();
    // A descendant that no group holds may still write there: what cannot be removed now is removed by the next start.
    await rm(folder, { recursive: true, force: true }).catch(() => {});
    this.#said.reject(this.#startFailed(end.signal === undefined ? `exit status ${end.exitCode}` : end.signal));
    // Only now all that it said was read.
    const isHeapExhausted = end.reason === 'signalled' && end.signal !== 'SIGKILL' && this.tail.includes(HEAP_EXHAUSTED);
    this.#ended.resolve(isHeapExhausted ? { ...end, reason: 'out-of-memory' } : end);
  }

  async #outputEnd(): Promise<void> {
    const late = Promise.withResolvers<void>();
    // What is there already is read before: this process itself may have been held up.
    const cancel = this.#clock.after(OUTPUT_WAIT_MS, () => void setImmediate(late.resolve));
    await Promise.race([this.#closed.promise, late.promise]);
    cancel();
    this.#child.stdout?.destroy();
    this.#child.stderr?.destroy();
    this.#child.stdio[3]?.destroy();
  }

  #killGroup(): void {
    const { pid } = this;
    if (pid === undefined) return;
    try {
      process.kill(-pid, 'SIGKILL');
    } catch {
      // Nobody is left in it.
    }
  }
}
