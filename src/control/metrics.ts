/** What the control plane tells Prometheus of its workers, the figures that they sent last of those that are there, and of the types of jobs. */

import { metricText } from '../telemetry/prometheus.ts';
import type { MetricFamily, Sample } from '../telemetry/prometheus.ts';
import type { TypeDepth } from '../queue/queue.ts';
import type { WorkerDocument, WorkerReport } from './workers.ts';

/** Series stay few whoever enrols: workers beyond it are counted only. */
const WORKERS_MAX = 1_000;

interface Figure extends Omit<MetricFamily, 'samples'> {
  /** Undefined: the worker did not say. Labels besides `worker`. */
  readonly of: (worker: WorkerDocument, report: Partial<WorkerReport>) => number | readonly Sample[] | undefined;
}

const FIGURES: readonly Figure[] = [
  {
    name: 'info',
    kind: 'gauge',
    help: 'Always 1: what each worker says it is.',
    of: (_, { state, name, version, backend }) => [
      { labels: { state: state ?? '', name: name ?? '', version: version ?? '', backend: backend ?? '' }, value: 1 },
    ],
  },
  {
    name: 'last_seen_timestamp_seconds',
    kind: 'gauge',
    help: 'When the worker was heard of last, Unix time.',
    of: ({ lastSeenAt }) => lastSeenAt && lastSeenAt / 1_000,
  },
  { name: 'leases', kind: 'gauge', help: 'Jobs that the worker holds.', of: ({ leases }) => leases },
  { name: 'running', kind: 'gauge', help: 'Jobs that the worker says it runs.', of: (_, { running }) => running },
  { name: 'concurrency', kind: 'gauge', help: 'Jobs that the worker may run at the same time.', of: (_, { concurrency }) => concurrency },
  {
    name: 'cpu_seconds_total',
    kind: 'counter',
    help: 'Processor time that the worker says it has used, its functions included where it has a control group.',
    of: (_, { cpuSeconds }) => cpuSeconds,
  },
  { name: 'cpu_max', kind: 'gauge', help: 'Processors that it may use at the same time; 0: no limit.', of: (_, { cpuMax }) => cpuMax },
  {
    name: 'memory_bytes',
    kind: 'gauge',
    help: 'Memory that the worker says it has, its functions included where it has a control group.',
    of: (_, { memoryBytes }) => memoryBytes,
  },
  { name: 'memory_max_bytes', kind: 'gauge', help: 'Memory that it may use; 0: no limit.', of: (_, { memoryMaxBytes }) => memoryMaxBytes },
  {
    name: 'jobs_total',
    kind: 'counter',
    help: 'Jobs that ended there, by what became of them.',
    of: (_, { jobs }) => samplesOf('outcome', jobs),
  },
  {
    name: 'job_duration_seconds',
    kind: 'summary',
    help: 'From the claim of a job until its report was delivered.',
    of: (_, { jobSeconds }) => tally(jobSeconds),
  },
  {
    name: 'job_start_seconds',
    kind: 'summary',
    help: 'From the claim of a job until its code was reached.',
    of: (_, { startSeconds }) => tally(startSeconds),
  },
  {
    name: 'step_seconds',
    kind: 'gauge',
    help: 'From the start of its process until it reached a step for the first time.',
    of: (_, { stepSeconds }) => samplesOf('step', stepSeconds),
  },
];

/** In the text format of Prometheus. */
export function workerMetricsText(workers: readonly WorkerDocument[]): string {
  const present = workers.filter(({ isPresent }) => isPresent);
  const shown = present.slice(0, WORKERS_MAX);
  const families = FIGURES.map(({ of, name, ...rest }) => ({
    ...rest,
    name: `blueprint_control_worker_${name}`,
    samples: shown.flatMap((worker) => {
      const told = of(worker, worker.report ?? {});
      const samples = typeof told === 'number' ? [{ labels: {}, value: told }] : (told ?? []);
      return samples.map((one) => ({ ...one, labels: { worker: worker.id, ...one.labels } }));
    }),
  }));
  const beyond: MetricFamily = {
    name: 'blueprint_control_workers_unlisted',
    kind: 'gauge',
    help: `Workers that are there without figures of their own: those beyond the first ${WORKERS_MAX}.`,
    samples: [{ labels: {}, value: present.length - shown.length }],
  };
  return [...families, beyond].map(metricText).join('');
}

/** Likewise, of the queue. */
export function typeMetricsText(types: readonly TypeDepth[]): string {
  const help = 'Jobs that wait or are claimed, by type: of the 20 types with the most, and of all others together as other.';
  const samples = types.flatMap(({ type, queued, claimed }) => [
    { labels: { type, state: 'queued' }, value: queued },
    { labels: { type, state: 'claimed' }, value: claimed },
  ]);
  return metricText({ name: 'blueprint_queue_type_jobs', kind: 'gauge', help, samples });
}

function samplesOf(label: string, values: Readonly<Record<string, number | undefined>> = {}): Sample[] {
  return Object.entries(values).map(([name, value = 0]) => ({ labels: { [label]: name }, value }));
}

function tally(value: { readonly count: number; readonly sum: number } | undefined): readonly Sample[] | undefined {
  return (
    value && [
      { suffix: '_sum', labels: {}, value: value.sum },
      { suffix: '_count', labels: {}, value: value.count },
    ]
  );
}
