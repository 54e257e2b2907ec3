/** What a control plane and its workers do with those who mean no good: an error that says what it is, and everybody else goes on. */

import { createHash, createPrivateKey } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { ControlPlane } from '../../src/control/control.ts';
import type { NewTicket } from '../../src/control/tickets.ts';
import { ClaimCheckQueue } from '../../src/queue/claim-check.ts';
import { functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import { enrolmentParts, makeIdentity, signParts } from '../../src/queue/identity.ts';
import type { ClaimedJob, Headers, Lease, ObjectReference } from '../../src/queue/queue.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import type { Ticket } from '../../src/queue/ticket.ts';
import { readTicket, signTicket } from '../../src/queue/ticket.ts';
import { HELLO, send, until, zipOf } from '../support/gateway.ts';
import { ECHO, command as moduleOf, wat } from '../support/wasm.ts';
import { WorkerCommand } from '../support/worker-command.ts';

const MIB = 1024 * 1024;
const OBJECT_BYTES_MAX = 2 * MIB;
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ch-'));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

let count = 0;
const place = (name: string): string => join(folder, `${name}${(count += 1)}`);

interface Running {
  readonly control: ControlPlane;
  readonly url: string;
  readonly data: string;
}

async function startControl(): Promise<Running> {
  const data = place('control');
  const control = new ControlPlane({ folder: data, limits: { objectBytesMax: OBJECT_BYTES_MAX } });
  const url = await control.listen({ port: 0 });
  return { control, url, data };
}

async function ticketOf({ control }: Running, wanted: NewTicket = {}): Promise<string> {
  return (await control.tickets.create(wanted)).ticket;
}

async function connect(running: Running, wanted: NewTicket = {}): Promise<RemoteQueue> {
  return RemoteQueue.connect({ credentials: { ticket: await ticketOf(running, wanted), identity: makeIdentity() } });
}

/** A control plane of one test, and somebody who may publish. */
async function world(): Promise<{ readonly running: Running; readonly queue: RemoteQueue }> {
  const running = await startControl();
  const queue = await connect(running);
  onTestFinished(async () => {
    await queue.close();
    await running.control.close(100);
  });
  return { running, queue };
}

function start(ticket: string, ...flags: string[]): WorkerCommand {
  return new WorkerCommand(place('w'), { CONTROL_PLANE_TICKET: ticket }, flags);
}

function worker(ticket: string, ...flags: string[]): WorkerCommand {
  const command = start(ticket, ...flags);
  onTestFinished(async () => {
    await command.kill();
  });
  return command;
}

describe('a worker with a ticket that is not good', () => {
  it('ends with 2 and the code of what is wrong; the job that waits is another worker’s', async () => {
    const { running, queue } = await world();
    const elsewhere = await startControl();
    onTestFinished(() => elsewhere.control.close(0));
    const now = Date.now();
    const foreign = readTicket(await ticketOf(elsewhere));
    const used = await ticketOf(running);
    const thief = await RemoteQueue.connect({ credentials: { ticket: used, identity: makeIdentity() } });
    onTestFinished(() => thief.close());
    const expired = await running.control.tickets.create({ notBefore: now - 1_000, expiresAt: Date.now() + 500 });
    await until(() => Date.now() > expired.record.expiresAt);
    await queue.publish({ id: 'waits', type: 'work', payload: Buffer.from('7') });
    const tickets = {
      TICKET_MALFORMED: 'bprt1.AAAA.BBBB',
      TICKET_NOT_YET_VALID: await ticketOf(running, { notBefore: now + 3_600_000 }),
      TICKET_EXPIRED: expired.ticket,
      TICKET_FOREIGN: pointedAt(running, elsewhere, foreign),
      TICKET_BOUND: used,
    };
    const workers = Object.entries(tickets).map(([code, ticket]) => ({ code, command: worker(ticket) }));
    for (const { code, command } of workers) {
      expect([code, await command.ended]).toEqual([code, 2]);
      expect(command.news.at(-1)).toMatchObject({ event: 'error', code });
    }
    const [job] = await queue.claim({ workerId: queue.workerId });
    expect([job?.id, job?.attempt]).toEqual(['waits', 1]);
  });

  it('a worker that is revoked while it runs a job ends with 2, and another one completes the job', async () => {
    const { running, queue } = await world();
    const { headers } = await keep(
      queue,
      zipOf({ 'index.mjs': 'export const handler = () => new Promise((resolve) => setTimeout(resolve, 600_000));' }),
    );
    const { ticket, record } = await running.control.tickets.create({});
    const command = worker(ticket, '--lease-ms', '2000');
    await queue.publish({ id: 'taken', type: 'function', payload: Buffer.from('{}'), headers });
    await command.until('claimed');
    await running.control.tickets.revoke(record.id);
    expect(await command.ended).toBe(2);
    expect(command.news.at(-1)).toMatchObject({ event: 'error', code: 'TICKET_REVOKED' });
    const [job] = await queue.claim({ workerId: queue.workerId, waitMs: 60_000 });
    if (!job) throw new Error('there is no job');
    await queue.complete(job.lease, { body: Buffer.from('by another') });
    expect(await queue.status('taken')).toMatchObject({ state: 'completed', workerId: queue.workerId });
  });
});

/** A ticket of another control plane with the address of this one, signed with the other's key. */
function pointedAt({ url }: Running, { data }: Running, ticket: Ticket): string {
  return signTicket({ ...ticket, urls: [url] }, createPrivateKey(readFileSync(join(data, 'control.key'), 'utf8')));
}

describe('every route of the control plane', () => {
  interface Operation {
    readonly security: readonly Readonly<Record<string, readonly string[]>>[];
  }

  /** With a key for each parameter. */
  async function routes(url: string): Promise<{ readonly call: string; readonly scope: string }[]> {
    const { json } = await send(url, 'GET /openapi.json');
    const { paths } = json as { paths: Record<string, Record<string, Operation>> };
    return Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods).flatMap(([method, { security }]) => {
        const scope = security[0]?.['bearer']?.[0];
        return scope === undefined ? [] : [{ call: `${method.toUpperCase()} ${path.replaceAll(/\{\w+\}/g, 'a'.repeat(32))}`, scope }];
      }),
    );
  }

  it('asks for its scope: no other one opens it, and credentials that are none open nothing', async () => {
    const { running, queue } = await world();
    await queue.publish({ id: 'kept', type: 'work', payload: Buffer.from('7') });
    const all = await routes(running.url);
    expect(new Set(all.map(({ scope }) => scope))).toEqual(new Set(['session', 'claim', 'publish', 'objects', 'admin', 'metrics']));
    const ofOperators = all.filter(({ call }) => /\/tickets|DELETE \/workers|\/queue\/(requeue|discard|purge)/.test(call));
    expect(ofOperators.length).toBeGreaterThanOrEqual(9);
    expect(ofOperators.filter(({ scope }) => scope !== 'admin')).toEqual([]);
    const [claim, publish, objects] = [
      await tokenOf(running, 'claim'),
      await tokenOf(running, 'publish'),
      await tokenOf(running, 'objects'),
    ];
    const tokens = { claim, publish, objects, metrics: readFileSync(join(running.data, 'metrics.token'), 'utf8').trim() };
    for (const [has, token] of Object.entries(tokens)) {
      const headers = { authorization: `Bearer ${token}` };
      const open = has === 'metrics' ? ['metrics'] : ['session', has];
      for (const { call, scope } of all.filter((one) => !open.includes(one.scope))) {
        const { status, code } = await send(running.url, call, { headers });
        expect([has, scope, call, status, code]).toEqual([has, scope, call, 403, 'FORBIDDEN']);
      }
    }
    const wrong = [
      '',
      'Bearer',
      'Bearer ',
      `Basic ${Buffer.from('admin:admin').toString('base64')}`,
      `Bearer ${await ticketOf(running)}`,
      tokens.claim,
    ];
    for (const authorization of wrong) {
      const { status, code } = await send(running.url, 'GET /queue/stats', { headers: { authorization } });
      expect([authorization, status, code]).toEqual([authorization, 401, 'UNAUTHORIZED']);
    }
    expect(await queue.status('kept')).toMatchObject({ state: 'queued', attempts: 0 });
  });

  it('takes no body that is none of it, with the right scope', async () => {
    const { running, queue } = await world();
    const headers = { authorization: `Bearer ${readFileSync(join(running.data, 'admin.token'), 'utf8').trim()}` };
    const posts = (await routes(running.url)).filter(({ call }) => /^(POST|PUT) \/queue/.test(call));
    expect(posts.length).toBeGreaterThan(8);
    // It cannot be made a text.
    const odd = { toString: 1 };
    for (const { call } of posts) {
      for (const body of [
        '',
        '[]',
        '{',
        'null',
        '\u{0}',
        '{"lease":7,"jobs":7,"id":7,"olderThanMs":"x","completions":7,"claim":7,"claimId":[],"workerId":7}',
        JSON.stringify({ lease: { jobId: odd }, jobs: odd, id: odd, olderThanMs: odd, max: odd, completions: odd }),
      ]) {
        const { status, code } = await send(running.url, call, { headers, body });
        expect([call, body, status, code]).toEqual([call, body, 400, 'REQUEST_INVALID']);
      }
    }
    expect((await queue.stats()).totals).toEqual({ published: 0, claimed: 0, completed: 0, failed: 0 });
  });
});

/** The token of a session with this scope. */
async function tokenOf(running: Running, scope: 'claim' | 'publish' | 'objects'): Promise<string> {
  const ticket = await ticketOf(running, { scopes: [scope] });
  const { id, serverKey } = readTicket(ticket);
  const identity = makeIdentity();
  const asked = await send(running.url, 'POST /enrol/challenge', {
    body: JSON.stringify({ ticket, workerKey: identity.publicKey, nonce: 'n'.repeat(43) }),
  });
  const { nonce } = asked.json as { nonce: string };
  const signature = signParts(enrolmentParts(nonce, id, serverKey), identity.privateKey);
  const given = await send(running.url, 'POST /enrol', { body: JSON.stringify({ nonce, signature }) });
  return (given.json as { token: string }).token;
}

describe('the lease of another worker', () => {
  it('is no use to others, even with its token, which nobody is told', async () => {
    const { running, queue } = await world();
    const thief = await connect(running);
    onTestFinished(() => thief.close());
    await queue.publishMany(['mine', 'theirs'].map((id) => ({ id, type: 'work', payload: Buffer.from(id) })));
    const [mine] = await queue.claim({ workerId: queue.workerId });
    const [theirs] = await thief.claim({ workerId: thief.workerId });
    if (!mine || !theirs) throw new Error('there is no job');
    const guessed = { ...mine.lease, token: theirs.lease.token.replaceAll(/./g, '0') };
    const swapped = { ...mine.lease, token: theirs.lease.token };
    for (const lease of [guessed, swapped, mine.lease]) await refused(thief, lease);
    for (const state of ['claimed', 'completed', 'failed', 'queued']) {
      const body = { state, lease: mine.lease, body: '', code: 'JOB_FAILED', message: 'stolen' };
      await expect(thief.control.ask({ path: '/queue/status/mine', body })).rejects.toMatchObject({ code: 'LEASE_LOST' });
    }
    const seen = await Promise.all(
      ['/queue/status/mine', '/queue/stats', '/queue/dead', '/workers'].map((path) => thief.control.ask({ method: 'GET', path })),
    );
    expect(JSON.stringify(seen)).not.toContain(mine.lease.token);
    // Neither of them lost anything.
    for (const [owner, { id, lease }] of [
      [queue, mine],
      [thief, theirs],
    ] as const) {
      await owner.complete(lease, { body: Buffer.from('done') });
      expect(await queue.status(id)).toMatchObject({ state: 'completed', workerId: owner.workerId, attempts: 1 });
    }
    await refused(queue, mine.lease, 'nothing else');
  });

  async function refused(queue: RemoteQueue, lease: Lease, body = 'stolen'): Promise<void> {
    const lost = { code: 'LEASE_LOST', message: expect.stringContaining(lease.jobId) };
    await expect(queue.extend(lease)).rejects.toMatchObject(lost);
    await expect(queue.complete(lease, { body: Buffer.from(body) })).rejects.toMatchObject(lost);
    await expect(queue.fail(lease, { code: 'JOB_FAILED', message: 'stolen' })).rejects.toMatchObject(lost);
    await expect(queue.release(lease)).rejects.toMatchObject(lost);
  }
});

async function keep(
  queue: RemoteQueue,
  zip: Uint8Array,
  settings: object = {},
): Promise<{ readonly object: ObjectReference; readonly headers: Headers }> {
  const object = await new RemoteObjects(queue.control).keep(zip);
  return { object, headers: headersOf(object, settings) };
}

function headersOf(object: ObjectReference, settings: object = {}): Headers {
  const set = { runtime: 'nodejs24.x', handler: 'index.handler', timeoutMs: 30_000, ...settings };
  return functionHeaders({ name: 'f', code: { kind: 'package', object }, settings: functionSettings(set) });
}

/** How it ended: state and error. */
async function endOf(queue: RemoteQueue, id: string): Promise<object> {
  await until(async () => (await queue.status(id))?.endedAt !== undefined);
  const { state, attempts, error } = (await queue.status(id)) ?? {};
  return { state, attempts, ...error };
}

const text = (body: ClaimedJob['payload']): string => Buffer.from(body as Uint8Array).toString();

describe('a worker whose functions run in processes', () => {
  let running: Running;
  let queue: RemoteQueue;
  let large: ClaimCheckQueue;
  let command: WorkerCommand;

  beforeAll(async () => {
    running = await startControl();
    queue = await connect(running);
    large = new ClaimCheckQueue({ queue, objects: new RemoteObjects(queue.control), objectBytesMax: OBJECT_BYTES_MAX });
    command = start(await ticketOf(running), '--lease-ms', '5000');
    await command.until('ready');
  });

  afterAll(async () => {
    expect(await command.kill('SIGTERM')).toBe(0);
    await queue.close();
    await running.control.close(100);
  });

  async function serves(): Promise<void> {
    const { headers } = await keep(queue, HELLO);
    const { id } = await queue.publish({ type: 'function', payload: Buffer.from('7'), headers });
    expect(JSON.parse(text((await queue.result(id)).body))).toEqual({ got: 7 });
  }

  it.each([
    [
      'throws',
      'export const handler = () => { throw new Error("poison"); };',
      { code: 'FUNCTION_FAILED', message: expect.stringContaining('poison') },
    ],
    [
      'kills its process',
      'export const handler = () => process.exit(7);',
      { code: 'FUNCTION_CRASHED', message: expect.stringMatching(/7/) },
    ],
    [
      'never ends',
      'export const handler = () => { for (;;); };',
      { code: 'EXECUTOR_TIMEOUT', message: expect.stringMatching(/timed out after \d+ ms/) },
    ],
  ])('a job that always %s is dead after its attempts, with its last error', async (what, source, error) => {
    const { headers } = await keep(queue, zipOf({ 'index.mjs': source }), { timeoutMs: 1_000 });
    await queue.publish({ id: what, type: 'function', payload: Buffer.from('{}'), headers, attemptsMax: 2 });
    expect(await endOf(queue, what)).toMatchObject({ state: 'dead', attempts: 2, ...error });
    expect((await queue.deadLetters()).find(({ id }) => id === what)).toMatchObject({ error });
    await serves();
  });

  it('payloads and results that the queue does not take go through the object store, to their limit', async () => {
    const source = 'export const handler = async ({ letters, times }) => letters.slice(0, 1).repeat(times);';
    const { headers } = await keep(queue, zipOf({ 'index.mjs': source }));
    const payload = (letters: number, times: number): Buffer => Buffer.from(JSON.stringify({ letters: 'x'.repeat(letters), times }));
    await large.publish({ id: 'large', type: 'function', payload: payload(1_500_000, 1_600_000), headers });
    expect(text((await large.result('large')).body)).toHaveLength(1_600_002);
    await expect(large.publish({ id: 'larger', type: 'function', payload: payload(OBJECT_BYTES_MAX, 1), headers })).rejects.toMatchObject({
      code: 'PAYLOAD_TOO_LARGE',
      message: expect.stringMatching(/has 20\d{5} bytes; .* 2097152/),
      details: { contentBytesMax: OBJECT_BYTES_MAX },
    });
    expect(await queue.status('larger')).toBeUndefined();
    await expect(new RemoteObjects(queue.control).put(new Uint8Array(OBJECT_BYTES_MAX + 1))).rejects.toMatchObject({
      code: 'PAYLOAD_TOO_LARGE',
      message: expect.stringContaining(String(OBJECT_BYTES_MAX)),
    });
    await large.publish({ id: 'long answer', type: 'function', payload: payload(1, OBJECT_BYTES_MAX), headers });
    expect(await endOf(queue, 'long answer')).toMatchObject({
      state: 'failed',
      attempts: 1,
      code: 'PAYLOAD_TOO_LARGE',
      message: expect.stringContaining(String(OBJECT_BYTES_MAX)),
    });
    await serves();
  });

  it('packages that are changed, gone or none are refused by name', async () => {
    const changed = await keep(queue, zipOf({ 'index.mjs': 'export const handler = () => "good";' }));
    const file = join(running.data, 'objects', changed.object.key);
    writeFileSync(file, Buffer.concat([readFileSync(file).subarray(0, -1), Buffer.from('!')]));
    const none = await keep(queue, Buffer.from('this is not a zip'));
    const sha256 = createHash('sha256').update('nobody kept it').digest('hex');
    const cases = {
      QUEUE_CORRUPT: changed.headers,
      PACKAGE_INVALID: none.headers,
      CODE_MISSING: headersOf({ key: sha256, sha256, size: 10 }),
    };
    for (const [code, headers] of Object.entries(cases))
      await queue.publish({ id: code, type: 'function', payload: Buffer.from('{}'), headers });
    for (const code of Object.keys(cases)) expect(await endOf(queue, code)).toMatchObject({ state: 'failed', attempts: 1, code });
    await serves();
  });

  it('a payload whose object was changed reaches no function', async () => {
    const { headers } = await keep(queue, HELLO);
    const objects = new RemoteObjects(queue.control);
    const object = await objects.put(Buffer.from('{"amount":1}'));
    writeFileSync(join(running.data, 'objects', object.key), '{"amount":9}');
    await queue.publish({ id: 'changed', type: 'function', payload: object, headers, attemptsMax: 1 });
    expect(await endOf(queue, 'changed')).toMatchObject({
      state: 'dead',
      code: 'QUEUE_CORRUPT',
      message: expect.stringContaining(object.key),
    });
    await serves();
  });

  it('jobs that are none of a function are refused, each with what is wrong', async () => {
    const { headers, object } = await keep(queue, HELLO);
    const settings = (given: string): Headers => ({ ...headers, 'function-settings': given });
    const cases = [
      ['type', { type: 'work', headers }, /type function/],
      ['no headers', { headers: {} }, /name of a function/],
      ['settings', { headers: settings('{') }, /not JSON/],
      ['unknown setting', { headers: settings('{"shell":"rm"}') }, /no setting shell/],
      ['path', { headers: { ...headers, 'function-sha256': '0'.repeat(64), 'function-object': '../control.key' } }, /path/],
      ['no size', { headers: { ...headers, 'function-bytes': '-1' } }, /size of a package/],
    ] as const;
    for (const [id, given] of cases) await queue.publish({ id, type: 'function', payload: Buffer.from('{}'), ...given });
    for (const [id, , message] of cases)
      expect(await endOf(queue, id)).toMatchObject({
        state: 'failed',
        attempts: 1,
        code: 'REQUEST_INVALID',
        message: expect.stringMatching(message),
      });
    await queue.publish({
      id: 'secret',
      type: 'function',
      payload: Buffer.from('{}'),
      headers: headersOf(object, { environment: ['CONTROL_PLANE_TICKET'] }),
      attemptsMax: 1,
    });
    expect(await endOf(queue, 'secret')).toMatchObject({
      state: 'dead',
      code: 'FORBIDDEN',
      message: expect.stringContaining('CONTROL_PLANE_TICKET'),
    });
    await serves();
  });
});

describe('a job from a file, without a control plane', () => {
  it('that cannot be run ends with 1 and says why, in one line', async () => {
    const zip = place('throws.zip');
    writeFileSync(zip, zipOf({ 'index.mjs': 'export const handler = () => { throw new Error("poison"); };' }));
    const settings = { runtime: 'nodejs24.x', handler: 'index.handler' };
    const cases = [
      ['{', 'CONFIG_INVALID', /JSON/],
      ['{"event":7}', 'CONFIG_INVALID', /artifact/],
      ['{"artifact":"nowhere.zip"}', 'CODE_MISSING', /nowhere\.zip/],
      [JSON.stringify({ artifact: zip, settings: { timeoutMs: 999 } }), 'REQUEST_INVALID', /timeoutMs.* from 1000 to 900000/],
      [JSON.stringify({ artifact: zip, settings }), 'FUNCTION_FAILED', /poison/],
    ] as const;
    const commands = cases.map(([content]) => {
      const file = place('job');
      writeFileSync(file, content);
      return worker('', '--once', '--job', file);
    });
    for (const [index, [content, code, message]] of cases.entries()) {
      expect([content, await commands[index]?.ended]).toEqual([content, 1]);
      expect(commands[index]?.news).toEqual([{ event: 'error', code, message: expect.stringMatching(message) }]);
    }
  });
});

describe('a worker whose functions are modules', () => {
  const SPIN = '(loop $again (br $again))';
  const GROW = '(loop $again (if (i32.lt_s (memory.grow (i32.const 16)) (i32.const 0)) (then (unreachable))) (br $again))';
  const DOWN = '(func $down (param i64) (result i64) (i64.add (i64.const 1) (call $down (local.get 0))))';
  const MODULES: readonly (readonly [string, Uint8Array, object])[] = [
    ['an endless loop', moduleOf(SPIN), { state: 'dead', attempts: 2, code: 'EXECUTOR_TIMEOUT' }],
    ['a memory bomb', moduleOf(GROW, { memory: '1' }), { state: 'dead', attempts: 2, code: 'FUNCTION_OUT_OF_MEMORY' }],
    [
      'an endless recursion',
      moduleOf('(drop (call $down (i64.const 1)))', { rest: DOWN }),
      { state: 'dead', attempts: 2, code: 'FUNCTION_FAILED', message: expect.stringMatching(/stack/i) },
    ],
    [
      'imports that nobody has',
      wat('(module (import "env" "fetch" (func)) (memory (export "memory") 1) (func (export "_start")))'),
      { state: 'failed', attempts: 1, code: 'PACKAGE_INVALID', message: expect.stringContaining('env.fetch') },
    ],
    ['garbage', Buffer.from('\0asm garbage'), { state: 'failed', attempts: 1, code: 'PACKAGE_INVALID' }],
  ];

  it('gives each hostile one its error, and lives on', async () => {
    const { running, queue } = await world();
    const command = worker(await ticketOf(running), '--backend', 'wasm', '--concurrency', '2');
    await command.until('ready');
    const settings = { runtime: 'wasm', handler: 'handler.wasm', memoryMb: 128, timeoutMs: 1_000 };
    const run = async (id: string, module: Uint8Array): Promise<void> => {
      const { headers } = await keep(queue, zipSync({ 'handler.wasm': module }), {
        ...settings,
        ...((module === ECHO || id === 'a memory bomb') && { timeoutMs: 20_000 }),
      });
      await queue.publish({ id, type: 'function', payload: Buffer.from(id), headers, attemptsMax: 2 });
    };
    for (const [id, module] of MODULES) await run(id, module);
    for (const [id, , end] of MODULES) expect([id, await endOf(queue, id)]).toMatchObject([id, end]);
    await run('echo', ECHO);
    expect(text((await queue.result('echo')).body)).toBe('echo');
    expect(await command.kill('SIGTERM')).toBe(0);
  });
});
