/** The configuration of a function: from the members of a request to settings of the store, and from a record to the members of an answer. */

import { hash } from 'node:crypto';
import { RunnerError } from '../../errors.ts';
import { PROVIDERS } from '../../executor/limits.ts';
import type { Provider } from '../../executor/limits.ts';
import type { Architecture, CodeInput, FunctionRecord, FunctionSettings, JsonObject, JsonValue } from '../../runtime/store-records.ts';
import { breaks } from '../../runtime/store-settings.ts';
import { allows } from '../http.ts';
import type { Caller } from '../http.ts';
import type { Fields } from './fields.ts';
import { missing } from './fields.ts';
import { functionArn, layerArn, parseLayerName } from './names.ts';
import type { Place } from './names.ts';
import { awsTime } from './operation.ts';

const LATEST = '$LATEST';
const ROLE = /^arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role\/?[a-zA-Z_0-9+=,.@\-_/]+$/;
const ARCHITECTURES: readonly Architecture[] = ['x86_64', 'arm64'];
const PACKAGE_TYPES = ['Zip', 'Image'] as const;
/** Members that are kept and shown, and mean nothing to the runtime. */
const KEPT = ['VpcConfig', 'DeadLetterConfig', 'TracingConfig', 'LoggingConfig', 'SnapStart', 'ImageConfig'] as const;
/** What the API has no member for is said by tags. */
export const SETTING_TAGS = { profile: 'bpr:profile', network: 'bpr:network', concurrency: 'bpr:concurrency' } as const;

type PackageType = (typeof PACKAGE_TYPES)[number];

function refused(message: string): RunnerError {
  return new RunnerError('REQUEST_INVALID', message, { details: { awsType: 'InvalidParameterValueException' } });
}

/** What `CreateFunction` demands besides the name. */
export function requireCreatable(fields: Fields): PackageType {
  const role = fields.required('Role');
  if (!ROLE.test(role)) throw breaks('role', role, { pattern: ROLE.source.replaceAll(/^\^|\$$/g, '') });
  if (!fields.has('Code')) throw missing('Code');
  const asked = fields.text('PackageType') ?? 'Zip';
  const packaged = PACKAGE_TYPES.find((type) => type === asked);
  if (packaged === undefined) throw breaks('packageType', asked, { oneOf: PACKAGE_TYPES });
  if (packaged === 'Image') return packaged;
  if (!fields.has('Runtime')) throw refused('Runtime and Handler are mandatory parameters for functions created with deployment packages.');
  if (!fields.has('Handler')) throw refused('Runtime and Handler are mandatory parameters for functions created with deployment packages.');
  return packaged;
}

type ImageCode = Extract<CodeInput, { readonly kind: 'image' }>;

/** How an image is started, where that is not as it says itself: `ImageConfig`. */
export function startOf(config: Fields | undefined): Pick<ImageCode, 'command' | 'entryPoint'> {
  const command = config?.texts('Command');
  const entryPoint = config?.texts('EntryPoint');
  return { ...(command && { command }), ...(entryPoint && { entryPoint }) };
}

/** `start`: of an image. */
export function codeOf(fields: Fields, packaged: PackageType, start: ReturnType<typeof startOf>): CodeInput {
  if (packaged === 'Image') {
    const uri = fields.text('ImageUri');
    if (uri === undefined) throw refused('Please provide ImageUri when updating a function with packageType Image.');
    return { ...start, kind: 'image', uri };
  }
  const bytes = fields.bytes('ZipFile');
  if (fields.has('S3Bucket') || fields.has('S3Key')) throw refused('There is no S3 here. Please provide the code as ZipFile.');
  if (bytes === undefined) throw refused('Please provide a source for function code.');
  if (bytes.length === 0) throw refused('Uploaded file must be a non-empty zip');
  return { kind: 'zip', bytes };
}

export function architectureOf(fields: Fields): Architecture {
  const asked = fields.texts('Architectures') ?? [];
  const [first] = ARCHITECTURES.filter((one) => asked.includes(one));
  if (first === undefined || asked.length !== 1) throw breaks('architectures', `[${asked.join(', ')}]`, { oneOf: ARCHITECTURES });
  return first;
}

/** What is left out of the request is left out here. */
export function settingsOf(fields: Fields): Partial<FunctionSettings> {
  const [description, runtime, handler] = ['Description', 'Runtime', 'Handler'].map((name) => fields.text(name));
  const [memoryMb, seconds] = ['MemorySize', 'Timeout'].map((name) => fields.whole(name));
  const ephemeralMb = fields.inner('EphemeralStorage')?.whole('Size');
  const environment = fields.inner('Environment');
  const layers = fields.texts('Layers')?.map((arn) => {
    const { name, version } = parseLayerName(arn);
    if (version === undefined) throw refused(`Layer version ${arn} is not the ARN of a layer version.`);
    return { name, version };
  });
  return {
    ...(description !== undefined && { description }),
    ...(runtime !== undefined && { runtime }),
    ...(handler !== undefined && { handler }),
    ...(memoryMb !== undefined && { memoryMb }),
    ...(seconds !== undefined && { timeoutMs: seconds * 1_000 }),
    ...(ephemeralMb !== undefined && { ephemeralMb }),
    ...(environment && { environment: environment.textMap('Variables') ?? {} }),
    ...(layers && { layers }),
    extra: extraOf(fields),
  };
}

function extraOf(fields: Fields): JsonObject {
  const role = fields.text('Role');
  const key = fields.text('KMSKeyArn');
  const kept = KEPT.flatMap((name) => (fields.has(name) ? [[name, fields.object(name)] as const] : []));
  return { ...(role !== undefined && { Role: role }), ...(key !== undefined && { KMSKeyArn: key }), ...Object.fromEntries(kept) };
}

/** The provider whose limits hold, by the tag `bpr:profile`. */
export function profileOf(tags: Readonly<Record<string, string>>): { readonly profile?: Provider } {
  const asked = tags[SETTING_TAGS.profile];
  if (asked === undefined) return {};
  const profile = PROVIDERS.find((one) => one === asked);
  if (profile === undefined) throw breaks(SETTING_TAGS.profile, asked, { oneOf: PROVIDERS });
  return { profile };
}

type TagSettings = Partial<Pick<FunctionSettings, 'network' | 'concurrencyPerInstance'>>;

/** What the settings that these tags say are without them. */
export function unsetByTags(tags: Readonly<Record<string, string>>): TagSettings {
  return {
    ...(tags[SETTING_TAGS.network] !== undefined && { network: 'none' }),
    ...(tags[SETTING_TAGS.concurrency] !== undefined && { concurrencyPerInstance: 1 }),
  };
}

/** Settings of ours, by the tags `bpr:network` and `bpr:concurrency`. */
export function tagSettings(tags: Readonly<Record<string, string>>): TagSettings {
  const network = tags[SETTING_TAGS.network];
  const concurrency = tags[SETTING_TAGS.concurrency];
  if (network !== undefined && network !== 'none' && network !== 'open')
    throw breaks(SETTING_TAGS.network, network, { oneOf: ['none', 'open'] });
  return { ...(network !== undefined && { network }), ...(concurrency !== undefined && { concurrencyPerInstance: Number(concurrency) }) };
}

/** As the service tells it of who may not decrypt them. */
const HIDDEN_ENVIRONMENT: JsonObject = {
  Error: { ErrorCode: 'AccessDeniedException', Message: 'The values of variables are shown to who has functions:write for the function.' },
};

export interface Showing {
  /** The ARN carries the version. */
  readonly qualified: boolean;
  /** Values of variables are for those who may change the function. */
  readonly caller: Caller;
}

/** `FunctionConfiguration` of the API. */
export function toConfiguration(record: FunctionRecord, place: Place, { qualified, caller }: Showing): JsonObject {
  const { extra, code, layers, environment } = record;
  const logging = extra['LoggingConfig'];
  const image = extra['ImageConfig'];
  return {
    FunctionName: record.name,
    FunctionArn: functionArn(place, record.name, qualified ? record.version : undefined),
    ...(code.kind === 'zip' && { Runtime: record.runtime, Handler: record.handler }),
    Role: extra['Role'] ?? `arn:aws:iam::${place.accountId}:role/none`,
    CodeSize: code.kind === 'zip' ? code.zipBytes : 0,
    CodeSha256: code.kind === 'zip' ? toBase64(code.sha256) : toBase64(hash('sha256', code.uri, 'hex')),
    Description: record.description,
    Timeout: record.timeoutMs / 1_000,
    MemorySize: record.memoryMb,
    LastModified: awsTime(record.modifiedAt),
    Version: record.version,
    ...(extra['VpcConfig'] !== undefined && { VpcConfig: extra['VpcConfig'] }),
    ...(extra['DeadLetterConfig'] !== undefined && { DeadLetterConfig: extra['DeadLetterConfig'] }),
    ...(Object.keys(environment).length > 0 && {
      Environment: allows(caller, 'functions:write', record.name) ? { Variables: environment } : HIDDEN_ENVIRONMENT,
    }),
    ...(extra['KMSKeyArn'] !== undefined && { KMSKeyArn: extra['KMSKeyArn'] }),
    TracingConfig: extra['TracingConfig'] ?? { Mode: 'PassThrough' },
    RevisionId: record.revisionId,
    ...(layers.length > 0 && {
      Layers: layers.map(({ name, version, zipBytes }) => ({ Arn: `${layerArn(place, name)}:${version}`, CodeSize: zipBytes })),
    }),
    State: 'Active',
    LastUpdateStatus: 'Successful',
    PackageType: code.kind === 'zip' ? 'Zip' : 'Image',
    ...(image !== undefined && { ImageConfigResponse: { ImageConfig: image } }),
    Architectures: [record.architecture],
    EphemeralStorage: { Size: record.ephemeralMb },
    SnapStart: { ApplyOn: 'None', OptimizationStatus: 'Off' },
    LoggingConfig: { LogFormat: 'Text', LogGroup: `/aws/lambda/${record.name}`, ...(isObject(logging) && logging) },
    ...(record.version === LATEST ? {} : { ConfigSha256: toBase64(record.fingerprint) }),
  };
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function toBase64(hex: string): string {
  return Buffer.from(hex, 'hex').toString('base64');
}

/** Undefined when it is no SHA-256 in base64. */
export function toHex(base64: string): string | undefined {
  const bytes = Buffer.from(base64, 'base64');
  return bytes.length === 32 ? bytes.toString('hex') : undefined;
}
