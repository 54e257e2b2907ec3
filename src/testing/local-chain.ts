/** A real local chain for tests and development: the anvil of the npm package `@foundry-rs/anvil`. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { Pool } from 'undici';
import type { RpcRequest } from '../chain/chain.ts';
import { RunnerError } from '../errors.ts';
import type { Address, Hex } from '../job/call.ts';

export interface LocalChainOptions {
  /** A block every so often; absent: a block for each transaction. */
  readonly blockTimeMs?: number;
  /** Of a block; default 30,000,000. Transactions that ask for much of it wait behind smaller ones. */
  readonly blockGasLimit?: number;
  /** Default 0: any free one. */
  readonly port?: number;
  /** Default 31337. */
  readonly chainId?: number;
  /** Funded accounts; default 10. */
  readonly accounts?: number;
  /** A state file to begin with. */
  readonly loadState?: string;
  /** A state file to begin with when it exists, written again by `stop`. */
  readonly stateFile?: string;
  /** `safe` is this many blocks behind the head, `finalized` twice as many; default 32. */
  readonly slotsInAnEpoch?: number;
  /** How long the node may take to start, and to end; default 30,000. */
  readonly timeoutMs?: number;
}

export interface LocalAccount {
  /** Lower case. */
  readonly address: Address;
  readonly privateKey: Hex;
}

/** A transaction that `reorg` mines in the new branch: `block` counts from 0 at its first block. */
export interface ReorgTransaction {
  readonly transaction: { readonly from: Address; readonly to: Address; readonly data: Hex; readonly value?: Hex; readonly gas?: Hex };
  readonly block: number;
}

export interface LocalChain {
  readonly rpcUrl: string;
  readonly wsUrl: string;
  readonly chainId: number;
  /** Funded, and unlocked in the node. */
  readonly accounts: readonly LocalAccount[];
  /** Process id of the node. */
  readonly pid: number;
  /** `eth_sendTransaction` requests are passed on one after the other, so that each gets its own nonce. */
  readonly request: RpcRequest;
  /** Mines empty blocks, or what waits in the pool. */
  mine(blocks?: number): Promise<void>;
  /** Replaces the last `depth` blocks by as many others; their transactions are gone. The node announces no removed logs. */
  reorg(depth: number, transactions?: readonly ReorgTransaction[]): Promise<void>;
  /** Off: transactions wait in the pool until `mine`. With a `blockTimeMs` it stops and resumes the interval, which must be whole seconds. */
  setAutomine(on: boolean): Promise<void>;
  /** Ends the node and resolves when its process is gone. Idempotent. */
  stop(): Promise<void>;
}

interface RpcReply {
  readonly result?: unknown;
  readonly error?: { readonly code: number; readonly message: string; readonly data?: unknown };
}

/** Mining a thousand blocks takes six seconds. */
const REQUEST_TIMEOUT_MS = 60_000;

/**
 * The node ends when its standard input is closed: by `stop`, or because this process is gone. Its own output is left to the
 * node alone, so that the end of the output is the end of the node.
 */
const KEEPER = '"$@" </dev/null & node=$!; echo "node $node"; exec >/dev/null 2>&1; read -r _; kill "$node"; wait "$node"';

/**
 * Starts a node on 127.0.0.1. It dies with this process.
 *
 * Rejects with `PEER_MISSING` when the package `@foundry-rs/anvil` is not installed, with `CONFIG_INVALID` when the port is taken,
 * and with `INTERNAL` when the node does not start.
 *
 * @example
 * const chain = await startLocalChain();
 * await chain.request('eth_blockNumber', []);
 * await chain.stop();
 */
export async function startLocalChain(options: LocalChainOptions = {}): Promise<LocalChain> {
  const timeoutMs = options.timeoutMs ?? 30_000;
  const node = spawn('/bin/sh', ['-c', KEEPER, 'sh', anvilPath(), ...flags(options)], {
    env: { PATH: '/usr/bin:/bin', NO_COLOR: '1' },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const exited = new Promise<void>((resolve) => {
    node.once('close', () => resolve());
  });
  const output = await readStart(node, timeoutMs, options.port);
  const { host, pid, accounts } = output;
  const pool = new Pool(`http://${host}`, { connections: 32, bodyTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS });
  let requests = 0;
  const ask: RpcRequest = async (method, params) => {
    const body = JSON.stringify({ jsonrpc: '2.0', id: ++requests, method, params });
    const reply = await post(pool, method, body);
    if (reply.error === undefined) return reply.result;
    const { code, message, data } = reply.error;
    throw new RunnerError('RPC_ERROR', `${method}: ${message}`, { details: { method, rpcCode: code, data } });
  };
  // The node gives two transactions that come at once the same nonce.
  let sending: Promise<unknown> = Promise.resolve();
  const request: RpcRequest = (method, params) => {
    if (method !== 'eth_sendTransaction') return ask(method, params);
    const sent = sending.then(() => ask(method, params));
    sending = sent.catch(() => undefined);
    return sent;
  };
  let stopped: Promise<void> | undefined;
  const stop = async (): Promise<void> => {
    node.stdin.end();
    const lateKill = setTimeout(() => process.kill(pid, 'SIGKILL'), timeoutMs);
    await exited;
    clearTimeout(lateKill);
    await pool.destroy();
  };
  return {
    rpcUrl: `http://${host}`,
    wsUrl: `ws://${host}`,
    chainId: options.chainId ?? 31_337,
    accounts,
    pid,
    request,
    mine: async (blocks = 1) => void (await request('anvil_mine', [`0x${blocks.toString(16)}`])),
    reorg: async (depth, transactions = []) =>
      void (await request('anvil_reorg', [depth, transactions.map(({ transaction, block }) => [transaction, block])])),
    setAutomine: async (on) => {
      const seconds = (options.blockTimeMs ?? 0) / 1000;
      if (seconds === 0) await request('evm_setAutomine', [on]);
      else if (Number.isInteger(seconds)) await request('anvil_setIntervalMining', [on ? seconds : 0]);
      else throw new RunnerError('STATE_INVALID', `blockTimeMs is ${options.blockTimeMs}: the node can stop and resume whole seconds only`);
    },
    stop: () => (stopped ??= stop()),
  };
}

function flags(options: LocalChainOptions): string[] {
  const { blockTimeMs, blockGasLimit, port = 0, chainId, accounts, loadState, stateFile, slotsInAnEpoch } = options;
  const list = ['--host', '127.0.0.1', '--port', String(port)];
  if (blockTimeMs !== undefined) list.push('--block-time', String(blockTimeMs / 1000));
  if (blockGasLimit !== undefined) list.push('--gas-limit', String(blockGasLimit));
  if (chainId !== undefined) list.push('--chain-id', String(chainId));
  if (accounts !== undefined) list.push('--accounts', String(accounts));
  if (loadState !== undefined) list.push('--load-state', loadState);
  if (stateFile !== undefined) list.push('--state', stateFile);
  if (slotsInAnEpoch !== undefined) list.push('--slots-in-an-epoch', String(slotsInAnEpoch));
  return list;
}

function anvilPath(): string {
  const system = `${process.platform}-${process.arch === 'x64' ? 'amd64' : process.arch}`;
  const file = `@foundry-rs/anvil-${system}/bin/anvil${process.platform === 'win32' ? '.exe' : ''}`;
  try {
    // The project that uses the runner may have the package when the runner itself lies elsewhere.
    return createRequire(import.meta.url).resolve(file, { paths: [fileURLToPath(new URL('.', import.meta.url)), process.cwd()] });
  } catch (cause) {
    throw new RunnerError(
      'PEER_MISSING',
      `the local chain needs the package @foundry-rs/anvil (${system}): npm install --save-dev @foundry-rs/anvil`,
      {
        cause,
        details: { package: '@foundry-rs/anvil', system },
      },
    );
  }
}

interface Start {
  readonly host: string;
  readonly pid: number;
  readonly accounts: readonly LocalAccount[];
}

/** Resolves when the node says where it listens. */
function readStart(node: ChildProcess, timeoutMs: number, port?: number): Promise<Start> {
  return new Promise((resolve, reject) => {
    let text = '';
    const fail = (reason: string): void => {
      clearTimeout(timer);
      node.stdin?.end();
      if (port !== undefined && /address already in use/i.test(text)) reject(portTaken(port));
      else reject(new RunnerError('INTERNAL', `the local chain ${reason}: ${text.trim().slice(-500)}`));
    };
    const timer = setTimeout(() => fail(`did not start within ${timeoutMs} ms`), timeoutMs);
    const read = (chunk: Buffer): void => {
      text += chunk.toString('utf8');
      const host = /^Listening on (\S+)$/m.exec(text)?.[1];
      if (host === undefined) return;
      clearTimeout(timer);
      node.stdout?.off('data', read).off('end', ended).resume();
      node.stderr?.off('data', read).resume();
      resolve({ host, pid: Number(/^node (\d+)$/m.exec(text)?.[1]), accounts: parseAccounts(text) });
    };
    const ended = (): void => fail('ended at once');
    node.stdout?.on('data', read).once('end', ended);
    node.stderr?.on('data', read);
    node.once('error', (cause) => fail(`cannot be run (${cause.message})`));
  });
}

function portTaken(port: number): RunnerError {
  const message = `the local chain cannot listen on 127.0.0.1:${port}: address already in use; choose another port, or 0 for any free one`;
  return new RunnerError('CONFIG_INVALID', message, { details: { port } });
}

function parseAccounts(text: string): LocalAccount[] {
  const addresses = [...text.matchAll(/^\(\d+\) (0x[0-9a-fA-F]{40}) /gm)].map((match) => match[1]?.toLowerCase() as Address);
  const keys = [...text.matchAll(/^\(\d+\) (0x[0-9a-f]{64})$/gm)].map((match) => match[1] as Hex);
  return addresses.map((address, index) => ({ address, privateKey: keys[index] as Hex }));
}

async function post(pool: Pool, method: string, body: string): Promise<RpcReply> {
  try {
    const response = await pool.request({ path: '/', method: 'POST', headers: { 'content-type': 'application/json' }, body });
    return (await response.body.json()) as RpcReply;
  } catch (cause) {
    throw new RunnerError('RPC_UNREACHABLE', `${method}: the local chain does not answer`, { cause });
  }
}
