/** The engine as a command, and modules as authors build them. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { main } from '../../src/cli/main.ts';
import { BlueprintRunner, JobRouter, Metadata } from '../../src/index.ts';
import type { JobCall } from '../../src/index.ts';
import { send } from '../support/gateway.ts';
import { BPR } from '../support/gateway-command.ts';
import { ECHO, Engine, wat } from '../support/wasm.ts';

const EXAMPLES = join(import.meta.dirname, '../../examples/wasm');
const EVENTS = ['{"name":"Ada"}', '{"name":"Žofie \\"Z\\" \\u0159"}'];

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'bpr-ws-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function bpr(...args: string[]): Promise<Ran> {
  const out: Record<'stdout' | 'stderr', string> = { stdout: '', stderr: '' };
  const sink = (name: 'stdout' | 'stderr') => ({ write: (text: string) => void (out[name] += text) });
  const status = await main(args, { stdout: sink('stdout'), stderr: sink('stderr'), env: {}, cwd: folder });
  return { status, ...out };
}

/** The package of an example. */
async function built(name: string): Promise<string> {
  const file = join(folder, `${name}.zip`);
  expect(await bpr('wasm', 'build', join(EXAMPLES, `${name}.ts`), '--out', file, '--json')).toMatchObject({ status: 0 });
  return file;
}

describe('bpr wasm build', () => {
  it('makes the same bytes again, and says their hash', async () => {
    const first = await bpr('wasm', 'build', join(EXAMPLES, 'hello.ts'), '--out', 'one.wasm', '--json');
    const second = await bpr('wasm', 'build', join(EXAMPLES, 'hello.ts'), '--out', 'two.wasm', '--json');
    const told = JSON.parse(first.stdout) as { file: string; bytes: number; sha256: string };
    expect(JSON.parse(second.stdout)).toMatchObject({ sha256: told.sha256, bytes: told.bytes });
    const bytes = readFileSync(join(folder, 'one.wasm'));
    expect([told.file, told.bytes, [...bytes.subarray(0, 4)]]).toEqual([join(folder, 'one.wasm'), bytes.length, [0, 0x61, 0x73, 0x6d]]);
  });

  it('what cannot be compiled fails with the words of the compiler', async () => {
    writeFileSync(join(folder, 'broken.ts'), 'export function handler(event: ArrayBuffer): ArrayBuffer { return missing; }');
    const { status, stderr } = await bpr('wasm', 'build', 'broken.ts');
    expect(status).toBe(1);
    expect(stderr).toMatch(/BUILD_FAILED.*broken\.ts cannot be compiled:[^]*Cannot find name 'missing'/);
    expect(await bpr('wasm', 'build', 'nowhere.ts')).toMatchObject({ status: 1, stderr: expect.stringContaining('BUILD_FAILED') });
  });
});

describe('bpr wasm build refuses', () => {
  it.each(['made.txt', 'made', 'made.zip.old', '.wasm'])('the file %s, which is no package and no module', async (name) => {
    const { status, stderr } = await bpr('wasm', 'build', join(EXAMPLES, 'hello.ts'), '--out', name);
    expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringContaining('It must end in .zip or .wasm.') });
    expect(existsSync(join(folder, name))).toBe(false);
  });

  it.each([[['--nonsense']], [['--', 'more']]])('the flags %j, which the compiler does not know', async (flags) => {
    const given = flags.map((flag) => `--flag=${flag}`);
    const { status, stderr } = await bpr('wasm', 'build', join(EXAMPLES, 'hello.ts'), '--out', 'made.wasm', ...given);
    expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringMatching(/BUILD_FAILED: the compiler .*(?:--nonsense|more)/) });
    expect(existsSync(join(folder, 'made.wasm'))).toBe(false);
  });
});

describe('bpr wasm serve', () => {
  it('serves modules, and ends with 0', async () => {
    const zip = await built('hello');
    const child = spawn(process.execPath, [BPR, 'wasm', 'serve', '--port', '0', '--data-dir', folder, '--json'], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { PATH: process.env['PATH'] },
    });
    const ended = once(child, 'close');
    try {
      const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
      const { url, backends } = JSON.parse(line) as { url: string; backends: string[] };
      expect(backends).toEqual(['wasm']);
      const target = '/api/v1/functions/hello?runtime=wasm&handler=handler.wasm';
      expect(await send(url, `PUT ${target}`, { body: readFileSync(zip) })).toMatchObject({ status: 201, json: { backend: 'wasm' } });
      const answers = await Promise.all(EVENTS.map((body) => send(url, 'POST /api/v1/functions/hello/invoke', { body })));
      expect(answers.map(({ json }) => json)).toEqual([{ greeting: 'Hello, Ada' }, { greeting: 'Hello, Žofie "Z" ř' }]);
      expect(await send(url, 'POST /api/v1/functions/hello/invoke', { body: '{}' })).toMatchObject({
        status: 502,
        code: 'FUNCTION_FAILED',
        text: expect.stringContaining('the event has no name'),
      });
      const { text } = await send(url, 'GET /api/v1/functions/hello/logs');
      expect(text).toContain('greeting Ada');
      // What the backend itself measures is among the metrics of the engine.
      const metrics = await send(url, 'GET /metrics');
      expect(metrics.text).toMatch(/^blueprint_wasm_modules_total\{outcome="miss"\} [1-9]/m);
    } finally {
      child.kill('SIGTERM');
    }
    expect(await ended).toEqual([0, null]);
  });

  it.each([
    [['wasm', 'serve'], 'process', 'wasm'],
    [['gateway', '--backend', 'wasm,process'], 'docker', 'wasm, process'],
    [['gateway'], 'kubernetes', 'process, docker, runc'],
  ])('%j refuses an option of %s, which it does not use', async (command, other, used) => {
    const { status, stderr } = await bpr(...command, '--port', '0', '--data-dir', folder, '--backend-option', `${other}.x=3`);
    expect(status).toBe(1);
    expect(stderr).toContain(`CONFIG_INVALID: the backend ${other} has options and is not used; these are: ${used}`);
  });

  it('does not run without a backend whose options are wrong', async () => {
    const { status, stderr } = await bpr('gateway', '--port', '0', '--data-dir', folder, '--backend-option', 'process.nope=1');
    expect(status).toBe(1);
    expect(stderr).toMatch(/CONFIG_INVALID: .*process has no option nope/);
  });

  it('listens on 27288 unless it is told otherwise', async () => {
    const { stdout } = await bpr('wasm', 'serve', '--help');
    expect(stdout).toMatch(/--port <port>\s+0: any free one \(default: 27288\)/);
    expect(stdout).toMatch(/--host <address>\s+where to listen \(default: "127\.0\.0\.1"\)/);
  });
});

describe("withFaasExecutor(jobId, { use: 'wasm', options: { artifact } })", () => {
  it('runs a job as a module', async () => {
    const artifact = await built('squaring');
    const got = new Map<string, string>();
    const done = Promise.withResolvers<void>();
    async function* calls(): AsyncGenerator<readonly JobCall[]> {
      const word = (x: bigint): Buffer => Buffer.from(x.toString(16).padStart(64, '0'), 'hex');
      yield [3n, 12n, 4_000_000_000n].map((x) => ({ id: `call-${x}`, jobId: 0n, body: word(x), metadata: new Metadata() }));
    }
    const runner = await BlueprintRunner.builder({ dataDir: join(folder, 'd'), ledger: false, metrics: false, logLevel: 'silent' }, {})
      .router(new JobRouter())
      .withFaasExecutor(0, { use: 'wasm', options: { artifact, backend: { blanks: 0 } } })
      .producer({ name: 'three', calls })
      .consumer({
        name: 'list',
        consume: ({ body }, { id }) => {
          got.set(id, BigInt(`0x${Buffer.from(body).toString('hex')}`).toString());
          if (got.size === 3) done.resolve();
        },
      })
      .onError((error) => done.reject(error))
      .start();
    try {
      await done.promise;
    } finally {
      await runner.stop();
    }
    expect(Object.fromEntries(got)).toEqual({ 'call-3': '9', 'call-12': '144', 'call-4000000000': '16000000000000000000' });
  });
});

describe('a deterministic function', () => {
  const SOURCE = `import { now, randomBytes, variable } from 'blueprint';
    export function handler(event: ArrayBuffer): ArrayBuffer {
      const bytes = Uint8Array.wrap(randomBytes(40));
      let text = now().toString() + ' ' + Math.random().toString() + ' ' + (variable('WASM_DETERMINISTIC') == null ? 'unseen' : 'seen');
      for (let index = 0; index < bytes.length; index += 1) text += ' ' + bytes[index].toString();
      return String.UTF8.encode(text);
    }`;

  it('answers an event always the same way, on every engine', async () => {
    writeFileSync(join(folder, 'chance.ts'), SOURCE);
    expect(await bpr('wasm', 'build', 'chance.ts', '--out', 'chance.wasm')).toMatchObject({ status: 0 });
    const module = readFileSync(join(folder, 'chance.wasm'));
    const [one, other] = [await Engine.start(), await Engine.start()];
    try {
      const environment = { WASM_DETERMINISTIC: 'seed 1', WASM_CLOCK_MS: '1700000000000' };
      const run = async (engine: Engine, settings: object, event: string): Promise<string> =>
        engine.run(await engine.fn(module, settings), event);
      const first = await run(one, { environment }, 'a');
      expect(first).toMatch(/^1700000000000 0\.\d+ unseen( \d+){40}$/);
      expect(await run(one, { environment }, 'a')).toBe(first);
      expect(await run(other, { environment }, 'a')).toBe(first);
      expect(await run(one, { environment }, 'b')).not.toBe(first);
      expect(await run(one, { environment: { ...environment, WASM_DETERMINISTIC: 'seed 2' } }, 'a')).not.toBe(first);
      expect(await run(one, {}, 'a')).not.toBe(await run(one, {}, 'a'));
    } finally {
      await Promise.all([one.close(), other.close()]);
    }
  });

  it('sleeps without waiting, and its clock goes on by what it slept', async () => {
    const sleeps = `import { now } from 'blueprint';
      @external('wasi_snapshot_preview1', 'poll_oneoff') declare function poll(from: usize, to: usize, count: u32, at: usize): u32;
      export function handler(event: ArrayBuffer): ArrayBuffer {
        const memory = changetype<usize>(new ArrayBuffer(128));
        const before = now();
        store<u64>(memory, 3600000000000, 24);
        const status = poll(memory, memory + 48, 1, memory + 100);
        return String.UTF8.encode(status.toString() + ' ' + (now() - before).toString());
      }`;
    writeFileSync(join(folder, 'sleeps.ts'), sleeps);
    expect(await bpr('wasm', 'build', 'sleeps.ts', '--out', 'sleeps.wasm')).toMatchObject({ status: 0 });
    const engine = await Engine.start();
    try {
      const fn = await engine.fn(readFileSync(join(folder, 'sleeps.wasm')), { environment: { WASM_DETERMINISTIC: '1' } });
      expect(await engine.run(fn)).toBe('0 3600000');
    } finally {
      await engine.close();
    }
  });

  it('its clock is exact, and goes on by every nanosecond that it slept', async () => {
    const TIME = '(import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))';
    const POLL = '(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))';
    const WRITE = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))';
    // The time, that time and a nanosecond as what it sleeps until, the time after it.
    const module = wat(`(module ${TIME} ${POLL} ${WRITE} (memory (export "memory") 1) (func (export "_start")
      (drop (call $time (i32.const 0) (i64.const 1) (i32.const 1024)))
      (i64.store (i32.const 24) (i64.add (i64.load (i32.const 1024)) (i64.const 1)))
      (i32.store (i32.const 40) (i32.const 1))
      (drop (call $poll (i32.const 0) (i32.const 48) (i32.const 1) (i32.const 100)))
      (drop (call $time (i32.const 0) (i64.const 1) (i32.const 1032)))
      (i32.store (i32.const 200) (i32.const 1024)) (i32.store (i32.const 204) (i32.const 16))
      (drop (call $write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 208)))))`);
    const engine = await Engine.start();
    try {
      for (const clockMs of ['1763816000001', '1763816000002', '1763816000003']) {
        const fn = await engine.fn(module, { environment: { WASM_DETERMINISTIC: '1', WASM_CLOCK_MS: clockMs } });
        const { body } = await engine.runtime.invoke(fn, Buffer.from('{}'));
        const view = Buffer.from(body);
        expect([view.readBigUInt64LE(0), view.readBigUInt64LE(8)]).toEqual([BigInt(`${clockMs}000000`), BigInt(`${clockMs}000001`)]);
      }
    } finally {
      await engine.close();
    }
  });

  it('a time that is none is refused', async () => {
    const engine = await Engine.start();
    try {
      const fn = await engine.fn(ECHO, { environment: { WASM_DETERMINISTIC: '1', WASM_CLOCK_MS: 'noon' } });
      await expect(engine.run(fn)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    } finally {
      await engine.close();
    }
  });
});
