import { afterEach, describe, expect, it } from 'vitest';
import { MockChain } from '../chain/mock-chain.ts';
import { mockSigner } from '../chain/mock-transaction.ts';
import { MockChainClient } from '../chain/mock.ts';
import type { MockChainClientOptions } from '../chain/mock.ts';
import { systemClock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { Execution, FaasExecutor } from '../executor/executor.ts';
import { BLUEPRINT, Metadata } from '../job/call.ts';
import type { Address, JobCall } from '../job/call.ts';
import { defineJob } from '../job/job.ts';
import { JobRouter } from '../job/router.ts';
import { schemaOf } from '../job/schema.ts';
import { parseParameters } from '../job/solidity.ts';
import { SqliteLedger } from '../ledger/sqlite.ts';
import { createMetrics } from '../telemetry/prometheus.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import type { RunnerBuilder } from './builder.ts';
import type { RunnerConfig } from './config.ts';
import { BlueprintRunner } from './runner.ts';

const OPERATOR: Address = '0x00000000000000000000000000000000000000aa';
const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text));
const text = (body: Uint8Array | undefined): string | undefined => body && Buffer.from(body).toString();
const echo = defineJob({ name: 'echo', raw: true }, (body) => body);
const fail = defineJob({ name: 'fail', raw: true }, () => {
  throw new Error('always');
});
const call = (id: string, jobId = 0n): JobCall => ({ id, jobId, body: bytes(id), metadata: new Metadata() });

const runners: BlueprintRunner[] = [];
const ledgers: SqliteLedger[] = [];
afterEach(async () => {
  await Promise.all(runners.splice(0).map((runner) => runner.stop()));
  await Promise.all(ledgers.splice(0).map((ledger) => ledger.close()));
});

const build = (config: RunnerConfig = {}): RunnerBuilder =>
  BlueprintRunner.builder({ drainMs: 2_000, ...config }, {}).telemetry(silentTelemetry);
async function started(builder: RunnerBuilder): Promise<BlueprintRunner> {
  const runner = await builder.start();
  runners.push(runner);
  return runner;
}
function memoryLedger(): SqliteLedger {
  const ledger = SqliteLedger.open({ path: ':memory:' });
  ledgers.push(ledger);
  return ledger;
}
async function* only(...calls: readonly JobCall[]): AsyncGenerator<JobCall> {
  yield* calls;
}

/** A mock chain with one service, and a runner for it that is not started. */
function line(config: RunnerConfig = {}, options: Partial<MockChainClientOptions> = {}) {
  const chain = new MockChain({ clock: systemClock });
  const { serviceId } = chain.addService({ operators: [OPERATOR] });
  const client = new MockChainClient({ chain, clock: systemClock, ...options });
  const ledger = memoryLedger();
  const builder = build({ confirmations: 0, fromBlock: 0n, ...config })
    .chain(client)
    .ledger(ledger)
    .signer(mockSigner(OPERATOR));
  const submit = (input: string, jobIndex = 0): void => void chain.submitJob({ serviceId, jobIndex, inputs: bytes(input) });
  const results = (): (string | undefined)[] => chain.results().map(({ output }) => text(output));
  const states = (): string[] =>
    ledger
      .find({})
      .toSorted((a, b) => a.seq - b.seq)
      .map(({ state }) => state);
  /** Mines until these results are on the chain. */
  const until = (expected: readonly string[]): Promise<void> =>
    expect
      .poll(
        () => {
          chain.mine();
          return results();
        },
        { interval: 10 },
      )
      .toEqual(expected);
  return { chain, client, ledger, builder, submit, results, states, until };
}

it('takes every call that comes after its start, however late it looks at the chain', async () => {
  const { chain, client, builder, submit, until } = line({ fromBlock: undefined });
  submit('before');
  chain.mine();
  const isLate = Promise.withResolvers<void>();
  const follow = client.follow.bind(client);
  client.follow = async function* (options) {
    await isLate.promise;
    yield* follow(options);
  };
  await started(builder.router(new JobRouter().route(0, echo)));
  submit('after');
  chain.mine();
  isLate.resolve();
  await until(['after']);
});

it('takes at its next start what came while it was away, also when it had seen no call before', async () => {
  const { chain, client, ledger, builder, submit, until } = line({ fromBlock: undefined });
  const router = new JobRouter().route(0, echo);
  const runner = await started(builder.router(router));
  await runner.stop();
  submit('meanwhile');
  chain.mine();
  await started(build({ confirmations: 0 }).chain(client).ledger(ledger).signer(mockSigner(OPERATOR)).router(router));
  await until(['meanwhile']);
});

/** Fails with this code until it is told to work. */
class Remote implements FaasExecutor {
  readonly name = 'remote';
  readonly limits = { requestBytesMax: 1e6, responseBytesMax: 1e6, timeoutMsMax: 10_000 };
  failure: ErrorCode | undefined;
  invocations = 0;

  constructor(failure?: ErrorCode) {
    this.failure = failure;
  }

  async invoke({ body }: JobCall): Promise<Execution> {
    this.invocations += 1;
    if (this.failure) throw new RunnerError(this.failure, 'not now');
    return { results: [{ body, metadata: new Metadata() }] };
  }
}

describe('a runner without a key', () => {
  it('says that it settles nothing, unless that is asked for', async () => {
    const warnings: string[] = [];
    const log = { ...silentTelemetry.log, warn: (message: string) => void warnings.push(message) };
    const made = async (dryRun: boolean) => {
      const contract = '0x5fbdb2315678afecb367f032d93f642f64180aa3';
      const builder = BlueprintRunner.builder({ rpcUrl: 'http://127.0.0.1:1', contract, ledger: false, dryRun }, {});
      runners.push(
        await builder
          .router(new JobRouter().route(0, echo))
          .telemetry({ ...silentTelemetry, log })
          .build(),
      );
    };
    await made(true);
    expect(warnings).toEqual([]);
    await made(false);
    expect(warnings).toEqual([expect.stringContaining('set OPERATOR_PRIVATE_KEY')]);
  });
});

describe('listeners and hooks', () => {
  it.each<[string, () => unknown]>([
    [
      'throw',
      () => {
        throw new Error('of the author');
      },
    ],
    ['reject', () => Promise.reject(new Error('of the author'))],
  ])('that %s change nothing, and it is logged', async (_, broken) => {
    const said: string[] = [];
    const log = { ...silentTelemetry.log, error: (message: string) => void said.push(message) };
    const runner = await build()
      .telemetry({ ...silentTelemetry, log })
      .router(new JobRouter().route(0, echo).route(1, fail))
      .producer({ name: 'two', calls: () => only(call('a'), call('b', 1n)) })
      .onError(broken)
      .build();
    runners.push(runner);
    runner.on('executed', broken).on('failed', broken);
    await runner.start();
    const heard = ['a listener of the runner failed', 'a listener of the runner failed', 'the onError hook failed'];
    await expect.poll(() => said.toSorted()).toEqual(heard);
  });
});

describe('a runner without a chain', () => {
  it('says that nothing comes to it when it has no producer either', async () => {
    const warnings: string[] = [];
    const log = { ...silentTelemetry.log, warn: (message: string) => void warnings.push(message) };
    const made = () =>
      build()
        .router(new JobRouter().route(0, echo))
        .telemetry({ ...silentTelemetry, log });
    runners.push(
      await made()
        .producer({ name: 'list', calls: () => only() })
        .build(),
    );
    expect(warnings).toEqual([]);
    runners.push(await made().build());
    expect(warnings).toEqual(['no chain is followed and there is no producer: nothing comes to this runner; set TANGLE_CONTRACT']);
  });

  it('takes calls from producers to consumers, and a failure is only that', async () => {
    const got: (string | undefined)[] = [];
    const failed: string[] = [];
    const errors: string[] = [];
    const heard: string[] = [];
    const runner = await build()
      .router(new JobRouter().route(0, echo).route(1, fail))
      .producer({ name: 'list', calls: () => only(call('a'), call('b', 1n), call('c', 9n), call('d')) })
      .consumer({
        name: 'broken',
        consume: () => {
          throw new Error('cannot consume');
        },
      })
      .consumer({ name: 'good', consume: async ({ body }) => void got.push(text(body)) })
      .onError(({ code }, { source, call: of }) => heard.push(`${source} ${of?.id} ${code}`))
      .build();
    runners.push(runner);
    runner.on('failed', ({ call: of, error }) => failed.push(`${of.id} ${error.code}`));
    runner.on('error', ({ message }, source) => errors.push(`${source}: ${message}`));
    await runner.start();
    await expect.poll(() => [got.length, failed.length]).toEqual([2, 2]);
    expect(got).toEqual(['a', 'd']);
    expect(failed.toSorted()).toEqual(['b JOB_FAILED', 'c JOB_UNKNOWN']);
    expect(errors).toEqual(['consumer broken: cannot consume', 'consumer broken: cannot consume']);
    expect(heard.toSorted()).toEqual([
      'call b JOB_FAILED',
      'call c JOB_UNKNOWN',
      'consumer broken a INTERNAL',
      'consumer broken d INTERNAL',
    ]);
    expect(runner.state).toBe('running');
  });

  it('never runs more calls than it may, and asks its producers for no more', async () => {
    const gates: (() => void)[] = [];
    let asked = 0;
    const slow = defineJob({ name: 'slow', raw: true }, async (body) => {
      await new Promise<void>((resolve) => gates.push(resolve));
      return body;
    });
    const runner = await started(
      build({ concurrency: 3 })
        .router(new JobRouter().route(0, slow))
        .producer({
          name: 'endless',
          async *calls(signal) {
            while (!signal.aborted) yield call(String(asked++));
          },
        }),
    );
    await expect.poll(() => gates.length).toBe(3);
    expect(runner.status()).toMatchObject({ inFlight: 3, chain: undefined, ledger: undefined });
    expect(asked).toBe(3);
    gates.shift()?.();
    await expect.poll(() => gates.length).toBe(3);
    expect(asked).toBe(4);
    const stopping = runner.stop();
    for (const open of gates.splice(0)) open();
    await stopping;
    expect(runner.status()).toMatchObject({ state: 'stopped', inFlight: 0 });
  });

  it('journals what producers make when it has a ledger, and runs an id once', async () => {
    const got: (string | undefined)[] = [];
    const ledger = memoryLedger();
    await started(
      build()
        .ledger(ledger)
        .router(new JobRouter().route(0, echo))
        .producer({ name: 'list', calls: () => only(call('a'), call('a'), call('b')) })
        .consumer({ name: 'list', consume: ({ body }) => void got.push(text(body)) }),
    );
    await expect.poll(() => ledger.stats().byState.final).toBe(2);
    expect(got).toEqual(['a', 'b']);
  });

  it.each([true, false])('leaves out what is no call, says so, and takes the others (ledger: %s)', async (hasLedger) => {
    const wrong: readonly (readonly [unknown, string])[] = [
      [undefined, 'it made undefined; it must make calls'],
      [{ ...call('x'), id: 5 }, 'the id of a call must be text'],
      [{ ...call('x'), jobId: 0 }, 'the jobId of call x must be a bigint'],
      [{ ...call('x'), body: 'text' }, 'the body of call x must be a Uint8Array'],
      [{ ...call('x'), body: undefined }, 'the body of call x must be a Uint8Array'],
      [{ ...call('x'), metadata: undefined }, 'the metadata of call x must be a Metadata'],
      [{ ...call('x'), metadata: { a: 'b' } }, 'the metadata of call x must be a Metadata'],
    ];
    const made = [call('a'), ...wrong.map(([value]) => value as JobCall)]; // as: an author without types
    async function* calls(): AsyncGenerator<JobCall | readonly JobCall[]> {
      yield* made;
      yield [...made.slice(1, 3), call('b')];
    }
    const got: (string | undefined)[] = [];
    const errors: string[] = [];
    const builder = hasLedger ? build().ledger(memoryLedger()) : build();
    await started(
      builder
        .router(new JobRouter().route(0, echo))
        .producer({ name: 'hook', calls })
        .consumer({ name: 'list', consume: ({ body }) => void got.push(text(body)) })
        .onError(({ code, message }, { source }) => errors.push(`${source} ${code} ${message}`)),
    );
    await expect.poll(() => got).toEqual(['a', 'b']);
    const problems = [...wrong, ...wrong.slice(0, 2)].map(([, problem]) => problem);
    expect(errors).toEqual(problems.map((problem) => `producer hook CONFIG_INVALID ${problem}; what producer hook made is left out`));
  });

  it('has many calls on disk before the producer goes on', async () => {
    const ledger = memoryLedger();
    const known: number[] = [];
    async function* batches(): AsyncGenerator<readonly JobCall[]> {
      yield [call('a'), call('b')];
      known.push(ledger.find({}).length);
      yield [call('b'), call('c')];
      known.push(ledger.find({}).length);
    }
    await started(build().ledger(ledger).router(new JobRouter().route(0, echo)).producer({ name: 'batches', calls: batches }));
    await expect.poll(() => ledger.stats().byState.final).toBe(3);
    await expect.poll(() => known).toEqual([2, 3]);
  });

  it('goes through its states once, and tells the shutdown handler last', async () => {
    const states: string[] = [];
    const runner = await build()
      .shutdownHandler(() => void states.push('handler'))
      .build();
    runner.on('state', (state) => states.push(state));
    await runner.start();
    await expect(runner.start()).rejects.toMatchObject({ code: 'STATE_INVALID' });
    await Promise.all([runner.stop(), runner.stop()]);
    expect(states).toEqual(['starting', 'running', 'draining', 'handler', 'stopped']);
  });

  it('is stopped by a critical service that fails, and says why', async () => {
    const runner = await build()
      .backgroundService({ name: 'vital', critical: true, run: () => Promise.reject(new Error('the heart stopped')) })
      .build();
    await expect(runner.run()).rejects.toThrow('the heart stopped');
    expect(runner.state).toBe('failed');
  });

  it('goes on without a service that is not critical, and gives it another chance', async () => {
    const errors: string[] = [];
    let runs = 0;
    const runner = await build()
      .backgroundService({
        name: 'clumsy',
        run: async () => {
          runs += 1;
          if (runs === 1) throw new Error('first try');
        },
      })
      .build();
    runners.push(runner);
    runner.on('error', ({ message }, source) => errors.push(`${source}: ${message}`));
    await runner.start();
    await expect.poll(() => runs).toBe(2);
    expect(errors).toEqual(['service clumsy: first try']);
    expect(runner.state).toBe('running');
  });
});

describe('a runner with a chain', () => {
  it('settles every call that succeeds, while others fail or are nobody’s', async () => {
    const { builder, submit, until, states } = line();
    submit('a');
    submit('b', 1);
    submit('c', 9);
    submit('d');
    await started(builder.router(new JobRouter().route(0, echo).route(1, fail)));
    await until(['a', 'd']);
    expect(states().slice(1, 3)).toEqual(['failed', 'ignored']);
  });

  it('keeps calls that cannot run now, and runs them when they can', async () => {
    const { builder, chain, submit, until, states } = line();
    const remote = new Remote('EXECUTOR_UNREACHABLE');
    const errors: string[] = [];
    builder
      .router(new JobRouter().route(1, echo))
      .withFaasExecutor(0, remote, { attemptsMax: 1, breaker: false })
      .onError(({ code }, { source }) => errors.push(`${source} ${code}`));
    submit('held');
    submit('free', 1);
    await started(builder);
    await until(['free']);
    expect(states()[0]).toBe('executing');
    expect(errors).toEqual(['job 0 EXECUTOR_UNREACHABLE']);
    remote.failure = undefined;
    submit('later');
    chain.mine();
    await until(['free', 'held', 'later']);
  });

  it.each(['job', 'executor'])('lets no call take a place that only waits for one at its %s', async (limited) => {
    const { promise: gate, resolve: open } = Promise.withResolvers<void>();
    const slow = new Remote();
    const running: string[] = [];
    slow.invoke = async ({ body }) => {
      running.push(text(body) ?? '');
      await gate;
      return { results: [{ body, metadata: new Metadata() }] };
    };
    const limits = { ...slow.limits, concurrencyMax: 1 };
    const executor = limited === 'executor' ? Object.assign(slow, { limits }) : slow;
    const { builder, submit, until, states } = line({ concurrency: 3 });
    await started(
      builder.router(new JobRouter().route(1, echo)).withFaasExecutor(0, executor, limited === 'job' ? { concurrencyMax: 1 } : {}),
    );
    for (const input of ['a', 'b', 'c', 'd', 'e']) submit(input);
    for (const input of ['free 1', 'free 2']) submit(input, 1);
    await until(['free 1', 'free 2']);
    expect(running).toEqual(['a']);
    expect(states().slice(0, 5)).toEqual(['executing', 'seen', 'seen', 'seen', 'seen']);
    open();
    await until(['free 1', 'free 2', 'a', 'b', 'c', 'd', 'e']);
  });

  it('gives the place of a call that waits for its next attempt to the next call', async () => {
    const remote = new Remote();
    const running: string[] = [];
    remote.invoke = async ({ body }) => {
      running.push(text(body) ?? '');
      if (running.length === 1) throw new RunnerError('EXECUTOR_UNREACHABLE', 'not now', { retry: 'safe' });
      return { results: [{ body, metadata: new Metadata() }] };
    };
    const { builder, submit, until } = line();
    const policy = { concurrencyMax: 1, attemptsMax: 2, backoff: { baseMs: 500, jitter: 0 } };
    await started(builder.router(new JobRouter().route(0, echo)).withFaasExecutor(0, remote, policy));
    for (const input of ['a', 'b']) submit(input);
    await until(['b', 'a']);
    expect(running).toEqual(['a', 'b', 'a']);
  });

  it('runs what a circuit held as soon as the circuit lets it', async () => {
    const clock = new FakeClock();
    const remote = new Remote('EXECUTOR_UNREACHABLE');
    const doneAt: number[] = [];
    const runner = await build()
      .clock(clock)
      .ledger(SqliteLedger.open({ path: ':memory:', clock }))
      .withFaasExecutor(0, remote)
      .producer({ name: 'one', calls: () => only(call('a'), call('b'), call('c')) })
      .consumer({ name: 'times', consume: async () => void doneAt.push(clock.monotonic()) })
      .start();
    await clock.advance(95_000);
    expect(runner.status().inFlight).toBe(0);
    remote.failure = undefined;
    await clock.advance(10_250);
    expect(doneAt).toHaveLength(3);
    await Promise.all([runner.stop(), clock.advance(10_000)]);
  });

  it('fails a call for good when it may have run', async () => {
    const { builder, chain, submit, states } = line();
    const remote = new Remote('EXECUTOR_CONNECTION_LOST');
    submit('a');
    chain.mine();
    await started(builder.withFaasExecutor(0, remote));
    await expect.poll(states).toEqual(['failed']);
    expect(remote.invocations).toBe(1);
  });

  it('hands a call to the fallback that the job names', async () => {
    const { builder, submit, until } = line();
    submit('a');
    builder
      .router(new JobRouter().route(0, echo))
      .withFaasExecutor(0, new Remote('EXECUTOR_UNAVAILABLE'), { attemptsMax: 1, fallback: 'in-process' });
    await started(builder);
    await until(['a']);
  });

  it('cancels a call whose block left the chain, and runs it again when it comes back', async () => {
    const { builder, chain, submit, until, results } = line();
    const runs: string[] = [];
    const gates: (() => void)[] = [];
    const slow = defineJob({ name: 'slow', raw: true }, (body, { signal, call: of }) => {
      runs.push(of.metadata.get('x-tangle-block-hash') ?? '');
      if (runs.length > 1) return body;
      return new Promise<Uint8Array>((resolve, reject) => {
        gates.push(() => resolve(body));
        signal.addEventListener('abort', () => reject(new Error('cancelled')));
      });
    });
    submit('a');
    chain.mine();
    const runner = await started(builder.router(new JobRouter().route(0, slow)));
    const reorgs: number[] = [];
    runner.on('reorg', ({ depth }) => reorgs.push(depth));
    await expect.poll(() => gates.length).toBe(1);
    chain.reorg(1);
    await expect.poll(() => runs.length).toBe(2);
    await until(['a']);
    expect(reorgs).toEqual([1]);
    expect(new Set(runs).size).toBe(2);
    expect(results()).toHaveLength(1);
  });

  it('writes again when the disk was full: nothing is lost', async () => {
    const { builder, chain, ledger, submit, until } = line();
    let refusals = 1;
    const record = ledger.recordExecuted.bind(ledger);
    ledger.recordExecuted = (...args) => {
      if (refusals === 0) return record(...args);
      refusals -= 1;
      return Promise.reject(new RunnerError('LEDGER_FULL', 'no space'));
    };
    const errors: string[] = [];
    const remote = new Remote();
    submit('a');
    chain.mine();
    await started(builder.withFaasExecutor(0, remote).onError(({ code }, { source }) => errors.push(`${source} ${code}`)));
    await until(['a']);
    expect(errors).toEqual(['ledger LEDGER_FULL']);
    expect(remote.invocations).toBe(1);
  });

  it('stops when the ledger is broken', async () => {
    const { builder, chain, ledger, submit } = line();
    ledger.recordExecuted = () => Promise.reject(new RunnerError('LEDGER_CORRUPT', 'the file is damaged'));
    submit('a');
    chain.mine();
    const runner = await builder.router(new JobRouter().route(0, echo)).build();
    await expect(runner.run()).rejects.toMatchObject({ code: 'LEDGER_CORRUPT' });
    expect(runner.state).toBe('failed');
  });

  it('stops when settlement finds the ledger broken', async () => {
    const { builder, chain, ledger, submit } = line();
    ledger.recordTransaction = () => Promise.reject(new RunnerError('LEDGER_CORRUPT', 'the file is damaged'));
    submit('a');
    chain.mine();
    const runner = await builder.router(new JobRouter().route(0, echo)).build();
    await expect(runner.run()).rejects.toMatchObject({ code: 'LEDGER_CORRUPT' });
    expect(runner.state).toBe('failed');
  });

  it('reads again when the ledger could not be read', async () => {
    const { builder, chain, ledger, submit, until } = line();
    const waiting = ledger.waiting.bind(ledger);
    let refusals = 3;
    ledger.waiting = (...args) => {
      if (refusals === 0) return waiting(...args);
      refusals -= 1;
      throw new RunnerError('LEDGER_FULL', 'no space');
    };
    const errors: string[] = [];
    submit('a');
    chain.mine();
    await started(builder.router(new JobRouter().route(0, echo)).onError(({ code }, { source }) => errors.push(`${source} ${code}`)));
    await until(['a']);
    expect(refusals).toBe(0);
    expect(errors).toEqual(['ledger LEDGER_FULL']);
  });

  it('fails a call that no ledger can hold, and its producer goes on', async () => {
    const ledger = memoryLedger();
    const failed: string[] = [];
    const huge = { ...call('huge'), body: new Uint8Array(1_000_000_001) };
    const runner = await build()
      .ledger(ledger)
      .router(new JobRouter().route(0, echo))
      .producer({ name: 'list', calls: () => only(call('a'), huge, call('b')) })
      .build();
    runners.push(runner);
    runner.on('failed', ({ call: of, error }) => failed.push(`${of.id} ${error.code}`));
    await runner.start();
    await expect.poll(() => ledger.find({ states: ['final'] }).map(({ call: { id } }) => id)).toEqual(['a', 'b']);
    expect(failed).toEqual(['huge PAYLOAD_TOO_LARGE']);
    expect(runner.status()).toMatchObject({ state: 'running', lastError: undefined });
  });

  it('tries a job that threw again only when it is idempotent', async () => {
    const { builder, submit, until, states } = line();
    const runs: string[] = [];
    const once = (name: string, idempotent: boolean) =>
      defineJob({ name, raw: true, idempotent }, (body) => {
        runs.push(name);
        if (runs.filter((run) => run === name).length === 1) throw new Error('the first time');
        return body;
      });
    submit('a');
    submit('b', 1);
    await started(builder.router(new JobRouter().route(0, once('idempotent', true)).route(1, once('plain', false))));
    await until(['a']);
    expect(runs.toSorted()).toEqual(['idempotent', 'idempotent', 'plain']);
    expect(states()[1]).toBe('failed');
  });

  it('leaves calls that do not end in the ledger, for the next start', async () => {
    const { builder, client, chain, ledger, submit, until } = line({ drainMs: 50 });
    const errors: string[] = [];
    let runs = 0;
    const endless = defineJob({ name: 'endless', raw: true }, () => {
      runs += 1;
      return new Promise<Uint8Array>(() => {});
    });
    submit('a');
    chain.mine();
    const runner = await started(builder.router(new JobRouter().route(0, endless)).onError(({ code }) => errors.push(code)));
    await expect.poll(() => runs).toBe(1);
    await runner.stop();
    expect(errors).toEqual(['DRAIN_TIMEOUT']);
    expect(ledger.get(1)).toMatchObject({ state: 'seen', attempts: 1 });
    const attempts: number[] = [];
    const next = await build({ confirmations: 0 })
      .chain(client)
      .ledger(ledger)
      .signer(mockSigner(OPERATOR))
      .router(new JobRouter().route(0, echo))
      .build();
    runners.push(next);
    next.on('attempt', ({ attempt }) => attempts.push(attempt));
    await next.start();
    await until(['a']);
    expect(attempts).toEqual([2]);
  });

  it('does not run in this process what has ended it five times, until somebody asks, and has an executor run it', async () => {
    const ledger = memoryLedger();
    await ledger.recordProduced(call('a'));
    await ledger.recordProduced(call('b', 1n));
    for (const seq of [1, 2]) {
      for (let number = 1; number <= 5; number += 1) {
        await ledger.recordAttempt(seq, { number, executor: 'in-process' });
        await ledger.recordCrashes('in-process');
      }
    }
    const runner = await started(build().ledger(ledger).router(new JobRouter().route(0, echo)).withFaasExecutor(1, new Remote()));
    const states = (): unknown => ledger.find({}).map(({ state, errorCode }) => [state, errorCode]);
    await expect.poll(states).toEqual([
      ['failed', 'FUNCTION_CRASHED'],
      ['final', undefined],
    ]);
    expect(await runner.retry(1)).toBe(true);
    await expect.poll(() => ledger.get(1)?.state).toBe('final');
  });

  it('tells an executor that the program stops, when it cancels what did not end in time', async () => {
    const { builder, chain, submit } = line({ drainMs: 50 });
    const reasons: unknown[] = [];
    let invocations = 0;
    const endless: FaasExecutor = {
      name: 'endless',
      limits: { requestBytesMax: 1e6, responseBytesMax: 1e6, timeoutMsMax: 10_000 },
      invoke: (_, { signal }) =>
        new Promise((_resolve, reject) => {
          invocations += 1;
          signal?.addEventListener('abort', () => {
            reasons.push(signal.reason);
            reject(new RunnerError('ABORTED', 'cancelled'));
          });
        }),
    };
    submit('a');
    chain.mine();
    const runner = await started(builder.withFaasExecutor(0, endless));
    await expect.poll(() => invocations).toBe(1);
    await runner.stop();
    expect(reasons).toMatchObject([{ code: 'EXECUTOR_CLOSED' }]);
  });

  it('refuses a ledger of another chain', async () => {
    const { builder, ledger } = line();
    await ledger.setValue('chain', 'rpc:1:0x00');
    await expect(builder.start()).rejects.toMatchObject({ code: 'CHAIN_MISMATCH' });
  });
});

describe('another try that an operator asks for', () => {
  it('executes a failed call again, and settles it', async () => {
    const { builder, ledger, submit, until, states } = line();
    let isBroken = true;
    const job = defineJob({ name: 'job', raw: true }, (body) => {
      if (isBroken) throw new Error('broken');
      return body;
    });
    submit('a');
    submit('b');
    const attempts: string[] = [];
    const runner = await builder.router(new JobRouter().route(0, job)).build();
    runners.push(runner);
    runner.on('attempt', ({ seq, attempt }) => attempts.push(`${seq} ${attempt}`));
    await runner.start();
    await until([]);
    await expect.poll(states).toEqual(['failed', 'failed']);
    expect(await runner.retry(1)).toBe(true);
    await expect.poll(() => attempts).toEqual(['1 1', '2 1', '1 2']);
    await expect.poll(states).toEqual(['failed', 'failed']);
    isBroken = false;
    expect(await runner.retry(1)).toBe(true);
    await until(['a']);
    expect(ledger.get(1)).not.toHaveProperty('errorCode');
    expect(states()[1]).toBe('failed');
    expect(await runner.retry(1)).toBe(false);
    expect(await runner.retry(77)).toBe(false);
  });

  it('can be asked for as soon as the call has failed', async () => {
    const { builder, submit, until } = line();
    let runs = 0;
    const job = defineJob({ name: 'job', raw: true }, (body) => {
      runs += 1;
      if (runs === 1) throw new Error('the first time');
      return body;
    });
    submit('a');
    const runner = await builder.router(new JobRouter().route(0, job)).build();
    runners.push(runner);
    runner.on('failed', ({ seq }) => void runner.retry(seq ?? -1));
    await runner.start();
    await until(['a']);
    expect(runs).toBe(2);
  });

  it('offers a rejected result again, without another execution', async () => {
    const { builder, chain, ledger, submit } = line();
    const rejected: number[] = [];
    const runs: number[] = [];
    const job = defineJob({ name: 'huge', raw: true }, () => {
      runs.push(1);
      return new Uint8Array(200_000);
    });
    submit('a');
    chain.mine();
    const runner = await builder.router(new JobRouter().route(0, job)).build();
    runners.push(runner);
    runner.on('rejected', ({ seq }) => rejected.push(seq));
    await runner.start();
    await expect.poll(() => rejected).toEqual([1]);
    expect(await runner.retry(1)).toBe(true);
    await expect.poll(() => rejected).toEqual([1, 1]);
    expect(ledger.get(1)).toMatchObject({ state: 'rejected', errorCode: 'PAYLOAD_TOO_LARGE' });
    expect(runs).toHaveLength(1);
  });

  it('gives a call that nobody took to who takes it now', async () => {
    const { builder, client, chain, ledger, submit, until, states } = line();
    submit('a');
    chain.mine();
    const first = await started(builder.router(new JobRouter()));
    await expect.poll(states).toEqual(['ignored']);
    await first.stop();
    const next = await started(
      build({ confirmations: 0 }).chain(client).ledger(ledger).signer(mockSigner(OPERATOR)).router(new JobRouter().route(0, echo)),
    );
    expect(await next.retry(1)).toBe(true);
    await until(['a']);
  });

  it('needs a runner that runs, and a ledger', async () => {
    const runner = await build().build();
    runners.push(runner);
    await expect(runner.retry(1)).rejects.toMatchObject({ code: 'STATE_INVALID', message: expect.stringContaining('created') as string });
    await runner.start();
    await expect(runner.retry(1)).rejects.toMatchObject({ code: 'STATE_INVALID', message: expect.stringContaining('no ledger') as string });
  });
});

describe('the encoding of a call', () => {
  const schema = schemaOf(parseParameters('uint64 x'));
  const job = { index: 0, name: 'n', description: '', metadataUri: '', paramsSchema: schema, resultSchema: schema };

  it('is that of the schema on chain', async () => {
    const seen: (string | undefined)[] = [];
    const { builder, submit, until } = line({}, { blueprint: { jobs: [job] } });
    const watch = defineJob({ name: 'watch', raw: true }, (body, { call: of }) => {
      seen.push(of.metadata.get(BLUEPRINT.paramsCodec), of.metadata.get(BLUEPRINT.resultCodec));
      return body;
    });
    submit('a');
    await started(builder.router(new JobRouter().route(0, watch)));
    await until(['a']);
    expect(seen).toEqual(['compact', 'compact']);
  });

  it('is read again for a service that was configured before it was there', async () => {
    const square = defineJob({ name: 'square', params: 'uint64 x', result: 'uint64' }, ([x]) => x * x);
    const { builder, chain, ledger, until } = line({ serviceIds: [1n] }, { blueprint: { jobs: [job] } });
    const errors: string[] = [];
    await started(builder.router(new JobRouter().route(0, square)).onError((error) => errors.push(error.code)));
    await expect.poll(() => errors).toEqual(['SERVICE_NOT_FOUND']);
    const { serviceId } = chain.addService({ operators: [OPERATOR] });
    expect(serviceId).toBe(1n);
    chain.submitJob({ serviceId, jobIndex: 0, inputs: bytes('\0\0\0\0\0\0\0\x07') });
    await until(['\0\0\0\0\0\0\0\x31']);
    expect(ledger.find({ states: ['failed'] })).toEqual([]);
  });

  it('makes calls of a job fail whose definition differs from the schema', async () => {
    const { builder, chain, ledger, submit, states } = line({}, { blueprint: { jobs: [job] } });
    const errors: string[] = [];
    const other = defineJob({ name: 'other', params: 'string s', result: 'uint64' }, () => 1n);
    submit('a');
    chain.mine();
    builder.router(new JobRouter().route(0, other)).onError(({ code }, { source }) => errors.push(`${source} ${code}`));
    await started(builder);
    await expect.poll(states).toEqual(['failed']);
    expect(ledger.get(1)).toMatchObject({ errorCode: 'JOB_SCHEMA_MISMATCH' });
    expect(errors).toEqual(['blueprint JOB_SCHEMA_MISMATCH', 'call JOB_SCHEMA_MISMATCH']);
  });
});

describe('metrics and health', () => {
  it('a job that watches every call and fails is logged and counted, and the call is answered', async () => {
    const metrics = createMetrics({ defaults: false });
    const lines: unknown[] = [];
    const log = { ...silentTelemetry.log, warn: (message: string, fields?: unknown) => void lines.push([message, fields]) };
    const got: (string | undefined)[] = [];
    await started(
      build()
        .telemetry({ ...silentTelemetry, log, metrics })
        .router(new JobRouter().route(0, echo).always(fail))
        .producer({ name: 'one', calls: () => only(call('a')) })
        .consumer({ name: 'keep', consume: ({ body }) => void got.push(text(body)) }),
    );
    await expect.poll(() => got).toEqual(['a']);
    expect(lines).toEqual([
      [
        'a job that watches every call failed',
        { job: 'fail', callId: 'a', code: 'JOB_FAILED', error: 'job fail failed on call a: always' },
      ],
    ]);
    expect(await metrics.expose()).toContain('blueprint_runner_observer_errors_total{code="JOB_FAILED",job="fail"} 1');
  });

  it('are served while it runs', async () => {
    const { builder, submit, until } = line({ metrics: { port: 0 } });
    const metrics = createMetrics({ defaults: false });
    submit('a');
    const runner = await started(builder.telemetry({ ...silentTelemetry, metrics }).router(new JobRouter().route(0, echo)));
    await until(['a']);
    const url = runner.status().metricsUrl;
    const body = await (await fetch(`${url}/metrics`)).text();
    expect(body).toContain('blueprint_runner_calls_seen_total 1');
    expect(body).toContain('blueprint_runner_calls_executed_total 1');
    expect(body).toMatch(/^blueprint_chain_head_block [1-9]/m);
    expect(body).toMatch(/blueprint_ledger_calls\{state="(?:submitted|mined|final)"\} 1/);
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
    expect(await (await fetch(`${url}/readyz`)).json()).toMatchObject({
      ok: true,
      checks: { chain: { ok: true }, settlement: { ok: true } },
    });
    await runner.stop();
    await expect(fetch(`${url}/healthz`)).rejects.toThrow('fetch failed');
  });

  it('need metrics that can be told', async () => {
    await expect(build({ metrics: { port: 0 } }).build()).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});

describe('what cannot be built', () => {
  it.each<[string, ErrorCode, () => Promise<unknown>]>([
    ['an unknown plugin', 'PLUGIN_UNKNOWN', () => build().withPlugin('nowhere').build()],
    ['an executor of an unknown plugin', 'PLUGIN_UNKNOWN', () => build().withFaasExecutor(0, { use: 'nowhere' }).build()],
    ['a chain without a contract', 'CONFIG_INVALID', () => build({ chainMode: 'real' }).build()],
    [
      'a fallback to a process without jobs',
      'CONFIG_INVALID',
      () => build().withFaasExecutor(0, new Remote(), { fallback: 'in-process' }).build(),
    ],
    ['a key as text', 'CONFIG_INVALID', () => build({ privateKey: `0x${'11'.repeat(32)}` }).build()],
    [
      'two executors of one job',
      'JOB_DUPLICATE',
      async () => build().withFaasExecutor(0, new Remote()).withFaasExecutor('0x0', new Remote()),
    ],
  ])('%s', async (_, code, attempt) => {
    await expect(attempt()).rejects.toMatchObject({ code });
  });
});
