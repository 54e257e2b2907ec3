/** What a runner tells its listeners, as plain values that can be printed, sent to another process and read again. */

import { decodeAbi } from '../job/abi.ts';
import type { JobCall } from '../job/call.ts';
import type { JobInfo } from '../job/job.ts';
import { parseParameters } from '../job/solidity.ts';
import type { BlueprintRunner } from '../runner/runner.ts';
import { redactText } from '../telemetry/redact.ts';
import { toHex, toJson } from './output.ts';

/** Which call of the chain, or of which producer. `seq` is its row in the ledger: settlement names calls by it. */
interface CallName {
  readonly seq?: number;
  readonly serviceId?: bigint;
  readonly callId?: bigint;
  readonly id?: string;
  readonly jobId: bigint;
  /** Name of the job, when the program defines it. */
  readonly job?: string;
}

export type RunnerLine =
  | { readonly event: 'state'; readonly state: string }
  | ({ readonly event: 'seen'; readonly blockNumber: bigint; readonly arguments: string } & CallName)
  | ({ readonly event: 'attempt'; readonly executor: string; readonly attempt: number; readonly arguments: string } & CallName)
  | ({
      readonly event: 'executed';
      readonly executor: string;
      readonly attempt: number;
      readonly durationMs: number;
      readonly output: Uint8Array | undefined;
      readonly result: string;
    } & CallName)
  | ({ readonly event: 'failed'; readonly code: string; readonly message: string } & CallName)
  | { readonly event: 'submitted'; readonly hash: string; readonly nonce: number; readonly calls: readonly number[] }
  | {
      readonly event: 'mined';
      readonly hash: string;
      readonly nonce: number;
      readonly calls: readonly number[];
      readonly success: boolean;
      readonly blockNumber: bigint;
    }
  | { readonly event: 'final'; readonly calls: readonly number[] }
  | { readonly event: 'rejected'; readonly seq: number; readonly code: string; readonly reason: string }
  | { readonly event: 'closed'; readonly seq: number; readonly reason: string }
  | { readonly event: 'error'; readonly source: string; readonly code: string; readonly message: string };

/** Hands on every step of every call, with the values of arguments and results where `define` knows their types. */
export function followRunner(
  runner: BlueprintRunner,
  define: (jobId: bigint) => JobInfo | undefined,
  listener: (line: RunnerLine) => void,
): void {
  const nameOf = ({ id, jobId, origin }: JobCall, seq: number | undefined): CallName => {
    const job = define(jobId)?.name;
    const which = origin ? { serviceId: origin.serviceId, callId: origin.callId } : { id };
    return { ...(seq !== undefined && { seq }), ...which, jobId, ...(job !== undefined && { job }) };
  };
  runner.on('state', (state) => listener({ event: 'state', state }));
  runner.on('seen', ({ origin: { serviceId, callId, jobIndex, blockNumber, inputs } }) => {
    const info = define(BigInt(jobIndex));
    const name = { serviceId, callId, jobId: BigInt(jobIndex), ...(info && { job: info.name }) };
    listener({ event: 'seen', ...name, blockNumber, arguments: valuesText(info, 'params', inputs) });
  });
  runner.on('attempt', ({ seq, call, attempt, executor }) => {
    const shown = valuesText(define(call.jobId), 'params', call.body);
    listener({ event: 'attempt', ...nameOf(call, seq), executor, attempt, arguments: shown });
  });
  runner.on('executed', ({ seq, call, executor, attempt, durationMs, results }) => {
    const output = results[0]?.body;
    const result = output ? valuesText(define(call.jobId), 'result', output) : 'no result';
    listener({ event: 'executed', ...nameOf(call, seq), executor, attempt, durationMs, output, result });
  });
  runner.on('failed', ({ seq, call, error }) => {
    listener({ event: 'failed', ...nameOf(call, seq), code: error.code, message: redactText(error.message) });
  });
  runner.on('submitted', ({ hash, nonce, calls }) => listener({ event: 'submitted', hash, nonce, calls }));
  runner.on('mined', ({ hash, nonce, calls, receipt }) => {
    listener({ event: 'mined', hash, nonce, calls, success: receipt.success, blockNumber: receipt.block.number });
  });
  runner.on('final', ({ calls }) => listener({ event: 'final', calls }));
  runner.on('rejected', ({ seq, code, reason }) => listener({ event: 'rejected', seq, code, reason: redactText(reason) }));
  runner.on('closed', ({ seq, reason }) => listener({ event: 'closed', seq, reason }));
  runner.on('error', ({ code, message }, source) => listener({ event: 'error', source, code, message: redactText(message) }));
}

/** `12, "abc"`; bytes that are not of these types as they are. */
function valuesText(info: JobInfo | undefined, list: 'params' | 'result', bytes: Uint8Array): string {
  if (!info || info.raw) return toHex(bytes);
  try {
    return decodeAbi(parseParameters(info[list]), bytes)
      .map((value) => (typeof value === 'bigint' ? String(value) : toJson(value, 0)))
      .join(', ');
  } catch {
    return toHex(bytes);
  }
}
