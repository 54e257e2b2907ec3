/** `POST /queue/status/{job_id}`: who holds the lease of a job tells what becomes of it; nobody else does. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ControlPlane } from '../../src/control/control.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import type { ClaimedJob } from '../../src/queue/queue.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { newFolder, onEnd, send } from '../support/gateway.ts';

test('a job is extended, given back, failed and completed by its address, in the order of its states, by the holder of its lease only', async () => {
  const folder = await newFolder();
  const control = new ControlPlane({ folder });
  onEnd(() => control.close(0));
  const url = await control.listen({ port: 0 });
  const { ticket } = await control.tickets.create({ scopes: ['claim', 'publish'] });
  const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
  onEnd(() => queue.close());
  const headers = {
    authorization: `Bearer ${readFileSync(join(folder, 'admin.token'), 'utf8').trim()}`,
    'content-type': 'application/json',
  };
  const post = (id: string, body: unknown, more = headers) =>
    send(url, `POST /queue/status/${id}`, { headers: more, body: JSON.stringify(body) });
  const claimOne = async (): Promise<ClaimedJob> => {
    const [job] = await queue.claim({ workerId: queue.workerId, waitMs: 20_000 });
    if (!job) throw new Error('there is no job');
    return job;
  };
  await queue.publish({ id: 'a', type: 't', payload: Buffer.from('1') });
  const { lease } = await claimOne();

  const extended = await post('a', { state: 'claimed', lease, leaseMs: 600_000 });
  expect(extended).toMatchObject({ status: 200, json: { id: 'a', state: 'claimed', lease: { jobId: 'a', token: lease.token } } });
  expect((await queue.status('a'))?.leaseUntil).toBeGreaterThan(lease.until);
  // Its address says which job it is.
  expect(await post('a', { state: 'queued', lease: { token: lease.token } })).toMatchObject({
    status: 200,
    json: { id: 'a', state: 'queued' },
  });
  expect(await queue.status('a')).toMatchObject({ state: 'queued', attempts: 0 });

  for (const state of ['claimed', 'completed', 'failed', 'queued'])
    expect(await post('a', { state, lease, body: '', code: 'X', message: 'x' })).toMatchObject({ status: 409, code: 'LEASE_LOST' });

  const second = await claimOne();
  const failed = { state: 'failed', lease: second.lease, code: 'JOB_FAILED', message: 'no oven', delayMs: 0 };
  expect(await post('a', failed)).toMatchObject({ status: 200, json: { id: 'a', state: 'queued' } });
  expect(await queue.status('a')).toMatchObject({ state: 'queued', attempts: 1, error: { code: 'JOB_FAILED', message: 'no oven' } });

  const third = await claimOne();
  const result = { state: 'completed', lease: third.lease, body: { text: '64' }, headers: { 'content-type': 'text/plain' } };
  expect(await post('a', { ...result, lease: { token: 'forged' } })).toMatchObject({ status: 409, code: 'LEASE_LOST' });
  for (const _ of [1, 2]) expect(await post('a', result)).toMatchObject({ status: 200, json: { id: 'a', state: 'completed' } });
  expect(Buffer.from((await queue.result('a')).body as Uint8Array).toString()).toBe('64');
  // What has ended stays as it is.
  expect(await post('a', { ...result, body: { text: '65' } })).toMatchObject({ status: 409, code: 'LEASE_LOST' });
  expect(await post('a', { state: 'failed', lease: third.lease, code: 'X', message: 'x' })).toMatchObject({
    status: 409,
    code: 'LEASE_LOST',
  });

  for (const state of ['dead', 'cancelled', 'expired'])
    expect(await post('a', { state, lease })).toMatchObject({ status: 409, code: 'STATE_INVALID' });
  for (const body of [{ state: 'running', lease }, { lease }, { state: 'claimed' }, { state: 'claimed', lease: { ...lease, jobId: 'b' } }])
    expect(await post('a', body)).toMatchObject({ status: 400, code: 'REQUEST_INVALID' });
  expect(await post('a', { state: 'claimed', lease }, { ...headers, authorization: '' })).toMatchObject({ status: 401 });
  const openApi = (await send(url, 'GET /openapi.json')).json as { readonly paths: Readonly<Record<string, object>> };
  expect(Object.keys(openApi.paths['/queue/status/{job_id}'] ?? {}).toSorted()).toEqual(['get', 'post']);
});
