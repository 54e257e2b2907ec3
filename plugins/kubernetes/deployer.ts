/** Puts functions on Kubernetes: a Deployment behind a Service or a Service of Knative, the package in ConfigMaps, CronJobs for schedules. */

import { createHash, randomBytes } from 'node:crypto';
import { RunnerError, noVersion, refuseUnfit, rollbackTarget } from '../../src/plugin.ts';
import type {
  Clock,
  DeployOptions,
  DeployReport,
  FaasDeployer,
  FunctionConfig,
  FunctionInvocation,
  FunctionPackage,
  FunctionState,
  FunctionVersionInfo,
  InvocationType,
  LimitViolation,
  LogEntry,
  LogQuery,
} from '../../src/plugin.ts';
import { Cluster, refusal, statusIn } from './client.ts';
import type { Manifest } from './client.ts';
import { violationsOf } from './limits.ts';
import { podLogs } from './logs.ts';
import { revisionHeaders, servingRevision, wantedRevision } from './knative.ts';
import { DEFAULT_TIMEOUT_MS, jobOf } from './manifests.ts';
import { ANNOTATION, LABEL, MANAGED_BY } from './pods.ts';
import type { KubernetesOptions } from './options.ts';
import { planFor, removalOf, trafficTo } from './plan.ts';
import type { Plan, WriteContext } from './plan.ts';
import { rolledOut } from './rollout.ts';
import { checkOwner, configOf, packageOf, readFunction, revisionsOf, stateOf, versionInfos, versionsIn } from './state.ts';
import type { Present } from './state.ts';

export interface Surroundings {
  readonly clock: Clock;
  readonly environment?: NodeJS.ProcessEnv;
}

const ROLLOUT_MS = 300_000;
const REMOVAL_MS = 120_000;
const POLL_MS = 200;
/** A variable of the environment holds 128 KiB on Linux; a larger event is a file. */
const EVENT_BYTES_INLINE = 96 * 1_024;
const EVENT_BYTES_MAX = 1_000 * 1_024;

/**
 * A deployer of functions on Kubernetes.
 *
 * A function is a Secret with its environment, and owned by it ConfigMaps with its package, a Deployment, a Service and CronJobs: whoever
 * deletes the Secret deletes all. Everything is written by server-side apply; fields that others manage are never taken over. Calls go on
 * while pods are replaced. The last ten packages are kept; a rollback takes one of them with the configuration of now. Of a Service of Knative
 * the versions are its revisions: a rollback sends the calls to one of them, with the configuration that it was made with and the environment of
 * now. It answers inside the cluster only.
 *
 * Besides the errors of the contract: `EXECUTOR_UNAUTHORIZED` when the cluster does not allow it; `OPERATION_UNSUPPORTED` when Knative is asked for
 * and not installed.
 *
 * @example
 * const deployer = new KubernetesDeployer({ namespace: 'functions' }, { clock: systemClock });
 */
export class KubernetesDeployer implements FaasDeployer {
  readonly name = 'kubernetes';
  readonly #options: KubernetesOptions;
  readonly #cluster: Cluster;

  /** Does no I/O. */
  constructor(options: KubernetesOptions, { clock, environment = process.env }: Surroundings) {
    this.#options = options;
    this.#cluster = new Cluster(options, { clock, environment });
  }

  violations(name: string, code: FunctionPackage, config: FunctionConfig): readonly LimitViolation[] {
    return violationsOf(name, code, config, this.#options);
  }

  // oxlint-disable-next-line max-params -- the contract has four
  deploy(name: string, code: FunctionPackage, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#reconcile(name, { code, config, options }, () => this.#own(name, options.signal));
  }

  updateCode(name: string, code: FunctionPackage, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#reconcile(name, { code, config: {}, options }, () => this.#there(name, options.signal));
  }

  updateConfiguration(name: string, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#reconcile(name, { code: undefined, config, options }, () => this.#there(name, options.signal));
  }

  async describe(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<FunctionState | undefined> {
    return this.#state(name, await this.#read(name, signal));
  }

  async *list({ all = false, signal }: { readonly all?: boolean; readonly signal?: AbortSignal } = {}): AsyncGenerator<FunctionState> {
    const selector = all ? undefined : `${LABEL.managedBy}=${MANAGED_BY},${LABEL.component}=function`;
    for await (const workload of this.#cluster.list(this.#kind, { ...(selector !== undefined && { selector }), signal })) {
      const { labels = {}, name } = workload.metadata;
      // A program of ours is no function.
      if (labels[LABEL.managedBy] === MANAGED_BY && labels[LABEL.component] === 'machine') continue;
      const { template } = (workload['spec'] ?? {}) as { readonly template?: { readonly metadata?: { readonly name?: string } } };
      const isElsewhere = this.#isServed && wantedRevision(workload) !== template?.metadata?.name;
      const state = await this.#state(name, {
        workload,
        ...(isElsewhere && { revisions: await revisionsOf(this.#cluster, name, signal) }),
      });
      if (state) yield state;
    }
  }

  async invoke(
    name: string,
    event: Uint8Array,
    options: { readonly type?: InvocationType; readonly version?: string; readonly signal?: AbortSignal } = {},
  ): Promise<FunctionInvocation> {
    const { type = 'sync', version, signal } = options;
    const present = await this.#read(name, signal);
    if (!present.workload) throw notFound(name);
    const infos = versionInfos(present);
    const running = infos.find(({ current }) => current);
    if (version !== undefined && !infos.some((each) => each.version === version)) throw noVersion(name, infos, version);
    if (type === 'dry-run') return { body: new Uint8Array(), failed: false, ...(running && { version: running.version }) };
    const isOther = version !== undefined && version !== running?.version;
    if (type === 'async') return this.#batch(name, event, { present, version, signal });
    if (isOther)
      throw new RunnerError(
        'OPERATION_UNSUPPORTED',
        `only the current version of ${name} waits for calls; version ${version} can be called as async`,
      );
    return this.#call(name, event, { present, version: running?.version, signal });
  }

  async *logs(name: string, query: LogQuery = {}): AsyncGenerator<LogEntry> {
    if (!(await this.#cluster.get(this.#kind, name, query.signal))) throw notFound(name);
    yield* podLogs(this.#cluster, `${LABEL.name}=${name},${LABEL.managedBy}=${MANAGED_BY}`, query);
  }

  async versions(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<readonly FunctionVersionInfo[]> {
    return versionInfos(await this.#there(name, signal));
  }

  rollback(name: string, version?: string, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#cluster.waits.during(name, options, async () => {
      const present = await this.#there(name, options.signal);
      const target = rollbackTarget(name, versionInfos(present), version);
      const plan = this.#isServed
        ? { ...trafficTo(name, target.version, { present, namespace: await this.#cluster.namespace(), options: this.#options }), present }
        : await this.#plan(name, { present, version: Number(target.version), config: {}, options });
      return this.#carryOut(name, plan, options);
    });
  }

  remove(name: string, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#cluster.waits.during(name, options, async () => {
      const present = await this.#own(name, options.signal);
      const plan = removalOf(name, present);
      const { changes, warnings } = await this.#write(name, plan, { options, ownerUid: undefined });
      if (options.dryRun !== true && changes.length > 0) await this.#untilGone(name, options.signal);
      return { changes, warnings };
    });
  }

  close(): Promise<void> {
    return this.#cluster.close();
  }

  /** Compares what `find` finds with what is wanted, and carries out the difference. */
  #reconcile(name: string, { code, config, options }: Wanted, find: () => Promise<Present>): Promise<DeployReport> {
    return this.#cluster.waits.during(name, options, async () => {
      const violations = violationsOf(name, code, config, this.#options);
      refuseUnfit(name, { platform: 'Kubernetes', violations, signal: options.signal });
      const present = await find();
      return this.#carryOut(name, await this.#plan(name, { present, code, config, options }), options);
    });
  }

  async #own(name: string, signal: AbortSignal | undefined): Promise<Present> {
    const present = await this.#read(name, signal);
    checkOwner(name, present, this.#options.workload);
    return present;
  }

  get #isServed(): boolean {
    return this.#options.workload === 'knative';
  }

  get #kind(): 'Deployment' | 'KnativeService' {
    return this.#isServed ? 'KnativeService' : 'Deployment';
  }

  #read(name: string, signal: AbortSignal | undefined): Promise<Present> {
    return readFunction(this.#cluster, name, { workload: this.#options.workload, signal });
  }

  async #there(name: string, signal: AbortSignal | undefined): Promise<Present> {
    const present = await this.#own(name, signal);
    if (!present.workload) throw notFound(name);
    return present;
  }

  async #plan(name: string, wish: Parameters<typeof planFor>[1]): Promise<Plan & { readonly present: Present }> {
    const namespace = await this.#cluster.namespace();
    const plan = planFor(name, wish, { namespace, options: this.#options });
    // The name of a CronJob is made of two, and another two may make the same.
    for (const { change } of plan.writes)
      if (change.resource === 'schedule' && change.action === 'create') await this.#checkFree(name, change.id, wish.options.signal);
    return { ...plan, present: wish.present };
  }

  async #checkFree(name: string, cronJob: string, signal: AbortSignal | undefined): Promise<void> {
    if (!(await this.#cluster.get('CronJob', cronJob, signal))) return;
    const message = `there is a CronJob ${cronJob} that is not of function ${name}: it is left as it is; give the schedule another name`;
    throw new RunnerError('RESOURCE_FOREIGN', message, { details: { kind: 'CronJob', name: cronJob } });
  }

  async #state(name: string, present: Partial<Present>): Promise<FunctionState | undefined> {
    return stateOf(name, present, { options: this.#options, namespace: await this.#cluster.namespace() });
  }

  async #carryOut(name: string, plan: Plan & { readonly present: Present }, options: DeployOptions): Promise<DeployReport> {
    const { secret, workload } = plan.present;
    const report = await this.#write(name, plan, { options, ownerUid: secret?.metadata.uid });
    if (options.dryRun) {
      const state = workload && (await this.#state(name, plan.present));
      return { ...report, ...(state && { state }) };
    }
    const { rolloutTimeoutMs = ROLLOUT_MS } = this.#options;
    const { signal, onProgress } = options;
    await rolledOut(this.#cluster, name, { component: 'function', kind: this.#kind, timeoutMs: rolloutTimeoutMs, signal, onProgress });
    const state = await this.describe(name, signal && { signal });
    return { ...report, ...(state && { state }) };
  }

  /** In a dry run, the cluster checks every manifest and keeps none. */
  async #write(
    name: string,
    { writes, warnings }: Plan,
    { options, ownerUid }: { readonly options: DeployOptions; readonly ownerUid: string | undefined },
  ): Promise<Pick<DeployReport, 'changes' | 'warnings'>> {
    const { dryRun = false, signal, onProgress } = options;
    const context: WriteContext = { dryRun, signal, ownerUid };
    for (const [done, { change, run }] of writes.entries()) {
      if (signal?.aborted) throw new RunnerError('ABORTED', `the deployment of ${name} was cancelled`, { cause: signal.reason });
      const step = `${change.action} ${change.resource} ${change.id}`;
      onProgress?.({ step, function: name, ...(!dryRun && { writes: true }), done, total: writes.length });
      await run(this.#cluster, context);
    }
    return { changes: writes.map(({ change }) => change), warnings };
  }

  /** What the Secret owns goes in the background. */
  async #untilGone(name: string, signal: AbortSignal | undefined): Promise<void> {
    const { clock } = this.#cluster;
    const until = clock.monotonic() + REMOVAL_MS;
    for (;;) {
      const { secret, workload, service, cronJobs, code } = await this.#read(name, signal);
      const left = [secret, workload, service, ...cronJobs, ...code].filter((each) => each !== undefined);
      if (left.length === 0) return;
      if (clock.monotonic() > until)
        throw new RunnerError(
          'DEPLOY_FAILED',
          `the cluster has not removed all of ${name} within ${REMOVAL_MS} ms: ${left.length} objects are left`,
        );
      await clock.sleep(POLL_MS, signal);
    }
  }

  /** Through the API server, whose access rules hold. */
  async #call(name: string, event: Uint8Array, { present, version, signal }: CallOptions): Promise<FunctionInvocation> {
    const { clock } = this.#cluster;
    const { connections, target } = await this.#cluster.connections();
    const { timeoutMs = DEFAULT_TIMEOUT_MS } = configOf({ workload: present.workload, revisions: present.revisions });
    const revision = this.#isServed && present.workload ? servingRevision(present.workload) : undefined;
    const startedAt = clock.monotonic();
    const response = await connections.send(target, {
      method: 'POST',
      path: `${target.path}${await this.#cluster.path('Service', `${revision ?? name}:http`)}/proxy/`,
      headers: [
        'content-type',
        'application/json',
        ...(revision === undefined ? [] : revisionHeaders(await this.#cluster.namespace(), revision)),
      ],
      body: event,
      deadline: clock.now() + timeoutMs,
      signal,
      responseBytesMax: 64 * 1_024 * 1_024,
    });
    const status = statusIn(response);
    if (status?.reason === 'NotFound') throw notFound(name);
    if (status) throw refusal(`call function ${name}`, response);
    return {
      body: response.body,
      failed: response.status >= 300,
      ...(version !== undefined && { version }),
      report: { durationMs: Math.round(clock.monotonic() - startedAt) },
    };
  }

  /** A pod of its own for one call. It is kept for ten minutes after its end, for its log. */
  async #batch(name: string, event: Uint8Array, { present, version, signal }: CallOptions): Promise<FunctionInvocation> {
    if (event.length > EVENT_BYTES_MAX)
      throw new RunnerError('PAYLOAD_TOO_LARGE', `the event has ${event.length} bytes; a ConfigMap holds ${EVENT_BYTES_MAX}`);
    const versions = versionsIn(present);
    const infos = versionInfos(present);
    const wanted = version === undefined ? packageOf(present) : infos.find((each) => each.version === version)?.sha256;
    const code = versions.find(({ sha256 }) => sha256 === wanted);
    if (!code) throw noVersion(name, infos, version);
    const spec = {
      name,
      namespace: await this.#cluster.namespace(),
      code: { sha256: code.sha256, parts: code.parts, version: code.number },
      config: configOf(present),
      environmentRevision: Number(present.secret?.metadata.annotations?.[ANNOTATION.environment] ?? 1),
      pods: this.#options,
      ownerUid: present.secret?.metadata.uid,
    };
    const job = `${name}-${randomBytes(5).toString('hex')}`;
    const isLarge = event.length > EVENT_BYTES_INLINE;
    const made = await this.#cluster.create(jobOf(spec, { name: job, event, ...(isLarge && { eventMap: job }) }), { signal });
    if (isLarge && made.metadata.uid !== undefined) await this.#cluster.create(eventMapOf(made, event), { signal });
    return { body: new Uint8Array(), failed: false, requestId: job, version: String(code.number) };
  }
}

interface Wanted {
  readonly code: FunctionPackage | undefined;
  readonly config: FunctionConfig;
  readonly options: DeployOptions;
}

interface CallOptions {
  readonly present: Present;
  readonly version: string | undefined;
  readonly signal: AbortSignal | undefined;
}

/** Its pod waits for it, and it goes with the Job. */
function eventMapOf({ metadata }: Manifest, event: Uint8Array): Manifest {
  const { name, namespace, labels, uid = '' } = metadata;
  return {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: {
      name,
      ...(namespace !== undefined && { namespace }),
      ...(labels && { labels }),
      annotations: { [ANNOTATION.sha256]: createHash('sha256').update(event).digest('hex') },
      ownerReferences: [{ apiVersion: 'batch/v1', kind: 'Job', name, uid }],
    },
    immutable: true,
    binaryData: { event: Buffer.from(event).toString('base64') },
  };
}

function notFound(name: string): RunnerError {
  return new RunnerError('FUNCTION_NOT_FOUND', `the cluster has no function ${name}`, { details: { name } });
}
