/** One call of a function: waits for an instance, runs on it, and ends in exactly one outcome. */

import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { Expiring } from '../executor/deadline.ts';
import type { Deadlines } from '../executor/deadline.ts';
import { LINE_CHARACTERS_MAX, failureText } from './instance-log.ts';
import type { LogBook } from './instance-log.ts';
import { endText } from './live-instance.ts';
import type { InstanceCall, LiveInstance } from './live-instance.ts';
import type { Pool } from './pool.ts';
import { Waiter } from './pool-group.ts';
import type { Member } from './pool-group.ts';
import type { EventHead, Flow } from './runtime-api.ts';
import type { Fault } from './runtime-fault.ts';
import type { FunctionVersion, InstanceEnd, InvocationOptions, InvocationReport } from './runtime.ts';

export interface CallLimits {
  readonly queueTimeoutMs: number;
  readonly responseBytesMax: number;
  readonly streamBytesMax: number;
}

/** What a call needs of its function runtime. */
export interface CallHost {
  readonly pool: Pool<LiveInstance>;
  readonly clock: Clock;
  readonly deadlines: Deadlines;
  readonly limits: CallLimits;
  readonly logBook: LogBook;
  /** An instance has taken the event. */
  taken(call: FunctionCall): void;
  /** An outcome was told. `instance` is undefined when the call never had one. */
  ended(call: FunctionCall, code: ErrorCode | 'OK', report: InvocationReport | undefined): void;
}

/** An instance that has not asked for work so long after it was leased is of no use. */
const POLL_MS_MAX = 5_000;
/** An instance whose connection broke usually ends at once; the end says more than the connection. */
const END_MS_MAX = 1_000;
const TOO_LARGE = 'Function.ResponseSizeTooLarge';
/** Instances that are tried before the call fails; no event had left for any of them. */
const INSTANCES_MAX = 3;

class Limit extends Expiring {
  readonly #expired: () => void;

  constructor(deadline: number, expired: () => void) {
    super(deadline);
    this.#expired = expired;
  }

  expire(): void {
    this.#expired();
  }
}

/**
 * The outcome is told once; the slot is freed once. Usually together, but a call that shares its instance and was cancelled is told so at
 * once, while its slot stays taken until its handler ends.
 */
export abstract class FunctionCall extends Waiter<LiveInstance> implements InstanceCall {
  readonly fn: FunctionVersion;
  readonly requestId: string;
  readonly event: Uint8Array;
  isAnswering = false;
  wasTaken = false;
  protected contentType = '';
  protected readonly host: CallHost;
  readonly #options: InvocationOptions;
  /** The same moment, monotonic and on the wall clock. */
  readonly #arrivedAt: number;
  readonly #arrivedOn: number;
  #takenAt = 0;
  #member: Member<LiveInstance> | undefined;
  #limit: Limit | undefined;
  #mark = 0;
  #isCold = false;
  #tries = 0;
  #isTold = false;
  #isFreed = false;
  #isKilling = false;
  #hasAnswer = false;

  constructor(
    host: CallHost,
    fn: FunctionVersion,
    input: { readonly requestId: string; readonly event: Uint8Array; readonly options: InvocationOptions },
  ) {
    const now = host.clock.now();
    super(Math.min(now + host.limits.queueTimeoutMs, input.options.deadline ?? Infinity));
    this.#arrivedOn = now;
    this.host = host;
    this.fn = fn;
    this.requestId = input.requestId;
    this.event = input.event;
    this.#options = input.options;
    this.#arrivedAt = host.clock.monotonic();
  }

  get instanceId(): string | undefined {
    return this.#member?.instance.id;
  }

  /** Somebody was told how it ended. */
  get isOver(): boolean {
    return this.#isTold;
  }

  begin(): void {
    this.#options.signal?.addEventListener('abort', this.#cancelled, { once: true });
    this.host.pool.acquire(this.fn, this);
  }

  leased(member: Member<LiveInstance>): void {
    if (this.#isTold) return this.host.pool.release(member);
    const { instance } = member;
    this.#member = member;
    this.#isCold = member.leases === 1;
    this.#mark = instance.log.mark;
    if (instance.api.has(this.requestId)) {
      const message = `request ${this.requestId} runs already`;
      return this.#fail(new RunnerError('STATE_INVALID', message, { retry: 'safe' }));
    }
    instance.run(this);
    if (!this.wasTaken && this.#member === member) this.#limitTo(this.host.clock.now() + POLL_MS_MAX, () => this.#notTaken());
    return undefined;
  }

  refused(error: RunnerError): void {
    this.#tell(error);
  }

  protected waitedTooLong(): void {
    const { clock, limits } = this.host;
    const waitedMs = Math.round(clock.monotonic() - this.#arrivedAt);
    const cause = this.#options.deadline === this.deadline ? 'its deadline passed' : `queueTimeoutMs is ${limits.queueTimeoutMs}`;
    const message = `request ${this.requestId} of ${this.fn.name} waited ${waitedMs} ms for an instance; ${cause}`;
    this.#tell(new RunnerError('QUEUE_TIMEOUT', message, { details: { requestId: this.requestId, waitedMs } }));
  }

  taken(): EventHead {
    const { clock } = this.host;
    const { contentType = 'application/json', deadline: callerDeadline = Infinity, functionArn, traceId, clientContext } = this.#options;
    this.wasTaken = true;
    this.#takenAt = clock.monotonic();
    const takenOn = this.#arrivedOn + this.#takenAt - this.#arrivedAt;
    const deadline = Math.min(takenOn + this.fn.timeoutMs, callerDeadline);
    this.#limitTo(deadline, this.#timedOut);
    this.host.taken(this);
    return {
      contentType,
      deadline: Math.floor(deadline),
      functionArn: functionArn ?? `arn:aws:lambda:us-east-1:000000000000:function:${this.fn.name}`,
      traceId,
      clientContext,
    };
  }

  answering(answer: { readonly contentType: string; readonly streamed: boolean; readonly flow: Flow }): number {
    this.isAnswering = true;
    this.contentType = answer.contentType;
    if (this.#isTold) return Number.POSITIVE_INFINITY;
    return this.accept(answer.streamed, answer.flow);
  }

  chunk(data: Buffer): void {
    if (!this.#isTold) this.received(data);
  }

  answered(fault: Fault | undefined): void {
    if (fault) return this.failed(fault);
    if (this.#isKilling) return undefined;
    this.#hasAnswer = true;
    if (this.#limit) this.host.deadlines.remove(this.#limit);
    if (!this.#options.awaitLog) return this.#succeed(undefined);
    // What was written before the answer may come behind it, through another pipe.
    setImmediate(() => {
      const memory = this.#member?.instance.memoryBytes() ?? Promise.resolve(undefined);
      void memory.catch(() => undefined).then((bytes) => this.#succeed(bytes));
    });
    return undefined;
  }

  failed({ errorType, errorMessage, stackTrace, body }: Fault): void {
    const message = `${this.fn.name} failed: ${errorType}${errorMessage === '' ? '' : `: ${errorMessage}`}`;
    const details = { requestId: this.requestId, errorType, errorMessage, stackTrace, body };
    // The client has a limit of its own, and keeps what is larger from being sent.
    if (errorType === TOO_LARGE)
      this.#fail(
        new RunnerError('PAYLOAD_TOO_LARGE', message, { details: { ...details, limit: this.host.limits.responseBytesMax, status: 502 } }),
      );
    else this.#fail(new RunnerError('FUNCTION_FAILED', message, { details }));
  }

  tooLarge(bytesMax: number): void {
    const message = `the response of ${this.fn.name} has more than ${bytesMax} bytes`;
    // The status: it is the function that is at fault, not the request.
    const details = { requestId: this.requestId, limit: bytesMax, errorType: TOO_LARGE, status: 502 };
    this.#fail(new RunnerError('PAYLOAD_TOO_LARGE', message, { details }));
  }

  truncated(): void {
    if (this.#isKilling) return;
    const message = `the connection to instance ${this.instanceId} broke in the middle of the response of ${this.fn.name}`;
    const error = new RunnerError('EXECUTOR_CONNECTION_LOST', message, { details: { requestId: this.requestId } });
    this.#limitTo(this.host.clock.now() + END_MS_MAX, () => this.#kill(error));
  }

  violated(reason: string): void {
    const message = `instance ${this.instanceId} of ${this.fn.name} broke the protocol of its runtime client: ${reason}`;
    this.#kill(new RunnerError('EXECUTOR_RESPONSE_INVALID', message, { details: { requestId: this.requestId } }));
  }

  instanceEnded(end: InstanceEnd): void {
    if (this.#isKilling || this.#hasAnswer) return;
    if (!this.wasTaken) {
      this.#free();
      this.#again();
      return;
    }
    this.#fail(this.#endError(end));
  }

  /** An answer begins: the most bytes that it may have. */
  protected abstract accept(streamed: boolean, flow: Flow): number;
  protected abstract received(data: Buffer): void;
  protected abstract succeeded(report: InvocationReport, logTail: Uint8Array): void;
  protected abstract rejected(error: RunnerError): void;

  /** The caller has lost interest. */
  protected cancel(cause: unknown): void {
    if (this.#isTold || this.#isKilling) return;
    const didNotRun = this.host.pool.cancel(this) || !this.#member || (!this.wasTaken && this.#member.instance.api.withdraw(this));
    const message = `request ${this.requestId} of ${this.fn.name} was cancelled`;
    if (didNotRun) return this.#fail(new RunnerError('ABORTED', `${message} before it started`, { cause, retry: 'safe' }));
    const error = new RunnerError('ABORTED', message, { cause });
    if (this.#isAlone) this.#kill(error);
    else this.#tell(error);
    return undefined;
  }

  get #isAlone(): boolean {
    return (this.#member?.busy ?? 0) <= 1;
  }

  readonly #cancelled = (): void => this.cancel(this.#options.signal?.reason);

  readonly #timedOut = (): void => {
    const ranMs = Math.round(this.host.clock.monotonic() - this.#takenAt);
    const message = `request ${this.requestId} of ${this.fn.name} timed out after ${ranMs} ms`;
    const details = { requestId: this.requestId, ranMs, timeoutMs: this.fn.timeoutMs };
    this.#kill(new RunnerError('EXECUTOR_TIMEOUT', message, { details }));
  };

  /** Ends the instance, then tells. One that others use takes no more calls and ends after them. */
  #kill(error: RunnerError): void {
    const member = this.#member;
    if (this.#isKilling || !member) return;
    if (!this.#isAlone) {
      this.host.pool.drain(member);
      this.#fail(error);
      return;
    }
    this.#isKilling = true;
    void this.host.pool.discard(member, 'stopped').then(() => this.#fail(error));
  }

  #notTaken(): void {
    const member = this.#member;
    if (!member?.instance.api.withdraw(this)) return;
    this.host.pool.drain(member);
    this.#free();
    this.#again();
  }

  /** On another instance: the event never left for this one. */
  #again(): void {
    this.#tries += 1;
    if (this.#isTold) return;
    if (this.#tries >= INSTANCES_MAX) {
      const message = `${this.#tries} instances of ${this.fn.name} were lost before they took request ${this.requestId}`;
      this.#tell(new RunnerError('EXECUTOR_CONNECTION_LOST', message, { retry: 'safe' }));
      return;
    }
    this.#isFreed = false;
    this.#member = undefined;
    this.host.pool.acquire(this.fn, this, true);
  }

  #endError(end: InstanceEnd): RunnerError {
    const details = { requestId: this.requestId, instanceId: this.instanceId, errorType: 'Runtime.ExitError', ...end };
    switch (end.reason) {
      case 'out-of-memory':
        return new RunnerError('FUNCTION_OUT_OF_MEMORY', `${this.fn.name} used more than its ${this.fn.memoryMb} MB`, { details });
      case 'terminated':
        return new RunnerError('ABORTED', `instance ${this.instanceId} was stopped while it ran request ${this.requestId}`, { details });
      case 'exited':
      case 'signalled': {
        const output = this.#member?.instance.log.lastLines ?? '';
        return new RunnerError('FUNCTION_CRASHED', `${this.fn.name} ended in the middle of a call: ${endText(end)}\n${output}`.trimEnd(), {
          details,
        });
      }
    }
  }

  #succeed(memoryBytes: number | undefined): void {
    const { instance } = this.#member ?? {};
    if (!instance || this.#isFreed) return;
    const report = this.#report(instance, memoryBytes);
    const tail = instance.log.since(this.#mark);
    this.#free();
    if (this.#isTold) return;
    this.#isTold = true;
    this.#options.signal?.removeEventListener('abort', this.#cancelled);
    this.host.ended(this, 'OK', report);
    this.succeeded(report, tail);
  }

  #report(instance: LiveInstance, memoryBytes: number | undefined): InvocationReport {
    const now = this.host.clock.monotonic();
    const { requestId } = this;
    const queueMs = this.#takenAt - this.#arrivedAt;
    const report = { requestId, instanceId: instance.id, coldStart: this.#isCold, queueMs, runMs: now - this.#takenAt };
    if (!this.#isCold && memoryBytes === undefined) return report;
    return {
      ...report,
      ...(this.#isCold && { createMs: instance.createMs, bootMs: instance.bootMs, initMs: instance.initMs }),
      ...(memoryBytes !== undefined && { memoryUsedMb: Math.ceil(memoryBytes / 1024 / 1024) }),
    };
  }

  #fail(error: RunnerError): void {
    this.#free();
    this.#tell(error);
  }

  #tell(error: RunnerError): void {
    if (this.#isTold) return;
    this.#isTold = true;
    this.#options.signal?.removeEventListener('abort', this.#cancelled);
    const instance = this.wasTaken ? this.#member?.instance : undefined;
    this.#log(error);
    this.host.ended(this, error.code, instance && this.#report(instance, undefined));
    this.rejected(error);
  }

  /** Behind what the function wrote itself, or it would seem that nothing had happened. */
  #log(error: RunnerError): void {
    const { fn, requestId, host } = this;
    const at = host.clock.now();
    const text = failureText(error, { at, requestId })?.slice(0, LINE_CHARACTERS_MAX);
    if (text === undefined) return;
    // Of an instance that never took a call, only the error knows.
    const { instanceId: failed } = error.details;
    const instanceId = this.instanceId ?? (typeof failed === 'string' ? failed : '');
    host.logBook.write({ at, name: fn.name, version: fn.version, instanceId, stream: 'stderr', requestId, level: 'error', text });
  }

  #free(): void {
    const member = this.#member;
    if (!member || this.#isFreed) return;
    this.#isFreed = true;
    if (this.#limit) this.host.deadlines.remove(this.#limit);
    member.instance.forget(this);
    this.host.pool.release(member);
  }

  #limitTo(deadline: number, expired: () => void): void {
    if (this.#limit) this.host.deadlines.remove(this.#limit);
    this.#limit = new Limit(deadline, expired);
    this.host.deadlines.add(this.#limit);
  }
}
