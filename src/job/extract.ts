/** Extractors: what a job takes from its call besides the arguments. */

import { RunnerError } from '../errors.ts';
import { TANGLE } from './call.ts';
import type { Address, Hex, JobCall, Metadata } from './call.ts';
import { reasonOf } from './scalar.ts';

/** Any function of the call. What it throws rejects the call with `JOB_REJECTED`, naming the extractor and the job. */
export type Extractor<T = unknown> = (call: JobCall) => T;

export type Extractors = Readonly<Record<string, Extractor>>;

/** The values of a record of extractors. */
export type Extracted<X extends Extractors> = { readonly [K in keyof X]: ReturnType<X[K]> };

/** The id of the call, unique within its service. */
export const CallId: Extractor<bigint> = (call) => integer(call, TANGLE.callId);
export const ServiceId: Extractor<bigint> = (call) => integer(call, TANGLE.serviceId);
export const BlockNumber: Extractor<bigint> = (call) => integer(call, TANGLE.blockNumber);
export const BlockHash: Extractor<Hex> = (call) => hex(call, TANGLE.blockHash, 32);
/** Of the block, in seconds since the epoch. */
export const Timestamp: Extractor<bigint> = (call) => integer(call, TANGLE.timestamp);
/** Who submitted the call, lower case. */
export const Caller: Extractor<Address> = (call) => hex(call, TANGLE.caller, 20);
export const JobId: Extractor<bigint> = (call) => call.jobId;
/** The encoded arguments as they came. */
export const Body: Extractor<Uint8Array> = (call) => call.body;

/** All metadata of the call, or the text under one name. */
export function metadata(): Extractor<Metadata>;
export function metadata(name: string): Extractor<string>;
export function metadata(name?: string): Extractor<Metadata | string> {
  return name === undefined ? (call) => call.metadata : (call) => text(call, name);
}

/**
 * Undefined instead of a rejection when the call does not carry what the extractor reads. A malformed value is still rejected.
 *
 * @example
 * defineJob({ params: 'uint64 x', result: 'uint64', extract: { caller: optional(Caller) } }, ([x], { caller }) => (caller ? x : 0n));
 */
export function optional<T>(extractor: Extractor<T>): Extractor<T | undefined> {
  return (call) => {
    try {
      return extractor(call);
    } catch (error) {
      if (error instanceof Missing) return undefined;
      throw error;
    }
  };
}

/** Runs the extractors of a job. Throws `JOB_REJECTED`. */
export function extractInto(
  target: Record<string, unknown>,
  extractors: readonly (readonly [string, Extractor])[],
  from: { readonly call: JobCall; readonly job: string },
): void {
  for (const [name, extractor] of extractors) {
    try {
      target[name] = extractor(from.call);
    } catch (cause) {
      const reason = reasonOf(cause);
      throw new RunnerError('JOB_REJECTED', `job ${from.job} cannot extract ${name} from call ${from.call.id}: ${reason}`, {
        cause,
        details: { job: from.job, extractor: name, call: from.call.id },
      });
    }
  }
}

class Missing extends Error {}

function text(call: JobCall, name: string): string {
  const value = call.metadata.get(name);
  if (value === undefined) throw new Missing(`the call carries no ${name}`);
  return value;
}

function integer(call: JobCall, name: string): bigint {
  const value = text(call, name);
  if (!/^\d{1,78}$/.test(value)) throw new RangeError(`${name} is not a decimal integer`);
  return BigInt(value);
}

function hex(call: JobCall, name: string, size: number): Hex {
  const value = text(call, name).toLowerCase();
  if (!isHexOf(value, size)) throw new RangeError(`${name} is not a 0x string of ${size} bytes`);
  return value;
}

function isHexOf(value: string, size: number): value is Hex {
  return value.length === 2 + 2 * size && /^0x[0-9a-f]*$/.test(value);
}
