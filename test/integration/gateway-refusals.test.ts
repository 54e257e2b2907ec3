/** What the parser of node:http lets pass, refuses in its own way, or cannot see: over raw connections. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Gateway } from '../../src/gateway/gateway.ts';
import { FakeBackend } from '../support/fake-backend.ts';
import { exchange } from '../prove/fuzz-wire.ts';
import type { Answer } from '../prove/fuzz-wire.ts';
import { soundZip } from '../prove/fuzz-zip.ts';

let folder: string;
let gateway: Gateway;
let port: number;
/** Resolves when the function is called, with what lets it answer. */
let called = Promise.withResolvers<() => void>();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'gr-'));
  const slow = async (): Promise<string> => {
    await new Promise<void>((resolve) => called.resolve(resolve));
    return '"slow"';
  };
  gateway = new Gateway({ folder, backends: new Map([['fake', new FakeBackend({ handler: slow })]]) });
  port = Number(new URL(await gateway.listen({ port: 0 })).port);
  const zip = soundZip();
  const head = `PUT /api/v1/functions/slow?runtime=nodejs24.x&handler=index.handler&timeout_ms=60000 HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${zip.length}\r\n\r\n`;
  const [deployed] = await send(Buffer.concat([Buffer.from(head), zip]), 1);
  expect(deployed?.status).toBe(201);
});

afterAll(async () => {
  await gateway.close(0);
  rmSync(folder, { recursive: true, force: true });
});

async function send(bytes: string | Buffer, owed: number): Promise<readonly Answer[]> {
  const { answers, rest, unreadable } = await exchange({ port, host: '127.0.0.1' }, Buffer.from(bytes), owed);
  expect({ rest, unreadable }).toEqual({ rest: 0, unreadable: undefined });
  return answers;
}

function codes(answers: readonly Answer[]): readonly unknown[] {
  return answers.map(({ status, body }) => {
    const { error } = JSON.parse(body.toString()) as { error?: { code: string } };
    return error ? [status, error.code] : status;
  });
}

const HOST = 'Host: localhost\r\n';
const HANDSHAKE = `GET /api/v1/ws HTTP/1.1\r\n${HOST}Upgrade: websocket\r\nConnection: Upgrade\r\n`;
const KEY = 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n';
const VERSION = 'Sec-WebSocket-Version: 13\r\n';

describe('a refusal has a code', () => {
  it.each<[string, string, number]>([
    ['without a Host', 'GET /healthz HTTP/1.1\r\n\r\n', 400],
    ['for a tunnel', `CONNECT other:443 HTTP/1.1\r\n${HOST}\r\n`, 405],
    ['for what cannot be expected', `GET /healthz HTTP/1.1\r\n${HOST}Expect: a miracle\r\n\r\n`, 417],
    ['for other versions of HTTP', `GET /healthz HTTP/2.0\r\n${HOST}\r\n`, 400],
    [
      'for other transfer encodings',
      `POST /api/v1/execute HTTP/1.1\r\n${HOST}Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n`,
      400,
    ],
    ['for a handshake without a key', `${HANDSHAKE}${VERSION}\r\n`, 400],
    ['for a handshake of another version', `${HANDSHAKE}${KEY}Sec-WebSocket-Version: 12\r\n\r\n`, 400],
    ['for a handshake with a body', `${HANDSHAKE}${KEY}${VERSION}Content-Length: 2\r\n\r\n{}`, 400],
    ['for a handshake of HTTP/1.0', `${HANDSHAKE.replace('1.1', '1.0')}${KEY}${VERSION}\r\n`, 400],
    ['for a body that breaks off', `POST /api/v1/execute HTTP/1.1\r\n${HOST}Content-Length: 9\r\n\r\n{}`, 400],
    ['for JSON that is too deep', deep(20_000), 400],
  ])('%s', async (_, bytes, status) => {
    expect(codes(await send(bytes, 0))).toEqual([[status, 'REQUEST_INVALID']]);
  });
});

function deep(levels: number): string {
  const body = `{"function":"slow","payload":${'['.repeat(levels)}${']'.repeat(levels)}}`;
  return `POST /api/v1/execute HTTP/1.1\r\n${HOST}Connection: close\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
}

it('nothing counts that follows a request whose end others may see elsewhere', async () => {
  const doubtful = `POST /api/v1/execute HTTP/1.1\r\n${HOST}Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n`;
  expect(codes(await send(`${doubtful}GET /healthz HTTP/1.1\r\n${HOST}\r\n`, 2))).toEqual([[400, 'REQUEST_INVALID']]);
});

describe('a refusal comes after the answers to what was sent before', () => {
  const call = `POST /api/v1/functions/slow/invoke HTTP/1.1\r\n${HOST}Content-Length: 2\r\n\r\n{}`;

  it.each([
    ['garbage', '\u0000garbage\r\n\r\n'],
    ['a handshake', `${HANDSHAKE}${KEY}${VERSION}\r\n`],
    ['a tunnel', `CONNECT other:443 HTTP/1.1\r\n${HOST}\r\n`],
    ['a chunk that is none', `POST /api/v1/execute HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\nx\r\n`],
  ])('%s behind a call', async (_, bytes) => {
    called = Promise.withResolvers();
    const answered = send(`${call}${bytes}`, 2);
    const answer = await called.promise;
    answer();
    const [first, second] = await answered;
    expect([first?.status, first?.body.toString(), second?.status]).toEqual([200, '"slow"', expect.any(Number)]);
    expect(codes(second ? [second] : [])).toEqual([[second?.status, 'REQUEST_INVALID']]);
  });
});
