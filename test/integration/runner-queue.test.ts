/** From the chain over a queue to workers and back, while workers and the runner are killed. */

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, it, onTestFinished } from 'vitest';
import { encodeAbiParameters } from 'viem/utils';
import { ControlPlane } from '../../src/control/control.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import { WorkerCommand } from '../support/worker-command.ts';

const CALLS = 40;
const fixture = (name: string): string => join(import.meta.dirname, '..', 'fixtures', 'worker', name);

/** Resolves with what kills it when so many calls were executed. */
function startRunner(env: Readonly<Record<string, string>>): { executed(count: number): Promise<void>; kill(): Promise<void> } {
  const child = spawn(process.execPath, [fixture('runner.ts')], {
    env: { ...env, PATH: `${dirname(process.execPath)}:/usr/bin:/bin` },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exit = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exit;
  };
  onTestFinished(kill);
  return {
    kill,
    async executed(count) {
      for (let seen = 0; seen < count; seen += 1) await lines.next();
    },
  };
}

it('40 calls over a queue and two workers, while a worker and the runner are killed: each is settled once, with the right result', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'rq-'));
  const [{ zipFile: artifact }, chain] = await Promise.all([
    buildHandler({ entry: fixture('jobs.ts'), outDir: join(folder, 'artifact') }),
    startLocalChain(),
  ]);
  const control = new ControlPlane({ folder: join(folder, 'control') });
  onTestFinished(async () => {
    await control.close(100);
    await chain.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  await control.listen({ port: 0 });
  const { ticket } = await control.tickets.create({ uses: 10 });
  const workerOf = (name: string): WorkerCommand => {
    const worker = new WorkerCommand(join(folder, name), { CONTROL_PLANE_TICKET: ticket }, ['--lease-ms', '2000', '--concurrency', '4']);
    onTestFinished(async () => {
      await worker.kill();
    });
    return worker;
  };
  const tangle = await deployTangle(chain);
  const { serviceId, operators } = await tangle.startService({ jobs: [{ name: 'here' }, { name: 'on_workers' }] });
  const env = {
    HTTP_RPC_URL: chain.rpcUrl,
    TANGLE_CONTRACT: tangle.contract,
    SERVICE_ID: String(serviceId),
    BPR_DATA_DIR: join(folder, 'runner'),
    OPERATOR_PRIVATE_KEY: operators[0]?.privateKey ?? '',
    WORKER_TICKET: ticket,
    WORKER_ARTIFACT: artifact,
  };
  const [killed, survivor] = [workerOf('w1'), workerOf('w2')];
  await Promise.all([killed.until('ready'), survivor.until('ready')]);
  const first = startRunner(env);
  await tangle.submitMany(
    serviceId,
    Array.from({ length: CALLS }, (_, index) => ({ jobIndex: 1, inputs: encodeAbiParameters([{ type: 'uint64' }], [BigInt(index)]) })),
  );
  await first.executed(8);
  expect(await killed.kill()).toBe(-1);
  await first.executed(4);
  await first.kill();
  startRunner(env);
  await expect.poll(async () => (await tangle.results(serviceId)).length, { timeout: 60_000, interval: 100 }).toBe(CALLS);
  const results = await tangle.results(serviceId);
  const squares = results.map(({ callId, output }) => [callId, BigInt(`0x${Buffer.from(output).toString('hex')}`)] as const);
  expect(new Map(squares)).toEqual(new Map(Array.from({ length: CALLS }, (_, index) => [BigInt(index), BigInt(index * index)])));
  // The second life of the runner found the jobs of the first one: not one was published twice.
  const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
  const { byState } = await queue.stats();
  await queue.close();
  expect(byState).toEqual({ queued: 0, claimed: 0, completed: CALLS, failed: 0, dead: 0, expired: 0, cancelled: 0 });
});
