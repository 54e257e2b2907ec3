/** The SDKs of AWS: loaded on first use, asked patiently. The only file that loads them. */

import type { CloudWatchLogs } from '@aws-sdk/client-cloudwatch-logs';
import type { EC2 } from '@aws-sdk/client-ec2';
import type { EventBridge } from '@aws-sdk/client-eventbridge';
import type { IAM } from '@aws-sdk/client-iam';
import type { Lambda } from '@aws-sdk/client-lambda';
import type { S3 } from '@aws-sdk/client-s3';
import type { Scheduler } from '@aws-sdk/client-scheduler';
import type { SQS } from '@aws-sdk/client-sqs';
import { RunnerError, importPeer, systemClock } from '../../src/plugin.ts';
import type { Clock, Peer } from '../../src/plugin.ts';
import { deployFailure, isThrottled, readFailure, transportOf } from './failure.ts';
import type { AwsOptions, AwsService } from './options.ts';

export interface AwsClients {
  readonly lambda: Lambda;
  readonly iam: IAM;
  readonly logs: CloudWatchLogs;
  readonly scheduler: Scheduler;
  readonly events: EventBridge;
  readonly s3: S3;
  readonly sqs: SQS;
  readonly ec2: EC2;
}

export type ServiceName = keyof AwsClients;

const RANGE = '^3.1000.0';
export const PEERS: readonly Peer[] = ['lambda', 'iam', 'cloudwatch-logs', 'scheduler', 'eventbridge', 's3', 'sqs', 'ec2'].map((name) => ({
  name: `@aws-sdk/client-${name}`,
  range: RANGE,
}));

interface ClientSettings {
  readonly region?: string;
  readonly profile?: string;
  readonly endpoint?: string;
  readonly maxAttempts: number;
  readonly credentials?: () => Promise<{ accessKeyId: string; secretAccessKey: string; sessionToken?: string }>;
  readonly requestHandler: HandlerSettings;
}

/** Of the HTTP handler that the SDK makes. */
export interface HandlerSettings {
  readonly connectionTimeout: number;
  readonly requestTimeout: number;
  readonly httpAgent: { readonly maxSockets: number; readonly keepAlive: boolean };
  readonly httpsAgent: { readonly maxSockets: number; readonly keepAlive: boolean };
}

const peer = <Module>(name: string, load: () => Promise<Module>): Promise<Module> =>
  importPeer('aws-lambda', `@aws-sdk/client-${name}`, load);

const MAKERS: { readonly [S in ServiceName]: (settings: ClientSettings) => Promise<AwsClients[S]> } = {
  lambda: async (settings) => new (await peer('lambda', () => import('@aws-sdk/client-lambda'))).Lambda(settings),
  iam: async (settings) => new (await peer('iam', () => import('@aws-sdk/client-iam'))).IAM(settings),
  logs: async (settings) => new (await peer('cloudwatch-logs', () => import('@aws-sdk/client-cloudwatch-logs'))).CloudWatchLogs(settings),
  scheduler: async (settings) => new (await peer('scheduler', () => import('@aws-sdk/client-scheduler'))).Scheduler(settings),
  events: async (settings) => new (await peer('eventbridge', () => import('@aws-sdk/client-eventbridge'))).EventBridge(settings),
  // An emulator has no host name per bucket.
  s3: async (settings) =>
    new (await peer('s3', () => import('@aws-sdk/client-s3'))).S3({ ...settings, forcePathStyle: settings.endpoint !== undefined }),
  sqs: async (settings) => new (await peer('sqs', () => import('@aws-sdk/client-sqs'))).SQS(settings),
  ec2: async (settings) => new (await peer('ec2', () => import('@aws-sdk/client-ec2'))).EC2(settings),
};

const CONNECT_TIMEOUT_MS = 5_000;
/** A package of 50 MB on a slow line. */
const REQUEST_TIMEOUT_MS = 300_000;

const agentOf = (maxSockets: number) => ({ maxSockets, keepAlive: true });

/** What the SDK is to do with connections. A request without an answer is given up by whoever made it, or after `requestTimeoutMs`. */
export function handlerSettings(connectionsMax: number, requestTimeoutMs: number): HandlerSettings {
  const agent = agentOf(connectionsMax);
  return { connectionTimeout: CONNECT_TIMEOUT_MS, requestTimeout: requestTimeoutMs, httpAgent: agent, httpsAgent: agent };
}

/** The clients of one place and identity. Each is made on first use; the SDK itself never tries again. */
export class Aws {
  readonly clock: Clock;
  readonly #options: AwsOptions;
  readonly #handler: HandlerSettings;
  readonly #clients = new Map<ServiceName, Promise<AwsClients[ServiceName]>>();

  /** Does no I/O. */
  constructor(options: AwsOptions, handler: HandlerSettings = handlerSettings(64, REQUEST_TIMEOUT_MS)) {
    this.#options = options;
    this.#handler = handler;
    this.clock = options.clock ?? systemClock;
  }

  endpointOf(service: AwsService): string | undefined {
    return this.#options.endpoints?.[service] ?? this.#options.endpoint;
  }

  client<S extends ServiceName>(service: S): Promise<AwsClients[S]> {
    let client = this.#clients.get(service);
    if (client === undefined) {
      const make: (settings: ClientSettings) => Promise<AwsClients[S]> = MAKERS[service];
      client = make(this.#settings(service)).then(named);
      // A failed import is tried again.
      client.catch(() => this.#clients.delete(service));
      this.#clients.set(service, client);
    }
    // The map holds under each name what its maker made.
    return client as Promise<AwsClients[S]>;
  }

  /** Rejects with `CONFIG_INVALID` when nothing names one. */
  async region(): Promise<string> {
    if (this.#options.region !== undefined) return this.#options.region;
    const { config } = await this.client('lambda');
    return config.region().catch((thrown: unknown) => {
      throw deployFailure(thrown, 'reading the region');
    });
  }

  async close(): Promise<void> {
    const clients = await Promise.allSettled(this.#clients.values());
    this.#clients.clear();
    for (const client of clients) if (client.status === 'fulfilled') client.value.destroy();
  }

  #settings(service: ServiceName): ClientSettings {
    const { region, profile, credentials } = this.#options;
    const endpoint = this.endpointOf(service);
    return {
      ...(region !== undefined && { region }),
      ...(profile !== undefined && { profile }),
      ...(endpoint !== undefined && { endpoint }),
      ...(credentials && {
        credentials: async () => {
          const { sessionToken, ...keys } = await credentials();
          return { ...keys, ...(sessionToken !== undefined && { sessionToken }) };
        },
      }),
      maxAttempts: 1,
      requestHandler: this.#handler,
    };
  }
}

/** Which operation an error is of; the SDK's errors do not say. */
const OPERATIONS = new WeakMap<object, string>();

interface Stacked {
  readonly middlewareStack: {
    add(
      middleware: (
        next: (args: never) => Promise<unknown>,
        context: { readonly commandName?: string },
      ) => (args: never) => Promise<unknown>,
      options: { readonly step: 'initialize'; readonly name: string },
    ): void;
  };
}

function named<Client extends AwsClients[ServiceName]>(client: Client): Client {
  // The stacks of all clients take this middleware, which looks at nothing but the name of the command.
  const { middlewareStack } = client as unknown as Stacked;
  middlewareStack.add(
    (next, { commandName = 'a request' }) =>
      (args) =>
        next(args).catch((thrown: unknown) => {
          if (typeof thrown === 'object' && thrown !== null) OPERATIONS.set(thrown, commandName.replace(/Command$/, ''));
          throw thrown;
        }),
    { step: 'initialize', name: 'blueprintRunnerOperation' },
  );
  return client;
}

export interface RequestOptions {
  readonly abortSignal?: AbortSignal;
}

type Send<S extends ServiceName, T> = (client: AwsClients[S], options: RequestOptions) => Promise<T>;

/** Waits between attempts: growing, with the wait that the service asks for as the least. */
const WAITS_MS = [200, 500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000, 8_000, 8_000] as const;
const RETRY_AFTER_MS_MAX = 60_000;
/** Connections that are lost for one read until it is given up. Refusals of a service that throttles do not count. */
const LOST_MAX = 3;

/** Requests of one operation at the same time: the control planes of AWS allow 10 to 15 a second. */
const AT_ONCE = 8;

/**
 * The requests of one operation of a deployer.
 *
 * What is throttled is asked again, patiently and for a limited time: nothing was done. A read is asked again, too, when its connection
 * was lost or the service failed. A write is not: what became of it is found out by running the operation again, which converges.
 */
export class Session {
  readonly aws: Aws;
  readonly signal: AbortSignal | undefined;
  readonly #onWait: ((step: string) => void) | undefined;
  readonly #known = new Map<string, Promise<unknown>>();
  readonly #turns: (() => void)[] = [];
  #free = AT_ONCE;

  /** `onWait` is told of every wait for a service that throttles, in words. */
  constructor(aws: Aws, signal: AbortSignal | undefined, onWait?: (step: string) => void) {
    this.aws = aws;
    this.signal = signal;
    this.#onWait = onWait;
  }

  /**
   * What was read under this key since the last write, failures too: what is looked at one after the other can be read ahead, side by side.
   * A key stands for one type.
   */
  known<T>(key: string, read: () => Promise<T>): Promise<T> {
    const there = this.#known.get(key);
    if (there) return there as Promise<T>; // as: a key stands for one type
    const reading = read();
    this.#known.set(key, reading);
    return reading;
  }

  /** What was read is out of date: something else changed it. */
  forget(): void {
    this.#known.clear();
  }

  read<S extends ServiceName, T>(service: S, send: Send<S, T>): Promise<T> {
    return this.#patiently(service, send, true);
  }

  /** The same, and undefined for what is not there. */
  async find<S extends ServiceName, T>(service: S, send: Send<S, T>, isAbsent: (thrown: unknown) => boolean): Promise<T | undefined> {
    try {
      return await this.read(service, send);
    } catch (error) {
      if (isAbsent(error)) return undefined;
      throw error;
    }
  }

  async write<S extends ServiceName, T>(service: S, send: Send<S, T>): Promise<T> {
    try {
      return await this.#patiently(service, send, false);
    } finally {
      this.forget();
    }
  }

  sleep(ms: number): Promise<void> {
    return this.aws.clock.sleep(ms, this.signal);
  }

  async #patiently<S extends ServiceName, T>(service: S, send: Send<S, T>, isRead: boolean): Promise<T> {
    const client = await this.aws.client(service);
    let lost = 0;
    for (let attempt = 0; ; attempt += 1) {
      if (this.signal?.aborted) throw new RunnerError('ABORTED', 'the operation was cancelled', { cause: this.signal.reason });
      try {
        return await this.#inTurn(() => send(client, this.signal ? { abortSignal: this.signal } : {}));
      } catch (thrown) {
        const waitMs = WAITS_MS[attempt];
        const failure = readFailure(thrown);
        const again = isThrottled(failure) || (isRead && isPassing(failure));
        const operation = (typeof thrown === 'object' && thrown !== null && OPERATIONS.get(thrown)) || service;
        if (transportOf(failure) !== undefined) lost += 1;
        if (!again || waitMs === undefined || lost >= LOST_MAX) throw deployFailure(thrown, operation, this.aws.endpointOf(service));
        const ms = Math.max(waitMs, Math.min(failure.retryAfterMs ?? 0, RETRY_AFTER_MS_MAX));
        if (isThrottled(failure)) this.#onWait?.(`AWS throttles ${operation}: trying again in ${ms / 1_000} s`);
        await this.sleep(ms);
      }
    }
  }

  /** Waits for a free place among the requests. */
  async #inTurn<T>(send: () => Promise<T>): Promise<T> {
    if (this.#free === 0) await new Promise<void>((resolve) => void this.#turns.push(resolve));
    else this.#free -= 1;
    try {
      return await send();
    } finally {
      const next = this.#turns.shift();
      if (next) next();
      else this.#free += 1;
    }
  }
}

/** What a read may find otherwise a moment later. */
function isPassing(failure: ReturnType<typeof readFailure>): boolean {
  return transportOf(failure) === 'lost' || (failure.status !== undefined && failure.status >= 500);
}
