/** What `bpr dev` shows: a table of the calls that redraws in place on a terminal, plain lines on a pipe, or JSON lines. */

import { printable, table, toJson } from './output.ts';
import type { Io } from './output.ts';
import type { RunnerLine } from './runner-lines.ts';

export type DevEvent =
  | {
      readonly event: 'ready';
      readonly rpcUrl: string;
      readonly chainId: number;
      readonly contract: string;
      readonly serviceId: bigint;
      /** Null: the jobs run in the process of the runner. */
      readonly handlerUrl: string | null;
      /** For each job a command that calls it. */
      readonly submit: readonly string[];
    }
  | { readonly event: 'reload'; readonly ms: number; readonly file: string; readonly handlerUrl: string | null }
  | ReloadFailed
  | { readonly event: 'stopped' }
  | RunnerLine;

interface ReloadFailed {
  readonly event: 'reload-failed';
  readonly file: string;
  readonly code: string;
  readonly message: string;
  /** The version before does. */
  readonly isServing: boolean;
}

export interface DevView {
  show(event: DevEvent): void;
  /** What the jobs print. */
  print(text: string): void;
  close(): void;
}

export function createDevView(io: Io, { entry, json }: { readonly entry: string; readonly json: boolean }): DevView {
  if (json) return { show: (event) => io.stdout.write(`${toJson(event, 0)}\n`), print: (text) => io.stderr.write(text), close: () => {} };
  const calls = new CallTable();
  if (io.stdout.isTTY) return new LiveView(io, { entry, calls });
  const show = (event: DevEvent): void => {
    calls.take(event, performance.now());
    const text = lineOf(event, calls);
    if (text !== undefined) io.stdout.write(`${printable(text)}\n`);
  };
  return { show, print: (text) => io.stderr.write(text), close: () => {} };
}

interface Row {
  readonly name: string;
  readonly job: string;
  readonly arguments: string;
  readonly startedAt: number;
  executor: string;
  state: string;
  durationMs: number | undefined;
  result: string;
  hash: string;
}

const ROWS_MAX = 500;

/** The calls of this session, as far as events tell. */
export class CallTable {
  readonly #rows = new Map<string, Row>();
  readonly #bySeq = new Map<number, Row>();

  rows(): readonly Row[] {
    return [...this.#rows.values()];
  }

  /** The rows of the calls that a transaction carries. */
  named(seqs: readonly number[]): string {
    return seqs.map((seq) => this.#bySeq.get(seq)?.name ?? `#${seq}`).join(', ');
  }

  take(event: DevEvent, now: number): void {
    switch (event.event) {
      case 'seen':
      case 'attempt':
      case 'executed':
      case 'failed':
        return this.#takeCall(event, now);
      case 'submitted':
        return this.#each(event.calls, { state: 'submitted', hash: event.hash });
      case 'mined':
        return this.#each(event.calls, { state: event.success ? 'mined' : 'reverted', hash: event.hash });
      case 'final':
        return this.#each(event.calls, { state: 'final' });
      case 'rejected':
        return this.#each([event.seq], { state: 'rejected', result: `${event.code}: ${event.reason}` });
      case 'closed':
        return this.#each([event.seq], { state: 'closed', result: event.reason });
      case 'ready':
      case 'reload':
      case 'reload-failed':
      case 'stopped':
      case 'state':
      case 'error':
    }
  }

  #takeCall(event: Extract<RunnerLine, { readonly jobId: bigint }>, now: number): void {
    const name = callName(event);
    const row = this.#rows.get(name) ?? {
      name,
      job: event.job ?? String(event.jobId),
      arguments: 'arguments' in event ? event.arguments : '',
      startedAt: now,
      executor: '',
      state: 'seen',
      durationMs: undefined,
      result: '',
      hash: '',
    };
    this.#rows.set(name, row);
    if (event.seq !== undefined) this.#bySeq.set(event.seq, row);
    if (event.event === 'attempt') Object.assign(row, { executor: event.executor, state: 'executing', durationMs: undefined, result: '' });
    if (event.event === 'executed') {
      const { executor, durationMs, result } = event;
      Object.assign(row, {
        executor,
        durationMs,
        result,
        state: row.state === 'executing' || row.state === 'seen' ? 'executed' : row.state,
      });
    }
    if (event.event === 'failed') {
      Object.assign(row, { state: 'failed', durationMs: now - row.startedAt, result: `${event.code}: ${reasonOf(event.message)}` });
    }
    if (this.#rows.size <= ROWS_MAX) return;
    const [oldest] = this.#rows.keys();
    if (oldest !== undefined) this.#rows.delete(oldest);
  }

  #each(seqs: readonly number[], change: Partial<Row>): void {
    for (const seq of seqs) Object.assign(this.#bySeq.get(seq) ?? {}, change);
  }
}

function callName({ serviceId, callId, id }: { readonly serviceId?: bigint; readonly callId?: bigint; readonly id?: string }): string {
  return callId === undefined ? (id ?? '-') : `${serviceId}/${callId}`;
}

/** The row names job and call already. */
function reasonOf(message: string): string {
  return message.replace(/^job \S+ failed on call \S+: /, '');
}

/** One event for people; undefined for what they do not ask for. */
function lineOf(event: DevEvent, calls: CallTable): string | undefined {
  const line = (name: string, text: string): string => `${name.padEnd(9)} ${text}`;
  switch (event.event) {
    case 'ready':
      return [
        line('ready', `chain ${event.chainId} at ${event.rpcUrl}, contract ${event.contract}, service ${event.serviceId}`),
        line('', event.handlerUrl === null ? 'the jobs run in the process of the runner' : `the jobs run behind ${event.handlerUrl}`),
        ...event.submit.map((command) => line('call', command)),
      ].join('\n');
    case 'reload':
      return line('reload', `reloaded in ${event.ms} ms (${event.file})`);
    case 'reload-failed':
      return line('error', failureText(event));
    case 'seen':
      return line('seen', `${callName(event)} ${event.job ?? `job ${event.jobId}`}(${event.arguments})`);
    case 'attempt':
      return event.attempt > 1 ? line('attempt', `${callName(event)} attempt ${event.attempt} at ${event.executor}`) : undefined;
    case 'executed':
      return line('executed', `${callName(event)} ${event.result} at ${event.executor} in ${msText(event.durationMs)}`);
    case 'failed':
      return line('failed', `${callName(event)} ${event.code}: ${reasonOf(event.message)}`);
    case 'submitted':
      return line('submitted', `${calls.named(event.calls)} in ${event.hash}`);
    case 'mined':
      return line(event.success ? 'mined' : 'reverted', `${calls.named(event.calls)} in block ${event.blockNumber}, ${event.hash}`);
    case 'rejected':
      return line('rejected', `${calls.named([event.seq])} ${event.code}: ${event.reason}`);
    case 'closed':
      return line('closed', `${calls.named([event.seq])} ${event.reason}`);
    case 'error':
      return line('error', `${event.source}: ${event.code}: ${event.message}`);
    case 'stopped':
      return line('stopped', 'chain, runner and handler have ended');
    case 'final':
    case 'state':
      return undefined;
  }
}

function failureText({ code, message, isServing }: ReloadFailed): string {
  return `${code}: ${message}\n${isServing ? 'The version before keeps serving.' : 'Nothing serves until a file changes.'}`;
}

function msText(ms: number): string {
  return ms < 10 ? `${ms.toFixed(1)} ms` : ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

const REDRAW_MS = 50;
const CELL_MAX = 28;
const HASH_CHARS = 12;

class LiveView implements DevView {
  readonly #io: Io;
  readonly #entry: string;
  readonly #calls: CallTable;
  #ready: Extract<DevEvent, { readonly event: 'ready' }> | undefined;
  #status = 'starting';
  #problem: string | undefined;
  #handlerUrl: string | null = null;
  #drawn = 0;
  #width = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(io: Io, { entry, calls }: { readonly entry: string; readonly calls: CallTable }) {
    this.#io = io;
    this.#entry = entry;
    this.#calls = calls;
  }

  show(event: DevEvent): void {
    this.#calls.take(event, performance.now());
    switch (event.event) {
      case 'ready':
        this.#ready = event;
        this.#handlerUrl = event.handlerUrl;
        this.#status = 'running';
        return this.print(event.submit.map((command) => `${command}\n`).join(''));
      case 'reload':
        this.#handlerUrl = event.handlerUrl;
        this.#status = `reloaded in ${event.ms} ms`;
        this.#problem = undefined;
        break;
      case 'reload-failed':
        this.#problem = printable(failureText(event));
        break;
      case 'error':
        return this.print(printable(`${event.source}: ${event.code}: ${event.message}\n`));
      case 'stopped':
        this.#status = 'stopped';
        break;
      default:
    }
    this.#timer ??= setTimeout(() => this.#draw(), REDRAW_MS);
  }

  print(text: string): void {
    this.#erase();
    this.#io.stdout.write(text.endsWith('\n') || text === '' ? text : `${text}\n`);
    this.#draw();
  }

  close(): void {
    this.#draw();
    clearTimeout(this.#timer);
  }

  #erase(): void {
    const { columns = 80 } = this.#io.stdout;
    // Lines that were drawn wider than the terminal is now take more rows than are known.
    if (this.#drawn > 0) this.#io.stdout.write(columns < this.#width ? '\x1b[2J\x1b[H' : `\x1b[${this.#drawn}A\x1b[J`);
    this.#drawn = 0;
  }

  #draw(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const { columns = 80, rows = 24 } = this.#io.stdout;
    const head = this.#head();
    const calls = this.#calls.rows().slice(-Math.max(1, rows - head.length - 4));
    const isRunning = calls.some(({ state }) => state === 'executing');
    const body = calls.length === 0 ? ['no calls yet'] : callLines(calls);
    const lines = [...head, '', ...body].map((line) => line.slice(0, columns - 1));
    this.#erase();
    this.#io.stdout.write(`${lines.map((line) => this.#paint(line)).join('\n')}\n`);
    this.#drawn = lines.length;
    this.#width = columns;
    if (isRunning && this.#status !== 'stopped') this.#timer = setTimeout(() => this.#draw(), REDRAW_MS * 4);
  }

  #head(): string[] {
    const ready = this.#ready;
    const where = ready && [
      `chain    ${ready.rpcUrl} (${ready.chainId})`,
      `contract ${ready.contract}   service ${ready.serviceId}`,
      `handler  ${this.#handlerUrl ?? 'none: in the process of the runner'}`,
    ];
    return [`bpr dev  ${this.#entry}   ${this.#status}`, ...(where ?? []), ...(this.#problem?.split('\n') ?? [])];
  }

  #paint(line: string): string {
    if (this.#io.env['NO_COLOR']) return line;
    return line
      .replace(/^(bpr dev|chain|contract|handler|CALL .*)(?= |$)/, '\x1b[2m$1\x1b[0m')
      .replace(/ (failed|rejected|reverted)(?= )/, ' \x1b[31m$1\x1b[0m')
      .replace(/ (mined|final)(?= )/, ' \x1b[32m$1\x1b[0m')
      .replace(/^([A-Z_]+: )/, '\x1b[31m$1\x1b[0m');
  }
}

function callLines(rows: readonly Row[]): string[] {
  const cells = rows.map(({ startedAt, durationMs, ...row }) => {
    const ms = durationMs ?? (row.state === 'executing' ? performance.now() - startedAt : undefined);
    const hash = row.hash === '' ? '' : row.hash.slice(0, HASH_CHARS);
    const shown = row.state === 'failed' || row.state === 'rejected' ? row.result : shortened(row.result);
    return [row.name, row.job, shortened(row.arguments), row.executor, row.state, ms === undefined ? '' : msText(ms), hash, shown];
  });
  return table([['CALL', 'JOB', 'ARGUMENTS', 'EXECUTOR', 'STATE', 'DURATION', 'TRANSACTION', 'RESULT'], ...cells]).split('\n');
}

function shortened(text: string): string {
  return text.length <= CELL_MAX ? text : `${text.slice(0, CELL_MAX - 3)}...`;
}
