/** Vectors about bytes: sizes, text, binary, types, results, errors. Expected encodings are viem's, not ours. */

import { encodeAbiParameters, parseAbiParameters } from 'viem';
import type { ErrorCode } from '../errors.ts';
import { BLUEPRINT } from '../job/call.ts';
import { encodeCompact } from '../job/compact.ts';
import { parseParameters } from '../job/solidity.ts';
import { patterned } from './jobs.ts';
import type { Expected, Vector, VectorCall } from './vector.ts';
import { FAMILIES, VECTOR_JOBS, familyJob } from './vectors-jobs.ts';
import type { Family } from './vectors-jobs.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
/** What base64 in a JSON event of 6 MiB has room for: the limit of the narrowest platform. */
const EVERYWHERE_BYTES_MAX = ((6 * MIB - 64 * KIB) / 4) * 3;
const NOTHING = new Uint8Array();

const bytesOf = (hex: string): Buffer => Buffer.from(hex.slice(2), 'hex');
const utf8 = (text: string): Buffer => Buffer.from(text, 'utf8');
/** `abi.encode`. */
const abi = (types: string, values: readonly unknown[]): Buffer => bytesOf(encodeAbiParameters(parseAbiParameters(types), values as never));

const one =
  (group: string) =>
  (name: string, call: VectorCall, expected: () => Expected): Vector => ({ name, group, calls: [call], expected: () => [expected()] });

const echo = (group: string, name: string, bytes: () => Uint8Array): Vector =>
  one(group)(name, { jobId: VECTOR_JOBS.echo, body: () => bytes() }, () => ({ result: bytes() }));

const failure = (name: string, call: VectorCall, error: { readonly code: ErrorCode; readonly message?: string }): Vector =>
  one('errors')(name, call, () => error);

const sizes: readonly Vector[] = [
  ...[0, 1, 2, 3, 64 * KIB, 64 * KIB + 1, MIB].map((size) => echo('sizes', `${size} bytes both ways`, () => patterned(size))),
  echo('sizes', 'the largest body that every platform takes, both ways', () => patterned(EVERYWHERE_BYTES_MAX)),
  one('sizes')(
    'a request of exactly the limit of the platform',
    { jobId: VECTOR_JOBS.nothing, body: ({ requestBytesMax }) => patterned(requestBytesMax) },
    () => 'none',
  ),
  one('sizes')(
    'one byte above the limit of the platform',
    { jobId: VECTOR_JOBS.nothing, body: ({ requestBytesMax }) => Buffer.alloc(requestBytesMax + 1) },
    () => ({ code: 'PAYLOAD_TOO_LARGE' }),
  ),
  one('sizes')(
    'a request above the limit that is sent all the same',
    { jobId: VECTOR_JOBS.nothing, body: ({ requestBytesMax }) => Buffer.alloc(requestBytesMax + 2 * MIB), isPushed: true },
    () => ({ code: 'PAYLOAD_TOO_LARGE' }),
  ),
  one('sizes')('a result of 3 MiB from a small request', { jobId: VECTOR_JOBS.fill, body: () => abi('uint32', [3 * MIB]) }, () => ({
    result: abi('bytes', [`0x${patterned(3 * MIB).toString('hex')}`]),
  })),
  one('sizes')('a result above every limit', { jobId: VECTOR_JOBS.fill, body: () => abi('uint32', [8 * MIB]) }, () => ({
    code: 'PAYLOAD_TOO_LARGE',
  })),
];

/** One character of each plane that has any, and the ends of them all. */
const PLANES = Array.from({ length: 17 }, (_, plane) => String.fromCodePoint(plane * 0x1_0000 + 0x4e0, plane * 0x1_0000 + 0xfffd)).join('');
const COMPOSED = 'é Å ﬁ 한';
const typedText = (name: string, text: string): Vector =>
  one('unicode')(name, { jobId: familyJob('strings'), body: () => abi('string,string', [text, '']) }, () => ({
    result: abi('string,string', [text, '']),
  }));

const unicode: readonly Vector[] = [
  typedText('text of all planes as a typed argument', PLANES),
  echo('unicode', 'text of all planes as raw bytes', () => utf8(PLANES)),
  typedText('composed and decomposed forms stay what they are', `${COMPOSED} ${COMPOSED.normalize('NFD')} ${COMPOSED.normalize('NFKC')}`),
  typedText('NUL, byte order mark, line separators, quotes and escapes', '\0\ufeff\u2028\u2029\r\n\t"\\\u0085\x7f</script>{}'),
  one('unicode')('text that a job changes', { jobId: VECTOR_JOBS.shout, body: () => abi('string', ['straße, ﬁn, 世界']) }, () => ({
    result: abi('string', ['STRASSE, FIN, 世界']),
  })),
  one('unicode')('a lone surrogate in a typed result is refused', { jobId: VECTOR_JOBS.surrogate, body: NOTHING }, () => ({
    code: 'JOB_RESULT_INVALID',
    message: 'lone surrogate',
  })),
  one('unicode')('a lone surrogate in a raw result becomes U+FFFD', { jobId: VECTOR_JOBS.rawSurrogate, body: NOTHING }, () => ({
    result: utf8('a\ufffdb'),
  })),
  one('unicode')(
    'an argument that is not UTF-8 is refused',
    { jobId: VECTOR_JOBS.shout, body: () => abi('bytes', ['0x61eda080ff62']) },
    () => ({ code: 'JOB_ARGS_INVALID', message: 'UTF-8' }),
  ),
];

const everyPair = (): Buffer => Buffer.from(Uint16Array.from({ length: 65_536 }, (_, pair) => pair).buffer);

const binary: readonly Vector[] = [
  echo('binary', 'every byte', () => Uint8Array.from({ length: 256 }, (_, byte) => byte)),
  echo('binary', 'every pair of bytes', everyPair),
  echo('binary', 'bytes that look like an answer', () => utf8('{"result_base64":"AAAA","metadata":{}}\n')),
  echo('binary', 'bytes that look like the protocol', () => utf8('\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n')),
];

const WORD_MAX = (1n << 256n) - 1n;
const TAG = `0x${'5a'.repeat(32)}` as const;

/** Values at the ends of each family. */
const VALUES: Readonly<Record<Family, readonly unknown[]>> = {
  'unsigned integers': [255, 65_535, 4_294_967_295, (1n << 64n) - 1n, (1n << 128n) - 1n, WORD_MAX],
  'signed integers': [-128, -2_147_483_648, -(1n << 63n), -(1n << 255n)],
  booleans: [true, false],
  addresses: ['0x00000000000000000000000000000000deadbeef'],
  'fixed bytes': ['0xff', '0x00010203', TAG],
  bytes: ['0x', `0x${patterned(1_000).toString('hex')}`],
  strings: ['', 'x'.repeat(33)],
  'fixed arrays': [
    [0, 1, 65_535],
    [
      [true, false],
      [false, true],
    ],
  ],
  'dynamic arrays': [
    [0n, WORD_MAX],
    ['', 'two', 'ü'.repeat(40)],
    [[], ['0x', '0x00']],
  ],
  tuples: [{ id: 7n, inner: { name: 'seven', tag: TAG }, flags: [true, true, false] }, 8],
};

const types: readonly Vector[] = (Object.keys(FAMILIES) as Family[]).map((family) =>
  one('types')(family, { jobId: familyJob(family), body: () => abi(FAMILIES[family], VALUES[family]) }, () => ({
    result: abi(FAMILIES[family], VALUES[family]),
  })),
);

const PAIR = parseParameters('uint64 x, string name');
const compact = (): Uint8Array => encodeCompact(PAIR, [7n, 'grün']);
const inAbi = (): Uint8Array => abi('uint64,string', [7n, 'grün']);
const codec = (name: string, metadata: VectorCall['metadata'] & {}, bodies: { of: () => Uint8Array; to: () => Uint8Array }): Vector =>
  one('codec')(name, { jobId: VECTOR_JOBS.typed, body: () => bodies.of(), metadata }, () => ({ result: bodies.to() }));
const PARAMS = [BLUEPRINT.paramsCodec, 'compact'] as const;
const RESULT = [BLUEPRINT.resultCodec, 'compact'] as const;

const codecs: readonly Vector[] = [
  codec('compact arguments and result', [PARAMS, RESULT], { of: compact, to: compact }),
  codec('compact arguments, result in ABI', [PARAMS], { of: compact, to: inAbi }),
  codec('arguments in ABI, compact result', [RESULT], { of: inAbi, to: compact }),
  one('codec')(
    'compact arguments that break off',
    { jobId: VECTOR_JOBS.typed, body: () => compact().subarray(0, 9), metadata: [PARAMS] },
    () => ({ code: 'JOB_ARGS_INVALID' }),
  ),
  one('codec')('a codec that nobody knows', { jobId: VECTOR_JOBS.typed, body: inAbi, metadata: [[BLUEPRINT.paramsCodec, 'zip']] }, () => ({
    code: 'JOB_ARGS_INVALID',
    message: 'zip',
  })),
];

const results: readonly Vector[] = [
  one('results')('none', { jobId: VECTOR_JOBS.nothing, body: utf8('x') }, () => 'none'),
  one('results')('one value', { jobId: VECTOR_JOBS.square, body: () => abi('uint64', [12n]) }, () => ({ result: abi('uint64', [144n]) })),
  one('results')('many values', { jobId: VECTOR_JOBS.several, body: () => abi('uint8', [200]) }, () => ({
    result: abi('uint8,string,bytes', [200, 'x'.repeat(200), `0x${patterned(200).toString('hex')}`]),
  })),
  echo('results', 'the largest job id', () => utf8('last')),
  one('results')('a job that prints', { jobId: VECTOR_JOBS.noisy, body: utf8('quiet') }, () => ({ result: utf8('quiet') })),
].map((vector) =>
  vector.name === 'the largest job id' ? { ...vector, calls: [{ jobId: VECTOR_JOBS.last, body: utf8('last') }] } : vector,
);

const errors: readonly Vector[] = [
  failure('the job throws', { jobId: VECTOR_JOBS.fail, body: NOTHING }, { code: 'JOB_FAILED', message: 'the oven is cold' }),
  failure('the job throws text', { jobId: VECTOR_JOBS.throwText, body: NOTHING }, { code: 'JOB_FAILED', message: 'just text' }),
  failure(
    'the job rejects with an error and a code',
    { jobId: VECTOR_JOBS.failLater, body: NOTHING },
    { code: 'JOB_REJECTED', message: 'not today' },
  ),
  failure(
    'text beyond ASCII in an error',
    { jobId: VECTOR_JOBS.reject, body: utf8('größer \u{1f980}') },
    { code: 'JOB_ARGS_INVALID', message: 'größer \u{1f980}' },
  ),
  failure(
    'a very long error',
    { jobId: VECTOR_JOBS.reject, body: () => Buffer.alloc(100_000, 'e') },
    { code: 'JOB_ARGS_INVALID', message: 'e'.repeat(2_000) },
  ),
  failure(
    'an error with a code that is not the job’s to use',
    { jobId: VECTOR_JOBS.foreign, body: NOTHING },
    { code: 'JOB_FAILED', message: 'the ledger is fine' },
  ),
  failure(
    'an extractor that finds nothing',
    { jobId: VECTOR_JOBS.needy, body: NOTHING },
    { code: 'JOB_REJECTED', message: 'x-tangle-caller' },
  ),
  failure('a job that nobody has', { jobId: 4_000_000n, body: NOTHING }, { code: 'JOB_UNKNOWN' }),
  failure('a negative job id', { jobId: -1n, body: NOTHING }, { code: 'JOB_ID_INVALID' }),
  failure('a job id of more than 256 bits', { jobId: WORD_MAX + 1n, body: NOTHING }, { code: 'JOB_ID_INVALID' }),
  failure('arguments that are too short', { jobId: VECTOR_JOBS.square, body: new Uint8Array(31) }, { code: 'JOB_ARGS_INVALID' }),
  failure('no arguments where some are needed', { jobId: VECTOR_JOBS.square, body: NOTHING }, { code: 'JOB_ARGS_INVALID' }),
  failure('a result that does not fit its type', { jobId: VECTOR_JOBS.wrong, body: NOTHING }, { code: 'JOB_RESULT_INVALID' }),
];

export const dataVectors: readonly Vector[] = [...sizes, ...unicode, ...binary, ...types, ...codecs, ...results, ...errors];
