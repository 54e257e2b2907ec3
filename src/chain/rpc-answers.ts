/** What nodes answer, as values. Nodes agree on results, but each has its own words for why a transaction fails. Pure. */

import { RunnerError } from '../errors.ts';
import type { Hex } from '../job/call.ts';
import type { Receipt, SendOutcome } from './chain.ts';

/** In this order; geth, erigon, nethermind, besu, reth, anvil and OpenEthereum's words. */
const SEND_OUTCOMES: readonly (readonly [SendOutcome, RegExp])[] = [
  ['known', /already known|known transaction|already imported|alreadyknown|already exists|already in (the )?(mem)?pool/i],
  [
    'nonce-too-low',
    /nonce( is)? too low|oldnonce|nonce_too_low|nonce has already been used|nonce .*(lower|less) than|account .* has nonce .* tx has nonce/i,
  ],
  ['underfunded', /insufficient (funds|balance)|insufficientfunds|upfront.cost.*(exceed|balance)|enough funds|overshot/i],
  [
    'underpriced',
    /underpriced|too low to (replace|compete)|feetoolowtocompete|replacement.*(not ?allowed|too low)|gas price supplied is too low/i,
  ],
  [
    'fee-too-low',
    /less than block base fee|(fee|gas price)( cap)?( is)? (too low|below|less than)|feetoolow|below (the )?(current |configured )?(base ?fee|minimum)|gas_price_below/i,
  ],
];

/** What an error of eth_sendRawTransaction means; undefined when it is none of these. */
export function sendOutcome(error: RunnerError): SendOutcome | undefined {
  const said = [error.message, error.details['rpcMessage'], error.details['data']].filter((text) => typeof text === 'string').join(' ');
  return SEND_OUTCOMES.find(([, words]) => words.test(said))?.[0];
}

/** Whether the endpoint works and does not take this one request (too large, out of gas): others need not wait for it. */
export function isRefusal(error: RunnerError): boolean {
  return error.code === 'RPC_ERROR' || error.details['reason'] === 'too-large';
}

/** Whether eth_estimateGas or eth_call failed because the contract reverted. */
export function isRevert(error: RunnerError): boolean {
  const { rpcCode, rpcMessage } = error.details;
  return rpcCode === 3 || rpcCode === -32015 || /revert/i.test(String(rpcMessage));
}

/** The bytes that the contract reverted with, wherever the node put them. */
export function revertData(error: RunnerError): Hex | undefined {
  return findHex(error.details['data'], 0);
}

function findHex(value: unknown, depth: number): Hex | undefined {
  if (typeof value === 'string') {
    const bytes = /^(?:Reverted )?(0x(?:[0-9a-fA-F]{2}){4,})$/.exec(value)?.[1];
    return bytes?.toLowerCase() as Hex | undefined; // as: matched above
  }
  if (typeof value !== 'object' || value === null || depth > 3) return undefined;
  const { data, result, originalError } = value as Readonly<Record<string, unknown>>; // as: each field is checked by the recursion
  return findHex(data, depth + 1) ?? findHex(result, depth + 1) ?? findHex(originalError, depth + 1);
}

const isQuantity = (value: unknown): value is Hex => typeof value === 'string' && /^0x[0-9a-fA-F]{1,64}$/.test(value);
const isHash = (value: unknown): value is Hex => typeof value === 'string' && /^0x[0-9a-fA-F]{64}$/.test(value);

/** A number of the protocol. Throws `RPC_RESPONSE_INVALID`. */
export function quantityOf(raw: unknown, method: string): bigint {
  if (isQuantity(raw)) return BigInt(raw);
  throw new RunnerError('RPC_RESPONSE_INVALID', `${method} answered ${String(JSON.stringify(raw)).slice(0, 80)}, which is no number`);
}

/** A number that counts something. Throws `RPC_RESPONSE_INVALID`. */
export function countOf(raw: unknown, method: string): number {
  const count = Number(quantityOf(raw, method));
  if (Number.isSafeInteger(count)) return count;
  throw new RunnerError('RPC_RESPONSE_INVALID', `${method} answered ${String(raw)}, which cannot be`);
}

/** Throws `CHAIN_MISMATCH` when the answer of eth_chainId is not the expected one, `RPC_RESPONSE_INVALID` when it is none. */
export function checkChainId(raw: unknown, expected: number | undefined, endpoint = 'the endpoint'): number {
  const served = Number(quantityOf(raw, 'eth_chainId'));
  if (expected === undefined || served === expected) return served;
  throw new RunnerError('CHAIN_MISMATCH', `${endpoint} serves chain ${served}, not chain ${expected}`, {
    details: { endpoint, served, expected },
  });
}

/** Undefined for null: not mined. Throws `RPC_RESPONSE_INVALID`, also for the receipt of another transaction. */
export function parseReceipt(raw: unknown, hash: Hex): Receipt | undefined {
  if (raw === null) return undefined;
  const receipt = raw as Readonly<Record<string, unknown>>; // as: each field is checked below
  const { transactionHash, blockHash, blockNumber, status, gasUsed, effectiveGasPrice } = receipt;
  // Some nodes give receipts of transactions that only wait.
  if (blockHash === null || blockNumber === null) return undefined;
  if (!isHash(transactionHash) || !isHash(blockHash) || !isQuantity(blockNumber) || !isQuantity(status) || !isQuantity(gasUsed)) {
    throw new RunnerError('RPC_RESPONSE_INVALID', `a receipt of transaction ${String(transactionHash)} is malformed`);
  }
  if (transactionHash.toLowerCase() !== hash)
    throw new RunnerError('RPC_RESPONSE_INVALID', `for transaction ${hash} the receipt of ${transactionHash} was given`);
  return {
    transactionHash: hash,
    block: { number: BigInt(blockNumber), hash: blockHash.toLowerCase() as Hex }, // as: a hash
    success: BigInt(status) === 1n,
    gasUsed: BigInt(gasUsed),
    effectiveGasPrice: isQuantity(effectiveGasPrice) ? BigInt(effectiveGasPrice) : 0n,
  };
}

/**
 * The base fee of the next block and the middle of what blocks with transactions paid on top lately; no tip when there were none.
 * Throws `RPC_RESPONSE_INVALID`.
 *
 * @param history the answer of eth_feeHistory for one percentile
 */
export function priorityFee(history: unknown): { baseFeePerGas: bigint; tip: bigint | undefined } {
  const { baseFeePerGas, gasUsedRatio, reward } = (history ?? {}) as Readonly<Record<string, unknown>>; // as: each field is checked below
  const next: unknown = Array.isArray(baseFeePerGas) ? baseFeePerGas.at(-1) : undefined;
  if (!isQuantity(next)) throw new RunnerError('RPC_RESPONSE_INVALID', 'eth_feeHistory did not answer with base fees');
  const ratios: readonly unknown[] = Array.isArray(gasUsedRatio) ? gasUsedRatio : [];
  const rewards: readonly unknown[] = Array.isArray(reward) ? reward : [];
  const tips = rewards
    .map((block: unknown): unknown => (Array.isArray(block) ? block[0] : undefined))
    .filter((value, index): value is Hex => isQuantity(value) && ratios[index] !== 0)
    .map((value) => BigInt(value))
    .sort((a, b) => (a < b ? -1 : 1));
  return { baseFeePerGas: BigInt(next), tip: tips[tips.length >> 1] };
}
