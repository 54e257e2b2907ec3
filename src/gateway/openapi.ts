/** The OpenAPI 3.1 document of a table of routes: https://spec.openapis.org/oas/v3.1.0 */

import { ERROR } from './api.ts';
import { JSON_TYPE } from './http.ts';
import type { Route } from './http.ts';
import type { JsonSchema, Schema } from './schema.ts';

const REFUSALS: Readonly<Record<string, string>> = {
  400: 'the request is malformed',
  401: 'no credentials, or wrong ones',
  403: 'the credentials do not allow this',
  404: 'there is no such thing',
  413: 'too large',
  429: 'too many requests; see Retry-After',
  503: 'not now; see Retry-After',
};
const PARAMETER = /\{(\w+)\}/g;

export interface ApiInfo {
  readonly title: string;
  readonly version: string;
  readonly description: string;
  /** How callers say who they are, by name. */
  readonly securitySchemes: JsonSchema;
}

const GATEWAY = {
  title: 'blueprint-runner gateway',
  description: 'Functions on this machine: deploy, call, stream, watch.',
  securitySchemes: {
    bearer: { type: 'http', scheme: 'bearer', description: 'An API key or a token.' },
    apiKey: { type: 'apiKey', in: 'header', name: 'x-api-key' },
    certificate: { type: 'mutualTLS' },
  },
} as const;

export function gatewayDocument(routes: readonly Route[], version: string): JsonSchema {
  return openApiDocument(routes, { ...GATEWAY, version });
}

export function openApiDocument(routes: readonly Route[], { securitySchemes, ...info }: ApiInfo): JsonSchema {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const route of routes) (paths[route.path] ??= {})[route.method.toLowerCase()] = operationOf(route, Object.keys(securitySchemes));
  return {
    openapi: '3.1.0',
    info,
    paths,
    components: {
      schemas: { Error: ERROR.json },
      responses: Object.fromEntries(
        Object.entries(REFUSALS).map(([status, description]) => [
          `Refusal${status}`,
          { description, content: { [JSON_TYPE]: { schema: { $ref: '#/components/schemas/Error' } } } },
        ]),
      ),
      securitySchemes,
    },
  };
}

function operationOf({ method, path, scope, doc, failure }: Route, schemes: readonly string[]): JsonSchema {
  const inPath = [...path.matchAll(PARAMETER)].map(([, name]) => ({ name, in: 'path', required: true, schema: { type: 'string' } }));
  const inQuery = Object.entries(doc.query ?? {}).map(([name, schema]) => queryParameter(name, schema));
  const own = Object.entries(doc.responses).map(([status, { about, contentType, schema }]) => [
    status,
    {
      description: about,
      ...((contentType !== undefined || schema) && { content: { [contentType ?? JSON_TYPE]: { schema: schema ?? {} } } }),
    },
  ]);
  // Other APIs tell their failures in forms of their own.
  const refusals = failure ? [] : Object.keys(REFUSALS).map((status) => [status, { $ref: `#/components/responses/Refusal${status}` }]);
  return {
    operationId: operationId(method, path),
    summary: doc.summary,
    ...(inPath.length + inQuery.length > 0 && { parameters: [...inPath, ...inQuery] }),
    ...(doc.request && { requestBody: { required: true, content: contentOf(doc.request) } }),
    responses: Object.fromEntries([...refusals, ...own]),
    security: scope === 'public' ? [] : schemes.map((scheme) => ({ [scheme]: [scope] })),
  };
}

function contentOf({ contentType, schema, or }: NonNullable<Route['doc']['request']>): JsonSchema {
  return { [contentType]: { schema }, ...(or && contentOf(or)) };
}

function queryParameter(name: string, { json, isOptional }: Schema<unknown>): JsonSchema {
  const { description, ...schema } = json;
  return { name, in: 'query', required: isOptional !== true, description, schema };
}

/** `GET /api/v1/functions/{name}` is `getApiV1FunctionsByName`. */
function operationId(method: string, path: string): string {
  const words = path.split(/[/.-]/).filter((part) => part !== '');
  const named = words.map((word) => {
    const bare = word.replace(/[{}]/g, '');
    const capital = bare.charAt(0).toUpperCase() + bare.slice(1);
    return word.startsWith('{') ? `By${capital}` : capital;
  });
  return method.toLowerCase() + named.join('');
}
