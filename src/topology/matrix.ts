/** The options compared: what follows from how they are put together, what was estimated, and what was measured. */

import { RunnerError } from '../errors.ts';
import { TOPOLOGY_OPTIONS, partsOf } from './topology.ts';
import type { TopologyOption } from './topology.ts';

/** Of one option on one machine, with two workers. */
export interface Measured {
  /** From the call of `up` until every part is ready, milliseconds. */
  readonly startMs: number;
  /** Of one engine; of option 1 of a worker, whose engine is within it. Bytes. */
  readonly engineBytes: number;
  /** Of a worker, bytes. */
  readonly workerBytes: number;
  /** Of all parts, bytes. */
  readonly allBytes: number;
  /** The first job of a function, from its publication to its result, milliseconds. */
  readonly coldMs: number;
  /** The median of later ones. */
  readonly warmMs: number;
}

export interface Measurements {
  readonly version: 1;
  readonly at: string;
  readonly machine: string;
  readonly node: string;
  readonly workers: number;
  readonly options: Partial<Readonly<Record<TopologyOption, Measured>>>;
}

/** By option, in the order of `TOPOLOGY_OPTIONS`. */
export interface MatrixRow {
  readonly criterion: string;
  readonly kind: 'fact' | 'estimate' | 'measured';
  readonly values: readonly string[];
}

const LARGE = 100;
const MIB = 1024 * 1024;

type Values = Readonly<Record<TopologyOption, string>>;

/** Before anything was built; those of the hybrid are those of its parts. */
const ESTIMATES: readonly (readonly [criterion: string, values: Values])[] = [
  ['development effort', { 1: 'medium', 2: 'low', 3: 'high', 4: 'low', hybrid: 'high' }],
  ['testing effort', { 1: 'high', 2: 'low', 3: 'high', 4: 'low', hybrid: 'high' }],
  ['workers in tests', { 1: '100+', 2: '5', 3: '50', 4: '20', hybrid: '100+' }],
  ['workers in production', { 1: '1000+', 2: '50', 3: '500', 4: 'not for it', hybrid: '1000+' }],
  ['memory per worker', { 1: '100 MB', 2: '0', 3: '20 MB', 4: '0', hybrid: '100 MB' }],
];

/** What the tests show: one of the parts is killed under load. */
const FACTS: readonly (readonly [criterion: string, values: Values])[] = [
  [
    'deployment',
    {
      1: 'workers only',
      2: 'control plane with an engine, workers anywhere',
      3: 'engines, their addresses at each worker',
      4: 'control plane with an engine, its address at each worker',
      hybrid: 'as 1 and 3',
    },
  ],
  ['one command, jobs, failure, clean end', { 1: 'yes', 2: 'yes', 3: 'yes', 4: 'yes', hybrid: 'yes' }],
  [
    'failure isolation',
    {
      1: 'complete: a worker and its jobs, which another one does',
      2: 'none: without the engine all jobs wait',
      3: 'partial: an engine and the attempts on it',
      4: 'none: without the engine all jobs wait',
      hybrid: 'complete for own engines, partial for shared ones',
    },
  ],
  ['production ready', { 1: 'yes', 2: 'no: one engine', 3: 'yes', 4: 'no: one engine', hybrid: 'yes' }],
  ['service discovery', { 1: 'none', 2: 'none', 3: 'a list of addresses', 4: 'one address', hybrid: 'a list of addresses' }],
  ['network between worker and engine', { 1: 'none', 2: 'by the control plane', 3: 'HTTP', 4: 'HTTP', hybrid: 'none, and HTTP' }],
];

/** Rows by criterion; measured ones only of what was measured. */
export function matrix(measured?: Measurements): readonly MatrixRow[] {
  const row = (kind: MatrixRow['kind'], criterion: string, valueOf: (option: TopologyOption) => string): MatrixRow => ({
    criterion,
    kind,
    values: TOPOLOGY_OPTIONS.map(valueOf),
  });
  const fromMeasured = (criterion: string, textOf: (one: Measured) => string): MatrixRow =>
    row('measured', criterion, (option) => {
      const one = measured?.options[option];
      return one === undefined ? '-' : textOf(one);
    });
  const mebibytes = (bytes: number): string => `${Math.round(bytes / MIB)} MiB`;
  const milliseconds = (ms: number): string => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  const counted = (option: TopologyOption): string => countAt(option);
  return [
    ...FACTS.map(([criterion, values]) => row('fact', criterion, (option) => values[option])),
    row('fact', 'scalability', (option) => (option === '2' || option === '4' ? 'until the engine is busy' : 'linear')),
    row('fact', `processes at ${LARGE} workers`, counted),
    row('fact', 'processes to watch besides workers', (option) => String(partsBesides(option))),
    ...ESTIMATES.map(([criterion, values]) => row('estimate', criterion, (option) => values[option])),
    ...(measured === undefined
      ? []
      : [
          fromMeasured('start', ({ startMs }) => milliseconds(startMs)),
          fromMeasured('memory of an engine', ({ engineBytes }) => mebibytes(engineBytes)),
          fromMeasured('memory of a worker', ({ workerBytes }) => mebibytes(workerBytes)),
          fromMeasured('memory of all parts', ({ allBytes }) => mebibytes(allBytes)),
          fromMeasured('first job', ({ coldMs }) => milliseconds(coldMs)),
          fromMeasured('later jobs, median', ({ warmMs }) => milliseconds(warmMs)),
        ]),
  ];
}

function countAt(option: TopologyOption): string {
  return String(partsOf({ option, workers: LARGE, ...(option === '3' && { engines: 5 }) }).length);
}

function partsBesides(option: TopologyOption): number {
  return partsOf({ option, workers: 1 }).filter(({ role }) => role !== 'worker').length;
}

/** Reads what `measureTopologies` wrote. Throws `CONFIG_INVALID`. */
export function parseMeasurements(text: string, file: string): Measurements {
  let given: unknown;
  try {
    given = JSON.parse(text);
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${file} is not JSON`, { cause, details: { file } });
  }
  const found = typeof given === 'object' && given !== null ? (given as Partial<Measurements>) : {}; // checked next
  const { version, at, machine, options } = found;
  const isRight = version === 1 && typeof at === 'string' && typeof machine === 'string' && typeof options === 'object' && options !== null;
  if (!isRight || !Object.values(options).every(isMeasured))
    throw new RunnerError('CONFIG_INVALID', `${file} does not hold measurements; write it with bpr topology matrix --measure`, {
      details: { file },
    });
  return found as Measurements;
}

const FIELDS: readonly (keyof Measured)[] = ['startMs', 'engineBytes', 'workerBytes', 'allBytes', 'coldMs', 'warmMs'];

function isMeasured(value: unknown): boolean {
  return typeof value === 'object' && value !== null && FIELDS.every((field) => Number.isFinite((value as Record<string, unknown>)[field]));
}
