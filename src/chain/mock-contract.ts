/**
 * The job contract in memory, with the rules of the real one that an operator can run into. Every change can be undone: that is how
 * the mock chain simulates, reverts and reorganises.
 */

import type { Abi } from 'viem';
import { decodeFunctionData, encodeErrorResult, parseAbi } from 'viem/utils';
import type { Address, Hex } from '../job/call.ts';
import type { ResultBatch } from './chain.ts';
import { CONTRACT_ERRORS } from './contracts.ts';

const FUNCTIONS = parseAbi([
  'function submitResult(uint64 serviceId, uint64 callId, bytes result)',
  'function submitResults(uint64 serviceId, uint64[] callIds, bytes[] results)',
  'function registerOperator(uint64 blueprintId, bytes ecdsaPublicKey, string rpcAddress)',
  'function registerOperator(uint64 blueprintId, bytes ecdsaPublicKey, string rpcAddress, bytes registrationInputs)',
]);

/** Measured on the real contract. */
const GAS = {
  submitJob: 172_000n,
  submitResult: 166_000n,
  batch: 98_000n,
  batchedResult: 68_000n,
  registerOperator: 250_000n,
  revert: 45_000n,
};

/** The SchemaTarget of a result. */
const SCHEMA_TARGET_RESULT = 3;

export interface MockService {
  readonly serviceId: bigint;
  readonly blueprintId: bigint;
  readonly owner: Address;
  readonly operators: readonly Address[];
  /** Results that complete a call. */
  readonly requiredResults: number;
  /** Seconds; 0: for ever. */
  readonly ttl: bigint;
  /** Absent: anybody may call. */
  readonly permittedCallers?: readonly Address[];
}

/** A job call to put on the mock chain. */
export interface JobSubmission {
  readonly serviceId: bigint;
  readonly jobIndex: number;
  readonly inputs: Uint8Array;
  /** Default: an address of the mock. */
  readonly caller?: Address;
  /** Only these operators may answer, as after submitJobFromQuote. */
  readonly quotedOperators?: readonly Address[];
}

export interface ResultSubmission {
  readonly serviceId: bigint;
  readonly callId: bigint;
  readonly operator: Address;
  readonly output: Uint8Array;
}

/** Why the contract refuses a result: what a poison call meets. */
export type Refusal = 'SchemaValidationFailed' | 'AggregationRequired' | 'NotQuotedOperator' | 'silent';

export type RefuseResult = (result: ResultSubmission & { readonly jobIndex: number; readonly inputs: Uint8Array }) => Refusal | undefined;

export interface ContractRevert {
  /** Empty: it reverted without a reason. */
  readonly error: string;
  readonly args: readonly unknown[];
}

export interface Executed {
  readonly gas: bigint;
  readonly revert?: ContractRevert;
  readonly calls: readonly SubmittedCall[];
  readonly results: readonly ResultSubmission[];
}

export interface SubmittedCall extends Required<Omit<JobSubmission, 'quotedOperators'>> {
  readonly callId: bigint;
  readonly quotedOperators?: readonly Address[];
}

/** Changes in order, each with the way back. */
export class UndoLog {
  readonly #undo: (() => void)[] = [];

  /** Where things stand now, for `rewind`. */
  mark(): number {
    return this.#undo.length;
  }

  record(undo: () => void): void {
    this.#undo.push(undo);
  }

  rewind(mark: number): void {
    while (this.#undo.length > mark) this.#undo.pop()?.();
  }

  set<K, V>(map: Map<K, V>, key: K, value: V): void {
    const had = map.has(key);
    const before = map.get(key);
    map.set(key, value);
    this.record(() => {
      if (had) map.set(key, before as V); // it was there
      else map.delete(key);
    });
  }
}

type ServiceStatus = 'active' | 'terminated';

interface OpenCall extends SubmittedCall {
  readonly answeredBy: readonly Address[];
}

export class MockContract {
  readonly address: Address;
  refuse: RefuseResult | undefined;
  paused = false;
  readonly #log: UndoLog;
  readonly #services = new Map<bigint, MockService & { readonly createdAt: bigint }>();
  readonly #status = new Map<bigint, ServiceStatus>();
  readonly #nextCallId = new Map<bigint, bigint>();
  readonly #calls = new Map<string, OpenCall>();
  readonly #registered = new Map<string, string>();

  constructor(address: Address, log: UndoLog) {
    this.address = address;
    this.#log = log;
  }

  /** Outside of any block: no reorg takes it away. */
  addService(service: MockService, createdAt: bigint): void {
    this.#services.set(service.serviceId, { ...service, createdAt });
  }

  service(
    serviceId: bigint,
    now: bigint,
  ): (MockService & { readonly createdAt: bigint; readonly status: ServiceStatus | 'expired' }) | undefined {
    const service = this.#services.get(serviceId);
    if (!service) return undefined;
    const expired = service.ttl > 0n && now > service.createdAt + service.ttl;
    return { ...service, status: this.#status.get(serviceId) ?? (expired ? 'expired' : 'active') };
  }

  serviceIds(): bigint[] {
    return [...this.#services.keys()];
  }

  rpcAddressOf(blueprintId: bigint, operator: Address): string | undefined {
    return this.#registered.get(`${blueprintId}/${operator.toLowerCase()}`);
  }

  submitJob(job: JobSubmission & { readonly caller: Address }, now: bigint): Executed {
    const { serviceId, caller } = job;
    const unusable = this.#unusable(serviceId, now);
    if (unusable) return reverted(unusable);
    const permitted = this.#services.get(serviceId)?.permittedCallers;
    if (permitted && !includes(permitted, caller)) return reverted({ error: 'NotPermittedCaller', args: [serviceId, caller] });
    const callId = this.#nextCallId.get(serviceId) ?? 0n;
    this.#log.set(this.#nextCallId, serviceId, callId + 1n);
    const call: SubmittedCall = {
      ...job,
      callId,
      caller: lower(caller),
      ...(job.quotedOperators && { quotedOperators: job.quotedOperators.map(lower) }),
    };
    this.#log.set(this.#calls, `${serviceId}/${callId}`, { ...call, answeredBy: [] });
    return { gas: GAS.submitJob, calls: [call], results: [] };
  }

  submitResults(submissions: readonly ResultSubmission[], now: bigint): Executed {
    const mark = this.#log.mark();
    for (const submission of submissions) {
      const revert = this.#submitResult(submission, now);
      if (!revert) continue;
      this.#log.rewind(mark);
      return reverted(revert);
    }
    const gas = submissions.length === 1 ? GAS.submitResult : GAS.batch + GAS.batchedResult * BigInt(submissions.length);
    return { gas, calls: [], results: submissions.map((submission) => ({ ...submission, operator: lower(submission.operator) })) };
  }

  terminateService(serviceId: bigint): Executed {
    this.#log.set(this.#status, serviceId, 'terminated');
    return { gas: 100_000n, calls: [], results: [] };
  }

  /** A transaction to the contract as an account sends it. Functions that the mock does not know succeed and change nothing. */
  execute(from: Address, data: Hex, now: bigint): Executed {
    const batch = decodeSubmission(data);
    if (batch) {
      const { serviceId, callIds, results } = batch;
      if (callIds.length !== results.length) return reverted({ error: 'LengthMismatch', args: [] });
      const submissions = callIds.map((callId, index) => ({
        serviceId,
        callId,
        operator: from,
        output: results[index] ?? new Uint8Array(),
      }));
      return this.submitResults(submissions, now);
    }
    const decoded = decode(data);
    if (decoded?.functionName === 'registerOperator') return this.#registerOperator(from, decoded.args[0], decoded.args[2]);
    return { gas: 50_000n, calls: [], results: [] };
  }

  #registerOperator(operator: Address, blueprintId: bigint, rpcAddress: string): Executed {
    if (this.rpcAddressOf(blueprintId, operator) !== undefined)
      return reverted({ error: 'OperatorAlreadyRegistered', args: [blueprintId, operator] });
    this.#log.set(this.#registered, `${blueprintId}/${lower(operator)}`, rpcAddress);
    return { gas: GAS.registerOperator, calls: [], results: [] };
  }

  #submitResult(submission: ResultSubmission, now: bigint): ContractRevert | undefined {
    const { serviceId, callId, output } = submission;
    const operator = lower(submission.operator);
    const unusable = this.#unusable(serviceId, now);
    if (unusable) return unusable;
    const key = `${serviceId}/${callId}`;
    const call = this.#calls.get(key);
    const service = this.#services.get(serviceId);
    if (!call || !service) return { error: 'JobCallNotFound', args: [serviceId, callId] };
    if (call.answeredBy.length >= Math.max(1, service.requiredResults)) return { error: 'JobAlreadyCompleted', args: [serviceId, callId] };
    if (!includes(service.operators, operator)) return { error: 'OperatorNotInService', args: [serviceId, operator] };
    if (call.quotedOperators && !call.quotedOperators.includes(operator)) return { error: 'NotQuotedOperator', args: [serviceId, callId] };
    if (call.answeredBy.includes(operator)) return { error: 'ResultAlreadySubmitted', args: [serviceId, callId, operator] };
    const refusal = this.refuse?.({ ...submission, operator, output, jobIndex: call.jobIndex, inputs: call.inputs });
    if (refusal) return refused(refusal, call, service.blueprintId);
    this.#log.set(this.#calls, key, { ...call, answeredBy: [...call.answeredBy, operator] });
    return undefined;
  }

  #unusable(serviceId: bigint, now: bigint): ContractRevert | undefined {
    if (this.paused) return { error: 'EnforcedPause', args: [] };
    const service = this.service(serviceId, now);
    if (!service) return { error: 'ServiceNotFound', args: [serviceId] };
    switch (service.status) {
      case 'terminated':
        return { error: 'ServiceNotActive', args: [serviceId] };
      case 'expired':
        return { error: 'ServiceExpired', args: [serviceId] };
      case 'active':
        return undefined;
    }
  }
}

/** The results that transaction data carries; undefined when it is something else. */
export function decodeSubmission(data: Hex): ResultBatch | undefined {
  const decoded = decode(data);
  switch (decoded?.functionName) {
    case 'submitResult':
      return { serviceId: decoded.args[0], callIds: [decoded.args[1]], results: [bytesOf(decoded.args[2])] };
    case 'submitResults':
      return { serviceId: decoded.args[0], callIds: decoded.args[1], results: decoded.args[2].map(bytesOf) };
    case 'registerOperator':
    case undefined:
      return undefined;
  }
}

/** The bytes with which the contract reverts. */
export function encodeRevert(revert: ContractRevert): Hex {
  const signature = Object.values(CONTRACT_ERRORS).find((known) => known.startsWith(`${revert.error}(`));
  if (revert.error === '' || !signature) return '0x';
  const abi: Abi = parseAbi([`error ${signature}`]);
  return encodeErrorResult({ abi, errorName: revert.error, args: revert.args });
}

function refused(refusal: Refusal, call: SubmittedCall, blueprintId: bigint): ContractRevert {
  const { serviceId, callId, jobIndex } = call;
  switch (refusal) {
    case 'SchemaValidationFailed':
      return { error: refusal, args: [SCHEMA_TARGET_RESULT, blueprintId, BigInt(jobIndex), 0n] };
    case 'AggregationRequired':
      return { error: refusal, args: [serviceId, jobIndex] };
    case 'NotQuotedOperator':
      return { error: refusal, args: [serviceId, callId] };
    case 'silent':
      return { error: '', args: [] };
  }
}

function reverted(revert: ContractRevert): Executed {
  return { gas: GAS.revert, revert, calls: [], results: [] };
}

function decode(data: Hex): ReturnType<typeof decodeFunctionData<typeof FUNCTIONS>> | undefined {
  try {
    return decodeFunctionData({ abi: FUNCTIONS, data });
  } catch {
    // Another function than the mock's, or arguments that are none: what the real contract does with them is not imitated.
    return undefined;
  }
}

function bytesOf(hex: Hex): Uint8Array {
  return Uint8Array.from(Buffer.from(hex.slice(2), 'hex'));
}

function lower(address: Address): Address {
  return address.toLowerCase() as Address; // stays hexadecimal
}

function includes(addresses: readonly Address[], address: Address): boolean {
  return addresses.some((other) => lower(other) === lower(address));
}
