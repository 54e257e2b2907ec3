import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { DigitalOceanDeployer, DigitalOceanExecutor } from '../../plugins/digitalocean/index.ts';
import { systemClock } from '../../src/clock.ts';
import { conformanceFunction, runDeployerConformance, runExecutorConformance } from '../../src/conformance/conformance.ts';
import type { Connection, DeployerPlatform } from '../../src/conformance/conformance.ts';
import { packageFor } from '../../src/deploy/package-platform.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import type { FunctionPackage } from '../../src/executor/deployer.ts';
import { startDigitalOcean } from '../support/digitalocean.ts';
import type { DigitalOceanEmulator } from '../support/digitalocean.ts';
import { startFaultyProxy } from '../support/faulty-proxy.ts';
import { zipOf } from '../support/gateway.ts';

const TOKEN = 'token-of-digitalocean-for-tests';

function codeOf(tag: string): FunctionPackage {
  const zip = zipOf({ 'index.js': `exports.main = (event) => (${conformanceFunction(tag)})(event, process.env);` });
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

/** What is not the same after every way that leads to a state: ids, times, secrets, counters, kept versions. */
function snapshot({ namespaces }: DigitalOceanEmulator): unknown {
  const passing = new Set(['require-whisk-auth', 'blueprint-revision']);
  return [...namespaces.values()].flatMap(({ whisk, triggers }) => [
    ...[...whisk.actions.values()]
      .filter(({ annotations }) => !annotations.some(({ key }) => key === 'blueprint-version-of'))
      .map(({ name, exec, limits, parameters, annotations }) => {
        const kept = annotations
          .filter(({ key }) => !passing.has(String(key)))
          .toSorted((a, b) => (String(a['key']) < String(b['key']) ? -1 : 1));
        return JSON.stringify({ name, exec, limits, parameters, annotations: kept });
      })
      .toSorted((a, b) => (a < b ? -1 : 1)),
    ...[...triggers.values()]
      .map(({ created_at: _, namespace: __, ...trigger }) => JSON.stringify(trigger))
      .toSorted((a, b) => (a < b ? -1 : 1)),
  ]);
}

async function platform(): Promise<DeployerPlatform> {
  const emulator = await startDigitalOcean({ token: TOKEN });
  const isWrite = (method: string, path: string): boolean =>
    method === 'PUT' || method === 'DELETE' || (method === 'POST' && path.startsWith('/v2/'));
  const proxy = await startFaultyProxy({ target: emulator.url, isWrite });
  emulator.apiHost = proxy.url;
  const connect = (how: Connection): DigitalOceanDeployer =>
    new DigitalOceanDeployer(
      {
        apiUrl: how === 'nowhere' ? 'http://127.0.0.1:1' : proxy.url,
        token: how === 'nameless' ? 'env:NO_SUCH_VARIABLE_FOR_A_TOKEN' : () => TOKEN,
      },
      { clock: systemClock },
    );
  return {
    ...proxy,
    connect,
    codeOf,
    snapshot: () => snapshot(emulator),
    schedules: () => [...emulator.namespaces.values()].reduce((sum, { triggers }) => sum + triggers.size, 0),
    async makeForeign(name) {
      const namespace = emulator.createNamespace('blueprint-functions');
      const exec = { kind: 'nodejs:22', binary: true, code: Buffer.from(codeOf('foreign').zip).toString('base64') };
      const path = `/namespaces/_/actions/${name}`;
      await namespace.whisk.handle({
        method: 'PUT',
        path,
        query: new URLSearchParams(),
        headers: {},
        body: Buffer.from(JSON.stringify({ exec })),
      });
    },
    async close() {
      await proxy.close();
      await emulator.close();
    },
  };
}

runDeployerConformance({ describe, it }, { name: 'digitalocean', create: platform });

describe('the bundle in the functions of the emulator', () => {
  let emulator: DigitalOceanEmulator;
  let folder: string;
  const options = (): { readonly apiUrl: string; readonly token: () => string } => ({ apiUrl: emulator.url, token: () => TOKEN });

  beforeAll(async () => {
    emulator = await startDigitalOcean({ token: TOKEN });
    folder = await mkdtemp(join(tmpdir(), 'do-'));
    const { zipFile } = await buildHandler({ entry: join(import.meta.dirname, '../fixtures/gateway/jobs.ts'), outDir: folder });
    const code = await packageFor('digitalocean', await readFile(zipFile));
    const deployer = new DigitalOceanDeployer(options(), { clock: systemClock });
    await deployer.deploy('conformance', code, { timeoutMs: 60_000, memoryMb: 512 });
    await deployer.close();
  });

  afterAll(async () => {
    await emulator.close();
    await rm(folder, { recursive: true, force: true });
  });

  runExecutorConformance(
    { describe, it },
    {
      name: 'digitalocean',
      create: () =>
        new DigitalOceanExecutor(
          { ...options(), function: (id) => (id === 4_000_000n ? 'nobody' : 'conformance') },
          { clock: systemClock },
        ),
      skip: { 'echoes 1048576 bytes': 'DigitalOcean takes 1 MB with everything around it' },
    },
  );
});
