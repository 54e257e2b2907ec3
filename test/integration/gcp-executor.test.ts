/** Bundles in Cloud Run functions of the emulator, deployed by the deployer and called by the executor. */

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GcpDeployer, GcpExecutor, gcpPlugin } from '../../plugins/gcp/index.ts';
import { systemClock } from '../../src/clock.ts';
import { runExecutorConformance } from '../../src/conformance/conformance.ts';
import { packageFor } from '../../src/deploy/package-platform.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import type { FunctionState } from '../../src/executor/deployer.ts';
import type { FaasExecutor } from '../../src/executor/executor.ts';
import { Metadata } from '../../src/job/call.ts';
import type { JobCall } from '../../src/job/call.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { impatientClock } from '../support/gcp-clock.ts';
import { PROJECT, REGION, startGcp } from '../support/gcp.ts';
import type { GcpEmulator } from '../support/gcp.ts';

let emulator: GcpEmulator;
let folder: string;
const opened: FaasExecutor[] = [];

const auth = () => ({ endpoints: emulator.endpoints, credentials: () => emulator.credentials });

async function deploy(name: string, entry: string): Promise<FunctionState> {
  const { zipFile } = await buildHandler({ entry: join(import.meta.dirname, entry), outDir: join(folder, name) });
  const code = await packageFor('gcp', await readFile(zipFile));
  const deployer = new GcpDeployer({ projectId: PROJECT, region: REGION, ...auth() }, { clock: impatientClock, environment: {} });
  const { state } = await deployer.deploy(name, code, { timeoutMs: 60_000, memoryMb: 512 });
  await deployer.close();
  if (!state) throw new Error('the function is not there');
  return state;
}

beforeAll(async () => {
  emulator = await startGcp();
  folder = await mkdtemp(join(tmpdir(), 'gcp-'));
  await deploy('conformance', '../fixtures/gateway/jobs.ts');
});

afterAll(async () => {
  await Promise.all(opened.map(async (executor) => executor.close?.()));
  await emulator.close();
  await rm(folder, { recursive: true, force: true });
});

const uriOf = (name: string): string => `${emulator.publicUrl}/invoke/${name}`;

runExecutorConformance(
  { describe, it },
  {
    name: 'gcp',
    create: () => new GcpExecutor({ uri: uriOf('conformance'), ...auth() }, { clock: systemClock, environment: {} }),
  },
);

describe('the executor of Cloud Run functions', () => {
  const callOf = (jobId: bigint, body: Uint8Array): JobCall => ({ id: `call-${jobId}`, jobId, body, metadata: new Metadata() });
  const soon = () => ({ deadline: Date.now() + 60_000, attempt: 1 });
  const open = (options: ConstructorParameters<typeof GcpExecutor>[0], environment = {}): GcpExecutor => {
    const executor = new GcpExecutor(options, { clock: systemClock, environment });
    opened.push(executor);
    return executor;
  };
  const codeOf = (promise: Promise<unknown>): Promise<unknown> =>
    promise.then(
      () => 'nothing',
      (error: { readonly code: string; readonly retry: string }) => [error.code, error.retry],
    );

  it('runs the squaring example from what its deployment says a runner needs', async () => {
    const state = await deploy('squaring', '../../examples/incredible-squaring/jobs.ts');
    expect(state.executor.use).toBe('gcp');
    expect(state.executor.environment).toContain('GOOGLE_APPLICATION_CREDENTIALS');
    expect(JSON.stringify(state.executor)).not.toContain('PRIVATE KEY');
    const made: FaasExecutor[] = [];
    gcpPlugin.register({
      executor: (factory) =>
        void made.push(factory({ ...state.executor.options, ...auth() }, { clock: systemClock, telemetry: silentTelemetry })),
      deployer: () => {},
      backend: () => {},
      host: () => {},
      queue: () => {},
    });
    opened.push(...made);
    const argument = Buffer.alloc(32);
    argument.writeUInt32BE(12, 28);
    const execution = await made[0]?.invoke(callOf(0n, argument), soon());
    expect(BigInt(`0x${Buffer.from(execution?.results[0]?.body ?? []).toString('hex')}`)).toBe(144n);
  });

  it('asks for one ID token for many calls', async () => {
    const executor = open({ uri: uriOf('conformance'), ...auth() });
    const before = emulator.granted.id;
    await Promise.all(Array.from({ length: 5 }, () => executor.health(0n)));
    await executor.health(0n);
    expect(emulator.granted.id - before).toBe(1);
  });

  it('takes its token from the metadata server, or from a service account that it may act as', async () => {
    const host = new URL(emulator.url).host;
    const { metadata: _, ...endpoints } = emulator.endpoints;
    await open({ uri: uriOf('conformance'), endpoints }, { GCE_METADATA_HOST: host }).health(0n);
    emulator.tokens.add('from-elsewhere');
    const token = { uri: uriOf('conformance'), endpoints, token: () => 'from-elsewhere' };
    expect(await codeOf(open(token).health(0n))).toEqual(['CREDENTIALS_MISSING', 'never']);
    await open({ ...token, serviceAccount: `caller@${PROJECT}.iam.gserviceaccount.com` }).health(0n);
    expect(await codeOf(open({ ...token, serviceAccount: 'stranger@example.org' }).health(0n))).toEqual(['EXECUTOR_UNAUTHORIZED', 'never']);
  });

  it('is refused with an access token in place of an ID token, and with a token for somebody else', async () => {
    const invoke = (options: object): Promise<unknown> =>
      codeOf(open({ uri: uriOf('conformance'), endpoints: emulator.endpoints, ...options }).invoke(callOf(0n, Buffer.of(1)), soon()));
    emulator.tokens.add('ya29.access');
    expect(await invoke({ idToken: () => 'ya29.access' })).toEqual(['EXECUTOR_UNAUTHORIZED', 'never']);
    expect(await invoke({ ...auth(), audience: 'https://example.org' })).toEqual(['EXECUTOR_UNAUTHORIZED', 'never']);
    expect(await invoke({ public: true })).toEqual(['EXECUTOR_UNAUTHORIZED', 'never']);
  });

  it('a token that cannot be got is safe to repeat, and a function that is gone is not there', async () => {
    const lost = open({ uri: uriOf('conformance'), credentials: () => emulator.credentials, endpoints: { token: 'http://127.0.0.1:1' } });
    expect(await codeOf(lost.invoke(callOf(0n, Buffer.of(1)), soon()))).toEqual(['EXECUTOR_UNREACHABLE', 'safe']);
    const gone = open({ uri: uriOf('gone'), ...auth() });
    expect(await codeOf(gone.invoke(callOf(0n, Buffer.of(1)), soon()))).toEqual(['EXECUTOR_NOT_FOUND', 'never']);
    expect(await codeOf(open({ uri: uriOf('conformance'), credentials: 'env:NO_SUCH_CREDENTIALS' }).health(0n))).toEqual([
      'CREDENTIALS_MISSING',
      'never',
    ]);
  });

  it('options that nobody knows are CONFIG_INVALID', () => {
    const made = (options: unknown): unknown => {
      let result: unknown;
      gcpPlugin.register({
        executor: (factory) => {
          try {
            factory(options, { clock: systemClock, telemetry: silentTelemetry });
          } catch (error) {
            result = (error as { code: string }).code;
          }
        },
        deployer: () => {},
        backend: () => {},
        host: () => {},
        queue: () => {},
      });
      return result;
    };
    for (const options of [
      {},
      { uri: 1 },
      { uri: 'https://a', colour: 'blue' },
      { uri: 'https://a', endpoints: { moon: 'https://b' } },
      { uri: 'ftp://a' },
    ])
      expect(made(options), JSON.stringify(options)).toBe('CONFIG_INVALID');
  });
});
