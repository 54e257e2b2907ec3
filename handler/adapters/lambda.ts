/**
 * The handler as the function that a managed Lambda runtime calls, and the translation of Lambda's events for it and for the custom
 * runtime.
 *
 * An event is a request itself (v1 or base64 JSON; the answer is the response), or what a function URL or an HTTP API delivers
 * (payload format 2.0; the answer carries status, headers and body). A failed call is an answer, never a failed invocation: Lambda
 * would repeat a failed asynchronous invocation, and a job is not to run twice.
 */

import { isRecord } from '../../src/job/scalar.ts';
import { JSON_TYPE } from '../../src/job/wire.ts';
import type { Headers } from '../../src/job/wire.ts';
import type { HandlerBody, HandlerResponse, JobHandler } from '../index.ts';

/** The part of the context that is used. */
export interface LambdaContext {
  getRemainingTimeInMillis?(): number;
  /** Not of Lambda: a program that imports the bundle cancels a call with it. */
  readonly signal?: AbortSignal;
}

export type LambdaFunction = (event: unknown, context?: LambdaContext) => Promise<unknown>;

/** Ends the call this much before Lambda ends the environment, so that the answer still gets out. */
const DEADLINE_MARGIN_MS = 250;

/** A request as a function URL or an HTTP API delivers it. */
export interface HttpEvent {
  readonly method: string;
  readonly path: string;
  /** Lower-case names. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

/** What Lambda is to return for an `HttpEvent`. */
export interface HttpEventResult {
  readonly statusCode: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly isBase64Encoded: boolean;
}

/** What Lambda allows one call. */
export interface EventLimits {
  readonly signal?: AbortSignal;
  /** When the platform ends the environment; milliseconds since the epoch. */
  readonly deadline?: number;
}

export const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString();
/** What a value of these headers is, without a change when it is sent as text. */
export const isJson = (headers: Headers): boolean => String(headers['content-type']).startsWith(JSON_TYPE);
export const textOr = (value: unknown, fallback: string): string => (typeof value === 'string' ? value : fallback);

/** Undefined when the event is not one of payload format 2.0. */
function httpEventOf(event: unknown): HttpEvent | undefined {
  if (!isRecord(event) || !isRecord(event.requestContext) || !isRecord(event.requestContext.http)) return undefined;
  const headers: Record<string, string> = {};
  for (const [name, value] of Object.entries(event.headers ?? {})) if (typeof value === 'string') headers[name.toLowerCase()] = value;
  const path = textOr(event.rawPath, '/');
  const stage = `/${textOr(event.requestContext.stage, '$default')}`;
  return {
    method: textOr(event.requestContext.http.method, 'POST'),
    path: path.startsWith(`${stage}/`) ? path.slice(stage.length) : path,
    headers,
    body: Buffer.from(textOr(event.body, ''), event.isBase64Encoded === true ? 'base64' : 'utf8'),
  };
}

/** The same for an event that is not parsed yet. */
export function httpEventOfBytes(event: Uint8Array): HttpEvent | undefined {
  const bytes = Buffer.from(event.buffer, event.byteOffset, event.byteLength);
  // Only an event with this name in it can be one of HTTP: nothing else is parsed twice.
  if (!bytes.includes('"requestContext"')) return undefined;
  try {
    return httpEventOf(JSON.parse(bytes.toString('utf8')));
  } catch {
    // The handler says what is wrong with it.
    return undefined;
  }
}

/** Answers what came over HTTP: the same routes and the same token as the HTTP server. */
export async function answerHttpEvent(handler: JobHandler, event: HttpEvent, limits: EventLimits): Promise<HandlerResponse> {
  const admission = handler.admit(event);
  return 'status' in admission
    ? admission
    : handler.handle({ headers: event.headers, body: event.body, ...admission, ...withMargin(limits) });
}

/** Answers an event that is a request itself. */
export function answerEvent(handler: JobHandler, body: HandlerBody, limits: EventLimits): Promise<HandlerResponse> {
  return handler.handle({ headers: { 'content-type': JSON_TYPE }, body, ...withMargin(limits) });
}

export const withMargin = ({ signal, deadline }: EventLimits): EventLimits => ({
  ...(signal && { signal }),
  ...(deadline !== undefined && { deadline: deadline - DEADLINE_MARGIN_MS }),
});

/** JSON stays text; other bodies are encoded. */
export function httpEventResult({ status, headers, body }: HandlerResponse): HttpEventResult {
  const isBase64Encoded = !isJson(headers);
  return { statusCode: status, headers, body: Buffer.from(body).toString(isBase64Encoded ? 'base64' : 'utf8'), isBase64Encoded };
}

/** What the context of a call says; OpenWhisk says it in the environment. */
export function limitsOf(context: LambdaContext | undefined): EventLimits {
  const remainingMs = context?.getRemainingTimeInMillis?.();
  const deadline = remainingMs === undefined ? process.env.__OW_DEADLINE : Date.now() + remainingMs;
  return { ...(context?.signal && { signal: context.signal }), ...(deadline !== undefined && { deadline: Number(deadline) }) };
}

/** What `handler.handler` of the bundle is under a managed Node runtime. */
export function lambdaFunction(handler: JobHandler): LambdaFunction {
  return async (event, context) => {
    const limits = limitsOf(context);
    const httpEvent = httpEventOf(event);
    if (httpEvent) return httpEventResult(await answerHttpEvent(handler, httpEvent, limits));
    const response = await answerEvent(handler, Buffer.from(JSON.stringify(event) ?? ''), limits);
    const result: unknown = JSON.parse(textOf(response.body));
    return result;
  };
}
