/** That a platform makes requests wait, as progress of what waits. */

import type { DeployOptions } from '../executor/deployer.ts';

const SECOND = 1_000;

/**
 * The operations that run now, to be told when their platform throttles: it does so to an account, and with it to every operation of it, so
 * all of them are told.
 */
export class Waits {
  readonly #platform: string;
  readonly #running = new Set<(step: string) => void>();

  /** The name is for people. */
  constructor(platform: string) {
    this.#platform = platform;
  }

  /** `what` was refused and is sent again after so many milliseconds. */
  throttled(what: string, waitMs: number): void {
    for (const tell of this.#running) tell(`${this.#platform} throttles ${what}: trying again in ${waitMs / SECOND} s`);
  }

  /** Does the work, and tells meanwhile. */
  async during<T>(name: string, { onProgress }: Pick<DeployOptions, 'onProgress'>, work: () => Promise<T>): Promise<T> {
    const tell = (step: string): void => onProgress?.({ step, function: name });
    this.#running.add(tell);
    try {
      return await work();
    } finally {
      this.#running.delete(tell);
    }
  }
}
