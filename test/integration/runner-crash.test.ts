/** A runner that is killed: what it had journaled is settled by the next one as it was. */

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, it } from 'vitest';
import { encodeAbiParameters } from 'viem/utils';
import { BlueprintRunner, JobRouter, defineJob, silentTelemetry } from '../../src/index.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import { deployTangle } from '../../src/testing/tangle.ts';

const input = (value: bigint) => ({ jobIndex: 0, inputs: encodeAbiParameters([{ type: 'uint64' }], [value]) });

it('a call that was executed before the runner was killed is settled after the next start, and not executed again', async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'runner-crash-'));
  const chain = await startLocalChain();
  const tangle = await deployTangle(chain);
  const { serviceId, operators } = await tangle.startService({ jobs: [{ name: 'job' }] });
  const env = {
    HTTP_RPC_URL: chain.rpcUrl,
    TANGLE_CONTRACT: tangle.contract,
    SERVICE_ID: String(serviceId),
    BPR_DATA_DIR: dataDir,
    OPERATOR_PRIVATE_KEY: operators[0]?.privateKey ?? '',
  };
  const file = join(import.meta.dirname, '..', 'fixtures', 'runner', 'journal.ts');
  const child = spawn(process.execPath, [file], {
    env: { ...env, PATH: `${dirname(process.execPath)}:/usr/bin:/bin` },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exit = new Promise((resolve) => child.once('close', (_, signal) => resolve(signal)));
  await tangle.submitMany(serviceId, [input(1n), input(2n)]);
  let executed = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    if (line === 'executed') executed += 1;
    if (executed === 2) break;
  }
  child.kill('SIGKILL');
  expect(await exit).toBe('SIGKILL');
  expect(await tangle.results(serviceId)).toEqual([]);

  const runs: bigint[] = [];
  const job = defineJob({ name: 'job', params: 'uint64 x', result: 'uint64' }, ([x]) => {
    runs.push(x);
    return x;
  });
  const runner = await BlueprintRunner.builder({ confirmations: 0 }, env)
    .telemetry(silentTelemetry)
    .router(new JobRouter().route(0, job))
    .start();
  await tangle.submitMany(serviceId, [input(3n)]);
  await expect.poll(async () => (await tangle.results(serviceId)).length, { interval: 25 }).toBe(3);
  await runner.stop();
  const results = (await tangle.results(serviceId)).map(({ callId, output }) => [
    callId,
    BigInt(`0x${Buffer.from(output).toString('hex')}`),
  ]);
  expect(new Map(results as [bigint, bigint][])).toEqual(
    new Map([
      [0n, 1_001n],
      [1n, 1_002n],
      [2n, 3n],
    ]),
  );
  expect(runs).toEqual([3n]);
  await chain.stop();
  rmSync(dataDir, { recursive: true });
});
