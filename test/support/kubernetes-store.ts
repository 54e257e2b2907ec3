/** The objects of a cluster for tests: what the API server does with them before and after it stores them. */

import { createHash, randomUUID } from 'node:crypto';
import { conflictsOf, leaves, merged, without } from './kubernetes-apply.ts';
import type { Fields } from './kubernetes-apply.ts';
import { KNATIVE, isKnative, knativeRefusal, withKnativeDefaults } from './kubernetes-knative.ts';
import { invalidity, unknownFields } from './kubernetes-schema.ts';

export interface ObjectMeta {
  name: string;
  namespace?: string;
  uid: string;
  resourceVersion: string;
  generation?: number;
  creationTimestamp: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: { readonly uid: string }[];
}

export interface StoredObject extends Fields {
  apiVersion: string;
  kind: string;
  metadata: ObjectMeta;
}

export interface Resource {
  readonly kind: string;
  readonly apiVersion: string;
  readonly plural: string;
  readonly shortName: string;
}

export const RESOURCES: readonly Resource[] = [
  { kind: 'ConfigMap', apiVersion: 'v1', plural: 'configmaps', shortName: 'cm' },
  { kind: 'Secret', apiVersion: 'v1', plural: 'secrets', shortName: 'secret' },
  { kind: 'Service', apiVersion: 'v1', plural: 'services', shortName: 'svc' },
  { kind: 'Pod', apiVersion: 'v1', plural: 'pods', shortName: 'po' },
  { kind: 'PersistentVolumeClaim', apiVersion: 'v1', plural: 'persistentvolumeclaims', shortName: 'pvc' },
  { kind: 'Deployment', apiVersion: 'apps/v1', plural: 'deployments', shortName: 'deploy' },
  { kind: 'Job', apiVersion: 'batch/v1', plural: 'jobs', shortName: 'job' },
  { kind: 'CronJob', apiVersion: 'batch/v1', plural: 'cronjobs', shortName: 'cj' },
  { kind: 'NetworkPolicy', apiVersion: 'networking.k8s.io/v1', plural: 'networkpolicies', shortName: 'netpol' },
  { kind: 'Service', apiVersion: KNATIVE, plural: 'services', shortName: 'ksvc' },
  { kind: 'Revision', apiVersion: KNATIVE, plural: 'revisions', shortName: 'rev' },
];

/** The kind, with a prefix where another one has its name: `KnativeService`, `KnativeRevision`. */
export function kindOf(object: { readonly apiVersion: string; readonly kind: string }): string {
  return `${isKnative(object) ? 'Knative' : ''}${object.kind}`;
}

/** An answer of the API server that is no success. */
export class Refusal extends Error {
  readonly status: number;
  readonly reason: string;
  readonly causes: readonly object[];
  /** Of the object that it is about. */
  readonly about: string | undefined;

  constructor(
    status: number,
    reason: string,
    { message, causes = [], about }: { readonly message: string; readonly causes?: readonly object[]; readonly about?: string },
  ) {
    super(message);
    this.about = about;
    this.status = status;
    this.reason = reason;
    this.causes = causes;
  }
}

export interface WriteOptions {
  readonly manager: string;
  readonly dryRun: boolean;
  readonly strict: boolean;
  readonly force?: boolean;
}

const MAP_BYTES_MAX = 1_024 * 1_024;
const LABEL = /^(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$/;
const SUBDOMAIN = /^[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?$/;
const DNS_LABEL = /^[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?$/;

export class Store {
  readonly objects = new Map<string, StoredObject>();
  readonly #owners = new Map<string, Map<string, Set<string>>>();
  #version = 0;

  key({ plural, apiVersion }: Resource, namespace: string, name: string): string {
    return `${apiVersion === KNATIVE ? 'knative-' : ''}${plural}/${namespace}/${name}`;
  }

  of(kind: string, namespace?: string): StoredObject[] {
    return [...this.objects.values()]
      .filter((each) => kindOf(each) === kind && (namespace === undefined || each.metadata.namespace === namespace))
      .toSorted((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  }

  find(kind: string, namespace: string, name: string): StoredObject | undefined {
    return this.of(kind, namespace).find(({ metadata }) => metadata.name === name);
  }

  apply(
    resource: Resource,
    { namespace, name }: { readonly namespace: string; readonly name: string },
    applied: Fields,
    options: WriteOptions,
  ): { readonly object: StoredObject; readonly isNew: boolean } {
    const metadata = (applied['metadata'] ?? {}) as Partial<ObjectMeta>;
    checkHead(resource, applied, { namespace, name });
    if (options.strict) checkStrict(applied);
    const key = this.key(resource, namespace, name);
    const live = this.objects.get(key);
    const owners = this.#owners.get(key) ?? new Map<string, Set<string>>();
    const { apiVersion: _, kind: __, metadata: ___, ...rest } = applied;
    const { name: ____, namespace: _____, ...meta } = metadata;
    const owned = { ...rest, metadata: meta };
    const others = new Map([...owners].filter(([manager]) => manager !== options.manager));
    const conflicts = live && !options.force ? conflictsOf(owned, live, others) : [];
    if (conflicts.length > 0) {
      const causes = conflicts.map(({ manager, field }) => ({
        reason: 'FieldManagerConflict',
        message: `conflict with "${manager}"`,
        field,
      }));
      const message = `Apply failed with ${conflicts.length} conflict${conflicts.length > 1 ? 's' : ''}: ${conflicts.map(({ manager, field }) => `conflict with "${manager}": ${field}`).join(', ')}`;
      throw new Refusal(409, 'Conflict', { message, causes });
    }
    const mine = new Set(leaves(owned).keys());
    const gone = new Set(
      [...(owners.get(options.manager) ?? [])].filter(
        (field) => !mine.has(field) && ![...others.values()].some((fields) => fields.has(field)),
      ),
    );
    const kept = live ? (without(live, gone) as StoredObject) : undefined;
    const object = merged(kept ?? {}, { ...applied, metadata: { ...metadata, namespace } }) as StoredObject;
    const stored = this.#store(resource, key, { live, object, dryRun: options.dryRun });
    if (!options.dryRun) {
      owners.set(options.manager, mine);
      this.#owners.set(key, owners);
    }
    return { object: stored, isNew: live === undefined };
  }

  create(resource: Resource, namespace: string, object: Fields, options: WriteOptions): StoredObject {
    const metadata = (object['metadata'] ?? {}) as Partial<ObjectMeta>;
    const name = metadata.name ?? '';
    checkHead(resource, object, { namespace, name });
    if (options.strict) checkStrict(object);
    const key = this.key(resource, namespace, name);
    if (this.objects.has(key)) throw new Refusal(409, 'AlreadyExists', { message: `${resource.plural} "${name}" already exists` });
    const stored = this.#store(resource, key, {
      live: undefined,
      object: { ...object, metadata: { ...metadata, namespace } } as StoredObject,
      dryRun: options.dryRun,
    });
    if (!options.dryRun) this.#owners.set(key, new Map([[options.manager, new Set(leaves(object).keys())]]));
    return stored;
  }

  /** Somebody changes fields of an object that is there; from then on they are his. */
  edit(
    resource: Resource,
    { namespace, name }: { readonly namespace: string; readonly name: string },
    change: Fields,
    manager: string,
  ): StoredObject {
    const key = this.key(resource, namespace, name);
    const live = this.objects.get(key);
    if (!live) throw new Refusal(404, 'NotFound', { message: `${resource.plural} "${name}" not found`, about: name });
    const stored = this.#store(resource, key, { live, object: merged(live, change) as StoredObject, dryRun: false });
    const changed = new Set(leaves(change).keys());
    const owners = this.#owners.get(key) ?? new Map<string, Set<string>>();
    for (const fields of owners.values()) for (const field of changed) fields.delete(field);
    owners.set(manager, changed);
    this.#owners.set(key, owners);
    return stored;
  }

  /** With all that belongs to it. Gives what was deleted. */
  delete(
    resource: Resource,
    { namespace, name }: { readonly namespace: string; readonly name: string },
    uid?: string,
  ): readonly StoredObject[] {
    const key = this.key(resource, namespace, name);
    const object = this.objects.get(key);
    if (!object) throw new Refusal(404, 'NotFound', { message: `${resource.plural} "${name}" not found`, about: name });
    if (uid !== undefined && uid !== object.metadata.uid)
      throw new Refusal(409, 'Conflict', {
        message: `Precondition failed: UID in precondition: ${uid}, UID in object meta: ${object.metadata.uid}`,
      });
    return this.#collect(key, object);
  }

  /** What a controller makes. */
  make(resource: Resource, namespace: string, object: Fields): StoredObject {
    const { metadata, ...rest } = object as unknown as StoredObject;
    const { kind, apiVersion } = resource;
    const stored = { ...rest, kind, apiVersion, metadata: { ...metadata, namespace } } as StoredObject;
    return this.#store(resource, this.key(resource, namespace, metadata.name), { live: undefined, object: stored, dryRun: false });
  }

  /** Not a change by anybody: what controllers say. */
  setStatus(object: StoredObject, status: object): void {
    object['status'] = status;
    this.#version += 1;
    object.metadata.resourceVersion = String(this.#version);
  }

  get version(): string {
    return String(this.#version);
  }

  #collect(key: string, object: StoredObject): readonly StoredObject[] {
    this.objects.delete(key);
    this.#owners.delete(key);
    const owned = [...this.objects].filter(([, { metadata }]) => metadata.ownerReferences?.some(({ uid }) => uid === object.metadata.uid));
    return [object, ...owned.flatMap(([each, inner]) => (this.objects.has(each) ? this.#collect(each, inner) : []))];
  }

  #store(
    resource: Resource,
    key: string,
    { live, object, dryRun }: { readonly live: StoredObject | undefined; readonly object: StoredObject; readonly dryRun: boolean },
  ): StoredObject {
    const filled = withDefaults(object);
    const wrong = invalidity(stripped(filled));
    if (wrong !== undefined)
      throw new Refusal(422, 'Invalid', { message: `${resource.kind} "${object.metadata.name}" is invalid: ${wrong}` });
    checkRules(filled, live);
    const orphaned = filled.metadata.ownerReferences?.find(
      ({ uid }) => ![...this.objects.values()].some(({ metadata }) => metadata.uid === uid),
    );
    if (orphaned && !dryRun)
      throw new Refusal(422, 'Invalid', { message: `the owner ${orphaned.uid} is not there: the object would be collected` });
    const isSame = live !== undefined && canonical({ ...filled, status: 0 }) === canonical({ ...live, status: 0 });
    if (isSame) return live;
    const isSpecOther = live === undefined || canonical(filled['spec']) !== canonical(live['spec']);
    const metadata: ObjectMeta = {
      ...filled.metadata,
      uid: live?.metadata.uid ?? randomUUID(),
      creationTimestamp: live?.metadata.creationTimestamp ?? new Date().toISOString().replace(/\.\d+/, ''),
      resourceVersion: String(this.#version + 1),
      ...(filled['spec'] !== undefined && { generation: (live?.metadata.generation ?? 0) + (isSpecOther ? 1 : 0) }),
    };
    const stored: StoredObject = { ...filled, metadata };
    if (dryRun) return stored;
    this.#version += 1;
    this.objects.set(key, stored);
    return stored;
  }
}

/** What the server adds is not what a user writes. */
function stripped({ status: _, ...object }: StoredObject): Fields {
  return object;
}

function checkHead(resource: Resource, object: Fields, { namespace, name }: { readonly namespace: string; readonly name: string }): void {
  if (object['kind'] !== resource.kind || object['apiVersion'] !== resource.apiVersion)
    throw new Refusal(400, 'BadRequest', {
      message: `the object is ${String(object['apiVersion'])} ${String(object['kind'])}, the path is of ${resource.apiVersion} ${resource.kind}`,
    });
  const metadata = (object['metadata'] ?? {}) as Partial<ObjectMeta>;
  if (metadata.name !== name || (metadata.namespace ?? namespace) !== namespace)
    throw new Refusal(400, 'BadRequest', { message: 'name and namespace of the object are not those of the path' });
}

function checkStrict(object: Fields): void {
  const unknown = unknownFields(object);
  if (unknown.length > 0)
    throw new Refusal(400, 'BadRequest', {
      message: `strict decoding error: ${unknown.map((field) => `unknown field "${field}"`).join(', ')}`,
    });
}

function checkRules(object: StoredObject, live: StoredObject | undefined): void {
  const { kind, metadata } = object;
  const denied = kindOf(object) === 'KnativeService' ? knativeRefusal(object, live) : undefined;
  if (denied !== undefined)
    throw new Refusal(400, 'BadRequest', {
      message: `admission webhook "validation.webhook.serving.knative.dev" denied the request: ${denied}`,
    });
  const wrong = (field: string, why: string): Refusal =>
    new Refusal(422, 'Invalid', {
      message: `${kind} "${metadata.name}" is invalid: ${field}: ${why}`,
      causes: [{ reason: 'FieldValueInvalid', message: why, field }],
    });
  if (!(kind === 'Service' ? DNS_LABEL : SUBDOMAIN).test(metadata.name))
    throw wrong('metadata.name', 'a lowercase RFC 1123 name is wanted');
  for (const [key, value] of Object.entries(metadata.labels ?? {}))
    if (!LABEL.test(value)) throw wrong(`metadata.labels[${key}]`, `${value} is no label`);
  if (kind === 'ConfigMap' || kind === 'Secret') checkData(object, live, wrong);
  if (kind === 'CronJob') checkCronJob(object, wrong);
  if (kind === 'Deployment') checkDeployment(object, live, wrong);
  if (kind === 'Job' && live && canonical((object['spec'] as Fields)['template']) !== canonical((live['spec'] as Fields)['template']))
    throw wrong('spec.template', 'field is immutable');
}

type Wrong = (field: string, why: string) => Refusal;

function checkData(object: StoredObject, live: StoredObject | undefined, wrong: Wrong): void {
  const { data = {}, binaryData = {} } = object as { data?: Record<string, string>; binaryData?: Record<string, string> };
  const isSecret = object.kind === 'Secret';
  const bytes = [
    ...Object.values(data).map((each) => Buffer.byteLength(each, isSecret ? 'base64' : 'utf8')),
    ...Object.values(binaryData).map((each) => Buffer.byteLength(each, 'base64')),
  ];
  if (bytes.reduce((sum, each) => sum + each, 0) > MAP_BYTES_MAX)
    throw new Refusal(422, 'Invalid', { message: `[]: Too long: may not be more than ${MAP_BYTES_MAX} bytes` });
  const isOther = live && canonical([live['data'], live['binaryData']]) !== canonical([object['data'], object['binaryData']]);
  if (live?.['immutable'] === true && isOther) throw wrong('data', 'field is immutable when `immutable` is set');
}

function checkCronJob(object: StoredObject, wrong: Wrong): void {
  const { schedule, timeZone } = object['spec'] as { schedule: string; timeZone?: string };
  if (object.metadata.name.length > 52) throw wrong('metadata.name', 'must be no more than 52 characters');
  if (schedule.trim().split(/\s+/).length !== 5 && !schedule.startsWith('@'))
    throw wrong('spec.schedule', `expected exactly 5 fields: ${schedule}`);
  if (timeZone === undefined) return;
  try {
    new Intl.DateTimeFormat('en', { timeZone });
  } catch {
    throw wrong('spec.timeZone', `unknown time zone ${timeZone}`);
  }
}

function checkDeployment(object: StoredObject, live: StoredObject | undefined, wrong: Wrong): void {
  const { selector, template } = object['spec'] as {
    selector: { matchLabels: Record<string, string> };
    template: { metadata: { labels?: Record<string, string> } };
  };
  if (Object.entries(selector.matchLabels).some(([key, value]) => template.metadata.labels?.[key] !== value))
    throw wrong('spec.template.metadata.labels', '`selector` does not match template `labels`');
  if (live && canonical((live['spec'] as Fields)['selector']) !== canonical(selector)) throw wrong('spec.selector', 'field is immutable');
}

/** Some of what the API server fills in: enough that what is there is more than what was applied. */
function withDefaults(object: StoredObject): StoredObject {
  if (isKnative(object)) return withKnativeDefaults(object);
  const spec = object['spec'] as Fields | undefined;
  if (object.kind === 'Service' && spec)
    return {
      ...object,
      spec: { clusterIP: '10.0.0.1', internalTrafficPolicy: 'Cluster', ipFamilies: ['IPv4'], sessionAffinity: 'None', ...spec },
    };
  if (object.kind === 'Deployment' && spec)
    return { ...object, spec: { replicas: 1, ...spec, template: templateWithDefaults(spec['template'] as Fields) } };
  if (object.kind === 'CronJob' && spec) return { ...object, spec: { suspend: false, ...spec } };
  return object;
}

function templateWithDefaults(template: Fields): Fields {
  const spec = template['spec'] as Fields & { containers: Fields[] };
  const containers = spec.containers.map((each) => ({
    terminationMessagePath: '/dev/termination-log',
    terminationMessagePolicy: 'File',
    ...each,
  }));
  return {
    ...template,
    spec: { dnsPolicy: 'ClusterFirst', schedulerName: 'default-scheduler', restartPolicy: 'Always', ...spec, containers },
  };
}

function canonical(value: unknown): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? '';
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
  return `{${Object.entries(value)
    .filter(([, each]) => each !== undefined)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, each]) => `${JSON.stringify(key)}:${canonical(each)}`)
    .join()}}`;
}

export function hashOf(value: unknown): string {
  return createHash('sha256').update(canonical(value)).digest('hex').slice(0, 10);
}
