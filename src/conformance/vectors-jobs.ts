/** The jobs that the vectors call: those of the other suites and some more. Bundled as they are, this module is the artifact under test. */

import { RunnerError } from '../errors.ts';
import { BLUEPRINT, TRACE } from '../job/call.ts';
import { chunked } from '../job/chunked.ts';
import { metadata as allMetadata, optional } from '../job/extract.ts';
import { defineJob, withMetadata } from '../job/job.ts';
import type { JobRouter } from '../job/router.ts';
import { CONFORMANCE_JOBS, conformanceRouter, patterned } from './jobs.ts';

/** Solidity parameter lists, one for each family of types; the job of a family gives back what it got. */
export const FAMILIES = {
  'unsigned integers': 'uint8 a, uint16 b, uint32 c, uint64 d, uint128 e, uint256 f',
  'signed integers': 'int8 a, int32 b, int64 c, int256 d',
  booleans: 'bool a, bool b',
  addresses: 'address a',
  'fixed bytes': 'bytes1 a, bytes4 b, bytes32 c',
  bytes: 'bytes a, bytes b',
  strings: 'string a, string b',
  'fixed arrays': 'uint16[3] a, bool[2][2] b',
  'dynamic arrays': 'uint256[] a, string[] b, bytes[][] c',
  tuples: '(uint64 id, (string name, bytes32 tag) inner, bool[] flags) a, uint8 b',
} as const;

export type Family = keyof typeof FAMILIES;

const FAMILY_NAMES = Object.keys(FAMILIES) as Family[];
const MB = 1024 * 1024;
const DEVOURED_MB_MAX = 2_048;
const FIRST_FAMILY = 200;

/** Besides those of `CONFORMANCE_JOBS`. */
export const VECTOR_JOBS = {
  ...CONFORMANCE_JOBS,
  throwText: 100n,
  foreign: 101n,
  surrogate: 102n,
  rawSurrogate: 103n,
  annotate: 104n,
  trace: 105n,
  environment: 106n,
  exit: 107n,
  explode: 108n,
  spin: 109n,
  devour: 110n,
  several: 111n,
  attempt: 112n,
  everything: 113n,
  typed: 114n,
  chunks: 115n,
  breakOff: 116n,
  drip: 117n,
  stray: 118n,
  kill: 119n,
  hoard: 120n,
} as const;

export const familyJob = (family: Family): bigint => BigInt(FIRST_FAMILY + FAMILY_NAMES.indexOf(family));

const text = (body: Uint8Array): string => Buffer.from(body).toString('utf8');
const never = (): Promise<null> => new Promise<null>(() => {});

const throwText = defineJob({ name: 'throwText', raw: true }, () => {
  // oxlint-disable-next-line typescript/only-throw-error -- what the vector is about
  throw 'just text';
});
/** A code that is not the job's to use. */
const foreign = defineJob({ name: 'foreign', raw: true }, () => {
  throw new RunnerError('LEDGER_CORRUPT', 'the ledger is fine, the job is not');
});
const surrogate = defineJob({ name: 'surrogate', result: 'string' }, () => 'a\ud800b');
const rawSurrogate = defineJob({ name: 'rawSurrogate', raw: true }, () => 'a\ud800b');
const annotate = defineJob({ name: 'annotate', raw: true }, (body) =>
  withMetadata(body, { 'x-blueprint-shape': 'round', 'X-Colour': 'grün \u{1f980}', lines: 'one\r\ntwo' }),
);
const trace = defineJob({ name: 'trace', raw: true }, (_, { call }) =>
  JSON.stringify([call.metadata.get(TRACE.parent) ?? null, call.metadata.get(TRACE.state) ?? null]),
);
const environment = defineJob({ name: 'environment', raw: true }, (body) => process.env[text(body)] ?? 'absent');
const exit = defineJob({ name: 'exit', raw: true }, (body) => process.exit(Number(text(body))));
const explode = defineJob({ name: 'explode', raw: true }, () => {
  setTimeout(() => {
    throw new Error('nobody catches this');
  });
  return never();
});
const spin = defineJob({ name: 'spin', raw: true }, () => {
  for (;;);
});
/** Takes memory outside of the heap of JavaScript; where nothing limits it, it says so instead of taking all that the machine has. */
const devour = defineJob({ name: 'devour', raw: true }, async () => {
  for (const kept: Buffer[] = []; kept.length < DEVOURED_MB_MAX;) {
    kept.push(Buffer.alloc(MB, 1));
    await new Promise((resolve) => setImmediate(resolve));
  }
  return 'nothing limits the memory';
});
/** The same inside of the heap. */
const hoard = defineJob({ name: 'hoard', raw: true }, async () => {
  for (const kept: number[][] = []; kept.length < DEVOURED_MB_MAX;) {
    kept.push(Array.from({ length: MB / 8 }, (_, index) => index + 0.5));
    await new Promise((resolve) => setImmediate(resolve));
  }
  return 'nothing limits the memory';
});
const several = defineJob(
  { name: 'several', params: 'uint8 count', result: 'uint8 count, string text, bytes bytes' },
  ([count]) => [count, 'x'.repeat(count), `0x${patterned(count).toString('hex')}`] as const,
);
const attempt = defineJob({ name: 'attempt', raw: true }, (_, { call }) => call.metadata.get(BLUEPRINT.attempt) ?? 'none');
/** What the caller gave, without what executors add for one attempt. */
const everything = defineJob({ name: 'everything', raw: true, extract: { all: optional(allMetadata()) } }, (_, { all }) => {
  const own: ReadonlySet<string> = new Set([BLUEPRINT.attempt, BLUEPRINT.timeoutMs, BLUEPRINT.callKey]);
  return JSON.stringify([...(all ?? [])].filter(([name]) => !own.has(name)).toSorted(([a], [b]) => (a < b ? -1 : 1)));
});
const typed = defineJob({ name: 'typed', params: 'uint64 x, string name', result: 'uint64 x, string name' }, ([x, name]) => [x, name]);
/** As many chunks as its body says. */
const chunks = defineJob(
  { name: 'chunks', raw: true },
  chunked(async function* (body) {
    for (let index = 0; index < Number(text(body)); index += 1) {
      yield `chunk ${index}; `;
      if (index % 7 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  }),
);
const breakOff = defineJob(
  { name: 'breakOff', raw: true },
  chunked(async function* (body) {
    for (let index = 0; index < Number(text(body)); index += 1) yield Buffer.from([index]);
    await new Promise((resolve) => setImmediate(resolve));
    throw new Error(`it broke off after ${text(body)}`);
  }),
);
/** Never comes to its end. */
const drip = defineJob(
  { name: 'drip', raw: true },
  chunked(async function* () {
    for (;;) {
      yield 'drop';
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }),
);
const stray = defineJob({ name: 'stray', raw: true }, async (body) => {
  void Promise.reject(new Error('nobody waits for this'));
  await new Promise((resolve) => setTimeout(resolve, 50));
  return body;
});
const kill = defineJob({ name: 'kill', raw: true }, () => {
  process.kill(process.pid, 'SIGKILL');
  return never();
});

const JOBS = {
  throwText,
  foreign,
  surrogate,
  rawSurrogate,
  annotate,
  trace,
  environment,
  exit,
  explode,
  spin,
  devour,
  several,
  attempt,
  everything,
  typed,
  chunks,
  breakOff,
  drip,
  stray,
  kill,
  hoard,
};

function vectorRouter(): JobRouter {
  const all = conformanceRouter();
  for (const name of Object.keys(JOBS) as (keyof typeof JOBS)[]) all.route(VECTOR_JOBS[name], JOBS[name]);
  for (const name of FAMILY_NAMES) {
    const types: string = FAMILIES[name];
    const same = (values: readonly unknown[]): unknown => (values.length === 1 ? values[0] : values);
    // The lists are only known as text here: what the job returns is what it got.
    all.route(familyJob(name), defineJob({ name, params: types, result: types }, same as never));
  }
  return all;
}

export const router: JobRouter = vectorRouter();
