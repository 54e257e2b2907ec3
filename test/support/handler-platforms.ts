/** The platforms that run a handler package, each the real thing or its contract, ready to be sent requests. */

import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { unzipSync } from 'fflate';
import type { HandlerCaseAnswer, HandlerCaseRequest, HandlerPlatform } from '../../src/conformance/handler.ts';
import { packageFor } from '../../src/deploy/package-platform.ts';
import type { PackagePlatform } from '../../src/deploy/package-platform.ts';
import { readModules } from '../../src/deploy/dependencies.ts';
import { reservedPort } from './reserved-port.ts';
import { temporaryFolder } from './temporary-folders.ts';
import { call, keepAliveAgent, start } from '../fixtures/handler/process.ts';
import type { HandlerProcess } from '../fixtures/handler/process.ts';

export interface OpenPlatform extends HandlerPlatform {
  close(): Promise<void>;
}

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../..');
const fixture = (name: string): string => join(ROOT, 'test/fixtures/handler', name);

/** The package for the platform, unpacked. */
export async function unpackedFor(platform: PackagePlatform, zipFile: string): Promise<string> {
  const modules = platform === 'azure' ? { modules: await readModules(['@azure/functions'], ROOT) } : {};
  const { zip } = await packageFor(platform, readFileSync(zipFile), modules);
  const directory = temporaryFolder(`package-${platform}`);
  for (const [name, data] of Object.entries(unzipSync(zip))) {
    mkdirSync(dirname(join(directory, name)), { recursive: true });
    writeFileSync(join(directory, name), data, { mode: name === 'bootstrap' ? 0o755 : 0o644 });
  }
  return directory;
}

export interface FrameworkOptions {
  readonly signature?: 'http' | 'cloudevent' | 'event';
  readonly env?: Readonly<Record<string, string>>;
}

export interface Server {
  readonly address: string;
  readonly output: () => string;
  close(): Promise<void>;
}

/** The real functions-framework of Google Cloud on a package. */
export async function functionsFramework(directory: string, { signature = 'http', env = {} }: FrameworkOptions = {}): Promise<Server> {
  const main = join(ROOT, 'node_modules/@google-cloud/functions-framework/build/src/main.js');
  const port = await reservedPort();
  const args = [main, `--source=${directory}`, '--target=handler', `--signature-type=${signature}`, `--port=${port}`];
  const child = spawn(process.execPath, args, { env: { PATH: '/usr/bin:/bin', ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  const exit = new Promise<void>((resolve) => child.once('close', () => resolve()));
  let output = '';
  await new Promise<void>((resolve, reject) => {
    const read = (chunk: Buffer): void => {
      output += chunk.toString();
      if (output.includes('URL: ')) resolve();
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    void exit.then(() => reject(new Error(`the functions-framework ended: ${output}`)));
  });
  return {
    address: `http://127.0.0.1:${port}`,
    output: () => output,
    async close() {
      child.kill('SIGKILL');
      await exit;
    },
  };
}

export const workerdBinary = join(ROOT, 'node_modules/@cloudflare/workerd-linux-64/bin/workerd');

/** Sends the times of `/cdn-cgi/scheduled/<cron>` to the handler, everything else as it is. */
const DOOR = `export default {
  async fetch(request, env) {
    const [, cron] = /scheduled\\/(.*)$/.exec(request.url) ?? [];
    if (cron === undefined) return env.HANDLER.fetch(request);
    const { outcome } = await env.HANDLER.scheduled({ cron: decodeURIComponent(cron), scheduledTime: new Date(0) });
    return new Response(outcome);
  },
};
`;

/** The real runtime of Cloudflare Workers on a package. */
export async function workerd(directory: string, env: Readonly<Record<string, string>> = {}): Promise<Server> {
  const bindings = Object.entries(env).map(([name, text]) => `(name = ${JSON.stringify(name)}, text = ${JSON.stringify(text)})`);
  const worker = (module: string, flags: string, bound: readonly string[]): string =>
    `(modules = [(name = "${module}", esModule = embed "${module}")], compatibilityDate = "2026-08-01", compatibilityFlags = [${flags}], bindings = [${bound.join(', ')}])`;
  writeFileSync(join(directory, 'door.mjs'), DOOR);
  writeFileSync(
    join(directory, 'workerd.capnp'),
    `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "door", worker = .door), (name = "handler", worker = .handler)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "door")],
);
const handler :Workerd.Worker = ${worker('handler.mjs', '"nodejs_compat"', bindings)};
const door :Workerd.Worker = ${worker('door.mjs', '"service_binding_extra_handlers"', ['(name = "HANDLER", service = "handler")'])};
`,
  );
  const child = spawn(workerdBinary, ['serve', '--experimental', '--control-fd=3', 'workerd.capnp'], {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  });
  const exit = new Promise<void>((resolve) => child.once('close', () => resolve()));
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const port = await new Promise<number>((resolve, reject) => {
    createInterface({ input: child.stdio[3] as Readable }).once('line', (line) => resolve((JSON.parse(line) as { port: number }).port));
    void exit.then(() => reject(new Error(`workerd ended: ${output}`)));
  });
  return {
    address: `http://127.0.0.1:${port}`,
    output: () => output,
    async close() {
      child.kill('SIGKILL');
      await exit;
    },
  };
}

/** A platform that is reached over HTTP with the routes of the handler. */
export function overHttp(server: Server, offers: HandlerPlatform['offers'] = ['http', 'text', 'large']): OpenPlatform {
  const agent = keepAliveAgent();
  return {
    offers,
    send: ({ headers, jobId, body }) =>
      call(server.address, { agent, headers, path: jobId === undefined ? '/invoke' : `/job/${jobId}` }, body),
    async close() {
      agent.destroy();
      await server.close();
    },
  };
}

interface Bytes {
  readonly base64: string;
}
const bytes = (body: Uint8Array): Bytes => ({ base64: Buffer.from(body).toString('base64') });

export interface AzureWorker {
  readonly started: {
    readonly model: string;
    readonly functions: readonly { readonly name: string; readonly bindings: Readonly<Record<string, object>> }[];
  };
  invoke(invocation: {
    readonly name: string;
    readonly trigger: string;
    readonly data: unknown;
  }): Promise<{ readonly returnValue?: unknown }>;
  readonly process: HandlerProcess;
}

/** Real `@azure/functions` registrations, with a worker of ours around them. */
export async function azureWorker(directory: string, env: Readonly<Record<string, string>> = {}): Promise<AzureWorker> {
  const worker = start(fixture('azure-worker.mjs'), {
    args: [join(directory, 'handler.mjs')],
    env: { FUNCTIONS_WORKER_RUNTIME: 'node', ...env },
  });
  const next = async (): Promise<unknown> => {
    const { value, done } = (await worker.replies.next()) as IteratorResult<string, undefined>;
    if (done === true) throw new Error(`the worker ended: ${worker.stderr()}`);
    return JSON.parse(value);
  };
  const started = (await next()) as AzureWorker['started'];
  return {
    started,
    process: worker,
    async invoke(invocation) {
      worker.child.stdin.write(`${JSON.stringify(invocation)}\n`);
      return (await next()) as { returnValue?: unknown };
    },
  };
}

export function azureModel({ invoke, process: worker }: AzureWorker): OpenPlatform {
  return {
    offers: ['http', 'text', 'large'],
    async send({ headers, jobId, body }) {
      const url = `https://app.azurewebsites.net${jobId === undefined ? '/invoke' : `/job/${jobId}`}`;
      const data = { http: { url, method: 'POST', headers, query: {}, params: {}, body: { bytes: bytes(body) } } };
      const { returnValue } = await invoke({ name: 'call', trigger: 'httpTrigger', data });
      const { http } = returnValue as { http: { statusCode: string; body?: { bytes?: Bytes; string?: string } } };
      return { status: Number(http.statusCode), body: Buffer.from(http.body?.bytes?.base64 ?? '', 'base64') };
    },
    close: () => worker.stop(),
  };
}

/** What the host sends to a custom handler that gets no forwarded requests. */
export function hostInvocation({ headers, jobId, body }: HandlerCaseRequest): object {
  return {
    Data: {
      req: {
        Url: `http://app.azurewebsites.net${jobId === undefined ? '/invoke' : `/job/${jobId}`}`,
        Method: 'POST',
        Query: '{}',
        Headers: Object.fromEntries(
          Object.entries(headers).map(([name, value]) => [name.replace('content-type', 'Content-Type'), [value]]),
        ),
        Params: {},
        Body: Buffer.from(body).toString(),
      },
    },
    Metadata: { sys: { MethodName: 'call', UtcNow: '2026-11-21T00:00:00Z', RandGuid: '1' } },
  };
}

export interface OpenWhisk {
  run(
    value: unknown,
    context?: Readonly<Record<string, string>>,
  ): Promise<{ readonly status: number; readonly result: Record<string, unknown> }>;
  close(): Promise<void>;
}

/** The contract of the Node runtime of OpenWhisk. */
export async function openWhisk(zip: Uint8Array): Promise<OpenWhisk> {
  const runtime = start(fixture('openwhisk-runtime.cjs'), { env: { TMPDIR: temporaryFolder('action') } });
  const address = `http://127.0.0.1:${String((await runtime.replies.next()).value)}`;
  const post = async (path: string, value: unknown): Promise<{ status: number; result: Record<string, unknown> }> => {
    const { status, body } = await call(address, { path }, Buffer.from(JSON.stringify(value)));
    return { status, result: JSON.parse(body.toString()) as Record<string, unknown> };
  };
  const { status, result } = await post('/init', {
    value: { name: 'f', main: 'main', binary: true, code: Buffer.from(zip).toString('base64') },
  });
  if (status !== 200) throw new Error(String(result['error']));
  return { run: (value, context = {}) => post('/run', { value, activation_id: 'a', ...context }), close: () => runtime.stop() };
}

/** A raw web action, as the controller of OpenWhisk gives it a request and reads its answer. */
export function webAction({ run, close }: OpenWhisk): OpenPlatform {
  return {
    offers: ['http', 'text', 'large'],
    async send({ headers, jobId, body }): Promise<HandlerCaseAnswer> {
      const { result } = await run({
        __ow_method: 'post',
        __ow_headers: headers,
        __ow_path: jobId === undefined ? '' : `/job/${jobId}`,
        __ow_query: '',
        __ow_body: Buffer.from(body).toString('base64'),
        __ow_isBase64Encoded: true,
      });
      const content = result['body'];
      return {
        status: result['statusCode'] as number,
        body: typeof content === 'string' ? Buffer.from(content, 'base64') : Buffer.from(JSON.stringify(content)),
      };
    },
    close,
  };
}

/** An action that is no web action: its parameters are the request, its result is the answer. */
export function plainAction({ run, close }: OpenWhisk): OpenPlatform {
  return {
    offers: [],
    send: async ({ body }) => ({ body: Buffer.from(JSON.stringify((await run(JSON.parse(Buffer.from(body).toString()))).result)) }),
    close,
  };
}

export const hasWorkerd = (): void => {
  if (!existsSync(workerdBinary)) throw new Error(`there is no ${workerdBinary}`);
};
