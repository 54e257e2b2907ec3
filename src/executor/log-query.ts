/** What every platform's log has in common: levels, and which entries a query asks for. */

import type { LogEntry, LogQuery } from './deployer.ts';

/** The numbers of pino. */
const LEVELS: Readonly<Record<string, number>> = { trace: 10, debug: 20, info: 30, warn: 40, error: 50, fatal: 60 };

/** The level that a line of JSON tells, by name or by pino's number; undefined for any other line. */
export function logLevelOf(line: string): string | undefined {
  const [, word, digits] = /"level":\s*(?:"(\w+)"|(\d+))/.exec(line) ?? [];
  return word?.toLowerCase() ?? Object.entries(LEVELS).find(([, value]) => value === Number(digits))?.[0];
}

/** Whether an entry is asked for. One without a level counts as `info`. */
export function logFilter({ sinceMs, untilMs, level, search, requestId }: LogQuery): (entry: LogEntry) => boolean {
  return (entry) =>
    (sinceMs === undefined || entry.at >= sinceMs) &&
    (untilMs === undefined || entry.at <= untilMs) &&
    (level === undefined || (LEVELS[entry.level?.toLowerCase() ?? 'info'] ?? 30) >= (LEVELS[level] ?? 0)) &&
    (search === undefined || entry.message.includes(search)) &&
    (requestId === undefined || entry.requestId === requestId || entry.message.includes(requestId));
}
