/** Logs and answers of activations: one activation is one call of a function. Kept for three days. */

import { RunnerError, isRunnerError, logFilter, logLevelOf } from '../../src/plugin.ts';
import type { FunctionInvocation, LogEntry, LogQuery } from '../../src/plugin.ts';
import { asFields, failure, fieldsOf, listOf, parsed } from './client.ts';
import type { Fields, Response } from './client.ts';
import type { Namespaces } from './namespace.ts';

const PAGE = 200;
/** The longest call: what it wrote late belongs to an activation that began so much earlier. */
const CALL_MS_MAX = 15 * 60_000;
const POLL_MS = 1_000;
const ACTIVATIONS_MAX = 1_000;
const LINE = /^(\S+)\s+(stdout|stderr): ([\s\S]*)$/;

export class Activations {
  readonly #namespaces: Namespaces;

  constructor(namespaces: Namespaces) {
    this.#namespaces = namespaces;
  }

  async *logs(name: string, query: LogQuery): AsyncGenerator<LogEntry> {
    const { limit = 100, follow = false, signal } = query;
    const seen = new Map<string, number>();
    const first = await this.#entries(name, query, { sinceMs: query.sinceMs, wanted: limit, seen });
    yield* first.slice(-limit);
    const { clock } = this.#namespaces.client;
    while (follow && !signal?.aborted) {
      await clock.sleep(POLL_MS, signal).catch(() => {});
      if (signal?.aborted) return;
      const more = await this.#entries(name, query, { sinceMs: clock.now(), wanted: Number.POSITIVE_INFINITY, seen });
      for (const entry of more) if (!signal?.aborted) yield entry;
    }
  }

  /** The record of a call that goes on behind an answer that it was accepted. A question without an answer is asked again. */
  async wait(id: string, deadline: number, signal: AbortSignal | undefined): Promise<Response> {
    const { clock } = this.#namespaces.client;
    for (;;) {
      const leftMs = deadline - clock.now();
      if (leftMs <= 0) throw new RunnerError('EXECUTOR_TIMEOUT', `the activation ${id} has no result yet`, { details: { id } });
      const question = { method: 'GET', path: `/activations/${id}`, signal, once: true, timeoutMs: leftMs } as const;
      const response = await this.#namespaces.whisk(question).catch((error: unknown) => {
        if (isRunnerError(error) && error.code === 'PLATFORM_UNREACHABLE') return undefined;
        throw error;
      });
      if (response && response.status < 500 && response.status !== 404 && response.status !== 429) return response;
      await clock.sleep(Math.max(0, Math.min(POLL_MS, deadline - clock.now())), signal);
    }
  }

  /** Lines that were not seen before, oldest first. The newest activations are read first, until there are lines enough. */
  async #entries(
    name: string,
    query: LogQuery,
    { sinceMs, wanted, seen }: { readonly sinceMs: number | undefined; readonly wanted: number; readonly seen: Map<string, number> },
  ): Promise<LogEntry[]> {
    const entries: LogEntry[] = [];
    const times = [
      ...(sinceMs === undefined ? [] : [`since=${Math.max(0, sinceMs - CALL_MS_MAX)}`]),
      ...(query.untilMs === undefined ? [] : [`upto=${query.untilMs}`]),
    ];
    for (let skip = 0; skip < ACTIVATIONS_MAX; skip += PAGE) {
      const path = `/activations?${[`name=${encodeURIComponent(name)}`, `limit=${PAGE}`, `skip=${skip}`, 'docs=true', ...times].join('&')}`;
      const response = await this.#namespaces.whisk({ method: 'GET', path, signal: query.signal });
      if (response.status >= 300) throw failure(`list the activations of ${name}`, response);
      const page = listOf(JSON.parse(Buffer.from(response.body).toString('utf8')));
      for (const activation of page) entries.push(...(await this.#linesOf(activation, query, seen)));
      if (page.length < PAGE || entries.length >= wanted) break;
    }
    return entries.toSorted((a, b) => a.at - b.at);
  }

  async #linesOf(activation: Fields, query: LogQuery, seen: Map<string, number>): Promise<LogEntry[]> {
    const requestId = String(activation['activationId']);
    const lines = await this.#textOf(requestId, activation['logs'], query.signal);
    const fresh = lines.slice(seen.get(requestId) ?? 0);
    seen.set(requestId, lines.length);
    const start = typeof activation['start'] === 'number' ? activation['start'] : 0;
    return fresh.map((line) => entryOf(line, requestId, start)).filter(logFilter(query));
  }

  /** In the record of the activation, or apart from it: that depends on the host. */
  async #textOf(id: string, logs: unknown, signal: AbortSignal | undefined): Promise<readonly string[]> {
    if (Array.isArray(logs) && logs.length > 0) return logs.map(String);
    const response = await this.#namespaces.whisk({ method: 'GET', path: `/activations/${id}/logs`, signal });
    if (response.status === 404) return [];
    const apart = parsed(`read the log of the activation ${id}`, response)['logs'];
    return Array.isArray(apart) ? apart.map(String) : [];
  }
}

function entryOf(line: string, requestId: string, start: number): LogEntry {
  const [, at = '', stream, message = line] = LINE.exec(line) ?? [];
  const time = Date.parse(at);
  const level = logLevelOf(message) ?? (stream === 'stderr' ? 'error' : undefined);
  return { at: Number.isNaN(time) ? start : time, message, requestId, ...(level !== undefined && { level }) };
}

/** What the record of an activation says. */
export function invocationOf(name: string, response: Response): FunctionInvocation {
  const record = fieldsOf(response.body);
  const outcome = asFields(record?.['response']);
  if (!record || !outcome) throw failure(`invoke function ${name}`, response);
  const durationMs = record['duration'];
  const initMs = listOf(record['annotations']).find(({ key }) => key === 'initTime')?.['value'];
  const timesMs = { ...(typeof durationMs === 'number' && { durationMs }), ...(typeof initMs === 'number' && { initMs }) };
  return {
    body: Buffer.from(JSON.stringify(outcome['result'] ?? null)),
    failed: outcome['success'] !== true,
    requestId: String(record['activationId']),
    version: String(record['version']),
    report: timesMs,
  };
}

/** What a web action answered, as its record has it: JSON as it is, bytes as base64. */
export function webAnswerOf(name: string, record: Response): Response {
  const outcome = asFields(fieldsOf(record.body)?.['response']);
  if (!outcome) throw failure(`read the answer of function ${name}`, record);
  const result = asFields(outcome['result']) ?? {};
  const { statusCode, headers, body } = result;
  // There is no answer: the platform says why.
  if (typeof statusCode !== 'number') return { status: 502, headers: {}, body: Buffer.from(JSON.stringify(result)) };
  const names = Object.entries(asFields(headers) ?? {}).map(([key, value]) => [key.toLowerCase(), String(value)] as const);
  const bytes = typeof body === 'string' ? Buffer.from(body, 'base64') : Buffer.from(JSON.stringify(body ?? null));
  return { status: statusCode, headers: Object.fromEntries(names), body: bytes };
}
