/** What both halves of the client share: errors, bytes as text, server-sent events. No Node. */

/** A refusal or a failure that the gateway told; `code` is one of ERRORS.md, or `UNREACHABLE` when no answer came. */
export class GatewayError extends Error {
  override readonly name = 'GatewayError';
  readonly code: string;
  /** 0 when no answer came. */
  readonly status: number;
  readonly details: Readonly<Record<string, unknown>>;
  readonly requestId: string | undefined;

  constructor(
    message: string,
    {
      code,
      status,
      details = {},
      requestId,
      cause,
    }: {
      readonly code: string;
      readonly status: number;
      readonly details?: Readonly<Record<string, unknown>>;
      readonly requestId?: string | undefined;
      readonly cause?: unknown;
    },
  ) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.status = status;
    this.details = details;
    this.requestId = requestId;
  }
}

export function sleepOf(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Rejects with the reason of the signal as soon as that fires. */
export function unlessAborted(work: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (!signal) return work;
  const aborted = Promise.withResolvers<void>();
  const abort = (): void => aborted.reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  return Promise.race([work, aborted.promise]).finally(() => signal.removeEventListener('abort', abort));
}

/** Throws `GatewayError`. */
export function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new GatewayError(`the answer is not JSON: ${text.slice(0, 100)}`, { code: 'UNKNOWN', status: 200, cause });
  }
}

export function errorOf(document: unknown, status: number): GatewayError {
  const error = typeof document === 'object' && document !== null && 'error' in document ? document.error : undefined;
  // Every field is checked below.
  const {
    code,
    message,
    details,
    request_id: requestId,
  } = (typeof error === 'object' && error !== null ? error : {}) as Record<string, unknown>;
  return new GatewayError(typeof message === 'string' ? message : `the gateway answered ${status}`, {
    code: typeof code === 'string' ? code : 'UNKNOWN',
    status,
    ...(typeof details === 'object' && details !== null && { details: details as Record<string, unknown> }),
    ...(typeof requestId === 'string' && { requestId }),
  });
}

/** Throws `GatewayError` when the answer breaks off, and the reason of the signal when that fires. */
export async function* serverSentEvents(
  response: Response,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ readonly event: string; readonly data: string }> {
  const decoder = new TextDecoder();
  let rest = '';
  // The body of a response is bytes.
  const reader = (response.body as ReadableStream<Uint8Array<ArrayBuffer>> | null)?.getReader();
  if (!reader) return;
  const read = (): ReturnType<typeof reader.read> =>
    reader.read().catch((cause: unknown) => {
      throw signal?.aborted ? cause : new GatewayError('the answer broke off', { code: 'UNREACHABLE', status: 0, cause });
    });
  try {
    for (let part = await read(); !part.done; part = await read()) {
      rest += decoder.decode(part.value, { stream: true });
      const blocks = rest.split('\n\n');
      rest = blocks.pop() ?? '';
      for (const block of blocks) {
        const lines = block.split('\n');
        const field = (name: string): string => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2) ?? '';
        yield { event: field('event'), data: field('data') };
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

const BASE64_CHUNK = 0x8000;

export function toBase64(bytes: Uint8Array): string {
  let binary = '';
  for (let at = 0; at < bytes.length; at += BASE64_CHUNK) binary += String.fromCharCode(...bytes.subarray(at, at + BASE64_CHUNK));
  return btoa(binary);
}

export function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
}
