/** The process of the gateway that is fuzzed, seen from outside. */

import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Figures, FromGateway, ToGateway } from './fuzz-gateway.ts';
import type { HostileInstances } from './fuzz-runtime-api.ts';
import type { WrongCredentials } from './fuzz-values.ts';

/** The process, its folder, and what is said to it. */
export class FuzzedGateway {
  readonly folder: string;
  readonly #child: ChildProcess;
  readonly #exit: Promise<number | string>;
  #stderr = '';
  port = 0;
  wrong: WrongCredentials = { expired: '', narrow: '' };
  instances: HostileInstances | undefined;
  #figures: ((figures: Figures) => void) | undefined;

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'bf-'));
    // Users of instances pass through it to what is theirs.
    chmodSync(this.folder, 0o711);
    mkdirSync(join(this.folder, 'tmp'));
    const home = join(this.folder, 'tmp');
    this.#child = fork(fileURLToPath(new URL('fuzz-gateway.ts', import.meta.url)), [this.folder], {
      execArgv: ['--expose-gc', '--disable-warning=ExperimentalWarning'],
      env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, TMPDIR: home, HOME: home },
      cwd: home,
      stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
    });
    this.#exit = new Promise((resolve) => this.#child.once('close', (code, signal) => resolve(code ?? signal ?? 'unknown')));
    this.#child.stderr?.on('data', (chunk: Buffer) => (this.#stderr = (this.#stderr + chunk.toString()).slice(-20_000)));
  }

  get stderr(): string {
    return this.#stderr;
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  start(): Promise<void> {
    return new Promise((resolve, reject) => {
      void this.#exit.then((how) => reject(new Error(`the gateway ended with ${how}\n${this.#stderr}`)));
      this.#child.on('message', (message: FromGateway) => {
        if (message.kind === 'listening') {
          this.port = message.port;
          this.wrong = message.tokens;
          resolve();
        } else if (message.kind === 'launched') this.instances?.launched(message.id, message.socketPath);
        else if (message.kind === 'ended') this.instances?.ended(message.id);
        else this.#figures?.(message.figures);
      });
    });
  }

  async figures(): Promise<Figures> {
    const got = new Promise<Figures>((resolve, reject) => {
      this.#figures = resolve;
      void this.#exit.then((how) => reject(new Error(`the gateway ended with ${how}\n${this.#stderr}`)));
    });
    this.#send({ kind: 'figures' });
    return got;
  }

  async end(): Promise<number | string> {
    if (!this.hasEnded) this.#send({ kind: 'close' });
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 20_000);
    const how = await this.#exit;
    clearTimeout(timer);
    return how;
  }

  #send(message: ToGateway): void {
    this.#child.send(message);
  }
}
