/**
 * Knative Serving for tests: what its webhook refuses and fills in. The fields are those that an installation takes that nobody changed:
 * https://github.com/knative/serving/blob/main/pkg/apis/serving/fieldmask.go and k8s_validation.go beside it.
 */

import { isDeepStrictEqual } from 'node:util';
import { Pod } from 'kubernetes-models/v1/Pod';
import type { Fields } from './kubernetes-apply.ts';

export const KNATIVE = 'serving.knative.dev/v1';

export function isKnative(object: unknown): boolean {
  return (object as Fields)['apiVersion'] === KNATIVE;
}

/** A field is open, or has fields of its own; `[]` is a list. */
interface Shape {
  readonly [field: string]: Shape | 'open';
}

const META: Shape = { name: 'open', namespace: 'open', labels: 'open', annotations: 'open', ownerReferences: 'open' };
const PROBE: Shape = {
  exec: { command: 'open' },
  httpGet: { host: 'open', path: 'open', port: 'open', scheme: 'open', httpHeaders: 'open' },
  initialDelaySeconds: 'open',
  timeoutSeconds: 'open',
  periodSeconds: 'open',
  successThreshold: 'open',
  failureThreshold: 'open',
};
const KEY: Shape = { name: 'open', key: 'open', optional: 'open' };
const CONTAINER: Shape = {
  name: 'open',
  args: 'open',
  command: 'open',
  workingDir: 'open',
  image: 'open',
  imagePullPolicy: 'open',
  env: { '[]': { name: 'open', value: 'open', valueFrom: { configMapKeyRef: KEY, secretKeyRef: KEY } } },
  livenessProbe: PROBE,
  readinessProbe: PROBE,
  ports: { '[]': { name: 'open', containerPort: 'open', protocol: 'open' } },
  resources: { limits: 'open', requests: 'open' },
  securityContext: {
    allowPrivilegeEscalation: 'open',
    capabilities: { drop: 'open' },
    readOnlyRootFilesystem: 'open',
    runAsGroup: 'open',
    runAsNonRoot: 'open',
    runAsUser: 'open',
    seccompProfile: { type: 'open', localhostProfile: 'open' },
  },
  terminationMessagePath: 'open',
  terminationMessagePolicy: 'open',
  volumeMounts: { '[]': { name: 'open', mountPath: 'open', readOnly: 'open', subPath: 'open' } },
};
const ITEMS: Shape = { '[]': { key: 'open', path: 'open', mode: 'open' } };
const MAP: Shape = { name: 'open', items: ITEMS, optional: 'open', defaultMode: 'open' };
const REVISION: Shape = {
  containerConcurrency: 'open',
  timeoutSeconds: 'open',
  responseStartTimeoutSeconds: 'open',
  idleTimeoutSeconds: 'open',
  automountServiceAccountToken: 'open',
  enableServiceLinks: 'open',
  imagePullSecrets: { '[]': { name: 'open' } },
  serviceAccountName: 'open',
  containers: { '[]': CONTAINER },
  volumes: {
    '[]': {
      name: 'open',
      configMap: MAP,
      secret: { secretName: 'open', items: ITEMS, optional: 'open', defaultMode: 'open' },
      projected: { defaultMode: 'open', sources: { '[]': { configMap: MAP, secret: MAP } } },
      emptyDir: { medium: 'open', sizeLimit: 'open' },
    },
  },
};
const SERVICE: Shape = {
  apiVersion: 'open',
  kind: 'open',
  metadata: META,
  spec: {
    template: { metadata: META, spec: REVISION },
    traffic: { '[]': { revisionName: 'open', percent: 'open', latestRevision: 'open', tag: 'open', configurationName: 'open' } },
  },
};
const RESERVED_VARIABLES = new Set(['PORT', 'K_SERVICE', 'K_CONFIGURATION', 'K_REVISION']);
const RESERVED_PATHS = new Set(['/', '/dev', '/dev/log']);
const RESERVED_PORTS = new Set([8008, 8012, 8013, 8022, 9090, 9091]);
const TIMEOUT_SECONDS_MAX = 600;

export function unknownKnativeFields(object: unknown): readonly string[] {
  return unknownIn(object, SERVICE, '');
}

function unknownIn(value: unknown, shape: Shape | 'open', path: string): readonly string[] {
  if (shape === 'open' || typeof value !== 'object' || value === null) return [];
  if (Array.isArray(value)) return value.flatMap((each, index) => unknownIn(each, shape['[]'] ?? 'open', `${path}[${index}]`));
  return Object.entries(value).flatMap(([key, each]) => {
    const place = path === '' ? key : `${path}.${key}`;
    const inner = shape[key];
    return inner === undefined ? [place] : unknownIn(each, inner, place);
  });
}

interface KnativeContainer extends Fields {
  name?: string;
  env?: { name: string }[];
  ports?: { name?: string; containerPort: number }[];
  volumeMounts?: { name: string; mountPath: string; readOnly?: boolean }[];
  readinessProbe?: Fields;
}

export interface KnativeTemplate {
  metadata?: { name?: string; labels?: Record<string, string>; annotations?: Record<string, string> };
  spec: Fields & { containers: KnativeContainer[]; volumes?: (Fields & { name: string })[]; timeoutSeconds?: number };
}

export interface KnativeSpec {
  template: KnativeTemplate;
  traffic: { revisionName?: string; latestRevision?: boolean; percent?: number }[];
}

/** What the webhook says against it; undefined when nothing. `object` has its defaults. */
export function knativeRefusal(object: Fields, live: Fields | undefined): string | undefined {
  const { template, traffic } = object['spec'] as KnativeSpec;
  const { name } = object['metadata'] as { name: string };
  const given = template.metadata?.name;
  if (given !== undefined && !given.startsWith(`${name}-`))
    return `invalid value: ${given}: must have prefix "${name}-": spec.template.metadata.name`;
  if (given !== undefined && given.length > 63) return `invalid value: ${given}: not a DNS 1035 label: spec.template.metadata.name`;
  const before = live && (live['spec'] as KnativeSpec).template;
  if (before && given !== undefined && before.metadata?.name === given && !isDeepStrictEqual(before, template))
    return 'Saw the following changes without a name change (-old +new): spec.template.metadata.name';
  const sum = traffic.reduce((total, { percent = 0 }) => total + percent, 0);
  if (sum !== 100) return `Traffic targets sum to ${sum}, want 100: spec.traffic`;
  for (const { revisionName, latestRevision } of traffic)
    if ((revisionName !== undefined) === (latestRevision === true))
      return 'expected exactly one, got both or neither: latestRevision, revisionName';
  return templateRefusal(template);
}

function templateRefusal({ metadata, spec }: KnativeTemplate): string | undefined {
  const { annotations = {} } = metadata ?? {};
  const [min, max] = ['min-scale', 'max-scale'].map((key) => Number(annotations[`autoscaling.knative.dev/${key}`] ?? 0)) as [
    number,
    number,
  ];
  if (!(Number.isInteger(min) && Number.isInteger(max) && min >= 0 && max >= 0)) return 'invalid value: autoscaling.knative.dev/max-scale';
  if (max !== 0 && max < min) return `max-scale=${max} is less than min-scale=${min}`;
  const { timeoutSeconds = 300, containers, volumes = [] } = spec;
  const concurrency = Number(spec['containerConcurrency']);
  if (!(concurrency >= 0 && concurrency <= 1_000)) return `expected 0 <= ${concurrency} <= 1000: spec.template.spec.containerConcurrency`;
  if (timeoutSeconds > TIMEOUT_SECONDS_MAX)
    return `expected 0 <= ${timeoutSeconds} <= ${TIMEOUT_SECONDS_MAX}: spec.template.spec.timeoutSeconds`;
  if (spec['automountServiceAccountToken'] === true) return 'must not set the field(s): spec.template.spec.automountServiceAccountToken';
  const [container, ...others] = containers;
  if (!container || others.length > 0) return 'multi-container is not what is tested here: spec.template.spec.containers';
  const { env = [], ports = [], volumeMounts = [] } = container;
  for (const each of env) if (RESERVED_VARIABLES.has(each.name)) return `"${each.name}" is a reserved environment variable: env.name`;
  if (ports.length > 1) return 'more than one container port is set: ports';
  for (const port of ports) {
    if (!['http1', 'h2c', undefined].includes(port.name)) return `Port name ${port.name} is not allowed: ports`;
    if (RESERVED_PORTS.has(port.containerPort)) return `${port.containerPort} is a reserved port: ports.containerPort`;
  }
  for (const { name, mountPath, readOnly } of volumeMounts) {
    const volume = volumes.find((each) => each.name === name);
    if (!volume) return 'volumeMount has no matching volume: volumeMounts.name';
    if (RESERVED_PATHS.has(mountPath)) return `mountPath "${mountPath}" is a reserved path: volumeMounts.mountPath`;
    if (!volume['emptyDir'] && readOnly !== true) return 'volume mount should be readOnly for this type of volume: volumeMounts.readOnly';
  }
  const unmounted = volumes.find(({ name }) => !volumeMounts.some((mount) => mount.name === name));
  return unmounted ? `volume with name "${unmounted.name}" not mounted: volumes.name` : undefined;
}

/** Types of the pod, by the schema of Kubernetes. */
export function knativeInvalidity(object: Fields): string | undefined {
  if (object['kind'] !== 'Service') return undefined;
  const { template } = object['spec'] as KnativeSpec;
  const { containerConcurrency: _, timeoutSeconds: __, containers, ...pod } = template.spec;
  const [, ...rest] = containers;
  const made = containers.slice(0, containers.length - rest.length).map(({ readinessProbe, ...container }) => {
    const { httpGet, ...probe } = (readinessProbe ?? {}) as { httpGet?: Fields };
    return {
      name: 'user-container',
      ...container,
      ...(readinessProbe && { readinessProbe: { ...probe, ...(httpGet && { httpGet: { port: 0, ...httpGet } }) } }),
    };
  });
  try {
    new Pod({ spec: { ...pod, containers: made } }).validate();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

export function withKnativeDefaults<T extends Fields>(object: T): T {
  if (object['kind'] !== 'Service') return object;
  const { template, traffic = [{ latestRevision: true, percent: 100 }] } = object['spec'] as Pick<KnativeSpec, 'template'> &
    Partial<KnativeSpec>;
  const containers = template.spec.containers.map(({ readinessProbe, ...container }) => ({
    name: 'user-container',
    ...container,
    readinessProbe: { successThreshold: 1, ...(readinessProbe ?? { tcpSocket: { port: 0 } }) },
  }));
  const spec = { containerConcurrency: 0, timeoutSeconds: 300, enableServiceLinks: false, ...template.spec, containers };
  const targets = traffic.map((each) => ({ ...each, latestRevision: each.latestRevision ?? each.revisionName === undefined }));
  const { annotations, ...metadata } = object['metadata'] as { annotations?: Record<string, string> };
  const who = { 'serving.knative.dev/creator': 'test', 'serving.knative.dev/lastModifier': 'test' };
  return {
    ...object,
    metadata: { ...metadata, annotations: { ...who, ...annotations } },
    spec: { template: { ...template, spec }, traffic: targets },
  };
}
