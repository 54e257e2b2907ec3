/** A dashboard of Grafana over the metrics of control plane, workers, engines and runner. */

interface Query {
  readonly expr: string;
  readonly legend: string;
}

interface Panel {
  readonly title: string;
  readonly about: string;
  /** As Grafana names it. */
  readonly unit: 'short' | 's' | 'bytes' | 'percentunit' | 'reqps';
  readonly queries: readonly Query[];
}

interface Row {
  readonly title: string;
  readonly panels: readonly Panel[];
}

const RATE = '[$__rate_interval]';
const quantile = (share: number, metric: string, by = 'le'): string =>
  `histogram_quantile(${share}, sum by (${by}) (rate(${metric}_bucket{instance=~"$instance"}${RATE})))`;
const query = (expr: string, legend: string): Query => ({ expr, legend });

const QUEUE: Row = {
  title: 'Queue',
  panels: [
    {
      title: 'Jobs that wait, run and are dead',
      about: 'Depth of the queue by state.',
      unit: 'short',
      queries: [query('sum by (state) (blueprint_queue_jobs{instance=~"$instance",state=~"queued|claimed|dead"})', '{{state}}')],
    },
    {
      title: 'Jobs by type',
      about: 'That wait or run; types beyond the 20 with the most are other.',
      unit: 'short',
      queries: [query('sum by (type) (blueprint_queue_type_jobs{instance=~"$instance"})', '{{type}}')],
    },
    {
      title: 'Age of the oldest job',
      about: 'How long the job that could be handed out first has waited.',
      unit: 's',
      queries: [query('blueprint_queue_oldest_seconds{instance=~"$instance"}', '{{instance}}')],
    },
    {
      title: 'Jobs per second',
      about: 'Published, handed out, completed, failed attempts.',
      unit: 'reqps',
      queries: ['published', 'claimed', 'completed', 'failed'].map((what) =>
        query(`sum(rate(blueprint_queue_${what}_total{instance=~"$instance"}${RATE}))`, what),
      ),
    },
    {
      title: 'Leases that ran out',
      about: 'Of workers that ended or were cut off, per second.',
      unit: 'reqps',
      queries: [query(`sum(rate(blueprint_queue_leases_lost_total{instance=~"$instance"}${RATE}))`, 'lost')],
    },
    {
      title: 'Wait for a worker',
      about: 'From publication to the first claim.',
      unit: 's',
      queries: [query(quantile(0.5, 'blueprint_queue_wait_seconds'), 'p50'), query(quantile(0.99, 'blueprint_queue_wait_seconds'), 'p99')],
    },
    {
      title: 'Time at a worker',
      about: 'From claim to completion.',
      unit: 's',
      queries: [query(quantile(0.5, 'blueprint_queue_run_seconds'), 'p50'), query(quantile(0.99, 'blueprint_queue_run_seconds'), 'p99')],
    },
  ],
};

const WORKERS: Row = {
  title: 'Workers',
  panels: [
    {
      title: 'Places and jobs that run',
      about: 'Near each other for long: add workers.',
      unit: 'short',
      queries: [
        query('sum(blueprint_control_worker_concurrency{instance=~"$instance"})', 'places'),
        query('sum(blueprint_control_worker_running{instance=~"$instance"})', 'running'),
      ],
    },
    {
      title: 'Jobs per second by outcome',
      about: 'As the workers tell it.',
      unit: 'reqps',
      queries: [query(`sum by (outcome) (rate(blueprint_control_worker_jobs_total{instance=~"$instance"}${RATE}))`, '{{outcome}}')],
    },
    {
      title: 'Processors per worker',
      about: 'Its functions included where it has a control group.',
      unit: 'short',
      queries: [query(`rate(blueprint_control_worker_cpu_seconds_total{instance=~"$instance"}${RATE})`, '{{worker}}')],
    },
    {
      title: 'Memory per worker',
      about: 'Its functions included where it has a control group.',
      unit: 'bytes',
      queries: [
        query('blueprint_control_worker_memory_bytes{instance=~"$instance"}', '{{worker}}'),
        query('blueprint_control_worker_memory_max_bytes{instance=~"$instance"} > 0', 'most of {{worker}}'),
      ],
    },
    {
      title: 'Mean time of a job per worker',
      about: 'From claim to delivered report, and from claim until its code was reached.',
      unit: 's',
      queries: ['duration', 'start'].map((what) =>
        query(
          `rate(blueprint_control_worker_job_${what}_seconds_sum{instance=~"$instance"}${RATE}) ` +
            `/ rate(blueprint_control_worker_job_${what}_seconds_count{instance=~"$instance"}${RATE})`,
          `${what} {{worker}}`,
        ),
      ),
    },
    {
      title: 'Start of a worker',
      about: 'From the start of its process to each step.',
      unit: 's',
      queries: [query('max by (step) (blueprint_control_worker_step_seconds{instance=~"$instance"})', '{{step}}')],
    },
  ],
};

/** Who calls engines, by its metrics. */
const CALLERS = [
  ['blueprint_runner_worker_engine', 'by workers'],
  ['blueprint_control_engine', 'by the control plane'],
] as const;

const ENGINES: Row = {
  title: 'Engines and control plane',
  panels: [
    {
      title: 'Calls of functions per second',
      about: 'On engines and workers, by outcome.',
      unit: 'reqps',
      queries: [query(`sum by (outcome) (rate(blueprint_function_invocations_total{instance=~"$instance"}${RATE}))`, '{{outcome}}')],
    },
    {
      title: 'Instances of functions',
      about: 'By state.',
      unit: 'short',
      queries: [query('sum by (state) (blueprint_runtime_instances{instance=~"$instance"})', '{{state}}')],
    },
    {
      title: 'Engines that are ready',
      about: 'As the workers that call them see it, and the control plane that calls them for workers: 1 or 0.',
      unit: 'short',
      queries: CALLERS.map(([metric, by]) => query(`min by (engine) (${metric}_up{instance=~"$instance"})`, `{{engine}} ${by}`)),
    },
    {
      title: 'Calls that run, by engine',
      about: 'Of workers, and of the control plane for workers.',
      unit: 'short',
      queries: CALLERS.map(([metric, by]) => query(`sum by (engine) (${metric}_running{instance=~"$instance"})`, `{{engine}} ${by}`)),
    },
    {
      title: 'Calls per second by engine',
      about: 'Completed, failed, refused.',
      unit: 'reqps',
      queries: CALLERS.map(([metric, by]) =>
        query(`sum by (engine, outcome) (rate(${metric}_calls_total{instance=~"$instance"}${RATE}))`, `{{engine}} {{outcome}} ${by}`),
      ),
    },
    {
      title: 'Time of a call by engine',
      about: 'Of those that were not refused.',
      unit: 's',
      queries: CALLERS.map(([metric, by]) => query(quantile(0.99, `${metric}_call_seconds`, 'engine, le'), `p99 {{engine}} ${by}`)),
    },
    {
      title: 'Requests to the control plane per second',
      about: 'By status.',
      unit: 'reqps',
      queries: [query(`sum by (status) (rate(blueprint_control_requests_total{instance=~"$instance"}${RATE}))`, '{{status}}')],
    },
    {
      title: 'Answers of the control plane',
      about: 'Those that wait for jobs aside.',
      unit: 's',
      queries: [
        query(
          `histogram_quantile(0.99, sum by (le) (rate(blueprint_control_request_seconds_bucket{instance=~"$instance",route!="/queue/claim"}${RATE})))`,
          'p99',
        ),
      ],
    },
  ],
};

const RUNNER: Row = {
  title: 'Runner and settlement',
  panels: [
    {
      title: 'Calls per second',
      about: 'Seen on chain, executed, failed for good.',
      unit: 'reqps',
      queries: ['seen', 'executed', 'failed'].map((what) =>
        query(`sum(rate(blueprint_runner_calls_${what}_total{instance=~"$instance"}${RATE}))`, what),
      ),
    },
    {
      title: 'Transactions that are pending',
      about: 'Rising: look at fees and balance.',
      unit: 'short',
      queries: [query('blueprint_ledger_transactions_pending{instance=~"$instance"}', '{{instance}}')],
    },
    {
      title: 'Signed to mined',
      about: 'The lag of settlement.',
      unit: 's',
      queries: [
        query(quantile(0.5, 'blueprint_settlement_mined_seconds'), 'p50'),
        query(quantile(0.95, 'blueprint_settlement_mined_seconds'), 'p95'),
      ],
    },
    {
      title: 'Age of the newest block',
      about: 'Of those that the runner has seen.',
      unit: 's',
      queries: [query('blueprint_chain_head_lag_seconds{instance=~"$instance"}', '{{instance}}')],
    },
  ],
};

const WIDTH = 24;
const PANEL = { width: 8, height: 8 };
const DATASOURCE = { type: 'prometheus', uid: '${datasource}' };

/** The document that Grafana imports. */
export function dashboard() {
  const panels: unknown[] = [];
  let y = 0;
  for (const { title, panels: own } of [QUEUE, WORKERS, ENGINES, RUNNER]) {
    panels.push({ id: panels.length + 1, type: 'row', title, collapsed: false, gridPos: { x: 0, y, w: WIDTH, h: 1 }, panels: [] });
    y += 1;
    own.forEach((one, index) => {
      const perRow = WIDTH / PANEL.width;
      const gridPos = {
        x: (index % perRow) * PANEL.width,
        y: y + Math.floor(index / perRow) * PANEL.height,
        w: PANEL.width,
        h: PANEL.height,
      };
      panels.push({ id: panels.length + 1, ...panelOf(one), gridPos });
    });
    y += Math.ceil(own.length / (WIDTH / PANEL.width)) * PANEL.height;
  }
  return {
    uid: 'blueprint-runner',
    title: 'blueprint-runner',
    tags: ['blueprint-runner'],
    schemaVersion: 39,
    version: 1,
    editable: true,
    timezone: 'utc',
    refresh: '30s',
    time: { from: 'now-3h', to: 'now' },
    templating: { list: [DATASOURCE_VARIABLE, INSTANCE_VARIABLE] },
    panels,
  };
}

const DATASOURCE_VARIABLE = { name: 'datasource', label: 'Data source', type: 'datasource', query: 'prometheus' };
const INSTANCE_VARIABLE = {
  name: 'instance',
  label: 'Instance',
  type: 'query',
  datasource: DATASOURCE,
  query: { query: 'label_values(up{job=~"bpr-.*"}, instance)', refId: 'instance' },
  refresh: 2,
  includeAll: true,
  allValue: '.*',
  multi: true,
  current: { text: 'All', value: '$__all' },
};

function panelOf({ title, about, unit, queries }: Panel) {
  return {
    type: 'timeseries',
    title,
    description: about,
    datasource: DATASOURCE,
    fieldConfig: { defaults: { unit, min: 0, custom: { fillOpacity: 8, showPoints: 'never' } }, overrides: [] },
    options: { legend: { displayMode: 'list', placement: 'bottom' }, tooltip: { mode: 'multi', sort: 'desc' } },
    targets: queries.map(({ expr, legend }, index) => ({
      refId: String.fromCodePoint(65 + index),
      datasource: DATASOURCE,
      expr,
      legendFormat: legend,
    })),
  };
}
