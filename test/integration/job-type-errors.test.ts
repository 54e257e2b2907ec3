/** What the compiler says of a job whose function does not fit its types: the first thing that an author gets to see. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'bpr-job-types-'));
afterAll(() => rmSync(folder, { recursive: true }));

it('the compiler names the value or the option that is wrong', () => {
  const lines = [
    `import { defineJob } from '${ROOT}/src/job/job.js';`,
    `export const a = defineJob({ params: 'uint64 x', result: 'uint64' }, ([x]) => Number(x));`,
    `export const b = defineJob({ params: 'uint64 x', result: 'bool yes, string why' }, async ([x]) => [true, x]);`,
    `export const c = defineJob({ params: 'uint64 x', result: 'uint64', timeoutMS: 5 }, ([x]) => x);`,
  ];
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  writeFileSync(join(folder, 'jobs.ts'), lines.join('\n'));
  const compilerOptions = { typeRoots: [join(ROOT, 'node_modules/@types')] };
  writeFileSync(
    join(folder, 'tsconfig.json'),
    JSON.stringify({ extends: join(ROOT, 'tsconfig.json'), compilerOptions, files: ['jobs.ts'], include: [] }),
  );
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  const { stdout } = spawnSync(process.execPath, [tsc, '-p', folder, '--pretty', 'false'], { encoding: 'utf8' });
  const errors = stdout.split(/^(?=\S)/m).map((text) => text.replaceAll(/\s+/g, ' '));
  expect(errors).toEqual([
    expect.stringMatching(/jobs\.ts\(2,.*Type 'number' is not assignable to type .*bigint/),
    expect.stringMatching(/jobs\.ts\(3,.*Type 'bigint' is not assignable to type 'string'/),
    expect.stringMatching(/jobs\.ts\(4,.*'timeoutMS' does not exist .*'timeoutMs'/),
  ]);
});
