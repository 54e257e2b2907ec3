/** What a runner is made of: the builder gathers it, the runner starts and stops it. */

import { types } from 'node:util';
import type { ChainClient, Signer, TransactionSender } from '../chain/chain.ts';
import type { Clock } from '../clock.ts';
import type { RunnerError } from '../errors.ts';
import type { ExecutorRegistry } from '../executor/registry.ts';
import type { JobCall, JobResult } from '../job/call.ts';
import type { JobInfo } from '../job/job.ts';
import type { Ledger } from '../ledger/ledger.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import type { ResolvedConfig } from './config.ts';
import type { RestartPolicy } from './supervisor.ts';

/** Makes calls besides the chain. */
export interface Producer {
  readonly name: string;
  /**
   * Calls, or many at once. With a ledger they are on disk when the next ones are asked for, so that code behind a `yield` may acknowledge
   * them, and a call whose id is known is not run again. What is no call is reported (`CONFIG_INVALID`), and the others are taken. Called
   * again, more and more slowly, when it throws.
   */
  calls(signal: AbortSignal): AsyncIterable<JobCall | readonly JobCall[]>;
  /** Hears of every call of the runner that was executed or failed, and of its own that are known already; never throws. */
  ended?(call: JobCall): void;
}

/** Gets every result of every call, after it was journaled; at most once. */
export interface Consumer {
  readonly name: string;
  /** While it is awaited the call keeps its place among those that run. */
  consume(result: JobResult, call: JobCall): void | Promise<void>;
}

export interface ServiceContext {
  /** Undefined without a chain. */
  readonly chain: ChainClient | undefined;
  /** Sends through the nonces of settlement. Throws `SIGNER_MISSING`, or `STATE_INVALID` in a dry run or without a chain. */
  readonly sender: () => TransactionSender;
}

/** Runs beside the calls until its signal fires or its work is done. */
export interface BackgroundService {
  readonly name: string;
  run(signal: AbortSignal, context: ServiceContext): Promise<void>;
  /** Its failure stops the runner, gracefully. Default false. */
  readonly critical?: boolean;
  /** Default: `on-failure`; `never` when critical. */
  readonly restart?: RestartPolicy;
}

/** `source` names what failed: a call, a producer, a consumer, a service, `chain`, `settlement`, `ledger`, `process`. */
export type ErrorHook = (error: RunnerError, context: { readonly source: string; readonly call?: JobCall }) => void;

export interface RunnerParts {
  readonly config: ResolvedConfig;
  readonly clock: Clock;
  readonly telemetry: Telemetry;
  /** The text of /metrics. */
  readonly exposeMetrics: (() => Promise<string>) | undefined;
  readonly executors: ExecutorRegistry;
  readonly definition: (jobId: bigint) => JobInfo | undefined;
  /** Undefined: no chain is followed. */
  readonly chain: { readonly client: ChainClient; readonly isOurs: boolean } | undefined;
  readonly signer: Signer | undefined;
  /** Given by the program, which closes it. */
  readonly ledger: Ledger | undefined;
  readonly producers: readonly Producer[];
  readonly consumers: readonly Consumer[];
  readonly services: readonly BackgroundService[];
  readonly onError: ErrorHook | undefined;
  readonly onShutdown: (() => void | Promise<void>) | undefined;
}

/** Why what a producer made is no call. Its author may do without types, and what is journaled must be what was made. */
export function problemOf(made: unknown): string | undefined {
  if (typeof made !== 'object' || made === null) return `it made ${String(made)}; it must make calls`;
  const { id, jobId, body, metadata } = made as Partial<Record<keyof JobCall, unknown>>; // as: looked at below
  if (typeof id !== 'string' || id === '') return 'the id of a call must be text';
  if (typeof jobId !== 'bigint') return `the jobId of call ${id} must be a bigint`;
  if (!types.isUint8Array(body)) return `the body of call ${id} must be a Uint8Array`;
  const isMetadata = typeof metadata === 'object' && metadata !== null && 'isSensitive' in metadata;
  return isMetadata ? undefined : `the metadata of call ${id} must be a Metadata`;
}

/** Gives results to every consumer. One that throws is reported; the others get theirs. A promise when one has to be waited for. */
export function deliverer(
  consumers: readonly Consumer[],
  onError: (error: unknown, consumer: Consumer, call: JobCall) => void,
): (results: readonly JobResult[], call: JobCall) => Promise<void> | undefined {
  return (results, call) => {
    let pending: Promise<void>[] | undefined;
    for (const consumer of consumers) {
      for (const result of results) {
        try {
          const done = consumer.consume(result, call);
          if (done) (pending ??= []).push(done.catch((error: unknown) => onError(error, consumer, call)));
        } catch (error) {
          onError(error, consumer, call);
        }
      }
    }
    return pending && Promise.all(pending).then(() => undefined);
  };
}
