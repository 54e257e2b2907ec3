/** The published entry `blueprint-runner/testing`: real and simulated surroundings for tests of blueprints. */

export { startLocalChain } from './local-chain.ts';
export type { LocalAccount, LocalChain, LocalChainOptions, ReorgTransaction } from './local-chain.ts';
export { attachTangle, deployTangle } from './tangle.ts';
export type { CallName, JobInput, LocalService, LocalTangle, Payer, QuoteOptions, ServiceSpec, TangleAddresses } from './tangle.ts';
export type { LocalReceipt } from './contract-node.ts';
export { encodeProfilingData } from './blueprint-definition.ts';
export type { BlueprintSpec, JobSpec } from './blueprint-definition.ts';
