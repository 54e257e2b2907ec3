/**
 * Puts functions on Acme. Every operation reads what is there, plans what differs, and writes only that; so it can be repeated, and what
 * was interrupted converges when it is run again. Keep the order of the steps: what others depend on is made first and removed last.
 */

import { RunnerError, carryOut, logFilter, refuseUnfit, rollbackTarget, warningsOf } from '../../../src/plugin.ts';
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
  Step,
} from '../../../src/plugin.ts';
import { AcmeClient } from './client.ts';
import type { PlatformFunction, Settings } from './client.ts';
import { acmeOptions } from './options.ts';
import type { AcmeOptions } from './options.ts';
import { removalSteps, scheduleSteps } from './schedules.ts';

const NAME = /^[a-z][a-z0-9-]{0,62}$/;
/** Limits of the platform. */
const BOUNDS = { memoryMb: [128, 4_096], timeoutMs: [1_000, 900_000] } as const;
const ZIP_BYTES_MAX = 50 * 1024 * 1024;
const SETTINGS = ['description', 'memoryMb', 'timeoutMs', 'environment'] as const;
/** Settings that the platform does not know; whoever asks for one is told. */
const UNKNOWN = ['ephemeralStorageMb', 'architecture', 'concurrencyMax', 'instancesMin', 'tags', 'logRetentionDays'] as const;
const POLL_MS = 1_000;
const CALL_MS_MAX = 900_000;
const NO_CODE: FunctionPackage = { zip: new Uint8Array(), sha256: '' };

interface Wanted {
  /** Absent: the code stays. */
  readonly code?: FunctionPackage;
  readonly config: FunctionConfig;
  readonly options: DeployOptions;
}

/**
 * @example
 * const deployer = new AcmeDeployer({ url: 'https://api.acme.example' }, systemClock);
 * const { state } = await deployer.deploy('my-jobs', { zip, sha256 }, { memoryMb: 512 });
 */
export class AcmeDeployer implements FaasDeployer {
  readonly name = 'acme';
  readonly #options: AcmeOptions;
  readonly #client: AcmeClient;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: AcmeOptions, clock: Clock) {
    this.#options = acmeOptions(options);
    this.#client = new AcmeClient(options, clock);
  }

  violations(name: string, code: FunctionPackage, config: FunctionConfig): readonly LimitViolation[] {
    const broken: LimitViolation[] = [];
    const violated = (limit: string, value: number | string, allowed: string): void =>
      void broken.push({ limit, value, allowed, message: `${limit} is ${value}; it must be ${allowed}` });
    if (!NAME.test(name)) violated('name', name, 'up to 63 lower-case letters, digits and dashes, beginning with a letter');
    if (code.zip.length > ZIP_BYTES_MAX) violated('zipBytes', code.zip.length, `up to ${ZIP_BYTES_MAX}`);
    for (const limit of ['memoryMb', 'timeoutMs'] as const) {
      const [min, max] = BOUNDS[limit];
      const value = config[limit];
      if (value !== undefined && (value < min || value > max)) violated(limit, value, `from ${min} to ${max}`);
    }
    return broken;
  }

  async deploy(name: string, code: FunctionPackage, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    this.#check(name, { code, config, options });
    return this.#apply(name, await this.#own(name, options.signal), { code, config, options });
  }

  async updateCode(name: string, code: FunctionPackage, options: DeployOptions = {}): Promise<DeployReport> {
    this.#check(name, { code, config: {}, options });
    return this.#apply(name, await this.#there(name, options.signal), { code, config: {}, options });
  }

  async updateConfiguration(name: string, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    this.#check(name, { config, options });
    return this.#apply(name, await this.#there(name, options.signal), { config, options });
  }

  async describe(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<FunctionState | undefined> {
    const is = await this.#client.find(name, signal);
    return is && this.#state(is, is.isOurs ? await this.#client.schedules(name, signal) : []);
  }

  async *list({ all = false, signal }: { readonly all?: boolean; readonly signal?: AbortSignal } = {}): AsyncGenerator<FunctionState> {
    for await (const is of this.#client.list(signal)) if (all || is.isOurs) yield this.#state(is, []);
  }

  async invoke(
    name: string,
    event: Uint8Array,
    { type = 'sync', version, signal }: { readonly type?: InvocationType; readonly version?: string; readonly signal?: AbortSignal } = {},
  ): Promise<FunctionInvocation> {
    if (version !== undefined) throw new RunnerError('OPERATION_UNSUPPORTED', 'Acme calls only the current version of a function');
    const is = await this.#client.find(name, signal);
    if (!is) throw notFound(name);
    if (type === 'dry-run') return { body: new Uint8Array(), failed: false };
    if (type === 'sync') return this.#client.call(name, event, { deadline: this.#client.clock.now() + CALL_MS_MAX, signal });
    await this.#client.start(name, event, signal);
    return { body: new Uint8Array(), failed: false };
  }

  async *logs(name: string, query: LogQuery = {}): AsyncGenerator<LogEntry> {
    const { limit = 100, follow = false, signal } = query;
    if (!(await this.#client.find(name, signal))) throw notFound(name);
    const isWanted = logFilter(query);
    const first = await this.#client.lines(name, 0, signal);
    let position = first.at(-1)?.position ?? 0;
    yield* first.filter(isWanted).slice(-limit);
    while (follow && !signal?.aborted) {
      // The signal ends the wait, and then the log.
      await this.#client.clock.sleep(POLL_MS, signal).catch(() => {});
      if (signal?.aborted) return;
      for (const line of await this.#client.lines(name, position, signal)) {
        position = line.position;
        if (isWanted(line)) yield line;
      }
    }
  }

  async versions(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<readonly FunctionVersionInfo[]> {
    const is = await this.#there(name, signal);
    const versions = await this.#client.versions(name, signal);
    return versions.map((each) => ({ ...each, current: each.version === is.version }));
  }

  async rollback(name: string, version?: string, options: DeployOptions = {}): Promise<DeployReport> {
    const target = rollbackTarget(name, await this.versions(name, options), version);
    const run: Step['run'] = (signal) => this.#client.select(name, target.version, signal);
    const steps: Step[] = target.current ? [] : [{ change: { action: 'update', resource: 'code', id: name }, run }];
    return carryOut(this, { name, plan: { steps, warnings: [] }, options });
  }

  async remove(name: string, options: DeployOptions = {}): Promise<DeployReport> {
    const is = await this.#own(name, options.signal);
    if (!is) return { changes: [], warnings: [] };
    const steps = removalSteps(name, this.#client, await this.#client.schedules(name, options.signal));
    steps.push({
      change: { action: 'delete', resource: 'function', id: name },
      run: (signal) => this.#client.remove(name, signal),
    });
    const { changes, warnings } = await carryOut(this, { name, plan: { steps, warnings: [] }, options });
    return { changes, warnings };
  }

  close(): Promise<void> {
    return this.#client.close();
  }

  async #apply(name: string, is: PlatformFunction | undefined, { code, config, options }: Wanted): Promise<DeployReport> {
    const warnings = warningsOf(config, { platform: 'Acme', cannot: UNKNOWN, strict: options.strict });
    const present = is ? await this.#client.schedules(name, options.signal) : [];
    const schedules = scheduleSteps(name, this.#client, { present, wanted: config.schedules, options });
    const steps = [...this.#functionSteps(name, is, { code, config }), ...schedules.steps];
    return carryOut(this, { name, plan: { steps, warnings: [...warnings, ...schedules.warnings] }, options });
  }

  /** The platform writes code and configuration at once: one step, or none. */
  #functionSteps(
    name: string,
    is: PlatformFunction | undefined,
    { code, config }: Pick<Wanted, 'config'> & { code: FunctionPackage | undefined },
  ): Step[] {
    const settings: Settings = { ...is?.settings, ...settingsIn(config) };
    const fields: string[] = SETTINGS.filter((field) => JSON.stringify(settings[field]) !== JSON.stringify(is?.settings[field]));
    const isNewCode = code !== undefined && code.sha256 !== is?.sha256;
    if (isNewCode) fields.unshift('code');
    if (is && fields.length === 0) return [];
    const run: Step['run'] = (signal) => this.#client.put(name, { settings, zip: isNewCode ? code.zip : undefined }, signal);
    if (!is) return [{ change: { action: 'create', resource: 'function', id: name }, run }];
    return [{ change: { action: 'update', resource: 'function', id: name, fields }, run }];
  }

  #check(name: string, { code = NO_CODE, config, options }: Wanted): void {
    refuseUnfit(name, { platform: 'Acme', violations: this.violations(name, code, config), signal: options.signal });
  }

  async #own(name: string, signal: AbortSignal | undefined): Promise<PlatformFunction | undefined> {
    const is = await this.#client.find(name, signal);
    if (!is || is.isOurs) return is;
    throw new RunnerError('RESOURCE_FOREIGN', `somebody else made the function ${name}: it is left as it is`, { details: { name } });
  }

  async #there(name: string, signal: AbortSignal | undefined): Promise<PlatformFunction> {
    const is = await this.#own(name, signal);
    if (!is) throw notFound(name);
    return is;
  }

  #state(
    { name, isOurs, sha256, version, updatedAt, settings }: PlatformFunction,
    schedules: readonly { source: FunctionScheduleOf }[],
  ): FunctionState {
    const { url, token = 'env:ACME_TOKEN' } = this.#options;
    const variable = typeof token === 'string' && token.startsWith('env:') ? token.slice('env:'.length) : undefined;
    return {
      name,
      id: `acme:${name}`,
      status: isOurs ? 'active' : 'foreign',
      ...(isOurs && { sha256 }),
      version,
      updatedAt,
      config: { ...settings, ...(schedules.length > 0 && { schedules: schedules.map(({ source }) => source) }) },
      executor: {
        use: 'acme',
        options: { url, function: name, ...(typeof token === 'string' && { token }) },
        ...(variable !== undefined && { environment: [variable] }),
      },
      resources: schedules.map(({ source }) => ({ kind: 'schedule', id: `${name}/${source.name}` })),
    };
  }
}

type FunctionScheduleOf = NonNullable<FunctionConfig['schedules']>[number];

function settingsIn(config: FunctionConfig): Settings {
  return Object.fromEntries(SETTINGS.flatMap((field) => (config[field] === undefined ? [] : [[field, config[field]]])));
}

function notFound(name: string): RunnerError {
  return new RunnerError('FUNCTION_NOT_FOUND', `Acme has no function ${name}`, { details: { name } });
}
