/**
 * From raw JSON-RPC logs of the Tangle contract to values, by hand: some 20 times faster than viem's `decodeEventLog`, because the
 * layout of the four events is known and nothing is hashed per log.
 *
 * A log is accepted and rejected exactly as viem 2.57.1 would, and gives the same values, with these deliberate differences, all of
 * them towards rejecting what no contract emits:
 * - integers beyond the range of their type (job index above 255, ids from 2^64) are rejected; viem passes them on;
 * - topics must be 32 bytes, data an even number of digits, and an event must not have more topics than it declares;
 * - JobSubmitted with four topics is read in its published form (indexed job index), with three in the form that the contract emits.
 */

import { RunnerError } from '../errors.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import { TOPIC } from './contracts.ts';

/** Where the logs come from: what every call carries. */
export interface LogOrigin {
  readonly chainId: number;
  /** Lower case. */
  readonly contract: Address;
}

/** JobResultSubmitted: one operator answered one call. */
export interface SubmittedResult {
  readonly serviceId: bigint;
  readonly callId: bigint;
  /** Lower case. */
  readonly operator: Address;
  readonly output: Uint8Array;
  readonly blockNumber: bigint;
  readonly blockHash: Hex;
  readonly transactionHash: Hex;
}

/** JobCompleted: the contract has the results that it needs. */
export interface CompletedCall {
  readonly serviceId: bigint;
  readonly callId: bigint;
  readonly blockNumber: bigint;
  readonly blockHash: Hex;
  readonly transactionHash: Hex;
}

/**
 * A JobSubmitted or JobSubmittedFromQuote. Throws `LOG_MALFORMED`.
 *
 * @param log one element of the answer of `eth_getLogs`
 */
export function decodeJobCall(log: unknown, origin: LogOrigin): ChainCall {
  const { topics, data, at } = openLog(log, origin);
  const fromQuote = topics[0] === TOPIC.jobSubmittedFromQuote;
  if (!fromQuote && topics[0] !== TOPIC.jobSubmitted) throw malformed(`topic ${String(topics[0])} is not a submitted job`, at);
  const published = !fromQuote && topics.length === 4;
  if (topics.length !== 3 && !published) throw malformed(`${topics.length} topics`, at);
  // The published form has one head word less: its job index is a topic.
  const head = published ? 0 : 32;
  const bytes = dataBytes(data, fromQuote ? 160 : head + 64, at);
  const jobIndex = published ? Number(topicUint64(topics[3], at)) : safeUint(bytes, 0, at);
  if (jobIndex > 255) throw malformed(`job index ${jobIndex} is not a uint8`, at);
  const call: { -readonly [K in keyof ChainCall]: ChainCall[K] } = {
    chainId: origin.chainId,
    contract: origin.contract,
    serviceId: topicUint64(topics[1], at),
    callId: topicUint64(topics[2], at),
    jobIndex,
    caller: addressAt(bytes, head),
    inputs: dynamicBytes(bytes, fromQuote ? 128 : head + 32, at),
    blockNumber: BigInt(quantity(at.blockNumber, 'blockNumber', at)),
    blockHash: hash32(at.blockHash, 'blockHash', at),
    transactionHash: hash32(at.transactionHash, 'transactionHash', at),
    logIndex: quantity(at.logIndex, 'logIndex', at),
  };
  if (at.blockTimestamp !== undefined && at.blockTimestamp !== null)
    call.timestamp = BigInt(quantity(at.blockTimestamp, 'blockTimestamp', at));
  if (fromQuote) call.quotedOperators = addressArray(bytes, 64, at);
  return call;
}

/** A JobResultSubmitted. Throws `LOG_MALFORMED`. */
export function decodeSubmittedResult(log: unknown, origin: LogOrigin): SubmittedResult {
  const { topics, data, at } = openLog(log, origin);
  if (topics[0] !== TOPIC.jobResultSubmitted || topics.length !== 4) throw malformed('it is not a submitted result', at);
  const bytes = dataBytes(data, 32, at);
  return {
    serviceId: topicUint64(topics[1], at),
    callId: topicUint64(topics[2], at),
    operator: `0x${hash32(topics[3], 'operator', at).slice(26)}`,
    output: dynamicBytes(bytes, 0, at),
    ...place(at),
  };
}

/** A JobCompleted. Throws `LOG_MALFORMED`. */
export function decodeCompletedCall(log: unknown, origin: LogOrigin): CompletedCall {
  const { topics, at } = openLog(log, origin);
  if (topics[0] !== TOPIC.jobCompleted || topics.length !== 3) throw malformed('it is not a completed call', at);
  return { serviceId: topicUint64(topics[1], at), callId: topicUint64(topics[2], at), ...place(at) };
}

interface LogFields {
  readonly address?: unknown;
  readonly topics?: unknown;
  readonly data?: unknown;
  readonly blockNumber?: unknown;
  readonly blockHash?: unknown;
  readonly transactionHash?: unknown;
  readonly logIndex?: unknown;
  readonly blockTimestamp?: unknown;
}

interface OpenedLog {
  readonly topics: readonly unknown[];
  readonly data: string;
  /** The log itself: an error says where it was found. */
  readonly at: LogFields;
}

function openLog(log: unknown, origin: LogOrigin): OpenedLog {
  if (typeof log !== 'object' || log === null) throw malformed('it is not an object', {});
  const fields: LogFields = log;
  const { address, topics, data } = fields;
  if (address !== origin.contract && (typeof address !== 'string' || address.toLowerCase() !== origin.contract)) {
    throw malformed(`it is of contract ${String(address)}`, fields);
  }
  if (!Array.isArray(topics)) throw malformed('it has no topics', fields);
  if (typeof data !== 'string') throw malformed('it has no data', fields);
  return { topics, data, at: fields };
}

function place(at: LogFields): { blockNumber: bigint; blockHash: Hex; transactionHash: Hex } {
  return {
    blockNumber: BigInt(quantity(at.blockNumber, 'blockNumber', at)),
    blockHash: hash32(at.blockHash, 'blockHash', at),
    transactionHash: hash32(at.transactionHash, 'transactionHash', at),
  };
}

/** Value of a hex digit by character code; 255: not a digit. */
const DIGIT = new Uint8Array(128).fill(255);
for (const [value, digit] of Array.from('0123456789abcdef').entries()) {
  DIGIT[digit.charCodeAt(0)] = value;
  DIGIT[digit.toUpperCase().charCodeAt(0)] = value;
}

/** Hex digits of a text as a number, exact up to 13 digits; NaN when a character is no digit. Half the cost of a regular expression. */
function hexNumber(text: string, start: number, end: number): number {
  let value = 0;
  let seen = 0;
  for (let index = start; index < end; index++) {
    const digit = DIGIT[text.charCodeAt(index)] ?? 255;
    seen |= digit;
    value = value * 16 + digit;
  }
  return seen > 15 ? Number.NaN : value;
}

const UINT64_PREFIX = `0x${'0'.repeat(48)}`;

function topicUint64(topic: unknown, at: LogFields): bigint {
  if (typeof topic !== 'string' || topic.length !== 66 || !topic.startsWith(UINT64_PREFIX))
    throw malformed(`topic ${String(topic)} is not a uint64`, at);
  const high = hexNumber(topic, 50, 58);
  const low = hexNumber(topic, 58, 66);
  if (Number.isNaN(high + low)) throw malformed(`topic ${topic} is not hex`, at);
  return high === 0 ? BigInt(low) : (BigInt(high) << 32n) | BigInt(low);
}

function hash32(value: unknown, name: string, at: LogFields): Hex {
  if (typeof value === 'string' && value.length === 66 && value.startsWith('0x') && !Number.isNaN(hexNumber(value, 2, 66))) {
    return value.toLowerCase() as Hex; // as: 0x and 64 digits
  }
  throw malformed(`${name} ${String(value)} is not 32 bytes`, at);
}

function quantity(value: unknown, name: string, at: LogFields): number {
  if (typeof value === 'string' && value.length > 2 && value.length < 16 && value.startsWith('0x')) {
    const number = hexNumber(value, 2, value.length);
    if (number <= Number.MAX_SAFE_INTEGER) return number;
  }
  throw malformed(`${name} ${String(value)} is not a quantity`, at);
}

function dataBytes(data: string, headBytes: number, at: LogFields): Buffer {
  const digits = data.length - 2;
  const bytes = data.startsWith('0x') ? Buffer.from(data.slice(2), 'hex') : Buffer.alloc(0);
  // Buffer.from stops at the first character that is not a digit.
  if (digits < 0 || bytes.length * 2 !== digits) throw malformed('its data is not hex', at);
  if (bytes.length < headBytes || bytes.length <= 32) throw malformed(`its data is cut off after ${bytes.length} bytes`, at);
  return bytes;
}

const TWO_32 = 0x1_0000_0000;

/** The word at `position` as an integer that a JavaScript number holds exactly. The caller has checked that the word is there. */
function safeUint(bytes: Buffer, position: number, at: LogFields): number {
  let high = 0;
  for (let offset = 0; offset < 24; offset += 4) high |= bytes.readInt32BE(position + offset);
  const value = bytes.readUInt32BE(position + 24) * TWO_32 + bytes.readUInt32BE(position + 28);
  if (high !== 0 || value > Number.MAX_SAFE_INTEGER) throw malformed(`the integer at byte ${position} is too large`, at);
  return value;
}

/** viem ignores the 12 bytes before an address; so does this. */
function addressAt(bytes: Buffer, position: number): Address {
  return `0x${bytes.toString('hex', position + 12, position + 32)}`;
}

/** Follows the offset at `position` to a length word, and checks that `length * unitBytes` bytes follow it. */
function tail(
  bytes: Buffer,
  position: number,
  options: { readonly unitBytes: number; readonly at: LogFields },
): { start: number; length: number } {
  const offset = safeUint(bytes, position, options.at);
  if (offset + 32 > bytes.length) throw malformed(`the offset ${offset} at byte ${position} points outside the data`, options.at);
  const length = safeUint(bytes, offset, options.at);
  const start = offset + 32;
  if (length * options.unitBytes > bytes.length - start)
    throw malformed(`the length ${length} at byte ${offset} reaches outside the data`, options.at);
  return { start, length };
}

function dynamicBytes(bytes: Buffer, position: number, at: LogFields): Uint8Array {
  const { start, length } = tail(bytes, position, { unitBytes: 1, at });
  return new Uint8Array(bytes.buffer, bytes.byteOffset + start, length);
}

function addressArray(bytes: Buffer, position: number, at: LogFields): Address[] {
  const { start, length } = tail(bytes, position, { unitBytes: 32, at });
  const addresses: Address[] = [];
  for (let index = 0; index < length; index++) addresses.push(addressAt(bytes, start + index * 32));
  return addresses;
}

function malformed(what: string, at: LogFields): RunnerError {
  const text = (value: unknown): string => (typeof value === 'string' ? value.slice(0, 80) : typeof value);
  const [block, log] = [text(at.blockNumber), text(at.logIndex)];
  return new RunnerError('LOG_MALFORMED', `log ${log} of block ${block} cannot be decoded: ${what.slice(0, 200)}`, {
    details: { blockNumber: block, logIndex: log, transactionHash: text(at.transactionHash) },
  });
}
