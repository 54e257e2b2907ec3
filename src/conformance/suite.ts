/** What the suites have in common: cases are run with a report, or registered with a test framework; some may be skipped, with a reason. */

import { RunnerError } from '../errors.ts';

export interface CaseOutcome {
  readonly name: string;
  readonly outcome: 'passed' | 'failed' | 'skipped';
  /** Of a failure. */
  readonly error?: unknown;
  /** Of a skip. */
  readonly reason?: string;
}

/** The parts of a test framework that the suites use; those of vitest, jest, mocha and node:test fit. */
export interface TestFramework {
  describe(name: string, body: () => void): unknown;
  /** Some cases of some suites need more time than the framework gives by default. */
  readonly it: ((name: string, body: () => Promise<void>, timeoutMs?: number) => unknown) & {
    readonly skip: (name: string, body: () => Promise<void>) => unknown;
  };
}

export interface Suite<Case extends { readonly name: string }> {
  /** What it is that conforms: `queue my-queue`. */
  readonly title: string;
  readonly cases: readonly Case[];
  /** Names of cases. Default: all. */
  readonly only?: readonly string[] | undefined;
  /** Cases that cannot be passed, each with the reason, for people. */
  readonly skip: Readonly<Record<string, string>> | undefined;
  run(each: Case): Promise<void>;
  /** Default: what the framework gives. */
  timeoutMs?(each: Case): number;
}

/** A failure is an outcome, it is not thrown. Throws `CONFIG_INVALID` when a skip names no case, or gives no reason. */
export async function checkSuite<Case extends { readonly name: string }>(suite: Suite<Case>): Promise<CaseOutcome[]> {
  const outcomes: CaseOutcome[] = [];
  for (const each of chosen(suite)) {
    const { name } = each;
    const reason = suite.skip?.[name];
    if (reason !== undefined) {
      outcomes.push({ name, outcome: 'skipped', reason });
      continue;
    }
    const outcome = await suite.run(each).then(
      () => ({ name, outcome: 'passed' as const }),
      (error: unknown) => ({ name, outcome: 'failed' as const, error }),
    );
    outcomes.push(outcome);
  }
  return outcomes;
}

/** Registers the cases; a skipped one shows its reason in its name. Throws as `checkSuite` does. */
export function registerSuite<Case extends { readonly name: string }>({ describe, it }: TestFramework, suite: Suite<Case>): void {
  const cases = chosen(suite);
  describe(suite.title, () => {
    for (const each of cases) {
      const reason = suite.skip?.[each.name];
      const run = (): Promise<void> => suite.run(each);
      if (reason !== undefined) it.skip(`${each.name} [skipped: ${reason}]`, run);
      else if (suite.timeoutMs) it(each.name, run, suite.timeoutMs(each));
      else it(each.name, run);
    }
  });
}

function chosen<Case extends { readonly name: string }>({ title, cases, only, skip = {} }: Suite<Case>): readonly Case[] {
  for (const [name, reason] of Object.entries(skip)) {
    if (!cases.some((each) => each.name === name))
      throw new RunnerError('CONFIG_INVALID', `${title}: there is no conformance case ${JSON.stringify(name)} to skip`);
    if (reason.trim() === '')
      throw new RunnerError('CONFIG_INVALID', `${title}: the case ${JSON.stringify(name)} is skipped without a reason`);
  }
  return only ? cases.filter(({ name }) => only.includes(name)) : cases;
}
