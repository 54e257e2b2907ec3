/** A function as files that other tools apply. Pure. */

import { stringify } from 'yaml';
import type { FunctionPackage } from '../../src/plugin.ts';
import type { Manifest } from './client.ts';
import { knativeServiceOf } from './knative.ts';
import { codeMapsOf, cronJobsOf, deploymentOf, secretOf, serviceOf } from './manifests.ts';
import type { FunctionSpec } from './manifests.ts';
import { PART_BYTES_MAX } from './pods.ts';

/** All of a function, with its package: what can be applied where this tool does not run. Throws `SCHEDULE_INVALID`. */
export function manifestsOf(spec: Omit<FunctionSpec, 'code' | 'environmentRevision'>, code: FunctionPackage): readonly Manifest[] {
  const parts = Math.max(1, Math.ceil(code.zip.length / PART_BYTES_MAX));
  const whole: FunctionSpec = { ...spec, code: { sha256: code.sha256, parts, version: 1 }, environmentRevision: 1 };
  const isKnative = spec.pods.workload === 'knative';
  return [
    secretOf(whole),
    ...codeMapsOf(whole, code.zip),
    ...(isKnative ? [knativeServiceOf(whole, { workload: undefined, revisions: [] })] : [deploymentOf(whole), serviceOf(whole)]),
    ...(spec.config.schedules ?? []).flatMap((schedule) => cronJobsOf(whole, schedule, false).manifests),
  ];
}

/** As documents of one YAML file. */
export function toYaml(manifests: readonly Manifest[]): string {
  return manifests.map((manifest) => stringify(manifest, { lineWidth: 0, aliasDuplicateObjects: false })).join('---\n');
}
