/** A Kubernetes API server for tests, with controllers that run the pods of Deployments and Jobs as processes of this machine. */

import { createServer, request as httpRequest } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { ServerOptions } from 'node:https';
import { buffer } from 'node:stream/consumers';
import { parse } from 'yaml';
import type { Fields } from './kubernetes-apply.ts';
import { EmulatedPod } from './kubernetes-pods.ts';
import { SandboxedPod } from './kubernetes-sandbox.ts';
import type { SandboxedSpec } from './kubernetes-sandbox.ts';
import type { Container, PodSpec } from './kubernetes-pods.ts';
import { KNATIVE } from './kubernetes-knative.ts';
import type { KnativeSpec, KnativeTemplate } from './kubernetes-knative.ts';
import { RESOURCES, Refusal, Store, hashOf, kindOf } from './kubernetes-store.ts';
import type { Resource, StoredObject, WriteOptions } from './kubernetes-store.ts';
import { listenOnLoopback } from './loopback.ts';

export interface KubernetesEmulator {
  readonly url: string;
  readonly store: Store;
  /** Requests so far: method and path without query. */
  readonly requests: readonly string[];
  pods(namespace?: string): readonly EmulatedPod[];
  /** The processes of pods that were made as such, by the names of the pods. */
  readonly instances: ReadonlyMap<string, SandboxedPod>;
  /** Somebody else writes to an object. */
  edit(kind: string, name: string, change: Fields, manager?: string): void;
  /** Somebody else makes a Deployment, or a Service of Knative. */
  makeForeign(name: string, kind?: 'Deployment' | 'KnativeService'): void;
  /** Nobody has called this Service of Knative for long: its pods end. */
  scaleToZero(name: string): Promise<void>;
  /** Runs a CronJob now, against the Service that it names. Resolves with the status that its pod ends with. */
  trigger(cronJob: string): Promise<{ readonly exitCode: number; readonly lines: readonly string[] }>;
  close(): Promise<void>;
}

export interface KubernetesOptions {
  readonly token: string;
  readonly namespace?: string;
  /** `lazy` (default): a pod counts as ready at once, and its process starts with the first call. `eager`: as in a cluster. */
  readonly pods?: 'lazy' | 'eager';
  /** Knative Serving is installed. */
  readonly knative?: boolean;
  /** Serves over TLS; with `requestCert` a certificate is as good as the token. */
  readonly tls?: ServerOptions;
}

interface Template {
  readonly metadata?: { readonly labels?: Record<string, string>; readonly annotations?: Record<string, string> };
  readonly spec: PodSpec;
}

/** A pod and what it belongs to. */
interface Placed {
  readonly pod: EmulatedPod;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly ownerUid: string;
  readonly template: string;
}

const SERVED = 'serving.knative.dev/service';
const REVISION = 'serving.knative.dev/revision';
const OBJECT = /^\/(?:api|apis)\/(v1|[a-z0-9.]+\/v1)\/namespaces\/([^/]+)\/([a-z]+)(?:\/([^/]+))?(?:\/(log|status|proxy)(\/.*)?)?$/;
const ALL = /^\/(?:api|apis)\/(v1|[a-z0-9.]+\/v1)\/([a-z]+)$/;

export async function startKubernetes(options: KubernetesOptions): Promise<KubernetesEmulator> {
  const emulator = new Emulator(options);
  const listener = (request: IncomingMessage, response: ServerResponse): void => void emulator.serve(request, response);
  return Object.assign(emulator, await listenOnLoopback(options.tls ? createTlsServer(options.tls, listener) : createServer(listener)));
}

class Emulator implements KubernetesEmulator {
  url = '';
  stop: () => Promise<void> = async () => {};
  readonly store = new Store();
  readonly requests: string[] = [];
  readonly #options: KubernetesOptions;
  readonly instances = new Map<string, SandboxedPod>();
  readonly #placed = new Set<Placed>();
  readonly #leaving = new Set<Promise<void>>();
  #count = 0;

  constructor(options: KubernetesOptions) {
    this.#options = options;
  }

  get #namespace(): string {
    return this.#options.namespace ?? 'default';
  }

  pods(namespace = this.#namespace): readonly EmulatedPod[] {
    return [...this.#placed].filter((each) => each.namespace === namespace).map(({ pod }) => pod);
  }

  edit(kind: string, name: string, change: Fields, manager = 'kubectl-edit'): void {
    const object = this.store.edit(resourceOf(kind), { namespace: this.#namespace, name }, change, manager);
    this.#control(object);
  }

  makeForeign(name: string, kind: 'Deployment' | 'KnativeService' = 'Deployment'): void {
    const somebody = { manager: 'somebody', dryRun: false, strict: true };
    if (kind === 'KnativeService') {
      const served = {
        apiVersion: KNATIVE,
        kind: 'Service',
        metadata: { name },
        spec: { template: { spec: { containers: [{ image: 'nginx:1' }] } } },
      };
      this.#control(this.store.create(resourceOf(kind), this.#namespace, served, somebody));
      return;
    }
    const labels = { app: name };
    const spec = {
      replicas: 0,
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { containers: [{ name: 'other', image: 'nginx:1' }] } },
    };
    const object = { apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name }, spec };
    this.#control(this.store.create(resourceOf('Deployment'), this.#namespace, object, somebody));
  }

  async scaleToZero(name: string): Promise<void> {
    const uids = this.store
      .of('KnativeRevision', this.#namespace)
      .flatMap(({ metadata }) => (metadata.labels?.[SERVED] === name ? [metadata.uid] : []));
    for (const placed of this.#placed) if (uids.includes(placed.ownerUid)) this.#leave(placed);
    await Promise.all(this.#leaving);
  }

  async trigger(cronJob: string): Promise<{ readonly exitCode: number; readonly lines: readonly string[] }> {
    const object = this.store.find('CronJob', this.#namespace, cronJob);
    if (!object) throw new Error(`there is no CronJob ${cronJob}`);
    const { jobTemplate } = object['spec'] as { readonly jobTemplate: { readonly spec: { readonly template: Template } } };
    const { spec } = jobTemplate.spec.template;
    // There is no DNS of the cluster here: the address of the Service is that of the API server.
    const containers = spec.containers.map((container) => ({
      ...container,
      env: container.env?.map(({ name, value, ...rest }) => ({
        name,
        ...rest,
        ...(value !== undefined && { value: value.replace(/^http:\/\/([a-z0-9-]+)\.([a-z0-9-]+)\.svc\//, `${this.url}/services/$2/$1/`) }),
      })),
    })) as PodSpec['containers'];
    const pod = new EmulatedPod(`${cronJob}-1`, { ...spec, containers }, (kind, name) => this.#dataOf(kind, name));
    await pod.start();
    await pod.ended;
    await pod.stop();
    return { exitCode: pod.exitCode ?? -1, lines: pod.lines };
  }

  async close(): Promise<void> {
    // What controllers place meanwhile goes, too.
    do {
      for (const placed of this.#placed) this.#leave(placed, 1_000);
      for (const name of this.instances.keys()) this.#endInstance(name);
      await Promise.all(this.#leaving);
    } while (this.#placed.size + this.instances.size > 0);
    await this.stop();
  }

  async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const body = await buffer(request);
      await this.#route(request, response, body);
    } catch (error) {
      if (response.headersSent) return void response.destroy();
      const { status, reason, causes, about } =
        error instanceof Refusal ? error : { status: 500, reason: 'InternalError', causes: [], about: undefined };
      reply(response, status, {
        kind: 'Status',
        apiVersion: 'v1',
        metadata: {},
        status: 'Failure',
        message: error instanceof Error ? (error instanceof Refusal ? error.message : (error.stack ?? '')) : String(error),
        reason,
        ...((causes.length > 0 || about !== undefined) && { details: { ...(about !== undefined && { name: about }), causes } }),
        code: status,
      });
    }
  }

  async #route(request: IncomingMessage, response: ServerResponse, body: Buffer): Promise<void> {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://api');
    const { method = 'GET' } = request;
    this.requests.push(`${method} ${pathname}`);
    const [, viaNamespace, viaService] = /^\/services\/([^/]+)\/([^/]+)\/$/.exec(pathname) ?? [];
    if (viaNamespace !== undefined && viaService !== undefined)
      return this.#proxy(request, response, { namespace: viaNamespace, service: viaService, path: '/', body, isInside: true });
    this.#authenticate(request);
    // The server knows nothing of a group that nobody installed.
    if (this.#options.knative !== true && pathname.startsWith(`/apis/${KNATIVE.split('/', 1)[0]}`)) {
      response.writeHead(404, { 'content-type': 'text/plain; charset=utf-8' });
      return void response.end('404 page not found\n');
    }
    const discovered = discovery(pathname, this.#options.knative === true);
    if (discovered) return reply(response, 200, discovered);
    const [, allVersion, allPlural] = ALL.exec(pathname) ?? [];
    const [, version = allVersion, namespace = '', plural = allPlural, name, sub, rest = '/'] = OBJECT.exec(pathname) ?? [];
    const resource = RESOURCES.find((each) => each.apiVersion === version && each.plural === plural);
    if (!resource) throw new Refusal(404, 'NotFound', { message: 'the server could not find the requested resource' });
    if (sub === 'proxy') return this.#proxy(request, response, { namespace, service: name ?? '', path: rest, body });
    if (sub === 'log') return this.#log(response, name ?? '', searchParams);
    const place = { namespace, name: name ?? '' };
    if (method === 'GET') {
      const found =
        name === undefined
          ? this.#list(resource, namespace || undefined, { searchParams, accept: request.headers.accept ?? '' })
          : this.#get(resource, place);
      return reply(response, 200, found);
    }
    if (namespace !== this.#namespace) throw new Refusal(404, 'NotFound', { message: `namespaces "${namespace}" not found` });
    const options: WriteOptions = {
      manager: searchParams.get('fieldManager') ?? (request.headers['user-agent'] ?? 'unknown').split('/', 1)[0] ?? 'unknown',
      dryRun: searchParams.get('dryRun') === 'All',
      strict: searchParams.get('fieldValidation') === 'Strict',
      force: searchParams.get('force') === 'true',
    };
    if (method === 'DELETE' && name !== undefined) return this.#delete(response, resource, { place, body, dryRun: options.dryRun });
    if (method === 'POST' && name === undefined) {
      const object = this.store.create(resource, namespace, parse(body.toString('utf8')) as Fields, options);
      if (!options.dryRun) this.#control(object);
      return reply(response, 201, object);
    }
    if (method === 'PATCH' && name !== undefined) return this.#apply(request, response, { resource, place, body, options });
    throw new Refusal(405, 'MethodNotAllowed', { message: `the server does not allow ${method} on ${pathname}` });
  }

  #apply(
    request: IncomingMessage,
    response: ServerResponse,
    {
      resource,
      place,
      body,
      options,
    }: {
      readonly resource: Resource;
      readonly place: { readonly namespace: string; readonly name: string };
      readonly body: Buffer;
      readonly options: WriteOptions;
    },
  ): void {
    if (request.headers['content-type'] !== 'application/apply-patch+yaml')
      throw new Refusal(415, 'UnsupportedMediaType', {
        message: `the body of the request was in an unknown format: ${request.headers['content-type']}`,
      });
    if (!new URL(request.url ?? '/', 'http://api').searchParams.has('fieldManager'))
      throw new Refusal(422, 'Invalid', {
        message: 'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
      });
    const { object, isNew } = this.store.apply(resource, place, parse(body.toString('utf8')) as Fields, options);
    if (!options.dryRun) this.#control(object);
    reply(response, isNew ? 201 : 200, object);
  }

  #authenticate(request: IncomingMessage): void {
    const socket = request.socket as { authorized?: boolean };
    if (this.#options.tls?.requestCert === true && socket.authorized === true) return;
    if (request.headers.authorization !== `Bearer ${this.#options.token}`)
      throw new Refusal(401, 'Unauthorized', { message: 'Unauthorized' });
  }

  #get(resource: Resource, { namespace, name }: { readonly namespace: string; readonly name: string }): object {
    const pod = resource.kind === 'Pod' ? this.#podObjects().find(({ metadata }) => metadata.name === name) : undefined;
    const object = pod ?? this.store.find(kindOf(resource), namespace, name);
    if (!object) throw new Refusal(404, 'NotFound', { message: `${resource.plural} "${name}" not found`, about: name });
    return object;
  }

  #list(
    resource: Resource,
    namespace: string | undefined,
    { searchParams, accept }: { readonly searchParams: URLSearchParams; readonly accept: string },
  ): object {
    const selector = searchParams.get('labelSelector') ?? '';
    const wanted = selector
      .split(',')
      .filter((each) => each !== '')
      .map((each) => each.split('=', 2));
    const objects =
      resource.kind === 'Pod' ? [...this.#podObjects(), ...this.store.of('Pod', namespace)] : this.store.of(kindOf(resource), namespace);
    const fields = (searchParams.get('fieldSelector') ?? '')
      .split(',')
      .filter((each) => each !== '')
      .map((each) => each.split('=', 2));
    const matching = objects.filter(
      ({ metadata }) =>
        wanted.every(([key = '', value]) => metadata.labels?.[key] === value) &&
        fields.every(([key, value]) => key !== 'metadata.name' || metadata.name === value),
    );
    const start = Number(Buffer.from(searchParams.get('continue') ?? '', 'base64url').toString('utf8') || 0);
    const limit = Number(searchParams.get('limit') ?? 0) || Number.POSITIVE_INFINITY;
    const items = matching.slice(start, start + limit);
    const isMetadata = accept.includes('PartialObjectMetadataList');
    const left = matching.length - start - items.length;
    return {
      kind: isMetadata ? 'PartialObjectMetadataList' : `${resource.kind}List`,
      apiVersion: isMetadata ? 'meta.k8s.io/v1' : resource.apiVersion,
      metadata: {
        resourceVersion: this.store.version,
        ...(left > 0 && { continue: Buffer.from(String(start + limit)).toString('base64url'), remainingItemCount: left }),
      },
      // Objects in a list do not repeat what they are.
      items: isMetadata
        ? items.map(({ metadata }) => ({ metadata }))
        : accept.includes('Table')
          ? items
          : items.map(({ kind: _, apiVersion: __, ...object }) => object),
    };
  }

  #delete(
    response: ServerResponse,
    resource: Resource,
    {
      place,
      body,
      dryRun,
    }: { readonly place: { readonly namespace: string; readonly name: string }; readonly body: Buffer; readonly dryRun: boolean },
  ): void {
    const given = body.length > 0 ? (parse(body.toString('utf8')) as { readonly preconditions?: { readonly uid?: string } }) : {};
    if (dryRun) return reply(response, 200, this.#get(resource, place));
    const deleted = this.store.delete(resource, place, given.preconditions?.uid);
    const uids = new Set(deleted.map(({ metadata }) => metadata.uid));
    for (const placed of this.#placed) if (uids.has(placed.ownerUid)) this.#leave(placed);
    for (const each of deleted) if (each.kind === 'Pod') this.#endInstance(each.metadata.name, each);
    return reply(response, 200, { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success' });
  }

  #log(response: ServerResponse, name: string, query: URLSearchParams): void {
    const instance = this.instances.get(name);
    if (instance) {
      response.writeHead(200, { 'content-type': 'text/plain' });
      return void response.end(instance.log(query.get('container')));
    }
    const placed = [...this.#placed].find(({ pod: each }) => each.name === name);
    if (!placed) throw new Refusal(404, 'NotFound', { message: `pods "${name}" not found` });
    const { pod } = placed;
    const names = containersOf(placed).map((each) => each.name);
    const container = query.get('container') ?? (names.length === 1 ? names[0] : undefined);
    if (container === undefined || !names.includes(container))
      throw new Refusal(400, 'BadRequest', {
        message:
          container === undefined
            ? `a container name must be specified for pod ${name}, choose one of: [${names.join(' ')}]`
            : `container ${container} is not valid for pod ${name}`,
      });
    if (container === SIDECAR.name) {
      response.writeHead(200, { 'content-type': 'text/plain' });
      return void response.end();
    }
    if (pod.waiting && pod.exitCode === undefined)
      throw new Refusal(400, 'BadRequest', { message: `container "function" in pod "${name}" is waiting to start: ${pod.waiting.reason}` });
    const since = query.get('sinceTime');
    const sinceNs = since === null ? undefined : since.replace(/(?:\.(\d+))?Z$/, (_, digits: string = '') => `.${digits.padEnd(9, '0')}Z`);
    const lines = pod.lines.filter((line) => sinceNs === undefined || line.slice(0, line.indexOf(' ')) >= sinceNs);
    const tail = Number(query.get('tailLines') ?? Number.MAX_SAFE_INTEGER);
    const shown = lines.slice(-tail).map((line) => (query.get('timestamps') === 'true' ? line : line.slice(line.indexOf(' ') + 1)));
    response.writeHead(200, { 'content-type': 'text/plain' });
    response.end(shown.map((line) => `${line}\n`).join(''));
  }

  /** To a ready pod of the Service. */
  async #proxy(
    request: IncomingMessage,
    response: ServerResponse,
    {
      namespace,
      service,
      path,
      body,
      isInside = false,
    }: { readonly namespace: string; readonly service: string; readonly path: string; readonly body: Buffer; readonly isInside?: boolean },
  ): Promise<void> {
    const name = service.replace(/^https?:/, '').split(':', 1)[0] ?? '';
    const object = this.store.find('Service', namespace, name);
    if (!object) throw new Refusal(404, 'NotFound', { message: `services "${name}" not found`, about: name });
    const { selector, type } = object['spec'] as { readonly selector?: Record<string, string>; readonly type?: string };
    if (!selector) {
      const served = isInside && type === 'ExternalName' ? this.store.find('KnativeService', namespace, name) : undefined;
      if (!served) throw new Refusal(503, 'ServiceUnavailable', { message: `no endpoints available for service "${name}"` });
      const { traffic } = served['status'] as { readonly traffic: readonly { readonly revisionName: string }[] };
      return this.#toRevision(request, response, { namespace, revision: traffic[0]?.revisionName ?? '', path, body });
    }
    if (selector[REVISION] !== undefined) {
      const { headers } = request;
      // The activator may be what answers there.
      if (headers['knative-serving-revision'] !== name || headers['knative-serving-namespace'] !== namespace)
        throw new Refusal(404, 'NotFound', { message: 'the activator knows no such revision' });
      return this.#toRevision(request, response, { namespace, revision: name, path, body });
    }
    const ready = [...this.#placed].filter(
      ({ pod, namespace: place, labels }) =>
        place === namespace && pod.isReady && Object.entries(selector).every(([key, value]) => labels[key] === value),
    );
    this.#count += 1;
    const chosen = ready[this.#count % Math.max(1, ready.length)];
    if (!chosen) throw new Refusal(503, 'ServiceUnavailable', { message: `no endpoints available for service "${name}"` });
    await forward(request, response, { pod: chosen.pod, path: path + (new URL(request.url ?? '/', 'http://api').search ?? ''), body });
  }

  /** A revision without pods gets one. */
  async #toRevision(
    request: IncomingMessage,
    response: ServerResponse,
    {
      namespace,
      revision,
      path,
      body,
    }: { readonly namespace: string; readonly revision: string; readonly path: string; readonly body: Buffer },
  ): Promise<void> {
    const object = this.store.find('KnativeRevision', namespace, revision);
    if (!object) throw new Refusal(404, 'NotFound', { message: `revisions "${revision}" not found`, about: revision });
    const placed = [...this.#placed].find(({ ownerUid }) => ownerUid === object.metadata.uid) ?? this.#placeRevision(object);
    const obstacle = placed.pod.obstacle();
    if (obstacle) throw new Refusal(503, 'ServiceUnavailable', { message: obstacle.message });
    await forward(request, response, { pod: placed.pod, path: path + (new URL(request.url ?? '/', 'http://api').search ?? ''), body });
  }

  #placeRevision(object: StoredObject): Placed {
    const { labels, annotations } = object.metadata;
    const metadata = { labels: { ...labels, [REVISION]: object.metadata.name }, ...(annotations && { annotations }) };
    return this.#place(object, { metadata, spec: object['spec'] as PodSpec }, 'pod');
  }

  /** What the controllers of Knative do after a write. */
  async #serveKnative(object: StoredObject): Promise<void> {
    const { uid, namespace = '', name, generation = 0 } = object.metadata;
    const { template, traffic } = object['spec'] as KnativeSpec;
    const find = (): StoredObject | undefined => this.store.find('KnativeService', namespace, name);
    const isStale = (): boolean => find()?.metadata.generation !== generation || find()?.metadata.uid !== uid;
    const latest = template.metadata?.name ?? `${name}-${String(generation).padStart(5, '0')}`;
    await Promise.resolve();
    if (isStale()) return;
    const owner = { apiVersion: KNATIVE, kind: 'Service', name, uid, controller: true };
    if (!this.store.find('Service', namespace, name))
      this.store.make(resourceOf('Service'), namespace, {
        metadata: { name, ownerReferences: [{ ...owner, kind: 'Route' }] },
        spec: { type: 'ExternalName', externalName: 'knative-local-gateway.istio-system.svc.cluster.local' },
      });
    const revision =
      this.store.find('KnativeRevision', namespace, latest) ?? this.#makeRevision({ template, name: latest, namespace, owner });
    const target = traffic[0]?.revisionName ?? latest;
    const before = (find()?.['status'] as { readonly traffic?: readonly object[] } | undefined)?.traffic;
    // Until it is ready, calls go where they went.
    this.#sayKnative(find(), { generation, revision: latest, traffic: before, failure: undefined, isReady: false });
    const isOn = (): boolean => (revision['status'] as { readonly ready?: boolean } | undefined)?.ready === true;
    const pod = isOn()
      ? undefined
      : ([...this.#placed].find(({ ownerUid }) => ownerUid === revision.metadata.uid) ?? this.#placeRevision(revision)).pod;
    if (pod) await this.#begin(pod);
    if (pod?.isReady) this.store.setStatus(revision, { ready: true });
    if (isStale()) return;
    if (!isOn()) {
      const why = pod?.waiting ?? { reason: 'RevisionFailed', message: 'Initial scale was never achieved' };
      const failure = `Revision "${latest}" failed with message: ${why.reason}: ${why.message ?? ''}`;
      return this.#sayKnative(find(), { generation, revision: latest, traffic: before, failure, isReady: false });
    }
    const isThere = this.store.find('KnativeRevision', namespace, target) !== undefined;
    this.#sayKnative(find(), {
      generation,
      revision: latest,
      traffic: isThere ? [{ revisionName: target, percent: 100 }] : before,
      failure: undefined,
      isReady: isThere,
    });
    if (isThere) this.#scaleRevisions(name, target);
  }

  #makeRevision({
    template,
    name,
    namespace,
    owner,
  }: {
    readonly template: KnativeTemplate;
    readonly name: string;
    readonly namespace: string;
    readonly owner: Fields;
  }): StoredObject {
    const { labels, annotations } = template.metadata ?? {};
    const metadata = {
      name,
      labels: { ...labels, [SERVED]: String(owner['name']) },
      ...(annotations && { annotations }),
      ownerReferences: [owner],
    };
    const revision = this.store.make(resourceOf('KnativeRevision'), namespace, { metadata, spec: template.spec });
    this.store.make(resourceOf('Service'), namespace, {
      metadata: { name, ownerReferences: [{ apiVersion: KNATIVE, kind: 'Revision', name, uid: revision.metadata.uid }] },
      spec: { type: 'ClusterIP', selector: { [REVISION]: name }, ports: [{ name: 'http', port: 80, targetPort: 8012 }] },
    });
    return revision;
  }

  #sayKnative(
    object: StoredObject | undefined,
    {
      generation,
      revision,
      traffic,
      failure,
      isReady,
    }: {
      readonly generation: number;
      readonly revision: string;
      readonly traffic: readonly object[] | undefined;
      readonly failure: string | undefined;
      readonly isReady: boolean;
    },
  ): void {
    if (!object) return;
    const failed = failure === undefined ? {} : { reason: 'RevisionFailed', message: failure };
    const at = { lastTransitionTime: new Date().toISOString() };
    const status = isReady ? 'True' : failure === undefined ? 'Unknown' : 'False';
    this.store.setStatus(object, {
      observedGeneration: generation,
      latestCreatedRevisionName: revision,
      conditions: [
        { type: 'ConfigurationsReady', status, ...failed, ...at },
        { type: 'Ready', status, ...failed, ...at },
        { type: 'RoutesReady', status: isReady ? 'True' : 'Unknown', ...at },
      ],
      ...(traffic && { traffic }),
    });
  }

  /** Revisions that get no calls lose their pods; the one that does has its least number. */
  #scaleRevisions(service: string, target: string): void {
    for (const revision of this.store.of('KnativeRevision', this.#namespace)) {
      const { name, uid, labels, annotations } = revision.metadata;
      if (labels?.[SERVED] !== service) continue;
      const placed = [...this.#placed].filter(({ ownerUid }) => ownerUid === uid);
      if (name !== target) for (const each of placed) this.#leave(each);
      const min = name === target ? Number(annotations?.['autoscaling.knative.dev/min-scale'] ?? 0) : 0;
      for (let count = placed.length; count < min; count += 1) this.#begin(this.#placeRevision(revision).pod).catch(() => {});
    }
  }

  #dataOf(kind: 'ConfigMap' | 'Secret', name: string): ReadonlyMap<string, Buffer> | undefined {
    const object = this.store.find(kind, this.#namespace, name) as
      | { data?: Record<string, string>; binaryData?: Record<string, string> }
      | undefined;
    if (!object) return undefined;
    const isText = kind === 'ConfigMap';
    return new Map([
      ...Object.entries(object.data ?? {}).map(([key, value]) => [key, Buffer.from(value, isText ? 'utf8' : 'base64')] as const),
      ...Object.entries(object.binaryData ?? {}).map(([key, value]) => [key, Buffer.from(value, 'base64')] as const),
    ]);
  }

  /** A pod that somebody made: the kubelet starts it, and the API server has it until its processes have ended. */
  #startInstance(object: StoredObject): void {
    const { name, namespace = '', uid } = object.metadata;
    const pod = new SandboxedPod(object['spec'] as SandboxedSpec, {
      dataOf: (kind, each) => this.#dataOf(kind, each),
      say: (status) => {
        const live = this.store.find('Pod', namespace, name);
        if (live?.metadata.uid === uid) this.store.setStatus(live, status);
      },
    });
    this.instances.set(name, pod);
    void pod.run();
  }

  #endInstance(name: string, object?: StoredObject): void {
    const pod = this.instances.get(name);
    if (!pod) return;
    if (object)
      this.store.objects.set(`pods/${object.metadata.namespace}/${name}`, {
        ...object,
        metadata: { ...object.metadata, deletionTimestamp: new Date().toISOString() },
      });
    const stopped = pod.stop().finally(() => {
      this.instances.delete(name);
      this.store.objects.delete(`pods/${object?.metadata.namespace ?? this.#namespace}/${name}`);
      this.#leaving.delete(stopped);
    });
    this.#leaving.add(stopped);
  }

  /** What controllers do after a write. */
  #control(object: StoredObject): void {
    if (object.kind === 'Pod' && !this.instances.has(object.metadata.name)) this.#startInstance(object);
    if (object.kind === 'Deployment') void this.#roll(object).catch(() => {});
    if (kindOf(object) === 'KnativeService') void this.#serveKnative(object).catch(() => {});
    if (object.kind === 'Job') void this.#runJob(object).catch(() => {});
  }

  async #roll(object: StoredObject): Promise<void> {
    const { replicas, template, strategy } = object['spec'] as {
      readonly replicas: number;
      readonly template: Template;
      readonly strategy?: { readonly type: string };
    };
    const { uid, namespace = '', name, generation = 0 } = object.metadata;
    const revision = hashOf(template);
    const isStale = (): boolean => this.store.find('Deployment', namespace, name)?.metadata.generation !== generation;
    await Promise.resolve();
    if (isStale()) return;
    const placed = [...this.#placed].filter(({ ownerUid }) => ownerUid === uid);
    if (strategy?.type === 'Recreate') {
      for (const each of placed.filter((one) => one.template !== revision)) this.#leave(each);
      await Promise.all(this.#leaving);
    }
    const own = placed.filter((each) => this.#placed.has(each));
    const fresh = own.filter((each) => each.template === revision);
    while (fresh.length < replicas) fresh.push(this.#place(object, template, revision));
    const say = (available: number, left: number): void =>
      this.#sayRollout(object, { generation, updated: fresh.length, available, total: fresh.length + left });
    const old = own.filter((each) => each.template !== revision);
    say(0, old.length);
    await Promise.all(fresh.map(({ pod }) => this.#begin(pod)));
    const ready = fresh.filter(({ pod }) => pod.isReady).length;
    if (isStale()) return;
    if (ready < replicas) return say(ready, old.length);
    for (const each of [...old, ...fresh.splice(replicas)]) this.#leave(each);
    say(ready, 0);
  }

  #sayRollout(
    object: StoredObject,
    {
      generation,
      updated,
      available,
      total,
    }: { readonly generation: number; readonly updated: number; readonly available: number; readonly total: number },
  ): void {
    const live = this.store.find('Deployment', object.metadata.namespace ?? '', object.metadata.name);
    if (live?.metadata.uid !== object.metadata.uid) return;
    this.store.setStatus(live, {
      observedGeneration: generation,
      replicas: total,
      updatedReplicas: updated,
      readyReplicas: available,
      availableReplicas: available,
      conditions: [{ type: 'Progressing', status: 'True', reason: 'ReplicaSetUpdated', lastUpdateTime: new Date().toISOString() }],
    });
  }

  #place(object: StoredObject, template: Template, revision: string): Placed {
    this.#count += 1;
    const { name, namespace = '', uid } = object.metadata;
    const pod = new EmulatedPod(`${name}-${revision}-${this.#count}`, template.spec, (kind, each) => this.#dataOf(kind, each));
    const { labels = {}, annotations = {} } = template.metadata ?? {};
    const placed = { pod, namespace, labels, annotations, ownerUid: uid, template: revision };
    this.#placed.add(placed);
    return placed;
  }

  async #begin(pod: EmulatedPod): Promise<void> {
    const obstacle = pod.obstacle();
    if (obstacle) pod.waiting = obstacle;
    else if (this.#options.pods === 'eager') await pod.start();
    else pod.admit();
  }

  async #runJob(object: StoredObject): Promise<void> {
    const { template } = object['spec'] as { readonly template: Template };
    const { pod } = this.#place(object, template, hashOf(object.metadata.uid));
    const start = async (): Promise<void> => {
      const obstacle = pod.obstacle();
      // A ConfigMap that comes later is waited for, as the kubelet does.
      if (obstacle?.reason === 'ContainerCreating') return new Promise((resolve) => setTimeout(() => resolve(start()), 20));
      if (obstacle) pod.waiting = obstacle;
      else await pod.start();
      return undefined;
    };
    await start();
    await pod.ended;
    this.store.setStatus(object, pod.exitCode === 0 ? { succeeded: 1 } : { failed: 1 });
  }

  #leave(placed: Placed, graceMs?: number): void {
    this.#placed.delete(placed);
    const stopped = placed.pod.stop(graceMs).finally(() => this.#leaving.delete(stopped));
    this.#leaving.add(stopped);
  }

  #podObjects(): readonly {
    readonly apiVersion: string;
    readonly kind: string;
    readonly metadata: { readonly name: string; readonly labels?: Readonly<Record<string, string>> };
  }[] {
    return [...this.#placed]
      .map((placed) => ({ ...placed, containers: containersOf(placed) }))
      .map(({ pod, namespace, labels, annotations, containers }) => ({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: pod.name, namespace, uid: pod.name, labels, annotations, creationTimestamp: pod.createdAt },
        spec: { ...pod.spec, containers },
        status: pod.status(),
      }))
      .toSorted((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  }
}

/** Knative puts one of its own into every pod: https://github.com/knative/serving/blob/main/docs/runtime-contract.md */
const SIDECAR: Container = { name: 'queue-proxy', image: 'queue-proxy' };

function containersOf({ pod, labels }: Placed): readonly Container[] {
  return labels[REVISION] === undefined ? pod.spec.containers : [...pod.spec.containers, SIDECAR];
}

function resourceOf(kind: string): Resource {
  const resource = RESOURCES.find((each) => kindOf(each) === kind);
  if (!resource) throw new Error(`there is no kind ${kind}`);
  return resource;
}

/** What clients ask to learn which kinds there are. */
function discovery(path: string, hasKnative: boolean): object | undefined {
  const groups = ['apps', 'batch', ...(hasKnative ? ['serving.knative.dev'] : [])];
  if (path === '/version') return { major: '1', minor: '33', gitVersion: 'v1.33.0', platform: 'linux/amd64' };
  if (path === '/api') return { kind: 'APIVersions', versions: ['v1'], serverAddressByClientCIDRs: [] };
  if (path === '/apis')
    return {
      kind: 'APIGroupList',
      apiVersion: 'v1',
      groups: groups.map((name) => ({
        name,
        versions: [{ groupVersion: `${name}/v1`, version: 'v1' }],
        preferredVersion: { groupVersion: `${name}/v1`, version: 'v1' },
      })),
    };
  const [, version] = /^\/(?:api|apis)\/(v1|(?:apps|batch|serving\.knative\.dev)\/v1)$/.exec(path) ?? [];
  if (version === undefined) return undefined;
  return {
    kind: 'APIResourceList',
    apiVersion: 'v1',
    groupVersion: version,
    resources: RESOURCES.filter(({ apiVersion }) => apiVersion === version).map(({ kind, plural, shortName }) => ({
      name: plural,
      singularName: kind.toLowerCase(),
      namespaced: true,
      kind,
      verbs: ['create', 'delete', 'get', 'list', 'patch'],
      shortNames: [shortName],
    })),
  };
}

function reply(response: ServerResponse, status: number, value: object): void {
  const body = Buffer.from(JSON.stringify(value));
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': body.length });
  response.end(body);
}

async function forward(
  request: IncomingMessage,
  response: ServerResponse,
  { pod, path, body }: { readonly pod: EmulatedPod; readonly path: string; readonly body: Buffer },
): Promise<void> {
  const call = pod.start().then((port) => pass(request, response, { port, path, body }));
  pod.expect(call);
  await call;
}

function pass(
  request: IncomingMessage,
  response: ServerResponse,
  { port, path, body }: { readonly port: number; readonly path: string; readonly body: Buffer },
): Promise<void> {
  return new Promise((resolve, reject) => {
    // The credentials of the cluster stay with the cluster.
    const { authorization: _, host: __, connection: ___, 'transfer-encoding': ____, ...headers } = request.headers;
    const outgoing = httpRequest(
      // A connection that was kept may be closed at any time.
      { host: '127.0.0.1', port, path, method: request.method, headers: { ...headers, 'content-length': body.length }, agent: false },
      (incoming) => {
        const { connection: _____, 'keep-alive': ______, ...answered } = incoming.headers;
        response.writeHead(incoming.statusCode ?? 502, answered);
        incoming.pipe(response);
        incoming.once('end', resolve);
        incoming.once('error', reject);
      },
    );
    outgoing.once('error', (error) =>
      reject(new Refusal(503, 'ServiceUnavailable', { message: `error trying to reach service: ${error.message}` })),
    );
    outgoing.end(body);
  });
}
