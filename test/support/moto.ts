/** AWS on this machine: the server of moto, and a proxy before it that counts, cuts and refuses. */

import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createServer, request as httpRequest } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { delimiter, join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { PROBE_MS_MAX } from '../require.ts';

/** Throws the reason when moto is not there: a probe for `requirePeer`. */
export function probeMoto(): void {
  execFileSync('moto_server', ['--help'], { stdio: 'ignore', timeout: PROBE_MS_MAX });
}

export interface Moto {
  readonly url: string;
  /** Forgets everything. */
  reset(): Promise<void>;
  close(): Promise<void>;
}

const START_MS_MAX = 120_000;

/**
 * Without Docker moto can answer calls of functions by itself (`answersCalls`); it then does not find layers.
 */
export async function startMoto({ answersCalls = false } = {}): Promise<Moto> {
  const env = {
    ...process.env,
    PYTHONPATH: [join(import.meta.dirname, 'moto-policies'), process.env['PYTHONPATH'] ?? ''].filter((path) => path !== '').join(delimiter),
    PYTHONDONTWRITEBYTECODE: '1',
    MOTO_IAM_LOAD_MANAGED_POLICIES: 'true',
    MOTO_LAMBDA_STUB_ECR: 'false',
    PYTHONUNBUFFERED: '1',
  };
  const child = spawn('moto_server', ['-H', '127.0.0.1', '-p', '0'], { env, stdio: ['ignore', 'ignore', 'pipe'], detached: true });
  let url: string;
  try {
    url = await listening(child);
  } catch (error) {
    end(child);
    throw error;
  }
  // A late line must not block it.
  child.stderr?.resume();
  return {
    url,
    async reset() {
      await fetch(`${url}/moto-api/reset`, { method: 'POST' });
      if (!answersCalls) return;
      await fetch(`${url}/moto-api/config`, { method: 'POST', body: JSON.stringify({ lambda: { use_docker: false } }) });
    },
    async close() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const over = new Promise((resolve) => child.once('exit', resolve));
      end(child);
      await over;
    },
  };
}

/** The command may be a script that starts the server: the group is ended. */
function end(child: ChildProcess): void {
  if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL');
}

/** Resolves with its address. */
function listening(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const timer = setTimeout(() => reject(new Error(`moto did not start: ${text}`)), START_MS_MAX);
    child.stderr?.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      const [, url] = /Running on (http:\/\/127\.0\.0\.1:\d+)\s/.exec(text) ?? [];
      if (url === undefined) return;
      clearTimeout(timer);
      resolve(url);
    });
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`moto ended with status ${code}: ${text}`)));
  });
}

/** What an operation of AWS is called, as far as the request tells; for REST the method and path. */
function operationOf(request: IncomingMessage, body: Buffer): string {
  const target = request.headers['x-amz-target'];
  if (typeof target === 'string') return target.split('.').at(-1) ?? '';
  const path = request.url ?? '';
  const rpc = /\/service\/[^/]+\/operation\/(\w+)/.exec(path);
  if (rpc) return rpc[1] ?? '';
  if (request.headers['content-type']?.startsWith('application/x-www-form-urlencoded'))
    return new URLSearchParams(body.toString('latin1')).get('Action') ?? '';
  return `${request.method} ${path}`;
}

const READS = /^(?:GET|HEAD|Get|List|Describe|Filter|StartQuery|POST \/2015-03-31\/functions\/[^/]+\/invocations)/;
const isWrite = (operation: string): boolean => !READS.test(operation);

export interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body: string;
}

export interface AwsProxy {
  readonly url: string;
  /** Operations that were carried out and change something, in order. */
  readonly writes: string[];
  /** Everything that was asked. */
  readonly requests: string[];
  /** Round trips: so many requests at least came one after the other. */
  rounds(): number;
  cutAfter(writes: number | undefined): void;
  throttle(requests: number): void;
  /** Refuses each operation once. */
  throttleEach(): void;
  /** Answers in the place of AWS, when it gives an answer. */
  answer: ((operation: string, body: Buffer) => Answer | undefined) | undefined;
  reset(): void;
  close(): Promise<void>;
}

export async function startAwsProxy(upstream: string): Promise<AwsProxy> {
  let left = Number.POSITIVE_INFINITY;
  let refusals = 0;
  let passed: Set<string> | undefined;
  let [rounds, answered] = [0, 0];
  const proxy: Omit<AwsProxy, 'url' | 'close'> & { answer: AwsProxy['answer'] } = {
    writes: [],
    requests: [],
    rounds: () => rounds,
    answer: undefined,
    cutAfter: (writes) => (left = writes ?? Number.POSITIVE_INFINITY),
    throttle: (requests) => (refusals = requests),
    throttleEach: () => (passed = new Set()),
    reset() {
      passed = undefined;
      left = Number.POSITIVE_INFINITY;
      refusals = 0;
      [rounds, answered] = [0, 0];
      proxy.answer = undefined;
      proxy.writes.length = 0;
      proxy.requests.length = 0;
    },
  };
  const serve = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const body = await buffer(request);
    const operation = operationOf(request, body);
    proxy.requests.push(operation);
    // One more than the longest chain of those that had their answers before this one came.
    const round = answered + 1;
    rounds = Math.max(rounds, round);
    response.once('close', () => (answered = Math.max(answered, round)));
    if (left <= 0) return void request.socket.destroy();
    const isFirst = passed?.has(operation) === false;
    if (refusals > 0 || isFirst) {
      if (isFirst) passed?.add(operation);
      else refusals -= 1;
      return send(response, throttled(request));
    }
    const instead = proxy.answer?.(operation, body);
    if (instead) return send(response, instead);
    if (isWrite(operation)) {
      left -= 1;
      proxy.writes.push(operation);
    }
    const answer = await forward(upstream, request, body);
    if (left <= 0) return void request.socket.destroy();
    const { 'transfer-encoding': _, connection: __, ...headers } = answer.headers;
    response.writeHead(answer.status, headers).end(answer.body);
  };
  const server = createServer((request, response) => {
    serve(request, response).catch(() => request.socket.destroy());
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  return Object.assign(proxy, {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => closed(server),
  });
}

function send(response: ServerResponse, { status, headers = {}, body }: Answer): void {
  response.writeHead(status, headers).end(body);
}

/** As the services of each protocol say it. */
function throttled(request: IncomingMessage): Answer {
  const isQuery = request.headers['content-type']?.startsWith('application/x-www-form-urlencoded');
  const common = { 'retry-after': '1', 'x-amzn-errortype': 'TooManyRequestsException' };
  return isQuery
    ? {
        status: 400,
        headers: { ...common, 'content-type': 'text/xml' },
        body: '<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error><RequestId>r</RequestId></ErrorResponse>',
      }
    : {
        status: 429,
        headers: { ...common, 'content-type': 'application/json' },
        body: JSON.stringify({ __type: 'TooManyRequestsException', Type: 'User', message: 'Rate exceeded' }),
      };
}

interface Forwarded {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

function forward(upstream: string, request: IncomingMessage, body: Buffer): Promise<Forwarded> {
  const { hostname, port } = new URL(upstream);
  const { 'transfer-encoding': _, connection: __, ...headers } = request.headers;
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest(
      { hostname, port, method: request.method, path: request.url, headers: { ...headers, 'content-length': String(body.length) } },
      (answer) => {
        buffer(answer).then((bytes) => resolve({ status: answer.statusCode ?? 502, headers: answer.headers, body: bytes }), reject);
      },
    );
    outgoing.once('error', reject);
    outgoing.end(body);
  });
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.closeAllConnections();
    server.close(() => resolve());
  });
}
