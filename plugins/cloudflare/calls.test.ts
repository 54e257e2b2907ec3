import { expect, test } from 'vitest';
import { isRunnerError } from '../../src/errors.ts';
import { Metadata } from '../../src/job/call.ts';
import { answerOf, errorOfEdge } from './calls.ts';

const call = { id: 'one', jobId: 7n, body: new Uint8Array(), metadata: new Metadata() };
const answer = (status: number, body: string, headers: Readonly<Record<string, string>> = {}) => ({
  status,
  body: Buffer.from(body),
  headers: { server: 'cloudflare', 'cf-ray': 'ray', 'content-type': 'text/plain; charset=UTF-8', ...headers },
});
const page = (code: number): string => `<!DOCTYPE html><title>Error</title><h1>Error <span class="cf-error-code">${code}</span></h1>`;
const problem = (code: number): string => JSON.stringify({ type: 'about:blank', status: 429, error_code: code, cloudflare_error: true });

test.each([
  [429, 'error code: 1015', 'EXECUTOR_THROTTLED', 'safe'],
  [429, page(1015), 'EXECUTOR_THROTTLED', 'safe'],
  [429, problem(1027), 'EXECUTOR_THROTTLED', 'safe'],
  [500, 'error code: 1101', 'FUNCTION_FAILED', 'idempotent'],
  [503, 'error code: 1102', 'FUNCTION_FAILED', 'idempotent'],
  [530, 'error code: 1016', 'EXECUTOR_UNREACHABLE', 'safe'],
  [403, 'error code: 1020', 'EXECUTOR_UNAUTHORIZED', 'never'],
  [403, page(1010), 'EXECUTOR_UNAUTHORIZED', 'never'],
  [404, 'error code: 1042', 'EXECUTOR_NOT_FOUND', 'never'],
  [404, '<title>There is nothing here yet</title>', 'EXECUTOR_NOT_FOUND', 'never'],
  [520, '', 'EXECUTOR_UNAVAILABLE', 'idempotent'],
  [522, '', 'EXECUTOR_TIMEOUT', 'idempotent'],
  [524, 'error code: 524', 'EXECUTOR_TIMEOUT', 'idempotent'],
  [530, '', 'EXECUTOR_UNREACHABLE', 'safe'],
])('the edge says %i %s: %s', (status, body, code, retry) => {
  const error = errorOfEdge(answer(status, body));
  expect(error).toMatchObject({ code, retry, details: { status, requestId: 'ray' } });
  expect(() => answerOf(answer(status, body), call)).toThrow(error?.message);
});

test('what a handler says is not taken for the edge', () => {
  const said = JSON.stringify({ error: 'the code is error code: 1015', code: 'JOB_FAILED', details: {} });
  const response = answer(500, said, { 'x-blueprint-wire': 'v1,v2', 'content-type': 'application/json' });
  let thrown: unknown;
  try {
    answerOf(response, call);
  } catch (error) {
    thrown = error;
  }
  expect(isRunnerError(thrown) && thrown.code).toBe('JOB_FAILED');
});

test('an answer of a Worker that is no error of the edge is left to whoever reads it', () => {
  expect(errorOfEdge(answer(500, '{"error":"no"}'))).toBeUndefined();
  expect(errorOfEdge(answer(200, 'error code: 1015'))).toBeUndefined();
});
