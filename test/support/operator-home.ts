/** An operator with a home of its own, who calls the command line. */

import { execFile } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ServiceRecords } from '../../src/deploy/record.ts';
import { filesIn } from './files-in.ts';
import { BPR } from './gateway-command.ts';
import { until } from './gateway.ts';

export interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

export class OperatorHome {
  readonly home = mkdtempSync(join(tmpdir(), 'operator-'));
  readonly state = join(this.home, 'state', 'blueprint-runner');
  readonly records = new ServiceRecords(join(this.state, 'deployments'));
  readonly #env: Environment;

  constructor(env: Environment) {
    this.#env = { PATH: process.env['PATH'], XDG_CONFIG_HOME: join(this.home, 'config'), XDG_STATE_HOME: join(this.home, 'state'), ...env };
  }

  start(args: readonly string[], change: Environment = {}): { readonly child: ChildProcess; readonly ended: Promise<Ended> } {
    const out = { stdout: '', stderr: '' };
    const env = Object.fromEntries(Object.entries({ ...this.#env, ...change }).filter(([, value]) => value !== undefined));
    const child = execFile(process.execPath, [BPR, ...args], { env, cwd: this.home });
    child.stdout?.on('data', (text: string) => (out.stdout += text));
    child.stderr?.on('data', (text: string) => (out.stderr += text));
    return { child, ended: once(child, 'close').then(([code]) => ({ code: Number(code ?? -1), ...out })) };
  }

  bpr(args: readonly string[], change: Environment = {}): Promise<Ended> {
    return this.start(args, change).ended;
  }

  /** The document that the command prints with `--json`. */
  async json(args: readonly string[], change: Environment = {}): Promise<Record<string, unknown>> {
    const { stdout, stderr, code } = await this.bpr([...args, '--json'], change);
    if (!stdout.startsWith('{')) throw new Error(`bpr ${args.join(' ')} ended with ${code}: ${stdout}${stderr}`);
    return JSON.parse(stdout) as Record<string, unknown>;
  }

  /** Programs that run in this home. */
  programs(): number[] {
    return readdirSync('/proc')
      .filter((entry) => /^\d+$/.test(entry))
      .filter((pid) => {
        try {
          return readlinkSync(`/proc/${pid}/cwd`).startsWith(`${this.state}/`);
        } catch {
          return false;
        }
      })
      .map(Number);
  }

  /** Every file that was written. */
  files(): Map<string, string> {
    return filesIn(this.home);
  }

  /** Ends every program and removes the home. */
  async leave(): Promise<void> {
    for (const { serviceId, chainId } of this.records.list())
      await this.bpr(['service', 'remove', '--service-id', serviceId, '--chain-id', String(chainId), '--forget']);
    await until(() => {
      const left = this.programs();
      left.forEach(killIfThere);
      return left.length === 0;
    });
    rmSync(this.home, { recursive: true });
  }
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}
