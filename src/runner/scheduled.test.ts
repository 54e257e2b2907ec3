import { afterEach, describe, expect, it } from 'vitest';
import type { JobCall } from '../job/call.ts';
import { defineJob } from '../job/job.ts';
import { JobRouter } from '../job/router.ts';
import { SqliteLedger } from '../ledger/sqlite.ts';
import { periodic } from '../schedule/schedule.ts';
import type { LastRunStore } from '../schedule/scheduler.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import { BlueprintRunner } from './runner.ts';
import { SCHEDULED, scheduledJobs } from './scheduled.ts';
import type { ScheduledJob } from './scheduled.ts';

const HOUR = 3_600_000;
const START = Date.UTC(2026, 0, 1);
const runners: BlueprintRunner[] = [];

afterEach(async () => {
  await Promise.all(runners.splice(0).map((runner) => runner.stop()));
});

const square = defineJob({ name: 'square', params: 'uint64 x', result: 'uint64' }, ([x]) => x * x);
const tick = defineJob({ name: 'tick', result: 'string' }, (_args, { call }) => call.metadata.get(SCHEDULED.at) ?? 'none');

interface Setup {
  readonly jobs: readonly ScheduledJob[];
  readonly router?: JobRouter;
  readonly clock?: FakeClock;
  readonly store?: LastRunStore;
  readonly ledger?: SqliteLedger;
}

async function running({
  jobs,
  router = new JobRouter().route(0, tick).route(1, square),
  clock = new FakeClock({ startMs: START }),
  store,
  ledger,
}: Setup) {
  const calls: JobCall[] = [];
  const producer = scheduledJobs({ jobs, router, clock, ...(store && { store }) });
  const builder = BlueprintRunner.builder({ metrics: false, ledger: ledger ? undefined : false }, {})
    .clock(clock)
    .telemetry(silentTelemetry)
    .router(router)
    .producer(producer)
    .consumer({ name: 'calls', consume: (_result, call) => void calls.push(call) });
  if (ledger) builder.ledger(ledger);
  const runner = await builder.start();
  runners.push(runner);
  await clock.settle();
  return { clock, runner, producer, calls, ids: () => calls.map(({ id }) => id) };
}

describe('scheduled jobs', () => {
  it('call their jobs at their times, with an id of name and time', async () => {
    const { clock, calls, ids } = await running({
      jobs: [
        { name: 'report', jobId: 0, schedule: 'hourly' },
        { name: 'nine', jobId: 1n, schedule: '*:30', args: [3n] },
      ],
    });
    await clock.advance(2 * HOUR);
    expect(ids()).toEqual([
      'schedule:nine:2026-01-01T00:30:00.000Z',
      'schedule:report:2026-01-01T01:00:00.000Z',
      'schedule:nine:2026-01-01T01:30:00.000Z',
      'schedule:report:2026-01-01T02:00:00.000Z',
    ]);
    expect(calls[1]?.metadata.get(SCHEDULED.name)).toBe('report');
    expect(calls[1]?.body).toHaveLength(0);
    expect(calls[0]?.body.at(-1)).toBe(3);
  });

  it('refuse a job that takes inputs and gets none', () => {
    const router = new JobRouter().route(0, tick).route(1, square);
    const make = (job: Partial<ScheduledJob>) => () =>
      scheduledJobs({ router, jobs: [{ name: 'a', jobId: 1, schedule: 'daily', ...job }] });
    expect(make({})).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringContaining('uint64 x') }));
    expect(make({ args: ['three'] })).toThrow(expect.objectContaining({ code: 'JOB_ARGS_INVALID' }));
    const surplus = 'the arguments of the schedule a are not (uint64 x): 2 values are given, and the job takes 1';
    expect(make({ args: [3n, 4n] })).toThrow(expect.objectContaining({ code: 'JOB_ARGS_INVALID', message: surplus }));
    expect(make({ jobId: 0, args: [3n] })).toThrow(expect.objectContaining({ code: 'JOB_ARGS_INVALID' }));
    expect(make({ args: [3n], body: new Uint8Array() })).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', message: 'the schedule a has args and a body; it must be one of them' }),
    );
    expect(make({ jobId: 9 })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    expect(make({ jobId: 0, schedule: 'dayly' })).toThrow(expect.objectContaining({ code: 'SCHEDULE_INVALID' }));
    expect(make({ jobId: 9, body: new Uint8Array() })).not.toThrow();
  });

  it('do not overlap, and count periods from the end of a run where they say so', async () => {
    const clock = new FakeClock({ startMs: START });
    const slow = defineJob({ name: 'slow', result: 'string' }, async () => {
      await clock.sleep(25_000);
      return 'done';
    });
    const router = new JobRouter().route(0, slow);
    const { ids, runner } = await running({
      clock,
      router,
      jobs: [
        { name: 'start', jobId: 0, schedule: periodic(10) },
        { name: 'finish', jobId: 0, schedule: periodic(10, { relativeTo: 'finish' }) },
      ],
    });
    await clock.advance(100_000);
    const seconds = (name: string): number[] =>
      ids()
        .filter((id) => id.startsWith(`schedule:${name}:`))
        .map((id) => (Date.parse(id.slice(`schedule:${name}:`.length)) - START) / 1_000);
    expect(seconds('start')).toEqual([10, 40, 70]);
    expect(seconds('finish')).toEqual([10, 45]);
    const stopping = runner.stop();
    await clock.advance(30_000);
    await stopping;
  });

  it('go on after a call that failed', async () => {
    const fail = defineJob({ name: 'fail', result: 'string' }, () => {
      throw new Error('no');
    });
    const { clock, producer } = await running({
      router: new JobRouter().route(0, fail),
      jobs: [{ name: 'a', jobId: 0, schedule: 'hourly' }],
    });
    await clock.advance(3 * HOUR);
    expect(producer.history('a')).toHaveLength(3);
    expect(producer.status()).toMatchObject([{ running: 0, nextMs: START + 4 * HOUR }]);
  });

  it('make up once for what was missed, and a ledger runs no firing twice', async () => {
    const values = new Map<string, number>([['report', START]]);
    const store: LastRunStore = { get: (name) => values.get(name), set: (name, at) => void values.set(name, at) };
    const ledger = SqliteLedger.open({ path: ':memory:' });
    const jobs = [{ name: 'report', jobId: 0, schedule: 'hourly' }];
    const first = await running({ jobs, store, ledger, clock: new FakeClock({ startMs: START + 3 * HOUR + 1 }) });
    await expect.poll(() => first.ids()).toEqual(['schedule:report:2026-01-01T03:00:00.000Z']);
    await expect.poll(() => values.get('report')).toBe(START + 3 * HOUR);
    await first.runner.stop();
    // As after a crash before the store was told.
    values.set('report', START + 2 * HOUR);
    const second = await running({ jobs, store, ledger, clock: new FakeClock({ startMs: START + 3 * HOUR + 1 }) });
    await expect.poll(() => values.get('report')).toBe(START + 3 * HOUR);
    expect(second.ids()).toEqual([]);
    await expect.poll(() => second.producer.status()).toMatchObject([{ running: 0 }]);
    await ledger.close();
  });

  it('can be paused', async () => {
    const { clock, producer, ids } = await running({ jobs: [{ name: 'report', jobId: 0, schedule: 'hourly' }] });
    producer.pause('report');
    await clock.advance(2 * HOUR);
    producer.resume('report');
    await clock.advance(HOUR);
    expect(ids()).toEqual(['schedule:report:2026-01-01T03:00:00.000Z']);
  });
});
