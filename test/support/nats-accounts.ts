/** Flags of `bpr control-plane` for NATS in operator mode. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { NatsAccounts } from '../../plugins/nats/accounts.ts';

export function natsFlags(folder: string, addresses: readonly string[], accounts: NatsAccounts): string[] {
  mkdirSync(folder, { recursive: true });
  const file = (name: string, text: string): string => {
    const path = join(folder, name);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  };
  const { creds, signingKey, operatorKey, systemCreds } = accounts;
  const flags = {
    queue: 'nats',
    nats: addresses.join(','),
    'nats-creds': file('control.creds', creds),
    'nats-account-key': file('account.nk', signingKey),
    'nats-operator-key': file('operator.nk', operatorKey),
    'nats-system-creds': file('system.creds', systemCreds),
  };
  return Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
}
