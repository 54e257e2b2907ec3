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

export interface ErrorCodeEntry {
  readonly kind: ErrorKind;
  readonly retry: Retry;
  /** Of an HTTP response. Default: 400 when it is the user's fault, 500 when it is the system's. */
  readonly status?: number;
}

const USER_NEVER = { kind: 'user', retry: 'never' } as const;
const USER_SAFE = { kind: 'user', retry: 'safe' } as const;
const USER_IDEMPOTENT = { kind: 'user', retry: 'idempotent' } as const;
const SYSTEM_NEVER = { kind: 'system', retry: 'never' } as const;
const SYSTEM_SAFE = { kind: 'system', retry: 'safe' } as const;
const SYSTEM_IDEMPOTENT = { kind: 'system', retry: 'idempotent' } as const;

// Without effects, so that a bundle that does not use the table leaves it out.
const at = /* @__NO_SIDE_EFFECTS__ */ <Status extends number, Entry extends ErrorCodeEntry>(status: Status, entry: Entry) => ({
  ...entry,
  status,
});

/** Every code the project can raise. What each means and what to do about it is said in error-texts.ts and ERRORS.md. */
export const ERROR_CODES = {
  // Configuration and plugins
  CONFIG_INVALID: USER_NEVER,
  PLUGIN_UNKNOWN: USER_NEVER,
  PLUGIN_CONFLICT: USER_NEVER,
  PEER_MISSING: USER_NEVER,

  // Jobs: definition, arguments, results
  JOB_UNKNOWN: at(404, USER_NEVER),
  JOB_DUPLICATE: USER_NEVER,
  JOB_ID_INVALID: USER_NEVER,
  JOB_TYPE_INVALID: USER_NEVER,
  JOB_SCHEMA_MISMATCH: USER_NEVER,
  JOB_ARGS_INVALID: USER_NEVER,
  JOB_RESULT_INVALID: at(500, USER_NEVER),
  JOB_REJECTED: at(422, USER_NEVER),
  JOB_FAILED: at(500, USER_IDEMPOTENT),
  SCHEMA_INVALID: USER_NEVER,

  // Wire
  WIRE_MALFORMED: USER_NEVER,
  PAYLOAD_TOO_LARGE: at(413, USER_NEVER),

  // Execution
  EXECUTOR_UNREACHABLE: at(502, SYSTEM_SAFE),
  EXECUTOR_CONNECTION_LOST: at(502, SYSTEM_IDEMPOTENT),
  EXECUTOR_TIMEOUT: at(504, SYSTEM_IDEMPOTENT),
  EXECUTOR_THROTTLED: at(429, SYSTEM_SAFE),
  EXECUTOR_UNAVAILABLE: at(503, SYSTEM_SAFE),
  EXECUTOR_UNAUTHORIZED: at(401, USER_NEVER),
  EXECUTOR_NOT_FOUND: at(404, USER_NEVER),
  EXECUTOR_RESPONSE_INVALID: at(502, SYSTEM_IDEMPOTENT),
  EXECUTOR_CIRCUIT_OPEN: at(503, SYSTEM_SAFE),
  EXECUTOR_CLOSED: at(503, SYSTEM_SAFE),
  QUEUE_FULL: at(429, SYSTEM_SAFE),
  QUEUE_TIMEOUT: at(429, SYSTEM_SAFE),
  ABORTED: at(499, SYSTEM_IDEMPOTENT),

  // Functions: code, instances, invocations
  FUNCTION_EXISTS: at(409, USER_NEVER),
  FUNCTION_NOT_FOUND: at(404, USER_NEVER),
  CODE_MISSING: USER_NEVER,
  PACKAGE_INVALID: USER_NEVER,
  REVISION_MISMATCH: USER_NEVER,
  STORE_FAILED: SYSTEM_NEVER,
  RUNTIME_UNSUPPORTED: USER_NEVER,
  BACKEND_UNAVAILABLE: USER_SAFE,
  INSTANCE_START_FAILED: SYSTEM_SAFE,
  FUNCTION_INIT_FAILED: USER_SAFE,
  FUNCTION_FAILED: at(502, USER_IDEMPOTENT),
  FUNCTION_CRASHED: USER_IDEMPOTENT,
  FUNCTION_OUT_OF_MEMORY: USER_IDEMPOTENT,
  DEPLOY_FAILED: SYSTEM_IDEMPOTENT,
  LIMIT_EXCEEDED: USER_NEVER,
  OPERATION_UNSUPPORTED: USER_NEVER,
  RESOURCE_FOREIGN: at(409, USER_NEVER),
  CREDENTIALS_MISSING: USER_NEVER,
  PLATFORM_UNREACHABLE: SYSTEM_SAFE,
  PLATFORM_THROTTLED: SYSTEM_SAFE,
  SCHEDULE_INVALID: USER_NEVER,
  SCHEDULE_LOSSY: USER_NEVER,
  BUILD_FAILED: USER_NEVER,

  // Work queue
  LEASE_LOST: at(409, SYSTEM_NEVER),
  WORKER_LOST: at(502, SYSTEM_IDEMPOTENT),
  QUEUE_CLOSED: at(503, SYSTEM_SAFE),
  QUEUE_CORRUPT: SYSTEM_NEVER,
  QUEUE_DISK_FULL: SYSTEM_SAFE,
  QUEUE_LOCKED: USER_NEVER,
  QUEUE_VERSION: USER_NEVER,

  // Control plane: tickets and the identities of workers
  TICKET_MALFORMED: USER_NEVER,
  TICKET_EXPIRED: USER_NEVER,
  TICKET_NOT_YET_VALID: USER_NEVER,
  TICKET_FOREIGN: USER_NEVER,
  TICKET_REVOKED: USER_NEVER,
  TICKET_BOUND: USER_NEVER,
  ENROLMENT_REPLAYED: USER_NEVER,
  IDENTITY_UNPROVEN: USER_NEVER,

  // Chain
  RPC_UNREACHABLE: SYSTEM_SAFE,
  RPC_RATE_LIMITED: SYSTEM_SAFE,
  RPC_ERROR: SYSTEM_NEVER,
  RPC_RESPONSE_INVALID: SYSTEM_SAFE,
  CHAIN_MISMATCH: USER_NEVER,
  CONTRACT_MISSING: USER_NEVER,
  LOG_MALFORMED: SYSTEM_NEVER,
  BLUEPRINT_NOT_FOUND: at(404, USER_NEVER),
  SERVICE_NOT_FOUND: at(404, USER_NEVER),
  METADATA_INVALID: USER_NEVER,
  REGISTRATION_FAILED: SYSTEM_NEVER,
  HEARTBEAT_FAILED: SYSTEM_SAFE,
  CALL_REFUSED: USER_NEVER,
  RESULT_TIMEOUT: SYSTEM_NEVER,

  // Settlement
  RESULT_REJECTED: USER_NEVER,
  TX_UNDERFUNDED: USER_SAFE,
  TX_FEE_CAPPED: USER_SAFE,
  SIGNER_MISSING: USER_NEVER,

  // Ledger
  LEDGER_CORRUPT: SYSTEM_NEVER,
  LEDGER_FULL: SYSTEM_SAFE,
  LEDGER_LOCKED: USER_NEVER,
  LEDGER_VERSION: USER_NEVER,

  // Runner
  STATE_INVALID: at(409, USER_NEVER),
  DRAIN_TIMEOUT: SYSTEM_NEVER,
  UNAUTHORIZED: USER_NEVER,
  FORBIDDEN: USER_NEVER,
  REQUEST_INVALID: USER_NEVER,
  REQUEST_CONFLICT: USER_NEVER,
  OUTCOME_UNKNOWN: at(409, SYSTEM_NEVER),
  RATE_LIMITED: USER_SAFE,
  NOT_FOUND: at(404, USER_NEVER),
  INTERNAL: SYSTEM_NEVER,
} as const satisfies Record<string, ErrorCodeEntry>;

export type ErrorCode = keyof typeof ERROR_CODES;

type Entries = typeof ERROR_CODES;
type RetriedCode = { [Code in ErrorCode]: Entries[Code]['retry'] extends 'never' ? never : Code }[ErrorCode];
type Brief<Entry extends ErrorCodeEntry> = readonly [retry: Entry['retry'], ...(Entry['status'] extends number ? [Entry['status']] : [])];

const SAFE = 'safe';
const IDEMPOTENT = 'idempotent';
const NEVER = 'never';

/**
 * The table in brief: every code after which another attempt makes sense, and the answers of a handler whose status is not 400. A handler
 * bundle carries this and not the table; the compiler holds the two together.
 */
const BRIEF = {
  JOB_UNKNOWN: [NEVER, 404],
  JOB_RESULT_INVALID: [NEVER, 500],
  JOB_REJECTED: [NEVER, 422],
  JOB_FAILED: [IDEMPOTENT, 500],
  PAYLOAD_TOO_LARGE: [NEVER, 413],
  EXECUTOR_UNREACHABLE: [SAFE, 502],
  EXECUTOR_CONNECTION_LOST: [IDEMPOTENT, 502],
  EXECUTOR_TIMEOUT: [IDEMPOTENT, 504],
  EXECUTOR_THROTTLED: [SAFE, 429],
  EXECUTOR_UNAVAILABLE: [SAFE, 503],
  EXECUTOR_UNAUTHORIZED: [NEVER, 401],
  EXECUTOR_NOT_FOUND: [NEVER, 404],
  EXECUTOR_RESPONSE_INVALID: [IDEMPOTENT, 502],
  EXECUTOR_CIRCUIT_OPEN: [SAFE, 503],
  EXECUTOR_CLOSED: [SAFE, 503],
  QUEUE_FULL: [SAFE, 429],
  QUEUE_TIMEOUT: [SAFE, 429],
  ABORTED: [IDEMPOTENT, 499],
  FUNCTION_EXISTS: [NEVER, 409],
  BACKEND_UNAVAILABLE: [SAFE],
  INSTANCE_START_FAILED: [SAFE],
  FUNCTION_INIT_FAILED: [SAFE],
  FUNCTION_FAILED: [IDEMPOTENT, 502],
  FUNCTION_CRASHED: [IDEMPOTENT],
  FUNCTION_OUT_OF_MEMORY: [IDEMPOTENT],
  DEPLOY_FAILED: [IDEMPOTENT],
  PLATFORM_UNREACHABLE: [SAFE],
  PLATFORM_THROTTLED: [SAFE],
  WORKER_LOST: [IDEMPOTENT, 502],
  QUEUE_CLOSED: [SAFE, 503],
  QUEUE_DISK_FULL: [SAFE],
  RPC_UNREACHABLE: [SAFE],
  RPC_RATE_LIMITED: [SAFE],
  RPC_RESPONSE_INVALID: [SAFE],
  HEARTBEAT_FAILED: [SAFE],
  TX_UNDERFUNDED: [SAFE],
  TX_FEE_CAPPED: [SAFE],
  LEDGER_FULL: [SAFE],
  RATE_LIMITED: [SAFE],
  NOT_FOUND: [NEVER, 404],
} as const satisfies { readonly [Code in ErrorCode]?: Brief<Entries[Code]> } & { readonly [Code in RetriedCode]: unknown };

/** What another attempt means after this code, and the status of an HTTP response where a handler may answer it. */
export function briefly(code: ErrorCode): readonly [retry: Retry, status?: number] {
  return (BRIEF as Partial<Record<ErrorCode, readonly [Retry, number?]>>)[code] ?? [NEVER];
}

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
    this.retry = options.retry ?? briefly(code)[0];
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
