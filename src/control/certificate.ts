/** The certificate that a control plane makes for itself: workers know it by its key, whose hash is in their tickets. */

import { X509Certificate, createPrivateKey, createPublicKey, generateKeyPairSync, hash, sign } from 'node:crypto';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { RunnerError } from '../errors.ts';
import { readSecretFile, writeSecretFile } from './files.ts';

export interface ServerCertificate {
  /** PEM. */
  readonly cert: string;
  readonly key: string;
}

// DER: ITU-T X.690; certificates: https://www.rfc-editor.org/rfc/rfc5280#section-4.1
const der = (tag: number, ...parts: readonly Uint8Array[]): Buffer => {
  const content = Buffer.concat(parts);
  const { length } = content;
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255];
  return Buffer.concat([Buffer.from([tag, ...size]), content]);
};
const sequence = (...parts: readonly Uint8Array[]): Buffer => der(0x30, ...parts);
const identifier = (hex: string): Buffer => der(0x06, Buffer.from(hex, 'hex'));
const generalizedTime = (time: number): Buffer =>
  der(0x18, Buffer.from(`${new Date(time).toISOString().replaceAll(/[-:T]/g, '').slice(0, 14)}Z`));

const ECDSA_SHA256 = sequence(identifier('2a8648ce3d040302'));
const COMMON_NAME = identifier('550403');
const TRUE = der(0x01, Buffer.from([255]));
const DAY_MS = 86_400_000;
/** Whoever checks it by the ticket does not look at its end; whoever imports it as an authority does. */
const VALID_MS = 3_650 * DAY_MS;

/**
 * The certificate in the folder (`tls.crt`, `tls.key`), made when there is none; made anew, with the same key, when it lacks one of the
 * names. Throws `CONFIG_INVALID`.
 */
export function openCertificate(folder: string, names: readonly string[], now: number): ServerCertificate {
  const [certFile, keyFile] = [join(folder, 'tls.crt'), join(folder, 'tls.key')];
  const given = readSecretFile(keyFile);
  const key = given ?? generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  const cert = readSecretFile(certFile);
  if (given !== undefined && cert !== undefined && isGood(cert, { key, names, now })) return { cert, key };
  const made = { cert: makeCertificate(key, names, now), key };
  if (given === undefined) writeSecretFile(keyFile, key);
  writeSecretFile(certFile, made.cert);
  return made;
}

/** SHA-256 of the public key (SPKI), base64url, as a ticket pins it. Throws `CONFIG_INVALID`. */
export function keySha256Of(cert: string): string {
  try {
    const spki = new X509Certificate(cert).publicKey.export({ type: 'spki', format: 'der' });
    return hash('sha256', spki, 'base64url');
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', 'the TLS certificate cannot be read; it must be PEM', { cause });
  }
}

function isGood(
  cert: string,
  { key, names, now }: { readonly key: string; readonly names: readonly string[]; readonly now: number },
): boolean {
  try {
    const parsed = new X509Certificate(cert);
    const covers = (name: string): boolean => (isIP(name) === 0 ? parsed.checkHost(name) : parsed.checkIP(name)) !== undefined;
    return parsed.checkPrivateKey(createPrivateKey(key)) && names.every(covers) && parsed.validToDate.getTime() > now + DAY_MS;
  } catch {
    // Whatever it is: another one is made.
    return false;
  }
}

function makeCertificate(keyPem: string, names: readonly string[], now: number): string {
  const key = createPrivateKey(keyPem);
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' });
  const name = sequence(der(0x31, sequence(COMMON_NAME, der(0x0c, Buffer.from('blueprint-runner control plane')))));
  const extension = (id: string, value: Uint8Array, critical = false): Buffer =>
    sequence(identifier(id), ...(critical ? [TRUE] : []), der(0x04, value));
  // Positive, and another one each time.
  const serial = hash('sha256', `${spki.toString('hex')} ${now} ${names.join(' ')}`, 'buffer').subarray(0, 16);
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, serial),
    ECDSA_SHA256,
    name,
    sequence(generalizedTime(now - DAY_MS), generalizedTime(now + VALID_MS)),
    name,
    spki,
    der(0xa3, sequence(extension('551d13', sequence(TRUE), true), extension('551d11', sequence(...names.map(alternativeName))))),
  );
  const certificate = sequence(body, ECDSA_SHA256, der(0x03, Buffer.from([0]), sign('sha256', body, key)));
  const lines = certificate.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----`;
}

function alternativeName(name: string): Buffer {
  switch (isIP(name)) {
    case 4:
      return der(0x87, Buffer.from(name.split('.').map(Number)));
    case 6:
      return der(0x87, addressBytes(name));
    default:
      return der(0x82, Buffer.from(name));
  }
}

function addressBytes(address: string): Buffer {
  const [head = '', tail] = address.split('::');
  const groups = (part: string | undefined): string[] => (part ? part.split(':') : []);
  const [left, right] = [groups(head), groups(tail)];
  const middle = Array.from({ length: 8 - left.length - right.length }, () => '0');
  return Buffer.from([...left, ...middle, ...right].map((group) => group.padStart(4, '0')).join(''), 'hex');
}
