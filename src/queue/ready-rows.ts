/** The ready jobs of an embedded queue as the claims of one transaction get them: few queries, however many claims there are. */

import type { SQLOutputValue, StatementSync } from 'node:sqlite';
import type { ClaimedJob, Content, Headers, Lease } from './queue.ts';
import { bytesOf, headersOf, numberOf, referenceOf } from './rows.ts';

/** Rows that one query reads for claims that come later. */
const AHEAD_MAX = 64;

export interface ReadyRow {
  readonly seq: number;
  readonly id: string;
  readonly type: string;
  readonly priority: number;
  readonly requires: string;
  readonly attempts: number;
  readonly attemptsMax: number;
  readonly deadLetter: boolean;
  readonly publishedAt: number;
  readonly deadline: number | undefined;
  readonly headers: Headers;
  /** Undefined when it lies in the table of bodies. */
  readonly payload: Content | undefined;
}

/** What the worker gets. */
export function claimedOf(
  { id, type, headers, priority, requires, attemptsMax, publishedAt, deadline }: ReadyRow,
  { payload, attempt, lease }: { readonly payload: Content; readonly attempt: number; readonly lease: Lease },
): ClaimedJob {
  return {
    id,
    type,
    payload,
    headers,
    priority,
    requires: requires === '' ? [] : requires.split(' '),
    attempt,
    attemptsMax,
    publishedAt,
    ...(deadline !== undefined && { deadline }),
    lease,
  };
}

interface Lane {
  /** In order. */
  readonly rows: ReadyRow[];
  /** There are no others. */
  readonly isWhole: boolean;
}

/** Of one transaction in which nothing else changes: whoever takes rows makes them claimed before the next ones are taken. */
export class ReadyRows {
  readonly #next: StatementSync;
  readonly #lanes = new Map<string, Lane>();

  /** `next` selects the first rows of a lane, as arrays of the columns of `rowOf`. */
  constructor(next: StatementSync) {
    this.#next = next;
  }

  /** The first `max` of these lanes together. `wanted`: so many may be asked for from here on. */
  take(names: readonly string[], max: number, wanted: number): ReadyRow[] {
    const lanes = names.map((requires) => this.#lane(requires, max, wanted));
    const taken: ReadyRow[] = [];
    while (taken.length < max) {
      const row = firstOf(lanes)?.rows.shift();
      if (!row) break;
      taken.push(row);
    }
    return taken;
  }

  /** What was taken last, and is not to be claimed. */
  giveBack(rows: readonly ReadyRow[]): void {
    for (const row of rows.toReversed()) this.#lanes.get(row.requires)?.rows.unshift(row);
  }

  #lane(requires: string, max: number, wanted: number): Lane {
    const known = this.#lanes.get(requires);
    if (known && (known.isWhole || known.rows.length >= max)) return known;
    const limit = Math.max(max, Math.min(wanted, AHEAD_MAX));
    // The statement returns arrays.
    const found = this.#next.all(requires, limit) as unknown as readonly (readonly SQLOutputValue[])[];
    const lane = { rows: found.map((columns) => rowOf(columns)), isWhole: found.length < limit };
    this.#lanes.set(requires, lane);
    return lane;
  }
}

/** The one whose first row comes first. */
function firstOf(lanes: readonly Lane[]): Lane | undefined {
  let best: Lane | undefined;
  for (const lane of lanes) {
    const [row] = lane.rows;
    const other = best?.rows[0];
    if (row && (!other || row.priority > other.priority || (row.priority === other.priority && row.seq < other.seq))) best = lane;
  }
  return best;
}

function rowOf(columns: readonly SQLOutputValue[]): ReadyRow {
  const [seq, id, type, priority, requires, attempts, attemptsMax, deadLetter, publishedAt, deadline, headers, reference, payload] =
    columns;
  return {
    seq: Number(seq),
    id: String(id),
    type: String(type),
    priority: Number(priority),
    requires: String(requires),
    attempts: Number(attempts),
    attemptsMax: Number(attemptsMax),
    deadLetter: deadLetter === 1,
    publishedAt: Number(publishedAt),
    deadline: numberOf(deadline),
    headers: headersOf(headers),
    payload: bytesOf(payload) ?? referenceOf(reference),
  };
}
