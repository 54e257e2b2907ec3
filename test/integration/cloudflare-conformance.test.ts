/** The suites of deployers and executors on the emulator of Cloudflare, whose Workers run in workerd. */

import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, test } from 'vitest';
import { CloudflareDeployer, CloudflareExecutor } from '../../plugins/cloudflare/index.ts';
import { systemClock } from '../../src/clock.ts';
import { conformanceFunction, runDeployerConformance, runExecutorConformance } from '../../src/conformance/conformance.ts';
import type { Connection, DeployerPlatform, TestFramework } from '../../src/conformance/conformance.ts';
import { packageFor } from '../../src/deploy/package-platform.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import type { FunctionPackage } from '../../src/executor/deployer.ts';
import { requirePeer } from '../require.ts';
import { startCloudflare } from '../support/cloudflare.ts';
import type { CloudflareEmulator } from '../support/cloudflare.ts';
import { startFaultyProxy } from '../support/faulty-proxy.ts';
import { zipOf } from '../support/gateway.ts';
import { hasWorkerd, workerdBinary } from '../support/handler-platforms.ts';

const testWorkerd = requirePeer('workerd', hasWorkerd);
/** The reason is in the title. */
const skip = (title: string): void => test(title, (context) => context.skip(title));
const framework: TestFramework = { describe, it: Object.assign(testWorkerd.bind(undefined), { skip }) };

const ACCOUNT = '0123456789abcdef0123456789abcdef';
const API_TOKEN = 'token-of-the-api-for-tests';
const TOKEN = 'token-of-the-worker-for-tests';

function codeOf(tag: string): FunctionPackage {
  const source = `const run = ${conformanceFunction(tag)};
export default {
  async fetch(request, env) {
    if (request.method === 'HEAD') return new Response();
    if (request.headers.get('authorization') !== 'Bearer ' + env.BLUEPRINT_TOKEN) return new Response('who is this', { status: 401 });
    try {
      return Response.json(await run(await request.json(), env));
    } catch (error) {
      return Response.json({ error: error.message }, { status: 500 });
    }
  },
};`;
  const zip = zipOf({ 'handler.mjs': source });
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

/** What is not the same after every way that leads to a state: ids, times, versions that no calls go to. */
function snapshot({ scripts }: CloudflareEmulator): unknown {
  return [...scripts.values()]
    .map(({ name, tags, observability, address, crons, versions, deployments }) => {
      const [current] = deployments.at(-1)?.versions ?? [];
      const version = versions.find(({ id }) => id === current?.version_id);
      const { id: _, number: __, createdOn: ___, process: ____, module, bindings = [], ...rest } = version ?? {};
      const sorted = bindings.map((each) => JSON.stringify(each)).toSorted();
      const code = module && [module.name, module.source.toString()];
      return JSON.stringify({ name, tags, observability, address, crons: crons.toSorted(), code, bindings: sorted, rest });
    })
    .toSorted();
}

async function platform(): Promise<DeployerPlatform> {
  const emulator = await startCloudflare({ accountId: ACCOUNT, apiToken: API_TOKEN });
  const isWrite = (method: string, path: string): boolean =>
    method !== 'GET' && method !== 'HEAD' && !/^\/worker\/|\/telemetry\/query$|\/tails(?:\/|$)/.test(path);
  const proxy = await startFaultyProxy({ target: emulator.url, isWrite });
  const connect = (how: Connection): CloudflareDeployer => {
    const apiUrl = how === 'nowhere' ? 'http://127.0.0.1:1' : proxy.url;
    const apiToken = how === 'nameless' ? 'env:NO_SUCH_VARIABLE_FOR_A_TOKEN' : () => API_TOKEN;
    const workersUrl = emulator.workersUrl.replace(emulator.url, proxy.url);
    return new CloudflareDeployer({ accountId: ACCOUNT, apiUrl, apiToken, token: () => TOKEN, workersUrl }, { clock: systemClock });
  };
  return {
    ...proxy,
    connect,
    codeOf,
    snapshot: () => snapshot(emulator),
    schedules: () => [...emulator.scripts.values()].reduce((sum, { crons }) => sum + crons.length, 0),
    makeForeign: async (name) => emulator.makeForeign(name),
    async close() {
      await proxy.close();
      await emulator.close();
    },
  };
}

runDeployerConformance(framework, {
  name: 'cloudflare',
  create: platform,
  config: { memoryMb: 128, timeoutMs: 30_000, environment: { COLOUR: 'blue', SHAPE: 'round' } },
  change: { timeoutMs: 60_000 },
  lacks: { async: 'a Worker runs only while its caller waits' },
});

describe('the bundle in a Worker of the emulator', () => {
  let emulator: CloudflareEmulator | undefined;
  let folder: string | undefined;

  beforeAll(async () => {
    if (!existsSync(workerdBinary)) return;
    const outDir = await mkdtemp(join(tmpdir(), 'cloudflare-'));
    folder = outDir;
    emulator = await startCloudflare({ accountId: ACCOUNT, apiToken: API_TOKEN });
    const { zipFile } = await buildHandler({ entry: join(import.meta.dirname, '../fixtures/gateway/jobs.ts'), outDir });
    const code = await packageFor('cloudflare', await readFile(zipFile));
    const options = { accountId: ACCOUNT, apiUrl: emulator.url, apiToken: () => API_TOKEN, token: () => TOKEN };
    const deployer = new CloudflareDeployer({ ...options, workersUrl: emulator.workersUrl }, { clock: systemClock });
    await deployer.deploy('conformance', code, { timeoutMs: 60_000 });
    await deployer.close();
  });

  afterAll(async () => {
    await emulator?.close();
    if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  });

  for (const wire of ['binary', 'json'] as const)
    runExecutorConformance(framework, {
      name: `cloudflare, ${wire}`,
      create: () =>
        new CloudflareExecutor(
          {
            wire,
            token: () => TOKEN,
            subdomain: 'example',
            workersUrl: emulator?.workersUrl ?? '',
            function: (id) => (id === 4_000_000n ? 'nobody' : 'conformance'),
          },
          { clock: systemClock },
        ),
      skip: { 'runs a failing job once': 'the files of a Worker are its own: it cannot leave a mark for whoever called it' },
    });
});
