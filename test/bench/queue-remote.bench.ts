/**
 * Jobs per second of workers at a control plane on loopback, against half the requests per second of a bare `node:http` server that is sent,
 * and answers, bodies of the same size with the same client: what two requests per job, one to claim and one to complete, could be at best.
 * Beside it what the least server of durable jobs has, for which a completion and the next claim share a request like ours.
 *
 * `node test/bench/queue-remote.bench.ts`: servers are processes of their own. Goals: 0.8 with one job at a time, and 16 jobs at a time four
 * times as many again.
 */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../src/clock.ts';
import { ControlPlane } from '../../src/control/control.ts';
import { HttpClient } from '../../src/http/http.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import type { ClaimedJob } from '../../src/queue/queue.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { readJson, serveLeastQueue, wireJob } from './least-queue.ts';
import type { LeastJob, LeastRequest } from './least-queue.ts';

const WORKERS = 64;
/** Short, with the three beside each other: the pace of a machine changes within seconds. */
const ROUND_MS = 300;
/** Not counted: systems that take back the pages of who is idle give them back one by one. */
const LEAD_MS = 100;
/** More than are done in a round. */
const JOBS = 45_000;
const ROUNDS = 15;
/** V8 has compiled what runs after some 50,000 jobs. */
const WARM_ROUNDS = 15;
const PAYLOAD = Buffer.alloc(100, 7);
const RESULT = Buffer.alloc(100, 9);
const GOAL = { unbatched: 0.8, batch: 4 };

const [, self = '', role, folder = ''] = process.argv;

/** Bodies as long as those of a claim, its answer, a completion, its answer. */
function bodies(): { readonly asked: readonly [Buffer, Buffer]; readonly told: readonly [string, string] } {
  const token = 'd2bc4b10-1fd1-4bd5-b20d-2d8cbed42b8d';
  const lease = { jobId: token, token, until: 1_795_273_961_861 };
  const claim = { workerId: 'b5ad88483e140c4ee060f3804a6d56b0', max: 1, leaseMs: 30_000, waitMs: 0 };
  const job = wireJob({ id: token, type: 'work', payload: PAYLOAD.toString('base64') }, lease);
  return {
    asked: [Buffer.from(JSON.stringify(claim)), Buffer.from(JSON.stringify({ lease, body: RESULT.toString('base64') }))],
    told: [JSON.stringify({ jobs: [job] }), '{}'],
  };
}

/** Reads the whole body and parses it: less no server of jobs can do. */
async function serveBare(): Promise<void> {
  const { told } = bodies();
  const server = createServer((request, response) => {
    void readJson(request).then(() => {
      const body = request.url === '/claim' ? told[0] : told[1];
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
      response.end(body);
    });
  });
  server.listen({ host: '127.0.0.1', port: 0 });
  await once(server, 'listening');
  process.send?.({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
}

async function serveControl(): Promise<void> {
  const control = new ControlPlane({ folder });
  const url = await control.listen({ port: 0 });
  const { ticket } = await control.tickets.create({ scopes: ['admin'], uses: 1 });
  process.send?.({ url, ticket });
}

async function serveLeast(): Promise<void> {
  process.send?.({ url: `http://127.0.0.1:${await serveLeastQueue(folder)}` });
}

async function start(
  kind: 'bare' | 'least' | 'control',
  data: string,
): Promise<{ readonly child: ChildProcess; readonly url: string; readonly ticket: string }> {
  const child = spawn(process.execPath, [self, kind, data], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const [message] = (await once(child, 'message')) as [{ url: string; ticket: string }];
  return { child, ...message };
}

/** How much was done in a second by loops that tell what they do as they do it. */
async function measure(loop: (isOver: () => boolean, did: (count: number) => void) => Promise<void>): Promise<number> {
  const from = performance.now() + LEAD_MS;
  let total = 0;
  const isOver = (): boolean => performance.now() > from + ROUND_MS;
  const did = (count: number): void => {
    if (performance.now() > from) total += count;
  };
  await Promise.all(Array.from({ length: WORKERS }, () => loop(isOver, did)));
  return total / ((performance.now() - from) / 1_000);
}

const HEADERS = ['content-type', 'application/json', 'authorization', `Bearer bprs_${'x'.repeat(43)}`];

async function send(client: HttpClient, path: string, body: Buffer): Promise<unknown> {
  const deadline = Date.now() + 30_000;
  const reply = await client.send({ method: 'POST', path, headers: HEADERS, body, deadline, responseBytesMax: 1_000_000 });
  return JSON.parse(Buffer.from(reply.body).toString('utf8'));
}

async function bareRound(client: HttpClient): Promise<number> {
  const { asked } = bodies();
  return measure(async (isOver, did) => {
    while (!isOver()) {
      await send(client, '/claim', asked[0]);
      did(1);
      await send(client, '/complete', asked[1]);
      did(1);
    }
  });
}

async function leastRound(client: HttpClient, max: number): Promise<number> {
  const say = (value: LeastRequest): Promise<unknown> => send(client, '/work', Buffer.from(JSON.stringify(value)));
  return measure(async (isOver, did) => {
    let jobs: readonly LeastJob[] = [];
    do {
      const completions = jobs.map(({ lease }) => ({ lease, body: RESULT.toString('base64') }));
      const claim = { workerId: 'b5ad88483e140c4ee060f3804a6d56b0', max: isOver() ? 0 : max };
      ({ jobs } = (await say({ completions, claim })) as { readonly jobs: readonly LeastJob[] });
      if (jobs.length < claim.max) throw new Error('the least queue ran empty: publish more');
      for (const { payload } of jobs) Buffer.from(payload, 'base64');
      did(completions.length);
    } while (jobs.length > 0);
  });
}

let published = 0;
async function publish(queue: RemoteQueue, least: HttpClient): Promise<void> {
  for (let left = JOBS; left > 0; left -= 5_000) {
    const jobs = Array.from({ length: Math.min(left, 5_000) }, () => ({ id: `job-${(published += 1)}`, type: 'work', payload: PAYLOAD }));
    await queue.publishMany(jobs);
    const payload = PAYLOAD.toString('base64');
    // The least server does more of them in a round.
    const more = jobs.flatMap(({ id, type }) => [id, `${id}-more`].map((one) => ({ id: one, type, payload })));
    await send(least, '/work', Buffer.from(JSON.stringify({ publish: more })));
  }
}

function queueRound(queue: RemoteQueue, max: number): Promise<number> {
  return measure(async (isOver, did) => {
    const claim = (): Promise<ClaimedJob[]> => queue.claim({ workerId: 'bench', max, leaseMs: 60_000 });
    let jobs = await claim();
    while (jobs.length > 0 && !isOver()) {
      const done = Promise.all(jobs.map(({ lease }) => queue.complete(lease, { body: RESULT })));
      const next = claim();
      await done;
      did(jobs.length);
      jobs = await next;
    }
    if (jobs.length === 0) throw new Error('the queue ran empty: publish more');
    await Promise.all(jobs.map(({ lease }) => queue.complete(lease, { body: RESULT })));
    did(jobs.length);
  });
}

function median(values: readonly number[]): number {
  return values.toSorted((left, right) => left - right)[Math.floor(values.length / 2)] ?? 0;
}

async function main(): Promise<void> {
  const root = mkdtempSync(join(tmpdir(), 'bench-queue-remote-'));
  const servers = { bare: await start('bare', root), least: await start('least', root), control: await start('control', root) };
  const clientOf = ({ url }: { readonly url: string }): HttpClient => new HttpClient(url, { clock: systemClock, connectionsMax: 64 });
  const [bare, least] = [clientOf(servers.bare), clientOf(servers.least)];
  const queue = await RemoteQueue.connect({ credentials: { ticket: servers.control.ticket, identity: makeIdentity() } });
  const rates = {
    bare: [] as number[],
    leastUnbatched: [] as number[],
    leastBatch: [] as number[],
    unbatched: [] as number[],
    batch: [] as number[],
  };
  try {
    for (let round = 0; round < WARM_ROUNDS + ROUNDS; round += 1) {
      await publish(queue, least);
      const found = {
        bare: await bareRound(bare),
        leastUnbatched: await leastRound(least, 1),
        unbatched: await queueRound(queue, 1),
        leastBatch: await leastRound(least, 16),
        batch: await queueRound(queue, 16),
      };
      await drain(queue);
      if (round >= WARM_ROUNDS) for (const name of Object.keys(found) as (keyof typeof found)[]) rates[name].push(found[name]);
    }
  } finally {
    await Promise.all([queue.close(), bare.close(), least.close()]);
    for (const { child } of Object.values(servers)) {
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    }
    rmSync(root, { recursive: true });
  }
  report(rates);
}

async function drain(queue: RemoteQueue): Promise<void> {
  for (let left = 1; left > 0;) {
    const jobs = await queue.claim({ workerId: 'bench', max: 1_000, leaseMs: 60_000 });
    await Promise.all(jobs.map(({ lease }) => queue.complete(lease, { body: RESULT })));
    left = jobs.length;
  }
  await queue.purge(0);
}

type Rates = Readonly<Record<'bare' | 'leastUnbatched' | 'leastBatch' | 'unbatched' | 'batch', readonly number[]>>;

function report(rates: Rates): void {
  const half = rates.bare.map((rate) => rate / 2);
  const ratio = (of: readonly number[], to: readonly number[]): number => median(of.map((rate, round) => rate / (to[round] ?? 0)));
  const ratios = { unbatched: ratio(rates.unbatched, half), batch: ratio(rates.batch, rates.unbatched) };
  const rounded = (name: keyof typeof rates): string => median(rates[name]).toFixed(0);
  console.log(`bare ${rounded('bare')} requests/s, unbatched ${rounded('unbatched')} jobs/s, 16 at a time ${rounded('batch')} jobs/s`);
  console.log(`unbatched / half of bare: ${ratios.unbatched.toFixed(2)} (goal ${GOAL.unbatched})`);
  console.log(`16 at a time / unbatched: ${ratios.batch.toFixed(2)} (goal ${GOAL.batch})`);
  console.log(`16 at a time / ${GOAL.unbatched} of half of bare: ${(ratio(rates.batch, half) / GOAL.unbatched).toFixed(2)}`);
  const least = { unbatched: ratio(rates.leastUnbatched, half), batch: ratio(rates.leastBatch, rates.leastUnbatched) };
  console.log(
    `the least server: unbatched / half of bare ${least.unbatched.toFixed(2)}, 16 at a time / unbatched ${least.batch.toFixed(2)}`,
  );
  const ours = { unbatched: ratio(rates.unbatched, rates.leastUnbatched), batch: ratio(rates.batch, rates.leastBatch) };
  console.log(`ours / the least server: unbatched ${ours.unbatched.toFixed(2)}, 16 at a time ${ours.batch.toFixed(2)}`);
  if (ratios.unbatched < GOAL.unbatched || ratios.batch < GOAL.batch) process.exitCode = 1;
}

if (role === 'bare') await serveBare();
else if (role === 'least') await serveLeast();
else if (role === 'control') await serveControl();
else await main();
