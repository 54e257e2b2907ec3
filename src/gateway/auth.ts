/** Who sends a request: by API key, bearer token, client certificate or AWS signature; on loopback, when so configured, anybody. */

import { hash, timingSafeEqual } from 'node:crypto';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { SCOPES } from './http.ts';
import type { Caller, Scope } from './http.ts';
import type { ApiKey, KeyFolder } from './keys.ts';
import { checkSignature, readClaim, refused } from './signature.ts';
import type { SignedRequest } from './signature.ts';

/** What a holder may do. */
export interface Grant {
  /** For the log and for limits. */
  readonly name: string;
  /** Default: all. */
  readonly scopes?: readonly Scope[];
  /** Patterns of function names. Default: all. */
  readonly functions?: readonly string[];
}

export interface GatewayAuth {
  readonly keys?: KeyFolder;
  /** Bearer tokens that were made elsewhere; at least 16 characters. */
  readonly tokens?: readonly (Grant & { readonly token: string })[];
  /** What a client may do whose certificate the authority of `tls.ca` signed; the name is that of the certificate. */
  readonly certificates?: Omit<Grant, 'name'>;
}

/** What is known of a request before its body. */
export interface Credentials {
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | undefined>>;
  /** Common name of a client certificate that TLS has verified. */
  readonly certificateName?: string;
}

export const ANONYMOUS: Caller = { id: 'anonymous', kind: 'anonymous', scopes: SCOPES, functions: ['*'] };
const TOKEN_CHARS_MIN = 16;

/** Who sends a request to a server. */
export interface ServerAuthenticator {
  /** Nobody has to say who he is. */
  readonly isOpen: boolean;
  /** Undefined: a signature has to be checked with the body. Throws `UNAUTHORIZED`. */
  identify(credentials: Credentials, takesSignatures: boolean): Caller | undefined;
  /** Throws `UNAUTHORIZED`. */
  identifySigner(request: SignedRequest): Caller;
}

export class Authenticator implements ServerAuthenticator {
  /** Nobody has to say who he is. */
  readonly isOpen: boolean;
  readonly #auth: GatewayAuth;
  readonly #clock: Clock;
  readonly #tokens: readonly { readonly digest: Buffer; readonly caller: Caller }[];

  /** Throws `CONFIG_INVALID`. */
  constructor(auth: GatewayAuth | undefined, clock: Clock) {
    this.#auth = auth ?? {};
    this.#clock = clock;
    const { keys, tokens = [], certificates } = this.#auth;
    this.isOpen = keys === undefined && tokens.length === 0 && certificates === undefined;
    this.#tokens = tokens.map(({ token, ...grant }) => {
      if (token.length < TOKEN_CHARS_MIN) {
        throw new RunnerError(
          'CONFIG_INVALID',
          `the token ${grant.name} has less than ${TOKEN_CHARS_MIN} characters; whoever guesses it may do everything that it allows`,
        );
      }
      return { digest: digest(token), caller: callerOf('token', grant.name, grant) };
    });
  }

  /** Undefined: an AWS signature has to be checked with the body. Throws `UNAUTHORIZED`. */
  identify({ headers, certificateName }: Credentials, takesSignatures: boolean): Caller | undefined {
    if (this.isOpen) return ANONYMOUS;
    const { authorization } = headers;
    if (takesSignatures && authorization?.startsWith('AWS4-HMAC-SHA256')) {
      // Refused before the body is read when nobody can have signed it.
      this.#signingKey(readClaim(authorization).accessKeyId);
      return undefined;
    }
    const given = headers['x-api-key'] ?? (authorization === undefined ? undefined : /^Bearer +(\S+)$/i.exec(authorization)?.[1]);
    const caller = given === undefined ? undefined : this.identifyToken(given);
    if (caller) return caller;
    const { certificates } = this.#auth;
    if (given === undefined && authorization === undefined && certificates && certificateName !== undefined)
      return callerOf('certificate', certificateName, certificates);
    throw new RunnerError(
      'UNAUTHORIZED',
      given === undefined && authorization === undefined
        ? 'this gateway asks for credentials: Authorization: Bearer <key>, or x-api-key: <key>'
        : 'the credentials are not valid: the key or token is wrong, revoked or expired',
      { details: { awsType: given === undefined ? 'MissingAuthenticationTokenException' : 'UnrecognizedClientException' } },
    );
  }

  /** By a key or token alone. */
  identifyToken(given: string): Caller | undefined {
    const key = this.#auth.keys?.find(given);
    if (key) return callerOfKey('key', key);
    const wanted = digest(given);
    let found: Caller | undefined;
    // Compared with all of them: the time says nothing of which one was close.
    for (const { digest: own, caller } of this.#tokens) if (timingSafeEqual(own, wanted)) found = caller;
    return found;
  }

  /** Throws `UNAUTHORIZED`. */
  identifySigner(request: SignedRequest): Caller {
    const claim = readClaim(request.headers['authorization'] ?? '');
    const { key, secretAccessKey } = this.#signingKey(claim.accessKeyId);
    checkSignature({ claim, secretAccessKey, request, now: this.#clock.now() });
    return callerOfKey('signature', key);
  }

  #signingKey(accessKeyId: string): { readonly key: ApiKey; readonly secretAccessKey: string } {
    const found = this.#auth.keys?.findSigning(accessKeyId);
    if (!found) throw refused('UnrecognizedClientException', `${accessKeyId} is no access key of this gateway`);
    return found;
  }
}

function callerOf(kind: Caller['kind'], name: string, { scopes = SCOPES, functions = ['*'] }: Omit<Grant, 'name'>): Caller {
  return { id: `${kind}:${name}`, kind, scopes, functions };
}

function callerOfKey(kind: Caller['kind'], { id, scopes, functions }: ApiKey): Caller {
  return { id: `key:${id}`, kind, scopes, functions };
}

function digest(text: string): Buffer {
  return hash('sha256', text, 'buffer');
}
