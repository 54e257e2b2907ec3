/** The runner as a process, and against endpoints that are not there. */

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { encodeAbiParameters } from 'viem/utils';
import { BlueprintRunner, JobRouter, SqliteLedger, defineJob, silentTelemetry } from '../../src/index.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import { startRpcProxy } from '../../src/testing/rpc-proxy.ts';
import { deployTangle } from '../../src/testing/tangle.ts';

const CONTRACT = `0x${'12'.repeat(20)}` as const;
const double = defineJob({ name: 'double', params: 'uint64 x', result: 'uint64' }, ([x]) => x * 2n);

let dataDir: string;
beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), 'runner-'));
});
afterEach(() => rmSync(dataDir, { recursive: true }));

interface RunnerProcess {
  readonly lines: string[];
  readonly said: (line: string) => Promise<void>;
  readonly kill: (signal: NodeJS.Signals) => void;
  readonly exit: Promise<number | NodeJS.Signals | null>;
}

function spawnRunner(kind: string): RunnerProcess {
  const file = join(import.meta.dirname, '..', 'fixtures', 'runner', 'main.ts');
  const child = spawn(process.execPath, [file, kind], {
    env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin` },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines: string[] = [];
  const waiters = new Map<string, () => void>();
  createInterface({ input: child.stdout }).on('line', (line) => {
    lines.push(line);
    waiters.get(line)?.();
  });
  return {
    lines,
    said: (line) => new Promise((resolve) => (lines.includes(line) ? resolve() : waiters.set(line, resolve))),
    kill: (signal) => void child.kill(signal),
    exit: new Promise((resolve) => child.once('close', (code, signal) => resolve(code ?? signal))),
  };
}

describe('a runner that is a process', () => {
  it('finishes what runs when it is told to end', async () => {
    const runner = spawnRunner('ends');
    await runner.said('job runs');
    runner.kill('SIGTERM');
    expect(await runner.exit).toBe(0);
    expect(runner.lines.filter((line) => line !== 'job runs')).toEqual([
      'starting',
      'running',
      'draining',
      'result',
      'shut down',
      'stopped',
      'end',
    ]);
  });

  it('goes on when a job forgets a promise that is rejected', async () => {
    const runner = spawnRunner('forgets');
    const said = runner.said('process: a promise was rejected and nobody handles it: of nobody');
    expect(await Promise.race([said, runner.exit])).toBeUndefined();
    runner.kill('SIGTERM');
    expect(await runner.exit).toBe(0);
    expect(runner.lines).toContain('result');
  });

  it('gives a call up that ends the process again and again, and runs the others', async () => {
    const path = join(dataDir, 'ledger.sqlite');
    const file = join(import.meta.dirname, '..', 'fixtures', 'runner', 'poison.ts');
    const codes: unknown[] = [];
    do {
      const child = spawn(process.execPath, [file, path, String(codes.length + 1)], { stdio: ['ignore', 'pipe', 'inherit'] });
      let said = '';
      child.stdout.on('data', (text: Buffer) => (said += text.toString('utf8')));
      codes.push(await new Promise((resolve) => child.on('close', resolve)));
      expect(said).toBe('');
    } while (codes.at(-1) === 9 && codes.length < 10);
    expect(codes).toEqual([9, 9, 9, 9, 9, 0]);
    const ledger = SqliteLedger.open({ path, readonly: true });
    const calls = ledger.find({});
    const crashes = calls.map(({ seq }) => ledger.events(seq).filter(({ kind }) => kind === 'crashed').length);
    await ledger.close();
    expect(calls.map(({ state }) => state)).toEqual(calls.map((_, number) => (number === 7 ? 'failed' : 'final')));
    expect(calls[7]).toMatchObject({ errorCode: 'FUNCTION_CRASHED', attempts: 5 });
    // Those that ran beside it at first did so alone later.
    expect(crashes).toEqual(calls.map((_, number) => (number === 7 ? 5 : 2)));
  });

  it('ends at once when it is told twice', async () => {
    const runner = spawnRunner('hangs');
    await runner.said('job runs');
    runner.kill('SIGINT');
    await runner.said('draining');
    runner.kill('SIGTERM');
    expect(await runner.exit).toBe(143);
    expect(runner.lines).not.toContain('stopped');
  });
});

/** Nobody listens there. */
const NOBODY = 'http://127.0.0.1:1';

describe('without an endpoint', () => {
  it('mode auto works on a labelled mock, and leaves the ledger of the real chain alone', async () => {
    const warnings: string[] = [];
    const log = { ...silentTelemetry.log, warn: (message: string) => void warnings.push(message) };
    const runner = await BlueprintRunner.builder({ chainMode: 'auto', rpcUrl: NOBODY, contract: CONTRACT, dataDir, serviceIds: [3n] }, {})
      .telemetry({ ...silentTelemetry, log })
      .start();
    expect(runner.status().chain).toMatchObject({ source: 'mock' });
    expect(warnings).toContain('no RPC endpoint answers: this runner works on a mock chain and settles nothing real');
    await runner.stop();
    const untouched = SqliteLedger.open({ path: join(dataDir, 'ledger.sqlite') });
    expect(untouched.getValue('chain')).toBeUndefined();
    await untouched.close();
  });

  it('mode real starts, is not ready, and works as soon as the endpoint does', async () => {
    const chain = await startLocalChain();
    const tangle = await deployTangle(chain);
    const { serviceId, operators } = await tangle.startService({ jobs: [{ name: 'double' }] });
    let isDown = true;
    const proxy = await startRpcProxy({ upstream: chain.rpcUrl, onHttp: () => (isDown ? 'drop' : undefined) });
    const sources = new Set<string>();
    const env = { OPERATOR_PRIVATE_KEY: operators[0]?.privateKey };
    const runner = await BlueprintRunner.builder(
      {
        rpcUrl: proxy.url,
        contract: tangle.contract,
        dataDir,
        serviceIds: [serviceId],
        confirmations: 0,
        fromBlock: 0n,
        metrics: { port: 0 },
      },
      { ...env, LOG_LEVEL: 'silent' },
    )
      .router(new JobRouter().route(0, double))
      .onError((_, { source }) => sources.add(source))
      .start();
    const ready = async (): Promise<number> => (await fetch(`${runner.status().metricsUrl}/readyz`)).status;
    expect(await ready()).toBe(503);
    expect([...sources]).toContain('chain');
    await tangle.submitJob(serviceId, { jobIndex: 0, inputs: encodeAbiParameters([{ type: 'uint64' }], [21n]) });
    isDown = false;
    await expect.poll(async () => (await tangle.results(serviceId)).length).toBe(1);
    // The turn of settlement that sent it may not be over.
    await expect.poll(ready).toBe(200);
    await runner.stop();
    await proxy.close();
    await chain.stop();
  });

  it('does not start on a contract that is not there', async () => {
    const chain = await startLocalChain();
    const builder = BlueprintRunner.builder({ rpcUrl: chain.rpcUrl, contract: CONTRACT, dataDir }, {}).telemetry(silentTelemetry);
    await expect(builder.start()).rejects.toMatchObject({ code: 'CONTRACT_MISSING' });
    await chain.stop();
  });
});
