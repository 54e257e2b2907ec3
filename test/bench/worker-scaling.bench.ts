/**
 * Jobs per second with 1, 2 and 4 workers on one control plane, each with an engine of its own and four jobs at a time. Jobs that wait, as for
 * an answer of somebody else, are limited by the number of workers; jobs that compute by the processors of this machine, which all workers,
 * the control plane and who publishes share: the ratio of those is told, with the number of processors, and has no goal.
 *
 * `node test/bench/worker-scaling.bench.ts`. Goal: with the workers' number grows what waits, to 0.85 of it at least.
 */

import { availableParallelism } from 'node:os';
import { median } from './measure.ts';
import { Workers, computing, judge, napping } from './workers.ts';
import type { JobKind } from './workers.ts';

const SIZES = [1, 2, 4] as const;
const CONCURRENCY = 4;
const NAP_MS = 100;
const TURNS = 8_000_000;
const ROUNDS = 3;
const ROUND_MS = 2_500;
const WARM_MS = 1_000;
const GOAL = 0.85;

const capability = (size: number): string => `of:${size}`;

async function measure(workers: Workers, what: string, kindOf: (size: number) => Promise<JobKind>): Promise<readonly number[]> {
  const rates = new Map<number, number[]>(SIZES.map((size) => [size, []]));
  const kinds = new Map<number, JobKind>();
  for (const size of SIZES) kinds.set(size, await kindOf(size));
  for (let round = -1; round < ROUNDS; round += 1) {
    for (const size of round % 2 === 0 ? SIZES : SIZES.toReversed()) {
      const kind = kinds.get(size);
      // Twice as many as run: no worker waits for who publishes.
      const load = { clients: 2 * CONCURRENCY * size, forMs: round < 0 ? WARM_MS : ROUND_MS };
      if (!kind) continue;
      const { perSecond } = await workers.run(kind, load);
      if (round >= 0) rates.get(size)?.push(perSecond);
    }
  }
  const medians = SIZES.map((size) => median(rates.get(size) ?? []));
  const [first = 1] = medians;
  for (const [index, size] of SIZES.entries()) {
    const rate = medians[index] ?? 0;
    console.log(`${what}, ${size} workers: ${rate.toFixed(1).padStart(7)} jobs/s, ${(rate / first).toPrecision(3)} times those of 1`);
  }
  return medians.map((rate) => rate / first);
}

console.log(`${availableParallelism()} processors for workers, engines, control plane and who publishes`);
const workers = await Workers.start();
try {
  // A worker of the first `size` takes jobs for that many.
  await Promise.all(
    Array.from({ length: 4 }, (_, index) => {
      const capabilities = SIZES.filter((size) => index < size).map(capability);
      return workers.add(`w${index}`, ['--concurrency', String(CONCURRENCY), '--capabilities', capabilities.join(',')]);
    }),
  );
  const nap = napping(NAP_MS);
  const [, two = 0, four = 0] = await measure(workers, `jobs that wait ${NAP_MS} ms`, (size) =>
    workers.kind('nap', nap, [capability(size)]),
  );
  judge('jobs that wait: 2 workers by twice those of 1', two / 2, { least: GOAL });
  judge('jobs that wait: 4 workers by four times those of 1', four / 4, { least: GOAL });
  const turns = computing(TURNS);
  await measure(workers, 'jobs that compute', (size) => workers.kind('turns', turns, [capability(size)]));
} finally {
  await workers.end();
}
