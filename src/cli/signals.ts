/** How a command that serves is ended: by a signal, or because nobody reads any more what it prints. */

const SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const;
const UNREAD = 'unread';

let isWatched = false;

/**
 * Of the whole program: whoever reads has seen enough, as head has. A command that serves ends then as it does at a signal, any other one has
 * nothing more to say. What is told on stderr is not what a command is for: it goes on without.
 */
export function watchReaders(): void {
  if (isWatched) return;
  isWatched = true;
  const { stdout, stderr } = process;
  let isTold = false;
  stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    if (isTold) return;
    isTold = true;
    if (!stdout.emit(UNREAD)) process.exit();
  });
  stderr.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
}

/** Once, when nobody reads stdout any more; without a listener the program ends at once. */
export function whenUnread(stop: () => void): void {
  process.stdout.once(UNREAD, stop);
}

/** Resolves at the first signal, or when nobody reads any more; a second signal ends the process at once. */
export function untilSignal(): Promise<void> {
  const stopped = Promise.withResolvers<void>();
  let signals = 0;
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      signals += 1;
      if (signals > 1) process.exit(SIGNALS[name]);
      stopped.resolve();
    });
  }
  whenUnread(stopped.resolve);
  return stopped.promise;
}
