/** The jobs of a bundle, told by the bundle itself in a process of its own: that also proves that it loads. */

import { spawn } from 'node:child_process';
import { statSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { pathToFileURL } from 'node:url';
import { RunnerError } from '../errors.ts';
import type { PackagedJob } from './package.ts';
import { sha256Of } from './zip.ts';

export interface DescribeOptions {
  /** The module of the jobs, for messages. */
  readonly entry: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

export interface Describer {
  /** Throws `BUILD_FAILED`. `sha256` is that of the file. */
  describe(file: string, sha256: string): Promise<readonly PackagedJob[]>;
  /** Ends the process when it was not used. */
  close(): void;
}

const TIMEOUT_MS = 20_000;
/** Nobody else sends it. */
const KILL = 'SIGKILL';
const REMEMBERED_MAX = 256;
/** Waits for the address of the bundle. */
const PROGRAM = `import{text}from'node:stream/consumers';await import(await text(process.stdin));`;

/** By bundle and environment: what is built again unchanged, for another function or by a watcher, is not asked again. */
const remembered = new Map<string, readonly PackagedJob[]>();
/** When the module of the jobs was last changed, as far as it was built. */
const builtAt = new Map<string, number>();

/** Starts the process at once when the answer is not to be expected to be known: it comes up while the bundler works. */
export function startDescriber({ entry, env }: DescribeOptions): Describer {
  const { NODE_OPTIONS: _options, NODE_EXTRA_CA_CERTS: _certificates, ...environment } = env;
  const changedAt = statSync(entry, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  let waiting = builtAt.get(entry) === changedAt ? undefined : startProcess(environment);
  return {
    async describe(file, sha256) {
      const key = `${sha256} ${sha256Of(Buffer.from(JSON.stringify(environment)))}`;
      const known = remembered.get(key);
      if (builtAt.size >= REMEMBERED_MAX) builtAt.clear();
      builtAt.set(entry, changedAt);
      if (known) return known;
      const process = waiting ?? startProcess(environment);
      waiting = undefined;
      const jobs = jobsIn(await process.load(file), entry);
      const [oldest] = remembered.keys();
      if (oldest !== undefined && remembered.size >= REMEMBERED_MAX) remembered.delete(oldest);
      remembered.set(key, jobs);
      return jobs;
    },
    close: () => waiting?.kill(),
  };
}

interface Finished {
  readonly status: number | NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

function startProcess(env: NodeJS.ProcessEnv) {
  const args = ['--input-type=module', '-e', PROGRAM];
  const child = spawn(process.execPath, args, {
    env: { ...env, BLUEPRINT_ADAPTER: 'describe' },
    stdio: 'pipe',
    timeout: TIMEOUT_MS,
    killSignal: KILL,
  });
  const status = new Promise<Finished['status']>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve(code ?? signal));
  });
  const kill = (): void => void child.kill(KILL);
  // Told by its status.
  child.stdin.on('error', () => {});
  return {
    kill,
    async load(file: string): Promise<Finished> {
      child.stdin.end(pathToFileURL(file).href);
      const [stdout, stderr, ending] = await Promise.all([text(child.stdout), text(child.stderr), status]);
      return { status: ending, stdout, stderr };
    },
  };
}

function jobsIn({ status, stdout, stderr }: Finished, entry: string): readonly PackagedJob[] {
  const fail = (message: string, cause?: unknown): RunnerError => new RunnerError('BUILD_FAILED', message, { cause, details: { entry } });
  if (status !== 0) {
    const ending = status === KILL ? `it did not load within ${TIMEOUT_MS / 1000} s` : `it ended with status ${status}`;
    throw fail(`${entry} was bundled, but ${loggedReason(stderr) ?? `${ending}\n${stderr}`.trimEnd()}`);
  }
  let jobs: readonly PackagedJob[];
  try {
    jobs = JSON.parse(stdout) as readonly PackagedJob[];
  } catch (cause) {
    throw fail(
      `${entry} was bundled, but what it writes to stdout while it loads is in the way of the handler: ${stdout.slice(0, 200)}`,
      cause,
    );
  }
  if (jobs.length > 0) return jobs;
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
