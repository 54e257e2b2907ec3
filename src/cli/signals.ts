/** How a command that serves is ended. */

const SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const;

/** Resolves at the first signal; a second one ends the process at once. */
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
  return stopped.promise;
}
