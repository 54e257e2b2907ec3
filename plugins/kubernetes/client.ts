/** REST of the API server: the only file of the plugin that speaks to it. */

import { Connections, PlatformRequests, RunnerError, Waits, fieldsOf, parseTarget, text } from '../../src/plugin.ts';
import type { HttpResponse, PlatformRequest } from '../../src/plugin.ts';
import { clusterAccess } from './kubeconfig.ts';
import type { Surroundings, TokenProgram } from './kubeconfig.ts';
import type { ClusterOptions } from './options.ts';

export type Fields = Readonly<Record<string, unknown>>;

export interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly blockOwnerDeletion?: boolean;
}

export interface Metadata {
  readonly name: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly generation?: number;
  readonly creationTimestamp?: string;
  readonly deletionTimestamp?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly ownerReferences?: readonly OwnerReference[];
}

/** An object as it is written, or as it is there. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: Metadata;
  readonly [field: string]: unknown;
}

/** Of each kind that this plugin knows: where its objects are. */
export const KINDS = {
  ConfigMap: 'v1 configmaps',
  Secret: 'v1 secrets',
  Service: 'v1 services',
  Pod: 'v1 pods',
  PersistentVolumeClaim: 'v1 persistentvolumeclaims',
  Deployment: 'apps/v1 deployments',
  Job: 'batch/v1 jobs',
  CronJob: 'batch/v1 cronjobs',
  NetworkPolicy: 'networking.k8s.io/v1 networkpolicies',
  KnativeService: 'serving.knative.dev/v1 services',
  KnativeRevision: 'serving.knative.dev/v1 revisions',
} as const;
export type Kind = keyof typeof KINDS;

const FIELD_MANAGER = 'blueprint-runner';
const PAGE = 100;
const TIMEOUT_MS = 60_000;
const METADATA_ONLY = 'application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1';

export interface ListOptions {
  readonly selector?: string;
  readonly fieldSelector?: string;
  /** Without `spec`, `data` and the like. */
  readonly metadataOnly?: boolean;
  readonly signal?: AbortSignal | undefined;
}

interface Access {
  readonly requests: PlatformRequests;
  readonly connections: Connections;
  readonly namespace: string;
  readonly program: TokenProgram | undefined;
}

/** One namespace of one cluster. Reads the kubeconfig with the first request. */
export class Cluster {
  readonly waits = new Waits('the cluster');
  readonly #options: ClusterOptions;
  readonly #surroundings: Surroundings;
  #opening: Promise<Access> | undefined;
  #isClosed = false;

  constructor(options: ClusterOptions, surroundings: Surroundings) {
    this.#options = options;
    this.#surroundings = surroundings;
  }

  get clock(): Surroundings['clock'] {
    return this.#surroundings.clock;
  }

  async namespace(): Promise<string> {
    return (await this.#access()).namespace;
  }

  /** Undefined when there is none of that name. */
  async get(kind: Kind, name: string, signal?: AbortSignal): Promise<Manifest | undefined> {
    const response = await this.send({ method: 'GET', path: await this.path(kind, name), signal });
    if (response.status === 404 && !isKindMissing(kind, response)) return undefined;
    return objectIn(response, `read ${kind} ${name}`, kind);
  }

  async *list(kind: Kind, { selector, fieldSelector, metadataOnly = false, signal }: ListOptions = {}): AsyncGenerator<Manifest> {
    const path = await this.path(kind);
    let next = '';
    do {
      const query = new URLSearchParams({
        limit: String(PAGE),
        ...(selector !== undefined && { labelSelector: selector }),
        ...(fieldSelector !== undefined && { fieldSelector }),
        ...(next !== '' && { continue: next }),
      });
      const headers = metadataOnly ? ['accept', METADATA_ONLY] : [];
      const page = objectIn(
        await this.send({ method: 'GET', path: `${path}?${query.toString()}`, headers, signal }),
        `list ${kind}s`,
        kind,
      );
      // A list of the API has these fields.
      const { items, metadata } = page as unknown as { items: readonly Manifest[]; metadata: { continue?: string } };
      // They do not repeat what they are.
      for (const item of items) yield { ...item, apiVersion: KINDS[kind].split(' ', 1)[0] ?? '', kind: kind.replace(/^Knative/, '') };
      next = metadata.continue ?? '';
    } while (next !== '');
  }

  /**
   * Server-side apply: fields that were applied before and are left out now are removed, those of others stay. A field that somebody else
   * manages with another value is `RESOURCE_FOREIGN`, with the fields and their managers; it is never taken over.
   */
  async apply(
    manifest: Manifest,
    { dryRun = false, signal }: { readonly dryRun?: boolean; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Manifest> {
    const { metadata } = manifest;
    const kind = kindOf(manifest);
    const query = `fieldManager=${FIELD_MANAGER}&fieldValidation=Strict${dryRun ? '&dryRun=All' : ''}`;
    const response = await this.send({
      method: 'PATCH',
      path: `${await this.path(kind, metadata.name)}?${query}`,
      headers: ['content-type', 'application/apply-patch+yaml'],
      body: Buffer.from(JSON.stringify(manifest)),
      signal,
    });
    return objectIn(response, `apply ${kind} ${metadata.name}`, kind);
  }

  async create(
    manifest: Manifest,
    { dryRun = false, signal }: { readonly dryRun?: boolean; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Manifest> {
    const { metadata } = manifest;
    const kind = kindOf(manifest);
    const query = `fieldManager=${FIELD_MANAGER}&fieldValidation=Strict${dryRun ? '&dryRun=All' : ''}`;
    const path = `${await this.path(kind)}?${query}`;
    const response = await this.send({ method: 'POST', path, json: manifest, signal, once: true });
    return objectIn(response, `create ${kind} ${metadata.name}`, kind);
  }

  /** With all that it owns, first. Succeeds when there is none. */
  async delete(
    kind: Kind,
    name: string,
    { uid, signal }: { readonly uid?: string | undefined; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<void> {
    const json = {
      apiVersion: 'v1',
      kind: 'DeleteOptions',
      propagationPolicy: 'Foreground',
      ...(uid !== undefined && { preconditions: { uid } }),
    };
    const response = await this.send({ method: 'DELETE', path: await this.path(kind, name), json, signal });
    if (response.status >= 300 && response.status !== 404) throw refusal(`delete ${kind} ${name}`, response);
  }

  async send(request: PlatformRequest): Promise<HttpResponse> {
    const { requests } = await this.#access();
    const accept = request.headers?.includes('accept') ? [] : ['accept', 'application/json'];
    return requests.send({ ...request, headers: [...accept, ...(request.headers ?? [])] });
  }

  async path(kind: Kind, name?: string): Promise<string> {
    const [version = '', plural = ''] = KINDS[kind].split(' ');
    const { namespace } = await this.#access();
    const root = version === 'v1' ? '/api/v1' : `/apis/${version}`;
    return `${root}/namespaces/${namespace}/${plural}${name === undefined ? '' : `/${encodeURIComponent(name).replaceAll('%3A', ':')}`}`;
  }

  /** For calls that are not requests to the platform: the executor. */
  async connections(): Promise<Pick<Access, 'connections' | 'program'> & { readonly target: PlatformRequests['target'] }> {
    const { connections, program, requests } = await this.#access();
    return { connections, program, target: requests.target };
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const access = await this.#opening?.catch(() => undefined);
    await access?.connections.close();
  }

  async #access(): Promise<Access> {
    if (this.#isClosed) throw new RunnerError('EXECUTOR_CLOSED', 'the connections to the cluster are closed');
    this.#opening ??= this.#open();
    try {
      return await this.#opening;
    } catch (error) {
      this.#opening = undefined;
      throw error;
    }
  }

  async #open(): Promise<Access> {
    const { server, tls, bearer, namespace, program } = await clusterAccess(this.#options, this.#surroundings);
    const { clock, connectionsMax = 16 } = this.#surroundings;
    const connections = new Connections({ tls, bearer, connectionsMax }, clock);
    const denied = (response: HttpResponse): RunnerError => {
      if (response.status === 401) program?.forget();
      return deniedOf(response);
    };
    const requests = new PlatformRequests(parseTarget(server), connections, { clock, timeoutMs: TIMEOUT_MS, denied, waits: this.waits });
    return { requests, connections, namespace, program };
  }
}

/** The kinds are those of our own manifests. */
function kindOf({ apiVersion, kind: given }: Manifest): Kind {
  const kind = `${apiVersion.startsWith('serving.knative.dev/') ? 'Knative' : ''}${given}`;
  if (kind in KINDS) return kind as Kind;
  throw new RunnerError('INTERNAL', `there is no kind ${kind} here`);
}

/** An object that is not there is told by its name; a kind that nobody installed is not. */
function isKindMissing(kind: Kind, response: HttpResponse): boolean {
  return response.status === 404 && kind.startsWith('Knative') && statusIn(response)?.name === undefined;
}

function objectIn(response: HttpResponse, what: string, kind: Kind): Manifest {
  if (isKindMissing(kind, response))
    throw new RunnerError(
      'OPERATION_UNSUPPORTED',
      `the cluster cannot ${what}: Knative Serving is not installed in it (it has no serving.knative.dev/v1); install it, or use the workload deployment`,
      { details: { status: 404 } },
    );
  if (response.status >= 300) throw refusal(what, response);
  const fields = fieldsOf(response.body);
  if (!fields)
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the API server answers to ${what} with something that is no JSON object`);
  // What the API server answers with success has a kind and metadata.
  return fields as unknown as Manifest;
}

/** https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/ */
export interface Status {
  readonly reason: string | undefined;
  readonly message: string;
  /** Of the object that it is about. */
  readonly name: string | undefined;
  readonly causes: readonly { readonly reason: string; readonly message: string; readonly field: string }[];
}

/** Undefined for what the API server did not say itself. */
export function statusIn({ body }: HttpResponse): Status | undefined {
  const fields = fieldsOf(body);
  if (fields?.['kind'] !== 'Status') return undefined;
  const { reason, message, details } = fields;
  const { causes, name } = (details ?? {}) as Fields;
  return {
    reason: typeof reason === 'string' ? reason : undefined,
    message: typeof message === 'string' ? message : 'no message',
    name: text(name),
    causes: (Array.isArray(causes) ? (causes as Fields[]) : []).map((cause) => ({
      reason: text(cause['reason']) ?? '',
      message: text(cause['message']) ?? '',
      field: text(cause['field']) ?? '',
    })),
  };
}

/** What the API server says, with its own reason and message. */
export function refusal(what: string, response: HttpResponse): RunnerError {
  const { status } = response;
  const said = statusIn(response);
  const text = said ? `${said.reason ?? `status ${status}`}: ${said.message}` : `status ${status}`;
  const details = {
    status,
    ...(said?.reason !== undefined && { platformCode: said.reason }),
    ...(said && said.causes.length > 0 && { causes: said.causes }),
  };
  const conflicts = said?.causes.filter(({ reason }) => reason === 'FieldManagerConflict') ?? [];
  if (status === 409 && conflicts.length > 0) {
    const fields = conflicts.map(({ field, message }) => `${field} (${message})`).join(', ');
    return new RunnerError('RESOURCE_FOREIGN', `the cluster cannot ${what}: others manage ${fields}; they are left as they are`, {
      details,
    });
  }
  const isPassing = status >= 500 || said?.reason === 'Conflict';
  return new RunnerError('DEPLOY_FAILED', `the cluster cannot ${what}: ${text}`, { details, retry: isPassing ? 'idempotent' : 'never' });
}

function deniedOf(response: HttpResponse): RunnerError {
  const said = statusIn(response);
  const { status } = response;
  const who = status === 401 ? 'does not know who asks' : 'does not allow it';
  return new RunnerError('EXECUTOR_UNAUTHORIZED', `the cluster ${who}: ${said?.message ?? `status ${status}`}`, {
    details: { status, ...(said?.reason !== undefined && { platformCode: said.reason }) },
  });
}
