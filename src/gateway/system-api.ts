/** What the gateway says about itself: info, health, readiness, metrics, its OpenAPI document. */

import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { INFO } from './api.ts';
import type { Functions } from './functions.ts';
import { json } from './http.ts';
import type { Route } from './http.ts';
import { gatewayDocument } from './openapi.ts';
import { SOCKET_SCHEMA } from './socket-messages.ts';
import { flag, object, optional, text } from './schema.ts';
import { exposition } from '../telemetry/exposition.ts';

export interface SystemApiOptions {
  readonly functions: Functions;
  readonly clock: Clock;
  readonly version: string;
  readonly limits: Readonly<Record<string, number>>;
  /** Text of Prometheus. */
  readonly metrics: (() => Promise<string>) | undefined;
  /** All routes, once they are known. */
  readonly routes: () => readonly Route[];
  readonly isClosing: () => boolean;
}

const HEALTH = object('a state', { ok: flag('it works'), message: optional(text({ about: 'why not' })) });

/** What is at the path of the WebSocket for who asks for none. */
const SOCKET_ROUTE: Route = {
  method: 'GET',
  path: '/api/v1/ws',
  scope: 'public',
  doc: {
    summary:
      'A WebSocket: live logs and events, streamed calls that survive a lost connection. Messages are JSON texts; credentials as everywhere, or as the protocol bearer.<key>, percent-encoded.',
    responses: {
      101: { about: 'the WebSocket: what a client may send, and the events that it gets', schema: SOCKET_SCHEMA },
      426: { about: 'no WebSocket was asked for' },
    },
  },
  handle() {
    throw new RunnerError('REQUEST_INVALID', 'this is a WebSocket: send Upgrade: websocket', { details: { status: 426 } });
  },
};

export function systemRoutes(options: SystemApiOptions): Route[] {
  const { functions, clock, version, limits, metrics, routes, isClosing } = options;
  const startedAt = clock.monotonic();
  return [
    SOCKET_ROUTE,
    {
      method: 'GET',
      path: '/api/v1/info',
      scope: 'functions:read',
      doc: { summary: 'What this gateway is.', responses: { 200: { about: 'version, backends, limits', schema: INFO.json } } },
      handle() {
        const instances = functions.instances();
        const backends = [...functions.runtimes.keys()].map((name) => ({
          name,
          instances: instances.filter(({ backend }) => backend === name).length,
        }));
        const uptime = Math.round((clock.monotonic() - startedAt) / 1_000);
        const { functions: count } = functions.store.usage();
        return json(200, {
          name: 'blueprint-runner',
          version,
          default_backend: functions.defaultBackend,
          backends,
          functions: count,
          limits,
          uptime_seconds: uptime,
        });
      },
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
        summary: 'Whether it takes calls.',
        responses: { 200: { about: 'it does', schema: HEALTH.json }, 503: { about: 'it does not', schema: HEALTH.json } },
      },
      handle() {
        if (isClosing()) return json(503, { ok: false, message: 'the gateway is closing' });
        functions.store.usage();
        return json(200, { ok: true });
      },
    },
    {
      method: 'GET',
      path: '/metrics',
      scope: 'functions:read',
      doc: {
        summary: 'Metrics in the text format of Prometheus, or as OpenMetrics when Accept asks for it.',
        responses: { 200: { about: 'metrics', contentType: 'text/plain' } },
      },
      handle: async ({ headers }) => ({ status: 200, ...exposition((await metrics?.()) ?? '', headers['accept']) }),
    },
    {
      method: 'GET',
      path: '/openapi.json',
      scope: 'public',
      doc: { summary: 'This document.', responses: { 200: { about: 'OpenAPI 3.1', schema: { type: 'object' } } } },
      handle: () => json(200, gatewayDocument(routes(), version)),
    },
  ];
}
