/**
 * GCP for tests: Cloud Functions v2, the parts of Cloud Run v2 behind them, Cloud Scheduler, Cloud Logging, tokens, and the addresses of
 * functions, behind which the real functions-framework runs what was deployed. It refuses what the services refuse.
 */

import { createPublicKey, generateKeyPairSync, randomBytes, sign, verify } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { unzipSync } from 'fflate';
import { FunctionInstance } from './gcp-instance.ts';
import { LogStore } from './gcp-logging.ts';
import { Scheduler } from './gcp-scheduler.ts';
import { FUNCTION, PERMISSIONS, POLICY, Refusal, SERVICE, UPLOAD, bodyAs, invalid, masked, pageOf, textOf } from './gcp-schema.ts';
import type { Fields } from './gcp-schema.ts';
import { listenOnLoopback } from './loopback.ts';

export const PROJECT = 'test-project';
export const REGION = 'europe-west1';
const PARENT = `projects/${PROJECT}/locations/${REGION}`;
const CALLER = `caller@${PROJECT}.iam.gserviceaccount.com`;
const DEFAULT_ACCOUNT = '123456-compute@developer.gserviceaccount.com';
const POLLS = 2;
const CLOCK_SKEW_SECONDS = 300;
const REQUEST_BYTES_MAX = 32 * 1024 * 1024;

export interface Revision {
  readonly name: string;
  readonly createTime: string;
  readonly config: Fields;
  readonly instance: FunctionInstance;
}

interface Deployed {
  fields: Fields;
  state: string;
  problem: string | undefined;
  zip: Uint8Array | undefined;
  revisions: Revision[];
  /** Undefined: the newest. */
  pinned: string | undefined;
  policy: Fields;
  updateTime: string;
  /** What the platform still works on. */
  work: Work | undefined;
}

interface Work {
  readonly name: string;
  left: number;
  error: Fields | undefined;
  readonly finish: () => Fields | undefined;
}

interface Request {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly body: Buffer;
}

export async function startGcp(): Promise<GcpEmulator> {
  const emulator = new GcpEmulator();
  const { url, stop } = await listenOnLoopback(createServer((request, response) => void emulator.serve(request, response)));
  return Object.assign(emulator, { url, publicUrl: url, stop });
}

export class GcpEmulator {
  url = '';
  /** Where addresses in answers point: a proxy in front of this. */
  publicUrl = '';
  stop: () => Promise<void> = async () => {};
  readonly functions = new Map<string, Deployed>();
  readonly scheduler = new Scheduler(PARENT);
  readonly log = new LogStore();
  /** Access tokens that are taken besides those that were given out. */
  readonly tokens = new Set<string>();
  /** Permissions that the caller does not have. */
  readonly denied = new Set<string>();
  /** How often tokens were asked for, by kind. */
  readonly granted = { access: 0, id: 0 };
  readonly #keys = generateKeyPairSync('rsa', { modulusLength: 2_048 });
  readonly #uploads = new Map<string, Uint8Array | undefined>();
  readonly #operations = new Map<string, Work>();
  readonly #running = new Set<FunctionInstance>();
  #number = 0;

  /** The file of a service account. */
  get credentials(): string {
    const key = this.#keys.privateKey.export({ type: 'pkcs8', format: 'pem' });
    return JSON.stringify({
      type: 'service_account',
      project_id: PROJECT,
      private_key_id: 'key-1',
      private_key: key,
      client_email: CALLER,
      token_uri: `${this.url}/token`,
    });
  }

  get endpoints() {
    const { publicUrl: url } = this;
    return { functions: url, run: url, scheduler: url, logging: url, iamCredentials: url, metadata: url };
  }

  /** A function that somebody else made. */
  makeForeign(name: string): void {
    const fields = {
      name: `${PARENT}/functions/${name}`,
      labels: { 'deployment-tool': 'cli-gcloud' },
      buildConfig: { runtime: 'nodejs22', entryPoint: 'main' },
      serviceConfig: {},
    };
    this.functions.set(name, { ...fresh(fields), state: 'ACTIVE' });
  }

  async close(): Promise<void> {
    await this.stop();
    await Promise.all([...this.#running].map((instance) => instance.close()));
  }

  async serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(incoming.url ?? '/', 'http://emulator');
    try {
      if (url.pathname.startsWith('/invoke/')) return await this.#invoke(incoming, response, url.pathname);
      const body = await buffer(incoming);
      const answer = this.#answer({ method: incoming.method ?? '', path: url.pathname, query: url.searchParams, body }, incoming);
      response.writeHead(200, { 'content-type': typeof answer === 'string' ? 'text/plain' : 'application/json' });
      return void response.end(typeof answer === 'string' ? answer : JSON.stringify(answer));
    } catch (error) {
      const { status, code, message, details } = error instanceof Refusal ? error : new Refusal(500, 'INTERNAL', String(error));
      if (response.headersSent) return void response.destroy();
      response.writeHead(status, { 'content-type': 'application/json' });
      return void response.end(JSON.stringify({ error: { code: status, message, status: code, ...(details.length > 0 && { details }) } }));
    }
  }

  #answer(request: Request, { headers }: IncomingMessage): Fields | string {
    const { path, method, body } = request;
    if (path === '/token') return this.#grant(new URLSearchParams(body.toString()));
    if (path.startsWith('/computeMetadata/v1/')) return this.#metadata(request, headers['metadata-flavor']);
    if (path.startsWith('/upload/')) return this.#upload(request, headers);
    const token = /^Bearer (.+)$/.exec(headers.authorization ?? '')?.[1] ?? '';
    if (!this.tokens.has(token))
      throw new Refusal(401, 'UNAUTHENTICATED', 'Request had invalid authentication credentials. Expected OAuth 2 access token.');
    if (path === '/v2/entries:list' && method === 'POST') return this.log.list(body);
    // What gcloud asks before it deploys.
    if (method === 'GET' && path.startsWith(`/v1/projects/${PROJECT}/services/`)) return { name: path.slice(4), state: 'ENABLED' };
    if (method === 'GET' && path === `/v1/${PARENT}/defaultServiceAccount`)
      return { serviceAccountEmail: `projects/${PROJECT}/serviceAccounts/${DEFAULT_ACCOUNT}` };
    if (method === 'GET' && path === `/v1/projects/${PROJECT}`)
      return { projectId: PROJECT, projectNumber: '123456', lifecycleState: 'ACTIVE' };
    if (method === 'POST' && path === `/v1/projects/${PROJECT}:getIamPolicy`)
      return { bindings: [{ role: 'roles/cloudbuild.builds.builder', members: [`serviceAccount:${DEFAULT_ACCOUNT}`] }] };
    const generated = /^\/v1\/projects\/-\/serviceAccounts\/([^/]+):generateIdToken$/.exec(path);
    if (generated) {
      const { audience } = JSON.parse(body.toString()) as { audience: string };
      return { token: this.#idToken(audience, decodeURIComponent(generated[1] ?? '')) };
    }
    const [, version, rest = ''] = new RegExp(`^/(v[12])/${PARENT}/(.+)$`).exec(path) ?? [];
    const [kind = '', name, ...more] = rest.split('/');
    const inner = { ...request, path: more.join('/') };
    if (version === 'v1' && kind === 'jobs') {
      this.#allow(`cloudscheduler.jobs.${name === undefined && method === 'GET' ? 'list' : VERBS[method]}`);
      return this.scheduler.answer(name, inner);
    }
    if (version === 'v2' && kind === 'operations' && name !== undefined && method === 'GET') return this.#operation(name);
    if (version === 'v2' && kind === 'runtimes' && method === 'GET')
      return { runtimes: ['nodejs22', 'nodejs24'].map((each) => ({ name: each, environment: 'GEN_2', stage: 'GA', displayName: each })) };
    if (version === 'v2' && kind.split(':')[0] === 'functions') return this.#functions(kind, name, inner);
    // Cloud Run v1 has the policies under the same paths; gcloud asks there.
    const isPolicy = version === 'v1' && /:[gs]etIamPolicy$/.test(name ?? '');
    if ((version === 'v2' || isPolicy) && kind === 'services' && name !== undefined) return this.#services(name, inner);
    throw new Refusal(404, 'NOT_FOUND', `Method not found: ${method} ${path}`);
  }

  #allow(permission: string): void {
    if (!this.denied.has(permission)) return;
    throw new Refusal(403, 'PERMISSION_DENIED', `Permission '${permission}' denied on resource '${PARENT}' (or it may not exist).`, [
      {
        '@type': 'type.googleapis.com/google.rpc.ErrorInfo',
        reason: 'IAM_PERMISSION_DENIED',
        domain: 'iam.googleapis.com',
        metadata: { permission },
      },
    ]);
  }

  #functions(kind: string, name: string | undefined, { method, query, body, path }: Request): Fields {
    if (path !== '') throw new Refusal(404, 'NOT_FOUND', 'Method not found.');
    if (kind === 'functions:generateUploadUrl' && method === 'POST') return this.#uploadUrl(bodyAs(body, UPLOAD));
    if (name === undefined && method === 'GET') {
      only(query, ['pageSize', 'pageToken', 'filter', 'orderBy']);
      this.#allow('cloudfunctions.functions.list');
      const all = [...this.functions].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([each]) => this.#rendered(each));
      const [functions, next] = pageOf(all, { size: Number(query.get('pageSize') ?? 50) || 50, token: query.get('pageToken') ?? '' });
      return { functions, ...next };
    }
    if (name === undefined && method === 'POST') return this.#create(query, bodyAs(body, FUNCTION));
    const deployed = this.functions.get(name ?? '');
    this.#allow(`cloudfunctions.functions.${VERBS[method]}`);
    if (name === undefined || !deployed) throw new Refusal(404, 'NOT_FOUND', `Resource '${PARENT}/functions/${name}' was not found`);
    if (method === 'GET') {
      advance(deployed.work);
      if (!this.functions.has(name)) throw new Refusal(404, 'NOT_FOUND', `Resource '${PARENT}/functions/${name}' was not found`);
      return this.#rendered(name);
    }
    if (deployed.state === 'DEPLOYING' || deployed.state === 'DELETING')
      throw new Refusal(409, 'ABORTED', `unable to queue the operation: the function is ${deployed.state}`);
    if (method === 'DELETE') return this.#delete(name, deployed);
    if (method !== 'PATCH') throw new Refusal(405, 'UNIMPLEMENTED', 'Method not allowed.');
    only(query, ['updateMask']);
    return this.#update(name, deployed, { mask: query.get('updateMask'), given: bodyAs(body, FUNCTION) });
  }

  #create(query: URLSearchParams, given: Fields): Fields {
    this.#allow('cloudfunctions.functions.create');
    only(query, ['functionId']);
    const name = query.get('functionId') ?? '';
    if (!/^[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$/.test(name)) throw invalid(`The function id ${name} is invalid.`);
    if (given['name'] !== `${PARENT}/functions/${name}`) throw invalid('The name of the function does not match its id.');
    if (this.functions.has(name)) throw new Refusal(409, 'ALREADY_EXISTS', `Function ${name} already exists`);
    // The second generation is what is meant when nothing is said.
    if ((given['environment'] ?? 'GEN_2') !== 'GEN_2') throw invalid('environment must be GEN_2.');
    if (objectOf(given['buildConfig'])['entryPoint'] === undefined) throw invalid('The entry point is missing.');
    const deployed = fresh(given);
    deployed.zip = this.#sourceOf(given);
    if (!deployed.zip) throw invalid('The source is missing.');
    checkFunction(given);
    this.functions.set(name, deployed);
    return this.#build(name, deployed);
  }

  #update(name: string, deployed: Deployed, { mask, given }: { readonly mask: string | null; readonly given: Fields }): Fields {
    const next = masked(deployed.fields, given, { mask, shape: FUNCTION });
    const isSource = /(?:^|,)build_?[cC]onfig(?:\.source[\w.]*)?(?:,|$)/.test(mask ?? '');
    checkFunction(next);
    if (isSource) deployed.zip = this.#sourceOf(next) ?? deployed.zip;
    deployed.fields = next;
    if (
      objectOf(next['serviceConfig'])['allTrafficOnLatestRevision'] === true &&
      /all_?[tT]raffic|service_?[cC]onfig(?:,|$)/.test(mask ?? '')
    )
      deployed.pinned = undefined;
    return this.#build(name, deployed);
  }

  /** Cloud Build and a new revision, some polls later. */
  #build(name: string, deployed: Deployed): Fields {
    deployed.state = 'DEPLOYING';
    return this.#start(name, deployed, () => {
      deployed.updateTime = this.#now();
      const problem = buildProblem(deployed.zip);
      deployed.state = problem === undefined ? 'ACTIVE' : 'FAILED';
      deployed.problem = problem;
      if (problem !== undefined) return { code: 3, message: problem };
      this.#revise(name, deployed);
      return undefined;
    });
  }

  #revise(name: string, deployed: Deployed): void {
    const service = objectOf(deployed.fields['serviceConfig']);
    const build = objectOf(deployed.fields['buildConfig']);
    const number = String((this.#number += 1)).padStart(5, '0');
    const revision = `${name}-${number}-${randomBytes(2).toString('hex')}`;
    const log = this.log.writer({ name, revision, region: REGION, project: PROJECT });
    // Values of variables are text: it was checked.
    const environment = objectOf(service['environmentVariables']) as Readonly<Record<string, string>>;
    const instance = new FunctionInstance({
      zip: deployed.zip ?? new Uint8Array(),
      entryPoint: String(build['entryPoint']),
      environment: {
        ...environment,
        K_SERVICE: name,
        K_REVISION: revision,
        CLOUD_RUN_TIMEOUT_SECONDS: textOf(service['timeoutSeconds'] ?? 60),
      },
      onLine: log,
    });
    this.#running.add(instance);
    deployed.revisions.push({ name: revision, createTime: this.#now(), config: structuredClone(service), instance });
  }

  #delete(name: string, deployed: Deployed): Fields {
    deployed.state = 'DELETING';
    return this.#start(name, deployed, () => {
      this.functions.delete(name);
      for (const { instance } of deployed.revisions) void instance.close().finally(() => this.#running.delete(instance));
      return undefined;
    });
  }

  #start(name: string, deployed: Deployed, finish: () => Fields | undefined): Fields {
    const id = `operation-${(this.#number += 1)}-${name}`;
    const work: Work = { name: `${PARENT}/operations/${id}`, left: POLLS, error: undefined, finish };
    deployed.work = work;
    this.#operations.set(id, work);
    return { name: work.name, metadata: { '@type': METADATA_TYPE, apiVersion: 'v2', target: `${PARENT}/functions/${name}` } };
  }

  #operation(id: string): Fields {
    const work = this.#operations.get(id);
    if (!work) throw new Refusal(404, 'NOT_FOUND', `Operation ${id} was not found`);
    advance(work);
    const done = work.left <= 0;
    return {
      name: work.name,
      metadata: { '@type': METADATA_TYPE, apiVersion: 'v2' },
      ...(done && { done }),
      ...(done && (work.error ? { error: work.error } : { response: { '@type': 'type.googleapis.com/google.protobuf.Empty' } })),
    };
  }

  #rendered(name: string): Fields {
    const deployed = this.functions.get(name);
    if (!deployed) throw new Refusal(404, 'NOT_FOUND', 'gone');
    const { fields, state, problem, revisions, pinned, updateTime } = deployed;
    const service = objectOf(fields['serviceConfig']);
    const uri = this.#uri(name);
    const latest = revisions.at(-1);
    const { source, ...build } = objectOf(fields['buildConfig']);
    return {
      ...fields,
      environment: 'GEN_2',
      buildConfig: {
        ...build,
        ...(source !== undefined && {
          source: { storageSource: { bucket: `gcf-v2-sources-123456-${REGION}`, object: `${name}/function-source.zip` } },
        }),
      },
      serviceConfig: {
        availableMemory: '256M',
        timeoutSeconds: 60,
        maxInstanceCount: 100,
        maxInstanceRequestConcurrency: 1,
        ingressSettings: 'ALLOW_ALL',
        serviceAccountEmail: DEFAULT_ACCOUNT,
        ...service,
        availableCpu: service['availableCpu'] ?? '0.1666',
        allTrafficOnLatestRevision: pinned === undefined,
        service: `${PARENT}/services/${name}`,
        ...(latest && { revision: latest.name, uri }),
      },
      state,
      ...(problem !== undefined && { stateMessages: [{ severity: 'ERROR', type: 'CloudRunServiceNotFound', message: problem }] }),
      updateTime,
      createTime: updateTime,
      ...(latest && { url: `https://${REGION}-${PROJECT}.cloudfunctions.net/${name}` }),
    };
  }

  #services(full: string, { method, query, body, path }: Request): Fields {
    const [name = '', action] = full.split(':');
    const deployed = this.functions.get(name);
    if (!deployed || deployed.revisions.length === 0)
      throw new Refusal(404, 'NOT_FOUND', `Resource '${name}' of kind 'SERVICE' does not exist.`);
    if (action === 'getIamPolicy' && method === 'GET') return deployed.policy;
    if (action === 'setIamPolicy' && method === 'POST') return this.#setPolicy(deployed, bodyAs(body, POLICY));
    if (action === 'testIamPermissions' && method === 'POST') {
      const asked = bodyAs(body, PERMISSIONS)['permissions'] as readonly string[];
      return { permissions: asked.filter((each) => !this.denied.has(each)) };
    }
    if (path === 'revisions' && method === 'GET') {
      only(query, ['pageSize', 'pageToken', 'showDeleted']);
      const all = deployed.revisions.toReversed().map((revision) => revisionFields(name, revision));
      const [revisions, next] = pageOf(all, { size: Number(query.get('pageSize') ?? 100), token: query.get('pageToken') ?? '' });
      return { revisions, ...next };
    }
    if (path !== '' || action !== undefined) throw new Refusal(404, 'NOT_FOUND', 'Method not found.');
    if (method === 'GET') return this.#service(name, deployed);
    if (method !== 'PATCH') throw new Refusal(405, 'UNIMPLEMENTED', 'Method not allowed.');
    only(query, ['updateMask']);
    if (query.get('updateMask') !== 'traffic') throw invalid('Only the traffic can be changed: the service is managed by Cloud Functions.');
    const [target] = bodyAs(body, SERVICE)['traffic'] as readonly Fields[];
    if (target?.['percent'] !== 100) throw invalid('The percentages must add up to 100.');
    const isLatest = target['type'] === 'TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST';
    if (!isLatest && !deployed.revisions.some((revision) => revision.name === target['revision']))
      throw invalid(`Revision ${String(target['revision'])} not found.`);
    return this.#start(name, deployed, () => {
      deployed.pinned = isLatest ? undefined : String(target['revision']);
      return undefined;
    });
  }

  #setPolicy(deployed: Deployed, { policy }: Fields): Fields {
    this.#allow('run.services.setIamPolicy');
    const given = objectOf(policy);
    if (given['etag'] !== undefined && given['etag'] !== deployed.policy['etag'])
      throw new Refusal(409, 'ABORTED', 'There were concurrent policy changes.');
    deployed.policy = { ...given, etag: randomBytes(6).toString('base64') };
    return deployed.policy;
  }

  #service(name: string, { pinned, revisions }: Deployed): Fields {
    const path = `${PARENT}/services/${name}`;
    const target =
      pinned === undefined
        ? { type: 'TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST' }
        : { type: 'TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION', revision: pinned };
    return {
      name: path,
      uri: this.#uri(name),
      latestReadyRevision: `${path}/revisions/${revisions.at(-1)?.name}`,
      latestCreatedRevision: `${path}/revisions/${revisions.at(-1)?.name}`,
      traffic: [{ ...target, percent: 100 }],
      trafficStatuses: [{ ...target, percent: 100 }],
    };
  }

  #uri(name: string): string {
    return `${this.publicUrl}/invoke/${name}`;
  }

  #uploadUrl({ environment }: Fields): Fields {
    this.#allow('cloudfunctions.functions.sourceCodeSet');
    if (environment !== undefined && environment !== 'GEN_2') throw invalid('environment must be GEN_2.');
    const object = `${randomBytes(8).toString('hex')}.zip`;
    this.#uploads.set(object, undefined);
    return {
      uploadUrl: `${this.publicUrl}/upload/${object}?GoogleAccessId=uploader&Signature=signed`,
      storageSource: { bucket: `gcf-v2-uploads-123456-${REGION}`, object },
    };
  }

  #upload({ path, method, query, body }: Request, headers: IncomingMessage['headers']): Fields {
    const object = path.slice('/upload/'.length);
    if (method !== 'PUT' || query.get('Signature') !== 'signed')
      throw new Refusal(403, 'SignatureDoesNotMatch', 'The signature does not match.');
    if (headers.authorization !== undefined) throw new Refusal(400, 'InvalidAuthorization', 'A signed URL takes no Authorization header.');
    if (headers['content-type'] !== 'application/zip') throw new Refusal(403, 'SignatureDoesNotMatch', 'The content type was not signed.');
    if (!this.#uploads.has(object)) throw new Refusal(403, 'AccessDenied', 'The URL has expired.');
    if (this.#uploads.get(object)) throw new Refusal(412, 'PreconditionFailed', 'The object is there already.');
    this.#uploads.set(object, body);
    return {};
  }

  /** The package that a source names; each can be taken once. */
  #sourceOf(fields: Fields): Uint8Array | undefined {
    const { object } = objectOf(objectOf(objectOf(fields['buildConfig'])['source'])['storageSource']);
    if (object === undefined) return undefined;
    const zip = this.#uploads.get(textOf(object));
    if (!zip) throw invalid(`Source gs://gcf-v2-uploads/${textOf(object)} was not found.`);
    this.#uploads.delete(textOf(object));
    return zip;
  }

  #grant(form: URLSearchParams): Fields {
    const parts = (form.get('assertion') ?? '').split('.');
    const [head = '', payload = '', signature = ''] = parts;
    const isSigned =
      form.get('grant_type') === 'urn:ietf:params:oauth:grant-type:jwt-bearer' &&
      verify('RSA-SHA256', Buffer.from(`${head}.${payload}`), createPublicKey(this.#keys.privateKey), Buffer.from(signature, 'base64url'));
    const claims = isSigned ? claimsOf(payload) : {};
    const now = Date.now() / 1_000;
    const isSound =
      claims['iss'] === CALLER &&
      claims['aud'] === `${this.url}/token` &&
      Number(claims['exp']) > now &&
      Number(claims['iat']) <= now + CLOCK_SKEW_SECONDS;
    if (!isSound) throw new Refusal(400, 'invalid_grant', 'Invalid JWT Signature.');
    if (typeof claims['target_audience'] === 'string') return { id_token: this.#idToken(claims['target_audience'], CALLER) };
    if (claims['scope'] !== 'https://www.googleapis.com/auth/cloud-platform')
      throw new Refusal(400, 'invalid_scope', 'The scope is missing.');
    return this.#accessToken();
  }

  #metadata({ path, query }: Request, flavor: unknown): Fields | string {
    if (flavor !== 'Google') throw new Refusal(403, 'FORBIDDEN', 'Missing Metadata-Flavor:Google header.');
    if (path.endsWith('/default/token')) return this.#accessToken();
    if (path.endsWith('/default/identity') && query.get('audience')) return this.#idToken(query.get('audience') ?? '', CALLER);
    throw new Refusal(404, 'NOT_FOUND', 'no such metadata');
  }

  #accessToken(): Fields {
    this.granted.access += 1;
    const token = `ya29.${randomBytes(16).toString('hex')}`;
    this.tokens.add(token);
    return { access_token: token, expires_in: 3_599, token_type: 'Bearer' };
  }

  #idToken(audience: string, email: string): string {
    this.granted.id += 1;
    const now = Math.floor(Date.now() / 1_000);
    const parts = [
      { alg: 'RS256', typ: 'JWT' },
      { aud: audience, email, iat: now, exp: now + 3_600 },
    ];
    const signed = parts.map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
    return `${signed}.${sign('RSA-SHA256', Buffer.from(signed), this.#keys.privateKey).toString('base64url')}`;
  }

  /** The front end of Cloud Run. */
  async #invoke(incoming: IncomingMessage, response: ServerResponse, path: string): Promise<void> {
    const [, , name = '', ...rest] = path.split('/');
    const deployed = this.functions.get(name);
    const { revisions = [], pinned } = deployed ?? {};
    const revision = pinned === undefined ? revisions.at(-1) : revisions.find((each) => each.name === pinned);
    if (!deployed || !revision) return page(response, 404, 'Page not found');
    const members = (objectsOf(deployed.policy['bindings']) ?? []).flatMap(({ members: each }) => each as readonly string[]);
    const status = members.includes('allUsers')
      ? 200
      : this.#admitted(incoming.headers.authorization, { audience: this.#uri(name), members });
    if (status !== 200) return page(response, status, status === 401 ? 'Unauthorized' : 'Forbidden');
    if (Number(incoming.headers['content-length'] ?? 0) > REQUEST_BYTES_MAX) return page(response, 413, 'Request Entity Too Large');
    const seconds = Number(revision.config['timeoutSeconds'] ?? 60);
    const timer = setTimeout(() => page(response, 504, 'upstream request timeout'), seconds * 1_000);
    await revision.instance.forward(incoming, response, `/${rest.join('/')}`).finally(() => clearTimeout(timer));
  }

  #admitted(
    authorization: string | undefined,
    { audience, members }: { readonly audience: string; readonly members: readonly string[] },
  ): number {
    const [head = '', payload = '', signature = ''] = (/^Bearer (.+)$/.exec(authorization ?? '')?.[1] ?? '').split('.');
    const key = createPublicKey(this.#keys.privateKey);
    if (!verify('RSA-SHA256', Buffer.from(`${head}.${payload}`), key, Buffer.from(signature, 'base64url')))
      return authorization === undefined ? 403 : 401;
    const { aud, exp, email } = claimsOf(payload);
    if (aud !== audience || Number(exp) < Date.now() / 1_000) return 401;
    return email === CALLER || members.includes(`serviceAccount:${String(email)}`) ? 200 : 403;
  }

  #now(): string {
    return new Date().toISOString();
  }
}

const METADATA_TYPE = 'type.googleapis.com/google.cloud.functions.v2.OperationMetadata';
const VERBS: Readonly<Record<string, string>> = { GET: 'get', POST: 'create', PATCH: 'update', DELETE: 'delete' };
const FREE_PARAMETERS = new Set(['alt', 'prettyPrint']);

function only(query: URLSearchParams, known: readonly string[]): void {
  for (const name of query.keys())
    if (!known.includes(name) && !FREE_PARAMETERS.has(name))
      throw invalid(`Invalid JSON payload received. Unknown name "${name}": Cannot bind query parameter.`);
}

function fresh(fields: Fields): Deployed {
  return {
    fields,
    state: 'DEPLOYING',
    problem: undefined,
    zip: undefined,
    revisions: [],
    pinned: undefined,
    policy: { etag: 'BwYAAAA=' },
    updateTime: new Date().toISOString(),
    work: undefined,
  };
}

function advance(work: Work | undefined): void {
  if (!work || work.left <= 0) return;
  work.left -= 1;
  if (work.left === 0) work.error = work.finish();
}

function checkFunction(fields: Fields): void {
  const service = objectOf(fields['serviceConfig']);
  const { availableMemory, timeoutSeconds, maxInstanceRequestConcurrency: concurrency = 1, availableCpu } = service;
  if (availableMemory !== undefined && !/^\d+(?:\.\d+)?(?:[kMG]i?)$/.test(textOf(availableMemory))) throw invalid('Invalid memory.');
  if (timeoutSeconds !== undefined && !(Number(timeoutSeconds) >= 1 && Number(timeoutSeconds) <= 3_600)) throw invalid('Invalid timeout.');
  if (Number(concurrency) > 1 && Number(availableCpu ?? 0) < 1 && !/^(?:[2-9]\d{3}|\d{5,})Mi$|^\d+Gi$/.test(String(availableMemory)))
    throw invalid('spec.template.spec.container_concurrency: Invalid value: total cpu < 1 is not supported with concurrency > 1.');
  const { runtime } = objectOf(fields['buildConfig']);
  if (!/^nodejs(?:2[0-9])$/.test(String(runtime))) throw invalid(`Runtime ${String(runtime)} is not supported on GCF Gen2.`);
  for (const [key, value] of Object.entries(objectOf(fields['labels'])))
    if (!/^[a-z][a-z0-9_-]{0,62}$/.test(key) || !/^[a-z0-9_-]{0,63}$/.test(String(value))) throw invalid(`Label ${key} is invalid.`);
}

/** What Cloud Build would say about the package. */
function buildProblem(zip: Uint8Array | undefined): string | undefined {
  const failed = (reason: string): string =>
    `Build failed with status: FAILURE and message: ${reason}. For more details see the logs at https://console.cloud.google.com/cloud-build/builds.`;
  try {
    const files = unzipSync(zip ?? new Uint8Array());
    const manifest = files['package.json'];
    const main = manifest ? ((JSON.parse(Buffer.from(manifest).toString()) as { main?: string }).main ?? 'index.js') : 'index.js';
    return files[main] ? undefined : failed(`function.js does not exist; ${main} is not in the package`);
  } catch {
    return failed('the archive cannot be read');
  }
}

function revisionFields(name: string, { name: revision, createTime, config }: Revision): Fields {
  const variables = Object.entries(objectOf(config['environmentVariables'])).map(([key, value]) => ({ name: key, value }));
  return {
    name: `${PARENT}/services/${name}/revisions/${revision}`,
    service: name,
    createTime,
    containers: [{ name: 'worker', env: variables, resources: { limits: { memory: config['availableMemory'] ?? '256M' } } }],
    timeout: `${textOf(config['timeoutSeconds'] ?? 60)}s`,
    conditions: [{ type: 'Ready', state: 'CONDITION_SUCCEEDED' }],
  };
}

function page(response: ServerResponse, status: number, title: string): void {
  if (response.headersSent) return void response.destroy();
  response.writeHead(status, {
    'content-type': 'text/html; charset=UTF-8',
    ...(status === 401 && { 'www-authenticate': 'Bearer error="invalid_token"' }),
  });
  response.end(`<html><head><title>${status} ${title}</title></head></html>`);
}

function claimsOf(payload: string): Fields {
  return objectOf(JSON.parse(Buffer.from(payload, 'base64url').toString()));
}

function objectsOf(value: unknown): readonly Fields[] | undefined {
  return Array.isArray(value) ? value.map(objectOf) : undefined;
}

function objectOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}
