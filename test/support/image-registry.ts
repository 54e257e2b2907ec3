/** The registry of the CNCF on this machine, and a door before it that counts, cuts, and asks who is there. */

import { execFileSync, spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, request as httpRequest } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PROBE_MS_MAX } from '../require.ts';
import { reservedPort } from './reserved-port.ts';

/** Throws the reason when it is not there: a probe for `requirePeer`. */
export function probeRegistry(): void {
  execFileSync('docker-registry', ['--version'], { stdio: 'ignore', timeout: PROBE_MS_MAX });
}

type Sign = 'none' | 'basic' | 'bearer';

export interface TestRegistry {
  /** `127.0.0.1:port` of the door. */
  readonly host: string;
  /** Methods and paths of the requests that went through, without queries. */
  readonly requests: string[];
  /** How somebody has to sign in, as `ada` with the password `lovelace`. */
  sign: Sign;
  /** The connection breaks behind so many requests that write. */
  writesLeft: number;
  /** Bytes of the request bodies that went through. */
  bytes: number;
  close(): Promise<void>;
}

const BASIC = `Basic ${Buffer.from('ada:lovelace').toString('base64')}`;
const START_MS_MAX = 20_000;

export async function startRegistry(): Promise<TestRegistry> {
  const folder = await mkdtemp(join(tmpdir(), 'bpr-registry-'));
  const port = await reservedPort();
  const config = ['version: 0.1', 'storage:', `  filesystem: { rootdirectory: ${folder}/data }`, 'http:', `  addr: 127.0.0.1:${port}`, ''];
  await writeFile(join(folder, 'config.yml'), config.join('\n'));
  const child = spawn('docker-registry', ['serve', join(folder, 'config.yml')], {
    env: { PATH: process.env['PATH'] },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('the registry does not start')), START_MS_MAX);
    let told = '';
    const hear = (chunk: Buffer): void => {
      told += chunk.toString();
      if (!told.includes('listening on')) return;
      clearTimeout(timer);
      resolve();
    };
    child.stdout.on('data', hear);
    child.stderr.on('data', hear);
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`the registry ended with ${code}: ${told}`)));
  });
  const gone = new Promise((resolve) => child.once('exit', resolve));
  const door = await openDoor(port);
  return Object.assign(door.registry, {
    async close() {
      await door.close();
      child.kill('SIGKILL');
      await gone;
      await rm(folder, { recursive: true, force: true });
    },
  });
}

async function openDoor(port: number) {
  const token = 'a-token-for-pushing';
  const registry = { host: '', requests: [] as string[], sign: 'none' as Sign, writesLeft: Number.POSITIVE_INFINITY, bytes: 0 };
  const isLetIn = ({ headers: { authorization } }: IncomingMessage): boolean =>
    registry.sign === 'none' || authorization === (registry.sign === 'basic' ? BASIC : `Bearer ${token}`);
  const refuse = (response: ServerResponse): void => {
    const scheme = registry.sign === 'basic' ? 'Basic realm="here"' : `Bearer realm="http://${registry.host}/token",service="test"`;
    const body = JSON.stringify({ errors: [{ code: 'UNAUTHORIZED', message: 'authentication required' }] });
    response.writeHead(401, { 'www-authenticate': scheme, 'content-type': 'application/json' }).end(body);
  };
  const giveToken = (request: IncomingMessage, response: ServerResponse, { searchParams }: URL): void => {
    const isRight = request.headers.authorization === BASIC && searchParams.get('service') === 'test';
    const isForPushing = /^repository:[a-z/-]+:pull,push$/.test(searchParams.get('scope') ?? '');
    const errors = [{ code: 'DENIED', message: 'wrong name, password or scope' }];
    response.writeHead(isRight && isForPushing ? 200 : 401).end(JSON.stringify(isRight && isForPushing ? { token } : { errors }));
  };
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://door');
    if (url.pathname === '/token') return giveToken(request, response, url);
    if (!isLetIn(request)) return void request.resume().once('end', () => refuse(response));
    const writes = request.method !== 'GET' && request.method !== 'HEAD';
    if (writes && registry.writesLeft <= 0) return void request.socket.destroy();
    if (writes) registry.writesLeft -= 1;
    registry.requests.push(`${request.method} ${url.pathname}`);
    const { authorization: _, ...headers } = request.headers;
    const onward = httpRequest({ host: '127.0.0.1', port, method: request.method, path: request.url, headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 500, answer.headers);
      answer.pipe(response);
    });
    onward.once('error', () => request.socket.destroy());
    request.on('data', (chunk: Buffer) => (registry.bytes += chunk.length)).pipe(onward);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  registry.host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const close = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  };
  return { registry, close };
}
