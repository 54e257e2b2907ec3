/** Runs functions as a runtime of OpenWhisk does: a process of node for each call at a time, which loads `main` from the unpacked zip. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { unzipSync } from 'fflate';

export interface RunOutcome {
  readonly status: 'success' | 'application error' | 'action developer error';
  readonly result: unknown;
  readonly logs: readonly string[];
  readonly initMs: number | undefined;
}

export interface RunnableCode {
  readonly zip: Uint8Array;
  readonly main: string;
  readonly environment: Readonly<Record<string, string>>;
}

const END = 'XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX';
const WORKER = `
const { createInterface } = require('node:readline');
const { writeSync } = require('node:fs');
const [directory, main] = process.argv.slice(1);
const answer = (value) => writeSync(3, JSON.stringify(value) + '\\n');
let run;
try {
  run = require(directory)[main];
  if (typeof run !== 'function') throw new Error('Action entrypoint ' + main + ' is not a function.');
} catch (error) {
  run = undefined;
  answer({ broken: 'Initialization has failed due to: ' + error });
}
createInterface({ input: process.stdin }).on('line', async (line) => {
  const { value, variables } = JSON.parse(line);
  Object.assign(process.env, variables);
  let outcome;
  try {
    outcome = { result: (await run(value)) ?? {} };
  } catch (error) {
    outcome = { error: 'An error has occurred: ' + error };
  }
  console.log('${END}');
  console.error('${END}');
  answer(outcome);
});
`;

/** One process, which takes one call at a time. */
class Worker {
  readonly ended: Promise<void>;
  readonly #child: ChildProcess;
  readonly #stdin: Writable;
  #lines: string[] = [];
  #ends = 0;
  #answer: { readonly result?: unknown; readonly error?: string; readonly broken?: string } | undefined;
  #wake: (() => void) | undefined;
  #hasEnded = false;

  constructor(directory: string, { main, environment }: RunnableCode) {
    this.#child = spawn(process.execPath, ['-e', WORKER, directory, main], {
      env: { PATH: process.env['PATH'], ...environment },
      stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
    });
    const [stdin, stdout, stderr, answers] = this.#child.stdio as unknown as [Writable, Readable, Readable, Readable];
    this.#stdin = stdin;
    stdin.on('error', () => {});
    createInterface({ input: stdout }).on('line', (line) => this.#log('stdout', line));
    createInterface({ input: stderr }).on('line', (line) => this.#log('stderr', line));
    createInterface({ input: answers }).on('line', (line) => {
      this.#answer = JSON.parse(line) as object;
      this.#wake?.();
    });
    // With all that it has said.
    this.ended = new Promise((resolve) => {
      this.#child.once('close', () => {
        this.#hasEnded = true;
        this.#wake?.();
        resolve();
      });
    });
  }

  async run(value: unknown, variables: Readonly<Record<string, string>>, timeoutMs: number): Promise<Omit<RunOutcome, 'initMs'>> {
    this.#ends = 0;
    this.#lines = [];
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      this.stop();
    }, timeoutMs);
    this.#stdin.write(`${JSON.stringify({ value, variables })}\n`);
    while (!this.#hasEnded && !this.#answer?.broken && (this.#answer === undefined || this.#ends < 2))
      await new Promise<void>((resolve) => (this.#wake = resolve));
    clearTimeout(timer);
    const { result, error, broken } = this.#answer ?? {};
    this.#answer = undefined;
    const logs = this.#lines;
    if (isLate) return developerError(`The action exceeded its time limits of ${timeoutMs} milliseconds.`, logs);
    if (broken !== undefined) return developerError(broken, logs);
    if (this.#hasEnded) return developerError('The action did not produce a valid response and exited unexpectedly.', logs);
    if (error !== undefined) return { status: 'application error', result: { error }, logs };
    if (typeof result !== 'object' || result === null || Array.isArray(result))
      return developerError('The action did not return a dictionary.', logs);
    return { status: 'error' in result ? 'application error' : 'success', result, logs };
  }

  get isUsable(): boolean {
    return !this.#hasEnded;
  }

  stop(): void {
    this.#child.kill('SIGKILL');
  }

  #log(stream: 'stdout' | 'stderr', line: string): void {
    if (line === END) {
      this.#ends += 1;
      this.#wake?.();
    } else this.#lines.push(`${new Date().toISOString()} ${stream}: ${line}`);
  }
}

function developerError(error: string, logs: readonly string[]): Omit<RunOutcome, 'initMs'> {
  return { status: 'action developer error', result: { error }, logs };
}

/** One revision of an action. */
export class RunnableFunction {
  readonly #code: RunnableCode;
  readonly #idle: Worker[] = [];
  readonly #all = new Set<Worker>();
  #directory: Promise<string> | undefined;

  constructor(code: RunnableCode) {
    this.#code = code;
  }

  async run(value: unknown, variables: Readonly<Record<string, string>>, timeoutMs: number): Promise<RunOutcome> {
    const directory = await (this.#directory ??= unpack(this.#code.zip));
    const startedAt = performance.now();
    let worker = this.#idle.pop();
    while (worker && !worker.isUsable) worker = this.#idle.pop();
    const initMs = worker ? undefined : Math.round(performance.now() - startedAt);
    worker ??= new Worker(directory, this.#code);
    this.#all.add(worker);
    const outcome = await worker.run(value, variables, timeoutMs);
    if (outcome.status === 'action developer error') worker.stop();
    else this.#idle.push(worker);
    return { ...outcome, initMs };
  }

  async close(): Promise<void> {
    for (const worker of this.#all) worker.stop();
    await Promise.all([...this.#all].map(({ ended }) => ended));
    const directory = await this.#directory;
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
  }
}

async function unpack(zip: Uint8Array): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'whisk-'));
  for (const [name, content] of Object.entries(unzipSync(zip))) {
    if (name.endsWith('/') || name.split('/').includes('..')) continue;
    await mkdir(dirname(join(directory, name)), { recursive: true });
    await writeFile(join(directory, name), content);
  }
  return directory;
}
