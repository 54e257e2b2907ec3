/**
 * What each error code means and what to do about it, one sentence each. For people: ERRORS.md is written from it. It lies apart from the table of
 * codes so that a handler bundle does not carry it.
 */

import type { ErrorCode } from './errors.ts';

// One code per line.
// oxfmt-ignore
export const ERROR_TEXTS = {
  // Configuration and plugins
  CONFIG_INVALID: ['A configuration value is missing or malformed.', 'Correct the value that the message names.'],
  PLUGIN_UNKNOWN: ['No plugin of that name is registered.', 'Use one of the names that the message lists, or register the plugin with withPlugin().'],
  PLUGIN_CONFLICT: ['Two plugins claim the same name.', 'Register each plugin once.'],
  PEER_MISSING: ['An optional package that a plugin needs is not installed.', 'Install the package that the message names.'],

  // Jobs: definition, arguments, results
  JOB_UNKNOWN: ['No route, fallback or executor takes this job id.', 'Register the job, or ignore the call.'],
  JOB_DUPLICATE: ['A job id is routed twice.', 'Route each job id once.'],
  JOB_ID_INVALID: ['The value is not a job id (an unsigned integer below 2^256).', 'Pass an integer, a decimal or 0x string, or at most 32 bytes.'],
  JOB_TYPE_INVALID: ['A Solidity type in a job definition cannot be parsed.', 'Correct the type that the message names.'],
  JOB_SCHEMA_MISMATCH: ['The types of a job differ from its schema on chain.', 'Make the job definition and the blueprint agree.'],
  JOB_ARGS_INVALID: ['The arguments of a call cannot be decoded as the types of its job.', 'Nothing to do for the operator: the caller sent other bytes than the job takes.'],
  JOB_RESULT_INVALID: ['The job returned a value that cannot be encoded as its result type.', 'Correct the job: its message names the type and the value.'],
  JOB_REJECTED: ['An extractor could not be satisfied by this call.', 'Call the job with the metadata that it needs.'],
  JOB_FAILED: ['The code of the job threw.', 'See the cause; declare the job idempotent to have it tried again.'],
  SCHEMA_INVALID: ['Bytes are not a schema of the compact encoding.', 'Correct the schema of the blueprint.'],

  // Wire
  WIRE_MALFORMED: ['A request or response is not of a known wire format.', 'Send one of the wire formats v1 JSON, v2 octet-stream or base64 JSON.'],
  PAYLOAD_TOO_LARGE: ['A payload is larger than a limit.', 'Send less, or raise the limit that the message names.'],

  // Execution
  EXECUTOR_UNREACHABLE: ['The platform could not be reached; the handler saw nothing.', 'Check address, network and credentials of the executor.'],
  EXECUTOR_CONNECTION_LOST: ['The connection broke after the request was sent; the handler may have run.', 'Declare the job idempotent to have it tried again.'],
  EXECUTOR_TIMEOUT: ['The deadline of the call passed before a result came.', 'Raise the timeout of the job, or make the job faster.'],
  EXECUTOR_THROTTLED: ['The platform refused the call because of load.', 'Lower the concurrency, or raise the quota of the platform.'],
  EXECUTOR_UNAVAILABLE: ['The platform says that it cannot take calls now.', 'Wait, or configure a fallback executor.'],
  EXECUTOR_UNAUTHORIZED: ['The platform refused the credentials.', 'Correct the credentials of the executor.'],
  EXECUTOR_NOT_FOUND: ['The platform has no such function.', 'Deploy the function, or correct the endpoint.'],
  EXECUTOR_RESPONSE_INVALID: ['The handler answered something that is not a result.', 'Deploy the current handler bundle.'],
  EXECUTOR_CIRCUIT_OPEN: ['Too many calls failed lately; the circuit breaker of this executor is open.', 'Wait for the probe after the cool-down, or configure a fallback executor.'],
  EXECUTOR_CLOSED: ['The executor was closed.', 'Do not use an executor after close().'],
  QUEUE_FULL: ['A bounded queue is full.', 'Send slower, or raise the limit that the message names.'],
  ABORTED: ['The operation was cancelled.', 'Nothing: somebody asked for it.'],

  // Deployment of functions
  FUNCTION_EXISTS: ['A function of that id is deployed already.', 'Undeploy it first, or update it.'],
  DEPLOY_FAILED: ['The platform could not deploy the function.', 'See the details of the platform.'],
  BUILD_FAILED: ['The handler bundle could not be built.', 'Correct the error of the bundler that the message carries.'],

  // Chain
  RPC_UNREACHABLE: ['No RPC endpoint answers.', 'Check the endpoints and the network.'],
  RPC_RATE_LIMITED: ['The RPC endpoint refuses requests because of their rate.', 'Add endpoints, or lower the polling rate.'],
  RPC_ERROR: ['The RPC endpoint answered with an error.', 'See the message of the endpoint.'],
  RPC_RESPONSE_INVALID: ['The RPC endpoint answered something that is not JSON-RPC.', 'Check that the address is an Ethereum JSON-RPC endpoint.'],
  CHAIN_MISMATCH: ['The endpoint serves another chain, or the ledger belongs to another chain.', 'Use the endpoint or the ledger of the configured chain.'],
  CONTRACT_MISSING: ['There is no contract at the configured address.', 'Correct the address of the contract.'],
  LOG_MALFORMED: ['A log of the contract cannot be decoded; it is skipped and counted.', 'Check that the contract address and version are right.'],
  BLUEPRINT_NOT_FOUND: ['The chain has no blueprint of that id.', 'Correct the blueprint id.'],
  SERVICE_NOT_FOUND: ['The chain has no service of that id.', 'Correct the service id.'],
  METADATA_INVALID: ['The metadata of a blueprint is malformed, too large, or does not match its hash.', 'Ask the author of the blueprint to correct it.'],
  REGISTRATION_FAILED: ['The operator could not be registered.', 'See the reason of the contract.'],
  HEARTBEAT_FAILED: ['A heartbeat was refused.', 'See the reason of the contract.'],

  // Settlement
  CALL_ORPHANED: ['A reorg removed the call from the chain.', 'Nothing: the result is discarded.'],
  RESULT_REJECTED: ['The contract refuses this result.', 'See the reason of the contract.'],
  TX_UNDERFUNDED: ['The account cannot pay for the transaction.', 'Fund the account that the message names.'],
  TX_FEE_CAPPED: ['The fee needed is above the configured cap.', 'Wait, or raise the cap.'],
  SIGNER_MISSING: ['A result is to be settled, but no account is configured.', 'Configure an account, or run with dryRun.'],

  // Ledger
  LEDGER_CORRUPT: ['The ledger file is damaged or not a ledger.', 'Move the file away: the runner rebuilds what the chain still shows.'],
  LEDGER_FULL: ['The disk of the ledger is full.', 'Free space: the runner goes on by itself.'],
  LEDGER_LOCKED: ['Another runner uses this ledger.', 'Stop the other runner, or use another ledger file.'],
  LEDGER_VERSION: ['The ledger was written by a newer version.', 'Use that version.'],

  // Runner
  STATE_INVALID: ['The operation is not possible in the present state.', 'See the state that the message names.'],
  DRAIN_TIMEOUT: ['Calls were still running when the drain time ended.', 'Nothing is lost: they are taken up again at the next start.'],
  UNAUTHORIZED: ['A request to a server of ours carries no credentials, or wrong ones.', 'Send the token that the server was started with.'],
  NOT_FOUND: ['There is no such thing.', 'Check the name or id.'],
  INTERNAL: ['An assumption of the program does not hold.', 'Report it with the details.'],
} as const satisfies Record<ErrorCode, readonly [meaning: string, remedy: string]>;
