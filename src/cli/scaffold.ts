/** Writes the files of a new project. */

import { existsSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { RunnerError } from '../errors.ts';
import { makeFolder } from '../folder.ts';

export interface Scaffold {
  readonly root: string;
  /** Paths below the root, and contents. */
  readonly files: Readonly<Record<string, string>>;
  /** Into a directory that holds files; those of the same name are replaced. */
  readonly force?: boolean | undefined;
  /** Checks, and writes nothing. */
  readonly dryRun?: boolean | undefined;
}

const SHOWN_MAX = 8;

/** Throws `CONFIG_INVALID`, which names what is there, for a directory that is not empty. */
export function writeScaffold({ root, files, force = false, dryRun = false }: Scaffold): void {
  if (existsSync(root) && !statSync(root).isDirectory()) throw new RunnerError('CONFIG_INVALID', `${root} is a file, not a directory`);
  const present = existsSync(root) ? readdirSync(root).toSorted() : [];
  if (!force && present.length > 0) {
    const more = present.length > SHOWN_MAX ? ` and ${present.length - SHOWN_MAX} more` : '';
    const shown = `${present.slice(0, SHOWN_MAX).join(', ')}${more}`;
    throw new RunnerError('CONFIG_INVALID', `${root} is not empty; pass --force to write into it. It holds ${shown}`, {
      details: { root, present },
    });
  }
  if (dryRun) return;
  for (const [name, text] of Object.entries(files)) {
    const file = join(root, name);
    makeFolder(dirname(file));
    writeFileSync(file, text);
  }
}

/** The commands that come next, for a shell: a directory may be called anything. */
export function nextCommands(dir: string, ...commands: readonly string[]): string {
  const place = dir.startsWith('-') ? `./${dir}` : dir;
  const word = /^[\w@%+=:,./-]+$/.test(place) ? place : `'${place.replaceAll("'", String.raw`'\''`)}'`;
  return [`cd ${word}`, ...commands].join(' && ');
}
