/** `/api/v1/functions/{name}/logs`: what instances wrote and how calls failed, kept or live. */

import { logLevelOf } from '../executor/log-query.ts';
import type { LogLine } from '../runtime/runtime.ts';
import { LOGS } from './api.ts';
import type { LogLineDocument } from './api.ts';
import type { EventLog, Numbered } from './event-log.ts';
import type { Functions } from './functions.ts';
import { ONE, parseQuery } from './functions-api.ts';
import { json } from './http.ts';
import type { GatewayRequest, Reply, Route } from './http.ts';
import { sse } from './invocation.ts';
import { decimal, optional, text } from './schema.ts';

export interface LogsApiOptions {
  readonly functions: Functions;
  readonly logs: EventLog<LogLine>;
}

const QUERY = {
  limit: optional(decimal({ about: 'the most lines; default 100', min: 1, max: 1_000 })),
  since: optional(text({ about: 'the id of a line: only later ones', charsMax: 64 })),
  instance: optional(text({ about: 'only of this instance', charsMax: 64 })),
} as const;
/** Lines that wait for a slow reader; then it is told that some are missing. */
const WAITING_MAX = 1_000;

export function logRoutes({ functions, logs }: LogsApiOptions): Route[] {
  return [
    {
      method: 'GET',
      path: `${ONE}/logs`,
      scope: 'logs',
      functionParam: 'name',
      doc: {
        summary: 'The newest lines of a function; as server-sent events when those are accepted: then live, too.',
        query: QUERY,
        responses: { 200: { about: 'lines, oldest first', schema: LOGS.json } },
      },
      handle(request) {
        const { name = '' } = request.params;
        functions.store.get(name);
        const query = parseQuery(request, QUERY) as { limit?: number; since?: string; instance?: string };
        const since = query.since ?? request.headers['last-event-id'];
        const wanted = ({ item }: Numbered<LogLine>): boolean => query.instance === undefined || item.instanceId === query.instance;
        const kept = logs.read(name, { since, limit: 1_000 }).filter(wanted);
        const { limit = 100 } = query;
        const lines = since === undefined ? kept.slice(-limit) : kept.slice(0, limit);
        if (!request.headers['accept']?.includes('text/event-stream')) return json(200, { lines: lines.map(lineDocument) });
        return follow(request, {
          logs,
          lines: since === undefined ? lines : kept,
          wanted: (entry) => entry.topic === name && wanted(entry),
        });
      },
    },
  ];
}

interface Following {
  readonly logs: EventLog<LogLine>;
  readonly lines: readonly Numbered<LogLine>[];
  readonly wanted: (entry: Numbered<LogLine>) => boolean;
}

function follow({ signal, closing }: GatewayRequest, { logs, lines, wanted }: Following): Reply {
  const waiting: Numbered<LogLine>[] = [...lines];
  let missed = 0;
  let wake: (() => void) | undefined;
  // From now on, so that nothing lies between what is kept and what is live.
  const stop = logs.listen((entry) => {
    if (!wanted(entry)) return;
    if (waiting.length >= WAITING_MAX) missed += 1;
    else waiting.push(entry);
    wake?.();
  });
  let isOver = signal.aborted || closing.aborted;
  const end = (): void => {
    isOver = true;
    stop();
    wake?.();
    signal.removeEventListener('abort', end);
    closing.removeEventListener('abort', end);
  };
  signal.addEventListener('abort', end);
  closing.addEventListener('abort', end);
  async function* events(): AsyncGenerator<Uint8Array> {
    try {
      yield Buffer.from(': live\n\n');
      while (!isOver) {
        for (let entry = waiting.shift(); entry; entry = waiting.shift()) yield sse('line', JSON.stringify(lineDocument(entry)), entry.id);
        if (missed > 0) yield sse('missed', String(missed));
        missed = 0;
        if (waiting.length === 0 && !isOver) await new Promise<void>((resolve) => (wake = resolve));
        wake = undefined;
      }
    } finally {
      end();
    }
  }
  return { status: 200, headers: { 'content-type': 'text/event-stream' }, body: events() };
}

export function lineDocument({ id, item }: Numbered<LogLine>): LogLineDocument {
  const { at, name, version, instanceId, stream, requestId, text: line, level = logLevelOf(line) } = item;
  return {
    id,
    at: new Date(at).toISOString(),
    function: name,
    version,
    instance_id: instanceId,
    stream,
    ...(requestId !== undefined && { request_id: requestId }),
    ...(level !== undefined && { level }),
    text: line,
  };
}
