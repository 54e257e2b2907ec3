/** What the pods of a function or a program wrote, as one log. */

import { logFilter, logLevelOf } from '../../src/plugin.ts';
import type { LogEntry, LogQuery } from '../../src/plugin.ts';
import { refusal } from './client.ts';
import type { Cluster, Manifest } from './client.ts';
import { CONTAINERS } from './pods.ts';

const POLL_MS = 1_000;
/** Read of each pod when lines are searched for. */
const LINES_MAX = 10_000;

/** Lines that were read up to a time, and how many there were at that very time. */
interface Place {
  readonly time: string;
  readonly count: number;
}

/** Oldest first. Kubernetes keeps the lines of pods that are there. */
export async function* podLogs(cluster: Cluster, selector: string, query: LogQuery): AsyncGenerator<LogEntry> {
  const { limit = 100, follow = false, signal } = query;
  const places = new Map<string, Place>();
  const isWanted = logFilter(query);
  const isNarrow = query.level !== undefined || query.search !== undefined || query.requestId !== undefined || query.untilMs !== undefined;
  const first = await newLines(cluster, selector, {
    places,
    sinceMs: query.sinceMs,
    tail: follow || isNarrow ? LINES_MAX : limit,
    signal,
  });
  yield* first.filter(isWanted).slice(-limit);
  while (follow && !signal?.aborted) {
    await cluster.clock.sleep(POLL_MS, signal).catch(() => {});
    if (signal?.aborted) return;
    for (const entry of await newLines(cluster, selector, { places, sinceMs: undefined, tail: LINES_MAX, signal })) {
      if (signal?.aborted) return;
      if (isWanted(entry)) yield entry;
    }
  }
}

interface Reading {
  readonly places: Map<string, Place>;
  readonly sinceMs: number | undefined;
  readonly tail: number;
  readonly signal: AbortSignal | undefined;
}

async function newLines(cluster: Cluster, selector: string, reading: Reading): Promise<readonly LogEntry[]> {
  const entries: LogEntry[] = [];
  for await (const pod of cluster.list('Pod', { selector, signal: reading.signal }))
    entries.push(...(await linesOf(cluster, pod, reading)));
  return entries.toSorted((a, b) => a.at - b.at);
}

async function linesOf(
  cluster: Cluster,
  { metadata: { name: pod }, spec }: Manifest,
  { places, sinceMs, tail, signal }: Reading,
): Promise<readonly LogEntry[]> {
  // A pod of the API server has containers: beside ours those of Knative, of a mesh.
  const { containers } = spec as { readonly containers: readonly { readonly name: string }[] };
  const container = containers.find(({ name }) => CONTAINERS.includes(name))?.name;
  const place = places.get(pod);
  const since = place?.time ?? (sinceMs === undefined ? undefined : new Date(sinceMs).toISOString());
  const query = new URLSearchParams({
    timestamps: 'true',
    tailLines: String(tail),
    ...(container !== undefined && { container }),
    ...(since !== undefined && { sinceTime: since }),
  });
  const path = `${await cluster.path('Pod', pod)}/log?${query.toString()}`;
  const response = await cluster.send({ method: 'GET', path, headers: ['accept', '*/*'], signal });
  // The container has not started yet, or the pod is gone.
  if (response.status === 400 || response.status === 404) return [];
  if (response.status >= 300) throw refusal(`read the log of pod ${pod}`, response);
  const lines = Buffer.from(response.body)
    .toString('utf8')
    .split('\n')
    .filter((line) => line !== '');
  const fresh = place ? lines.filter((line) => timeIn(line) >= place.time).slice(place.count) : lines;
  const last = fresh.at(-1);
  if (last !== undefined) {
    const time = timeIn(last);
    const before = place?.time === time ? place.count : 0;
    places.set(pod, { time, count: before + fresh.filter((line) => timeIn(line) === time).length });
  }
  return fresh.map((line) => entryOf(line, pod));
}

/** RFC 3339 with a fraction of nine digits, in UTC: its order is that of the text. */
function timeIn(line: string): string {
  return line.slice(0, line.indexOf(' '));
}

function entryOf(line: string, instance: string): LogEntry {
  const message = line.slice(line.indexOf(' ') + 1);
  const level = logLevelOf(message);
  return { at: Date.parse(timeIn(line)), message, instance, ...(level !== undefined && { level }) };
}
