/** One job call as a caller submits it: encode, send, find its call id, wait for the results. */

import { firstFees } from '../chain/fees.ts';
import { TOPIC, tangleAbi } from '../chain/contracts.ts';
import { decodeJobCall, decodeSubmittedResult } from '../chain/decode.ts';
import type { SubmittedResult } from '../chain/decode.ts';
import type { RpcChainClient } from '../chain/rpc.ts';
import type { Signer } from '../chain/chain.ts';
import { transactionHash } from '../chain/signed-transaction.ts';
import { encodeCall, topicOf } from '../chain/view.ts';
import { systemClock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { ErrorDetails } from '../errors.ts';
import { decodeAbi, encodeAbi, requireCount } from '../job/abi.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import { decodeCompact, encodeCompact } from '../job/compact.ts';
import { reasonOf } from '../job/scalar.ts';
import { parseSchema } from '../job/schema.ts';
import { parseParameters } from '../job/solidity.ts';
import type { Parameter } from '../job/solidity.ts';
import { parseValues } from './call-command.ts';

export interface Submission {
  readonly serviceId: bigint;
  readonly jobIndex: number;
  /** The encoded arguments as they are. */
  readonly data?: Hex;
  /** A JSON array; encoded as `types` or as the schema of the job on chain says. */
  readonly args?: string;
  /** A Solidity parameter list. */
  readonly types?: string;
  /** Wei. */
  readonly value: bigint;
}

/** Encodes and decodes the values of one job. */
interface JobCodec {
  encode(values: readonly unknown[]): Uint8Array;
  decodeResult(bytes: Uint8Array): readonly unknown[] | undefined;
}

const POLL_MS = 200;
/** Whoever calls a job pays what the chain asks now. */
const FEE_POLICY = { bumpPercent: 12.5, maxFeePerGasCap: 2n ** 128n } as const;

/** What the job takes: its schema on chain decides; without one the encoding is ABI and the types come from the caller. */
async function codecOf(chain: RpcChainClient, { serviceId, jobIndex, types }: Submission): Promise<JobCodec> {
  const { blueprintId } = await chain.service(serviceId);
  const job = (await chain.blueprint(blueprintId)).jobs.find(({ index }) => index === jobIndex);
  if (!job) throw new RunnerError('JOB_UNKNOWN', `blueprint ${blueprintId} of service ${serviceId} has no job ${jobIndex}`);
  const schema = parseSchema(job.paramsSchema);
  const result = parseSchema(job.resultSchema);
  const parameters = schema ?? (types === undefined ? undefined : parseParameters(types));
  return {
    encode(values) {
      // No values have one encoding, whatever the types are called.
      if (!parameters && values.length === 0) return new Uint8Array();
      if (!parameters) throw new RunnerError('CONFIG_INVALID', `job ${jobIndex} has no schema on chain: name its types with --types`);
      requireCount(parameters, values);
      return schema ? encodeCompact(schema, values) : encodeAbi(parameters, values);
    },
    decodeResult: (bytes) => result && decodeCompact(result, bytes),
  };
}

function parseArguments(text: string): readonly unknown[] {
  let values: unknown;
  try {
    values = parseValues(text);
  } catch (cause) {
    throw new RunnerError('JOB_ARGS_INVALID', `--args is not JSON: ${text}`, { cause });
  }
  if (!Array.isArray(values))
    throw new RunnerError('JOB_ARGS_INVALID', `--args must be a JSON array, one value for each parameter: ${text}`);
  return values;
}

function encodeInputs(submission: Submission, codec: JobCodec): Uint8Array {
  if (submission.data !== undefined) return Buffer.from(submission.data.slice(2), 'hex');
  const values = parseArguments(submission.args ?? '[]');
  try {
    return codec.encode(values);
  } catch (cause) {
    if (!(cause instanceof RangeError || cause instanceof TypeError)) throw cause;
    throw new RunnerError('JOB_ARGS_INVALID', `--args cannot be encoded: ${cause.message}`, { cause });
  }
}

export interface DecodedOutput {
  /** Absent when neither chain nor caller say the types. */
  readonly values?: readonly unknown[];
  /** Why the output is not of these types. It came all the same. */
  readonly problem?: string;
}

export interface Submitted {
  readonly call: ChainCall;
  decodeOutput(output: Uint8Array): DecodedOutput;
}

/** Sends the call and waits until it is mined. Rejects with `CALL_REFUSED` and the reason of the contract, without sending, when it would revert;
 * with `RESULT_TIMEOUT` when it is not mined before the signal. */
export async function submitJob(options: {
  readonly chain: RpcChainClient;
  readonly signer: Signer;
  readonly submission: Submission;
  readonly resultTypes: string | undefined;
  readonly signal: AbortSignal;
}): Promise<Submitted> {
  const { chain, signer, submission, signal } = options;
  const resultParameters = options.resultTypes === undefined ? undefined : parseParameters(options.resultTypes);
  await chain.connect();
  const codec = await codecOf(chain, submission);
  const inputs = encodeInputs(submission, codec);
  const { serviceId, jobIndex, value } = submission;
  const data = encodeCall(tangleAbi, 'submitJob', [serviceId, jobIndex, `0x${Buffer.from(inputs).toString('hex')}`]);
  const raw = await sign(chain, signer, { data, value });
  const hash = transactionHash(raw);
  await send(chain, { raw, hash, from: signer.address }, signal);
  const call = await minedCall(chain, hash, signal);
  return { call, decodeOutput: (output) => decodedOutput({ output, codec, resultParameters }) };
}

function decodedOutput(options: {
  readonly output: Uint8Array;
  readonly codec: JobCodec;
  readonly resultParameters: readonly Parameter[] | undefined;
}): DecodedOutput {
  const { output, codec, resultParameters } = options;
  try {
    const values = codec.decodeResult(output) ?? (resultParameters && decodeAbi(resultParameters, output));
    return values ? { values } : {};
  } catch (cause) {
    return { problem: `its values cannot be read: ${reasonOf(cause)}` };
  }
}

async function sign(chain: RpcChainClient, signer: Signer, { data, value }: { readonly data: Hex; readonly value: bigint }): Promise<Hex> {
  const request = { to: chain.contract, data, value };
  const [simulation, nonce, estimate] = await Promise.all([
    chain.simulate(signer.address, request),
    chain.nonce(signer.address, 'pending'),
    chain.fees(),
  ]);
  if (simulation.outcome === 'revert') {
    const reason = `${simulation.error}(${simulation.args.map(String).join(', ')})`;
    throw new RunnerError('CALL_REFUSED', `the contract refuses the call: ${reason}; nothing was sent`, {
      details: { error: simulation.error },
    });
  }
  const fees = firstFees(estimate, FEE_POLICY);
  if (!fees) throw new RunnerError('TX_FEE_CAPPED', `the chain asks ${estimate.baseFeePerGas} wei per gas`);
  const gas = (simulation.gas * 6n) / 5n;
  return signer.signTransaction({ type: 'eip1559', chainId: chain.chainId, nonce, ...request, gas, ...fees });
}

interface Signed {
  readonly raw: Hex;
  readonly hash: Hex;
  readonly from: Address;
}

async function send(chain: RpcChainClient, { raw, hash, from }: Signed, signal: AbortSignal): Promise<void> {
  let tries = 0;
  const absence = { message: `no endpoint said that it took transaction ${hash}`, details: { hash } };
  const outcome = await poll(signal, absence, () => {
    tries += 1;
    return chain.send(raw);
  });
  if (outcome === 'underfunded') throw new RunnerError('TX_UNDERFUNDED', `${from} cannot pay for the transaction`);
  // The answer of an earlier try, or of an endpoint that failed over, was lost: it may be mined already.
  const mayBeMined = async (): Promise<boolean> => tries > 1 || (await chain.receipts([hash]))[0] !== undefined;
  const isSent = outcome === 'sent' || outcome === 'known' || (outcome === 'nonce-too-low' && (await mayBeMined()));
  if (!isSent) throw new RunnerError('RPC_ERROR', `the node refuses transaction ${hash} of ${from}: ${outcome}`);
}

async function minedCall(chain: RpcChainClient, hash: Hex, signal: AbortSignal): Promise<ChainCall> {
  const receipt = await poll<{ readonly status?: unknown; readonly logs?: unknown }>(
    signal,
    { message: `transaction ${hash} was sent but is not mined`, details: { hash } },
    async () => {
      const answer = await chain.transport.request('eth_getTransactionReceipt', [hash]);
      return answer ?? undefined;
    },
  );
  if (receipt.status !== '0x1')
    throw new RunnerError('CALL_REFUSED', `the contract refused the call when transaction ${hash} was mined`, { details: { hash } });
  const logs = Array.isArray(receipt.logs)
    ? (receipt.logs as readonly { readonly address?: unknown; readonly topics?: readonly unknown[] }[])
    : []; // as: decoded below
  const log = logs.find(({ address, topics }) => String(address).toLowerCase() === chain.contract && topics?.[0] === TOPIC.jobSubmitted);
  if (!log) throw new RunnerError('RPC_RESPONSE_INVALID', `the receipt of ${hash} shows no submitted job`);
  return decodeJobCall(log, chain);
}

/** The results of a call, once there is one. Rejects with `RESULT_TIMEOUT` when the signal comes first. */
export function awaitResults(chain: RpcChainClient, call: ChainCall, signal: AbortSignal): Promise<SubmittedResult[]> {
  const filter = {
    address: chain.contract,
    topics: [TOPIC.jobResultSubmitted, topicOf(call.serviceId), topicOf(call.callId)],
    fromBlock: `0x${call.blockNumber.toString(16)}`,
    toBlock: 'latest',
  };
  const { serviceId, callId, transactionHash } = call;
  const absence = { message: `call ${callId} of service ${serviceId} has no result`, details: { serviceId, callId, transactionHash } };
  return poll(signal, absence, async () => {
    const logs = await chain.transport.request('eth_getLogs', [filter]);
    return Array.isArray(logs) && logs.length > 0 ? logs.map((log) => decodeSubmittedResult(log, chain)) : undefined;
  });
}

interface Absence {
  readonly message: string;
  readonly details: ErrorDetails;
}

/** An endpoint that fails now may answer the next look. */
const PASSING: readonly string[] = ['RPC_UNREACHABLE', 'RPC_RATE_LIMITED', 'RPC_RESPONSE_INVALID'];

async function poll<T>(signal: AbortSignal, absence: Absence, look: () => Promise<T | undefined>): Promise<T> {
  while (true) {
    const looked = await look().then(
      (found) => ({ found }),
      (thrown: unknown) => toRunnerError(thrown),
    );
    if ('found' in looked) {
      if (looked.found !== undefined) return looked.found;
    } else if (!PASSING.includes(looked.code)) throw looked;
    await systemClock.sleep(POLL_MS, signal).catch((cause: unknown) => {
      const reason = 'found' in looked ? '' : `: ${looked.message}`;
      throw new RunnerError('RESULT_TIMEOUT', `${absence.message} in time${reason}`, { cause, details: absence.details });
    });
  }
}
