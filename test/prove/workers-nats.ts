/**
 * Proves that jobs on many workers that speak to a cluster of three NATS servers themselves are completed once each, with the right result,
 * whichever of the workers, their control plane and the servers is killed when.
 *
 * `BPR_NATS=/folder npm run prove:workers-nats -- [--workers n] [--jobs n] [--kills n] [--outages n] [--seed n] [--json]`; exit status 1 when
 * something does not hold.
 */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { conclude } from './verdict.ts';
import { holds, killNatsFleet } from './workers-nats-run.ts';

const { values } = parseArgs({
  options: {
    workers: { type: 'string', default: '50' },
    jobs: { type: 'string', default: '20000' },
    kills: { type: 'string', default: '60' },
    outages: { type: 'string', default: '4' },
    seed: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false },
  },
});
const folder = mkdtempSync(join(tmpdir(), 'pn-'));
const report = await killNatsFleet({
  folder,
  workers: Number(values.workers),
  jobs: Number(values.jobs),
  kills: Number(values.kills),
  outages: Number(values.outages),
  seed: Number(values.seed),
  progress: (text) => {
    if (!values.json) console.log(text);
  },
});
conclude(report, { isGood: holds(report), isJson: values.json, folder });
