/** Server-side apply for tests: who manages which field, and what becomes of an object. */

import { isDeepStrictEqual } from 'node:util';

export type Fields = Record<string, unknown>;

/** Lists that are merged by these keys; all others are replaced as a whole. */
const KEYS: Readonly<Record<string, readonly string[]>> = {
  containers: ['name'],
  initContainers: ['name'],
  env: ['name'],
  volumes: ['name'],
  volumeMounts: ['mountPath'],
  imagePullSecrets: ['name'],
  ownerReferences: ['uid'],
  ports: ['port', 'containerPort', 'protocol'],
};

export interface Conflict {
  readonly manager: string;
  readonly field: string;
}

/** The leaves of an object by their paths; elements of merged lists are named by their keys. */
export function leaves(value: unknown, path = '', name = ''): Map<string, unknown> {
  const found = new Map<string, unknown>();
  const isMerged = Array.isArray(value) && KEYS[name] !== undefined && value.length > 0;
  if (isMerged) {
    for (const element of value as Fields[])
      for (const [key, leaf] of leaves(element, `${path}[${keyOf(name, element)}]`)) found.set(key, leaf);
    return found;
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value) && Object.keys(value).length > 0) {
    for (const [key, each] of Object.entries(value))
      for (const [inner, leaf] of leaves(each, `${path}.${key.replaceAll('.', '\\.')}`, key)) found.set(inner, leaf);
    return found;
  }
  return found.set(path, value);
}

function keyOf(name: string, element: Fields): string {
  return (KEYS[name] ?? []).flatMap((key) => (element[key] === undefined ? [] : `${key}=${JSON.stringify(element[key])}`)).join(',');
}

/** The fields of others that this would change. */
export function conflictsOf(applied: unknown, live: unknown, owners: ReadonlyMap<string, ReadonlySet<string>>): readonly Conflict[] {
  const before = leaves(live);
  const conflicts: Conflict[] = [];
  for (const [field, value] of leaves(applied))
    for (const [manager, fields] of owners)
      if (fields.has(field) && !isDeepStrictEqual(before.get(field), value)) conflicts.push({ manager, field });
  return conflicts;
}

/** What is applied over what is there. */
export function merged(live: unknown, applied: unknown, name = ''): unknown {
  if (Array.isArray(applied) && Array.isArray(live) && KEYS[name]) {
    const result = [...(live as Fields[])];
    for (const element of applied as Fields[]) {
      const index = result.findIndex((each) => keyOf(name, each) === keyOf(name, element));
      if (index < 0) result.push(element);
      else result[index] = merged(result[index], element) as Fields;
    }
    return result;
  }
  if (isFields(applied) && isFields(live)) {
    const result: Fields = { ...live };
    for (const [key, value] of Object.entries(applied)) result[key] = merged(live[key], value, key);
    return result;
  }
  return applied;
}

/** Without the leaves that are in `gone`; what becomes empty by that goes, too. */
export function without(value: unknown, gone: ReadonlySet<string>, path = '', name = ''): unknown {
  if (gone.has(path)) return undefined;
  if (Array.isArray(value) && KEYS[name]) {
    const kept = (value as Fields[]).flatMap((element) => {
      const inner = without(element, gone, `${path}[${keyOf(name, element)}]`);
      const isLost =
        inner === undefined || (isFields(inner) && Object.keys(element).length > 0 && gone.has(`${path}[${keyOf(name, element)}].name`));
      return isLost ? [] : [inner];
    });
    return kept.length === 0 && value.length > 0 ? undefined : kept;
  }
  if (!isFields(value)) return value;
  const entries = Object.entries(value).flatMap(([key, each]) => {
    const inner = without(each, gone, `${path}.${key.replaceAll('.', '\\.')}`, key);
    return inner === undefined ? [] : [[key, inner] as const];
  });
  return entries.length === 0 && Object.keys(value).length > 0 ? undefined : Object.fromEntries(entries);
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
