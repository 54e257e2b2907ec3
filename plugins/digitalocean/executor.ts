/** Runs jobs in functions of DigitalOcean, through their web addresses: bytes in, bytes out, in one request. */

import {
  BLUEPRINT,
  RunnerError,
  decodeResponse,
  encodeRequest,
  errorFromResponse,
  inTime,
  isRunnerError,
  outdated,
} from '../../src/plugin.ts';
import type { Clock, Execution, ExecutorLimits, FaasExecutor, InvokeOptions, JobCall } from '../../src/plugin.ts';
import { Actions } from './actions.ts';
import { Client, fieldsOf } from './client.ts';
import { Activations, webAnswerOf } from './logs.ts';
import { Namespaces } from './namespace.ts';
import { namespaceOptionsOf, tokenOf } from './options.ts';
import type { DigitalOceanExecutorOptions } from './options.ts';

/**
 * DigitalOcean takes and gives 1 MB. Bytes travel as base64 within it, beside the headers.
 *
 * https://docs.digitalocean.com/products/functions/details/limits/
 */
const LIMITS: ExecutorLimits = {
  requestBytesMax: 700 * 1_024,
  responseBytesMax: 700 * 1_024,
  timeoutMsMax: 15 * 60_000,
  concurrencyMax: 120,
};

/** Where a function is called, and what the caller must know. */
interface Web {
  readonly url: string;
  readonly secret: string | undefined;
}

/**
 * One attempt per `invoke`. The address and the secret of a function are asked for once, and again after a refusal. The result of a call that
 * takes longer than the platform lets its caller wait, 30 s, is read from the record of its activation. Rejects with
 * `CREDENTIALS_MISSING`, `EXECUTOR_NOT_FOUND`, `EXECUTOR_THROTTLED`, `EXECUTOR_TIMEOUT`, `EXECUTOR_UNREACHABLE`, and with what the
 * handler reports.
 */
export class DigitalOceanExecutor implements FaasExecutor {
  readonly name = 'digitalocean';
  readonly limits = LIMITS;
  readonly #options: DigitalOceanExecutorOptions;
  readonly #clock: Clock;
  readonly #client: Client;
  readonly #namespaces: Namespaces;
  readonly #actions: Actions;
  readonly #activations: Activations;
  readonly #webs = new Map<string, Promise<Web>>();
  readonly #running = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();
  #isClosed = false;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: DigitalOceanExecutorOptions, { clock }: { readonly clock: Clock }) {
    this.#options = options;
    this.#clock = clock;
    this.#client = new Client({ clock, token: tokenOf(options, clock) });
    this.#namespaces = new Namespaces(this.#client, namespaceOptionsOf(options));
    this.#actions = new Actions(this.#namespaces);
    this.#activations = new Activations(this.#namespaces);
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    if (this.#isClosed) throw new RunnerError('EXECUTOR_CLOSED', 'the executor of DigitalOcean is closed');
    if (options.signal?.aborted) throw new RunnerError('ABORTED', 'the call was cancelled before it was sent', { retry: 'safe' });
    const running = this.#invoke(call, options);
    this.#running.add(running);
    return running.finally(() => this.#running.delete(running));
  }

  /** Asks whether the function is there, whatever was known of it. */
  async health(jobId: bigint, { signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    await this.#ask(this.#functionOf(jobId), signal);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.allSettled(this.#running);
    this.#closing.abort(new RunnerError('EXECUTOR_CLOSED', 'the executor of DigitalOcean is closed'));
    await this.#client.close();
  }

  async #invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    const { deadline, signal } = options;
    const name = this.#functionOf(call.jobId);
    const wasKnown = this.#webs.has(name);
    const { url, secret } = await inTime(this.#web(name), { deadline, signal, clock: this.#clock }).catch((error: unknown) => {
      // Nothing was sent to the function yet.
      throw unsent(error);
    });
    const { headers, body } = encodeRequest('octets', call);
    const timeoutMs = deadline - this.#clock.now();
    if (timeoutMs <= 0) throw new RunnerError('EXECUTOR_TIMEOUT', 'the call was not sent before its deadline', { retry: 'safe' });
    const remaining = { [BLUEPRINT.timeoutMs]: String(Math.ceil(timeoutMs)), [BLUEPRINT.attempt]: String(options.attempt) };
    const response = await this.#client.attempt({
      method: 'POST',
      url,
      headers: { ...headers, ...remaining, ...(secret !== undefined && { 'x-require-whisk-auth': secret }) },
      body,
      signal,
      timeoutMs,
    });
    // It was replaced by another one of the name: the next call asks anew.
    const isRefused = response.status === 401 || response.status === 404;
    if (isRefused) this.#webs.delete(name);
    if (isRefused && wasKnown) throw outdated(errorFromResponse(response.status, response.body, response.headers));
    const isAccepted = response.status === 202;
    const requestId = response.headers['x-openwhisk-activation-id'] ?? (isAccepted ? fieldsOf(response.body)?.['activationId'] : undefined);
    // The platform keeps a caller for 30 s; a longer call goes on behind this answer.
    const isLate = isAccepted && typeof requestId === 'string';
    const answer = isLate ? webAnswerOf(name, await this.#activations.wait(requestId, deadline, signal)) : response;
    const { results, report } = decodeResponse(answer, call);
    return { results, report: { ...report, ...(typeof requestId === 'string' && { requestId }) } };
  }

  #functionOf(jobId: bigint): string {
    const { function: given = (id: bigint) => `blueprint-job-${id}` } = this.#options;
    return typeof given === 'string' ? given : given(jobId);
  }

  #web(name: string): Promise<Web> {
    const known = this.#webs.get(name);
    if (known) return known;
    // Many calls may wait for it: none of them ends it.
    const asked = this.#ask(name, this.#closing.signal);
    this.#webs.set(name, asked);
    asked.catch(() => this.#webs.delete(name));
    return asked;
  }

  async #ask(name: string, signal: AbortSignal | undefined): Promise<Web> {
    const namespace = await this.#namespaces.find(signal);
    const action = namespace && (await this.#actions.find(name, signal));
    if (!action) {
      const message = `DigitalOcean has no function ${name}: deploy it, or name another one`;
      throw new RunnerError('EXECUTOR_NOT_FOUND', message, { details: { name, namespace: this.#namespaces.options.namespace } });
    }
    const url = `${namespace.apiHost}/api/v1/web/${namespace.id}/default/${encodeURIComponent(name)}`;
    return { url, secret: action.webSecret };
  }
}

/** What kept the address of a function from being found, in the words of executors. */
function unsent(thrown: unknown): unknown {
  if (!isRunnerError(thrown)) return thrown;
  const { code, message, details, cause } = thrown;
  if (code === 'PLATFORM_THROTTLED') return new RunnerError('EXECUTOR_THROTTLED', message, { cause, details });
  return code === 'PLATFORM_UNREACHABLE' ? new RunnerError('EXECUTOR_UNREACHABLE', message, { cause, details }) : thrown;
}
