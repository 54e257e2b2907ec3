/** What the commands take from the environment, under the names that the runner reads too. */

import { resolve } from 'node:path';
import type { Address } from '../job/call.ts';
import { RunnerError } from '../errors.ts';
import type { Io } from './output.ts';

export interface ChainFlags {
  readonly rpcUrl?: string;
  readonly contract?: string;
}

export interface DataFlags {
  readonly dataDir?: string;
  readonly ledger?: string;
}

/** Undefined when no chain is configured. */
export function rpcUrlOf({ env }: Io, flags: ChainFlags): string | undefined {
  return flags.rpcUrl ?? env['HTTP_RPC_URL'] ?? env['RPC_URL'];
}

/** Undefined when no contract is configured. Throws `CONFIG_INVALID` for what is not an address. */
export function contractOf({ env }: Io, flags: ChainFlags): Address | undefined {
  const text = flags.contract ?? env['TANGLE_CONTRACT'] ?? env['TANGLE_CONTRACT_ADDRESS'];
  if (text === undefined || text === '') return undefined;
  if (!/^0x[0-9a-f]{40}$/i.test(text)) throw new RunnerError('CONFIG_INVALID', `the contract ${text} is not an address`);
  return text.toLowerCase() as Address; // as: matched above
}

/** Undefined when no chain id is configured. Throws `CONFIG_INVALID` for what is not a number. */
export function chainIdOf({ env }: Io): number | undefined {
  const text = env['CHAIN_ID'];
  if (text === undefined || text === '') return undefined;
  if (!/^[1-9]\d{0,14}$/.test(text)) throw new RunnerError('CONFIG_INVALID', `CHAIN_ID is ${text}; it must be a positive number`);
  return Number(text);
}

export function dataDirOf({ env, cwd }: Io, flags: DataFlags): string {
  return resolve(cwd, flags.dataDir ?? env['BPR_DATA_DIR'] ?? '.blueprint-runner');
}

export function ledgerFileOf(io: Io, flags: DataFlags): string {
  return flags.ledger === undefined ? resolve(dataDirOf(io, flags), 'ledger.sqlite') : resolve(io.cwd, flags.ledger);
}
