/** The deployer of Azure on the emulator, and the bundle in its apps. */

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { AzureDeployer, AzureExecutor } from '../../plugins/azure/index.ts';
import { systemClock } from '../../src/clock.ts';
import { runDeployerConformance, runExecutorConformance } from '../../src/conformance/conformance.ts';
import { readModules } from '../../src/deploy/dependencies.ts';
import { packageFor } from '../../src/deploy/package-platform.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import { azurePlatform } from '../support/azure-platform.ts';
import type { AzureTestPlatform } from '../support/azure-platform.ts';
import { ROOT } from '../support/handler-platforms.ts';

runDeployerConformance(
  { describe, it },
  {
    name: 'azure',
    create: () => azurePlatform(),
    config: { memoryMb: 512, timeoutMs: 30_000, environment: { COLOUR: 'blue', SHAPE: 'round' } },
    change: { memoryMb: 2_048 },
    lacks: { async: 'a function of Azure that is called over HTTP answers its caller' },
  },
);

describe.each([
  { title: 'through the Node model v4', runtime: 'nodejs24', kind: 'azure' },
  { title: 'as a custom handler', runtime: 'custom', kind: 'azure-custom' },
] as const)('the bundle in the apps of the emulator, $title', ({ runtime, kind }) => {
  let platform: AzureTestPlatform;
  let folder: string;

  beforeAll(async () => {
    platform = await azurePlatform();
    folder = await mkdtemp(join(tmpdir(), 'azure-'));
    const { zipFile } = await buildHandler({ entry: join(import.meta.dirname, '../fixtures/gateway/jobs.ts'), outDir: folder });
    const modules = kind === 'azure' ? { modules: await readModules(['@azure/functions'], ROOT) } : {};
    const code = await packageFor(kind, await readFile(zipFile), modules);
    const deployer = new AzureDeployer(platform.options, { clock: systemClock });
    await deployer.deploy('conformance', code, { runtime, memoryMb: 512 });
    await deployer.close();
  });

  afterAll(async () => {
    await platform.close();
    await rm(folder, { recursive: true, force: true });
  });

  runExecutorConformance(
    { describe, it },
    {
      name: 'azure',
      create: () => new AzureExecutor({ ...platform.options, function: 'conformance' }, { clock: systemClock }),
      skip: { 'takes a call of exactly its limit, and one byte more is refused before it is sent': 'Azure takes 100 MB' },
    },
  );
});
