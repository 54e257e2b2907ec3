/** One trace for each call: from the event over real HTTP to the deployed handler, and on to the transaction, also through a restart. */

import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { startHttp } from '../../handler/adapters/http.ts';
import { createHandler } from '../../handler/index.ts';
import { HttpFaasExecutor } from '../../plugins/http/index.ts';
import { MockChain } from '../../src/chain/mock-chain.ts';
import { mockSigner } from '../../src/chain/mock-transaction.ts';
import { MockChainClient } from '../../src/chain/mock.ts';
import { systemClock } from '../../src/clock.ts';
import { RunnerError } from '../../src/errors.ts';
import type { FaasExecutor } from '../../src/executor/executor.ts';
import { Metadata, TRACE } from '../../src/job/call.ts';
import type { Address, JobCall } from '../../src/job/call.ts';
import { metadata, optional } from '../../src/job/extract.ts';
import { defineJob } from '../../src/job/job.ts';
import { JobRouter } from '../../src/job/router.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { BlueprintRunner } from '../../src/runner/runner.ts';
import { createStartSpan } from '../../src/telemetry/otel.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { recordSpans, stopRecordingSpans } from '../support/recording-tracer.ts';
import type { RecordedSpan } from '../support/recording-tracer.ts';

const OPERATOR: Address = '0x00000000000000000000000000000000000000aa';

/** Tells the trace context that it sees. */
const tell = defineJob(
  { name: 'tell', raw: true, extract: { parent: optional(metadata(TRACE.parent)), state: optional(metadata(TRACE.state)) } },
  (_, { parent, state }) => `${parent} ${state}`,
);

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
  stopRecordingSpans();
});

async function deployedHandler(): Promise<string> {
  const adapter = await startHttp(createHandler(new JobRouter().route(0, tell)), { host: '127.0.0.1', port: 0, concurrencyMax: 100 });
  closing.push(() => adapter.close(AbortSignal.timeout(1_000)));
  return adapter.address;
}

function executorFor(url: string): HttpFaasExecutor {
  const executor = new HttpFaasExecutor(url, { name: 'cloud' });
  closing.push(() => executor.close());
  return executor;
}

function mockChain() {
  const chain = new MockChain({ clock: systemClock });
  const { serviceId } = chain.addService({ operators: [OPERATOR] });
  const submit = (input: string): void => void chain.submitJob({ serviceId, jobIndex: 0, inputs: new Uint8Array(Buffer.from(input)) });
  return { chain, serviceId, submit };
}

interface World {
  readonly chain: MockChain;
  readonly ledger: SqliteLedger;
  readonly executor: FaasExecutor;
}

async function startRunner({ chain, ledger, executor }: World, finality = 2): Promise<BlueprintRunner> {
  const startSpan = await createStartSpan();
  const runner = await BlueprintRunner.builder({ confirmations: 0, finality, fromBlock: 0n, drainMs: 0 }, {})
    .telemetry({ ...silentTelemetry, startSpan })
    .chain(new MockChainClient({ chain, clock: systemClock }))
    .ledger(ledger)
    .signer(mockSigner(OPERATOR))
    .withFaasExecutor(0n, executor, { idempotent: true, attemptsMax: 2, backoff: { baseMs: 1, maxMs: 1, jitter: 0 } })
    .start();
  closing.push(() => runner.stop());
  return runner;
}

async function mineUntil(chain: MockChain, isDone: () => boolean): Promise<void> {
  await expect.poll(() => (chain.mine(), isDone()), { interval: 10 }).toBe(true);
}

const named = (spans: readonly RecordedSpan[], name: string): RecordedSpan[] => spans.filter((span) => span.name === name);
const only = (spans: readonly RecordedSpan[], name: string): RecordedSpan => {
  const found = named(spans, name);
  expect(found).toHaveLength(1);
  return found[0] as RecordedSpan;
};

describe('tracing', () => {
  it('makes one trace of event, attempt and transaction, and the deployed job sees the attempt', async () => {
    const spans = recordSpans();
    const { chain, serviceId, submit } = mockChain();
    const ledger = SqliteLedger.open({ path: ':memory:' });
    closing.push(() => ledger.close());
    submit('x');
    await startRunner({ chain, ledger, executor: executorFor(await deployedHandler()) });
    await mineUntil(chain, () => ledger.get(1)?.state === 'final' && spans.every(({ ended }) => ended === 1));

    expect(spans.map(({ name }) => name)).toEqual(['call', 'job.execute', 'settle']);
    const [call, execute, settle] = spans as [RecordedSpan, RecordedSpan, RecordedSpan];
    const [origin] = chain.calls();
    const hash = ledger.transactionsOf(1)[0]?.hash;
    expect(call).toMatchObject({
      traceId: expect.stringMatching(/^[0-9a-f]{32}$/),
      attributes: {
        'blueprint.call.id': ledger.get(1)?.call.id,
        'blueprint.job.id': '0',
        'tangle.chain_id': 31_337,
        'tangle.service_id': serviceId.toString(),
        'tangle.call_id': '0',
        'tangle.transaction_hash': origin?.transactionHash,
        'blueprint.outcome': 'final',
      },
    });
    expect(execute).toMatchObject({
      traceId: call.traceId,
      parentId: call.spanId,
      attributes: { 'blueprint.executor.name': 'cloud', 'blueprint.attempt': 1, 'blueprint.outcome': 'OK' },
    });
    expect(settle).toMatchObject({
      traceId: call.traceId,
      parentId: call.spanId,
      attributes: { 'blueprint.transaction.hash': hash, 'blueprint.batch.size': 1, 'blueprint.outcome': 'final' },
      events: [{ name: 'submitted' }, { name: 'mined' }],
    });
    const [result] = chain.results();
    expect(Buffer.from(result?.output ?? []).toString()).toBe(`00-${call.traceId}-${execute.spanId}-01 undefined`);
  });

  it('a failed attempt and the one after it are two spans of the same call', async () => {
    const spans = recordSpans();
    const { chain, submit } = mockChain();
    const ledger = SqliteLedger.open({ path: ':memory:' });
    closing.push(() => ledger.close());
    const inner = executorFor(await deployedHandler());
    const executor: FaasExecutor = {
      name: 'shaky',
      limits: inner.limits,
      invoke: (of, options) =>
        options.attempt === 1 ? Promise.reject(new RunnerError('EXECUTOR_CONNECTION_LOST', 'gone')) : inner.invoke(of, options),
    };
    submit('x');
    await startRunner({ chain, ledger, executor });
    await mineUntil(chain, () => ledger.get(1)?.state === 'final');
    const call = only(spans, 'call');
    expect(named(spans, 'job.execute')).toMatchObject([
      { parentId: call.spanId, attributes: { 'blueprint.attempt': 1, 'error.type': 'EXECUTOR_CONNECTION_LOST' }, ended: 1 },
      { parentId: call.spanId, attributes: { 'blueprint.attempt': 2, 'blueprint.outcome': 'OK' }, ended: 1 },
    ]);
  });

  it('another process goes on with the trace: attempts and settlement of both come together', async () => {
    const spans = recordSpans();
    const { chain, submit } = mockChain();
    const directory = await mkdtemp(join(tmpdir(), 'tracing-'));
    closing.push(() => rm(directory, { recursive: true }));
    const path = join(directory, 'ledger.sqlite');
    const url = await deployedHandler();
    submit('x');
    submit('y');
    const first = SqliteLedger.open({ path });
    const hanging: FaasExecutor = {
      name: 'hanging',
      limits: { requestBytesMax: 1e6, responseBytesMax: 1e6, timeoutMsMax: 60_000 },
      invoke: (_, { signal }) =>
        new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(new RunnerError('ABORTED', 'stopped')))),
    };
    const before = await startRunner({ chain, ledger: first, executor: hanging });
    await mineUntil(chain, () => named(spans, 'job.execute').length === 2);
    await before.stop();
    await first.close();
    expect(spans.every(({ ended }) => ended === 1)).toBe(true);

    const second = SqliteLedger.open({ path });
    const between = await startRunner({ chain, ledger: second, executor: executorFor(url) }, 1_000);
    await mineUntil(chain, () => [1, 2].every((seq) => second.get(seq)?.state === 'mined'));
    await between.stop();
    await second.close();

    const third = SqliteLedger.open({ path });
    closing.push(() => third.close());
    await startRunner({ chain, ledger: third, executor: executorFor(url) });
    await mineUntil(chain, () => [1, 2].every((seq) => third.get(seq)?.state === 'final') && spans.every(({ ended }) => ended === 1));

    const ofCall = (seq: number): RecordedSpan[] =>
      spans.filter(({ attributes }) => attributes['blueprint.call.id'] === third.get(seq)?.call.id);
    const [ofFirst, ofSecond] = [ofCall(1), ofCall(2)];
    expect(ofFirst.length + ofSecond.length).toBe(spans.length);
    expect(new Set(ofFirst.map(({ traceId }) => traceId)).size).toBe(1);
    expect(new Set(ofSecond.map(({ traceId }) => traceId)).size).toBe(1);
    expect(ofFirst[0]?.traceId).not.toBe(ofSecond[0]?.traceId);
    expect(ofFirst.map(({ name }) => name)).toEqual(['call', 'job.execute', 'call', 'job.execute', 'settle', 'settle']);
    expect(named(ofFirst, 'job.execute').map(({ attributes }) => attributes['blueprint.attempt'])).toEqual([1, 2]);
    const late = named(ofFirst, 'settle')[1];
    const [transaction] = third.transactionsOf(1);
    expect(late).toMatchObject({
      startTime: transaction?.createdAt,
      attributes: { 'blueprint.transaction.hash': transaction?.hash, 'blueprint.outcome': 'final' },
    });
  });

  it('goes on with the trace of who made the call, over the wire and without its own spans', async () => {
    const url = await deployedHandler();
    const headers: unknown[] = [];
    const platform = createServer((request, response) => {
      headers.push([request.url, request.headers[TRACE.parent], request.headers[TRACE.state]]);
      request.resume().on('end', () => response.writeHead(200, { 'content-type': 'application/json' }).end('{"result":[1]}'));
    }).listen(0, '127.0.0.1');
    closing.push(() => new Promise((resolve) => platform.close(resolve)));
    await new Promise((resolve) => platform.once('listening', resolve));
    const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
    const call: JobCall = {
      id: 'c',
      jobId: 0n,
      body: new Uint8Array(),
      metadata: new Metadata([
        [TRACE.parent, traceparent],
        [TRACE.state, 'vendor=x,other=y'],
      ]),
    };
    const limits = { deadline: Date.now() + 60_000, attempt: 1 };
    for (const wire of ['json', 'binary'] as const) {
      const executor = new HttpFaasExecutor(url, { wire });
      closing.push(() => executor.close());
      const { results } = await executor.invoke(call, limits);
      expect(Buffer.from(results[0]?.body ?? []).toString()).toBe(`${traceparent} vendor=x,other=y`);
    }
    const { port } = platform.address() as AddressInfo; // it listens on a port
    const onPlatform = new HttpFaasExecutor(`http://127.0.0.1:${port}`, { mode: 'platform' });
    closing.push(() => onPlatform.close());
    await onPlatform.invoke(call, limits);
    expect(headers).toEqual([['/api/functions/job0/invoke', traceparent, 'vendor=x,other=y']]);
  });
});

describe('calls of producers', () => {
  it('a call that brings a trace is traced in it, and its span ends with its result', async () => {
    const spans = recordSpans();
    const startSpan = await createStartSpan();
    const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
    const results: string[] = [];
    const runner = await BlueprintRunner.builder({ ledger: false }, {})
      .telemetry({ ...silentTelemetry, startSpan })
      .router(new JobRouter().route(0, tell))
      .producer({
        name: 'one',
        async *calls() {
          yield { id: 'p', jobId: 0n, body: new Uint8Array(), metadata: new Metadata([[TRACE.parent, traceparent]]) };
          yield { id: 'q', jobId: 7n, body: new Uint8Array(), metadata: new Metadata() };
        },
      })
      .consumer({ name: 'keep', consume: ({ body }) => void results.push(Buffer.from(body).toString()) })
      .start();
    closing.push(() => runner.stop());
    await expect.poll(() => spans.filter(({ ended }) => ended === 1).length).toBe(4);
    const ofP = spans.filter(({ attributes }) => attributes['blueprint.call.id'] === 'p');
    expect(ofP).toMatchObject([
      {
        name: 'call',
        traceId: '0af7651916cd43dd8448eb211c80319c',
        parentId: 'b7ad6b7169203331',
        attributes: { 'blueprint.outcome': 'executed' },
      },
      { name: 'job.execute', parentId: ofP[0]?.spanId },
    ]);
    expect(results).toEqual([`00-0af7651916cd43dd8448eb211c80319c-${ofP[1]?.spanId}-01 undefined`]);
    const failed = spans.find(({ name, attributes }) => name === 'call' && attributes['blueprint.call.id'] === 'q');
    expect(failed).toMatchObject({ attributes: { 'error.type': 'JOB_UNKNOWN' }, status: { code: 2 } });
    expect(failed?.traceId).not.toBe(ofP[0]?.traceId);
  });
});
