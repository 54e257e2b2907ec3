/** The platforms that need no account: the artifact imported, as a process behind HTTP, as a process per call, in the function runtime. */

import { AsyncLocalStorage } from 'node:async_hooks';
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { RunnerError } from '../errors.ts';
import { forAttempt } from '../executor/executor.ts';
import type { Execution, ExecutorLimits, FaasExecutor, InvokeOptions } from '../executor/executor.ts';
import type { JobCall } from '../job/call.ts';
import { JSON_TYPE, decodeResponse, encodeRequest } from '../job/wire.ts';
import { fingerprintOf } from '../runtime/fingerprint.ts';
import { FunctionRuntime } from '../runtime/function-runtime.ts';
import { RuntimeExecutor } from '../runtime/runtime-executor.ts';
import type { FunctionVersion, InstanceBackend } from '../runtime/runtime.ts';
import type { Platform } from './matrix.ts';
import { GIVEN } from './vectors-life.ts';

/** The unpacked zip of a handler. */
export interface Artifact {
  /** Holds `bootstrap` and `handler.mjs`. */
  readonly folder: string;
  /** Of `handler.mjs`, hex. */
  readonly sha256: string;
}

const GIVEN_ENVIRONMENT: Readonly<Record<string, string>> = { [GIVEN.name]: GIVEN.value };

/** What the handler takes as JSON: 6 MiB, base64. */
const LIMITS: ExecutorLimits = { requestBytesMax: 4_669_440, responseBytesMax: 4_669_440, timeoutMsMax: 900_000 };
const START_MS_MAX = 30_000;
const HEALTH_MS_MAX = 2_000;
/** The longest that a timer of node takes. */
const TIMER_MS_MAX = 2 ** 31 - 1;
const MEMORY_MB = 256;
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;

const cleanEnvironment = (): Record<string, string> => ({
  ...GIVEN_ENVIRONMENT,
  PATH: `${dirname(process.execPath)}:/usr/local/bin:/usr/bin:/bin`,
  BLUEPRINT_NODE: process.execPath,
});

const here = (): Promise<undefined> => Promise.resolve(undefined);

/** The artifact, imported into this process, as a managed runtime imports it. */
export function inProcess(artifact: Artifact): Platform {
  return {
    name: 'in-process',
    lacks: {
      process: 'the job runs in the process of the runner and shares its environment and its fate',
      main: 'the process is that of the runner',
      memory: 'the job shares the memory of the runner',
    },
    unavailable: here,
    async open() {
      const module: unknown = await import(pathToFileURL(join(artifact.folder, 'handler.mjs')).href);
      const handler = typeof module === 'object' && module !== null && 'handler' in module ? module.handler : undefined;
      if (typeof handler !== 'function') throw new RunnerError('PACKAGE_INVALID', 'the bundle exports no handler');
      // What the bundle exports, as its build promises.
      const call = handler as (event: unknown, context: object) => unknown;
      const send = async (event: Buffer, signal: AbortSignal): Promise<Buffer> => {
        const reply = await inJob.run(true, () => call(JSON.parse(event.toString('utf8')), { signal }));
        return Buffer.from(JSON.stringify(reply));
      };
      return new EventExecutor('in-process', send, silenceJobs());
    },
  };
}

const inJob = new AsyncLocalStorage<true>();

/** What a job prints in this process is not part of the output of the program that compares. Returns what ends it. */
function silenceJobs(): () => void {
  const ends = [process.stdout, process.stderr].map((stream) => {
    const { write } = stream;
    const own = (...parameters: unknown[]): boolean => inJob.getStore() === true || (Reflect.apply(write, stream, parameters) as boolean);
    Object.assign(stream, { write: own });
    return () => void Object.assign(stream, { write });
  });
  return () => {
    for (const end of ends) end();
  };
}

/** One process for each call: a request on its stdin, the response on its stdout. */
export function stdioProcess(artifact: Artifact): Platform {
  return {
    name: 'stdio',
    lacks: { memory: 'nothing limits the memory of the process' },
    unavailable: here,
    open: () => Promise.resolve(new EventExecutor('stdio', (event, signal) => pipe(artifact, event, signal))),
  };
}

/** One process behind HTTP; when it ends or hangs, the next call starts another, as a supervisor would. */
export function httpProcess(artifact: Artifact, connect: (url: string) => Promise<FaasExecutor>): Platform {
  return {
    name: 'http',
    lacks: {
      memory: 'nothing limits the memory of the process',
      end: 'over HTTP a caller sees that the connection broke, not why',
    },
    unavailable: here,
    open: async () => SupervisedExecutor.start(artifact, connect),
  };
}

/** A backend that the artifact is not for: named with the reason. */
export function otherLanguage(name: string, reason: string): Platform {
  return {
    name,
    lacks: {},
    unavailable: () => Promise.resolve(reason),
    open: () => Promise.reject(new RunnerError('RUNTIME_UNSUPPORTED', reason)),
  };
}

/** In the function runtime, on instances of a backend. */
export function functionRuntime(name: string, artifact: Artifact, options: RuntimePlatformOptions): Platform {
  const { runtime = `nodejs${process.versions.node.split('.')[0]}.x` } = options;
  let backend: Promise<InstanceBackend> | undefined;
  const made = (): Promise<InstanceBackend> => (backend ??= options.backend());
  return {
    name,
    lacks: runtime.startsWith('provided') ? {} : { main: 'the process is that of the runtime client, which imports the bundle' },
    async unavailable() {
      try {
        return await (await made()).unavailable();
      } catch (error) {
        return error instanceof Error ? error.message : String(error);
      }
    },
    async open() {
      const folder = await mkdtemp(join(tmpdir(), 'bprc-'));
      await chmod(folder, 0o711);
      const functions = new FunctionRuntime({ backend: await made(), folder, limits: { initTimeoutMs: START_MS_MAX } });
      await functions.start();
      const executor = new RuntimeExecutor({ runtime: functions, name, fn: functionOf(artifact, runtime), ownsRuntime: true });
      const close = executor.close.bind(executor);
      return Object.assign(executor, {
        close: async () => {
          await close();
          await rm(folder, { recursive: true, force: true });
        },
      });
    },
  };
}

export interface RuntimePlatformOptions {
  backend(): Promise<InstanceBackend>;
  /** Default: `nodejs` of this version; the handler is imported by a runtime client. `provided.al2023`: its own `bootstrap` is the client. */
  readonly runtime?: string;
}

function functionOf(artifact: Artifact, runtime: string): FunctionVersion {
  const fn: Omit<FunctionVersion, 'fingerprint'> = {
    name: 'conformance',
    version: '1',
    code: { kind: 'folder', path: artifact.folder, sha256: artifact.sha256 },
    layers: [],
    runtime,
    handler: 'handler.handler',
    memoryMb: MEMORY_MB,
    timeoutMs: 120_000,
    ephemeralMb: 512,
    environment: GIVEN_ENVIRONMENT,
    concurrencyPerInstance: 1,
    network: 'none',
  };
  return { ...fn, fingerprint: fingerprintOf(fn) };
}

/** Calls as events in JSON, as on Lambda; deadline and signal are kept here. */
class EventExecutor implements FaasExecutor {
  readonly limits = LIMITS;
  readonly name: string;
  readonly #send: (event: Buffer, signal: AbortSignal) => Promise<Buffer>;
  readonly #end: () => void;

  constructor(name: string, send: (event: Buffer, signal: AbortSignal) => Promise<Buffer>, end: () => void = () => {}) {
    this.name = name;
    this.#send = send;
    this.#end = end;
  }

  async close(): Promise<void> {
    this.#end();
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    const { deadline, signal: given } = options;
    if (given?.aborted) throw new RunnerError('ABORTED', `call ${call.id} was cancelled before it started`, { retry: 'safe' });
    const stop = new AbortController();
    const cancel = (): void => stop.abort(new RunnerError('ABORTED', `call ${call.id} was cancelled`));
    const expire = (): void => stop.abort(new RunnerError('EXECUTOR_TIMEOUT', `call ${call.id} did not end before its deadline`));
    given?.addEventListener('abort', cancel, { once: true });
    const timer = setTimeout(expire, Math.min(Math.max(0, deadline - Date.now()), TIMER_MS_MAX));
    const stopped = new Promise<never>((_, reject) => {
      stop.signal.addEventListener('abort', () => reject(stop.signal.reason as RunnerError), { once: true });
    });
    try {
      const { body } = encodeRequest('base64', forAttempt(call, options, Date.now()));
      const answer = await Promise.race([this.#send(Buffer.from(body), stop.signal), stopped]);
      return decodeResponse({ status: 200, headers: { 'content-type': JSON_TYPE }, body: answer }, call);
    } finally {
      clearTimeout(timer);
      given?.removeEventListener('abort', cancel);
    }
  }
}

function pipe(artifact: Artifact, event: Buffer, signal: AbortSignal): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const child = spawn(join(artifact.folder, 'bootstrap'), [], {
      env: { ...cleanEnvironment(), BLUEPRINT_ADAPTER: 'stdio' },
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    const chunks: Buffer[] = [];
    let size = 0;
    const kill = (): void => void child.kill('SIGKILL');
    signal.addEventListener('abort', kill, { once: true });
    child.stdout.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= ANSWER_BYTES_MAX) chunks.push(chunk);
      else kill();
    });
    // What the process ended with says more than the pipe that broke.
    child.stdin.on('error', () => {});
    child.once('error', (cause) =>
      reject(new RunnerError('INSTANCE_START_FAILED', `bootstrap cannot be started: ${cause.message}`, { cause })),
    );
    child.once('close', (code, by) => {
      signal.removeEventListener('abort', kill);
      if (size > 0 && size <= ANSWER_BYTES_MAX && by === null) resolve(Buffer.concat(chunks));
      else reject(new RunnerError('FUNCTION_CRASHED', `the process ended without an answer: ${by ?? `exit code ${code}`}`));
    });
    child.stdin.end(event);
  });
}

interface Served {
  readonly child: ChildProcess;
  readonly executor: FaasExecutor;
  hasEnded: boolean;
}

class SupervisedExecutor implements FaasExecutor {
  readonly name = 'http';
  readonly limits: ExecutorLimits;
  readonly #restart: () => Promise<Served>;
  #served: Promise<Served>;

  private constructor(first: Served, restart: () => Promise<Served>) {
    this.limits = first.executor.limits;
    this.#served = Promise.resolve(first);
    this.#restart = restart;
  }

  static async start(artifact: Artifact, connect: (url: string) => Promise<FaasExecutor>): Promise<SupervisedExecutor> {
    const restart = (): Promise<Served> => serve(artifact, connect);
    return new SupervisedExecutor(await restart(), restart);
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    return (await this.#served).executor.invoke(call, options);
  }

  /** Has a process that answers. */
  async warm(jobId: bigint): Promise<void> {
    const served = await this.#served;
    const isAlive =
      !served.hasEnded &&
      (await served.executor.health?.(jobId, { signal: AbortSignal.timeout(HEALTH_MS_MAX) }).then(
        () => true,
        () => false,
      ));
    if (isAlive === true) return;
    await end(served);
    await (this.#served = this.#restart());
  }

  async close(): Promise<void> {
    await end(await this.#served);
  }
}

async function serve(artifact: Artifact, connect: (url: string) => Promise<FaasExecutor>): Promise<Served> {
  const child = spawn(join(artifact.folder, 'bootstrap'), [], {
    env: { ...cleanEnvironment(), PORT: '0', BLUEPRINT_ADAPTER: 'http' },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const address = await new Promise<string>((resolve, reject) => {
    let log = '';
    const fail = (reason: string): void =>
      reject(new RunnerError('INSTANCE_START_FAILED', `the handler does not serve: ${reason}\n${log}`));
    const timer = setTimeout(() => fail('it takes too long'), START_MS_MAX);
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      log = `${log}${text}`.slice(-4_096);
      const [, url] = /"address":"(http:[^"]+)"/.exec(log) ?? [];
      if (url === undefined) return;
      clearTimeout(timer);
      resolve(url);
    });
    child.once('error', (error) => fail(error.message));
    child.once('exit', (code) => fail(`exit code ${code}`));
  });
  const served: Served = { child, executor: await connect(address), hasEnded: false };
  child.once('exit', () => (served.hasEnded = true));
  return served;
}

async function end({ child, executor, hasEnded }: Served): Promise<void> {
  await executor.close?.();
  if (hasEnded || child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await ended;
}
