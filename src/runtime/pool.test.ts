import { afterEach, describe, expect, test } from 'vitest';
import { versionOf } from '../../test/support/fake-backend.ts';
import { RunnerError } from '../errors.ts';
import { Deadlines } from '../executor/deadline.ts';
import { FakeClock, Random } from '../testing/fake-clock.ts';
import { fixedKeepAlive } from './keep-alive.ts';
import type { KeepAlive } from './keep-alive.ts';
import { Pool } from './pool.ts';
import type { PoolLimits } from './pool.ts';
import { Waiter } from './pool-group.ts';
import type { Member, PoolInstance } from './pool-group.ts';
import type { FunctionVersion } from './runtime.ts';

class TestInstance implements PoolInstance {
  readonly id: string;
  readonly fn: FunctionVersion;
  readonly startMs = 100;
  readonly #end = Promise.withResolvers<void>();
  isAsking = true;
  isOver = false;
  isPaused = false;
  /** When it was launched, in the order of launches. */
  readonly number: number;
  readonly stopMs: number;
  readonly #clock: FakeClock;
  pause: (() => Promise<void>) | undefined;
  resume: (() => Promise<void>) | undefined;
  #stopping: Promise<void> | undefined;

  constructor(fn: FunctionVersion, options: { number: number; clock: FakeClock; stopMs: number }) {
    this.id = `i${options.number}`;
    this.fn = fn;
    this.number = options.number;
    this.stopMs = options.stopMs;
    this.#clock = options.clock;
  }

  get ended(): Promise<void> {
    return this.#end.promise;
  }

  die(): void {
    this.isOver = true;
    this.#end.resolve();
  }

  stop(): Promise<void> {
    return (this.#stopping ??= this.#clock.sleep(this.stopMs).then(() => this.die()));
  }
}

class Call extends Waiter<TestInstance> {
  readonly number: number;
  member: Member<TestInstance> | undefined;
  error: RunnerError | undefined;
  readonly #leased: (call: Call) => void;

  constructor(number: number, deadline: number, leased: (call: Call) => void) {
    super(deadline);
    this.number = number;
    this.#leased = leased;
  }

  leased(member: Member<TestInstance>): void {
    expect([this.member, this.error]).toEqual([undefined, undefined]);
    this.member = member;
    this.#leased(this);
  }

  refused(error: RunnerError): void {
    this.error = error;
  }

  protected waitedTooLong(): void {
    this.error = new RunnerError('QUEUE_TIMEOUT', 'it waited too long');
  }
}

interface Options {
  readonly limits?: Partial<PoolLimits>;
  readonly keepAlive?: KeepAlive;
  readonly queueTimeoutMs?: number;
  readonly canPause?: boolean;
}

/** A pool of instances that take 100 ms to start and 10 ms to stop, in virtual time. */
class World {
  readonly clock = new FakeClock();
  readonly instances: TestInstance[] = [];
  readonly calls: Call[] = [];
  readonly order: number[] = [];
  readonly pool: Pool<TestInstance>;
  readonly limits: PoolLimits;
  readonly ended: string[] = [];
  starting = 0;
  startingMax = 0;
  launches = 0;
  startMs = 100;
  startError: (() => RunnerError | undefined) | undefined;
  readonly #queueTimeoutMs: number;

  constructor(options: Options = {}) {
    this.limits = { instancesMax: 1_000, instancesPerFunctionMax: 100, startsMax: 8, queueMax: 1_000, ...options.limits };
    this.#queueTimeoutMs = options.queueTimeoutMs ?? 60_000;
    this.pool = new Pool({
      launch: (fn, signal) => this.#launch(fn, { signal, canPause: options.canPause ?? false }),
      clock: this.clock,
      deadlines: new Deadlines(this.clock),
      limits: this.limits,
      keepAlive: options.keepAlive ?? fixedKeepAlive(),
      observer: { ended: (fn, reason) => this.ended.push(`${fn.fingerprint} ${reason}`) },
    });
  }

  call(fn = versionOf()): Call {
    const call = new Call(this.calls.length, this.clock.now() + this.#queueTimeoutMs, ({ number }) => this.order.push(number));
    this.calls.push(call);
    this.pool.acquire(fn, call);
    return call;
  }

  release(call: Call): void {
    if (!call.member) throw new Error(`call ${call.number} has no instance`);
    this.pool.release(call.member);
  }

  get up(): TestInstance[] {
    return this.instances.filter(({ isOver }) => !isOver);
  }

  async #launch(fn: FunctionVersion, { signal, canPause }: { signal: AbortSignal; canPause: boolean }): Promise<TestInstance> {
    this.starting += 1;
    this.launches += 1;
    this.startingMax = Math.max(this.startingMax, this.starting);
    try {
      await this.clock.sleep(this.startMs, signal);
    } finally {
      this.starting -= 1;
    }
    const error = this.startError?.();
    if (error) throw error;
    const instance = new TestInstance(fn, { number: this.instances.length, clock: this.clock, stopMs: 10 });
    if (canPause) {
      instance.pause = async () => void (instance.isPaused = true);
      instance.resume = async () => void (instance.isPaused = false);
    }
    this.instances.push(instance);
    return instance;
  }
}

const worlds: World[] = [];
afterEach(async () => {
  for (const world of worlds.splice(0)) {
    const closing = world.pool.close(0);
    await world.clock.advance(60_000);
    await closing;
    expect(world.up).toEqual([]);
    expect(world.starting).toBe(0);
  }
});

function worldOf(options: Options = {}): World {
  const world = new World(options);
  worlds.push(world);
  return world;
}

test('after its deadline a close starts nothing for who asks again', async () => {
  const world = worldOf();
  const call = world.call();
  await world.clock.advance(100);
  expect(call.member?.instance.id).toBe('i0');
  const closing = world.pool.close(50);
  await world.clock.advance(50);
  // Its instance is ended before it took the call.
  const again = new Call(1, Number.POSITIVE_INFINITY, () => {});
  world.pool.acquire(versionOf(), again, true);
  expect(again.error?.code).toBe('EXECUTOR_CLOSED');
  await world.clock.advance(10);
  await closing;
  expect(world.launches).toBe(1);
});

describe('who gets an instance', () => {
  test('the oldest waiter gets the first slot, whether freed or started', async () => {
    const world = worldOf();
    const first = world.call();
    await world.clock.advance(100);
    const [second, third] = [world.call(), world.call()];
    await world.clock.advance(50);
    world.release(first);
    expect(second.member?.instance.id).toBe('i0');
    expect(third.member).toBe(undefined);
    await world.clock.advance(50);
    expect(third.member?.instance.id).toBe('i1');
    expect(world.order).toEqual([0, 1, 2]);
  });

  test('the instance used last is used first; one that does not ask yet waits behind', async () => {
    const world = worldOf();
    const calls = [world.call(), world.call(), world.call()];
    await world.clock.advance(100);
    for (const call of calls) world.release(call);
    expect(world.call().member?.instance.id).toBe('i2');
    const [, second] = world.instances;
    if (second) second.isAsking = false;
    expect(world.call().member?.instance.id).toBe('i0');
    expect(world.call().member?.instance.id).toBe('i1');
  });

  test('slots of one instance are filled before another is started', async () => {
    const world = worldOf();
    const fn = versionOf({ concurrencyPerInstance: 3 });
    const calls = [1, 2, 3, 4].map(() => world.call(fn));
    await world.clock.advance(100);
    expect(world.launches).toBe(2);
    expect(calls.map(({ member }) => member?.instance.id)).toEqual(['i0', 'i0', 'i0', 'i1']);
  });

  test('starts are the waiters less the starts that go on', async () => {
    const world = worldOf();
    for (let index = 0; index < 5; index += 1) {
      world.call();
      expect(world.launches).toBe(index + 1);
    }
    await world.clock.advance(100);
    expect(world.launches).toBe(5);
  });

  test('short calls wait for the instances that are up: a start would come too late for them', async () => {
    const world = worldOf({ limits: { startsMax: 2 } });
    const calls = Array.from({ length: 60 }, () => world.call());
    await world.clock.advance(100);
    for (let turn = 0; turn < 40; turn += 1) {
      for (const call of calls.filter(({ member }) => member !== undefined)) {
        calls.splice(calls.indexOf(call), 1);
        world.release(call);
      }
      await world.clock.advance(2);
    }
    // Two more were started before the first call had ended.
    expect([calls.length, world.launches]).toEqual([0, 4]);
  });

  test('a long call among short ones holds nobody back for longer than a start', async () => {
    const world = worldOf();
    for (let turn = 0; turn < 20; turn += 1) {
      const call = world.call();
      await world.clock.advance(turn === 0 ? 100 : 1);
      world.release(call);
    }
    world.call();
    const waiting = world.call();
    await world.clock.advance(99);
    expect([world.launches, waiting.member]).toEqual([1, undefined]);
    await world.clock.advance(103);
    expect([world.launches, waiting.member?.instance.id]).toEqual([2, 'i1']);
  });

  /** 16 calls at once, of which each takes so long; resolves with how many instances were started for them and how long they took. */
  async function burst(world: World, fn: FunctionVersion, callMs: number): Promise<{ launches: number; ms: number }> {
    const [before, began] = [world.launches, world.clock.monotonic()];
    const running = new Map<Call, number>();
    const calls = new Set(Array.from({ length: 16 }, () => world.call(fn)));
    while (calls.size > 0) {
      const now = world.clock.monotonic();
      for (const call of calls) {
        if (call.member && !running.has(call)) running.set(call, now);
        if (now - (running.get(call) ?? now) < callMs) continue;
        calls.delete(call);
        world.release(call);
      }
      await world.clock.advance(1);
    }
    return { launches: world.launches - before, ms: world.clock.monotonic() - began };
  }

  test('a new version begins with the figures of the one that it replaces', async () => {
    const world = worldOf({ limits: { startsMax: 16 } });
    const versions = ['1', '2', '3', '4'].map((version) => versionOf({ version, fingerprint: version })) as [FunctionVersion, FunctionVersion, FunctionVersion, FunctionVersion]; // prettier-ignore
    // Nothing is known of the first one: each of those who wait gets an instance.
    expect((await burst(world, versions[0], 5)).launches).toBe(16);
    world.pool.retire('cook', ['2']);
    // A start takes as long as 20 calls.
    const second = await burst(world, versions[1], 5);
    expect(second.launches).toBe(1);
    expect(second.ms).toBeLessThan(100 + 16 * 6 + 5);
    // Its calls take longer than those before: that is noticed when no slot is freed for the time of a start.
    world.pool.retire('cook', ['3']);
    const third = await burst(world, versions[2], 300);
    expect(third.launches).toBe(16);
    expect(third.ms).toBeLessThan(100 + 100 + 100 + 300 + 10);
    // Now starts are what takes less.
    world.pool.retire('cook', ['4']);
    expect((await burst(world, versions[3], 300)).launches).toBe(16);
  });

  test('what is known of a function does not depend on its instances, and is not that of another', async () => {
    const world = worldOf();
    await burst(world, versionOf(), 5);
    await world.clock.advance(3_600_000);
    expect(world.up).toEqual([]);
    expect((await burst(world, versionOf(), 5)).launches).toBe(1);
    expect((await burst(world, versionOf({ name: 'other', fingerprint: 'other' }), 5)).launches).toBeGreaterThan(7);
  });

  test('functions take turns when starts are few', async () => {
    const world = worldOf({ limits: { startsMax: 1 } });
    const a = [1, 2, 3].map(() => world.call(versionOf({ fingerprint: 'a' })));
    const b = world.call(versionOf({ name: 'b', fingerprint: 'b' }));
    await world.clock.advance(300);
    expect([b.member?.instance.fn.name, a[2]?.member]).toEqual(['b', undefined]);
    await world.clock.advance(100);
    expect(a.every(({ member }) => member !== undefined)).toBe(true);
    expect(world.startingMax).toBe(1);
  });

  test('a waiter is refused at its time, and the slot goes to the next', async () => {
    const world = worldOf({ limits: { instancesPerFunctionMax: 1 }, queueTimeoutMs: 1_000 });
    const first = world.call();
    await world.clock.advance(500);
    const second = world.call();
    await world.clock.advance(900);
    const third = world.call();
    await world.clock.advance(150);
    expect(second.error?.code).toBe('QUEUE_TIMEOUT');
    world.release(first);
    expect(third.member?.instance.id).toBe('i0');
  });

  test('a call that gives up leaves the queue', async () => {
    const world = worldOf({ limits: { instancesPerFunctionMax: 1 } });
    const first = world.call();
    await world.clock.advance(100);
    const [second, third] = [world.call(), world.call()];
    expect([world.pool.cancel(second), world.pool.cancel(second), world.pool.cancel(first)]).toEqual([true, false, false]);
    world.release(first);
    expect([second.member, third.member?.instance.id, world.pool.queue.depth]).toEqual([undefined, 'i0', 0]);
  });

  test('a drained instance ends after its last call', async () => {
    const world = worldOf();
    const fn = versionOf({ concurrencyPerInstance: 2 });
    const [one, other] = [world.call(fn), world.call(fn)];
    await world.clock.advance(100);
    if (one.member) world.pool.drain(one.member);
    world.release(one);
    const third = world.call(fn);
    await world.clock.advance(100);
    expect(third.member?.instance.id).toBe('i1');
    world.release(other);
    await world.clock.advance(10);
    expect(world.up.map(({ id }) => id)).toEqual(['i1']);
  });
});

describe('starts that fail', () => {
  const failure = new RunnerError('FUNCTION_INIT_FAILED', 'no module');

  test('all who wait get the error when no other instance is up or coming', async () => {
    const world = worldOf({ limits: { startsMax: 2 } });
    world.startError = () => failure;
    const calls = [1, 2, 3, 4].map(() => world.call());
    await world.clock.advance(100);
    expect(calls.map(({ error }) => error)).toEqual([failure, failure, failure, failure]);
    expect(world.launches).toBe(2);
  });

  test('another instance serves those who wait', async () => {
    const world = worldOf();
    let starts = 0;
    world.startError = () => ((starts += 1) === 1 ? failure : undefined);
    const calls = [world.call(), world.call()];
    await world.clock.advance(100);
    expect(calls.map(({ error, member }) => [error, member?.instance.id])).toContainEqual([undefined, 'i0']);
    expect(calls.some(({ error }) => error !== undefined)).toBe(false);
    await world.clock.advance(200);
    expect(calls.every(({ member }) => member !== undefined)).toBe(true);
  });

  test('are tried again later and later, and a success forgets them', async () => {
    const world = worldOf();
    world.startMs = 1;
    world.startError = () => failure;
    for (let second = 0; second < 100; second += 1) {
      world.call();
      await world.clock.advance(100);
    }
    expect(world.calls.every(({ error }) => error === failure)).toBe(true);
    expect(world.launches).toBeGreaterThan(6);
    expect(world.launches).toBeLessThan(12);
    world.startError = undefined;
    await world.clock.advance(10_000);
    const good = world.call();
    await world.clock.advance(1);
    expect(good.member?.instance.id).toBe('i0');
  });

  test('warming tells of it; instances that are to stay are tried again', async () => {
    const world = worldOf();
    world.startError = () => failure;
    const warming = world.pool.warm(versionOf(), 2, true);
    const outcome = expect(warming).rejects.toBe(failure);
    await world.clock.advance(100);
    await outcome;
    world.startError = undefined;
    await world.clock.advance(1_000);
    expect(world.up).toHaveLength(2);
  });
});

describe('what is kept', () => {
  test('an idle instance ends after its time, from its last call on', async () => {
    const world = worldOf({ keepAlive: fixedKeepAlive({ keepMs: 1_000 }) });
    world.release(await leased(world));
    await world.clock.advance(900);
    const again = world.call();
    await world.clock.advance(5_000);
    expect(world.up).toHaveLength(1);
    world.release(again);
    await world.clock.advance(999);
    expect(world.up).toHaveLength(1);
    await world.clock.advance(20);
    expect([world.up, world.ended]).toEqual([[], ['f0 idle']]);
  });

  test('an instance is paused, resumed for a call, paused again, and ended', async () => {
    const world = worldOf({ keepAlive: fixedKeepAlive({ keepMs: 10_000, pauseAfterMs: 1_000 }), canPause: true });
    world.release(await leased(world));
    const [instance] = world.instances;
    await world.clock.advance(999);
    expect(instance?.isPaused).toBe(false);
    await world.clock.advance(1);
    expect(instance?.isPaused).toBe(true);
    const call = world.call();
    await world.clock.settle();
    expect([call.member?.instance.id, instance?.isPaused]).toEqual(['i0', false]);
    world.release(call);
    await world.clock.advance(1_001);
    expect(instance?.isPaused).toBe(true);
    await world.clock.advance(9_020);
    expect(world.up).toEqual([]);
  });

  test('a call that comes while the instance is being paused gets it resumed', async () => {
    const world = worldOf({ keepAlive: fixedKeepAlive({ pauseAfterMs: 1_000 }), canPause: true });
    world.release(await leased(world));
    const [instance] = world.instances;
    if (!instance) throw new Error('no instance');
    instance.pause = () => world.clock.sleep(50).then(() => void (instance.isPaused = true));
    await world.clock.advance(1_010);
    const call = world.call();
    await world.clock.advance(39);
    expect(call.member).toBe(undefined);
    await world.clock.advance(1);
    expect([call.member?.instance.id, instance.isPaused]).toEqual(['i0', false]);
  });

  test('the budget of memory makes room, and one instance always runs', async () => {
    const world = worldOf({ keepAlive: fixedKeepAlive({ memoryMbMax: 500 }) });
    const small = versionOf({ name: 'small', fingerprint: 's', memoryMb: 200 });
    const large = versionOf({ name: 'large', fingerprint: 'l', memoryMb: 900 });
    const both = [world.call(small), world.call(small)];
    await world.clock.advance(100);
    const waiting = world.call(large);
    await world.clock.advance(1_000);
    expect([waiting.member, world.up.length]).toEqual([undefined, 2]);
    for (const call of both) world.release(call);
    await world.clock.advance(200);
    expect([waiting.member?.instance.fn.name, world.up.length, world.ended]).toEqual(['large', 1, ['s room', 's room']]);
  });

  test('no more instances end than are needed for room', async () => {
    const world = worldOf({ limits: { instancesMax: 4 } });
    const idle = [1, 2, 3, 4].map(() => world.call());
    await world.clock.advance(100);
    for (const call of idle) world.release(call);
    world.call(versionOf({ name: 'b', fingerprint: 'b' }));
    await world.clock.advance(200);
    expect(world.ended).toEqual(['f0 room']);
    expect(world.calls.at(-1)?.member?.instance.fn.name).toBe('b');
  });

  test('warm counts what is up, and what is more than the limit is refused', async () => {
    const world = worldOf({ limits: { instancesPerFunctionMax: 3 } });
    const warming = [world.pool.warm(versionOf(), 2), world.pool.warm(versionOf(), 3)];
    await world.clock.advance(100);
    await Promise.all(warming);
    expect(world.launches).toBe(3);
    await expect(world.pool.warm(versionOf(), 4)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});

describe('a retired version', () => {
  test('idle ones end at once, busy ones after their call, starts without a waiter are given up', async () => {
    const world = worldOf();
    const [busy, idle] = [world.call(), world.call()];
    await world.clock.advance(100);
    world.release(idle);
    void world.pool.warm(versionOf(), 4).catch(() => {});
    expect(world.starting).toBe(2);
    world.pool.retire('cook', ['f1']);
    await world.clock.advance(10);
    expect([world.up.length, world.starting]).toEqual([1, 0]);
    world.release(busy);
    await world.clock.advance(10);
    expect(world.up).toEqual([]);
  });

  test('who waited is still served; who comes later gets a new instance', async () => {
    const world = worldOf({ limits: { instancesPerFunctionMax: 1 } });
    const first = world.call();
    await world.clock.advance(100);
    const waiting = world.call();
    world.pool.retire('cook', []);
    const later = world.call();
    world.release(first);
    expect(waiting.member?.instance.id).toBe('i0');
    world.release(waiting);
    await world.clock.advance(100);
    expect(later.member?.instance.id).toBe('i1');
    expect(world.up.map(({ id }) => id)).toEqual(['i1']);
  });
});

async function leased(world: World): Promise<Call> {
  const call = world.call();
  await world.clock.advance(100);
  return call;
}

describe('anything in any order', () => {
  const seeds = Array.from({ length: 60 }, (_, index) => index + 1);

  test.each(seeds)('seed %i keeps the rules', async (seed) => {
    const random = new Random(seed);
    const slots = random.pick([1, 1, 3]);
    const limits = {
      instancesMax: random.int(2, 8),
      instancesPerFunctionMax: random.int(1, 5),
      startsMax: random.int(1, 4),
      queueMax: random.int(3, 20),
    };
    const keepAlive = fixedKeepAlive({ keepMs: random.int(50, 2_000), ...(random.chance(0.5) && { pauseAfterMs: random.int(10, 500) }) });
    const world = worldOf({ limits, keepAlive, queueTimeoutMs: 3_000, canPause: random.chance(0.5) });
    const run = new RandomRun(world, { random, slots });
    for (let step = 0; step < 300; step += 1) {
      await run.step();
      run.check();
    }
    await run.finish();
  });
});

class RandomRun {
  readonly #world: World;
  readonly #random: Random;
  readonly #slots: number;
  /** By function name: how often it was retired. The fingerprint stays. */
  readonly #epochs = new Map<string, number>();
  readonly #callEpochs = new Map<Call, number>();
  readonly #bornIn = new Map<TestInstance, number>();
  readonly #running = new Set<Call>();
  #seen = 0;

  constructor(world: World, { random, slots }: { random: Random; slots: number }) {
    this.#world = world;
    this.#random = random;
    this.#slots = slots;
    world.startError = () => (random.chance(0.1) ? new RunnerError('INSTANCE_START_FAILED', 'bad luck') : undefined);
  }

  async step(): Promise<void> {
    const random = this.#random;
    const world = this.#world;
    this.#collect();
    const running = [...this.#running];
    const name = random.pick(['a', 'b', 'c']);
    const dice = random.next();
    if (dice < 0.4) {
      const call = world.call(this.#version(name));
      this.#callEpochs.set(call, this.#epochs.get(name) ?? 0);
    } else if (dice < 0.65 && running.length > 0) this.#release(random.pick(running));
    else if (dice < 0.7) world.pool.cancel(random.pick(world.calls.length > 0 ? world.calls : [world.call(this.#version(name))]));
    else if (dice < 0.74 && world.up.length > 0) random.pick(world.up).die();
    else if (dice < 0.78 && running.length > 0) {
      const { member } = random.pick(running);
      if (member) void world.pool.discard(member);
    } else if (dice < 0.82) {
      world.pool.retire(name, []);
      this.#epochs.set(name, (this.#epochs.get(name) ?? 0) + 1);
    } else await world.clock.advance(random.int(1, 150));
    await world.clock.settle();
  }

  check(): void {
    this.#collect();
    const { pool, limits } = this.#world;
    const leases = new Map<TestInstance, number>();
    for (const { member } of this.#running) if (member) leases.set(member.instance, (leases.get(member.instance) ?? 0) + 1);
    for (const [instance, count] of leases) expect(count, instance.id).toBeLessThanOrEqual(this.#slots);
    expect(this.#world.startingMax).toBeLessThanOrEqual(limits.startsMax);
    expect(this.#world.up.length + this.#world.starting).toBeLessThanOrEqual(limits.instancesMax);
    for (const name of ['a', 'b', 'c']) this.#checkFunction(name);
    for (const member of pool.members()) expect(member.busy, member.instance.id).toBe(leases.get(member.instance) ?? 0);
  }

  /** Nothing waits while there is a slot for it, and the order of service is the order of arrival. */
  #checkFunction(name: string): void {
    const members = this.#world.pool.members().filter(({ instance, state }) => instance.fn.name === name && state !== 'draining');
    for (const { group, busy } of members) {
      if (group.waiters.length > 0) expect(busy, `a free slot of ${name} although somebody waits`).toBe(this.#slots);
    }
    for (const { group } of members) {
      const waiting = [...group.waiters].filter((waiter): waiter is Call => waiter instanceof Call).map(({ number }) => number);
      expect(waiting).toEqual(waiting.toSorted((one, other) => one - other));
    }
  }

  /** Calls that got an instance since the last look: of the epoch in which they came, or later. */
  #collect(): void {
    const { order, calls } = this.#world;
    for (; this.#seen < order.length; this.#seen += 1) {
      const call = calls[order[this.#seen] ?? -1];
      if (!call?.member) throw new Error('a lease without a call');
      this.#running.add(call);
      const { instance } = call.member;
      const epoch = this.#callEpochs.get(call) ?? 0;
      const born = this.#bornIn.get(instance) ?? epoch;
      this.#bornIn.set(instance, born);
      expect(born, `call ${call.number} got old code`).toBe(epoch);
    }
  }

  #release(call: Call): void {
    this.#running.delete(call);
    this.#world.release(call);
  }

  /** When all calls end, nobody waits any more and nothing is left over. */
  async finish(): Promise<void> {
    const world = this.#world;
    world.startError = undefined;
    for (let round = 0; round < 200; round += 1) {
      this.#collect();
      for (const call of this.#running) this.#release(call);
      await world.clock.advance(100);
    }
    expect([world.pool.queue.depth, this.#running.size]).toEqual([0, 0]);
    expect(world.calls.every(({ member, error, group }) => member !== undefined || error !== undefined || group === undefined)).toBe(true);
    await world.clock.advance(10_000);
    expect(world.up).toEqual([]);
    expect(world.pool.members()).toEqual([]);
  }

  #version(name: string): FunctionVersion {
    return versionOf({ name, fingerprint: name, concurrencyPerInstance: this.#slots });
  }
}
