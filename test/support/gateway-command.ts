/** The command `bpr gateway` as a process of its own. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { BPR } from './bpr.ts';
import { onEnd } from './gateway.ts';

export { BPR };

export interface RunningGateway {
  readonly url: string;
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
  readonly listening: Readonly<Record<string, unknown>>;
}

export async function startCommand(dataDir: string, ...flags: string[]): Promise<RunningGateway> {
  const child = spawn(
    process.execPath,
    [BPR, 'gateway', '--port', '0', '--backend', 'process', '--data-dir', dataDir, '--json', ...flags],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const ended = once(child, 'close').then(([code]) => code as number | null);
  onEnd(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const lines = createInterface({ input: child.stdout });
  const [line] = (await Promise.race([
    once(lines, 'line'),
    ended.then((code) => Promise.reject(new Error(`the gateway ended with ${code}`))),
  ])) as [string];
  const listening = JSON.parse(line) as Record<string, unknown>;
  return { url: String(listening['url']), child, ended, listening };
}
