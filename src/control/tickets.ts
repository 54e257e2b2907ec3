/** Tickets of a control plane: made, listed, replaced, revoked; and the file in which workers of the same machine find one. */

import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { Identity } from '../queue/identity.ts';
import { readTicket, signTicket } from '../queue/ticket.ts';
import type { Ticket, TicketScope } from '../queue/ticket.ts';
import type { Access } from './access.ts';
import { readSecretFile, writeSecretFile } from './files.ts';
import type { Registry, TicketRecord } from './registry.ts';

export interface NewTicket {
  /** For people. Default: the id. */
  readonly name?: string | undefined;
  /** Default: claim, publish, objects, and engines where there are some. */
  readonly scopes?: readonly TicketScope[] | undefined;
  /** Default: workers may say that they are capable of anything. */
  readonly capabilities?: readonly string[] | undefined;
  /** Milliseconds since the epoch. Default: now. */
  readonly notBefore?: number | undefined;
  /** Default: an hour after `notBefore`. */
  readonly expiresAt?: number | undefined;
  /** Workers that may enrol. Default 1. */
  readonly uses?: number | undefined;
}

export interface IssuedTicket {
  /** The secret. It is not kept. */
  readonly ticket: string;
  readonly record: TicketRecord;
}

export interface TicketsOptions {
  readonly registry: Registry;
  readonly access: Access;
  readonly identity: Identity;
  readonly clock: Clock;
  readonly random: (bytes: number) => Uint8Array;
  /** Where the control plane is reached. */
  readonly address: { readonly urls: readonly string[]; readonly tlsKeySha256?: string | undefined };
  /** Where the ticket for many workers lies. */
  readonly file: string;
  readonly fileTicket: { readonly uses: number; readonly validMs: number };
  /** Of tickets for which nobody says others. */
  readonly scopes: readonly TicketScope[];
}

const HOUR_MS = 3_600_000;
const CAPABILITY = /^[A-Za-z0-9._:/=-]{1,64}$/;
const FILE_NAME = 'ticket file';
const USES_MAX = 1_000_000;

export class Tickets {
  readonly #options: TicketsOptions;

  constructor(options: TicketsOptions) {
    this.#options = options;
  }

  list(): TicketRecord[] {
    return this.#options.registry.tickets();
  }

  /** Rejects with `REQUEST_INVALID`. */
  async create(wanted: NewTicket): Promise<IssuedTicket> {
    const { registry, clock, random } = this.#options;
    const now = clock.now();
    const { scopes = this.#options.scopes, capabilities, notBefore = now, uses = 1 } = wanted;
    const { expiresAt = notBefore + HOUR_MS } = wanted;
    if (scopes.length === 0) throw invalid('a ticket without a scope allows nothing');
    if (!(expiresAt > notBefore) || expiresAt <= now) throw invalid('a ticket must end after it begins, and later than now');
    if (!Number.isSafeInteger(uses) || uses < 1 || uses > USES_MAX) throw invalid(`uses is ${uses}; it must be from 1 to ${USES_MAX}`);
    const wrong = capabilities?.find((one) => !CAPABILITY.test(one));
    if (wrong !== undefined || (capabilities?.length ?? 0) > 256)
      throw invalid(`${JSON.stringify(wrong ?? capabilities?.length)} is no capability, or too many`);
    const id = Buffer.from(random(16)).toString('hex');
    const record: TicketRecord = {
      id,
      name: wanted.name ?? id,
      scopes: [...new Set(scopes)],
      capabilities: capabilities && [...new Set(capabilities)],
      notBefore,
      expiresAt,
      uses,
      createdAt: now,
      closedAt: undefined,
      revokedAt: undefined,
    };
    await registry.putTicket(record);
    return { ticket: this.#sign(record), record };
  }

  /** Nobody enrols with it any more, and who has is refused from now on. Rejects with `NOT_FOUND`. */
  async revoke(id: string): Promise<TicketRecord> {
    const { registry, access, clock } = this.#options;
    const found = this.#find(id);
    const revoked = { ...found, revokedAt: found.revokedAt ?? clock.now() };
    await registry.putTicket(revoked);
    await access.endSessions(
      ({ ticketId }) => ticketId === id,
      `the ticket ${id} was revoked at ${new Date(revoked.revokedAt).toISOString()}`,
    );
    return revoked;
  }

  /** Another one like it in its place: nobody new enrols with the old one; who has goes on. Rejects with `NOT_FOUND`. */
  async replace(id: string): Promise<IssuedTicket> {
    const old = this.#find(id);
    const validMs = old.expiresAt - old.notBefore;
    const now = this.#options.clock.now();
    const issued = await this.create({ ...old, notBefore: now, expiresAt: now + validMs });
    await this.#options.registry.putTicket({ ...old, closedAt: old.closedAt ?? now });
    return issued;
  }

  /** The ticket in the file, made or made anew unless it is still good. Called at start, when addresses may have changed. */
  async openFile(): Promise<TicketRecord> {
    const { file, registry, clock, scopes } = this.#options;
    const now = clock.now();
    const present = this.#inFile();
    const isGood =
      present !== undefined &&
      present.closedAt === undefined &&
      present.revokedAt === undefined &&
      this.#lasts(present) &&
      scopes.every((scope) => present.scopes.includes(scope));
    if (isGood) {
      writeSecretFile(file, this.#sign(present));
      return present;
    }
    const { ticket, record } = await this.#createForFile();
    writeSecretFile(file, ticket);
    if (present) await registry.putTicket({ ...present, closedAt: present.closedAt ?? now });
    return record;
  }

  /**
   * Another ticket for the file once half the time of the one in it is over. That one is good until its end, for those who have a copy. One that
   * somebody closed or revoked stays.
   */
  async renewFile(): Promise<void> {
    const present = this.#inFile();
    if (!present || present.closedAt !== undefined || present.revokedAt !== undefined || this.#lasts(present)) return;
    const { ticket } = await this.#createForFile();
    writeSecretFile(this.#options.file, ticket);
  }

  /** The ticket in the file is replaced. */
  async rotateFile(): Promise<IssuedTicket> {
    const present = this.#inFile();
    const issued = present ? await this.replace(present.id) : await this.#createForFile();
    writeSecretFile(this.#options.file, issued.ticket);
    return issued;
  }

  #createForFile(): Promise<IssuedTicket> {
    const { clock, fileTicket } = this.#options;
    return this.create({ name: FILE_NAME, uses: fileTicket.uses, expiresAt: clock.now() + fileTicket.validMs });
  }

  #lasts({ expiresAt }: TicketRecord): boolean {
    const { clock, fileTicket } = this.#options;
    return expiresAt - clock.now() > fileTicket.validMs / 2;
  }

  #inFile(): TicketRecord | undefined {
    const { file, registry, identity } = this.#options;
    const text = readSecretFile(file);
    if (text === undefined) return undefined;
    try {
      const { id, serverKey } = readTicket(text);
      return serverKey === identity.publicKey ? registry.ticket(id) : undefined;
    } catch {
      // Whatever it was, it is no ticket of ours.
      return undefined;
    }
  }

  #find(id: string): TicketRecord {
    const found = this.#options.registry.ticket(id);
    if (found) return found;
    throw new RunnerError('NOT_FOUND', `there is no ticket ${id}`, { details: { ticket: id } });
  }

  #sign({ id, scopes, capabilities, notBefore, expiresAt, uses }: TicketRecord): string {
    const { identity, address } = this.#options;
    const ticket: Ticket = {
      id,
      urls: address.urls,
      serverKey: identity.publicKey,
      ...(address.tlsKeySha256 !== undefined && { tlsKeySha256: address.tlsKeySha256 }),
      scopes,
      ...(capabilities && { capabilities }),
      notBefore,
      expiresAt,
      uses,
    };
    return signTicket(ticket, identity.privateKey);
  }
}

function invalid(message: string): RunnerError {
  return new RunnerError('REQUEST_INVALID', message);
}
