/**
 * A run of the tests has a temporary folder of its own, and each file of tests a folder in it. What is left there at the end is listed with
 * the file that left it; in CI it fails the run.
 */

import { chmodSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The environment variable with the folder of the run. */
export const RUN_FOLDER = 'BPR_TEST_RUN_FOLDER';
/** Where node keeps compiled modules. */
export const COMPILED = 'node-compile-cache';
/** Ends the name of the file that names the file of tests whose folder stands beside it. */
export const OWNER = '.owner';

export function setup(): () => void {
  // Short, for the sockets in it: their paths have at most 107 bytes.
  const folder = mkdtempSync(join(tmpdir(), 't-'));
  chmodSync(folder, 0o711);
  mkdirSync(join(folder, COMPILED));
  process.env[RUN_FOLDER] = folder;
  return () => {
    const left = leftovers(folder);
    // A process that ends just now may keep there what it compiled.
    rmSync(folder, { recursive: true, force: true, maxRetries: 10 });
    if (left.length === 0) return;
    process.stderr.write(`left in the temporary folder, to be deleted by who made it:\n${left.map((line) => `  ${line}\n`).join('')}`);
    if (process.env['CI']) process.exitCode = 1;
  };
}

/** `<file of tests>: <what it left>`, one for each. */
function leftovers(folder: string): string[] {
  return readdirSync(folder).flatMap((each) => {
    if (each === COMPILED || each.endsWith(OWNER)) return [];
    const owner = readFileSync(join(folder, `${each}${OWNER}`), 'utf8');
    return readdirSync(join(folder, each))
      .filter((name) => name !== COMPILED)
      .map((name) => `${owner}: ${name}`);
  });
}
