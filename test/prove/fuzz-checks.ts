/** What must hold after a run. */

import { WARM_UP_INPUTS } from './fuzz-run.ts';
import type { FuzzReport } from './fuzz-run.ts';

export type Check = readonly [name: string, holds: boolean, figure: string];

/** What a process that has worked may hold more than after its warm-up, without having lost anything. */
const RSS_MARGIN_MB = 64;
/** The allocator of the system keeps what large packages took: it has seen all sizes only after many inputs. */
const RSS_MARGIN_COLD_MB = 96;
const HEAP_MARGIN_MB = 16;
const HANDLES_MARGIN = 48;
const PROBE_FACTOR = 2;
const PROBE_MARGIN_MS = 20;

export function checksOf({ warmUp, before, after, probes, failed, stderr, exit, strays, packages }: FuzzReport): Check[] {
  const grows = (name: 'rssMb' | 'heapMb' | 'buffersMb' | 'handles' | 'descriptors' | 'files', margin: number): [boolean, string] => [
    after[name] <= before[name] + margin,
    `${before[name].toFixed(1)} -> ${after[name].toFixed(1)} (at most ${margin} more)`,
  ];
  return [
    ['each answer is allowed', failed === 0, `${failed} are not`],
    ['the process ends in order', exit === 0, String(exit)],
    ['it logs no error', stderr === '', `${stderr.length} characters`],
    ['resident memory, MB', ...grows('rssMb', warmUp < WARM_UP_INPUTS ? RSS_MARGIN_COLD_MB : RSS_MARGIN_MB)],
    ['heap, MB', ...grows('heapMb', HEAP_MARGIN_MB)],
    ['buffers, MB', ...grows('buffersMb', HEAP_MARGIN_MB)],
    ['handles', ...grows('handles', HANDLES_MARGIN)],
    ['open files and sockets', ...grows('descriptors', HANDLES_MARGIN)],
    [
      'calls in between take as long as before',
      probes.secondHalfMs <= probes.firstHalfMs * PROBE_FACTOR + PROBE_MARGIN_MS,
      `${probes.count} calls, median ${probes.firstHalfMs.toFixed(1)} -> ${probes.secondHalfMs.toFixed(1)} ms`,
    ],
    ['no file is where none may be', strays.length === 0, strays.join(', ') || 'none'],
    ['what was removed is gone', packages === 0, String(packages)],
  ];
}
