import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeAbi } from '../../src/job/abi.ts';
import { toHex } from '../../src/cli/output.ts';
import { schemaOf } from '../../src/job/schema.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { LocalChain } from '../../src/testing/local-chain.ts';
import { startRpcProxy } from '../../src/testing/rpc-proxy.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import type { LocalService, LocalTangle } from '../../src/testing/tangle.ts';

let chain: LocalChain;
let tangle: LocalTangle;
let service: LocalService;
let folder: string;

/** Of an optional uint64 and a uint8: kind, array length, child count, length of the name. */
const OPTIONAL_UINT64_AND_UINT8 = `0x020002${'130000000100'}${'080000000000'}${'020000000000'}` as const;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'bpr-cli-process-'));
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
  service = await tangle.startService({
    jobs: [
      { name: 'square' },
      { name: 'typed', paramsSchema: toHex(schemaOf(parseParameters('uint64 x'))) },
      { name: 'perhaps', paramsSchema: OPTIONAL_UINT64_AND_UINT8 },
    ],
  });
});

afterAll(async () => {
  await chain.stop();
  rmSync(folder, { recursive: true, force: true });
});

interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const BPR = join(import.meta.dirname, '../fixtures/cli/bpr.ts');
const JOBS = join(import.meta.dirname, '../fixtures/cli/jobs.ts');

/** A process with an environment of its own, as a user starts it. */
function start(args: readonly string[], env: Record<string, string> = {}) {
  const callerKey = chain.accounts[0]?.privateKey ?? '';
  const environment = {
    PATH: '/usr/bin:/bin',
    RPC_URL: chain.rpcUrl,
    TANGLE_CONTRACT: tangle.contract,
    CALLER_PRIVATE_KEY: callerKey,
    ...env,
  };
  const child = spawn(process.execPath, [BPR, ...args], { cwd: folder, env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const ended = new Promise<Ran>((resolve) => child.once('close', (status) => resolve({ status, stdout, stderr })));
  return { child, ended };
}

const bpr = (...args: readonly string[]): Promise<Ran> => start(args).ended;

/** Answers the next call of the service as its operator does: with twice its argument. */
async function answerNext(callId: bigint, output: Uint8Array): Promise<void> {
  const [operator] = service.operators;
  if (!operator) throw new Error('the service has no operator');
  while (!(await tangle.calls(service.serviceId)).some((call) => call.callId === callId)) await chain.request('eth_blockNumber', []);
  await tangle.submitResult({ serviceId: service.serviceId, callId }, output, operator);
}

const uint64 = (value: bigint): Uint8Array => encodeAbi(parseParameters('uint64'), [value]);

describe('jobs submit', () => {
  it('calls a job without a schema with ABI arguments, and shows the values of its result', async () => {
    const before = BigInt((await tangle.calls(service.serviceId)).length);
    const answered = answerNext(before, uint64(2n ** 60n));
    const flags = ['--types', 'uint64 x', '--args', '[9007199254740993]', '--result', 'uint64'];
    const { status, stdout, stderr } = await bpr('jobs', 'submit', '0', '--service', String(service.serviceId), ...flags, '--json');
    await answered;
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const [call] = (await tangle.calls(service.serviceId)).slice(-1);
    expect(call?.inputs).toEqual(Uint8Array.from(uint64(9007199254740993n)));
    expect(JSON.parse(stdout)).toMatchObject({
      chainId: 31337,
      callId: String(call?.callId),
      jobIndex: 0,
      transactionHash: call?.transactionHash,
      results: [{ operator: service.operators[0]?.address, values: ['1152921504606846976'] }],
    });
  });

  it('encodes as the schema on chain says, and does not wait when told so', async () => {
    const { status, stdout } = await bpr('jobs', 'submit', '1', '--service', String(service.serviceId), '--args', '[7]', '--no-wait');
    expect(status).toBe(0);
    const [call] = (await tangle.calls(service.serviceId)).slice(-1);
    expect(stdout).toContain(`call ${call?.callId} of service ${service.serviceId}`);
    expect(call?.inputs).toEqual(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 7));
  });

  it('leaves an optional argument out where it is null', async () => {
    const { status } = await bpr('jobs', 'submit', '2', '--service', String(service.serviceId), '--args', '[null, 7]', '--no-wait');
    expect(status).toBe(0);
    expect((await tangle.calls(service.serviceId)).at(-1)?.inputs).toEqual(Uint8Array.of(0, 7));
  });

  it('needs no types where there are no arguments', async () => {
    const { status } = await bpr('jobs', 'submit', '0', '--service', String(service.serviceId), '--args', '[]', '--no-wait');
    expect(status).toBe(0);
    expect((await tangle.calls(service.serviceId)).at(-1)?.inputs).toEqual(new Uint8Array());
  });

  it('shows a result that is not of the types as it is', async () => {
    const answered = answerNext(BigInt((await tangle.calls(service.serviceId)).length), uint64(2n ** 60n));
    const flags = ['--service', String(service.serviceId), '--data', '0x', '--result', 'uint8', '--json'];
    const { status, stdout, stderr } = await bpr('jobs', 'submit', '0', ...flags);
    await answered;
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const { results } = JSON.parse(stdout) as { results: unknown[] };
    const problem = expect.stringMatching(/^its values cannot be read: .*too large for its type$/) as string;
    expect(results).toEqual([expect.objectContaining({ output: toHex(uint64(2n ** 60n)), problem })]);
    expect(results).toEqual([expect.not.objectContaining({ values: expect.anything() as unknown })]);
  });

  it('sends encoded arguments as they are', async () => {
    const { status } = await bpr('jobs', 'submit', '0', '--service', String(service.serviceId), '--data', '0x00ff', '--no-wait');
    expect(status).toBe(0);
    expect((await tangle.calls(service.serviceId)).at(-1)?.inputs).toEqual(Uint8Array.of(0, 255));
  });

  const refused: readonly (readonly [what: string, flags: readonly string[], message: string])[] = [
    ['a service that is not there', ['0', '--service', '77', '--data', '0x'], 'SERVICE_NOT_FOUND'],
    ['a job that the blueprint has not', ['9', '--service', '0', '--data', '0x'], 'JOB_UNKNOWN'],
    [
      'arguments of another type',
      ['0', '--service', '0', '--types', 'uint64 x', '--args', '["seven"]'],
      'JOB_ARGS_INVALID: --args cannot be encoded',
    ],
    [
      'more arguments than there are types',
      ['0', '--service', '0', '--types', 'uint64 x', '--args', '[7, 8]'],
      'JOB_ARGS_INVALID: --args cannot be encoded: 2 values are given, and the job takes 1',
    ],
    ['fewer arguments than the schema says', ['2', '--service', '0', '--args', '[7]'], '1 values are given, and the job takes 2'],
    ['arguments that are no JSON', ['0', '--service', '0', '--types', 'uint64 x', '--args', '[7'], 'JOB_ARGS_INVALID: --args is not JSON'],
    ['a job without types', ['0', '--service', '0', '--args', '[7]'], 'CONFIG_INVALID: job 0 has no schema on chain'],
    [
      'arguments twice',
      ['0', '--service', '0', '--args', '[7]', '--data', '0x'],
      'CONFIG_INVALID: the arguments are missing or given twice',
    ],
    [
      'a key in clear',
      ['0', '--service', '0', '--data', '0x', '--key', `0x${'ab'.repeat(32)}`],
      'CONFIG_INVALID: a secret is given as text',
    ],
    [
      'a key that is none',
      ['0', '--service', '0', '--data', '0x', '--key', 'env:PATH'],
      'CONFIG_INVALID: env:PATH holds no private key of the caller',
    ],
  ];

  it.each(refused)('refuses %s, sends nothing', async (_, flags, message) => {
    const before = await chain.request('eth_blockNumber', []);
    const { status, stdout, stderr } = await bpr('jobs', 'submit', ...flags);
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toContain(message);
    expect(stderr).not.toContain('abababab');
    expect(await chain.request('eth_blockNumber', [])).toBe(before);
  });

  it('says when no result came in time', async () => {
    const { status, stderr } = await bpr('jobs', 'submit', '0', '--service', '0', '--data', '0x01', '--timeout', '1');
    expect(status).toBe(4);
    expect(stderr).toMatch(/^RESULT_TIMEOUT: call \d+ of service 0 has no result in time\n.*sending it again makes another call/);
  });

  it('names the call whose result did not come, for scripts', async () => {
    const flags = ['0', '--service', '0', '--data', '0x02', '--timeout', '1', '--json'];
    const { status, stdout } = await bpr('jobs', 'submit', ...flags);
    expect(status).toBe(4);
    const { error } = JSON.parse(stdout) as { error: { code: string; details: { callId: string } } };
    const [call] = (await tangle.calls(0n)).slice(-1);
    expect(error).toMatchObject({
      code: 'RESULT_TIMEOUT',
      details: { serviceId: '0', callId: String(call?.callId), transactionHash: call?.transactionHash },
    });
  });

  it('waits out an endpoint that fails while the call is under way: it is sent once', async () => {
    const methods = ['eth_sendRawTransaction', 'eth_getTransactionReceipt', 'eth_getLogs'];
    const failures = new Map(methods.map((method) => [method, 2]));
    let isSent = false;
    const proxy = await startRpcProxy({
      upstream: chain.rpcUrl,
      onCall: async ({ method }, forward) => {
        const reply = await forward();
        isSent ||= method === methods[0];
        const left = failures.get(method) ?? 0;
        if (isSent) failures.set(method, left - 1);
        return isSent && left > 0 ? { error: { code: -32016, message: 'over rate limit' } } : reply;
      },
    });
    try {
      const before = BigInt((await tangle.calls(service.serviceId)).length);
      const answered = answerNext(before, uint64(9n));
      const flags = ['--service', String(service.serviceId), '--types', 'uint64 x', '--args', '[3]', '--result', 'uint64', '--json'];
      const { status, stdout, stderr } = await start(['jobs', 'submit', '0', ...flags], { RPC_URL: proxy.url }).ended;
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      await answered;
      expect(JSON.parse(stdout)).toMatchObject({ callId: String(before), results: [{ values: ['9'] }] });
      expect((await tangle.calls(service.serviceId)).length).toBe(Number(before) + 1);
    } finally {
      await proxy.close();
    }
  });

  it('takes a call for sent that another endpoint knows as mined', async () => {
    const proxy = await startRpcProxy({
      upstream: chain.rpcUrl,
      onCall: async ({ method }, forward) => {
        const reply = await forward();
        return method === 'eth_sendRawTransaction' ? { error: { code: -32016, message: 'over rate limit' } } : reply;
      },
    });
    try {
      const before = (await tangle.calls(service.serviceId)).length;
      const flags = ['--service', String(service.serviceId), '--types', 'uint64 x', '--args', '[3]', '--no-wait', '--json'];
      const { status, stdout } = await start(['jobs', 'submit', '0', ...flags], { RPC_URL: `${proxy.url},${chain.rpcUrl}` }).ended;
      expect({ status, ...JSON.parse(stdout) }).toMatchObject({ status: 0, callId: String(before) });
    } finally {
      await proxy.close();
    }
  });

  it('says why the contract refuses a call, and sends nothing', async () => {
    const before = await chain.request('eth_blockNumber', []);
    const stranger = `0x${'5e'.repeat(32)}`;
    const { status, stdout, stderr } = await start(['jobs', 'submit', '0', '--service', '0', '--data', '0x'], {
      CALLER_PRIVATE_KEY: stranger,
    }).ended;
    expect({ status, stdout }).toEqual({ status: 3, stdout: '' });
    expect(stderr).toMatch(/^CALL_REFUSED: the contract refuses the call: \w+\(.*\); nothing was sent\n/);
    expect(await chain.request('eth_blockNumber', [])).toBe(before);
  });
});

describe('doctor', () => {
  it('finds chain and contract', async () => {
    const { status, stdout } = await bpr('doctor');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^ok +chain +chain 31337 at http:/m);
    expect(stdout).toMatch(new RegExp(`^ok +contract +${tangle.contract}, \\d+ bytes of code$`, 'm'));
  });

  it('fails where there is no contract, and on another chain', async () => {
    const { status, stdout } = await start(['doctor', '--json', '--contract', `0x${'12'.repeat(20)}`], { CHAIN_ID: '1' }).ended;
    expect(status).toBe(1);
    const { checks } = JSON.parse(stdout) as { checks: { name: string; status: string }[] };
    expect(checks.filter((check) => check.status === 'fail').map(({ name }) => name)).toEqual(['chain', 'contract']);
  });

  it('looks at every endpoint, and at that of the pushes', async () => {
    const other = await startRpcProxy({ onCall: ({ method }) => ({ result: method === 'eth_chainId' ? '0x1' : '0x' }) });
    const busy = await startRpcProxy({ onHttp: () => ({ status: 429 }) });
    const pushing = await startLocalChain({ chainId: 5 });
    try {
      const chainChecks = async (env: Record<string, string>) => {
        const { checks } = JSON.parse((await start(['doctor', '--json'], env).ended).stdout) as {
          checks: { name: string; status: string; detail: string }[];
        };
        return checks
          .filter(({ name }) => ['chain', 'pushed blocks', 'contract'].includes(name))
          .map(({ status, detail }) => `${status} ${detail}`);
      };
      const [of, contract] = [chain.rpcUrl, expect.stringMatching(/^ok .* bytes of code$/) as string];
      expect(await chainChecks({ RPC_URL: `${of},${busy.url},${other.url}`, WS_RPC_URL: pushing.wsUrl })).toEqual([
        `ok chain 31337 at ${of}`,
        `warn RPC_RATE_LIMITED: ${busy.url}: eth_chainId: HTTP 429`,
        `fail chain 1 at ${other.url}, but the chain is 31337`,
        expect.stringMatching(/^warn ws:.*chain 5\b/) as string,
        contract,
      ]);
      expect(await chainChecks({ WS_RPC_URL: chain.wsUrl })).toEqual([`ok chain 31337 at ${of}`, `ok ${chain.wsUrl}`, contract]);
      expect(await chainChecks({ RPC_URL: busy.url })).toEqual([`fail RPC_RATE_LIMITED: ${busy.url}: eth_chainId: HTTP 429`]);
    } finally {
      await Promise.all([other.close(), busy.close(), pushing.stop()]);
    }
  });
});

describe('run', () => {
  it('settles what the service asks for until SIGTERM, and the ledger tells the story', async () => {
    const [operator] = service.operators;
    const flags = ['--service', String(service.serviceId), '--data-dir', 'data', '--metrics-port', '0', '--json'];
    const env = { OPERATOR_PRIVATE_KEY: operator?.privateKey ?? '', BPR_CONFIRMATIONS: '0' };
    const runner = start(['run', JOBS, ...flags], env);
    await firstOutput(runner.child.stderr, 'running');
    const submit = ['--service', String(service.serviceId), '--types', 'uint64 x', '--args', '[12]', '--result', 'uint64', '--json'];
    const submitted = await bpr('jobs', 'submit', '0', ...submit);
    const { callId, results } = JSON.parse(submitted.stdout) as { callId: string; results: { values: string[] }[] };
    expect(results[0]?.values).toEqual(['144']);
    runner.child.kill('SIGTERM');
    const { status, stdout, stderr } = await runner.ended;
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ state: 'stopped', dryRun: false, chain: { source: 'rpc', chainId: 31337 } });
    expect(stdout + stderr).not.toContain((operator?.privateKey ?? '').slice(2));
    const why = await bpr('why', callId, '--data-dir', 'data', '--json');
    const [call] = (JSON.parse(why.stdout) as { calls: { transactions: { state: string }[]; events: { kind: string }[] }[] }).calls;
    expect(call?.transactions.map(({ state }) => state)).toEqual(['mined']);
    expect(call?.events.map(({ kind }) => kind)).toEqual(['seen', 'attempt', 'executed', 'signed', 'mined']);
  });

  const refused: readonly (readonly [what: string, args: readonly string[], env: Record<string, string>, message: string])[] = [
    ['a module that is not there', ['missing.ts'], {}, 'CONFIG_INVALID: there is no '],
    ['a module without a router', [join(import.meta.dirname, '../../src/errors.ts')], {}, 'exports neither a JobRouter'],
    ['no contract', [JOBS], { TANGLE_CONTRACT: '' }, 'CONFIG_INVALID: the contract is not known'],
    ['an address without a contract', [JOBS, '--contract', `0x${'12'.repeat(20)}`, '--dry-run'], {}, 'CONTRACT_MISSING'],
    ['another chain', [JOBS, '--dry-run'], { CHAIN_ID: '1' }, 'CHAIN_MISMATCH'],
  ];

  it.each(refused)('refuses %s', async (_, args, env, message) => {
    const { status, stdout, stderr } = await start(['run', ...args, '--data-dir', 'refused'], env).ended;
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toContain(message);
  });
});

/** Resolves when the text was written; rejects when the stream ends without it. */
async function firstOutput(stream: NodeJS.ReadableStream, text: string): Promise<void> {
  let seen = '';
  await new Promise<void>((resolve, reject) => {
    stream.on('data', (chunk: string) => {
      seen += chunk;
      if (seen.includes(text)) resolve();
    });
    stream.once('end', () => reject(new Error(`it ended without ${text}: ${seen}`)));
  });
}

describe('init', () => {
  it('writes a project whose jobs build, and which the compiler accepts', async () => {
    expect(await bpr('init', 'My Blueprint')).toMatchObject({ status: 0, stderr: '' });
    const project = join(folder, 'My Blueprint');
    const root = join(import.meta.dirname, '../..');
    // From a clone: a registry may not have it.
    expect(JSON.parse(readFileSync(join(project, 'package.json'), 'utf8'))).toMatchObject({
      name: 'my-blueprint',
      scripts: { build: 'bpr build src/jobs.ts' },
      dependencies: { 'blueprint-runner': `file:${root}` },
    });
    const built = await bpr('build', 'My Blueprint/src/jobs.ts', '--out', 'My Blueprint/build', '--json');
    expect(JSON.parse(built.stdout)).toMatchObject({ jobs: [{ id: '0', name: 'square', idempotent: true }] });
    const compilerOptions = {
      // What an author has: declarations, whose sources were compiled in another way.
      paths: { 'blueprint-runner': [join(root, 'dist/src/index.d.ts')] },
      typeRoots: [join(root, 'node_modules/@types')],
      noEmit: true,
    };
    writeFileSync(join(project, 'check.json'), JSON.stringify({ extends: './tsconfig.json', compilerOptions }));
    const compiled = spawnSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', 'check.json', '--pretty', 'false'], {
      cwd: project,
      encoding: 'utf8',
    });
    expect(compiled.stdout).toBe('');
    expect(compiled.status).toBe(0);
  });

  it('leaves a directory with files alone unless it is told otherwise', async () => {
    mkdirSync(join(folder, 'taken/src'), { recursive: true });
    writeFileSync(join(folder, 'taken/README.md'), 'mine');
    const refused = await bpr('init', 'taken');
    expect(refused.status).toBe(1);
    expect(refused.stderr).toMatch(/^CONFIG_INVALID: .* is not empty; pass --force/);
    expect(readFileSync(join(folder, 'taken/README.md'), 'utf8')).toBe('mine');
    const forced = await bpr('init', 'taken', '--force', '--json');
    expect(JSON.parse(forced.stdout)).toMatchObject({
      root: join(folder, 'taken'),
      files: expect.arrayContaining(['src/jobs.ts', 'src/runner.ts']) as string[],
    });
    expect(readFileSync(join(folder, 'taken/README.md'), 'utf8')).toContain('# taken');
  });
});
