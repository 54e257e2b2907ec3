/** Schedules of AWS: rules of EventBridge, and EventBridge Scheduler. */

import { RunnerError } from '../errors.ts';
import type { Loss } from './cron-fields.ts';
import { calendar, parseSchedule, periodic } from './schedule.ts';
import type { Calendar, Periodic, Schedule } from './schedule.ts';
import { translate } from './translate.ts';
import type { TranslateOptions, Translation } from './translate.ts';

export interface ExpressionOptions extends TranslateOptions {
  /** Told what the expression does not keep. */
  readonly onLoss?: (loss: Loss) => void;
}

/**
 * The expression of an EventBridge rule, which knows only UTC. What it cannot keep is told to `onLoss`: seconds are cut off, periods are counted
 * from start to start. Throws `SCHEDULE_INVALID`; `SCHEDULE_LOSSY` when several rules are needed, for periods below one minute, and in
 * strict mode.
 *
 * @example
 * scheduleToEventBridgeExpression(calendar('Mon-Fri 14:00')); // cron(00 14 ? * MON-FRI *)
 */
export function scheduleToEventBridgeExpression(schedule: Schedule | string, options: ExpressionOptions = {}): string {
  const { expressions, losses } = translate('eventbridge-rule', schedule, options);
  for (const loss of losses) options.onLoss?.(loss);
  const [expression, ...others] = expressions;
  if (expression !== undefined && others.length === 0) return expression;
  throw new RunnerError('SCHEDULE_LOSSY', `the schedule needs ${expressions.length} rules: ${expressions.join(', ')}`, {
    details: { expressions, losses },
  });
}

/** Like `scheduleToEventBridgeExpression`, of a Calendar. */
export function calendarToCron(schedule: Calendar | string, options?: ExpressionOptions): string {
  return scheduleToEventBridgeExpression(typeof schedule === 'string' ? calendar(schedule) : schedule, options);
}

/** Like `scheduleToEventBridgeExpression`, of a Periodic or its period in seconds. */
export function periodicToRate(schedule: Periodic | number, options?: ExpressionOptions): string {
  return scheduleToEventBridgeExpression(typeof schedule === 'number' ? periodic(schedule) : schedule, options);
}

/** The parameter `FlexibleTimeWindow` of CreateSchedule. */
export interface FlexibleTimeWindow {
  readonly Mode: 'OFF' | 'FLEXIBLE';
  readonly MaximumWindowInMinutes?: number;
}

export interface SchedulerTranslation extends Translation {
  /** The parameter `ScheduleExpressionTimezone`. */
  readonly timezone: string;
  readonly flexibleTimeWindow: FlexibleTimeWindow;
}

const WINDOW_MINUTES_MAX = 1_440;

/**
 * A schedule for EventBridge Scheduler: `cron()`, `rate()`, or `at()` for what happens once, with its time zone; a randomised delay is the
 * flexible time window, in whole minutes. Throws like `translate`.
 */
export function toEventBridgeScheduler(schedule: Schedule | string, options: TranslateOptions = {}): SchedulerTranslation {
  const checked = parseSchedule(schedule);
  const { timezone = 'UTC', ...translation } = translate('eventbridge-scheduler', checked, options);
  const windowMinutes = Math.ceil((checked.randomizedDelayMs ?? 0) / 60_000);
  if (windowMinutes === 0) return { ...translation, timezone, flexibleTimeWindow: { Mode: 'OFF' } };
  const losses = [...translation.losses];
  if (windowMinutes > WINDOW_MINUTES_MAX) {
    const message = `a flexible time window is at most ${WINDOW_MINUTES_MAX} minutes, not ${windowMinutes}`;
    losses.push({ kind: 'randomized-delay', message });
    if (options.strict === true) throw new RunnerError('SCHEDULE_LOSSY', message, { details: { losses } });
  }
  const MaximumWindowInMinutes = Math.min(windowMinutes, WINDOW_MINUTES_MAX);
  return { ...translation, losses, timezone, flexibleTimeWindow: { Mode: 'FLEXIBLE', MaximumWindowInMinutes } };
}
