/** Which workers are there, as the control plane tells it: five machines on a switch, whose cables are pulled and plugged in again. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import { ControlPlane } from '../../src/control/control.ts';
import type { MembershipEvent } from '../../src/control/membership.ts';
import type { WorkerDocument } from '../../src/control/workers.ts';
import { ControlClient } from '../../src/queue/control-client.ts';
import type { ControlCredentials } from '../../src/queue/control-client.ts';
import type { Logger } from '../../src/telemetry/telemetry.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { FakeClock } from '../../src/testing/fake-clock.ts';
import { newFolder } from '../support/gateway.ts';
import { Network, requireNamespaces } from '../support/netns.ts';
import type { Host } from '../support/netns.ts';
import { WorkerCommand } from '../support/worker-command.ts';

const it = requireNamespaces();
const NAMES = ['one', 'two', 'three', 'four', 'five'];
const WAIT = { timeout: 120_000, interval: 20 };
/** Two of them are less than the minute after which a worker is lost. */
const STEP_MS = 20_000;
const STEPS_MAX = 10;
/** Six processes begin, on a machine that may be busy, and figures come every five seconds. */
const LIMIT_MS = 300_000;

/** A control plane whose time the test moves, and what it says of its workers. */
class World {
  readonly clock = new FakeClock({ startMs: Date.now() });
  readonly logged: string[] = [];
  readonly names = new Map<string, string>();
  readonly #folder: string;
  readonly #control: ControlPlane;
  #client: ControlClient | undefined;

  constructor(folder: string) {
    this.#folder = folder;
    const line = (message: string, { worker }: { readonly worker?: unknown } = {}): void =>
      void (typeof worker === 'string' && this.logged.push(`${message}: ${this.names.get(worker) ?? ''}`));
    const log: Logger = { debug: line, info: line, warn: line, error: line, child: () => log };
    this.#control = new ControlPlane({ folder: join(folder, 'c'), clock: this.clock, telemetry: { ...silentTelemetry, log } });
  }

  async listen(host: string): Promise<void> {
    onTestFinished(() => this.#control.close(0));
    await this.#control.listen({ host, port: 0 });
    const { url, tlsKeySha256 } = JSON.parse(readFileSync(join(this.#folder, 'c/control.json'), 'utf8')) as ControlCredentials & { url: string; tlsKeySha256: string }; // prettier-ignore
    const token = readFileSync(join(this.#folder, 'c/admin.token'), 'utf8').trim();
    const client = (this.#client = new ControlClient({ credentials: { url, tlsKeySha256, token } }));
    onTestFinished(() => client.close());
  }

  /** A worker on this machine; resolves when it claims jobs. */
  async start({ name, through }: Host): Promise<WorkerCommand> {
    const ticket = readFileSync(join(this.#folder, 'c/endpoint.ticket'), 'utf8');
    const worker = new WorkerCommand({ folder: join(this.#folder, name), through }, { CONTROL_PLANE_TICKET: ticket });
    onTestFinished(async () => {
      await worker.kill();
    });
    const { workerId } = await worker.until('enrolled');
    this.names.set(String(workerId), name);
    await worker.until('ready');
    return worker;
  }

  async events(after = 0): Promise<readonly MembershipEvent[]> {
    return (await this.ask('GET', `/workers/events?after=${after}`))['events'] as readonly MembershipEvent[];
  }

  async changes(after?: number): Promise<readonly string[]> {
    return (await this.events(after)).map(({ worker, change }) => `${this.names.get(worker)} ${change}`).toSorted();
  }

  /** The names of those that are there. */
  async present(): Promise<readonly string[]> {
    return (await this.#workers()).filter(({ isPresent }) => isPresent).map(({ name }) => name);
  }

  /** Time passes until so many things have happened since; the control plane hears of the others meanwhile. */
  async passUntil(events: number, { after, others }: { readonly after: number; readonly others: readonly string[] }): Promise<void> {
    for (let steps = 0; steps < STEPS_MAX && (await this.events(after)).length < events; steps += 1) {
      await this.clock.advance(STEP_MS);
      const since = this.clock.now() - STEP_MS;
      const silent = async (): Promise<readonly string[]> =>
        (await this.#workers()).filter(({ name, lastSeenAt = 0 }) => others.includes(name) && lastSeenAt < since).map(({ name }) => name);
      await expect.poll(silent, WAIT).toEqual([]);
    }
  }

  ask(method: 'GET' | 'DELETE', path: string): Promise<Readonly<Record<string, unknown>>> {
    if (!this.#client) throw new Error('it does not listen yet');
    return this.#client.ask({ method, path });
  }

  async #workers(): Promise<readonly (WorkerDocument & { readonly name: string })[]> {
    const { workers } = await this.ask('GET', '/workers');
    return (workers as readonly WorkerDocument[]).map((worker) => ({ ...worker, name: this.names.get(worker.id) ?? '' }));
  }
}

it(
  'of five workers two are cut off, and come back; one leaves and joins again, one is killed, one is revoked',
  async () => {
    const network = await Network.create(NAMES);
    onTestFinished(() => network.remove());
    const [one, two, three, four, five] = network.hosts as [Host, Host, Host, Host, Host]; // one for each name
    const world = new World(await newFolder());
    await world.listen(one.address.replace(/\d+$/, '254'));
    const workers = await Promise.all(network.hosts.map((host) => world.start(host)));
    expect(await world.changes()).toEqual(NAMES.map((name) => `${name} joined`).toSorted());
    expect((await world.present()).toSorted()).toEqual(NAMES.toSorted());

    let last = (await world.events()).at(-1)?.number ?? 0;
    for (const host of [four, five]) await host.cable('down');
    await world.passUntil(2, { after: last, others: ['one', 'two', 'three'] });
    expect(await world.changes(last)).toEqual(['five lost', 'four lost']);
    expect((await world.present()).toSorted()).toEqual(['one', 'three', 'two']);
    for (const host of [four, five]) await host.cable('up');
    await expect.poll(() => world.changes(last), WAIT).toEqual(['five lost', 'five returned', 'four lost', 'four returned']);
    expect((await world.present()).toSorted()).toEqual(NAMES.toSorted());

    last = (await world.events()).at(-1)?.number ?? 0;
    expect(await workers[0]?.kill('SIGTERM')).toBe(0);
    await expect.poll(() => world.changes(last), WAIT).toEqual(['one left']);
    await world.start(one);
    expect(await world.changes(last)).toEqual(['one joined', 'one left']);

    last = (await world.events()).at(-1)?.number ?? 0;
    await workers[1]?.kill();
    await world.passUntil(1, { after: last, others: ['one', 'three', 'four', 'five'] });
    expect(await world.changes(last)).toEqual(['two lost']);

    last = (await world.events()).at(-1)?.number ?? 0;
    await world.ask('DELETE', `/workers/${[...world.names].find(([, name]) => name === 'three')?.[0]}`);
    expect(await world.changes(last)).toEqual(['three left']);
    expect([await workers[2]?.ended, (await world.present()).toSorted()]).toEqual([2, ['five', 'four', 'one']]);
    expect(world.logged).toEqual(
      expect.arrayContaining(['a worker is not heard of any more: four', 'a worker is heard of again: four', 'a worker left: one']),
    );
    expect([two.name, three.name]).toEqual(['two', 'three']);
  },
  LIMIT_MS,
);
