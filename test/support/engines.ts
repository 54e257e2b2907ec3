/** An engine that answers as a gateway does; the test decides what becomes of a call. */

import { once } from 'node:events';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';
import { reservedPort } from './reserved-port.ts';

export function reply(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

interface Deployed {
  readonly name: string;
  readonly zip: string;
}

export class FakeEngine {
  readonly deployed = new Map<string, Deployed>();
  /** Of each request: its authorization. */
  readonly tokens: (string | undefined)[] = [];
  /** Method and target of each request but those for readiness. */
  readonly requests: string[] = [];
  /** Requests whose sender went away before it was answered. */
  readonly abandoned: string[] = [];
  uploads = 0;
  calls = 0;
  url = '';
  invoke: (response: ServerResponse, event: Buffer) => void = (response) => reply(response, 200, { from: this.url });
  /** It takes functions and never says so. */
  takesForever = false;
  readonly #server = createServer((request, response) => void this.#answer(request, response));

  /** One that is stopped may be started again on its port. */
  static async start(port?: number, host = '127.0.0.1'): Promise<FakeEngine> {
    const engine = new FakeEngine();
    engine.#server.listen(port ?? (await reservedPort()), host);
    await once(engine.#server, 'listening');
    engine.url = `http://${host}:${(engine.#server.address() as AddressInfo).port}`;
    onTestFinished(() => engine.stop());
    return engine;
  }

  stop(): Promise<void> {
    return new Promise((resolve) => {
      this.#server.close(() => resolve());
      this.#server.closeAllConnections();
    });
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { url = '', method } = request;
    response.on('close', () => {
      if (!response.writableFinished) this.abandoned.push(`${method} ${url}`);
    });
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    this.tokens.push(request.headers.authorization);
    if (url === '/readyz') return reply(response, 200, {});
    this.requests.push(`${method} ${url}`);
    if (url === '/api/v1/functions') return this.#deploy(response, JSON.parse(body.toString()) as Deployed);
    const [, name = ''] = /^\/api\/v1\/functions\/([^/]+)/.exec(url) ?? [];
    if (method === 'DELETE') {
      this.deployed.delete(name);
      return reply(response, 200, {});
    }
    if (!this.deployed.has(name)) return reply(response, 404, { error: { code: 'FUNCTION_NOT_FOUND', message: 'there is none' } });
    this.calls += 1;
    return this.invoke(response, body);
  }

  #deploy(response: ServerResponse, document: Deployed): void {
    this.uploads += 1;
    if (this.takesForever) return;
    if (this.deployed.has(document.name)) return reply(response, 409, { error: { code: 'FUNCTION_EXISTS', message: 'there is one' } });
    this.deployed.set(document.name, document);
    return reply(response, 201, {});
  }
}
