/** Clients that call a gateway without a pause, and what they saw. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Api, CallResult, GatewayProcess } from './containers-gateway.ts';
import { quantile } from './containers-gateway.ts';

export type Check = readonly [name: string, holds: boolean, figure: string];

/** A number known only while it is asked for, and the most it ever was. */
export class Watch {
  readonly peaks: Record<string, number> = {};
  #isOver = false;
  readonly #watched: Promise<void>;

  constructor(look: () => Promise<Readonly<Record<string, number>>>, everyMs = 20) {
    this.#watched = (async () => {
      while (!this.#isOver) {
        for (const [name, value] of Object.entries(await look())) this.peaks[name] = Math.max(this.peaks[name] ?? 0, value);
        await sleep(everyMs);
      }
    })();
  }

  async end(): Promise<Readonly<Record<string, number>>> {
    this.#isOver = true;
    await this.#watched;
    return this.peaks;
  }
}

export interface LoadOptions {
  readonly clients: number;
  /** Called before and after each call. */
  readonly begin?: () => number;
  readonly check: (result: CallResult, begun: number) => string | undefined;
  readonly name: (client: number, call: number) => string;
  readonly api?: (call: number) => Api;
  readonly event?: (client: number, call: number) => unknown;
  /** Between the calls of a client. */
  readonly pauseMs?: number;
}

/** Calls until it is told to stop. */
export class Load {
  readonly times: number[] = [];
  /** Answers that were wrong. */
  readonly wrong: string[] = [];
  /** Calls without an answer, by what the connection said. */
  readonly lost: Record<string, number> = {};
  answered = 0;
  #isOver = false;
  readonly #clients: Promise<void[]>;

  constructor(gateway: GatewayProcess, options: LoadOptions) {
    this.#clients = Promise.all(Array.from({ length: options.clients }, (_, client) => this.#client(gateway, client, options)));
  }

  /** Resolves when the calls that run were answered. */
  async end(): Promise<void> {
    this.#isOver = true;
    await this.#clients;
  }

  get lostCount(): number {
    return Object.values(this.lost).reduce((sum, count) => sum + count, 0);
  }

  get p99(): number {
    return quantile(this.times, 0.99);
  }

  async #client(gateway: GatewayProcess, client: number, options: LoadOptions): Promise<void> {
    for (let call = 0; !this.#isOver; call += 1) {
      const begun = options.begin?.() ?? 0;
      const startedMs = performance.now();
      try {
        const result = await gateway.call(options.name(client, call), options.event?.(client, call) ?? call, options.api?.(call));
        this.times.push(performance.now() - startedMs);
        this.answered += 1;
        const reason = options.check(result, begun);
        if (reason !== undefined) this.wrong.push(reason);
      } catch (thrown) {
        const code = codeOf(thrown);
        this.lost[code] = (this.lost[code] ?? 0) + 1;
        // The gateway is gone.
        return;
      }
      if (options.pauseMs !== undefined) await sleep(options.pauseMs);
    }
  }
}

function codeOf(thrown: unknown): string {
  const { code, message } = thrown as { readonly code?: unknown; readonly message?: unknown };
  return typeof code === 'string' ? code : String(message);
}

/** Resolves with how long it took, or with undefined when it did not come true in time. */
export async function until(holds: () => boolean | Promise<boolean>, limitMs = 20_000): Promise<number | undefined> {
  const startedMs = performance.now();
  while (!(await holds())) {
    if (performance.now() - startedMs > limitMs) return undefined;
    await sleep(20);
  }
  return performance.now() - startedMs;
}
