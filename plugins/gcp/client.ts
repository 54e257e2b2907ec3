/** Requests to the services of GCP, with the errors of Google in the words of deployers. */

import { Connections, PlatformRequests, RunnerError, Waits, fieldsOf, isRunnerError, parseTarget, text } from '../../src/plugin.ts';
import type { Clock, ErrorCode, HttpResponse } from '../../src/plugin.ts';
import { Tokens } from './auth.ts';
import { endpointOf } from './options.ts';
import type { GcpAuthOptions, Service } from './options.ts';

/** A JSON object has text keys and unknown values. */
export type Fields = Readonly<Record<string, unknown>>;

export function asFields(value: unknown): Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}

export function listOf(value: unknown): readonly Fields[] {
  return Array.isArray(value) ? value.map(asFields) : [];
}

export interface ServiceRequest {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  /** With the version of the API. */
  readonly path: string;
  readonly json?: unknown;
  /** What it is for, in words: `create function a`. */
  readonly what: string;
  readonly signal: AbortSignal | undefined;
}

export interface Surroundings {
  readonly clock: Clock;
  readonly environment?: NodeJS.ProcessEnv | undefined;
}

const TIMEOUT_MS = 60_000;
const UPLOAD_MS = 15 * 60_000;
const POLL_MS = 2_000;
/** A build of Cloud Build may take ten minutes, and may wait for others. */
export const OPERATION_MS_MAX = 30 * 60_000;
/** Answers one after the other that may be lost while it does. */
const LOST_MAX = 5;

export class GcpClient {
  readonly clock: Clock;
  readonly waits = new Waits('GCP');
  readonly tokens: Tokens;
  readonly connections: Connections;
  readonly #options: GcpAuthOptions;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: GcpAuthOptions, { clock, environment }: Surroundings) {
    this.#options = options;
    this.clock = clock;
    this.connections = new Connections({}, clock);
    this.tokens = new Tokens(options, { clock, connections: this.connections, environment });
  }

  /**
   * The answer, when it is a good one; undefined when there is no such thing. Rejects with `PLATFORM_UNREACHABLE`, `PLATFORM_THROTTLED`,
   * `CREDENTIALS_MISSING`, `EXECUTOR_UNAUTHORIZED`, `ABORTED`, `DEPLOY_FAILED`.
   */
  async find(service: Service, request: ServiceRequest): Promise<Fields | undefined> {
    const { method, path, json, signal, what } = request;
    if (signal?.aborted) throw new RunnerError('ABORTED', `the request to ${what} was cancelled`, { cause: signal.reason, retry: 'safe' });
    const authorization = `Bearer ${await this.tokens.access()}`;
    const requests = this.#requests(endpointOf(service, this.#options), { what, timeoutMs: TIMEOUT_MS });
    const headers = ['authorization', authorization, 'accept', 'application/json'];
    const response = await requests.send({ method, path, headers, ...(json !== undefined && { json }), signal });
    if (response.status === 404) return undefined;
    if (response.status >= 300) throw failure(what, response);
    const fields = fieldsOf(response.body);
    if (fields) return fields;
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `GCP was asked to ${what} and answered with something that is not JSON`);
  }

  /** As `find`, for what must be there: `FUNCTION_NOT_FOUND`. */
  async request(service: Service, request: ServiceRequest): Promise<Fields> {
    const found = await this.find(service, request);
    if (found) return found;
    throw new RunnerError('FUNCTION_NOT_FOUND', `GCP cannot ${request.what}: it is not there`, { details: { path: request.path } });
  }

  /** All items of all pages. */
  async *items(service: Service, request: ServiceRequest, key: string): AsyncGenerator<Fields> {
    const { path } = request;
    for (let page = ''; ;) {
      const query = page === '' ? '' : `${path.includes('?') ? '&' : '?'}pageToken=${encodeURIComponent(page)}`;
      const answer = await this.find(service, { ...request, path: path + query });
      yield* listOf(answer?.[key]);
      const next = text(answer?.['nextPageToken']) ?? '';
      if (next === '') return;
      page = next;
    }
  }

  /** Waits for a long-running operation. Rejects with `DEPLOY_FAILED` with what the operation ended with. */
  async finish(service: Service, started: Fields, { what, signal }: Pick<ServiceRequest, 'what' | 'signal'>): Promise<void> {
    const until = this.clock.now() + OPERATION_MS_MAX;
    let operation = started;
    let lost = 0;
    while (operation['done'] !== true) {
      if (this.clock.now() >= until)
        throw new RunnerError('DEPLOY_FAILED', `GCP works for more than ${OPERATION_MS_MAX / 60_000} minutes to ${what}`, {
          details: { operation: operation['name'] },
        });
      await this.clock.sleep(POLL_MS, signal);
      const path = `/v2/${String(started['name'])}`;
      const answer = await this.request(service, { method: 'GET', path, what: `ask about: ${what}`, signal }).catch((error: unknown) => {
        // The platform works on. Among hundreds of answers one may be lost.
        if (!isRunnerError(error) || error.retry === 'never' || ++lost > LOST_MAX) throw error;
        return undefined;
      });
      if (!answer) continue;
      operation = answer;
      lost = 0;
    }
    if (operation['error'] === undefined) return;
    const { code, message } = asFields(operation['error']);
    const platformCode = CODES[Number(code)] ?? String(code);
    throw new RunnerError('DEPLOY_FAILED', `GCP cannot ${what}: ${platformCode}: ${String(message)}`, {
      details: { platformCode, operation: operation['name'] },
      retry: 'never',
    });
  }

  /** Sends a package to the address that was given for it, which is all the permission that is needed. */
  async upload(uploadUrl: string, zip: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const { pathname, search, origin } = new URL(uploadUrl);
    const what = 'take the package';
    const requests = this.#requests(this.#options.endpoints?.upload ?? origin, { what, timeoutMs: UPLOAD_MS });
    const headers = ['content-type', 'application/zip'];
    const response = await requests.send({ method: 'PUT', path: pathname + search, headers, body: zip, signal });
    if (response.status >= 300) throw failure(what, response);
  }

  /** Waits between two looks at something that the platform works on. */
  pause(signal: AbortSignal | undefined): Promise<void> {
    return this.clock.sleep(POLL_MS, signal);
  }

  /** Graceful and idempotent. */
  close(): Promise<void> {
    return this.connections.close();
  }

  #requests(address: string, { what, timeoutMs }: { readonly what: string; readonly timeoutMs: number }): PlatformRequests {
    const denied = (response: HttpResponse): RunnerError => {
      if (response.status === 401) this.tokens.forget();
      return failure(what, response);
    };
    return new PlatformRequests(parseTarget(address), this.connections, { clock: this.clock, timeoutMs, denied, waits: this.waits });
  }
}

/** Codes of operations: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto */
const CODES = (
  'OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ' +
  'ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED'
).split(' ');

/** What Google says: `{ error: { code, status, message, details } }`. */
export function failure(what: string, { status, body }: HttpResponse, as?: ErrorCode): RunnerError {
  const error = asFields(fieldsOf(body)?.['error']);
  const platformCode = text(error['status']) ?? `status ${status}`;
  const said = text(error['message']) ?? Buffer.from(body).toString('utf8', 0, 200).trim();
  const lacks = status === 403 ? lackOf(error, said) : '';
  const hint = status === 401 ? '; the credentials are not taken' : lacks;
  return new RunnerError(as ?? codeOf(status), `GCP cannot ${what}: ${platformCode}: ${said}${hint}`, {
    details: { status, platformCode, ...(lacks !== '' && { lacks: lacks.slice(2) }) },
    retry: status < 500 && status !== 429 ? 'never' : 'idempotent',
  });
}

function codeOf(status: number): ErrorCode {
  if (status === 401 || status === 403) return 'EXECUTOR_UNAUTHORIZED';
  if (status === 429) return 'PLATFORM_THROTTLED';
  return status === 413 ? 'PAYLOAD_TOO_LARGE' : 'DEPLOY_FAILED';
}

/** Which permission, or which service, is missing: https://docs.cloud.google.com/apis/design/errors#error_info */
function lackOf(error: Fields, said: string): string {
  const { reason, metadata } = listOf(error['details']).find(({ reason: each }) => typeof each === 'string') ?? {};
  const { permission, service, activationUrl } = asFields(metadata);
  if (reason === 'SERVICE_DISABLED') {
    const page = text(activationUrl);
    return `; enable ${text(service)}: gcloud services enable ${text(service)}${page === undefined ? '' : `, or ${page}`}`;
  }
  const named = text(permission) ?? /[Pp]ermission '?([a-zA-Z]+\.[\w.]+)/.exec(said)?.[1];
  if (named === undefined) return '';
  return `; the permission ${named} is missing: grant a role that has it (${roleWith(named)}) to who calls`;
}

function roleWith(permission: string): string {
  const [service] = permission.split('.');
  if (service === 'cloudfunctions') return 'roles/cloudfunctions.developer';
  if (service === 'cloudscheduler') return 'roles/cloudscheduler.admin';
  if (service === 'logging') return 'roles/logging.viewer';
  if (service === 'iam') return 'roles/iam.serviceAccountUser';
  return permission.includes('IamPolicy') ? 'roles/run.admin' : 'roles/run.developer';
}
