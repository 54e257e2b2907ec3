/** Functions that somebody deployed by hand: their addresses are known, nothing is ever deployed. */

import { RunnerError, systemClock, Connections, parseTarget, PlatformRequests } from '../../src/plugin.ts';
import type {
  DeployReport,
  FaasDeployer,
  FunctionInvocation,
  FunctionState,
  InvocationType,
  LimitViolation,
  LogEntry,
  FunctionVersionInfo,
  ConnectionOptions,
} from '../../src/plugin.ts';

export interface ManualDeployerOptions extends ConnectionOptions {
  /** Names of functions and the addresses of their handlers; a job is called at `{address}/job/{id}`. */
  readonly endpoints: Readonly<Record<string, string>>;
  /** Time for one request, milliseconds. Default 30,000. */
  readonly timeoutMs?: number | undefined;
}

/**
 * Manual deployment: `deploy` changes nothing and says so in a warning, `describe` asks the address whether it is well.
 *
 * @example
 * const deployer = new ManualFaasDeployer({ endpoints: { squaring: 'https://jobs.example.org' } });
 */
export class ManualFaasDeployer implements FaasDeployer {
  readonly name = 'http:manual';
  readonly #options: ManualDeployerOptions;
  readonly #connections: Connections;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: ManualDeployerOptions) {
    this.#options = options;
    for (const address of Object.values(options.endpoints)) parseTarget(address);
    this.#connections = new Connections(options, options.clock ?? systemClock);
  }

  violations(): readonly LimitViolation[] {
    return [];
  }

  async deploy(name: string): Promise<DeployReport> {
    const state = await this.#there(name);
    const warning = `${name} is deployed by hand: nothing was changed at ${state.endpoint}`;
    return { state, changes: [], warnings: [warning, ...(state.reason === undefined ? [] : [`${name} is not well: ${state.reason}`])] };
  }

  updateCode(name: string): Promise<DeployReport> {
    return this.deploy(name);
  }

  updateConfiguration(name: string): Promise<DeployReport> {
    return this.deploy(name);
  }

  /** `failed` with the reason when the address does not answer, or answers that it cannot. */
  async describe(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<FunctionState | undefined> {
    const endpoint = Object.hasOwn(this.#options.endpoints, name) ? this.#options.endpoints[name] : undefined;
    if (endpoint === undefined) return undefined;
    const reason = await this.#problem(endpoint, signal);
    const { bearer } = this.#options;
    return {
      name,
      id: endpoint,
      status: reason === undefined ? 'active' : 'failed',
      ...(reason !== undefined && { reason }),
      endpoint,
      config: {},
      executor: { use: 'http', options: { url: endpoint, ...(typeof bearer === 'string' && { bearer }) } },
      resources: [],
    };
  }

  async *list({ signal }: { readonly signal?: AbortSignal } = {}): AsyncGenerator<FunctionState> {
    for (const name of Object.keys(this.#options.endpoints)) {
      const state = await this.describe(name, signal && { signal });
      if (state) yield state;
    }
  }

  async invoke(
    name: string,
    event: Uint8Array,
    { type = 'sync', signal }: { readonly type?: InvocationType; readonly version?: string; readonly signal?: AbortSignal } = {},
  ): Promise<FunctionInvocation> {
    const { endpoint = '' } = await this.#there(name);
    if (type !== 'sync') throw unsupported(`a call of the type ${type}`);
    const headers = ['content-type', 'application/json'];
    const { status, body } = await this.#requests(endpoint).send({ method: 'POST', path: '', headers, body: event, signal, once: true });
    return { body, failed: status >= 300 };
  }

  // oxlint-disable-next-line require-yield -- there is nothing to give
  async *logs(): AsyncGenerator<LogEntry> {
    throw unsupported('a log');
  }

  async versions(): Promise<readonly FunctionVersionInfo[]> {
    throw unsupported('versions');
  }

  async rollback(): Promise<DeployReport> {
    throw unsupported('versions');
  }

  /** Removes nothing. */
  async remove(name: string): Promise<DeployReport> {
    const isKnown = Object.hasOwn(this.#options.endpoints, name);
    return { changes: [], warnings: isKnown ? [`${name} is deployed by hand: it is still there`] : [] };
  }

  close(): Promise<void> {
    return this.#connections.close();
  }

  async #there(name: string): Promise<FunctionState> {
    const state = await this.describe(name);
    if (state) return state;
    const known = Object.keys(this.#options.endpoints).join(', ');
    throw new RunnerError('FUNCTION_NOT_FOUND', `there is no endpoint ${name}; known are: ${known}`, { details: { name } });
  }

  async #problem(endpoint: string, signal: AbortSignal | undefined): Promise<string | undefined> {
    try {
      const { status } = await this.#requests(endpoint).send({ method: 'HEAD', path: '', signal });
      // A handler that has nothing at this very address is there all the same.
      return status >= 500 ? `it answers with status ${status}` : undefined;
    } catch (error) {
      if (signal?.aborted) throw error;
      return error instanceof Error ? error.message : String(error);
    }
  }

  #requests(endpoint: string): PlatformRequests {
    const target = parseTarget(endpoint);
    const { clock = systemClock, timeoutMs = 30_000 } = this.#options;
    return new PlatformRequests({ ...target, path: target.path || '/' }, this.#connections, { clock, timeoutMs });
  }
}

function unsupported(what: string): RunnerError {
  return new RunnerError('OPERATION_UNSUPPORTED', `a function that was deployed by hand has no ${what} that could be asked for`);
}
