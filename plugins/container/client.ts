/**
 * A container engine that speaks the API of Docker: Docker itself, or podman. The only file that touches dockerode.
 *
 * Answers 404 and 409 to an operation that makes something go away mean that it is gone; answers 5xx to one that can be repeated are
 * tried again.
 */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { Duplex } from 'node:stream';
import type Docker from 'dockerode';
import { RunnerError, importPeer, toRunnerError } from '../../src/plugin.ts';
import type { Clock } from '../../src/plugin.ts';
import { engineAddresses } from './engines.ts';
import { LogLines } from './log-lines.ts';
import type { EngineAddress, Surroundings } from './engines.ts';

/** What it creates a container from. A type of ours in declarations: nobody needs dockerode to compile against them. */
export type ContainerOptions = object;

export interface EngineInfo {
  readonly kind: 'docker' | 'podman';
  readonly version: string;
  readonly address: string;
  readonly cpus: number;
  /** It runs without root: user 0 inside is the unprivileged user outside. */
  readonly rootless: boolean;
  /** Names of runtimes that containers may be started with. */
  readonly runtimes: readonly string[];
}

export interface ImageInfo {
  readonly id: string;
  readonly entryPoint: readonly string[];
  readonly command: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}

export interface ContainerState {
  readonly running: boolean;
  readonly pid: number;
  readonly exitCode: number;
  readonly oomKilled: boolean;
  readonly error: string;
}

export interface NamedContainer {
  readonly id: string;
  readonly running: boolean;
  /** How often the engine started it again. */
  readonly restarts: number;
  readonly labels: Readonly<Record<string, string>>;
}

export interface EngineOptions extends Surroundings {
  readonly clock: Clock;
  /** As `DOCKER_HOST`; it alone is tried. */
  readonly host?: string | undefined;
}

const PING_MS = 10_000;
const TRIES = 4;
const FIRST_PAUSE_MS = 50;
const REMOVAL_MS = 10_000;

export class Engine {
  readonly info: EngineInfo;
  readonly #docker: Docker;
  readonly #clock: Clock;

  private constructor(docker: Docker, info: EngineInfo, clock: Clock) {
    this.#docker = docker;
    this.info = info;
    this.#clock = clock;
  }

  /** Connects to the first engine that answers. Rejects with `BACKEND_UNAVAILABLE`, `PEER_MISSING`. */
  static async connect(options: EngineOptions): Promise<Engine> {
    const environment = options.host === undefined ? options.environment : { ...options.environment, DOCKER_HOST: options.host };
    const addresses = engineAddresses({ ...options, environment });
    if (!addresses) {
      const named = environment['DOCKER_HOST'] || environment['CONTAINER_HOST'];
      throw unavailable(`the address ${named} is not supported; set DOCKER_HOST to unix://, npipe:// or tcp://`, undefined);
    }
    const { default: DockerClient } = await importPeer('container', 'dockerode', () => import('dockerode'));
    const failures: string[] = [];
    for (const address of addresses) {
      const { connection } = address;
      const isLocal = 'socketPath' in connection && options.platform !== 'win32';
      if (isLocal && addresses.length > 1 && !existsSync(connection.socketPath)) continue;
      try {
        const info = await describe(new DockerClient({ ...connectionOptions(address), timeout: PING_MS }), address);
        return new Engine(new DockerClient(connectionOptions(address)), info, options.clock);
      } catch (error) {
        failures.push(`${address.text}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    const tried = failures.length > 0 ? failures.join('; ') : `nothing at ${addresses.map(({ text }) => text).join(', ')}`;
    throw unavailable(
      `no container engine answers (${tried}). Start Docker or podman, let this user use its socket, or set DOCKER_HOST to where it listens`,
      tried,
    );
  }

  async create(options: ContainerOptions): Promise<string> {
    const { id } = await this.#docker.createContainer(options);
    return id;
  }

  async start(id: string): Promise<void> {
    await this.#docker.getContainer(id).start();
  }

  /** The multiplexed output from now on; what is written to it goes to the stdin of a container that has one. */
  async attach(id: string, stdin: boolean): Promise<Duplex> {
    const stream = await this.#docker.getContainer(id).attach({ stream: true, stdout: true, stderr: true, stdin, hijack: true });
    // dockerode types it by the smallest interface; over a hijacked connection it is a socket.
    return stream as Duplex;
  }

  /** Resolves with how it ended; undefined when nobody knows any more. Survives a restart of the engine, until the signal fires. */
  async ended(id: string, signal?: AbortSignal): Promise<Pick<ContainerState, 'exitCode' | 'oomKilled'> | undefined> {
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, 5_000)) {
      try {
        const { StatusCode: exitCode } = (await this.#docker.getContainer(id).wait()) as { StatusCode: number };
        const state = await this.inspect(id);
        return { exitCode, oomKilled: state?.oomKilled ?? false };
      } catch (error) {
        if (statusOf(error) === 404) return undefined;
        await this.#clock.sleep(pauseMs, signal);
      }
    }
  }

  async inspect(id: string): Promise<ContainerState | undefined> {
    try {
      const { State: state } = await this.#docker.getContainer(id).inspect();
      return { running: state.Running, pid: state.Pid, exitCode: state.ExitCode, oomKilled: state.OOMKilled, error: state.Error };
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw error;
    }
  }

  /** Kills and removes it with all it started. Resolves when it is gone, whoever removes it. */
  async remove(id: string): Promise<void> {
    for (let pauseMs = FIRST_PAUSE_MS, tries = 1; ; pauseMs *= 2, tries += 1) {
      try {
        await this.#docker.getContainer(id).remove({ force: true, v: true });
        return;
      } catch (error) {
        const status = statusOf(error);
        if (status === 404) return;
        if (status === 409) return await this.#removed(id);
        if (status === undefined || status < 500 || tries === TRIES) throw error;
        await this.#clock.sleep(pauseMs);
      }
    }
  }

  /** While somebody else removes it. */
  async #removed(id: string): Promise<void> {
    const late = new AbortController();
    const waited = this.#docker.getContainer(id).wait({ condition: 'removed' });
    const timeout = this.#clock.sleep(REMOVAL_MS, late.signal);
    try {
      await Promise.race([waited, timeout]);
    } catch (error) {
      if (statusOf(error) !== 404) throw error;
    } finally {
      late.abort();
      await timeout.catch(() => {});
    }
  }

  async named(name: string): Promise<NamedContainer | undefined> {
    try {
      const { Id: id, State: state, Config: config, RestartCount: restarts } = await this.#docker.getContainer(name).inspect();
      return { id, running: state.Running, restarts, labels: config.Labels };
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw error;
    }
  }

  /** SIGTERM, and SIGKILL after so many seconds. One that has ended already is fine. */
  async stop(id: string, seconds: number): Promise<void> {
    try {
      await this.#docker.getContainer(id).stop({ t: seconds });
    } catch (error) {
      if (statusOf(error) !== 304 && statusOf(error) !== 404) throw error;
    }
  }

  /** Lines that it wrote and the engine kept, each with its time before it. */
  async output(id: string): Promise<string[]> {
    const written = await this.#docker.getContainer(id).logs({ stdout: true, stderr: true, timestamps: true, follow: false });
    return new LogLines().add(written);
  }

  /** Lines that it writes from this second of the epoch on, until the signal fires or it ends. */
  async *outputFrom(id: string, since: number, signal: AbortSignal | undefined): AsyncGenerator<string> {
    const options = { stdout: true, stderr: true, timestamps: true, follow: true, since } as const;
    const stream = Readable.from(await this.#docker.getContainer(id).logs(options));
    const onAbort = (): void => void stream.destroy();
    signal?.addEventListener('abort', onAbort, { once: true });
    const lines = new LogLines();
    try {
      for await (const chunk of stream as AsyncIterable<Buffer>) yield* lines.add(chunk);
    } catch (error) {
      if (!signal?.aborted) throw error;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Runs a program beside the one of a container; whether it ended with 0. */
  async succeeds(id: string, command: readonly string[]): Promise<boolean> {
    try {
      const exec = await this.#docker.getContainer(id).exec({ Cmd: [...command], AttachStdout: true, AttachStderr: true });
      for await (const _ of Readable.from(await exec.start({}))) {
        // Its end is what counts.
      }
      return (await exec.inspect()).ExitCode === 0;
    } catch (error) {
      // It ended meanwhile.
      if (statusOf(error) === 404 || statusOf(error) === 409) return false;
      throw error;
    }
  }

  async pause(id: string): Promise<void> {
    await this.#docker.getContainer(id).pause();
  }

  async resume(id: string): Promise<void> {
    await this.#docker.getContainer(id).unpause();
  }

  /** Of all containers, running or not, that carry the label, with this value when it is given. */
  async list(label: string, value?: string): Promise<{ readonly id: string; readonly labels: Readonly<Record<string, string>> }[]> {
    const wanted = value === undefined ? label : `${label}=${value}`;
    const found = await this.#docker.listContainers({ all: true, filters: { label: [wanted] } });
    return found.map(({ Id: id, Labels: labels }) => ({ id, labels }));
  }

  /** What the engine says; slow on Docker. */
  async memoryBytes(id: string): Promise<number | undefined> {
    const stats = await this.#docker.getContainer(id).stats({ stream: false, 'one-shot': true });
    return stats.memory_stats?.usage;
  }

  async image(reference: string): Promise<ImageInfo | undefined> {
    try {
      const { Id: id, Config: config } = await this.#docker.getImage(reference).inspect();
      const entryPoint = config.Entrypoint ?? [];
      return {
        id,
        entryPoint: typeof entryPoint === 'string' ? [entryPoint] : entryPoint,
        command: config.Cmd ?? [],
        labels: config.Labels ?? {},
      };
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw error;
    }
  }

  async imageWith(label: string, value: string): Promise<string | undefined> {
    const found = await this.#docker.listImages({ filters: { label: [`${label}=${value}`] } });
    return found[0]?.Id;
  }

  async tag(reference: string, repository: string, tag: string): Promise<void> {
    await this.#docker.getImage(reference).tag({ repo: repository, tag });
  }

  /** Rejects with the message of the registry. */
  async pull(reference: string, signal: AbortSignal): Promise<void> {
    const stream = await this.#docker.pull(reference, { abortSignal: signal });
    await this.#follow(Readable.from(stream), signal);
  }

  /** Makes an image of a tar. */
  async importImage(
    tar: AsyncIterable<Uint8Array>,
    options: { repository: string; tag: string; changes: readonly string[] },
  ): Promise<void> {
    const { repository, tag, changes } = options;
    const stream = await this.#docker.importImage(Readable.from(tar), { repo: repository, tag, changes: [...changes] });
    await this.#follow(Readable.from(stream), undefined);
  }

  /** Reads the progress of a long operation to its end; a failure is one of its lines. */
  async #follow(progress: Readable, signal: AbortSignal | undefined): Promise<void> {
    let text = '';
    const onAbort = (): void => void progress.destroy(toRunnerError(signal?.reason, 'ABORTED'));
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      for await (const chunk of progress as AsyncIterable<Buffer>) {
        text += chunk.toString('utf8');
        const lines = text.split('\n');
        text = lines.pop() ?? '';
        for (const line of lines) throwFailure(line);
      }
      throwFailure(text);
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }
}

function unavailable(message: string, tried: string | undefined): RunnerError {
  return new RunnerError('BACKEND_UNAVAILABLE', message, { details: { tried } });
}

function connectionOptions({ connection }: EngineAddress): Docker.DockerOptions {
  if ('socketPath' in connection) return { socketPath: connection.socketPath };
  const { protocol, host, port, certificates } = connection;
  if (certificates === undefined) return { protocol, host, port };
  const read = (name: string): Buffer => readFileSync(join(certificates, name));
  return { protocol, host, port, ca: read('ca.pem'), cert: read('cert.pem'), key: read('key.pem') };
}

async function describe(docker: Docker, address: EngineAddress): Promise<EngineInfo> {
  // The types of dockerode leave fields out that every engine since API 1.35 sends.
  await docker.ping();
  const version = (await docker.version()) as { Version?: string; Components?: readonly { Name?: string }[] };
  const info = (await docker.info()) as { NCPU?: number; SecurityOptions?: readonly string[]; Runtimes?: Record<string, unknown> };
  const isPodman = version.Components?.some(({ Name: name = '' }) => /podman/i.test(name)) ?? false;
  return {
    kind: isPodman ? 'podman' : 'docker',
    version: version.Version ?? 'unknown',
    address: address.text,
    cpus: info.NCPU ?? 1,
    rootless: info.SecurityOptions?.some((option) => option.includes('rootless')) ?? false,
    runtimes: Object.keys(info.Runtimes ?? {}),
  };
}

/** Of an answer that is an error; undefined when there was no answer. */
export function statusOf(error: unknown): number | undefined {
  const status = typeof error === 'object' && error !== null && 'statusCode' in error ? error.statusCode : undefined;
  return typeof status === 'number' ? status : undefined;
}

function throwFailure(line: string): void {
  if (line.trim() === '') return;
  const parsed: unknown = JSON.parse(line);
  if (typeof parsed === 'object' && parsed !== null && 'error' in parsed) throw new Error(String(parsed.error));
}
