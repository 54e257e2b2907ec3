/**
 * What the program that imports the bundle calls: one function that knows the platform by its arguments, under the names that platforms look
 * for (`handler`, `main`), and the handlers of a Worker.
 *
 * | arguments                                       | platform                                                            |
 * | ----------------------------------------------- | ------------------------------------------------------------------- |
 * | request and response of Node's HTTP server      | Google Cloud functions-framework, an HTTP function                  |
 * | an event with `specversion`                     | the same, a CloudEvent; one of Pub/Sub has the request in its message |
 * | an event with `__ow_method` or `http`           | a web action of OpenWhisk, DigitalOcean Functions                   |
 * | any other event, and a context                  | Lambda, OpenWhisk; see `lambda.ts`                                  |
 */

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { JobRouter } from '../../src/job/router.ts';
import { isRecord } from '../../src/job/scalar.ts';
import type { HandlerResponse, JobHandler } from '../index.ts';
import { httpService } from './http.ts';
import type { HttpCalls } from './http.ts';
import { workerOf } from './fetch.ts';
import { answerEvent, answerHttpEvent, isJson, lambdaFunction, limitsOf, textOf, textOr } from './lambda.ts';
import type { HttpEvent, LambdaContext } from './lambda.ts';

/** Takes one argument by its length: with two the functions-framework would expect a callback. */
export type PlatformFunction = (event: unknown, ...context: readonly unknown[]) => Promise<unknown>;

export interface HandlerExports extends Partial<ReturnType<typeof workerOf>> {
  readonly handler?: PlatformFunction;
  /** With `BLUEPRINT_ADAPTER=describe`, in place of all others. */
  readonly jobs?: ReturnType<JobRouter['describe']>;
}

export function functionsOf(handler: JobHandler, calls: HttpCalls): HandlerExports {
  const lambda = lambdaFunction(handler);
  const { take } = httpService(handler, calls);
  const platformFunction: PlatformFunction = async (event, ...[context]) => {
    if (isRecord(context) && 'writeHead' in context) {
      // Only a server calls with these two.
      return take(event as IncomingMessage, context as unknown as ServerResponse);
    }
    if (isRecord(event)) {
      if ('specversion' in event) return objectOf(await answerEvent(handler, cloudEventBody(event.data), {}));
      const request = webRequest(event);
      if (request) return webResult(await answerHttpEvent(handler, request, limitsOf(context as LambdaContext | undefined)));
    }
    return lambda(event, context as LambdaContext | undefined);
  };
  return { handler: platformFunction, ...workerOf(handler) };
}

function cloudEventBody(data: unknown): Uint8Array {
  const message = isRecord(data) ? data.message : undefined;
  return isRecord(message) && typeof message.data === 'string'
    ? Buffer.from(message.data, 'base64')
    : Buffer.from(JSON.stringify(data) ?? '');
}

/** A web action gets the parts of a request as parameters; not raw, with the members of its body among them. */
function webRequest(event: Readonly<Record<string, unknown>>): HttpEvent | undefined {
  const { __ow_method: method, __ow_headers: headers, __ow_path: path, __ow_body: body, __ow_isBase64Encoded: isBase64Encoded } = event;
  const request = isRecord(event.http) ? event.http : { method, headers, path, body, isBase64Encoded };
  if (typeof request.method !== 'string') return undefined;
  const text = textOr(request.body, '');
  // Without a word about it: JSON is an object, and base64 never begins like one.
  const isBase64 = request.isBase64Encoded ?? !/^\s*\{/.test(text);
  return {
    method: request.method.toUpperCase(),
    path: textOr(request.path, '') || '/',
    // Names are lower-case, values are text.
    headers: (request.headers ?? {}) as Readonly<Record<string, string>>,
    body: typeof request.body === 'string' ? Buffer.from(text, isBase64 === true ? 'base64' : 'utf8') : Buffer.from(JSON.stringify(event)),
  };
}

/** The platform decodes text to bytes where the type is binary; JSON is an object. */
function webResult(response: HandlerResponse) {
  const { status, headers, body } = response;
  return { statusCode: status, headers, body: isJson(headers) ? objectOf(response) : Buffer.from(body).toString('base64') };
}

const objectOf = ({ body }: HandlerResponse): unknown => JSON.parse(textOf(body));
