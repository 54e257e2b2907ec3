import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { StoreDatabase } from './store-database.ts';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'bpr-database-'));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

function open(sync: 'commit' | 'background'): StoreDatabase {
  const schema = 'CREATE TABLE IF NOT EXISTS notes (text TEXT PRIMARY KEY)';
  return new StoreDatabase({ path: join(folder, 'notes.sqlite'), mark: 'TEST', version: 1, schema, sync });
}

const note = (database: StoreDatabase, text: string) => (): string => {
  database.prepare('INSERT INTO notes (text) VALUES (?)').run(text);
  return text;
};

function notes(): unknown[] {
  const database = open('commit');
  const found = database.prepare('SELECT text FROM notes ORDER BY text').all();
  database.close();
  return found.map((row) => row['text']);
}

describe.each(['commit', 'background'] as const)('changes that are synchronised in the %s', (sync) => {
  test('of one turn are kept together; one that fails fails alone', async () => {
    const database = open(sync);
    const written = await Promise.allSettled([
      database.write(note(database, 'a')),
      database.write(note(database, 'a')),
      database.write(note(database, 'b'), { isDurable: false }),
    ]);
    expect(written.map((one) => (one.status === 'fulfilled' ? one.value : (one.reason as { code: string }).code))).toEqual([
      'a',
      'STORE_FAILED',
      'b',
    ]);
    database.close();
    expect(notes()).toEqual(['a', 'b']);
  });

  test('that fail are told without the path: callers elsewhere get the message', async () => {
    const database = open(sync);
    database.transact(note(database, 'a'));
    const told = await database.write(note(database, 'a')).catch((error: unknown) => error);
    database.close();
    expect(told).toMatchObject({ code: 'STORE_FAILED', message: expect.stringMatching(/^notes\.sqlite failed: UNIQUE/) as string });
    expect(JSON.stringify(told)).not.toContain(folder);
  });

  test('that were committed are on disk when it is synchronised', async () => {
    const database = open(sync);
    let isTold = false;
    const first = database.write(note(database, 'a')).then(() => (isTold = true));
    await new Promise((resolve) => setImmediate(resolve));
    database.transact(note(database, 'b'));
    await database.synced();
    expect([isTold, await first]).toEqual([true, true]);
    database.close();
    expect(notes()).toEqual(['a', 'b']);
  });

  test('that wait when it is closed are there, and told', async () => {
    const database = open(sync);
    const first = database.write(note(database, 'a'));
    await new Promise((resolve) => setImmediate(resolve));
    const later = [database.write(note(database, 'b')), database.write(note(database, 'c'), { isDurable: false })];
    database.close();
    expect(await Promise.all([first, ...later])).toEqual(['a', 'b', 'c']);
    expect(notes()).toEqual(['a', 'b', 'c']);
    database.close();
  });
});
