import { hash } from 'node:crypto';

/**
 * All of them, the home of the key first (highest random weight of key and address): one that goes gives its keys to the others evenly, one that
 * comes takes its part from all, and no other key moves. The same on every worker.
 */
export function homeFirst<T extends { readonly url: string }>(key: string, all: readonly T[]): T[] {
  const scored = all.map((one) => ({ one, score: hash('sha256', `${key}\n${one.url}`, 'hex') }));
  return scored.toSorted((left, right) => (left.score < right.score ? -1 : 1)).map(({ one }) => one);
}
