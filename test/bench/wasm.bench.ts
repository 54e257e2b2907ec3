/**
 * Functions that are WebAssembly modules: a call with a fresh instance against a bare worker thread that makes an instance of the same module
 * for the same call; what a start takes, the memory of an engine, and how soon a runaway module is stopped. `--only calls`, `starts`,
 * `memory` or `stops` measures one of them.
 */

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { parseArgs } from 'node:util';
import { ECHO, Engine, command } from '../support/wasm.ts';
import { compare, median } from './measure.ts';

const { values } = parseArgs({ options: { json: { type: 'boolean', default: false }, only: { type: 'string', default: '' } } });
const wants = (part: string): boolean => part.includes(values.only);
const GOAL = 2;
const STOP_GOAL_MS = 50;
const STARTS = 9;
const STOPS = 9;
const ENGINES = 16;
const LIMIT_MS = 200;
const EVENT = Buffer.from(JSON.stringify({ name: 'Ada', numbers: [1, 2, 3] }));

/** As little as a thread can do: the bytes in, a new instance with just these imports, the bytes out. */
const BARE = `
const { parentPort, workerData } = require('node:worker_threads');
let event, memory, written;
const wasi_snapshot_preview1 = {
  fd_read(fd, vectors, count, at) {
    const view = new DataView(memory.buffer);
    const from = view.getUint32(vectors, true);
    new Uint8Array(memory.buffer).set(event, from);
    view.setUint32(at, event.length, true);
    return 0;
  },
  fd_write(fd, vectors, count, at) {
    const view = new DataView(memory.buffer);
    const from = view.getUint32(vectors, true);
    written = new Uint8Array(memory.buffer).slice(from, from + view.getUint32(vectors + 4, true));
    return 0;
  },
  proc_exit() {},
};
parentPort.on('message', (bytes) => {
  event = bytes;
  const { exports } = new WebAssembly.Instance(workerData, { wasi_snapshot_preview1 });
  memory = exports.memory;
  exports._start();
  parentPort.postMessage(written);
});
`;

function report(name: string, figures: Readonly<Record<string, number>>): void {
  const rounded = Object.fromEntries(Object.entries(figures).map(([key, value]) => [key, Number(value.toFixed(2))]));
  if (values.json) console.log(JSON.stringify({ name, ...rounded }));
  else
    console.log(
      `${name}: ${Object.entries(rounded)
        .map(([key, value]) => `${key} ${value}`)
        .join(', ')}`,
    );
}

async function calls(): Promise<void> {
  const engine = await Engine.start();
  const module = await WebAssembly.compile(ECHO);
  const bare = new Worker(BARE, { eval: true, workerData: module });
  const fn = await engine.fn(ECHO, { memoryMb: 128 });
  const answered = async (): Promise<Uint8Array> => {
    bare.postMessage(EVENT);
    return ((await once(bare, 'message')) as [Uint8Array])[0];
  };
  const ours = async (): Promise<Uint8Array> => (await engine.runtime.invoke(fn, EVENT)).body;
  for (const each of [answered, ours]) if (!Buffer.from(await each()).equals(EVENT)) throw new Error('the answer is not the event');
  // Until a call is cheap on both sides.
  for (let call = 0; call < 2_000; call += 1) await Promise.all([answered(), ours()]);
  await compare('a call with a fresh instance, by a bare worker thread', { peer: answered, ours }, { rounds: 9, sliceMs: 150, goal: GOAL });
  report('memory of the process after these calls', { rssMb: process.memoryUsage().rss / 2 ** 20 });
  await bare.terminate();
  await engine.close();
}

async function starts(blanks: number): Promise<void> {
  const times: number[] = [];
  for (let start = 0; start < STARTS; start += 1) {
    const engine = await Engine.start({ blanks });
    const fn = await engine.fn(ECHO);
    // A thread that waits has been made long ago.
    if (blanks > 0) await new Promise((resolve) => setTimeout(resolve, 150));
    const { report: told } = await engine.runtime.invoke(fn, EVENT);
    times.push(told.queueMs + told.runMs);
    await engine.close();
  }
  report(`first call of a package, ${blanks} threads waiting`, { medianMs: median(times), worstMs: Math.max(...times) });
}

async function engines(): Promise<void> {
  const engine = await Engine.start({ blanks: 0 });
  const before = process.memoryUsage().rss;
  const fns = await Promise.all(Array.from({ length: ENGINES }, (_, index) => engine.fn(ECHO, { name: `function-${index}` })));
  for (const fn of fns) await engine.run(fn);
  report(`memory of an instance, of ${ENGINES}`, { rssMb: (process.memoryUsage().rss - before) / ENGINES / 2 ** 20 });
  await engine.close();
}

const logging = (bytes: number): string => `(i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const ${bytes}))
  (loop $again (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 12))) (br $again))`;

async function stops(): Promise<void> {
  const engine = await Engine.start();
  const kinds = {
    loop: command('(loop $again (br $again))'),
    'log of long lines': command(logging(65_536)),
    'log of single characters': command(logging(1)),
  };
  for (const [kind, module] of Object.entries(kinds)) {
    const fn = await engine.fn(module, { timeoutMs: LIMIT_MS });
    const late: number[] = [];
    for (let stop = 0; stop < STOPS; stop += 1) {
      await engine.runtime.warm(fn, 1);
      const started = performance.now();
      await engine.run(fn).then(
        () => Promise.reject(new Error('it ended')),
        () => late.push(performance.now() - started - LIMIT_MS),
      );
    }
    const worst = Math.max(...late);
    report(`a runaway ${kind} is stopped after its limit of ${LIMIT_MS} ms`, {
      medianMs: median(late),
      worstMs: worst,
      goalMs: STOP_GOAL_MS,
    });
    if (worst > STOP_GOAL_MS) process.exitCode = 1;
  }
  await engine.close();
}

// Waits of a function runtime alone do not keep a process alive.
const alive = setInterval(() => {}, 60_000);
if (wants('memory')) await engines();
if (wants('calls')) await calls();
if (wants('starts')) for (const blanks of [0, 1]) await starts(blanks);
if (wants('stops')) await stops();
clearInterval(alive);
