import { expect, test } from 'vitest';
import type { RunnerManifest } from '../runner/manifest.ts';
import { exportService } from './operate.ts';
import type { ServicePlan } from './service-plan.ts';
import type { ServiceParts } from './service-run.ts';

const PLAN: ServicePlan = {
  serviceId: '7',
  blueprintId: '3',
  blueprintName: 'squares',
  chainId: 1,
  contract: '0x',
  strategy: 'serverless',
  reasons: [],
  jobs: [
    { id: '0', name: 'a', place: 'function', reason: '', deployer: { use: 'aws-lambda', options: {} }, config: { memoryMb: 512 } },
    { id: '1', name: 'b', place: 'function', reason: '', deployer: { use: 'http', options: {} }, endpoint: 'https://mine.example' },
  ],
  fallback: false,
  warnings: [],
};

test('a job that was deployed by hand is called there, and is no function of the export', async () => {
  let jobs: RunnerManifest['jobs'] | undefined;
  const parts: ServiceParts = {
    functionPackage: async () => ({ zip: new Uint8Array(), sha256: '' }),
    program: async (manifest) => {
      ({ jobs } = manifest);
      return { files: {}, args: [], environment: {}, healthPort: manifest.metricsPort };
    },
    host: { use: 'process', options: {} },
    manifest: { version: 1, serviceIds: ['7'], rpcUrls: [], contract: '0x', metricsPort: 9_464 },
    entry: '/jobs.ts',
  };
  const { functions } = await exportService(PLAN, parts, { read: () => undefined });
  expect(functions.map(({ name }) => name)).toEqual(['blueprint-7-job-0']);
  expect(jobs).toEqual({ 0: { name: 'a' }, 1: { name: 'b', executor: { use: 'http', options: { url: 'https://mine.example' } } } });
});
