/** From what is there and what is asked for to the writes that are missing. */

import { RunnerError, warningsOf } from '../../src/plugin.ts';
import type { DeployChange, DeployOptions, FunctionConfig, FunctionPackage } from '../../src/plugin.ts';
import type { Cluster, Kind, Manifest } from './client.ts';
import { canonical, differences, stamped } from './compare.ts';
import { isKnative, knativeServiceOf, rolledBackTo } from './knative.ts';
import { codeMapsOf, cronJobsOf, deploymentOf, secretOf, serviceOf } from './manifests.ts';
import { ANNOTATION, PART_BYTES_MAX, codeMapName } from './pods.ts';
import type { FunctionSpec } from './manifests.ts';
import type { KubernetesOptions } from './options.ts';
import { configOf, packageOf, versionsIn } from './state.ts';
import type { Present } from './state.ts';

/** One write: makes its manifest when the id of the owner is known. */
export interface Write {
  readonly change: DeployChange;
  run(cluster: Cluster, context: WriteContext): Promise<void>;
}

export interface WriteContext {
  readonly dryRun: boolean;
  readonly signal: AbortSignal | undefined;
  /** Of the Secret; set by the write that makes it. */
  ownerUid: string | undefined;
}

export interface Plan {
  readonly writes: readonly Write[];
  readonly warnings: readonly string[];
}

export interface Wish {
  readonly present: Present;
  readonly code?: FunctionPackage | undefined;
  /** A package that is kept. */
  readonly version?: number;
  readonly config: FunctionConfig;
  readonly options: DeployOptions;
}

/** Packages that are kept, the one that runs among them. */
const VERSIONS_MAX = 10;
const CANNOT = ['logRetentionDays'] as const;
/** Nodes cannot be chosen as Knative is installed. */
const KNATIVE_CANNOT = ['logRetentionDays', 'architecture'] as const;
const SETTINGS = [
  'description',
  'memoryMb',
  'timeoutMs',
  'ephemeralStorageMb',
  'architecture',
  'concurrencyMax',
  'instancesMin',
  'handler',
  'runtime',
  'tags',
] as const;

/** Throws `SCHEDULE_INVALID`, `SCHEDULE_LOSSY`, `LIMIT_EXCEEDED`; `CONFIG_INVALID` for two schedules that would have one name. */
export function planFor(
  name: string,
  wish: Wish,
  { namespace, options }: { readonly namespace: string; readonly options: KubernetesOptions },
): Plan {
  const { present, code, config, options: deploy } = wish;
  const isServed = options.workload === 'knative';
  const warnings = warningsOf(config, {
    platform: isServed ? 'Knative' : 'Kubernetes',
    cannot: isServed ? KNATIVE_CANNOT : CANNOT,
    strict: deploy.strict,
  });
  const had = configOf(present);
  const whole: FunctionConfig = { ...had, ...config };
  const spec: FunctionSpec = {
    name,
    namespace,
    config: whole,
    code: codeFor(name, wish),
    environmentRevision: revisionOf(present.secret, canonical(whole.environment ?? {}) !== canonical(had.environment ?? {})),
    pods: options,
    ownerUid: present.secret?.metadata.uid,
  };
  const schedules = (whole.schedules ?? []).map((schedule) => cronJobsOf(spec, schedule, deploy.strict ?? false));
  const names = schedules.flatMap(({ manifests }) => manifests.map(({ metadata }) => metadata.name));
  const twice = names.find((each, index) => names.indexOf(each) !== index);
  if (twice !== undefined)
    throw new RunnerError(
      'CONFIG_INVALID',
      `two schedules of function ${name} would be the CronJob ${twice}: give one of them another name`,
      {
        details: { name, cronJob: twice },
      },
    );
  return {
    writes: [
      ...rootWrites(spec, present),
      ...codeWrites(spec, present, code),
      ...workloadWrites(spec, present, had),
      ...(isServed ? [] : applyWrites((each) => stamped(serviceOf(each)), { spec, live: present.service, resource: 'service' })),
      ...present.cronJobs
        .filter(({ metadata }) => !names.includes(metadata.name))
        .map(({ metadata }) => deletion('CronJob', metadata.name, 'schedule')),
      ...(whole.schedules ?? []).flatMap((schedule) =>
        cronJobsOf(spec, schedule, false).manifests.flatMap((manifest, index) =>
          applyWrites((each) => stamped(cronJobsOf(each, schedule, false).manifests[index] ?? manifest), {
            spec,
            live: present.cronJobs.find(({ metadata }) => metadata.name === manifest.metadata.name),
            resource: 'schedule',
          }),
        ),
      ),
      ...staleCode(spec, present),
    ],
    warnings: [...warnings, ...schedules.flatMap((each) => each.warnings)],
  };
}

/** All calls to another revision of a Service of Knative, with the configuration of that one. */
export function trafficTo(name: string, version: string, { present, namespace, options }: TrafficOptions): Plan {
  const { workload, secret } = present;
  if (!workload) return { writes: [], warnings: [] };
  const spec: FunctionSpec = {
    name,
    namespace,
    config: {},
    code: { sha256: '', parts: 0, version: 0 },
    environmentRevision: 0,
    pods: options,
    ownerUid: secret?.metadata.uid,
  };
  const make = (each: FunctionSpec): Manifest => rolledBackTo(each, workload, version);
  return { writes: applyWrites(make, { spec, live: workload, resource: 'code', fields: ['traffic'] }), warnings: [] };
}

interface TrafficOptions {
  readonly present: Present;
  readonly namespace: string;
  readonly options: KubernetesOptions;
}

/** What was made of a function: the Secret takes along what it owns. */
export function removalOf(name: string, { secret, workload, service, cronJobs, code }: Present): Plan {
  const uid = secret?.metadata.uid;
  const owned: DeployChange[] = [];
  const writes: Write[] = [];
  const objects: (readonly [Kind, Manifest | undefined, string])[] = [
    [workload && isKnative(workload) ? 'KnativeService' : 'Deployment', workload, 'function'],
    ['Service', service, 'service'],
    ...cronJobs.map((each) => ['CronJob', each, 'schedule'] as const),
    ...code.map((each) => ['ConfigMap', each, 'code'] as const),
  ];
  for (const [kind, object, resource] of objects) {
    if (!object) continue;
    const { name: id } = object.metadata;
    const isOwned = uid !== undefined && object.metadata.ownerReferences?.some((owner) => owner.uid === uid);
    if (isOwned) owned.push({ action: 'delete', resource, id });
    else writes.push(deletion(kind, id, resource));
  }
  if (!secret) return { writes, warnings: [] };
  const nothing: Write['run'] = async () => {};
  // They go with the Secret, and are told one by one.
  const told = owned.map((change) => ({ change, run: nothing }));
  return { writes: [...writes, deletion('Secret', name, 'environment', uid), ...told], warnings: [] };
}

function codeFor(name: string, { present, code, version }: Wish): FunctionSpec['code'] {
  const versions = versionsIn(present);
  const sha256 = code?.sha256 ?? versions.find(({ number }) => number === version)?.sha256 ?? packageOf(present);
  const kept = versions.find((each) => each.sha256 === sha256);
  if (kept) return { sha256: kept.sha256, parts: kept.parts, version: kept.number };
  if (!code)
    throw new RunnerError('DEPLOY_FAILED', `the package of function ${name} is not in the cluster any more: deploy it again`, {
      retry: 'never',
    });
  return { sha256: code.sha256, parts: Math.max(1, Math.ceil(code.zip.length / PART_BYTES_MAX)), version: (versions[0]?.number ?? 0) + 1 };
}

function revisionOf(secret: Manifest | undefined, isOther: boolean): number {
  const now = Number(secret?.metadata.annotations?.[ANNOTATION.environment] ?? 0);
  return now === 0 || isOther ? now + 1 : now;
}

function rootWrites(spec: FunctionSpec, { secret }: Present): readonly Write[] {
  const manifest = stamped(secretOf(spec));
  const fields = secret && differences(manifest, secret);
  if (fields?.length === 0) return [];
  const run: Write['run'] = async (cluster, context) => {
    const made = await cluster.apply(manifest, context);
    context.ownerUid = made.metadata.uid;
  };
  const isData = fields?.some((field) => field.startsWith('data')) ?? true;
  const change: DeployChange = secret
    ? { action: 'update', resource: 'environment', id: spec.name, fields: [isData ? 'environment' : 'metadata'] }
    : { action: 'create', resource: 'environment', id: spec.name };
  return [{ change, run }];
}

function codeWrites(spec: FunctionSpec, { code: maps }: Present, code: FunctionPackage | undefined): readonly Write[] {
  const writes: Write[] = [];
  for (let index = 0; index < spec.code.parts; index += 1) {
    const id = codeMapName(spec.name, spec.code.sha256, index);
    if (maps.some(({ metadata }) => metadata.name === id)) continue;
    if (!code)
      throw new RunnerError('DEPLOY_FAILED', `a part of the package of function ${spec.name} is missing (${id}): deploy it again`, {
        retry: 'never',
      });
    const run: Write['run'] = async (cluster, context) => {
      const manifest = codeMapsOf({ ...spec, ownerUid: context.ownerUid }, code.zip)[index];
      if (manifest) await cluster.apply(manifest, context);
    };
    writes.push({ change: { action: 'create', resource: 'package', id }, run });
  }
  return writes;
}

function workloadWrites(spec: FunctionSpec, present: Present, had: FunctionConfig): readonly Write[] {
  const { workload } = present;
  const isOther = workload !== undefined && packageOf(present) !== spec.code.sha256;
  const fields: string[] = SETTINGS.filter((field) => canonical(spec.config[field]) !== canonical(had[field]));
  if (canonical(spec.config.environment ?? {}) !== canonical(had.environment ?? {})) fields.push('environment');
  const named = isOther ? ['code', ...fields] : fields;
  const isServed = spec.pods.workload === 'knative';
  return applyWrites((each) => (isServed ? knativeServiceOf(each, present) : stamped(deploymentOf(each))), {
    spec,
    live: workload,
    resource: workload === undefined ? 'function' : isOther ? 'code' : 'configuration',
    fields: named,
  });
}

interface Applied {
  readonly spec: FunctionSpec;
  readonly live: Manifest | undefined;
  readonly resource: string;
  /** Names for people; without them, the paths. */
  readonly fields?: readonly string[];
}

function applyWrites(make: (spec: FunctionSpec) => Manifest, { spec, live, resource, fields = [] }: Applied): readonly Write[] {
  const manifest = make(spec);
  const { name: id } = manifest.metadata;
  const paths = live && differences(manifest, live);
  if (paths?.length === 0) return [];
  const run: Write['run'] = async (cluster, context) => {
    await cluster.apply(make({ ...spec, ownerUid: context.ownerUid }), context);
  };
  if (!paths) return [{ change: { action: 'create', resource, id }, run }];
  return [{ change: { action: 'update', resource, id, fields: fields.length > 0 ? fields : paths }, run }];
}

/** The oldest ones above the limit, once nothing runs them. */
function staleCode(spec: FunctionSpec, present: Present): readonly Write[] {
  const versions = versionsIn(present).filter(({ number }) => number !== spec.code.version);
  return versions.slice(VERSIONS_MAX - 1).flatMap(({ maps }) => maps.map((id) => deletion('ConfigMap', id, 'package')));
}

// oxlint-disable-next-line max-params -- the last one is for the root alone
function deletion(kind: Kind, id: string, resource: string, uid?: string): Write {
  return {
    change: { action: 'delete', resource, id },
    run: async (cluster, { dryRun, signal }) => (dryRun ? undefined : cluster.delete(kind, id, { uid, signal })),
  };
}
