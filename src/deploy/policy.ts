/**
 * The deployment policy: what an operator wants of every deployment, said once. It lies in `tangle/deployment-policy.json` under the user's
 * configuration directory, where other tools read and write it too.
 */

import { isDeepStrictEqual } from 'node:util';
import { join } from 'node:path';
import { RunnerError } from '../errors.ts';
import { TARGET_LIMITS } from '../executor/limits.ts';
import type { Logger } from '../telemetry/telemetry.ts';
import { configDirectory, isObject, readSettings, setAside, writeSettings } from './policy-file.ts';
import type { Environment, Place, SettingsDocument } from './policy-file.ts';
import { DEFAULT_DOCUMENT, OPTIONAL_KEYS, TARGET_OF, writeProvider } from './policy-model.ts';
import type { FaasProvider } from './policy-model.ts';
import { parsePolicy, valueAt } from './policy-parse.ts';
import type { ParsedPolicy } from './policy-parse.ts';

export interface PolicyOptions extends Place {
  /** Default: `policyPath(env)`. */
  readonly path?: string | undefined;
  /** Default: that of the process. */
  readonly env?: Environment;
  readonly log?: Logger;
}

export interface LoadedPolicy extends Omit<ParsedPolicy, 'problems'> {
  readonly path: string;
  /** `default`: there is no file, or it cannot be used; `warnings` says which. */
  readonly source: 'file' | 'default';
  readonly warnings: readonly string[];
  /** Why the file that is there cannot be used. */
  readonly problem?: string;
}

export interface PolicyChange {
  readonly key: string;
  readonly from: unknown;
  readonly to: unknown;
}

export interface ChangedPolicy extends LoadedPolicy {
  /** Empty: nothing was written. Keys that were only completed are not among them. */
  readonly changes: readonly PolicyChange[];
  /** What was decided besides: values that had to follow, a file that was set aside. */
  readonly notes: readonly string[];
}

/** `XDG_CONFIG_HOME` or `~/.config`, as each system has it, and `tangle/deployment-policy.json` in it. */
export function policyPath(env: Environment = process.env, place: Place = {}): string {
  return join(configDirectory(env, place), 'tangle', 'deployment-policy.json');
}

/**
 * Reads the policy: flag, environment, file, default, the first that says it. Without a file the defaults hold, and with one that cannot be
 * used as well, which is then a warning: functions are off by default, so nothing is deployed by mistake.
 *
 * Throws `CONFIG_INVALID` for a variable of the environment that is wrong, and with `strict` for a file that is.
 *
 * @example
 * const { policy, source } = loadPolicy();
 * if (policy.serverless.enable) console.log(policy.serverless.provider.type, source);
 */
export function loadPolicy(options: PolicyOptions & { readonly strict?: boolean } = {}): LoadedPolicy {
  const env = options.env ?? process.env;
  const path = options.path ?? policyPath(env, options);
  const read = readSettings(path);
  const document = 'document' in read ? read.document : {};
  const problems = 'problem' in read ? [read.problem] : parsePolicy(document, {}).problems;
  if (problems.length > 0 && options.strict) throw unusable(path, problems);
  const warnings = problems.length === 0 ? [] : [`${path} is not used, the defaults hold: ${problems.join('; ')}`];
  for (const warning of warnings) options.log?.warn('the deployment policy is not used', { path, problems: [warning] });
  const { problems: wrongVariables, ...parsed } = parsePolicy(problems.length === 0 ? document : {}, env);
  if (wrongVariables.length > 0) throw new RunnerError('CONFIG_INVALID', wrongVariables.join('; '));
  const source = problems.length === 0 && 'document' in read ? 'file' : 'default';
  if (parsed.unknownKeys.length > 0) warnings.push(`${path} has keys that mean nothing here: ${parsed.unknownKeys.join(', ')}`);
  return { ...parsed, path, source, warnings, ...(problems.length > 0 && { problem: problems.join('; ') }) };
}

/** By key as in the file, `serverless.enable`; the provider as `writeProvider` gives it. Undefined removes a key. */
export type PolicyEdits = Readonly<Record<string, unknown>>;

/**
 * Changes the policy file: only these keys, the others stay as and where they are; what other readers need and is missing is added.
 * Memory and time limit are held to what the provider allows.
 *
 * Throws `CONFIG_INVALID` for a file that cannot be used, unless `force` (it is set aside then, as `*.corrupt`), and for values that are
 * wrong; `LIMIT_EXCEEDED` for what the provider does not allow. Then nothing is written.
 */
export function changePolicy(
  edits: PolicyEdits,
  options: PolicyOptions & { readonly force?: boolean; readonly dryRun?: boolean } = {},
): ChangedPolicy {
  const env = options.env ?? process.env;
  const path = options.path ?? policyPath(env, options);
  const read = readSettings(path);
  const present = 'document' in read ? read.document : {};
  const problems = 'problem' in read ? [read.problem] : parsePolicy(edited(present, edits), {}).problems;
  if (problems.length > 0 && ('problem' in read || parsePolicy(present, {}).problems.length > 0) && !options.force)
    throw unusable(path, problems, 'with --force a new one is written, and this one is kept beside it');
  const isReplaced = problems.length > 0 && options.force === true;
  const before = isReplaced || 'missing' in read ? structuredClone<SettingsDocument>(DEFAULT_DOCUMENT) : present;
  const wanted = complete(edited(before, edits));
  const wrong = parsePolicy(wanted, {}).problems;
  if (wrong.length > 0) throw new RunnerError('CONFIG_INVALID', wrong.join('; '));
  const adapted = fitting(parsePolicy(wanted, {}).policy, edits);
  const after = edited(wanted, adapted);
  const changes = Object.keys({ ...edits, ...adapted }).flatMap((key) => {
    const [from, to] = [valueAt(before, key) ?? valueAt(DEFAULT_DOCUMENT, key), valueAt(after, key)];
    return isDeepStrictEqual(from, to) ? [] : [{ key, from, to }];
  });
  const notes = Object.keys(adapted).map((key) => `${key} follows the provider: ${String(valueAt(after, key))}`);
  if (!options.dryRun && ('missing' in read || isReplaced || changes.length > 0)) {
    if (isReplaced && !('missing' in read)) notes.push(`the old file is kept as ${setAside(path)}`);
    writeSettings(path, after);
  }
  const { problems: _none, ...parsed } = parsePolicy(after, env);
  return { ...parsed, path, source: 'file', warnings: [], changes, notes };
}

function unusable(path: string, problems: readonly string[], advice = 'correct it'): RunnerError {
  return new RunnerError('CONFIG_INVALID', `${path} cannot be used: ${problems.join('; ')}; ${advice}`, { details: { path, problems } });
}

/** A copy with these keys changed. What a provider object holds besides stays with it as long as its type does. */
function edited(document: SettingsDocument, edits: PolicyEdits): SettingsDocument {
  const copy = structuredClone(document);
  for (const [key, value] of Object.entries(edits)) {
    const names = key.split('.');
    const last = names.pop() ?? '';
    let parent = copy;
    for (const name of names) {
      const child = parent[name];
      parent = isObject(child) ? child : (parent[name] = {});
    }
    const old = parent[last];
    if (value === undefined) delete parent[last];
    else parent[last] = isObject(old) && isObject(value) && 'type' in value && old['type'] === value['type'] ? { ...old, ...value } : value;
  }
  return copy;
}

/** Adds what other readers of the file cannot do without; a provider that they do not know gets its stand-in. Changes its argument. */
function complete(document: SettingsDocument): SettingsDocument {
  for (const [name, defaults] of Object.entries(DEFAULT_DOCUMENT)) {
    const section = document[name];
    if (!isObject(section)) document[name] = structuredClone(defaults);
    else
      for (const [key, value] of Object.entries(defaults))
        if (!OPTIONAL_KEYS.includes(key) && !(key in section)) section[key] = structuredClone(value);
  }
  const { policy, problems } = parsePolicy(document, {});
  if (problems.length > 0) return document;
  return edited(document, { 'serverless.provider': writeProvider(policy.serverless.provider) });
}

/**
 * Holds memory and time limit to what the provider allows. What was said is refused; what nobody said, because it is still the default,
 * follows the provider.
 */
function fitting({ serverless }: ParsedPolicy['policy'], edits: PolicyEdits): PolicyEdits {
  const adapted: Record<string, unknown> = {};
  const hold = (key: string, value: number, bounds: Bounds): void => {
    const fits = Math.min(Math.max(value, bounds.min), bounds.max);
    if (fits === value) return;
    if (key in edits || value !== valueAt(DEFAULT_DOCUMENT, key)) throw outside(key, value, bounds);
    adapted[key] = fits;
  };
  const { provider, jobs } = serverless;
  if (['serverless.provider', 'serverless.default_memory_mb', 'serverless.default_timeout_secs'].some((key) => key in edits)) {
    hold('serverless.default_memory_mb', serverless.memoryMb, memoryBounds(provider));
    hold('serverless.default_timeout_secs', serverless.timeoutMs / 1000, timeoutBounds(provider));
  }
  if (!('serverless.jobs' in edits)) return adapted;
  for (const [index, job] of jobs) {
    const key = `serverless.jobs.${index}`;
    if (job.memoryMb !== undefined) hold(`${key}.memory_mb`, job.memoryMb, memoryBounds(job.provider ?? provider));
    if (job.timeoutMs !== undefined) hold(`${key}.timeout_secs`, job.timeoutMs / 1000, timeoutBounds(job.provider ?? provider));
  }
  return adapted;
}

interface Bounds {
  readonly of: FaasProvider['type'];
  readonly min: number;
  readonly max: number;
  readonly unit: string;
  readonly source: string;
}

function memoryBounds({ type }: FaasProvider): Bounds {
  const { memoryMb, source } = TARGET_LIMITS[TARGET_OF[type]];
  return { of: type, min: memoryMb.min, max: memoryMb.max, unit: 'MB', source };
}

function timeoutBounds({ type }: FaasProvider): Bounds {
  const { timeoutMs, source } = TARGET_LIMITS[TARGET_OF[type]];
  return { of: type, min: Math.ceil(timeoutMs.min / 1000), max: Math.floor(timeoutMs.max / 1000), unit: 's', source };
}

function outside(key: string, value: number, { of, min, max, unit, source }: Bounds): RunnerError {
  const allowed = min === max ? `exactly ${max} ${unit}` : `${min} to ${max} ${unit}`;
  return new RunnerError('LIMIT_EXCEEDED', `${key} is ${value} ${unit}; ${of} allows ${allowed} (${source})`, {
    details: { key, value, min, max, provider: of },
  });
}
