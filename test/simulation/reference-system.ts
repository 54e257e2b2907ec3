/**
 * The smallest system that keeps every promise of the runner, on a disk that is a map. It exists to prove the simulation itself: the
 * checker finds nothing wrong with it, and finds each of the faults that can be planted in it.
 */

import { hash as digest } from 'node:crypto';
import { keccak256 } from 'viem/utils';
import type { ChainUpdate } from '../../src/chain/chain.ts';
import { isRunnerError } from '../../src/errors.ts';
import type { ChainCall, Hex, JobCall } from '../../src/job/call.ts';
import { Metadata } from '../../src/job/call.ts';
import type { BlockRef, Cursor } from '../../src/ledger/ledger.ts';
import type { SimulatedSystem, SystemUnderTest } from '../../src/testing/simulation.ts';
import type { SimulationWorld } from '../../src/testing/simulation-world.ts';

export type PlantedFault =
  /** Signs without asking whether the call is still on the chain, and goes by call ids alone. */
  | 'skip-inputs-check'
  /** Sends again with another nonce when the endpoint did not answer. */
  | 'submit-twice'
  /** Moves the cursor before the calls are journaled. */
  | 'lose-call'
  /** Forgets at every start what was executed. */
  | 'rerun'
  /** Never looks after a transaction again. */
  | 'forget-sent'
  /** Holds everything in memory. */
  | 'unbounded';

interface Entry {
  readonly key: string;
  origin: ChainCall;
  isOrphaned: boolean;
  output?: Uint8Array;
  ended?: boolean;
}

interface Sent {
  readonly raw: Hex;
  readonly hash: Hex;
  readonly key: string;
}

/** What survives. */
class Disk {
  cursor: Cursor | undefined;
  readonly entries = new Map<string, Entry>();
  /** By nonce. */
  readonly sent: Sent[] = [];
}

const TICK_MS = 1_000;
const DEADLINE_MS = 20_000;
const MAX_FEE = 100_000_000_000n;
const PARALLEL = 8;

export function referenceSystem(fault?: PlantedFault): SimulatedSystem {
  const disk = new Disk();
  return {
    start(world) {
      const life = new Life(world, disk, fault);
      return { system: life, ready: life.start() };
    },
  };
}

class Life implements SystemUnderTest {
  readonly #world: SimulationWorld;
  readonly #disk: Disk;
  readonly #fault: PlantedFault | undefined;
  readonly #end = new AbortController();
  readonly #running = new Set<string>();
  readonly #hoard: unknown[] = [];
  readonly #refusals = new Map<string, bigint>();
  #head: BlockRef | undefined;
  #loops: Promise<unknown> | undefined;

  constructor(world: SimulationWorld, disk: Disk, fault: PlantedFault | undefined) {
    this.#world = world;
    this.#disk = disk;
    this.#fault = fault;
  }

  async start(): Promise<void> {
    if (this.#fault === 'rerun') for (const entry of this.#disk.entries.values()) delete entry.output;
    this.#loops = Promise.all([this.#follow(), this.#everyTick(() => this.#executeSome()), this.#everyTick(() => this.#settleSome())]);
  }

  crash(): void {
    // The disk is all there is.
  }

  async stop(): Promise<void> {
    this.#end.abort();
    await this.#loops;
  }

  inspect(): { readonly queued: number; readonly queuedMax: number } {
    return { queued: this.#running.size + this.#hoard.length, queuedMax: PARALLEL };
  }

  async #write(change: () => void): Promise<void> {
    await this.#world.step('disk');
    change();
    await this.#world.step('disk');
  }

  async #everyTick(work: () => Promise<void>): Promise<void> {
    const { clock } = this.#world;
    while (!this.#end.signal.aborted) {
      await work().catch((error: unknown) => {
        if (!isRunnerError(error)) throw error;
      });
      await clock.sleep(TICK_MS, this.#end.signal).catch(() => undefined);
    }
  }

  async #follow(): Promise<void> {
    const { cursor } = this.#disk;
    const from = cursor ? { cursor } : { fromBlock: 0n };
    for await (const update of this.#world.chain.follow({ ...from, signal: this.#end.signal })) await this.#take(update);
  }

  async #take(update: ChainUpdate): Promise<void> {
    switch (update.type) {
      case 'head':
        this.#head = update.block;
        return;
      case 'reorg':
        this.#refusals.clear();
        await this.#write(() => {
          this.#disk.cursor = update.cursor;
          if (this.#fault === 'skip-inputs-check') return;
          for (const entry of this.#disk.entries.values())
            if (entry.origin.blockNumber > update.cursor.block.number) entry.isOrphaned = true;
        });
        return;
      case 'calls':
        if (this.#fault === 'lose-call') await this.#write(() => (this.#disk.cursor = update.cursor));
        if (this.#fault === 'unbounded') this.#hoard.push(...update.calls);
        await this.#write(() => {
          for (const call of update.calls) this.#see(call);
          this.#disk.cursor = update.cursor;
        });
    }
  }

  #see(call: ChainCall): void {
    const binding =
      this.#fault === 'skip-inputs-check'
        ? ''
        : digest('sha256', Buffer.concat([Buffer.from(`${call.jobIndex}/${call.caller}/`), call.inputs]));
    const key = `${call.serviceId}/${call.callId}/${binding}`;
    const known = this.#disk.entries.get(key);
    if (!known) {
      this.#disk.entries.set(key, { key, origin: call, isOrphaned: false });
      return;
    }
    known.isOrphaned = false;
    if (this.#fault === 'skip-inputs-check') known.origin = { ...known.origin, blockNumber: call.blockNumber };
    else known.origin = call;
  }

  async #executeSome(): Promise<void> {
    for (const entry of this.#disk.entries.values()) {
      if (this.#running.size >= PARALLEL) return;
      if (entry.output || entry.ended || entry.isOrphaned || this.#running.has(entry.key)) continue;
      this.#running.add(entry.key);
      void this.#execute(entry).finally(() => this.#running.delete(entry.key));
    }
  }

  async #execute(entry: Entry): Promise<void> {
    const { clock, executor } = this.#world;
    const call: JobCall = {
      id: entry.key,
      jobId: BigInt(entry.origin.jobIndex),
      body: entry.origin.inputs,
      metadata: new Metadata(),
      origin: entry.origin,
    };
    for (let attempt = 1; !entry.isOrphaned && !this.#end.signal.aborted; attempt += 1) {
      try {
        const { results } = await executor.invoke(call, { attempt, deadline: clock.now() + DEADLINE_MS, signal: this.#end.signal });
        const output = results[0]?.body;
        await this.#write(() => {
          if (output) entry.output = output;
          this.#world.journaled(entry.key);
        });
        return;
      } catch (error) {
        if (!isRunnerError(error)) throw error;
        if (!error.retryable) {
          await this.#write(() => (entry.ended = true));
          return;
        }
        await clock.sleep(500 * attempt, this.#end.signal).catch(() => undefined);
      }
    }
  }

  async #settleSome(): Promise<void> {
    const { chain, signer, confirmations } = this.#world;
    if (this.#fault !== 'forget-sent') await this.#lookAfterSent();
    if (!this.#head) return;
    const through = this.#head.number - BigInt(confirmations);
    const inFlight = new Set(this.#disk.sent.map((sent) => sent.key));
    const ready = [...this.#disk.entries.values()].filter(
      (entry) => entry.output && !entry.ended && !entry.isOrphaned && entry.origin.blockNumber <= through && !inFlight.has(entry.key),
    );
    for (const entry of ready.slice(0, 3)) {
      const { serviceId, callId } = entry.origin;
      const request = chain.encodeResults({ serviceId, callIds: [callId], results: [entry.output ?? new Uint8Array()] });
      const simulation = await chain.simulate(signer.address, request);
      const [isThere] = this.#fault === 'skip-inputs-check' ? [true] : await chain.confirm([entry.origin]);
      if (!isThere) continue;
      if (simulation.outcome === 'revert') {
        if (simulation.error !== 'JobCallNotFound') await this.#refused(entry, this.#head);
        continue;
      }
      await this.#send(entry, request);
    }
  }

  /** What the contract refuses because of another's result can be wanted again after a reorg: only a lasting refusal counts. */
  async #refused(entry: Entry, head: BlockRef): Promise<void> {
    const since = this.#refusals.get(entry.key) ?? head.number;
    this.#refusals.set(entry.key, since);
    if (head.number - since >= BigInt(this.#world.confirmations)) await this.#write(() => (entry.ended = true));
  }

  async #send(entry: Entry, request: { readonly to: Hex; readonly data: Hex }): Promise<void> {
    const { chain, signer } = this.#world;
    const transaction = {
      ...request,
      type: 'eip1559',
      chainId: chain.chainId,
      value: 0n,
      gas: 300_000n,
      maxFeePerGas: MAX_FEE,
      maxPriorityFeePerGas: 1n,
    } as const;
    const raw = await signer.signTransaction({ ...transaction, nonce: this.#disk.sent.length });
    await this.#write(() => this.#disk.sent.push({ raw, hash: keccak256(raw), key: entry.key }));
    try {
      await chain.send(raw);
    } catch (error) {
      if (this.#fault === 'submit-twice') {
        const again = await signer.signTransaction({ ...transaction, nonce: this.#disk.sent.length });
        await this.#write(() => this.#disk.sent.push({ raw: again, hash: keccak256(again), key: entry.key }));
      }
      throw error;
    }
  }

  async #lookAfterSent(): Promise<void> {
    const { chain } = this.#world;
    const receipts = await chain.receipts(this.#disk.sent.map((sent) => sent.hash));
    for (const [index, sent] of this.#disk.sent.entries()) if (!receipts[index]) await chain.send(sent.raw);
  }
}
