/** Functions of a gateway of this project, through its own API. It keeps versions and logs, and replaces code while calls run. */

import { RunnerError, count, errorOf, failure, fieldsOf, isErrorCode, text, logFilter, noVersion } from '../../src/plugin.ts';
import type {
  FunctionConfig,
  FunctionInvocation,
  FunctionPackage,
  FunctionState,
  FunctionVersionInfo,
  LogEntry,
  LogQuery,
  HttpResponse,
  PlatformRequest,
  PlatformRequests,
  Step,
} from '../../src/plugin.ts';

export interface GatewayOptions {
  readonly requests: PlatformRequests;
  readonly executor: (name: string) => FunctionState['executor'];
}

type Fields = Readonly<Record<string, unknown>>;

export interface GatewayFunction {
  readonly state: FunctionState;
  readonly handler: string | undefined;
  readonly runtime: string | undefined;
  /** Of the code that runs. */
  readonly sha256: string | undefined;
}

/** It stands at the end of the description of what this tool made. */
const MARK = '[managed-by: blueprint-runner]';
/** What the gateway starts a bootstrap of the specification with. */
export const BOOTSTRAP_HANDLER = 'blueprint-stdio.handler';
/** What a bundle of `buildHandler` exports. */
const BUNDLE_HANDLER = 'handler.handler';
const PAGE = 100;
const LINES_MAX = 1_000;
const FOLLOW_MS = 250;

export class GatewayFunctions {
  readonly #options: GatewayOptions;

  constructor(options: GatewayOptions) {
    this.#options = options;
  }

  async find(name: string, signal: AbortSignal | undefined): Promise<GatewayFunction | undefined> {
    const response = await this.#send({ method: 'GET', path: pathOf(name), signal });
    if (response.status === 404) return undefined;
    const fields = this.#parse(`describe function ${name}`, response);
    const versions = await this.versions(name, signal);
    return this.#functionOf(fields, versions.find(({ current }) => current)?.version);
  }

  async *list(signal: AbortSignal | undefined): AsyncGenerator<GatewayFunction> {
    for (let after: string | undefined; ;) {
      const query = `limit=${PAGE}${after === undefined ? '' : `&after=${encodeURIComponent(after)}`}`;
      const page = this.#parse('list functions', await this.#send({ method: 'GET', path: `/api/v1/functions?${query}`, signal }));
      for (const fields of listOf(page['functions'])) yield this.#functionOf(fields, undefined);
      after = text(page['next']);
      if (after === undefined) return;
    }
  }

  /** What differs, as writes. Without code, only the configuration. */
  async plan(
    name: string,
    present: GatewayFunction | undefined,
    {
      code,
      config,
      signal,
    }: { readonly code?: FunctionPackage; readonly config: FunctionConfig; readonly signal: AbortSignal | undefined },
  ): Promise<Step[]> {
    const settings = settingsOf(config, present);
    if (!present) return code ? [this.#creation(name, code, settings), this.#publication(name)] : [];
    const steps: Step[] = [];
    const differing = Object.keys(settings).filter((field) => !isSame(field, settings[field], present));
    if (differing.length > 0) {
      const patch = Object.fromEntries(differing.map((field) => [field, settings[field]]));
      const fields = differing.map((field) => NAMES[field] ?? field);
      steps.push(
        this.#step({ action: 'update', resource: 'configuration', id: name, fields }, { method: 'PATCH', path: pathOf(name), json: patch }),
      );
    }
    if (code && code.sha256 !== present.sha256) steps.push(this.#upload(name, code.zip));
    if (code && !(await this.versions(name, signal)).some(({ sha256 }) => sha256 === code.sha256)) steps.push(this.#publication(name));
    return steps;
  }

  async rollback(
    name: string,
    present: GatewayFunction,
    { version, signal }: { readonly version: string | undefined; readonly signal: AbortSignal | undefined },
  ): Promise<Step[]> {
    const versions = await this.versions(name, signal);
    const current = versions.findIndex((each) => each.current);
    const target =
      version === undefined
        ? versions.slice(current + 1).find(({ sha256 }) => sha256 !== present.sha256)
        : versions.find((each) => each.version === version);
    if (!target || current < 0) throw noVersion(name, versions, version);
    if (target.sha256 === present.sha256) return [];
    const path = `${pathOf(name)}/code?qualifier=${target.version}`;
    const { status, body, headers } = await this.#send({ method: 'GET', path, signal });
    if (status >= 300) throw failure(`read the code of version ${target.version}`, { status, body, headers });
    return [this.#upload(name, body)];
  }

  removal(name: string): Step {
    return this.#step({ action: 'delete', resource: 'function', id: name }, { method: 'DELETE', path: pathOf(name) });
  }

  async invoke(
    name: string,
    event: Uint8Array,
    options: { readonly version?: string; readonly signal?: AbortSignal },
  ): Promise<FunctionInvocation> {
    const query = options.version === undefined ? '' : `?qualifier=${encodeURIComponent(options.version)}`;
    const response = await this.#send({
      method: 'POST',
      path: `${pathOf(name)}/invoke${query}`,
      headers: ['content-type', 'application/json'],
      body: event,
      signal: options.signal,
      once: true,
    });
    const { status, headers, body } = response;
    const { code } = errorOf(body);
    const failed = status >= 300 && /^FUNCTION_(?!NOT_FOUND)|^EXECUTOR_TIMEOUT$/.test(code ?? '');
    if (status === 429) throw failure(`invoke function ${name}`, response, 'PLATFORM_THROTTLED');
    // What kept it from running, or from answering; also that there is no such version.
    if (status >= 300 && !failed) throw failure(`invoke function ${name}`, response, isErrorCode(code) ? code : undefined);
    // An answer that says how a call failed has no report, but the id all the same.
    const requestId = text(headers['x-invocation-id'] ?? headers['x-request-id']);
    const version = text(headers['x-executed-version']);
    const durationMs = Number(headers['x-run-ms']);
    return {
      body,
      failed,
      ...(requestId !== undefined && { requestId }),
      ...(version !== undefined && { version }),
      ...(Number.isFinite(durationMs) && { report: { durationMs } }),
    };
  }

  async *logs(name: string, query: LogQuery): AsyncGenerator<LogEntry> {
    const { limit = 100, follow = false, signal } = query;
    const isWanted = logFilter(query);
    let lines = await this.#lines(name, undefined, signal);
    yield* lines.map(entryOf).filter(isWanted).slice(-limit);
    let last = text(lines.at(-1)?.['id']);
    while (follow && !signal?.aborted) {
      await this.#options.requests.clock.sleep(FOLLOW_MS, signal).catch(() => {});
      if (signal?.aborted) return;
      lines = await this.#lines(name, last, signal);
      last = text(lines.at(-1)?.['id']) ?? last;
      for (const entry of lines.map(entryOf)) if (isWanted(entry) && !signal?.aborted) yield entry;
    }
  }

  /** The newest first. Published after every upload, so that the number of a version stands for its code. */
  async versions(name: string, signal: AbortSignal | undefined): Promise<FunctionVersionInfo[]> {
    const page = this.#parse(`list versions of ${name}`, await this.#send({ method: 'GET', path: `${pathOf(name)}/versions`, signal }));
    const all = listOf(page['functions']);
    const runs = text(all.find(({ version }) => version === '$LATEST')?.['sha256']);
    const published = all.filter(({ version }) => version !== '$LATEST').toSorted((a, b) => Number(b['version']) - Number(a['version']));
    const current = published.find(({ sha256 }) => sha256 === runs);
    return published.map((each) => ({
      version: String(each['version']),
      ...(typeof each['sha256'] === 'string' && { sha256: each['sha256'] }),
      ...(typeof each['modified_at'] === 'string' && { createdAt: each['modified_at'] }),
      current: each === current,
    }));
  }

  async #lines(name: string, since: string | undefined, signal: AbortSignal | undefined): Promise<readonly Fields[]> {
    const path = `${pathOf(name)}/logs?limit=${LINES_MAX}${since === undefined ? '' : `&since=${encodeURIComponent(since)}`}`;
    const response = await this.#send({ method: 'GET', path, signal });
    if (response.status === 404) throw new RunnerError('FUNCTION_NOT_FOUND', `the gateway has no function ${name}`, { details: { name } });
    return listOf(this.#parse(`read the log of ${name}`, response)['lines']);
  }

  #creation(name: string, code: FunctionPackage, settings: Fields): Step {
    const { description = MARK } = settings;
    const json = { name, zip: Buffer.from(code.zip).toString('base64'), ...settings, description };
    return this.#step({ action: 'create', resource: 'function', id: name }, { method: 'POST', path: '/api/v1/functions', json });
  }

  #upload(name: string, zip: Uint8Array): Step {
    const headers = ['content-type', 'application/zip'];
    return this.#step({ action: 'update', resource: 'code', id: name }, { method: 'PUT', path: pathOf(name), headers, body: zip });
  }

  #publication(name: string): Step {
    return this.#step({ action: 'create', resource: 'version', id: name }, { method: 'POST', path: `${pathOf(name)}/versions`, json: {} });
  }

  #step(change: Step['change'], request: PlatformRequest): Step {
    const run = async (signal: AbortSignal | undefined): Promise<void> => {
      const response = await this.#send({ ...request, signal });
      const isGone = change.action === 'delete' && response.status === 404;
      if (response.status >= 300 && !isGone) throw failure(`${change.action} the ${change.resource} of ${change.id}`, response);
    };
    return { change, run };
  }

  #send(request: PlatformRequest): Promise<HttpResponse> {
    return this.#options.requests.send(request);
  }

  #parse(what: string, response: HttpResponse): Fields {
    if (response.status >= 300) throw failure(what, response);
    const fields = fieldsOf(response.body);
    if (!fields)
      throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the gateway was to ${what} and answered with something that is not JSON`);
    return fields;
  }

  #functionOf(fields: Fields, version: string | undefined): GatewayFunction {
    const name = String(fields['name']);
    const description = text(fields['description']) ?? '';
    const handler = text(fields['handler']);
    // The specification has no owners: whoever deploys through it may do so again.
    const isOurs = description.endsWith(MARK) || handler === BOOTSTRAP_HANDLER;
    const sha256 = handler === BOOTSTRAP_HANDLER ? undefined : text(fields['sha256']);
    const updatedAt = text(fields['modified_at']);
    const { origin, path } = this.#options.requests.target;
    return {
      handler,
      runtime: text(fields['runtime']),
      sha256,
      state: {
        name,
        id: name,
        status: isOurs ? 'active' : 'foreign',
        endpoint: `${origin}${path}/api/functions/${encodeURIComponent(name)}/invoke`,
        ...(sha256 !== undefined && { sha256 }),
        ...(version !== undefined && { version }),
        ...(updatedAt !== undefined && { updatedAt }),
        config: configOf(fields, isOurs ? description.slice(0, -MARK.length).trim() : description),
        executor: this.#options.executor(name),
        resources: [],
      },
    };
  }
}

/** Fields of the gateway and what they are called in a configuration. */
const NAMES: Readonly<Record<string, keyof FunctionConfig>> = {
  description: 'description',
  runtime: 'runtime',
  handler: 'handler',
  memory_mb: 'memoryMb',
  timeout_ms: 'timeoutMs',
  ephemeral_mb: 'ephemeralStorageMb',
  environment: 'environment',
};
const RUNTIMES: Readonly<Record<string, string>> = { nodejs24: 'nodejs24.x', nodejs22: 'nodejs22.x', custom: 'provided.al2023' };

/** Of a new function all that it needs, of one that is there only what is named. */
function settingsOf(config: FunctionConfig, present: GatewayFunction | undefined): Fields {
  const isNew = present === undefined;
  const runtime = config.runtime ?? (isNew ? 'nodejs24' : undefined);
  const settings = {
    description: config.description === undefined ? (isNew ? MARK : undefined) : `${config.description} ${MARK}`.trim(),
    runtime: runtime && (RUNTIMES[runtime] ?? runtime),
    handler: config.handler ?? (isNew ? BUNDLE_HANDLER : undefined),
    memory_mb: config.memoryMb,
    timeout_ms: config.timeoutMs,
    ephemeral_mb: config.ephemeralStorageMb,
    environment: config.environment,
  };
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

function isSame(field: string, wanted: unknown, { state: { config }, handler, runtime }: GatewayFunction): boolean {
  switch (field) {
    case 'handler':
      return wanted === handler;
    case 'runtime':
      return wanted === runtime;
    case 'description':
      return wanted === `${config.description ?? ''} ${MARK}`.trim();
    default: {
      const name = NAMES[field];
      return canonical(wanted) === canonical(name && config[name]);
    }
  }
}

function canonical(value: unknown): string {
  if (typeof value !== 'object' || value === null) return String(value);
  return JSON.stringify(Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

function configOf(fields: Fields, description: string): FunctionConfig {
  const memoryMb = count(fields['memory_mb']);
  const timeoutMs = count(fields['timeout_ms']);
  const ephemeralStorageMb = count(fields['ephemeral_mb']);
  const environment = fields['environment'];
  return {
    ...(description !== '' && { description }),
    ...(memoryMb !== undefined && { memoryMb }),
    ...(timeoutMs !== undefined && { timeoutMs }),
    ...(ephemeralStorageMb !== undefined && { ephemeralStorageMb }),
    // The gateway gives them as text to who may see them.
    ...(typeof environment === 'object' && environment !== null && { environment: environment as Record<string, string> }),
  };
}

function pathOf(name: string): string {
  return `/api/v1/functions/${encodeURIComponent(name)}`;
}

function listOf(value: unknown): readonly Fields[] {
  // Elements of a list of documents.
  return Array.isArray(value) ? (value as Fields[]) : [];
}

function entryOf(line: Fields): LogEntry {
  const message = text(line['text']) ?? '';
  const requestId = text(line['request_id']);
  const instance = text(line['instance_id']);
  const level = text(line['level']);
  return {
    at: Date.parse(String(line['at'])),
    message,
    ...(level !== undefined && { level }),
    ...(requestId !== undefined && { requestId }),
    ...(instance !== undefined && { instance }),
  };
}
