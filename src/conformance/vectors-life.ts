/** Vectors about the life of a call: time, cancelling, concurrency, streams, metadata, isolation, crashes. */

import { TANGLE, TRACE } from '../job/call.ts';
import { patterned } from './jobs.ts';
import type { Expected, Vector, VectorCall } from './vector.ts';
import { VECTOR_JOBS } from './vectors-jobs.ts';

/** A variable of the runner that no job may see, and one that is set for the function. */
export const SECRET = { name: 'BLUEPRINT_CONFORMANCE_SECRET', value: 'only the runner may see this' } as const;
export const GIVEN = { name: 'BLUEPRINT_CONFORMANCE_GIVEN', value: 'to the function: ü' } as const;

const MIB = 1024 * 1024;
const DAY_MS = 86_400_000;
const NOTHING = new Uint8Array();
const CALLER = `0x${'ab'.repeat(20)}`;
const TRACE_PARENT = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';

const text = (value: string): Buffer => Buffer.from(value, 'utf8');
const json = (value: unknown): Buffer => text(JSON.stringify(value));

const vector =
  (group: string) =>
  (name: string, call: VectorCall, rest: Omit<Partial<Vector>, 'expected'> & { readonly expected: Expected }): Vector => {
    const { expected, ...more } = rest;
    return { name, group, calls: [call], expected: () => [expected], ...more };
  };

const time: readonly Vector[] = [
  vector('time')(
    'slow, but in time',
    { jobId: VECTOR_JOBS.wait, body: text('400'), timeoutMs: 20_000 },
    { expected: { result: text('400') } },
  ),
  vector('time')(
    'a deadline in a hundred days',
    { jobId: VECTOR_JOBS.wait, body: text('20'), timeoutMs: 100 * DAY_MS },
    { expected: { result: text('20') } },
  ),
  vector('time')(
    'the deadline passes while the job waits',
    { jobId: VECTOR_JOBS.wait, body: text('60000'), timeoutMs: 800 },
    { expected: { code: 'EXECUTOR_TIMEOUT' } },
  ),
  vector('time')(
    'the deadline passes and the job does not look at its signal',
    { jobId: VECTOR_JOBS.hang, body: NOTHING, timeoutMs: 800 },
    { expected: { code: 'EXECUTOR_TIMEOUT' } },
  ),
  vector('time')(
    'the deadline is over before the call',
    { jobId: VECTOR_JOBS.echo, body: NOTHING, timeoutMs: -1_000 },
    { expected: { code: 'EXECUTOR_TIMEOUT' } },
  ),
  vector('time')(
    'the deadline passes in an endless loop',
    { jobId: VECTOR_JOBS.spin, body: NOTHING, timeoutMs: 1_200 },
    { needs: ['process'], expected: { code: 'EXECUTOR_TIMEOUT' } },
  ),
  vector('time')(
    'a call after one that took too long',
    { jobId: VECTOR_JOBS.echo, body: text('alive') },
    { expected: { result: text('alive') } },
  ),
];

const cancelling: readonly Vector[] = [
  vector('cancelling')(
    'while the job runs',
    { jobId: VECTOR_JOBS.wait, body: text('60000'), abortAfterMs: 300 },
    { expected: { code: 'ABORTED' } },
  ),
  vector('cancelling')('before the call', { jobId: VECTOR_JOBS.echo, body: NOTHING, abortAfterMs: 0 }, { expected: { code: 'ABORTED' } }),
  vector('cancelling')(
    'a call after one that was cancelled',
    { jobId: VECTOR_JOBS.echo, body: text('alive') },
    { expected: { result: text('alive') } },
  ),
];

const EIGHT = Array.from({ length: 8 }, (_, index) => index);
const bodyOf = (index: number): Buffer => Buffer.concat([text(`call ${index} `), patterned(index * 9_973)]);

const concurrency: readonly Vector[] = [
  {
    name: 'eight at once keep their identity',
    group: 'concurrency',
    calls: EIGHT.map((index) => ({ jobId: VECTOR_JOBS.echo, body: () => bodyOf(index), metadata: [[TANGLE.callId, String(index)]] })),
    expected: () => EIGHT.map((index) => ({ result: bodyOf(index), metadata: [[TANGLE.callId, String(index)]] })),
  },
  {
    name: 'a call that fails does not disturb those beside it',
    group: 'concurrency',
    calls: EIGHT.map((index) => ({ jobId: index % 2 === 0 ? VECTOR_JOBS.echo : VECTOR_JOBS.fail, body: text(`${index}`) })),
    expected: () => EIGHT.map((index) => (index % 2 === 0 ? { result: text(`${index}`) } : { code: 'JOB_FAILED' as const })),
  },
  {
    name: 'eight slow ones at once are all in time',
    group: 'concurrency',
    calls: EIGHT.map(() => ({ jobId: VECTOR_JOBS.wait, body: text('200') })),
    expected: () => EIGHT.map(() => ({ result: text('200') })),
  },
];

const streams: readonly Vector[] = [
  vector('streams')(
    'chunks in order and whole',
    { jobId: VECTOR_JOBS.chunks, body: text('100'), isStreamed: true },
    {
      expected: { result: text(Array.from({ length: 100 }, (_, index) => `chunk ${index}; `).join('')) },
    },
  ),
  {
    name: '1 MiB',
    group: 'streams',
    calls: [{ jobId: VECTOR_JOBS.echo, body: () => patterned(MIB), isStreamed: true }],
    expected: () => [{ result: patterned(MIB) }],
  },
  vector('streams')(
    'of a job without a result',
    { jobId: VECTOR_JOBS.nothing, body: NOTHING, isStreamed: true },
    { expected: { result: NOTHING } },
  ),
  vector('streams')(
    'of a job that throws at once',
    { jobId: VECTOR_JOBS.fail, body: NOTHING, isStreamed: true },
    { expected: { code: 'JOB_FAILED', message: 'the oven is cold' } },
  ),
  vector('streams')(
    'that break off in the middle',
    { jobId: VECTOR_JOBS.breakOff, body: text('10'), isStreamed: true },
    { expected: { code: 'JOB_FAILED', message: 'broke off after 10' } },
  ),
  vector('streams')(
    'that are not over at the deadline',
    { jobId: VECTOR_JOBS.drip, body: NOTHING, timeoutMs: 800, isStreamed: true },
    { expected: { code: 'EXECUTOR_TIMEOUT' } },
  ),
  vector('streams')(
    'asked for as a whole',
    { jobId: VECTOR_JOBS.chunks, body: text('3') },
    { expected: { result: text('chunk 0; chunk 1; chunk 2; ') } },
  ),
];

const SEEN: readonly (readonly [string, string])[] = [
  ['__proto__', 'a name like any other'],
  ['empty', ''],
  ['lines', 'one\r\ntwo'],
  ['long', 'x'.repeat(5_000)],
  ['spaces', '  around  '],
  ['x-blueprint-shape', 'round'],
  [TANGLE.caller, CALLER],
  ['x-text', 'grün \u{1f980} e\u0301'],
];

const metadata: readonly Vector[] = [
  vector('metadata')(
    'of the call reaches the job',
    { jobId: VECTOR_JOBS.everything, body: NOTHING, metadata: SEEN },
    { expected: { result: json(SEEN) } },
  ),
  vector('metadata')(
    'names are without case',
    { jobId: VECTOR_JOBS.everything, body: NOTHING, metadata: [['X-Mixed-Case', 'Kept']] },
    { expected: { result: json([['x-mixed-case', 'Kept']]) } },
  ),
  vector('metadata')(
    'a lone surrogate stays what it is',
    { jobId: VECTOR_JOBS.everything, body: NOTHING, metadata: [['x-odd', 'a\ud800b']] },
    { expected: { result: json([['x-odd', 'a\ud800b']]) } },
  ),
  vector('metadata')(
    'of the result comes back',
    {
      jobId: VECTOR_JOBS.annotate,
      body: text('x'),
      metadata: [
        [TANGLE.callId, '17'],
        [TANGLE.serviceId, '3'],
        ['x-own', 'stays here'],
      ],
    },
    {
      expected: {
        result: text('x'),
        metadata: [
          ['lines', 'one\r\ntwo'],
          ['x-blueprint-shape', 'round'],
          ['x-colour', 'grün \u{1f980}'],
          [TANGLE.callId, '17'],
          [TANGLE.serviceId, '3'],
        ],
      },
    },
  ),
  vector('metadata')(
    'of a trace reaches the job',
    {
      jobId: VECTOR_JOBS.trace,
      body: NOTHING,
      metadata: [
        [TRACE.parent, TRACE_PARENT],
        [TRACE.state, 'vendor=1,other=2'],
      ],
    },
    { expected: { result: json([TRACE_PARENT, 'vendor=1,other=2']) } },
  ),
  vector('metadata')(
    'the job learns which attempt it is',
    { jobId: VECTOR_JOBS.attempt, body: NOTHING, attempt: 3 },
    { expected: { result: text('3') } },
  ),
];

const isolation: readonly Vector[] = [
  vector('isolation')(
    'a secret of the runner is not visible',
    { jobId: VECTOR_JOBS.environment, body: text(SECRET.name) },
    { needs: ['process'], expected: { result: text('absent') } },
  ),
  vector('isolation')(
    'what is set for the function is visible',
    { jobId: VECTOR_JOBS.environment, body: text(GIVEN.name) },
    { needs: ['process'], expected: { result: text(GIVEN.value) } },
  ),
  vector('isolation')(
    'a promise that nobody waits for is rejected',
    { jobId: VECTOR_JOBS.stray, body: text('goes on') },
    { needs: ['main'], expected: { result: text('goes on') } },
  ),
];

const ENDED: Pick<Vector, 'needs' | 'except'> & { readonly expected: Expected } = {
  needs: ['process'],
  expected: { code: 'FUNCTION_CRASHED' },
  except: [
    { lacks: 'end', expected: [{ code: 'EXECUTOR_CONNECTION_LOST' }], reason: 'the caller sees that the connection broke, not why' },
  ],
};

const crashes: readonly Vector[] = [
  vector('crashes')('the process exits with 3', { jobId: VECTOR_JOBS.exit, body: text('3') }, ENDED),
  vector('crashes')('the process exits with 0', { jobId: VECTOR_JOBS.exit, body: text('0') }, ENDED),
  vector('crashes')('the process is killed', { jobId: VECTOR_JOBS.kill, body: NOTHING }, ENDED),
  vector('crashes')(
    'an exception that nobody catches',
    { jobId: VECTOR_JOBS.explode, body: NOTHING },
    { needs: ['process'], expected: { code: 'FUNCTION_FAILED', message: 'nobody catches this' } },
  ),
  vector('crashes')(
    'more objects than there is memory',
    { jobId: VECTOR_JOBS.hoard, body: NOTHING },
    { needs: ['memory'], expected: { code: 'FUNCTION_OUT_OF_MEMORY' } },
  ),
  vector('crashes')(
    'more memory than there is',
    { jobId: VECTOR_JOBS.devour, body: NOTHING },
    { needs: ['memory'], expected: { code: 'FUNCTION_OUT_OF_MEMORY' } },
  ),
  vector('crashes')('a call after a crash', { jobId: VECTOR_JOBS.echo, body: text('alive') }, { expected: { result: text('alive') } }),
];

export const lifeVectors: readonly Vector[] = [...time, ...cancelling, ...concurrency, ...streams, ...metadata, ...isolation, ...crashes];
