/** The handler behind requests and responses of the Fetch standard: Cloudflare Workers, and the Node model v4 of Azure Functions. */

import type { HandlerResponse, JobHandler } from '../index.ts';
import { scheduleEvents } from '../schedules.ts';
import { answerEvent, answerHttpEvent } from './lambda.ts';

/** The part of a request that is used. */
export interface FetchRequest {
  readonly method: string;
  readonly url: string;
  readonly headers: Iterable<readonly [string, string]>;
  arrayBuffer(): Promise<ArrayBuffer>;
}

/** What a response is made of. */
export interface FetchParts {
  readonly status: number;
  readonly headers: HandlerResponse['headers'];
  /** Absent where the status allows none. */
  readonly body?: Uint8Array<ArrayBuffer>;
}

/** What Cloudflare tells of a time that came. */
export interface ScheduledTime {
  readonly cron: string;
}

/** Answers a request; the routes and the token are those of the HTTP server. */
export async function answerFetch(handler: JobHandler, request: FetchRequest): Promise<FetchParts> {
  const { status, headers, body } = await answerHttpEvent(
    handler,
    {
      method: request.method,
      path: new URL(request.url).pathname,
      headers: Object.fromEntries(request.headers),
      body: Buffer.from(await request.arrayBuffer()),
    },
    {},
  );
  return { status, headers, ...(status !== 204 && { body: body as Uint8Array<ArrayBuffer> }) };
}

/** The handlers that a Worker exports as default. */
export function workerOf(handler: JobHandler) {
  return {
    fetch: async (request: FetchRequest): Promise<Response> => {
      const { body, ...init } = await answerFetch(handler, request);
      return new Response(body ?? null, init);
    },
    /** Runs the calls whose schedule has this expression, one after the other. A failed call is logged, never run again. */
    scheduled: async ({ cron }: ScheduledTime, env: NodeJS.ProcessEnv): Promise<void> => {
      for (const schedule of scheduleEvents(env)) if (schedule.cron === cron) await answerEvent(handler, schedule.body, {});
    },
  };
}
