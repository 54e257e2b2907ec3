/**
 * Functions as Services of Knative: their revisions are their versions, and traffic says which of them answers. Pure.
 *
 * What Knative takes of a pod is less than what Kubernetes has: https://github.com/knative/serving/blob/main/pkg/apis/serving/fieldmask.go
 */

import type { Fields, Manifest } from './client.ts';
import { differing, stampedTemplate } from './compare.ts';
import { DEFAULT_TIMEOUT_MS, metadataOf, podAnnotations, podSpec, serverOf } from './manifests.ts';
import type { FunctionSpec } from './manifests.ts';
import { ANNOTATION, CONTAINER_SECURITY, PORT, USER_SECURITY, labelsOf } from './pods.ts';
import type { Present, Rollout } from './state.ts';

const KNATIVE_VERSION = 'serving.knative.dev/v1';
/** `max-revision-timeout-seconds` of an installation that nobody changed. */
export const KNATIVE_TIMEOUT_MS_MAX = 600_000;
/** In one pod, where the function has a limit for all. */
const CONCURRENCY_DEFAULT = 10;
/** Of pods: the one that they are of. */
export const REVISION_LABEL = 'serving.knative.dev/revision';
const NUMBER = /-(\d{5,})$/;

interface Template {
  readonly metadata?: { readonly name?: string; readonly annotations?: Readonly<Record<string, string>> };
  readonly spec?: Fields;
}

interface Target {
  readonly revisionName?: string;
  readonly percent?: number;
}

interface ServiceSpec {
  readonly template?: Template;
  readonly traffic?: readonly Target[];
}

interface ServiceStatus {
  readonly observedGeneration?: number;
  readonly traffic?: readonly Target[];
  readonly conditions?: readonly { readonly type: string; readonly status: string; readonly reason?: string; readonly message?: string }[];
}

export function isKnative({ apiVersion }: Manifest): boolean {
  return apiVersion === KNATIVE_VERSION;
}

/** The Service with the revision of this specification; the one that is there already, when nothing of it differs. */
export function knativeServiceOf(spec: FunctionSpec, { workload, revisions }: Pick<Present, 'workload' | 'revisions'>): Manifest {
  const template = templateOf(spec);
  const live = workload && specOf(workload).template;
  const running = workload && wantedRevision(workload);
  const runs = revisions.find(({ metadata }) => metadata.name === running);
  const isRunning = runs?.metadata.annotations?.[ANNOTATION.manifest] === template.metadata.annotations[ANNOTATION.manifest];
  // Calls were rolled back to it: the newest template is another one.
  if (live && running !== undefined && isRunning && live.metadata?.name !== running)
    return serviceOf(spec, { template: live, revision: running });
  const name = live?.metadata?.name;
  const isSame = name !== undefined && differing(template, live, '').length === 0;
  const revision = isSame ? name : nextName(spec.name, [name, ...revisions.map(({ metadata }) => metadata.name)]);
  return serviceOf(spec, { template: { ...template, metadata: { name: revision, ...template.metadata } }, revision });
}

/** The Service as it is, with all calls going to another revision. */
export function rolledBackTo(spec: FunctionSpec, workload: Manifest, version: string): Manifest {
  return serviceOf(spec, { template: specOf(workload).template ?? {}, revision: revisionName(spec.name, Number(version)) });
}

/** The revision that calls are to go to. */
export function wantedRevision(service: Manifest): string | undefined {
  const { template, traffic = [] } = specOf(service);
  return targetOf(traffic) ?? template?.metadata?.name;
}

/** The revision that calls go to now. */
export function servingRevision({ status }: Manifest): string | undefined {
  // A Service of Knative has this status.
  return targetOf((status as ServiceStatus | undefined)?.traffic ?? []);
}

/** The annotations of the revision that calls are to go to. */
export function runningAnnotations(service: Manifest, revisions: readonly Manifest[]): Readonly<Record<string, string>> | undefined {
  const { template } = specOf(service);
  const wanted = wantedRevision(service);
  if (template?.metadata?.name === wanted) return template?.metadata?.annotations;
  return revisions.find(({ metadata }) => metadata.name === wanted)?.metadata.annotations;
}

export function revisionNumber(name: string): number {
  return Number(NUMBER.exec(name)?.[1] ?? 0);
}

/** https://github.com/knative/specs/blob/main/specs/serving/knative-api-specification-1.0.md#service */
export function knativeRollout(service: Manifest): Rollout {
  const { observedGeneration = 0, conditions = [] } = (service['status'] ?? {}) as ServiceStatus;
  if (observedGeneration < (service.metadata.generation ?? 0)) return { status: 'busy' };
  const of = (type: string) => conditions.find((each) => each.type === type);
  if (of('Ready')?.status === 'True' && servingRevision(service) === wantedRevision(service)) return { status: 'active' };
  // That routes are not ready also says that the revision is not there yet.
  const failed = of('ConfigurationsReady');
  if (failed?.status !== 'False') return { status: 'busy' };
  return { status: 'failed', reason: `${failed.reason ?? 'the revision failed'}: ${failed.message ?? ''}` };
}

/**
 * How a revision is reached without the ingress of Knative: the Service of its own name. While it has no pods that is the activator, which
 * has to be told for whom the call is.
 */
export function revisionHeaders(namespace: string, revision: string): readonly string[] {
  return ['knative-serving-namespace', namespace, 'knative-serving-revision', revision];
}

export interface Scale {
  /** Calls that one pod takes at the same time; 0 for as many as come. */
  readonly containerConcurrency: number;
  readonly min: number;
  readonly max: number | undefined;
}

/** The limit of the function is that of all its pods together. */
export function scaleOf({ config, pods }: Pick<FunctionSpec, 'config' | 'pods'>): Scale {
  const { concurrencyMax, instancesMin = 0 } = config;
  const { containerConcurrency = 0, instancesMax } = pods;
  if (concurrencyMax === undefined) return { containerConcurrency, min: instancesMin, max: instancesMax };
  const each = Math.max(1, Math.min(containerConcurrency || CONCURRENCY_DEFAULT, concurrencyMax));
  const max = Math.max(1, Math.floor(concurrencyMax / each));
  return { containerConcurrency: each, min: instancesMin, max: Math.min(max, instancesMax ?? max) };
}

function serviceOf(spec: FunctionSpec, { template, revision }: { readonly template: Template; readonly revision: string }): Manifest {
  const metadata = metadataOf(spec, { component: 'function' });
  return {
    apiVersion: KNATIVE_VERSION,
    kind: 'Service',
    metadata: { ...metadata, labels: { ...metadata.labels, 'networking.knative.dev/visibility': 'cluster-local' } },
    spec: { template, traffic: [{ revisionName: revision, percent: 100 }] },
  };
}

function templateOf(spec: FunctionSpec) {
  const { environment: _, schedules: __, ...config } = spec.config;
  const { min, max, containerConcurrency } = scaleOf(spec);
  const { containers: ___, ...pod } = podSpec(spec);
  const template = {
    metadata: {
      labels: labelsOf(spec.name, 'function'),
      annotations: {
        ...podAnnotations(spec),
        [ANNOTATION.config]: JSON.stringify(config),
        'autoscaling.knative.dev/min-scale': String(min),
        ...(max !== undefined && { 'autoscaling.knative.dev/max-scale': String(max) }),
      },
    },
    spec: {
      containerConcurrency,
      timeoutSeconds: Math.ceil((config.timeoutMs ?? DEFAULT_TIMEOUT_MS) / 1_000),
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      ...(pod['imagePullSecrets'] !== undefined && { imagePullSecrets: pod['imagePullSecrets'] }),
      containers: [containerOf(spec)],
      volumes: pod.volumes,
    },
  };
  return stampedTemplate(template);
}

/** Names the port itself, drains before it ends a pod, and probes as often as it has to. */
function containerOf(spec: FunctionSpec): Fields {
  const { startupProbe: _, lifecycle: __, env, ...server } = serverOf(spec);
  const own = new Set(['PORT', 'BLUEPRINT_CONCURRENCY_MAX']);
  return {
    ...server,
    env: env.filter(({ name }) => !own.has(name)).map(optional),
    ports: [{ name: 'http1', containerPort: PORT, protocol: 'TCP' }],
    readinessProbe: { httpGet: { path: '/healthz' }, successThreshold: 1 },
    securityContext: { ...CONTAINER_SECURITY, ...USER_SECURITY },
  };
}

/** A revision outlives changes of the environment: what was removed from it since must not keep its pods from starting. */
function optional(variable: Fields): Fields {
  const { valueFrom } = variable as { readonly valueFrom?: { readonly secretKeyRef: Fields } };
  return valueFrom ? { ...variable, valueFrom: { secretKeyRef: { ...valueFrom.secretKeyRef, optional: true } } } : variable;
}

function specOf({ spec }: Manifest): ServiceSpec {
  // A Service of Knative has this specification.
  return spec ?? {};
}

function targetOf(traffic: readonly Target[]): string | undefined {
  return traffic.toSorted((a, b) => (b.percent ?? 0) - (a.percent ?? 0))[0]?.revisionName;
}

function revisionName(name: string, number: number): string {
  return `${name}-${String(number).padStart(5, '0')}`;
}

function nextName(name: string, known: readonly (string | undefined)[]): string {
  return revisionName(name, Math.max(0, ...known.map((each) => revisionNumber(each ?? ''))) + 1);
}
