/** Why an instance ended. */

import { constants } from 'node:os';
import type { InstanceEnd } from '../../src/plugin.ts';

export interface Outcome {
  readonly exitCode: number;
  /** The kernel killed something in it for want of memory: itself, or a child that it outlived. */
  readonly outOfMemory: boolean;
  readonly terminated: boolean;
  /** The last that it wrote. */
  readonly tail: string;
}

const SIGNAL_BASE = 128;
/** The first of several names of a number: SIGABRT, not SIGIOT. */
const SIGNALS = new Map(
  Object.entries(constants.signals)
    .toReversed()
    .map(([name, number]) => [number, name]),
);
/** How V8 says that the heap of JavaScript is full, before it ends the process. */
const HEAP_FULL = /JavaScript heap out of memory/;
const V8_SIGNALS = new Set(['SIGABRT', 'SIGSEGV', 'SIGTRAP', 'SIGILL']);

export function endOf({ exitCode, outOfMemory, terminated, tail }: Outcome): InstanceEnd {
  const signal = exitCode > SIGNAL_BASE ? SIGNALS.get(exitCode - SIGNAL_BASE) : undefined;
  const details = signal === undefined ? { exitCode } : { exitCode, signal };
  if (terminated) return { reason: 'terminated', ...details };
  const isHeapFull = signal !== undefined && V8_SIGNALS.has(signal) && HEAP_FULL.test(tail);
  if (isHeapFull || (outOfMemory && signal === 'SIGKILL')) return { reason: 'out-of-memory', ...details };
  return signal === undefined ? { reason: 'exited', exitCode } : { reason: 'signalled', ...details };
}
