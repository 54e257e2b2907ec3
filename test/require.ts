/** Peers that tests need besides Node: used when they are there, and demanded by `REQUIRE=promtool,anvil,...`. */

import { execFileSync } from 'node:child_process';
import { test } from 'vitest';

/** Declares a test, like vitest's `test`. */
export type DeclareTest = (title: string, run: () => void | Promise<void>, timeoutMs?: number) => void;

/**
 * Tests that need a peer. Where it is missing they are skipped and say why, or fail when `REQUIRE` lists it. The probe
 * returns when the peer works and throws the reason when it does not; it runs once, when the test file is read.
 *
 * @example
 * const testPromtool = requirePeer('promtool', () => runs('promtool', '--version'));
 * testPromtool('metrics are valid', () => { ... });
 */
export function requirePeer(name: string, probe: () => void): DeclareTest {
  try {
    probe();
    return test;
  } catch (error) {
    const cause = error instanceof Error ? error.message.split('\n')[0] : String(error);
    const reason = `${name} is not available: ${cause}`;
    const demanded = (process.env['REQUIRE'] ?? '').split(',').some((entry) => entry.trim() === name);
    if (!demanded) process.stderr.write(`skipped: ${reason}\n`);
    return (title) =>
      test(title, (context) => {
        if (demanded) throw new Error(`${reason}, and REQUIRE lists it`);
        context.skip(reason);
      });
  }
}

/** For the programs of probes. It ends only what hangs: on a busy machine a peer that is there takes long to say so. */
export const PROBE_MS_MAX = 120_000;

/** For probes: throws unless the command can be run and ends with 0. */
export function runs(command: string, ...args: string[]): void {
  execFileSync(command, args, { stdio: 'ignore', timeout: PROBE_MS_MAX });
}
