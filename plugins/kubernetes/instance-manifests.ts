/** What an instance is on Kubernetes: a pod, its Secret, the package in ConfigMaps, and what it may reach. Pure. */

import { createHash } from 'node:crypto';
import { isIP } from 'node:net';
import type { FunctionVersion, LaunchSpec } from '../../src/plugin.ts';
import type { Fields, Manifest } from './client.ts';
import { LOADER } from './loader.ts';
import {
  CODE_FOLDER,
  CONTAINER_SECURITY,
  LABEL,
  MANAGED_BY,
  PART_BYTES_MAX,
  bareSpec,
  codeVolume,
  imageOf,
  partName,
  resourcesOf,
} from './pods.ts';
import type { PodOptions } from './options.ts';

const OWNER_LABEL = 'blueprint-runner.dev/owner';
/** One process of an owner. */
export const BOOT_LABEL = 'blueprint-runner.dev/boot';
const NETWORK_LABEL = 'blueprint-runner.dev/network';
const RUN_FOLDER = '/var/run/blueprint-run';
const UNPACKED = '/unpacked';
/** Of the agent, beside what the function may use. */
const AGENT_MB = 64;
const GRACE_SECONDS = 5;

/** Whose it is. */
export interface Origin {
  readonly ownerId: string;
  readonly bootId: string;
  readonly namespace: string;
}

export interface InstanceCode {
  readonly sha256: string;
  readonly maps: readonly string[];
  readonly hasLayers: boolean;
}

export interface PodPlan {
  readonly origin: Origin;
  readonly spec: LaunchSpec;
  readonly code: InstanceCode;
  readonly options: PodOptions;
}

export function instanceName({ instanceId }: Pick<LaunchSpec, 'instanceId'>): string {
  return `bpr-${instanceId}`;
}

/** What finds everything of an owner. */
export function ownerSelector(ownerId: string): string {
  return `${LABEL.managedBy}=${MANAGED_BY},${LABEL.component}=instance,${OWNER_LABEL}=${ownerId}`;
}

/** In the names of what instances share. */
function keyOf({ ownerId, bootId }: Origin): string {
  return createHash('sha256').update(`${ownerId}\n${bootId}`).digest('hex').slice(0, 10);
}

function metadata({ ownerId, bootId, namespace }: Origin, name: string): Manifest['metadata'] {
  const labels = { [LABEL.managedBy]: MANAGED_BY, [LABEL.component]: 'instance', [OWNER_LABEL]: ownerId, [BOOT_LABEL]: bootId };
  return { name, namespace, labels };
}

export function instanceSecret(origin: Origin, name: string, content: object): Manifest {
  const data = { 'instance.json': Buffer.from(JSON.stringify(content)).toString('base64') };
  return { apiVersion: 'v1', kind: 'Secret', metadata: metadata(origin, name), type: 'Opaque', immutable: true, data };
}

export function instanceCodeMaps(origin: Origin, zip: Uint8Array, sha256: string): readonly Manifest[] {
  const count = Math.max(1, Math.ceil(zip.length / PART_BYTES_MAX));
  return Array.from({ length: count }, (_, index) => ({
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: metadata(origin, `bpr-code-${keyOf(origin)}-${sha256.slice(0, 12)}-${index}`),
    immutable: true,
    ...(index === 0 && { data: { 'loader.cjs': LOADER } }),
    binaryData: { [partName(index)]: Buffer.from(zip.subarray(index * PART_BYTES_MAX, (index + 1) * PART_BYTES_MAX)).toString('base64') },
  }));
}

/** `secret` owns it: whoever deletes that deletes both. */
export function instancePod({ origin, spec, code, options }: PodPlan, secret: Manifest): Manifest {
  const { fn } = spec;
  const name = instanceName(spec);
  const { labels, ...meta } = metadata(origin, name);
  const image = imageOf(options, fn.runtime);
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      ...meta,
      labels: { ...labels, [NETWORK_LABEL]: fn.network },
      annotations: { 'blueprint-runner.dev/function': `${fn.name}:${fn.version}`, 'blueprint-runner.dev/fingerprint': fn.fingerprint },
      ownerReferences: [{ apiVersion: 'v1', kind: 'Secret', name, uid: secret.metadata.uid ?? '' }],
    },
    spec: {
      ...bareSpec(options),
      restartPolicy: 'Never',
      terminationGracePeriodSeconds: GRACE_SECONDS,
      initContainers: [
        {
          name: 'unpack',
          ...image,
          command: ['node', '--no-warnings', `${CODE_FOLDER}/loader.cjs`, 'unpack', UNPACKED],
          env: [{ name: 'BLUEPRINT_PACKAGE_SHA256', value: code.sha256 }],
          resources: resourcesOf(options, memoryOf(fn)),
          securityContext: CONTAINER_SECURITY,
          volumeMounts: [
            { name: 'code', mountPath: CODE_FOLDER, readOnly: true },
            { name: 'unpacked', mountPath: UNPACKED },
          ],
        },
      ],
      containers: [
        {
          name: 'function',
          ...image,
          command: ['node', '--no-warnings', `${RUN_FOLDER}/agent.cjs`],
          resources: resourcesOf(options, memoryOf(fn)),
          securityContext: CONTAINER_SECURITY,
          volumeMounts: mountsOf(code),
        },
      ],
      volumes: [
        codeVolume(code.maps),
        { name: 'unpacked', emptyDir: {} },
        { name: 'instance', secret: { secretName: name, defaultMode: 0o440 } },
        { name: 'tmp', emptyDir: { medium: 'Memory', sizeLimit: `${fn.ephemeralMb}Mi` } },
      ],
    },
  };
}

/** Read-only but for /tmp. */
function mountsOf({ hasLayers }: InstanceCode): readonly Fields[] {
  return [
    { name: 'unpacked', mountPath: '/var/task', subPath: 'task', readOnly: true },
    ...(hasLayers ? [{ name: 'unpacked', mountPath: '/opt', subPath: 'opt', readOnly: true }] : []),
    { name: 'unpacked', mountPath: RUN_FOLDER, subPath: 'run', readOnly: true },
    { name: 'instance', mountPath: '/var/run/blueprint-instance', readOnly: true },
    { name: 'tmp', mountPath: '/tmp' },
  ];
}

/** What is in a /tmp of memory counts as memory of the container. */
function memoryOf({ memoryMb, ephemeralMb }: FunctionVersion): number {
  return memoryMb + ephemeralMb + AGENT_MB;
}

/** The program that works through the events; undefined: nobody has this runtime. */
export function commandOf({ runtime }: FunctionVersion): readonly string[] | undefined {
  if (/^nodejs(?:2[024])\.x$/.test(runtime)) return ['node', `${RUN_FOLDER}/client.cjs`, 'run'];
  if (runtime.startsWith('provided') || runtime.startsWith('python3')) return ['/var/task/bootstrap'];
  return undefined;
}

/**
 * Nobody reaches an instance. One without network reaches its owner and nothing else; a name is looked up first. It holds where the network of
 * the cluster applies policies: https://kubernetes.io/docs/concepts/services-networking/network-policies/
 */
export function networkPolicies(origin: Origin, { host, port }: { readonly host: string; readonly port: number }): readonly Manifest[] {
  const isAddress = isIP(host) !== 0;
  const to = isAddress ? { to: [{ ipBlock: { cidr: `${host}/${isIP(host) === 4 ? 32 : 128}` } }] } : {};
  const names = isAddress ? [] : [{ ports: ['UDP', 'TCP'].map((protocol) => ({ protocol, port: 53 })) }];
  const policy = (network: string, rules: Fields): Manifest => ({
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: metadata(origin, `bpr-${keyOf(origin)}-${network}`),
    spec: {
      podSelector: { matchLabels: { [OWNER_LABEL]: origin.ownerId, [BOOT_LABEL]: origin.bootId, [NETWORK_LABEL]: network } },
      ...rules,
    },
  });
  return [
    policy('none', { policyTypes: ['Ingress', 'Egress'], egress: [{ ...to, ports: [{ protocol: 'TCP', port }] }, ...names] }),
    policy('open', { policyTypes: ['Ingress'] }),
  ];
}
