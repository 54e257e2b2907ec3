/** One attempt of a queued call, and what follows from what it came to. */

import { toRunnerError } from '../../errors.ts';
import type { RunnerError } from '../../errors.ts';
import type { AsyncConfig, FunctionRecord } from '../../runtime/store-records.ts';
import type { Resolved } from '../../runtime/store.ts';
import type { Destinations } from './destinations.ts';
import { functionArn } from './names.ts';
import type { LambdaParts } from './operation.ts';
import { functionFailure } from './outcome.ts';
import type { FunctionFailure } from './outcome.ts';

/** A call of a function, or with `target` a record that is to be told. */
export interface QueuedCall {
  /** The request id of the call. */
  readonly id: string;
  /** The function, or what stands in for it in the shares of the queue. */
  readonly name: string;
  readonly qualifier?: string;
  readonly target?: string;
  readonly event: Uint8Array;
  /** How many destinations led here. */
  readonly depth: number;
  readonly clientContext?: string;
  readonly traceId?: string;
}

export interface Task extends QueuedCall {
  readonly seq: number;
  /** With this one. */
  readonly attempts: number;
  /** Times that it was throttled, or could not be told. */
  readonly delays: number;
  readonly createdAt: number;
}

export type Ending =
  /** It is over; these calls follow. */
  | { readonly kind: 'done'; readonly outcome: string; readonly tell: readonly QueuedCall[] }
  | { readonly kind: 'again'; readonly afterMs: number }
  /** Not an attempt: it did not run. Until it is older than `ageMaxMs`; then what `expired` says. */
  | { readonly kind: 'delayed'; readonly ageMaxMs: number; readonly expired?: () => readonly QueuedCall[] }
  /** Not an attempt: the process ends. */
  | { readonly kind: 'kept' }
  /** An attempt that somebody ended in the middle: when it was the end of the process, the next one runs the call again. */
  | { readonly kind: 'stopped'; readonly otherwise: Ending };

type Condition = 'Success' | 'RetriesExhausted' | 'EventAgeExceeded' | 'ZeroReservedConcurrency';

const MINUTE_MS = 60_000;
const RETRIES_MAX = 2;
const AGE_MAX_SECONDS = 21_600;

export async function runQueued(task: Task, parts: LambdaParts & { readonly destinations: Destinations }): Promise<Ending> {
  const { store, runtimeOf, telemetry } = parts;
  let resolved: Resolved;
  let config: AsyncConfig;
  try {
    resolved = store.resolve(task.name, task.qualifier);
    config = store.attachments.async(task)?.value ?? {};
  } catch (thrown) {
    const { code, message } = toRunnerError(thrown);
    telemetry.log.warn('a queued call is given up: its function is gone', {
      requestId: task.id,
      function: task.name,
      code,
      reason: message,
    });
    return { kind: 'done', outcome: 'gone', tell: [] };
  }
  const followed = new Following(task, resolved, { config, ...parts });
  if (resolved.reserved === 0) return { kind: 'done', outcome: 'failed', tell: followed.failed('ZeroReservedConcurrency') };
  if (followed.isTooOld(parts.clock.now())) return { kind: 'done', outcome: 'expired', tell: followed.failed('EventAgeExceeded') };
  if (followed.isOverdrawn) return { kind: 'done', outcome: 'failed', tell: followed.failed('RetriesExhausted') };
  try {
    const { body } = await runtimeOf(resolved.record).invoke(resolved.fn, task.event, {
      requestId: task.id,
      functionArn: functionArn(parts.place, task.name, task.qualifier),
      ...(resolved.reserved !== undefined && { concurrencyMax: resolved.reserved }),
      ...(task.clientContext !== undefined && { clientContext: task.clientContext }),
      ...(task.traceId !== undefined && { traceId: task.traceId }),
    });
    return { kind: 'done', outcome: 'succeeded', tell: followed.succeeded(body) };
  } catch (thrown) {
    return followed.after(toRunnerError(thrown));
  }
}

/** What a call leads to, by the rules of its function. */
class Following {
  readonly #task: Task;
  readonly #resolved: Resolved;
  readonly #parts: LambdaParts & { readonly config: AsyncConfig; readonly destinations: Destinations };

  constructor(task: Task, resolved: Resolved, parts: LambdaParts & { readonly config: AsyncConfig; readonly destinations: Destinations }) {
    this.#task = task;
    this.#resolved = resolved;
    this.#parts = parts;
  }

  get #ageMaxMs(): number {
    return (this.#parts.config.ageMaxSeconds ?? AGE_MAX_SECONDS) * 1_000;
  }

  isTooOld(now: number): boolean {
    return now - this.#task.createdAt > this.#ageMaxMs;
  }

  get #attemptsMax(): number {
    return (this.#parts.config.retriesMax ?? RETRIES_MAX) + 1;
  }

  /** A process that was killed in the last attempt gets one more, but one that is killed by each gets no end of them. */
  get isOverdrawn(): boolean {
    return this.#task.attempts > this.#attemptsMax + 1;
  }

  after(error: RunnerError): Ending {
    if (error.code === 'EXECUTOR_CLOSED') return { kind: 'kept' };
    const failure = functionFailure(error, this.#task.id, this.#resolved.record);
    if (failure) return this.#counted(failure);
    if (error.code === 'ABORTED' && error.retry !== 'safe') return { kind: 'stopped', otherwise: this.#counted() };
    return { kind: 'delayed', ageMaxMs: this.#ageMaxMs, expired: () => this.failed('EventAgeExceeded') };
  }

  #counted(failure?: FunctionFailure): Ending {
    const { attempts } = this.#task;
    const waitMs = attempts * MINUTE_MS;
    if (attempts >= this.#attemptsMax) return { kind: 'done', outcome: 'failed', tell: this.failed('RetriesExhausted', failure) };
    if (this.isTooOld(this.#parts.clock.now() + waitMs))
      return { kind: 'done', outcome: 'expired', tell: this.failed('EventAgeExceeded', failure) };
    return { kind: 'again', afterMs: waitMs };
  }

  succeeded(body: Uint8Array): readonly QueuedCall[] {
    const { onSuccess } = this.#parts.config;
    return onSuccess === undefined ? [] : this.#tell(onSuccess, 'success', this.#record('Success', { body }));
  }

  failed(condition: Condition, failure?: FunctionFailure): readonly QueuedCall[] {
    const { onFailure } = this.#parts.config;
    const deadLetters = deadLetterTarget(this.#resolved.record);
    return [
      ...(onFailure === undefined
        ? []
        : this.#tell(onFailure, 'failure', this.#record(condition, failure && { body: failure.body, failed: true }))),
      ...(deadLetters === undefined ? [] : this.#tell(deadLetters, 'dead-letter', this.#letter(condition, failure, deadLetters))),
    ];
  }

  #tell(target: string, what: string, event: Uint8Array): readonly QueuedCall[] {
    const { id, depth, traceId } = this.#task;
    const { destinations, telemetry } = this.#parts;
    try {
      const found = destinations.check(target);
      const common = { id: `${id}-${what}`, event, depth: depth + 1, ...(traceId !== undefined && { traceId }) };
      if (found.kind !== 'function') return [{ ...common, name: target, target }];
      return [{ ...common, name: found.name, ...(found.qualifier !== undefined && { qualifier: found.qualifier }) }];
    } catch (thrown) {
      telemetry.log.warn('a destination is not valid any more', { requestId: id, target, reason: toRunnerError(thrown).message });
      return [];
    }
  }

  /** https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html */
  #record(condition: Condition, response?: { readonly body: Uint8Array; readonly failed?: boolean }): Uint8Array {
    const { id, event, attempts } = this.#task;
    const { clock, place } = this.#parts;
    const { executedVersion, record } = this.#resolved;
    return toBytes({
      version: '1.0',
      timestamp: new Date(clock.now()).toISOString(),
      requestContext: {
        requestId: id,
        functionArn: functionArn(place, record.name, executedVersion),
        condition,
        approximateInvokeCount: attempts,
      },
      requestPayload: toJson(event),
      ...(response && {
        responseContext: { statusCode: 200, executedVersion, ...(response.failed && { functionError: 'Unhandled' }) },
        responsePayload: toJson(response.body),
      }),
    });
  }

  /** A function gets the event as it was; elsewhere it stands beside what happened to it. */
  #letter(condition: Condition, failure: FunctionFailure | undefined, target: string): Uint8Array {
    const { id, event } = this.#task;
    if (!/^(file|https?):/.test(target)) return event;
    return toBytes({
      MessageAttributes: {
        RequestID: id,
        ErrorCode: failure ? '200' : '429',
        ErrorMessage: (failure?.errorMessage ?? condition).slice(0, 1_024),
      },
      Body: Buffer.from(event).toString('utf8'),
    });
  }
}

function deadLetterTarget({ extra }: FunctionRecord): string | undefined {
  const config = extra['DeadLetterConfig'];
  const target = typeof config === 'object' && config !== null && 'TargetArn' in config ? config['TargetArn'] : undefined;
  return typeof target === 'string' && target !== '' ? target : undefined;
}

function toBytes(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

function toJson(bytes: Uint8Array): unknown {
  const text = Buffer.from(bytes).toString('utf8');
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}
