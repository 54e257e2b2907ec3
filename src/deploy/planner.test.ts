import { describe, expect, test } from 'vitest';
import { mockBlueprint } from '../chain/metadata.ts';
import type { BlueprintMetadata, JobProfile, ServiceState } from '../chain/chain.ts';
import { loadPolicy } from './policy.ts';
import type { DeploymentPolicy, FaasProvider, JobPolicy } from './policy-model.ts';
import { deployerOf, planService, saidSize } from './planner.ts';
import type { PlanOptions } from './planner.ts';

const QUICK: JobProfile = { avgDurationMs: 20, p95DurationMs: 40, peakMemoryMb: 80, stateful: false, persistentConnections: false };
const SERVICE: ServiceState = {
  serviceId: 7n,
  blueprintId: 3n,
  owner: `0x${'11'.repeat(20)}`,
  status: 'active',
  createdAt: 1n,
  ttl: 0n,
  operators: [],
};
const DEFAULTS = loadPolicy({ path: '/nowhere', env: {} }).policy;
const LAMBDA: FaasProvider = { type: 'aws-lambda', region: 'us-east-1' };

function policy(change: Partial<DeploymentPolicy['serverless']> = {}): DeploymentPolicy {
  return { ...DEFAULTS, serverless: { ...DEFAULTS.serverless, enable: true, provider: LAMBDA, ...change } };
}

function blueprint(profiles: readonly (JobProfile | undefined)[]): BlueprintMetadata {
  const { jobs, ...rest } = mockBlueprint(3n);
  const [job] = jobs;
  if (!job) throw new Error('a mock has jobs');
  return {
    ...rest,
    source: 'chain',
    jobs: profiles.map((profile, index) => ({ ...job, index, name: `j${index}`, ...(profile && { profile }) })),
  };
}

const plan = (change: Partial<PlanOptions> = {}) =>
  planService({ policy: policy(), service: SERVICE, blueprint: blueprint([QUICK, QUICK]), chainId: 1, contract: '0x', ...change });
const places = (change: Partial<PlanOptions>): string[] => plan(change).jobs.map(({ place }) => place);
const jobs = (...entries: [number, JobPolicy][]): ReadonlyMap<number, JobPolicy> => new Map(entries);

describe('the plan of a service', () => {
  test.each<[string, Partial<PlanOptions>, string, string[]]>([
    ['all jobs fit', {}, 'serverless', ['function', 'function']],
    ['functions are switched off', { policy: policy({ enable: false }) }, 'traditional', ['runner', 'runner']],
    ['one keeps state', { blueprint: blueprint([QUICK, { ...QUICK, stateful: true }]) }, 'hybrid', ['function', 'runner']],
    [
      'one keeps connections',
      { blueprint: blueprint([{ ...QUICK, persistentConnections: true }, QUICK]) },
      'hybrid',
      ['runner', 'function'],
    ],
    ['one takes too long', { blueprint: blueprint([QUICK, { ...QUICK, p95DurationMs: 900_001 }]) }, 'hybrid', ['function', 'runner']],
    [
      'one takes just not too long',
      { blueprint: blueprint([QUICK, { ...QUICK, p95DurationMs: 900_000 }]) },
      'serverless',
      ['function', 'function'],
    ],
    ['one is too large', { blueprint: blueprint([QUICK, { ...QUICK, peakMemoryMb: 10_241 }]) }, 'hybrid', ['function', 'runner']],
    ['one was never measured', { blueprint: blueprint([QUICK, undefined]) }, 'hybrid', ['function', 'runner']],
    ['none was ever measured', { blueprint: blueprint([undefined, undefined]) }, 'serverless', ['function', 'function']],
    ['none was measured, and that is not enough', { blueprint: blueprint([undefined]), assume: 'local' }, 'traditional', ['runner']],
    [
      'a file says what the chain does not',
      { blueprint: blueprint([undefined]), profiles: new Map([[0, { ...QUICK, stateful: true }]]) },
      'traditional',
      ['runner'],
    ],
    ['the policy keeps one here', { policy: policy({ jobs: jobs([1, { local: true }]) }) }, 'hybrid', ['function', 'runner']],
  ])('%s', (_, change, strategy, expected) => {
    expect([plan(change).strategy, places(change)]).toEqual([strategy, expected]);
  });

  test('each job is held to the limits of its own platform', () => {
    const long = { ...QUICK, p95DurationMs: 600_000 };
    const own = jobs([0, { provider: { type: 'custom', endpoint: 'http://faas' } }]);
    const { jobs: planned } = plan({ policy: policy({ jobs: own }), blueprint: blueprint([long, long]) });
    expect(planned.map(({ place, deployer }) => [place, deployer?.use])).toEqual([
      ['runner', undefined],
      ['function', 'aws-lambda'],
    ]);
  });

  test('a job that the platform has no memory or time for stays in the runner, whatever blueprints are planned with', () => {
    const azure = policy({ provider: { type: 'azure-functions', subscriptionId: 's', region: 'eastus' } });
    const fits = { ...QUICK, peakMemoryMb: 4_000, p95DurationMs: 200_000 };
    const measured = blueprint([{ ...QUICK, peakMemoryMb: 10_000 }, { ...QUICK, p95DurationMs: 400_000 }, fits]);
    const { jobs: planned } = plan({ policy: azure, blueprint: measured });
    expect(planned.map(({ place, config, reason }) => config ?? [place, reason])).toEqual([
      ['runner', 'its peak of 10000 MB is above the 4096 MB of a function'],
      ['runner', expect.stringContaining('its p95 of 400000 ms is above the 230000 ms that a call may take')],
      { memoryMb: 4_096, timeoutMs: 230_000 },
    ]);
  });

  test('a job whose inputs no call carries stays in the runner', () => {
    const sized = (requestBytes: number) => new Map([[0, { ...QUICK, requestBytes }]]);
    const options = { blueprint: blueprint([QUICK]) };
    expect(places({ ...options, profiles: sized(4_600_000) })).toEqual(['function']);
    expect(plan({ ...options, profiles: sized(5_000_000) }).jobs).toMatchObject([
      { place: 'runner', reason: 'inputs of 5000000 bytes are above the 4669440 bytes of a call' },
    ]);
  });

  test('a job that was deployed by hand is called there', () => {
    const { jobs: planned } = plan({ policy: policy({ jobs: jobs([1, { endpoint: 'https://mine.example' }]) }) });
    expect(planned[1]).toMatchObject({
      place: 'function',
      reason: 'it is deployed by hand at https://mine.example',
      endpoint: 'https://mine.example',
      deployer: { use: 'http', options: { endpoints: { 'blueprint-7-job-1': 'https://mine.example' } } },
    });
  });

  test('sizes are what was measured and a half, at least what the policy says, at most what the platform sells', () => {
    const large = { ...QUICK, peakMemoryMb: 1_000, p95DurationMs: 400_000 };
    const sizes = (change: Partial<PlanOptions>) => plan(change).jobs.map(({ config }) => [config?.memoryMb, config?.timeoutMs]);
    expect(sizes({ blueprint: blueprint([QUICK, large]) })).toEqual([
      [512, 300_000],
      [1_500, 800_000],
    ]);
    const cloudflare: FaasProvider = { type: 'cloudflare', accountId: 'a' };
    expect(sizes({ policy: policy({ provider: cloudflare }), blueprint: blueprint([QUICK]) })).toEqual([[128, 300_000]]);
    expect(sizes({ policy: policy({ jobs: jobs([0, { memoryMb: 2_048, timeoutMs: 5_000 }]) }), blueprint: blueprint([QUICK]) })).toEqual([
      [2_048, 5_000],
    ]);
  });

  test('metadata that nobody asked a chain for is named as such', () => {
    expect(plan({ blueprint: mockBlueprint(3n) }).warnings).toEqual(['the metadata of the blueprint is made up: no chain was asked']);
  });

  test('a service that nobody can call is not deployed', () => {
    for (const status of ['terminated', 'expired'] as const)
      expect(() => plan({ service: { ...SERVICE, status } })).toThrow(expect.objectContaining({ code: 'STATE_INVALID' }));
  });

  test('every provider of a policy names its plugin, and one of which too little is known says what is missing', () => {
    const providers: FaasProvider[] = [
      LAMBDA,
      { type: 'gcp-functions', projectId: 'p', region: 'r' },
      { type: 'azure-functions', subscriptionId: 's', region: 'r' },
      { type: 'digitalocean', region: 'nyc1' },
      { type: 'cloudflare', accountId: 'a' },
      { type: 'kubernetes', namespace: 'n', context: '' },
      { type: 'custom', endpoint: 'http://x' },
    ];
    expect(providers.map((provider) => deployerOf(provider).use)).toEqual([
      'aws-lambda',
      'gcp',
      'azure',
      'digitalocean',
      'cloudflare',
      'kubernetes',
      'http',
    ]);
    expect(deployerOf(LAMBDA, { 'aws-lambda': { endpoint: 'http://moto' }, gcp: { x: 1 } }).options).toEqual({
      region: 'us-east-1',
      endpoint: 'http://moto',
    });
    const unsaid: FaasProvider = { type: 'gcp-functions', projectId: '', region: 'r' };
    expect(deployerOf(unsaid, { gcp: { projectId: 'p' } }).options).toEqual({ projectId: 'p', region: 'r' });
    expect(() => deployerOf(unsaid, { azure: { projectId: 'p' } })).toThrow(
      expect.objectContaining({
        code: 'CONFIG_INVALID',
        message:
          'the policy does not say the projectId of gcp-functions; set it with bpr cloud policy, or with --deployer-option gcp.projectId=...',
      }),
    );
  });
});

describe('the size of one function', () => {
  const loaded = (env: Record<string, string>): ReturnType<typeof loadPolicy> => loadPolicy({ env, path: '/nowhere/policy.json' });

  test('is what was said, within what the platform has', () => {
    const said = loaded({ BPR_FAAS_MEMORY: '1000', BPR_FAAS_TIMEOUT: '1800' });
    expect(saidSize('aws-lambda', said)).toEqual({ memoryMb: 1000, timeoutMs: 900_000 });
    expect(saidSize('digitalocean', said)).toEqual({ memoryMb: 1024, timeoutMs: 900_000 });
    expect(saidSize('cloudflare', said)).toMatchObject({ memoryMb: 128 });
  });

  test('is left to the platform when nobody said it', () => {
    expect(saidSize('aws-lambda', loaded({}))).toEqual({});
    expect(saidSize('aws-lambda', loaded({ BPR_FAAS_TIMEOUT: '60' }))).toEqual({ timeoutMs: 60_000 });
  });
});
