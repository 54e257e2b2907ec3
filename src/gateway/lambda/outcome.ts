/** What a call came to, as the service tells it: a body, and whether the function failed. */

import type { RunnerError } from '../../errors.ts';
import { exitText } from '../../runtime/instance-log.ts';
import type { InvocationReport } from '../../runtime/runtime.ts';
import type { FunctionRecord } from '../../runtime/store-records.ts';

/** A function that failed: the call itself succeeded, with status 200 and `X-Amz-Function-Error`. */
export interface FunctionFailure {
  readonly errorType: string;
  readonly errorMessage: string;
  /** JSON. */
  readonly body: Uint8Array;
}

/** Undefined: the platform failed, not the function. */
export function functionFailure(error: RunnerError, requestId: string, record: FunctionRecord): FunctionFailure | undefined {
  const { code, details } = error;
  switch (code) {
    case 'FUNCTION_FAILED':
      return said(details, requestId, 'Runtime.Unknown');
    case 'FUNCTION_INIT_FAILED':
      // It ended before it could say why.
      if (details['reason'] === undefined) return said(details, requestId, 'Runtime.ExitError');
      return failure('Runtime.ExitError', `RequestId: ${requestId} Error: ${exitText(details)}`);
    case 'FUNCTION_CRASHED':
      return failure('Runtime.ExitError', `RequestId: ${requestId} Error: ${exitText(details)}`);
    case 'FUNCTION_OUT_OF_MEMORY':
      return failure('Runtime.OutOfMemory', `RequestId: ${requestId} Error: ${exitText({ signal: 'SIGKILL' })}`);
    case 'EXECUTOR_TIMEOUT': {
      const seconds = (record.timeoutMs / 1_000).toFixed(2);
      return failure('Sandbox.Timedout', `RequestId: ${requestId} Error: Task timed out after ${seconds} seconds`);
    }
    case 'EXECUTOR_CONNECTION_LOST':
      if (error.retry === 'safe') return undefined;
      return failure('Runtime.TruncatedResponse', `RequestId: ${requestId} Error: the connection to the runtime broke`);
    case 'EXECUTOR_RESPONSE_INVALID':
      return failure('Runtime.InvalidResponse', `RequestId: ${requestId} Error: ${error.message}`);
    case 'PAYLOAD_TOO_LARGE':
      return details['errorType'] === 'Function.ResponseSizeTooLarge' ? tooLarge(Number(details['limit'])) : undefined;
    default:
      return undefined;
  }
}

export function tooLarge(limit: number): FunctionFailure {
  return failure('Function.ResponseSizeTooLarge', `Response payload size exceeded maximum allowed payload size (${limit} bytes).`);
}

function failure(errorType: string, errorMessage: string): FunctionFailure {
  return { errorType, errorMessage, body: Buffer.from(JSON.stringify({ errorType, errorMessage })) };
}

/** What the runtime posted is passed on as it is, when it is JSON. */
function said(details: RunnerError['details'], requestId: string, defaultType: string): FunctionFailure {
  const errorType = typeof details['errorType'] === 'string' && details['errorType'] !== '' ? details['errorType'] : defaultType;
  const errorMessage =
    typeof details['errorMessage'] === 'string' ? details['errorMessage'] : `RequestId: ${requestId} Error: the function failed`;
  const body = details['body'];
  if (typeof body === 'string' && isJson(body)) return { errorType, errorMessage, body: Buffer.from(body) };
  return failure(errorType, errorMessage);
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

const TAIL_BYTES = 4 * 1024;

/** The log of one call between its platform lines, the last 4 KiB, base64: as `X-Amz-Log-Result` carries it. */
export function logResult(call: {
  readonly requestId: string;
  readonly record: FunctionRecord;
  readonly output: string;
  readonly report?: InvocationReport;
}): string {
  const { requestId, record, output, report } = call;
  const lines = [
    `START RequestId: ${requestId} Version: ${record.version}`,
    ...(output === '' ? [] : [output.replace(/\n$/, '')]),
    `END RequestId: ${requestId}`,
    ...(report ? [reportLine(requestId, record, report)] : []),
  ];
  const bytes = Buffer.from(`${lines.join('\n')}\n`);
  return bytes.subarray(Math.max(0, bytes.length - TAIL_BYTES)).toString('base64');
}

function reportLine(requestId: string, { memoryMb }: FunctionRecord, { runMs, initMs, memoryUsedMb }: InvocationReport): string {
  const parts = [
    `REPORT RequestId: ${requestId}`,
    `Duration: ${runMs.toFixed(2)} ms`,
    `Billed Duration: ${Math.ceil(runMs + (initMs ?? 0))} ms`,
    `Memory Size: ${memoryMb} MB`,
    `Max Memory Used: ${memoryUsedMb ?? memoryMb} MB`,
    ...(initMs === undefined ? [] : [`Init Duration: ${initMs.toFixed(2)} ms`]),
  ];
  return `${parts.join('\t')}\t`;
}
