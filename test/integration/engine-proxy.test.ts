/** Workers that reach no engine: the control plane calls it for them, and nothing else. */

import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { connect as connectSocket } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, expect, it, onTestFinished } from 'vitest';
import { WasmBackend } from '../../plugins/wasm/index.ts';
import { systemClock } from '../../src/clock.ts';
import { ControlPlane } from '../../src/control/control.ts';
import type { ControlPlaneOptions } from '../../src/control/control.ts';
import type { NewTicket } from '../../src/control/tickets.ts';
import { buildModule } from '../../src/deploy/assembly-script.ts';
import { toRunnerError } from '../../src/errors.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import { functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import { enrolmentParts, makeIdentity, signParts } from '../../src/queue/identity.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { readTicket } from '../../src/queue/ticket.ts';
import { fingerprintOf } from '../../src/runtime/fingerprint.ts';
import { FakeClock } from '../../src/testing/fake-clock.ts';
import { ControlEngines } from '../../src/worker/control-engines.ts';
import { FakeEngine, reply } from '../support/engines.ts';
import { newFolder, send } from '../support/gateway.ts';
import { reservedPort } from '../support/reserved-port.ts';
import { WorkerCommand } from '../support/worker-command.ts';

const KEY = 'the-key-of-the-engine';
const MIB = 1024 * 1024;
const WAIT = { timeout: 60_000, interval: 5 };
const PACKAGE = Buffer.from('a package');
const SHA256 = createHash('sha256').update(PACKAGE).digest('hex');
const FUNCTION = {
  name: 'hello',
  object: SHA256,
  sha256: SHA256,
  runtime: 'wasm',
  handler: 'handler.wasm',
  memory_mb: 128,
  timeout_ms: 60_000,
  ephemeral_mb: 512,
  environment: {},
  concurrency_per_instance: 1,
  network: 'none',
};

interface World {
  readonly control: ControlPlane;
  readonly url: string;
  readonly folder: string;
  readonly admin: Readonly<Record<string, string>>;
}

async function start(urls: readonly string[], options: Partial<ControlPlaneOptions> = {}): Promise<World> {
  const folder = options.folder ?? (await newFolder());
  const control = new ControlPlane({ folder, engines: { urls, token: KEY }, ...options });
  onTestFinished(() => control.close(0));
  const url = await control.listen({ port: await reservedPort() });
  return { control, url, folder, admin: { authorization: `Bearer ${readFileSync(join(folder, 'admin.token'), 'utf8').trim()}` } };
}

/** A session with these scopes; by default what a ticket allows by itself. */
async function enrol({ control }: World, wanted: NewTicket = {}): Promise<RemoteQueue> {
  const { ticket } = await control.tickets.create(wanted);
  const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() }, reconnectMs: 0 });
  onTestFinished(() => queue.close());
  return queue;
}

/** A worker that has kept the package and registered the function; resolves with its id. */
async function registered(queue: RemoteQueue, change: object = {}): Promise<string> {
  await new RemoteObjects(queue.control).keep(PACKAGE);
  const { id } = await queue.control.ask({ path: '/engines/functions', body: { ...FUNCTION, ...change } });
  return String(id);
}

interface Call {
  readonly event?: Uint8Array;
  readonly method?: 'invoke' | 'stream';
  readonly headers?: readonly string[];
  readonly signal?: AbortSignal;
}

async function call(
  { control }: RemoteQueue,
  id: string,
  { event = Buffer.from('{}'), method = 'invoke', ...rest }: Call = {},
): Promise<string> {
  const { body } = await control.exchange({ path: `/engines/functions/${id}/${method}`, body: event, waitMs: 60_000, ...rest });
  return Buffer.from(body).toString();
}

describe('a control plane with engines', () => {
  it('has them run the jobs of a worker that knows no address and no key of them, and fetches no package', async () => {
    const folder = await newFolder();
    const gateway = new Gateway({
      folder: join(folder, 'engine'),
      backends: new Map([['wasm', new WasmBackend()]]),
      auth: { tokens: [{ name: 'engine', token: KEY }] },
    });
    onTestFinished(() => gateway.close(0));
    const world = await start([await gateway.listen({ port: 0 })]);
    const queue = await enrol(world);
    expect(queue.control.standing?.hasEngines).toBe(true);
    const { bytes } = await buildModule(join(import.meta.dirname, '../../examples/wasm/hello.ts'), { kind: 'package' });
    const object = await new RemoteObjects(queue.control).keep(bytes);
    const settings = functionSettings({ runtime: 'wasm', handler: 'handler.wasm', memoryMb: 128 });
    const headers = functionHeaders({ name: 'hello', code: { kind: 'package', object }, settings });
    const ticket = readFileSync(join(world.folder, 'endpoint.ticket'), 'utf8');
    const worker = new WorkerCommand(join(folder, 'w'), { CONTROL_PLANE_TICKET: ticket }, ['--backend', 'engine']);
    onTestFinished(async () => {
      await worker.kill();
    });
    const names = Array.from({ length: 20 }, (_, index) => `Ada ${index}`);
    await queue.publishMany(
      names.map((name) => ({ id: name, type: 'function', payload: Buffer.from(JSON.stringify({ name })), headers, attemptsMax: 1 })),
    );
    for (const name of names) {
      const { body, headers: answered } = await queue.result(name);
      expect(Buffer.from(body as Uint8Array).toString()).toBe(JSON.stringify({ greeting: `Hello, ${name}` }));
      expect(answered?.['content-type']).toBe('application/json');
    }
    // The engine got it from the control plane.
    expect(existsSync(join(folder, 'w', 'packages', 'sha256'))).toBe(false);
  });

  it('calls the next engine while one is away, the same one for the same affinity, and says that they are away when all of them are', async () => {
    const engines = [await FakeEngine.start(), await FakeEngine.start(), await FakeEngine.start()];
    const world = await start(engines.map(({ url }) => url));
    const queue = await enrol(world);
    const id = await registered(queue);
    const flow = (name: string): Promise<string> => call(queue, id, { headers: ['x-affinity', name] });
    const homes = await Promise.all(['a', 'a', 'a', 'a'].map(flow));
    expect(new Set(homes).size).toBe(1);
    const home = engines.find(({ url }) => homes[0]?.includes(url));
    await home?.stop();
    const next = await flow('a');
    expect(next).not.toBe(homes[0]);
    const answers = await Promise.all(Array.from({ length: 12 }, () => call(queue, id)));
    expect(new Set(answers).size).toBe(2);
    expect(engines.flatMap(({ tokens }) => tokens).every((token) => token === `Bearer ${KEY}`)).toBe(true);
    await expect.poll(async () => (await listed(world)).filter(({ up }) => !up).map(({ url }) => url), WAIT).toEqual([home?.url]);
    for (const engine of engines) await engine.stop();
    await expect(call(queue, id)).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE', retry: 'safe' });
    const again = await FakeEngine.start(Number(new URL(home?.url ?? '').port));
    expect([await call(queue, id), again.uploads]).toEqual([JSON.stringify({ from: again.url }), 1]);
  });

  it('says whether engines are ready, and so does a worker that needs them', async () => {
    const engine = await FakeEngine.start();
    const world = await start([engine.url]);
    const ticket = readFileSync(join(world.folder, 'endpoint.ticket'), 'utf8');
    const worker = new WorkerCommand(join(world.folder, 'w'), { CONTROL_PLANE_TICKET: ticket }, ['--backend', 'engine']);
    onTestFinished(async () => {
      await worker.kill();
    });
    const { health } = await worker.until('started');
    await worker.until('ready');
    const ready = async (url: unknown): Promise<unknown> => {
      const { status, json } = await send(String(url), 'GET /readyz');
      return { status, ...(json as object) };
    };
    const states = async (): Promise<unknown> => [await ready(world.url), await ready(health)];
    const up = [
      { status: 200, engines: { ready: 1, all: 1 } },
      { status: 200, checks: { engines: { ok: true } } },
    ];
    const message = 'none of the 1 engines of the control plane is ready';
    // Jobs are taken, and wait.
    const down = [
      { status: 200, ok: true, engines: { ready: 0, all: 1 } },
      { status: 503, checks: { engines: { ok: false, message } } },
    ];
    await expect.poll(states, WAIT).toMatchObject(up);
    await engine.stop();
    await expect.poll(states, WAIT).toMatchObject(down);
    await FakeEngine.start(Number(new URL(engine.url).port));
    await expect.poll(states, WAIT).toMatchObject(up);
    expect(await worker.kill('SIGTERM')).toBe(0);
  });

  it('passes on what an engine writes while it writes, no faster than it is read', async () => {
    const engine = await FakeEngine.start();
    const world = await start([engine.url]);
    const queue = await enrol(world);
    const id = await registered(queue);
    const chunk = Buffer.alloc(64 * 1024, 7);
    const total = 600;
    let [written, first] = [0, ''];
    const much = function* (): Generator<Buffer> {
      for (; written < total; written += 1) yield chunk;
    };
    engine.invoke = (response, event) => {
      response.writeHead(200, { 'content-type': 'text/plain' });
      response.write(first);
      if (event.toString() === 'little') hold.push(response);
      else Readable.from(much()).pipe(response);
    };
    const hold: ServerResponse[] = [];
    first = 'begins';
    const token = await tokenOf(world);
    const open = (event: string) =>
      fetch(`${world.url}/engines/functions/${id}/stream`, { method: 'POST', body: event, headers: { authorization: `Bearer ${token}` } });
    // The id is of who has registered it.
    expect((await open('little')).status).toBe(404);
    const own = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
    const { json } = await send(world.url, 'POST /engines/functions', { headers: own, body: JSON.stringify(FUNCTION) });
    expect(json).toEqual({ id });
    const little = (await open('little')).body?.getReader();
    expect(Buffer.from((await little?.read())?.value ?? []).toString()).toBe('begins');
    hold[0]?.end(', ends');
    expect(Buffer.from((await little?.read())?.value ?? []).toString()).toBe(', ends');
    expect(engine.requests.at(-1)).toMatch(/^POST \/api\/v1\/functions\/hello-[0-9a-f]{16}\/stream$/);
    first = '';
    const large = await open('much');
    // It waits for the reader: meanwhile others are answered, and nothing more is taken.
    let before = -1;
    await expect
      .poll(async () => {
        const [earlier, now] = [before, written];
        before = now;
        for (let index = 0; index < 20; index += 1) await listed(world);
        return now > 0 && earlier === now && written === now;
      }, WAIT)
      .toBe(true);
    expect(written).toBeLessThan(total);
    expect((await large.arrayBuffer()).byteLength).toBe(total * chunk.length);
  });

  it('remembers what functions are as long as it runs; its workers say it again', async () => {
    const engine = await FakeEngine.start();
    const folder = await newFolder();
    const world = await start([engine.url], { folder });
    const { ticket } = await world.control.tickets.create({});
    const identity = makeIdentity();
    const queue = await RemoteQueue.connect({ credentials: { ticket, identity } });
    onTestFinished(() => queue.close());
    await new RemoteObjects(queue.control).keep(PACKAGE);
    const target = new ControlEngines({ control: queue.control, clock: systemClock });
    const parts = {
      name: 'hello',
      version: '$LATEST',
      code: { kind: 'folder', path: SHA256, sha256: SHA256 },
      layers: [],
      runtime: 'wasm',
      handler: 'handler.wasm',
      memoryMb: 128,
      timeoutMs: 60_000,
      ephemeralMb: 512,
      environment: {},
      concurrencyPerInstance: 1,
      network: 'none',
    } as const;
    const fn = { ...parts, fingerprint: fingerprintOf(parts) };
    const invoke = async (): Promise<string> => Buffer.from((await target.invoke(fn, Buffer.from('{}'))).body).toString();
    const answers = await Promise.all([invoke(), invoke(), invoke()]);
    expect([new Set(answers), engine.uploads]).toEqual([new Set([JSON.stringify({ from: engine.url })]), 1]);
    expect(Buffer.from([...engine.deployed.values()][0]?.zip ?? '', 'base64')).toEqual(PACKAGE);
    const { port } = new URL(world.url);
    await world.control.close(0);
    const again = new ControlPlane({ folder, engines: { urls: [engine.url], token: KEY } });
    onTestFinished(() => again.close(0));
    await again.listen({ port: Number(port) });
    expect(await invoke()).toBe(answers[0]);
    await expect(target.invoke(fn, Buffer.from('{}'), { deadline: 1 })).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'safe' });
    await again.close(0);
    await expect(target.invoke(fn, Buffer.from('{}'))).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE', retry: 'safe' });
  });
});

interface ListedEngine {
  readonly url: string;
  readonly up: boolean;
  readonly running: number;
}

async function listed({ url, admin }: World): Promise<readonly ListedEngine[]> {
  const { json } = await send(url, 'GET /engines', { headers: admin });
  return (json as { readonly engines: readonly ListedEngine[] }).engines;
}

/** Of a session, for requests by hand. */
async function tokenOf({ control, url }: World, wanted: NewTicket = {}): Promise<string> {
  const { ticket } = await control.tickets.create(wanted);
  const { id, serverKey } = readTicket(ticket);
  const identity = makeIdentity();
  const body = JSON.stringify({ ticket, workerKey: identity.publicKey, nonce: 'n'.repeat(43) });
  const { nonce } = (await send(url, 'POST /enrol/challenge', { body })).json as { nonce: string };
  const signature = signParts(enrolmentParts(nonce, id, serverKey), identity.privateKey);
  return ((await send(url, 'POST /enrol', { body: JSON.stringify({ nonce, signature }) })).json as { token: string }).token;
}

describe('a call of an engine through the control plane', () => {
  it('needs the session of a worker with the scope of its own', async () => {
    const engine = await FakeEngine.start();
    const world = await start([engine.url]);
    const id = await registered(await enrol(world));
    const calls = [
      'POST /engines/functions',
      `POST /engines/functions/${id}/invoke`,
      `POST /engines/functions/${id}/stream`,
      'GET /engines',
    ];
    const refusals = async (headers: Record<string, string>): Promise<unknown[]> => {
      const answers = [];
      for (const line of calls)
        answers.push((await send(world.url, line, { headers, body: line.startsWith('GET') ? undefined : '{}' })).code);
      return answers;
    };
    expect(new Set(await refusals({}))).toEqual(new Set(['UNAUTHORIZED']));
    expect(new Set(await refusals({ authorization: 'Bearer bprs_nobody' }))).toEqual(new Set(['UNAUTHORIZED']));
    expect(new Set(await refusals({ authorization: `Bearer ${KEY}` }))).toEqual(new Set(['UNAUTHORIZED']));
    const narrow = await tokenOf(world, { scopes: ['claim', 'publish', 'objects'] });
    expect(new Set(await refusals({ authorization: `Bearer ${narrow}` }))).toEqual(new Set(['FORBIDDEN']));
    const own = await tokenOf(world, { scopes: ['engines'] });
    expect(await refusals({ authorization: `Bearer ${own}` })).toEqual([
      'REQUEST_INVALID',
      'FUNCTION_NOT_FOUND',
      'FUNCTION_NOT_FOUND',
      'FORBIDDEN',
    ]);
    expect((await enrol(world, { scopes: ['claim', 'publish'] })).control.standing?.hasEngines).toBe(false);
    expect(engine.requests).toEqual([]);
  });

  it('goes nowhere but to an engine that was configured, with nothing of the caller in its target', async () => {
    const engine = await FakeEngine.start();
    const elsewhere = await FakeEngine.start();
    const world = await start([engine.url]);
    const authorization = `Bearer ${await tokenOf(world)}`;
    const socket = connectSocket(Number(new URL(world.url).port), '127.0.0.1');
    onTestFinished(() => void socket.destroy());
    const targets = [
      `${elsewhere.url}/readyz`,
      '/engines/functions/../../api/v1/functions/invoke',
      '/engines/functions/..%2f..%2fapi/invoke',
      '/engines/functions/%2e%2e/invoke',
      `/engines/functions/${encodeURIComponent(elsewhere.url)}/invoke`,
      '/engines/api/v1/functions',
      '/engines//functions',
      `/engines/functions/${'a'.repeat(64)}/invoke/../stream`,
      `/engines/functions/${'A'.repeat(64)}/invoke`,
      '/engines/functions/hello/invoke?url=http://127.0.0.1:1',
    ];
    for (const target of targets) {
      const statusLine = new Promise<string>((resolve) =>
        socket.once('data', (data: Buffer) => resolve(data.toString('latin1').split('\r\n', 1)[0] ?? '')),
      );
      socket.write(`POST ${target} HTTP/1.1\r\nhost: x\r\nauthorization: ${authorization}\r\ncontent-length: 0\r\n\r\n`);
      expect([target, await statusLine]).toEqual([target, expect.stringMatching(/^HTTP\/1\.1 4(?:00|04|05) /)]);
    }
    const wrong = [
      { object: '../../control.key' },
      { object: '/etc/passwd' },
      { object: `${SHA256}/..` },
      { sha256: 'x' },
      { name: '../x' },
      { name: 'x/y' },
      { url: elsewhere.url },
      { zip: 'UEsDBA==' },
      { memory_mb: 1e9 },
      { timeout_ms: 999 },
      { ephemeral_mb: 511 },
      { environment: { A: 1 } },
      { runtime: 7 },
    ];
    for (const change of wrong) {
      const body = JSON.stringify({ ...FUNCTION, ...change });
      const { status, code } = await send(world.url, 'POST /engines/functions', { headers: { authorization }, body });
      expect([change, status, code]).toEqual([change, 400, 'REQUEST_INVALID']);
    }
    const open = JSON.stringify({ ...FUNCTION, network: 'open' });
    expect(await send(world.url, 'POST /engines/functions', { headers: { authorization }, body: open })).toMatchObject({
      status: 403,
      code: 'FORBIDDEN',
    });
    expect([engine.requests, elsewhere.requests, elsewhere.tokens]).toEqual([[], [], []]);
  });

  it('runs only what lies under its hash in the object store, and not what another worker has said', async () => {
    const engine = await FakeEngine.start();
    const world = await start([engine.url]);
    const [queue, other] = [await enrol(world), await enrol(world)];
    const id = await registered(queue, { environment: { SECRET: 'of one' } });
    await expect(call(other, id)).rejects.toMatchObject({ code: 'FUNCTION_NOT_FOUND' });
    const missing = await registered(queue, { object: 'f'.repeat(64), sha256: 'f'.repeat(64) });
    await expect(call(queue, missing)).rejects.toMatchObject({ code: 'CODE_MISSING' });
    const swapped = await registered(queue, { sha256: 'e'.repeat(64) });
    await expect(call(queue, swapped)).rejects.toMatchObject({ code: 'PACKAGE_INVALID' });
    expect(engine.requests).toEqual([]);
    // The same function of two workers is one there, and stays while one of them has it.
    const [mine, theirs] = [await registered(queue), await registered(other)];
    expect([mine, await call(queue, mine), await call(other, theirs), engine.uploads]).toEqual([
      theirs,
      await call(queue, mine),
      await call(queue, mine),
      1,
    ]);
    for (let index = 0; index < 100; index += 1) await registered(queue, { environment: { N: String(index) } });
    await expect(call(queue, mine)).rejects.toMatchObject({ code: 'FUNCTION_NOT_FOUND' });
    await call(other, theirs);
    expect(engine.uploads).toBe(1);
    for (let index = 0; index < 100; index += 1) await registered(other, { environment: { N: String(index) } });
    await expect.poll(() => engine.deployed.size, WAIT).toBe(0);
  });

  it('has limits: bodies, calls at the same time, time', async () => {
    const engine = await FakeEngine.start();
    const limits = { bodyBytesMax: MIB, engineCallsMax: 3, engineCallsPerCallerMax: 2 };
    const clock = new FakeClock({ startMs: Date.now() });
    const world = await start([engine.url], { limits, clock });
    const [queue, other] = [await enrol(world), await enrol(world)];
    const [id, theirs] = [await registered(queue), await registered(other)];
    await expect(call(queue, id, { event: Buffer.alloc(MIB + 1) })).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
    await expect(registered(queue, { environment: { A: 'x'.repeat(40_000) } })).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
    expect(engine.requests).toEqual([]);
    const held: ServerResponse[] = [];
    engine.invoke = (response) => void held.push(response);
    const running = [call(queue, id), call(queue, id)];
    await expect.poll(() => held.length, WAIT).toBe(2);
    await expect(call(queue, id)).rejects.toMatchObject({
      code: 'EXECUTOR_UNAVAILABLE',
      retry: 'safe',
      message: expect.stringContaining('2 calls of') as string,
    });
    running.push(call(other, theirs));
    await expect.poll(() => held.length, WAIT).toBe(3);
    await expect(call(other, theirs)).rejects.toMatchObject({
      code: 'EXECUTOR_UNAVAILABLE',
      message: expect.stringContaining('3 calls') as string,
    });
    for (const response of held) reply(response, 200, {});
    await Promise.all(running);
    // One that hangs is given up at the deadline of the call, there too.
    const hangs = expect(call(queue, id, { headers: ['x-timeout-ms', '1000'] })).rejects.toMatchObject({
      code: 'EXECUTOR_TIMEOUT',
      retry: 'idempotent',
    });
    await expect.poll(() => held.length, WAIT).toBe(4);
    await clock.advance(1_000);
    await hangs;
    await expect.poll(() => engine.abandoned.length, WAIT).toBe(1);
    engine.invoke = (response) => reply(response, 200, {});
    expect(await call(queue, id)).toBe('{}');
    expect((await listed(world)).map(({ running: now }) => now)).toEqual([0]);
  });

  it('is never a whole answer when the engine breaks off, and what an engine says of it comes as it is', async () => {
    const engine = await FakeEngine.start();
    const world = await start([engine.url]);
    const queue = await enrol(world);
    const id = await registered(queue);
    engine.invoke = (response) => {
      response.writeHead(200, { 'content-type': 'text/plain', 'content-length': '10' });
      response.write('half', () => response.destroy());
    };
    for (const method of ['invoke', 'stream'] as const)
      await expect(call(queue, id, { method })).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST', retry: 'idempotent' });
    engine.invoke = (response) => void response.destroy();
    await expect(call(queue, id)).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST', retry: 'idempotent' });
    engine.invoke = (response) => reply(response, 502, { error: { code: 'FUNCTION_FAILED', message: 'it threw' } });
    await expect(call(queue, id)).rejects.toMatchObject({ code: 'FUNCTION_FAILED', message: 'it threw' });
    engine.invoke = (response) => void response.writeHead(500).end('<html>');
    await expect(call(queue, id)).rejects.toMatchObject({ code: 'EXECUTOR_RESPONSE_INVALID', retry: 'idempotent' });
    // The worker's own credentials are good.
    engine.invoke = (response) => reply(response, 401, { error: { code: 'UNAUTHORIZED', message: 'the key is wrong' } });
    await expect(call(queue, id)).rejects.toMatchObject({ code: 'EXECUTOR_UNAVAILABLE', retry: 'safe' });
    expect((await listed(world)).map(({ running }) => running)).toEqual([0]);
  });

  it('fails without a word of where the engine is', async () => {
    const engine = await FakeEngine.start();
    const clock = new FakeClock({ startMs: Date.now() });
    const world = await start([engine.url], { clock });
    const queue = await enrol(world);
    const id = await registered(queue);
    await call(queue, id);
    const told: string[] = [];
    const fails = async (code: string, headers: readonly string[] = []): Promise<void> => {
      const error = await call(queue, id, { headers }).then(
        (answer) => answer,
        (thrown: unknown) => toRunnerError(thrown),
      );
      expect(error).toMatchObject({ code });
      told.push(JSON.stringify(error));
    };
    engine.invoke = (response) => void response.destroy();
    await fails('EXECUTOR_CONNECTION_LOST');
    engine.invoke = (response) => void response.socket?.end('this is not HTTP');
    await fails('EXECUTOR_RESPONSE_INVALID');
    engine.invoke = (response) => void response.writeHead(500).end('<html>');
    await fails('EXECUTOR_RESPONSE_INVALID');
    engine.invoke = (response) => void response.writeHead(503).end('<html>');
    await fails('EXECUTOR_UNAVAILABLE');
    engine.invoke = () => void clock.advance(1_000);
    await fails('EXECUTOR_TIMEOUT', ['x-timeout-ms', '1000']);
    await engine.stop();
    await fails('EXECUTOR_UNREACHABLE');
    const { port } = new URL(engine.url);
    for (const one of told) {
      expect(one).toContain('engine-1');
      expect(one).not.toMatch(new RegExp(`127\\.0\\.0\\.1|:${port}|http:`));
    }
    expect(await listed(world)).toEqual([{ name: 'engine-1', url: engine.url, up: false, running: 0 }]);
  });

  it('ends at the engine when its caller goes, or may no longer call', async () => {
    const engine = await FakeEngine.start();
    const world = await start([engine.url]);
    const { ticket, record } = await world.control.tickets.create({});
    const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() }, reconnectMs: 0 });
    onTestFinished(() => queue.close());
    const id = await registered(queue);
    engine.invoke = () => {};
    const gone = new AbortController();
    const call1 = expect(call(queue, id, { signal: gone.signal })).rejects.toMatchObject({ code: 'ABORTED' });
    await expect.poll(() => engine.calls, WAIT).toBe(1);
    gone.abort();
    await call1;
    await expect.poll(() => engine.abandoned.length, WAIT).toBe(1);
    // In the middle of an answer, too.
    engine.invoke = (response) => void response.writeHead(200).write('begins');
    const later = new AbortController();
    const call2 = expect(call(queue, id, { method: 'stream', signal: later.signal })).rejects.toMatchObject({ code: 'ABORTED' });
    await expect.poll(() => engine.calls, WAIT).toBe(2);
    later.abort();
    await call2;
    await expect.poll(() => engine.abandoned.length, WAIT).toBe(2);
    engine.invoke = () => {};
    const call3 = expect(call(queue, id)).rejects.toMatchObject({ code: expect.stringMatching(/^ABORTED|^TICKET_REVOKED/) as string });
    await expect.poll(() => engine.calls, WAIT).toBe(3);
    await world.control.tickets.revoke(record.id);
    await call3;
    await expect.poll(() => engine.abandoned.length, WAIT).toBe(3);
    await expect(call(queue, id)).rejects.toMatchObject({ code: 'TICKET_REVOKED' });
    expect((await listed(world)).map(({ running }) => running)).toEqual([0]);
  });
});
