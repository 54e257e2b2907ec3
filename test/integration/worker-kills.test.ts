import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { holds, killFleet } from '../prove/workers-run.ts';

it('300 jobs on five workers that are killed at random, and so is their control plane: each is completed once', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'wf-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const report = await killFleet({ folder, workers: 5, jobs: 300, kills: 8, seed: 3 });
  expect(holds(report), JSON.stringify(report)).toBe(true);
  expect(report.killedWorkers).toBeGreaterThan(0);
  expect(report.killedControlPlanes).toBeGreaterThan(0);
  expect(report.drainedWorkers).toBeGreaterThan(0);
}, 180_000);
