/**
 * One artifact on many platforms: every vector on every platform, and whether the answers are the same, byte by byte and code by code.
 *
 * The report is data with a stable schema; a platform that is not here is in it with its reason.
 */

import { createHash } from 'node:crypto';
import { RunnerError, isRunnerError, toRunnerError } from '../errors.ts';
import { requestTooLarge, responseTooLarge } from '../executor/executor.ts';
import type { FaasExecutor } from '../executor/executor.ts';
import { Metadata } from '../job/call.ts';
import type { JobCall } from '../job/call.ts';
import type { Expected, Need, Vector, VectorCall } from './vector.ts';
import { SECRET } from './vectors-life.ts';
import { vectors as allVectors } from './vectors.ts';

/** Where the artifact runs. */
export interface Platform {
  readonly name: string;
  /** What it cannot do, each with the reason: vectors that need it are skipped. */
  readonly lacks: Readonly<Partial<Record<Need, string>>>;
  /** Why it does not work here; undefined when it does. */
  unavailable(): Promise<string | undefined>;
  /** What runs the artifact; closing it ends the platform. */
  open(): Promise<FaasExecutor>;
}

export interface MatrixOptions {
  readonly artifact: ArtifactInfo;
  readonly platforms: readonly Platform[];
  /** Names of platforms that must be here. */
  readonly required?: readonly string[];
  /** Default: all. */
  readonly vectors?: readonly Vector[];
  /** Told of each result as it comes. */
  readonly onResult?: (result: MatrixResult, done: number, total: number) => void;
  /** Gives up after the vector that runs; every platform is closed, and the run rejects with `ABORTED`. */
  readonly signal?: AbortSignal;
}

export interface ArtifactInfo {
  /** Of `handler.mjs`, hex. */
  readonly sha256: string;
  readonly bytes: number;
}

export interface MatrixResult {
  readonly vector: string;
  readonly group: string;
  readonly backend: string;
  /** `skipped`: the vector does not apply to this backend. */
  readonly status: 'equal' | 'differs' | 'skipped';
  readonly ms: number;
  /** Of a skip, and where another answer is right on this backend. */
  readonly reason?: string;
  /** Of a difference: both answers, shortened. */
  readonly expected?: string;
  readonly actual?: string;
}

export interface MatrixBackend {
  readonly name: string;
  /** `skipped`: it is not here. `failed`: it is here, but it could not be opened or closed. */
  readonly status: 'equal' | 'differs' | 'failed' | 'skipped';
  readonly required: boolean;
  /** Of `failed` and `skipped`. */
  readonly reason?: string;
  readonly equal: number;
  readonly differs: number;
  readonly skipped: number;
  readonly ms: number;
}

export interface MatrixReport {
  readonly schema: 1;
  /** Every backend that is here answers equally, and all that are required are here. */
  readonly ok: boolean;
  readonly artifact: ArtifactInfo;
  readonly vectors: number;
  readonly ms: number;
  readonly backends: readonly MatrixBackend[];
  readonly results: readonly MatrixResult[];
}

/** Generous: a start of a container on a loaded machine is part of a call. */
const TIMEOUT_MS = 60_000;
/** After its deadline. */
const GRACE_MS = 30_000;
const DAY_MS = 86_400_000;
const SHOWN_CHARACTERS_MAX = 300;

/**
 * Runs the vectors, one platform after the other. A difference is part of the report, it is not thrown.
 *
 * @example
 * const report = await runMatrix({ artifact: info, platforms: [inProcess(artifact), stdioProcess(artifact)] });
 */
export async function runMatrix(options: MatrixOptions): Promise<MatrixReport> {
  const { artifact, platforms, vectors = allVectors, required = [], onResult, signal } = options;
  const started = performance.now();
  const results: MatrixResult[] = [];
  const backends: MatrixBackend[] = [];
  const tell = (result: MatrixResult): void => {
    results.push(result);
    onResult?.(result, results.length, vectors.length * platforms.length);
  };
  process.env[SECRET.name] = SECRET.value;
  // Waits of a function runtime alone do not keep a process alive.
  const alive = setInterval(() => {}, DAY_MS);
  try {
    for (const platform of platforms)
      backends.push(await runPlatform(platform, { vectors, tell, signal }, required.includes(platform.name)));
  } finally {
    delete process.env[SECRET.name];
    clearInterval(alive);
  }
  const isGood = ({ status, required: isRequired }: MatrixBackend): boolean => status === 'equal' || (status === 'skipped' && !isRequired);
  const ok = backends.every(isGood) && backends.some(({ status }) => status === 'equal');
  return { schema: 1, ok, artifact, vectors: vectors.length, ms: since(started), backends, results };
}

interface PlatformRun {
  readonly vectors: readonly Vector[];
  readonly tell: (result: MatrixResult) => void;
  readonly signal: AbortSignal | undefined;
}

async function runPlatform(platform: Platform, run: PlatformRun, required: boolean): Promise<MatrixBackend> {
  const { name } = platform;
  const { vectors, signal } = run;
  const started = performance.now();
  const counts = { equal: 0, differs: 0, skipped: 0 };
  const ended = (status: MatrixBackend['status'], reason?: string): MatrixBackend => ({
    name,
    status,
    required,
    ...(reason !== undefined && { reason }),
    ...counts,
    ms: since(started),
  });
  const absent = await platform.unavailable();
  if (absent !== undefined) {
    counts.skipped = vectors.length;
    return ended('skipped', absent);
  }
  try {
    const executor = await platform.open();
    try {
      for (const vector of vectors) {
        if (signal?.aborted) throw new RunnerError('ABORTED', `the run was given up on ${name}`, { cause: signal.reason });
        const result = await runVector(vector, platform, executor);
        counts[result.status] += 1;
        run.tell(result);
      }
    } finally {
      await executor.close?.();
    }
  } catch (thrown) {
    if (signal?.aborted) throw thrown;
    const { code, message } = toRunnerError(thrown);
    return ended('failed', `${code}: ${message}`);
  }
  return ended(counts.differs > 0 ? 'differs' : 'equal');
}

async function runVector(vector: Vector, platform: Platform, executor: FaasExecutor): Promise<MatrixResult> {
  const head = { vector: vector.name, group: vector.group, backend: platform.name };
  const missing = (vector.needs ?? []).find((need) => platform.lacks[need] !== undefined);
  if (missing !== undefined) return { ...head, status: 'skipped', ms: 0, reason: platform.lacks[missing] ?? missing };
  const exception = vector.except?.find(({ lacks }) => platform.lacks[lacks] !== undefined);
  const reason = exception && { reason: exception.reason };
  const expected = (exception?.expected ?? vector.expected()).map((one) => outcomeOf(one));
  // A platform that starts an instance for the call must not spend the deadline of the call on it.
  await warm(executor, vector.calls[0]?.jobId ?? 0n);
  const started = performance.now();
  const actual = await Promise.all(vector.calls.map((call, index) => inTime(call, answerOf(call, executor, `${vector.name} ${index}`))));
  const ms = since(started);
  if (actual.every((one, index) => isSame(one, expected[index]))) return { ...head, status: 'equal', ms, ...reason };
  return { ...head, status: 'differs', ms, ...reason, expected: shownAll(expected), actual: shownAll(actual) };
}

/** What came of one call, in the form in which it is compared. */
type Outcome =
  | { readonly kind: 'result'; readonly body: Uint8Array; readonly metadata: readonly (readonly [string, string])[] }
  | { readonly kind: 'none' }
  | { readonly kind: 'error'; readonly code: string; readonly message: string };

function outcomeOf(expected: Expected): Outcome {
  if (expected === 'none') return { kind: 'none' };
  if ('code' in expected) return { kind: 'error', code: expected.code, message: expected.message ?? '' };
  return { kind: 'result', body: expected.result, metadata: sorted(expected.metadata ?? []) };
}

const sorted = (entries: Iterable<readonly [string, string]>): (readonly [string, string])[] =>
  [...entries].toSorted(([a], [b]) => (a < b ? -1 : 1));

async function answerOf(call: VectorCall, executor: FaasExecutor, id: string): Promise<Outcome> {
  const { limits } = executor;
  const body = typeof call.body === 'function' ? call.body(limits) : call.body;
  const job: JobCall = { id, jobId: call.jobId, body, metadata: new Metadata(call.metadata) };
  const cancel = new AbortController();
  if (call.abortAfterMs === 0) cancel.abort();
  const timer = call.abortAfterMs === undefined ? undefined : setTimeout(() => cancel.abort(), call.abortAfterMs);
  const options = { deadline: Date.now() + (call.timeoutMs ?? TIMEOUT_MS), attempt: call.attempt ?? 1, signal: cancel.signal };
  try {
    const refusal = requestTooLarge(executor, job);
    if (refusal && call.isPushed !== true) throw refusal;
    if (call.isStreamed && executor.invokeStream) return await collected(executor.invokeStream(job, options));
    const execution = await executor.invoke(job, options);
    const tooLarge = responseTooLarge(executor, execution);
    if (tooLarge) throw tooLarge;
    const [result] = execution.results;
    if (call.isStreamed) return { kind: 'result', body: result?.body ?? new Uint8Array(), metadata: [] };
    return result ? { kind: 'result', body: result.body, metadata: sorted(result.metadata) } : { kind: 'none' };
  } catch (thrown) {
    const error: RunnerError = toRunnerError(thrown);
    const code = isRunnerError(thrown) ? error.code : `INTERNAL (${String(thrown)})`;
    return { kind: 'error', code, message: error.message };
  } finally {
    clearTimeout(timer);
  }
}

/** What fails here fails again in the call, which tells. */
async function warm(executor: FaasExecutor, jobId: bigint): Promise<void> {
  const warming = executor.warm?.(jobId).catch(() => {});
  if (warming) await within(TIMEOUT_MS, warming, undefined);
}

/** An executor that breaks its promise to end by itself is a difference, too. */
function inTime({ timeoutMs = TIMEOUT_MS }: VectorCall, answer: Promise<Outcome>): Promise<Outcome> {
  const waitMs = Math.min(Math.max(timeoutMs, 0), TIMEOUT_MS) + GRACE_MS;
  return within(waitMs, answer, { kind: 'error', code: 'no answer', message: `in ${waitMs} ms` });
}

function within<Value>(waitMs: number, promise: Promise<Value>, otherwise: Value): Promise<Value> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<Value>((resolve) => {
    timer = setTimeout(() => resolve(otherwise), waitMs);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function collected(chunks: AsyncIterable<Uint8Array>): Promise<Outcome> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return { kind: 'result', body: Buffer.concat(parts), metadata: [] };
}

/** Of a message only what the vector expects must be in it: platforms say more. */
function isSame(actual: Outcome, expected: Outcome | undefined): boolean {
  if (actual.kind !== expected?.kind) return false;
  if (actual.kind === 'none') return true;
  if (actual.kind === 'error' && expected.kind === 'error')
    return actual.code === expected.code && actual.message.includes(expected.message);
  if (actual.kind !== 'result' || expected.kind !== 'result') return false;
  return Buffer.compare(actual.body, expected.body) === 0 && JSON.stringify(actual.metadata) === JSON.stringify(expected.metadata);
}

const shownAll = (outcomes: readonly Outcome[]): string => shorten([...new Set(outcomes.map((outcome) => shown(outcome)))].join(' | '));

function shown(outcome: Outcome): string {
  switch (outcome.kind) {
    case 'none':
      return 'no result';
    case 'error':
      return `${outcome.code}${outcome.message === '' ? '' : `: ${outcome.message}`}`;
    case 'result': {
      const { body, metadata } = outcome;
      const hash = createHash('sha256').update(body).digest('hex').slice(0, 16);
      const start = `0x${Buffer.from(body.subarray(0, 24)).toString('hex')}${body.length > 24 ? '...' : ''}`;
      const extra = metadata.length === 0 ? '' : ` with ${JSON.stringify(metadata)}`;
      return `${body.length} bytes ${start} (sha256 ${hash}...)${extra}`;
    }
  }
}

const shorten = (value: string): string => (value.length > SHOWN_CHARACTERS_MAX ? `${value.slice(0, SHOWN_CHARACTERS_MAX)}...` : value);

const since = (started: number): number => Math.round((performance.now() - started) * 10) / 10;
