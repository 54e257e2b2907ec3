/** `/api/v1/instances`: what runs now; stop, warm, drain. */

import { RunnerError } from '../errors.ts';
import { DRAIN, INSTANCE, INSTANCES, WARM } from './api.ts';
import type { InstanceDocument } from './api.ts';
import type { Functions } from './functions.ts';
import { parseQuery } from './functions-api.ts';
import { JSON_TYPE, allows, demand, json } from './http.ts';
import type { GatewayRequest, Route } from './http.ts';
import { object, optional, parseJson, text, whole } from './schema.ts';

const BASE = '/api/v1/instances';
const FUNCTION = optional(text({ about: 'only of this function', charsMax: 256 }));
const BODY_BYTES_MAX = 64 * 1024;
const ENDED = object('what was ended', { instances: whole({ about: 'that were there', min: 0, max: Number.MAX_SAFE_INTEGER }) });

export function instanceRoutes(functions: Functions): Route[] {
  return [...singleRoutes(functions), ...groupRoutes(functions)];
}

function singleRoutes(functions: Functions): Route[] {
  const find = (
    { params, caller }: GatewayRequest,
    scope: 'functions:read' | 'functions:write',
  ): ReturnType<Functions['instances']>[number] => {
    const { id = '' } = params;
    const found = functions.instances().find((instance) => instance.id === id);
    if (!found) throw new RunnerError('NOT_FOUND', `there is no instance ${id}`, { details: { id } });
    demand(caller, scope, found.name);
    return found;
  };
  return [
    {
      method: 'GET',
      path: BASE,
      scope: 'functions:read',
      doc: {
        summary: 'Lists instances.',
        query: { function: FUNCTION },
        responses: { 200: { about: 'instances', schema: INSTANCES.json } },
      },
      handle(request) {
        const { function: only } = parseQuery(request, { function: FUNCTION });
        const visible = functions
          .instances()
          .filter(({ name }) => (only === undefined || name === only) && allows(request.caller, 'functions:read', name));
        return json(200, { instances: visible.map(instanceDocument) });
      },
    },
    {
      method: 'GET',
      path: `${BASE}/{id}`,
      scope: 'functions:read',
      doc: { summary: 'Describes an instance.', responses: { 200: { about: 'the instance', schema: INSTANCE.json } } },
      handle: (request) => json(200, instanceDocument(find(request, 'functions:read'))),
    },
    {
      method: 'DELETE',
      path: `${BASE}/{id}`,
      scope: 'functions:write',
      doc: { summary: 'Ends an instance at once; the calls on it fail.', responses: { 204: { about: 'ended' } } },
      async handle(request) {
        const { id } = find(request, 'functions:write');
        if (!(await functions.stopInstance(id)))
          throw new RunnerError('NOT_FOUND', `the instance ${id} has ended, or is still starting`, { details: { id } });
        return { status: 204 };
      },
    },
  ];
}

function groupRoutes(functions: Functions): Route[] {
  return [
    {
      method: 'POST',
      path: `${BASE}/warm`,
      scope: 'functions:write',
      bodyBytesMax: BODY_BYTES_MAX,
      doc: {
        summary: 'Has instances ready before they are needed; answers when they are.',
        request: { contentType: JSON_TYPE, schema: WARM.json },
        responses: { 200: { about: 'the instances of the function', schema: INSTANCES.json } },
      },
      async handle(request) {
        const { function: name, qualifier, count } = WARM.parse(parseJson(request.body, 'the body'), 'the body');
        demand(request.caller, 'functions:write', name);
        await functions.warm({ name, qualifier }, count);
        return json(200, {
          instances: functions
            .instances()
            .filter((instance) => instance.name === name)
            .map(instanceDocument),
        });
      },
    },
    {
      method: 'POST',
      path: `${BASE}/drain`,
      scope: 'functions:write',
      bodyBytesMax: BODY_BYTES_MAX,
      doc: {
        summary: 'Ends the instances of a function, busy ones after their calls. Later calls start new ones.',
        request: { contentType: JSON_TYPE, schema: DRAIN.json },
        responses: { 200: { about: 'how many', schema: ENDED.json } },
      },
      handle(request) {
        const { function: name } = DRAIN.parse(parseJson(request.body, 'the body'), 'the body');
        demand(request.caller, 'functions:write', name);
        functions.store.get(name);
        return json(200, { instances: functions.drain(name) });
      },
    },
  ];
}

function instanceDocument(instance: ReturnType<Functions['instances']>[number]): InstanceDocument {
  const { id, backend, name, version, fingerprint, state, running, calls, startedAt, handle } = instance;
  return {
    id,
    backend,
    function: name,
    version,
    fingerprint,
    state,
    running,
    calls,
    started_at: new Date(startedAt).toISOString(),
    ...(handle && { handle }),
  };
}
