/**
 * What the rooms see of logging, measuring and tracing. The implementations (pino, Prometheus, OpenTelemetry) stand behind it.
 */

export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** Whether lines of this level go nowhere: then they need not be made. */
  isSilent?(level: 'debug' | 'info' | 'warn' | 'error'): boolean;
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

export interface GaugeOptions extends MetricOptions {
  /** What it is when somebody looks; undefined: what was set last. Of those who ask for the same gauge the last one is asked. */
  readonly read?: () => number | undefined;
}

/** Asking twice for the same name and labels gives the same metric. Ask when building, not per call. */
export interface Metrics {
  counter(options: MetricOptions): Counter;
  gauge(options: GaugeOptions): Gauge;
  histogram(options: MetricOptions): Histogram;
}

export type SpanAttributes = Readonly<Record<string, string | number | boolean>>;

/** A span as W3C Trace Context writes it: what goes to another process. */
export interface TraceContext {
  readonly traceparent: string;
  readonly tracestate?: string;
}

export interface Span {
  /** Undefined when the span is of no trace. */
  readonly context: TraceContext | undefined;
  setAttribute(name: string, value: string | number | boolean): void;
  addEvent(name: string, attributes?: SpanAttributes): void;
  recordError(error: unknown): void;
  /** What the work starts, directly or later, lies under this span. */
  run<T>(work: () => T): T;
  end(): void;
}

export interface SpanOptions {
  readonly attributes?: SpanAttributes;
  /** Default: the span that runs this code. A malformed context counts as none. */
  readonly parent?: Span | TraceContext;
  /** `consumer` takes a request that somebody left, `client` waits for another process. Default `internal`. */
  readonly kind?: 'internal' | 'client' | 'consumer';
  /** Milliseconds since the epoch. Default: now. */
  readonly startedAt?: number;
}

export type StartSpan = (name: string, options?: SpanOptions) => Span;

export interface Telemetry {
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Undefined when nobody traces: then a call costs nothing. */
  readonly startSpan: StartSpan | undefined;
}

const silentLogger: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  isSilent: () => true,
  child: () => silentLogger,
};
const silentMetric: Counter & Gauge & Histogram = { add() {}, set() {}, record() {} };

/** Says and counts nothing. The default of every constructor. */
export const silentTelemetry: Telemetry = {
  log: silentLogger,
  metrics: { counter: () => silentMetric, gauge: () => silentMetric, histogram: () => silentMetric },
  startSpan: undefined,
};
