/** JSON-RPC over one or several endpoints. The first healthy one in the order given is used, the others stand in for it. */

import type { CancelTimer, Clock } from '../clock.ts';
import { systemClock } from '../clock.ts';
import type { ErrorCode } from '../errors.ts';
import { RunnerError, isRunnerError, toRunnerError } from '../errors.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { RpcRequest } from './chain.ts';
import type { RpcCall } from './endpoint.ts';
import { Deadlines, RpcEndpoint } from './endpoint.ts';
import { checkChainId, countOf } from './rpc-answers.ts';

export type { RpcCall } from './endpoint.ts';

export interface RpcTransportOptions {
  /** At least one http: or https: URL. Only scheme, host and port of them are ever shown. */
  readonly urls: readonly string[];
  /** Sent with every request; never shown. */
  readonly headers?: Readonly<Record<string, string>>;
  /** For each request at each endpoint, from the call to the last byte. Default 10,000. */
  readonly timeoutMs?: number;
  /** Default 32 MiB. */
  readonly responseBytesMax?: number;
  /** Calls per HTTP request; a longer batch becomes several requests. Default 50. */
  readonly batchMax?: number;
  /** Connections per endpoint. Default 16. */
  readonly connections?: number;
  /** An endpoint of another chain is not used. Default: the chain of the endpoint that answers first. */
  readonly chainId?: number;
  /** How often the heads of several endpoints are compared. Default 15,000. */
  readonly healthCheckMs?: number;
  /** An endpoint this many blocks behind another one is put aside. Default 8. */
  readonly staleBlocks?: number;
  /** First pause of an endpoint that fails; doubles up to a minute. Default 1000. */
  readonly asideMs?: number;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
}

export interface RpcTransport {
  /**
   * Rejects with `RPC_ERROR` when the node answers with an error (`details`: `rpcCode`, `rpcMessage`, `data`, `method`, `endpoint`), and,
   * when no endpoint works, with `RPC_UNREACHABLE`, `RPC_RATE_LIMITED`, `RPC_RESPONSE_INVALID` or `CHAIN_MISMATCH`. A request can reach
   * a node twice: JSON-RPC requests may be repeated, eth_sendRawTransaction too.
   */
  readonly request: RpcRequest;
  /** As `request`, in one round trip: in place of a result stands a RunnerError when that call alone failed. */
  batch(calls: readonly RpcCall[]): Promise<unknown[]>;
  /** What is under way rejects. Idempotent. */
  close(): Promise<void>;
}

/**
 * @example
 * const transport = createRpcTransport({ urls: ['https://rpc.example/v2/KEY', 'https://other.example'] });
 * const head = await transport.request('eth_blockNumber', []);
 * await transport.close();
 */
export function createRpcTransport(options: RpcTransportOptions): RpcTransport {
  if (options.urls.length === 0) throw new RunnerError('CONFIG_INVALID', 'no RPC endpoint is configured');
  return new FailoverTransport(options);
}

const GATHERED_BYTES_MAX = 65_536;

interface Gathered {
  readonly call: RpcCall;
  readonly bytes: number;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** Calls made in the same turn of the event loop share round trips. For small answers: what is large or slow together takes too long for one. */
export class GatheredCalls {
  readonly #transport: Pick<RpcTransport, 'batch'>;
  #waiting: Gathered[] = [];

  constructor(transport: Pick<RpcTransport, 'batch'>) {
    this.#transport = transport;
  }

  /** Rejects as `RpcTransport.request`. */
  call(method: string, params: readonly unknown[]): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ call: { method, params }, bytes: JSON.stringify(params).length, resolve, reject });
      if (this.#waiting.length === 1) setImmediate(() => this.#flush());
    });
  }

  #flush(): void {
    const parts: Gathered[][] = [];
    let bytes = Number.POSITIVE_INFINITY;
    for (const item of this.#waiting) {
      bytes += item.bytes;
      if (bytes <= GATHERED_BYTES_MAX) parts.at(-1)?.push(item);
      else {
        parts.push([item]);
        bytes = item.bytes;
      }
    }
    this.#waiting = [];
    for (const part of parts) void this.#send(part);
  }

  /** Never rejects. */
  async #send(part: readonly Gathered[]): Promise<void> {
    try {
      const answers = await this.#transport.batch(part.map(({ call }) => call));
      for (const [index, { resolve, reject }] of part.entries()) {
        const answer = answers[index];
        if (isRunnerError(answer)) reject(answer);
        else resolve(answer);
      }
    } catch (error) {
      const middle = part.length >> 1;
      // Each of them may be small enough.
      if (middle > 0 && toRunnerError(error).details['reason'] === 'too-large')
        await Promise.all([this.#send(part.slice(0, middle)), this.#send(part.slice(middle))]);
      else for (const { reject } of part) reject(error);
    }
  }
}

const ASIDE_MS_MAX = 60_000;

interface EndpointState {
  readonly endpoint: RpcEndpoint;
  /** Put aside: asked only when all others are, until a probe succeeds. */
  aside: boolean;
  failures: number;
  chainChecked: boolean;
  cancelProbe: CancelTimer | undefined;
}

class FailoverTransport implements RpcTransport {
  readonly #states: EndpointState[];
  #chainId: number | undefined;
  readonly #batchMax: number;
  readonly #healthCheckMs: number;
  readonly #staleBlocks: number;
  readonly #asideMs: number;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #deadlines: Deadlines;
  readonly #requests;
  readonly #healthy;
  #cancelCheck: CancelTimer | undefined;
  #used = false;
  #closed: Promise<void> | undefined;

  constructor(options: RpcTransportOptions) {
    this.#clock = options.clock ?? systemClock;
    this.#telemetry = options.telemetry ?? silentTelemetry;
    this.#chainId = options.chainId;
    this.#batchMax = options.batchMax ?? 50;
    this.#healthCheckMs = options.healthCheckMs ?? 15_000;
    this.#staleBlocks = options.staleBlocks ?? 8;
    this.#asideMs = options.asideMs ?? 1000;
    this.#deadlines = new Deadlines(this.#clock, options.timeoutMs ?? 10_000);
    const { headers = {}, connections = 16, responseBytesMax = 32 * 1024 * 1024 } = options;
    this.#states = options.urls.map((url) => ({
      endpoint: new RpcEndpoint({ url, headers, connections, responseBytesMax, deadlines: this.#deadlines }),
      aside: false,
      failures: 0,
      chainChecked: this.#chainId === undefined && options.urls.length === 1,
      cancelProbe: undefined,
    }));
    const { metrics } = this.#telemetry;
    this.#requests = metrics.counter({ name: 'blueprint_rpc_requests_total', help: 'JSON-RPC requests, a batch counting once.' });
    this.#healthy = metrics.gauge({ name: 'blueprint_rpc_endpoints_healthy', help: 'RPC endpoints that are not put aside.' });
    this.#healthy.set(this.#states.length);
  }

  readonly request: RpcRequest = (method, params) => this.#attempt((endpoint) => endpoint.call(method, params));

  async batch(calls: readonly RpcCall[]): Promise<unknown[]> {
    if (calls.length === 0) return [];
    const parts: (readonly RpcCall[])[] = [];
    for (let start = 0; start < calls.length; start += this.#batchMax) parts.push(calls.slice(start, start + this.#batchMax));
    const results = await Promise.all(parts.map((part) => this.#attempt((endpoint) => wholeBatch(endpoint, part))));
    return results.flat(1);
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#cancelCheck?.();
    this.#deadlines.close();
    for (const state of this.#states) state.cancelProbe?.();
    await Promise.all(this.#states.map(({ endpoint }) => endpoint.close()));
  }

  #attempt<T>(work: (endpoint: RpcEndpoint) => Promise<T>): Promise<T> {
    this.#used = true;
    this.#requests.add();
    if (this.#states.length > 1 && !this.#closed) this.#cancelCheck ??= this.#clock.after(this.#healthCheckMs, this.#startHealthCheck);
    const first = this.#states.find((state) => !state.aside);
    // Nearly every request: no further promise than needed.
    if (first?.chainChecked && !this.#closed)
      return work(first.endpoint).catch((thrown: unknown) => this.#tryOthers(work, { state: first, thrown }));
    return this.#tryOthers(work);
  }

  async #tryOthers<T>(
    work: (endpoint: RpcEndpoint) => Promise<T>,
    failed?: { readonly state: EndpointState; readonly thrown: unknown },
  ): Promise<T> {
    if (this.#closed) throw new RunnerError('RPC_UNREACHABLE', 'the RPC transport was closed', { details: { reason: 'closed' } });
    const errors = failed ? [this.#blame(failed.state, failed.thrown)] : [];
    for (const state of this.#order()) {
      if (state === failed?.state) continue;
      try {
        if (!state.chainChecked) await this.#checkChain(state);
        const result = await work(state.endpoint);
        if (state.aside) this.#readmit(state);
        return result;
      } catch (thrown) {
        errors.push(this.#blame(state, thrown));
      }
    }
    throw allFailed(errors);
  }

  /** Puts the endpoint aside for its failure; throws what is not its fault. */
  #blame(state: EndpointState, thrown: unknown): RunnerError {
    const error = toRunnerError(thrown);
    if (!blamesEndpoint(error) || this.#closed) throw error;
    this.#putAside(state, error);
    return error;
  }

  /** The healthy ones; when there are none, all: better a likely failure than a sure one. */
  #order(): readonly EndpointState[] {
    if (this.#states.length === 1) return this.#states;
    const healthy = this.#states.filter((state) => !state.aside);
    return healthy.length > 0 ? healthy : this.#states;
  }

  async #checkChain(state: EndpointState): Promise<void> {
    this.#chainId = checkChainId(await state.endpoint.call('eth_chainId', []), this.#chainId, state.endpoint.label);
    state.chainChecked = true;
  }

  async #headOf(state: EndpointState): Promise<number> {
    // Also when it was checked before: what stands behind an address can change.
    await this.#checkChain(state);
    return countOf(await state.endpoint.call('eth_blockNumber', []), 'eth_blockNumber');
  }

  #putAside(state: EndpointState, error: RunnerError): void {
    if (!state.aside) {
      state.aside = true;
      this.#countHealthy();
      this.#telemetry.log.warn('rpc endpoint fails', { endpoint: state.endpoint.label, code: error.code, error: error.message });
    }
    if (this.#states.length === 1 || state.cancelProbe || this.#closed) return;
    state.failures++;
    const backoffMs = Math.min(ASIDE_MS_MAX, this.#asideMs * 2 ** Math.min(state.failures - 1, 10));
    const askedMs = Number(error.details['retryAfterMs'] ?? 0);
    state.cancelProbe = this.#clock.after(Math.max(backoffMs, Math.min(askedMs, ASIDE_MS_MAX)), () => {
      state.cancelProbe = undefined;
      void this.#probe(state);
    });
  }

  /** Never rejects. */
  async #probe(state: EndpointState): Promise<void> {
    try {
      const healthy = this.#states.filter((other) => !other.aside);
      const [own, ...heads] = await Promise.all([this.#headOf(state), ...healthy.map((other) => this.#headOf(other).catch(() => 0))]);
      const best = Math.max(own, ...heads);
      if (best - own > this.#staleBlocks) throw stale(state, best - own);
      if (state.aside) this.#readmit(state);
    } catch (error) {
      if (!this.#closed) this.#putAside(state, toRunnerError(error));
    }
  }

  #readmit(state: EndpointState): void {
    state.aside = false;
    state.failures = 0;
    state.cancelProbe?.();
    state.cancelProbe = undefined;
    this.#countHealthy();
    this.#telemetry.log.info('rpc endpoint works again', { endpoint: state.endpoint.label });
  }

  #countHealthy(): void {
    this.#healthy.set(this.#states.filter((state) => !state.aside).length);
  }

  readonly #startHealthCheck = (): void => {
    this.#cancelCheck = undefined;
    // Nobody asks: nothing to watch. The next request starts the timer again.
    if (!this.#used || this.#closed) return;
    this.#used = false;
    this.#cancelCheck = this.#clock.after(this.#healthCheckMs, this.#startHealthCheck);
    void this.#compareHeads();
  };

  /** Puts aside what lags behind. Never rejects. */
  async #compareHeads(): Promise<void> {
    const states = this.#states.filter((state) => !state.aside);
    const heads = await Promise.allSettled(states.map((state) => this.#headOf(state)));
    const best = Math.max(0, ...heads.map((head) => (head.status === 'fulfilled' ? head.value : 0)));
    for (const [index, state] of states.entries()) {
      const head = heads[index];
      if (this.#closed || !head) return;
      if (head.status === 'rejected') this.#putAside(state, toRunnerError(head.reason));
      else if (best - head.value > this.#staleBlocks) this.#putAside(state, stale(state, best - head.value));
    }
  }
}

/** A batch of which every part was refused because of the rate is refused as a whole: another endpoint may take it. */
async function wholeBatch(endpoint: RpcEndpoint, calls: readonly RpcCall[]): Promise<unknown[]> {
  const results = await endpoint.batch(calls);
  const blamed = results.find((result): result is RunnerError => isRunnerError(result) && blamesEndpoint(result));
  if (blamed) throw blamed;
  return results;
}

/** Whether another endpoint could do better. An answer that is too large is as large elsewhere. */
function blamesEndpoint(error: RunnerError): boolean {
  switch (error.code) {
    case 'RPC_UNREACHABLE':
    case 'RPC_RATE_LIMITED':
    case 'CHAIN_MISMATCH':
      return true;
    case 'RPC_RESPONSE_INVALID':
      return error.details['reason'] !== 'too-large';
    default:
      return false;
  }
}

function allFailed(errors: readonly RunnerError[]): RunnerError {
  const [first] = errors;
  if (first && errors.length === 1) return first;
  const same = errors.every((error) => error.code === first?.code);
  const code: ErrorCode = first && same ? first.code : 'RPC_UNREACHABLE';
  const reason = errors.find((error) => error.details['reason'] !== undefined)?.details['reason'];
  return new RunnerError(code, `none of ${errors.length} RPC endpoints works: ${errors.map((error) => error.message).join('; ')}`, {
    cause: first,
    details: { endpoints: errors.map((error) => error.details['endpoint']), reason },
  });
}

function stale(state: EndpointState, behind: number): RunnerError {
  return new RunnerError('RPC_UNREACHABLE', `${state.endpoint.label} is ${behind} blocks behind the others`, {
    details: { endpoint: state.endpoint.label, reason: 'stale' },
  });
}
