/** What an operator of a service meets besides the first deployment: wrong keys, other hosts, other keys, platforms that are gone. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { encodeAbiParameters } from 'viem/utils';
import { afterAll, beforeAll, beforeEach, afterEach, describe, expect, it } from 'vitest';
import type { Hex } from '../../src/index.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { LocalChain } from '../../src/testing/local-chain.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import type { LocalService, LocalTangle } from '../../src/testing/tangle.ts';
import { OperatorHome } from '../support/operator-home.ts';

const JOBS = new URL('../fixtures/deploy/jobs.ts', import.meta.url).pathname;

let chain: LocalChain;
let tangle: LocalTangle;
let service: LocalService;
let user: OperatorHome;

beforeAll(async () => {
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
}, 60_000);

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
  }, 120_000);
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
  }, 120_000);
});
