/** Which objects the records of the embedded queue refer to. */

import type { SqliteFile } from '../sqlite-file.ts';

/** The part of the file that is needed. */
type Readable = Pick<SqliteFile, 'prepare'>;

const ROWS = 2_000;
const PAGE = `SELECT seq, json_extract(payload_reference, '$.key') AS payload, json_extract(result_reference, '$.key') AS result,
  coalesce(json_extract(headers, '$."function-object"'), json_extract(headers, '$."function-sha256"')) AS package
  FROM jobs WHERE seq > ? ORDER BY seq LIMIT +?`;

/** Keys of payloads, results and packages, of jobs in any state. Others have their turn between pages. */
export async function referredObjects(file: Readable): Promise<ReadonlySet<string>> {
  const page = file.prepare(PAGE);
  const keys = new Set<string>();
  for (let after = 0; ;) {
    const rows = page.all(after, ROWS);
    for (const { seq, payload, result, package: code } of rows) {
      for (const key of [payload, result, code]) if (typeof key === 'string') keys.add(key);
      after = Number(seq);
    }
    if (rows.length < ROWS) return keys;
    await new Promise((resolve) => setImmediate(resolve));
  }
}
