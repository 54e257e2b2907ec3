/** Functions as they are in the cluster. */

import { RunnerError } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionSchedule, FunctionState, FunctionVersionInfo } from '../../src/plugin.ts';
import type { Cluster, Fields, Manifest } from './client.ts';
import { isKnative, knativeRollout, revisionNumber, runningAnnotations, wantedRevision } from './knative.ts';
import { ANNOTATION, LABEL, MANAGED_BY, labelsOf } from './pods.ts';
import type { Component } from './pods.ts';
import type { ClusterOptions, FunctionOptions } from './options.ts';

/** All that is there under the name of a function. */
export interface Present {
  readonly secret: Manifest | undefined;
  /** A Deployment, or a Service of Knative. */
  readonly workload: Manifest | undefined;
  /** Of a Service of Knative; without what they are made of. */
  readonly revisions: readonly Manifest[];
  readonly service: Manifest | undefined;
  readonly cronJobs: readonly Manifest[];
  /** Without their data. */
  readonly code: readonly Manifest[];
}

/** A package that is kept. */
export interface Version {
  readonly number: number;
  readonly sha256: string;
  readonly parts: number;
  readonly createdAt: string | undefined;
  /** Those of its parts that are there. */
  readonly maps: readonly string[];
}

export interface DeploymentStatus {
  readonly observedGeneration?: number;
  readonly replicas?: number;
  readonly updatedReplicas?: number;
  readonly availableReplicas?: number;
  readonly conditions?: readonly { readonly type: string; readonly status: string; readonly reason?: string; readonly message?: string }[];
}

export function selectorOf(name: string, component: Component): string {
  return Object.entries(labelsOf(name, component))
    .map(([key, value]) => `${key}=${value}`)
    .join(',');
}

export function isOurs({ metadata }: Manifest, component: Component = 'function'): boolean {
  return metadata.labels?.[LABEL.managedBy] === MANAGED_BY && metadata.labels[LABEL.component] === component;
}

export interface ReadOptions {
  readonly workload?: FunctionOptions['workload'];
  readonly signal: AbortSignal | undefined;
}

export async function readFunction(cluster: Cluster, name: string, { workload: what, signal }: ReadOptions): Promise<Present> {
  const isServed = what === 'knative';
  const [secret, workload, revisions, service, cronJobs, code] = await Promise.all([
    cluster.get('Secret', name, signal),
    cluster.get(isServed ? 'KnativeService' : 'Deployment', name, signal),
    isServed ? revisionsOf(cluster, name, signal) : [],
    cluster.get('Service', name, signal),
    all(cluster.list('CronJob', { selector: selectorOf(name, 'schedule'), signal })),
    all(cluster.list('ConfigMap', { selector: selectorOf(name, 'code'), metadataOnly: true, signal })),
  ]);
  // Knative makes one for its own Service.
  const isItsOwn = service?.metadata.ownerReferences?.some(({ apiVersion }) => apiVersion.startsWith('serving.knative.dev/'));
  return { secret, workload, revisions, service: isServed && isItsOwn ? undefined : service, cronJobs, code };
}

export function revisionsOf(cluster: Cluster, name: string, signal: AbortSignal | undefined): Promise<readonly Manifest[]> {
  return all(cluster.list('KnativeRevision', { selector: selectorOf(name, 'function'), metadataOnly: true, signal }));
}

async function all(items: AsyncIterable<Manifest>): Promise<readonly Manifest[]> {
  const collected: Manifest[] = [];
  for await (const each of items) collected.push(each);
  return collected;
}

/** Throws `RESOURCE_FOREIGN` when something of that name belongs to somebody else. */
export function checkOwner(name: string, { secret, workload, service }: Present, what?: FunctionOptions['workload']): void {
  if (what === 'knative' && service)
    throw new RunnerError(
      'RESOURCE_FOREIGN',
      `there is a Service ${name} that does not belong to Knative: remove it, or what it is for, or take another name`,
      { details: { kind: 'Service', name } },
    );
  for (const object of [workload, service, secret]) {
    if (!object || isOurs(object)) continue;
    const { kind } = object;
    throw new RunnerError('RESOURCE_FOREIGN', `somebody else made the ${kind} ${name}: it is left as it is`, { details: { kind, name } });
  }
}

/** The newest first. */
export function versionsIn({ code }: Present): readonly Version[] {
  const versions = new Map<number, Version>();
  for (const { metadata } of code) {
    const { annotations = {}, creationTimestamp } = metadata;
    const number = Number(annotations[ANNOTATION.version]);
    const known = versions.get(number);
    versions.set(number, {
      number,
      sha256: annotations[ANNOTATION.sha256] ?? '',
      parts: Number(annotations[ANNOTATION.parts]),
      createdAt: known?.createdAt ?? creationTimestamp,
      maps: [...(known?.maps ?? []), metadata.name],
    });
  }
  return [...versions.values()].toSorted((a, b) => b.number - a.number);
}

/** Of a Deployment the packages that are kept; of a Service of Knative its revisions whose package is kept. */
export function versionInfos(present: Present): readonly FunctionVersionInfo[] {
  const { workload, revisions } = present;
  const running = packageOf(present);
  if (workload && isKnative(workload)) {
    const kept = new Set(versionsIn(present).flatMap(({ maps, parts, sha256 }) => (maps.length === parts ? [sha256] : [])));
    const wanted = wantedRevision(workload);
    return revisions
      .toSorted((a, b) => revisionNumber(b.metadata.name) - revisionNumber(a.metadata.name))
      .flatMap(({ metadata: { name, annotations = {}, creationTimestamp } }) => {
        const sha256 = annotations[ANNOTATION.sha256];
        if (sha256 === undefined || !kept.has(sha256)) return [];
        const createdAt = creationTimestamp !== undefined && { createdAt: creationTimestamp };
        return [{ version: String(revisionNumber(name)), sha256, ...createdAt, current: name === wanted }];
      });
  }
  return versionsIn(present)
    .filter(({ maps, parts }) => maps.length === parts)
    .map(({ number, sha256, createdAt }) => ({
      version: String(number),
      sha256,
      ...(createdAt !== undefined && { createdAt }),
      current: sha256 === running,
    }));
}

/** What the pods run. */
export function packageOf({ workload, revisions = [] }: Partial<Present>): string | undefined {
  if (!workload) return undefined;
  const annotations = isKnative(workload) ? runningAnnotations(workload, revisions) : templateOf(workload).metadata?.annotations;
  return annotations?.[ANNOTATION.sha256];
}

interface Template {
  readonly metadata?: { readonly annotations?: Readonly<Record<string, string>> };
  readonly spec?: {
    readonly containers?: readonly { readonly image?: string; readonly resources?: { readonly limits?: { readonly memory?: string } } }[];
  };
}

export function templateOf({ spec }: Manifest): Template {
  // A Deployment of the API server has a template.
  return (spec as { readonly template?: Template } | undefined)?.template ?? {};
}

/** What was asked for, and the memory as it is. */
export function configOf({ secret, workload, revisions = [], cronJobs }: Partial<Present>): FunctionConfig {
  const isServed = workload && isKnative(workload);
  const annotations = isServed ? runningAnnotations(workload, revisions) : workload?.metadata.annotations;
  // We wrote it.
  const asked = JSON.parse(annotations?.[ANNOTATION.config] ?? '{}') as FunctionConfig;
  // Revisions do not change.
  const memory =
    workload && !isServed && /^(\d+)Mi$/.exec(templateOf(workload).spec?.containers?.[0]?.resources?.limits?.memory ?? '')?.[1];
  const data = Object.entries((secret?.['data'] ?? {}) as Readonly<Record<string, string>>);
  const schedules = schedulesIn(cronJobs ?? []);
  return {
    ...asked,
    ...(asked.memoryMb !== undefined && typeof memory === 'string' && { memoryMb: Number(memory) }),
    ...(data.length > 0 && {
      environment: Object.fromEntries(data.map(([key, value]) => [key, Buffer.from(value, 'base64').toString('utf8')])),
    }),
    ...(schedules.length > 0 && { schedules }),
  };
}

/** Several CronJobs may be one schedule. */
function schedulesIn(cronJobs: readonly Manifest[]): readonly FunctionSchedule[] {
  const texts = new Set(cronJobs.flatMap(({ metadata }) => metadata.annotations?.[ANNOTATION.schedule] ?? []));
  return [...texts].map((text) => JSON.parse(text) as FunctionSchedule).toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

export interface Rollout {
  readonly status: 'active' | 'busy' | 'failed';
  readonly reason?: string;
}

/** https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status */
export function rolloutOf(deployment: Manifest): Rollout {
  if (isKnative(deployment)) return knativeRollout(deployment);
  const { replicas: wanted = 1 } = (deployment['spec'] ?? {}) as { readonly replicas?: number };
  // A Deployment of the API server has this status.
  const status = (deployment['status'] ?? {}) as DeploymentStatus;
  if ((status.observedGeneration ?? 0) < (deployment.metadata.generation ?? 0)) return { status: 'busy' };
  const { replicas = 0, updatedReplicas = 0, availableReplicas = 0, conditions = [] } = status;
  if (updatedReplicas >= wanted && replicas === updatedReplicas && availableReplicas >= updatedReplicas) return { status: 'active' };
  const late = conditions.find(
    ({ type, status: is, reason }) => type === 'Progressing' && is === 'False' && reason === 'ProgressDeadlineExceeded',
  );
  if (late) return { status: 'failed', reason: late.message ?? 'the rollout took too long' };
  const refused = conditions.find(({ type, status: is }) => type === 'ReplicaFailure' && is === 'True');
  return refused ? { status: 'failed', reason: refused.message ?? 'the cluster makes no pods' } : { status: 'busy' };
}

export interface StateOptions {
  readonly options: ClusterOptions & Pick<FunctionOptions, 'workload'>;
  readonly namespace: string;
}

/** Undefined when nothing runs it. */
export function stateOf(name: string, present: Partial<Present>, { options, namespace }: StateOptions): FunctionState | undefined {
  const { workload, cronJobs = [], code = [], secret, service } = present;
  if (!workload) return undefined;
  const isForeign = !isOurs(workload);
  const { status, reason } = rolloutOf(workload);
  const sha256 = packageOf(present);
  const isServed = isKnative(workload);
  const version = isServed
    ? revisionNumber(wantedRevision(workload) ?? '')
    : versionsIn({ code } as Present).find((each) => each.sha256 === sha256)?.number;
  const { metadata } = workload;
  return {
    name,
    id: metadata.uid ?? `${namespace}/${name}`,
    status: isForeign ? 'foreign' : status,
    ...(reason !== undefined && !isForeign && { reason }),
    endpoint: `http://${name}.${namespace}.svc`,
    ...(sha256 !== undefined && !isForeign && { sha256 }),
    ...(version !== undefined && !isForeign && { version: String(version) }),
    ...(metadata.creationTimestamp !== undefined && { updatedAt: updatedAt(workload) }),
    config: isForeign ? {} : configOf(present),
    executor: {
      use: 'kubernetes',
      options: {
        function: name,
        namespace,
        ...(options.context !== undefined && { context: options.context }),
        ...(isServed && { workload: 'knative' }),
      },
      environment: ['KUBECONFIG'],
    },
    resources: isForeign
      ? []
      : [
          ...(secret ? [{ kind: 'Secret', id: name }] : []),
          ...(service ? [{ kind: 'Service', id: name }] : []),
          ...code.map((each) => ({ kind: 'ConfigMap', id: each.metadata.name })),
          ...cronJobs.map((each) => ({ kind: 'CronJob', id: each.metadata.name })),
        ],
  };
}

function updatedAt({ metadata, status }: Manifest): string {
  const { conditions = [] } = (status ?? {}) as { readonly conditions?: readonly Fields[] };
  const last = conditions
    .map(({ lastUpdateTime, lastTransitionTime }) => lastUpdateTime ?? lastTransitionTime)
    .findLast((time) => typeof time === 'string');
  return typeof last === 'string' ? last : (metadata.creationTimestamp ?? '');
}
