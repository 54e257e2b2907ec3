import type { Clock } from '../clock.ts';
import type { RunnerError } from '../errors.ts';
import { TRACE } from '../job/call.ts';
import type { ClaimedJob } from '../queue/queue.ts';
import type { Span, SpanOptions, StartSpan } from '../telemetry/telemetry.ts';

/** `fetch`: payload and package are got; `execute`: the job's code runs; `report`: the queue is told what became of it. */
type JobPhase = 'fetch' | 'execute' | 'report';

interface JobTraceParts {
  readonly startSpan?: StartSpan | undefined;
  readonly clock: Clock;
  readonly claimingSince: number;
}

/**
 * The spans of one job at a worker, in the trace of who published it: `worker.job`, and under it `worker.claim`, from when the worker asked for
 * it, or it was published, and one for each phase. Costs nothing when nobody traces.
 */
export class JobTrace {
  readonly #startSpan: StartSpan | undefined;
  #job: Span | undefined;
  #phase: Span | undefined;

  constructor(job: ClaimedJob, { startSpan, clock, claimingSince }: JobTraceParts) {
    this.#startSpan = startSpan;
    if (!startSpan) return;
    // Who waited before it was published did not wait for it. The clock of the queue may be ahead.
    const startedAt = Math.min(clock.now(), Math.max(claimingSince, job.publishedAt));
    this.#job = startSpan('worker.job', { kind: 'consumer', startedAt, ...parentOf(job), attributes: attributesOf(job) });
    startSpan('worker.claim', { parent: this.#job, startedAt }).end();
  }

  /** The one before it has ended. */
  begin(phase: JobPhase): void {
    this.#phase?.end();
    this.#phase = this.#job && this.#startSpan?.(`worker.${phase}`, { parent: this.#job });
  }

  failed(error: RunnerError): void {
    tell(this.#phase, error);
  }

  end(outcome: string, error?: RunnerError): void {
    this.#phase?.end();
    this.#job?.setAttribute('blueprint.outcome', outcome);
    if (error) tell(this.#job, error);
    this.#job?.end();
  }
}

function tell(span: Span | undefined, error: RunnerError): void {
  span?.setAttribute('error.type', error.code);
  span?.recordError(error);
}

function parentOf({ headers }: ClaimedJob): Pick<SpanOptions, 'parent'> {
  const { [TRACE.parent]: traceparent, [TRACE.state]: tracestate } = headers;
  return traceparent === undefined ? {} : { parent: { traceparent, ...(tracestate !== undefined && { tracestate }) } };
}

function attributesOf({ id, type, attempt, headers }: ClaimedJob): NonNullable<SpanOptions['attributes']> {
  const { function: name } = headers;
  return {
    'blueprint.job.id': id,
    'blueprint.job.type': type,
    'blueprint.attempt': attempt,
    ...(name !== undefined && { 'faas.name': name }),
  };
}
