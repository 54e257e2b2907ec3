/** One attempt as a span, and the call as the executor gets it: with the span as its `traceparent`. */

import type { RunnerError } from '../errors.ts';
import { Metadata, TRACE } from '../job/call.ts';
import type { JobCall } from '../job/call.ts';
import { traceOfCall } from '../telemetry/call-trace.ts';
import type { Span, StartSpan, TraceContext } from '../telemetry/telemetry.ts';
import type { ExecutionReport } from './executor.ts';

export interface AttemptSpanOptions {
  readonly call: JobCall;
  readonly job: string;
  readonly executor: string;
  readonly attempt: number;
  /** Whether the executor is another process, or may be. */
  readonly isRemote: boolean;
  /** Default: the trace that follows from the call. */
  readonly parent: Span | undefined;
}

export class AttemptSpan {
  readonly call: JobCall;
  readonly #span: Span;

  constructor(startSpan: StartSpan, { call, job, executor, attempt, isRemote, parent }: AttemptSpanOptions) {
    this.#span = startSpan('job.execute', {
      parent: parent ?? traceOfCall(call),
      kind: isRemote ? 'client' : 'internal',
      attributes: {
        'blueprint.call.id': call.id,
        'blueprint.job.id': call.jobId.toString(),
        'blueprint.job.name': job,
        'blueprint.executor.name': executor,
        'blueprint.attempt': attempt,
      },
    });
    this.call = withTrace(call, this.#span.context);
  }

  run<T>(work: () => T): T {
    return this.#span.run(work);
  }

  succeeded(report: ExecutionReport | undefined): void {
    if (report?.coldStart !== undefined) this.#span.setAttribute('faas.coldstart', report.coldStart);
    if (report?.requestId !== undefined) this.#span.setAttribute('faas.invocation_id', report.requestId);
    this.#span.setAttribute('blueprint.outcome', 'OK');
    this.#span.end();
  }

  failed(error: RunnerError): void {
    this.#span.setAttribute('blueprint.outcome', error.code);
    this.#span.setAttribute('error.type', error.code);
    this.#span.recordError(error);
    this.#span.end();
  }
}

/** A copy: calls may share their metadata, and the next attempt has another span. */
function withTrace(call: JobCall, trace: TraceContext | undefined): JobCall {
  if (!trace) return call;
  const metadata = new Metadata();
  for (const [name, value] of call.metadata) metadata.set(name, value, { sensitive: call.metadata.isSensitive(name) });
  metadata.delete(TRACE.state);
  metadata.set(TRACE.parent, trace.traceparent);
  if (trace.tracestate !== undefined) metadata.set(TRACE.state, trace.tracestate);
  return { ...call, metadata };
}
