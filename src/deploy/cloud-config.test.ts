import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CONFIGURABLE, cloudConfigPath, configureCloud, loadCloudConfig } from './cloud-config.ts';
import { findCredentials } from './credentials.ts';

let home: string;
let path: string;

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'bpr-cloud-'));
  path = cloudConfigPath({ XDG_CONFIG_HOME: home }, { platform: 'linux' });
});

afterEach(() => rmSync(home, { recursive: true, force: true }));

describe('cloud.json', () => {
  it('the first cloud is the default, and stays it until another is made so', () => {
    expect(path).toBe(join(home, 'tangle', 'cloud.json'));
    expect(loadCloudConfig(path)).toEqual({ path, defaultProvider: undefined, providers: new Map() });
    configureCloud(path, 'gcp', { projectId: 'p', env: { GCP_DEFAULT_REGION: 'europe-west4' } });
    configureCloud(path, 'aws', { env: {} });
    expect(JSON.parse(readFileSync(path, 'utf8'))).toEqual({
      default_provider: 'gcp',
      providers: { gcp: { region: 'europe-west4', project_id: 'p' }, aws: { region: 'us-east-1' } },
    });
    expect(configureCloud(path, 'aws', { region: 'eu-west-1', isDefault: true, env: {} })).toEqual({
      path,
      defaultProvider: 'aws',
      providers: new Map([
        ['gcp', { region: 'europe-west4', projectId: 'p' }],
        ['aws', { region: 'eu-west-1' }],
      ]),
    });
  });

  it('what others wrote stays', () => {
    mkdirSync(join(home, 'tangle'));
    writeFileSync(path, '{"x":1,"providers":{"aws":{"region":"a","color":"red"}}}');
    configureCloud(path, 'aws', { env: { AWS_DEFAULT_REGION: 'b' } });
    expect(JSON.parse(readFileSync(path, 'utf8'))).toEqual({
      x: 1,
      providers: { aws: { region: 'a', color: 'red' } },
      default_provider: 'aws',
    });
  });

  it.each(['{', '[]', '{"providers":5}', '{"providers":{"aws":1}}', '{"default_provider":5}'])('%s is not overwritten', (text) => {
    mkdirSync(join(home, 'tangle'));
    writeFileSync(path, text);
    expect(() => configureCloud(path, 'aws', { env: {} })).toThrow('cannot be used');
    expect(readFileSync(path, 'utf8')).toBe(text);
  });
});

describe('credentials', () => {
  it.each([
    ['aws', { AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b' }, ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY']],
    ['digitalocean', { DIGITALOCEAN_TOKEN: 'a' }, ['DIGITALOCEAN_TOKEN']],
    ['gcp', { CLOUDSDK_AUTH_ACCESS_TOKEN: 'a' }, ['CLOUDSDK_AUTH_ACCESS_TOKEN']],
    ['azure', { IDENTITY_ENDPOINT: 'http://a', IDENTITY_HEADER: 'b' }, ['IDENTITY_ENDPOINT', 'IDENTITY_HEADER']],
    [
      'azure',
      { AZURE_CLIENT_ID: 'a', AZURE_CLIENT_SECRET: 'b', AZURE_TENANT_ID: 'c' },
      ['AZURE_CLIENT_ID', 'AZURE_CLIENT_SECRET', 'AZURE_TENANT_ID'],
    ],
    ['custom', {}, []],
  ] as const)('%s with %j', (cloud, env, by) => {
    expect(findCredentials(cloud, env, home)).toMatchObject({ found: true, by });
  });

  it.each([
    ['aws', { AWS_ACCESS_KEY_ID: 'a' }],
    ['aws', { AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: '' }],
    ['gcp', { GOOGLE_APPLICATION_CREDENTIALS: '/nowhere/key.json' }],
    ['kubernetes', {}],
  ] as const)('%s with %j is not enough', (cloud, env) => {
    expect(findCredentials(cloud, env, home)).toMatchObject({ found: false, by: [] });
  });

  it('what deployers do not read is none, though other tools do', () => {
    for (const file of ['.config/gcloud/application_default_credentials.json', '.azure/azureProfile.json']) {
      mkdirSync(dirname(join(home, file)), { recursive: true });
      writeFileSync(join(home, file), '{}');
    }
    const env = { DIGITALOCEAN_ACCESS_TOKEN: 'a' };
    for (const cloud of ['gcp', 'azure', 'digitalocean'] as const)
      expect(findCredentials(cloud, env, home)).toMatchObject({ found: false });
  });

  it('files count when they are there', () => {
    mkdirSync(join(home, '.aws'));
    writeFileSync(join(home, '.aws/credentials'), '');
    expect(findCredentials('aws', {}, home).by).toEqual(['~/.aws/credentials']);
    writeFileSync(join(home, 'key.json'), '');
    expect(findCredentials('gcp', { GOOGLE_APPLICATION_CREDENTIALS: join(home, 'key.json') }, home).by).toEqual([
      'GOOGLE_APPLICATION_CREDENTIALS',
    ]);
  });

  it('every cloud says how to sign in, and no report carries a value', () => {
    const env = new Proxy<Record<string, string>>({}, { get: () => 'the-secret' });
    for (const cloud of CONFIGURABLE) {
      const report = findCredentials(cloud, env, home);
      expect(report.ways.length > 0 || cloud === 'custom').toBe(true);
      expect(JSON.stringify(report)).not.toContain('the-secret');
    }
  });
});
