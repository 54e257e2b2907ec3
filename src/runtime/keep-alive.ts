/** How long instances without a call stay. */

export interface KeepAliveWindows {
  /** An instance that had no call for so long is ended. */
  readonly keepMs: number;
  /** So long after the last call of the function one instance is started again, and then kept until `keepMs` after it was ready. */
  readonly startAgainAfterMs?: number;
}

/** What is known of a function when an instance of it has to make room. */
export interface KeepAliveStats {
  readonly name: string;
  readonly memoryMb: number;
  /** What the last start took. */
  readonly startMs: number;
  /** When the instance became idle; monotonic. */
  readonly idleSince: number;
}

export interface KeepAlive {
  windows(name: string): KeepAliveWindows;
  /** A backend that can pauses instances that had no call for so long. Absent: never. */
  readonly pauseAfterMs?: number | undefined;
  /** The memory of all instances together, as their functions declare it. Absent: no limit. */
  readonly memoryMbMax?: number | undefined;
  /** A call came; `idleMs` is how long the function had been without one, undefined when it was not. */
  called?(name: string, idleMs: number | undefined): void;
  /** Of several idle instances the one with the lowest rank makes room. Default: the one that is idle for longest. */
  rank?(stats: KeepAliveStats): number;
  /** An instance of this rank made room. */
  evicted?(rank: number): void;
}

export interface FixedKeepAliveOptions {
  /** Default 300,000. */
  readonly keepMs?: number;
  readonly pauseAfterMs?: number;
  readonly memoryMbMax?: number;
}

/** The same for all functions. */
export function fixedKeepAlive(options: FixedKeepAliveOptions = {}): KeepAlive {
  const windows: KeepAliveWindows = { keepMs: options.keepMs ?? 300_000 };
  return { windows: () => windows, pauseAfterMs: options.pauseAfterMs, memoryMbMax: options.memoryMbMax };
}
