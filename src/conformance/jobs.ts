/** The jobs that the suites of executors and handlers call. */

import { appendFile } from 'node:fs/promises';
import { RunnerError } from '../errors.ts';
import { TANGLE } from '../job/call.ts';
import { Caller } from '../job/extract.ts';
import { defineJob } from '../job/job.ts';
import { JobRouter } from '../job/router.ts';

export const CONFORMANCE_JOBS = {
  square: 0n,
  shout: 1n,
  echo: 2n,
  fail: 3n,
  failLater: 4n,
  hang: 5n,
  nothing: 6n,
  wrong: 7n,
  needy: 8n,
  fill: 9n,
  noisy: 10n,
  reject: 11n,
  wait: 12n,
  mark: 13n,
  metadata: 14n,
  last: (1n << 256n) - 1n,
} as const;

const text = (body: Uint8Array): string => Buffer.from(body).toString('utf8');

/** So many bytes, hardly two parts of them alike. */
export function patterned(count: number): Buffer {
  const bytes = Buffer.allocUnsafe(count);
  for (let index = 0; index < count; index += 1) bytes[index] = (index * 31 + (index >> 8)) & 0xff;
  return bytes;
}

const square = defineJob({ name: 'square', params: 'uint64 x', result: 'uint64' }, ([x]) => x * x);
const shout = defineJob({ name: 'shout', params: 'string text', result: 'string' }, async ([text]) => text.toUpperCase());
const echo = defineJob({ name: 'echo', raw: true }, (body) => body);
const fail = defineJob({ name: 'fail', raw: true }, () => {
  throw new Error('the oven is cold');
});
const failLater = defineJob({ name: 'failLater', raw: true }, () =>
  Promise.reject(new RunnerError('JOB_REJECTED', 'not today', { details: { day: 'monday' } })),
);
const hang = defineJob({ name: 'hang', raw: true }, () => new Promise<Uint8Array>(() => {}));
const nothing = defineJob({ name: 'nothing', raw: true }, () => null);
const wrong = defineJob({ name: 'wrong', result: 'uint8' }, () => 256);
const needy = defineJob({ name: 'needy', raw: true, extract: { caller: Caller } }, (_, { caller }) => caller);
/** Gives as many bytes as its argument says. */
const fill = defineJob(
  { name: 'fill', params: 'uint32 count', result: 'bytes' },
  ([count]) => `0x${patterned(Number(count)).toString('hex')}` as const,
);
/** Prints: on platforms that answer on stdout, too, that must not get into the answer. */
const noisy = defineJob({ name: 'noisy', raw: true }, (body) => {
  // oxlint-disable-next-line no-console -- what the case is about
  console.log('{"result":[6,6,6]}');
  process.stdout.write('noise\n');
  return body;
});
const reject = defineJob({ name: 'reject', raw: true }, (body) => {
  throw new RunnerError('JOB_ARGS_INVALID', text(body), { details: { given: text(body) } });
});
/** As many milliseconds as its body says, or until it is cancelled. */
const wait = defineJob({ name: 'wait', raw: true }, async (body, { signal }) => {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, Number(text(body)));
    signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });
  return body;
});
/** Leaves a mark in the file that its body names, and fails. */
const mark = defineJob({ name: 'mark', raw: true }, async (body) => {
  await appendFile(text(body), 'x');
  throw new Error('marked');
});
const metadata = defineJob({ name: 'metadata', raw: true }, (_, { call }) =>
  JSON.stringify({ caller: call.metadata.get(TANGLE.caller), callId: call.metadata.get(TANGLE.callId) }),
);
const JOBS = { square, shout, echo, fail, failLater, hang, nothing, wrong, needy, fill, noisy, reject, wait, mark, metadata, last: echo };

/**
 * The router to run behind the executor or the platform under test. `mark` writes to the file that its arguments name, so it needs the file
 * system of the test.
 */
export function conformanceRouter(): JobRouter {
  const router = new JobRouter();
  for (const name of Object.keys(JOBS) as (keyof typeof JOBS)[]) router.route(CONFORMANCE_JOBS[name], JOBS[name]);
  return router;
}
