/** With which certificate a server shows itself. */

import { X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import type { TlsOptions as NodeTlsOptions } from 'node:tls';
import { RunnerError } from '../errors.ts';

export interface TlsOptions {
  /** PEM. */
  readonly cert: string;
  readonly key: string;
  /** Authority whose client certificates are asked for. */
  readonly ca?: string;
}

/** For node. Throws `CONFIG_INVALID`. */
export function serverTls({ cert, key, ca }: TlsOptions): NodeTlsOptions {
  const given = { cert, key, ...(ca !== undefined && { ca }) };
  try {
    createSecureContext(given);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const message = `the TLS certificate and its key cannot be used; they must be PEM, and belong together: ${reason}`;
    throw new RunnerError('CONFIG_INVALID', message, { cause });
  }
  try {
    // Node passes over an authority that it cannot read, and then nobody's certificate is good.
    if (ca !== undefined) void new X509Certificate(ca);
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', 'the authority of client certificates holds no certificate in PEM', { cause });
  }
  return { ...given, requestCert: ca !== undefined, rejectUnauthorized: false, minVersion: 'TLSv1.2' };
}
