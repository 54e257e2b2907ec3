/** What the commands say of every platform when it cannot be reached or refuses whoever asks; tokens are never said. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { main } from '../../src/cli/main.ts';
import { handlerPackage } from '../support/aws-platform.ts';
import { CliUser } from '../support/cli-user.ts';
import { kubeconfigFor } from '../support/kubernetes-config.ts';

const HASTY = join(import.meta.dirname, '../fixtures/cli/hasty-bpr.ts');
const SECRET = 'q7-token-nobody-may-see-5d1';
const VARIABLE = 'hunter2-b7e1';
const NOWHERE = 'http://127.0.0.1:1';

let folder: string;
let zip: string;
/** Refuses everybody, and repeats what was sent. */
let refusing: Server;
let refusingUrl: string;
const asked: string[] = [];
/** Has too many requests, always. */
let busy: Server;
let busyUrl: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cloud-platforms-'));
  zip = join(folder, 'a.zip');
  writeFileSync(zip, handlerPackage('a').zip);
  refusing = createServer((request, response) => {
    asked.push(`${request.method}`);
    const authorization = request.headers.authorization ?? '';
    response.writeHead(401, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ error: { code: 401, message: `who is this? authorization: ${authorization}` }, message: authorization }));
  });
  refusingUrl = await listening(refusing);
  busy = createServer((_, response) => void response.writeHead(429, { 'content-type': 'application/json' }).end('{}'));
  busyUrl = await listening(busy);
});

async function listening(server: Server): Promise<string> {
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

afterAll(async () => {
  for (const server of [refusing, busy]) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
  rmSync(folder, { recursive: true });
});

interface Platform {
  readonly env?: Readonly<Record<string, string>>;
  /** Options of the deployer that lead to this address. */
  readonly at: (url: string) => readonly string[];
}

const PLATFORMS: Readonly<Record<string, Platform>> = {
  'aws-lambda': {
    env: { AWS_ACCESS_KEY_ID: 'AKIAEXAMPLE', AWS_SECRET_ACCESS_KEY: SECRET, AWS_REGION: 'eu-central-1' },
    at: (url) => [`aws-lambda.endpoint=${url}`],
  },
  'gcp-functions': {
    env: { GCP_PROJECT_ID: 'project-one', CLOUDSDK_AUTH_ACCESS_TOKEN: SECRET },
    at: (url) => [`gcp.endpoints=${JSON.stringify({ functions: url, run: url, scheduler: url, logging: url })}`],
  },
  'azure-functions': {
    env: { AZURE_SUBSCRIPTION_ID: 'subscription-1', AZURE_TENANT_ID: 'tenant', AZURE_CLIENT_ID: 'client', AZURE_CLIENT_SECRET: SECRET },
    at: (url) => [`azure.endpoints=${JSON.stringify({ login: url, management: url })}`],
  },
  digitalocean: { env: { DIGITALOCEAN_TOKEN: SECRET }, at: (url) => [`digitalocean.apiUrl=${url}`] },
  cloudflare: {
    env: { CLOUDFLARE_ACCOUNT_ID: 'a'.repeat(32), CLOUDFLARE_API_TOKEN: SECRET, CLOUDFLARE_WORKER_TOKEN: `${SECRET}-worker` },
    at: (url) => [`cloudflare.apiUrl=${url}`],
  },
  kubernetes: {
    at(url) {
      const file = join(folder, `kubeconfig-${new URL(url).port}`);
      writeFileSync(file, kubeconfigFor({ server: url, token: SECRET }));
      return [`kubernetes.kubeconfig=${file}`];
    },
  },
  custom: { env: { BPR_FAAS_ENDPOINT: NOWHERE }, at: (url) => [`http.url=${url}`] },
};

describe.each(Object.keys(PLATFORMS))('%s', (provider) => {
  const { env = {}, at } = PLATFORMS[provider] ?? { at: () => [] };
  const common = (url: string): string[] => ['-p', provider, ...at(url).flatMap((option) => ['--deployer-option', option])];
  const commands = (url: string): string[][] => [
    ['cloud', 'list', ...common(url)],
    ['cloud', 'deploy', zip, '--name', 'squaring', '--env', `PLAIN_NAME=${VARIABLE}`, ...common(url)],
    ['cloud', 'terminate', 'squaring', '--json', ...common(url)],
  ];
  const userOf = (): CliUser => {
    const user = new CliUser(folder, { ...env, LOG_LEVEL: 'debug' });
    user.program = HASTY;
    return user;
  };

  it('that does not answer is told to be unreachable, without a stack and without a secret', async () => {
    const user = userOf();
    for (const { code, stdout, stderr } of await Promise.all(commands(NOWHERE).map((args) => user.bpr(...args)))) {
      expect(`${stdout}${stderr}`).toMatch(/^PLATFORM_UNREACHABLE: |^\{"error":\{"code":"PLATFORM_UNREACHABLE",.*\}\}$/m);
      expect(`${stdout}${stderr}`).not.toMatch(/^ {4}at /m);
      expect(code).toBe(1);
    }
    expect(user.leaks([SECRET, VARIABLE])).toEqual([]);
    expect([...user.files()]).toEqual([]);
  });

  it('that refuses whoever asks is told so, and what it repeats of a secret is not', async () => {
    const user = userOf();
    for (const { code, stdout, stderr } of await Promise.all(commands(refusingUrl).map((args) => user.bpr(...args)))) {
      expect(`${stdout}${stderr}`).toMatch(/\b(?:EXECUTOR_UNAUTHORIZED|CREDENTIALS_MISSING|DEPLOY_FAILED|PLATFORM_UNREACHABLE)\b/);
      expect(`${stdout}${stderr}`).not.toMatch(/^ {4}at |INTERNAL/m);
      expect(code).toBe(1);
    }
    expect(user.leaks([SECRET, VARIABLE])).toEqual([]);
    expect(asked.filter((method) => !['GET', 'HEAD', 'POST'].includes(method))).toEqual([]);
  });

  it('commands that are called in a wrong way end with 2', async () => {
    for (const [args, message] of [
      [['cloud', 'deploy', '--name', 'a'], "missing required argument 'entry'"],
      [['cloud', 'status'], "missing required argument 'name'"],
      [['cloud', 'list', '--deployer-option', 'region=x'], 'plugin.name=value'],
    ] as const) {
      let said = '';
      const sink = { write: (text: string) => (said += text) };
      const code = await main([...args, '-p', provider], { stdout: sink, stderr: sink, env: { HOME: folder }, cwd: folder });
      expect([code, said]).toEqual([2, expect.stringContaining(message)]);
    }
  });
});

it.each([
  ['gcp-functions', 'gcp.token'],
  ['gcp-functions', 'gcp.credentials'],
  ['azure-functions', 'azure.clientSecret'],
  ['azure-functions', 'azure.token'],
  ['azure-functions', 'azure.insightsConnection'],
  ['digitalocean', 'digitalocean.token'],
  ['cloudflare', 'cloudflare.apiToken'],
  ['cloudflare', 'cloudflare.token'],
  ['custom', 'http.bearer'],
  ['aws-lambda', 'aws-lambda.credentials'],
])('%s takes no secret itself as %s, and does not repeat it', async (provider, option) => {
  let said = '';
  const sink = { write: (text: string) => (said += text) };
  const env = { HOME: folder, ...PLATFORMS[provider]?.env };
  const args = ['cloud', 'list', '-p', provider, '--deployer-option', `${option}=${SECRET}`];
  expect([await main(args, { stdout: sink, stderr: sink, env, cwd: folder }), said]).toEqual([
    1,
    expect.stringMatching(/^CONFIG_INVALID: /),
  ]);
  expect(said).not.toContain(SECRET);
});

// AWS has a form of its own for it, which its own tests have.
it.each(Object.entries(PLATFORMS).filter(([provider]) => provider !== 'aws-lambda'))(
  '%s that throttles is waited for, which is told as progress, and is an error in the end',
  async (provider, { env = {}, at }) => {
    const user = new CliUser(folder, { ...env, LOG_LEVEL: 'debug' });
    user.program = HASTY;
    const flags = ['-p', provider, ...at(busyUrl).flatMap((option) => ['--deployer-option', option])];
    const { code, stderr } = await user.bpr('cloud', 'deploy', zip, '--name', 'squaring', '--env', `PLAIN_NAME=${VARIABLE}`, ...flags);
    expect(stderr).toMatch(/^squaring: \w[\w ]* throttles [A-Z]+ \/\S+: trying again in \d+ s, after \d+ s$/m);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^PLATFORM_THROTTLED: /m)]);
    expect(user.leaks([SECRET, VARIABLE])).toEqual([]);
  },
  180_000,
);
