/**
 * One trace for each call: `call` from the moment it is seen to its end, under it `job.execute` for each attempt (made by the registry) and
 * `settle` from the signature to finality. A runner that was restarted begins another `call` in the same trace.
 */

import type { SettlementEvent } from '../chain/settlement.ts';
import { RunnerError } from '../errors.ts';
import { Metadata } from '../job/call.ts';
import type { ChainCall, JobCall } from '../job/call.ts';
import type { Ledger } from '../ledger/ledger.ts';
import { callKey } from '../ledger/rows.ts';
import { traceOfCall } from '../telemetry/call-trace.ts';
import type { Span, SpanAttributes, StartSpan, Telemetry } from '../telemetry/telemetry.ts';
import type { RunnerEmitter } from './events.ts';

export interface CallTracesOptions {
  readonly events: RunnerEmitter;
  /** Undefined: nothing is settled. */
  readonly ledger: Pick<Ledger, 'get' | 'transactionsOf'> | undefined;
  /** Whether results of calls of the chain are settled. */
  readonly settles: boolean;
}

/** Spans that are open at the same time, of each kind; the oldest ends early when there are more. */
const OPEN_MAX = 10_000;

type Traced = Pick<JobCall, 'id' | 'jobId' | 'metadata' | 'origin'>;
type Event<Type extends SettlementEvent['type']> = Extract<SettlementEvent, { readonly type: Type }>;

interface Settling {
  readonly span: Span;
  readonly callId: string;
}

export class CallTraces {
  readonly #startSpan: StartSpan;
  readonly #options: CallTracesOptions;
  readonly #calls = new Map<string, Span>();
  /** By row of the ledger. */
  readonly #settling = new Map<number, Settling>();

  /** Undefined when nobody traces. */
  static of({ startSpan }: Telemetry, options: CallTracesOptions): CallTraces | undefined {
    return startSpan && new CallTraces(startSpan, options);
  }

  private constructor(startSpan: StartSpan, options: CallTracesOptions) {
    this.#startSpan = startSpan;
    this.#options = options;
    const { events, settles } = options;
    events.on('seen', ({ origin }) => this.#seen(origin));
    events.on('failed', ({ call, error }) => this.#endCall(call.id, error.code, error));
    events.on('executed', ({ call, results }) => {
      if (!settles || !call.origin || results.length === 0) this.#endCall(call.id, 'executed');
    });
    events.on('submitted', (event) => this.#submitted(event));
    events.on('mined', (event) => this.#mined(event));
    events.on('final', ({ calls }) => {
      for (const seq of calls) this.#endSettling(seq, 'final');
    });
    events.on('rejected', ({ seq, code, reason }) => this.#endSettling(seq, code, new RunnerError(code, reason)));
    events.on('closed', ({ seq }) => this.#endSettling(seq, 'closed'));
    events.on('orphaned', ({ seq }) => this.#endSettling(seq, 'orphaned'));
  }

  /** The span of a call, begun when it was not yet. */
  readonly of = (call: Traced): Span => this.#calls.get(call.id) ?? this.#begin(call);

  /** Ends what is open, so that it is exported. */
  close(): void {
    for (const { span } of this.#settling.values()) span.end();
    for (const span of this.#calls.values()) span.end();
    this.#settling.clear();
    this.#calls.clear();
  }

  #begin(call: Traced): Span {
    const span = this.#startSpan('call', { parent: traceOfCall(call), kind: 'consumer', attributes: attributesOf(call) });
    makeRoom(this.#calls, (oldest) => oldest.end());
    this.#calls.set(call.id, span);
    return span;
  }

  /** When very many wait, the span of a call begins with its execution. */
  #seen(origin: ChainCall): void {
    if (this.#calls.size < OPEN_MAX) this.of({ id: callKey(origin), jobId: BigInt(origin.jobIndex), metadata: new Metadata(), origin });
  }

  #endCall(id: string, outcome: string, error?: RunnerError): void {
    const span = this.#calls.get(id);
    if (!span) return;
    this.#calls.delete(id);
    end(span, outcome, error);
  }

  #submitted({ purpose, hash, nonce, calls }: Event<'submitted'>): void {
    if (purpose !== 'results') return;
    const attributes = { 'blueprint.transaction.hash': hash, 'blueprint.transaction.nonce': nonce, 'blueprint.batch.size': calls.length };
    for (const seq of calls) {
      const span = this.#settlingOf(seq)?.span;
      for (const [name, value] of Object.entries(attributes)) span?.setAttribute(name, value);
      span?.addEvent('submitted', attributes);
    }
  }

  #mined({ purpose, hash, calls, receipt }: Event<'mined'>): void {
    if (purpose !== 'results') return;
    const block = Number(receipt.block.number);
    for (const seq of calls) {
      const settling = this.#settlingOf(seq);
      settling?.span.setAttribute('blueprint.transaction.hash', hash);
      settling?.span.setAttribute('blueprint.batch.size', calls.length);
      settling?.span.setAttribute('blueprint.transaction.block_number', block);
      settling?.span.addEvent('mined', { 'blueprint.transaction.hash': hash, 'blueprint.transaction.block_number': block });
      if (receipt.success || !settling) continue;
      // The call waits for another transaction, which is another span.
      this.#settling.delete(seq);
      end(settling.span, 'reverted', new RunnerError('RESULT_REJECTED', `transaction ${hash} reverted`));
    }
  }

  #endSettling(seq: number, outcome: string, error?: RunnerError): void {
    const settling = outcome === 'final' ? this.#settlingOf(seq) : this.#settling.get(seq);
    this.#settling.delete(seq);
    if (settling) end(settling.span, outcome, error);
    const callId = settling?.callId ?? this.#options.ledger?.get(seq)?.call.id;
    if (callId !== undefined) this.#endCall(callId, outcome, error);
  }

  /** What an earlier run of the program signed begins when it was signed. */
  #settlingOf(seq: number): Settling | undefined {
    const known = this.#settling.get(seq);
    const { ledger } = this.#options;
    const call = known ? undefined : ledger?.get(seq)?.call;
    if (!call) return known;
    const transactions = ledger?.transactionsOf(seq) ?? [];
    const [first] = transactions.filter(({ state }) => state === 'pending' || state === 'mined');
    const span = this.#startSpan('settle', {
      parent: this.#calls.get(call.id) ?? traceOfCall(call),
      kind: 'client',
      attributes: { 'blueprint.call.id': call.id, ...(first && { 'blueprint.transaction.hash': first.hash }) },
      ...(first && { startedAt: first.createdAt }),
    });
    makeRoom(this.#settling, (oldest) => oldest.span.end());
    const settling = { span, callId: call.id };
    this.#settling.set(seq, settling);
    return settling;
  }
}

function attributesOf({ id, jobId, origin }: Traced): SpanAttributes {
  const attributes = { 'blueprint.call.id': id, 'blueprint.job.id': jobId.toString() };
  if (!origin) return attributes;
  return {
    ...attributes,
    'tangle.chain_id': origin.chainId,
    'tangle.contract': origin.contract,
    'tangle.service_id': origin.serviceId.toString(),
    'tangle.call_id': origin.callId.toString(),
    'tangle.caller': origin.caller,
    'tangle.block_number': Number(origin.blockNumber),
    'tangle.transaction_hash': origin.transactionHash,
  };
}

function end(span: Span, outcome: string, error: RunnerError | undefined): void {
  span.setAttribute('blueprint.outcome', outcome);
  if (error) {
    span.setAttribute('error.type', error.code);
    span.recordError(error);
  }
  span.end();
}

function makeRoom<Key, Value>(map: Map<Key, Value>, leave: (oldest: Value) => void): void {
  if (map.size < OPEN_MAX) return;
  for (const [key, value] of map) {
    map.delete(key);
    return leave(value);
  }
}
