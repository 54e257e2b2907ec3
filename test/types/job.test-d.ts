import { assertType, expectTypeOf, test } from 'vitest';

import { Caller, CallId, optional } from '../../src/job/extract.ts';
import { defineJob, NO_RESULT, withMetadata } from '../../src/job/job.ts';
import type { Job } from '../../src/job/job.ts';
import { JobRouter } from '../../src/job/router.ts';
import type { JobArgs, JobValue } from '../../src/job/solidity.ts';

test('arguments follow from the Solidity types', () => {
  expectTypeOf<JobArgs<'uint64 x, string name'>>().toEqualTypeOf<readonly [bigint, string]>();
  expectTypeOf<JobArgs<'uint8, uint48, int32'>>().toEqualTypeOf<readonly [number, number, number]>();
  expectTypeOf<JobArgs<'uint56, uint'>>().toEqualTypeOf<readonly [bigint, bigint]>();
  expectTypeOf<JobArgs<'bytes b, bytes32 h, address a, bool ok'>>().toEqualTypeOf<
    readonly [`0x${string}`, `0x${string}`, `0x${string}`, boolean]
  >();
  expectTypeOf<JobArgs<'(address to, uint256 amount)[] payments'>>().toExtend<
    readonly [readonly { to: `0x${string}`; amount: bigint }[]]
  >();
  expectTypeOf<JobArgs<'uint8[2] pair'>>().toEqualTypeOf<readonly [readonly [number, number]]>();
  expectTypeOf<JobArgs<'(uint8 a, bool b)[][] grid, bool ok'>>().toEqualTypeOf<readonly [unknown, boolean]>();
  expectTypeOf<JobArgs<''>>().toEqualTypeOf<readonly []>();
  expectTypeOf<JobValue<'uint64'>>().toEqualTypeOf<bigint>();
  expectTypeOf<JobValue<'uint64, bool'>>().toEqualTypeOf<readonly [bigint, boolean]>();
  expectTypeOf<JobValue<''>>().toEqualTypeOf<void>();
});

test('a handler gets its arguments, extracted values and signal', () => {
  defineJob({ name: 'square', params: 'uint64 x', result: 'uint64' }, ([x]) => {
    expectTypeOf(x).toEqualTypeOf<bigint>();
    return x * x;
  });
  defineJob(
    { params: 'uint8 x', result: 'uint8', extract: { callId: CallId, caller: optional(Caller) } },
    ([x], { callId, caller, signal, call, context }) => {
      expectTypeOf(x).toEqualTypeOf<number>();
      expectTypeOf(callId).toEqualTypeOf<bigint>();
      expectTypeOf(caller).toEqualTypeOf<`0x${string}` | undefined>();
      expectTypeOf(signal).toEqualTypeOf<AbortSignal>();
      expectTypeOf(call.body).toEqualTypeOf<Uint8Array>();
      expectTypeOf(context).toEqualTypeOf<unknown>();
      return Promise.resolve(x);
    },
  );
  defineJob({ raw: true, extract: { callId: CallId } }, (body, { callId }) => {
    expectTypeOf(body).toEqualTypeOf<Uint8Array>();
    expectTypeOf(callId).toEqualTypeOf<bigint>();
    return 'text';
  });
});

test('a result must be of its type', () => {
  // @ts-expect-error a string is not a uint64
  defineJob({ params: 'uint64 x', result: 'uint64' }, () => 'x');
  // @ts-expect-error nothing was returned
  defineJob({ params: 'uint64 x', result: 'uint64' }, () => {});
  // @ts-expect-error a promise of the wrong type
  defineJob({ params: 'uint64 x', result: 'uint64' }, async () => true);
  // @ts-expect-error raw jobs return bytes, text or nothing
  defineJob({ raw: true }, () => 5);
  // @ts-expect-error no result is declared
  defineJob({ params: 'uint64 x' }, ([x]) => ({ x }));
  defineJob({ params: 'uint64 x', result: 'uint64' }, ([x]) => (x > 5n ? NO_RESULT : withMetadata(x, { 'x-note': 'small' })));
  defineJob({ params: 'uint64 x' }, () => {});
  defineJob({ params: 'uint8 x', result: 'uint8, string' }, ([x]) => [x, 'one']);
  defineJob({ result: 'uint8, string' }, async () => [1, 'one']);
  defineJob({ result: '(uint8 a, bool b)[][]' }, () => [[{ a: 1, b: true }]]);
});

interface Database {
  readonly name: string;
}

const needsDatabase = defineJob({ result: 'string' }, (_, { context }: { readonly context: Database }) => context.name);
const needsNothing = defineJob({ result: 'string' }, () => 'x');
const run = (router: JobRouter): void => void router;

test('a router that lacks its context cannot be called or handed on', () => {
  assertType<Job<Database>>(needsDatabase);
  const incomplete = new JobRouter<Database>().route(0, needsDatabase).route(1, needsNothing);
  // @ts-expect-error the context is missing
  run(incomplete);
  // @ts-expect-error the context is missing
  void incomplete.call({});
  // @ts-expect-error the job needs a context that this router does not have
  new JobRouter().route(0, needsDatabase);
  // @ts-expect-error another context
  incomplete.withContext({ id: 5 });
  const complete = incomplete.withContext({ name: 'main' });
  run(complete);
  run(complete.route(2, needsNothing));
  // @ts-expect-error after withContext only jobs that need none can be added
  complete.route(3, needsDatabase);
});
