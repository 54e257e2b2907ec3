/**
 * A small platform on 127.0.0.1, for the tests of this package: it keeps functions, versions, schedules and logs, and runs what it is
 * given. It stands for the real one until `client.ts` speaks to that; an emulator of the vendor may take its place then.
 */

import { createHash, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer, json } from 'node:stream/consumers';
import { runInNewContext } from 'node:vm';

type Fields = Readonly<Record<string, unknown>>;
type Run = (event: Uint8Array) => Promise<{ readonly body: Uint8Array; readonly failed: boolean }>;

interface Stored {
  readonly name: string;
  readonly isOurs: boolean;
  settings: Fields;
  readonly versions: { readonly version: string; readonly sha256: string; readonly createdAt: string; readonly source: string }[];
  current: number;
  updatedAt: string;
  readonly schedules: Map<string, unknown>;
  readonly lines: { readonly at: number; readonly message: string; readonly position: number; readonly requestId: string }[];
}

interface Answered {
  readonly status: number;
  readonly json?: unknown;
  readonly body?: Uint8Array;
  readonly headers?: Readonly<Record<string, string>>;
}

const PAGE = 50;
const DONE: Answered = { status: 200, json: {} };
const NOT_FOUND: Answered = { status: 404, json: { error: { code: 'NotFound', message: 'there is no such thing' } } };

export class ReferencePlatform {
  readonly token = randomUUID();
  /** Write requests that were carried out. */
  writes = 0;
  #writesLeft = Number.POSITIVE_INFINITY;
  #throttled = 0;
  readonly #functions = new Map<string, Stored>();
  readonly #installed = new Map<string, Run>();
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch((error: unknown) => {
        response.writeHead(500).end(JSON.stringify({ error: { code: 'Internal', message: String(error) } }));
      });
    });
  }

  static async start(): Promise<ReferencePlatform> {
    const platform = new ReferencePlatform();
    await new Promise<void>((resolve) => platform.#server.listen(0, '127.0.0.1', resolve));
    return platform;
  }

  get url(): string {
    // A server that listens on a port has an address with a port.
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** A function that is run in this process, instead of code that was uploaded. */
  install(name: string, run: Run): void {
    this.#installed.set(name, run);
    this.#functions.set(name, stored(name, false));
  }

  /** Somebody else makes a function. */
  makeForeign(name: string): void {
    const fn = stored(name, false);
    fn.versions.push(versionOf(fn, 'async () => null'));
    fn.current = 0;
    this.#functions.set(name, fn);
  }

  /** The connection breaks behind so many writes more. */
  cutAfter(writes = Number.POSITIVE_INFINITY): void {
    this.#writesLeft = writes;
  }

  throttle(requests: number): void {
    this.#throttled = requests;
  }

  snapshot(): unknown {
    return [...this.#functions.values()]
      .toSorted((a, b) => (a.name < b.name ? -1 : 1))
      .map(({ name, isOurs, settings, versions, current, schedules }) => ({
        name,
        isOurs,
        settings,
        sha256: versions[current]?.sha256,
        schedules: [...schedules].toSorted(([a], [b]) => (a < b ? -1 : 1)),
      }));
  }

  scheduleCount(): number {
    return [...this.#functions.values()].reduce((sum, { schedules }) => sum + schedules.size, 0);
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (this.#writesLeft <= 0) return void request.socket.destroy();
    const { status, json: document, body, headers = {} } = this.#refusal(request) ?? (await this.#answer(request));
    const { method } = request;
    if ((method === 'PUT' || method === 'DELETE') && status < 300) {
      this.writes += 1;
      this.#writesLeft -= 1;
      if (this.#writesLeft <= 0) return void request.socket.destroy();
    }
    const bytes = body ?? Buffer.from(JSON.stringify(document));
    response.writeHead(status, { 'content-type': 'application/json', 'content-length': bytes.length, ...headers }).end(bytes);
  }

  #refusal({ headers }: IncomingMessage): Answered | undefined {
    if (this.#throttled > 0) {
      this.#throttled -= 1;
      return { status: 429, headers: { 'retry-after': '1' }, json: { error: { code: 'Throttled', message: 'too many requests' } } };
    }
    if (headers.authorization === `Bearer ${this.token}`) return undefined;
    return { status: 401, json: { error: { code: 'Unauthorized', message: 'who are you?' } } };
  }

  async #answer(request: IncomingMessage): Promise<Answered> {
    const url = new URL(request.url ?? '/', this.url);
    const [version, kind, ...path] = url.pathname.slice(1).split('/').map(decodeURIComponent);
    if (version !== 'v1' || kind !== 'functions') return NOT_FOUND;
    const [name, part, id] = path;
    if (name === undefined) return this.#list(url.searchParams.get('after') ?? '');
    const fn = this.#functions.get(name);
    const route = `${request.method} ${part ?? ''}`;
    if (route === 'PUT ') return this.#put(name, await fieldsIn(request));
    if (!fn) return NOT_FOUND;
    switch (route) {
      case 'GET ':
        return { status: 200, json: shown(fn) };
      case 'DELETE ':
        if (fn.schedules.size > 0) return conflict('it has schedules');
        this.#functions.delete(name);
        return DONE;
      case 'POST calls':
        return this.#call(fn, await buffer(request), url.searchParams.get('wait') !== 'false');
      case 'GET versions':
        return { status: 200, json: fn.versions.map(({ source: _, ...each }) => each).toReversed() };
      case 'PUT current':
        return select(fn, await fieldsIn(request));
      case 'GET lines':
        return { status: 200, json: fn.lines.filter(({ position }) => position > Number(url.searchParams.get('after'))) };
      default:
        return this.#schedules(fn, { request, part, id });
    }
  }

  async #schedules(
    fn: Stored,
    { request, part, id }: { request: IncomingMessage; part: string | undefined; id: string | undefined },
  ): Promise<Answered> {
    if (part !== 'schedules') return NOT_FOUND;
    if (id === undefined) return { status: 200, json: [...fn.schedules.values()] };
    if (request.method === 'DELETE') return fn.schedules.delete(id) ? DONE : NOT_FOUND;
    fn.schedules.set(id, await fieldsIn(request));
    return DONE;
  }

  #list(after: string): Answered {
    const names = [...this.#functions.keys()].toSorted().filter((name) => name > after);
    const items = names.slice(0, PAGE).flatMap((name) => this.#functions.get(name) ?? []);
    return { status: 200, json: { items: items.map(shown), ...(names.length > PAGE && { next: items.at(-1)?.name }) } };
  }

  #put(name: string, { settings, code, labels }: Fields): Answered {
    const isOurs = (labels as Fields | undefined)?.['managed-by'] === 'blueprint-runner';
    const fn = this.#functions.get(name) ?? stored(name, isOurs);
    if (typeof code !== 'string' && fn.versions.length === 0) return conflict('it has no code');
    if (typeof code === 'string') {
      fn.versions.push(versionOf(fn, Buffer.from(code, 'base64').toString('utf8')));
      fn.current = fn.versions.length - 1;
    }
    fn.settings = settings as Fields;
    fn.updatedAt = new Date().toISOString();
    this.#functions.set(name, fn);
    return DONE;
  }

  async #call(fn: Stored, event: Uint8Array, isAwaited: boolean): Promise<Answered> {
    const run = this.#installed.get(fn.name) ?? ((bytes: Uint8Array) => runSource(fn, bytes));
    if (!isAwaited) {
      run(event).catch((error: unknown) => void fn.lines.push(lineOf(fn, String(error), 'lost')));
      return { status: 202, json: {} };
    }
    const { body, failed } = await run(event);
    return { status: failed ? 500 : 200, body, headers: { 'x-function-failed': String(failed) } };
  }
}

function stored(name: string, isOurs: boolean): Stored {
  return { name, isOurs, settings: {}, versions: [], current: -1, updatedAt: '', schedules: new Map(), lines: [] };
}

function versionOf({ versions }: Stored, source: string): Stored['versions'][number] {
  const sha256 = createHash('sha256').update(source).digest('hex');
  return { version: String(versions.length + 1), sha256, createdAt: new Date().toISOString(), source };
}

function shown({ name, isOurs, settings, versions, current, updatedAt }: Stored): unknown {
  const { version = '0', sha256 = '' } = versions[current] ?? {};
  return { name, isOurs, settings, version, sha256, updatedAt };
}

function select(fn: Stored, { version }: Fields): Answered {
  const index = fn.versions.findIndex((each) => each.version === version);
  if (index < 0) return NOT_FOUND;
  fn.current = index;
  return DONE;
}

function conflict(message: string): Answered {
  return { status: 409, json: { error: { code: 'Conflict', message } } };
}

function lineOf({ lines }: Stored, message: string, requestId: string): Stored['lines'][number] {
  const { position = 0, at = 0 } = lines.at(-1) ?? {};
  return { at: Math.max(at + 1, Date.now()), message, position: position + 1, requestId };
}

/** The package is the text of a function of an event and an environment. */
async function runSource(fn: Stored, event: Uint8Array): ReturnType<Run> {
  const requestId = randomUUID();
  const log = (message: unknown): void => void fn.lines.push(lineOf(fn, String(message), requestId));
  try {
    const run = runInNewContext(`(${fn.versions[fn.current]?.source})`, { console: { log }, setTimeout }) as (
      event: unknown,
      environment: unknown,
    ) => Promise<unknown>;
    const answer = await run(JSON.parse(Buffer.from(event).toString('utf8')), fn.settings['environment'] ?? {});
    return { failed: false, body: Buffer.from(JSON.stringify(answer)) };
  } catch (error) {
    return { failed: true, body: Buffer.from(JSON.stringify({ error: String(error) })) };
  }
}

async function fieldsIn(request: IncomingMessage): Promise<Fields> {
  // The client of this package sends objects.
  return (await json(request)) as Fields;
}
