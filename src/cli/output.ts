/** What the command line prints: results and errors, for people or as one JSON document. */

import { Option } from 'commander';
import { ERROR_TEXTS } from '../error-texts.ts';
import { toRunnerError } from '../errors.ts';
import type { RunnerError } from '../errors.ts';
import { createRedactor, redactText } from '../telemetry/redact.ts';
import { unusablePath } from './named-path.ts';

export interface TextSink {
  readonly isTTY?: boolean;
  /** Of a terminal. */
  readonly columns?: number;
  readonly rows?: number;
  write(text: string): unknown;
}

/** The surroundings of the command line. */
export interface Io {
  readonly stdout: TextSink;
  readonly stderr: TextSink;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
}

/** One run of the command line. A command sets `exitCode` when it did its work and the news is bad. */
export interface Cli {
  readonly io: Io;
  exitCode: number;
}

/** Bigints as decimal text, bytes as 0x hex: what JSON cannot carry. */
export function toJson(value: unknown, indent = 2): string {
  return JSON.stringify(
    value,
    function (this: Readonly<Record<string, unknown>>, name, item: unknown) {
      if (typeof item === 'bigint') return item.toString();
      // As it was before its own toJSON, which a Buffer has.
      const own = this[name];
      return own instanceof Uint8Array ? toHex(own) : item;
    },
    indent,
  );
}

export function toHex(bytes: Uint8Array): `0x${string}` {
  return `0x${Buffer.from(bytes).toString('hex')}`;
}

/** The result of a command: the document with `--json`, the text without. */
export function print(io: Io, json: boolean | undefined, result: { readonly document: unknown; readonly text: string }): void {
  io.stdout.write(`${json ? toJson(result.document) : result.text}\n`);
}

/** News of long work, on a terminal only. */
export function progress(io: Io, text: string): void {
  if (io.stderr.isTTY) io.stderr.write(`${text}\n`);
}

/** The option of a command that prints a line of JSON for each event: one that goes wrong is one of them. */
export class JsonEvents extends Option {
  constructor(about: string) {
    super('--json', about);
  }
}

/** What a command prints to be read: text, one JSON document, or JSON lines of events. */
export type OutputForm = 'text' | 'document' | 'events';

/**
 * Whatever was thrown: `CODE: message` and the remedy on stderr; as JSON one line on stdout, for commands that print events one of these. Never a
 * secret.
 */
export function printError(io: Io, form: OutputForm, thrown: unknown): void {
  const error = toRunnerError(unusablePath(thrown));
  const { code } = error;
  const { remedy } = ERROR_TEXTS[code];
  const message = redactText(error.message);
  switch (form) {
    case 'text':
      io.stderr.write(`${code}: ${printable(message)}\n${remedy}\n${stackOf(error)}`);
      return;
    case 'document':
      io.stdout.write(`${toJson({ error: { code, message, remedy, details: createRedactor()(error.details) } }, 0)}\n`);
      return;
    case 'events':
      io.stdout.write(`${toJson({ event: 'error', code, message }, 0)}\n`);
  }
}

/** An error nobody foresaw is reported with where it was thrown. */
function stackOf(error: RunnerError): string {
  const stack = error.code === 'INTERNAL' && error.cause instanceof Error ? error.cause.stack : undefined;
  return stack === undefined ? '' : `${redactText(stack)}\n`;
}

/** What others wrote, as callers of jobs do, cannot steer the terminal of who reads it: control characters as JSON writes them. */
export function printable(text: string): string {
  return text.replace(/(?![\n\t])\p{Cc}/gu, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Columns as wide as their widest cell; the first row is the head. Each row is one line, whatever its cells hold. */
export function table(rows: readonly (readonly string[])[]): string {
  const lines = rows.map((row) => row.map((cell) => printable(cell).replace(/\n/g, '\\n')));
  const widths: number[] = [];
  for (const line of lines) for (const [index, cell] of line.entries()) widths[index] = Math.max(widths[index] ?? 0, cell.length);
  return lines
    .map((row) =>
      row
        .map((cell, index) => cell.padEnd(widths[index] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `1234567` as `1.2 MiB`. */
export function sizeText(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1024 * 1024 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

/** UTC, to the millisecond. */
export function timeText(epochMs: number): string {
  return new Date(epochMs).toISOString();
}
