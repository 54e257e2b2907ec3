import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isRunnerError } from '../errors.ts';
import { createHostReader, parseNetwork } from './host.ts';
import { createMetrics } from './prometheus.ts';
import type { MetricOptions } from './telemetry.ts';

const bare = (seriesMax?: number) => createMetrics({ defaults: false, ...(seriesMax !== undefined && { seriesMax }) });

/** The lines of one metric. */
async function linesOf(metrics: ReturnType<typeof createMetrics>, name: string): Promise<string[]> {
  return (await metrics.expose()).split('\n').filter((line) => line.startsWith(name));
}

describe('counters and gauges', () => {
  it('expose help, type and value, at zero from the start', async () => {
    const metrics = bare();
    metrics.counter({ name: 'calls_total', help: 'Calls\nseen \\ all.' });
    expect((await metrics.expose()).split('\n').slice(0, 3)).toEqual([
      '# HELP calls_total Calls\\nseen \\\\ all.',
      '# TYPE calls_total counter',
      'calls_total 0',
    ]);
  });

  it('add up', async () => {
    const metrics = bare();
    const counter = metrics.counter({ name: 'calls_total', help: 'x' });
    counter.add();
    counter.add(2.5);
    const gauge = metrics.gauge({ name: 'in_flight', help: 'x' });
    gauge.set(5);
    gauge.add(-2);
    expect(await linesOf(metrics, 'calls_total')).toEqual(['calls_total 3.5']);
    expect(await linesOf(metrics, 'in_flight')).toEqual(['in_flight 3']);
  });

  it('are the same metric when asked for twice, whatever the order of the labels', async () => {
    const metrics = bare();
    const options = { name: 'calls_total', help: 'x' };
    const first = metrics.counter({ ...options, labels: { a: '1', b: '2' } });
    expect(metrics.counter({ ...options, labels: { b: '2', a: '1' } })).toBe(first);
    metrics.counter({ ...options, labels: { a: '1', b: '3' } }).add(7);
    expect(await linesOf(metrics, 'calls_total')).toEqual(['calls_total{a="1",b="2"} 0', 'calls_total{a="1",b="3"} 7']);
  });

  it('are read at each scrape, by who asked last', async () => {
    const metrics = bare();
    const told: { age?: number } = {};
    metrics.gauge({ name: 'age', help: 'x', read: () => 99 });
    metrics.gauge({ name: 'age', help: 'x', read: () => told.age }).set(1);
    expect(await linesOf(metrics, 'age')).toEqual(['age 1']);
    told.age = 7;
    metrics.gauge({ name: 'age', help: 'x' });
    expect(await linesOf(metrics, 'age')).toEqual(['age 7']);
  });

  it('drop and count samples that make no sense', async () => {
    const metrics = bare();
    const counter = metrics.counter({ name: 'calls_total', help: 'x' });
    for (const amount of [-1, Number.NaN, Infinity]) counter.add(amount);
    metrics.gauge({ name: 'level', help: 'x' }).set(Number.NaN);
    metrics.histogram({ name: 'size_bytes', help: 'x' }).record(Infinity);
    expect(await linesOf(metrics, 'calls_total')).toEqual(['calls_total 0']);
    expect(await linesOf(metrics, 'blueprint_invalid_samples_total')).toEqual(['blueprint_invalid_samples_total 5']);
  });
});

describe('histograms', () => {
  it('count a value in the first bucket that is not below it', async () => {
    const metrics = bare();
    const histogram = metrics.histogram({ name: 'size_bytes', help: 'x', labels: { job: '1' }, buckets: [1, 2, 5] });
    for (const value of [0, 1, 1.5, 2, 5, 6]) histogram.record(value);
    expect(await linesOf(metrics, 'size_bytes')).toEqual([
      'size_bytes_bucket{job="1",le="1"} 2',
      'size_bytes_bucket{job="1",le="2"} 4',
      'size_bytes_bucket{job="1",le="5"} 5',
      'size_bytes_bucket{job="1",le="+Inf"} 6',
      'size_bytes_sum{job="1"} 15.5',
      'size_bytes_count{job="1"} 6',
    ]);
  });

  it('agree with a count by hand for any buckets and values', async () => {
    const number = fc.double({ noNaN: true, noDefaultInfinity: true, min: -1e6, max: 1e6 });
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(number, { minLength: 1, maxLength: 12, comparator: 'SameValueZero' }),
        fc.array(number, { maxLength: 50 }),
        async (bounds, values) => {
          const buckets = bounds.map((bound) => bound + 0).toSorted((a, b) => a - b);
          const metrics = bare();
          const histogram = metrics.histogram({ name: 'x', help: 'x', buckets });
          for (const value of values) histogram.record(value);
          const counts = (await linesOf(metrics, 'x_bucket')).map((line) => Number(line.split(' ')[1]));
          expect(counts).toEqual([...buckets, Infinity].map((bound) => values.filter((value) => value <= bound).length));
        },
      ),
    );
  });
});

describe('what is refused', () => {
  const wrong: readonly (readonly [string, 'counter' | 'gauge' | 'histogram', Partial<MetricOptions>])[] = [
    ['a name with a dash', 'gauge', { name: 'in-flight' }],
    ['a counter without _total', 'counter', { name: 'calls' }],
    ['a gauge with _total', 'gauge', { name: 'handles_total' }],
    ['a name that a histogram would make', 'gauge', { name: 'size_count' }],
    ['a label with a dash', 'gauge', { labels: { 'a-b': '1' } }],
    ['the label of buckets', 'histogram', { labels: { le: '1' } }],
    ['a reserved label', 'gauge', { labels: { __name: '1' } }],
    ['buckets that fall', 'histogram', { buckets: [2, 1] }],
    ['buckets without end', 'histogram', { buckets: [1, Infinity] }],
  ];

  it.each(wrong)('%s', (_, kind, options) => {
    expect(() => bare()[kind]({ name: 'fine', help: 'x', ...options })).toThrow(expect.objectContaining({ code: 'INTERNAL' }));
  });

  it('a name used for another kind, other labels or other buckets', () => {
    const metrics = bare();
    metrics.histogram({ name: 'size', help: 'x', labels: { a: '1' }, buckets: [1] });
    expect(() => metrics.gauge({ name: 'size', help: 'x', labels: { a: '1' } })).toThrow(/size exists with another kind/);
    expect(() => metrics.histogram({ name: 'size', help: 'x', labels: { b: '1' }, buckets: [1] })).toSatisfy(
      (run: () => void) => thrownCode(run) === 'INTERNAL',
    );
    expect(() => metrics.histogram({ name: 'size', help: 'x', labels: { a: '1' }, buckets: [2] })).toSatisfy(
      (run: () => void) => thrownCode(run) === 'INTERNAL',
    );
  });
});

function thrownCode(run: () => void): string | undefined {
  try {
    run();
  } catch (error) {
    return isRunnerError(error) ? error.code : String(error);
  }
  return undefined;
}

describe('bounds', () => {
  it('label sets beyond the limit are counted together', async () => {
    const metrics = bare(3);
    for (let caller = 0; caller < 1000; caller++)
      metrics.counter({ name: 'calls_total', help: 'x', labels: { caller: String(caller) } }).add();
    expect(await linesOf(metrics, 'calls_total')).toEqual([
      'calls_total{caller="0"} 1',
      'calls_total{caller="1"} 1',
      'calls_total{caller="2"} 1',
      'calls_total{caller="other"} 997',
    ]);
    expect(await linesOf(metrics, 'blueprint_metric_series_overflow_total')).toEqual(['blueprint_metric_series_overflow_total 997']);
  });

  it('label values are cut and escaped, never able to forge a line', async () => {
    const metrics = bare();
    metrics.gauge({ name: 'x', help: 'x', labels: { who: 'a"} 1\nforged 2\\' } });
    expect(await linesOf(metrics, 'x')).toEqual(['x{who="a\\"} 1\\nforged 2\\\\"} 0']);
    expect(await linesOf(metrics, 'forged')).toEqual([]);
    metrics.gauge({ name: 'y', help: 'x', labels: { who: 'a'.repeat(500) } });
    expect((await linesOf(metrics, 'y'))[0]).toBe(`y{who="${'a'.repeat(128)}"} 0`);
  });
});

describe('defaults', () => {
  it('tell of the process, of Node and of the machine', async () => {
    const text = await createMetrics().expose();
    for (const name of [
      'process_cpu_seconds_total',
      'process_resident_memory_bytes',
      'nodejs_eventloop_lag_seconds',
      'blueprint_uptime_seconds',
      'blueprint_total_memory_bytes',
    ]) {
      expect(text).toMatch(new RegExp(`^${name} [0-9.e+-]+`, 'm'));
    }
    expect(text).not.toMatch(/^# TYPE \S+_total gauge$/m);
  });

  it('count processor time from the start of the process, not of the first scrape', async () => {
    const { user, system } = process.cpuUsage();
    const metrics = createMetrics();
    for (const [name, micros] of Object.entries({ user_seconds: user, system_seconds: system, seconds: user + system })) {
      const [line = ''] = await linesOf(metrics, `process_cpu_${name}_total`);
      expect(Number(line.split(' ')[1])).toBeGreaterThanOrEqual(micros / 1e6);
    }
  });

  it('say nothing of the event loop that was not measured yet, or not since the last scrape', async () => {
    const metrics = createMetrics();
    for (const text of [await metrics.expose(), await metrics.expose()]) {
      expect(text).toMatch(/^nodejs_eventloop_lag_seconds \d/m);
      expect(text).not.toMatch(/nan$|^\S+ 9223372036/im);
    }
  });

  it('leave out what the system does not tell', async () => {
    const host = { uptimeSeconds: 1, cpuRatio: 0.5, memoryUsedBytes: 1, memoryTotalBytes: 2, diskUsedBytes: 1, diskTotalBytes: 2 };
    const metrics = createMetrics({ host: () => Promise.resolve(host) });
    expect(await linesOf(metrics, 'blueprint_cpu_usage_ratio')).toEqual(['blueprint_cpu_usage_ratio 0.5']);
    expect(await linesOf(metrics, 'blueprint_network')).toEqual([]);
  });

  it('the reader of the machine gives figures within bounds', async () => {
    const read = createHostReader();
    for (const reading of [await read(), await read()]) {
      expect(reading.cpuRatio).toBeGreaterThanOrEqual(0);
      expect(reading.cpuRatio).toBeLessThanOrEqual(1);
      expect(reading.memoryUsedBytes).toBeLessThan(reading.memoryTotalBytes);
      expect(reading.diskUsedBytes).toBeLessThanOrEqual(reading.diskTotalBytes);
    }
  });

  it('sums the interfaces without loopback', () => {
    const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 999 1 0 0 0 0 0 0 999 1 0 0 0 0 0 0
  eth0: 100 1 0 0 0 0 0 0 30 1 0 0 0 0 0 0
  eth1:5 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0
`;
    expect(parseNetwork(text)).toEqual({ networkRxBytes: 105, networkTxBytes: 32 });
  });
});
