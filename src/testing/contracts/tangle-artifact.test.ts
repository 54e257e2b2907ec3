import { hash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { JOB_MANAGER_BYTECODE, JOB_SPAMMER_BYTECODE, SOURCE_SHA256, TANGLE_BYTECODE } from './tangle-artifact.ts';

test('the artifact was compiled from the present source (otherwise run node test/scripts/compile-contracts.ts)', () => {
  const source = readFileSync(new URL('./Tangle.sol', import.meta.url), 'utf8');
  expect(SOURCE_SHA256).toBe(hash('sha256', source));
});

test('every contract can be deployed: its creation code is within the 49,152 bytes that a chain takes', () => {
  for (const bytecode of [TANGLE_BYTECODE, JOB_MANAGER_BYTECODE, JOB_SPAMMER_BYTECODE]) {
    expect(bytecode).toMatch(/^0x60[0-9a-f]{1000,98302}$/);
  }
});
