import { readFileSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { systemClock } from '../../clock.ts';
import type { FunctionPackage } from '../../deploy/function-package.ts';
import { RunnerError, isErrorCode, toRunnerError } from '../../errors.ts';
import type { NewJob, Published, QueueResult, WorkQueue } from '../../queue/queue.ts';
import type { RemoteObjects } from '../../queue/remote-objects.ts';
import { parseCount, parseNumber } from '../calls.ts';
import { collect, parseSpan, withAccess, withQueue } from '../control-access.ts';
import type { ControlFlags } from '../control-access.ts';
import { print, progress, sizeText, table } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { interruptible } from '../work.ts';
import type { Work } from '../work.ts';

interface PublishFlags extends ControlFlags {
  readonly id?: string;
  readonly payload?: string;
  readonly file?: string;
  readonly header?: Readonly<Record<string, string>>;
  readonly priority?: number;
  readonly delay?: number;
  readonly within?: number;
  readonly attempts?: number;
  readonly require?: readonly string[];
  readonly wait?: true;
  readonly count: number;
  readonly package?: string;
  readonly runtime: string;
  readonly handler?: string;
  readonly function?: string;
  readonly event?: string;
  readonly eventFile?: string;
  readonly memory?: number;
  readonly timeout?: number;
  readonly env?: readonly string[];
  readonly network: 'none' | 'open';
}

const NODE = `nodejs${process.versions.node.split('.', 1)[0]}.x`;
const STATUS_MS = 500;
/** Jobs that are sent at once. */
const BATCH = { jobs: 1_000, bytes: 8 * 1024 * 1024 };
const IDS_SHOWN_MAX = 5;

/** `bpr queue publish`: a job of any type, or calls of a function that lies here. */
export function addPublish(queue: Command, cli: Cli, examples: string): void {
  withAccess(queue.command('publish').description('publish a job, or calls of a function'))
    .argument('[type]', 'what kind of work it is; of --package it is function')
    .option('--payload <text>', 'default: none')
    .option('--file <path>', 'a file as payload; -: standard input')
    .option('--package <path>', 'the function: a folder, a zip, or a module such as handler.ts; it is stored once, by its hash')
    .option('--runtime <name>', 'of the function', NODE)
    .option('--handler <name>', 'of the function: file and export (default: handler.handler; of wasm: handler.wasm)')
    .option('--function <name>', 'its name, for logs and metrics (default: that of the package)')
    .option('--event <json>', 'what the function is called with (default: {})')
    .option('--event-file <path>', 'the same from a file; -: standard input')
    .option('--memory <mb>', 'of the function, at least 128 (default: 256)', parseCount)
    .option('--timeout <span>', 'of one call of the function (default: 60s)', parseSpan)
    .option('--env <name>', 'a variable that the worker gives the function; several by repeating', collect)
    .addOption(new Option('--network <access>', 'of the function; a worker may refuse open').choices(['none', 'open']).default('none'))
    .option('--count <count>', 'so many jobs; with --id they are ID-1, ID-2, ...', parseCount, 1)
    .option('--id <id>', 'idempotency key (default: a random one)')
    .option('--header <name=value>', 'goes with the payload; several by repeating', collectHeaders)
    .option('--priority <priority>', '0 to 9, higher first (default: 4)', parseNumber)
    .option('--delay <span>', 'not handed out before this has passed', parseSpan)
    .option('--within <span>', 'not handed out any more when this has passed', parseSpan)
    .option('--attempts <count>', 'attempts at most (default: 3)', parseCount)
    .option('--require <capability>', 'what a worker must be capable of; several by repeating', collect)
    .option('--wait', 'wait for the result, and print it')
    .addHelpText('after', examples)
    .action((type: string | undefined, flags: PublishFlags) => publish(cli, type, flags));
}

async function publish(cli: Cli, type: string | undefined, flags: PublishFlags): Promise<void> {
  const { io } = cli;
  checkFlags(type, flags);
  const packed = flags.package === undefined ? undefined : await packageOf(io, flags, flags.package);
  await withQueue(io, flags, async (queue, objects) => {
    const job = packed ? await functionJob(io, packed, { flags, objects }) : typedJob(io, type ?? '', flags);
    const published = await publishAll(queue, numbered({ ...job, ...common(flags) }, flags));
    const isRouter = packed?.isRouter === true;
    const told = packed && { package: { sha256: packed.sha256, bytes: packed.zip.length } };
    if (!flags.wait) {
      const lines = published.map(({ id, duplicate }) => `${id}${duplicate ? ' (it was there already)' : ''}`);
      const [first] = published;
      print(io, flags.json, { document: { ...(flags.count === 1 ? first : { jobs: published }), ...told }, text: lines.join('\n') });
      return;
    }
    await interruptible(io, systemClock, async (work) => {
      const ids = published.map(({ id }) => id);
      const more = ids.length > IDS_SHOWN_MAX ? ` and ${ids.length - IDS_SHOWN_MAX} more` : '';
      const left = `the jobs stay in the queue: bpr queue status ${ids.slice(0, IDS_SHOWN_MAX).join(', ')}${more}`;
      work.leaves(left);
      const shown = { queue, work, published, left, told, isRouter };
      if (published.length === 1) await showResult(io, flags, shown);
      else cli.exitCode = await showResults(io, flags, shown);
    });
  });
}

interface Shown {
  readonly queue: WorkQueue;
  readonly work: Work;
  readonly published: readonly Published[];
  /** What to say of them when the wait fails. */
  readonly left: string;
  readonly told: Readonly<Record<string, unknown>> | undefined;
  readonly isRouter: boolean;
}

async function showResult(io: Io, flags: PublishFlags, { published: [one], told, ...parts }: Shown): Promise<void> {
  if (!one) return;
  const result = await waitFor(one.id, { ...parts, done: 0, total: 1 });
  print(io, flags.json, { document: { ...one, ...told, ...shownResult(result) }, text: Buffer.from(bytesOf(result)).toString('utf8') });
}

/** How many jobs failed makes the exit status. */
async function showResults(io: Io, flags: PublishFlags, { published, told, ...parts }: Shown): Promise<number> {
  const jobs: Readonly<Record<string, unknown>>[] = [];
  const rows: string[][] = [];
  let failed = 0;
  for (const [done, one] of published.entries()) {
    try {
      const result = await waitFor(one.id, { ...parts, done, total: published.length });
      jobs.push({ ...one, ...shownResult(result) });
      rows.push([one.id, Buffer.from(bytesOf(result)).toString('utf8')]);
    } catch (thrown) {
      const { code, message, details } = toRunnerError(thrown);
      // Not the job's end: ours, or that of the control plane.
      if (parts.work.signal.aborted || details['jobId'] !== one.id) throw thrown;
      failed += 1;
      jobs.push({ ...one, error: { code, message } });
      rows.push([one.id, `${code}: ${message.split('\n', 1)[0]}`]);
    }
  }
  const text = [table(rows), `${jobs.length - failed} of ${jobs.length} completed`].join('\n');
  print(io, flags.json, { document: { jobs, failed, ...told }, text });
  return failed > 0 ? 1 : 0;
}

interface Place extends Pick<Shown, 'queue' | 'work' | 'left' | 'isRouter'> {
  /** Jobs before this one, of so many. */
  readonly done: number;
  readonly total: number;
}

/** Says what becomes of it meanwhile. */
async function waitFor(id: string, place: Place): Promise<QueueResult> {
  const { queue, work, left, isRouter } = place;
  const ended = new AbortController();
  const watching = watch(id, { ...place, ended: ended.signal });
  try {
    const result = await queue.result(id, { signal: work.signal });
    if (isRouter) checkAnswer(id, result);
    return result;
  } catch (thrown) {
    const { code, message, details, retry } = toRunnerError(thrown);
    if (work.signal.aborted || details['jobId'] === id) throw thrown;
    throw new RunnerError(code, `${message}\n${left}`, { cause: thrown, details, retry });
  } finally {
    ended.abort();
    await watching;
  }
}

/** A router that refuses a call answers with the error. */
function checkAnswer(id: string, result: QueueResult): void {
  const answer = bodyOf(result, Buffer.from(bytesOf(result))).body;
  if (typeof answer !== 'object' || answer === null || !('error' in answer) || !('code' in answer)) return;
  const { error, code } = answer;
  if (typeof error === 'string') throw new RunnerError(isErrorCode(code) ? code : 'JOB_FAILED', error, { details: { jobId: id } });
}

async function watch(id: string, { queue, work, done, total, ended }: Place & { readonly ended: AbortSignal }): Promise<void> {
  for (let last = ''; ;) {
    await systemClock.sleep(STATUS_MS, ended).catch(() => {});
    if (ended.aborted) return;
    const status = await queue.status(id).catch(() => undefined);
    if (!status) continue;
    const { state, attempts, attemptsMax, workerId, error } = status;
    const by = workerId === undefined ? '' : `, attempt ${attempts} of ${attemptsMax} at ${workerId.slice(0, 16)}`;
    const step = `${state}${by}${error ? `, before it ${error.code}` : ''}`;
    if (step !== last) work.tell({ function: `job ${id}`, step, ...(total > 1 && { done, total }) });
    last = step;
  }
}

function checkFlags(type: string | undefined, flags: PublishFlags): void {
  const refuse = (message: string): RunnerError => new RunnerError('CONFIG_INVALID', message);
  if (flags.payload !== undefined && flags.file !== undefined) throw refuse('--payload and --file exclude each other');
  if (flags.event !== undefined && flags.eventFile !== undefined) throw refuse('--event and --event-file exclude each other');
  const { delay = 0, within } = flags;
  if (within !== undefined && within <= delay)
    throw refuse(`--within ${within}ms is over before the job is handed out: --delay ${delay}ms`);
  if (flags.package === undefined) {
    if (type === undefined) throw refuse('say the type of the job, or with --package which function it calls');
    if (flags.event !== undefined || flags.eventFile !== undefined) throw refuse('an event needs --package; other jobs have a --payload');
    return;
  }
  if (type !== undefined && type !== 'function') throw refuse(`a job of --package is of type function, not ${type}`);
  if (flags.payload !== undefined || flags.file !== undefined) throw refuse('a function gets an --event, not a --payload');
}

interface Packed extends FunctionPackage {
  readonly name: string;
  readonly handler: string;
}

async function packageOf({ cwd, env, ...io }: Io, flags: PublishFlags, path: string): Promise<Packed> {
  const { packFunction } = await import('../../deploy/function-package.ts');
  const { runtime, handler = runtime === 'wasm' ? 'handler.wasm' : 'handler.handler' } = flags;
  progress({ cwd, env, ...io }, `packing ${path} ...`);
  const packed = await packFunction(resolve(cwd, path), { runtime, handler, env });
  const name = basename(resolve(cwd, path)).replace(/\..*$/, '').replaceAll(/[^A-Za-z0-9_-]/g, '-').slice(0, 64); // prettier-ignore
  return { ...packed, handler, name: flags.function ?? (name === '' ? 'function' : name) };
}

async function functionJob(
  io: Io,
  { zip, sha256, name, handler }: Packed,
  { flags, objects }: { readonly flags: PublishFlags; readonly objects: RemoteObjects },
): Promise<NewJob> {
  const { FUNCTION_JOB, functionHeaders, functionSettings } = await import('../../queue/function-job.ts');
  const { runtime, memory: memoryMb, timeout: timeoutMs, network, env: environment } = flags;
  const settings = functionSettings({ runtime, handler, memoryMb, timeoutMs, network, environment });
  const payload = eventOf(io, flags);
  progress(io, `storing the package, ${sizeText(zip.length)}, sha256 ${sha256} ...`);
  const object = await objects.keep(zip);
  const headers = { ...flags.header, ...functionHeaders({ name, settings, code: { kind: 'package', object } }) };
  return { type: FUNCTION_JOB, payload, headers };
}

function eventOf(io: Io, { event, eventFile }: PublishFlags): Uint8Array {
  const bytes = eventFile === undefined ? Buffer.from(event ?? '{}') : readPayload(io, eventFile);
  try {
    JSON.parse(Buffer.from(bytes).toString('utf8'));
    return bytes;
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `the event is not JSON: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

function typedJob(io: Io, type: string, { payload, file, header }: PublishFlags): NewJob {
  return {
    type,
    payload: file === undefined ? Buffer.from(payload ?? '') : readPayload(io, file),
    ...(header && { headers: header }),
  };
}

function common({ priority, delay, within, attempts, require: requires }: PublishFlags): Partial<NewJob> {
  return {
    ...(priority !== undefined && { priority }),
    ...(delay !== undefined && { delayMs: delay }),
    ...(within !== undefined && { deadline: Date.now() + within }),
    ...(attempts !== undefined && { attemptsMax: attempts }),
    ...(requires && { requires }),
  };
}

function numbered(job: NewJob, { count, id }: PublishFlags): readonly NewJob[] {
  if (count === 1) return [{ ...job, ...(id !== undefined && { id }) }];
  return Array.from({ length: count }, (_, index) => ({ ...job, ...(id !== undefined && { id: `${id}-${index + 1}` }) }));
}

async function publishAll(queue: WorkQueue, jobs: readonly NewJob[]): Promise<Published[]> {
  const { payload = new Uint8Array() } = jobs[0] ?? {};
  const each = payload instanceof Uint8Array ? payload.length + 4_096 : 4_096;
  const size = Math.max(1, Math.min(BATCH.jobs, Math.floor(BATCH.bytes / each)));
  const published: Published[] = [];
  for (let at = 0; at < jobs.length; at += size) published.push(...(await queue.publishMany(jobs.slice(at, at + size))));
  return published;
}

/** An answer that is JSON is shown as such besides. */
function shownResult(result: QueueResult): Readonly<Record<string, unknown>> {
  const bytes = Buffer.from(bytesOf(result));
  return { headers: result.headers ?? {}, bodyBase64: bytes.toString('base64'), ...bodyOf(result, bytes) };
}

function bodyOf({ headers = {} }: QueueResult, bytes: Buffer): { readonly body?: unknown } {
  if (!/^application\/json\b/.test(headers['content-type'] ?? '')) return {};
  try {
    return { body: JSON.parse(bytes.toString('utf8')) as unknown };
  } catch {
    return {};
  }
}

/** The object store has been asked. */
function bytesOf({ body }: QueueResult): Uint8Array {
  return body instanceof Uint8Array ? body : new Uint8Array();
}

function readPayload({ cwd }: Io, path: string): Uint8Array {
  try {
    return readFileSync(path === '-' ? 0 : resolve(cwd, path));
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${path} cannot be read`, { cause });
  }
}

function collectHeaders(text: string, before: Readonly<Record<string, string>> = {}): Readonly<Record<string, string>> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('It must be name=value.');
  return { ...before, [text.slice(0, at).toLowerCase()]: text.slice(at + 1) };
}
