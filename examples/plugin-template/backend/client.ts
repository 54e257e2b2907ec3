/**
 * The only file that speaks to the platform. Here the platform is this machine, and what it runs are processes of it: replace it with the
 * API of yours (start a machine, end it, list those of an owner), and keep the signatures, which are all that the backend knows.
 */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import type { InstanceEnd } from '../../../src/plugin.ts';

export interface MachineSpec {
  readonly id: string;
  /** A label: what one owner started is found by it, also by a process that did not start it. */
  readonly owner: string;
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly folder: string;
  readonly onOutput: (stream: 'stdout' | 'stderr', chunk: Uint8Array) => void;
}

export interface Machine {
  readonly id: string;
  readonly ended: Promise<InstanceEnd>;
}

interface Running extends Machine {
  readonly owner: string;
  readonly child: ChildProcess;
  isStopped: boolean;
}

/** What a real platform keeps and lists: it outlives every client. */
const running = new Map<string, Running>();

export class AcmeClient {
  /** Resolves when the program was started. */
  async start({ id, owner, command, environment, folder, onOutput }: MachineSpec): Promise<Machine> {
    const [program = '', ...args] = command;
    // A process group of its own: it is ended with what it started.
    const child = spawn(program, args, { cwd: folder, env: environment, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.on('data', (chunk: Buffer) => onOutput('stdout', chunk));
    child.stderr.on('data', (chunk: Buffer) => onOutput('stderr', chunk));
    const started = new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject));
    const ended = new Promise<InstanceEnd>((resolve) => {
      child.once('close', (code, signal) => {
        const stopped = running.get(id)?.isStopped === true;
        running.delete(id);
        if (stopped) resolve({ reason: 'terminated' });
        else resolve(signal === null ? { reason: 'exited', exitCode: code ?? 0 } : { reason: 'signalled', signal });
      });
    });
    await started;
    const machine: Running = { id, owner, child, ended, isStopped: false };
    running.set(id, machine);
    return machine;
  }

  /** Ends it at once. Idempotent; resolves when nothing runs any more. */
  async stop(id: string): Promise<void> {
    const machine = running.get(id);
    if (!machine) return;
    machine.isStopped = true;
    endGroup(machine.child);
    await machine.ended;
  }

  /** Ids of what an owner has started. */
  async list(owner: string): Promise<readonly string[]> {
    return [...running.values()].filter((machine) => machine.owner === owner).map(({ id }) => id);
  }
}

function endGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has ended in this moment.
  }
}
