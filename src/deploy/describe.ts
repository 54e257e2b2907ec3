/** The jobs of a bundle, told by the bundle itself in a process of its own: that also proves that it loads. */

import { statSync } from 'node:fs';
import { systemClock } from '../clock.ts';
import type { CancelTimer } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { startDescribing } from './describing-process.ts';
import type { DescribingProcess, Ending } from './describing-process.ts';
import type { PackagedJob } from './package.ts';
import { sha256Of } from './zip.ts';

export interface DescribeOptions {
  /** The module of the jobs, for messages. */
  readonly entry: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** How long the bundle may take to load. Default 20 s. */
  readonly timeoutMs?: number;
}

export interface Describer {
  /** Throws `BUILD_FAILED`. `sha256` is that of the file. */
  describe(file: string, sha256: string): Promise<readonly PackagedJob[]>;
  /** Gives the process back. */
  close(): void;
}

const TIMEOUT_MS = 20_000;
const REMEMBERED_MAX = 256;
/** How long a process is kept for the next bundle. */
const IDLE_MS = 10_000;

/** By bundle and environment: what is built again unchanged, for another function or by a watcher, is not asked again. */
const remembered = new Map<string, readonly PackagedJob[]>();
/** When the module of the jobs was last changed, as far as it was built. */
const builtAt = new Map<string, number>();
/** A bundle left nothing behind in it: it loads the next one in a fraction of the time that node takes to start. */
let kept: { readonly process: DescribingProcess; readonly environment: string; readonly cancelEnd: CancelTimer } | undefined;

/** Starts the process at once when the answer is not to be expected to be known: it comes up while the bundler works. */
export function startDescriber({ entry, env, timeoutMs = TIMEOUT_MS }: DescribeOptions): Describer {
  const { NODE_OPTIONS: _options, NODE_EXTRA_CA_CERTS: _certificates, ...variables } = env;
  const environment = sha256Of(Buffer.from(JSON.stringify(variables)));
  const changedAt = statSync(entry, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const take = (): DescribingProcess => takeKept(environment) ?? startDescribing(variables);
  let process = builtAt.get(entry) === changedAt ? undefined : take();
  return {
    async describe(file, sha256) {
      const key = `${sha256} ${environment}`;
      const known = remembered.get(key);
      if (builtAt.size >= REMEMBERED_MAX) builtAt.clear();
      builtAt.set(entry, changedAt);
      if (known) return known;
      process ??= take();
      let ending = await process.load(file, timeoutMs);
      if (!ending.isLoaded && ending.status !== 'late' && process.loads > 1) {
        // The bundle before may have to do with it.
        process = startDescribing(variables);
        ending = await process.load(file, timeoutMs);
      }
      const jobs = jobsIn(ending, { entry, timeoutMs });
      const [oldest] = remembered.keys();
      if (oldest !== undefined && remembered.size >= REMEMBERED_MAX) remembered.delete(oldest);
      remembered.set(key, jobs);
      return jobs;
    },
    close: () => process && keep(process, environment),
  };
}

function takeKept(environment: string): DescribingProcess | undefined {
  if (kept?.environment !== environment || !kept.process.isReusable) return undefined;
  const { process, cancelEnd } = kept;
  cancelEnd();
  kept = undefined;
  return process;
}

/** The last one, for a while; it keeps nobody from ending. */
function keep(process: DescribingProcess, environment: string): void {
  if (!process.isReusable) return process.kill();
  kept?.process.kill();
  kept?.cancelEnd();
  kept = { process, environment, cancelEnd: systemClock.after(IDLE_MS, () => process.kill()) };
}

function jobsIn(ending: Ending, { entry, timeoutMs }: { readonly entry: string; readonly timeoutMs: number }): readonly PackagedJob[] {
  const fail = (message: string): RunnerError => new RunnerError('BUILD_FAILED', message, { details: { entry } });
  if (!ending.isLoaded) {
    const how = ending.status === 'late' ? `it did not load within ${timeoutMs / 1000} s` : `it ended with status ${ending.status}`;
    throw fail(`${entry} was bundled, but ${loggedReason(ending.stderr) ?? `${how}\n${ending.stderr}`.trimEnd()}`);
  }
  if (ending.stdout !== '') {
    const said = ending.stdout.slice(0, 200);
    throw fail(`${entry} was bundled, but what it writes to stdout while it loads is in the way of the handler: ${said}`);
  }
  if (ending.jobs.length > 0) return ending.jobs;
  throw fail(`${entry} exports a router without routes: add one with route(id, job)`);
}

/** What the handler wrote to its log before it gave up. */
function loggedReason(stderr: string): string | undefined {
  for (const line of stderr.trimEnd().split('\n').toReversed()) {
    if (!line.startsWith('{')) continue;
    const { reason, cause } = JSON.parse(line) as { reason?: string; cause?: string };
    return cause ?? reason;
  }
  return undefined;
}
