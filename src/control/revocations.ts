/** Workers that speak to the servers of the queue themselves, and were revoked: the servers are told. */

import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { RevokedWorker, SharedQueue } from '../queue/shared-queue.ts';
import type { Logger } from '../telemetry/telemetry.ts';
import type { EnrolmentRecord, Registry, SessionRecord } from './registry.ts';

export interface RevocationsOptions {
  readonly queue: Pick<SharedQueue, 'revoke'>;
  readonly registry: Registry;
  readonly clock: Clock;
  readonly log: Logger;
  /** What was granted ends by itself after so long. */
  readonly sessionMs: number;
}

/** Of clocks, and of what was under way. */
const MARGIN_MS = 120_000;

export class Revocations {
  readonly #options: RevocationsOptions;
  #telling: Promise<void> = Promise.resolve();

  constructor(options: RevocationsOptions) {
    this.#options = options;
  }

  /** After a revocation. Rejects when the servers have not taken it, which `remind` makes up for. */
  async tell(): Promise<void> {
    const { log } = this.#options;
    try {
      if (await this.remind()) return;
    } catch (cause) {
      const { message } = toRunnerError(cause);
      throw new RunnerError(
        'PLATFORM_UNREACHABLE',
        `it is revoked here; the servers of the queue have not been told yet, which is tried again every few seconds: ${message}`,
        { cause },
      );
    }
    log.warn('the servers of the queue cannot be told of revocations: connections of revoked workers end with their sessions');
  }

  /** The servers may have lost what they were told: to be called now and then. False: they cannot be told. One at a time. */
  async remind(): Promise<boolean> {
    const before = this.#telling;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#telling = promise;
    await before;
    try {
      const workers = this.#revoked();
      return workers.every(({ isOver }) => isOver) || (await this.#options.queue.revoke(workers));
    } finally {
      resolve();
    }
  }

  /** A worker with two tickets, of which one was revoked, is let in with the other. */
  #revoked(): RevokedWorker[] {
    const { registry, clock, sessionMs } = this.#options;
    const now = clock.now();
    const revokedAt = ({ ticketId, revokedAt: own }: EnrolmentRecord): number | undefined => own ?? registry.ticket(ticketId)?.revokedAt;
    const isGood = ({ workerId, ticketId, expiresAt }: SessionRecord): boolean =>
      expiresAt > now && registry.revokedAt(workerId) === undefined && registry.ticket(ticketId)?.revokedAt === undefined;
    const isIn = new Set([...registry.sessions()].filter(isGood).map(({ workerId }) => workerId));
    const latest = new Map<string, { readonly publicKey: string; readonly at: number }>();
    for (const enrolment of registry.enrolments()) {
      const at = revokedAt(enrolment);
      const { workerId, publicKey } = enrolment;
      if (at !== undefined && !isIn.has(workerId)) latest.set(workerId, { publicKey, at: Math.max(at, latest.get(workerId)?.at ?? 0) });
    }
    return [...latest.values()].map(({ publicKey, at }) => ({ publicKey, revokedAt: at, isOver: at + sessionMs + MARGIN_MS < now }));
  }
}
