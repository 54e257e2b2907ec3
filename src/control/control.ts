/** The control plane: the queue, the tickets and the workers of many machines behind one HTTP address. */

import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { makeFolder } from '../folder.ts';
import { isLoopbackName } from '../gateway/checks.ts';
import { errorDocument, json, retryHeaders, statusOf } from '../gateway/http.ts';
import type { Reply, Route } from '../gateway/http.ts';
import { Router } from '../gateway/router.ts';
import { GatewayServer } from '../gateway/server.ts';
import type { ServerLimits } from '../gateway/server.ts';
import type { TlsOptions } from '../gateway/tls.ts';
import { EmbeddedQueue } from '../queue/embedded.ts';
import { FolderObjects } from '../queue/folder-objects.ts';
import { openIdentity } from '../queue/identity.ts';
import type { Identity } from '../queue/identity.ts';
import type { ObjectStore, WorkQueue } from '../queue/queue.ts';
import { isSharedQueue } from '../queue/shared-queue.ts';
import type { KeyedObjects } from '../queue/shared-queue.ts';
import { isLoopbackUrl } from '../queue/ticket.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { Access } from './access.ts';
import { adminRoutes } from './admin-api.ts';
import { keySha256Of, openCertificate } from './certificate.ts';
import { collection, forgetting } from './collect.ts';
import { engineRoutes } from './engine-api.ts';
import { Engines } from './engines.ts';
import type { EngineLimits } from './engines.ts';
import { enrolRoutes } from './enrol-api.ts';
import { openToken, writeSecretFile } from './files.ts';
import { objectRoutes } from './objects-api.ts';
import { Polls } from './polls.ts';
import { queueRoutes } from './queue-api.ts';
import { Registry } from './registry.ts';
import { Revocations } from './revocations.ts';
import { systemRoutes } from './system-api.ts';
import { Tickets } from './tickets.ts';
import { Upkeep } from './upkeep.ts';
import { typeMetricsText } from './metrics.ts';
import { Workers } from './workers.ts';

export interface ControlLimits extends ServerLimits, EngineLimits {
  /** Of one request with jobs or results; in base64 they take a third more than their bytes. */
  readonly bodyBytesMax: number;
  /** Of one object. */
  readonly objectBytesMax: number;
  /** Requests that wait for jobs or results: of all callers, of one. */
  readonly pollsMax: number;
  readonly pollsPerCallerMax: number;
  /** How long one of them waits at most. */
  readonly waitMsMax: number;
}

export interface ControlPlaneOptions {
  /** Holds the queue, keys, tickets, workers; of one control plane at a time. It is made. */
  readonly folder: string;
  /**
   * Default: an `EmbeddedQueue` in the folder, which is closed with the control plane. A `SharedQueue` is reconciled now and then, and its
   * workers speak to its servers themselves.
   */
  readonly queue?: WorkQueue;
  /** Default: `endpoint.ticket` in the folder. */
  readonly ticketFile?: string;
  /** Of the ticket in the file. Default: 1,000 workers, 30 days. */
  readonly fileTicket?: { readonly uses?: number; readonly validMs?: number };
  readonly limits?: Partial<ControlLimits>;
  /** Of a session; what a worker may do at the servers of a queue ends with it. Default: an hour, ten minutes with a `SharedQueue`. */
  readonly sessionMs?: number;
  /** Jobs that ended longer ago are forgotten, with the objects that are theirs alone; dead ones stay. Default: a week. */
  readonly keepMs?: number;
  /** Default: that of a `SharedQueue`, otherwise in the folder. */
  readonly objects?: ObjectStore & KeyedObjects;
  /** Which it calls for workers that do not reach them, and the key that these ask for. Default: none. */
  readonly engines?: { readonly urls: readonly string[]; readonly token?: string | undefined };
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
  /** Text of `/metrics`. */
  readonly metrics?: () => Promise<string>;
  readonly version?: string;
  readonly random?: (bytes: number) => Uint8Array;
}

export interface ControlAddress {
  /** Default 127.0.0.1. Any other than a loopback address is served with TLS. */
  readonly host?: string;
  /** Default 3020; 0 takes a free one. */
  readonly port?: number;
  /** Names or addresses of this machine by which workers reach it, for tickets. Default: `host`. */
  readonly hosts?: readonly string[];
  /** In place of them, such as those of a proxy: https, or http on loopback. */
  readonly urls?: readonly string[];
  /** `own`: a key and certificate of its own, made once; tickets pin the key. The default where it listens beyond loopback. */
  readonly tls?: TlsOptions | 'own';
}

const MIB = 1024 * 1024;
const LIMITS_DEFAULT: ControlLimits = {
  requestsPerSecond: 50_000,
  burst: 50_000,
  concurrent: 10_000,
  connectionsMax: 20_000,
  headerBytesMax: 16 * 1024,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 120_000,
  keepAliveMs: 65_000,
  stallMs: 30_000,
  bodiesBytesMax: 1_024 * MIB,
  bodyBytesMax: 64 * MIB,
  objectBytesMax: 256 * MIB,
  pollsMax: 20_000,
  pollsPerCallerMax: 5_000,
  waitMsMax: 30_000,
  engineCallsMax: 1_000,
  engineCallsPerCallerMax: 500,
};
const FILE_TICKET = { uses: 1_000, validMs: 30 * 86_400_000 };
const CLOSE_MS = 10_000;
const RECONCILE_MS = 60_000;
const SWEEP_MS = 5_000;
const RENEW_MS = 600_000;
const REMIND_MS = 10_000;
/** Of a session, where workers speak to servers that may end it only when its time is over. */
const SHARED_SESSION_MS = 600_000;
const KEEP_MS = 7 * 86_400_000;
/** For commands on the same machine. */
const ADDRESS_FILE = 'control.json';

interface Parts {
  readonly registry: Registry;
  readonly queue: WorkQueue;
  readonly objects: ObjectStore & KeyedObjects;
  readonly access: Access;
  readonly workers: Workers;
  readonly polls: Polls;
  readonly engines: Engines | undefined;
  /** Of a `SharedQueue`. */
  readonly revocations: Revocations | undefined;
}

/**
 * Serves a work queue to publishers and workers elsewhere. What was acknowledged is there again after a restart, and so are keys, tickets,
 * revocations and sessions.
 *
 * @example
 * const control = new ControlPlane({ folder: '/var/lib/bpr/control' });
 * const url = await control.listen({ port: 3020 });
 * const { ticket } = await control.tickets.create({ uses: 5 });
 * await control.close();
 */
export class ControlPlane {
  readonly #options: ControlPlaneOptions;
  readonly #limits: ControlLimits;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  #parts: Parts | undefined;
  #server: GatewayServer | undefined;
  #tickets: Tickets | undefined;
  #nodeId: string | undefined;
  #hasStarted = false;
  #closing: Promise<void> | undefined;
  readonly #upkeep: Upkeep;

  /** Does no I/O. */
  constructor(options: ControlPlaneOptions) {
    this.#options = options;
    this.#limits = { ...LIMITS_DEFAULT, ...options.limits };
    this.#clock = options.clock ?? systemClock;
    this.#telemetry = options.telemetry ?? silentTelemetry;
    this.#upkeep = new Upkeep({ clock: this.#clock, log: this.#telemetry.log });
  }

  /** Once it listens. */
  get tickets(): Tickets {
    if (this.#tickets) return this.#tickets;
    throw new RunnerError('STATE_INVALID', 'the control plane does not listen yet');
  }

  /** The hash of its public key, which its tickets name. Once it listens. */
  get nodeId(): string {
    if (this.#nodeId !== undefined) return this.#nodeId;
    throw new RunnerError('STATE_INVALID', 'the control plane does not listen yet');
  }

  /**
   * Opens what was stored and listens. Resolves with the URL, without a slash at its end. Rejects with `CONFIG_INVALID`, and with
   * `QUEUE_LOCKED` when another control plane runs on the folder.
   */
  async listen({ host = '127.0.0.1', port = 3020, hosts, urls, tls: wanted }: ControlAddress = {}): Promise<string> {
    if (this.#hasStarted) throw new RunnerError('STATE_INVALID', 'the control plane listens, or has listened, already');
    this.#hasStarted = true;
    const { folder, random = randomBytes } = this.#options;
    const names = hosts ?? (urls ? checkUrls(urls).map((url) => new URL(url).hostname) : [host]);
    if (names.some(isWildcard))
      throw new RunnerError('CONFIG_INVALID', `${host} is every address of this machine; say under which of them workers reach it`);
    makeFolder(folder, 0o700);
    const isOwn = wanted === 'own' || (wanted === undefined && !isLoopbackName(host));
    const tls = isOwn ? openCertificate(folder, [...new Set([...names, 'localhost', '127.0.0.1'])], this.#clock.now()) : wanted;
    try {
      const identity = openIdentity(join(folder, 'control.key'));
      const parts = this.#open(identity);
      this.#parts = parts;
      const server = (this.#server = this.#makeServer(parts));
      const address = await server.listen({ host, port, ...(typeof tls === 'object' && { tls }) });
      const scheme = tls ? 'https' : 'http';
      const urlOf = (name: string): string => `${scheme}://${name.includes(':') ? `[${name}]` : name}:${address.port}`;
      const own = urlOf(isWildcard(host) ? '127.0.0.1' : host);
      const tlsKeySha256 = typeof tls === 'object' ? keySha256Of(tls.cert) : undefined;
      const tickets = new Tickets({
        ...parts,
        identity,
        clock: this.#clock,
        random,
        address: { urls: checkUrls(urls ?? names.map(urlOf)), tlsKeySha256 },
        file: this.#options.ticketFile ?? join(folder, 'endpoint.ticket'),
        fileTicket: { ...FILE_TICKET, ...this.#options.fileTicket },
        scopes: ['claim', 'publish', 'objects', ...(parts.engines ? (['engines'] as const) : [])],
      });
      await tickets.openFile();
      this.#tickets = tickets;
      this.#nodeId = identity.id;
      writeSecretFile(join(folder, ADDRESS_FILE), JSON.stringify({ url: own, tlsKeySha256 }));
      this.#keepUp(parts);
      parts.engines?.watch();
      this.#telemetry.log.info('the control plane listens', { url: own });
      return own;
    } catch (thrown) {
      await this.close(0);
      throw thrown;
    }
  }

  /** Answers who waits, lets requests finish until the deadline (default 10,000 ms), closes what it opened. Idempotent. */
  close(deadlineMs = CLOSE_MS): Promise<void> {
    return (this.#closing ??= this.#close(deadlineMs));
  }

  async #close(deadlineMs: number): Promise<void> {
    await this.#server?.close(deadlineMs);
    await this.#parts?.engines?.close();
    await this.#upkeep.close();
    if (!this.#options.queue) await this.#parts?.queue.close();
    await this.#parts?.registry.close();
  }

  #open(identity: Identity): Parts {
    const { folder, random = randomBytes } = this.#options;
    const [clock, telemetry] = [this.#clock, this.#telemetry];
    const registry = Registry.open(folder);
    try {
      const queue = this.#options.queue ?? EmbeddedQueue.open({ folder: join(folder, 'queue'), clock, telemetry, sync: 'background' });
      const shared = isSharedQueue(queue) ? queue : undefined;
      const { sessionMs = shared && SHARED_SESSION_MS } = this.#options;
      const revocations =
        shared && new Revocations({ queue: shared, registry, clock, log: telemetry.log, sessionMs: sessionMs ?? SHARED_SESSION_MS });
      const objects = this.#options.objects ?? shared?.objects ?? new FolderObjects({ folder: join(folder, 'objects') });
      const { engines: given } = this.#options;
      const engines = given && new Engines({ ...given, ...this.#limits, objects, clock, telemetry });
      const workers = new Workers({ clock, registry, ...telemetry });
      const waiting = telemetry.metrics.gauge({ name: 'blueprint_control_polls', help: 'Requests that wait for jobs or results.' });
      const polls = new Polls({ clock, ...this.#limits, waiting, onWait: (id) => workers.waits(id) });
      const token = (name: string): string => openToken(join(folder, `${name}.token`), random);
      const access = new Access({
        registry,
        identity,
        operators: [
          { name: 'admin', token: token('admin'), scopes: ['session', 'admin'] },
          { name: 'metrics', token: token('metrics'), scopes: ['metrics'] },
        ],
        clock,
        random,
        ...(sessionMs !== undefined && { sessionMs }),
        ...(shared && { grant: (worker) => shared.grant(worker) }),
        ...(revocations && { afterEnd: () => revocations.tell() }),
        onSeen: (workerId) => workers.seen(workerId),
        onEnded: (workerId) => {
          polls.end(workerId);
          engines?.end(workerId);
          workers.ended(workerId);
        },
      });
      return { registry, queue, objects, access, workers, polls, engines, revocations };
    } catch (thrown) {
      // Nothing was written that would have to be waited for.
      void registry.close();
      throw thrown;
    }
  }

  #makeServer({ registry, queue, objects, access, workers, polls, engines }: Parts): GatewayServer {
    const { metrics } = this.#telemetry;
    const [clock, limits] = [this.#clock, this.#limits];
    const oldest = metrics.gauge({ name: 'blueprint_queue_oldest_seconds', help: 'Age of the oldest job that could be handed out.' });
    const { bodyBytesMax, objectBytesMax, waitMsMax } = limits;
    const told = { contentBytesMax: queue.limits.contentBytesMax, bodyBytesMax, objectBytesMax, waitMsMax };
    const now = (): number => clock.now();
    const routes: Route[] = [
      ...queueRoutes({ queue, polls, ...limits }),
      ...enrolRoutes({ access, now, limits: told, hasEngines: engines !== undefined }),
      ...(engines ? engineRoutes({ engines, bodyBytesMax, now }) : []),
      ...objectRoutes({ objects, objectBytesMax }),
      ...adminRoutes({ access, registry, workers, queue, now, tickets: () => this.tickets }),
      ...systemRoutes({
        version: this.#options.version ?? '0.0.0',
        limits: told,
        metrics: async () => {
          const stats = await queue.stats();
          const ofWorkers = workers.show(stats.workers);
          oldest.set(stats.oldestMs / 1_000);
          return ofWorkers + typeMetricsText(stats.byType ?? []) + ((await this.#options.metrics?.()) ?? '');
        },
        routes: () => routes,
        isClosing: () => server.closing.aborted,
        // Of no job: what is asked is whether the queue answers.
        check: () => Promise.all([registry.check(), queue.status('readyz')]),
        engines: () => engines && { ready: engines.list.filter(({ isReady }) => isReady).length, all: engines.list.length },
      }),
    ];
    const server = new GatewayServer({
      router: new Router(routes),
      authenticator: access,
      limits,
      corsOrigins: [],
      clock,
      telemetry: this.#telemetry,
      noun: 'the control plane',
      metricsPrefix: 'blueprint_control',
      failure: tell,
    });
    return server;
  }

  #keepUp({ queue, objects, workers, revocations }: Parts): void {
    this.#upkeep.add({ what: 'the ticket in the file is renewed', everyMs: RENEW_MS, run: () => this.tickets.renewFile() });
    this.#upkeep.add({ what: 'workers that are not heard of any more are told', everyMs: SWEEP_MS, run: async () => workers.sweep() });
    this.#upkeep.add(forgetting(queue, objects, this.#options.keepMs ?? KEEP_MS));
    const collecting = collection(queue, objects, this.#telemetry.log);
    if (collecting) this.#upkeep.add(collecting);
    if (!isSharedQueue(queue)) return;
    this.#upkeep.add({
      what: 'the servers are told which workers are revoked',
      everyMs: REMIND_MS,
      run: async () => void (await revocations?.remind()),
    });
    this.#upkeep.add({
      what: 'jobs that the servers forgot to hand out are queued again',
      everyMs: RECONCILE_MS,
      run: async () => {
        const jobs = await queue.reconcile();
        if (jobs > 0) this.#telemetry.log.warn('the servers had forgotten to hand out jobs; they are queued again', { jobs });
      },
    });
  }
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::' || host === '';
}

/** Throws `CONFIG_INVALID`: no worker would use them. */
function checkUrls(urls: readonly string[]): readonly string[] {
  const wrong = urls.find((url) => URL.parse(url)?.origin !== url || (!url.startsWith('https:') && !isLoopbackUrl(url)));
  if (wrong === undefined && urls.length > 0) return urls;
  throw new RunnerError('CONFIG_INVALID', `${wrong ?? 'nothing'} is no address for workers: https://host:port, or http on loopback`);
}

/** With what another attempt means: the queue of a worker says it to its own callers. */
function tell(error: RunnerError, { id }: { readonly id: string }): Reply {
  const { error: shown } = errorDocument(error, id);
  return json(statusOf(error), { error: { ...shown, retry: error.retry } }, retryHeaders(error));
}
