/** Runs jobs in functions of Azure: bytes in, bytes out, in one request. */

import {
  BLUEPRINT,
  LIMITS,
  RunnerError,
  Secret,
  decodeResponse,
  encodeRequest,
  errorFromResponse,
  inTime,
  isRunnerError,
  outdated,
  parseTarget,
} from '../../src/plugin.ts';
import type { Clock, Execution, ExecutorLimits, FaasExecutor, InvokeOptions, JobCall, Target } from '../../src/plugin.ts';
import { Apps } from './apps.ts';
import { AzureClient } from './client.ts';
import { namesOf } from './names.ts';
import type { AzureExecutorOptions } from './options.ts';

const { azure: AZURE } = LIMITS;
const EXECUTOR_LIMITS: ExecutorLimits = {
  requestBytesMax: AZURE.requestBytesMax,
  responseBytesMax: AZURE.responseBytesMax,
  timeoutMsMax: AZURE.timeoutMs.max,
  concurrencyMax: AZURE.concurrencyMax,
};
const HEALTH_MS_MAX = 30_000;
const HEALTH_BYTES_MAX = 64 * 1_024;

/** Where a function is called, and what the caller must know. */
interface Door {
  readonly target: Target;
  readonly key: string;
}

/**
 * One attempt per `invoke`. Azure is asked for the address and the key of a function once, and again after a refusal, unless `url` and `key`
 * say them. Rejects with `CREDENTIALS_MISSING`, `EXECUTOR_NOT_FOUND`, `EXECUTOR_UNAUTHORIZED`, `EXECUTOR_THROTTLED`, `EXECUTOR_UNAVAILABLE`,
 * `EXECUTOR_TIMEOUT`, `EXECUTOR_UNREACHABLE`, `EXECUTOR_CONNECTION_LOST`, and with what the handler reports.
 *
 * @example
 * const executor = new AzureExecutor({ url: 'https://jobs.azurewebsites.net', key: 'env:JOBS_KEY' }, { clock: systemClock });
 */
export class AzureExecutor implements FaasExecutor {
  readonly name = 'azure';
  readonly limits = EXECUTOR_LIMITS;
  readonly #options: AzureExecutorOptions;
  readonly #clock: Clock;
  readonly #client: AzureClient;
  readonly #apps: Apps | undefined;
  readonly #key: Secret | undefined;
  readonly #doors = new Map<string, Promise<Door>>();
  readonly #running = new Set<Promise<unknown>>();
  #isClosed = false;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: AzureExecutorOptions, { clock }: { readonly clock: Clock }) {
    this.#options = options;
    this.#clock = clock;
    this.#client = new AzureClient(options, clock);
    const { url, key } = options;
    this.#key = key === undefined ? undefined : new Secret(key, { clock });
    if (url !== undefined) parseTarget(url);
    // With both there is nothing to ask.
    this.#apps = url !== undefined && key !== undefined ? undefined : new Apps(this.#client, { names: namesOf(options), options });
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    if (this.#isClosed) throw new RunnerError('EXECUTOR_CLOSED', 'the executor of Azure is closed');
    if (options.signal?.aborted) throw new RunnerError('ABORTED', 'the call was cancelled before it was sent', { retry: 'safe' });
    const running = this.#invoke(call, options);
    this.#running.add(running);
    return running.finally(() => this.#running.delete(running));
  }

  /** `HEAD` on the address of the job. */
  async health(jobId: bigint, { signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    const name = this.#functionOf(jobId);
    const { target, key } = await this.#door(name, signal);
    const response = await this.#client.connections.send(target, {
      method: 'HEAD',
      path: `${target.path}/job/${jobId}`,
      headers: ['x-functions-key', key],
      deadline: this.#clock.now() + HEALTH_MS_MAX,
      signal,
      responseBytesMax: HEALTH_BYTES_MAX,
    });
    if (response.status >= 300 && response.status !== 405) throw errorFromResponse(response.status, response.body, response.headers);
  }

  /** Azure starts an instance for whoever asks. */
  warm(jobId: bigint, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    return this.health(jobId, options);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.allSettled(this.#running);
    await this.#client.close();
  }

  async #invoke(call: JobCall, { deadline, signal, attempt }: InvokeOptions): Promise<Execution> {
    const name = this.#functionOf(call.jobId);
    const wasKnown = this.#doors.has(name);
    const { target, key } = await inTime(this.#door(name, signal), { deadline, signal, clock: this.#clock });
    const remainingMs = deadline - this.#clock.now();
    const { headers, body } = encodeRequest('octets', call);
    const all = { ...headers, [BLUEPRINT.attempt]: String(attempt), [BLUEPRINT.timeoutMs]: String(Math.max(0, Math.ceil(remainingMs))) };
    const response = await this.#client.connections.send(target, {
      method: 'POST',
      path: `${target.path}/job/${call.jobId}`,
      headers: [...Object.entries(all).flat(), 'x-functions-key', key],
      body,
      deadline,
      signal,
      responseBytesMax: this.limits.responseBytesMax,
    });
    // Its keys were changed, or another one of the name took its place: the next call asks anew.
    const isRefused = response.status === 401 || response.status === 404;
    if (isRefused) this.#doors.delete(name);
    if (isRefused && wasKnown) throw outdated(errorFromResponse(response.status, response.body, response.headers));
    const { results, report } = decodeResponse(response, call);
    const requestId = response.headers['x-ms-invocation-id'] ?? response.headers['request-id'];
    return { results, report: { ...report, ...(typeof requestId === 'string' && { requestId }) } };
  }

  #functionOf(jobId: bigint): string {
    const { function: given = (id: bigint) => `blueprint-job-${id}` } = this.#options;
    return typeof given === 'string' ? given : given(jobId);
  }

  #door(name: string, signal: AbortSignal | undefined): Promise<Door> {
    const known = this.#doors.get(name);
    if (known) return known;
    // Many calls may wait for it: none of them ends it.
    const asked = this.#ask(name);
    this.#doors.set(name, asked);
    asked.catch(() => this.#doors.delete(name));
    return signal?.aborted
      ? Promise.reject(new RunnerError('ABORTED', 'the call was cancelled before it was sent', { retry: 'safe' }))
      : asked;
  }

  async #ask(name: string): Promise<Door> {
    const { url } = this.#options;
    const apps = this.#apps;
    if (!apps) return { target: parseTarget(url ?? ''), key: (await this.#key?.read()) ?? '' };
    try {
      const site = url === undefined ? await apps.find(name) : undefined;
      if (url === undefined && !site) throw absent(name);
      const address = url ?? (site ? apps.hostUrl(site) : '');
      const key = this.#key ? await this.#key.read() : (await apps.keys(name))?.call;
      if (key === undefined)
        throw new RunnerError('EXECUTOR_UNAVAILABLE', `the function ${name} of Azure does not run yet: it gives no keys`);
      return { target: parseTarget(address), key };
    } catch (thrown) {
      throw unsent(thrown);
    }
  }
}

/** What kept the address of a function from being found, in the words of executors: nothing was sent to the function. */
function unsent(thrown: unknown): unknown {
  if (!isRunnerError(thrown)) return thrown;
  const { code, message, details, cause } = thrown;
  if (code === 'PLATFORM_THROTTLED') return new RunnerError('EXECUTOR_THROTTLED', message, { cause, details });
  if (code === 'PLATFORM_UNREACHABLE') return new RunnerError('EXECUTOR_UNREACHABLE', message, { cause, details });
  return thrown;
}

function absent(name: string): RunnerError {
  return new RunnerError('EXECUTOR_NOT_FOUND', `Azure has no function ${name}: deploy it, or name another one`, { details: { name } });
}
