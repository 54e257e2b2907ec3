/** `/api/v1/functions`: deploy, describe, change, remove, invoke, stream. */

import type { Clock } from '../clock.ts';
import { isRunnerError } from '../errors.ts';
import { LIMITS } from '../executor/limits.ts';
import type { Provider } from '../executor/limits.ts';
import type { CodeInput } from '../runtime/store-records.ts';
import {
  CREATE_FUNCTION,
  DEPLOY_FUNCTION,
  FUNCTION,
  FUNCTIONS,
  PUBLISH,
  QUALIFIER,
  SETTINGS,
  UPDATE_FUNCTION,
  VERSIONS_MAX,
} from './api.ts';
import type { CreateFunction, DeployFunction } from './api.ts';
import { codeOf, documentOf, extraOf, patchOf, settingsOf } from './function-documents.ts';
import { isCodeOfRequest } from './functions.ts';
import type { Functions } from './functions.ts';
import { JSON_TYPE, OCTETS, allows, badRequest, demand, json } from './http.ts';
import type { GatewayRequest, Reply, Route, RouteDoc } from './http.ts';
import { invocationReply, optionsOf, sseOf } from './invocation.ts';
import { decimal, invalid, optional, parseJson, text } from './schema.ts';
import type { Schema } from './schema.ts';

export interface FunctionsApiOptions {
  readonly functions: Functions;
  /** Whose limits hold for new functions. */
  readonly provider: Provider;
  readonly clock: Clock;
}

const MIB = 1024 * 1024;
const JSON_BODY_BYTES_MAX = MIB;
const BASE = '/api/v1/functions';
export const ONE = `${BASE}/{name}`;
const FUNCTION_ANSWER: RouteDoc['responses'] = { 200: { about: 'the function', schema: FUNCTION.json } };
const AFTER = optional(text({ about: 'what the page before gave as next', charsMax: 256 }));
const LIMIT = optional(decimal({ about: 'the most', min: 1, max: 1_000 }));

export function functionRoutes(options: FunctionsApiOptions): Route[] {
  return [...deployRoutes(options), ...readRoutes(options), ...changeRoutes(options), ...invokeRoutes(options)];
}

function deployRoutes({ functions, provider }: FunctionsApiOptions): Route[] {
  const zipBytesMax = LIMITS[provider].zipBytesMax;
  const documentBytesMax = Math.ceil((zipBytesMax * 4) / 3) + MIB;
  const settingsQuery = Object.fromEntries(
    Object.entries(SETTINGS)
      .filter(([name]) => name !== 'environment')
      .map(([name, schema]) => [name, fromText(schema)]),
  );
  return [
    {
      method: 'POST',
      path: BASE,
      scope: 'functions:write',
      bodyBytesMax: documentBytesMax,
      doc: {
        summary: 'Deploys a new function.',
        request: { contentType: JSON_TYPE, schema: CREATE_FUNCTION.json },
        responses: { 201: { about: 'the function', schema: FUNCTION.json }, 409: { about: 'there is one of that name' } },
      },
      async handle(request) {
        const input = CREATE_FUNCTION.parse(parseJson(request.body, 'the body'), 'the body');
        demand(request.caller, 'functions:write', input.name);
        return createFunction({ functions, provider, request, input, code: codeOf(input) });
      },
    },
    {
      method: 'PUT',
      path: ONE,
      scope: 'functions:write',
      functionParam: 'name',
      bodyBytesMax: documentBytesMax,
      doc: {
        summary:
          'Deploys under a name: a new function, or new code and settings at once for the one that is there. A zip, with settings in the query; or a document, which may hold values of variables, too.',
        query: settingsQuery,
        request: {
          contentType: 'application/zip',
          schema: { type: 'string', format: 'binary' },
          or: { contentType: JSON_TYPE, schema: DEPLOY_FUNCTION.json },
        },
        responses: { 200: { about: 'replaced', schema: FUNCTION.json }, 201: { about: 'new', schema: FUNCTION.json } },
      },
      handle: (request) => putFunction({ functions, provider, request, settingsQuery }),
    },
  ];
}

interface Creation {
  readonly functions: Functions;
  readonly provider: Provider;
  readonly request: GatewayRequest;
  readonly input: CreateFunction;
  readonly code: CodeInput;
}

async function createFunction({ functions, provider, request, input, code }: Creation): Promise<Reply> {
  const { name, backend } = input;
  if (backend !== undefined) functions.checkBackend(backend);
  const record = await functions.store.create({
    name,
    code,
    profile: provider,
    ...settingsOf(input),
    extra: extraOf(input),
  });
  return json(201, documentOf(functions, record, request), { location: `${BASE}/${encodeURIComponent(name)}` });
}

async function putFunction(
  options: Omit<Creation, 'input' | 'code'> & { readonly settingsQuery: Readonly<Record<string, Schema<unknown>>> },
): Promise<Reply> {
  const { functions, request, settingsQuery } = options;
  const { name = '' } = request.params;
  const { input, code } = deploymentOf(request, settingsQuery);
  if (!exists(functions, name)) {
    try {
      return await createFunction({ ...options, input: { name, ...input }, code });
    } catch (thrown) {
      // Somebody else was faster: his is replaced.
      if (!isRunnerError(thrown) || thrown.code !== 'FUNCTION_EXISTS') throw thrown;
    }
  }
  if (input.backend !== undefined) functions.checkBackend(input.backend);
  const settings = patchOf(input, functions.store.get(name));
  const record = await functions.store.updateCode(name, code, { settings });
  return json(200, documentOf(functions, record, request));
}

/** A zip with settings in the query, or a document. */
function deploymentOf(
  request: GatewayRequest,
  settingsQuery: Readonly<Record<string, Schema<unknown>>>,
): Pick<Creation, 'code'> & { readonly input: DeployFunction } {
  if (/^application\/json\s*(?:;|$)/i.test(request.headers['content-type'] ?? '')) {
    parseQuery(request, {});
    const input = DEPLOY_FUNCTION.parse(parseJson(request.body, 'the body'), 'the body');
    return { input, code: codeOf(input) };
  }
  if (request.body.length === 0) throw badRequest('the body is the package, a zip; it is empty');
  // Each was parsed by the schema of its name.
  return { input: parseQuery(request, settingsQuery), code: { kind: 'zip', bytes: request.body } };
}

function readRoutes({ functions }: FunctionsApiOptions): Route[] {
  return [
    {
      method: 'GET',
      path: BASE,
      scope: 'functions:read',
      doc: {
        summary: 'Lists functions by name.',
        query: { after: AFTER, limit: LIMIT },
        responses: { 200: { about: 'a page', schema: FUNCTIONS.json } },
      },
      handle(request) {
        const { after, limit = 100 } = parseQuery(request, { after: AFTER, limit: LIMIT }) as { after?: string; limit?: number };
        const page = functions.store.list({ limit, ...(after !== undefined && { after }) });
        const visible = page.items.filter((record) => !isCodeOfRequest(record) && allows(request.caller, 'functions:read', record.name));
        return json(200, {
          functions: visible.map((record) => documentOf(functions, record, request)),
          ...(page.next !== undefined && { next: page.next }),
        });
      },
    },
    {
      method: 'GET',
      path: ONE,
      scope: 'functions:read',
      functionParam: 'name',
      doc: { summary: 'Describes a function.', query: { qualifier: optional(QUALIFIER) }, responses: FUNCTION_ANSWER },
      handle: (request) =>
        json(200, documentOf(functions, functions.store.get(request.params['name'] ?? '', qualifierOf(request)), request)),
    },
    {
      method: 'GET',
      path: `${ONE}/code`,
      scope: 'functions:write',
      functionParam: 'name',
      doc: {
        summary: 'The package as it was uploaded.',
        query: { qualifier: optional(QUALIFIER) },
        responses: { 200: { about: 'the zip', contentType: 'application/zip' } },
      },
      async handle(request) {
        const record = functions.store.get(request.params['name'] ?? '', qualifierOf(request));
        return { status: 200, headers: { 'content-type': 'application/zip' }, body: await functions.store.codeOf(record) };
      },
    },
    {
      method: 'GET',
      path: `${ONE}/versions`,
      scope: 'functions:read',
      functionParam: 'name',
      doc: {
        summary: 'Lists the versions of a function: $LATEST, then the numbers.',
        responses: { 200: { about: 'versions', schema: FUNCTIONS.json } },
      },
      handle(request) {
        const page = functions.store.versions(request.params['name'] ?? '', { limit: VERSIONS_MAX });
        return json(200, { functions: page.items.map((record) => documentOf(functions, record, request)) });
      },
    },
  ];
}

function changeRoutes({ functions }: FunctionsApiOptions): Route[] {
  const name = (request: GatewayRequest): string => request.params['name'] ?? '';
  return [
    {
      method: 'PATCH',
      path: ONE,
      scope: 'functions:write',
      functionParam: 'name',
      bodyBytesMax: JSON_BODY_BYTES_MAX,
      doc: {
        summary: 'Changes settings; what is left out stays.',
        request: { contentType: JSON_TYPE, schema: UPDATE_FUNCTION.json },
        responses: { ...FUNCTION_ANSWER, 409: { about: 'it was changed in between' } },
      },
      async handle(request) {
        const input = UPDATE_FUNCTION.parse(parseJson(request.body, 'the body'), 'the body');
        const { backend, revision_id: revisionId } = input;
        if (backend !== undefined) functions.checkBackend(backend);
        const patch = patchOf(input, functions.store.get(name(request)));
        const record = await functions.store.updateSettings(name(request), patch, revisionId === undefined ? {} : { revisionId });
        return json(200, documentOf(functions, record, request));
      },
    },
    {
      method: 'POST',
      path: `${ONE}/versions`,
      scope: 'functions:write',
      functionParam: 'name',
      bodyBytesMax: JSON_BODY_BYTES_MAX,
      doc: {
        summary: 'Publishes $LATEST as a version that never changes.',
        request: { contentType: JSON_TYPE, schema: PUBLISH.json },
        responses: { 201: { about: 'the version', schema: FUNCTION.json } },
      },
      handle(request) {
        const { description } = request.body.length === 0 ? {} : PUBLISH.parse(parseJson(request.body, 'the body'), 'the body');
        const record = functions.store.publish(name(request), description === undefined ? {} : { description });
        return json(201, documentOf(functions, record, request));
      },
    },
    {
      method: 'DELETE',
      path: ONE,
      scope: 'functions:write',
      functionParam: 'name',
      doc: {
        summary: 'Removes a function with all its versions, or with `qualifier` one version.',
        query: { qualifier: optional(QUALIFIER) },
        responses: { 204: { about: 'removed' } },
      },
      handle(request) {
        functions.store.remove(name(request), qualifierOf(request));
        return { status: 204 };
      },
    },
  ];
}

function invokeRoutes({ functions, provider, clock }: FunctionsApiOptions): Route[] {
  const bodyBytesMax = LIMITS[provider].requestBytesMax;
  const event: RouteDoc['request'] = { contentType: JSON_TYPE, schema: { description: 'the event, as the function takes it' } };
  const common = { method: 'POST', scope: 'invoke', functionParam: 'name', bodyBytesMax } as const;
  return [
    {
      ...common,
      path: `${ONE}/invoke`,
      doc: {
        summary:
          'Calls a function and waits for its answer. `x-log-type: tail` adds the last lines of its log; `x-timeout-ms` shortens its timeout.',
        query: { qualifier: optional(QUALIFIER) },
        request: event,
        responses: {
          200: { about: 'what the function returned' },
          502: { about: 'the function failed' },
          504: { about: 'it took too long' },
        },
      },
      async handle(request) {
        const tail = request.headers['x-log-type']?.toLowerCase() === 'tail';
        const target = { name: request.params['name'] ?? '', qualifier: qualifierOf(request) };
        const { invocation, executedVersion } = await functions.invoke(target, request.body, {
          ...optionsOf(request, clock.now()),
          awaitLog: tail,
        });
        return invocationReply(invocation, { executedVersion, tail });
      },
    },
    {
      ...common,
      path: `${ONE}/stream`,
      doc: {
        summary:
          'Calls a function and sends its answer while it is written: as server-sent events when those are accepted, else as the bytes.',
        query: { qualifier: optional(QUALIFIER) },
        request: event,
        responses: {
          200: { about: 'the answer; one that breaks off is a failure', contentType: OCTETS },
          502: { about: 'the function failed before it answered' },
        },
      },
      async handle(request) {
        const target = { name: request.params['name'] ?? '', qualifier: qualifierOf(request) };
        const { invocation, executedVersion } = await functions.stream(target, request.body, optionsOf(request, clock.now()));
        const headers = { 'x-invocation-id': invocation.requestId, 'x-executed-version': executedVersion };
        // Told by the chunks as well.
        invocation.done.catch(() => {});
        if (request.headers['accept']?.includes('text/event-stream'))
          return { status: 200, headers: { ...headers, 'content-type': 'text/event-stream' }, body: sseOf(invocation) };
        return { status: 200, headers: { ...headers, 'content-type': invocation.contentType }, body: invocation.chunks };
      },
    },
  ];
}

/** Only the names that are there. Throws `REQUEST_INVALID` for an unknown one. */
export function parseQuery(request: GatewayRequest, known: Readonly<Record<string, Schema<unknown>>>): Readonly<Record<string, unknown>> {
  const values: Record<string, unknown> = {};
  if (request.query.size === 0) return values;
  for (const name of new Set(request.query.keys())) {
    const schema = Object.hasOwn(known, name) ? known[name] : undefined;
    if (!schema)
      throw invalid('the query', `has ${JSON.stringify(name.slice(0, 64))}; it may have ${Object.keys(known).join(', ') || 'nothing'}`);
    const given = request.query.getAll(name);
    if (given.length > 1) throw invalid('the query', `has ${name} more than once`);
    values[name] = schema.parse(given[0], `the query's ${name}`);
  }
  return values;
}

function qualifierOf(request: GatewayRequest): string | undefined {
  const { qualifier } = parseQuery(request, { qualifier: QUALIFIER });
  return qualifier as string | undefined;
}

const FLAGS: Readonly<Record<string, boolean>> = { true: true, false: false };

/** Of a value in a query: numbers and flags are written as text there. */
function fromText(schema: Schema<unknown>): Schema<unknown> {
  const { type } = schema.json;
  if (type === 'boolean') return { ...schema, parse: (value, place) => schema.parse(FLAGS[String(value)] ?? value, place) };
  if (type !== 'integer') return schema;
  return {
    ...schema,
    parse: (value, place) => schema.parse(typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value, place),
  };
}

function exists(functions: Functions, name: string): boolean {
  try {
    functions.store.get(name);
    return true;
  } catch (thrown) {
    if (isRunnerError(thrown) && thrown.code === 'FUNCTION_NOT_FOUND') return false;
    throw thrown;
  }
}
