/**
 * What each error code means and what to do about it, one sentence each. For people: ERRORS.md is written from it. It lies apart from the table of
 * codes so that a handler bundle does not carry it.
 */

import type { ErrorCode } from './errors.ts';

// One code per line.
// oxfmt-ignore
export const ERROR_TEXTS = {
  // Configuration and plugins
  CONFIG_INVALID: { meaning: 'A configuration value is missing or malformed.', remedy: 'Correct the value that the message names.' },
  PLUGIN_UNKNOWN: { meaning: 'No plugin of that name is registered.', remedy: 'Use one of the names that the message lists, or register the plugin with withPlugin().' },
  PLUGIN_CONFLICT: { meaning: 'Two plugins claim the same name.', remedy: 'Register each plugin once.' },
  PEER_MISSING: { meaning: 'An optional package that a plugin needs is not installed.', remedy: 'Install the package that the message names.' },

  // Jobs: definition, arguments, results
  JOB_UNKNOWN: { meaning: 'No route, fallback or executor takes this job id.', remedy: 'Call a job that there is; an operator ignores the call, or registers the job and asks for another try with runner.retry().' },
  JOB_DUPLICATE: { meaning: 'A job id is routed twice.', remedy: 'Route each job id once.' },
  JOB_ID_INVALID: { meaning: 'The value is not a job id (an unsigned integer below 2^256).', remedy: 'Pass an integer, a decimal or 0x string, or at most 32 bytes.' },
  JOB_TYPE_INVALID: { meaning: 'A Solidity type in a job definition cannot be parsed.', remedy: 'Correct the type that the message names.' },
  JOB_SCHEMA_MISMATCH: { meaning: 'The types of a job differ from its schema on chain.', remedy: 'Make the job definition and the blueprint agree.' },
  JOB_ARGS_INVALID: { meaning: 'The arguments of a call cannot be decoded as the types of its job.', remedy: 'Call the job with arguments of its types; an operator has nothing to do.' },
  JOB_RESULT_INVALID: { meaning: 'The job returned a value that cannot be encoded as its result type.', remedy: 'Correct the job: its message names the type and the value.' },
  JOB_REJECTED: { meaning: 'An extractor could not be satisfied by this call.', remedy: 'Call the job with the metadata that it needs.' },
  JOB_FAILED: { meaning: 'The code of the job threw.', remedy: 'See the cause; declare the job idempotent to have it tried again by itself, or ask for another try with runner.retry().' },
  SCHEMA_INVALID: { meaning: 'Bytes are not a schema of the compact encoding.', remedy: 'Correct the schema of the blueprint.' },

  // Wire
  WIRE_MALFORMED: { meaning: 'A request or response is not of a known wire format.', remedy: 'Send one of the wire formats v1 JSON, v2 octet-stream or base64 JSON.' },
  PAYLOAD_TOO_LARGE: { meaning: 'A payload is larger than a limit.', remedy: 'Send less, or raise the limit that the message names.' },

  // Execution
  EXECUTOR_UNREACHABLE: { meaning: 'The platform could not be reached; the handler saw nothing.', remedy: 'Check address, network and credentials of the executor.' },
  EXECUTOR_CONNECTION_LOST: { meaning: 'The connection broke after the request was sent; the handler may have run.', remedy: 'Declare the job idempotent to have it tried again.' },
  EXECUTOR_TIMEOUT: { meaning: 'The deadline of the call passed before a result came.', remedy: 'Raise the timeout of the job, or make the job faster.' },
  EXECUTOR_THROTTLED: { meaning: 'The platform refused the call because of load.', remedy: 'Lower the concurrency, or raise the quota of the platform.' },
  EXECUTOR_UNAVAILABLE: { meaning: 'The platform says that it cannot take calls now.', remedy: 'Wait, or configure a fallback executor.' },
  EXECUTOR_UNAUTHORIZED: { meaning: 'The platform refused the credentials.', remedy: 'Correct the credentials of the executor.' },
  EXECUTOR_NOT_FOUND: { meaning: 'The platform has no such function.', remedy: 'Deploy the function, or correct the endpoint.' },
  EXECUTOR_RESPONSE_INVALID: { meaning: 'The handler answered something that is not a result.', remedy: 'Deploy the current handler bundle.' },
  EXECUTOR_CIRCUIT_OPEN: { meaning: 'Too many calls failed lately; the circuit breaker of this executor is open.', remedy: 'Wait for the probe after the cool-down, or configure a fallback executor.' },
  EXECUTOR_CLOSED: { meaning: 'The executor was closed.', remedy: 'Do not use an executor after close().' },
  QUEUE_FULL: { meaning: 'A bounded queue is full.', remedy: 'Send slower, or raise the limit that the message names.' },
  QUEUE_TIMEOUT: { meaning: 'A call waited too long for an instance or a worker.', remedy: 'Allow more instances or workers, or send fewer calls at a time.' },
  ABORTED: { meaning: 'The operation was cancelled.', remedy: 'Nothing: somebody asked for it.' },

  // Deployment of functions
  FUNCTION_EXISTS: { meaning: 'A function of that id is deployed already.', remedy: 'Undeploy it first, or update it.' },
  FUNCTION_NOT_FOUND: { meaning: 'There is no function, version or alias of this name.', remedy: 'Check the name and the qualifier.' },
  CODE_MISSING: { meaning: 'The function has no code to run.', remedy: 'Upload a zip, or name an image.' },
  PACKAGE_INVALID: { meaning: 'The package is not a zip that can be unpacked safely.', remedy: 'See the message; build the package anew.' },
  REVISION_MISMATCH: { meaning: 'Somebody changed it since it was read.', remedy: 'Read it again, then repeat the change.' },
  STORE_FAILED: { meaning: 'The function store cannot be opened, read or written.', remedy: 'See the message: another process, the disk, or a damaged file.' },
  RUNTIME_UNSUPPORTED: { meaning: 'No backend here runs this runtime.', remedy: 'Choose one of the runtimes that the message lists.' },
  BACKEND_UNAVAILABLE: { meaning: 'This machine cannot run instances of this kind.', remedy: 'The message says what is missing.' },
  INSTANCE_START_FAILED: { meaning: 'An instance did not start.', remedy: 'See its last lines of output in the message.' },
  FUNCTION_INIT_FAILED: { meaning: 'The function failed before it asked for work.', remedy: 'See the error in the details: usually a missing module or handler.' },
  FUNCTION_FAILED: { meaning: 'The handler threw.', remedy: 'See errorType and errorMessage in the details.' },
  FUNCTION_CRASHED: { meaning: 'The instance, or again and again the runner itself, ended in the middle of a call.', remedy: 'See the exit code and the log of what ended.' },
  FUNCTION_OUT_OF_MEMORY: { meaning: 'The instance used more memory than it may.', remedy: 'Give the function more memory.' },
  DEPLOY_FAILED: { meaning: 'The platform could not deploy the function.', remedy: 'See the details of the platform.' },
  LIMIT_EXCEEDED: {
    meaning: 'What is to be deployed is above limits of the platform; nothing was sent.',
    remedy: 'Stay within the limits that the details list, or choose another platform.',
  },
  OPERATION_UNSUPPORTED: { meaning: 'The platform has no such operation.', remedy: 'Use what the details name in its place.' },
  RESOURCE_FOREIGN: {
    meaning: 'A resource of that name is there and was not made by this tool; it was left as it is.',
    remedy: 'Choose another name, or remove the resource yourself.',
  },
  CREDENTIALS_MISSING: {
    meaning: 'There are no credentials for the platform, or it does not accept them.',
    remedy: 'Set what the details name; `bpr cloud preflight` checks it.',
  },
  PLATFORM_UNREACHABLE: { meaning: 'The platform did not answer.', remedy: 'Check endpoint and network; running the deployment again goes on where it stopped.' },
  PLATFORM_THROTTLED: { meaning: 'The platform takes no more requests for now.', remedy: 'Wait and run it again; it goes on where it stopped.' },
  SCHEDULE_INVALID: {
    meaning: 'A schedule cannot be read.',
    remedy: 'Correct it where the message says. Schedules are calendars of systemd, not cron: `*:0/5`, `daily`, `Mon-Fri 09:00 Europe/Berlin`.',
  },
  SCHEDULE_LOSSY: {
    meaning: 'The target cannot keep all that the schedule says.',
    remedy: 'Change what the details list, or leave strict mode: then it is a warning.',
  },
  BUILD_FAILED: { meaning: 'The handler bundle could not be built.', remedy: 'Correct the error of the bundler that the message carries.' },

  // Work queue
  LEASE_LOST: { meaning: 'The lease of a job is not the current one: it ran out, was used, or the job was cancelled.', remedy: 'Stop working on the job; the queue takes nothing more from this attempt.' },
  WORKER_LOST: { meaning: 'A worker let its lease of a job run out: it may have run the job.', remedy: 'See the log of the worker; lengthen the lease, or extend it while the job runs.' },
  QUEUE_CLOSED: { meaning: 'The work queue was closed.', remedy: 'Connect again, or do not use a queue after close().' },
  QUEUE_CORRUPT: { meaning: 'The file of the work queue is damaged or not a queue; it is left as it is.', remedy: 'Put a good copy in its place, or move it and its -wal file away: calls of the chain that have no result are published again.' },
  QUEUE_DISK_FULL: { meaning: 'The disk of the work queue is full or fails.', remedy: 'Free space, then try again: nothing was changed.' },
  QUEUE_LOCKED: { meaning: 'Another process uses this work queue.', remedy: 'Stop the other process, or use another folder.' },
  QUEUE_VERSION: { meaning: 'The work queue was written by a newer version.', remedy: 'Use that version.' },

  // Control plane: tickets and the identities of workers
  TICKET_MALFORMED: { meaning: 'The text is not a ticket, or was changed on its way.', remedy: 'Copy the whole ticket, from bprt1. to its end, without line breaks; the file that the control plane writes holds nothing else.' },
  TICKET_EXPIRED: { meaning: 'The time in which the ticket lets workers enrol is over.', remedy: 'Make another one with bpr ticket create, or take the present one from the ticket file; compare the clocks of both machines.' },
  TICKET_NOT_YET_VALID: { meaning: 'The ticket lets workers enrol only later.', remedy: 'Wait until then, make another one, or compare the clocks of both machines.' },
  TICKET_FOREIGN: { meaning: 'The ticket and the control plane do not belong together: another one made it, or somebody else answers at its address.', remedy: 'Use a ticket of this control plane. When it should be the same one, look whether its data folder was replaced, and who listens at the address.' },
  TICKET_REVOKED: { meaning: 'The ticket, or the worker that enrolled with it, was revoked.', remedy: 'Ask the operator of the control plane for another ticket.' },
  TICKET_BOUND: { meaning: 'As many workers as the ticket allows have enrolled with it, and this is none of them.', remedy: 'Give each worker a ticket of its own, make one with more uses, or start the worker with the identity file that it enrolled with. When nobody should have used the ticket, revoke it.' },
  ENROLMENT_REPLAYED: { meaning: 'The proof of an enrolment was used before, or too late.', remedy: 'Enrol again with a new challenge; a worker does so by itself.' },
  IDENTITY_UNPROVEN: { meaning: 'Somebody enrols under a key that he does not have.', remedy: 'Start the worker with its own identity file.' },

  // Chain
  RPC_UNREACHABLE: { meaning: 'No RPC endpoint answers.', remedy: 'Check the endpoints and the network.' },
  RPC_RATE_LIMITED: { meaning: 'The RPC endpoint refuses requests because of their rate.', remedy: 'Add endpoints, or lower the polling rate.' },
  RPC_ERROR: { meaning: 'The RPC endpoint answered with an error.', remedy: 'See the message of the endpoint.' },
  RPC_RESPONSE_INVALID: { meaning: 'The RPC endpoint answered something that is not JSON-RPC.', remedy: 'Check that the address is an Ethereum JSON-RPC endpoint.' },
  CHAIN_MISMATCH: { meaning: 'The endpoint serves another chain, or the ledger belongs to another chain.', remedy: 'Use the endpoint or the ledger of the configured chain.' },
  CONTRACT_MISSING: { meaning: 'There is no contract at the configured address.', remedy: 'Correct the address of the contract.' },
  LOG_MALFORMED: { meaning: 'A log of the contract cannot be decoded, however often it is read; it is skipped and counted.', remedy: 'Check that the contract address and version are right.' },
  BLUEPRINT_NOT_FOUND: { meaning: 'The chain has no blueprint of that id.', remedy: 'Correct the blueprint id.' },
  SERVICE_NOT_FOUND: { meaning: 'The chain has no service of that id.', remedy: 'Correct the service id.' },
  METADATA_INVALID: { meaning: 'The metadata of a blueprint is malformed, too large, or does not match its hash.', remedy: 'Ask the author of the blueprint to correct it.' },
  REGISTRATION_FAILED: { meaning: 'The operator could not be registered.', remedy: 'See the reason of the contract.' },
  HEARTBEAT_FAILED: { meaning: 'A heartbeat was refused.', remedy: 'See the reason of the contract.' },
  CALL_REFUSED: { meaning: 'The contract refuses the call of a job.', remedy: 'See the reason of the contract: service, caller, payment and arguments must be what it takes.' },
  RESULT_TIMEOUT: { meaning: 'A call of a job was sent, and its result did not come in time.', remedy: 'Check that a runner serves the service; the call stays on chain and can still be answered: sending it again makes another call.' },

  // Settlement
  RESULT_REJECTED: { meaning: 'The contract refuses this result.', remedy: 'See the reason of the contract.' },
  TX_UNDERFUNDED: { meaning: 'The account cannot pay for the transaction.', remedy: 'Fund the account that the message names.' },
  TX_FEE_CAPPED: { meaning: 'The fee needed is above the configured cap.', remedy: 'Wait until the chain asks less, or raise `maxFeePerGas` (BPR_MAX_FEE_PER_GAS).' },
  SIGNER_MISSING: { meaning: 'A result is to be settled, but no account is configured.', remedy: 'Configure an account, or run with dryRun.' },

  // Ledger
  LEDGER_CORRUPT: { meaning: 'The ledger file is damaged or not a ledger; it is left as it is.', remedy: 'Put a good copy in its place, or move it and its -wal file away and start with fromBlock: what the chain still shows is read again, and the contract takes no second result.' },
  LEDGER_FULL: { meaning: 'The disk of the ledger is full.', remedy: 'Free space: the runner goes on by itself.' },
  LEDGER_LOCKED: { meaning: 'Another runner uses this ledger.', remedy: 'Stop the other runner, or use another ledger file.' },
  LEDGER_VERSION: { meaning: 'The ledger was written by a newer version.', remedy: 'Use that version.' },

  // Runner
  STATE_INVALID: { meaning: 'The operation is not possible in the present state.', remedy: 'See the state that the message names.' },
  DRAIN_TIMEOUT: { meaning: 'Calls were still running when the drain time ended.', remedy: 'Nothing is lost: they are taken up again at the next start.' },
  UNAUTHORIZED: { meaning: 'A request to a server of ours carries no credentials, or wrong ones.', remedy: 'Send the token that the server was started with.' },
  FORBIDDEN: { meaning: 'The credentials are right, and do not allow this.', remedy: 'Use a key with the scope and the function that the message names.' },
  REQUEST_INVALID: { meaning: 'A request to a server of ours is malformed.', remedy: 'Correct what the message names; /openapi.json describes every request.' },
  REQUEST_CONFLICT: { meaning: 'The request contradicts what is there: an idempotency key used for something else, or a change in between.', remedy: 'Read the present state and decide anew; use a new idempotency key for a new request.' },
  OUTCOME_UNKNOWN: { meaning: 'A request with this idempotency key had begun when its process ended: the function may have run, or not.', remedy: 'Look at what the function does, and send the request with a new key when it is to run. Functions declared idempotent run again by themselves.' },
  RATE_LIMITED: { meaning: 'These credentials sent too many requests, or have too many running.', remedy: 'Wait as long as Retry-After says.' },
  NOT_FOUND: { meaning: 'There is no such thing.', remedy: 'Check the name or id.' },
  INTERNAL: { meaning: 'An assumption of the program does not hold.', remedy: 'Report it with the details.' },
} as const satisfies Record<ErrorCode, { readonly meaning: string; readonly remedy: string }>;
