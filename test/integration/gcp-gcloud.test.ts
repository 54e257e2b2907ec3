/** The real gcloud and the deployer at one emulator: each reads what the other wrote. */

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect } from 'vitest';
import { GcpDeployer } from '../../plugins/gcp/index.ts';
import type { FunctionPackage } from '../../src/executor/deployer.ts';
import { requirePeer, runs } from '../require.ts';
import { impatientClock } from '../support/gcp-clock.ts';
import { PROJECT, REGION, startGcp } from '../support/gcp.ts';
import type { GcpEmulator } from '../support/gcp.ts';
import { zipOf } from '../support/gateway.ts';

const TOKEN = 'ya29.of-gcloud';
const SOURCE = 'exports.handler = (request, response) => { console.log("called"); response.json({ body: request.body }); };';
const GCLOUD_MS_MAX = 120_000;

const testGcloud = requirePeer('gcloud', () => runs('gcloud', '--version'));

let emulator: GcpEmulator;
let folder: string;
let deployer: GcpDeployer;

beforeAll(async () => {
  emulator = await startGcp();
  emulator.tokens.add(TOKEN);
  folder = await mkdtemp(join(tmpdir(), 'gcloud-'));
  await writeFile(join(folder, 'token'), TOKEN);
  await writeFile(join(folder, 'index.js'), SOURCE);
  await writeFile(join(folder, 'package.json'), '{}');
  const options = { projectId: PROJECT, region: REGION, endpoints: emulator.endpoints, credentials: () => emulator.credentials };
  deployer = new GcpDeployer(options, { clock: impatientClock, environment: {} });
});

afterAll(async () => {
  await deployer.close();
  await emulator.close();
  await rm(folder, { recursive: true, force: true });
});

function codeOf(source: string): FunctionPackage {
  const zip = zipOf({ 'index.js': source });
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

async function gcloud(...args: readonly string[]): Promise<unknown> {
  const services = ['CLOUDFUNCTIONS', 'CLOUDSCHEDULER', 'RUN', 'LOGGING', 'SERVICEUSAGE', 'CLOUDRESOURCEMANAGER', 'CLOUDBUILD'];
  const env = {
    PATH: process.env['PATH'],
    HOME: folder,
    CLOUDSDK_CONFIG: join(folder, 'config'),
    CLOUDSDK_AUTH_ACCESS_TOKEN_FILE: join(folder, 'token'),
    CLOUDSDK_CORE_PROJECT: PROJECT,
    CLOUDSDK_CORE_DISABLE_PROMPTS: '1',
    CLOUDSDK_CORE_DISABLE_USAGE_REPORTING: '1',
    ...Object.fromEntries(services.map((name) => [`CLOUDSDK_API_ENDPOINT_OVERRIDES_${name}`, `${emulator.url}/`])),
  };
  const { stdout } = await promisify(execFile)('gcloud', [...args, '--format=json'], { env, timeout: GCLOUD_MS_MAX / 2 });
  return JSON.parse(stdout);
}

testGcloud(
  'gcloud reads and lists what the deployer wrote',
  async () => {
    const code = codeOf(SOURCE);
    const { state } = await deployer.deploy('ours', code, {
      description: 'squares numbers',
      memoryMb: 512,
      timeoutMs: 90_000,
      environment: { COLOUR: 'blue' },
      tags: { team: 'kitchen' },
      schedules: [
        { name: 'weekdays', schedule: { kind: 'calendar', expression: 'Mon-Fri 09:00 Europe/Berlin' }, event: { kind: 'report' } },
      ],
    });
    const described = {
      name: `projects/${PROJECT}/locations/${REGION}/functions/ours`,
      state: 'ACTIVE',
      environment: 'GEN_2',
      description: 'squares numbers',
      labels: { 'managed-by': 'blueprint-runner', team: 'kitchen' },
      buildConfig: { runtime: 'nodejs24', entryPoint: 'handler' },
      serviceConfig: {
        availableMemory: '512Mi',
        timeoutSeconds: 90,
        environmentVariables: { COLOUR: 'blue', BLUEPRINT_PACKAGE_SHA256: code.sha256 },
        allTrafficOnLatestRevision: true,
        uri: state?.endpoint,
      },
    };
    expect(await gcloud('functions', 'describe', 'ours', '--v2', '--region', REGION)).toMatchObject(described);
    expect(await gcloud('functions', 'list', '--v2', '--regions', REGION)).toMatchObject([described]);
    const job = {
      name: `projects/${PROJECT}/locations/${REGION}/jobs/ours_weekdays`,
      schedule: '0 9 * * MON-FRI',
      timeZone: 'Europe/Berlin',
      attemptDeadline: '90s',
      state: 'ENABLED',
      httpTarget: {
        uri: state?.endpoint,
        httpMethod: 'POST',
        body: Buffer.from('{"kind":"report"}').toString('base64'),
        oidcToken: { audience: state?.endpoint, serviceAccountEmail: '123456-compute@developer.gserviceaccount.com' },
      },
    };
    expect(await gcloud('scheduler', 'jobs', 'list', '--location', REGION)).toMatchObject([job]);
    expect(await gcloud('scheduler', 'jobs', 'describe', 'ours_weekdays', '--location', REGION)).toMatchObject(job);
    await deployer.invoke('ours', Buffer.from('{}'));
    const lines = await gcloud('functions', 'logs', 'read', 'ours', '--gen2', '--region', REGION);
    expect(JSON.stringify(lines)).toContain('called');
  },
  GCLOUD_MS_MAX,
);

testGcloud(
  'the deployer reads what gcloud wrote, and goes on from there',
  async () => {
    const deploy = ['functions', 'deploy', 'theirs', '--gen2', '--region', REGION, '--runtime', 'nodejs22', '--entry-point', 'handler'];
    const more = ['--source', folder, '--trigger-http', '--no-allow-unauthenticated', '--memory', '1Gi', '--timeout', '75s'];
    await gcloud(...deploy, ...more, '--set-env-vars', 'SHAPE=round', '--max-instances', '7');
    const foreign = await deployer.describe('theirs');
    expect(foreign).toMatchObject({
      status: 'foreign',
      config: { runtime: 'nodejs22', handler: 'handler', memoryMb: 1_024, timeoutMs: 75_000, concurrencyMax: 7 },
    });
    expect(foreign?.config.environment).toMatchObject({ SHAPE: 'round' });
    await expect(deployer.remove('theirs')).rejects.toMatchObject({ code: 'RESOURCE_FOREIGN' });
    await gcloud(...deploy, ...more, '--update-labels', 'managed-by=blueprint-runner');
    const create = ['scheduler', 'jobs', 'create', 'http', 'theirs_nightly', '--location', REGION, '--schedule', '30 3 * * 1-5'];
    const target = ['--uri', 'https://example.org/', '--time-zone', 'Europe/Berlin'];
    await gcloud(...create, ...target, '--description', 'managed-by: blueprint-runner');
    const adopted = await deployer.describe('theirs');
    expect(adopted).toMatchObject({ status: 'active', config: { memoryMb: 1_024 } });
    expect(adopted?.sha256).toBeUndefined();
    expect(adopted?.config.schedules).toEqual([
      { name: 'nightly', schedule: { kind: 'calendar', expression: 'Mon..Fri *-*-* 3:30:00 Europe/Berlin' } },
    ]);
    const code = codeOf(SOURCE);
    const { changes } = await deployer.deploy('theirs', code, { ...adopted?.config, environment: { SHAPE: 'round' } });
    expect(changes.map(({ action, resource }) => `${action} ${resource}`)).toEqual(['update code', 'update access', 'update schedule']);
    expect((await deployer.deploy('theirs', code, { ...adopted?.config, environment: { SHAPE: 'round' } })).changes).toEqual([]);
    expect((await deployer.describe('theirs'))?.sha256).toBe(code.sha256);
    const invocation = await deployer.invoke('theirs', Buffer.from('{"a":1}'));
    expect(Buffer.from(invocation.body).toString()).toBe('{"body":{"a":1}}');
    await deployer.remove('theirs');
    expect(await gcloud('scheduler', 'jobs', 'list', '--location', REGION)).not.toContainEqual(
      expect.objectContaining({ name: expect.stringContaining('theirs') as string }),
    );
    await expect(gcloud('functions', 'describe', 'theirs', '--v2', '--region', REGION)).rejects.toThrow(/not found/i);
  },
  GCLOUD_MS_MAX,
);
