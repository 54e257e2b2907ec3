/**
 * The AWS Lambda API of the gateway: the unmodified AWS SDK and command line work against it. Protocol:
 * https://docs.aws.amazon.com/lambda/latest/api/API_Operations.html
 */

import { join } from 'node:path';
import { systemClock } from '../../clock.ts';
import type { Clock } from '../../clock.ts';
import type { FunctionRecord } from '../../runtime/store-records.ts';
import type { FunctionStore } from '../../runtime/store.ts';
import { silentTelemetry } from '../../telemetry/telemetry.ts';
import type { Telemetry } from '../../telemetry/telemetry.ts';
import type { QueuedCallEvent } from '../events.ts';
import type { Route } from '../http.ts';
import { AsyncQueue } from './async-queue.ts';
import { asyncHandlers, concurrencyHandlers, policyHandlers, tagHandlers } from './attached.ts';
import { CodeLinks } from './code-links.ts';
import { Destinations } from './destinations.ts';
import { functionHandlers, standingHandlers } from './functions.ts';
import { Invocations } from './invoke.ts';
import { layerHandlers } from './layers.ts';
import { toRoutes } from './operation.ts';
import type { Handlers, LambdaParts, LambdaRuntime } from './operation.ts';
import { Provisioned } from './provisioned.ts';
import { aliasHandlers, versionHandlers } from './versions.ts';

export interface LambdaApiOptions {
  /**
   * Runtimes should take requests and responses of the size of the widest provider: each function's own limits are checked here.
   */
  readonly functions: {
    readonly store: FunctionStore;
    runtimeOf(record: FunctionRecord): LambdaRuntime;
  };
  /** Holds the queue of calls that nobody waits for, and below `destinations` what they are told to. */
  readonly folder: string;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
  /** In ARNs. Default `us-east-1`. */
  readonly region?: string;
  /** In ARNs; twelve digits. Default `000000000000`. */
  readonly accountId?: string;
  /** Besides `destinations` below `folder`: where records of queued calls may be written. */
  readonly destinationFolders?: readonly string[];
  /** Queued calls that run at the same time. Default 64. */
  readonly asyncRunningMax?: number;
  /** Queued calls that wait. Default 100,000. */
  readonly asyncQueuedMax?: number;
  /** Queued calls: accepted, and settled. Must not throw. */
  readonly onEvent?: (kind: QueuedCallEvent['kind'], make: () => QueuedCallEvent) => void;
}

export class LambdaApi {
  /** One for each operation, and two for the links that they give out. */
  readonly routes: readonly Route[];
  readonly queue: AsyncQueue;
  readonly #provisioned: Provisioned;

  /** Throws `STORE_FAILED` when another process uses the folder. */
  static open(options: LambdaApiOptions): LambdaApi {
    return new LambdaApi(options);
  }

  private constructor(options: LambdaApiOptions) {
    const {
      functions,
      folder,
      clock = systemClock,
      telemetry = silentTelemetry,
      region = 'us-east-1',
      accountId = '000000000000',
    } = options;
    const { store } = functions;
    const parts: LambdaParts = {
      store,
      runtimeOf: (record) => functions.runtimeOf(record),
      clock,
      telemetry,
      place: { region, accountId },
    };
    const destinations = new Destinations({ folders: [join(folder, 'destinations'), ...(options.destinationFolders ?? [])], clock });
    this.queue = new AsyncQueue({
      ...parts,
      destinations,
      path: join(folder, 'async.sqlite'),
      ...(options.asyncRunningMax !== undefined && { runningMax: options.asyncRunningMax }),
      ...(options.asyncQueuedMax !== undefined && { queuedMax: options.asyncQueuedMax }),
      ...(options.onEvent && { onEvent: options.onEvent }),
    });
    this.#provisioned = new Provisioned(parts);
    const links = new CodeLinks(store, clock);
    const handlers: Handlers = {
      ...functionHandlers(parts, links),
      ...standingHandlers(parts),
      ...versionHandlers(parts),
      ...aliasHandlers(parts),
      ...layerHandlers(parts, links),
      ...concurrencyHandlers(parts),
      ...this.#provisioned.handlers(),
      ...policyHandlers(parts),
      ...asyncHandlers(parts, destinations),
      ...tagHandlers(parts),
      ...new Invocations(parts, this.queue).handlers(),
      ...links.handlers(),
    };
    this.routes = toRoutes(handlers, parts.place);
  }

  /** Goes on with what was queued, and warms what is to be warm. After the runtime was started. */
  start(): void {
    this.queue.start();
    this.#provisioned.refreshAll();
  }

  /** To be called with each change of a function, after `runtime.retire`. */
  changed(name: string): void {
    this.#provisioned.refresh(name);
  }

  /** To be called when all instances of a function were ended. */
  drained(name: string): void {
    this.#provisioned.drained(name);
  }

  /** Resolves when no queued call runs, or after the deadline (default 10,000 ms). To be closed before the runtime. Idempotent. */
  close(deadlineMs?: number): Promise<void> {
    return this.queue.close(deadlineMs);
  }
}
