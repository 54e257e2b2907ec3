/** What lies in a folder while programs work in it. */

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

/** Texts by path from the folder on. What is deleted while this looks is not there. */
export function filesIn(folder: string): Map<string, string> {
  const read = (name: string): (readonly [string, string])[] =>
    unlessGone(() =>
      readdirSync(join(folder, name), { withFileTypes: true }).flatMap((entry) => {
        const path = join(name, entry.name);
        if (entry.isDirectory()) return read(path);
        return entry.isFile() ? unlessGone(() => [[path, readFileSync(join(folder, path), 'latin1')] as const]) : [];
      }),
    );
  return new Map(read(''));
}

function unlessGone<T>(list: () => T[]): T[] {
  try {
    return list();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
