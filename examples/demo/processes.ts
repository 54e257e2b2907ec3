/** Node processes of the demo and of the proofs: started with a clean environment, ended by their id. */

import { spawn } from 'node:child_process';
import { dirname } from 'node:path';

export interface NodeProcess {
  readonly pid: number;
  /** Exit code, or the signal that ended it. */
  readonly exit: Promise<number | NodeJS.Signals>;
  readonly stderr: () => string;
  /** Resolves with the first line on stderr that holds this text; rejects when the process ends before. */
  logged(text: string): Promise<string>;
  /** Sends the signal, default SIGKILL, and resolves when the process is gone. */
  end(signal?: NodeJS.Signals): Promise<number | NodeJS.Signals>;
}

const STDERR_CHARS_MAX = 100_000;

/** @param script an absolute path */
export function startNode(script: string, env: Readonly<Record<string, string>>): NodeProcess {
  const child = spawn(process.execPath, [script], {
    env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, ...env },
    stdio: ['ignore', 'inherit', 'pipe'],
  });
  const exit = new Promise<number | NodeJS.Signals>((resolve) => child.once('close', (code, signal) => resolve(code ?? signal ?? -1)));
  let stderr = '';
  const listeners = new Set<() => void>();
  child.stderr.on('data', (chunk: Buffer) => {
    stderr = (stderr + chunk.toString('utf8')).slice(-STDERR_CHARS_MAX);
    for (const listener of listeners) listener();
  });
  const logged = (text: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        const line = stderr.split('\n').find((each) => each.includes(text));
        if (line === undefined) return;
        listeners.delete(look);
        resolve(line);
      };
      listeners.add(look);
      look();
      void exit.then((how) => reject(new Error(`${script} ended with ${how} before it logged ${JSON.stringify(text)}:\n${stderr}`)));
    });
  return {
    pid: child.pid ?? -1,
    exit,
    stderr: () => stderr,
    logged,
    end: (signal = 'SIGKILL') => {
      child.kill(signal);
      return exit;
    },
  };
}

export interface HandlerProcess extends NodeProcess {
  readonly url: string;
}

/** Starts a handler bundle on a free port of loopback. */
export async function startHandler(bundle: string, env: Readonly<Record<string, string>> = {}): Promise<HandlerProcess> {
  const handler = startNode(bundle, { PORT: '0', BLUEPRINT_ADAPTER: 'http', ...env });
  const { address } = JSON.parse(await handler.logged('the handler takes calls')) as { address: string };
  return { ...handler, url: address };
}
