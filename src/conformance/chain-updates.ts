/** Reads what a chain client tells, for the conformance cases. */

import assert from 'node:assert/strict';
import type { ChainClient, ChainUpdate, FollowOptions } from '../chain/chain.ts';
import type { ChainCall } from '../job/call.ts';
import type { Cursor } from '../ledger/ledger.ts';

const WAIT_MS = 20_000;

/** Follows until `isEnough`, then fires the signal and waits for the end. Rejects when that takes longer than 20 s. */
export async function follow(
  client: ChainClient,
  options: Omit<FollowOptions, 'signal'>,
  isEnough: (seen: readonly ChainUpdate[]) => boolean | Promise<boolean>,
): Promise<ChainUpdate[]> {
  const enough = new AbortController();
  const tooLate = AbortSignal.timeout(WAIT_MS);
  const seen: ChainUpdate[] = [];
  for await (const update of client.follow({ ...options, signal: AbortSignal.any([enough.signal, tooLate]) })) {
    seen.push(update);
    if (await isEnough(seen)) enough.abort();
  }
  assert.ok(enough.signal.aborted, `after ${WAIT_MS} ms follow has told only ${JSON.stringify(seen.map(({ type }) => type))}`);
  return seen;
}

export const reachedHead =
  (number: bigint) =>
  (seen: readonly ChainUpdate[]): boolean => {
    const last = seen.findLast((update) => update.type === 'head');
    return last?.type === 'head' && last.block.number >= number && (lastCursor(seen)?.block.number ?? -1n) >= number;
  };

export function callsOf(updates: readonly ChainUpdate[]): ChainCall[] {
  return updates.flatMap((update) => (update.type === 'calls' ? update.calls : []));
}

export function lastCursor(updates: readonly ChainUpdate[]): Cursor | undefined {
  const last = updates.findLast((update) => update.type !== 'head');
  return last?.type === 'calls' || last?.type === 'reorg' ? last.cursor : undefined;
}

export function isReorg(update: ChainUpdate): boolean {
  return update.type === 'reorg';
}

export function shown({ serviceId, callId, jobIndex, inputs }: ChainCall): unknown {
  return [serviceId, callId, jobIndex, [...inputs]];
}
