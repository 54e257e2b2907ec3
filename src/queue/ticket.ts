/**
 * Tickets: with one a worker finds its control plane, knows it again, and may enrol.
 *
 * `bprt1.<payload>.<signature>`: the payload is JSON, the signature ed25519 over `bprt1.<payload>` with the control plane's key, both
 * base64url. A ticket is a secret until as many workers as it allows have enrolled.
 */

import { sign, verify } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { RunnerError } from '../errors.ts';
import { isPublicKey, publicKeyOf } from './identity.ts';

/**
 * - `claim`: to claim jobs and end them
 * - `publish`: to publish jobs, and to see and cancel them
 * - `objects`: to read and write the object store
 * - `engines`: to call functions on the engines of the control plane
 * - `admin`: all of them, in the name of any worker; and tickets, workers, the dead letter
 */
export const TICKET_SCOPES = ['claim', 'publish', 'objects', 'engines', 'admin'] as const;
export type TicketScope = (typeof TICKET_SCOPES)[number];

export interface Ticket {
  readonly id: string;
  /** Where the control plane is reached, the preferred address first. At least one; http on loopback only. */
  readonly urls: readonly string[];
  /** The control plane's raw ed25519 public key, base64url. */
  readonly serverKey: string;
  /** SHA-256 of the public key (SPKI) of its TLS certificate, base64url. Absent when it has none. */
  readonly tlsKeySha256?: string;
  readonly scopes: readonly TicketScope[];
  /** What workers may say that they are capable of. Default: anything. */
  readonly capabilities?: readonly string[];
  /** Milliseconds since the epoch, like `expiresAt`: workers may enrol from then on, until. Who has enrolled stays. */
  readonly notBefore: number;
  readonly expiresAt: number;
  /** How many workers may enrol. */
  readonly uses: number;
}

const FORM = /^bprt1\.([A-Za-z0-9_-]{1,16384})\.([A-Za-z0-9_-]{86})$/;
const ID = /^[0-9a-f]{32}$/;
const SHA256 = /^[A-Za-z0-9_-]{43}$/;

export function signTicket(ticket: Ticket, privateKey: KeyObject): string {
  const signed = `bprt1.${Buffer.from(JSON.stringify(ticket)).toString('base64url')}`;
  return `${signed}.${sign(null, Buffer.from(signed), privateKey).toString('base64url')}`;
}

/**
 * What the text says, unless it was changed since it was signed with the key in it: whether that is the key of a control plane that you
 * trust is seen when it proves the key. Throws `TICKET_MALFORMED`.
 */
export function readTicket(text: string): Ticket {
  const [, payload, signature] = FORM.exec(text.trim()) ?? [];
  if (payload === undefined || signature === undefined) throw malformed(`it must be bprt1.<payload>.<signature>${hintOf(text)}`);
  const ticket = parsed(payload);
  const key = publicKeyOf(ticket.serverKey);
  if (!verify(null, Buffer.from(`bprt1.${payload}`), key, Buffer.from(signature, 'base64url')))
    throw malformed('its signature is not that of its content: it was changed');
  return ticket;
}

/** Throws `TICKET_NOT_YET_VALID`, `TICKET_EXPIRED`. */
export function checkTicketTime({ id, notBefore, expiresAt }: Pick<Ticket, 'id' | 'notBefore' | 'expiresAt'>, now: number): void {
  const times = { details: { ticket: id, notBefore, expiresAt, now } };
  if (now < notBefore)
    throw new RunnerError('TICKET_NOT_YET_VALID', `the ticket ${id} is valid from ${shown(notBefore)} on; it is ${shown(now)} here`, times);
  if (now >= expiresAt)
    throw new RunnerError('TICKET_EXPIRED', `the ticket ${id} was valid until ${shown(expiresAt)}; it is ${shown(now)} here`, times);
}

/** Whether the address may be spoken to without TLS. */
export function isLoopbackUrl(url: string): boolean {
  const { hostname } = new URL(url);
  return hostname === 'localhost' || hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(hostname);
}

function parsed(payload: string): Ticket {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(payload, 'base64url').toString('utf8'));
  } catch (cause) {
    throw malformed('its content is not JSON', cause);
  }
  if (typeof value !== 'object' || value === null) throw malformed('its content is not an object');
  const given = value as Partial<Record<keyof Ticket, unknown>>; // each field is checked below
  const { id, urls, serverKey, tlsKeySha256, scopes, capabilities, notBefore, expiresAt, uses } = given;
  if (typeof id !== 'string' || !ID.test(id)) throw malformed('it has no id');
  if (!isTexts(urls) || urls.length === 0 || !urls.every(isAddress)) throw malformed('it names no address of a control plane');
  if (!isPublicKey(serverKey)) throw malformed('it has no key of a control plane');
  if (tlsKeySha256 !== undefined && !(typeof tlsKeySha256 === 'string' && SHA256.test(tlsKeySha256)))
    throw malformed('its hash of a TLS key is none');
  if (!isTexts(scopes) || !scopes.every(isScope)) throw malformed('its scopes are not known here');
  if (capabilities !== undefined && !isTexts(capabilities)) throw malformed('its capabilities are no list of texts');
  if (!isWhole(notBefore) || !isWhole(expiresAt) || !isWhole(uses)) throw malformed('its times or uses are no numbers');
  const plain = urls.find((url) => url.startsWith('http:') && !isLoopbackUrl(url));
  if (plain !== undefined) throw malformed(`it wants to be sent to ${plain} without TLS`);
  return {
    id,
    urls,
    serverKey,
    ...(tlsKeySha256 !== undefined && { tlsKeySha256 }),
    scopes,
    ...(capabilities !== undefined && { capabilities }),
    notBefore,
    expiresAt,
    uses,
  };
}

export function isScope(value: string): value is TicketScope {
  return (TICKET_SCOPES as readonly string[]).includes(value);
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'string');
}

function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

function isAddress(url: string): boolean {
  const address = URL.parse(url);
  return address !== null && (address.protocol === 'https:' || address.protocol === 'http:') && address.origin === url;
}

/** What people do wrong most often. Never shows the text: it may be a ticket. */
function hintOf(text: string): string {
  const bare = text.trim();
  if (bare === '') return '; it is empty';
  if (/\s/.test(bare)) return '; it has a space or line break in it';
  if (/^bprt\d+\./.test(bare) && !bare.startsWith('bprt1.')) return '; a newer version made it';
  if (bare.startsWith('bprt1.')) return `; it has ${bare.length} characters, and some are missing or wrong`;
  if (bare.startsWith('/') || bare.startsWith('./')) return '; it looks like the path of a file: give what is in it';
  return '';
}

function malformed(why: string, cause?: unknown): RunnerError {
  return new RunnerError('TICKET_MALFORMED', `the ticket cannot be read: ${why}`, { cause });
}

function shown(time: number): string {
  return Math.abs(time) <= 8.64e15 ? new Date(time).toISOString() : String(time);
}
