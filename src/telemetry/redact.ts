/**
 * Makes any value fit for a log: secrets are replaced, bytes and bigints shown as text, long things cut. Pure; never throws.
 */

import { isRunnerError } from '../errors.ts';

const REDACTED = '[redacted]';

const TEXT_CHARS_MAX = 2048;
const SCAN_CHARS_MAX = 16_384;
const BYTES_SHOWN_MAX = 64;
const DEPTH_MAX = 8;
const ITEMS_MAX = 64;
const NAMES_KEPT_MAX = 1000;

/** What JSON can carry: the result of `redact`. */
export type Plain = string | number | boolean | null | readonly Plain[] | { readonly [name: string]: Plain };

export interface RedactOptions {
  /** Further names of secret fields, at any depth; spelling and case of word boundaries do not matter. */
  readonly names?: readonly string[];
}

export type Redact = (value: unknown) => Plain;

/** How secret a field is by its name: everything in it; text and bytes in it, alone or in lists; nothing. */
type Secrecy = 'all' | 'text' | 'none';

/** What is known of a field's name; the same few names come again with every line. */
interface Name {
  readonly shown: string;
  readonly secrecy: Secrecy;
}

/** Words run together, so that `api_key`, `x-api-key`, `apiKey` and `APIKEY` are one. */
const SECRET_PHRASE =
  /authorization|passw(?:or)?d|passphrase|cookie|secret|mnemonic|(?:seed|recovery)phrase|connectionstring|(?:api|private|secret|access|signing|encryption|decryption|auth|session|master|account|function|functions|subscription)key|^pwd$/;
/** Names that carry a secret when they hold text, and something harmless (a count, a kind) when they do not. */
const TOKEN_PHRASE = /(?:token|ticket|jwt|bearer|credential|auth|otp)s?(?:value|hex|header|string|raw|text)?$/;
/** `secretName`, `cookieCount`, `passwordFile`: about a secret, not the secret. */
const ABOUT = new Set(
  'name names ref reference id arn count path file url uri type kind length size bytes ttl expiry expires at ms seconds version status required enabled present missing provider source policy scope algorithm'.split(
    ' ',
  ),
);

/** Fields that hold the secret itself when the record around them is named like one: `auth: { type, value }`. */
const VALUE = new Set(['value', 'raw', 'text', 'header', 'string', 'hex']);
/** `token: 0x...` is a contract, not a credential. */
const ADDRESS = /^0x[\da-f]{40}$/i;

const PEM = /-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----[^]*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|$)/g;
const JWT = /\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*/g;
const SCHEME = /\b([Bb]earer|BEARER|[Bb]asic|BASIC|[Tt]oken)(\s{1,8})(?=[\w.~+/-]{0,64}[\d=+/A-Z])([\w.~+/-]{8,}=*)/g;
const ASSIGNMENT =
  /\b([\w-]*(?:passw(?:or)?d|passphrase|secret|mnemonic|api[_-]?key|access[_-]?key|private[_-]?key|token))(\\?["']?\s{0,2}=\s{0,2}|\\?["']\s{0,2}:\s{0,2})(\\?["'][^"'\\]*|[^\s"'&,;}\\]+)/gi;
const URL_TEXT = /\b[a-z][a-z0-9+.-]{1,20}:\/\/[^\s"'<>`\\]+/gi;
/** One of these stands in every text that the forms above can match. */
const SUSPICIOUS = /:\/\/|-----B|eyJ|=|["']\s{0,2}:|earer|EARER|asic|ASIC|oken/;
const QUERY_SECRET = /^(?:key|sig|signature|code|auth|x-amz-(?:signature|credential|security-token))$/i;

/**
 * A redactor.
 *
 * @example
 * const redact = createRedactor({ names: ['pinCode'] });
 * redact({ url: 'https://rpc.example/v3/0123456789abcdef0123456789abcdef', amount: 10n }); // { url: 'https://rpc.example/v3/[redacted]', amount: '10' }
 */
export function createRedactor(options: RedactOptions = {}): Redact {
  const extra = new Set((options.names ?? []).map(squash));
  const known = new Map<string, Name>();
  const nameOf = (name: string): Name => {
    let found = known.get(name);
    if (found === undefined) {
      found = { shown: redactText(name), secrecy: extra.has(squash(name)) ? 'all' : nameSecrecy(name) };
      if (known.size < NAMES_KEPT_MAX) known.set(name, found);
    }
    return found;
  };
  return (value) => new Walk(nameOf).show(value, 'none');
}

/** Text without the secrets that can be told from its form: keys in URLs, credentials after `Bearer`, `password=...`, PEM blocks, JWTs. */
export function redactText(text: string): string {
  return cut(clean(text));
}

/** A URL without userinfo, secret query values and path segments that look like keys. */
export function redactUrl(url: string): string {
  const [, scheme = '', authority = '', path = '', query = '', fragment = ''] =
    /^([^:]+:\/\/)([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?$/.exec(url) ?? [];
  if (scheme === '') return url;
  const at = authority.lastIndexOf('@');
  const host = at < 0 ? authority : `${REDACTED}@${authority.slice(at + 1)}`;
  const segments = path.split('/').map((segment) => (looksLikeKey(segment) ? REDACTED : segment));
  return `${scheme}${host}${segments.join('/')}${redactQuery(query)}${redactQuery(fragment)}`;
}

function nameSecrecy(name: string): Secrecy {
  const words = wordsOf(name);
  if (ABOUT.has(words.at(-1) ?? '')) return 'none';
  const squashed = words.join('');
  if (SECRET_PHRASE.test(squashed)) return 'all';
  return TOKEN_PHRASE.test(squashed) ? 'text' : 'none';
}

function wordsOf(name: string): string[] {
  return name
    .replace(/([a-z\d])([A-Z])/g, '$1 $2')
    .toLowerCase()
    .split(/[^a-z\d]+/)
    .filter((word) => word !== '');
}

function squash(name: string): string {
  return wordsOf(name).join('');
}

function redactQuery(query: string): string {
  if (!query.includes('=')) return looksLikeKey(query.slice(1)) ? `${query.slice(0, 1)}${REDACTED}` : query;
  const pairs = query.slice(1).split('&');
  const shown = pairs.map((pair) => {
    const equals = pair.indexOf('=');
    const name = pair.slice(0, equals);
    const secret = QUERY_SECRET.test(name) || nameSecrecy(name) !== 'none' || looksLikeKey(pair.slice(equals + 1));
    return secret && equals >= 0 ? `${name}=${REDACTED}` : pair;
  });
  return `${query.slice(0, 1)}${shown.join('&')}`;
}

/** Long and random, as API keys are. Addresses and hashes with 0x and slugs of short words are not. */
function looksLikeKey(segment: string): boolean {
  if (segment.length < 20 || !/^[\w.~%=+-]+$/.test(segment) || /^0x[\da-f]+$/i.test(segment)) return false;
  const digit = /\d/.test(segment);
  const mixedCase = /[a-z]/.test(segment) && /[A-Z]/.test(segment);
  if (!/[a-z]/i.test(segment) || !(digit || mixedCase)) return false;
  const longestRun = Math.max(...segment.split(/[._~%=+-]+/).map((run) => run.length));
  const uuid = /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/i.test(segment);
  return uuid || (digit && mixedCase) || longestRun >= (digit ? 16 : 24);
}

function clean(text: string): string {
  if (!SUSPICIOUS.test(text)) return text;
  // What is cut off must not leave the first half of a key behind.
  const scanned = text.length > SCAN_CHARS_MAX ? text.slice(0, SCAN_CHARS_MAX).replace(/\S*$/, '') : text;
  return scanned
    .replace(PEM, REDACTED)
    .replace(URL_TEXT, redactUrl)
    .replace(JWT, REDACTED)
    .replace(SCHEME, `$1$2${REDACTED}`)
    .replace(ASSIGNMENT, `$1$2${REDACTED}`);
}

function cut(text: string): string {
  return text.length > TEXT_CHARS_MAX ? `${text.slice(0, TEXT_CHARS_MAX)}... (${text.length} characters)` : text;
}

function showBytes(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.byteLength, BYTES_SHOWN_MAX)).toString('hex');
  return bytes.byteLength > BYTES_SHOWN_MAX ? `0x${hex}... (${bytes.byteLength} bytes)` : `0x${hex}`;
}

/** One walk through one value. */
class Walk {
  readonly #nameOf: (name: string) => Name;
  readonly #path: object[] = [];

  constructor(nameOf: (name: string) => Name) {
    this.#nameOf = nameOf;
  }

  show(value: unknown, secrecy: Secrecy): Plain {
    switch (typeof value) {
      case 'string':
        return secrecy === 'none' || (secrecy === 'text' && ADDRESS.test(value)) ? redactText(value) : REDACTED;
      case 'number':
        if (secrecy === 'all') return REDACTED;
        return Number.isFinite(value) ? value : String(value);
      case 'bigint':
        return secrecy === 'all' ? REDACTED : cut(value.toString());
      case 'boolean':
        return value;
      case 'undefined':
        return null;
      case 'symbol':
      case 'function':
        return `[${typeof value}]`;
      case 'object':
        if (value === null) return null;
        return secrecy === 'all' ? REDACTED : this.#enter(value, secrecy);
    }
  }

  #enter(value: object, secrecy: Secrecy): Plain {
    if (this.#path.includes(value)) return '[circular]';
    if (this.#path.length >= DEPTH_MAX) return '[too deep]';
    this.#path.push(value);
    try {
      return this.#object(value, secrecy);
    } catch {
      // A getter, a proxy or a toJSON of somebody else threw; a log line must not fail because of it.
      return '[unreadable]';
    } finally {
      this.#path.pop();
    }
  }

  #object(value: object, secrecy: Secrecy): Plain {
    if (value instanceof ArrayBuffer) return this.#object(new Uint8Array(value), secrecy);
    if (ArrayBuffer.isView(value)) {
      return secrecy === 'none' ? showBytes(new Uint8Array(value.buffer, value.byteOffset, value.byteLength)) : REDACTED;
    }
    if (value instanceof Error || isRunnerError(value)) return this.#error(value);
    if (value instanceof Map) return this.#entries(value, secrecy);
    if (Array.isArray(value) || value instanceof Set) return this.#items(value, secrecy);
    if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'Invalid Date' : value.toISOString();
    if (value instanceof URL) return redactText(value.href);
    if ('toJSON' in value && typeof value.toJSON === 'function') return this.show(value.toJSON.call(value), secrecy);
    return this.#entries(Object.entries(value), secrecy);
  }

  #items(values: Iterable<unknown>, secrecy: Secrecy): Plain {
    const shown: Plain[] = [];
    for (const value of values) {
      if (shown.length === ITEMS_MAX) {
        shown.push('... and more');
        break;
      }
      shown.push(this.show(value, secrecy));
    }
    return shown;
  }

  #entries(entries: Iterable<readonly [unknown, unknown]>, inherited: Secrecy): Plain {
    const shown: [string, Plain][] = [];
    for (const [key, value] of entries) {
      if (value === undefined) continue;
      if (shown.length === ITEMS_MAX) {
        shown.push(['...', 'and more']);
        break;
      }
      const name = typeof key === 'string' ? key : JSON.stringify(this.show(key, inherited));
      const { shown: shownName, secrecy } = this.#nameOf(name);
      shown.push([shownName, this.show(value, inherited === 'text' && VALUE.has(name.toLowerCase()) ? 'text' : secrecy)]);
    }
    return Object.fromEntries(shown);
  }

  #error(error: Error): Plain {
    const shown: Record<string, Plain> = { name: this.show(error.name, 'none'), message: redactText(String(error.message)) };
    if ('code' in error && (typeof error.code === 'string' || typeof error.code === 'number'))
      shown['code'] = this.show(error.code, 'none');
    if (isRunnerError(error)) {
      shown['retry'] = error.retry;
      if (Object.keys(error.details).length > 0) shown['details'] = this.show(error.details, 'none');
    }
    const outermost = this.#path.length === 1 || !this.#path.slice(0, -1).some((outer) => outer instanceof Error);
    if (outermost && typeof error.stack === 'string') shown['stack'] = redactText(error.stack);
    if (error instanceof AggregateError) shown['errors'] = this.#items(error.errors as Iterable<unknown>, 'none');
    if (error.cause !== undefined) shown['cause'] = this.show(error.cause, 'none');
    return shown;
  }
}
