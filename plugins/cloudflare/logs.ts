/**
 * What Workers wrote: lines of the last days from Workers Logs, what is written from now on from a live tail.
 *
 * Query: `POST workers/observability/telemetry/query`, whose events are `{ timestamp, source, $metadata, $workers }`, the newest first.
 * Tail: `POST workers/scripts/{name}/tails` gives the address of a WebSocket with the protocol `trace-v1`, over which each invocation
 * comes as JSON when it is over: `{ outcome, eventTimestamp, logs: [{ level, message: [], timestamp }], exceptions, event }`.
 */

import { EventEmitter, on } from 'node:events';
import type WebSocket from 'ws';
import { RunnerError, count, importPeer, logFilter, logLevelOf, text } from '../../src/plugin.ts';
import type { LogEntry, LogQuery } from '../../src/plugin.ts';
import { asFields, listOf } from './client.ts';
import type { Client, Fields } from './client.ts';

const DAY_MS = 24 * 60 * 60_000;
/** As long as lines are kept on the paid plan. */
const KEPT_MS = 7 * DAY_MS;
const EVENTS_MAX = 2_000;
const DATASET = 'cloudflare-workers';
const OPEN_MS_MAX = 30_000;
const PROTOCOL = 'trace-v1';
/** Of what the platform says of an invocation, besides the lines that the Worker wrote. */
const INVOCATION = 'cf-worker-event';

export class Logs {
  readonly #client: Client;

  constructor(client: Client) {
    this.#client = client;
  }

  async *read(name: string, query: LogQuery): AsyncGenerator<LogEntry> {
    const { follow = false, signal } = query;
    if (!follow) return yield* await this.#history(name, query);
    // First the tail, then the past: nothing falls between them.
    const tail = await this.#tail(name, signal);
    try {
      const past = await this.#history(name, query);
      yield* past;
      yield* this.#follow(tail, query, past);
    } finally {
      await tail.close();
    }
  }

  async *#follow(tail: Tail, query: LogQuery, past: readonly LogEntry[]): AsyncGenerator<LogEntry> {
    const isWanted = logFilter(query);
    const seen = new Map<string, number>();
    for (const entry of past) seen.set(keyOf(entry), (seen.get(keyOf(entry)) ?? 0) + 1);
    for await (const entry of tail.entries()) {
      const times = seen.get(keyOf(entry)) ?? 0;
      if (times > 0) seen.set(keyOf(entry), times - 1);
      else if (query.signal?.aborted) return;
      else if (isWanted(entry)) yield entry;
    }
  }

  /** The newest so many, the oldest of them first. */
  async #history(name: string, query: LogQuery): Promise<readonly LogEntry[]> {
    const { limit = 100, search, signal } = query;
    const now = this.#client.clock.now();
    const to = Math.max(1, query.untilMs === undefined ? now : query.untilMs + 1);
    const from = Math.min(to - 1, Math.max(query.sinceMs ?? 0, now - KEPT_MS));
    const filters = [
      { key: '$workers.scriptName', operation: 'eq', type: 'string', value: name },
      { key: '$metadata.type', operation: 'neq', type: 'string', value: INVOCATION },
    ];
    const isFiltered = query.level !== undefined || query.requestId !== undefined;
    const json = {
      queryId: 'blueprint-runner',
      view: 'events',
      dry: true,
      limit: isFiltered ? EVENTS_MAX : Math.min(limit, EVENTS_MAX),
      timeframe: { from, to },
      parameters: {
        datasets: [DATASET],
        filters,
        filterCombination: 'and',
        ...(search !== undefined && { needle: { value: search, matchCase: true, isRegex: false } }),
      },
    };
    const path = '/workers/observability/telemetry/query';
    const answer = asFields(await this.#client.ask(`read the logs of Worker ${name}`, { method: 'POST', path, json, signal }));
    return listOf(asFields(answer['events'])['events'])
      .map(entryOf)
      .filter(logFilter(query))
      .toSorted((a, b) => a.at - b.at)
      .slice(-limit);
  }

  async #tail(name: string, signal: AbortSignal | undefined): Promise<Tail> {
    const { default: Socket } = await importPeer('cloudflare', 'ws', () => import('ws'));
    const path = `/workers/scripts/${encodeURIComponent(name)}/tails`;
    const { id, url } = asFields(await this.#client.ask(`tail Worker ${name}`, { method: 'POST', path, json: {}, signal }));
    const socket = new Socket(String(url), PROTOCOL, { handshakeTimeout: OPEN_MS_MAX });
    const end = async (): Promise<void> => {
      socket.close();
      await this.#client.find(`end the tail of Worker ${name}`, { method: 'DELETE', path: `${path}/${encodeURIComponent(String(id))}` });
    };
    const tail = new Tail(socket, { signal, end });
    await tail.opened();
    return tail;
  }
}

interface TailOptions {
  readonly signal: AbortSignal | undefined;
  readonly end: () => Promise<void>;
}

/** What comes over the WebSocket, kept from the moment that it is open. */
class Tail {
  readonly #socket: WebSocket;
  readonly #options: TailOptions;
  readonly #events = new EventEmitter();
  readonly #lines: AsyncIterator<readonly unknown[], undefined>;

  constructor(socket: WebSocket, options: TailOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#lines = on(this.#events, 'entry', { close: ['end'] });
    options.signal?.addEventListener('abort', this.#stop, { once: true });
    socket.on('message', (data: Buffer) => {
      for (const entry of entriesOf(data.toString('utf8'))) this.#events.emit('entry', entry);
    });
    socket.on('close', this.#stop);
  }

  readonly #stop = (): void => void this.#events.emit('end');

  async opened(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#socket.once('open', resolve);
      this.#socket.once('error', (cause) => {
        reject(new RunnerError('PLATFORM_UNREACHABLE', `the live log of Cloudflare cannot be opened: ${cause.message}`, { cause }));
      });
    });
    // What goes wrong from now on ends it; `close` follows.
    this.#socket.on('error', () => {});
    this.#socket.send(JSON.stringify({ debug: false }));
  }

  /** Until the signal fires. Rejects with `PLATFORM_UNREACHABLE` when Cloudflare ends the tail before. */
  async *entries(): AsyncGenerator<LogEntry> {
    const { signal } = this.#options;
    while (!signal?.aborted) {
      const next = await this.#lines.next();
      if (next.done === true) break;
      const [entry] = next.value;
      // Only entries are emitted.
      yield entry as LogEntry;
    }
    if (!signal?.aborted) throw new RunnerError('PLATFORM_UNREACHABLE', 'Cloudflare ended the live log: read on from the last line');
  }

  async close(): Promise<void> {
    this.#options.signal?.removeEventListener('abort', this.#stop);
    await this.#options.end();
  }
}

/** The lines and the exceptions of one invocation. */
function entriesOf(message: string): readonly LogEntry[] {
  const trace = asFields(JSON.parse(message));
  const at = count(trace['eventTimestamp']) ?? 0;
  const headers = asFields(asFields(asFields(trace['event'])['request'])['headers']);
  const ray = text(headers['cf-ray']);
  const id = ray !== undefined && { requestId: ray };
  const lines = listOf(trace['logs']).map(({ level, message: parts, timestamp }) => {
    const line = (Array.isArray(parts) ? parts : [parts]).map(shown).join(' ');
    return { at: count(timestamp) ?? at, message: line, level: levelOf(line, text(level)), ...id };
  });
  const exceptions = listOf(trace['exceptions']).map(({ name, message: said, timestamp }) => ({
    at: count(timestamp) ?? at,
    message: `${String(name)}: ${String(said)}`,
    level: 'error',
    ...id,
  }));
  return [...lines, ...exceptions];
}

function entryOf(event: Fields): LogEntry {
  const metadata = asFields(event['$metadata']);
  const workers = asFields(event['$workers']);
  const error = text(metadata['error']);
  const message = text(metadata['message']) ?? error ?? shown(event['source']);
  const requestId = text(workers['requestId']) ?? text(metadata['requestId']);
  return {
    at: count(event['timestamp']) ?? 0,
    message,
    level: levelOf(message, text(metadata['level'])),
    ...(requestId !== undefined && { requestId }),
  };
}

function shown(part: unknown): string {
  return typeof part === 'string' ? part : JSON.stringify(part);
}

/** What the line says of itself, else how it was written; `log` is `info`. */
function levelOf(line: string, given: string | undefined): string {
  return logLevelOf(line) ?? (given === undefined || given === 'log' ? 'info' : given);
}

function keyOf({ at, message }: LogEntry): string {
  return `${at} ${message}`;
}
