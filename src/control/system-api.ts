/** What a control plane says about itself: limits, health, readiness, metrics, its OpenAPI document. */

import { toRunnerError } from '../errors.ts';
import { json } from '../gateway/http.ts';
import type { Route } from '../gateway/http.ts';
import { openApiDocument } from '../gateway/openapi.ts';
import { flag, number, object, optional, text } from '../gateway/schema.ts';
import { exposition } from '../telemetry/exposition.ts';

export interface SystemApiOptions {
  readonly version: string;
  readonly limits: Readonly<Record<string, number>>;
  /** Text of Prometheus. */
  readonly metrics: () => Promise<string>;
  /** All routes, once they are known. */
  readonly routes: () => readonly Route[];
  readonly isClosing: () => boolean;
  /** Rejects when jobs cannot be taken. */
  readonly check: () => Promise<unknown>;
  /** How many engines answer, of those that it calls for workers. Undefined: it calls none. */
  readonly engines: () => EngineReadiness | undefined;
}

export interface EngineReadiness {
  readonly ready: number;
  readonly all: number;
}

const HEALTH = object('a state', { ok: flag('it works'), message: optional(text({ about: 'why not' })) });
const READINESS = object('a state', {
  ok: flag('it takes jobs'),
  message: optional(text({ about: 'why not' })),
  engines: optional(
    object('those that it calls for workers; jobs wait while none is ready', {
      ready: number('that answer'),
      all: number('that were named'),
    }),
  ),
});
const INFO = {
  title: 'blueprint-runner control plane',
  description:
    'A work queue for workers elsewhere. Names are those of the WorkQueue contract; bytes are base64; times are milliseconds since the epoch.',
  securitySchemes: { bearer: { type: 'http', scheme: 'bearer', description: 'The token of a session (POST /enrol), or of the operator.' } },
};

export function systemRoutes({ version, limits, metrics, routes, isClosing, check, engines }: SystemApiOptions): Route[] {
  return [
    {
      method: 'GET',
      path: '/limits',
      scope: 'session',
      doc: { summary: 'The limits of requests.', responses: { 200: { about: 'in bytes and milliseconds', schema: { type: 'object' } } } },
      handle: () => json(200, { limits }),
    },
    {
      method: 'GET',
      path: '/healthz',
      scope: 'public',
      doc: { summary: 'Whether the process works.', responses: { 200: { about: 'it does', schema: HEALTH.json } } },
      handle: () => json(200, { ok: true }),
    },
    {
      method: 'GET',
      path: '/readyz',
      scope: 'public',
      doc: {
        summary: 'Whether it takes jobs.',
        responses: { 200: { about: 'it does', schema: READINESS.json }, 503: { about: 'it does not', schema: READINESS.json } },
      },
      async handle() {
        if (isClosing()) return json(503, { ok: false, message: 'the control plane is closing' });
        try {
          await check();
        } catch (thrown) {
          return json(503, { ok: false, message: toRunnerError(thrown).code });
        }
        return json(200, { ok: true, engines: engines() });
      },
    },
    {
      method: 'GET',
      path: '/metrics',
      scope: 'metrics',
      doc: {
        summary: 'Metrics in the text format of Prometheus, or as OpenMetrics when Accept asks for it.',
        responses: { 200: { about: 'metrics', contentType: 'text/plain' } },
      },
      handle: async ({ headers }) => ({ status: 200, ...exposition(await metrics(), headers['accept']) }),
    },
    {
      method: 'GET',
      path: '/openapi.json',
      scope: 'public',
      doc: { summary: 'This document.', responses: { 200: { about: 'OpenAPI 3.1', schema: { type: 'object' } } } },
      handle: () => json(200, openApiDocument(routes(), { ...INFO, version })),
    },
  ];
}
