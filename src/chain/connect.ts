/** The real chain, loaded when it is first asked for: its HTTP and websocket clients are no small import. */

import type { RpcChainClient, RpcChainClientOptions } from './rpc.ts';

/**
 * A client that has checked chain and contract. Rejects with `CHAIN_MISMATCH`, `CONTRACT_MISSING`, `CONFIG_INVALID` or `RPC_*`; nothing is
 * left open then.
 *
 * @example
 * const chain = await connectRpcChain({ rpcUrl: 'https://rpc.example', contract: '0x8299d60f373f3a4a8c4878e335cb9d840e6e3730' });
 */
export async function connectRpcChain(options: RpcChainClientOptions): Promise<RpcChainClient> {
  const { RpcChainClient } = await import('./rpc.ts');
  const client = new RpcChainClient(options);
  try {
    await client.connect();
    return client;
  } catch (error) {
    await client.close();
    throw error;
  }
}
