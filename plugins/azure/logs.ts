/** Logs of a function, asked of Application Insights. */

import { RunnerError, fieldsOf, logFilter, logLevelOf } from '../../src/plugin.ts';
import type { LogEntry, LogQuery } from '../../src/plugin.ts';
import { failure, listOf } from './client.ts';
import type { AzureClient } from './client.ts';
import { ENDPOINTS } from './options.ts';
import type { AzureOptions } from './options.ts';

const LIMIT = 100;
const FOLLOW_MS = 2_000;
/** What is written arrives late: this much is read again and again while following. */
const OVERLAP_MS = 120_000;
/** What one query may give: https://learn.microsoft.com/azure/azure-monitor/service-limits */
const ROWS_MAX = 30_000;
const COLUMNS = 'timestamp, message, severityLevel, operation_Id, cloud_RoleInstance, itemId';
/** Of Application Insights. */
const LEVELS = ['debug', 'info', 'warn', 'error', 'fatal'] as const;

interface Row {
  readonly id: string;
  readonly entry: LogEntry;
}

export class AzureLogs {
  readonly #client: AzureClient;
  readonly #options: AzureOptions;

  constructor(client: AzureClient, options: AzureOptions) {
    this.#client = client;
    this.#options = options;
  }

  /** Throws `OPERATION_UNSUPPORTED` when nobody said where logs are. */
  get appId(): string {
    const { insightsAppId } = this.#options;
    if (insightsAppId !== undefined) return insightsAppId;
    const message =
      'logs of Azure are in Application Insights: set the option insightsAppId to its application id, and insightsConnection when functions are deployed';
    throw new RunnerError('OPERATION_UNSUPPORTED', message);
  }

  /** Oldest first. Under `follow` each line once. */
  async *read(name: string, query: LogQuery): AsyncGenerator<LogEntry> {
    const { follow = false, signal, limit = LIMIT } = query;
    const first = await this.#rows(name, query, limit);
    const seen = new Set<string>();
    for (const { id, entry } of first) {
      seen.add(id);
      yield entry;
    }
    let newest = Math.max(query.sinceMs ?? 0, ...first.map(({ entry }) => entry.at));
    while (follow && !signal?.aborted) {
      await this.#client.clock.sleep(this.#options.pollMs ?? FOLLOW_MS, signal).catch(() => {});
      if (signal?.aborted) return;
      const sinceMs = Math.max(query.sinceMs ?? 0, newest - OVERLAP_MS);
      for (const { id, entry } of await this.#rows(name, { ...query, sinceMs }, ROWS_MAX)) {
        if (seen.has(id)) continue;
        seen.add(id);
        newest = Math.max(newest, entry.at);
        yield entry;
        if (signal?.aborted) return;
      }
    }
  }

  async #rows(name: string, query: LogQuery, limit: number): Promise<readonly Row[]> {
    const audience = ENDPOINTS.insights;
    const response = await this.#client.send(this.#options.endpoints?.insights ?? ENDPOINTS.insights, {
      method: 'POST',
      path: `/v1/apps/${encodeURIComponent(this.appId)}/query`,
      headers: ['authorization', await this.#client.bearer(audience)],
      // The level of a line of JSON is known only here.
      json: { query: kql(name, query, query.level === undefined ? limit : ROWS_MAX) },
      signal: query.signal,
    });
    if (response.status >= 300) throw failure(`read the logs of ${name}`, response);
    const [table] = listOf(fieldsOf(response.body)?.['tables']);
    const names = listOf(table?.['columns']).map((column) => String(column['name']));
    const rows: unknown = table?.['rows'];
    const isWanted = logFilter(query);
    return (Array.isArray(rows) ? rows : [])
      .flatMap((row: unknown) =>
        Array.isArray(row) ? rowOf(Object.fromEntries(names.map((each, index) => [each, row[index] as unknown]))) : [],
      )
      .filter(({ entry }) => isWanted(entry))
      .slice(0, limit)
      .toReversed();
  }
}

/** What is not asked for stays there. */
function kql(name: string, { sinceMs, untilMs, search, requestId }: LogQuery, limit: number): string {
  const conditions = [
    `cloud_RoleName =~ ${quoted(name)}`,
    ...(sinceMs === undefined ? [] : [`timestamp >= datetime(${new Date(sinceMs).toISOString()})`]),
    ...(untilMs === undefined ? [] : [`timestamp <= datetime(${new Date(untilMs).toISOString()})`]),
    ...(search === undefined ? [] : [`message contains_cs ${quoted(search)}`]),
    ...(requestId === undefined ? [] : [`(operation_Id == ${quoted(requestId)} or message contains_cs ${quoted(requestId)})`]),
  ];
  return [
    'union traces, (exceptions | extend message = outerMessage)',
    ...conditions.map((condition) => `where ${condition}`),
    `project ${COLUMNS}`,
    'order by timestamp desc, itemId desc',
    `take ${limit}`,
  ].join('\n| ');
}

function quoted(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'").replaceAll('\n', '\\n').replaceAll('\r', '\\r')}'`;
}

function rowOf(fields: Readonly<Record<string, unknown>>): Row {
  const { timestamp, message, severityLevel, operation_Id: operation, cloud_RoleInstance: instance, itemId } = fields;
  const line = String(message);
  const level = logLevelOf(line) ?? (typeof severityLevel === 'number' ? LEVELS[severityLevel] : undefined);
  return {
    id: String(itemId),
    entry: {
      at: Date.parse(String(timestamp)),
      message: line,
      ...(level !== undefined && { level }),
      ...(typeof operation === 'string' && operation !== '' && { requestId: operation }),
      ...(typeof instance === 'string' && instance !== '' && { instance }),
    },
  };
}
