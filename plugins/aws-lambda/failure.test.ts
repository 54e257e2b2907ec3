import { describe, expect, it } from 'vitest';
import { RunnerError } from '../../src/plugin.ts';
import { deployFailure, functionFailure, invokeFailure, isConflict, isDenied, isNotFound } from './failure.ts';
import { isRoleUnknown } from './role.ts';

const thrown = (name: string, message = 'because', more: object = {}): Error => Object.assign(new Error(message), { name }, more);
const answered = (name: string, status: number, message?: string): Error =>
  thrown(name, message, { $metadata: { httpStatusCode: status, requestId: 'r-1' } });

describe('a failed invocation says whether the handler was reached', () => {
  it.each([
    ['refused', thrown('Error', 'connect ECONNREFUSED', { code: 'ECONNREFUSED' }), 'EXECUTOR_UNREACHABLE', 'safe'],
    ['no such host', thrown('Error', 'getaddrinfo', { code: 'ENOTFOUND' }), 'EXECUTOR_UNREACHABLE', 'safe'],
    [
      'all addresses refused',
      thrown('AggregateError', '', { errors: [thrown('Error', 'connect', { code: 'ECONNREFUSED' })] }),
      'EXECUTOR_UNREACHABLE',
      'safe',
    ],
    [
      'no connection in time',
      thrown('TimeoutError', 'Socket timed out without establishing a connection within 5000 ms'),
      'EXECUTOR_UNREACHABLE',
      'safe',
    ],
    ['reset after it was sent', thrown('Error', 'read ECONNRESET', { code: 'ECONNRESET' }), 'EXECUTOR_CONNECTION_LOST', 'idempotent'],
    // So node says of a connection whose packets got no answer until a router said that there is no way.
    [
      'no way any more',
      thrown('Error', 'read EHOSTUNREACH', { code: 'EHOSTUNREACH', syscall: 'read' }),
      'EXECUTOR_CONNECTION_LOST',
      'idempotent',
    ],
    [
      'broken off',
      thrown('Error', 'write ECONNABORTED', { code: 'ECONNABORTED', syscall: 'write' }),
      'EXECUTOR_CONNECTION_LOST',
      'idempotent',
    ],
    ['no way', thrown('Error', 'connect EHOSTUNREACH', { code: 'EHOSTUNREACH', syscall: 'connect' }), 'EXECUTOR_UNREACHABLE', 'safe'],
    ['hung up', thrown('Error', 'socket hang up'), 'EXECUTOR_CONNECTION_LOST', 'idempotent'],
    ['throttled', answered('TooManyRequestsException', 429), 'EXECUTOR_THROTTLED', 'safe'],
    ['throttled by the front', answered('ThrottlingException', 400), 'EXECUTOR_THROTTLED', 'safe'],
    ['not there', answered('ResourceNotFoundException', 404), 'EXECUTOR_NOT_FOUND', 'never'],
    ['not allowed', answered('AccessDeniedException', 403), 'EXECUTOR_UNAUTHORIZED', 'never'],
    ['too large', answered('RequestTooLargeException', 413), 'PAYLOAD_TOO_LARGE', 'never'],
    ['not ready', answered('ResourceNotReadyException', 502), 'EXECUTOR_UNAVAILABLE', 'safe'],
    ['no network yet', answered('ENINotReadyException', 502), 'EXECUTOR_UNAVAILABLE', 'safe'],
    ['an error of the service', answered('ServiceException', 500), 'EXECUTOR_UNAVAILABLE', 'idempotent'],
    ['an unknown error of the service', answered('SomethingNew', 503), 'EXECUTOR_UNAVAILABLE', 'idempotent'],
    ['not JSON', answered('InvalidRequestContentException', 400), 'WIRE_MALFORMED', 'never'],
    ['a loop', answered('RecursiveInvocationException', 400), 'FUNCTION_FAILED', 'never'],
    ['nobody', thrown('CredentialsProviderError'), 'CREDENTIALS_MISSING', 'never'],
    ['nowhere', thrown('Error', 'Region is missing'), 'CONFIG_INVALID', 'never'],
  ] as const)('%s', (_, error, code, retry) => {
    expect(invokeFailure(error, 'f')).toMatchObject({ code, retry, cause: error });
  });

  it('passes what was said already, and the wait that the service asks for', () => {
    const own = new RunnerError('JOB_FAILED', 'x');
    expect(invokeFailure(own, 'f')).toBe(own);
    const error = thrown('TooManyRequestsException', 'slow', { $response: { headers: { 'retry-after': '3' } } });
    expect(invokeFailure(error, 'f').details).toMatchObject({ platformCode: 'TooManyRequestsException', retryAfterMs: 3_000 });
  });
});

describe('a failed function', () => {
  const said = (errorType: string, errorMessage = 'x') => Buffer.from(JSON.stringify({ errorType, errorMessage }));
  it.each([
    [said('Sandbox.Timedout', 'RequestId: a Error: Task timed out after 3.00 seconds'), 'EXECUTOR_TIMEOUT', 'idempotent'],
    [Buffer.from('{"errorMessage":"2026-01-01 a Task timed out after 3.00 seconds"}'), 'EXECUTOR_TIMEOUT', 'idempotent'],
    [said('Runtime.ExitError', 'Error: Runtime exited with error: signal: killed'), 'FUNCTION_OUT_OF_MEMORY', 'idempotent'],
    [said('Runtime.ExitError', 'Runtime exited with error: exit status 3'), 'FUNCTION_CRASHED', 'idempotent'],
    [said('Runtime.ImportModuleError'), 'FUNCTION_INIT_FAILED', 'safe'],
    [said('TypeError', 'no oven'), 'FUNCTION_FAILED', 'idempotent'],
    [said('Function.ResponseSizeTooLarge'), 'PAYLOAD_TOO_LARGE', 'never'],
    [Buffer.from('not JSON'), 'FUNCTION_FAILED', 'idempotent'],
    [Buffer.from('null'), 'FUNCTION_FAILED', 'idempotent'],
  ] as const)('%s', (payload, code, retry) => {
    const error = functionFailure(payload, 'f');
    expect(error).toMatchObject({ code, retry });
    expect(error.message).toContain('f');
  });
});

describe('a failed request of a deployer', () => {
  it.each([
    [thrown('Error', 'connect', { code: 'ECONNREFUSED' }), 'PLATFORM_UNREACHABLE', 'safe'],
    [thrown('Error', 'read', { code: 'ECONNRESET' }), 'PLATFORM_UNREACHABLE', 'idempotent'],
    [answered('Throttling', 400), 'PLATFORM_THROTTLED', 'safe'],
    [answered('ExpiredTokenException', 403), 'CREDENTIALS_MISSING', 'never'],
    [answered('UnrecognizedClientException', 403), 'CREDENTIALS_MISSING', 'never'],
    [answered('AccessDeniedException', 403), 'DEPLOY_FAILED', 'never'],
    [answered('CodeStorageExceededException', 400), 'DEPLOY_FAILED', 'idempotent'],
    [thrown('AbortError'), 'ABORTED', 'idempotent'],
  ] as const)('%s', (error, code, retry) => {
    expect(deployFailure(error, 'CreateFunction')).toMatchObject({
      code,
      retry,
      details: { operation: 'CreateFunction', platformCode: error.name },
    });
  });

  it('is recognised through the error that was made of it', () => {
    const of = (name: string): RunnerError => deployFailure(answered(name, 404), 'GetRole');
    expect([isNotFound(of('NoSuchEntityException')), isNotFound(of('Denied'))]).toEqual([true, false]);
    expect([isConflict(of('ResourceConflictException')), isConflict(of('ResourceNotFoundException'))]).toEqual([true, false]);
    expect([isDenied(of('AccessDenied')), isDenied(of('NoSuchEntity'))]).toEqual([true, false]);
  });

  it.each([
    ['InvalidParameterValueException', 'The role defined for the function cannot be assumed by Lambda.', true],
    ['InvalidParameterValueException', 'The provided execution role does not have permissions to call SendMessage on SQS', true],
    ['ValidationException', 'The execution role you provide must allow AWS EventBridge Scheduler to assume the role.', true],
    ['InvalidParameterValueException', 'Uploaded file must be a non-empty zip', false],
    ['ResourceConflictException', 'The role defined for the function cannot be assumed by Lambda.', false],
  ])('%s: %s', (name, message, expected) => {
    expect(isRoleUnknown(deployFailure(answered(name, 400, message), 'CreateFunction'))).toBe(expected);
  });
});
