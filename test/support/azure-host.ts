/** An app of Azure for tests: unpacks what was deployed to it and runs it, through the Node model v4 or as a custom handler. */

import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { unzipSync } from 'fflate';
import { start } from '../fixtures/handler/process.ts';
import type { HandlerProcess } from '../fixtures/handler/process.ts';

export interface HostRequest {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

export interface HostAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

/** One package with one environment. */
export interface Instance {
  /** Of its functions; those with a schedule are timers. */
  functions(): Promise<readonly { readonly name: string; readonly schedule: string | undefined }[]>;
  answer(request: HostRequest): Promise<HostAnswer>;
  fire(name: string): Promise<void>;
  stop(): Promise<void>;
}

export interface InstanceOptions {
  readonly zip: Uint8Array;
  readonly runtime: string;
  readonly settings: Readonly<Record<string, string>>;
  readonly log: (line: string) => void;
}

const WORKER = join(import.meta.dirname, '../fixtures/handler/azure-worker.mjs');

function unpack(zip: Uint8Array): string {
  const directory = mkdtempSync(join(tmpdir(), 'azure-app-'));
  for (const [name, data] of Object.entries(unzipSync(zip))) {
    if (name.endsWith('/')) continue;
    mkdirSync(dirname(join(directory, name)), { recursive: true });
    writeFileSync(join(directory, name), data);
    if (name === 'bootstrap') chmodSync(join(directory, name), 0o755);
  }
  return directory;
}

/** Throws when the package is none: it has no `host.json` of version 2. */
export function checkPackage(zip: Uint8Array): void {
  const host = unzipSync(zip, { filter: ({ name }) => name === 'host.json' })['host.json'];
  if (!host) throw new Error('host.json is missing in the package');
  const { version } = JSON.parse(Buffer.from(host).toString()) as { version?: string };
  if (version !== '2.0') throw new Error(`host.json has the version ${version}`);
}

export function startInstance(options: InstanceOptions): Instance {
  const directory = unpack(options.zip);
  const instance = options.runtime === 'custom' ? new CustomInstance(directory, options) : new NodeInstance(directory, options);
  return {
    functions: () => instance.functions(),
    answer: (request) => instance.answer(request),
    fire: (name) => instance.fire(name),
    async stop() {
      await instance.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function logLines(process: HandlerProcess, log: (line: string) => void): void {
  for (const stream of [process.child.stdout, process.child.stderr]) {
    let rest = '';
    stream.on('data', (chunk: Buffer) => {
      const lines = (rest + chunk.toString()).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) log(line);
    });
  }
}

interface Registered {
  readonly name: string;
  readonly bindings: Readonly<
    Record<string, { readonly type: string; readonly authLevel?: string; readonly methods?: readonly string[]; readonly schedule?: string }>
  >;
}

interface WorkerReply {
  readonly id: number;
  readonly error?: string;
  readonly returnValue?: {
    readonly http?: {
      readonly statusCode: string;
      readonly headers?: Readonly<Record<string, string>>;
      readonly body?: { readonly bytes?: { readonly base64: string }; readonly string?: string };
    };
  };
}

class NodeInstance implements Omit<Instance, 'stop'> {
  readonly #worker: HandlerProcess;
  readonly #started: Promise<readonly Registered[]>;
  readonly #waiting = new Map<number, (reply: WorkerReply) => void>();
  #last = 0;

  constructor(directory: string, { settings, log }: InstanceOptions) {
    const { main } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')) as { main: string };
    this.#worker = start(WORKER, { args: [join(directory, main)], env: { ...settings } });
    logLines(this.#worker, log);
    this.#started = this.#read();
    this.#started.catch(() => {});
  }

  async functions(): Promise<readonly { readonly name: string; readonly schedule: string | undefined }[]> {
    return (await this.#started).map(({ name, bindings }) => ({
      name,
      schedule: Object.values(bindings).find(({ type }) => type === 'timerTrigger')?.schedule,
    }));
  }

  async answer({ method, path, headers, body }: HostRequest): Promise<HostAnswer> {
    const http = (await this.#started).find(({ bindings }) => Object.values(bindings).some(({ type }) => type === 'httpTrigger'));
    const methods = Object.values(http?.bindings ?? {}).flatMap((each) => each.methods ?? []);
    if (!http || !methods.some((each) => each.toUpperCase() === method)) return { status: 404, headers: {}, body: Buffer.alloc(0) };
    const flat = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value)]));
    const data = {
      http: {
        url: `https://app.azurewebsites.net${path}`,
        method,
        headers: flat,
        query: {},
        params: {},
        body: { bytes: { base64: body.toString('base64') } },
      },
    };
    const { error, returnValue } = await this.#invoke({ name: http.name, trigger: 'httpTrigger', data });
    // The host tells nobody what a function threw.
    if (error !== undefined) return { status: 500, headers: {}, body: Buffer.alloc(0) };
    const answer = returnValue?.http;
    const bytes = answer?.body?.bytes ? Buffer.from(answer.body.bytes.base64, 'base64') : Buffer.from(answer?.body?.string ?? '');
    return { status: Number(answer?.statusCode), headers: answer?.headers ?? {}, body: bytes };
  }

  async fire(name: string): Promise<void> {
    const timer = { Schedule: { AdjustForDST: true }, ScheduleStatus: null, IsPastDue: false };
    const { error } = await this.#invoke({ name, trigger: 'timerTrigger', data: { json: JSON.stringify(timer) } });
    if (error !== undefined) throw new Error(error);
  }

  stop(): Promise<void> {
    return this.#worker.stop();
  }

  async #read(): Promise<readonly Registered[]> {
    const first = (await this.#worker.replies.next()) as IteratorResult<string, undefined>;
    if (first.done === true) throw new Error(`the worker ended: ${this.#worker.stderr()}`);
    const { functions } = JSON.parse(first.value) as { functions: readonly Registered[] };
    void this.#listen();
    return functions;
  }

  async #listen(): Promise<void> {
    for (;;) {
      const next = (await this.#worker.replies.next()) as IteratorResult<string, undefined>;
      if (next.done === true) break;
      const reply = JSON.parse(next.value) as WorkerReply;
      this.#waiting.get(reply.id)?.(reply);
      this.#waiting.delete(reply.id);
    }
    for (const [id, settle] of this.#waiting) settle({ id, error: 'the worker ended' });
  }

  #invoke(invocation: { readonly name: string; readonly trigger: string; readonly data: unknown }): Promise<WorkerReply> {
    this.#last += 1;
    const id = this.#last;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.#worker.child.stdin.write(`${JSON.stringify({ id, ...invocation })}\n`);
    });
  }
}

/** The host forwards HTTP requests as they are, when `host.json` says so. */
class CustomInstance implements Omit<Instance, 'stop'> {
  readonly #process: HandlerProcess;
  readonly #directory: string;

  constructor(directory: string, { settings, log }: InstanceOptions) {
    this.#directory = directory;
    const { customHandler } = JSON.parse(readFileSync(join(directory, 'host.json'), 'utf8')) as {
      customHandler: { description: { defaultExecutablePath: string }; enableForwardingHttpRequest?: boolean };
    };
    if (!customHandler.enableForwardingHttpRequest) throw new Error('only handlers of forwarded requests are run here');
    const executable = join(directory, customHandler.description.defaultExecutablePath);
    this.#process = start(executable, { executable, env: { ...settings, FUNCTIONS_CUSTOMHANDLER_PORT: '0' } });
    logLines(this.#process, log);
  }

  async functions(): Promise<readonly { readonly name: string; readonly schedule: string | undefined }[]> {
    await this.#process.address;
    return existsSync(join(this.#directory, 'call/function.json')) ? [{ name: 'call', schedule: undefined }] : [];
  }

  async answer({ method, path, headers, body }: HostRequest): Promise<HostAnswer> {
    const { hostname, port } = new URL(await this.#process.address);
    const { host: _, 'transfer-encoding': __, ...rest } = headers;
    return new Promise((resolve, reject) => {
      const outgoing = httpRequest({ hostname, port, method, path, headers: { ...rest, 'content-length': body.length } }, (incoming) => {
        const { 'transfer-encoding': ___, connection: ____, ...answered } = incoming.headers;
        const flat = Object.fromEntries(Object.entries(answered).map(([name, value]) => [name, String(value)]));
        buffer(incoming).then((all) => resolve({ status: incoming.statusCode ?? 502, headers: flat, body: all }), reject);
      });
      outgoing.on('error', reject);
      outgoing.end(body);
    });
  }

  fire(name: string): Promise<void> {
    return Promise.reject(new Error(`the package has no timer ${name}`));
  }

  stop(): Promise<void> {
    return this.#process.stop();
  }
}
