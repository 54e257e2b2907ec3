/** What settlement counts. */

import type { Metrics } from '../telemetry/telemetry.ts';
import type { SettlementEvent } from './settlement.ts';

/** A function that counts an event. */
export function settlementMetrics(metrics: Metrics): (event: SettlementEvent) => void {
  const counter = (name: string, help: string, labels?: Readonly<Record<string, string>>) =>
    metrics.counter({ name: `blueprint_settlement_${name}`, help, ...(labels && { labels }) });
  const transactions = (outcome: string) =>
    counter('transactions_total', 'Transactions of the operator by what became of them.', { outcome });
  const results = (outcome: string) => counter('results_total', 'Results by what became of them.', { outcome });
  const count = {
    submitted: transactions('submitted'),
    mined: transactions('mined'),
    reverted: transactions('reverted'),
    bumped: transactions('bumped'),
    healed: transactions('healed'),
    minedResults: results('mined'),
    final: results('final'),
    rejected: results('rejected'),
    closed: results('closed'),
    orphaned: results('orphaned'),
  };
  const gas = counter('gas_used_total', 'Gas used by mined transactions of the operator.');
  const batchSize = metrics.histogram({
    name: 'blueprint_settlement_batch_results',
    help: 'Results per transaction.',
    buckets: [1, 2, 5, 10, 20, 50, 100, 200],
  });
  const lag = metrics.histogram({
    name: 'blueprint_settlement_mined_seconds',
    help: 'From the signature of a transaction to its receipt.',
    buckets: [0.1, 0.5, 1, 2, 5, 15, 30, 60, 300],
  });
  return (event) => {
    switch (event.type) {
      case 'submitted':
        count.submitted.add();
        if (event.purpose === 'results') batchSize.record(event.calls.length);
        return;
      case 'mined':
        (event.receipt.success ? count.mined : count.reverted).add();
        if (event.receipt.success) count.minedResults.add(event.calls.length);
        gas.add(Number(event.receipt.gasUsed));
        lag.record(event.waitedMs / 1000);
        return;
      case 'final':
        count.final.add(event.calls.length);
        return;
      case 'bumped':
      case 'healed':
      case 'rejected':
      case 'closed':
      case 'orphaned':
        count[event.type].add();
        return;
      case 'stalled':
      case 'dry-run':
        return;
    }
  };
}
