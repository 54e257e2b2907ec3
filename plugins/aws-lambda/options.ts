/** What users of the plugin can say, and whether what they said is of the right shape. */

import { RunnerError } from '../../src/plugin.ts';
import type { Clock, ExecutorLimits, ProgramSpec, Telemetry } from '../../src/plugin.ts';

export const AWS_SERVICES = ['lambda', 'iam', 'logs', 'scheduler', 'events', 's3', 'sqs', 'ec2'] as const;
export type AwsService = (typeof AWS_SERVICES)[number];

export interface AwsCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
}

/** Where and as whom. What is left out is found by the SDK: environment, `~/.aws`, SSO, roles of containers and machines. */
export interface AwsOptions {
  readonly region?: string | undefined;
  /** Of `~/.aws/config`. */
  readonly profile?: string | undefined;
  /** Instead of what the SDK finds. */
  readonly credentials?: (() => Promise<AwsCredentials>) | undefined;
  /** Of all services: an emulator, a gateway, a private endpoint. */
  readonly endpoint?: string | undefined;
  /** Of single services. */
  readonly endpoints?: Readonly<Partial<Record<AwsService, string>>> | undefined;
  readonly clock?: Clock | undefined;
  readonly telemetry?: Telemetry | undefined;
}

export interface LambdaExecutorOptions extends AwsOptions {
  /** One function for all jobs, or one per job id. Names or ARNs. */
  readonly function: string | Readonly<Record<string, string>>;
  /** Alias or version. Default: none, which is what was deployed last, published or not. */
  readonly qualifier?: string | undefined;
  /** For logs and metrics. Default: `aws-lambda:` and the function. */
  readonly name?: string | undefined;
  /**
   * - `base64` (default): for handlers made with this package, 1.33 bytes on the wire for one
   * - `json`: what every handler of a Tangle blueprint understands, 3.6 bytes for one
   */
  readonly wire?: 'base64' | 'json' | undefined;
  /** Connections at the same time. Default 256. */
  readonly connectionsMax?: number | undefined;
  readonly limits?: Partial<ExecutorLimits> | undefined;
}

export interface LambdaDeployerOptions extends AwsOptions {
  /** An existing bucket for packages above 50 MB. */
  readonly bucket?: string | undefined;
  /** What the keys in the bucket begin with. Default `blueprint-runner/`. */
  readonly bucketPrefix?: string | undefined;
}

export interface Ec2HostOptions extends AwsOptions {
  /** Default: the newest Amazon Linux 2023 for ARM. An AMI id, or `ssm:` and the name of a public parameter that holds one. */
  readonly imageId?: string | undefined;
  /** Default `t4g.nano`. */
  readonly instanceType?: string | undefined;
  /** Name or ARN: as whom the instance reads the bucket and secrets. */
  readonly instanceProfile?: string | undefined;
  /** Default: one of the default network. */
  readonly subnetId?: string | undefined;
  /** Default: a group of its own that lets nothing in. */
  readonly securityGroupIds?: readonly string[] | undefined;
  /** For programs above 16 KB. */
  readonly bucket?: string | undefined;
  readonly bucketPrefix?: string | undefined;
  /** The script that the instance runs when it starts. Default: one that installs node and runs the program under systemd. */
  readonly userData?: ((spec: ProgramSpec) => string | Promise<string>) | undefined;
}

/** A layer that is published with the function: the same bytes are published once. */
export interface LayerPackage {
  readonly name: string;
  /** The zip, or the path of its file. */
  readonly zip: Uint8Array | string;
}

/** `FunctionConfig.platform` of Lambda. What is left out is left alone by an update; `false` takes it away. */
export interface LambdaPlatform {
  /** ARN of an existing role. Default: a role of its own is made. */
  readonly role?: string;
  /** ARNs of further managed policies for the role of its own. */
  readonly rolePolicies?: readonly string[];
  /** ARNs of layer versions, or packages, in the order in which they lie on each other. */
  readonly layers?: readonly (string | LayerPackage)[];
  readonly vpc?: { readonly subnetIds: readonly string[]; readonly securityGroupIds: readonly string[] } | false;
  /** What calls go to. Default `live`. */
  readonly alias?: string;
  readonly url?:
    | {
        readonly auth: 'AWS_IAM' | 'NONE';
        /** Default `BUFFERED`. */
        readonly mode?: 'BUFFERED' | 'RESPONSE_STREAM';
        readonly cors?: {
          readonly origins?: readonly string[];
          readonly methods?: readonly string[];
          readonly headers?: readonly string[];
        };
      }
    | false;
  /** X-Ray. */
  readonly tracing?: boolean;
  /** Encrypts the environment. */
  readonly kmsKeyArn?: string | false;
  /** Of calls that nobody waits for. */
  readonly async?:
    | {
        /** After the first one; 0 to 2. */
        readonly retriesMax?: number;
        /** 60 to 21,600. */
        readonly ageMaxSeconds?: number;
        readonly onSuccess?: string;
        readonly onFailure?: string;
      }
    | false;
  /** ARN of a queue or a topic; `true` makes a queue. */
  readonly deadLetters?: string | boolean;
  /** No reservation any more. A reservation is made by `concurrencyMax`. */
  readonly unreserved?: boolean;
  /** `scheduler` (default): EventBridge Scheduler, with time zones. `rules`: EventBridge rules, UTC only. */
  readonly schedules?: 'scheduler' | 'rules';
  /** Of EventBridge Scheduler. Default `default`; another one is made when it is not there. */
  readonly scheduleGroup?: string;
  readonly logFormat?: 'Text' | 'JSON';
  /**
   * The function is this container image in ECR, and the package is not sent: `ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME@sha256:DIGEST`, what
   * `bpr build --image DIR --push` tells. Lambda never turns a function from a package into one from an image, or back.
   */
  readonly image?: string;
}

export type Check = readonly [what: string, test: (value: unknown) => boolean];

const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';
const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
const isTexts = (value: unknown): boolean => Array.isArray(value) && value.every(isText);
const isCount = (value: unknown): boolean => typeof value === 'number' && Number.isInteger(value) && value > 0;
const within =
  (min: number, max: number) =>
  (value: unknown): boolean =>
    value === undefined || (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max);
const optionalTexts = (value: unknown): boolean => value === undefined || isTexts(value);
const isArn = (value: unknown): boolean => isText(value) && /^arn:[\w-]+:[\w-]+:/.test(value);
const optionalArn = (value: unknown): boolean => value === undefined || isArn(value);
const only = (value: Record<string, unknown>, ...names: readonly string[]): boolean =>
  Object.keys(value).every((name) => names.includes(name));
const isUrl = (value: unknown): boolean => isText(value) && /^https?:\/\//.test(value) && URL.canParse(value);

const text: Check = ['a text', isText];
const AWS_CHECKS: Readonly<Record<string, Check>> = {
  region: ['a region', (value) => isText(value) && /^[a-z0-9-]+$/.test(value)],
  profile: text,
  credentials: ['a function', (value) => typeof value === 'function'],
  endpoint: ['an address', isUrl],
  endpoints: [
    `addresses of ${AWS_SERVICES.join(', ')}`,
    (value) => isRecord(value) && only(value, ...AWS_SERVICES) && Object.values(value).every(isUrl),
  ],
};
export const EXECUTOR_CHECKS: Readonly<Record<string, Check>> = {
  ...AWS_CHECKS,
  function: [
    'a name, an ARN, or names by job id',
    (value) => isText(value) || (isRecord(value) && Object.entries(value).every(([id, name]) => /^\d+$/.test(id) && isText(name))),
  ],
  qualifier: text,
  name: text,
  wire: ['base64 or json', (value) => value === 'base64' || value === 'json'],
  connectionsMax: ['a count', isCount],
  limits: ['an object of limits', isRecord],
};
export const DEPLOYER_CHECKS: Readonly<Record<string, Check>> = { ...AWS_CHECKS, bucket: text, bucketPrefix: text };
export const HOST_CHECKS: Readonly<Record<string, Check>> = {
  ...AWS_CHECKS,
  imageId: ['an AMI id, or ssm:/name', (value) => isText(value) && /^(?:ami-[0-9a-f]+|(?:resolve:)?ssm:\/?[\w./-]+)$/.test(value)],
  instanceType: text,
  instanceProfile: text,
  subnetId: text,
  securityGroupIds: ['a list of ids', isTexts],
  bucket: text,
  bucketPrefix: text,
  userData: ['a function', (value) => typeof value === 'function'],
};

const PLATFORM_CHECKS: Readonly<Record<string, Check>> = {
  role: ['the ARN of a role', (value) => isText(value) && /^arn:[\w-]+:iam::\d{12}:role\/.+/.test(value)],
  rolePolicies: ['a list of ARNs', (value) => Array.isArray(value) && value.every(isArn)],
  layers: [
    'a list of ARNs and of packages { name, zip }',
    (value) =>
      Array.isArray(value) &&
      value.every(
        (layer: unknown) =>
          isArn(layer) ||
          (isRecord(layer) &&
            only(layer, 'name', 'zip') &&
            isText(layer['name']) &&
            /^[a-zA-Z0-9-_]{1,64}$/.test(layer['name']) &&
            (isText(layer['zip']) || layer['zip'] instanceof Uint8Array)),
      ),
  ],
  vpc: [
    'an object with subnetIds and securityGroupIds, both with entries, or false',
    (value) =>
      value === false ||
      (isRecord(value) &&
        only(value, 'subnetIds', 'securityGroupIds') &&
        [value['subnetIds'], value['securityGroupIds']].every((list) => isTexts(list) && Array.isArray(list) && list.length > 0)),
  ],
  alias: [
    'letters, digits, - and _, at most 128, not only digits',
    (value) => isText(value) && /^(?!\d+$)[a-zA-Z0-9-_]{1,128}$/.test(value),
  ],
  url: [
    'an object with auth AWS_IAM or NONE, and mode BUFFERED or RESPONSE_STREAM, or false',
    (value) =>
      value === false ||
      (isRecord(value) &&
        only(value, 'auth', 'mode', 'cors') &&
        ['AWS_IAM', 'NONE'].includes(String(value['auth'])) &&
        [undefined, 'BUFFERED', 'RESPONSE_STREAM'].some((mode) => mode === value['mode']) &&
        (value['cors'] === undefined ||
          (isRecord(value['cors']) &&
            only(value['cors'], 'origins', 'methods', 'headers') &&
            Object.values(value['cors']).every(optionalTexts)))),
  ],
  tracing: ['true or false', (value) => typeof value === 'boolean'],
  kmsKeyArn: ['an ARN, or false', (value) => value === false || isArn(value)],
  async: [
    'an object with retriesMax 0 to 2, ageMaxSeconds 60 to 21600, ARNs onSuccess and onFailure, or false',
    (value) =>
      value === false ||
      (isRecord(value) &&
        only(value, 'retriesMax', 'ageMaxSeconds', 'onSuccess', 'onFailure') &&
        within(0, 2)(value['retriesMax']) &&
        within(60, 21_600)(value['ageMaxSeconds']) &&
        optionalArn(value['onSuccess']) &&
        optionalArn(value['onFailure'])),
  ],
  deadLetters: [
    'the ARN of a queue or a topic that is not FIFO, true, or false',
    (value) => typeof value === 'boolean' || (isText(value) && /^arn:[\w-]+:(?:sqs|sns):[^:]+:\d{12}:(?!.*\.fifo$).+/.test(value)),
  ],
  unreserved: ['true or false', (value) => typeof value === 'boolean'],
  schedules: ['scheduler or rules', (value) => value === 'scheduler' || value === 'rules'],
  scheduleGroup: ['letters, digits, -, _ and .', (value) => isText(value) && /^[0-9a-zA-Z-_.]{1,64}$/.test(value)],
  logFormat: ['Text or JSON', (value) => value === 'Text' || value === 'JSON'],
  image: [
    'an image with its digest: host/name@sha256:...',
    (value) => isText(value) && /^[\w.:-]+(?:\/[\w.-]+)+@sha256:[0-9a-f]{64}$/.test(value),
  ],
};

/** Options of the user. Throws `CONFIG_INVALID` for what is unknown or of the wrong shape. */
export function parseOptions<Options>(
  options: unknown,
  checks: Readonly<Record<string, Check>>,
  required: readonly string[] = [],
): Options {
  const given = options ?? {};
  if (!isRecord(given)) throw new RunnerError('CONFIG_INVALID', 'plugin aws-lambda takes an object of options');
  check(given, checks, 'option');
  for (const name of required)
    if (given[name] === undefined) throw new RunnerError('CONFIG_INVALID', `plugin aws-lambda needs the option ${name}`);
  // Every field was checked.
  return given as Options;
}

/** `FunctionConfig.platform`, checked. Throws `CONFIG_INVALID`. */
export function parsePlatform(platform: Readonly<Record<string, unknown>> = {}): LambdaPlatform {
  check(platform, PLATFORM_CHECKS, 'platform setting');
  const settings = platform as LambdaPlatform; // every field was checked
  if (settings.role !== undefined && settings.rolePolicies !== undefined)
    throw new RunnerError('CONFIG_INVALID', 'the platform settings role and rolePolicies exclude each other: attach policies to your role');
  if (settings.role !== undefined && settings.deadLetters === true)
    throw new RunnerError('CONFIG_INVALID', 'with a role of yours deadLetters is the ARN of a queue that this role may write to');
  if (settings.image !== undefined && settings.layers !== undefined)
    throw new RunnerError('CONFIG_INVALID', 'the platform settings image and layers exclude each other: an image brings everything along');
  return settings;
}

function check(given: Readonly<Record<string, unknown>>, checks: Readonly<Record<string, Check>>, kind: string): void {
  for (const [name, value] of Object.entries(given)) {
    const known = checks[name];
    if (known === undefined)
      throw new RunnerError('CONFIG_INVALID', `plugin aws-lambda has no ${kind} ${name}; it has ${Object.keys(checks).join(', ')}`);
    const [what, test] = known;
    if (value !== undefined && !test(value))
      throw new RunnerError('CONFIG_INVALID', `the ${kind} ${name} of plugin aws-lambda is ${what}`, { details: { name } });
  }
}
