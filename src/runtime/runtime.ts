/**
 * The contract of the function runtime: what is run (`FunctionVersion`), what brings an instance up and down (`InstanceBackend`), and what
 * comes back (`Invocation`).
 *
 * Instances pull: each one asks our server of the Lambda Runtime API (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html) for
 * its next event. An instance is ready when it asked for the first time, never because a port is open.
 */

import type { Duplex } from 'node:stream';

/** Where the code of a version lies. Folders are immutable: their name is the hash of their content. */
export type FunctionCode =
  | { readonly kind: 'folder'; readonly path: string; readonly sha256: string }
  | { readonly kind: 'image'; readonly uri: string; readonly command?: readonly string[]; readonly entryPoint?: readonly string[] };

/** `none`: only loopback. `open`: what the machine reaches. */
export type NetworkAccess = 'none' | 'open';

/** One version of a function: all that an instance depends on. A change of anything is another version. */
export interface FunctionVersion {
  readonly name: string;
  /** `$LATEST` or a decimal number. */
  readonly version: string;
  /** SHA-256 over code, layers, runtime, handler, memory, timeout, environment, network: equal exactly when instances may be shared. Hex. */
  readonly fingerprint: string;
  readonly code: FunctionCode;
  /** Unpacked layers in the order they were attached: a later one overrides the files of an earlier one. */
  readonly layers: readonly { readonly path: string; readonly sha256: string }[];
  /** Such as `nodejs24.x` or `provided.al2023`. Ignored for images. */
  readonly runtime: string;
  /** Such as `index.handler`. */
  readonly handler: string;
  readonly memoryMb: number;
  /** The longest that one call may run, from when the instance took it. */
  readonly timeoutMs: number;
  /** Size of /tmp. */
  readonly ephemeralMb: number;
  /** What the author set. Values are secrets: never logged. */
  readonly environment: Readonly<Record<string, string>>;
  /** Calls that one instance takes at the same time. */
  readonly concurrencyPerInstance: number;
  readonly network: NetworkAccess;
  /** The most bytes of an answer that is not streamed, below what the runtime takes. Nothing that an instance can see: no part of the fingerprint. */
  readonly answerBytesMax?: number;
}

/** How an instance reaches the Runtime API that is its own. */
export interface RuntimeApiAddress {
  /**
   * A unix socket that speaks the Runtime API, alone in a folder that only we may enter (0700); both are there from `listen` on. The backend
   * gives its instance, and nobody else, access: it mounts the socket, or makes the folder that of the instance's user. The folders above it
   * let everybody pass (0711).
   */
  readonly socketPath: string;
  /** Opens the socket. Idempotent. Who has another way to its instance leaves it, which makes a start half a millisecond shorter. */
  listen(): Promise<void>;
  /** Opens a port on 127.0.0.1 as well, for runtime clients that know only host and port. The same port when called again. */
  openPort(): Promise<number>;
  /**
   * Speaks the Runtime API over a connection that the backend has with our own client, which then needs nothing else of it. `head` came over
   * it already. To be called in the turn in which that came, so that nothing is lost. The API closes it.
   */
  serve?(connection: Duplex, head: Buffer): void;
}

export interface LaunchSpec {
  /** Unique for ever; lower-case letters, digits, dashes. */
  readonly instanceId: string;
  /** Who started it: one function runtime on one machine, the same after its restart. Resources are labelled with it. */
  readonly ownerId: string;
  readonly fn: FunctionVersion;
  readonly runtimeApi: RuntimeApiAddress;
  /**
   * All that the program sees, except `AWS_LAMBDA_RUNTIME_API`, which the backend sets to what reaches `runtimeApi` from inside. Paths are
   * those of Lambda (`LAMBDA_TASK_ROOT` is /var/task); a backend that does not mount the code there sets its own.
   */
  readonly environment: Readonly<Record<string, string>>;
  /** Raw output of the program, as it comes. */
  readonly onOutput: (stream: 'stdout' | 'stderr', chunk: Uint8Array) => void;
  /** Gives the start up. */
  readonly signal: AbortSignal;
}

/** What only the backend understands: a process id, a container id, a pod. */
export type InstanceHandle = { readonly kind: string } & Readonly<Record<string, string | number>>;

export interface InstanceEnd {
  readonly reason: 'exited' | 'signalled' | 'out-of-memory' | 'terminated';
  readonly exitCode?: number;
  readonly signal?: string;
}

export interface Instance {
  readonly id: string;
  readonly handle: InstanceHandle;
  /** Resolves when nothing of it runs any more. Never rejects. */
  readonly ended: Promise<InstanceEnd>;
  /** Time to make what it runs in, before its program was started, in milliseconds. */
  readonly createMs: number;
}

/**
 * Brings instances up and down: a process, a container, a microVM, a pod. Knows nothing of calls, readiness, queues or warmth: that is the
 * pool's, the same for all backends.
 */
export interface InstanceBackend {
  readonly name: string;
  /**
   * Resolves when the program was started. Rejects with `INSTANCE_START_FAILED` (the last lines of output in the message),
   * `RUNTIME_UNSUPPORTED`, `CODE_MISSING`, `BACKEND_UNAVAILABLE`, `ABORTED`; then nothing is left behind.
   */
  launch(spec: LaunchSpec): Promise<Instance>;
  /** Ends it, at once and with all it started. Idempotent; resolves when nothing runs any more. */
  terminate(instance: Instance): Promise<void>;
  /** Removes what this owner left behind when its process died. Never touches another owner's. Resolves with how many. */
  reapStale?(ownerId: string): Promise<number>;
  /** Makes a first launch fast: pulls or builds an image. */
  prepull?(fn: FunctionVersion, signal: AbortSignal): Promise<void>;
  /** A paused instance uses no CPU and answers nothing. */
  pause?(instance: Instance): Promise<void>;
  resume?(instance: Instance): Promise<void>;
  /** Bytes that an instance uses now. */
  memoryBytes?(instance: Instance): Promise<number | undefined>;
  /** Undefined: it works here. Else the reason and what to do, for `doctor` and for conformance reports. */
  unavailable(): Promise<string | undefined>;
  /** Ends what it keeps ready for later launches. Idempotent. */
  close?(): Promise<void>;
}

export interface InvocationReport {
  readonly requestId: string;
  readonly instanceId: string;
  readonly coldStart: boolean;
  /** Waiting for an instance, starts included. */
  readonly queueMs: number;
  /** Only of a cold start: making the instance, booting it until its program runs, and initialising until it asked for work. */
  readonly createMs?: number;
  readonly bootMs?: number;
  readonly initMs?: number;
  readonly runMs: number;
  readonly memoryUsedMb?: number;
}

export interface Invocation {
  readonly body: Uint8Array;
  readonly contentType: string;
  readonly report: InvocationReport;
  /** The last 4 KiB of what the instance wrote during the call. */
  readonly logTail: Uint8Array;
}

export interface StreamedInvocation {
  readonly contentType: string;
  readonly requestId: string;
  /** One chunk for each write of the handler. Rejects with `FUNCTION_FAILED` when the handler breaks off; ending the loop ends the call. */
  readonly chunks: AsyncIterable<Uint8Array>;
  /** Resolves after the last chunk; rejects as `chunks` does. */
  readonly done: Promise<{ readonly report: InvocationReport; readonly logTail: Uint8Array }>;
}

/** The part of an `AbortSignal` that cancels a call; a whole one for each call costs more than all else that is made for it. */
export interface CancelSignal {
  readonly aborted: boolean;
  readonly reason: unknown;
  addEventListener(type: 'abort', listener: () => void, options?: { readonly once?: boolean }): void;
  removeEventListener(type: 'abort', listener: () => void): void;
}

export interface InvocationOptions {
  /** Milliseconds since the epoch; may shorten the timeout of the function, never lengthen it. */
  readonly deadline?: number | undefined;
  readonly signal?: CancelSignal | undefined;
  /** Default: a new UUID. */
  readonly requestId?: string | undefined;
  readonly contentType?: string | undefined;
  /** `Lambda-Runtime-Client-Context`, base64. */
  readonly clientContext?: string | undefined;
  readonly traceId?: string | undefined;
  readonly functionArn?: string | undefined;
  /** Reserved concurrency: with so many calls of this name running, one more is `EXECUTOR_THROTTLED`. */
  readonly concurrencyMax?: number | undefined;
  /** Somebody reads `logTail`: waits for output that was written before the answer. */
  readonly awaitLog?: boolean;
}

/** `stopping`: serves nobody any more. */
export type InstanceState = 'starting' | 'idle' | 'busy' | 'paused' | 'stopping';

export interface InstanceInfo {
  readonly id: string;
  readonly name: string;
  readonly version: string;
  readonly fingerprint: string;
  readonly state: InstanceState;
  /** Calls that run on it. */
  readonly running: number;
  /** Calls that it took since its start. */
  readonly calls: number;
  /** Milliseconds since the epoch. */
  readonly startedAt: number;
  readonly handle?: InstanceHandle;
}

/** One line that an instance wrote; a very long one is cut. */
export interface LogLine {
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly name: string;
  readonly version: string;
  readonly instanceId: string;
  readonly stream: 'stdout' | 'stderr';
  /** Absent outside of calls, and when the instance works on several. */
  readonly requestId?: string;
  /** Only of what the runtime itself writes of a call that failed. */
  readonly level?: 'error';
  readonly text: string;
}

export type RuntimeEvent =
  | {
      readonly kind: 'instance';
      readonly at: number;
      readonly instanceId: string;
      readonly name: string;
      readonly version: string;
      readonly state: 'starting' | 'ready' | 'failed' | 'paused' | 'resumed' | 'ended';
      /** Why it failed or ended. */
      readonly reason?: string;
    }
  | {
      readonly kind: 'invocation';
      readonly at: number;
      readonly requestId: string;
      readonly name: string;
      readonly version: string;
      /** `queued`: it waits for an instance, and is not told of a call that finds one at once; `started`: an instance has taken it. */
      readonly state: 'queued' | 'started' | 'finished';
      /** From `started` on. */
      readonly instanceId?: string;
      /** Of `finished`: `OK`, or the code of the error. */
      readonly outcome?: string;
      /** Of `finished`, when an instance had taken it. */
      readonly report?: InvocationReport;
    };
