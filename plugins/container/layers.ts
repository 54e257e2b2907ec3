/** Layers as one folder: what instances see at /opt. */

import { createHash } from 'node:crypto';
import { copyFile, link, lstat, mkdir, mkdtemp, readdir, readlink, rename, rm, stat, symlink } from 'node:fs/promises';
import { join } from 'node:path';

export interface Layer {
  readonly path: string;
  readonly sha256: string;
}

/**
 * Merges layers in order, a later one over an earlier one, into a folder below `parent` that is named by their hashes and used again.
 * Undefined without layers. One layer is used as it is.
 */
export async function mergedLayers(layers: readonly Layer[], parent: string): Promise<string | undefined> {
  const [first] = layers;
  if (first === undefined || layers.length === 1) return first?.path;
  const name = createHash('sha256')
    .update(layers.map(({ sha256 }) => sha256).join('\n'))
    .digest('hex');
  const folder = join(parent, name);
  const exists = (): Promise<boolean> => stat(folder).then(...YES_OR_NO);
  if (await exists()) return folder;
  await mkdir(parent, { recursive: true });
  const partial = await mkdtemp(join(parent, '.merge-'));
  try {
    await mkdir(join(partial, 'opt'), { mode: 0o755 });
    for (const { path } of layers) await mergeFolder(path, join(partial, 'opt'));
    await rename(join(partial, 'opt'), folder);
  } catch (error) {
    // Another process was faster.
    if (!(await exists())) throw error;
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
  return folder;
}

const YES_OR_NO = [() => true, () => false] as const;

/** Folders are merged, everything else is replaced. Files are linked where the file system can: layers never change. */
async function mergeFolder(from: string, to: string): Promise<void> {
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    const present = await lstat(target).catch(() => undefined);
    if (present !== undefined && !(entry.isDirectory() && present.isDirectory())) await rm(target, { recursive: true });
    if (entry.isDirectory()) {
      if (!present?.isDirectory()) await mkdir(target, { mode: (await stat(source)).mode });
      await mergeFolder(source, target);
    } else if (entry.isSymbolicLink()) {
      await symlink(await readlink(source), target);
    } else if (entry.isFile()) {
      await link(source, target).catch(() => copyFile(source, target));
    }
  }
}
