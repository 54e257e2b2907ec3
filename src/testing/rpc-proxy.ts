/** A JSON-RPC endpoint that misbehaves as told: in front of a real node, or all on its own. */

import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Pool } from 'undici';
import { WebSocket, WebSocketServer } from 'ws';
import { RunnerError } from '../errors.ts';

export interface ProxiedCall {
  readonly method: string;
  readonly params: readonly unknown[];
}

/** The `result` or `error` of a JSON-RPC answer. */
export type ProxyReply =
  | { readonly result: unknown }
  | { readonly error: { readonly code: number; readonly message: string; readonly data?: unknown } };

/** What becomes of a whole HTTP request. `drop`: the connection is cut; `hang`: no answer ever; otherwise this answer. */
export type HttpFault =
  | 'drop'
  | 'hang'
  | { readonly status: number; readonly body?: string; readonly headers?: Readonly<Record<string, string>> };

export interface RpcProxyOptions {
  /** The HTTP URL of the node behind; absent: `onCall` answers everything. */
  readonly upstream?: string;
  /** The websocket URL of the node behind. */
  readonly wsUpstream?: string;
  /** Answers a call instead of the node, or changes what the node says. Default: passes on. */
  readonly onCall?: (call: ProxiedCall, forward: () => Promise<ProxyReply>) => Promise<ProxyReply> | ProxyReply;
  /** Asked before each HTTP request, with the calls in it. Default: no fault. */
  readonly onHttp?: (calls: readonly ProxiedCall[]) => HttpFault | undefined;
  /** Answers the calls of a batch in reverse order, as the protocol allows. */
  readonly reverseBatches?: boolean;
}

interface Envelope extends ProxiedCall {
  readonly id: unknown;
}

/**
 * @example
 * const proxy = await startRpcProxy({ upstream: chain.rpcUrl });
 * proxy.onHttp = () => ({ status: 429 });
 * await proxy.close();
 */
export async function startRpcProxy(options: RpcProxyOptions = {}): Promise<RpcProxy> {
  const proxy = new RpcProxy(options);
  await proxy.listen();
  return proxy;
}

export class RpcProxy {
  onCall: RpcProxyOptions['onCall'];
  onHttp: RpcProxyOptions['onHttp'];
  /** While true, nothing that the node pushes reaches the sockets, which stay open. */
  mute = false;
  /** While true, new websockets are refused. */
  refuseSockets = false;
  /** Calls per method so far. */
  readonly calls = new Map<string, number>();
  /** HTTP requests so far. */
  httpRequests = 0;
  readonly #options: RpcProxyOptions;
  readonly #pool: Pool | undefined;
  readonly #server = createServer((request, response) => void this.#serve(request, response));
  readonly #sockets = new WebSocketServer({ noServer: true });

  constructor(options: RpcProxyOptions) {
    this.#options = options;
    this.onCall = options.onCall;
    this.onHttp = options.onHttp;
    if (options.upstream !== undefined) this.#pool = new Pool(options.upstream, { connections: 16 });
    this.#server.on('upgrade', (request, socket, head) => {
      if (this.refuseSockets || options.wsUpstream === undefined) socket.destroy();
      else this.#sockets.handleUpgrade(request, socket, head, (client) => this.#join(client, options.wsUpstream ?? ''));
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port()}`;
  }

  get wsUrl(): string {
    return `ws://127.0.0.1:${this.#port()}`;
  }

  /** Websockets that are open. */
  get openSockets(): number {
    return this.#sockets.clients.size;
  }

  listen(): Promise<void> {
    return new Promise((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
  }

  /** Cuts all websockets. */
  dropSockets(): void {
    for (const client of this.#sockets.clients) client.terminate();
  }

  async close(): Promise<void> {
    this.dropSockets();
    this.#sockets.close();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
    // Not destroyed: what is on its way to the node would reject where nobody listens any more.
    await this.#pool?.close();
  }

  #port(): number {
    return (this.#server.address() as AddressInfo).port; // as: it listens on TCP
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.httpRequests++;
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer); // as: no encoding is set
    const body = JSON.parse(Buffer.concat(chunks).toString('utf8')) as Envelope | Envelope[]; // as: our own clients send JSON-RPC
    const calls = Array.isArray(body) ? body : [body];
    for (const { method } of calls) this.calls.set(method, (this.calls.get(method) ?? 0) + 1);
    const fault = this.onHttp?.(calls);
    if (fault === 'hang') return;
    if (fault === 'drop') {
      request.socket.destroy();
      return;
    }
    if (fault) {
      response.writeHead(fault.status, fault.headers);
      response.end(fault.body);
      return;
    }
    const replies = await Promise.all(calls.map(async (call) => ({ ...(await this.#answer(call)), jsonrpc: '2.0', id: call.id })));
    if (this.#options.reverseBatches) replies.reverse();
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify(Array.isArray(body) ? replies : replies[0]));
  }

  async #answer(call: Envelope): Promise<ProxyReply> {
    const forward = (): Promise<ProxyReply> => this.#forward(call);
    return this.onCall ? await this.onCall(call, forward) : await forward();
  }

  async #forward({ method, params }: Envelope): Promise<ProxyReply> {
    if (!this.#pool) throw new RunnerError('INTERNAL', `the proxy has no node behind it to answer ${method}`);
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params });
    const answer = await this.#pool.request({ path: '/', method: 'POST', headers: { 'content-type': 'application/json' }, body });
    return (await answer.body.json()) as ProxyReply; // as: what a node answers
  }

  #join(client: WebSocket, upstream: string): void {
    const node = new WebSocket(upstream);
    const early: string[] = [];
    client.on('message', (data) => {
      const text = (data as Buffer).toString('utf8'); // as: the binary type is the default one
      if (node.readyState === WebSocket.OPEN) node.send(text);
      else early.push(text);
    });
    node.on('open', () => {
      for (const message of early) node.send(message);
    });
    node.on('message', (data) => {
      if (!this.mute) client.send((data as Buffer).toString('utf8')); // as: the binary type is the default one
    });
    client.on('close', () => node.terminate());
    node.on('close', () => client.terminate());
    node.on('error', () => client.terminate());
  }
}
