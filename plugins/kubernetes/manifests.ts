/** What a function is on Kubernetes, as manifests. Pure. */

import { createHash } from 'node:crypto';
import { toKubernetesCronJob } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionSchedule } from '../../src/plugin.ts';
import type { Fields, Manifest, OwnerReference } from './client.ts';
import { stampedTemplate } from './compare.ts';
import { CALLER, LOADER } from './loader.ts';
import {
  ANNOTATION,
  CODE_FOLDER,
  CONTAINER_SECURITY,
  LABEL,
  PART_BYTES_MAX,
  PORT,
  bareSpec,
  codeMapName,
  codeVolume,
  imageOf,
  labelsOf,
  partName,
  resourcesOf,
} from './pods.ts';
import type { Component } from './pods.ts';
import type { FunctionOptions } from './options.ts';

const GRACE_SECONDS = 35;
/** Until every proxy of the cluster has learned that a pod goes. */
const LEAVE_SECONDS = 5;
const CRON_NAME_MAX = 52;
const HISTORY = 3;
const DEFAULT_MEMORY_MB = 512;
export const DEFAULT_TIMEOUT_MS = 5 * 60_000;
const DEFAULT_TMP_MB = 512;

/** A function as it is to be. */
export interface FunctionSpec {
  readonly name: string;
  readonly namespace: string;
  readonly code: { readonly sha256: string; readonly parts: number; readonly version: number };
  readonly config: FunctionConfig;
  /** Of the environment; another one makes new pods. */
  readonly environmentRevision: number;
  readonly pods: FunctionOptions;
  /** Goes with it. Absent where the cluster is not asked. */
  readonly ownerUid?: string | undefined;
}

/** The root: everything else of the function is owned by it, and goes with it. */
export function secretOf(spec: FunctionSpec): Manifest {
  const { environment = {} } = spec.config;
  const data = Object.fromEntries(Object.entries(environment).map(([key, value]) => [key, Buffer.from(value).toString('base64')]));
  return {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: metadataOf(spec, {
      component: 'function',
      annotations: { [ANNOTATION.environment]: String(spec.environmentRevision) },
      isRoot: true,
    }),
    type: 'Opaque',
    data,
  };
}

/** The package, in parts, with what unpacks and starts it. */
export function codeMapsOf(spec: FunctionSpec, zip: Uint8Array): readonly Manifest[] {
  const { sha256, version, parts } = spec.code;
  const annotations = { [ANNOTATION.sha256]: sha256, [ANNOTATION.version]: String(version), [ANNOTATION.parts]: String(parts) };
  return Array.from({ length: parts }, (_, index) => ({
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: metadataOf(spec, { name: codeMapName(spec.name, sha256, index), component: 'code', annotations }),
    immutable: true,
    ...(index === 0 && { data: { 'loader.cjs': LOADER } }),
    binaryData: {
      [partName(index)]: Buffer.from(zip.subarray(index * PART_BYTES_MAX, (index + 1) * PART_BYTES_MAX)).toString('base64'),
    },
  }));
}

export function deploymentOf(spec: FunctionSpec): Manifest {
  const { environment: _, schedules: __, ...config } = spec.config;
  const { sha256 } = spec.code;
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: metadataOf(spec, {
      component: 'function',
      annotations: { [ANNOTATION.sha256]: sha256, [ANNOTATION.config]: JSON.stringify(config) },
    }),
    spec: {
      replicas: replicasOf(spec),
      revisionHistoryLimit: HISTORY,
      progressDeadlineSeconds: 300,
      // A new pod is ready before an old one goes.
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
      selector: { matchLabels: { [LABEL.name]: spec.name, [LABEL.component]: 'function' } },
      template: stampedTemplate({
        metadata: { labels: labelsOf(spec.name, 'function'), annotations: podAnnotations(spec) },
        spec: { ...podSpec(spec), terminationGracePeriodSeconds: GRACE_SECONDS, containers: [serverOf(spec)] },
      }),
    },
  };
}

export function serviceOf(spec: FunctionSpec): Manifest {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: metadataOf(spec, { component: 'function' }),
    spec: {
      type: 'ClusterIP',
      selector: { [LABEL.name]: spec.name, [LABEL.component]: 'function' },
      ports: [{ name: 'http', port: 80, targetPort: 'http', protocol: 'TCP' }],
    },
  };
}

export interface CronJobs {
  readonly manifests: readonly Manifest[];
  readonly warnings: readonly string[];
}

/** One CronJob for each expression that the schedule takes. Throws `SCHEDULE_INVALID`, `SCHEDULE_LOSSY`. */
export function cronJobsOf(spec: FunctionSpec, schedule: FunctionSchedule, strict: boolean): CronJobs {
  const { expressions, timezone, concurrencyPolicy, startingDeadlineSeconds, losses } = toKubernetesCronJob(schedule.schedule, { strict });
  const manifests = expressions.map((expression, index) => ({
    apiVersion: 'batch/v1',
    kind: 'CronJob',
    metadata: metadataOf(spec, {
      name: cronJobName(spec.name, `${schedule.name}${index === 0 ? '' : `-${index + 1}`}`),
      component: 'schedule',
      annotations: { [ANNOTATION.schedule]: JSON.stringify(schedule) },
    }),
    spec: {
      schedule: expression,
      timeZone: timezone,
      concurrencyPolicy,
      ...(startingDeadlineSeconds !== undefined && { startingDeadlineSeconds }),
      successfulJobsHistoryLimit: 1,
      failedJobsHistoryLimit: HISTORY,
      jobTemplate: {
        metadata: { labels: labelsOf(spec.name, 'schedule') },
        spec: {
          backoffLimit: 0,
          activeDeadlineSeconds: deadlineSeconds(spec),
          template: {
            metadata: { labels: labelsOf(spec.name, 'schedule') },
            spec: { ...bareSpec(spec.pods), restartPolicy: 'Never', containers: [callerOf(spec, schedule.event ?? {})] },
          },
        },
      },
    },
  }));
  return { manifests, warnings: losses.map(({ message }) => `schedule ${schedule.name}: ${message}`) };
}

/** One call in a pod of its own. A larger event is a file of the ConfigMap of this name. */
export function jobOf(
  spec: FunctionSpec,
  job: { readonly name: string; readonly event: Uint8Array; readonly eventMap?: string },
): Manifest {
  const { name, event, eventMap } = job;
  const pod = podSpec(spec);
  const server = serverOf(spec);
  const { readinessProbe: _, startupProbe: __, lifecycle: ___, ports: ____, ...container } = server;
  const folder = '/var/run/event';
  const given =
    eventMap === undefined
      ? { name: 'BLUEPRINT_EVENT', value: Buffer.from(event).toString('utf8') }
      : { name: 'BLUEPRINT_EVENT_FILE', value: `${folder}/event` };
  return {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: metadataOf(spec, { name, component: 'batch' }),
    spec: {
      backoffLimit: 0,
      ttlSecondsAfterFinished: 600,
      activeDeadlineSeconds: deadlineSeconds(spec),
      template: {
        metadata: { labels: labelsOf(spec.name, 'batch'), annotations: podAnnotations(spec) },
        spec: {
          ...pod,
          restartPolicy: 'Never',
          containers: [
            {
              ...container,
              args: ['call'],
              env: [...server.env, given],
              ...(eventMap !== undefined && {
                volumeMounts: [...server.volumeMounts, { name: 'event', mountPath: folder, readOnly: true }],
              }),
            },
          ],
          ...(eventMap !== undefined && { volumes: [...pod.volumes, { name: 'event', configMap: { name: eventMap } }] }),
        },
      },
    },
  };
}

/** Long names are cut and get a part of their hash. */
function cronJobName(name: string, schedule: string): string {
  const whole = `${name}-${schedule}`;
  if (whole.length <= CRON_NAME_MAX) return whole;
  const hash = createHash('sha256').update(whole).digest('hex').slice(0, 8);
  return `${whole.slice(0, CRON_NAME_MAX - 9).replace(/-+$/, '')}-${hash}`;
}

interface MetadataParts {
  readonly name?: string;
  readonly component: Component;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly isRoot?: boolean;
}

export function metadataOf(
  spec: FunctionSpec,
  { name = spec.name, component, annotations = {}, isRoot = false }: MetadataParts,
): Manifest['metadata'] {
  const { ownerUid } = spec;
  return {
    name,
    namespace: spec.namespace,
    labels: labelsOf(spec.name, component),
    ...(Object.keys(annotations).length > 0 && { annotations }),
    ...(!isRoot && ownerUid !== undefined && { ownerReferences: [ownerOf(spec.name, ownerUid)] }),
  };
}

function ownerOf(name: string, uid: string): OwnerReference {
  return { apiVersion: 'v1', kind: 'Secret', name, uid, blockOwnerDeletion: true };
}

export function podAnnotations({ code, environmentRevision }: FunctionSpec): Readonly<Record<string, string>> {
  return { [ANNOTATION.sha256]: code.sha256, [ANNOTATION.environment]: String(environmentRevision) };
}

export function podSpec({ name, code, config, pods }: FunctionSpec): Fields & { readonly volumes: readonly Fields[] } {
  const { architecture, ephemeralStorageMb = DEFAULT_TMP_MB } = config;
  const maps = Array.from({ length: code.parts }, (_, index) => codeMapName(name, code.sha256, index));
  return {
    ...bareSpec(pods),
    ...(architecture && { nodeSelector: { 'kubernetes.io/arch': architecture === 'arm64' ? 'arm64' : 'amd64' } }),
    volumes: [codeVolume(maps), { name: 'tmp', emptyDir: { sizeLimit: `${ephemeralStorageMb}Mi` } }],
  };
}

export function serverOf(spec: FunctionSpec) {
  const { name, code, config, pods } = spec;
  const { memoryMb = DEFAULT_MEMORY_MB, environment = {}, concurrencyMax, runtime } = config;
  return {
    name: 'function',
    ...imageOf(pods, runtime),
    command: ['node', '--no-warnings', `${CODE_FOLDER}/loader.cjs`],
    env: [
      { name: 'BLUEPRINT_PACKAGE_SHA256', value: code.sha256 },
      { name: 'BLUEPRINT_ADAPTER', value: 'http' },
      // Who may reach the port is the cluster's to say.
      { name: 'BLUEPRINT_ALLOW_INSECURE', value: '1' },
      { name: 'HOST', value: '0.0.0.0' },
      { name: 'PORT', value: String(PORT) },
      ...(runtime === 'custom' ? [{ name: 'BLUEPRINT_CUSTOM', value: '1' }] : []),
      ...(config.handler === undefined ? [] : [{ name: 'BLUEPRINT_ARGS', value: JSON.stringify([config.handler]) }]),
      ...(concurrencyMax === undefined
        ? []
        : [{ name: 'BLUEPRINT_CONCURRENCY_MAX', value: String(Math.max(1, Math.floor(concurrencyMax / replicasOf(spec)))) }]),
      ...Object.keys(environment)
        .toSorted()
        .map((key) => ({ name: key, valueFrom: { secretKeyRef: { name, key } } })),
    ],
    ports: [{ name: 'http', containerPort: PORT, protocol: 'TCP' }],
    readinessProbe: {
      httpGet: { path: '/healthz', port: 'http', scheme: 'HTTP' },
      periodSeconds: 2,
      timeoutSeconds: 5,
      failureThreshold: 3,
    },
    startupProbe: {
      httpGet: { path: '/healthz', port: 'http', scheme: 'HTTP' },
      periodSeconds: 1,
      timeoutSeconds: 5,
      failureThreshold: 60,
    },
    lifecycle: { preStop: { sleep: { seconds: LEAVE_SECONDS } } },
    resources: resourcesOf(pods, memoryMb),
    securityContext: CONTAINER_SECURITY,
    volumeMounts: [
      { name: 'code', mountPath: CODE_FOLDER, readOnly: true },
      { name: 'tmp', mountPath: '/tmp' },
    ],
  };
}

function callerOf({ name, namespace, config, pods }: FunctionSpec, event: unknown): Fields {
  return {
    name: 'call',
    ...imageOf(pods, config.runtime),
    command: ['node', '-e', CALLER],
    env: [
      { name: 'BLUEPRINT_URL', value: `http://${name}.${namespace}.svc/` },
      { name: 'BLUEPRINT_EVENT', value: JSON.stringify(event) },
      { name: 'BLUEPRINT_TIMEOUT_MS', value: String(config.timeoutMs ?? DEFAULT_TIMEOUT_MS) },
    ],
    resources: resourcesOf({ cpu: '50m', cpuMax: '500m' }, 128),
    securityContext: CONTAINER_SECURITY,
  };
}

function replicasOf({ config }: FunctionSpec): number {
  return Math.max(1, config.instancesMin ?? 1);
}

/** The time of a call, and what a pod takes to start. */
function deadlineSeconds({ config }: FunctionSpec): number {
  return Math.ceil((config.timeoutMs ?? DEFAULT_TIMEOUT_MS) / 1_000) + 120;
}
