/** The whole line on a real chain, with a real handler process. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { encodeAbiParameters } from 'viem/utils';
import { BlueprintRunner, JobRouter, defineJob, silentTelemetry } from '../../src/index.ts';
import type { Hex, RunnerBuilder, RunnerConfig } from '../../src/index.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { LocalChain } from '../../src/testing/local-chain.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import type { LocalService, LocalTangle } from '../../src/testing/tangle.ts';
import { buildFixture, start } from '../fixtures/handler/process.ts';
import type { HandlerProcess } from '../fixtures/handler/process.ts';

const ECHO = 2;
const square = defineJob({ name: 'square', params: 'uint64 x', result: 'uint64' }, ([x]) => x * x);
const fail = defineJob({ name: 'fail', params: 'uint64 x', result: 'uint64' }, () => {
  throw new Error('this job always fails');
});
const remote = defineJob({ name: 'echo', raw: true }, () => 'not run here');
const uint64 = (value: number): Hex => encodeAbiParameters([{ type: 'uint64' }], [BigInt(value)]);

let chain: LocalChain;
let tangle: LocalTangle;
let handler: HandlerProcess;
let service: LocalService;
let dataDir: string;

beforeAll(async () => {
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
  const { file } = await buildFixture();
  handler = start(file, { env: { PORT: '0' } });
  await handler.address;
});

afterAll(async () => {
  await handler.stop();
  await chain.stop();
});

beforeEach(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'runner-'));
  service = await tangle.startService({ jobs: [{ name: 'square' }, { name: 'fail' }, { name: 'echo' }] });
});

afterEach(() => rmSync(dataDir, { recursive: true }));

async function builder(config: RunnerConfig = {}): Promise<RunnerBuilder> {
  const env = {
    OPERATOR_PRIVATE_KEY: service.operators[0]?.privateKey ?? '',
    SERVICE_ID: String(service.serviceId),
    BPR_DATA_DIR: dataDir,
  };
  return BlueprintRunner.builder(
    { rpcUrl: chain.rpcUrl, wsUrl: chain.wsUrl, contract: tangle.contract, confirmations: 0, fromBlock: 0n, ...config },
    env,
  )
    .router(new JobRouter().route(0, square).route(1, fail).route(ECHO, remote))
    .withFaasExecutor(ECHO, { use: 'http', options: { url: await handler.address } })
    .telemetry(silentTelemetry);
}

const submitted = async (): Promise<Map<bigint, string>> =>
  new Map((await tangle.results(service.serviceId)).map(({ callId, output }) => [callId, Buffer.from(output).toString('hex')]));
const untilResults = (count: number): Promise<void> =>
  expect.poll(async () => (await submitted()).size, { timeout: 90_000, interval: 25 }).toBe(count);
const word = (value: number): string => uint64(value).slice(2);

describe('the line on a real chain', () => {
  it('settles one result for each call, in-process and remote, though one job throws', async () => {
    const jobs = Array.from({ length: 21 }, (_, index) =>
      index === 7 ? { jobIndex: 1, inputs: uint64(7) } : { jobIndex: index % 2 === 0 ? 0 : ECHO, inputs: uint64(index) },
    );
    const failed: bigint[] = [];
    const runner = await (await builder()).start();
    runner.on('failed', ({ call }) => failed.push(call.origin?.callId ?? -1n));
    const ids = await tangle.submitMany(service.serviceId, jobs);
    await untilResults(20);
    await runner.stop();

    const expected = ids.flatMap((id, index): [bigint, string][] =>
      index === 7 ? [] : [[id, word(index % 2 === 0 ? index * index : index)]],
    );
    expect(await submitted()).toEqual(new Map(expected));
    expect(await tangle.results(service.serviceId)).toHaveLength(20);
    expect(failed).toEqual([ids[7]]);
    expect(runner.state).toBe('stopped');
  });

  it('takes up what was submitted while it was down, and settles nothing twice', async () => {
    const first = await (await builder()).start();
    await tangle.submitJob(service.serviceId, { jobIndex: 0, inputs: uint64(3) });
    await untilResults(1);
    await first.stop();

    await tangle.submitMany(
      service.serviceId,
      [4, 5, 6].map((value) => ({ jobIndex: 0, inputs: uint64(value) })),
    );
    expect(await submitted()).toEqual(new Map([[0n, word(9)]]));

    const second = await (await builder()).start();
    await untilResults(4);
    await second.stop();
    expect(Array.from(await submitted(), ([, output]) => output)).toEqual([9, 16, 25, 36].map(word));
    expect(await tangle.results(service.serviceId)).toHaveLength(4);
  });
});
