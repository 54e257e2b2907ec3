/** Functions as they are in the cluster. */

import { RunnerError } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionSchedule, FunctionState, FunctionVersionInfo } from '../../src/plugin.ts';
import type { Cluster, Fields, Kind, Manifest } from './client.ts';
import { ANNOTATION, LABEL, MANAGED_BY, labelsOf } from './pods.ts';
import type { Component } from './pods.ts';
import type { ClusterOptions } from './options.ts';

/** All that is there under the name of a function. */
export interface Present {
  readonly secret: Manifest | undefined;
  readonly deployment: Manifest | undefined;
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

export async function readFunction(cluster: Cluster, name: string, signal: AbortSignal | undefined): Promise<Present> {
  const [secret, deployment, service, cronJobs, code] = await Promise.all([
    cluster.get('Secret', name, signal),
    cluster.get('Deployment', name, signal),
    cluster.get('Service', name, signal),
    all(cluster.list('CronJob', { selector: selectorOf(name, 'schedule'), signal })),
    all(cluster.list('ConfigMap', { selector: selectorOf(name, 'code'), metadataOnly: true, signal })),
  ]);
  return { secret, deployment, service, cronJobs, code };
}

async function all(items: AsyncIterable<Manifest>): Promise<readonly Manifest[]> {
  const collected: Manifest[] = [];
  for await (const each of items) collected.push(each);
  return collected;
}

/** Throws `RESOURCE_FOREIGN` when something of that name belongs to somebody else. */
export function checkOwner(name: string, { secret, deployment, service }: Present): void {
  for (const object of [deployment, service, secret]) {
    if (!object || isOurs(object)) continue;
    // Objects inside of a list have no kind; these were read one by one.
    const kind = object.kind as Kind;
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

export function versionInfos(present: Present): readonly FunctionVersionInfo[] {
  const running = present.deployment && packageOf(present.deployment);
  return versionsIn(present)
    .filter(({ maps, parts }) => maps.length === parts)
    .map(({ number, sha256, createdAt }) => ({
      version: String(number),
      sha256,
      ...(createdAt !== undefined && { createdAt }),
      current: sha256 === running,
    }));
}

/** What the pods of a Deployment run. */
export function packageOf(deployment: Manifest): string | undefined {
  return templateOf(deployment).metadata?.annotations?.[ANNOTATION.sha256];
}

interface Template {
  readonly metadata?: { readonly annotations?: Readonly<Record<string, string>> };
  readonly spec?: {
    readonly containers?: readonly { readonly image?: string; readonly resources?: { readonly limits?: { readonly memory?: string } } }[];
  };
}

function templateOf({ spec }: Manifest): Template {
  // A Deployment of the API server has a template.
  return (spec as { readonly template?: Template } | undefined)?.template ?? {};
}

/** What was asked for, and the memory as it is. */
export function configOf({ secret, deployment, cronJobs }: Partial<Present>): FunctionConfig {
  // We wrote it.
  const asked = JSON.parse(deployment?.metadata.annotations?.[ANNOTATION.config] ?? '{}') as FunctionConfig;
  const memory = deployment && /^(\d+)Mi$/.exec(templateOf(deployment).spec?.containers?.[0]?.resources?.limits?.memory ?? '')?.[1];
  const data = Object.entries((secret?.['data'] ?? {}) as Readonly<Record<string, string>>);
  const schedules = schedulesIn(cronJobs ?? []);
  return {
    ...asked,
    ...(asked.memoryMb !== undefined && memory !== undefined && memory !== null && { memoryMb: Number(memory) }),
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
  readonly options: ClusterOptions;
  readonly namespace: string;
}

/** Undefined when no Deployment is there. */
export function stateOf(name: string, present: Partial<Present>, { options, namespace }: StateOptions): FunctionState | undefined {
  const { deployment, cronJobs = [], code = [], secret, service } = present;
  if (!deployment) return undefined;
  const isForeign = !isOurs(deployment);
  const { status, reason } = rolloutOf(deployment);
  const sha256 = packageOf(deployment);
  const version = versionsIn({ code } as Present).find((each) => each.sha256 === sha256)?.number;
  const { metadata } = deployment;
  return {
    name,
    id: `${namespace}/${name}`,
    status: isForeign ? 'foreign' : status,
    ...(reason !== undefined && !isForeign && { reason }),
    endpoint: `http://${name}.${namespace}.svc`,
    ...(sha256 !== undefined && !isForeign && { sha256 }),
    ...(version !== undefined && { version: String(version) }),
    ...(metadata.creationTimestamp !== undefined && { updatedAt: updatedAt(deployment) }),
    config: isForeign ? {} : configOf(present),
    executor: {
      use: 'kubernetes',
      options: { function: name, namespace, ...(options.context !== undefined && { context: options.context }) },
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
  const last = conditions.map(({ lastUpdateTime }) => lastUpdateTime).findLast((time) => typeof time === 'string');
  return typeof last === 'string' ? last : (metadata.creationTimestamp ?? '');
}
