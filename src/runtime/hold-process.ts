/** Somebody waits for an answer: the process does not end meanwhile, whatever timers and sockets there are. Returns what lets it end. */
export function holdProcess(): () => void {
  const { port1 } = new MessageChannel();
  port1.ref();
  return () => port1.close();
}
