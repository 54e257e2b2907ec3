/** Metrics in the text format of Prometheus. Recording touches a field; all else happens when somebody scrapes. */

import { RunnerError } from '../errors.ts';
import { createHostReader } from './host.ts';
import type { HostReading } from './host.ts';
import type { Counter, Gauge, GaugeOptions, Histogram, Labels, MetricOptions, Metrics } from './telemetry.ts';

const NAME = /^[a-z_:][a-z0-9_:]*$/i;
const LABEL_NAME = /^(?!__)[a-z_][a-z0-9_]*$/i;
const LABEL_CHARS_MAX = 128;
/** Every label value of the series that takes what comes after the limit. */
const OVERFLOW = 'other';
/** Seconds: from the fastest in-process job to the longest function. */
const DURATION_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900];
/** Gauges of prom-client whose names claim to be counters; `promtool check metrics` refuses them. */
const MISNAMED = ['nodejs_active_handles_total', 'nodejs_active_requests_total', 'nodejs_active_resources_total'];

/** What prom-client says of the event loop while there is no sample of it. */
const UNMEASURED = /^nodejs_eventloop_lag_\w+ (?:Nan|9223372036\S*)\n/gm;

export interface PrometheusOptions {
  /** Label sets per metric name; further ones are counted together under `other`. Default: 1000. */
  readonly seriesMax?: number;
  /** Whether metrics of the process, of Node and of the machine are told too. Default: true. */
  readonly defaults?: boolean;
  /** What the machine looks like now. Default: read from the system. */
  readonly host?: () => Promise<HostReading>;
}

export interface PrometheusMetrics extends Metrics {
  /** All metrics in the text format 0.0.4. */
  expose(): Promise<string>;
}

/**
 * Metrics that Prometheus can scrape. Asking for a name with other label names, another kind or other buckets than the first
 * time throws `INTERNAL`. A sample that is not a number, or that would make a counter go down, is dropped and counted in
 * `blueprint_invalid_samples_total`.
 *
 * @example
 * const metrics = createMetrics();
 * const executed = metrics.counter({ name: 'blueprint_job_executions_total', help: 'Executed jobs.', labels: { job_id: '1' } });
 * executed.add();
 * await metrics.expose();
 */
export function createMetrics(options: PrometheusOptions = {}): PrometheusMetrics {
  return new Registry(options);
}

type Kind = 'counter' | 'gauge' | 'histogram';

export interface Sample {
  /** Of a summary: `_sum` or `_count`. */
  readonly suffix?: '_sum' | '_count';
  readonly labels: Labels;
  readonly value: number;
}

/** A metric whose values are known elsewhere. */
export interface MetricFamily {
  readonly name: string;
  readonly kind: 'counter' | 'gauge' | 'summary';
  readonly help: string;
  readonly samples: readonly Sample[];
}

/** Its lines, for somebody who is asked for metrics and knows them only then; none without samples. */
export function metricText({ name, kind, help, samples }: MetricFamily): string {
  if (samples.length === 0) return '';
  const lines = samples.map(({ suffix = '', labels, value }) => sample(`${name}${suffix}`, labelText(labels), value));
  return headOf({ name, kind, help }) + lines.join('');
}

/** The invalid samples of a registry: one shared field. */
interface Invalid {
  count: number;
}

interface Series {
  /** Lines of the text format. */
  lines(name: string, labels: string): string[];
}

interface Family {
  readonly kind: Kind;
  readonly help: string;
  readonly labelNames: string;
  readonly buckets: string;
  readonly series: Map<string, Series>;
}

class Registry implements PrometheusMetrics {
  readonly #families = new Map<string, Family>();
  readonly #invalid: Invalid = { count: 0 };
  readonly #seriesMax: number;
  readonly #host: (() => Promise<HostReading>) | undefined;
  #process: Promise<() => Promise<string>> | undefined;
  #overflowed = 0;

  constructor(options: PrometheusOptions) {
    this.#seriesMax = options.seriesMax ?? 1000;
    this.#host = (options.defaults ?? true) ? (options.host ?? createHostReader()) : undefined;
  }

  counter(options: MetricOptions): Counter {
    return this.#series('counter', options, () => new CounterSeries(this.#invalid));
  }

  gauge(options: GaugeOptions): Gauge {
    const gauge = this.#series('gauge', options, () => new GaugeSeries(this.#invalid));
    if (options.read) gauge.read = options.read;
    return gauge;
  }

  histogram(options: MetricOptions): Histogram {
    const buckets = options.buckets ?? DURATION_BUCKETS;
    return this.#series('histogram', { ...options, buckets }, () => new HistogramSeries(buckets, this.#invalid));
  }

  async expose(): Promise<string> {
    const blocks = [...this.#families].map(([name, family]) => block({ name, ...family }));
    blocks.push(
      single('blueprint_metric_series_overflow_total', this.#overflowed, {
        kind: 'counter',
        help: 'Requests for series beyond the limit of their metric.',
      }),
    );
    blocks.push(
      single('blueprint_invalid_samples_total', this.#invalid.count, {
        kind: 'counter',
        help: 'Samples that were not numbers or would lower a counter.',
      }),
    );
    if (this.#host) {
      blocks.push(...hostBlocks(await this.#host()));
      this.#process ??= loadProcessMetrics();
      blocks.push(await (await this.#process)());
    }
    return blocks.join('');
  }

  /** The type of a name's series never changes: `#family` refuses another kind. */
  #series<S extends Series>(kind: Kind, options: MetricOptions, create: () => S): S {
    const family = this.#family(kind, options);
    let key = labelText(options.labels ?? {});
    if (!family.series.has(key) && family.series.size >= this.#seriesMax && key !== '') {
      this.#overflowed += 1;
      key = labelText(Object.fromEntries(Object.keys(options.labels ?? {}).map((name) => [name, OVERFLOW])));
    }
    const known = family.series.get(key) as S | undefined;
    const series = known ?? create();
    family.series.set(key, series);
    return series;
  }

  #family(kind: Kind, { name, help, labels = {}, buckets = [] }: MetricOptions): Family {
    const wanted = { kind, help, labelNames: Object.keys(labels).toSorted().join(), buckets: buckets.join() };
    const known = this.#families.get(name);
    if (known) {
      if (known.kind !== kind || known.labelNames !== wanted.labelNames || known.buckets !== wanted.buckets) {
        throw new RunnerError('INTERNAL', `metric ${name} exists with another kind, other labels or other buckets`, {
          details: { name, kind, labels: wanted.labelNames },
        });
      }
      return known;
    }
    checkNames(kind, { name, labels, buckets });
    const family = { ...wanted, series: new Map<string, Series>() };
    this.#families.set(name, family);
    return family;
  }
}

function checkNames(
  kind: Kind,
  { name, labels, buckets }: { readonly name: string; readonly labels: Labels; readonly buckets: readonly number[] },
): void {
  const problems: string[] = [];
  if (!NAME.test(name)) problems.push('the name is not a metric name');
  if ((kind === 'counter') !== name.endsWith('_total')) problems.push('counters, and only they, end in _total');
  if (/_(?:bucket|sum|count)$/.test(name)) problems.push('_bucket, _sum and _count belong to histograms');
  for (const label of Object.keys(labels)) if (!LABEL_NAME.test(label) || label === 'le') problems.push(`${label} is not a label name`);
  if (buckets.some((bound, index) => !Number.isFinite(bound) || bound <= (buckets[index - 1] ?? -Infinity)))
    problems.push('the buckets do not rise');
  if (problems.length > 0) throw new RunnerError('INTERNAL', `metric ${name}: ${problems.join('; ')}`, { details: { name, kind } });
}

class CounterSeries implements Counter, Series {
  #value = 0;
  readonly #invalid: Invalid;

  constructor(invalid: Invalid) {
    this.#invalid = invalid;
  }

  add(amount = 1): void {
    if (amount >= 0 && amount < Infinity) this.#value += amount;
    else this.#invalid.count += 1;
  }

  lines(name: string, labels: string): string[] {
    return [sample(name, labels, this.#value)];
  }
}

class GaugeSeries implements Gauge, Series {
  read: (() => number | undefined) | undefined;
  #value = 0;
  readonly #invalid: Invalid;

  constructor(invalid: Invalid) {
    this.#invalid = invalid;
  }

  set(value: number): void {
    if (Number.isNaN(value)) this.#invalid.count += 1;
    else this.#value = value;
  }

  add(amount: number): void {
    this.set(this.#value + amount);
  }

  lines(name: string, labels: string): string[] {
    const now = this.read?.();
    if (now !== undefined) this.set(now);
    return [sample(name, labels, this.#value)];
  }
}

class HistogramSeries implements Histogram, Series {
  readonly #bounds: Float64Array;
  /** One more than bounds: the last takes what is above all of them. */
  readonly #counts: Float64Array;
  readonly #invalid: Invalid;
  #sum = 0;

  constructor(bounds: readonly number[], invalid: Invalid) {
    this.#bounds = Float64Array.from(bounds);
    this.#counts = new Float64Array(bounds.length + 1);
    this.#invalid = invalid;
  }

  record(value: number): void {
    if (!Number.isFinite(value)) {
      this.#invalid.count += 1;
      return;
    }
    let low = 0;
    let high = this.#bounds.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (value <= (this.#bounds[middle] ?? Infinity)) high = middle;
      else low = middle + 1;
    }
    this.#counts[low] = (this.#counts[low] ?? 0) + 1;
    this.#sum += value;
  }

  lines(name: string, labels: string): string[] {
    let cumulative = 0;
    const lines: string[] = [];
    this.#counts.forEach((count, index) => {
      cumulative += count;
      const bound = `le="${numberText(this.#bounds[index] ?? Infinity)}"`;
      lines.push(sample(`${name}_bucket`, labels === '' ? bound : `${labels},${bound}`, cumulative));
    });
    lines.push(sample(`${name}_sum`, labels, this.#sum), sample(`${name}_count`, labels, cumulative));
    return lines;
  }
}

function block({ name, kind, help, series }: Pick<Family, 'kind' | 'help' | 'series'> & { readonly name: string }): string {
  const lines = [...series].flatMap(([labels, one]) => one.lines(name, labels));
  return headOf({ name, kind, help }) + lines.join('');
}

function headOf({ name, kind, help }: Pick<MetricFamily, 'name' | 'help'> & { readonly kind: Kind | 'summary' }): string {
  return `# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}\n# TYPE ${name} ${kind}\n`;
}

function single(name: string, value: number, { kind, help }: Pick<Family, 'kind' | 'help'>): string {
  return block({ name, kind, help, series: new Map([['', { lines: (metric: string) => [sample(metric, '', value)] }]]) });
}

function sample(name: string, labels: string, value: number): string {
  return `${labels === '' ? name : `${name}{${labels}}`} ${numberText(value)}\n`;
}

function numberText(value: number): string {
  if (value === Infinity) return '+Inf';
  return value === -Infinity ? '-Inf' : String(value);
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return pairs.map(([name, value]) => `${name}="${escapeLabel(value.slice(0, LABEL_CHARS_MAX).toWellFormed())}"`).join();
}

function escapeLabel(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"');
}

/** The gauges that operators of other blueprint managers know, with units in their names. */
function hostBlocks(host: HostReading): string[] {
  const rows: readonly (readonly [name: string, kind: Kind, help: string, value: number | undefined])[] = [
    ['blueprint_uptime_seconds', 'gauge', 'Time since the process started.', host.uptimeSeconds],
    ['blueprint_cpu_usage_ratio', 'gauge', 'Busy share of all processors since the last scrape, 0 to 1.', host.cpuRatio],
    ['blueprint_memory_usage_bytes', 'gauge', 'Used memory of the machine.', host.memoryUsedBytes],
    ['blueprint_total_memory_bytes', 'gauge', 'Memory of the machine.', host.memoryTotalBytes],
    ['blueprint_disk_usage_bytes', 'gauge', 'Used space of the disk that holds the working directory.', host.diskUsedBytes],
    ['blueprint_total_disk_bytes', 'gauge', 'Size of the disk that holds the working directory.', host.diskTotalBytes],
    ['blueprint_network_rx_bytes_total', 'counter', 'Bytes received by all interfaces but loopback.', host.networkRxBytes],
    ['blueprint_network_tx_bytes_total', 'counter', 'Bytes sent by all interfaces but loopback.', host.networkTxBytes],
  ];
  return rows.flatMap(([name, kind, help, value]) => (value === undefined ? [] : [single(name, value, { kind, help })]));
}

/** Metrics of the process and of Node come from prom-client, loaded at the first scrape. */
async function loadProcessMetrics(): Promise<() => Promise<string>> {
  const { Counter: ClientCounter, Registry: ClientRegistry, collectDefaultMetrics } = await import('prom-client');
  const registry = new ClientRegistry();
  const { user, system } = process.cpuUsage();
  collectDefaultMetrics({ register: registry });
  for (const name of MISNAMED) registry.removeSingleMetric(name);
  // prom-client counts from here on.
  for (const [name, micros] of Object.entries({ user_seconds: user, system_seconds: system, seconds: user + system })) {
    const counter = registry.getSingleMetric(`process_cpu_${name}_total`);
    if (counter instanceof ClientCounter) counter.inc(micros / 1e6);
  }
  return async () => (await registry.metrics()).replaceAll(UNMEASURED, '');
}
