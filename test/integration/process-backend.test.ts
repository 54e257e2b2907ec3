import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ProcessBackend } from '../../plugins/process/index.ts';
import type { ProcessBackendOptions } from '../../plugins/process/index.ts';
import type { FunctionVersion, Instance, InstanceEnd, LaunchSpec } from '../../src/plugin.ts';
import { startLambdaRuntimeApi } from '../../src/testing/lambda-runtime-api.ts';
import type { LambdaOutcome, LambdaRuntimeApi } from '../../src/testing/lambda-runtime-api.ts';

let root: string;
let backends: ProcessBackend[];
let apis: LambdaRuntimeApi[];
let count: number;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bpr-process-'));
  chmodSync(root, 0o711);
  backends = [];
  apis = [];
  count = 0;
});

afterEach(async () => {
  await Promise.all(backends.map((backend) => backend.close()));
  await Promise.all(apis.map((api) => api.close()));
  rmSync(root, { recursive: true, force: true });
});

function backendOf(options: ProcessBackendOptions = {}): ProcessBackend {
  const backend = new ProcessBackend({ folder: join(root, 'instances'), blanks: 0, ...options });
  backends.push(backend);
  return backend;
}

/** A function whose package has these files. */
function functionOf(files: Readonly<Record<string, string>>, more: Partial<FunctionVersion> = {}): FunctionVersion {
  count += 1;
  const path = join(root, `code-${count}`);
  mkdirSync(path, { mode: 0o755 });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), text, { mode: 0o755 });
  return {
    name: `function-${count}`,
    version: '1',
    fingerprint: `fingerprint-${count}`,
    code: { kind: 'folder', path, sha256: '' },
    layers: [],
    runtime: 'nodejs24.x',
    handler: 'index.handler',
    memoryMb: 128,
    timeoutMs: 10_000,
    ephemeralMb: 64,
    environment: {},
    concurrencyPerInstance: 1,
    network: 'none',
    ...more,
  };
}

interface Started {
  readonly api: LambdaRuntimeApi;
  readonly instance: Instance;
  output(): string;
}

async function specOf(
  fn: FunctionVersion,
  more: Partial<LaunchSpec> = {},
): Promise<{ spec: LaunchSpec; api: LambdaRuntimeApi; output: () => string }> {
  count += 1;
  const folder = join(root, `api-${count}`);
  mkdirSync(folder, { mode: 0o700 });
  const socketPath = join(folder, 'api.sock');
  const api = await startLambdaRuntimeApi({ socketPath });
  apis.push(api);
  let output = '';
  const spec: LaunchSpec = {
    instanceId: `instance-${count}`,
    ownerId: 'owner',
    fn,
    runtimeApi: { socketPath, openPort: () => Promise.reject(new Error('no port')) },
    environment: { _HANDLER: fn.handler, LAMBDA_TASK_ROOT: '/var/task' },
    onOutput: (_stream, chunk) => (output += Buffer.from(chunk).toString()),
    signal: new AbortController().signal,
    ...more,
  };
  return { spec, api, output: () => output };
}

async function launch(backend: ProcessBackend, fn: FunctionVersion, more: Partial<LaunchSpec> = {}): Promise<Started> {
  const { spec, api, output } = await specOf(fn, more);
  return { api, instance: await backend.launch(spec), output };
}

function bodyOf(outcome: LambdaOutcome): unknown {
  if (outcome.kind === 'error') throw new Error(outcome.fault.body);
  return JSON.parse(outcome.body.toString());
}

const js = (body: string): Record<string, string> => ({ 'index.js': `exports.handler = async (event, context) => { ${body} };` });

describe('an instance', () => {
  test('answers events and ends when it is told', async () => {
    const backend = backendOf();
    const { api, instance } = await launch(backend, functionOf(js('return { doubled: event.x * 2 };')));
    expect(bodyOf(await api.invoke('{"x":21}'))).toEqual({ doubled: 42 });
    await backend.terminate(instance);
    const end: InstanceEnd = await instance.ended;
    expect(end).toMatchObject({ reason: 'terminated' });
  });
});
