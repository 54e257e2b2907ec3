/** What an account of NATS must allow somebody who works on a queue, and nothing else. */

import { Names } from './records.ts';

export interface NatsPermissions {
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
}

/**
 * For a worker that claims, completes, and reads results: it cannot publish jobs, delete anything, or touch another queue. With an inbox of
 * its own (the option `inboxPrefix`) it hears nothing that is sent to others. It can read every job of the queue, and write the records of
 * jobs that it was not given: give such credentials to workers that are trusted with the queue; others speak to a control plane.
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
  const { stream, records, lanes, events } = new Names(queue);
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
    ],
    subscribe: [`${inboxPrefix}.>`, lanes, `${events}.*`],
  };
}
