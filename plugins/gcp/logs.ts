/**
 * The log of a function: what its instances wrote, out of Cloud Logging.
 *
 * https://docs.cloud.google.com/logging/docs/reference/v2/rest/v2/entries/list
 */

import { logFilter, logLevelOf, text } from '../../src/plugin.ts';
import type { LogEntry, LogQuery } from '../../src/plugin.ts';
import { asFields, listOf } from './client.ts';
import type { Fields, GcpClient } from './client.ts';

const PAGE = 500;
/** What a search goes through before it gives up. */
const PAGES_MAX = 40;
const POLL_MS = 2_000;
/** Entries can be read some seconds after they were written, and not in their order. */
const LATE_MS_MAX = 60_000;
/** Of them, how many are remembered so that none is told twice. */
const SEEN_MAX = 20_000;

/** Names of https://docs.cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry#LogSeverity; `DEFAULT` says nothing. */
const LEVELS: Readonly<Record<string, string>> = {
  DEBUG: 'debug',
  INFO: 'info',
  NOTICE: 'info',
  WARNING: 'warn',
  ERROR: 'error',
  CRITICAL: 'fatal',
  ALERT: 'fatal',
  EMERGENCY: 'fatal',
};

export interface LogSource {
  readonly projectId: string;
  readonly region: string;
  readonly name: string;
}

interface Told {
  readonly insertId: string;
  readonly entry: LogEntry;
}

export async function* logsOf(client: GcpClient, source: LogSource, query: LogQuery): AsyncGenerator<LogEntry> {
  const { limit = 100, follow = false, signal } = query;
  const { clock } = client;
  const seen = new Set<string>();
  const startedAt = clock.now();
  const newest = await read(client, { source, query, wanted: limit });
  for (const { insertId } of newest) seen.add(insertId);
  for (const { entry } of newest.toReversed()) yield entry;
  let from = Math.max(query.sinceMs ?? 0, startedAt - LATE_MS_MAX);
  // What was there before, but is not among the newest so many, is not told later.
  const oldest = newest.length >= limit ? (newest.at(-1)?.entry.at ?? 0) : 0;
  while (follow && !signal?.aborted) {
    await clock.sleep(POLL_MS, signal).catch(() => {});
    if (signal?.aborted) return;
    const now = clock.now();
    const more = await read(client, { source, query: { ...query, sinceMs: from }, wanted: Number.POSITIVE_INFINITY }).catch(
      (error: unknown) => {
        if (signal?.aborted) return [];
        throw error;
      },
    );
    for (const { insertId, entry } of more.toReversed()) {
      if (seen.has(insertId) || entry.at < oldest || signal?.aborted) continue;
      seen.add(insertId);
      yield entry;
    }
    from = Math.max(from, now - LATE_MS_MAX);
    for (const old of seen) {
      if (seen.size <= SEEN_MAX) break;
      seen.delete(old);
    }
  }
}

interface Reading {
  readonly source: LogSource;
  readonly query: LogQuery;
  readonly wanted: number;
}

/** The newest first. */
async function read(client: GcpClient, { source, query, wanted }: Reading): Promise<Told[]> {
  const told: Told[] = [];
  const isAsked = logFilter(query);
  let pageToken = '';
  for (let pages = 0; pages < PAGES_MAX; pages += 1) {
    const answer = await client.request('logging', {
      method: 'POST',
      path: '/v2/entries:list',
      json: {
        resourceNames: [`projects/${source.projectId}`],
        filter: filterOf(source, query),
        orderBy: 'timestamp desc',
        pageSize: PAGE,
        ...(pageToken !== '' && { pageToken }),
      },
      what: `read the log of ${source.name}`,
      signal: query.signal,
    });
    for (const fields of listOf(answer['entries'])) {
      const entry = entryOf(fields);
      if (isAsked(entry) && told.length < wanted) told.push({ insertId: String(fields['insertId']), entry });
    }
    pageToken = text(answer['nextPageToken']) ?? '';
    if (pageToken === '' || told.length >= wanted) break;
  }
  return told;
}

/** What the platform can leave out itself; the level is in the lines of many loggers, so that it is asked for here. */
function filterOf({ name, region }: LogSource, { sinceMs, untilMs, search, requestId }: LogQuery): string {
  const quoted = (value: string): string => JSON.stringify(value);
  return [
    'resource.type="cloud_run_revision"',
    `resource.labels.service_name=${quoted(name)}`,
    `resource.labels.location=${quoted(region)}`,
    '(log_id("run.googleapis.com/stdout") OR log_id("run.googleapis.com/stderr") OR log_id("run.googleapis.com/varlog/system"))',
    ...(sinceMs === undefined ? [] : [`timestamp>=${quoted(new Date(sinceMs).toISOString())}`]),
    ...(untilMs === undefined ? [] : [`timestamp<=${quoted(new Date(untilMs).toISOString())}`]),
    ...(requestId === undefined ? [] : [`(labels.execution_id=${quoted(requestId)} OR ${quoted(requestId)})`]),
    ...(search === undefined || search === '' ? [] : [quoted(search)]),
  ].join(' AND ');
}

function entryOf(fields: Fields): LogEntry {
  const { timestamp, receiveTimestamp, textPayload, jsonPayload, severity, labels, trace } = fields;
  const payload = asFields(jsonPayload);
  const message = text(textPayload) ?? text(payload['message']) ?? JSON.stringify(jsonPayload ?? '');
  const level = LEVELS[String(severity)] ?? logLevelOf(jsonPayload === undefined ? message : JSON.stringify(jsonPayload));
  const requestId = text(asFields(labels)['execution_id']) ?? text(trace)?.split('/').at(-1);
  const instance = text(asFields(labels)['instanceId']);
  return {
    at: Date.parse(String(timestamp ?? receiveTimestamp)),
    message: message.trimEnd(),
    ...(level !== undefined && { level }),
    ...(requestId !== undefined && { requestId }),
    ...(instance !== undefined && { instance }),
  };
}
