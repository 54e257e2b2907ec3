/** The options of the plugin: where the cluster is, and how pods are made. */

import { RunnerError } from '../../src/plugin.ts';

/** Which cluster, and which part of it. */
export interface ClusterOptions {
  /** Path of the kubeconfig. Default: `KUBECONFIG`, else the service account of this pod, else `~/.kube/config`. */
  readonly kubeconfig?: string | undefined;
  /** Of the kubeconfig. Default: its current one. */
  readonly context?: string | undefined;
  /** Default: that of the context, else `default`. It must exist. */
  readonly namespace?: string | undefined;
}

/** How pods are made. */
export interface PodOptions {
  /** Must hold node 22.15 or newer as `node`. Default `node:24-slim`, or what the runtime of the function says. */
  readonly image?: string | undefined;
  readonly imagePullPolicy?: 'Always' | 'IfNotPresent' | 'Never' | undefined;
  /** Names of secrets for the registry. */
  readonly imagePullSecrets?: readonly string[] | undefined;
  /** Processor time that is reserved, as Kubernetes writes it. Default `100m`. */
  readonly cpu?: string | undefined;
  /** Processor time that is allowed. Default `1`. */
  readonly cpuMax?: string | undefined;
}

/** What runs a function. */
export interface FunctionOptions extends PodOptions {
  /**
   * `deployment`: pods behind a Service, as many as `instancesMin` says. `knative`: a Service of Knative Serving, which has to be installed:
   * no pods while nobody calls, and more with more calls. Default `deployment`. Another one needs the function to be removed first.
   */
  readonly workload?: 'deployment' | 'knative' | undefined;
  /** Of Knative: calls that one pod takes at the same time. Default: as many as come; 10 where the function has a `concurrencyMax`. */
  readonly containerConcurrency?: number | undefined;
  /** Of Knative: the most pods. Default: as many as `concurrencyMax` allows, else as many as the cluster does. */
  readonly instancesMax?: number | undefined;
}

export interface KubernetesOptions extends ClusterOptions, FunctionOptions {
  /** How long a rollout may take, milliseconds. Default 300,000. */
  readonly rolloutTimeoutMs?: number | undefined;
}

export interface KubernetesExecutorOptions extends ClusterOptions {
  /** The function that has all jobs, or the name of each job's. Default: `blueprint-job-{id}`. */
  readonly function?: string | ((jobId: bigint) => string) | undefined;
  /** `dns`: straight to the service, inside the cluster. `proxy`: through the API server. Default: `dns` in a pod, else `proxy`. */
  readonly via?: 'dns' | 'proxy' | undefined;
  /** What runs the function. Default `deployment`. */
  readonly workload?: 'deployment' | 'knative' | undefined;
}

export interface KubernetesHostOptions extends ClusterOptions, PodOptions {
  /** How long a rollout may take, milliseconds. Default 300,000. */
  readonly rolloutTimeoutMs?: number | undefined;
  /** Size of a claim for the data, as Kubernetes writes it. Default: none, the data ends with the pod. */
  readonly storage?: string | undefined;
  readonly storageClass?: string | undefined;
}

/** Pods as instances of the function runtime. */
export interface KubernetesBackendOptions extends ClusterOptions, PodOptions {
  /**
   * Where pods reach this process: `host` or `host:port`. Default: `POD_IP`, else the first address of this machine that is not loopback, with
   * the port of `listen`.
   */
  readonly address?: string | undefined;
  /** Where this process listens for its instances: `host:port`. Default `0.0.0.0:0`, any free port. */
  readonly listen?: string | undefined;
  /** Until a pod has started its program, milliseconds: pulling its image included. Default 120,000. */
  readonly startTimeoutMs?: number | undefined;
  /** Given to every backend; this one keeps nothing on this machine. */
  readonly folder?: string | undefined;
}

const isText = (value: unknown): boolean => typeof value === 'string' && value !== '';
const isOneOf =
  (...values: readonly string[]) =>
  (value: unknown): boolean =>
    typeof value === 'string' && values.includes(value);
const isLabel = (value: unknown): boolean => typeof value === 'string' && /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/.test(value);
const isQuantity = (value: unknown): boolean => typeof value === 'string' && /^\d+(?:\.\d+)?(?:m|k|M|G|T|Ki|Mi|Gi|Ti)?$/.test(value);

const isCount = (value: unknown): boolean => typeof value === 'number' && Number.isInteger(value) && value > 0;

const CLUSTER = { kubeconfig: isText, context: isText, namespace: isLabel };
const POD = {
  image: isText,
  imagePullPolicy: isOneOf('Always', 'IfNotPresent', 'Never'),
  imagePullSecrets: (value: unknown): boolean => Array.isArray(value) && value.every(isText),
  cpu: isQuantity,
  cpuMax: isQuantity,
};
const WORKLOAD = isOneOf('deployment', 'knative');

export type Checks = Readonly<Record<string, (value: unknown) => boolean>>;
export const DEPLOYER_OPTIONS: Checks = {
  ...CLUSTER,
  ...POD,
  rolloutTimeoutMs: isCount,
  workload: WORKLOAD,
  containerConcurrency: isCount,
  instancesMax: isCount,
};
export const EXECUTOR_OPTIONS: Checks = {
  ...CLUSTER,
  function: (value) => isText(value) || typeof value === 'function',
  via: isOneOf('dns', 'proxy'),
  workload: WORKLOAD,
};
export const HOST_OPTIONS: Checks = {
  ...CLUSTER,
  ...POD,
  rolloutTimeoutMs: isCount,
  storage: isQuantity,
  storageClass: isText,
};
export const BACKEND_OPTIONS: Checks = {
  ...CLUSTER,
  ...POD,
  address: isText,
  listen: (value) => typeof value === 'string' && /^.+:\d{1,5}$/.test(value),
  startTimeoutMs: isCount,
  folder: isText,
};

/** Throws `CONFIG_INVALID`. */
export function parseOptions<Options extends ClusterOptions>(options: unknown, checks: Checks): Options {
  const given = options ?? {};
  if (typeof given !== 'object' || Array.isArray(given))
    throw new RunnerError('CONFIG_INVALID', 'plugin kubernetes takes an object of options');
  for (const [name, value] of Object.entries(given)) {
    const check = checks[name];
    if (!check)
      throw new RunnerError('CONFIG_INVALID', `plugin kubernetes has no option ${name}; it has ${Object.keys(checks).join(', ')}`);
    if (value !== undefined && !check(value))
      throw new RunnerError('CONFIG_INVALID', `the option ${name} of plugin kubernetes cannot be ${JSON.stringify(value)}`);
  }
  // Every field was checked above.
  return given as Options;
}
