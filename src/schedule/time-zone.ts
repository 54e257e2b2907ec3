/** Wall clocks of the world, through `Intl`: how far a zone is from UTC, and which instant a wall clock shows a time at. */

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/** Zones without a change in this decade are taken for fixed. */
const PROBE_FROM = Date.UTC(2026, 0, 1);
const PROBE_UNTIL = Date.UTC(2036, 0, 1);
const PROBE_STEP = 7 * DAY;

const formats = new Map<string, Intl.DateTimeFormat>();
const FORMATS_MAX = 1_000;

/** The name of a zone of the IANA database in its right case; undefined when there is none. An offset such as `+02:00` is no name. */
export function zoneNamed(name: string): string | undefined {
  if (!/^[A-Za-z]/.test(name)) return undefined;
  try {
    const canonical = new Intl.DateTimeFormat('en', { timeZone: name }).resolvedOptions().timeZone;
    return canonical.toLowerCase() === name.toLowerCase() ? canonical : name;
  } catch {
    return undefined;
  }
}

/** Milliseconds that the zone is ahead of UTC at an instant. Without a zone: none. */
export function offsetMs(zone: string | undefined, instantMs: number): number {
  if (zone === undefined || zone === 'UTC') return 0;
  let format = formats.get(zone);
  if (!format) {
    if (formats.size >= FORMATS_MAX) formats.clear();
    format = new Intl.DateTimeFormat('en', { timeZone: zone, timeZoneName: 'longOffset' });
    formats.set(zone, format);
  }
  const match = /GMT(?:([+-])(\d+):(\d+)(?::(\d+))?)?$/.exec(format.format(instantMs));
  if (!match?.[1]) return 0;
  const [, sign, hours, minutes, seconds] = match;
  const size = Number(hours) * HOUR + Number(minutes) * MINUTE + Number(seconds ?? 0) * SECOND;
  return sign === '-' ? -size : size;
}

export interface ZoneOffsets {
  /** Without daylight saving. */
  readonly standardMs: number;
  /** The zone keeps this offset all year. */
  readonly isFixed: boolean;
}

export function zoneOffsets(zone: string | undefined): ZoneOffsets {
  let least = offsetMs(zone, PROBE_FROM);
  let most = least;
  for (let at = PROBE_FROM; at < PROBE_UNTIL && zone !== undefined; at += PROBE_STEP) {
    const offset = offsetMs(zone, at);
    least = Math.min(least, offset);
    most = Math.max(most, offset);
  }
  return { standardMs: least, isFixed: least === most };
}

export interface WallTime {
  /** Undefined: no clock of the zone ever shows this time. */
  readonly instantMs?: number;
  /** Then: the first time after the gap. */
  readonly resumeWallMs?: number;
}

/**
 * When the clocks of a zone show a time, given as if it were UTC. Of two instants (clocks were set back) the first one that is later
 * than `afterMs`.
 */
export function instantOf(zone: string | undefined, wallMs: number, afterMs: number): WallTime {
  const before = offsetMs(zone, wallMs - DAY);
  const behind = offsetMs(zone, wallMs + DAY);
  const early = wallMs - before;
  if (before === behind) return { instantMs: early };
  const late = wallMs - behind;
  const isEarly = offsetMs(zone, early) === before;
  const isLate = offsetMs(zone, late) === behind;
  if (isEarly && isLate) return { instantMs: early > afterMs ? early : late };
  if (isEarly) return { instantMs: early };
  if (isLate) return { instantMs: late };
  return { resumeWallMs: changeBetween(zone, late, early) + behind };
}

/** The instant at which the offset changes. */
function changeBetween(zone: string | undefined, fromMs: number, untilMs: number): number {
  const old = offsetMs(zone, fromMs);
  let low = Math.floor(fromMs / SECOND);
  let high = Math.ceil(untilMs / SECOND);
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (offsetMs(zone, middle * SECOND) === old) low = middle;
    else high = middle;
  }
  return high * SECOND;
}
