/** What the user says of a queue on NATS. */

import { RunnerError, Secret } from '../../src/plugin.ts';
import type { SecretReference } from '../../src/plugin.ts';

/** One way to prove who we are. Secrets are references: `env:NAME` or `file:/path`; they are read at each connection and never logged. */
export type NatsCredentials =
  | { readonly token: SecretReference }
  | { readonly user: string; readonly password: SecretReference }
  /** The seed of an nkey. */
  | { readonly nkey: SecretReference }
  /** The contents of a `.creds` file: JWT and seed. */
  | { readonly creds: SecretReference }
  /** A user whose key stays with the caller. Both are called at each connection: the JWT may be another one then. */
  | { readonly jwt: () => string; readonly sign: (nonce: Uint8Array) => Uint8Array };

export interface NatsTls {
  /** A PEM file, or what is in it. */
  readonly ca?: string;
  /** Paths of PEM files. */
  readonly cert?: string;
  readonly key?: string;
}

export interface NatsOptions {
  /** `host:port` or `nats://host:port`, one or several of one cluster. */
  readonly servers: string | readonly string[];
  /** Of the queue: 1 to 32 of `A-Z a-z 0-9 _ -`. Its stream is `BPR_<name>`, its subjects are `bpr.<name>.>`. Default `jobs`. */
  readonly queue?: string;
  /** Copies of everything, when the queue is made. 3 survives the loss of a server. Default 1. */
  readonly replicas?: 1 | 3 | 5;
  readonly credentials?: NatsCredentials;
  readonly tls?: NatsTls;
  /** Seed of the account, or of a signing key of it: with it `grant` gives workers credentials of their own. Needs `creds`. */
  readonly accountKey?: SecretReference;
  /**
   * Seed of the operator of NATS, or of a signing key of it, and credentials (`.creds`) of a user of its system account: with both `revoke` takes
   * back at once what `grant` gave.
   */
  readonly operatorKey?: SecretReference;
  readonly systemCreds?: SecretReference;
  /** Where answers come to: of this process alone when its permissions say so, see `workerPermissions`. Default `_INBOX`. */
  readonly inboxPrefix?: string;
  /**
   * After this many milliseconds without a word of the process that claimed a job, the server offers it to others. From 1,000 to 3,600,000.
   * Default 30,000. Leases of the first attempt up to this long cost no write.
   */
  readonly ackWaitMs?: number;
  /** Every claim is written down, so that other processes see worker and lease in the status. Costs a write for each claim. Default false. */
  readonly recordClaims?: boolean;
  /**
   * Our permissions are those of `workerPermissions`: each delivery is answered once, the server is not told meanwhile that we go on, and
   * objects that are not needed any more are left to those who may remove them. Default false.
   */
  readonly scoped?: boolean;
  /** Default 768 KiB; a message of the server takes 1 MiB unless it is told otherwise. */
  readonly contentBytesMax?: number;
  /** Of one object of its object store. Default 256 MiB. */
  readonly objectBytesMax?: number;
  /** How long a command goes on trying while the cluster has no leader. Default 30,000. */
  readonly commandMs?: number;
  /** Addresses of the servers' monitoring (`http://host:8222`), where `sync_interval: always` is checked. Default: none, and a warning. */
  readonly monitoring?: readonly string[];
}

const CHECKS: Readonly<Record<keyof NatsOptions, (value: unknown) => boolean>> = {
  servers: (value) => isText(value) || (Array.isArray(value) && value.length > 0 && value.every(isText)),
  queue: (value) => typeof value === 'string' && /^[A-Za-z0-9_-]{1,32}$/.test(value),
  replicas: (value) => value === 1 || value === 3 || value === 5,
  credentials: isCredentials,
  accountKey: (value) => new Secret(value as SecretReference) instanceof Secret, // throws for what is no reference
  operatorKey: (value) => new Secret(value as SecretReference) instanceof Secret,
  systemCreds: (value) => new Secret(value as SecretReference) instanceof Secret,
  tls: (value) => isFields(value, ['ca', 'cert', 'key']),
  inboxPrefix: (value) => typeof value === 'string' && /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/.test(value),
  ackWaitMs: isWhole(1_000, 3_600_000),
  recordClaims: (value) => typeof value === 'boolean',
  scoped: (value) => typeof value === 'boolean',
  contentBytesMax: isWhole(1, 64 * 1024 * 1024),
  objectBytesMax: isWhole(1, 4 * 1024 * 1024 * 1024),
  commandMs: isWhole(100, 3_600_000),
  monitoring: (value) => Array.isArray(value) && value.every(isText),
};

function isText(value: unknown): boolean {
  return typeof value === 'string' && value.length > 0;
}

function isWhole(least: number, most: number): (value: unknown) => boolean {
  return (value) => typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most;
}

function isFields(value: unknown, names: readonly string[]): boolean {
  return typeof value === 'object' && value !== null && Object.entries(value).every(([name, text]) => names.includes(name) && isText(text));
}

const CREDENTIAL_KINDS = ['token', 'user password', 'nkey', 'creds'];

function isCredentials(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { user, ...secrets } = value as Record<string, unknown>; // any object may be read so
  if ('jwt' in secrets) return typeof secrets['jwt'] === 'function' && typeof secrets['sign'] === 'function';
  if (!CREDENTIAL_KINDS.includes(Object.keys({ ...(user !== undefined && { user }), ...secrets }).join(' '))) return false;
  if (user !== undefined && !isText(user)) return false;
  for (const secret of Object.values(secrets)) void new Secret(secret as SecretReference); // throws for what is no reference
  return true;
}

/** Throws `CONFIG_INVALID`. Never repeats a value: it may be a secret. */
export function parseOptions(options: unknown): NatsOptions {
  if (typeof options !== 'object' || options === null) throw new RunnerError('CONFIG_INVALID', 'plugin nats takes an object of options');
  if (!('servers' in options)) throw new RunnerError('CONFIG_INVALID', 'plugin nats needs the option servers: "host:port", or a list');
  for (const [name, value] of Object.entries(options)) {
    const check = CHECKS[name as keyof NatsOptions] as ((value: unknown) => boolean) | undefined;
    if (!check) throw new RunnerError('CONFIG_INVALID', `plugin nats has no option ${name}; it has ${Object.keys(CHECKS).join(', ')}`);
    if (value !== undefined && !check(value)) throw new RunnerError('CONFIG_INVALID', `the option ${name} of plugin nats is not valid`);
  }
  return options as NatsOptions; // every field was checked above
}
