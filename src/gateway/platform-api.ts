/** `/api/functions`: the Custom FaaS Platform Specification v1.0. Its documents and its errors have forms of their own. */

import { hash } from 'node:crypto';
import type { Clock } from '../clock.ts';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { LIMITS } from '../executor/limits.ts';
import type { Provider } from '../executor/limits.ts';
import type { FunctionRecord, JsonObject } from '../runtime/store-records.ts';
import type { Functions } from './functions.ts';
import { JSON_TYPE, errorDocument, json, retryHeaders } from './http.ts';
import type { GatewayRequest, Reply, Route, RouteDoc } from './http.ts';
import { optionsOf } from './invocation.ts';
import { STDIO_ERRORS, platformPackage } from './platform-package.ts';
import { anything, object, optional, parseJson, record, text, whole } from './schema.ts';
import type { Infer } from './schema.ts';

export interface PlatformApiOptions {
  readonly functions: Functions;
  readonly provider: Provider;
  readonly clock: Clock;
}

const BASE = '/api/functions/{function_id}';
const CONFIG_HEADER = 'x-blueprint-config';
const CONFIG = object('X-Blueprint-Config, base64 of JSON', {
  memory_mb: optional(whole({ about: 'memory of an instance; default 512', min: 128, max: 10_240 })),
  timeout_secs: optional(whole({ about: 'the longest that a call may run; default 300', min: 1, max: 900 })),
  max_concurrency: optional(whole({ about: 'calls at the same time; default 100', min: 1, max: 1_000 })),
  env_vars: optional(record(text({ about: 'value' }), 'variables of the function')),
});
/** What this API remembers of what it deployed. */
interface Deployment {
  readonly maxConcurrency: number;
  readonly deployedAt: string;
  /** Of the zip as it was uploaded. */
  readonly sha256: string;
  readonly packageBytes: number;
}

/** Since the gateway started. */
interface Activity {
  invocations: number;
  lastInvocation?: string;
  coldStartMs?: number;
  /** Why it cannot be started. */
  broken?: string | undefined;
}

const common = { functionParam: 'function_id', failure: platformFailure } as const;
const document = (about: string): RouteDoc['responses'] => ({ 200: { about, schema: { type: 'object' } } });

export function platformRoutes(options: PlatformApiOptions): Route[] {
  const activities = new Map<string, Activity>();
  const platform = new Platform(options, activities);
  const { zipBytesMax, requestBytesMax } = LIMITS[options.provider];
  const zip = { contentType: 'application/zip', schema: { type: 'string', format: 'binary' } };
  const call = {
    contentType: JSON_TYPE,
    schema: { type: 'object', required: ['job_id', 'args'], properties: { job_id: {}, args: { type: 'array' } } },
  };
  return [
    {
      ...common,
      method: 'PUT',
      path: BASE,
      scope: 'functions:write',
      bodyBytesMax: zipBytesMax,
      doc: {
        summary: 'Deploys a zip with an executable bootstrap; X-Blueprint-Config holds its configuration.',
        request: zip,
        responses: document('what was deployed'),
      },
      handle: (request) => platform.deploy(request),
    },
    {
      ...common,
      method: 'GET',
      path: BASE,
      scope: 'functions:read',
      doc: { summary: 'Describes a function.', responses: document('the function') },
      handle: (request) => platform.describe(request),
    },
    {
      ...common,
      method: 'DELETE',
      path: BASE,
      scope: 'functions:write',
      doc: { summary: 'Removes a function.', responses: document('removed') },
      handle: (request) => platform.remove(request),
    },
    {
      ...common,
      method: 'POST',
      path: `${BASE}/invoke`,
      scope: 'invoke',
      bodyBytesMax: requestBytesMax,
      doc: { summary: 'Runs a job.', request: call, responses: document('its result') },
      handle: (request) => platform.invoke(request),
    },
    {
      ...common,
      method: 'GET',
      path: `${BASE}/health`,
      scope: 'functions:read',
      doc: { summary: 'Whether the function can run.', responses: document('its state') },
      handle: (request) => platform.health(request),
    },
    {
      ...common,
      method: 'POST',
      path: `${BASE}/warm`,
      scope: 'invoke',
      doc: { summary: 'Has an instance ready.', responses: document('how many') },
      handle: (request) => platform.warm(request),
    },
  ];
}

class Platform {
  readonly #options: PlatformApiOptions;
  readonly #activities: Map<string, Activity>;

  constructor(options: PlatformApiOptions, activities: Map<string, Activity>) {
    this.#options = options;
    this.#activities = activities;
  }

  async deploy(request: GatewayRequest): Promise<Reply> {
    const { functions, provider, clock } = this.#options;
    const id = idOf(request);
    const config = parseConfig(request.headers[CONFIG_HEADER]);
    const {
      memory_mb: memoryMb = 512,
      timeout_secs: timeoutSecs = 300,
      max_concurrency: maxConcurrency = 100,
      env_vars: environment = {},
    } = config;
    const { zip, runtime, handler } = platformPackage(request.body, Object.keys(environment));
    const deployedAt = new Date(clock.now()).toISOString();
    const platform = { maxConcurrency, deployedAt, sha256: hash('sha256', request.body, 'hex'), packageBytes: request.body.length };
    const settings = { runtime, handler, memoryMb, timeoutMs: timeoutSecs * 1_000, environment };
    const created = await functions.store.create({
      name: id,
      code: { kind: 'zip', bytes: zip },
      profile: provider,
      ...settings,
      extra: { platform },
    });
    this.#activities.delete(id);
    return json(200, this.#document(created, request.origin));
  }

  describe(request: GatewayRequest): Reply {
    return json(200, this.#document(this.#options.functions.store.get(idOf(request)), request.origin));
  }

  remove(request: GatewayRequest): Reply {
    const id = idOf(request);
    this.#options.functions.store.remove(id);
    this.#activities.delete(id);
    return json(200, { function_id: id, status: 'deleted' });
  }

  async invoke(request: GatewayRequest): Promise<Reply> {
    const { functions, clock } = this.#options;
    const id = idOf(request);
    const record = functions.store.get(id);
    const jobId = jobIdOf(request.body);
    const activity = this.#activity(id);
    activity.invocations += 1;
    activity.lastInvocation = new Date(clock.now()).toISOString();
    const startedAt = clock.monotonic();
    const concurrencyMax = deploymentOf(record)?.maxConcurrency;
    const options = { ...optionsOf(request, clock.now()), ...(concurrencyMax !== undefined && { concurrencyMax }) };
    try {
      const { invocation } = await functions.invoke({ name: id }, request.body, options);
      const result = RESULT.parse(parseJson(invocation.body, 'what the function returned'), 'what the function returned');
      const executionMs = Math.round(clock.monotonic() - startedAt);
      if (invocation.report.coldStart) activity.coldStartMs = executionMs;
      activity.broken = undefined;
      const success = result['success'] !== false && result['error'] === undefined;
      return json(success ? 200 : 500, {
        job_id: jobId,
        result: [],
        ...result,
        success,
        execution_ms: executionMs,
        cold_start: invocation.report.coldStart,
      });
    } catch (thrown) {
      const failure = platformError(thrown);
      if (failure.code === 'EXECUTOR_UNAVAILABLE') activity.broken = failure.message;
      const { status, body } = refusal(failure);
      return json(status, { job_id: jobId, result: [], success: false, ...body }, retryHeaders(failure));
    }
  }

  health(request: GatewayRequest): Reply {
    const id = idOf(request);
    this.#options.functions.store.get(id);
    const { invocations, lastInvocation, broken } = this.#activity(id);
    const base = {
      function_id: id,
      total_invocations: invocations,
      ...(lastInvocation !== undefined && { last_invocation: lastInvocation }),
    };
    return broken === undefined ? json(200, { ...base, status: 'healthy' }) : json(503, { ...base, status: 'unhealthy', error: broken });
  }

  async warm(request: GatewayRequest): Promise<Reply> {
    const { functions } = this.#options;
    const id = idOf(request);
    await functions.warm({ name: id }, 1);
    const ready = functions.instances().filter(({ name, state }) => name === id && (state === 'idle' || state === 'paused'));
    return json(200, { function_id: id, status: 'warm', instances_warmed: ready.length });
  }

  #activity(id: string): Activity {
    let activity = this.#activities.get(id);
    if (!activity) this.#activities.set(id, (activity = { invocations: 0 }));
    return activity;
  }

  #document(record: FunctionRecord, origin: string): JsonObject {
    const { name, memoryMb, timeoutMs, code, modifiedAt } = record;
    const deployment = deploymentOf(record);
    const coldStartMs = this.#activities.get(name)?.coldStartMs;
    return {
      function_id: name,
      endpoint: `${origin}/api/functions/${encodeURIComponent(name)}/invoke`,
      status: 'deployed',
      ...(coldStartMs !== undefined && { cold_start_ms: coldStartMs }),
      memory_mb: memoryMb,
      timeout_secs: timeoutMs / 1_000,
      deployed_at: deployment?.deployedAt ?? new Date(modifiedAt).toISOString(),
      binary_size_bytes: deployment?.packageBytes ?? (code.kind === 'zip' ? code.zipBytes : 0),
      ...(deployment && { sha256: deployment.sha256 }),
    };
  }
}

const RESULT = record(anything('any value'), 'a result');
const CALL = record(anything('any value'), 'a call');

function idOf({ params }: GatewayRequest): string {
  return params['function_id'] ?? '';
}

function parseConfig(header: string | undefined): Infer<typeof CONFIG> {
  if (header === undefined) return {};
  return CONFIG.parse(parseJson(Buffer.from(header, 'base64'), 'X-Blueprint-Config'), 'X-Blueprint-Config');
}

function jobIdOf(body: Uint8Array): unknown {
  const call = CALL.parse(parseJson(body, 'the body'), 'the body');
  if (call['job_id'] === undefined || !Array.isArray(call['args']))
    throw new RunnerError('REQUEST_INVALID', 'the body must be JSON with job_id and args');
  return call['job_id'];
}

function deploymentOf({ extra }: FunctionRecord): Deployment | undefined {
  const { platform } = extra;
  // Written by `deploy` alone.
  return typeof platform === 'object' && platform !== null && !Array.isArray(platform) ? (platform as unknown as Deployment) : undefined;
}

/** What the program that starts a bootstrap says is not the fault of a job, or the very fault of it. */
function platformError(thrown: unknown): RunnerError {
  if (!isRunnerError(thrown)) return new RunnerError('INTERNAL', 'the platform failed', { cause: thrown });
  const { errorType, errorMessage } = thrown.details;
  const message = typeof errorMessage === 'string' ? errorMessage : thrown.message;
  if (thrown.code === 'REQUEST_INVALID')
    return new RunnerError('JOB_FAILED', 'the function did not return a JSON object', { cause: thrown });
  if (thrown.code === 'EXECUTOR_TIMEOUT') return thrown;
  if (thrown.code !== 'FUNCTION_FAILED') return thrown;
  return new RunnerError(errorType === STDIO_ERRORS.unstartable ? 'EXECUTOR_UNAVAILABLE' : 'JOB_FAILED', message, { cause: thrown });
}

const STATUS: Partial<Readonly<Record<ErrorCode, number>>> = {
  CONFIG_INVALID: 400,
  REQUEST_INVALID: 400,
  PACKAGE_INVALID: 400,
  RUNTIME_UNSUPPORTED: 400,
  WIRE_MALFORMED: 400,
  UNAUTHORIZED: 401,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  FUNCTION_NOT_FOUND: 404,
  FUNCTION_EXISTS: 409,
  STATE_INVALID: 409,
  PAYLOAD_TOO_LARGE: 413,
  RATE_LIMITED: 429,
  QUEUE_FULL: 429,
  EXECUTOR_THROTTLED: 429,
  QUEUE_TIMEOUT: 503,
  BACKEND_UNAVAILABLE: 503,
  INSTANCE_START_FAILED: 503,
  FUNCTION_INIT_FAILED: 503,
  EXECUTOR_UNAVAILABLE: 503,
  EXECUTOR_CLOSED: 503,
};
/** Names that the specification uses; every other code is given as it is. */
const SPECIFIED: Partial<Readonly<Record<ErrorCode, string>>> = {
  EXECUTOR_TIMEOUT: 'TIMEOUT',
  QUEUE_FULL: 'TOO_MANY_REQUESTS',
  EXECUTOR_THROTTLED: 'TOO_MANY_REQUESTS',
  RATE_LIMITED: 'TOO_MANY_REQUESTS',
  REQUEST_INVALID: 'BAD_REQUEST',
};
const SPECIFIED_TEXT: Partial<Readonly<Record<ErrorCode, string>>> = {
  FUNCTION_NOT_FOUND: 'Function not found',
  FUNCTION_EXISTS: 'Function already exists',
};

function refusal(error: RunnerError): { readonly status: number; readonly body: JsonObject } {
  const { code } = error;
  const told = error.details['status'];
  const { message, details } = errorDocument(error, '').error;
  return {
    status: typeof told === 'number' ? told : (STATUS[code] ?? 500),
    // Details hold JSON, or what JSON leaves out.
    body: {
      error: SPECIFIED_TEXT[code] ?? message,
      code: SPECIFIED[code] ?? code,
      details: JSON.parse(JSON.stringify(details)) as JsonObject,
    },
  };
}

function platformFailure(error: RunnerError, { params }: Pick<GatewayRequest, 'params'>): Reply {
  const { status, body } = refusal(error);
  return json(status, { ...body, function_id: params['function_id'] ?? null }, retryHeaders(error));
}
