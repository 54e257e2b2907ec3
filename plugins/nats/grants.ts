/** Credentials for one worker: a user of the account, made on the spot, that only the holder of the worker's key can be. */

import { readFile } from 'node:fs/promises';
import { RunnerError, Secret } from '../../src/plugin.ts';
import type { Clock, GrantedWorker, QueueGrant } from '../../src/plugin.ts';
import { isPem } from './connection.ts';
import { accountOfCreds, publicNkey, readSeed, signClaims } from './nkeys.ts';
import type { NatsOptions } from './options.ts';
import { workerPermissions } from './permissions.ts';

const NANOS = 1_000_000;
/** Of what may be answered: the connection ends before. */
const LEAST_MS = 60_000;

/**
 * Undefined without the option `accountKey`. The user may do what `workerPermissions` says with an inbox of the worker's own, and the servers
 * end its connections when `expiresAt` has come. Rejects with `CONFIG_INVALID` when the keys are none, or the certificates are not there.
 */
export async function grantFor(options: NatsOptions, worker: GrantedWorker, clock: Clock): Promise<QueueGrant | undefined> {
  const { accountKey, credentials, servers, queue, replicas, ackWaitMs, tls, contentBytesMax, objectBytesMax } = options;
  if (accountKey === undefined) return undefined;
  if (!credentials || !('creds' in credentials))
    throw new RunnerError('CONFIG_INVALID', 'with an accountKey, credentials of NATS must be creds: they say which account it is');
  const read = async (reference: typeof accountKey): Promise<string> => new Secret(reference, { clock }).read();
  const [account, by] = [accountOfCreds(await read(credentials.creds)), readSeed(await read(accountKey))];
  if (by.role !== 'account')
    throw new RunnerError('CONFIG_INVALID', `the accountKey is the seed of an ${by.role}; it must be that of an account`);
  const { workerId, publicKey, expiresAt } = worker;
  const inboxPrefix = `_INBOX_${workerId}`;
  const { publish, subscribe, allow_responses: responses } = workerPermissions({ ...(queue !== undefined && { queue }), inboxPrefix });
  const claims = {
    name: `worker ${workerId}`,
    sub: publicNkey('user', Buffer.from(publicKey, 'base64url')),
    exp: Math.ceil(expiresAt / 1_000),
    nats: {
      ...(by.publicKey !== account && { issuer_account: account }),
      pub: { allow: publish },
      sub: { allow: subscribe },
      resp: { max: responses.max, ttl: Math.max(expiresAt - clock.now(), LEAST_MS) * NANOS },
      subs: -1,
      data: -1,
      payload: -1,
      type: 'user',
      version: 2,
    },
  };
  return {
    plugin: 'nats',
    options: {
      servers,
      inboxPrefix,
      scoped: true,
      ...(queue !== undefined && { queue }),
      ...(replicas !== undefined && { replicas }),
      ...(ackWaitMs !== undefined && { ackWaitMs }),
      ...(contentBytesMax !== undefined && { contentBytesMax }),
      ...(objectBytesMax !== undefined && { objectBytesMax }),
      ...(tls?.ca !== undefined && { tls: { ca: await certificatesIn(tls.ca) } }),
    },
    jwt: signClaims(claims, by, clock.now()),
  };
}

/** Their file is on this machine. */
async function certificatesIn(ca: string): Promise<string> {
  if (isPem(ca)) return ca;
  return readFile(ca, 'utf8').catch((cause: Error) => {
    throw new RunnerError('CONFIG_INVALID', `the certificates of NATS at ${ca} cannot be read: ${cause.message}`, {
      cause,
      details: { ca },
    });
  });
}
