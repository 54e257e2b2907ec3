/** The command `bpr worker` as a process of its own. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { BPR } from './bpr.ts';

export type News = Readonly<Record<string, unknown>> & { readonly event: string };

export interface WorkerPlace {
  readonly folder: string;
  /** What it is started through, such as a command that becomes it on another machine. */
  readonly through: readonly string[];
}

export class WorkerCommand {
  readonly child: ChildProcess;
  /** The exit status; -1 when a signal ended it. */
  readonly ended: Promise<number>;
  readonly news: News[] = [];
  stderr = '';
  readonly #waiting: { readonly kind: string; readonly resolve: (news: News) => void }[] = [];

  constructor(place: string | WorkerPlace, env: Readonly<Record<string, string>>, flags: readonly string[] = []) {
    const { folder, through } = typeof place === 'string' ? { folder: place, through: [] } : place;
    const [command = '', ...words] = [...through, process.execPath, BPR, 'worker', '--data', folder, '--json', ...flags];
    this.child = spawn(command, words, {
      env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, LOG_LEVEL: 'error', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.ended = once(this.child, 'close').then(([code]) => Number(code ?? -1));
    this.child.stderr?.on('data', (text: Buffer) => (this.stderr += text.toString('utf8')));
    if (this.child.stdout) createInterface({ input: this.child.stdout }).on('line', (line) => this.#take(line));
  }

  /** The first news of the kind, also when it came before. */
  async until(kind: string): Promise<News> {
    const known = this.news.find(({ event }) => event === kind);
    if (known) return known;
    const { promise, resolve } = Promise.withResolvers<News>();
    this.#waiting.push({ kind, resolve });
    return Promise.race([
      promise,
      this.ended.then((code) => Promise.reject(new Error(`the worker ended with ${code} before ${kind}: ${this.stderr}`))),
    ]);
  }

  /** How many jobs it ended, by outcome. */
  ofOutcome(outcome: string): number {
    return this.news.filter((news) => news.event === 'ended' && news['outcome'] === outcome).length;
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<number> {
    this.child.kill(signal);
    return this.ended;
  }

  #take(line: string): void {
    const news = JSON.parse(line) as News;
    this.news.push(news);
    for (const { kind, resolve } of this.#waiting) if (kind === news.event) resolve(news);
  }
}
