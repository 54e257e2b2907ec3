/** Ports of this machine that nobody listens on. */

import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';

/** The wanted one when it is free, else any. */
export function freePort(wanted = 0): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (wanted !== 0 && error.code === 'EADDRINUSE') freePort().then(resolve, reject);
      else reject(error);
    });
    server.listen(wanted, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo; // as: it listens on a port
      server.close(() => resolve(port));
    });
  });
}
