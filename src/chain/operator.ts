/** What an operator does on chain besides answering calls: it registers, and it shows that it lives. Both are background services. */

import { encodeAbiParameters, keccak256 } from 'viem/utils';
import type { Clock } from '../clock.ts';
import { systemClock } from '../clock.ts';
import type { ErrorCode } from '../errors.ts';
import { RunnerError, isRunnerError, toRunnerError } from '../errors.ts';
import type { Address, Hex } from '../job/call.ts';
import type { Counter, Gauge, Telemetry } from '../telemetry/telemetry.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { OperatorState, RpcRequest, TransactionRequest, TransactionSender } from './chain.ts';
import { decodeRevert, statusRegistryAbi, tangleAbi } from './contracts.ts';
import { readOperator } from './metadata.ts';
import { blockTime, encodeCall, readView } from './view.ts';

/** Runs beside the dispatch loop until its signal fires, or until its work is done. */
export interface OperatorService {
  readonly name: string;
  run(signal: AbortSignal): Promise<void>;
}

interface OperatorOptions {
  readonly request: RpcRequest;
  /** The Tangle contract. */
  readonly contract: Address;
  readonly blueprintId: bigint;
  /** Sends for the account of the operator. */
  readonly sender: TransactionSender;
  /** Does everything, down to asking the contract, but sends nothing. Default false. */
  readonly dryRun?: boolean;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
}

export interface RegistrationOptions extends OperatorOptions {
  /** The key of the operator, uncompressed: 65 bytes that begin with 04. viem's local accounts have it as `publicKey`. */
  readonly publicKey: Hex;
  /** Where clients reach this operator. */
  readonly rpcAddress: string;
  /** What the blueprint asks for at registration, in its registration schema. */
  readonly registrationInputs?: Uint8Array;
  readonly onOutcome?: (outcome: RegistrationOutcome) => void;
}

/** `dry-run`: the transaction that is due would succeed. */
export type RegistrationOutcome = 'registered' | 'already-registered' | 'updated' | 'dry-run';

const RETRY_MS_MIN = 1000;
const RETRY_MS_MAX = 60_000;

/**
 * Registers the operator once, and is done. Tries again, ever more slowly, while the chain cannot be reached; rejects with
 * `REGISTRATION_FAILED` when the contract refuses.
 */
export function operatorRegistration(options: RegistrationOptions): OperatorService {
  const clock = options.clock ?? systemClock;
  const { log } = options.telemetry ?? silentTelemetry;
  const what = { blueprintId: options.blueprintId.toString(), operator: options.sender.address };
  return {
    name: 'operator registration',
    async run(signal) {
      for (let delayMs = RETRY_MS_MIN; !signal.aborted; delayMs = Math.min(2 * delayMs, RETRY_MS_MAX)) {
        const outcome = await registerOperator(options, signal).catch((thrown: unknown) => toRunnerError(thrown));
        if (typeof outcome === 'string') {
          log.info(`operator: ${outcome}`, what);
          options.onOutcome?.(outcome);
          return;
        }
        if (signal.aborted) return;
        // A node can err for a while; what the contract refuses it refuses again.
        if (!outcome.retryable && outcome.code !== 'RPC_ERROR') throw outcome;
        log.warn('the operator could not be registered; it will be tried again', {
          ...what,
          code: outcome.code,
          error: outcome.message,
          delayMs,
        });
        await pause(clock, delayMs, signal);
      }
    },
  };
}

/**
 * Makes sure that the operator is registered with this key and address; idempotent. An operator that is registered already is fine, and
 * told about its new preferences when they differ. Preferences whose present value no endpoint shows are left as they are.
 *
 * Rejects with `CONFIG_INVALID`, `REGISTRATION_FAILED` (the contract refuses, with its reason), `RPC_*`, `TX_*` or `ABORTED`.
 */
export async function registerOperator(options: RegistrationOptions, signal?: AbortSignal): Promise<RegistrationOutcome> {
  const { request, contract, blueprintId, sender, publicKey, rpcAddress } = options;
  if (!/^0x04[0-9a-f]{128}$/i.test(publicKey))
    throw new RunnerError('CONFIG_INVALID', 'publicKey must be 65 bytes that begin with 04: the uncompressed key');
  if (rpcAddress === '')
    throw new RunnerError('CONFIG_INVALID', 'rpcAddress is empty: the contract wants to know where clients reach the operator');
  const of = { blueprintId, operator: sender.address };
  const state = await readOperator(request, contract, of);
  if (!state.registered) {
    const inputs = options.registrationInputs;
    const args = inputs
      ? [blueprintId, publicKey, rpcAddress, `0x${Buffer.from(inputs).toString('hex')}`]
      : [blueprintId, publicKey, rpcAddress];
    try {
      await transact(options, { to: contract, data: encodeCall(tangleAbi, 'registerOperator', args) }, signal);
      return options.dryRun === true ? 'dry-run' : 'registered';
    } catch (thrown) {
      // Another process of this operator may have been faster.
      const again = isRefusal(thrown) ? await readOperator(request, contract, of) : state;
      if (!again.registered)
        throw refusal('REGISTRATION_FAILED', `operator ${sender.address} cannot be registered for blueprint ${blueprintId}`, thrown);
      return 'already-registered';
    }
  }
  if (!(await preferencesDiffer(options, state))) return 'already-registered';
  try {
    await transact(
      options,
      { to: contract, data: encodeCall(tangleAbi, 'updateOperatorPreferences', [blueprintId, publicKey, rpcAddress]) },
      signal,
    );
    return options.dryRun === true ? 'dry-run' : 'updated';
  } catch (thrown) {
    throw refusal('REGISTRATION_FAILED', `the preferences of operator ${sender.address} cannot be updated`, thrown);
  }
}

async function preferencesDiffer(options: RegistrationOptions, state: OperatorState): Promise<boolean> {
  const { request, contract, blueprintId, sender, publicKey, rpcAddress } = options;
  const present = await readView(request, contract, {
    abi: tangleAbi,
    name: 'getOperatorPreferences',
    args: [blueprintId, sender.address],
  });
  if (present.ecdsaPublicKey.toLowerCase() !== publicKey.toLowerCase()) return true;
  if (state.rpcAddress !== undefined) return state.rpcAddress !== rpcAddress;
  const { log } = options.telemetry ?? silentTelemetry;
  log.warn('the endpoint does not show the address that the operator announced; it is left as it is', { operator: sender.address });
  return false;
}

/** Signs EIP-712 data. viem's local accounts have this shape. */
export interface HeartbeatSigner {
  readonly address: Address;
  signTypedData(data: {
    readonly domain: { readonly name: string; readonly version: string; readonly chainId: number; readonly verifyingContract: Address };
    readonly types: { readonly Heartbeat: readonly { readonly name: string; readonly type: string }[] };
    readonly primaryType: 'Heartbeat';
    readonly message: Readonly<Record<string, unknown>>;
  }): Promise<Hex>;
}

export interface HeartbeatMetric {
  readonly name: string;
  /** uint256. */
  readonly value: bigint;
}

/** What one heartbeat came to. `failures` counts those in a row. */
export type HeartbeatReport =
  | { readonly ok: true; readonly at: number; readonly metricsHash: Hex; readonly transactionHash?: Hex }
  | { readonly ok: false; readonly at: number; readonly error: RunnerError; readonly failures: number };

export interface HeartbeatOptions extends OperatorOptions {
  readonly serviceId: bigint;
  /** Signs each heartbeat; must be the account of the sender. Without it heartbeats are sent unsigned: the sender alone vouches for them. */
  readonly signer?: HeartbeatSigner;
  /** Default 300,000. An operator counts as offline after three missed ones. */
  readonly intervalMs?: number;
  /** For one heartbeat, until it is mined; default 60,000. */
  readonly timeoutMs?: number;
  /** 0 healthy, 1 degraded; default 0. */
  readonly status?: () => number;
  readonly metrics?: () => readonly HeartbeatMetric[];
  /** From 0 up to, not including, 1; default Math.random. */
  readonly random?: () => number;
  readonly onBeat?: (report: HeartbeatReport) => void;
}

const INTERVAL_MS = 300_000;
const TIMEOUT_MS = 60_000;
const FAILURE_MS_MIN = 5000;
const JITTER = 0.1;
/** The contract takes signatures up to 300 seconds old; one minute is left for mining. */
const SIGNED_AGE_SECONDS_MAX = 240n;
const HEARTBEAT_FIELDS = [
  { name: 'operator', type: 'address' },
  { name: 'serviceId', type: 'uint64' },
  { name: 'blueprintId', type: 'uint64' },
  { name: 'statusCode', type: 'uint8' },
  { name: 'metricsHash', type: 'bytes32' },
  { name: 'timestamp', type: 'uint64' },
] as const;

/**
 * Sends a heartbeat at once, and then one in each interval, up to 10 % early so that operators do not beat together. A failure is reported
 * and tried again sooner; it never rejects. Throws `CONFIG_INVALID` when the signer is not the sender.
 */
export function heartbeat(options: HeartbeatOptions): OperatorService {
  const { signer, sender } = options;
  if (signer && signer.address.toLowerCase() !== sender.address.toLowerCase()) {
    throw new RunnerError(
      'CONFIG_INVALID',
      `heartbeats are signed by ${signer.address} but sent by ${sender.address}: they must be the same account`,
    );
  }
  return new Heartbeat(options);
}

class Heartbeat implements OperatorService {
  readonly name = 'heartbeat';
  readonly #options: HeartbeatOptions;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #sent: Counter;
  readonly #failed: Counter;
  readonly #lastSuccess: Gauge;
  #registry: Address | undefined;
  #chainId: number | undefined;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#telemetry = options.telemetry ?? silentTelemetry;
    const { metrics } = this.#telemetry;
    const total = { name: 'blueprint_heartbeats_total', help: 'Heartbeats by outcome.' };
    this.#sent = metrics.counter({ ...total, labels: { outcome: 'sent' } });
    this.#failed = metrics.counter({ ...total, labels: { outcome: 'failed' } });
    this.#lastSuccess = metrics.gauge({ name: 'blueprint_heartbeat_last_success_seconds', help: 'When the last heartbeat was accepted.' });
  }

  async run(signal: AbortSignal): Promise<void> {
    const { intervalMs = INTERVAL_MS, random = Math.random } = this.#options;
    let failures = 0;
    while (!signal.aborted) {
      const report = await this.#beat(signal, failures);
      if (signal.aborted) return;
      failures = report.ok ? 0 : report.failures;
      this.#report(report);
      const delayMs = failures === 0 ? intervalMs : Math.min(intervalMs, FAILURE_MS_MIN * 2 ** (failures - 1));
      await pause(this.#clock, delayMs * (1 - JITTER * random()), signal);
    }
  }

  async #beat(signal: AbortSignal, failures: number): Promise<HeartbeatReport> {
    const { blueprintId, serviceId, sender, timeoutMs = TIMEOUT_MS } = this.#options;
    const what = `heartbeat of ${sender.address} for service ${serviceId} of blueprint ${blueprintId}`;
    const late = new AbortController();
    const cancel = this.#clock.after(timeoutMs, () => late.abort());
    try {
      const metrics = encodeMetrics(this.#options.metrics?.() ?? []);
      const to = (this.#registry ??= await this.#findRegistry());
      const receipt = await transact(this.#options, { to, data: await this.#encode(to, metrics) }, AbortSignal.any([signal, late.signal]));
      return {
        ok: true,
        at: this.#clock.now(),
        metricsHash: keccak256(metrics),
        ...(receipt && { transactionHash: receipt.transactionHash }),
      };
    } catch (thrown) {
      const error = late.signal.aborted
        ? new RunnerError('HEARTBEAT_FAILED', `${what}: not mined within ${timeoutMs} ms`, { cause: thrown })
        : refusal('HEARTBEAT_FAILED', what, thrown);
      return { ok: false, at: this.#clock.now(), error, failures: failures + 1 };
    } finally {
      cancel();
    }
  }

  /** Signed with the time of the latest block: the contract refuses what is ahead of it. */
  async #encode(registry: Address, metrics: Hex): Promise<Hex> {
    const { request, serviceId, blueprintId, signer, status } = this.#options;
    const statusCode = status?.() ?? 0;
    const { timestamp } = await blockTime(request, 'latest');
    const age = BigInt(Math.floor(this.#clock.now() / 1000)) - timestamp;
    // A chain that stands still would refuse the signature as stale in its next block.
    if (!signer || age > SIGNED_AGE_SECONDS_MAX)
      return encodeCall(statusRegistryAbi, 'submitHeartbeatDirect', [serviceId, blueprintId, statusCode, metrics]);
    const chainId = (this.#chainId ??= Number(await request('eth_chainId', [])));
    const signature = await signer.signTypedData({
      domain: { name: 'OperatorStatusRegistry', version: '1', chainId, verifyingContract: registry },
      types: { Heartbeat: HEARTBEAT_FIELDS },
      primaryType: 'Heartbeat',
      message: { operator: signer.address, serviceId, blueprintId, statusCode, metricsHash: keccak256(metrics), timestamp },
    });
    return encodeCall(statusRegistryAbi, 'submitHeartbeat', [serviceId, blueprintId, statusCode, metrics, timestamp, signature]);
  }

  async #findRegistry(): Promise<Address> {
    const { request, contract } = this.#options;
    return (await readView(request, contract, { abi: tangleAbi, name: 'operatorStatusRegistry', args: [] })).toLowerCase() as Address;
  }

  #report(report: HeartbeatReport): void {
    const { log } = this.#telemetry;
    const fields = { serviceId: this.#options.serviceId.toString() };
    if (report.ok) {
      this.#sent.add();
      this.#lastSuccess.set(report.at / 1000);
      log.debug('heartbeat', fields);
    } else {
      this.#failed.add();
      const { code, message } = report.error;
      log.warn('heartbeat failed; it will be tried again', { ...fields, code, error: message, failures: report.failures });
    }
    try {
      this.#options.onBeat?.(report);
    } catch (thrown) {
      log.error('the listener of the heartbeat threw', { ...fields, error: toRunnerError(thrown).message });
    }
  }
}

/** MetricPair[] as the contract takes it; nothing at all for none. */
function encodeMetrics(metrics: readonly HeartbeatMetric[]): Hex {
  if (metrics.length === 0) return '0x';
  const pair = [
    { name: 'name', type: 'string' },
    { name: 'value', type: 'uint256' },
  ] as const;
  return encodeAbiParameters([{ type: 'tuple[]', components: pair }], [[...metrics]]);
}

/** Sends, or only asks the contract what it would say. */
async function transact(
  options: OperatorOptions,
  transaction: TransactionRequest,
  signal: AbortSignal | undefined,
): Promise<{ readonly transactionHash: Hex } | undefined> {
  const { sender, request, dryRun } = options;
  if (dryRun !== true) return sender.send(transaction, signal && { signal });
  await request('eth_call', [{ from: sender.address, to: transaction.to, data: transaction.data }, 'latest']);
  return undefined;
}

/** The contract said no, to a simulation or in a block. */
function isRefusal(thrown: unknown): thrown is RunnerError {
  if (!isRunnerError(thrown)) return false;
  return thrown.code === 'RESULT_REJECTED' || (thrown.code === 'RPC_ERROR' && typeof thrown.details['data'] === 'string');
}

/** A refusal of the contract as an error of this operation, with its reason; anything else as it is. */
function refusal(code: ErrorCode, what: string, thrown: unknown): RunnerError {
  if (!isRefusal(thrown)) return toRunnerError(thrown);
  const data = thrown.details['data'];
  const revert = typeof data === 'string' ? decodeRevert(data) : undefined;
  const error = revert?.error ?? thrown.details['error'];
  return new RunnerError(code, `${what}: ${revert?.text ?? thrown.message}`, {
    cause: thrown,
    details: { ...thrown.details, error },
    ...(error === 'EnforcedPause' && { retry: 'safe' }),
  });
}

/** Sleeps; comes back early when the signal fires. */
async function pause(clock: Clock, delayMs: number, signal: AbortSignal): Promise<void> {
  try {
    await clock.sleep(delayMs, signal);
  } catch (thrown) {
    if (!signal.aborted) throw thrown;
  }
}
