/**
 * What the entry of a handler bundle calls: finds out where it runs, starts that adapter, ends it gracefully.
 *
 * Environment of all adapters: `BLUEPRINT_REQUEST_BYTES_MAX`, `BLUEPRINT_TOKEN` or `BLUEPRINT_TOKEN_FILE` (what callers over HTTP
 * must present), `BLUEPRINT_DRAIN_MS` (how long running calls may go on after SIGTERM, default 10,000). Each adapter names its own.
 * Logs are JSON lines on stderr.
 */

import { toRunnerError } from '../src/errors.ts';
import type { JobRouter } from '../src/job/router.ts';
import { registerFunctions } from './adapters/azure.ts';
import { functionsOf } from './adapters/functions.ts';
import type { HandlerExports } from './adapters/functions.ts';
import { httpCalls, httpConfig, startHttp } from './adapters/http.ts';
import { lambdaRuntimeConfig, postInitError, startLambdaRuntime } from './adapters/lambda-runtime.ts';
import { startStdio, takeStdout } from './adapters/stdio.ts';
import { detectAdapter, invalid, numberOf } from './detect.ts';
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

type StartedAdapter = Exclude<AdapterName, 'lambda' | 'azure' | 'describe'>;
type Fields = Readonly<Record<string, unknown>>;

const DRAIN_MS = 10_000;
const GRACE_MS = 1_000;

/**
 * Serves the jobs of a router on whatever platform this process is.
 *
 * Resolves with what the platform calls when it imported the bundle, else with nothing in it once the adapter runs. The process ends with status 0 when its input ended, or after SIGTERM or SIGINT when every running call was
 * answered; with 1 when the start failed, a call had to be cut off, the platform is gone, or an exception was not caught.
 *
 * @example
 * const served = await serve(() => import('./jobs.ts'), { meta: import.meta });
 * export const { handler, handler: main } = served;
 * export default served;
 */
export async function serve(source: RouterSource, { meta, process: host = process }: ServeOptions): Promise<HandlerExports> {
  const service = serviceOf(source, host);
  const isMain = isStartedDirectly(meta, host.argv[1]);
  try {
    const name = detectAdapter({ env: host.env, args: host.argv.slice(2), isMain, isStdinPiped });
    if (name === 'lambda') return functionsOf(await service.open(), httpCalls(host.env));
    if (name === 'azure') await registerFunctions(await service.open(), host.env);
    else if (name === 'describe') return await service.describe(isMain);
    else await service.start(name);
    return {};
  } catch (error) {
    service.logError('the handler cannot start', error);
    // Who imported the bundle decides what becomes of it.
    if (!isMain) throw error;
    return host.exit(1);
  }
}

function loggerOf(host: NodeJS.Process) {
  const log = (level: 'info' | 'error', message: string, fields: Fields): void => {
    host.stderr.write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...fields })}\n`);
  };

  /** Says what failed, without the arguments of the call. */
  const logError = (message: string, thrown: unknown, fields: Fields = {}): void => {
    const { code, message: reason, cause } = toRunnerError(thrown);
    log('error', message, { ...fields, code, reason, cause: cause instanceof Error ? cause.stack : undefined });
  };
  return { log, logError };
}

/** Functions in a closure, not a class: in a bundle they are smaller. */
function serviceOf(source: RouterSource, host: NodeJS.Process) {
  const { env } = host;
  let isStopping = false;

  const { log, logError } = loggerOf(host);

  const load = async (): Promise<JobRouter> => (typeof source === 'function' ? routerOf(await source()) : source);

  const open = async (): Promise<JobHandler> => {
    const token = await tokenOf(env);
    const requestBytesMax = numberOf(env, 'BLUEPRINT_REQUEST_BYTES_MAX', { fallback: REQUEST_BYTES_MAX, min: 1 });
    return createHandler(await load(), {
      requestBytesMax,
      ...(token !== undefined && { token }),
      onError: (error, call) => logError('a call failed', error, { job: call?.jobId.toString(), call: call?.id }),
      onObserverError: (error, { name }, { id }) => logError('a job that watches every call failed', error, { job: name, call: id }),
    });
  };

  const describe = async (isMain: boolean): Promise<HandlerExports> => {
    const { write } = takeStdout(host);
    const jobs = (await load()).describe();
    if (!isMain) return { jobs };
    await write(Buffer.from(`${JSON.stringify(jobs)}\n`));
    return host.exit(0);
  };

  const stop = async (adapter: RunningAdapter, signal: string, drainMs: number): Promise<void> => {
    // Who asks twice does not want to wait.
    if (isStopping) host.exit(1);
    isStopping = true;
    const drain = new AbortController();
    setTimeout(() => drain.abort(), drainMs);
    const closed = adapter.close(drain.signal);
    log('info', 'the handler stops', { signal, drainMs });
    const unfinished = await Promise.race([closed, afterGrace(drain.signal)]);
    if (unfinished > 0) log('error', 'calls were cut off', { code: 'DRAIN_TIMEOUT', unfinished });
    host.exit(unfinished === 0 ? 0 : 1);
  };

  const crash = async (adapter: RunningAdapter, thrown: unknown): Promise<void> => {
    isStopping = true;
    logError('an exception was not caught', thrown);
    // Who waits for a call is told, when it reads.
    setTimeout(() => host.exit(1), GRACE_MS);
    await adapter.crash?.(toRunnerError(thrown));
    host.exit(1);
  };

  const start = async (name: StartedAdapter): Promise<void> => {
    const drainMs = numberOf(env, 'BLUEPRINT_DRAIN_MS', { fallback: DRAIN_MS, min: 0 });
    const adapter = await startAdapter(name, host, open);
    for (const signal of ['SIGTERM', 'SIGINT'] as const) host.on(signal, () => void stop(adapter, signal, drainMs));
    host.on('uncaughtException', (error) => void crash(adapter, error));
    // A promise that nobody waits for belongs to no call: the others go on.
    host.on('unhandledRejection', (reason) => logError('a promise was rejected and nobody handles it', reason));
    log('info', 'the handler takes calls', { adapter: name, address: adapter.address });
    adapter.done?.then(
      () => isStopping || host.exit(0),
      (error: unknown) => {
        logError('the platform is gone', error);
        host.exit(1);
      },
    );
  };

  return { open, describe, start, logError };
}

async function startAdapter(name: StartedAdapter, host: NodeJS.Process, open: () => Promise<JobHandler>): Promise<RunningAdapter> {
  const { env } = host;
  if (name === 'http') {
    const config = httpConfig(env);
    return startHttp(await open(), config);
  }
  if (name === 'lambda-runtime') {
    const config = lambdaRuntimeConfig(env);
    const handler = await open().catch(async (error: unknown) => {
      await postInitError(config, toRunnerError(error));
      throw error;
    });
    return startLambdaRuntime(handler, config);
  }
  // Before the jobs are loaded: what they print while they load must not get into a response.
  const streams = takeStdout(host);
  return startStdio(await open(), streams, name === 'stdio' ? 'once' : 'lines');
}

/** Cancelled calls still get their answers out, when the other side reads them. */
function afterGrace(drained: AbortSignal): Promise<number> {
  return new Promise((resolve) => {
    drained.addEventListener('abort', () => setTimeout(resolve, GRACE_MS, 1), { once: true });
  });
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
      throw invalid(`BLUEPRINT_TOKEN_FILE is ${path}, which cannot be read`, cause);
    });
    token = token.trim();
  }
  if (token === '') throw invalid('the token of the handler is empty');
  return token;
}

/** The router among the exports of a module. The bundle may carry another copy of the class, so it is known by what it can do. */
function routerOf(exports: object): JobRouter {
  const { default: byDefault, router }: { default?: unknown; router?: unknown } = exports;
  for (const candidate of [byDefault, router]) if (isRouter(candidate)) return candidate;
  const names = Object.keys(exports).join(', ') || 'nothing';
  throw invalid(`the module of the jobs exports no JobRouter: export one as default, or named router (it exports ${names})`);
}

function isRouter(value: unknown): value is JobRouter {
  return typeof value === 'object' && value !== null && 'call' in value && typeof value.call === 'function' && 'jobIds' in value;
}
