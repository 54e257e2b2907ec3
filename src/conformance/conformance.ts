/** Entry `blueprint-runner/conformance`: the suites that implementations of the contracts run. */

export { backendCases, checkBackend, runBackendConformance } from './backend.ts';
export type { BackendCase, BackendProgram, BackendUnderTest } from './backend.ts';
export { chainCases } from './chain.ts';
export type { ChainCase, ChainSubject, ConformanceCall } from './chain.ts';
export { checkDeployer, conformanceFunction, deployerCases, runDeployerConformance } from './deployer.ts';
export type { Connection, DeployerCapability, DeployerCase, DeployerPlatform, DeployerTrial, DeployerUnderTest } from './deployer.ts';
export { checkExecutor, executorCases, runExecutorConformance } from './executor.ts';
export type { ExecutorCase, ExecutorUnderTest } from './executor.ts';
export { canRunHandlerCase, checkHandlerCase, handlerCases } from './handler.ts';
export type { HandlerCase, HandlerCaseAnswer, HandlerCaseRequest, HandlerNeed, HandlerPlatform } from './handler.ts';
export { runMatrix } from './matrix.ts';
export type { ArtifactInfo, MatrixBackend, MatrixOptions, MatrixReport, MatrixResult, Platform } from './matrix.ts';
export { functionRuntime, httpProcess, inProcess, stdioProcess } from './matrix-platforms.ts';
export type { Artifact, RuntimePlatformOptions } from './matrix-platforms.ts';
export { checkObjects, objectsCases, runObjectsConformance } from './objects.ts';
export type { ObjectsCase, ObjectsTrial, ObjectsUnderTest } from './objects.ts';
export { checkQueue, queueCases, runQueueConformance } from './queue.ts';
export type { QueueCase, QueueTrial, QueueUnderTest } from './queue.ts';
export type { CaseOutcome, TestFramework } from './suite.ts';
export type { Expected, Need, Vector, VectorCall } from './vector.ts';
export { vectors } from './vectors.ts';
export { CONFORMANCE_JOBS, conformanceRouter } from './jobs.ts';
