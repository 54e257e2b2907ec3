import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts';
import { recoverMessageAddress } from 'viem';
import { decodeAbiParameters, encodeAbiParameters } from 'viem/utils';
import { router, squaringJobs } from '../../examples/incredible-squaring/jobs.ts';
import { oracleRouter, priceDigest } from '../../examples/price-oracle/jobs.ts';
import { BlueprintRunner } from '../../src/index.ts';
import { Metadata } from '../../src/job/call.ts';
import type { JobRouter } from '../../src/job/router.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { deployTangle, startLocalChain } from '../../src/testing/testing.ts';
import type { LocalChain, LocalService, LocalTangle } from '../../src/testing/testing.ts';

let chain: LocalChain;
let tangle: LocalTangle;

beforeAll(async () => {
  chain = await startLocalChain({ blockTimeMs: 100 });
  tangle = await deployTangle(chain);
});
afterAll(() => chain.stop());

/** One runner for each operator of the service, until `done`. */
async function withOperators(service: LocalService, jobs: JobRouter, done: () => Promise<void>): Promise<void> {
  const ledgers = service.operators.map(() => SqliteLedger.open({ path: ':memory:' }));
  const runners = await Promise.all(
    service.operators.map((operator, index) =>
      BlueprintRunner.builder(
        {
          serviceIds: [service.serviceId],
          blueprintId: service.blueprintId,
          rpcUrl: chain.rpcUrl,
          contract: tangle.contract,
          chainId: chain.chainId,
          fromBlock: 0n,
          metrics: false,
          logLevel: 'error',
        },
        {},
      )
        .router(jobs)
        .ledger(ledgers[index]!)
        .signer(privateKeyToAccount(operator.privateKey))
        .start(),
    ),
  );
  try {
    await done();
  } finally {
    await Promise.all(runners.map((runner) => runner.stop()));
    await Promise.all(ledgers.map((ledger) => ledger.close()));
  }
}

describe('incredible squaring', () => {
  test('each job is complete with as many equal answers as it asks for', async () => {
    const service = await tangle.startService({ jobs: squaringJobs, operatorCount: 3 });
    const inputs = encodeAbiParameters([{ type: 'uint64' }], [12n]);
    const ids = await tangle.submitMany(
      service.serviceId,
      squaringJobs.map((_, jobIndex) => ({ jobIndex, inputs })),
    );
    const calls = (): Promise<{ completed: boolean; resultCount: number }[]> =>
      Promise.all(ids.map((id) => tangle.jobCall(service.serviceId, id)));
    await withOperators(service, router, () =>
      expect.poll(async () => (await calls()).map(({ completed }) => completed)).toEqual([true, true, true]),
    );
    const results = await tangle.results(service.serviceId);
    for (const [index, { requiredResults }] of squaringJobs.entries()) {
      const mine = results.filter(({ callId }) => callId === ids[index]);
      expect(mine).toHaveLength(requiredResults);
      expect(new Set(mine.map(({ operator }) => operator)).size).toBe(requiredResults);
      for (const { output } of mine) expect(BigInt(`0x${Buffer.from(output).toString('hex')}`)).toBe(144n);
    }
  });
});

describe('price oracle', () => {
  const prices: Record<string, unknown> = { ETH: '2345.67', ODD: 'about five' };
  const server = createServer((request, response) => {
    const symbol = new URL(request.url ?? '', 'http://loopback').searchParams.get('symbol') ?? '';
    response.writeHead(symbol in prices ? 200 : 404, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ price: prices[symbol] }));
  });
  const account = privateKeyToAccount(generatePrivateKey());
  let jobs: JobRouter;

  beforeAll(async () => {
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const source = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    jobs = oracleRouter({ source, account, now: () => 1_700_000_000_500 });
  });
  afterAll(() => new Promise((resolve) => server.close(resolve)));

  test('settles the price with a signature that anybody can check', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'sign_price' }] });
    const inputs = encodeAbiParameters([{ type: 'string' }], ['ETH']);
    await tangle.submitJob(service.serviceId, { jobIndex: 0, inputs });
    const results = (): ReturnType<LocalTangle['results']> => tangle.results(service.serviceId);
    await withOperators(service, jobs, () => expect.poll(async () => (await results()).length).toBe(1));
    const [result] = await results();
    const [price, timestamp, signature] = decodeAbiParameters([{ type: 'uint256' }, { type: 'uint64' }, { type: 'bytes' }], result!.output);
    expect([price, timestamp]).toEqual([234_567_000_000n, 1_700_000_000n]);
    const signer = await recoverMessageAddress({ message: { raw: priceDigest('ETH', price, timestamp) }, signature });
    expect(signer).toBe(account.address);
  });

  test.each([
    ['BTC', 'the price source answers 404 for BTC'],
    ['ODD', 'the price source has no price for ODD'],
  ])('a source without a price for %s fails the call and says why', async (symbol, reason) => {
    const body = Buffer.from(encodeAbiParameters([{ type: 'string' }], [symbol]).slice(2), 'hex');
    const outcome = jobs.call({ id: symbol, jobId: 0n, body, metadata: new Metadata() });
    await expect(outcome).rejects.toMatchObject({ code: 'JOB_FAILED', message: expect.stringContaining(reason) });
  });
});
