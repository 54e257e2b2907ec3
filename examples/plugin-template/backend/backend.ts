/** Instances of the function runtime on Acme. Knows nothing of calls, readiness or warmth: that is the pool's, the same for all backends. */

import { statSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RunnerError, nodeClientSource } from '../../../src/plugin.ts';
import type { FunctionVersion, Instance, InstanceBackend, LaunchSpec } from '../../../src/plugin.ts';
import { AcmeClient } from './client.ts';
import type { AcmeOptions } from './options.ts';

const RUNTIMES = new Set(['nodejs20.x', 'nodejs22.x', 'nodejs24.x']);
/** Of the memory of an instance, what the heap may take. */
const HEAP_SHARE = 0.75;

export class AcmeBackend implements InstanceBackend {
  readonly name = 'acme';
  readonly #client = new AcmeClient();
  readonly #node: string;
  #runtimeClient: Promise<string> | undefined;
  #isClosed = false;

  /** Does no I/O. */
  constructor({ node = process.execPath }: AcmeOptions = {}) {
    this.#node = node;
  }

  async launch(spec: LaunchSpec): Promise<Instance> {
    const { fn, instanceId, ownerId, runtimeApi, signal, onOutput } = spec;
    const startedAt = performance.now();
    if (this.#isClosed) throw new RunnerError('BACKEND_UNAVAILABLE', 'the backend acme is closed');
    const folder = folderOf(fn);
    const [runtimeClient, port] = await Promise.all([this.#writeClient(), runtimeApi.openPort()]);
    if (signal.aborted) throw new RunnerError('ABORTED', `the launch of ${instanceId} was given up`, { cause: signal.reason });
    const heap = `--max-old-space-size=${Math.max(16, Math.floor(fn.memoryMb * HEAP_SHARE))}`;
    const createMs = performance.now() - startedAt;
    try {
      const { id, ended } = await this.#client.start({
        id: instanceId,
        owner: ownerId,
        command: [this.#node, heap, runtimeClient, 'run'],
        environment: { ...spec.environment, LAMBDA_TASK_ROOT: folder, AWS_LAMBDA_RUNTIME_API: `127.0.0.1:${port}` },
        folder,
        onOutput,
      });
      if (signal.aborted) await this.#client.stop(id);
      if (signal.aborted) throw new RunnerError('ABORTED', `the launch of ${instanceId} was given up`, { cause: signal.reason });
      return { id, handle: { kind: 'acme', id }, ended, createMs };
    } catch (cause) {
      if (signal.aborted) throw cause;
      throw new RunnerError('INSTANCE_START_FAILED', `${this.#node} cannot be started: ${String(cause)}`, { cause });
    }
  }

  terminate({ id }: Instance): Promise<void> {
    return this.#client.stop(id);
  }

  async reapStale(ownerId: string): Promise<number> {
    const ids = await this.#client.list(ownerId);
    await Promise.all(ids.map((id) => this.#client.stop(id)));
    return ids.length;
  }

  async unavailable(): Promise<string | undefined> {
    const found = statSync(this.#node, { throwIfNoEntry: false });
    return found?.isFile() ? undefined : `there is no node at ${this.#node}: set the option node`;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const file = await this.#runtimeClient;
    this.#runtimeClient = undefined;
    if (file !== undefined) await rm(join(file, '..'), { recursive: true, force: true });
  }

  /** The runtime client that works through the calls, once for all instances. An image of the platform would bring it along. */
  #writeClient(): Promise<string> {
    this.#runtimeClient ??= mkdtemp(join(tmpdir(), 'acme-')).then(async (folder) => {
      const file = join(folder, 'client.cjs');
      await writeFile(file, nodeClientSource());
      return file;
    });
    return this.#runtimeClient;
  }
}

/** Throws `CODE_MISSING` and `RUNTIME_UNSUPPORTED`. */
function folderOf({ name, code, runtime }: FunctionVersion): string {
  if (code.kind !== 'folder') throw new RunnerError('RUNTIME_UNSUPPORTED', `function ${name} is an image; the backend acme runs packages`);
  if (!statSync(code.path, { throwIfNoEntry: false })?.isDirectory())
    throw new RunnerError('CODE_MISSING', `the code of function ${name} is not at ${code.path}: deploy it again`);
  if (RUNTIMES.has(runtime)) return code.path;
  throw new RunnerError('RUNTIME_UNSUPPORTED', `the backend acme cannot run ${runtime}; it runs ${[...RUNTIMES].join(', ')}`);
}
