/**
 * Proves that calls of a chain that run on many workers are settled once each, with the right result, whichever of the workers, their control
 * plane and the runner is killed when, and that nothing is left over.
 *
 * `npm run prove:workers -- [--workers n] [--concurrency n] [--jobs n] [--kills n] [--seed n] [--json]`; exit status 1 when something does not
 * hold.
 */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { conclude } from './verdict.ts';
import { holds, killFleet } from './workers-run.ts';

const { values } = parseArgs({
  options: {
    workers: { type: 'string', default: '50' },
    jobs: { type: 'string', default: '20000' },
    kills: { type: 'string', default: '100' },
    concurrency: { type: 'string', default: '2' },
    seed: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false },
  },
});
const folder = mkdtempSync(join(tmpdir(), 'pw-'));
const report = await killFleet({
  folder,
  workers: Number(values.workers),
  concurrency: Number(values.concurrency),
  jobs: Number(values.jobs),
  kills: Number(values.kills),
  seed: Number(values.seed),
  progress: (text) => {
    if (!values.json) console.log(text);
  },
});
conclude(report, { isGood: holds(report), isJson: values.json, folder });
