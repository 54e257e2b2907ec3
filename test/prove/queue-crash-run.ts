/** Kills the owner of an embedded queue again and again, then reads what is left. */

import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { EmbeddedQueue } from '../../src/queue/embedded.ts';
import { Random } from '../../src/testing/fake-clock.ts';

const OWNER = fileURLToPath(new URL('../fixtures/prove/queue-owner.ts', import.meta.url));
/** A life of the owner, counted from when its queue is open. */
const LIFE_MS_MAX = 250;
/** Lives that end at some moment of the start. */
const EARLY = 0.15;

export interface QueueCrashReport {
  readonly seed: number;
  readonly kills: number;
  readonly killsBeforeOpen: number;
  readonly published: number;
  readonly claims: number;
  readonly completions: number;
  /** Completions that were refused: their lease was lost. */
  readonly refused: number;
  readonly lostPublications: number;
  readonly lostCompletions: number;
  /** Jobs with completions of two leases. */
  readonly completedTwice: number;
  /** Jobs whose result is of a lease that nobody was given. */
  readonly foreignResults: number;
  /** Acknowledged publications without a result after everything was worked off. */
  readonly unfinished: number;
}

export function holds(report: QueueCrashReport): boolean {
  const { lostPublications, lostCompletions, completedTwice, foreignResults, unfinished } = report;
  return [lostPublications, lostCompletions, completedTwice, foreignResults, unfinished].every((count) => count === 0);
}

export interface QueueCrashOptions {
  readonly folder: string;
  readonly kills: number;
  readonly seed: number;
  /** Where the disk is waited for. */
  readonly sync: 'commit' | 'background';
  readonly progress?: (kill: number) => void;
}

export async function killOwners(options: QueueCrashOptions): Promise<QueueCrashReport> {
  const { folder, kills, seed, sync, progress } = options;
  const random = new Random(seed);
  const logFile = join(folder, 'log');
  const queueFolder = join(folder, 'queue');
  let killsBeforeOpen = 0;
  for (let life = 0; life < kills; life += 1) {
    const early = random.chance(EARLY);
    const lifeMs = random.int(0, LIFE_MS_MAX);
    const isOpen = await live([queueFolder, logFile, String(seed), String(life), sync], { early, lifeMs });
    if (!isOpen) killsBeforeOpen += 1;
    progress?.(life + 1);
  }
  return judge({ queueFolder, logFile, seed, kills, killsBeforeOpen });
}

/** Resolves with whether the queue was open when the process was killed. */
async function live(args: readonly string[], { early, lifeMs }: { readonly early: boolean; readonly lifeMs: number }): Promise<boolean> {
  const child = spawn(process.execPath, [OWNER, ...args], { env: {}, stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = new Promise<string>((resolve) => child.once('close', (code, signal) => resolve(signal ?? String(code))));
  let stderr = '';
  const opened = new Promise<boolean>((resolve) => {
    child.stderr.on('data', (chunk: Buffer) => {
      stderr += chunk.toString('utf8');
      if (stderr.includes('the queue is open')) resolve(true);
    });
    void ended.then(() => resolve(false));
  });
  if (!early) await opened;
  await Promise.race([sleep(lifeMs), ended]);
  const isOpen = stderr.includes('the queue is open');
  child.kill('SIGKILL');
  const how = await ended;
  if (how !== 'SIGKILL') throw new Error(`the owner of the queue ended by itself with ${how}\n${stderr}`);
  return isOpen;
}

interface Left {
  readonly queueFolder: string;
  readonly logFile: string;
  readonly seed: number;
  readonly kills: number;
  readonly killsBeforeOpen: number;
}

async function judge({ queueFolder, logFile, ...figures }: Left): Promise<QueueCrashReport> {
  const lines = (await readFile(logFile, 'utf8')).split('\n').map((line) => line.split(' ') as [string, string, string]);
  const of = (kind: string): [string, string, string][] => lines.filter(([each]) => each === kind);
  const published = of('p').map(([, id]) => id);
  const leases = Map.groupBy(of('l'), ([, id]) => id);
  const completions = new Map(of('c').map(([, id, token]) => [id, token]));
  const tokens = Map.groupBy(of('c'), ([, id]) => id);
  const twice = [...tokens.values()].filter((each) => new Set(each.map(([, , token]) => token)).size > 1);
  const queue = EmbeddedQueue.open({ folder: queueFolder });
  try {
    const states = new Map<string, string | undefined>();
    for (const id of published) states.set(id, (await queue.status(id))?.state);
    const lostCompletions: string[] = [];
    for (const [id, token] of completions) {
      const isCompleted = (await queue.status(id))?.state === 'completed'; // known also when the publication was not acknowledged
      const kept = isCompleted ? Buffer.from((await queue.result(id)).body as Uint8Array).toString() : undefined;
      if (kept !== `${id} ${token}`) lostCompletions.push(id);
    }
    const finished = await workOff(queue, published, leases);
    return {
      ...figures,
      published: published.length,
      claims: of('l').length,
      completions: completions.size,
      refused: of('x').length,
      lostPublications: [...states.values()].filter((state) => state === undefined).length,
      lostCompletions: lostCompletions.length,
      completedTwice: twice.length,
      ...finished,
    };
  } finally {
    await queue.close();
  }
}

async function workOff(
  queue: EmbeddedQueue,
  published: readonly string[],
  leases: ReadonlyMap<string, readonly (readonly [string, string, string])[]>,
): Promise<Pick<QueueCrashReport, 'foreignResults' | 'unfinished'>> {
  const own = new Set<string>();
  for (;;) {
    const jobs = await queue.claim({ workerId: 'last', max: 1_000 });
    const { byState } = await queue.stats();
    if (jobs.length === 0 && byState.queued + byState.claimed === 0) break;
    // What is delayed, or leased to the dead.
    if (jobs.length === 0) await sleep(20);
    for (const { lease } of jobs) own.add(lease.token);
    await Promise.all(jobs.map(({ id, lease }) => queue.complete(lease, { body: Buffer.from(`${id} ${lease.token}`) })));
  }
  let [foreignResults, unfinished] = [0, 0];
  for (const id of published) {
    if ((await queue.status(id))?.state !== 'completed') {
      unfinished += 1;
      continue;
    }
    const [jobId, token = ''] = Buffer.from((await queue.result(id)).body as Uint8Array)
      .toString()
      .split(' ');
    const isKnown = own.has(token) || leases.get(id)?.some(([, , given]) => given === token);
    if (jobId !== id || !isKnown) foreignResults += 1;
  }
  return { foreignResults, unfinished };
}
