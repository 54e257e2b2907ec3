/** Suites of conformance on one nats-server. */

import { afterAll, beforeAll, describe, it } from 'vitest';
import { requireNats, startNats } from './nats.ts';
import type { NatsCluster } from './nats.ts';

/** Starts a server for the tests of the file. */
export function natsSuite() {
  const testNats = requireNats();
  let cluster: NatsCluster | undefined;
  beforeAll(async () => {
    cluster = await startNats(1).catch(() => undefined);
  });
  afterAll(() => cluster?.stop());
  return {
    servers: (): readonly string[] => cluster?.addresses ?? [],
    /** Nothing is skipped: what the suite would declare as skipped fails. */
    framework: {
      // Most of them wait.
      describe: describe.concurrent,
      it: Object.assign((name: string, run: () => Promise<void>) => testNats(name, run), {
        skip: (name: string) =>
          it(name, () => {
            throw new Error('it must not be skipped');
          }),
      }),
    },
  };
}
