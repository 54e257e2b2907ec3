/** Packages on a disk that takes no more. */

import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { temporaryFolder } from '../support/temporary-folders.ts';

const urlOf = (path: string): string => new URL(`../../src/${path}`, import.meta.url).href;

/** Uses a package of 40,000 bytes three times, and prints what became of it. */
const PROGRAM = `
const { hash, randomBytes } = await import('node:crypto');
const { packFiles } = await import('${urlOf('deploy/zip.ts')}');
const { PackageCache } = await import('${urlOf('worker/package-cache.ts')}');
const zip = await packFiles({ 'index.mjs': { data: randomBytes(40_000), mode: 0o644 } });
const sha256 = hash('sha256', zip, 'hex');
const cache = new PackageCache({ folder: process.argv[1], objects: { get: async () => zip } });
const said = [];
for (let index = 0; index < 3; index += 1)
  said.push(await cache.use({ key: sha256, size: zip.length, sha256 }, async () => 'used').catch(({ code, message }) => code + ': ' + message));
process.stdout.write(JSON.stringify(said));
`;

it('nothing of a package stays that does not fit, and each job is told to go elsewhere', () => {
  const folder = temporaryFolder('package-disk');
  // No file may have more than 8 KiB: writes end in the middle, as on a full disk.
  const script = 'ulimit -f 8; exec "$0" --input-type=module -e "$1" "$2"';
  const said = JSON.parse(execFileSync('bash', ['-c', script, process.execPath, PROGRAM, folder], { encoding: 'utf8' })) as string[];
  expect(said).toEqual(Array.from({ length: 3 }, () => expect.stringMatching(/^EXECUTOR_UNAVAILABLE: the package .* EFBIG/) as string));
  expect(readdirSync(join(folder, 'sha256'))).toEqual([]);
});
