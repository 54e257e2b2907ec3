/**
 * The chain side against its limits, on a local node: decoding against viem, requests against bare undici, catching up against bare
 * eth_getLogs with the same decoder, a pushed call against a bare eth_subscribe. Prints ratios; `node test/bench/chain.bench.ts`.
 */

import { Pool } from 'undici';
import { decodeEventLog, parseAbi } from 'viem/utils';
import { WebSocket } from 'ws';

import { TOPIC } from '../../src/chain/contracts.ts';
import { decodeJobCall } from '../../src/chain/decode.ts';
import { RpcChainClient } from '../../src/chain/rpc.ts';
import { createRpcTransport } from '../../src/chain/transport.ts';
import type { Hex } from '../../src/job/call.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { LocalChain } from '../../src/testing/local-chain.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import type { LocalTangle } from '../../src/testing/tangle.ts';
import { interleaved, median } from './measure.ts';

const CALLS = 5000;
const ROUNDS = 15;
const CONCURRENCY = 16;
const SLICE_MS = 300;
const PUSHED = 150;

interface RawLog {
  readonly topics: [Hex, ...Hex[]];
  readonly data: Hex;
}

/** Medians after one warm-up round; the ratio is the median of the ratios of the rounds. */
async function measured(ours: () => Promise<number>, peer: () => Promise<number>): Promise<{ ours: number; peer: number; ratio: number }> {
  await interleaved({ ours, peer }, 1);
  const figures = await interleaved({ ours, peer }, ROUNDS);
  return { ours: median(figures.ours), peer: median(figures.peer), ratio: median(figures.ratios) };
}

function report(
  what: string,
  figures: { ours: number; peer: number; ratio: number },
  goal: { readonly text: string; readonly met: boolean },
): void {
  const { ours, peer, ratio } = figures;
  console.log(
    `${what.padEnd(44)} ours ${ours.toFixed(0).padStart(8)}  peer ${peer.toFixed(0).padStart(8)}  ratio ${ratio.toFixed(2).padStart(6)}  goal ${goal.text} ${goal.met ? 'met' : 'MISSED'}`,
  );
}

/** One JSON-RPC request with nothing around it. */
function bare(pool: Pool, method: string, params: readonly unknown[]): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    pool.dispatch(
      {
        path: '/',
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
      },
      {
        onRequestStart() {},
        onResponseStart() {},
        onResponseData: (_, chunk) => void chunks.push(chunk),
        onResponseEnd: () => resolve((JSON.parse(Buffer.concat(chunks).toString('utf8')) as { result: unknown }).result),
        onResponseError: (_, error) => reject(error),
      },
    );
  });
}

/** Requests per second of `CONCURRENCY` loops. */
async function rate(request: () => Promise<unknown>): Promise<number> {
  const end = performance.now() + SLICE_MS;
  let done = 0;
  const loop = async (): Promise<void> => {
    while (performance.now() < end) {
      await request();
      done++;
    }
  };
  const start = performance.now();
  await Promise.all(Array.from({ length: CONCURRENCY }, loop));
  return (done * 1000) / (performance.now() - start);
}

async function benchDecoding(logs: readonly RawLog[], tangle: LocalTangle): Promise<void> {
  const abi = parseAbi([
    'event JobSubmitted(uint64 indexed serviceId, uint64 indexed callId, uint8 jobIndex, address caller, bytes inputs)',
  ]);
  const origin = { chainId: 31337, contract: tangle.contract };
  const perSecond = async (decode: (log: RawLog) => unknown): Promise<number> => {
    const start = performance.now();
    for (const log of logs) decode(log);
    return (logs.length * 1000) / (performance.now() - start);
  };
  const figures = await measured(
    () => perSecond((log) => decodeJobCall(log, origin)),
    () => perSecond((log) => decodeEventLog({ abi, topics: log.topics, data: log.data })),
  );
  report('decoding, logs/s, against viem', figures, { text: '>= 10', met: figures.ratio >= 10 });
}

async function benchRequests(chain: LocalChain, pool: Pool): Promise<void> {
  const transport = createRpcTransport({ urls: [chain.rpcUrl] });
  const figures = await measured(
    () => rate(() => transport.request('eth_blockNumber', [])),
    () => rate(() => bare(pool, 'eth_blockNumber', [])),
  );
  await transport.close();
  report(`requests/s at ${CONCURRENCY}, against bare undici`, figures, { text: '>= 0.9', met: figures.ratio >= 0.9 });
}

async function benchCatchUp(chain: LocalChain, tangle: LocalTangle, pool: Pool): Promise<void> {
  const origin = { chainId: chain.chainId, contract: tangle.contract };
  const client = new RpcChainClient({ rpcUrl: chain.rpcUrl, contract: tangle.contract, chainId: chain.chainId });
  const ours = async (): Promise<number> => {
    const stop = new AbortController();
    let start = 0;
    let seen = 0;
    for await (const update of client.follow({ fromBlock: 0n, signal: stop.signal })) {
      // The first update says where it begins; before it nothing is read.
      if (start === 0) start = performance.now();
      if (update.type === 'calls') seen += update.calls.length;
      if (seen === CALLS) break;
    }
    return (CALLS * 1000) / (performance.now() - start);
  };
  const peer = async (): Promise<number> => {
    const start = performance.now();
    const topics = [[TOPIC.jobSubmitted, TOPIC.jobSubmittedFromQuote]];
    const logs = (await bare(pool, 'eth_getLogs', [
      { address: tangle.contract, topics, fromBlock: '0x0', toBlock: 'latest' },
    ])) as unknown[];
    const calls = logs.map((log) => decodeJobCall(log, origin));
    if (calls.length !== CALLS) throw new Error(`${calls.length} calls`);
    return (CALLS * 1000) / (performance.now() - start);
  };
  const figures = await measured(ours, peer);
  await client.close();
  report('catching up, calls/s, against eth_getLogs', figures, { text: '>= 0.75', met: figures.ratio >= 0.75 });
}

/** When each log arrives at a bare subscription, by transaction. */
function subscribe(chain: LocalChain, tangle: LocalTangle, onLog: (transactionHash: string, atMs: number) => void): Promise<WebSocket> {
  return new Promise((resolve) => {
    const socket = new WebSocket(chain.wsUrl);
    socket.on('open', () =>
      socket.send(
        JSON.stringify({
          jsonrpc: '2.0',
          id: 1,
          method: 'eth_subscribe',
          params: ['logs', { address: tangle.contract, topics: [TOPIC.jobSubmitted] }],
        }),
      ),
    );
    socket.on('message', (data) => {
      const message = JSON.parse((data as Buffer).toString('utf8')) as { id?: number; params?: { result: { transactionHash: string } } };
      if (message.id === 1) resolve(socket);
      else if (message.params) onLog(message.params.result.transactionHash, performance.now());
    });
  });
}

async function benchPush(chain: LocalChain, tangle: LocalTangle, serviceId: bigint): Promise<void> {
  const bareMs = new Map<string, number>();
  const oursMs = new Map<string, number>();
  let arrived: () => void = () => undefined;
  const socket = await subscribe(chain, tangle, (hash, atMs) => {
    bareMs.set(hash, atMs);
    arrived();
  });
  const client = new RpcChainClient({
    rpcUrl: chain.rpcUrl,
    wsUrl: chain.wsUrl,
    contract: tangle.contract,
    chainId: chain.chainId,
    pollIntervalMs: 60_000,
  });
  const stop = new AbortController();
  const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
  const following = (async () => {
    for await (const update of client.follow({ signal: stop.signal })) {
      begin();
      if (update.type !== 'calls') continue;
      for (const call of update.calls) oursMs.set(call.transactionHash, performance.now());
      arrived();
    }
  })();
  await begun;
  const differences: number[] = [];
  const latencies: number[] = [];
  for (let index = 0; index < PUSHED; index++) {
    const transaction = tangle.jobTransaction(serviceId, { jobIndex: 0, inputs: '0x0102' });
    const start = performance.now();
    const hash = String(await chain.request('eth_sendTransaction', [transaction]));
    while (!bareMs.has(hash) || !oursMs.has(hash)) await new Promise<void>((resolve) => (arrived = resolve));
    // The first ones open connections and warm up the code.
    if (index < 20) continue;
    differences.push((oursMs.get(hash) ?? Number.NaN) - (bareMs.get(hash) ?? Number.NaN));
    latencies.push((bareMs.get(hash) ?? Number.NaN) - start);
  }
  stop.abort();
  await following;
  await client.close();
  socket.terminate();
  const p50 = median(differences);
  console.log(
    `${'pushed call, ms after a bare eth_subscribe'.padEnd(44)} p50 ${p50.toFixed(2)} (bare: ${median(latencies).toFixed(2)} after sending)  goal <= 2 ${p50 <= 2 ? 'met' : 'MISSED'}`,
  );
}

const chain = await startLocalChain();
const pool = new Pool(chain.rpcUrl, { connections: CONCURRENCY });
try {
  const tangle = await deployTangle(chain);
  const { serviceId } = await tangle.startService({ jobs: [{ name: 'square' }] });
  const inputs = new Uint8Array(64).fill(7);
  await tangle.submitMany(
    serviceId,
    Array.from({ length: CALLS }, () => ({ jobIndex: 0, inputs })),
  );
  await chain.mine(64);
  const logs = (await chain.request('eth_getLogs', [
    { address: tangle.contract, topics: [TOPIC.jobSubmitted], fromBlock: '0x0' },
  ])) as RawLog[];
  await benchDecoding(logs, tangle);
  await benchRequests(chain, pool);
  await benchCatchUp(chain, tangle, pool);
  await benchPush(chain, tangle, serviceId);
} finally {
  await pool.destroy();
  await chain.stop();
}
