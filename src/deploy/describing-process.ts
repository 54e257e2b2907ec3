/** A process that imports bundles, one after the other, for as long as none leaves anything behind. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { pathToFileURL } from 'node:url';
import { systemClock } from '../clock.ts';
import type { PackagedJob } from './package.ts';

export type Ending =
  | {
      readonly isLoaded: true;
      readonly jobs: readonly PackagedJob[];
      /** What the bundle wrote to the descriptor itself: all else goes to stderr. */
      readonly stdout: string;
    }
  /** `late`, or how the process ended. */
  | { readonly isLoaded: false; readonly status: string | number; readonly stderr: string };

export interface DescribingProcess {
  /** Never rejects. One at a time. */
  load(file: string, timeoutMs: number): Promise<Ending>;
  /** Bundles that were given to it. */
  readonly loads: number;
  /** Whether it may get another one. */
  readonly isReusable: boolean;
  kill(): void;
}

/** Nobody else sends it. */
const KILL = 'SIGKILL';
/** What was imported stays in memory. */
const LOADS_MAX = 100;
const OUTPUT_CHARACTERS_MAX = 4 * 1024 * 1024;
/** Around what the program itself says. */
const MARK = '\0';

/**
 * Imports what it is told, an address each, and says the jobs. Ends with its input, and when not all is as it was before: globals, what is built
 * in, the environment, listeners, timers, sockets.
 */
const PROGRAM = `
import { writeSync } from 'node:fs';
const { stdin, stdout, stderr } = process;
stdout.write = stderr.write.bind(stderr);
const isObject = (value) => typeof value === 'function' || (typeof value === 'object' && value !== null);
const membersOf = (object) => Reflect.ownKeys(object).map((key) => [key, Reflect.getOwnPropertyDescriptor(object, key)]);
const globals = membersOf(globalThis).map(([, { value }]) => value).filter(isObject);
const watched = new Set([globalThis, process, process.env, ...globals, ...globals.map(({ prototype }) => prototype).filter(isObject)]);
const stateOf = (object) => new Map(membersOf(object).map(([key, { value, get }]) => [key, get === undefined ? { value } : {}]));
// What is made on first use is an accessor until then.
const isAsBefore = ([object, before]) => {
  const members = membersOf(object);
  return members.length === before.size && members.every(([key, { value }]) => 
    before.has(key) && (!('value' in before.get(key)) || Object.is(before.get(key).value, value)));
};
const states = [...watched].map((object) => [object, stateOf(object)]);
const heldNow = () => [process.getActiveResourcesInfo(), process.eventNames().map((name) => process.listenerCount(name))].join(';');
let held;
stdin.setEncoding('utf8').on('data', async (url) => {
  held ??= heldNow();
  const { default: { jobs } } = await import(url);
  writeSync(1, ${JSON.stringify(MARK)} + JSON.stringify(jobs) + ${JSON.stringify(MARK)});
  if (!states.every(isAsBefore) || heldNow() !== held) process.kill(process.pid, ${JSON.stringify(KILL)});
});
`;

/** It has the environment, and `BLUEPRINT_ADAPTER=describe`. */
export function startDescribing(env: NodeJS.ProcessEnv): DescribingProcess {
  const args = ['--input-type=module', '-e', PROGRAM];
  const child = spawn(process.execPath, args, { env: { ...env, BLUEPRINT_ADAPTER: 'describe' }, stdio: 'pipe' });
  // Pipes of a process are sockets.
  const handles = [child, child.stdin, child.stdout, child.stderr] as unknown as readonly Pick<ChildProcess, 'ref' | 'unref'>[];
  // Who never gives it a bundle does not wait for it.
  for (const handle of handles) handle.unref();
  let output = { stdout: '', stderr: '' };
  let isReusable = true;
  let loads = 0;
  let told = (): void => {};

  const kill = (): void => void child.kill(KILL);
  const ended = new Promise<string | number>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(code ?? signal ?? 0));
  });
  void ended.then(() => (isReusable = false));
  // Told by its end.
  child.stdin.on('error', () => {});
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      output[name] += text;
      if (output[name].length > OUTPUT_CHARACTERS_MAX) kill();
      if (name === 'stdout' && text.endsWith(MARK)) told();
    });
  }

  return {
    kill,
    get loads() {
      return loads;
    },
    get isReusable() {
      return isReusable;
    },
    async load(file, timeoutMs) {
      loads += 1;
      output = { stdout: '', stderr: '' };
      for (const handle of handles) handle.ref();
      child.stdin.write(`${pathToFileURL(file).href}?${loads}`);
      const loaded = new Promise<'loaded'>((resolve) => (told = () => resolve('loaded')));
      let cancel = (): void => {};
      const late = new Promise<'late'>((resolve) => (cancel = systemClock.after(timeoutMs, () => resolve('late'))));
      const status = await Promise.race([loaded, ended, late]);
      cancel();
      for (const handle of handles) handle.unref();
      if (status !== 'loaded') {
        isReusable = false;
        kill();
        return { isLoaded: false, status, stderr: output.stderr };
      }
      const [stdout = '', said = ''] = output.stdout.split(MARK);
      isReusable &&= loads < LOADS_MAX;
      return { isLoaded: true, stdout, jobs: JSON.parse(said) as readonly PackagedJob[] };
    },
  };
}
