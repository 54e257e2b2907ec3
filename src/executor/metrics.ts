/** What is counted about executions. Metrics are asked for once per executor and job, not per call. */

import type { ErrorCode } from '../errors.ts';
import type { Counter, Gauge, Histogram, Labels, Metrics } from '../telemetry/telemetry.ts';
import type { ExecutionReport } from './executor.ts';
import type { CircuitState } from './resilience.ts';

const CIRCUIT_VALUES: Readonly<Record<CircuitState, number>> = { closed: 0, 'half-open': 1, open: 2 };

export class ExecutorMetrics {
  readonly #metrics: Metrics;

  constructor(metrics: Metrics) {
    this.#metrics = metrics;
  }

  target(executor: string, job: string): TargetMetrics {
    return new TargetMetrics(this.#metrics, { executor, job });
  }

  fellBack(executor: string, job: string): void {
    const help = 'Calls handed to the fallback executor.';
    this.#metrics.counter({ name: 'blueprint_executor_fallbacks_total', help, labels: { executor, job } }).add();
  }

  circuit(executor: string, state: CircuitState): void {
    const help = 'State of the circuit breaker: 0 closed, 1 half-open, 2 open.';
    this.#metrics.gauge({ name: 'blueprint_executor_circuit_state', help, labels: { executor } }).set(CIRCUIT_VALUES[state]);
  }
}

/** Of one job on one executor. */
export class TargetMetrics {
  readonly #metrics: Metrics;
  readonly #labels: Labels;
  readonly #succeeded: Counter;
  readonly #failed = new Map<ErrorCode, Counter>();
  readonly #coldStarts: Counter;
  readonly #inFlight: Gauge;
  readonly #duration: Histogram;

  constructor(metrics: Metrics, labels: Labels) {
    this.#metrics = metrics;
    this.#labels = labels;
    this.#succeeded = this.#attempts('OK');
    this.#coldStarts = metrics.counter({
      name: 'blueprint_executor_cold_starts_total',
      help: 'Attempts that the platform reported as cold starts.',
      labels,
    });
    this.#inFlight = metrics.gauge({ name: 'blueprint_executor_in_flight', help: 'Attempts that run now.', labels });
    this.#duration = metrics.histogram({ name: 'blueprint_executor_attempt_duration_seconds', help: 'Time of one attempt.', labels });
  }

  started(): void {
    this.#inFlight.add(1);
  }

  ended(durationMs: number, report: ExecutionReport | undefined): void {
    this.#inFlight.add(-1);
    this.#succeeded.add();
    this.#duration.record(durationMs / 1_000);
    if (report?.coldStart) this.#coldStarts.add();
  }

  failed(durationMs: number, code: ErrorCode): void {
    this.#inFlight.add(-1);
    this.#duration.record(durationMs / 1_000);
    let counter = this.#failed.get(code);
    if (!counter) this.#failed.set(code, (counter = this.#attempts(code)));
    counter.add();
  }

  #attempts(code: string): Counter {
    const help = 'Attempts to execute a call, by their outcome.';
    return this.#metrics.counter({ name: 'blueprint_executor_attempts_total', help, labels: { ...this.#labels, code } });
  }
}
