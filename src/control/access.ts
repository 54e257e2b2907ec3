/** Who may do what at a control plane: tickets, enrolment by proof of a key, sessions, the operator's own tokens. */

import { hash, timingSafeEqual } from 'node:crypto';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { Admission } from '../gateway/admission.ts';
import type { Credentials, ServerAuthenticator } from '../gateway/auth.ts';
import type { AnyScope, Caller } from '../gateway/http.ts';
import type { GrantedWorker, QueueGrant } from '../queue/shared-queue.ts';
import { challengeParts, enrolmentParts, idOfKey, isPublicKey, isSignedBy, signParts } from '../queue/identity.ts';
import type { Identity } from '../queue/identity.ts';
import { checkTicketTime, readTicket } from '../queue/ticket.ts';
import type { Ticket, TicketScope } from '../queue/ticket.ts';
import type { EnrolmentRecord, Registry, SessionRecord, TicketRecord } from './registry.ts';

/** A worker, or whoever else enrolled, as long as its token is good. */
export class Session implements Caller {
  readonly kind = 'token';
  /** Of the worker. */
  readonly id: string;
  readonly scopes: readonly AnyScope[];
  readonly functions: readonly string[] = [];
  readonly capabilities: readonly string[] | undefined;
  readonly ticketId: string;
  readonly tokenSha256: string;
  expiresAt: number;
  /** Why it ended before its time. */
  revoked: string | undefined;

  constructor({ workerId, ticketId, tokenSha256, expiresAt }: SessionRecord, { scopes, capabilities }: TicketRecord) {
    this.id = workerId;
    this.ticketId = ticketId;
    this.tokenSha256 = tokenSha256;
    this.scopes = ['session', ...scopes];
    this.capabilities = capabilities;
    this.expiresAt = expiresAt;
  }

  /** Throws `TICKET_REVOKED`. */
  checkRevoked(): void {
    if (this.revoked !== undefined) throw new RunnerError('TICKET_REVOKED', this.revoked);
  }

  speaksFor(workerId: string): boolean {
    return this.scopes.includes('admin') || workerId === this.id || workerId.startsWith(`${this.id}/`);
  }

  /** Throws `FORBIDDEN`: nobody speaks for another worker. */
  checkWorker(workerId: string): void {
    if (this.speaksFor(workerId)) return;
    throw new RunnerError('FORBIDDEN', `the worker ${this.id} may claim as ${this.id}, or ${this.id}/something, not as ${workerId}`);
  }

  /** Throws `FORBIDDEN`. */
  checkCapabilities(given: readonly string[]): void {
    const wrong = this.capabilities && given.find((one) => !this.capabilities?.includes(one));
    if (wrong !== undefined)
      throw new RunnerError(
        'FORBIDDEN',
        `the ticket ${this.ticketId} does not allow the capability ${wrong.slice(0, 64)}; it allows ${this.capabilities?.join(', ') || 'none'}`,
      );
  }
}

/** A token that the operator keeps in a file. */
export interface OperatorToken {
  readonly name: string;
  readonly token: string;
  readonly scopes: readonly AnyScope[];
}

export interface AccessOptions {
  readonly registry: Registry;
  /** Of the control plane. */
  readonly identity: Identity;
  readonly operators: readonly OperatorToken[];
  readonly clock: Clock;
  /** Not guessable. */
  readonly random: (bytes: number) => Uint8Array;
  /** Of a session. Default an hour. */
  readonly sessionMs?: number;
  /** Of servers that workers speak to themselves. */
  readonly grant?: (worker: GrantedWorker) => Promise<QueueGrant | undefined>;
  /** A request by this worker came. */
  readonly onSeen?: (workerId: string) => void;
  /** A session of this worker was ended: what waits for it must not go on. */
  readonly onEnded?: (workerId: string) => void;
  /** Sessions were ended, and that is on disk. */
  readonly afterEnd?: () => Promise<void>;
}

export interface Challenge {
  readonly nonce: string;
  readonly serverKey: string;
  readonly signature: string;
}

export interface GivenSession {
  readonly workerId: string;
  readonly token: string;
  readonly expiresAt: number;
  readonly scopes: readonly TicketScope[];
  readonly capabilities: readonly string[] | undefined;
  readonly grant: QueueGrant | undefined;
}

interface Pending {
  readonly ticketId: string;
  readonly workerKey: string;
  readonly until: number;
}

const CHALLENGE_MS = 30_000;
/** Each costs a check of a signature, whoever asks. */
const ENROLMENTS = { requestsPerSecond: 200, burst: 1_000 };
const CHALLENGES_MAX = 10_000;
const REVOKED_MAX = 10_000;
/** Of one worker. */
const SESSIONS_MAX = 100;
/** A token that was replaced works on for what is under way. */
const OVERLAP_MS = 60_000;
const NONCE = /^[A-Za-z0-9_-]{22,86}$/;

export class Access implements ServerAuthenticator {
  readonly isOpen = false;
  readonly #options: AccessOptions;
  readonly #sessionMs: number;
  readonly #operators: readonly { readonly digest: Buffer; readonly caller: Caller }[];
  /** By the SHA-256 of their tokens. */
  readonly #sessions = new Map<string, Session>();
  /** The same by the header that names them, once it has: most requests of a worker come with the one before. */
  readonly #named = new Map<string, Session>();
  /** Challenges that are not answered, by nonce. */
  readonly #pending = new Map<string, Pending>();
  readonly #admission: Admission;
  readonly #revokedSessions = new Map<string, string>();

  constructor(options: AccessOptions) {
    this.#options = options;
    this.#admission = new Admission({ ...ENROLMENTS, concurrent: 1 }, options.clock);
    this.#sessionMs = options.sessionMs ?? 3_600_000;
    this.#operators = options.operators.map(({ name, token, scopes }) => ({
      digest: hash('sha256', token, 'buffer'),
      caller: { id: `operator:${name}`, kind: 'token', scopes, functions: [] },
    }));
    for (const record of options.registry.sessions()) this.#keep(record);
  }

  identify({ headers }: Credentials): Caller {
    const { authorization = '' } = headers;
    const now = this.#options.clock.now();
    const named = this.#named.get(authorization);
    if (named && named.revoked === undefined && named.expiresAt > now) {
      this.#options.onSeen?.(named.id);
      return named;
    }
    const token = /^Bearer +(\S+)$/i.exec(authorization)?.[1];
    if (token === undefined)
      throw new RunnerError('UNAUTHORIZED', 'this control plane asks for Authorization: Bearer <token of a session, or of the operator>');
    const digest = hash('sha256', token, 'hex');
    const session = this.#sessions.get(digest);
    if (session && session.expiresAt > now) {
      // In one spelling only: no more of them than sessions.
      if (authorization === `Bearer ${token}`) this.#named.set(authorization, session);
      this.#options.onSeen?.(session.id);
      return session;
    }
    const own = Buffer.from(digest, 'hex');
    let found: Caller | undefined;
    for (const operator of this.#operators) if (timingSafeEqual(operator.digest, own)) found = operator.caller;
    if (found) return found;
    const why = this.#revokedSessions.get(digest);
    if (why !== undefined) throw new RunnerError('TICKET_REVOKED', why);
    throw new RunnerError('UNAUTHORIZED', 'the session is not known or has run out; enrol again with the ticket');
  }

  identifySigner(): Caller {
    throw new RunnerError('UNAUTHORIZED', 'signatures are not taken here');
  }

  /** The first step of an enrolment. Throws the codes of tickets, `REQUEST_INVALID`, `RATE_LIMITED`. */
  challenge({ ticket: text, workerKey, nonce: workerNonce }: { ticket: string; workerKey: string; nonce: string }): Challenge {
    const { identity, clock, random } = this.#options;
    // Nobody is known yet: all who enrol share it.
    this.#admission.admit('enrolments')();
    if (!isPublicKey(workerKey)) throw new RunnerError('REQUEST_INVALID', 'workerKey is not a raw ed25519 public key as base64url');
    if (!NONCE.test(workerNonce)) throw new RunnerError('REQUEST_INVALID', 'nonce is not 16 random bytes or more as base64url');
    const { id } = this.#admitted(this.#ownTicket(text), workerKey);
    this.#forgetChallenges();
    const nonce = Buffer.from(random(32)).toString('base64url');
    this.#pending.set(nonce, { ticketId: id, workerKey, until: clock.now() + CHALLENGE_MS });
    return { nonce, serverKey: identity.publicKey, signature: signParts(challengeParts(workerNonce, nonce, id), identity.privateKey) };
  }

  /** The second. Rejects with the codes of tickets, `ENROLMENT_REPLAYED`, `IDENTITY_UNPROVEN`. */
  async enrol({ nonce, signature }: { nonce: string; signature: string }): Promise<GivenSession> {
    const { identity, clock, registry } = this.#options;
    const pending = this.#pending.get(nonce);
    // Good once, whatever comes of it.
    this.#pending.delete(nonce);
    if (!pending || pending.until <= clock.now())
      throw new RunnerError(
        'ENROLMENT_REPLAYED',
        `the challenge was answered before, is older than ${CHALLENGE_MS / 1_000} s, or was never given`,
      );
    const { ticketId, workerKey } = pending;
    if (!isSignedBy(workerKey, enrolmentParts(nonce, ticketId, identity.publicKey), signature))
      throw new RunnerError('IDENTITY_UNPROVEN', `the answer is not signed with the key of the worker ${idOfKey(workerKey)}`);
    const record = registry.ticket(ticketId);
    const ticket = this.#admitted(record, workerKey);
    const workerId = idOfKey(workerKey);
    const enrolment: EnrolmentRecord = registry.enrolmentsOf(ticketId).get(workerId) ?? {
      workerId,
      ticketId,
      publicKey: workerKey,
      enrolledAt: clock.now(),
      revokedAt: undefined,
    };
    if (!(await registry.putEnrolment(enrolment, ticket.uses))) throw bound(ticket);
    return this.#giveSession(workerId, ticketId);
  }

  /** Another token in place of one that will run out. */
  async renew(session: Session): Promise<GivenSession> {
    const given = await this.#giveSession(session.id, session.ticketId);
    const { id: workerId, ticketId, tokenSha256 } = session;
    session.expiresAt = Math.min(session.expiresAt, this.#options.clock.now() + OVERLAP_MS);
    await this.#options.registry.putSession({ workerId, ticketId, tokenSha256, expiresAt: session.expiresAt });
    return given;
  }

  /** Sessions of the ticket or worker end when this is called; the promise resolves when that is on disk. */
  async endSessions(which: (session: Pick<Session, 'id' | 'ticketId'>) => boolean, why: string): Promise<void> {
    this.#named.clear();
    for (const [digest, session] of this.#sessions) {
      if (!which(session)) continue;
      this.#sessions.delete(digest);
      session.revoked = why;
      this.#remember(digest, why);
      this.#options.onEnded?.(session.id);
    }
    await this.#options.registry.removeSessions(({ workerId, ticketId }) => which({ id: workerId, ticketId }));
    await this.#options.afterEnd?.();
  }

  /** So that who comes with it learns why. */
  #remember(digest: string, why: string): void {
    if (this.#revokedSessions.size >= REVOKED_MAX) this.#revokedSessions.clear();
    this.#revokedSessions.set(digest, why);
  }

  async #giveSession(workerId: string, ticketId: string): Promise<GivenSession> {
    const { clock, registry, random } = this.#options;
    const now = clock.now();
    const token = `bprs_${Buffer.from(random(32)).toString('base64url')}`;
    const record = { tokenSha256: hash('sha256', token, 'hex'), workerId, ticketId, expiresAt: now + this.#sessionMs };
    await registry.putSession(record);
    this.#keep(record);
    await this.#forgetSessions(now, workerId);
    const { scopes = [], capabilities } = registry.ticket(ticketId) ?? {};
    const grant = await this.#grant(record);
    // Of what was granted later the servers are not told.
    const revoked = this.#revocation(workerId, ticketId);
    if (!revoked) return { workerId, token, expiresAt: record.expiresAt, scopes, capabilities, grant };
    await registry.removeSessions(({ tokenSha256 }) => tokenSha256 === record.tokenSha256);
    throw revoked;
  }

  /** Nobody but this process holds workers to their capabilities: who is limited to some asks here. */
  async #grant({ workerId, ticketId, expiresAt }: SessionRecord): Promise<QueueGrant | undefined> {
    const { registry, grant } = this.#options;
    const { scopes = [], capabilities } = registry.ticket(ticketId) ?? {};
    const publicKey = registry.enrolmentsOf(ticketId).get(workerId)?.publicKey;
    if (!scopes.includes('claim') || !scopes.includes('objects') || capabilities || publicKey === undefined) return undefined;
    return grant?.({ workerId, publicKey, expiresAt });
  }

  #keep(record: SessionRecord): void {
    const ticket = this.#options.registry.ticket(record.ticketId);
    if (ticket && !this.#revocation(record.workerId, ticket.id)) this.#sessions.set(record.tokenSha256, new Session(record, ticket));
  }

  #revocation(workerId: string, ticketId: string): RunnerError | undefined {
    const { registry } = this.#options;
    const revokedAt = registry.ticket(ticketId)?.revokedAt;
    if (revokedAt !== undefined) return new RunnerError('TICKET_REVOKED', `the ticket ${ticketId} was revoked at ${shown(revokedAt)}`);
    const banned = registry.revokedAt(workerId);
    return banned === undefined ? undefined : new RunnerError('TICKET_REVOKED', `the worker ${workerId} was revoked at ${shown(banned)}`);
  }

  /** Those that have run out, and those of the worker before its last ones. */
  async #forgetSessions(now: number, workerId: string): Promise<void> {
    const gone: Session[] = [];
    const own: Session[] = [];
    for (const session of this.#sessions.values())
      if (session.expiresAt <= now) gone.push(session);
      else if (session.id === workerId) own.push(session);
    if (own.length > SESSIONS_MAX) gone.push(...own.toSorted((one, other) => one.expiresAt - other.expiresAt).slice(0, -SESSIONS_MAX));
    if (gone.length === 0) return;
    this.#named.clear();
    for (const { tokenSha256 } of gone) this.#sessions.delete(tokenSha256);
    const digests = new Set(gone.map(({ tokenSha256 }) => tokenSha256));
    await this.#options.registry.removeSessions(({ tokenSha256, expiresAt }) => digests.has(tokenSha256) || expiresAt <= now);
  }

  #forgetChallenges(): void {
    const now = this.#options.clock.now();
    for (const [nonce, { until }] of this.#pending) if (until <= now) this.#pending.delete(nonce);
    if (this.#pending.size >= CHALLENGES_MAX)
      throw new RunnerError('RATE_LIMITED', `${CHALLENGES_MAX} enrolments are under way; try again in a moment`);
  }

  /** Throws `TICKET_MALFORMED`, `TICKET_FOREIGN`. */
  #ownTicket(text: string): TicketRecord {
    const ticket: Ticket = readTicket(text);
    const { identity, registry } = this.#options;
    if (ticket.serverKey !== identity.publicKey)
      throw new RunnerError('TICKET_FOREIGN', `the ticket ${ticket.id} is of another control plane: it was signed with another key`);
    const record = registry.ticket(ticket.id);
    if (!record)
      throw new RunnerError(
        'TICKET_FOREIGN',
        `the ticket ${ticket.id} is signed with this control plane's key, but is not in its registry`,
      );
    return record;
  }

  /** Throws `TICKET_REVOKED`, `TICKET_NOT_YET_VALID`, `TICKET_EXPIRED`, `TICKET_BOUND`. Who has enrolled comes again whatever time it is. */
  #admitted(ticket: TicketRecord | undefined, workerKey: string): TicketRecord {
    if (!ticket) throw new RunnerError('TICKET_FOREIGN', 'the ticket is not in the registry any more');
    const { registry, clock } = this.#options;
    const { id, closedAt } = ticket;
    const workerId = idOfKey(workerKey);
    const revoked = this.#revocation(workerId, id);
    if (revoked) throw revoked;
    const enrolled = registry.enrolmentsOf(id);
    if (enrolled.has(workerId)) return ticket;
    if (closedAt !== undefined)
      throw new RunnerError(
        'TICKET_REVOKED',
        `the ticket ${id} was replaced at ${shown(closedAt)}: only workers that enrolled before may use it`,
      );
    checkTicketTime(ticket, clock.now());
    if (enrolled.size >= ticket.uses) throw bound(ticket);
    return ticket;
  }
}

function bound({ id, uses }: TicketRecord): RunnerError {
  const message = `the ticket ${id} is for ${uses === 1 ? 'one worker, and another' : `${uses} workers, and as many others`} enrolled with it already`;
  return new RunnerError('TICKET_BOUND', message, { details: { ticket: id, uses } });
}

function shown(time: number): string {
  return new Date(time).toISOString();
}
