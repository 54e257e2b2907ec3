/** Reads the keys of the deployment policy: checks each, and knows who said it. Pure. */

import { RunnerError } from '../errors.ts';
import { isObject } from './policy-file.ts';
import type { Environment, SettingsDocument } from './policy-file.ts';
import { CLOUDS, DEFAULT_DOCUMENT, FAAS_TYPES, PROVIDER_FIELDS, STRATEGIES, providerOf, readStandIn } from './policy-model.ts';
import type { Cloud, DeploymentPolicy, FaasProvider, JobPolicy, ProviderField } from './policy-model.ts';

export type ValueSource = 'default' | 'file' | 'env' | 'flag';

export interface PolicyValue {
  /** As it is spelled in the file: `serverless.default_memory_mb`. */
  readonly key: string;
  readonly value: unknown;
  readonly source: ValueSource;
  /** The environment variable that said it. */
  readonly from?: string;
}

export interface ParsedPolicy {
  readonly policy: DeploymentPolicy;
  /** Every value, in the order of the file format. */
  readonly values: readonly PolicyValue[];
  /** What is wrong, each beginning with its key. A value that is wrong is the default in `policy`. */
  readonly problems: readonly string[];
  /** Keys of the file that mean nothing here. */
  readonly unknownKeys: readonly string[];
}

const JOB_INDEX_MAX = 255;
const JOB_KEYS = ['endpoint', 'provider', 'memory_mb', 'timeout_secs', 'local'];
const UINT32_MAX = 4_294_967_295;

/** A value that fits, or why it does not. */
type Check<T> = (value: unknown) => { readonly value: T } | string;

/** Reads a document, and what the environment says instead. Never throws. */
export function parsePolicy(document: SettingsDocument, env: Environment): ParsedPolicy {
  const reader = new PolicyReader(document, env);
  const policy: DeploymentPolicy = {
    providers: {
      gpu: reader.take('providers.gpu_providers', clouds),
      cpuIntensive: reader.take('providers.cpu_intensive', clouds),
      memoryIntensive: reader.take('providers.memory_intensive', clouds),
      costOptimized: reader.take('providers.cost_optimized', clouds),
    },
    costLimits: {
      maxHourlyCost: reader.takeOptional('cost_limits.max_hourly_cost', amount),
      preferSpot: reader.take('cost_limits.prefer_spot', flag),
      autoTerminateAfterHours: reader.takeOptional('cost_limits.auto_terminate_after_hours', count),
      strategy: reader.take('cost_limits.optimization_strategy', oneOf(STRATEGIES)),
    },
    regions: {
      preferred: reader.take('regions.preferred_regions', texts),
      allowFallback: reader.take('regions.allow_fallback_regions', flag),
      maxLatencyMs: reader.takeOptional('regions.max_latency_ms', count),
    },
    failover: {
      retriesMax: reader.take('failover.max_retries', count),
      retryDelayMs: reader.take('failover.retry_delay_seconds', count) * 1000,
      differentRegions: reader.take('failover.retry_different_regions', flag),
      differentProviders: reader.take('failover.retry_different_providers', flag),
    },
    serverless: {
      enable: reader.take('serverless.enable', flag, 'BPR_SERVERLESS'),
      provider: reader.takeProvider(),
      memoryMb: reader.take('serverless.default_memory_mb', positive, 'BPR_FAAS_MEMORY'),
      timeoutMs: reader.take('serverless.default_timeout_secs', positive, 'BPR_FAAS_TIMEOUT') * 1000,
      fallbackToVm: reader.take('serverless.fallback_to_vm', flag, 'BPR_SERVERLESS_FALLBACK'),
      jobs: reader.takeJobs(),
    },
  };
  return { policy, values: reader.values, problems: reader.problems, unknownKeys: reader.unknownKeys() };
}

class PolicyReader {
  readonly values: PolicyValue[] = [];
  readonly problems: string[] = [];
  readonly #document: SettingsDocument;
  readonly #env: Environment;
  readonly #known: string[] = [];
  /** Keys below known ones that mean nothing. */
  readonly #ignored: string[] = [];

  constructor(document: SettingsDocument, env: Environment) {
    this.#document = document;
    this.#env = env;
    for (const section of Object.keys(DEFAULT_DOCUMENT)) {
      const found = document[section];
      if (found !== undefined && !isObject(found)) this.problems.push(`${section} is ${shown(found)}, not an object`);
    }
  }

  take<T>(key: string, check: Check<T>, variable?: string): T {
    this.#known.push(key);
    const said = variable === undefined ? undefined : this.#env[variable];
    if (variable !== undefined && said !== undefined && said !== '') {
      const checked = check(fromText(said));
      if (typeof checked !== 'string') return this.#note(key, checked.value, { source: 'env', from: variable });
      this.problems.push(`${variable} is ${shown(said)}; ${checked}`);
    }
    const found = valueAt(this.#document, key);
    if (found !== undefined) {
      const checked = check(found);
      if (typeof checked !== 'string') return this.#note(key, checked.value, { source: 'file' });
      this.problems.push(`${key} is ${shown(found)}; ${checked}`);
    }
    const fallback = check(valueAt(DEFAULT_DOCUMENT, key));
    if (typeof fallback === 'string') throw new RunnerError('INTERNAL', `the default of ${key} is wrong: ${fallback}`);
    return this.#note(key, fallback.value, { source: 'default' });
  }

  /** Null means no limit; so does a key that is absent from a section that is there, as for the other reader of the file. */
  takeOptional<T>(key: string, check: Check<T>): T | null {
    const section = this.#document[key.split('.')[0] ?? ''];
    const found = valueAt(this.#document, key);
    if (found === null || (found === undefined && isObject(section))) {
      this.#known.push(key);
      return this.#note(key, null, { source: 'file' });
    }
    return this.take(key, check);
  }

  takeProvider(): FaasProvider {
    const key = 'serverless.provider';
    this.#known.push(key);
    const found = valueAt(this.#document, key);
    if (found !== undefined && !isObject(found)) this.problems.push(`${key} is ${shown(found)}, not an object`);
    const written = isObject(found) ? readStandIn(found) : undefined;
    const asked = this.#env['BPR_FAAS_PROVIDER'];
    if (asked !== undefined && asked !== '' && asked !== written?.['type'])
      return this.#provider(key, { type: asked }, { source: 'env', from: 'BPR_FAAS_PROVIDER' });
    return this.#provider(key, written ?? DEFAULT_DOCUMENT.serverless.provider, { source: written ? 'file' : 'default' });
  }

  #provider(key: string, written: SettingsDocument, said: Pick<PolicyValue, 'source' | 'from'>): FaasProvider {
    const type = oneOf(FAAS_TYPES)(written['type']);
    if (typeof type === 'string') {
      this.problems.push(`${said.from ?? `${key}.type`} is ${shown(written['type'])}; ${type}`);
      return DEFAULT_DOCUMENT.serverless.provider;
    }
    this.#note(`${key}.type`, type.value, said);
    const fields = PROVIDER_FIELDS[type.value];
    for (const name of Object.keys(written)) if (name !== 'type' && !(name in fields)) this.#ignored.push(`${key}.${name}`);
    return providerOf(type.value, (name) =>
      this.#providerField(`${key}.${name}`, said.source === 'file' ? written[name] : undefined, fields[name]),
    );
  }

  /** What the file leaves out is said by the variables that the provider's own tools use. */
  #providerField(key: string, written: unknown, field: ProviderField | undefined): string {
    if (typeof written === 'string' && written !== '') {
      const checked = (key.endsWith('.endpoint') ? url : text)(written);
      if (typeof checked !== 'string') return this.#note(key, checked.value, { source: 'file' });
      this.problems.push(`${key} is ${shown(written)}; ${checked}`);
      return written;
    }
    if (written !== undefined && written !== '') this.problems.push(`${key} is ${shown(written)}; it must be a text`);
    for (const variable of field?.env ?? []) {
      const said = this.#env[variable];
      if (said !== undefined && said !== '') return this.#note(key, said, { source: 'env', from: variable });
    }
    if (field?.fallback === undefined && written === undefined) this.problems.push(`${key} is missing`);
    return this.#note(key, field?.fallback ?? '', { source: 'default' });
  }

  takeJobs(): ReadonlyMap<number, JobPolicy> {
    const key = 'serverless.jobs';
    this.#known.push(key);
    const found = valueAt(this.#document, key);
    const jobs = new Map<number, JobPolicy>();
    if (found === undefined) return jobs;
    if (!isObject(found)) {
      this.problems.push(`${key} is ${shown(found)}, not an object`);
      return jobs;
    }
    for (const [id, written] of Object.entries(found)) {
      const index = Number(id);
      if (!/^\d{1,3}$/.test(id) || index > JOB_INDEX_MAX)
        this.problems.push(`${key}.${id} is not the index of a job, 0 to ${JOB_INDEX_MAX}`);
      else if (!isObject(written)) this.problems.push(`${key}.${id} is ${shown(written)}, not an object`);
      else jobs.set(index, this.#job(`${key}.${id}`, written));
    }
    return jobs;
  }

  #job(key: string, written: SettingsDocument): JobPolicy {
    for (const name of Object.keys(written)) if (!JOB_KEYS.includes(name)) this.#ignored.push(`${key}.${name}`);
    const optional = <T>(name: string, check: Check<T>): T | undefined => {
      const found = written[name];
      if (found === undefined) return undefined;
      const checked = check(found);
      if (typeof checked !== 'string') return this.#note(`${key}.${name}`, checked.value, { source: 'file' });
      this.problems.push(`${key}.${name} is ${shown(found)}; ${checked}`);
      return undefined;
    };
    const endpoint = optional('endpoint', url);
    const memoryMb = optional('memory_mb', positive);
    const seconds = optional('timeout_secs', positive);
    const local = optional('local', flag);
    const provider = written['provider'];
    if (provider !== undefined && !isObject(provider)) this.problems.push(`${key}.provider is ${shown(provider)}, not an object`);
    return {
      ...(endpoint !== undefined && { endpoint }),
      ...(isObject(provider) && { provider: this.#provider(`${key}.provider`, readStandIn(provider), { source: 'file' }) }),
      ...(memoryMb !== undefined && { memoryMb }),
      ...(seconds !== undefined && { timeoutMs: seconds * 1000 }),
      ...(local !== undefined && { local }),
    };
  }

  /** Keys of the document that nobody asked for. */
  unknownKeys(): string[] {
    const unknown = (value: SettingsDocument, prefix: string): string[] =>
      Object.entries(value).flatMap(([name, item]) => {
        const key = `${prefix}${name}`;
        if (this.#known.includes(key)) return [];
        if (!this.#known.some((known) => known.startsWith(`${key}.`))) return [key];
        return isObject(item) ? unknown(item, `${key}.`) : [];
      });
    return [...unknown(this.#document, ''), ...this.#ignored];
  }

  #note<T>(key: string, value: T, said: Pick<PolicyValue, 'source' | 'from'>): T {
    this.values.push({ key, value, ...said });
    return value;
  }
}

export function valueAt(document: SettingsDocument, key: string): unknown {
  let value: unknown = document;
  for (const name of key.split('.')) value = isObject(value) && Object.hasOwn(value, name) ? value[name] : undefined;
  return value;
}

function shown(value: unknown): string {
  const written = JSON.stringify(value) ?? String(value);
  return written.length > 80 ? `${written.slice(0, 77)}...` : written;
}

/** What a variable says, as the file would. */
function fromText(said: string): unknown {
  if (said === 'true' || said === 'false') return said === 'true';
  return /^\d+$/.test(said) ? Number(said) : said;
}

const fits = <T>(value: T): { readonly value: T } => ({ value });
const flag: Check<boolean> = (value) => (typeof value === 'boolean' ? fits(value) : 'it must be true or false');
const text: Check<string> = (value) => (typeof value === 'string' ? fits(value) : 'it must be a text');
const amount: Check<number> = (value) =>
  typeof value === 'number' && Number.isFinite(value) && value >= 0 ? fits(value) : 'it must be a number, 0 or more';
const whole =
  (min: number): Check<number> =>
  (value) =>
    typeof value === 'number' && Number.isInteger(value) && value >= min && value <= UINT32_MAX
      ? fits(value)
      : `it must be a whole number from ${min} to ${UINT32_MAX}`;
const count = whole(0);
const positive = whole(1);
const oneOf =
  <T extends string>(names: readonly T[]): Check<T> =>
  (value) => {
    const found = names.find((name) => name === value);
    return found === undefined ? `it must be one of ${names.join(', ')}` : fits(found);
  };
const texts: Check<readonly string[]> = (value) =>
  Array.isArray(value) && value.every((item): item is string => typeof item === 'string' && item !== '')
    ? fits(value)
    : 'it must be a list of texts';
const clouds: Check<readonly Cloud[]> = (value) => {
  const found = Array.isArray(value) ? value.map((item: unknown) => CLOUDS.find((cloud) => cloud === item)) : [undefined];
  const known = found.filter((cloud) => cloud !== undefined);
  return known.length === found.length ? fits(known) : `it must be a list of ${CLOUDS.join(', ')}`;
};
/** Credentials do not belong into a file that is shown. */
const url: Check<string> = (value) => {
  const parsed = typeof value === 'string' ? URL.parse(value) : null;
  if (typeof value !== 'string' || !parsed || !/^https?:$/.test(parsed.protocol)) return 'it must be an http or https URL';
  return parsed.username === '' && parsed.password === '' ? fits(value) : 'it must not carry credentials';
};
