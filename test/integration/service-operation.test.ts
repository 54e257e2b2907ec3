/** What an operator of a service meets besides the first deployment: wrong keys, other hosts, other keys, platforms that are gone. */

import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { encodeAbiParameters } from 'viem/utils';
import { afterAll, beforeAll, beforeEach, afterEach, describe, expect, it } from 'vitest';
import type { Hex } from '../../src/index.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { LocalChain } from '../../src/testing/local-chain.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import type { LocalService, LocalTangle } from '../../src/testing/tangle.ts';
import { startCommand } from '../support/gateway-command.ts';
import type { RunningGateway } from '../support/gateway-command.ts';
import { OperatorHome } from '../support/operator-home.ts';

const JOBS = new URL('../fixtures/deploy/jobs.ts', import.meta.url).pathname;

const profile = { avgDurationMs: 20, p95DurationMs: 40, peakMemoryMb: 80, stateful: false, persistentConnections: false };

let chain: LocalChain;
let tangle: LocalTangle;
let service: LocalService;
let user: OperatorHome;

beforeAll(async () => {
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
});

beforeEach(async () => {
  service = await tangle.startService({ jobs: [{ name: 'quick' }, { name: 'small' }] });
  user = new OperatorHome({
    HTTP_RPC_URL: chain.rpcUrl,
    TANGLE_CONTRACT: tangle.contract,
    OPERATOR_PRIVATE_KEY: service.operators[0]?.privateKey,
  });
});

afterEach(() => user.leave(), 60_000);
afterAll(() => chain.stop());

const uint64 = (value: number): Hex => encodeAbiParameters([{ type: 'uint64' }], [BigInt(value)]);
const submit = (count: number): Promise<bigint[]> =>
  tangle.submitMany(
    service.serviceId,
    Array.from({ length: count }, (_, index) => ({ jobIndex: index % 2, inputs: uint64(index) })),
  );
const settled = async (): Promise<bigint[]> => (await tangle.results(service.serviceId)).map(({ callId }) => callId);
const untilSettled = (count: number): Promise<void> =>
  expect.poll(async () => (await settled()).length, { timeout: 60_000, interval: 50 }).toBe(count);

const id = (): string[] => ['--service-id', String(service.serviceId)];
const deployment = (...more: string[]): string[] => ['service', 'deploy', JOBS, ...id(), '--confirmations', '0', ...more];

async function withHome<T>(change: Readonly<Record<string, string>>, action: (home: OperatorHome) => Promise<T>): Promise<T> {
  const home = new OperatorHome({ TANGLE_CONTRACT: tangle.contract, OPERATOR_PRIVATE_KEY: service.operators[0]?.privateKey, ...change });
  try {
    return await action(home);
  } finally {
    await home.leave();
  }
}

describe('before anything is deployed', () => {
  it('a key that is missing, malformed or a stranger, and another chain, are told; nothing is written', async () => {
    const stranger = chain.accounts[7];
    const cases: readonly [change: Record<string, string | undefined>, flags: string[], said: RegExp][] = [
      [{ OPERATOR_PRIVATE_KEY: undefined }, [], /^CONFIG_INVALID: .*OPERATOR_PRIVATE_KEY.* is not set/],
      [{}, ['--key', 'file:/nowhere/key'], /^CONFIG_INVALID: .*\/nowhere\/key.* cannot be read/],
      [{ OPERATOR_PRIVATE_KEY: '0x1234' }, [], /^CONFIG_INVALID: the private key of the operator is not a key/],
      [{}, ['--key', service.operators[0]?.privateKey ?? ''], /^CONFIG_INVALID: a secret is given as text/],
      [
        { OPERATOR_PRIVATE_KEY: stranger?.privateKey },
        [],
        new RegExp(`^CONFIG_INVALID: .*${stranger?.address.toLowerCase()}, which is no operator of service ${service.serviceId}`),
      ],
      [{ CHAIN_ID: '1' }, [], /^CHAIN_MISMATCH: .* serves chain 31337, not chain 1/],
      [{}, ['--contract', `0x${'12'.repeat(20)}`], /^CONTRACT_MISSING/],
    ];
    for (const [change, flags, said] of cases)
      for (const dry of [[], ['--dry-run']]) {
        const { code, stderr, stdout } = await user.bpr(deployment(...flags, ...dry), change);
        expect([code, stderr]).toEqual([1, expect.stringMatching(said)]);
        for (const key of [stranger?.privateKey, service.operators[0]?.privateKey]) expect(stdout + stderr).not.toContain(key?.slice(2));
      }
    expect(existsSync(join(user.home, 'state'))).toBe(false);
  }, 300_000);
});

describe('an orchestrator that moves', () => {
  it('settles what the old one left, executes nothing that is settled, and settles nothing twice', async () => {
    const first = await user.json(deployment());
    expect(first).toMatchObject({ record: { status: 'deployed', fromBlock: expect.stringMatching(/^\d+$/) as string } });
    const before = await submit(20);
    await untilSettled(20);
    // From here on no reorg reaches what is settled.
    await chain.mine(13);
    for (const pid of user.programs()) process.kill(pid, 'SIGKILL');
    await expect.poll(() => user.programs()).toEqual([]);
    const left = await submit(10);

    const elsewhere = join(user.home, 'elsewhere');
    const moved = await user.json(deployment('--host-option', `folder=${elsewhere}`));
    expect(moved).toMatchObject({ machine: { status: 'running' } });
    await untilSettled(30);
    expect((await settled()).toSorted((a, b) => Number(a - b))).toEqual([...before, ...left]);
    const ledger = SqliteLedger.open({
      path: join(elsewhere, '.data', `blueprint-${service.serviceId}-orchestrator`, 'ledger.sqlite'),
      readonly: true,
    });
    const rows = ledger.find({ limit: 100 }).map(({ call, state, attempts }) => [call.origin?.callId, state, attempts]);
    await ledger.close();
    expect(rows.slice(0, 20)).toEqual(before.map((callId) => [callId, 'closed', 0]));
    expect(rows.slice(20).map(([callId, , attempts]) => [callId, attempts])).toEqual(left.map((callId) => [callId, 1]));
    expect(await user.json(deployment('--host-option', `folder=${elsewhere}`))).toMatchObject({ changes: [] });

    // While calls are under way, and back to a ledger that ended long ago.
    await submit(30);
    await user.json(deployment());
    await untilSettled(60);
    expect(new Set(await settled()).size).toBe(60);
    expect(await user.json(['service', 'status', ...id()])).toMatchObject({ drift: [], orchestrator: { status: 'running' } });
  }, 300_000);
});

describe('a service on this machine', () => {
  it('without functions settles its calls from the orchestrator; another key is taken up, and nothing else changes', async () => {
    const two = await tangle.startService({ jobs: [{ name: 'quick' }, { name: 'small' }], operatorCount: 2 });
    service = two;
    const [first, second] = two.operators;
    const as = (operator: typeof first) => ({ OPERATOR_PRIVATE_KEY: operator?.privateKey });
    await user.json(['cloud', 'policy', '--serverless', 'false']);
    expect(await user.json(deployment(), as(first))).toMatchObject({
      record: { strategy: 'traditional', jobs: { 0: { place: 'runner' }, 1: { place: 'runner' } } },
      changes: [{ action: 'create', resource: 'process' }],
      machine: { status: 'running' },
    });
    const calls = await submit(8);
    await untilSettled(8);
    expect((await settled()).toSorted((a, b) => Number(a - b))).toEqual(calls);
    expect(await user.bpr(['service', 'status', ...id()])).toMatchObject({ code: 0 });

    expect(await user.json(deployment(), as(second))).toMatchObject({ changes: [{ action: 'update', resource: 'process' }] });
    expect(await user.json(deployment(), as(second))).toMatchObject({ changes: [] });
    await submit(4);
    await untilSettled(12);
    const by = (await tangle.results(two.serviceId)).map(({ operator }) => operator);
    expect(by).toEqual([...Array.from({ length: 8 }, () => first?.address), ...Array.from({ length: 4 }, () => second?.address)]);
    const keys = two.operators.map(({ privateKey }) => privateKey.slice(2));
    expect([...user.files()].filter(([, text]) => keys.some((key) => text.includes(key))).map(([file]) => file)).toEqual([]);
  }, 300_000);

  it('that hangs is told by its status, and started again by a deployment', async () => {
    const deploy = deployment('--host-option', 'readyTimeoutMs=12000', '--host-option', 'stopTimeoutMs=500');
    const { machine } = (await user.json(deploy)) as { machine: { id: string } };
    process.kill(Number(machine.id), 'SIGSTOP');
    const hanging = await user.bpr(['service', 'status', ...id()]);
    expect([hanging.code, hanging.stdout]).toEqual([1, expect.stringContaining('orchestrator is starting')]);
    const again = (await user.json(deploy)) as { machine: { id: string; status: string } };
    expect(again.machine.status).toBe('running');
    expect(user.programs()).toEqual([Number(again.machine.id)]);
    expect(again.machine.id).not.toBe(machine.id);
    expect(await user.bpr(['service', 'status', ...id()])).toMatchObject({ code: 0 });
  }, 300_000);

  it('leaves nothing on the platform that it moves away from, tells when its platform is gone, and can be forgotten then', async () => {
    const jobs = ['quick', 'small'].map((name) => ({ name, profile }));
    service = await tangle.startService({ jobs });
    const names = [0, 1].map((job) => `blueprint-${service.serviceId}-job-${job}`);
    const [one, other] = [await startCommand(join(user.home, 'one')), await startCommand(join(user.home, 'other'))];
    const functions = async ({ url }: RunningGateway) => {
      await user.json(['cloud', 'policy', '--serverless', 'true', '--faas-provider', 'custom', '--faas-custom-endpoint', url]);
      const listed = (await user.json(['cloud', 'list'])) as { functions: { name: string }[] };
      return listed.functions.map(({ name }) => name).toSorted();
    };
    try {
      expect(await functions(one)).toEqual([]);
      await user.json(deployment());
      expect([await functions(one), await functions(other)]).toEqual([names, []]);
      expect(await user.json(deployment())).toMatchObject({ record: { status: 'deployed', leftovers: [] } });
      expect([await functions(one), await functions(other)]).toEqual([[], names]);

      other.child.kill('SIGKILL');
      await other.ended;
      const status = await user.bpr(['service', 'status', ...id()]);
      expect([status.code, status.stdout]).toEqual([1, expect.stringContaining(`function ${names[0]} of job quick cannot be asked`)]);
      expect(status.stdout).toContain('orchestrator: running');
      const kept = await user.bpr(['service', 'remove', ...id()]);
      expect([kept.code, kept.stderr]).toEqual([1, expect.stringMatching(/^PLATFORM_UNREACHABLE/)]);
      expect(user.records.list(id()[1])).toHaveLength(1);
      const forgotten = await user.bpr(['service', 'remove', ...id(), '--forget']);
      expect([forgotten.code, forgotten.stdout]).toEqual([0, expect.stringContaining(`may still be there: function ${names[0]} on`)]);
      expect(forgotten.stdout).toMatch(/--from-block \d+/);
      expect([user.records.list(id()[1]), user.programs()]).toEqual([[], []]);
    } finally {
      for (const gateway of [one, other]) gateway.child.kill('SIGKILL');
      await Promise.all([one.ended, other.ended]);
    }
  }, 300_000);

  it('is kept apart from one of another chain with the same id', async () => {
    const second = await startLocalChain({ chainId: 31_338 });
    try {
      const there = await deployTangle(second);
      let twin = await there.startService({ jobs: [{ name: 'quick' }, { name: 'small' }] });
      while (twin.serviceId < service.serviceId) twin = await there.startService({ jobs: [{ name: 'quick' }, { name: 'small' }] });
      expect([twin.serviceId, there.contract]).toEqual([service.serviceId, tangle.contract]);
      const elsewhere = { HTTP_RPC_URL: second.rpcUrl, OPERATOR_PRIVATE_KEY: twin.operators[0]?.privateKey };
      await user.json(deployment());
      const refused = await user.bpr(deployment(), elsewhere);
      expect([refused.code, refused.stderr]).toEqual([1, expect.stringMatching(/^RESOURCE_FOREIGN/)]);
      await user.json(deployment('--host-option', `folder=${join(user.state, 'twin')}`), elsewhere);
      expect(user.programs()).toHaveLength(2);

      const calls = await there.submitMany(twin.serviceId, [{ jobIndex: 0, inputs: uint64(3) }]);
      await expect.poll(async () => (await there.results(twin.serviceId)).map(({ callId }) => callId), { timeout: 60_000 }).toEqual(calls);
      expect(await settled()).toEqual([]);
      const unclear = await user.bpr(['service', 'status', ...id()]);
      expect([unclear.code, unclear.stderr]).toEqual([1, expect.stringMatching(/^CONFIG_INVALID: .*--chain-id/)]);
      expect(await user.bpr(['service', 'remove', ...id(), '--chain-id', '31338'])).toMatchObject({ code: 0 });
      expect(await user.bpr(['service', 'status', ...id()])).toMatchObject({ code: 0 });
      expect(user.programs()).toHaveLength(1);
    } finally {
      await second.stop();
    }
  }, 300_000);

  it('is exported as the same files by everybody, at any time', async () => {
    const written = async (home: OperatorHome, name: string): Promise<readonly (readonly [string, string])[]> => {
      const { code, stderr } = await home.bpr(['service', 'export', JOBS, ...id(), '--format', 'compose', '--out', join(home.home, name)]);
      expect(code, stderr).toBe(0);
      const files = readdirSync(join(home.home, name), { recursive: true, encoding: 'utf8' }).toSorted();
      return files
        .filter((file) => statSync(join(home.home, name, file)).isFile())
        .map((file) => [file, readFileSync(join(home.home, name, file), 'latin1')]);
    };
    const mine = await written(user, 'first');
    expect(mine.length).toBeGreaterThan(0);
    await chain.mine(3);
    expect(await written(user, 'second')).toEqual(mine);
    await withHome({ HTTP_RPC_URL: chain.rpcUrl }, async (home) => expect(await written(home, 'theirs')).toEqual(mine));
  }, 300_000);
});
