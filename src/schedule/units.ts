/** Schedules of hosts and clusters: systemd units, and what a Kubernetes CronJob needs besides its expression. */

import { RunnerError } from '../errors.ts';
import { formatCalendar } from './calendar-format.ts';
import { parseCalendar } from './calendar-spec.ts';
import type { Loss } from './cron-fields.ts';
import { parseSchedule } from './schedule.ts';
import type { Schedule } from './schedule.ts';
import { translate } from './translate.ts';
import type { TranslateOptions, Translation } from './translate.ts';

export interface CronJobTranslation extends Translation {
  /** `spec.timeZone`. */
  readonly timezone: string;
  /** `Forbid` when periods are counted from the end of a run: it comes nearest. */
  readonly concurrencyPolicy: 'Allow' | 'Forbid';
  /** Set when runs that were missed are not made up for. */
  readonly startingDeadlineSeconds?: number;
}

/** The controller looks every ten seconds; below that nothing would ever start. */
const STARTING_DEADLINE_SECONDS = 60;

/** A schedule for a Kubernetes CronJob (1.27 or newer, for the time zone). Throws like `translate`. */
export function toKubernetesCronJob(schedule: Schedule | string, options: TranslateOptions = {}): CronJobTranslation {
  const checked = parseSchedule(schedule);
  const { timezone = 'UTC', ...translation } = translate('kubernetes', checked, options);
  return {
    ...translation,
    timezone,
    concurrencyPolicy: checked.kind === 'periodic' && checked.relativeTo === 'finish' ? 'Forbid' : 'Allow',
    ...(checked.kind === 'calendar' && checked.persistent === false && { startingDeadlineSeconds: STARTING_DEADLINE_SECONDS }),
  };
}

export interface SystemdUnitOptions extends TranslateOptions {
  /** Of the units, without the suffix. */
  readonly name: string;
  readonly description?: string;
  /** The command, absolute, and its arguments. */
  readonly command: readonly [string, ...string[]];
  readonly environment?: Readonly<Record<string, string>>;
  readonly user?: string;
  readonly workingDirectory?: string;
}

export interface SystemdUnits {
  readonly timer: { readonly file: string; readonly text: string };
  readonly service: { readonly file: string; readonly text: string };
  readonly losses: readonly Loss[];
}

/**
 * A timer and its service for systemd 244 or newer. Nothing is lost. Calendars without a zone are written with UTC, because systemd
 * would take the zone of the host. Throws `SCHEDULE_INVALID`, `CONFIG_INVALID`.
 *
 * @example
 * const { timer, service } = toSystemdUnits(calendar('Mon-Fri 14:00'), { name: 'data-processor', command: ['/usr/bin/node', '/srv/job.js'] });
 */
export function toSystemdUnits(schedule: Schedule | string, options: SystemdUnitOptions): SystemdUnits {
  const checked = parseSchedule(schedule);
  const { name, command, description = name, environment = {}, user, workingDirectory } = options;
  if (!/^[A-Za-z0-9:_.-]{1,200}$/.test(name)) throw invalid(`${JSON.stringify(name)} is not the name of a unit`);
  if (!command[0].startsWith('/')) throw invalid(`the command ${JSON.stringify(command[0])} is not an absolute path`);
  const head = ['[Unit]', `Description=${line(description)}`, ''];
  const timer = [...head, '[Timer]', ...timerLines(checked), `Unit=${name}.service`, '', '[Install]', 'WantedBy=timers.target', ''];
  const service = [
    ...head,
    '[Service]',
    'Type=oneshot',
    ...(user === undefined ? [] : [`User=${line(user)}`]),
    ...(workingDirectory === undefined ? [] : [`WorkingDirectory=${line(workingDirectory).replaceAll('%', '%%')}`]),
    ...Object.entries(environment).map(([key, value]) => `Environment=${quoted(`${key}=${value}`, false)}`),
    `ExecStart=${command.map((word) => quoted(word, true)).join(' ')}`,
    '',
  ];
  return {
    timer: { file: `${name}.timer`, text: timer.join('\n') },
    service: { file: `${name}.service`, text: service.join('\n') },
    losses: [],
  };
}

function timerLines(schedule: Schedule): string[] {
  const { accuracyMs = 1, randomizedDelayMs = 0 } = schedule;
  const delays = [
    `AccuracySec=${span(Math.max(accuracyMs, 0.001))}`,
    ...(randomizedDelayMs > 0 ? [`RandomizedDelaySec=${span(randomizedDelayMs)}`, 'FixedRandomDelay=true'] : []),
  ];
  if (schedule.kind === 'calendar') {
    const spec = parseCalendar(schedule.expression);
    const expression = formatCalendar({ ...spec, timeZone: spec.timeZone ?? 'UTC' });
    return [`OnCalendar=${expression}`, `Persistent=${schedule.persistent ?? true}`, ...delays];
  }
  const { periodMs, startOn = 'command', relativeTo = 'start' } = schedule;
  const first = { boot: 'OnBootSec=1', login: 'OnStartupSec=1', command: `OnActiveSec=${span(periodMs)}` }[startOn];
  return [first, `${relativeTo === 'start' ? 'OnUnitActiveSec' : 'OnUnitInactiveSec'}=${span(periodMs)}`, ...delays];
}

/** In microseconds when it must be. */
function span(ms: number): string {
  if (ms % 1_000 === 0) return `${ms / 1_000}s`;
  return Number.isInteger(ms) ? `${ms}ms` : `${Math.round(ms * 1_000)}us`;
}

function line(text: string): string {
  if (/[\r\n\0]/.test(text)) throw invalid(`${JSON.stringify(text)} has more than one line`);
  return text;
}

/** As `man systemd.service` wants it: percent signs are specifiers, dollars are variables of a command line. */
function quoted(text: string, isCommand: boolean): string {
  const escaped = line(text).replaceAll('%', '%%').replaceAll('\\', '\\\\').replaceAll('"', '\\"');
  const literal = isCommand ? escaped.replaceAll('$', '$$$$') : escaped;
  return /^[\w@+=:,./-]+$/.test(literal) ? literal : `"${literal}"`;
}

function invalid(reason: string): RunnerError {
  return new RunnerError('CONFIG_INVALID', reason, { details: { reason } });
}
