/** A user of this machine with folders of their own, who runs the command line in processes of its own. */

import { execFile } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { filesIn } from './files-in.ts';
import { BPR } from './gateway-command.ts';

export interface Ended {
  /** -1: a signal ended it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Started {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
}

export class CliUser {
  readonly home: string;
  readonly env: Record<string, string | undefined>;
  readonly records: string;
  readonly machines: string;
  /** What their commands are made with. */
  program = BPR;
  /** All that was printed for them. */
  readonly said: string[] = [];

  constructor(folder: string, more: Readonly<Record<string, string | undefined>> = {}) {
    this.home = mkdtempSync(join(folder, 'user-'));
    const state = join(this.home, 'state');
    this.records = join(state, 'blueprint-runner', 'deployments');
    this.machines = join(state, 'blueprint-runner', 'machines');
    this.env = {
      PATH: process.env['PATH'],
      HOME: this.home,
      XDG_CONFIG_HOME: join(this.home, 'config'),
      XDG_STATE_HOME: state,
      AWS_EC2_METADATA_DISABLED: 'true',
      // Every command is a process: they share what is compiled.
      NODE_COMPILE_CACHE: join(folder, 'compile-cache'),
      ...more,
    };
  }

  start(args: readonly string[], program = this.program): Started {
    const out = { stdout: '', stderr: '' };
    const child = execFile(process.execPath, [program, ...args], { env: this.env, cwd: this.home, maxBuffer: 64 * 1024 * 1024 });
    child.stdout?.on('data', (text: string) => (out.stdout += text));
    child.stderr?.on('data', (text: string) => (out.stderr += text));
    const ended = once(child, 'close').then(([code]) => {
      this.said.push(out.stdout, out.stderr);
      return { code: Number(code ?? -1), ...out };
    });
    return { child, ended };
  }

  bpr(...args: readonly string[]): Promise<Ended> {
    return this.start(args).ended;
  }

  /** The document that the command prints with `--json`. */
  async json(...args: readonly string[]): Promise<Record<string, unknown>> {
    const { stdout, stderr } = await this.bpr(...args, '--json');
    if (stdout === '') throw new Error(`bpr ${args.join(' ')} printed no document: ${stderr}`);
    return JSON.parse(stdout) as Record<string, unknown>;
  }

  /** Every file that was written. */
  files(): Map<string, string> {
    return filesIn(this.home);
  }

  /** Where these texts are found, in what was printed and in files. */
  leaks(secrets: readonly string[]): string[] {
    const places = [...this.said.map((text) => [text.slice(0, 200), text] as const), ...this.files()];
    return secrets.flatMap((secret) =>
      places.flatMap(([place, text]) => (text.includes(secret) ? [`${secret.slice(0, 4)}... in ${place}`] : [])),
    );
  }
}
