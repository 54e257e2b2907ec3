/** Spans through OpenTelemetry, when the operator has installed and started it. */

import type * as OpenTelemetry from '@opentelemetry/api';
import { redactText } from './redact.ts';
import type { Span, SpanOptions, Telemetry, TraceContext } from './telemetry.ts';

type Api = typeof OpenTelemetry;

/**
 * The `startSpan` of `Telemetry`. Undefined when the optional package `@opentelemetry/api` is not installed, or when no tracer
 * provider was registered before (`node --import ./tracing.mjs`): then nothing is spent on spans.
 *
 * The ids of traces follow from the calls, and their parents say that they are sampled: to sample, choose a sampler that decides by
 * the id of the trace (`OTEL_TRACES_SAMPLER=traceidratio`). All processes then keep the same calls.
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
  const api = loaded as Api;
  const { trace, context, ROOT_CONTEXT, SpanKind, ProxyTracerProvider } = api;
  const provider = trace.getTracerProvider();
  if (provider instanceof ProxyTracerProvider && provider.getDelegateTracer('blueprint-runner') === undefined) return undefined;
  const tracer = trace.getTracer('blueprint-runner');
  const kinds = { internal: SpanKind.INTERNAL, client: SpanKind.CLIENT, consumer: SpanKind.CONSUMER };

  return (name: string, { parent, attributes, kind = 'internal', startedAt }: SpanOptions = {}): Span => {
    const parentContext =
      parent instanceof OtelSpan ? parent.spanContext : parent && 'traceparent' in parent ? parse(api, parent) : undefined;
    const within = parentContext ? trace.setSpanContext(ROOT_CONTEXT, parentContext) : context.active();
    const options = { kind: kinds[kind], ...(attributes && { attributes }), ...(startedAt !== undefined && { startTime: startedAt }) };
    return new OtelSpan(api, tracer.startSpan(name, options, within));
  };
}

class OtelSpan implements Span {
  readonly #api: Api;
  readonly #span: OpenTelemetry.Span;

  constructor(api: Api, span: OpenTelemetry.Span) {
    this.#api = api;
    this.#span = span;
  }

  get spanContext(): OpenTelemetry.SpanContext {
    return this.#span.spanContext();
  }

  get context(): TraceContext | undefined {
    const { traceId, spanId, traceFlags, traceState } = this.spanContext;
    if (!this.#api.isSpanContextValid(this.spanContext)) return undefined;
    const state = traceState?.serialize();
    const traceparent = `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, '0')}`;
    return state ? { traceparent, tracestate: state } : { traceparent };
  }

  setAttribute(name: string, value: string | number | boolean): void {
    this.#span.setAttribute(name, value);
  }

  addEvent(name: string, attributes?: SpanOptions['attributes']): void {
    this.#span.addEvent(name, attributes);
  }

  recordError(error: unknown): void {
    const { name, message } = error instanceof Error ? error : { name: 'Error', message: String(error) };
    const shown = redactText(message);
    const code = typeof error === 'object' && error !== null && 'code' in error ? { code: String(error.code) } : {};
    this.#span.recordException({ name, message: shown, ...code });
    this.#span.setStatus({ code: this.#api.SpanStatusCode.ERROR, message: shown });
  }

  run<T>(work: () => T): T {
    const { context, trace } = this.#api;
    return context.with(trace.setSpan(context.active(), this.#span), work);
  }

  end(): void {
    this.#span.end();
  }
}

/** Undefined when it is not as W3C Trace Context says. */
function parse(api: Api, { traceparent, tracestate }: TraceContext): OpenTelemetry.SpanContext | undefined {
  const [, version, traceId, spanId, flags] = TRACEPARENT.exec(traceparent) ?? [];
  if (traceId === undefined || spanId === undefined || flags === undefined || version === 'ff') return undefined;
  const spanContext = {
    traceId,
    spanId,
    traceFlags: Number.parseInt(flags, 16),
    isRemote: true,
    ...(tracestate !== undefined && { traceState: new ReceivedState(tracestate.split(',')) }),
  };
  return api.isSpanContextValid(spanContext) ? spanContext : undefined;
}

/** What other tracers on the way have left; kept as it came. */
class ReceivedState implements OpenTelemetry.TraceState {
  /** `key=value`, the latest first. */
  readonly #members: readonly string[];

  constructor(members: readonly string[]) {
    this.#members = members.map((member) => member.trim()).filter((member) => member.includes('='));
  }

  get(key: string): string | undefined {
    return this.#members.find((member) => member.startsWith(`${key}=`))?.slice(key.length + 1);
  }

  set(key: string, value: string): ReceivedState {
    return new ReceivedState([`${key}=${value}`, ...this.unset(key).#members]);
  }

  unset(key: string): ReceivedState {
    return new ReceivedState(this.#members.filter((member) => !member.startsWith(`${key}=`)));
  }

  serialize(): string {
    return this.#members.join(',');
  }
}

/** Later versions may add fields. */
const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?$/;

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND' && error.message.includes('@opentelemetry/api');
}
