/** The REST API of OpenWhisk for one namespace, as strict as the real one: actions, activations, web actions. */

import { randomUUID } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { RunnableFunction } from './whisk-runner.ts';
import type { RunOutcome } from './whisk-runner.ts';

export interface WhiskRequest {
  readonly method: string;
  /** Below `/api/v1`. */
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

export interface WhiskReply {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** JSON, or bytes. */
  readonly body: unknown;
}

export type Fields = Record<string, unknown>;

interface Action {
  readonly name: string;
  version: number;
  exec: Fields;
  limits: Fields;
  annotations: Fields[];
  parameters: Fields[];
  updated: number;
  runnable: RunnableFunction;
}

export class Refusal extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

export const KINDS = ['nodejs:18', 'nodejs:22', 'nodejs:24'];
const MIB = 1024 * 1024;
const PAGE_MAX = 200;
const LIMIT_RANGES: Readonly<Record<string, readonly [number, number]>> = {
  memory: [128, 1_024],
  timeout: [100, 900_000],
  logs: [0, 10],
  concurrency: [1, 500],
};

export class Whisk {
  readonly id: string;
  readonly key: string;
  readonly actions = new Map<string, Action>();
  readonly #activations: Fields[] = [];
  readonly #closed: RunnableFunction[] = [];
  readonly #blockingMs: number;

  constructor({ id, key, blockingMs = 30_000 }: { readonly id: string; readonly key: string; readonly blockingMs?: number }) {
    this.id = id;
    this.key = key;
    this.#blockingMs = blockingMs;
  }

  async handle(request: WhiskRequest): Promise<WhiskReply> {
    const [, space, kind, name, ...rest] = request.path.split('/').slice(1).map(decodeURIComponent);
    if (space !== '_' && space !== this.id)
      throw new Refusal(403, 'The supplied authentication is not authorized to access this resource.');
    if (kind === 'activations') return this.#readActivations(request, name, rest[0]);
    if (kind !== 'actions') throw new Refusal(404, 'The requested resource does not exist.');
    if (rest.length > 0) throw new Refusal(404, 'The requested resource does not exist.');
    if (name === undefined || name === '') return this.#list(request);
    if (request.method === 'PUT') return this.#put(name, request);
    const action = this.actions.get(name);
    if (!action) throw new Refusal(404, 'The requested resource does not exist.');
    switch (request.method) {
      case 'GET':
        return { status: 200, body: this.#document(action, request.query.get('code') !== 'false') };
      case 'DELETE':
        this.actions.delete(name);
        this.#closed.push(action.runnable);
        return { status: 200, body: this.#document(action, false) };
      case 'POST':
        return this.#invoke(action, request);
      default:
        throw new Refusal(405, 'HTTP method not allowed, supported methods: GET, PUT, POST, DELETE');
    }
  }

  /** `/web/{namespace}/default/{action}`. */
  async web({ method, path, query, headers, body }: WhiskRequest): Promise<WhiskReply> {
    const [, , packageName, name = '', ...rest] = path.split('/').slice(1).map(decodeURIComponent);
    const action = packageName === 'default' ? this.actions.get(name) : undefined;
    const annotation = (key: string): unknown => action?.annotations.find((each) => each['key'] === key)?.['value'];
    if (!action || annotation('web-export') !== true) throw new Refusal(404, 'The requested resource does not exist.');
    const secret = annotation('require-whisk-auth');
    if (typeof secret === 'string' && headers['x-require-whisk-auth'] !== secret)
      throw new Refusal(401, 'The resource requires authentication, which was not supplied with the request');
    if (annotation('raw-http') !== true) throw new Refusal(400, 'this emulator serves raw web actions only');
    if (body.length > MIB) throw new Refusal(413, 'Request larger than allowed');
    const isText = /^(?:text\/|application\/(?:json|xml|x-www-form-urlencoded))/.test(headers['content-type'] ?? 'text/plain');
    const value = {
      __ow_method: method.toLowerCase(),
      __ow_headers: headers,
      __ow_path: rest.length === 0 ? '' : `/${rest.join('/')}`,
      __ow_query: query.toString(),
      __ow_body: body.toString(isText ? 'utf8' : 'base64'),
    };
    const activationId = randomUUID().replaceAll('-', '');
    const activation = await this.#inTime(this.#run(action, value, activationId));
    if (activation) return webReply(activation);
    // As `respondWithActivationIdHeader` of WebActions.scala: what takes longer goes on behind the answer.
    const id = { 'x-openwhisk-activation-id': activationId };
    return { status: 202, headers: id, body: { error: 'Response not yet ready.', code: randomUUID() } };
  }

  async close(): Promise<void> {
    const runnables = [...this.#closed, ...[...this.actions.values()].map(({ runnable }) => runnable)];
    await Promise.all(runnables.map((runnable) => runnable.close()));
  }

  #put(name: string, { query, body }: WhiskRequest): WhiskReply {
    if (!/^[\w@.-][\w@ .-]*$/.test(name) || name.length > 256) throw new Refusal(400, `the name ${name} is malformed`);
    if (body.length > 48 * MIB * 1.4) throw new Refusal(413, 'Request larger than allowed');
    const given = only(jsonOf(body), ['exec', 'limits', 'annotations', 'parameters', 'version', 'publish', 'namespace', 'name'], 'action');
    const present = this.actions.get(name);
    if (present && query.get('overwrite') !== 'true') throw new Refusal(409, 'resource already exists');
    if (!present && given['exec'] === undefined) throw new Refusal(400, 'exec undefined');
    const exec = given['exec'] === undefined ? present?.exec : only(given['exec'], ['kind', 'code', 'binary', 'main'], 'exec');
    const kind = exec?.['kind'] === 'nodejs:default' ? 'nodejs:22' : exec?.['kind'];
    if (typeof kind !== 'string' || !KINDS.includes(kind)) throw new Refusal(400, `kind '${String(kind)}' not in Set(${KINDS.join(', ')})`);
    if (typeof exec?.['code'] !== 'string') throw new Refusal(400, "'code' must be a string defined in 'exec' for 'nodejs' actions");
    const limits = { memory: 256, timeout: 3_000, logs: 10, ...present?.limits, ...checkLimits(given['limits']) };
    const parameters =
      given['parameters'] === undefined ? (present?.parameters ?? []) : pairs(given['parameters'], ['key', 'value', 'init']);
    const own = given['annotations'] === undefined ? (present?.annotations ?? []) : pairs(given['annotations'], ['key', 'value']);
    const annotations = [
      ...own.filter(({ key }) => key !== 'exec' && key !== 'provide-api-key'),
      { key: 'provide-api-key', value: false },
      { key: 'exec', value: kind },
    ];
    if (present) this.#closed.push(present.runnable);
    const environment = Object.fromEntries(
      parameters.filter(({ init }) => init === true).map(({ key, value }) => [String(key), String(value)]),
    );
    const zip = Buffer.from(exec['code'], 'base64');
    const main = typeof exec['main'] === 'string' ? exec['main'] : 'main';
    const action: Action = {
      name,
      version: (present?.version ?? 0) + 1,
      exec: { ...exec, kind },
      limits,
      annotations,
      parameters,
      updated: Date.now(),
      runnable: new RunnableFunction({ zip, main, environment }),
    };
    this.actions.set(name, action);
    return { status: 200, body: this.#document(action, false) };
  }

  #list({ method, query }: WhiskRequest): WhiskReply {
    if (method !== 'GET') throw new Refusal(405, 'HTTP method not allowed, supported methods: GET');
    const page = pageOf(
      [...this.actions.values()].toSorted((a, b) => b.updated - a.updated),
      query,
    );
    const summaries = page.map((action) => {
      const { parameters: _, exec: __, ...summary } = this.#document(action, false);
      return { ...summary, exec: { binary: true } };
    });
    return { status: 200, body: summaries };
  }

  #document(action: Action, withCode: boolean): Fields {
    const { code, ...exec } = action.exec;
    return {
      namespace: this.id,
      name: action.name,
      version: `0.0.${action.version}`,
      exec: withCode ? { ...exec, code } : exec,
      annotations: action.annotations,
      parameters: action.parameters,
      limits: action.limits,
      publish: false,
      updated: action.updated,
    };
  }

  async #invoke(action: Action, { query, body }: WhiskRequest): Promise<WhiskReply> {
    if (body.length > MIB) throw new Refusal(413, 'Request larger than allowed');
    const parameters = action.parameters.filter(({ init }) => init !== true).map(({ key, value }) => [String(key), value]);
    const id = randomUUID().replaceAll('-', '');
    const running = this.#run(action, { ...Object.fromEntries(parameters), ...(body.length > 0 && jsonOf(body)) }, id);
    if (query.get('blocking') !== 'true') return { status: 202, body: { activationId: id } };
    const activation = await this.#inTime(running);
    if (!activation) return { status: 202, body: { activationId: id } };
    const { success, result } = activation['response'] as Fields;
    return { status: success === true ? 200 : 502, body: query.get('result') === 'true' ? result : activation };
  }

  async #inTime(running: Promise<Fields>): Promise<Fields | undefined> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => (timer = setTimeout(() => resolve(undefined), this.#blockingMs)));
    const activation = await Promise.race([running, late]);
    clearTimeout(timer);
    return activation;
  }

  async #run(action: Action, value: unknown, activationId = randomUUID().replaceAll('-', '')): Promise<Fields> {
    const start = Date.now();
    const timeoutMs = Number(action.limits['timeout']);
    const variables = {
      __OW_NAMESPACE: this.id,
      __OW_ACTION_NAME: `/${this.id}/${action.name}`,
      __OW_ACTION_VERSION: `0.0.${action.version}`,
      __OW_ACTIVATION_ID: activationId,
      __OW_DEADLINE: String(start + timeoutMs),
    };
    const outcome = await action.runnable.run(value, variables, timeoutMs);
    const activation = this.#record(action, { activationId, start, outcome: sized(outcome) });
    this.#activations.unshift(activation);
    return activation;
  }

  #record(
    action: Action,
    { activationId, start, outcome }: { readonly activationId: string; readonly start: number; readonly outcome: RunOutcome },
  ): Fields {
    const statusCode = { success: 0, 'application error': 1, 'action developer error': 2 }[outcome.status];
    const end = Date.now();
    return {
      activationId,
      namespace: this.id,
      subject: this.id,
      name: action.name,
      version: `0.0.${action.version}`,
      start,
      end,
      duration: end - start,
      response: { status: outcome.status, statusCode, success: statusCode === 0, result: outcome.result },
      logs: outcome.logs,
      annotations: [
        { key: 'kind', value: action.exec['kind'] },
        { key: 'limits', value: action.limits },
        { key: 'path', value: `${this.id}/${action.name}` },
        ...(outcome.initMs === undefined ? [] : [{ key: 'initTime', value: outcome.initMs }]),
      ],
      publish: false,
    };
  }

  #readActivations({ method, query }: WhiskRequest, id: string | undefined, part: string | undefined): WhiskReply {
    if (method !== 'GET') throw new Refusal(405, 'HTTP method not allowed, supported methods: GET');
    if (id === undefined || id === '') {
      const since = Number(query.get('since') ?? 0);
      const upto = Number(query.get('upto') ?? Number.MAX_SAFE_INTEGER);
      const matching = this.#activations.filter(
        ({ name, start }) => (query.get('name') ?? name) === name && Number(start) >= since && Number(start) <= upto,
      );
      const isFull = query.get('docs') === 'true';
      // Logs are kept apart: the list does not have them.
      const page = pageOf(matching, query).map(({ logs: _, response, ...rest }) => (isFull ? { ...rest, response, logs: [] } : rest));
      return { status: 200, body: page };
    }
    const activation = this.#activations.find(({ activationId }) => activationId === id);
    if (!activation) throw new Refusal(404, 'The requested resource does not exist.');
    if (part === 'logs') return { status: 200, body: { logs: activation['logs'] } };
    if (part === 'result') return { status: 200, body: activation['response'] };
    return { status: 200, body: activation };
  }
}

function sized(outcome: RunOutcome): RunOutcome {
  const size = Buffer.byteLength(JSON.stringify(outcome.result));
  if (size <= MIB) return outcome;
  return {
    ...outcome,
    status: 'application error',
    result: { error: `The action produced a response that exceeded the allowed length: ${size} > ${MIB} bytes.` },
  };
}

function webReply(activation: Fields): WhiskReply {
  const { result, status } = activation['response'] as { result: Fields; status: string };
  const id = { 'x-openwhisk-activation-id': String(activation['activationId']) };
  if (status === 'action developer error')
    return { status: 502, headers: id, body: { error: 'The action did not return a response.', code: id } };
  const source = (result['error'] ?? result) as Fields;
  const isFailed = result['error'] !== undefined;
  const {
    statusCode = isFailed ? 400 : 200,
    headers = {},
    body = isFailed ? source : '',
  } = typeof source === 'object' ? source : { body: { error: source } };
  const names = Object.fromEntries(
    Object.entries(headers as Record<string, string>).map(([name, value]) => [name.toLowerCase(), String(value)]),
  );
  const type = names['content-type'] ?? (typeof body === 'string' ? 'text/html; charset=utf-8' : 'application/json');
  const isText = /^(?:text\/|application\/(?:json|xml|javascript))/.test(type);
  const bytes = typeof body === 'string' ? Buffer.from(body, isText ? 'utf8' : 'base64') : Buffer.from(JSON.stringify(body));
  return { status: Number(statusCode), headers: { ...names, 'content-type': type, ...id }, body: bytes };
}

function pageOf<T>(items: readonly T[], query: URLSearchParams): readonly T[] {
  const limit = Number(query.get('limit') ?? 30);
  const skip = Number(query.get('skip') ?? 0);
  if (!Number.isInteger(limit) || limit < 0 || limit > PAGE_MAX)
    throw new Refusal(400, `The value of the list limit must be between 0 and ${PAGE_MAX}.`);
  return items.slice(skip, skip + (limit || PAGE_MAX));
}

function checkLimits(given: unknown): Fields {
  const limits = only(given ?? {}, Object.keys(LIMIT_RANGES), 'limits');
  for (const [name, value] of Object.entries(limits)) {
    const [min, max] = LIMIT_RANGES[name] ?? [0, 0];
    if (typeof value !== 'number' || value < min || value > max)
      throw new Refusal(400, `The request content was malformed: ${name} ${String(value)} exceeds allowed threshold of ${min} to ${max}`);
  }
  return limits;
}

function pairs(value: unknown, fields: readonly string[]): Fields[] {
  if (!Array.isArray(value)) throw new Refusal(400, 'The request content was malformed: parameters malformed!');
  return value.map((each) => only(each, fields, 'parameter'));
}

/** Throws for a field that the real one does not know. */
export function only(value: unknown, fields: readonly string[], what: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Refusal(400, `The request content was malformed: ${what} is no object`);
  const unknown = Object.keys(value).filter((name) => !fields.includes(name));
  if (unknown.length > 0) throw new Refusal(400, `The request content was malformed: ${what} has unknown fields ${unknown.join(', ')}`);
  return value as Fields;
}

export function jsonOf(body: Buffer): Fields {
  try {
    const value: unknown = JSON.parse(body.toString('utf8'));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Fields;
  } catch {
    // Told below.
  }
  throw new Refusal(400, 'The request content was malformed: not a JSON object');
}
