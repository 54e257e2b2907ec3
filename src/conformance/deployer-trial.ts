/** What the cases of deployers have in common. */

import assert from 'node:assert/strict';
import { isRunnerError } from '../errors.ts';
import type { ErrorCode, RunnerError } from '../errors.ts';
import type {
  DeployChange,
  DeployReport,
  FaasDeployer,
  FunctionInvocation,
  FunctionState,
  LogEntry,
  LogQuery,
} from '../executor/deployer.ts';
import type { DeployerTrial } from './deployer.ts';

/** Until what was written to a log can be read. */
const LOG_MS_MAX = 20_000;

export const NAME = 'conformance-one';

export async function rejects(promise: Promise<unknown>, code: ErrorCode): Promise<RunnerError> {
  const thrown: unknown = await promise.then(
    (value) => assert.fail(`expected ${code}, got ${JSON.stringify(value)?.slice(0, 300)}`),
    (error: unknown) => error,
  );
  if (!isRunnerError(thrown)) assert.fail(`expected a RunnerError, got ${thrown instanceof Error ? thrown.stack : String(thrown)}`);
  assert.equal(thrown.code, code, `code of: ${thrown.message}`);
  return thrown;
}

export async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}

/** Puts the package `tag` there and checks what is reported. */
export async function deploy(trial: DeployerTrial, tag: string, name = NAME): Promise<DeployReport & { readonly state: FunctionState }> {
  const code = await trial.platform.codeOf(tag);
  return checked(await trial.connect().deploy(name, code, trial.config), code.sha256, name);
}

/** A report of what is there afterwards. */
export function checked(report: DeployReport, sha256: string, name = NAME): DeployReport & { readonly state: FunctionState } {
  const { state } = report;
  assert.ok(state, 'the report has no state');
  assert.equal(state.name, name);
  assert.equal(state.status, 'active', `status; the reason is ${state.reason}`);
  if (state.sha256 !== undefined) assert.equal(state.sha256, sha256, 'sha256 of what runs');
  return { ...report, state };
}

export interface Event {
  readonly say?: string;
  readonly waitMs?: number;
  readonly fail?: string;
  readonly variable?: string;
}

export function eventOf(event: Event): Uint8Array {
  return Buffer.from(JSON.stringify(event));
}

/** What the function answers to an event. */
export async function answer(deployer: FaasDeployer, event: Event = {}, name = NAME): Promise<{ tag: unknown; value: unknown }> {
  const invocation = await deployer.invoke(name, eventOf(event));
  return answerIn(invocation);
}

export function answerIn(invocation: FunctionInvocation): { tag: unknown; value: unknown } {
  const text = Buffer.from(invocation.body).toString('utf8');
  assert.equal(invocation.failed, false, `the function failed: ${text}`);
  const parsed: unknown = JSON.parse(text);
  assert.ok(typeof parsed === 'object' && parsed !== null && 'tag' in parsed && 'value' in parsed, `the answer is ${text}`);
  return { tag: parsed.tag, value: parsed.value };
}

/** Calls get this package, where the platform runs it. */
export async function runs(trial: DeployerTrial, tag: string, name = NAME): Promise<void> {
  if (trial.lacks.execution !== undefined) return;
  assert.equal((await answer(trial.connect(), {}, name)).tag, tag, 'the package that runs');
}

/** Does this and checks that the platform was not written to. */
export async function writesNothing<T>(trial: DeployerTrial, what: () => Promise<T>): Promise<T> {
  const { platform } = trial;
  const before = { writes: platform.writes?.(), snapshot: await platform.snapshot() };
  const result = await what();
  assert.deepEqual(await platform.snapshot(), before.snapshot, 'what is on the platform changed');
  assert.equal(platform.writes?.(), before.writes, 'write requests');
  return result;
}

/** What is compared of a change: the ids of what does not exist yet nobody knows. */
export function outline(changes: readonly DeployChange[]): string[] {
  return changes.map(({ action, resource, fields }) => [action, resource, ...(fields ?? []).toSorted()].join(' '));
}

/** The part of a state that is the same after every way that leads to it. */
export function essence(state: FunctionState | undefined): unknown {
  if (!state) return undefined;
  const { id: _, version: __, updatedAt: ___, endpoint: ____, executor: _____, resources, ...rest } = state;
  return JSON.parse(JSON.stringify({ ...rest, resources: resources.map(({ kind }) => kind).toSorted() }));
}

export async function say(trial: DeployerTrial, lines: readonly string[], name = NAME): Promise<void> {
  const { platform } = trial;
  if (platform.say) return platform.say(name, lines);
  const deployer = trial.connect();
  for (const line of lines) assert.equal((await deployer.invoke(name, eventOf({ say: line }))).failed, false);
}

/** Reads the log until it holds a line with this text: platforms show lines later than they were written. */
export async function logsWith(deployer: FaasDeployer, text: string, query: LogQuery = {}): Promise<LogEntry[]> {
  const until = Date.now() + LOG_MS_MAX;
  for (;;) {
    const entries = await all(deployer.logs(NAME, query));
    if (entries.some(({ message }) => message.includes(text))) return entries;
    assert.ok(Date.now() < until, `the log has no ${text}, only ${JSON.stringify(entries.slice(-5))}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
