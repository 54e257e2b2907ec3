/** Bodies of the REST APIs of GCP, as strict as the services are: an unknown field is 400 INVALID_ARGUMENT. */

export type Fields = Readonly<Record<string, unknown>>;

/** What a service says in place of an answer. */
export class Refusal extends Error {
  readonly status: number;
  readonly code: string;
  readonly details: readonly Fields[];

  constructor(status: number, code: string, message: string, details: readonly Fields[] = []) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
  }
}

export const invalid = (message: string): Refusal => new Refusal(400, 'INVALID_ARGUMENT', message);

/** A map of text, a list, a value of any kind, or an object with these members. */
type Shape = 'text' | 'number' | 'flag' | 'map' | 'any' | readonly [Shape] | { readonly [field: string]: Shape };

const SECRET_VARIABLE: Shape = { key: 'text', projectId: 'text', secret: 'text', version: 'text' };
const SOURCE: Shape = { storageSource: { bucket: 'text', object: 'text', generation: 'text', sourceUploadUrl: 'text' } };

export const FUNCTION: Shape = {
  name: 'text',
  description: 'text',
  environment: 'text',
  labels: 'map',
  kmsKeyName: 'text',
  eventTrigger: 'any',
  // Told by the service; taken and not looked at.
  state: 'text',
  stateMessages: ['any'],
  createTime: 'text',
  updateTime: 'text',
  url: 'text',
  satisfiesPzs: 'flag',
  upgradeInfo: 'any',
  buildConfig: {
    automaticUpdatePolicy: 'any',
    onDeployUpdatePolicy: 'any',
    build: 'text',
    dockerRegistry: 'text',
    dockerRepository: 'text',
    entryPoint: 'text',
    environmentVariables: 'map',
    runtime: 'text',
    serviceAccount: 'text',
    source: SOURCE,
    sourceProvenance: 'any',
    sourceToken: 'text',
    workerPool: 'text',
  },
  serviceConfig: {
    allTrafficOnLatestRevision: 'flag',
    availableCpu: 'text',
    availableMemory: 'text',
    environmentVariables: 'map',
    ingressSettings: 'text',
    maxInstanceCount: 'number',
    maxInstanceRequestConcurrency: 'number',
    minInstanceCount: 'number',
    revision: 'text',
    secretEnvironmentVariables: [SECRET_VARIABLE],
    secretVolumes: ['any'],
    securityLevel: 'text',
    service: 'text',
    serviceAccountEmail: 'text',
    timeoutSeconds: 'number',
    uri: 'text',
    vpcConnector: 'text',
    vpcConnectorEgressSettings: 'text',
  },
};

export const JOB: Shape = {
  name: 'text',
  description: 'text',
  schedule: 'text',
  timeZone: 'text',
  attemptDeadline: 'text',
  state: 'text',
  userUpdateTime: 'text',
  retryConfig: {
    retryCount: 'number',
    maxRetryDuration: 'text',
    minBackoffDuration: 'text',
    maxBackoffDuration: 'text',
    maxDoublings: 'number',
  },
  httpTarget: {
    uri: 'text',
    httpMethod: 'text',
    headers: 'map',
    body: 'text',
    oidcToken: { serviceAccountEmail: 'text', audience: 'text' },
    oauthToken: { serviceAccountEmail: 'text', scope: 'text' },
  },
};

export const UPLOAD: Shape = { environment: 'text', kmsKeyName: 'text' };
export const SERVICE: Shape = { name: 'text', traffic: [{ type: 'text', revision: 'text', percent: 'number', tag: 'text' }] };
export const POLICY: Shape = {
  policy: { etag: 'text', version: 'number', bindings: [{ role: 'text', members: ['text'], condition: 'any' }] },
  updateMask: 'text',
};
export const PERMISSIONS: Shape = { permissions: ['text'] };
export const ENTRIES: Shape = { resourceNames: ['text'], filter: 'text', orderBy: 'text', pageSize: 'number', pageToken: 'text' };

/** The JSON of a body, held to its shape. */
export function bodyAs(body: Buffer, shape: Shape): Fields {
  let value: unknown;
  try {
    value = JSON.parse(body.toString() || '{}');
  } catch {
    throw invalid('Invalid JSON payload received.');
  }
  check(value, shape, '');
  // An object: it was checked.
  return value as Fields;
}

function check(value: unknown, shape: Shape, at: string): void {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  const wrong = (): Refusal => invalid(`Invalid value at '${at || 'body'}': ${JSON.stringify(value)?.slice(0, 100)}`);
  if (shape === 'any') return;
  if (shape === 'text' || shape === 'number' || shape === 'flag') {
    if (typeof value !== { text: 'string', number: 'number', flag: 'boolean' }[shape]) throw wrong();
    return;
  }
  if (shape === 'map') {
    if (!isObject || Object.values(value).some((each) => typeof each !== 'string')) throw wrong();
    return;
  }
  if (isList(shape)) {
    if (!Array.isArray(value)) throw wrong();
    for (const [index, each] of value.entries()) check(each, shape[0], `${at}[${index}]`);
    return;
  }
  if (!isObject) throw wrong();
  for (const [name, each] of Object.entries(value)) {
    const inner = shape[name];
    if (inner === undefined)
      throw invalid(`Invalid JSON payload received. Unknown name "${name}" at '${at || 'body'}': Cannot find field.`);
    check(each, inner, at === '' ? name : `${at}.${name}`);
  }
}

function isList(shape: Shape): shape is readonly [Shape] {
  return Array.isArray(shape);
}

/** The fields that the mask names, out of the body over those that are there; both spellings of names are taken. */
export function masked(present: Fields, given: Fields, { mask, shape }: { readonly mask: string | null; readonly shape: Shape }): Fields {
  const paths = (mask ?? '').split(',').filter((path) => path !== '');
  if (paths.length === 0) throw invalid('The update mask is missing.');
  const result = structuredClone(present) as Record<string, unknown>;
  for (const path of paths) {
    const names = path.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()).split('.');
    let known: Shape | undefined = shape;
    for (const name of names) known = typeof known === 'object' && !isList(known) ? known[name] : undefined;
    if (known === undefined) throw invalid(`Invalid update mask: ${path} is no field.`);
    const last = names.pop() ?? '';
    let to = result;
    let from: unknown = given;
    for (const name of names) {
      to = (to[name] ??= {}) as Record<string, unknown>;
      from = (from as Fields | undefined)?.[name];
    }
    const value = (from as Fields | undefined)?.[last];
    if (value === undefined) delete to[last];
    else to[last] = value;
  }
  return result;
}

/** Of a value that is text, or a number. */
export function textOf(value: unknown): string {
  return typeof value === 'string' || typeof value === 'number' ? String(value) : '';
}

/** One page of a list. */
export function pageOf(
  items: readonly Fields[],
  { size, token }: { readonly size: number; readonly token: string },
): readonly [readonly Fields[], Fields] {
  const from = token === '' ? 0 : Number(Buffer.from(token, 'base64').toString());
  if (!Number.isInteger(from)) throw invalid('The page token is invalid.');
  const to = from + size;
  return [items.slice(from, to), to < items.length ? { nextPageToken: Buffer.from(String(to)).toString('base64') } : {}];
}
