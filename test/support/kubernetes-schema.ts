/** What the API server checks of an object: types and values by `kubernetes-models`, and fields that no schema has. */

import { isKnative, knativeInvalidity, unknownKnativeFields } from './kubernetes-knative.ts';
import type { Fields } from './kubernetes-apply.ts';
import { Deployment } from 'kubernetes-models/apps/v1/Deployment';
import { CronJob } from 'kubernetes-models/batch/v1/CronJob';
import { Job } from 'kubernetes-models/batch/v1/Job';
import { NetworkPolicy } from 'kubernetes-models/networking.k8s.io/v1/NetworkPolicy';
import { ConfigMap } from 'kubernetes-models/v1/ConfigMap';
import { PersistentVolumeClaim } from 'kubernetes-models/v1/PersistentVolumeClaim';
import { Pod } from 'kubernetes-models/v1/Pod';
import { Secret } from 'kubernetes-models/v1/Secret';
import { Service } from 'kubernetes-models/v1/Service';
import { Namespace } from 'kubernetes-models/v1/Namespace';

interface Model {
  validate(): void;
}

// The shape of an object is what is checked here: anything may come in.
const MODELS: Readonly<Record<string, new (data?: never) => Model>> = {
  ConfigMap,
  CronJob,
  Deployment,
  Job,
  Namespace,
  NetworkPolicy,
  PersistentVolumeClaim,
  Pod,
  Secret,
  Service,
};

/** What is wrong with the types and values of an object; undefined when nothing is. */
export function invalidity(object: unknown): string | undefined {
  if (isKnative(object)) return knativeInvalidity(object as Fields);
  const { kind } = object as { readonly kind: string };
  const Made = MODELS[kind];
  if (!Made) return `no matches for kind ${kind}`;
  try {
    new Made(object as never).validate();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/**
 * The paths of fields that the schema of the kind does not know. A validator reads every field that it knows, so the others are those that
 * it never asked for.
 */
export function unknownFields(object: unknown): readonly string[] {
  if (isKnative(object)) return unknownKnativeFields(object);
  const { kind } = object as { readonly kind: string };
  const Made = MODELS[kind];
  if (!Made) return ['kind'];
  const read = new Set<string>();
  try {
    // The methods of a model work on what they are called with.
    new Made().validate.call(watched(object, '', read) as Model);
  } catch {
    // What is wrong otherwise is told by `invalidity`.
  }
  return unread(object, '', read);
}

function watched(value: unknown, path: string, read: Set<string>): unknown {
  if (typeof value !== 'object' || value === null) return value;
  const inner = new Map<PropertyKey, unknown>();
  return new Proxy(value, {
    get(target, key) {
      const found: unknown = Reflect.get(target, key);
      if (typeof key === 'symbol' || (Array.isArray(target) && key === 'length')) return found;
      const place = Array.isArray(target) ? `${path}[${key}]` : `${path}.${key}`;
      read.add(place);
      if (!inner.has(key)) inner.set(key, watched(found, place, read));
      return inner.get(key);
    },
  });
}

function unread(value: unknown, path: string, read: ReadonlySet<string>): readonly string[] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, each]) => {
    const place = Array.isArray(value) ? `${path}[${key}]` : `${path}.${key}`;
    if (!read.has(place)) return [place.slice(1)];
    return unread(each, place, read);
  });
}
