/**
 * Schedules as cron triggers. A trigger carries no event: the Worker knows from its variable `BLUEPRINT_SCHEDULES` which call belongs to
 * which expression, and this variable is where schedules are read again.
 */

import { RunnerError, parseSchedule, translate } from '../../src/plugin.ts';
import type { FunctionSchedule } from '../../src/plugin.ts';

export const SCHEDULES_VARIABLE = 'BLUEPRINT_SCHEDULES';

/** One expression and its call, as the handler reads it; the schedule is there once, with the first expression. */
interface Entry {
  readonly name: string;
  readonly cron: string;
  readonly event?: unknown;
  readonly schedule?: FunctionSchedule['schedule'];
}

export interface CronPlan {
  /** Sorted, each once. */
  readonly crons: readonly string[];
  /** Value of the variable; absent when there are none. */
  readonly variable: string | undefined;
  readonly warnings: readonly string[];
}

/** Throws `SCHEDULE_INVALID`, `SCHEDULE_LOSSY`. */
export function cronsFor(schedules: readonly FunctionSchedule[], strict: boolean): CronPlan {
  const warnings: string[] = [];
  const entries = schedules.flatMap(({ name, schedule, event }) => {
    const { expressions, losses } = translate('cloudflare', schedule, { strict });
    warnings.push(...losses.map(({ message }) => `schedule ${name}: ${message}`));
    return expressions.map((cron, index): Entry => ({
      name,
      cron,
      ...(event !== undefined && { event }),
      ...(index === 0 && { schedule: parseSchedule(schedule) }),
    }));
  });
  return { crons: cronsOf(entries), variable: entries.length === 0 ? undefined : JSON.stringify(entries), warnings };
}

/** What a Worker says that it was given. */
export function cronsIn(variable: string | undefined): {
  readonly schedules: readonly FunctionSchedule[];
  readonly crons: readonly string[];
} {
  const entries = entriesOf(variable);
  const schedules = entries.flatMap(({ name, schedule, event }) =>
    schedule ? [{ name, schedule, ...(event !== undefined && { event }) }] : [],
  );
  return { schedules, crons: cronsOf(entries) };
}

/** Each once: two schedules may share an expression. */
function cronsOf(entries: readonly Entry[]): readonly string[] {
  return [...new Set(entries.map(({ cron }) => cron))].toSorted();
}

function entriesOf(variable = '[]'): readonly Entry[] {
  try {
    // Written by `cronsFor`; whatever somebody else put there fails here or has no schedule.
    return (JSON.parse(variable) as readonly Entry[]).filter(({ name, cron }) => typeof name === 'string' && typeof cron === 'string');
  } catch (cause) {
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the variable ${SCHEDULES_VARIABLE} of a Worker holds no schedules`, { cause });
  }
}
