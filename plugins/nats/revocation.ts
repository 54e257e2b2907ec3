/**
 * Credentials taken back before their time: the account's JWT names users whose JWTs of before some time are void. Servers that are given the
 * new JWT of an account end the connections of such users:
 * https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt#revocation and
 * https://docs.nats.io/running-a-nats-service/configuration/sys_accounts#services.
 */

import type { NatsConnection } from '@nats-io/transport-node';
import { RunnerError, Secret, silentTelemetry } from '../../src/plugin.ts';
import type { Clock, RevokedWorker } from '../../src/plugin.ts';
import { connect } from './connection.ts';
import { accountOfCreds, publicNkey, readSeed, signClaims } from './nkeys.ts';
import type { NkeyPair } from './nkeys.ts';
import type { NatsOptions } from './options.ts';

/** All servers answer, each for itself. */
const ANSWERS_MS = 5_000;

/** Of a user: JWTs issued until then, in seconds, are void. */
type Revocations = Readonly<Record<string, number>>;

interface AccountClaims {
  readonly iat: number;
  readonly nats: { readonly revocations?: Revocations };
}

/** False without the options `operatorKey` and `systemCreds`. Servers that know it already are not told again. */
export async function revoke(options: NatsOptions, workers: readonly RevokedWorker[], clock: Clock): Promise<boolean> {
  const { operatorKey, systemCreds, credentials } = options;
  if (operatorKey === undefined && systemCreds === undefined) return false;
  if (operatorKey === undefined || systemCreds === undefined || !credentials || !('creds' in credentials))
    throw new RunnerError('CONFIG_INVALID', 'to revoke workers NATS needs operatorKey, systemCreds, and creds as credentials');
  const read = async (reference: typeof operatorKey): Promise<string> => new Secret(reference, { clock }).read();
  const [account, by] = [accountOfCreds(await read(credentials.creds)), readSeed(await read(operatorKey))];
  if (by.role !== 'operator')
    throw new RunnerError('CONFIG_INVALID', `the operatorKey is the seed of an ${by.role}; it must be that of an operator`);
  const { inboxPrefix: _, ...others } = options;
  // What its user may do on our account is no matter of the queue's checks.
  const system = { ...others, credentials: { creds: systemCreds } };
  const [connection] = await connect(system, { clock, log: silentTelemetry.log });
  try {
    await revokeAt(connection, { account, by, workers, now: clock.now() });
    return true;
  } finally {
    await connection.close();
  }
}

interface Revocation {
  readonly account: string;
  readonly by: NkeyPair;
  readonly workers: readonly RevokedWorker[];
  readonly now: number;
}

async function revokeAt(connection: NatsConnection, { account, by, workers, now }: Revocation): Promise<void> {
  const subject = `$SYS.REQ.ACCOUNT.${account}`;
  const told = await answers(connection, `${subject}.INFO`);
  const known = told.map(({ data }) => data?.jwt).filter((jwt) => jwt !== undefined);
  const claims = known.map(claimsOf).toSorted((a, b) => b.iat - a.iat || sizeOf(b) - sizeOf(a));
  const newest = claims[0];
  if (!newest) throw new RunnerError('PLATFORM_UNREACHABLE', `no server of NATS knows the account ${account}`, { details: { account } });
  const wanted = revocationsOf(workers.filter(({ isOver }) => !isOver));
  const isKnown = claims.every(({ nats: { revocations = {} } }) => isWithin(wanted, revocations));
  if (isKnown && told.length === known.length) return;
  const revocations = { ...newest.nats.revocations };
  for (const [user, until] of Object.entries(revocationsOf(workers.filter(({ isOver }) => isOver))))
    if ((revocations[user] ?? Number.POSITIVE_INFINITY) <= until) delete revocations[user];
  for (const [user, until] of Object.entries(wanted)) revocations[user] = Math.max(until, revocations[user] ?? 0);
  const jwt = signClaims({ ...newest, jti: undefined, nats: { ...newest.nats, revocations } }, by, now);
  const results = await answers(connection, `${subject}.CLAIMS.UPDATE`, jwt);
  const refused = results.find(({ error }) => error);
  if (results.length > 0 && !refused) return;
  const reason = refused?.error?.description ?? 'no server has answered';
  throw new RunnerError('PLATFORM_UNREACHABLE', `NATS has not taken the new JWT of the account ${account}: ${reason}`);
}

function revocationsOf(workers: readonly RevokedWorker[]): Revocations {
  const seconds = (ms: number): number => Math.floor(ms / 1_000);
  return Object.fromEntries(
    workers.map(({ publicKey, revokedAt }) => [publicNkey('user', Buffer.from(publicKey, 'base64url')), seconds(revokedAt)]),
  );
}

function isWithin(wanted: Revocations, known: Revocations): boolean {
  return Object.entries(wanted).every(([user, until]) => (known[user] ?? 0) >= until);
}

function sizeOf({ nats: { revocations = {} } }: AccountClaims): number {
  return Object.keys(revocations).length;
}

/** Of a JWT that the servers have checked. */
function claimsOf(jwt: string): AccountClaims {
  return JSON.parse(Buffer.from(jwt.split('.')[1] ?? '', 'base64url').toString()) as AccountClaims;
}

interface Answer {
  readonly data?: { readonly jwt?: string };
  readonly error?: { readonly description?: string };
}

/** Those of all servers. Rejects with `FORBIDDEN` when the user may not ask. */
async function answers(connection: NatsConnection, subject: string, body = ''): Promise<Answer[]> {
  const found: Answer[] = [];
  try {
    for await (const message of await connection.requestMany(subject, body, { strategy: 'stall', maxWait: ANSWERS_MS }))
      found.push(message.json<Answer>());
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RunnerError('FORBIDDEN', `the user of the system account of NATS may not ask ${subject}: ${reason}`, { cause });
  }
  return found;
}
