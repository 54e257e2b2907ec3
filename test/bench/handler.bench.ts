/**
 * The handler bundle of the squaring example: its size, and the time from spawn to the first byte of the first answer against a bare `node:http` server.
 * Run: `node test/bench/handler.bench.ts [runs]`. The runs are interleaved, the environments clean, the medians compared.
 */

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildHandler } from '../../src/deploy/package.ts';
import { median } from './measure.ts';

const RUNS = Number(process.argv[2] ?? 21);
const SIZE_GOAL = 50_000;
const START_GOAL = 1.15;

const root = new URL('../..', import.meta.url).pathname;
const directory = mkdtempSync(join(tmpdir(), 'handler-bench-'));
const entry = join(root, 'examples/incredible-squaring/jobs.ts');
const bare = join(directory, 'bare.mjs');
writeFileSync(
  bare,
  `import { createServer } from 'node:http';
createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const body = Buffer.concat(chunks);
    response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': body.length });
    response.end(body);
  });
}).listen(process.env.BLUEPRINT_SOCKET);
`,
);

const REQUEST = Buffer.concat([
  Buffer.from('POST /job/0 HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 32\r\n\r\n'),
  Buffer.alloc(31),
  Buffer.of(5),
]);

/** Milliseconds from spawn to the first byte of the first answer. */
async function spawnToFirstByte(script: string): Promise<number> {
  const socketPath = join(directory, 'bench.sock');
  const startedAt = performance.now();
  const child = spawn(process.execPath, [script], { env: { BLUEPRINT_SOCKET: socketPath }, stdio: ['ignore', 'ignore', 'ignore'] });
  const exited = new Promise((resolve) => child.once('close', resolve));
  const elapsed = await new Promise<number>((resolve, reject) => {
    const attempt = (): void => {
      const socket = connect(socketPath, () => socket.write(REQUEST));
      socket.once('data', (answer: Buffer) => {
        const now = performance.now();
        socket.destroy();
        if (answer.toString('latin1').startsWith('HTTP/1.1 200 ')) resolve(now - startedAt);
        else reject(new Error(answer.toString()));
      });
      // Nobody listens yet.
      socket.once('error', () => setTimeout(attempt, 0.5));
    };
    attempt();
  });
  child.kill('SIGKILL');
  await exited;
  rmSync(socketPath, { force: true });
  return elapsed;
}

const verdict = (isMet: boolean): string => (isMet ? 'met' : 'MISSED');

const built = await buildHandler({ entry, outDir: join(directory, 'out') });
console.log(
  `bundle ${built.fileBytes} B minified (goal ${SIZE_GOAL}: ${verdict(built.fileBytes <= SIZE_GOAL)}), ${built.gzipBytes} B gzip, ${built.zipBytes} B zip`,
);
console.log(
  `largest parts: ${built.inputs
    .slice(0, 8)
    .map(({ path, bytes }) => `${path.split('/').slice(-2).join('/')} ${bytes}`)
    .join(', ')}`,
);

const times = { bare: [] as number[], handler: [] as number[] };
// The first start of each reads its file from the disk.
await spawnToFirstByte(bare);
await spawnToFirstByte(built.file);
for (let run = 0; run < RUNS; run += 1) {
  times.bare.push(await spawnToFirstByte(bare));
  times.handler.push(await spawnToFirstByte(built.file));
}
const ratio = median(times.handler) / median(times.bare);
const ofPairs = median(times.handler.map((value, run) => value / (times.bare[run] ?? Number.NaN)));
console.log(
  `spawn to first byte, median of ${RUNS}: handler ${median(times.handler).toFixed(1)} ms, bare node:http ${median(times.bare).toFixed(1)} ms`,
);
console.log(
  `ratio of medians ${ratio.toFixed(3)}, median of pair ratios ${ofPairs.toFixed(3)} (goal ${START_GOAL}: ${verdict(ofPairs <= START_GOAL)})`,
);
rmSync(directory, { recursive: true });
process.exitCode = ofPairs <= START_GOAL && built.fileBytes <= SIZE_GOAL ? 0 : 1;
