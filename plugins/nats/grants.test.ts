import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { systemClock } from '../../src/plugin.ts';
import { makeNatsAccounts } from './accounts.ts';
import { grantFor } from './grants.ts';

const PEM = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n';
const WORKER = { workerId: 'w1', publicKey: Buffer.alloc(32, 1).toString('base64url'), expiresAt: Date.now() + 60_000 };

it('a worker elsewhere is given the certificates, not the place of their file on this machine', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'grants-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, 'ca.pem');
  writeFileSync(file, PEM);
  const { creds, signingKey } = makeNatsAccounts();
  const options = { servers: 'nats:4222', credentials: { creds: () => creds }, accountKey: () => signingKey };
  for (const ca of [file, PEM]) {
    const grant = await grantFor({ ...options, tls: { ca } }, WORKER, systemClock);
    expect(grant?.options).toMatchObject({ tls: { ca: PEM } });
  }
  await expect(grantFor({ ...options, tls: { ca: join(folder, 'none.pem') } }, WORKER, systemClock)).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: expect.stringContaining('none.pem') as string,
  });
});

it('a worker knows how many copies the queue has', async () => {
  const { creds, signingKey } = makeNatsAccounts();
  const credentials = { creds: () => creds };
  const grant = await grantFor({ servers: 'nats:4222', credentials, accountKey: () => signingKey, replicas: 3 }, WORKER, systemClock);
  expect(grant?.options).toMatchObject({ replicas: 3 });
});
