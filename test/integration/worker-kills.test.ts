import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { holds, killFleet } from '../prove/workers-run.ts';

it('300 calls of a chain on five workers that are killed at random, and so are their control plane and the runner: each is settled once', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'wf-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const report = await killFleet({ folder, workers: 5, concurrency: 2, jobs: 300, kills: 8, seed: 11 });
  expect(holds(report), JSON.stringify(report)).toBe(true);
  expect(report.killedWorkers).toBeGreaterThan(0);
  expect(report.killedControlPlanes).toBeGreaterThan(0);
  expect(report.killedRunners).toBeGreaterThan(0);
  expect(report.drainedWorkers).toBeGreaterThan(0);
}, 600_000);
