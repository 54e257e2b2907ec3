/**
 * Keys and signed claims as NATS writes them.
 *
 * An nkey is base32 of a prefix, the raw ed25519 key and a CRC-16 (XMODEM, low byte first); a seed has a prefix of two bytes that says whose it
 * is: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth and https://github.com/nats-io/nkeys.
 * A claim is a JWT with `alg` ed25519-nkey, whose `jti` is a hash of its claims:
 * https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-14.md.
 */

import { createPrivateKey, createPublicKey, hash, sign } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { RunnerError } from '../../src/plugin.ts';

const ROLES = { account: 0, operator: 14 << 3, user: 20 << 3 } as const;
const SEED = 18 << 3;
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
const KEY_BYTES = 32;
/** Of a raw ed25519 key as DER: https://www.rfc-editor.org/rfc/rfc8410#section-7 */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex');

export type NkeyRole = keyof typeof ROLES;

export interface NkeyPair {
  readonly role: NkeyRole;
  /** As NATS writes it. */
  readonly publicKey: string;
  readonly privateKey: KeyObject;
}

export function publicNkey(role: NkeyRole, rawKey: Uint8Array): string {
  return checked(Buffer.from([ROLES[role]]), rawKey);
}

export function seedNkey(role: NkeyRole, rawSeed: Uint8Array): string {
  return checked(Buffer.from([SEED | (ROLES[role] >> 5), (ROLES[role] & 31) << 3]), rawSeed);
}

/** Throws `CONFIG_INVALID`. Never repeats the text: it is a secret. */
export function readSeed(text: string): NkeyPair {
  const bytes = fromBase32(text.trim());
  const body = bytes?.subarray(0, -2);
  const role = body && roleOf((((body[0] ?? 0) & 7) << 5) | ((body[1] ?? 0) >> 3));
  const isSeed = body?.length === KEY_BYTES + 2 && ((body[0] ?? 0) & 0xf8) === SEED && bytes?.readUInt16LE(body.length) === crc16(body);
  if (!isSeed || !role)
    throw new RunnerError('CONFIG_INVALID', 'it is not the seed of an nkey, which begins with S, such as SA for an account');
  const der = Buffer.concat([PKCS8_PREFIX, body.subarray(2)]);
  const privateKey = createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
  const spki = createPublicKey(privateKey).export({ format: 'der', type: 'spki' });
  return { role, privateKey, publicKey: publicNkey(role, spki.subarray(-KEY_BYTES)) };
}

/** A JWT of the claims, which get issuer, time and id. */
export function signClaims(claims: Readonly<Record<string, unknown>>, by: NkeyPair, nowMs: number): string {
  const issued = { ...claims, iss: by.publicKey, iat: Math.floor(nowMs / 1_000) };
  const jti = toBase32(hash('sha512-256', JSON.stringify(issued), 'buffer'));
  const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const said = `${part({ typ: 'JWT', alg: 'ed25519-nkey' })}.${part({ ...issued, jti })}`;
  return `${said}.${sign(null, Buffer.from(said), by.privateKey).toString('base64url')}`;
}

/** The account of a user, from the contents of its `.creds` file. Throws `CONFIG_INVALID`. */
export function accountOfCreds(creds: string): string {
  const payload = /-----BEGIN NATS USER JWT-----\s+[\w-]+\.([\w-]+)\.[\w-]+\s/.exec(creds)?.[1];
  if (payload !== undefined) {
    const { iss, nats } = JSON.parse(Buffer.from(payload, 'base64url').toString()) as {
      readonly iss?: unknown;
      readonly nats?: { readonly issuer_account?: unknown };
    };
    const account = nats?.issuer_account ?? iss;
    if (typeof account === 'string') return account;
  }
  throw new RunnerError('CONFIG_INVALID', 'the credentials of NATS are no .creds file with the JWT of a user');
}

function roleOf(prefix: number): NkeyRole | undefined {
  return (Object.keys(ROLES) as NkeyRole[]).find((role) => ROLES[role] === prefix);
}

function checked(prefix: Uint8Array, key: Uint8Array): string {
  const body = Buffer.concat([prefix, key]);
  const sum = Buffer.alloc(2);
  sum.writeUInt16LE(crc16(body));
  return toBase32(Buffer.concat([body, sum]));
}

function crc16(bytes: Uint8Array): number {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1) & 0xffff;
  }
  return crc;
}

function toBase32(bytes: Uint8Array): string {
  let [text, value, bits] = ['', 0, 0];
  for (const byte of bytes) {
    value = ((value << 8) | byte) & 0xfff;
    bits += 8;
    for (; bits >= 5; bits -= 5) text += ALPHABET[(value >> (bits - 5)) & 31] ?? '';
  }
  return bits > 0 ? text + (ALPHABET[(value << (5 - bits)) & 31] ?? '') : text;
}

function fromBase32(text: string): Buffer | undefined {
  if (!/^[A-Z2-7]+$/.test(text)) return undefined;
  const bytes: number[] = [];
  let [value, bits] = [0, 0];
  for (const letter of text) {
    value = ((value << 5) | ALPHABET.indexOf(letter)) & 0xfff;
    bits += 5;
    if (bits < 8) continue;
    bits -= 8;
    bytes.push((value >> bits) & 0xff);
  }
  return Buffer.from(bytes);
}
