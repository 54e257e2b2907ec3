/** What an instance runs, as one package: code, layers, and what starts them. */

import { createHash } from 'node:crypto';
import { readFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import type { Zippable } from 'fflate';
import { RunnerError, nodeClientSource } from '../../src/plugin.ts';
import type { FunctionVersion } from '../../src/plugin.ts';
import { AGENT } from './instance-agent.ts';
import { PART_BYTES_MAX } from './pods.ts';

const PARTS_MAX = 16;
const EPOCH = new Date(1980, 0, 1);
const UNIX = 3;

export interface InstancePackage {
  readonly zip: Uint8Array;
  readonly sha256: string;
}

/** Rejects with `RUNTIME_UNSUPPORTED` for images, `CODE_MISSING`, `LIMIT_EXCEEDED`. */
export async function instancePackage({ name, code, layers }: FunctionVersion): Promise<InstancePackage> {
  if (code.kind === 'image')
    throw new RunnerError(
      'RUNTIME_UNSUPPORTED',
      `function ${name} is an image; the backend kubernetes runs packages, because what an image starts cannot report to it`,
    );
  const isThere = (await stat(code.path).catch(() => undefined))?.isDirectory();
  if (!isThere)
    throw new RunnerError('CODE_MISSING', `the code of function ${name} is not there any more: deploy it again`, {
      cause: new Error(`${code.path} is no folder`),
    });
  const files: Zippable = {};
  // A later layer wins.
  for (const layer of layers) await addFolder(files, 'opt', layer.path);
  await addFolder(files, 'task', code.path);
  files['run/client.cjs'] = Buffer.from(nodeClientSource());
  files['run/agent.cjs'] = Buffer.from(AGENT);
  const zip = zipSync(files, { mtime: EPOCH, level: 6 });
  if (zip.length > PARTS_MAX * PART_BYTES_MAX) {
    const violations = [{ limit: 'zipBytes', value: zip.length, allowed: `up to ${PARTS_MAX * PART_BYTES_MAX}` }];
    throw new RunnerError(
      'LIMIT_EXCEEDED',
      `the code of function ${name} has ${zip.length} bytes packed with its layers: too many for a pod`,
      {
        details: { violations },
      },
    );
  }
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

/** Links become what they lead to. */
async function addFolder(files: Zippable, place: string, folder: string): Promise<void> {
  const names = (await readdir(folder, { recursive: true })).toSorted();
  for (const name of names) {
    const path = join(folder, name);
    const found = await stat(path);
    if (!found.isFile()) continue;
    files[`${place}/${name}`] = [await readFile(path), { attrs: (found.mode & 0o777) << 16, os: UNIX }];
  }
}
