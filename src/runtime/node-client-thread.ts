/**
 * The runtime client in a worker thread, for handlers that take and give bytes. Joined with the parts of `node-client.ts` that it uses, and
 * with the program that makes the handler (`threadClientSource`), so that it imports only built-in modules, by default imports.
 */

import net from 'node:net';
import threads from 'node:worker_threads';
import { Channel } from './node-client-channel.ts';
import type { Event, Outlet } from './node-client-lane.ts';
import { PortSocket } from './port-socket.ts';

/** What a thread that waits is told that it is. */
export interface ThreadAssignment {
  readonly lanes: number;
  /** Of the Runtime API; undefined: the API is at the other end of the port. */
  readonly socketPath: string | undefined;
  /** For the program that makes the handler. */
  readonly handler: unknown;
}

/** What a thread tells besides bytes for the Runtime API. */
export type ThreadMessage =
  | { readonly kind: 'output'; readonly stream: 'stdout' | 'stderr'; readonly chunk: Uint8Array }
  | { readonly kind: 'memory'; readonly bytes: number }
  | { readonly kind: 'out-of-memory' };

/** Answers an event, or throws. */
export type BytesHandler = (event: Uint8Array) => Uint8Array;

/** Waits for the assignment, then works. */
export function serveThread(makeHandler: (given: unknown, tell: (message: ThreadMessage) => void) => BytesHandler): void {
  const { parentPort: port } = threads;
  if (!port) return;
  port.once('message', (assignment: ThreadAssignment) => {
    const handler = makeHandler(assignment.handler, (message) => port.postMessage(message));
    void workOn(handler, assignment);
  });
}

async function workOn(handler: BytesHandler, { lanes, socketPath }: ThreadAssignment): Promise<void> {
  const connection = socketPath === undefined ? overPort() : net.connect(socketPath);
  // Events come before `open` has resolved.
  const opened: { channel?: Channel } = {};
  const work = (event: Event, outlet: Outlet): void => {
    try {
      void outlet.respond(handler(event.body));
    } catch (error) {
      void outlet.fail(error);
    }
    // One lane has nothing else to say in this turn.
    if (lanes === 1) opened.channel?.writer.flush();
  };
  const channel = await Channel.open(connection, { lanes, work, lost: () => process.exit(0) });
  if (!channel) process.exit(1);
  opened.channel = channel;
}

function overPort(): PortSocket {
  const { parentPort: port } = threads;
  const socket = new PortSocket((bytes, transfer) => port?.postMessage(bytes, transfer));
  port?.on('message', (bytes: Uint8Array) => socket.receive(bytes));
  return socket;
}
