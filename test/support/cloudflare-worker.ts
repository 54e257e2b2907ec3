/** One version of a Worker in a workerd process of its own, with what Cloudflare puts around it. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { workerdBinary } from './handler-platforms.ts';

export interface WorkerProcessOptions {
  readonly module: { readonly name: string; readonly source: Uint8Array };
  readonly bindings: readonly Readonly<Record<string, unknown>>[];
  readonly compatibilityDate: string;
  readonly compatibilityFlags: readonly string[];
  /** Gets what each invocation wrote, as JSON. */
  readonly traceUrl: string;
}

/** An exception that nobody catches is the page 1101 of the edge. Times come as `/cdn-cgi/scheduled/<cron>`. */
const DOOR = `export default {
  async fetch(request, env) {
    const [, cron] = /cdn-cgi\\/scheduled\\/(.*)$/.exec(request.url) ?? [];
    if (cron !== undefined) {
      const { outcome } = await env.HANDLER.scheduled({ cron: decodeURIComponent(cron), scheduledTime: new Date(0) });
      return new Response(outcome);
    }
    try {
      return await env.HANDLER.fetch(request);
    } catch {
      return new Response('error code: 1101', { status: 500, headers: { 'content-type': 'text/plain; charset=UTF-8' } });
    }
  },
};
`;

const TRACER = `export default {
  async tail(events, env) {
    await env.PLATFORM.fetch(env.URL, { method: 'POST', body: JSON.stringify(events) });
  },
};
`;

export class WorkerProcess {
  readonly started: Promise<void>;
  address = '';
  #directory = '';
  #child: ChildProcess | undefined;
  #ended: Promise<void> = Promise.resolve();

  constructor(options: WorkerProcessOptions) {
    this.started = this.#start(options);
  }

  async close(): Promise<void> {
    await this.started.catch(() => {});
    this.#child?.kill('SIGKILL');
    await this.#ended;
    await rm(this.#directory, { recursive: true, force: true });
  }

  async #start(options: WorkerProcessOptions): Promise<void> {
    this.#directory = await mkdtemp(join(tmpdir(), 'worker-'));
    await Promise.all([
      writeFile(join(this.#directory, 'main.mjs'), options.module.source),
      writeFile(join(this.#directory, 'door.mjs'), DOOR),
      writeFile(join(this.#directory, 'tracer.mjs'), TRACER),
      writeFile(join(this.#directory, 'workerd.capnp'), configuration(options)),
    ]);
    const child = spawn(workerdBinary, ['serve', '--experimental', '--control-fd=3', 'workerd.capnp'], {
      cwd: this.#directory,
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    });
    this.#child = child;
    this.#ended = new Promise((resolve) => child.once('close', () => resolve()));
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream?.on('data', (chunk: Buffer) => (output = (output + chunk.toString()).slice(-4_000)));
    const port = await new Promise<number>((resolve, reject) => {
      createInterface({ input: child.stdio[3] as Readable }).once('line', (line) => resolve((JSON.parse(line) as { port: number }).port));
      void this.#ended.then(() => reject(new Error(`workerd ended: ${output}`)));
    });
    this.address = `http://127.0.0.1:${port}`;
  }
}

const text = (value: unknown): string => JSON.stringify(value);

function configuration({ module, bindings, compatibilityDate, compatibilityFlags, traceUrl }: WorkerProcessOptions): string {
  const variables = bindings.flatMap(({ type, name, text: value }) =>
    type === 'plain_text' || type === 'secret_text' ? [`(name = ${text(name)}, text = ${text(value)})`] : [],
  );
  const { host } = new URL(traceUrl);
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "door", worker = .door),
    (name = "handler", worker = .handler),
    (name = "tracer", worker = .tracer),
    (name = "platform", external = (address = ${text(host)}, http = ())),
  ],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "door")],
);
const handler :Workerd.Worker = (
  modules = [(name = ${text(module.name)}, esModule = embed "main.mjs")],
  compatibilityDate = ${text(compatibilityDate)},
  compatibilityFlags = [${compatibilityFlags.map(text).join(', ')}],
  bindings = [${variables.join(', ')}],
  tails = ["tracer"],
);
const door :Workerd.Worker = (
  modules = [(name = "door.mjs", esModule = embed "door.mjs")],
  compatibilityDate = "2026-08-01",
  compatibilityFlags = ["service_binding_extra_handlers"],
  bindings = [(name = "HANDLER", service = "handler")],
);
const tracer :Workerd.Worker = (
  modules = [(name = "tracer.mjs", esModule = embed "tracer.mjs")],
  compatibilityDate = "2026-08-01",
  bindings = [(name = "PLATFORM", service = "platform"), (name = "URL", text = ${text(traceUrl)})],
);
`;
}
