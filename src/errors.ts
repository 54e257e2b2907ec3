/**
 * The one error class of the project and the closed table of its codes.
 *
 * Errors are recognised by `code` and by a brand kept under `Symbol.for`, never by `instanceof`: the runner and a deployed
 * handler bundle carry two copies of this file.
 */

/**
 * What another attempt would mean.
 * - `safe`: the failure provably happened before the job's code was reached; trying again cannot run it twice.
 * - `idempotent`: the job may or may not have run; only a job declared idempotent is tried again.
 * - `never`: another attempt would fail in the same way.
 */
export type Retry = 'safe' | 'idempotent' | 'never';

/** Whose fault it is: the caller, author or operator (`user`), or the machinery (`system`). Decides tone and exit status. */
export type ErrorKind = 'user' | 'system';

interface ErrorCodeEntry {
  readonly kind: ErrorKind;
  readonly retry: Retry;
}

const entry = (kind: ErrorKind, retry: Retry): ErrorCodeEntry => ({ kind, retry });

/** Every code the project can raise. What each means and what to do about it is said in error-texts.ts and ERRORS.md. */
export const ERROR_CODES = {
  // Configuration and plugins
  CONFIG_INVALID: entry('user', 'never'),
  PLUGIN_UNKNOWN: entry('user', 'never'),
  PLUGIN_CONFLICT: entry('user', 'never'),
  PEER_MISSING: entry('user', 'never'),

  // Jobs: definition, arguments, results
  JOB_UNKNOWN: entry('user', 'never'),
  JOB_DUPLICATE: entry('user', 'never'),
  JOB_ID_INVALID: entry('user', 'never'),
  JOB_TYPE_INVALID: entry('user', 'never'),
  JOB_SCHEMA_MISMATCH: entry('user', 'never'),
  JOB_ARGS_INVALID: entry('user', 'never'),
  JOB_RESULT_INVALID: entry('user', 'never'),
  JOB_REJECTED: entry('user', 'never'),
  JOB_FAILED: entry('user', 'never'),
  SCHEMA_INVALID: entry('user', 'never'),

  // Wire
  WIRE_MALFORMED: entry('user', 'never'),
  PAYLOAD_TOO_LARGE: entry('user', 'never'),

  // Execution
  EXECUTOR_UNREACHABLE: entry('system', 'safe'),
  EXECUTOR_CONNECTION_LOST: entry('system', 'idempotent'),
  EXECUTOR_TIMEOUT: entry('system', 'idempotent'),
  EXECUTOR_THROTTLED: entry('system', 'safe'),
  EXECUTOR_UNAVAILABLE: entry('system', 'safe'),
  EXECUTOR_UNAUTHORIZED: entry('user', 'never'),
  EXECUTOR_NOT_FOUND: entry('user', 'never'),
  EXECUTOR_RESPONSE_INVALID: entry('system', 'idempotent'),
  EXECUTOR_CIRCUIT_OPEN: entry('system', 'safe'),
  EXECUTOR_CLOSED: entry('system', 'safe'),
  QUEUE_FULL: entry('system', 'safe'),
  ABORTED: entry('system', 'idempotent'),

  // Deployment of functions
  FUNCTION_EXISTS: entry('user', 'never'),
  DEPLOY_FAILED: entry('system', 'idempotent'),
  BUILD_FAILED: entry('user', 'never'),

  // Chain
  RPC_UNREACHABLE: entry('system', 'safe'),
  RPC_RATE_LIMITED: entry('system', 'safe'),
  RPC_ERROR: entry('system', 'never'),
  RPC_RESPONSE_INVALID: entry('system', 'safe'),
  CHAIN_MISMATCH: entry('user', 'never'),
  CONTRACT_MISSING: entry('user', 'never'),
  LOG_MALFORMED: entry('system', 'never'),
  BLUEPRINT_NOT_FOUND: entry('user', 'never'),
  SERVICE_NOT_FOUND: entry('user', 'never'),
  METADATA_INVALID: entry('user', 'never'),
  REGISTRATION_FAILED: entry('system', 'never'),
  HEARTBEAT_FAILED: entry('system', 'safe'),

  // Settlement
  CALL_ORPHANED: entry('system', 'never'),
  RESULT_REJECTED: entry('user', 'never'),
  TX_UNDERFUNDED: entry('user', 'safe'),
  TX_FEE_CAPPED: entry('user', 'safe'),
  SIGNER_MISSING: entry('user', 'never'),

  // Ledger
  LEDGER_CORRUPT: entry('system', 'never'),
  LEDGER_FULL: entry('system', 'safe'),
  LEDGER_LOCKED: entry('user', 'never'),
  LEDGER_VERSION: entry('user', 'never'),

  // Runner
  STATE_INVALID: entry('user', 'never'),
  DRAIN_TIMEOUT: entry('system', 'never'),
  UNAUTHORIZED: entry('user', 'never'),
  NOT_FOUND: entry('user', 'never'),
  INTERNAL: entry('system', 'never'),
} as const satisfies Record<string, ErrorCodeEntry>;

export type ErrorCode = keyof typeof ERROR_CODES;

/** Values that help to find the fault. Never secrets: they are printed. */
export type ErrorDetails = Readonly<Record<string, unknown>>;

export interface RunnerErrorOptions {
  readonly cause?: unknown;
  readonly details?: ErrorDetails;
  /** Overrides what the table says about another attempt. */
  readonly retry?: Retry;
}

const BRAND: unique symbol = Symbol.for('blueprint-runner.error');

/**
 * The error of every public operation.
 *
 * @example
 * throw new RunnerError('CONFIG_INVALID', `timeoutMs is ${value}; it must be at least 1`, { details: { value } });
 */
export class RunnerError extends Error {
  override readonly name = 'RunnerError';
  readonly code: ErrorCode;
  readonly details: ErrorDetails;
  readonly retry: Retry;
  readonly [BRAND] = true;

  constructor(code: ErrorCode, message: string, options: RunnerErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
    this.retry = options.retry ?? ERROR_CODES[code].retry;
  }

  /** Whether some other attempt could make sense at all. Only `executor/resilience` decides to make one. */
  get retryable(): boolean {
    return this.retry !== 'never';
  }

  toJSON(): { code: ErrorCode; message: string; retry: Retry; details: ErrorDetails } {
    return { code: this.code, message: this.message, retry: this.retry, details: this.details };
  }
}

/** True for a RunnerError of this or another copy of the package. */
export function isRunnerError(value: unknown): value is RunnerError {
  return typeof value === 'object' && value !== null && BRAND in value;
}

/** True when `value` is one of the codes of the table. */
export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(ERROR_CODES, value);
}

/** Whatever was thrown, as a RunnerError; one that is already a RunnerError passes unchanged. */
export function toRunnerError(thrown: unknown, code: ErrorCode = 'INTERNAL', details?: ErrorDetails): RunnerError {
  if (isRunnerError(thrown)) return thrown;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return new RunnerError(code, message, { cause: thrown, ...(details && { details }) });
}
