/**
 * A FaaS platform for tests: the Custom FaaS Platform Specification v1.0, served on loopback. It stores what is uploaded and runs it
 * as a process; it does not isolate functions from each other or from the machine.
 */

import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RunnerError, isRunnerError } from '../errors.ts';
import { parseFunctionConfig, unpackFunction } from './faas-package.ts';
import type { FaasFunctionConfig } from './faas-package.ts';
import { BootstrapFunction } from './faas-process.ts';

export interface FaasServerOptions {
  /** Expected in `header`; without it everybody may do everything. */
  readonly apiKey?: string;
  /** Where the key is expected. Default `authorization`, as `Bearer <key>`; in any other header the key stands alone. */
  readonly header?: string;
  /** Default 0: the system chooses. */
  readonly port?: number;
  /** An uploaded zip. Default 50 MiB. */
  readonly packageBytesMax?: number;
  /** All files of a zip unpacked. Default 250 MiB. */
  readonly unpackedBytesMax?: number;
  /** Body of an invocation, and output of a function. Default 6 MiB. */
  readonly payloadBytesMax?: number;
  /** Added to the clean environment of every function. */
  readonly environment?: Readonly<Record<string, string>>;
}

export interface FaasServer {
  readonly url: string;
  /** Ends running functions, deletes what was uploaded. Idempotent. */
  close(): Promise<void>;
}

const MIB = 1024 * 1024;

/**
 * Starts a platform.
 *
 * @example
 * const platform = await startFaasServer({ apiKey: 'test' });
 * const executor = new HttpFaasExecutor(platform.url, { mode: 'platform', bearer: () => 'test' });
 * await platform.close();
 */
export async function startFaasServer(options: FaasServerOptions = {}): Promise<FaasServer> {
  const directory = await mkdtemp(join(tmpdir(), 'faas-server-'));
  const platform = new Platform(directory, options);
  const server = createServer((request, response) => void platform.handle(request, response));
  try {
    await listen(server, options.port ?? 0);
  } catch (cause) {
    await rm(directory, { recursive: true, force: true });
    throw new RunnerError('CONFIG_INVALID', `the FaaS server cannot listen on port ${options.port}`, { cause });
  }
  const address = server.address();
  if (typeof address !== 'object' || address === null) throw new RunnerError('INTERNAL', 'the FaaS server has no port');
  platform.url = `http://127.0.0.1:${address.port}`;
  let closing: Promise<void> | undefined;
  return { url: platform.url, close: () => (closing ??= shutDown(server, platform)) };
}

function listen(server: Server, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      server.off('error', reject);
      resolve();
    });
  });
}

async function shutDown(server: Server, platform: Platform): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
  await platform.close();
  server.closeAllConnections();
  await closed;
}

/** What is sent back: the status and the object that becomes the JSON body. */
interface Answer {
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
  readonly headers?: Readonly<Record<string, string>>;
}

interface Deployed {
  readonly id: string;
  readonly config: FaasFunctionConfig;
  readonly process: BootstrapFunction;
  readonly deployedAt: string;
  readonly packageBytes: number;
  readonly sha256: string;
}

const ROUTE = /^\/api\/functions\/([^/?]+)(?:\/(invoke|health|warm))?$/;
const FUNCTION_ID = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;

class Platform {
  url = '';
  readonly #directory: string;
  readonly #options: FaasServerOptions;
  readonly #functions = new Map<string, Deployed>();
  /** Ids that are being unpacked. */
  readonly #deploying = new Set<string>();
  #deployments = 0;

  constructor(directory: string, options: FaasServerOptions) {
    this.#directory = directory;
    this.#options = options;
  }

  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    let answer: Answer;
    try {
      answer = await this.#answer(request, gone.signal);
    } catch (thrown) {
      answer = failure(thrown);
    }
    if (response.destroyed) return;
    // A request that was refused before it was read to its end leaves a connection that cannot be used again.
    if (!request.complete) response.setHeader('connection', 'close');
    response.writeHead(answer.status, { 'content-type': 'application/json', ...answer.headers }).end(JSON.stringify(answer.body));
  }

  async close(): Promise<void> {
    await Promise.all([...this.#functions.values()].map((deployed) => deployed.process.close()));
    await rm(this.#directory, { recursive: true, force: true });
  }

  async #answer(request: IncomingMessage, gone: AbortSignal): Promise<Answer> {
    if (!this.#authorized(request)) return problem(401, 'UNAUTHORIZED', 'the API key is missing or wrong');
    const [, encodedId = '', action] = ROUTE.exec(request.url?.split('?', 1)[0] ?? '') ?? [];
    const id = decode(encodedId);
    if (!FUNCTION_ID.test(id)) return problem(404, 'NOT_FOUND', `there is nothing at ${request.url}`);
    switch (`${request.method} ${action ?? ''}`) {
      case 'PUT ':
        return this.#deploy(id, request);
      case 'GET ':
        return this.#with(id, (deployed) => ({ status: 200, body: this.#describe(deployed) }));
      case 'DELETE ':
        return this.#with(id, (deployed) => this.#remove(deployed));
      case 'POST invoke':
        return this.#with(id, (deployed) => this.#invoke(deployed, request, gone));
      case 'GET health':
        return this.#with(id, health);
      case 'POST warm':
        return this.#with(id, warm);
      default:
        return problem(405, 'METHOD_NOT_ALLOWED', `${request.method} is not possible at ${request.url}`);
    }
  }

  #authorized(request: IncomingMessage): boolean {
    const { apiKey, header = 'authorization' } = this.#options;
    if (apiKey === undefined) return true;
    const expected = header.toLowerCase() === 'authorization' ? `Bearer ${apiKey}` : apiKey;
    const given = request.headers[header.toLowerCase()];
    const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
    return typeof given === 'string' && timingSafeEqual(digest(given), digest(expected));
  }

  #with(id: string, action: (deployed: Deployed) => Answer | Promise<Answer>): Answer | Promise<Answer> {
    const deployed = this.#functions.get(id);
    if (deployed) return action(deployed);
    return { status: 404, body: { error: 'Function not found', code: 'FUNCTION_NOT_FOUND', function_id: id } };
  }

  async #deploy(id: string, request: IncomingMessage): Promise<Answer> {
    if (this.#functions.has(id) || this.#deploying.has(id)) {
      return { status: 409, body: { error: 'Function already exists', code: 'FUNCTION_EXISTS', function_id: id } };
    }
    const config = parseFunctionConfig(request.headers['x-blueprint-config']);
    this.#deploying.add(id);
    try {
      const zip = await readBody(request, this.#options.packageBytesMax ?? 50 * MIB);
      const directory = join(this.#directory, String((this.#deployments += 1)));
      const executable = await unpackFunction(zip, directory, this.#options.unpackedBytesMax ?? 250 * MIB);
      const environment = { ...this.#options.environment, ...config.environment };
      const process = new BootstrapFunction({ executable, directory, environment, config, outputBytesMax: this.#payloadBytesMax });
      const sha256 = createHash('sha256').update(zip).digest('hex');
      const deployed = { id, config, process, deployedAt: new Date().toISOString(), packageBytes: zip.length, sha256 };
      this.#functions.set(id, deployed);
      return { status: 200, body: this.#describe(deployed) };
    } finally {
      this.#deploying.delete(id);
    }
  }

  get #payloadBytesMax(): number {
    return this.#options.payloadBytesMax ?? 6 * MIB;
  }

  #describe(deployed: Deployed): Answer['body'] {
    return {
      function_id: deployed.id,
      endpoint: `${this.url}/api/functions/${deployed.id}/invoke`,
      status: 'deployed',
      ...(deployed.process.coldStartMs !== undefined && { cold_start_ms: deployed.process.coldStartMs }),
      memory_mb: deployed.config.memoryMb,
      timeout_secs: deployed.config.timeoutMs / 1_000,
      deployed_at: deployed.deployedAt,
      binary_size_bytes: deployed.packageBytes,
      sha256: deployed.sha256,
    };
  }

  async #remove(deployed: Deployed): Promise<Answer> {
    this.#functions.delete(deployed.id);
    await deployed.process.close();
    return { status: 200, body: { function_id: deployed.id, status: 'deleted' } };
  }

  async #invoke(deployed: Deployed, request: IncomingMessage, gone: AbortSignal): Promise<Answer> {
    const input = await readBody(request, this.#payloadBytesMax);
    const call = parseObject(input);
    if (call?.['job_id'] === undefined || !Array.isArray(call['args'])) {
      return problem(400, 'BAD_REQUEST', 'the body must be JSON with job_id and args');
    }
    const base = { job_id: call['job_id'], result: [] };
    try {
      const { output, executionMs, coldStart } = await deployed.process.run(input, gone);
      const result = parseObject(output);
      if (!result) throw new RunnerError('JOB_FAILED', 'the function did not write a JSON object to its standard output');
      const success = result['success'] !== false && result['error'] === undefined;
      return { status: success ? 200 : 500, body: { ...base, ...result, success, execution_ms: executionMs, cold_start: coldStart } };
    } catch (thrown) {
      const { status, body, headers = {} } = failure(thrown);
      return { status, headers, body: { ...base, success: false, ...body } };
    }
  }
}

function health(deployed: Deployed): Answer {
  const { invocations, lastInvocation, crash } = deployed.process;
  const base = { function_id: deployed.id, total_invocations: invocations, ...(lastInvocation && { last_invocation: lastInvocation }) };
  if (crash) return { status: 503, body: { ...base, status: 'unhealthy', error: crash } };
  return { status: 200, body: { ...base, status: 'healthy' } };
}

async function warm(deployed: Deployed): Promise<Answer> {
  return { status: 200, body: { function_id: deployed.id, status: 'warm', instances_warmed: await deployed.process.warm() } };
}

function problem(status: number, code: string, error: string): Answer {
  return { status, body: { error, code, details: {} } };
}

const STATUS_OF_CODE: Readonly<Record<string, number>> = {
  CONFIG_INVALID: 400,
  PAYLOAD_TOO_LARGE: 413,
  EXECUTOR_TIMEOUT: 500,
  EXECUTOR_UNAVAILABLE: 503,
  QUEUE_FULL: 429,
};

/** Names that the specification uses; every other code is given as it is. */
const SPECIFIED_CODE: Readonly<Record<string, string>> = { EXECUTOR_TIMEOUT: 'TIMEOUT', QUEUE_FULL: 'TOO_MANY_REQUESTS' };

function failure(thrown: unknown): Answer {
  if (!isRunnerError(thrown)) return problem(500, 'INTERNAL', thrown instanceof Error ? thrown.message : String(thrown));
  const { code, message, details, retry } = thrown;
  return {
    status: STATUS_OF_CODE[code] ?? 500,
    body: { error: message, code: SPECIFIED_CODE[code] ?? code, details },
    ...(retry === 'safe' && { headers: { 'retry-after': '1' } }),
  };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return '';
  }
}

function parseObject(bytes: Uint8Array): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'));
    // A JSON object has text keys and unknown values.
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

async function readBody(request: IncomingMessage, bytesMax: number): Promise<Buffer> {
  const tooLarge = (size: number): RunnerError =>
    new RunnerError('PAYLOAD_TOO_LARGE', `the body has ${size} bytes or more; the limit is ${bytesMax}`, {
      details: { size, limit: bytesMax },
    });
  const announced = Number(request.headers['content-length']);
  if (announced > bytesMax) throw tooLarge(announced);
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request) {
    size += (chunk as Buffer).length;
    if (size > bytesMax) throw tooLarge(size);
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks, size);
}
