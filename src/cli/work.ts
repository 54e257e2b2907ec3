/** Work of a command that takes a while: it says how far it is, and when it stops before its end, what it has done until then. */

import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { DeployProgress } from '../executor/deployer.ts';
import { progress } from './output.ts';
import type { Io } from './output.ts';

/** As shells count: 128 and the number of the signal. */
const SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const;
type Signal = keyof typeof SIGNALS;

/** So long nothing is said on a terminal, and all that is said elsewhere lies so far apart: a log is not to be silent. */
const QUIET_MS = 5_000;
const DONE_MAX = 20;

export interface Work {
  /** Fires at SIGINT and SIGTERM. */
  readonly signal: AbortSignal;
  readonly tell: (news: DeployProgress) => void;
  /** What there is already and stays, said when a signal ends the work: in place of the steps that were told. */
  readonly leaves: (text: string) => void;
}

/**
 * Ends at SIGINT and SIGTERM as soon as the work can be left; a second one ends the program at once. Then, and when the work fails after it
 * began to write, the error says which writes are done, and which one was refused or is in doubt.
 */
export async function interruptible(io: Io, clock: Clock, action: (work: Work) => Promise<void>): Promise<void> {
  const stop = new AbortController();
  let signal: Signal | undefined;
  const listeners = (['SIGINT', 'SIGTERM'] as const).map((name) => {
    const listener = (): void => {
      signal = name;
      stop.abort(new RunnerError('ABORTED', `interrupted by ${name}`));
    };
    process.once(name, listener);
    return [name, listener] as const;
  });
  const news = new News(io, clock);
  try {
    await action({ signal: stop.signal, tell: (one) => news.tell(one), leaves: (text) => void (news.left = text) });
  } catch (thrown) {
    throw toldError(thrown, signal, news);
  } finally {
    news.end();
    for (const [name, listener] of listeners) process.off(name, listener);
  }
}

/** Lines of a log. One that is followed ends with the signal: that is how it ends, and no error. */
export async function* untilEnded<T>(lines: AsyncIterable<T>, end: AbortSignal | undefined): AsyncGenerator<T> {
  try {
    yield* lines;
  } catch (thrown) {
    if (!end?.aborted) throw thrown;
  }
}

/** The exit status for work that a signal ended; undefined for everything else. */
export function signalStatus({ code, details }: RunnerError): number | undefined {
  const { signal } = details;
  return code === 'ABORTED' && (signal === 'SIGINT' || signal === 'SIGTERM') ? SIGNALS[signal] : undefined;
}

function toldError(thrown: unknown, signal: Signal | undefined, news: News): unknown {
  const { done, begun, left } = news;
  const isBegun = done.length + begun.length > 0;
  if (signal === undefined && !isBegun) return thrown;
  const error = toRunnerError(thrown);
  const failed = signal === undefined && begun.length === 1 && isRefused(error) ? begun : [];
  const doubtful = failed.length > 0 ? [] : begun;
  const said = signal === undefined || error.code === 'ABORTED' ? '' : `: ${error.code}: ${error.message}`;
  const message = signal === undefined ? error.message : `interrupted by ${signal}${said}`;
  const dropped = done.length - DONE_MAX;
  const shown = [...(dropped > 0 ? [`${dropped} more`] : []), ...done.slice(-DONE_MAX)];
  const written = [
    ...(done.length > 0 ? [`done: ${shown.join(', ')}`] : []),
    ...(failed.length > 0 ? [`failed: ${failed.join(', ')}`] : []),
    ...(doubtful.length > 0 ? [`begun, perhaps done: ${doubtful.join(', ')}`] : []),
    'all that comes after it is not done; the same command goes on from here',
  ];
  const state = left ?? (isBegun ? written.join('; ') : 'nothing was written');
  return new RunnerError(signal === undefined ? error.code : 'ABORTED', `${message}\n${state}`, {
    cause: error.code === 'INTERNAL' && error.cause !== undefined ? error.cause : error,
    retry: error.retry,
    details: { ...error.details, ...(signal !== undefined && { signal }), done, ...(failed.length > 0 && { failed }), doubtful },
  });
}

/** The platform has answered, and said no. */
function isRefused({ retry, details: { status } }: RunnerError): boolean {
  return retry === 'never' && typeof status === 'number' && status >= 400 && status < 500;
}

/** Steps on a terminal; where none is, a sign of life now and then. */
class News {
  readonly done: string[] = [];
  left: string | undefined;
  readonly #io: Io;
  readonly #clock: Clock;
  /** By function: what is being written to it. */
  readonly #writing = new Map<string, string>();
  #last: string | undefined;
  #lastAt: number;
  readonly #begunAt: number;
  #cancel: () => void;

  constructor(io: Io, clock: Clock) {
    this.#io = io;
    this.#clock = clock;
    this.#begunAt = clock.monotonic();
    this.#lastAt = this.#begunAt;
    this.#cancel = this.#wait(QUIET_MS);
  }

  get begun(): readonly string[] {
    return [...this.#writing.values()];
  }

  tell(news: DeployProgress): void {
    const { step, function: name, writes, done, total } = news;
    this.#last = `${name}: ${step}${done !== undefined && total !== undefined ? ` (${done} of ${total})` : ''}`;
    if (writes) {
      const before = this.#writing.get(name);
      if (before !== undefined) this.done.push(before);
      this.#writing.set(name, step);
    }
    if (!this.#io.stderr.isTTY) return;
    progress(this.#io, this.#last);
    this.#lastAt = this.#clock.monotonic();
  }

  end(): void {
    this.#cancel();
  }

  #wait(ms: number): () => void {
    return this.#clock.after(ms, () => {
      const silentMs = this.#clock.monotonic() - this.#lastAt;
      if (silentMs >= QUIET_MS && this.#last !== undefined) {
        const seconds = Math.round((this.#clock.monotonic() - this.#begunAt) / 1_000);
        this.#io.stderr.write(`${this.#last}, after ${seconds} s\n`);
        this.#lastAt = this.#clock.monotonic();
      }
      this.#cancel = this.#wait(silentMs >= QUIET_MS ? QUIET_MS : QUIET_MS - silentMs);
    });
  }
}
