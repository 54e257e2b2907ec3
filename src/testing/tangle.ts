/** Deploys and drives the small Tangle contract of `contracts/Tangle.sol` on a local chain. */

import type { ContractFunctionArgs, ContractFunctionName, ContractFunctionReturnType } from 'viem';
import { privateKeyToAccount } from 'viem/accounts';
import { encodeFunctionData, keccak256 } from 'viem/utils';
import { TOPIC, statusRegistryAbi, tangleAbi } from '../chain/contracts.ts';
import { decodeJobCall, decodeSubmittedResult } from '../chain/decode.ts';
import type { SubmittedResult } from '../chain/decode.ts';
import { encodeCall } from '../chain/view.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import { definition, deployManager } from './blueprint-definition.ts';
import type { BlueprintSpec } from './blueprint-definition.ts';
import { ContractNode, ZERO_ADDRESS, lower } from './contract-node.ts';
import type { LocalReceipt, NodeChain } from './contract-node.ts';
import { JOB_SPAMMER_BYTECODE, TANGLE_BYTECODE } from './contracts/tangle-artifact.ts';
import type { LocalAccount } from './local-chain.ts';

/** How many calls `submitMany` puts into one transaction: 100 calls of 32 bytes are about 7 million gas. */
const CALLS_PER_TRANSACTION = 100;

const spammerAbi = [
  {
    type: 'function',
    name: 'submit',
    stateMutability: 'nonpayable',
    inputs: [
      { name: 'tangle', type: 'address' },
      { name: 'serviceId', type: 'uint64' },
      { name: 'jobIndexes', type: 'uint8[]' },
      { name: 'inputs', type: 'bytes[]' },
    ],
    outputs: [],
  },
] as const;

/** What the small contract has besides the interface. */
const extraAbi = [
  { type: 'function', name: 'masterManager', stateMutability: 'view', inputs: [], outputs: [{ name: '', type: 'address' }] },
  { type: 'function', name: 'pause', stateMutability: 'nonpayable', inputs: [], outputs: [] },
  { type: 'function', name: 'unpause', stateMutability: 'nonpayable', inputs: [], outputs: [] },
] as const;

type TangleAbi = typeof tangleAbi;
type ViewName = ContractFunctionName<TangleAbi, 'view'>;
type WriteName = ContractFunctionName<TangleAbi, 'nonpayable' | 'payable'>;

export interface ServiceSpec {
  readonly blueprintId: bigint;
  readonly operators: readonly LocalAccount[];
  /** Owns the service and may call it; default account 0. */
  readonly requester?: LocalAccount;
  readonly permittedCallers?: readonly Address[];
  /** Default 0: for ever. At least 3600 otherwise. */
  readonly ttlSeconds?: bigint;
}

export interface LocalService {
  readonly blueprintId: bigint;
  readonly serviceId: bigint;
  readonly operators: readonly LocalAccount[];
}

export interface JobInput {
  readonly jobIndex: number;
  readonly inputs: Hex | Uint8Array;
}

export interface QuoteOptions {
  readonly operators: readonly LocalAccount[];
  /** Of each operator, wei: 0 or at least 100. Default 0. */
  readonly price?: bigint;
  readonly requester?: LocalAccount;
  /** Seconds; default: the time of the latest block. */
  readonly timestamp?: bigint;
  /** Seconds; default: an hour or more after `timestamp`, another one for each quote. */
  readonly expiry?: bigint;
}

/** Names a call; a ChainCall does. */
export interface CallName {
  readonly serviceId: bigint;
  readonly callId: bigint;
}

/** An account, and the wei that it sends along. */
export type Payer = LocalAccount & { readonly value?: bigint };

export interface TangleAddresses {
  readonly contract: Address;
  readonly spammer: Address;
}

export interface LocalTangle extends TangleAddresses {
  readonly masterManager: Address;
  readonly statusRegistry: Address;
  createBlueprint(spec: BlueprintSpec): Promise<bigint>;
  registerOperator(blueprintId: bigint, operator: LocalAccount, rpcAddress?: string): Promise<void>;
  /** Requests a service and has all its operators approve it. They must be registered. */
  createService(spec: ServiceSpec): Promise<bigint>;
  /** A blueprint with these jobs, its operators (accounts 1 to n, default 1) and an active service. */
  startService(spec: BlueprintSpec & { readonly operatorCount?: number }): Promise<LocalService>;
  submitJob(serviceId: bigint, job: JobInput, from?: LocalAccount): Promise<ChainCall>;
  /** Many calls in few transactions, a hundred in each. Resolves with the call ids in the order given. */
  submitMany(serviceId: bigint, jobs: readonly JobInput[]): Promise<bigint[]>;
  /** A call that only the quoting operators may answer. */
  submitJobFromQuote(serviceId: bigint, job: JobInput, quote: QuoteOptions): Promise<ChainCall>;
  submitResult(call: CallName, output: Hex | Uint8Array, operator: LocalAccount): Promise<LocalReceipt>;
  /** Every JobSubmitted and JobSubmittedFromQuote of a service, in order. */
  calls(serviceId: bigint): Promise<ChainCall[]>;
  /** Every JobResultSubmitted of a service, in order. */
  results(serviceId: bigint): Promise<SubmittedResult[]>;
  jobCall(serviceId: bigint, callId: bigint): Promise<ContractFunctionReturnType<TangleAbi, 'view', 'getJobCall'>>;
  /** A submitJob as the parameter of eth_sendTransaction or of `LocalChain.reorg`. */
  jobTransaction(
    serviceId: bigint,
    job: JobInput,
    from?: LocalAccount,
  ): { readonly from: Address; readonly to: Address; readonly data: Hex; readonly gas: Hex };
  /** While it is paused every write reverts with EnforcedPause. */
  setPaused(paused: boolean): Promise<void>;
  /** Whether an operator is online, from the registry of heartbeats. */
  isOnline(serviceId: bigint, operator: Address): Promise<boolean>;
  read<const N extends ViewName>(
    name: N,
    args: ContractFunctionArgs<TangleAbi, 'view', N>,
  ): Promise<ContractFunctionReturnType<TangleAbi, 'view', N>>;
  write<const N extends WriteName>(
    from: Payer,
    name: N,
    args: ContractFunctionArgs<TangleAbi, 'nonpayable' | 'payable', N>,
  ): Promise<LocalReceipt>;
}

/**
 * Deploys the contract with account 0. Transactions are sent through the accounts that the node holds, which gives them their nonces:
 * any number may be under way at once. Each waits until it is mined, so the chain must mine by itself.
 *
 * A revert rejects with `RPC_ERROR`; `details.error` is the name of the contract's error, `details.args` its arguments.
 *
 * @example
 * const chain = await startLocalChain();
 * const tangle = await deployTangle(chain);
 * const { serviceId } = await tangle.startService({ jobs: [{ name: 'square' }] });
 * const call = await tangle.submitJob(serviceId, { jobIndex: 0, inputs: '0x05' });
 */
export async function deployTangle(chain: NodeChain): Promise<LocalTangle> {
  const node = new ContractNode(chain);
  const contract = await node.deploy(TANGLE_BYTECODE);
  const spammer = await node.deploy(JOB_SPAMMER_BYTECODE);
  return attachTangle(chain, { contract, spammer });
}

/** Drives a contract that was deployed before, for instance one of a loaded state. */
export async function attachTangle(chain: NodeChain, addresses: TangleAddresses): Promise<LocalTangle> {
  const node = new ContractNode(chain);
  const masterManager = await node.read(addresses.contract, { abi: extraAbi, name: 'masterManager', args: [] });
  const statusRegistry = await node.read(addresses.contract, { abi: tangleAbi, name: 'operatorStatusRegistry', args: [] });
  return new Driver(node, { ...addresses, masterManager: lower(masterManager), statusRegistry: lower(statusRegistry) });
}

class Driver implements LocalTangle {
  readonly contract: Address;
  readonly spammer: Address;
  readonly masterManager: Address;
  readonly statusRegistry: Address;
  readonly #node: ContractNode;
  /** Makes equal quotes differ: each can be used once. */
  #quotes = 0n;

  constructor(node: ContractNode, addresses: TangleAddresses & Pick<LocalTangle, 'masterManager' | 'statusRegistry'>) {
    this.#node = node;
    this.contract = addresses.contract;
    this.spammer = addresses.spammer;
    this.masterManager = addresses.masterManager;
    this.statusRegistry = addresses.statusRegistry;
  }

  async createBlueprint(spec: BlueprintSpec): Promise<bigint> {
    const managed = spec.jobs.some((job) => job.requiredResults !== undefined || job.requiresAggregation === true);
    const manager = managed ? await this.#node.deploy(deployManager(spec.jobs)) : ZERO_ADDRESS;
    const receipt = await this.write(spec.owner ?? this.#node.account(0), 'createBlueprint', [definition(spec, manager)]);
    return BigInt(topicsOf(receipt, TOPIC.blueprintCreated)[1] ?? 0);
  }

  async registerOperator(blueprintId: bigint, operator: LocalAccount, rpcAddress = 'http://127.0.0.1:9000'): Promise<void> {
    const { publicKey } = privateKeyToAccount(operator.privateKey);
    await this.write(operator, 'registerOperator', [blueprintId, publicKey, rpcAddress]);
  }

  async createService(spec: ServiceSpec): Promise<bigint> {
    const callers = [this.spammer, ...(spec.permittedCallers ?? [])];
    const operators = spec.operators.map((operator) => operator.address);
    const request = await this.write(spec.requester ?? this.#node.account(0), 'requestService', [
      spec.blueprintId,
      operators,
      '0x',
      callers,
      spec.ttlSeconds ?? 0n,
      ZERO_ADDRESS,
      0n,
      0,
    ]);
    const requestId = BigInt(topicsOf(request, '0x')[1] ?? 0);
    const params = {
      requestId,
      securityCommitments: [],
      blsPubkey: [0n, 0n, 0n, 0n],
      blsPopSignature: [0n, 0n],
      teeCommitments: [],
    } as const;
    const receipts = await Promise.all(spec.operators.map((operator) => this.write(operator, 'approveService', [params])));
    return BigInt(receipts.map((receipt) => topicsOf(receipt, TOPIC.serviceActivated)[1]).find((topic) => topic !== undefined) ?? 0);
  }

  async startService(spec: BlueprintSpec & { readonly operatorCount?: number }): Promise<LocalService> {
    const blueprintId = await this.createBlueprint(spec);
    const operators = Array.from({ length: spec.operatorCount ?? 1 }, (_, index) => this.#node.account(index + 1));
    await Promise.all(operators.map((operator) => this.registerOperator(blueprintId, operator)));
    return { blueprintId, serviceId: await this.createService({ blueprintId, operators }), operators };
  }

  async submitJob(serviceId: bigint, job: JobInput, from = this.#node.account(0)): Promise<ChainCall> {
    const { pricing, blueprintId } = await this.read('getService', [serviceId]);
    const value = pricing === 2 ? (await this.read('getBlueprintConfig', [blueprintId])).eventRate : 0n;
    return this.#call(await this.write({ ...from, value }, 'submitJob', [serviceId, job.jobIndex, hexOf(job.inputs)]));
  }

  async submitMany(serviceId: bigint, jobs: readonly JobInput[]): Promise<bigint[]> {
    const ids: bigint[] = [];
    for (let start = 0; start < jobs.length; start += CALLS_PER_TRANSACTION) {
      const part = jobs.slice(start, start + CALLS_PER_TRANSACTION);
      const indexes = part.map((job) => job.jobIndex);
      const inputs = part.map((job) => hexOf(job.inputs));
      const data = encodeFunctionData({ abi: spammerAbi, functionName: 'submit', args: [this.contract, serviceId, indexes, inputs] });
      const receipt = await this.#node.send('submitMany', { from: this.#node.account(0).address, to: this.spammer, data });
      for (const log of receipt.logs) ids.push(this.#decode(log).callId);
    }
    return ids;
  }

  async submitJobFromQuote(serviceId: bigint, job: JobInput, quote: QuoteOptions): Promise<ChainCall> {
    const requester = quote.requester ?? this.#node.account(0);
    const price = quote.price ?? 0n;
    const timestamp = quote.timestamp ?? (await this.#node.blockTimestamp());
    const inputs = hexOf(job.inputs);
    const details = {
      requester: requester.address,
      serviceId,
      jobIndex: job.jobIndex,
      price,
      timestamp,
      expiry: quote.expiry ?? timestamp + 3600n + this.#quotes++,
      confidentiality: 0,
      inputsHash: keccak256(inputs),
    };
    const quotes = await Promise.all(
      quote.operators.map(async (operator) => ({
        details,
        operator: operator.address,
        signature: await signQuote(operator, details, this.#domain()),
      })),
    );
    const receipt = await this.write({ ...requester, value: price * BigInt(quotes.length) }, 'submitJobFromQuote', [
      serviceId,
      job.jobIndex,
      inputs,
      quotes,
    ]);
    return this.#call(receipt);
  }

  submitResult(call: CallName, output: Hex | Uint8Array, operator: LocalAccount): Promise<LocalReceipt> {
    return this.write(operator, 'submitResult', [call.serviceId, call.callId, hexOf(output)]);
  }

  async calls(serviceId: bigint): Promise<ChainCall[]> {
    const logs = await this.#node.logs(this.contract, [[TOPIC.jobSubmitted, TOPIC.jobSubmittedFromQuote], word(serviceId)]);
    return logs.map((log) => this.#decode(log));
  }

  async results(serviceId: bigint): Promise<SubmittedResult[]> {
    const logs = await this.#node.logs(this.contract, [TOPIC.jobResultSubmitted, word(serviceId)]);
    return logs.map((log) => decodeSubmittedResult(log, { chainId: this.#node.chainId, contract: this.contract }));
  }

  jobCall(serviceId: bigint, callId: bigint): Promise<ContractFunctionReturnType<TangleAbi, 'view', 'getJobCall'>> {
    return this.read('getJobCall', [serviceId, callId]);
  }

  jobTransaction(serviceId: bigint, job: JobInput, from = this.#node.account(0)): { from: Address; to: Address; data: Hex; gas: Hex } {
    const data = encodeFunctionData({ abi: tangleAbi, functionName: 'submitJob', args: [serviceId, job.jobIndex, hexOf(job.inputs)] });
    return { from: from.address, to: this.contract, data, gas: '0xf4240' };
  }

  async setPaused(paused: boolean): Promise<void> {
    const data = encodeFunctionData({ abi: extraAbi, functionName: paused ? 'pause' : 'unpause' });
    await this.#node.send('setPaused', { from: this.#node.account(0).address, to: this.contract, data });
  }

  isOnline(serviceId: bigint, operator: Address): Promise<boolean> {
    return this.#node.read(this.statusRegistry, { abi: statusRegistryAbi, name: 'isOnline', args: [serviceId, operator] });
  }

  read<const N extends ViewName>(
    name: N,
    args: ContractFunctionArgs<TangleAbi, 'view', N>,
  ): Promise<ContractFunctionReturnType<TangleAbi, 'view', N>> {
    return this.#node.read(this.contract, { abi: tangleAbi, name, args });
  }

  write<const N extends WriteName>(
    from: Payer,
    name: N,
    args: ContractFunctionArgs<TangleAbi, 'nonpayable' | 'payable', N>,
  ): Promise<LocalReceipt> {
    const { address, value = 0n } = from;
    return this.#node.send(name, { from: address, to: this.contract, data: encodeCall(tangleAbi, name, args), value });
  }

  #domain(): { name: string; version: string; chainId: number; verifyingContract: Address } {
    return { name: 'TangleQuote', version: '1', chainId: this.#node.chainId, verifyingContract: this.contract };
  }

  #decode(log: unknown): ChainCall {
    return decodeJobCall(log, { chainId: this.#node.chainId, contract: this.contract });
  }

  #call(receipt: LocalReceipt): ChainCall {
    return this.#decode(receipt.logs.find((log) => isLog(log, this.contract)));
  }
}

interface QuoteDetails {
  readonly requester: Address;
  readonly serviceId: bigint;
  readonly jobIndex: number;
  readonly price: bigint;
  readonly timestamp: bigint;
  readonly expiry: bigint;
  readonly confidentiality: number;
  readonly inputsHash: Hex;
}

const quoteFields = tangleAbi
  .flatMap((item) => (item.type === 'function' && item.name === 'submitJobFromQuote' ? item.inputs[3].components[0].components : []))
  .map(({ name, type }) => ({ name, type }));

function signQuote(
  operator: LocalAccount,
  details: QuoteDetails,
  domain: { name: string; version: string; chainId: number; verifyingContract: Address },
): Promise<Hex> {
  const typed = { domain, types: { JobQuoteDetails: quoteFields }, primaryType: 'JobQuoteDetails' as const, message: { ...details } };
  return privateKeyToAccount(operator.privateKey).signTypedData(typed);
}

/** Topics of the first log of this event, or of the first log at all for `0x`. */
function topicsOf(receipt: LocalReceipt, topic: Hex): readonly Hex[] {
  const logs = receipt.logs as readonly { readonly topics: readonly Hex[] }[];
  return logs.find((log) => topic === '0x' || log.topics[0] === topic)?.topics ?? [];
}

function isLog(log: unknown, contract: Address): boolean {
  const { address, topics } = log as { readonly address: string; readonly topics: readonly Hex[] };
  return address.toLowerCase() === contract && (topics[0] === TOPIC.jobSubmitted || topics[0] === TOPIC.jobSubmittedFromQuote);
}

function word(value: bigint): Hex {
  return `0x${value.toString(16).padStart(64, '0')}`;
}

function hexOf(value: Hex | Uint8Array): Hex {
  return typeof value === 'string' ? value : `0x${Buffer.from(value).toString('hex')}`;
}
