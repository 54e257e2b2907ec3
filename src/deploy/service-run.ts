/** One run of the deployment of a service, step by step, as its record says. */

import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { DeployChange, DeployProgress, FaasDeployer, FunctionPackage } from '../executor/deployer.ts';
import type { Machine, MachineHost, ProgramSpec } from '../executor/machine.ts';
import { mapLimited } from '../map-limited.ts';
import type { PluginRegistry } from '../plugin/registry.ts';
import type { RunnerManifest } from '../runner/manifest.ts';
import { freePort } from './port.ts';
import type { PluginReference, RecordedFunction, RecordedJob, ServiceRecord, ServiceRecords } from './record.ts';
import { functionNameOf, leftoversOf, orchestratorNameOf, recordedJob } from './service-plan.ts';
import type { JobPlan, ServicePlan } from './service-plan.ts';

/** What every operation on services needs. */
export interface ServiceTools {
  readonly plugins: Pick<PluginRegistry, 'deployer' | 'host'>;
  readonly records: ServiceRecords;
  readonly clock: Clock;
}

/** What the deployment of a service needs besides its plan. */
export interface ServiceParts {
  /** The bundle of all jobs as the platform of this plugin takes it. */
  readonly functionPackage: (plugin: string) => Promise<FunctionPackage>;
  /** The program that runs the manifest. */
  readonly program: (manifest: RunnerManifest) => Promise<Omit<ProgramSpec, 'name'>>;
  readonly host: PluginReference;
  /** The manifest without its jobs, and without its data folder, which is the host's to say. */
  readonly manifest: Omit<RunnerManifest, 'jobs' | 'dataDir'>;
  /** Path of the module with the jobs, for the record. */
  readonly entry: string;
}

export interface ServiceOptions {
  /** Reads, compares and reports; writes nothing. */
  readonly dryRun?: boolean;
  readonly strict?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: DeployProgress) => void;
}

export interface ServiceReport {
  readonly record: ServiceRecord;
  readonly machine?: Machine;
  /** Empty: everything was as it should be. */
  readonly changes: readonly DeployChange[];
  readonly warnings: readonly string[];
}

const FUNCTIONS_AT_ONCE = 4;

/** One run of a deployment: the record as it grows. */
export class DeployRun {
  readonly #parts: ServiceTools & ServiceParts;
  readonly #plan: ServicePlan;
  readonly #options: ServiceOptions;
  readonly #changes: DeployChange[] = [];
  readonly #warnings: string[];
  #record: ServiceRecord;

  constructor(plan: ServicePlan, parts: ServiceTools & ServiceParts, options: ServiceOptions) {
    this.#parts = parts;
    this.#plan = plan;
    this.#options = options;
    this.#warnings = [...plan.warnings];
    const earlier = parts.records.read(plan);
    const { serviceId, blueprintId, blueprintName, chainId, contract, strategy, reasons } = plan;
    const createdAt = earlier?.createdAt ?? this.#timestamp();
    this.#record = {
      version: 1,
      serviceId,
      blueprintId,
      blueprintName,
      chainId,
      contract,
      strategy,
      reasons,
      createdAt,
      status: 'deploying',
      entry: parts.entry,
      ...(parts.manifest.fromBlock !== undefined && { fromBlock: parts.manifest.fromBlock }),
      jobs: Object.fromEntries(plan.jobs.map((job) => [job.id, recordedJob(job, earlier?.jobs[job.id])])),
      leftovers: leftoversOf(plan, earlier),
      ...(earlier?.orchestrator && { orchestrator: earlier.orchestrator }),
      updatedAt: createdAt,
      history: earlier?.history ?? [],
    };
  }

  async deploy(
    deployerOf: (reference: PluginReference) => Promise<FaasDeployer>,
    hostOf: (reference: PluginReference) => Promise<MachineHost>,
  ): Promise<ServiceReport> {
    const functions = this.#plan.jobs.filter((job) => job.place === 'function');
    this.#note('begun', `${this.#plan.strategy}: ${functions.length} of ${this.#plan.jobs.length} jobs on a platform`);
    await this.#checkHost(hostOf);
    await mapLimited(functions, FUNCTIONS_AT_ONCE, async (job) => this.#deployFunction(job, deployerOf));
    const machine = await this.#orchestrate(hostOf);
    // Calls go to the new places now: what is left of the old ones may go.
    for (const left of this.#record.leftovers) {
      if (!(await this.#isInUse(left, deployerOf)))
        this.#changes.push(...(await unlessForeign(async () => (await deployerOf(left.deployer)).remove(left.name, this.#options))));
      this.#save({ leftovers: this.#record.leftovers.filter((other) => other !== left) });
    }
    this.#save({ status: 'deployed' });
    this.#note('deployed', `${this.#changes.length} changes`);
    return { record: this.#record, ...(machine && { machine }), changes: this.#changes, warnings: this.#warnings };
  }

  /** The options of its deployer may have changed, and it is the same function still: that is the platform's to say, not the record's. */
  async #isInUse(left: RecordedFunction, deployerOf: (reference: PluginReference) => Promise<FaasDeployer>): Promise<boolean> {
    const used = Object.values(this.#record.jobs)
      .flatMap((job) => job.function ?? [])
      .filter(({ name, deployer }) => name === left.name && deployer.use === left.deployer.use);
    if (used.length === 0) return false;
    if (used.some(({ deployer }) => JSON.stringify(deployer) === JSON.stringify(left.deployer))) return true;
    const { signal } = this.#options;
    const there = await (await deployerOf(left.deployer)).describe(left.name, signal && { signal });
    return used.some(({ id, endpoint }) => there !== undefined && id === there.id && endpoint === there.endpoint);
  }

  failed(error: RunnerError): void {
    this.#save({ status: 'failed', error: { code: error.code, message: error.message } });
    this.#note('failed', `${error.code}: ${error.message}`);
  }

  async #deployFunction(job: JobPlan, deployerOf: (reference: PluginReference) => Promise<FaasDeployer>): Promise<void> {
    const { deployer: reference, config = {} } = job;
    if (!reference) throw new RunnerError('INTERNAL', `the plan names no platform for job ${job.id}`);
    const name = functionNameOf(this.#plan, job.id);
    try {
      // Its options are checked here: what should not be among them, a secret above all, is not written down.
      const deployer = await deployerOf(reference);
      // Before it is there: should this process die now, the next one knows where to look.
      this.#saveJob(job.id, { function: { deployer: reference, name, ...this.#record.jobs[job.id]?.function } });
      const code = await this.#parts.functionPackage(reference.use);
      const { state, changes, warnings } = await deployer.deploy(name, code, config, this.#options);
      this.#changes.push(...changes);
      this.#warnings.push(...warnings);
      const { id, endpoint, sha256, executor } = state ?? {};
      this.#saveJob(job.id, {
        function: {
          deployer: reference,
          name,
          ...(id !== undefined && { id }),
          ...(endpoint !== undefined && { endpoint }),
          ...(sha256 !== undefined && { sha256 }),
          ...(executor && { executor }),
        },
      });
      this.#note(
        'function',
        `${name}: ${changes.length === 0 ? 'unchanged' : changes.map(({ action, resource }) => `${action} ${resource}`).join(', ')}`,
      );
    } catch (thrown) {
      const error = toRunnerError(thrown, 'DEPLOY_FAILED');
      if (!this.#plan.fallback || error.code === 'ABORTED') throw error;
      this.#fallBack(job, error);
    }
  }

  #fallBack(job: JobPlan, { code, message }: RunnerError): void {
    const warning = `job ${job.id} runs in the orchestrator, because its platform failed: ${code}: ${message}`;
    this.#warnings.push(warning);
    this.#note('fallback', warning);
    this.#saveJob(job.id, { fellBack: { code, message, at: this.#timestamp() } });
  }

  /** What the host refuses is known before anything is changed: a program that does not compile, a secret that is missing. */
  async #checkHost(hostOf: (reference: PluginReference) => Promise<MachineHost>): Promise<void> {
    const host = await hostOf(this.#parts.host);
    const spec = await this.#program(host, this.#parts.manifest.metricsPort);
    const { signal } = this.#options;
    await host.run(spec, { dryRun: true, ...(signal && { signal }) });
  }

  async #program(host: MachineHost, metricsPort: number): Promise<ProgramSpec> {
    const name = orchestratorNameOf(this.#plan);
    const jobs = manifestJobs(this.#record, this.#plan.fallback);
    return { ...(await this.#parts.program({ ...this.#parts.manifest, metricsPort, dataDir: host.dataFolder(name), jobs })), name };
  }

  async #orchestrate(hostOf: (reference: PluginReference) => Promise<MachineHost>): Promise<Machine | undefined> {
    const { host: reference } = this.#parts;
    const host = await hostOf(reference);
    const earlier = this.#record.orchestrator;
    const metricsPort = await this.#port(earlier, hostOf);
    const spec = await this.#program(host, metricsPort);
    const { name } = spec;
    if (earlier && JSON.stringify(earlier.host) !== JSON.stringify(reference)) {
      // Two runners would settle the same calls: the old one ends first.
      this.#changes.push(...(await (await hostOf(earlier.host)).terminate(earlier.name, this.#options)).changes);
    }
    this.#save({ orchestrator: { host: reference, name, healthPort: metricsPort } });
    const { machine, changes, warnings } = await host.run(spec, this.#options);
    this.#changes.push(...changes);
    this.#warnings.push(...warnings);
    if (machine) this.#save({ orchestrator: { host: reference, name, healthPort: metricsPort, id: machine.id } });
    this.#note('orchestrator', `${name}: ${changes.length === 0 ? 'unchanged' : (machine?.status ?? 'planned')}`);
    return machine;
  }

  /** The port that the orchestrator has. One that it does not have now may be somebody else's meanwhile. */
  async #port(earlier: ServiceRecord['orchestrator'], hostOf: (reference: PluginReference) => Promise<MachineHost>): Promise<number> {
    const { metricsPort } = this.#parts.manifest;
    if (!earlier) return metricsPort;
    const machine = await (await hostOf(earlier.host)).describe(earlier.name);
    if (machine?.status === 'running' || machine?.status === 'starting') return earlier.healthPort;
    return freePort(earlier.healthPort);
  }

  #note(event: string, detail: string): void {
    this.#save({ history: [...this.#record.history, { at: this.#timestamp(), event, detail }] });
  }

  #saveJob(id: string, patch: Partial<RecordedJob>): void {
    const job = this.#record.jobs[id];
    if (job) this.#save({ jobs: { ...this.#record.jobs, [id]: { ...job, ...patch } } });
  }

  #save(patch: Partial<ServiceRecord>): void {
    this.#record = { ...this.#record, ...patch, updatedAt: this.#timestamp() };
    if (!this.#options.dryRun) this.#parts.records.write(this.#record);
  }

  #timestamp(): string {
    return new Date(this.#parts.clock.now()).toISOString();
  }
}

/** What is not ours was never part of the service: there is nothing to remove. */
export async function unlessForeign(
  remove: () => Promise<{ readonly changes: readonly DeployChange[] }>,
): Promise<readonly DeployChange[]> {
  try {
    return (await remove()).changes;
  } catch (thrown) {
    if (toRunnerError(thrown).code === 'RESOURCE_FOREIGN') return [];
    throw thrown;
  }
}

function manifestJobs(record: ServiceRecord, fallback: boolean): RunnerManifest['jobs'] {
  return Object.fromEntries(
    Object.entries(record.jobs).map(([id, { name, function: recorded, fellBack }]) => {
      const executor = fellBack ? undefined : recorded?.executor;
      return [id, { name, ...(executor && { executor }), ...(executor && fallback && { fallback: 'in-process' as const }) }];
    }),
  );
}
