/** The suite of backends, by Docker and by runc. */

import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe } from 'vitest';
import { runBackendConformance } from '../../src/conformance/backend.ts';
import { DRIVERS } from '../support/container-engine.ts';

const folder = mkdtempSync(join(tmpdir(), 'conformance-'));

afterAll(() => rm(folder, { recursive: true, force: true }));

for (const { name, test, make } of DRIVERS) {
  const runtime = `nodejs${process.versions.node.split('.')[0]}.x`;
  // Where the driver is missing, the declaration that needs it says so.
  const it = Object.assign((title: string, run: () => void | Promise<void>) => test(title, run), {
    skip: (title: string) => {
      throw new Error(`${title} cannot be left out`);
    },
  });
  runBackendConformance({ describe, it }, { name, runtime, create: () => make({ folder: join(folder, name) }) });
}
