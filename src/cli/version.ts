/** The version of this package. */

import { readFileSync } from 'node:fs';

interface Manifest {
  readonly name?: unknown;
  readonly version?: unknown;
}

export function ownVersion(): string {
  // The package file lies above src/cli and above dist/src/cli.
  for (const path of ['../../package.json', '../../../package.json']) {
    const manifest = readManifest(new URL(path, import.meta.url));
    if (manifest?.name === 'blueprint-runner') return String(manifest.version);
  }
  return 'unknown';
}

function readManifest(file: URL): Manifest | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Manifest; // as: looked at by the caller
  } catch {
    return undefined;
  }
}
