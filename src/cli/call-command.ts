/** The command that calls a job, with arguments that fit its types. */

import type { JobInfo } from '../job/job.ts';
import { parseParameters } from '../job/solidity.ts';
import type { SolidityType } from '../job/solidity.ts';
import { toJson } from './output.ts';

export interface CallTarget {
  /** Of a local chain: it is printed. */
  readonly key: string;
  readonly rpcUrl: string;
  readonly contract: string;
  readonly serviceId: bigint;
}

/** A line for a shell. It does not wait where a result never comes. */
export function callCommand(job: JobInfo & { readonly id: string }, { key, rpcUrl, contract, serviceId }: CallTarget): string {
  const target = `--service ${serviceId} --rpc-url ${rpcUrl} --contract ${contract}`;
  return `CALLER_PRIVATE_KEY=${key} npx bpr jobs submit ${job.id} ${target} ${valueFlags(job)}`;
}

function valueFlags({ raw, params, result }: JobInfo): string {
  if (raw) return '--data 0x00';
  const samples = sampleArguments(params);
  const types = params === '' ? '' : `--types '${params}' `;
  return `${types}--args '${toJson(samples, 0)}'${result === '' ? ' --no-wait' : ` --result '${result}'`}`;
}

/** JSON of arguments: integers that a JavaScript number cannot hold stay exact. */
export function parseValues(text: string): unknown {
  const exact = (_name: string, value: unknown, { source }: { readonly source?: string }): unknown =>
    typeof value === 'number' && source !== undefined && /^-?\d+$/.test(source) && !Number.isSafeInteger(value) ? BigInt(source) : value;
  // as: the compiler does not know the third argument of the reviver yet
  return JSON.parse(text, exact as (name: string, value: unknown) => unknown);
}

/** Values for these parameters, made up. */
export function sampleArguments(params: string): unknown[] {
  return parseParameters(params).map(({ type }) => sampleOf(type));
}

/** A value that `jobs submit` takes for the type. */
function sampleOf(type: SolidityType): unknown {
  switch (type.kind) {
    case 'uint':
    case 'int':
      return 1;
    case 'bool':
      return true;
    case 'address':
      return `0x${'11'.repeat(20)}`;
    case 'fixedBytes':
      return `0x${'00'.repeat(type.size)}`;
    case 'string':
      return 'text';
    case 'bytes':
      return '0x00';
    case 'list':
      return [sampleOf(type.item)];
    case 'array':
      return Array.from({ length: type.length }, () => sampleOf(type.item));
    case 'tuple':
      return type.named
        ? Object.fromEntries(type.fields.map(({ name, type: field }) => [name, sampleOf(field)]))
        : type.fields.map(({ type: field }) => sampleOf(field));
    case 'optional':
    case 'void':
      return null;
  }
}
