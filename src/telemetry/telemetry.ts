/**
 * What the rooms see of logging, measuring and tracing. The implementations (pino, Prometheus, OpenTelemetry) stand behind it.
 */

export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A logger that adds these fields to every line. */
  child(fields: LogFields): Logger;
}

/** Only goes up. */
export interface Counter {
  add(amount?: number): void;
}

/** Goes up and down. */
export interface Gauge {
  set(value: number): void;
  add(amount: number): void;
}

/** A distribution; durations are in seconds, sizes in bytes. */
export interface Histogram {
  record(value: number): void;
}

export type Labels = Readonly<Record<string, string>>;

export interface MetricOptions {
  /** Prometheus name: snake case, unit last, `_total` for counters. */
  readonly name: string;
  readonly help: string;
  readonly labels?: Labels;
  /** Upper bounds of a histogram. */
  readonly buckets?: readonly number[];
}

/** Asking twice for the same name and labels gives the same metric. Ask when building, not per call. */
export interface Metrics {
  counter(options: MetricOptions): Counter;
  gauge(options: MetricOptions): Gauge;
  histogram(options: MetricOptions): Histogram;
}

export interface Span {
  setAttribute(name: string, value: string | number | boolean): void;
  recordError(error: unknown): void;
  end(): void;
}

export interface SpanOptions {
  readonly attributes?: Readonly<Record<string, string | number | boolean>>;
  readonly parent?: Span;
}

export interface Telemetry {
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Undefined when nobody traces: then a call costs nothing. */
  readonly startSpan: ((name: string, options?: SpanOptions) => Span) | undefined;
}

const silentLogger: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silentLogger,
};
const silentMetric: Counter & Gauge & Histogram = { add() {}, set() {}, record() {} };

/** Says and counts nothing. The default of every constructor. */
export const silentTelemetry: Telemetry = {
  log: silentLogger,
  metrics: { counter: () => silentMetric, gauge: () => silentMetric, histogram: () => silentMetric },
  startSpan: undefined,
};
