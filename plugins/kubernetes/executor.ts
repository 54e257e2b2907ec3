/** Runs jobs in functions of a cluster: straight to the Service from inside, through the API server from outside. */

import {
  BLUEPRINT,
  Connections,
  RunnerError,
  decodeResponse,
  encodeRequest,
  inTime,
  isRunnerError,
  outdated,
  parseTarget,
} from '../../src/plugin.ts';
import type { Clock, Execution, ExecutorLimits, FaasExecutor, HttpResponse, InvokeOptions, JobCall, Target } from '../../src/plugin.ts';
import { Cluster, statusIn } from './client.ts';
import { revisionHeaders, servingRevision } from './knative.ts';
import { isInCluster } from './kubeconfig.ts';
import type { TokenProgram } from './kubeconfig.ts';
import type { KubernetesExecutorOptions } from './options.ts';

const MIB = 1_024 * 1_024;
const LIMITS: ExecutorLimits = { requestBytesMax: 6 * MIB, responseBytesMax: 6 * MIB, timeoutMsMax: 24 * 3_600_000 };
const ENVELOPE_BYTES = 64 * 1_024;
const HEALTH_MS = 10_000;
const CONNECTIONS_MAX = 256;
/** How long a revision is called that may be the one before: it answers still. */
const REVISION_MS = 5_000;

/**
 * One attempt per `invoke`. Rejects with the errors of `HttpClient.send`, with what the handler reports, with `EXECUTOR_NOT_FOUND` when there
 * is no such Service, `EXECUTOR_UNAVAILABLE` when no pod of it is ready (no pod was reached), `EXECUTOR_UNAUTHORIZED` and `CREDENTIALS_MISSING`.
 */
export class KubernetesExecutor implements FaasExecutor {
  readonly name = 'kubernetes';
  readonly limits = LIMITS;
  readonly #options: KubernetesExecutorOptions;
  readonly #clock: Clock;
  readonly #cluster: Cluster;
  readonly #direct: Connections;
  readonly #isDirect: boolean;
  readonly #running = new Set<Promise<unknown>>();
  readonly #revisions = new Map<string, { readonly revision: string; readonly until: number }>();
  #isClosed = false;

  /** Does no I/O. */
  constructor(
    options: KubernetesExecutorOptions,
    { clock, environment = process.env }: { readonly clock: Clock; readonly environment?: NodeJS.ProcessEnv },
  ) {
    this.#options = options;
    this.#clock = clock;
    this.#cluster = new Cluster(options, { clock, environment, connectionsMax: CONNECTIONS_MAX });
    this.#direct = new Connections({}, clock);
    this.#isDirect = (options.via ?? (isInCluster(environment) ? 'dns' : 'proxy')) === 'dns';
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    if (this.#isClosed) throw new RunnerError('EXECUTOR_CLOSED', 'the executor of Kubernetes is closed');
    const running = this.#invoke(call, options);
    this.#running.add(running);
    return running.finally(() => this.#running.delete(running));
  }

  async health(jobId: bigint, { signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    const response = await this.#send(jobId, { method: 'HEAD', headers: [], deadline: this.#clock.now() + HEALTH_MS, signal });
    if (response.status < 300 || response.status === 405) return;
    const code = response.status === 404 ? 'EXECUTOR_NOT_FOUND' : 'EXECUTOR_UNAVAILABLE';
    throw new RunnerError(code, `the function ${this.#functionOf(jobId)} answers with status ${response.status}`);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.allSettled(this.#running);
    await Promise.all([this.#direct.close(), this.#cluster.close()]);
  }

  async #invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    const { headers, body } = encodeRequest('octets', call);
    const remaining = {
      [BLUEPRINT.timeoutMs]: String(Math.max(0, Math.ceil(options.deadline - this.#clock.now()))),
      [BLUEPRINT.attempt]: String(options.attempt),
    };
    const response = await this.#send(call.jobId, {
      method: 'POST',
      headers: Object.entries({ ...headers, ...remaining }).flat(),
      body,
      deadline: options.deadline,
      signal: options.signal,
    });
    return decodeResponse(response, call);
  }

  #functionOf(jobId: bigint): string {
    const { function: given = (id: bigint) => `blueprint-job-${id}` } = this.#options;
    return typeof given === 'string' ? given : given(jobId);
  }

  async #send(
    jobId: bigint,
    request: Pick<Parameters<Connections['send']>[1], 'method' | 'headers' | 'body' | 'deadline' | 'signal'>,
  ): Promise<HttpResponse> {
    const way = this.#wayTo(this.#functionOf(jobId), request.signal);
    const { connections, target, headers = [], program } = await inTime(way, { ...request, clock: this.#clock });
    const wasKept = program?.keeps();
    const sent = {
      ...request,
      headers: [...(request.headers ?? []), ...headers],
      path: `${target.path}/job/${jobId}`,
      responseBytesMax: LIMITS.responseBytesMax + ENVELOPE_BYTES,
    };
    const response = await connections.send(target, sent).catch((error: unknown) => {
      // The token could not be read: nothing was sent.
      if (isRunnerError(error) && error.code === 'CONFIG_INVALID')
        throw new RunnerError('CREDENTIALS_MISSING', error.message, { cause: error });
      throw error;
    });
    // What a job gives may look like anything.
    const status = this.#isDirect || response.status < 300 ? undefined : statusIn(response);
    if (!status) return response;
    const refused = refusedBy(status, response.status, this.#functionOf(jobId));
    if (response.status === 401) program?.forget();
    throw response.status === 401 && wasKept ? outdated(refused) : refused;
  }

  async #wayTo(name: string, signal: AbortSignal | undefined): Promise<Way> {
    if (this.#isDirect) {
      const { namespace = await this.#cluster.namespace() } = this.#options;
      return { connections: this.#direct, target: parseTarget(`http://${name}.${namespace}.svc`) };
    }
    const { connections, target, program } = await this.#cluster.connections();
    const revision = this.#options.workload === 'knative' ? await this.#revisionOf(name, signal) : undefined;
    const path = await this.#cluster.path('Service', `${revision ?? name}:http`);
    return {
      connections,
      program,
      target: { ...target, path: `${target.path}${path}/proxy` },
      ...(revision !== undefined && { headers: revisionHeaders(await this.#cluster.namespace(), revision) }),
    };
  }

  async #revisionOf(name: string, signal: AbortSignal | undefined): Promise<string> {
    const known = this.#revisions.get(name);
    if (known && known.until > this.#clock.monotonic()) return known.revision;
    const service = await this.#cluster.get('KnativeService', name, signal).catch(unreached);
    const revision = service && servingRevision(service);
    if (revision === undefined) throw new RunnerError('EXECUTOR_NOT_FOUND', `the cluster has no function ${name} that takes calls`);
    this.#revisions.set(name, { revision, until: this.#clock.monotonic() + REVISION_MS });
    return revision;
  }
}

interface Way {
  readonly connections: Connections;
  readonly target: Target;
  readonly headers?: readonly string[];
  readonly program?: TokenProgram | undefined;
}

/** Nothing was sent to the function. */
function unreached(error: unknown): never {
  if (!isRunnerError(error)) throw error;
  if (error.code === 'PLATFORM_UNREACHABLE') throw new RunnerError('EXECUTOR_UNREACHABLE', error.message, { cause: error });
  if (error.code === 'PLATFORM_THROTTLED') throw new RunnerError('EXECUTOR_THROTTLED', error.message, { cause: error });
  throw error;
}

/** What the API server says itself: the function was not reached, unless it gave up waiting for it. */
function refusedBy({ reason, message }: NonNullable<ReturnType<typeof statusIn>>, status: number, name: string): RunnerError {
  const details = { status, ...(reason !== undefined && { platformCode: reason }) };
  const text = `the cluster cannot call function ${name}: ${reason ?? `status ${status}`}: ${message}`;
  if (status === 401 || status === 403) return new RunnerError('EXECUTOR_UNAUTHORIZED', text, { details });
  if (status === 404) return new RunnerError('EXECUTOR_NOT_FOUND', text, { details });
  if (status === 429) return new RunnerError('EXECUTOR_THROTTLED', text, { details });
  if (status === 504) return new RunnerError('EXECUTOR_TIMEOUT', text, { details });
  const isUnreached = /no endpoints available|connection refused|dial tcp/.test(message);
  return new RunnerError('EXECUTOR_UNAVAILABLE', text, { details, retry: isUnreached ? 'safe' : 'idempotent' });
}
