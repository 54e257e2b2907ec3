/** The queue of a worker that speaks to the servers of the queue itself, as long as its control plane lets it. */

import { toRunnerError } from '../errors.ts';
import type { RunnerError } from '../errors.ts';
import { ClaimCheckQueue } from './claim-check.ts';
import type { ControlClient } from './control-client.ts';
import type { ClaimOptions, ClaimedJob } from './queue.ts';
import type { SharedQueue } from './shared-queue.ts';

export interface GrantedQueueOptions {
  /** Closed with this one, like `control`. */
  readonly queue: Pick<SharedQueue, 'objects'> & ConstructorParameters<typeof ClaimCheckQueue>[0]['queue'];
  readonly control: ControlClient;
}

/** How often the control plane is asked whether we are still let in; a session is renewed by it. */
const ASK_MS = 10_000;
/** At least so often in the life of a session. */
const ASKED_PER_SESSION = 8;
const REFUSALS = /^TICKET_|^IDENTITY_UNPROVEN$|^FORBIDDEN$/;

/**
 * While the control plane is away it works on: until its session runs out, then the servers wait for another one. Once it is revoked, claims
 * reject with what the control plane says.
 */
export class GrantedQueue extends ClaimCheckQueue {
  readonly #control: ControlClient;
  readonly #closing = new AbortController();
  readonly #refused = new AbortController();
  readonly #watching: Promise<void>;
  #refusal: RunnerError | undefined;

  constructor({ queue, control }: GrantedQueueOptions) {
    super({ queue, objects: queue.objects, clock: control.clock });
    this.#control = control;
    this.#watching = this.#watch();
  }

  override async claim(options: ClaimOptions): Promise<ClaimedJob[]> {
    const { signal } = this.#refused;
    try {
      return await super.claim({ ...options, signal: options.signal ? AbortSignal.any([options.signal, signal]) : signal });
    } catch (thrown) {
      throw this.#refusal ?? thrown;
    }
  }

  override async close(): Promise<void> {
    this.#closing.abort();
    this.#control.stop();
    await super.close();
    await this.#watching;
    await this.#control.close();
  }

  async #watch(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted && !this.#refusal) {
      const everyMs = Math.min(ASK_MS, (this.#control.standing?.validMs ?? Number.POSITIVE_INFINITY) / ASKED_PER_SESSION);
      await this.#control.clock.sleep(everyMs, signal).catch(() => {});
      if (!signal.aborted) await this.#ask();
    }
  }

  async #ask(): Promise<void> {
    try {
      await this.#control.ask({ method: 'GET', path: '/limits' });
    } catch (thrown) {
      const error = toRunnerError(thrown);
      // Whoever does not answer may do so the next time.
      if (!REFUSALS.test(error.code)) return;
      this.#refusal = error;
      this.#refused.abort(error);
    }
  }
}
