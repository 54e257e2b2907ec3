/** Optional packages of plugins: loaded on first use, never before. */

import { createRequire } from 'node:module';
import { join } from 'node:path';
import { existsSync, readFileSync } from 'node:fs';
import { RunnerError } from '../errors.ts';

/**
 * Loads the package of a plugin. Rejects with `PEER_MISSING` when it is not installed; an error inside the package passes as the
 * cause of that error, too.
 *
 * The caller names the type, because the package need not be installed where this is compiled:
 *
 * @example
 * const sdk = await importPeer<typeof import('undici')>('http', 'undici', () => import('undici'));
 */
export async function importPeer<Module>(plugin: string, packageName: string, load: () => Promise<Module>): Promise<Module> {
  try {
    return await load();
  } catch (cause) {
    const absent = isNotFound(cause);
    const message = absent
      ? `plugin ${plugin} needs the package ${packageName}, which is not installed: npm install ${packageName}`
      : `the package ${packageName}, which plugin ${plugin} needs, cannot be loaded: ${cause instanceof Error ? cause.message : String(cause)}`;
    throw new RunnerError('PEER_MISSING', message, { cause, details: { plugin, package: packageName } });
  }
}

function isNotFound(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ERR_MODULE_NOT_FOUND' || error.code === 'MODULE_NOT_FOUND');
}

/** The version of a package as this package or the program sees it, without loading it; undefined when it is not installed. */
export function installedVersion(packageName: string): string | undefined {
  const places = [import.meta.url, join(process.cwd(), 'package.json')].flatMap(
    (from) => createRequire(from).resolve.paths(packageName) ?? [],
  );
  for (const directory of places) {
    const file = join(directory, packageName, 'package.json');
    if (!existsSync(file)) continue;
    const manifest: unknown = JSON.parse(readFileSync(file, 'utf8'));
    if (typeof manifest === 'object' && manifest !== null && 'version' in manifest) return String(manifest.version);
  }
  return undefined;
}
