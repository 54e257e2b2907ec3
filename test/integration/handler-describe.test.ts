import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { startDescriber } from '../../src/deploy/describe.ts';
import { sha256Of } from '../../src/deploy/zip.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';

const folder = temporaryFolder('describe');
let bundles = 0;

interface Told {
  readonly id: string;
  readonly pid: number;
}

/** Describes a bundle of this source, whose job is `{ id, pid }`: what it is called, and the process that told it. */
async function describeJob(id: string, source = '', timeoutMs = 20_000): Promise<Told> {
  const file = join(folder, `${(bundles += 1)}.mjs`);
  const code = `${source}\nexport default { jobs: [{ id: ${id}, pid: process.pid }] };\n`;
  writeFileSync(file, code);
  const describer = startDescriber({ entry: file, env: { PATH: '/usr/bin:/bin', TEST: 'describe' }, timeoutMs });
  try {
    const [job] = (await describer.describe(file, sha256Of(Buffer.from(`${bundles} ${code}`)))) as unknown as readonly Told[];
    if (!job) throw new Error('no job');
    return job;
  } finally {
    describer.close();
  }
}

test('one process tells one bundle after the other', async () => {
  const first = await describeJob('"a"');
  const second = await describeJob('"b"');
  expect([first.id, second.id, second.pid]).toEqual(['a', 'b', first.pid]);
});

test.each([
  ['a global', 'globalThis.left = 1;'],
  ['a method of what is built in', 'Array.prototype.left = () => {};'],
  ['another in the place of one', 'JSON.stringify = ((before) => (...all) => before(...all))(JSON.stringify);'],
  ['a variable of the environment', 'process.env.LEFT = "1";'],
  ['a listener', 'process.on("warning", () => {});'],
  ['a timer', 'setInterval(() => {}, 1000);'],
  ['a server', 'import { createServer } from "node:net"; await new Promise((resolve) => createServer().listen(0, "127.0.0.1", resolve));'],
])('a bundle that leaves %s behind is the last one of its process', async (_, source) => {
  const { pid } = await describeJob('"a"', source);
  const next = await describeJob('[globalThis.left, [].left, process.env.LEFT].every((each) => each === undefined)');
  expect(next).toMatchObject({ id: true });
  expect(next.pid).not.toBe(pid);
});

test.each([
  ['throws', 'throw new Error("twice");', /was bundled, but it ended with status 1\n[\s\S]*Error: twice/],
  ['ends the process', 'process.exit(7);', /was bundled, but it ended with status 7$/],
  ['kills the process', 'process.kill(process.pid, "SIGKILL"); await new Promise(() => setInterval(() => {}, 1000));', /status SIGKILL$/],
  ['never goes on', 'while (true);', /was bundled, but it did not load within 1 s$/],
  ['waits for ever', 'await new Promise(() => setInterval(() => {}, 1000));', /did not load within 1 s$/],
  [
    'writes without end',
    'import { writeSync } from "node:fs"; const text = "x".repeat(65_536); for (;;) try { writeSync(2, text); } catch {}',
    /it ended with status SIGKILL\nx+$/,
  ],
  ['writes to the descriptor', 'import { writeSync } from "node:fs"; writeSync(1, "hello");', /in the way of the handler: hello$/],
])('a bundle that %s is refused, in a process that told others before too', async (_, source, message) => {
  const { pid } = await describeJob('"a"');
  expect((await describeJob('"b"')).pid).toBe(pid);
  const isLate = message.source.includes('within 1 s');
  await expect(describeJob('"c"', source, isLate ? 1_000 : 20_000)).rejects.toMatchObject({
    code: 'BUILD_FAILED',
    message: expect.stringMatching(message),
  });
  expect((await describeJob('"d"')).id).toBe('d');
});

test('what fails only where another bundle was loaded before is asked again in a new process', async () => {
  const once = 'import net from "node:net"; if (net.isLoaded) throw new Error("twice"); net.isLoaded = true;';
  const first = await describeJob('"a"', once);
  const second = await describeJob('"b"', once);
  expect([second.id, second.pid === first.pid]).toEqual(['b', false]);
});

test('what is printed is not in the way', async () => {
  expect((await describeJob('"a"', 'console.log("hello"); process.stdout.write("there");')).id).toBe('a');
});

test('a program whose build failed before there was a bundle ends', () => {
  const module = new URL('../../src/deploy/package.ts', import.meta.url).href;
  const build = `buildHandler({ entry: ${JSON.stringify(join(folder, 'none.ts'))}, outDir: ${JSON.stringify(folder)} })`;
  const held = `console.log(process.getActiveResourcesInfo().filter((name) => name === 'ProcessWrap').length)`;
  const program = `import { buildHandler } from ${JSON.stringify(module)};\nawait ${build}.catch(() => {});\n${held};`;
  expect(execFileSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' })).toBe('0\n');
});
