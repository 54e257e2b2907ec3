/** The configuration of a runner: what the program says wins over what the environment says. The only reader of the environment. */

import { RunnerError } from '../errors.ts';
import type { ExecutionPolicy } from '../executor/resilience.ts';
import type { Address } from '../job/call.ts';
import type { LogLevel } from '../telemetry/pino.ts';

/**
 * - `real`: the chain behind the RPC endpoints; while it cannot be reached the runner waits
 * - `mock`: an empty chain in memory, for work without one; nothing real is ever settled
 * - `auto`: the real one, or the mock when no endpoint answers at the start; `status()` says which
 */
export type ChainMode = 'real' | 'mock' | 'auto';

export interface MetricsServerConfig {
  /** 0 takes a free one. */
  readonly port: number;
  /** Default 127.0.0.1. Any other address than a loopback one needs `token`. */
  readonly host?: string;
  readonly token?: string;
}

/** Everything is optional; what is missing here is taken from the environment variable named with it. */
export interface RunnerConfig {
  /** Services to follow; empty: all. `SERVICE_ID`, a comma list. */
  readonly serviceIds?: readonly bigint[] | undefined;
  /** `BLUEPRINT_ID`. Default: what the chain says of each service. */
  readonly blueprintId?: bigint | undefined;
  /** `HTTP_RPC_URL` or `RPC_URL`, a comma list. Default http://localhost:9944. */
  readonly rpcUrl?: string | readonly string[] | undefined;
  /** `WS_RPC_URL`. Without it new blocks are polled. */
  readonly wsUrl?: string | undefined;
  /** The Tangle contract. `TANGLE_CONTRACT` or `TANGLE_CONTRACT_ADDRESS`. Without it, and without a chain of its own, the runner follows none. */
  readonly contract?: Address | undefined;
  /** `CHAIN_ID`. Default: the one that the endpoint serves. */
  readonly chainId?: number | undefined;
  /** `BPR_CHAIN_MODE`. Default `real`. */
  readonly chainMode?: ChainMode | undefined;
  /** Where the ledger lies. `BPR_DATA_DIR`. Default ./.blueprint-runner. */
  readonly dataDir?: string | undefined;
  /** The ledger's file; `false`: kept in memory, lost with the process. Default: `ledger.sqlite` in `dataDir` when there is a chain. */
  readonly ledger?: string | false | undefined;
  /** Calls that run at the same time. `BPR_CONCURRENCY`. Default 128. */
  readonly concurrency?: number | undefined;
  /** Blocks on top of a call before its result is signed. `BPR_CONFIRMATIONS`. Default 1. */
  readonly confirmations?: number | undefined;
  /** Blocks on top of a result before it is final. Default 12. */
  readonly finality?: number | undefined;
  /** No transaction offers more, wei per gas: results wait until the chain asks less. `BPR_MAX_FEE_PER_GAS`. Default 1000 gwei. */
  readonly maxFeePerGas?: bigint | undefined;
  /** The first block for a new ledger. Default: the head. */
  readonly fromBlock?: bigint | undefined;
  /** Everything but the transactions. `BPR_DRY_RUN`. */
  readonly dryRun?: boolean | undefined;
  /** How long a stop waits for running calls and unsettled results, milliseconds. Default 30,000. */
  readonly drainMs?: number | undefined;
  /** How long ended calls are kept, milliseconds. Default 7 days. */
  readonly retentionMs?: number | undefined;
  /** How often the process may end in the middle of a call that runs in it, before that call counts as failed. Default 5. */
  readonly crashesMax?: number | undefined;
  /** Where the operator's key is: `env:NAME` or `file:/path`. Default: `OPERATOR_PRIVATE_KEY`, when it is set. */
  readonly privateKey?: string | undefined;
  /** Defaults for every job. */
  readonly policy?: ExecutionPolicy | undefined;
  /** Serves /metrics, /healthz and /readyz. Default: not. */
  readonly metrics?: MetricsServerConfig | false | undefined;
  /** `LOG_LEVEL`. Default `info`. */
  readonly logLevel?: string | undefined;
}

export type Environment = Readonly<Record<string, string | undefined>>;

export interface ResolvedConfig {
  readonly serviceIds: readonly bigint[];
  readonly blueprintId: bigint | undefined;
  readonly rpcUrls: readonly string[];
  readonly wsUrl: string | undefined;
  readonly contract: Address | undefined;
  readonly chainId: number | undefined;
  readonly chainMode: ChainMode;
  readonly dataDir: string;
  readonly ledger: string | false | undefined;
  readonly concurrency: number;
  readonly confirmations: number | undefined;
  readonly finality: number | undefined;
  readonly maxFeePerGas: bigint | undefined;
  readonly fromBlock: bigint | undefined;
  readonly dryRun: boolean;
  readonly drainMs: number;
  readonly retentionMs: number;
  readonly crashesMax: number;
  readonly privateKey: string | undefined;
  readonly policy: ExecutionPolicy | undefined;
  readonly metrics: MetricsServerConfig | undefined;
  readonly logLevel: LogLevel;
  readonly environment: Environment;
}

/** Names the module that the command line loads: it would run a runner beside the one that is asked for, or instead of it. */
export const LOADING = 'BPR_LOADING';

const RPC_URL = 'http://localhost:9944';
const WEEK_MS = 7 * 24 * 60 * 60 * 1000;
const CHAIN_MODES: readonly ChainMode[] = ['real', 'mock', 'auto'];
const LOG_LEVELS: readonly LogLevel[] = ['debug', 'info', 'warn', 'error', 'silent'];

/** Throws `CONFIG_INVALID` that names the variable, its value and what is expected. */
export function resolveConfig(config: RunnerConfig = {}, environment: Environment = process.env): ResolvedConfig {
  const variables = new Variables(environment);
  const privateKey = config.privateKey ?? (variables.has('OPERATOR_PRIVATE_KEY') ? 'env:OPERATOR_PRIVATE_KEY' : undefined);
  return {
    serviceIds: config.serviceIds ?? variables.list('SERVICE_ID', parseUnsigned) ?? [],
    blueprintId: config.blueprintId ?? variables.one('BLUEPRINT_ID', parseUnsigned),
    rpcUrls: rpcUrls(config, variables),
    wsUrl: urlOf('wsUrl', config.wsUrl, 'ws') ?? variables.one('WS_RPC_URL', parseUrl('ws')),
    contract:
      addressOf(config.contract) ??
      variables.one('TANGLE_CONTRACT', parseAddress) ??
      variables.one('TANGLE_CONTRACT_ADDRESS', parseAddress),
    chainId: config.chainId ?? variables.one('CHAIN_ID', parseCount),
    chainMode: oneOf(CHAIN_MODES)('chainMode', config.chainMode) ?? variables.one('BPR_CHAIN_MODE', oneOf(CHAIN_MODES)) ?? 'real',
    dataDir: config.dataDir ?? variables.one('BPR_DATA_DIR', (_, text) => text) ?? '.blueprint-runner',
    ledger: config.ledger,
    concurrency: count('concurrency', config.concurrency, 1) ?? variables.one('BPR_CONCURRENCY', parsePositive) ?? 128,
    confirmations: count('confirmations', config.confirmations, 0) ?? variables.one('BPR_CONFIRMATIONS', parseCount),
    finality: count('finality', config.finality, 0),
    maxFeePerGas: wei('maxFeePerGas', config.maxFeePerGas) ?? variables.one('BPR_MAX_FEE_PER_GAS', parseWei),
    fromBlock: config.fromBlock,
    dryRun: config.dryRun ?? variables.one('BPR_DRY_RUN', parseFlag) ?? false,
    drainMs: count('drainMs', config.drainMs, 0) ?? 30_000,
    retentionMs: count('retentionMs', config.retentionMs, 0) ?? WEEK_MS,
    crashesMax: count('crashesMax', config.crashesMax, 1) ?? 5,
    privateKey,
    policy: config.policy,
    metrics: metricsOf(config.metrics),
    logLevel: oneOf(LOG_LEVELS)('logLevel', config.logLevel) ?? variables.one('LOG_LEVEL', oneOf(LOG_LEVELS)) ?? 'info',
    environment,
  };
}

type Parse<T> = (name: string, text: string) => T;

class Variables {
  readonly #environment: Environment;

  constructor(environment: Environment) {
    this.#environment = environment;
  }

  has(name: string): boolean {
    return this.#text(name) !== undefined;
  }

  one<T>(name: string, parse: Parse<T>): T | undefined {
    const text = this.#text(name);
    return text === undefined ? undefined : parse(name, text);
  }

  list<T>(name: string, parse: Parse<T>): T[] | undefined {
    return this.#text(name)
      ?.split(',')
      .map((text) => parse(name, text.trim()));
  }

  /** An empty variable counts as one that is not set. */
  #text(name: string): string | undefined {
    return this.#environment[name]?.trim() || undefined;
  }
}

function invalid(name: string, value: unknown, remedy: string): RunnerError {
  return new RunnerError('CONFIG_INVALID', `${name} is ${JSON.stringify(String(value))}; ${remedy}`, {
    details: { name, value: String(value) },
  });
}

function rpcUrls(config: RunnerConfig, variables: Variables): readonly string[] {
  const parse = parseUrl('http');
  if (config.rpcUrl !== undefined) {
    const urls = typeof config.rpcUrl === 'string' ? [config.rpcUrl] : config.rpcUrl;
    if (urls.length === 0) throw invalid('rpcUrl', '', 'name at least one endpoint');
    return urls.map((url) => parse('rpcUrl', url));
  }
  return variables.list('HTTP_RPC_URL', parse) ?? variables.list('RPC_URL', parse) ?? [RPC_URL];
}

const parseUnsigned: Parse<bigint> = (name, text) => {
  if (!/^(?:\d+|0x[0-9a-f]+)$/i.test(text)) throw invalid(name, text, 'it must be an unsigned integer');
  return BigInt(text);
};

const parseCount: Parse<number> = (name, text) => {
  if (!/^\d{1,15}$/.test(text)) throw invalid(name, text, 'it must be an integer, 0 or more');
  return Number(text);
};

const parsePositive: Parse<number> = (name, text) => {
  const value = parseCount(name, text);
  if (value < 1) throw invalid(name, text, 'it must be an integer, 1 or more');
  return value;
};

const parseWei: Parse<bigint | undefined> = (name, text) => wei(name, parseUnsigned(name, text));

const parseFlag: Parse<boolean> = (name, text) => {
  if (/^(?:1|true|yes|on)$/i.test(text)) return true;
  if (/^(?:0|false|no|off)$/i.test(text)) return false;
  throw invalid(name, text, 'it must be true or false');
};

const parseAddress: Parse<Address> = (name, text) => {
  if (!/^0x[0-9a-f]{40}$/i.test(text)) throw invalid(name, text, 'it must be an address: 0x and 40 hexadecimal digits');
  return text.toLowerCase() as Address; // matched above
};

/** An address can carry a key of its provider: the message does not repeat it. */
function parseUrl(scheme: 'http' | 'ws'): Parse<string> {
  return (name, text) => {
    if (URL.canParse(text) && [`${scheme}:`, `${scheme}s:`].includes(new URL(text).protocol)) return text;
    const message = `${name} is not an address that begins with ${scheme}:// or ${scheme}s://`;
    throw new RunnerError('CONFIG_INVALID', message, { details: { name } });
  };
}

function urlOf(name: string, url: string | undefined, scheme: 'http' | 'ws'): string | undefined {
  return url === undefined ? undefined : parseUrl(scheme)(name, url);
}

function addressOf(address: string | undefined): Address | undefined {
  return address === undefined ? undefined : parseAddress('contract', address);
}

function metricsOf(metrics: RunnerConfig['metrics']): MetricsServerConfig | undefined {
  if (!metrics) return undefined;
  const { port } = metrics;
  if (!(Number.isInteger(port) && port >= 0 && port <= 65_535))
    throw invalid('metrics.port', port, 'it must be an integer from 0 to 65535');
  return metrics;
}

function oneOf<T extends string>(values: readonly T[]) {
  function parse(name: string, text: string): T;
  function parse(name: string, text: string | undefined): T | undefined;
  function parse(name: string, text: string | undefined): T | undefined {
    if (text === undefined) return undefined;
    const value = values.find((one) => one === text);
    if (value === undefined) throw invalid(name, text, `it must be one of ${values.join(', ')}`);
    return value;
  }
  return parse;
}

function wei(name: string, value: bigint | undefined): bigint | undefined {
  if (value === undefined || (typeof value === 'bigint' && value >= 1n)) return value;
  throw invalid(name, value, 'it must be wei per gas, 1 or more');
}

function count(name: string, value: number | undefined, minimum: number): number | undefined {
  if (value === undefined || (Number.isSafeInteger(value) && value >= minimum)) return value;
  throw invalid(name, value, `it must be an integer, ${minimum} or more`);
}
