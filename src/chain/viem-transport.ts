/** Lets viem clients of the user's own use the runner's endpoints. Apart from the transport, which must not load viem. */

import { custom } from 'viem';
import type { CustomTransport } from 'viem';
import { isRunnerError } from '../errors.ts';
import type { RpcRequest } from './chain.ts';

/**
 * Over it viem makes some ten times the requests per second of its own http transport, and follows the failover of the runner.
 *
 * @example
 * const client = createPublicClient({ transport: toViemTransport(transport) });
 */
export function toViemTransport(transport: { readonly request: RpcRequest }): CustomTransport {
  const request = async (call: { readonly method: string; readonly params?: readonly unknown[] }): Promise<unknown> => {
    try {
      return await transport.request(call.method, call.params ?? []);
    } catch (error) {
      if (!isRunnerError(error) || error.code !== 'RPC_ERROR') throw error;
      // viem recognises errors by the numbers of EIP-1474.
      const { rpcCode, rpcMessage, data } = error.details;
      throw Object.assign(new Error(String(rpcMessage), { cause: error }), { code: rpcCode, data });
    }
  };
  // Failures were tried again already, at the other endpoints.
  return custom({ request }, { name: 'blueprint-runner', retryCount: 0 });
}
