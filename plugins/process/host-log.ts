/** The log file of a long-running program: bounded, read from its end, followed. */

import { existsSync, openSync, readSync, closeSync, statSync, readFileSync } from 'node:fs';
import { logFilter, logLevelOf } from '../../src/plugin.ts';
import type { Clock, LogEntry, LogQuery } from '../../src/plugin.ts';

const LOG_BYTES_MAX = 32 * 1024 * 1024;
const LOG_BYTES_KEPT = 8 * 1024 * 1024;
const CHECK_MS = 1_000;
const FOLLOW_MS = 200;

/**
 * A module that a program loads before its own: it keeps the end of the log that has grown large. The program does it itself, because nobody else
 * is there as long as it is. Its output appends, so that it goes on at the new end.
 */
export function logLimiter(file: string): string {
  return `import { closeSync, ftruncateSync, openSync, readSync, statSync, writeSync } from 'node:fs';
const file = ${JSON.stringify(file)};
setInterval(() => {
  try {
    const { size } = statSync(file);
    if (size <= ${LOG_BYTES_MAX}) return;
    const kept = Buffer.alloc(${LOG_BYTES_KEPT});
    const descriptor = openSync(file, 'r+');
    try {
      const end = kept.subarray(0, readSync(descriptor, kept, 0, kept.length, size - kept.length));
      const lines = end.subarray(end.indexOf(10) + 1);
      // First the end over the beginning, then the cut: who reads meanwhile never finds it empty, and a crash loses nothing of it.
      ftruncateSync(descriptor, writeSync(descriptor, lines, 0, lines.length, 0));
    } finally {
      closeSync(descriptor);
    }
  } catch {
    // A log that cannot be bounded is no reason to end.
  }
}, ${CHECK_MS}).unref();
`;
}

/** Oldest first. */
export async function* readLog(file: string, query: LogQuery, clock: Clock): AsyncGenerator<LogEntry> {
  const bytes = existsSync(file) ? readFileSync(file) : Buffer.alloc(0);
  const isWanted = logFilter(query);
  yield* linesOf(bytes.toString('utf8'), clock.now())
    .filter(isWanted)
    .slice(-(query.limit ?? 100));
  if (!query.follow) return;
  let at = bytes.lastIndexOf(10) + 1;
  while (!query.signal?.aborted) {
    const size = existsSync(file) ? statSync(file).size : 0;
    // It was trimmed.
    if (size < at) at = 0;
    const chunk = readFrom(file, at, size);
    const end = chunk.lastIndexOf(10) + 1;
    at += end;
    yield* linesOf(chunk.toString('utf8', 0, end), clock.now()).filter(isWanted);
    await clock.sleep(FOLLOW_MS, query.signal).catch(() => {});
  }
}

function readFrom(file: string, from: number, to: number): Buffer {
  if (to <= from) return Buffer.alloc(0);
  const buffer = Buffer.alloc(to - from);
  const descriptor = openSync(file, 'r');
  try {
    return buffer.subarray(0, readSync(descriptor, buffer, 0, buffer.length, from));
  } finally {
    closeSync(descriptor);
  }
}

function linesOf(text: string, now: number): LogEntry[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => entryOf(line, now));
}

/** A line of pino tells time and level; any other line is a message of now. */
function entryOf(line: string, now: number): LogEntry {
  try {
    const { time } = JSON.parse(line) as { readonly time?: unknown };
    const at = typeof time === 'number' ? time : typeof time === 'string' ? Date.parse(time) : Number.NaN;
    const level = logLevelOf(line);
    return { at: Number.isNaN(at) ? now : at, message: line, ...(level !== undefined && { level }) };
  } catch {
    return { at: now, message: line };
  }
}
