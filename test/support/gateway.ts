/** A gateway for tests, and packages for it. */

import { mkdtemp, rm } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { strToU8, zipSync } from 'fflate';
import { onTestFinished } from 'vitest';
import { Gateway } from '../../src/gateway/gateway.ts';
import type { GatewayAddress, GatewayOptions } from '../../src/gateway/gateway.ts';
import { FakeBackend } from './fake-backend.ts';
import type { FakeBackendOptions } from './fake-backend.ts';

/** In the one order of all that is cleaned up after a test: what came last goes first, and folders go when nobody writes in them any more. */
export function onEnd(cleanUp: () => unknown): void {
  onTestFinished(async () => {
    await cleanUp();
  });
}

export async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'gw-'));
  onEnd(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

export interface TestGateway {
  readonly gateway: Gateway;
  readonly url: string;
  readonly folder: string;
  readonly backend: FakeBackend;
}

/** On a backend whose instances live in this process and echo. */
export async function startGateway(
  options: Partial<GatewayOptions> & { readonly backend?: FakeBackendOptions; readonly address?: GatewayAddress } = {},
): Promise<TestGateway> {
  const { backend: backendOptions, address, ...rest } = options;
  const folder = rest.folder ?? (await newFolder());
  const backend = new FakeBackend(backendOptions);
  const gateway = new Gateway({ folder, backends: new Map([['fake', backend]]), ...rest });
  onEnd(() => gateway.close(0));
  const url = await gateway.listen({ port: 0, ...address });
  return { gateway, url, folder, backend };
}

export function zipOf(files: Readonly<Record<string, string>>): Uint8Array<ArrayBuffer> {
  const entries = Object.entries(files).map(([name, text]) => [name, [strToU8(text), { os: 3, attrs: 0o100755 << 16 }] as const] as const);
  return Uint8Array.from(zipSync(Object.fromEntries(entries) as unknown as Parameters<typeof zipSync>[0], { mtime: '2026-01-01' }));
}

export const HELLO = zipOf({ 'index.mjs': 'export const handler = async (event) => ({ got: event });' });

export interface TestReply {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** Of an error: its code. */
  readonly code: string | undefined;
  readonly json: unknown;
}

export interface TestRequest {
  readonly body?: RequestInit['body'];
  readonly headers?: Record<string, string>;
}

export async function send(url: string, line: string, { body, headers = {} }: TestRequest = {}): Promise<TestReply> {
  const [method = 'GET', path = '/'] = line.split(' ');
  const response = await fetch(url + path, { method, headers, ...(body !== undefined && { body }) });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, ...documentOf(text) };
}

function documentOf(text: string): { readonly code: string | undefined; readonly json: unknown } {
  try {
    const json: unknown = JSON.parse(text);
    const error = typeof json === 'object' && json !== null && 'error' in json ? json.error : undefined;
    const code = typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : undefined;
    return { json, code };
  } catch {
    return { json: undefined, code: undefined };
  }
}

/** Like `send`, with exactly these headers, whatever a browser or `fetch` would do to them. */
export function sendRaw(
  url: string,
  line: string,
  headers: Readonly<Record<string, string | string[]>> = {},
): Promise<{ readonly status: number; readonly body: string }> {
  const [method = 'GET', path = '/'] = line.split(' ');
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest({ hostname, port, method, path, headers, agent: false }, (incoming) => {
      let body = '';
      incoming.setEncoding('utf8').on('data', (part: string) => (body += part));
      incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, body }));
    });
    outgoing.on('error', reject);
    outgoing.end();
  });
}

/** Resolves when the condition holds; it is asked again and again, and leaves the processor to what it waits for. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 2));
}
