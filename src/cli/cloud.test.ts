import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { main } from './main.ts';

const JOBS = join(import.meta.dirname, '../../test/fixtures/cli/jobs.ts');

let home: string;
let path: string;
let env: Record<string, string>;

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'bpr-cli-cloud-'));
  path = join(home, 'tangle/deployment-policy.json');
  env = { XDG_CONFIG_HOME: home, HOME: home };
});

afterEach(() => rmSync(home, { recursive: true, force: true }));

class Text {
  text = '';
  write(text: string): void {
    this.text += text;
  }
}

interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function bpr(...args: readonly string[]): Promise<Ran> {
  const [stdout, stderr] = [new Text(), new Text()];
  const status = await main(args, { stdout, stderr, env, cwd: home });
  return { status, stdout: stdout.text.replaceAll(home, '~'), stderr: stderr.text.replaceAll(home, '~') };
}

async function json<T>(...args: readonly string[]): Promise<T> {
  const { stdout } = await bpr(...args, '--json');
  return JSON.parse(stdout) as T;
}

describe('every command', () => {
  it.each(['cloud policy', 'cloud show', 'cloud configure', 'cloud preflight', 'cloud analyze', 'cloud estimate', 'profile'])(
    '%s has examples and takes --json',
    async (name) => {
      const { status, stdout } = await bpr(...name.split(' '), '--help');
      expect(status).toBe(0);
      expect(stdout).toContain(`Examples:\n  bpr ${name}`);
      expect(stdout).toContain('--json');
    },
  );

  it.each([
    ['configure-policy', 'policy'],
    ['show-policy', 'show'],
    ['cfg', 'configure'],
    ['check', 'preflight'],
    ['cost', 'estimate'],
  ])('cloud %s is cloud %s', async (alias, name) => {
    expect((await bpr('cloud', alias, '--help')).stdout).toBe((await bpr('cloud', name, '--help')).stdout);
  });
});

describe('cloud policy', () => {
  it('writes what is said, and tells what changed', async () => {
    expect(await bpr('cloud', 'policy', '--serverless', 'true', '--faas-provider', 'aws-lambda', '--faas-memory', '1024')).toEqual({
      status: 0,
      stdout: [
        'serverless.enable: false -> true',
        'serverless.default_memory_mb: 512 -> 1024',
        'written to ~/tangle/deployment-policy.json',
        '',
      ].join('\n'),
      stderr: '',
    });
    expect(JSON.parse(readFileSync(path, 'utf8'))).toMatchObject({
      serverless: { enable: true, provider: { type: 'aws-lambda', region: 'us-east-1' }, default_memory_mb: 1024 },
    });
    expect((await bpr('cloud', 'policy', '--serverless', 'true')).stdout).toBe('nothing changes\n');
  });

  it('every flag reaches its key', async () => {
    const flags = [
      ['--gpu-providers', 'aws, gcp'],
      ['--cpu-providers', 'hetzner'],
      ['--memory-providers', 'gcp'],
      ['--cost-providers', 'vastai,vultr'],
      ['--max-cost', '2.5'],
      ['--prefer-spot', 'false'],
      ['--auto-terminate', '12'],
      ['--regions', 'eu-west-1,eu-central-1'],
      ['--cost-strategy', 'cheapest'],
      ['--max-latency', 'none'],
      ['--serverless', 'true'],
      ['--faas-provider', 'gcp-functions'],
      ['--faas-gcp-project', 'p'],
      ['--faas-region', 'europe-west4'],
      ['--faas-memory', '2048'],
      ['--faas-timeout', '3600'],
      ['--serverless-fallback', 'false'],
    ].flat();
    expect(await bpr('cloud', 'policy', ...flags)).toMatchObject({ status: 0, stderr: '' });
    expect(JSON.parse(readFileSync(path, 'utf8'))).toEqual({
      providers: {
        gpu_providers: ['aws', 'gcp'],
        cpu_intensive: ['hetzner'],
        memory_intensive: ['gcp'],
        cost_optimized: ['vastai', 'vultr'],
      },
      cost_limits: { max_hourly_cost: 2.5, prefer_spot: false, auto_terminate_after_hours: 12, optimization_strategy: 'Cheapest' },
      regions: { preferred_regions: ['eu-west-1', 'eu-central-1'], allow_fallback_regions: true, max_latency_ms: null },
      failover: { max_retries: 3, retry_delay_seconds: 30, retry_different_regions: true, retry_different_providers: true },
      serverless: {
        enable: true,
        provider: { type: 'gcp-functions', project_id: 'p', region: 'europe-west4' },
        default_memory_mb: 2048,
        default_timeout_secs: 3600,
        fallback_to_vm: false,
      },
    });
  });

  it.each([
    [['--faas-provider', 'aws-lambda', '--faas-aws-region', 'eu-west-1'], { type: 'aws-lambda', region: 'eu-west-1' }],
    [['--faas-provider', 'custom', '--faas-custom-endpoint', 'https://my-faas.com'], { type: 'custom', endpoint: 'https://my-faas.com' }],
    [
      ['--faas-provider', 'azure-functions', '--faas-azure-subscription', 's'],
      { type: 'azure-functions', subscription_id: 's', region: 'eastus' },
    ],
    [['--faas-provider', 'digitalocean'], { type: 'custom', endpoint: 'blueprint-runner:digitalocean?region=nyc1' }],
    [
      ['--faas-provider', 'kubernetes', '--faas-context', 'c'],
      { type: 'custom', endpoint: 'blueprint-runner:kubernetes?namespace=default&context=c' },
    ],
    [['--faas-aws-region', 'eu-west-1'], { type: 'aws-lambda', region: 'eu-west-1' }],
  ])('%j', async (flags, provider) => {
    expect((await bpr('cloud', 'policy', ...flags)).status).toBe(0);
    expect((JSON.parse(readFileSync(path, 'utf8')) as { serverless: object }).serverless).toMatchObject({ provider });
  });

  it.each([
    [
      ['--faas-memory', '20000'],
      'serverless.default_memory_mb is 20000 MB; aws-lambda allows 128 to 10240 MB (https://docs.aws.amazon.com/',
    ],
    [['--faas-timeout', '901'], 'serverless.default_timeout_secs is 901 s; aws-lambda allows 1 to 900 s'],
    [['--faas-memory', 'lots'], "option '--faas-memory <mb>' argument 'lots' is invalid"],
    [['--serverless', 'yes'], "option '--serverless <bool>' argument 'yes' is invalid. It must be true or false."],
    [['--faas-provider', 'heroku'], 'It must be one of aws-lambda, gcp-functions'],
    [['--faas-provider', 'gcp-functions'], 'gcp-functions needs --faas-gcp-project or GCP_PROJECT_ID or GOOGLE_CLOUD_PROJECT'],
    [['--faas-provider', 'custom'], 'custom needs --faas-custom-endpoint'],
    [
      ['--faas-provider', 'custom', '--faas-custom-endpoint', 'my-faas'],
      'serverless.provider.endpoint is "my-faas"; it must be an http or https URL',
    ],
    [['--faas-gcp-project', 'p'], '--faas-gcp-project is for gcp-functions, and the provider is aws-lambda'],
    [['--gpu-providers', 'ibm'], 'providers.gpu_providers is ["ibm"]'],
    [['--faas-job', 'x=local'], '--faas-job is "x=local"; it must be like 0='],
  ])('%j is called in a wrong way, and nothing is written', async (flags, message) => {
    const { status, stdout, stderr } = await bpr('cloud', 'policy', ...flags);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toContain(`CONFIG_INVALID: `);
    expect(stderr).toContain(message);
    expect(existsSync(path)).toBe(false);
  });

  it('a wrong value with --json is one document', async () => {
    const { status, stdout, stderr } = await bpr('cloud', 'policy', '--faas-memory', '20000', '--json');
    expect({ status, stderr }).toEqual({ status: 2, stderr: '' });
    expect(JSON.parse(stdout)).toMatchObject({
      error: { message: expect.stringContaining('aws-lambda allows 128 to 10240 MB') as string },
    });
  });

  it('single jobs: elsewhere, local, and back', async () => {
    await bpr('cloud', 'policy', '--faas-job', '0=https://a.example/f', '--faas-job', '1=local', '--faas-job', '2=digitalocean');
    const jobs = () => (JSON.parse(readFileSync(path, 'utf8')) as { serverless: { jobs?: object } }).serverless.jobs;
    expect(jobs()).toEqual({
      0: { endpoint: 'https://a.example/f' },
      1: { local: true },
      2: { provider: { type: 'digitalocean', region: 'nyc1' } },
    });
    await bpr('cloud', 'policy', '--faas-job', '0=', '--faas-job', '2=');
    expect(jobs()).toEqual({ 1: { local: true } });
    await bpr('cloud', 'policy', '--faas-job', '1=');
    expect(jobs()).toBeUndefined();
  });

  it('plain http is a warning, except on this machine', async () => {
    const { status, stderr } = await bpr('cloud', 'policy', '--faas-provider', 'custom', '--faas-custom-endpoint', 'http://faas.example');
    expect({ status, stderr }).toEqual({
      status: 0,
      stderr: 'warning: calls to faas.example go over plain http: anyone on the way can read and change them\n',
    });
    expect((await bpr('cloud', 'policy', '--faas-custom-endpoint', 'http://localhost:8080')).stderr).toBe('');
  });

  it('a corrupt file is kept, and told', async () => {
    mkdirSync(join(home, 'tangle'));
    writeFileSync(path, '{ broken');
    const { status, stderr } = await bpr('cloud', 'policy', '--serverless', 'true');
    expect(status).toBe(1);
    expect(stderr).toMatch(/^CONFIG_INVALID: .*deployment-policy.json cannot be used: it is neither JSON nor TOML.*--force/m);
    expect(readFileSync(path, 'utf8')).toBe('{ broken');
    expect((await bpr('cloud', 'policy', '--serverless', 'true', '--force')).status).toBe(0);
    expect(readFileSync(`${path}.corrupt`, 'utf8')).toBe('{ broken');
  });

  it('a dry run says what would change, and writes nothing', async () => {
    expect((await bpr('cloud', 'policy', '--serverless', 'true', '--dry-run')).stdout).toBe(
      'serverless.enable: false -> true\nnothing was written\n',
    );
    expect(existsSync(path)).toBe(false);
  });
});

describe('cloud show', () => {
  it('every value with who says it', async () => {
    mkdirSync(join(home, 'tangle'));
    writeFileSync(path, readFileSync(join(import.meta.dirname, '../../test/fixtures/deploy/seed-policy.json')));
    env['BPR_FAAS_TIMEOUT'] = '30';
    const { status, stdout, stderr } = await bpr('cloud', 'show');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout.split('\n').slice(-7)).toEqual([
      'serverless.enable                       true                                                          file',
      'serverless.provider.type                aws-lambda                                                    file',
      'serverless.provider.region              us-east-1                                                     file',
      'serverless.default_memory_mb            1024                                                          file',
      'serverless.default_timeout_secs         30                                                            env BPR_FAAS_TIMEOUT',
      'serverless.fallback_to_vm               true                                                          file',
      '',
    ]);
    expect(stdout).toMatch(/^failover.max_retries +3 +default$/m);
  });

  it('as JSON: values as the file has them, sources by key', async () => {
    expect(await json('cloud', 'show')).toMatchObject({
      path: '~/tangle/deployment-policy.json',
      source: 'default',
      values: { serverless: { enable: false, provider: { type: 'aws-lambda' }, default_memory_mb: 512 } },
      sources: { 'serverless.enable': 'default' },
      warnings: [],
    });
  });

  it('a file that is not used is a warning', async () => {
    mkdirSync(join(home, 'tangle'));
    writeFileSync(path, '{"serverless":{"enable":1}}');
    const { status, stdout, stderr } = await bpr('cloud', 'show');
    expect(status).toBe(0);
    expect(stdout).toContain('deployment-policy.json is not used: the defaults hold');
    expect(stderr).toContain('serverless.enable is 1; it must be true or false');
  });
});

describe('cloud configure and preflight', () => {
  it('region, project and default', async () => {
    expect((await bpr('cloud', 'configure', 'gcp', '-r', 'europe-west4', '--project', 'p', '-d')).stdout).toBe(
      'gcp: europe-west4, p, default\nwritten to ~/tangle/cloud.json\n',
    );
    expect((await bpr('cloud', 'configure', 'ibm')).status).toBe(2);
  });

  it('passes with credentials, and prints only their names', async () => {
    await bpr('cloud', 'policy', '--serverless', 'true');
    Object.assign(env, { AWS_ACCESS_KEY_ID: 'AKIASECRET', AWS_SECRET_ACCESS_KEY: 'very-secret' });
    const { status, stdout } = await bpr('cloud', 'preflight');
    expect({ status, stdout }).toEqual({
      status: 0,
      stdout: [
        'PASS  policy       ~/tangle/deployment-policy.json',
        'PASS  configured   aws, by the policy',
        'PASS  provider     aws-lambda, us-east-1',
        'PASS  credentials  by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY',
        '',
      ].join('\n'),
    });
  });

  it('fails without credentials, with an unusable policy, and where there is no trusted environment', async () => {
    mkdirSync(join(home, 'tangle'));
    writeFileSync(path, '{');
    const { status, stdout } = await bpr('cloud', 'preflight', '-p', 'digitalocean', '--tee-required', '--json');
    expect(status).toBe(1);
    const { ok, checks } = JSON.parse(stdout) as { ok: boolean; checks: { name: string; status: string }[] };
    expect(ok).toBe(false);
    expect(Object.fromEntries(checks.map((check) => [check.name, check.status]))).toEqual({
      policy: 'FAIL',
      configured: 'WARN',
      credentials: 'FAIL',
      tee: 'FAIL',
    });
  });

  it('an account that nobody named is a failure', async () => {
    await bpr('cloud', 'policy', '--faas-provider', 'cloudflare', '--faas-cloudflare-account', 'a');
    writeFileSync(path, readFileSync(path, 'utf8').replace('?account_id=a', ''));
    expect((await bpr('cloud', 'preflight')).stdout).toMatch(/^FAIL {2}provider +cloudflare needs account_id$/m);
  });
});

describe('cloud estimate', () => {
  it('one platform, line by line', async () => {
    expect(await bpr('cloud', 'estimate', '--calls', '3M', '--duration', '120', '--memory', '1536')).toEqual({
      status: 0,
      stdout: [
        'aws: $2.73 a month, $0.000911 per 1,000 calls; beyond what is free $0.003200',
        '',
        'LINE            USED                FREE       USD',
        'requests        3,000,000 requests  1,000,000  $0.40',
        'compute x86_64  540,000 GB-seconds  400,000    $2.33',
        '',
        'prices as of 2026-11-21; list prices of us-east-1, without tax, discounts and traffic',
        '',
      ].join('\n'),
      stderr: '',
    });
  });

  it('all platforms, the best first, with the reason', async () => {
    const { stdout } = await bpr('cloud', 'estimate', '-c', '--calls', '10M', '--duration', '80', '--memory', '128');
    expect(stdout).toBe(
      [
        'PLATFORM      A MONTH  PER 1,000  BEYOND FREE  REMARKS',
        'digitalocean  $0.65    $0.000065  $0.000231',
        'aws           $1.80    $0.000180  $0.000367',
        'gcp           $3.20    $0.000320  $0.000630',
        'cloudflare    $20.40   $0.002040  $0.001900    it runs near the caller, and cannot be kept in north-america',
        'azure         $131.30  $0.013130  $0.013400',
        '',
        'digitalocean is the cheapest of 5 that fit, $0.65 a month',
        'list prices of 2026-11-21',
        '',
      ].join('\n'),
    );
  });

  it('own prices, the free amounts, schedules and logs', async () => {
    writeFileSync(join(home, 'prices.json'), '{"aws":{"requests":{"usd":0.001,"free":0}}}');
    const args = ['cloud', 'estimate', '--calls', '1000', '--schedules', '1', '--log-bytes', '1000000', '--no-free-tier'];
    const { estimates } = await json<{ estimates: { lines: { name: string; usd: number; uncertain?: true }[] }[] }>(
      ...args,
      '--prices',
      'prices.json',
    );
    expect(estimates[0]?.lines.map(({ name, usd, uncertain }) => [name, Number(usd.toFixed(4)), uncertain])).toEqual([
      ['requests', 1, undefined],
      ['compute x86_64', 0.0017, undefined],
      ['schedules', 0.0438, true],
      ['logs', 0.5, true],
    ]);
    expect((await bpr('cloud', 'estimate', '--schedules', '1')).stdout).toMatch(/^schedules \(\?\) +43,800 firings/m);
  });

  it.each([
    [['-p', 'kubernetes'], 'kubernetes: nobody publishes its prices\n'],
    [['-p', 'cloudflare', '--memory', '512'], 'cloudflare: it has no function of that size\n'],
  ])('%j has no price', async (flags, stdout) => {
    expect(await bpr('cloud', 'estimate', ...flags)).toMatchObject({ status: 0, stdout });
  });

  it.each([[['--calls', 'many']], [['--cold-starts', '101']], [['-p', 'ibm']]])('%j is called in a wrong way', async (flags) => {
    expect((await bpr('cloud', 'estimate', ...flags)).status).toBe(2);
  });
});

describe('cloud analyze', () => {
  it('by the number of jobs alone', async () => {
    env['BPR_SERVERLESS'] = 'true';
    expect((await bpr('cloud', 'analyze', '--jobs', '1')).stdout).toBe(
      [
        '1 job: serverless on aws',
        '',
        'JOB  NAME   PLACE     SIZE  REASON',
        '0    job 0  function        it has no profile and is taken to fit; bpr profile measures it',
        '',
      ].join('\n'),
    );
  });

  it('functions that are switched off', async () => {
    expect(await json('cloud', 'analyze', '--jobs', '2')).toMatchObject({ strategy: 'traditional', jobIds: [0, 1] });
  });

  it('with profiles: hybrid, with size and reasons; and held to what is sold', async () => {
    env['BPR_SERVERLESS'] = 'true';
    const job = { avg_duration_ms: 1_000, p95_duration_ms: 1_500, peak_memory_mb: 600 };
    writeFileSync(
      join(home, 'p.json'),
      JSON.stringify({ jobs: { 0: job, 1: { ...job, p95_duration_ms: 901_000 }, 2: { ...job, stateful: true } } }),
    );
    expect((await bpr('cloud', 'analyze', '--profiles', 'p.json')).stdout).toBe(
      [
        '3 jobs: hybrid on aws',
        '',
        'JOB  NAME   PLACE     SIZE         REASON',
        '0    job 0  function  900 MB, 3 s',
        '1    job 1  local                  its p95 of 901000 ms is above the 900000 ms that a call may take: split it, or leave it here',
        '2    job 2  local                  it keeps state between calls, and a function is forgotten after each',
        '',
      ].join('\n'),
    );
    const real = await json('cloud', 'analyze', '--profiles', 'p.json', '--provider', 'azure-functions', '--real');
    expect(real).toMatchObject({ target: 'azure', strategy: 'hybrid', faasJobs: [0] });
  });

  it('a job that the policy keeps local', async () => {
    await bpr('cloud', 'policy', '--serverless', 'true', '--faas-job', '1=local');
    expect(await json('cloud', 'analyze', '--jobs', '2')).toMatchObject({ strategy: 'hybrid', faasJobs: [0], localJobs: [1] });
  });

  it('a made-up blueprint only when it is asked for, and it says so', async () => {
    env['BPR_SERVERLESS'] = 'true';
    expect(await json('cloud', 'analyze', '--blueprint-id', '3', '--mock')).toMatchObject({ source: 'mock', strategy: 'serverless' });
    expect(await bpr('cloud', 'analyze', '--blueprint-id', '3')).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('CONFIG_INVALID: the contract is not known') as string,
    });
  });

  it('says when nothing is named', async () => {
    expect((await bpr('cloud', 'analyze')).stderr).toContain('name a blueprint: --service-id');
  });
});

describe('profile', () => {
  it('measures each job in a process of its own, and writes what the analysis reads', async () => {
    writeFileSync(join(home, 'inputs.json'), '{"0": [[3], [4]]}');
    env['BPR_SERVERLESS'] = 'true';
    const { status, stdout, stderr } = await bpr('profile', JOBS, '--runs', '5', '--inputs', 'inputs.json', '--json');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const { jobs } = JSON.parse(stdout) as { jobs: Record<string, Record<string, number>> };
    const job = jobs['0'] ?? {};
    expect(job).toMatchObject({ samples: 5, request_bytes: 32, response_bytes: 32, stateful: false });
    expect(job['peak_memory_mb']).toBeGreaterThan(20);
    expect(job['p50_duration_ms']).toBeLessThanOrEqual(job['p95_duration_ms'] ?? 0);
    expect(await json('cloud', 'analyze', '--profiles', 'profiles.json')).toMatchObject({ strategy: 'serverless', source: 'profiles' });
  });

  it('says that inputs are made up, and marks what nobody can measure', async () => {
    const { stdout } = await bpr('profile', JOBS, '--runs', '1', '--stateful', '0', '--metadata');
    expect(stdout).toContain('warning: the inputs of 0 are made up');
    expect(stdout).toContain('"schema":"tangle.blueprint.metadata.v1"');
    expect(JSON.parse(readFileSync(join(home, 'profiles.json'), 'utf8'))).toMatchObject({
      jobs: { 0: { stateful: true } },
      made_up_inputs: [0],
    });
  });

  it.each([['--job'], ['--stateful'], ['--connections']])('%s of a job that there is not is refused', async (flag) => {
    const { status, stderr } = await bpr('profile', JOBS, flag, '0,9');
    expect(status).toBe(1);
    expect(stderr).toContain(`CONFIG_INVALID: ${flag} names job 9; the jobs are 0`);
    expect(existsSync(join(home, 'profiles.json'))).toBe(false);
  });

  it('a place where nothing can be written is told with its flag', async () => {
    const { status, stderr } = await bpr('profile', JOBS, '--runs', '1', '--out', 'none/profiles.json');
    expect(status).toBe(1);
    expect(stderr).toContain('CONFIG_INVALID: ~/none/profiles.json cannot be written (ENOENT, open); name another one with --out');
  });

  it('ends the process of the job when a signal ends it', async () => {
    const source = `
      import { defineJob } from ${JSON.stringify(join(import.meta.dirname, '../job/job.ts'))};
      import { JobRouter } from ${JSON.stringify(join(import.meta.dirname, '../job/router.ts'))};
      export default new JobRouter().route(0, defineJob({ name: 'busy', params: '', result: '' }, () => {
        console.log('pid=' + process.pid + ';');
        for (;;);
      }));`;
    writeFileSync(join(home, 'busy.mjs'), source);
    const [stdout, stderr] = [new Text(), new Text()];
    const begun = Promise.withResolvers<number>();
    stderr.write = (text) => {
      stderr.text += text;
      const pid = /pid=(\d+);/.exec(stderr.text)?.[1];
      if (pid !== undefined) begun.resolve(Number(pid));
    };
    const status = main(['profile', 'busy.mjs'], { stdout, stderr, env, cwd: home });
    const pid = await begun.promise;
    process.emit('SIGTERM');
    expect(await status).toBe(143);
    expect(() => process.kill(pid, 0)).toThrow('ESRCH');
    expect(stderr.text).toContain('ABORTED: interrupted by SIGTERM');
  });

  it.each([
    ['{"0": 5}', 'the inputs of job 0 must be a list of calls'],
    ['{"0": [5]}', 'an input of job 0 is 5; it must be a list of arguments (uint64 x)'],
    ['{"0": [[-1]]}', 'CONFIG_INVALID: an input of job 0 is [-1], which is not (uint64 x): '],
    ['{"0": [[1, 2]]}', 'CONFIG_INVALID: an input of job 0 is [1,2], which is not (uint64 x): '],
    ['{"0": [[18446744073709551616]]}', 'CONFIG_INVALID: an input of job 0 is ["18446744073709551616"], which is not (uint64 x): '],
    ['{"0": [18446744073709551616]}', 'an input of job 0 is "18446744073709551616"; it must be a list of arguments (uint64 x)'],
    ['[]', 'must hold an object'],
  ])('inputs %s are refused', async (text, message) => {
    writeFileSync(join(home, 'inputs.json'), text);
    expect((await bpr('profile', JOBS, '--inputs', 'inputs.json')).stderr).toContain(message);
  });

  it('calls look like those of the chain, with arguments that no number holds', async () => {
    const source = `
      import { BlockNumber, Caller, CallId, ServiceId, Timestamp } from ${JSON.stringify(join(import.meta.dirname, '../job/extract.ts'))};
      import { defineJob } from ${JSON.stringify(join(import.meta.dirname, '../job/job.ts'))};
      import { JobRouter } from ${JSON.stringify(join(import.meta.dirname, '../job/router.ts'))};
      const extract = { block: BlockNumber, caller: Caller, id: CallId, service: ServiceId, time: Timestamp };
      export default new JobRouter().route(0, defineJob({ name: 'who', params: 'uint256 x', result: 'address', extract }, ([x], { caller }) => {
        console.log('x=' + x);
        return caller;
      }));`;
    writeFileSync(join(home, 'who.mjs'), source);
    writeFileSync(join(home, 'inputs.json'), '{"0": [[90071992547409931]]}');
    const { status, stdout, stderr } = await bpr(
      'profile',
      'who.mjs',
      '--runs',
      '1',
      '--warm-ups',
      '0',
      '--inputs',
      'inputs.json',
      '--json',
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: 'x=90071992547409931\n' });
    expect(JSON.parse(stdout)).toMatchObject({ jobs: { 0: { response_bytes: 32 } } });
  });

  it('a job that throws is told with its code, and one that ends its process too', async () => {
    const source = (body: string) => `
      import { defineJob } from ${JSON.stringify(join(import.meta.dirname, '../job/job.ts'))};
      import { JobRouter } from ${JSON.stringify(join(import.meta.dirname, '../job/router.ts'))};
      export default new JobRouter().route(0, defineJob({ name: 'bad', params: '', result: '' }, () => { ${body} }));`;
    writeFileSync(join(home, 'throws.mjs'), source(`throw new Error('no luck');`));
    expect(await bpr('profile', 'throws.mjs')).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/^JOB_FAILED: job 0 bad: .*no luck/) as string,
    });
    writeFileSync(join(home, 'exits.mjs'), source('process.exit(7);'));
    expect((await bpr('profile', 'exits.mjs')).stderr).toContain('ended with status 7 before it was measured');
  });
});

describe('cloud policy', () => {
  it('a file that cannot be written is not a wrong call', async () => {
    const { status, stderr } = await bpr('cloud', 'policy', '--config', '/proc/x/policy.json', '--faas-memory', '512');
    expect(status).toBe(1);
    expect(stderr).toMatch(/^CONFIG_INVALID: \/proc\/x\/policy\.json cannot be written/);
  });
});

describe('cloud invoke', () => {
  it('an event file that cannot be read is told with its flag', async () => {
    for (const file of ['missing.json', '.']) {
      expect(await bpr('cloud', 'invoke', 'hello', '--file', file)).toMatchObject({
        status: 1,
        stderr: expect.stringMatching(/^CONFIG_INVALID: .* cannot be read \(.*--file/) as string,
      });
    }
  });
});

describe('--deployer-option', () => {
  it.each([
    ['cloud', 'list'],
    ['cloud', 'aws', 'bootstrap-role'],
    ['service', 'deploy', '--service-id', '1'],
  ])('of a plugin that there is not is refused: %s %s', async (...command) => {
    const { status, stderr } = await bpr(...command, '--deployer-option', 'aws.region=eu-west-1');
    expect(status).toBe(2);
    expect(stderr).toContain('There is no plugin aws; there are aws-lambda, ');
  });

  it('of another platform than the one that is talked with is refused', async () => {
    const options = ['gcp.projectId=one', 'aws-lambda.region=eu-west-1'].flatMap((option) => ['--deployer-option', option]);
    const { status, stderr } = await bpr('cloud', 'list', '-p', 'gcp-functions', ...options);
    expect(status).toBe(1);
    expect(stderr).toContain('CONFIG_INVALID: --deployer-option aws-lambda.region is not for gcp-functions, whose plugin is gcp');
  });
});

describe('cloud logs', () => {
  it.each([
    ['with --follow a signal is how it ends', ['--follow'], 0, ''],
    ['without it work is cut off', [], 143, 'ABORTED: interrupted by SIGTERM'],
  ])('%s', async (_, flags, expected, message) => {
    // It answers nothing: the signal comes in the middle of a request.
    const server = createServer(() => process.emit('SIGTERM')).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const to = ['-p', 'custom', '--deployer-option', `http.url=http://127.0.0.1:${port}`];
    const { status, stdout, stderr } = await bpr('cloud', 'logs', 'hello', ...to, ...flags);
    server.close();
    expect({ status, stdout }).toEqual({ status: expected, stdout: '' });
    expect(stderr.split('\n')[0]).toBe(message);
  });
});

describe('cloud export', () => {
  it.each(['../up', 'a/b', '', '.x'])('the name %j is refused: files are called by it', async (name) => {
    const { status, stderr } = await bpr('cloud', 'export', JOBS, '--name', name, '--format', 'sam', '--out', 'exported/here');
    expect(status).toBe(1);
    expect(stderr).toContain(`CONFIG_INVALID: a function cannot be called ${JSON.stringify(name)}`);
    expect(existsSync(join(home, 'exported'))).toBe(false);
  });

  it('a format for orchestrators is refused, with those for functions', async () => {
    expect(await bpr('cloud', 'export', JOBS, '--name', 'squaring', '--format', 'compose')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining('cloudformation, sam, terraform, knative.') as string,
    });
  });
});
