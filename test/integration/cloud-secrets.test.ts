/** The life of a function on each platform by command, on the emulators: tokens and values of variables are in nothing that is said or written. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CliUser } from '../support/cli-user.ts';
import type { Ended } from '../support/cli-user.ts';
import { startAzure } from '../support/azure.ts';
import { IDENTITY, codeOf } from '../support/azure-platform.ts';
import { startCloudflare } from '../support/cloudflare.ts';
import { startDigitalOcean } from '../support/digitalocean.ts';
import { zipOf } from '../support/gateway.ts';
import { PROJECT, REGION, startGcp } from '../support/gcp.ts';
import { hasWorkerd } from '../support/handler-platforms.ts';
import { startKubernetes } from '../support/kubernetes.ts';
import { kubeconfigFor } from '../support/kubernetes-config.ts';
import { requirePeer } from '../require.ts';

const HASTY = join(import.meta.dirname, '../fixtures/cli/hasty-bpr.ts');
const TOKEN = 'q7-token-nobody-may-see-5d1';
const WORKER_TOKEN = 'w3-token-of-workers-88e';
const VARIABLES = { PLAIN_NAME: 'hunter2-b7e1', DATABASE_URL: 'postgres://user:pass-of-a-database-91c@db.example/x' };
const ACCOUNT = 'a'.repeat(32);

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'cloud-secrets-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

interface Place {
  readonly env: Readonly<Record<string, string>>;
  /** Options of the deployer. */
  readonly options: readonly string[];
  readonly zip: Uint8Array;
  /** What the platform gave out meanwhile. */
  readonly issued?: () => readonly string[];
  readonly close: () => Promise<void>;
}

const PLACES: Readonly<Record<string, () => Promise<Place>>> = {
  async 'gcp-functions'() {
    const emulator = await startGcp();
    emulator.tokens.add(TOKEN);
    const credentials = join(folder, 'account.json');
    writeFileSync(credentials, emulator.credentials);
    const [, key = ''] = /-----\\n([\w+/]{40})/.exec(emulator.credentials) ?? [];
    expect(key).toHaveLength(40);
    return {
      env: { GCP_PROJECT_ID: PROJECT, GOOGLE_APPLICATION_CREDENTIALS: credentials },
      options: [`gcp.region=${REGION}`, `gcp.endpoints=${JSON.stringify(emulator.endpoints)}`],
      zip: zipOf({ 'index.js': "exports.handler = (request, response) => { console.log('called'); response.json({ ok: true }); };" }),
      issued: () => [key],
      close: () => emulator.close(),
    };
  },
  async 'azure-functions'() {
    const emulator = await startAzure({ ...IDENTITY, clientSecret: TOKEN });
    const { subscription, tenant, clientId } = IDENTITY;
    return {
      env: { AZURE_SUBSCRIPTION_ID: subscription, AZURE_TENANT_ID: tenant, AZURE_CLIENT_ID: clientId, AZURE_CLIENT_SECRET: TOKEN },
      options: [`azure.endpoints=${JSON.stringify(emulator.endpoints())}`, 'azure.insightsAppId=insights-of-tests'],
      zip: codeOf('a').zip,
      issued: () => [
        ...emulator.apps.flatMap(({ masterKey, functionKey }) => [masterKey, functionKey]),
        ...[...emulator.groups.values()].flatMap(({ accounts }) => [...accounts.values()].map(({ blobs }) => blobs.key)),
      ],
      close: () => emulator.close(),
    };
  },
  async digitalocean() {
    const emulator = await startDigitalOcean({ token: TOKEN });
    return {
      env: { DIGITALOCEAN_TOKEN: TOKEN },
      options: [`digitalocean.apiUrl=${emulator.url}`],
      zip: zipOf({ 'index.js': "exports.main = () => { console.log('called'); return { ok: true }; };" }),
      issued: () => [...emulator.namespaces.values()].map(({ whisk }) => whisk.key),
      close: () => emulator.close(),
    };
  },
  async cloudflare() {
    const emulator = await startCloudflare({ accountId: ACCOUNT, apiToken: TOKEN });
    return {
      env: { CLOUDFLARE_ACCOUNT_ID: ACCOUNT, CLOUDFLARE_API_TOKEN: TOKEN, CLOUDFLARE_WORKER_TOKEN: WORKER_TOKEN },
      options: [`cloudflare.apiUrl=${emulator.url}`, `cloudflare.workersUrl=${emulator.workersUrl}`],
      zip: zipOf({ 'handler.mjs': "export default { fetch() { console.log('called'); return Response.json({ ok: true }); } };" }),
      close: () => emulator.close(),
    };
  },
  async kubernetes() {
    const emulator = await startKubernetes({ token: TOKEN });
    const kubeconfig = join(folder, 'kubeconfig');
    writeFileSync(kubeconfig, kubeconfigFor({ server: emulator.url, token: TOKEN }));
    const source = `import { createServer } from 'node:http';
const server = createServer((request, response) => { console.log('called'); response.end('{"ok":true}'); });
server.listen(Number(process.env.PORT), process.env.HOST);
process.on('SIGTERM', () => server.close());`;
    return {
      env: {},
      options: [`kubernetes.kubeconfig=${kubeconfig}`],
      zip: zipOf({ 'handler.mjs': source }),
      close: () => emulator.close(),
    };
  },
};

const testWorkerd = requirePeer('workerd', hasWorkerd);

for (const [provider, start] of Object.entries(PLACES)) {
  const declare = provider === 'cloudflare' ? testWorkerd : test;
  declare(`${provider}: from its deployment to its end a function gives no secret away`, async () => {
    const { env, options, zip, issued = () => [], close } = await start();
    try {
      const file = join(folder, `${provider}.zip`);
      writeFileSync(file, zip);
      const user = new CliUser(folder, { ...env, LOG_LEVEL: 'debug' });
      user.program = HASTY;
      const platform = ['-p', provider, ...options.flatMap((option) => ['--deployer-option', option])];
      const secrets = [TOKEN, WORKER_TOKEN, VARIABLES.PLAIN_NAME, 'pass-of-a-database-91c', ...issued()];
      const variables = Object.entries(VARIABLES).flatMap(([name, value]) => ['--env', `${name}=${value}`]);
      const cloud = async (...args: string[]): Promise<Ended> => {
        const ended = await user.bpr('cloud', ...args, ...platform);
        secrets.push(...issued());
        expect([args[0], ended.code, ended.stderr]).toEqual([args[0], 0, expect.not.stringMatching(/^[A-Z_]+: /m)]);
        return ended;
      };
      const { stdout } = await cloud('deploy', file, '--name', 'squaring', ...variables, '--json');
      expect(stdout).toContain('"PLAIN_NAME": "[hidden]"');
      await cloud('invoke', 'squaring', '--data', '{"say":"called"}');
      const [status, list, logs] = await Promise.all([
        cloud('status', 'squaring', '--json'),
        cloud('list', '--json'),
        cloud('logs', 'squaring'),
        cloud('status', 'squaring'),
      ]);
      for (const { stdout: shown } of [status, list]) expect(shown).toContain('squaring');
      expect(logs.stdout).toContain('called');
      await cloud('update', 'squaring', '--env', `PLAIN_NAME=${VARIABLES.PLAIN_NAME}`, '--env', 'MORE=x');
      await cloud('terminate', 'squaring', '--json');
      expect((await cloud('list')).stdout).not.toContain('squaring');
      expect(secrets.filter((secret) => secret.length < 10)).toEqual([]);
      expect(user.leaks([...new Set(secrets)])).toEqual([]);
    } finally {
      await close();
    }
  });
}
