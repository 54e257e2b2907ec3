/** Modules on threads, behind the function runtime: answers, limits, and modules that mean no good. */

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ECHO, Engine, HEADER, command, leb, says, section, wat, writeTo } from '../support/wasm.ts';

const SPIN = '(loop $again (br $again))';
const TRAP = '(unreachable)';
const MEBIBYTE = 1024 * 1024;

let engine: Engine;
beforeAll(async () => {
  engine = await Engine.start();
});
afterAll(() => engine.close());

/** What a call fails with. */
async function failure(module: Uint8Array, settings: Parameters<Engine['fn']>[1] = {}): Promise<unknown> {
  return engine.run(await engine.fn(module, settings)).then(
    (answer) => expect.fail(`it answered ${answer.slice(0, 100)}`),
    (error: unknown) => error,
  );
}

describe('answers', () => {
  it('are the bytes of stdout, and the event the bytes of stdin', async () => {
    const fn = await engine.fn(ECHO);
    for (const event of ['{"a":1}', 'no JSON at all', '', 'ů'.repeat(20_000)]) expect(await engine.run(fn, event)).toBe(event);
    const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
    const { body } = await engine.runtime.invoke(fn, bytes);
    expect(Buffer.from(body).equals(bytes)).toBe(true);
  });

  it('come of a module that begins anew for each call', async () => {
    // Counts in its memory, which would be 2 the second time.
    const count = `(i32.store (i32.const 65536) (i32.add (i32.load (i32.const 65536)) (i32.const 49))) (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 8) (i32.const 1)) ${writeTo(1)}`;
    const fn = await engine.fn(command(count));
    expect([await engine.run(fn), await engine.run(fn), await engine.run(fn)]).toEqual(['1', '1', '1']);
  });

  it('come of a reactor, too', async () => {
    const reactor = wat(`(module (memory (export "memory") 2)
      (func (export "alloc") (param i32) (result i32) (i32.const 65536))
      (func (export "handle") (param $at i32) (param $length i32) (result i64)
        (i32.store8 (local.get $at) (i32.const 91))
        (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $length)))))`);
    expect(await engine.run(await engine.fn(reactor), '{1,2]')).toBe('[1,2]');
  });

  it('of several at once come each from its own memory', async () => {
    const fn = await engine.fn(ECHO, { name: 'several' });
    const events = Array.from({ length: 12 }, (_, index) => `event ${index}`);
    expect(await Promise.all(events.map((event) => engine.run(fn, event)))).toEqual(events);
  });

  it('stderr is the log, which is there before the answer', async () => {
    const fn = await engine.fn(command(`${says('said')} ${says('said\n')}`, { rest: '(data (i32.const 1024) "said\\n")' }), {
      name: 'says',
    });
    await engine.run(fn);
    expect(engine.runtime.log('says').map(({ stream, text }) => [stream, text])).toEqual([['stderr', 'saidsaid']]);
  });
});

it('a module that is not there is told to callers without its folder', async () => {
  const fn = await engine.fn(ECHO, { name: 'lost' });
  const folder = fn.code.kind === 'folder' ? fn.code.path : '';
  const error: unknown = await engine.run({ ...fn, handler: 'other.wasm' }).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: 'CODE_MISSING', cause: { message: expect.stringContaining(folder) } });
  expect(JSON.stringify(error)).not.toContain(folder);
});

describe('a module is compiled once', () => {
  it('for all instances of a package, and again for another memory', async () => {
    const own = await Engine.start();
    try {
      const fn = await own.fn(ECHO);
      const other = await own.fn(ECHO, { name: 'other' });
      const larger = await own.fn(ECHO, { memoryMb: 256 });
      await Promise.all([own.run(fn), own.run(fn), own.run(other), own.run(other)]);
      expect(own.backend.cacheCounts).toMatchObject({ misses: 1, modules: 1 });
      expect(own.backend.cacheCounts.hits).toBeGreaterThanOrEqual(1);
      await own.run(larger);
      expect(own.backend.cacheCounts).toMatchObject({ misses: 2, modules: 2 });
    } finally {
      await own.close();
    }
  });
});

describe('a module that fails', () => {
  it.each([
    ['an exit status', command('(call $exit (i32.const 3))'), { errorType: 'Runtime.ExitError', errorMessage: 'exit status 3' }],
    ['a trap', command(TRAP), { errorType: 'Runtime.Trap', errorMessage: 'unreachable, with 1 MB of memory' }],
    [
      'a read beyond its memory',
      command('(drop (i32.load (i32.const -4)))'),
      { errorType: 'Runtime.Trap', errorMessage: 'memory access out of bounds, with 1 MB of memory' },
    ],
    ['a division by zero', command('(drop (i32.div_s (i32.const 1) (i32.const 0)))'), { errorType: 'Runtime.Trap' }],
  ])('%s', async (_what, module, details) => {
    const error = await failure(module);
    expect(error).toMatchObject({ code: 'FUNCTION_FAILED', details });
  });

  it('its last words are in the message', async () => {
    const module = command(`${says('it broke')} (call $exit (i32.const 70))`, { rest: '(data (i32.const 1024) "it broke")' });
    expect(await failure(module)).toMatchObject({ code: 'FUNCTION_FAILED', message: expect.stringMatching(/exit status 70\nit broke$/) });
  });

  it('status 0 is an answer', async () => {
    expect(await engine.run(await engine.fn(command('(call $exit (i32.const 0)) (unreachable)')))).toBe('');
  });

  it('the instance serves the next call', async () => {
    const own = await Engine.start();
    try {
      const fn = await own.fn(command('(call $exit (i32.const 1))'));
      await expect(own.run(fn)).rejects.toMatchObject({ code: 'FUNCTION_FAILED' });
      const [{ id: first } = { id: '' }] = own.runtime.instances();
      await expect(own.run(fn)).rejects.toMatchObject({ code: 'FUNCTION_FAILED' });
      expect(own.runtime.instances().map(({ id }) => id)).toEqual([first]);
    } finally {
      await own.close();
    }
  });
});

describe('terminate', () => {
  it('can be repeated, also at the same time and after the end', async () => {
    const own = await Engine.start();
    try {
      await own.run(await own.fn(ECHO));
      const [info] = own.runtime.instances();
      const instance = { id: info!.id, handle: info!.handle!, ended: Promise.resolve({ reason: 'terminated' as const }), createMs: 0 };
      await Promise.all([1, 2, 3].map(() => own.backend.terminate(instance)));
      await own.backend.terminate(instance);
      expect(await own.backend.memoryBytes(instance)).toBeUndefined();
      // The pool notices, and starts another.
      expect(await own.run(await own.fn(ECHO), 'again')).toBe('again');
    } finally {
      await own.close();
    }
  });
});

describe('hostile modules', () => {
  it('an endless loop ends at the timeout, and the next call has a new thread', async () => {
    const fn = await engine.fn(
      command(`(if (i32.eqz (call $length)) (then ${SPIN}))`, {
        rest: `(func $length (result i32) (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 9))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))) (i32.load (i32.const 8)))`,
      }),
      { name: 'loop', timeoutMs: 2_000 },
    );
    await expect(engine.run(fn, '')).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', details: { timeoutMs: 2_000 } });
    expect(await engine.run(fn, 'stop')).toBe('');
  });

  it('an endless loop before the start of the program, too', async () => {
    const module = wat(`(module (memory (export "memory") 1) (func $spin ${SPIN}) (start $spin) (func (export "_start")))`);
    expect(await failure(module, { timeoutMs: 300 })).toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
  });

  it('an endless sleep, too', async () => {
    const module = wat(`(module (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (func (export "_start") (i64.store (i32.const 24) (i64.const -1))
        (drop (call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200)))))`);
    expect(await failure(module, { timeoutMs: 300 })).toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
  });

  it('one that is cancelled ends at once', async () => {
    const fn = await engine.fn(command(SPIN), { name: 'cancelled', timeoutMs: 60_000 });
    const controller = new AbortController();
    const call = engine.runtime.invoke(fn, Buffer.from('{}'), { signal: controller.signal });
    setTimeout(() => controller.abort(), 300);
    await expect(call).rejects.toMatchObject({ code: 'ABORTED' });
  });

  it('one that catches its exit and goes on ends at the timeout', async () => {
    const module = command(`(try (do (call $exit (i32.const 1))) (catch_all ${SPIN}))`);
    expect(await failure(module, { timeoutMs: 300 })).toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
  });

  it('a memory bomb gets no more than the function has', async () => {
    const grows = `(loop $again (if (i32.lt_s (memory.grow (i32.const 16)) (i32.const 0)) (then (unreachable))) (br $again))`;
    for (const memory of ['1', '1 65536']) {
      const fn = await engine.fn(command(grows, { memory }), { name: 'bomb', memoryMb: 16 });
      await expect(engine.run(fn)).rejects.toMatchObject({ code: 'FUNCTION_OUT_OF_MEMORY', message: expect.stringContaining('16 MB') });
    }
  });

  it('one that begins with too much memory is refused', async () => {
    expect(await failure(command('(nop)', { memory: '1025' }), { memoryMb: 64 })).toMatchObject({
      code: 'FUNCTION_OUT_OF_MEMORY',
      details: { pages: 1_025, memoryMb: 64 },
    });
  });

  it('an endless recursion is an error of its own, and the thread goes on', async () => {
    const rest = '(func $down (param i64) (result i64) (i64.add (i64.const 1) (call $down (local.get 0))))';
    const fn = await engine.fn(command('(drop (call $down (i64.const 1)))', { rest }), { name: 'deep' });
    const error = { code: 'FUNCTION_FAILED', details: { errorType: 'Runtime.StackOverflow' } };
    await expect(engine.run(fn)).rejects.toMatchObject(error);
    await expect(engine.run(fn)).rejects.toMatchObject(error);
    expect(engine.runtime.instances().filter(({ name }) => name === 'deep')).toHaveLength(1);
  });

  it('a table bomb gets no more than a million entries', async () => {
    const rest = '(table 1 funcref)';
    const grows = '(if (i32.lt_s (table.grow (ref.null func) (i32.const 2000000)) (i32.const 0)) (then (call $exit (i32.const 9))))';
    expect(await failure(command(grows, { rest }))).toMatchObject({ details: { errorMessage: 'exit status 9' } });
  });

  it('an endless answer is stopped', async () => {
    const endless = `(i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 65536))
      (loop $again (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12))) (br $again))`;
    expect(await failure(command(endless))).toMatchObject({
      code: 'PAYLOAD_TOO_LARGE',
      details: { errorType: 'Function.ResponseSizeTooLarge' },
    });
  });

  it('an endless log waits, and ends at the timeout', async () => {
    const endless = `(i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 65536))
      (loop $again (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 12))) (br $again))`;
    const before = process.memoryUsage().external;
    expect(await failure(command(endless), { timeoutMs: 700 })).toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
    expect(process.memoryUsage().external - before).toBeLessThan(64 * MEBIBYTE);
  });

  it('one that fills its memory again and again ends, and so does its thread', async () => {
    const own = await Engine.start();
    const fills = '(loop $again (memory.fill (i32.const 0) (i32.const 1) (i32.const 33554432)) (br $again))';
    const fn = await own.fn(command(fills, { memory: '600' }), { timeoutMs: 1_000 });
    await expect(own.run(fn)).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
    await own.close();
  });

  it('a log of nothing but lines leaves the process to others', async () => {
    const lines = command(
      `(memory.fill (i32.const 65536) (i32.const 10) (i32.const 8388608))
      (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 8388608))
      (loop $again (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 12))) (br $again))`,
      { memory: '140' },
    );
    const fn = await engine.fn(lines, { name: 'lines', timeoutMs: 3_000 });
    const failed = engine.run(fn).catch((error: unknown) => error);
    await expect.poll(() => engine.runtime.log('lines').length, { timeout: 20_000 }).toBeGreaterThan(0);
    expect(await engine.run(await engine.fn(ECHO), 'here')).toBe('here');
    expect(await failed).toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
  });

  it('an answer of single bytes is an answer', async () => {
    const bytes = command(`(local $count i32) (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 1))
      (loop $again
        (i32.store8 (i32.const 65536) (i32.add (i32.const 48) (i32.rem_u (local.get $count) (i32.const 10))))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
        (br_if $again (i32.lt_u (local.tee $count (i32.add (local.get $count) (i32.const 1))) (i32.const 700000))))`);
    const answer = await engine.run(await engine.fn(bytes, { timeoutMs: 60_000 }));
    expect(answer === '0123456789'.repeat(70_000)).toBe(true);
  });

  it('one that keeps all that it throws gets no more than its thread has', async () => {
    const keeps = wat(`(module (memory (export "memory") 1) (table $kept 1000000 exnref) (tag $thrown (param i64 i64 i64 i64))
      (func $throw (throw $thrown (i64.const 1) (i64.const 1) (i64.const 1) (i64.const 1)))
      (func (export "_start") (local $count i32)
        (loop $again
          (table.set $kept (local.get $count) (block $caught (result exnref) (try_table (catch_all_ref $caught) (call $throw)) (unreachable)))
          (br_if $again (i32.lt_u (local.tee $count (i32.add (local.get $count) (i32.const 1))) (i32.const 999999))))))`);
    expect(await failure(keeps, { timeoutMs: 60_000 })).toMatchObject({ code: 'FUNCTION_OUT_OF_MEMORY' });
  });

  it('one that throws what nothing catches fails with these words', async () => {
    const throws = wat('(module (memory (export "memory") 1) (tag $thrown) (func (export "_start") (throw $thrown)))');
    expect(await failure(throws)).toMatchObject({
      code: 'FUNCTION_FAILED',
      details: { errorType: 'Runtime.Trap', errorMessage: 'the module threw an exception that nothing catches' },
    });
  });

  it('pointers that lead nowhere are errors of the call, not of the host', async () => {
    const wild = command(`
      (i32.store (i32.const 0) (i32.const -1)) (i32.store (i32.const 4) (i32.const -1))
      (call $exit (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))`);
    expect(await failure(wild)).toMatchObject({ details: { errorMessage: 'exit status 21' } });
    const far = command('(call $exit (call $read (i32.const 0) (i32.const -8) (i32.const -1) (i32.const -4)))');
    expect(await failure(far)).toMatchObject({ details: { errorMessage: 'exit status 21' } });
  });

  it.each([
    [
      'imports of others',
      wat('(module (import "env" "fetch" (func)) (memory (export "memory") 1) (func (export "_start")))'),
      /imports env\.fetch/,
    ],
    ['no module', Buffer.from('#!/bin/sh\nexit 0\n'), /not a WebAssembly module/],
    ['half a module', ECHO.subarray(0, ECHO.length >> 1), /truncated/],
    ['a module that is not valid', Uint8Array.from([...HEADER, ...section(3, [1, 7])]), /cannot be compiled/],
  ])('%s: refused before it runs', async (_what, module, message) => {
    expect(await failure(module)).toMatchObject({ code: 'PACKAGE_INVALID', message: expect.stringMatching(message) });
  });

  it('a function of WASI with another signature is refused', async () => {
    const module = wat(`(module (import "wasi_snapshot_preview1" "fd_read" (func $read (param i64) (result i64)))
      (memory (export "memory") 1) (func (export "_start") (drop (call $read (i64.const 1)))))`);
    expect(await failure(module)).toMatchObject({ code: 'FUNCTION_FAILED' });
  });

  it('100 MB of data are refused, and do not keep others from being served', async () => {
    const data = new Uint8Array(100 * MEBIBYTE);
    const body = [1, 0, 0x41, 0, 0x0b, ...leb(data.length)];
    const head = [...HEADER, ...section(5, [1, 0, ...leb(1_700)]), 11, ...leb(body.length + data.length), ...body];
    const module = Buffer.concat([Uint8Array.from(head), data]);
    expect(await failure(module, { memoryMb: 512 })).toMatchObject({
      code: 'PACKAGE_INVALID',
      details: { bytes: module.length, bytesMax: 64 * MEBIBYTE },
    });
    expect(await engine.run(await engine.fn(ECHO), 'here')).toBe('here');
  });
});
