/** Waits until the pods are the new ones, and says why they are not. */

import { RunnerError } from '../../src/plugin.ts';
import type { DeployProgress } from '../../src/plugin.ts';
import type { Cluster, Manifest } from './client.ts';
import { rolloutOf, selectorOf } from './state.ts';
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
    const trouble = await troubleOf(cluster, name, { component, signal });
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
  readonly state?: { readonly waiting?: Waiting; readonly terminated?: Waiting & { readonly exitCode?: number } };
  readonly lastState?: { readonly terminated?: Waiting & { readonly exitCode?: number } };
  readonly restartCount?: number;
}

interface PodStatus {
  readonly containerStatuses?: readonly ContainerStatus[];
  readonly conditions?: readonly { readonly type: string; readonly status: string; readonly reason?: string; readonly message?: string }[];
}

interface Trouble {
  readonly reason: string;
  readonly text: string;
  readonly isHopeless: boolean;
}

/** What keeps pods from running, with the last lines of one that ended. */
export async function troubleOf(
  cluster: Cluster,
  name: string,
  { component, signal }: Pick<RolloutOptions, 'component' | 'signal'>,
): Promise<Trouble | undefined> {
  for await (const pod of cluster.list('Pod', { selector: selectorOf(name, component), signal })) {
    // A pod of the API server has this status.
    const { containerStatuses = [], conditions = [] } = (pod['status'] ?? {}) as PodStatus;
    for (const { state, lastState } of containerStatuses) {
      const waiting = state?.waiting;
      if (!waiting?.reason || waiting.reason === 'ContainerCreating' || waiting.reason === 'PodInitializing') continue;
      const ended = lastState?.terminated ?? state?.terminated;
      const lines = ended ? await lastLines(cluster, pod.metadata.name, signal) : '';
      const text = `pod ${pod.metadata.name}: ${waiting.reason}${waiting.message ? `: ${waiting.message}` : ''}${lines && `\n${lines}`}`;
      return { reason: waiting.reason, text, isHopeless: HOPELESS.has(waiting.reason) };
    }
    const unscheduled = conditions.find(({ type, status }) => type === 'PodScheduled' && status === 'False');
    if (unscheduled) {
      const reason = unscheduled.reason ?? 'Unschedulable';
      return { reason, text: `pod ${pod.metadata.name}: ${reason}: ${unscheduled.message ?? ''}`, isHopeless: false };
    }
  }
  return undefined;
}

async function lastLines(cluster: Cluster, pod: string, signal: AbortSignal | undefined): Promise<string> {
  const path = await cluster.path('Pod', pod);
  for (const previous of ['true', 'false']) {
    const response = await cluster.send({
      method: 'GET',
      path: `${path}/log?tailLines=20&previous=${previous}`,
      headers: ['accept', '*/*'],
      signal,
    });
    if (response.status < 300) return Buffer.from(response.body).toString('utf8').trimEnd();
  }
  return '';
}
