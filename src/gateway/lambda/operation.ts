/** The operations of the Lambda API as routes of the gateway: what a handler gets, and how it answers. */

import type { Clock } from '../../clock.ts';
import type { FunctionRuntime } from '../../runtime/function-runtime.ts';
import type { FunctionRecord } from '../../runtime/store-records.ts';
import type { FunctionStore } from '../../runtime/store.ts';
import type { Telemetry } from '../../telemetry/telemetry.ts';
import type { GatewayRequest, Reply, Route } from '../http.ts';
import { lambdaFailure } from './failures.ts';
import { Fields } from './fields.ts';
import type { FunctionName, Place } from './names.ts';
import { bareName, parseFunctionName } from './names.ts';
import { OPERATIONS } from './operations.ts';
import type { OperationName, OperationSpec } from './operations.ts';

/** What operations need of the function runtime. */
export type LambdaRuntime = Pick<FunctionRuntime, 'invoke' | 'stream' | 'warm' | 'log'>;

export interface LambdaParts {
  readonly store: FunctionStore;
  /** What runs this version. Throws `BACKEND_UNAVAILABLE`. */
  readonly runtimeOf: (record: FunctionRecord) => LambdaRuntime;
  readonly clock: Clock;
  readonly telemetry: Telemetry;
  readonly place: Place;
}

export interface OperationRequest extends GatewayRequest {
  /** The function of the path, with its qualifier. */
  readonly fn: FunctionName;
  /** Read once. */
  readonly fields: () => Fields;
}

export type Handler = (request: OperationRequest) => Promise<Reply> | Reply;
export type Handlers = Readonly<Record<OperationName, Handler>>;

const BODY_BYTES_MAX = 1024 * 1024;
const FUNCTION_PARAM = 'FunctionName';

/** The answer of an operation that has one. */
export function answer(status: number, value: object, headers?: Readonly<Record<string, string>>): Reply {
  return { status, headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(value) };
}

export const NO_CONTENT: Reply = { status: 204 };

export function toRoutes(handlers: Handlers, place: Place): Route[] {
  // Object.entries forgets the names.
  const entries = Object.entries(OPERATIONS) as [OperationName, OperationSpec][];
  return entries.map(([name, spec]) => toRoute(name, spec, { handler: handlers[name], place }));
}

function toRoute(
  name: OperationName,
  spec: OperationSpec,
  { handler, place }: { readonly handler: Handler; readonly place: Place },
): Route {
  const { method, path, scope, summary, also } = spec;
  const hasBody = method === 'POST' || method === 'PUT';
  const named = path.includes(`{${FUNCTION_PARAM}}`);
  return {
    method,
    path,
    scope,
    ...(named && { functionParam: FUNCTION_PARAM, functionOf: bareName }),
    bodyBytesMax: spec.bodyBytesMax ?? (hasBody ? BODY_BYTES_MAX : 0),
    takesSignatures: true,
    requestIdHeader: 'x-amzn-requestid',
    doc: {
      summary: `${name}: ${summary}${also === undefined ? '' : `; ${also}`}`,
      responses: { 200: { about: 'As the AWS Lambda API answers.', contentType: 'application/json' } },
    },
    failure: lambdaFailure(place),
    handle(request) {
      let fields: Fields | undefined;
      return handler({
        ...request,
        fn: named ? parseFunctionName(request.params[FUNCTION_PARAM] ?? '', request.query.get('Qualifier')) : { name: '' },
        fields: () => (fields ??= Fields.parse(request.body)),
      });
    },
  };
}

/** The page that a client asks for; a marker is what the page before ended with. */
export function pageOf(query: URLSearchParams, limitMax: number): { readonly limit: number; readonly after?: string } {
  const asked = Number(query.get('MaxItems') ?? limitMax);
  const limit = Number.isSafeInteger(asked) && asked >= 1 ? Math.min(asked, limitMax) : limitMax;
  const marker = query.get('Marker');
  return { limit, ...(marker !== null && { after: Buffer.from(marker, 'base64url').toString('utf8') }) };
}

export function nextMarker({ next }: { readonly next?: string }): { readonly NextMarker?: string } {
  return next === undefined ? {} : { NextMarker: Buffer.from(next).toString('base64url') };
}

/** `2026-11-21T08:00:00.000+0000`, as the service writes times in JSON. */
export function awsTime(at: number): string {
  return new Date(at).toISOString().replace('Z', '+0000');
}
