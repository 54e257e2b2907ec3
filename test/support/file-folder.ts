/** Gives the tests of a file, and the processes that they start, a temporary folder of their own. */

import { chmodSync, mkdtempSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { expect } from 'vitest';
import { COMPILED, OWNER, RUN_FOLDER } from './run-folder.ts';

const run = process.env[RUN_FOLDER];
if (run === undefined) throw new Error(`${RUN_FOLDER} is not set: run-folder.ts is no global set-up of this project`);

const file = relative(process.cwd(), expect.getState().testPath ?? '');
const folder = mkdtempSync(join(run, 'f'));
// As the system's own: instances run as other users.
chmodSync(folder, 0o1777);
writeFileSync(`${folder}${OWNER}`, file);
// What node keeps of compiled modules is everybody's.
symlinkSync(join(run, COMPILED), join(folder, COMPILED));
process.env['TMPDIR'] = folder;
