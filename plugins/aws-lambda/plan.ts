/** What a function should be, in the words of Lambda, and how that differs from what it is. Pure. */

import type { FunctionConfiguration, Runtime, UpdateFunctionConfigurationRequest } from '@aws-sdk/client-lambda';
import { LIMITS, RUNTIMES, RunnerError } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionPackage, LimitViolation } from '../../src/plugin.ts';
import { MARKS_MAX, SCHEDULE_NAME_LENGTH_MAX, isSame } from './names.ts';
import { parsePlatform } from './options.ts';
import type { LambdaPlatform } from './options.ts';
import { unpackedBytes } from './zip.ts';

const LIMIT = LIMITS.aws;
const RETENTION_DAYS = [
  1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1_096, 1_827, 2_192, 2_557, 2_922, 3_288, 3_653,
] as const;
const TAGS_MAX = 50;
/** Tags of a function that are this tool's. */
const OWN_TAGS = 4;
const TAG_KEY_MAX = 128;
const TAG_VALUE_MAX = 256;
/** Two characters at least. https://docs.aws.amazon.com/lambda/latest/api/API_Environment.html */
const VARIABLE = /^[a-zA-Z][a-zA-Z0-9_]+$/;
/** Set by Lambda itself. https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html */
const RESERVED_VARIABLES = new Set([
  '_HANDLER',
  '_X_AMZN_TRACE_ID',
  'AWS_DEFAULT_REGION',
  'AWS_REGION',
  'AWS_EXECUTION_ENV',
  'AWS_LAMBDA_FUNCTION_NAME',
  'AWS_LAMBDA_FUNCTION_MEMORY_SIZE',
  'AWS_LAMBDA_FUNCTION_VERSION',
  'AWS_LAMBDA_INITIALIZATION_TYPE',
  'AWS_LAMBDA_LOG_GROUP_NAME',
  'AWS_LAMBDA_LOG_STREAM_NAME',
  'AWS_ACCESS_KEY',
  'AWS_ACCESS_KEY_ID',
  'AWS_SECRET_ACCESS_KEY',
  'AWS_SESSION_TOKEN',
  'AWS_LAMBDA_RUNTIME_API',
  'LAMBDA_TASK_ROOT',
  'LAMBDA_RUNTIME_DIR',
]);

/** Settings of a function with one name and shape, whether they are wanted or present. */
export interface Settings {
  readonly Description?: string;
  readonly Runtime?: string;
  readonly Handler?: string;
  readonly Role?: string;
  readonly MemorySize?: number;
  readonly Timeout?: number;
  readonly Environment?: Readonly<Record<string, string>>;
  readonly EphemeralStorage?: number;
  readonly Layers?: readonly string[];
  readonly VpcConfig?: { readonly SubnetIds: readonly string[]; readonly SecurityGroupIds: readonly string[] };
  readonly TracingConfig?: string;
  readonly DeadLetterConfig?: string;
  readonly KMSKeyArn?: string;
  readonly LogFormat?: string;
}

const DEFAULT_RUNTIME = 'nodejs24.x';

/** The name of a runtime as Lambda has it; undefined when it has none. */
export function runtimeOf(neutral: string | undefined): string | undefined {
  if (neutral === undefined) return undefined;
  if (neutral === 'custom') return 'provided.al2023';
  if (RUNTIMES.includes(neutral)) return neutral;
  return RUNTIMES.includes(`${neutral}.x`) ? `${neutral}.x` : undefined;
}

function neutralRuntime(runtime: string | undefined): string | undefined {
  if (runtime === 'provided.al2023') return 'custom';
  return runtime?.startsWith('nodejs') ? runtime.replace(/\.x$/, '') : runtime;
}

/** What the bundle exports: `handler` of `handler.mjs`, or an executable. */
const handlerOf = (runtime: string): string => (runtime.startsWith('provided') ? 'bootstrap' : 'handler.handler');

/** What else decides about settings: other resources, and whether the function is there. */
export interface Resolved {
  /** The function is not there yet. */
  readonly isNew: boolean;
  readonly role?: string;
  readonly layers?: readonly string[];
  /** Empty: none any more. */
  readonly deadLetters?: string;
}

/** What `config` names, and nothing else; for a function that is not there yet also what Lambda wants to be told. */
export function settingsOf(config: FunctionConfig, platform: LambdaPlatform, resolved: Resolved): Settings {
  // An image says itself what is started.
  const isNew = resolved.isNew && platform.image === undefined;
  const runtime = runtimeOf(config.runtime) ?? (isNew ? DEFAULT_RUNTIME : undefined);
  const handler = config.handler ?? (isNew ? handlerOf(runtime ?? DEFAULT_RUNTIME) : undefined);
  return {
    ...(config.description !== undefined && { Description: config.description }),
    ...(runtime !== undefined && { Runtime: runtime }),
    ...(handler !== undefined && { Handler: handler }),
    ...(resolved.role !== undefined && { Role: resolved.role }),
    ...(config.memoryMb !== undefined && { MemorySize: config.memoryMb }),
    ...(config.timeoutMs !== undefined && { Timeout: Math.ceil(config.timeoutMs / 1_000) }),
    ...(config.environment !== undefined && { Environment: config.environment }),
    ...(config.ephemeralStorageMb !== undefined && { EphemeralStorage: config.ephemeralStorageMb }),
    ...(resolved.layers !== undefined && { Layers: resolved.layers }),
    ...(platform.vpc !== undefined && {
      VpcConfig:
        platform.vpc === false
          ? { SubnetIds: [], SecurityGroupIds: [] }
          : { SubnetIds: platform.vpc.subnetIds.toSorted(), SecurityGroupIds: platform.vpc.securityGroupIds.toSorted() },
    }),
    ...(platform.tracing !== undefined && { TracingConfig: platform.tracing ? 'Active' : 'PassThrough' }),
    ...(resolved.deadLetters !== undefined && { DeadLetterConfig: resolved.deadLetters }),
    ...(platform.kmsKeyArn !== undefined && { KMSKeyArn: platform.kmsKeyArn === false ? '' : platform.kmsKeyArn }),
    ...(platform.logFormat !== undefined && { LogFormat: platform.logFormat }),
  };
}

/** All settings of a function, in the same shape. */
export function presentSettings(configuration: FunctionConfiguration): Required<Settings> {
  return {
    Description: configuration.Description ?? '',
    Runtime: configuration.Runtime ?? '',
    Handler: configuration.Handler ?? '',
    Role: configuration.Role ?? '',
    MemorySize: configuration.MemorySize ?? LIMIT.memoryMb.default,
    Timeout: configuration.Timeout ?? LIMIT.timeoutMs.default / 1_000,
    Environment: configuration.Environment?.Variables ?? {},
    EphemeralStorage: configuration.EphemeralStorage?.Size ?? LIMIT.ephemeralMb.default,
    Layers: (configuration.Layers ?? []).flatMap(({ Arn }) => Arn ?? []),
    VpcConfig: {
      SubnetIds: (configuration.VpcConfig?.SubnetIds ?? []).toSorted(),
      SecurityGroupIds: (configuration.VpcConfig?.SecurityGroupIds ?? []).toSorted(),
    },
    TracingConfig: configuration.TracingConfig?.Mode ?? 'PassThrough',
    DeadLetterConfig: configuration.DeadLetterConfig?.TargetArn ?? '',
    KMSKeyArn: configuration.KMSKeyArn ?? '',
    LogFormat: configuration.LoggingConfig?.LogFormat ?? 'Text',
  };
}

/** Names of the settings that are wanted otherwise. */
export function differing(wanted: Settings, present: Required<Settings>): (keyof Settings)[] {
  // Keys of Settings.
  return (Object.keys(wanted) as (keyof Settings)[]).filter((name) => !isSame(wanted[name], present[name]));
}

/** These settings as a request. What is empty takes away what was there. */
export function requestOf(
  settings: Settings,
  names: readonly (keyof Settings)[],
): Omit<UpdateFunctionConfigurationRequest, 'FunctionName'> {
  const has = (name: keyof Settings): boolean => names.includes(name) && settings[name] !== undefined;
  const { VpcConfig } = settings;
  return {
    ...(has('Description') && { Description: settings.Description }),
    // Checked against the list of runtimes.
    ...(has('Runtime') && { Runtime: settings.Runtime as Runtime }),
    ...(has('Handler') && { Handler: settings.Handler }),
    ...(has('Role') && { Role: settings.Role }),
    ...(has('MemorySize') && { MemorySize: settings.MemorySize }),
    ...(has('Timeout') && { Timeout: settings.Timeout }),
    ...(has('Environment') && { Environment: { Variables: { ...settings.Environment } } }),
    ...(has('EphemeralStorage') && { EphemeralStorage: { Size: settings.EphemeralStorage } }),
    ...(has('Layers') && { Layers: [...(settings.Layers ?? [])] }),
    ...(has('VpcConfig') &&
      VpcConfig && { VpcConfig: { SubnetIds: [...VpcConfig.SubnetIds], SecurityGroupIds: [...VpcConfig.SecurityGroupIds] } }),
    ...(has('TracingConfig') && { TracingConfig: { Mode: settings.TracingConfig === 'Active' ? 'Active' : 'PassThrough' } }),
    ...(has('DeadLetterConfig') && { DeadLetterConfig: { TargetArn: settings.DeadLetterConfig } }),
    ...(has('KMSKeyArn') && { KMSKeyArn: settings.KMSKeyArn }),
    ...(has('LogFormat') && { LoggingConfig: { LogFormat: settings.LogFormat === 'JSON' ? 'JSON' : 'Text' } }),
  };
}

/** Whether two versions behave the same: their code and all settings but the description. */
export function behavesAs(a: FunctionConfiguration, b: FunctionConfiguration): boolean {
  const outline = (one: FunctionConfiguration): unknown => ({
    ...presentSettings(one),
    Description: '',
    code: one.CodeSha256,
    architecture: one.Architectures?.[0] ?? 'x86_64',
  });
  return isSame(outline(a), outline(b));
}

/** What `FunctionState.config` tells of settings. */
export function configOf(configuration: FunctionConfiguration): FunctionConfig {
  const settings = presentSettings(configuration);
  const runtime = neutralRuntime(configuration.Runtime || undefined);
  const platform: LambdaPlatform = {
    ...(settings.VpcConfig.SubnetIds.length > 0 && {
      vpc: { subnetIds: settings.VpcConfig.SubnetIds, securityGroupIds: settings.VpcConfig.SecurityGroupIds },
    }),
    ...(settings.Layers.length > 0 && { layers: settings.Layers }),
    ...(settings.TracingConfig === 'Active' && { tracing: true }),
    ...(settings.DeadLetterConfig !== '' && { deadLetters: settings.DeadLetterConfig }),
    ...(settings.KMSKeyArn !== '' && { kmsKeyArn: settings.KMSKeyArn }),
    ...(settings.LogFormat === 'JSON' && { logFormat: 'JSON' as const }),
  };
  return {
    ...(settings.Description !== '' && { description: settings.Description }),
    ...(runtime !== undefined && { runtime }),
    ...(settings.Handler !== '' && { handler: settings.Handler }),
    memoryMb: settings.MemorySize,
    timeoutMs: settings.Timeout * 1_000,
    ephemeralStorageMb: settings.EphemeralStorage,
    architecture: configuration.Architectures?.[0] === 'arm64' ? 'arm64' : 'x86_64',
    environment: settings.Environment,
    ...(Object.keys(platform).length > 0 && { platform: { ...platform } }),
  };
}

export interface PlannedPackage {
  readonly code: FunctionPackage | undefined;
  /** There is a bucket for packages that are too large for a request. */
  readonly hasBucket: boolean;
}

/** All limits that this would break. Throws `CONFIG_INVALID` for settings of the wrong shape. */
export function violationsOf(name: string, { code, hasBucket }: PlannedPackage, config: FunctionConfig): readonly LimitViolation[] {
  const platform = parsePlatform(config.platform);
  const found: LimitViolation[] = [];
  const add = (limit: string, value: number | string, allowed: string): void =>
    void found.push({ limit, value, allowed, message: `${limit} is ${value}; AWS Lambda allows ${allowed}` });
  const within = (limit: string, value: number | undefined, range: { readonly min: number; readonly max: number }): void => {
    if (value !== undefined && !(value >= range.min && value <= range.max)) add(limit, value, `${range.min} to ${range.max}`);
  };
  if (!LIMIT.namePattern.test(name) || name.length > LIMIT.nameLengthMax)
    add('name', name, `letters, digits, - and _, at most ${LIMIT.nameLengthMax}`);
  within('description', config.description?.length, { min: 0, max: LIMIT.descriptionLengthMax });
  within('handler', config.handler?.length, { min: 1, max: LIMIT.handlerLengthMax });
  if (config.runtime !== undefined && runtimeOf(config.runtime) === undefined)
    add('runtime', config.runtime, 'nodejs24, nodejs22, custom, or a runtime of Lambda');
  within('memoryMb', config.memoryMb, LIMIT.memoryMb);
  within('timeoutMs', config.timeoutMs, LIMIT.timeoutMs);
  within('ephemeralStorageMb', config.ephemeralStorageMb, LIMIT.ephemeralMb);
  // How much an account may have and has left, only Lambda knows.
  const { concurrencyMax = Infinity, instancesMin = 0 } = config;
  if (concurrencyMax < 0) add('concurrencyMax', concurrencyMax, '0 or more');
  if (instancesMin < 0 || instancesMin > Math.max(0, concurrencyMax)) add('instancesMin', instancesMin, '0 or more, up to concurrencyMax');
  within('layers', platform.layers?.length, { min: 0, max: LIMIT.layersMax });
  if (
    config.logRetentionDays !== undefined &&
    config.logRetentionDays !== 0 &&
    !RETENTION_DAYS.some((days) => days === config.logRetentionDays)
  )
    add('logRetentionDays', config.logRetentionDays, `0 (never), ${RETENTION_DAYS.join(', ')}`);
  addEnvironment(config.environment ?? {}, add);
  addTags(config.tags ?? {}, add);
  for (const { name: schedule } of config.schedules ?? [])
    if (!/^[a-z0-9-]+$/.test(schedule) || schedule.length > SCHEDULE_NAME_LENGTH_MAX)
      add('schedules', schedule, `names of lower-case letters, digits and dashes, at most ${SCHEDULE_NAME_LENGTH_MAX}`);
  if (platform.image !== undefined) {
    if (config.runtime !== undefined) add('runtime', config.runtime, 'none for an image');
    if (config.handler !== undefined) add('handler', config.handler, 'none for an image');
  } else if (code) addPackage(code, hasBucket, add);
  return found;
}

type Add = (limit: string, value: number | string, allowed: string) => void;

function addEnvironment(environment: Readonly<Record<string, string>>, add: Add): void {
  const size = Buffer.byteLength(JSON.stringify(environment));
  if (size > LIMIT.environmentBytesMax) add('environment', size, `at most ${LIMIT.environmentBytesMax} bytes`);
  for (const variable of Object.keys(environment)) {
    if (!VARIABLE.test(variable)) add('environment', variable, 'names of two characters at least: a letter, then letters, digits and _');
    if (RESERVED_VARIABLES.has(variable)) add('environment', variable, 'names that Lambda does not set itself');
  }
}

function addTags(tags: Readonly<Record<string, string>>, add: Add): void {
  const entries = Object.entries(tags);
  if (entries.length > Math.min(TAGS_MAX - OWN_TAGS, MARKS_MAX))
    add('tags', entries.length, `at most ${Math.min(TAGS_MAX - OWN_TAGS, MARKS_MAX)}`);
  for (const [key, value] of entries) {
    if (key.length === 0 || key.length > TAG_KEY_MAX || key.startsWith('aws:'))
      add('tags', key, `keys of 1 to ${TAG_KEY_MAX} characters without aws:`);
    if (value.length > TAG_VALUE_MAX) add('tags', key, `values of at most ${TAG_VALUE_MAX} characters`);
  }
}

function addPackage({ zip }: FunctionPackage, hasBucket: boolean, add: Add): void {
  const unpacked = unpackedBytes(zip);
  if (unpacked === undefined) add('package', zip.length, 'a zip');
  else if (unpacked > LIMIT.unpackedBytesMax)
    add('package', unpacked, `at most ${LIMIT.unpackedBytesMax} bytes unpacked; more as an image, the platform setting image`);
  if (zip.length > LIMIT.zipBytesMax && !hasBucket)
    add('package', zip.length, `at most ${LIMIT.zipBytesMax} bytes, or more with the option bucket`);
}

/** All violations at once. */
export function limitError(name: string, violations: readonly LimitViolation[]): RunnerError {
  const listed = violations.map(({ message }) => message).join('; ');
  return new RunnerError('LIMIT_EXCEEDED', `function ${name} breaks ${violations.length} limits: ${listed}`, {
    details: { name, violations },
  });
}
