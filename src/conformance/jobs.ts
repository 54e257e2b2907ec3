/** The jobs that the suites of the executors call. */

import { appendFile } from 'node:fs/promises';
import { RunnerError } from '../errors.ts';
import { TANGLE } from '../job/call.ts';
import { defineJob } from '../job/job.ts';
import { JobRouter } from '../job/router.ts';

export const CONFORMANCE_JOBS = { echo: 0n, fail: 1n, reject: 2n, wait: 3n, nothing: 4n, mark: 5n, metadata: 6n } as const;

/**
 * The router to run behind the executor under test. `mark` writes to the file that its arguments name, so it needs the file system of
 * the test.
 */
export function conformanceRouter(): JobRouter {
  const text = (body: Uint8Array): string => Buffer.from(body).toString('utf8');
  return new JobRouter()
    .route(
      CONFORMANCE_JOBS.echo,
      defineJob({ raw: true, name: 'echo' }, (body) => body),
    )
    .route(
      CONFORMANCE_JOBS.fail,
      defineJob({ raw: true, name: 'fail' }, (body) => {
        throw new Error(text(body));
      }),
    )
    .route(
      CONFORMANCE_JOBS.reject,
      defineJob({ raw: true, name: 'reject' }, (body) => {
        throw new RunnerError('JOB_ARGS_INVALID', text(body), { details: { given: text(body) } });
      }),
    )
    .route(
      CONFORMANCE_JOBS.wait,
      defineJob({ raw: true, name: 'wait' }, async (body, { signal }) => {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, Number(text(body)));
          signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
        });
        return body;
      }),
    )
    .route(
      CONFORMANCE_JOBS.nothing,
      defineJob({ raw: true, name: 'nothing' }, () => undefined),
    )
    .route(
      CONFORMANCE_JOBS.mark,
      defineJob({ raw: true, name: 'mark' }, async (body) => {
        await appendFile(text(body), 'x');
        throw new Error('marked');
      }),
    )
    .route(
      CONFORMANCE_JOBS.metadata,
      defineJob({ raw: true, name: 'metadata' }, (_, { call }) =>
        JSON.stringify({ caller: call.metadata.get(TANGLE.caller), callId: call.metadata.get(TANGLE.callId) }),
      ),
    );
}
