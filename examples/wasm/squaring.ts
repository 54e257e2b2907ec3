/**
 * A job as a module: squares a uint64, as an operator runs it with
 *
 *   bpr wasm build examples/wasm/squaring.ts --out squaring.zip
 *   builder.withFaasExecutor(0, { use: 'wasm', options: { artifact: 'squaring.zip' } })
 *
 * Arguments and result are in the ABI of Solidity: one word of 32 bytes, the largest byte first.
 */

import { JobCall, jobResult } from 'blueprint';

export function handler(event: ArrayBuffer): ArrayBuffer {
  const call = JobCall.parse(event);
  if (call.args.byteLength < 32) throw new Error('the arguments are too short');
  const x = bswap<u64>(load<u64>(changetype<usize>(call.args) + 24));
  const result = new ArrayBuffer(32);
  store<u64>(changetype<usize>(result) + 24, bswap<u64>(x * x));
  return jobResult(result);
}
