/** What all pods of this plugin have in common. Pure. */

import type { Fields } from './client.ts';
import type { PodOptions } from './options.ts';

export const MANAGED_BY = 'blueprint-runner';
export const LABEL = {
  managedBy: 'app.kubernetes.io/managed-by',
  name: 'app.kubernetes.io/name',
  component: 'app.kubernetes.io/component',
} as const;
/** What an object is for. */
export type Component = 'function' | 'code' | 'schedule' | 'batch' | 'machine' | 'instance';

/**
 * | annotation             | on           | meaning                                                                  |
 * | ---------------------- | ------------ | ------------------------------------------------------------------------ |
 * | `package-sha256`       | all          | of the zip                                                               |
 * | `version`              | code         | from 1, by first deployment                                              |
 * | `parts`                | code         | how many objects hold the package                                        |
 * | `config`               | Deployment, revisions | what was asked for, without environment and schedules           |
 * | `environment-revision` | Secret, pods | counts the changes of the environment, so that pods are made anew        |
 * | `schedule`             | CronJob      | what was asked for                                                       |
 * | `spec-sha256`          | Deployment   | of a program: all of its specification                                   |
 * | `manifest-sha256`      | all but code | of what was applied, so that a field that is left out later is seen      |
 */
export const ANNOTATION = {
  sha256: 'blueprint-runner.dev/package-sha256',
  version: 'blueprint-runner.dev/version',
  parts: 'blueprint-runner.dev/parts',
  config: 'blueprint-runner.dev/config',
  environment: 'blueprint-runner.dev/environment-revision',
  schedule: 'blueprint-runner.dev/schedule',
  manifest: 'blueprint-runner.dev/manifest-sha256',
  spec: 'blueprint-runner.dev/spec-sha256',
} as const;

/** Of a function, a program, and a schedule that calls one. */
export const CONTAINERS: readonly string[] = ['function', 'program', 'call'];
export const CODE_FOLDER = '/var/run/blueprint';
export const PORT = 8_080;
/** A ConfigMap holds 1 MiB, and the API server takes requests of 3 MiB, in which bytes are base64. */
export const PART_BYTES_MAX = 768 * 1_024;
const UID = 1_000;

/** Who the program is. */
export const USER_SECURITY = {
  runAsNonRoot: true,
  runAsUser: UID,
  runAsGroup: UID,
  seccompProfile: { type: 'RuntimeDefault' },
} as const;

export function codeMapName(name: string, sha256: string, index: number): string {
  return `${name}-${sha256.slice(0, 12)}-${index}`;
}

export function labelsOf(name: string, component: Component): Readonly<Record<string, string>> {
  return { [LABEL.managedBy]: MANAGED_BY, [LABEL.name]: name, [LABEL.component]: component };
}

/** Restricted, as the Pod Security Standards have it: https://kubernetes.io/docs/concepts/security/pod-security-standards/ */
export function bareSpec({ imagePullSecrets = [] }: PodOptions): Fields {
  return {
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    securityContext: { ...USER_SECURITY, fsGroup: UID },
    ...(imagePullSecrets.length > 0 && { imagePullSecrets: imagePullSecrets.map((name) => ({ name })) }),
  };
}

export const CONTAINER_SECURITY = {
  allowPrivilegeEscalation: false,
  readOnlyRootFilesystem: true,
  capabilities: { drop: ['ALL'] },
} as const;

export function partName(index: number): string {
  return `part-${String(index).padStart(3, '0')}`;
}

/** Where the parts and the loader are mounted from. */
export function codeVolume(maps: readonly string[]): Fields {
  const sources = maps.map((name, index) => ({
    configMap: { name, items: [...(index === 0 ? [item('loader.cjs')] : []), item(partName(index))] },
  }));
  return { name: 'code', projected: { defaultMode: 0o444, sources } };
}

function item(key: string): Fields {
  return { key, path: key };
}

export function imageOf({ image, imagePullPolicy = 'IfNotPresent' }: PodOptions, runtime?: string): Fields {
  const major = /^nodejs(\d+)/.exec(runtime ?? '')?.[1] ?? '24';
  return { image: image ?? `node:${major}-slim`, imagePullPolicy };
}

export function resourcesOf({ cpu = '100m', cpuMax = '1' }: PodOptions, memoryMb: number): Fields {
  const memory = `${memoryMb}Mi`;
  return { requests: { cpu, memory }, limits: { cpu: cpuMax, memory } };
}
