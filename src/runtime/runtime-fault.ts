/** Errors as runtime clients report them. */

export interface Fault {
  readonly errorType: string;
  readonly errorMessage: string;
  readonly stackTrace: readonly string[];
  /** What was posted. */
  readonly body: string;
}

export const FAULT_BYTES_MAX = 1024 * 1024;
/** So much of an answer that is refused is read, so that the client gets to see the refusal. */
export const DRAIN_BYTES_MAX = 64 * 1024 * 1024;

/** Clients differ in where they say the type and in how they call the stack; a body that is no JSON is a message. */
export function faultOf(headerType: string, body: string): Fault {
  let fields: { errorType?: unknown; errorMessage?: unknown; stackTrace?: unknown; trace?: unknown } = {};
  try {
    const parsed: unknown = JSON.parse(body);
    if (typeof parsed === 'object' && parsed !== null) fields = parsed;
  } catch {
    fields = { errorMessage: body };
  }
  const stack = Array.isArray(fields.stackTrace) ? fields.stackTrace : Array.isArray(fields.trace) ? fields.trace : [];
  return {
    errorType: typeof fields.errorType === 'string' && fields.errorType !== '' ? fields.errorType : headerType || 'Function.Unknown',
    errorMessage: typeof fields.errorMessage === 'string' ? fields.errorMessage : '',
    stackTrace: stack.filter((line) => typeof line === 'string'),
    body,
  };
}
