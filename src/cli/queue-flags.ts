/** Which queue `bpr control-plane` serves. */

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import { RunnerError } from '../errors.ts';
import type { PluginContext } from '../plugin/plugin.ts';
import { makeIdentity } from '../queue/identity.ts';
import type { SharedQueue } from '../queue/shared-queue.ts';
import { parseCount } from './calls.ts';
import { parseSpan } from './control-access.ts';
import type { Io } from './output.ts';

export interface QueueFlags {
  readonly queue: 'embedded' | 'nats';
  readonly nats?: readonly string[];
  readonly natsCreds?: string;
  readonly natsAccountKey?: string;
  readonly natsOperatorKey?: string;
  readonly natsSystemCreds?: string;
  readonly natsCa?: string;
  readonly natsQueue?: string;
  readonly natsReplicas?: number;
  readonly natsAckWait?: number;
  readonly natsMonitoring?: readonly string[];
}

export const QUEUE_HELP = `
With --queue nats the queue and its objects lie on the servers of NATS JetStream (--nats), of which any may be lost when there are three copies
(--nats-replicas 3), and this process may be lost at any time. With --nats-account-key workers speak to NATS themselves: with their enrolment
they get a JWT that is good for their own key, for their session (--session), and for what a worker does. Tickets that limit capabilities, or
lack the scope claim or objects, keep their holders on HTTP. Such workers are trusted with the queue: they can read all of it. With
--nats-operator-key and --nats-system-creds the servers end the connections of a revoked worker at once, and do not let it in again; without
them it stays until its session is over. NATS must be in operator mode then:
  nsc add operator ops --sys && nsc add account jobs && nsc edit account jobs --js-mem-storage -1 --js-disk-storage -1
  nsc add user control && nsc generate creds -n control > control.creds
  nsc edit account jobs --sk generate      the seed of that key (nsc list keys -A --show-seeds) is the file for --nats-account-key
  nsc edit operator --sk generate          of that one, for --nats-operator-key; nsc generate creds -a SYS -n sys > system.creds
or, with everything in one folder, makeNatsAccounts of blueprint-runner/nats.`;

export function withQueueFlags(command: Command): Command {
  return command
    .addOption(
      new Option('--queue <kind>', 'where jobs lie: in its folder, or on NATS JetStream').choices(['embedded', 'nats']).default('embedded'),
    )
    .option('--nats <urls>', 'servers of NATS, comma-separated: host:port, nats:// or tls://', parseList)
    .option('--nats-creds <file>', 'who it is there: a .creds file of a user with all rights in its account')
    .option('--nats-account-key <file>', 'seed of the account or of a signing key of it: workers speak to NATS themselves')
    .option('--nats-operator-key <file>', 'seed of the operator or of a signing key of it: the servers end connections of revoked workers')
    .option('--nats-system-creds <file>', 'who tells them: a .creds file of a user of the system account')
    .option('--nats-ca <file>', 'certificates that the servers are checked with, PEM')
    .option('--nats-queue <name>', 'name of the queue there (default: jobs)')
    .option('--nats-replicas <count>', 'copies of everything when the queue is made: 1, 3 or 5 (default: 1)', parseCount)
    .option('--nats-ack-wait <span>', 'after which jobs of a worker that vanished are handed out again (default: 30s)', parseSpan)
    .option('--nats-monitoring <urls>', 'monitoring of the servers, where it is checked that they write to disk', parseList);
}

/** Undefined for the embedded one. Rejects with `CONFIG_INVALID`, and as its plugin does when the servers cannot be reached. */
export async function openQueue(io: Io, flags: QueueFlags, context: PluginContext): Promise<SharedQueue | undefined> {
  if (flags.queue === 'embedded') {
    const useless = Object.keys(flags).find((name) => name.startsWith('nats'));
    if (useless !== undefined) throw new RunnerError('CONFIG_INVALID', 'flags of NATS need --queue nats');
    return undefined;
  }
  if (!flags.nats) throw new RunnerError('CONFIG_INVALID', '--queue nats needs --nats: the addresses of its servers');
  const [{ createPluginRegistry }, { isSharedQueue }] = await Promise.all([
    import('../plugin/registry.ts'),
    import('../queue/shared-queue.ts'),
  ]);
  const queue = await createPluginRegistry(context).queue('nats', optionsOf(io, flags, flags.nats));
  if (!isSharedQueue(queue)) throw new RunnerError('INTERNAL', 'the queue of the plugin nats cannot be shared');
  try {
    // What is wrong with servers or keys is said at once, and not to the first worker.
    await queue.status('start');
    await queue.revoke([]);
    await queue.grant({ workerId: 'nobody', publicKey: makeIdentity().publicKey, expiresAt: 0 });
    return queue;
  } catch (error) {
    await queue.close();
    throw error;
  }
}

function optionsOf(io: Io, flags: QueueFlags, servers: readonly string[]): Readonly<Record<string, unknown>> {
  const { natsCreds, natsAccountKey, natsOperatorKey, natsSystemCreds, natsCa, natsQueue, natsReplicas, natsAckWait, natsMonitoring } =
    flags;
  const file = (path: string): string => `file:${resolve(io.cwd, path)}`;
  return {
    servers,
    ...(natsCreds !== undefined && { credentials: { creds: file(natsCreds) } }),
    ...(natsAccountKey !== undefined && { accountKey: file(natsAccountKey) }),
    ...(natsOperatorKey !== undefined && { operatorKey: file(natsOperatorKey) }),
    ...(natsSystemCreds !== undefined && { systemCreds: file(natsSystemCreds) }),
    ...(natsCa !== undefined && { tls: { ca: textOf(resolve(io.cwd, natsCa)) } }),
    ...(natsQueue !== undefined && { queue: natsQueue }),
    ...(natsReplicas !== undefined && { replicas: natsReplicas }),
    ...(natsAckWait !== undefined && { ackWaitMs: natsAckWait }),
    ...(natsMonitoring && { monitoring: natsMonitoring }),
  };
}

/** Workers on other machines get the text. */
function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${path} cannot be read`, { cause });
  }
}

function parseList(text: string): readonly string[] {
  return text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
}
