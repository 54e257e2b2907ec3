/**
 * What a deployment says to the runner that orchestrates it: which chain, and which job runs where. It is JSON, holds no secrets, and is
 * all that a machine elsewhere needs besides the author's jobs.
 */

import type { ExecutorReference } from '../executor/deployer.ts';
import { RunnerError } from '../errors.ts';
import type { ExecutionPolicy } from '../executor/resilience.ts';
import type { Address } from '../job/call.ts';
import type { RunnerBuilder } from './builder.ts';
import type { RunnerConfig } from './config.ts';

export interface RunnerManifest {
  readonly version: 1;
  /** Decimal. */
  readonly serviceIds: readonly string[];
  readonly blueprintId?: string;
  readonly rpcUrls: readonly string[];
  readonly wsUrl?: string;
  readonly contract: string;
  readonly chainId?: number;
  /** Decimal. */
  readonly fromBlock?: string;
  readonly confirmations?: number;
  readonly concurrency?: number;
  readonly dataDir: string;
  /** Of /metrics, /healthz and /readyz, on 127.0.0.1. */
  readonly metricsPort: number;
  /** Every job of the blueprint, by its decimal id. */
  readonly jobs: Readonly<Record<string, ManifestJob>>;
}

export interface ManifestJob {
  readonly name: string;
  /** Absent: in the process of the runner. */
  readonly executor?: ExecutorReference;
  /** Takes calls over that the executor does not take. */
  readonly fallback?: 'in-process' | ExecutorReference;
  readonly policy?: ExecutionPolicy;
}

/** The configuration that a manifest stands for. The key comes from the environment: `OPERATOR_PRIVATE_KEY`. */
export function configFromManifest(manifest: RunnerManifest): RunnerConfig {
  checkManifest(manifest);
  return {
    serviceIds: manifest.serviceIds.map(BigInt),
    ...(manifest.blueprintId !== undefined && { blueprintId: BigInt(manifest.blueprintId) }),
    rpcUrl: manifest.rpcUrls,
    wsUrl: manifest.wsUrl,
    contract: manifest.contract as Address, // as: the configuration checks it
    chainId: manifest.chainId,
    ...(manifest.fromBlock !== undefined && { fromBlock: BigInt(manifest.fromBlock) }),
    confirmations: manifest.confirmations,
    concurrency: manifest.concurrency,
    dataDir: manifest.dataDir,
    metrics: { port: manifest.metricsPort },
  };
}

/** Gives each job of the manifest its executor and its fallback. Jobs with the same executor share it. */
export function applyManifest(builder: RunnerBuilder, manifest: RunnerManifest): void {
  const shared = new Map<string, ExecutorReference>();
  const once = (reference: ExecutorReference): ExecutorReference => {
    const key = JSON.stringify(reference);
    const known = shared.get(key) ?? reference;
    shared.set(key, known);
    return known;
  };
  for (const [jobId, { executor, fallback, policy }] of Object.entries(manifest.jobs)) {
    if (!executor) continue;
    builder.withFaasExecutor(BigInt(jobId), once(executor), {
      ...policy,
      ...(fallback !== undefined && { fallback: fallback === 'in-process' ? fallback : once(fallback) }),
    });
  }
}

function checkManifest(manifest: RunnerManifest): void {
  if (manifest.version !== 1)
    throw new RunnerError(
      'CONFIG_INVALID',
      `this deployment was written in version ${String(manifest.version)}; this program reads version 1`,
    );
  for (const name of ['serviceIds', 'rpcUrls', 'contract', 'dataDir', 'metricsPort', 'jobs'] as const) {
    if (manifest[name] === undefined)
      throw new RunnerError('CONFIG_INVALID', `the deployment says nothing of ${name}`, { details: { name } });
  }
}
