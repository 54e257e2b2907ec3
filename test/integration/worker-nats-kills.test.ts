import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import { holds, killFleet } from '../prove/workers-run.ts';
import { requireNats } from '../support/nats.ts';

const testNats = requireNats();

testNats(
  '200 calls of a chain on four workers that speak to three NATS servers, all killed at random, and so is the runner: each is settled once',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'wnk-'));
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
    const report = await killFleet({ folder, workers: 4, concurrency: 2, jobs: 200, kills: 7, outages: 1, seed: 2 });
    expect(holds(report), JSON.stringify(report)).toBe(true);
    expect(report.killedWorkers).toBeGreaterThan(0);
    expect(report.killedControlPlanes).toBeGreaterThan(0);
    expect(report.killedRunners).toBeGreaterThan(0);
    expect(report.killedServers).toBe(1);
  },
  600_000,
);
