import { once } from 'node:events';
import { connect } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { startTelemetryServer } from './server.ts';
import type { HealthReport, TelemetryServer, TelemetryServerOptions } from './server.ts';

const servers: TelemetryServer[] = [];
afterEach(() => Promise.all(servers.splice(0).map((server) => server.close())));

const fine: HealthReport = { ok: true, checks: { ledger: { ok: true } } };

async function start(options: Partial<TelemetryServerOptions> = {}): Promise<TelemetryServer> {
  const server = await startTelemetryServer({
    metrics: () => Promise.resolve('x_total 1\n'),
    health: () => fine,
    ready: () => fine,
    ...options,
  });
  servers.push(server);
  return server;
}

async function ask(url: string, init: RequestInit = {}): Promise<{ status: number; type: string | null; body: unknown }> {
  const response = await fetch(url, init);
  const text = await response.text();
  const type = response.headers.get('content-type');
  return { status: response.status, type, body: type?.startsWith('application/json') && text !== '' ? JSON.parse(text) : text };
}

describe('routes', () => {
  it('/metrics is the text of the callback', async () => {
    const { url } = await start();
    expect(await ask(`${url}/metrics?x=1`)).toEqual({ status: 200, type: 'text/plain; version=0.0.4; charset=utf-8', body: 'x_total 1\n' });
  });

  it('/healthz and /health tell the health, /readyz the readiness', async () => {
    const { url } = await start({ ready: () => Promise.resolve({ ok: false, checks: { chain: { ok: false, message: 'catching up' } } }) });
    expect(await ask(`${url}/healthz`)).toEqual({ status: 200, type: 'application/json; charset=utf-8', body: fine });
    expect(await ask(`${url}/health`)).toMatchObject({ status: 200, body: fine });
    expect(await ask(`${url}/readyz`)).toMatchObject({
      status: 503,
      body: { ok: false, checks: { chain: { ok: false, message: 'catching up' } } },
    });
  });

  it('other paths are 404 and other methods 405, as JSON', async () => {
    const { url } = await start();
    expect(await ask(`${url}/`)).toMatchObject({ status: 404, body: { ok: false, error: { code: 'NOT_FOUND' } } });
    expect(await ask(`${url}/metrics`, { method: 'POST', body: 'x' })).toMatchObject({ status: 405 });
    expect(await ask(`${url}/metrics`, { method: 'HEAD' })).toMatchObject({ status: 200, body: '' });
  });

  it('a callback that throws or never ends is 503 with the reason, without secrets', async () => {
    const key = '0123456789abcdef0123456789abcdef';
    const { url } = await start({
      metrics: () => Promise.reject(new Error(`https://rpc.example/${key} is down`)),
      health: () => {
        throw new Error('no disk');
      },
      ready: () => new Promise(() => undefined),
      timeoutMs: 20,
    });
    expect(await ask(`${url}/metrics`)).toMatchObject({
      status: 503,
      body: { ok: false, error: { message: 'https://rpc.example/[redacted] is down' } },
    });
    expect(await ask(`${url}/healthz`)).toMatchObject({ status: 503, body: { error: { message: 'no disk' } } });
    expect(await ask(`${url}/readyz`)).toMatchObject({ status: 503, body: { error: { message: 'no answer within 20 ms' } } });
  });

  it('messages of checks are redacted', async () => {
    const message = 'wss://user:pass@rpc.example/ does not answer';
    const { url } = await start({ health: () => ({ ok: false, checks: { rpc: { ok: false, message } } }) });
    expect(JSON.stringify((await ask(`${url}/healthz`)).body)).not.toContain('pass');
  });
});

describe('who may ask', () => {
  it.each(['0.0.0.0', '::', '192.0.2.1', 'example.org', '127.0.0.1.example.org', ''])(
    'listening on %j without a token is refused',
    async (host) => {
      await expect(start({ host })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    },
  );

  it('an empty token is no token', async () => {
    await expect(start({ token: '' })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });

  it.each(['127.0.0.1', '127.8.8.8', 'localhost'])('listening on %s needs none', async (host) => {
    expect((await ask(`${(await start({ host })).url}/healthz`)).status).toBe(200);
  });

  it('with a token every request must carry it', async () => {
    const { port } = await start({ host: '0.0.0.0', token: 's3cret' });
    const url = `http://127.0.0.1:${port}/metrics`;
    const status = async (authorization?: string): Promise<number> =>
      (await ask(url, authorization === undefined ? {} : { headers: { authorization } })).status;
    expect(await status()).toBe(401);
    expect(await status('Bearer s3cre')).toBe(401);
    expect(await status('s3cret')).toBe(401);
    expect(await status('Bearer s3cret')).toBe(200);
  });
});

describe('start and stop', () => {
  it('a taken port is CONFIG_INVALID and names it', async () => {
    const { port } = await start();
    await expect(start({ port })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining(String(port)) as string,
    });
  });

  it('close answers the running request, ends idle connections, and may be called twice', async () => {
    const entered = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<string>();
    const server = await start({
      metrics: () => {
        entered.resolve();
        return gate.promise;
      },
    });
    const idle = connect(server.port, '127.0.0.1');
    await once(idle, 'connect');
    const idleClosed = once(idle, 'close');
    const running = ask(`${server.url}/metrics`);
    await entered.promise;
    const closed = server.close();
    expect(server.close()).toBe(closed);
    gate.resolve('late 1\n');
    expect(await running).toMatchObject({ status: 200, body: 'late 1\n' });
    await closed;
    await idleClosed;
    await expect(fetch(`${server.url}/healthz`)).rejects.toThrow('fetch failed');
  });
});
