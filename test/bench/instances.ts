/** What benchmarks of backends start: one light function, the runtime client, and a Runtime API of its own for each start. */

import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nodeClientSource } from '../../src/plugin.ts';
import type { FunctionVersion, LaunchSpec } from '../../src/plugin.ts';
import { startLambdaRuntimeApi } from '../../src/testing/lambda-runtime-api.ts';
import type { LambdaRuntimeApi } from '../../src/testing/lambda-runtime-api.ts';

export interface Trial {
  readonly api: LambdaRuntimeApi;
  readonly socketPath: string;
  readonly spec: LaunchSpec;
}

export interface LightFunctionOptions {
  /** Of the package, by name. */
  readonly files: Readonly<Record<string, string>>;
  readonly settings: Pick<FunctionVersion, 'memoryMb' | 'timeoutMs'>;
  /** What its instances see. */
  readonly environment: Readonly<Record<string, string>>;
}

export class LightFunction {
  /** Everything of the benchmark is below. */
  readonly root = mkdtempSync(join(tmpdir(), 'bpr-bench-'));
  readonly code = join(this.root, 'code');
  readonly client = join(this.root, 'client.cjs');
  readonly version: FunctionVersion;
  readonly #environment: Readonly<Record<string, string>>;
  #count = 0;

  constructor({ files, settings, environment }: LightFunctionOptions) {
    this.#environment = environment;
    chmodSync(this.root, 0o711);
    mkdirSync(this.code, { mode: 0o755 });
    for (const [name, text] of Object.entries(files)) writeFileSync(join(this.code, name), text);
    writeFileSync(this.client, nodeClientSource());
    this.version = {
      name: 'light',
      version: '1',
      fingerprint: 'light',
      code: { kind: 'folder', path: this.code, sha256: 'light' },
      layers: [],
      runtime: `nodejs${process.versions.node.split('.')[0]}.x`,
      handler: 'index.handler',
      ephemeralMb: 64,
      environment: {},
      concurrencyPerInstance: 1,
      network: 'none',
      ...settings,
    };
  }

  /** For one start, of a backend by `spec` or of something else that may use the socket. */
  async trial(): Promise<Trial> {
    this.#count += 1;
    const folder = join(this.root, `api-${this.#count}`);
    mkdirSync(folder, { mode: 0o700 });
    const socketPath = join(folder, 'api.sock');
    const api = await startLambdaRuntimeApi({ socketPath });
    chmodSync(socketPath, 0o666);
    const spec: LaunchSpec = {
      instanceId: `bench-${process.pid}-${this.#count}`,
      ownerId: 'bench',
      fn: this.version,
      runtimeApi: { socketPath, listen: () => Promise.resolve(), openPort: () => Promise.reject(new Error('there is no port')) },
      environment: this.#environment,
      onOutput: (_stream, chunk) => void process.stderr.write(chunk),
      signal: new AbortController().signal,
    };
    return { api, socketPath, spec };
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}
