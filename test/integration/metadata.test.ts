import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { RpcRequest } from '../../src/chain/chain.ts';
import { fetchBlueprintMetadata, mockBlueprint, readBlueprint, readOperator, readService } from '../../src/chain/metadata.ts';
import { RunnerError } from '../../src/errors.ts';
import type { LocalAccount, LocalChain, LocalTangle } from '../../src/testing/testing.ts';
import { deployTangle, startLocalChain } from '../../src/testing/testing.ts';

const NUMBER_AND_TEXT = '0x0200020800000000016e1100000000086772656574696e67';
const PROFILE = { avgDurationMs: 12, p95DurationMs: 30, peakMemoryMb: 64, stateful: false, persistentConnections: true };
const NOBODY = `0x${'12'.repeat(20)}` as const;

let chain: LocalChain;
let tangle: LocalTangle;

beforeAll(async () => {
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
});
afterAll(() => chain.stop());

const account = (index: number): LocalAccount => chain.accounts[index] ?? expect.fail(`no account ${index}`);

/** The chain, but with another answer to some requests. */
const altered =
  (answer: (method: string, params: readonly unknown[], real: () => Promise<unknown>) => Promise<unknown>): RpcRequest =>
  (method, params) =>
    answer(method, params, () => chain.request(method, params));
const withoutLogs = altered(async (method, _params, real) => {
  if (method === 'eth_getLogs') throw new RunnerError('RPC_ERROR', 'the range is too large');
  return real();
});

describe('readBlueprint', () => {
  test('has the names, schemas and profiles of all jobs, verified', async () => {
    const blueprintId = await tangle.createBlueprint({
      name: 'five',
      jobs: [
        {
          name: 'square',
          description: 'squares a number',
          paramsSchema: NUMBER_AND_TEXT,
          resultSchema: '0x020001080000000000',
          profile: PROFILE,
        },
        { name: 'cube' },
        { name: 'price', profile: { ...PROFILE, stateful: true } },
        { name: 'sign' },
        { name: 'twice', requiredResults: 2 },
      ],
    });
    const blueprint = await readBlueprint(chain.request, tangle.contract, blueprintId);
    expect(blueprint).toMatchObject({
      blueprintId,
      source: 'chain',
      verified: true,
      name: 'five',
      description: 'blueprint five',
      metadataUri: 'ipfs://five',
      owner: account(0).address,
      confidentiality: 'any',
    });
    expect(blueprint.problems).toBeUndefined();
    expect(blueprint.manager).toMatch(/^0x(?!0{40})[0-9a-f]{40}$/);
    expect(blueprint.jobs.map((job) => [job.index, job.name])).toEqual([
      [0, 'square'],
      [1, 'cube'],
      [2, 'price'],
      [3, 'sign'],
      [4, 'twice'],
    ]);
    expect(blueprint.jobs[0]).toEqual({
      index: 0,
      name: 'square',
      description: 'squares a number',
      metadataUri: '',
      paramsSchema: Uint8Array.from(Buffer.from(NUMBER_AND_TEXT.slice(2), 'hex')),
      resultSchema: Uint8Array.from(Buffer.from('020001080000000000', 'hex')),
      profile: PROFILE,
    });
    expect(blueprint.jobs[1]).not.toHaveProperty('profile');
    expect(blueprint.jobs[2]?.profile).toEqual({ ...PROFILE, stateful: true });
  });

  test('finds the definition long after, without asking for a long range', async () => {
    const blueprintId = await tangle.createBlueprint({ jobs: [{ name: 'old' }] });
    await chain.mine(200);
    const widths: number[] = [];
    const request = altered(async (method, params, real) => {
      if (method === 'eth_getLogs') {
        const { fromBlock, toBlock } = params[0] as { readonly fromBlock: string; readonly toBlock: string };
        widths.push(Number(toBlock) - Number(fromBlock) + 1);
      }
      return real();
    });
    expect(await readBlueprint(request, tangle.contract, blueprintId)).toMatchObject({ verified: true, jobs: [{ name: 'old' }] });
    expect(widths).toEqual([64]);
  });

  test('is not deceived by the same event of another contract', async () => {
    const other = await deployTangle(chain);
    const mine = await deployTangle(chain);
    expect(await other.createBlueprint({ jobs: [{ name: 'forged' }] })).toBe(0n);
    expect(await mine.createBlueprint({ jobs: [{ name: 'true' }] })).toBe(0n);
    expect(await other.createBlueprint({ jobs: [{ name: 'forged too' }] })).toBe(1n);
    const showingAll = altered((method, params, real) =>
      method === 'eth_getLogs' ? chain.request(method, [{ ...(params[0] as object), fromBlock: '0x0' }]) : real(),
    );
    expect(await readBlueprint(showingAll, mine.contract, 0n)).toMatchObject({ verified: true, jobs: [{ name: 'true' }] });
  });

  test('is not deceived by events that are malformed', async () => {
    const blueprintId = await tangle.createBlueprint({ jobs: [{ name: 'true' }] });
    const request = altered(async (method, _params, real) => {
      const answer = await real();
      const forged = ['0x', '0x1234', `0x${'ff'.repeat(64)}`, `0x${'00'.repeat(32)}`].map((data) => ({ topics: [], data }));
      return method === 'eth_getLogs' ? [...forged, ...(answer as unknown[])] : answer;
    });
    expect(await readBlueprint(request, tangle.contract, blueprintId)).toMatchObject({ verified: true, jobs: [{ name: 'true' }] });
  });

  test('is what the view shows when no endpoint shows the event', async () => {
    const blueprintId = await tangle.createBlueprint({
      name: 'five',
      jobs: [{ name: 'a', paramsSchema: NUMBER_AND_TEXT, profile: PROFILE }],
    });
    const blueprint = await readBlueprint(withoutLogs, tangle.contract, blueprintId);
    expect(blueprint).toMatchObject({ source: 'chain', verified: false, name: 'five', jobs: [{ name: '', profile: PROFILE }] });
    expect(blueprint.jobs[0]?.paramsSchema).toHaveLength(24);
    expect(blueprint.problems).toMatchObject([{ code: 'RPC_ERROR', message: 'the range is too large' }]);
  });

  test('is what the view shows when the recorded definition is not the anchored one', async () => {
    const blueprintId = await tangle.createBlueprint({ jobs: [{ name: 'a' }] });
    const anchored = await tangle.read('blueprintDefinitionHash', [blueprintId]);
    const wrongHash = altered(async (_method, _params, real) => {
      const answer = await real();
      return answer === anchored ? `0x${'ab'.repeat(32)}` : answer;
    });
    const blueprint = await readBlueprint(wrongHash, tangle.contract, blueprintId);
    expect(blueprint).toMatchObject({
      verified: false,
      jobs: [{ name: '' }],
      problems: [{ code: 'METADATA_INVALID', details: { hash: `0x${'ab'.repeat(32)}` } }],
    });
  });

  test('stays usable when the profiling data is malformed', async () => {
    const blueprintId = await tangle.createBlueprint({ jobs: [{ name: 'a' }], profilingData: '{"schema":"other"}' });
    const blueprint = await readBlueprint(chain.request, tangle.contract, blueprintId);
    expect(blueprint).toMatchObject({ verified: true, jobs: [{ index: 0, name: 'a' }], problems: [{ code: 'METADATA_INVALID' }] });
    expect(blueprint.jobs[0]).not.toHaveProperty('profile');
  });

  test('says what is missing', async () => {
    await expect(readBlueprint(chain.request, tangle.contract, 12_345n)).rejects.toMatchObject({
      code: 'BLUEPRINT_NOT_FOUND',
      details: { blueprintId: '12345' },
    });
    await expect(readBlueprint(chain.request, NOBODY, 0n)).rejects.toMatchObject({
      code: 'CONTRACT_MISSING',
      details: { contract: NOBODY },
    });
  });

  test('fails when the endpoint fails, also in the middle', async () => {
    const blueprintId = await tangle.createBlueprint({ jobs: [{ name: 'a' }] });
    const failing = altered(async (method, _params, real) => {
      if (method === 'eth_getLogs') throw new RunnerError('RPC_UNREACHABLE', 'gone');
      return real();
    });
    await expect(readBlueprint(failing, tangle.contract, blueprintId)).rejects.toMatchObject({ code: 'RPC_UNREACHABLE' });
  });
});

describe('readService', () => {
  test('an active service and its operators', async () => {
    const { blueprintId, serviceId, operators } = await tangle.startService({ jobs: [{ name: 'a' }], operatorCount: 2 });
    const service = await readService(chain.request, tangle.contract, serviceId);
    expect(service).toMatchObject({ serviceId, blueprintId, owner: account(0).address, status: 'active', ttl: 0n });
    expect(service.createdAt).toBeGreaterThan(1_600_000_000n);
    expect(service.operators.toSorted()).toEqual(operators.map((operator) => operator.address).toSorted());
  });

  test('one whose time ran out is expired, although the contract calls it active', async () => {
    const blueprintId = await tangle.createBlueprint({ jobs: [{ name: 'a' }] });
    await tangle.registerOperator(blueprintId, account(1));
    const serviceId = await tangle.createService({ blueprintId, operators: [account(1)], ttlSeconds: 3600n });
    expect(await readService(chain.request, tangle.contract, serviceId)).toMatchObject({ status: 'active', ttl: 3600n });
    await chain.request('evm_increaseTime', [3601]);
    await chain.mine();
    expect(await readService(chain.request, tangle.contract, serviceId)).toMatchObject({ status: 'expired' });
  });

  test('a terminated one', async () => {
    const { serviceId } = await tangle.startService({ jobs: [{ name: 'a' }] });
    await tangle.write(account(0), 'terminateService', [serviceId]);
    expect(await readService(chain.request, tangle.contract, serviceId)).toMatchObject({ status: 'terminated' });
  });

  test('an unknown one is an error, not a pending service', async () => {
    await expect(readService(chain.request, tangle.contract, 999n)).rejects.toMatchObject({
      code: 'SERVICE_NOT_FOUND',
      details: { serviceId: '999' },
    });
  });
});

describe('readOperator', () => {
  test('the address is the one announced last', async () => {
    const blueprintId = await tangle.createBlueprint({ jobs: [{ name: 'a' }] });
    const of = { blueprintId, operator: account(1).address };
    expect(await readOperator(chain.request, tangle.contract, of)).toEqual({ address: account(1).address, registered: false });
    await tangle.registerOperator(blueprintId, account(1), 'http://one');
    await tangle.registerOperator(blueprintId, account(2), 'http://other');
    expect(await readOperator(chain.request, tangle.contract, of)).toEqual({
      address: account(1).address,
      registered: true,
      rpcAddress: 'http://one',
    });
    await chain.mine(10);
    await tangle.write(account(1), 'updateOperatorPreferences', [blueprintId, '0x', 'http://two']);
    await tangle.write(account(1), 'updateOperatorPreferences', [blueprintId, '0x', 'http://three']);
    expect(await readOperator(chain.request, tangle.contract, of)).toMatchObject({ registered: true, rpcAddress: 'http://three' });
  });

  test('the address is absent when the endpoint does not show the events', async () => {
    const blueprintId = await tangle.createBlueprint({ jobs: [{ name: 'a' }] });
    await tangle.registerOperator(blueprintId, account(1), 'http://one');
    expect(await readOperator(withoutLogs, tangle.contract, { blueprintId, operator: account(1).address })).toEqual({
      address: account(1).address,
      registered: true,
    });
  });
});

describe('fetchBlueprintMetadata', () => {
  test('reads the chain at a URL', async () => {
    const blueprintId = await tangle.createBlueprint({ jobs: [1, 2, 3, 4, 5].map((name) => ({ name: `job ${name}` })) });
    const blueprint = await fetchBlueprintMetadata(blueprintId, { rpcUrl: chain.rpcUrl, contract: tangle.contract });
    expect(blueprint).toMatchObject({ source: 'chain', verified: true });
    expect(blueprint.jobs).toHaveLength(5);
  });

  test('asks the client that it is given', async () => {
    const client = { blueprint: (id: bigint) => Promise.resolve({ ...mockBlueprint(id), name: 'from the client' }) };
    expect(await fetchBlueprintMetadata(4n, { client })).toMatchObject({ blueprintId: 4n, name: 'from the client' });
  });

  test('makes up exactly two jobs in mode mock, says so, and asks nobody', async () => {
    const client = { blueprint: () => expect.fail('the client was asked') };
    const blueprint = await fetchBlueprintMetadata(7n, { mode: 'mock', client, rpcUrl: chain.rpcUrl, contract: tangle.contract });
    expect(blueprint).toMatchObject({ blueprintId: 7n, source: 'mock', verified: false });
    expect(blueprint.jobs.map((job) => job.index)).toEqual([0, 1]);
  });

  test('an unreachable chain is made up in mode auto, and an error in mode real', async () => {
    const gone = await startLocalChain();
    await gone.stop();
    const options = { rpcUrl: gone.rpcUrl, contract: tangle.contract };
    expect(await fetchBlueprintMetadata(7n, options)).toMatchObject({ blueprintId: 7n, source: 'mock', verified: false });
    await expect(fetchBlueprintMetadata(7n, { ...options, mode: 'real' })).rejects.toMatchObject({ code: 'RPC_UNREACHABLE' });
  });

  test('what the chain does not have is never made up', async () => {
    await expect(fetchBlueprintMetadata(999n, { rpcUrl: chain.rpcUrl, contract: tangle.contract })).rejects.toMatchObject({
      code: 'BLUEPRINT_NOT_FOUND',
    });
    await expect(fetchBlueprintMetadata(0n, { rpcUrl: chain.rpcUrl, contract: NOBODY })).rejects.toMatchObject({
      code: 'CONTRACT_MISSING',
    });
    await expect(fetchBlueprintMetadata(0n, { rpcUrl: chain.rpcUrl })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});
