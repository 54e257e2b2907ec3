/** Names and tags of what is made on AWS: the same for the same function, so that everything is found again. Pure. */

import { createHash } from 'node:crypto';
import { RunnerError } from '../../src/plugin.ts';

/** On everything that can be tagged. */
export const MANAGED = { key: 'managed-by', value: 'blueprint-runner' } as const;
/** Of a role, a queue, a layer: whose it is. */
export const OWNER_TAG = 'blueprint-runner:function';
/** Of a function: the aliases that calls go to, the current one first. */
export const ALIAS_TAG = 'blueprint-runner:alias';
/** Of a function: what belongs to it elsewhere, `rules`, `scheduler:<group>`, `logs`, `provisioned`, `role`. Never less than there is. */
export const PARTS_TAG = 'blueprint-runner:parts';
/** Of a function: hashes of the keys of the user's tags; of a role: of its managed policies. */
export const KEYS_TAG = 'blueprint-runner:keys';

const QUEUE_SUFFIX = '-dead-letters';
const ROLE_LENGTH_MAX = 64;
const SCHEDULE_FUNCTION_LENGTH = 20;
/** So that a schedule's own name fits behind its prefix in the 64 characters that EventBridge allows. */
export const SCHEDULE_NAME_LENGTH_MAX = 31;

const sha = (text: string): string => createHash('sha256').update(text).digest('hex');

/** IAM is global, functions are not: the region is part of the name. */
export function roleName(functionName: string, region: string, purpose: 'role' | 'schedules'): string {
  const suffix = `-${region}-${purpose}`;
  const name = `${functionName}${suffix}`;
  if (name.length <= ROLE_LENGTH_MAX) return name;
  const hash = sha(functionName).slice(0, 8);
  return `${functionName.slice(0, ROLE_LENGTH_MAX - suffix.length - hash.length - 1)}-${hash}${suffix}`;
}

/** What OWNER_TAG says. */
export const ownerOf = (functionName: string, region: string): string => `${region}/${functionName}`;

/** What the names of all schedules of a function begin with, and those of no other. */
export function schedulePrefix(functionName: string): string {
  return `${functionName.slice(0, SCHEDULE_FUNCTION_LENGTH)}-${sha(functionName).slice(0, 8)}-`;
}

export const queueName = (functionName: string): string => `${functionName.slice(0, 64)}${QUEUE_SUFFIX}`;

/** Short for a tag, which holds at most 256 characters. */
const mark = (text: string): string => sha(text).slice(0, 6);
export const marksOf = (texts: Iterable<string>): string => [...new Set([...texts].map(mark))].toSorted().join('.');
export const hasMark = (marks: string | undefined, text: string): boolean => (marks ?? '').split('.').includes(mark(text));
/** Of so many a tag can tell. */
export const MARKS_MAX = 36;

export const isManaged = (tags: Readonly<Record<string, string | undefined>> | undefined): boolean => tags?.[MANAGED.key] === MANAGED.value;

/** As IAM and others list them. */
export function tagMap(
  list: readonly { readonly Key?: string | undefined; readonly Value?: string | undefined }[] | undefined,
): Readonly<Record<string, string>> {
  return Object.fromEntries((list ?? []).flatMap(({ Key, Value }) => (Key === undefined ? [] : [[Key, Value ?? '']])));
}

export const tagList = (tags: Readonly<Record<string, string>>): { Key: string; Value: string }[] =>
  Object.entries(tags).map(([Key, Value]) => ({ Key, Value }));

export const words = (text: string | undefined): readonly string[] => (text ?? '').split(' ').filter((word) => word !== '');

/** The last part of an ARN: `role/x` and `function:x` both end in `x`. */
export const lastOf = (arn: string): string => arn.split(/[:/]/).at(-1) ?? '';

/** The hexadecimal hash as AWS writes it, and back. That of an image AWS writes hexadecimal, too. */
export const toBase64 = (hex: string): string => Buffer.from(hex, 'hex').toString('base64');
export const toHex = (hash: string | undefined): string | undefined => {
  if (hash === undefined || hash === '') return undefined;
  return /^[0-9a-f]{64}$/.test(hash) ? hash : Buffer.from(hash, 'base64').toString('hex');
};

export function foreign(kind: string, name: string): RunnerError {
  const message = `there is a ${kind} ${name} that this tool did not make (it has no tag ${MANAGED.key}=${MANAGED.value} for this function); it is left alone: choose another name, or remove it`;
  return new RunnerError('RESOURCE_FOREIGN', message, { details: { kind, name } });
}

/** JSON with sorted keys: the same text for the same value. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}

export const isSame = (a: unknown, b: unknown): boolean => canonical(a) === canonical(b);
