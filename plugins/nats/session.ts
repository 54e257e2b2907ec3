/** A queue that is connected: its parts, put together. */

import { randomBytes, randomUUID } from 'node:crypto';
import type { CheckedClaim, ClaimedJob, Clock, Logger, QueueCounts } from '../../src/plugin.ts';
import { Claims } from './claims.ts';
import { NatsClient } from './client.ts';
import { Jobs } from './jobs.ts';
import { Keeping } from './keeping.ts';
import { Lanes } from './lanes.ts';
import { Tokens } from './leases.ts';
import type { NatsOptions } from './options.ts';
import { Publisher } from './publisher.ts';
import type { Names } from './records.ts';
import { Results } from './results.ts';
import { openStream } from './stream.ts';

export interface Session {
  readonly client: NatsClient;
  readonly lanes: Lanes;
  readonly jobs: Jobs;
  readonly claims: Claims;
  readonly publisher: Publisher;
  readonly results: Results;
  readonly keeping: Keeping;
  /** Copies that the stream has. */
  readonly replicas: number;
  /** What was deleted, or lost with the disk of a server, is made anew: the stream, and the consumers of its lanes. */
  readonly restore: () => Promise<void>;
  readonly stopKeepAlive: () => void;
}

export interface SessionParts {
  readonly clock: Clock;
  readonly log: Logger;
  readonly counts: QueueCounts;
  readonly claimed: (claim: CheckedClaim, jobs: readonly ClaimedJob[]) => void;
}

/** Connects, and makes the stream of the queue when there is none. */
export async function openSession(options: NatsOptions, names: Names, parts: SessionParts): Promise<Session> {
  const { ackWaitMs = 30_000, recordClaims = false, replicas: asked = 1 } = options;
  const { clock, log, counts, claimed } = parts;
  const client = await NatsClient.connect(options, names.stream, { clock, log });
  try {
    const { secret, replicas } = await openStream(client, names, { replicas: asked, log, makeSecret: randomUUID });
    const makeNonce = nonces();
    const jobs = new Jobs({ client, names, tokens: new Tokens(secret), clock, log, counts, ackWaitMs, recordClaims, makeNonce });
    const claims = new Claims({ clock, jobs, claimed });
    const arrived: Claims['arrived'] = (lane, delivery) => claims.arrived(lane, delivery);
    const lanes = new Lanes({ client, names, clock, ackWaitMs, replicas, arrived, changed: () => claims.changed() });
    claims.lanes = lanes;
    await lanes.open();
    void follow(client, lanes, log);
    const restore = async (): Promise<void> => {
      if (!(await client.stream())) {
        log.error('the stream of the queue is gone, and its jobs with it; it is made anew', { stream: names.stream });
        await openStream(client, names, { replicas: asked, log, makeSecret: () => secret });
      }
      await lanes.refresh();
    };
    return {
      client,
      lanes,
      jobs,
      claims,
      publisher: new Publisher({ client, lanes, jobs, names, clock, makeNonce }),
      results: new Results({ client, jobs, names, clock }),
      replicas,
      restore,
      keeping: new Keeping({ client, lanes, jobs, names, clock, makeNonce }),
      stopKeepAlive: options.scoped ? () => undefined : every(clock, ackWaitMs / 3, () => jobs.keepAlive()),
    };
  } catch (error) {
    await client.close();
    throw error;
  }
}

async function follow({ connection }: NatsClient, lanes: Lanes, log: Logger): Promise<void> {
  let [isLost, isRefused] = [false, false];
  // Each try to come back tells of its end.
  for await (const status of connection.status()) {
    if (status.type === 'disconnect' && !isLost) log.warn('the connection to NATS is lost');
    if (status.type === 'disconnect') isLost = true;
    if (status.type === 'error' && status.error.name === 'AuthorizationError' && !isRefused) {
      isRefused = true;
      log.warn('NATS refuses our credentials; it is tried again', { reason: status.error.message });
    }
    if (status.type !== 'reconnect' || !isLost) continue;
    [isLost, isRefused] = [false, false];
    log.info('the connection to NATS is there again');
    lanes.reconnected();
  }
}

/** Different in every process, each time. */
function nonces(): () => string {
  const process = randomBytes(9).toString('base64url');
  let count = 0;
  return () => {
    count += 1;
    return `${process}${count}`;
  };
}

function every(clock: Clock, ms: number, action: () => void): () => void {
  let cancel = (): void => undefined;
  const arm = (): void => {
    cancel = clock.after(ms, () => {
      action();
      arm();
    });
  };
  arm();
  return () => cancel();
}
