/**
 * Secrets of a Worker cannot be read again. So that a second deployment writes nothing, the Worker keeps a digest of each beside them,
 * keyed with a secret that only the deployer has: without it the digests say nothing, however short a secret is.
 */

import { createHmac } from 'node:crypto';
import { SCHEDULES_VARIABLE } from './schedules.ts';

/** What the handler asks of its callers. */
export const TOKEN_VARIABLE = 'BLUEPRINT_TOKEN';
/** Names of secrets and their digests, as JSON. */
export const DIGESTS_VARIABLE = 'BLUEPRINT_SECRETS';
/** Variables that the deployer makes. */
export const RESERVED: readonly string[] = [SCHEDULES_VARIABLE, DIGESTS_VARIABLE, TOKEN_VARIABLE];

const DIGEST_CHARACTERS = 32;

export type Digests = Readonly<Record<string, string>>;

export function digestOf(key: string, name: string, value: string): string {
  return createHmac('sha256', key).update(`${name}\0${value}`).digest('hex').slice(0, DIGEST_CHARACTERS);
}

/** Of the variable; what is no such thing is nothing. */
export function digestsIn(variable: string | undefined): Digests {
  try {
    const value: unknown = JSON.parse(variable ?? '{}');
    const entries = typeof value === 'object' && value !== null ? Object.entries(value) : [];
    return Object.fromEntries(entries.flatMap(([name, digest]) => (typeof digest === 'string' ? [[name, digest]] : [])));
  } catch {
    return {};
  }
}
