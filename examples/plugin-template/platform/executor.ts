/** Runs jobs in a function on Acme. */

import { RunnerError, decodeResponse, encodeRequest, errorFromResponse } from '../../../src/plugin.ts';
import type { Clock, Execution, ExecutorLimits, FaasExecutor, InvokeOptions, JobCall } from '../../../src/plugin.ts';
import { AcmeClient } from './client.ts';
import type { AcmeOptions } from './options.ts';

/** Limits of the platform, in bytes of arguments and results before they are encoded. */
const LIMITS: ExecutorLimits = { requestBytesMax: 4 * 1024 * 1024, responseBytesMax: 4 * 1024 * 1024, timeoutMsMax: 900_000 };

/**
 * One attempt per call, as the contract wants it: the runner decides what is tried again.
 *
 * @example
 * const executor = new AcmeExecutor({ url: 'https://api.acme.example', function: 'my-jobs' }, systemClock);
 */
export class AcmeExecutor implements FaasExecutor {
  readonly name: string;
  readonly limits = LIMITS;
  readonly #client: AcmeClient;
  readonly #function: string;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: AcmeOptions, clock: Clock) {
    if (options.function === undefined) throw new RunnerError('CONFIG_INVALID', 'an executor of plugin acme needs the option function');
    this.#function = options.function;
    this.name = `acme:${options.function}`;
    this.#client = new AcmeClient(options, clock);
  }

  async invoke(call: JobCall, { deadline, signal }: InvokeOptions): Promise<Execution> {
    // The event is JSON, with the bytes of the call as base64: what every platform of functions can carry.
    const { body, failed } = await this.#client.call(this.#function, encodeRequest('base64', call).body, { deadline, signal });
    if (failed) throw errorFromResponse(500, body);
    return decodeResponse({ status: 200, headers: { 'content-type': 'application/json' }, body }, call);
  }

  async health(_jobId: bigint, { signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    if (await this.#client.find(this.#function, signal)) return;
    throw new RunnerError('EXECUTOR_NOT_FOUND', `the platform has no function ${this.#function}`);
  }

  close(): Promise<void> {
    return this.#client.close();
  }
}
