/** What an account of NATS must allow somebody who works on a queue, and nothing else. */

import { Names } from './records.ts';

export interface NatsPermissions {
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
}

/**
 * For a worker that claims, completes, and reads results: it has no right to publish jobs, to delete them, to make or change streams and
 * consumers, or to touch another queue. With an inbox of its own (the option `inboxPrefix`) it hears nothing that is sent to others. It can
 * read every job and object of the queue, write the records of jobs that it was not given, and remove objects: give such credentials to
 * workers that are trusted with the queue; others speak to a control plane.
 *
 * @example
 * workerPermissions({ queue: 'jobs', inboxPrefix: '_INBOX_w1' }).publish; // ['bpr.jobs.r.>', '$JS.ACK.BPR_jobs.>', ...]
 */
export function workerPermissions({
  queue = 'jobs',
  inboxPrefix = '_INBOX',
}: {
  readonly queue?: string;
  readonly inboxPrefix?: string;
}): NatsPermissions {
  const { stream, records, lanes, events, objects } = new Names(queue);
  const store = `OBJ_${objects}`;
  return {
    publish: [
      records,
      `$JS.ACK.${stream}.>`,
      `$JS.ACK.*.*.${stream}.>`,
      `$JS.API.CONSUMER.MSG.NEXT.${stream}.*`,
      `$JS.API.CONSUMER.LIST.${stream}`,
      `$JS.API.CONSUMER.INFO.${stream}.*`,
      `$JS.API.STREAM.INFO.${stream}`,
      `$JS.API.STREAM.MSG.GET.${stream}`,
      // Asked by the library of the object store: how much the account has and uses.
      `$JS.API.INFO`,
      `$O.${objects}.*.*`,
      `$JS.API.STREAM.INFO.${store}`,
      `$JS.API.STREAM.MSG.GET.${store}`,
      `$JS.API.STREAM.PURGE.${store}`,
    ],
    subscribe: [`${inboxPrefix}.>`, lanes, `${events}.*`],
  };
}
