/** What the commands share that talk with one platform: which one, and its deployer. */

import { resolve } from 'node:path';
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { systemClock } from '../clock.ts';
import type { LoadedPolicy } from '../deploy/policy.ts';
import { FAAS_TYPES } from '../deploy/policy-model.ts';
import type { FaasType } from '../deploy/policy-model.ts';
import { RunnerError } from '../errors.ts';
import type { DeployChange, DeployOptions, DeployReport, FaasDeployer, FunctionConfig, FunctionState } from '../executor/deployer.ts';
import { BUILT_IN_PLUGINS } from '../plugin/catalog.ts';
import type { Io } from './output.ts';
import { interruptible } from './work.ts';
import type { Work } from './work.ts';

export interface PlatformFlags {
  readonly provider?: FaasType;
  readonly config?: string;
  readonly deployerOption?: PluginOptions;
  readonly json?: true;
}

export interface WriteFlags {
  readonly dryRun?: true;
  readonly strict?: true;
}

export type PluginOptions = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

export function withPlatform(command: Command): Command {
  return command
    .addOption(new Option('-p, --provider <type>', 'the platform (default: the one of the policy)').choices(FAAS_TYPES))
    .option('--config <file>', 'the deployment policy, when it is not in the configuration directory')
    .option('--deployer-option <plugin.name=value>', 'an option of the platform; can be repeated', collectDeployerOptions)
    .option('--json', 'print one JSON document');
}

export function withWrites(command: Command): Command {
  return command
    .option('--dry-run', 'say what would be done, and do nothing')
    .option('--strict', 'what the platform cannot do as asked is an error');
}

/** Throws `CONFIG_INVALID` for one that cannot be read: the defaults in its place would be another platform. */
export async function usablePolicy(io: Io, config: string | undefined): Promise<LoadedPolicy> {
  const { loadPolicy } = await import('../deploy/policy.ts');
  const loaded = loadPolicy({ env: io.env, ...(config !== undefined && { path: resolve(io.cwd, config) }) });
  const { path, problem } = loaded;
  if (problem === undefined) return loaded;
  throw new RunnerError('CONFIG_INVALID', `the deployment policy ${path} cannot be used: ${problem}`, { details: { path } });
}

/** A deployer and the plugin it is of; the work that is done with it ends at a signal. */
export interface DeployerWork extends Work {
  readonly deployer: FaasDeployer;
  readonly plugin: string;
  /** Of a function whose size the flags do not say. */
  readonly size: FunctionConfig;
}

/** Makes the deployer of the platform, and closes it afterwards. */
export function withDeployer(io: Io, flags: PlatformFlags, action: (work: DeployerWork) => Promise<void>): Promise<void> {
  return interruptible(io, systemClock, async (work) => {
    const own = await deployerFor(io, flags);
    try {
      await action({ ...work, ...own });
    } finally {
      await own.deployer.close?.();
    }
  });
}

async function deployerFor(io: Io, flags: PlatformFlags): Promise<Omit<DeployerWork, keyof Work>> {
  const [loaded, { deployerOf, saidSize }, { createPluginRegistry }, { silentTelemetry }, { PROVIDER_FIELDS, providerOf }] =
    await Promise.all([
      usablePolicy(io, flags.config),
      import('../deploy/planner.ts'),
      import('../plugin/registry.ts'),
      import('../telemetry/telemetry.ts'),
      import('../deploy/policy-model.ts'),
    ]);
  const said = loaded.policy.serverless.provider;
  const { provider: type = said.type } = flags;
  const provider =
    type === said.type
      ? said
      : providerOf(type, (field) => {
          const { env: variables = [], fallback = '' } = PROVIDER_FIELDS[type][field] ?? {};
          return variables.map((name) => io.env[name]).find(Boolean) ?? fallback;
        });
  const { use, options } = deployerOf(provider, flags.deployerOption);
  for (const [plugin, others] of Object.entries(flags.deployerOption ?? {})) {
    if (plugin === use) continue;
    const what = `--deployer-option ${plugin}.${Object.keys(others).join(', ')}`;
    throw new RunnerError('CONFIG_INVALID', `${what} is not for ${type}, whose plugin is ${use}`);
  }
  const deployer = await createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry }).deployer(use, options);
  return { deployer, plugin: use, size: saidSize(type, loaded) };
}

export function deployOptions({ signal, tell }: Work, { dryRun, strict }: WriteFlags): DeployOptions {
  return { ...(dryRun && { dryRun }), ...(strict && { strict }), signal, onProgress: tell };
}

const HIDDEN = '[hidden]';

/** A function as it may be shown: the platform tells the values of its variables, and any of them may be a secret. */
export function shownState<State extends Pick<FunctionState, 'config'>>(state: State): State {
  const { environment } = state.config;
  if (!environment) return state;
  const hidden = Object.fromEntries(Object.keys(environment).map((name) => [name, HIDDEN]));
  return { ...state, config: { ...state.config, environment: hidden } };
}

export function shownReport(report: DeployReport): DeployReport {
  return report.state ? { ...report, state: shownState(report.state) } : report;
}

export function changesText(changes: readonly DeployChange[], isDryRun: boolean): string {
  const verb = isDryRun ? 'would ' : '';
  return changes
    .map(({ action, resource, id, fields }) => `${verb}${action} ${resource} ${id}${fields ? `: ${fields.join(', ')}` : ''}`)
    .join('\n');
}

export function reportText(report: DeployReport, isDryRun: boolean): string {
  const { state, changes, warnings } = report;
  return [
    changesText(changes, isDryRun) || 'nothing had to change',
    ...warnings.map((warning) => `warning: ${warning}`),
    ...(state ? [`${state.name}: ${state.status}${state.endpoint === undefined ? '' : `, ${state.endpoint}`}`] : []),
  ].join('\n');
}

/** `name=value`; the value as JSON when it is, as text when it is not. */
export function pair(text: string): readonly [name: string, value: unknown] {
  const equals = text.indexOf('=');
  if (equals < 1) throw new InvalidArgumentError('It must be name=value.');
  const value = text.slice(equals + 1);
  try {
    return [text.slice(0, equals), JSON.parse(value) as unknown];
  } catch {
    return [text.slice(0, equals), value];
  }
}

/** `name=value`, as text. */
export function collectTexts(text: string, previous: Readonly<Record<string, string>> = {}): Record<string, string> {
  const equals = text.indexOf('=');
  if (equals < 1) throw new InvalidArgumentError('It must be name=value.');
  return { ...previous, [text.slice(0, equals)]: text.slice(equals + 1) };
}

export function collectOptions(text: string, previous: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  const [name, value] = pair(text);
  return { ...previous, [name]: value };
}

/** One that is written wrongly would be dropped in silence. */
export function collectDeployerOptions(text: string, previous?: PluginOptions): PluginOptions {
  const all = collectPluginOptions(text, previous);
  const unknown = Object.keys(all).find((plugin) => !BUILT_IN_PLUGINS.has(plugin));
  if (unknown === undefined) return all;
  throw new InvalidArgumentError(`There is no plugin ${unknown}; there are ${[...BUILT_IN_PLUGINS.keys()].join(', ')}.`);
}

export function collectPluginOptions(text: string, previous: PluginOptions = {}): PluginOptions {
  const [path, value] = pair(text);
  const dot = path.indexOf('.');
  if (dot < 1) throw new InvalidArgumentError('It must be plugin.name=value.');
  const [plugin, name] = [path.slice(0, dot), path.slice(dot + 1)];
  return { ...previous, [plugin]: { ...previous[plugin], [name]: value } };
}
