/** The lines that Lambda and its runtimes write to the log. Pure. */

import type { LogEntry } from '../../src/plugin.ts';

/** The REPORT line: what the platform measured of one invocation. */
export interface ReportLine {
  readonly requestId: string;
  readonly durationMs: number;
  readonly billedMs?: number;
  readonly memoryMb?: number;
  readonly memoryUsedMb?: number;
  /** Only of a cold start. */
  readonly initMs?: number;
  /** `error`, `timeout`, `failure`. Absent: it went well, as far as the line tells. */
  readonly status?: string;
}

const REPORT = /^REPORT RequestId: (\S+)\s+(.*)$/m;
const FIELDS: Readonly<Record<string, keyof ReportLine>> = {
  Duration: 'durationMs',
  'Billed Duration': 'billedMs',
  'Memory Size': 'memoryMb',
  'Max Memory Used': 'memoryUsedMb',
  'Init Duration': 'initMs',
  // SnapStart restores instead of initialising.
  'Restore Duration': 'initMs',
};

/**
 * The REPORT line in a piece of log, as text or as JSON (`{"type":"platform.report"}`). Undefined: there is none.
 *
 * @example
 * parseReport('REPORT RequestId: a\tDuration: 1.5 ms\tBilled Duration: 2 ms')?.durationMs; // 1.5
 */
export function parseReport(log: string): ReportLine | undefined {
  const match = REPORT.exec(log);
  if (!match) return parseJsonReport(log);
  const [, requestId = '', rest = ''] = match;
  const found: Record<string, number | string> = {};
  for (const part of rest.split('\t')) {
    const [, name = '', value = ''] = /^\s*([A-Za-z ]+): (.*?)\s*$/.exec(part) ?? [];
    const field = FIELDS[name];
    const number = Number.parseFloat(value);
    if (field !== undefined && Number.isFinite(number)) found[field] = number;
    if (name === 'Status') found['status'] = value;
  }
  const { durationMs } = found;
  // The fields are those of FIELDS, and numbers.
  return typeof durationMs === 'number' ? { ...(found as Partial<ReportLine>), requestId, durationMs } : undefined;
}

function parseJsonReport(log: string): ReportLine | undefined {
  for (const line of log.split('\n')) {
    if (!line.includes('"platform.report"')) continue;
    const record = parseJson(line)?.['record'];
    if (typeof record !== 'object' || record === null) continue;
    const { requestId, status, metrics } = record as Record<string, unknown>;
    if (typeof requestId !== 'string' || typeof metrics !== 'object' || metrics === null) continue;
    const measured = metrics as Record<string, unknown>;
    const number = (name: string): number | undefined => (typeof measured[name] === 'number' ? measured[name] : undefined);
    const durationMs = number('durationMs');
    if (durationMs === undefined) continue;
    const optional = {
      billedMs: number('billedDurationMs'),
      memoryMb: number('memorySizeMB'),
      memoryUsedMb: number('maxMemoryUsedMB'),
      initMs: number('initDurationMs') ?? number('restoreDurationMs'),
      status: typeof status === 'string' && status !== 'success' ? status : undefined,
    };
    return { requestId, durationMs, ...dropUndefined(optional) };
  }
  return undefined;
}

/** The end of the log that `Invoke` gives back, base64. */
export function parseLogTail(tail: string | undefined): ReportLine | undefined {
  return tail === undefined || tail === '' ? undefined : parseReport(Buffer.from(tail, 'base64').toString('utf8'));
}

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'] as const;
type Level = (typeof LEVELS)[number];

const isLevel = (text: string): text is Level => (LEVELS as readonly string[]).includes(text);

/** pino writes levels as numbers. */
const NUMBERED: Readonly<Record<number, Level>> = { 10: 'trace', 20: 'debug', 30: 'info', 40: 'warn', 50: 'error', 60: 'fatal' };

/** One event of CloudWatch Logs, with what its text tells. */
export function readEntry(event: { readonly at: number; readonly message: string; readonly stream?: string | undefined }): LogEntry {
  const message = event.message.replace(/\s+$/, '');
  const fields = message.startsWith('{') ? parseJson(message) : undefined;
  const level = fields ? levelOfJson(fields) : levelOfText(message);
  const requestId = fields ? requestIdOfJson(fields) : requestIdOfText(message);
  return {
    at: event.at,
    message,
    ...(level !== undefined && { level }),
    ...(requestId !== undefined && { requestId }),
    ...(event.stream !== undefined && { instance: event.stream }),
  };
}

const UUID = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/;

function levelOfJson(fields: Readonly<Record<string, unknown>>): Level | undefined {
  const { level } = fields;
  if (typeof level === 'number') return NUMBERED[level];
  if (typeof level !== 'string') return undefined;
  const lower = level.toLowerCase();
  return lower === 'warning' ? 'warn' : isLevel(lower) ? lower : undefined;
}

/** `2026-01-01T00:00:00.000Z\t<request id>\tINFO\ttext`, or a sentence of the platform. */
function levelOfText(message: string): Level | undefined {
  const [, word = ''] = /^\S+\t\S+\t([A-Z]+)\t/.exec(message) ?? [];
  if (isLevel(word.toLowerCase())) return word.toLowerCase() as Level;
  if (/Task timed out after|^RequestId: \S+ Error:|^INIT_REPORT .*Status: (?:error|timeout)/.test(message)) return 'error';
  return undefined;
}

function requestIdOfJson(fields: Readonly<Record<string, unknown>>): string | undefined {
  const record = fields['record'];
  const inner = typeof record === 'object' && record !== null ? (record as Record<string, unknown>)['requestId'] : undefined;
  const id = fields['requestId'] ?? fields['AWSRequestId'] ?? inner;
  return typeof id === 'string' ? id : undefined;
}

function requestIdOfText(message: string): string | undefined {
  return /RequestId: (\S+)/.exec(message)?.[1] ?? /^\S+\t(\S+)\t[A-Z]+\t/.exec(message)?.[1] ?? UUID.exec(message.slice(0, 80))?.[0];
}

function parseJson(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function dropUndefined<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  // Only fields that are undefined are left out.
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

/** Sums over the REPORT lines of a time. */
export interface FunctionMetrics {
  readonly invocations: number;
  readonly errors: number;
  /** 0 to 1. */
  readonly errorRate: number;
  readonly coldStarts: number;
  readonly averageMs: number;
  readonly p95Ms: number;
  readonly maxMs: number;
  readonly billedMs: number;
  readonly averageInitMs: number;
  readonly memoryUsedMbMax: number;
}

/** `errorIds` are requests of which other lines say that they failed. */
export function sumUp(reports: readonly ReportLine[], errorIds: ReadonlySet<string> = new Set()): FunctionMetrics {
  const durations = reports.map(({ durationMs }) => durationMs).toSorted((a, b) => a - b);
  const inits = reports.flatMap(({ initMs }) => (initMs === undefined ? [] : [initMs]));
  const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
  const average = (values: readonly number[]): number => (values.length === 0 ? 0 : sum(values) / values.length);
  const errors = reports.filter(({ requestId, status }) => status !== undefined || errorIds.has(requestId)).length;
  return {
    invocations: reports.length,
    errors,
    errorRate: reports.length === 0 ? 0 : errors / reports.length,
    coldStarts: inits.length,
    averageMs: average(durations),
    p95Ms: durations[Math.max(0, Math.ceil(durations.length * 0.95) - 1)] ?? 0,
    maxMs: durations.at(-1) ?? 0,
    billedMs: sum(reports.map(({ billedMs, durationMs }) => billedMs ?? Math.ceil(durationMs))),
    averageInitMs: average(inits),
    memoryUsedMbMax: Math.max(0, ...reports.map(({ memoryUsedMb }) => memoryUsedMb ?? 0)),
  };
}
