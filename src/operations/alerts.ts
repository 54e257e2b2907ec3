/** When somebody should look: alert rules of Prometheus over the metrics of control plane, workers, engines and runner. */

export interface Alert {
  readonly name: string;
  readonly expr: string;
  /** As Prometheus writes it; how long the expression must hold. */
  readonly for: string;
  readonly severity: 'warning' | 'critical';
  readonly summary: string;
  /** What to do. */
  readonly remedy: string;
}

/** Names of the scrape jobs in `prometheus.yml`. */
export const SCRAPE_JOBS = { control: 'bpr-control-plane', worker: 'bpr-worker', engine: 'bpr-engine', runner: 'bpr-runner' } as const;

export const ALERTS: readonly Alert[] = [
  {
    name: 'BprControlPlaneDown',
    expr: `up{job="${SCRAPE_JOBS.control}"} == 0`,
    for: '1m',
    severity: 'critical',
    summary: 'The control plane at {{ $labels.instance }} does not answer.',
    remedy: 'Start it again on the same folder: jobs, tickets and sessions are kept; workers come back by themselves.',
  },
  {
    name: 'BprQueueOld',
    expr: 'blueprint_queue_oldest_seconds > 300',
    for: '5m',
    severity: 'warning',
    summary: 'The oldest job has waited for {{ $value | humanizeDuration }}.',
    remedy: 'Add workers, or look for jobs that require a capability which no worker has: bpr queue stats.',
  },
  {
    name: 'BprNoWorkers',
    expr:
      'sum by (instance) (blueprint_queue_jobs{state="queued"}) > 0 ' +
      'unless on (instance) sum by (instance) (blueprint_control_worker_concurrency) > 0',
    for: '2m',
    severity: 'critical',
    summary: '{{ $value }} jobs wait and no worker is there.',
    remedy: 'Start workers with a ticket that is good: bpr ticket list, then bpr worker.',
  },
  {
    name: 'BprWorkersBusy',
    expr:
      'sum by (instance) (blueprint_control_worker_running) / sum by (instance) (blueprint_control_worker_concurrency) > 0.95 ' +
      'and on (instance) sum by (instance) (blueprint_queue_jobs{state="queued"}) > 0',
    for: '15m',
    severity: 'warning',
    summary: 'The workers have been busy and jobs have waited for a quarter of an hour.',
    remedy: 'Add workers; bpr bench saturate tells how many jobs one of them takes.',
  },
  {
    name: 'BprDeadLettersGrow',
    expr: 'delta(blueprint_queue_jobs{state="dead"}[15m]) > 0',
    for: '0m',
    severity: 'warning',
    summary: 'Jobs have used up their attempts.',
    remedy: 'bpr queue dead lists them with their errors; bpr queue requeue gives one back.',
  },
  {
    name: 'BprLeasesExpire',
    expr: 'increase(blueprint_queue_leases_lost_total[10m]) > 3',
    for: '0m',
    severity: 'warning',
    summary: '{{ $value | humanize }} leases ran out in ten minutes: workers end, hang, or cannot reach the control plane.',
    remedy: 'Look for workers that restart (out of memory?) and at the network between them and the control plane.',
  },
  {
    name: 'BprAttemptsFail',
    expr: 'rate(blueprint_queue_failed_total[10m]) / (rate(blueprint_queue_claimed_total[10m]) > 0) > 0.2',
    for: '10m',
    severity: 'warning',
    summary: '{{ $value | humanizePercentage }} of the attempts fail.',
    remedy: 'bpr queue dead and the logs of the workers tell the errors.',
  },
  {
    name: 'BprWorkerMemoryHigh',
    expr: 'blueprint_control_worker_memory_bytes / (blueprint_control_worker_memory_max_bytes > 0) > 0.9',
    for: '5m',
    severity: 'warning',
    summary: 'The worker {{ $labels.worker }} uses {{ $value | humanizePercentage }} of its memory.',
    remedy: 'Give it more memory, or lower its --concurrency.',
  },
  {
    name: 'BprEngineDown',
    expr: `up{job="${SCRAPE_JOBS.engine}"} == 0 or blueprint_runner_worker_engine_up == 0 or blueprint_control_engine_up == 0`,
    for: '1m',
    severity: 'critical',
    summary: 'The engine {{ or $labels.engine $labels.instance }} does not answer.',
    remedy: 'Start bpr wasm serve there; calls go to the other engines of BPR_WASM_URL or --engine meanwhile, or wait.',
  },
  {
    name: 'BprChainBehind',
    expr: 'blueprint_chain_head_lag_seconds > 300',
    for: '10m',
    severity: 'warning',
    summary: 'The newest block that the runner at {{ $labels.instance }} has seen is {{ $value | humanizeDuration }} old.',
    remedy: 'Look whether the RPC endpoint is in sync; name another one in RPC_URL.',
  },
  {
    name: 'BprSettlementSlow',
    expr: 'histogram_quantile(0.95, sum by (instance, le) (rate(blueprint_settlement_mined_seconds_bucket[15m]))) > 120',
    for: '10m',
    severity: 'warning',
    summary: 'One of twenty transactions takes more than two minutes until it is mined.',
    remedy: 'Look at the fees of the chain and at the balance of the operator; raise the most that settlement may bid.',
  },
  {
    name: 'BprSettlementStuck',
    expr:
      'blueprint_ledger_transactions_pending > 0 ' +
      'unless on (instance) sum by (instance) (increase(blueprint_settlement_transactions_total{outcome="mined"}[15m])) > 0',
    for: '15m',
    severity: 'critical',
    summary: '{{ $value }} transactions are pending and none was mined for a quarter of an hour.',
    remedy: 'bpr why CALL tells what a result waits for; look at the balance of the operator and at the RPC endpoint.',
  },
];

/** The document of a rule file. */
export function alertRules() {
  const rules = ALERTS.map(({ name, expr, for: holds, severity, summary, remedy }) => ({
    alert: name,
    expr,
    for: holds,
    labels: { severity },
    annotations: { summary, description: remedy },
  }));
  return { groups: [{ name: 'blueprint-runner', rules }] };
}
