/** What a function wrote to CloudWatch Logs. */

import { RunnerError, logFilter } from '../../src/plugin.ts';
import type { LogEntry, LogQuery } from '../../src/plugin.ts';
import { logGroupOf } from './attached.ts';
import type { Session } from './client.ts';
import { isNotFound } from './failure.ts';
import { parseReport, readEntry, sumUp } from './report.ts';
import type { FunctionMetrics, ReportLine } from './report.ts';

const LIMIT = 100;
const POLL_MS = 1_000;
/** Lines may get to the service out of order, this much late. */
const LATE_MS = 10_000;
const PAGE = 10_000;
const MINUTE = 60_000;
/** Spans that are looked through, the newest first, until there are enough lines. */
const SPANS_MS = [10 * MINUTE, 60 * MINUTE, 6 * 60 * MINUTE, 36 * 60 * MINUTE, 9 * 1_440 * MINUTE];

interface Line extends LogEntry {
  readonly eventId: string;
}

interface Span {
  readonly startTime: number;
  /** Included. */
  readonly endTime?: number;
  readonly filterPattern?: string | undefined;
}

/** Lines of a span of time, oldest first within a page. Undefined: there is no such log. */
async function* lines(session: Session, functionName: string, { startTime, endTime, filterPattern }: Span): AsyncGenerator<Line> {
  const logGroupName = logGroupOf(functionName);
  let nextToken: string | undefined;
  do {
    const page = await session.find(
      'logs',
      (logs, request) =>
        logs.filterLogEvents(
          {
            logGroupName,
            startTime: Math.max(0, Math.floor(startTime)),
            limit: PAGE,
            ...(endTime !== undefined && { endTime: Math.floor(endTime) }),
            ...(filterPattern !== undefined && { filterPattern }),
            ...(nextToken !== undefined && { nextToken }),
          },
          request,
        ),
      isNotFound,
    );
    for (const { timestamp = 0, message = '', logStreamName, eventId = '' } of page?.events ?? [])
      yield { ...readEntry({ at: timestamp, message, stream: logStreamName }), eventId };
    nextToken = page?.nextToken;
  } while (nextToken !== undefined);
}

const byTime = (a: Line, b: Line): number => a.at - b.at;
const entryOf = ({ eventId: _, ...entry }: Line): LogEntry => entry;

/** The newest lines that match, oldest first; then, when it follows, those that come. */
export async function* readLogs(session: Session, functionName: string, query: LogQuery): AsyncGenerator<LogEntry, void, void> {
  const { limit = LIMIT, sinceMs = 0, untilMs, follow } = query;
  const now = session.aws.clock.now();
  // A clock behind that of the service must not hide what was written last.
  const newest = await newestLines(session, functionName, { query, limit, since: sinceMs, until: untilMs ?? now + 60 * MINUTE });
  for (const line of newest) yield entryOf(line);
  if (follow) yield* following(session, functionName, { query, from: newest.at(-1)?.at ?? now, seen: newest });
}

async function newestLines(
  session: Session,
  functionName: string,
  { query, limit, since, until }: { readonly query: LogQuery; readonly limit: number; readonly since: number; readonly until: number },
): Promise<readonly Line[]> {
  const isWanted = logFilter(query);
  let found: Line[] = [];
  let end = until;
  for (const span of [...SPANS_MS, Number.POSITIVE_INFINITY]) {
    const startTime = Math.max(since, Math.min(end, until) - span, 0);
    const inSpan: Line[] = [];
    for await (const line of lines(session, functionName, { startTime, endTime: end, filterPattern: patternOf(query) })) {
      if (isWanted(line)) inSpan.push(line);
      // Only the newest are kept: a log may be endless.
      if (inSpan.length > 2 * limit + PAGE) inSpan.splice(0, inSpan.length, ...inSpan.toSorted(byTime).slice(-limit));
    }
    found = [...inSpan.toSorted(byTime), ...found].slice(-limit);
    if (found.length >= limit || startTime <= since) break;
    end = startTime - 1;
  }
  return limit === 0 ? [] : found;
}

/** The service searches, too, for what can be said in its words. */
function patternOf({ search, requestId }: LogQuery): string | undefined {
  const text = search ?? requestId;
  return text !== undefined && /^[\w-]+$/.test(text) ? `"${text}"` : undefined;
}

async function* following(
  session: Session,
  functionName: string,
  { query, from, seen }: { readonly query: LogQuery; readonly from: number; readonly seen: readonly Line[] },
): AsyncGenerator<LogEntry, void, void> {
  const known = new Map(seen.map(({ eventId, at }) => [eventId, at]));
  const isWanted = logFilter(query);
  let newest = from;
  try {
    while (!session.signal?.aborted) {
      const fresh: Line[] = [];
      for await (const line of lines(session, functionName, { startTime: newest - LATE_MS, filterPattern: patternOf(query) })) {
        if (known.has(line.eventId) || line.at < from) continue;
        known.set(line.eventId, line.at);
        if (isWanted(line)) fresh.push(line);
      }
      for (const line of fresh.toSorted(byTime)) {
        if (session.signal?.aborted) return;
        newest = Math.max(newest, line.at);
        yield entryOf(line);
      }
      for (const [id, at] of known) if (at < newest - 2 * LATE_MS) known.delete(id);
      await session.sleep(POLL_MS);
    }
  } catch (error) {
    // The end that was asked for.
    if (!session.signal?.aborted) throw error;
  }
}

/** Sums over the REPORT lines of a time. */
export async function readMetrics(
  session: Session,
  functionName: string,
  span: { readonly sinceMs: number; readonly untilMs: number },
): Promise<FunctionMetrics> {
  const reports: ReportLine[] = [];
  const failed = new Set<string>();
  const within = { startTime: span.sinceMs, endTime: span.untilMs };
  for await (const { message, level, requestId } of lines(session, functionName, within)) {
    const report = parseReport(message);
    if (report) reports.push(report);
    else if (requestId !== undefined && (level === 'error' || level === 'fatal')) failed.add(requestId);
  }
  return sumUp(reports, failed);
}

/** Queries of CloudWatch Logs Insights. `@type`, `@duration` and the like are what Insights finds in the lines of Lambda. */
export const INSIGHTS = {
  /** The newest errors, each with what it says. */
  errors:
    'fields @timestamp, @requestId, @message | filter @message like /(?i)(error|exception|timed out)/ | sort @timestamp desc | limit 50',
  /** How many of which kind. */
  errorReport:
    'filter @message like /(?i)(error|exception|timed out)/ | parse @message /(?<kind>[A-Za-z.]*(?:Error|Exception)|Task timed out)/ | stats count(*) as errors, max(@timestamp) as last by kind | sort errors desc',
  slowest: 'filter @type = "REPORT" | fields @requestId, @duration, @billedDuration, @maxMemoryUsed | sort @duration desc | limit 20',
  coldStarts:
    'filter @type = "REPORT" | stats count(*) as calls, count(@initDuration) as coldStarts, avg(@initDuration) as averageInit, max(@initDuration) as maxInit by bin(1h)',
} as const;

export interface InsightsQuery {
  /** Text of a query, or the name of one of `INSIGHTS`. Default `errorReport`. */
  readonly query?: string;
  /** Default: an hour ago. */
  readonly sinceMs?: number;
  readonly untilMs?: number;
  readonly limit?: number;
}

const QUERY_MS_MAX = 120_000;

/** Asks CloudWatch Logs Insights and waits for the rows. Throws `DEPLOY_FAILED` when the query fails or takes more than two minutes. */
export async function runInsights(
  session: Session,
  functionName: string,
  { query = 'errorReport', sinceMs, untilMs, limit }: InsightsQuery,
): Promise<readonly Readonly<Record<string, string>>[]> {
  const { clock } = session.aws;
  const end = untilMs ?? clock.now();
  const queryString = Object.hasOwn(INSIGHTS, query) ? INSIGHTS[query as keyof typeof INSIGHTS] : query;
  const { queryId } = await session.write('logs', (logs, request) =>
    logs.startQuery(
      {
        logGroupName: logGroupOf(functionName),
        queryString,
        startTime: Math.floor((sinceMs ?? end - 60 * MINUTE) / 1_000),
        endTime: Math.ceil(end / 1_000),
        ...(limit !== undefined && { limit }),
      },
      request,
    ),
  );
  const until = clock.now() + QUERY_MS_MAX;
  for (;;) {
    const { status, results = [] } = await session.read('logs', (logs, request) => logs.getQueryResults({ queryId }, request));
    if (status === 'Complete')
      return results.map((row) =>
        Object.fromEntries(row.flatMap(({ field, value }) => (field === undefined || field === '@ptr' ? [] : [[field, value ?? '']]))),
      );
    if (status === 'Failed' || status === 'Cancelled' || status === 'Timeout' || clock.now() >= until)
      throw new RunnerError('DEPLOY_FAILED', `the query of the logs of ${functionName} is ${status}: ${queryString}`, {
        details: { status, queryId },
      });
    await session.sleep(POLL_MS);
  }
}
