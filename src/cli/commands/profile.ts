import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { systemClock } from '../../clock.ts';
import { profileDocument, profilingData } from '../../deploy/profiles.ts';
import type { MeasuredJob } from '../../deploy/profiles.ts';
import { RunnerError, isErrorCode, toRunnerError } from '../../errors.ts';
import { encodeAbi, requireCount } from '../../job/abi.ts';
import type { JobDescription } from '../../job/router.ts';
import { reasonOf } from '../../job/scalar.ts';
import { parseParameters } from '../../job/solidity.ts';
import type { Parameter } from '../../job/solidity.ts';
import { loadModule } from '../author-module.ts';
import { parseValues, sampleArguments } from '../call-command.ts';
import { parseCount, parseNumber } from '../calls.ts';
import { atPath } from '../named-path.ts';
import { print, progress, table, toJson } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import type { FromProfile, ToProfile } from '../profile-runner.ts';
import { interruptible } from '../work.ts';

interface ProfileFlags {
  readonly runs: number;
  readonly warmUps: number;
  readonly inputs?: string;
  readonly job?: readonly number[];
  readonly stateful?: readonly number[];
  readonly connections?: readonly number[];
  readonly timeout: number;
  readonly out: string;
  readonly metadata?: true;
  readonly json?: true;
}

interface JobInputs {
  readonly bodies: readonly Uint8Array[];
  readonly isMadeUp: boolean;
}

const EXAMPLES = `
Examples:
  bpr profile src/jobs.ts                            every job, 50 runs each, into profiles.json
  bpr profile src/jobs.ts --inputs inputs.json --runs 200
  bpr profile src/jobs.ts --stateful 2 --metadata    also the text that the blueprint carries on chain

The inputs are real calls of each job: {"0": [[5], [7]], "1": ["0x00ff"]}, lists of arguments, or the bytes of a raw job. A job without
them is called with values made up for its types: its sizes and times are worth little then. Caller, block, service and time are made up.
Each job runs in a process of its own; its memory is that of the whole process. Nobody can measure whether a job keeps state or
connections between calls: say it.

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way; 130 and 143 interrupted by SIGINT and
SIGTERM.`;

const RAW_SAMPLE = new Uint8Array(1);
/** Loading, and ending, besides the runs. */
const START_MS = 60_000;

/** `bpr profile`: how long the jobs take and what they need. */
export function addProfile(program: Command, { io }: Cli): void {
  program
    .command('profile')
    .description('measure what jobs take and need, for the analysis')
    .argument('<entry>', 'module that exports the job router')
    .option('--runs <count>', 'calls of each job', parseCount, 50)
    .option('--warm-ups <count>', 'calls before them that do not count', parseNumber, 1)
    .option('--inputs <file>', 'real arguments of the jobs, JSON')
    .option('--job <ids>', 'only these jobs, comma-separated', parseIds)
    .option('--stateful <ids>', 'these jobs keep state between calls', parseIds)
    .option('--connections <ids>', 'these jobs keep connections open between calls', parseIds)
    .option('--timeout <seconds>', 'longest that one call may take', parseCount, 900)
    .option('--out <file>', 'where the profiles go', 'profiles.json')
    .option('--metadata', 'print the text that the blueprint carries on chain, too')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    .action((entry: string, flags: ProfileFlags) =>
      interruptible(io, systemClock, ({ signal }) => profile(io, { entry: resolve(io.cwd, entry), signal }, flags)),
    );
}

interface Place {
  readonly entry: string;
  readonly signal: AbortSignal;
}

async function profile(io: Io, { entry, signal }: Place, flags: ProfileFlags): Promise<void> {
  const { router } = await loadModule(entry);
  if (!router) throw new RunnerError('CONFIG_INVALID', `${entry} exports no JobRouter, as default or named router`);
  const given = flags.inputs === undefined ? {} : readInputs(resolve(io.cwd, flags.inputs));
  const all = router.describe();
  checkIds(all, flags);
  const jobs = all.filter(({ id }) => !flags.job || flags.job.includes(Number(id)));
  const wanted = jobs.map((job) => ({ job, inputs: inputsOf(job, given[job.id]) }));
  const measured = new Map<number, MeasuredJob>();
  const madeUp: number[] = [];
  for (const { job, inputs } of wanted) {
    const index = Number(job.id);
    progress(io, `job ${job.id} ${job.name}: ${flags.runs} runs ...`);
    if (inputs.isMadeUp) madeUp.push(index);
    const marks = {
      stateful: flags.stateful?.includes(index) ?? false,
      persistentConnections: flags.connections?.includes(index) ?? false,
    };
    measured.set(index, { ...(await measureJob(io, { entry, signal, job, inputs }, flags)), ...marks });
  }
  const file = resolve(io.cwd, flags.out);
  const about = { measured_at: new Date().toISOString(), node: process.versions.node, made_up_inputs: madeUp };
  const document = profileDocument(measured, about);
  atPath({ path: file, flag: '--out' }, () => writeFileSync(file, `${JSON.stringify(document, null, 2)}\n`));
  const metadata = flags.metadata ? { profilingData: profilingData(measured) } : {};
  print(io, flags.json, {
    document: { file, ...document, ...metadata },
    text: [
      profileText(measured, madeUp),
      '',
      ...(metadata.profilingData === undefined ? [] : [metadata.profilingData]),
      `written to ${file}`,
    ].join('\n'),
  });
}

/** One that is overlooked would be missing in silence. */
function checkIds(jobs: readonly JobDescription[], { job, stateful, connections }: ProfileFlags): void {
  const known = jobs.map(({ id }) => id);
  for (const [flag, ids = []] of Object.entries({ job, stateful, connections })) {
    const unknown = ids.find((id) => !known.includes(String(id)));
    if (unknown !== undefined) throw new RunnerError('CONFIG_INVALID', `--${flag} names job ${unknown}; the jobs are ${known.join(', ')}`);
  }
}

function profileText(measured: ReadonlyMap<number, MeasuredJob>, madeUp: readonly number[]): string {
  const head = ['JOB', 'AVG MS', 'P50', 'P95', 'P99', 'PEAK MB', 'INPUT', 'RESULT'];
  const rows = [...measured].map(([index, job]) => [
    String(index),
    ...[job.avgDurationMs, job.p50DurationMs, job.p95DurationMs, job.p99DurationMs].map((ms) => ms.toFixed(2)),
    job.peakMemoryMb.toFixed(1),
    `${job.requestBytes} B`,
    `${job.responseBytes} B`,
  ]);
  const warning = madeUp.length === 0 ? [] : ['', `warning: the inputs of ${madeUp.join(', ')} are made up; pass real ones with --inputs`];
  return [table([head, ...rows]), ...warning].join('\n');
}

async function measureJob(
  io: Io,
  { entry, signal, job, inputs }: Place & { readonly job: JobDescription; readonly inputs: JobInputs },
  { runs, warmUps, timeout }: ProfileFlags,
): Promise<Omit<MeasuredJob, 'stateful' | 'persistentConnections'>> {
  const task = { entry, jobId: BigInt(job.id), inputs: inputs.bodies, runs, warmUps, timeoutMs: timeout * 1000 };
  const answer = await runTask(io, task, signal);
  if (answer.kind === 'failed') {
    const code = isErrorCode(answer.code) ? answer.code : 'JOB_FAILED';
    throw new RunnerError(code, `job ${job.id} ${job.name}: ${answer.message}`);
  }
  const sorted = answer.durationsMs.toSorted((a, b) => a - b);
  const at = (part: number): number => round(sorted[Math.max(0, Math.ceil(sorted.length * part) - 1)] ?? 0);
  return {
    avgDurationMs: round(sorted.reduce((sum, ms) => sum + ms, 0) / sorted.length),
    p50DurationMs: at(0.5),
    p95DurationMs: at(0.95),
    p99DurationMs: at(0.99),
    peakMemoryMb: round(answer.peakMemoryMb),
    requestBytes: Math.max(...inputs.bodies.map(({ length }) => length)),
    responseBytes: answer.responseBytesMax,
    samples: sorted.length,
  };
}

/** What the jobs print goes to stderr; a certificate bundle of the parent would only slow the start. */
function runTask(io: Io, task: ToProfile, signal: AbortSignal): Promise<FromProfile> {
  signal.throwIfAborted();
  const main = new URL(`../profile-runner${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url).href;
  const script = `import { serveProfile } from ${JSON.stringify(main)};\nawait serveProfile();`;
  const { NODE_OPTIONS: _options, NODE_EXTRA_CA_CERTS: _certificates, ...env } = io.env;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
    cwd: io.cwd,
    env,
    serialization: 'advanced',
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    timeout: START_MS + task.timeoutMs * (task.runs + task.warmUps),
  });
  child.stdout?.setEncoding('utf8').on('data', (text: string) => io.stderr.write(text));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => io.stderr.write(text));
  return new Promise((done, failed) => {
    let answer: FromProfile | undefined;
    child.once('message', (message) => (answer = message as FromProfile)); // as: only profile-runner writes to this channel
    child.once('error', failed);
    const end = (): void => void child.kill('SIGKILL');
    signal.addEventListener('abort', end, { once: true });
    child.once('close', (code, how) => {
      signal.removeEventListener('abort', end);
      if (signal.aborted) failed(toRunnerError(signal.reason));
      else if (answer) done(answer);
      else
        failed(
          new RunnerError('JOB_FAILED', `the process of job ${task.jobId} ended with ${how ?? `status ${code}`} before it was measured`),
        );
    });
    child.send(task);
  });
}

function readInputs(file: string): Readonly<Record<string, unknown>> {
  try {
    const read: unknown = parseValues(readFileSync(file, 'utf8'));
    if (typeof read === 'object' && read !== null && !Array.isArray(read)) return read as Readonly<Record<string, unknown>>; // as: an object of JSON
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${file} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  throw new RunnerError('CONFIG_INVALID', `${file} must hold an object: lists of calls by job id`);
}

function inputsOf(job: JobDescription, given: unknown): JobInputs {
  const parameters = job.raw ? [] : parseParameters(job.params);
  if (given === undefined) return { bodies: [job.raw ? RAW_SAMPLE : encodeAbi(parameters, sampleArguments(job.params))], isMadeUp: true };
  if (!Array.isArray(given) || given.length === 0)
    throw new RunnerError('CONFIG_INVALID', `the inputs of job ${job.id} must be a list of calls`);
  const bodies = given.map((call: unknown) => {
    if (job.raw && typeof call === 'string' && /^0x(?:[0-9a-fA-F]{2})*$/.test(call))
      return Uint8Array.from(Buffer.from(call.slice(2), 'hex'));
    if (!job.raw && Array.isArray(call)) return encoded(job, parameters, call);
    const expected = job.raw ? '0x bytes' : `a list of arguments (${job.params})`;
    throw new RunnerError('CONFIG_INVALID', `an input of job ${job.id} is ${toJson(call, 0)}; it must be ${expected}`);
  });
  return { bodies, isMadeUp: false };
}

function encoded(job: JobDescription, parameters: readonly Parameter[], values: readonly unknown[]): Uint8Array {
  try {
    requireCount(parameters, values);
    return encodeAbi(parameters, values);
  } catch (cause) {
    const message = `an input of job ${job.id} is ${toJson(values, 0)}, which is not (${job.params}): ${reasonOf(cause)}`;
    throw new RunnerError('CONFIG_INVALID', message, { cause });
  }
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}

function parseIds(text: string): readonly number[] {
  return text.split(',').map((id) => parseNumber(id.trim()));
}
