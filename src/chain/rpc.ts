/** The real chain, through JSON-RPC. */

import type { Clock } from '../clock.ts';
import { systemClock } from '../clock.ts';
import { RunnerError, isRunnerError, toRunnerError } from '../errors.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import type { BlockRef } from '../ledger/ledger.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import { blockByNumber, hex, isRangeRefusal, valueOrThrow } from './call-reader.ts';
import type {
  BlueprintMetadata,
  ChainClient,
  ChainUpdate,
  FeeEstimate,
  FollowOptions,
  OperatorState,
  Receipt,
  ResultBatch,
  SendOutcome,
  ServiceState,
  Simulation,
  TransactionRequest,
} from './chain.ts';
import { TOPIC, decodeRevert } from './contracts.ts';
import { decodeJobCall } from './decode.ts';
import { followChain } from './follow.ts';
import type { FollowSettings } from './follow.ts';
import { parseHeader } from './heads.ts';
import { encodeResults } from './results-encoding.ts';
import { checkChainId, countOf, isRevert, parseReceipt, priorityFee, quantityOf, revertData, sendOutcome } from './rpc-answers.ts';
import { GatheredCalls, createRpcTransport } from './transport.ts';
import type { RpcTransport, RpcTransportOptions } from './transport.ts';

type FollowTuning = Pick<
  FollowSettings,
  | 'pollIntervalMs'
  | 'pushCheckMs'
  | 'rangeBlocks'
  | 'rangeBlocksMax'
  | 'unsettledDepth'
  | 'trailBlocks'
  | 'maxReorgDepth'
  | 'callsPerUpdate'
>;
type TransportTuning = Pick<
  RpcTransportOptions,
  'timeoutMs' | 'responseBytesMax' | 'batchMax' | 'connections' | 'healthCheckMs' | 'staleBlocks' | 'asideMs'
>;

export interface RpcChainClientOptions extends FollowTuning, TransportTuning {
  /** http: or https:. Of several the first that works is used. */
  readonly rpcUrl: string | readonly string[];
  /** ws: or wss:. New blocks are announced here; without it they are polled. */
  readonly wsUrl?: string;
  /** Sent to all endpoints, the websocket too; never shown. */
  readonly headers?: Readonly<Record<string, string>>;
  /** The Tangle contract. */
  readonly contract: Address;
  /** Endpoints of another chain are not used. Without it the chain is the one that the first endpoint serves. */
  readonly chainId?: number;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
}

/**
 * Asks nothing before it is used. Then it checks once that the chain is the configured one and the contract exists: every method
 * rejects with `CHAIN_MISMATCH` or `CONTRACT_MISSING` when not.
 *
 * @example
 * const chain = new RpcChainClient({ rpcUrl: 'https://rpc.example', contract: '0x8299d60f373f3a4a8c4878e335cb9d840e6e3730', chainId: 84532 });
 * const { number } = await chain.head();
 * await chain.close();
 */
export class RpcChainClient implements ChainClient {
  readonly source = 'rpc';
  readonly contract: Address;
  /** JSON-RPC over the same endpoints, for whatever else is needed. */
  readonly transport: RpcTransport;
  readonly #options: RpcChainClientOptions;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #gathered: GatheredCalls;
  #chainId: number | undefined;
  #connected: Promise<void> | undefined;

  constructor(options: RpcChainClientOptions) {
    if (!/^0x[0-9a-fA-F]{40}$/.test(options.contract))
      throw new RunnerError('CONFIG_INVALID', `${options.contract} is not the address of a contract`);
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#telemetry = options.telemetry ?? silentTelemetry;
    this.#chainId = options.chainId;
    this.contract = options.contract.toLowerCase() as Address; // as: matched above
    const { rpcUrl, ...tuning } = options;
    this.transport = createRpcTransport({ ...tuning, urls: typeof rpcUrl === 'string' ? [rpcUrl] : rpcUrl });
    this.#gathered = new GatheredCalls(this.transport);
  }

  /** Throws `STATE_INVALID` when no chain id was configured and none was read yet: `connect` reads it. */
  get chainId(): number {
    if (this.#chainId === undefined)
      throw new RunnerError('STATE_INVALID', 'the chain id is not known yet: configure chainId, or wait for connect()');
    return this.#chainId;
  }

  /** Checks chain and contract, once; every other method does it by itself. */
  connect(): Promise<void> {
    this.#connected ??= this.#connect().catch((error: unknown) => {
      this.#connected = undefined;
      throw error;
    });
    return this.#connected;
  }

  async #connect(): Promise<void> {
    const answers = await this.transport.batch([
      { method: 'eth_chainId', params: [] },
      { method: 'eth_getCode', params: [this.contract, 'latest'] },
    ]);
    const [chainId, code] = answers.map(valueOrThrow);
    const served = checkChainId(chainId, this.#chainId);
    if (typeof code !== 'string' || code.length <= 2) {
      throw new RunnerError('CONTRACT_MISSING', `there is no contract at ${this.contract} on chain ${served}`, {
        details: { contract: this.contract, chainId: served },
      });
    }
    this.#chainId = served;
  }

  async *follow(options: FollowOptions): AsyncGenerator<ChainUpdate, void, undefined> {
    if (!(await this.#connectWhenPossible(options.signal))) return;
    const { wsUrl, headers, rpcUrl: _, ...tuning } = this.#options;
    yield* followChain(
      {
        ...tuning,
        transport: this.transport,
        chainId: this.chainId,
        contract: this.contract,
        ...(wsUrl !== undefined && { wsUrl }),
        ...(headers && { wsHeaders: headers }),
        clock: this.#clock,
        telemetry: this.#telemetry,
      },
      options,
    );
  }

  /** False when the signal fired first. Rejects when waiting would not help. */
  async #connectWhenPossible(signal: AbortSignal): Promise<boolean> {
    for (let backoffMs = 250; !signal.aborted; backoffMs = Math.min(5000, backoffMs * 2)) {
      try {
        await this.connect();
        return true;
      } catch (thrown) {
        const { code, message } = toRunnerError(thrown);
        if (code === 'CHAIN_MISMATCH' || code === 'CONTRACT_MISSING') throw thrown;
        this.#telemetry.log.warn('the chain cannot be reached: trying again', { code, error: message });
        await this.#clock.sleep(backoffMs, signal).catch(() => undefined);
      }
    }
    return false;
  }

  async head(): Promise<BlockRef & { readonly timestamp: bigint }> {
    await this.connect();
    // What answers now may be another chain than the one that was connected to.
    const answers = await this.transport.batch([
      { method: 'eth_chainId', params: [] },
      { method: 'eth_getBlockByNumber', params: ['latest', false] },
    ]);
    const [chainId, block] = answers.map(valueOrThrow);
    checkChainId(chainId, this.chainId);
    const header = parseHeader(block);
    if (!header) throw new RunnerError('RPC_RESPONSE_INVALID', 'the endpoint has no latest block');
    const { number, hash, timestamp } = header;
    return { number, hash, timestamp };
  }

  async blockHash(number: bigint): Promise<Hex | undefined> {
    const { method, params } = blockByNumber(number);
    return parseHeader(await this.#request(method, params))?.hash;
  }

  async confirm(calls: readonly ChainCall[]): Promise<boolean[]> {
    if (calls.length === 0) return [];
    await this.connect();
    const found = new Map<string, ChainCall[]>();
    for (const shown of await this.#readAgain(planReads(calls))) {
      const key = nameOf(shown);
      found.set(key, [...(found.get(key) ?? []), shown]);
    }
    return calls.map((call) => (found.get(nameOf(call)) ?? []).some((shown) => isSame(shown, call)));
  }

  /** What the canonical chain shows of these calls now. */
  async #readAgain(plans: readonly (readonly ChainCall[])[]): Promise<ChainCall[]> {
    const answers = await this.transport.batch(plans.map((plan) => ({ method: 'eth_getLogs', params: [filterOf(this.contract, plan)] })));
    const shown: ChainCall[] = [];
    for (const [index, plan] of plans.entries()) {
      const answer = answers[index];
      // Also what is refused in words that nobody knows: a call alone is the smallest range.
      if (isRunnerError(answer) && (isRangeRefusal(answer) || answer.code === 'RPC_ERROR') && plan.length > 1) {
        const middle = plan.length >> 1;
        shown.push(...(await this.#readAgain([plan.slice(0, middle), plan.slice(middle)])));
      } else {
        shown.push(...this.#decode(valueOrThrow(answer)));
      }
    }
    return shown;
  }

  #decode(logs: unknown): ChainCall[] {
    if (!Array.isArray(logs)) throw new RunnerError('RPC_RESPONSE_INVALID', 'eth_getLogs did not answer with a list');
    return logs.flatMap((log: unknown) => {
      try {
        return [decodeJobCall(log, { chainId: this.chainId, contract: this.contract })];
      } catch {
        // The follower counted it; a call that it decoded is not among such logs.
        return [];
      }
    });
  }

  encodeResults(batch: ResultBatch): TransactionRequest {
    return { to: this.contract, data: encodeResults(batch) };
  }

  async simulate(from: Address, request: TransactionRequest, gas?: bigint): Promise<Simulation> {
    await this.connect();
    const transaction = { from, to: request.to, data: request.data, ...(request.value !== undefined && { value: hex(request.value) }) };
    if (gas !== undefined && (await this.#suffices(transaction, gas))) return { outcome: 'ok', gas };
    try {
      // Not the pending block, which some nodes take unless told: they would execute all that waits before it.
      const needed = await this.#gathered.call('eth_estimateGas', [transaction, 'latest']);
      return { outcome: 'ok', gas: quantityOf(needed, 'eth_estimateGas') };
    } catch (thrown) {
      const error = toRunnerError(thrown);
      if (error.code !== 'RPC_ERROR') throw error;
      const data = revertData(error) ?? (isRevert(error) ? await this.#revertOfCall(transaction) : undefined);
      if (data === undefined)
        throw sendOutcome(error) === 'underfunded'
          ? new RunnerError('TX_UNDERFUNDED', `account ${from} cannot pay: ${error.message}`, { cause: error })
          : error;
      const { error: name, args, callId } = decodeRevert(data);
      return { outcome: 'revert', error: name, args, data, ...(callId !== undefined && { callId }) };
    }
  }

  /** One execution, where an estimate takes several. */
  async #suffices(transaction: object, gas: bigint): Promise<boolean> {
    try {
      await this.#gathered.call('eth_call', [{ ...transaction, gas: hex(gas) }, 'latest']);
      return true;
    } catch (thrown) {
      const error = toRunnerError(thrown);
      if (error.code !== 'RPC_ERROR') throw error;
      return false;
    }
  }

  /** Some nodes give the data of a revert with eth_call only. Undefined: it does not revert, the estimate failed for something else. */
  async #revertOfCall(transaction: object): Promise<Hex | undefined> {
    try {
      await this.#request('eth_call', [transaction, 'latest']);
      return undefined;
    } catch (thrown) {
      const error = toRunnerError(thrown);
      if (error.code !== 'RPC_ERROR') throw error;
      return revertData(error) ?? '0x';
    }
  }

  async nonce(account: Address, tag: 'latest' | 'pending'): Promise<number> {
    return countOf(await this.#request('eth_getTransactionCount', [account, tag]), 'eth_getTransactionCount');
  }

  async fees(): Promise<FeeEstimate> {
    const history = await this.#request('eth_feeHistory', ['0xa', 'latest', [50]]);
    const { baseFeePerGas, tip } = priorityFee(history);
    // No transaction lately from which to learn a price: the node has an opinion.
    const suggested =
      tip ??
      (await this.#request('eth_maxPriorityFeePerGas', []).then(
        (value) => quantityOf(value, 'eth_maxPriorityFeePerGas'),
        () => 0n,
      ));
    return { baseFeePerGas, maxPriorityFeePerGas: suggested > 0n ? suggested : 1n };
  }

  async send(raw: Hex): Promise<SendOutcome> {
    await this.connect();
    try {
      await this.#gathered.call('eth_sendRawTransaction', [raw]);
      return 'sent';
    } catch (thrown) {
      const error = toRunnerError(thrown);
      const outcome = error.code === 'RPC_ERROR' ? sendOutcome(error) : undefined;
      if (outcome === undefined) throw error;
      return outcome;
    }
  }

  async receipts(hashes: readonly Hex[]): Promise<(Receipt | undefined)[]> {
    await this.connect();
    const answers = await this.transport.batch(hashes.map((hash) => ({ method: 'eth_getTransactionReceipt', params: [hash] })));
    return hashes.map((hash, index) => parseReceipt(valueOrThrow(answers[index]), hash));
  }

  async blueprint(blueprintId: bigint): Promise<BlueprintMetadata> {
    await this.connect();
    const { readBlueprint } = await metadata();
    return readBlueprint(this.transport.request, this.contract, blueprintId);
  }

  async service(serviceId: bigint): Promise<ServiceState> {
    await this.connect();
    const { readService } = await metadata();
    return readService(this.transport.request, this.contract, serviceId);
  }

  async operator(blueprintId: bigint, address: Address): Promise<OperatorState> {
    await this.connect();
    const { readOperator } = await metadata();
    return readOperator(this.transport.request, this.contract, { blueprintId, operator: address });
  }

  async completed(calls: readonly ChainCall[], block: bigint): Promise<boolean[]> {
    if (calls.length === 0) return [];
    await this.connect();
    const { readCompleted } = await metadata();
    return readCompleted((requests) => this.transport.batch(requests), this.contract, { calls, block, clock: this.#clock });
  }

  close(): Promise<void> {
    return this.transport.close();
  }

  async #request(method: string, params: readonly unknown[]): Promise<unknown> {
    await this.connect();
    return this.transport.request(method, params);
  }
}

/** Loads viem's ABI decoder, which nothing else here needs. */
const metadata = () => import('./metadata.ts');

const SPAN_BLOCKS_MAX = 2000n;
const CALLS_PER_READ = 200;

/** Calls that one eth_getLogs can show together: not too many, in blocks not too far apart. */
function planReads(calls: readonly ChainCall[]): ChainCall[][] {
  const sorted = [...calls].sort((a, b) => Number(a.blockNumber - b.blockNumber));
  const plans: ChainCall[][] = [];
  for (const call of sorted) {
    const plan = plans.at(-1);
    const first = plan?.[0];
    if (plan && first && plan.length < CALLS_PER_READ && call.blockNumber - first.blockNumber < SPAN_BLOCKS_MAX) plan.push(call);
    else plans.push([call]);
  }
  return plans;
}

function filterOf(contract: Address, plan: readonly ChainCall[]): object {
  const ids = (of: (call: ChainCall) => bigint): Hex[] => [...new Set(plan.map((call) => hex(of(call), 64)))];
  return {
    address: contract,
    topics: [[TOPIC.jobSubmitted, TOPIC.jobSubmittedFromQuote], ids((call) => call.serviceId), ids((call) => call.callId)],
    fromBlock: hex(plan[0]?.blockNumber ?? 0n),
    toBlock: hex(plan.at(-1)?.blockNumber ?? 0n),
  };
}

const nameOf = ({ serviceId, callId }: ChainCall): string => `${serviceId}:${callId}`;

function isSame(a: ChainCall, b: ChainCall): boolean {
  return (
    a.blockNumber === b.blockNumber &&
    a.blockHash === b.blockHash &&
    a.jobIndex === b.jobIndex &&
    a.caller === b.caller &&
    Buffer.compare(a.inputs, b.inputs) === 0
  );
}
