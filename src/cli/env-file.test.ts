import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { main } from './main.ts';

let home: string;
let env: Record<string, string>;

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'bpr-env-file-'));
  env = { XDG_CONFIG_HOME: home, HOME: home };
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function preflight(...args: readonly string[]): Promise<Ran> {
  const [stdout, stderr] = [{ text: '' }, { text: '' }];
  const sink = (to: { text: string }) => ({ write: (text: string) => void (to.text += text) });
  const status = await main(['cloud', 'preflight', ...args], { stdout: sink(stdout), stderr: sink(stderr), env, cwd: home });
  return { status, stdout: stdout.text, stderr: stderr.text };
}

const SECRETS = {
  AWS_ACCESS_KEY_ID: 'AKIA-not-to-be-seen',
  AWS_SECRET_ACCESS_KEY: 'secret-not-to-be-seen',
  OPERATOR_PRIVATE_KEY: `0x${'ab'.repeat(32)}`,
};

/** What a program gets that is started with the file. */
function asNodeReadsIt(file: string): Record<string, string> {
  const program = 'console.log(JSON.stringify(process.env))';
  return JSON.parse(execFileSync(process.execPath, [`--env-file=${file}`, '-e', program], { env: {}, encoding: 'utf8' })) as Record<
    string,
    string
  >;
}

function asAShellReadsIt(file: string): Record<string, string> {
  const text = execFileSync('/bin/sh', ['-e', '-c', 'set -a; . "$1"; exec env -0', 'sh', file], { env: {}, encoding: 'utf8' });
  return Object.fromEntries(
    text
      .split('\0')
      .filter(Boolean)
      .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
  );
}

describe('cloud preflight --bootstrap-env', () => {
  it('tells names, never values, and which are missing', async () => {
    Object.assign(env, SECRETS, { HTTP_RPC_URL: 'https://rpc.example/v2/not-to-be-seen' });
    const { status, stdout } = await preflight('--bootstrap-env', '-p', 'aws');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^AWS_SECRET_ACCESS_KEY +environment +credentials of aws, secret$/m);
    expect(stdout).toMatch(/^AWS_REGION +policy|^AWS_REGION +default/m);
    expect(stdout).toMatch(/^SERVICE_ID +missing/m);
    expect(stdout).not.toMatch(/not-to-be-seen|abab/);
    const document: unknown = JSON.parse((await preflight('--bootstrap-env', '--json')).stdout);
    expect(document).toMatchObject({ ok: true });
    expect(JSON.stringify(document)).not.toMatch(/not-to-be-seen|abab|"value"/);
  });

  it.each([
    ['gcp', ['GCP_PROJECT_ID', 'GCP_REGION', 'GOOGLE_APPLICATION_CREDENTIALS']],
    ['azure', ['AZURE_SUBSCRIPTION_ID', 'AZURE_REGION', 'AZURE_CLIENT_ID', 'AZURE_CLIENT_SECRET', 'AZURE_TENANT_ID']],
    ['digitalocean', ['DO_REGION', 'DIGITALOCEAN_TOKEN']],
    ['cloudflare', ['CLOUDFLARE_ACCOUNT_ID', 'CLOUDFLARE_API_TOKEN']],
    ['custom', ['BPR_FAAS_ENDPOINT']],
    ['hetzner', ['HCLOUD_TOKEN']],
  ])('knows what %s needs', async (provider, names) => {
    const { environment } = JSON.parse((await preflight('--bootstrap-env', '-p', provider, '--json')).stdout) as {
      environment: { name: string }[];
    };
    expect(environment.map(({ name }) => name)).toEqual([
      ...names,
      'HTTP_RPC_URL',
      'WS_RPC_URL',
      'TANGLE_CONTRACT',
      'SERVICE_ID',
      'OPERATOR_PRIVATE_KEY',
      'BPR_DATA_DIR',
    ]);
  });

  it('asks for no credentials where another way to sign in is there', async () => {
    mkdirSync(join(home, '.aws'));
    writeFileSync(join(home, '.aws/credentials'), '[default]\n');
    expect((await preflight('--bootstrap-env', '-p', 'aws')).stdout).not.toMatch(/AWS_ACCESS_KEY_ID/);
  });
});

describe('cloud preflight --write-env-file', () => {
  it('writes a file for its owner only, which node and a shell read alike', async () => {
    Object.assign(env, SECRETS, {
      HTTP_RPC_URL: 'https://rpc.example/?a=1&b=$HOME `x` #c',
      TANGLE_CONTRACT: '0xabc',
      AWS_REGION: 'eu-west-1',
    });
    const { status, stdout } = await preflight('-p', 'aws', '--bootstrap-env', '--write-env-file', 'deploy.env');
    const file = join(home, 'deploy.env');
    expect(status).toBe(0);
    expect(stdout).toContain(`Written: ${file}`);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    for (const read of [asNodeReadsIt(file), asAShellReadsIt(file)]) {
      expect(read).toMatchObject({ TANGLE_CONTRACT: '0xabc', SERVICE_ID: '', HTTP_RPC_URL: 'https://rpc.example/?a=1&b=$HOME `x` #c' });
      expect(read['AWS_REGION']).toMatch(/^(?:eu-west-1|us-east-1)$/);
      // What is set elsewhere is not hidden by an empty value.
      for (const name of Object.keys(SECRETS)) expect(read).not.toHaveProperty(name);
    }
    expect(readFileSync(file, 'utf8')).not.toMatch(/not-to-be-seen|abab/);
    expect(stdout).not.toMatch(/not-to-be-seen|abab/);
  });

  it('leaves room for a secret that is missing, and fails as the checks do', async () => {
    const { status } = await preflight('-p', 'digitalocean', '--write-env-file', 'deploy.env');
    expect(status).toBe(1);
    expect(asNodeReadsIt(join(home, 'deploy.env'))).toMatchObject({ DIGITALOCEAN_TOKEN: '', OPERATOR_PRIVATE_KEY: '', DO_REGION: 'nyc1' });
  });

  it('never overwrites, not even through a link', async () => {
    const file = join(home, 'deploy.env');
    writeFileSync(file, 'MINE=1\n');
    const { status, stderr, stdout } = await preflight('--write-env-file', 'deploy.env');
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toMatch(/^CONFIG_INVALID: .*deploy\.env is there already and is not overwritten/);
    expect(readFileSync(file, 'utf8')).toBe('MINE=1\n');
    symlinkSync(join(home, 'elsewhere'), join(home, 'link.env'));
    expect((await preflight('--write-env-file', 'link.env')).status).toBe(1);
    expect(existsSync(join(home, 'elsewhere'))).toBe(false);
  });

  it('a value that no file can hold is an error before anything is written', async () => {
    env['SERVICE_ID'] = "1'\n2";
    expect((await preflight('--write-env-file', 'deploy.env')).stderr).toMatch(/^CONFIG_INVALID: the value of SERVICE_ID/);
    expect(existsSync(join(home, 'deploy.env'))).toBe(false);
  });
});
