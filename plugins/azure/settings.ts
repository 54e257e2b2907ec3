/** The settings of an app: the environment of its functions, and beside it what the platform and the handler want to know. */

import { LIMITS, RunnerError, parseSchedule, translate } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionSchedule } from '../../src/plugin.ts';
import { CONNECTION_SETTING, canonical } from './names.ts';

export type Settings = Readonly<Record<string, string>>;

const TIMEOUT = 'AzureFunctionsJobHost__functionTimeout';
const SCHEDULES = 'BLUEPRINT_SCHEDULES';
const ADAPTER = 'BLUEPRINT_ADAPTER';
const JOBS_STORAGE = 'AzureWebJobsStorage';
const INSIGHTS = 'APPLICATIONINSIGHTS_CONNECTION_STRING';
/** What every app gets, unless it is given otherwise: by itself the handler takes what Lambda does. */
const DEFAULTS: Settings = { BLUEPRINT_REQUEST_BYTES_MAX: String(LIMITS.azure.requestBytesMax) };

/** Settings that no environment may hold: ours, and what an app of Flex Consumption refuses. */
export const RESERVED: ReadonlySet<string> = new Set([
  TIMEOUT,
  SCHEDULES,
  ADAPTER,
  JOBS_STORAGE,
  INSIGHTS,
  CONNECTION_SETTING,
  // https://learn.microsoft.com/azure/azure-functions/functions-app-settings, "Flex Consumption plan deprecations"
  'FUNCTIONS_WORKER_RUNTIME',
  'FUNCTIONS_WORKER_RUNTIME_VERSION',
  'FUNCTIONS_EXTENSION_VERSION',
  'WEBSITE_RUN_FROM_PACKAGE',
  'WEBSITE_CONTENTAZUREFILECONNECTIONSTRING',
  'WEBSITE_CONTENTSHARE',
  'WEBSITE_NODE_DEFAULT_VERSION',
  'WEBSITE_TIME_ZONE',
  'SCM_DO_BUILD_DURING_DEPLOYMENT',
  'ENABLE_ORYX_BUILD',
]);

export interface SettingsWish {
  readonly config: FunctionConfig;
  readonly present: Settings | undefined;
  /** Of the storage account. */
  readonly connection: string;
  readonly insights: string | undefined;
  readonly isNode: boolean;
  readonly schedules: ScheduleText | undefined;
}

/** All settings as they should be. What the configuration leaves out stays. */
export function settingsFor({ config, present = {}, connection, insights, isNode, schedules }: SettingsWish): Settings {
  const timeout = config.timeoutMs === undefined ? present[TIMEOUT] : timeSpanOf(config.timeoutMs);
  const timers = schedules === undefined ? present[SCHEDULES] : schedules.text;
  const known = insights ?? present[INSIGHTS];
  return {
    ...DEFAULTS,
    ...(config.environment ?? environmentOf(present)),
    ...(timeout !== undefined && { [TIMEOUT]: timeout }),
    ...(timers !== undefined && { [SCHEDULES]: timers }),
    ...(known !== undefined && { [INSIGHTS]: known }),
    // An app of Flex Consumption has no FUNCTIONS_WORKER_RUNTIME, which the handler would know the platform by.
    ...(isNode && { [ADAPTER]: 'azure' }),
    [JOBS_STORAGE]: connection,
    [CONNECTION_SETTING]: connection,
  };
}

/** Which of the fields of a configuration differ, in words that hold no value. */
export function differing(present: Settings, wanted: Settings): string[] {
  const fields = new Set<string>();
  for (const name of new Set([...Object.keys(present), ...Object.keys(wanted)]))
    if (present[name] !== wanted[name]) fields.add(FIELDS[name] ?? 'environment');
  return [...fields];
}

const FIELDS: Readonly<Record<string, string>> = {
  [TIMEOUT]: 'timeoutMs',
  [SCHEDULES]: 'schedules',
  [INSIGHTS]: 'applicationInsights',
  [ADAPTER]: 'adapter',
  [JOBS_STORAGE]: 'storage',
  [CONNECTION_SETTING]: 'storage',
};

function environmentOf(settings: Settings): Settings {
  return Object.fromEntries(Object.entries(settings).filter(([name, value]) => !RESERVED.has(name) && DEFAULTS[name] !== value));
}

/** What the settings say of a configuration. */
export function configOf(settings: Settings): FunctionConfig {
  const environment = environmentOf(settings);
  const timeoutMs = millisecondsOf(settings[TIMEOUT]);
  const schedules = schedulesOf(settings[SCHEDULES]);
  return {
    ...(timeoutMs !== undefined && { timeoutMs }),
    ...(Object.keys(environment).length > 0 && { environment }),
    ...(schedules.length > 0 && { schedules }),
  };
}

/** The text of the schedules, whose digest tells whether the platform has read them. */
export function schedulesTextOf(settings: Settings): string {
  return settings[SCHEDULES] ?? '';
}

export interface ScheduleText {
  readonly text: string;
  readonly warnings: readonly string[];
}

/** Before the number of a schedule that takes several timers. */
const PART = '--';

/** Timers as the handler reads them; the schedule itself rides along for whoever asks. Throws `SCHEDULE_INVALID`, `SCHEDULE_LOSSY`. */
export function scheduleText(schedules: readonly FunctionSchedule[], strict: boolean): ScheduleText {
  const warnings: string[] = [];
  const names = new Set<string>();
  const timers = schedules.flatMap(({ name, schedule, event = {} }) => {
    if (names.has(name)) throw new RunnerError('SCHEDULE_INVALID', `there are two schedules ${name}`, { details: { name } });
    names.add(name);
    const { expressions, losses } = translate('azure', schedule, { strict });
    warnings.push(...losses.map(({ message }) => `schedule ${name}: ${message}`));
    return expressions.map((cron, index) => ({
      name: index === 0 ? name : `${name}${PART}${index + 1}`,
      cron,
      event,
      ...(index === 0 && { schedule }),
    }));
  });
  return { text: timers.length === 0 ? '[]' : JSON.stringify(timers), warnings };
}

function schedulesOf(text: string | undefined): FunctionSchedule[] {
  return timersOf(text).flatMap(({ name, event, schedule }) => {
    if (typeof name !== 'string' || schedule === undefined) return [];
    return { name, schedule: parseSchedule(schedule), ...(canonical(event) !== '{}' && { event }) };
  });
}

/** The names of the timers. */
export function timerNames(settings: Settings): readonly string[] {
  return timersOf(settings[SCHEDULES]).map(({ name }) => String(name));
}

interface Timer {
  readonly name?: unknown;
  readonly event?: unknown;
  readonly schedule?: unknown;
}

function timersOf(text = '[]'): readonly Timer[] {
  try {
    const timers: unknown = JSON.parse(text);
    return Array.isArray(timers) ? timers.filter((each): each is Timer => typeof each === 'object' && each !== null) : [];
  } catch {
    // Somebody wrote it by hand: there are none that this tool made.
    return [];
  }
}

/** `hh:mm:ss.fff` of .NET. */
function timeSpanOf(ms: number): string {
  const pad = (value: number, length = 2): string => String(value).padStart(length, '0');
  const seconds = Math.floor(ms / 1_000);
  const rest = Math.round(ms % 1_000);
  const parts = [Math.floor(seconds / 3_600), Math.floor(seconds / 60) % 60, seconds % 60].map((part) => pad(part));
  return parts.join(':') + (rest === 0 ? '' : `.${pad(rest, 3)}`);
}

function millisecondsOf(text: string | undefined): number | undefined {
  const [, hours, minutes, seconds] = /^(\d+):(\d+):(\d+(?:\.\d+)?)$/.exec(text ?? '') ?? [];
  if (hours === undefined) return undefined;
  return Math.round((Number(hours) * 3_600 + Number(minutes) * 60 + Number(seconds)) * 1_000);
}
