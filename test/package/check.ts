/** Lints the packed package: publint for the manifest, attw for what TypeScript resolves. `npm run check:package`. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT, pack } from './pack.ts';

const folder = mkdtempSync(join(tmpdir(), 'blueprint-runner-pack-'));
try {
  const tarball = pack(folder);
  for (const [command, ...args] of [
    ['publint', 'run', tarball, '--strict'],
    ['attw', tarball, '--profile', 'esm-only', '--format', 'table-flipped'],
  ] as const) {
    const { status, error } = spawnSync(command, args, { cwd: ROOT, stdio: 'inherit' });
    if (error) throw error;
    if (status !== 0) process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
