/** Puts functions on a gateway of this project, or on any platform of the Custom FaaS Platform Specification v1.0. */

import {
  RunnerError,
  Waits,
  systemClock,
  Connections,
  parseTarget,
  PlatformRequests,
  fieldsOf,
  carryOut,
  refuseUnfit,
  warningsOf,
} from '../../src/plugin.ts';
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
  ConnectionOptions,
} from '../../src/plugin.ts';
import { BOOTSTRAP_HANDLER, GatewayFunctions } from './gateway.ts';
import type { GatewayFunction } from './gateway.ts';
import { SpecifiedFunctions } from './specified.ts';
import type { SpecifiedFunction } from './specified.ts';

export interface HttpDeployerOptions extends ConnectionOptions {
  /**
   * - `auto` (default): the platform is asked once whether it is a gateway of this project; its own API can do more
   * - `specification`: what every platform of the specification can do
   */
  readonly api?: 'auto' | 'specification' | undefined;
  /**
   * A platform that refuses to replace a function: `replace` (default) removes it first, which loses the calls that run on it;
   * `refuse` fails with `FUNCTION_EXISTS`.
   */
  readonly whenExists?: 'replace' | 'refuse' | undefined;
  /** Time for one request, milliseconds. Default 120,000. */
  readonly timeoutMs?: number | undefined;
}

/** What is known of a function, and through which API. */
type Present =
  | { readonly via: 'gateway'; readonly is: GatewayFunction }
  | { readonly via: 'specification'; readonly is: SpecifiedFunction };

interface Wanted {
  readonly code: FunctionPackage;
  readonly config: FunctionConfig;
  readonly options: DeployOptions;
}

const NO_CODE: FunctionPackage = { zip: new Uint8Array(), sha256: '' };
const NAME = /^[A-Za-z0-9][\w.-]{0,127}$/;
const VARIABLE = /^[a-z_]\w*$/i;
const MIB = 1024 * 1024;
/** Bounds of the specification. */
const BOUNDS = { memoryMb: [128, 10_240], timeoutMs: [1, 900_000], concurrencyMax: [1, 1_000] } as const;
const ZIP_BYTES_MAX = 50 * MIB;
const MARKED_DESCRIPTION_MAX = 220;
const SPECIFICATION_CANNOT = ['description', 'instancesMin', 'tags', 'logRetentionDays', 'ephemeralStorageMb', 'architecture'] as const;
const GATEWAY_CANNOT = ['concurrencyMax', 'instancesMin', 'tags', 'logRetentionDays', 'architecture'] as const;

/**
 * A deployer of functions behind HTTP.
 *
 * On a gateway of this project a bundle of `buildHandler` is replaced while calls go on, and there are versions, rollbacks, a list and
 * logs. Elsewhere, and for a package that is only a `bootstrap`, the specification says little: what cannot be had is
 * `OPERATION_UNSUPPORTED`, and a deployment replaces the function as a whole.
 *
 * @example
 * const deployer = new HttpFaasDeployer('https://faas.example.org', { bearer: 'env:FAAS_TOKEN' });
 * const { state } = await deployer.deploy('job0', { zip, sha256 }, { memoryMb: 512 });
 */
export class HttpFaasDeployer implements FaasDeployer {
  readonly name: string;
  readonly #connections: Connections;
  readonly #waits = new Waits('the platform');
  readonly #requests: PlatformRequests;
  readonly #specified: SpecifiedFunctions;
  readonly #gateway: GatewayFunctions;
  #isGateway: Promise<boolean> | undefined;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(url: string, options: HttpDeployerOptions = {}) {
    const clock: Clock = options.clock ?? systemClock;
    const target = parseTarget(url);
    this.name = `http:${target.socketPath ?? new URL(target.origin).host}`;
    this.#connections = new Connections(options, clock);
    this.#requests = new PlatformRequests(target, this.#connections, {
      clock,
      timeoutMs: options.timeoutMs ?? 120_000,
      waits: this.#waits,
    });
    const executor = (name: string): FunctionState['executor'] => ({
      use: 'http',
      options: { url, mode: 'platform', functionId: name, ...(typeof options.bearer === 'string' && { bearer: options.bearer }) },
    });
    this.#specified = new SpecifiedFunctions({ requests: this.#requests, executor, whenExists: options.whenExists ?? 'replace' });
    this.#gateway = new GatewayFunctions({ requests: this.#requests, executor });
    if (options.api === 'specification') this.#isGateway = Promise.resolve(false);
  }

  violations(name: string, code: FunctionPackage, config: FunctionConfig): readonly LimitViolation[] {
    const broken: LimitViolation[] = [];
    const violated = (limit: string, value: number | string, allowed: string): void =>
      void broken.push({ limit, value, allowed, message: `${limit} is ${value}; it must be ${allowed}` });
    if (!NAME.test(name)) violated('name', name, 'up to 128 letters, digits, _.-, a letter or digit first');
    if (code.zip.length > ZIP_BYTES_MAX) violated('zipBytes', code.zip.length, `up to ${ZIP_BYTES_MAX}`);
    for (const [field, [min, max]] of Object.entries(BOUNDS)) {
      const value = config[field as keyof typeof BOUNDS];
      if (value !== undefined && (value < min || value > max)) violated(field, value, `from ${min} to ${max}`);
    }
    const { description = '', environment } = config;
    for (const variable in environment) if (!VARIABLE.test(variable)) violated('environment', variable, 'letters, digits, _');
    if (description.length > MARKED_DESCRIPTION_MAX) violated('descriptionLength', description.length, `up to ${MARKED_DESCRIPTION_MAX}`);
    return broken;
  }

  // oxlint-disable-next-line max-params -- the contract has four
  deploy(name: string, code: FunctionPackage, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#waits.during(name, options, async () => {
      this.#check(name, { code, config, options });
      const present = await this.#own(name, options.signal);
      const isBundle = Buffer.from(code.zip.buffer, code.zip.byteOffset, code.zip.length).includes('handler.mjs');
      if ((await this.#asksGateway(options.signal)) && (isBundle || config.handler !== undefined)) {
        const warnings = warningsOf(config, { platform: 'the platform', cannot: GATEWAY_CANNOT, strict: options.strict });
        const wanted = { code, config, signal: options.signal };
        const steps = await this.#gateway.plan(name, present?.via === 'gateway' ? present.is : undefined, wanted);
        const [creation] = steps;
        if (present?.via === 'specification' && creation) {
          steps[0] = this.#specified.replacement(name, present.is, creation);
          warnings.push(asAWhole(name));
        }
        return carryOut(this, { name, plan: { steps, warnings }, options });
      }
      const warnings = warningsOf(config, { platform: 'the platform', cannot: SPECIFICATION_CANNOT, strict: options.strict });
      const there = await this.#specified.find(name, options.signal);
      const steps = this.#specified.plan(name, there, { code, config });
      if (there && steps.length > 0) warnings.push(asAWhole(name));
      return carryOut(this, { name, plan: { steps, warnings }, options });
    });
  }

  updateCode(name: string, code: FunctionPackage, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#waits.during(name, options, async () => {
      this.#check(name, { code, config: {}, options });
      const present = await this.#gatewayFunction(name, 'updates only the code: deploy it with its whole configuration', options.signal);
      return carryOut(this, {
        name,
        plan: { steps: await this.#gateway.plan(name, present, { code, config: {}, signal: options.signal }), warnings: [] },
        options,
      });
    });
  }

  updateConfiguration(name: string, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#waits.during(name, options, async () => {
      this.#check(name, { code: NO_CODE, config, options });
      const present = await this.#gatewayFunction(name, 'changes only the configuration: deploy it with its code', options.signal);
      const warnings = warningsOf(config, { platform: 'the platform', cannot: GATEWAY_CANNOT, strict: options.strict });
      return carryOut(this, {
        name,
        plan: { steps: await this.#gateway.plan(name, present, { config, signal: options.signal }), warnings },
        options,
      });
    });
  }

  async describe(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<FunctionState | undefined> {
    return (await this.#find(name, signal))?.is.state;
  }

  async *list({ all = false, signal }: { readonly all?: boolean; readonly signal?: AbortSignal } = {}): AsyncGenerator<FunctionState> {
    if (!(await this.#asksGateway(signal))) throw this.#unsupported('lists its functions');
    for await (const { state } of this.#gateway.list(signal)) if (all || state.status !== 'foreign') yield state;
  }

  async invoke(
    name: string,
    event: Uint8Array,
    options: { readonly type?: InvocationType; readonly version?: string; readonly signal?: AbortSignal } = {},
  ): Promise<FunctionInvocation> {
    const { type = 'sync', signal } = options;
    const present = await this.#find(name, signal);
    if (!present) throw notFound(name);
    if (type === 'async') throw this.#unsupported('takes a call without answering it');
    if (type === 'dry-run') return { body: new Uint8Array(), failed: false };
    if (present.via === 'gateway') return this.#gateway.invoke(name, event, options);
    if (options.version !== undefined) throw this.#unsupported('keeps versions');
    return this.#specified.invoke(name, event, signal);
  }

  async *logs(name: string, query: LogQuery = {}): AsyncGenerator<LogEntry> {
    if (!(await this.#asksGateway(query.signal))) throw this.#unsupported('gives logs');
    yield* this.#gateway.logs(name, query);
  }

  async versions(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<readonly FunctionVersionInfo[]> {
    await this.#gatewayFunction(name, 'keeps versions', signal);
    return this.#gateway.versions(name, signal);
  }

  rollback(name: string, version?: string, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#waits.during(name, options, async () => {
      const present = await this.#gatewayFunction(name, 'keeps the versions before', options.signal);
      return carryOut(this, {
        name,
        plan: { steps: await this.#gateway.rollback(name, present, { version, signal: options.signal }), warnings: [] },
        options,
      });
    });
  }

  remove(name: string, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#waits.during(name, options, async () => {
      const present = await this.#own(name, options.signal);
      if (!present) return { changes: [], warnings: [] };
      const api = present.via === 'gateway' ? this.#gateway : this.#specified;
      const { changes, warnings } = await carryOut(this, { name, plan: { steps: [api.removal(name)], warnings: [] }, options });
      return { changes, warnings };
    });
  }

  close(): Promise<void> {
    return this.#connections.close();
  }

  #asksGateway(signal: AbortSignal | undefined): Promise<boolean> {
    this.#isGateway ??= this.#ask(signal).catch((error: unknown) => {
      this.#isGateway = undefined;
      throw error;
    });
    return this.#isGateway;
  }

  /** A platform that does not know the question is none of ours. */
  async #ask(signal: AbortSignal | undefined): Promise<boolean> {
    const { status, body } = await this.#requests.send({ method: 'GET', path: '/api/v1/info', signal });
    return status === 200 && fieldsOf(body)?.['name'] === 'blueprint-runner';
  }

  async #find(name: string, signal: AbortSignal | undefined): Promise<Present | undefined> {
    if (await this.#asksGateway(signal)) {
      const is = await this.#gateway.find(name, signal);
      if (!is) return undefined;
      if (is.handler !== BOOTSTRAP_HANDLER) return { via: 'gateway', is };
    }
    const is = await this.#specified.find(name, signal);
    return is && { via: 'specification', is };
  }

  async #own(name: string, signal: AbortSignal | undefined): Promise<Present | undefined> {
    const present = await this.#find(name, signal);
    if (present?.is.state.status !== 'foreign') return present;
    throw new RunnerError('RESOURCE_FOREIGN', `somebody else made the function ${name}: it is left as it is`, { details: { name } });
  }

  async #gatewayFunction(name: string, what: string, signal: AbortSignal | undefined): Promise<GatewayFunction> {
    if (!(await this.#asksGateway(signal))) throw this.#unsupported(what);
    const present = await this.#own(name, signal);
    if (!present) throw notFound(name);
    if (present.via !== 'gateway') throw this.#unsupported(what);
    return present.is;
  }

  #check(name: string, { code, config, options: { signal } }: Wanted): void {
    if (config.schedules?.length) throw this.#unsupported('has schedules');
    refuseUnfit(name, { platform: 'the platform', violations: this.violations(name, code, config), signal });
  }

  #unsupported(what: string): RunnerError {
    return new RunnerError('OPERATION_UNSUPPORTED', `the platform ${this.name} is not one that ${what}`);
  }
}

function asAWhole(name: string): string {
  return `the platform replaces ${name} as a whole; calls in between may fail`;
}

function notFound(name: string): RunnerError {
  return new RunnerError('FUNCTION_NOT_FOUND', `the platform has no function ${name}`, { details: { name } });
}
