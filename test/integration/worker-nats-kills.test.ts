import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import { holds, killNatsFleet } from '../prove/workers-nats-run.ts';
import { requireNats } from '../support/nats.ts';

const testNats = requireNats();

testNats(
  '200 jobs on four workers that speak to three NATS servers, all killed at random: each job is completed once',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'wnk-'));
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
    const report = await killNatsFleet({ folder, workers: 4, jobs: 200, kills: 5, outages: 1, seed: 2 });
    expect(holds(report), JSON.stringify(report)).toBe(true);
    expect(report.killedWorkers).toBeGreaterThan(0);
    expect(report.killedControlPlanes).toBeGreaterThan(0);
    expect(report.killedServers).toBe(1);
  },
  300_000,
);
