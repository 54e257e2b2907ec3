/** From a request to the options of an invocation, and from what came back to a reply: the same for every API that invokes. */

import { RunnerError, toRunnerError } from '../errors.ts';
import { LIMITS } from '../executor/limits.ts';
import type { CancelSignal, Invocation, InvocationOptions, InvocationReport, StreamedInvocation } from '../runtime/runtime.ts';
import type { FunctionRecord } from '../runtime/store-records.ts';
import type { ReportDocument } from './api.ts';
import { errorDocument } from './http.ts';
import type { GatewayRequest, Reply } from './http.ts';

const TRACE_PARENT = /^00-([0-9a-f]{8})([0-9a-f]{24})-([0-9a-f]{16})-([0-9a-f]{2})$/;

/** W3C Trace Context as the header that Lambda gives to functions. */
function traceIdOf(headers: GatewayRequest['headers']): string | undefined {
  const own = headers['x-amzn-trace-id'];
  if (own !== undefined && own.length <= 256) return own;
  const given = headers['traceparent'];
  const [, time, rest, parent, flags] = (given === undefined ? null : TRACE_PARENT.exec(given)) ?? [];
  if (time === undefined) return undefined;
  return `Root=1-${time}-${rest};Parent=${parent};Sampled=${Number.parseInt(flags ?? '0', 16) & 1}`;
}

/** `x-timeout-ms` may shorten the timeout of the function. Throws `REQUEST_INVALID`. */
export function optionsOf(
  request: Pick<GatewayRequest, 'headers' | 'id'> & { readonly signal: CancelSignal | undefined },
  now: number,
): InvocationOptions & { readonly requestId: string } {
  const { headers, id, signal } = request;
  const timeout = headers['x-timeout-ms'];
  if (timeout !== undefined && !/^[1-9]\d{0,9}$/.test(timeout))
    throw new RunnerError('REQUEST_INVALID', 'x-timeout-ms is not a number of milliseconds');
  return {
    requestId: id,
    signal,
    traceId: traceIdOf(headers),
    contentType: headers['content-type'],
    deadline: timeout === undefined ? undefined : now + Number(timeout),
  };
}

/** `Event`: a call that is queued. Throws `PAYLOAD_TOO_LARGE` by the limits of the function's provider. */
export function checkEvent(size: number, { profile }: FunctionRecord, type: 'RequestResponse' | 'Event' = 'RequestResponse'): void {
  const { requestBytesMax, asyncBytesMax } = LIMITS[profile];
  const limit = type === 'Event' ? asyncBytesMax : requestBytesMax;
  if (size <= limit) return;
  const message = `${size} byte payload is too large for the ${type} invocation type (limit ${limit} bytes)`;
  throw new RunnerError('PAYLOAD_TOO_LARGE', message, { details: { size, limit } });
}

export function reportDocument(report: InvocationReport): ReportDocument {
  const { createMs, bootMs, initMs, memoryUsedMb } = report;
  return {
    request_id: report.requestId,
    instance_id: report.instanceId,
    cold_start: report.coldStart,
    queue_ms: round(report.queueMs),
    ...(createMs !== undefined && { create_ms: round(createMs) }),
    ...(bootMs !== undefined && { boot_ms: round(bootMs) }),
    ...(initMs !== undefined && { init_ms: round(initMs) }),
    run_ms: round(report.runMs),
    ...(memoryUsedMb !== undefined && { memory_used_mb: memoryUsedMb }),
  };
}

const round = (ms: number): number => Math.round(ms * 1_000) / 1_000;

/** Milliseconds with three digits: whole numbers become text ten times faster than others. */
function shownMs(ms: number): string {
  const microseconds = Math.max(0, Math.round(ms * 1_000));
  const rest = microseconds % 1_000;
  return `${(microseconds - rest) / 1_000}.${rest < 10 ? '00' : rest < 100 ? '0' : ''}${rest}`;
}

/** The body as the function gave it; the report in headers. */
export function invocationReply(
  { body, contentType, report, logTail }: Invocation,
  options: { readonly executedVersion: string; readonly tail: boolean },
): Reply {
  const headers: Record<string, string> = {
    'content-type': contentType,
    'x-invocation-id': report.requestId,
    'x-instance-id': report.instanceId,
    'x-cold-start': report.coldStart ? 'true' : 'false',
    'x-queue-ms': shownMs(report.queueMs),
    'x-run-ms': shownMs(report.runMs),
    'x-executed-version': options.executedVersion,
  };
  if (options.tail) headers['x-log-result'] = Buffer.from(logTail).toString('base64');
  return { status: 200, headers, body };
}

/** Events of server-sent form: `chunk` with base64, then `end` with the report, or `error`. */
export async function* sseOf({ chunks, done, requestId }: StreamedInvocation): AsyncGenerator<Uint8Array> {
  let count = 0;
  try {
    for await (const chunk of chunks) {
      count += 1;
      yield sse('chunk', Buffer.from(chunk).toString('base64'), String(count));
    }
    yield sse('end', JSON.stringify(reportDocument((await done).report)), String(count + 1));
  } catch (thrown) {
    yield sse('error', JSON.stringify(errorDocument(toRunnerError(thrown), requestId)), String(count + 1));
  }
}

/** `data` holds no line break. */
export function sse(event: string, data: string, id?: string): Uint8Array {
  return Buffer.from(`${id === undefined ? '' : `id: ${id}\n`}event: ${event}\ndata: ${data}\n\n`);
}
