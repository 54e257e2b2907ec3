import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, it, onTestFinished } from 'vitest';
import { endWith } from './exchange.ts';

it('sends every body as it is: bytes, ASCII of any length, and text of more bytes than characters', async () => {
  const bodies = [
    '',
    'ok',
    'x'.repeat(10_000),
    'y'.repeat(200_000),
    'caf\u00e9',
    '\u00ff\u0100 \u20ac \u{1f600}',
    Buffer.from([0, 128, 255]),
  ];
  let at = 0;
  const server = createServer((_, response) => {
    const body = bodies[at] ?? '';
    const size = Buffer.byteLength(body);
    response.writeHead(200, ['content-length', String(size)]);
    endWith(response, body, size);
  });
  server.listen({ host: '127.0.0.1', port: 0 });
  await once(server, 'listening');
  onTestFinished(() => {
    server.close();
    server.closeAllConnections();
  });
  for (const [index, body] of bodies.entries()) {
    at = index;
    const response = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    expect(Buffer.from(await response.arrayBuffer()).equals(Buffer.from(body))).toBe(true);
  }
});
