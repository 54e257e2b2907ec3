/** What may be set on a function, an alias, a layer: checked against the limits of the provider it is meant for. */

import { RunnerError } from '../errors.ts';
import { RESERVED_ENVIRONMENT } from './environment.ts';
import type { FunctionLimits, Provider, Range } from '../executor/limits.ts';
import { LIMITS, PROVIDERS, RUNTIMES } from '../executor/limits.ts';
import type { AsyncConfig, FunctionSettings, LayerName, NewFunction } from './store-records.ts';

/** The rule that a value breaks: in the details of `CONFIG_INVALID`, so that a gateway can say it as the provider does. */
export type Rule =
  | { readonly min: number }
  | { readonly max: number }
  | { readonly steps: readonly number[] }
  | { readonly lengthMin: number }
  | { readonly lengthMax: number }
  | { readonly pattern: string }
  | { readonly oneOf: readonly string[] };

const VARIABLE = /^[a-zA-Z]([a-zA-Z0-9_])+$/;
const ALIAS = /^(?!^[0-9]+$)([a-zA-Z0-9-_]+)$/;
const LAYER = /^[a-zA-Z0-9-_]+$/;
const HANDLER = /^[^\s]+$/;
const TAGS_MAX = 50;
const CONCURRENCY_PER_INSTANCE: Range = { min: 1, max: 1_024, default: 1 };

function ruleText(rule: Rule): string {
  if ('min' in rule) return `it must be at least ${rule.min}`;
  if ('max' in rule) return `it must be at most ${rule.max}`;
  if ('steps' in rule) return `it must be one of ${rule.steps.join(', ')}`;
  if ('lengthMin' in rule) return `it must have at least ${rule.lengthMin} characters`;
  if ('lengthMax' in rule) return `it must have at most ${rule.lengthMax} characters`;
  if ('pattern' in rule) return `it must match ${rule.pattern}`;
  return `it must be one of ${rule.oneOf.join(', ')}`;
}

/** `CONFIG_INVALID` with `{ field, value, rule }` in its details. */
export function breaks(field: string, value: string | number, rule: Rule): RunnerError {
  const shown = typeof value === 'string' ? JSON.stringify(value.slice(0, 200)) : String(value);
  return new RunnerError('CONFIG_INVALID', `${field} is ${shown}: ${ruleText(rule)}`, { details: { field, value, rule } });
}

/** `CONFIG_INVALID` with the field in its details. */
export function refuse(field: string, what: string): RunnerError {
  return new RunnerError('CONFIG_INVALID', what, { details: { field } });
}

export function checkRange(field: string, value: number, { min, max, steps }: Omit<Range, 'default'>): void {
  if (!Number.isSafeInteger(value)) throw refuse(field, `${field} is ${value}: it must be a whole number`);
  if (value < min) throw breaks(field, value, { min });
  if (value > max) throw breaks(field, value, { max });
  if (steps && !steps.includes(value)) throw breaks(field, value, { steps });
}

function checkText(
  field: string,
  value: string,
  { pattern, lengthMax, lengthMin = 0 }: { pattern?: RegExp; lengthMax: number; lengthMin?: number },
): void {
  if (value.length < lengthMin) throw breaks(field, value, { lengthMin });
  if (value.length > lengthMax) throw breaks(field, value, { lengthMax });
  if (pattern && !pattern.test(value)) throw breaks(field, value, { pattern: pattern.source.replace(/^\^|\$$/g, '') });
}

export function checkProfile(profile: string): asserts profile is Provider {
  if (!PROVIDERS.some((known) => known === profile)) throw breaks('profile', profile, { oneOf: PROVIDERS });
}

export function checkName(name: string, limits: FunctionLimits): void {
  checkText('name', name, { pattern: limits.namePattern, lengthMax: limits.nameLengthMax, lengthMin: 1 });
}

export function checkAlias(name: string): void {
  checkText('alias', name, { pattern: ALIAS, lengthMax: 128, lengthMin: 1 });
}

export function checkLayerName(name: string): void {
  checkText('layerName', name, { pattern: LAYER, lengthMax: 140, lengthMin: 1 });
}

export function checkDescription(description: string): void {
  checkText('description', description, { lengthMax: LIMITS.aws.descriptionLengthMax });
}

/** Everything but the code. */
export function checkSettings(settings: FunctionSettings, profile: Provider, packaged: 'zip' | 'image'): void {
  const limits = LIMITS[profile];
  checkText('description', settings.description, { lengthMax: limits.descriptionLengthMax });
  if (packaged === 'zip') {
    if (!RUNTIMES.includes(settings.runtime)) throw breaks('runtime', settings.runtime, { oneOf: RUNTIMES });
    checkText('handler', settings.handler, { pattern: HANDLER, lengthMax: limits.handlerLengthMax, lengthMin: 1 });
  } else if (settings.layers.length > 0) {
    throw refuse('layers', 'layers go with zip packages only; build them into the image');
  }
  checkRange('memoryMb', settings.memoryMb, limits.memoryMb);
  checkRange('timeoutMs', settings.timeoutMs, limits.timeoutMs);
  checkRange('ephemeralMb', settings.ephemeralMb, limits.ephemeralMb);
  checkRange('concurrencyPerInstance', settings.concurrencyPerInstance, CONCURRENCY_PER_INSTANCE);
  checkEnvironment(settings.environment, limits);
  checkLayerList(settings.layers, limits);
}

function checkLayerList(layers: readonly LayerName[], { layersMax }: FunctionLimits): void {
  if (layers.length > layersMax) throw refuse('layers', `${layers.length} layers are more than the ${layersMax} that a function may have`);
  const names = new Set(layers.map(({ name }) => name));
  if (names.size < layers.length) throw refuse('layers', 'two versions of one layer cannot be used together');
}

/** Values are secrets: no message shows one. */
function checkEnvironment(environment: Readonly<Record<string, string>>, limits: FunctionLimits): void {
  const entries = Object.entries(environment);
  const reserved = entries.flatMap(([name]) => (RESERVED_ENVIRONMENT.has(name) ? [name] : []));
  if (reserved.length > 0) throw refuse('environment', `the variables ${reserved.join(', ')} are set by the platform`);
  for (const [name, value] of entries) {
    checkText('environment', name, { pattern: VARIABLE, lengthMax: limits.environmentBytesMax });
    if (value.includes('\0')) throw refuse('environment', `the variable ${name} has a NUL`);
    const bytes = Buffer.byteLength(name) + Buffer.byteLength(value);
    if (bytes > limits.environmentValueBytesMax) {
      throw refuse('environment', `the variable ${name} has ${bytes} bytes; the limit is ${limits.environmentValueBytesMax}`);
    }
  }
  if (entries.length > limits.environmentCountMax) {
    throw refuse('environment', `there are ${entries.length} variables; the limit is ${limits.environmentCountMax}`);
  }
  // Measured as the provider does: the JSON text of all of them.
  const bytes = Buffer.byteLength(JSON.stringify(environment));
  if (entries.length > 0 && bytes > limits.environmentBytesMax) {
    throw refuse('environment', `the variables have ${bytes} bytes as JSON; the limit is ${limits.environmentBytesMax}`);
  }
}

export function checkTags(tags: Readonly<Record<string, string>>): void {
  const entries = Object.entries(tags);
  if (entries.length > TAGS_MAX) throw refuse('tags', `there are ${entries.length} tags; the limit is ${TAGS_MAX}`);
  for (const [key, value] of entries) {
    checkText('tags', key, { lengthMax: 128, lengthMin: 1 });
    checkText('tags', value, { lengthMax: 256 });
    if (key.toLowerCase().startsWith('aws:')) throw refuse('tags', `the tag ${JSON.stringify(key)} begins with aws:, which is reserved`);
  }
}

export function checkAsyncConfig({ retriesMax = 2, ageMaxSeconds = 60, onSuccess, onFailure }: AsyncConfig): void {
  checkRange('retriesMax', retriesMax, { min: 0, max: 2 });
  checkRange('ageMaxSeconds', ageMaxSeconds, { min: 60, max: 21_600 });
  for (const [field, target] of [
    ['onSuccess', onSuccess],
    ['onFailure', onFailure],
  ] as const) {
    if (target !== undefined) checkText(field, target, { lengthMax: 350 });
  }
}

/** One other version may get a share of the calls. */
export function checkWeights(version: string, weights: Readonly<Record<string, number>>): void {
  const entries = Object.entries(weights);
  if (entries.length > 1) throw refuse('weights', 'an alias may send calls to one additional version, not to more');
  for (const [other, weight] of entries) {
    if (!/^[0-9]+$/.test(other) || !/^[0-9]+$/.test(version))
      throw refuse('weights', 'calls are shared between published versions; $LATEST is none');
    if (other === version) throw refuse('weights', `the additional version ${other} is the version of the alias itself`);
    if (!(weight >= 0 && weight <= 1)) throw refuse('weights', `the weight of version ${other} is ${weight}: it must be from 0 to 1`);
  }
}

/** What is left out is the provider's default. */
export function withDefaults(input: NewFunction, limits: FunctionLimits): FunctionSettings {
  return {
    description: input.description ?? '',
    runtime: input.runtime ?? '',
    handler: input.handler ?? '',
    memoryMb: input.memoryMb ?? limits.memoryMb.default,
    timeoutMs: input.timeoutMs ?? limits.timeoutMs.default,
    ephemeralMb: input.ephemeralMb ?? limits.ephemeralMb.default,
    environment: input.environment ?? {},
    layers: input.layers ?? [],
    concurrencyPerInstance: input.concurrencyPerInstance ?? 1,
    network: input.network ?? 'none',
    architecture: input.architecture ?? 'x86_64',
    extra: input.extra ?? {},
  };
}
