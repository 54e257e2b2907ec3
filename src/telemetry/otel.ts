/** Spans through OpenTelemetry, when the operator has installed and started it. */

import type * as OpenTelemetry from '@opentelemetry/api';
import { redactText } from './redact.ts';
import type { Span, SpanOptions, Telemetry } from './telemetry.ts';

/**
 * The `startSpan` of `Telemetry`. Undefined when the optional package `@opentelemetry/api` is not installed, or when no tracer
 * provider was registered before (`node --import ./tracing.mjs`): then nothing is spent on spans.
 *
 * @example
 * const telemetry = { log, metrics, startSpan: await createStartSpan() };
 * const event = telemetry.startSpan?.('job call', { attributes: { 'job.id': '1' } });
 * const execution = telemetry.startSpan?.('execute', event && { parent: event });
 */
export async function createStartSpan(load: () => Promise<object> = () => import('@opentelemetry/api')): Promise<Telemetry['startSpan']> {
  const loaded = await load().catch((error: unknown) => {
    if (isMissing(error)) return undefined;
    throw error;
  });
  if (loaded === undefined) return undefined;
  // The signature does not name the types of an optional package: who has not installed it could not compile.
  const { trace, context, ROOT_CONTEXT, SpanStatusCode, ProxyTracerProvider } = loaded as typeof OpenTelemetry;
  const provider = trace.getTracerProvider();
  if (provider instanceof ProxyTracerProvider && provider.getDelegateTracer('blueprint-runner') === undefined) return undefined;
  const tracer = trace.getTracer('blueprint-runner');
  const spans = new WeakMap<Span, OpenTelemetry.Span>();

  return (name: string, options: SpanOptions = {}): Span => {
    const parent = options.parent && spans.get(options.parent);
    const within = parent ? trace.setSpan(ROOT_CONTEXT, parent) : context.active();
    const span = tracer.startSpan(name, options.attributes ? { attributes: options.attributes } : {}, within);
    const wrapped: Span = {
      setAttribute(key, value) {
        span.setAttribute(key, value);
      },
      recordError(error) {
        const { name: errorName, message } = error instanceof Error ? error : { name: 'Error', message: String(error) };
        const shown = redactText(message);
        const code = typeof error === 'object' && error !== null && 'code' in error ? { code: String(error.code) } : {};
        span.recordException({ name: errorName, message: shown, ...code });
        span.setStatus({ code: SpanStatusCode.ERROR, message: shown });
      },
      end() {
        span.end();
      },
    };
    spans.set(wrapped, span);
    return wrapped;
  };
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND' && error.message.includes('@opentelemetry/api');
}
