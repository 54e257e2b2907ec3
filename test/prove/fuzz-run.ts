/** Fuzzes a gateway of its own: seeded, over raw connections, with probes in between. */

import { existsSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { FunctionStore } from '../../src/runtime/store.ts';
import { Random } from '../../src/testing/fake-clock.ts';
import { FuzzedGateway } from './fuzz-child.ts';
import type { Figures } from './fuzz-gateway.ts';
import { ADMIN, framed, handshakeInput, httpInput } from './fuzz-http.ts';
import type { Input } from './fuzz-http.ts';
import { faultOf, faultOfRuntime } from './fuzz-judge.ts';
import { KeptConnection } from './fuzz-kept.ts';
import { HostileInstances } from './fuzz-runtime-api.ts';
import { fieldsInput, targetsOf } from './fuzz-values.ts';
import type { Target } from './fuzz-values.ts';
import { RawWebSocket, framesInput } from './fuzz-websocket.ts';
import { exchange, requestsIn } from './fuzz-wire.ts';
import { ESCAPED, soundZip, zipInput } from './fuzz-zip.ts';

export interface FuzzOptions {
  readonly seed: number;
  readonly inputs: number;
  /** Inputs to be sent alone, by number. */
  readonly only?: readonly number[];
  readonly onProgress?: (line: string) => void;
}

export interface Failure {
  readonly input: number;
  readonly what: string;
  readonly fault: string;
  readonly hex: string;
}

export interface FuzzReport {
  /** By kind of input, then by what came of it. */
  readonly counts: ReadonlyMap<string, ReadonlyMap<string, number>>;
  readonly failures: readonly Failure[];
  readonly failed: number;
  /** Inputs before the first figures. */
  readonly warmUp: number;
  readonly before: Figures;
  readonly after: Figures;
  readonly seconds: number;
  /** Milliseconds: median of the probes of each half. */
  readonly probes: { readonly count: number; readonly firstHalfMs: number; readonly secondHalfMs: number };
  /** What the process wrote to stderr. */
  readonly stderr: string;
  readonly exit: number | string;
  /** Files that are where none may be. */
  readonly strays: readonly string[];
  /** Packages that are still stored when no function refers to them. */
  readonly packages: number;
}

const KINDS = ['bytes', 'handshake', 'fields', 'zip', 'websocket', 'runtime'] as const;
type Kind = (typeof KINDS)[number];
const WEIGHTS: Readonly<Record<Kind, number>> = { bytes: 14, handshake: 2, fields: 56, zip: 7, websocket: 17, runtime: 4 };
const WHEEL: readonly Kind[] = KINDS.flatMap((kind) => Array.from({ length: WEIGHTS[kind] }, () => kind));
/** What a long run sends before it is first measured. */
export const WARM_UP_INPUTS = 100_000;
const LANES = 20;
const BACKGROUND_MAX = 256;
/** Calls of hostile instances at the same time: as many as there are instances. */
const CALLS = 8;
const BATCH = 32;
const PROBE_EVERY = 1_000;
const FAILURES_SHOWN = 100;
const KEPT = new Set(['fuzz-call', 'fuzz-set', 'fuzz-raw', 'probe']);

/** One run. */
class Fuzz {
  readonly #options: FuzzOptions;
  readonly #gateway = new FuzzedGateway();
  readonly #counts = new Map<string, Map<string, number>>();
  readonly #failures: Failure[] = [];
  readonly #probesMs: number[] = [];
  #targets: readonly Target[] = [];
  #failed = 0;
  #next = 0;
  readonly #calls = new Set<Promise<void>>();
  readonly #background = new Set<Promise<void>>();
  #probing: Promise<void> = Promise.resolve();
  #tidy!: KeptConnection;
  #instances!: HostileInstances;

  constructor(options: FuzzOptions) {
    this.#options = options;
  }

  async run(): Promise<FuzzReport> {
    const gateway = this.#gateway;
    await gateway.start();
    this.#tidy = new KeptConnection(gateway.port);
    this.#instances = new HostileInstances(() => this.#callRaw());
    gateway.instances = this.#instances;
    await this.#prepare();
    const { inputs, only } = this.#options;
    if (only)
      await Promise.all(only.map(async (index) => this.#batch([index], { kept: this.#tidy, socket: new RawWebSocket(gateway.port) })));
    const last = only ? 0 : inputs;
    const warmUp = Math.min(WARM_UP_INPUTS, Math.ceil(last / 4));
    const startedAt = performance.now();
    await this.#lanes(warmUp);
    const before = await this.#settled();
    await this.#lanes(last);
    const after = await this.#settled();
    const seconds = (performance.now() - startedAt) / 1_000;
    this.#tidy.end();
    const exit = await gateway.end();
    const half = Math.ceil(this.#probesMs.length / 2);
    const report = {
      warmUp,
      counts: this.#counts,
      failures: this.#failures,
      failed: this.#failed,
      before,
      after,
      seconds,
      probes: {
        count: this.#probesMs.length,
        firstHalfMs: median(this.#probesMs.slice(0, half)),
        secondHalfMs: median(this.#probesMs.slice(half)),
      },
      stderr: gateway.stderr,
      exit,
      strays: this.#strays(),
      packages: await this.#packages(),
    };
    rmSync(gateway.folder, { recursive: true, force: true });
    return report;
  }

  async #prepare(): Promise<void> {
    const document = await this.#tidy.send(framed({ target: '/openapi.json' }));
    this.#targets = targetsOf(document.body.toString());
    for (const name of ['fuzz-call', 'fuzz-set']) await this.#deploy(name, 'here');
    await this.#deploy('fuzz-raw', 'raw');
    await this.#deploy('probe', 'process');
    await this.#probe();
    this.#probesMs.length = 0;
  }

  async #deploy(name: string, backend: string): Promise<void> {
    const { status, body } = await this.#tidy.send(deployment(name, backend));
    if (status !== 201 && status !== 200) throw new Error(`${name} was not deployed: ${status} ${body.toString()}`);
  }

  async #lanes(end: number): Promise<void> {
    const lane = async (): Promise<void> => {
      const parts = { kept: new KeptConnection(this.#gateway.port), socket: new RawWebSocket(this.#gateway.port) };
      while (this.#next < end && !this.#gateway.hasEnded) {
        const from = this.#next;
        const to = Math.min(end, from + BATCH);
        this.#next = to;
        await this.#batch(
          Array.from({ length: to - from }, (_, index) => from + index),
          parts,
        );
        if (Math.floor(to / PROBE_EVERY) > Math.floor(from / PROBE_EVERY))
          this.#probing = this.#probing.then(() => this.#probe()).catch((error: unknown) => this.#broke('probe', error));
      }
      parts.kept.end();
      parts.socket.end();
    };
    await Promise.all(Array.from({ length: LANES }, lane));
    await this.#probing;
    await Promise.all([...this.#background, ...this.#calls]);
    await Promise.all(this.#calls);
  }

  async #batch(indexes: readonly number[], parts: Lane): Promise<void> {
    const frames: number[] = [];
    const work = indexes.map(async (index) => {
      const random = new Random(this.#options.seed).fork(String(index));
      const kind = random.pick(WHEEL);
      if (kind === 'websocket') return void frames.push(index);
      if (kind === 'runtime') return this.#later(this.#runtime(index, random));
      if (kind === 'bytes' || kind === 'handshake')
        return this.#alone(index, kind, kind === 'bytes' ? httpInput(random) : handshakeInput(random));
      const input = kind === 'zip' ? zipInput(random) : fieldsInput(random, this.#targets, this.#gateway.wrong);
      try {
        const answer = await parts.kept.send(input.bytes);
        return this.#note(index, { kind, input, answers: [answer], fault: faultOf(input, { answers: [answer], rest: 0, isStuck: false }) });
      } catch (error) {
        return this.#note(index, { kind, input, answers: [], fault: (error as Error).message });
      }
    });
    for (const index of frames)
      await this.#frames(index, parts.socket).catch((error: unknown) => this.#broke(`frames of input ${index}`, error));
    await Promise.all(work);
  }

  /** Not waited for by the lane, unless there are many: instances take their time to end. */
  async #later(work: Promise<void>): Promise<void> {
    const running: Promise<void> = work.finally(() => this.#background.delete(running));
    this.#background.add(running);
    while (this.#background.size > BACKGROUND_MAX) await Promise.race(this.#background);
  }

  async #alone(index: number, kind: Kind, input: Input): Promise<void> {
    const outcome = await exchange({ port: this.#gateway.port, host: '127.0.0.1' }, input.bytes, requestsIn(input.bytes));
    this.#note(index, { kind, input, answers: outcome.answers, fault: faultOf(input, outcome) });
  }

  async #runtime(index: number, random: Random): Promise<void> {
    const outcome = await this.#instances.run(random);
    this.#note(index, { kind: 'runtime', input: outcome.input, answers: outcome.answers, fault: faultOfRuntime(outcome) });
  }

  async #frames(index: number, socket: RawWebSocket): Promise<void> {
    const random = new Random(this.#options.seed).fork(String(index));
    random.pick(WHEEL);
    const input = framesInput(random);
    const { outcome, fault } = await socket.run(input);
    this.#count('websocket', outcome);
    if (fault !== undefined) this.#fail(index, { ...input, fault });
  }

  /** Events for the instances that are fuzzed: some at a time, as long as inputs wait. */
  #callRaw(): void {
    if (this.#calls.size >= CALLS) return;
    const connection = new KeptConnection(this.#gateway.port);
    const call = async (): Promise<void> => {
      while (this.#instances.isWanted) {
        const input = {
          what: 'call of a hostile instance',
          bytes: framed({
            method: 'POST',
            target: '/api/v1/functions/fuzz-raw/invoke',
            headers: [ADMIN, ['X-Timeout-Ms', '250']],
            body: '{}',
          }),
          mustRefuse: false,
        };
        const answer = await connection.send(input.bytes);
        // What the instance does is no fault of the gateway.
        const isTold = [200, 413, 429, 502, 503, 504].includes(answer.status);
        this.#count('calls of hostile instances', String(answer.status));
        if (!isTold) this.#fail(-1, { ...input, fault: `${answer.status} ${answer.body.toString()}` });
      }
      connection.end();
    };
    const running: Promise<void> = call()
      .catch((error: unknown) =>
        this.#fail(-1, { what: 'call of a hostile instance', bytes: Buffer.alloc(0), fault: (error as Error).message }),
      )
      .finally(() => this.#calls.delete(running));
    this.#calls.add(running);
  }

  #note(index: number, { kind, input, answers, fault }: Noted): void {
    if (answers.length === 0) this.#count(kind, 'closed');
    for (const { status } of answers) this.#count(kind, String(status));
    if (fault !== undefined) this.#fail(index, { ...input, fault });
  }

  #count(kind: string, outcome: string): void {
    let counts = this.#counts.get(kind);
    if (!counts) this.#counts.set(kind, (counts = new Map()));
    counts.set(outcome, (counts.get(outcome) ?? 0) + 1);
  }

  #fail(input: number, { what, bytes, fault }: { what: string; bytes: Buffer; fault: string }): void {
    this.#failed += 1;
    this.#options.onProgress?.(`input ${input}, ${what}: ${fault}`);
    if (this.#failures.length < FAILURES_SHOWN) this.#failures.push({ input, what, fault, hex: bytes.toString('hex') });
  }

  #broke(what: string, error: unknown): void {
    this.#fail(-1, { what, bytes: Buffer.alloc(0), fault: error instanceof Error ? error.message : String(error) });
  }

  /** A call that has to work; then everything that was made by chance is removed. */
  async #probe(): Promise<void> {
    if (this.#gateway.hasEnded) return;
    const startedAt = performance.now();
    const answer = await this.#tidy.send(framed({ method: 'POST', target: '/api/v1/functions/probe/invoke', body: '{"probe":true}' }));
    this.#probesMs.push(performance.now() - startedAt);
    if (answer.status !== 200 || answer.body.toString() !== '{"answer":42}')
      this.#fail(-1, { what: 'probe', bytes: Buffer.alloc(0), fault: `${answer.status} ${answer.body.toString()}` });
    await this.#clean();
    const done = `${this.#next} inputs, ${this.#failed} failures, a probe took ${this.#probesMs.at(-1)?.toFixed(1)} ms`;
    if (this.#probesMs.length % 20 === 0) this.#options.onProgress?.(done);
  }

  async #clean(): Promise<void> {
    const page = await this.#tidy.send(framed({ target: '/api/v1/functions?limit=1000' }));
    // The gateway's own documents.
    const { functions } = JSON.parse(page.body.toString()) as { functions: { name: string; version: string }[] };
    const gone = functions.filter(({ name }) => !KEPT.has(name)).map(({ name }) => name);
    await this.#tidy.send(framed({ method: 'DELETE', target: '/api/v1/functions/fuzz-set' }));
    for (const name of gone) await this.#tidy.send(framed({ method: 'DELETE', target: `/api/v1/functions/${encodeURIComponent(name)}` }));
    const layers = await this.#tidy.send(framed({ target: '/2018-10-31/layers' }));
    const { Layers = [] } = JSON.parse(layers.body.toString()) as {
      Layers?: { LayerName: string; LatestMatchingVersion: { Version: number } }[];
    };
    for (const { LayerName: name, LatestMatchingVersion: version } of Layers)
      await this.#tidy.send(
        framed({ method: 'DELETE', target: `/2018-10-31/layers/${encodeURIComponent(name)}/versions/${version.Version}` }),
      );
    // Not asserted: an input may have made it in between, and as something else.
    await this.#tidy.send(deployment('fuzz-set', 'here'));
  }

  /** When nothing is on its way any more. */
  async #settled(): Promise<Figures> {
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    return this.#gateway.figures();
  }

  #strays(): string[] {
    const { folder } = this.#gateway;
    const own = new Set(['g', 'k', 'p', 'tmp']);
    const strays = readdirSync(folder)
      .filter((name) => !own.has(name))
      .map((name) => join(folder, name));
    strays.push(...readdirSync(join(folder, 'tmp'), { recursive: true, encoding: 'utf8' }).filter((name) => name.includes(ESCAPED)));
    for (let at = folder; ; at = dirname(at)) {
      if (existsSync(join(at, ESCAPED))) strays.push(join(at, ESCAPED));
      if (at === dirname(at)) return strays;
    }
  }

  async #packages(): Promise<number> {
    const store = FunctionStore.open({ folder: join(this.#gateway.folder, 'g', 'store') });
    for (const { name } of store.list({ limit: 1_000 }).items) store.remove(name);
    await store.collect();
    const left = store.usage().functions;
    store.close();
    return left;
  }
}

interface Lane {
  readonly kept: KeptConnection;
  readonly socket: RawWebSocket;
}

interface Noted {
  readonly kind: Kind;
  readonly input: Input;
  readonly answers: readonly { readonly status: number }[];
  readonly fault: string | undefined;
}

function deployment(name: string, backend: string): Buffer {
  const target = `/api/v1/functions/${name}?runtime=nodejs24.x&handler=index.handler&backend=${backend}&timeout_ms=5000`;
  return framed({ method: 'PUT', target, body: soundZip() });
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

export function fuzz(options: FuzzOptions): Promise<FuzzReport> {
  return new Fuzz(options).run();
}
