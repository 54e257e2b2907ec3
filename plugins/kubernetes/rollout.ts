/** Waits until the pods are the new ones, and says why they are not. */

import { RunnerError } from '../../src/plugin.ts';
import type { DeployProgress } from '../../src/plugin.ts';
import type { Cluster, Manifest } from './client.ts';
import { REVISION_LABEL, isKnative, wantedRevision } from './knative.ts';
import { ANNOTATION, CONTAINERS } from './pods.ts';
import { rolloutOf, selectorOf, templateOf } from './state.ts';
import type { DeploymentStatus } from './state.ts';
import type { Component } from './pods.ts';

export interface RolloutOptions {
  readonly component: Component;
  /** Default `Deployment`. */
  readonly kind?: 'Deployment' | 'KnativeService';
  readonly timeoutMs: number;
  readonly signal: AbortSignal | undefined;
  readonly onProgress?: ((progress: DeployProgress) => void) | undefined;
}

const POLL_MS_MIN = 50;
const POLL_MS_MAX = 1_000;
/** From these a pod does not recover by waiting. */
const HOPELESS = new Set([
  'ImagePullBackOff',
  'ErrImagePull',
  'InvalidImageName',
  'ErrImageNeverPull',
  'CrashLoopBackOff',
  'CreateContainerConfigError',
  'CreateContainerError',
  'RunContainerError',
]);

/** Rejects with `DEPLOY_FAILED` and the reason of the pods. */
export async function rolledOut(cluster: Cluster, name: string, options: RolloutOptions): Promise<Manifest> {
  const { timeoutMs, signal, onProgress, component, kind = 'Deployment' } = options;
  const { clock } = cluster;
  const until = clock.monotonic() + timeoutMs;
  let told = '';
  for (let pollMs = POLL_MS_MIN; ; pollMs = Math.min(POLL_MS_MAX, pollMs * 1.5)) {
    const deployment = await cluster.get(kind, name, signal);
    if (!deployment) throw new RunnerError('DEPLOY_FAILED', `the ${kind} ${name} was deleted while it was rolled out`);
    const { status, reason } = rolloutOf(deployment);
    if (status === 'active') return deployment;
    const trouble = await troubleOf(cluster, deployment, { component, signal });
    const isLate = clock.monotonic() > until;
    if (status === 'failed' || trouble?.isHopeless || isLate) {
      const why = trouble?.text ?? reason ?? `it was not over within ${timeoutMs} ms`;
      throw new RunnerError('DEPLOY_FAILED', `the rollout of ${name} does not get on: ${why}`, {
        details: { name, ...(trouble && { platformCode: trouble.reason }) },
        retry: 'never',
      });
    }
    // A Deployment of the API server has this status.
    const { updatedReplicas = 0, availableReplicas = 0 } = (deployment['status'] ?? {}) as DeploymentStatus;
    const pods = kind === 'Deployment' ? `: ${updatedReplicas} new pods, ${availableReplicas} available` : '';
    const step = `waiting for the rollout${pods}${trouble ? `, ${trouble.text}` : ''}`;
    if (step !== told) onProgress?.({ step, function: name });
    told = step;
    await clock.sleep(pollMs, signal);
  }
}

interface Waiting {
  readonly reason?: string;
  readonly message?: string;
}

interface ContainerStatus {
  readonly name?: string;
  readonly state?: { readonly waiting?: Waiting; readonly terminated?: Waiting & { readonly exitCode?: number } };
  readonly lastState?: { readonly terminated?: Waiting & { readonly exitCode?: number } };
  readonly restartCount?: number;
}

interface PodStatus {
  readonly phase?: string;
  readonly initContainerStatuses?: readonly ContainerStatus[];
  readonly containerStatuses?: readonly ContainerStatus[];
  readonly conditions?: readonly { readonly type: string; readonly status: string; readonly reason?: string; readonly message?: string }[];
}

interface Trouble {
  readonly reason: string;
  readonly text: string;
  readonly isHopeless: boolean;
}

/** What keeps the new pods from running, with the last lines of one that ended. Those that they replace may fail for as long as they are there. */
export async function troubleOf(
  cluster: Cluster,
  workload: Manifest,
  { component, signal }: Pick<RolloutOptions, 'component' | 'signal'>,
): Promise<Trouble | undefined> {
  const isNew = newPods(workload);
  for await (const pod of cluster.list('Pod', { selector: selectorOf(workload.metadata.name, component), signal })) {
    if (!isNew(pod)) continue;
    const trouble = await podTrouble(cluster, pod, signal);
    if (trouble) return trouble;
  }
  return undefined;
}

function newPods(workload: Manifest): (pod: Manifest) => boolean {
  if (isKnative(workload)) {
    const revision = wantedRevision(workload);
    return ({ metadata }) => metadata.labels?.[REVISION_LABEL] === revision;
  }
  // One that goes may have the template of now, too.
  const hash = templateOf(workload).metadata?.annotations?.[ANNOTATION.manifest];
  return ({ metadata }) => metadata.deletionTimestamp === undefined && metadata.annotations?.[ANNOTATION.manifest] === hash;
}

/** The same of one pod, and why it ended when it did. */
export async function podTrouble(cluster: Cluster, pod: Manifest, signal: AbortSignal | undefined): Promise<Trouble | undefined> {
  const { name } = pod.metadata;
  const { containerStatuses = [], initContainerStatuses = [], conditions = [], phase } = statusOf(pod);
  for (const { state, lastState, name: container } of [...initContainerStatuses, ...containerStatuses]) {
    const waiting = state?.waiting;
    const failed = phase === 'Failed' && state?.terminated?.exitCode !== 0 ? state?.terminated : undefined;
    const isQuiet = !waiting?.reason || waiting.reason === 'ContainerCreating' || waiting.reason === 'PodInitializing';
    if (isQuiet && !failed) continue;
    const ended = failed ?? lastState?.terminated ?? state?.terminated;
    const lines = ended ? await lastLines(cluster, name, { container, signal }) : '';
    const reason = failed ? `${failed.reason ?? 'Error'} (exit code ${failed.exitCode})` : (waiting?.reason ?? '');
    const message = (failed ?? waiting)?.message;
    const text = `pod ${name}: ${reason}${message ? `: ${message}` : ''}${lines && `\n${lines}`}`;
    return { reason, text, isHopeless: failed !== undefined || HOPELESS.has(reason) };
  }
  const unscheduled = conditions.find(({ type, status }) => type === 'PodScheduled' && status === 'False');
  if (!unscheduled) return undefined;
  const reason = unscheduled.reason ?? 'Unschedulable';
  return { reason, text: `pod ${name}: ${reason}: ${unscheduled.message ?? ''}`, isHopeless: false };
}

/** Of a pod that is not started again: what our container ended with. That of a mesh may come first, and runs on. */
export function podEnd(pod: Manifest): { readonly exitCode: number; readonly reason: string | undefined } | undefined {
  const { containerStatuses = [], phase } = statusOf(pod);
  const ended = containerStatuses.find(({ name = '' }) => CONTAINERS.includes(name))?.state?.terminated;
  if (!ended && phase !== 'Failed' && phase !== 'Succeeded') return undefined;
  return { exitCode: ended?.exitCode ?? (phase === 'Succeeded' ? 0 : 1), reason: ended?.reason };
}

function statusOf({ status }: Manifest): PodStatus {
  // A pod of the API server has this status.
  return status ?? {};
}

async function lastLines(
  cluster: Cluster,
  pod: string,
  { container, signal }: { readonly container: string | undefined; readonly signal: AbortSignal | undefined },
): Promise<string> {
  const which = container === undefined ? '' : `&container=${encodeURIComponent(container)}`;
  const path = await cluster.path('Pod', pod);
  for (const previous of ['true', 'false']) {
    const response = await cluster.send({
      method: 'GET',
      path: `${path}/log?tailLines=20&previous=${previous}${which}`,
      headers: ['accept', '*/*'],
      signal,
    });
    if (response.status < 300) return Buffer.from(response.body).toString('utf8').trimEnd();
  }
  return '';
}
