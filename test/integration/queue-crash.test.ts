import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { holds, killOwners } from '../prove/queue-crash-run.ts';

it.each(['commit', 'background'] as const)(
  'an embedded queue whose process is killed loses nothing that was acknowledged, and keeps one result of a job: sync %s',
  async (sync) => {
    const folder = mkdtempSync(join(tmpdir(), 'queue-crash-'));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const report = await killOwners({ folder, seed: 7, kills: 8, sync });
    // How much is done in a life is the machine's affair.
    expect(Math.min(report.published, report.completions)).toBeGreaterThan(10);
    expect(holds(report), JSON.stringify(report)).toBe(true);
  },
);
