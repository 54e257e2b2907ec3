/** Puts functions on a platform of the Custom FaaS Platform Specification v1.0. */

import { RunnerError, errorFromResponse, systemClock } from '../../src/plugin.ts';
import type { Clock, FunctionConfig, FunctionPackage } from '../../src/plugin.ts';
import type { HttpRequest, HttpResponse } from './client.ts';
import { Connections, parseTarget } from './connection.ts';
import type { ConnectionOptions, Target } from './connection.ts';

export interface HttpDeployerOptions extends ConnectionOptions {
  /**
   * When the platform has another function of that id: `replace` (default) removes it first, which loses the calls that run on it;
   * `refuse` fails with `FUNCTION_EXISTS`.
   */
  readonly whenExists?: 'replace' | 'refuse' | undefined;
  /** Time for one request, milliseconds. Default 120,000. */
  readonly timeoutMs?: number | undefined;
}

const RESPONSE_BYTES_MAX = 1024 * 1024;

export interface FunctionDeployment {
  readonly functionId: string;
  readonly endpoint: string;
  readonly status: 'deployed' | 'deploying' | 'failed';
  readonly memoryMb?: number;
  readonly timeoutMs?: number;
  readonly packageBytes?: number;
  readonly deployedAt?: string;
  readonly coldStartMs?: number;
}

/** What the platform says of a function; unknown fields are left alone. */
interface FunctionInfo extends FunctionDeployment {
  /** Only some platforms tell it. */
  readonly sha256: string | undefined;
}

/**
 * Deploys, describes and removes functions.
 *
 * Every operation can be repeated: deploying what is there already changes nothing, as far as the platform tells what is there.
 * Rejects with `FUNCTION_EXISTS`, `DEPLOY_FAILED`, `PAYLOAD_TOO_LARGE` and the errors of `HttpClient.send`.
 *
 * @example
 * const deployer = new HttpFaasDeployer('https://faas.example.org', { bearer: 'env:FAAS_TOKEN' });
 * const { endpoint } = await deployer.deploy('job0', { zip, sha256 }, { memoryMb: 512 });
 */
export class HttpFaasDeployer {
  readonly #target: Target;
  readonly #options: HttpDeployerOptions;
  readonly #clock: Clock;
  readonly #connections: Connections;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(url: string, options: HttpDeployerOptions = {}) {
    this.#target = parseTarget(url);
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#connections = new Connections(options, this.#clock);
  }

  async deploy(functionId: string, code: FunctionPackage, config: FunctionConfig): Promise<FunctionDeployment> {
    const first = await this.#put(functionId, code, config);
    if (first.status !== 409) return this.#deployed(functionId, first);
    const present = await this.#info(functionId);
    if (present && isSame(present, code, config)) return present;
    if (this.#options.whenExists === 'refuse') {
      throw new RunnerError('FUNCTION_EXISTS', `the platform has another function ${functionId}`, {
        details: { functionId, sha256: present?.sha256 },
      });
    }
    await this.remove(functionId);
    return this.#deployed(functionId, await this.#put(functionId, code, config));
  }

  async describe(functionId: string): Promise<FunctionDeployment | undefined> {
    return this.#info(functionId);
  }

  async remove(functionId: string): Promise<void> {
    const response = await this.#send({ method: 'DELETE', path: this.#path(functionId) });
    if (response.status >= 300 && response.status !== 404) throw failure(`remove function ${functionId}`, response);
  }

  close(): Promise<void> {
    return this.#connections.close();
  }

  #path(functionId: string): string {
    return `${this.#target.path}/api/functions/${encodeURIComponent(functionId)}`;
  }

  #put(functionId: string, code: FunctionPackage, config: FunctionConfig): Promise<HttpResponse> {
    const header = JSON.stringify({
      memory_mb: config.memoryMb,
      timeout_secs: config.timeoutMs === undefined ? undefined : Math.ceil(config.timeoutMs / 1_000),
      max_concurrency: config.concurrencyMax,
      env_vars: config.environment,
    });
    const headers = ['content-type', 'application/zip', 'x-blueprint-config', Buffer.from(header).toString('base64')];
    return this.#send({ method: 'PUT', path: this.#path(functionId), headers, body: code.zip });
  }

  async #info(functionId: string): Promise<FunctionInfo | undefined> {
    const response = await this.#send({ method: 'GET', path: this.#path(functionId) });
    if (response.status === 404) return undefined;
    if (response.status >= 300) throw failure(`describe function ${functionId}`, response);
    return parseInfo(functionId, response);
  }

  #deployed(functionId: string, response: HttpResponse): FunctionDeployment {
    if (response.status >= 300) throw failure(`deploy function ${functionId}`, response);
    return parseInfo(functionId, response);
  }

  #send(request: Pick<HttpRequest, 'method' | 'path' | 'body'> & { readonly headers?: string[] }): Promise<HttpResponse> {
    const deadline = this.#clock.now() + (this.#options.timeoutMs ?? 120_000);
    return this.#connections.send(this.#target, { headers: [], ...request, deadline, responseBytesMax: RESPONSE_BYTES_MAX });
  }
}

/** Whether the platform says that it runs this package with this configuration. */
function isSame(present: FunctionInfo, code: FunctionPackage, config: FunctionConfig): boolean {
  const agrees = (wanted: number | undefined, has: number | undefined): boolean => wanted === undefined || wanted === has;
  return (
    present.status === 'deployed' &&
    present.sha256 === code.sha256 &&
    agrees(config.memoryMb, present.memoryMb) &&
    agrees(config.timeoutMs, present.timeoutMs)
  );
}

/** Codes that say more about a deployment than `DEPLOY_FAILED`. */
const TELLING: ReadonlySet<string> = new Set([
  'EXECUTOR_UNAUTHORIZED',
  'PAYLOAD_TOO_LARGE',
  'EXECUTOR_THROTTLED',
  'EXECUTOR_UNAVAILABLE',
  'FUNCTION_EXISTS',
]);

function failure(what: string, { status, body, headers }: HttpResponse): RunnerError {
  const cause = errorFromResponse(status, body, headers);
  const code = TELLING.has(cause.code) ? cause.code : 'DEPLOY_FAILED';
  return new RunnerError(code, `cannot ${what}: ${cause.message}`, {
    cause,
    details: cause.details,
    retry: code === 'DEPLOY_FAILED' && status < 500 ? 'never' : cause.retry,
  });
}

function parseInfo(functionId: string, response: HttpResponse): FunctionInfo {
  let info: unknown;
  try {
    info = JSON.parse(Buffer.from(response.body).toString('utf8'));
  } catch (cause) {
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the platform describes function ${functionId} in something that is not JSON`, {
      cause,
    });
  }
  // A JSON object has text keys and unknown values.
  const fields = (typeof info === 'object' && info !== null ? info : {}) as Record<string, unknown>;
  const endpoint = text(fields['endpoint']);
  if (endpoint === undefined)
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the platform describes function ${functionId} without its endpoint`);
  const timeoutSecs = number(fields['timeout_secs']);
  return dropUndefined({
    functionId: text(fields['function_id']) ?? functionId,
    endpoint,
    status: statusOf(fields['status']),
    memoryMb: number(fields['memory_mb']),
    timeoutMs: timeoutSecs === undefined ? undefined : timeoutSecs * 1_000,
    packageBytes: number(fields['binary_size_bytes']),
    deployedAt: text(fields['deployed_at']),
    coldStartMs: number(fields['cold_start_ms']),
    sha256: text(fields['sha256']),
  });
}

function statusOf(value: unknown): FunctionDeployment['status'] {
  return value === 'deploying' || value === 'failed' ? value : 'deployed';
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

function number(value: unknown): number | undefined {
  return typeof value === 'number' ? value : undefined;
}

type Loose<T> = { [K in keyof T]: T[K] | undefined };

function dropUndefined(info: Loose<FunctionInfo>): FunctionInfo {
  // Only optional fields can be undefined here.
  return Object.fromEntries(Object.entries(info).filter(([, value]) => value !== undefined)) as unknown as FunctionInfo;
}
