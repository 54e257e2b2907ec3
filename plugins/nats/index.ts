/** Plugin `nats`: a work queue on NATS JetStream. */

import type { Plugin } from '../../src/plugin.ts';
import { parseOptions } from './options.ts';
import { NatsQueue } from './queue.ts';

export { makeNatsAccounts } from './accounts.ts';
export type { NatsAccounts, NatsAccountsOptions } from './accounts.ts';
export type { NatsCredentials, NatsOptions, NatsTls } from './options.ts';
export { NatsObjects } from './objects.ts';
export { workerPermissions } from './permissions.ts';
export type { NatsPermissions } from './permissions.ts';
export { NatsQueue } from './queue.ts';

export const natsPlugin: Plugin = {
  name: 'nats',
  peers: [
    { name: '@nats-io/transport-node', range: '^3.4.0' },
    { name: '@nats-io/jetstream', range: '^3.4.0' },
  ],
  register: (registry) => registry.queue((options, context) => new NatsQueue(parseOptions(options), context)),
};
