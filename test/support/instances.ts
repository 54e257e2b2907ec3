/** One instance of a backend with a Runtime API of its own, for tests of backends. */

import { randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { FunctionVersion, Instance, InstanceBackend, InstanceEnd } from '../../src/plugin.ts';

export interface Answer {
  readonly kind: 'response' | 'error' | 'init-error';
  readonly body: string;
}

export interface Launched {
  readonly instance: Instance;
  /** Resolves when it asked for work; rejects with how it ended and what it wrote when it ended first. */
  readonly ready: Promise<void>;
  /** Resolves with its answer, or with how it ended in the middle. */
  call(event: unknown): Promise<Answer | InstanceEnd>;
  /** All that it wrote so far. */
  output(): string;
}

export interface FunctionFiles {
  /** File name -> text. A name in `executable` may be run. */
  readonly files: Readonly<Record<string, string>>;
  readonly executable?: readonly string[];
}

/** A folder for one test file: code, sockets, state of backends. */
export class InstanceLab {
  #folder: string | undefined;
  readonly ownerId = `test-${randomUUID()}`;
  /** Ids of all that were launched. */
  readonly launched: string[] = [];
  readonly #closing: (() => Promise<void>)[] = [];

  /** Made on first use: the tests of a file may all be skipped. */
  get folder(): string {
    return (this.#folder ??= mkdtempSync(join(tmpdir(), 'instances-')));
  }

  /** A handler as `index.mjs`, or several files. */
  code(source: string | FunctionFiles): FunctionVersion['code'] & { readonly kind: 'folder' } {
    const { files, executable = [] } = typeof source === 'string' ? { files: { 'index.mjs': source } } : source;
    const path = join(this.folder, 'code', randomUUID());
    for (const [name, text] of Object.entries(files)) {
      const file = join(path, name);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, text, { mode: executable.includes(name) ? 0o755 : 0o644 });
    }
    chmodSync(path, 0o755);
    return { kind: 'folder', path, sha256: randomUUID() };
  }

  fn(source: string | FunctionFiles | FunctionVersion['code'], settings: Partial<FunctionVersion> = {}): FunctionVersion {
    const code = typeof source === 'object' && 'kind' in source ? source : this.code(source);
    return {
      name: 'probe',
      version: '$LATEST',
      fingerprint: randomUUID(),
      code,
      layers: [],
      runtime: `nodejs${process.versions.node.split('.')[0]}.x`,
      handler: 'index.handler',
      memoryMb: 256,
      timeoutMs: 10_000,
      ephemeralMb: 64,
      environment: {},
      concurrencyPerInstance: 1,
      network: 'none',
      ...settings,
    };
  }

  async launch(backend: InstanceBackend, fn: FunctionVersion, signal: AbortSignal = new AbortController().signal): Promise<Launched> {
    const instanceId = `i-${randomUUID()}`;
    this.launched.push(instanceId);
    const api = await startApi(join(this.folder, `${instanceId.slice(0, 12)}.sock`));
    this.#closing.push(api.close);
    let written = '';
    const instance = await backend.launch({
      instanceId,
      ownerId: this.ownerId,
      fn,
      runtimeApi: {
        socketPath: api.socketPath,
        listen: () => Promise.resolve(),
        openPort: () => Promise.reject(new Error('a container cannot reach a port of the machine')),
      },
      environment: {
        _HANDLER: fn.handler,
        LAMBDA_TASK_ROOT: '/var/task',
        PATH: '/var/lang/bin:/usr/local/bin:/usr/bin:/bin',
        NODE_PATH: '/opt/nodejs/node_modules',
        AWS_LAMBDA_FUNCTION_NAME: fn.name,
        AWS_LAMBDA_FUNCTION_MEMORY_SIZE: String(fn.memoryMb),
        ...fn.environment,
      },
      onOutput: (_stream, chunk) => {
        if (written.length < 10_000_000) written += Buffer.from(chunk).toString();
      },
      signal,
    });
    const ended = async (): Promise<never> => {
      throw new Error(`the instance ended: ${JSON.stringify(await instance.ended)}; it wrote: ${written}`);
    };
    this.#closing.push(() => backend.terminate(instance));
    const ready = Promise.race([api.ready, ended()]);
    ready.catch(() => {});
    return { instance, ready, output: () => written, call: (event) => Promise.race([api.call(event), instance.ended]) };
  }

  /** Launches, makes one call, ends it; resolves with the value that the handler returned. */
  async run(backend: InstanceBackend, fn: FunctionVersion, event: unknown = {}): Promise<unknown> {
    const launched = await this.launch(backend, fn);
    await launched.ready;
    const answer = await launched.call(event);
    await backend.terminate(launched.instance);
    if (!('kind' in answer) || answer.kind !== 'response') throw new Error(`${JSON.stringify(answer)}: ${launched.output()}`);
    return JSON.parse(answer.body) as unknown;
  }

  async close(): Promise<void> {
    await Promise.all(this.#closing.map((close) => close()));
    if (this.#folder !== undefined) await rm(this.#folder, { recursive: true, force: true });
  }
}

interface Api {
  readonly socketPath: string;
  readonly ready: Promise<void>;
  call(event: unknown): Promise<Answer>;
  close(): Promise<void>;
}

async function startApi(socketPath: string): Promise<Api> {
  const ready = Promise.withResolvers<void>();
  const polls: ServerResponse[] = [];
  const events: string[] = [];
  const answers: ((answer: Answer) => void)[] = [];
  let count = 0;
  const hand = (): void => {
    while (polls.length > 0 && events.length > 0) {
      count += 1;
      const headers = { 'lambda-runtime-aws-request-id': `request-${count}`, 'lambda-runtime-deadline-ms': String(Date.now() + 10_000) };
      polls
        .shift()
        ?.writeHead(200, { 'content-type': 'application/json', ...headers })
        .end(events.shift());
    }
  };
  const receive = (request: IncomingMessage, response: ServerResponse): void => {
    if (request.url?.endsWith('/next') === true) {
      polls.push(response);
      ready.resolve();
      hand();
      return;
    }
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      response.writeHead(202).end('{}');
      const kind =
        request.url?.endsWith('init/error') === true ? 'init-error' : request.url?.endsWith('/error') === true ? 'error' : 'response';
      answers.shift()?.({ kind, body: Buffer.concat(chunks).toString() });
    });
  };
  const server = createServer(receive);
  await new Promise<void>((resolve) => {
    server.listen(socketPath, resolve);
  });
  return {
    socketPath,
    ready: ready.promise,
    call: (event) =>
      new Promise((resolve) => {
        answers.push(resolve);
        events.push(JSON.stringify(event));
        hand();
      }),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
