import { createHash } from 'node:crypto';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { RunnerError, isRunnerError } from '../errors.ts';
import type {
  DeployChange,
  DeployOptions,
  DeployReport,
  FaasDeployer,
  FunctionConfig,
  FunctionInvocation,
  FunctionPackage,
  FunctionSchedule,
  FunctionState,
  FunctionVersionInfo,
  InvocationType,
  LimitViolation,
  LogEntry,
  LogQuery,
} from '../executor/deployer.ts';
import { checkDeployer, conformanceFunction, deployerCases, runDeployerConformance } from './deployer.ts';
import type { Connection, DeployerPlatform, DeployerUnderTest } from './deployer.ts';

/** Ways to get it wrong. */
type Bug =
  | 'deploys the code again'
  | 'deletes no schedules'
  | 'leaves schedules behind'
  | 'changes what is foreign'
  | 'removes what is foreign'
  | 'writes in a dry run'
  | 'plans less than it does'
  | 'tells one limit at a time'
  | 'checks limits after the first write'
  | 'gives up when throttled'
  | 'tells secrets'
  | 'merges the environment'
  | 'forgets the configuration'
  | 'has a gap while code is replaced'
  | 'reports before the new code runs'
  | 'lists one page'
  | 'lists what is foreign'
  | 'logs the newest first'
  | 'logs the oldest so many'
  | 'ignores since'
  | 'ignores search'
  | 'follows twice'
  | 'runs a dry run'
  | 'waits for async'
  | 'marks before it uploads'
  | 'takes a lost create for another one'
  | 'rolls back to itself'
  | 'invents old versions'
  | 'fails the second removal'
  | 'hides failures of functions'
  | 'says unreachable wrongly'
  | 'asks the platform when aborted'
  | 'says nothing';

interface Code {
  readonly sha256: string;
  readonly source: string;
}

interface Entry {
  readonly owner: 'us' | 'them';
  config: FunctionConfig;
  mark?: string;
  readonly versions: Code[];
  current: number;
  readonly logs: LogEntry[];
}

const PAGE = 50;
const TRIES_MAX = 5;

class Cloud {
  readonly functions = new Map<string, Entry>();
  readonly schedules = new Map<string, FunctionSchedule>();
  writes = 0;
  throttled = 0;
  writesLeft = Number.POSITIVE_INFINITY;
  #time = Date.now();

  async read<T>(look: () => T): Promise<T> {
    await this.#arrive();
    return look();
  }

  async write<T>(change: () => T): Promise<T> {
    await this.#arrive();
    this.writes += 1;
    this.writesLeft -= 1;
    const result = change();
    this.#lost();
    return result;
  }

  log(entry: Entry, message: string): void {
    entry.logs.push({ at: (this.#time += 1), message });
  }

  async run({ versions, current, config }: Entry, event: Uint8Array, entry: Entry): Promise<FunctionInvocation> {
    const code = versions[current];
    if (!code) throw new RunnerError('DEPLOY_FAILED', 'there is no code');
    const context = { console: { log: (message: string) => this.log(entry, message) }, setTimeout: globalThis.setTimeout };
    const run = runInNewContext(code.source, context) as (event: unknown, environment: unknown) => Promise<unknown>;
    try {
      return {
        failed: false,
        body: Buffer.from(JSON.stringify(await run(JSON.parse(Buffer.from(event).toString()), config.environment ?? {}))),
      };
    } catch (error) {
      return { failed: true, body: Buffer.from(JSON.stringify({ message: String(error) })) };
    }
  }

  async #arrive(): Promise<void> {
    await setImmediate();
    this.#lost();
    if (this.throttled > 0) {
      this.throttled -= 1;
      throw new RunnerError('PLATFORM_THROTTLED', 'the platform has too many requests');
    }
  }

  #lost(): void {
    if (this.writesLeft <= 0) throw new RunnerError('PLATFORM_UNREACHABLE', 'the connection was lost');
  }
}

interface Step {
  readonly change: DeployChange;
  readonly apply: (entry: Entry) => void;
}

class MemoryDeployer implements FaasDeployer {
  readonly name = 'memory';
  readonly #cloud: Cloud;
  readonly #how: Connection;
  readonly #bug: Bug | undefined;

  constructor(cloud: Cloud, how: Connection, bug: Bug | undefined) {
    this.#cloud = cloud;
    this.#how = how;
    this.#bug = bug;
  }

  violations(_: string, __: FunctionPackage, { memoryMb = 0, timeoutMs = 0 }: FunctionConfig): readonly LimitViolation[] {
    const limits = [
      { limit: 'memoryMb', value: memoryMb, max: 10_000 },
      { limit: 'timeoutMs', value: timeoutMs, max: 900_000 },
    ];
    const broken = limits
      .filter(({ value, max }) => value > max)
      .map(({ limit, value, max }) => ({ limit, value, allowed: `up to ${max}`, message: `${limit} is ${value}` }));
    return this.#bug === 'tells one limit at a time' ? broken.slice(0, 1) : broken;
  }

  async deploy(name: string, code: FunctionPackage, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    if (this.#bug === 'checks limits after the first write' && !options.dryRun && this.violations(name, code, config).length > 0)
      await this.#write(() => this.#cloud.functions.set(name, entryOf({})));
    this.#check(name, code, config, options);
    if (config.schedules?.some(({ schedule }) => schedule.kind === 'calendar' && schedule.expression.includes('every')))
      throw new RunnerError('SCHEDULE_INVALID', 'the expression means nothing');
    const entry = await this.#own(name);
    const steps: Step[] = [];
    if (!entry || this.#bug === 'takes a lost create for another one')
      steps.push({ change: { action: 'create', resource: 'function', id: name }, apply: () => {} });
    steps.push(...this.#configurationSteps(name, config, entry), ...this.#codeSteps(name, code, entry));
    steps.push(...this.#scheduleSteps(name, config));
    return this.#apply(name, steps, options);
  }

  async updateCode(name: string, code: FunctionPackage, options: DeployOptions = {}): Promise<DeployReport> {
    this.#check(name, code, {}, options);
    const entry = await this.#there(name);
    const steps = [...this.#codeSteps(name, code, entry)];
    if (this.#bug === 'forgets the configuration')
      steps.push({ change: { action: 'update', resource: 'configuration', id: name }, apply: (each) => void (each.config = {}) });
    return this.#apply(name, steps, options);
  }

  async updateConfiguration(name: string, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    this.#check(name, { zip: new Uint8Array(), sha256: '' }, config, options);
    const entry = await this.#there(name);
    return this.#apply(name, [...this.#configurationSteps(name, config, entry), ...this.#scheduleSteps(name, config)], options);
  }

  async describe(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<FunctionState | undefined> {
    this.#aborted(signal);
    const entry = await this.#read(() => this.#cloud.functions.get(name));
    return entry && this.#state(name, entry);
  }

  async *list({ all = false }: { readonly all?: boolean } = {}): AsyncGenerator<FunctionState> {
    for (let from = 0; ; from += PAGE) {
      const page = await this.#read(() => [...this.#cloud.functions].slice(from, from + PAGE));
      for (const [name, entry] of page)
        if (all || entry.owner === 'us' || this.#bug === 'lists what is foreign') yield this.#state(name, entry);
      if (page.length < PAGE || this.#bug === 'lists one page') return;
    }
  }

  async invoke(name: string, event: Uint8Array, { type = 'sync' }: { readonly type?: InvocationType } = {}): Promise<FunctionInvocation> {
    const entry = await this.#there(name);
    if (type === 'dry-run' && this.#bug !== 'runs a dry run') return { failed: false, body: new Uint8Array() };
    const running = this.#cloud.run(entry, event, entry);
    if (type === 'sync') {
      const invocation = await running;
      return this.#bug === 'hides failures of functions' ? { ...invocation, failed: false } : invocation;
    }
    return { failed: false, body: this.#bug === 'waits for async' ? (await running).body : new Uint8Array() };
  }

  async *logs(name: string, query: LogQuery = {}): AsyncGenerator<LogEntry> {
    const { limit = 100, sinceMs = 0, untilMs = Number.POSITIVE_INFINITY, search = '', follow, signal } = query;
    const entry = await this.#there(name);
    const found = (from: number): LogEntry[] =>
      entry.logs
        .slice(from)
        .filter(
          ({ at, message }) =>
            (at >= sinceMs || this.#bug === 'ignores since') &&
            at <= untilMs &&
            (message.includes(search) || this.#bug === 'ignores search'),
        );
    let seen = entry.logs.length;
    const first = this.#bug === 'logs the oldest so many' ? found(0).slice(0, limit) : found(0).slice(-limit);
    yield* this.#bug === 'logs the newest first' ? first.toReversed() : first;
    while (follow && !signal?.aborted) {
      const more = found(this.#bug === 'follows twice' ? Math.max(0, seen - 1) : seen);
      seen = entry.logs.length;
      for (const each of more) if (!signal?.aborted) yield each;
      await setImmediate();
    }
  }

  async versions(name: string): Promise<readonly FunctionVersionInfo[]> {
    const { versions, current } = await this.#there(name);
    const from = this.#bug === 'invents old versions' ? 0 : current;
    const told = versions.map(({ sha256 }, index) => ({ version: String(index + 1), sha256, current: index === from }));
    return told.toReversed();
  }

  async rollback(name: string, version?: string, options: DeployOptions = {}): Promise<DeployReport> {
    const entry = await this.#there(name);
    const index = version === undefined ? entry.current - 1 : Number(version) - 1;
    if (!entry.versions[index]) throw new RunnerError('NOT_FOUND', `there is no version ${version}`);
    const target = this.#bug === 'rolls back to itself' ? entry.current : index;
    const change: DeployChange = { action: 'update', resource: 'code', id: name };
    return this.#apply(name, [{ change, apply: (each) => void (each.current = target) }], options);
  }

  async remove(name: string, options: DeployOptions = {}): Promise<DeployReport> {
    this.#aborted(options.signal);
    const entry = this.#bug === 'removes what is foreign' ? await this.#read(() => this.#cloud.functions.get(name)) : await this.#own(name);
    if (!entry && this.#bug === 'fails the second removal') throw new RunnerError('FUNCTION_NOT_FOUND', 'it is not there');
    const steps = this.#bug === 'leaves schedules behind' ? [] : [...this.#scheduleSteps(name, { schedules: [] })];
    if (entry)
      steps.push({ change: { action: 'delete', resource: 'function', id: name }, apply: () => void this.#cloud.functions.delete(name) });
    const { changes } = await this.#apply(name, steps, options);
    return { changes, warnings: [] };
  }

  *#configurationSteps(name: string, config: FunctionConfig, entry: Entry | undefined): Generator<Step> {
    const { schedules: _, ...wanted } = config;
    const present = entry?.config ?? {};
    if (this.#bug === 'merges the environment' && wanted.environment)
      Object.assign(wanted, { environment: { ...present.environment, ...wanted.environment } });
    const fields = Object.entries(wanted).flatMap(([field, value]) =>
      JSON.stringify(value) === JSON.stringify(present[field as keyof FunctionConfig]) ? [] : [field],
    );
    if (fields.length === 0) return;
    const apply = (each: Entry): void => void (each.config = { ...each.config, ...wanted });
    const told = this.#bug === 'tells secrets' ? [...fields, JSON.stringify(wanted.environment)] : fields;
    yield { change: { action: 'update', resource: 'configuration', id: name, fields: told }, apply };
  }

  *#codeSteps(name: string, code: FunctionPackage, entry: Entry | undefined): Generator<Step> {
    const runs = this.#bug === 'marks before it uploads' ? entry?.mark : entry?.versions[entry.current]?.sha256;
    if (runs === code.sha256 && this.#bug !== 'deploys the code again') return;
    const change: DeployChange = { action: runs === undefined ? 'create' : 'update', resource: 'code', id: name };
    if (this.#bug === 'marks before it uploads') yield { change, apply: (each) => void (each.mark = code.sha256) };
    if (this.#bug === 'has a gap while code is replaced') yield { change, apply: (each) => void (each.current = each.versions.length + 1) };
    const apply = (each: Entry): void => {
      each.versions.push({ sha256: code.sha256, source: Buffer.from(code.zip).toString() });
      const take = (): void => void (each.current = each.versions.length - 1);
      if (this.#bug === 'reports before the new code runs' && each.versions.length > 1) globalThis.setTimeout(take, 300);
      else take();
    };
    yield { change, apply };
  }

  *#scheduleSteps(name: string, { schedules }: FunctionConfig): Generator<Step> {
    if (!schedules) return;
    const present = [...this.#cloud.schedules.keys()].filter((key) => key.startsWith(`${name}/`));
    for (const schedule of schedules) {
      const id = `${name}/${schedule.name}`;
      const has = this.#cloud.schedules.get(id);
      if (JSON.stringify(has) === JSON.stringify(schedule)) continue;
      const apply = (): void => void this.#cloud.schedules.set(id, schedule);
      yield { change: { action: has ? 'update' : 'create', resource: 'schedule', id }, apply };
    }
    if (this.#bug === 'deletes no schedules') return;
    for (const id of present)
      if (!schedules.some((schedule) => `${name}/${schedule.name}` === id))
        yield { change: { action: 'delete', resource: 'schedule', id }, apply: () => void this.#cloud.schedules.delete(id) };
  }

  async #apply(name: string, steps: readonly Step[], { dryRun, onProgress }: DeployOptions): Promise<DeployReport> {
    for (const [done, { change, apply }] of steps.entries()) {
      if (this.#bug !== 'says nothing')
        onProgress?.({ step: `${change.action} ${change.resource}`, function: name, done, total: steps.length });
      if (dryRun && this.#bug !== 'writes in a dry run') continue;
      if (this.#bug === 'has a gap while code is replaced') await setTimeout(20);
      await this.#write(() => {
        const entry = this.#cloud.functions.get(name) ?? entryOf({});
        if (change.resource !== 'schedule') this.#cloud.functions.set(name, entry);
        apply(entry);
      });
    }
    const changes = steps.map(({ change }) => change);
    const state = await this.describe(name);
    const told = dryRun && this.#bug === 'plans less than it does' ? changes.slice(1) : changes;
    return { changes: told, warnings: [], ...(state && !dryRun && { state }) };
  }

  #state(name: string, entry: Entry): FunctionState {
    const sha256 = entry.versions[this.#bug === 'reports before the new code runs' ? entry.versions.length - 1 : entry.current]?.sha256;
    const schedules = [...this.#cloud.schedules].filter(([id]) => id.startsWith(`${name}/`)).map(([, schedule]) => schedule);
    return {
      name,
      id: `memory/${name}`,
      status: entry.owner === 'them' ? 'foreign' : sha256 === undefined ? 'failed' : 'active',
      ...(sha256 !== undefined && { sha256 }),
      config: { ...entry.config, ...(schedules.length > 0 && { schedules }) },
      executor: { use: 'memory', options: { name } },
      resources: schedules.map((schedule) => ({ kind: 'schedule', id: schedule.name })),
    };
  }

  #check(name: string, code: FunctionPackage, config: FunctionConfig, { signal }: DeployOptions): void {
    this.#aborted(signal);
    const violations = this.violations(name, code, config);
    if (violations.length > 0) throw new RunnerError('LIMIT_EXCEEDED', 'limits are broken', { details: { violations } });
  }

  #aborted(signal: AbortSignal | undefined): void {
    if (signal?.aborted && this.#bug !== 'asks the platform when aborted') throw new RunnerError('ABORTED', 'cancelled');
  }

  async #own(name: string): Promise<Entry | undefined> {
    const entry = await this.#read(() => this.#cloud.functions.get(name));
    if (entry?.owner === 'them' && this.#bug !== 'changes what is foreign')
      throw new RunnerError('RESOURCE_FOREIGN', `${name} belongs to somebody else`);
    return entry;
  }

  async #there(name: string): Promise<Entry> {
    const entry = await this.#own(name);
    if (!entry) throw new RunnerError('FUNCTION_NOT_FOUND', `there is no function ${name}`);
    return entry;
  }

  #read<T>(look: () => T): Promise<T> {
    return this.#patiently(() => this.#cloud.read(look));
  }

  #write<T>(change: () => T): Promise<T> {
    return this.#patiently(() => this.#cloud.write(change));
  }

  async #patiently<T>(request: () => Promise<T>): Promise<T> {
    if (this.#how === 'nameless') throw new RunnerError('CREDENTIALS_MISSING', 'set the variable MEMORY_TOKEN');
    if (this.#how === 'nowhere')
      throw new RunnerError(this.#bug === 'says unreachable wrongly' ? 'INTERNAL' : 'PLATFORM_UNREACHABLE', 'nobody listens there');
    for (let tries = 1; ; tries += 1) {
      try {
        return await request();
      } catch (error) {
        const throttled = isRunnerError(error) && error.code === 'PLATFORM_THROTTLED';
        if (!throttled || tries === TRIES_MAX || this.#bug === 'gives up when throttled') throw error;
      }
    }
  }
}

function entryOf(config: FunctionConfig, owner: Entry['owner'] = 'us'): Entry {
  return { owner, config, versions: [], current: -1, logs: [] };
}

function codeOf(tag: string): FunctionPackage {
  const zip = Buffer.from(conformanceFunction(tag));
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

function values<T>(map: ReadonlyMap<string, T>, look: (value: T) => unknown): unknown {
  return Object.fromEntries([...map].map(([name, value]) => [name, structuredClone(look(value))]));
}

function platformOf(bug: Bug | undefined): DeployerPlatform {
  const cloud = new Cloud();
  return {
    connect: (how) => new MemoryDeployer(cloud, how, bug),
    codeOf,
    snapshot: () => [
      values(cloud.functions, ({ config, versions, current }) => [config, versions[current]?.sha256]),
      values(cloud.schedules, (schedule) => schedule),
    ],
    writes: () => cloud.writes,
    cutAfter: (writes = Number.POSITIVE_INFINITY) => void (cloud.writesLeft = writes),
    throttle: (requests) => void (cloud.throttled = requests),
    makeForeign: async (name) => void cloud.functions.set(name, { ...entryOf({ memoryMb: 128 }, 'them'), versions: [], current: 0 }),
    schedules: () => cloud.schedules.size,
    close: async () => {},
  };
}

runDeployerConformance({ describe, it }, { name: 'of the memory', create: () => platformOf(undefined) });

/** Tries one case only. */
async function tried(bug: Bug | undefined, name: string): Promise<unknown> {
  const others = deployerCases.filter((each) => each.name !== name && each.lacking === undefined);
  const skip = Object.fromEntries(others.map((each) => [each.name, 'another case is tried']));
  const outcomes = await checkDeployer({ name: 'broken', create: () => platformOf(bug), skip });
  return outcomes.find((each) => each.name === name)?.outcome;
}

const FOUND_BY: Readonly<Record<Bug, string>> = {
  'deploys the code again': 'deploys again: no change, no write',
  'deletes no schedules': 'three schedules become one, and no orphans stay',
  'leaves schedules behind': 'removes everything that was made, twice',
  'changes what is foreign': 'does not touch what others made',
  'removes what is foreign': 'does not touch what others made',
  'writes in a dry run': 'a dry run writes nothing, and names what a real run then does',
  'plans less than it does': 'a dry run writes nothing, and names what a real run then does',
  'tells one limit at a time': 'tells all limits that are broken at once, before anything is written',
  'checks limits after the first write': 'tells all limits that are broken at once, before anything is written',
  'gives up when throttled': 'is patient with a platform that has too many requests',
  'tells secrets': 'the environment that is named takes the place of the one before, and no report tells values',
  'merges the environment': 'the environment that is named takes the place of the one before, and no report tells values',
  'forgets the configuration': 'updates the code: calls go on without a failure, then all get the new one, the configuration stays',
  'has a gap while code is replaced': 'updates the code: calls go on without a failure, then all get the new one, the configuration stays',
  'reports before the new code runs': 'updates the code: calls go on without a failure, then all get the new one, the configuration stays',
  'lists one page': 'lists 130 functions',
  'lists what is foreign': 'lists ours only, and with `all` what others made',
  'logs the newest first': 'reads the log, oldest first, the newest so many',
  'logs the oldest so many': 'reads the log, oldest first, the newest so many',
  'ignores since': 'reads the log of a span of time, and what holds a text',
  'ignores search': 'reads the log of a span of time, and what holds a text',
  'follows twice': 'follows the log until its signal fires',
  'runs a dry run': 'a dry run of an invocation runs nothing',
  'waits for async': 'invokes without waiting for the answer',
  'marks before it uploads': 'an update that is cut off after every write converges when it is run again',
  'takes a lost create for another one': 'deploys again: no change, no write',
  'rolls back to itself': 'rolls back to the version before, to a named one, and not to one that never was',
  'invents old versions': 'tells the versions, the newest first, and which one is current',
  'fails the second removal': 'removes everything that was made, twice',
  'hides failures of functions': 'a function that fails is told as such, with what it said',
  'says unreachable wrongly': 'nobody listens at the address: PLATFORM_UNREACHABLE',
  'asks the platform when aborted': 'an abort before the start is ABORTED, and nothing is written',
  'says nothing': 'tells what it does',
};

describe('a deployer that', () => {
  it.each(Object.entries(FOUND_BY) as [Bug, string][])('%s is found', async (bug, name) => {
    expect(await tried(undefined, name)).toBe('passed');
    expect(await tried(bug, name)).toBe('failed');
  });
});

describe('what a platform lacks', () => {
  const subject = (lacks: NonNullable<DeployerUnderTest['lacks']>): DeployerUnderTest => ({
    name: 'poor',
    lacks,
    create: () => platformOf(undefined),
    skip: Object.fromEntries(
      deployerCases
        .filter(({ lacking, capabilities = [] }) => lacking === undefined && !capabilities.includes('versions'))
        .map(({ name }) => [name, 'not tried']),
    ),
  });

  it('must be OPERATION_UNSUPPORTED, and is not tried otherwise', async () => {
    const outcomes = await checkDeployer(subject({ versions: 'it keeps one' }));
    expect(outcomes.filter(({ outcome }) => outcome !== 'skipped').map(({ name, outcome }) => [name, outcome])).toEqual([
      ['OPERATION_UNSUPPORTED: versions', 'failed'],
    ]);
  });

  it('needs a reason, and so does what is skipped', async () => {
    await expect(checkDeployer(subject({ versions: ' ' }))).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(checkDeployer({ ...subject({}), skip: { 'deploys again: no change, no write': '' } })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
    });
    await expect(checkDeployer({ ...subject({}), skip: { 'no such case': 'why' } })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });

  it('a switch that is not given fails its cases', async () => {
    const name = 'is patient with a platform that has too many requests';
    const { throttle: _, ...platform } = platformOf(undefined);
    const skip = Object.fromEntries(
      deployerCases.filter((each) => each.lacking === undefined && each.name !== name).map((each) => [each.name, 'not tried']),
    );
    const outcomes = await checkDeployer({ name: 'bare', create: () => platform, skip });
    expect(outcomes.find((each) => each.name === name)).toMatchObject({ outcome: 'failed', error: { code: 'CONFIG_INVALID' } });
  });
});
