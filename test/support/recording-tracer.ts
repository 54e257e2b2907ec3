/** A tracer provider that keeps what was recorded; the interfaces are OpenTelemetry's, the rules those of its specification. */

import { AsyncLocalStorage } from 'node:async_hooks';
import * as api from '@opentelemetry/api';

export interface RecordedSpan {
  readonly name: string;
  readonly kind: api.SpanKind;
  readonly traceId: string;
  readonly spanId: string;
  readonly traceState: api.TraceState | undefined;
  readonly parentId: string | undefined;
  readonly startTime: api.TimeInput | undefined;
  readonly attributes: Record<string, unknown>;
  readonly events: { readonly name: string; readonly attributes: unknown }[];
  readonly exceptions: unknown[];
  status?: api.SpanStatus;
  /** How often it was ended. */
  ended: number;
}

/** Registers itself; `spans` is everything that was started since, in this order. */
export function recordSpans(): RecordedSpan[] {
  const spans: RecordedSpan[] = [];
  const tracer: api.Tracer = {
    startSpan: (name, options = {}, within = api.context.active()) => startSpan(spans, { name, options, within }),
    startActiveSpan() {
      throw new Error('not used');
    },
  };
  api.trace.setGlobalTracerProvider({ getTracer: () => tracer });
  api.context.setGlobalContextManager(new StoredContext());
  return spans;
}

export function stopRecordingSpans(): void {
  api.trace.disable();
  api.context.disable();
}

function startSpan(
  spans: RecordedSpan[],
  { name, options, within }: { readonly name: string; readonly options: api.SpanOptions; readonly within: api.Context },
): api.Span {
  const parent = api.trace.getSpanContext(within);
  const hasParent = parent !== undefined && api.isSpanContextValid(parent);
  const spanId = (spans.length + 1).toString(16).padStart(16, '0');
  const traceId = hasParent ? parent.traceId : `ee${spanId.slice(2)}${spanId}`;
  const spanContext = { traceId, spanId, traceFlags: 1, ...(hasParent && parent.traceState && { traceState: parent.traceState }) };
  const recorded: RecordedSpan = {
    name,
    kind: options.kind ?? api.SpanKind.INTERNAL,
    traceId,
    spanId,
    traceState: spanContext.traceState,
    parentId: hasParent ? parent.spanId : undefined,
    startTime: options.startTime,
    attributes: { ...options.attributes },
    events: [],
    exceptions: [],
    ended: 0,
  };
  spans.push(recorded);
  const span: api.Span = {
    spanContext: () => spanContext,
    setAttribute: (key, value) => ((recorded.attributes[key] = value), span),
    setAttributes: (attributes) => (Object.assign(recorded.attributes, attributes), span),
    addEvent: (event, attributes) => (recorded.events.push({ name: event, attributes }), span),
    addLink: () => span,
    addLinks: () => span,
    setStatus: (status) => ((recorded.status = status), span),
    updateName: () => span,
    end: () => void recorded.ended++,
    isRecording: () => recorded.ended === 0,
    recordException: (exception) => void recorded.exceptions.push(exception),
  };
  return span;
}

class StoredContext implements api.ContextManager {
  readonly #storage = new AsyncLocalStorage<api.Context>();

  active(): api.Context {
    return this.#storage.getStore() ?? api.ROOT_CONTEXT;
  }

  with<A extends unknown[], F extends (...args: A) => ReturnType<F>>(
    context: api.Context,
    work: F,
    thisArg?: ThisParameterType<F>,
    ...args: A
  ): ReturnType<F> {
    return this.#storage.run(context, () => work.apply(thisArg, args));
  }

  bind<T>(_context: api.Context, target: T): T {
    return target;
  }

  enable(): this {
    return this;
  }

  disable(): this {
    this.#storage.disable();
    return this;
  }
}
