import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { parsePort } from '../calls.ts';
import { JsonEvents } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { whenUnread } from '../signals.ts';

interface DevFlags {
  readonly port: number;
  readonly handler?: true;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr dev src/jobs.ts              a local chain, a service with these jobs, a runner; a change of the code is taken up at once
  bpr dev src/jobs.ts --handler    the jobs run in the bundled handler, a process of its own behind HTTP, as when they are deployed
  bpr dev src/jobs.ts --port 8545  the chain at a fixed port
  bpr dev src/jobs.ts --json       one JSON line for each event: ready, seen, attempt, executed, failed, submitted, mined, final,
                                   rejected, closed, reload, reload-failed, error, state, stopped

On a terminal a table of the calls, on a pipe one line for each event. It prints a command that calls each job.
A version that does not load is shown, and the one before keeps serving. Nothing is kept after the end.
Needs the package @foundry-rs/anvil, with --handler esbuild too.

Exit status: 0 ended by Ctrl-C (SIGINT), SIGTERM or SIGHUP; 1 it could not start; 2 called in a wrong way;
130 or 143 ended at once by a second signal.`;

const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** `bpr dev`: everything that a blueprint needs, on this machine, while its jobs are being written. */
export function addDev(program: Command, { io }: Cli): void {
  program
    .command('dev')
    .description('local chain, service and runner that take up every change of the code')
    .argument('<entry>', 'module that exports the job router')
    .option('--handler', 'run the jobs in the bundled handler, behind HTTP')
    .option('--port <port>', 'of the chain; 0: any free one', parsePort, 0)
    .addOption(new JsonEvents('print one JSON line for each event'))
    .addHelpText('after', EXAMPLES)
    .action((entry: string, flags: DevFlags) => dev(io, entry, flags));
}

async function dev(io: Io, entry: string, flags: DevFlags): Promise<void> {
  const stopped = Promise.withResolvers<void>();
  let signals = 0;
  const onSignal = (name: keyof typeof SIGNALS): void => {
    signals += 1;
    if (signals > 1) process.exit(SIGNALS[name]);
    stopped.resolve();
  };
  for (const name of Object.keys(SIGNALS)) process.on(name, onSignal);
  whenUnread(stopped.resolve);
  const [{ DevSession }, { createDevView }] = await Promise.all([import('../dev-session.ts'), import('../dev-view.ts')]);
  const dataDir = mkdtempSync(join(tmpdir(), 'bpr-dev-'));
  const view = createDevView(io, { entry, json: flags.json === true });
  const { port, handler = false } = flags;
  const session = new DevSession({ io, entry: resolve(io.cwd, entry), port, handler, dataDir, view });
  const started = session.start().then(() => stopped.promise);
  try {
    await Promise.race([started, stopped.promise]);
  } finally {
    await session.close();
    // What was still starting has nothing to start on any more.
    await Promise.race([started.catch(() => undefined), stopped.promise]);
    rmSync(dataDir, { recursive: true, force: true });
    for (const name of Object.keys(SIGNALS)) process.off(name, onSignal);
  }
  view.show({ event: 'stopped' });
  view.close();
}
