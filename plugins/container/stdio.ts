/** One run of a program: a request on stdin, one JSON value on stdout, the log on stderr. */

import { randomUUID } from 'node:crypto';
import { RunnerError, isRunnerError } from '../../src/plugin.ts';
import type { FunctionVersion } from '../../src/plugin.ts';
import { statusOf } from './client.ts';
import { containerOptions } from './container-options.ts';
import type { ContainerHost } from './host.ts';
import { endOf } from './outcome.ts';
import { InstanceOutput, OutputTail } from './output.ts';
import { stdioProgram } from './program.ts';

export interface StdioOptions {
  /** Until it is killed, from when it started. Default: the timeout of the function. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
  /** Of stdout. Default 6 MiB. */
  readonly outputBytesMax?: number;
  /** What it writes to stderr, as it comes. */
  readonly onLog?: (chunk: Uint8Array) => void;
  /** Who reaps it when this process dies. Default: nobody. */
  readonly ownerId?: string;
}

export interface StdioResult {
  /** One JSON value. */
  readonly output: Uint8Array;
  /** The last 4 KiB of stderr. */
  readonly logTail: string;
  /** From when it started until it ended. */
  readonly runMs: number;
  /** Until it started. */
  readonly createMs: number;
}

interface StdioRun extends StdioOptions {
  readonly input: Uint8Array;
  readonly labels: Readonly<Record<string, string>>;
}

/** One that was killed is not waited for when its engine does not come back within this. */
const KILLED_MS = 20_000;
const OUTPUT_BYTES_MAX = 6 * 1024 * 1024;
const PATH = '/var/lang/bin:/usr/local/bin:/usr/bin:/bin';

export async function runStdio(host: ContainerHost, fn: FunctionVersion, run: StdioRun): Promise<StdioResult> {
  const { clock } = host;
  const { signal = new AbortController().signal, timeoutMs = fn.timeoutMs } = run;
  const began = clock.monotonic();
  const place = await host.place(fn, signal);
  const layers = await host.files.layers(fn.layers);
  await host.files.checkCode(fn, place.uid);
  const program = stdioProgram(fn, place.surface, { layers });
  const environment = fn.code.kind === 'image' ? fn.environment : { PATH, ...fn.environment };
  const plan = { ...host.planOf(fn, place), name: `bpr-once-${randomUUID()}`, program, environment, labels: run.labels, hasStdin: true };
  const collector = new Collector(run);
  const output = new InstanceOutput({ clock, sink: collector.take, bytesPerSecond: Infinity });
  const { engine } = place;
  let id: string | undefined;
  let cancel = (): void => {};
  try {
    aborted(fn, signal);
    id = await engine.create(containerOptions(plan));
    const container = id;
    const stream = await engine.attach(container, true);
    output.read(stream, 'frames');
    const gone = new AbortController();
    const kill = (error: RunnerError): void => {
      collector.failure ??= error;
      // What is left of it is removed at the end in any case.
      void engine.remove(container).catch(() => {});
      clock.after(KILLED_MS, () => gone.abort(error));
    };
    collector.onOverflow = kill;
    await engine.start(container);
    const started = clock.monotonic();
    const onAbort = (): void => kill(abortedError(fn, signal));
    signal.addEventListener('abort', onAbort, { once: true });
    const cancelTimer = clock.after(timeoutMs, () => kill(timeoutError(fn, timeoutMs)));
    cancel = (): void => {
      cancelTimer();
      signal.removeEventListener('abort', onAbort);
    };
    aborted(fn, signal);
    // A program that reads nothing may have ended already.
    stream.end(run.input);
    const state = await engine.ended(container, gone.signal);
    const runMs = clock.monotonic() - started;
    await output.finish();
    if (collector.failure) throw collector.failure;
    checkEnd(fn, { exitCode: state?.exitCode ?? 137, outOfMemory: state?.oomKilled ?? false, log: collector.log });
    return { output: collector.json(fn), logTail: collector.log.text(), runMs, createMs: started - began };
  } catch (error) {
    if (collector.failure) throw collector.failure;
    if (isRunnerError(error)) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new RunnerError('INSTANCE_START_FAILED', `${fn.name} did not start: ${reason}`, { cause: error });
  } finally {
    cancel();
    if (id !== undefined) await engine.remove(id).catch((error: unknown) => unlessGone(error, collector.failure));
  }
}

/** Of an engine that went away before it is told why the run ended. */
function unlessGone(error: unknown, failure: RunnerError | undefined): void {
  if (!failure || statusOf(error) !== undefined) throw error;
}

/** What it wrote, within bounds. */
class Collector {
  readonly log = new OutputTail();
  failure: RunnerError | undefined;
  onOverflow: (error: RunnerError) => void = () => {};
  readonly #run: StdioRun;
  readonly #chunks: Uint8Array[] = [];
  #bytes = 0;

  constructor(run: StdioRun) {
    this.#run = run;
  }

  readonly take = (source: 'stdout' | 'stderr', chunk: Uint8Array): void => {
    if (source === 'stderr') {
      this.log.add(chunk);
      this.#run.onLog?.(chunk);
      return;
    }
    const { outputBytesMax = OUTPUT_BYTES_MAX } = this.#run;
    this.#bytes += chunk.length;
    if (this.#bytes <= outputBytesMax) this.#chunks.push(Uint8Array.from(chunk));
    else if (!this.failure)
      this.onOverflow(
        new RunnerError('PAYLOAD_TOO_LARGE', `the output is larger than outputBytesMax, ${outputBytesMax} bytes`, {
          details: { outputBytesMax },
        }),
      );
  };

  json({ name }: FunctionVersion): Uint8Array {
    const output = Buffer.concat(this.#chunks);
    try {
      JSON.parse(output.toString('utf8'));
    } catch (cause) {
      const start = JSON.stringify(output.subarray(0, 100).toString('utf8'));
      throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `${name} wrote ${start} to stdout, which is not one JSON value`, { cause });
    }
    return output;
  }
}

function checkEnd(
  { name, memoryMb }: FunctionVersion,
  { exitCode, outOfMemory, log }: { readonly exitCode: number; readonly outOfMemory: boolean; readonly log: OutputTail },
): void {
  const end = endOf({ exitCode, outOfMemory, terminated: false, tail: log.text() });
  if (end.reason === 'exited' && exitCode === 0) return;
  if (end.reason === 'out-of-memory')
    throw new RunnerError('FUNCTION_OUT_OF_MEMORY', `${name} used more than its ${memoryMb} MB${log.lastLines()}`, { details: { ...end } });
  const how = end.signal ?? `exit code ${exitCode}`;
  throw new RunnerError('FUNCTION_CRASHED', `${name} ended with ${how}${log.lastLines()}`, { details: { ...end } });
}

function aborted(fn: FunctionVersion, signal: AbortSignal): void {
  if (signal.aborted) throw abortedError(fn, signal);
}

function abortedError({ name }: FunctionVersion, signal: AbortSignal): RunnerError {
  return new RunnerError('ABORTED', `the run of ${name} was cancelled`, { cause: signal.reason });
}

function timeoutError({ name }: FunctionVersion, timeoutMs: number): RunnerError {
  return new RunnerError('EXECUTOR_TIMEOUT', `${name} did not end within ${timeoutMs} ms and was killed`, { details: { timeoutMs } });
}
