/** What every `ChainClient` must do, as cases that any implementation can run against a chain with the job contract. */

import assert from 'node:assert/strict';
import { keccak256 } from 'viem/utils';
import type { ChainClient, ChainUpdate, Signer, TransactionRequest } from '../chain/chain.ts';
import type { ChainCall, Hex } from '../job/call.ts';
import type { Cursor } from '../ledger/ledger.ts';
import { callsOf, follow, isReorg, lastCursor, reachedHead, shown } from './chain-updates.ts';

/** One job call to put on the chain. */
export interface ConformanceCall {
  readonly serviceId: bigint;
  readonly jobIndex: number;
  readonly inputs: Uint8Array;
}

/** A fresh chain, a client of it, and the hands to move it. Nothing is mined but by `submit`, `mine` and `reorg`. */
export interface ChainSubject {
  readonly client: ChainClient;
  /** Operator of both services; has money, and nothing of it waits. */
  readonly operator: Signer;
  /** Has money and is no operator. */
  readonly stranger: Signer;
  /** Active services without calls, whose calls one result completes and whose jobs 0 and 1 have no schema. */
  readonly serviceIds: readonly [bigint, bigint];
  /** Resolves when all are mined in this order, the last of them in the head. */
  submit(calls: readonly ConformanceCall[]): Promise<void>;
  mine(blocks: number): Promise<void>;
  /** The last `depth` blocks leave with all they held; as many take their place, and hold these calls. */
  reorg(depth: number, calls: readonly ConformanceCall[]): Promise<void>;
}

export interface ChainCase {
  readonly name: string;
  /** Rejects when the client does not do what it must. */
  run(subject: ChainSubject): Promise<void>;
}

const GWEI = 1_000_000_000n;
const SELECTORS = { submitResult: '0x2d07e655', submitResults: '0xaacdba9f', JobCallNotFound: '0x96c6ebfc' } as const;

export const chainCases: readonly ChainCase[] = [
  {
    name: 'follow tells every call from the first block asked for, in order, with all that the chain says of it',
    async run(subject) {
      const [first, second] = subject.serviceIds;
      const before = await subject.client.head();
      await subject.submit([call(first, 0, 1), call(second, 1, 2), call(first, 1, 3)]);
      await subject.mine(2);
      const head = await subject.client.head();
      const updates = await follow(subject.client, { fromBlock: before.number + 1n }, reachedHead(head.number));
      const calls = callsOf(updates);
      assert.deepEqual(calls.map(shown), [
        [first, 0n, 0, [1]],
        [second, 0n, 1, [2]],
        [first, 1n, 1, [3]],
      ]);
      for (const { chainId, contract, blockNumber, blockHash, caller, transactionHash } of calls) {
        assert.equal(chainId, subject.client.chainId);
        assert.equal(contract, subject.client.contract.toLowerCase());
        assert.equal(blockHash, await subject.client.blockHash(blockNumber));
        assert.match(caller, /^0x[0-9a-f]{40}$/u);
        assert.match(transactionHash, /^0x[0-9a-f]{64}$/u);
      }
      assert.deepEqual(lastCursor(updates), {
        chainId: subject.client.chainId,
        contract: subject.client.contract,
        block: { number: head.number, hash: head.hash },
      });
    },
  },
  {
    name: 'follow without a cursor begins after the head, and says where at once',
    async run(subject) {
      const [serviceId] = subject.serviceIds;
      await subject.submit([call(serviceId, 0, 1)]);
      const head = await subject.client.head();
      const updates = await follow(subject.client, {}, reachedHead(head.number));
      assert.deepEqual(callsOf(updates), []);
      assert.equal(updates[0]?.type, 'calls');
      assert.deepEqual(updates[0].cursor.block, { number: head.number, hash: head.hash });
    },
  },
  {
    name: 'follow goes on after a cursor, and tells nothing twice',
    async run(subject) {
      const [serviceId] = subject.serviceIds;
      await subject.submit([call(serviceId, 0, 1)]);
      const block = await subject.client.head();
      await subject.submit([call(serviceId, 0, 2)]);
      const head = await subject.client.head();
      const updates = await follow(subject.client, { cursor: cursorAt(subject.client, block) }, reachedHead(head.number));
      assert.deepEqual(callsOf(updates).map(shown), [[serviceId, 1n, 0, [2]]]);
    },
  },
  {
    name: 'follow tells only calls of the services asked for',
    async run(subject) {
      const [first, second] = subject.serviceIds;
      const before = await subject.client.head();
      await subject.submit([call(first, 0, 1), call(second, 0, 2), call(first, 0, 3)]);
      const head = await subject.client.head();
      const updates = await follow(subject.client, { fromBlock: before.number + 1n, serviceIds: [second] }, reachedHead(head.number));
      assert.deepEqual(callsOf(updates).map(shown), [[second, 0n, 0, [2]]]);
    },
  },
  {
    name: 'follow tells what is mined while it follows, and each head after the calls up to it',
    async run(subject) {
      const [serviceId] = subject.serviceIds;
      const before = await subject.client.head();
      let submitted = false;
      const updates = await follow(subject.client, { fromBlock: before.number }, async (seen) => {
        if (!submitted && reachedHead(before.number)(seen)) {
          submitted = true;
          await subject.submit([call(serviceId, 0, 7)]);
        }
        return reachedHead(before.number + 1n)(seen);
      });
      assert.deepEqual(callsOf(updates).map(shown), [[serviceId, 0n, 0, [7]]]);
      const told = updates.findIndex((update) => update.type === 'calls' && update.calls.length > 0);
      const head = updates.findIndex((update) => update.type === 'head' && update.block.number === before.number + 1n);
      assert.ok(told < head, 'the head came before its calls');
    },
  },
  {
    name: 'follow reports a reorg with a block that both branches share, then the calls of the new branch',
    async run(subject) {
      const [serviceId] = subject.serviceIds;
      await subject.submit([call(serviceId, 0, 1)]);
      const shared = await subject.client.head();
      await subject.submit([call(serviceId, 0, 2)]);
      await subject.mine(1);
      const old = await subject.client.head();
      let reorganised = false;
      const updates = await follow(subject.client, { fromBlock: shared.number }, async (seen) => {
        if (!reorganised && reachedHead(old.number)(seen)) {
          reorganised = true;
          await subject.reorg(Number(old.number - shared.number), [call(serviceId, 1, 9)]);
          await subject.mine(1);
        }
        return reachedHead(old.number + 1n)(seen);
      });
      checkReorg(updates, shared.number);
      assert.deepEqual(callsOf(updates.slice(updates.findIndex(isReorg))).map(shown), [[serviceId, 1n, 1, [9]]]);
    },
  },
  {
    name: 'follow reports a reorg that happened while nobody followed',
    async run(subject) {
      const [serviceId] = subject.serviceIds;
      await subject.mine(2);
      const shared = await subject.client.head();
      await subject.submit([call(serviceId, 0, 1)]);
      const block = await subject.client.head();
      await subject.reorg(Number(block.number - shared.number), [call(serviceId, 1, 9)]);
      await subject.mine(1);
      const head = await subject.client.head();
      const updates = await follow(subject.client, { cursor: cursorAt(subject.client, block) }, reachedHead(head.number));
      const first = updates.find((update) => update.type !== 'calls' || update.calls.length > 0);
      assert.equal(first?.type, 'reorg', 'the reorg must come before anything new');
      checkReorg(updates, shared.number);
      assert.deepEqual(callsOf(updates).map(shown), [[serviceId, 0n, 1, [9]]]);
    },
  },
  {
    name: 'confirm is true for a call as it is on the chain, and false for other inputs, another caller or another block',
    async run(subject) {
      const [serviceId] = subject.serviceIds;
      const { operator, client } = subject;
      const before = await client.head();
      const [real] = await submitted(subject, [call(serviceId, 0, 1)]);
      const others: ChainCall[] = [
        { ...real, inputs: Uint8Array.of(2) },
        { ...real, caller: operator.address.toLowerCase() as Hex },
        { ...real, callId: real.callId + 1n },
        { ...real, jobIndex: 1 },
        { ...real, blockNumber: before.number, blockHash: before.hash },
      ];
      assert.deepEqual(await client.confirm([real, ...others, real]), [true, false, false, false, false, false, true]);
      assert.deepEqual(await client.confirm([]), []);
    },
  },
  {
    name: 'confirm is false after a reorg gave the call id other inputs',
    async run(subject) {
      const [serviceId] = subject.serviceIds;
      const shared = await subject.client.head();
      const [old] = await submitted(subject, [call(serviceId, 0, 1)]);
      const head = await subject.client.head();
      await subject.reorg(Number(head.number - shared.number), [call(serviceId, 0, 2)]);
      const updates = await follow(subject.client, { fromBlock: shared.number + 1n }, reachedHead(head.number));
      const [now] = callsOf(updates);
      assert.ok(now, 'the new branch has no call');
      assert.deepEqual([old.callId, now.callId], [0n, 0n]);
      assert.deepEqual(await subject.client.confirm([old, now]), [false, true]);
    },
  },
  {
    name: 'simulate tells the gas of what would succeed, and changes nothing',
    async run(subject) {
      const [serviceId] = subject.serviceIds;
      await subject.submit([call(serviceId, 0, 1), call(serviceId, 0, 2)]);
      const one = results(subject, serviceId, [0n]);
      const two = results(subject, serviceId, [0n, 1n]);
      assert.ok(one.data.startsWith(SELECTORS.submitResult), 'one result goes through submitResult');
      assert.ok(two.data.startsWith(SELECTORS.submitResults), 'several results go through submitResults');
      for (const request of [one, two, one]) {
        const simulation = await subject.client.simulate(subject.operator.address, request);
        assert.equal(simulation.outcome, 'ok');
        assert.ok(simulation.gas > 21_000n);
      }
    },
  },
  {
    name: 'simulate names the error of the contract, its arguments and the call to blame',
    async run(subject) {
      const [serviceId] = subject.serviceIds;
      await subject.submit([call(serviceId, 0, 1)]);
      const unknown = await subject.client.simulate(subject.operator.address, results(subject, serviceId, [0n, 9n]));
      assert.equal(unknown.outcome, 'revert');
      assert.deepEqual([unknown.error, unknown.args, unknown.callId], ['JobCallNotFound', [serviceId, 9n], 9n]);
      assert.ok(unknown.data.startsWith(SELECTORS.JobCallNotFound));
      const stranger = await subject.client.simulate(subject.stranger.address, results(subject, serviceId, [0n]));
      assert.equal(stranger.outcome, 'revert');
      assert.deepEqual([stranger.error, stranger.callId], ['OperatorNotInService', undefined]);
    },
  },
  {
    name: 'a result goes the whole way: sent, mined, with a receipt; afterwards the call is completed',
    async run(subject) {
      const { client, operator } = subject;
      const [serviceId] = subject.serviceIds;
      await subject.submit([call(serviceId, 0, 1)]);
      const request = results(subject, serviceId, [0n]);
      const nonce = await client.nonce(operator.address, 'latest');
      const raw = await signed(subject, request, { nonce });
      const hash = keccak256(raw);
      assert.deepEqual(await client.receipts([hash]), [undefined]);
      assert.equal(await client.send(raw), 'sent');
      assert.equal(await client.nonce(operator.address, 'latest'), nonce);
      assert.equal(await client.nonce(operator.address, 'pending'), nonce + 1);
      await subject.mine(1);
      const head = await client.head();
      const [receipt, none] = await client.receipts([hash, keccak256('0x00')]);
      assert.equal(none, undefined);
      assert.deepEqual(
        [receipt?.transactionHash, receipt?.success, receipt?.block],
        [hash, true, { number: head.number, hash: head.hash }],
      );
      assert.ok((receipt?.gasUsed ?? 0n) > 21_000n && (receipt?.effectiveGasPrice ?? 0n) > 0n);
      assert.equal(await client.nonce(operator.address, 'latest'), nonce + 1);
      const again = await client.simulate(operator.address, request);
      assert.deepEqual([again.outcome, again.outcome === 'revert' && again.error], ['revert', 'JobAlreadyCompleted']);
    },
  },
  {
    name: 'a transaction that fails has a receipt that says so',
    async run(subject) {
      const [serviceId] = subject.serviceIds;
      const nonce = await subject.client.nonce(subject.operator.address, 'latest');
      const raw = await signed(subject, results(subject, serviceId, [5n]), { nonce });
      await subject.client.send(raw);
      await subject.mine(1);
      const [receipt] = await subject.client.receipts([keccak256(raw)]);
      assert.equal(receipt?.success, false);
    },
  },
  {
    name: 'send tells what the node says: known, underpriced, replaced, used nonce',
    async run(subject) {
      const { client, operator } = subject;
      const request: TransactionRequest = { to: operator.address, data: '0x' };
      const nonce = await client.nonce(operator.address, 'latest');
      const first = await signed(subject, request, { nonce });
      assert.equal(await client.send(first), 'sent');
      assert.equal(await client.send(first), 'known');
      const noMore = await signed(subject, { ...request, to: client.contract }, { nonce });
      assert.equal(await client.send(noMore), 'underpriced');
      const enough = await signed(subject, request, { nonce, percent: 125n });
      assert.equal(await client.send(enough), 'sent');
      await subject.mine(1);
      assert.deepEqual(
        (await client.receipts([keccak256(first), keccak256(enough)])).map((receipt) => receipt?.success),
        [undefined, true],
      );
      assert.equal(await client.send(await signed(subject, request, { nonce, percent: 200n })), 'nonce-too-low');
    },
  },
  {
    name: 'send rejects what is no transaction with RPC_ERROR',
    async run(subject) {
      await assert.rejects(subject.client.send('0x1234'), { code: 'RPC_ERROR' });
    },
  },
  {
    name: 'head and blockHash agree, and there is no block after the head',
    async run(subject) {
      await subject.mine(3);
      const head = await subject.client.head();
      assert.equal(await subject.client.blockHash(head.number), head.hash);
      assert.notEqual(await subject.client.blockHash(head.number - 1n), head.hash);
      assert.equal(await subject.client.blockHash(head.number + 1_000n), undefined);
      assert.ok(head.timestamp > 0n);
    },
  },
  {
    name: 'a service is described as it is, and one that is not there is SERVICE_NOT_FOUND',
    async run(subject) {
      const [serviceId] = subject.serviceIds;
      const service = await subject.client.service(serviceId);
      assert.deepEqual([service.serviceId, service.status, service.ttl], [serviceId, 'active', 0n]);
      assert.deepEqual(
        service.operators.map((address) => address.toLowerCase()),
        [subject.operator.address.toLowerCase()],
      );
      await assert.rejects(subject.client.service(7_777n), { code: 'SERVICE_NOT_FOUND' });
    },
  },
];

function call(serviceId: bigint, jobIndex: number, input: number): ConformanceCall {
  return { serviceId, jobIndex, inputs: Uint8Array.of(input) };
}

/** Submits and reads back what the chain made of it. */
async function submitted(subject: ChainSubject, calls: readonly ConformanceCall[]): Promise<[ChainCall, ...ChainCall[]]> {
  const before = await subject.client.head();
  await subject.submit(calls);
  const head = await subject.client.head();
  const [first, ...others] = callsOf(await follow(subject.client, { fromBlock: before.number + 1n }, reachedHead(head.number)));
  assert.ok(first, 'the submitted calls are not on the chain');
  return [first, ...others];
}

/** A client may go back further than it must: what it tells again is known by then. */
function checkReorg(updates: readonly ChainUpdate[], sharedBlock: bigint): void {
  const reorg = updates.find(isReorg);
  assert.equal(reorg?.type, 'reorg', 'no reorg was reported');
  assert.ok(reorg.cursor.block.number <= sharedBlock, `the branches share block ${sharedBlock}, not ${reorg.cursor.block.number}`);
  assert.ok(reorg.depth >= 1);
}

function cursorAt(client: ChainClient, { number, hash }: { readonly number: bigint; readonly hash: Hex }): Cursor {
  return { chainId: client.chainId, contract: client.contract, block: { number, hash } };
}

function results(subject: ChainSubject, serviceId: bigint, callIds: readonly bigint[]): TransactionRequest {
  return subject.client.encodeResults({ serviceId, callIds, results: callIds.map((callId) => Uint8Array.of(0xaa, Number(callId))) });
}

async function signed(
  subject: ChainSubject,
  request: TransactionRequest,
  options: { readonly nonce: number; readonly percent?: bigint },
): Promise<Hex> {
  const { percent = 100n, nonce } = options;
  return subject.operator.signTransaction({
    type: 'eip1559',
    chainId: subject.client.chainId,
    nonce,
    ...request,
    value: 0n,
    gas: 1_000_000n,
    maxFeePerGas: (50n * GWEI * percent) / 100n,
    maxPriorityFeePerGas: (GWEI * percent) / 100n,
  });
}
