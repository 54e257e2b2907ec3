/**
 * Proves that an embedded queue whose process is killed again and again, at any moment and under load, loses no acknowledged publication and
 * no acknowledged completion, and keeps no result of two leases.
 *
 * `npm run prove:queue -- [--seed n] [--kills n] [--sync commit|background] [--json]`; exit status 1 when something does not hold.
 */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { conclude } from './verdict.ts';
import { holds, killOwners } from './queue-crash-run.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    kills: { type: 'string', default: '100' },
    sync: { type: 'string', default: 'commit' },
    json: { type: 'boolean', default: false },
  },
});
const folder = mkdtempSync(join(tmpdir(), 'queue-crash-'));
const progress = (kill: number): void => {
  if (!values.json && kill % 10 === 0) console.log(`${kill} kills`);
};
const { sync } = values;
if (sync !== 'commit' && sync !== 'background') throw new Error(`--sync is commit or background, not ${sync}`);
const report = await killOwners({ folder, seed: Number(values.seed), kills: Number(values.kills), sync, progress });
conclude(report, { isGood: holds(report), isJson: values.json, folder });
