/** When a function runs by itself: EventBridge Scheduler, or rules of EventBridge. */

import { RunnerError, parseSchedule, toEventBridgeScheduler, translate } from '../../src/plugin.ts';
import type { FunctionSchedule, Schedule } from '../../src/plugin.ts';
import type { Changes } from './changes.ts';
import type { Session } from './client.ts';
import { isNotFound, isConflict } from './failure.ts';
import { MANAGED, canonical, foreign, isManaged, isSame, schedulePrefix, tagList, tagMap } from './names.ts';
import { whenAssumable } from './role.ts';

/** One entry of the platform; a schedule may need several. */
export interface Entry {
  /** Of the platform's resource. */
  readonly name: string;
  readonly expression: string;
  readonly timezone?: string;
  readonly windowMinutes?: number;
  /** JSON. */
  readonly input: string;
  readonly schedule: FunctionSchedule;
}

/** An entry as it is. Without `schedule`: this tool did not make it. */
export interface PresentEntry extends Omit<Entry, 'schedule'> {
  readonly schedule?: FunctionSchedule;
  readonly target: string;
  readonly role?: string;
  readonly isEnabled: boolean;
}

export type ScheduleKind = 'scheduler' | 'rules';
/** Where entries are: `rules`, or a group of EventBridge Scheduler. */
export type Place = { readonly kind: 'rules' } | { readonly kind: 'scheduler'; readonly group: string };

export const placeText = (place: Place): string => (place.kind === 'rules' ? 'rules' : `scheduler:${place.group}`);
export const placeOf = (text: string): Place =>
  text.startsWith('scheduler:') ? { kind: 'scheduler', group: text.slice('scheduler:'.length) } : { kind: 'rules' };

const DESCRIPTION_MAX = 512;

/** The entries of all schedules. What they do not keep is told. Throws `SCHEDULE_INVALID`, `SCHEDULE_LOSSY`. */
export function entriesOf(changes: Changes, schedules: readonly FunctionSchedule[], kind: ScheduleKind): readonly Entry[] {
  const names = schedules.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw new RunnerError('CONFIG_INVALID', `two schedules of function ${changes.function} are named ${twice}`);
  const prefix = schedulePrefix(changes.function);
  return schedules.flatMap((one) => {
    const schedule = { ...one, schedule: parseSchedule(one.schedule) };
    const input = JSON.stringify(one.event ?? {});
    const lost = (message: string): void => changes.lossy(`schedule ${one.name}: ${message}`, { schedule: one.name });
    const { expressions, timezone, flexibleTimeWindow, losses } =
      kind === 'rules'
        ? { ...translate('eventbridge-rule', schedule.schedule), timezone: undefined, flexibleTimeWindow: undefined }
        : toEventBridgeScheduler(schedule.schedule);
    for (const { message } of losses) lost(message);
    return expressions.map((expression, index) => ({
      name: `${prefix}${one.name}${index === 0 ? '' : `_${index + 1}`}`,
      expression,
      input,
      schedule,
      ...(timezone !== undefined && { timezone }),
      ...(flexibleTimeWindow?.MaximumWindowInMinutes !== undefined && { windowMinutes: flexibleTimeWindow.MaximumWindowInMinutes }),
    }));
  });
}

interface Description {
  readonly [MANAGED.key]: typeof MANAGED.value;
  readonly name: string;
  readonly schedule: Schedule;
}

/** Whose entry it is and what was asked for, so that it can be told again. A schedule of EventBridge Scheduler has no tags. */
function describeEntry({ schedule: { name, schedule } }: Entry): string {
  const text = canonical({ [MANAGED.key]: MANAGED.value, name, schedule } satisfies Description);
  return text.length <= DESCRIPTION_MAX ? text : canonical({ [MANAGED.key]: MANAGED.value, name, schedule: { kind: schedule.kind } });
}

function readDescription(description: string | undefined, input: string): FunctionSchedule | undefined {
  if (!description?.startsWith('{')) return undefined;
  try {
    // Only what this tool wrote carries its mark, and that has this shape.
    const value = JSON.parse(description) as Description;
    if (value[MANAGED.key] !== MANAGED.value || typeof value.name !== 'string') return undefined;
    const event: unknown = JSON.parse(input);
    return { name: value.name, schedule: value.schedule, ...(!isSame(event, {}) && { event }) };
  } catch {
    return undefined;
  }
}

/** The entries of a function, with those of others that have a name of its prefix. */
export function readEntries(session: Session, functionName: string, place: Place): Promise<readonly PresentEntry[]> {
  return session.known(`entries ${functionName} ${placeText(place)}`, () =>
    place.kind === 'rules' ? readRules(session, functionName) : readScheduler(session, functionName, place.group),
  );
}

async function readScheduler(session: Session, functionName: string, GroupName: string): Promise<readonly PresentEntry[]> {
  const names: string[] = [];
  const NamePrefix = schedulePrefix(functionName);
  let NextToken: string | undefined;
  do {
    const page = await session.find(
      'scheduler',
      (scheduler, request) => scheduler.listSchedules({ GroupName, NamePrefix, ...(NextToken !== undefined && { NextToken }) }, request),
      isNotFound,
    );
    // An emulator may look at no prefix.
    names.push(...(page?.Schedules ?? []).flatMap(({ Name }) => (Name?.startsWith(NamePrefix) ? [Name] : [])));
    NextToken = page?.NextToken;
  } while (NextToken);
  const found = await Promise.all(
    names.map((Name) => session.find('scheduler', (scheduler, request) => scheduler.getSchedule({ Name, GroupName }, request), isNotFound)),
  );
  return found.flatMap((one) => {
    if (one?.Name === undefined) return [];
    const input = one.Target?.Input ?? '{}';
    const schedule = readDescription(one.Description, input);
    const windowMinutes = one.FlexibleTimeWindow?.Mode === 'FLEXIBLE' ? one.FlexibleTimeWindow.MaximumWindowInMinutes : undefined;
    return {
      name: one.Name,
      expression: one.ScheduleExpression ?? '',
      timezone: one.ScheduleExpressionTimezone ?? 'UTC',
      input,
      target: one.Target?.Arn ?? '',
      role: one.Target?.RoleArn ?? '',
      isEnabled: one.State !== 'DISABLED',
      ...(windowMinutes !== undefined && { windowMinutes }),
      ...(schedule && { schedule }),
    };
  });
}

async function readRules(session: Session, functionName: string): Promise<readonly PresentEntry[]> {
  const NamePrefix = schedulePrefix(functionName);
  const rules: { Name: string; Arn: string; ScheduleExpression: string; Description: string | undefined; isEnabled: boolean }[] = [];
  let NextToken: string | undefined;
  do {
    const page = await session.read('events', (events, request) =>
      events.listRules({ NamePrefix, ...(NextToken !== undefined && { NextToken }) }, request),
    );
    for (const { Name, Arn, ScheduleExpression, Description, State } of page.Rules ?? [])
      if (Name?.startsWith(NamePrefix) && Arn !== undefined)
        rules.push({ Name, Arn, ScheduleExpression: ScheduleExpression ?? '', Description, isEnabled: State !== 'DISABLED' });
    NextToken = page.NextToken;
  } while (NextToken);
  return Promise.all(
    rules.map(async ({ Name, Arn, ScheduleExpression, Description, isEnabled }) => {
      const [{ Targets }, { Tags }] = await Promise.all([
        session.read('events', (events, request) => events.listTargetsByRule({ Rule: Name }, request)),
        session.read('events', (events, request) => events.listTagsForResource({ ResourceARN: Arn }, request)),
      ]);
      const target = Targets?.find(({ Id }) => Id === TARGET);
      const input = target?.Input ?? '{}';
      const schedule = isManaged(tagMap(Tags)) ? readDescription(Description, input) : undefined;
      return { name: Name, expression: ScheduleExpression, input, target: target?.Arn ?? '', isEnabled, ...(schedule && { schedule }) };
    }),
  );
}

const TARGET = 'function';

/** What calls go to, and who may make them. */
export interface Aim {
  readonly functionName: string;
  readonly alias: string;
  readonly aliasArn: string;
  /** With which EventBridge Scheduler calls. */
  readonly role?: string;
}

/** Makes the entries what they should be. */
export async function ensureEntries(
  session: Session,
  changes: Changes,
  work: {
    readonly place: Place;
    readonly aim: Aim;
    readonly wanted: readonly Entry[];
    readonly present: readonly PresentEntry[];
    readonly permitted: readonly string[];
  },
): Promise<void> {
  const { place, aim, wanted, present, permitted } = work;
  for (const entry of wanted) {
    const old = present.find(({ name }) => name === entry.name);
    const fields = old ? differences(entry, old, { aim, isPermitted: place.kind === 'scheduler' || permitted.includes(entry.name) }) : [];
    if (old && fields.length === 0) continue;
    const change = {
      action: old ? ('update' as const) : ('create' as const),
      resource: 'schedule',
      id: entry.name,
      ...(old && { fields }),
    };
    await changes.make(change, () =>
      place.kind === 'rules'
        ? putRule(session, { entry, aim, isPermitted: permitted.includes(entry.name) })
        : whenAssumable(session, changes, () => putSchedule(session, { entry, aim, group: place.group, exists: old !== undefined })),
    );
  }
  const stale = present.filter(({ name, schedule }) => schedule && !wanted.some((entry) => entry.name === name));
  for (const entry of stale) await removeEntry(session, changes, { place, aim, entry, permitted });
}

/** Throws `RESOURCE_FOREIGN` when somebody else has a name that is needed. */
export function checkEntries(wanted: readonly Entry[], present: readonly PresentEntry[]): void {
  for (const { name } of wanted) if (present.some((old) => old.name === name && !old.schedule)) throw foreign('schedule', name);
}

function differences(
  entry: Entry,
  old: PresentEntry,
  { aim, isPermitted }: { readonly aim: Aim; readonly isPermitted: boolean },
): string[] {
  const isSchedulers = old.role !== undefined;
  const pairs: Readonly<Record<string, readonly [unknown, unknown]>> = {
    expression: [entry.expression, old.expression],
    timezone: [entry.timezone, old.timezone],
    window: [entry.windowMinutes, old.windowMinutes],
    event: [JSON.parse(entry.input), parsed(old.input)],
    target: [aim.aliasArn, old.target],
    role: [isSchedulers ? aim.role : undefined, old.role],
    state: [true, old.isEnabled],
    permission: [true, isPermitted],
    schedule: [entry.schedule.schedule, old.schedule?.schedule],
  };
  return Object.entries(pairs).flatMap(([name, [wanted, is]]) => (isSame(wanted, is) ? [] : [name]));
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

async function putSchedule(
  session: Session,
  { entry, aim, group, exists }: { readonly entry: Entry; readonly aim: Aim; readonly group: string; readonly exists: boolean },
): Promise<void> {
  const input = {
    Name: entry.name,
    GroupName: group,
    ScheduleExpression: entry.expression,
    ScheduleExpressionTimezone: entry.timezone ?? 'UTC',
    FlexibleTimeWindow:
      entry.windowMinutes === undefined
        ? ({ Mode: 'OFF' } as const)
        : ({ Mode: 'FLEXIBLE', MaximumWindowInMinutes: entry.windowMinutes } as const),
    Target: { Arn: aim.aliasArn, RoleArn: aim.role, Input: entry.input },
    Description: describeEntry(entry),
    State: 'ENABLED' as const,
  };
  await session.write('scheduler', (scheduler, request) =>
    exists ? scheduler.updateSchedule(input, request) : scheduler.createSchedule(input, request),
  );
}

async function putRule(
  session: Session,
  { entry, aim, isPermitted }: { readonly entry: Entry; readonly aim: Aim; readonly isPermitted: boolean },
): Promise<void> {
  const { RuleArn } = await session.write('events', (events, request) =>
    events.putRule(
      {
        Name: entry.name,
        ScheduleExpression: entry.expression,
        State: 'ENABLED',
        Description: describeEntry(entry),
        Tags: tagList({ [MANAGED.key]: MANAGED.value }),
      },
      request,
    ),
  );
  await session.write('events', (events, request) =>
    events.putTargets({ Rule: entry.name, Targets: [{ Id: TARGET, Arn: aim.aliasArn, Input: entry.input }] }, request),
  );
  if (isPermitted) return;
  const permission = {
    FunctionName: aim.functionName,
    Qualifier: aim.alias,
    StatementId: entry.name,
    Action: 'lambda:InvokeFunction',
    Principal: 'events.amazonaws.com',
    ...(RuleArn !== undefined && { SourceArn: RuleArn }),
  };
  await session
    .write('lambda', (lambda, request) => lambda.addPermission(permission, request))
    .catch((error: unknown) => {
      if (!isConflict(error)) throw error;
    });
}

/** Removes an entry of ours. */
export async function removeEntry(
  session: Session,
  changes: Changes,
  {
    place,
    aim,
    entry,
    permitted,
  }: {
    readonly place: Place;
    readonly aim: Pick<Aim, 'functionName' | 'alias'>;
    readonly entry: PresentEntry;
    readonly permitted: readonly string[];
  },
): Promise<void> {
  const { name } = entry;
  await changes.make({ action: 'delete', resource: 'schedule', id: name }, async () => {
    if (place.kind === 'scheduler') {
      await session.write('scheduler', (scheduler, request) => scheduler.deleteSchedule({ Name: name, GroupName: place.group }, request));
      return;
    }
    if (permitted.includes(name))
      await session.write('lambda', (lambda, request) =>
        lambda.removePermission({ FunctionName: aim.functionName, StatementId: name, Qualifier: aim.alias }, request),
      );
    if (entry.target !== '')
      await session.write('events', (events, request) => events.removeTargets({ Rule: name, Ids: [TARGET] }, request));
    await session.write('events', (events, request) => events.deleteRule({ Name: name }, request));
  });
}

/** The group `default` is always there. */
export async function hasGroup(session: Session, group: string): Promise<boolean> {
  if (group === 'default') return true;
  const find = (): Promise<unknown> =>
    session.find('scheduler', (scheduler, request) => scheduler.getScheduleGroup({ Name: group }, request), isNotFound);
  return (await session.known(`group ${group}`, find)) !== undefined;
}

/** Makes the group when it is not there, and marks it as made here. */
export async function ensureGroup(session: Session, changes: Changes, group: string): Promise<void> {
  if (!(await hasGroup(session, group)))
    await changes.make({ action: 'create', resource: 'schedule-group', id: group }, () =>
      session.write('scheduler', (scheduler, request) =>
        scheduler.createScheduleGroup({ Name: group, Tags: tagList({ [MANAGED.key]: MANAGED.value }) }, request),
      ),
    );
}

/** Removes a group that was made here and that would be empty without these entries. Others may use it. */
export async function removeGroup(changes: Changes, group: string, removed: readonly string[]): Promise<void> {
  const { session } = changes;
  if (group === 'default') return;
  const there = await session.find('scheduler', (scheduler, request) => scheduler.getScheduleGroup({ Name: group }, request), isNotFound);
  if (there?.Arn === undefined) return;
  const { Arn } = there;
  const { Tags } = await session.read('scheduler', (scheduler, request) => scheduler.listTagsForResource({ ResourceArn: Arn }, request));
  if (!isManaged(tagMap(Tags))) return;
  // Those of others go with it: all pages are looked at.
  let NextToken: string | undefined;
  do {
    const page = await session.read('scheduler', (scheduler, request) =>
      scheduler.listSchedules({ GroupName: group, ...(NextToken !== undefined && { NextToken }) }, request),
    );
    if (page.Schedules?.some(({ Name }) => Name === undefined || !removed.includes(Name))) return;
    NextToken = page.NextToken;
  } while (NextToken);
  await changes.make({ action: 'delete', resource: 'schedule-group', id: group }, () =>
    session.write('scheduler', (scheduler, request) => scheduler.deleteScheduleGroup({ Name: group }, request)),
  );
}
