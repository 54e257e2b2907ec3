import { expect, it, onTestFinished } from 'vitest';
import { RunnerError } from '../errors.ts';
import { Metadata } from '../job/call.ts';
import type { JobCall } from '../job/call.ts';
import { SqliteLedger } from '../ledger/sqlite.ts';
import { BlueprintRunner } from '../runner/runner.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { EmbeddedQueue } from './embedded.ts';
import type { ObjectStore } from './queue.ts';
import { QueueExecutor } from './queue-executor.ts';

const SECOND = 1_000;
/** So long a client looks for its control plane before it says that nobody is there. */
const RECONNECT_MS = 500;
const NO_OBJECTS = {} as ObjectStore; // an image needs none
const answerOf = (payload: unknown): Uint8Array => {
  const { args_base64 } = JSON.parse(Buffer.from(payload as Uint8Array).toString()) as { args_base64: string };
  return Buffer.from(JSON.stringify({ result_base64: args_base64 }));
};

/** A queue that can be away from all that use it, a worker of it, and a runner whose job 0 is run there. Time is virtual. */
class World {
  readonly clock = new FakeClock();
  readonly queue = EmbeddedQueue.open({ folder: ':memory:', clock: this.clock });
  /** When each call came and was done, by the clock. */
  readonly times = new Map<string, { readonly cameAt: number; doneAt?: number }>();
  readonly executions: string[] = [];
  #left = new AbortController();
  isAway = false;

  constructor() {
    const { queue } = this;
    const result = queue.result.bind(queue);
    queue.publish = this.#whileThere(queue.publish.bind(queue));
    queue.status = this.#whileThere(queue.status.bind(queue));
    queue.result = this.#whileThere(async (id, { signal } = {}) => {
      const left = this.#left.signal;
      try {
        return await result(id, { signal: signal ? AbortSignal.any([signal, left]) : left });
      } catch (error) {
        throw left.aborted ? new RunnerError('EXECUTOR_CONNECTION_LOST', 'the connection was lost') : error;
      }
    });
  }

  /** Begins to run calls, one each 250 ms. */
  async start(calls: number): Promise<void> {
    const { clock, queue } = this;
    const ledger = SqliteLedger.open({ path: ':memory:', clock });
    const runner = await BlueprintRunner.builder({ drainMs: SECOND, concurrency: 16 }, {})
      .clock(clock)
      .telemetry(silentTelemetry)
      .ledger(ledger)
      .withFaasExecutor(0, new QueueExecutor({ queue, objects: NO_OBJECTS, artifact: 'image:jobs', clock }))
      .producer({ name: 'steady', calls: () => this.#calls(calls) })
      .consumer({ name: 'times', consume: async (_, { id }) => this.#done(id) })
      .start();
    const stop = new AbortController();
    void this.#work(stop.signal);
    onTestFinished(async () => {
      stop.abort();
      await Promise.all([runner.stop(), clock.advance(60 * SECOND)]);
      await Promise.all([ledger.close(), queue.close()]);
    });
  }

  leave(): void {
    this.isAway = true;
    this.#left.abort();
  }

  comeBack(): void {
    this.isAway = false;
    this.#left = new AbortController();
  }

  #done(id: string): void {
    const { cameAt, doneAt } = this.times.get(id) ?? { cameAt: Number.NaN };
    expect(doneAt).toBeUndefined();
    this.times.set(id, { cameAt, doneAt: this.clock.monotonic() });
  }

  async *#calls(count: number): AsyncGenerator<JobCall> {
    for (let index = 0; index < count; index += 1) {
      const id = `call-${index}`;
      this.times.set(id, { cameAt: this.clock.monotonic() });
      yield { id, jobId: 0n, body: Buffer.from(String(index)), metadata: new Metadata() };
      await this.clock.sleep(250);
    }
  }

  async #work(stop: AbortSignal): Promise<void> {
    while (!stop.aborted) {
      await this.clock.sleep(50);
      if (this.isAway) continue;
      for (const { id, lease, payload } of await this.queue.claim({ workerId: 'w', max: 10, waitMs: 0 })) {
        this.executions.push(id);
        await this.queue.complete(lease, { body: answerOf(payload) });
      }
    }
  }

  #whileThere<Parameters extends unknown[], Result>(ask: (...parameters: Parameters) => Promise<Result>) {
    return async (...parameters: Parameters): Promise<Result> => {
      const until = this.clock.monotonic() + RECONNECT_MS;
      while (this.isAway) {
        if (this.clock.monotonic() >= until) throw new RunnerError('EXECUTOR_UNREACHABLE', 'nobody listens');
        await this.clock.sleep(250);
      }
      return ask(...parameters);
    };
  }
}

it.each([3, 8, 30, 90, 900])('after %i s without the queue its calls are done within two seconds, each run once', async (seconds) => {
  const world = new World();
  const calls = 8 * Math.min(seconds, 30);
  await world.start(calls);
  await world.clock.advance(2 * SECOND);
  world.leave();
  await world.clock.advance(seconds * SECOND);
  world.comeBack();
  const backAt = world.clock.monotonic();
  await world.clock.advance(120 * SECOND);
  const times = [...world.times.values()];
  expect(times).toHaveLength(calls);
  const waits = times.map(({ cameAt, doneAt = Number.POSITIVE_INFINITY }) => doneAt - Math.max(backAt, cameAt));
  expect(Math.max(...waits)).toBeLessThanOrEqual(2 * SECOND);
  expect(world.executions.toSorted()).toEqual([...world.times.keys()].toSorted());
});
