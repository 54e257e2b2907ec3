/** The stream of a queue: made once, recognised by its mark, left alone when it is somebody else's. */

import { RunnerError } from '../../src/plugin.ts';
import type { Logger } from '../../src/plugin.ts';
import type { NatsClient, StreamInfo } from './client.ts';
import type { Names } from './records.ts';

const MARK = 'blueprint-runner';
const KIND = 'queue';
const FORMAT = '1';

export interface StreamSettings {
  readonly replicas: number;
  readonly log: Logger;
  readonly makeSecret: () => string;
}

/** Rejects with `RESOURCE_FOREIGN` when a stream of the name is not ours, and with `QUEUE_VERSION` when it is of another format. */
export async function openStream(
  client: NatsClient,
  names: Names,
  settings: StreamSettings,
): Promise<{ secret: string; replicas: number }> {
  const info = (await client.stream()) ?? (await makeStream(client, names, settings.replicas)) ?? (await client.stream());
  const config = checkStream(names, info);
  if (config.num_replicas !== settings.replicas)
    settings.log.warn('the queue has another number of copies than is asked for; it is left as it is', {
      stream: names.stream,
      has: config.num_replicas,
      asked: settings.replicas,
    });
  return { secret: await secretOf(client, names, settings.makeSecret), replicas: config.num_replicas };
}

function makeStream(client: NatsClient, names: Names, replicas: number): Promise<StreamInfo | undefined> {
  return client.addStream({
    name: names.stream,
    description: 'work queue',
    subjects: [names.all],
    retention: 'limits',
    storage: 'file',
    num_replicas: replicas,
    max_msgs_per_subject: 1,
    discard: 'new',
    allow_direct: true,
    allow_atomic: true,
    republish: { src: names.records, dest: `${names.events}.{{wildcard(1)}}` },
    metadata: { [MARK]: KIND, [`${MARK}-format`]: FORMAT },
  });
}

function checkStream(names: Names, info: StreamInfo | undefined): StreamInfo['config'] {
  const metadata = info?.config.metadata ?? {};
  if (info === undefined || metadata[MARK] !== KIND)
    throw new RunnerError(
      'RESOURCE_FOREIGN',
      `the stream ${names.stream} is not a work queue of ours: choose another name with the option queue`,
    );
  if (metadata[`${MARK}-format`] !== FORMAT)
    throw new RunnerError(
      'QUEUE_VERSION',
      `the stream ${names.stream} has the format ${metadata[`${MARK}-format`]}; this version reads ${FORMAT}`,
    );
  return info.config;
}

/** What leases are signed with: who comes first makes it. */
async function secretOf(client: NatsClient, names: Names, makeSecret: () => string): Promise<string> {
  for (;;) {
    const stored = await client.last(names.secret);
    if (stored) return stored.header;
    await client.write({ subject: names.secret, header: makeSecret(), body: new Uint8Array(), expected: 0 });
  }
}
