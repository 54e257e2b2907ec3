import { cpus, totalmem } from 'node:os';
import { Option } from 'commander';
import type { Command } from 'commander';
import { systemClock } from '../../clock.ts';
import { RunnerError } from '../../errors.ts';
import { CLAIM_MAX } from '../../queue/requests.ts';
import { BACKENDS } from '../backends.ts';
import { parseCount, parseNumber } from '../calls.ts';
import { withQueue } from '../control-access.ts';
import { print, table } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { interruptible } from '../work.ts';
import type { Work } from '../work.ts';
import { Fleet } from './bench-fleet.ts';
import { concurrencies, findKnee, putFunction, round, runStep } from './bench-load.ts';
import type { BenchJob, Step } from './bench-load.ts';

interface SaturateFlags {
  readonly workers: number;
  readonly maxConcurrency: number;
  readonly stepMs: number;
  readonly jobWaitMs: number;
  readonly jobCpuMs: number;
  readonly backend: string;
  readonly data?: string;
  readonly ticket?: string;
  readonly json?: true;
  readonly markdown?: true;
}

/** A step with what the processes used meanwhile; absent when they run elsewhere. */
interface MeasuredStep extends Step {
  /** Processors that were busy. */
  readonly controlCpu?: number;
  readonly workersCpu?: number;
  readonly workersMemoryBytes?: number;
}

export interface Saturation {
  readonly at: string;
  readonly machine: { readonly cpu: string; readonly cores: number; readonly memoryBytes: number; readonly node: string };
  /** Absent: those of a control plane that was there. */
  readonly fleet?: { readonly workers: number; readonly concurrency: number; readonly backend: string };
  readonly job: BenchJob;
  readonly steps: readonly MeasuredStep[];
  /** Absent: throughput still grew at the last step. */
  readonly knee?: MeasuredStep;
}

const MIB = 1024 ** 2;
/** The function of the benchmark is JavaScript. */
const NODE_BACKENDS = BACKENDS.filter((name) => name !== 'wasm');
const EXAMPLES = `
Examples:
  bpr bench saturate                                 a control plane and two workers on this machine, up to 64 jobs at the same time
  bpr bench saturate --workers 4 --job-cpu-ms 20     jobs that keep a processor busy for 20 ms
  bpr bench saturate --data /var/lib/bpr/control     the control plane that is there, with its workers
  bpr bench saturate --markdown > capacity.md        a table with the machine and the date

Each step keeps twice as many jobs under way as the one before. The knee is the last step that was worth it: the next one brought less than
a tenth more throughput, and its p99 was a fifth longer. What it started is ended, and what that wrote is removed; so at SIGINT and SIGTERM.

Exit status: 0 measured, with a knee or without; 1 it could not be; 2 called in a wrong way; 130 or 143 ended by a signal.`;

/** `bpr bench`: what a fleet can take. */
export function addBench(program: Command, { io }: Cli): void {
  const bench = program.command('bench').description('measure what control plane and workers can take');
  bench
    .command('saturate')
    .description('raise the load until more of it brings no more throughput')
    .option('--workers <count>', 'workers to start', parseCount, 2)
    .option('--max-concurrency <count>', 'the most jobs at the same time', parseCount, 64)
    .option('--step-ms <ms>', 'how long each step is measured', parseCount, 3_000)
    .option('--job-wait-ms <ms>', 'how long each job waits, as for somebody else', parseNumber, 0)
    .option('--job-cpu-ms <ms>', 'how long each job keeps a processor busy', parseNumber, 0)
    .addOption(new Option('--backend <name>', 'of the workers').choices(NODE_BACKENDS).default('process'))
    .option('--data <dir>', 'folder of a control plane that is there; nothing is started')
    .option('--ticket <ticket>', 'the same by a ticket, or file:/path of one')
    .option('--json', 'print one JSON document')
    .option('--markdown', 'print a table for a document')
    .addHelpText('after', EXAMPLES)
    .action((flags: SaturateFlags) =>
      interruptible(io, systemClock, async (work) => {
        work.leaves('what it had started was ended and removed');
        const found = await saturate(io, flags, work);
        print(io, flags.json, { document: found, text: flags.markdown ? markdownOf(found) : textOf(found) });
      }),
    );
}

async function saturate(io: Io, flags: SaturateFlags, work: Work): Promise<Saturation> {
  const { data, ticket, workers, maxConcurrency, backend } = flags;
  if (data !== undefined || ticket !== undefined) return measure(io, flags, { work });
  const concurrency = Math.ceil(maxConcurrency / workers);
  if (concurrency > CLAIM_MAX)
    throw new RunnerError(
      'CONFIG_INVALID',
      `a worker has ${CLAIM_MAX} places at most: ${maxConcurrency} jobs at the same time take --workers ${Math.ceil(maxConcurrency / CLAIM_MAX)}`,
    );
  const fleet = new Fleet({ workers, concurrency, backend, env: io.env, signal: work.signal });
  try {
    work.tell({ function: 'bench', step: `starting a control plane and ${workers} workers` });
    await fleet.start();
    const found = await measure(io, { ...flags, data: fleet.controlFolder }, { work, fleet });
    return { ...found, fleet: { workers, concurrency, backend } };
  } finally {
    await fleet.close();
  }
}

function measure(io: Io, flags: SaturateFlags, { work, fleet }: { readonly work: Work; readonly fleet?: Fleet }): Promise<Saturation> {
  const { data, ticket, stepMs, jobWaitMs: waitMs, jobCpuMs: cpuMs, maxConcurrency } = flags;
  const access = { ...(data !== undefined && { data }), ...(ticket !== undefined && { ticket }) };
  return withQueue(io, access, async (queue, objects) => {
    const { headers, object } = await putFunction(objects);
    const job = { waitMs, cpuMs };
    const steps: MeasuredStep[] = [];
    try {
      for (const concurrency of concurrencies(maxConcurrency)) {
        work.tell({ function: 'bench', step: `${concurrency} jobs at the same time` });
        const before = { at: performance.now(), ...fleet?.usage() };
        const step = await runStep(concurrency, { queue, headers, job, stepMs, signal: work.signal });
        const after = fleet?.usage();
        const seconds = (performance.now() - before.at) / 1_000;
        const busy = (of: 'control' | 'workers'): number =>
          round(((after?.[of].cpuSeconds ?? 0) - (before[of]?.cpuSeconds ?? 0)) / seconds);
        const used = after && { controlCpu: busy('control'), workersCpu: busy('workers'), workersMemoryBytes: after.workers.memoryBytes };
        steps.push({ ...step, ...used });
        if (findKnee(steps)) break;
      }
    } finally {
      await objects.remove(object);
    }
    const knee = findKnee(steps);
    return { at: new Date().toISOString(), machine: machine(), job, steps, ...(knee && { knee }) };
  });
}

function machine(): Saturation['machine'] {
  const [first] = cpus();
  return { cpu: first?.model ?? 'unknown', cores: cpus().length, memoryBytes: totalmem(), node: process.versions.node };
}

const HEAD = ['at once', 'jobs/s', 'p50 ms', 'p99 ms', 'errors', 'workers CPU', 'control CPU', 'workers MiB'];

function rowOf({ concurrency, jobsPerSecond, p50Ms, p99Ms, errors, workersCpu, controlCpu, workersMemoryBytes }: MeasuredStep): string[] {
  const memory = workersMemoryBytes === undefined ? undefined : Math.round(workersMemoryBytes / MIB);
  const own = [workersCpu, controlCpu, memory].map((value) => String(value ?? '-'));
  return [String(concurrency), rateText(jobsPerSecond), p50Ms.toFixed(1), p99Ms.toFixed(1), String(errors), ...own];
}

function rateText(jobsPerSecond: number): string {
  return jobsPerSecond.toFixed(jobsPerSecond < 10 ? 2 : 0);
}

function kneeText({ knee, steps }: Saturation): string {
  const last = steps.at(-1);
  if (!knee) return `no knee up to ${last?.concurrency} jobs at the same time: give more with --max-concurrency`;
  return `knee: ${knee.concurrency} jobs at the same time, ${rateText(knee.jobsPerSecond)} jobs/s, p99 ${knee.p99Ms.toFixed(1)} ms`;
}

function textOf(found: Saturation): string {
  return [table([HEAD, ...found.steps.map(rowOf)]), '', kneeText(found)].join('\n');
}

/** Exported for its test, like what it is made of. */
export function markdownOf(found: Saturation): string {
  const { at, machine: on, fleet, job } = found;
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  const what = fleet
    ? `${fleet.workers} workers with ${fleet.concurrency} places (${fleet.backend}) and their control plane`
    : 'the workers of a control plane';
  const facts = `${on.cores} cores (${on.cpu}), ${Math.round(on.memoryBytes / MIB / 1_024)} GiB, Node ${on.node}, ${at.slice(0, 10)}`;
  return [
    `Measured with \`bpr bench saturate\` on ${facts}: ${what}, jobs of ${job.cpuMs} ms of CPU and ${job.waitMs} ms of waiting.`,
    '',
    line(HEAD),
    line(HEAD.map(() => '---:')),
    ...found.steps.map((step) => line(rowOf(step))),
    '',
    `${kneeText(found)}.`,
  ].join('\n');
}
