import { decodeFunctionData } from 'viem/utils';
import { describe, expect, test } from 'vitest';
import { RunnerError } from '../errors.ts';
import type { Hex } from '../job/call.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import type { Receipt, RpcRequest, TransactionRequest, TransactionSender } from './chain.ts';
import { statusRegistryAbi } from './contracts.ts';
import type { HeartbeatOptions, HeartbeatReport } from './operator.ts';
import { heartbeat, operatorRegistration } from './operator.ts';

const OPERATOR = `0x${'aa'.repeat(20)}` as const;
const REGISTRY = `0x${'bb'.repeat(20)}` as const;
const CONTRACT = `0x${'cc'.repeat(20)}` as const;
const PUBLIC_KEY: Hex = `0x04${'11'.repeat(64)}`;

const receipt: Receipt = {
  transactionHash: `0x${'12'.repeat(32)}`,
  block: { number: 1n, hash: `0x${'34'.repeat(32)}` },
  success: true,
  gasUsed: 1n,
  effectiveGasPrice: 1n,
};

/** A chain that answers every view with the address of the registry. */
const views: RpcRequest = async (method) =>
  method === 'eth_call' ? `0x${'0'.repeat(24)}${REGISTRY.slice(2)}` : { number: '0x5', timestamp: '0x64' };
const unreachable = new RunnerError('RPC_UNREACHABLE', 'the endpoint is gone');

class FakeSender implements TransactionSender {
  readonly address = OPERATOR;
  readonly sent: TransactionRequest[] = [];
  answer: (signal: AbortSignal | undefined) => Promise<Receipt> = () => Promise.resolve(receipt);

  send(request: TransactionRequest, options?: { readonly signal?: AbortSignal }): Promise<Receipt> {
    this.sent.push(request);
    return this.answer(options?.signal);
  }
}

function setUp(options: Partial<HeartbeatOptions> = {}) {
  const clock = new FakeClock();
  const sender = new FakeSender();
  const reports: (HeartbeatReport & { readonly afterMs: number })[] = [];
  const start = clock.now();
  const stop = new AbortController();
  const service = heartbeat({
    request: views,
    contract: CONTRACT,
    blueprintId: 1n,
    serviceId: 2n,
    sender,
    clock,
    random: () => 0,
    onBeat: (report) => void reports.push({ ...report, afterMs: clock.now() - start }),
    ...options,
  });
  return { clock, sender, reports, stop, service };
}

describe('heartbeat', () => {
  test('beats at once and then in each interval, until it is stopped', async () => {
    const { clock, sender, reports, stop, service } = setUp();
    const done = service.run(stop.signal);
    await clock.advance(1_000_000);
    expect(reports.map((report) => report.afterMs)).toEqual([0, 300_000, 600_000, 900_000]);
    expect(reports.every((report) => report.ok && report.transactionHash === receipt.transactionHash)).toBe(true);
    expect(sender.sent.map((request) => request.to)).toEqual(Array.from({ length: 4 }, () => REGISTRY));
    stop.abort();
    await done;
    await clock.advance(1_000_000);
    expect(sender.sent).toHaveLength(4);
    expect(clock.pending).toBe(0);
  });

  test('beats up to a tenth of the interval early', async () => {
    const { clock, reports, stop, service } = setUp({ random: () => 0.5, intervalMs: 100_000 });
    const done = service.run(stop.signal);
    await clock.advance(200_000);
    expect(reports.map((report) => report.afterMs)).toEqual([0, 95_000, 190_000]);
    stop.abort();
    await done;
  });

  test('tries again sooner after a failure, ever more slowly, never rarer than the interval, and counts failures in a row', async () => {
    const { clock, sender, reports, stop, service } = setUp({ intervalMs: 30_000 });
    sender.answer = () => Promise.reject(unreachable);
    const done = service.run(stop.signal);
    await clock.advance(65_000);
    expect(reports.map((report) => report.afterMs)).toEqual([0, 5_000, 15_000, 35_000, 65_000]);
    expect(reports.map((report) => !report.ok && report.failures)).toEqual([1, 2, 3, 4, 5]);
    expect(reports[0]).toMatchObject({ ok: false, error: unreachable });
    sender.answer = () => Promise.resolve(receipt);
    await clock.advance(30_000);
    sender.answer = () => Promise.reject(unreachable);
    await clock.advance(30_000);
    expect(reports.slice(5)).toMatchObject([{ ok: true }, { ok: false, failures: 1 }]);
    stop.abort();
    await done;
  });

  test('a refusal is HEARTBEAT_FAILED with the reason of the contract', async () => {
    const { clock, sender, reports, stop, service } = setUp();
    const rejected = new RunnerError('RESULT_REJECTED', 'the contract refuses: NotRegisteredOperator()', {
      details: { error: 'NotRegisteredOperator' },
    });
    sender.answer = () => Promise.reject(rejected);
    const done = service.run(stop.signal);
    await clock.advance(0);
    expect(reports[0]).toMatchObject({
      ok: false,
      error: {
        code: 'HEARTBEAT_FAILED',
        message: expect.stringContaining('NotRegisteredOperator'),
        details: { error: 'NotRegisteredOperator' },
      },
    });
    stop.abort();
    await done;
  });

  test('one that is never mined fails at its deadline', async () => {
    const { clock, sender, reports, stop, service } = setUp({ timeoutMs: 20_000 });
    sender.answer = (signal) =>
      new Promise((_resolve, reject) => {
        signal?.addEventListener('abort', () => reject(new RunnerError('ABORTED', 'cancelled')));
      });
    const done = service.run(stop.signal);
    await clock.advance(19_999);
    expect(reports).toEqual([]);
    await clock.advance(1);
    expect(reports[0]).toMatchObject({ ok: false, error: { code: 'HEARTBEAT_FAILED', message: expect.stringContaining('20000 ms') } });
    stop.abort();
    await done;
  });

  test('stopping during a beat ends it without a report', async () => {
    const { clock, sender, reports, stop, service } = setUp();
    sender.answer = (signal) =>
      new Promise((_resolve, reject) => {
        signal?.addEventListener('abort', () => reject(new RunnerError('ABORTED', 'cancelled')));
      });
    const done = service.run(stop.signal);
    await clock.advance(100);
    expect(sender.sent).toHaveLength(1);
    stop.abort();
    await done;
    expect([reports.length, clock.pending]).toEqual([0, 0]);
  });

  test.each([
    ['listener', { onBeat: () => expect.fail('broken listener') }],
    ['source of metrics', { metrics: () => expect.fail('broken metrics') }],
    ['source of the status', { status: () => expect.fail('broken status') }],
  ] satisfies [string, Partial<HeartbeatOptions>][])('a broken %s does not end it', async (_what, broken) => {
    const { clock, stop, service } = setUp(broken);
    const done = service.run(stop.signal);
    await clock.advance(600_000);
    expect(clock.pending).toBe(1);
    stop.abort();
    await done;
  });

  test('carries status and metrics', async () => {
    const { clock, sender, reports, stop, service } = setUp({ status: () => 1, metrics: () => [{ name: 'jobs', value: 7n }] });
    const done = service.run(stop.signal);
    await clock.advance(0);
    const { functionName, args } = decodeFunctionData({ abi: statusRegistryAbi, data: sender.sent[0]?.data ?? '0x' });
    expect([functionName, args?.slice(0, 3)]).toEqual(['submitHeartbeatDirect', [2n, 1n, 1]]);
    expect(args?.[3]).toMatch(/6a6f6273/);
    expect(reports[0]).toMatchObject({ ok: true, metricsHash: expect.stringMatching(/^0x[0-9a-f]{64}$/) });
    stop.abort();
    await done;
  });

  test('refuses a signer that is not the sender', () => {
    const signer = { address: CONTRACT, signTypedData: () => Promise.resolve<Hex>('0x') };
    expect(() => setUp({ signer })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });
});

describe('operatorRegistration', () => {
  const options = { contract: CONTRACT, blueprintId: 1n, publicKey: PUBLIC_KEY, rpcAddress: 'http://me' };

  test('waits for the chain ever longer, and ends quietly when it is stopped', async () => {
    const clock = new FakeClock();
    const times: number[] = [];
    const start = clock.now();
    const request: RpcRequest = () => {
      times.push(clock.now() - start);
      return Promise.reject(unreachable);
    };
    const stop = new AbortController();
    const done = operatorRegistration({ ...options, request, sender: new FakeSender(), clock }).run(stop.signal);
    await clock.advance(200_000);
    expect(times).toEqual([0, 1000, 3000, 7000, 15_000, 31_000, 63_000, 123_000, 183_000]);
    stop.abort();
    await done;
    expect(clock.pending).toBe(0);
  });

  test.each([
    ['a compressed key', { publicKey: `0x02${'11'.repeat(32)}` as const }],
    ['no address', { rpcAddress: '' }],
  ])('refuses %s before anything is asked', async (_what, wrong) => {
    const service = operatorRegistration({ ...options, ...wrong, request: () => expect.fail('asked'), sender: new FakeSender() });
    await expect(service.run(new AbortController().signal)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});
