/**
 * Packaging of the squaring example against the least that gives the same files: esbuild with the same settings, and fflate with the same five files.
 *
 * Packaging further lists what went in, loads the bundle in a process of its own to learn its jobs, and measures it. The process is kept, for what
 * is built next; what is built again unchanged is not loaded again.
 *
 * At the end: the sums of the zip, made by the compiled package in time zones far apart, under every node of this machine.
 */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { unzipSync, zipSync } from 'fflate';
import { buildHandler } from '../../src/deploy/package.ts';
import { compare } from './measure.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const entry = join(root, 'examples/incredible-squaring/jobs.ts');
const outDir = mkdtempSync(join(tmpdir(), 'package-bench-'));

/** All of the zip but the bundle. */
const { 'handler.mjs': _bundle, ...others } = unzipSync(readFileSync((await buildHandler({ entry, outDir })).zipFile));

async function bare(jobs: string): Promise<void> {
  const source = `import { serve } from ${JSON.stringify(join(root, 'handler/main.ts'))};
const served = await serve(() => import(${JSON.stringify(jobs)}), { meta: import.meta });
export const { handler, handler: main } = served;
export default served;`;
  const { outputFiles } = await build({
    stdin: { contents: source, resolveDir: dirname(jobs), loader: 'js' },
    bundle: true,
    write: false,
    outfile: 'handler.mjs',
    platform: 'node',
    format: 'esm',
    target: 'node20',
    minify: true,

    logLevel: 'silent',
  });
  const code = outputFiles[0]?.contents ?? new Uint8Array();
  writeFileSync(join(outDir, 'bare.mjs'), code);
  writeFileSync(join(outDir, 'bare.zip'), zipSync({ ...others, 'handler.mjs': code }, { level: 9 }));
}

/** The example with a number of its own: another bundle each time. */
let serial = 0;
function changed(): string {
  serial += 1;
  const file = join(outDir, 'changed.ts');
  const text = readFileSync(entry, 'utf8').replaceAll("'../../", `'${root}/`);
  writeFileSync(file, `${text}\nexport const serial = ${serial};\n`);
  return file;
}

const options = { rounds: 25, sliceMs: 150 };
await compare(
  'package, unchanged source',
  { peer: () => bare(entry), ours: () => buildHandler({ entry, outDir }) },
  { ...options, goal: 1.3 },
);
await compare(
  'package, changed source',
  { peer: () => bare(changed()), ours: () => buildHandler({ entry: changed(), outDir }) },
  { ...options, goal: 1.3 },
);

const compiled = join(root, 'dist/src/deploy/package.js');
if (!existsSync(compiled)) throw new Error('npm run build first: other versions of node run the compiled package');
const program = `const { buildHandler } = await import(process.argv[1]);
const { sha256 } = await buildHandler({ entry: process.argv[2], outDir: process.argv[3] });
console.log(process.version + ' ' + sha256);`;

// As users write it: the example itself would bring the sources of the package beside what is compiled.
const published = join(outDir, 'published.ts');
writeFileSync(published, readFileSync(entry, 'utf8').replaceAll(/'(?:\.\.\/)+src\/[\w/]+\.ts'/g, "'blueprint-runner'"));

function sumOf(node: string, TZ: string): string {
  const args = ['--input-type=module', '--eval', program, compiled, published, join(outDir, 'sum')];
  const { stdout, stderr } = spawnSync(node, args, { env: { TZ }, encoding: 'utf8' });
  const [version = '', sum] = stdout.trim().split(' ');
  if (sum === undefined) throw new Error(`${node}: ${stderr}`);
  console.log(`zip ${version.padEnd(10)} ${TZ.padEnd(20)} ${sum}`);
  return sum;
}

const nodes = [process.execPath, '/usr/bin/node', '/usr/local/bin/node'].filter((file) => existsSync(file));
const sums = nodes.flatMap((node) => ['UTC', 'America/New_York', 'Pacific/Kiritimati'].map((zone) => sumOf(node, zone)));
if (new Set(sums).size !== 1) {
  console.log('the zips differ');
  process.exitCode = 1;
}
rmSync(outDir, { recursive: true });
