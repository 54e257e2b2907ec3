/** The engine with what instances need of it and of this machine: images, files, limits. */

import { homedir } from 'node:os';
import { RunnerError, systemClock } from '../../src/plugin.ts';
import type { Clock, FunctionVersion } from '../../src/plugin.ts';
import { Engine } from './client.ts';
import type { EngineOptions } from './client.ts';
import type { ContainerPlan } from './container-options.ts';
import { HostFiles } from './host-files.ts';
import { Images } from './images.ts';
import type { ChosenImage, ImageOptions } from './images.ts';
import { checkLimits, resourcesOf } from './limits.ts';
import type { InstanceLimits } from './limits.ts';
import type { Surface } from './program.ts';
import { INSTANCE_UID } from './rootfs.ts';

export interface ContainerBackendOptions extends ImageOptions {
  /** For what instances are given: the client, merged layers, a root file system. The engine must see it under the same path. */
  readonly folder: string;
  /** As `DOCKER_HOST`. Default: that variable, else the first socket of Docker or podman that answers. */
  readonly host?: string;
  readonly limits?: InstanceLimits;
  /** A runtime that the engine knows, such as `runsc` (gVisor; it must be set up with `--host-uds=all`). Default: the engine's. */
  readonly runtime?: string;
  /** The engine's init process in every instance: without it some signals are told wrong and orphans stay. Default true. */
  readonly init?: boolean;
  /** Until an instance runs; fetching its image does not count. Default 60,000. */
  readonly startTimeoutMs?: number;
  /** The node that the base image is made of. Default: the one that runs this. */
  readonly nodePath?: string;
  readonly clock?: Clock;
  readonly environment?: Readonly<Record<string, string | undefined>>;
  readonly platform?: NodeJS.Platform;
}

/** What a function runs in. */
export interface Place {
  readonly engine: Engine;
  readonly image: ChosenImage;
  readonly surface: Surface;
  readonly uid: number;
}

export class ContainerHost {
  readonly clock: Clock;
  readonly files: HostFiles;
  readonly options: ContainerBackendOptions;
  kind: 'docker' | 'podman' = 'docker';
  #engine: Promise<Engine> | undefined;
  #images: Images | undefined;

  /** Throws `CONFIG_INVALID`. Does no I/O. */
  constructor(options: ContainerBackendOptions) {
    checkLimits(options.limits ?? {});
    this.options = options;
    this.clock = options.clock ?? systemClock;
    this.files = new HostFiles(options.folder, options.nodePath ?? process.execPath);
  }

  async engine(): Promise<Engine> {
    this.#engine ??= Engine.connect(this.#engineOptions());
    try {
      const engine = await this.#engine;
      this.kind = engine.info.kind;
      const { runtime } = this.options;
      if (runtime !== undefined && !engine.info.runtimes.includes(runtime)) {
        const known = engine.info.runtimes.join(', ');
        throw new RunnerError('BACKEND_UNAVAILABLE', `the engine has no runtime ${runtime}, only ${known}; add it to its configuration`);
      }
      return engine;
    } catch (error) {
      // It may be started meanwhile.
      this.#engine = undefined;
      throw error;
    }
  }

  /** Fetches or makes the image that the function needs. */
  async place(fn: Pick<FunctionVersion, 'code' | 'runtime'>, signal: AbortSignal): Promise<Place> {
    const engine = await this.engine();
    const nodeMajor = Number(process.versions.node.split('.')[0]);
    this.#images ??= new Images(engine, { ...this.options, rootfs: () => this.files.rootfs(), nodeMajor });
    const image = await this.#images.choose(fn, signal);
    const info = image.own ? undefined : await engine.image(image.reference);
    return { engine, image, surface: { entryPoint: [], command: [], labels: {}, ...info, hasNode: image.own }, uid: userOf(engine) };
  }

  /** What is the same for every container of a function. */
  planOf(
    fn: FunctionVersion,
    { engine, image, uid }: Place,
  ): Omit<ContainerPlan, 'name' | 'program' | 'environment' | 'labels' | 'hasStdin'> {
    return {
      image: image.reference,
      resources: resourcesOf(fn, this.options.limits ?? {}, engine.info.cpus),
      network: fn.network,
      user: `${uid}:${uid}`,
      runtime: this.options.runtime,
      hasInit: this.options.init ?? true,
      hasTask: fn.code.kind === 'folder',
    };
  }

  /** After a failure: the next start looks again whether the engine and the images are there. */
  forget(): void {
    this.#engine = undefined;
    this.#images = undefined;
  }

  #engineOptions(): EngineOptions {
    const { environment = process.env, platform = process.platform, host } = this.options;
    return { clock: this.clock, environment, platform, host, uid: process.getuid?.(), home: homedir() };
  }
}

/** Rootless engines map user 0 to the unprivileged user outside; without root only our own user can reach what is ours. */
function userOf({ info }: Engine): number {
  if (info.rootless) return 0;
  const uid = process.getuid?.() ?? 0;
  return uid === 0 ? INSTANCE_UID : uid;
}
