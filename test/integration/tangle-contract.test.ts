/** The small contract of the tests behaves as the real contracts were measured to behave. */

import { gunzipSync } from 'node:zlib';
import { decodeAbiParameters, keccak256 } from 'viem/utils';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { TOPIC, tangleAbi } from '../../src/chain/contracts.ts';
import type { Hex } from '../../src/job/call.ts';
import type { LocalAccount, LocalChain, LocalService, LocalTangle } from '../../src/testing/testing.ts';
import { attachTangle, deployTangle, startLocalChain } from '../../src/testing/testing.ts';

interface RawLog {
  readonly address: Hex;
  readonly topics: readonly Hex[];
  readonly data: Hex;
}

const JOB = { jobIndex: 0, inputs: '0xaaaa' } as const;
const PROFILE = { avgDurationMs: 12, p95DurationMs: 30, peakMemoryMb: 64, stateful: false, persistentConnections: false };

let chain: LocalChain;
let tangle: LocalTangle;

beforeAll(async () => {
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
});
afterAll(() => chain.stop());

const account = (index: number): LocalAccount => chain.accounts[index] ?? expect.fail(`no account ${index}`);
const operatorOf = (service: LocalService, index: number): LocalAccount => service.operators[index] ?? expect.fail(`no operator ${index}`);
const reverts = (work: Promise<unknown>, error: string, args: readonly unknown[]) =>
  expect(work).rejects.toMatchObject({ code: 'RPC_ERROR', details: { error, args } });
const now = async (): Promise<bigint> => {
  const block = (await chain.request('eth_getBlockByNumber', ['latest', false])) as { readonly timestamp: Hex };
  return BigInt(block.timestamp);
};
const travel = async (seconds: number): Promise<void> => {
  await chain.request('evm_increaseTime', [seconds]);
  await chain.mine();
};
const logsOf = (topics: readonly Hex[], address?: Hex) =>
  chain.request('eth_getLogs', [{ fromBlock: '0x0', toBlock: 'latest', topics, ...(address && { address }) }]) as Promise<
    readonly RawLog[]
  >;

describe('blueprints', () => {
  test('ids count from 0 and BlueprintCreated tells them', async () => {
    const fresh = await deployTangle(chain);
    expect(await fresh.createBlueprint({ jobs: [{ name: 'a' }] })).toBe(0n);
    expect(await fresh.createBlueprint({ jobs: [{ name: 'b' }] })).toBe(1n);
    expect(await fresh.read('blueprintCount', [])).toBe(2n);
  });

  test('the view hides job names, most metadata and the sources, and keeps the schemas', async () => {
    const id = await tangle.createBlueprint({
      name: 'oracle',
      jobs: [{ name: 'price', paramsSchema: '0x0200010800000000016e', profile: PROFILE }, { name: 'sign' }],
    });
    const view = await tangle.read('getBlueprintDefinition', [id]);
    expect(view.jobs).toEqual([
      { name: '', description: '', metadataUri: '', paramsSchema: '0x0200010800000000016e', resultSchema: '0x' },
      { name: '', description: '', metadataUri: '', paramsSchema: '0x', resultSchema: '0x' },
    ]);
    expect(view.sources).toEqual([]);
    expect(view.metadata).toMatchObject({ name: 'oracle', description: '', author: '' });
    const profiling = JSON.parse(view.metadata.profilingData) as { readonly job_profiles_b64_gzip: string };
    expect(JSON.parse(gunzipSync(Buffer.from(profiling.job_profiles_b64_gzip, 'base64')).toString())).toEqual({
      jobs: { 0: { avg_duration_ms: 12, p95_duration_ms: 30, peak_memory_mb: 64, stateful: false, persistent_connections: false } },
    });
  });

  test('the full definition is recorded by another contract, and its hash is anchored', async () => {
    const id = await tangle.createBlueprint({ jobs: [{ name: 'square', description: 'squares' }] });
    const logs = await logsOf([TOPIC.blueprintDefinitionRecorded, `0x${id.toString(16).padStart(64, '0')}`], tangle.masterManager);
    expect(logs).toHaveLength(1);
    expect(tangle.masterManager).not.toBe(tangle.contract);
    const [encoded] = decodeAbiParameters([{ type: 'bytes' }], logs[0]?.data ?? '0x');
    expect(await tangle.read('blueprintDefinitionHash', [id])).toBe(keccak256(encoded));
    const create =
      tangleAbi.find((item) => item.type === 'function' && item.name === 'createBlueprint') ?? expect.fail('no createBlueprint');
    const [definition] = decodeAbiParameters(create.inputs, encoded) as readonly [
      { readonly jobs: readonly unknown[]; readonly sources: readonly unknown[] },
    ];
    expect(definition.jobs).toEqual([{ name: 'square', description: 'squares', metadataUri: '', paramsSchema: '0x', resultSchema: '0x' }]);
    expect(definition.sources).toHaveLength(1);
  });

  test('an unknown blueprint is a zero struct, but its definition reverts', async () => {
    expect(await tangle.read('getBlueprint', [999n])).toMatchObject({ createdAt: 0n, active: false, owner: `0x${'0'.repeat(40)}` });
    await reverts(tangle.read('getBlueprintDefinition', [999n]), 'BlueprintNotFound', [999n]);
  });
});

describe('operators', () => {
  test('register once, with an uncompressed key of their own and an address', async () => {
    const id = await tangle.createBlueprint({ jobs: [{ name: 'a' }] });
    const operator = account(1);
    await tangle.registerOperator(id, operator, 'http://one');
    expect(await tangle.read('isOperatorRegistered', [id, operator.address])).toBe(true);
    expect(await tangle.read('isOperatorRegistered', [id, account(2).address])).toBe(false);
    await reverts(tangle.registerOperator(id, operator, 'http://one'), 'OperatorAlreadyRegistered', [id, operator.address]);
    await reverts(tangle.registerOperator(999n, operator, 'http://one'), 'BlueprintNotFound', [999n]);
    await reverts(tangle.registerOperator(id, account(2), ''), 'OperatorRpcAddressRequired', []);
    await reverts(tangle.write(account(2), 'registerOperator', [id, '0x02', 'http://two']), 'InvalidOperatorKey', []);
    const { ecdsaPublicKey } = await tangle.read('getOperatorPreferences', [id, operator.address]);
    await reverts(tangle.write(account(2), 'registerOperator', [id, ecdsaPublicKey, 'http://two']), 'DuplicateOperatorKey', [
      id,
      keccak256(ecdsaPublicKey),
    ]);
  });

  test('the address is in the events alone', async () => {
    const id = await tangle.createBlueprint({ jobs: [{ name: 'a' }] });
    const operator = account(1);
    await tangle.registerOperator(id, operator, 'http://one');
    const { ecdsaPublicKey, rpcAddress } = await tangle.read('getOperatorPreferences', [id, operator.address]);
    expect([ecdsaPublicKey.length, ecdsaPublicKey.slice(0, 4), rpcAddress]).toEqual([132, '0x04', '']);
    await tangle.write(operator, 'updateOperatorPreferences', [id, ecdsaPublicKey, 'http://two']);
    const topics = [`0x${id.toString(16).padStart(64, '0')}`, `0x${operator.address.slice(2).padStart(64, '0')}`] as const;
    const addresses = await Promise.all(
      [TOPIC.operatorRegistered, TOPIC.operatorPreferencesUpdated].map(async (topic) => {
        const [log] = await logsOf([topic, ...topics], tangle.contract);
        return decodeAbiParameters([{ type: 'bytes' }, { type: 'string' }], log?.data ?? '0x')[1];
      }),
    );
    expect(addresses).toEqual(['http://one', 'http://two']);
  });

  test('preferences of somebody who is not registered cannot be updated', async () => {
    const id = await tangle.createBlueprint({ jobs: [{ name: 'a' }] });
    await reverts(tangle.write(account(1), 'updateOperatorPreferences', [id, '0x', 'http://two']), 'OperatorNotRegistered', [
      id,
      account(1).address,
    ]);
  });
});

describe('services', () => {
  test('become active when the last operator approves', async () => {
    const fresh = await deployTangle(chain);
    const { blueprintId, serviceId, operators } = await fresh.startService({ jobs: [{ name: 'a' }], operatorCount: 3 });
    expect([blueprintId, serviceId]).toEqual([0n, 0n]);
    expect(await fresh.read('isServiceActive', [0n])).toBe(true);
    expect(await fresh.read('getService', [0n])).toMatchObject({ blueprintId: 0n, status: 1, ttl: 0n, operatorCount: 3 });
    const listed = (await fresh.read('getServiceOperators', [0n])).map((address) => address.toLowerCase());
    expect(listed.toSorted()).toEqual(operators.map((operator) => operator.address).toSorted());
  });

  test('need registered operators and a ttl of at least an hour', async () => {
    const blueprintId = await tangle.createBlueprint({ jobs: [{ name: 'a' }] });
    await reverts(tangle.createService({ blueprintId, operators: [account(1)] }), 'OperatorNotRegistered', [
      blueprintId,
      account(1).address,
    ]);
    await tangle.registerOperator(blueprintId, account(1));
    await reverts(tangle.createService({ blueprintId, operators: [] }), 'NoOperators', []);
    await reverts(tangle.createService({ blueprintId, operators: [account(1)], ttlSeconds: 3599n }), 'TTLBelowMinimum', [3599n, 3600n]);
  });

  test('unknown ones are zero structs: status 0 is Pending', async () => {
    expect(await tangle.read('getService', [77n])).toMatchObject({ status: 0, createdAt: 0n });
    expect(await tangle.read('isServiceActive', [77n])).toBe(false);
    await reverts(tangle.submitJob(77n, JOB), 'ServiceNotFound', [77n]);
  });

  test('an ended ttl is seen in the reverts alone', async () => {
    const blueprintId = await tangle.createBlueprint({ jobs: [{ name: 'a' }] });
    await tangle.registerOperator(blueprintId, account(1));
    const serviceId = await tangle.createService({ blueprintId, operators: [account(1)], ttlSeconds: 3600n });
    await tangle.submitJob(serviceId, JOB);
    await travel(3601);
    expect(await tangle.read('isServiceActive', [serviceId])).toBe(true);
    expect(await tangle.read('getService', [serviceId])).toMatchObject({ status: 1, ttl: 3600n });
    await reverts(tangle.submitJob(serviceId, JOB), 'ServiceExpired', [serviceId]);
    await reverts(tangle.submitResult({ serviceId, callId: 0n }, '0x01', account(1)), 'ServiceExpired', [serviceId]);
  });

  test('a terminated one takes neither calls nor results', async () => {
    const { serviceId } = await tangle.startService({ jobs: [{ name: 'a' }] });
    await tangle.submitJob(serviceId, JOB);
    await reverts(tangle.write(account(1), 'terminateService', [serviceId]), 'NotServiceOwner', [serviceId, account(1).address]);
    await tangle.write(account(0), 'terminateService', [serviceId]);
    expect(await tangle.read('isServiceActive', [serviceId])).toBe(false);
    await reverts(tangle.submitJob(serviceId, JOB), 'ServiceNotActive', [serviceId]);
    await reverts(tangle.submitResult({ serviceId, callId: 0n }, '0x01', account(1)), 'ServiceNotActive', [serviceId]);
  });

  test('only permitted callers may call', async () => {
    const { serviceId } = await tangle.startService({ jobs: [{ name: 'a' }] });
    await reverts(tangle.submitJob(serviceId, JOB, account(5)), 'NotPermittedCaller', [serviceId, account(5).address]);
    await reverts(tangle.write(account(5), 'addPermittedCaller', [serviceId, account(5).address]), 'NotServiceOwner', [
      serviceId,
      account(5).address,
    ]);
    await tangle.write(account(0), 'addPermittedCaller', [serviceId, account(5).address]);
    expect((await tangle.submitJob(serviceId, JOB, account(5))).caller).toBe(account(5).address);
    await tangle.write(account(0), 'removePermittedCaller', [serviceId, account(5).address]);
    await reverts(tangle.submitJob(serviceId, JOB, account(5)), 'NotPermittedCaller', [serviceId, account(5).address]);
  });
});

describe('calls', () => {
  test('call ids count per service from 0, and the event does not index the job', async () => {
    const one = await tangle.startService({ jobs: [{ name: 'a' }, { name: 'b' }] });
    const two = await tangle.startService({ jobs: [{ name: 'a' }] });
    await tangle.submitJob(one.serviceId, JOB);
    const call = await tangle.submitJob(one.serviceId, { jobIndex: 1, inputs: '0xbb' });
    expect(call).toMatchObject({
      serviceId: one.serviceId,
      callId: 1n,
      jobIndex: 1,
      caller: account(0).address,
      inputs: Uint8Array.of(0xbb),
    });
    expect((await tangle.submitJob(two.serviceId, JOB)).callId).toBe(0n);
    const [log] = await logsOf([TOPIC.jobSubmitted, `0x${one.serviceId.toString(16).padStart(64, '0')}`], tangle.contract);
    expect(log?.topics).toHaveLength(3);
    expect(decodeAbiParameters([{ type: 'uint8' }, { type: 'address' }, { type: 'bytes' }], log?.data ?? '0x')[2]).toBe('0xaaaa');
    expect(await tangle.jobCall(one.serviceId, 1n)).toMatchObject({ jobIndex: 1, resultCount: 0, completed: false, isRFQ: false });
  });

  test('unknown jobs and unknown calls', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a' }] });
    await reverts(tangle.submitJob(service.serviceId, { jobIndex: 1, inputs: '0x' }), 'InvalidJobIndex', [1n]);
    expect(await tangle.jobCall(service.serviceId, 5n)).toMatchObject({ createdAt: 0n, jobIndex: 0, completed: false });
    await reverts(tangle.submitResult({ serviceId: service.serviceId, callId: 5n }, '0x', operatorOf(service, 0)), 'JobCallNotFound', [
      service.serviceId,
      5n,
    ]);
  });

  test('event-driven services take exactly the rate', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a' }], eventRate: 500n });
    expect(await tangle.jobCall(service.serviceId, (await tangle.submitJob(service.serviceId, JOB)).callId)).toMatchObject({
      payment: 500n,
    });
    await reverts(tangle.write({ ...account(0), value: 499n }, 'submitJob', [service.serviceId, 0, '0x']), 'InvalidMsgValue', [500n, 499n]);
  });

  test('many calls in few transactions keep their order and their inputs', async () => {
    const { serviceId } = await tangle.startService({ jobs: [{ name: 'a' }, { name: 'b' }] });
    const jobs = Array.from({ length: 250 }, (_, index) => ({ jobIndex: index % 2, inputs: Uint8Array.of(index >> 8, index & 255) }));
    const ids = await tangle.submitMany(serviceId, jobs);
    expect(ids).toEqual(jobs.map((_, index) => BigInt(index)));
    const calls = await tangle.calls(serviceId);
    expect(calls.map(({ jobIndex, inputs }) => ({ jobIndex, inputs }))).toEqual(jobs);
    expect(new Set(calls.map((call) => call.blockNumber)).size).toBe(3);
    expect(new Set(calls.map((call) => call.caller))).toEqual(new Set([tangle.spammer]));
  });

  test('calls whose inputs fill more than half of a block get through', async () => {
    const { serviceId } = await tangle.startService({ jobs: [{ name: 'a' }] });
    const jobs = Array.from({ length: 100 }, () => ({ jobIndex: 0, inputs: new Uint8Array(4_096).fill(7) }));
    expect(await tangle.submitMany(serviceId, jobs)).toHaveLength(100);
    const { inputs } = await tangle.submitJob(serviceId, { jobIndex: 0, inputs: new Uint8Array(450_000).fill(7) });
    expect(inputs).toHaveLength(450_000);
  });

  test('calls that are submitted at once all get through, also when they are equal', async () => {
    const { serviceId } = await tangle.startService({ jobs: [{ name: 'a' }] });
    const calls = await Promise.all(Array.from({ length: 50 }, () => tangle.submitJob(serviceId, JOB)));
    expect(new Set(calls.map((call) => call.callId)).size).toBe(50);
    expect(await tangle.calls(serviceId)).toHaveLength(50);
  });

  test('nothing can be written while the contract is paused', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a' }] });
    await tangle.submitJob(service.serviceId, JOB);
    await tangle.setPaused(true);
    try {
      await reverts(tangle.submitJob(service.serviceId, JOB), 'EnforcedPause', []);
      await reverts(tangle.submitResult({ serviceId: service.serviceId, callId: 0n }, '0x', operatorOf(service, 0)), 'EnforcedPause', []);
    } finally {
      await tangle.setPaused(false);
    }
    await tangle.submitResult({ serviceId: service.serviceId, callId: 0n }, '0x', operatorOf(service, 0));
  });
});

describe('results', () => {
  test('the default is one result: then the call is complete and every other operator is late', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a' }], operatorCount: 2 });
    const { serviceId } = service;
    await tangle.submitJob(serviceId, JOB);
    const receipt = await tangle.submitResult({ serviceId, callId: 0n }, '0x19', operatorOf(service, 0));
    expect((receipt.logs as RawLog[]).map((log) => log.topics[0])).toEqual([TOPIC.jobResultSubmitted, TOPIC.jobCompleted]);
    expect(await tangle.jobCall(serviceId, 0n)).toMatchObject({ completed: true, resultCount: 1 });
    await reverts(tangle.submitResult({ serviceId, callId: 0n }, '0x19', operatorOf(service, 1)), 'JobAlreadyCompleted', [serviceId, 0n]);
    await reverts(tangle.submitResult({ serviceId, callId: 0n }, '0x19', operatorOf(service, 0)), 'JobAlreadyCompleted', [serviceId, 0n]);
    expect(await tangle.results(serviceId)).toMatchObject([
      { callId: 0n, operator: operatorOf(service, 0).address, output: Uint8Array.of(0x19), transactionHash: receipt.transactionHash },
    ]);
  });

  test('a job can need several results, whose outputs are not compared; an operator answers once', async () => {
    const service = await tangle.startService({
      jobs: [
        { name: 'a', requiredResults: 1 },
        { name: 'b', requiredResults: 2 },
        { name: 'c', requiredResults: 3 },
      ],
      operatorCount: 3,
    });
    const { serviceId } = service;
    await tangle.submitJob(serviceId, { jobIndex: 2, inputs: '0x01' });
    await tangle.submitResult({ serviceId, callId: 0n }, '0xaa', operatorOf(service, 0));
    await reverts(tangle.submitResult({ serviceId, callId: 0n }, '0xaa', operatorOf(service, 0)), 'ResultAlreadySubmitted', [
      serviceId,
      0n,
      operatorOf(service, 0).address,
    ]);
    await tangle.submitResult({ serviceId, callId: 0n }, '0xbb', operatorOf(service, 1));
    expect(await tangle.jobCall(serviceId, 0n)).toMatchObject({ completed: false, resultCount: 2 });
    await tangle.submitResult({ serviceId, callId: 0n }, '0xcc', operatorOf(service, 2));
    expect(await tangle.jobCall(serviceId, 0n)).toMatchObject({ completed: true, resultCount: 3 });
  });

  test('no required results means that the first one completes', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a', requiredResults: 0 }], operatorCount: 2 });
    await tangle.submitJob(service.serviceId, JOB);
    await tangle.submitResult({ serviceId: service.serviceId, callId: 0n }, '0x', operatorOf(service, 0));
    expect(await tangle.jobCall(service.serviceId, 0n)).toMatchObject({ completed: true });
  });

  test('a batch is all or nothing', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a' }] });
    const { serviceId } = service;
    const operator = operatorOf(service, 0);
    await tangle.submitMany(serviceId, [JOB, JOB, JOB]);
    await tangle.submitResult({ serviceId, callId: 1n }, '0x01', operator);
    await reverts(tangle.write(operator, 'submitResults', [serviceId, [0n, 1n, 2n], ['0x00', '0x01', '0x02']]), 'JobAlreadyCompleted', [
      serviceId,
      1n,
    ]);
    expect(await tangle.results(serviceId)).toHaveLength(1);
    await reverts(tangle.write(operator, 'submitResults', [serviceId, [0n, 2n], ['0x00']]), 'LengthMismatch', []);
    const receipt = await tangle.write(operator, 'submitResults', [serviceId, [0n, 2n], ['0x00', '0x02']]);
    expect(
      (await tangle.results(serviceId))
        .filter((result) => result.transactionHash === receipt.transactionHash)
        .map((result) => result.callId),
    ).toEqual([0n, 2n]);
  });

  test('a batch is cheaper for each result than single submissions, by more than a fifth', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a' }] });
    const jobs = Array.from({ length: 21 }, () => JOB);
    await tangle.submitMany(service.serviceId, jobs);
    const operator = operatorOf(service, 0);
    const single = await tangle.submitResult({ serviceId: service.serviceId, callId: 20n }, `0x${'11'.repeat(32)}`, operator);
    const ids = jobs.slice(1).map((_, index) => BigInt(index));
    const batch = await tangle.write(operator, 'submitResults', [service.serviceId, ids, ids.map((): Hex => `0x${'11'.repeat(32)}`)]);
    expect(Number(batch.gasUsed) / ids.length).toBeLessThan(0.8 * Number(single.gasUsed));
  });

  test('strangers may not answer, nor may an operator that left', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a' }], operatorCount: 2 });
    const { serviceId } = service;
    await tangle.submitJob(serviceId, JOB);
    await reverts(tangle.submitResult({ serviceId, callId: 0n }, '0x', account(7)), 'OperatorNotInService', [
      serviceId,
      account(7).address,
    ]);
    await tangle.write(operatorOf(service, 1), 'leaveService', [serviceId]);
    await reverts(tangle.submitResult({ serviceId, callId: 0n }, '0x', operatorOf(service, 1)), 'OperatorNotInService', [
      serviceId,
      operatorOf(service, 1).address,
    ]);
    expect((await tangle.read('getServiceOperators', [serviceId])).map((address) => address.toLowerCase())).toEqual([
      operatorOf(service, 0).address,
    ]);
    await tangle.write(operatorOf(service, 1), 'joinService', [serviceId, 10_000]);
    await tangle.submitResult({ serviceId, callId: 0n }, '0x', operatorOf(service, 1));
  });

  test('a job that asks for aggregation refuses plain results, before anything else is looked at', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a', requiresAggregation: true }] });
    await tangle.submitJob(service.serviceId, JOB);
    await reverts(tangle.submitResult({ serviceId: service.serviceId, callId: 0n }, '0x', operatorOf(service, 0)), 'AggregationRequired', [
      service.serviceId,
      0n,
    ]);
    await reverts(tangle.submitResult({ serviceId: service.serviceId, callId: 0n }, '0x', account(7)), 'AggregationRequired', [
      service.serviceId,
      0n,
    ]);
  });

  test('a reorg gives a call id other inputs, and a result of the old ones is accepted', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a' }, { name: 'b' }] });
    const { serviceId } = service;
    const before = await tangle.submitJob(serviceId, { jobIndex: 0, inputs: '0xaaaa' });
    await chain.reorg(1, [{ transaction: tangle.jobTransaction(serviceId, { jobIndex: 1, inputs: '0xbbbb' }), block: 0 }]);
    const [after, ...others] = await tangle.calls(serviceId);
    expect(others).toEqual([]);
    expect(after).toMatchObject({ callId: before.callId, jobIndex: 1, inputs: Uint8Array.of(0xbb, 0xbb), blockNumber: before.blockNumber });
    expect(after?.blockHash).not.toBe(before.blockHash);
    await tangle.submitResult({ serviceId, callId: 0n }, '0x19', operatorOf(service, 0));
    expect(await tangle.jobCall(serviceId, 0n)).toMatchObject({ completed: true, jobIndex: 1 });
  });
});

describe('schemas', () => {
  const NUMBER_AND_TEXT = '0x0200020800000000016e1100000000086772656574696e67';
  /** One field of this kind, named `x`. */
  const one = (kind: number, arrayLength = 0, children: readonly string[] = []): string =>
    `${kind.toString(16).padStart(2, '0')}${arrayLength.toString(16).padStart(4, '0')}${children.length.toString(16).padStart(4, '0')}0178${children.join('')}`;
  const schema = (...fields: string[]): Hex => `0x02${fields.length.toString(16).padStart(4, '0')}${fields.join('')}`;
  const text = (length: number, prefix: string): Hex => `0x${prefix}${'61'.repeat(length)}`;

  const cases: readonly (readonly [what: string, schema: Hex, accepted: readonly Hex[], refused: readonly Hex[]])[] = [
    [
      'a number and a text',
      NUMBER_AND_TEXT,
      ['0x0000000000000007026869'],
      ['0x', '0x0000000000000007', '0x000000000000000702686900', '0x00000000000000070368'],
    ],
    ['a bool, whose value is not looked at', schema(one(1)), ['0x00', '0x01', '0x07'], ['0x', '0x0001']],
    [
      'integers by width',
      schema(one(2), one(5), one(6), one(9), one(10), one(13)),
      [`0x${'00'.repeat(1 + 2 + 4 + 8 + 16 + 32)}`],
      [`0x${'00'.repeat(62)}`, `0x${'00'.repeat(64)}`],
    ],
    ['an address, 32 bytes and 5 bytes', schema(one(14), one(15), one(16, 5)), [`0x${'00'.repeat(57)}`], [`0x${'00'.repeat(56)}`]],
    [
      'an optional: absent, or its length and value',
      schema(one(19, 0, [one(4)])),
      ['0x00', '0x020102'],
      ['0x01', '0x0101', '0x03010203', '0x0201'],
    ],
    ['an array of three', schema(one(20, 3, [one(2)])), ['0x010203'], ['0x0102', '0x01020304']],
    ['a list', schema(one(21, 0, [one(4)])), ['0x00', '0x020001ffff'], ['0x0200', '0x']],
    ['a list of texts', schema(one(21, 0, [one(17)])), ['0x02026869016a'], ['0x02026869']],
    ['a struct with its field count', schema(one(22, 0, [one(2), one(17)])), ['0x0207016a'], ['0x07016a', '0x0307016a']],
    [
      'a list of structs, then a number',
      schema(one(21, 0, [one(22, 0, [one(2), one(2)])]), one(2)),
      ['0x00ff', '0x02020102020304ff'],
      ['0x0202010202ff'],
    ],
    ['nothing', schema(one(0)), ['0x'], ['0x00']],
  ];

  test.each(cases)('%s', async (_what, paramsSchema, accepted, refused) => {
    const { serviceId, blueprintId } = await tangle.startService({ jobs: [{ name: 'a', paramsSchema }] });
    for (const inputs of accepted) await tangle.submitJob(serviceId, { jobIndex: 0, inputs });
    expect((await tangle.calls(serviceId)).map((call) => `0x${Buffer.from(call.inputs).toString('hex')}`)).toEqual(accepted);
    for (const inputs of refused) {
      await reverts(tangle.submitJob(serviceId, { jobIndex: 0, inputs }), 'SchemaValidationFailed', [
        2n,
        blueprintId,
        0n,
        expect.any(BigInt),
      ]);
    }
  });

  test('lengths of payloads: one byte, two bytes, or a count and that many bytes', async () => {
    const { serviceId, blueprintId } = await tangle.startService({ jobs: [{ name: 'a', paramsSchema: schema(one(17)) }] });
    const accepted = [
      text(127, '7f'),
      text(128, '8080'),
      text(16_383, 'bfff'),
      text(16_384, 'c24000'),
      text(70_000, 'c3011170'),
      text(5, 'c105'),
    ];
    for (const inputs of accepted) await tangle.write(account(0), 'submitJob', [serviceId, 0, inputs]);
    expect(await tangle.calls(serviceId)).toHaveLength(accepted.length);
    for (const inputs of [text(16_384, 'c04000'), text(70_000, 'c11170')]) {
      await reverts(tangle.submitJob(serviceId, { jobIndex: 0, inputs }), 'SchemaValidationFailed', [
        2n,
        blueprintId,
        0n,
        expect.any(BigInt),
      ]);
    }
  });

  test('results are checked against their own schema', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a', resultSchema: schema(one(12)) }] });
    const { serviceId, blueprintId } = service;
    await tangle.submitJob(serviceId, JOB);
    await reverts(tangle.submitResult({ serviceId, callId: 0n }, '0x01', operatorOf(service, 0)), 'SchemaValidationFailed', [
      3n,
      blueprintId,
      0n,
      0n,
    ]);
    await tangle.submitResult({ serviceId, callId: 0n }, `0x${'00'.repeat(31)}19`, operatorOf(service, 0));
  });
});

describe('quotes', () => {
  test('raise their own event, and only quoting operators may answer', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a' }], operatorCount: 3 });
    const { serviceId } = service;
    const quoted = [operatorOf(service, 0), operatorOf(service, 2)];
    const call = await tangle.submitJobFromQuote(serviceId, JOB, { operators: quoted, price: 100n });
    expect(call).toMatchObject({
      callId: 0n,
      jobIndex: 0,
      inputs: Uint8Array.of(0xaa, 0xaa),
      quotedOperators: quoted.map((operator) => operator.address),
    });
    expect(await logsOf([TOPIC.jobSubmitted, `0x${serviceId.toString(16).padStart(64, '0')}`], tangle.contract)).toEqual([]);
    expect(await tangle.jobCall(serviceId, 0n)).toMatchObject({ isRFQ: true, payment: 200n });
    await reverts(tangle.submitResult({ serviceId, callId: 0n }, '0x', operatorOf(service, 1)), 'NotQuotedOperator', [serviceId, 0n]);
    await tangle.submitResult({ serviceId, callId: 0n }, '0x', operatorOf(service, 2));
  });

  test('are bound to their requester, inputs, time and price, and used once', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a' }], operatorCount: 2 });
    const { serviceId } = service;
    const operators = [operatorOf(service, 0)];
    const operator = operatorOf(service, 0).address;
    await tangle.submitJobFromQuote(serviceId, JOB, { operators });
    await reverts(
      tangle.submitJobFromQuote(serviceId, JOB, { operators, timestamp: (await now()) - 3700n, expiry: (await now()) + 60n }),
      'QuoteTimestampTooOld',
      [operator, expect.any(BigInt), 3600n],
    );
    const past = (await now()) - 10n;
    await reverts(tangle.submitJobFromQuote(serviceId, JOB, { operators, expiry: past }), 'QuoteExpired', [operator, past]);
    await reverts(tangle.submitJobFromQuote(serviceId, JOB, { operators, price: 99n }), 'PaymentTooSmall', [99n, 100n]);
    await reverts(tangle.submitJobFromQuote(serviceId, JOB, { operators: [account(7)] }), 'OperatorNotInService', [
      serviceId,
      account(7).address,
    ]);
    await reverts(tangle.submitJobFromQuote(serviceId, JOB, { operators: [] }), 'NoQuotes', []);
    const timestamp = await now();
    const same = { operators, timestamp, expiry: timestamp + 60n };
    await tangle.submitJobFromQuote(serviceId, JOB, same);
    await reverts(tangle.submitJobFromQuote(serviceId, JOB, same), 'QuoteAlreadyUsed', [operator]);
  });

  test('cannot be used by another caller, for other inputs, or with a changed price', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'a' }] });
    const { serviceId } = service;
    const operator = operatorOf(service, 0);
    await tangle.write(account(0), 'addPermittedCaller', [serviceId, account(5).address]);
    const call = await tangle.submitJobFromQuote(serviceId, JOB, { operators: [operator], price: 100n });
    const sent = (await chain.request('eth_getTransactionByHash', [call.transactionHash])) as { readonly input: Hex };
    const submit =
      tangleAbi.find((item) => item.type === 'function' && item.name === 'submitJobFromQuote') ?? expect.fail('no submitJobFromQuote');
    const [, , , quotes] = decodeAbiParameters(submit.inputs, `0x${sent.input.slice(10)}`) as unknown as readonly [
      bigint,
      number,
      Hex,
      readonly [{ readonly details: { readonly price: bigint; readonly requester: Hex }; readonly signature: Hex; readonly operator: Hex }],
    ];
    const quote = quotes[0];
    // The decoded arguments go back in as they came out.
    const use = (from: LocalAccount, inputs: Hex, list: readonly unknown[], value: bigint) =>
      tangle.write({ ...from, value }, 'submitJobFromQuote', [serviceId, 0, inputs, list] as never);
    await reverts(use(account(0), '0xaaaa', [quote], 100n), 'QuoteAlreadyUsed', [operator.address]);
    await reverts(use(account(5), '0xaaaa', [quote], 100n), 'JobQuoteRequesterMismatch', [
      operator.address,
      account(5).address,
      account(0).address,
    ]);
    await reverts(use(account(0), '0xbb', [quote], 100n), 'JobQuoteInputsMismatch', [
      operator.address,
      keccak256('0xbb'),
      keccak256('0xaaaa'),
    ]);
    await reverts(use(account(0), '0xaaaa', [{ ...quote, details: { ...quote.details, price: 200n } }], 200n), 'InvalidQuoteSignature', [
      operator.address,
    ]);
    await reverts(use(account(0), '0xaaaa', [{ ...quote, signature: '0x00' }], 100n), 'InvalidQuoteSignature', [operator.address]);
  });
});

test('a contract of before can be driven again', async () => {
  const again = await attachTangle(chain, tangle);
  expect([again.masterManager, again.statusRegistry]).toEqual([tangle.masterManager, tangle.statusRegistry]);
  expect(await again.read('blueprintCount', [])).toBe(await tangle.read('blueprintCount', []));
});
