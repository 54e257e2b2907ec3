/** Jobs on the workers of a control plane elsewhere: what `withFaasExecutor(id, { use: 'queue', options })` makes. */

import { join } from 'node:path';
import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { Execution, ExecutorLimits, FaasExecutor, InvokeOptions } from '../executor/executor.ts';
import type { JobCall } from '../job/call.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import type { ControlCredentials } from './control-client.ts';
import { openIdentity } from './identity.ts';
import { Patience, QUEUE_EXECUTOR_LIMITS, QueueExecutor } from './queue-executor.ts';
import type { QueueExecutorOptions } from './queue-executor.ts';
import { RemoteObjects } from './remote-objects.ts';
import { RemoteQueue } from './remote.ts';

/** By ticket, or with the token of the operator. */
export interface RemoteExecutorOptions extends Omit<QueueExecutorOptions, 'queue' | 'objects' | 'ownsQueue' | 'clock' | 'name'> {
  /** A ticket with the scopes `publish` and `objects`. */
  readonly ticket?: string;
  readonly url?: string;
  readonly token?: string;
}

interface RemoteExecutorParts {
  /** Of this executor alone; holds the key with which it enrols. */
  readonly folder: string;
  readonly clock: Clock;
  readonly telemetry: Telemetry;
}

const OPTIONS: ReadonlySet<string> = new Set([
  'ticket',
  'url',
  'token',
  'artifact',
  'functionName',
  'requires',
  'priority',
  'attemptsMax',
  'runtime',
  'handler',
  'memoryMb',
  'timeoutMs',
  'ephemeralMb',
  'network',
  'environment',
]);
/** A request is repeated so long; then the executor asks again, as long as the call may wait. */
const RECONNECT_MS = 500;

/** Checks what a user wrote; the values of a function's settings are checked by `QueueExecutor`. Throws `CONFIG_INVALID`. */
export function remoteExecutorOptions(given: unknown): RemoteExecutorOptions {
  const refuse = (message: string): RunnerError => new RunnerError('CONFIG_INVALID', `executor queue: ${message}`);
  if (typeof given !== 'object' || given === null) throw refuse('it takes an object of options with an artifact');
  for (const name of Object.keys(given))
    if (!OPTIONS.has(name)) throw refuse(`there is no option ${name}; there are ${[...OPTIONS].join(', ')}`);
  const { ticket, url, token, artifact } = given as Record<string, unknown>; // checked next
  for (const [name, value] of Object.entries({ ticket, url, token, artifact }))
    if (value !== undefined && (typeof value !== 'string' || value === '')) throw refuse(`the option ${name} is not a text`);
  if (artifact === undefined) throw refuse('it needs the option artifact: the zip that `bpr build` writes, or image:URI');
  if ((ticket === undefined) === (url === undefined || token === undefined))
    throw refuse('it needs the option ticket, or url and token, to find its control plane');
  return given as RemoteExecutorOptions;
}

/** Connects and enrols with the first call, which waits for a control plane that is not there as `QueueExecutor` does. */
export class RemoteExecutor implements FaasExecutor {
  readonly name = 'queue';
  readonly limits: ExecutorLimits = QUEUE_EXECUTOR_LIMITS;
  readonly reconnects = true;
  readonly #options: RemoteExecutorOptions;
  readonly #parts: RemoteExecutorParts;
  #opening: Promise<QueueExecutor> | undefined;
  readonly #closed = new AbortController();

  /** Does no I/O. */
  constructor(options: RemoteExecutorOptions, parts: RemoteExecutorParts) {
    this.#options = options;
    this.#parts = parts;
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    const patience = new Patience(options, this.#parts.clock);
    for (;;) {
      let executor: QueueExecutor;
      try {
        executor = await this.#opened();
      } catch (thrown) {
        await patience.pause(toRunnerError(thrown), this.#closed.signal);
        continue;
      }
      return executor.invoke(call, options);
    }
  }

  async health(): Promise<void> {
    await (await this.#opened()).health();
  }

  async close(): Promise<void> {
    this.#closed.abort();
    const executor = await this.#opening?.catch(() => undefined);
    await executor?.close();
  }

  #opened(): Promise<QueueExecutor> {
    if (this.#closed.signal.aborted) return Promise.reject(new RunnerError('EXECUTOR_CLOSED', `executor ${this.name} is closed`));
    this.#opening ??= this.#open().catch((thrown: unknown) => {
      this.#opening = undefined;
      const { code, message, retry, details } = toRunnerError(thrown);
      throw new RunnerError(code, message, { cause: thrown, details, retry: retry === 'never' ? 'never' : 'safe' });
    });
    return this.#opening;
  }

  async #open(): Promise<QueueExecutor> {
    const { ticket, url, token, ...options } = this.#options;
    const { folder, clock, telemetry } = this.#parts;
    const credentials: ControlCredentials =
      ticket === undefined ? { url: url ?? '', token: token ?? '' } : { ticket, identity: openIdentity(join(folder, 'identity.key')) };
    const queue = await RemoteQueue.connect({ credentials, clock, telemetry, reconnectMs: RECONNECT_MS });
    return new QueueExecutor({ ...options, queue, objects: new RemoteObjects(queue.control), ownsQueue: true, clock });
  }
}
