import { expect, it } from 'vitest';
import { markdownOf } from './bench.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { EmbeddedQueue } from '../../queue/embedded.ts';
import { concurrencies, findKnee, runStep } from './bench-load.ts';

const step = (jobsPerSecond: number, p99Ms: number) => ({ jobsPerSecond, p99Ms });

it('the knee is the last step before one that is hardly faster and much slower for each', () => {
  const steps = [step(100, 10), step(195, 11), step(300, 14), step(310, 30), step(280, 80)];
  expect(findKnee(steps)).toBe(steps[2]);
  expect(findKnee(steps.slice(0, 3))).toBe(undefined);
});

it('a step that is not faster, but no slower for each, is no knee: it was noise', () => {
  const steps = [step(100, 10), step(104, 11), step(250, 13)];
  expect(findKnee(steps)).toBe(undefined);
});

it('a step that is ended leaves no job in the queue', async () => {
  const queue = EmbeddedQueue.open({ folder: ':memory:' });
  const end = new AbortController();
  // Nobody works for this queue.
  const options = { queue, headers: {}, job: { waitMs: 0, cpuMs: 0 }, stepMs: 1_000, signal: end.signal };
  const ended = runStep(2, options).catch((error: unknown) => error);
  await expect.poll(async () => (await queue.stats()).byState.queued, { timeout: 20_000 }).toBe(2);
  end.abort();
  expect(await ended).toMatchObject({ code: 'ABORTED' });
  expect((await queue.stats()).byState).toMatchObject({ queued: 0, cancelled: 2 });
  await queue.close();
});

it('a step for which nobody works ends, and leaves no dead letter', async () => {
  const clock = new FakeClock({ startMs: Date.now() });
  const queue = EmbeddedQueue.open({ folder: ':memory:', clock });
  const options = { queue, headers: {}, job: { waitMs: 10_000, cpuMs: 5_000 }, stepMs: 1_000, signal: new AbortController().signal };
  const ended = runStep(2, options).catch((error: unknown) => error);
  await expect.poll(async () => (await queue.stats()).byState.queued, { timeout: 20_000 }).toBe(2);
  await clock.advance(100_000);
  const message = 'no worker took a job within 90 s; bpr queue stats tells who waits for jobs';
  expect(await ended).toMatchObject({ code: 'QUEUE_TIMEOUT', message });
  expect((await queue.stats()).byState).toMatchObject({ queued: 0, dead: 0 });
  await queue.close();
});

it('the load doubles up to the most', () => {
  expect(concurrencies(1)).toEqual([1]);
  expect(concurrencies(8)).toEqual([1, 2, 4, 8]);
  expect(concurrencies(20)).toEqual([1, 2, 4, 8, 16, 20]);
});

it('the table says where and when it was measured, and the knee', () => {
  const own = { jobs: 300, errors: 0, seconds: 3, p50Ms: 9.5, controlCpu: 0.25, workersCpu: 0.5, workersMemoryBytes: 200 * 1024 ** 2 };
  const steps = [
    { concurrency: 1, ...own, ...step(100, 12) },
    { concurrency: 2, ...own, ...step(101, 24) },
  ];
  const document = {
    at: '2026-03-04T05:06:07.000Z',
    machine: { cpu: 'A processor', cores: 2, memoryBytes: 8 * 1024 ** 3, node: '24.1.0' },
    fleet: { workers: 2, concurrency: 4, backend: 'process' },
    job: { waitMs: 0, cpuMs: 5 },
    steps,
    ...(steps[0] && { knee: steps[0] }),
  };
  const text = markdownOf(document);
  expect(text.split('\n')).toEqual([
    'Measured with `bpr bench saturate` on 2 cores (A processor), 8 GiB, Node 24.1.0, 2026-03-04: 2 workers with 4 places (process) and their control plane, jobs of 5 ms of CPU and 0 ms of waiting.',
    '',
    '| at once | jobs/s | p50 ms | p99 ms | errors | workers CPU | control CPU | workers MiB |',
    '| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
    '| 1 | 100 | 9.5 | 12.0 | 0 | 0.5 | 0.25 | 200 |',
    '| 2 | 101 | 9.5 | 24.0 | 0 | 0.5 | 0.25 | 200 |',
    '',
    'knee: 1 jobs at the same time, 100 jobs/s, p99 12.0 ms.',
  ]);
  const [slow] = steps.map((step) => ({ ...step, jobsPerSecond: 0.22 }));
  expect(slow && markdownOf({ ...document, steps: [slow] })).toContain('| 1 | 0.22 | 9.5 |');
});
