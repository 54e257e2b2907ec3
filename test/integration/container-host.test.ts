import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect } from 'vitest';
import { ContainerMachineHost } from '../../plugins/container/index.ts';
import type { ProgramSpec } from '../../src/plugin.ts';
import { testDocker } from '../support/container-engine.ts';

const PROGRAM = `
import { createServer } from 'node:http';
import { readFileSync, writeFileSync, existsSync } from 'node:fs';
const data = '/var/lib/blueprint-runner/starts';
const starts = existsSync(data) ? Number(readFileSync(data, 'utf8')) + 1 : 1;
writeFileSync(data, String(starts));
console.log(JSON.stringify({ level: 30, msg: readFileSync('word.txt', 'utf8'), starts, user: process.getuid() }));
try { writeFileSync('/var/task/x', ''); } catch (error) { console.log(JSON.stringify({ level: 50, msg: error.code })); }
createServer((request, response) => response.end('ok')).listen(8123, '127.0.0.1');
process.on('SIGTERM', () => { console.log('drained'); process.exit(0); });
`;

let folder: string;
let host: ContainerMachineHost;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'machine-'));
  host = new ContainerMachineHost({ folder, stopTimeoutMs: 5_000 });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function spec(word: string, program = PROGRAM): ProgramSpec {
  return {
    name: `test-${process.pid}`,
    files: { 'main.mjs': Buffer.from(program), 'word.txt': Buffer.from(word) },
    args: ['main.mjs'],
    environment: { NODE_ENV: 'production' },
    healthPort: 8123,
    memoryMb: 128,
  };
}

async function allOf<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

testDocker('a program in a container: started once, replaced with its data kept, found again, ended', async () => {
  const { name } = spec('hello');
  try {
    const { machine, changes } = await host.run(spec('hello'));
    expect(changes).toEqual([{ action: 'create', resource: 'container', id: `bpr-${name}` }]);
    expect(machine).toMatchObject({ status: 'running', name });
    expect(await host.run(spec('hello'))).toMatchObject({ changes: [], machine: { id: machine?.id } });
    // The engine copies what a program writes behind its back.
    await expect
      .poll(async () => (await allOf(host.logs(name))).map(({ message, level }) => [JSON.parse(message) as unknown, level]))
      .toEqual([
        [{ level: 30, msg: 'hello', starts: 1, user: 993 }, 'info'],
        [{ level: 50, msg: 'EROFS' }, 'error'],
      ]);

    const replaced = await host.run(spec('again'));
    expect(replaced).toMatchObject({ changes: [{ action: 'update' }], machine: { status: 'running' } });
    const first = async (): Promise<unknown> =>
      JSON.parse((await allOf(new ContainerMachineHost({ folder }).logs(name)))[0]?.message ?? 'null');
    await expect.poll(first).toMatchObject({ msg: 'again', starts: 2 });
    expect((await allOf(host.list())).map((found) => found.name)).toContain(name);
    const another = new ContainerMachineHost({ folder: join(folder, 'another') });
    expect(await another.describe(name)).toMatchObject({ status: 'foreign' });
    for (const attempt of [() => another.run(spec('mine')), () => another.terminate(name)])
      await expect(attempt()).rejects.toMatchObject({ code: 'RESOURCE_FOREIGN' });
    expect(await allOf(another.list())).toEqual([]);
    expect((await host.terminate(name)).changes).toHaveLength(1);
    expect(await host.terminate(name)).toEqual({ changes: [], warnings: [] });
    expect(await host.describe(name)).toBeUndefined();
  } finally {
    await host.terminate(name);
  }
});

testDocker('one that fails at its start is told with its last lines', async () => {
  const broken = spec('x', "console.error('no configuration'); process.exit(3);");
  try {
    await expect(host.run(broken)).rejects.toMatchObject({ code: 'DEPLOY_FAILED', message: expect.stringContaining('no configuration') });
  } finally {
    await host.terminate(broken.name);
  }
});
