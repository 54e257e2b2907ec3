/** What an account of NATS must allow somebody who works on a queue, and nothing else. */

import { Names } from './records.ts';

export interface NatsPermissions {
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
  /** What was delivered to it, and nothing else, it may answer, once: an acknowledgement, or that it gives the job back. */
  readonly allow_responses: { readonly max: 1; readonly expires: string };
}

/**
 * For a worker that claims, completes, and reads results, as a configuration of the server takes them: it has no right to publish jobs, to
 * delete them, to make or change streams and consumers, or to touch another queue. With an inbox of its own (the option `inboxPrefix`) it
 * hears nothing that is sent to others. It acknowledges what was delivered to its own connection only, once (the option `scoped`), and adds
 * objects, of which it can neither change nor remove any. It can read every job and object of the queue, write the records of jobs that it was
 * not given, and make up a name for the bytes of somebody else's object, which go when that name is collected: give such credentials to workers
 * that are trusted with the queue; others speak to a control plane.
 *
 * @example
 * workerPermissions({ queue: 'jobs', inboxPrefix: '_INBOX_w1' }).publish; // ['bpr.jobs.r.-.-.*', ...]
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
      `$JS.API.CONSUMER.MSG.NEXT.${stream}.*`,
      `$JS.API.CONSUMER.LIST.${stream}`,
      `$JS.API.CONSUMER.INFO.${stream}.*`,
      `$JS.API.STREAM.INFO.${stream}`,
      `$JS.API.STREAM.MSG.GET.${stream}`,
      `$O.${objects}.*.*`,
      `$JS.API.STREAM.INFO.${store}`,
      `$JS.API.STREAM.MSG.GET.${store}`,
    ],
    subscribe: [`${inboxPrefix}.>`, lanes, `${events}.*`],
    allow_responses: { max: 1, expires: '24h' },
  };
}
