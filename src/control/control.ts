/** The control plane: the queue, the tickets and the workers of many machines behind one HTTP address. */

import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { isLoopbackName } from '../gateway/checks.ts';
import { errorDocument, json, retryHeaders, statusOf } from '../gateway/http.ts';
import type { Reply, Route } from '../gateway/http.ts';
import { Router } from '../gateway/router.ts';
import { GatewayServer } from '../gateway/server.ts';
import type { ServerLimits, TlsOptions } from '../gateway/server.ts';
import { EmbeddedQueue } from '../queue/embedded.ts';
import { openIdentity } from '../queue/identity.ts';
import type { WorkQueue } from '../queue/queue.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { Access } from './access.ts';
import { enrolRoutes } from './enrol-api.ts';
import { openToken } from './files.ts';
import { Polls } from './polls.ts';
import { queueRoutes } from './queue-api.ts';
import { Registry } from './registry.ts';
import { systemRoutes } from './system-api.ts';
import { Tickets } from './tickets.ts';

export interface ControlLimits extends ServerLimits {
  /** Of one request with jobs or results; in base64 they take a third more than their bytes. */
  readonly bodyBytesMax: number;
  /** Requests that wait for jobs or results: of all callers, of one. */
  readonly pollsMax: number;
  readonly pollsPerCallerMax: number;
  /** How long one of them waits at most. */
  readonly waitMsMax: number;
}

export interface ControlPlaneOptions {
  /** Holds the queue, keys, tickets, workers; of one control plane at a time. It is made. */
  readonly folder: string;
  /** Default: an `EmbeddedQueue` in the folder, which is closed with the control plane. */
  readonly queue?: WorkQueue;
  /** Default: `endpoint.ticket` in the folder. */
  readonly ticketFile?: string;
  /** Of the ticket in the file. Default: 1,000 workers, 30 days. */
  readonly fileTicket?: { readonly uses?: number; readonly validMs?: number };
  readonly limits?: Partial<ControlLimits>;
  /** Of a session. Default an hour. */
  readonly sessionMs?: number;
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
  /** Where workers reach it, for tickets. Default: where it listens. */
  readonly urls?: readonly string[];
  readonly tls?: TlsOptions;
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
  bodiesBytesMax: 512 * MIB,
  bodyBytesMax: 64 * MIB,
  pollsMax: 20_000,
  pollsPerCallerMax: 5_000,
  waitMsMax: 30_000,
};
const FILE_TICKET = { uses: 1_000, validMs: 30 * 86_400_000 };
const CLOSE_MS = 10_000;

interface Parts {
  readonly registry: Registry;
  readonly queue: WorkQueue;
  readonly server: GatewayServer;
  readonly tickets: Tickets;
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
  #closing: Promise<void> | undefined;

  /** Does no I/O. */
  constructor(options: ControlPlaneOptions) {
    this.#options = options;
    this.#limits = { ...LIMITS_DEFAULT, ...options.limits };
    this.#clock = options.clock ?? systemClock;
    this.#telemetry = options.telemetry ?? silentTelemetry;
  }

  /** Once it listens. */
  get tickets(): Tickets {
    if (this.#parts) return this.#parts.tickets;
    throw new RunnerError('STATE_INVALID', 'the control plane does not listen yet');
  }

  /**
   * Opens what was stored and listens. Resolves with the URL, without a slash at its end. Rejects with `CONFIG_INVALID`, and with
   * `QUEUE_LOCKED` when another control plane runs on the folder.
   */
  async listen({ host = '127.0.0.1', port = 3020, urls, tls }: ControlAddress = {}): Promise<string> {
    if (this.#parts) throw new RunnerError('STATE_INVALID', 'the control plane listens, or has listened, already');
    if (!isLoopbackName(host) && !tls)
      throw new RunnerError('CONFIG_INVALID', `${host} is not a loopback address: a control plane is served there with TLS only`, {
        details: { host },
      });
    const { folder, random = randomBytes } = this.#options;
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const identity = openIdentity(join(folder, 'control.key'));
    const registry = Registry.open(folder);
    const queue =
      this.#options.queue ?? EmbeddedQueue.open({ folder: join(folder, 'queue'), clock: this.#clock, telemetry: this.#telemetry });
    const clock = this.#clock;
    const access = new Access({
      registry,
      identity,
      operators: [{ name: 'admin', token: openToken(join(folder, 'admin.token'), random), scopes: ['admin'] }],
      clock,
      random,
      ...(this.#options.sessionMs !== undefined && { sessionMs: this.#options.sessionMs }),
    });
    const server = this.#server({ access, queue, registry });
    const address = await server.listen({ host, port, ...(tls && { tls }) });
    const name = address.family === 'IPv6' ? `[${address.address}]` : address.address;
    const url = `${tls ? 'https' : 'http'}://${name}:${address.port}`;
    const tickets = new Tickets({
      registry,
      access,
      identity,
      clock,
      random,
      address: { urls: urls ?? [url] },
      file: this.#options.ticketFile ?? join(folder, 'endpoint.ticket'),
      fileTicket: { ...FILE_TICKET, ...this.#options.fileTicket },
    });
    this.#parts = { registry, queue, server, tickets };
    await tickets.openFile();
    this.#telemetry.log.info('the control plane listens', { url });
    return url;
  }

  /** Answers who waits, lets requests finish until the deadline (default 10,000 ms), closes what it opened. Idempotent. */
  close(deadlineMs = CLOSE_MS): Promise<void> {
    return (this.#closing ??= this.#close(deadlineMs));
  }

  async #close(deadlineMs: number): Promise<void> {
    if (!this.#parts) return;
    const { server, queue, registry } = this.#parts;
    await server.close(deadlineMs);
    if (!this.#options.queue) await queue.close();
    await registry.close();
  }

  #server({ access, queue, registry }: { readonly access: Access; readonly queue: WorkQueue; readonly registry: Registry }): GatewayServer {
    const { metrics } = this.#telemetry;
    const limits = this.#limits;
    const waiting = metrics.gauge({ name: 'blueprint_control_polls', help: 'Requests that wait for jobs or results.' });
    const polls = new Polls({ clock: this.#clock, ...limits, waiting });
    const told = { contentBytesMax: queue.limits.contentBytesMax, bodyBytesMax: limits.bodyBytesMax, waitMsMax: limits.waitMsMax };
    const routes: Route[] = [
      ...queueRoutes({ queue, polls, ...limits }),
      ...enrolRoutes({ access, now: () => this.#clock.now(), limits: told }),
      ...systemRoutes({
        version: this.#options.version ?? '0.0.0',
        limits: told,
        metrics: this.#options.metrics ?? (async () => ''),
        routes: () => routes,
        isClosing: () => server.closing.aborted,
        check: () => Promise.all([registry.check(), queue.stats()]),
      }),
    ];
    const server = new GatewayServer({
      router: new Router(routes),
      authenticator: access,
      limits,
      corsOrigins: [],
      clock: this.#clock,
      telemetry: this.#telemetry,
      noun: 'the control plane',
      metricsPrefix: 'blueprint_control',
      failure: tell,
    });
    return server;
  }
}

/** With what another attempt means: the queue of a worker says it to its own callers. */
function tell(error: RunnerError, { id }: { readonly id: string }): Reply {
  const { error: shown } = errorDocument(error, id);
  return json(statusOf(error), { error: { ...shown, retry: error.retry } }, retryHeaders(error));
}
