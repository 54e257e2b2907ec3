/**
 * Functions of a platform of the Custom FaaS Platform Specification v1.0. It says of a function what memory and time it has and, on
 * some platforms, the digest of its package; it never says the environment. So the package that is uploaded carries the digest of its
 * configuration as the comment of its zip: the digest of the whole then tells whether anything differs.
 */

import { createHash } from 'node:crypto';
import { RunnerError, isRunnerError, count, errorOf, failure, fieldsOf, text } from '../../src/plugin.ts';
import type {
  FunctionConfig,
  FunctionInvocation,
  FunctionPackage,
  FunctionState,
  HttpResponse,
  PlatformRequests,
  Step,
} from '../../src/plugin.ts';

export interface SpecifiedOptions {
  readonly requests: PlatformRequests;
  /** How a runner reaches a function. */
  readonly executor: (name: string) => FunctionState['executor'];
  readonly whenExists: 'replace' | 'refuse';
}

export interface SpecifiedFunction {
  readonly state: FunctionState;
  /** Of the zip with its comment. */
  readonly uploaded: string | undefined;
}

interface Wanted {
  readonly code: FunctionPackage;
  readonly config: FunctionConfig;
}

interface Upload {
  readonly zip: Uint8Array;
  readonly config: FunctionConfig;
  readonly signal: AbortSignal | undefined;
}

const END_BYTES = 22;

export class SpecifiedFunctions {
  readonly #options: SpecifiedOptions;

  constructor(options: SpecifiedOptions) {
    this.#options = options;
  }

  async find(name: string, signal: AbortSignal | undefined): Promise<SpecifiedFunction | undefined> {
    const response = await this.#options.requests.send({ method: 'GET', path: pathOf(name), signal });
    if (response.status === 404) return undefined;
    if (response.status >= 300) throw failure(`describe function ${name}`, response);
    return this.#parse(name, response);
  }

  plan(name: string, present: SpecifiedFunction | undefined, { code, config }: Wanted): Step[] {
    const zip = marked(code.zip, config);
    const sha256 = createHash('sha256').update(zip).digest('hex');
    if (present?.state.status === 'active' && present.uploaded === sha256) return [];
    const put = (signal: AbortSignal | undefined): Promise<HttpResponse> => this.#put(name, { zip, config, signal });
    if (!present) {
      return [
        {
          change: { action: 'create', resource: 'function', id: name },
          run: async (signal) => this.#expect(`deploy function ${name}`, await put(signal)),
        },
      ];
    }
    this.#mayReplace(name, present);
    const replace = async (signal: AbortSignal | undefined): Promise<void> => {
      const first = await put(signal);
      if (first.status !== 409) return this.#expect(`deploy function ${name}`, first);
      await this.#delete(name, signal);
      return this.#expect(`deploy function ${name}`, await put(signal));
    };
    return [{ change: { action: 'update', resource: 'function', id: name }, run: replace }];
  }

  /** Something else takes its place. Throws `FUNCTION_EXISTS`. */
  replacement(name: string, present: SpecifiedFunction, { run }: Step): Step {
    this.#mayReplace(name, present);
    const replace = async (signal: AbortSignal | undefined): Promise<void> => {
      try {
        // As if nothing were there: what is refused does not cost the one that is.
        return await run(signal);
      } catch (thrown) {
        if (!isRunnerError(thrown) || thrown.code !== 'FUNCTION_EXISTS') throw thrown;
      }
      await this.#delete(name, signal);
      return run(signal);
    };
    return { change: { action: 'update', resource: 'function', id: name }, run: replace };
  }

  removal(name: string): Step {
    return { change: { action: 'delete', resource: 'function', id: name }, run: (signal) => this.#delete(name, signal) };
  }

  async invoke(name: string, event: Uint8Array, signal: AbortSignal | undefined): Promise<FunctionInvocation> {
    const headers = ['content-type', 'application/json'];
    const response = await this.#options.requests.send({
      method: 'POST',
      path: `${pathOf(name)}/invoke`,
      headers,
      body: event,
      signal,
      once: true,
    });
    const { status, body } = response;
    const fields = fieldsOf(body);
    if (status === 404) throw new RunnerError('FUNCTION_NOT_FOUND', `the platform has no function ${name}`, { details: { name } });
    if (status === 429) throw failure(`invoke function ${name}`, response, 'PLATFORM_THROTTLED');
    if (status < 300 || (status === 500 && fields?.['success'] === false)) {
      const durationMs = count(fields?.['execution_ms']);
      return { body, failed: status >= 300, ...(durationMs !== undefined && { report: { durationMs } }) };
    }
    throw failure(`invoke function ${name}`, response, errorOf(body).code === 'TIMEOUT' ? 'EXECUTOR_TIMEOUT' : undefined);
  }

  #mayReplace(name: string, { uploaded }: SpecifiedFunction): void {
    if (this.#options.whenExists === 'replace') return;
    throw new RunnerError('FUNCTION_EXISTS', `the platform has another function ${name}`, { details: { name, sha256: uploaded } });
  }

  #put(name: string, { zip, config, signal }: Upload): Promise<HttpResponse> {
    const header = Buffer.from(JSON.stringify(settingsOf(config))).toString('base64');
    const headers = ['content-type', 'application/zip', 'x-blueprint-config', header];
    return this.#options.requests.send({ method: 'PUT', path: pathOf(name), headers, body: zip, signal });
  }

  async #delete(name: string, signal: AbortSignal | undefined): Promise<void> {
    const response = await this.#options.requests.send({ method: 'DELETE', path: pathOf(name), signal });
    if (response.status >= 300 && response.status !== 404) throw failure(`remove function ${name}`, response);
  }

  #expect(what: string, response: HttpResponse): void {
    if (response.status >= 300) throw failure(what, response);
  }

  #parse(name: string, response: HttpResponse): SpecifiedFunction {
    const fields = fieldsOf(response.body);
    const endpoint = text(fields?.['endpoint']);
    if (fields === undefined || endpoint === undefined) {
      const message = `the platform describes function ${name} ${fields === undefined ? 'in something that is not JSON' : 'without its endpoint'}`;
      throw new RunnerError('EXECUTOR_RESPONSE_INVALID', message);
    }
    const memoryMb = count(fields['memory_mb']);
    const timeoutSecs = count(fields['timeout_secs']);
    const updatedAt = text(fields['deployed_at']);
    const status = fields['status'] === 'failed' ? 'failed' : fields['status'] === 'deploying' ? 'busy' : 'active';
    const state: FunctionState = {
      name,
      id: text(fields['function_id']) ?? name,
      status,
      ...(status === 'failed' && { reason: text(fields['error']) ?? 'the platform does not say why' }),
      endpoint,
      ...(updatedAt !== undefined && { updatedAt }),
      config: { ...(memoryMb !== undefined && { memoryMb }), ...(timeoutSecs !== undefined && { timeoutMs: timeoutSecs * 1_000 }) },
      executor: this.#options.executor(name),
      resources: [],
    };
    return { state, uploaded: text(fields['sha256']) };
  }
}

function pathOf(name: string): string {
  return `/api/functions/${encodeURIComponent(name)}`;
}

function settingsOf(config: FunctionConfig): Readonly<Record<string, unknown>> {
  return {
    memory_mb: config.memoryMb,
    timeout_secs: config.timeoutMs === undefined ? undefined : Math.ceil(config.timeoutMs / 1_000),
    max_concurrency: config.concurrencyMax,
    env_vars: config.environment && Object.fromEntries(Object.entries(config.environment).toSorted(([a], [b]) => (a < b ? -1 : 1))),
  };
}

/** The same zip with a comment. What is no zip, or has a comment of its own, stays as it is: the platform will say what it thinks of it. */
function marked(zip: Uint8Array, config: FunctionConfig): Uint8Array {
  const at = zip.length - END_BYTES;
  const view = new DataView(zip.buffer, zip.byteOffset, zip.byteLength);
  if (at < 0 || view.getUint32(at, true) !== 0x06054b50) return zip;
  const digest = createHash('sha256')
    .update(JSON.stringify(settingsOf(config)))
    .digest('hex');
  const comment = Buffer.from(`managed-by: blueprint-runner, configuration ${digest}`);
  const whole = Buffer.concat([zip, comment]);
  whole.writeUInt16LE(comment.length, at + 20);
  return whole;
}
