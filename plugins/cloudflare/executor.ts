/** Runs jobs in Workers, over HTTP: bytes in, bytes out, in one request. */

import { BLUEPRINT, RunnerError, encodeRequest } from '../../src/plugin.ts';
import type { Clock, Execution, ExecutorLimits, FaasExecutor, InvokeOptions, JobCall } from '../../src/plugin.ts';
import { WorkerCalls, answerOf, errorOfEdge } from './calls.ts';
import { WORKERS_URL, WORKER_TOKEN, addressOf } from './options.ts';
import type { CloudflareExecutorOptions } from './options.ts';

const MIB = 1024 * 1024;
/** Cloudflare takes 100 MB and gives any size; the handler takes 6 MiB. A call may run for as long as somebody waits for it. */
const LIMITS: ExecutorLimits = { requestBytesMax: 6 * MIB, responseBytesMax: 6 * MIB, timeoutMsMax: 900_000 };
/** What fits into 6 MiB of JSON. */
const JSON_REQUEST_BYTES_MAX = 1.5 * MIB;
/** In JSON a byte takes up to four characters; the rest of the object takes some more. */
const JSON_BYTES_PER_BYTE = 4;
const ENVELOPE_BYTES_MAX = 64 * 1024;
const HEALTH_TIMEOUT_MS = 10_000;

/**
 * One attempt per `invoke`. Rejects with `CREDENTIALS_MISSING` when the token of the Worker cannot be read, with the errors of
 * `HttpClient.send`, with what the handler reports, and with what the edge of Cloudflare says in its place (`answerOf`).
 *
 * @example
 * const executor = new CloudflareExecutor({ subdomain: 'example', function: 'squares' }, { clock: systemClock });
 */
export class CloudflareExecutor implements FaasExecutor {
  readonly name = 'cloudflare';
  readonly limits: ExecutorLimits;
  readonly #options: CloudflareExecutorOptions;
  readonly #clock: Clock;
  readonly #calls: WorkerCalls;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: CloudflareExecutorOptions, { clock }: { readonly clock: Clock }) {
    const { token = WORKER_TOKEN, public: isPublic = false, wire, limits } = options;
    this.#options = options;
    this.#clock = clock;
    this.#calls = new WorkerCalls({ clock, token: isPublic ? undefined : token });
    this.limits = { ...LIMITS, ...(wire === 'json' && { requestBytesMax: JSON_REQUEST_BYTES_MAX }), ...limits };
  }

  async invoke(call: JobCall, { attempt, deadline, signal }: InvokeOptions): Promise<Execution> {
    const format = this.#options.wire === 'json' ? 'json' : 'octets';
    const { headers, body } = encodeRequest(format, call);
    const { responseBytesMax } = this.limits;
    const remainingMs = Math.max(0, Math.ceil(deadline - this.#clock.now()));
    const all = { ...headers, [BLUEPRINT.attempt]: String(attempt), [BLUEPRINT.timeoutMs]: String(remainingMs) };
    const response = await this.#calls.send({
      method: 'POST',
      address: this.#addressOf(call.jobId),
      path: `/job/${call.jobId}`,
      headers: Object.entries(all).flat(),
      body,
      deadline,
      signal,
      responseBytesMax:
        format === 'octets' ? Math.max(responseBytesMax, ENVELOPE_BYTES_MAX) : responseBytesMax * JSON_BYTES_PER_BYTE + ENVELOPE_BYTES_MAX,
    });
    const { results, report } = answerOf(response, call);
    const requestId = response.headers['cf-ray'];
    return { results, report: { ...report, ...(typeof requestId === 'string' && { requestId }) } };
  }

  /** `HEAD` on the address of the job, which asks for no token. */
  async health(jobId: bigint, { signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    const response = await this.#calls.send({
      method: 'HEAD',
      address: this.#addressOf(jobId),
      path: `/job/${jobId}`,
      deadline: this.#clock.now() + HEALTH_TIMEOUT_MS,
      signal,
      responseBytesMax: ENVELOPE_BYTES_MAX,
    });
    const error = errorOfEdge(response);
    if (error) throw error;
    if (response.status >= 300 && response.status !== 405)
      throw new RunnerError('EXECUTOR_UNAVAILABLE', `the Worker answers a health check with status ${response.status}`);
  }

  close(): Promise<void> {
    return this.#calls.close();
  }

  #addressOf(jobId: bigint): string {
    const { function: given = (id: bigint) => `blueprint-job-${id}`, subdomain = '', workersUrl = WORKERS_URL } = this.#options;
    return addressOf(workersUrl, typeof given === 'string' ? given : given(jobId), subdomain);
  }
}
