/** Errors as the Lambda API tells them: status, `x-amzn-ErrorType`, and a body whose shape differs from error to error, as in the service's model. */

import type { ErrorCode, RunnerError } from '../../errors.ts';
import type { Rule } from '../../runtime/store-settings.ts';
import type { Reply } from '../http.ts';
import { retryHeaders } from '../http.ts';
import type { Place } from './names.ts';
import { functionArn } from './names.ts';

interface Shape {
  readonly status: number;
  readonly fault: 'User' | 'Service';
  /** The member that carries the message: the model is not of one mind. */
  readonly member: 'message' | 'Message';
}

const USER = (status: number, member: Shape['member'] = 'message'): Shape => ({ status, fault: 'User', member });
const SERVICE = (status: number, member: Shape['member'] = 'Message'): Shape => ({ status, fault: 'Service', member });

/** https://docs.aws.amazon.com/lambda/latest/api/CommonErrors.html and the errors of each operation. */
const SHAPES = {
  AccessDeniedException: USER(403, 'Message'),
  InvalidParameterValueException: USER(400),
  InvalidRequestContentException: USER(400),
  InvalidRuntimeException: SERVICE(502),
  InvalidZipFileException: SERVICE(502),
  MissingAuthenticationTokenException: USER(403),
  PreconditionFailedException: USER(412),
  ProvisionedConcurrencyConfigNotFoundException: USER(404),
  RequestTooLargeException: USER(413),
  ResourceConflictException: USER(409),
  ResourceNotFoundException: USER(404, 'Message'),
  ResourceNotReadyException: SERVICE(502, 'message'),
  SerializationException: USER(400, 'Message'),
  ServiceException: SERVICE(500),
  TooManyRequestsException: USER(429),
  UnrecognizedClientException: USER(403),
  ValidationException: USER(400),
} as const satisfies Readonly<Record<string, Shape>>;

export type AwsType = keyof typeof SHAPES;

/** What is not listed is the service's fault. */
const TYPES: Partial<Readonly<Record<ErrorCode, AwsType>>> = {
  FUNCTION_NOT_FOUND: 'ResourceNotFoundException',
  NOT_FOUND: 'ResourceNotFoundException',
  FUNCTION_EXISTS: 'ResourceConflictException',
  STATE_INVALID: 'ResourceConflictException',
  REVISION_MISMATCH: 'PreconditionFailedException',
  CONFIG_INVALID: 'InvalidParameterValueException',
  PACKAGE_INVALID: 'InvalidParameterValueException',
  PAYLOAD_TOO_LARGE: 'RequestTooLargeException',
  REQUEST_INVALID: 'InvalidRequestContentException',
  WIRE_MALFORMED: 'InvalidRequestContentException',
  RATE_LIMITED: 'TooManyRequestsException',
  QUEUE_FULL: 'TooManyRequestsException',
  QUEUE_TIMEOUT: 'TooManyRequestsException',
  EXECUTOR_THROTTLED: 'TooManyRequestsException',
  UNAUTHORIZED: 'UnrecognizedClientException',
  FORBIDDEN: 'AccessDeniedException',
  RUNTIME_UNSUPPORTED: 'InvalidRuntimeException',
  CODE_MISSING: 'InvalidZipFileException',
};

/** Why a call was throttled (https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html). */
const REASONS: Partial<Readonly<Record<ErrorCode, string>>> = {
  EXECUTOR_THROTTLED: 'ReservedFunctionConcurrentInvocationLimitExceeded',
  QUEUE_FULL: 'ConcurrentInvocationLimitExceeded',
  QUEUE_TIMEOUT: 'ConcurrentInvocationLimitExceeded',
  RATE_LIMITED: 'CallerRateLimitExceeded',
};

/** Fields of the store as the API calls them. */
const MEMBERS: Readonly<Record<string, string>> = {
  name: 'functionName',
  memoryMb: 'memorySize',
  timeoutMs: 'timeout',
  ephemeralMb: 'ephemeralStorage.size',
  alias: 'name',
  retriesMax: 'maximumRetryAttempts',
  ageMaxSeconds: 'maximumEventAgeInSeconds',
  reservedConcurrency: 'reservedConcurrentExecutions',
};

function typeOf({ code, details }: RunnerError): AwsType {
  const told = details['awsType'];
  if (typeof told === 'string' && told in SHAPES) return told as AwsType;
  if (code === 'CONFIG_INVALID' && details['rule'] !== undefined) return 'ValidationException';
  return TYPES[code] ?? 'ServiceException';
}

/** How the Lambda API at this place tells a failure. */
export function lambdaFailure(place: Place): (error: RunnerError) => Reply {
  return (error) => {
    const type = typeOf(error);
    const { status, fault, member } = SHAPES[type];
    const reason = REASONS[error.code];
    const headers: Record<string, string> = {
      'content-type': 'application/json',
      'x-amzn-errortype': type,
      ...retryHeaders(error),
    };
    const body = { Type: fault, [member]: messageOf(error, type, place), ...(reason !== undefined && { Reason: reason }) };
    return { status, headers, body: JSON.stringify(body) };
  };
}

function messageOf(error: RunnerError, type: AwsType, place: Place): string {
  const { code, details, message } = error;
  if (type === 'TooManyRequestsException') return 'Rate Exceeded.';
  if (type === 'ServiceException') return code === 'INTERNAL' ? 'Service encountered an internal error.' : message;
  if (code === 'FUNCTION_NOT_FOUND' && typeof details['name'] === 'string') {
    const qualifier = typeof details['qualifier'] === 'string' ? details['qualifier'] : undefined;
    return `Function not found: ${functionArn(place, details['name'], qualifier)}`;
  }
  if (code === 'FUNCTION_EXISTS' && typeof details['name'] === 'string') {
    const alias = details['alias'];
    if (typeof alias === 'string') return `Alias already exists: ${functionArn(place, details['name'], alias)}`;
    return `Function already exist: ${details['name']}`;
  }
  if (code === 'REVISION_MISMATCH') {
    return 'The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the latest Revision Id';
  }
  if (code === 'PACKAGE_INVALID') return `Could not unzip uploaded file. Please check your file, then try to upload again. (${message})`;
  if (code === 'CONFIG_INVALID' && details['rule'] !== undefined) return validationText(details);
  return message;
}

/** Rules travel in the details of the store's errors. */
function validationText(details: RunnerError['details']): string {
  const { field, value, rule } = details as { readonly field: string; readonly value: string | number; readonly rule: Rule };
  const isSeconds = field === 'timeoutMs';
  const shown = isSeconds ? Number(value) / 1_000 : value;
  const member = MEMBERS[field] ?? field;
  return `1 validation error detected: Value '${shown}' at '${member}' failed to satisfy constraint: ${constraintText(rule, isSeconds ? 1_000 : 1)}`;
}

function constraintText(rule: Rule, unit: number): string {
  if ('min' in rule) return `Member must have value greater than or equal to ${rule.min / unit}`;
  if ('max' in rule) return `Member must have value less than or equal to ${rule.max / unit}`;
  if ('lengthMin' in rule) return `Member must have length greater than or equal to ${rule.lengthMin}`;
  if ('lengthMax' in rule) return `Member must have length less than or equal to ${rule.lengthMax}`;
  if ('pattern' in rule) return `Member must satisfy regular expression pattern: ${rule.pattern}`;
  return `Member must satisfy enum value set: [${('steps' in rule ? rule.steps.map((step) => step / unit) : rule.oneOf).join(', ')}]`;
}
