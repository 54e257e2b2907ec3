/** What differs between a function as it is and as it should be, as writes in the order in which an interruption does no harm. */

import { RunnerError, warningsOf } from '../../src/plugin.ts';
import type { DeployOptions, FunctionConfig, FunctionPackage, FunctionVersionInfo, Step, StepPlan } from '../../src/plugin.ts';
import type { Action, Actions, ActionUpload } from './actions.ts';
import type { Namespaces } from './namespace.ts';
import { triggersFor } from './triggers.ts';
import type { Trigger, Triggers } from './triggers.ts';

export interface Wish {
  readonly present: Action | undefined;
  readonly code?: FunctionPackage | undefined;
  readonly config: FunctionConfig;
  readonly options: DeployOptions;
}

interface Parts {
  readonly namespaces: Namespaces;
  readonly actions: Actions;
  readonly triggers: Triggers;
}

interface Kept {
  readonly name: string;
  readonly number: number;
  readonly sha256: string | undefined;
  readonly createdAt: string | undefined;
}

const VERSIONS_MAX = 3;
const FIELDS = ['description', 'memoryMb', 'timeoutMs', 'environment', 'tags'] as const;
const CANNOT = ['concurrencyMax', 'instancesMin', 'logRetentionDays', 'ephemeralStorageMb', 'architecture'] as const;

export class Planner {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async plan(name: string, wish: Wish): Promise<StepPlan> {
    const { code, config, options } = wish;
    const { signal, strict = false } = options;
    const { namespaces } = this.#parts;
    const warnings = warningsOf(config, { platform: 'DigitalOcean', cannot: CANNOT, strict });
    const schedules = config.schedules && triggersFor(name, config.schedules, strict);
    const steps: Step[] = [];
    const { namespace: label } = namespaces.options;
    if (!(await namespaces.find(signal)))
      steps.push({ change: { action: 'create', resource: 'namespace', id: label }, run: (until) => namespaces.create(until) });
    steps.push(...(await this.#actionSteps(name, wish)));
    if (code) steps.push(...(await this.#versionSteps(name, { ...wish, code })));
    if (schedules) steps.push(...this.#triggerSteps(await this.#parts.triggers.list(name, signal), schedules.triggers));
    return { steps, warnings: [...warnings, ...(schedules?.warnings ?? [])] };
  }

  async removal(name: string, present: Action | undefined, signal: AbortSignal | undefined): Promise<StepPlan> {
    const { actions, triggers } = this.#parts;
    const steps = this.#triggerSteps(await triggers.list(name, signal), []);
    for (const { name: id } of await this.#kept(name, signal))
      steps.push({ change: { action: 'delete', resource: 'version', id }, run: (until) => actions.delete(id, until) });
    if (present) steps.push({ change: { action: 'delete', resource: 'function', id: name }, run: (until) => actions.delete(name, until) });
    return { steps, warnings: [] };
  }

  /** The newest first. */
  async versions(name: string, { sha256 }: Action, signal: AbortSignal | undefined): Promise<readonly FunctionVersionInfo[]> {
    const kept = await this.#kept(name, signal);
    const current = kept.find((each) => each.sha256 === sha256);
    return kept.map((each) => ({
      version: String(each.number),
      ...(each.sha256 !== undefined && { sha256: each.sha256 }),
      ...(each.createdAt !== undefined && { createdAt: each.createdAt }),
      current: each === current,
    }));
  }

  /** The newest first. The names of all functions of the namespace are added to `taken`. */
  async #kept(name: string, signal: AbortSignal | undefined, taken = new Set<string>()): Promise<readonly Kept[]> {
    const kept: Kept[] = [];
    for await (const action of this.#parts.actions.list(signal)) {
      taken.add(action.name);
      if (action.versionOf !== name || !action.isOurs) continue;
      kept.push({
        name: action.name,
        number: Number(action.name.slice(name.length + 2)),
        sha256: action.sha256,
        createdAt: action.updatedAt,
      });
    }
    return kept.toSorted((a, b) => b.number - a.number);
  }

  async #actionSteps(name: string, { present, code, config, options }: Wish): Promise<Step[]> {
    const { actions } = this.#parts;
    // No variables are told as no environment.
    const before: FunctionConfig = { environment: {}, ...present?.config };
    const fields: string[] = FIELDS.filter((field) => config[field] !== undefined && canonical(config[field]) !== canonical(before[field]));
    const kind = await this.#kindFor({ present, config }, options.signal);
    const main = config.handler ?? present?.main ?? 'main';
    if (present && kind !== present.kind) fields.push('runtime');
    if (present && main !== (present.main ?? 'main')) fields.push('handler');
    if (!present) {
      if (!code) return [];
      const run: Step['run'] = async (signal) =>
        actions.put(name, { present, upload: { code, kind: await this.#kindFor({ present, config }, signal), main }, config }, signal);
      return [{ change: { action: 'create', resource: 'function', id: name }, run }];
    }
    const isOther = code !== undefined && code.sha256 !== present.sha256;
    if (!isOther && fields.length === 0) return [];
    const upload = async (signal: AbortSignal | undefined): Promise<ActionUpload | undefined> => {
      if (isOther) return { code, kind, main };
      const isRewritten = fields.includes('runtime') || fields.includes('handler');
      return isRewritten ? { ...(await actions.download(name, signal)), kind, main } : undefined;
    };
    const run: Step['run'] = async (signal) => {
      const written = await upload(signal);
      await actions.put(name, { present, ...(written && { upload: written }), config }, signal);
    };
    return [
      {
        change: {
          action: 'update',
          resource: isOther ? 'code' : 'configuration',
          id: name,
          fields: isOther ? ['code', ...fields] : fields,
        },
        run,
      },
    ];
  }

  /** After the function itself: what is kept is what once ran. */
  async #versionSteps(name: string, { code, config, present, options }: Wish & { readonly code: FunctionPackage }): Promise<Step[]> {
    const { actions } = this.#parts;
    const taken = new Set<string>();
    const kept = await this.#kept(name, options.signal, taken);
    if (kept.some(({ sha256 }) => sha256 === code.sha256)) return [];
    let number = (kept[0]?.number ?? 0) + 1;
    // A function of another may be called like a version.
    while (taken.has(`${name}.v${number}`)) number += 1;
    const id = `${name}.v${number}`;
    const run: Step['run'] = async (signal) => {
      const kind = await this.#kindFor({ present, config }, signal);
      const upload = { code, kind, main: config.handler ?? present?.main ?? 'main' };
      await actions.keep(id, { upload, of: name, config: { ...present?.config, ...config } }, signal);
    };
    const steps: Step[] = [{ change: { action: 'create', resource: 'version', id }, run }];
    for (const { name: old } of kept.slice(VERSIONS_MAX - 1))
      steps.push({ change: { action: 'delete', resource: 'version', id: old }, run: (signal) => actions.delete(old, signal) });
    return steps;
  }

  #triggerSteps(present: readonly Trigger[], wanted: readonly Trigger[]): Step[] {
    const { triggers } = this.#parts;
    const steps: Step[] = [];
    // Room first: a namespace takes only a few.
    for (const { name: id } of present)
      if (!wanted.some(({ name }) => name === id))
        steps.push({ change: { action: 'delete', resource: 'schedule', id }, run: (signal) => triggers.delete(id, signal) });
    for (const trigger of wanted) {
      const { name: id } = trigger;
      const has = present.find(({ name }) => name === id);
      if (!has) steps.push({ change: { action: 'create', resource: 'schedule', id }, run: (signal) => triggers.create(trigger, signal) });
      else if (canonical({ ...has }) !== canonical({ ...trigger }))
        steps.push({ change: { action: 'update', resource: 'schedule', id }, run: (signal) => triggers.update(trigger, signal) });
    }
    return steps;
  }

  /** Of a function that is there its own, unless another is asked for. A namespace that is still to be made tells its runtimes when it is there. */
  async #kindFor({ present, config: { runtime } }: Pick<Wish, 'present' | 'config'>, signal: AbortSignal | undefined): Promise<string> {
    const wanted = present === undefined || runtime !== undefined ? await this.#kind(runtime, signal) : present.kind;
    return wanted ?? 'nodejs:default';
  }

  /** `nodejs24` as the host calls it; without a wish the newest Node that it has. Throws `RUNTIME_UNSUPPORTED`. */
  async #kind(runtime: string | undefined, signal: AbortSignal | undefined): Promise<string | undefined> {
    const kinds = await this.#parts.namespaces.runtimes(signal);
    const nodes = kinds.flatMap((kind) => Number(/^nodejs:(\d+)$/.exec(kind)?.[1] ?? []) || []).toSorted((a, b) => b - a);
    if (runtime === undefined) return nodes[0] === undefined ? undefined : `nodejs:${nodes[0]}`;
    const wanted = runtime.replace(/^nodejs(\d+)(?:\.x)?$/, 'nodejs:$1');
    if (kinds.length === 0 || kinds.includes(wanted)) return wanted;
    throw new RunnerError('RUNTIME_UNSUPPORTED', `DigitalOcean has no runtime ${runtime}; it has ${kinds.join(', ')}`, {
      details: { runtime, kinds },
    });
  }
}

/** The same text for what is equal. */
function canonical(value: unknown): string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return JSON.stringify(value) ?? '';
  const entries = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, each]) => `${key}:${canonical(each)}`).join()}}`;
}
