/** What the cases for backends work with: a function, a Runtime API, and instances of the backend under test. */

import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { chmod, mkdtemp, mkdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { systemClock } from '../clock.ts';
import { instanceEnvironment } from '../runtime/environment.ts';
import { RuntimeApi } from '../runtime/runtime-api.ts';
import type { ApiCall } from '../runtime/runtime-api.ts';
import type { FunctionVersion, Instance, InstanceBackend, InstanceEnd } from '../runtime/runtime.ts';

export interface BackendUnderTest {
  readonly name: string;
  /** Makes a new backend; sometimes two in one case. */
  create(): InstanceBackend | Promise<InstanceBackend>;
  /** What runs the functions of the suite. Default `nodejs24.x`. */
  readonly runtime?: string;
  /** For runtimes that take no JavaScript: a package that does the same, as far as it can. */
  readonly program?: BackendProgram;
  /** Cases that cannot be passed, each with the reason, for people. */
  readonly skip?: Readonly<Record<string, string>>;
}

export interface BackendProgram {
  /** By name. */
  readonly files: Readonly<Record<string, Uint8Array>>;
  readonly handler: string;
  /** False: it does not speak to the Runtime API itself, and is not told where it is. */
  readonly seesRuntimeApi: boolean;
}

/** The function of the suite. */
const HANDLER = `
import { spawn } from 'node:child_process';
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
const init = process.env.CONFORMANCE_INIT;
if (init === 'exit') { console.log('last words'); process.exit(7); }
if (init === 'hang') await new Promise(() => setInterval(() => {}, 1000));
process.on('SIGTERM', () => {});
const reach = (target) => new Promise((resolve) => {
  const socket = connect(target);
  const done = (answer) => { socket.destroy(); resolve(answer); };
  socket.once('connect', () => done('reached'));
  socket.once('error', (error) => done(error.code));
  socket.setTimeout(1500, () => done('silent'));
});
const attempt = (action) => { try { action(); return 'done'; } catch (error) { return error.code ?? String(error); } };
const actions = {
  echo: ({ value }) => value,
  environment: () => process.env,
  print: ({ stdout = '', stderr = '' }) => { process.stdout.write(stdout); process.stderr.write(stderr); return null; },
  flood: async ({ bytes }) => {
    const line = 'x'.repeat(1023) + '\\n';
    for (let sent = 0; sent < bytes; sent += 1024) await new Promise((resolve) => process.stdout.write(line, resolve));
    return bytes;
  },
  exit: ({ status }) => { console.log('last words'); process.exit(status); },
  abort: () => process.abort(),
  spin: () => { for (;;); },
  memory: () => { const kept = []; for (;;) kept.push(Buffer.alloc(8 * 1024 * 1024, 1)); },
  children: () => new Promise((resolve) => {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => process.stdout.write("."), 20)'], { detached: true, stdio: ['ignore', 'inherit', 'inherit'] });
    child.once('spawn', () => resolve('spawned'));
    child.once('error', (error) => resolve(error.code));
  }),
  reach: ({ target }) => reach(target),
  write: ({ path }) => attempt(() => writeFileSync(path, 'x')),
  writeCode: () => attempt(() => writeFileSync(new URL('written', import.meta.url), 'x')),
  read: ({ path }) => attempt(() => readFileSync(path)),
  fill: ({ path, mb }) => attempt(() => { const block = Buffer.alloc(1024 * 1024, 1); for (let index = 0; index < mb; index += 1) appendFileSync(path, block); }),
};
export const handler = async (event) => actions[event.do](event);
`;

const READY_MS_MAX = 30_000;
export const MEMORY_MB = 128;

/** Fails instead of waiting for ever. */
export async function within<T>(what: string, promise: Promise<T>): Promise<T> {
  const late = new AbortController();
  try {
    return await Promise.race([
      promise,
      systemClock.sleep(READY_MS_MAX, late.signal).then(() => assert.fail(`${what} takes longer than ${READY_MS_MAX} ms`)),
    ]);
  } finally {
    late.abort();
  }
}

/** An instance of the suite, ready or not. */
export class SuiteInstance {
  readonly instance: Instance;
  readonly api: RuntimeApi;
  readonly socketPath: string;
  readonly ready: Promise<void>;
  readonly #over: Promise<never>;
  readonly #output: { readonly stdout: Buffer[]; readonly stderr: Buffer[] };

  constructor(parts: InstanceParts) {
    this.instance = parts.instance;
    this.api = parts.api;
    this.socketPath = parts.socketPath;
    this.#over = parts.over;
    this.ready = this.#within('getting ready', parts.ready);
    this.ready.catch(() => {});
    this.#output = parts.output;
  }

  output(stream: 'stdout' | 'stderr'): string {
    return Buffer.concat(this.#output[stream]).toString('utf8');
  }

  /** Resolves with what the function returned. */
  async call(event: Readonly<Record<string, unknown>>): Promise<unknown> {
    await this.ready;
    return this.#within(`the call ${JSON.stringify(event).slice(0, 100)}`, this.hand(event));
  }

  hand(event: Readonly<Record<string, unknown>>): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      const requestId = randomUUID();
      const body = Buffer.from(JSON.stringify(event));
      const call: ApiCall = {
        requestId,
        event: body,
        isAnswering: false,
        taken: () => ({
          contentType: 'application/json',
          deadline: systemClock.now() + READY_MS_MAX,
          functionArn: undefined,
          traceId: undefined,
          clientContext: undefined,
        }),
        answering: () => Number.POSITIVE_INFINITY,
        chunk: (data) => void chunks.push(data),
        answered: () => resolve(JSON.parse(Buffer.concat(chunks).toString('utf8'))),
        failed: ({ errorType, errorMessage }) =>
          reject(new assert.AssertionError({ message: `the function failed: ${errorType}: ${errorMessage}` })),
        tooLarge: () => reject(new assert.AssertionError({ message: 'the answer is too large' })),
        truncated: () => reject(new assert.AssertionError({ message: 'the connection broke' })),
        violated: (reason) => reject(new assert.AssertionError({ message: `the client broke the protocol: ${reason}` })),
      };
      this.api.hand(call);
    });
  }

  /** What it ended with. */
  end(): Promise<InstanceEnd> {
    return this.#within('the end', this.instance.ended);
  }

  /** Not longer than the case: what nobody waits for any more keeps no process. */
  #within<T>(what: string, promise: Promise<T>): Promise<T> {
    return within(what, Promise.race([promise, this.#over]));
  }
}

interface InstanceParts extends Pick<SuiteInstance, 'instance' | 'api' | 'socketPath' | 'ready'> {
  /** Rejects at the end of the case. */
  readonly over: Promise<never>;
  readonly output: { readonly stdout: Buffer[]; readonly stderr: Buffer[] };
}

interface LaunchOptions {
  readonly fn?: Partial<FunctionVersion>;
  readonly ownerId?: string;
  readonly signal?: AbortSignal;
  readonly backend?: InstanceBackend;
}

/** What a case works with; everything that it makes is removed after the case. */
export class BackendBench {
  readonly backend: InstanceBackend;
  readonly ownerId = `conformance-${randomUUID()}`;
  readonly #subject: BackendUnderTest;
  readonly #folder: string;
  readonly #cleanups: (() => Promise<unknown>)[] = [];
  readonly #over = Promise.withResolvers<never>();

  private constructor(subject: BackendUnderTest, backend: InstanceBackend, folder: string) {
    this.#over.promise.catch(() => {});
    this.#subject = subject;
    this.backend = backend;
    this.#folder = folder;
  }

  static async open(subject: BackendUnderTest): Promise<BackendBench> {
    const folder = await mkdtemp(join(tmpdir(), 'bc-'));
    await chmod(folder, 0o711);
    await mkdir(join(folder, 'code'), { mode: 0o755 });
    const files: Readonly<Record<string, Uint8Array | string>> = subject.program?.files ?? { 'index.mjs': HANDLER };
    for (const [name, data] of Object.entries(files)) await writeFile(join(folder, 'code', name), data, { mode: 0o644 });
    return new BackendBench(subject, await subject.create(), folder);
  }

  /** The program of an instance is told where its Runtime API is. */
  get seesRuntimeApi(): boolean {
    return this.#subject.program?.seesRuntimeApi ?? true;
  }

  fn(overrides: Partial<FunctionVersion> = {}): FunctionVersion {
    const code = { kind: 'folder', path: join(this.#folder, 'code'), sha256: 'c0de' } as const;
    return {
      name: 'conformance',
      version: '$LATEST',
      fingerprint: `conformance-${MEMORY_MB}`,
      code,
      layers: [],
      runtime: this.#subject.runtime ?? 'nodejs24.x',
      handler: this.#subject.program?.handler ?? 'index.handler',
      memoryMb: MEMORY_MB,
      timeoutMs: 60_000,
      ephemeralMb: 512,
      environment: {},
      concurrencyPerInstance: 1,
      network: 'none',
      ...overrides,
    };
  }

  /** As a process that starts after this one. */
  async another(): Promise<InstanceBackend> {
    const backend = await this.#subject.create();
    this.#cleanups.push(async () => backend.close?.());
    return backend;
  }

  async launch(options: LaunchOptions = {}): Promise<SuiteInstance> {
    const { backend = this.backend, ownerId = this.ownerId, signal = new AbortController().signal } = options;
    const fn = this.fn(options.fn);
    const key = randomBytes(6).toString('hex');
    const socketPath = join(this.#folder, key, 'api');
    await mkdir(dirname(socketPath), { mode: 0o700 });
    const output = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
    const ready = Promise.withResolvers<void>();
    const initFailed = (fault: { readonly errorMessage: string }): void => ready.reject(new Error(`init error: ${fault.errorMessage}`));
    const violated = (reason: string): void => ready.reject(new Error(reason));
    const api = new RuntimeApi({ ready: ready.resolve, initFailed, violated }, fn.concurrencyPerInstance);
    await api.listen(socketPath);
    this.#cleanups.push(() => api.close());
    const instance = await backend.launch({
      instanceId: `conformance-${key}`,
      ownerId,
      fn,
      runtimeApi: { socketPath, listen: () => Promise.resolve(), openPort: () => api.openPort() },
      environment: instanceEnvironment(fn, { instanceId: key, startedAt: systemClock.now() }),
      onOutput: (stream, chunk) => void output[stream].push(Buffer.from(chunk)),
      signal,
    });
    this.#cleanups.push(() => backend.terminate(instance));
    return new SuiteInstance({ instance, api, socketPath, ready: ready.promise, over: this.#over.promise, output });
  }

  async close(): Promise<void> {
    for (const cleanup of this.#cleanups.toReversed()) await cleanup();
    await this.backend.close?.();
    this.#over.reject(new Error('the case is over'));
    await rm(this.#folder, { recursive: true, force: true });
  }
}
