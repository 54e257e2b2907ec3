/** Entry `blueprint-runner/conformance`: the suites that implementations of the contracts run. */

export { CONFORMANCE_JOBS, checkExecutor, conformanceRouter, executorCases, runExecutorConformance } from './executor.ts';
export type { CaseOutcome, ExecutorCase, ExecutorUnderTest, TestFramework } from './executor.ts';
