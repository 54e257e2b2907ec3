import * as api from '@opentelemetry/api';
import { afterEach, describe, expect, it } from 'vitest';
import { RunnerError } from '../errors.ts';
import { recordSpans, stopRecordingSpans } from '../../test/support/recording-tracer.ts';
import { createStartSpan } from './otel.ts';
import type { StartSpan } from './telemetry.ts';

afterEach(stopRecordingSpans);

describe('createStartSpan', () => {
  it('is undefined when no provider was registered', async () => {
    expect(await createStartSpan()).toBe(undefined);
  });

  it('is undefined when the package is not installed', async () => {
    const missing = Object.assign(new Error("Cannot find package '@opentelemetry/api' imported from x"), { code: 'ERR_MODULE_NOT_FOUND' });
    expect(await createStartSpan(() => Promise.reject(missing))).toBe(undefined);
  });

  it('does not hide a broken installation', async () => {
    const broken = new SyntaxError('Unexpected token');
    await expect(createStartSpan(() => Promise.reject(broken))).rejects.toBe(broken);
    const inner = Object.assign(new Error("Cannot find package 'left-pad'"), { code: 'ERR_MODULE_NOT_FOUND' });
    await expect(createStartSpan(() => Promise.reject(inner))).rejects.toBe(inner);
  });

  it('makes one trace of event, execution and transaction, with attributes and errors without secrets', async () => {
    const recorded = recordSpans();
    const startSpan = await tracing();

    const event = startSpan('job call', { attributes: { 'job.id': '1' } });
    const execution = startSpan('execute', { parent: event });
    execution.setAttribute('cold_start', true);
    execution.recordError(new RunnerError('EXECUTOR_TIMEOUT', 'https://fn.example/0123456789abcdef0123456789abcdef took too long'));
    execution.end();
    startSpan('transaction', { parent: execution }).recordError('plain text');
    event.end();

    const message = 'https://fn.example/[redacted] took too long';
    expect(recorded).toMatchObject([
      { name: 'job call', parentId: undefined, attributes: { 'job.id': '1' }, ended: 1, exceptions: [] },
      {
        name: 'execute',
        parentId: '0000000000000001',
        attributes: { cold_start: true },
        ended: 1,
        exceptions: [{ name: 'RunnerError', code: 'EXECUTOR_TIMEOUT', message }],
        status: { code: api.SpanStatusCode.ERROR, message },
      },
      { name: 'transaction', parentId: '0000000000000002', ended: 0, exceptions: [{ name: 'Error', message: 'plain text' }] },
    ]);
    expect(new Set(recorded.map(({ traceId }) => traceId)).size).toBe(1);
  });

  const PARENT = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';

  it('goes on with the trace of another process, and tells its own spans to the next', async () => {
    const recorded = recordSpans();
    const first = await tracing();
    const span = first('a', { parent: { traceparent: PARENT, tracestate: 'vendor=x, other=y,' } });
    expect(span.context).toEqual({
      traceparent: '00-0af7651916cd43dd8448eb211c80319c-0000000000000001-01',
      tracestate: 'vendor=x,other=y',
    });
    const state = recorded[0]?.traceState;
    expect([state?.get('vendor'), state?.get('none')]).toEqual(['x', undefined]);
    expect(state?.set('other', 'z').serialize()).toBe('other=z,vendor=x');
    expect(state?.unset('vendor').serialize()).toBe('other=y');
    expect(first('b').context).toEqual({ traceparent: '00-ee000000000000020000000000000002-0000000000000002-01' });
  });

  it.each([
    ['00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', true],
    ['cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes', true],
    ['ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', false],
    ['00-00000000000000000000000000000000-b7ad6b7169203331-01', false],
    ['00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01', false],
    ['00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01', false],
    ['nonsense', false],
  ])('takes %s for a parent: %s', async (traceparent, isParent) => {
    const recorded = recordSpans();
    const startSpan = await tracing();
    startSpan('a', { parent: { traceparent } });
    expect(recorded[0]?.parentId).toBe(isParent ? 'b7ad6b7169203331' : undefined);
  });

  it('takes kind, start and events over, and is the parent of what its work starts', async () => {
    const recorded = recordSpans();
    const startSpan = await tracing();
    const span = startSpan('outer', { kind: 'client', startedAt: 1_700_000_000_000 });
    span.addEvent('mined', { block: 7 });
    const result = await span.run(async () => {
      await Promise.resolve();
      startSpan('inner').end();
      return 'done';
    });
    startSpan('beside');
    expect(result).toBe('done');
    expect(recorded).toMatchObject([
      { name: 'outer', kind: api.SpanKind.CLIENT, startTime: 1_700_000_000_000, events: [{ name: 'mined', attributes: { block: 7 } }] },
      { name: 'inner', kind: api.SpanKind.INTERNAL, parentId: '0000000000000001' },
      { name: 'beside', parentId: undefined },
    ]);
  });
});

async function tracing(): Promise<StartSpan> {
  const startSpan = await createStartSpan();
  if (!startSpan) throw new Error('a provider is registered, so spans must be made');
  return startSpan;
}
