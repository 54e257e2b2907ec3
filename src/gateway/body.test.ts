import { Socket } from 'node:net';
import { expect, test } from 'vitest';
import { BodyBudget, ServerRequest, readBody } from './body.ts';

function requestOf(headers: ServerRequest['headers'], bytesMax: number) {
  const request = new ServerRequest(new Socket());
  request.headers = headers;
  const budget = new BodyBudget(1_000);
  const reading = Promise.resolve(readBody(request, { bytesMax, budget, announce: undefined }));
  return { request, budget, reading };
}

test('what the parser finds is put together, and let go with its release', async () => {
  const { request, budget, reading } = requestOf({ 'content-length': '3' }, 10);
  expect(budget.usedBytes).toBe(3);
  expect([request.push(Buffer.from('ab')), request.push(Buffer.from('c')), request.push(null)]).toEqual([true, true, true]);
  const body = await reading;
  expect(Buffer.from(body.bytes).toString()).toBe('abc');
  body.release();
  expect([budget.usedBytes, body.bytes.length]).toEqual([0, 0]);
});

test('a body that is too large stops the parser; what follows of it goes to the stream', async () => {
  const { request, budget, reading } = requestOf({ 'transfer-encoding': 'chunked' }, 2);
  const refused = expect(reading).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
  expect([request.push(Buffer.from('ab')), request.push(Buffer.from('c'))]).toEqual([true, false]);
  await refused;
  expect(budget.usedBytes).toBe(0);
  request.push(Buffer.from('rest'));
  expect(String(request.read())).toBe('rest');
});

test('a client that breaks off is told as such', async () => {
  const { request, budget, reading } = requestOf({ 'content-length': '3' }, 10);
  request.push(Buffer.from('ab'));
  request.destroy();
  await expect(reading).rejects.toMatchObject({ code: 'REQUEST_INVALID' });
  expect(budget.usedBytes).toBe(0);
});
