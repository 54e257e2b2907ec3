import fc from 'fast-check';
import { decodeEventLog, encodeAbiParameters, getAddress, parseAbi, toEventSelector } from 'viem';
import { describe, expect, test } from 'vitest';

import { isRunnerError } from '../errors.ts';
import type { Address, Hex } from '../job/call.ts';
import { TOPIC } from './contracts.ts';
import { decodeCompletedCall, decodeJobCall, decodeSubmittedResult } from './decode.ts';

const EMITTED = parseAbi([
  'event JobSubmitted(uint64 indexed serviceId, uint64 indexed callId, uint8 jobIndex, address caller, bytes inputs)',
  'event JobSubmittedFromQuote(uint64 indexed serviceId, uint64 indexed callId, uint8 jobIndex, address caller, address[] quotedOperators, uint256 totalPrice, bytes inputs)',
  'event JobResultSubmitted(uint64 indexed serviceId, uint64 indexed callId, address indexed operator, bytes output)',
  'event JobCompleted(uint64 indexed serviceId, uint64 indexed callId)',
]);
const PUBLISHED = parseAbi([
  'event JobSubmitted(uint64 indexed serviceId, uint64 indexed callId, uint8 indexed jobIndex, address caller, bytes inputs)',
]);

const origin = { chainId: 31337, contract: '0x00000000000000000000000000000000000000aa' } as const;
const HASH_A: Hex = `0x${'ab'.repeat(32)}`;
const HASH_B: Hex = `0x${'cd'.repeat(32)}`;

interface TestLog {
  readonly topics: readonly Hex[];
  readonly data: Hex;
}
const asLog = ({ topics, data }: TestLog) => ({
  address: '0x00000000000000000000000000000000000000AA',
  topics,
  data,
  blockNumber: '0x10',
  blockHash: HASH_A,
  transactionHash: HASH_B,
  logIndex: '0x3',
});

const word = (value: bigint | number): Hex => `0x${BigInt(value).toString(16).padStart(64, '0')}`;
const uint64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const address = fc.uint8Array({ minLength: 20, maxLength: 20 }).map((bytes): Address => `0x${Buffer.from(bytes).toString('hex')}`);
const bytes = fc.uint8Array({ maxLength: 100 }).map((value): Hex => `0x${Buffer.from(value).toString('hex')}`);
const jobIndex = fc.integer({ min: 0, max: 255 });

const submitted: fc.Arbitrary<TestLog> = fc
  .record({ serviceId: uint64, callId: uint64, jobIndex, caller: address, inputs: bytes })
  .map((v) => ({
    topics: [TOPIC.jobSubmitted, word(v.serviceId), word(v.callId)],
    data: encodeAbiParameters([{ type: 'uint8' }, { type: 'address' }, { type: 'bytes' }], [v.jobIndex, v.caller, v.inputs]),
  }));
const published: fc.Arbitrary<TestLog> = fc
  .record({ serviceId: uint64, callId: uint64, jobIndex, caller: address, inputs: bytes })
  .map((v) => ({
    topics: [TOPIC.jobSubmitted, word(v.serviceId), word(v.callId), word(v.jobIndex)],
    data: encodeAbiParameters([{ type: 'address' }, { type: 'bytes' }], [v.caller, v.inputs]),
  }));
const fromQuote: fc.Arbitrary<TestLog> = fc
  .record({
    serviceId: uint64,
    callId: uint64,
    jobIndex,
    caller: address,
    operators: fc.array(address, { maxLength: 4 }),
    price: fc.bigInt({ min: 0n, max: 2n ** 256n - 1n }),
    inputs: bytes,
  })
  .map((v) => ({
    topics: [TOPIC.jobSubmittedFromQuote, word(v.serviceId), word(v.callId)],
    data: encodeAbiParameters(
      [{ type: 'uint8' }, { type: 'address' }, { type: 'address[]' }, { type: 'uint256' }, { type: 'bytes' }],
      [v.jobIndex, v.caller, v.operators, v.price, v.inputs],
    ),
  }));
const answered: fc.Arbitrary<TestLog> = fc.record({ serviceId: uint64, callId: uint64, operator: address, output: bytes }).map((v) => ({
  topics: [TOPIC.jobResultSubmitted, word(v.serviceId), word(v.callId), `0x${v.operator.slice(2).padStart(64, '0')}`],
  data: encodeAbiParameters([{ type: 'bytes' }], [v.output]),
}));
const completed: fc.Arbitrary<TestLog> = fc.record({ serviceId: uint64, callId: uint64 }).map((v) => ({
  topics: [TOPIC.jobCompleted, word(v.serviceId), word(v.callId)],
  data: '0x',
}));

/** Values that make offsets and lengths point at, just before and just behind interesting places. */
const interestingWord = fc.oneof(
  fc.integer({ min: 0, max: 400 }).map(word),
  fc.constantFrom(0n, 1n, 31n, 32n, 33n, 64n, 2n ** 32n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 64n - 1n, 2n ** 255n, 2n ** 256n - 1n).map(word),
  fc.bigInt({ min: 0n, max: 2n ** 256n - 1n }).map(word),
);
type Corruption = { readonly at: number } & (
  | { readonly word: Hex }
  | { readonly cut: true }
  | { readonly byte: number }
  | { readonly grow: Hex }
);
const corruption: fc.Arbitrary<Corruption> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ at: fc.nat(12), word: interestingWord }) },
  fc.record({ at: fc.nat(500), cut: fc.constant(true as const) }),
  fc.record({ at: fc.nat(500), byte: fc.nat(255) }),
  fc.record({
    at: fc.nat(500),
    grow: fc.uint8Array({ minLength: 1, maxLength: 70 }).map((b): Hex => `0x${Buffer.from(b).toString('hex')}`),
  }),
);

function corrupt(data: Hex, change: Corruption): Hex {
  const raw = Buffer.from(data.slice(2), 'hex');
  if ('cut' in change) return `0x${raw.subarray(0, change.at % (raw.length + 1)).toString('hex')}`;
  if ('grow' in change) return `${data}${change.grow.slice(2)}`;
  if (raw.length === 0) return data;
  if ('byte' in change) raw[change.at % raw.length] = change.byte;
  else Buffer.from(change.word.slice(2), 'hex').copy(raw, (change.at * 32) % raw.length);
  return `0x${raw.toString('hex')}`;
}

const logs = fc.oneof(submitted, published, fromQuote, answered, completed);
const damagedLogs = fc
  .tuple(logs, fc.array(corruption, { minLength: 1, maxLength: 3 }))
  .map(([log, changes]) => ({ topics: log.topics, data: changes.reduce(corrupt, log.data) }));

const hexOf = (value: Uint8Array): Hex => `0x${Buffer.from(value).toString('hex')}`;

/** What our decoders say, in viem's spelling; undefined: rejected. */
function ours(log: TestLog): Record<string, unknown> | undefined {
  try {
    switch (log.topics[0]) {
      case TOPIC.jobResultSubmitted: {
        const { serviceId, callId, operator, output } = decodeSubmittedResult(asLog(log), origin);
        return { serviceId, callId, operator: getAddress(operator), output: hexOf(output) };
      }
      case TOPIC.jobCompleted: {
        const { serviceId, callId } = decodeCompletedCall(asLog(log), origin);
        return { serviceId, callId };
      }
      default: {
        const call = decodeJobCall(asLog(log), origin);
        const quote = call.quotedOperators && { quotedOperators: call.quotedOperators.map((operator) => getAddress(operator)) };
        return {
          serviceId: call.serviceId,
          callId: call.callId,
          jobIndex: call.jobIndex,
          caller: getAddress(call.caller),
          ...quote,
          inputs: hexOf(call.inputs),
        };
      }
    }
  } catch (error) {
    if (isRunnerError(error) && error.code === 'LOG_MALFORMED') return undefined;
    throw error;
  }
}

/** What viem says, without what a ChainCall does not carry, and with the range check that ours adds. */
function viems(log: TestLog): Record<string, unknown> | undefined {
  let args: Record<string, unknown>;
  try {
    const abi = log.topics[0] === TOPIC.jobSubmitted && log.topics.length === 4 ? PUBLISHED : EMITTED;
    const decoded = decodeEventLog({ abi, topics: log.topics as [Hex, ...Hex[]], data: log.data });
    args = { ...decoded.args };
  } catch {
    return undefined;
  }
  delete args['totalPrice'];
  if (typeof args['jobIndex'] === 'number' && args['jobIndex'] > 255) return undefined;
  return args;
}

describe('differential against viem', () => {
  test('the topics are the hashes of the signatures', () => {
    const selectors = EMITTED.map((event) => toEventSelector(event));
    expect(selectors).toEqual([TOPIC.jobSubmitted, TOPIC.jobSubmittedFromQuote, TOPIC.jobResultSubmitted, TOPIC.jobCompleted]);
  });

  test('valid logs give the same values', () => {
    fc.assert(
      fc.property(logs, (log) => {
        const value = ours(log);
        expect(value).not.toBeUndefined();
        expect(value).toEqual(viems(log));
      }),
      { numRuns: 1000 },
    );
  });

  test('damaged logs are accepted and rejected alike, and give the same values', () => {
    let [accepted, rejected] = [0, 0];
    fc.assert(
      fc.property(damagedLogs, (log) => {
        const value = ours(log);
        if (value) accepted++;
        else rejected++;
        expect(value).toEqual(viems(log));
      }),
      { numRuns: 4000 },
    );
    // Both sides of the decision were exercised.
    expect(accepted).toBeGreaterThan(400);
    expect(rejected).toBeGreaterThan(400);
  });
});

describe('decodeJobCall', () => {
  const good: TestLog = {
    topics: [TOPIC.jobSubmitted, word(7), word(2n ** 64n - 1n)],
    data: encodeAbiParameters(
      [{ type: 'uint8' }, { type: 'address' }, { type: 'bytes' }],
      [5, '0x000000000000000000000000000000000000bb00', '0x010203'],
    ),
  };

  test('gives a ChainCall with lower-case addresses and plain bytes', () => {
    expect(decodeJobCall({ ...asLog(good), blockTimestamp: '0x64' }, origin)).toEqual({
      chainId: 31337,
      contract: origin.contract,
      serviceId: 7n,
      callId: 2n ** 64n - 1n,
      jobIndex: 5,
      caller: '0x000000000000000000000000000000000000bb00',
      inputs: new Uint8Array([1, 2, 3]),
      blockNumber: 16n,
      blockHash: HASH_A,
      transactionHash: HASH_B,
      logIndex: 3,
      timestamp: 100n,
    });
  });

  const without = (name: string) => Object.fromEntries(Object.entries(asLog(good)).filter(([key]) => key !== name));
  test.each<[string, unknown]>([
    ['null', null],
    ['a text', 'log'],
    ['another contract', { ...asLog(good), address: `0x${'11'.repeat(20)}` }],
    ['no address', without('address')],
    ['no topics', without('topics')],
    ['no data', without('data')],
    ['a pending block', { ...asLog(good), blockNumber: null }],
    ['no block hash', without('blockHash')],
    ['a short transaction hash', { ...asLog(good), transactionHash: '0x12' }],
    ['a log index that is not a quantity', { ...asLog(good), logIndex: '3' }],
    ['a timestamp that is not a quantity', { ...asLog(good), blockTimestamp: 5 }],
    ['another event', { ...asLog(good), topics: [TOPIC.jobCompleted, ...good.topics.slice(1)] }],
    ['two topics', { ...asLog(good), topics: good.topics.slice(0, 2) }],
    ['five topics', { ...asLog(good), topics: [...good.topics, word(1), word(1)] }],
    ['a service id from 2^64', { ...asLog(good), topics: [good.topics[0], word(2n ** 64n), good.topics[2]] }],
    ['a topic of 31 bytes', { ...asLog(good), topics: [good.topics[0], word(1).slice(0, 64), good.topics[2]] }],
    ['an odd number of digits', { ...asLog(good), data: `${good.data}0` }],
    ['data that is not hex', { ...asLog(good), data: `${good.data.slice(0, -2)}zz` }],
    ['a job index of 256', { ...asLog(good), data: `${word(256)}${good.data.slice(66)}` }],
    ['an indexed job index of 256', { ...asLog({ ...good, topics: [...good.topics, word(256)] }) }],
  ])('rejects %s', (_, log) => {
    expect(() => decodeJobCall(log, origin)).toThrow(expect.objectContaining({ code: 'LOG_MALFORMED' }));
  });

  test('the error says which log it is', () => {
    expect(() => decodeJobCall({ ...asLog(good), data: '0x00' }, origin)).toThrow(
      'log 0x3 of block 0x10 cannot be decoded: its data is cut off after 1 bytes',
    );
  });
});
