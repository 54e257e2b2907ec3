/** What executors of platforms find out before a call can be sent, when it takes long, is given up, or is out of date. */

import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, describe, expect, test } from 'vitest';
import { AzureExecutor } from '../../plugins/azure/index.ts';
import { DigitalOceanExecutor } from '../../plugins/digitalocean/index.ts';
import { GcpExecutor } from '../../plugins/gcp/index.ts';
import { HttpFaasExecutor } from '../../plugins/http/index.ts';
import { KubernetesExecutor } from '../../plugins/kubernetes/index.ts';
import { systemClock } from '../../src/clock.ts';
import type { FaasExecutor, InvokeOptions } from '../../src/executor/executor.ts';
import { Metadata } from '../../src/job/call.ts';
import { kubeconfigFor } from '../support/kubernetes-config.ts';
import { listenOnLoopback } from '../support/loopback.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

async function serve(listener: (request: IncomingMessage, response: ServerResponse) => unknown): Promise<string> {
  const { url, stop } = await listenOnLoopback(createServer((request, response) => void listener(request, response)));
  cleanUps.push(stop);
  return url;
}

function opened<E extends FaasExecutor>(executor: E): E {
  cleanUps.push(() => executor.close?.());
  return executor;
}

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'access-'));
  cleanUps.push(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

const json = (response: ServerResponse, body: unknown, status = 200): unknown =>
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));

/** The job gives back what it got. */
async function echo(request: IncomingMessage, response: ServerResponse): Promise<void> {
  response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(await text(request));
}

const invoke = async (executor: FaasExecutor, options: Partial<InvokeOptions> = {}, body = 'x'): Promise<string> => {
  const call = { id: 'call', jobId: 1n, body: Buffer.from(body), metadata: new Metadata() };
  const { results } = await executor.invoke(call, { deadline: Date.now() + 60_000, attempt: 1, ...options });
  return Buffer.from(results[0]?.body ?? []).toString();
};

/** A call whose deadline passes and one that is given up, while what they need takes its time; another one waits for it and is sent. */
async function expectOthersUndisturbed(executor: FaasExecutor, { asked, answer }: Gate): Promise<void> {
  const controller = new AbortController();
  const waiting = [
    invoke(executor, { signal: controller.signal }, 'given up'),
    invoke(executor, { deadline: Date.now() + 100 }, 'late'),
    invoke(executor, {}, 'patient'),
  ];
  const outcomes = Promise.allSettled(waiting);
  await asked;
  controller.abort(new Error('enough'));
  const early = await Promise.allSettled(waiting.slice(0, 2));
  expect(early).toMatchObject([
    { status: 'rejected', reason: { code: 'ABORTED', retry: 'safe' } },
    { status: 'rejected', reason: { code: 'EXECUTOR_TIMEOUT', retry: 'safe' } },
  ]);
  answer();
  expect((await outcomes)[2]).toEqual({ status: 'fulfilled', value: 'patient' });
}

interface Gate {
  readonly asked: Promise<void>;
  readonly answer: () => void;
}

/** Holds what asks until it is opened. */
function gate(): Gate & { pass(): Promise<void> } {
  const asked = Promise.withResolvers<void>();
  const open = Promise.withResolvers<void>();
  return {
    asked: asked.promise,
    answer: open.resolve,
    pass: () => (asked.resolve(), open.promise),
  };
}

describe('GCP', () => {
  const tokenOf = (name: string): string =>
    ['head', Buffer.from(JSON.stringify({ exp: Math.floor(Date.now() / 1_000) + 3_600, name })).toString('base64url'), name].join('.');

  async function start(door: { pass(): Promise<void> } = { pass: async () => {} }) {
    const state = { granted: 0, taken: '', bodies: [] as string[] };
    const url = await serve(async (request, response) => {
      if (request.url === '/token') {
        state.granted += 1;
        await door.pass();
        return json(response, { id_token: tokenOf(`token-${state.granted}`) });
      }
      if (state.taken !== '' && !request.headers.authorization?.endsWith(state.taken)) return response.writeHead(401).end();
      const body = await text(request);
      state.bodies.push(body);
      return response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(body);
    });
    const credentials = JSON.stringify({ type: 'authorized_user', client_id: 'a', client_secret: 'b', refresh_token: 'c' });
    const options = { uri: url, credentials: () => credentials, endpoints: { token: `${url}/token` } };
    return { state, executor: opened(new GcpExecutor(options, { clock: systemClock, environment: {} })) };
  }

  test('a token that takes long keeps nobody beyond his deadline, and what was given up is not sent', async () => {
    const door = gate();
    const { state, executor } = await start(door);
    await expectOthersUndisturbed(executor, door);
    expect(state).toMatchObject({ granted: 1, bodies: ['patient'] });
  });

  test('a kept token that is refused is no reason to fail a job: the next attempt has another one', async () => {
    const { state, executor } = await start();
    state.taken = 'token-1';
    expect(await invoke(executor)).toBe('x');
    state.taken = 'token-2';
    await expect(invoke(executor)).rejects.toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED', retry: 'safe' });
    expect(await invoke(executor)).toBe('x');
    state.taken = 'nobody';
    await expect(invoke(executor)).rejects.toMatchObject({ retry: 'safe' });
    await expect(invoke(executor)).rejects.toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED', retry: 'never' });
  });
});

describe('Azure', () => {
  test('a kept key that is refused is no reason to fail a job: the next attempt has the one of now', async () => {
    let taken = 'first';
    const url = await serve((request, response) =>
      request.headers['x-functions-key'] === taken ? echo(request, response) : response.writeHead(401).end(),
    );
    let key = taken;
    const executor = opened(new AzureExecutor({ url, key: () => key }, { clock: systemClock }));
    expect(await invoke(executor)).toBe('x');
    key = taken = 'second';
    await expect(invoke(executor)).rejects.toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED', retry: 'safe' });
    expect(await invoke(executor)).toBe('x');
    key = 'wrong';
    taken = 'third';
    await expect(invoke(executor)).rejects.toMatchObject({ retry: 'safe' });
    await expect(invoke(executor)).rejects.toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED', retry: 'never' });
  });
});

describe('DigitalOcean', () => {
  async function start(door: { pass(): Promise<void> } = { pass: async () => {} }) {
    const state = { secret: 'one', isThere: true, bodies: [] as string[] };
    const url = await serve(async (request, response) => {
      const { pathname } = new URL(request.url ?? '', 'http://host');
      if (pathname === '/v2/functions/namespaces') {
        await door.pass();
        const namespace = { label: 'blueprint-functions', namespace: 'fn-1', api_host: url, uuid: 'uuid', key: 'key' };
        return json(response, { namespaces: [namespace] });
      }
      if (!state.isThere) return json(response, { error: 'The requested resource does not exist.', code: 'a' }, 404);
      if (pathname.startsWith('/api/v1/namespaces/_/actions/')) {
        const annotations = [{ key: 'require-whisk-auth', value: state.secret }];
        return json(response, { name: 'jobs', version: '0.0.1', exec: { kind: 'nodejs:24', binary: true }, limits: {}, annotations });
      }
      if (request.headers['x-require-whisk-auth'] !== state.secret) return json(response, { error: 'no', code: 'b' }, 401);
      const body = await text(request);
      state.bodies.push(body);
      return response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(body);
    });
    const options = { apiUrl: url, token: () => 'token', function: 'jobs' };
    return { state, executor: opened(new DigitalOceanExecutor(options, { clock: systemClock })) };
  }

  test('who gives up the wait for the address ends it for nobody else, and nobody waits beyond his deadline', async () => {
    const door = gate();
    const { state, executor } = await start(door);
    await expectOthersUndisturbed(executor, door);
    expect(state.bodies).toEqual(['patient']);
  });

  test('a kept secret that is refused is no reason to fail a job, and health asks whether the function is there', async () => {
    const { state, executor } = await start();
    expect(await invoke(executor)).toBe('x');
    state.secret = 'two';
    await expect(invoke(executor)).rejects.toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED', retry: 'safe' });
    expect(await invoke(executor)).toBe('x');
    await executor.health(1n);
    state.isThere = false;
    await expect(executor.health(1n)).rejects.toMatchObject({ code: 'EXECUTOR_NOT_FOUND' });
    await expect(invoke(executor)).rejects.toMatchObject({ code: 'EXECUTOR_NOT_FOUND', retry: 'safe' });
    await expect(invoke(executor)).rejects.toMatchObject({ code: 'EXECUTOR_NOT_FOUND', retry: 'never' });
  });
});

describe('Kubernetes', () => {
  const status = { kind: 'Status', apiVersion: 'v1', status: 'Failure', message: 'Unauthorized', reason: 'Unauthorized', code: 401 };

  async function open(server: string, user: object): Promise<KubernetesExecutor> {
    const kubeconfig = join(await newFolder(), 'config');
    await writeFile(kubeconfig, kubeconfigFor({ server, user }));
    return opened(new KubernetesExecutor({ kubeconfig }, { clock: systemClock, environment: { PATH: process.env['PATH'] } }));
  }

  test('a result that looks like a word of the API server is a result', async () => {
    const executor = await open(await serve(echo), { token: 'token' });
    expect(await invoke(executor, {}, JSON.stringify(status))).toBe(JSON.stringify(status));
  });

  test('more calls run at the same time than a deployment needs connections', async () => {
    const all = Promise.withResolvers<void>();
    let running = 0;
    const executor = await open(
      await serve(async (request, response) => {
        running += 1;
        if (running === 40) all.resolve();
        await all.promise;
        return echo(request, response);
      }),
      { token: 'token' },
    );
    expect(await Promise.all(Array.from({ length: 40 }, (_, index) => invoke(executor, {}, `${index}`)))).toHaveLength(40);
  });

  test('the program that gives the token runs once for calls at the same time, and again when its token is refused', async () => {
    const folder = await newFolder();
    const [runs, token] = [join(folder, 'runs'), join(folder, 'token')];
    await writeFile(token, 'first');
    let taken = 'first';
    const server = await serve((request, response) =>
      request.headers.authorization === `Bearer ${taken}` ? echo(request, response) : json(response, status, 401),
    );
    const apiVersion = 'client.authentication.k8s.io/v1';
    const script = `const fs = require('node:fs'); fs.appendFileSync(${JSON.stringify(runs)}, 'x');
      console.log(JSON.stringify({ apiVersion: '${apiVersion}', kind: 'ExecCredential', status: { token: fs.readFileSync(${JSON.stringify(token)}, 'utf8') } }));`;
    const executor = await open(server, { exec: { apiVersion, command: process.execPath, args: ['-e', script] } });
    await Promise.all(Array.from({ length: 5 }, () => invoke(executor)));
    expect(await readFile(runs, 'utf8')).toBe('x');
    taken = 'second';
    await writeFile(token, taken);
    const safe = { status: 'rejected', reason: { code: 'EXECUTOR_UNAUTHORIZED', retry: 'safe' } };
    expect(await Promise.allSettled(Array.from({ length: 3 }, () => invoke(executor)))).toMatchObject([safe, safe, safe]);
    expect(await invoke(executor)).toBe('x');
    taken = 'third';
    await expect(invoke(executor)).rejects.toMatchObject({ retry: 'safe' });
    await expect(invoke(executor)).rejects.toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED', retry: 'never' });
    expect(await readFile(runs, 'utf8')).toBe('xxx');
  });
});

test('a secret that takes long keeps nobody beyond his deadline, and what was given up is not sent', async () => {
  const bodies: string[] = [];
  const url = await serve(async (request, response) => {
    bodies.push(await text(request));
    return json(response, { result: [112, 97, 116, 105, 101, 110, 116] });
  });
  const door = gate();
  const bearer = async (): Promise<string> => {
    await door.pass();
    return 'token';
  };
  await expectOthersUndisturbed(opened(new HttpFaasExecutor(url, { bearer })), door);
  expect(bodies).toHaveLength(1);
});
