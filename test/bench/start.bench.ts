/**
 * What it costs to load the built package: the time of its import, and the memory of a started runner that has nothing to do, in a fresh
 * process each. Run after `npm run build`.
 *
 * The import is compared with that of the dependencies that package.json declares (goal: at most 1.15 times), and with the few that it really
 * loads before something is called. The memory is compared with node that has loaded what a started runner has loaded. Only the first has a goal.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { median } from './measure.ts';

const ROUNDS = Number(process.argv[2] ?? 15);
const IMPORT_GOAL = 1.15;
const MIB = 1024 * 1024;

const root = new URL('../../', import.meta.url).pathname;
const entry = join(root, 'dist/src/index.js');
if (!existsSync(entry)) throw new Error('the package is not built: npm run build');

/** What the modules behind the entry import of other packages and of node before anything is called. */
function dependencies(): string[] {
  const found = new Set<string>();
  const visited = new Set<string>();
  const visit = (file: string): void => {
    if (visited.has(file)) return;
    visited.add(file);
    for (const [, name = ''] of readFileSync(file, 'utf8').matchAll(/^(?:import|export) (?:[\w$*{}\s,]+ from )?['"]([^'"]+)['"];$/gm)) {
      if (name.startsWith('.')) visit(join(file, '..', name));
      else found.add(name);
    }
  };
  visit(entry);
  return [...found];
}

/** What a fresh process writes. */
async function run(source: string): Promise<number> {
  const child = spawn(process.execPath, ['--expose-gc', '--input-type=module', '-e', source], {
    cwd: root,
    env: {},
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [written, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  if (code !== 0) throw new Error(`a measured process ended with ${code}`);
  return Number(written);
}

const names = dependencies();
const imports = `await Promise.all(${JSON.stringify(names)}.map((name) => import(name)));`;
const timed = (work: string): string => `const started = performance.now(); ${work} console.log(performance.now() - started);`;
/** After a second of idleness, as it is, without a forced collection. */
const settled = `await new Promise((resolve) => setTimeout(resolve, 1_000)); console.log(process.memoryUsage.rss());`;

/** Medians of both, in turns, and the median of the ratios of the rounds. */
async function compare(rounds: number, ours: string, peer: string): Promise<{ ours: number; peer: number; ratio: number }> {
  await run(ours);
  await run(peer);
  const times: { ours: number; peer: number }[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const first = round % 2 === 0 ? await run(ours) : undefined;
    const other = await run(peer);
    times.push({ ours: first ?? (await run(ours)), peer: other });
  }
  return {
    ours: median(times.map((one) => one.ours)),
    peer: median(times.map((one) => one.peer)),
    ratio: median(times.map((one) => one.ours / one.peer)),
  };
}

const declared = Object.keys((JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { dependencies: object }).dependencies);
const ours = timed(`await import(${JSON.stringify(entry)});`);
// tsyringe refuses to load before the polyfill that it builds on.
const whole = timed(`await import('reflect-metadata'); await Promise.all(${JSON.stringify(declared)}.map((name) => import(name)));`);
const load = await compare(ROUNDS, ours, whole);
const eager = await compare(ROUNDS, ours, timed(imports));
const isMet = load.ratio <= IMPORT_GOAL;
console.log(
  `import: ${load.ours.toFixed(1)} ms, its ${declared.length} dependencies alone ${load.peer.toFixed(1)} ms, ratio ${load.ratio.toFixed(3)}  ` +
    `goal <= ${IMPORT_GOAL} ${isMet ? 'ok' : 'MISSED'}`,
);
console.log(`import against what it loads at once (${names.join(' ')}): ${eager.peer.toFixed(1)} ms, ratio ${eager.ratio.toFixed(3)}`);
if (!isMet) process.exitCode = 1;

const directory = mkdtempSync(join(tmpdir(), 'start-bench-'));
/** A mock chain: all that a runner has, and no other process. The peer loads what a started runner has loaded. */
const idleRunner = `
import { BlueprintRunner, JobRouter, defineJob } from ${JSON.stringify(entry)};
const square = defineJob({ name: 'square', params: 'uint64 x', result: 'uint64' }, ([x]) => x * x);
await BlueprintRunner.builder({ chainMode: 'mock', serviceIds: [1n], dataDir: ${JSON.stringify(directory)}, logLevel: 'silent', metrics: { port: 0 } }, {})
  .router(new JobRouter().route(0, square)).start();
${settled}
process.exit();`;
const started = ['pino', 'prom-client', 'node:http', 'node:sqlite'];
const idleNode = `${imports} await Promise.all(${JSON.stringify(started)}.map((name) => import(name))); ${settled}`;
const memory = await compare(Number(process.argv[3] ?? 5), idleRunner, idleNode);
const bare = await run(settled);
console.log(
  `idle memory: a started runner ${(memory.ours / MIB).toFixed(1)} MiB, node with the same dependencies ${(memory.peer / MIB).toFixed(1)} MiB, ` +
    `ratio ${memory.ratio.toFixed(3)}; node alone ${(bare / MIB).toFixed(1)} MiB`,
);
rmSync(directory, { recursive: true, force: true });
