import { spawn, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync, unzipSync, zipSync } from 'fflate';
import type { Zippable } from 'fflate';
import { beforeAll, describe, expect, test } from 'vitest';
import { buildHandler } from '../../src/deploy/package.ts';
import type { BuildHandlerOptions, BuiltHandler } from '../../src/deploy/package.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const sha256 = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');
const temporary = (): string => temporaryFolder('package');

const JOB = `import { defineJob } from '${root}/src/job/job.ts';
import { JobRouter } from '${root}/src/job/router.ts';
const square = defineJob({ name: 'square', params: 'uint64 x', result: 'uint64', idempotent: true, timeoutMs: 5000 }, ([x]) => x * x);
`;
const REQUEST = '{"job_id":0,"args":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,5]}';

/** A project of these files in a directory of its own; builds `jobs.ts`. */
function project(files: Readonly<Record<string, string | Uint8Array>>): (options?: Partial<BuildHandlerOptions>) => Promise<BuiltHandler> {
  const directory = temporary();
  for (const [name, content] of Object.entries({ 'package.json': '{"type":"module"}', ...files })) {
    mkdirSync(dirname(join(directory, name)), { recursive: true });
    writeFileSync(join(directory, name), content);
  }
  return (options) => buildHandler({ entry: join(directory, 'jobs.ts'), outDir: join(directory, 'build/handler'), ...options });
}

/** What the bundle answers to the request, started like on a platform. */
function answer(file: string): string {
  const { stdout, stderr } = spawnSync(process.execPath, [file], { input: REQUEST, env: {} });
  return stdout.toString().trim() || stderr.toString();
}

const SQUARED = JSON.stringify({ result: [...new Uint8Array(31), 25] });

describe('what is built', () => {
  let built: BuiltHandler;
  beforeAll(async () => {
    built = await project({ 'jobs.ts': `${JOB}export default new JobRouter().route(0, square);` })();
  });

  test('one file that runs, with its measures', () => {
    const code = readFileSync(built.file);
    expect(answer(built.file)).toBe(SQUARED);
    expect(built).toMatchObject({
      fileBytes: code.length,
      fileSha256: sha256(code),
      gzipBytes: gzipSync(code, { level: 9, mtime: 0 }).length,
      warnings: [],
    });
    expect(readdirSync(dirname(built.file)).toSorted()).toEqual(['handler.mjs', 'handler.zip']);
  });

  test('the squaring example is at most 50,000 bytes', async () => {
    const entry = fileURLToPath(new URL('../../examples/incredible-squaring/jobs.ts', import.meta.url));
    const example = await buildHandler({ entry, outDir: join(temporary(), 'out') });
    expect(example.fileBytes).toBeLessThanOrEqual(50_000);
    expect(answer(example.file)).toBe(SQUARED);
  });

  test('a zip with the file, what starts it, and what it holds', () => {
    const zip = readFileSync(built.zipFile);
    expect(built).toMatchObject({ zipBytes: zip.length, sha256: sha256(zip) });
    const files = unzipSync(zip);
    expect(Object.keys(files)).toEqual(['bootstrap', 'handler.json', 'handler.mjs', 'host.json', 'package.json']);
    expect(sha256(files['handler.mjs'] ?? new Uint8Array())).toBe(built.fileSha256);
    expect(JSON.parse(Buffer.from(files['handler.json'] ?? []).toString())).toEqual({
      handler: 'handler.mjs',
      sha256: built.fileSha256,
      jobs: built.jobs,
    });
    expect(built.jobs).toEqual([
      { id: '0', name: 'square', params: 'uint64 x', result: 'uint64', raw: false, idempotent: true, timeoutMs: 5_000 },
    ]);
  });

  test('the zip as another program sees it: bootstrap is executable, the date is the oldest', () => {
    const directory = temporary();
    const script =
      'import zipfile,sys,json\nz=zipfile.ZipFile(sys.argv[1])\nassert z.testzip() is None\nprint(json.dumps([[i.filename,oct(i.external_attr>>16),i.create_system,list(i.date_time),len(i.extra)] for i in z.infolist()]))';
    const { stdout, error } = spawnSync('python3', ['-c', script, built.zipFile], { cwd: directory });
    expect(error).toBeUndefined();
    const date = [1980, 1, 1, 0, 0, 0];
    expect(JSON.parse(stdout.toString())).toEqual([
      ['bootstrap', '0o100755', 3, date, 0],
      ['handler.json', '0o100644', 3, date, 0],
      ['handler.mjs', '0o100644', 3, date, 0],
      ['host.json', '0o100644', 3, date, 0],
      ['package.json', '0o100644', 3, date, 0],
    ]);
  });

  test('the zip is, byte for byte, that of a library', () => {
    const zip = readFileSync(built.zipFile);
    const files: Zippable = {};
    for (const [name, data] of Object.entries(unzipSync(zip))) {
      const attrs = (name === 'bootstrap' ? 0o100755 : 0o100644) << 16;
      files[name] = [data, { level: 9, mtime: new Date(1980, 0, 1), os: 3, attrs }];
    }
    expect(zip.equals(zipSync(files))).toBe(true);
  });

  test('bootstrap starts the file from any directory, by path or through sh, with the node that it is told', async () => {
    const directory = temporary();
    for (const [name, data] of Object.entries(unzipSync(readFileSync(built.zipFile))))
      writeFileSync(join(directory, name), data, { mode: name === 'bootstrap' ? 0o755 : 0o644 });
    const run = (command: string, args: string[], cwd: string) =>
      spawnSync(command, args, { cwd, input: REQUEST, env: { PATH: '/usr/bin:/bin', BLUEPRINT_NODE: process.execPath } })
        .stdout.toString()
        .trim();
    expect([run(join(directory, 'bootstrap'), [], '/'), run('./bootstrap', [], directory), run('sh', ['bootstrap'], directory)]).toEqual([
      SQUARED,
      SQUARED,
      SQUARED,
    ]);
  });

  test('what went into it, largest first, by relative paths', () => {
    const sizes = built.inputs.map(({ bytes }) => bytes);
    expect(sizes).toEqual(sizes.toSorted((a, b) => b - a));
    expect(sizes.reduce((sum, bytes) => sum + bytes, 0)).toBeGreaterThan(built.fileBytes * 0.9);
    expect(built.inputs.filter(({ path }) => path.startsWith('/'))).toEqual([]);
  });

  test('nothing of viem, of the runner or of a bundler is in it', () => {
    expect(
      built.inputs
        .map(({ path }) => path.replace(/^(?:\.\.\/)+.*?(?=src\/|handler\/|node_modules\/)/, ''))
        .filter((path) => !/^(?:src\/job|src\/errors\.ts|handler|jobs\.ts|handler-entry\.mjs)/.test(path)),
    ).toEqual([]);
  });
});

describe('the same sources give the same bytes', () => {
  /** A copy of what the build reads, in a directory of its own; builds there in a process of its own. */
  function buildInCopy(
    env: Readonly<Record<string, string>>,
  ): Promise<{ readonly zip: string; readonly code: Buffer; readonly directory: string }> {
    const directory = temporary();
    for (const path of ['package.json', 'src/job', 'src/clock.ts', 'src/errors.ts', 'src/folder.ts', 'src/deploy', 'src/plugin', 'handler'])
      cpSync(join(root, path), join(directory, path), { recursive: true });
    symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'));
    writeFileSync(
      join(directory, 'jobs.ts'),
      "import { defineJob } from './src/job/job.ts';\nimport { JobRouter } from './src/job/router.ts';\nexport const router = new JobRouter().route(0, defineJob({ name: 'echo', raw: true }, (body) => body));\n",
    );
    writeFileSync(
      join(directory, 'build.ts'),
      "import { buildHandler } from './src/deploy/package.ts';\nconsole.log((await buildHandler({ entry: 'jobs.ts', outDir: 'out' })).sha256);\n",
    );
    return new Promise((resolve, reject) => {
      const child = spawn(process.execPath, ['build.ts'], {
        cwd: directory,
        env: { PATH: '/usr/bin:/bin', ...env },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let out = '';
      child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
      child.once('error', reject);
      child.once('close', () => resolve({ zip: out.trim(), code: readFileSync(join(directory, 'out/handler.mjs')), directory }));
    });
  }

  test('in other directories, at other times, in other time zones', async () => {
    const first = await buildInCopy({ TZ: 'America/New_York' });
    const second = await buildInCopy({ TZ: 'Pacific/Kiritimati', LC_ALL: 'de_DE.UTF-8' });
    expect(second.zip).toBe(first.zip);
    expect(second.code.equals(first.code)).toBe(true);
    for (const secret of [first.directory, second.directory, root, tmpdir(), 'node_modules'])
      expect(first.code.includes(secret)).toBe(false);
  });
});

describe('what the module may be', () => {
  test.each([
    ['a named export', 'export const router = new JobRouter().route(0, square);'],
    ['top-level await', 'await new Promise((resolve) => setTimeout(resolve, 1));\nexport const router = new JobRouter().route(0, square);'],
    [
      'output while it loads',
      "console.log('hello');\nprocess.stdout.write('there');\nexport const router = new JobRouter().route(0, square);",
    ],
    ['a timer that goes on', 'setInterval(() => {}, 1000);\nexport const router = new JobRouter().route(0, square);'],
  ])('%s', async (_, source) => {
    expect(answer((await project({ 'jobs.ts': JOB + source })()).file)).toBe(SQUARED);
  });

  test('packages in the older module format, which ask for built-in modules', async () => {
    const build = project({
      'jobs.ts': `${JOB}import { count } from 'older';\nexport const router = new JobRouter().route(count, square);`,
      'node_modules/older/package.json': '{"name":"older","main":"index.cjs"}',
      'node_modules/older/index.cjs': "const { EventEmitter } = require('events');\nexports.count = new EventEmitter().listenerCount('x');",
    });
    expect(answer((await build()).file)).toBe(SQUARED);
  });

  test('minified or not, with a source map beside it or not', async () => {
    const build = project({ 'jobs.ts': `${JOB}export const router = new JobRouter().route(0, square);` });
    const [minified, readable] = [await build(), await build({ minify: false, outDir: temporary() })];
    const mapped = await build({ sourcemap: true, outDir: temporary(), name: 'squares' });
    expect([readable.fileBytes > 1.3 * minified.fileBytes, answer(readable.file)]).toEqual([true, SQUARED]);
    expect([mapped.sha256, mapped.zipFile.endsWith('/squares.zip'), statSync(`${mapped.file}.map`).size > 0]).toEqual([
      minified.sha256,
      true,
      true,
    ]);
  });

  test('what it reads from the environment while the build loads it', async () => {
    const build = project({
      'jobs.ts': `${JOB}if (!process.env.KEY) throw new Error('KEY is not set');\nexport const router = new JobRouter().route(0, square);`,
    });
    await expect(build({ env: {} })).rejects.toThrow('KEY is not set');
    expect((await build({ env: { KEY: 'x' } })).jobs).toHaveLength(1);
  });
});

describe('what is refused, and how', () => {
  const failures: readonly (readonly [string, Readonly<Record<string, string | Uint8Array>>, RegExp])[] = [
    ['no such file', {}, /^there is no .*jobs\.ts$/],
    ['a syntax error', { 'jobs.ts': 'export const router = ;' }, /jobs\.ts cannot be bundled:\nUnexpected ";" \(jobs\.ts:1:22\)$/],
    [
      'an import that is not installed',
      { 'jobs.ts': "import 'left-pad';" },
      /Could not resolve "left-pad" \(jobs\.ts:1:7\); install the package or correct the path$/,
    ],
    [
      'an unknown part of this package',
      { 'jobs.ts': "import 'blueprint-runner/nothing';" },
      /Could not resolve "blueprint-runner\/nothing"/,
    ],
    [
      'a native addon',
      { 'jobs.ts': "import './addon.node';", 'addon.node': Uint8Array.of(127) },
      /addon.*; a native addon cannot be in a bundle that runs on every platform/s,
    ],
    [
      'no router',
      { 'jobs.ts': 'export const route = 1; export default class {}' },
      /was bundled, but .*the module of the jobs exports no JobRouter: export one as default, or named router \(it exports default, route\)/s,
    ],
    [
      'a router without routes',
      { 'jobs.ts': `${JOB}export const router = new JobRouter().always(square);` },
      /exports a router without routes: add one with route\(id, job\)$/,
    ],
    ['a module that throws', { 'jobs.ts': "throw new RangeError('out of cheese');" }, /was bundled, but RangeError: out of cheese\n/],
    ['a module that ends the process', { 'jobs.ts': 'process.exit(7);' }, /was bundled, but it ended with status 7/],
    [
      'a job id that is taken twice',
      { 'jobs.ts': `${JOB}export const router = new JobRouter().route(0, square).route('0x0', square);` },
      /job id 0 is routed to square already/,
    ],
  ];
  test.each(failures)('%s', async (_, files, message) => {
    await expect(project(files)()).rejects.toMatchObject({ code: 'BUILD_FAILED', message: expect.stringMatching(message) });
  });

  test('what was built before stays, and nothing is left over', async () => {
    const outDir = temporary();
    const before = await project({ 'jobs.ts': `${JOB}export const router = new JobRouter().route(0, square);` })({ outDir });
    await expect(project({ 'jobs.ts': "throw new RangeError('out of cheese');" })({ outDir })).rejects.toThrow('out of cheese');
    expect(readdirSync(outDir).toSorted()).toEqual(['handler.mjs', 'handler.zip']);
    expect(sha256(readFileSync(before.file))).toBe(before.fileSha256);
  });

  test('a large bundle is built, with a warning that names the largest parts', async () => {
    const build = project({
      'jobs.ts': `${JOB}import { data } from './data.ts';\nexport const router = new JobRouter().route(data.length > 0 ? 0 : 1, square);`,
      'data.ts': `export const data = ${JSON.stringify('x'.repeat(600 * 1024))};`,
    });
    expect((await build()).warnings).toEqual([
      expect.stringMatching(/^the bundle has \d+ KiB, which makes the first call slow; the largest parts are data\.ts \(600 KiB\), /),
    ]);
  });

  test('without esbuild it says what to install', async () => {
    const directory = temporary();
    for (const path of ['package.json', 'src/clock.ts', 'src/errors.ts', 'src/folder.ts', 'src/deploy', 'src/plugin'])
      cpSync(join(root, path), join(directory, path), { recursive: true });
    writeFileSync(
      join(directory, 'build.ts'),
      "import { buildHandler } from './src/deploy/package.ts';\nawait buildHandler({ entry: 'build.ts', outDir: 'out' }).catch((error) => console.log(`${error.code}: ${error.message}`));\n",
    );
    const { stdout } = spawnSync(process.execPath, ['build.ts'], { cwd: directory, env: {} });
    expect(stdout.toString()).toMatch(/^PEER_MISSING: .*npm install esbuild$/m);
  });
});
