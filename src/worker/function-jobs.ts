/** Jobs of type `function` on a function runtime, or on engines elsewhere. */

import { RunnerError } from '../errors.ts';
import { FUNCTION_JOB, functionOfHeaders } from '../queue/function-job.ts';
import type { FunctionJob } from '../queue/function-job.ts';
import { isReference } from '../queue/queue.ts';
import type { ClaimedJob, ObjectStore, QueueResult } from '../queue/queue.ts';
import { fingerprintOf } from '../runtime/fingerprint.ts';
import type { FunctionCode, FunctionVersion, InvocationOptions } from '../runtime/runtime.ts';
import { PackageCache, untilGivenUp } from './package-cache.ts';
import type { JobHandler } from './running-job.ts';

export interface TargetOptions extends Pick<InvocationOptions, 'deadline'> {
  readonly signal?: AbortSignal;
  /** Calls with the same one go to the same engine while it is up: the header `affinity` of the job. */
  readonly affinity?: string;
}

/** What runs functions: a `FunctionRuntime` of any backend, an `EnginePool`, or `ControlEngines`. */
export interface FunctionTarget {
  /** From the object store, by itself: the path of a folder is the key of the package there. */
  readonly fetchesPackages?: boolean;
  invoke(
    fn: FunctionVersion,
    event: Uint8Array,
    options: TargetOptions,
  ): Promise<{ readonly body: Uint8Array; readonly contentType: string }>;
  /** Ends instances of this name with other fingerprints. */
  retire(name: string, keep: readonly string[]): void;
}

export interface FunctionJobsOptions {
  readonly target: FunctionTarget;
  readonly packages: PackageCache;
  /** Where payloads lie that are no bytes. */
  readonly objects: ObjectStore;
  /** What functions may ask for by name; nothing else of this machine's environment reaches them. Default: nothing. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Whether functions that ask for the network get it. Default `none`. */
  readonly network?: 'none' | 'open';
  readonly concurrencyPerInstance?: number;
}

/**
 * Runs the function that the headers of a job name. Rejects with the errors of the function runtime or the engines, `REQUEST_INVALID` for a
 * job that is none of a function, `CODE_MISSING` and `PACKAGE_INVALID` for its package, `FORBIDDEN` for what this worker does not give.
 */
export class FunctionJobs implements JobHandler {
  readonly #options: FunctionJobsOptions;
  /** By package: the versions that were made of it. */
  readonly #versions = new Map<string, Map<string, FunctionVersion>>();

  constructor(options: FunctionJobsOptions) {
    this.#options = options;
  }

  async run(job: ClaimedJob, options: { readonly signal: AbortSignal; readonly started: () => void }): Promise<QueueResult> {
    if (job.type !== FUNCTION_JOB)
      throw new RunnerError('REQUEST_INVALID', `this worker runs jobs of type ${FUNCTION_JOB}; ${job.id} is of type ${job.type}`);
    const wanted = functionOfHeaders(job.headers);
    const { packages, objects, target } = this.#options;
    const { signal } = options;
    const event = isReference(job.payload) ? await untilGivenUp(objects.get(job.payload), signal) : job.payload;
    const { code } = wanted;
    if (code.kind === 'image') return this.#invoke({ job, event, fn: this.#versionOf(wanted, code) }, options);
    if (target.fetchesPackages) {
      const { key, sha256 } = code.object;
      return this.#invoke({ job, event, fn: this.#made(wanted, { kind: 'folder', path: key, sha256 }) }, options);
    }
    const invoke = (path: string): Promise<QueueResult> => {
      const { sha256 } = code.object;
      return this.#invoke({ job, event, fn: this.#versionOf(wanted, { kind: 'folder', path, sha256 }) }, options);
    };
    return packages.use(code.object, invoke, signal);
  }

  /** The package goes: what was made of it ends. */
  evicted(sha256: string): void {
    const gone = this.#versions.get(sha256);
    this.#versions.delete(sha256);
    for (const name of new Set([...(gone?.values() ?? [])].map((fn) => fn.name))) {
      const others = [...this.#versions.values()].flatMap((versions) => [...versions.values()].filter((fn) => fn.name === name));
      this.#options.target.retire(
        name,
        others.map(({ fingerprint }) => fingerprint),
      );
    }
  }

  async #invoke(
    { job, event, fn }: { readonly job: ClaimedJob; readonly event: Uint8Array; readonly fn: FunctionVersion },
    { signal, started }: { readonly signal: AbortSignal; readonly started: () => void },
  ): Promise<QueueResult> {
    if (signal.aborted) throw new RunnerError('ABORTED', 'the job was given up before it began', { cause: signal.reason, retry: 'safe' });
    started();
    const { deadline, headers } = job;
    const { affinity } = headers;
    const given = { ...(deadline !== undefined && { deadline }), ...(affinity !== undefined && { affinity }) };
    const { body, contentType } = await this.#options.target.invoke(fn, event, { signal, ...given });
    return { body, headers: { 'content-type': contentType } };
  }

  /** The same object for the same version. */
  #versionOf(wanted: FunctionJob, code: FunctionCode): FunctionVersion {
    const fn = this.#made(wanted, code);
    const source = code.kind === 'folder' ? code.sha256 : code.uri;
    const versions = this.#versions.get(source) ?? new Map<string, FunctionVersion>();
    this.#versions.set(source, versions);
    const known = versions.get(fn.fingerprint);
    if (known) return known;
    versions.set(fn.fingerprint, fn);
    return fn;
  }

  #made({ name, settings }: FunctionJob, code: FunctionCode): FunctionVersion {
    const { environment: given = {}, network = 'none', concurrencyPerInstance = 1 } = this.#options;
    if (settings.network === 'open' && network === 'none')
      throw new RunnerError('FORBIDDEN', `the function ${name} wants the network; this worker gives it to none`, { retry: 'safe' });
    const environment: Record<string, string> = {};
    for (const variable of settings.environment) {
      const value = Object.hasOwn(given, variable) ? given[variable] : undefined;
      if (value === undefined)
        throw new RunnerError('FORBIDDEN', `the function ${name} wants the variable ${variable}; this worker gives it to none`, {
          retry: 'safe',
        });
      environment[variable] = value;
    }
    const parts = { ...settings, name, version: '$LATEST', code, layers: [], environment, concurrencyPerInstance };
    return { ...parts, fingerprint: fingerprintOf(parts) };
  }
}

interface WorkerFunctions extends Omit<FunctionJobsOptions, 'packages'> {
  /** Of packages. */
  readonly folder: string;
  readonly bytesMax?: number;
}

/** Function jobs with a cache of packages of their own. */
export function functionJobs({ folder, bytesMax, ...options }: WorkerFunctions): {
  readonly jobs: FunctionJobs;
  readonly packages: PackageCache;
} {
  const packages = new PackageCache({
    folder,
    objects: options.objects,
    ...(bytesMax !== undefined && { bytesMax }),
    onEvict: (sha256) => jobs.evicted(sha256),
  });
  const jobs: FunctionJobs = new FunctionJobs({ ...options, packages });
  return { jobs, packages };
}
