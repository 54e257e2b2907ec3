/** When something is to run: at times of the calendar, or again and again. */

/** Times of the calendar, in the grammar of systemd (`man systemd.time`): `Mon-Fri 09:00`, `*-*-01 00:00 Europe/Berlin`. */
export interface Calendar {
  readonly kind: 'calendar';
  readonly expression: string;
  /** A run that was missed while nothing could run is made up for, once. Default true. */
  readonly persistent?: boolean;
  /** How much later than asked it may run. Default 1. */
  readonly accuracyMs?: number;
  readonly randomizedDelayMs?: number;
}

/** Again and again. */
export interface Periodic {
  readonly kind: 'periodic';
  readonly periodMs: number;
  /** What the first period is counted from. Default `command`: the moment the schedule is started. */
  readonly startOn?: 'boot' | 'login' | 'command';
  /** Whether a period begins with the start or with the end of a run. Default `start`. */
  readonly relativeTo?: 'start' | 'finish';
  readonly accuracyMs?: number;
  readonly randomizedDelayMs?: number;
}

export type Schedule = Calendar | Periodic;
