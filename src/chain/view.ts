/** Reads of contracts through a bare JSON-RPC request: views, and blocks and logs found by time. */

import type { Abi, ContractFunctionArgs, ContractFunctionName, ContractFunctionReturnType } from 'viem';
import { decodeFunctionResult, encodeFunctionData } from 'viem/utils';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { Address, Hex } from '../job/call.ts';
import type { RpcRequest } from './chain.ts';

type ViewName<A extends Abi> = ContractFunctionName<A, 'view'>;

export interface View<A extends Abi, N extends ViewName<A>> {
  readonly abi: A;
  readonly name: N;
  readonly args: ContractFunctionArgs<A, 'view', N>;
}

/**
 * Calls a view function at the latest block. Rejects with `CONTRACT_MISSING` when nothing answers at the address, and with `RPC_ERROR`
 * when the answer is not what the ABI says.
 */
export async function readView<const A extends Abi, const N extends ViewName<A>>(
  request: RpcRequest,
  contract: Address,
  view: View<A, N>,
): Promise<ContractFunctionReturnType<A, 'view', N>> {
  const data = encodeCall(view.abi, view.name, view.args);
  const answer = await request('eth_call', [{ to: contract, data }, 'latest']);
  if (answer === '0x') throw new RunnerError('CONTRACT_MISSING', `nothing answers ${view.name} at ${contract}`, { details: { contract } });
  try {
    // The types of viem do not follow a generic ABI; the decoded value is of the type that the ABI says.
    const abi: Abi = view.abi;
    const functionName: string = view.name;
    return decodeFunctionResult({ abi, functionName, data: answer as Hex }) as ContractFunctionReturnType<A, 'view', N>;
  } catch (cause) {
    throw new RunnerError('RPC_ERROR', `the answer of ${view.name} at ${contract} cannot be decoded`, { cause });
  }
}

/** Call data of any function; the arguments are checked against the ABI where they come in. */
export function encodeCall(abi: Abi, functionName: string, args: unknown): Hex {
  return encodeFunctionData({ abi, functionName, args: args as readonly unknown[] });
}

export interface BlockTime {
  readonly number: bigint;
  /** Seconds since the epoch. */
  readonly timestamp: bigint;
}

/** The time of a block. Rejects with `RPC_RESPONSE_INVALID` when the node does not have it. */
export async function blockTime(request: RpcRequest, block: bigint | 'latest'): Promise<BlockTime> {
  const answer = await request('eth_getBlockByNumber', [block === 'latest' ? block : quantity(block), false]);
  const { number, timestamp } = (answer ?? {}) as { readonly number?: unknown; readonly timestamp?: unknown };
  if (typeof number !== 'string' || typeof timestamp !== 'string') {
    throw new RunnerError('RPC_RESPONSE_INVALID', `the endpoint does not have block ${String(block)}`);
  }
  return { number: BigInt(number), timestamp: BigInt(timestamp) };
}

/** The first block that is not older than this; one after the head when there is none. Some 25 requests on a long chain. */
export async function firstBlockSince(request: RpcRequest, timestamp: bigint): Promise<bigint> {
  const head = await blockTime(request, 'latest');
  let low = 0n;
  let high = head.number + 1n;
  while (low < high) {
    const middle = (low + high) / 2n;
    const found = middle === head.number ? head : await blockTime(request, middle);
    if (found.timestamp < timestamp) low = middle + 1n;
    else high = middle;
  }
  return low;
}

export interface LogFilter {
  readonly address?: Address;
  readonly topics: readonly (Hex | readonly Hex[])[];
}

export interface RawLog {
  readonly topics: readonly Hex[];
  readonly data: Hex;
}

/** The logs of a filter in one request, in order. Rejects with `RPC_ERROR` when the endpoint refuses the range. */
export async function logsBetween(
  request: RpcRequest,
  filter: LogFilter,
  range: { readonly from: bigint; readonly to: bigint },
): Promise<RawLog[]> {
  const answer = await request('eth_getLogs', [{ ...filter, fromBlock: quantity(range.from), toBlock: quantity(range.to) }]);
  if (!Array.isArray(answer) || !answer.every(isRawLog))
    throw new RunnerError('RPC_RESPONSE_INVALID', 'eth_getLogs did not answer with logs');
  return answer;
}

const LATEST_LOG_REQUESTS_MAX = 200;
const RANGE_MIN = 500n;

/**
 * The last log of a filter since a block. Endpoints limit the range of a request: it looks backwards, in ever smaller windows while
 * they are refused, and gives up with `RPC_ERROR` after 200 requests.
 */
export async function latestLog(request: RpcRequest, filter: LogFilter, since: bigint): Promise<RawLog | undefined> {
  const head = await blockTime(request, 'latest');
  let to = head.number;
  let width = to - since + 1n;
  for (let requests = 0; to >= since; requests++) {
    if (requests === LATEST_LOG_REQUESTS_MAX)
      throw new RunnerError('RPC_ERROR', `the endpoint shows too few blocks at a time to find a log since block ${since}`);
    const from = to - width + 1n > since ? to - width + 1n : since;
    try {
      const found = (await logsBetween(request, filter, { from, to })).at(-1);
      if (found) return found;
      to = from - 1n;
    } catch (thrown) {
      if (!isRunnerError(thrown) || thrown.code !== 'RPC_ERROR' || width <= RANGE_MIN) throw thrown;
      width = width / 4n > RANGE_MIN ? width / 4n : RANGE_MIN;
    }
  }
  return undefined;
}

/** A number as an indexed topic. */
export function topicOf(value: bigint | Address): Hex {
  const digits = typeof value === 'bigint' ? value.toString(16) : value.slice(2).toLowerCase();
  return `0x${digits.padStart(64, '0')}`;
}

function quantity(value: bigint): Hex {
  return `0x${value.toString(16)}`;
}

function isRawLog(value: unknown): value is RawLog {
  if (typeof value !== 'object' || value === null) return false;
  const { topics, data } = value as { readonly topics?: unknown; readonly data?: unknown };
  return typeof data === 'string' && Array.isArray(topics);
}
