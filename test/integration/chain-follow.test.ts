import { afterEach, describe, expect, test } from 'vitest';

import { systemClock } from '../../src/clock.ts';
import type { ChainUpdate, FollowOptions } from '../../src/chain/chain.ts';
import type { FollowSettings } from '../../src/chain/follow.ts';
import { followChain } from '../../src/chain/follow.ts';
import { createRpcTransport } from '../../src/chain/transport.ts';
import type { ChainCall } from '../../src/job/call.ts';
import type { Cursor } from '../../src/ledger/ledger.ts';
import type { Counter, Telemetry } from '../../src/telemetry/telemetry.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import type { LocalChain } from '../../src/testing/local-chain.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { RpcProxy, RpcProxyOptions } from '../../src/testing/rpc-proxy.ts';
import { startRpcProxy } from '../../src/testing/rpc-proxy.ts';
import type { JobInput, LocalTangle } from '../../src/testing/tangle.ts';
import { deployTangle } from '../../src/testing/tangle.ts';

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface World {
  readonly chain: LocalChain;
  readonly tangle: LocalTangle;
  readonly serviceId: bigint;
}

async function world(): Promise<World> {
  const chain = await startLocalChain();
  cleanups.push(() => chain.stop());
  const tangle = await deployTangle(chain);
  const { serviceId } = await tangle.startService({ jobs: [{ name: 'a' }, { name: 'b' }] });
  return { chain, tangle, serviceId };
}

async function proxyOf(chain: LocalChain, options: RpcProxyOptions = {}): Promise<RpcProxy> {
  const proxy = await startRpcProxy({ upstream: chain.rpcUrl, wsUpstream: chain.wsUrl, ...options });
  cleanups.push(() => proxy.close());
  return proxy;
}

/** Consumes updates as a ledger does, and checks what every consumer relies on. */
class Observer {
  readonly calls: ChainCall[] = [];
  readonly updates: ChainUpdate[] = [];
  readonly ended: Promise<void>;
  cursor: Cursor | undefined;
  readonly #stop = new AbortController();
  #wake: () => void = () => undefined;

  constructor(settings: FollowSettings, options: Omit<FollowOptions, 'signal'>) {
    this.ended = this.#consume(settings, { ...options, signal: this.#stop.signal });
  }

  async until(condition: () => boolean): Promise<void> {
    while (!condition())
      await Promise.race([
        this.ended.then(() => expect.fail('the follower ended')),
        new Promise<void>((resolve) => (this.#wake = resolve)),
      ]);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.ended;
  }

  reorgs(): Extract<ChainUpdate, { type: 'reorg' }>[] {
    return this.updates.filter((update) => update.type === 'reorg');
  }

  async #consume(settings: FollowSettings, options: FollowOptions): Promise<void> {
    for await (const update of followChain(settings, options)) {
      this.updates.push(update);
      if (update.type === 'calls') this.#add(update);
      if (update.type === 'reorg') {
        expect(update.cursor.block.number).toBeLessThanOrEqual(this.cursor?.block.number ?? 0n);
        this.cursor = update.cursor;
        while ((this.calls.at(-1)?.blockNumber ?? 0n) > update.cursor.block.number) this.calls.pop();
      }
      this.#wake();
    }
  }

  #add({ calls, cursor }: Extract<ChainUpdate, { type: 'calls' }>): void {
    const before = this.cursor?.block.number ?? 0n;
    expect(cursor.block.number).toBeGreaterThanOrEqual(before);
    for (const call of calls) {
      const last = this.calls.at(-1);
      expect(call.blockNumber).toBeGreaterThan(this.cursor ? before : -1n);
      expect(call.blockNumber).toBeLessThanOrEqual(cursor.block.number);
      if (last) expect([call.blockNumber > last.blockNumber, call.logIndex > last.logIndex]).toContain(true);
      this.calls.push(call);
    }
    this.cursor = cursor;
  }
}

interface ObserveOptions extends Omit<FollowOptions, 'signal'>, Partial<Omit<FollowSettings, 'transport'>> {
  readonly urls?: readonly string[];
  /** Of a request. Default 2,000. */
  readonly timeoutMs?: number;
}

function observe({ chain, tangle }: World, options: ObserveOptions = {}): Observer {
  const { urls = [chain.rpcUrl], timeoutMs = 2_000, cursor, fromBlock, serviceIds, ...settings } = options;
  const transport = createRpcTransport({ urls, timeoutMs });
  const observer = new Observer(
    {
      transport,
      chainId: chain.chainId,
      contract: tangle.contract,
      pollIntervalMs: 10,
      clock: systemClock,
      telemetry: silentTelemetry,
      ...settings,
    },
    { ...(cursor && { cursor }), ...(fromBlock !== undefined && { fromBlock }), ...(serviceIds && { serviceIds }) },
  );
  cleanups.push(async () => {
    await observer.stop();
    await transport.close();
  });
  return observer;
}

const jobs = (count: number, from = 0): JobInput[] =>
  Array.from({ length: count }, (_, index) => ({ jobIndex: index % 2, inputs: new Uint8Array([index + from, 7]) }));

/** What the chain itself says, in the order of the events. */
const truth = async ({ tangle, serviceId }: World): Promise<ChainCall[]> => tangle.calls(serviceId);

/** Resolves when the observer has read the present head. */
async function caughtUp(observer: Observer, chain: LocalChain): Promise<void> {
  const block = (await chain.request('eth_getBlockByNumber', ['latest', false])) as { hash: string };
  await observer.until(() => observer.cursor?.block.hash === block.hash);
}

describe('catching up', () => {
  test('gives all calls in order, quoted ones too, with their time', async () => {
    const w = await world();
    await w.tangle.submitMany(w.serviceId, jobs(250));
    const operator = w.chain.accounts[1];
    if (!operator) throw new Error('no operator');
    await w.tangle.submitJobFromQuote(w.serviceId, { jobIndex: 1, inputs: '0x99' }, { operators: [operator] });
    const observer = observe(w, { fromBlock: 0n });
    await observer.until(() => observer.calls.length === 251);
    expect(observer.calls.map(({ timestamp: _, ...call }) => call)).toEqual((await truth(w)).map(({ timestamp: _, ...call }) => call));
    expect(observer.calls.at(-1)?.quotedOperators).toEqual([operator.address]);
    expect(observer.calls.every((call) => (call.timestamp ?? 0n) > 1_600_000_000n)).toBe(true);
  });

  test.each([
    ['in ranges', { unsettledDepth: 0 }],
    ['in tiny ranges', { unsettledDepth: 0, rangeBlocks: 1, rangeBlocksMax: 3 }],
    ['in ranges, then block by block', { unsettledDepth: 5, rangeBlocks: 2, rangeBlocksMax: 2 }],
    ['block by block', { unsettledDepth: 10_000 }],
  ])('%s: the same calls', async (_, settings) => {
    const w = await world();
    for (let round = 0; round < 6; round++) {
      await w.tangle.submitMany(w.serviceId, jobs(20, round * 20));
      await w.chain.mine(10);
    }
    const observer = observe(w, { fromBlock: 0n, ...settings });
    await caughtUp(observer, w.chain);
    expect(observer.calls).toEqual(await truth(w));
    expect(observer.calls).toHaveLength(120);
    expect(observer.reorgs()).toEqual([]);
  });

  test('an update ends at a block, and is larger than the limit only when a block is', async () => {
    const w = await world();
    await w.tangle.submitMany(w.serviceId, jobs(100));
    for (let index = 0; index < 30; index++) await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: new Uint8Array([index]) });
    const observer = observe(w, { fromBlock: 0n, callsPerUpdate: 8, unsettledDepth: 0 });
    await caughtUp(observer, w.chain);
    const sizes = observer.updates.flatMap((update) => (update.type === 'calls' && update.calls.length > 0 ? [update.calls.length] : []));
    expect(sizes).toEqual([100, 8, 8, 8, 6]);
    expect(observer.calls).toEqual(await truth(w));
  });

  test('begins at the head by default, and at fromBlock when told', async () => {
    const w = await world();
    const early = await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x01' });
    const middle = await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x02' });
    const fromHead = observe(w);
    const fromMiddle = observe(w, { fromBlock: middle.blockNumber });
    await fromHead.until(() => fromHead.cursor !== undefined);
    const late = await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x03' });
    await fromHead.until(() => fromHead.calls.length > 0);
    await fromMiddle.until(() => fromMiddle.calls.length === 2);
    expect(fromHead.calls.map((call) => call.callId)).toEqual([late.callId]);
    expect(fromMiddle.calls.map((call) => call.callId)).toEqual([middle.callId, late.callId]);
    expect(early.callId).toBe(0n);
  });

  test('a fromBlock that does not exist yet is waited for', async () => {
    const w = await world();
    const head = BigInt(String(await w.chain.request('eth_blockNumber', [])));
    const observer = observe(w, { fromBlock: head + 3n });
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x01' });
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x02' });
    const wanted = await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x03' });
    await observer.until(() => observer.calls.length > 0);
    expect(observer.calls.map((call) => call.callId)).toEqual([wanted.callId]);
  });

  test('only the services asked for', async () => {
    const w = await world();
    const other = await w.tangle.startService({ jobs: [{ name: 'c' }] });
    await w.tangle.submitMany(w.serviceId, jobs(3));
    await w.tangle.submitMany(other.serviceId, [{ jobIndex: 0, inputs: '0x01' }]);
    const one = observe(w, { fromBlock: 0n, serviceIds: [other.serviceId] });
    const both = observe(w, { fromBlock: 0n, serviceIds: [other.serviceId, w.serviceId] });
    await caughtUp(one, w.chain);
    await caughtUp(both, w.chain);
    expect(one.calls.map((call) => call.serviceId)).toEqual([other.serviceId]);
    expect(both.calls).toHaveLength(4);
  });

  test('goes on from any cursor without a gap and without a repetition', async () => {
    const w = await world();
    for (let index = 0; index < 12; index++) await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: new Uint8Array([index]) });
    const first = observe(w, { fromBlock: 0n, callsPerUpdate: 3, unsettledDepth: 0 });
    await caughtUp(first, w.chain);
    await first.stop();
    const all = await truth(w);
    let seen = 0;
    for (const update of first.updates) {
      if (update.type !== 'calls') continue;
      seen += update.calls.length;
      const again = observe(w, { cursor: update.cursor });
      await caughtUp(again, w.chain);
      expect(again.calls).toEqual(all.slice(seen));
      await again.stop();
    }
    expect(seen).toBe(12);
  });
});

describe('reorgs', () => {
  /** Two calls, of which the second is replaced by another one in a block of the same height. */
  test('another transaction at the same height', async () => {
    const w = await world();
    const kept = await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0xaaaa' });
    const observer = observe(w, { fromBlock: 0n });
    const lost = await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0xbbbb' });
    await observer.until(() => observer.calls.length === 2);
    await w.chain.reorg(1, [{ transaction: w.tangle.jobTransaction(w.serviceId, { jobIndex: 1, inputs: '0xcccc' }), block: 0 }]);
    await observer.until(() => observer.reorgs().length > 0 && observer.calls.length === 2);
    expect(observer.reorgs()).toEqual([
      { type: 'reorg', depth: 1, cursor: expect.objectContaining({ block: { number: kept.blockNumber, hash: kept.blockHash } }) },
    ]);
    expect(observer.calls).toEqual(await truth(w));
    const replacement = observer.calls[1];
    expect(replacement).toMatchObject({
      callId: lost.callId,
      jobIndex: 1,
      inputs: new Uint8Array([0xcc, 0xcc]),
      blockNumber: lost.blockNumber,
    });
  });

  test.each([2, 5, 17, 40])('%i blocks deep', async (depth) => {
    const w = await world();
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x01' });
    await w.chain.mine(10);
    const observer = observe(w, { fromBlock: 0n });
    for (let index = 0; index < depth; index++) await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: new Uint8Array([index]) });
    await caughtUp(observer, w.chain);
    const forkNumber = (observer.cursor?.block.number ?? 0n) - BigInt(depth);
    await w.chain.reorg(depth, [
      { transaction: w.tangle.jobTransaction(w.serviceId, { jobIndex: 1, inputs: '0xdddd' }), block: 0 },
      { transaction: w.tangle.jobTransaction(w.serviceId, { jobIndex: 1, inputs: '0xeeee' }), block: depth - 1 },
    ]);
    await observer.until(() => observer.reorgs().length > 0);
    await caughtUp(observer, w.chain);
    expect(observer.reorgs().map((update) => update.cursor.block.number)).toEqual([forkNumber]);
    expect(observer.calls).toEqual(await truth(w));
    expect(observer.calls).toHaveLength(3);
  });

  test('deeper than the memory: goes back far enough', async () => {
    const w = await world();
    for (let index = 0; index < 20; index++) await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: new Uint8Array([index]) });
    const observer = observe(w, { fromBlock: 0n, trailBlocks: 4, maxReorgDepth: 15 });
    await caughtUp(observer, w.chain);
    await w.chain.reorg(12, [{ transaction: w.tangle.jobTransaction(w.serviceId, { jobIndex: 1, inputs: '0xdddd' }), block: 11 }]);
    await observer.until(() => observer.reorgs().length > 0);
    await caughtUp(observer, w.chain);
    expect(observer.reorgs().map((update) => update.depth)).toEqual([15]);
    expect(observer.calls).toEqual(await truth(w));
    expect(observer.calls).toHaveLength(9);
  });

  test('the chain gets shorter', async () => {
    const w = await world();
    for (let index = 0; index < 6; index++) await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: new Uint8Array([index]) });
    const observer = observe(w, { fromBlock: 0n });
    await caughtUp(observer, w.chain);
    await w.chain.request('anvil_rollback', [4]);
    await observer.until(() => observer.calls.length === 2);
    expect(observer.reorgs().map((update) => update.depth)).toEqual([4]);
    await w.tangle.submitJob(w.serviceId, { jobIndex: 1, inputs: '0xff' });
    await observer.until(() => observer.calls.length === 3);
    expect(observer.calls).toEqual(await truth(w));
  });

  test('while nobody followed', async () => {
    const w = await world();
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x01' });
    const first = observe(w, { fromBlock: 0n });
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x02' });
    await caughtUp(first, w.chain);
    await first.stop();
    await w.chain.reorg(1, [{ transaction: w.tangle.jobTransaction(w.serviceId, { jobIndex: 1, inputs: '0x03' }), block: 0 }]);
    await w.chain.mine(3);
    if (!first.cursor) throw new Error('no cursor');
    // The cursor names one block, and it is gone: the follower goes back by maxReorgDepth.
    const second = observe(w, { cursor: first.cursor, maxReorgDepth: 3 });
    await second.until(() => second.calls.length === 2);
    expect(second.reorgs().map((update) => update.depth)).toEqual([3]);
    expect(second.calls).toEqual(await truth(w));
  });

  test('another chain in the place of the old one is read from the start', async () => {
    const [old, fresh] = [await world(), await world()];
    await old.chain.mine(40);
    const first = observe(old, { fromBlock: 0n });
    await caughtUp(first, old.chain);
    await first.stop();
    await fresh.tangle.submitMany(fresh.serviceId, jobs(2));
    if (!first.cursor) throw new Error('no cursor');
    const second = observe(fresh, { cursor: first.cursor, maxReorgDepth: 8 });
    await second.until(() => second.calls.length === 2);
    expect(second.reorgs()[0]?.cursor.block.number).toBe(0n);
    expect(second.calls).toEqual(await truth(fresh));
  });

  test('an endpoint that shows another chain for a while is no reorg', async () => {
    const [own, other] = [await world(), await world()];
    await own.chain.mine(40);
    await own.tangle.submitMany(own.serviceId, jobs(2));
    await other.chain.mine(60);
    let shown = own;
    let asked = 0;
    const proxy = await proxyOf(own.chain, {
      onCall: async ({ method, params }, forward) => {
        if (shown === own) return forward();
        if (method !== 'eth_chainId') return { result: await other.chain.request(method, params) };
        // Only between two looks: what a look has read before would be believed.
        if ((asked += 1) === 2) shown = own;
        return { result: '0x1' };
      },
    });
    const observer = observe(own, { urls: [proxy.url], fromBlock: 0n });
    await observer.until(() => observer.calls.length === 2);
    shown = other;
    await expect.poll(() => asked).toBe(2);
    await own.tangle.submitMany(own.serviceId, jobs(1));
    await observer.until(() => observer.calls.length === 3);
    expect(observer.reorgs()).toEqual([]);
    expect(observer.calls).toEqual(await truth(own));
  });

  test('a head that falls back for a moment is no reorg', async () => {
    const w = await world();
    let lower = 0;
    const { promise: shown, resolve } = Promise.withResolvers<void>();
    const proxy = await proxyOf(w.chain, {
      onCall: async ({ method, params }, forward) => {
        if (lower <= 0 || method !== 'eth_getBlockByNumber' || params[0] !== 'latest') return forward();
        if (--lower === 0) resolve();
        return { result: await w.chain.request('eth_getBlockByNumber', ['0x3', false]) };
      },
    });
    const observer = observe(w, { urls: [proxy.url], fromBlock: 0n });
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x01' });
    await caughtUp(observer, w.chain);
    lower = 2;
    await shown;
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x02' });
    await observer.until(() => observer.calls.length === 2);
    expect(observer.reorgs()).toEqual([]);
  });

  test('an endpoint that lags behind the cursor is no reorg', async () => {
    const w = await world();
    const calls = [];
    for (let index = 0; index < 4; index++)
      calls.push(await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: new Uint8Array([index]) }));
    const third = calls[2];
    if (!third) throw new Error('no call');
    let lagging = 2;
    const proxy = await proxyOf(w.chain, {
      onCall: async ({ method, params }, forward) => {
        if (method !== 'eth_getBlockByNumber' || params[0] !== 'latest' || lagging-- <= 0) return forward();
        return { result: await w.chain.request('eth_getBlockByNumber', ['0x3', false]) };
      },
    });
    const cursor = { chainId: w.chain.chainId, contract: w.tangle.contract, block: { number: third.blockNumber, hash: third.blockHash } };
    const observer = observe(w, { urls: [proxy.url], cursor });
    await observer.until(() => observer.calls.length > 0);
    expect(observer.reorgs()).toEqual([]);
    expect(observer.calls).toEqual(calls.slice(3));
  });

  test.each([
    ['in ranges', { unsettledDepth: 26, rangeBlocks: 2, rangeBlocksMax: 2 }],
    ['in ranges that the reorg tears', { unsettledDepth: 5, rangeBlocks: 14, rangeBlocksMax: 14 }],
    ['block by block', { unsettledDepth: 1000 }],
  ])('while catching up %s', async (_, settings) => {
    const w = await world();
    for (let index = 0; index < 30; index++) await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: new Uint8Array([index]) });
    let reads = 0;
    const proxy = await proxyOf(w.chain, {
      onCall: async ({ method }, forward) => {
        const reply = await forward();
        // The logs are read; before they arrive the chain changes.
        if (method === 'eth_getLogs' && ++reads === 3) {
          await w.chain.reorg(25, [{ transaction: w.tangle.jobTransaction(w.serviceId, { jobIndex: 1, inputs: '0xdddd' }), block: 3 }]);
        }
        return reply;
      },
    });
    const observer = observe(w, { urls: [proxy.url], fromBlock: 0n, ...settings });
    await observer.until(() => reads >= 3);
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0xee' });
    await caughtUp(observer, w.chain);
    expect(observer.calls).toEqual(await truth(w));
    expect(observer.calls).toHaveLength(7);
  });

  test('that is seen only by the parent of the next block', async () => {
    const w = await world();
    let frozen: unknown;
    const proxy = await proxyOf(w.chain, {
      onCall: async ({ method, params }, forward) => {
        if (frozen !== undefined && method === 'eth_getBlockByNumber' && params[0] === 'latest') return { result: frozen };
        return forward();
      },
    });
    const observer = observe(w, { urls: [proxy.url], fromBlock: 0n });
    const lost = await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x01' });
    await caughtUp(observer, w.chain);
    frozen = await w.chain.request('eth_getBlockByNumber', ['latest', false]);
    await w.chain.reorg(1, [{ transaction: w.tangle.jobTransaction(w.serviceId, { jobIndex: 1, inputs: '0x02' }), block: 0 }]);
    await w.chain.mine();
    frozen = undefined;
    await caughtUp(observer, w.chain);
    expect(observer.reorgs().map((update) => update.depth)).toEqual([1]);
    expect(observer.calls.map((call) => [call.blockNumber, call.inputs[0]])).toEqual([[lost.blockNumber, 2]]);
  });

  test('many in a row leave exactly what is on the chain', async () => {
    const w = await world();
    const observer = observe(w, { fromBlock: 0n, wsUrl: w.chain.wsUrl });
    for (let round = 1; round <= 15; round++) {
      await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: new Uint8Array([round]) });
      await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: new Uint8Array([round, 1]) });
      const depth = 1 + (round % 4);
      await w.chain.reorg(depth, [
        { transaction: w.tangle.jobTransaction(w.serviceId, { jobIndex: 1, inputs: `0x${(round + 16).toString(16)}` }), block: depth - 1 },
      ]);
    }
    await caughtUp(observer, w.chain);
    expect(observer.calls).toEqual(await truth(w));
  });
});

describe('pushed heads', () => {
  /** Polls far too rarely to be of help. */
  const pushed = { pollIntervalMs: 600_000, pushCheckMs: 600_000 };

  test('a call is seen without polling', async () => {
    const w = await world();
    const observer = observe(w, { wsUrl: w.chain.wsUrl, ...pushed });
    await observer.until(() => observer.cursor !== undefined);
    for (let index = 1; index <= 5; index++) {
      await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: new Uint8Array([index]) });
      await observer.until(() => observer.calls.length === index);
    }
    expect(observer.calls).toEqual(await truth(w));
  });

  test('a dropped websocket is made again, and what was missed is read', async () => {
    const w = await world();
    const proxy = await proxyOf(w.chain);
    const observer = observe(w, { wsUrl: proxy.wsUrl, ...pushed });
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x01' });
    await observer.until(() => observer.calls.length === 1);
    proxy.refuseSockets = true;
    proxy.dropSockets();
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x02' });
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x03' });
    proxy.refuseSockets = false;
    await observer.until(() => observer.calls.length === 3);
    await expect.poll(() => proxy.openSockets).toBe(1);
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x04' });
    await observer.until(() => observer.calls.length === 4);
    expect(observer.calls).toEqual(await truth(w));
  });

  test('a websocket that fell silent is found out and replaced', async () => {
    const w = await world();
    const proxy = await proxyOf(w.chain);
    const restarts: unknown[] = [];
    const log = { ...silentTelemetry.log, warn: (_: string, fields: unknown) => restarts.push(fields) };
    const observer = observe(w, { wsUrl: proxy.wsUrl, pollIntervalMs: 20, pushCheckMs: 50, telemetry: { ...silentTelemetry, log } });
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x01' });
    await observer.until(() => observer.calls.length === 1);
    await expect.poll(() => proxy.openSockets).toBe(1);
    proxy.mute = true;
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x02' });
    await observer.until(() => observer.calls.length === 2);
    await expect
      .poll(() => restarts)
      .toContainEqual(expect.objectContaining({ reason: expect.stringContaining('did not announce block') }));
    proxy.mute = false;
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x03' });
    await observer.until(() => observer.calls.length === 3);
  });

  test('a websocket endpoint that does not exist does no harm', async () => {
    const w = await world();
    const observer = observe(w, { wsUrl: 'ws://127.0.0.1:9', pollIntervalMs: 10 });
    await observer.until(() => observer.cursor !== undefined);
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x01' });
    await observer.until(() => observer.calls.length === 1);
  });

  test('a websocket of another chain does no harm, and is told', async () => {
    const w = await world();
    const other = await startLocalChain({ chainId: 4242 });
    cleanups.push(() => other.stop());
    const reasons: unknown[] = [];
    const log = { ...silentTelemetry.log, warn: (_: string, fields: unknown) => reasons.push(fields) };
    const observer = observe(w, { wsUrl: other.wsUrl, pollIntervalMs: 10, telemetry: { ...silentTelemetry, log } });
    await expect
      .poll(() => reasons, { timeout: 30_000 })
      .toContainEqual({ endpoint: other.wsUrl, reason: `it serves chain 4242, not chain ${w.chain.chainId}` });
    await observer.until(() => observer.cursor !== undefined);
    for (let index = 1; index <= 3; index++) {
      await other.mine(10);
      await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: new Uint8Array([index]) });
      await observer.until(() => observer.calls.length === index);
    }
  });

  test('a reorg is seen through the pushed heads', async () => {
    const w = await world();
    const observer = observe(w, { fromBlock: 0n, wsUrl: w.chain.wsUrl, ...pushed });
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x01' });
    await observer.until(() => observer.calls.length === 1);
    await w.chain.reorg(1, [{ transaction: w.tangle.jobTransaction(w.serviceId, { jobIndex: 1, inputs: '0x02' }), block: 0 }]);
    await observer.until(() => observer.calls[0]?.inputs[0] === 2);
    expect(observer.calls).toEqual(await truth(w));
  });
});

describe('endpoints with limits and faults', () => {
  const blocksOf = (params: readonly unknown[]): number => {
    const { fromBlock, toBlock, blockHash } = params[0] as { fromBlock?: string; toBlock?: string; blockHash?: string };
    return blockHash === undefined ? Number(toBlock) - Number(fromBlock) + 1 : 1;
  };

  test.each([
    ['by blocks', -32602, 'query exceeds max block range 7', (blocks: number, _: number) => blocks > 7],
    [
      'by blocks, said otherwise',
      -32600,
      'You can make eth_getLogs requests with up to a 7 block range.',
      (blocks: number, _: number) => blocks > 7,
    ],
    ['by results', -32005, 'query returned more than 10000 results', (_: number, logs: number) => logs > 9],
    ['by size', -32000, 'log response size exceeded', (_: number, logs: number) => logs > 9],
  ])('ranges limited %s', async (_, code, message, refuses) => {
    const w = await world();
    for (let round = 0; round < 8; round++) {
      await w.tangle.submitMany(w.serviceId, jobs(5, round * 5));
      await w.chain.mine(5);
    }
    let refused = 0;
    const proxy = await proxyOf(w.chain, {
      onCall: async ({ method, params }, forward) => {
        const reply = await forward();
        const logs = 'result' in reply && Array.isArray(reply.result) ? reply.result.length : 0;
        if (method !== 'eth_getLogs' || !refuses(blocksOf(params), logs)) return reply;
        refused++;
        return { error: { code, message } };
      },
    });
    const observer = observe(w, { urls: [proxy.url], fromBlock: 0n, unsettledDepth: 0 });
    await caughtUp(observer, w.chain);
    expect(observer.calls).toEqual(await truth(w));
    expect(refused).toBeGreaterThan(0);
  });

  test.each([
    ['no known words', -32000, 'query must be smaller than size 4'],
    ['the words of a rate', -32005, 'limit exceeded'],
  ])('ranges limited in %s', async (_, code, message) => {
    const w = await world();
    await w.tangle.submitMany(w.serviceId, jobs(5));
    await w.chain.mine(20);
    const proxy = await proxyOf(w.chain, {
      onCall: ({ method, params }, forward) =>
        method === 'eth_getLogs' && blocksOf(params) > 4 ? { error: { code, message } } : forward(),
    });
    const observer = observe(w, { urls: [proxy.url], fromBlock: 0n, unsettledDepth: 0, rangeBlocks: 16 });
    await caughtUp(observer, w.chain);
    expect(observer.calls).toEqual(await truth(w));
  });

  test.each([
    ['a rate', 429],
    ['a size', 413],
    ['a time', 504],
  ])('%s that is less than a step near the head takes', async (_, status) => {
    const w = await world();
    await w.tangle.submitMany(w.serviceId, jobs(6));
    await w.chain.mine(40);
    const proxy = await proxyOf(w.chain, { onHttp: (calls) => (calls.length > 5 ? { status } : undefined) });
    const observer = observe(w, { urls: [proxy.url], fromBlock: 0n });
    await caughtUp(observer, w.chain);
    expect(observer.calls).toEqual(await truth(w));
  });

  test('malformed logs are skipped and counted', async () => {
    const w = await world();
    await w.tangle.submitMany(w.serviceId, jobs(6));
    const counts = new Map<string, number>();
    const counter = ({ name }: { name: string }): Counter => ({
      add: (amount = 1) => void counts.set(name, (counts.get(name) ?? 0) + amount),
    });
    const telemetry: Telemetry = { ...silentTelemetry, metrics: { ...silentTelemetry.metrics, counter } };
    const proxy = await proxyOf(w.chain, {
      onCall: async ({ method }, forward) => {
        const reply = await forward();
        if (method !== 'eth_getLogs' || !('result' in reply) || !Array.isArray(reply.result)) return reply;
        const result = reply.result.flatMap((log: { logIndex: string }) => [{ ...log, data: '0x00' }, log, { ...log, topics: [] }]);
        return { result: [...result, null, 'log', { removed: true }] };
      },
    });
    const observer = observe(w, { urls: [proxy.url], fromBlock: 0n, unsettledDepth: 0, telemetry });
    await observer.until(() => observer.calls.length === 6);
    expect(observer.calls).toEqual(await truth(w));
    expect(counts.get('blueprint_chain_logs_malformed_total')).toBeGreaterThanOrEqual(14);
    expect(counts.get('blueprint_chain_calls_total')).toBe(6);
  });

  test('logs of a wrong block are not believed', async () => {
    const w = await world();
    const call = await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x01' });
    let lies = 3;
    const proxy = await proxyOf(w.chain, {
      onCall: async ({ method }, forward) => {
        const reply = await forward();
        if (method !== 'eth_getLogs' || !('result' in reply) || !Array.isArray(reply.result) || reply.result.length === 0 || lies-- <= 0)
          return reply;
        return { result: reply.result.map((log: object) => ({ ...log, blockHash: `0x${'77'.repeat(32)}` })) };
      },
    });
    const observer = observe(w, { urls: [proxy.url], fromBlock: 0n });
    await observer.until(() => observer.calls.length === 1);
    expect(observer.calls[0]?.blockHash).toBe(call.blockHash);
    expect(lies).toBeLessThanOrEqual(0);
  });

  test('an outage is waited out', async () => {
    const w = await world();
    const proxy = await proxyOf(w.chain);
    const observer = observe(w, { urls: [proxy.url], fromBlock: 0n });
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x01' });
    await observer.until(() => observer.calls.length === 1);
    let refused = 0;
    const { promise: outage, resolve: seen } = Promise.withResolvers<void>();
    proxy.onHttp = () => {
      if (++refused === 3) seen();
      return { status: 503 };
    };
    await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: '0x02' });
    await outage;
    proxy.onHttp = undefined;
    await observer.until(() => observer.calls.length === 2);
    expect(observer.calls).toEqual(await truth(w));
  });

  test('one of two endpoints fails in the middle', async () => {
    const w = await world();
    for (let index = 0; index < 20; index++) await w.tangle.submitJob(w.serviceId, { jobIndex: 0, inputs: new Uint8Array([index]) });
    const [first, second] = [await proxyOf(w.chain), await proxyOf(w.chain)];
    first.onHttp = (calls) => (calls.some(({ method }) => method === 'eth_getLogs') ? { status: 429 } : undefined);
    const observer = observe(w, { urls: [first.url, second.url], fromBlock: 0n, unsettledDepth: 0, rangeBlocks: 3, rangeBlocksMax: 3 });
    await caughtUp(observer, w.chain);
    expect(observer.calls).toEqual(await truth(w));
    expect(second.calls.get('eth_getLogs')).toBeGreaterThan(3);
  });

  test('stops at once, whatever hangs', async () => {
    const w = await world();
    const proxy = await proxyOf(w.chain);
    const { promise: hanging, resolve } = Promise.withResolvers<void>();
    proxy.onHttp = () => {
      resolve();
      return 'hang';
    };
    const observer = observe(w, { urls: [proxy.url], fromBlock: 0n, timeoutMs: 600_000 });
    await hanging;
    const before = performance.now();
    await observer.stop();
    expect(performance.now() - before).toBeLessThan(30_000);
    const never = new Observer(
      {
        transport: createRpcTransport({ urls: [proxy.url] }),
        chainId: 1,
        contract: w.tangle.contract,
        clock: systemClock,
        telemetry: silentTelemetry,
      },
      {},
    );
    await never.stop();
    expect(never.updates).toEqual([]);
  });
});
