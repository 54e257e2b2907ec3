/**
 * Runs every benchmark of this folder, one after the other, each in a process of its own. Each prints its ratios.
 *
 * `npm run bench -- [parts of names] [numbers and flags for them]`; exit status 1 when one fails.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = dirname(fileURLToPath(import.meta.url));
const isPassed = (word: string): boolean => /^(?:--|\d)/.test(word);
const passed = process.argv.slice(2).filter(isPassed);
const wanted = process.argv.slice(2).filter((word) => !isPassed(word));
const names = readdirSync(folder)
  .filter((name) => name.endsWith('.bench.ts') && (wanted.length === 0 || wanted.some((part) => name.includes(part))))
  .toSorted();
if (names.length === 0) throw new Error(`no benchmark has one of ${JSON.stringify(wanted)} in its name`);

// An inherited bundle of certificates triples the time that node takes to start, which some of them measure.
const { NODE_EXTRA_CA_CERTS: _certificates, NODE_OPTIONS: _options, ...env } = process.env;
const failed: string[] = [];
for (const name of names) {
  console.log(`\n== ${name.replace('.bench.ts', '')}`);
  const child = spawn(process.execPath, ['--expose-gc', join(folder, name), ...passed], { env, stdio: 'inherit' });
  const [code] = (await once(child, 'exit')) as [number | null];
  if (code !== 0) failed.push(name);
}
console.log(failed.length === 0 ? `\n${names.length} benchmarks ran` : `\nfailed: ${failed.join(', ')}`);
process.exitCode = failed.length === 0 ? 0 : 1;
