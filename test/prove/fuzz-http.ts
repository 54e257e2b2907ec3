/** Requests that are damaged byte by byte: lines, headers, framing, paths. */

import type { Random } from '../../src/testing/fake-clock.ts';
import { ADMIN_TOKEN } from './fuzz-gateway.ts';

export interface Input {
  /** What was done. */
  readonly what: string;
  readonly bytes: Buffer;
  /** Any other answer than a refusal is wrong. */
  readonly mustRefuse: boolean;
  /** What it begins with is in order: its answer comes first, and is none of refusal. */
  readonly beginsSound?: boolean;
}

export type Header = readonly [name: string, value: string];

export interface RequestParts {
  readonly method?: string;
  readonly target?: string;
  readonly version?: string;
  readonly headers?: readonly Header[];
  readonly body?: string | Uint8Array;
}

const HOST: Header = ['Host', '127.0.0.1'];
export const ADMIN: Header = ['Authorization', `Bearer ${ADMIN_TOKEN}`];

/** Exactly as told: nothing is checked or completed. */
export function requestOf({
  method = 'GET',
  target = '/healthz',
  version = 'HTTP/1.1',
  headers = [HOST, ADMIN],
  body = '',
}: RequestParts): Buffer {
  const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.concat([Buffer.from(`${method} ${target} ${version}\r\n${lines.join('')}\r\n`, 'latin1'), Buffer.from(body)]);
}

/** A request with a body of the length that it says. */
export function framed({ headers = [ADMIN], body = '', ...parts }: RequestParts): Buffer {
  return requestOf({ ...parts, headers: [HOST, ...headers, ['Content-Length', String(Buffer.byteLength(body))]], body });
}

const CALL = '/api/v1/functions/fuzz-call/invoke';
const JSON_HEADER: Header = ['Content-Type', 'application/json'];
const LINE_BREAKS = ['\r\n', '\n', '\r', '\r\r\n', '\n\r', '\u0000', '\u000b', '\u0085', ' \r\n '];
const CONTROLS = ['\u0000', '\u0001', '\u0008', '\u000b', '\u001f', '\u007f', '\u00ff', '\u0080'];

/** One of the requests that work. */
function sound(random: Random): RequestParts {
  const body = JSON.stringify({ number: random.uint32() });
  const lengths: Header = ['Content-Length', String(body.length)];
  return random.pick<RequestParts>([
    {},
    { target: '/api/v1/info' },
    { target: '/api/v1/functions?limit=1' },
    { method: 'HEAD', target: '/api/v1/info' },
    { method: 'POST', target: CALL, headers: [HOST, ADMIN, JSON_HEADER, lengths], body },
    { method: 'POST', target: CALL, headers: [HOST, ADMIN, ['Transfer-Encoding', 'chunked']], body: chunked(body) },
    { method: 'POST', target: '/2015-03-31/functions/fuzz-call/invocations', headers: [HOST, ADMIN, lengths], body },
    { method: 'POST', target: '/api/v1/functions/fuzz-call/stream', headers: [HOST, ADMIN, lengths], body },
  ]);
}

function chunked(body: string): string {
  return `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
}

const METHODS = [
  '',
  'get',
  'G E T',
  'GET\u0000',
  'BREW',
  'PRI',
  'CONNECT',
  'TRACE',
  'PROPFIND',
  'M-SEARCH',
  'OPTIONS',
  'HEAD',
  '\u00fc',
  'GET\t',
  'QUERY',
  'A'.repeat(5_000),
  '(GET)',
  'SOURCE',
  'LINK',
];
const VERSIONS = [
  '',
  'HTTP/0.9',
  'HTTP/1.2',
  'HTTP/2.0',
  'HTTP/2',
  'HTTP/11',
  'http/1.1',
  'HTTP/1.1 ',
  'HTTP/1.',
  'HTP/1.1',
  'HTTP/-1.1',
  'HTTP/1.1\u0000',
  'HTTP/1.0',
  'HTTP/9999999999.1',
  'RTSP/1.0',
  'ICE/1.0',
];
const TARGETS = [
  '',
  '*',
  'healthz',
  'http://127.0.0.1/healthz',
  'http://other.example/healthz',
  '127.0.0.1:80',
  '//',
  '/?',
  '/#a',
  '/a b',
  '/\u0000',
  '/\u00e4',
  '/%',
  '/%zz',
  '/%u0041',
  '/healthz?a=%00',
  '/healthz?%',
  `/${'a'.repeat(9_000)}`,
  `/${'a/'.repeat(4_000)}`,
  `/healthz?${'a=1&'.repeat(3_000)}`,
  'javascript:1',
  '/healthz#x',
  '\\healthz',
];
const TRICKS = [
  '/api/v1/functions/../info',
  '/api/v1/functions/%2e%2e/info',
  '/api/v1/functions/%2e/x',
  '/api/v1//info',
  '//api/v1/info',
  '/api/v1/functions/a%2fb',
  '/api/v1/functions/a%5cb',
  '/api/v1/functions/%00',
  '/api/v1/functions/%c0%af',
  '/api/v1/functions/%ff',
  '/api/v1/functions/..%2f..%2fetc%2fpasswd/code',
  '/api/v1/functions/%252e%252e/code',
  '/api/v1/functions/;/code',
  '/api/v1/functions/a\\..\\b',
  '/../../../../etc/passwd',
  '/2015-03-31/functions/..%2f..%2fx',
  '/2018-10-31/layers/..%2f/versions/1',
  '/api/functions/%2e%2e',
  '/api/v1/info/..',
  '/api/v1/functions/con%0d%0aset-cookie:a',
  '/.%2e/info',
  '/api/v1/functions/%EF%BC%8F..',
];
const HOSTS = [
  '',
  'a b',
  'a/b',
  'a\\b',
  '[::1',
  '::1',
  'evil@127.0.0.1',
  '127.0.0.1:99999999',
  '127.0.0.1, other',
  'a'.repeat(300),
  '127.0.0.1\u0000',
  '%31',
  '<x>',
];
const LENGTHS = [
  '-1',
  '+2',
  '0x2',
  '2e0',
  '2.0',
  ' ',
  '',
  '18446744073709551616',
  '9'.repeat(40),
  '2, 2',
  '2,3',
  '\u0662',
  '2 2',
  '00000000000000000000002',
  '1073741824',
  'NaN',
  'chunked',
];
const ENCODINGS = [
  'gzip',
  'chunked, chunked',
  'chunked, gzip',
  'gzip, chunked',
  'xchunked',
  'identity',
  '',
  ',chunked',
  'chunked;q=1',
  '\u000bchunked',
  'chunked\u0000',
  'CHUNKED',
  '"chunked"',
  'chunked,',
  'identity, chunked',
];
const CHUNKS = [
  '2\n{}\r\n0\r\n\r\n',
  '2\r\n{}0\r\n\r\n',
  '-2\r\n{}\r\n0\r\n\r\n',
  '0x2\r\n{}\r\n0\r\n\r\n',
  'ffffffffffffffff\r\n{}',
  '10000000000000002\r\n{}\r\n0\r\n\r\n',
  '2 \r\n{}\r\n0\r\n\r\n',
  '2;a=b\r\n{}\r\n0\r\n\r\n',
  `2;${'x'.repeat(20_000)}\r\n{}\r\n0\r\n\r\n`,
  '2;\u0000\r\n{}\r\n0\r\n\r\n',
  '2\r\n{}\r\n0\r\nX: 1\r\n\r\n',
  '2\r\n{}\r\n0\r\nContent-Length: 7\r\n\r\n',
  '2\r\n{}\r\n0\r\nX 1\r\n\r\n',
  '2\r\n{}\r\n',
  '2\r\n{',
  'g\r\n',
  '\r\n',
  '2\r\n{}\r\n00000\r\n\r\n',
  '2\r\n{}\r\n0\r\n\n',
  '1\r\n{\r\n1\r\n}\r\n0\r\n\r\nGET',
  '02\r\n{}\r\n0\r\n\r\n',
];
const STRANGE: readonly Header[] = [
  ['', 'x'],
  ['A b', 'x'],
  ['A\t', 'x'],
  ['A\u0000', 'x'],
  ['A:', 'x'],
  ['\u00e4', 'x'],
  ['Expect', '100-continue'],
  ['Expect', 'a miracle'],
  ['Upgrade', 'h2c'],
  ['Connection', 'upgrade, close, , ,'],
  ['Connection', '\u0000'],
  ['Transfer-Encoding', 'chunked'],
  ['Content-Length', '3'],
  ['Trailer', 'Content-Length'],
  ['Range', 'bytes=0-'],
  ['Accept-Encoding', 'gzip;q=x'],
  ['Cookie', 'a'.repeat(10_000)],
  ['X-Large', 'a'.repeat(20_000)],
  ['Origin', 'null'],
  ['Origin', 'https://evil.example'],
  ['Sec-Fetch-Site', 'cross-site'],
  ['X-Forwarded-Host', 'x'],
  ['Host', 'other'],
  ['Authorization', 'Bearer'],
  ['Traceparent', '00-0-0-0'],
  ['X-Timeout-Ms', '-1'],
  ['X-Http-Method-Override', 'DELETE'],
  ['Proxy-Connection', 'keep-alive'],
  ['Keep-Alive', 'timeout=99999999999'],
  ['TE', 'trailers'],
  ['X-Amz-Client-Context', '\u00ff\u00fe'],
];

const insert = (text: string, at: number, what: string): string => text.slice(0, at) + what + text.slice(at);
const plain = (parts: RequestParts): Input => ({ what: '', bytes: requestOf(parts), mustRefuse: false });

type Damage = (random: Random) => Input;

const DAMAGES: Readonly<Record<string, Damage>> = {
  method: (random) => plain({ ...sound(random), method: random.pick(METHODS) }),
  version: (random) => plain({ ...sound(random), version: random.pick(VERSIONS) }),
  target: (random) => plain({ ...sound(random), target: random.pick(TARGETS) }),
  path: (random) => ({
    ...plain({ method: random.pick(['GET', 'GET', 'DELETE', 'PUT', 'HEAD']), target: random.pick(TRICKS) }),
    mustRefuse: true,
  }),
  host: (random) =>
    plain({
      ...sound(random),
      headers: [
        random.pick([
          ['Host', random.pick(HOSTS)],
          ['X', 'no host'],
        ]),
        ADMIN,
      ],
    }),
  'two hosts': (random) => ({ ...plain({ ...sound(random), headers: [HOST, HOST, ADMIN] }), mustRefuse: true }),
  length: (random) => plain({ method: 'POST', target: CALL, headers: [HOST, ADMIN, ['Content-Length', random.pick(LENGTHS)]], body: '{}' }),
  'two lengths': (random) =>
    plain({
      method: 'POST',
      target: CALL,
      headers: [HOST, ADMIN, ['Content-Length', '2'], ['Content-Length', random.pick(['2', '3', '0'])]],
      body: '{}',
    }),
  'length and chunks': (random) =>
    plain({
      method: 'POST',
      target: CALL,
      headers: random.shuffled<Header>([HOST, ADMIN, ['Content-Length', random.pick(['2', '12', '0'])], ['Transfer-Encoding', 'chunked']]),
      body: chunked('{}'),
    }),
  encoding: (random) =>
    plain({
      method: 'POST',
      target: CALL,
      headers: [HOST, ADMIN, ['Transfer-Encoding', random.pick(ENCODINGS)]],
      body: random.pick([chunked('{}'), '{}']),
    }),
  chunks: (random) =>
    plain({ method: 'POST', target: CALL, headers: [HOST, ADMIN, ['Transfer-Encoding', 'chunked']], body: random.pick(CHUNKS) }),
  'lying length': (random) =>
    plain({
      method: 'POST',
      target: CALL,
      headers: [HOST, ADMIN, ['Content-Length', String(random.int(0, 60))]],
      body: `{"a":1}${random.pick(['', 'GET / HTTP/1.1\r\n', '\u0000\u0001', '\r\n\r\n'])}`,
    }),
  'strange header': (random) => plain(withHeader(random, random.pick(STRANGE))),
  'control in header': (random) => plain(withHeader(random, ['X-Text', `a${random.pick(CONTROLS)}b`])),
  'injected header': (random) =>
    plain(
      withHeader(random, [
        'X-Text',
        `a${random.pick(LINE_BREAKS)}${random.pick(['X-Other: b', 'Host: other', ' folded', 'Content-Length: 9', ': empty', '\u0000'])}`,
      ]),
    ),
  'many headers': (random) =>
    plain({
      ...sound(random),
      headers: [HOST, ADMIN, ...Array.from({ length: random.int(90, 1_500) }, (_, index): Header => [`X-${index}`, 'y'])],
    }),
  'large header': (random) =>
    plain(withHeader(random, ['X'.repeat(random.pick([1, 5_000, 17_000])), 'y'.repeat(random.int(10_000, 40_000))])),
  'line breaks': (random) => ({
    ...plain({}),
    bytes: Buffer.from(requestOf(sound(random)).toString('latin1').replaceAll('\r\n', random.pick(LINE_BREAKS)), 'latin1'),
  }),
  'before it': (random) => ({
    ...plain({}),
    bytes: Buffer.concat([
      Buffer.from(random.pick(['\r\n', '\r\n\r\n\r\n', '\n', ' ', '\u0000', '\ufeff', '\r'])),
      requestOf(sound(random)),
    ]),
  }),
  truncated: (random) => ({ ...plain({}), bytes: cut(random, requestOf(sound(random))) }),
  'flipped bytes': (random) => ({ ...plain({}), bytes: flip(random, requestOf(sound(random))) }),
  'inserted byte': (random) => {
    const text = requestOf(sound(random)).toString('latin1');
    return {
      ...plain({}),
      bytes: Buffer.from(insert(text, random.int(0, text.length), random.pick([...CONTROLS, ...LINE_BREAKS, ' ', ':', '\t'])), 'latin1'),
    };
  },
  'not HTTP': (random) => ({
    ...plain({}),
    bytes: random.pick<() => Buffer>([
      () => Buffer.from(random.bytes(random.int(1, 400))),
      () => Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\u0000\u0000\u0000\u0004'),
      () => Buffer.from('160301020001000001fc0303', 'hex'),
      () => Buffer.from('SSH-2.0-x\r\n'),
      () => Buffer.from('\u0000'.repeat(random.int(1, 20_000))),
      () => Buffer.from('{"json":true}\n'),
    ])(),
  }),
  pipeline: (random) => {
    const rest = Array.from({ length: random.int(1, 4) }, () => (random.chance(0.5) ? requestOf(sound(random)) : damaged(random).bytes));
    return { ...plain({}), bytes: Buffer.concat([requestOf(sound(random)), ...rest]), beginsSound: true };
  },
};

function withHeader(random: Random, header: Header): RequestParts {
  const parts = sound(random);
  return { ...parts, headers: [...(parts.headers ?? [HOST, ADMIN]), header] };
}

export function cut(random: Random, bytes: Buffer): Buffer {
  return bytes.subarray(0, random.int(0, bytes.length - 1));
}

export function flip(random: Random, bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  for (let count = random.int(1, 4); count > 0; count -= 1) {
    const at = random.int(0, copy.length - 1);
    copy[at] = random.chance(0.5) ? (copy[at] ?? 0) ^ (1 << random.int(0, 7)) : random.int(0, 255);
  }
  return copy;
}

const NAMES = Object.keys(DAMAGES);
const SINGLE = NAMES.filter((name) => name !== 'pipeline');

function damaged(random: Random): Input {
  return (DAMAGES[random.pick(SINGLE)] as Damage)(random);
}

export function httpInput(random: Random): Input {
  const what = random.pick(NAMES);
  const input = (DAMAGES[what] as Damage)(random);
  return { ...input, what: `bytes: ${what}` };
}

const KEYS = ['dGhlIHNhbXBsZSBub25jZQ==', '', 'short', 'a'.repeat(5_000), 'dGhlIHNhbXBsZSBub25jZQ', '\u00ff'];

/** Handshakes of a WebSocket, most of them wrong. */
export function handshakeInput(random: Random): Input {
  const headers = new Map<string, string>([
    ['Host', '127.0.0.1'],
    ['Authorization', ADMIN[1]],
    ['Upgrade', 'websocket'],
    ['Connection', 'Upgrade'],
    ['Sec-WebSocket-Key', KEYS[0] ?? ''],
    ['Sec-WebSocket-Version', '13'],
  ]);
  const faults: readonly (() => void)[] = [
    () => headers.set('Upgrade', random.pick(['', 'h2c', 'WebSocket ', 'web socket', 'websocket, h2c', 'tls/1.2'])),
    () => headers.set('Connection', random.pick(['close', 'upgrade, close', '', 'keep-alive'])),
    () => headers.set('Sec-WebSocket-Key', random.pick(KEYS)),
    () => headers.set('Sec-WebSocket-Version', random.pick(['', '0', '12', '14', '-13', '1e1', '13, 8', '999999999999'])),
    () =>
      headers.set(
        'Sec-WebSocket-Protocol',
        random.pick(['', ',', 'a b', 'bearer.', 'bearer.wrong', 'x, x', '\u0000', 'blueprint.v1,blueprint.v1', 'a'.repeat(9_000)]),
      ),
    () =>
      headers.set(
        'Sec-WebSocket-Extensions',
        random.pick(['permessage-deflate; client_max_window_bits=99', ';;;', 'x; y="', 'permessage-deflate', '\u00ff']),
      ),
    () => headers.set('Authorization', random.pick(['', 'Bearer wrong', 'Basic x', 'AWS4-HMAC-SHA256 x'])),
    () => headers.set('Origin', random.pick(['null', 'https://evil.example', ''])),
    () => headers.set('Content-Length', random.pick(['2', '-1', '0'])),
    () => headers.delete(random.pick([...headers.keys()])),
  ];
  for (let count = random.int(1, 2); count > 0; count -= 1) random.pick(faults)();
  const target = random.chance(0.8)
    ? '/api/v1/ws'
    : random.pick(['/', '/api/v1/ws/', '/api/v1/ws?x', '/api/v1/info', 'ws', '/api/v1/%77s']);
  const method = random.chance(0.9) ? 'GET' : random.pick(['POST', 'HEAD', 'CONNECT', 'PUT']);
  const version = random.chance(0.95) ? 'HTTP/1.1' : 'HTTP/1.0';
  const bytes = requestOf({ method, target, version, headers: [...headers] });
  return { what: 'handshake', bytes: random.chance(0.05) ? flip(random, bytes) : bytes, mustRefuse: false };
}
