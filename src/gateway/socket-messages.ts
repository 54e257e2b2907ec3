/** The messages of the WebSocket `/api/v1/ws`: JSON, one object each. */

import { QUALIFIER } from './api.ts';
import type { LogLineDocument, ReportDocument } from './api.ts';
import { EVENT_SCHEMA } from './events.ts';
import type { EventDocument } from './events.ts';
import type { ErrorDocument } from './http.ts';
import { anything, base64, choice, invalid, object, optional, parseJson, text, whole } from './schema.ts';
import type { Infer } from './schema.ts';

const ID = text({ about: 'chosen by the client; answers carry it', charsMax: 64, pattern: /^[\w.:-]+$/ });
const FUNCTION = text({ about: 'name of a function', charsMax: 256 });

const MESSAGES = {
  subscribe: object('news are wanted', {
    type: choice('kind', ['subscribe']),
    id: ID,
    topic: choice('of what', ['logs', 'instances', 'invocations']),
    function: optional(FUNCTION),
    since: optional(text({ about: 'event_id of the last one seen: what came after it is sent first', charsMax: 64 })),
  }),
  unsubscribe: object('no more news', { type: choice('kind', ['unsubscribe']), id: ID }),
  invoke: object('a call whose answer is streamed', {
    type: choice('kind', ['invoke']),
    id: ID,
    function: FUNCTION,
    qualifier: optional(QUALIFIER),
    payload: optional(anything('the event')),
    payload_base64: optional(base64('the event as bytes')),
  }),
  resume: object('the rest of an answer, after a connection was lost', {
    type: choice('kind', ['resume']),
    id: ID,
    stream: text({ about: 'of the message started', charsMax: 64 }),
    after: whole({ about: 'seq of the last chunk seen; 0 for none', min: 0, max: Number.MAX_SAFE_INTEGER }),
  }),
  cancel: object('a call is given up', { type: choice('kind', ['cancel']), id: ID }),
  ping: object('are you there', { type: choice('kind', ['ping']) }),
} as const;

export type ClientMessage = { [Kind in keyof typeof MESSAGES]: Infer<(typeof MESSAGES)[Kind]> }[keyof typeof MESSAGES];

export type ServerMessage =
  | { readonly type: 'hello'; readonly caller: string }
  /** `event_id`: what comes after it is sent; whoever loses the connection before the first event goes on from there. */
  | { readonly type: 'subscribed'; readonly id: string; readonly event_id: string }
  | { readonly type: 'unsubscribed'; readonly id: string }
  | { readonly type: 'event'; readonly id: string; readonly event_id: string; readonly event: LogLineDocument | EventDocument }
  /** Some events are gone: they were written faster than they were read, or long ago. Then come those that are kept. */
  | { readonly type: 'missed'; readonly id: string }
  | { readonly type: 'started'; readonly id: string; readonly stream: string; readonly request_id: string; readonly content_type: string }
  /** `data` is base64. */
  | { readonly type: 'chunk'; readonly id: string; readonly seq: number; readonly data: string }
  | { readonly type: 'end'; readonly id: string; readonly report: ReportDocument }
  | { readonly type: 'error'; readonly id?: string; readonly error: ErrorDocument['error'] }
  | { readonly type: 'pong' };

/** For the documentation. */
export const SOCKET_SCHEMA = {
  type: 'object',
  properties: {
    sent: { description: 'what a client may send', oneOf: Object.values(MESSAGES).map((message) => message.json) },
    event: { description: 'in messages of type event', ...EVENT_SCHEMA },
  },
} as const;

/** Throws `REQUEST_INVALID`. */
export function parseMessage(bytes: Uint8Array): ClientMessage {
  const value = parseJson(bytes, 'the message');
  const type = typeof value === 'object' && value !== null && 'type' in value ? value.type : undefined;
  if (typeof type !== 'string' || !Object.hasOwn(MESSAGES, type))
    throw invalid('the message', `has no type, or one that is not of ${Object.keys(MESSAGES).join(', ')}`);
  // Just looked up.
  return MESSAGES[type as keyof typeof MESSAGES].parse(value, 'the message');
}
