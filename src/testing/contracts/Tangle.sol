// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.26;

// A small contract with the interface of the Tangle contracts, for tests and the demo. It imitates what a client can see: signatures,
// events (JobSubmitted with an un-indexed job index), custom errors and the order of the checks, the compact schema encoding, quotes and
// heartbeats signed with EIP-712, zero structs for unknown ids, and definitions of which the view shows only a part. It has no staking,
// no BLS aggregation and no payment distribution: value is taken and kept.

struct Blueprint { address owner; address manager; uint64 createdAt; uint8 membership; uint8 pricing; bool active; }
struct BlueprintConfig {
    uint8 membership; uint8 pricing; uint32 minOperators; uint32 maxOperators;
    uint256 subscriptionRate; uint64 subscriptionInterval; uint256 eventRate;
}
struct BlueprintMetadata {
    string name; string description; string author; string category; string codeRepository;
    string logo; string website; string license; string profilingData;
}
struct JobDefinition { string name; string description; string metadataUri; bytes paramsSchema; bytes resultSchema; }
struct ImageRegistrySource { string registry; string image; string tag; }
struct WasmSource { uint8 runtime; uint8 fetcher; string artifactUri; string entrypoint; }
struct NativeSource { uint8 fetcher; string artifactUri; string entrypoint; }
struct TestingSource { string cargoPackage; string cargoBin; string basePath; }
struct BlueprintBinary { uint8 arch; uint8 os; string name; bytes32 sha256; }
struct BlueprintSource {
    uint8 kind; ImageRegistrySource container; WasmSource wasm; NativeSource native; TestingSource testing; BlueprintBinary[] binaries;
}
struct BlueprintDefinition {
    string metadataUri; bytes32 metadataHash; address manager; uint32 masterManagerRevision; bool hasConfig; BlueprintConfig config;
    BlueprintMetadata metadata; JobDefinition[] jobs; bytes registrationSchema; bytes requestSchema; BlueprintSource[] sources;
    uint8[] supportedMemberships;
}
struct Service {
    uint64 blueprintId; address owner; uint64 createdAt; uint64 ttl; uint64 terminatedAt; uint64 lastPaymentAt; uint32 operatorCount;
    uint32 minOperators; uint32 maxOperators; uint8 membership; uint8 pricing; uint8 status; uint8 confidentiality;
}
struct ServiceRequest {
    uint64 blueprintId; address requester; uint64 createdAt; uint64 ttl; uint32 operatorCount; uint32 approvalCount; address paymentToken;
    uint256 paymentAmount; uint8 membership; uint32 minOperators; uint32 maxOperators; bool rejected; uint8 confidentiality; bool activated;
}
struct JobCall { uint8 jobIndex; address caller; uint64 createdAt; uint32 resultCount; bool completed; bool isRFQ; uint256 payment; }
struct OperatorRegistration { uint64 registeredAt; }
struct OperatorPreferences { bytes ecdsaPublicKey; string rpcAddress; }
struct Asset { uint8 kind; address token; }
struct AssetSecurityCommitment { Asset asset; uint16 exposureBps; }
struct TeeAttestationCommitment { uint8 backend; bytes32 expectedMeasurement; bytes32 nonceBinding; uint64 expiresAt; }
struct ApprovalParams {
    uint64 requestId; AssetSecurityCommitment[] securityCommitments; uint256[4] blsPubkey; uint256[2] blsPopSignature;
    TeeAttestationCommitment[] teeCommitments;
}
struct JobQuoteDetails {
    address requester; uint64 serviceId; uint8 jobIndex; uint256 price; uint64 timestamp; uint64 expiry; uint8 confidentiality; bytes32 inputsHash;
}
struct SignedJobQuote { JobQuoteDetails details; bytes signature; address operator; }
struct JobSchemas { bytes params; bytes result; }
struct HeartbeatConfig { uint64 interval; uint8 maxMissed; bool customMetrics; }
struct OperatorState { uint256 lastHeartbeat; uint64 consecutiveBeats; uint8 missedBeats; uint8 status; bytes32 lastMetricsHash; }

interface IJobManager {
    function getRequiredResultCount(uint64 serviceId, uint8 jobIndex) external view returns (uint32 required);
    function requiresAggregation(uint64 serviceId, uint8 jobIndex) external view returns (bool required);
}

/// Recovers the signer of a 65-byte signature; the zero address when it is malformed.
function signerOf(bytes32 digest, bytes memory signature) pure returns (address) {
    if (signature.length != 65) return address(0);
    bytes32 r; bytes32 s; uint8 v;
    assembly {
        r := mload(add(signature, 32))
        s := mload(add(signature, 64))
        v := byte(0, mload(add(signature, 96)))
    }
    return ecrecover(digest, v, r, s);
}

function domainSeparator(string memory name, address verifier) view returns (bytes32) {
    return keccak256(abi.encode(
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
        keccak256(bytes(name)), keccak256("1"), block.chainid, verifier
    ));
}

/// Checks a payload against a schema of the compact encoding.
library CompactSchema {
    struct Walk { bytes schema; bytes data; uint256 at; uint256 cursor; bool failed; }

    uint256 private constant DEPTH_MAX = 32;
    uint256 private constant LIST_MAX = 10_000;

    /// Whether all of `data` is one payload of `schema`, and the place where it stops being one.
    function check(bytes memory schema, bytes memory data) internal pure returns (bool valid, uint256 cursor) {
        Walk memory walk = Walk(schema, data, 1, 0, false);
        uint256 fields = number(walk, 2);
        for (uint256 i = 0; i < fields && !walk.failed; i++) field(walk, 0);
        return (!walk.failed && walk.cursor == data.length, walk.cursor);
    }

    /// A big-endian number of the schema; the compiler of the schema is trusted to have written all of it.
    function number(Walk memory walk, uint256 width) private pure returns (uint256 value) {
        for (uint256 i = 0; i < width; i++) value = (value << 8) | uint8(walk.schema[walk.at++]);
    }

    function header(Walk memory walk) private pure returns (uint256 kind, uint256 arrayLength, uint256 children) {
        kind = number(walk, 1);
        arrayLength = number(walk, 2);
        children = number(walk, 2);
        uint256 nameLength = number(walk, 1);
        if (nameLength >= 0xe0) nameLength = ((nameLength & 0x0f) << 24) | number(walk, 3);
        else if (nameLength >= 0xc0) nameLength = ((nameLength & 0x1f) << 16) | number(walk, 2);
        else if (nameLength >= 0x80) nameLength = ((nameLength & 0x3f) << 8) | number(walk, 1);
        walk.at += nameLength;
    }

    function skip(Walk memory walk) private pure {
        (, , uint256 children) = header(walk);
        for (uint256 i = 0; i < children; i++) skip(walk);
    }

    function take(Walk memory walk, uint256 width) private pure {
        if (width > walk.data.length - walk.cursor) walk.failed = true;
        else walk.cursor += width;
    }

    function length(Walk memory walk) private pure returns (uint256 value) {
        if (walk.cursor >= walk.data.length) { walk.failed = true; return 0; }
        uint256 first = uint8(walk.data[walk.cursor++]);
        if (first < 0x80) return first;
        uint256 width = 1;
        if (first >= 0xc0) {
            width = first & 0x3f;
            if (width == 0 || width > 32) { walk.failed = true; return 0; }
        } else {
            value = first & 0x3f;
        }
        if (width > walk.data.length - walk.cursor) { walk.failed = true; return 0; }
        for (uint256 i = 0; i < width; i++) value = (value << 8) | uint8(walk.data[walk.cursor++]);
    }

    function widthOf(uint256 kind, uint256 arrayLength) private pure returns (uint256) {
        if (kind == 1) return 1; // bool: the value is not checked
        if (kind >= 2 && kind <= 9) return 1 << ((kind - 2) / 2); // 8 to 64 bits
        if (kind == 10 || kind == 11) return 16;
        if (kind == 12 || kind == 13 || kind == 15) return 32;
        if (kind == 14) return 20;
        return kind == 16 ? arrayLength : 0;
    }

    function field(Walk memory walk, uint256 depth) private pure {
        if (depth > DEPTH_MAX) { walk.failed = true; return; }
        (uint256 kind, uint256 arrayLength, uint256 children) = header(walk);
        if (kind <= 16) take(walk, widthOf(kind, arrayLength));
        else if (kind == 17 || kind == 18) take(walk, length(walk));
        else if (kind == 19) optional(walk, depth);
        else if (kind == 20) elements(walk, arrayLength, depth);
        else if (kind == 21) {
            uint256 count = length(walk);
            if (count > LIST_MAX) walk.failed = true;
            else elements(walk, count, depth);
        } else {
            if (length(walk) != children) walk.failed = true;
            for (uint256 i = 0; i < children && !walk.failed; i++) field(walk, depth + 1);
        }
    }

    function optional(Walk memory walk, uint256 depth) private pure {
        uint256 width = length(walk);
        if (width == 0) return skip(walk);
        uint256 end = walk.cursor + width;
        if (end > walk.data.length) { walk.failed = true; return; }
        field(walk, depth + 1);
        if (walk.cursor != end) walk.failed = true;
    }

    function elements(Walk memory walk, uint256 count, uint256 depth) private pure {
        uint256 child = walk.at;
        if (count == 0) return skip(walk);
        for (uint256 i = 0; i < count && !walk.failed; i++) {
            walk.at = child;
            field(walk, depth + 1);
        }
    }
}

/// Where the full definition of a blueprint is recorded: another address than Tangle's.
contract MasterManager {
    event BlueprintDefinitionRecorded(uint64 indexed blueprintId, address indexed owner, bytes encodedDefinition);

    address private immutable tangle = msg.sender;

    /// Returns the part of the definition that Tangle's view shows.
    function onBlueprintCreated(uint64 blueprintId, address owner, bytes calldata encodedDefinition) external returns (bytes memory shown) {
        require(msg.sender == tangle);
        emit BlueprintDefinitionRecorded(blueprintId, owner, encodedDefinition);
        return strip(abi.decode(encodedDefinition, (BlueprintDefinition)));
    }

    function strip(BlueprintDefinition memory definition) private pure returns (bytes memory) {
        BlueprintMetadata memory metadata;
        metadata.name = definition.metadata.name;
        metadata.profilingData = definition.metadata.profilingData;
        definition.metadata = metadata;
        for (uint256 i = 0; i < definition.jobs.length; i++) {
            definition.jobs[i].name = "";
            definition.jobs[i].description = "";
            definition.jobs[i].metadataUri = "";
        }
        definition.sources = new BlueprintSource[](0);
        return abi.encode(definition);
    }
}

contract OperatorStatusRegistry {
    event HeartbeatReceived(uint64 indexed serviceId, uint64 indexed blueprintId, address indexed operator, uint8 statusCode, uint256 timestamp);
    event OperatorCameOnline(uint64 indexed serviceId, address indexed operator);
    event StatusChanged(uint64 indexed serviceId, address indexed operator, uint8 oldStatus, uint8 newStatus);

    error NotRegisteredOperator();
    error InvalidSignature();
    error HeartbeatStale(uint64 signed, uint64 now_);
    error HeartbeatFromFuture(uint64 signed, uint64 now_);
    error OnlyTangleCore();

    uint8 private constant OFFLINE = 2;
    uint64 private constant INTERVAL = 300;
    uint8 private constant MISSED_MAX = 3;
    uint64 private constant AGE_MAX = 5 minutes;
    bytes32 private constant HEARTBEAT_TYPE = keccak256(
        "Heartbeat(address operator,uint64 serviceId,uint64 blueprintId,uint8 statusCode,bytes32 metricsHash,uint64 timestamp)"
    );

    address private immutable tangle = msg.sender;
    mapping(uint64 => mapping(address => bool)) public isRegisteredOperator;
    mapping(uint64 => mapping(address => OperatorState)) private states;

    function setOperator(uint64 serviceId, address operator, bool registered) external {
        if (msg.sender != tangle) revert OnlyTangleCore();
        isRegisteredOperator[serviceId][operator] = registered;
    }

    function submitHeartbeat(
        uint64 serviceId, uint64 blueprintId, uint8 statusCode, bytes calldata metrics, uint64 timestamp, bytes calldata signature
    ) external {
        if (!isRegisteredOperator[serviceId][msg.sender]) revert NotRegisteredOperator();
        uint64 present = uint64(block.timestamp);
        if (timestamp > present) revert HeartbeatFromFuture(timestamp, present);
        if (present - timestamp > AGE_MAX) revert HeartbeatStale(timestamp, present);
        bytes32 beat = keccak256(abi.encode(HEARTBEAT_TYPE, msg.sender, serviceId, blueprintId, statusCode, keccak256(metrics), timestamp));
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", DOMAIN_SEPARATOR(), beat));
        if (signerOf(digest, signature) != msg.sender) revert InvalidSignature();
        record(serviceId, blueprintId, statusCode, metrics);
    }

    function submitHeartbeatDirect(uint64 serviceId, uint64 blueprintId, uint8 statusCode, bytes calldata metrics) external {
        if (!isRegisteredOperator[serviceId][msg.sender]) revert NotRegisteredOperator();
        record(serviceId, blueprintId, statusCode, metrics);
    }

    function record(uint64 serviceId, uint64 blueprintId, uint8 statusCode, bytes calldata metrics) private {
        uint8 before = getOperatorStatus(serviceId, msg.sender);
        uint8 status = statusCode > 1 ? 1 : statusCode;
        OperatorState storage state = states[serviceId][msg.sender];
        state.lastHeartbeat = block.timestamp;
        state.consecutiveBeats++;
        state.missedBeats = 0;
        state.status = status;
        state.lastMetricsHash = keccak256(metrics);
        if (before != status) emit StatusChanged(serviceId, msg.sender, before, status);
        if (before == OFFLINE) emit OperatorCameOnline(serviceId, msg.sender);
        emit HeartbeatReceived(serviceId, blueprintId, msg.sender, statusCode, block.timestamp);
    }

    /// Offline until the first heartbeat, and again after too many missed ones.
    function getOperatorStatus(uint64 serviceId, address operator) public view returns (uint8) {
        return isHeartbeatCurrent(serviceId, operator) ? states[serviceId][operator].status : OFFLINE;
    }

    function isOnline(uint64 serviceId, address operator) external view returns (bool) {
        return getOperatorStatus(serviceId, operator) < OFFLINE;
    }

    function isHeartbeatCurrent(uint64 serviceId, address operator) public view returns (bool) {
        uint256 last = states[serviceId][operator].lastHeartbeat;
        return last != 0 && block.timestamp <= last + uint256(INTERVAL) * MISSED_MAX;
    }

    function getLastHeartbeat(uint64 serviceId, address operator) external view returns (uint256) {
        return states[serviceId][operator].lastHeartbeat;
    }

    function getOperatorState(uint64 serviceId, address operator) external view returns (OperatorState memory state) {
        state = states[serviceId][operator];
        state.status = getOperatorStatus(serviceId, operator);
    }

    function getHeartbeatConfig(uint64) external pure returns (HeartbeatConfig memory) {
        return HeartbeatConfig(INTERVAL, MISSED_MAX, false);
    }

    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return domainSeparator("OperatorStatusRegistry", address(this));
    }
}

contract Tangle {
    event JobSubmitted(uint64 indexed serviceId, uint64 indexed callId, uint8 jobIndex, address caller, bytes inputs);
    event JobSubmittedFromQuote(
        uint64 indexed serviceId, uint64 indexed callId, uint8 jobIndex, address caller, address[] quotedOperators, uint256 totalPrice, bytes inputs
    );
    event JobResultSubmitted(uint64 indexed serviceId, uint64 indexed callId, address indexed operator, bytes output);
    event JobCompleted(uint64 indexed serviceId, uint64 indexed callId);
    event BlueprintCreated(uint64 indexed blueprintId, address indexed owner, address manager, string metadataUri, bytes32 metadataHash);
    event OperatorRegistered(uint64 indexed blueprintId, address indexed operator, bytes ecdsaPublicKey, string rpcAddress);
    event OperatorUnregistered(uint64 indexed blueprintId, address indexed operator);
    event OperatorPreferencesUpdated(uint64 indexed blueprintId, address indexed operator, bytes ecdsaPublicKey, string rpcAddress);
    event ServiceRequested(uint64 indexed requestId, uint64 indexed blueprintId, address indexed requester, uint8 confidentiality);
    event ServiceApproved(uint64 indexed requestId, address indexed operator);
    event ServiceActivated(uint64 indexed serviceId, uint64 indexed requestId, uint64 indexed blueprintId, uint8 confidentiality);
    event ServiceTerminated(uint64 indexed serviceId);
    event OperatorJoinedService(uint64 indexed serviceId, address indexed operator, uint16 exposureBps);
    event OperatorLeftService(uint64 indexed serviceId, address indexed operator);
    event QuoteUsed(address indexed operator, bytes32 indexed quoteHash);

    error Unauthorized();
    error InvalidState();
    error LengthMismatch();
    error SchemaValidationFailed(uint8 target, uint64 refId, uint64 auxId, uint256 path);
    error BlueprintNotFound(uint64 blueprintId);
    error BlueprintMetadataRequired();
    error BlueprintMetadataHashRequired();
    error BlueprintMembershipRequired();
    error BlueprintSourcesRequired();
    error OperatorNotRegistered(uint64 blueprintId, address operator);
    error OperatorRpcAddressRequired();
    error OperatorAlreadyRegistered(uint64 blueprintId, address operator);
    error InvalidOperatorKey();
    error DuplicateOperatorKey(uint64 blueprintId, bytes32 keyHash);
    error ServiceRequestNotFound(uint64 requestId);
    error ServiceNotFound(uint64 serviceId);
    error ServiceNotActive(uint64 serviceId);
    error ServiceExpired(uint64 serviceId);
    error NotServiceOwner(uint64 serviceId, address caller);
    error NotPermittedCaller(uint64 serviceId, address caller);
    error OperatorNotInService(uint64 serviceId, address operator);
    error AlreadyApproved(uint64 requestId, address operator);
    error NoOperators();
    error TTLBelowMinimum(uint64 ttl, uint64 minimum);
    error JobCallNotFound(uint64 serviceId, uint64 callId);
    error JobAlreadyCompleted(uint64 serviceId, uint64 callId);
    error InvalidJobIndex(uint8 jobIndex);
    error ResultAlreadySubmitted(uint64 serviceId, uint64 callId, address operator);
    error NotQuotedOperator(uint64 serviceId, uint64 callId);
    error JobQuoteServiceMismatch(uint64 expected, uint64 quoted);
    error JobQuoteJobIndexMismatch(uint8 expected, uint8 quoted);
    error JobQuoteRequesterMismatch(address operator, address expected, address actual);
    error JobQuoteInputsMismatch(address operator, bytes32 expectedInputsHash, bytes32 quotedInputsHash);
    error QuoteExpired(address operator, uint64 expiry);
    error QuoteTimestampTooOld(address operator, uint64 timestamp, uint64 maxAge);
    error QuoteAlreadyUsed(address operator);
    error InvalidQuoteSignature(address operator);
    error DuplicateOperatorQuote(address operator);
    error NoQuotes();
    error InvalidMsgValue(uint256 expected, uint256 sent);
    error PaymentTooSmall(uint256 amount, uint256 minimumRequired);
    error AggregationRequired(uint64 serviceId, uint8 jobIndex);
    error EnforcedPause();

    uint8 private constant ACTIVE = 1;
    uint8 private constant TERMINATED = 2;
    uint8 private constant EVENT_DRIVEN = 2;
    uint8 private constant JOB_PARAMS = 2;
    uint8 private constant JOB_RESULT = 3;
    uint64 private constant TTL_MIN = 1 hours;
    uint64 private constant QUOTE_AGE_MAX = 1 hours;
    uint256 private constant QUOTE_PRICE_MIN = 100;
    bytes32 private constant QUOTE_TYPE = keccak256(
        "JobQuoteDetails(address requester,uint64 serviceId,uint8 jobIndex,uint256 price,uint64 timestamp,uint64 expiry,uint8 confidentiality,bytes32 inputsHash)"
    );

    MasterManager public immutable masterManager = new MasterManager();
    OperatorStatusRegistry public immutable operatorStatusRegistry = new OperatorStatusRegistry();
    address private immutable admin = msg.sender;
    bool public paused;

    uint64 public blueprintCount;
    mapping(uint64 => Blueprint) private blueprints;
    mapping(uint64 => BlueprintConfig) private configs;
    mapping(uint64 => JobSchemas[]) private schemas;
    /// What getBlueprintDefinition returns, as it returns it.
    mapping(uint64 => bytes) private shownDefinitions;
    mapping(uint64 => bytes32) public blueprintDefinitionHash;

    mapping(uint64 => mapping(address => OperatorRegistration)) private registrations;
    mapping(uint64 => mapping(address => bytes)) private operatorKeys;
    mapping(uint64 => mapping(bytes32 => bool)) private keysTaken;

    uint64 private requestCount;
    mapping(uint64 => ServiceRequest) private requests;
    mapping(uint64 => address[]) private requestOperators;
    mapping(uint64 => address[]) private requestCallers;
    mapping(uint64 => mapping(address => bool)) private approvals;

    uint64 public serviceCount;
    mapping(uint64 => Service) private services;
    mapping(uint64 => address[]) private serviceOperators;
    mapping(uint64 => mapping(address => bool)) public isServiceOperator;
    mapping(uint64 => mapping(address => bool)) public isPermittedCaller;

    mapping(uint64 => uint64) private callCounts;
    mapping(uint64 => mapping(uint64 => JobCall)) private calls;
    mapping(uint64 => mapping(uint64 => mapping(address => bool))) private answered;
    mapping(uint64 => mapping(uint64 => address[])) private quoted;
    mapping(uint64 => mapping(uint64 => mapping(address => uint256))) public getJobQuotedPrice;
    mapping(address => mapping(bytes32 => bool)) private quotesUsed;

    modifier whenNotPaused() {
        if (paused) revert EnforcedPause();
        _;
    }

    function pause() external {
        if (msg.sender != admin) revert Unauthorized();
        paused = true;
    }

    function unpause() external {
        if (msg.sender != admin) revert Unauthorized();
        paused = false;
    }

    // Blueprints

    /// The arguments of the transaction are abi.encode(definition) already.
    function createBlueprint(BlueprintDefinition calldata definition) external whenNotPaused returns (uint64 blueprintId) {
        if (bytes(definition.metadataUri).length == 0) revert BlueprintMetadataRequired();
        if (definition.metadataHash == 0) revert BlueprintMetadataHashRequired();
        if (definition.supportedMemberships.length == 0) revert BlueprintMembershipRequired();
        if (definition.sources.length == 0) revert BlueprintSourcesRequired();
        blueprintId = blueprintCount++;
        BlueprintConfig calldata config = definition.config;
        blueprints[blueprintId] =
            Blueprint(msg.sender, definition.manager, uint64(block.timestamp), config.membership, config.pricing, true);
        configs[blueprintId] = config;
        for (uint256 i = 0; i < definition.jobs.length; i++) {
            schemas[blueprintId].push(JobSchemas(definition.jobs[i].paramsSchema, definition.jobs[i].resultSchema));
        }
        blueprintDefinitionHash[blueprintId] = keccak256(msg.data[4:]);
        emit BlueprintCreated(blueprintId, msg.sender, definition.manager, definition.metadataUri, definition.metadataHash);
        shownDefinitions[blueprintId] = masterManager.onBlueprintCreated(blueprintId, msg.sender, msg.data[4:]);
    }

    function getBlueprint(uint64 blueprintId) external view returns (Blueprint memory) {
        return blueprints[blueprintId];
    }

    function getBlueprintConfig(uint64 blueprintId) external view returns (BlueprintConfig memory) {
        return configs[blueprintId];
    }

    /// Returns BlueprintDefinition, without the names of the jobs, most of the metadata and the sources.
    fallback(bytes calldata input) external returns (bytes memory) {
        if (bytes4(input) != bytes4(keccak256("getBlueprintDefinition(uint64)"))) revert();
        uint64 blueprintId = abi.decode(input[4:], (uint64));
        if (blueprints[blueprintId].createdAt == 0) revert BlueprintNotFound(blueprintId);
        return shownDefinitions[blueprintId];
    }

    // Operators

    function registerOperator(uint64 blueprintId, bytes calldata ecdsaPublicKey, string calldata rpcAddress) external {
        register(blueprintId, ecdsaPublicKey, rpcAddress);
    }

    function registerOperator(uint64 blueprintId, bytes calldata ecdsaPublicKey, string calldata rpcAddress, bytes calldata) external {
        register(blueprintId, ecdsaPublicKey, rpcAddress);
    }

    function register(uint64 blueprintId, bytes calldata ecdsaPublicKey, string calldata rpcAddress) private whenNotPaused {
        if (blueprints[blueprintId].createdAt == 0) revert BlueprintNotFound(blueprintId);
        if (registrations[blueprintId][msg.sender].registeredAt != 0) revert OperatorAlreadyRegistered(blueprintId, msg.sender);
        if (bytes(rpcAddress).length == 0) revert OperatorRpcAddressRequired();
        setKey(blueprintId, ecdsaPublicKey);
        registrations[blueprintId][msg.sender].registeredAt = uint64(block.timestamp);
        emit OperatorRegistered(blueprintId, msg.sender, ecdsaPublicKey, rpcAddress);
    }

    function setKey(uint64 blueprintId, bytes calldata ecdsaPublicKey) private {
        if (ecdsaPublicKey.length != 65 || ecdsaPublicKey[0] != 0x04) revert InvalidOperatorKey();
        bytes32 keyHash = keccak256(ecdsaPublicKey);
        bytes32 previous = keccak256(operatorKeys[blueprintId][msg.sender]);
        if (previous == keyHash) return;
        if (keysTaken[blueprintId][keyHash]) revert DuplicateOperatorKey(blueprintId, keyHash);
        keysTaken[blueprintId][previous] = false;
        keysTaken[blueprintId][keyHash] = true;
        operatorKeys[blueprintId][msg.sender] = ecdsaPublicKey;
    }

    function unregisterOperator(uint64 blueprintId) external whenNotPaused {
        if (registrations[blueprintId][msg.sender].registeredAt == 0) revert OperatorNotRegistered(blueprintId, msg.sender);
        keysTaken[blueprintId][keccak256(operatorKeys[blueprintId][msg.sender])] = false;
        delete operatorKeys[blueprintId][msg.sender];
        delete registrations[blueprintId][msg.sender];
        emit OperatorUnregistered(blueprintId, msg.sender);
    }

    function updateOperatorPreferences(uint64 blueprintId, bytes calldata ecdsaPublicKey, string calldata rpcAddress) external whenNotPaused {
        if (registrations[blueprintId][msg.sender].registeredAt == 0) revert OperatorNotRegistered(blueprintId, msg.sender);
        if (ecdsaPublicKey.length > 0) setKey(blueprintId, ecdsaPublicKey);
        emit OperatorPreferencesUpdated(blueprintId, msg.sender, ecdsaPublicKey, rpcAddress);
    }

    function isOperatorRegistered(uint64 blueprintId, address operator) external view returns (bool) {
        return registrations[blueprintId][operator].registeredAt != 0;
    }

    function getOperatorRegistration(uint64 blueprintId, address operator) external view returns (OperatorRegistration memory) {
        return registrations[blueprintId][operator];
    }

    /// The address is never stored: it is in the events alone.
    function getOperatorPreferences(uint64 blueprintId, address operator) external view returns (OperatorPreferences memory) {
        return OperatorPreferences(operatorKeys[blueprintId][operator], "");
    }

    // Services

    function requestService(
        uint64 blueprintId, address[] calldata operators, bytes calldata, address[] calldata permittedCallers, uint64 ttl,
        address paymentToken, uint256 paymentAmount, uint8 confidentiality
    ) external payable whenNotPaused returns (uint64 requestId) {
        Blueprint storage blueprint = blueprints[blueprintId];
        if (blueprint.createdAt == 0) revert BlueprintNotFound(blueprintId);
        if (operators.length == 0) revert NoOperators();
        if (ttl != 0 && ttl < TTL_MIN) revert TTLBelowMinimum(ttl, TTL_MIN);
        for (uint256 i = 0; i < operators.length; i++) {
            if (registrations[blueprintId][operators[i]].registeredAt == 0) revert OperatorNotRegistered(blueprintId, operators[i]);
        }
        requestId = requestCount++;
        ServiceRequest storage request = requests[requestId];
        request.blueprintId = blueprintId;
        request.requester = msg.sender;
        request.createdAt = uint64(block.timestamp);
        request.ttl = ttl;
        request.operatorCount = uint32(operators.length);
        request.paymentToken = paymentToken;
        request.paymentAmount = paymentAmount;
        request.membership = blueprint.membership;
        request.confidentiality = confidentiality;
        requestOperators[requestId] = operators;
        requestCallers[requestId] = permittedCallers;
        emit ServiceRequested(requestId, blueprintId, msg.sender, confidentiality);
    }

    function approveService(ApprovalParams calldata params) external whenNotPaused {
        uint64 requestId = params.requestId;
        ServiceRequest storage request = requests[requestId];
        if (request.createdAt == 0) revert ServiceRequestNotFound(requestId);
        if (approvals[requestId][msg.sender]) revert AlreadyApproved(requestId, msg.sender);
        address[] storage operators = requestOperators[requestId];
        bool asked = false;
        for (uint256 i = 0; i < operators.length; i++) asked = asked || operators[i] == msg.sender;
        if (!asked || request.activated) revert Unauthorized();
        approvals[requestId][msg.sender] = true;
        emit ServiceApproved(requestId, msg.sender);
        if (++request.approvalCount == request.operatorCount) activate(requestId, request);
    }

    function activate(uint64 requestId, ServiceRequest storage request) private {
        uint64 serviceId = serviceCount++;
        Service storage service = services[serviceId];
        service.blueprintId = request.blueprintId;
        service.owner = request.requester;
        service.createdAt = uint64(block.timestamp);
        service.ttl = request.ttl;
        service.membership = request.membership;
        service.pricing = blueprints[request.blueprintId].pricing;
        service.confidentiality = request.confidentiality;
        service.status = ACTIVE;
        request.activated = true;
        isPermittedCaller[serviceId][request.requester] = true;
        address[] storage callers = requestCallers[requestId];
        for (uint256 i = 0; i < callers.length; i++) isPermittedCaller[serviceId][callers[i]] = true;
        address[] storage operators = requestOperators[requestId];
        for (uint256 i = 0; i < operators.length; i++) addOperator(serviceId, operators[i]);
        emit ServiceActivated(serviceId, requestId, request.blueprintId, request.confidentiality);
    }

    function addOperator(uint64 serviceId, address operator) private {
        isServiceOperator[serviceId][operator] = true;
        serviceOperators[serviceId].push(operator);
        services[serviceId].operatorCount++;
        operatorStatusRegistry.setOperator(serviceId, operator, true);
    }

    function joinService(uint64 serviceId, uint16 exposureBps) external whenNotPaused {
        Service storage service = running(serviceId);
        if (registrations[service.blueprintId][msg.sender].registeredAt == 0) revert OperatorNotRegistered(service.blueprintId, msg.sender);
        if (isServiceOperator[serviceId][msg.sender]) revert InvalidState();
        addOperator(serviceId, msg.sender);
        emit OperatorJoinedService(serviceId, msg.sender, exposureBps);
    }

    function leaveService(uint64 serviceId) external whenNotPaused {
        Service storage service = running(serviceId);
        if (!isServiceOperator[serviceId][msg.sender]) revert OperatorNotInService(serviceId, msg.sender);
        isServiceOperator[serviceId][msg.sender] = false;
        service.operatorCount--;
        address[] storage operators = serviceOperators[serviceId];
        for (uint256 i = 0; i < operators.length; i++) {
            if (operators[i] == msg.sender) {
                operators[i] = operators[operators.length - 1];
                operators.pop();
                break;
            }
        }
        operatorStatusRegistry.setOperator(serviceId, msg.sender, false);
        emit OperatorLeftService(serviceId, msg.sender);
    }

    function terminateService(uint64 serviceId) external whenNotPaused {
        Service storage service = owned(serviceId);
        if (service.status != ACTIVE) revert ServiceNotActive(serviceId);
        service.status = TERMINATED;
        service.terminatedAt = uint64(block.timestamp);
        emit ServiceTerminated(serviceId);
    }

    function addPermittedCaller(uint64 serviceId, address caller) external whenNotPaused {
        owned(serviceId);
        isPermittedCaller[serviceId][caller] = true;
    }

    function removePermittedCaller(uint64 serviceId, address caller) external whenNotPaused {
        owned(serviceId);
        isPermittedCaller[serviceId][caller] = false;
    }

    function owned(uint64 serviceId) private view returns (Service storage service) {
        service = services[serviceId];
        if (service.createdAt == 0) revert ServiceNotFound(serviceId);
        if (service.owner != msg.sender) revert NotServiceOwner(serviceId, msg.sender);
    }

    /// A service that takes calls and results. The status stays 1 after the ttl: only the calls fail.
    function running(uint64 serviceId) private view returns (Service storage service) {
        service = services[serviceId];
        if (service.createdAt == 0) revert ServiceNotFound(serviceId);
        if (service.status != ACTIVE) revert ServiceNotActive(serviceId);
        if (service.ttl != 0 && block.timestamp > service.createdAt + service.ttl) revert ServiceExpired(serviceId);
    }

    function getServiceRequest(uint64 requestId) external view returns (ServiceRequest memory) {
        return requests[requestId];
    }

    function getService(uint64 serviceId) external view returns (Service memory) {
        return services[serviceId];
    }

    function isServiceActive(uint64 serviceId) external view returns (bool) {
        return services[serviceId].status == ACTIVE;
    }

    function getServiceOperators(uint64 serviceId) external view returns (address[] memory) {
        return serviceOperators[serviceId];
    }

    // Calls

    function submitJob(uint64 serviceId, uint8 jobIndex, bytes calldata inputs) external payable whenNotPaused returns (uint64 callId) {
        Service storage service = running(serviceId);
        if (!isPermittedCaller[serviceId][msg.sender]) revert NotPermittedCaller(serviceId, msg.sender);
        uint256 payment = service.pricing == EVENT_DRIVEN ? configs[service.blueprintId].eventRate : 0;
        if (service.pricing == EVENT_DRIVEN && msg.value != payment) revert InvalidMsgValue(payment, msg.value);
        checkInputs(service.blueprintId, jobIndex, inputs);
        callId = createCall(serviceId, jobIndex, payment, false);
        emit JobSubmitted(serviceId, callId, jobIndex, msg.sender, inputs);
    }

    function submitJobFromQuote(uint64 serviceId, uint8 jobIndex, bytes calldata inputs, SignedJobQuote[] calldata quotes)
        external payable whenNotPaused returns (uint64 callId)
    {
        if (quotes.length == 0) revert NoQuotes();
        uint64 blueprintId = running(serviceId).blueprintId;
        if (!isPermittedCaller[serviceId][msg.sender]) revert NotPermittedCaller(serviceId, msg.sender);
        checkInputs(blueprintId, jobIndex, inputs);
        callId = callCounts[serviceId];
        uint256 price = 0;
        for (uint256 i = 0; i < quotes.length; i++) {
            useQuote(serviceId, jobIndex, keccak256(inputs), quotes[i]);
            for (uint256 j = 0; j < i; j++) {
                if (quotes[j].operator == quotes[i].operator) revert DuplicateOperatorQuote(quotes[i].operator);
            }
            quoted[serviceId][callId].push(quotes[i].operator);
            getJobQuotedPrice[serviceId][callId][quotes[i].operator] = quotes[i].details.price;
            price += quotes[i].details.price;
        }
        if (msg.value != price) revert InvalidMsgValue(price, msg.value);
        createCall(serviceId, jobIndex, price, true);
        emit JobSubmittedFromQuote(serviceId, callId, jobIndex, msg.sender, quoted[serviceId][callId], price, inputs);
    }

    function useQuote(uint64 serviceId, uint8 jobIndex, bytes32 inputsHash, SignedJobQuote calldata quote) private {
        JobQuoteDetails calldata details = quote.details;
        address operator = quote.operator;
        if (details.serviceId != serviceId) revert JobQuoteServiceMismatch(serviceId, details.serviceId);
        if (details.jobIndex != jobIndex) revert JobQuoteJobIndexMismatch(jobIndex, details.jobIndex);
        if (!isServiceOperator[serviceId][operator]) revert OperatorNotInService(serviceId, operator);
        if (details.price != 0 && details.price < QUOTE_PRICE_MIN) revert PaymentTooSmall(details.price, QUOTE_PRICE_MIN);
        if (details.requester != msg.sender) revert JobQuoteRequesterMismatch(operator, msg.sender, details.requester);
        if (details.inputsHash != inputsHash) revert JobQuoteInputsMismatch(operator, inputsHash, details.inputsHash);
        if (block.timestamp > details.expiry) revert QuoteExpired(operator, details.expiry);
        if (block.timestamp > details.timestamp + QUOTE_AGE_MAX) revert QuoteTimestampTooOld(operator, details.timestamp, QUOTE_AGE_MAX);
        bytes32 domain = domainSeparator("TangleQuote", address(this));
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", domain, keccak256(abi.encode(QUOTE_TYPE, details))));
        if (signerOf(digest, quote.signature) != operator) revert InvalidQuoteSignature(operator);
        if (quotesUsed[operator][digest]) revert QuoteAlreadyUsed(operator);
        quotesUsed[operator][digest] = true;
        emit QuoteUsed(operator, digest);
    }

    function createCall(uint64 serviceId, uint8 jobIndex, uint256 payment, bool isRFQ) private returns (uint64 callId) {
        callId = callCounts[serviceId]++;
        calls[serviceId][callId] = JobCall(jobIndex, msg.sender, uint64(block.timestamp), 0, false, isRFQ, payment);
    }

    function checkInputs(uint64 blueprintId, uint8 jobIndex, bytes calldata inputs) private view {
        if (jobIndex >= schemas[blueprintId].length) revert InvalidJobIndex(jobIndex);
        checkSchema(schemas[blueprintId][jobIndex].params, inputs, JOB_PARAMS, blueprintId, jobIndex);
    }

    function checkSchema(bytes memory schema, bytes calldata data, uint8 target, uint64 blueprintId, uint8 jobIndex) private pure {
        if (schema.length == 0) return;
        (bool valid, uint256 cursor) = CompactSchema.check(schema, data);
        if (!valid) revert SchemaValidationFailed(target, blueprintId, jobIndex, cursor);
    }

    // Results

    function submitResult(uint64 serviceId, uint64 callId, bytes calldata result) external whenNotPaused {
        settle(serviceId, callId, result);
    }

    /// All or nothing: one refused result reverts the batch.
    function submitResults(uint64 serviceId, uint64[] calldata callIds, bytes[] calldata results) external whenNotPaused {
        if (callIds.length != results.length) revert LengthMismatch();
        for (uint256 i = 0; i < callIds.length; i++) settle(serviceId, callIds[i], results[i]);
    }

    function settle(uint64 serviceId, uint64 callId, bytes calldata output) private {
        JobCall storage job = calls[serviceId][callId];
        if (services[serviceId].createdAt == 0) revert ServiceNotFound(serviceId);
        if (job.createdAt == 0) revert JobCallNotFound(serviceId, callId);
        uint64 blueprintId = running(serviceId).blueprintId;
        uint8 jobIndex = job.jobIndex;
        address manager = blueprints[blueprintId].manager;
        if (aggregated(manager, serviceId, jobIndex)) revert AggregationRequired(serviceId, jobIndex);
        if (!isServiceOperator[serviceId][msg.sender]) revert OperatorNotInService(serviceId, msg.sender);
        if (job.completed) revert JobAlreadyCompleted(serviceId, callId);
        if (answered[serviceId][callId][msg.sender]) revert ResultAlreadySubmitted(serviceId, callId, msg.sender);
        if (job.isRFQ && !wasQuoted(serviceId, callId, msg.sender)) revert NotQuotedOperator(serviceId, callId);
        checkSchema(schemas[blueprintId][jobIndex].result, output, JOB_RESULT, blueprintId, jobIndex);
        answered[serviceId][callId][msg.sender] = true;
        uint32 count = ++job.resultCount;
        emit JobResultSubmitted(serviceId, callId, msg.sender, output);
        if (count < requiredResults(manager, serviceId, jobIndex)) return;
        job.completed = true;
        emit JobCompleted(serviceId, callId);
    }

    /// A manager that cannot answer means that aggregation is required.
    function aggregated(address manager, uint64 serviceId, uint8 jobIndex) private view returns (bool) {
        if (manager == address(0)) return false;
        (bool ok, bytes memory answer) = manager.staticcall(abi.encodeCall(IJobManager.requiresAggregation, (serviceId, jobIndex)));
        return !ok || answer.length < 32 || abi.decode(answer, (bool));
    }

    /// A manager that cannot answer means that one result is enough.
    function requiredResults(address manager, uint64 serviceId, uint8 jobIndex) private view returns (uint32) {
        if (manager == address(0)) return 1;
        (bool ok, bytes memory answer) = manager.staticcall(abi.encodeCall(IJobManager.getRequiredResultCount, (serviceId, jobIndex)));
        return ok && answer.length >= 32 ? abi.decode(answer, (uint32)) : 1;
    }

    function wasQuoted(uint64 serviceId, uint64 callId, address operator) private view returns (bool) {
        address[] storage operators = quoted[serviceId][callId];
        for (uint256 i = 0; i < operators.length; i++) {
            if (operators[i] == operator) return true;
        }
        return false;
    }

    function getJobCall(uint64 serviceId, uint64 callId) external view returns (JobCall memory) {
        return calls[serviceId][callId];
    }

    function getJobQuotedOperators(uint64 serviceId, uint64 callId) external view returns (address[] memory) {
        return quoted[serviceId][callId];
    }
}

/// A blueprint manager: how many results each job needs, which jobs ask for aggregation (and so refuse plain results).
contract JobManager is IJobManager {
    uint32[] private required;
    bool[] private aggregation;

    constructor(uint32[] memory requiredResults, bool[] memory requiresAggregationOf) {
        required = requiredResults;
        aggregation = requiresAggregationOf;
    }

    function getRequiredResultCount(uint64, uint8 jobIndex) external view returns (uint32) {
        return jobIndex < required.length ? required[jobIndex] : 1;
    }

    function requiresAggregation(uint64, uint8 jobIndex) external view returns (bool) {
        return jobIndex < aggregation.length && aggregation[jobIndex];
    }
}

/// A permitted caller that submits many calls in one transaction.
contract JobSpammer {
    /// One call for each pair.
    function submit(Tangle tangle, uint64 serviceId, uint8[] calldata jobIndexes, bytes[] calldata inputs) external {
        for (uint256 i = 0; i < jobIndexes.length; i++) tangle.submitJob(serviceId, jobIndexes[i], inputs[i]);
    }
}
