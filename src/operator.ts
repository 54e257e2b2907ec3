/** Entry `blueprint-runner/operator`: what an operator does on chain besides results: registration, heartbeats, metadata of blueprints. */

export { fetchBlueprintMetadata } from './chain/metadata.ts';
export type { FetchBlueprintOptions } from './chain/metadata.ts';
export { heartbeat, operatorRegistration } from './chain/operator.ts';
export type { HeartbeatOptions, OperatorService, RegistrationOptions, RegistrationOutcome } from './chain/operator.ts';
