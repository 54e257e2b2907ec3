/**
 * The HTTP executor against bare undici and against `fetch`, with the server in a second process.
 *
 * Goals: at least 0.80 of `Pool.dispatch` for 64 bytes with 1, 16 and 128 calls in flight; at least 5 times an executor on `fetch`;
 * at least 0.85 of `Pool.request` for 256 KiB and 6 MiB; over a unix socket at least 1.2 times our own TCP. What is printed is the time of
 * ours for one of the peer's: the goals are the reciprocals.
 */

import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { Pool } from 'undici';
import type { Dispatcher } from 'undici';
import { HttpFaasExecutor } from '../../plugins/http/index.ts';
import { BLUEPRINT, Metadata, decodeResponse, encodeRequest } from '../../src/plugin.ts';
import type { JobCall } from '../../src/plugin.ts';
import { compare } from './measure.ts';

const LANE_CALLS = 16;
const HEADERS = { 'content-type': 'application/octet-stream', 'x-blueprint-wire': 'v1,v2' };

if (process.argv[2] === 'serve') {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const body = chunks.length === 1 ? chunks[0] : Buffer.concat(chunks);
      response.writeHead(200, { ...HEADERS, 'content-length': body?.length ?? 0 });
      response.end(body);
    });
  });
  server.listen(process.argv[3] || 0, () => {
    const address = server.address();
    console.log(typeof address === 'object' && address ? address.port : 'listening');
  });
  process.once('disconnect', () => process.exit());
}

type Call = (body: Buffer) => Promise<number>;

/** What a bare user of `Pool.dispatch` writes: the body collected by hand. */
function dispatchWith(pool: Pool): Call {
  return (body) =>
    new Promise((resolve, reject) => {
      let size = 0;
      let first: Buffer | undefined;
      let rest: Buffer[] | undefined;
      const handler: Dispatcher.DispatchHandler = {
        onRequestStart() {},
        onResponseStart() {},
        onResponseData(_, chunk) {
          size += chunk.length;
          if (!first) first = chunk;
          else (rest ??= []).push(chunk);
        },
        onResponseEnd() {
          resolve((rest ? Buffer.concat([first as Buffer, ...rest], size) : (first ?? Buffer.alloc(0))).length);
        },
        onResponseError: (_, error) => reject(error),
      };
      pool.dispatch({ method: 'POST', path: '/job/1', headers: ['content-type', 'application/octet-stream'], body }, handler);
    });
}

function requestWith(pool: Pool): Call {
  return async (body) => {
    const response = await pool.request({ method: 'POST', path: '/job/1', headers: { 'content-type': 'application/octet-stream' }, body });
    return (await response.body.arrayBuffer()).byteLength;
  };
}

/** The executor that one writes first: the same wire format and the same duties, over `fetch`. */
function fetchWith(url: string): Call {
  let count = 0;
  return async (body) => {
    const call = callOf((count += 1), body);
    const request = encodeRequest('octets', call);
    const headers = { ...request.headers, [BLUEPRINT.attempt]: '1', [BLUEPRINT.timeoutMs]: '60000' };
    const init = { method: 'POST', headers, body: new Uint8Array(request.body), signal: AbortSignal.timeout(60_000) };
    const response = await fetch(`${url}/job/1`, init);
    const answer = { status: response.status, headers: Object.fromEntries(response.headers), body: await response.bytes() };
    return decodeResponse(answer, call).results[0]?.body.length ?? 0;
  };
}

function callOf(count: number, body: Buffer): JobCall {
  return { id: `bench-${count}`, jobId: 1n, body, metadata: new Metadata() };
}

function invokeWith(executor: HttpFaasExecutor): Call {
  let count = 0;
  return async (body) => {
    const { results } = await executor.invoke(callOf((count += 1), body), { deadline: Date.now() + 60_000, attempt: 1 });
    return results[0]?.body.length ?? 0;
  };
}

/** As many calls at the same time, each lane several in turn. */
function batchOf(call: Call, { bytes, inFlight }: Pick<Comparison, 'bytes' | 'inFlight'>): () => Promise<unknown> {
  const body = Buffer.alloc(bytes, 7);
  const lane = async (): Promise<void> => {
    for (let count = 0; count < LANE_CALLS; count += 1) if ((await call(body)) !== bytes) throw new Error('the answer has another size');
  };
  return () => Promise.all(Array.from({ length: inFlight }, lane));
}

interface Comparison {
  readonly title: string;
  readonly subject: Call;
  readonly peer: Call;
  readonly bytes: number;
  readonly inFlight: number;
  /** The least share of the peer's rate. */
  readonly goal: number;
}

async function startServer(listenOn: string): Promise<{ port: string; stop: () => Promise<unknown> }> {
  const child = spawn(process.execPath, [import.meta.filename, 'serve', listenOn], {
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
    env: {},
  });
  const [output] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  return { port: output.toString().trim(), stop: async () => (child.kill(), once(child, 'exit')) };
}

async function main(): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'http-bench-'));
  const socketPath = join(directory, 'socket');
  const tcp = await startServer('0');
  const unix = await startServer(socketPath);
  const url = `http://127.0.0.1:${tcp.port}`;
  const pool = new Pool(url);
  const executor = new HttpFaasExecutor(url, { wire: 'binary' });
  const overSocket = new HttpFaasExecutor(`unix:${socketPath}`, { wire: 'binary' });
  const subject = invokeWith(executor);
  const comparisons: Comparison[] = [
    ...[1, 16, 128].map((inFlight) => ({
      title: `executor / Pool.dispatch, 64 B, ${inFlight} in flight`,
      subject,
      peer: dispatchWith(pool),
      bytes: 64,
      inFlight,
      goal: 0.8,
    })),
    { title: 'executor / executor on fetch, 64 B, 16 in flight', subject, peer: fetchWith(url), bytes: 64, inFlight: 16, goal: 5 },
    {
      title: 'executor / Pool.request, 256 KiB, 16 in flight',
      subject,
      peer: requestWith(pool),
      bytes: 256 * 1024,
      inFlight: 16,
      goal: 0.85,
    },
    {
      title: 'executor / Pool.request, 6 MiB, 4 in flight',
      subject,
      peer: requestWith(pool),
      bytes: 6 * 1024 * 1024,
      inFlight: 4,
      goal: 0.85,
    },
    {
      title: 'executor on unix socket / on TCP, 64 B, 16 in flight',
      subject: invokeWith(overSocket),
      peer: subject,
      bytes: 64,
      inFlight: 16,
      goal: 1.2,
    },
  ];
  for (const { title, subject: ours, peer, goal, ...load } of comparisons)
    await compare(title, { ours: batchOf(ours, load), peer: batchOf(peer, load) }, { rounds: 9, sliceMs: 400, goal: 1 / goal });
  await Promise.all([pool.close(), executor.close(), overSocket.close()]);
  await Promise.all([tcp.stop(), unix.stop()]);
  await rm(directory, { recursive: true });
}

if (process.argv[2] !== 'serve') await main();
