/** A job at a worker lies in the trace of who published it. */

import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { TRACE } from '../../src/job/call.ts';
import { RunnerError } from '../../src/errors.ts';
import { EmbeddedQueue } from '../../src/queue/embedded.ts';
import { createStartSpan } from '../../src/telemetry/otel.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import type { JobHandler } from '../../src/worker/running-job.ts';
import { Worker } from '../../src/worker/worker.ts';
import { newFolder, onEnd } from '../support/gateway.ts';
import { recordSpans, stopRecordingSpans } from '../support/recording-tracer.ts';

afterEach(stopRecordingSpans);

const TRACE_ID = '0af7651916cd43dd8448eb211c80319c';
const PARENT = 'b7ad6b7169203331';

it('from the claim to the report, also when it fails; without a publisher that traces in one of its own', async () => {
  const spans = recordSpans();
  const telemetry = { ...silentTelemetry, startSpan: await createStartSpan() };
  const queue = EmbeddedQueue.open({ folder: join(await newFolder(), 'queue') });
  const handler: JobHandler = {
    async run({ id }, { started }) {
      if (id === 'missing') throw new RunnerError('CODE_MISSING', 'there is no package');
      started();
      if (id === 'fails') throw new RunnerError('JOB_FAILED', 'no oven', { retry: 'never' });
      return { body: Buffer.from('done') };
    },
  };
  const worker = new Worker({ queue, workerId: 'w', handler, telemetry, concurrency: 1 });
  onEnd(async () => {
    await worker.drain(1_000);
    await queue.close();
  });
  const headers = { [TRACE.parent]: `00-${TRACE_ID}-${PARENT}-01`, [TRACE.state]: 'vendor=x', function: 'cake' };
  await queue.publishMany([
    { id: 'works', type: 'function', payload: Buffer.from('1'), headers },
    { id: 'fails', type: 'function', payload: Buffer.from('1'), headers },
    { id: 'missing', type: 'function', payload: Buffer.from('1'), headers },
    { id: 'alone', type: 'function', payload: Buffer.from('1') },
    { id: 'malformed', type: 'function', payload: Buffer.from('1'), headers: { [TRACE.parent]: 'rubbish' } },
  ]);
  worker.start();
  await expect.poll(() => spans.filter(({ name, ended }) => name === 'worker.job' && ended === 1).length, { timeout: 30_000 }).toBe(5);
  expect(spans.every(({ ended }) => ended === 1)).toBe(true);
  const jobSpan = (id: string) => {
    const found = spans.find(({ name, attributes }) => name === 'worker.job' && attributes['blueprint.job.id'] === id);
    if (!found) throw new Error(`there is no span of ${id}`);
    return found;
  };
  const under = (id: string) => spans.filter(({ parentId }) => parentId === jobSpan(id).spanId);
  const phases = (id: string): readonly string[] => under(id).map(({ name }) => name);
  for (const id of ['works', 'fails', 'missing']) {
    expect(jobSpan(id)).toMatchObject({ traceId: TRACE_ID, parentId: PARENT, attributes: { 'blueprint.attempt': 1, 'faas.name': 'cake' } });
    expect(under(id).every(({ traceId }) => traceId === TRACE_ID)).toBe(true);
  }
  expect(phases('works')).toEqual(['worker.claim', 'worker.fetch', 'worker.execute', 'worker.report']);
  expect(phases('fails')).toEqual(['worker.claim', 'worker.fetch', 'worker.execute', 'worker.report']);
  expect(phases('missing')).toEqual(['worker.claim', 'worker.fetch', 'worker.report']);
  expect(jobSpan('works')).toMatchObject({ attributes: { 'blueprint.outcome': 'completed' } });
  const publishedAt = Number((await queue.status('works'))?.publishedAt);
  expect(under('works')[0]?.startTime).toBe(jobSpan('works').startTime);
  expect(Number(jobSpan('works').startTime)).toBeGreaterThanOrEqual(publishedAt);
  expect(jobSpan('works').status).toBeUndefined();
  expect(jobSpan('fails')).toMatchObject({
    attributes: { 'blueprint.outcome': 'failed', 'error.type': 'JOB_FAILED' },
    status: { code: 2 },
  });
  expect(under('missing')[1]).toMatchObject({ name: 'worker.fetch', attributes: { 'error.type': 'CODE_MISSING' } });
  for (const id of ['alone', 'malformed']) {
    expect(jobSpan(id).parentId).toBeUndefined();
    expect(jobSpan(id).traceId).not.toBe(TRACE_ID);
    expect(phases(id)).toEqual(['worker.claim', 'worker.fetch', 'worker.execute', 'worker.report']);
  }
});
