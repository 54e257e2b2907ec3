import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ProcessHost } from '../../plugins/process/index.ts';
import type { ProgramSpec } from '../../src/plugin.ts';
import { isAlive } from '../support/alive.ts';
import { reservedPort } from '../support/reserved-port.ts';

const PROGRAM = `
import { createServer } from 'node:http';
import { readFileSync, writeFileSync } from 'node:fs';
console.log(JSON.stringify({ level: 30, time: Date.now(), msg: readFileSync('word.txt', 'utf8') }));
console.log(JSON.stringify({ level: 50, time: Date.now(), msg: 'secret has ' + (process.env.KEY ?? '').length + ' characters' }));
createServer((request, response) => response.end('ok')).listen(Number(process.env.PORT), '127.0.0.1');
process.on('SIGTERM', () => { writeFileSync(process.env.MARK, 'drained'); process.exit(0); });
`;

let folder: string;
let host: ProcessHost;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'host-'));
  host = new ProcessHost({ folder: join(folder, 'machines'), environment: { KEY: 'swordfish' } });
});
afterEach(async () => {
  for await (const { name } of host.list()) await host.terminate(name);
  rmSync(folder, { recursive: true });
});

async function spec(word = 'hello', program = PROGRAM): Promise<ProgramSpec> {
  const healthPort = await reservedPort();
  return {
    name: 'orchestrator',
    files: { 'main.mjs': Buffer.from(program), 'word.txt': Buffer.from(word) },
    args: ['main.mjs'],
    environment: { PORT: String(healthPort), MARK: join(folder, 'mark') },
    secrets: { KEY: 'env:KEY' },
    healthPort,
  };
}

async function allOf<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

describe('programs on this machine', () => {
  test('one that runs as it should is left alone, another specification replaces it after it has drained', async () => {
    const first = await spec();
    const { machine, changes } = await host.run(first);
    expect(changes).toEqual([{ action: 'create', resource: 'process', id: 'orchestrator' }]);
    expect(machine).toMatchObject({ status: 'running', healthUrl: `http://127.0.0.1:${first.healthPort}` });
    expect(machine?.memoryBytes).toBeGreaterThan(10_000_000);
    expect(await host.run(first)).toMatchObject({ changes: [], machine: { id: machine?.id } });

    const second = { ...first, files: { ...first.files, 'word.txt': Buffer.from('again') } };
    expect(await host.run(second, { dryRun: true })).toMatchObject({ changes: [{ action: 'update' }], machine: { id: machine?.id } });
    const replaced = await host.run(second);
    expect(replaced).toMatchObject({ changes: [{ action: 'update' }], machine: { status: 'running' } });
    expect(readFileSync(join(folder, 'mark'), 'utf8')).toBe('drained');
    expect(isAlive(machine?.id ?? '')).toBe(false);
  });

  test('another process, which never saw the first one, finds it, reads its log and ends it', async () => {
    const { machine } = await host.run(await spec());
    const later = new ProcessHost({ folder: join(folder, 'machines') });
    expect(await later.describe('orchestrator')).toMatchObject({ id: machine?.id, status: 'running' });
    const all = await allOf(later.logs('orchestrator'));
    expect(all.map(({ message, level }) => [(JSON.parse(message) as { msg: string }).msg, level])).toEqual([
      ['hello', 'info'],
      ['secret has 9 characters', 'error'],
    ]);
    expect(await allOf(later.logs('orchestrator', { level: 'error' }))).toHaveLength(1);
    expect(await allOf(later.logs('orchestrator', { limit: 1 }))).toHaveLength(1);
    expect((await later.terminate('orchestrator')).changes).toEqual([{ action: 'delete', resource: 'process', id: 'orchestrator' }]);
    expect(isAlive(machine?.id ?? '')).toBe(false);
    expect(await later.terminate('orchestrator')).toEqual({ changes: [], warnings: [] });
    expect(await later.describe('orchestrator')).toBeUndefined();
  });

  test('what is kept on disk holds no secret', async () => {
    await host.run(await spec());
    expect(readFileSync(join(folder, 'machines', 'orchestrator', 'machine.json'), 'utf8')).not.toContain('swordfish');
  });

  test('another value of a secret is another program; what tells so gives nothing away', async () => {
    const first = await spec();
    const { machine } = await host.run(first);
    const rotated = new ProcessHost({ folder: join(folder, 'machines'), environment: { KEY: 'trident' } });
    expect(await rotated.run(first, { dryRun: true })).toMatchObject({ changes: [{ action: 'update' }], machine: { id: machine?.id } });
    const replaced = await rotated.run(first);
    expect(replaced.changes).toEqual([{ action: 'update', resource: 'process', id: 'orchestrator' }]);
    expect(isAlive(machine?.id ?? '')).toBe(false);
    const messages = (await allOf(rotated.logs('orchestrator'))).map(({ message }) => (JSON.parse(message) as { msg: string }).msg);
    expect(messages.slice(-1)).toEqual(['secret has 7 characters']);
    expect(await rotated.run(first)).toMatchObject({ changes: [] });

    const key = join(folder, 'machines', '.fingerprint-key');
    expect([statSync(key).mode & 0o777, statSync(key).size]).toEqual([0o600, 32]);
    // The same program with the same secret in another folder has another digest: without the key nothing can be tried.
    const elsewhere = new ProcessHost({ folder: join(folder, 'elsewhere'), environment: { KEY: 'trident' } });
    await rotated.terminate('orchestrator');
    expect((await elsewhere.run(first)).machine?.specSha256).not.toBe(replaced.machine?.specSha256);
    await elsewhere.terminate('orchestrator');
  });

  test('its log is bounded while nobody looks, and keeps its end', async () => {
    const chatty = `
      import { createServer } from 'node:http';
      const line = 'x'.repeat(1_000);
      for (let index = 0; index < 40_000; index += 1) process.stdout.write(index + ' ' + line + '\\n');
      createServer((request, response) => response.end('ok')).listen(Number(process.env.PORT), '127.0.0.1');`;
    await host.run(await spec('hello', chatty));
    const file = join(folder, 'machines', 'orchestrator', 'log');
    await expect.poll(() => statSync(file).size, { timeout: 10_000 }).toBeLessThan(9_000_000);
    const kept = await allOf(host.logs('orchestrator', { limit: 100_000 }));
    const numbers = kept.map(({ message }) => Number(message.split(' ')[0]));
    expect([numbers.length > 5_000, numbers.at(-1), (numbers.at(-1) ?? 0) - (numbers[0] ?? 0) + 1]).toEqual([true, 39_999, numbers.length]);
  });

  test('a secret that is missing is told by a dry run, which writes nothing', async () => {
    const { secrets: _, ...open } = await spec();
    await expect(host.run({ ...open, secrets: { KEY: 'env:NOT_SET' } }, { dryRun: true })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
    });
    await host.run(await spec(), { dryRun: true });
    expect(existsSync(join(folder, 'machines'))).toBe(false);
  });

  test('a sender that died right after the start is made up for: the process is found by its token, and is not started twice', async () => {
    const first = await spec();
    const { machine } = await host.run(first);
    const file = join(folder, 'machines', 'orchestrator', 'machine.json');
    const { process: _, ...note } = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    writeFileSync(file, JSON.stringify(note));
    expect(await host.run(first)).toMatchObject({ changes: [], machine: { id: machine?.id } });
  });

  test('one that was killed is started again', async () => {
    const first = await spec();
    const { machine } = await host.run(first);
    process.kill(Number(machine?.id), 'SIGKILL');
    await expect.poll(async () => (await host.describe('orchestrator'))?.status).toBe('stopped');
    const again = await host.run(first);
    expect(again).toMatchObject({ changes: [{ action: 'create' }], machine: { status: 'running' } });
    expect(again.machine?.id).not.toBe(machine?.id);
  });

  test('one that ends before it is ready is told with its last lines', async () => {
    const broken = await spec('hello', 'console.error("no such thing as a free port"); process.exit(3);');
    await expect(host.run(broken)).rejects.toMatchObject({
      code: 'DEPLOY_FAILED',
      message: expect.stringContaining('no such thing as a free port'),
    });
  });

  test('bad specifications are refused before anything is started', async () => {
    const good = await spec();
    for (const bad of [
      { ...good, name: '../x' },
      { ...good, files: { '../x': new Uint8Array() } },
      { ...good, args: ['other.mjs'] },
      { ...good, secrets: { KEY: 'swordfish' } },
      { ...good, secrets: { KEY: 'env:NOT_SET' } },
    ])
      await expect(host.run(bad)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    expect(await allOf(host.list())).toEqual([]);
  });
});
