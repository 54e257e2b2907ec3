/** One line of `bpr doctor`. */

export type Status = 'ok' | 'warn' | 'fail';

export interface Check {
  readonly name: string;
  readonly status: Status;
  /** What was looked at. */
  readonly source?: string;
  /** What was found, with values. */
  readonly detail: string;
  /** Of what is not ok. */
  readonly remedy?: string;
}

/** A line whose verdict is a decision: the first that applies. */
export function verdict(
  subject: Pick<Check, 'name' | 'detail'> & { readonly source: string },
  cases: readonly (readonly [applies: boolean, status: 'warn' | 'fail', remedy: string])[],
): Check {
  const [, status, remedy] = cases.find(([applies]) => applies) ?? [];
  return status === undefined || remedy === undefined ? { ...subject, status: 'ok' } : { ...subject, status, remedy };
}
