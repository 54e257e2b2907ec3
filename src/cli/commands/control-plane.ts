import { readFileSync } from 'node:fs';
import { hostname, networkInterfaces } from 'node:os';
import { join, resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import { systemClock } from '../../clock.ts';
import { RunnerError } from '../../errors.ts';
import type { SharedQueue } from '../../queue/shared-queue.ts';
import type { PrometheusMetrics } from '../../telemetry/prometheus.ts';
import type { Telemetry } from '../../telemetry/telemetry.ts';
import { parseCount, parsePort } from '../calls.ts';
import { collect, controlFolder, parseSpan } from '../control-access.ts';
import { logLevelOf } from '../log-level.ts';
import { JsonEvents, toJson } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { QUEUE_HELP, openQueue, withQueueFlags } from '../queue-flags.ts';
import type { QueueFlags } from '../queue-flags.ts';
import { untilSignal } from '../signals.ts';
import { ownVersion } from '../version.ts';

interface ControlPlaneFlags extends QueueFlags {
  readonly host: string;
  readonly port?: number;
  readonly data?: string;
  readonly objects?: string;
  readonly ticketFile?: string;
  readonly ticketUses: number;
  readonly ticketDuration: number;
  readonly hostname?: readonly string[];
  readonly url?: readonly string[];
  readonly tls?: true;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly engine?: readonly string[];
  readonly keep: number;
  readonly session?: number;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr control-plane                                  for workers on this machine, at http://127.0.0.1:3020
  bpr control-plane --host 0.0.0.0                   for workers elsewhere, with TLS and a certificate of its own that tickets pin
  bpr control-plane --host 0.0.0.0 --hostname jobs.example.org
  bpr control-plane --url https://jobs.example.org   behind a proxy that ends TLS
  bpr control-plane --queue nats --nats tls://n1:4222,tls://n2:4222,tls://n3:4222 --nats-replicas 3 --nats-creds control.creds
  bpr control-plane --engine http://127.0.0.1:27288  workers with --backend engine and no BPR_WASM_URL call it through the control plane
  CONTROL_PLANE_TICKET=$(cat ~/.blueprint-runner/control/endpoint.ticket) bpr worker

It holds a work queue that survives everything but the loss of its disk. When it listens it prints its address and its node id: the hash of
its public key, which its tickets name. The folder (--data) holds the queue, objects, keys, tickets, and
  endpoint.ticket   for workers: written anew at each start when it is not good any more
  admin.token       the operator's, for bpr ticket and bpr queue: Authorization: Bearer
  metrics.token     for Prometheus: GET /metrics and nothing else
all of them readable for their owner only. GET /healthz, /readyz and /openapi.json ask for no token. SIGTERM or SIGINT answers who waits and
lets requests finish; a second one ends at once. Workers go on without it, and deliver when it is back.
${QUEUE_HELP}

Environment: BPR_DATA_DIR (the folder is its subfolder control); BPR_WASM_TOKEN: the key that engines ask for; HTTP_PORT; IROH_BLOBS_PATH;
LOG_LEVEL, or RUST_LOG (default warn).

Exit status: 0 ended by a signal; 1 it could not start; 2 called in a wrong way; 130 or 143 ended at once by a second signal.`;

const PORT = 3020;
const DRAIN_MS = 30_000;

/** `bpr control-plane`: the work queue of many machines. */
export function addControlPlane(program: Command, { io }: Cli): void {
  withQueueFlags(program.command('control-plane'))
    .description('serve a work queue to workers with tickets')
    .option('--host <address>', 'where to listen; anything but loopback is served with TLS', '127.0.0.1')
    .option('--port <port>', '0: any free one (default: HTTP_PORT, or 3020)', parsePort)
    .option('--data <dir>', 'its folder (default: BPR_DATA_DIR/control, or ~/.blueprint-runner/control)')
    .option('--objects <dir>', 'where large payloads, results and packages lie (default: IROH_BLOBS_PATH, or objects in the folder)')
    .option('--ticket-file <file>', 'where the ticket for workers is written (default: endpoint.ticket in the folder)')
    .option('--ticket-uses <count>', 'workers that may enrol with it', parseCount, 1_000)
    .addOption(new Option('--ticket-duration <span>', 'how long they may').argParser(parseSpan).default(30 * 86_400_000, '30d'))
    .option(
      '--hostname <name>',
      'a name or address of this machine for tickets; several by repeating (default: all of its addresses)',
      collect,
    )
    .option('--url <url>', 'an address for tickets in place of them, such as that of a proxy; several by repeating', collect)
    .option('--tls', 'TLS with a certificate of its own on loopback, too')
    .option('--tls-cert <file>', 'certificate, PEM, in place of its own')
    .option('--tls-key <file>', 'its key, PEM')
    .option(
      '--engine <url>',
      'an engine that it calls for workers which do not reach it (scope engines), or dns+http://name:port; several by repeating',
      collect,
    )
    .addOption(new Option('--keep <span>', 'how long jobs that ended are remembered').argParser(parseSpan).default(7 * 86_400_000, '7d'))
    .option('--session <span>', 'how long a worker may be silent before it enrols again (default: 1h, with NATS 10m)', parseSpan)
    .addOption(new JsonEvents('print one JSON line when it listens'))
    .addHelpText('after', EXAMPLES)
    .action((flags: ControlPlaneFlags) => serve(io, flags));
}

async function serve(io: Io, flags: ControlPlaneFlags): Promise<void> {
  const { port = portOf(io) } = flags;
  const objects = objectsFolder(io, flags);
  const [{ createMetrics }, { createLogger }] = await Promise.all([
    import('../../telemetry/prometheus.ts'),
    import('../../telemetry/pino.ts'),
  ]);
  const metrics = createMetrics();
  const telemetry = { log: await createLogger({ level: logLevelOf(io) }), metrics, startSpan: undefined };
  const queue = await openQueue(io, flags, { clock: systemClock, telemetry });
  try {
    await serveQueue(io, flags, { port, objects, metrics, telemetry, queue });
  } finally {
    // Its connections keep the process.
    await queue?.close();
  }
}

interface Parts {
  readonly port: number;
  /** Their folder. */
  readonly objects: string | undefined;
  readonly metrics: PrometheusMetrics;
  readonly telemetry: Telemetry;
  readonly queue: SharedQueue | undefined;
}

/** Until a signal. */
async function serveQueue(io: Io, flags: ControlPlaneFlags, { port, objects, metrics, telemetry, queue }: Parts): Promise<void> {
  const folder = controlFolder(io, flags.data);
  const ticketFile = flags.ticketFile === undefined ? join(folder, 'endpoint.ticket') : resolve(io.cwd, flags.ticketFile);
  const [{ ControlPlane }, { FolderObjects }] = await Promise.all([
    import('../../control/control.ts'),
    import('../../queue/folder-objects.ts'),
  ]);
  const control = new ControlPlane({
    ...(queue && { queue }),
    ...(objects !== undefined && { objects: new FolderObjects({ folder: objects }) }),
    ...(flags.session !== undefined && { sessionMs: flags.session }),
    folder,
    ticketFile,
    fileTicket: { uses: flags.ticketUses, validMs: flags.ticketDuration },
    keepMs: flags.keep,
    ...(flags.engine && { engines: { urls: flags.engine.flatMap((urls) => urls.split(',')), token: io.env['BPR_WASM_TOKEN'] } }),
    telemetry,
    metrics: () => metrics.expose(),
    version: ownVersion(),
  });
  const stopped = untilSignal();
  const tls = tlsOf(io, flags);
  const { host, hostname: hosts = isWildcard(host) ? ownNames() : undefined, url: urls } = flags;
  const url = await control.listen({ host, port, ...(hosts && { hosts }), ...(urls && { urls }), ...(tls && { tls }) });
  const { nodeId } = control;
  if (flags.json) io.stdout.write(`${toJson({ event: 'listening', url, nodeId, folder, ticketFile }, 0)}\n`);
  else io.stdout.write(`control plane  ${url}\nnode id        ${nodeId}\nticket         ${ticketFile}\ndata           ${folder}\n`);
  await stopped;
  await control.close(DRAIN_MS);
}

/** Throws `CONFIG_INVALID`. */
function portOf({ env }: Io): number {
  const { HTTP_PORT: given = '' } = env;
  const port = given === '' ? PORT : Number(given);
  if (Number.isInteger(port) && port >= 0 && port < 65_536) return port;
  throw new RunnerError('CONFIG_INVALID', `HTTP_PORT is ${given}; it must be a whole number from 0 to 65535`);
}

/** Of a queue on this machine; NATS keeps its own. Throws `CONFIG_INVALID`. */
function objectsFolder({ env, cwd }: Io, { queue, objects }: ControlPlaneFlags): string | undefined {
  if (queue === 'nats') {
    if (objects === undefined) return undefined;
    throw new RunnerError('CONFIG_INVALID', '--objects is for a queue on this machine; with --queue nats they lie in NATS');
  }
  const { IROH_BLOBS_PATH: given = '' } = env;
  const folder = objects ?? given;
  return folder === '' ? undefined : resolve(cwd, folder);
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::';
}

/** The name, and the addresses that others can reach. */
function ownNames(): readonly string[] {
  const addresses = Object.values(networkInterfaces())
    .flatMap((list = []) => list)
    .filter(({ internal, scopeid }) => !internal && !scopeid)
    .map(({ address }) => address);
  return addresses.length > 0 ? [...new Set(addresses)] : [hostname()];
}

function tlsOf(io: Io, { tls, tlsCert, tlsKey }: ControlPlaneFlags): 'own' | { readonly cert: string; readonly key: string } | undefined {
  if (tlsCert === undefined && tlsKey === undefined) return tls && 'own';
  if (tlsCert === undefined || tlsKey === undefined) throw new RunnerError('CONFIG_INVALID', '--tls-cert and --tls-key belong together');
  const read = (path: string): string => {
    try {
      return readFileSync(resolve(io.cwd, path), 'utf8');
    } catch (cause) {
      throw new RunnerError('CONFIG_INVALID', `${path} cannot be read`, { cause });
    }
  };
  return { cert: read(tlsCert), key: read(tlsKey) };
}
