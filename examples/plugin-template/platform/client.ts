/**
 * The only file that speaks to the platform. What is here fits the reference platform of this package: replace it with the API of yours,
 * and keep the signatures, which are all that executor and deployer know.
 */

import { Connections, PlatformRequests, RunnerError, errorFromResponse, failure, parseTarget } from '../../../src/plugin.ts';
import type {
  Clock,
  HttpResponse,
  Target,
  // deployer:begin
  FunctionConfig,
  FunctionSchedule,
  LogEntry,
  // deployer:end
} from '../../../src/plugin.ts';
import { tokenOf } from './options.ts';
import type { AcmeOptions } from './options.ts';

const REQUEST_MS_MAX = 60_000;
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;

/** What a function answered. */
export interface Answer {
  readonly body: Uint8Array;
  /** The function failed; the body is what it said. */
  readonly failed: boolean;
}

export interface CallOptions {
  /** Milliseconds since the epoch. */
  readonly deadline: number;
  readonly signal?: AbortSignal | undefined;
}

/** A function as the platform has it. */
export interface PlatformFunction {
  readonly name: string;
  // deployer:begin
  /** This tool made it. */
  readonly isOurs: boolean;
  /** Of the package that runs, hex. A platform that does not tell it has labels: keep it there. */
  readonly sha256: string;
  readonly version: string;
  readonly updatedAt: string;
  readonly settings: Settings;
  // deployer:end
}
// deployer:begin

/** What the platform keeps of a configuration. */
export type Settings = Pick<FunctionConfig, 'description' | 'memoryMb' | 'timeoutMs' | 'environment'>;

export interface FunctionWrite {
  readonly settings: Settings;
  /** Absent: the code stays. */
  readonly zip?: Uint8Array | undefined;
}

/** A time table as the platform has it. */
export interface PlatformSchedule {
  readonly name: string;
  readonly expressions: readonly string[];
  readonly timezone?: string;
  readonly event: unknown;
  /** What it was made from: a label, so that it can be compared with what is wanted. */
  readonly source: FunctionSchedule;
}

export interface PlatformVersion {
  readonly version: string;
  readonly sha256: string;
  readonly createdAt: string;
}

export interface LogLine extends LogEntry {
  /** Ascending; to be continued from. */
  readonly position: number;
}

/** What marks a function as ours. */
const LABELS = { 'managed-by': 'blueprint-runner' };
// deployer:end

export class AcmeClient {
  readonly #target: Target;
  readonly #connections: Connections;
  readonly #requests: PlatformRequests;
  readonly clock: Clock;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: AcmeOptions, clock: Clock) {
    this.clock = clock;
    this.#target = parseTarget(options.url);
    this.#connections = new Connections({ bearer: tokenOf(options) }, clock);
    this.#requests = new PlatformRequests(this.#target, this.#connections, { clock, timeoutMs: REQUEST_MS_MAX });
  }

  /** One attempt. Rejects with the codes of an executor, above all `EXECUTOR_NOT_FOUND`, `EXECUTOR_TIMEOUT`, `ABORTED`. */
  async call(name: string, event: Uint8Array, { deadline, signal }: CallOptions): Promise<Answer> {
    const response = await this.#connections.send(this.#target, {
      method: 'POST',
      path: `${this.#target.path}${pathOf(name)}/calls`,
      headers: ['content-type', 'application/json'],
      body: event,
      deadline,
      signal,
      responseBytesMax: ANSWER_BYTES_MAX,
    });
    const failed = response.headers['x-function-failed'] === 'true';
    if (!failed && response.status >= 300) throw errorFromResponse(response.status, response.body, response.headers);
    return { body: response.body, failed };
  }

  /** Undefined when there is no such function. */
  async find(name: string, signal: AbortSignal | undefined): Promise<PlatformFunction | undefined> {
    const response = await this.#requests.send({ method: 'GET', path: pathOf(name), signal });
    return response.status === 404 ? undefined : read<PlatformFunction>(`describe ${name}`, response);
  }
  // deployer:begin

  /** Resolves when the platform has taken the call. */
  async start(name: string, event: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const headers = ['content-type', 'application/json'];
    const path = `${pathOf(name)}/calls?wait=false`;
    written(`call ${name}`, await this.#requests.send({ method: 'POST', path, headers, body: event, signal, once: true }));
  }

  async *list(signal: AbortSignal | undefined): AsyncGenerator<PlatformFunction> {
    for (let after = ''; ;) {
      const path = `/v1/functions?after=${encodeURIComponent(after)}`;
      const page = read<{ items: readonly PlatformFunction[]; next?: string }>(
        'list',
        await this.#requests.send({ method: 'GET', path, signal }),
      );
      yield* page.items;
      if (page.next === undefined) return;
      after = page.next;
    }
  }

  /** Creates or replaces it; resolves when calls get it. */
  async put(name: string, { settings, zip }: FunctionWrite, signal: AbortSignal | undefined): Promise<void> {
    const json = { labels: LABELS, settings, ...(zip && { code: Buffer.from(zip).toString('base64') }) };
    written(`write ${name}`, await this.#requests.send({ method: 'PUT', path: pathOf(name), json, signal }));
  }

  async remove(name: string, signal: AbortSignal | undefined): Promise<void> {
    const response = await this.#requests.send({ method: 'DELETE', path: pathOf(name), signal });
    if (response.status !== 404) written(`remove ${name}`, response);
  }

  /** The newest first. */
  async versions(name: string, signal: AbortSignal | undefined): Promise<readonly PlatformVersion[]> {
    return read(`list the versions of ${name}`, await this.#requests.send({ method: 'GET', path: `${pathOf(name)}/versions`, signal }));
  }

  /** Sends calls to a version. */
  async select(name: string, version: string, signal: AbortSignal | undefined): Promise<void> {
    const path = `${pathOf(name)}/current`;
    written(`roll ${name} back`, await this.#requests.send({ method: 'PUT', path, json: { version }, signal }));
  }

  async schedules(name: string, signal: AbortSignal | undefined): Promise<readonly PlatformSchedule[]> {
    return read(`list the schedules of ${name}`, await this.#requests.send({ method: 'GET', path: `${pathOf(name)}/schedules`, signal }));
  }

  async putSchedule(name: string, schedule: PlatformSchedule, signal: AbortSignal | undefined): Promise<void> {
    const path = `${pathOf(name)}/schedules/${encodeURIComponent(schedule.name)}`;
    written(`write the schedule ${schedule.name}`, await this.#requests.send({ method: 'PUT', path, json: schedule, signal }));
  }

  async removeSchedule(name: string, schedule: string, signal: AbortSignal | undefined): Promise<void> {
    const path = `${pathOf(name)}/schedules/${encodeURIComponent(schedule)}`;
    const response = await this.#requests.send({ method: 'DELETE', path, signal });
    if (response.status !== 404) written(`remove the schedule ${schedule}`, response);
  }

  /** Lines behind a position, oldest first. */
  async lines(name: string, after: number, signal: AbortSignal | undefined): Promise<readonly LogLine[]> {
    return read(
      `read the log of ${name}`,
      await this.#requests.send({ method: 'GET', path: `${pathOf(name)}/lines?after=${after}`, signal }),
    );
  }
  // deployer:end

  close(): Promise<void> {
    return this.#connections.close();
  }
}

function pathOf(name: string): string {
  return `/v1/functions/${encodeURIComponent(name)}`;
}

/** What the platform answers is taken as its API says: check here what yours does not promise. */
function read<T>(what: string, response: HttpResponse): T {
  if (response.status >= 300) throw failure(what, response);
  try {
    // The form of the answer is the platform's promise.
    return JSON.parse(Buffer.from(response.body).toString('utf8')) as T;
  } catch (cause) {
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the platform cannot ${what}: its answer is not JSON`, { cause });
  }
}
// deployer:begin

function written(what: string, response: HttpResponse): void {
  if (response.status >= 300) throw failure(what, response);
}
// deployer:end
