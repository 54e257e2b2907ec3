import { spawnSync } from 'node:child_process';
import { openSync, writeFileSync } from 'node:fs';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { buildFixture, pipe, start, startGate, temporaryDirectory } from '../fixtures/handler/process.ts';
import type { HandlerProcess, StartOptions, UnpackedHandler } from '../fixtures/handler/process.ts';

let unpacked: UnpackedHandler;
beforeAll(async () => {
  unpacked = await buildFixture();
});

const running: HandlerProcess[] = [];
afterEach(async () => {
  for (const process of running.splice(0)) await process.stop();
});

function run(options: StartOptions = {}): HandlerProcess {
  const process = start(unpacked.file, options);
  running.push(process);
  return process;
}

const request = (jobId: number, body = ''): string => JSON.stringify({ job_id: jobId, args: [...Buffer.from(body)] });
const result = (body: string): string => JSON.stringify({ result: [...Buffer.from(body)] });
const next = async ({ lines }: HandlerProcess): Promise<string | undefined> => (await lines.next()).value as string | undefined;

describe('one request', () => {
  test('from a file, with nothing else said', () => {
    const file = `${temporaryDirectory()}/request.json`;
    writeFileSync(file, request(2, 'hello'));
    const { status, stdout } = spawnSync(process.execPath, [unpacked.file], { stdio: [openSync(file, 'r'), 'pipe', 'pipe'], env: {} });
    expect([status, stdout.toString()]).toEqual([0, `${result('hello')}\n`]);
  });

  test('what the jobs print goes to stderr, also while they load', async () => {
    const child = run();
    expect((await pipe(child, request(10, 'x'))).toString()).toBe(`${result('x')}\n`);
    expect(child.stderr()).toMatch(/^printed while the module loads\n/);
    expect(child.stderr()).toContain('{"result":[6,6,6]}\nnoise\n');
  });

  test('an error is an answer: status 0', async () => {
    const child = run();
    expect(JSON.parse((await pipe(child, request(3))).toString())).toMatchObject({
      code: 'JOB_FAILED',
      error: expect.stringContaining('the oven is cold'),
    });
    expect(await child.exit).toBe(0);
  });

  test('an empty input is answered too', async () => {
    expect(JSON.parse((await pipe(run(), '')).toString())).toMatchObject({ code: 'WIRE_MALFORMED' });
  });

  test('a request beyond the limit is answered before its end', async () => {
    const child = run({ env: { BLUEPRINT_REQUEST_BYTES_MAX: '100' } });
    child.child.stdin.write(Buffer.alloc(101, 0x20));
    expect(JSON.parse((await next(child)) ?? '')).toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
    expect(await child.exit).toBe(0);
  });

  test('ends although a job left a timer behind', async () => {
    const child = run();
    expect((await pipe(child, request(105, 'x'))).toString()).toBe(`${result('x')}\n`);
    expect(await child.exit).toBe(0);
  });

  test('a result of megabytes arrives whole', async () => {
    const answer = JSON.parse((await pipe(run(), request(104, '3000000'))).toString()) as { result: number[] };
    expect([answer.result.length, answer.result.at(-1)]).toEqual([3_000_000, 0x61]);
  });

  test('a module that does not load: the reason on stderr, nothing on stdout, status 1', async () => {
    const child = run({ env: { FAIL_AT_LOAD: '1' } });
    expect((await pipe(child, request(2))).toString()).toBe('');
    expect(await child.exit).toBe(1);
    expect(child.stderr()).toContain('there is no database address');
  });

  test('an exception that nobody catches: the answer says so, status 1', async () => {
    const child = run();
    expect(JSON.parse((await pipe(child, request(100))).toString())).toMatchObject({
      code: 'FUNCTION_FAILED',
      error: expect.stringContaining('nobody catches this') as string,
    });
    expect(await child.exit).toBe(1);
  });
});

describe('line by line', () => {
  const lines = { args: ['--stdio=lines'] };

  test('answers in the order of the requests, whatever the pieces they arrive in', async () => {
    const child = run(lines);
    const input = ['a', 'b', 'c', 'd'].map((each) => request(2, each)).join('\n');
    for (const piece of input.match(/.{1,7}|\n/gs) ?? []) child.child.stdin.write(piece);
    child.child.stdin.end();
    expect([await next(child), await next(child), await next(child), await next(child), await next(child)]).toEqual([
      ...['a', 'b', 'c', 'd'].map(result),
      undefined,
    ]);
    expect(await child.exit).toBe(0);
  });

  test('empty lines say nothing; a bad line and one beyond the limit are answered, and the next is taken', async () => {
    const child = run({ ...lines, env: { BLUEPRINT_REQUEST_BYTES_MAX: '100' } });
    child.child.stdin.write(`\n\nnonsense\n${' '.repeat(60)}`);
    child.child.stdin.write(`${' '.repeat(60)}\n${request(2, 'x')}\n`);
    const codes = [await next(child), await next(child)].map((line) => (JSON.parse(line ?? '') as { code: unknown }).code);
    expect([codes, await next(child)]).toEqual([['WIRE_MALFORMED', 'PAYLOAD_TOO_LARGE'], result('x')]);
  });

  test('chosen by the environment too', async () => {
    const child = run({ env: { BLUEPRINT_ADAPTER: 'stdio-lines' } });
    child.child.stdin.write(`${request(2, 'x')}\n`);
    expect(await next(child)).toBe(result('x'));
  });

  test('SIGTERM: the running call is answered, the next line is not taken, status 0', async () => {
    const child = run(lines);
    const gate = await startGate();
    child.child.stdin.write(`${request(102, gate.url)}\n${request(2, 'x')}\n`);
    await child.logged('slow job runs');
    child.child.kill('SIGTERM');
    await child.logged('the handler stops');
    gate.open();
    expect([await next(child), await next(child)]).toEqual([result('done'), undefined]);
    expect(await child.exit).toBe(0);
  });

  test('SIGTERM while it waits: status 0', async () => {
    const child = run(lines);
    await child.address;
    child.child.kill('SIGTERM');
    expect(await child.exit).toBe(0);
  });

  test('SIGTERM and a call that does not end: it is cancelled and answered, status 1', async () => {
    const child = run({ ...lines, env: { BLUEPRINT_DRAIN_MS: '50' } });
    child.child.stdin.write(`${request(102, '60000')}\n`);
    await child.logged('slow job runs');
    child.child.kill('SIGTERM');
    expect(JSON.parse((await next(child)) ?? '')).toMatchObject({ code: 'ABORTED' });
    expect(await child.exit).toBe(1);
  });
});

describe('--describe', () => {
  test('prints the jobs and nothing else', async () => {
    const child = run({ args: ['--describe'] });
    const jobs = JSON.parse((await pipe(child, '')).toString()) as object[];
    expect(jobs[0]).toEqual({ id: '0', name: 'square', params: 'uint64 x', result: 'uint64', raw: false, idempotent: false });
    expect(jobs).toHaveLength(22);
  });

  test('an unknown flag is refused with the known ones', async () => {
    const child = run({ args: ['--descibe'] });
    expect(await child.exit).toBe(1);
    expect(child.stderr()).toContain(
      'the flag is --descibe; it must be one of --http, --stdio, --stdio=lines, --lambda-runtime, --describe',
    );
  });
});
