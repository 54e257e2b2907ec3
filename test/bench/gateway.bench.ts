/**
 * Calls per second through the gateway, of a function that runs as a process, against the same handler behind a bare `node:http` server. And
 * what it takes to start 8 instances at once.
 *
 * What is printed is the time of ours for one of the peer's: the goal of 0.6 of the calls of the bare server is its reciprocal. Bounds
 * stand beside it: the least gateway there is, a `node:http` server that does nothing but write each body to the process of the handler and
 * each answer to the caller; what passes bytes on to a process that knows no HTTP; and what passes them on to as many such processes as there
 * are connections, each with one call at a time: what has an instance for each call, and wakes all of them, is no faster.
 * `--profile FOLDER` writes what the processor of the gateway does there; `--only TEXT` measures the rows whose name has it.
 */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { GatewayProcess } from '../prove/containers-gateway.ts';
import { interleaved, median } from './measure.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    'slice-ms': { type: 'string', default: '1500' },
    connections: { type: 'string', default: '1,16,64' },
    profile: { type: 'string' },
    only: { type: 'string', default: '' },
    'no-starts': { type: 'boolean', default: false },
  },
});
const ROUNDS = Number(values.rounds);
const SLICE_MS = Number(values['slice-ms']);
const CONNECTIONS = values.connections.split(',').map(Number);
const GOAL = 1 / 0.6;
/** Of one process. */
const WARM_CALLS = 50_000;
/** Of 16 processes and more that share them. */
const WARM_CALLS_SPREAD = 200_000;
const WARM_CONNECTIONS = 16;
/** No limit: what is measured is not how a caller is held back. */
const RATE = 999_999;
const STARTS = 8;
const EVENT = JSON.stringify({ name: 'Ada', numbers: [1, 2, 3] });
const HANDLER =
  'export const handler = async (event) => ({ greeting: `Hello, ${event.name}`, sum: event.numbers.reduce((a, b) => a + b, 0) });\n';

/**
 * `bare`: the handler as a server of its own. `least`: in another process (`apart`), behind the least gateway; a frame is its length, the number
 * of its call, and a body. `pass`: what passes bytes on to `deaf`. `spread`: the same to several processes, each with one call at a time, the
 * one used last first.
 */
const SERVER = `
import { createServer } from 'node:http';
import { connect, createServer as listen } from 'node:net';
import { handler } from './index.mjs';
const [kind, socketPath, ...morePaths] = process.argv.slice(2);
const read = (stream, done) => {
  const chunks = [];
  stream.on('data', (chunk) => chunks.push(chunk));
  stream.on('end', () => done(Buffer.concat(chunks)));
};
const answer = (request, response) => read(request, async (body) => {
  const text = JSON.stringify(await handler(JSON.parse(body.toString())));
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
  response.end(text);
});
const HEAD_BYTES = 8;
const framed = (socket, take) => {
  let rest = Buffer.alloc(0);
  socket.on('error', () => {}).on('data', (bytes) => {
    rest = rest.length === 0 ? bytes : Buffer.concat([rest, bytes]);
    for (let end; rest.length >= HEAD_BYTES && rest.length >= (end = HEAD_BYTES + rest.readUInt32LE(0)); rest = rest.subarray(end))
      take(rest.readUInt32LE(4), rest.subarray(HEAD_BYTES, end));
  });
  let leaving = [];
  return (call, body) => {
    const head = Buffer.allocUnsafe(HEAD_BYTES);
    head.writeUInt32LE(body.length, 0);
    head.writeUInt32LE(call, 4);
    if (leaving.push(head, body) === 2) setImmediate(() => {
      socket.write(Buffer.concat(leaving));
      leaving = [];
    });
  };
};
const apart = (socket) => {
  const tell = framed(socket, async (call, body) => tell(call, Buffer.from(JSON.stringify(await handler(JSON.parse(body.toString()))))));
};
const least = () => {
  const calls = [];
  const free = Array.from({ length: 256 }, (_, call) => call);
  const tell = framed(connect(socketPath), (call, body) => {
    const response = calls[call];
    free.push(call);
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length });
    response.end(body.toString('latin1'), 'latin1');
  });
  return createServer((request, response) => read(request, (body) => {
    const call = free.pop();
    calls[call] = response;
    tell(call, body);
  }));
};
const pass = (socket) => {
  const next = connect(socketPath);
  socket.on('data', (bytes) => next.write(bytes));
  next.on('data', (bytes) => socket.write(bytes));
  socket.on('close', () => next.destroy());
  for (const each of [socket, next]) each.on('error', () => {});
};
const idle = [];
const waiting = [];
const worker = (path) => {
  const connection = connect(path);
  const one = { connection, client: undefined };
  connection.on('data', (bytes) => {
    one.client.write(bytes);
    const next = waiting.shift();
    if (next) give(one, next);
    else idle.push(one);
  });
  idle.push(one);
};
const give = (one, { client, bytes }) => {
  one.client = client;
  one.connection.write(bytes);
};
const spread = (client) => {
  client.on('error', () => {});
  client.on('data', (bytes) => {
    const one = idle.pop();
    if (one) give(one, { client, bytes });
    else waiting.push({ client, bytes });
  });
};
if (kind === 'spread') for (const path of [socketPath, ...morePaths]) worker(path);
const ANSWER = 'HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{}';
const deaf = (socket) => socket.on('data', () => socket.write(ANSWER)).on('error', () => {});
const makes = {
  bare: () => createServer(answer),
  apart: () => listen(apart),
  least,
  pass: () => listen({ noDelay: true }, pass),
  spread: () => listen({ noDelay: true }, spread),
  deaf: () => listen(deaf),
};
const server = makes[kind]();
// As the gateway: who says nothing for so long is let go.
server.keepAliveTimeout = 65_000;
server.listen(kind === 'apart' || kind === 'deaf' ? socketPath : 0, () => console.log(server.address().port ?? 'up'));
process.on('SIGTERM', () => process.exit());
`;

interface Served {
  /** Its processor time is told as well. */
  readonly pid: number;
  readonly port: number;
  readonly path: string;
}

async function serve(folder: string, args: readonly string[]): Promise<{ readonly child: ChildProcess; readonly port: number }> {
  const child = spawn(process.execPath, [join(folder, 'server.mjs'), ...args], { env: {}, stdio: ['ignore', 'pipe', 'inherit'] });
  for await (const line of createInterface({ input: child.stdout })) return { child, port: Number(line) };
  throw new Error('the server ended');
}

const TICK_MICROSECONDS = 10_000;

function processorMicroseconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const [user, system] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 13)
    .map(Number);
  return ((user ?? 0) + (system ?? 0)) * TICK_MICROSECONDS;
}

/** Of each round, by process: microseconds of processor per call. */
const processor = new Map<number, number[]>();

/** So many connections, one call after the other on each, for so long: calls per second. Its own work per call is as little as can be. */
async function callsPerSecond({ pid, port, path }: Served, connections: number): Promise<number> {
  const head = `POST ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Type: application/json\r\nContent-Length: ${EVENT.length}\r\n\r\n`;
  const request = Buffer.from(head + EVENT);
  let calls = 0;
  let isOver = false;
  const client = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => socket.write(request));
      socket.setNoDelay(true);
      let received: Buffer = Buffer.alloc(0);
      socket.on('error', reject);
      socket.on('data', (chunk: Buffer) => {
        received = received.length === 0 ? chunk : Buffer.concat([received, chunk]);
        const end = received.indexOf('\r\n\r\n');
        if (end < 0) return;
        const text = received.toString('latin1', 0, end).toLowerCase();
        const at = text.indexOf('content-length: ');
        const length = Number.parseInt(text.slice(at + 16, at + 26), 10);
        if (received.length < end + 4 + length) return;
        if (!text.startsWith('http/1.1 200')) {
          reject(new Error(received.toString()));
          return;
        }
        received = Buffer.alloc(0);
        calls += 1;
        if (!isOver) {
          socket.write(request);
          return;
        }
        socket.end();
        resolve();
      });
    });
  const before = processorMicroseconds(pid);
  const started = performance.now();
  const clients = Promise.all(Array.from({ length: connections }, client));
  const timer = setTimeout(() => (isOver = true), SLICE_MS);
  await clients;
  clearTimeout(timer);
  processor.set(pid, [...(processor.get(pid) ?? []), (processorMicroseconds(pid) - before) / calls]);
  return (calls * 1_000) / (performance.now() - started);
}

function print(name: string, ratio: number, { detail, goal }: { readonly detail: string; readonly goal?: number }): void {
  const isMissed = goal !== undefined && ratio > goal;
  if (isMissed) process.exitCode = 1;
  const verdict = goal === undefined ? '' : `  goal <= ${goal.toPrecision(3)} ${isMissed ? 'MISSED' : 'ok'}`;
  console.log(`${name.padEnd(58)} ${ratio.toPrecision(3).padStart(6)}  ${detail}${verdict}`);
}

async function compareCalls(
  name: string,
  sides: { readonly ours: Served; readonly peer: Served },
  options: { connections: number; goal?: number; warmCalls?: number },
): Promise<void> {
  const { connections, goal, warmCalls = WARM_CALLS } = options;
  if (!name.includes(values.only)) return;
  // Not counted: instances come up, and code is compiled as far as it ever will be.
  for (const served of [sides.ours, sides.peer]) {
    for (let calls = 0; calls < warmCalls;) calls += (await callsPerSecond(served, WARM_CONNECTIONS)) * (SLICE_MS / 1_000);
    await callsPerSecond(served, connections);
  }
  processor.clear();
  const side = (served: Served) => async () => 1e6 / (await callsPerSecond(served, connections));
  const { ours, peer, ratios } = await interleaved({ ours: side(sides.ours), peer: side(sides.peer) }, ROUNDS);
  const rate = (times: readonly number[]): string => (1e6 / median(times)).toFixed(0);
  const ratio = median(ratios);
  const used = ({ pid }: Served): string => median(processor.get(pid) ?? []).toFixed(0);
  print(`${name}, ${connections} connection${connections === 1 ? '' : 's'}`, ratio, {
    detail: `${rate(ours)} vs ${rate(peer)} calls/s, ${(1 / ratio).toFixed(2)} of its calls; processor ${used(sides.ours)} vs ${used(sides.peer)} us per call`,
    ...(goal !== undefined && { goal }),
  });
}

async function calls(folder: string): Promise<void> {
  writeFileSync(join(folder, 'index.mjs'), HANDLER);
  writeFileSync(join(folder, 'server.mjs'), SERVER);
  const [apartPath, deafPath] = [join(folder, 'apart.sock'), join(folder, 'deaf.sock')];
  const servers = [
    await serve(folder, ['bare']),
    await serve(folder, ['apart', apartPath]),
    await serve(folder, ['least', apartPath]),
    await serve(folder, ['deaf', deafPath]),
    await serve(folder, ['pass', deafPath]),
  ];
  const gateway = await GatewayProcess.start({
    folder: join(folder, 'd'),
    backend: 'process',
    rate: RATE,
    heap: 'whole',
    ...(values.profile !== undefined && { profile: values.profile }),
  });
  const [bare, , least, , pass] = servers.map(({ port, child }) => ({ pid: child.pid ?? -1, port, path: '/' }));
  try {
    await gateway.deploy('greet', HANDLER, { memory_mb: 256 });
    await gateway.deploy('greet-many', HANDLER, { memory_mb: 256, concurrency_per_instance: 64 });
    const port = Number(new URL(gateway.url).port);
    const { pid } = gateway;
    const v1 = (name: string): Served => ({ pid, port, path: `/api/v1/functions/${name}/invoke` });
    const lambda: Served = { pid, port, path: '/2015-03-31/functions/greet-many/invocations' };
    if (!bare || !least || !pass) throw new Error('a server is missing');
    // Servers answer calls beside each other, in one process: so does an instance that may take several.
    const [alone, shared] = [v1('greet'), v1('greet-many')];
    for (const connections of CONNECTIONS) {
      const goal = GOAL;
      await compareCalls('/api/v1 to bare node:http', { ours: shared, peer: bare }, { connections, goal });
      await compareCalls('Lambda API to bare node:http', { ours: lambda, peer: bare }, { connections, goal });
      await compareCalls('the least gateway to bare node:http', { ours: least, peer: bare }, { connections });
      await compareCalls('/api/v1 to the least gateway', { ours: shared, peer: least }, { connections });
      await compareCalls('/api/v1 to what passes bytes on', { ours: shared, peer: pass }, { connections });
      if (connections === 1) continue;
      // The server answers calls beside each other, which these instances do not: a figure, and no goal.
      const each = { connections, warmCalls: WARM_CALLS_SPREAD };
      await compareCalls('/api/v1, an instance for each call, to bare', { ours: alone, peer: bare }, each);
      await compareSpread(folder, { alone, bare }, connections);
    }
  } finally {
    await gateway.end('SIGTERM');
    await end(servers);
  }
}

async function end(servers: readonly { readonly child: ChildProcess }[]): Promise<void> {
  for (const { child } of servers) {
    const over = once(child, 'exit');
    child.kill();
    await over;
  }
}

const SPREAD = 'what passes bytes on to a process for each call, to bare';
const TO_SPREAD = '/api/v1, an instance for each call, to what passes bytes on';

/** As many processes as connections: there for these rows only. */
async function compareSpread(
  folder: string,
  { alone, bare }: { readonly alone: Served; readonly bare: Served },
  connections: number,
): Promise<void> {
  if (!SPREAD.includes(values.only) && !TO_SPREAD.includes(values.only)) return;
  const paths = Array.from({ length: connections }, (_, index) => join(folder, `spread-${connections}-${index}.sock`));
  const servers: Awaited<ReturnType<typeof serve>>[] = [];
  try {
    for (const path of paths) servers.push(await serve(folder, ['deaf', path]));
    const front = await serve(folder, ['spread', ...paths]);
    servers.push(front);
    const spread: Served = { pid: front.child.pid ?? -1, port: front.port, path: '/' };
    await compareCalls(SPREAD, { ours: spread, peer: bare }, { connections });
    await compareCalls(TO_SPREAD, { ours: alone, peer: spread }, { connections, warmCalls: WARM_CALLS_SPREAD });
  } finally {
    await end(servers);
  }
}

/** Of functions that nobody has called before: milliseconds until so many instances are up. */
async function starts(folder: string, backend: string): Promise<void> {
  const gateway = await GatewayProcess.start({ folder: join(folder, backend), backend });
  let count = 0;
  const first = (instances: number) => async (): Promise<number> => {
    count += 1;
    const name = `cold-${count}`;
    await gateway.deploy(name, HANDLER, { memory_mb: 256 });
    const started = performance.now();
    await gateway.warm(name, instances);
    const tookMs = performance.now() - started;
    await gateway.remove(name);
    return tookMs;
  };
  try {
    await first(1)();
    const { ours, peer, ratios } = await interleaved({ ours: first(STARTS), peer: first(1) }, ROUNDS);
    print(`${STARTS} cold starts at once to one, ${backend}`, median(ratios), {
      detail: `${median(ours).toFixed(0)} ms vs ${median(peer).toFixed(0)} ms`,
      // One process may come from those that wait; of so many at once only the first do.
      ...(backend !== 'process' && { goal: STARTS }),
    });
  } finally {
    await gateway.end('SIGTERM');
  }
}

const folder = mkdtempSync(join(tmpdir(), 'gb-'));
chmodSync(folder, 0o711);
try {
  await calls(folder);
  if (!values['no-starts']) for (const backend of ['process', 'docker']) await starts(folder, backend);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
