/**
 * Deploys a service: functions on their platforms, then the orchestrator that hands them the calls of the chain. Every step is recorded
 * before and after it, and every step can be repeated, so that a deployment that stopped anywhere goes on when it is run again.
 */

import { toRunnerError, RunnerError } from '../errors.ts';
import type { DeployChange, DeployReport, FaasDeployer, FunctionState, LogEntry, LogQuery } from '../executor/deployer.ts';
import type { Machine, MachineHost, MachineReport } from '../executor/machine.ts';
import type { PluginReference, RecordedFunction, ServiceRecord } from './record.ts';
import { checkNames } from './service-plan.ts';
import type { ServicePlan } from './service-plan.ts';
import { DeployRun, unlessForeign } from './service-run.ts';
import type { ServiceOptions, ServiceParts, ServiceReport, ServiceTools } from './service-run.ts';

export interface ServiceStatus {
  readonly record: ServiceRecord;
  readonly orchestrator: Machine | undefined;
  /** By job id: what the platform says now, or why it says nothing. */
  readonly functions: Readonly<Record<string, { readonly state?: FunctionState; readonly problem?: string }>>;
  /** What is not as it was deployed, in words. Empty: nothing. */
  readonly drift: readonly string[];
}

/** What was taken off, and what could not be: it may still be there. */
export interface RemovalReport {
  readonly changes: readonly DeployChange[];
  readonly left: readonly { readonly what: string; readonly place: PluginReference; readonly problem: string }[];
  /** The first block of the service: a deployment of later, with another ledger, misses nothing when it begins there. */
  readonly fromBlock?: string;
}

export interface RemovalOptions extends ServiceOptions {
  /** Drops the record even when a platform or host does not answer or refuses: it may be gone for good. */
  readonly forget?: boolean;
}

/** Deploys services, says how they are, and ends them. */
export class ServiceOperator {
  readonly #tools: ServiceTools;
  readonly #open = new Map<string, Promise<FaasDeployer | MachineHost>>();

  constructor(tools: ServiceTools) {
    this.#tools = tools;
  }

  /**
   * Rejects with the first error that no fallback covers, after the other functions have ended; the record then says `failed`, and running
   * it again goes on. `STATE_INVALID` while another process deploys this service.
   */
  async deploy(plan: ServicePlan, parts: ServiceParts, options: ServiceOptions = {}): Promise<ServiceReport> {
    const unlock = options.dryRun ? () => {} : this.#tools.records.lock(plan);
    try {
      checkNames(plan, parts.host, this.#tools.records);
      const run = new DeployRun(plan, { ...this.#tools, ...parts }, options);
      return await this.#carryOut(run);
    } finally {
      unlock();
    }
  }

  async #carryOut(run: DeployRun): Promise<ServiceReport> {
    try {
      return await run.deploy(
        (reference) => this.#deployer(reference),
        (reference) => this.#host(reference),
      );
    } catch (thrown) {
      run.failed(toRunnerError(thrown, 'DEPLOY_FAILED'));
      throw thrown;
    }
  }

  async status(record: ServiceRecord): Promise<ServiceStatus> {
    const functions: Record<string, { state?: FunctionState; problem?: string }> = {};
    const drift: string[] = [];
    for (const [jobId, { name, function: recorded }] of Object.entries(record.jobs)) {
      if (!recorded) continue;
      try {
        const state = await (await this.#deployer(recorded.deployer)).describe(recorded.name);
        functions[jobId] = { ...(state && { state }) };
        drift.push(...driftOf(`function ${recorded.name} of job ${name}`, recorded, state));
      } catch (thrown) {
        const { code, message } = toRunnerError(thrown);
        functions[jobId] = { problem: `${code}: ${message}` };
        drift.push(`function ${recorded.name} of job ${name} cannot be asked: ${code}: ${message}`);
      }
    }
    const { orchestrator } = record;
    let machine: Machine | undefined;
    try {
      machine = orchestrator && (await (await this.#host(orchestrator.host)).describe(orchestrator.name));
      if (orchestrator && machine?.status !== 'running')
        drift.push(`the orchestrator ${orchestrator.name} is ${machine?.status ?? 'gone'}`);
    } catch (thrown) {
      const { code, message } = toRunnerError(thrown);
      drift.push(`the orchestrator ${orchestrator?.name} cannot be asked: ${code}: ${message}`);
    }
    return { record, orchestrator: machine, functions, drift };
  }

  /** What the orchestrator wrote, oldest first. */
  async *logs({ orchestrator }: ServiceRecord, query: LogQuery = {}): AsyncGenerator<LogEntry> {
    if (!orchestrator) throw new RunnerError('NOT_FOUND', 'the service has no orchestrator');
    yield* (await this.#host(orchestrator.host)).logs(orchestrator.name, query);
  }

  /**
   * Ends the orchestrator first, so that no call is handed to a function that is going. Logs stay, and so does what is foreign. Rejects with the
   * first error after all functions were tried, and the record stays, unless `forget` says otherwise.
   */
  async remove(given: ServiceRecord, options: RemovalOptions = {}): Promise<RemovalReport> {
    const unlock = options.dryRun ? () => {} : this.#tools.records.lock(given);
    try {
      // Another process may have gone on with it since it was read.
      const record = this.#tools.records.read(given);
      if (!record) return { changes: [], left: [] };
      if (!options.dryRun) this.#tools.records.write({ ...record, status: 'removing', updatedAt: this.#timestamp() });
      const changes: DeployChange[] = [];
      const left: RemovalReport['left'][number][] = [];
      let failed: RunnerError | undefined;
      const attempt = async (what: string, place: PluginReference, end: () => Promise<MachineReport | DeployReport>): Promise<void> => {
        try {
          changes.push(...(await unlessForeign(end)));
        } catch (thrown) {
          const error = toRunnerError(thrown);
          if (error.code === 'ABORTED') throw error;
          failed ??= error;
          left.push({ what, place, problem: `${error.code}: ${error.message}` });
        }
      };
      const { orchestrator, fromBlock } = record;
      if (orchestrator) {
        const { name, host } = orchestrator;
        await attempt(`orchestrator ${name}`, host, async () => (await this.#host(host)).terminate(name, options));
        if (failed && !options.forget) throw failed;
      }
      for (const { deployer, name } of [...Object.values(record.jobs).flatMap((job) => job.function ?? []), ...record.leftovers])
        await attempt(`function ${name}`, deployer, async () => (await this.#deployer(deployer)).remove(name, options));
      if (failed && !options.forget) throw failed;
      if (!options.dryRun) this.#tools.records.remove(record);
      return { changes, left, ...(fromBlock !== undefined && { fromBlock }) };
    } finally {
      unlock();
    }
  }

  async close(): Promise<void> {
    const opened = await Promise.allSettled(this.#open.values());
    await Promise.all(opened.map(async (outcome) => outcome.status === 'fulfilled' && outcome.value.close?.()));
  }

  #timestamp(): string {
    return new Date(this.#tools.clock.now()).toISOString();
  }

  #deployer(reference: PluginReference): Promise<FaasDeployer> {
    return this.#once('deployer', reference, () => this.#tools.plugins.deployer(reference.use, reference.options));
  }

  #host(reference: PluginReference): Promise<MachineHost> {
    return this.#once('host', reference, () => this.#tools.plugins.host(reference.use, reference.options));
  }

  #once<T extends FaasDeployer | MachineHost>(kind: string, reference: PluginReference, make: () => Promise<T>): Promise<T> {
    const key = `${kind} ${JSON.stringify(reference)}`;
    const known = this.#open.get(key) as Promise<T> | undefined; // as: the kind is part of the key
    if (known) return known;
    const made = make();
    this.#open.set(key, made);
    return made;
  }
}

function driftOf(what: string, recorded: RecordedFunction, state: FunctionState | undefined): string[] {
  if (!state) return [`${what} is gone`];
  if (state.status === 'foreign') return [`${what} belongs to somebody else`];
  if (state.status === 'failed') return [`${what} failed: ${state.reason ?? 'the platform does not say why'}`];
  return recorded.sha256 !== undefined && state.sha256 !== undefined && recorded.sha256 !== state.sha256
    ? [`${what} runs another package than was deployed`]
    : [];
}
