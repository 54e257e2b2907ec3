/**
 * The calls of schedules on platforms whose timer carries no payload (Azure, Cloudflare): `BLUEPRINT_SCHEDULES` is a JSON array of
 * `{ name, cron, event }`, where the event is a request in a JSON format and the expression is the platform's.
 */

import { invalid } from './detect.ts';

export interface ScheduleEvent {
  readonly name: string;
  readonly cron: string;
  /** The request, encoded. */
  readonly body: Uint8Array;
}

/** Throws `CONFIG_INVALID`. */
export function scheduleEvents({ BLUEPRINT_SCHEDULES: text = '[]' }: NodeJS.ProcessEnv): readonly ScheduleEvent[] {
  try {
    // Whatever is not of this shape fails below or in the handler.
    const schedules = JSON.parse(text) as readonly { readonly name: string; readonly cron: string; readonly event?: unknown }[];
    return schedules.map(({ name, cron, event = {} }) => ({ name, cron, body: Buffer.from(JSON.stringify(event)) }));
  } catch (cause) {
    throw invalid('BLUEPRINT_SCHEDULES is no JSON array of { name, cron, event }', cause);
  }
}
