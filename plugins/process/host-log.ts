/** The log file of a long-running program: bounded, read from its end, followed. */

import { existsSync, openSync, readSync, closeSync, statSync, truncateSync, writeFileSync, readFileSync } from 'node:fs';
import type { Clock, LogEntry, LogQuery } from '../../src/plugin.ts';

const LOG_BYTES_MAX = 32 * 1024 * 1024;
const LOG_BYTES_KEPT = 8 * 1024 * 1024;
const FOLLOW_MS = 200;
/** pino's numbers. */
const LEVELS: Readonly<Record<string, number>> = { trace: 10, debug: 20, info: 30, warn: 40, error: 50, fatal: 60 };

/** Keeps the end of a log that has grown large. Its writer appends, so that it goes on at the new end. */
export function trimLog(file: string): void {
  if (!existsSync(file) || statSync(file).size <= LOG_BYTES_MAX) return;
  const kept = readFileSync(file).subarray(-LOG_BYTES_KEPT);
  const start = kept.indexOf(10) + 1;
  truncateSync(file, 0);
  writeFileSync(file, kept.subarray(start), { flag: 'a' });
}

/** Oldest first. */
export async function* readLog(file: string, query: LogQuery, clock: Clock): AsyncGenerator<LogEntry> {
  const bytes = existsSync(file) ? readFileSync(file) : Buffer.alloc(0);
  const isWanted = filterOf(query);
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
    const { time, level } = JSON.parse(line) as { readonly time?: unknown; readonly level?: unknown };
    const at = typeof time === 'number' ? time : typeof time === 'string' ? Date.parse(time) : Number.NaN;
    const name = typeof level === 'string' ? level : Object.entries(LEVELS).find(([, value]) => value === level)?.[0];
    return { at: Number.isNaN(at) ? now : at, message: line, ...(name !== undefined && { level: name }) };
  } catch {
    return { at: now, message: line };
  }
}

function filterOf({ sinceMs, untilMs, level, search, requestId }: LogQuery): (entry: LogEntry) => boolean {
  return (entry) =>
    (sinceMs === undefined || entry.at >= sinceMs) &&
    (untilMs === undefined || entry.at <= untilMs) &&
    (level === undefined || (LEVELS[entry.level ?? 'info'] ?? 30) >= (LEVELS[level] ?? 0)) &&
    (search === undefined || entry.message.includes(search)) &&
    (requestId === undefined || entry.message.includes(requestId));
}
