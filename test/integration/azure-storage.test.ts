/** The blobs that packages are kept in, on Microsoft's own emulator of storage. test/scripts/install-azurite.sh installs it. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect } from 'vitest';
import { AzureClient } from '../../plugins/azure/client.ts';
import { BlobStorage } from '../../plugins/azure/storage.ts';
import { systemClock } from '../../src/clock.ts';
import { reservedPort } from '../support/reserved-port.ts';
import { requirePeer } from '../require.ts';

const main = join(process.env['BPR_AZURITE'] ?? '', 'node_modules/azurite/dist/src/blob/main.js');
const ACCOUNT = { name: 'bpkeepspackages', key: randomBytes(64).toString('base64') };

let isThere = true;
const testAzurite = requirePeer('azurite', () => {
  isThere = false;
  if (process.env['BPR_AZURITE'] === undefined) throw new Error('BPR_AZURITE names no folder; run test/scripts/install-azurite.sh FOLDER');
  accessSync(main, constants.R_OK);
  isThere = true;
});

let azurite: ChildProcess | undefined;
let ended: Promise<unknown> = Promise.resolve();
let url = '';
let client: AzureClient;

beforeAll(async () => {
  client = new AzureClient({ subscriptionId: 'none' }, systemClock);
  if (!isThere) return;
  const port = await reservedPort();
  const args = [main, '--blobHost', '127.0.0.1', '--blobPort', String(port), '--inMemoryPersistence', '--disableTelemetry'];
  const child = spawn(process.execPath, args, {
    env: { PATH: '/usr/bin:/bin', AZURITE_ACCOUNTS: `${ACCOUNT.name}:${ACCOUNT.key}` },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  azurite = child;
  ended = new Promise((resolve) => child.once('close', resolve));
  await new Promise<void>((resolve, reject) => {
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => {
        output += chunk.toString();
        if (output.includes('successfully listen')) resolve();
      });
    void ended.then(() => reject(new Error(`azurite ended: ${output}`)));
  });
  url = `http://127.0.0.1:${port}/${ACCOUNT.name}`;
});

afterAll(async () => {
  await client.close();
  azurite?.kill('SIGKILL');
  await ended;
});

const storage = (key = ACCOUNT.key): BlobStorage => new BlobStorage(client, { ...ACCOUNT, key, url });

testAzurite('containers are made once, and removed with what is in them', async () => {
  const blobs = storage();
  expect(await blobs.hasContainer('fn-one')).toBe(false);
  await blobs.createContainer('fn-one');
  await blobs.createContainer('fn-one');
  expect(await blobs.hasContainer('fn-one')).toBe(true);
  await blobs.put({ container: 'fn-one', name: 'a', body: Buffer.from('a') });
  await blobs.deleteContainer('fn-one');
  await blobs.deleteContainer('fn-one');
  expect(await blobs.hasContainer('fn-one')).toBe(false);
  expect(await blobs.list('fn-one', '')).toEqual([]);
});

testAzurite('blobs come back as they were, with their metadata', async () => {
  const blobs = storage();
  await blobs.createContainer('fn-two');
  const large = randomBytes(3 * 1_024 * 1_024);
  const names = ['versions/a.zip', 'versions/with space & plus+.zip', 'versions/ü<&>.zip'];
  for (const [index, name] of names.entries())
    await blobs.put({ container: 'fn-two', name, body: large.subarray(index), metadata: { version: String(index), note: 'one two' } });
  await blobs.put({ container: 'fn-two', name: 'released-package.zip', body: new Uint8Array() });
  const listed = await blobs.list('fn-two', 'versions/');
  expect(listed.map(({ name, metadata }) => [name, metadata])).toEqual(
    expect.arrayContaining(names.map((name, index) => [name, { version: String(index), note: 'one two' }])),
  );
  expect(listed).toHaveLength(3);
  expect(listed.every(({ createdAt }) => Math.abs(Date.parse(createdAt ?? '') - Date.now()) < 60_000)).toBe(true);
  for (const [index, name] of names.entries()) {
    const read = await blobs.get('fn-two', name);
    expect(read && Buffer.from(read).equals(large.subarray(index))).toBe(true);
  }
  await blobs.delete('fn-two', 'versions/a.zip');
  await blobs.delete('fn-two', 'versions/a.zip');
  expect(await blobs.get('fn-two', 'versions/a.zip')).toBeUndefined();
  expect(await blobs.list('fn-two', 'versions/')).toHaveLength(2);
});

testAzurite('another key is EXECUTOR_UNAUTHORIZED with the code of the platform, a bad name DEPLOY_FAILED', async () => {
  await expect(storage(randomBytes(64).toString('base64')).createContainer('fn-three')).rejects.toMatchObject({
    code: 'EXECUTOR_UNAUTHORIZED',
    details: { platformCode: 'AuthorizationFailure' },
  });
  await expect(storage().createContainer('NOT-A-NAME')).rejects.toMatchObject({ code: 'DEPLOY_FAILED', details: { status: 400 } });
});
