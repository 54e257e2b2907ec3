/** Schedules as triggers: five fields of cron in UTC, with the event as the body. */

import { RunnerError, translate } from '../../src/plugin.ts';
import type { FunctionSchedule } from '../../src/plugin.ts';
import { asFields, failure, listOf, parsed } from './client.ts';
import type { Fields } from './client.ts';
import type { Namespaces } from './namespace.ts';

export interface Trigger {
  readonly name: string;
  readonly function: string;
  readonly cron: string;
  readonly body: Fields;
  readonly isEnabled: boolean;
}

export interface TriggerPlan {
  readonly triggers: readonly Trigger[];
  readonly warnings: readonly string[];
}

/** Before the number of a schedule that takes several triggers. */
const PART = '--';

/** The triggers of a function. Throws `SCHEDULE_INVALID`, `SCHEDULE_LOSSY`. */
export function triggersFor(name: string, schedules: readonly FunctionSchedule[], strict: boolean): TriggerPlan {
  const warnings: string[] = [];
  const triggers = schedules.flatMap((each) => {
    const { expressions, losses } = translate('digitalocean', each.schedule, { strict });
    warnings.push(...losses.map(({ message }) => `schedule ${each.name}: ${message}`));
    const body = asFields(each.event ?? {});
    if (!body)
      throw new RunnerError('SCHEDULE_INVALID', `the event of the schedule ${each.name} is not a JSON object, as DigitalOcean wants it`);
    return expressions.map((cron, index) => ({
      name: `${name}-${each.name}${index === 0 ? '' : PART + (index + 1)}`,
      function: name,
      cron,
      body,
      isEnabled: true,
    }));
  });
  return { triggers, warnings };
}

/** What the triggers of a function say, as schedules. */
export function schedulesOf(name: string, triggers: readonly Trigger[]): FunctionSchedule[] {
  return triggers.map((trigger) => ({
    name: trigger.name.slice(name.length + 1),
    schedule: { kind: 'calendar', expression: calendarOf(trigger.cron) },
    ...(Object.keys(trigger.body).length > 0 && { event: trigger.body }),
  }));
}

const WEEKDAYS = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'];

/** Five fields of cron in the grammar of systemd. */
function calendarOf(cron: string): string {
  const [minute = '*', hour = '*', day = '*', month = '*', weekday = '*'] = cron.split(/\s+/);
  const part = (field: string, first: number): string => field.replaceAll('-', '..').replaceAll('*/', `${first}/`);
  const days = weekday === '*' ? '' : `${weekday.replaceAll(/\d/g, (digit) => WEEKDAYS[Number(digit)] ?? digit).replaceAll('-', '..')} `;
  return `${days}*-${part(month, 1)}-${part(day, 1)} ${part(hour, 0)}:${part(minute, 0)}:00`;
}

export class Triggers {
  readonly #namespaces: Namespaces;

  constructor(namespaces: Namespaces) {
    this.#namespaces = namespaces;
  }

  /** Of one function, by name. */
  async list(name: string, signal: AbortSignal | undefined): Promise<readonly Trigger[]> {
    if (!(await this.#namespaces.find(signal))) return [];
    const response = await this.#namespaces.api({ method: 'GET', path: await this.#path(signal), signal });
    const triggers = listOf(parsed('list schedules', response)['triggers']).map(triggerOf);
    return triggers
      .filter((trigger) => trigger.function === name && trigger.name.startsWith(`${name}-`))
      .toSorted((a, b) => (a.name < b.name ? -1 : 1));
  }

  async create(trigger: Trigger, signal: AbortSignal | undefined): Promise<void> {
    const json = {
      name: trigger.name,
      function: trigger.function,
      type: 'SCHEDULED',
      is_enabled: true,
      scheduled_details: { cron: trigger.cron, body: trigger.body },
    };
    const response = await this.#namespaces.api({ method: 'POST', path: await this.#path(signal), json, signal });
    if (response.status < 300) return;
    throw failure(`create the schedule ${trigger.name}`, response, response.status === 422 ? 'LIMIT_EXCEEDED' : undefined);
  }

  async update(trigger: Trigger, signal: AbortSignal | undefined): Promise<void> {
    const json = { is_enabled: true, scheduled_details: { cron: trigger.cron, body: trigger.body } };
    const path = `${await this.#path(signal)}/${encodeURIComponent(trigger.name)}`;
    const response = await this.#namespaces.api({ method: 'PUT', path, json, signal });
    if (response.status >= 300) throw failure(`change the schedule ${trigger.name}`, response);
  }

  async delete(name: string, signal: AbortSignal | undefined): Promise<void> {
    const response = await this.#namespaces.api({
      method: 'DELETE',
      path: `${await this.#path(signal)}/${encodeURIComponent(name)}`,
      signal,
    });
    if (response.status >= 300 && response.status !== 404) throw failure(`remove the schedule ${name}`, response);
  }

  async #path(signal: AbortSignal | undefined): Promise<string> {
    const namespace = await this.#namespaces.find(signal);
    return `/v2/functions/namespaces/${namespace?.id}/triggers`;
  }
}

function triggerOf(fields: Fields): Trigger {
  const details = asFields(fields['scheduled_details']);
  return {
    name: String(fields['name']),
    function: String(fields['function']),
    cron: String(details?.['cron']),
    body: asFields(details?.['body']) ?? {},
    isEnabled: fields['is_enabled'] === true,
  };
}
