/** A job call and its result: what travels the whole line from the chain to the author's function and back. */

import { RunnerError } from '../errors.ts';

export type Hex = `0x${string}`;
export type Address = Hex;

/** Anything that names a job: an unsigned integer below 2^256, as number, bigint, decimal or 0x string, or at most 32 big-endian bytes. */
export type JobIdLike = bigint | number | string | Uint8Array;

const JOB_ID_LIMIT = 1n << 256n;

/** The canonical form of a job id. Throws `JOB_ID_INVALID`. */
export function toJobId(value: JobIdLike): bigint {
  let id: bigint;
  try {
    id = value instanceof Uint8Array ? BigInt(`0x0${Buffer.from(value).toString('hex')}`) : BigInt(value);
  } catch (cause) {
    throw new RunnerError('JOB_ID_INVALID', `${JSON.stringify(String(value))} is not a job id`, { cause });
  }
  const emptyText = typeof value === 'string' && value.trim() === '';
  if (id < 0n || id >= JOB_ID_LIMIT || emptyText || (value instanceof Uint8Array && value.length > 32)) {
    throw new RunnerError('JOB_ID_INVALID', `${String(value)} is not a job id: it must be an unsigned integer below 2^256`);
  }
  return id;
}

/**
 * What a call or result carries besides its body: names are case-insensitive, values are text (numbers in decimal, bytes as 0x
 * hex). A value marked sensitive is never logged.
 */
export class Metadata {
  readonly #values = new Map<string, string>();
  /** Most have none: a set for each would be half of the cost. */
  #sensitive: Set<string> | undefined;

  constructor(entries?: Iterable<readonly [string, string]>) {
    if (entries) for (const [name, value] of entries) this.set(name, value);
  }

  get size(): number {
    return this.#values.size;
  }

  get(name: string): string | undefined {
    return this.#values.get(name) ?? this.#values.get(name.toLowerCase());
  }

  has(name: string): boolean {
    return this.get(name) !== undefined;
  }

  set(name: string, value: string, options?: { readonly sensitive?: boolean }): this {
    const key = name.toLowerCase();
    this.#values.set(key, value);
    if (options?.sensitive) (this.#sensitive ??= new Set()).add(key);
    return this;
  }

  delete(name: string): boolean {
    const key = name.toLowerCase();
    this.#sensitive?.delete(key);
    return this.#values.delete(key);
  }

  isSensitive(name: string): boolean {
    return this.#sensitive?.has(name.toLowerCase()) ?? false;
  }

  [Symbol.iterator](): IterableIterator<[string, string]> {
    return this.#values.entries();
  }

  /** For logs: sensitive values are replaced. */
  toJSON(): Record<string, string> {
    const shown: Record<string, string> = {};
    for (const [name, value] of this.#values) shown[name] = this.#sensitive?.has(name) ? '[redacted]' : value;
    return shown;
  }
}

// One by one, so that a handler bundle leaves out those it has no use for.
export const CALL_ID = 'x-tangle-call-id';
export const SERVICE_ID = 'x-tangle-service-id';
export const CALL_KEY = 'x-blueprint-call-key';
export const TIMEOUT_MS = 'x-blueprint-timeout-ms';
export const PARAMS_CODEC = 'x-blueprint-params-codec';
export const RESULT_CODEC = 'x-blueprint-result-codec';

/** Metadata names of a call from the chain; the spelling is upstream's (tangle-extra). */
export const TANGLE = {
  callId: CALL_ID,
  serviceId: SERVICE_ID,
  jobIndex: 'x-tangle-job-index',
  blockNumber: 'x-tangle-block-number',
  blockHash: 'x-tangle-block-hash',
  timestamp: 'x-tangle-timestamp',
  caller: 'x-tangle-caller',
} as const;

/** Metadata names of our own. */
export const BLUEPRINT = {
  /** The `id` of the call: the idempotency key. */
  callKey: CALL_KEY,
  /** Which attempt this is, from 1. */
  attempt: 'x-blueprint-attempt',
  /** Milliseconds that the caller still waits. */
  timeoutMs: TIMEOUT_MS,
  /** `abi` or `compact`: how the arguments are encoded. Absent: `abi`. */
  paramsCodec: PARAMS_CODEC,
  /** `abi` or `compact`: how the result must be encoded. Absent: `abi`. */
  resultCodec: RESULT_CODEC,
} as const;

/** Metadata names of W3C Trace Context: the span of the attempt, for jobs that trace what they do. */
export const TRACE = { parent: 'traceparent', state: 'tracestate' } as const;

/** How job arguments and results are encoded: `abi.encode`, or the compact encoding of a job that has a schema on chain. */
export type Codec = 'abi' | 'compact';

/** One JobSubmitted or JobSubmittedFromQuote as the chain shows it. */
export interface ChainCall {
  readonly chainId: number;
  /** The Tangle contract that emitted the event, lower case. */
  readonly contract: Address;
  readonly serviceId: bigint;
  /** Counts per service. After a reorg the same id can carry another call. */
  readonly callId: bigint;
  /** uint8. */
  readonly jobIndex: number;
  /** Lower case. */
  readonly caller: Address;
  readonly inputs: Uint8Array;
  readonly blockNumber: bigint;
  readonly blockHash: Hex;
  readonly transactionHash: Hex;
  readonly logIndex: number;
  /** Seconds since the epoch, when the endpoint tells it with the log. */
  readonly timestamp?: bigint;
  /** Set for JobSubmittedFromQuote: only these operators may answer. Lower case. */
  readonly quotedOperators?: readonly Address[];
}

/** A request to run one job. */
export interface JobCall {
  /** Unique and stable over restarts: the idempotency key of everything that happens to the call. */
  readonly id: string;
  readonly jobId: bigint;
  /** The encoded arguments. */
  readonly body: Uint8Array;
  readonly metadata: Metadata;
  /** Where the call comes from; absent when a producer other than the chain made it. */
  readonly origin?: ChainCall;
}

/** What one job returned: encoded bytes, ready to be settled. */
export interface JobResult {
  readonly body: Uint8Array;
  readonly metadata: Metadata;
}
