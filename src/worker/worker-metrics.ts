import type { Clock } from '../clock.ts';
import type { Counter, Gauge, Histogram, Metrics } from '../telemetry/telemetry.ts';
import type { JobHandler, JobOutcome } from './running-job.ts';

const OUTCOMES: readonly JobOutcome[] = ['completed', 'failed', 'dead', 'requeued', 'released', 'lost', 'undelivered'];
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900];

/** Of many values: enough for their mean and rate. */
export interface Tally {
  readonly count: number;
  readonly sum: number;
}

/** What a worker did since it was made; seconds. */
export interface WorkerFigures {
  readonly jobs: Readonly<Partial<Record<JobOutcome, number>>>;
  /** From claim to delivered report. */
  readonly jobSeconds: Tally;
  /** From claim until the code of the job was reached. */
  readonly startSeconds: Tally;
}

export class WorkerMetrics {
  readonly #claimed: Counter;
  readonly #running: Gauge;
  readonly #connected: Gauge;
  readonly #claim: Histogram;
  readonly #start: Histogram;
  readonly #run: Histogram;
  readonly #duration: Histogram;
  readonly #ended: ReadonlyMap<JobOutcome, Counter>;
  readonly #jobs: Partial<Record<JobOutcome, number>> = {};
  readonly #jobSeconds = { count: 0, sum: 0 };
  readonly #startSeconds = { count: 0, sum: 0 };

  constructor(metrics: Metrics, concurrency: number) {
    const name = (suffix: string): string => `blueprint_runner_worker_${suffix}`;
    const histogram = (suffix: string, help: string): Histogram => metrics.histogram({ name: name(suffix), help, buckets: SECONDS });
    this.#claimed = metrics.counter({ name: name('claimed_total'), help: 'Jobs that the worker claimed.' });
    this.#running = metrics.gauge({ name: name('running_jobs'), help: 'Jobs that run now.' });
    this.#connected = metrics.gauge({ name: name('connected'), help: 'Whether the queue answered last time, 1 or 0.' });
    this.#claim = histogram('claim_duration_seconds', 'From asking for jobs until some came, the wait for the next one included.');
    this.#start = histogram('job_start_seconds', 'From the claim of a job until its code was reached: package, instance.');
    this.#run = histogram('job_run_seconds', 'From then until the code had ended.');
    this.#duration = histogram('job_duration_seconds', 'From the claim of a job until its report was delivered.');
    const help = 'Jobs that ended here, by what became of them.';
    this.#ended = new Map(OUTCOMES.map((outcome) => [outcome, metrics.counter({ name: name('jobs_total'), help, labels: { outcome } })]));
    metrics.gauge({ name: name('concurrency'), help: 'Jobs that may run at the same time.' }).set(concurrency);
  }

  get figures(): WorkerFigures {
    return { jobs: { ...this.#jobs }, jobSeconds: { ...this.#jobSeconds }, startSeconds: { ...this.#startSeconds } };
  }

  /** A claim that brought jobs. */
  claimTook(durationMs: number): void {
    this.#claim.record(durationMs / 1_000);
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
    this.#jobs[outcome] = (this.#jobs[outcome] ?? 0) + 1;
    this.#running.set(running);
    this.#duration.record(add(this.#jobSeconds, durationMs));
  }

  /** The same handler, its phases measured. */
  measured(handler: JobHandler, clock: Clock): JobHandler {
    return {
      run: async (job, { signal, started }) => {
        const claimedAt = clock.monotonic();
        let startedAt: number | undefined;
        const onStarted = (): void => {
          if (startedAt === undefined) this.#start.record(add(this.#startSeconds, (startedAt = clock.monotonic()) - claimedAt));
          started();
        };
        try {
          return await handler.run(job, { signal, started: onStarted });
        } finally {
          if (startedAt !== undefined) this.#run.record((clock.monotonic() - startedAt) / 1_000);
        }
      },
    };
  }
}

/** Returns it in seconds. */
function add(tally: { count: number; sum: number }, durationMs: number): number {
  tally.count += 1;
  tally.sum += durationMs / 1_000;
  return durationMs / 1_000;
}

/** When a worker reached each step of its life, from the start of its process; each once. */
export class WorkerLifecycle {
  readonly #metrics: Metrics;
  readonly #seconds: Record<string, number> = {};

  constructor(metrics: Metrics) {
    this.#metrics = metrics;
  }

  /** By step. */
  get seconds(): Readonly<Record<string, number>> {
    return this.#seconds;
  }

  reached(step: 'started' | 'enrolled' | 'ready' | 'first_job', sinceStartMs: number): void {
    if (this.#seconds[step] !== undefined) return;
    this.#seconds[step] = sinceStartMs / 1_000;
    const help = 'From the start of the process until it reached a step for the first time.';
    this.#metrics.gauge({ name: 'blueprint_runner_worker_step_seconds', help, labels: { step } }).set(sinceStartMs / 1_000);
  }
}
