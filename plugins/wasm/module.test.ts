import { describe, expect, it } from 'vitest';
import { HEADER, command, leb, section, wat } from '../../test/support/wasm.ts';
import { checkInterface, withLimits } from './module.ts';

const TYPE = section(1, [1, 0x60, 0, 0]);
const OPTIONS = { name: 'handler.wasm', memoryMb: 2 };

function limited(bytes: Uint8Array | readonly number[], memoryMb = 2): Uint8Array<ArrayBuffer> {
  return withLimits(Uint8Array.from(bytes), { ...OPTIONS, memoryMb });
}

/** Pages that the memory has, and how far it grows. */
function pagesOf(bytes: Uint8Array): { readonly min: number; readonly max: number } {
  const module = new WebAssembly.Module(bytes);
  const imports = { wasi_snapshot_preview1: Object.fromEntries(['fd_read', 'fd_write', 'proc_exit'].map((name) => [name, () => 0])) };
  const { memory } = new WebAssembly.Instance(module, imports).exports as { memory: { buffer: ArrayBuffer; grow(pages: number): number } };
  const min = memory.buffer.byteLength / 65_536;
  for (let pages = 65_536; pages >= 1; pages /= 2) {
    try {
      memory.grow(pages);
    } catch {
      // Fewer, perhaps.
    }
  }
  return { min, max: memory.buffer.byteLength / 65_536 };
}

describe('the memory of a module', () => {
  it.each([
    ['has no maximum', '1', { min: 1, max: 32 }],
    ['may have more than the function', '1 65536', { min: 1, max: 32 }],
    ['may have less than the function', '3 5', { min: 3, max: 5 }],
    ['begins with all that there is', '32', { min: 32, max: 32 }],
  ])('%s', (_what, memory, pages) => {
    expect(pagesOf(limited(command('(nop)', { memory })))).toEqual(pages);
  });

  it('with a size of several bytes before and after', () => {
    expect(pagesOf(limited(command('(nop)', { memory: '200 60000' }), 1_024))).toEqual({ min: 200, max: 16_384 });
  });

  it('is at most what 32 bits address', () => {
    const bytes = limited([...HEADER, ...section(5, [1, 0, 1])], 10_240);
    expect([...bytes.subarray(HEADER.length)]).toEqual(section(5, [1, 1, 1, ...leb(65_536)]));
  });

  it('that begins with more than the function has is refused', () => {
    expect(() => limited(command('(nop)', { memory: '33' }))).toThrow(
      expect.objectContaining({
        code: 'FUNCTION_OUT_OF_MEMORY',
        retry: 'never',
        details: { file: 'handler.wasm', pages: 33, memoryMb: 2 },
      }),
    );
  });

  it('leaves all other sections as they are', () => {
    const custom = section(0, [3, 97, 98, 99, 1, 2, 3]);
    const bytes = limited([...HEADER, ...custom, ...TYPE, ...section(5, [1, 0, 1]), ...custom]);
    expect([...bytes]).toEqual([...HEADER, ...custom, ...TYPE, ...section(5, [1, 1, 1, 32]), ...custom]);
  });
});

describe('the tables of a module', () => {
  it('grow to a million entries together', () => {
    const bytes = limited([...HEADER, ...section(4, [2, 0x70, 0, 5, 0x6f, 1, 1, 10])]);
    expect([...bytes.subarray(HEADER.length)]).toEqual(section(4, [2, 0x70, 1, 5, ...leb(500_000), 0x6f, 1, 1, 10]));
  });

  it('with more at the start are refused', () => {
    const half = [0x70, 0, ...leb(500_001)];
    expect(() => limited([...HEADER, ...section(4, [2, ...half, ...half])])).toThrow(/tables of more than 1000000 entries/);
  });
});

describe('a module that is too much for who runs it', () => {
  it.each<readonly [string, readonly number[], readonly number[], RegExp]>([
    [
      'elements',
      section(
        9,
        Array.from({ length: 1_000_000 }, () => 0),
      ),
      section(
        9,
        Array.from({ length: 1_000_001 }, () => 0),
      ),
      /1000001 bytes of elements for its tables; it may have 1000000/,
    ],
    ['imports', section(2, leb(1_000)), section(2, leb(1_001)), /has 1001 imports; it may have 1000/],
    ['exports', section(7, leb(100_000)), section(7, leb(100_001)), /has 100001 exports; it may have 100000/],
  ])('by its %s', (_what, most, more, message) => {
    expect([...limited([...HEADER, ...most])].length).toBe(HEADER.length + most.length);
    expect(() => limited([...HEADER, ...more])).toThrow(
      expect.objectContaining({ code: 'PACKAGE_INVALID', message: expect.stringMatching(message) }),
    );
  });
});

describe('what is no module', () => {
  const memory = command('(nop)');
  it.each<readonly [string, readonly number[] | Uint8Array, RegExp]>([
    ['nothing', [], /not a WebAssembly module/],
    ['text', Buffer.from('export const handler = 1;'), /not a WebAssembly module/],
    ['a header alone, cut', HEADER.slice(0, 6), /truncated: it has 6 bytes/],
    ['a component', [0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0], /is a component.*wasm32-wasip1/],
    ['another version', [0, 0x61, 0x73, 0x6d, 2, 0, 0, 0], /version 2/],
    ['a module cut in the middle', memory.subarray(0, memory.length - 5), /truncated/],
    ['a size without an end', [...HEADER, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80], /longer than 32 bits/],
    ['a size above 32 bits', [...HEADER, 1, 0xff, 0xff, 0xff, 0xff, 0x7f], /longer than 32 bits/],
    ['more types than bytes', [...HEADER, ...section(1, [0xff, 0x7f])], /truncated/],
    ['two memories', [...HEADER, ...section(5, [2, 0, 1, 0, 1])], /has 2 memories/],
    ['a shared memory', [...HEADER, ...section(5, [1, 3, 1, 1])], /shared, of 64 bits/],
    ['a memory of 64 bits', [...HEADER, ...section(5, [1, 4, 1])], /shared, of 64 bits/],
    ['an array type', [...HEADER, ...section(1, [1, 0x5e, 0x7f, 1])], /garbage-collected/],
    ['a struct type behind a function', [...HEADER, ...section(1, [2, 0x60, 1, 0x64, 0x70, 0, 0x5f, 0])], /garbage-collected/],
    ['a table of typed references', [...HEADER, ...section(4, [1, 0x64, 0x70, 0, 1])], /typed references/],
  ])('%s', (_what, bytes, message) => {
    expect(() => limited(bytes)).toThrow(expect.objectContaining({ code: 'PACKAGE_INVALID', message: expect.stringMatching(message) }));
  });

  it('any part of a module is refused or a module, never a crash', () => {
    const bytes = command('(nop)', { rest: '(table 5 funcref)' });
    for (let length = 0; length < bytes.length; length += 1) {
      try {
        expect(limited(bytes.subarray(0, length)).length).toBeGreaterThan(7);
      } catch (error) {
        expect(error).toMatchObject({ code: 'PACKAGE_INVALID' });
      }
    }
  });
});

describe('the interface of a module', () => {
  const check = (text: string) => () => checkInterface(new WebAssembly.Module(wat(text)), 'handler.wasm');

  it('a command and a reactor are taken', () => {
    expect(check('(module (memory (export "memory") 1) (func (export "_start")))')).not.toThrow();
    expect(
      check(`(module (memory (export "memory") 1) (func (export "alloc") (param i32) (result i32) (i32.const 0))
        (func (export "handle") (param i32 i32) (result i64) (i64.const 0)))`),
    ).not.toThrow();
  });

  it('imports of others are refused with their names', () => {
    expect(
      check(`(module (import "env" "abort" (func)) (import "env" "memory" (memory 1)) (import "wasi_snapshot_preview1" "fd_read" (func))
        (import "wasi_snapshot_preview1" "open_everything" (func)) (export "memory" (memory 0)) (func (export "_start")))`),
    ).toThrow(
      expect.objectContaining({
        code: 'PACKAGE_INVALID',
        details: { file: 'handler.wasm', imports: ['env.abort', 'wasi_snapshot_preview1.open_everything', 'env.memory'] },
        message: expect.stringContaining('imports env.abort, wasi_snapshot_preview1.open_everything, env.memory;'),
      }),
    );
  });

  it('neither is refused', () => {
    expect(check('(module (func (export "_start")))')).toThrow(/exports no memory/);
    expect(check('(module (memory (export "memory") 1))')).toThrow(/neither _start/);
    expect(check('(module (memory (export "memory") 1) (global (export "_start") i32 (i32.const 1)))')).toThrow(/neither _start/);
  });
});
