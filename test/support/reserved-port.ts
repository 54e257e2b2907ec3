/** Ports for programs that cannot tell which one they took, and for servers that come back where they were. */

import { once } from 'node:events';
import { createServer } from 'node:net';
import { freePort } from '../../src/deploy/port.ts';

/** Nobody else who asks here gets it as long as this process runs. */
export async function reservedPort(): Promise<number> {
  for (;;) {
    const port = await freePort();
    // A name that the kernel gives to one process at a time, and takes back when that ends.
    const claim = createServer().listen(`\0bpr-test-port-${port}`).unref();
    const isMine = once(claim, 'listening').then(
      () => true,
      () => false,
    );
    if (await isMine) return port;
  }
}
