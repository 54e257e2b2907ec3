/** The published entry `blueprint-runner/testing`: real and simulated surroundings for tests of blueprints. */

export { startLocalChain } from './local-chain.ts';
export type { LocalAccount, LocalChain, LocalChainOptions, ReorgTransaction } from './local-chain.ts';
export { attachTangle, deployTangle } from './tangle.ts';
export type { CallName, JobInput, LocalService, LocalTangle, Payer, QuoteOptions, ServiceSpec, TangleAddresses } from './tangle.ts';
export type { LocalReceipt } from './contract-node.ts';
export { encodeProfilingData } from './blueprint-definition.ts';
export type { BlueprintSpec, JobSpec } from './blueprint-definition.ts';
export { FakeClock, Random } from './fake-clock.ts';
export type { FakeClockOptions } from './fake-clock.ts';
export { MockChain } from '../chain/mock-chain.ts';
export type { MockChainEvent, MockChainOptions, ReorgOptions } from '../chain/mock-chain.ts';
export type { MockBlock, MockResult } from '../chain/mock-block.ts';
export type { JobSubmission, MockService, Refusal, RefuseResult, ResultSubmission } from '../chain/mock-contract.ts';
export { MockChainClient } from '../chain/mock.ts';
export type { MockChainClientOptions, MockFaults, MockMethod, SendFault } from '../chain/mock.ts';
export { mockSigner } from '../chain/mock-transaction.ts';
export { simulate, simulateSeeds } from './simulation.ts';
export type { SimulatedSystem, SimulationOptions, SimulationReport, SystemUnderTest } from './simulation.ts';
export { STORM } from './simulation-world.ts';
export type { FaultRates, SimulationWorld } from './simulation-world.ts';
export type { Rule, Violation } from './simulation-checker.ts';
export { startFaasServer } from './faas-server.ts';
export type { FaasServer, FaasServerOptions } from './faas-server.ts';
