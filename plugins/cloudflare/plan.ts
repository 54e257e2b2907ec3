/** What differs between a Worker as it is and as it should be, and the writes that make it so, in an order in which a cut does no harm. */

import { RunnerError, parseSchedule, warningsOf } from '../../src/plugin.ts';
import type { DeployChange, DeployOptions, FunctionConfig, FunctionPackage, FunctionSchedule } from '../../src/plugin.ts';
import type { Fields } from './client.ts';
import { functionOptionsOf } from './options.ts';
import type { CloudflareFunctionOptions } from './options.ts';
import { SCHEDULES_VARIABLE, cronsFor, cronsIn } from './schedules.ts';
import type { CronPlan } from './schedules.ts';
import { DIGESTS_VARIABLE, RESERVED, TOKEN_VARIABLE, digestOf, digestsIn } from './secrets.ts';
import type { Digests } from './secrets.ts';
import { MAIN_MODULE, moduleOf } from './upload.ts';
import type { Version, Worker, Workers } from './workers.ts';
import { tagsOf } from './workers.ts';

/** One or more requests that belong together. */
export interface Write {
  /** In words. */
  readonly what: string;
  run(signal: AbortSignal | undefined): Promise<void>;
}

export interface Plan {
  readonly changes: readonly DeployChange[];
  readonly writes: readonly Write[];
  readonly warnings: readonly string[];
}

export interface Wish {
  readonly present: Worker | undefined;
  readonly code?: FunctionPackage | undefined;
  readonly config: FunctionConfig;
  readonly options: DeployOptions;
}

/** What is known of secrets when a deployment begins. */
export interface Known {
  /** Of the Worker; undefined when it is public. */
  readonly token: string | undefined;
  /** For digests. */
  readonly key: string;
  /** Of `platform.secrets`; undefined when none are named. */
  readonly secrets: Readonly<Record<string, string>> | undefined;
}

const VARIABLE = /^[A-Za-z_$][\w$]*$/;
const COMPATIBILITY_DATE = '2026-08-01';
const COMPATIBILITY_FLAG = 'nodejs_compat';
const OBSERVABILITY = { enabled: true, head_sampling_rate: 1, logs: { enabled: true, invocation_logs: false } };
const CANNOT = ['concurrencyMax', 'instancesMin', 'logRetentionDays', 'ephemeralStorageMb', 'architecture'] as const;

export class Planner {
  readonly #workers: Workers;
  /** Whether Workers get an address below `workers.dev`. */
  readonly #isPublished: boolean;

  constructor(workers: Workers, { isPublished }: { readonly isPublished: boolean }) {
    this.#workers = workers;
    this.#isPublished = isPublished;
  }

  /** Throws `SCHEDULE_INVALID`, `SCHEDULE_LOSSY`, `LIMIT_EXCEEDED`, `CONFIG_INVALID`, `PACKAGE_INVALID`. */
  plan(name: string, wish: Wish, known: Known): Plan {
    const { present, code, config, options } = wish;
    const strict = options.strict ?? false;
    checkRuntime(config);
    const warnings = warningsOf(config, { platform: 'Cloudflare', cannot: CANNOT, strict });
    const version = present?.version;
    const crons = config.schedules && cronsFor(config.schedules, strict);
    const wanted = versionFor(version, wish, { known, crons });
    const isOtherCode = code !== undefined && code.sha256 !== version?.sha256;
    const fields = present ? fieldsOf(wish, wanted) : [];
    const schedules = crons ? scheduleChanges(present, config.schedules ?? [], crons) : [];
    const changes: DeployChange[] = [];
    const writes: Write[] = [];
    if (!present && code) {
      changes.push({ action: 'create', resource: 'function', id: name });
      writes.push(this.#creation(name, wish, wanted));
    } else if (present && (isOtherCode || fields.length > 0)) {
      const all = isOtherCode ? ['code', ...fields] : fields;
      changes.push({ action: 'update', resource: isOtherCode ? 'code' : 'configuration', id: name, fields: all });
    }
    changes.push(...schedules);
    const isMappedAnew = schedules.length > 0 && variableOf(version, SCHEDULES_VARIABLE) !== crons?.variable;
    if (present && (isOtherCode || isMappedAnew || fields.some((field) => field !== 'tags')))
      writes.push(this.#replacement(name, wish, wanted));
    if (present && config.tags && fields.includes('tags')) {
      const tags = [...present.ownTags, ...tagsOf(config.tags)];
      writes.push({ what: `tag Worker ${name}`, run: (signal) => this.#workers.tag(name, tags, signal) });
    }
    if (crons && crons.crons.join() !== (present?.crons ?? []).join()) writes.push(this.#timing(name, crons.crons));
    if (this.#isPublished && !present?.hasAddress) {
      changes.push({ action: present ? 'update' : 'create', resource: 'address', id: name });
      writes.push({ what: `publish Worker ${name}`, run: (signal) => this.#workers.publish(name, signal) });
    }
    return { changes, writes, warnings: [...warnings, ...(crons?.warnings ?? [])] };
  }

  /** To an earlier version, with the crons that belong to it. */
  rollback(present: Worker, target: Version): Plan {
    const { name, version } = present;
    const { crons } = cronsIn(variableOf(target, SCHEDULES_VARIABLE));
    const change: DeployChange = { action: 'update', resource: 'code', id: name, fields: ['version'] };
    const writes: Write[] = [
      { what: `deploy version ${target.number} of Worker ${name}`, run: (signal) => this.#workers.deploy(name, target.id, signal) },
    ];
    if (crons.join() !== present.crons.join()) writes.push(this.#timing(name, crons));
    const tokenOf = (each: Version | undefined): string | undefined => digestsIn(variableOf(each, DIGESTS_VARIABLE))[TOKEN_VARIABLE];
    const isOther = tokenOf(version) !== tokenOf(target);
    return { changes: [change], writes, warnings: isOther ? [`version ${target.number} takes another token from its callers`] : [] };
  }

  /** Its versions, crons and secrets go with it. */
  removal({ name }: Worker): Plan {
    return {
      changes: [{ action: 'delete', resource: 'function', id: name }],
      writes: [{ what: `remove Worker ${name}`, run: (signal) => this.#workers.delete(name, signal) }],
      warnings: [],
    };
  }

  #creation(name: string, { code, config }: Wish, wanted: Wanted): Write {
    const module = code && moduleOf(code, config.handler);
    return {
      what: `create Worker ${name}`,
      run: async (signal) => {
        if (!module) return;
        const metadata = { ...wanted.metadata, observability: OBSERVABILITY, tags: tagsOf(config.tags ?? {}) };
        await this.#workers.create(name, metadata, { module, signal });
      },
    };
  }

  #replacement(name: string, { code, config, present }: Wish, wanted: Wanted): Write {
    const given = code && moduleOf(code, config.handler);
    return {
      what: `upload and deploy a version of Worker ${name}`,
      run: async (signal) => {
        const module = given ?? (await this.#workers.module(name, present?.version?.id ?? '', signal));
        const id = await this.#workers.upload(name, wanted.metadata, { module: { ...module, name: module.name || MAIN_MODULE }, signal });
        await this.#workers.deploy(name, id, signal);
      },
    };
  }

  #timing(name: string, crons: readonly string[]): Write {
    return { what: `set the crons of Worker ${name}`, run: (signal) => this.#workers.schedule(name, crons, signal) };
  }
}

/** A version as it should be. */
interface Wanted {
  readonly metadata: Fields;
  readonly digests: Digests;
}

interface Parts {
  readonly known: Known;
  readonly crons: CronPlan | undefined;
}

function versionFor(version: Version | undefined, { present, code, config }: Wish, { known, crons }: Parts): Wanted {
  const platform = functionOptionsOf(config);
  const { description = version?.description, timeoutMs: cpuMs = version?.cpuMs } = config;
  checkNames(config, known);
  const digests = digestsFor(version, { known, config });
  const sha256 = code?.sha256 ?? version?.sha256;
  const placement = platform.placement ?? present?.placement;
  const variables = {
    ...(config.environment ?? without(environmentOf(version), Object.keys(digests))),
    [SCHEDULES_VARIABLE]: crons ? crons.variable : variableOf(version, SCHEDULES_VARIABLE),
    [DIGESTS_VARIABLE]: Object.keys(digests).length === 0 ? undefined : canonical(digests),
  };
  const metadata = {
    compatibility_date: platform.compatibilityDate ?? version?.compatibilityDate ?? COMPATIBILITY_DATE,
    compatibility_flags: flagsFor(platform, version),
    bindings: [
      ...Object.entries(variables).flatMap(([name, text]) => (text === undefined ? [] : [{ type: 'plain_text', name, text }])),
      ...secretsFor(version, { digests, known }),
      ...inherited(version),
    ],
    annotations: {
      ...(sha256 !== undefined && { 'workers/tag': sha256 }),
      ...(description !== undefined && { 'workers/message': description }),
    },
    ...(cpuMs !== undefined && { limits: { cpu_ms: cpuMs } }),
    ...(placement === 'smart' && { placement: { mode: 'smart' } }),
  };
  return { metadata, digests };
}

function flagsFor({ compatibilityFlags }: CloudflareFunctionOptions, version: Version | undefined): readonly string[] {
  if (compatibilityFlags === undefined && version) return version.compatibilityFlags;
  return [...new Set([COMPATIBILITY_FLAG, ...(compatibilityFlags ?? [])])];
}

function without(record: Readonly<Record<string, string>>, names: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(record).filter(([name]) => !names.includes(name)));
}

/** A name is that of one variable. Throws `CONFIG_INVALID`. */
function checkNames({ environment = {} }: FunctionConfig, { secrets = {} }: Known): void {
  for (const name of Object.keys(secrets)) {
    if (RESERVED.includes(name) || !VARIABLE.test(name))
      throw new RunnerError('CONFIG_INVALID', `${name} cannot be the name of a secret`, { details: { name } });
    if (Object.hasOwn(environment, name))
      throw new RunnerError('CONFIG_INVALID', `${name} is a variable of the environment and a secret: it can be one of them`, {
        details: { name },
      });
  }
}

/** Those that are not named stay, with what is known of them. */
function digestsFor(version: Version | undefined, { known, config }: { readonly known: Known; readonly config: FunctionConfig }): Digests {
  const { token, key, secrets } = known;
  const plain = Object.keys(config.environment ?? {});
  const before = without(digestsIn(variableOf(version, DIGESTS_VARIABLE)), [TOKEN_VARIABLE, ...plain]);
  const named = secrets && Object.fromEntries(Object.entries(secrets).map(([name, value]) => [name, digestOf(key, name, value)]));
  return { ...(named ?? before), ...(token !== undefined && { [TOKEN_VARIABLE]: digestOf(key, TOKEN_VARIABLE, token) }) };
}

/** A secret that is there already is taken over from the version that has it. */
function secretsFor(version: Version | undefined, { digests, known }: { readonly digests: Digests; readonly known: Known }): Fields[] {
  const before = digestsIn(variableOf(version, DIGESTS_VARIABLE));
  return Object.keys(digests).map((name) => {
    const value = name === TOKEN_VARIABLE ? known.token : known.secrets?.[name];
    const isThere = version?.bindings.some((each) => each['name'] === name && each['type'] === 'secret_text');
    if (version && isThere && (value === undefined || before[name] === digests[name]))
      return { type: 'inherit', name, version_id: version.id };
    return { type: 'secret_text', name, text: value ?? '' };
  });
}

/** What others bound to the Worker: databases, buckets, secrets of their own. */
function inherited(version: Version | undefined): Fields[] {
  if (!version) return [];
  const ours = new Set([...Object.keys(digestsIn(variableOf(version, DIGESTS_VARIABLE))), ...RESERVED]);
  return version.bindings
    .filter(({ type, name }) => type !== 'plain_text' && !ours.has(String(name)))
    .map(({ name }) => ({ type: 'inherit', name, version_id: version.id }));
}

/** Which fields differ, besides the code and the schedules. */
function fieldsOf({ present, config }: Wish, wanted: Wanted): string[] {
  const version = present?.version;
  const platform = functionOptionsOf(config);
  const before = digestsIn(variableOf(version, DIGESTS_VARIABLE));
  const differs: Readonly<Record<string, boolean>> = {
    description: config.description !== undefined && config.description !== version?.description,
    timeoutMs: config.timeoutMs !== undefined && config.timeoutMs !== version?.cpuMs,
    environment: config.environment !== undefined && canonical(config.environment) !== canonical(environmentOf(version)),
    tags: config.tags !== undefined && canonical(config.tags) !== canonical(present?.tags),
    secrets: canonical(without(wanted.digests, [TOKEN_VARIABLE])) !== canonical(without(before, [TOKEN_VARIABLE])),
    token: wanted.digests[TOKEN_VARIABLE] !== before[TOKEN_VARIABLE],
    compatibilityDate: platform.compatibilityDate !== undefined && platform.compatibilityDate !== version?.compatibilityDate,
    compatibilityFlags: flagsFor(platform, version).toSorted().join() !== (version?.compatibilityFlags ?? []).toSorted().join(),
    placement: platform.placement !== undefined && platform.placement !== present?.placement,
    // Somebody sends a part of the calls to another version.
    traffic: present?.isWhole === false,
  };
  return Object.keys(differs).filter((field) => differs[field]);
}

function scheduleChanges(present: Worker | undefined, wanted: readonly FunctionSchedule[], { crons }: CronPlan): DeployChange[] {
  const before = new Map(cronsIn(variableOf(present?.version, SCHEDULES_VARIABLE)).schedules.map((each) => [each.name, canonical(each)]));
  const changes = wanted.flatMap(({ name: id, schedule, event }): DeployChange[] => {
    const has = before.get(id);
    if (has === undefined) return [{ action: 'create', resource: 'schedule', id }];
    const is = canonical({ name: id, schedule: parseSchedule(schedule), ...(event !== undefined && { event }) });
    return has === is ? [] : [{ action: 'update', resource: 'schedule', id }];
  });
  for (const id of before.keys()) if (!wanted.some(({ name }) => name === id)) changes.push({ action: 'delete', resource: 'schedule', id });
  // The schedules are known and their crons are not there: somebody changed them, or a deployment was cut off.
  if (changes.length === 0 && crons.join() !== (present?.crons ?? []).join())
    changes.push({ action: 'update', resource: 'schedule', id: 'crons' });
  return changes;
}

export function variableOf(version: Version | undefined, name: string): string | undefined {
  const binding = version?.bindings.find((each) => each['name'] === name && each['type'] === 'plain_text');
  return binding && String(binding['text']);
}

/** The variables that a user gave. */
export function environmentOf(version: Version | undefined): Readonly<Record<string, string>> {
  const variables = (version?.bindings ?? []).filter(({ type, name }) => type === 'plain_text' && !RESERVED.includes(String(name)));
  return Object.fromEntries(variables.map(({ name, text }) => [String(name), String(text)]));
}

/** The same text for what is equal. */
function canonical(value: unknown): string {
  return (
    JSON.stringify(value, (_, each: unknown) =>
      typeof each === 'object' && each !== null && !Array.isArray(each)
        ? Object.fromEntries(Object.entries(each).toSorted(([a], [b]) => (a < b ? -1 : 1)))
        : each,
    ) ?? ''
  );
}

function checkRuntime({ runtime }: FunctionConfig): void {
  if (runtime !== undefined && !/^nodejs\d+(?:\.x)?$/.test(runtime))
    throw new RunnerError(
      'RUNTIME_UNSUPPORTED',
      `a Worker runs modules of JavaScript, with what nodejs_compat offers; it has no runtime ${runtime}`,
    );
}
