/** Values that nobody expects, as the text of JSON, and requests to every route with them in every field. */

import type { Random } from '../../src/testing/fake-clock.ts';
import { ADMIN, framed } from './fuzz-http.ts';
import type { Header, Input } from './fuzz-http.ts';

/** A JSON Schema, as far as the document of the gateway uses it. */
interface Schema {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly additionalProperties?: Schema | boolean;
  readonly enum?: readonly string[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly required?: readonly string[];
}

interface Operation {
  readonly operationId: string;
  readonly summary: string;
  readonly parameters?: readonly { readonly name: string; readonly in: string; readonly schema: Schema }[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: Schema }>> };
  readonly security: readonly unknown[];
}

export interface Target {
  readonly method: string;
  readonly path: string;
  readonly operation: Operation;
}

/** All routes of the document of a gateway. */
export function targetsOf(document: string): Target[] {
  // The gateway's own document.
  const { paths } = JSON.parse(document) as { readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>> };
  return Object.entries(paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => ({ method: method.toUpperCase(), path, operation })),
  );
}

const deep = (open: string, close: string, depth: number): string => `${open.repeat(depth)}1${close.repeat(depth)}`;

/** Each is JSON, or nearly. */
const VALUES: readonly string[] = [
  'null',
  'true',
  'false',
  '0',
  '-1',
  '-0',
  '1.5',
  '1e400',
  '1e-400',
  '9007199254740993',
  '99999999999999999999999999',
  '2147483648',
  '-2147483649',
  '""',
  '"a"',
  '" "',
  '"\\u0000"',
  '"\\ud800"',
  '"\\udc00\\ud800"',
  '"\\uffff"',
  '"\u{1f600}"',
  '"../../../etc/passwd"',
  '"/etc/passwd"',
  '"a/b"',
  '"a\\\\b"',
  '"$LATEST"',
  '"__proto__"',
  '"constructor"',
  '"toString"',
  '"%00"',
  '"\\r\\nX-Injected: 1"',
  '"arn:aws:lambda:us-east-1:000000000000:function:fuzz-call"',
  '"arn:aws:lambda:::function:"',
  '"file:///etc/passwd"',
  '"http://127.0.0.1:1/"',
  '"\'; DROP TABLE functions; --"',
  '"{}"',
  '"NaN"',
  '"AAAA"',
  '"A==="',
  '"===="',
  '"nodejs24.x"',
  '"python3.13"',
  '"nodejs99.x"',
  '[]',
  '[null]',
  '[[]]',
  '[1,2,3]',
  '["a"]',
  '{}',
  '{"a":1}',
  '{"__proto__":{"admin":true}}',
  '{"constructor":{"prototype":{"x":1}}}',
  '{"":""}',
  '{"toString":1,"valueOf":1}',
  '{"length":99999999}',
  '{"then":1}',
  '{"toJSON":"x"}',
];
const LARGE: readonly ((random: Random) => string)[] = [
  (random) => JSON.stringify('a'.repeat(random.int(100, 70_000))),
  (random) => deep('[', ']', random.pick([50, 5_000, 50_000])),
  (random) => deep('{"a":', '}', random.pick([50, 5_000, 20_000])),
  (random) => `[${'0,'.repeat(random.int(10, 20_000))}0]`,
  (random) => `{${Array.from({ length: random.int(10, 3_000) }, (_, index) => `"k${index}":"v"`).join(',')}}`,
  (random) => '1'.repeat(random.int(20, 20_000)),
];
const NO_JSON: readonly string[] = [
  '',
  ' ',
  '{',
  '}',
  '[',
  '{"a"',
  '{"a":}',
  '{a:1}',
  "{'a':1}",
  '{"a":1,}',
  '[1,]',
  'undefined',
  'NaN',
  '01',
  '1.',
  '.5',
  '+1',
  '0x1',
  '"\n"',
  '"\\x"',
  '"\\u12"',
  'nul',
  '\ufeff{}',
  '{}{}',
  '// x\n{}',
  '{"a":1}\u0000',
  '\u0000',
  '"\u0000"',
  '{"a":"\t"}',
  '-',
  '1e',
  '\u2028',
];
const NO_UTF8: readonly Buffer[] = [
  Buffer.from('22ff22', 'hex'),
  Buffer.from('7b22c0af223a317d', 'hex'),
  Buffer.from('22eda08022', 'hex'),
  Buffer.from('fffe7b007d00', 'hex'),
  Buffer.from('22f4908080'.concat('22'), 'hex'),
];

export function valueOf(random: Random): string {
  return random.chance(0.01) ? random.pick(LARGE)(random) : random.pick(VALUES);
}

/** How many instances may be asked for: more only takes time. */
const COUNTS = new Set(['count', 'ProvisionedConcurrentExecutions']);

/** What the Lambda API reads of bodies; its document does not say. */
const LAMBDA_FIELDS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  CreateFunction: {
    FunctionName: 'fuzz-new',
    Role: 'arn:aws:iam::000000000000:role/x',
    Code: { ZipFile: 'UEsFBg==' },
    Runtime: 'nodejs24.x',
    Handler: 'index.handler',
    Description: 'd',
    Timeout: 3,
    MemorySize: 128,
    Publish: false,
    PackageType: 'Zip',
    Environment: { Variables: { A: 'b' } },
    Layers: ['arn:aws:lambda:us-east-1:000000000000:layer:a:1'],
    Tags: { a: 'b' },
    EphemeralStorage: { Size: 512 },
    DeadLetterConfig: { TargetArn: 'arn' },
    TracingConfig: { Mode: 'Active' },
    Architectures: ['x86_64'],
    VpcConfig: { SubnetIds: [] },
    ImageConfig: { Command: ['a'] },
    LoggingConfig: { LogFormat: 'JSON' },
    SnapStart: { ApplyOn: 'None' },
    FileSystemConfigs: [],
    KMSKeyArn: 'k',
  },
  UpdateFunctionCode: {
    ZipFile: 'UEsFBg==',
    ImageUri: 'x',
    Publish: false,
    DryRun: true,
    RevisionId: 'r',
    S3Bucket: 'b',
    S3Key: 'k',
    Architectures: ['x86_64'],
  },
  UpdateFunctionConfiguration: {
    Role: 'r',
    Handler: 'index.handler',
    Description: 'd',
    Timeout: 3,
    MemorySize: 128,
    Runtime: 'nodejs24.x',
    Environment: { Variables: { A: 'b' } },
    Layers: [],
    EphemeralStorage: { Size: 512 },
    RevisionId: 'r',
    DeadLetterConfig: { TargetArn: 'a' },
    TracingConfig: { Mode: 'Active' },
    ImageConfig: { EntryPoint: ['a'] },
  },
  PublishVersion: { Description: 'd', CodeSha256: 'x', RevisionId: 'r' },
  CreateAlias: { Name: 'live', FunctionVersion: '1', Description: 'd', RoutingConfig: { AdditionalVersionWeights: { 2: 0.1 } } },
  UpdateAlias: { FunctionVersion: '1', Description: 'd', RevisionId: 'r', RoutingConfig: { AdditionalVersionWeights: { 2: 0.1 } } },
  PublishLayerVersion: {
    Description: 'd',
    Content: { ZipFile: 'UEsFBg==' },
    CompatibleRuntimes: ['nodejs24.x'],
    CompatibleArchitectures: ['x86_64'],
    LicenseInfo: 'MIT',
  },
  PutFunctionConcurrency: { ReservedConcurrentExecutions: 1 },
  AddPermission: {
    StatementId: 's',
    Action: 'lambda:InvokeFunction',
    Principal: 'x',
    SourceArn: 'a',
    SourceAccount: '000000000000',
    RevisionId: 'r',
    EventSourceToken: 't',
    FunctionUrlAuthType: 'NONE',
    PrincipalOrgID: 'o',
  },
  PutFunctionEventInvokeConfig: {
    MaximumRetryAttempts: 1,
    MaximumEventAgeInSeconds: 60,
    DestinationConfig: { OnSuccess: { Destination: 'a' }, OnFailure: { Destination: 'file:///x' } },
  },
  UpdateFunctionEventInvokeConfig: {
    MaximumRetryAttempts: 1,
    MaximumEventAgeInSeconds: 60,
    DestinationConfig: { OnFailure: { Destination: 'http://127.0.0.1:1' } },
  },
  TagResource: { Tags: { a: 'b' } },
  PutProvisionedConcurrencyConfig: { ProvisionedConcurrentExecutions: 1 },
};

function exampleOf(schema: Schema, name: string): unknown {
  if (schema.enum) return schema.enum[0];
  if (schema.type === 'object') {
    if (schema.properties) return Object.fromEntries(Object.entries(schema.properties).map(([key, inner]) => [key, exampleOf(inner, key)]));
    return { A: 'b' };
  }
  if (schema.type === 'array') return schema.items ? [exampleOf(schema.items, name)] : [];
  if (schema.type === 'integer' || schema.type === 'number') return schema.minimum ?? 1;
  if (schema.type === 'boolean') return true;
  if (name === 'name') return 'fuzz-set';
  if (name === 'function') return 'fuzz-call';
  if (name === 'runtime') return 'nodejs24.x';
  return name === 'handler' ? 'index.handler' : 'a';
}

/** The body that a target takes, as an object; undefined: it takes none, or whatever bytes. */
function fieldsOf({ operation }: Target): Record<string, unknown> | undefined {
  const name = /^(\w+): /.exec(operation.summary)?.[1] ?? '';
  const known = LAMBDA_FIELDS[name];
  if (known) return { ...known };
  const schema = operation.requestBody?.content['application/json']?.schema;
  if (schema?.type !== 'object') return undefined;
  const example = exampleOf(schema, '');
  // An object, as its schema says.
  return { ...(example as Record<string, unknown>) };
}

const PATH_VALUES = [
  'fuzz-set',
  'fuzz-set',
  'fuzz-call',
  'nothing',
  '$LATEST',
  '1',
  '0',
  '-1',
  'a'.repeat(300),
  '%F0%9F%98%80',
  '%00',
  '..',
  '%2e%2e',
  'a%2fb',
  '%ed%a0%80',
  'a:b',
  'arn:aws:lambda:us-east-1:000000000000:function:fuzz-set',
  'arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Afuzz-set:9',
  '__proto__',
  'constructor',
  "';--",
  '%20',
  '99999999999999999999',
  '%0d%0aX:1',
];
const QUERY_VALUES = [
  '',
  '1',
  '-1',
  '0',
  '1e9',
  '99999999999999999999',
  'a',
  '$LATEST',
  '%00',
  '%F0%9F%98%80',
  '__proto__',
  '%',
  '%zz',
  '..%2f',
  'true',
  'ALL',
  'LayerVersion',
  'bm90aGluZw',
  '%0d%0a',
  'a'.repeat(300),
  "'--",
  '%ff',
];
const QUERY_NAMES = [
  'Qualifier',
  'MaxItems',
  'Marker',
  'FunctionVersion',
  'RevisionId',
  'tagKeys',
  'Arn',
  'find',
  'List',
  'CompatibleRuntime',
  'limit',
  'after',
  '__proto__',
  'qualifier',
  'token',
  'expires',
  '',
];
const TYPES = [
  'application/json',
  'text/plain',
  'application/zip',
  'multipart/form-data; boundary=',
  'application/json; charset=utf-7',
  '',
  'x',
  'application/x-www-form-urlencoded',
  '\u00ff',
];
const SPECIAL: readonly Header[] = [
  ['X-Amz-Invocation-Type', 'Event'],
  ['X-Amz-Invocation-Type', 'DryRun'],
  ['X-Amz-Invocation-Type', 'event'],
  ['X-Amz-Log-Type', 'Tail'],
  ['X-Amz-Log-Type', ''],
  ['X-Amz-Client-Context', '%%%'],
  ['X-Amz-Client-Context', 'e30='],
  ['X-Amz-Client-Context', '\u00e9'],
  ['X-Amzn-Trace-Id', '\u00e9'],
  ['X-Amzn-Trace-Id', 'a'.repeat(9_000)],
  ['Traceparent', '00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-01'],
  ['X-Timeout-Ms', '0'],
  ['X-Timeout-Ms', '99999999999'],
  ['X-Timeout-Ms', '9999999999'],
  ['Idempotency-Key', ''],
  ['Idempotency-Key', 'a b'],
  ['Idempotency-Key', 'x'.repeat(300)],
  ['X-Blueprint-Config', '{'],
  ['X-Blueprint-Config', 'e30='],
  ['X-Blueprint-Config', 'eyJtZW1vcnlfbWIiOi0xfQ=='],
  ['X-Log-Type', 'tail'],
  ['Content-Encoding', 'gzip'],
  ['Content-Encoding', 'zstd'],
  ['Accept', '*/*;q=x'],
  ['Last-Event-Id', '\u00ff'],
  ['Last-Event-Id', '0-0'],
  ['If-Match', '*'],
];

/** Credentials that do not open anything. */
export interface WrongCredentials {
  readonly expired: string;
  readonly narrow: string;
}

function credentials(random: Random, { expired, narrow }: WrongCredentials): Header {
  return random.pick<Header>([
    ['X-Nothing', 'x'],
    ['Authorization', `Bearer ${expired}`],
    ['X-Api-Key', expired],
    ['Authorization', `Bearer ${narrow}`],
    ['Authorization', 'Bearer '],
    ['Authorization', `Bearer bpr_${'a'.repeat(16)}_${'b'.repeat(43)}`],
    ['Authorization', `Basic ${Buffer.from('a:b').toString('base64')}`],
    ['Authorization', `${ADMIN[1]}x`],
    ['Authorization', ADMIN[1].slice(0, -1)],
    ['X-Api-Key', 'a'.repeat(8_000)],
    ['X-Api-Key', '../../../../etc/passwd'],
    ['Authorization', 'AWS4-HMAC-SHA256 Credential=BPRKX/20260101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=0'],
    ['Authorization', 'AWS4-HMAC-SHA256 Credential=, SignedHeaders=, Signature='],
    ['Authorization', 'AWS4-HMAC-SHA256'],
    ['Authorization', '\u00ff\u00fe'],
  ]);
}

function bodyOf(random: Random, target: Target): string | Buffer {
  const fields = fieldsOf(target);
  const choice = random.int(0, 99);
  if (choice < 8) return random.pick(NO_JSON);
  if (choice < 12) return random.pick(NO_UTF8);
  if (choice < 18 || !fields) return valueOf(random);
  const names = Object.keys(fields);
  const parts = new Map(names.map((name) => [name, JSON.stringify(fields[name])]));
  for (let count = random.int(1, 2); count > 0; count -= 1) damageField(random, parts, { names, fields });
  for (const name of COUNTS) {
    const value = Number(parts.get(name));
    if (value > 3) parts.set(name, '3');
  }
  // Optional members are left out at random, so that those that exclude each other meet seldom.
  const kept = [...parts].filter(() => random.chance(0.6));
  const text = `{${kept.map(([name, value]) => `${JSON.stringify(name)}:${value}`).join(',')}}`;
  return random.chance(0.05) ? text.slice(0, random.int(0, text.length)) : text;
}

interface Body {
  readonly names: readonly string[];
  readonly fields: Readonly<Record<string, unknown>>;
}

function damageField(random: Random, parts: Map<string, string>, { names, fields }: Body): void {
  const name = names.length === 0 ? 'x' : random.pick(names);
  const inner = fields[name];
  const choice = random.int(0, 9);
  if (choice === 0) parts.delete(name);
  else if (choice === 1) parts.set(random.pick(['__proto__', 'constructor', 'unknown', '', '\u0000', 'a'.repeat(500)]), valueOf(random));
  else if (choice === 2) parts.set(name, `${valueOf(random)},${JSON.stringify(name)}:${valueOf(random)}`);
  else if (choice < 6 && typeof inner === 'object' && inner !== null && !Array.isArray(inner)) {
    const keys = Object.keys(inner);
    const members = keys.map(
      (key) => `${JSON.stringify(key)}:${random.chance(0.5) ? valueOf(random) : JSON.stringify((inner as Record<string, unknown>)[key])}`,
    );
    parts.set(name, `{${members.join(',')}}`);
  } else parts.set(name, valueOf(random));
}

const isCall = (path: string): boolean => /\/(?:invoke|stream|invocations|invoke-async|response-streaming-invocations)$/.test(path);

/** A request to a route of the document, wrong in a field, in its path, in its query, in its headers, or in who sends it. */
export function fieldsInput(random: Random, targets: readonly Target[], wrong: WrongCredentials): Input {
  const target = random.pick(targets);
  const isPublic = target.operation.security.length === 0;
  const isStranger = !isPublic && random.chance(0.1);
  // What is called is never changed, so that it can always be called.
  const name = isCall(target.path) ? 'fuzz-call' : 'fuzz-set';
  const path = target.path.replaceAll(/\{(\w+)\}/g, (_, parameter: string) => {
    if (random.chance(0.15)) return random.pick(PATH_VALUES.filter((value) => value !== 'fuzz-call'));
    if (/^(?:name|function_id|FunctionName)$/.test(parameter)) return name;
    return parameter === 'Resource' ? 'arn:aws:lambda:us-east-1:000000000000:function:fuzz-set' : random.pick(['1', 'live', 'fuzz-set']);
  });
  const known = (target.operation.parameters ?? []).filter((parameter) => parameter.in === 'query').map((parameter) => parameter.name);
  const query = Array.from(
    { length: random.chance(0.3) ? random.int(1, 3) : 0 },
    () => `${random.pick(known.length > 0 && random.chance(0.7) ? known : QUERY_NAMES)}=${random.pick(QUERY_VALUES)}`,
  ).join('&');
  const headers: Header[] = [isStranger ? credentials(random, wrong) : ADMIN];
  if (random.chance(0.5)) headers.push(['Content-Type', random.chance(0.6) ? 'application/json' : random.pick(TYPES)]);
  if (random.chance(0.15)) headers.push(random.pick(SPECIAL));
  const takesBody = target.method !== 'GET' && target.method !== 'DELETE';
  const body = takesBody || random.chance(0.03) ? bodyOf(random, target) : '';
  const bytes = framed({ method: target.method, target: `${path}${query === '' ? '' : `?${query}`}`, headers, body });
  return { what: `fields: ${target.operation.operationId}`, bytes, mustRefuse: isStranger };
}
