import { describe, expect, test } from 'vitest';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { ErrorCode, Retry } from '../errors.ts';
import { Metadata, TRACE } from '../job/call.ts';
import type { JobCall } from '../job/call.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Counter, Gauge, Histogram, MetricOptions, Span, SpanOptions, Telemetry } from '../telemetry/telemetry.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import type { Execution, FaasExecutor, InvokeOptions } from './executor.ts';
import { LocalExecutor } from './local.ts';
import { ExecutorRegistry } from './registry.ts';
import type { ExecutorEvent, ExecutorRegistryOptions, Executed } from './registry.ts';
import type { JobRoute } from './routes.ts';

const LIMITS = { requestBytesMax: 1_000, responseBytesMax: 1_000, timeoutMsMax: 900_000 };
const NO_BREAKER = { breaker: false } as const;

function call(jobId = 1n, body = new Uint8Array([1])): JobCall {
  return { id: 'call-1', jobId, body, metadata: new Metadata() };
}

function answer(text: string): Execution {
  return { results: [{ body: new TextEncoder().encode(text), metadata: new Metadata() }] };
}

function textOf(executed: Executed): string {
  return new TextDecoder().decode(executed.results[0]?.body);
}

/** An executor that does what the test says, attempt by attempt; the last behaviour repeats. */
class Scripted implements FaasExecutor {
  readonly name: string;
  readonly limits: FaasExecutor['limits'];
  readonly seen: InvokeOptions[] = [];
  readonly calls: JobCall[] = [];
  readonly #script: ((options: InvokeOptions) => Promise<Execution>)[];
  closed = 0;

  constructor(
    name: string,
    script: (ErrorCode | RunnerError | Execution | ((options: InvokeOptions) => Promise<Execution>))[],
    limits = {},
  ) {
    this.name = name;
    this.limits = { ...LIMITS, ...limits };
    this.#script = script.map((step) => {
      if (typeof step === 'function') return step;
      if (typeof step === 'string') return () => Promise.reject(new RunnerError(step, `${name} says ${step}`));
      return () => (isRunnerError(step) ? Promise.reject(step) : Promise.resolve(step));
    });
  }

  invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    this.calls.push(call);
    this.seen.push(options);
    const step = this.#script[Math.min(this.seen.length, this.#script.length) - 1];
    return step ? step(options) : Promise.reject(new RunnerError('INTERNAL', 'no script'));
  }

  async close(): Promise<void> {
    this.closed += 1;
  }
}

function setUp(
  route: JobRoute,
  more: Partial<ExecutorRegistryOptions> = {},
): { registry: ExecutorRegistry; clock: FakeClock; events: ExecutorEvent[] } {
  const clock = new FakeClock();
  const events: ExecutorEvent[] = [];
  const registry = new ExecutorRegistry({ jobs: [[1, route]], clock, random: () => 0, onEvent: (event) => events.push(event), ...more });
  return { registry, clock, events };
}

/** Moves the clock until the promise settles. */
async function settled<T>(clock: FakeClock, promise: Promise<T>): Promise<T> {
  const outcome = promise.then(
    (value) => () => value,
    (error: unknown) => () => {
      throw error;
    },
  );
  await clock.runUntilIdle({ limitMs: 24 * 3_600_000 });
  return (await outcome)();
}

describe('routing', () => {
  test('a job goes to its executor, every other job to the in-process one', async () => {
    const remote = new Scripted('remote', [answer('remote')]);
    const local = new LocalExecutor({ call: async () => answer('local').results }, { clock: new FakeClock() });
    const { registry } = setUp({ executor: remote }, { local });
    expect(await registry.execute(call(1n))).toMatchObject({ executor: 'remote', attempt: 1 });
    expect(textOf(await registry.execute(call(2n)))).toBe('local');
  });

  test('without an in-process executor an unrouted job is JOB_UNKNOWN', async () => {
    const { registry } = setUp({ executor: new Scripted('remote', [answer('x')]) });
    await expect(registry.execute(call(9n))).rejects.toMatchObject({ code: 'JOB_UNKNOWN' });
  });

  test('a job that is routed twice is refused', () => {
    const executor = new Scripted('remote', [answer('x')]);
    const twice = [
      [1, { executor }],
      ['0x1', { executor }],
    ] as const;
    expect(() => new ExecutorRegistry({ jobs: twice })).toThrow(expect.objectContaining({ code: 'JOB_DUPLICATE' }));
  });

  test('describe names executors and policies', () => {
    const local = new LocalExecutor({ call: async () => [] }, { clock: new FakeClock() });
    const { registry } = setUp(
      { executor: new Scripted('remote', []), fallback: local, policy: { attemptsMax: 2 } },
      { local, traits: (jobId) => (jobId === 1n ? { name: 'square', idempotent: true } : undefined) },
    );
    expect(registry.describe()).toMatchObject([
      {
        jobId: 1n,
        job: 'square',
        executor: 'remote',
        fallback: 'in-process',
        circuit: 'closed',
        policy: { attemptsMax: 2, idempotent: true },
      },
      { jobId: undefined, executor: 'in-process', fallback: undefined, circuit: undefined },
    ]);
  });

  test('a job that somebody defined gets a route of its own when it is first called, a stranger never', async () => {
    const local = new LocalExecutor({ call: async () => [] }, { clock: new FakeClock() });
    const registry = new ExecutorRegistry({ local, traits: (jobId) => (jobId < 3n ? { name: `job ${jobId}` } : undefined) });
    for (let jobId = 0n; jobId < 100n; jobId += 1n) await registry.execute(call(jobId));
    expect(registry.describe().map(({ job }) => job)).toEqual(['job 0', 'job 1', 'job 2', 'other']);
  });

  test('the time of an attempt is the smaller of policy and platform limit', async () => {
    const executor = new Scripted('remote', [answer('x')], { timeoutMsMax: 3_000 });
    const { registry, clock } = setUp({ executor, policy: { timeoutMs: 5_000 } });
    await registry.execute(call());
    expect(executor.seen[0]?.deadline).toBe(clock.now() + 3_000);
  });
});

describe('attempts', () => {
  test.each<{ retry: Retry; idempotent: boolean; attempts: number }>([
    { retry: 'safe', idempotent: false, attempts: 3 },
    { retry: 'idempotent', idempotent: true, attempts: 3 },
    { retry: 'idempotent', idempotent: false, attempts: 1 },
    { retry: 'never', idempotent: true, attempts: 1 },
  ])(
    'a failure that is retry $retry of a job with idempotent $idempotent gives $attempts attempts',
    async ({ retry, idempotent, attempts }) => {
      const executor = new Scripted('remote', [new RunnerError('EXECUTOR_CONNECTION_LOST', 'gone', { retry })]);
      const { registry, clock } = setUp({ executor, policy: { idempotent, ...NO_BREAKER } });
      await expect(settled(clock, registry.execute(call()))).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST' });
      expect(executor.seen.map((options) => options.attempt)).toEqual(Array.from({ length: attempts }, (_, index) => index + 1));
    },
  );

  test('the job definition decides about idempotence when the policy says nothing', async () => {
    const executor = new Scripted('remote', ['EXECUTOR_CONNECTION_LOST', answer('second')]);
    const { registry, clock } = setUp({ executor }, { traits: () => ({ idempotent: true }) });
    expect(await settled(clock, registry.execute(call()))).toMatchObject({ attempt: 2 });
  });

  test('waits between attempts as the back-off says and tells the hooks', async () => {
    const executor = new Scripted('remote', ['EXECUTOR_UNREACHABLE', 'EXECUTOR_THROTTLED', answer('third')]);
    const { registry, clock } = setUp({ executor, policy: { backoff: { baseMs: 100, jitter: 0 } } });
    const start = clock.now();
    const log: unknown[][] = [];
    const executed = await settled(
      clock,
      registry.execute(call(), {
        attemptsBefore: 4,
        onAttempt: (attempt, name, reason) => void log.push(['start', attempt, name, reason, clock.now() - start]),
        onAttemptFailed: (attempt, error, nextAt) => void log.push(['failed', attempt, error.code, nextAt && nextAt - start]),
      }),
    );
    expect(executed).toMatchObject({ executor: 'remote', attempt: 7 });
    expect(log).toEqual([
      ['start', 5, 'remote', 'configured executor', 0],
      ['failed', 5, 'EXECUTOR_UNREACHABLE', 100],
      ['start', 6, 'remote', 'attempt 2 after EXECUTOR_UNREACHABLE', 100],
      ['failed', 6, 'EXECUTOR_THROTTLED', 300],
      ['start', 7, 'remote', 'attempt 3 after EXECUTOR_THROTTLED', 300],
    ]);
  });

  test('waits as long as the platform asks, but not longer than the back-off may', async () => {
    const asking = (retryAfterMs: number): RunnerError => new RunnerError('EXECUTOR_THROTTLED', 'busy', { details: { retryAfterMs } });
    const executor = new Scripted('remote', [asking(3_000), asking(99_000), answer('third')]);
    const { registry, clock } = setUp({ executor, policy: { backoff: { baseMs: 100, maxMs: 5_000, jitter: 0 } } });
    const start = clock.now();
    const waits: unknown[] = [];
    await settled(clock, registry.execute(call(), { onAttemptFailed: (_, __, nextAt) => void waits.push((nextAt ?? 0) - start) }));
    expect(waits).toEqual([3_000, 8_000]);
  });

  test('an attempt that cannot be journaled is not made', async () => {
    const executor = new Scripted('remote', [answer('x')], { concurrencyMax: 1 });
    const { registry } = setUp({ executor });
    const full = new RunnerError('LEDGER_FULL', 'disk');
    await expect(registry.execute(call(), { onAttempt: () => Promise.reject(full) })).rejects.toBe(full);
    expect(executor.seen).toHaveLength(0);
    expect((await registry.execute(call())).attempt).toBe(1);
  });

  test('an abort between attempts ends the call at once', async () => {
    const executor = new Scripted('remote', ['EXECUTOR_UNREACHABLE']);
    const { registry, clock } = setUp({ executor, policy: { backoff: { baseMs: 1_000, jitter: 0 } } });
    const controller = new AbortController();
    const executed = registry.execute(call(), { signal: controller.signal });
    const outcome = expect(executed).rejects.toMatchObject({ code: 'ABORTED', retry: 'safe' });
    await clock.advance(10);
    controller.abort();
    await outcome;
    expect(executor.seen).toHaveLength(1);
  });

  test('an executor that throws something else, or throws instead of rejecting, gives a RunnerError', async () => {
    const executor = new Scripted('remote', [
      () => {
        throw new TypeError('boom');
      },
    ]);
    const { registry } = setUp({ executor });
    await expect(registry.execute(call())).rejects.toMatchObject({ code: 'INTERNAL', message: 'boom' });
  });

  test('an executor that ignores its deadline is given up on', async () => {
    const executor = new Scripted('stuck', [() => new Promise(() => {})]);
    const { registry, clock } = setUp({ executor, policy: { timeoutMs: 100 } });
    await expect(settled(clock, registry.execute(call()))).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'idempotent' });
  });
});

describe('payload limits', () => {
  test('a call above the limit of its executor is not sent', async () => {
    const executor = new Scripted('remote', [answer('x')]);
    const { registry } = setUp({ executor });
    await registry.execute(call(1n, new Uint8Array(1_000)));
    await expect(registry.execute(call(1n, new Uint8Array(1_001)))).rejects.toMatchObject({
      code: 'PAYLOAD_TOO_LARGE',
      message: '1001 bytes are more than requestBytesMax of executor remote, 1000 bytes',
      details: { executor: 'remote', limit: 1_000, size: 1_001 },
    });
    expect(executor.seen).toHaveLength(1);
  });

  test('a result above the limit is refused', async () => {
    const executor = new Scripted('remote', [answer('y'.repeat(1_001))]);
    const { registry } = setUp({ executor });
    await expect(registry.execute(call())).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE', details: { limitName: 'responseBytesMax' } });
  });
});

describe('concurrency', () => {
  function gated(concurrencyMax?: number): { executor: Scripted; open: () => void; running: () => number } {
    let running = 0;
    const gates: (() => void)[] = [];
    const step = async (): Promise<Execution> => {
      running += 1;
      await new Promise<void>((resolve) => gates.push(resolve));
      running -= 1;
      return answer('x');
    };
    const executor = new Scripted('remote', [step], concurrencyMax === undefined ? {} : { concurrencyMax });
    return { executor, open: () => gates.shift()?.(), running: () => running };
  }

  test.each([
    ['the job', { concurrencyMax: 2 }, undefined],
    ['the executor', {}, 2],
  ])('no more calls run at once than %s takes, and the rest are refused beyond the queue', async (_, limit, ofExecutor) => {
    const { executor, open, running } = gated(ofExecutor);
    const { registry, clock } = setUp({ executor, policy: { queueMax: 3, ...limit } });
    const calls = Array.from({ length: 5 }, () => registry.execute(call()));
    await clock.settle();
    expect(running()).toBe(2);
    await expect(registry.execute(call())).rejects.toMatchObject({ code: 'QUEUE_FULL' });
    for (let left = 5; left > 0; left -= 1) {
      open();
      await clock.settle();
      expect(running()).toBe(Math.min(2, left - 1));
    }
    expect(await Promise.all(calls)).toHaveLength(5);
  });
});

describe('fallback and circuit', () => {
  const local = (): Scripted => new Scripted('vm', [answer('fallback')]);

  test('takes over when the attempts failed without running the job', async () => {
    const executor = new Scripted('cloud', ['EXECUTOR_UNREACHABLE']);
    const { registry, clock, events } = setUp({ executor, fallback: local(), policy: { attemptsMax: 2 } });
    const log: string[] = [];
    const executed = await settled(
      clock,
      registry.execute(call(), { onAttempt: (attempt, name, reason) => void log.push(`${attempt} ${name}: ${reason}`) }),
    );
    expect(executed).toMatchObject({ executor: 'vm', attempt: 3 });
    expect(log).toEqual([
      '1 cloud: configured executor',
      '2 cloud: attempt 2 after EXECUTOR_UNREACHABLE',
      '3 vm: fallback from cloud: EXECUTOR_UNREACHABLE',
    ]);
    expect(events).toEqual([{ type: 'fallback', callId: 'call-1', jobId: 1n, from: 'cloud', to: 'vm', code: 'EXECUTOR_UNREACHABLE' }]);
  });

  test('takes over at once when the platform refuses credentials or does not know the function', async () => {
    const executor = new Scripted('cloud', ['EXECUTOR_NOT_FOUND']);
    const { registry } = setUp({ executor, fallback: local() });
    expect(await registry.execute(call())).toMatchObject({ executor: 'vm', attempt: 2 });
  });

  test('does not take over a call that may have run, unless the job is idempotent', async () => {
    const executor = new Scripted('cloud', ['EXECUTOR_CONNECTION_LOST']);
    const fallback = local();
    const once = setUp({ executor, fallback, policy: { attemptsMax: 1 } });
    await expect(once.registry.execute(call())).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST' });
    expect(fallback.seen).toHaveLength(0);
    const idempotent = setUp({ executor, fallback, policy: { attemptsMax: 1, idempotent: true } });
    expect(await idempotent.registry.execute(call())).toMatchObject({ executor: 'vm' });
  });

  test('has attempts of its own, and nobody behind it', async () => {
    const executor = new Scripted('cloud', ['EXECUTOR_UNREACHABLE']);
    const fallback = new Scripted('vm', ['EXECUTOR_THROTTLED']);
    const { registry, clock, events } = setUp({ executor, fallback, policy: { attemptsMax: 2 } });
    await expect(settled(clock, registry.execute(call()))).rejects.toMatchObject({ code: 'EXECUTOR_THROTTLED' });
    expect(executor.seen.map(({ attempt }) => attempt)).toEqual([1, 2]);
    expect(fallback.seen.map(({ attempt }) => attempt)).toEqual([3, 4]);
    expect(events).toHaveLength(1);
  });

  test('does not take over a job that failed', async () => {
    const { registry } = setUp({ executor: new Scripted('cloud', ['JOB_FAILED']), fallback: local() });
    await expect(registry.execute(call())).rejects.toMatchObject({ code: 'JOB_FAILED' });
  });

  test('an open circuit sends calls to the fallback without an attempt, and closes after a good probe', async () => {
    const executor = new Scripted('cloud', ['EXECUTOR_UNREACHABLE', 'EXECUTOR_UNREACHABLE', answer('back')]);
    const policy = { attemptsMax: 1, breaker: { failures: 2, coolDownMs: 1_000 } };
    const { registry, clock, events } = setUp({ executor, fallback: local(), policy });
    for (let count = 0; count < 5; count += 1) expect(textOf(await registry.execute(call()))).toBe('fallback');
    expect(executor.seen).toHaveLength(2);
    expect(registry.describe()[0]?.circuit).toBe('open');
    await clock.advance(1_000);
    expect(await registry.execute(call())).toMatchObject({ executor: 'cloud', attempt: 1 });
    expect(events.filter((event) => event.type === 'circuit').map((event) => event.state)).toEqual(['open', 'half-open', 'closed']);
  });

  test('a listener that throws changes nothing', async () => {
    const executor = new Scripted('cloud', ['EXECUTOR_UNREACHABLE'], { concurrencyMax: 1 });
    const onEvent = (): void => {
      throw new Error('listener');
    };
    const { registry } = setUp({ executor, fallback: local(), policy: { attemptsMax: 1, breaker: { failures: 1 } } }, { onEvent });
    expect(textOf(await registry.execute(call()))).toBe('fallback');
    expect(textOf(await registry.execute(call()))).toBe('fallback');
  });

  test('an open circuit without a fallback refuses with EXECUTOR_CIRCUIT_OPEN, and says when it probes', async () => {
    const executor = new Scripted('cloud', ['EXECUTOR_UNREACHABLE']);
    const { registry, clock } = setUp({ executor, policy: { attemptsMax: 1, breaker: { failures: 1, coolDownMs: 700 } } });
    await expect(registry.execute(call())).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE' });
    await expect(registry.execute(call())).rejects.toMatchObject({
      code: 'EXECUTOR_CIRCUIT_OPEN',
      retry: 'safe',
      details: { executor: 'cloud', probeAt: clock.now() + 700 },
    });
    expect(executor.seen).toHaveLength(1);
  });

  test('a call that an open circuit refuses gives its places back', async () => {
    const executor = new Scripted('cloud', ['EXECUTOR_UNREACHABLE', answer('back')], { concurrencyMax: 1 });
    const { registry, clock } = setUp({
      executor,
      policy: { attemptsMax: 1, concurrencyMax: 1, breaker: { failures: 1, coolDownMs: 700 } },
    });
    const codes = [];
    for (let count = 0; count < 4; count += 1) codes.push(await registry.execute(call()).catch((error: RunnerError) => error.code));
    expect(codes).toEqual(['EXECUTOR_UNREACHABLE', 'EXECUTOR_CIRCUIT_OPEN', 'EXECUTOR_CIRCUIT_OPEN', 'EXECUTOR_CIRCUIT_OPEN']);
    await clock.advance(700);
    expect(textOf(await registry.execute(call()))).toBe('back');
  });

  test('a probe that was cancelled says nothing about the platform', async () => {
    const executor = new Scripted('cloud', ['EXECUTOR_UNREACHABLE', 'ABORTED', answer('back')]);
    const { registry, clock } = setUp({ executor, policy: { attemptsMax: 1, breaker: { failures: 1, coolDownMs: 700 } } });
    await expect(registry.execute(call())).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE' });
    await clock.advance(700);
    await expect(registry.execute(call())).rejects.toMatchObject({ code: 'ABORTED' });
    expect(registry.describe()[0]?.circuit).toBe('half-open');
    await registry.execute(call());
    expect(registry.describe()[0]?.circuit).toBe('closed');
  });

  test('jobs that fail do not open the circuit', async () => {
    const executor = new Scripted('cloud', ['JOB_FAILED']);
    const { registry } = setUp({ executor, policy: { breaker: { failures: 1 } } });
    await expect(registry.execute(call())).rejects.toMatchObject({ code: 'JOB_FAILED' });
    expect(registry.describe()[0]?.circuit).toBe('closed');
  });

  test('an executor that waits for its platform has a circuit only for jobs with a fallback, unless the policy names one', async () => {
    const executor = Object.assign(new Scripted('queue', ['EXECUTOR_UNREACHABLE']), { reconnects: true });
    const jobs: [number, JobRoute][] = [
      [1, { executor, policy: { attemptsMax: 1 } }],
      [2, { executor, fallback: local(), policy: { attemptsMax: 1 } }],
    ];
    const { registry } = setUp({}, { jobs });
    for (let count = 0; count < 9; count += 1)
      await expect(registry.execute(call(1n))).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE' });
    expect(executor.seen.map(({ hasFallback }) => hasFallback)).toEqual(Array.from({ length: 9 }, () => false));
    for (let count = 0; count < 9; count += 1) await registry.execute(call(2n));
    expect(executor.seen.slice(9).map(({ hasFallback }) => hasFallback)).toEqual(Array.from({ length: 5 }, () => true));
    expect(registry.describe().map(({ circuit }) => circuit)).toEqual([undefined, 'open']);
    await expect(registry.execute(call(1n))).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE' });
    const named = setUp({ executor, policy: { attemptsMax: 1, breaker: { failures: 1 } } });
    await expect(named.registry.execute(call())).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE' });
    await expect(named.registry.execute(call())).rejects.toMatchObject({ code: 'EXECUTOR_CIRCUIT_OPEN' });
  });

  test('two jobs share the circuit of their executor, and must agree about it', () => {
    const executor = new Scripted('cloud', []);
    const jobs = (second: JobRoute): [number, JobRoute][] => [
      [1, { executor }],
      [2, second],
    ];
    expect(() => new ExecutorRegistry({ jobs: jobs({ executor, policy: { timeoutMs: 3 } }) })).not.toThrow();
    expect(() => new ExecutorRegistry({ jobs: jobs({ executor, policy: { breaker: { failures: 9 } } }) })).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID' }),
    );
  });
});

describe('telemetry', () => {
  /** Remembers the sum of what was added to each metric, by name and labels. */
  function recorder(): { telemetry: Telemetry; values: Record<string, number>; spans: string[] } {
    const values: Record<string, number> = {};
    const spans: string[] = [];
    const metric = ({ name, labels = {} }: MetricOptions): Counter & Gauge & Histogram => {
      const key = [name.replace('blueprint_executor_', ''), ...Object.values(labels)].join(' ');
      const add = (amount = 1): void => void (values[key] = (values[key] ?? 0) + amount);
      return { add, set: (value) => void (values[key] = value), record: () => add() };
    };
    const startSpan = (name: string, options?: SpanOptions): Span => {
      spans.push(`${name} ${options?.attributes?.['blueprint.executor.name']} ${options?.attributes?.['blueprint.attempt']}`);
      return {
        context: { traceparent: `span ${spans.length}` },
        setAttribute: (attribute, value) => void spans.push(`${attribute}=${value}`),
        addEvent() {},
        recordError: (error) => void spans.push(`error ${(error as RunnerError).code}`),
        run: (work) => work(),
        end: () => void spans.push('end'),
      };
    };
    return { telemetry: { ...silentTelemetry, metrics: { counter: metric, gauge: metric, histogram: metric }, startSpan }, values, spans };
  }

  test('counts attempts by outcome, what is in flight, cold starts, fallbacks and the state of the circuit', async () => {
    const { telemetry, values } = recorder();
    const cold = { ...answer('x'), report: { coldStart: true } };
    const executor = new Scripted('cloud', [cold, 'EXECUTOR_UNREACHABLE']);
    const options = { telemetry, traits: () => ({ name: 'square' }) };
    const { registry } = setUp(
      { executor, fallback: new Scripted('vm', [answer('y')]), policy: { attemptsMax: 1, breaker: { failures: 1 } } },
      options,
    );
    for (let count = 0; count < 3; count += 1) await registry.execute(call());
    expect(values).toEqual({
      'attempts_total cloud square OK': 1,
      'attempts_total cloud square EXECUTOR_UNREACHABLE': 1,
      'attempts_total vm square OK': 2,
      'attempt_duration_seconds cloud square': 2,
      'attempt_duration_seconds vm square': 2,
      'in_flight cloud square': 0,
      'in_flight vm square': 0,
      'cold_starts_total cloud square': 1,
      'fallbacks_total cloud square': 2,
      'circuit_state cloud': 2,
    });
  });

  test('opens one span for each attempt, says its outcome and ends it', async () => {
    const { telemetry, spans } = recorder();
    const warm = { ...answer('x'), report: { coldStart: false, requestId: 'r-1' } };
    const executor = new Scripted('cloud', ['EXECUTOR_UNREACHABLE', warm]);
    const { registry, clock } = setUp({ executor }, { telemetry });
    await settled(clock, registry.execute(call()));
    expect(spans).toEqual([
      'job.execute cloud 1',
      'blueprint.outcome=EXECUTOR_UNREACHABLE',
      'error.type=EXECUTOR_UNREACHABLE',
      'error EXECUTOR_UNREACHABLE',
      'end',
      'job.execute cloud 2',
      'faas.coldstart=false',
      'faas.invocation_id=r-1',
      'blueprint.outcome=OK',
      'end',
    ]);
  });

  test('each attempt carries its span, and the call of the caller stays as it is', async () => {
    const { telemetry } = recorder();
    const executor = new Scripted('cloud', ['EXECUTOR_UNREACHABLE', answer('x')]);
    const { registry, clock } = setUp({ executor }, { telemetry });
    const metadata = new Metadata([[TRACE.state, 'a=1']]).set('key', 'value', { sensitive: true });
    await settled(clock, registry.execute({ ...call(), metadata }));
    expect(executor.calls.map((seen) => [...seen.metadata])).toEqual([
      [
        ['key', 'value'],
        [TRACE.parent, 'span 1'],
      ],
      [
        ['key', 'value'],
        [TRACE.parent, 'span 6'],
      ],
    ]);
    expect(executor.calls.every((seen) => seen.metadata.isSensitive('key'))).toBe(true);
    expect(metadata.has(TRACE.parent)).toBe(false);
  });
});

describe('close', () => {
  test('closes every executor once, refuses new calls and starts no further attempt', async () => {
    const executor = new Scripted('cloud', ['EXECUTOR_UNREACHABLE']);
    const { registry, clock } = setUp({ executor, policy: { backoff: { baseMs: 60_000, jitter: 0 } } });
    const waiting = expect(registry.execute(call())).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE' });
    await clock.advance(1);
    await Promise.all([registry.close(), registry.close()]);
    await waiting;
    expect(executor.closed).toBe(1);
    await expect(registry.execute(call())).rejects.toMatchObject({ code: 'EXECUTOR_CLOSED' });
    expect(executor.seen).toHaveLength(1);
  });
});
