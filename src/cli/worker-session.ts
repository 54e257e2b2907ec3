/** What `bpr worker` is made of: the way to its control plane, what runs its functions, its health, and the news of it. */

import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { systemClock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import { ClaimCheckQueue } from '../queue/claim-check.ts';
import { openIdentity } from '../queue/identity.ts';
import { FolderObjects } from '../queue/folder-objects.ts';
import { FUNCTION_JOB, functionHeaders, functionSettings } from '../queue/function-job.ts';
import { isReference } from '../queue/queue.ts';
import type { ControlClient } from '../queue/control-client.ts';
import type { ClaimedJob, ObjectStore, WorkQueue } from '../queue/queue.ts';
import { RemoteObjects } from '../queue/remote-objects.ts';
import { RemoteQueue } from '../queue/remote.ts';
import { FunctionRuntime } from '../runtime/function-runtime.ts';
import type { PrometheusMetrics } from '../telemetry/prometheus.ts';
import { startTelemetryServer } from '../telemetry/server.ts';
import type { Check, TelemetryServer } from '../telemetry/server.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import type { EnginePool } from '../engine/engine-pool.ts';
import { functionJobs } from '../worker/function-jobs.ts';
import type { JobHandler } from '../worker/running-job.ts';
import { readUsage, usageMetrics } from '../worker/usage.ts';
import type { WorkerLifecycle } from '../worker/worker-metrics.ts';
import type { Worker } from '../worker/worker.ts';
import { findBackends } from './backends.ts';
import { openGranted } from './granted.ts';
import { ownVersion } from './version.ts';

/** Where `bpr wasm serve` listens. */
const ENGINE = 'http://127.0.0.1:27288';
/** A request is repeated so long by the connection itself; then the worker knows that the control plane is away, and goes on trying. */
const RECONNECT_MS = 2_000;
const PAUSE_MS = { first: 100, most: 5_000 };

export interface Connected {
  readonly queue: WorkQueue;
  readonly objects: ObjectStore;
  readonly workerId: string;
  /** When it calls engines for this worker. */
  readonly control?: ControlClient | undefined;
  /** One report of the worker on itself; `Heartbeat` sends them. */
  readonly send: (report: unknown, signal: AbortSignal) => Promise<void>;
}

export interface ConnectOptions {
  readonly ticket: TicketSource;
  readonly folder: string;
  readonly telemetry: Telemetry;
  readonly signal: AbortSignal;
  /** Once, when nobody answers. */
  readonly onWait: (error: RunnerError) => void;
}

/** Waits for a control plane that is not there yet. Rejects with the codes of tickets, and `ABORTED`. */
export async function connectWorker({ ticket, folder, telemetry, signal, onWait }: ConnectOptions): Promise<Connected> {
  const identity = openIdentity(join(folder, 'identity.key'));
  for (let failures = 0; ; failures += 1) {
    // Each time: that of a file may be from before its control plane came to another address, or to another TLS key.
    // A file that is gone later is not waited for.
    const latest = (): Promise<string> => ticketFrom(ticket, AbortSignal.abort());
    const credentials = { ticket: await ticketFrom(ticket, signal), identity, latest };
    try {
      const queue = await RemoteQueue.connect({ credentials, reconnectMs: RECONNECT_MS, telemetry }, signal);
      const { control, workerId } = queue;
      const send = (body: unknown, about: AbortSignal): Promise<void> =>
        control.sendOnce({ method: 'PUT', path: '/workers/self', body, signal: about });
      const { grant, hasEngines } = control.standing ?? {};
      const own = { workerId, send, ...(hasEngines && { control }) };
      if (grant) return { ...(await openGranted(grant, { control, identity, telemetry })), ...own };
      const objects = new RemoteObjects(control);
      return { queue: new ClaimCheckQueue({ queue, objects }), objects, ...own };
    } catch (thrown) {
      const error = toRunnerError(thrown);
      if (signal.aborted || error.retry === 'never') throw error;
      if (failures === 0) onWait(error);
      await systemClock.sleep(Math.min(PAUSE_MS.most, PAUSE_MS.first * 2 ** failures), signal);
    }
  }
}

interface TicketSource {
  readonly text?: string | undefined;
  readonly file?: string | undefined;
}

/** The text of the ticket; a file that is not there yet is waited for. */
async function ticketFrom(source: TicketSource, signal: AbortSignal): Promise<string> {
  const { text } = source;
  const file = source.file ?? /^file:(\/.+)$/.exec(text?.trim() ?? '')?.[1];
  if (file === undefined) {
    if (text === undefined || text.trim() === '')
      throw new RunnerError('TICKET_MALFORMED', 'there is no ticket; set CONTROL_PLANE_TICKET, or give --ticket-file');
    return text;
  }
  for (;;) {
    try {
      return await readFile(file, 'utf8');
    } catch (cause) {
      if (!(cause instanceof Error && 'code' in cause && cause.code === 'ENOENT'))
        throw new RunnerError('CONFIG_INVALID', `the ticket ${file} cannot be read`, { cause });
      await systemClock.sleep(PAUSE_MS.most / 10, signal);
    }
  }
}

export interface FunctionsOptions {
  readonly folder: string;
  readonly backend: string;
  readonly concurrency: number;
  readonly objects: ObjectStore;
  readonly telemetry: Telemetry;
  readonly environment: Readonly<Record<string, string>>;
  readonly network: 'none' | 'open';
  readonly packageBytesMax?: number | undefined;
  /** Of the backend `engine`: addresses. Undefined: the control plane calls its own, or there is one on this machine. */
  readonly engines: readonly string[] | undefined;
  /** Which calls engines. */
  readonly control?: ControlClient | undefined;
  /** What they ask for. */
  readonly engineToken?: string | undefined;
}

export interface WorkerFunctions {
  readonly handler: JobHandler;
  /** Why no function can run now; undefined: they can. */
  unready?(): string | undefined;
  close(): Promise<void>;
}

/** Rejects with `BACKEND_UNAVAILABLE`, `CONFIG_INVALID`. */
export async function openFunctions(options: FunctionsOptions): Promise<WorkerFunctions> {
  const {
    folder,
    backend,
    telemetry,
    objects,
    environment,
    network,
    packageBytesMax: bytesMax,
    control,
    engines: urls = control ? undefined : [ENGINE],
    engineToken: token,
  } = options;
  const store = { objects, environment, network, folder: join(folder, 'packages'), ...(bytesMax !== undefined && { bytesMax }) };
  if (backend === 'engine' && control && !urls) {
    const { ControlEngines } = await import('../worker/control-engines.ts');
    const target = new ControlEngines({ control, clock: systemClock });
    const { jobs, packages } = functionJobs({ ...store, target });
    await target.watch();
    return { handler: jobs, unready: () => target.unready, close: () => target.close().then(() => packages.close()) };
  }
  if (backend === 'engine' && urls) {
    const { EnginePool: Pool } = await import('../engine/engine-pool.ts');
    const zipOf = ({ sha256 }: { readonly sha256: string }): Promise<Uint8Array> => packages.zipOf(sha256);
    const pool = new Pool({ urls, token, zipOf, clock: systemClock, telemetry });
    const { jobs, packages } = functionJobs({ ...store, target: pool });
    // From now on they are asked again and again.
    await pool.health().catch(() => {});
    return { handler: jobs, unready: () => enginesAway(pool), close: () => pool.close().then(() => packages.close()) };
  }
  const runtime = await openRuntime(options);
  const { jobs, packages } = functionJobs({ ...store, target: runtime });
  return { handler: jobs, close: () => runtime.close(0).then(() => packages.close()) };
}

function enginesAway({ engines }: EnginePool): string | undefined {
  return engines.every(({ isReady }) => !isReady) ? `no engine is ready: ${engines.map(({ url }) => url).join(', ')}` : undefined;
}

async function openRuntime(options: Pick<FunctionsOptions, 'folder' | 'backend' | 'concurrency' | 'telemetry'>): Promise<FunctionRuntime> {
  const { folder, backend: name, concurrency, telemetry } = options;
  const { backends } = await findBackends(name, { folder: join(folder, 'b'), telemetry });
  const [backend] = backends.values();
  if (!backend) throw new RunnerError('BACKEND_UNAVAILABLE', `there is no backend ${name} here`);
  const runtime = new FunctionRuntime({
    backend,
    folder: join(folder, 'r'),
    telemetry,
    // A call that the worker took has a place: it may wait only while an instance of another function makes room.
    limits: { instancesMax: concurrency, instancesPerFunctionMax: concurrency },
  });
  try {
    await runtime.start();
  } catch (thrown) {
    const error = toRunnerError(thrown);
    if (error.code !== 'CONFIG_INVALID' || error.details['folder'] === undefined) throw error;
    throw new RunnerError('CONFIG_INVALID', `${error.message} (bpr worker: --data)`, { cause: error, details: error.details });
  }
  return runtime;
}

export interface ReportOptions {
  readonly worker: Worker;
  readonly lifecycle: WorkerLifecycle;
  readonly backend: string;
  readonly concurrency: number;
}

/** What `PUT /workers/self` takes. */
export async function workerReport({ worker, lifecycle, backend, concurrency }: ReportOptions): Promise<unknown> {
  const { scope: _, ...usage } = await readUsage();
  const { state, running, figures } = worker;
  const own = { name: hostname().slice(0, 128), version: ownVersion(), backend, concurrency };
  return { state, running, ...own, ...usage, ...figures, stepSeconds: lifecycle.seconds };
}

/** Runs the job of a file, as if it had been claimed. Rejects as the worker would fail it, and with `CONFIG_INVALID` for the file. */
export async function runJobFile(file: string, options: Omit<FunctionsOptions, 'objects'>): Promise<Uint8Array> {
  const objects = new FolderObjects({ folder: join(options.folder, 'objects') });
  const { artifact, headers, payload } = await jobOfFile(file);
  const zip = await readFile(artifact).catch((cause: unknown) => {
    throw new RunnerError('CODE_MISSING', `the artifact ${artifact} cannot be read`, { cause });
  });
  const object = await objects.put(zip);
  const functions = await openFunctions({ ...options, objects });
  try {
    const code = { kind: 'package', object } as const;
    const job: ClaimedJob = {
      id: 'file',
      type: FUNCTION_JOB,
      payload,
      headers: functionHeaders({ ...headers, code }),
      priority: 4,
      requires: [],
      attempt: 1,
      attemptsMax: 1,
      publishedAt: systemClock.now(),
      lease: { jobId: 'file', token: 'file', until: Number.MAX_SAFE_INTEGER },
    };
    const { signal } = new AbortController();
    const { body } = await functions.handler.run(job, { signal, started: () => {} });
    return isReference(body) ? await objects.get(body) : body;
  } finally {
    await functions.close();
    await objects.remove(object);
  }
}

async function jobOfFile(file: string) {
  let given: unknown;
  try {
    given = JSON.parse(await readFile(file, 'utf8'));
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `the job ${file} cannot be read as JSON`, { cause });
  }
  const { artifact, event = null, function: name = 'job', settings = {} } = Object(given) as Record<string, unknown>; // checked next
  if (typeof artifact !== 'string' || typeof name !== 'string')
    throw new RunnerError('CONFIG_INVALID', `the job ${file} must name its artifact, such as {"artifact": "handler.zip", "event": {}}`);
  return {
    artifact: resolve(dirname(file), artifact),
    headers: { name, settings: functionSettings(settings) },
    payload: Buffer.from(JSON.stringify(event)),
  };
}

export interface HealthOptions {
  readonly port: number;
  readonly metrics: PrometheusMetrics;
  /** What must be there for jobs to run: why it is not; undefined: it is. */
  readonly unready: () => Readonly<Record<string, string | undefined>>;
}

/** `/healthz`, `/readyz` and `/metrics` on loopback. */
export function serveHealth({ port, metrics, unready }: HealthOptions): Promise<TelemetryServer> {
  const measure = usageMetrics(metrics);
  const startedAt = systemClock.monotonic();
  return startTelemetryServer({
    port,
    metrics: async () => {
      await measure();
      return metrics.expose();
    },
    health: () => ({
      ok: true,
      checks: { process: { ok: true, message: `up for ${Math.round((systemClock.monotonic() - startedAt) / 1_000)} s` } },
    }),
    ready: () => {
      const checks = Object.entries(unready()).map(([name, message]): [string, Check] => [
        name,
        message === undefined ? { ok: true } : { ok: false, message },
      ]);
      return { ok: checks.every(([, { ok }]) => ok), checks: Object.fromEntries(checks) };
    },
  });
}
