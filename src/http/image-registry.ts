/**
 * Images into a registry, by the OCI Distribution Specification v1.1
 * (https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md). What is there is not sent again, so an interrupted push goes on.
 */

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../clock.ts';
import { RunnerError, isRunnerError } from '../errors.ts';
import { Connections, parseTarget } from './connection.ts';
import type { HttpResponse } from './http.ts';
import { PlatformRequests, fieldsOf, text } from './platform-requests.ts';
import type { PlatformRequest } from './platform-requests.ts';

export interface ImageReference {
  /** Host, and port where it is not the usual one. */
  readonly registry: string;
  readonly repository: string;
  readonly tag: string;
}

export interface RegistryCredentials {
  readonly username: string;
  readonly password: string;
}

export interface PushOptions {
  readonly reference: ImageReference;
  /** Asked once, when the registry wants to know who it talks to. Undefined: nobody. */
  readonly credentials: () => Promise<RegistryCredentials | undefined>;
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  /** In words. */
  readonly onProgress?: (step: string) => void;
  /** Of one request. Default 8 MiB. */
  readonly chunkBytes?: number;
}

export interface PushedImage {
  /** With the digest: it names this image for ever. */
  readonly reference: string;
  readonly digest: string;
  readonly tag: string;
  /** Digests of the blobs that were not there. */
  readonly uploaded: readonly string[];
  readonly uploadedBytes: number;
  /** The tag named this very image before; nothing was written. */
  readonly wasThere: boolean;
}

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

interface Layout {
  readonly directory: string;
  readonly manifest: Descriptor;
  readonly bytes: Uint8Array;
  readonly blobs: readonly Descriptor[];
}

/** https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pulling-manifests */
const REPOSITORY = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^\w[\w.-]{0,127}$/;
const LOOPBACK = /^(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])(?::\d+)?$/;
const CHUNK_BYTES = 8 * 1024 * 1024;
const REQUEST_MS_MAX = 300_000;
/** Its web site and its registry have different names. */
const DOCKER_HUB = { name: 'docker.io', host: 'registry-1.docker.io' };

/** `localhost:5000/name`, `ghcr.io/owner/name:tag`; the tag is `latest` when there is none. Throws `CONFIG_INVALID`. */
export function parseImageReference(reference: string): ImageReference {
  const slash = reference.indexOf('/');
  const registry = reference.slice(0, Math.max(0, slash));
  const [repository = '', tag = 'latest', ...rest] = reference.slice(slash + 1).split(':');
  const hasHost =
    LOOPBACK.test(registry) || /^[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)+(?::\d+)?$/.test(registry) || /^[a-zA-Z0-9-]+:\d+$/.test(registry);
  if (hasHost && REPOSITORY.test(repository) && TAG.test(tag) && rest.length === 0) return { registry, repository, tag };
  throw new RunnerError(
    'CONFIG_INVALID',
    `${JSON.stringify(reference)} names no image; write registry.example/name or registry.example/name:tag`,
  );
}

/**
 * Pushes the image of an OCI image layout. Every blob is checked against its digest before it is sent, and the registry's own digest against
 * ours afterwards. A registry on the loopback interface is spoken to without TLS, as other clients do.
 *
 * Rejects with `PACKAGE_INVALID` for a layout that is broken, `CREDENTIALS_MISSING`, `EXECUTOR_UNAUTHORIZED`, `PLATFORM_UNREACHABLE`,
 * `PLATFORM_THROTTLED`, `DEPLOY_FAILED` with the registry's own code and message, `ABORTED`.
 *
 * @example
 * await pushImage('build/oci', { reference: parseImageReference('ghcr.io/me/squaring:1'), credentials: async () => undefined, clock: systemClock });
 */
export async function pushImage(directory: string, options: PushOptions): Promise<PushedImage> {
  const layout = await readLayout(directory);
  const registry = new Registry(options);
  try {
    return await registry.push(layout);
  } finally {
    await registry.close();
  }
}

class Registry {
  readonly #options: PushOptions;
  readonly #base: string;
  readonly #connections: Connections;
  readonly #requests = new Map<string, PlatformRequests>();
  #challenge: string | undefined;
  #authorization: string | undefined;

  constructor(options: PushOptions) {
    const { registry, repository } = options.reference;
    const host = registry === DOCKER_HUB.name ? DOCKER_HUB.host : registry;
    this.#options = options;
    this.#connections = new Connections({}, options.clock);
    this.#base = `${LOOPBACK.test(host) ? 'http' : 'https'}://${host}/v2/${repository}`;
  }

  close(): Promise<void> {
    return this.#connections.close();
  }

  async push({ directory, manifest, bytes, blobs }: Layout): Promise<PushedImage> {
    const { reference, onProgress } = this.#options;
    const { registry, repository, tag } = reference;
    const { digest, mediaType } = manifest;
    const pushed = { reference: `${registry}/${repository}@${digest}`, digest, tag };
    const named = await this.#send(`${this.#base}/manifests/${tag}`, { method: 'HEAD', headers: ['accept', mediaType] });
    if (named.status === 200 && digestIn(named) === digest) return { ...pushed, uploaded: [], uploadedBytes: 0, wasThere: true };
    const uploaded: Descriptor[] = [];
    for (const [index, blob] of blobs.entries()) {
      const there = await this.#send(`${this.#base}/blobs/${blob.digest}`, { method: 'HEAD' });
      if (there.status === 200) continue;
      if (there.status !== 404) throw refused(`look for the blob ${blob.digest}`, there);
      onProgress?.(`pushing blob ${index + 1} of ${blobs.length}, ${blob.size} bytes`);
      await this.#upload(join(directory, 'blobs', blob.digest.replace(':', '/')), blob);
      uploaded.push(blob);
    }
    onProgress?.(`pushing the manifest as ${tag}`);
    const put = await this.#send(`${this.#base}/manifests/${tag}`, { method: 'PUT', headers: ['content-type', mediaType], body: bytes });
    this.#expect(`take the manifest of ${repository}:${tag}`, put, digest);
    const uploadedBytes = uploaded.reduce((sum, { size }) => sum + size, 0);
    return { ...pushed, uploaded: uploaded.map((each) => each.digest), uploadedBytes, wasThere: false };
  }

  /** In one request when it fits, else in chunks: a proxy before the registry may not take more at a time. */
  async #upload(path: string, { digest, size }: Descriptor): Promise<void> {
    const what = `take the blob ${digest}`;
    const begun = await this.#send(`${this.#base}/blobs/uploads/`, { method: 'POST' });
    if (begun.status !== 202) throw refused(what, begun);
    let place = locationIn(begun, this.#base, what);
    const least = Number(begun.headers['oci-chunk-min-length'] ?? 0);
    const chunkBytes = Math.max(this.#options.chunkBytes ?? CHUNK_BYTES, Number.isSafeInteger(least) ? least : 0);
    const file = await open(path);
    try {
      let sent = 0;
      for (; size - sent > chunkBytes; sent += chunkBytes) {
        const range = ['content-type', 'application/octet-stream', 'content-range', `${sent}-${sent + chunkBytes - 1}`];
        const body = await partOf(file, sent, chunkBytes);
        const taken = await this.#send(place, { method: 'PATCH', headers: range, body });
        if (taken.status !== 202) throw refused(what, taken);
        place = locationIn(taken, place, what);
      }
      const last = new URL(place);
      last.searchParams.set('digest', digest);
      const isWhole = sent === 0;
      const range = isWhole ? [] : ['content-range', `${sent}-${size - 1}`];
      const headers = ['content-type', 'application/octet-stream', ...range];
      const put = await this.#send(last.href, { method: 'PUT', headers, body: await partOf(file, sent, size - sent) });
      this.#expect(what, put, digest);
    } finally {
      await file.close();
    }
  }

  #expect(what: string, response: HttpResponse, digest: string): void {
    if (response.status !== 201) throw refused(what, response);
    const said = digestIn(response);
    if (said === undefined || said === digest) return;
    throw new RunnerError('DEPLOY_FAILED', `the registry cannot ${what}: it has ${said} now`, { details: { digest, said } });
  }

  async #send(url: string, request: Omit<PlatformRequest, 'path'>): Promise<HttpResponse> {
    try {
      return await this.#sendAs(url, request);
    } catch (error) {
      const challenge = this.#challenge;
      if (!isRunnerError(error) || error.code !== 'EXECUTOR_UNAUTHORIZED' || challenge === undefined) throw error;
      this.#challenge = undefined;
      this.#authorization = await this.#authorize(challenge);
      return this.#sendAs(url, request);
    }
  }

  #sendAs(url: string, { headers = [], ...request }: Omit<PlatformRequest, 'path'>): Promise<HttpResponse> {
    const { origin, pathname, search } = new URL(url);
    // An upload may go to another host, which has no business with our credentials.
    const isOwn = origin === new URL(this.#base).origin;
    const credentials = isOwn && this.#authorization !== undefined ? ['authorization', this.#authorization] : [];
    const { signal } = this.#options;
    return this.#requestsTo(origin).send({ ...request, path: pathname + search, headers: [...headers, ...credentials], signal });
  }

  #requestsTo(origin: string): PlatformRequests {
    let requests = this.#requests.get(origin);
    if (!requests) {
      const denied = (response: HttpResponse): RunnerError => {
        this.#challenge = text(response.headers['www-authenticate']);
        const { code, message } = saidIn(response);
        const why = message === undefined ? '' : `: ${code}: ${message}`;
        return new RunnerError('EXECUTOR_UNAUTHORIZED', `the registry ${origin} answers with status ${response.status}${why}`);
      };
      const options = { clock: this.#options.clock, timeoutMs: REQUEST_MS_MAX, denied };
      requests = new PlatformRequests(parseTarget(origin), this.#connections, options);
      this.#requests.set(origin, requests);
    }
    return requests;
  }

  /** https://distribution.github.io/distribution/spec/auth/token/ */
  async #authorize(challenge: string): Promise<string> {
    const { registry, repository } = this.#options.reference;
    const scheme = challenge.slice(0, challenge.indexOf(' ')).toLowerCase();
    const credentials = await this.#options.credentials();
    const basic = credentials && `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64')}`;
    if (scheme === 'basic') {
      if (basic !== undefined) return basic;
      throw new RunnerError('CREDENTIALS_MISSING', `the registry ${registry} wants to know who pushes: docker login ${registry}`);
    }
    const parameters = Object.fromEntries([...challenge.matchAll(/(\w+)="([^"]*)"/g)].map(([, name = '', value = '']) => [name, value]));
    const realm = URL.parse(parameters['realm'] ?? '');
    if (scheme !== 'bearer' || !realm) {
      const message = `the registry ${registry} wants credentials in a way that is not known here: ${scheme}`;
      throw new RunnerError('EXECUTOR_UNAUTHORIZED', message);
    }
    const isPlain = realm.protocol !== 'https:' && !LOOPBACK.test(realm.host);
    if (isPlain)
      throw new RunnerError('EXECUTOR_UNAUTHORIZED', `the registry ${registry} sends its credentials to ${realm.host} without TLS`);
    if (parameters['service'] !== undefined) realm.searchParams.set('service', parameters['service']);
    realm.searchParams.set('scope', `repository:${repository}:pull,push`);
    const response = await this.#requestsTo(realm.origin).send({
      method: 'GET',
      path: realm.pathname + realm.search,
      headers: basic === undefined ? [] : ['authorization', basic],
      signal: this.#options.signal,
    });
    const fields = fieldsOf(response.body);
    const token = text(fields?.['token']) ?? text(fields?.['access_token']);
    if (response.status === 200 && token !== undefined) return `Bearer ${token}`;
    throw refused('give a token', response);
  }
}

/** Throws `PACKAGE_INVALID` for what is no layout with one image, or is not what its digests say. */
async function readLayout(directory: string): Promise<Layout> {
  try {
    const { manifests } = JSON.parse(await readFile(join(directory, 'index.json'), 'utf8')) as { manifests: readonly Descriptor[] };
    const [manifest, ...others] = manifests;
    if (!manifest || others.length > 0) throw new Error(`it has ${manifests.length} images`);
    await verify(directory, manifest);
    const bytes = await readFile(join(directory, 'blobs', manifest.digest.replace(':', '/')));
    const { config, layers } = JSON.parse(bytes.toString('utf8')) as { config: Descriptor; layers: readonly Descriptor[] };
    const blobs = [...new Map([...layers, config].map((blob) => [blob.digest, blob])).values()];
    for (const blob of blobs) await verify(directory, blob);
    return { directory, manifest, bytes, blobs };
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RunnerError('PACKAGE_INVALID', `${directory} is no sound OCI image layout with one image in it: ${reason}`, {
      cause,
      details: { directory },
    });
  }
}

async function verify(directory: string, { digest, size }: Descriptor): Promise<void> {
  if (!/^sha256:[0-9a-f]{64}$/.test(digest)) throw new Error(`${digest} is no digest of SHA-256`);
  const path = join(directory, 'blobs', digest.replace(':', '/'));
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  const found = `sha256:${hash.digest('hex')}`;
  const { size: length } = await stat(path);
  if (found !== digest || length !== size) throw new Error(`the blob ${digest} of ${size} bytes is ${found} of ${length}`);
}

async function partOf(file: Awaited<ReturnType<typeof open>>, from: number, length: number): Promise<Uint8Array> {
  const bytes = Buffer.alloc(length);
  let read = 0;
  while (read < length) {
    const { bytesRead } = await file.read(bytes, read, length - read, from + read);
    if (bytesRead === 0) throw new RunnerError('PACKAGE_INVALID', 'a blob became shorter while it was pushed');
    read += bytesRead;
  }
  return bytes;
}

function digestIn({ headers }: HttpResponse): string | undefined {
  return text(headers['docker-content-digest']);
}

function locationIn({ headers }: HttpResponse, base: string, what: string): string {
  const location = URL.parse(text(headers['location']) ?? '', base);
  if (location && headers['location'] !== undefined) return location.href;
  throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the registry cannot ${what}: it does not say where to`);
}

/** `{ errors: [{ code, message }] }` */
function saidIn({ body }: HttpResponse): { readonly code?: string; readonly message?: string } {
  const errors = fieldsOf(body)?.['errors'];
  const [first] = Array.isArray(errors) ? (errors as readonly unknown[]) : [];
  return typeof first === 'object' && first !== null ? first : {};
}

function refused(what: string, response: HttpResponse): RunnerError {
  const { code, message } = saidIn(response);
  const reason = code === undefined ? `status ${response.status}` : `${code}: ${message}`;
  return new RunnerError('DEPLOY_FAILED', `the registry cannot ${what}: ${reason}`, {
    details: { status: response.status, ...(code !== undefined && { platformCode: code }) },
    retry: response.status >= 500 ? 'safe' : 'never',
  });
}
