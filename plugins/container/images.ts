/** Which image a function runs in, and how it gets on the machine. */

import { RunnerError, isRunnerError, toRunnerError } from '../../src/plugin.ts';
import type { FunctionVersion } from '../../src/plugin.ts';
import type { Engine } from './client.ts';
import { contentHashOf } from './rootfs.ts';
import type { Rootfs } from './rootfs.ts';
import { tarOf } from './tar.ts';

/** When images are fetched from a registry: only those that are not here, none, or before every first use by this process. */
export type PullPolicy = 'missing' | 'never' | 'always';

export interface ImageOptions {
  /** Images for runtimes, before the table of this file: `{ 'nodejs24.x': 'registry.local/node:24' }`. */
  readonly images?: Readonly<Record<string, string>>;
  /** Default `missing`. */
  readonly pull?: PullPolicy;
  /** Registry that stands in for those of AWS: `host:port`, without a path. */
  readonly registry?: string;
}

/** https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html and the tags of https://gallery.ecr.aws/lambda, April 2026. */
const TABLE: readonly (readonly [runtime: RegExp, repository: string])[] = [
  [/^nodejs(\d+)\.x$/, 'nodejs'],
  [/^python(\d+\.\d+)$/, 'python'],
  [/^ruby(\d+\.\d+)$/, 'ruby'],
  [/^dotnet(?:core)?(\d+)$/, 'dotnet'],
  [/^java(\d+(?:\.al2)?)$/, 'java'],
  [/^provided\.(al\d+)$/, 'provided'],
];
const AWS_REGISTRY = 'public.ecr.aws';
const ECR = /^(?:\d{12}\.dkr\.ecr(?:-fips)?\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?|public\.ecr\.aws)\//;

/** The image of AWS for a runtime; undefined when there is none. */
export function tableImage(runtime: string): string | undefined {
  for (const [pattern, repository] of TABLE) {
    const [, tag] = pattern.exec(runtime) ?? [];
    if (tag !== undefined) return `${AWS_REGISTRY}/lambda/${repository}:${tag}`;
  }
  return undefined;
}

/** An image of a registry of AWS, at the registry that stands in for it. */
export function rewriteImage(uri: string, registry: string | undefined): string {
  return registry === undefined ? uri : uri.replace(ECR, `${registry}/`);
}

const REPOSITORY = 'blueprint-runner/node';
const CONTENT_LABEL = 'dev.blueprint-runner.content';

type ImageNeed = Pick<FunctionVersion, 'code' | 'runtime'>;

export interface ChosenImage {
  readonly reference: string;
  /** It is the one that was made of the node on disk. */
  readonly own: boolean;
}

/** Images of one engine. Whatever is asked for by several at the same time is done once. */
export class Images {
  readonly #engine: Engine;
  readonly #options: ImageOptions;
  /** Looked up when the first function needs it. */
  readonly #rootfs: () => Promise<Rootfs>;
  /** Of the node that the base image is made of. */
  readonly #nodeMajor: number;
  readonly #running = new Map<string, Promise<ChosenImage>>();

  constructor(engine: Engine, options: ImageOptions & { readonly rootfs: () => Promise<Rootfs>; readonly nodeMajor: number }) {
    this.#engine = engine;
    this.#options = options;
    this.#rootfs = options.rootfs;
    this.#nodeMajor = options.nodeMajor;
  }

  /** Rejects with `RUNTIME_UNSUPPORTED`, `INSTANCE_START_FAILED` (no such image, and it cannot be fetched), `ABORTED`. */
  async choose(fn: ImageNeed, signal: AbortSignal): Promise<ChosenImage> {
    const key = fn.code.kind === 'image' ? `image ${fn.code.uri}` : `runtime ${fn.runtime}`;
    for (;;) {
      try {
        return await (this.#running.get(key) ?? this.#begin(key, fn, signal));
      } catch (error) {
        // Who began it gave up; that is no reason for the others.
        if (signal.aborted || !isRunnerError(error) || error.code !== 'ABORTED') throw error;
      }
    }
  }

  #begin(key: string, { code, runtime }: ImageNeed, signal: AbortSignal): Promise<ChosenImage> {
    const choice = code.kind === 'image' ? this.#present(code.uri, signal) : this.#forRuntime(runtime, signal);
    this.#running.set(key, choice);
    choice.catch(() => this.#running.delete(key));
    return choice;
  }

  async #forRuntime(runtime: string, signal: AbortSignal): Promise<ChosenImage> {
    const named = this.#options.images?.[runtime];
    if (named !== undefined) return this.#present(named, signal);
    const reference = tableImage(runtime);
    if (reference === undefined)
      throw new RunnerError('RUNTIME_UNSUPPORTED', `there is no image for the runtime ${runtime}; name one in the option images`, {
        details: { runtime },
      });
    const [, major] = /^nodejs(\d+)/.exec(runtime) ?? [];
    // Our own is a tenth of the size, and the program that starts in it is the same.
    if (Number(major) === this.#nodeMajor) return this.#own();
    return this.#present(reference, signal).catch((error: unknown) => {
      // A newer node runs what was written for an older one; a custom runtime may be a program that needs nothing else.
      if (major === undefined && !runtime.startsWith('provided')) throw error;
      return this.#own();
    });
  }

  async #present(uri: string, signal: AbortSignal): Promise<ChosenImage> {
    const reference = rewriteImage(uri, this.#options.registry);
    const { pull = 'missing' } = this.#options;
    const here = await this.#engine.image(reference);
    if (here && pull !== 'always') return { reference, own: false };
    if (pull === 'never')
      throw new RunnerError('INSTANCE_START_FAILED', `the image ${reference} is not on this machine, and fetching it is not allowed`, {
        retry: 'never',
        details: { image: reference },
      });
    try {
      await this.#engine.pull(reference, signal);
    } catch (error) {
      if (signal.aborted) throw toRunnerError(error, 'ABORTED');
      if (here) return { reference, own: false };
      const reason = error instanceof Error ? error.message : String(error);
      throw new RunnerError('INSTANCE_START_FAILED', `the image ${reference} cannot be fetched: ${reason}`, {
        cause: error,
        details: { image: reference },
      });
    }
    return { reference, own: false };
  }

  /** The image of the node on disk; made when it is not there, found by its content when only the name is missing. */
  async #own(): Promise<ChosenImage> {
    const { entries, identity } = await this.#rootfs();
    const tag = identity.slice(0, 16);
    const reference = `${REPOSITORY}:${tag}`;
    if (await this.#engine.image(reference)) return { reference, own: true };
    const content = await contentHashOf(entries);
    const same = await this.#engine.imageWith(CONTENT_LABEL, content);
    if (same === undefined) {
      const changes = [`LABEL ${CONTENT_LABEL}=${content}`, 'ENV PATH=/var/lang/bin:/bin:/usr/bin', 'WORKDIR /var/task'];
      await this.#engine.importImage(tarOf(entries), { repository: REPOSITORY, tag, changes });
    } else {
      await this.#engine.tag(same, REPOSITORY, tag);
    }
    return { reference, own: true };
  }
}
