/** Servers of tests, on ports that nobody else has. */

import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Server as TlsServer } from 'node:tls';

export interface Listening {
  readonly url: string;
  /** Cuts the connections that are left. */
  stop(): Promise<void>;
}

export async function listenOnLoopback(server: Server): Promise<Listening> {
  // Of two sides that rested meanwhile, one would close a connection on which the other sends.
  server.keepAliveTimeout = 0;
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo; // as: it listens on a port
  return {
    url: `${server instanceof TlsServer ? 'https' : 'http'}://127.0.0.1:${port}`,
    stop() {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}
