/** The version of this package, and where it lies. */

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

interface Manifest {
  readonly name?: unknown;
  readonly version?: unknown;
}

export function ownVersion(): string {
  const manifest = readManifest(new URL('package.json', packageFolder()));
  return manifest === undefined ? 'unknown' : String(manifest.version);
}

/** How a new project depends on this package: by version, or by folder when it runs from a clone. */
export function ownDependency(folder = packageFolder()): string {
  const path = fileURLToPath(folder).replace(/[/\\]$/, '');
  return /[/\\]node_modules[/\\]/.test(path) ? `^${ownVersion()}` : `file:${path}`;
}

/** The folder of this package. It lies above src/cli and above dist/src/cli. */
export function packageFolder(): URL {
  const above = ['../../', '../../../'].map((path) => new URL(path, import.meta.url));
  return (
    above.find((folder) => readManifest(new URL('package.json', folder))?.name === 'blueprint-runner') ?? new URL('.', import.meta.url)
  );
}

function readManifest(file: URL): Manifest | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Manifest; // as: looked at by the caller
  } catch {
    return undefined;
  }
}
