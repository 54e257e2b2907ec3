/** The normal form of calendars. */

import { MICROS, WEEKDAYS, parseCalendar, weekdaySet } from './calendar-spec.ts';
import type { CalendarSpec, Chain, Component } from './calendar-spec.ts';

/** The normal form of a calendar, as `systemd-analyze calendar` prints it. Throws `SCHEDULE_INVALID`. */
export function normalCalendar(expression: string): string {
  return formatCalendar(parseCalendar(expression));
}

/** The normal form, as systemd writes it. */
export function formatCalendar(spec: CalendarSpec): string {
  const days = weekdaySet(spec);
  const weekdays = days.size === 0 || days.size === 7 ? '' : `${formatWeekdays(days)} `;
  const date = `${formatChain(spec.year, 4)}-${formatChain(spec.month, 2)}${spec.lastDays ? '~' : '-'}${formatChain(spec.day, 2)}`;
  const time = `${formatChain(spec.hour, 2)}:${formatChain(spec.minute, 2)}:${formatMicros(spec.micros)}`;
  return `${weekdays}${date} ${time}${spec.timeZone === undefined ? '' : ` ${spec.timeZone}`}`;
}

function formatWeekdays(days: ReadonlySet<number>): string {
  const parts: string[] = [];
  for (let first = 0; first < 7; first += 1) {
    if (!days.has(first)) continue;
    let last = first;
    while (days.has(last + 1)) last += 1;
    const names = WEEKDAYS.slice(first, last + 1);
    parts.push(names.length > 2 ? `${names.at(0)}..${names.at(-1)}` : names.join(','));
    first = last;
  }
  return parts.join(',');
}

function formatChain(chain: Chain, width: number): string {
  if (!chain) return '*';
  const padded = (value: number): string => String(value).padStart(width, '0');
  return chain
    .map(({ start, stop, repeat }) => {
      const range = stop === undefined ? padded(start) : `${padded(start)}..${padded(stop)}`;
      return repeat === 0 || (stop !== undefined && repeat === 1) ? range : `${range}/${repeat}`;
    })
    .join(',');
}

function formatMicros(chain: readonly Component[]): string {
  const [only] = chain;
  if (chain.length === 1 && only?.start === 0 && only.stop === undefined && only.repeat === MICROS) return '*';
  const shown = (value: number, width: number): string => {
    const fraction = value % MICROS;
    const whole = String(Math.floor(value / MICROS)).padStart(width, '0');
    return fraction === 0 ? whole : `${whole}.${String(fraction).padStart(6, '0')}`;
  };
  return chain
    .map(({ start, stop, repeat }) => {
      const range = stop === undefined ? shown(start, 2) : `${shown(start, 2)}..${shown(stop, 2)}`;
      return repeat === 0 || (stop !== undefined && repeat === MICROS) ? range : `${range}/${shown(repeat, 1)}`;
    })
    .join(',');
}
