import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { holds, killOwners } from '../prove/queue-crash-run.ts';

it('an embedded queue whose process is killed loses nothing that was acknowledged, and keeps one result of a job', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'queue-crash-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const report = await killOwners({ folder, seed: 7, kills: 8 });
  expect(report.published).toBeGreaterThan(100);
  expect(report.completions).toBeGreaterThan(100);
  expect(holds(report), JSON.stringify(report)).toBe(true);
});
