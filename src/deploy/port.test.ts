import { once } from 'node:events';
import { createServer } from 'node:net';
import { expect, it } from 'vitest';
import { freePort } from './port.ts';

it('a free port is the wanted one, else one that the system gives nobody by itself', async () => {
  const port = await freePort();
  expect(port).toBeGreaterThanOrEqual(11_000);
  expect(port).toBeLessThan(30_000);
  expect(await freePort(port)).toBe(port);
  const taken = createServer().listen(port, '127.0.0.1');
  await once(taken, 'listening');
  try {
    expect(await freePort(port)).not.toBe(port);
  } finally {
    taken.close();
  }
});
