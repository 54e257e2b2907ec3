import { expect, it } from 'vitest';
import { checksOf } from '../prove/fuzz-checks.ts';
import { fuzz } from '../prove/fuzz-run.ts';

const INPUTS = 20_000;
const SEED = 3;

it('the gateway refuses malformed HTTP, WebSocket, zip and Runtime API input with a code, and loses nothing over it', async () => {
  const report = await fuzz({ seed: SEED, inputs: INPUTS });
  const told = [...report.counts].flatMap(([kind, outcomes]) => [...outcomes].map(([outcome, count]) => `${kind} ${outcome}: ${count}`));
  expect(
    checksOf(report).filter(([, holds]) => !holds),
    `seed ${SEED}; ${JSON.stringify(report.failures.slice(0, 5))}; ${told.join(', ')}`,
  ).toEqual([]);
  for (const kind of ['bytes', 'handshake', 'fields', 'zip', 'websocket', 'runtime']) {
    const outcomes = report.counts.get(kind);
    expect(
      [...(outcomes?.values() ?? [])].reduce((sum, count) => sum + count, 0),
      kind,
    ).toBeGreaterThan(100);
  }
});
