import { expect, it } from 'vitest';
import { createMetrics } from '../telemetry/prometheus.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { runnerMetrics } from './metrics.ts';

it('the age of the last block is that at the scrape, also when no block comes any more', async () => {
  const clock = new FakeClock();
  const metrics = createMetrics({ defaults: false });
  const { head } = runnerMetrics(metrics, 1, clock);
  const lag = async (): Promise<number> => Number(/^blueprint_chain_head_lag_seconds (\S+)$/m.exec(await metrics.expose())?.[1]);
  expect(await lag()).toBe(0);
  const seconds = Math.floor(clock.now() / 1_000);
  head(7n, BigInt(seconds));
  const first = await lag();
  await clock.advance(600_000);
  expect(await lag()).toBeCloseTo(first + 600);
  head(8n, BigInt(seconds + 600));
  expect(await lag()).toBeCloseTo(first);
  expect(await metrics.expose()).toMatch(/^blueprint_chain_head_block 8$/m);
});
