/** NATS in operator mode for one queue: keys, signed claims and configuration, as `nsc` makes them. */

import { randomBytes } from 'node:crypto';
import { systemClock } from '../../src/plugin.ts';
import type { Clock } from '../../src/plugin.ts';
import { readSeed, seedNkey, signClaims } from './nkeys.ts';
import type { NkeyPair, NkeyRole } from './nkeys.ts';

const UNLIMITED = { subs: -1, data: -1, payload: -1, imports: -1, exports: -1, wildcards: true, conn: -1, leaf: -1 };
const JETSTREAM = { mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1 };

/** All but the configuration are secrets. */
export interface NatsAccounts {
  /** For every server: who may sign accounts, and the accounts that it knows from the start. */
  readonly configuration: string;
  /** Contents of the control plane's `.creds` file: a user with all rights in the account. */
  readonly creds: string;
  /** Contents of another: a user of the system account that may read and replace the JWT of the account, and nothing else. */
  readonly systemCreds: string;
  /** Seed of the signing key of the account: makes its users. */
  readonly signingKey: string;
  /** Of the account itself. */
  readonly accountKey: string;
  /** Of the signing key of the operator: makes and changes accounts. */
  readonly operatorKey: string;
}

export interface NatsAccountsOptions {
  /**
   * A folder of each server, where it keeps the JWTs of accounts and what changes in them. Default: in memory only, and a server that starts
   * again has forgotten changes.
   */
  readonly jwtFolder?: string;
  readonly random?: (bytes: number) => Uint8Array;
  readonly clock?: Clock;
}

/**
 * An operator, its system account, and an account with JetStream for queues. The seed of the operator itself is not kept: its signing key does
 * all that is needed.
 *
 * @example
 * const { configuration, creds } = makeNatsAccounts({ jwtFolder: '/var/lib/nats/jwt' });
 */
export function makeNatsAccounts({ jwtFolder, random = randomBytes, clock = systemClock }: NatsAccountsOptions = {}): NatsAccounts {
  const make = (role: NkeyRole): Made => {
    const seed = seedNkey(role, random(32));
    return { seed, pair: readSeed(seed) };
  };
  const signed = (of: Made, by: Made, { name, ...nats }: { readonly name: string; readonly [claim: string]: unknown }): string =>
    signClaims({ sub: of.pair.publicKey, name, nats: { ...nats, version: 2 } }, by.pair, clock.now());
  const [operator, operatorSigning] = [make('operator'), make('operator')];
  const [system, account, signing] = [make('account'), make('account'), make('account')];
  const [control, keeper] = [make('user'), make('user')];
  const keys = { signing_keys: [operatorSigning.pair.publicKey], system_account: system.pair.publicKey };
  const operatorJwt = signed(operator, operator, { name: 'operator', type: 'operator', ...keys });
  const limits = { ...UNLIMITED, ...JETSTREAM };
  const accountJwt = signed(account, operatorSigning, { name: 'jobs', type: 'account', limits, signing_keys: [signing.pair.publicKey] });
  const systemJwt = signed(system, operatorSigning, { name: 'SYS', type: 'account', limits: UNLIMITED });
  const user = { type: 'user', subs: -1, data: -1, payload: -1 };
  const about = `$SYS.REQ.ACCOUNT.${account.pair.publicKey}`;
  const allowed = { pub: { allow: [`${about}.INFO`, `${about}.CLAIMS.UPDATE`] }, sub: { allow: ['_INBOX.>'] } };
  return {
    configuration: [
      `operator: ${operatorJwt}`,
      `system_account: ${system.pair.publicKey}`,
      jwtFolder === undefined ? 'resolver: MEMORY' : `resolver { type: full, dir: ${JSON.stringify(jwtFolder)} }`,
      `resolver_preload: { ${account.pair.publicKey}: ${accountJwt}, ${system.pair.publicKey}: ${systemJwt} }`,
      '',
    ].join('\n'),
    creds: credsOf(control, signed(control, account, { name: 'control', ...user, pub: {}, sub: {} })),
    systemCreds: credsOf(keeper, signed(keeper, system, { name: 'revocations', ...user, ...allowed })),
    signingKey: signing.seed,
    accountKey: account.seed,
    operatorKey: operatorSigning.seed,
  };
}

interface Made {
  readonly seed: string;
  readonly pair: NkeyPair;
}

function credsOf({ seed }: Made, jwt: string): string {
  const block = (name: string, text: string, dashes: string): string => `-----BEGIN ${name}-----\n${text}\n${dashes}END ${name}------\n`;
  return `${block('NATS USER JWT', jwt, '------')}\n${block('USER NKEY SEED', seed, '------')}`;
}
