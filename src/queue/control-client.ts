/** A way to a control plane: finds it, enrols, keeps a session, and sends requests until they are answered. */

import { randomBytes } from 'node:crypto';
import type { Clock } from '../clock.ts';
import { systemClock } from '../clock.ts';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { HttpResponse } from '../http/http.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { ControlAddresses } from './control-addresses.ts';
import type { ControlPlace } from './control-addresses.ts';
import { challengeParts, enrolmentParts, isSignedBy, signParts } from './identity.ts';
import type { Identity } from './identity.ts';
import { standingOf } from './standing.ts';
import type { Standing } from './standing.ts';
import { readTicket } from './ticket.ts';
import type { Ticket } from './ticket.ts';
import { errorOfWire, fieldsOf } from './wire.ts';

/** With a ticket and a key of one's own, or with the operator's token. */
export type ControlCredentials =
  | {
      readonly ticket: string;
      readonly identity: Identity;
      /** The ticket as it is now, asked for while nobody answers: what one of the same control plane says of its place holds. */
      readonly latest?: () => Promise<string>;
    }
  | { readonly url: string; readonly token: string; readonly tlsKeySha256?: string | undefined };

export interface ControlClientOptions {
  readonly credentials: ControlCredentials;
  /** How long a request is repeated while nobody answers. Default 300,000. */
  readonly reconnectMs?: number;
  /** For one attempt, besides what it is to wait. Default 30,000. */
  readonly timeoutMs?: number;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
  readonly random?: (bytes: number) => Uint8Array;
}

export interface ControlRequest {
  readonly method?: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** Path and query. */
  readonly path: string;
  /** Sent as JSON; bytes as they are. */
  readonly body?: unknown;
  /** Of bytes. Default `application/octet-stream`. */
  readonly contentType?: string | undefined;
  /** Names and values in turn. */
  readonly headers?: readonly string[];
  /** How long the control plane may wait before it answers. Default 0. */
  readonly waitMs?: number;
  /** Ends the attempt that runs. */
  readonly signal?: AbortSignal | undefined;
  /** Ends only the pause before another attempt. */
  readonly patience?: AbortSignal | undefined;
  /** Whether it may be sent again when it is not known what became of it. Default true. */
  readonly isRepeatable?: boolean;
  /** It is sent again, and the attempt before may have done it already. */
  readonly onRepeat?: (() => void) | undefined;
  readonly responseBytesMax?: number;
}

interface Session {
  readonly authorization: string;
  readonly standing: Standing;
  /** By our clock. */
  readonly renewAt: number;
}

const PAUSE_MS = { first: 100, most: 5_000 };
const RESPONSE_BYTES_MAX = 512 * 1024 * 1024;
/** Somebody was there, or nobody was, and later it may be otherwise. */
const PASSING: ReadonlySet<string> = new Set([
  'EXECUTOR_UNREACHABLE',
  'EXECUTOR_CONNECTION_LOST',
  'EXECUTOR_TIMEOUT',
  'EXECUTOR_CLOSED',
  'EXECUTOR_UNAVAILABLE',
  'QUEUE_CLOSED',
  'RATE_LIMITED',
]);
/** Where it is not known whether the request was carried out. */
const UNKNOWN: ReadonlySet<string> = new Set(['EXECUTOR_CONNECTION_LOST', 'EXECUTOR_TIMEOUT', 'EXECUTOR_RESPONSE_INVALID']);

export class ControlClient {
  readonly #options: ControlClientOptions;
  readonly clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #random: (bytes: number) => Uint8Array;
  readonly #ticket: Ticket | undefined;
  #isFollowing = false;
  #addresses: ControlAddresses;
  #session: Session | undefined;
  #enrolling: Promise<Session> | undefined;
  #isDown = false;
  readonly #closing = new AbortController();

  /** Does no I/O. Throws `TICKET_MALFORMED`, `CONFIG_INVALID`. */
  constructor(options: ControlClientOptions) {
    const { credentials, clock = systemClock, telemetry = silentTelemetry, random = randomBytes } = options;
    this.#options = options;
    this.clock = clock;
    this.#telemetry = telemetry;
    this.#random = random;
    let place: ControlPlace;
    if ('ticket' in credentials) {
      this.#ticket = readTicket(credentials.ticket);
      place = this.#ticket;
    } else place = { urls: [credentials.url], tlsKeySha256: credentials.tlsKeySha256 };
    this.#addresses = new ControlAddresses(place, clock);
  }

  /** Fires when `close` is called. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  /** Of the last session; undefined before the first one. */
  get standing(): Standing | undefined {
    return this.#session?.standing;
  }

  /**
   * Enrols unless that is done. Waits for a control plane that is not there yet. Rejects with `EXECUTOR_UNREACHABLE` when none came, with
   * the codes of tickets, `IDENTITY_UNPROVEN`, `ABORTED`.
   */
  async connect(signal?: AbortSignal): Promise<Standing> {
    const until = this.#until();
    for (let failures = 0; ; failures += 1) {
      try {
        return (await this.#standing()).standing;
      } catch (thrown) {
        await this.#pause(thrown, { failures, until, signal });
      }
    }
  }

  /** The answer as JSON. Rejects as `send` does. */
  async ask(request: ControlRequest): Promise<Readonly<Record<string, unknown>>> {
    return this.#parse(await this.send(request));
  }

  /**
   * Sends it, again and again while nobody answers. Rejects with what the control plane said; `EXECUTOR_UNREACHABLE`,
   * `EXECUTOR_CONNECTION_LOST` or `EXECUTOR_TIMEOUT` when it did not come back within `reconnectMs`; `ABORTED`; `QUEUE_CLOSED` after `close`.
   */
  async send(request: ControlRequest): Promise<Uint8Array> {
    const until = this.#until();
    let mayEnrol = true;
    let isUnknown = false;
    for (let failures = 0; ; failures += 1) {
      let session: Session | undefined;
      try {
        session = this.#fresh() ?? (await this.#standing());
        return (await this.#attempt(request, session)).body;
      } catch (thrown) {
        if (!isRunnerError(thrown)) throw thrown;
        if (thrown.code === 'UNAUTHORIZED' && session && mayEnrol && this.#ticket) {
          mayEnrol = false;
          if (this.#session === session) this.#session = undefined;
          continue;
        }
        if (UNKNOWN.has(thrown.code) && session) {
          if (request.isRepeatable === false) throw thrown;
          request.onRepeat?.();
          isUnknown = request.method !== 'GET';
        }
        const error = isUnknown ? unknown(thrown) : thrown;
        await this.#pause(error, { failures, until, signal: request.patience ?? request.signal });
      }
    }
  }

  /** One attempt with a good session, for what must not be repeated unasked. Rejects as `send` does; safe: it was not carried out. */
  async exchange(request: ControlRequest): Promise<HttpResponse> {
    for (let mayEnrol = this.#ticket !== undefined; ; mayEnrol = false) {
      let session: Session | undefined;
      try {
        session = this.#fresh() ?? (await this.#standing());
        return await this.#attempt(request, session);
      } catch (thrown) {
        if (!session) throw unsent(thrown);
        if (!mayEnrol || !isRunnerError(thrown) || thrown.code !== 'UNAUTHORIZED') throw thrown;
        if (this.#session === session) this.#session = undefined;
      }
    }
  }

  /** One attempt of it, for news that are worth nothing later. */
  async sendOnce(request: ControlRequest): Promise<void> {
    await this.#attempt(request, this.#fresh() ?? (await this.#standing()));
  }

  /** What waits ends; what is under way is finished. Idempotent. */
  async close(): Promise<void> {
    this.stop();
    await this.#addresses.close();
  }

  /** No more attempts. */
  stop(): void {
    this.#closing.abort();
  }

  #until(): number {
    return this.clock.monotonic() + (this.#options.reconnectMs ?? 300_000);
  }

  #fresh(): Session | undefined {
    const session = this.#session;
    return session && this.clock.now() < session.renewAt ? session : undefined;
  }

  async #attempt(request: ControlRequest, { authorization }: Pick<Session, 'authorization'>): Promise<HttpResponse> {
    const response = await this.#exchange(request, [...(request.headers ?? []), 'authorization', authorization]);
    this.#heard();
    if (response.status < 300) return response;
    const { error } = this.#parse(response.body);
    throw errorOfWire(error);
  }

  #exchange(
    { method = 'POST', path, body, contentType = 'application/octet-stream', waitMs = 0, signal, responseBytesMax }: ControlRequest,
    headers: string[],
  ): Promise<HttpResponse> {
    const { timeoutMs = 30_000 } = this.#options;
    const bytes = body === undefined ? undefined : body instanceof Uint8Array ? body : Buffer.from(JSON.stringify(body));
    const type = body instanceof Uint8Array ? contentType : 'application/json';
    return this.#addresses.client(waitMs > 0 ? 'waiting' : 'short').send({
      method,
      path,
      headers: bytes ? ['content-type', type, ...headers] : headers,
      body: bytes,
      deadline: this.clock.now() + waitMs + timeoutMs,
      signal,
      responseBytesMax: responseBytesMax ?? RESPONSE_BYTES_MAX,
    });
  }

  #parse(body: Uint8Array): Readonly<Record<string, unknown>> {
    try {
      const value: unknown = JSON.parse(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString('utf8'));
      return fieldsOf(value, 'the answer');
    } catch (cause) {
      throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `${this.#addresses.url} answered with something that no control plane says`, {
        cause,
      });
    }
  }

  /** One enrolment or renewal, however many ask. */
  #standing(): Promise<Session> {
    this.#enrolling ??= this.#obtain().finally(() => (this.#enrolling = undefined));
    return this.#enrolling;
  }

  async #obtain(): Promise<Session> {
    const { credentials } = this.#options;
    const session = this.#session;
    if (!('ticket' in credentials)) {
      const authorization = `Bearer ${credentials.token}`;
      const answer = this.#parse((await this.#attempt({ method: 'GET', path: '/limits' }, { authorization })).body);
      return (this.#session = { authorization, standing: standingOf(answer, Number.POSITIVE_INFINITY), renewAt: Number.POSITIVE_INFINITY });
    }
    if (session) {
      try {
        return this.#keep(this.#parse((await this.#attempt({ path: '/enrol/renew' }, session)).body));
      } catch (thrown) {
        if (!isRunnerError(thrown) || thrown.code !== 'UNAUTHORIZED') throw thrown;
      }
    }
    return this.#enrol(credentials.ticket, credentials.identity);
  }

  async #enrol(text: string, identity: Identity): Promise<Session> {
    const ticket = this.#ticket ?? readTicket(text);
    const workerNonce = Buffer.from(this.#random(32)).toString('base64url');
    const challenge = await this.#say('/enrol/challenge', { ticket: text.trim(), workerKey: identity.publicKey, nonce: workerNonce });
    const { nonce, signature } = challenge;
    if (typeof nonce !== 'string' || typeof signature !== 'string') throw this.#foreign(ticket, 'its challenge is none');
    if (!isSignedBy(ticket.serverKey, challengeParts(workerNonce, nonce, ticket.id), signature))
      throw this.#foreign(ticket, 'it does not have the key of the ticket');
    const proof = signParts(enrolmentParts(nonce, ticket.id, ticket.serverKey), identity.privateKey);
    const given = await this.#say('/enrol', { nonce, signature: proof });
    this.#telemetry.log.info('enrolled at the control plane', { url: this.#addresses.url, worker: given['workerId'] });
    return this.#keep(given);
  }

  async #say(path: string, body: unknown): Promise<Readonly<Record<string, unknown>>> {
    const response = await this.#exchange({ path, body }, []);
    this.#heard();
    if (response.status >= 300) throw errorOfWire(this.#parse(response.body)['error']);
    return this.#parse(response.body);
  }

  #keep(answer: Readonly<Record<string, unknown>>): Session {
    const { token, expiresAt, serverTime } = answer;
    if (typeof token !== 'string' || typeof expiresAt !== 'number' || typeof serverTime !== 'number')
      throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `${this.#addresses.url} gave no session`);
    // Of its time, whatever our clock shows.
    const validMs = expiresAt - serverTime;
    return (this.#session = {
      authorization: `Bearer ${token}`,
      standing: standingOf(answer, validMs),
      renewAt: this.clock.now() + validMs / 2,
    });
  }

  #foreign({ id }: Ticket, why: string): RunnerError {
    return new RunnerError('TICKET_FOREIGN', `who answers at ${this.#addresses.url} is not the control plane of the ticket ${id}: ${why}`);
  }

  #heard(): void {
    if (this.#isDown) this.#telemetry.log.info('the control plane answers again', { url: this.#addresses.url });
    this.#isDown = false;
  }

  /** To where its latest ticket says that it is; what another one signed leads nowhere. It knows us by the first: with that we enrol. */
  async #follow(): Promise<void> {
    const { credentials } = this.#options;
    if (!('ticket' in credentials) || !credentials.latest || this.#isFollowing) return;
    this.#isFollowing = true;
    try {
      const { serverKey, ...place } = readTicket(await credentials.latest());
      if (serverKey !== this.#ticket?.serverKey || this.#addresses.isOf(place) || this.#closing.signal.aborted) return;
      const before = this.#addresses;
      this.#addresses = new ControlAddresses(place, this.clock);
      this.#telemetry.log.info('the ticket names another place', { url: this.#addresses.url, ticket: place.id });
      await before.close();
    } catch (error) {
      this.#telemetry.log.debug('there is no other ticket', { error });
    } finally {
      this.#isFollowing = false;
    }
  }

  /** Rethrows what no other attempt changes. */
  async #pause(
    thrown: unknown,
    { failures, until, signal }: { readonly failures: number; readonly until: number; readonly signal: AbortSignal | undefined },
  ): Promise<void> {
    if (!isRunnerError(thrown) || !PASSING.has(thrown.code)) throw thrown;
    const retry = thrown.retry === 'safe' ? 'safe' : 'idempotent';
    if (this.#closing.signal.aborted) throw new RunnerError('QUEUE_CLOSED', 'the queue is closed', { cause: thrown, retry });
    const most = Math.min(PAUSE_MS.most, PAUSE_MS.first * 2 ** Math.min(failures, 10));
    // Workers that lost the same control plane do not come back in the same moment.
    const delayMs = most * (0.5 + (this.#random(1)[0] ?? 0) / 512);
    if (this.clock.monotonic() + delayMs > until) throw thrown;
    if (!this.#isDown)
      this.#telemetry.log.warn('the control plane does not answer', {
        url: this.#addresses.url,
        code: thrown.code,
        reason: thrown.message,
      });
    this.#isDown = true;
    if (thrown.code === 'EXECUTOR_UNREACHABLE') this.#addresses.next();
    void this.#follow();
    const signals = signal ? [signal, this.#closing.signal] : [this.#closing.signal];
    try {
      await this.clock.sleep(delayMs, AbortSignal.any(signals));
    } catch (cause) {
      if (this.#closing.signal.aborted) throw new RunnerError('QUEUE_CLOSED', 'the queue is closed', { cause, retry });
      throw new RunnerError('ABORTED', 'the request was cancelled while the control plane did not answer', {
        cause: signal?.reason,
        retry,
      });
    }
  }
}

/** An attempt before may have been carried out, whatever is known of this one. */
function unknown(error: RunnerError): RunnerError {
  if (error.retry !== 'safe') return error;
  return new RunnerError(error.code, error.message, { cause: error, details: error.details, retry: 'idempotent' });
}

/** Whatever became of the enrolment, the request was not sent. */
function unsent(thrown: unknown): unknown {
  if (!isRunnerError(thrown) || !PASSING.has(thrown.code) || thrown.retry === 'safe') return thrown;
  return new RunnerError('EXECUTOR_UNAVAILABLE', thrown.message, { cause: thrown, details: thrown.details, retry: 'safe' });
}
