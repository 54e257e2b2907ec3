/** Instances as pods: each is made, reports to this process, and is removed with its Secret. */

import { randomBytes } from 'node:crypto';
import { constants, networkInterfaces } from 'node:os';
import { isIPv6 } from 'node:net';
import { RunnerError, isRunnerError, toRunnerError } from '../../src/plugin.ts';
import type { FunctionVersion, Instance, InstanceBackend, InstanceEnd, LaunchSpec } from '../../src/plugin.ts';
import { Cluster } from './client.ts';
import type { Manifest } from './client.ts';
import type { Surroundings } from './deployer.ts';
import { instancePackage } from './instance-code.ts';
import { CIPHER, InstanceHub } from './instance-hub.ts';
import type { AgentEnd } from './instance-hub.ts';
import {
  BOOT_LABEL,
  commandOf,
  instanceCodeMaps,
  instanceName,
  instancePod,
  instanceSecret,
  networkPolicies,
  ownerSelector,
} from './instance-manifests.ts';
import type { InstanceCode, Origin } from './instance-manifests.ts';
import type { KubernetesBackendOptions } from './options.ts';
import { podEnd, podTrouble } from './rollout.ts';

const START_MS = 120_000;
const POLL_MS_MIN = 100;
const POLL_MS_MAX = 1_000;
/** A pod whose node is gone is given up after this. */
const END_MS = 60_000;
const PROBE_MS = 5_000;
const KEY_BYTES = 32;
const KINDS = ['Pod', 'Secret', 'ConfigMap', 'NetworkPolicy'] as const;

interface Live {
  readonly name: string;
  readonly instance: Instance;
  isTerminated: boolean;
  removing?: Promise<void>;
}

/** What is heard of an instance. */
interface Link {
  readonly started: Promise<void>;
  readonly ended: Promise<InstanceEnd>;
}

/**
 * Each instance is one pod: code and layers unpacked by an init container and then read-only, /tmp in memory, a read-only root, no capabilities,
 * no account of the cluster, nobody who may connect to it. What it says goes over one port of this process, encrypted with a key of its own. When
 * this process dies its pods end by themselves, and `reapStale` removes what is left of them.
 *
 * @example
 * const backend = new KubernetesBackend({ namespace: 'functions', address: '10.0.0.7' }, { clock: systemClock });
 */
export class KubernetesBackend implements InstanceBackend {
  readonly name = 'kubernetes';
  readonly #options: KubernetesBackendOptions;
  readonly #environment: NodeJS.ProcessEnv;
  readonly #cluster: Cluster;
  readonly #hub: InstanceHub;
  /** Tells what this process made from what an earlier one of the same owner did. */
  readonly #bootId = randomBytes(5).toString('hex');
  readonly #live = new Map<string, Live>();
  readonly #busy = new Set<Promise<unknown>>();
  /** By owner and content. */
  readonly #codes = new Map<string, Promise<InstanceCode>>();
  readonly #policies = new Map<string, Promise<void>>();
  /** What instances share, by name. */
  readonly #shared = new Map<string, 'ConfigMap' | 'NetworkPolicy'>();
  #isClosed = false;

  /** Does no I/O. */
  constructor(options: KubernetesBackendOptions, { clock, environment = process.env }: Surroundings) {
    this.#options = options;
    this.#environment = environment;
    this.#cluster = new Cluster(options, { clock, environment });
    this.#hub = new InstanceHub(clock);
  }

  async unavailable(): Promise<string | undefined> {
    const stop = new AbortController();
    const cancel = this.#cluster.clock.after(PROBE_MS, () => stop.abort());
    try {
      await this.#cluster.list('Pod', { selector: `${BOOT_LABEL}=${this.#bootId}`, signal: stop.signal }).next();
      return undefined;
    } catch (error) {
      return stop.signal.aborted ? `the cluster does not answer within ${PROBE_MS} ms` : toRunnerError(error).message;
    } finally {
      cancel();
    }
  }

  async launch(spec: LaunchSpec): Promise<Instance> {
    if (this.#isClosed) throw new RunnerError('BACKEND_UNAVAILABLE', 'the backend kubernetes is closed; make a new one');
    throwIfAborted(spec);
    return this.#track(this.#launch(spec));
  }

  async terminate({ id }: Instance): Promise<void> {
    const live = this.#live.get(id);
    if (!live) return;
    live.isTerminated = true;
    const removing = (live.removing ??= this.#track(this.#remove(live.name)));
    await removing.catch((error: unknown) => {
      // The next one tries again.
      if (live.removing === removing) delete live.removing;
      throw error;
    });
    this.#hub.forget(id);
    await live.instance.ended;
  }

  async reapStale(ownerId: string): Promise<number> {
    let count = 0;
    for (const kind of KINDS)
      for (const { metadata } of await this.#found(kind, ownerId)) {
        if (metadata.labels?.[BOOT_LABEL] === this.#bootId) continue;
        if (kind === 'Pod') await this.#remove(metadata.name);
        else await this.#cluster.delete(kind, metadata.name, { uid: metadata.uid });
        if (kind === 'Pod') count += 1;
      }
    return count;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.allSettled(this.#busy);
    await Promise.allSettled([...this.#live.values()].map(({ instance }) => this.terminate(instance)));
    await Promise.allSettled(this.#busy);
    for (const [name, kind] of this.#shared) await this.#cluster.delete(kind, name).catch(() => {});
    await this.#hub.close();
    await this.#cluster.close();
  }

  #track<Value>(work: Promise<Value>): Promise<Value> {
    const settled: Promise<unknown> = work.then(
      () => this.#busy.delete(settled),
      () => this.#busy.delete(settled),
    );
    this.#busy.add(settled);
    return work;
  }

  async #launch(spec: LaunchSpec): Promise<Instance> {
    const { clock } = this.#cluster;
    const startedAt = clock.monotonic();
    const { instanceId: id } = spec;
    const name = instanceName(spec);
    const key = randomBytes(KEY_BYTES);
    const link = this.#expect(spec, name, key);
    const { ended } = link;
    try {
      await this.#make(spec, name, key);
      await this.#untilStarted(spec, name, link);
      const instance: Instance = { id, handle: { kind: 'pod', pod: name }, ended, createMs: clock.monotonic() - startedAt };
      this.#live.set(id, { name, instance, isTerminated: false });
      void ended.then(() => this.#forget(id));
      return instance;
    } catch (error) {
      this.#hub.forget(id);
      // Somebody may have removed what instances share: the next start brings it again.
      this.#codes.clear();
      this.#policies.clear();
      await this.#remove(name).catch(() => {});
      throw startError(error, spec);
    }
  }

  /** The Secret and the pod of it. */
  async #make(spec: LaunchSpec, name: string, key: Buffer): Promise<void> {
    const { instanceId: id, fn, runtimeApi, signal, environment } = spec;
    const command = commandOf(fn);
    if (!command)
      throw new RunnerError(
        'RUNTIME_UNSUPPORTED',
        `the backend kubernetes cannot run ${fn.runtime}; it runs nodejs20.x, nodejs22.x, nodejs24.x, and provided.* and python3.* whose package brings an executable bootstrap`,
        { details: { runtime: fn.runtime } },
      );
    const origin: Origin = { ownerId: spec.ownerId, bootId: this.#bootId, namespace: await this.#cluster.namespace() };
    const address = await this.#address();
    const [code] = await Promise.all([this.#code(origin, fn), this.#policy(origin, address), runtimeApi.listen()]);
    throwIfAborted(spec);
    const content = { ...address, identity: id, key: key.toString('base64'), cipher: CIPHER, command, folder: '/var/task', environment };
    const secret = await this.#cluster.create(instanceSecret(origin, name, content), { signal });
    await this.#cluster.create(instancePod({ origin, spec, code, options: this.#options }, secret), { signal });
  }

  #expect({ instanceId: id, runtimeApi: { socketPath }, onOutput }: LaunchSpec, name: string, key: Buffer): Link {
    const started = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<InstanceEnd>();
    started.promise.catch(() => {});
    let said: AgentEnd | undefined;
    this.#hub.expect(id, {
      key,
      socketPath,
      started: started.resolve,
      output: onOutput,
      ended: (end) => (said = end),
      lost: () => void this.#ended(id, name, said).then(ended.resolve),
    });
    return { started: started.promise, ended: ended.promise };
  }

  async #untilStarted(spec: LaunchSpec, name: string, { started, ended }: Link): Promise<void> {
    const { clock } = this.#cluster;
    const { startTimeoutMs = START_MS } = this.#options;
    const stop = new AbortController();
    const onAbort = (): void => stop.abort(new RunnerError('ABORTED', `the start of ${spec.instanceId} was given up`));
    spec.signal.addEventListener('abort', onAbort, { once: true });
    if (spec.signal.aborted) onAbort();
    const aborted = new Promise<never>((_, reject) => {
      stop.signal.addEventListener('abort', () => reject(stop.signal.reason as RunnerError), { once: true });
    });
    aborted.catch(() => {});
    const watch = async (): Promise<never> => {
      const until = clock.monotonic() + startTimeoutMs;
      for (let pollMs = POLL_MS_MIN; ; pollMs = Math.min(POLL_MS_MAX, pollMs * 1.5)) {
        await clock.sleep(pollMs, stop.signal);
        const pod = await this.#cluster.get('Pod', name, stop.signal);
        const trouble = pod ? await podTrouble(this.#cluster, pod, stop.signal) : undefined;
        const isOver = pod === undefined || podEnd(pod) !== undefined || trouble?.isHopeless === true;
        const isLate = clock.monotonic() > until;
        if (!isOver && !isLate) continue;
        const why = trouble?.text ?? (pod ? 'its pod ended before its program was started' : 'its pod was deleted');
        throw new RunnerError(
          'INSTANCE_START_FAILED',
          `${spec.instanceId} did not start${isOver ? '' : ` within ${startTimeoutMs} ms`}: ${why}`,
        );
      }
    };
    const watching = watch();
    watching.catch(() => {});
    try {
      // One that is quick has started and ended.
      await Promise.race([started, ended, aborted, watching]);
      throwIfAborted(spec);
    } finally {
      spec.signal.removeEventListener('abort', onAbort);
      stop.abort();
    }
  }

  /** What its agent said, else what its pod says. */
  async #ended(id: string, name: string, said: AgentEnd | undefined): Promise<InstanceEnd> {
    const live = this.#live.get(id);
    if (live?.isTerminated) return { reason: 'terminated' };
    if (said) {
      const { code, signal, outOfMemory } = said;
      if (outOfMemory) return { reason: 'out-of-memory', ...(signal !== null && { signal }) };
      if (signal !== null) return { reason: 'signalled', signal };
      return { reason: 'exited', exitCode: code ?? 1 };
    }
    const { clock } = this.#cluster;
    const until = clock.monotonic() + END_MS;
    while (clock.monotonic() < until && !this.#isClosed) {
      const pod = await this.#cluster.get('Pod', name).catch(() => null);
      if (pod === undefined || live?.isTerminated) return { reason: 'terminated' };
      const end = pod && podEnd(pod);
      if (end?.reason === 'OOMKilled') return { reason: 'out-of-memory', exitCode: end.exitCode };
      if (end) return signalOf(end.exitCode);
      await clock.sleep(POLL_MS_MIN);
    }
    await this.#remove(name).catch(() => {});
    return { reason: 'terminated' };
  }

  /** What cannot be removed now is found by its labels later. */
  #forget(id: string): void {
    const live = this.#live.get(id);
    this.#live.delete(id);
    this.#hub.forget(id);
    if (live && !live.removing) void this.#track(this.#remove(live.name)).catch(() => {});
  }

  /** Resolves when its pod is gone. */
  async #remove(name: string): Promise<void> {
    const { clock } = this.#cluster;
    await Promise.all([this.#cluster.delete('Pod', name), this.#cluster.delete('Secret', name)]);
    const until = clock.monotonic() + END_MS;
    for (let pollMs = POLL_MS_MIN / 4; await this.#cluster.get('Pod', name); pollMs = Math.min(POLL_MS_MAX, pollMs * 2)) {
      if (clock.monotonic() > until) throw new RunnerError('BACKEND_UNAVAILABLE', `the pod ${name} does not end within ${END_MS} ms`);
      await clock.sleep(pollMs);
    }
  }

  /** In the cluster once for all instances of the version. */
  #code(origin: Origin, fn: FunctionVersion): Promise<InstanceCode> {
    const path = fn.code.kind === 'folder' ? fn.code.path : fn.code.uri;
    const key = JSON.stringify([origin.ownerId, path, fn.layers.map(({ sha256 }) => sha256)]);
    const known = this.#codes.get(key);
    if (known) return known;
    const made = this.#bring(origin, fn);
    this.#codes.set(key, made);
    made.catch(() => this.#codes.delete(key));
    return made;
  }

  async #bring(origin: Origin, fn: FunctionVersion): Promise<InstanceCode> {
    const { zip, sha256 } = await instancePackage(fn);
    const maps = instanceCodeMaps(origin, zip, sha256);
    for (const map of maps) {
      this.#shared.set(map.metadata.name, 'ConfigMap');
      await this.#cluster.apply(map);
    }
    return { sha256, maps: maps.map(({ metadata }) => metadata.name), hasLayers: fn.layers.length > 0 };
  }

  #policy(origin: Origin, address: { readonly host: string; readonly port: number }): Promise<void> {
    const { ownerId } = origin;
    const known = this.#policies.get(ownerId);
    if (known) return known;
    const made = (async () => {
      for (const policy of networkPolicies(origin, address)) {
        this.#shared.set(policy.metadata.name, 'NetworkPolicy');
        await this.#cluster.apply(policy);
      }
    })();
    this.#policies.set(ownerId, made);
    made.catch(() => this.#policies.delete(ownerId));
    return made;
  }

  async #found(kind: (typeof KINDS)[number], ownerId: string): Promise<readonly Manifest[]> {
    const found: Manifest[] = [];
    for await (const each of this.#cluster.list(kind, { selector: ownerSelector(ownerId), metadataOnly: true })) found.push(each);
    return found;
  }

  async #address(): Promise<{ readonly host: string; readonly port: number }> {
    const { listen = '0.0.0.0:0', address = this.#environment['POD_IP'] ?? ownAddress() } = this.#options;
    const colon = listen.lastIndexOf(':');
    const bound = await this.#hub.open(listen.slice(0, colon), Number(listen.slice(colon + 1)));
    const [, host = address, port] = isIPv6(address) ? [] : (/^\[?(.+?)\]?(?::(\d+))?$/.exec(address) ?? []);
    return { host, port: port === undefined ? bound : Number(port) };
  }
}

function ownAddress(): string {
  const found = Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .find(({ internal, family }) => !internal && family === 'IPv4');
  if (found) return found.address;
  throw new RunnerError('BACKEND_UNAVAILABLE', 'this machine has no address that pods could reach: set the option address');
}

function throwIfAborted({ signal, instanceId }: LaunchSpec): void {
  if (signal.aborted) throw new RunnerError('ABORTED', `the start of ${instanceId} was given up`, { cause: signal.reason });
}

const SIGNAL_BASE = 128;

function signalOf(exitCode: number): InstanceEnd {
  const signal = Object.entries(constants.signals).find(([, number]) => number === exitCode - SIGNAL_BASE)?.[0];
  return signal === undefined ? { reason: 'exited', exitCode } : { reason: 'signalled', exitCode, signal };
}

/** As the contract of backends has them. */
function startError(error: unknown, spec: LaunchSpec): unknown {
  if (spec.signal.aborted) return new RunnerError('ABORTED', `the start of ${spec.instanceId} was given up`, { cause: error });
  if (!isRunnerError(error)) return error;
  const { code, message } = error;
  if (code === 'DEPLOY_FAILED') return new RunnerError('INSTANCE_START_FAILED', message, { cause: error, details: error.details });
  const isAway = ['PLATFORM_UNREACHABLE', 'PLATFORM_THROTTLED', 'CREDENTIALS_MISSING', 'EXECUTOR_UNAUTHORIZED', 'EXECUTOR_CLOSED'].includes(
    code,
  );
  return isAway ? new RunnerError('BACKEND_UNAVAILABLE', message, { cause: error }) : error;
}
