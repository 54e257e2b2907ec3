/** The schedules of one deployment, wherever they are. */

import type { FunctionSchedule } from '../../src/plugin.ts';
import { readPermitted } from './attached.ts';
import type { Changes } from './changes.ts';
import type { Session } from './client.ts';
import { ownerOf, roleName } from './names.ts';
import type { LambdaPlatform } from './options.ts';
import { ensureRole, readRole, removeRole } from './role.ts';
import type { PresentRole } from './role.ts';
import {
  checkEntries,
  ensureEntries,
  ensureGroup,
  entriesOf,
  hasGroup,
  placeText,
  readEntries,
  removeEntry,
  removeGroup,
} from './schedules.ts';
import type { Aim, Entry, Place, PresentEntry } from './schedules.ts';
import { placesIn } from './state.ts';
import type { PresentFunction } from './state.ts';

interface Request {
  readonly region: string;
  readonly present: PresentFunction | undefined;
  readonly schedules: readonly FunctionSchedule[] | undefined;
  readonly platform: LambdaPlatform;
  readonly alias: string;
}

interface Found {
  readonly place: Place;
  readonly entries: readonly PresentEntry[];
}

export class ScheduleWork {
  /** What the tags of the function are to tell of it. */
  readonly part: readonly string[];
  readonly #session: Session;
  readonly #changes: Changes;
  readonly #region: string;
  readonly #place: Place;
  readonly #wanted: readonly Entry[];
  readonly #found: readonly Found[];
  readonly #permitted: readonly string[];
  readonly #role: PresentRole | undefined;

  constructor(
    session: Session,
    changes: Changes,
    work: {
      readonly region: string;
      readonly place: Place;
      readonly wanted: readonly Entry[];
      readonly found: readonly Found[];
      readonly permitted: readonly string[];
      readonly role: PresentRole | undefined;
    },
  ) {
    this.#session = session;
    this.#changes = changes;
    this.#region = work.region;
    this.#place = work.place;
    this.#wanted = work.wanted;
    this.#found = work.found;
    this.#permitted = work.permitted;
    this.#role = work.role;
    this.part = work.wanted.length > 0 ? [placeText(work.place)] : [];
  }

  /** Reads and checks; undefined when schedules are left alone. Throws `SCHEDULE_INVALID`, `SCHEDULE_LOSSY`, `RESOURCE_FOREIGN`. */
  static async prepare(session: Session, changes: Changes, request: Request): Promise<ScheduleWork | undefined> {
    const { region, present, schedules, platform, alias } = request;
    const isRenamed = present !== undefined && present.aliases[0] !== undefined && present.aliases[0] !== alias;
    const known = placesIn(present?.parts ?? []);
    if (!schedules && !(isRenamed && known.length > 0)) return undefined;
    const place = placeFor(platform, known);
    const asked = schedules && entriesOf(changes, schedules, place.kind);
    const isNeeded = known.some((one) => placeText(one) === placeText(place)) || (asked?.length ?? 0) > 0;
    const places = [...known.filter((one) => placeText(one) !== placeText(place)), ...(isNeeded ? [place] : [])];
    const usesScheduler = places.some(({ kind }) => kind === 'scheduler');
    const usesRules = places.some(({ kind }) => kind === 'rules');
    const name = changes.function;
    const [found, permitted, role] = await Promise.all([
      Promise.all(places.map(async (one) => ({ place: one, entries: await readEntries(session, name, one) }))),
      usesRules && present ? readPermitted(session, { FunctionName: name, Qualifier: alias }) : [],
      usesScheduler ? readRole(session, roleName(name, region, 'schedules'), ownerOf(name, region)) : undefined,
      // Read ahead.
      place.kind === 'scheduler' && isNeeded ? hasGroup(session, place.group) : undefined,
    ]);
    const here = found.find((one) => one.place === place)?.entries ?? [];
    // A new alias: what is there is aimed anew.
    const wanted = asked ?? entriesOf(changes, scheduled(here), place.kind);
    checkEntries(wanted, here);
    return new ScheduleWork(session, changes, { region, place, wanted, found, permitted, role });
  }

  async ensure(aim: Omit<Aim, 'role'>): Promise<void> {
    const session = this.#session;
    const changes = this.#changes;
    const place = this.#place;
    const usesRole = place.kind === 'scheduler' && this.#wanted.length > 0;
    if (place.kind === 'scheduler' && this.#wanted.length > 0) await ensureGroup(session, changes, place.group);
    const role = usesRole ? await this.#ensureRole(aim) : undefined;
    const present = this.#found.find((one) => one.place === place)?.entries ?? [];
    await ensureEntries(session, changes, {
      place,
      aim: { ...aim, ...(role !== undefined && { role }) },
      wanted: this.#wanted,
      present,
      permitted: this.#permitted,
    });
    for (const other of this.#found)
      if (other.place !== place) await removeAll(session, changes, { ...other, aim, permitted: this.#permitted });
    if (!usesRole) await removeRole(session, changes, this.#role);
  }

  #ensureRole({ functionName, aliasArn }: Omit<Aim, 'role'>): Promise<string> {
    const spec = {
      name: roleName(functionName, this.#region, 'schedules'),
      owner: ownerOf(functionName, this.#region),
      service: 'scheduler.amazonaws.com' as const,
      policies: [],
      statements: [{ Effect: 'Allow' as const, Action: ['lambda:InvokeFunction'], Resource: aliasArn }],
    };
    return ensureRole(this.#changes, spec, this.#role);
  }
}

function placeFor({ schedules, scheduleGroup }: LambdaPlatform, known: readonly Place[]): Place {
  const kind = schedules ?? (scheduleGroup === undefined ? known.at(-1)?.kind : undefined) ?? 'scheduler';
  if (kind === 'rules') return known.find((place) => place.kind === 'rules') ?? { kind };
  const group = scheduleGroup ?? known.flatMap((place) => (place.kind === 'scheduler' ? place.group : [])).at(-1) ?? 'default';
  return known.find((place) => place.kind === 'scheduler' && place.group === group) ?? { kind, group };
}

function scheduled(entries: readonly PresentEntry[]): readonly FunctionSchedule[] {
  return [...new Map(entries.flatMap(({ schedule }) => (schedule ? [[schedule.name, schedule] as const] : []))).values()];
}

/** Removes all entries of ours at one place, and the group when it was made for them. */
export async function removeAll(
  session: Session,
  changes: Changes,
  { place, entries, aim, permitted }: Found & { readonly aim: Pick<Aim, 'functionName' | 'alias'>; readonly permitted: readonly string[] },
): Promise<void> {
  const own = entries.filter(({ schedule }) => schedule);
  for (const entry of own) await removeEntry(session, changes, { place, aim, entry, permitted });
  if (place.kind === 'scheduler')
    await removeGroup(
      changes,
      place.group,
      own.map(({ name }) => name),
    );
}
