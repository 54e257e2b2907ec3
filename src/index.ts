/** Entry `blueprint-runner`: everything that an author of a blueprint needs. */

export { systemClock } from './clock.ts';
export type { CancelTimer, Clock } from './clock.ts';
export { ERROR_CODES, RunnerError, isErrorCode, isRunnerError, toRunnerError } from './errors.ts';
export type { ErrorCode, ErrorDetails, ErrorKind, Retry, RunnerErrorOptions } from './errors.ts';

export { BLUEPRINT, Metadata, TANGLE, TRACE, toJobId } from './job/call.ts';
export type { Address, ChainCall, Codec, Hex, JobCall, JobIdLike, JobResult } from './job/call.ts';
export { chunked } from './job/chunked.ts';
export { NO_RESULT, defineJob, withMetadata } from './job/job.ts';
export type { Job, JobExtras, JobInfo, JobOptions, RawJobOptions } from './job/job.ts';
export { JobRouter } from './job/router.ts';
export type { JobDescription, ObserverErrorListener } from './job/router.ts';
export { BlockHash, BlockNumber, Body, CallId, Caller, JobId, ServiceId, Timestamp, metadata, optional } from './job/extract.ts';
export type { Extractor, Extractors } from './job/extract.ts';
export { concurrency, rate, timeout, trace, validate } from './job/middleware.ts';
export type { Middleware, Next } from './job/middleware.ts';

export type { Execution, ExecutionReport, ExecutorLimits, FaasExecutor, InvokeOptions } from './executor/executor.ts';
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
export { CRON_TARGETS, cronFirings, parseCron } from './schedule/cron.ts';
export type { CronFiringOptions, CronMeaning, CronTarget } from './schedule/cron.ts';
export type { Loss, LossKind } from './schedule/cron-fields.ts';
export { calendarToCron, periodicToRate, scheduleToEventBridgeExpression, toEventBridgeScheduler } from './schedule/eventbridge.ts';
export type { ExpressionOptions, FlexibleTimeWindow, SchedulerTranslation } from './schedule/eventbridge.ts';
export { normalCalendar } from './schedule/calendar-format.ts';
export { firings, nextFiring } from './schedule/firings.ts';
export type { FiringOptions } from './schedule/firings.ts';
export { calendar, parseSchedule, periodic } from './schedule/schedule.ts';
export type { Calendar, CalendarOptions, Periodic, PeriodicOptions, Schedule } from './schedule/schedule.ts';
export { Scheduler } from './schedule/scheduler.ts';
export type {
  Firing,
  LastRunStore,
  OverlapPolicy,
  RunOutcome,
  RunRecord,
  ScheduledTask,
  SchedulerOptions,
  TaskStatus,
} from './schedule/scheduler.ts';
export { translate } from './schedule/translate.ts';
export type { TranslateOptions, Translation } from './schedule/translate.ts';
export { toKubernetesCronJob, toSystemdUnits } from './schedule/units.ts';
export type { CronJobTranslation, SystemdUnitOptions, SystemdUnits } from './schedule/units.ts';
export { LocalExecutor } from './executor/local.ts';
export type { BackoffPolicy, BreakerPolicy, CircuitState, ExecutionPolicy } from './executor/resilience.ts';
export type { RouteDescription } from './executor/routes.ts';

export type {
  CallRecord,
  CallState,
  BlockRef,
  Cursor,
  Ledger,
  LedgerEvent,
  LedgerStats,
  LedgerTransaction,
  SeenOutcome,
} from './ledger/ledger.ts';
export { SqliteLedger } from './ledger/sqlite.ts';
export type { SqliteLedgerOptions } from './ledger/sqlite.ts';

export type {
  BlueprintMetadata,
  ChainClient,
  ChainUpdate,
  FollowOptions,
  JobDefinition,
  JobProfile,
  OperatorState,
  Receipt,
  ServiceState,
  Signer,
  TransactionRequest,
  TransactionSender,
} from './chain/chain.ts';
export { connectRpcChain } from './chain/connect.ts';
export type { RpcChainClient, RpcChainClientOptions } from './chain/rpc.ts';
export type { FunctionExecutorOptions } from './runtime/function-executor.ts';
export type { SettlementStatus } from './chain/settlement.ts';

export { EmbeddedQueue } from './queue/embedded.ts';
export type { EmbeddedQueueOptions } from './queue/embedded.ts';
export { FolderObjects } from './queue/folder-objects.ts';
export { QueueExecutor } from './queue/queue-executor.ts';
export type { QueueExecutorOptions } from './queue/queue-executor.ts';
export type { ObjectStore, WorkQueue } from './queue/queue.ts';
export type { RemoteExecutorOptions } from './queue/remote-executor.ts';
export { RemoteQueue } from './queue/remote.ts';
export type { RemoteQueueOptions } from './queue/remote.ts';
export { Worker } from './worker/worker.ts';
export type { WorkerEvent, WorkerOptions } from './worker/worker.ts';

export type { Plugin, PluginContext, PluginRegistration } from './plugin/plugin.ts';

export { analyzeBlueprint } from './deploy/analyze.ts';
export type { AnalysisOptions, BlueprintAnalysis, JobFacts, JobVerdict, Reason, ReasonCode } from './deploy/analyze.ts';
export { createPackage } from './deploy/callable.ts';
export type { CreatePackageOptions, PackagedCallable } from './deploy/callable.ts';
export { estimateCost } from './deploy/cost.ts';
export type { CostEstimate, CostLine, CostOptions, Usage } from './deploy/cost.ts';
export { buildHandler } from './deploy/package.ts';
export type { BuildHandlerOptions, BuiltHandler, BundleInput, PackagedJob } from './deploy/package.ts';
export { loadPolicy } from './deploy/policy.ts';
export type { LoadedPolicy, PolicyOptions } from './deploy/policy.ts';
export type { DeploymentPolicy, FaasProvider, JobPolicy } from './deploy/policy-model.ts';
export { selectProvider } from './deploy/select.ts';
export type { Candidate, Needs, SelectOptions, Selection } from './deploy/select.ts';
export { PLANNING_LIMITS } from './executor/limits.ts';
export type { JobLimits, Target } from './executor/limits.ts';

export { createStartSpan } from './telemetry/otel.ts';
export { createLogger } from './telemetry/pino.ts';
export type { LogLevel, LoggerOptions } from './telemetry/pino.ts';
export { createMetrics } from './telemetry/prometheus.ts';
export type { PrometheusMetrics } from './telemetry/prometheus.ts';
export { silentTelemetry } from './telemetry/telemetry.ts';
export type { Counter, Gauge, Histogram, Logger, Metrics, Span, SpanOptions, Telemetry, TraceContext } from './telemetry/telemetry.ts';

export type { ExecutorSpec, JobExecutionOptions, RunnerBuilder } from './runner/builder.ts';
export type { ChainMode, Environment, MetricsServerConfig, RunnerConfig } from './runner/config.ts';
export type { ExecutedCall, RunnerEvents, RunnerState } from './runner/events.ts';
export type { BackgroundService, Consumer, ErrorHook, Producer, ServiceContext } from './runner/parts.ts';
export { BlueprintRunner } from './runner/runner.ts';
export { SCHEDULED, scheduledJobs } from './runner/scheduled.ts';
export type { ScheduleProducer, ScheduledJob, ScheduledJobsOptions } from './runner/scheduled.ts';
export type { RunnerStatus } from './runner/runner.ts';
export type { RestartPolicy } from './runner/supervisor.ts';
