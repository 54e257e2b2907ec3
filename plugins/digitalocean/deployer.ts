/** Puts functions on DigitalOcean: actions in a namespace, kept versions beside them, triggers for their schedules. */

import { RunnerError, carryOut, refuseUnfit, rollbackTarget } from '../../src/plugin.ts';
import type {
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
  Step,
} from '../../src/plugin.ts';
import { Actions, pathOf } from './actions.ts';
import type { Action } from './actions.ts';
import { Client, failure, fieldsOf } from './client.ts';
import { violationsOf } from './limits.ts';
import { Activations, invocationOf } from './logs.ts';
import { Namespaces } from './namespace.ts';
import type { DigitalOceanOptions } from './options.ts';
import { namespaceOptionsOf, referenceOf, tokenOf } from './options.ts';
import { Planner } from './plan.ts';
import { Triggers, schedulesOf } from './triggers.ts';

const CALL_MS_MAX = 15 * 60_000;

/**
 * A deployer of functions on DigitalOcean.
 *
 * A function is one action that is written at once, code and configuration together, so calls get the new one with the answer to the
 * write. DigitalOcean keeps no versions: the last three packages are kept as actions `{name}.v{number}`, which nobody can call from
 * outside. The namespace is made when it is missing, and is never removed: others may be in it.
 *
 * @example
 * const deployer = new DigitalOceanDeployer({ namespace: 'blueprint-functions' }, { clock: systemClock });
 */
export class DigitalOceanDeployer implements FaasDeployer {
  readonly name = 'digitalocean';
  readonly #options: DigitalOceanOptions;
  readonly #client: Client;
  readonly #namespaces: Namespaces;
  readonly #actions: Actions;
  readonly #triggers: Triggers;
  readonly #activations: Activations;
  readonly #planner: Planner;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: DigitalOceanOptions, { clock }: { readonly clock: ConstructorParameters<typeof Client>[0]['clock'] }) {
    this.#options = options;
    this.#client = new Client({ clock, token: tokenOf(options, clock) });
    this.#namespaces = new Namespaces(this.#client, namespaceOptionsOf(options));
    this.#actions = new Actions(this.#namespaces);
    this.#triggers = new Triggers(this.#namespaces);
    this.#activations = new Activations(this.#namespaces);
    this.#planner = new Planner({ namespaces: this.#namespaces, actions: this.#actions, triggers: this.#triggers });
  }

  violations(name: string, code: FunctionPackage, config: FunctionConfig): readonly LimitViolation[] {
    return violationsOf(name, code, config);
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
    const action = await this.#actions.find(name, signal);
    if (!action) return undefined;
    if (!action.isOurs) return this.#state(action);
    const triggers = await this.#triggers.list(name, signal);
    const versions = await this.#planner.versions(name, action, signal);
    return this.#state(action, {
      schedules: schedulesOf(name, triggers),
      version: versions.find(({ current }) => current)?.version,
      resources: [
        ...versions.map((each) => ({ kind: 'version', id: `${name}.v${each.version}` })),
        ...triggers.map((each) => ({ kind: 'schedule', id: each.name })),
      ],
    });
  }

  async *list({ all = false, signal }: { readonly all?: boolean; readonly signal?: AbortSignal } = {}): AsyncGenerator<FunctionState> {
    for await (const action of this.#actions.list(signal))
      if (action.versionOf === undefined && (all || action.isOurs)) yield this.#state(action);
  }

  async invoke(
    name: string,
    event: Uint8Array,
    options: { readonly type?: InvocationType; readonly version?: string; readonly signal?: AbortSignal } = {},
  ): Promise<FunctionInvocation> {
    const { type = 'sync', version, signal } = options;
    const json = fieldsOf(event);
    if (!json) throw new RunnerError('WIRE_MALFORMED', 'DigitalOcean takes only JSON objects as events', { retry: 'never' });
    const action = version === undefined ? name : `${name}.v${version}`;
    const found = await this.#actions.find(action, signal);
    if (!found || (version !== undefined && found.versionOf !== name)) throw notFound(action);
    if (type === 'dry-run') return { body: new Uint8Array(), failed: false };
    const path = `${pathOf(action)}?blocking=${type === 'sync'}&result=false`;
    const response = await this.#namespaces.whisk({ method: 'POST', path, json, signal, once: true, timeoutMs: CALL_MS_MAX });
    if (response.status === 404) throw notFound(action);
    if (response.status === 429) throw failure(`invoke function ${name}`, response, 'PLATFORM_THROTTLED');
    if (response.status !== 202) return invocationOf(name, response);
    const requestId = String(fieldsOf(response.body)?.['activationId']);
    if (type === 'async') return { body: new Uint8Array(), failed: false, requestId };
    // https://docs.digitalocean.com/products/functions/how-to/async-functions/: after 30 s a call goes on behind its answer.
    return invocationOf(name, await this.#activations.wait(requestId, this.#client.clock.now() + CALL_MS_MAX, signal));
  }

  async *logs(name: string, query: LogQuery = {}): AsyncGenerator<LogEntry> {
    if (!(await this.#actions.find(name, query.signal))) throw notFound(name);
    yield* this.#activations.logs(name, query);
  }

  async versions(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<readonly FunctionVersionInfo[]> {
    return this.#planner.versions(name, await this.#there(name, signal), signal);
  }

  rollback(name: string, version?: string, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#client.waits.during(name, options, async () => {
      const present = await this.#there(name, options.signal);
      const versions = await this.#planner.versions(name, present, options.signal);
      const target = rollbackTarget(name, versions, version);
      if (target.current) return carryOut(this, { name, plan: { steps: [], warnings: [] }, options });
      const upload = await this.#actions.download(`${name}.v${target.version}`, options.signal);
      const run: Step['run'] = (signal) => this.#actions.put(name, { present, upload, config: {} }, signal);
      return carryOut(this, {
        name,
        plan: { steps: [{ change: { action: 'update', resource: 'code', id: name }, run }], warnings: [] },
        options,
      });
    });
  }

  remove(name: string, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#client.waits.during(name, options, async () => {
      const present = await this.#own(name, options.signal);
      const { changes, warnings } = await carryOut(this, {
        name,
        plan: await this.#planner.removal(name, present, options.signal),
        options,
      });
      return { changes, warnings };
    });
  }

  close(): Promise<void> {
    return this.#client.close();
  }

  /** Compares what `find` finds with what is wanted, and carries out the difference. */
  #reconcile(name: string, { code, config, options }: Wanted, find: () => Promise<Action | undefined>): Promise<DeployReport> {
    return this.#client.waits.during(name, options, async () => {
      refuseUnfit(name, { platform: 'DigitalOcean', violations: violationsOf(name, code, config), signal: options.signal });
      const present = await find();
      return carryOut(this, { name, plan: await this.#planner.plan(name, { present, code, config, options }), options });
    });
  }

  async #own(name: string, signal: AbortSignal | undefined): Promise<Action | undefined> {
    const action = await this.#actions.find(name, signal);
    if (!action || (action.isOurs && action.versionOf === undefined)) return action;
    throw new RunnerError('RESOURCE_FOREIGN', `somebody else made the function ${name}: it is left as it is`, { details: { name } });
  }

  async #there(name: string, signal: AbortSignal | undefined): Promise<Action> {
    const action = await this.#own(name, signal);
    if (!action) throw notFound(name);
    return action;
  }

  async #state(action: Action, more: More = {}): Promise<FunctionState> {
    const { schedules = [], version, resources = [] } = more;
    const { name, config, sha256, updatedAt } = action;
    return {
      name,
      id: `${(await this.#namespaces.find(undefined))?.id}/${name}`,
      status: action.isOurs ? 'active' : 'foreign',
      ...(sha256 !== undefined && action.isOurs && { sha256 }),
      ...(version !== undefined && { version }),
      ...(updatedAt !== undefined && { updatedAt }),
      config: { ...config, ...(schedules.length > 0 && { schedules }) },
      executor: referenceOf(this.#options, name),
      resources,
    };
  }
}

interface Wanted {
  readonly code: FunctionPackage | undefined;
  readonly config: FunctionConfig;
  readonly options: DeployOptions;
}

interface More {
  readonly schedules?: FunctionState['config']['schedules'];
  readonly version?: string | undefined;
  readonly resources?: FunctionState['resources'];
}

function notFound(name: string): RunnerError {
  return new RunnerError('FUNCTION_NOT_FOUND', `DigitalOcean has no function ${name}`, { details: { name } });
}
