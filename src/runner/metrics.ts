/** What a runner counts. */

import type { Clock } from '../clock.ts';
import type { CallState, LedgerStats } from '../ledger/ledger.ts';
import type { Counter, Gauge, Metrics } from '../telemetry/telemetry.ts';

export interface RunnerMetrics {
  readonly inFlight: Gauge;
  readonly seen: Counter;
  readonly executed: Counter;
  readonly failed: Counter;
  /** The last block that was seen: its number, and its time in seconds since the epoch. */
  head(number: bigint, timestamp: bigint): void;
  /** Tells the sizes of the ledger; ask before a scrape. */
  ledger(stats: LedgerStats): void;
}

export function runnerMetrics(metrics: Metrics, concurrency: number, clock: Pick<Clock, 'now'>): RunnerMetrics {
  const gauge = (name: string, help: string): Gauge => metrics.gauge({ name, help });
  const counter = (name: string, help: string): Counter => metrics.counter({ name, help });
  const transactions = gauge('blueprint_ledger_transactions_pending', 'Transactions that are not mined.');
  const bytes = gauge('blueprint_ledger_bytes', 'Size of the ledger.');
  const headBlock = gauge('blueprint_chain_head_block', 'Number of the last block that was seen.');
  let headAt: number | undefined;
  const lag = (): number | undefined => (headAt === undefined ? undefined : Math.max(0, clock.now() / 1_000 - headAt));
  const help = 'Age of the last block that was seen.';
  const headLag = metrics.gauge({ name: 'blueprint_chain_head_lag_seconds', help, read: lag });
  gauge('blueprint_runner_concurrency', 'Calls that may run at the same time.').set(concurrency);
  return {
    inFlight: gauge('blueprint_runner_calls_in_flight', 'Calls that run.'),
    seen: counter('blueprint_runner_calls_seen_total', 'Calls that were journaled for the first time.'),
    executed: counter('blueprint_runner_calls_executed_total', 'Calls that were executed.'),
    failed: counter('blueprint_runner_calls_failed_total', 'Calls that failed for good.'),
    head(number, timestamp) {
      headBlock.set(Number(number));
      headAt = Number(timestamp);
      // For metrics that ask nobody.
      headLag.set(lag() ?? 0);
    },
    ledger(stats) {
      for (const [state, count] of Object.entries(stats.byState) as [CallState, number][]) {
        metrics.gauge({ name: 'blueprint_ledger_calls', help: 'Calls in the ledger.', labels: { state } }).set(count);
      }
      transactions.set(stats.transactionsPending);
      bytes.set(stats.bytes);
    },
  };
}
