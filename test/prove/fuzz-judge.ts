/** Whether an answer is one that is allowed. */

import type { Input } from './fuzz-http.ts';
import type { RuntimeOutcome } from './fuzz-runtime-api.ts';
import { isMeantAsRequest, requestsIn } from './fuzz-wire.ts';
import type { Answer, Exchange } from './fuzz-wire.ts';

/** Undefined: all is as it must be. */
export function faultOf(input: Input, { answers, rest, unreadable, isStuck }: Exchange): string | undefined {
  if (unreadable !== undefined) return unreadable;
  if (isStuck) return `the connection does not end; answers: ${shown(answers)}`;
  if (rest > 0) return `an answer broke off; answers before: ${shown(answers)}`;
  const final = answers.filter(({ status }) => status !== 100);
  for (const answer of final) {
    const fault = faultOfAnswer(answer, !input.bytes.includes('HEAD '));
    if (fault !== undefined) return fault;
  }
  const accepted = final.filter(({ status }) => status < 400).length;
  if (input.mustRefuse && accepted > 0) return `it was accepted: ${shown(final)}`;
  if (accepted > requestsIn(input.bytes))
    return `${accepted} requests were accepted, where only ${requestsIn(input.bytes)} are in order: ${shown(final)}`;
  if (final.length === 0 && isMeantAsRequest(input.bytes)) return 'it was closed without an answer';
  if (input.beginsSound && (final[0]?.status ?? 0) >= 300) return `a request that was in order was refused: ${shown(final)}`;
  return undefined;
}

function faultOfAnswer({ status, headers, body }: Answer, mustHaveBody: boolean): string | undefined {
  if (status === 101 || (status >= 200 && status < 300)) return undefined;
  if (status < 400 || status >= 500) return `${status} ${body.toString('utf8', 0, 500)}`;
  if (!mustHaveBody && body.length === 0) return undefined;
  const text = body.toString('utf8');
  if (!headers.get('content-type')?.startsWith('application/json'))
    return `${status} is no JSON: ${headers.get('content-type')} ${text.slice(0, 200)}`;
  const code = codeOf(text) ?? headers.get('x-amzn-errortype');
  return code === undefined || code === 'INTERNAL' ? `${status} has no code: ${text.slice(0, 200)}` : undefined;
}

/** The APIs of the gateway, and the Runtime API, each have their own form. */
function codeOf(text: string): string | undefined {
  try {
    const document: unknown = JSON.parse(text);
    if (typeof document !== 'object' || document === null) return undefined;
    const error = 'error' in document && typeof document.error === 'object' && document.error !== null ? document.error : document;
    const code = 'code' in error ? error.code : 'errorType' in error ? error.errorType : undefined;
    return typeof code === 'string' && code !== '' ? code : undefined;
  } catch {
    return undefined;
  }
}

/** An instance may be ended for what it does, and a poll may wait. */
export function faultOfRuntime({ input, answers, rest, unreadable, isInstanceOver, isStuck }: RuntimeOutcome): string | undefined {
  if (unreadable !== undefined) return unreadable;
  if (isStuck) return `the connection does not end; answers: ${shown(answers)}`;
  if (rest > 0 && !isInstanceOver) return `an answer broke off; answers before: ${shown(answers)}`;
  for (const answer of answers) {
    if (answer.status === 100) continue;
    const fault = faultOfAnswer(answer, !input.bytes.includes('HEAD '));
    if (fault !== undefined) return fault;
  }
  const accepted = answers.filter(({ status }) => status >= 200 && status < 400).length;
  return accepted > requestsIn(input.bytes)
    ? `${accepted} requests were accepted, where only ${requestsIn(input.bytes)} are in order`
    : undefined;
}

function shown(answers: readonly Answer[]): string {
  return answers.map(({ status, body }) => `${status} ${body.toString('utf8', 0, 200)}`).join('; ') || 'none';
}
