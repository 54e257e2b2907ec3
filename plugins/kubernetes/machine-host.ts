/** Keeps long-running programs alive as Deployments with one pod. */

import { createHash } from 'node:crypto';
import { zipSync } from 'fflate';
import { RunnerError, Secret, checkProgram, programDigest } from '../../src/plugin.ts';
import type {
  DeployChange,
  DeployOptions,
  LogEntry,
  LogQuery,
  Machine,
  MachineHost,
  MachineReport,
  ProgramSpec,
} from '../../src/plugin.ts';
import { Cluster } from './client.ts';
import type { Fields, Manifest } from './client.ts';
import { differences, stamped, stampedTemplate } from './compare.ts';
import type { Surroundings } from './deployer.ts';
import { podLogs } from './logs.ts';
import { codeMapsOf, secretOf } from './manifests.ts';
import type { FunctionSpec } from './manifests.ts';
import type { KubernetesHostOptions } from './options.ts';
import {
  ANNOTATION,
  CODE_FOLDER,
  CONTAINER_SECURITY,
  LABEL,
  MANAGED_BY,
  PART_BYTES_MAX,
  bareSpec,
  codeMapName,
  codeVolume,
  imageOf,
  labelsOf,
  resourcesOf,
} from './pods.ts';
import { rolledOut, troubleOf } from './rollout.ts';
import { isOurs, readFunction, rolloutOf } from './state.ts';
import type { Present } from './state.ts';

const DATA_FOLDER = '/var/lib/blueprint-runner';
const DEFAULT_MEMORY_MB = 512;
const HEAP_SHARE = 0.75;
const GRACE_SECONDS = 60;
const ROLLOUT_MS = 300_000;
const REMOVAL_MS = 120_000;
const POLL_MS = 200;
const PARTS_MAX = 16;
/** The same files give the same bytes. */
const EPOCH = new Date(1980, 0, 1);

/** What one program is to be. */
interface Wish {
  readonly spec: FunctionSpec;
  readonly program: ProgramSpec;
  readonly zip: Uint8Array;
  readonly digest: string;
}

/**
 * One Deployment per program, named `bpr-{name}`: one pod, and never two of them at the same time, because they would share what they
 * keep. Its values of secrets are in a Secret that owns everything else; its data is in a claim when the option `storage` says so, which is
 * left when the program ends.
 */
export class KubernetesMachineHost implements MachineHost {
  readonly name = 'kubernetes';
  readonly #options: KubernetesHostOptions;
  readonly #environment: NodeJS.ProcessEnv;
  readonly #cluster: Cluster;

  /** Does no I/O. */
  constructor(options: KubernetesHostOptions, { clock, environment = process.env }: Surroundings) {
    this.#options = options;
    this.#environment = environment;
    this.#cluster = new Cluster(options, { clock, environment });
  }

  dataFolder(): string {
    return DATA_FOLDER;
  }

  async run(program: ProgramSpec, options: DeployOptions = {}): Promise<MachineReport> {
    checkProgram(program);
    const { dryRun = false, signal, onProgress } = options;
    const id = objectName(program.name);
    const present = await this.#own(program.name, signal);
    const wish = await this.#wish(program, present);
    const context = { dryRun, signal };
    const changes: DeployChange[] = [];
    let ownerUid = present.secret?.metadata.uid;
    for (const make of [rootOf, ...partsOf(wish), claimOf, deploymentOf]) {
      const manifest = make(wish, { options: this.#options, ownerUid });
      if (!manifest) continue;
      const live = await this.#live(manifest, present, signal);
      if (live && differences(manifest, live).length === 0) continue;
      const { kind, metadata } = manifest;
      const step = `${live ? 'changing' : 'making'} the ${kind} ${metadata.name}`;
      onProgress?.({ step, function: program.name, ...(!dryRun && { writes: true }) });
      const made = await this.#cluster.apply(manifest, context);
      if (kind === 'Secret' && !dryRun) ownerUid = made.metadata.uid;
      changes.push({ action: live ? 'update' : 'create', resource: kind === 'Deployment' ? 'program' : kind, id: metadata.name });
    }
    if (!dryRun) {
      const { rolloutTimeoutMs = ROLLOUT_MS } = this.#options;
      await rolledOut(this.#cluster, id, { component: 'machine', timeoutMs: rolloutTimeoutMs, signal, onProgress });
      await this.#dropOld(wish, present, signal);
    }
    const machine = await this.describe(program.name, signal && { signal });
    return { ...(machine && { machine }), changes, warnings: this.#options.storage === undefined ? [NO_STORAGE] : [] };
  }

  async describe(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<Machine | undefined> {
    const deployment = await this.#cluster.get('Deployment', objectName(name), signal);
    return deployment && this.#machine(name, deployment, signal);
  }

  async *list({ signal }: { readonly signal?: AbortSignal } = {}): AsyncGenerator<Machine> {
    const selector = `${LABEL.managedBy}=${MANAGED_BY},${LABEL.component}=machine`;
    for await (const deployment of this.#cluster.list('Deployment', { selector, signal }))
      yield this.#machine(deployment.metadata.name.slice(PREFIX.length), deployment, signal);
  }

  async *logs(name: string, query: LogQuery = {}): AsyncGenerator<LogEntry> {
    const deployment = await this.#cluster.get('Deployment', objectName(name), query.signal);
    if (!deployment || !isOurs(deployment, 'machine'))
      throw new RunnerError('NOT_FOUND', `there is no program ${name} in the cluster`, { details: { name } });
    yield* podLogs(this.#cluster, `${LABEL.name}=${objectName(name)},${LABEL.managedBy}=${MANAGED_BY}`, query);
  }

  async terminate(name: string, { dryRun = false, signal, onProgress }: DeployOptions = {}): Promise<MachineReport> {
    const id = objectName(name);
    const { secret, workload: deployment } = await this.#own(name, signal);
    if (!secret && !deployment) return { changes: [], warnings: [] };
    const changes: DeployChange[] = [{ action: 'delete', resource: 'program', id }];
    if (dryRun) return { changes, warnings: [] };
    onProgress?.({ step: 'waiting until it has drained', function: name });
    if (deployment) await this.#cluster.delete('Deployment', id, { uid: deployment.metadata.uid, signal });
    if (secret) await this.#cluster.delete('Secret', id, { uid: secret.metadata.uid, signal });
    const { clock } = this.#cluster;
    const until = clock.monotonic() + REMOVAL_MS;
    while (await this.#cluster.get('Deployment', id, signal)) {
      if (clock.monotonic() > until) throw new RunnerError('DEPLOY_FAILED', `the cluster has not removed ${id} within ${REMOVAL_MS} ms`);
      await clock.sleep(POLL_MS, signal);
    }
    return { changes, warnings: [] };
  }

  close(): Promise<void> {
    return this.#cluster.close();
  }

  async #own(name: string, signal: AbortSignal | undefined): Promise<Present> {
    const id = objectName(name);
    const present = await readFunction(this.#cluster, id, { signal });
    for (const object of [present.workload, present.secret])
      if (object && !isOurs(object, 'machine'))
        throw new RunnerError('RESOURCE_FOREIGN', `somebody else made the ${object.kind} ${id}: it is left as it is`, {
          details: { name: id },
        });
    return present;
  }

  async #wish(program: ProgramSpec, { secret }: Present): Promise<Wish> {
    const entries = Object.entries(program.files).toSorted(([a], [b]) => (a < b ? -1 : 1));
    const zip = zipSync(Object.fromEntries(entries), { mtime: EPOCH, level: 9 });
    const parts = Math.ceil(zip.length / PART_BYTES_MAX);
    if (parts > PARTS_MAX) {
      const violations = [{ limit: 'programBytes', value: zip.length, allowed: `up to ${PARTS_MAX * PART_BYTES_MAX}` }];
      throw new RunnerError('LIMIT_EXCEEDED', `the program ${program.name} has ${zip.length} bytes packed`, { details: { violations } });
    }
    const environment: Record<string, string> = {};
    for (const [name, reference] of Object.entries(program.secrets ?? {}))
      environment[name] = await new Secret(reference, { environment: this.#environment }).read();
    const sha256 = createHash('sha256').update(zip).digest('hex');
    const had = Object.entries((secret?.['data'] ?? {}) as Readonly<Record<string, string>>);
    const isSame = had.length === Object.keys(environment).length && had.every(([key, value]) => encoded(environment[key]) === value);
    const revision = Number(secret?.metadata.annotations?.[ANNOTATION.environment] ?? 0);
    const spec: FunctionSpec = {
      name: objectName(program.name),
      namespace: await this.#cluster.namespace(),
      code: { sha256, parts, version: 1 },
      config: { environment },
      environmentRevision: secret && isSame ? revision : revision + 1,
      pods: this.#options,
    };
    return { spec, program, zip, digest: programDigest(program) };
  }

  async #live(manifest: Manifest, { secret, workload, code }: Present, signal: AbortSignal | undefined): Promise<Manifest | undefined> {
    if (manifest.kind === 'Secret') return secret;
    if (manifest.kind === 'Deployment') return workload;
    if (manifest.kind === 'PersistentVolumeClaim') return this.#cluster.get('PersistentVolumeClaim', manifest.metadata.name, signal);
    // Their names hold the hash of what is in them.
    return code.some(({ metadata }) => metadata.name === manifest.metadata.name) ? manifest : undefined;
  }

  async #dropOld({ spec }: Wish, { code }: Present, signal: AbortSignal | undefined): Promise<void> {
    for (const { metadata } of code)
      if (metadata.annotations?.[ANNOTATION.sha256] !== spec.code.sha256)
        await this.#cluster.delete('ConfigMap', metadata.name, { signal });
  }

  async #machine(name: string, deployment: Manifest, signal: AbortSignal | undefined): Promise<Machine> {
    const { metadata } = deployment;
    const id = `${metadata.namespace}/${metadata.name}`;
    if (!isOurs(deployment, 'machine')) return { name, id, status: 'foreign' };
    const { status, reason } = rolloutOf(deployment);
    const trouble = status === 'active' ? undefined : await troubleOf(this.#cluster, deployment, { component: 'machine', signal });
    const isFailed = status === 'failed' || trouble?.isHopeless === true;
    const why = trouble?.text ?? reason;
    return {
      name,
      id,
      status: status === 'active' ? 'running' : isFailed ? 'failed' : 'starting',
      ...(isFailed && why !== undefined && { reason: why }),
      ...(metadata.annotations?.[ANNOTATION.spec] !== undefined && { specSha256: metadata.annotations[ANNOTATION.spec] }),
      ...(metadata.creationTimestamp !== undefined && { startedAt: metadata.creationTimestamp }),
    };
  }
}

const PREFIX = 'bpr-';
const NO_STORAGE = 'the data of the program ends with its pod: set the option storage to keep it';

function objectName(name: string): string {
  return PREFIX + name;
}

function encoded(value: string | undefined): string | undefined {
  return value === undefined ? undefined : Buffer.from(value).toString('base64');
}

interface Making {
  readonly options: KubernetesHostOptions;
  readonly ownerUid: string | undefined;
}
type Make = (wish: Wish, making: Making) => Manifest | undefined;

const rootOf: Make = ({ spec }) => {
  const secret = secretOf(spec);
  return stamped({ ...secret, metadata: { ...secret.metadata, labels: labelsOf(spec.name, 'machine') } });
};

function partsOf({ spec, zip }: Wish): readonly Make[] {
  return Array.from(
    { length: spec.code.parts },
    (_, index) =>
      (_wish, { ownerUid }) =>
        codeMapsOf({ ...spec, ownerUid }, zip)[index],
  );
}

/** Nothing owns it. What it was made with cannot be changed, so only its being there counts. */
const claimOf: Make = ({ spec }, { options: { storage, storageClass } }) =>
  storage === undefined
    ? undefined
    : {
        apiVersion: 'v1',
        kind: 'PersistentVolumeClaim',
        metadata: { name: `${spec.name}-data`, namespace: spec.namespace, labels: labelsOf(spec.name, 'machine') },
        spec: {
          accessModes: ['ReadWriteOnce'],
          resources: { requests: { storage } },
          ...(storageClass !== undefined && { storageClassName: storageClass }),
        },
      };

const deploymentOf: Make = ({ spec, program, digest }, { options, ownerUid }) => {
  const { name, namespace, code, environmentRevision } = spec;
  const maps = Array.from({ length: code.parts }, (_, index) => codeMapName(name, code.sha256, index));
  const data = options.storage === undefined ? { emptyDir: {} } : { persistentVolumeClaim: { claimName: `${name}-data` } };
  const annotations = { [ANNOTATION.spec]: digest, [ANNOTATION.environment]: String(environmentRevision) };
  return stamped({
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: {
      name,
      namespace,
      labels: labelsOf(name, 'machine'),
      annotations: { [ANNOTATION.spec]: digest },
      ...(ownerUid !== undefined && {
        ownerReferences: [{ apiVersion: 'v1', kind: 'Secret', name, uid: ownerUid, blockOwnerDeletion: true }],
      }),
    },
    spec: {
      replicas: 1,
      revisionHistoryLimit: 1,
      strategy: { type: 'Recreate' },
      selector: { matchLabels: { [LABEL.name]: name, [LABEL.component]: 'machine' } },
      template: stampedTemplate({
        metadata: { labels: labelsOf(name, 'machine'), annotations },
        spec: {
          ...bareSpec(options),
          terminationGracePeriodSeconds: GRACE_SECONDS,
          containers: [containerOf(spec, program, options)],
          volumes: [codeVolume(maps), { name: 'tmp', emptyDir: { sizeLimit: '512Mi' } }, { name: 'data', ...data }],
        },
      }),
    },
  });
};

function containerOf({ name, code }: FunctionSpec, program: ProgramSpec, options: KubernetesHostOptions): Fields {
  const { args, environment, secrets = {}, memoryMb = DEFAULT_MEMORY_MB, healthPort } = program;
  const heapMb = Math.floor(memoryMb * HEAP_SHARE);
  // It serves its health on its loopback interface, which only a program in the pod can reach.
  const probe = `fetch('http://127.0.0.1:${healthPort}/readyz').then((answer)=>process.exit(answer.ok?0:1),()=>process.exit(1))`;
  return {
    name: 'program',
    ...imageOf(options),
    command: ['node', '--no-warnings', `${CODE_FOLDER}/loader.cjs`],
    env: [
      ...Object.entries({
        ...environment,
        BLUEPRINT_PACKAGE_SHA256: code.sha256,
        BLUEPRINT_ARGS: JSON.stringify([`--max-old-space-size=${heapMb}`, ...args]),
      }).map(([key, value]) => ({ name: key, value })),
      ...Object.keys(secrets)
        .toSorted()
        .map((key) => ({ name: key, valueFrom: { secretKeyRef: { name, key } } })),
    ],
    startupProbe: { exec: { command: ['node', '-e', probe] }, periodSeconds: 2, timeoutSeconds: 10, failureThreshold: 90 },
    readinessProbe: { exec: { command: ['node', '-e', probe] }, periodSeconds: 15, timeoutSeconds: 10, failureThreshold: 3 },
    resources: resourcesOf(options, memoryMb),
    securityContext: CONTAINER_SECURITY,
    volumeMounts: [
      { name: 'code', mountPath: CODE_FOLDER, readOnly: true },
      { name: 'tmp', mountPath: '/tmp' },
      { name: 'data', mountPath: DATA_FOLDER },
    ],
  };
}
