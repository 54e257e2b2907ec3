import type { Counter, Gauge, Histogram, Metrics } from '../telemetry/telemetry.ts';
import type { JobOutcome } from './running-job.ts';

const OUTCOMES: readonly JobOutcome[] = ['completed', 'failed', 'dead', 'requeued', 'released', 'lost', 'undelivered'];
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900];

export class WorkerMetrics {
  readonly #claimed: Counter;
  readonly #running: Gauge;
  readonly #connected: Gauge;
  readonly #duration: Histogram;
  readonly #ended: ReadonlyMap<JobOutcome, Counter>;

  constructor(metrics: Metrics, concurrency: number) {
    const name = (suffix: string): string => `blueprint_runner_worker_${suffix}`;
    this.#claimed = metrics.counter({ name: name('claimed_total'), help: 'Jobs that the worker claimed.' });
    this.#running = metrics.gauge({ name: name('running_jobs'), help: 'Jobs that run now.' });
    this.#connected = metrics.gauge({ name: name('connected'), help: 'Whether the queue answered last time, 1 or 0.' });
    this.#duration = metrics.histogram({
      name: name('job_duration_seconds'),
      help: 'From the claim of a job until its report was delivered.',
      buckets: SECONDS,
    });
    const help = 'Jobs that ended here, by what became of them.';
    this.#ended = new Map(OUTCOMES.map((outcome) => [outcome, metrics.counter({ name: name('jobs_total'), help, labels: { outcome } })]));
    metrics.gauge({ name: name('concurrency'), help: 'Jobs that may run at the same time.' }).set(concurrency);
  }

  claimed(running: number): void {
    this.#claimed.add();
    this.#running.set(running);
  }

  connected(isConnected: boolean): void {
    this.#connected.set(isConnected ? 1 : 0);
  }

  ended(outcome: JobOutcome, { running, durationMs }: { readonly running: number; readonly durationMs: number }): void {
    this.#ended.get(outcome)?.add();
    this.#running.set(running);
    this.#duration.record(durationMs / 1_000);
  }
}
