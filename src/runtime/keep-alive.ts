/** How long instances without a call stay, and which one makes room when memory or places run out. */

export interface KeepAliveWindows {
  /** An instance that had no call for so long is ended. */
  readonly keepMs: number;
  /** The next call is expected later: so long after the last one an instance is started again, and kept for that long. */
  readonly again?: { readonly startAfterMs: number; readonly keepMs: number };
}

/** What is known of a function when an instance of it may have to make room. */
export interface KeepAliveStats {
  readonly name: string;
  readonly memoryMb: number;
  /** What its start took. */
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
  /** A call got an instance; the time is monotonic. */
  started?(name: string, now: number): void;
  /** It gave it back. */
  ended?(name: string, now: number): void;
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

const BIN_MS = 60_000;
const BINS = 240;
const SAMPLES_MIN = 10;
/** Of the idle times, so many are shorter than the head, and so many are not longer than the tail. */
const HEAD = 0.05;
const TAIL = 0.99;
/** Windows open so much earlier and close so much later. */
const MARGIN = 0.1;
/** Above it the idle times gather in few bins; below it they say nothing. */
const VARIATION_MIN = 2;
/** To end an instance and to start it again does not pay below it. */
const HEAD_BINS_MIN = 2;

/** How long a function was without a call, each time, in minutes. */
export class IdleHistogram {
  readonly #bins = new Uint32Array(BINS);
  #inside = 0;
  #outside = 0;

  add(idleMs: number): void {
    const bin = Math.floor(idleMs / BIN_MS);
    if (bin >= BINS) {
      this.#outside += 1;
      return;
    }
    this.#bins[bin] = (this.#bins[bin] ?? 0) + 1;
    this.#inside += 1;
  }

  /** Undefined: it does not say enough. */
  windows(): KeepAliveWindows | undefined {
    const samples = this.#inside + this.#outside;
    if (samples < SAMPLES_MIN || this.#outside * 2 > samples || this.#variation() < VARIATION_MIN) return undefined;
    const head = this.#binAt(HEAD);
    const tailMs = (this.#binAt(TAIL) + 1) * BIN_MS * (1 + MARGIN);
    if (head < HEAD_BINS_MIN) return { keepMs: tailMs };
    const startAfterMs = head * BIN_MS * (1 - MARGIN);
    return { keepMs: 0, again: { startAfterMs, keepMs: tailMs - startAfterMs } };
  }

  /** The bin that holds this share of the idle times. */
  #binAt(share: number): number {
    const wanted = Math.max(1, Math.ceil(share * this.#inside));
    let seen = 0;
    for (let bin = 0; bin < BINS; bin += 1) {
      seen += this.#bins[bin] ?? 0;
      if (seen >= wanted) return bin;
    }
    return BINS - 1;
  }

  /** Of the counts of the bins: deviation over mean. */
  #variation(): number {
    const mean = this.#inside / BINS;
    let squares = 0;
    for (const count of this.#bins) squares += (count - mean) ** 2;
    return Math.sqrt(squares / BINS) / mean;
  }
}

export interface HistogramKeepAliveOptions extends FixedKeepAliveOptions {
  /** Functions that are remembered; the one without a call for longest is forgotten. Default 10,000. */
  readonly functionsMax?: number;
}

/**
 * Learns when each function is called again (the hybrid histogram policy of "Serverless in the Wild", USENIX ATC 2020): an instance stays
 * until the next call is no longer likely; one whose next call comes late is ended at once and started again shortly before it.
 * As long as the idle times say too little, the fixed time holds.
 */
export function histogramKeepAlive(options: HistogramKeepAliveOptions = {}): KeepAlive {
  const fixed = fixedKeepAlive(options);
  const { functionsMax = 10_000 } = options;
  const uses = new Map<string, { readonly histogram: IdleHistogram; running: number; quietSince: number }>();
  return {
    ...fixed,
    windows: (name) => uses.get(name)?.histogram.windows() ?? fixed.windows(name),
    started(name, now) {
      let use = uses.get(name);
      if (use?.running === 0) use.histogram.add(now - use.quietSince);
      use ??= { histogram: new IdleHistogram(), running: 0, quietSince: now };
      use.running += 1;
      // Set anew: the map is in the order of the last calls.
      uses.delete(name);
      uses.set(name, use);
      if (uses.size > functionsMax) for (const [oldest] of uses) return void uses.delete(oldest);
    },
    ended(name, now) {
      const use = uses.get(name);
      if (!use) return;
      use.running = Math.max(0, use.running - 1);
      use.quietSince = now;
    },
  };
}

export interface GreedyDualKeepAliveOptions {
  readonly memoryMbMax: number;
  /** Default 3,600,000: the budget decides, not the time. */
  readonly keepMs?: number;
  readonly pauseAfterMs?: number;
}

/**
 * Instances stay until memory runs out; then those go whose function is called seldom, starts fast and takes much memory (Greedy-Dual with
 * frequency and size, as in "FaasCache", ASPLOS 2021). What went raises the bar for those that are not used, so that old fame fades.
 */
export function greedyDualKeepAlive(options: GreedyDualKeepAliveOptions): KeepAlive {
  const { keepMs = 3_600_000, memoryMbMax, pauseAfterMs } = options;
  const uses = new Map<string, { calls: number; level: number }>();
  let level = 0;
  return {
    windows: () => ({ keepMs }),
    memoryMbMax,
    pauseAfterMs,
    started(name) {
      const use = uses.get(name);
      if (use) {
        use.calls += 1;
        use.level = level;
      } else uses.set(name, { calls: 1, level });
    },
    rank({ name, memoryMb, startMs }) {
      const use = uses.get(name);
      return (use?.level ?? level) + ((use?.calls ?? 1) * startMs) / memoryMb;
    },
    evicted(rank) {
      level = Math.max(level, rank);
      // A function whose fame has faded starts anew.
      for (const [name, use] of uses) if (use.level < level && use.calls <= 1) uses.delete(name);
    },
  };
}
