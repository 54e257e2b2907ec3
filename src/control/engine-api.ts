/** Engines over the control plane: functions of the object store, called where their workers cannot go. */

import { RunnerError } from '../errors.ts';
import { JSON_TYPE, OCTETS, json } from '../gateway/http.ts';
import type { GatewayRequest, Reply, Route } from '../gateway/http.ts';
import { optionsOf } from '../gateway/invocation.ts';
import { choice, flag, list, number, object, parseJson, record, text, whole } from '../gateway/schema.ts';
import type { EngineMethod } from '../engine/engine.ts';
import { FUNCTION_BOUNDS } from '../queue/function-job.ts';
import type { Engines } from './engines.ts';

export interface EngineApiOptions {
  readonly engines: Engines;
  /** Of an event. */
  readonly bodyBytesMax: number;
  readonly now: () => number;
}

const SHA256 = /^[0-9a-f]{64}$/;
const KEY = /^(?:[0-9a-f]{64}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/;
const FUNCTION = object('a function whose package is in the object store', {
  name: text({ about: 'for logs and metrics', pattern: /^[A-Za-z0-9_-]{1,64}$/ }),
  object: text({ about: 'key of the package', pattern: KEY }),
  sha256: text({ about: 'of the package', pattern: SHA256 }),
  runtime: text({ about: 'such as wasm', charsMax: 256 }),
  handler: text({ about: 'such as handler.wasm', charsMax: 256 }),
  memory_mb: whole({ about: 'memory of an instance', ...FUNCTION_BOUNDS.memoryMb }),
  timeout_ms: whole({ about: 'the longest that a call may run', ...FUNCTION_BOUNDS.timeoutMs }),
  ephemeral_mb: whole({ about: 'size of /tmp', ...FUNCTION_BOUNDS.ephemeralMb }),
  environment: record(text({ about: 'value of a variable' }), 'variables of the function; secrets'),
  concurrency_per_instance: whole({ about: 'calls that one instance takes at the same time', min: 1, max: 1_024 }),
  network: choice('engines of a control plane give it to none', ['none', 'open']),
});
const REGISTERED = object('it may be called', { id: text({ about: 'the same for the same function' }) });
const ENGINES = object('the engines', {
  engines: list(
    object('one', {
      name: text({ about: 'what errors call it' }),
      url: text({ about: 'where it is' }),
      up: flag('it is ready'),
      running: number('calls that it runs for the control plane'),
    }),
    { about: 'all of them' },
  ),
});
const FUNCTION_BYTES_MAX = 32_768;
const AFFINITY_CHARS_MAX = 256;

export function engineRoutes({ engines, bodyBytesMax, now }: EngineApiOptions): Route[] {
  const scope = 'engines';
  const call = async (request: GatewayRequest, method: EngineMethod): Promise<Reply> => {
    const { id = '' } = request.params;
    if (!SHA256.test(id))
      throw new RunnerError('FUNCTION_NOT_FOUND', 'that is not the id of a function; POST /engines/functions gives one');
    const { deadline, contentType } = optionsOf(request, now());
    const affinity = request.headers['x-affinity']?.slice(0, AFFINITY_CHARS_MAX);
    const options = { id, event: request.body, method, signal: request.signal, deadline, contentType, affinity };
    const { contentType: type, report, chunks } = await engines.call(request.caller.id, options);
    return { status: 200, headers: { ...report, 'content-type': type }, body: chunks };
  };
  const calling = (method: EngineMethod, summary: string): Route => ({
    method: 'POST',
    path: `/engines/functions/{id}/${method}`,
    scope,
    bodyBytesMax,
    doc: {
      summary,
      request: { contentType: OCTETS, schema: {} },
      responses: {
        200: { about: 'what the function answers', contentType: OCTETS, schema: {} },
        404: { about: 'FUNCTION_NOT_FOUND: it is to be registered, again' },
      },
    },
    handle: (request) => call(request, method),
  });
  return [
    {
      method: 'POST',
      path: '/engines/functions',
      scope,
      bodyBytesMax: FUNCTION_BYTES_MAX,
      doc: {
        summary: 'Says what a function is, for calls by the same worker. Idempotent.',
        request: { contentType: JSON_TYPE, schema: FUNCTION.json },
        responses: { 200: { about: 'its id', schema: REGISTERED.json } },
      },
      handle({ body, caller }) {
        const { object: key, network, ...given } = FUNCTION.parse(parseJson(body, 'the body'), 'the body');
        const {
          memory_mb: memoryMb,
          timeout_ms: timeoutMs,
          ephemeral_mb: ephemeralMb,
          concurrency_per_instance: together,
          ...rest
        } = given;
        if (network === 'open')
          throw new RunnerError('FORBIDDEN', `the function ${rest.name} wants the network; engines of a control plane give it to none`);
        const settings = { memoryMb, timeoutMs, ephemeralMb, concurrencyPerInstance: together };
        return json(200, { id: engines.register(caller.id, { ...rest, ...settings, key }) });
      },
    },
    calling(
      'invoke',
      'Calls a function: the body is the event. x-timeout-ms: the longest; x-affinity: the same engine for the same value.',
    ),
    calling('stream', 'The same; the answer comes as the function writes it.'),
    {
      method: 'GET',
      path: '/engines',
      scope: 'admin',
      doc: { summary: 'The engines.', responses: { 200: { about: 'all of them', schema: ENGINES.json } } },
      handle: () => json(200, { engines: engines.list.map(({ name, url, isReady, running }) => ({ name, url, up: isReady, running })) }),
    },
  ];
}
