/** Against a server that answers as an engine would: what no engine on a test machine does on demand. */

import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Duplex } from 'node:stream';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/plugin.ts';
import { ContainerBackend } from './backend.ts';
import { Engine } from './client.ts';
import { engineAddresses } from './engines.ts';

type Answer = readonly [status: number, body: object];
type Routes = Readonly<Record<string, (request: IncomingMessage) => Answer>>;

const closing: (() => void)[] = [];

afterEach(() => {
  for (const close of closing.splice(0)) close();
});

const DOCKER: Routes = {
  'GET /_ping': () => [200, {}],
  'GET /version': () => [200, { Version: '20.10.24', Components: [{ Name: 'Engine' }] }],
  'GET /info': () => [200, { NCPU: 4, SecurityOptions: ['name=seccomp,profile=default'], Runtimes: { runc: {}, runsc: {} } }],
};
const PODMAN: Routes = {
  ...DOCKER,
  'GET /version': () => [200, { Version: '5.4.0', Components: [{ Name: 'Podman Engine' }, { Name: 'Conmon' }] }],
  'GET /info': () => [200, { NCPU: 2, SecurityOptions: ['name=seccomp,profile=default', 'name=rootless'], Runtimes: { crun: {} } }],
};

/** A socket at which an engine with these answers listens. */
async function engine(
  routes: Routes,
  path?: string,
): Promise<{ readonly socketPath: string; readonly asked: string[]; readonly end: () => void }> {
  const folder = mkdtempSync(join(tmpdir(), 'engine-'));
  const socketPath = path ?? join(folder, 'engine.sock');
  const asked: string[] = [];
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const route = `${request.method} ${(request.url ?? '').split('?')[0]}`;
    asked.push(route);
    const [status, body] = routes[route]?.(request) ?? [404, { message: `no such route ${route}` }];
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  });
  await new Promise<void>((resolve) => {
    server.listen(socketPath, resolve);
  });
  const attached: Duplex[] = [];
  server.on('upgrade', (_, socket) => {
    attached.push(socket);
    socket.write('HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n');
  });
  const end = (): void => {
    server.closeAllConnections();
    for (const socket of attached) socket.destroy();
    server.close();
  };
  closing.push(() => {
    end();
    rmSync(folder, { recursive: true, force: true });
  });
  return { socketPath, asked, end };
}

const surroundings = { environment: {}, platform: 'linux', uid: 1000, home: '/nowhere' } as const;
const connect = (host: string, clock = systemClock): Promise<Engine> => Engine.connect({ ...surroundings, clock, host });

describe('an engine', () => {
  it('is Docker', async () => {
    const { socketPath } = await engine(DOCKER);
    const { info } = await connect(`unix://${socketPath}`);
    expect(info).toEqual({
      kind: 'docker',
      version: '20.10.24',
      address: `unix://${socketPath}`,
      cpus: 4,
      rootless: false,
      runtimes: ['runc', 'runsc'],
    });
  });

  it('is podman without root', async () => {
    const { socketPath } = await engine(PODMAN);
    const { info } = await connect(`unix://${socketPath}`);
    expect(info).toMatchObject({ kind: 'podman', version: '5.4.0', rootless: true });
  });

  it('is found at the socket of podman where Docker is not', async () => {
    const home = mkdtempSync(join(tmpdir(), 'home-'));
    closing.push(() => rmSync(home, { recursive: true, force: true }));
    const { socketPath } = await engine(PODMAN, join(home, 'docker.sock'));
    const { info } = await Engine.connect({ ...surroundings, clock: systemClock, environment: { XDG_RUNTIME_DIR: home } });
    // A machine may have a Docker of its own, which comes first.
    expect([`unix://${socketPath}`, 'unix:///var/run/docker.sock']).toContain(info.address);
  });

  it('that is not there is reported with what was tried and what to do', async () => {
    await expect(connect('unix:///nowhere/docker.sock')).rejects.toMatchObject({
      code: 'BACKEND_UNAVAILABLE',
      message: expect.stringMatching(/unix:\/\/\/nowhere\/docker\.sock.*ENOENT.*Start Docker or podman/) as string,
    });
    await expect(connect('ssh://machine')).rejects.toMatchObject({
      code: 'BACKEND_UNAVAILABLE',
      message: expect.stringContaining('ssh://machine is not supported') as string,
    });
  });

  it('that stumbles while it removes is asked again, after longer and longer pauses', async () => {
    const answers: Answer[] = [
      [500, { message: 'busy' }],
      [503, { message: 'busy' }],
      [204, {}],
    ];
    const { socketPath, asked } = await engine({ ...DOCKER, 'DELETE /containers/c1': () => answers.shift() ?? [500, {}] });
    const pauses: number[] = [];
    const clock = { ...systemClock, sleep: (delayMs: number) => (pauses.push(delayMs), Promise.resolve()) };
    await (await connect(`unix://${socketPath}`, clock)).remove('c1');
    expect(asked.filter((route) => route.startsWith('DELETE'))).toHaveLength(3);
    expect(pauses).toEqual([50, 100]);
  });

  it('that goes on stumbling is reported', async () => {
    const { socketPath, asked } = await engine({ ...DOCKER, 'DELETE /containers/c1': () => [500, { message: 'broken' }] });
    const clock = { ...systemClock, sleep: () => Promise.resolve() };
    await expect((await connect(`unix://${socketPath}`, clock)).remove('c1')).rejects.toThrow(/broken/);
    expect(asked.filter((route) => route.startsWith('DELETE'))).toHaveLength(4);
  });

  it.each([404, 409])('that answers %i has removed it', async (status) => {
    const { socketPath, asked } = await engine({ ...DOCKER, 'DELETE /containers/c1': () => [status, { message: 'x' }] });
    await (await connect(`unix://${socketPath}`)).remove('c1');
    expect(asked.filter((route) => route.startsWith('DELETE'))).toHaveLength(1);
  });

  it('that refuses is not asked again', async () => {
    const { socketPath, asked } = await engine({ ...DOCKER, 'DELETE /containers/c1': () => [400, { message: 'bad' }] });
    await expect((await connect(`unix://${socketPath}`)).remove('c1')).rejects.toThrow(/bad/);
    expect(asked.filter((route) => route.startsWith('DELETE'))).toHaveLength(1);
  });

  it('that restarts while a container is waited for is asked again', async () => {
    const answers: Answer[] = [
      [500, { message: 'shutting down' }],
      [200, { StatusCode: 3 }],
    ];
    const { socketPath } = await engine({
      ...DOCKER,
      'POST /containers/c1/wait': () => answers.shift() ?? [404, {}],
      'GET /containers/c1/json': () => [200, { State: { Running: false, Pid: 0, ExitCode: 3, OOMKilled: false, Error: '' } }],
    });
    const clock = { ...systemClock, sleep: () => Promise.resolve() };
    const connected = await connect(`unix://${socketPath}`, clock);
    expect(await connected.ended('c1')).toEqual({ exitCode: 3, oomKilled: false });
    expect(await connected.ended('c1')).toBe(undefined);
  });

  it('tells the failure of a pull that lies in its progress', async () => {
    const { socketPath } = await engine({ ...DOCKER, 'POST /images/create': () => [200, { error: 'manifest unknown' }] });
    await expect((await connect(`unix://${socketPath}`)).pull('x:y', AbortSignal.timeout(5_000))).rejects.toThrow('manifest unknown');
  });
});

describe('the addresses of engines', () => {
  const texts = (changes: Partial<Parameters<typeof engineAddresses>[0]>): readonly string[] | undefined =>
    engineAddresses({ ...surroundings, ...changes })?.map(({ text }) => text);

  it('are the one that the environment names', () => {
    expect(texts({ environment: { DOCKER_HOST: 'unix:///d.sock', CONTAINER_HOST: 'unix:///p.sock' } })).toEqual(['unix:///d.sock']);
    expect(texts({ environment: { DOCKER_HOST: '', CONTAINER_HOST: 'unix:///p.sock' } })).toEqual(['unix:///p.sock']);
    expect(texts({ environment: { DOCKER_HOST: 'ssh://me@there' } })).toBe(undefined);
  });

  it('start with the sockets of Docker and of podman', () => {
    const found = texts({ environment: { XDG_RUNTIME_DIR: '/run/user/7' }, home: '/home/me' });
    expect(found?.[0]).toBe('unix:///var/run/docker.sock');
    expect(found).toContain('unix:///run/user/7/podman/podman.sock');
    expect(found).toContain('unix:///run/podman/podman.sock');
    expect(found).toContain('unix:///home/me/.docker/run/docker.sock');
  });

  it('are pipes on Windows', () => {
    expect(texts({ platform: 'win32', uid: undefined })).toEqual(['npipe://./pipe/docker_engine', 'npipe://./pipe/podman-machine-default']);
    expect(engineAddresses({ ...surroundings, environment: { DOCKER_HOST: 'npipe:////./pipe/other' } })?.[0]?.connection).toEqual({
      socketPath: '////./pipe/other',
    });
  });

  it.each([
    ['tcp://10.0.0.1', {}, { protocol: 'http', host: '10.0.0.1', port: 2375 }],
    [
      'tcp://machine:99',
      { DOCKER_TLS_VERIFY: '1', DOCKER_CERT_PATH: '/c' },
      { protocol: 'https', host: 'machine', port: 99, certificates: '/c' },
    ],
    ['https://[::1]', {}, { protocol: 'https', host: '::1', port: 2376 }],
  ])('may be of another machine: %s', (host, environment, connection) => {
    expect(engineAddresses({ ...surroundings, environment: { ...environment, DOCKER_HOST: host } })?.[0]?.connection).toEqual(connection);
  });
});

describe('a run whose engine ends for good', () => {
  it('ends, too, soon after its time is over', async () => {
    const { socketPath, end }: Awaited<ReturnType<typeof engine>> = await engine({
      ...DOCKER,
      'GET /images/app/json': () => [200, { Id: 'sha256:1', Config: { Cmd: ['/app'] } }],
      'POST /containers/create': () => [201, { Id: 'c1' }],
      'POST /containers/c1/wait': () => [500, { message: 'about to end' }],
      'POST /containers/c1/start': () => (setTimeout(end, 20), [204, {}]),
    });
    // Whoever waits long waits shortly.
    const clock = { ...systemClock, after: (ms: number, action: () => void) => systemClock.after(Math.min(ms, 500), action) };
    const backend = new ContainerBackend({ folder: dirname(socketPath), host: `unix://${socketPath}`, clock });
    const fn = { ...FUNCTION, code: { kind: 'image', uri: 'app' } } as const;
    await expect(backend.runStdio(fn, Buffer.from('1'), { timeoutMs: 100 })).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
    await backend.close();
  });
});

const FUNCTION = {
  name: 'once',
  version: '1',
  fingerprint: 'f',
  layers: [],
  runtime: 'provided.al2023',
  handler: 'app',
  memoryMb: 128,
  timeoutMs: 20_000,
  ephemeralMb: 64,
  environment: {},
  concurrencyPerInstance: 1,
  network: 'none',
} as const;
