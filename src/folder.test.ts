import { mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { makeFolder } from './folder.ts';

const root = mkdtempSync(join(tmpdir(), 'bpr-folder-'));
afterAll(() => rmSync(root, { recursive: true }));

describe('a folder', () => {
  it('is made with those above it, all with the mode, and left as it is when it is there', () => {
    const folder = join(root, 'a', 'b', 'c');
    makeFolder(folder, 0o700);
    makeFolder(folder, 0o755);
    for (const made of [folder, join(root, 'a')]) expect(statSync(made).mode & 0o777).toBe(0o700);
    expect(() => makeFolder('/')).not.toThrow();
  });

  it('that cannot be made is an error: below a file, a link to nothing, /proc', () => {
    writeFileSync(join(root, 'file'), '');
    symlinkSync('/nowhere/at/all', join(root, 'link'));
    for (const parent of [join(root, 'file'), join(root, 'link'), '/proc/bpr-none'])
      for (const path of [parent, join(parent, 'x'), join(parent, 'x', 'y')]) expect(() => makeFolder(path), path).toThrow(/, mkdir/);
  });
});
