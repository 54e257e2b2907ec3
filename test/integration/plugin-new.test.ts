import { execFile } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const BPR = join(ROOT, 'test/fixtures/cli/bpr.ts');
const COMPILER = join(ROOT, 'node_modules/typescript/bin/tsc');
/** Nothing of this process must decide what the generated package does. */
const env = { PATH: '/usr/bin:/bin', HOME: '/nonexistent', TMPDIR: tmpdir() };

interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

let folder = '';

/** The generated packages find this one as npm would install it, but as its sources. */
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bpr-plugin-new-'));
  const modules = join(folder, 'node_modules');
  const own = join(modules, 'blueprint-runner');
  await mkdir(own, { recursive: true });
  for (const name of ['src', 'handler', 'plugins']) await symlink(join(ROOT, name), join(own, name));
  await symlink(join(ROOT, 'node_modules/@types'), join(modules, '@types'));
  await symlink(join(ROOT, 'node_modules/undici-types'), join(modules, 'undici-types'));
  const exports = {
    '.': './src/index.ts',
    './plugin': './src/plugin.ts',
    './conformance': './src/conformance/conformance.ts',
    './handler': './handler/index.ts',
  };
  await writeFile(join(own, 'package.json'), JSON.stringify({ name: 'blueprint-runner', type: 'module', exports }));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function node(args: readonly string[], cwd = folder): Promise<Ran> {
  const ended = run(process.execPath, args, { cwd, env, maxBuffer: 64 * 1024 * 1024 });
  return ended.then(
    ({ stdout, stderr }) => ({ status: 0, stdout, stderr }),
    // What execFile rejects with has these.
    ({ code, stdout, stderr }: { code: number; stdout: string; stderr: string }) => ({ status: code, stdout, stderr }),
  );
}

const bpr = (...args: readonly string[]): Promise<Ran> => node([BPR, ...args]);

function count(tap: string, what: string): number {
  return Number(new RegExp(`^# ${what} (\\d+)$`, 'm').exec(tap)?.[1]);
}

describe.each([
  { kind: 'deployer', name: 'my-cloud', passes: 60, skips: 0 },
  { kind: 'executor', name: 'plain', passes: 20, skips: 0 },
  { kind: 'backend', name: 'own-machines', passes: 18, skips: 6 },
])('bpr plugin new --kind $kind', ({ kind, name, passes, skips }) => {
  const directory = (): string => join(folder, `blueprint-plugin-${name}`);

  it('writes a package that says nothing of its template', async () => {
    const { status, stdout } = await bpr('plugin', 'new', name, '--kind', kind, '--json');
    expect(status).toBe(0);
    const { files, root } = JSON.parse(stdout) as { files: string[]; root: string };
    expect(readdirSync(root).toSorted()).toEqual(files.toSorted());
    for (const file of files) expect(readFileSync(join(root, file), 'utf8')).not.toMatch(/acme|deployer:(?:begin|end)|\.\.\/src/i);
    expect(files.includes('deployer.ts')).toBe(kind === 'deployer');
  });

  it('its types are right, and what it builds can be imported', async () => {
    expect(await node([COMPILER], directory())).toMatchObject({ status: 0, stdout: '' });
    expect(await node([COMPILER, '-p', 'tsconfig.build.json', '--rootDir', '.', '--noCheck'], directory())).toMatchObject({ status: 0 });
    const { main, exported } = { main: join(directory(), 'dist/index.js'), exported: 'Object.values(await import(process.argv[1]))' };
    const { stdout } = await node(['--input-type=module', '-e', `console.log(${exported}.find((each) => each.register).name)`, main]);
    expect(stdout).toBe(`${name}\n`);
  });

  it('its tests pass: it runs the conformance suites', async () => {
    const { scripts } = JSON.parse(readFileSync(join(directory(), 'package.json'), 'utf8')) as { scripts: { test: string } };
    const [, ...flags] = scripts.test.split(' ');
    const { status, stdout } = await node([...flags, '--test-reporter=tap'], directory());
    expect(stdout.match(/^ *not ok .*$/gm) ?? []).toEqual([]);
    expect(status).toBe(0);
    expect(count(stdout, 'pass')).toBeGreaterThanOrEqual(passes);
    expect(count(stdout, 'skipped')).toBe(skips);
  });
});

describe('bpr plugin new', () => {
  it('does not overwrite, and names what is there', async () => {
    const target = join(folder, 'taken');
    await mkdir(target);
    await writeFile(join(target, 'thesis.txt'), 'years of work');
    const { status, stderr } = await bpr('plugin', 'new', 'taken', '--dir', target);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^CONFIG_INVALID: .* is not empty.*thesis\.txt/);
    expect(readdirSync(target)).toEqual(['thesis.txt']);
    expect((await bpr('plugin', 'new', 'taken', '--dir', join(target, 'thesis.txt'))).stderr).toMatch(/^CONFIG_INVALID: .* is a file/);
  });

  it('a dry run names the files and writes none', async () => {
    const { status, stdout } = await bpr('plugin', 'new', 'dry', '--dry-run');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^Would write:\n[\s\S]*blueprint-plugin-dry\/client\.ts\n/);
    expect(existsSync(join(folder, 'blueprint-plugin-dry'))).toBe(false);
  });

  it.each(['My-Cloud', '1cloud', 'a--b', '-a', '../up', 'a_b', 'x'.repeat(51), 'http', 'kubernetes'])(
    'refuses the name %s',
    async (name) => {
      const { status, stdout } = await bpr('plugin', 'new', '--json', '--', name);
      expect(status).toBe(1);
      expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'CONFIG_INVALID' } });
      expect(readdirSync(folder).filter((file) => file.endsWith(name))).toEqual([]);
    },
  );

  it('a kind that is none is a wrong call', async () => {
    expect((await bpr('plugin', 'new', 'x', '--kind', 'chain')).status).toBe(2);
  });
});
