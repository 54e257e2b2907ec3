/**
 * What the entry of a handler bundle calls: finds out where it runs, starts that adapter, ends it gracefully.
 *
 * Environment of all adapters: `BLUEPRINT_REQUEST_BYTES_MAX`, `BLUEPRINT_TOKEN` or `BLUEPRINT_TOKEN_FILE` (what callers over HTTP
 * must present), `BLUEPRINT_DRAIN_MS` (how long running calls may go on after SIGTERM, default 10,000). Each adapter names its own.
 * Logs are JSON lines on stderr.
 */

import { RunnerError, toRunnerError } from '../src/errors.ts';
import type { JobRouter } from '../src/job/router.ts';
import { httpConfig, startHttp } from './adapters/http.ts';
import { lambdaFunction } from './adapters/lambda.ts';
import type { LambdaFunction } from './adapters/lambda.ts';
import { lambdaRuntimeConfig, postInitError, startLambdaRuntime } from './adapters/lambda-runtime.ts';
import { startStdio, takeStdout } from './adapters/stdio.ts';
import { detectAdapter, numberOf } from './detect.ts';
import type { AdapterName } from './detect.ts';
import { REQUEST_BYTES_MAX, createHandler } from './index.ts';
import type { JobHandler, RunningAdapter } from './index.ts';

/** A router, or what loads the module that exports it (as `default` or `router`). */
export type RouterSource = JobRouter | (() => Promise<object>);

export interface ServeOptions {
  /** `import.meta` of the module that calls: tells whether it was started or imported. */
  readonly meta: { readonly url: string; readonly main?: boolean };
  /** Default: the global one. */
  readonly process?: NodeJS.Process;
}

type Fields = Readonly<Record<string, unknown>>;

const DRAIN_MS = 10_000;
const GRACE_MS = 1_000;

/**
 * Serves the jobs of a router on whatever platform this process is.
 *
 * Resolves with the function that a managed Lambda runtime calls when the bundle was imported, else with undefined once the
 * adapter runs. The process ends with status 0 when its input ended, or after SIGTERM or SIGINT when every running call was
 * answered; with 1 when the start failed, a call had to be cut off, the platform is gone, or an exception was not caught.
 *
 * @example
 * export const handler = await serve(() => import('./jobs.ts'), { meta: import.meta });
 */
export async function serve(source: RouterSource, { meta, process: host = process }: ServeOptions): Promise<LambdaFunction | undefined> {
  const service = new Service(source, host);
  const isMain = isStartedDirectly(meta, host.argv[1]);
  try {
    const name = detectAdapter({ env: host.env, args: host.argv.slice(2), isMain, isStdinPiped });
    if (name === 'lambda') return lambdaFunction(await service.open());
    if (name === 'describe') await service.describe();
    else await service.start(name);
    return undefined;
  } catch (error) {
    service.logError('the handler cannot start', error);
    // Who imported the bundle decides what becomes of it.
    if (!isMain) throw error;
    return host.exit(1);
  }
}

class Service {
  readonly #source: RouterSource;
  readonly #host: NodeJS.Process;
  #isStopping = false;

  constructor(source: RouterSource, host: NodeJS.Process) {
    this.#source = source;
    this.#host = host;
  }

  async open(): Promise<JobHandler> {
    const { env } = this.#host;
    const token = await tokenOf(env);
    const requestBytesMax = numberOf(env, 'BLUEPRINT_REQUEST_BYTES_MAX', { fallback: REQUEST_BYTES_MAX, min: 1 });
    return createHandler(await this.#router(), {
      requestBytesMax,
      ...(token !== undefined && { token }),
      onError: (error, call) => this.logError('a call failed', error, { job: call?.jobId.toString(), call: call?.id }),
      onObserverError: (error, { name }, { id }) => this.logError('a job that watches every call failed', error, { job: name, call: id }),
    });
  }

  async describe(): Promise<void> {
    const { write } = takeStdout(this.#host);
    await write(Buffer.from(`${JSON.stringify((await this.#router()).describe())}\n`));
    this.#host.exit(0);
  }

  async start(name: Exclude<AdapterName, 'lambda' | 'describe'>): Promise<void> {
    const drainMs = numberOf(this.#host.env, 'BLUEPRINT_DRAIN_MS', { fallback: DRAIN_MS, min: 0 });
    const adapter = await this.#startAdapter(name);
    for (const signal of ['SIGTERM', 'SIGINT'] as const) this.#host.on(signal, () => void this.#stop(adapter, { signal, drainMs }));
    this.#host.on('uncaughtException', (error) => void this.#crash(adapter, error));
    // A promise that nobody waits for belongs to no call: the others go on.
    this.#host.on('unhandledRejection', (reason) => this.logError('a promise was rejected and nobody handles it', reason));
    this.#log('info', 'the handler takes calls', { adapter: name, address: adapter.address });
    adapter.done?.then(
      () => this.#isStopping || this.#host.exit(0),
      (error: unknown) => {
        this.logError('the platform is gone', error);
        this.#host.exit(1);
      },
    );
  }

  /** Says what failed, without the arguments of the call. */
  logError(message: string, thrown: unknown, fields: Fields = {}): void {
    const { code, message: reason, cause } = toRunnerError(thrown);
    this.#log('error', message, { ...fields, code, reason, cause: cause instanceof Error ? cause.stack : undefined });
  }

  #log(level: 'info' | 'error', message: string, fields: Fields): void {
    this.#host.stderr.write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...fields })}\n`);
  }

  async #router(): Promise<JobRouter> {
    return typeof this.#source === 'function' ? routerOf(await this.#source()) : this.#source;
  }

  async #startAdapter(name: Exclude<AdapterName, 'lambda' | 'describe'>): Promise<RunningAdapter> {
    const { env } = this.#host;
    switch (name) {
      case 'http': {
        const config = httpConfig(env);
        return startHttp(await this.open(), config);
      }
      case 'stdio':
      case 'stdio-lines': {
        // Before the jobs are loaded: what they print while they load must not get into a response.
        const streams = takeStdout(this.#host);
        return startStdio(await this.open(), streams, name === 'stdio' ? 'once' : 'lines');
      }
      case 'lambda-runtime': {
        const config = lambdaRuntimeConfig(env);
        const handler = await this.open().catch(async (error: unknown) => {
          await postInitError(config, toRunnerError(error));
          throw error;
        });
        return startLambdaRuntime(handler, config);
      }
    }
  }

  async #stop(adapter: RunningAdapter, { signal, drainMs }: { signal: string; drainMs: number }): Promise<void> {
    // Who asks twice does not want to wait.
    if (this.#isStopping) this.#host.exit(1);
    this.#isStopping = true;
    const drain = new AbortController();
    setTimeout(() => drain.abort(), drainMs);
    const closed = adapter.close(drain.signal);
    this.#log('info', 'the handler stops', { signal, drainMs });
    const unfinished = await Promise.race([closed, this.#afterGrace(drain.signal)]);
    if (unfinished > 0) this.#log('error', 'calls were cut off', { code: 'DRAIN_TIMEOUT', unfinished });
    this.#host.exit(unfinished === 0 ? 0 : 1);
  }

  /** Cancelled calls still get their answers out, when the other side reads them. */
  #afterGrace(drained: AbortSignal): Promise<number> {
    return new Promise((resolve) => {
      drained.addEventListener('abort', () => setTimeout(resolve, GRACE_MS, 1), { once: true });
    });
  }

  async #crash(adapter: RunningAdapter, thrown: unknown): Promise<void> {
    this.#isStopping = true;
    this.logError('an exception was not caught', thrown);
    await adapter.crash?.(toRunnerError(thrown));
    this.#host.exit(1);
  }
}

function isStartedDirectly(meta: ServeOptions['meta'], script: string | undefined): boolean {
  if (meta.main !== undefined) return meta.main;
  if (script === undefined) return false;
  const { realpathSync } = process.getBuiltinModule('node:fs');
  const { pathToFileURL } = process.getBuiltinModule('node:url');
  return pathToFileURL(realpathSync(script)).href === meta.url;
}

function isStdinPiped(): boolean {
  const stdin = process.getBuiltinModule('node:fs').fstatSync(0, { throwIfNoEntry: false });
  return stdin !== undefined && (stdin.isFIFO() || stdin.isFile() || stdin.isSocket());
}

async function tokenOf(env: NodeJS.ProcessEnv): Promise<string | undefined> {
  const path = env.BLUEPRINT_TOKEN_FILE;
  let token = env.BLUEPRINT_TOKEN;
  if (path !== undefined) {
    const { readFile } = await import('node:fs/promises');
    token = await readFile(path, 'utf8').catch((cause: unknown) => {
      throw new RunnerError('CONFIG_INVALID', `BLUEPRINT_TOKEN_FILE is ${path}, which cannot be read`, { cause });
    });
    token = token.trim();
  }
  if (token === '') throw new RunnerError('CONFIG_INVALID', 'the token of the handler is empty');
  return token;
}

/** The router among the exports of a module. The bundle may carry another copy of the class, so it is known by what it can do. */
function routerOf(exports: object): JobRouter {
  const { default: byDefault, router }: { default?: unknown; router?: unknown } = exports;
  for (const candidate of [byDefault, router]) if (isRouter(candidate)) return candidate;
  const names = Object.keys(exports).join(', ') || 'nothing';
  throw new RunnerError(
    'CONFIG_INVALID',
    `the module of the jobs exports no JobRouter: export one as default, or named router (it exports ${names})`,
  );
}

function isRouter(value: unknown): value is JobRouter {
  return typeof value === 'object' && value !== null && 'call' in value && typeof value.call === 'function' && 'jobIds' in value;
}
