import { chmodSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { RunnerError, toRunnerError } from '../../errors.ts';
import { makeFolder } from '../../folder.ts';
import type { WorkQueue } from '../../queue/queue.ts';
import type { WorkerLifecycle } from '../../worker/worker-metrics.ts';
import type { WorkerEvent } from '../../worker/worker.ts';
import { BACKENDS } from '../backends.ts';
import { parseBytes, parseCount, parsePort } from '../calls.ts';
import { baseFolder } from '../environment.ts';
import { logLevelOf } from '../log-level.ts';
import { atPath } from '../named-path.ts';
import { JsonEvents, printError, toJson } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { whenUnread } from '../signals.ts';
import type { Connected, FunctionsOptions, HealthOptions, WorkerFunctions } from '../worker-session.ts';

interface WorkerFlags {
  readonly ticket?: string;
  readonly ticketFile?: string;
  readonly backend: string;
  readonly concurrency: number;
  readonly capabilities: readonly string[];
  readonly data?: string;
  readonly port: number;
  readonly drainMs: number;
  readonly leaseMs: number;
  readonly env: readonly string[];
  readonly network: 'none' | 'open';
  readonly packageBytesMax?: number;
  readonly once?: true;
  readonly job?: string;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr worker                                  with the ticket in CONTROL_PLANE_TICKET, or file:/path of one there
  bpr worker --ticket-file /data/endpoint.ticket --concurrency 16 --capabilities gpu,region:eu
  bpr worker --once                           one job, then it ends
  bpr worker --once --job job.json            one job from a file, without a control plane

It dials out only, and waits for a control plane that is not there yet. While nobody answers the file of the ticket is read again: when it has
another ticket of the same control plane, the worker goes to the addresses in that one. Packages of functions are fetched once by their hash,
verified, and kept in its folder. A job file is {"artifact": "handler.zip", "event": ..., "function": "name", "settings": {"timeoutMs": 5000}}.
SIGTERM or SIGINT: it claims no more, gives back what it has not begun, lets the rest end for --drain-ms, gives back what is left, and ends with
0. A second one ends it at once.
Environment: CONTROL_PLANE_TICKET; BPR_DATA_DIR; LOG_LEVEL (default warn); for --backend engine BPR_WASM_URL, or FLAWLESS_URL: addresses of
engines, comma-separated (default: those that the control plane calls for its workers, else http://127.0.0.1:27288, bpr wasm serve); of
dns+http://name:port all addresses that the name has at the time; and BPR_WASM_TOKEN: the key that they ask for.

Exit status: 0 drained, or the one job has a result; 1 it could not start, or the one job failed; 2 called in a wrong way, or the ticket is not
valid here; 130 or 143 ended at once by a second signal.`;

/** After the worker is over. */
const LEAVE_MS = 2_000;
const STEPS: Readonly<Record<string, Parameters<WorkerLifecycle['reached']>[0]>> = {
  started: 'started',
  enrolled: 'enrolled',
  ready: 'ready',
  'first-job': 'first_job',
};
const SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const;

/** `bpr worker`: runs the jobs of a control plane. */
export function addWorker(program: Command, cli: Cli): void {
  program
    .command('worker')
    .description('run the jobs of a control plane on this machine')
    .option(
      '--ticket <ticket>',
      'the ticket, or file:/path of one, instead of CONTROL_PLANE_TICKET; in the list of processes others see it',
    )
    .option('--ticket-file <file>', 'the ticket, instead of CONTROL_PLANE_TICKET; it is waited for')
    .option('--backend <name>', `one of ${BACKENDS.join(', ')}, or engine: those of BPR_WASM_URL or of the control plane`, 'process')
    .option('--concurrency <count>', 'jobs at the same time', parseCount, 4)
    .addOption(new Option('--capabilities <names>', 'what this worker has, comma-separated').argParser(parseNames).default([], 'none'))
    .option(
      '--data <dir>',
      'its key, packages and sockets; of one worker, a short path (default: worker in BPR_DATA_DIR, or ~/.blueprint-runner/worker)',
    )
    .option('--port <port>', 'of /healthz, /readyz and /metrics on 127.0.0.1; 0: any free one', parsePort, 0)
    .option('--drain-ms <ms>', 'how long jobs may go on after a signal', parseMs, 30_000)
    .option('--lease-ms <ms>', 'how long a job is held without a sign of life', parseCount, 30_000)
    .addOption(
      new Option('--env <names>', 'variables that functions may ask for, comma-separated').argParser(parseNames).default([], 'none'),
    )
    .addOption(new Option('--network <access>', 'what functions may have when they ask for it').choices(['none', 'open']).default('none'))
    .option('--package-bytes-max <bytes>', 'packages that are kept on disk (default: 2 GiB)', parseBytes)
    .option('--once', 'one job, then it ends')
    .option('--job <file>', 'with --once: the job, instead of one of a control plane')
    .addOption(new JsonEvents('print news as JSON lines'))
    .addHelpText('after', EXAMPLES)
    .action((flags: WorkerFlags) => run(cli, flags));
}

async function run(cli: Cli, flags: WorkerFlags): Promise<void> {
  if (flags.job !== undefined && flags.once === undefined) throw new RunnerError('CONFIG_INVALID', '--job needs --once');
  try {
    const session = new Session(cli, flags);
    await session.run();
  } catch (thrown) {
    fail(cli, flags, thrown);
  }
}

function fail(cli: Cli, { json }: WorkerFlags, thrown: unknown): void {
  const error = toRunnerError(thrown);
  const isTicket = error.code.startsWith('TICKET_') || error.code === 'IDENTITY_UNPROVEN';
  cli.exitCode = isTicket ? 2 : 1;
  printError(cli.io, json ? 'events' : 'text', error);
}

interface WorkParts extends Pick<FunctionsOptions, 'telemetry'> {
  readonly functions: WorkerFunctions;
  readonly lifecycle: WorkerLifecycle;
}

/** One run of the command. */
class Session {
  readonly #cli: Cli;
  readonly #flags: WorkerFlags;
  readonly #stop = new AbortController();
  #lifecycle: WorkerLifecycle | undefined;
  #hasJob = false;
  #unready: HealthOptions['unready'] = () => ({ queue: 'it is not enrolled yet' });

  constructor(cli: Cli, flags: WorkerFlags) {
    this.#cli = cli;
    this.#flags = flags;
  }

  async run(): Promise<void> {
    const { io } = this.#cli;
    const { port } = this.#flags;
    const { createLogger, createMetrics, createStartSpan, serveHealth, runJobFile, WorkerLifecycle: Lifecycle } = await load();
    const metrics = createMetrics();
    const telemetry = { log: await createLogger({ level: logLevelOf(io) }), metrics, startSpan: await createStartSpan() };
    const parts = { ...this.#settings(), telemetry };
    if (this.#flags.job !== undefined) {
      const text = Buffer.from(await runJobFile(resolve(io.cwd, this.#flags.job), parts)).toString('utf8');
      io.stdout.write(this.#flags.json ? `${toJson({ event: 'result', body: text }, 0)}\n` : `${text}\n`);
      return;
    }
    this.#listenToSignals();
    const lifecycle = (this.#lifecycle = new Lifecycle(metrics));
    const health = await serveHealth({ port, metrics, unready: () => this.#unready() });
    this.#tell('started', { pid: process.pid, health: health.url });
    try {
      await this.#serve(parts, lifecycle);
    } finally {
      await health.close();
    }
  }

  async #serve(parts: Omit<FunctionsOptions, 'objects'>, lifecycle: WorkerLifecycle): Promise<void> {
    const { openFunctions } = await load();
    const connected = await this.#connect(parts);
    if (!connected) return;
    try {
      const functions = await openFunctions({ ...parts, objects: connected.objects, control: connected.control });
      try {
        await this.#work(connected, { ...parts, functions, lifecycle });
      } finally {
        await functions.close();
      }
    } catch (thrown) {
      // To leave may take long, and ends the process then.
      fail(this.#cli, this.#flags, thrown);
    } finally {
      await this.#leave(connected.queue);
    }
  }

  async #work({ queue, workerId, send }: Connected, { telemetry, functions, lifecycle }: WorkParts): Promise<void> {
    const { backend, concurrency, capabilities, leaseMs, drainMs, once } = this.#flags;
    const { Worker, Heartbeat, workerReport } = await load();
    const worker = new Worker({
      queue,
      workerId,
      handler: functions.handler,
      ...(once ? { concurrency: 1, jobsMax: 1 } : { concurrency }),
      capabilities,
      leaseMs,
      telemetry,
      onEvent: (event) => {
        this.#news(event);
        if (!once || event.kind !== 'ended') return;
        this.#cli.exitCode = event.outcome === 'completed' ? 0 : 1;
        void worker.drain(drainMs);
      },
    });
    this.#unready = () => ({
      queue: worker.state === 'ready' ? undefined : `the worker is ${worker.state}`,
      ...(functions.unready && { engines: functions.unready() }),
    });
    const heartbeat = new Heartbeat({ send, report: () => workerReport({ worker, lifecycle, backend, concurrency }) });
    heartbeat.start();
    if (!this.#stop.signal.aborted) worker.start();
    const drain = (): void => void worker.drain(drainMs);
    this.#stop.signal.addEventListener('abort', drain, { once: true });
    if (this.#stop.signal.aborted) drain();
    try {
      await worker.ended;
    } finally {
      await functions.close();
      this.#tell('drained', { ...(await worker.drain(drainMs)) });
      await heartbeat.stop();
    }
  }

  /** Undefined: it was told to end before anybody answered. */
  async #connect({ folder, telemetry }: Pick<FunctionsOptions, 'folder' | 'telemetry'>): Promise<Connected | undefined> {
    const { connectWorker } = await load();
    const { signal } = this.#stop;
    try {
      const { ticket: text = this.#cli.io.env['CONTROL_PLANE_TICKET'], ticketFile } = this.#flags;
      const onWait = ({ code, message }: RunnerError): void => this.#tell('waiting', { code, reason: message });
      const connected = await connectWorker({ ticket: { text, file: ticketFile }, folder, telemetry, signal, onWait });
      this.#tell('enrolled', { workerId: connected.workerId });
      return connected;
    } catch (thrown) {
      if (signal.aborted) return undefined;
      throw thrown;
    }
  }

  /** A request that nobody answers must not keep the process. */
  async #leave(queue: WorkQueue): Promise<void> {
    const late = setTimeout(() => process.exit(this.#cli.exitCode), LEAVE_MS);
    await queue.close();
    clearTimeout(late);
  }

  #news(event: WorkerEvent): void {
    const { kind, at: _, ...rest } = event;
    if (kind === 'ended' && !this.#hasJob) {
      this.#hasJob = true;
      this.#tell('first-job', rest);
    }
    // What is told of each job is for programs.
    if (this.#flags.json || (kind !== 'claimed' && kind !== 'ended' && kind !== 'returned')) this.#tell(kind, rest);
  }

  /** With the time since the process was started. */
  #tell(event: string, fields: Readonly<Record<string, unknown>>): void {
    const { stdout } = this.#cli.io;
    const sinceStartMs = Math.round(process.uptime() * 1_000);
    const step = STEPS[event];
    if (step) this.#lifecycle?.reached(step, sinceStartMs);
    if (this.#flags.json) stdout.write(`${toJson({ event, at: Date.now(), sinceStartMs, ...fields }, 0)}\n`);
    else stdout.write(`${event.padEnd(12)} ${`${sinceStartMs} ms`.padEnd(10)} ${fieldsText(fields)}`.trimEnd() + '\n');
  }

  #listenToSignals(): void {
    for (const name of ['SIGINT', 'SIGTERM'] as const) {
      process.on(name, () => {
        if (this.#stop.signal.aborted) process.exit(SIGNALS[name]);
        this.#stop.abort();
      });
    }
    whenUnread(() => this.#stop.abort());
  }

  #settings(): Omit<FunctionsOptions, 'objects' | 'telemetry'> {
    const { io } = this.#cli;
    const { backend, concurrency, env, network, packageBytesMax } = this.#flags;
    const environment: Record<string, string> = {};
    for (const name of env) {
      const value = io.env[name];
      if (value === undefined) throw new RunnerError('CONFIG_INVALID', `--env names ${name}, which is not set here`);
      environment[name] = value;
    }
    const engines = (io.env['BPR_WASM_URL'] ?? io.env['FLAWLESS_URL'])?.split(',').map((url) => url.trim());
    const engineToken = io.env['BPR_WASM_TOKEN'];
    return { folder: folderOf(io, this.#flags), backend, concurrency, environment, network, packageBytesMax, engines, engineToken };
  }
}

/** `released 2, outcome completed`: milliseconds whole. */
function fieldsText(fields: Readonly<Record<string, unknown>>): string {
  const shown = (value: unknown): string => {
    if (typeof value === 'number') return String(Math.round(value));
    return typeof value === 'string' ? value : toJson(value, 0);
  };
  return Object.entries(fields)
    .flatMap(([name, value]) => (value === undefined ? [] : [`${name} ${shown(value)}`]))
    .join(', ');
}

async function load() {
  const [{ createMetrics }, { createLogger }, { createStartSpan }, session, { Worker }, { Heartbeat }, { WorkerLifecycle: Lifecycle }] =
    await Promise.all([
      import('../../telemetry/prometheus.ts'),
      import('../../telemetry/pino.ts'),
      import('../../telemetry/otel.ts'),
      import('../worker-session.ts'),
      import('../../worker/worker.ts'),
      import('../../worker/heartbeat.ts'),
      import('../../worker/worker-metrics.ts'),
    ]);
  const { connectWorker, openFunctions, runJobFile, serveHealth, workerReport } = session;
  const worker = { Worker, Heartbeat, WorkerLifecycle: Lifecycle, workerReport };
  return { createMetrics, createLogger, createStartSpan, connectWorker, openFunctions, runJobFile, serveHealth, ...worker };
}

/** Functions may run for a quarter of an hour; nobody has to cut them off. */
function parseMs(text: string): number {
  if (!/^\d{1,7}$/.test(text)) throw new InvalidArgumentError('It must be milliseconds, from 0 to 9999999.');
  return Number(text);
}

function parseNames(text: string): readonly string[] {
  const names = text.split(',').map((name) => name.trim());
  if (names.some((name) => !/^[A-Za-z0-9._:/=-]{1,64}$/.test(name))) throw new InvalidArgumentError('It must be names, comma-separated.');
  return names;
}

function folderOf(io: Io, { data }: WorkerFlags): string {
  const folder = data === undefined ? join(baseFolder(io), 'worker') : resolve(io.cwd, data);
  atPath({ path: folder, flag: '--data, or its base with BPR_DATA_DIR' }, () => {
    // Users of instances pass through it to what is theirs.
    makeFolder(folder, 0o711);
    chmodSync(folder, 0o711);
  });
  return folder;
}
