/** Stands between a deployer and its platform: counts what writes, cuts connections, says that there are too many requests. */

import { createServer, request as httpRequest } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { listenOnLoopback } from './loopback.ts';

export interface FaultyProxy {
  readonly url: string;
  /** Paths of all writes, in order, without queries. */
  readonly written: readonly string[];
  writes(): number;
  cutAfter(writes: number | undefined): void;
  throttle(requests: number): void;
  /** Requests that nobody answers. */
  lose(isLost: (method: string, path: string) => boolean): void;
  close(): Promise<void>;
}

export interface FaultyProxyOptions {
  readonly target: string;
  /** Default: every method but GET and HEAD. */
  readonly isWrite?: (method: string, path: string) => boolean;
}

export async function startFaultyProxy(options: FaultyProxyOptions): Promise<FaultyProxy> {
  const { target, isWrite = (method) => method !== 'GET' && method !== 'HEAD' } = options;
  const written: string[] = [];
  let writesLeft = Number.POSITIVE_INFINITY;
  let throttled = 0;
  let isLost = (_method: string, _path: string): boolean => false;

  async function handle(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await buffer(incoming);
    const { method = 'GET', url: path = '/' } = incoming;
    if (writesLeft <= 0 || isLost(method, path)) return void incoming.socket.destroy();
    if (throttled > 0) {
      throttled -= 1;
      response.writeHead(429, { 'retry-after': '1', 'content-type': 'application/json' });
      return void response.end('{"error":"too many requests","code":"TOO_MANY_REQUESTS"}');
    }
    const writes = isWrite(method, path);
    if (writes) {
      written.push(`${method} ${path.split('?', 1)[0]}`);
      writesLeft -= 1;
    }
    const isLast = writes && writesLeft === 0;
    const answer = await forward(target, { method, path, headers: incoming.headers, body });
    if (isLast) return void incoming.socket.destroy();
    response.writeHead(answer.status, answer.headers);
    return void response.end(answer.body);
  }

  const server = createServer((incoming, response) => {
    handle(incoming, response).catch(() => incoming.socket.destroy());
  });
  const { url, stop } = await listenOnLoopback(server);
  return {
    url,
    written,
    writes: () => written.length,
    cutAfter: (writes) => void (writesLeft = writes ?? Number.POSITIVE_INFINITY),
    throttle: (requests) => void (throttled = requests),
    lose: (losing) => void (isLost = losing),
    close: stop,
  };
}

interface Forwarded {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

function forward(
  target: string,
  { method, path, headers, body }: Forwarded,
): Promise<{ readonly status: number; readonly headers: IncomingMessage['headers']; readonly body: Buffer }> {
  return new Promise((resolve, reject) => {
    const { host, 'transfer-encoding': _, ...rest } = headers;
    const { hostname, port, host: targetHost } = new URL(target);
    const outgoing = httpRequest(
      { hostname, port, path, method, headers: { ...rest, host: host === undefined ? '' : targetHost, 'content-length': body.length } },
      (incoming) => {
        buffer(incoming).then((all) => {
          const { 'transfer-encoding': __, ...answered } = incoming.headers;
          resolve({ status: incoming.statusCode ?? 502, headers: answered, body: all });
        }, reject);
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}
