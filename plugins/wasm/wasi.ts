/**
 * WASI preview 1 (https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md) for one event: bytes on stdin, the answer on
 * stdout, words on stderr. There are no files, no network, and no variables but those that were given.
 *
 * Runs in the thread of an instance, so that it imports only built-in modules, by default imports. Not `node:wasi`: that one wants its
 * streams as descriptors, which takes 0.5 ms of every call, and grants no safety of its own.
 */

import crypto from 'node:crypto';
import { Answer } from './answer.ts';
import { RandomStream } from './random-stream.ts';
import { WASI_FUNCTIONS } from './wasi-functions.ts';

export interface WasiSettings {
  readonly module: WebAssembly.Module;
  /** The first argument of the program. */
  readonly name: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly outputBytesMax: number;
  readonly memoryBytesMax: number;
  /** The same event has the same clock and the same random bytes: the clock stands still but for sleeps. */
  readonly deterministic: { readonly seed: string; readonly clockMs: number } | undefined;
}

export interface WasiHost {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Milliseconds, never going back. */
  monotonic(): number;
  /** Blocks the thread. */
  sleep(ms: number): void;
  /** The module wrote this piece of its memory to stderr. */
  said(piece: Uint8Array): void;
  /** More memory than ever before, when an event has ended. */
  grew(bytes: number): void;
}

const OK = 0;
const EBADF = 8;
const EFAULT = 21;
const EINVAL = 28;
const ENOTSUP = 58;
const ESPIPE = 70;
const ENOTCAPABLE = 76;

const STDIN = 0;
const STDERR = 2;
const RIGHTS_READ = 1n << 1n;
const RIGHTS_WRITE = 1n << 6n;
const MONOTONIC = 1;
const ABSOLUTE = 1;
/** No wait is longer. */
const FOREVER_NS = 2n ** 64n;
const SUBSCRIPTION_BYTES = 48;
const EVENT_BYTES = 32;
const SUBSCRIPTIONS_MAX = 1_024;
const TAG_CLOCK = 0;
const TAG_READ = 1;
const NS_PER_MS = 1_000_000n;
const TAIL_BYTES = 2_048;
/** Nothing ends the thread within one call of the system. */
const RANDOM_BYTES = 65_536;
/** What an allocator in the language of the module says when it gets no more. */
const ALLOCATION_FAILED = /memory allocation of \d+ bytes failed|out of memory/i;
/** A trap this near to the limit is one of memory. */
const NEAR = 7 / 8;

/** How an event fails; the name is the type of the error. */
function fault(name: string, message: string): Error {
  const error = new Error(message);
  error.name = name;
  error.stack = '';
  return error;
}

/** Unwinds the module. */
class Exit extends Error {
  readonly status: number;

  constructor(status: number) {
    super(`exit status ${status}`);
    this.status = status;
  }
}

/** The memory of the module cannot hold more. */
export class OutOfMemory extends Error {}

/** One module, which runs from its beginning for every event. */
export class WasiProgram {
  readonly #settings: WasiSettings;
  readonly #host: WasiHost;
  readonly #imports: WebAssembly.Imports;
  readonly #arguments: readonly Uint8Array[];
  readonly #environment: readonly Uint8Array[];
  readonly #isReactor: boolean;
  #memory: WebAssembly.Memory | undefined;
  #view = new DataView(new ArrayBuffer(0));
  #event: Uint8Array = new Uint8Array(0);
  #read = 0;
  #answer = new Answer(0);
  #tail = '';
  #random: RandomStream | undefined;
  #sleptNs = 0n;
  #exit: Exit | undefined;
  #peakBytes = 0;

  constructor(settings: WasiSettings, host: WasiHost) {
    this.#settings = settings;
    this.#host = host;
    const line = (text: string): Uint8Array => Buffer.from(`${text}\0`);
    this.#arguments = [line(settings.name)];
    this.#environment = Object.entries(settings.environment).map(([name, value]) => line(`${name}=${value}`));
    this.#isReactor = !WebAssembly.Module.exports(settings.module).some(({ name }) => name === '_start');
    this.#imports = { wasi_snapshot_preview1: this.#functions() };
  }

  /** Throws what the module failed with: its name is one of `Runtime.ExitError`, `Runtime.Trap`, `Runtime.StackOverflow`, and so on. */
  run(event: Uint8Array): Uint8Array {
    this.#reset(event);
    try {
      const { exports } = this.#instantiate();
      if (this.#isReactor) this.#handle(exports);
      else (exports['_start'] as () => void)();
    } catch (thrown) {
      this.#judge(thrown);
    }
    const status = this.#exit?.status ?? 0;
    const bytes = this.#memory?.buffer.byteLength ?? 0;
    if (bytes > this.#peakBytes) this.#host.grew((this.#peakBytes = bytes));
    this.#memory = undefined;
    if (this.#answer.isTooLarge)
      throw fault('Function.ResponseSizeTooLarge', `the answer has more than ${this.#settings.outputBytesMax} bytes`);
    if (status !== 0) throw fault('Runtime.ExitError', this.#withTail(`exit status ${status}`));
    return this.#answer.whole();
  }

  #reset(event: Uint8Array): void {
    const { deterministic, outputBytesMax } = this.#settings;
    this.#event = event;
    this.#read = 0;
    this.#answer = new Answer(outputBytesMax);
    this.#tail = '';
    this.#sleptNs = 0n;
    this.#exit = undefined;
    this.#random = deterministic && new RandomStream(deterministic.seed, event);
  }

  #instantiate(): WebAssembly.Instance {
    this.#memory = undefined;
    const instance = new WebAssembly.Instance(this.#settings.module, this.#imports);
    // Its kind was checked when it was compiled.
    this.#memory = instance.exports['memory'] as WebAssembly.Memory;
    return instance;
  }

  /** `handle(pointer, length)` of memory from `alloc(length)`; the answer is pointer and length in 64 bits, the pointer above. */
  #handle(exports: WebAssembly.Exports): void {
    (exports['_initialize'] as (() => void) | undefined)?.();
    const { length } = this.#event;
    const pointer = (exports['alloc'] as (length: number) => number)(length) >>> 0;
    if (!this.#fits(pointer, length)) throw fault('Runtime.Trap', `alloc gave ${length} bytes at ${pointer}, which are not there`);
    this.#bytes(pointer, length).set(this.#event);
    const packed = BigInt.asUintN(64, (exports['handle'] as (pointer: number, length: number) => bigint)(pointer, length));
    const [from, count] = [Number(packed >> 32n), Number(packed & 0xffff_ffffn)];
    if (!this.#fits(from, count)) throw fault('Runtime.Trap', `handle gave ${count} bytes at ${from}, which are not there`);
    this.#output(this.#bytes(from, count));
  }

  /** An exit is none of its business; everything else is thrown as what it means. */
  #judge(thrown: unknown): void {
    if (this.#exit) return;
    // A module that has used up its stack has not used up its memory.
    if (thrown instanceof RangeError && /call stack/i.test(thrown.message))
      throw fault('Runtime.StackOverflow', this.#withTail('the module used more than the stack that it has'));
    if (thrown instanceof WebAssembly.RuntimeError) {
      const bytes = this.#memory?.buffer.byteLength ?? 0;
      if (bytes >= NEAR * this.#settings.memoryBytesMax || ALLOCATION_FAILED.test(this.#tail)) throw new OutOfMemory();
      throw fault('Runtime.Trap', this.#withTail(`${thrown.message}, with ${Math.ceil(bytes / 1_048_576)} MB of memory`));
    }
    if (thrown instanceof WebAssembly.LinkError) throw fault('Runtime.ImportError', thrown.message);
    if (!(thrown instanceof Error)) throw fault('Runtime.Trap', this.#withTail('the module threw an exception that nothing catches'));
    throw thrown;
  }

  #withTail(message: string): string {
    const tail = this.#tail.trim();
    return tail === '' ? message : `${message}\n${tail}`;
  }

  #functions(): WebAssembly.ModuleImports {
    const badFile = (): number => EBADF;
    const stream = (fd: number): number => (fd >>> 0 <= STDERR ? ESPIPE : EBADF);
    const open = (fd: number): number => (fd >>> 0 <= STDERR ? OK : EBADF);
    const functions: Record<string, (...parameters: never[]) => unknown> = {
      ...this.#processFunctions(),
      ...this.#streamFunctions(),
      fd_close: open,
      fd_datasync: open,
      fd_sync: open,
      fd_seek: stream,
      fd_tell: stream,
      fd_advise: stream,
      fd_allocate: stream,
      fd_pread: stream,
      fd_pwrite: stream,
      fd_fdstat_set_flags: open,
      fd_fdstat_set_rights: open,
      fd_renumber: () => ENOTSUP,
      sock_accept: () => ENOTSUP,
      sock_recv: () => ENOTSUP,
      sock_send: () => ENOTSUP,
      sock_shutdown: () => ENOTSUP,
    };
    for (const name of WASI_FUNCTIONS) functions[name] ??= name.startsWith('path_') ? () => ENOTCAPABLE : badFile;
    return functions;
  }

  #processFunctions(): Record<string, (...parameters: never[]) => unknown> {
    return {
      args_sizes_get: (count: number, bytes: number) => this.#sizes(this.#arguments, count, bytes),
      args_get: (pointers: number, text: number) => this.#texts(this.#arguments, pointers, text),
      environ_sizes_get: (count: number, bytes: number) => this.#sizes(this.#environment, count, bytes),
      environ_get: (pointers: number, text: number) => this.#texts(this.#environment, pointers, text),
      clock_res_get: (_clock: number, at: number) => this.#put64(at, 1n),
      clock_time_get: (clock: number, _precision: bigint, at: number) => this.#put64(at, this.#timeNs(clock)),
      random_get: (at: number, length: number) => this.#randomise(at >>> 0, length >>> 0),
      poll_oneoff: (from: number, to: number, ...[count, at]: readonly [number, number]) =>
        this.#poll({ from: from >>> 0, to: to >>> 0, count: count >>> 0, at: at >>> 0 }),
      sched_yield: () => OK,
      proc_raise: (signal: number) => this.#leave(128 + signal),
      proc_exit: (status: number) => this.#leave(status),
    };
  }

  #streamFunctions(): Record<string, (...parameters: never[]) => unknown> {
    return {
      fd_read: (fd: number, vectors: number, ...[count, at]: readonly [number, number]) =>
        fd === STDIN ? this.#transfer({ vectors: vectors >>> 0, count: count >>> 0, at: at >>> 0 }, this.#take) : EBADF,
      fd_write: (fd: number, vectors: number, ...[count, at]: readonly [number, number]) => {
        if (fd !== 1 && fd !== STDERR) return EBADF;
        return this.#transfer({ vectors: vectors >>> 0, count: count >>> 0, at: at >>> 0 }, fd === STDERR ? this.#say : this.#give);
      },
      fd_fdstat_get: (fd: number, at: number) => {
        if (fd >>> 0 > STDERR) return EBADF;
        if (!this.#fits(at >>> 0, 24)) return EFAULT;
        this.#bytes(at >>> 0, 24).fill(0);
        this.#data.setBigUint64((at >>> 0) + 8, fd === STDIN ? RIGHTS_READ : RIGHTS_WRITE, true);
        return OK;
      },
      fd_filestat_get: (fd: number, at: number) => {
        if (fd >>> 0 > STDERR) return EBADF;
        if (!this.#fits(at >>> 0, 64)) return EFAULT;
        this.#bytes(at >>> 0, 64).fill(0);
        return OK;
      },
    };
  }

  get #data(): DataView {
    const { buffer } = this.#memory ?? { buffer: new ArrayBuffer(0) };
    // Memory that grows is another buffer.
    if (this.#view.buffer !== buffer) this.#view = new DataView(buffer);
    return this.#view;
  }

  #fits(at: number, length: number): boolean {
    return at + length <= this.#data.byteLength;
  }

  #bytes(at: number, length: number): Uint8Array {
    return new Uint8Array(this.#data.buffer, at, length);
  }

  #put64(at: number, value: bigint): number {
    if (!this.#fits(at >>> 0, 8)) return EFAULT;
    this.#data.setBigUint64(at >>> 0, value, true);
    return OK;
  }

  #sizes(lines: readonly Uint8Array[], count: number, bytes: number): number {
    if (!this.#fits(count >>> 0, 4) || !this.#fits(bytes >>> 0, 4)) return EFAULT;
    this.#data.setUint32(count >>> 0, lines.length, true);
    this.#data.setUint32(
      bytes >>> 0,
      lines.reduce((sum, { length }) => sum + length, 0),
      true,
    );
    return OK;
  }

  #texts(lines: readonly Uint8Array[], pointers: number, text: number): number {
    let at = text >>> 0;
    for (const [index, line] of lines.entries()) {
      const pointer = (pointers >>> 0) + 4 * index;
      if (!this.#fits(pointer, 4) || !this.#fits(at, line.length)) return EFAULT;
      this.#data.setUint32(pointer, at, true);
      this.#bytes(at, line.length).set(line);
      at += line.length;
    }
    return OK;
  }

  /** Goes through the vectors of a read or a write until one of them is not used up, and notes how many bytes there were. */
  #transfer({ vectors, count, at }: { vectors: number; count: number; at: number }, move: (piece: Uint8Array) => number): number {
    if (!this.#fits(vectors, 8 * count) || !this.#fits(at, 4)) return EFAULT;
    let total = 0;
    for (let index = 0; index < count; index += 1) {
      const from = this.#data.getUint32(vectors + 8 * index, true);
      const length = this.#data.getUint32(vectors + 8 * index + 4, true);
      if (!this.#fits(from, length)) return EFAULT;
      const moved = move(this.#bytes(from, length));
      total += moved;
      if (moved < length) break;
    }
    this.#data.setUint32(at, total, true);
    return OK;
  }

  readonly #take = (piece: Uint8Array): number => {
    const part = this.#event.subarray(this.#read, this.#read + piece.length);
    piece.set(part);
    this.#read += part.length;
    return part.length;
  };

  readonly #give = (piece: Uint8Array): number => {
    this.#output(piece);
    return piece.length;
  };

  readonly #say = (piece: Uint8Array): number => {
    if (piece.length === 0) return 0;
    this.#tail = (this.#tail + Buffer.from(piece.slice(-TAIL_BYTES).buffer).toString('utf8')).slice(-TAIL_BYTES);
    this.#host.said(piece);
    return piece.length;
  };

  #output(bytes: Uint8Array): void {
    this.#answer.add(bytes);
    if (this.#answer.isTooLarge) this.#leave(1);
  }

  /** A module may catch what is thrown; then the next thing that it does here is thrown again. */
  #leave(status: number): never {
    throw (this.#exit ??= new Exit(status >>> 0));
  }

  /** Exact: as nanoseconds the time of day is more than a number holds. */
  #timeNs(clock: number): bigint {
    const { deterministic } = this.#settings;
    if (deterministic) return BigInt(deterministic.clockMs) * NS_PER_MS + this.#sleptNs;
    if (clock >= MONOTONIC) return BigInt(Math.floor(this.#host.monotonic() * Number(NS_PER_MS)));
    return BigInt(this.#host.now()) * NS_PER_MS;
  }

  #randomise(at: number, length: number): number {
    if (!this.#fits(at, length)) return EFAULT;
    for (let done = 0; done < length; done += RANDOM_BYTES) {
      const bytes = this.#bytes(at + done, Math.min(RANDOM_BYTES, length - done));
      if (this.#random) this.#random.fill(bytes);
      else crypto.randomFillSync(bytes);
    }
    return OK;
  }

  /** Streams are always ready; without one of them it sleeps until the first of the times. */
  #poll({ from, to, count, at }: { from: number; to: number; count: number; at: number }): number {
    if (count === 0 || count > SUBSCRIPTIONS_MAX) return EINVAL;
    if (!this.#fits(from, SUBSCRIPTION_BYTES * count) || !this.#fits(to, EVENT_BYTES * count) || !this.#fits(at, 4)) return EFAULT;
    const waits = Array.from({ length: count }, (_, index) => this.#subscription(from + SUBSCRIPTION_BYTES * index));
    const soonestNs = waits.reduce((least, { waitNs }) => (waitNs < least ? waitNs : least), FOREVER_NS);
    if (soonestNs > 0n && this.#settings.deterministic) this.#sleptNs += soonestNs;
    else if (soonestNs > 0n) this.#host.sleep(Number(soonestNs) / Number(NS_PER_MS));
    let events = 0;
    for (const { userdata, tag, waitNs } of waits) {
      if (waitNs > soonestNs) continue;
      const event = to + EVENT_BYTES * events;
      this.#bytes(event, EVENT_BYTES).fill(0);
      this.#data.setBigUint64(event, userdata, true);
      this.#data.setUint8(event + 10, tag);
      if (tag === TAG_READ) this.#data.setBigUint64(event + 16, BigInt(this.#event.length - this.#read), true);
      events += 1;
    }
    this.#data.setUint32(at, events, true);
    return OK;
  }

  #subscription(at: number): { readonly userdata: bigint; readonly tag: number; readonly waitNs: bigint } {
    const userdata = this.#data.getBigUint64(at, true);
    const tag = this.#data.getUint8(at + 8);
    if (tag !== TAG_CLOCK) return { userdata, tag, waitNs: 0n };
    const timeoutNs = this.#data.getBigUint64(at + 24, true);
    const isAbsolute = (this.#data.getUint16(at + 40, true) & ABSOLUTE) !== 0;
    const waitNs = isAbsolute ? timeoutNs - this.#timeNs(this.#data.getUint32(at + 16, true)) : timeoutNs;
    return { userdata, tag, waitNs: waitNs > 0n ? waitNs : 0n };
  }
}
