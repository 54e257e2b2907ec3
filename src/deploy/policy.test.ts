import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { configDirectory, stateFolder, writeSettings } from './policy-file.ts';
import { DEFAULT_DOCUMENT, FAAS_TYPES, providerOf, readStandIn, writeProvider } from './policy-model.ts';
import { changePolicy, loadPolicy, policyPath } from './policy.ts';
import type { LoadedPolicy } from './policy.ts';
import { defaultRecordFolder } from './record.ts';

const EXAMPLE = readFileSync(join(import.meta.dirname, '../../test/fixtures/deploy/seed-policy.json'), 'utf8');

let home: string;
let path: string;
let env: Record<string, string>;

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'bpr-policy-'));
  env = { XDG_CONFIG_HOME: home };
  path = join(home, 'tangle', 'deployment-policy.json');
});

afterEach(() => rmSync(home, { recursive: true, force: true }));

function write(text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

function written(): Record<string, Record<string, unknown>> {
  return JSON.parse(readFileSync(path, 'utf8')) as Record<string, Record<string, unknown>>;
}

function sourceOf({ values }: LoadedPolicy, key: string): string | undefined {
  const found = values.find((value) => value.key === key);
  return found && [found.source, found.from].filter(Boolean).join(' ');
}

describe('where the file is', () => {
  it.each([
    [{ XDG_CONFIG_HOME: '/x' }, 'linux', '/x'],
    [{ XDG_CONFIG_HOME: 'relative' }, 'linux', '/home/a/.config'],
    [{}, 'linux', '/home/a/.config'],
    [{ XDG_CONFIG_HOME: '/x' }, 'darwin', '/home/a/Library/Application Support'],
    [{ APPDATA: '/data' }, 'win32', '/data'],
  ] as const)('%j on %s', (variables, platform, expected) => {
    expect(configDirectory(variables, { platform, home: '/home/a' })).toBe(expected);
    expect(policyPath(variables, { platform, home: '/home/a' })).toBe(`${expected}/tangle/deployment-policy.json`);
  });
});

describe('where the state of deployments is', () => {
  const usual = join(homedir(), '.local/state');
  it.each([
    [{ XDG_STATE_HOME: '/x' }, '/x'],
    [{ XDG_STATE_HOME: '' }, usual],
    [{ XDG_STATE_HOME: 'relative' }, usual],
    [{ BPR_DEPLOYMENTS: '' }, usual],
  ])('%j: the same in every folder', (variables, expected) => {
    expect(stateFolder(variables)).toBe(`${expected}/blueprint-runner`);
    expect(defaultRecordFolder(variables)).toBe(`${expected}/blueprint-runner/deployments`);
  });
});

describe('reading', () => {
  it('the published example, exactly', () => {
    write(EXAMPLE);
    const loaded = loadPolicy({ env });
    expect(loaded.policy.serverless).toEqual({
      enable: true,
      provider: { type: 'aws-lambda', region: 'us-east-1' },
      memoryMb: 1024,
      timeoutMs: 600_000,
      fallbackToVm: true,
      jobs: new Map(),
    });
    expect(loaded).toMatchObject({ source: 'file', path, warnings: [], unknownKeys: [] });
    expect(sourceOf(loaded, 'serverless.default_memory_mb')).toBe('file');
    expect(sourceOf(loaded, 'failover.max_retries')).toBe('default');
  });

  it('without a file: functions are off, and nobody is warned', () => {
    const { policy, source, warnings, values } = loadPolicy({ env });
    expect(policy.serverless).toMatchObject({ enable: false, memoryMb: 512, timeoutMs: 300_000, fallbackToVm: true });
    expect(policy.costLimits).toEqual({ maxHourlyCost: 5, preferSpot: true, autoTerminateAfterHours: 24, strategy: 'Balanced' });
    expect(policy.failover).toEqual({ retriesMax: 3, retryDelayMs: 30_000, differentRegions: true, differentProviders: true });
    expect({ source, warnings }).toEqual({ source: 'default', warnings: [] });
    expect(new Set(values.map((value) => value.source))).toEqual(new Set(['default']));
  });

  it.each([
    ['', 'it is empty'],
    ['{ "serverless": {', 'it is neither JSON nor TOML'],
    ['[1]', 'it holds JSON, but no object'],
    ['{ "serverless": 5 }', 'serverless is 5, not an object'],
    ['{ "serverless": { "enable": "yes" } }', 'serverless.enable is "yes"; it must be true or false'],
    ['{ "serverless": { "default_memory_mb": -1 } }', 'serverless.default_memory_mb is -1; it must be a whole number from 1 to 4294967295'],
    ['{ "serverless": { "provider": { "type": "heroku" } } }', 'serverless.provider.type is "heroku"; it must be one of aws-lambda,'],
    ['{ "serverless": { "provider": { "type": "custom" } } }', 'serverless.provider.endpoint is missing'],
    ['{ "serverless": { "jobs": { "300": {} } } }', 'serverless.jobs.300 is not the index of a job'],
    [
      '{ "serverless": { "jobs": { "0": { "endpoint": "ftp://x" } } } }',
      'serverless.jobs.0.endpoint is "ftp://x"; it must be an http or https URL',
    ],
    ['{ "providers": { "gpu_providers": ["aws", "ibm"] } }', 'providers.gpu_providers is ["aws","ibm"]; it must be a list of aws, gcp,'],
    [
      '{ "cost_limits": { "optimization_strategy": "cheapest" } }',
      'cost_limits.optimization_strategy is "cheapest"; it must be one of Cheapest',
    ],
  ])('%s: the defaults hold, with a warning; strictly it is an error', (text, problem) => {
    write(text);
    const heard: string[] = [];
    const log = { debug() {}, info() {}, error() {}, warn: (message: string) => heard.push(message), child: () => log };
    const { policy, source, warnings } = loadPolicy({ env, log });
    expect({ source, policy }).toEqual({ source: 'default', policy: loadPolicy({ env, path: join(home, 'none') }).policy });
    expect(warnings.join()).toContain(problem);
    expect(heard).toEqual(['the deployment policy is not used']);
    expect(() => loadPolicy({ env, strict: true })).toThrow(problem);
  });

  it('a file that cannot be read is a warning', () => {
    mkdirSync(path, { recursive: true });
    expect(loadPolicy({ env }).warnings.join()).toContain('it cannot be read: EISDIR');
  });

  it('TOML, under either name', () => {
    const toml = '[serverless]\nenable = true\ndefault_memory_mb = 256\n[serverless.provider]\ntype = "gcp-functions"\nproject_id = "p"\n';
    write(toml);
    expect(loadPolicy({ env }).policy.serverless).toMatchObject({
      enable: true,
      memoryMb: 256,
      provider: { type: 'gcp-functions', projectId: 'p', region: 'us-central1' },
    });
    writeFileSync(join(home, 'p.toml'), toml);
    expect(loadPolicy({ env, path: join(home, 'p.toml') }).policy).toEqual(loadPolicy({ env }).policy);
  });

  it('a limit that is absent from its section, or null, is no limit', () => {
    write('{ "cost_limits": { "prefer_spot": false, "max_hourly_cost": null }, "regions": { "max_latency_ms": 7 } }');
    const { policy } = loadPolicy({ env });
    expect(policy.costLimits).toEqual({ maxHourlyCost: null, preferSpot: false, autoTerminateAfterHours: null, strategy: 'Balanced' });
    expect(policy.regions.maxLatencyMs).toBe(7);
  });

  it('names the keys that mean nothing', () => {
    write('{ "serverless": { "enable": true, "speed": 1, "provider": { "type": "aws-lambda", "color": "red" } }, "theme": { "a": 1 } }');
    expect(loadPolicy({ env })).toMatchObject({
      source: 'file',
      unknownKeys: ['serverless.speed', 'theme', 'serverless.provider.color'],
    });
  });

  it('jobs: endpoint, provider, limits, local', () => {
    write(
      '{ "serverless": { "jobs": { "0": { "endpoint": "https://a.example/f" }, "1": { "provider": { "type": "cloudflare", "account_id": "x" }, "memory_mb": 128 }, "2": { "local": true, "timeout_secs": 5 } } } }',
    );
    expect([...loadPolicy({ env }).policy.serverless.jobs]).toEqual([
      [0, { endpoint: 'https://a.example/f' }],
      [1, { provider: { type: 'cloudflare', accountId: 'x' }, memoryMb: 128 }],
      [2, { local: true, timeoutMs: 5000 }],
    ]);
  });

  it('a URL that carries credentials is refused', () => {
    write('{ "serverless": { "provider": { "type": "custom", "endpoint": "https://user:pass@a.example" } } }');
    expect(loadPolicy({ env }).warnings.join()).toContain('it must not carry credentials');
  });
});

describe('the environment', () => {
  it('says what wins over the file', () => {
    write(EXAMPLE);
    Object.assign(env, { BPR_SERVERLESS: 'false', BPR_FAAS_MEMORY: '2048', BPR_FAAS_TIMEOUT: '30', BPR_SERVERLESS_FALLBACK: 'false' });
    const loaded = loadPolicy({ env });
    expect(loaded.policy.serverless).toMatchObject({ enable: false, memoryMb: 2048, timeoutMs: 30_000, fallbackToVm: false });
    expect(sourceOf(loaded, 'serverless.enable')).toBe('env BPR_SERVERLESS');
  });

  it('the variables of a provider say only what the file leaves out', () => {
    Object.assign(env, { AWS_REGION: 'eu-west-1', AZURE_SUBSCRIPTION_ID: 'sub' });
    write(EXAMPLE);
    expect(loadPolicy({ env }).policy.serverless.provider).toEqual({ type: 'aws-lambda', region: 'us-east-1' });
    write('{ "serverless": { "provider": { "type": "aws-lambda" } } }');
    const loaded = loadPolicy({ env });
    expect(loaded.policy.serverless.provider).toEqual({ type: 'aws-lambda', region: 'eu-west-1' });
    expect(sourceOf(loaded, 'serverless.provider.region')).toBe('env AWS_REGION');
    env['BPR_FAAS_PROVIDER'] = 'azure-functions';
    expect(loadPolicy({ env }).policy.serverless.provider).toEqual({ type: 'azure-functions', subscriptionId: 'sub', region: 'eastus' });
  });

  it.each([
    ['BPR_FAAS_MEMORY', 'lots', 'BPR_FAAS_MEMORY is "lots"; it must be a whole number'],
    ['BPR_FAAS_PROVIDER', 'heroku', 'BPR_FAAS_PROVIDER is "heroku"; it must be one of'],
  ])('%s=%s is an error', (name, value, message) => {
    expect(() => loadPolicy({ env: { ...env, [name]: value } })).toThrow(message);
  });
});

describe('changing', () => {
  it('writes a whole file, for the user only', () => {
    const { changes } = changePolicy({ 'serverless.enable': true }, { env });
    expect(changes).toEqual([{ key: 'serverless.enable', from: false, to: true }]);
    expect(written()).toEqual({ ...DEFAULT_DOCUMENT, serverless: { ...DEFAULT_DOCUMENT.serverless, enable: true } });
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(statSync(dirname(path)).mode & 0o777).toBe(0o700);
    expect(readdirSync(dirname(path))).toEqual(['deployment-policy.json']);
  });

  it('keeps unknown keys, their order and their place, and adds what is missing', () => {
    write(
      '{ "z": [1, { "b": 2 }], "serverless": { "note": "mine", "provider": { "tag": "t", "type": "aws-lambda" }, "enable": false }, "a": null }',
    );
    changePolicy({ 'serverless.enable': true }, { env });
    const now = written();
    expect(Object.keys(now)).toEqual(['z', 'serverless', 'a', 'providers', 'cost_limits', 'regions', 'failover']);
    expect(Object.keys(now['serverless'] ?? {}).slice(0, 3)).toEqual(['note', 'provider', 'enable']);
    expect(now['serverless']).toMatchObject({
      note: 'mine',
      provider: { tag: 't', type: 'aws-lambda', region: 'us-east-1' },
      enable: true,
    });
    expect({ z: now['z'], a: now['a'] }).toEqual({ z: [1, { b: 2 }], a: null });
  });

  it('a provider that other tools do not know lies in a form that they can read, and comes back', () => {
    const provider = { type: 'digitalocean', region: 'fra1' } as const;
    changePolicy({ 'serverless.provider': writeProvider(provider) }, { env });
    expect(written()['serverless']?.['provider']).toEqual({ type: 'custom', endpoint: 'blueprint-runner:digitalocean?region=fra1' });
    expect(loadPolicy({ env }).policy.serverless.provider).toEqual(provider);
  });

  it('every provider comes back from its file form', () => {
    fc.assert(
      fc.property(fc.constantFrom(...FAAS_TYPES), fc.string({ minLength: 1 }), (type, text) => {
        const provider = providerOf(type, (name) => (name === 'endpoint' ? 'https://a.example/' : text));
        const read = readStandIn(writeProvider(provider));
        expect(providerOf(type, (name) => String(read[name]))).toEqual(provider);
        expect(read['type']).toBe(type);
      }),
    );
  });

  it('nothing new: nothing is written', () => {
    write(EXAMPLE);
    expect(changePolicy({ 'serverless.enable': true }, { env }).changes).toEqual([]);
    expect(readFileSync(path, 'utf8')).toBe(EXAMPLE);
  });

  it('a dry run writes nothing', () => {
    expect(changePolicy({ 'serverless.enable': true }, { env, dryRun: true }).changes).toHaveLength(1);
    expect(existsSync(path)).toBe(false);
  });

  it.each(['{ broken', '{ "serverless": { "enable": 7 } }'])('%s is not overwritten unless forced, and then kept', (text) => {
    write(text);
    expect(() => changePolicy({ 'serverless.default_memory_mb': 1024 }, { env })).toThrow(/cannot be used: .*--force/);
    expect(readFileSync(path, 'utf8')).toBe(text);
    const { notes } = changePolicy({ 'serverless.default_memory_mb': 1024 }, { env, force: true });
    expect(notes).toEqual([`the old file is kept as ${path}.corrupt`]);
    expect(readFileSync(`${path}.corrupt`, 'utf8')).toBe(text);
    expect(written()['serverless']).toMatchObject({ enable: false, default_memory_mb: 1024 });
  });

  it('a wrong value can be corrected without force', () => {
    write('{ "serverless": { "enable": 7, "note": 1 } }');
    changePolicy({ 'serverless.enable': true }, { env });
    expect(written()['serverless']).toMatchObject({ enable: true, note: 1 });
  });

  it('a wrong edit is refused, and the file stays', () => {
    write(EXAMPLE);
    expect(() => changePolicy({ 'providers.gpu_providers': ['ibm'] }, { env })).toThrow('providers.gpu_providers is ["ibm"]');
    expect(readFileSync(path, 'utf8')).toBe(EXAMPLE);
  });

  it.each([
    ['aws-lambda', 20_000, 'serverless.default_memory_mb is 20000 MB; aws-lambda allows 128 to 10240 MB'],
    ['digitalocean', 2_048, 'digitalocean allows 128 to 1024 MB'],
    ['cloudflare', 256, 'cloudflare allows exactly 128 MB'],
    ['custom', 4_096, 'custom allows 128 to 2048 MB'],
  ] as const)('%s does not sell %i MB', (type, memoryMb, message) => {
    const provider = writeProvider(providerOf(type, () => 'https://a.example'));
    expect(() => changePolicy({ 'serverless.provider': provider, 'serverless.default_memory_mb': memoryMb }, { env })).toThrow(message);
    expect(existsSync(path)).toBe(false);
  });

  it('what is still the default follows the provider, what was said does not', () => {
    const cloudflare = { 'serverless.provider': writeProvider({ type: 'cloudflare', accountId: 'a' }) };
    expect(changePolicy(cloudflare, { env }).notes).toEqual(['serverless.default_memory_mb follows the provider: 128']);
    expect(written()['serverless']).toMatchObject({ default_memory_mb: 128 });
    write(EXAMPLE);
    expect(() => changePolicy(cloudflare, { env })).toThrow('serverless.default_memory_mb is 1024 MB; cloudflare allows exactly 128 MB');
  });

  it('limits of single jobs are held to their own provider', () => {
    const jobs = { 3: { provider: { type: 'digitalocean', region: 'fra1' }, memory_mb: 4_096 } };
    expect(() => changePolicy({ 'serverless.jobs': jobs }, { env })).toThrow(
      'serverless.jobs.3.memory_mb is 4096 MB; digitalocean allows 128 to 1024 MB',
    );
  });

  it('a .toml file stays TOML; TOML under the name of JSON becomes JSON, which every reader knows', () => {
    const toml = join(home, 'policy.toml');
    writeFileSync(toml, 'mine = 1\n[serverless]\nenable = false\n');
    changePolicy({ 'serverless.enable': true, 'cost_limits.max_hourly_cost': null }, { env, path: toml });
    expect(readFileSync(toml, 'utf8')).toMatch(/^mine = 1\n/);
    expect(loadPolicy({ env, path: toml }).policy).toMatchObject({ serverless: { enable: true }, costLimits: { maxHourlyCost: null } });
    write('[serverless]\nenable = false\n');
    changePolicy({ 'serverless.enable': true }, { env });
    expect(written()['serverless']?.['enable']).toBe(true);
  });

  it('a link stays a link', () => {
    const real = join(home, 'real.json');
    writeFileSync(real, EXAMPLE);
    mkdirSync(dirname(path));
    symlinkSync(real, path);
    changePolicy({ 'serverless.enable': false }, { env });
    expect(lstatSync(path).isSymbolicLink()).toBe(true);
    expect(JSON.parse(readFileSync(real, 'utf8'))).toMatchObject({ serverless: { enable: false } });
  });

  it('a write that fails leaves the old file, and nothing beside it', () => {
    write(EXAMPLE);
    // The target of the rename is a directory: the write itself works, putting it in place does not.
    const blocked = join(home, 'blocked.json');
    mkdirSync(join(blocked, 'inside'), { recursive: true });
    expect(() => writeSettings(blocked, {})).toThrow(/blocked.json cannot be written: E/);
    expect(readdirSync(home).toSorted()).toEqual(['blocked.json', 'tangle']);
    chmodSync(path, 0o644);
    changePolicy({ 'serverless.enable': false }, { env });
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });
});
