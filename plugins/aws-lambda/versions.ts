/** Versions of a function, and the alias that calls go to. */

import type { FunctionConfiguration } from '@aws-sdk/client-lambda';
import { RunnerError } from '../../src/plugin.ts';
import type { FunctionVersionInfo } from '../../src/plugin.ts';
import type { Changes } from './changes.ts';
import type { Session } from './client.ts';
import { isConflict, isNotFound, rawOf, readFailure } from './failure.ts';
import { toHex } from './names.ts';
import { behavesAs } from './plan.ts';
import { isBusy } from './state.ts';

const READY_MS_MAX = 300_000;
const POLL_MS = 1_000;

/** Waits until Lambda has done what it was asked. Throws `DEPLOY_FAILED` with its reason when it could not. */
export async function whenReady(changes: Changes, first: FunctionConfiguration, Qualifier?: string): Promise<FunctionConfiguration> {
  const { session } = changes;
  const { clock } = session.aws;
  const FunctionName = changes.function;
  const until = clock.now() + READY_MS_MAX;
  let now = first;
  while (isBusy(now)) {
    if (clock.now() >= until)
      throw new RunnerError('DEPLOY_FAILED', `Lambda still works on function ${FunctionName} after ${READY_MS_MAX / 1_000} s`);
    changes.tell(`waiting for Lambda to be done with ${FunctionName}`);
    await session.sleep(POLL_MS);
    now = await session.read('lambda', (lambda, request) =>
      lambda.getFunctionConfiguration({ FunctionName, ...(Qualifier !== undefined && { Qualifier }) }, request),
    );
    session.forget();
  }
  return now;
}

/** The same, and throws when it did not work out. */
export async function whenDone(changes: Changes, first: FunctionConfiguration, Qualifier?: string): Promise<FunctionConfiguration> {
  const done = await whenReady(changes, first, Qualifier);
  const [code, reason] =
    done.State === 'Failed'
      ? [done.StateReasonCode, done.StateReason]
      : done.LastUpdateStatus === 'Failed'
        ? [done.LastUpdateStatusReasonCode, done.LastUpdateStatusReason]
        : [];
  if (code === undefined && reason === undefined) return done;
  throw new RunnerError('DEPLOY_FAILED', `Lambda could not take function ${changes.function}: ${code}: ${reason}`, {
    details: { platformCode: code, platformMessage: reason },
  });
}

const CONFLICT_MS_MAX = 300_000;

/** A write that Lambda refuses while it still works on the last one: done when that is over. */
export async function whenIdle<T>(session: Session, changes: Changes, write: () => Promise<T>): Promise<T> {
  const { clock } = session.aws;
  const until = clock.now() + CONFLICT_MS_MAX;
  for (;;) {
    try {
      return await write();
    } catch (error) {
      const passes = isConflict(error) && /in progress|currently in|pending/i.test(readFailure(rawOf(error)).message);
      if (!passes || clock.now() >= until) throw error;
      changes.tell(`waiting for another update of ${changes.function} to end`);
      await session.sleep(POLL_MS);
    }
  }
}

/** Published versions, the newest first. */
export async function readVersions(session: Session, FunctionName: string): Promise<readonly FunctionConfiguration[]> {
  const versions: FunctionConfiguration[] = [];
  let Marker: string | undefined;
  do {
    const page = await session.read('lambda', (lambda, request) =>
      lambda.listVersionsByFunction({ FunctionName, ...(Marker !== undefined && { Marker }) }, request),
    );
    versions.push(...(page.Versions ?? []).filter(({ Version }) => Version !== undefined && Version !== '$LATEST'));
    Marker = page.NextMarker;
  } while (Marker);
  return versions.toSorted((a, b) => Number(b.Version) - Number(a.Version));
}

export function versionInfo(version: FunctionConfiguration, current: string | undefined): FunctionVersionInfo {
  const sha256 = toHex(version.CodeSha256);
  return {
    version: version.Version ?? '',
    ...(sha256 !== undefined && { sha256 }),
    ...(version.LastModified !== undefined && { createdAt: version.LastModified }),
    current: version.Version === current,
  };
}

/** The version that behaves as this. One that an interrupted deployment published is not published again. */
export async function versionOf(session: Session, changes: Changes, latest: FunctionConfiguration): Promise<string> {
  const FunctionName = changes.function;
  const versions = await readVersions(session, FunctionName);
  const same = versions.find((version) => behavesAs(version, latest));
  if (same?.Version !== undefined) return same.Version;
  const made = await whenIdle(session, changes, () =>
    session.write('lambda', (lambda, request) =>
      lambda.publishVersion({ FunctionName, ...(latest.CodeSha256 !== undefined && { CodeSha256: latest.CodeSha256 }) }, request),
    ),
  );
  await whenDone(changes, made, made.Version);
  return made.Version ?? '';
}

/** Lets the alias lead to a version, all calls. */
export async function aim(
  session: Session,
  FunctionName: string,
  alias: { readonly name: string; readonly version: string; readonly exists: boolean },
): Promise<void> {
  const input = { FunctionName, Name: alias.name, FunctionVersion: alias.version };
  if (!alias.exists) {
    await session.write('lambda', (lambda, request) => lambda.createAlias(input, request));
    return;
  }
  const now = await session.read('lambda', (lambda, request) => lambda.getAlias({ FunctionName, Name: alias.name }, request));
  const isSplit = Object.keys(now.RoutingConfig?.AdditionalVersionWeights ?? {}).length > 0;
  await session.write('lambda', (lambda, request) =>
    lambda.updateAlias({ ...input, ...(isSplit && { RoutingConfig: { AdditionalVersionWeights: {} } }) }, request),
  );
}

/** Whether there is an alias of this name, ours or not. */
export const hasAlias = async (session: Session, FunctionName: string, Name: string): Promise<boolean> =>
  (await session.find('lambda', (lambda, request) => lambda.getAlias({ FunctionName, Name }, request), isNotFound)) !== undefined;
