/** A service deployed by the command line: functions on a platform, an orchestrator on this machine, calls from a real chain. */

import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { decodeAbiParameters, encodeAbiParameters } from 'viem/utils';
import type { Hex } from '../../src/index.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { LocalChain } from '../../src/testing/local-chain.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import type { LocalService, LocalTangle } from '../../src/testing/tangle.ts';
import { BPR, startCommand } from '../support/gateway-command.ts';

const JOBS = new URL('../fixtures/deploy/jobs.ts', import.meta.url).pathname;
const HOUR_MS = 3_600_000;
const uint64 = (value: number): Hex => encodeAbiParameters([{ type: 'uint64' }], [BigInt(value)]);
const profile = { avgDurationMs: 20, p95DurationMs: 40, peakMemoryMb: 80, stateful: false, persistentConnections: false };

let folder: string;
let chain: LocalChain;
let tangle: LocalTangle;
let service: LocalService;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'deploy-'));
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
  service = await tangle.startService({
    jobs: [
      { name: 'quick', profile },
      { name: 'small', profile },
      { name: 'stateful', profile: { ...profile, stateful: true } },
      { name: 'long', profile: { ...profile, p95DurationMs: HOUR_MS } },
    ],
  });
});

afterAll(async () => {
  await bpr('service', 'remove', '--service-id', String(service.serviceId));
  await chain.stop();
  rmSync(folder, { recursive: true });
});

interface Ended {
  readonly code: number;
  readonly document: Record<string, unknown>;
}

/** The command as a process of its own, with `--json`. */
function bpr(...args: readonly string[]): Promise<Ended> {
  const env = {
    PATH: process.env['PATH'],
    XDG_CONFIG_HOME: join(folder, 'config'),
    XDG_STATE_HOME: join(folder, 'state'),
    HTTP_RPC_URL: chain.rpcUrl,
    TANGLE_CONTRACT: tangle.contract,
    OPERATOR_PRIVATE_KEY: service.operators[0]?.privateKey,
  };
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [BPR, ...args, '--json'], { env, cwd: folder }, (error, stdout, stderr) => {
      try {
        resolve({ code: Number(error?.code ?? 0), document: JSON.parse(stdout) as Record<string, unknown> });
      } catch {
        reject(new Error(`bpr ${args.join(' ')}: ${stdout}${stderr}`, { cause: error }));
      }
    });
  });
}

const results = async () => tangle.results(service.serviceId);

/** Value and place of each settled call, by its id. */
async function settled(): Promise<Map<bigint, readonly [bigint, string]>> {
  const decode = (output: Uint8Array) =>
    decodeAbiParameters([{ type: 'uint64' }, { type: 'string' }], `0x${Buffer.from(output).toString('hex')}`);
  return new Map((await results()).map(({ callId, output }) => [callId, decode(output)]));
}

const untilSettled = (count: number): Promise<void> =>
  expect.poll(async () => (await results()).length, { timeout: 60_000, interval: 50 }).toBe(count);

describe('bpr service deploy', () => {
  it('puts jobs that fit on the platform and the others into the orchestrator, settles calls from both, and survives the platform', async () => {
    const id = String(service.serviceId);
    const gateway = await startCommand(join(folder, 'gateway'));
    await bpr('cloud', 'policy', '--serverless', 'true', '--faas-provider', 'custom', '--faas-custom-endpoint', gateway.url);
    const deploy = ['service', 'deploy', JOBS, '--service-id', id, '--from-block', '0', '--confirmations', '0'];

    const planned = await bpr(...deploy, '--dry-run');
    expect(planned.document).toMatchObject({ record: { strategy: 'hybrid' } });
    expect((await bpr('service', 'list')).document).toEqual({ services: [] });

    const first = await bpr(...deploy);
    expect(first.document).toMatchObject({
      record: {
        status: 'deployed',
        strategy: 'hybrid',
        jobs: {
          0: { place: 'function', reason: 'it fits the limits of custom' },
          1: { place: 'function' },
          2: { place: 'runner', reason: 'it keeps state between calls, and a function is forgotten after each' },
          3: { place: 'runner', reason: expect.stringContaining('is above the 300000 ms that a call may take') as string },
        },
      },
      machine: { status: 'running' },
    });
    expect(first.code).toBe(0);
    expect((await bpr(...deploy)).document).toMatchObject({ changes: [] });

    const ids = await tangle.submitMany(
      service.serviceId,
      Array.from({ length: 40 }, (_, index) => ({ jobIndex: index % 4, inputs: uint64(index) })),
    );
    await untilSettled(40);
    const places = [`blueprint-${id}-job-0`, `blueprint-${id}-job-1`, 'runner', 'runner'];
    expect(await settled()).toEqual(new Map(ids.map((call, index) => [call, [BigInt(index * index), places[index % 4]]])));

    const status = await bpr('service', 'status', '--service-id', id);
    expect(status).toMatchObject({
      code: 0,
      document: { drift: [], orchestrator: { status: 'running' }, functions: { 0: { state: { status: 'active' } } } },
    });

    gateway.child.kill('SIGKILL');
    await gateway.ended;
    const later = await tangle.submitMany(
      service.serviceId,
      Array.from({ length: 12 }, (_, index) => ({ jobIndex: index % 4, inputs: uint64(index) })),
    );
    await untilSettled(52);
    const now = await settled();
    expect(later.map((call) => now.get(call)?.[1])).toEqual(later.map(() => 'runner'));
    expect(new Set((await results()).map(({ callId }) => callId)).size).toBe(52);

    const after = await bpr('service', 'status', '--service-id', id);
    expect(after.code).toBe(1);
    expect(JSON.stringify(after.document)).toContain('PLATFORM_UNREACHABLE');
    const key = service.operators[0]?.privateKey ?? '';
    expect(JSON.stringify(after.document)).not.toContain(key);
    const records = join(folder, 'state', 'blueprint-runner', 'deployments');
    for (const name of readdirSync(records)) expect(readFileSync(join(records, name), 'utf8')).not.toContain(key);
  });
});
