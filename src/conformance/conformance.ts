/** Entry `blueprint-runner/conformance`: the suites that implementations of the contracts run. */

export { checkExecutor, executorCases, runExecutorConformance } from './executor.ts';
export type { CaseOutcome, ExecutorCase, ExecutorUnderTest, TestFramework } from './executor.ts';
export { CONFORMANCE_JOBS, conformanceRouter } from './jobs.ts';
