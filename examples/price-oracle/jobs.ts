/**
 * A price oracle: fetches a price over HTTP and signs it, so that anybody can check who said it, and when.
 *
 * The source answers `GET {PRICE_SOURCE}/price?symbol=ETH` with `{"price": "2345.67"}`. The result is
 * `(uint256 price, uint64 timestamp, bytes signature)`; the price has eight decimals, and the signature is that of the oracle over
 * `keccak256(abi.encode(symbol, price, timestamp))` as a personal message. Every answer differs in its time: one result is
 * settled per call, whatever crashed meanwhile.
 *
 * In a project of your own the imports of the runner are `from 'blueprint-runner'`.
 */

import type { LocalAccount as SigningAccount } from 'viem/accounts';
import { encodeAbiParameters, keccak256, parseUnits } from 'viem/utils';
import type { Hex } from '../../src/job/call.ts';
import { defineJob } from '../../src/job/job.ts';
import { JobRouter } from '../../src/job/router.ts';

const DECIMALS = 8;
const SOURCE_TIMEOUT_MS = 5_000;

export interface OracleOptions {
  /** Base URL of the source, without a slash at the end. */
  readonly source: string;
  /** Who signs; `privateKeyToAccount(key)` makes one. */
  readonly account: Pick<SigningAccount, 'signMessage'>;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
}

/** What is signed. */
export function priceDigest(symbol: string, price: bigint, timestamp: bigint): Hex {
  return keccak256(encodeAbiParameters([{ type: 'string' }, { type: 'uint256' }, { type: 'uint64' }], [symbol, price, timestamp]));
}

/** Throws when the source does not answer with a price; the call then fails with `JOB_FAILED` and that reason. */
async function fetchPrice(source: string, symbol: string, signal: AbortSignal): Promise<bigint> {
  const response = await fetch(`${source}/price?symbol=${encodeURIComponent(symbol)}`, {
    signal: AbortSignal.any([signal, AbortSignal.timeout(SOURCE_TIMEOUT_MS)]),
  });
  if (!response.ok) throw new Error(`the price source answers ${response.status} for ${symbol}`);
  const answer: unknown = await response.json();
  const price = typeof answer === 'object' && answer !== null && 'price' in answer ? answer.price : undefined;
  if (typeof price !== 'string' || !/^\d+(?:\.\d+)?$/.test(price)) throw new Error(`the price source has no price for ${symbol}`);
  return parseUnits(price, DECIMALS);
}

export function oracleRouter({ source, account, now = Date.now }: OracleOptions): JobRouter {
  const signPrice = defineJob(
    { name: 'sign_price', params: 'string symbol', result: 'uint256 price, uint64 timestamp, bytes signature', idempotent: true },
    async ([symbol], { signal }) => {
      const price = await fetchPrice(source, symbol, signal);
      const timestamp = BigInt(Math.floor(now() / 1000));
      const signature = await account.signMessage({ message: { raw: priceDigest(symbol, price, timestamp) } });
      return [price, timestamp, signature] as const;
    },
  );
  return new JobRouter().route(0, signPrice);
}
