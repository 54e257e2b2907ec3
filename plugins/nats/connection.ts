/** The connection to the servers: who we are, what they are. With client.ts the only files that touch the SDK. */

import type * as Transport from '@nats-io/transport-node';
import type { Authenticator, NatsConnection, NodeConnectionOptions } from '@nats-io/transport-node';
import { RunnerError, Secret, importPeer } from '../../src/plugin.ts';
import type { Clock, Logger } from '../../src/plugin.ts';
import type { NatsCredentials, NatsOptions } from './options.ts';

export type TransportModule = typeof Transport;

export interface Surroundings {
  readonly clock: Clock;
  readonly log: Logger;
}

const CONNECT_MS = 10_000;
const NONCE_TO_TRY = 'nothing-that-a-server-gives';
/** Atomic batches, on which `publishMany` stands. */
const VERSION_LEAST = [2, 12] as const;

/** Rejects with `PEER_MISSING`, `PLATFORM_UNREACHABLE`, `UNAUTHORIZED`, `CONFIG_INVALID` or `OPERATION_UNSUPPORTED`. */
export async function connect(options: NatsOptions, { clock, log }: Surroundings): Promise<[NatsConnection, TransportModule]> {
  const transport = await importPeer('nats', '@nats-io/transport-node', () => import('@nats-io/transport-node'));
  const servers = typeof options.servers === 'string' ? [options.servers] : [...options.servers];
  const { credentials } = options;
  let give = credentials && (await authenticator(transport, credentials, clock));
  const settings: NodeConnectionOptions = {
    servers,
    name: 'blueprint-runner',
    timeout: CONNECT_MS,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 200,
    reconnectJitter: 100,
    pingInterval: 5_000,
    noAsyncTraces: true,
    ...(options.inboxPrefix !== undefined && { inboxPrefix: options.inboxPrefix }),
    ...(give && { authenticator: (nonce) => give?.(nonce) }),
    // What was refused may be another one by the next time.
    ignoreAuthErrorAbort: true,
    ...(options.tls && { tls: tlsOf(options.tls) }),
  };
  const connection = await transport.connect(settings).catch((cause: unknown) => {
    throw connectError(cause, servers);
  });
  try {
    checkVersion(connection);
    // A worker's own connection: its control plane has looked.
    if (!credentials || !('jwt' in credentials)) await checkSync(options.monitoring, log);
  } catch (error) {
    await connection.close();
    throw error;
  }
  if (credentials && !('jwt' in credentials))
    void renew(connection, log, async () => {
      const next = await authenticator(transport, credentials, clock);
      // What is half written and throws would end the connection for good.
      next(NONCE_TO_TRY);
      give = next;
    });
  return [connection, transport];
}

/** Secrets are read again when a connection is lost. */
async function renew(connection: NatsConnection, log: Logger, read: () => Promise<void>): Promise<void> {
  for await (const { type } of connection.status())
    if (type === 'disconnect') await read().catch((error: unknown) => log.warn('the credentials of NATS cannot be read', { error }));
}

/** Otherwise it is the path of a file. */
export function isPem(ca: string): boolean {
  return ca.includes('-----BEGIN');
}

function tlsOf({ ca, cert, key }: NonNullable<NatsOptions['tls']>): { ca?: string; caFile?: string; certFile?: string; keyFile?: string } {
  return {
    ...(ca !== undefined && (isPem(ca) ? { ca } : { caFile: ca })),
    ...(cert !== undefined && { certFile: cert }),
    ...(key !== undefined && { keyFile: key }),
  };
}

/** The SDK asks for secrets synchronously: they are read before. */
async function authenticator(transport: TransportModule, credentials: NatsCredentials, clock: Clock): Promise<Authenticator> {
  const read = async (reference: ConstructorParameters<typeof Secret>[0]): Promise<string> =>
    (await new Secret(reference, { clock }).read()).trim();
  if ('jwt' in credentials) return (nonce = '') => ({ jwt: credentials.jwt(), sig: signNonce(nonce, credentials.sign) });
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
  if ('token' in credentials) return transport.tokenAuthenticator(await read(credentials.token));
  if ('user' in credentials) return transport.usernamePasswordAuthenticator(credentials.user, await read(credentials.password));
  if ('nkey' in credentials) return transport.nkeyAuthenticator(bytes(await read(credentials.nkey)));
  // The library wants the end of the last line, too.
  return transport.credsAuthenticator(bytes(`${await read(credentials.creds)}\n`));
}

/** The key may sign other things, too: nothing but what servers give as a nonce is signed, so nobody gets a signature of something else. */
function signNonce(nonce: string, sign: (bytes: Uint8Array) => Uint8Array): string {
  if (!/^[A-Za-z0-9_-]{8,64}$/.test(nonce))
    throw new RunnerError('UNAUTHORIZED', 'NATS asks for the signature of something that is no nonce');
  return Buffer.from(sign(Buffer.from(nonce))).toString('base64url');
}

/** Of an error the text is kept, never the object: it may hold what was sent. */
function connectError(cause: unknown, servers: readonly string[]): RunnerError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const shown = servers.map((server) => server.replace(/\/\/[^@/]*@/, '//')).join(', ');
  const isRefused = /authorization|authentication/i.test(reason);
  if (isRefused) return new RunnerError('UNAUTHORIZED', `NATS at ${shown} refused our credentials: ${reason}`);
  return new RunnerError('PLATFORM_UNREACHABLE', `NATS at ${shown} cannot be reached: ${reason}`);
}

function checkVersion({ info }: NatsConnection): void {
  const version = info?.version ?? '0';
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major > VERSION_LEAST[0] || (major === VERSION_LEAST[0] && minor >= VERSION_LEAST[1])) return;
  throw new RunnerError(
    'OPERATION_UNSUPPORTED',
    `nats-server ${version} is too old for the work queue; it needs ${VERSION_LEAST.join('.')}`,
  );
}

/** Only the monitoring of a server tells how it writes to disk; a plain client is not told. */
async function checkSync(monitoring: readonly string[] | undefined, log: Logger): Promise<void> {
  const remedy = 'set `sync_interval: always` in the jetstream section of every nats-server';
  if (!monitoring || monitoring.length === 0) {
    log.warn('nothing says whether NATS writes to disk before it acknowledges: list the monitoring of its servers as monitoring', {
      remedy,
    });
    return;
  }
  for (const address of monitoring) {
    const url = new URL('/jsz', address);
    const answer = await fetch(url, { signal: AbortSignal.timeout(CONNECT_MS) }).then(
      (response) => response.json() as Promise<{ readonly config?: { readonly sync_always?: boolean } }>,
      (error: unknown) => error as Error,
    );
    if (answer instanceof Error) log.warn('the monitoring of a NATS server does not answer', { url: url.href, reason: answer.message });
    else if (answer.config?.sync_always !== true)
      log.warn('NATS acknowledges before it has written to disk: a power failure loses what was acknowledged', { url: url.href, remedy });
  }
}
