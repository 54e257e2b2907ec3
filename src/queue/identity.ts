/** Who a worker is: an ed25519 key of its own. Its id is the hash of the public key, so nobody else can have it. */

import { createPrivateKey, createPublicKey, generateKeyPairSync, hash, randomUUID, sign, verify } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { chmodSync, closeSync, fsyncSync, linkSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { RunnerError } from '../errors.ts';

/** Of a raw ed25519 public key as DER: https://www.rfc-editor.org/rfc/rfc8410#section-4 */
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');
const RAW_KEY = /^[A-Za-z0-9_-]{43}$/;

export interface Identity {
  readonly privateKey: KeyObject;
  /** The raw public key, base64url. */
  readonly publicKey: string;
  /** 32 hexadecimal characters of the public key's SHA-256. */
  readonly id: string;
}

/** One that is kept nowhere. */
export function makeIdentity(): Identity {
  return identityOf(generateKeyPairSync('ed25519').privateKey);
}

/**
 * The identity in the file, made when there is none: readable for its owner only, and complete or not there at all. Two processes that
 * make it at the same time get the same one. Throws `CONFIG_INVALID`.
 */
export function openIdentity(path: string): Identity {
  try {
    return readIdentity(path) ?? writeIdentity(path);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new RunnerError('CONFIG_INVALID', `the identity ${path} cannot be read or made: ${why}`, { cause, details: { path } });
  }
}

export function idOfKey(publicKey: string): string {
  return hash('sha256', Buffer.from(publicKey, 'base64url'), 'hex').slice(0, 32);
}

export function isPublicKey(value: unknown): value is string {
  return typeof value === 'string' && RAW_KEY.test(value);
}

/** Base64url, over the parts: none of them can be taken for a part of another. */
export function signParts(parts: readonly string[], privateKey: KeyObject): string {
  return sign(null, joined(parts), privateKey).toString('base64url');
}

export function isSignedBy(publicKey: string, parts: readonly string[], signature: string): boolean {
  if (!isPublicKey(publicKey)) return false;
  return verify(null, joined(parts), publicKeyOf(publicKey), Buffer.from(signature, 'base64url'));
}

export function publicKeyOf(publicKey: string): KeyObject {
  return createPublicKey({ key: Buffer.concat([SPKI_PREFIX, Buffer.from(publicKey, 'base64url')]), format: 'der', type: 'spki' });
}

/** What a worker signs to enrol: the control plane's nonce, the ticket, and who it speaks to. */
export function enrolmentParts(nonce: string, ticketId: string, serverKey: string): readonly string[] {
  return ['bpr-enrol-1', nonce, ticketId, serverKey];
}

/** What the control plane signs to show a worker that it is the one of the ticket. */
export function challengeParts(workerNonce: string, nonce: string, ticketId: string): readonly string[] {
  return ['bpr-challenge-1', workerNonce, nonce, ticketId];
}

function joined(parts: readonly string[]): Buffer {
  return Buffer.from(JSON.stringify(parts));
}

function identityOf(privateKey: KeyObject): Identity {
  const der = createPublicKey(privateKey).export({ format: 'der', type: 'spki' });
  const publicKey = der.subarray(SPKI_PREFIX.length).toString('base64url');
  return { privateKey, publicKey, id: idOfKey(publicKey) };
}

function readIdentity(path: string): Identity | undefined {
  let pem: string;
  try {
    pem = readFileSync(path, 'utf8');
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return undefined;
    throw cause;
  }
  const privateKey = createPrivateKey(pem);
  if (privateKey.asymmetricKeyType !== 'ed25519') throw new Error('it is not an ed25519 key');
  return identityOf(privateKey);
}

function writeIdentity(path: string): Identity {
  const { privateKey } = makeIdentity();
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const part = `${path}.${randomUUID()}`;
  const file = openSync(part, 'wx', 0o600);
  try {
    writeSync(file, privateKey.export({ format: 'pem', type: 'pkcs8' }).toString());
    fsyncSync(file);
    closeSync(file);
    chmodSync(part, 0o600);
    // Unlike a rename it does not replace what another process has made meanwhile.
    linkSync(part, path);
    syncFolderOf(path);
  } catch (cause) {
    if (!(cause instanceof Error && 'code' in cause && cause.code === 'EEXIST')) throw cause;
  } finally {
    rmSync(part, { force: true });
  }
  const identity = readIdentity(path);
  if (!identity) throw new Error('it is gone as soon as it was made');
  return identity;
}

function syncFolderOf(path: string): void {
  const folder = openSync(join(dirname(path), '.'), 'r');
  fsyncSync(folder);
  closeSync(folder);
}
