/**
 * The handler under Azure Functions: in the Node model v4 as functions that are registered while the bundle is loaded
 * (https://learn.microsoft.com/azure/azure-functions/functions-reference-node), and the invocations that the host sends to a custom handler
 * (https://learn.microsoft.com/azure/azure-functions/functions-custom-handlers) when it does not forward HTTP requests as they are.
 *
 * The routes are those of the HTTP server when `host.json` sets `extensions.http.routePrefix` to the empty text, as that of the package does.
 */

import type * as functions from '@azure/functions';
import { isRecord } from '../../src/job/scalar.ts';
import { invalid } from '../detect.ts';
import { jsonResponse } from '../index.ts';
import type { HandlerBody, HandlerResponse, JobHandler } from '../index.ts';
import { scheduleEvents } from '../schedules.ts';
import { answerFetch } from './fetch.ts';
import { answerEvent, answerHttpEvent, httpEventResult, isJson, textOf, textOr } from './lambda.ts';
import type { EventLimits } from './lambda.ts';

/** Registers one HTTP function for all routes, and a timer function for each schedule. The name is no literal: no bundler is to look for it. */
export async function registerFunctions(handler: JobHandler, env: NodeJS.ProcessEnv, name = '@azure/functions'): Promise<void> {
  const { app } = (await import(name)) as Pick<typeof functions, 'app'>;
  app.http('call', {
    methods: ['GET', 'HEAD', 'POST'],
    authLevel: 'function',
    route: '{*path}',
    handler: (request) => answerFetch(handler, request),
  });
  for (const { name: timer, cron, body } of scheduleEvents(env))
    app.timer(timer, { schedule: cron, handler: async () => void (await answerEvent(handler, body, {})) });
}

export interface HostInvocation extends EventLimits {
  /** The name of the function. */
  readonly name: string;
  readonly body: HandlerBody;
  readonly env: NodeJS.ProcessEnv;
}

/**
 * Answers `{ Data, Metadata }` of the host with `{ Outputs, Logs, ReturnValue }`. The data of an HTTP trigger is the request; that of a timer
 * names nothing to do, so the call is the one that the schedules name like the function. Binary bodies do not pass through it.
 */
export async function answerInvocation(handler: JobHandler, { name, body, env, ...limits }: HostInvocation): Promise<HandlerResponse> {
  if (body === 'too-large') return handler.handle({ headers: {}, body });
  const request = requestIn(body);
  if (request) {
    const res = httpEventResult(
      isJson(request.headers) || request.method !== 'POST'
        ? await answerHttpEvent(handler, request, limits)
        : handler.refuse(invalid('an invocation carries JSON only: let the host forward HTTP requests')),
    );
    return jsonResponse({ Outputs: { res }, Logs: [], ReturnValue: res });
  }
  const schedule = scheduleEvents(env).find((each) => each.name === name);
  if (!schedule) return handler.refuse(invalid(`BLUEPRINT_SCHEDULES has no call for ${name}`));
  const { status, body: answer } = await answerEvent(handler, schedule.body, limits);
  return jsonResponse({ Outputs: {}, Logs: status < 400 ? [] : [textOf(answer)], ReturnValue: null });
}

/** The request of an HTTP trigger. */
function requestIn(body: Uint8Array) {
  let invocation: unknown;
  try {
    invocation = JSON.parse(textOf(body));
  } catch {
    // Then it is no HTTP trigger either.
  }
  for (const data of Object.values(isRecord(invocation) ? (invocation.Data ?? {}) : {})) {
    if (!isRecord(data) || typeof data.Url !== 'string') continue;
    const headers = Object.fromEntries(Object.entries(data.Headers ?? {}).map(([name, value]) => [name.toLowerCase(), String(value)]));
    return { method: textOr(data.Method, 'POST'), path: new URL(data.Url).pathname, headers, body: Buffer.from(textOr(data.Body, '')) };
  }
  return undefined;
}
