/** What the commands take from their flags and from the environment: read as the runner reads it. */

import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Address } from '../job/call.ts';
import { resolveConfig } from '../runner/config.ts';
import type { ResolvedConfig } from '../runner/config.ts';
import type { Io } from './output.ts';

export interface ChainFlags {
  /** Several, comma-separated: the first that works is used. */
  readonly rpcUrl?: string;
  readonly contract?: string;
}

export interface DataFlags {
  readonly dataDir?: string;
  readonly ledger?: string;
}

/** Flags win over the environment. Throws `CONFIG_INVALID`. */
export function settingsOf({ env }: Io, { rpcUrl, contract }: ChainFlags): ResolvedConfig {
  const urls = rpcUrl?.split(',').map((url) => url.trim());
  return resolveConfig({ rpcUrl: urls, contract: contract as Address | undefined }, env); // as: it is checked there
}

/** Whether anything says where the chain is. */
export function chainIsNamed({ env }: Io, { rpcUrl, contract }: ChainFlags): boolean {
  return [rpcUrl, contract, env['HTTP_RPC_URL'], env['RPC_URL'], env['TANGLE_CONTRACT'], env['TANGLE_CONTRACT_ADDRESS']].some(Boolean);
}

export function dataDirOf({ env, cwd }: Io, { dataDir }: DataFlags): string {
  return resolve(cwd, resolveConfig({ dataDir }, { BPR_DATA_DIR: env['BPR_DATA_DIR'] }).dataDir);
}

export function ledgerFileOf(io: Io, flags: DataFlags): string {
  return flags.ledger === undefined ? resolve(dataDirOf(io, flags), 'ledger.sqlite') : resolve(io.cwd, flags.ledger);
}

/** Of what is not the runner's: `BPR_DATA_DIR`, or `~/.blueprint-runner`. An empty variable says nothing. */
export function baseFolder({ env, cwd }: Io): string {
  const { BPR_DATA_DIR: given = '' } = env;
  return given === '' ? join(homedir(), '.blueprint-runner') : resolve(cwd, given);
}
