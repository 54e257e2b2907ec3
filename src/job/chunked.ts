/** Results that a job makes piece by piece. */

import type { JobExtras } from './job.ts';

/**
 * A raw job that yields its result in chunks, bytes or text. They are joined: a job that breaks off has failed, whatever it yielded before.
 * The generator is ended when the call is: its `finally` runs at the next chunk.
 *
 * @example
 * const numbers = defineJob({ name: 'numbers', raw: true }, chunked(async function* () { for (let n = 0; n < 3; n += 1) yield `${n} `; }));
 */
export function chunked<Extras extends JobExtras>(
  generate: (body: Uint8Array, extras: Extras) => AsyncIterable<Uint8Array | string>,
): (body: Uint8Array, extras: Extras) => Promise<Uint8Array> {
  return async (body, extras) => {
    const parts: Uint8Array[] = [];
    for await (const chunk of generate(body, extras)) {
      parts.push(typeof chunk === 'string' ? Buffer.from(chunk, 'utf8') : chunk);
      if (extras.signal.aborted) break;
    }
    extras.signal.throwIfAborted();
    return Buffer.concat(parts);
  };
}
