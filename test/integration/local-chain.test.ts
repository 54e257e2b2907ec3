import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import WebSocket from 'ws';
import { afterAll, expect, test } from 'vitest';
import type { LocalChain, LocalChainOptions } from '../../src/testing/testing.ts';
import { startLocalChain } from '../../src/testing/testing.ts';

const folder = mkdtempSync(join(tmpdir(), 'local-chain-'));
const running: LocalChain[] = [];
afterAll(async () => {
  await Promise.all(running.map((chain) => chain.stop()));
  rmSync(folder, { recursive: true });
});

const start = async (options?: LocalChainOptions): Promise<LocalChain> => {
  const chain = await startLocalChain(options);
  running.push(chain);
  return chain;
};
const head = async (chain: LocalChain): Promise<number> => Number(await chain.request('eth_blockNumber', []));
const blockAt = (chain: LocalChain, number: number | string) =>
  chain.request('eth_getBlockByNumber', [typeof number === 'number' ? `0x${number.toString(16)}` : number, false]) as Promise<{
    readonly number: string;
    readonly hash: string;
    readonly transactions: readonly string[];
  }>;
const transfer = (chain: LocalChain) =>
  ({ from: chain.accounts[0]?.address ?? '0x', to: chain.accounts[1]?.address ?? '0x', data: '0x', value: '0x1', gas: '0x5208' }) as const;
const lives = (pid: number): boolean => {
  try {
    return !/^State:\s*Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
};

test('starts with funded accounts whose keys it tells, and is gone after stop', async () => {
  const chain = await startLocalChain({ chainId: 4242, accounts: 3 });
  expect(chain.chainId).toBe(4242);
  expect(Number(await chain.request('eth_chainId', []))).toBe(4242);
  expect(chain.accounts).toHaveLength(3);
  expect(chain.accounts[0]).toEqual({
    address: '0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266',
    privateKey: '0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80',
  });
  expect(BigInt((await chain.request('eth_getBalance', [chain.accounts[2]?.address, 'latest'])) as string)).toBe(10_000n * 10n ** 18n);
  expect(lives(chain.pid)).toBe(true);
  await Promise.all([chain.stop(), chain.stop()]);
  expect(lives(chain.pid)).toBe(false);
  await expect(chain.request('eth_chainId', [])).rejects.toMatchObject({ code: 'RPC_UNREACHABLE' });
});

test('answers over the websocket too', async () => {
  const chain = await start();
  const socket = new WebSocket(chain.wsUrl);
  await once(socket, 'open');
  socket.send(JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'eth_chainId', params: [] }));
  const [answer] = (await once(socket, 'message')) as [Buffer];
  expect(JSON.parse(answer.toString())).toEqual({ jsonrpc: '2.0', id: 1, result: '0x7a69' });
  socket.close();
});

test('an error of the node is an RPC_ERROR with its code and data', async () => {
  const chain = await start();
  await expect(chain.request('eth_foo', [])).rejects.toMatchObject({ code: 'RPC_ERROR', details: { method: 'eth_foo', rpcCode: -32601 } });
});

test('mines on demand when automine is off', async () => {
  const chain = await start();
  await chain.setAutomine(false);
  const hash = await chain.request('eth_sendTransaction', [transfer(chain)]);
  expect(await chain.request('eth_getTransactionReceipt', [hash])).toBeNull();
  await chain.mine();
  expect(await chain.request('eth_getTransactionReceipt', [hash])).toMatchObject({ blockNumber: '0x1', status: '0x1' });
  await chain.mine(5);
  expect(await head(chain)).toBe(6);
});

test('a reorg replaces blocks by others at the same heights, without their transactions', async () => {
  const chain = await start();
  await chain.mine(3);
  const lost = await chain.request('eth_sendTransaction', [transfer(chain)]);
  await expect.poll(() => head(chain)).toBe(4);
  const before = await Promise.all([2, 3, 4].map((number) => blockAt(chain, number)));
  await chain.reorg(2);
  const after = await Promise.all([2, 3, 4].map((number) => blockAt(chain, number)));
  expect(await head(chain)).toBe(4);
  expect(after.map((block, index) => block.hash === before[index]?.hash)).toEqual([true, false, false]);
  expect(await chain.request('eth_getTransactionReceipt', [lost])).toBeNull();
  expect(await chain.request('eth_getTransactionByHash', [lost])).toBeNull();
});

test('a reorg can mine other transactions, each in a block of the new branch', async () => {
  const chain = await start();
  await chain.mine(3);
  await chain.reorg(2, [{ transaction: transfer(chain), block: 1 }]);
  expect((await blockAt(chain, 2)).transactions).toHaveLength(0);
  expect((await blockAt(chain, 3)).transactions).toHaveLength(1);
});

test('mines by itself in the given interval, which may be below a second', async () => {
  const chain = await start({ blockTimeMs: 50 });
  await expect.poll(() => head(chain)).toBeGreaterThan(1);
  await expect(chain.setAutomine(false)).rejects.toMatchObject({ code: 'STATE_INVALID' });
});

test('an interval of whole seconds can be stopped and resumed', async () => {
  const chain = await start({ blockTimeMs: 1000 });
  await chain.setAutomine(false);
  const hash = await chain.request('eth_sendTransaction', [transfer(chain)]);
  const reached = await head(chain);
  await chain.setAutomine(true);
  await expect.poll(() => head(chain)).toBeGreaterThan(reached);
  expect(await chain.request('eth_getTransactionReceipt', [hash])).toMatchObject({ status: '0x1' });
});

test('an epoch can be short, so that blocks become final soon', async () => {
  const chain = await start({ slotsInAnEpoch: 2 });
  await chain.mine(10);
  expect(Number((await blockAt(chain, 'safe')).number)).toBe(8);
  expect(Number((await blockAt(chain, 'finalized')).number)).toBe(6);
});

test('a state file carries the chain over a stop', async () => {
  const stateFile = join(folder, 'state.json');
  const first = await startLocalChain({ stateFile });
  await first.mine(4);
  const tip = await blockAt(first, 4);
  await first.stop();
  const second = await start({ stateFile });
  expect(await blockAt(second, 4)).toMatchObject({ hash: tip.hash });
  const loaded = await start({ loadState: stateFile });
  expect(await head(loaded)).toBe(4);
});

test('a port that is taken is an error that says so', async () => {
  const chain = await start();
  const port = Number(new URL(chain.rpcUrl).port);
  await expect(startLocalChain({ port })).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringMatching(/in use/i) });
});

test('the node dies with the process that started it, even when that is killed', async () => {
  const source = `import { startLocalChain } from ${JSON.stringify(new URL('../../src/testing/testing.ts', import.meta.url).href)};
    const chain = await startLocalChain(); console.log(chain.pid);`;
  const parent = spawn(process.execPath, ['--input-type=module', '-e', source], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = (await once(createInterface(parent.stdout), 'line')) as [string];
  expect(lives(Number(line))).toBe(true);
  parent.kill('SIGKILL');
  await expect.poll(() => lives(Number(line))).toBe(false);
});
