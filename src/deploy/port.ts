/** Ports of this machine that nobody listens on. */

import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';
import { RunnerError } from '../errors.ts';

/**
 * Below those that a system gives away by itself, to connections and to who listens on any port: what is free here stays so until it is
 * listened on, and who connects to it while nobody listens cannot meet itself. Above what `fetch` refuses, below node ports of Kubernetes.
 */
const [FIRST, END] = [11_000, 30_000];
const DRAWS_MAX = 100;

/** The wanted one when it is free, else any. Rejects with `DEPLOY_FAILED` when none is found, `CONFIG_INVALID` when the wanted one is not to be had. */
export async function freePort(wanted = 0): Promise<number> {
  if (wanted !== 0 && (await isFree(wanted))) return wanted;
  for (let draw = 0; draw < DRAWS_MAX; draw += 1) {
    const port = randomInt(FIRST, END);
    if (await isFree(port)) return port;
  }
  const message = `of ${DRAWS_MAX} ports from ${FIRST} to ${END - 1} none is free on 127.0.0.1; end programs that listen there`;
  throw new RunnerError('DEPLOY_FAILED', message, { details: { first: FIRST, last: END - 1 } });
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(false);
      else
        reject(
          new RunnerError('CONFIG_INVALID', `port ${port} cannot be listened on (${error.code}); choose another one`, { cause: error }),
        );
    });
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}
