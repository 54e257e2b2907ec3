/** Which attempts the last process did not survive. */

import type { SqliteFile } from '../sqlite-file.ts';
import { STATE } from './rows.ts';

const { seen, executing } = STATE;
/** Not between two attempts. */
const NOTE = `INSERT INTO notes (seq, at, kind, detail) SELECT seq, ?, 'crashed', json_object('number', attempts) FROM calls
  WHERE state = ${executing} AND executor = ? AND NOT EXISTS (SELECT 1 FROM notes WHERE notes.seq = calls.seq AND kind = 'attempt-failed'
    AND json_extract(detail, '$.number') = attempts)`;
const COUNT = `SELECT n.seq, count(*) AS count FROM calls c JOIN notes n ON n.seq = c.seq WHERE c.state IN (${seen}, ${executing})
  AND n.kind = 'crashed' AND n.rowid > coalesce((SELECT max(rowid) FROM notes WHERE seq = c.seq AND kind = 'retry'), 0) GROUP BY n.seq`;

/** Within a transaction: calls that are being executed are none of the next process. */
export function pauseCalls(file: SqliteFile): void {
  file.prepare(`UPDATE calls SET state = ${seen} WHERE state = ${executing}`).run();
}

/** Within a transaction, before anything is executed. How often, by row. */
export function noteCrashes(file: SqliteFile, executor: string, now: number): ReadonlyMap<number, number> {
  file.prepare(NOTE).run(now, executor);
  pauseCalls(file);
  const rows = file.prepare(COUNT).all();
  return new Map(rows.map(({ seq, count }) => [Number(seq), Number(count)]));
}
