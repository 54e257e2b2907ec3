/** What goes into a package and beside it: callables, folders, layers, imports, limits; the same bytes everywhere. */

import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { transformSync } from 'esbuild';
import { unzipSync } from 'fflate';
import { afterAll, describe, expect, test } from 'vitest';
import { createPackage } from '../../src/deploy/callable.ts';
import { buildLayer, detectImports, packageViolations } from '../../src/deploy/layer.ts';
import { packFiles, textFile, unpackFiles } from '../../src/deploy/zip.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const folders: string[] = [];
function project(files: Readonly<Record<string, string>>): string {
  const folder = mkdtempSync(join(tmpdir(), 'parts-'));
  folders.push(folder);
  for (const [name, content] of Object.entries({ 'package.json': '{"type":"module"}', ...files })) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), content);
  }
  return folder;
}
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true });
});

/** The answer of a bundle to an event for job 0, parsed. */
function answer(file: string, event: unknown): unknown {
  const request = JSON.stringify({ job_id: 0, args: [...Buffer.from(JSON.stringify(event))] });
  const { stdout, stderr } = spawnSync(process.execPath, [file], { input: request, env: {} });
  const { result } = JSON.parse(stdout.toString() || stderr.toString()) as { result: number[] };
  return JSON.parse(Buffer.from(result).toString());
}

describe('what is packed', () => {
  test('a function that a module exports, with what the module imports', async () => {
    const folder = project({
      'nightly.js': "import { factor } from './factor.js';\nexport const nightly = ({ n }) => ({ product: n * factor });\n",
      'factor.js': 'export const factor = 6;\n',
    });
    const module = pathToFileURL(join(folder, 'nightly.js')).href;
    const { nightly } = (await import(module)) as { nightly: (event: { n: number }) => unknown };
    const built = await createPackage(nightly, { module, outDir: join(folder, 'out') });
    expect(built.jobs).toMatchObject([{ id: '0', name: 'nightly', raw: true }]);
    expect(answer(built.file, { n: 7 })).toEqual({ product: 42 });
  });

  test('a function over state of this process is refused: it is in no module', async () => {
    const folder = project({ 'jobs.js': 'export const other = () => 1;\n' });
    const state = { calls: 0 };
    const closure = (): number => (state.calls += 1);
    const outDir = join(folder, 'out');
    await expect(createPackage(closure, { outDir })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(/^the function closure cannot be packed by itself: what it closes over is not in it\. Export it/),
    });
    await expect(createPackage(closure, { outDir, module: join(folder, 'jobs.js') })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(/does not export the function closure.*closes over what exists only there/),
      details: { exports: 'other' },
    });
  });

  test('a folder: the main of its package.json, else a file called jobs or index', async () => {
    const source = `import { defineJob } from '${root}/src/job/job.ts';
import { JobRouter } from '${root}/src/job/router.ts';
export const router = new JobRouter().route(0, defineJob({ name: 'NAME', raw: true }, (body) => body));`;
    const byMain = project({ 'package.json': '{"type":"module","main":"lib/a.ts"}', 'lib/a.ts': source.replace('NAME', 'main') });
    const byName = project({ 'jobs.ts': source.replace('NAME', 'jobs') });
    const empty = project({});
    const packed = async (folder: string) => (await createPackage(folder, { outDir: join(folder, 'out') })).jobs.map(({ name }) => name);
    expect([await packed(byMain), await packed(byName)]).toEqual([['main'], ['jobs']]);
    await expect(packed(empty)).rejects.toMatchObject({ code: 'BUILD_FAILED', message: expect.stringContaining('has no entry') });
  });
});

const PACKAGES = {
  'node_modules/upper/package.json':
    '{"name":"upper","version":"1.2.3","dependencies":{"@scope/lower":"^2"},"optionalDependencies":{"absent":"*"}}',
  'node_modules/upper/index.js': 'module.exports = 1;',
  'node_modules/upper/index.d.ts': 'export {};',
  'node_modules/@scope/lower/package.json': '{"name":"@scope/lower","version":"2.0.1"}',
  'node_modules/@scope/lower/lib/a.js': 'module.exports = 2;',
};

describe('layers', () => {
  test('hold packages with all that they need, where Lambda looks for them, the same bytes each time', async () => {
    const from = project(PACKAGES);
    const layer = await buildLayer({ packages: ['upper'], from, architecture: 'arm64' });
    expect(layer).toMatchObject({
      architecture: 'arm64',
      packages: [
        { name: '@scope/lower', version: '2.0.1' },
        { name: 'upper', version: '1.2.3' },
      ],
    });
    expect(Object.keys(unzipSync(layer.zip))).toEqual([
      'nodejs/node_modules/@scope/lower/lib/a.js',
      'nodejs/node_modules/@scope/lower/package.json',
      'nodejs/node_modules/upper/index.js',
      'nodejs/node_modules/upper/package.json',
    ]);
    expect((await buildLayer({ packages: ['upper'], from: project(PACKAGES) })).sha256).toBe(layer.sha256);
  });

  test('a package that is not installed, and two versions of one, are refused', async () => {
    await expect(buildLayer({ packages: ['absent'], from: project(PACKAGES) })).rejects.toMatchObject({ code: 'PEER_MISSING' });
    const two = project({
      ...PACKAGES,
      'node_modules/upper/node_modules/@scope/lower/package.json': '{"name":"@scope/lower","version":"2.5.0"}',
    });
    await expect(buildLayer({ packages: ['@scope/lower', 'upper'], from: two })).rejects.toMatchObject({
      code: 'BUILD_FAILED',
      message: expect.stringMatching(/^two versions of @scope\/lower are needed/),
    });
  });
});

describe('imports', () => {
  const code = {
    ...PACKAGES,
    'jobs.js':
      "import fs from 'fs';\nimport 'node:path';\nimport './more.cjs';\nexport const load = () => import('upper/index.js');\nimport 'missing';",
    'more.cjs': "require('@scope/lower/lib/a.js'); require('node:os'); require('fs/promises');",
  };

  test('are found static, dynamic and by require, in the module and in its own files; modules of node are none', async () => {
    const folder = project(code);
    expect(await detectImports(join(folder, 'jobs.js'), { explicit: ['@scope/lower@2.0.1', 'also'] })).toEqual([
      { name: '@scope/lower', version: '2.0.1', kinds: ['require'] },
      { name: 'also', kinds: [] },
      { name: 'missing', kinds: ['import'] },
      { name: 'upper', version: '1.2.3', kinds: ['dynamic-import'] },
    ]);
  });

  test('an explicit version that is not the installed one is a conflict', async () => {
    await expect(detectImports(join(project(code), 'jobs.js'), { explicit: ['upper@9.0.0', 'missing@1.0.0'] })).rejects.toMatchObject({
      code: 'BUILD_FAILED',
      message: 'missing is wanted in version 1.0.0 and installed in none; upper is wanted in version 9.0.0 and installed in 1.2.3',
    });
  });
});

describe('limits', () => {
  test('all that a package and its layers break, at once', async () => {
    const large = await packFiles({ a: { data: new Uint8Array(65 * 1024 * 1024), mode: 0o644 } });
    const broken = await packageViolations('cloudflare', large, [await packFiles({ b: textFile('b') })]);
    expect(broken.map(({ limit, value, allowed }) => [limit, value, allowed])).toEqual([
      ['unpackedBytes', 65 * 1024 * 1024 + 1, `at most ${64 * 1024 * 1024}`],
      ['layers', 1, 'at most 0'],
    ]);
    expect(await packageViolations('aws', large)).toEqual([]);
  });
});

describe('zips', () => {
  const files = { 'b/c.txt': textFile('text '.repeat(1_000)), bootstrap: textFile('#!/bin/sh\n', 0o755), 'grüße.txt': textFile('ä') };

  test('give back what was packed, with its modes', async () => {
    const unpacked = await unpackFiles(await packFiles(files));
    expect(Object.keys(unpacked)).toEqual(['b/c.txt', 'bootstrap', 'grüße.txt']);
    expect(Object.entries(unpacked).map(([name, { data, mode }]) => [name, Buffer.from(data).toString(), mode])).toEqual(
      Object.entries(files).map(([name, { data, mode }]) => [name, Buffer.from(data).toString(), mode]),
    );
  });

  /** As other versions of node run it: without types. */
  function packIn(node: string, env: Readonly<Record<string, string>>): string {
    const folder = project({});
    cpSync(join(root, 'node_modules/fflate'), join(folder, 'node_modules/fflate'), { recursive: true });
    for (const name of ['src/errors', 'src/deploy/zip']) {
      const { code: text } = transformSync(readFileSync(join(root, `${name}.ts`), 'utf8'), { loader: 'ts', target: 'node20' });
      mkdirSync(dirname(join(folder, name)), { recursive: true });
      writeFileSync(join(folder, `${name}.js`), text.replaceAll(".ts'", ".js'").replaceAll('.ts"', '.js"'));
    }
    const source = `import { packFiles, textFile, sha256Of } from './src/deploy/zip.js';
console.log(sha256Of(await packFiles({ 'b/c.txt': textFile('text '.repeat(1000)), bootstrap: textFile('#!/bin/sh\\n', 0o755), 'grüße.txt': textFile('ä') })));`;
    writeFileSync(join(folder, 'pack.mjs'), source);
    const { stdout, stderr } = spawnSync(node, [join(folder, 'pack.mjs')], { env });
    return stdout.toString().trim() || stderr.toString();
  }

  test('have the same bytes in every time zone and under every node of this machine', async () => {
    const nodes = [process.execPath, '/usr/bin/node', '/usr/local/bin/node'].filter((file) => existsSync(file));
    const zones = ['UTC', 'America/New_York', 'Pacific/Kiritimati', 'Pacific/Pago_Pago'];
    const sums = new Set(nodes.flatMap((node) => zones.map((TZ) => packIn(node, { TZ }))));
    expect([...sums]).toEqual([expect.stringMatching(/^[0-9a-f]{64}$/)]);
  });
});
