import type { Counter, Gauge, Histogram, Metrics } from '../telemetry/telemetry.ts';

const OUTCOMES = ['completed', 'failed', 'refused'] as const;
type EngineOutcome = (typeof OUTCOMES)[number];

const SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 900];

/** What is measured of one engine, or of those of one name, as who calls it sees it. */
export class EngineMetrics {
  readonly #ended: ReadonlyMap<EngineOutcome, Counter>;
  readonly #running: Gauge;
  readonly #up: Gauge;
  readonly #seconds: Histogram;

  constructor(metrics: Metrics, url: string, prefix = 'blueprint_runner_worker_engine') {
    // Without user and password.
    const [, names = '', address = url] = /^(dns\+)(.*)$/.exec(url) ?? [];
    const engine = names + (URL.parse(address)?.origin ?? address);
    const name = (rest: string): string => `${prefix}_${rest}`;
    const help = 'Calls to an engine: completed, failed, or refused, then another engine is asked.';
    const counter = (outcome: EngineOutcome): Counter => metrics.counter({ name: name('calls_total'), help, labels: { engine, outcome } });
    const labels = { engine };
    this.#ended = new Map(OUTCOMES.map((outcome) => [outcome, counter(outcome)]));
    this.#running = metrics.gauge({ name: name('running'), help: 'Calls that an engine runs for this process.', labels });
    this.#up = metrics.gauge({ name: name('up'), help: '1 while an engine is ready.', labels });
    this.#seconds = metrics.histogram({ name: name('call_seconds'), help: 'Duration of calls to an engine.', labels, buckets: SECONDS });
  }

  up(isThere: boolean): void {
    this.#up.set(isThere ? 1 : 0);
  }

  began(): void {
    this.#running.add(1);
  }

  ended(outcome: EngineOutcome, durationMs: number): void {
    this.#ended.get(outcome)?.add();
    this.#running.add(-1);
    if (outcome !== 'refused') this.#seconds.record(durationMs / 1_000);
  }
}
