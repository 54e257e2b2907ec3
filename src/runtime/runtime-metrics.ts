/** What is counted about functions. Metrics are asked for once per function, not per call. */

import type { Counter, Gauge, Histogram, Labels, Metrics } from '../telemetry/telemetry.ts';
import type { InstanceInfo, InstanceState, InvocationReport } from './runtime.ts';

const START_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const RUN_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900];

export class FunctionMetrics {
  readonly #metrics: Metrics;
  readonly #labels: Labels;
  readonly #outcomes = new Map<string, Counter>();
  readonly #evictions = new Map<string, Counter>();
  readonly #duration: Histogram;
  readonly #queueWait: Histogram;
  readonly #coldStarts: Counter;
  readonly #phases: Readonly<Record<'create' | 'start' | 'init', Histogram>>;
  readonly #inFlightGauge: Gauge;
  /** Calls that wait or run. */
  inFlight = 0;

  constructor(metrics: Metrics, name: string) {
    this.#metrics = metrics;
    const labels: Labels = { function: name };
    this.#labels = labels;
    const histogram = (metric: string, help: string): Histogram => metrics.histogram({ name: metric, help, labels, buckets: RUN_BUCKETS });
    this.#duration = histogram(
      'blueprint_function_duration_seconds',
      'Time from when an instance took a call until its answer was complete.',
    );
    this.#queueWait = histogram('blueprint_function_queue_wait_seconds', 'Time that a call waited for an instance.');
    this.#coldStarts = metrics.counter({
      name: 'blueprint_function_cold_starts_total',
      help: 'Calls that were the first of their instance.',
      labels,
    });
    const phase = (of: string): Histogram =>
      metrics.histogram({
        name: 'blueprint_function_cold_start_seconds',
        help: 'Time to create an instance, to start its program, and until it asked for work.',
        labels: { ...labels, phase: of },
        buckets: START_BUCKETS,
      });
    this.#phases = { create: phase('create'), start: phase('start'), init: phase('init') };
    this.#inFlightGauge = metrics.gauge({ name: 'blueprint_function_in_flight', help: 'Calls that wait or run.', labels });
  }

  started(instance: { readonly createMs: number; readonly bootMs: number; readonly initMs: number }): void {
    this.#phases.create.record(instance.createMs / 1_000);
    this.#phases.start.record(instance.bootMs / 1_000);
    this.#phases.init.record(instance.initMs / 1_000);
  }

  began(): void {
    this.inFlight += 1;
    this.#inFlightGauge.add(1);
  }

  ended(outcome: string, report: InvocationReport | undefined): void {
    this.inFlight -= 1;
    this.#inFlightGauge.add(-1);
    const counter = this.#outcomes.get(outcome);
    if (counter) counter.add();
    else
      this.#count(this.#outcomes, outcome, (value) => ({
        name: 'blueprint_function_invocations_total',
        help: 'Calls by outcome: OK, or the code of the error.',
        labels: { ...this.#labels, outcome: value },
      }));
    if (!report) return;
    this.#duration.record(report.runMs / 1_000);
    this.#queueWait.record(report.queueMs / 1_000);
    if (report.coldStart) this.#coldStarts.add();
  }

  evicted(reason: string): void {
    this.#count(this.#evictions, reason, (value) => ({
      name: 'blueprint_function_evictions_total',
      help: 'Instances that were ended, by reason.',
      labels: { ...this.#labels, reason: value },
    }));
  }

  #count(counters: Map<string, Counter>, key: string, options: (key: string) => { name: string; help: string; labels: Labels }): void {
    let counter = counters.get(key);
    if (!counter) counters.set(key, (counter = this.#metrics.counter(options(key))));
    counter.add();
  }
}

const STATES: readonly InstanceState[] = ['starting', 'idle', 'busy', 'paused', 'stopping'];

/** Of all functions together. */
export class RuntimeGauges {
  readonly #instances: ReadonlyMap<InstanceState, Gauge>;
  readonly #depth: Gauge;
  readonly #oldest: Gauge;

  constructor(metrics: Metrics) {
    const help = 'Instances by what they do.';
    this.#instances = new Map(
      STATES.map((state) => [state, metrics.gauge({ name: 'blueprint_runtime_instances', help, labels: { state } })]),
    );
    this.#depth = metrics.gauge({ name: 'blueprint_runtime_queue_depth', help: 'Calls that wait for an instance.' });
    this.#oldest = metrics.gauge({
      name: 'blueprint_runtime_queue_oldest_age_seconds',
      help: 'For how long the call has waited that waits for longest.',
    });
  }

  set(instances: readonly InstanceInfo[], queue: { readonly depth: number; readonly oldestMs: number }): void {
    for (const [state, gauge] of this.#instances) gauge.set(instances.filter((each) => each.state === state).length);
    this.#depth.set(queue.depth);
    this.#oldest.set(queue.oldestMs / 1_000);
  }
}
