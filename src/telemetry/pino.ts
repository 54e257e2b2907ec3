/** Logs as JSON lines through pino; readable lines on a terminal. */

import { isatty } from 'node:tty';
import type { Logger as PinoLogger } from 'pino';
import { createRedactor, redactText } from './redact.ts';
import type { Plain, Redact } from './redact.ts';
import type { LogFields, Logger } from './telemetry.ts';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

/** Takes whole lines, each with its line feed. */
export interface LogDestination {
  write(line: string): unknown;
  readonly isTTY?: boolean;
}

export interface LoggerOptions {
  /** Default: `info`. */
  readonly level?: LogLevel;
  /** A file descriptor, or something with `write`. Default: 2, standard error, so that standard output stays free for data. */
  readonly destination?: number | LogDestination;
  /** Names of further secret fields. */
  readonly redact?: readonly string[];
  /** `json`: one object per line; `text`: for people. Default: `text` on a terminal, else `json`. */
  readonly format?: 'json' | 'text';
  /** Milliseconds since the epoch. Default: the wall clock. */
  readonly now?: () => number;
}

/** pino writes these itself; a field of the same name would make the line hold it twice. */
const RESERVED: ReadonlySet<string> = new Set(['level', 'time', 'msg']);

/**
 * A logger. Lines are written before the call returns: nothing is lost when the process ends. Fields named like secrets and
 * keys in URLs never reach the destination.
 *
 * @example
 * const log = await createLogger({ level: 'debug' });
 * log.info('call executed', { callId: 7n, executor: 'http', durationMs: 12.5 });
 */
export async function createLogger(options: LoggerOptions = {}): Promise<Logger> {
  const { pino } = await import('pino');
  const destination = options.destination ?? 2;
  const terminal = typeof destination === 'number' ? isatty(destination) : destination.isTTY === true;
  const raw: LogDestination = typeof destination === 'number' ? pino.destination({ fd: destination, sync: true }) : destination;
  const out = (options.format ?? (terminal ? 'text' : 'json')) === 'text' ? readable(raw, terminal) : raw;
  const { now } = options;
  const sink = pino(
    {
      level: options.level ?? 'info',
      base: null,
      formatters: { level: (label) => ({ level: label }) },
      timestamp: now === undefined ? pino.stdTimeFunctions.isoTime : () => `,"time":"${new Date(now()).toISOString()}"`,
    },
    { write: (line: string) => void out.write(line) },
  );
  return new RedactingLogger(sink, createRedactor({ names: options.redact ?? [] }), {});
}

type Fields = Readonly<Record<string, Plain>>;

/** One line as pino wrote it. */
type Line = Fields & { readonly level: string; readonly time: string; readonly msg: string };

class RedactingLogger implements Logger {
  readonly #sink: PinoLogger;
  readonly #redact: Redact;
  readonly #bound: Fields;

  constructor(sink: PinoLogger, redact: Redact, bound: Fields) {
    this.#sink = sink;
    this.#redact = redact;
    this.#bound = bound;
  }

  debug(message: string, fields?: LogFields): void {
    this.#write('debug', message, fields);
  }

  info(message: string, fields?: LogFields): void {
    this.#write('info', message, fields);
  }

  warn(message: string, fields?: LogFields): void {
    this.#write('warn', message, fields);
  }

  error(message: string, fields?: LogFields): void {
    this.#write('error', message, fields);
  }

  isSilent(level: Exclude<LogLevel, 'silent'>): boolean {
    return !this.#sink.isLevelEnabled(level);
  }

  child(fields: LogFields): Logger {
    return new RedactingLogger(this.#sink, this.#redact, { ...this.#bound, ...this.#shown(fields) });
  }

  #write(level: Exclude<LogLevel, 'silent'>, message: string, fields: LogFields | undefined): void {
    if (!this.#sink.isLevelEnabled(level)) return;
    this.#sink[level](fields === undefined ? this.#bound : { ...this.#bound, ...this.#shown(fields) }, redactText(message));
  }

  #shown(fields: LogFields): Fields {
    const shown = this.#redact(fields);
    if (typeof shown !== 'object' || shown === null || Array.isArray(shown)) return { fields: shown };
    return Object.fromEntries(Object.entries(shown).map(([name, value]) => [RESERVED.has(name) ? `${name}_` : name, value]));
  }
}

const COLORS: Readonly<Record<string, string>> = { debug: '\u001b[90m', info: '\u001b[32m', warn: '\u001b[33m', error: '\u001b[31m' };

/** Turns JSON lines into `12:00:01.250 info  call executed callId=7 executor=http`. */
function readable(out: LogDestination, color: boolean): LogDestination {
  return {
    write(line) {
      const { level, time, msg, ...fields } = JSON.parse(line) as Line;
      const label = level.padEnd(5);
      const shown = color ? `${COLORS[level] ?? ''}${label}\u001b[0m` : label;
      const pairs = Object.entries(fields).map(([name, value]) => ` ${plainText(name)}=${fieldText(value)}`);
      out.write(`${time.slice(11, 23)} ${shown} ${plainText(msg)}${pairs.join('')}\n`);
    },
  };
}

function fieldText(value: Plain): string {
  if (typeof value === 'string') return /^[\w.:/@#+,-]+$/.test(value) ? value : plainText(JSON.stringify(value));
  return plainText(JSON.stringify(withoutStack(value)));
}

function withoutStack(value: Plain): Plain {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).filter(([name]) => name !== 'stack'));
}

/** Without control characters: a field cannot forge lines or steer the terminal. */
function plainText(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
