/** What the chain says of a blueprint, a service and an operator. */

import type { ContractFunctionReturnType } from 'viem';
import { decodeAbiParameters, decodeFunctionResult, keccak256 } from 'viem/utils';
import type { Clock } from '../clock.ts';
import { RunnerError, isRunnerError, toRunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import type { BlueprintMetadata, ChainClient, JobDefinition, OperatorState, RpcRequest, ServiceState } from './chain.ts';
import { TOPIC, tangleAbi } from './contracts.ts';
import type { RpcCall } from './endpoint.ts';
import { parseProfilingData } from './profiling.ts';
import type { ProfilingData } from './profiling.ts';
import { blockTime, firstBlockSince, encodeCall, latestLog, logsBetween, readView, topicOf } from './view.ts';
import type { RawLog } from './view.ts';

type Definition = ContractFunctionReturnType<typeof tangleAbi, 'view', 'getBlueprintDefinition'>;

/** As many blocks can carry the time of creation; every endpoint shows so many at once. */
const BLOCKS_PER_SECOND_MAX = 63n;
/** Of the words of a JobCall, all of fixed size, the one that says `completed`. */
const COMPLETED_WORD = 5;
const COMPLETED_AT_ONCE = 50;
/** In a row. */
const RATE_REFUSALS_MAX = 8;
const RATE_PAUSE_MS = 125;
const RATE_PAUSE_MS_MAX = 5000;
const NOTED: readonly ErrorCode[] = ['METADATA_INVALID', 'RPC_ERROR', 'RPC_RESPONSE_INVALID', 'CONTRACT_MISSING'];
const ZERO_ADDRESS: Address = '0x0000000000000000000000000000000000000000';

/**
 * Reads a blueprint. The view of the contract hides the names of the jobs; they are in the definition that was recorded when the
 * blueprint was created. That event may come from any contract, so only one whose hash is the anchored one counts; without it the
 * result is what the view shows, with `verified: false` and the reason in `problems`.
 *
 * Rejects with `BLUEPRINT_NOT_FOUND`, `CONTRACT_MISSING` or `RPC_*`. Profiles that cannot be read are a problem, not a rejection.
 */
export async function readBlueprint(request: RpcRequest, contract: Address, blueprintId: bigint): Promise<BlueprintMetadata> {
  const blueprint = await readView(request, contract, { abi: tangleAbi, name: 'getBlueprint', args: [blueprintId] });
  if (blueprint.createdAt === 0n) {
    throw new RunnerError('BLUEPRINT_NOT_FOUND', `the contract ${contract} has no blueprint ${blueprintId}`, {
      details: { blueprintId: blueprintId.toString(), contract },
    });
  }
  const problems: RunnerError[] = [];
  const [shown, recorded] = await Promise.all([
    readView(request, contract, { abi: tangleAbi, name: 'getBlueprintDefinition', args: [blueprintId] }),
    recordedDefinition(request, contract, { blueprintId, createdAt: blueprint.createdAt }).catch((thrown: unknown) =>
      noteUnlessDown(thrown, problems),
    ),
  ]);
  const definition = recorded ?? shown;
  const profiling = readProfiling(definition.metadata.profilingData, problems);
  return {
    blueprintId,
    source: 'chain',
    verified: recorded !== undefined,
    name: definition.metadata.name,
    description: definition.metadata.description,
    metadataUri: definition.metadataUri,
    manager: lower(blueprint.manager),
    owner: lower(blueprint.owner),
    jobs: definition.jobs.map((job, index) => jobDefinition(job, index, profiling)),
    ...(profiling.confidentiality !== undefined && { confidentiality: profiling.confidentiality }),
    ...(problems.length > 0 && { problems }),
  };
}

/**
 * Reads a service. A service whose time ran out is `expired`, although the contract goes on calling it active. Rejects with
 * `SERVICE_NOT_FOUND`, `CONTRACT_MISSING` or `RPC_*`.
 */
export async function readService(request: RpcRequest, contract: Address, serviceId: bigint): Promise<ServiceState> {
  const [service, operators, head] = await Promise.all([
    readView(request, contract, { abi: tangleAbi, name: 'getService', args: [serviceId] }),
    readView(request, contract, { abi: tangleAbi, name: 'getServiceOperators', args: [serviceId] }),
    blockTime(request, 'latest'),
  ]);
  const { createdAt, ttl, status } = service;
  if (createdAt === 0n) {
    throw new RunnerError('SERVICE_NOT_FOUND', `the contract ${contract} has no service ${serviceId}`, {
      details: { serviceId: serviceId.toString(), contract },
    });
  }
  const expired = status === 1 && ttl !== 0n && head.timestamp > createdAt + ttl;
  return {
    serviceId,
    blueprintId: service.blueprintId,
    owner: lower(service.owner),
    status: expired ? 'expired' : serviceStatus(status),
    createdAt,
    ttl,
    operators: operators.map(lower),
  };
}

/**
 * Reads an operator of a blueprint. Its address is in the events of the contract alone; it is absent when the endpoint does not show
 * events that old. Rejects with `CONTRACT_MISSING` or `RPC_*`.
 */
export async function readOperator(
  request: RpcRequest,
  contract: Address,
  of: { readonly blueprintId: bigint; readonly operator: Address },
): Promise<OperatorState> {
  const { registeredAt } = await readView(request, contract, {
    abi: tangleAbi,
    name: 'getOperatorRegistration',
    args: [of.blueprintId, of.operator],
  });
  const address = lower(of.operator);
  if (registeredAt === 0n) return { address, registered: false };
  const topics = [[TOPIC.operatorRegistered, TOPIC.operatorPreferencesUpdated], topicOf(of.blueprintId), topicOf(of.operator)] as const;
  const log = await firstBlockSince(request, registeredAt)
    .then((since) => latestLog(request, { address: contract, topics }, since))
    .catch((thrown: unknown) => noteUnlessDown(thrown, []));
  const rpcAddress = log && announcedAddress(log);
  return { address, registered: true, ...(rpcAddress !== undefined && { rpcAddress }) };
}

/**
 * For each call, whether it was completed at the block; false where the endpoint has no state of that block any more. Many calls are asked for
 * as the rate of the endpoint allows. Rejects with `RPC_*`.
 */
export async function readCompleted(
  batch: (calls: readonly RpcCall[]) => Promise<unknown[]>,
  contract: Address,
  { calls, block, clock }: { readonly calls: readonly ChainCall[]; readonly block: bigint; readonly clock: Pick<Clock, 'sleep'> },
): Promise<boolean[]> {
  const at = `0x${block.toString(16)}`;
  const completed: boolean[] = [];
  let atOnce = COMPLETED_AT_ONCE;
  for (let refusals = 0; completed.length < calls.length;) {
    const part = calls.slice(completed.length, completed.length + atOnce).map(({ serviceId, callId }) => {
      const data = encodeCall(tangleAbi, 'getJobCall', [serviceId, callId]);
      return { method: 'eth_call', params: [{ to: contract, data }, at] };
    });
    try {
      completed.push(...(await batch(part)).map(isCompleted));
      refusals = 0;
    } catch (thrown) {
      if (toRunnerError(thrown).code !== 'RPC_RATE_LIMITED' || refusals === RATE_REFUSALS_MAX) throw thrown;
      refusals += 1;
      atOnce = Math.max(1, atOnce >> 1);
      await clock.sleep(Math.min(RATE_PAUSE_MS_MAX, RATE_PAUSE_MS * 2 ** refusals));
    }
  }
  return completed;
}

/** Of the answer to getJobCall. */
function isCompleted(answer: unknown): boolean {
  if (isRunnerError(answer) && answer.code !== 'RPC_ERROR') throw answer;
  return (
    typeof answer === 'string' &&
    answer.length >= 2 + 64 * COMPLETED_WORD &&
    BigInt(`0x${answer.slice(2).slice(64 * (COMPLETED_WORD - 1), 64 * COMPLETED_WORD)}`) === 1n
  );
}

/** A made-up blueprint of two jobs, for work without a chain. It says so: `source: 'mock'`. */
export function mockBlueprint(blueprintId: bigint): BlueprintMetadata {
  const job = (index: number): JobDefinition => ({
    index,
    name: `job ${index}`,
    description: 'made up: no chain was asked',
    metadataUri: '',
    paramsSchema: new Uint8Array(),
    resultSchema: new Uint8Array(),
  });
  return {
    blueprintId,
    source: 'mock',
    verified: false,
    name: `mock blueprint ${blueprintId}`,
    description: 'made up: no chain was asked',
    metadataUri: '',
    manager: ZERO_ADDRESS,
    owner: ZERO_ADDRESS,
    jobs: [job(0), job(1)],
  };
}

export interface FetchBlueprintOptions {
  /**
   * `real`: the chain, or an error. `mock`: made up, nothing is asked. `auto` (default): the chain, and made up when no endpoint can
   * be reached. What is made up says `source: 'mock'`.
   */
  readonly mode?: 'real' | 'mock' | 'auto';
  /** Asked instead of `rpcUrl`. */
  readonly client?: Pick<ChainClient, 'blueprint'>;
  readonly rpcUrl?: string;
  /** The Tangle contract; needed with `rpcUrl`. */
  readonly contract?: Address;
  /** For each request; default 10,000. */
  readonly timeoutMs?: number;
}

/**
 * The metadata of one blueprint, from a chain or made up. Rejects with `CONFIG_INVALID` when it is not said which chain, and otherwise as
 * `readBlueprint`; in mode `auto` `RPC_UNREACHABLE` becomes a made-up blueprint.
 *
 * @example
 * const blueprint = await fetchBlueprintMetadata(3n, { rpcUrl: 'http://localhost:8545', contract: '0x5fbdb2315678afecb367f032d93f642f64180aa3' });
 */
export async function fetchBlueprintMetadata(blueprintId: bigint, options: FetchBlueprintOptions): Promise<BlueprintMetadata> {
  const mode = options.mode ?? 'auto';
  if (mode === 'mock') return mockBlueprint(blueprintId);
  try {
    if (options.client) return await options.client.blueprint(blueprintId);
    return await readThrough(blueprintId, options);
  } catch (thrown) {
    if (mode === 'auto' && isRunnerError(thrown) && thrown.code === 'RPC_UNREACHABLE') return mockBlueprint(blueprintId);
    throw thrown;
  }
}

async function readThrough(blueprintId: bigint, options: FetchBlueprintOptions): Promise<BlueprintMetadata> {
  const { rpcUrl, contract, timeoutMs } = options;
  if (rpcUrl === undefined || contract === undefined) {
    throw new RunnerError('CONFIG_INVALID', 'the metadata of a blueprint needs rpcUrl and contract, or a client, or mode mock');
  }
  const { createRpcTransport } = await import('./transport.ts');
  const transport = createRpcTransport({ urls: [rpcUrl], ...(timeoutMs !== undefined && { timeoutMs }) });
  try {
    return await readBlueprint(transport.request, contract, blueprintId);
  } finally {
    await transport.close();
  }
}

/**
 * The full definition from the event of its creation. The time of creation tells the block, so that no endpoint is asked for a long
 * range; only a definition that was replaced later needs one.
 */
async function recordedDefinition(
  request: RpcRequest,
  contract: Address,
  of: { readonly blueprintId: bigint; readonly createdAt: bigint },
): Promise<Definition> {
  const [hash, from, head] = await Promise.all([
    readView(request, contract, { abi: tangleAbi, name: 'blueprintDefinitionHash', args: [of.blueprintId] }),
    firstBlockSince(request, of.createdAt),
    blockTime(request, 'latest'),
  ]);
  const filter = { topics: [TOPIC.blueprintDefinitionRecorded, topicOf(of.blueprintId)] };
  const near = from + BLOCKS_PER_SECOND_MAX < head.number ? from + BLOCKS_PER_SECOND_MAX : head.number;
  let encoded = findByHash(await logsBetween(request, filter, { from, to: near }), hash);
  if (encoded === undefined && near < head.number) {
    encoded = findByHash(await logsBetween(request, filter, { from: near + 1n, to: head.number }), hash);
  }
  if (encoded === undefined)
    throw new RunnerError('METADATA_INVALID', `no recorded definition of blueprint ${of.blueprintId} has the hash ${hash}`, {
      details: { hash },
    });
  return decodeDefinition(encoded);
}

function findByHash(logs: readonly RawLog[], hash: Hex): Hex | undefined {
  for (const { data } of logs) {
    const encoded = dynamicBytes(data);
    if (encoded !== undefined && keccak256(encoded) === hash) return encoded;
  }
  return undefined;
}

/** The one `bytes` of an event. Anyone can emit this event: nothing about it is trusted. */
function dynamicBytes(data: Hex): Hex | undefined {
  try {
    return decodeAbiParameters([{ type: 'bytes' }], data)[0];
  } catch {
    return undefined;
  }
}

/** Encoded as the view would return it. */
function decodeDefinition(encoded: Hex): Definition {
  try {
    return decodeFunctionResult({ abi: tangleAbi, functionName: 'getBlueprintDefinition', data: encoded });
  } catch (cause) {
    throw new RunnerError('METADATA_INVALID', 'the recorded definition cannot be decoded', { cause });
  }
}

function readProfiling(text: string, problems: RunnerError[]): ProfilingData {
  try {
    return parseProfilingData(text);
  } catch (thrown) {
    problems.push(toRunnerError(thrown, 'METADATA_INVALID'));
    return { profiles: new Map() };
  }
}

function jobDefinition(job: Definition['jobs'][number], index: number, profiling: ProfilingData): JobDefinition {
  const profile = profiling.profiles.get(index);
  return {
    index,
    name: job.name,
    description: job.description,
    metadataUri: job.metadataUri,
    paramsSchema: bytesOf(job.paramsSchema),
    resultSchema: bytesOf(job.resultSchema),
    ...(profile && { profile }),
  };
}

function serviceStatus(status: number): ServiceState['status'] {
  if (status === 0) return 'pending';
  if (status === 1) return 'active';
  if (status === 2) return 'terminated';
  throw new RunnerError('RPC_RESPONSE_INVALID', `${status} is not the status of a service`);
}

/** OperatorRegistered and OperatorPreferencesUpdated carry the same: key and address. */
function announcedAddress(log: RawLog): string | undefined {
  try {
    return decodeAbiParameters([{ type: 'bytes' }, { type: 'string' }], log.data)[1];
  } catch {
    return undefined;
  }
}

/** Past blocks or logs that an endpoint does not show are a problem to note; that it does not answer at all is a failure. */
function noteUnlessDown(thrown: unknown, problems: RunnerError[]): undefined {
  const error = toRunnerError(thrown);
  if (!NOTED.includes(error.code)) throw error;
  problems.push(error);
  return undefined;
}

function lower(address: string): Address {
  return address.toLowerCase() as Address;
}

function bytesOf(hex: Hex): Uint8Array {
  return Uint8Array.from(Buffer.from(hex.slice(2), 'hex'));
}
