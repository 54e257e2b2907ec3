/** Entry `blueprint-runner/plugin`: everything that an author of a plugin needs. */

export { systemClock } from './clock.ts';
export type { CancelTimer, Clock } from './clock.ts';
export { RunnerError, isErrorCode, isRunnerError, toRunnerError } from './errors.ts';
export type { ErrorCode, ErrorDetails, Retry, RunnerErrorOptions } from './errors.ts';
export { Deadlines, Expiring } from './executor/deadline.ts';
export type { Execution, ExecutionReport, ExecutorLimits, FaasExecutor, InvokeOptions } from './executor/executor.ts';
export { LIMITS, RUNTIMES, TARGET_LIMITS } from './executor/limits.ts';
export type {
  DeployChange,
  DeployOptions,
  DeployProgress,
  DeployReport,
  ExecutorReference,
  FaasDeployer,
  FunctionConfig,
  FunctionInvocation,
  FunctionPackage,
  FunctionSchedule,
  FunctionState,
  FunctionVersionInfo,
  InvocationType,
  LimitViolation,
  LogEntry,
  LogQuery,
} from './executor/deployer.ts';
export { parseCron } from './schedule/cron.ts';
export type { CronTarget } from './schedule/cron.ts';
export type { Loss, LossKind } from './schedule/cron-fields.ts';
export { scheduleToEventBridgeExpression, toEventBridgeScheduler } from './schedule/eventbridge.ts';
export type { FlexibleTimeWindow, SchedulerTranslation } from './schedule/eventbridge.ts';
export { parseSchedule } from './schedule/schedule.ts';
export type { Calendar, Periodic, Schedule } from './schedule/schedule.ts';
export { translate } from './schedule/translate.ts';
export type { TranslateOptions, Translation } from './schedule/translate.ts';
export { toKubernetesCronJob } from './schedule/units.ts';
export type { CronJobTranslation } from './schedule/units.ts';
export { carryOut, noVersion, refuseUnfit, rollbackTarget, warningsOf } from './executor/steps.ts';
export type { Step, StepPlan } from './executor/steps.ts';
export { logFilter, logLevelOf } from './executor/log-query.ts';
export { checkProgram, programDigest, secretsFingerprint, writeProgram } from './executor/machine.ts';
export type { Machine, MachineHost, MachineReport, ProgramSpec } from './executor/machine.ts';
export { Connections, parseTarget } from './http/connection.ts';
export type { ConnectionOptions, Target } from './http/connection.ts';
export type { HttpRequest, HttpResponse, TlsFiles } from './http/http.ts';
export { inTime, outdated } from './http/in-time.ts';
export { PlatformRequests, count, errorOf, failure, fieldsOf, text } from './http/platform-requests.ts';
export type { PlatformRequest, PlatformRequestsOptions } from './http/platform-requests.ts';
export { Waits } from './http/waits.ts';
export { BLUEPRINT, Metadata, TANGLE, TRACE, toJobId } from './job/call.ts';
export type { ChainCall, Hex, JobCall, JobIdLike, JobResult } from './job/call.ts';
export {
  OCTETS_TYPE,
  decodeRequest,
  decodeResponse,
  encodeError,
  encodeRequest,
  encodeResponse,
  errorFromResponse,
  statusOf,
} from './job/wire.ts';
export type { DecodedRequest, DecodedResponse, WireFormat, WireRequest, WireResponse } from './job/wire.ts';
export { importPeer } from './plugin/peer.ts';
export type {
  BackendFactory,
  DeployerFactory,
  ExecutorFactory,
  HostFactory,
  QueueFactory,
  Peer,
  Plugin,
  PluginContext,
  PluginRegistration,
} from './plugin/plugin.ts';
export { Secret } from './plugin/secret.ts';
export type { SecretOptions, SecretReference } from './plugin/secret.ts';
export { Counts as QueueCounts } from './queue/counts.ts';
export { TypeTally } from './queue/type-tally.ts';
export type { CollectOptions, CollectableObjects, Collected, ResumableObjects, Uploaded } from './queue/objects.ts';
export { isReference, retryDelayMs } from './queue/queue.ts';
export type {
  ClaimOptions,
  ClaimedJob,
  Content,
  Headers,
  JobFailure,
  Lease,
  NewJob,
  ObjectReference,
  ObjectStore,
  Published,
  Purged,
  QueueJobState,
  QueueJobStatus,
  QueueLimits,
  QueueResult,
  QueueStats,
  WorkQueue,
  WorkerStats,
} from './queue/queue.ts';
export {
  checkAge,
  checkClaim,
  checkDelay,
  checkFailure,
  checkJob,
  checkJobs,
  checkLease,
  checkLeaseMs,
  checkLimit,
  checkResult,
  leaseLost,
  sameContent,
} from './queue/requests.ts';
export type { CheckedClaim, CheckedFailure, CheckedJob, CheckedResult } from './queue/requests.ts';
export type { GrantedWorker, KeyedObjects, QueueGrant, RevokedWorker, SharedQueue } from './queue/shared-queue.ts';
export { nodeClientSource, threadClientSource } from './runtime/node-client-source.ts';
export type { BytesHandler, ThreadAssignment, ThreadMessage } from './runtime/node-client-thread.ts';
export { PortSocket } from './runtime/port-socket.ts';
export { ResultDecoder } from './runtime/runtime-executor.ts';
export type {
  FunctionCode,
  FunctionVersion,
  Instance,
  InstanceBackend,
  InstanceEnd,
  InstanceHandle,
  LaunchSpec,
  NetworkAccess,
  RuntimeApiAddress,
} from './runtime/runtime.ts';
export type { Logger, Telemetry } from './telemetry/telemetry.ts';
export { silentTelemetry } from './telemetry/telemetry.ts';
