/** As much of a ledger as settlement needs, in memory: for tests that die at every step of it thousands of times. */

import type { Clock } from '../../src/clock.ts';
import type { SettlementLedger } from '../../src/chain/chain.ts';
import type { Address, ChainCall, JobResult } from '../../src/job/call.ts';
import { Metadata } from '../../src/job/call.ts';
import type {
  CallRecord,
  CallState,
  Cursor,
  Ledger,
  LedgerTransaction,
  NewTransaction,
  PendingResult,
  SeenOutcome,
} from '../../src/ledger/ledger.ts';

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
type Call = Mutable<CallRecord> & { before: CallState };
type Transaction = Mutable<LedgerTransaction> & { final: boolean };
type Mined = Parameters<Ledger['recordMined']>[1];

export class MemoryLedger implements SettlementLedger, Pick<Ledger, 'recordSeen' | 'recordReorg' | 'recordExecuted' | 'find' | 'close'> {
  readonly #clock: Clock;
  readonly #calls: Call[] = [];
  readonly #transactions: Transaction[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  async recordSeen(calls: readonly ChainCall[], _cursor?: Cursor): Promise<SeenOutcome[]> {
    return calls.map((origin) => {
      const id = [origin.serviceId, origin.callId, origin.jobIndex, origin.caller, Buffer.from(origin.inputs).toString('hex')].join('/');
      const known = this.#calls.find((call) => call.call.id === id);
      if (!known) {
        const seq = this.#calls.length + 1;
        const call = { id, jobId: BigInt(origin.jobIndex), body: origin.inputs, metadata: new Metadata(), origin };
        this.#calls.push({
          seq,
          call,
          state: 'seen',
          before: 'seen',
          attempts: 0,
          seenAt: this.#clock.now(),
          updatedAt: this.#clock.now(),
        });
        return 'new';
      }
      known.call = { ...known.call, origin };
      if (known.state !== 'orphaned') return 'known';
      known.state = known.before;
      return 'restored';
    });
  }

  async recordReorg(cursor: Cursor): Promise<number[]> {
    const gone = this.#calls.filter(
      (call) => (call.call.origin?.blockNumber ?? 0n) > cursor.block.number && call.state !== 'final' && call.state !== 'orphaned',
    );
    for (const call of gone) orphan(call);
    return gone.map((call) => call.seq);
  }

  async recordOrphaned(seq: number): Promise<void> {
    orphan(this.#call(seq));
  }

  async recordExecuted(seq: number, result: JobResult | undefined, _detail?: Parameters<Ledger['recordExecuted']>[2]): Promise<boolean> {
    const call = this.#call(seq);
    if (call.state === 'orphaned' || !result) return false;
    call.state = 'executed';
    call.output = result.body;
    return true;
  }

  settleable(throughBlock: bigint, limit: number): PendingResult[] {
    return this.#calls
      .flatMap(({ seq, state, call, output }) =>
        state === 'executed' && call.origin && output && call.origin.blockNumber <= throughBlock
          ? [{ seq, origin: call.origin, output }]
          : [],
      )
      .slice(0, limit);
  }

  async recordTransaction(chainId: number, transaction: NewTransaction): Promise<LedgerTransaction> {
    const version: Transaction = {
      ...transaction,
      id: this.#transactions.length + 1,
      chainId,
      state: 'pending',
      createdAt: this.#clock.now(),
      final: false,
    };
    this.#transactions.push(version);
    for (const seq of version.calls) move(this.#call(seq), ['executed', 'submitted'], 'submitted');
    return { ...version };
  }

  pendingTransactions(_chainId: number, account: Address): LedgerTransaction[] {
    return this.#transactions
      .filter((version) => version.state === 'pending' && version.account === account)
      .map((version) => ({ ...version }));
  }

  minedTransactions(_chainId: number, account: Address): LedgerTransaction[] {
    return this.#transactions
      .filter((version) => (version.state === 'mined' || version.state === 'reverted') && !version.final && version.account === account)
      .map((version) => ({ ...version }));
  }

  async recordMined(id: number, outcome: Mined): Promise<void> {
    const mined = this.#transaction(id);
    mined.state = outcome.success ? 'mined' : 'reverted';
    mined.block = outcome.block;
    for (const other of this.#versions(mined)) {
      if (other.state === 'pending') other.state = 'replaced';
      for (const seq of other.calls) if (!mined.calls.includes(seq)) move(this.#call(seq), ['submitted'], 'executed');
    }
    for (const seq of mined.calls) move(this.#call(seq), ['submitted'], outcome.success ? 'mined' : 'executed');
  }

  async recordUnmined(id: number): Promise<void> {
    const version = this.#transaction(id);
    for (const seq of version.calls) move(this.#call(seq), [version.state === 'mined' ? 'mined' : 'executed'], 'submitted');
    version.state = 'pending';
    delete version.block;
    for (const other of this.#versions(version)) if (other.state === 'replaced') other.state = 'pending';
  }

  async recordDropped(id: number): Promise<void> {
    const version = this.#transaction(id);
    version.state = 'dropped';
    for (const seq of version.calls) move(this.#call(seq), ['submitted'], 'executed');
  }

  async recordFinal(_chainId: number, throughBlock: bigint): Promise<number> {
    const deep = this.#transactions.filter(
      (version) => !version.final && version.block !== undefined && version.block.number <= throughBlock,
    );
    let count = 0;
    for (const version of deep) {
      version.final = true;
      for (const seq of version.calls) if (version.state === 'mined' && move(this.#call(seq), ['mined'], 'final')) count += 1;
    }
    return count;
  }

  async recordRejected(seq: number, reason: { readonly code: string; readonly message: string }): Promise<void> {
    Object.assign(this.#call(seq), { state: 'rejected', errorCode: reason.code, errorMessage: reason.message });
  }

  async recordClosed(seq: number, reason: string): Promise<void> {
    Object.assign(this.#call(seq), { state: 'closed', errorMessage: reason });
  }

  get(seq: number): CallRecord | undefined {
    const call = this.#calls[seq - 1];
    return call && { ...call };
  }

  find({ states, limit }: { readonly states?: readonly CallState[]; readonly limit?: number }): CallRecord[] {
    return this.#calls
      .filter((call) => states?.includes(call.state) ?? true)
      .slice(0, limit)
      .map((call) => ({ ...call }));
  }

  transactionsOf(seq: number): LedgerTransaction[] {
    return this.#transactions.filter((version) => version.calls.includes(seq)).map((version) => ({ ...version }));
  }

  async close(): Promise<void> {}

  #call(seq: number): Call {
    const call = this.#calls[seq - 1];
    if (!call) throw new Error(`there is no call ${seq}`);
    return call;
  }

  #transaction(id: number): Transaction {
    const version = this.#transactions[id - 1];
    if (!version) throw new Error(`there is no transaction ${id}`);
    return version;
  }

  #versions(of: Transaction): Transaction[] {
    return this.#transactions.filter((version) => version.nonce === of.nonce && version.account === of.account && version.id !== of.id);
  }
}

function orphan(call: Call): void {
  if (call.state === 'orphaned') return;
  call.before = call.state;
  call.state = 'orphaned';
}

/** Also moves the state that an orphaned call comes back with. */
function move(call: Call, from: readonly CallState[], to: CallState): boolean {
  const orphaned = call.state === 'orphaned';
  if (!from.includes(orphaned ? call.before : call.state)) return false;
  if (orphaned) call.before = to;
  else call.state = to;
  return !orphaned;
}
