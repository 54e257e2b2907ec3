/** What the proofs of workers are asked for, and what they say. */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { conclude } from './verdict.ts';
import { holds, killFleet } from './workers-run.ts';

const string = (value: string): { readonly type: 'string'; readonly default: string } => ({ type: 'string', default: value });

/** `outages`: how many servers are killed unless the command line says something else; absent: there are none. */
export async function proveWorkers({ outages }: { readonly outages?: number }): Promise<void> {
  const { values } = parseArgs({
    options: {
      workers: string('50'),
      jobs: string('20000'),
      kills: string('100'),
      concurrency: string('2'),
      seed: string('1'),
      ...(outages !== undefined && { outages: string(String(outages)) }),
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
    ...(outages !== undefined && { outages: Number(values.outages) }),
    seed: Number(values.seed),
    progress: (text) => {
      if (!values.json) console.log(text);
    },
  });
  conclude(report, { isGood: holds(report), isJson: values.json, folder });
}
