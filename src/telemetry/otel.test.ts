import * as api from '@opentelemetry/api';
import type { Context, Span as OtelSpan, SpanOptions, Tracer, TracerProvider } from '@opentelemetry/api';
import { afterEach, describe, expect, it } from 'vitest';
import { RunnerError } from '../errors.ts';
import { createStartSpan } from './otel.ts';

interface Recorded {
  readonly name: string;
  readonly parent: string | undefined;
  readonly traceId: string;
  readonly attributes: Record<string, unknown>;
  readonly exceptions: unknown[];
  status?: unknown;
  ended: number;
}

/** A provider that keeps what was recorded; the interface is OpenTelemetry's. */
function recordingProvider(recorded: Recorded[]): TracerProvider {
  let ids = 0;
  const tracer = {
    startSpan(name: string, options: SpanOptions = {}, within: Context = api.context.active()) {
      const parent = api.trace.getSpanContext(within);
      const spanId = (++ids).toString(16).padStart(16, '0');
      const traceId = parent?.traceId ?? spanId.repeat(2);
      const record: Recorded = { name, parent: parent?.spanId, traceId, attributes: { ...options.attributes }, exceptions: [], ended: 0 };
      recorded.push(record);
      return {
        spanContext: () => ({ traceId, spanId, traceFlags: 1 }),
        setAttribute: (key: string, value: unknown) => void (record.attributes[key] = value),
        recordException: (exception: unknown) => void record.exceptions.push(exception),
        setStatus: (status: unknown) => void (record.status = status),
        end: () => void record.ended++,
      } as unknown as OtelSpan;
    },
  } as unknown as Tracer;
  return { getTracer: () => tracer };
}

afterEach(() => api.trace.disable());

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
    const recorded: Recorded[] = [];
    api.trace.setGlobalTracerProvider(recordingProvider(recorded));
    const startSpan = await createStartSpan();
    if (!startSpan) throw new Error('a provider is registered, so spans must be made');

    const event = startSpan('job call', { attributes: { 'job.id': '1' } });
    const execution = startSpan('execute', { parent: event });
    execution.setAttribute('cold_start', true);
    execution.recordError(new RunnerError('EXECUTOR_TIMEOUT', 'https://fn.example/0123456789abcdef0123456789abcdef took too long'));
    execution.end();
    startSpan('transaction', { parent: execution }).recordError('plain text');
    event.end();

    const message = 'https://fn.example/[redacted] took too long';
    expect(recorded).toMatchObject([
      { name: 'job call', parent: undefined, attributes: { 'job.id': '1' }, ended: 1, exceptions: [] },
      {
        name: 'execute',
        parent: '0000000000000001',
        attributes: { cold_start: true },
        ended: 1,
        exceptions: [{ name: 'RunnerError', code: 'EXECUTOR_TIMEOUT', message }],
        status: { code: api.SpanStatusCode.ERROR, message },
      },
      { name: 'transaction', parent: '0000000000000002', ended: 0, exceptions: [{ name: 'Error', message: 'plain text' }] },
    ]);
    expect(new Set(recorded.map(({ traceId }) => traceId)).size).toBe(1);
  });
});
