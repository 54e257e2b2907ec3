/** What every object store of a control plane must do, as data: each case gets an empty store of its own. */

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { isRunnerError } from '../errors.ts';
import type { ErrorCode, RunnerError } from '../errors.ts';
import type { CollectableObjects, ResumableObjects } from '../queue/objects.ts';
import type { ObjectReference, ObjectStore } from '../queue/queue.ts';
import { checkSuite, registerSuite } from './suite.ts';
import type { CaseOutcome, Suite, TestFramework } from './suite.ts';

/** What a control plane can serve all of its routes with. */
export type FullObjects = ObjectStore &
  ResumableObjects &
  CollectableObjects & {
    put(bytes: Uint8Array, key?: string): Promise<ObjectReference>;
    /** For who checks it himself. */
    read(key: string): Promise<Uint8Array>;
    remove(object: Pick<ObjectReference, 'key'>): Promise<void>;
    /** By its hash. */
    keep(bytes: Uint8Array): Promise<ObjectReference>;
  };

/** A store of its own for one case, and the hands to move time. */
export interface ObjectsTrial {
  readonly objects: FullObjects;
  /** Resolves when this much time has passed for the store. */
  pass(ms: number): Promise<void>;
}

export interface ObjectsCase {
  readonly name: string;
  /** Rejects when the store does not do what it must. */
  run(trial: ObjectsTrial): Promise<void>;
}

/** Something older than the second is old, something younger is not: what is done in between takes less than the first. */
const PASS_MS = 8_000;
const OLD_MS = 7_500;
const LONG_MS = 3_600_000;
const LARGE_BYTES = 3_000_001;
const nobody = (): Promise<ReadonlySet<string>> => Promise.resolve(new Set());

const whole: readonly ObjectsCase[] = [
  {
    name: 'gives the bytes that were put, of any size',
    async run({ objects }) {
      for (const bytes of [new Uint8Array(), Buffer.from('small'), randomBytes(LARGE_BYTES)]) {
        const reference = await objects.put(bytes);
        assert.equal(reference.size, bytes.length);
        assertSame(await objects.get(reference), bytes);
        assertSame(await objects.read(reference.key), bytes);
      }
    },
  },
  {
    name: 'has one object of the same bytes under their hash, however often and at the same time it is kept',
    async run({ objects }) {
      const bytes = randomBytes(700_000);
      const all = await Promise.all([objects.keep(bytes), objects.keep(bytes), objects.keep(bytes)]);
      for (const each of all) assert.deepEqual(each, all[0]);
      assert.equal(all[0]?.key, all[0]?.sha256);
      assert.deepEqual(await objects.put(bytes, all[0]?.sha256 ?? ''), all[0]);
      assertSame(await objects.read(all[0]?.key ?? ''), bytes);
    },
  },
  {
    name: 'never changes an object: other bytes under its key are refused, and so is a key that is not theirs',
    async run({ objects }) {
      const [bytes, others] = [Buffer.from('one'), Buffer.from('another')];
      const reference = await objects.put(bytes);
      assert.deepEqual(await objects.put(bytes, reference.key), reference);
      await refused(objects.put(others, reference.key), 'REQUEST_CONFLICT');
      await refused(objects.put(others, (await objects.keep(bytes)).key), 'REQUEST_INVALID');
      for (const key of ['../secrets', 'a'.repeat(63), 'A'.repeat(64), '*', '>'])
        await refused(objects.put(others, key), 'REQUEST_INVALID');
      assertSame(await objects.get(reference), bytes);
    },
  },
  {
    name: 'verifies what it gives',
    async run({ objects }) {
      const [one, other] = [await objects.put(Buffer.from('one')), await objects.put(Buffer.from('other'))];
      await refused(objects.get({ ...one, sha256: other.sha256 }), 'QUEUE_CORRUPT');
      await refused(objects.get({ ...one, size: 2 }), 'QUEUE_CORRUPT');
    },
  },
  {
    name: 'removes an object, once or again, and takes it anew',
    async run({ objects }) {
      const bytes = randomBytes(600_000);
      const reference = await objects.keep(bytes);
      for (let times = 0; times < 2; times += 1) {
        await objects.remove(reference);
        await refused(objects.get(reference), 'NOT_FOUND');
        await refused(objects.readPart(reference.key, 0, 10), 'NOT_FOUND');
        assert.deepEqual(await objects.uploaded(reference.key), { size: 0, isWhole: false });
      }
      assert.deepEqual(await objects.keep(bytes), reference);
      assertSame(await objects.get(reference), bytes);
    },
  },
];

const parts: readonly ObjectsCase[] = [
  {
    name: 'takes parts in any number of attempts, and has an object of them when all of it is verified',
    async run({ objects }) {
      const bytes = randomBytes(1_000_000);
      const reference = await referenceOf(objects, bytes);
      const { key } = reference;
      assert.deepEqual(await objects.uploaded(key), { size: 0, isWhole: false });
      await missing(objects.writePart(key, 10, bytes.subarray(10, 20)), 0);
      assert.deepEqual(await objects.writePart(key, 0, bytes.subarray(0, 400_000)), { size: 400_000, isWhole: false });
      assert.deepEqual(await objects.uploaded(key), { size: 400_000, isWhole: false });
      await missing(objects.writePart(key, 500_000, bytes.subarray(500_000)), 400_000);
      await missing(objects.finish(reference), 400_000);
      await refused(objects.get(reference), 'NOT_FOUND');
      // A part that comes again does no harm.
      for (const from of [200_000, 400_000, 400_000]) await objects.writePart(key, from, bytes.subarray(from, from + 600_000));
      assert.deepEqual(await objects.finish(reference), reference);
      assert.deepEqual(await objects.finish(reference), reference);
      assert.deepEqual(await objects.uploaded(key), { size: 1_000_000, isWhole: true });
      assertSame(await objects.get(reference), bytes);
    },
  },
  {
    name: 'keeps nothing of parts that are something else',
    async run({ objects }) {
      const reference = await referenceOf(objects, Buffer.from('right'));
      for (const wrong of ['wrong', 'too long']) {
        await objects.writePart(reference.key, 0, Buffer.from(wrong));
        await refused(objects.finish(reference), 'REQUEST_INVALID');
        assert.deepEqual(await objects.uploaded(reference.key), { size: 0, isWhole: false });
        await refused(objects.get(reference), 'NOT_FOUND');
      }
      await objects.writePart(reference.key, 0, Buffer.from('right'));
      assert.deepEqual(await objects.finish(reference), reference);
      for (const key of ['../secrets', 'a'.repeat(63), 'A'.repeat(64), '*', '>'])
        await refused(objects.writePart(key, 0, Buffer.from('x')), 'NOT_FOUND');
    },
  },
  {
    name: 'takes an upload from several at the same time',
    async run({ objects }) {
      const bytes = randomBytes(900_000);
      const reference = await referenceOf(objects, bytes);
      const upload = async (): Promise<ObjectReference> => {
        for (let from = 0; from < bytes.length; from += 300_000)
          await objects.writePart(reference.key, from, bytes.subarray(from, from + 300_000));
        return objects.finish(reference);
      };
      assert.deepEqual(await Promise.all([upload(), upload(), upload()]), [reference, reference, reference]);
      assertSame(await objects.get(reference), bytes);
    },
  },
  {
    name: 'gives an object in parts, in any order, and nothing beyond its end',
    async run({ objects }) {
      const bytes = randomBytes(LARGE_BYTES);
      const { key } = await objects.put(bytes);
      const read: Uint8Array[] = [];
      for (let from = 0; from < bytes.length; from += 700_000) read.push(await objects.readPart(key, from, 700_000));
      assertSame(Buffer.concat(read), bytes);
      for (const [from, count] of [
        [2_500_000, 10],
        [1, 1],
        [262_143, 2],
        [0, 5_000_000],
      ] as const)
        // prettier-ignore
        assertSame(await objects.readPart(key, from, count), bytes.subarray(from, from + count));
      assert.equal((await objects.readPart(key, bytes.length, 10)).length, 0);
      await refused(objects.readPart('f'.repeat(64), 0, 10), 'NOT_FOUND');
    },
  },
];

const collection: readonly ObjectsCase[] = [
  {
    name: 'collects what is old and nobody refers to, and nothing else',
    async run({ objects, pass }) {
      const [needed, orphan] = [await objects.put(randomBytes(600_000)), await objects.put(randomBytes(600_000))];
      const kept = await objects.keep(Buffer.from('kept again'));
      const looked = await objects.keep(Buffer.from('looked for again'));
      await objects.writePart('f'.repeat(64), 0, Buffer.from('abc'));
      const referred = (): Promise<ReadonlySet<string>> => Promise.resolve(new Set([needed.key]));
      assert.deepEqual(await objects.collect({ graceMs: LONG_MS, referred: () => assert.fail('there is nothing to remove') }), NOTHING);
      await pass(PASS_MS);
      // They are young again.
      assert.deepEqual(await objects.keep(Buffer.from('kept again')), kept);
      assert.deepEqual(await objects.uploaded(looked.key), { size: looked.size, isWhole: true });
      assert.deepEqual(await objects.collect({ graceMs: OLD_MS, referred }), { objects: 1, parts: 1 });
      await refused(objects.get(orphan), 'NOT_FOUND');
      assert.deepEqual(await objects.uploaded('f'.repeat(64)), { size: 0, isWhole: false });
      for (const each of [needed, kept, looked]) assert.equal((await objects.get(each)).length, each.size);
      assert.deepEqual(await objects.collect({ graceMs: OLD_MS, referred }), NOTHING);
      assert.deepEqual(await objects.keep(Buffer.from('kept again')), kept);
      await objects.remove(kept);
      await refused(objects.get(kept), 'NOT_FOUND');
    },
  },
  {
    name: 'collects no upload that goes on, and takes one anew that was collected',
    async run({ objects, pass }) {
      const bytes = randomBytes(500_000);
      const reference = await referenceOf(objects, bytes);
      await objects.writePart(reference.key, 0, bytes.subarray(0, 100_000));
      await pass(PASS_MS);
      await objects.writePart(reference.key, 100_000, bytes.subarray(100_000, 200_000));
      assert.deepEqual(await objects.collect({ graceMs: OLD_MS, referred: nobody }), NOTHING);
      await pass(PASS_MS);
      assert.deepEqual(await objects.collect({ graceMs: OLD_MS, referred: nobody }), { objects: 0, parts: 1 });
      await missing(objects.writePart(reference.key, 200_000, bytes.subarray(200_000)), 0);
      await objects.writePart(reference.key, 0, bytes);
      assert.deepEqual(await objects.finish(reference), reference);
      assertSame(await objects.get(reference), bytes);
    },
  },
];

const NOTHING = { objects: 0, parts: 0 };

export const objectsCases: readonly ObjectsCase[] = [...whole, ...parts, ...collection];

export interface ObjectsUnderTest {
  readonly name: string;
  /** A store with nothing in it, for one case. */
  open(): ObjectsTrial | Promise<ObjectsTrial>;
  /** After each case, however it ended. */
  close?(trial: ObjectsTrial): Promise<void>;
  /** Cases that it cannot pass, each with the reason. */
  readonly skip?: Readonly<Record<string, string>>;
}

/**
 * Runs the cases one after another.
 *
 * @example
 * const outcomes = await checkObjects({ name: 'mine', open: () => ({ objects: new MyObjects(), pass: (ms) => clock.advance(ms) }) });
 */
export function checkObjects(subject: ObjectsUnderTest): Promise<CaseOutcome[]> {
  return checkSuite(suiteOf(subject));
}

/** Registers the cases with a test framework. */
export function runObjectsConformance(framework: TestFramework, subject: ObjectsUnderTest): void {
  registerSuite(framework, suiteOf(subject));
}

function suiteOf({ name, open, close, skip }: ObjectsUnderTest): Suite<ObjectsCase> {
  return {
    title: `objects ${name}`,
    cases: objectsCases,
    skip,
    async run(each) {
      const trial = await open();
      try {
        await each.run(trial);
      } finally {
        await close?.(trial);
      }
    },
  };
}

/** Of what is not there. */
async function referenceOf(objects: FullObjects, bytes: Uint8Array): Promise<ObjectReference> {
  const reference = await objects.keep(bytes);
  await objects.remove(reference);
  return reference;
}

/** Not byte by byte: a difference in megabytes is no text. */
function assertSame(actual: Uint8Array, expected: Uint8Array): void {
  assert.ok(Buffer.from(actual).equals(expected), `${actual.length} bytes are not the ${expected.length} that were put`);
}

async function refused(work: Promise<unknown>, code: ErrorCode): Promise<RunnerError> {
  const outcome = await work.then(
    () => undefined,
    (error: unknown) => error,
  );
  assert.ok(isRunnerError(outcome), `it was not refused with ${code}`);
  assert.equal(outcome.code, code);
  return outcome;
}

/** Bytes are missing: from where is said. */
async function missing(work: Promise<unknown>, size: number): Promise<void> {
  assert.equal((await refused(work, 'REQUEST_CONFLICT')).details?.['size'], size);
}
