/**
 * The interface of the Tangle contracts as the chain really shows it: ABI, event topics, selectors, errors.
 *
 * Source: tnt-core 674403d (the contracts of bindings 0.19.1), checked against the running contracts. It differs from the published
 * ABI in one place: `JobSubmitted` does not index `jobIndex`. Enums are uint8, ids are uint64 and begin at 0.
 */

import type { Hex } from '../job/call.ts';

/** First topic of each event that the project looks for. */
export const TOPIC = {
  jobSubmitted: '0xde37cc48d21778e1c9a075c4e41c5aff6918c3ea6151221f0af3ce8121a29db5',
  jobSubmittedFromQuote: '0xb707259a8a1604adca251fecf84eb283329cd45175690dcb8ff1cf52a6252422',
  jobResultSubmitted: '0x8a04f99fe23284e874e8dd017345248279cc59701695e73bcdbeb6241bcd2ac6',
  aggregatedResultSubmitted: '0xe6fcb3342abe43c21acc6a04e3d7912476836976e07ed47d0b15a374e200e2f0',
  jobCompleted: '0x60a7649f6e93e7a3ce1dc9729c20e3d95dce28c6a6bd957cde09d8a1cb37c19f',
  blueprintCreated: '0x7ccd26bc6775ae4936200d467efc9a0e4e5f2fa8877e86faa1c7a1453a93a7fc',
  operatorRegistered: '0x0455541bf5feb5fcc32e827dc18bf2175448427c6ae72c8d5e985c99e4104102',
  operatorPreferencesUpdated: '0xbaca468a52670b77d74d0423b33ac5227a7f1a5c548e07006b29c6e2289779a6',
  serviceActivated: '0x0325bb1c453505f13d5546dda087be5e237f7cf249f79a0ee406d97ef0ca7ee9',
  serviceTerminated: '0x3fd558a59bbce1d996d17eab7fde314bcd201ec3f17375a7f873b3162927e881',
  blueprintDefinitionRecorded: '0xe0bc1e42405ffea94dcef03a915081f9674bc9eea38d46bad147b5cce7438e3e',
  heartbeatReceived: '0x658918e3147f13dd068ec21437b4c25c21682a8dc2129348671ead000db3e7b9',
} as const satisfies Record<string, Hex>;

export const SELECTOR = {
  submitJob: '0x3413e8ee',
  submitJobFromQuote: '0x72a1f7be',
  submitResult: '0x2d07e655',
  submitResults: '0xaacdba9f',
} as const satisfies Record<string, Hex>;

/** Signatures of everything the contracts revert with, by selector. */
export const CONTRACT_ERRORS = {
  '0x08c379a0': 'Error(string message)',
  '0x4e487b71': 'Panic(uint256 code)',
  '0x82b42900': 'Unauthorized()',
  '0xbaf3f0f7': 'InvalidState()',
  '0xff633a38': 'LengthMismatch()',
  '0xd92e233d': 'ZeroAddress()',
  '0x1f2a2005': 'ZeroAmount()',
  '0x26b27f12': 'SchemaTooLarge()',
  '0x9038fe73': 'SchemaValidationFailed(uint8 target, uint64 refId, uint64 auxId, uint256 path)',
  '0xce0f2bcd': 'UnsupportedFieldKind(uint8 kind)',
  '0xf2d459db': 'InvalidSchemaVersion(uint8 expected, uint8 actual)',
  '0x5fd248ec': 'BlueprintNotFound(uint64 blueprintId)',
  '0x421d69da': 'BlueprintNotActive(uint64 blueprintId)',
  '0x0f038c7e': 'BlueprintMetadataRequired()',
  '0xe772efb4': 'BlueprintMetadataHashRequired()',
  '0x81ea367e': 'BlueprintMembershipRequired()',
  '0x9eec318b': 'BlueprintSourcesRequired()',
  '0x86601035': 'BlueprintBinaryRequired()',
  '0x6e66aa92': 'BlueprintBinaryHashRequired()',
  '0x9bcccbfd': 'OperatorNotRegistered(uint64 blueprintId, address operator)',
  '0x7ff7f798': 'OperatorRpcAddressRequired()',
  '0x9ec4e30d': 'OperatorAlreadyRegistered(uint64 blueprintId, address operator)',
  '0xe356d5aa': 'OperatorNotActive(address operator)',
  '0xda2cd52b': 'InvalidOperatorKey()',
  '0x9d287736': 'DuplicateOperatorKey(uint64 blueprintId, bytes32 keyHash)',
  '0x936d426d': 'InsufficientStake(address operator, uint256 required, uint256 actual)',
  '0x246c2d66': 'ServiceRequestNotFound(uint64 requestId)',
  '0xc8a28bb6': 'ServiceNotFound(uint64 serviceId)',
  '0x4c5fe2d8': 'ServiceNotActive(uint64 serviceId)',
  '0x7c3e621b': 'ServiceExpired(uint64 serviceId)',
  '0x19aacf9e': 'NotServiceOwner(uint64 serviceId, address caller)',
  '0xd5dd5b44': 'NotPermittedCaller(uint64 serviceId, address caller)',
  '0x783482e9': 'OperatorNotInService(uint64 serviceId, address operator)',
  '0xf2bb0f10': 'AlreadyApproved(uint64 requestId, address operator)',
  '0xddf9d245': 'NoOperators()',
  '0xe83b5554': 'TTLBelowMinimum(uint64 ttl, uint64 minimum)',
  '0x732253f5': 'SecurityCommitmentsRequired(uint64 requestId)',
  '0x96c6ebfc': 'JobCallNotFound(uint64 serviceId, uint64 callId)',
  '0x0a55512f': 'JobAlreadyCompleted(uint64 serviceId, uint64 callId)',
  '0x1370bcad': 'InvalidJobIndex(uint8 jobIndex)',
  '0xb7e7fcee': 'ResultAlreadySubmitted(uint64 serviceId, uint64 callId, address operator)',
  '0xa32a5d1c': 'NotQuotedOperator(uint64 serviceId, uint64 callId)',
  '0x30208b7f': 'JobQuoteServiceMismatch(uint64 expected, uint64 quoted)',
  '0x7928881f': 'JobQuoteJobIndexMismatch(uint8 expected, uint8 quoted)',
  '0x22251829': 'JobQuoteRequesterMismatch(address operator, address expected, address actual)',
  '0x169a2143': 'JobQuoteInputsMismatch(address operator, bytes32 expectedInputsHash, bytes32 quotedInputsHash)',
  '0x7bbe57e9': 'QuoteExpired(address operator, uint64 expiry)',
  '0xc86315a1': 'QuoteTimestampTooOld(address operator, uint64 timestamp, uint64 maxAge)',
  '0x08d18271': 'QuoteAlreadyUsed(address operator)',
  '0x11638a8e': 'InvalidQuoteSignature(address operator)',
  '0x04f0f22e': 'DuplicateOperatorQuote(address operator)',
  '0x3f6c27f9': 'NoQuotes()',
  '0xb99e2ab7': 'InsufficientPayment(uint256 required, uint256 sent)',
  '0x1f89f671': 'InvalidMsgValue(uint256 expected, uint256 sent)',
  '0xf499da20': 'PaymentFailed()',
  '0x3beb8e0f': 'PaymentTooSmall(uint256 amount, uint256 minimumRequired)',
  '0x889fa9e0': 'UpfrontPaymentNotAllowedForEventDriven()',
  '0x94403b70': 'TokenNotAllowed(address token)',
  '0x56e7ec5f': 'InvalidPaymentToken()',
  '0x07a84ec2': 'ManagerReverted(address manager, bytes reason)',
  '0x71cc0e9a': 'ManagerRejected(address manager)',
  '0x77164cdc': 'AggregationRequired(uint64 serviceId, uint8 jobIndex)',
  '0x4f3b66ea': 'AggregationNotRequired(uint64 serviceId, uint8 jobIndex)',
  '0xab1b236b': 'InvalidBLSSignature()',
  '0x15cb246a': 'AggregationThresholdNotMet(uint64 serviceId, uint64 callId, uint256 achieved, uint256 required)',
  '0x437f07c7': 'AggregatedPubkeyMismatch()',
  '0x050c99e5': 'OperatorBlsPubkeyNotRegistered(uint64 serviceId, address operator)',
  '0x3520a17a': 'NoActiveOperators(uint64 serviceId)',
  '0xd93c0665': 'EnforcedPause()',
  '0x3ee5aeb5': 'ReentrancyGuardReentrantCall()',
  '0xc2a825f5': 'UnknownSelector(bytes4 selector)',
  '0x3fa1eaf0': 'NotRegisteredOperator()',
  '0x8baa579f': 'InvalidSignature()',
  '0xec0f249e': 'OperatorSlashed()',
  '0x60d56dd4': 'HeartbeatStale(uint64 signed, uint64 now_)',
  '0x57ea02e9': 'HeartbeatFromFuture(uint64 signed, uint64 now_)',
  '0x27e0b19a': 'OnlyTangleCore()',
  '0x4a508f4a': 'IntervalTooShort()',
  '0x5fd22739': 'InvalidMaxMissed()',
} as const satisfies Record<Hex, string>;

/** What a contract said when it reverted. */
export interface Revert {
  /** Name of the error; `Reverted` when it gave no reason, `UnknownError` when the selector is not one of the table. */
  readonly error: string;
  /** Unsigned numbers as bigint, everything else as 0x hex or text. */
  readonly args: readonly unknown[];
  /** The call to blame, when the error names one. */
  readonly callId?: bigint;
  /** The error as one reads it, with argument names. */
  readonly text: string;
}

/** Decodes revert data; never throws. */
export function decodeRevert(data: string): Revert {
  const selector = data.slice(0, 10).toLowerCase();
  const signature = (CONTRACT_ERRORS as Readonly<Record<string, string>>)[selector];
  if (signature === undefined) {
    return data.length < 10
      ? { error: 'Reverted', args: [], text: 'reverted without a reason' }
      : { error: 'UnknownError', args: [selector], text: `UnknownError(${selector})` };
  }
  const [error = '', list = ''] = signature.slice(0, -1).split('(');
  const params = list === '' ? [] : list.split(', ').map((param) => param.split(' '));
  const body = data.slice(10);
  const args = params.map(([type = ''], index) => decodeWord(type, body, index));
  const at = params.findIndex(([, name]) => name === 'callId');
  const callId = args[at];
  const named = params.map(([, name = ''], index) => `${name} ${String(args[index])}`);
  return { error, args, text: `${error}(${named.join(', ')})`, ...(typeof callId === 'bigint' && { callId }) };
}

/** One argument of an error: all types in the table are one word, but `bytes` and `string`. Undefined when the data ends before. */
function decodeWord(type: string, body: string, index: number): unknown {
  const word = body.slice(index * 64, index * 64 + 64);
  if (word.length < 64) return undefined;
  if (type.startsWith('uint')) return BigInt(`0x${word}`);
  if (type === 'address') return `0x${word.slice(24)}`;
  if (type !== 'bytes' && type !== 'string') return `0x${word.slice(0, 2 * Number(type.slice('bytes'.length)))}`;
  const start = 2 * Number(BigInt(`0x${word}`));
  const length = body.slice(start, start + 64);
  if (length.length < 64) return undefined;
  const bytes = body.slice(start + 64, start + 64 + 2 * Number(BigInt(`0x${length}`)));
  return type === 'bytes' ? `0x${bytes}` : Buffer.from(bytes, 'hex').toString('utf8');
}

const BLUEPRINT_CONFIG = [
  { name: 'membership', type: 'uint8' },
  { name: 'pricing', type: 'uint8' },
  { name: 'minOperators', type: 'uint32' },
  { name: 'maxOperators', type: 'uint32' },
  { name: 'subscriptionRate', type: 'uint256' },
  { name: 'subscriptionInterval', type: 'uint64' },
  { name: 'eventRate', type: 'uint256' },
] as const;
const BLUEPRINT_METADATA = [
  { name: 'name', type: 'string' },
  { name: 'description', type: 'string' },
  { name: 'author', type: 'string' },
  { name: 'category', type: 'string' },
  { name: 'codeRepository', type: 'string' },
  { name: 'logo', type: 'string' },
  { name: 'website', type: 'string' },
  { name: 'license', type: 'string' },
  { name: 'profilingData', type: 'string' },
] as const;
const JOB_DEFINITION = [
  { name: 'name', type: 'string' },
  { name: 'description', type: 'string' },
  { name: 'metadataUri', type: 'string' },
  { name: 'paramsSchema', type: 'bytes' },
  { name: 'resultSchema', type: 'bytes' },
] as const;
const IMAGE_REGISTRY_SOURCE = [
  { name: 'registry', type: 'string' },
  { name: 'image', type: 'string' },
  { name: 'tag', type: 'string' },
] as const;
const WASM_SOURCE = [
  { name: 'runtime', type: 'uint8' },
  { name: 'fetcher', type: 'uint8' },
  { name: 'artifactUri', type: 'string' },
  { name: 'entrypoint', type: 'string' },
] as const;
const NATIVE_SOURCE = [
  { name: 'fetcher', type: 'uint8' },
  { name: 'artifactUri', type: 'string' },
  { name: 'entrypoint', type: 'string' },
] as const;
const TESTING_SOURCE = [
  { name: 'cargoPackage', type: 'string' },
  { name: 'cargoBin', type: 'string' },
  { name: 'basePath', type: 'string' },
] as const;
const BLUEPRINT_BINARY = [
  { name: 'arch', type: 'uint8' },
  { name: 'os', type: 'uint8' },
  { name: 'name', type: 'string' },
  { name: 'sha256', type: 'bytes32' },
] as const;
const BLUEPRINT_SOURCE = [
  { name: 'kind', type: 'uint8' },
  { name: 'container', type: 'tuple', components: IMAGE_REGISTRY_SOURCE },
  { name: 'wasm', type: 'tuple', components: WASM_SOURCE },
  { name: 'native', type: 'tuple', components: NATIVE_SOURCE },
  { name: 'testing', type: 'tuple', components: TESTING_SOURCE },
  { name: 'binaries', type: 'tuple[]', components: BLUEPRINT_BINARY },
] as const;
const BLUEPRINT_DEFINITION = [
  { name: 'metadataUri', type: 'string' },
  { name: 'metadataHash', type: 'bytes32' },
  { name: 'manager', type: 'address' },
  { name: 'masterManagerRevision', type: 'uint32' },
  { name: 'hasConfig', type: 'bool' },
  { name: 'config', type: 'tuple', components: BLUEPRINT_CONFIG },
  { name: 'metadata', type: 'tuple', components: BLUEPRINT_METADATA },
  { name: 'jobs', type: 'tuple[]', components: JOB_DEFINITION },
  { name: 'registrationSchema', type: 'bytes' },
  { name: 'requestSchema', type: 'bytes' },
  { name: 'sources', type: 'tuple[]', components: BLUEPRINT_SOURCE },
  { name: 'supportedMemberships', type: 'uint8[]' },
] as const;
const BLUEPRINT = [
  { name: 'owner', type: 'address' },
  { name: 'manager', type: 'address' },
  { name: 'createdAt', type: 'uint64' },
  { name: 'membership', type: 'uint8' },
  { name: 'pricing', type: 'uint8' },
  { name: 'active', type: 'bool' },
] as const;
const OPERATOR_REGISTRATION = [{ name: 'registeredAt', type: 'uint64' }] as const;
const OPERATOR_PREFERENCES = [
  { name: 'ecdsaPublicKey', type: 'bytes' },
  { name: 'rpcAddress', type: 'string' },
] as const;
const ASSET = [
  { name: 'kind', type: 'uint8' },
  { name: 'token', type: 'address' },
] as const;
const ASSET_SECURITY_REQUIREMENT = [
  { name: 'asset', type: 'tuple', components: ASSET },
  { name: 'minExposureBps', type: 'uint16' },
  { name: 'maxExposureBps', type: 'uint16' },
] as const;
const ASSET_SECURITY_COMMITMENT = [
  { name: 'asset', type: 'tuple', components: ASSET },
  { name: 'exposureBps', type: 'uint16' },
] as const;
const TEE_ATTESTATION_COMMITMENT = [
  { name: 'backend', type: 'uint8' },
  { name: 'expectedMeasurement', type: 'bytes32' },
  { name: 'nonceBinding', type: 'bytes32' },
  { name: 'expiresAt', type: 'uint64' },
] as const;
const APPROVAL_PARAMS = [
  { name: 'requestId', type: 'uint64' },
  { name: 'securityCommitments', type: 'tuple[]', components: ASSET_SECURITY_COMMITMENT },
  { name: 'blsPubkey', type: 'uint256[4]' },
  { name: 'blsPopSignature', type: 'uint256[2]' },
  { name: 'teeCommitments', type: 'tuple[]', components: TEE_ATTESTATION_COMMITMENT },
] as const;
const RESOURCE_COMMITMENT = [
  { name: 'kind', type: 'uint8' },
  { name: 'count', type: 'uint64' },
] as const;
const QUOTE_DETAILS = [
  { name: 'requester', type: 'address' },
  { name: 'blueprintId', type: 'uint64' },
  { name: 'ttlBlocks', type: 'uint64' },
  { name: 'totalCost', type: 'uint256' },
  { name: 'timestamp', type: 'uint64' },
  { name: 'expiry', type: 'uint64' },
  { name: 'confidentiality', type: 'uint8' },
  { name: 'operation', type: 'uint8' },
  { name: 'serviceId', type: 'uint64' },
  { name: 'securityCommitments', type: 'tuple[]', components: ASSET_SECURITY_COMMITMENT },
  { name: 'resourceCommitments', type: 'tuple[]', components: RESOURCE_COMMITMENT },
] as const;
const SIGNED_QUOTE = [
  { name: 'details', type: 'tuple', components: QUOTE_DETAILS },
  { name: 'signature', type: 'bytes' },
  { name: 'operator', type: 'address' },
] as const;
const SERVICE_REQUEST = [
  { name: 'blueprintId', type: 'uint64' },
  { name: 'requester', type: 'address' },
  { name: 'createdAt', type: 'uint64' },
  { name: 'ttl', type: 'uint64' },
  { name: 'operatorCount', type: 'uint32' },
  { name: 'approvalCount', type: 'uint32' },
  { name: 'paymentToken', type: 'address' },
  { name: 'paymentAmount', type: 'uint256' },
  { name: 'membership', type: 'uint8' },
  { name: 'minOperators', type: 'uint32' },
  { name: 'maxOperators', type: 'uint32' },
  { name: 'rejected', type: 'bool' },
  { name: 'confidentiality', type: 'uint8' },
  { name: 'activated', type: 'bool' },
] as const;
const SERVICE = [
  { name: 'blueprintId', type: 'uint64' },
  { name: 'owner', type: 'address' },
  { name: 'createdAt', type: 'uint64' },
  { name: 'ttl', type: 'uint64' },
  { name: 'terminatedAt', type: 'uint64' },
  { name: 'lastPaymentAt', type: 'uint64' },
  { name: 'operatorCount', type: 'uint32' },
  { name: 'minOperators', type: 'uint32' },
  { name: 'maxOperators', type: 'uint32' },
  { name: 'membership', type: 'uint8' },
  { name: 'pricing', type: 'uint8' },
  { name: 'status', type: 'uint8' },
  { name: 'confidentiality', type: 'uint8' },
] as const;
const SERVICE_OPERATOR = [
  { name: 'exposureBps', type: 'uint16' },
  { name: 'joinedAt', type: 'uint64' },
  { name: 'leftAt', type: 'uint64' },
  { name: 'active', type: 'bool' },
] as const;
const SERVICE_ESCROW = [
  { name: 'token', type: 'address' },
  { name: 'balance', type: 'uint256' },
  { name: 'totalDeposited', type: 'uint256' },
  { name: 'totalReleased', type: 'uint256' },
  { name: '__reserved0', type: 'uint256' },
  { name: 'subscriptionBaselineStake', type: 'uint256' },
] as const;
const JOB_QUOTE_DETAILS = [
  { name: 'requester', type: 'address' },
  { name: 'serviceId', type: 'uint64' },
  { name: 'jobIndex', type: 'uint8' },
  { name: 'price', type: 'uint256' },
  { name: 'timestamp', type: 'uint64' },
  { name: 'expiry', type: 'uint64' },
  { name: 'confidentiality', type: 'uint8' },
  { name: 'inputsHash', type: 'bytes32' },
] as const;
const SIGNED_JOB_QUOTE = [
  { name: 'details', type: 'tuple', components: JOB_QUOTE_DETAILS },
  { name: 'signature', type: 'bytes' },
  { name: 'operator', type: 'address' },
] as const;
const JOB_CALL = [
  { name: 'jobIndex', type: 'uint8' },
  { name: 'caller', type: 'address' },
  { name: 'createdAt', type: 'uint64' },
  { name: 'resultCount', type: 'uint32' },
  { name: 'completed', type: 'bool' },
  { name: 'isRFQ', type: 'bool' },
  { name: 'payment', type: 'uint256' },
] as const;
const OPERATOR_STATE = [
  { name: 'lastHeartbeat', type: 'uint256' },
  { name: 'consecutiveBeats', type: 'uint64' },
  { name: 'missedBeats', type: 'uint8' },
  { name: 'status', type: 'uint8' },
  { name: 'lastMetricsHash', type: 'bytes32' },
] as const;
const HEARTBEAT_CONFIG = [
  { name: 'interval', type: 'uint64' },
  { name: 'maxMissed', type: 'uint8' },
  { name: 'customMetrics', type: 'bool' },
] as const;

// oxfmt-ignore
export const tangleAbi = [
  { type: 'function', name: 'createBlueprint', stateMutability: 'nonpayable', inputs: [{ name: 'definition', type: 'tuple', components: BLUEPRINT_DEFINITION }], outputs: [{ name: 'blueprintId', type: 'uint64' }] },
  { type: 'function', name: 'blueprintCount', stateMutability: 'view', inputs: [], outputs: [{ name: '', type: 'uint64' }] },
  { type: 'function', name: 'getBlueprint', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }], outputs: [{ name: '', type: 'tuple', components: BLUEPRINT }] },
  { type: 'function', name: 'getBlueprintConfig', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }], outputs: [{ name: '', type: 'tuple', components: BLUEPRINT_CONFIG }] },
  { type: 'function', name: 'getBlueprintDefinition', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }], outputs: [{ name: 'definition', type: 'tuple', components: BLUEPRINT_DEFINITION }] },
  { type: 'function', name: 'blueprintDefinitionHash', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }], outputs: [{ name: '', type: 'bytes32' }] },
  { type: 'function', name: 'blueprintSourcesHash', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }], outputs: [{ name: '', type: 'bytes32' }] },
  { type: 'function', name: 'blueprintMetadata', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }], outputs: [{ name: 'metadata', type: 'tuple', components: BLUEPRINT_METADATA }, { name: 'metadataUri', type: 'string' }, { name: 'metadataHash', type: 'bytes32' }] },
  { type: 'function', name: 'blueprintSupportedMemberships', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }], outputs: [{ name: 'memberships', type: 'uint8[]' }] },
  { type: 'function', name: 'blueprintMasterRevision', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }], outputs: [{ name: '', type: 'uint32' }] },
  { type: 'function', name: 'blueprintOperatorCount', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }], outputs: [{ name: '', type: 'uint256' }] },
  { type: 'function', name: 'setJobEventRates', stateMutability: 'nonpayable', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'jobIndexes', type: 'uint8[]' }, { name: 'rates', type: 'uint256[]' }], outputs: [] },
  { type: 'function', name: 'getJobEventRate', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'jobIndex', type: 'uint8' }], outputs: [{ name: 'rate', type: 'uint256' }] },
  { type: 'function', name: 'getBlueprintSettlementAsset', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }], outputs: [{ name: '', type: 'address' }] },
  { type: 'function', name: 'preRegister', stateMutability: 'nonpayable', inputs: [{ name: 'blueprintId', type: 'uint64' }], outputs: [] },
  { type: 'function', name: 'registerOperator', stateMutability: 'nonpayable', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'ecdsaPublicKey', type: 'bytes' }, { name: 'rpcAddress', type: 'string' }], outputs: [] },
  { type: 'function', name: 'registerOperator', stateMutability: 'nonpayable', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'ecdsaPublicKey', type: 'bytes' }, { name: 'rpcAddress', type: 'string' }, { name: 'registrationInputs', type: 'bytes' }], outputs: [] },
  { type: 'function', name: 'unregisterOperator', stateMutability: 'nonpayable', inputs: [{ name: 'blueprintId', type: 'uint64' }], outputs: [] },
  { type: 'function', name: 'updateOperatorPreferences', stateMutability: 'nonpayable', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'ecdsaPublicKey', type: 'bytes' }, { name: 'rpcAddress', type: 'string' }], outputs: [] },
  { type: 'function', name: 'getOperatorRegistration', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'tuple', components: OPERATOR_REGISTRATION }] },
  { type: 'function', name: 'getOperatorPreferences', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'tuple', components: OPERATOR_PREFERENCES }] },
  { type: 'function', name: 'getOperatorPublicKey', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'bytes' }] },
  { type: 'function', name: 'isOperatorRegistered', stateMutability: 'view', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'bool' }] },
  { type: 'function', name: 'getOperatorTotalActiveServices', stateMutability: 'view', inputs: [{ name: 'operator', type: 'address' }], outputs: [{ name: 'count', type: 'uint256' }] },
  { type: 'function', name: 'requestService', stateMutability: 'payable', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'operators', type: 'address[]' }, { name: 'config', type: 'bytes' }, { name: 'permittedCallers', type: 'address[]' }, { name: 'ttl', type: 'uint64' }, { name: 'paymentToken', type: 'address' }, { name: 'paymentAmount', type: 'uint256' }, { name: 'confidentiality', type: 'uint8' }], outputs: [{ name: 'requestId', type: 'uint64' }] },
  { type: 'function', name: 'requestServiceWithExposure', stateMutability: 'payable', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'operators', type: 'address[]' }, { name: 'exposureBps', type: 'uint16[]' }, { name: 'config', type: 'bytes' }, { name: 'permittedCallers', type: 'address[]' }, { name: 'ttl', type: 'uint64' }, { name: 'paymentToken', type: 'address' }, { name: 'paymentAmount', type: 'uint256' }, { name: 'confidentiality', type: 'uint8' }], outputs: [{ name: 'requestId', type: 'uint64' }] },
  { type: 'function', name: 'requestServiceWithSecurity', stateMutability: 'payable', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'operators', type: 'address[]' }, { name: 'securityRequirements', type: 'tuple[]', components: ASSET_SECURITY_REQUIREMENT }, { name: 'config', type: 'bytes' }, { name: 'permittedCallers', type: 'address[]' }, { name: 'ttl', type: 'uint64' }, { name: 'paymentToken', type: 'address' }, { name: 'paymentAmount', type: 'uint256' }, { name: 'confidentiality', type: 'uint8' }], outputs: [{ name: 'requestId', type: 'uint64' }] },
  { type: 'function', name: 'approveService', stateMutability: 'nonpayable', inputs: [{ name: 'params', type: 'tuple', components: APPROVAL_PARAMS }], outputs: [] },
  { type: 'function', name: 'rejectService', stateMutability: 'nonpayable', inputs: [{ name: 'requestId', type: 'uint64' }], outputs: [] },
  { type: 'function', name: 'createServiceFromQuotes', stateMutability: 'payable', inputs: [{ name: 'blueprintId', type: 'uint64' }, { name: 'quotes', type: 'tuple[]', components: SIGNED_QUOTE }, { name: 'config', type: 'bytes' }, { name: 'permittedCallers', type: 'address[]' }, { name: 'ttl', type: 'uint64' }], outputs: [{ name: 'serviceId', type: 'uint64' }] },
  { type: 'function', name: 'extendServiceFromQuotes', stateMutability: 'payable', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'quotes', type: 'tuple[]', components: SIGNED_QUOTE }, { name: 'extensionDuration', type: 'uint64' }], outputs: [] },
  { type: 'function', name: 'terminateService', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [] },
  { type: 'function', name: 'addPermittedCaller', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'caller', type: 'address' }], outputs: [] },
  { type: 'function', name: 'removePermittedCaller', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'caller', type: 'address' }], outputs: [] },
  { type: 'function', name: 'joinService', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'exposureBps', type: 'uint16' }], outputs: [] },
  { type: 'function', name: 'joinServiceWithCommitments', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'exposureBps', type: 'uint16' }, { name: 'commitments', type: 'tuple[]', components: ASSET_SECURITY_COMMITMENT }], outputs: [] },
  { type: 'function', name: 'leaveService', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [] },
  { type: 'function', name: 'scheduleExit', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [] },
  { type: 'function', name: 'executeExit', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [] },
  { type: 'function', name: 'getServiceRequest', stateMutability: 'view', inputs: [{ name: 'requestId', type: 'uint64' }], outputs: [{ name: '', type: 'tuple', components: SERVICE_REQUEST }] },
  { type: 'function', name: 'getService', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [{ name: '', type: 'tuple', components: SERVICE }] },
  { type: 'function', name: 'serviceCount', stateMutability: 'view', inputs: [], outputs: [{ name: '', type: 'uint64' }] },
  { type: 'function', name: 'isServiceActive', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [{ name: '', type: 'bool' }] },
  { type: 'function', name: 'isServiceOperator', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'bool' }] },
  { type: 'function', name: 'getServiceOperator', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'tuple', components: SERVICE_OPERATOR }] },
  { type: 'function', name: 'getServiceOperators', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [{ name: '', type: 'address[]' }] },
  { type: 'function', name: 'isPermittedCaller', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'caller', type: 'address' }], outputs: [{ name: '', type: 'bool' }] },
  { type: 'function', name: 'getServiceEscrow', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [{ name: '', type: 'tuple', components: SERVICE_ESCROW }] },
  { type: 'function', name: 'getServicePaymentAsset', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [{ name: '', type: 'address' }] },
  { type: 'function', name: 'getOperatorBlsPubkey', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: 'blsPubkey', type: 'uint256[4]' }] },
  { type: 'function', name: 'blsPopMessage', stateMutability: 'view', inputs: [{ name: 'operator', type: 'address' }, { name: 'blsPubkey', type: 'uint256[4]' }], outputs: [{ name: '', type: 'bytes' }] },
  { type: 'function', name: 'operatorStatusRegistry', stateMutability: 'view', inputs: [], outputs: [{ name: '', type: 'address' }] },
  { type: 'function', name: 'mbsmRegistry', stateMutability: 'view', inputs: [], outputs: [{ name: '', type: 'address' }] },
  { type: 'function', name: 'paused', stateMutability: 'view', inputs: [], outputs: [{ name: '', type: 'bool' }] },
  { type: 'function', name: 'submitJob', stateMutability: 'payable', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'jobIndex', type: 'uint8' }, { name: 'inputs', type: 'bytes' }], outputs: [{ name: 'callId', type: 'uint64' }] },
  { type: 'function', name: 'submitJobFromQuote', stateMutability: 'payable', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'jobIndex', type: 'uint8' }, { name: 'inputs', type: 'bytes' }, { name: 'quotes', type: 'tuple[]', components: SIGNED_JOB_QUOTE }], outputs: [{ name: 'callId', type: 'uint64' }] },
  { type: 'function', name: 'submitResult', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'callId', type: 'uint64' }, { name: 'result', type: 'bytes' }], outputs: [] },
  { type: 'function', name: 'submitResults', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'callIds', type: 'uint64[]' }, { name: 'results', type: 'bytes[]' }], outputs: [] },
  { type: 'function', name: 'submitAggregatedResult', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'callId', type: 'uint64' }, { name: 'output', type: 'bytes' }, { name: 'signerBitmap', type: 'uint256' }, { name: 'aggregatedSignature', type: 'uint256[2]' }, { name: 'aggregatedPubkey', type: 'uint256[4]' }], outputs: [] },
  { type: 'function', name: 'getJobCall', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'callId', type: 'uint64' }], outputs: [{ name: '', type: 'tuple', components: JOB_CALL }] },
  { type: 'function', name: 'getJobQuotedOperators', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'callId', type: 'uint64' }], outputs: [{ name: '', type: 'address[]' }] },
  { type: 'function', name: 'getJobQuotedPrice', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'callId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'uint256' }] },
  { type: 'function', name: 'pendingRewards', stateMutability: 'view', inputs: [{ name: 'account', type: 'address' }], outputs: [{ name: '', type: 'uint256' }] },
  { type: 'function', name: 'claimRewards', stateMutability: 'nonpayable', inputs: [], outputs: [] },
  { type: 'event', name: 'JobSubmitted', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'callId', type: 'uint64', indexed: true }, { name: 'jobIndex', type: 'uint8', indexed: false }, { name: 'caller', type: 'address', indexed: false }, { name: 'inputs', type: 'bytes', indexed: false }] },
  { type: 'event', name: 'JobSubmittedFromQuote', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'callId', type: 'uint64', indexed: true }, { name: 'jobIndex', type: 'uint8', indexed: false }, { name: 'caller', type: 'address', indexed: false }, { name: 'quotedOperators', type: 'address[]', indexed: false }, { name: 'totalPrice', type: 'uint256', indexed: false }, { name: 'inputs', type: 'bytes', indexed: false }] },
  { type: 'event', name: 'JobResultSubmitted', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'callId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }, { name: 'output', type: 'bytes', indexed: false }] },
  { type: 'event', name: 'AggregatedResultSubmitted', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'callId', type: 'uint64', indexed: true }, { name: 'signerBitmap', type: 'uint256', indexed: false }, { name: 'output', type: 'bytes', indexed: false }] },
  { type: 'event', name: 'JobCompleted', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'callId', type: 'uint64', indexed: true }] },
  { type: 'event', name: 'BlueprintCreated', inputs: [{ name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'owner', type: 'address', indexed: true }, { name: 'manager', type: 'address', indexed: false }, { name: 'metadataUri', type: 'string', indexed: false }, { name: 'metadataHash', type: 'bytes32', indexed: false }] },
  { type: 'event', name: 'BlueprintUpdated', inputs: [{ name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'metadataUri', type: 'string', indexed: false }, { name: 'metadataHash', type: 'bytes32', indexed: false }] },
  { type: 'event', name: 'BlueprintDeactivated', inputs: [{ name: 'blueprintId', type: 'uint64', indexed: true }] },
  { type: 'event', name: 'BlueprintSourcesRecorded', inputs: [{ name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'sourcesHash', type: 'bytes32', indexed: true }, { name: 'sources', type: 'tuple[]', components: BLUEPRINT_SOURCE, indexed: false }] },
  { type: 'event', name: 'OperatorPreRegistered', inputs: [{ name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }] },
  { type: 'event', name: 'OperatorRegistered', inputs: [{ name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }, { name: 'ecdsaPublicKey', type: 'bytes', indexed: false }, { name: 'rpcAddress', type: 'string', indexed: false }] },
  { type: 'event', name: 'OperatorUnregistered', inputs: [{ name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }] },
  { type: 'event', name: 'OperatorPreferencesUpdated', inputs: [{ name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }, { name: 'ecdsaPublicKey', type: 'bytes', indexed: false }, { name: 'rpcAddress', type: 'string', indexed: false }] },
  { type: 'event', name: 'ServiceRequested', inputs: [{ name: 'requestId', type: 'uint64', indexed: true }, { name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'requester', type: 'address', indexed: true }, { name: 'confidentiality', type: 'uint8', indexed: false }] },
  { type: 'event', name: 'ServiceRequestedWithSecurity', inputs: [{ name: 'requestId', type: 'uint64', indexed: true }, { name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'requester', type: 'address', indexed: true }, { name: 'confidentiality', type: 'uint8', indexed: false }] },
  { type: 'event', name: 'ServiceApproved', inputs: [{ name: 'requestId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }] },
  { type: 'event', name: 'ServiceRejected', inputs: [{ name: 'requestId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }] },
  { type: 'event', name: 'ServiceActivated', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'requestId', type: 'uint64', indexed: true }, { name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'confidentiality', type: 'uint8', indexed: false }] },
  { type: 'event', name: 'ServiceTerminated', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }] },
  { type: 'event', name: 'OperatorJoinedService', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }, { name: 'exposureBps', type: 'uint16', indexed: false }] },
  { type: 'event', name: 'OperatorLeftService', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }] },
  { type: 'event', name: 'PaymentDistributed', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'token', type: 'address', indexed: true }, { name: 'grossAmount', type: 'uint256', indexed: false }, { name: 'developerRecipient', type: 'address', indexed: false }, { name: 'developerAmount', type: 'uint256', indexed: false }, { name: 'protocolAmount', type: 'uint256', indexed: false }, { name: 'operatorPoolAmount', type: 'uint256', indexed: false }, { name: 'stakerPoolAmount', type: 'uint256', indexed: false }] },
  { type: 'event', name: 'ManagerHookFailed', inputs: [{ name: 'manager', type: 'address', indexed: true }, { name: 'selector', type: 'bytes4', indexed: true }, { name: 'returnData', type: 'bytes', indexed: false }] },
  { type: 'event', name: 'QuoteUsed', inputs: [{ name: 'operator', type: 'address', indexed: true }, { name: 'quoteHash', type: 'bytes32', indexed: true }] },
] as const;

/** The contract that records definitions. Its address is unknown: find it by the event, and trust only the hash. */
// oxfmt-ignore
export const masterManagerAbi = [
  { type: 'event', name: 'BlueprintDefinitionRecorded', inputs: [{ name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'owner', type: 'address', indexed: true }, { name: 'encodedDefinition', type: 'bytes', indexed: false }] },
] as const;

/** tangle.operatorStatusRegistry() */
// oxfmt-ignore
export const statusRegistryAbi = [
  { type: 'function', name: 'submitHeartbeat', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'blueprintId', type: 'uint64' }, { name: 'statusCode', type: 'uint8' }, { name: 'metrics', type: 'bytes' }, { name: 'timestamp', type: 'uint64' }, { name: 'signature', type: 'bytes' }], outputs: [] },
  { type: 'function', name: 'submitHeartbeatDirect', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'blueprintId', type: 'uint64' }, { name: 'statusCode', type: 'uint8' }, { name: 'metrics', type: 'bytes' }], outputs: [] },
  { type: 'function', name: 'isOnline', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'bool' }] },
  { type: 'function', name: 'getOperatorStatus', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'uint8' }] },
  { type: 'function', name: 'getLastHeartbeat', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'uint256' }] },
  { type: 'function', name: 'getOperatorState', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'tuple', components: OPERATOR_STATE }] },
  { type: 'function', name: 'getOnlineOperators', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [{ name: '', type: 'address[]' }] },
  { type: 'function', name: 'getHeartbeatConfig', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [{ name: '', type: 'tuple', components: HEARTBEAT_CONFIG }] },
  { type: 'function', name: 'isHeartbeatCurrent', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'bool' }] },
  { type: 'function', name: 'isRegisteredOperator', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'operator', type: 'address' }], outputs: [{ name: '', type: 'bool' }] },
  { type: 'function', name: 'getMetricValue', stateMutability: 'view', inputs: [{ name: 'serviceId', type: 'uint64' }, { name: 'operator', type: 'address' }, { name: 'metricName', type: 'string' }], outputs: [{ name: '', type: 'uint256' }] },
  { type: 'function', name: 'goOffline', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [] },
  { type: 'function', name: 'goOnline', stateMutability: 'nonpayable', inputs: [{ name: 'serviceId', type: 'uint64' }], outputs: [] },
  { type: 'function', name: 'DOMAIN_SEPARATOR', stateMutability: 'view', inputs: [], outputs: [{ name: '', type: 'bytes32' }] },
  { type: 'event', name: 'HeartbeatReceived', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'blueprintId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }, { name: 'statusCode', type: 'uint8', indexed: false }, { name: 'timestamp', type: 'uint256', indexed: false }] },
  { type: 'event', name: 'OperatorWentOffline', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }, { name: 'missedBeats', type: 'uint8', indexed: false }] },
  { type: 'event', name: 'OperatorCameOnline', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }] },
  { type: 'event', name: 'StatusChanged', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }, { name: 'oldStatus', type: 'uint8', indexed: false }, { name: 'newStatus', type: 'uint8', indexed: false }] },
  { type: 'event', name: 'MetricReported', inputs: [{ name: 'serviceId', type: 'uint64', indexed: true }, { name: 'operator', type: 'address', indexed: true }, { name: 'metricName', type: 'string', indexed: false }, { name: 'value', type: 'uint256', indexed: false }] },
] as const;
