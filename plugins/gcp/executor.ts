/** Runs jobs in Cloud Run functions: the bytes of a call go to the address of the function, with an ID token. */

import {
  BLUEPRINT,
  Connections,
  LIMITS as PLATFORM_LIMITS,
  RunnerError,
  decodeResponse,
  encodeRequest,
  errorFromResponse,
  inTime,
  isRunnerError,
  outdated,
  parseTarget,
} from '../../src/plugin.ts';
import type { Clock, Execution, ExecutorLimits, FaasExecutor, HttpResponse, InvokeOptions, JobCall, Target } from '../../src/plugin.ts';
import { Tokens } from './auth.ts';
import type { GcpExecutorOptions } from './options.ts';

const { requestBytesMax, responseBytesMax, timeoutMs } = PLATFORM_LIMITS.gcp;
/** Within the 32 MiB of https://docs.cloud.google.com/functions/quotas are the headers. */
const HEADERS_BYTES = 64 * 1024;
const LIMITS: ExecutorLimits = {
  requestBytesMax: requestBytesMax - HEADERS_BYTES,
  responseBytesMax: responseBytesMax - HEADERS_BYTES,
  timeoutMsMax: timeoutMs.max,
};
const HEALTH_TIMEOUT_MS = 30_000;

/**
 * Sends calls to one function. One attempt per `invoke`. Rejects with `CREDENTIALS_MISSING` before anything is sent, with
 * `EXECUTOR_UNREACHABLE`, `EXECUTOR_UNAUTHORIZED`, `EXECUTOR_NOT_FOUND`, `EXECUTOR_THROTTLED`, `EXECUTOR_TIMEOUT`,
 * `EXECUTOR_CONNECTION_LOST`, and with what the handler reports. An answer with 500 or 503 that is not of the handler may follow a call
 * that ran: it is `idempotent`.
 *
 * @example
 * const executor = new GcpExecutor({ uri: 'https://jobs-abc123-uc.a.run.app' }, { clock: systemClock });
 */
export class GcpExecutor implements FaasExecutor {
  readonly name = 'gcp';
  readonly limits: ExecutorLimits;
  readonly #options: GcpExecutorOptions;
  readonly #clock: Clock;
  readonly #connections: Connections;
  readonly #tokens: Tokens;
  readonly #target: Target;
  readonly #running = new Set<Promise<unknown>>();
  #isClosed = false;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: GcpExecutorOptions, { clock, environment }: { readonly clock: Clock; readonly environment?: NodeJS.ProcessEnv }) {
    this.#options = options;
    this.#clock = clock;
    this.#target = parseTarget(options.uri);
    this.#connections = new Connections({}, clock);
    this.#tokens = new Tokens(options, { clock, connections: this.#connections, environment });
    this.limits = { ...LIMITS, ...options.limits };
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    this.#check(options.signal);
    const running = this.#invoke(call, options);
    this.#running.add(running);
    return running.finally(() => this.#running.delete(running));
  }

  /** Asks the handler, which starts an instance when there is none. */
  async health(jobId: bigint, { signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    this.#check(signal);
    const response = await this.#connections.send(this.#target, {
      method: 'HEAD',
      path: `${this.#target.path}/job/${jobId}`,
      headers: await this.#authorization(),
      deadline: this.#clock.now() + HEALTH_TIMEOUT_MS,
      signal,
      responseBytesMax: HEADERS_BYTES,
    });
    this.#forgetRefused(response);
    const { status } = response;
    if (status < 300 || status === 405) return;
    const code =
      status === 404 ? 'EXECUTOR_NOT_FOUND' : status === 401 || status === 403 ? 'EXECUTOR_UNAUTHORIZED' : 'EXECUTOR_UNAVAILABLE';
    throw new RunnerError(code, `the function at ${this.#target.origin} answers with status ${status}`, { details: { status } });
  }

  warm(jobId: bigint, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    return this.health(jobId, options);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    // A call that still waits for its token goes over these connections, too.
    await Promise.allSettled(this.#running);
    await this.#connections.close();
  }

  async #invoke(call: JobCall, { deadline, signal, attempt }: InvokeOptions): Promise<Execution> {
    const wasKept = this.#tokens.keeps(this.#audience);
    const authorization = await inTime(this.#authorization(), { deadline, signal, clock: this.#clock });
    const { headers, body } = encodeRequest('octets', call);
    const remainingMs = Math.max(0, Math.ceil(deadline - this.#clock.now()));
    const all = { ...headers, [BLUEPRINT.attempt]: String(attempt), [BLUEPRINT.timeoutMs]: String(remainingMs) };
    const response = await this.#connections.send(this.#target, {
      method: 'POST',
      path: `${this.#target.path}/job/${call.jobId}`,
      headers: [...Object.entries(all).flat(), ...authorization],
      body,
      deadline,
      signal,
      responseBytesMax: this.limits.responseBytesMax + HEADERS_BYTES,
    });
    this.#forgetRefused(response);
    if (response.status === 401 && wasKept) throw outdated(errorFromResponse(response.status, response.body, response.headers));
    return decodeResponse(response, call);
  }

  get #audience(): string {
    return this.#options.audience ?? this.#options.uri;
  }

  #check(signal: AbortSignal | undefined): void {
    if (this.#isClosed) throw new RunnerError('EXECUTOR_CLOSED', 'the executor of GCP is closed');
    if (signal?.aborted)
      throw new RunnerError('ABORTED', 'the call was cancelled before it was sent', { cause: signal.reason, retry: 'safe' });
  }

  /** Nothing is sent to the function before this, so that every failure is safe to repeat. */
  async #authorization(): Promise<string[]> {
    if (this.#options.public) return [];
    try {
      return ['authorization', `Bearer ${await this.#tokens.identity(this.#audience)}`];
    } catch (error) {
      if (!isRunnerError(error) || error.code !== 'PLATFORM_UNREACHABLE') throw error;
      throw new RunnerError('EXECUTOR_UNREACHABLE', error.message, { cause: error, retry: 'safe' });
    }
  }

  #forgetRefused({ status }: HttpResponse): void {
    if (status === 401) this.#tokens.forget();
  }
}
