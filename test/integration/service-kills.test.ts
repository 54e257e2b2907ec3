/** `bpr service deploy` is killed at random moments, with functions on a platform and two hosts to move between, while calls keep coming. */

import { mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decodeAbiParameters, encodeAbiParameters } from 'viem/utils';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import { startCommand } from '../support/gateway-command.ts';
import { OperatorHome } from '../support/operator-home.ts';

const JOBS = new URL('../fixtures/deploy/jobs.ts', import.meta.url).pathname;
const KILLS = 12;
const CALLS_PER_KILL = 6;
/** Longer than a deployment takes when the machine is free: some of them end before they are killed. */
const KILL_MS_MAX = 3_000;
const profile = { avgDurationMs: 20, p95DurationMs: 40, peakMemoryMb: 80, stateful: false, persistentConnections: false };

test('a deployment that is killed at any moment converges: one runner, one function per job, no call lost or settled twice', async () => {
  const seed = Number(process.env['BPR_SEED'] ?? Date.now() % 1_000_000);
  const round = fc.record({ killMs: fc.integer({ min: 0, max: KILL_MS_MAX }), host: fc.integer({ min: 0, max: 1 }) });
  const rounds = fc.sample(fc.noBias(round), { seed, numRuns: KILLS });
  const chain = await startLocalChain();
  const tangle = await deployTangle(chain);
  const jobs = ['quick', 'small', 'stateful'].map((name) => ({ name, profile: { ...profile, stateful: name === 'stateful' } }));
  const service = await tangle.startService({ jobs });
  const user = new OperatorHome({
    HTTP_RPC_URL: chain.rpcUrl,
    TANGLE_CONTRACT: tangle.contract,
    OPERATOR_PRIVATE_KEY: service.operators[0]?.privateKey,
  });
  const gateway = await startCommand(join(user.home, 'gateway'));
  const id = ['--service-id', String(service.serviceId)];
  const deployment = (host: number): string[] => [
    'service',
    'deploy',
    JOBS,
    ...id,
    '--from-block',
    '0',
    '--confirmations',
    '0',
    '--host-option',
    `folder=${join(user.state, `machines-${host}`)}`,
  ];
  const records = join(user.state, 'deployments');
  mkdirSync(records, { recursive: true });
  const submitted = new Map<bigint, bigint>();
  const submit = async (): Promise<void> => {
    const values = Array.from({ length: CALLS_PER_KILL }, (_, index) => BigInt(submitted.size + index));
    const calls = values.map((value, index) => ({ jobIndex: index % 3, inputs: encodeAbiParameters([{ type: 'uint64' }], [value]) }));
    for (const [index, callId] of (await tangle.submitMany(service.serviceId, calls)).entries())
      submitted.set(callId, (values[index] ?? 0n) ** 2n);
  };
  try {
    await user.json(['cloud', 'policy', '--serverless', 'true', '--faas-provider', 'custom', '--faas-custom-endpoint', gateway.url]);
    for (const [kill, { killMs, host }] of rounds.entries()) {
      const { child, ended } = user.start(deployment(host));
      const timer = setTimeout(() => child.kill('SIGKILL'), killMs);
      await submit();
      await ended;
      clearTimeout(timer);
      for (const name of readdirSync(records).filter((file) => file.endsWith('.json')))
        expect(JSON.parse(readFileSync(join(records, name), 'utf8')), `seed ${seed}`).toMatchObject({ version: 1 });
      expect(user.programs().length, `seed ${seed}, kill ${kill}`).toBeLessThanOrEqual(1);
    }
    const last = deployment(0);
    const { record, machine } = (await user.json(last)) as { record: { status: string; leftovers: unknown[] }; machine: { id: string } };
    expect([record.status, record.leftovers], `seed ${seed}`).toEqual(['deployed', []]);
    expect(user.programs(), `seed ${seed}`).toEqual([Number(machine.id)]);
    expect(await user.json(last)).toMatchObject({ changes: [], machine: { id: machine.id } });
    await submit();
    const results = () => tangle.results(service.serviceId);
    await expect.poll(async () => (await results()).length, { timeout: 60_000, interval: 50 }).toBeGreaterThanOrEqual(submitted.size);
    // One of each, with the right value.
    const all = (await results()).map(({ callId, output }) => {
      const [value] = decodeAbiParameters([{ type: 'uint64' }, { type: 'string' }], `0x${Buffer.from(output).toString('hex')}`);
      return [callId, value] as const;
    });
    expect(all.length, `seed ${seed}`).toBe(submitted.size);
    expect(new Map(all), `seed ${seed}`).toEqual(submitted);
    const { functions } = (await user.json(['cloud', 'list'])) as { functions: { name: string }[] };
    expect(functions.map(({ name }) => name).toSorted()).toEqual([0, 1].map((job) => `blueprint-${service.serviceId}-job-${job}`));
  } finally {
    gateway.child.kill('SIGKILL');
    await gateway.ended;
    await user.leave();
    await chain.stop();
  }
}, 600_000);
