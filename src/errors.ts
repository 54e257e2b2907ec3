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
  /** What it means, one sentence. */
  readonly meaning: string;
  /** What to do about it, one sentence. */
  readonly remedy: string;
}

const entry = (kind: ErrorKind, retry: Retry, meaning: string, remedy: string): ErrorCodeEntry => ({
  kind,
  retry,
  meaning,
  remedy,
});

/** Every code the project can raise. ERRORS.md lists the same table; a test keeps the two equal. */
// One code per line.
// oxfmt-ignore
export const ERROR_CODES = {
  // Configuration and plugins
  CONFIG_INVALID: entry('user', 'never', 'A configuration value is missing or malformed.', 'Correct the value that the message names.'),
  PLUGIN_UNKNOWN: entry('user', 'never', 'No plugin of that name is registered.', 'Use one of the names that the message lists, or register the plugin with withPlugin().'),
  PLUGIN_CONFLICT: entry('user', 'never', 'Two plugins claim the same name.', 'Register each plugin once.'),
  PEER_MISSING: entry('user', 'never', 'An optional package that a plugin needs is not installed.', 'Install the package that the message names.'),

  // Jobs: definition, arguments, results
  JOB_UNKNOWN: entry('user', 'never', 'No route, fallback or executor takes this job id.', 'Register the job, or ignore the call.'),
  JOB_DUPLICATE: entry('user', 'never', 'A job id is routed twice.', 'Route each job id once.'),
  JOB_ID_INVALID: entry('user', 'never', 'The value is not a job id (an unsigned integer below 2^256).', 'Pass an integer, a decimal or 0x string, or at most 32 bytes.'),
  JOB_TYPE_INVALID: entry('user', 'never', 'A Solidity type in a job definition cannot be parsed.', 'Correct the type that the message names.'),
  JOB_SCHEMA_MISMATCH: entry('user', 'never', 'The types of a job differ from its schema on chain.', 'Make the job definition and the blueprint agree.'),
  JOB_ARGS_INVALID: entry('user', 'never', 'The arguments of a call cannot be decoded as the types of its job.', 'Nothing to do for the operator: the caller sent other bytes than the job takes.'),
  JOB_RESULT_INVALID: entry('user', 'never', 'The job returned a value that cannot be encoded as its result type.', 'Correct the job: its message names the type and the value.'),
  JOB_REJECTED: entry('user', 'never', 'An extractor could not be satisfied by this call.', 'Call the job with the metadata that it needs.'),
  JOB_FAILED: entry('user', 'never', 'The code of the job threw.', 'See the cause; declare the job idempotent to have it tried again.'),
  SCHEMA_INVALID: entry('user', 'never', 'Bytes are not a schema of the compact encoding.', 'Correct the schema of the blueprint.'),

  // Wire
  WIRE_MALFORMED: entry('user', 'never', 'A request or response is not of a known wire format.', 'Send one of the wire formats v1 JSON, v2 octet-stream or base64 JSON.'),
  PAYLOAD_TOO_LARGE: entry('user', 'never', 'A payload is larger than a limit.', 'Send less, or raise the limit that the message names.'),

  // Execution
  EXECUTOR_UNREACHABLE: entry('system', 'safe', 'The platform could not be reached; the handler saw nothing.', 'Check address, network and credentials of the executor.'),
  EXECUTOR_CONNECTION_LOST: entry('system', 'idempotent', 'The connection broke after the request was sent; the handler may have run.', 'Declare the job idempotent to have it tried again.'),
  EXECUTOR_TIMEOUT: entry('system', 'idempotent', 'The deadline of the call passed before a result came.', 'Raise the timeout of the job, or make the job faster.'),
  EXECUTOR_THROTTLED: entry('system', 'safe', 'The platform refused the call because of load.', 'Lower the concurrency, or raise the quota of the platform.'),
  EXECUTOR_UNAVAILABLE: entry('system', 'safe', 'The platform says that it cannot take calls now.', 'Wait, or configure a fallback executor.'),
  EXECUTOR_UNAUTHORIZED: entry('user', 'never', 'The platform refused the credentials.', 'Correct the credentials of the executor.'),
  EXECUTOR_NOT_FOUND: entry('user', 'never', 'The platform has no such function.', 'Deploy the function, or correct the endpoint.'),
  EXECUTOR_RESPONSE_INVALID: entry('system', 'idempotent', 'The handler answered something that is not a result.', 'Deploy the current handler bundle.'),
  EXECUTOR_CIRCUIT_OPEN: entry('system', 'safe', 'Too many calls failed lately; the circuit breaker of this executor is open.', 'Wait for the probe after the cool-down, or configure a fallback executor.'),
  EXECUTOR_CLOSED: entry('system', 'safe', 'The executor was closed.', 'Do not use an executor after close().'),
  QUEUE_FULL: entry('system', 'safe', 'A bounded queue is full.', 'Send slower, or raise the limit that the message names.'),
  ABORTED: entry('system', 'idempotent', 'The operation was cancelled.', 'Nothing: somebody asked for it.'),

  // Deployment of functions
  FUNCTION_EXISTS: entry('user', 'never', 'A function of that id is deployed already.', 'Undeploy it first, or update it.'),
  DEPLOY_FAILED: entry('system', 'idempotent', 'The platform could not deploy the function.', 'See the details of the platform.'),
  BUILD_FAILED: entry('user', 'never', 'The handler bundle could not be built.', 'Correct the error of the bundler that the message carries.'),

  // Chain
  RPC_UNREACHABLE: entry('system', 'safe', 'No RPC endpoint answers.', 'Check the endpoints and the network.'),
  RPC_RATE_LIMITED: entry('system', 'safe', 'The RPC endpoint refuses requests because of their rate.', 'Add endpoints, or lower the polling rate.'),
  RPC_ERROR: entry('system', 'never', 'The RPC endpoint answered with an error.', 'See the message of the endpoint.'),
  RPC_RESPONSE_INVALID: entry('system', 'safe', 'The RPC endpoint answered something that is not JSON-RPC.', 'Check that the address is an Ethereum JSON-RPC endpoint.'),
  CHAIN_MISMATCH: entry('user', 'never', 'The endpoint serves another chain, or the ledger belongs to another chain.', 'Use the endpoint or the ledger of the configured chain.'),
  CONTRACT_MISSING: entry('user', 'never', 'There is no contract at the configured address.', 'Correct the address of the contract.'),
  LOG_MALFORMED: entry('system', 'never', 'A log of the contract cannot be decoded; it is skipped and counted.', 'Check that the contract address and version are right.'),
  BLUEPRINT_NOT_FOUND: entry('user', 'never', 'The chain has no blueprint of that id.', 'Correct the blueprint id.'),
  SERVICE_NOT_FOUND: entry('user', 'never', 'The chain has no service of that id.', 'Correct the service id.'),
  METADATA_INVALID: entry('user', 'never', 'The metadata of a blueprint is malformed, too large, or does not match its hash.', 'Ask the author of the blueprint to correct it.'),
  REGISTRATION_FAILED: entry('system', 'never', 'The operator could not be registered.', 'See the reason of the contract.'),
  HEARTBEAT_FAILED: entry('system', 'safe', 'A heartbeat was refused.', 'See the reason of the contract.'),

  // Settlement
  CALL_ORPHANED: entry('system', 'never', 'A reorg removed the call from the chain.', 'Nothing: the result is discarded.'),
  RESULT_REJECTED: entry('user', 'never', 'The contract refuses this result.', 'See the reason of the contract.'),
  TX_UNDERFUNDED: entry('user', 'safe', 'The account cannot pay for the transaction.', 'Fund the account that the message names.'),
  TX_FEE_CAPPED: entry('user', 'safe', 'The fee needed is above the configured cap.', 'Wait, or raise the cap.'),
  SIGNER_MISSING: entry('user', 'never', 'A result is to be settled, but no account is configured.', 'Configure an account, or run with dryRun.'),

  // Ledger
  LEDGER_CORRUPT: entry('system', 'never', 'The ledger file is damaged or not a ledger.', 'Move the file away: the runner rebuilds what the chain still shows.'),
  LEDGER_FULL: entry('system', 'safe', 'The disk of the ledger is full.', 'Free space: the runner goes on by itself.'),
  LEDGER_LOCKED: entry('user', 'never', 'Another runner uses this ledger.', 'Stop the other runner, or use another ledger file.'),
  LEDGER_VERSION: entry('user', 'never', 'The ledger was written by a newer version.', 'Use that version.'),

  // Runner
  STATE_INVALID: entry('user', 'never', 'The operation is not possible in the present state.', 'See the state that the message names.'),
  DRAIN_TIMEOUT: entry('system', 'never', 'Calls were still running when the drain time ended.', 'Nothing is lost: they are taken up again at the next start.'),
  UNAUTHORIZED: entry('user', 'never', 'A request to a server of ours carries no credentials, or wrong ones.', 'Send the token that the server was started with.'),
  NOT_FOUND: entry('user', 'never', 'There is no such thing.', 'Check the name or id.'),
  INTERNAL: entry('system', 'never', 'An assumption of the program does not hold.', 'Report it with the details.'),
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
