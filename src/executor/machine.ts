/** The contract of everything that keeps one long-running program alive: this machine, a container engine, a virtual machine of a cloud. */

import type { DeployChange, DeployOptions, LogEntry, LogQuery } from './deployer.ts';

/** A program for node, with all that it needs. */
export interface ProgramSpec {
  /** Unique on the host; lower-case letters, digits and dashes. */
  readonly name: string;
  /** Files by relative path. Nothing else of the sender's machine is there. */
  readonly files: Readonly<Record<string, Uint8Array>>;
  /** Arguments of node; the first names a file of `files`. */
  readonly args: readonly string[];
  /** The whole environment besides `secrets`; nothing is inherited. */
  readonly environment: Readonly<Record<string, string>>;
  /** Variables by reference: `env:NAME` and `file:/path` are read by the sender, other schemes by the host (`ssm:/name`). Never stored in the clear by the sender. */
  readonly secrets?: Readonly<Record<string, string>>;
  readonly memoryMb?: number;
  /** Where the program serves /healthz and /readyz on its loopback interface. */
  readonly healthPort: number;
  readonly tags?: Readonly<Record<string, string>>;
}

export interface Machine {
  readonly name: string;
  /** The host's own id: process, container, instance. */
  readonly id: string;
  /** `starting`: not ready yet. `foreign`: this tool did not start it and never changes it. */
  readonly status: 'starting' | 'running' | 'stopped' | 'failed' | 'foreign';
  /** Why it failed, with its last lines. */
  readonly reason?: string;
  /** Where its health can be asked from here; absent when it cannot be reached. */
  readonly healthUrl?: string;
  /** Of the whole specification: another one is another program. */
  readonly specSha256?: string;
  readonly startedAt?: string;
  readonly memoryBytes?: number;
}

export interface MachineReport {
  readonly machine?: Machine;
  /** Empty: it ran as it should. */
  readonly changes: readonly DeployChange[];
  readonly warnings: readonly string[];
}

/**
 * Keeps programs running. Every operation can be repeated: running what runs already changes nothing, another specification of the same
 * name replaces the program, ending what is not there succeeds. What this tool did not start is `RESOURCE_FOREIGN`.
 * Rejects further with `LIMIT_EXCEEDED`, `CREDENTIALS_MISSING`, `PLATFORM_UNREACHABLE`, `PLATFORM_THROTTLED`, `DEPLOY_FAILED`, `PEER_MISSING`, `ABORTED`.
 * Constructors do no I/O.
 */
export interface MachineHost {
  readonly name: string;
  /** Resolves when the program is ready, or when the host cannot tell: then its status is `starting`. */
  run(spec: ProgramSpec, options?: DeployOptions): Promise<MachineReport>;
  /** Undefined when there is none of that name. */
  describe(name: string, options?: { readonly signal?: AbortSignal }): Promise<Machine | undefined>;
  /** Ours. */
  list(options?: { readonly signal?: AbortSignal }): AsyncIterable<Machine>;
  /** Oldest first. */
  logs(name: string, query?: LogQuery): AsyncIterable<LogEntry>;
  /** SIGTERM, time to drain, then by force. No changes in the report: it was not there. */
  terminate(name: string, options?: DeployOptions): Promise<MachineReport>;
  close?(): Promise<void>;
}
