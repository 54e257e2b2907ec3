/** What the services of AWS answer when something goes wrong, as errors of this project. Pure. */

import { RunnerError, isRunnerError } from '../../src/plugin.ts';
import type { ErrorCode, Retry } from '../../src/plugin.ts';

/** What the SDK throws, as far as it is looked at. */
export interface AwsFailure {
  /** The code of the service, or of the SDK. */
  readonly name: string;
  readonly message: string;
  /** Of a failed connection, as node says it. */
  readonly code?: string;
  /** Of the failed connection: `connect`, or what was done on one that was there. */
  readonly syscall?: string;
  readonly status?: number;
  readonly requestId?: string;
  readonly retryAfterMs?: number;
}

/** How far a request came that got no answer of the service. */
type Transport = 'not-sent' | 'lost' | undefined;

const NOT_SENT = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENETDOWN',
  'EADDRNOTAVAIL',
  'ECONNABORTED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'CERT_HAS_EXPIRED',
  'ERR_TLS_CERT_ALTNAME_INVALID',
  'ERR_SSL_WRONG_VERSION_NUMBER',
]);
const LOST = new Set(['ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'ECONNCLOSED', 'UND_ERR_SOCKET', 'ERR_STREAM_PREMATURE_CLOSE']);
const THROTTLED =
  /^(?:TooManyRequests|Throttl|ThrottledException|RequestThrottled|RequestLimitExceeded|ProvisionedThroughputExceeded|SlowDown|PriorRequestNotComplete|TransactionInProgress|BandwidthLimitExceeded|LimitExceededException$|EC2Throttled)/;
const CREDENTIALS = /^(?:CredentialsProviderError|TokenProviderError|InvalidIdentityToken)/;
const UNAUTHORIZED =
  /^(?:AccessDenied|UnrecognizedClient|InvalidClientTokenId|InvalidSignature|SignatureDoesNotMatch|ExpiredToken|MissingAuthentication|IncompleteSignature|AuthFailure|UnauthorizedOperation|OptInRequired|NotAuthorized|InvalidAccessKeyId)/;
const NOT_FOUND = /^(?:ResourceNotFound|NoSuchEntity|NoSuchKey|NotFound|QueueDoesNotExist|AWS\.SimpleQueueService\.NonExistentQueue)/;
/** The service refuses before the handler runs: network, keys and images of the function are not ready. */
const NOT_READY =
  /^(?:ResourceNotReady|ENINotReady|ENILimitReached|EC2Unexpected|EC2AccessDenied|SubnetIPAddressLimit|SnapStartNotReady|SnapStartRegeneration|CodeArtifactUserPending|EFSMount|S3FilesMount|KMS|ResourceConflict)/;

export function readFailure(thrown: unknown): AwsFailure {
  if (typeof thrown !== 'object' || thrown === null) return { name: 'Unknown', message: String(thrown) };
  // The SDK's errors carry these fields; anything else leaves them undefined.
  const error = thrown as {
    readonly name?: unknown;
    readonly message?: unknown;
    readonly code?: unknown;
    readonly syscall?: unknown;
    readonly errors?: readonly unknown[];
    readonly $metadata?: { readonly httpStatusCode?: number; readonly requestId?: string };
    readonly $response?: { readonly headers?: Readonly<Record<string, string>> };
  };
  // Several addresses of one host were tried: the first says what happened.
  const inner = Array.isArray(error.errors) && error.errors.length > 0 ? readFailure(error.errors[0]) : undefined;
  const code = typeof error.code === 'string' ? error.code : inner?.code;
  const status = error.$metadata?.httpStatusCode;
  const requestId = error.$metadata?.requestId;
  const wait = Number(error.$response?.headers?.['retry-after']);
  return {
    name: typeof error.name === 'string' ? error.name : 'Unknown',
    message: (typeof error.message === 'string' && error.message) || inner?.message || 'no reason was given',
    ...(code !== undefined && { code }),
    ...(typeof error.syscall === 'string' && { syscall: error.syscall }),
    ...(status !== undefined && { status }),
    ...(requestId !== undefined && { requestId }),
    ...(Number.isFinite(wait) && wait >= 0 && { retryAfterMs: wait * 1_000 }),
  };
}

export function transportOf({ code, name, message, status, syscall }: AwsFailure): Transport {
  // Routes are lost under connections, too.
  if (code !== undefined && NOT_SENT.has(code)) return syscall === 'read' || syscall === 'write' ? 'lost' : 'not-sent';
  if (code !== undefined && LOST.has(code)) return 'lost';
  // The SDK's own timers; its message tells the one for the connection.
  if (name === 'TimeoutError') return /without establishing a connection|connection timed out/i.test(message) ? 'not-sent' : 'lost';
  if (status === undefined && /socket hang up|other side closed|premature close/i.test(message)) return 'lost';
  return undefined;
}

export const isThrottled = ({ name, status }: AwsFailure): boolean => status === 429 || THROTTLED.test(name);
export const isNotFound = (thrown: unknown): boolean => NOT_FOUND.test(readFailure(rawOf(thrown)).name);
export const isDenied = (thrown: unknown): boolean => UNAUTHORIZED.test(readFailure(rawOf(thrown)).name);
export const isConflict = (thrown: unknown): boolean =>
  /^(?:ResourceConflict|ConflictException|ResourceInUse|OperationConflict)/.test(readFailure(rawOf(thrown)).name);

/** The platform's own words, from the error that was made of them or from the first one. */
export function rawOf(thrown: unknown): unknown {
  return isRunnerError(thrown) && thrown.cause !== undefined ? thrown.cause : thrown;
}

const said = ({ name, message, status, requestId, retryAfterMs }: AwsFailure) => ({
  platformCode: name,
  platformMessage: message,
  ...(status !== undefined && { status }),
  ...(requestId !== undefined && { requestId }),
  ...(retryAfterMs !== undefined && { retryAfterMs }),
});

/** A failed request of a deployer. `operation` names it: `CreateFunction`. */
export function deployFailure(thrown: unknown, operation: string, endpoint?: string): RunnerError {
  if (isRunnerError(thrown)) return thrown;
  const failure = readFailure(thrown);
  const details = { operation, ...said(failure) };
  const error = (code: ErrorCode, message: string, retry?: Retry): RunnerError =>
    new RunnerError(code, message, { cause: thrown, details, ...(retry && { retry }) });
  const { name, message } = failure;
  if (name === 'AbortError') return error('ABORTED', `${operation} was cancelled`);
  if (CREDENTIALS.test(name))
    return error(
      'CREDENTIALS_MISSING',
      `there are no usable credentials for AWS; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE: ${message}`,
    );
  if (message.startsWith('Region is missing'))
    return error('CONFIG_INVALID', 'no region of AWS is named: set the option region, or AWS_REGION');
  const where = endpoint === undefined ? 'AWS' : endpoint;
  const transport = transportOf(failure);
  if (transport === 'not-sent') return error('PLATFORM_UNREACHABLE', `${where} cannot be reached for ${operation}: ${message}`);
  if (transport === 'lost')
    return error('PLATFORM_UNREACHABLE', `the connection to ${where} was lost during ${operation}: ${message}`, 'idempotent');
  if (isThrottled(failure)) return error('PLATFORM_THROTTLED', `AWS throttles ${operation}: ${name}: ${message}`);
  if (/^(?:ExpiredToken|InvalidClientTokenId|UnrecognizedClient|InvalidAccessKeyId|AuthFailure)/.test(name))
    return error('CREDENTIALS_MISSING', `AWS does not take the credentials: ${name}: ${message}`);
  return error('DEPLOY_FAILED', `${operation} failed: ${name}: ${message}`, UNAUTHORIZED.test(name) ? 'never' : undefined);
}

/** A failed invocation. The retry says whether the handler was reached. */
export function invokeFailure(thrown: unknown, functionName: string): RunnerError {
  if (isRunnerError(thrown)) return thrown;
  const failure = readFailure(thrown);
  const { name, message, status } = failure;
  const details = { function: functionName, ...said(failure) };
  const error = (code: ErrorCode, text: string, retry?: Retry): RunnerError =>
    new RunnerError(code, text, { cause: thrown, details, ...(retry && { retry }) });
  const words = `${name}: ${message}`;
  if (CREDENTIALS.test(name))
    return error(
      'CREDENTIALS_MISSING',
      `there are no usable credentials for AWS; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE: ${message}`,
    );
  if (message.startsWith('Region is missing'))
    return error('CONFIG_INVALID', 'no region of AWS is named: set the option region, or AWS_REGION');
  const transport = transportOf(failure);
  if (transport === 'not-sent') return error('EXECUTOR_UNREACHABLE', `function ${functionName} was not called: ${message}`);
  if (transport === 'lost')
    return error('EXECUTOR_CONNECTION_LOST', `the connection was lost while function ${functionName} ran: ${message}`);
  if (isThrottled(failure)) return error('EXECUTOR_THROTTLED', `AWS throttles function ${functionName}: ${words}`);
  if (UNAUTHORIZED.test(name) || status === 401 || status === 403)
    return error('EXECUTOR_UNAUTHORIZED', `AWS does not let these credentials call function ${functionName}: ${words}`);
  if (NOT_FOUND.test(name)) return error('EXECUTOR_NOT_FOUND', `there is no function ${functionName}: ${words}`);
  if (/TooLarge/.test(name) || status === 413)
    return error('PAYLOAD_TOO_LARGE', `the event is too large for function ${functionName}: ${words}`);
  if (NOT_READY.test(name)) return error('EXECUTOR_UNAVAILABLE', `function ${functionName} is not ready: ${words}`);
  if (/^(?:InvalidRequestContent|UnsupportedMediaType|InvalidParameterValue|ValidationException)/.test(name))
    return error('WIRE_MALFORMED', `AWS does not take the event for function ${functionName}: ${words}`);
  if (name.startsWith('RecursiveInvocation')) return error('FUNCTION_FAILED', `AWS stopped a loop of calls: ${words}`, 'never');
  // An error inside the service: whether the handler ran is not known.
  if (status !== undefined && status >= 500)
    return error('EXECUTOR_UNAVAILABLE', `AWS failed to call function ${functionName}: ${words}`, 'idempotent');
  if (status !== undefined && status >= 400)
    return error('EXECUTOR_RESPONSE_INVALID', `AWS refused the call of function ${functionName}: ${words}`, 'never');
  return error('EXECUTOR_RESPONSE_INVALID', `the answer of function ${functionName} cannot be read: ${words}`);
}

/** What the runtime of a function says about a failed invocation: `{"errorType","errorMessage"}`. */
export function functionFailure(payload: Uint8Array, functionName: string): RunnerError {
  const { errorType, errorMessage } = readErrorPayload(payload);
  const details = { function: functionName, platformCode: errorType, platformMessage: errorMessage };
  const words = `function ${functionName}: ${errorType}: ${errorMessage}`;
  const code = codeOfFunctionError(errorType, errorMessage);
  return new RunnerError(code, words, { details });
}

function codeOfFunctionError(type: string, message: string): ErrorCode {
  if (type === 'Sandbox.Timedout' || /Task timed out after/.test(message)) return 'EXECUTOR_TIMEOUT';
  if (type === 'Runtime.OutOfMemory' || /signal: killed/.test(message)) return 'FUNCTION_OUT_OF_MEMORY';
  // The module of the handler was not loaded: no job ran.
  if (/^Runtime\.(?:ImportModuleError|HandlerNotFound|UserCodeSyntaxError|MalformedHandlerName|InvalidEntrypoint|NoHandler)/.test(type))
    return 'FUNCTION_INIT_FAILED';
  if (/^Runtime\.(?:ExitError|ExtensionError)|^Extension\./.test(type)) return 'FUNCTION_CRASHED';
  if (type === 'Function.ResponseSizeTooLarge') return 'PAYLOAD_TOO_LARGE';
  return 'FUNCTION_FAILED';
}

const MESSAGE_MAX = 2_048;

function readErrorPayload(payload: Uint8Array): { readonly errorType: string; readonly errorMessage: string } {
  const text = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString('utf8', 0, 64 * 1024);
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) {
      const { errorType, errorMessage } = value as Record<string, unknown>;
      return {
        errorType: typeof errorType === 'string' ? errorType.slice(0, 128) : 'Unhandled',
        errorMessage: typeof errorMessage === 'string' ? errorMessage.slice(0, MESSAGE_MAX) : text.slice(0, 200),
      };
    }
  } catch {
    // Not JSON: shown as it is.
  }
  return { errorType: 'Unhandled', errorMessage: text.slice(0, 200) };
}
