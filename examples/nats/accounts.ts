/**
 * Keys, credentials and a configuration of nats-server for a work queue on one machine, in a folder of their own:
 *
 *   node examples/nats/accounts.ts ./nats
 *   nats-server -c ./nats/server.conf
 *
 * For a cluster each server gets the same operator, accounts and `resolver`, its own name, addresses, `store_dir` and routes.
 * In a project of your own the import is `from 'blueprint-runner/nats'`.
 */

import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { makeNatsAccounts } from '../../plugins/nats/index.ts';

const folder = resolve(process.argv[2] ?? 'nats');
if (existsSync(resolve(folder, 'server.conf'))) {
  process.stderr.write(`${folder} has keys already, which are kept; name another folder\n`);
  process.exit(1);
}
const { configuration, creds, signingKey, systemCreds, operatorKey } = makeNatsAccounts({ jwtFolder: resolve(folder, 'jwt') });

const server = [
  'server_name: n1',
  'listen: 127.0.0.1:4222',
  'http: 127.0.0.1:8222',
  // What is acknowledged is on disk.
  `jetstream { store_dir: ${JSON.stringify(resolve(folder, 'jetstream'))}, sync_interval: always }`,
  configuration,
].join('\n');

mkdirSync(folder, { recursive: true, mode: 0o700 });
const files = {
  'server.conf': server,
  // For the control plane, all four of them secret: who it is, what it makes workers with, what it takes them back with.
  'control.creds': creds,
  'account.nk': signingKey,
  'system.creds': systemCreds,
  'operator.nk': operatorKey,
};
for (const [name, text] of Object.entries(files)) writeFileSync(resolve(folder, name), text, { mode: 0o600, flag: 'wx' });
process.stdout.write(`${Object.keys(files).join(', ')} in ${folder}\n`);
