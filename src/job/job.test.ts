import { describe, expect, it } from 'vitest';

import { RunnerError } from '../errors.ts';
import { encodeAbi } from './abi.ts';
import { BLUEPRINT, Metadata, TANGLE } from './call.ts';
import type { JobCall, JobResult } from './call.ts';
import { encodeCompact } from './compact.ts';
import { BlockHash, BlockNumber, Body, Caller, CallId, JobId, metadata, optional, ServiceId, Timestamp } from './extract.ts';
import { defineJob, NO_RESULT, withMetadata } from './job.ts';
import type { Job } from './job.ts';
import { parseParameters } from './solidity.ts';

const abi = (types: string, ...values: unknown[]): Uint8Array => encodeAbi(parseParameters(types), values);
const compact = (types: string, ...values: unknown[]): Uint8Array => encodeCompact(parseParameters(types), values);
const call = (body: Uint8Array = new Uint8Array(), entries: Record<string, string> = {}): JobCall => ({
  id: 'call-1',
  jobId: 3n,
  body,
  metadata: new Metadata(Object.entries(entries)),
});
const run = async (job: Job, of: JobCall = call()): Promise<JobResult | undefined> => job.run(of, undefined, undefined);
const bodyOf = async (job: Job, of?: JobCall): Promise<string | undefined> => {
  const result = await run(job, of);
  return result && Buffer.from(result.body).toString('hex');
};
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

const square = defineJob({ name: 'square', params: 'uint64 x', result: 'uint64' }, ([x]) => x * x);

describe('a typed job', () => {
  it('decodes its arguments and encodes what it returns', async () => {
    expect(await bodyOf(square, call(abi('uint64', 5n)))).toBe(hex(abi('uint64', 25n)));
  });

  it('may be asynchronous', async () => {
    const job = defineJob({ params: 'string name', result: 'string' }, async ([name]) => `hello ${name}`);
    expect(await bodyOf(job, call(abi('string', 'you')))).toBe(hex(abi('string', 'hello you')));
  });

  it('returns an array when it declares several types', async () => {
    const job = defineJob({ params: 'uint8 x', result: 'uint8, (bool even, string text) info' }, ([x]) => [
      x,
      { even: x % 2 === 0, text: `${x}` },
    ]);
    expect(await bodyOf(job, call(abi('uint8', 4)))).toBe(hex(abi('uint8, (bool even, string text) info', 4, { even: true, text: '4' })));
  });

  it('uses the codecs that the metadata of the call names', async () => {
    const both = { [BLUEPRINT.paramsCodec]: 'compact', [BLUEPRINT.resultCodec]: 'compact' };
    const job = defineJob({ params: 'uint64 n, string greeting', result: 'string' }, ([n, greeting]) => greeting.repeat(Number(n)));
    expect(await bodyOf(job, call(compact('uint64 n, string greeting', 2n, 'hi'), both))).toBe(hex(compact('string', 'hihi')));
    expect(await bodyOf(job, call(compact('uint64 n, string greeting', 2n, 'hi'), { [BLUEPRINT.paramsCodec]: 'compact' }))).toBe(
      hex(abi('string', 'hihi')),
    );
    expect(
      await bodyOf(
        job,
        call(abi('uint64 n, string greeting', 2n, 'hi'), { [BLUEPRINT.paramsCodec]: 'abi', [BLUEPRINT.resultCodec]: 'compact' }),
      ),
    ).toBe(hex(compact('string', 'hihi')));
  });

  it('refuses a codec that it does not know', async () => {
    await expect(run(square, call(abi('uint64', 5n), { [BLUEPRINT.paramsCodec]: 'scale' }))).rejects.toMatchObject({
      code: 'JOB_ARGS_INVALID',
      message: expect.stringContaining('"scale" is not a codec'),
    });
    await expect(run(square, call(abi('uint64', 5n), { [BLUEPRINT.resultCodec]: 'scale' }))).rejects.toMatchObject({
      code: 'JOB_RESULT_INVALID',
    });
  });

  it.each([
    ['nothing', new Uint8Array(), 'the body is empty'],
    ['half a word', Uint8Array.of(1, 2), 'abi.encodePacked is not understood'],
    ['another type', abi('string', 'x'), 'compare the types'],
  ])('refuses %s as arguments, with a hint', async (_, body, hint) => {
    await expect(run(square, call(body))).rejects.toMatchObject({
      code: 'JOB_ARGS_INVALID',
      message: expect.stringContaining(hint),
      details: { job: 'square', types: 'uint64 x', bytes: body.length, codec: 'abi', call: 'call-1' },
    });
  });

  it('refuses arguments when it declares none', async () => {
    const job = defineJob({ name: 'tick' }, () => {});
    await expect(run(job, call(abi('uint64', 1n)))).rejects.toMatchObject({
      code: 'JOB_ARGS_INVALID',
      message: expect.stringContaining('the job takes no arguments'),
    });
  });

  it.each([
    ['a value of another type', () => 'x', '"x" is not an integer'],
    ['a number out of range', () => 2n ** 64n, 'is not an integer from 0'],
    ['nothing', () => {}, 'return NO_RESULT to give none'],
  ])('fails when it returns %s', async (_, handler, reason) => {
    const job = defineJob({ name: 'wrong', result: 'uint64' }, handler as () => bigint);
    await expect(run(job)).rejects.toMatchObject({
      code: 'JOB_RESULT_INVALID',
      message: expect.stringContaining(reason),
      details: { job: 'wrong', types: 'uint64', call: 'call-1' },
    });
  });

  it('fails when it declares several types and returns something else', async () => {
    const job = defineJob({ result: 'uint8, uint8' }, (() => [1]) as unknown as () => readonly [number, number]);
    await expect(run(job)).rejects.toMatchObject({
      code: 'JOB_RESULT_INVALID',
      message: expect.stringContaining('an array of 1 is not an array of 2 values'),
    });
  });

  it('gives no result when it returns NO_RESULT', async () => {
    expect(await run(defineJob({ result: 'uint64' }, () => NO_RESULT))).toBeUndefined();
    expect(await run(defineJob({ result: 'uint64' }, async () => NO_RESULT))).toBeUndefined();
  });

  it('gives no result when it declares none and returns nothing', async () => {
    expect(await run(defineJob({}, () => {}))).toBeUndefined();
    expect(await run(defineJob({}, async () => {}))).toBeUndefined();
  });

  it('fails when it declares no result and returns a value', async () => {
    await expect(run(defineJob({}, (() => 5) as unknown as () => void))).rejects.toMatchObject({
      code: 'JOB_RESULT_INVALID',
      message: expect.stringContaining('declares no result types'),
    });
  });
});

describe('a raw job', () => {
  it('takes the body as it came', async () => {
    const job = defineJob({ raw: true }, (body) => Buffer.from(body).reverse());
    expect(await bodyOf(job, call(Uint8Array.of(1, 2, 3)))).toBe('030201');
  });

  it.each([
    ['bytes', Uint8Array.of(1, 2), '0102'],
    ['no bytes', new Uint8Array(), ''],
    ['text as UTF-8', 'zażółć', hex(Buffer.from('zażółć'))],
    ['nothing as no result', undefined, undefined],
    ['null as no result', null, undefined],
    ['NO_RESULT as no result', NO_RESULT, undefined],
  ])('gives %s', async (_, value, expected) => {
    expect(await bodyOf(defineJob({ raw: true }, () => value))).toBe(expected);
    expect(await bodyOf(defineJob({ raw: true }, async () => value))).toBe(expected);
  });

  it('fails when it returns anything else', async () => {
    const job = defineJob({ raw: true, name: 'raw' }, (() => 5) as unknown as () => string);
    await expect(run(job)).rejects.toMatchObject({
      code: 'JOB_RESULT_INVALID',
      message: expect.stringContaining('5 is neither bytes nor text nor nothing'),
    });
  });
});

describe('a result', () => {
  it('carries the call id and the service id of its call, and nothing else of it', async () => {
    const result = await run(
      square,
      call(abi('uint64', 2n), { [TANGLE.callId]: '7', [TANGLE.serviceId]: '9', [TANGLE.caller]: '0x01', other: 'x' }),
    );
    expect([...(result?.metadata ?? [])]).toEqual([
      [TANGLE.callId, '7'],
      [TANGLE.serviceId, '9'],
    ]);
  });

  it('carries what withMetadata adds, but never the id of another call', async () => {
    const entries = { 'x-price-source': 'median', [TANGLE.callId]: '1' };
    const job = defineJob({ result: 'uint8' }, () => withMetadata(5, entries));
    const result = await run(job, call(undefined, { [TANGLE.callId]: '7' }));
    expect([...(result?.metadata ?? [])]).toEqual([
      ['x-price-source', 'median'],
      [TANGLE.callId, '7'],
    ]);
    expect(hex(result?.body ?? new Uint8Array())).toBe(hex(abi('uint8', 5)));
    const raw = await run(defineJob({ raw: true }, async () => withMetadata('text', new Metadata([['a', 'b']]))));
    expect(raw?.metadata.get('a')).toBe('b');
  });

  it('stays absent with withMetadata of nothing', async () => {
    expect(await run(defineJob({ raw: true }, () => withMetadata(undefined, { a: 'b' })))).toBeUndefined();
    expect(await run(defineJob({ result: 'uint8' }, () => withMetadata(NO_RESULT, { a: 'b' }) as never))).toBeUndefined();
  });
});

describe('a failure', () => {
  it.each([
    [
      'throws',
      () => {
        throw new Error('disk on fire');
      },
    ],
    ['rejects', () => Promise.reject(new Error('disk on fire'))],
  ])('of a handler that %s is JOB_FAILED with the cause', async (_, handler) => {
    const error: unknown = await run(defineJob({ name: 'burn', result: 'uint8' }, handler)).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      code: 'JOB_FAILED',
      message: 'job burn failed on call call-1: disk on fire',
      details: { job: 'burn', call: 'call-1' },
    });
    expect((error as RunnerError).cause).toMatchObject({ message: 'disk on fire' });
  });

  it.each(['LEDGER_CORRUPT', 'EXECUTOR_UNREACHABLE', 'FUNCTION_NOT_FOUND', 'NOT_FOUND'] as const)(
    'is JOB_FAILED when its code, %s, is not about the call',
    async (code) => {
      const claim = new RunnerError(code, 'so it says');
      const job = defineJob({ name: 'liar', raw: true }, () => Promise.reject(claim));
      await expect(run(job)).rejects.toMatchObject({
        code: 'JOB_FAILED',
        cause: claim,
        message: expect.stringContaining('so it says') as string,
      });
    },
  );

  it('passes as it is when it is a RunnerError', async () => {
    const mine = new RunnerError('EXECUTOR_UNAVAILABLE', 'later');
    await expect(
      run(
        defineJob({}, () => {
          throw mine;
        }),
      ),
    ).rejects.toBe(mine);
    await expect(
      run(
        defineJob({}, async () => {
          throw mine;
        }),
      ),
    ).rejects.toBe(mine);
  });

  it.each<[string, unknown, string]>([
    ['a text', 'text', '"text"'],
    ['undefined', undefined, 'undefined'],
    ['an object', { a: 1 }, 'a value of type object'],
  ])('may be %s that was thrown', async (_, thrown, shown) => {
    const job = defineJob({ name: 'odd' }, () => {
      throw thrown;
    });
    const error: unknown = await run(job).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: 'JOB_FAILED', message: `job odd failed on call call-1: ${shown}` });
    expect((error as RunnerError).cause).toBe(thrown);
  });
});

describe('what a handler gets besides its arguments', () => {
  it('is the call, the context and a signal', async () => {
    const seen: unknown[] = [];
    const job = defineJob({}, (_, { call: of, context, signal }) => void seen.push(of, context, signal));
    const of = call();
    const { signal } = new AbortController();
    await job.run(of, { database: 1 }, { signal });
    expect(seen).toEqual([of, { database: 1 }, signal]);
    expect(seen[2]).toBe(signal);
  });

  it('is a signal of its own when nobody gives one', async () => {
    const signals: AbortSignal[] = [];
    const job = defineJob({}, (_, extras) => void signals.push(extras.signal, extras.signal));
    await run(job);
    await run(job);
    expect(signals[0]).toBeInstanceOf(AbortSignal);
    expect(signals[0]).toBe(signals[1]);
    expect(signals[2]).not.toBe(signals[0]);
  });
});

describe('extractors', () => {
  const chain = {
    [TANGLE.callId]: '18446744073709551615',
    [TANGLE.serviceId]: '0',
    [TANGLE.blockNumber]: '123',
    [TANGLE.blockHash]: `0x${'AB'.repeat(32)}`,
    [TANGLE.timestamp]: '1700000000',
    [TANGLE.caller]: `0x${'0C'.repeat(20)}`,
    'x-note': 'text',
  };

  it('read what the call carries', async () => {
    let seen: unknown;
    const job = defineJob(
      {
        raw: true,
        extract: {
          CallId,
          ServiceId,
          BlockNumber,
          BlockHash,
          Timestamp,
          Caller,
          JobId,
          Body,
          note: metadata('x-note'),
          all: metadata(),
          own: (of: JobCall) => of.id.length,
        },
      },
      (_, extras) => {
        seen = { ...extras };
      },
    );
    const of = call(Uint8Array.of(1), chain);
    await run(job, of);
    expect(seen).toMatchObject({
      CallId: 2n ** 64n - 1n,
      ServiceId: 0n,
      BlockNumber: 123n,
      BlockHash: `0x${'ab'.repeat(32)}`,
      Timestamp: 1_700_000_000n,
      Caller: `0x${'0c'.repeat(20)}`,
      JobId: 3n,
      Body: Uint8Array.of(1),
      note: 'text',
      all: of.metadata,
      own: 6,
    });
  });

  it.each([
    ['callId', CallId, TANGLE.callId, '0x10'],
    ['serviceId', ServiceId, TANGLE.serviceId, '-1'],
    ['blockNumber', BlockNumber, TANGLE.blockNumber, ''],
    ['timestamp', Timestamp, TANGLE.timestamp, '1.5'],
    ['blockHash', BlockHash, TANGLE.blockHash, '0x12'],
    ['caller', Caller, TANGLE.caller, `0x${'zz'.repeat(20)}`],
    ['note', metadata('x-note'), 'x-note', undefined],
  ])('reject a call that lacks %s, naming extractor and job', async (name, extractor, key, malformed) => {
    const job = defineJob({ name: 'picky', extract: { [name]: extractor } }, () => {});
    const lacking = run(job);
    await expect(lacking).rejects.toMatchObject({
      code: 'JOB_REJECTED',
      message: expect.stringContaining(`job picky cannot extract ${name} from call call-1: the call carries no ${key}`),
    });
    await expect(lacking).rejects.toMatchObject({ details: { job: 'picky', extractor: name, call: 'call-1' } });
    if (malformed === undefined) return;
    await expect(run(job, call(undefined, { [key]: malformed }))).rejects.toMatchObject({
      code: 'JOB_REJECTED',
      message: expect.stringContaining(`${key} is not`),
    });
  });

  it('reject with the cause when a function of the author throws', async () => {
    const cause = new Error('no');
    const job = defineJob(
      {
        extract: {
          own: () => {
            throw cause;
          },
        },
      },
      () => {},
    );
    await expect(run(job)).rejects.toMatchObject({ code: 'JOB_REJECTED', cause });
  });

  it('give undefined when they are optional and the value is missing, but reject a malformed one', async () => {
    const seen: unknown[] = [];
    const job = defineJob({ extract: { caller: optional(Caller) } }, (_, { caller }) => void seen.push(caller));
    await run(job);
    await run(job, call(undefined, chain));
    expect(seen).toEqual([undefined, `0x${'0c'.repeat(20)}`]);
    await expect(run(job, call(undefined, { [TANGLE.caller]: 'x' }))).rejects.toMatchObject({ code: 'JOB_REJECTED' });
  });

  it('run before the handler and after the arguments', async () => {
    const order: string[] = [];
    const job = defineJob({ params: 'uint8 x', extract: { own: () => order.push('extractor') } }, () => void order.push('handler'));
    await expect(run(job, call(Uint8Array.of(1)))).rejects.toMatchObject({ code: 'JOB_ARGS_INVALID' });
    expect(order).toEqual([]);
    await run(job, call(abi('uint8', 1)));
    expect(order).toEqual(['extractor', 'handler']);
  });
});

describe('what is known of a job', () => {
  it('is its name, types and options', () => {
    const job = defineJob(
      { name: 'greet', params: 'uint64 n, string greeting', result: 'uint24', idempotent: true, timeoutMs: 500 },
      () => 1,
    );
    expect(job.info).toMatchObject({
      name: 'greet',
      params: 'uint64 n, string greeting',
      result: 'uint24',
      raw: false,
      idempotent: true,
      timeoutMs: 500,
    });
  });

  it('has defaults', () => {
    function named(): void {}
    expect(defineJob({}, named).info).toEqual({ name: 'named', params: '', result: '', raw: false, idempotent: false });
    expect(defineJob({ raw: true }, () => 'x').info).toEqual({ name: 'job', params: '', result: '', raw: true, idempotent: false });
  });

  it.each([
    ['types that do not exist', () => defineJob({ params: 'uint7 x' as 'uint8 x' }, () => {}), 'JOB_TYPE_INVALID'],
    ['a result that does not exist', () => defineJob({ result: 'number' as 'uint8' }, () => 1), 'JOB_TYPE_INVALID'],
    ['a timeout of 0', () => defineJob({ timeoutMs: 0 }, () => {}), 'CONFIG_INVALID'],
    ['an extractor named context', () => defineJob({ extract: { context: JobId } }, () => {}), 'CONFIG_INVALID'],
    ['an extractor named signal', () => defineJob({ extract: { signal: JobId } }, () => {}), 'CONFIG_INVALID'],
  ])('is refused with %s', (_, define, code) => {
    expect(define).toThrow(expect.objectContaining({ code }));
  });
});
