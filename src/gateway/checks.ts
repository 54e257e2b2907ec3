/** What a request must fulfil before anything of it is believed: pure checks of its head. */

import type { IncomingMessage } from 'node:http';
import { BlockList, isIP } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { RunnerError } from '../errors.ts';
import { badRequest } from './http.ts';

/** A second one of these is no list but an attack: proxies and servers take different ones. */
const SINGLE = new Set(
  'host expect authorization x-api-key content-length content-type transfer-encoding origin idempotency-key x-blueprint-config x-amz-date x-amz-content-sha256 x-amz-invocation-type x-amz-log-type x-amz-client-context traceparent sec-websocket-key sec-websocket-version'.split(
    ' ',
  ),
);
const HOST = /^(?:[A-Za-z0-9_.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::\d{1,5})?$/;

/** Headers that a route reads, and those that the AWS SDK sends from a page. */
const FROM_PAGES = [
  'authorization, content-type, x-api-key, idempotency-key, traceparent, last-event-id, x-timeout-ms, x-log-type, x-blueprint-config',
  'x-amz-invocation-type, x-amz-log-type, x-amz-client-context, x-amzn-trace-id',
  'x-amz-date, x-amz-content-sha256, x-amz-user-agent, amz-sdk-invocation-id, amz-sdk-request',
];

/** What a page of an allowed origin may send. */
export const PREFLIGHT = {
  'access-control-allow-methods': 'GET, POST, PUT, PATCH, DELETE',
  'access-control-allow-headers': FROM_PAGES.join(', '),
  'access-control-max-age': '600',
};

export type Headers = Readonly<Record<string, string | undefined>>;

type Head = Pick<IncomingMessage, 'headers' | 'rawHeaders' | 'httpVersion'>;

/**
 * Headers by name in lower case, several of one name as a list. Names that somebody chose are to be asked for by `Object.hasOwn`. Throws
 * `REQUEST_INVALID`, also for what the parser lets pass.
 */
export function headersOf({ headers: parsed, rawHeaders, httpVersion }: Head): Headers {
  if (httpVersion !== '1.1' && httpVersion !== '1.0') throw badRequest(`HTTP/${httpVersion} is not spoken here`);
  // Each name came once: then Node's reading of them is ours.
  const headers = isPlain(rawHeaders, parsed) ? (parsed as Headers) : joined(rawHeaders);
  const { host, expect } = headers;
  if (expect !== undefined && !/^100-continue$/i.test(expect)) throw badRequest('nothing can be expected but 100-continue', 417);
  if (host === undefined || !HOST.test(host)) throw badRequest('the request has no Host header, or one that is no host name');
  return headers;
}

/** Clients come by few sets of names; to count those of an object takes longer than to compare them. */
let lastPlainNames: readonly string[] = [];

function isPlain(rawHeaders: readonly string[], parsed: IncomingMessage['headers']): boolean {
  if (rawHeaders.length === lastPlainNames.length * 2 && lastPlainNames.every((name, index) => rawHeaders[index * 2] === name)) return true;
  const isPlain = Object.keys(parsed).length * 2 === rawHeaders.length && parsed['set-cookie'] === undefined;
  if (isPlain) lastPlainNames = rawHeaders.filter((_, index) => index % 2 === 0);
  return isPlain;
}

function joined(rawHeaders: readonly string[]): Headers {
  const headers: Record<string, string> = {};
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = (rawHeaders[index] ?? '').toLowerCase();
    const value = rawHeaders[index + 1] ?? '';
    const before = Object.hasOwn(headers, name) ? headers[name] : undefined;
    if (before !== undefined && SINGLE.has(name)) throw badRequest(`the request has more than one header ${name}`);
    headers[name] = before === undefined ? value : `${before}, ${value}`;
  }
  return headers;
}

/** When others could see the end of the request elsewhere: then what follows on the connection is nobody's. */
export function framingError({ headers }: Pick<IncomingMessage, 'headers'>): RunnerError | undefined {
  const { 'transfer-encoding': encoding = 'chunked' } = headers;
  return encoding.toLowerCase() === 'chunked' ? undefined : badRequest('the only transfer encoding taken is chunked');
}

export interface OriginRules {
  /** Nobody says who he is: then a browser must not be talked into speaking for him. */
  readonly isOpen: boolean;
  readonly corsOrigins: readonly string[];
  readonly scheme: 'http' | 'https';
}

/**
 * Refuses what a web page of somebody else sends: its Origin is another one; or its host name was made to point here (DNS rebinding), which
 * only a name that is not of this machine gives away. Returns the origin to which the answer may be shown. Throws `FORBIDDEN`.
 */
export function checkOrigin(headers: Headers, { isOpen, corsOrigins, scheme }: OriginRules): string | undefined {
  const { host = '', origin } = headers;
  if (isOpen && !isLoopbackHost(host)) {
    throw new RunnerError(
      'FORBIDDEN',
      `the Host header is ${host}; without credentials only localhost and loopback addresses are answered`,
    );
  }
  if (origin !== undefined) {
    if (corsOrigins.includes(origin)) return origin;
    if (origin !== `${scheme}://${host}`)
      throw new RunnerError('FORBIDDEN', `pages of ${origin.slice(0, 200)} may not use this gateway; allow the origin if they should`);
    return undefined;
  }
  const site = headers['sec-fetch-site'];
  if (isOpen && site !== undefined && site !== 'same-origin' && site !== 'none') {
    throw new RunnerError('FORBIDDEN', 'pages of other sites may not use this gateway');
  }
  return undefined;
}

/** Whether a browser would send just this: any other text is the origin of no page. */
export function isOrigin(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, host, origin } = new URL(text);
  // Extensions have origins of their own schemes, which URL knows none of.
  return text === (origin === 'null' ? `${protocol}//${host}` : origin) && host !== '';
}

/** Clients come by few names. */
let lastLoopbackHost = '';

function isLoopbackHost(host: string): boolean {
  if (host === lastLoopbackHost) return true;
  const isLoopback = isLoopbackName(hostNameOf(host));
  if (isLoopback) lastLoopbackHost = host;
  return isLoopback;
}

function hostNameOf(host: string): string {
  return host.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4');
LOOPBACK.addAddress('::1', 'ipv6');

/** Whether the name or address can only mean this machine. */
export function isLoopbackName(name: string): boolean {
  // Nearly always one of these: a list of blocks takes longer to ask.
  if (name === '127.0.0.1' || name.toLowerCase() === 'localhost') return true;
  const version = isIP(name);
  return version !== 0 && LOOPBACK.check(name, version === 6 ? 'ipv6' : 'ipv4');
}

/** Path and query of the request line, the query without its question mark. */
export function targetOf(url: string): { readonly path: string; readonly query: string } {
  const at = url.indexOf('?');
  return at < 0 ? { path: url, query: '' } : { path: url.slice(0, at), query: url.slice(at + 1) };
}

/** The common name of a client certificate that TLS has verified. */
export function certificateNameOf({ socket }: IncomingMessage): string | undefined {
  const tls = 'getPeerCertificate' in socket ? (socket as TLSSocket) : undefined;
  const name = tls?.authorized ? tls.getPeerCertificate().subject?.CN : undefined;
  return typeof name === 'string' ? name : undefined;
}
