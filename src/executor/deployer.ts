/**
 * The contract of everything that puts functions on a platform. A deployment is declarative: whoever deploys says what should be there,
 * the deployer compares it with what is there and changes what differs. Everything that has to be known again is kept on the platform
 * itself, in tags, labels or annotations; nothing is kept here.
 */

import type { Schedule } from '../schedule/schedule.ts';

/** What to deploy. */
export interface FunctionPackage {
  /** A zip whose root holds what the platform starts. */
  readonly zip: Uint8Array;
  /** Of the zip, hex. */
  readonly sha256: string;
}

/** One time table of a function. */
export interface FunctionSchedule {
  /** Unique within the function; lower-case letters, digits and dashes. */
  readonly name: string;
  readonly schedule: Schedule;
  /** The event that the function gets, JSON. Default `{}`. */
  readonly event?: unknown;
}

/** How a function is to run. What is left out is the platform's default, and is left alone by an update. */
export interface FunctionConfig {
  readonly description?: string;
  /** Neutral: `nodejs24` (default), `nodejs22`, `custom` for a package that brings its own `bootstrap`. */
  readonly runtime?: string;
  /** Default: what the bundle of `buildHandler` exports for the platform. */
  readonly handler?: string;
  readonly memoryMb?: number;
  readonly timeoutMs?: number;
  readonly ephemeralStorageMb?: number;
  readonly architecture?: 'x86_64' | 'arm64';
  readonly environment?: Readonly<Record<string, string>>;
  /** Calls at the same time, over all instances. */
  readonly concurrencyMax?: number;
  /** Instances that are kept ready. */
  readonly instancesMin?: number;
  /** All of them: a schedule that is not here is removed from the platform. */
  readonly schedules?: readonly FunctionSchedule[];
  readonly tags?: Readonly<Record<string, string>>;
  readonly logRetentionDays?: number;
  /** What only this platform knows: role, network, layers, URL, dead letters. The plugin publishes and checks its type. */
  readonly platform?: Readonly<Record<string, unknown>>;
}

/** A function as it is on the platform. */
export interface FunctionState {
  readonly name: string;
  /** The platform's own id: ARN, resource name, UUID. */
  readonly id: string;
  /** `busy`: the platform is still working on it. `foreign`: this tool did not make it and never changes it. */
  readonly status: 'active' | 'busy' | 'failed' | 'foreign';
  /** Why it failed. */
  readonly reason?: string;
  /** Where calls go. */
  readonly endpoint?: string;
  /** Which package it runs, hex. Absent when the platform does not tell. */
  readonly sha256?: string;
  readonly version?: string;
  readonly updatedAt?: string;
  readonly config: FunctionConfig;
  /** What a runner needs to call it: `.withFaasExecutor(jobId, state.executor)`. JSON, without secrets. */
  readonly executor: ExecutorReference;
  /** All that belongs to it: roles, schedules, log groups, layers. */
  readonly resources: readonly { readonly kind: string; readonly id: string }[];
}

/** A plugin and its options, as the builder of a runner takes them. */
export interface ExecutorReference {
  readonly use: string;
  readonly options: Readonly<Record<string, unknown>>;
  /** Environment variables that it reads where it runs, credentials above all. */
  readonly environment?: readonly string[];
}

/** One write to the platform: done, or to be done when it was a dry run. */
export interface DeployChange {
  readonly action: 'create' | 'update' | 'delete';
  /** `function`, `code`, `configuration`, `role`, `schedule`, `log-group`, ... */
  readonly resource: string;
  readonly id: string;
  /** Of an update: what differs. Never the values of environment variables. */
  readonly fields?: readonly string[];
}

export interface DeployReport {
  /** Absent after a removal, and after a dry run of a first deployment. */
  readonly state?: FunctionState;
  /** Empty: everything was as it should be, and nothing was written. */
  readonly changes: readonly DeployChange[];
  /** What the platform cannot do as asked, in words. */
  readonly warnings: readonly string[];
}

export interface DeployProgress {
  /** What is done now, in words: `waiting for the role to become assumable`. */
  readonly step: string;
  readonly function: string;
  /** Something is written with this step: should the work stop here, it may be done or not. */
  readonly writes?: true;
  /** Of so many steps of this function. Both absent when nobody knows. */
  readonly done?: number;
  readonly total?: number;
}

export interface DeployOptions {
  /** Reads, compares and reports; writes nothing. */
  readonly dryRun?: boolean;
  /** What the platform cannot do as asked is `SCHEDULE_LOSSY` or `LIMIT_EXCEEDED` instead of a warning. */
  readonly strict?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: DeployProgress) => void;
}

/** A limit of the platform that a function would break. */
export interface LimitViolation {
  readonly limit: string;
  readonly value: number | string;
  readonly allowed: string;
  readonly message: string;
}

export type InvocationType = 'sync' | 'async' | 'dry-run';

export interface FunctionInvocation {
  /** The body of the answer; empty for `async` and `dry-run`. */
  readonly body: Uint8Array;
  /** The function itself failed: what it said is in the body. */
  readonly failed: boolean;
  readonly requestId?: string;
  readonly version?: string;
  readonly report?: {
    readonly durationMs?: number;
    readonly billedMs?: number;
    readonly memoryUsedMb?: number;
    readonly initMs?: number;
  };
}

export interface LogEntry {
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly message: string;
  readonly level?: string;
  readonly requestId?: string;
  readonly instance?: string;
}

export interface LogQuery {
  /** The newest so many. Default 100. */
  readonly limit?: number;
  readonly sinceMs?: number;
  readonly untilMs?: number;
  /** This level and above. */
  readonly level?: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal';
  readonly search?: string;
  readonly requestId?: string;
  /** Goes on with what is written from now on, until the signal fires. */
  readonly follow?: boolean;
  readonly signal?: AbortSignal;
}

export interface FunctionVersionInfo {
  readonly version: string;
  readonly sha256?: string;
  readonly createdAt?: string;
  /** Calls go to this one. */
  readonly current: boolean;
}

/**
 * Puts functions on a platform, and takes them off.
 *
 * Every operation can be repeated: deploying what is there already writes nothing, removing what is not there succeeds, a deployment that
 * was interrupted at any point converges when it is run again. Resources that this tool did not make are never changed: `RESOURCE_FOREIGN`.
 * Everything is checked before the first write (`LIMIT_EXCEEDED` with all violations in `details.violations`, `SCHEDULE_INVALID`).
 * Rejects further with `CREDENTIALS_MISSING`, `PLATFORM_UNREACHABLE`, `PLATFORM_THROTTLED` (after its own patient retries of idempotent
 * requests), `FUNCTION_NOT_FOUND`, `OPERATION_UNSUPPORTED`, `DEPLOY_FAILED` with the platform's own code and message, `PEER_MISSING`, `ABORTED`.
 * Constructors do no I/O; an SDK is loaded on first use.
 */
export interface FaasDeployer {
  readonly name: string;
  /** All limits that deploying this would break. Pure. */
  violations(name: string, code: FunctionPackage, config: FunctionConfig): readonly LimitViolation[];
  /** Creates or updates, and waits until calls get the new version. */
  deploy(name: string, code: FunctionPackage, config: FunctionConfig, options?: DeployOptions): Promise<DeployReport>;
  /** Only the code. `FUNCTION_NOT_FOUND` when it was never deployed. Calls that run go on. */
  updateCode(name: string, code: FunctionPackage, options?: DeployOptions): Promise<DeployReport>;
  /** Only what `config` names. */
  updateConfiguration(name: string, config: FunctionConfig, options?: DeployOptions): Promise<DeployReport>;
  /** Undefined when there is no such function. */
  describe(name: string, options?: { readonly signal?: AbortSignal }): Promise<FunctionState | undefined>;
  /** Ours; with `all` those of others, too. */
  list(options?: { readonly all?: boolean; readonly signal?: AbortSignal }): AsyncIterable<FunctionState>;
  invoke(
    name: string,
    event: Uint8Array,
    options?: { readonly type?: InvocationType; readonly version?: string; readonly signal?: AbortSignal },
  ): Promise<FunctionInvocation>;
  /** Oldest first. */
  logs(name: string, query?: LogQuery): AsyncIterable<LogEntry>;
  /** Newest first. */
  versions(name: string, options?: { readonly signal?: AbortSignal }): Promise<readonly FunctionVersionInfo[]>;
  /** To this version, or to the one before the current one. Nothing older: `NOT_FOUND`. */
  rollback(name: string, version?: string, options?: DeployOptions): Promise<DeployReport>;
  /** With all that was made for it, except logs. No changes in the report: it was not there. */
  remove(name: string, options?: DeployOptions): Promise<DeployReport>;
  /** Graceful and idempotent. */
  close?(): Promise<void>;
}
