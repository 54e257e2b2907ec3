/** The trace of a call follows from the call: attempts before and after a crash, and settlement in another process, come together in it. */

import { hash } from 'node:crypto';
import type { TraceContext } from './telemetry.ts';

/** The part of a call that is needed. */
export interface TraceableCall {
  readonly id: string;
  readonly metadata: { get(name: string): string | undefined };
}

const TRACEPARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?$/;

/**
 * Where the spans of a call begin: the trace that its `traceparent` names, when who made the call traces; else a trace whose id is
 * the SHA-256 of the call's id. Its span is nobody's: traces of calls of the chain have several spans without a known parent.
 */
export function traceOfCall({ id, metadata }: TraceableCall): TraceContext {
  const traceparent = metadata.get('traceparent');
  if (traceparent !== undefined && TRACEPARENT.test(traceparent)) {
    const tracestate = metadata.get('tracestate');
    return { traceparent, ...(tracestate !== undefined && { tracestate }) };
  }
  const digest = hash('sha256', `blueprint call ${id}`, 'hex');
  return { traceparent: `00-${digest.slice(0, 32)}-${digest.slice(32, 48)}-01` };
}
