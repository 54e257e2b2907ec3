/** Pods for tests: the containers of a pod as processes of this machine, with their volumes as folders. */

import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { reservedPort } from './reserved-port.ts';

export interface Volume {
  readonly name: string;
  readonly projected?: {
    readonly sources: readonly {
      readonly configMap: { readonly name: string; readonly items: readonly { readonly key: string; readonly path: string }[] };
    }[];
  };
  readonly configMap?: { readonly name: string };
  readonly secret?: { readonly secretName: string };
  readonly emptyDir?: object;
  readonly persistentVolumeClaim?: { readonly claimName: string };
}

export interface Container {
  readonly name: string;
  readonly image: string;
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  readonly env?: readonly {
    readonly name: string;
    readonly value?: string;
    readonly valueFrom?: { readonly secretKeyRef?: { readonly name: string; readonly key: string; readonly optional?: boolean } };
  }[];
  readonly ports?: readonly { readonly name?: string; readonly containerPort: number }[];
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string }[];
  readonly readinessProbe?: { readonly httpGet?: { readonly path: string }; readonly exec?: { readonly command: readonly string[] } };
}

export interface PodSpec {
  readonly containers: readonly Container[];
  readonly volumes?: readonly Volume[];
  readonly restartPolicy?: string;
}

/** Data of ConfigMaps and Secrets, as bytes by key; undefined when there is no such object. */
export type DataOf = (kind: 'ConfigMap' | 'Secret', name: string) => ReadonlyMap<string, Buffer> | undefined;

/** An image of this name is in no registry. */
const MISSING_IMAGE = /^missing\//;
const READY_MS = 30_000;

export class EmulatedPod {
  readonly name: string;
  readonly spec: PodSpec;
  readonly createdAt = new Date().toISOString();
  /** With the time, as the kubelet keeps them. */
  readonly lines: string[] = [];
  phase: 'Pending' | 'Running' | 'Succeeded' | 'Failed' = 'Pending';
  isReady = false;
  waiting: { readonly reason: string; readonly message?: string } | undefined = { reason: 'ContainerCreating' };
  exitCode: number | undefined;
  ended: Promise<void> = Promise.resolve();
  /** Calls that were sent here and are not answered. */
  readonly #calls = new Set<Promise<void>>();
  readonly #dataOf: DataOf;
  #starting: Promise<number> | undefined;
  #child: ChildProcess | undefined;
  #folder: string | undefined;
  #lastLineAt = 0n;

  constructor(name: string, spec: PodSpec, dataOf: DataOf) {
    this.name = name;
    this.spec = spec;
    this.#dataOf = dataOf;
  }

  /** Why it cannot start; undefined when it can. */
  obstacle(): { readonly reason: string; readonly message: string } | undefined {
    const [container] = this.spec.containers;
    if (!container || MISSING_IMAGE.test(container.image))
      return { reason: 'ImagePullBackOff', message: `Back-off pulling image ${JSON.stringify(container?.image)}` };
    for (const { valueFrom } of container.env ?? []) {
      const ref = valueFrom?.secretKeyRef;
      if (ref && ref.optional !== true && !this.#dataOf('Secret', ref.name)?.has(ref.key))
        return { reason: 'CreateContainerConfigError', message: `couldn't find key ${ref.key} in Secret ${ref.name}` };
    }
    const missing = mapsOf(this.spec).find((name) => !this.#dataOf('ConfigMap', name));
    return missing === undefined ? undefined : { reason: 'ContainerCreating', message: `configmap ${missing} not found` };
  }

  /** It counts as running; its process starts with the first call. */
  admit(): void {
    this.phase = 'Running';
    this.waiting = undefined;
    this.isReady = true;
  }

  /** Starts the process and waits for its probe. Resolves with the port. */
  start(): Promise<number> {
    this.#starting ??= this.#start();
    return this.#starting;
  }

  async #start(): Promise<number> {
    const [container] = this.spec.containers;
    if (!container) throw new Error('a pod without containers');
    const port = await reservedPort();
    const folder = mkdtempSync(join(tmpdir(), 'pod-'));
    this.#folder = folder;
    const places = this.#mount(container, folder);
    const local = (text: string): string => {
      const place = places.find(([from]) => text === from || text.startsWith(`${from}/`));
      return place ? place[1] + text.slice(place[0].length) : text;
    };
    const [, ...args] = [...(container.command ?? []), ...(container.args ?? [])].map(local);
    const child = spawn(process.execPath, args, {
      env: { ...this.#variables(container, local), TMPDIR: join(folder, 'tmp'), PORT: String(port), PATH: process.env['PATH'] },
      cwd: folder,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    this.phase = 'Running';
    this.waiting = undefined;
    for (const stream of [child.stdout, child.stderr]) this.#read(stream);
    this.ended = new Promise((resolve) => {
      child.once('close', (code) => {
        this.exitCode = code ?? 137;
        this.phase = this.exitCode === 0 ? 'Succeeded' : 'Failed';
        this.isReady = false;
        if (this.spec.restartPolicy !== 'Never')
          this.waiting = { reason: 'CrashLoopBackOff', message: 'back-off restarting failed container' };
        resolve();
      });
    });
    const probe = container.readinessProbe?.httpGet?.path;
    const command = container.readinessProbe?.exec?.command;
    if (probe !== undefined) await this.#untilReady(() => answers(`http://127.0.0.1:${port}${probe}`));
    if (command) await this.#untilReady(() => succeeds(command));
    this.isReady = this.exitCode === undefined;
    return port;
  }

  /** Until it is answered the pod is not told to end: that is what `preStop` is for in a cluster, where who sends calls learns of it later. */
  expect(call: Promise<void>): void {
    const over = call.then(
      () => void this.#calls.delete(over),
      () => void this.#calls.delete(over),
    );
    this.#calls.add(over);
  }

  /** SIGTERM, and by force when it takes too long. */
  async stop(graceMs = 10_000): Promise<void> {
    this.isReady = false;
    await this.#starting?.catch(() => {});
    await Promise.race([Promise.all(this.#calls), new Promise((resolve) => setTimeout(resolve, graceMs).unref())]);
    if (this.#child && this.exitCode === undefined) {
      this.#child.kill('SIGTERM');
      const timer = setTimeout(() => this.#child?.kill('SIGKILL'), graceMs);
      await this.ended;
      clearTimeout(timer);
    }
    if (this.#folder !== undefined) rmSync(this.#folder, { recursive: true, force: true });
  }

  status(): object {
    const state = this.waiting
      ? { waiting: this.waiting }
      : this.exitCode === undefined
        ? { running: { startedAt: this.createdAt } }
        : { terminated: { exitCode: this.exitCode, reason: this.exitCode === 0 ? 'Completed' : 'Error' } };
    return {
      phase: this.phase,
      startTime: this.createdAt,
      conditions: [{ type: 'Ready', status: this.isReady ? 'True' : 'False' }],
      containerStatuses: this.spec.containers.map(({ name, image }) => ({
        name,
        image,
        imageID: image,
        ready: this.isReady,
        restartCount: this.waiting && this.exitCode !== undefined ? 1 : 0,
        state,
        lastState: this.waiting && this.exitCode !== undefined ? { terminated: { exitCode: this.exitCode, reason: 'Error' } } : {},
      })),
    };
  }

  #mount(container: Container, folder: string): readonly (readonly [string, string])[] {
    return (container.volumeMounts ?? []).map(({ name, mountPath }) => {
      const place = join(folder, mountPath === '/tmp' ? 'tmp' : `volume-${name}`);
      mkdirSync(place, { recursive: true });
      const volume = this.spec.volumes?.find((each) => each.name === name);
      if (!volume) throw new Error(`there is no volume ${name}`);
      for (const source of volume.projected?.sources ?? [])
        for (const { key, path } of source.configMap.items)
          this.#write(join(place, path), this.#dataOf('ConfigMap', source.configMap.name)?.get(key));
      for (const [key, bytes] of this.#dataOf('ConfigMap', volume.configMap?.name ?? '') ?? []) this.#write(join(place, key), bytes);
      return [mountPath, place] as const;
    });
  }

  #write(file: string, bytes: Buffer | undefined): void {
    if (!bytes) throw new Error(`there is nothing for ${file}`);
    writeFileSync(file, bytes, { mode: 0o444 });
  }

  #variables(container: Container, local: (text: string) => string): Record<string, string> {
    return Object.fromEntries(
      (container.env ?? []).flatMap(({ name, value = '', valueFrom }) => {
        const ref = valueFrom?.secretKeyRef;
        if (!ref) return [[name, local(value)]];
        const secret = this.#dataOf('Secret', ref.name)?.get(ref.key)?.toString('utf8');
        return secret === undefined ? [] : [[name, secret]];
      }),
    );
  }

  #read(stream: NodeJS.ReadableStream | null): void {
    let rest = '';
    stream?.on('data', (chunk: Buffer) => {
      const lines = (rest + chunk.toString('utf8')).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.log(line);
    });
    stream?.on('end', () => {
      if (rest !== '') this.log(rest);
    });
  }

  log(line: string): void {
    const now = BigInt(Date.now()) * 1_000_000n;
    // No two lines have the same time.
    this.#lastLineAt = now > this.#lastLineAt ? now : this.#lastLineAt + 1n;
    const seconds = new Date(Number(this.#lastLineAt / 1_000_000n)).toISOString().slice(0, 19);
    this.lines.push(`${seconds}.${String(this.#lastLineAt % 1_000_000_000n).padStart(9, '0')}Z ${line}`);
  }

  async #untilReady(probe: () => Promise<boolean>): Promise<void> {
    const until = Date.now() + READY_MS;
    while (this.exitCode === undefined && Date.now() < until) {
      if (await probe()) return;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

function answers(url: string): Promise<boolean> {
  return fetch(url).then(
    ({ ok }) => ok,
    () => false,
  );
}

function succeeds([, ...args]: readonly string[]): Promise<boolean> {
  return new Promise((resolve) => void execFile(process.execPath, args, (error) => resolve(error === null)));
}

function mapsOf({ volumes = [] }: PodSpec): readonly string[] {
  return volumes.flatMap(({ projected, configMap }) => [
    ...(projected?.sources.map((source) => source.configMap.name) ?? []),
    ...(configMap ? [configMap.name] : []),
  ]);
}
