/** Instances of Cloud Run functions: the package under the real functions-framework. */

import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { unzipSync } from 'fflate';
import { reservedPort } from './reserved-port.ts';

const FRAMEWORK = join(import.meta.dirname, '../../node_modules/@google-cloud/functions-framework/build/src/main.js');

export interface InstanceSpec {
  readonly zip: Uint8Array;
  readonly entryPoint: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly onLine: (line: string, stream: 'stdout' | 'stderr') => void;
}

/** One process, started by the first call. */
export class FunctionInstance {
  readonly #spec: InstanceSpec;
  #starting: Promise<Started> | undefined;

  constructor(spec: InstanceSpec) {
    this.#spec = spec;
  }

  /** Passes a request on. */
  async forward(incoming: IncomingMessage, response: ServerResponse, path: string): Promise<void> {
    this.#starting ??= this.#start();
    const { port } = await this.#starting;
    const { host: _, authorization: __, ...headers } = incoming.headers;
    await new Promise<void>((resolve, reject) => {
      const outgoing = httpRequest({ host: '127.0.0.1', port, path, method: incoming.method, headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
        answer.once('end', resolve);
        answer.once('error', reject);
      });
      outgoing.once('error', reject);
      response.once('close', () => {
        outgoing.destroy();
        resolve();
      });
      incoming.pipe(outgoing);
    });
  }

  async close(): Promise<void> {
    const started = await this.#starting?.catch(() => undefined);
    await started?.close();
  }

  async #start(): Promise<Started> {
    const { zip, entryPoint, environment, onLine } = this.#spec;
    const directory = mkdtempSync(join(tmpdir(), 'gcp-function-'));
    for (const [name, data] of Object.entries(unzipSync(zip))) {
      mkdirSync(dirname(join(directory, name)), { recursive: true });
      writeFileSync(join(directory, name), data);
    }
    const port = await reservedPort();
    const env = { PATH: '/usr/bin:/bin', ...environment, PORT: String(port), FUNCTION_TARGET: entryPoint, FUNCTION_SIGNATURE_TYPE: 'http' };
    const args = [FRAMEWORK, `--source=${directory}`, `--target=${entryPoint}`, '--signature-type=http', `--port=${port}`];
    const child = spawn(process.execPath, args, { cwd: directory, env, stdio: ['ignore', 'pipe', 'pipe'] });
    const exit = new Promise<void>((resolve) => child.once('close', () => resolve()));
    const output: string[] = [];
    await new Promise<void>((resolve, reject) => {
      for (const stream of ['stdout', 'stderr'] as const)
        createInterface({ input: child[stream] }).on('line', (line) => {
          output.push(line);
          if (line.includes('URL: ')) resolve();
          onLine(line, stream);
        });
      void exit.then(() => reject(new Error(`the functions-framework ended: ${output.join('\n')}`)));
    });
    return {
      port,
      async close() {
        child.kill('SIGKILL');
        await exit;
        rmSync(directory, { recursive: true, force: true });
      },
    };
  }
}

interface Started {
  readonly port: number;
  close(): Promise<void>;
}
