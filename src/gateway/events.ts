/** What the gateway tells live about instances and calls: one description, from which types, checks and documentation follow. */

import type { RuntimeEvent } from '../runtime/runtime.ts';
import type { EventLog, Numbered } from './event-log.ts';
import { LOG_LINE, REPORT } from './api.ts';
import { reportDocument } from './invocation.ts';
import { choice, object, optional, text } from './schema.ts';
import type { Infer } from './schema.ts';

/** A call that nobody waits for: it is on disk, or it is over for good. */
export interface QueuedCallEvent {
  readonly kind: 'invocation';
  readonly at: number;
  readonly requestId: string;
  readonly name: string;
  /** As it was asked for. */
  readonly version: string;
  readonly state: 'accepted' | 'settled';
  readonly outcome?: string;
}

export type GatewayEvent = RuntimeEvent | QueuedCallEvent;
export type GatewayEvents = EventLog<GatewayEvent>;

const COMMON = {
  at: text({ about: 'ISO 8601' }),
  function: text({ about: 'its name' }),
  version: text({ about: '$LATEST or a number; of a call that is accepted or settled, as it was asked for' }),
};

const INSTANCE_EVENT = object('what an instance did', {
  kind: choice('of event', ['instance']),
  ...COMMON,
  instance_id: text({ about: 'unique' }),
  state: choice('what it did', ['starting', 'ready', 'failed', 'paused', 'resumed', 'ended']),
  reason: optional(text({ about: 'why it failed or ended', charsMax: 1_048_576 })),
});

const INVOCATION_EVENT = object('how a call goes', {
  kind: choice('of event', ['invocation']),
  ...COMMON,
  request_id: text({ about: 'of the call' }),
  state: choice(
    'accepted: on disk, nobody waits for it; queued: has to wait for an instance; started: an instance has taken it; finished; settled: an accepted call is over for good, after all its attempts',
    ['accepted', 'queued', 'started', 'finished', 'settled'],
  ),
  instance_id: optional(text({ about: 'from started on' })),
  outcome: optional(text({ about: 'of finished: OK or a code of ERRORS.md; of settled: succeeded, failed, expired or gone' })),
  report: optional(REPORT),
});

export type InstanceEventDocument = Infer<typeof INSTANCE_EVENT>;
export type InvocationEventDocument = Infer<typeof INVOCATION_EVENT>;
export type EventDocument = InstanceEventDocument | InvocationEventDocument;

/** Of the field `event` of a message, for the documentation. */
export const EVENT_SCHEMA = { oneOf: [LOG_LINE.json, INSTANCE_EVENT.json, INVOCATION_EVENT.json] } as const;

export function eventDocument({ item }: Numbered<GatewayEvent>): EventDocument {
  const common = { at: new Date(item.at).toISOString(), function: item.name, version: item.version };
  if (item.kind === 'instance') {
    const { kind, instanceId, state, reason } = item;
    return { kind, ...common, instance_id: instanceId, state, ...(reason !== undefined && { reason }) };
  }
  const { kind, requestId, state, outcome } = item;
  const { instanceId, report } = 'instanceId' in item || 'report' in item ? item : {};
  return {
    kind,
    ...common,
    request_id: requestId,
    state,
    ...(instanceId !== undefined && { instance_id: instanceId }),
    ...(outcome !== undefined && { outcome }),
    ...(report && { report: reportDocument(report) }),
  };
}
