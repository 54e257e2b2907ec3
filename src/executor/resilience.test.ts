import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { RunnerError } from '../errors.ts';
import type { Retry } from '../errors.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { CircuitBreaker, Semaphore, backoffMs, mayFallBack, mayRepeat, resolvePolicy } from './resilience.ts';
import type { CircuitState } from './resilience.ts';

const POLICY = { failures: 3, windowMs: 1_000, coolDownMs: 500 };

function breaker(): { circuit: CircuitBreaker; clock: FakeClock; seen: CircuitState[] } {
  const clock = new FakeClock();
  const seen: CircuitState[] = [];
  return { circuit: new CircuitBreaker(POLICY, clock, (state) => seen.push(state)), clock, seen };
}

function failTimes(circuit: CircuitBreaker, times: number): void {
  for (let count = 0; count < times; count += 1) circuit.failed(circuit.admit());
}

describe('circuit breaker', () => {
  test('opens after the given failures in a row and refuses until the cool-down has passed', async () => {
    const { circuit, clock, seen } = breaker();
    failTimes(circuit, 2);
    expect(circuit.state).toBe('closed');
    failTimes(circuit, 1);
    expect(circuit.state).toBe('open');
    expect(circuit.admit()).toBe('refused');
    expect(circuit.probeAt).toBe(clock.now() + 500);
    await clock.advance(499);
    expect(circuit.admit()).toBe('refused');
    await clock.advance(1);
    expect(circuit.admit()).toBe('probe');
    expect(seen).toEqual(['open', 'half-open']);
  });

  test('a success between failures starts the count again', () => {
    const { circuit } = breaker();
    failTimes(circuit, 2);
    circuit.succeeded(circuit.admit());
    failTimes(circuit, 2);
    expect(circuit.state).toBe('closed');
  });

  test('failures older than the window do not count', async () => {
    const { circuit, clock } = breaker();
    failTimes(circuit, 2);
    await clock.advance(1_001);
    failTimes(circuit, 1);
    expect(circuit.state).toBe('closed');
    failTimes(circuit, 2);
    expect(circuit.state).toBe('open');
  });

  test('lets exactly one probe through; its success closes, its failure opens again', async () => {
    const { circuit, clock } = breaker();
    failTimes(circuit, 3);
    await clock.advance(500);
    const probe = circuit.admit();
    expect(circuit.admit()).toBe('refused');
    circuit.failed(probe);
    expect(circuit.state).toBe('open');
    expect(circuit.admit()).toBe('refused');
    await clock.advance(500);
    circuit.succeeded(circuit.admit());
    expect(circuit.state).toBe('closed');
    expect(circuit.admit()).toBe('pass');
  });

  test('a probe that was cancelled makes room for the next one', async () => {
    const { circuit, clock } = breaker();
    failTimes(circuit, 3);
    await clock.advance(500);
    circuit.withdrawn(circuit.admit());
    expect(circuit.admit()).toBe('probe');
  });

  test('calls that started before the circuit opened do not decide about it', async () => {
    const { circuit, clock } = breaker();
    const early = circuit.admit();
    const late = circuit.admit();
    failTimes(circuit, 3);
    circuit.succeeded(early);
    expect(circuit.state).toBe('open');
    await clock.advance(500);
    expect(circuit.admit()).toBe('probe');
    circuit.failed(late);
    expect(circuit.state).toBe('half-open');
    expect(circuit.admit()).toBe('refused');
  });
});

describe('semaphore', () => {
  test('grants places in the order of asking', async () => {
    const semaphore = new Semaphore('x', 1, 100);
    const order: number[] = [];
    await semaphore.acquire();
    const waits = Array.from({ length: 50 }, (_, index) => semaphore.acquire().then(() => order.push(index)));
    for (let count = 0; count < 50; count += 1) {
      semaphore.release();
      await waits[count];
    }
    expect(order).toEqual(Array.from({ length: 50 }, (_, index) => index));
  });

  test('refuses with QUEUE_FULL beyond its queue and names the limit', async () => {
    const semaphore = new Semaphore('executor slow', 1, 2);
    await semaphore.acquire();
    const waits = [semaphore.acquire(), semaphore.acquire()];
    await expect(semaphore.acquire()).rejects.toMatchObject({
      code: 'QUEUE_FULL',
      retry: 'safe',
      details: { name: 'executor slow', queueMax: 2 },
    });
    semaphore.release();
    semaphore.release();
    await Promise.all(waits);
  });

  test('a cancelled wait leaves the queue and rejects with ABORTED', async () => {
    const semaphore = new Semaphore('x', 1, 1);
    await semaphore.acquire();
    const controller = new AbortController();
    const cancelled = semaphore.acquire(controller.signal);
    controller.abort(new Error('stop'));
    await expect(cancelled).rejects.toMatchObject({ code: 'ABORTED', retry: 'safe' });
    const next = semaphore.acquire();
    semaphore.release();
    await next;
    expect(semaphore.waiting).toBe(0);
    semaphore.release();
    expect(semaphore.tryAcquire()).toBe(true);
    expect(semaphore.tryAcquire()).toBe(false);
  });

  test('a wait that was cancelled before it began takes no place', async () => {
    const semaphore = new Semaphore('x', 1, 1);
    await expect(semaphore.acquire(AbortSignal.abort())).rejects.toMatchObject({ code: 'ABORTED', retry: 'safe' });
    expect(semaphore.tryAcquire()).toBe(true);
  });

  test('never lets more run than allowed, and loses no waiter, whatever the order of events', async () => {
    const event = fc.oneof(fc.constant('acquire' as const), fc.constant('release' as const), fc.constant('abort' as const));
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 4 }), fc.array(event, { maxLength: 200 }), async (max, events) => {
        const semaphore = new Semaphore('x', max, 1_000);
        let running = 0;
        let ended = 0;
        let cancelled = 0;
        let asked = 0;
        const waiting: AbortController[] = [];
        for (const happens of events) {
          if (happens === 'acquire') {
            asked += 1;
            const controller = new AbortController();
            waiting.push(controller);
            semaphore.acquire(controller.signal).then(
              () => {
                running += 1;
                waiting.splice(waiting.indexOf(controller), 1);
              },
              () => {
                cancelled += 1;
              },
            );
          } else if (happens === 'release' && running > 0) {
            running -= 1;
            ended += 1;
            semaphore.release();
          } else if (happens === 'abort' && waiting.length > 0) {
            waiting.shift()?.abort();
          }
          await new Promise(setImmediate);
          expect(running).toBeLessThanOrEqual(max);
          expect(running + ended + cancelled + semaphore.waiting).toBe(asked);
          if (semaphore.waiting > 0) expect(running).toBe(max);
        }
      }),
      { numRuns: 30 },
    );
  });
});

describe('policy', () => {
  test('has the documented defaults', () => {
    expect(resolvePolicy({})).toEqual({
      timeoutMs: 60_000,
      concurrencyMax: undefined,
      queueMax: 10_000,
      idempotent: false,
      attemptsMax: 3,
      backoff: { baseMs: 100, maxMs: 10_000, jitter: 1 },
      breaker: { failures: 5, windowMs: 30_000, coolDownMs: 10_000 },
    });
  });

  test('the job definition stands behind the policy', () => {
    expect(resolvePolicy({}, { idempotent: true, timeoutMs: 5 })).toMatchObject({ idempotent: true, timeoutMs: 5 });
    expect(resolvePolicy({ idempotent: false, timeoutMs: 7 }, { idempotent: true, timeoutMs: 5 })).toMatchObject({
      idempotent: false,
      timeoutMs: 7,
    });
  });

  test.each([
    ['timeoutMs', { timeoutMs: 0 }],
    ['timeoutMs', { timeoutMs: Number.NaN }],
    ['concurrencyMax', { concurrencyMax: 0 }],
    ['attemptsMax', { attemptsMax: 1.5 }],
    ['backoff.jitter', { backoff: { jitter: 2 } }],
    ['breaker.failures', { breaker: { failures: 0 } }],
  ])('refuses %s out of range', (name, policy) => {
    expect(() => resolvePolicy(policy)).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringContaining(name) as string }),
    );
  });

  test('back-off doubles up to its limit, and jitter only shortens it', () => {
    const fixed = { baseMs: 100, maxMs: 1_000, jitter: 0 };
    expect([1, 2, 3, 4, 5].map((failed) => backoffMs(fixed, failed, () => 0.9))).toEqual([100, 200, 400, 800, 1_000]);
    expect(backoffMs({ ...fixed, jitter: 1 }, 2, () => 0.25)).toBe(150);
    expect(backoffMs({ ...fixed, jitter: 0.5 }, 2, () => 0.5)).toBe(150);
    expect(backoffMs(fixed, 5_000, () => 0)).toBe(1_000);
  });

  test.each<[Retry, boolean, boolean]>([
    ['safe', false, true],
    ['safe', true, true],
    ['idempotent', false, false],
    ['idempotent', true, true],
    ['never', true, false],
  ])('retry %s of a job with idempotent %s: again %s', (retry, idempotent, again) => {
    const error = new RunnerError('EXECUTOR_UNAVAILABLE', 'x', { retry });
    expect(mayRepeat(error, idempotent)).toBe(again);
    expect(mayFallBack(error, idempotent)).toBe(again);
  });

  test('what one executor refused another may take; what was cancelled nobody', () => {
    expect(mayRepeat(new RunnerError('EXECUTOR_NOT_FOUND', 'x'), true)).toBe(false);
    expect(mayFallBack(new RunnerError('EXECUTOR_NOT_FOUND', 'x'), false)).toBe(true);
    expect(mayRepeat(new RunnerError('ABORTED', 'x', { retry: 'safe' }), true)).toBe(false);
    expect(mayFallBack(new RunnerError('ABORTED', 'x', { retry: 'safe' }), true)).toBe(false);
  });
});
