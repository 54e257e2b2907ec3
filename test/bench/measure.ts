/** Comparison of two ways to do the same, interleaved in one process; what counts is the ratio. */

export interface Contestants {
  readonly peer: () => unknown;
  readonly ours: () => unknown;
}

export interface CompareOptions {
  /** Whole rounds; the ratio is the median over them. Default 7. */
  readonly rounds?: number;
  /** How long one contestant runs in one round, in milliseconds. Default 40. */
  readonly sliceMs?: number;
  /** The largest ratio that is good enough. A comparison above it sets the exit code. */
  readonly goal?: number;
}

export interface Comparison {
  readonly name: string;
  /** Time of ours for one of the peer's: below 1 is faster. */
  readonly ratio: number;
  /** Median nanoseconds of one call. */
  readonly peerNs: number;
  readonly oursNs: number;
  readonly goal?: number;
}

const isJson = process.argv.includes('--json');

/**
 * Runs both in turns (first one, then the other, swapped every round), after a round that warms up and is not counted, and prints
 * one line, or one JSON object with `--json`. Functions that return promises are awaited one call at a time.
 *
 * @example
 * await compare('encode 64 B', { peer: () => JSON.stringify(value), ours: () => encode(value) }, { goal: 0.55 });
 */
export async function compare(name: string, contestants: Contestants, options: CompareOptions = {}): Promise<Comparison> {
  const { rounds = 7, sliceMs = 40, goal } = options;
  const count = { peer: await callsWithin(contestants.peer, sliceMs), ours: await callsWithin(contestants.ours, sliceMs) };
  const { peer, ours, ratios } = await interleaved(
    {
      peer: () => nanosecondsPerCall(contestants.peer, count.peer),
      ours: () => nanosecondsPerCall(contestants.ours, count.ours),
    },
    rounds,
  );
  const comparison: Comparison = {
    name,
    ratio: median(ratios),
    peerNs: median(peer),
    oursNs: median(ours),
    ...(goal !== undefined && { goal }),
  };
  report(comparison, Math.min(...ratios), Math.max(...ratios));
  return comparison;
}

/** Figures of both, measured in turns: whoever comes second finds a warmer machine, so the order is swapped every round. `ratios` are ours by the peer's. */
export async function interleaved(
  sides: { readonly peer: () => Promise<number>; readonly ours: () => Promise<number> },
  rounds: number,
): Promise<{ readonly peer: number[]; readonly ours: number[]; readonly ratios: number[] }> {
  const figures = { peer: [] as number[], ours: [] as number[] };
  for (let round = 0; round < rounds; round += 1) {
    const order = round % 2 === 0 ? (['peer', 'ours'] as const) : (['ours', 'peer'] as const);
    for (const side of order) figures[side].push(await sides[side]());
  }
  return { ...figures, ratios: figures.ours.map((ours, round) => ours / (figures.peer[round] as number)) };
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? (sorted[middle] as number) : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

async function callsWithin(run: () => unknown, sliceMs: number): Promise<number> {
  for (let calls = 1; ; calls *= 2) {
    const elapsedMs = ((await nanosecondsPerCall(run, calls)) * calls) / 1e6;
    if (elapsedMs >= sliceMs / 2) return Math.max(1, Math.round((calls * sliceMs) / elapsedMs));
  }
}

async function nanosecondsPerCall(run: () => unknown, calls: number): Promise<number> {
  const first = run();
  const isAsync = first instanceof Promise;
  await first;
  const started = process.hrtime.bigint();
  if (isAsync) for (let index = 0; index < calls; index += 1) await run();
  else for (let index = 0; index < calls; index += 1) run();
  return Number(process.hrtime.bigint() - started) / calls;
}

function report(comparison: Comparison, least: number, most: number): void {
  const { name, ratio, peerNs, oursNs, goal } = comparison;
  const isGood = goal === undefined || ratio <= goal;
  if (!isGood) process.exitCode = 1;
  if (isJson) {
    console.log(JSON.stringify({ ...comparison, least, most, isGood }));
    return;
  }
  const verdict = goal === undefined ? '' : `  goal <= ${Number(goal.toPrecision(3))} ${isGood ? 'ok' : 'MISSED'}`;
  console.log(
    `${name.padEnd(44)} ${ratio.toPrecision(3).padStart(8)} (${least.toPrecision(3)}-${most.toPrecision(3)})  ${time(oursNs)} vs ${time(peerNs)}${verdict}`,
  );
}

function time(nanoseconds: number): string {
  if (nanoseconds < 1e3) return `${nanoseconds.toFixed(0)} ns`;
  return nanoseconds < 1e6 ? `${(nanoseconds / 1e3).toFixed(2)} us` : `${(nanoseconds / 1e6).toFixed(2)} ms`;
}
