/** A gateway as a process of its own, seen from outside: by HTTP as its clients see it, by /proc as the machine sees it. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { strToU8, zipSync } from 'fflate';
import { Agent } from 'undici';

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
const RUNTIME = `nodejs${process.versions.node.split('.')[0]}.x`;
const CONNECTIONS_MAX = 512;
/** Of the gateway: what it keeps for good has to fit, so that growth beyond it is what the collector has not looked at yet. */
const HEAP_MB = 128;
const START_MS_MAX = 60_000;
const STDERR_CHARS_MAX = 200_000;

export type Api = 'v1' | 'lambda';

export interface CallResult {
  readonly status: number;
  readonly body: string;
  readonly isCold: boolean;
  /** The code in our own API; the error type in the Lambda API. Undefined: the function answered. */
  readonly failure: string | undefined;
}

export interface InstanceRow {
  readonly id: string;
  readonly function: string;
  readonly state: string;
}

export interface Settings {
  readonly memory_mb?: number;
  readonly timeout_ms?: number;
  readonly ephemeral_mb?: number;
  readonly concurrency_per_instance?: number;
}

export interface GatewayOptions {
  readonly folder: string;
  readonly backend: string;
  /** Where to write what its processor does, when it ends. */
  readonly profile?: string;
  /** Requests per second of each caller. Default: that of the gateway. */
  readonly rate?: number;
  /** Default 128. `whole`: what it takes by itself, as in production. */
  readonly heap?: 'whole';
}

export class GatewayProcess {
  readonly url: string;
  readonly pid: number;
  readonly exit: Promise<unknown>;
  readonly #child: ChildProcess;
  readonly #agent = new Agent({ connections: CONNECTIONS_MAX, pipelining: 1, headersTimeout: 120_000, bodyTimeout: 120_000 });
  readonly #stderr: () => string;

  private constructor(child: ChildProcess, { url, stderr }: { readonly url: string; readonly stderr: () => string }) {
    this.#child = child;
    this.url = url;
    this.pid = child.pid ?? -1;
    this.exit = once(child, 'exit');
    this.#stderr = stderr;
  }

  /** Resolves when it listens. */
  static async start({ folder, backend, profile, rate, heap }: GatewayOptions): Promise<GatewayProcess> {
    const script = `import { main } from ${JSON.stringify(MAIN)}; process.exitCode = await main(process.argv.slice(1));`;
    const args = ['gateway', '--json', '--port', '0', '--backend', backend, '--data-dir', folder];
    if (rate !== undefined) args.push('--rate', String(rate));
    const flags = [
      ...(heap === 'whole' ? [] : [`--max-old-space-size=${HEAP_MB}`]),
      ...(profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profile}`]),
    ];
    const child = spawn(process.execPath, [...flags, '--input-type=module', '-e', script, '--', ...args], {
      env: { PATH: process.env['PATH'], HOME: folder, ...(process.env['DOCKER_HOST'] && { DOCKER_HOST: process.env['DOCKER_HOST'] }) },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => (stderr = (stderr + chunk.toString()).slice(-STDERR_CHARS_MAX)));
    const late = setTimeout(() => child.kill('SIGKILL'), START_MS_MAX);
    let stdout = '';
    for await (const line of createInterface({ input: child.stdout })) {
      const url = /"event":"listening","url":"([^"]+)"/.exec(line)?.[1];
      if (url !== undefined) {
        clearTimeout(late);
        child.stdout.resume();
        return new GatewayProcess(child, { url, stderr: () => stderr });
      }
      stdout += `${line}\n`;
    }
    clearTimeout(late);
    throw new Error(`the gateway does not listen:\n${stdout}${stderr}`);
  }

  get stderr(): string {
    return this.#stderr();
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    this.#child.kill(signal);
    if (this.#child.exitCode === null && this.#child.signalCode === null) await this.exit;
    await this.#agent.destroy();
  }

  async deploy(name: string, source: string, settings: Settings = {}): Promise<void> {
    const query = Object.entries(settings).map(([key, value]) => `&${key}=${value}`);
    const zip = zipSync({ 'index.mjs': strToU8(source) }, { mtime: '2026-01-01' });
    const path = `/api/v1/functions/${name}?runtime=${RUNTIME}&handler=index.handler${query.join('')}`;
    const { status, text } = await this.#send('PUT', path, zip);
    if (status >= 300) throw new Error(`${name} was not deployed: ${status} ${text}`);
  }

  /** The answer of the function, or how the API tells its failure. Rejects when there is no answer. */
  async call(name: string, event: unknown, api: Api = 'v1'): Promise<CallResult> {
    const path = api === 'v1' ? `/api/v1/functions/${name}/invoke` : `/2015-03-31/functions/${name}/invocations`;
    const { status, headers, text } = await this.#send('POST', path, JSON.stringify(event));
    return { status, body: text, isCold: headers['x-cold-start'] === 'true', failure: failureOf(api, { status, headers, text }) };
  }

  async instances(): Promise<InstanceRow[]> {
    return (await this.#json<{ instances: InstanceRow[] }>('/api/v1/instances')).instances;
  }

  async functions(): Promise<string[]> {
    return (await this.#json<{ functions: { name: string }[] }>('/api/v1/functions')).functions.map(({ name }) => name);
  }

  /** Resolves when so many instances are up. */
  async warm(name: string, count: number): Promise<void> {
    const { status, text } = await this.#send('POST', '/api/v1/instances/warm', JSON.stringify({ function: name, count }));
    if (status >= 300) throw new Error(`${name} was not warmed: ${status} ${text}`);
  }

  async remove(name: string): Promise<void> {
    const { status, text } = await this.#send('DELETE', `/api/v1/functions/${name}`);
    if (status >= 300) throw new Error(`${name} was not removed: ${status} ${text}`);
  }

  /** Of the memory that it has now, in MiB. */
  get residentMb(): number {
    const kb = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${this.pid}/status`, 'utf8'))?.[1];
    return Number(kb ?? 0) / 1_024;
  }

  get openFiles(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  async #json<T>(path: string): Promise<T> {
    const { status, text } = await this.#send('GET', path);
    if (status !== 200) throw new Error(`${path}: ${status} ${text}`);
    // Our own API, as its document says.
    return JSON.parse(text) as T;
  }

  async #send(method: 'GET' | 'PUT' | 'POST' | 'DELETE', path: string, body?: string | Uint8Array): Promise<Answer> {
    const {
      statusCode,
      headers,
      body: answer,
    } = await this.#agent.request({
      origin: this.url,
      method,
      path,
      ...(body !== undefined && { body, headers: { 'content-type': typeof body === 'string' ? 'application/json' : 'application/zip' } }),
    });
    return { status: statusCode, headers, text: await answer.text() };
  }
}

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly text: string;
}

function failureOf(api: Api, { status, headers, text }: Answer): string | undefined {
  const isFailure = api === 'v1' ? status !== 200 : status !== 200 || headers['x-amz-function-error'] !== undefined;
  if (!isFailure) return undefined;
  try {
    const body = JSON.parse(text) as { error?: { code?: string }; errorType?: string };
    return body.error?.code ?? body.errorType ?? String(status);
  } catch {
    return String(status);
  }
}

/** Processes that have this folder mounted, or in their command, environment or working directory: instances and all that they started. */
export function processesOf(folder: string, except: readonly number[]): number[] {
  const pids = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
  return pids.filter((pid) => pid !== process.pid && !except.includes(pid) && mentions(pid, folder));
}

/** A process and all that it started, directly or not. */
export function familyOf(pid: number): number[] {
  const family = [pid];
  for (const one of family) {
    for (const task of foldersOf(`/proc/${one}/task`)) {
      const children = textOf(`/proc/${one}/task/${task}/children`);
      family.push(...children.split(' ').filter(Boolean).map(Number));
    }
  }
  return family;
}

function foldersOf(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    // It has ended meanwhile.
    return [];
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function mentions(pid: number, folder: string): boolean {
  const read = (file: string): string => {
    try {
      return file === 'cwd' ? readlinkSync(`/proc/${pid}/cwd`) : readFileSync(`/proc/${pid}/${file}`, 'utf8');
    } catch {
      // It has ended meanwhile.
      return '';
    }
  };
  if (['cmdline', 'environ', 'cwd'].some((file) => read(file).includes(folder))) return true;
  // Mounts of the machine are to be seen by all that share its namespace.
  return mountsOf(pid) !== mountsOf(process.pid) && read('mountinfo').includes(folder);
}

function mountsOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/mnt`);
  } catch {
    return undefined;
  }
}

export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}
