/** What an instance may use: numbers from the settings of a function and of the operator. */

import { RunnerError } from '../../src/plugin.ts';

/** Settings of the operator for all instances. */
export interface InstanceLimits {
  /** Processes and threads. Default 64; node alone needs 11, and with fewer than 6 it hangs, so at least 16. */
  readonly pidsMax?: number;
  /** The least share of a processor, for functions with little memory. Default 0.5: with less node takes visibly longer to start. */
  readonly cpusMin?: number;
  /** Open files. Default 1,024, as on AWS. */
  readonly openFilesMax?: number;
  /**
   * /tmp lies in memory. `within` (default): what is written there counts as memory of the function. `added`: it may be used on top of
   * the memory of the function, which then may be used by the function as well.
   */
  readonly tmpMemory?: 'within' | 'added';
  /** Output in bytes per second; a program that writes faster has to wait. Default 4 MiB. */
  readonly outputBytesPerSecond?: number;
}

export interface Resources {
  readonly memoryBytes: number;
  readonly tmpBytes: number;
  readonly cpus: number;
  readonly pidsMax: number;
  readonly openFilesMax: number;
}

/** Memory that comes with one processor on AWS (https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html). */
const MEMORY_MB_PER_CPU = 1_769;
const MIB = 1024 * 1024;
const PIDS_LEAST = 16;
const CPUS_LEAST = 0.01;

/** Throws `CONFIG_INVALID`. */
export function checkLimits(limits: InstanceLimits): void {
  const wrong = (what: string): RunnerError => new RunnerError('CONFIG_INVALID', what, { details: { ...limits } });
  const { pidsMax = PIDS_LEAST, cpusMin = 1, openFilesMax = PIDS_LEAST, outputBytesPerSecond = 1 } = limits;
  if (!Number.isInteger(pidsMax) || pidsMax < PIDS_LEAST)
    throw wrong(`pidsMax is ${pidsMax}; it must be at least ${PIDS_LEAST}: node hangs with too few threads`);
  if (!(cpusMin >= CPUS_LEAST)) throw wrong(`cpusMin is ${cpusMin}; it must be at least ${CPUS_LEAST}`);
  if (!Number.isInteger(openFilesMax) || openFilesMax < PIDS_LEAST) throw wrong(`openFilesMax is ${openFilesMax}; it must be at least 16`);
  if (!(outputBytesPerSecond > 0)) throw wrong(`outputBytesPerSecond is ${outputBytesPerSecond}; it must be more than 0`);
}

export function resourcesOf(
  fn: { readonly memoryMb: number; readonly ephemeralMb: number },
  limits: InstanceLimits,
  cpusOfMachine: number,
): Resources {
  const tmpBytes = fn.ephemeralMb * MIB;
  const share = Math.max(fn.memoryMb / MEMORY_MB_PER_CPU, limits.cpusMin ?? 0.5);
  return {
    memoryBytes: fn.memoryMb * MIB + (limits.tmpMemory === 'added' ? tmpBytes : 0),
    tmpBytes,
    cpus: Math.round(Math.min(share, cpusOfMachine) * 100) / 100,
    pidsMax: limits.pidsMax ?? 64,
    openFilesMax: limits.openFilesMax ?? 1_024,
  };
}
