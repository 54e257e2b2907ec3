/** NATS in operator mode: an operator, an account with a signing key, and a user of it with all rights, as `nsc` makes them. */

import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readSeed, seedNkey, signClaims } from '../../plugins/nats/nkeys.ts';
import type { NkeyPair, NkeyRole } from '../../plugins/nats/nkeys.ts';

const UNLIMITED = { subs: -1, data: -1, payload: -1, imports: -1, exports: -1, wildcards: true, conn: -1, leaf: -1 };
const JETSTREAM = { mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1 };

export interface NatsAccounts {
  /** For the servers. */
  readonly configuration: string;
  /** Contents of the control plane's `.creds` file. */
  readonly creds: string;
  /** Seed of the signing key of the account. */
  readonly signingKey: string;
  /** Of the account itself. */
  readonly accountKey: string;
}

export function makeNatsAccounts(): NatsAccounts {
  const [operator, system, account, signing, user] = [make('operator'), make('account'), make('account'), make('account'), make('user')];
  const now = Date.now();
  const operatorJwt = claimsOf(operator, operator, { type: 'operator' }, now);
  const accountJwt = claimsOf(
    account,
    operator,
    { type: 'account', limits: { ...UNLIMITED, ...JETSTREAM }, signing_keys: [signing.pair.publicKey] },
    now,
  );
  const systemJwt = claimsOf(system, operator, { type: 'account', limits: UNLIMITED }, now);
  const userJwt = claimsOf(user, account, { type: 'user', pub: {}, sub: {}, subs: -1, data: -1, payload: -1 }, now);
  return {
    configuration: [
      `operator: ${operatorJwt}`,
      `system_account: ${system.pair.publicKey}`,
      'resolver: MEMORY',
      `resolver_preload: { ${account.pair.publicKey}: ${accountJwt}, ${system.pair.publicKey}: ${systemJwt} }`,
    ].join('\n'),
    creds: `-----BEGIN NATS USER JWT-----\n${userJwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n${user.seed}\n------END USER NKEY SEED------\n`,
    signingKey: signing.seed,
    accountKey: account.seed,
  };
}

/** Flags of `bpr control-plane` for them. */
export function natsFlags(folder: string, addresses: readonly string[], { creds, signingKey }: NatsAccounts): string[] {
  mkdirSync(folder, { recursive: true });
  const [credsFile, keyFile] = [join(folder, 'control.creds'), join(folder, 'account.nk')];
  writeFileSync(credsFile, creds, { mode: 0o600 });
  writeFileSync(keyFile, signingKey, { mode: 0o600 });
  return ['--queue', 'nats', '--nats', addresses.join(','), '--nats-creds', credsFile, '--nats-account-key', keyFile];
}

interface Made {
  readonly seed: string;
  readonly pair: NkeyPair;
}

function make(role: NkeyRole): Made {
  const seed = seedNkey(role, randomBytes(32));
  return { seed, pair: readSeed(seed) };
}

function claimsOf(of: Made, by: Made, nats: Readonly<Record<string, unknown>>, now: number): string {
  return signClaims({ sub: of.pair.publicKey, name: 'test', nats: { ...nats, version: 2 } }, by.pair, now);
}
