import { encodeAbiParameters, keccak256, toFunctionSelector } from 'viem/utils';
import { privateKeyToAccount } from 'viem/accounts';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Receipt, TransactionRequest, TransactionSender } from '../../src/chain/chain.ts';
import { statusRegistryAbi } from '../../src/chain/contracts.ts';
import { readOperator } from '../../src/chain/metadata.ts';
import type { HeartbeatOptions, HeartbeatReport, RegistrationOutcome } from '../../src/chain/operator.ts';
import { heartbeat, operatorRegistration, registerOperator } from '../../src/chain/operator.ts';
import { readView } from '../../src/chain/view.ts';
import { RunnerError, isRunnerError } from '../../src/errors.ts';
import type { Hex } from '../../src/job/call.ts';
import { ContractNode } from '../../src/testing/contract-node.ts';
import { FakeClock } from '../../src/testing/fake-clock.ts';
import type { LocalAccount, LocalChain, LocalTangle } from '../../src/testing/testing.ts';
import { deployTangle, startLocalChain } from '../../src/testing/testing.ts';

let chain: LocalChain;
let tangle: LocalTangle;

beforeAll(async () => {
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
});
afterAll(() => chain.stop());

const account = (index: number): LocalAccount => chain.accounts[index] ?? expect.fail(`no account ${index}`);
const publicKeyOf = (of: LocalAccount): Hex => privateKeyToAccount(of.privateKey).publicKey;
const newBlueprint = () => tangle.createBlueprint({ jobs: [{ name: 'a' }] });

/** Sends through the node, and refuses as settlement does. */
class NodeSender implements TransactionSender {
  readonly address;
  readonly #node = new ContractNode(chain);
  sent = 0;

  constructor(from: LocalAccount) {
    this.address = from.address;
  }

  async send(request: TransactionRequest): Promise<Receipt> {
    try {
      const mined = await this.#node.send('transaction', { from: this.address, to: request.to, data: request.data });
      this.sent++;
      const { transactionHash, blockNumber: number, blockHash: hash, gasUsed } = mined;
      return { transactionHash, block: { number, hash }, success: true, gasUsed, effectiveGasPrice: 0n };
    } catch (thrown) {
      if (!isRunnerError(thrown) || thrown.details['error'] === undefined) throw thrown;
      throw new RunnerError('RESULT_REJECTED', thrown.message, { details: { error: thrown.details['error'] } });
    }
  }
}

describe('registration', () => {
  const registration = (blueprintId: bigint, of: LocalAccount, rpcAddress = 'http://one') => ({
    request: chain.request,
    contract: tangle.contract,
    blueprintId,
    sender: new NodeSender(of),
    publicKey: publicKeyOf(of),
    rpcAddress,
  });

  test('registers once; again it is fine and costs no transaction', async () => {
    const blueprintId = await newBlueprint();
    const options = registration(blueprintId, account(1));
    expect(await registerOperator(options)).toBe('registered');
    expect(await tangle.read('isOperatorRegistered', [blueprintId, account(1).address])).toBe(true);
    expect(await registerOperator(options)).toBe('already-registered');
    expect(options.sender.sent).toBe(1);
  });

  test('tells a new address, once', async () => {
    const blueprintId = await newBlueprint();
    await registerOperator(registration(blueprintId, account(1), 'http://one'));
    const moved = registration(blueprintId, account(1), 'http://two');
    expect(await registerOperator(moved)).toBe('updated');
    expect(await readOperator(chain.request, tangle.contract, { blueprintId, operator: account(1).address })).toMatchObject({
      rpcAddress: 'http://two',
    });
    expect(await registerOperator(moved)).toBe('already-registered');
    expect(moved.sender.sent).toBe(1);
  });

  test('tells a new key', async () => {
    const blueprintId = await newBlueprint();
    const options = registration(blueprintId, account(1));
    await registerOperator(options);
    expect(await registerOperator({ ...options, publicKey: publicKeyOf(account(8)) })).toBe('updated');
    expect((await tangle.read('getOperatorPreferences', [blueprintId, account(1).address])).ecdsaPublicKey).toBe(publicKeyOf(account(8)));
  });

  test('leaves an address alone that the endpoint does not show', async () => {
    const blueprintId = await newBlueprint();
    await registerOperator(registration(blueprintId, account(1), 'http://one'));
    const options = registration(blueprintId, account(1), 'http://two');
    const request = (method: string, params: readonly unknown[]) =>
      method === 'eth_getLogs' ? Promise.reject(new RunnerError('RPC_ERROR', 'too large')) : chain.request(method, params);
    expect(await registerOperator({ ...options, request })).toBe('already-registered');
    expect(options.sender.sent).toBe(0);
  });

  test('takes it as done when another process of the operator was faster', async () => {
    const blueprintId = await newBlueprint();
    const options = registration(blueprintId, account(1));
    const sender: TransactionSender = {
      address: account(1).address,
      async send(request) {
        await tangle.registerOperator(blueprintId, account(1));
        return options.sender.send(request);
      },
    };
    expect(await registerOperator({ ...options, sender })).toBe('already-registered');
  });

  test('sends registration inputs when the blueprint asks for them', async () => {
    const blueprintId = await newBlueprint();
    expect(await registerOperator({ ...registration(blueprintId, account(1)), registrationInputs: Uint8Array.of(1, 2, 3) })).toBe(
      'registered',
    );
  });

  test('a dry run asks the contract and sends nothing', async () => {
    const blueprintId = await newBlueprint();
    const options = { ...registration(blueprintId, account(1)), dryRun: true };
    expect(await registerOperator(options)).toBe('dry-run');
    expect(await tangle.read('isOperatorRegistered', [blueprintId, account(1).address])).toBe(false);
    await tangle.registerOperator(blueprintId, account(2));
    const taken = { ...options, publicKey: publicKeyOf(account(2)) };
    await expect(registerOperator(taken)).rejects.toMatchObject({
      code: 'REGISTRATION_FAILED',
      details: { error: 'DuplicateOperatorKey' },
    });
    await tangle.registerOperator(blueprintId, account(1), 'http://old');
    expect(await registerOperator(options)).toBe('dry-run');
    expect(options.sender.sent).toBe(0);
  });

  test('a refusal is an error with the reason of the contract, and ends the service', async () => {
    const service = operatorRegistration(registration(9999n, account(1)));
    await expect(service.run(new AbortController().signal)).rejects.toMatchObject({
      code: 'REGISTRATION_FAILED',
      message: expect.stringContaining('BlueprintNotFound'),
      details: { error: 'BlueprintNotFound' },
    });
  });

  test('the service goes on trying while the contract is paused, and ends when it has registered', async () => {
    const blueprintId = await newBlueprint();
    const clock = new FakeClock();
    const outcomes: RegistrationOutcome[] = [];
    await tangle.setPaused(true);
    const done = operatorRegistration({
      ...registration(blueprintId, account(1)),
      clock,
      onOutcome: (outcome) => outcomes.push(outcome),
    }).run(new AbortController().signal);
    await expect.poll(() => clock.pending).toBe(1);
    await tangle.setPaused(false);
    await clock.advance(1000);
    await done;
    expect(outcomes).toEqual(['registered']);
  });
});

describe('heartbeat', () => {
  const chainTimeMs = async (): Promise<number> => {
    const block = (await chain.request('eth_getBlockByNumber', ['latest', false])) as { readonly timestamp: Hex };
    return 1000 * Number(block.timestamp);
  };
  const lastHeartbeat = (serviceId: bigint, operator: LocalAccount) =>
    readView(chain.request, tangle.statusRegistry, {
      abi: statusRegistryAbi,
      name: 'getOperatorState',
      args: [serviceId, operator.address],
    });

  /** Runs the service for one beat. */
  const beatOnce = async (
    options: Partial<HeartbeatOptions> & Pick<HeartbeatOptions, 'serviceId' | 'blueprintId' | 'sender'>,
  ): Promise<HeartbeatReport> => {
    const stop = new AbortController();
    const first = Promise.withResolvers<HeartbeatReport>();
    const clock = new FakeClock({ startMs: await chainTimeMs() });
    const done = heartbeat({ request: chain.request, contract: tangle.contract, clock, onBeat: first.resolve, ...options }).run(
      stop.signal,
    );
    const report = await first.promise;
    stop.abort();
    await done;
    return report;
  };
  const submitted = async (report: HeartbeatReport): Promise<Hex> => {
    const hash = report.ok ? report.transactionHash : expect.fail(report.error.message);
    const transaction = (await chain.request('eth_getTransactionByHash', [hash])) as { readonly input: Hex };
    return transaction.input.slice(0, 10) as Hex;
  };
  const SIGNED = toFunctionSelector('submitHeartbeat(uint64,uint64,uint8,bytes,uint64,bytes)');

  test('brings the operator online, signed with the time of the chain', async () => {
    const { serviceId, blueprintId, operators } = await tangle.startService({ jobs: [{ name: 'a' }] });
    const [operator = expect.fail('no operator')] = operators;
    expect(await tangle.isOnline(serviceId, operator.address)).toBe(false);
    const metrics = [{ name: 'jobs', value: 7n }];
    const signer = privateKeyToAccount(operator.privateKey);
    const report = await beatOnce({ serviceId, blueprintId, sender: new NodeSender(operator), signer, metrics: () => metrics });
    expect(report).toMatchObject({ ok: true });
    expect(await tangle.isOnline(serviceId, operator.address)).toBe(true);
    const encoded = encodeAbiParameters(
      [
        {
          type: 'tuple[]',
          components: [
            { name: 'name', type: 'string' },
            { name: 'value', type: 'uint256' },
          ],
        },
      ],
      [metrics],
    );
    expect(await lastHeartbeat(serviceId, operator)).toMatchObject({
      consecutiveBeats: 1n,
      status: 0,
      lastMetricsHash: keccak256(encoded),
    });
    expect(report).toMatchObject({ metricsHash: keccak256(encoded) });
    expect(await submitted(report)).toBe(SIGNED);
  });

  test('is accepted although the wall clock of the operator is wrong', async () => {
    const { serviceId, blueprintId, operators } = await tangle.startService({ jobs: [{ name: 'a' }] });
    const [operator = expect.fail('no operator')] = operators;
    const signer = privateKeyToAccount(operator.privateKey);
    for (const wrongByMs of [-3_600_000, 3_600_000]) {
      const clock = new FakeClock({ startMs: (await chainTimeMs()) + wrongByMs });
      expect(await beatOnce({ serviceId, blueprintId, sender: new NodeSender(operator), signer, clock })).toMatchObject({ ok: true });
    }
  });

  test('is accepted after the chain stood still', async () => {
    const { serviceId, blueprintId, operators } = await tangle.startService({ jobs: [{ name: 'a' }] });
    const [operator = expect.fail('no operator')] = operators;
    const startMs = (await chainTimeMs()) + 1_000_000;
    await chain.request('evm_setNextBlockTimestamp', [startMs / 1000]);
    const signer = privateKeyToAccount(operator.privateKey);
    const report = await beatOnce({ serviceId, blueprintId, sender: new NodeSender(operator), signer, clock: new FakeClock({ startMs }) });
    expect(report).toMatchObject({ ok: true });
    expect(await submitted(report)).not.toBe(SIGNED);
  });

  test('degraded is online, and three missed intervals are offline', async () => {
    const { serviceId, blueprintId, operators } = await tangle.startService({ jobs: [{ name: 'a' }] });
    const [operator = expect.fail('no operator')] = operators;
    expect(await beatOnce({ serviceId, blueprintId, sender: new NodeSender(operator), status: () => 1 })).toMatchObject({ ok: true });
    expect(await lastHeartbeat(serviceId, operator)).toMatchObject({ status: 1 });
    expect(await tangle.isOnline(serviceId, operator.address)).toBe(true);
    await chain.request('evm_increaseTime', [901]);
    await chain.mine();
    expect(await tangle.isOnline(serviceId, operator.address)).toBe(false);
  });

  test('of somebody who is no operator of the service is refused with the reason', async () => {
    const { serviceId, blueprintId } = await tangle.startService({ jobs: [{ name: 'a' }] });
    for (const dryRun of [false, true]) {
      const report = await beatOnce({ serviceId, blueprintId, sender: new NodeSender(account(7)), dryRun });
      expect(report).toMatchObject({
        ok: false,
        failures: 1,
        error: { code: 'HEARTBEAT_FAILED', details: { error: 'NotRegisteredOperator' } },
      });
    }
  });

  test('a dry run asks the contract and sends nothing', async () => {
    const { serviceId, blueprintId, operators } = await tangle.startService({ jobs: [{ name: 'a' }] });
    const [operator = expect.fail('no operator')] = operators;
    const sender = new NodeSender(operator);
    const report = await beatOnce({ serviceId, blueprintId, sender, signer: privateKeyToAccount(operator.privateKey), dryRun: true });
    expect(report).toMatchObject({ ok: true });
    expect(report).not.toHaveProperty('transactionHash');
    expect([sender.sent, await tangle.isOnline(serviceId, operator.address)]).toEqual([0, false]);
  });

  test('the registry refuses what is signed by another account, too old, or ahead of the chain', async () => {
    const { serviceId, blueprintId, operators } = await tangle.startService({ jobs: [{ name: 'a' }] });
    const [operator = expect.fail('no operator')] = operators;
    const other = privateKeyToAccount(account(7).privateKey);
    const signer = {
      address: operator.address,
      signTypedData: (data: Parameters<typeof other.signTypedData>[0]) => other.signTypedData(data),
    };
    expect(await beatOnce({ serviceId, blueprintId, sender: new NodeSender(operator), signer })).toMatchObject({
      ok: false,
      error: { details: { error: 'InvalidSignature' } },
    });
    for (const [shift, error] of [
      [-301, 'HeartbeatStale'],
      [1000, 'HeartbeatFromFuture'],
    ] as const) {
      // An endpoint that tells another time.
      const request = async (method: string, params: readonly unknown[]) => {
        const answer = await chain.request(method, params);
        if (method !== 'eth_getBlockByNumber') return answer;
        const block = answer as { readonly timestamp: Hex };
        return { ...block, timestamp: `0x${(Number(block.timestamp) + shift).toString(16)}` };
      };
      const clock = new FakeClock({ startMs: (await chainTimeMs()) + shift * 1000 });
      const report = await beatOnce({
        serviceId,
        blueprintId,
        sender: new NodeSender(operator),
        signer: privateKeyToAccount(operator.privateKey),
        request,
        clock,
      });
      expect(report).toMatchObject({ ok: false, error: { code: 'HEARTBEAT_FAILED', details: { error } } });
    }
  });
});
