/** The call data of submitResult and submitResults, by hand: viem's `encodeFunctionData` takes ten times as long. */

import { RunnerError } from '../errors.ts';
import type { Hex } from '../job/call.ts';
import type { ResultBatch } from './chain.ts';
import { SELECTOR } from './contracts.ts';

/**
 * One result becomes `submitResult(uint64, uint64, bytes)`, several become `submitResults(uint64, uint64[], bytes[])`. Throws `INTERNAL`
 * when there is no result, or not one for each call.
 */
export function encodeResults({ serviceId, callIds, results }: ResultBatch): Hex {
  const [callId] = callIds;
  const [result] = results;
  if (callId === undefined || result === undefined || callIds.length !== results.length) {
    throw new RunnerError('INTERNAL', `${results.length} results for ${callIds.length} calls cannot be encoded`);
  }
  return callIds.length === 1 ? encodeOne(serviceId, callId, result) : encodeMany(serviceId, callIds, results);
}

const WORD = 32;
const SELECTOR_BYTES = 4;

const padded = (bytes: Uint8Array): number => Math.ceil(bytes.length / WORD) * WORD;

function encodeOne(serviceId: bigint, callId: bigint, result: Uint8Array): Hex {
  const data = Buffer.alloc(SELECTOR_BYTES + 4 * WORD + padded(result));
  data.write(SELECTOR.submitResult.slice(2), 'hex');
  putUint64(data, 0, serviceId);
  putUint64(data, 1, callId);
  putLength(data, 2, 3 * WORD);
  putBytes(data, 3, result);
  return `0x${data.toString('hex')}`;
}

function encodeMany(serviceId: bigint, callIds: readonly bigint[], results: readonly Uint8Array[]): Hex {
  const count = callIds.length;
  const tails = results.reduce((sum, result) => sum + WORD + padded(result), 0);
  const idsAt = 3;
  const resultsAt = idsAt + 1 + count;
  const data = Buffer.alloc(SELECTOR_BYTES + (resultsAt + 1 + count) * WORD + tails);
  data.write(SELECTOR.submitResults.slice(2), 'hex');
  putUint64(data, 0, serviceId);
  putLength(data, 1, idsAt * WORD);
  putLength(data, 2, resultsAt * WORD);
  putLength(data, idsAt, count);
  for (const [index, callId] of callIds.entries()) putUint64(data, idsAt + 1 + index, callId);
  putLength(data, resultsAt, count);
  // Offsets of elements count from the word after the length of their array.
  let offset = count * WORD;
  for (const [index, result] of results.entries()) {
    putLength(data, resultsAt + 1 + index, offset);
    putBytes(data, resultsAt + 1 + offset / WORD, result);
    offset += WORD + padded(result);
  }
  return `0x${data.toString('hex')}`;
}

/** `word` counts words of 32 bytes after the selector; numbers stand at their end. */
function putUint64(data: Buffer, word: number, value: bigint): void {
  data.writeBigUInt64BE(value, SELECTOR_BYTES + word * WORD + 24);
}

function putLength(data: Buffer, word: number, value: number): void {
  data.writeUInt32BE(value, SELECTOR_BYTES + word * WORD + 28);
}

function putBytes(data: Buffer, word: number, bytes: Uint8Array): void {
  putLength(data, word, bytes.length);
  data.set(bytes, SELECTOR_BYTES + (word + 1) * WORD);
}
