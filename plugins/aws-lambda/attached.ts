/** What belongs to a function besides its code: log group, dead letters, URL, rules for queued calls, concurrency. */

import type { FunctionEventInvokeConfig } from '@aws-sdk/client-lambda';
import { RunnerError } from '../../src/plugin.ts';
import type { Changes } from './changes.ts';
import type { Session } from './client.ts';
import { isDenied, isNotFound, rawOf, readFailure } from './failure.ts';
import { MANAGED, OWNER_TAG, foreign, isManaged, isSame, queueName } from './names.ts';
import type { LambdaPlatform } from './options.ts';

/** Not there, or nothing that this endpoint knows: what speaks Lambda's language need not know all of it. */
const isAbsent = (thrown: unknown): boolean => isNotFound(thrown) || readFailure(rawOf(thrown)).status === 404;

export const logGroupOf = (functionName: string): string => `/aws/lambda/${functionName}`;

/** Undefined when there is no group; 0 when it keeps everything. */
export const readRetention = (session: Session, functionName: string): Promise<number | undefined> =>
  session.known(`retention ${functionName}`, () => retentionOf(session, functionName));

async function retentionOf(session: Session, functionName: string): Promise<number | undefined> {
  const name = logGroupOf(functionName);
  const { logGroups = [] } = await session.read('logs', (logs, request) => logs.describeLogGroups({ logGroupNamePrefix: name }, request));
  const group = logGroups.find(({ logGroupName }) => logGroupName === name);
  return group && (group.retentionInDays ?? 0);
}

/** The group is made before the function writes to it: Lambda makes one that keeps everything. */
export async function ensureLogGroup(
  session: Session,
  changes: Changes,
  wanted: { readonly days: number; readonly owner: string },
): Promise<void> {
  const { days, owner } = wanted;
  const logGroupName = logGroupOf(changes.function);
  const present = await readRetention(session, changes.function);
  if (present === days) return;
  const put = (): Promise<unknown> =>
    days === 0
      ? session.write('logs', (logs, request) => logs.deleteRetentionPolicy({ logGroupName }, request))
      : session.write('logs', (logs, request) => logs.putRetentionPolicy({ logGroupName, retentionInDays: days }, request));
  if (present !== undefined) {
    await changes.make({ action: 'update', resource: 'log-group', id: logGroupName, fields: ['retention'] }, put);
    return;
  }
  await changes.make({ action: 'create', resource: 'log-group', id: logGroupName }, async () => {
    const tags = { [MANAGED.key]: MANAGED.value, [OWNER_TAG]: owner };
    await session.write('logs', (logs, request) => logs.createLogGroup({ logGroupName, tags }, request));
    if (days !== 0) await put();
  });
}

export interface PresentQueue {
  readonly url: string;
  readonly arn: string;
}

/** The queue that is made for dead letters. Throws `RESOURCE_FOREIGN` for one of its name that was not made for this function. */
export const readQueue = (session: Session, functionName: string, owner: string): Promise<PresentQueue | undefined> =>
  session.known(`queue ${functionName}`, () => queueOf(session, functionName, owner));

async function queueOf(session: Session, functionName: string, owner: string): Promise<PresentQueue | undefined> {
  const QueueName = queueName(functionName);
  const found = await session.find('sqs', (sqs, request) => sqs.getQueueUrl({ QueueName }, request), isNotFound);
  if (found?.QueueUrl === undefined) return undefined;
  const { QueueUrl } = found;
  const { Tags } = await session.read('sqs', (sqs, request) => sqs.listQueueTags({ QueueUrl }, request));
  if (!isManaged(Tags) || Tags?.[OWNER_TAG] !== owner) throw foreign('queue', QueueName);
  const { Attributes } = await session.read('sqs', (sqs, request) =>
    sqs.getQueueAttributes({ QueueUrl, AttributeNames: ['QueueArn'] }, request),
  );
  return { url: QueueUrl, arn: Attributes?.['QueueArn'] ?? '' };
}

const QUEUE_KEEPS_SECONDS = 14 * 86_400;

/** The ARN of the queue for dead letters. */
export async function ensureQueue(
  session: Session,
  changes: Changes,
  { present, owner }: { readonly present: PresentQueue | undefined; readonly owner: string },
): Promise<string> {
  if (present) return present.arn;
  const QueueName = queueName(changes.function);
  const made = await changes.make({ action: 'create', resource: 'dead-letters', id: QueueName }, async () => {
    await session.write('sqs', (sqs, request) =>
      sqs.createQueue(
        {
          QueueName,
          Attributes: { MessageRetentionPeriod: String(QUEUE_KEEPS_SECONDS) },
          tags: { [MANAGED.key]: MANAGED.value, [OWNER_TAG]: owner },
        },
        request,
      ),
    );
    return readQueue(session, changes.function, owner);
  });
  return made?.arn ?? `arn:aws:sqs:::${QueueName}`;
}

export async function removeQueue(session: Session, changes: Changes, present: PresentQueue | undefined): Promise<void> {
  if (!present) return;
  await changes.make({ action: 'delete', resource: 'dead-letters', id: queueName(changes.function) }, () =>
    session.write('sqs', (sqs, request) => sqs.deleteQueue({ QueueUrl: present.url }, request)),
  );
}

/** A function, and the alias that these settings hang on. */
export interface Qualified {
  readonly FunctionName: string;
  readonly Qualifier: string;
}

type UrlWish = Exclude<LambdaPlatform['url'], false | undefined>;

export interface PresentUrl {
  readonly url: string;
  readonly settings: UrlWish;
}

export const readUrl = (session: Session, at: Qualified): Promise<PresentUrl | undefined> =>
  session.known(`url ${at.FunctionName}:${at.Qualifier}`, () => urlOf(session, at));

async function urlOf(session: Session, at: Qualified): Promise<PresentUrl | undefined> {
  const found = await session.find('lambda', (lambda, request) => lambda.getFunctionUrlConfig(at, request), isAbsent);
  if (found?.FunctionUrl === undefined) return undefined;
  const { AllowOrigins, AllowMethods, AllowHeaders } = found.Cors ?? {};
  const cors = {
    ...(AllowOrigins?.length && { origins: AllowOrigins }),
    ...(AllowMethods?.length && { methods: AllowMethods }),
    ...(AllowHeaders?.length && { headers: AllowHeaders }),
  };
  return {
    url: found.FunctionUrl,
    settings: {
      auth: found.AuthType === 'NONE' ? 'NONE' : 'AWS_IAM',
      mode: found.InvokeMode === 'RESPONSE_STREAM' ? 'RESPONSE_STREAM' : 'BUFFERED',
      ...(Object.keys(cors).length > 0 && { cors }),
    },
  };
}

/** Statement ids of a public URL: both are asked for since October 2025. */
const URL_STATEMENTS = ['blueprint-runner-url', 'blueprint-runner-url-invoke'] as const;

/** `permitted` are the statement ids of the policy of the alias. */
export async function ensureUrl(
  session: Session,
  changes: Changes,
  {
    at,
    wish,
    present,
    permitted,
  }: {
    readonly at: Qualified;
    readonly wish: UrlWish | false;
    readonly present: PresentUrl | undefined;
    readonly permitted: readonly string[];
  },
): Promise<void> {
  const isPublic = wish !== false && wish.auth === 'NONE';
  const id = `${at.FunctionName}:${at.Qualifier}`;
  if (wish === false) {
    if (present)
      await changes.make({ action: 'delete', resource: 'url', id }, () =>
        session.write('lambda', (lambda, request) => lambda.deleteFunctionUrlConfig(at, request)),
      );
  } else await putUrl(session, changes, { at, wish, present });
  const missing = isPublic ? URL_STATEMENTS.filter((statement) => !permitted.includes(statement)) : [];
  if (missing.length > 0)
    await changes.make({ action: 'create', resource: 'permission', id: `${id} url` }, async () => {
      for (const statement of missing) await permitUrl(session, at, statement);
    });
  const stale = isPublic ? [] : URL_STATEMENTS.filter((statement) => permitted.includes(statement));
  if (stale.length > 0)
    await changes.make({ action: 'delete', resource: 'permission', id: `${id} url` }, async () => {
      for (const StatementId of stale)
        await session.write('lambda', (lambda, request) => lambda.removePermission({ ...at, StatementId }, request));
    });
}

async function putUrl(
  session: Session,
  changes: Changes,
  { at, wish, present }: { readonly at: Qualified; readonly wish: UrlWish; readonly present: PresentUrl | undefined },
): Promise<void> {
  const { auth, mode = 'BUFFERED', cors } = wish;
  if (present && isSame(present.settings, { auth, mode, ...(cors && { cors }) })) return;
  const input = {
    ...at,
    AuthType: auth,
    InvokeMode: mode,
    Cors: {
      ...(cors?.origins && { AllowOrigins: [...cors.origins] }),
      ...(cors?.methods && { AllowMethods: [...cors.methods] }),
      ...(cors?.headers && { AllowHeaders: [...cors.headers] }),
    },
  };
  const id = `${at.FunctionName}:${at.Qualifier}`;
  if (present)
    await changes.make(
      {
        action: 'update',
        resource: 'url',
        id,
        fields: ['auth', 'mode', 'cors'].filter((name) => !isSame(wishOf(wish, name), wishOf(present.settings, name))),
      },
      () => session.write('lambda', (lambda, request) => lambda.updateFunctionUrlConfig(input, request)),
    );
  else
    await changes.make({ action: 'create', resource: 'url', id }, () =>
      session.write('lambda', (lambda, request) => lambda.createFunctionUrlConfig(input, request)),
    );
}

function wishOf(wish: UrlWish, name: string): unknown {
  if (name === 'mode') return wish.mode ?? 'BUFFERED';
  return name === 'auth' ? wish.auth : wish.cors;
}

function permitUrl(session: Session, at: Qualified, StatementId: (typeof URL_STATEMENTS)[number]): Promise<unknown> {
  const common = { ...at, StatementId, Principal: '*' };
  return session.write('lambda', (lambda, request) =>
    StatementId === 'blueprint-runner-url'
      ? lambda.addPermission({ ...common, Action: 'lambda:InvokeFunctionUrl', FunctionUrlAuthType: 'NONE' }, request)
      : lambda.addPermission({ ...common, Action: 'lambda:InvokeFunction', InvokedViaFunctionUrl: true }, request),
  );
}

/** Statement ids of the policy of an alias. */
export const readPermitted = (session: Session, at: Qualified): Promise<readonly string[]> =>
  session.known(`permitted ${at.FunctionName}:${at.Qualifier}`, () => permittedOf(session, at));

async function permittedOf(session: Session, at: Qualified): Promise<readonly string[]> {
  const found = await session.find('lambda', (lambda, request) => lambda.getPolicy(at, request), isNotFound);
  if (found?.Policy === undefined) return [];
  // The service writes the policy; only the ids are looked at.
  const { Statement = [] } = JSON.parse(found.Policy) as { readonly Statement?: readonly { readonly Sid?: string }[] };
  return Statement.flatMap(({ Sid }) => Sid ?? []);
}

export const readAsync = (session: Session, at: Qualified): Promise<FunctionEventInvokeConfig | undefined> =>
  session.known(`async ${at.FunctionName}:${at.Qualifier}`, () =>
    session.find('lambda', (lambda, request) => lambda.getFunctionEventInvokeConfig(at, request), isNotFound),
  );

export async function ensureAsync(
  session: Session,
  changes: Changes,
  {
    at,
    wish,
    present,
  }: {
    readonly at: Qualified;
    readonly wish: Exclude<LambdaPlatform['async'], undefined>;
    readonly present: FunctionEventInvokeConfig | undefined;
  },
): Promise<void> {
  const id = `${at.FunctionName}:${at.Qualifier}`;
  if (wish === false) {
    if (present)
      await changes.make({ action: 'delete', resource: 'async', id }, () =>
        session.write('lambda', (lambda, request) => lambda.deleteFunctionEventInvokeConfig(at, request)),
      );
    return;
  }
  const { retriesMax, ageMaxSeconds, onSuccess, onFailure } = wish;
  const is = present && {
    retriesMax: present.MaximumRetryAttempts,
    ageMaxSeconds: present.MaximumEventAgeInSeconds,
    destinations: present.DestinationConfig,
  };
  if (
    is &&
    isSame(
      [
        is.retriesMax ?? 2,
        is.ageMaxSeconds ?? 21_600,
        is.destinations?.OnSuccess?.Destination ?? '',
        is.destinations?.OnFailure?.Destination ?? '',
      ],
      [retriesMax ?? 2, ageMaxSeconds ?? 21_600, onSuccess ?? '', onFailure ?? ''],
    )
  )
    return;
  await changes.make({ action: present ? 'update' : 'create', resource: 'async', id }, () =>
    session.write('lambda', (lambda, request) =>
      lambda.putFunctionEventInvokeConfig(
        {
          ...at,
          ...(retriesMax !== undefined && { MaximumRetryAttempts: retriesMax }),
          ...(ageMaxSeconds !== undefined && { MaximumEventAgeInSeconds: ageMaxSeconds }),
          ...((onSuccess !== undefined || onFailure !== undefined) && {
            DestinationConfig: {
              ...(onSuccess !== undefined && { OnSuccess: { Destination: onSuccess } }),
              ...(onFailure !== undefined && { OnFailure: { Destination: onFailure } }),
            },
          }),
        },
        request,
      ),
    ),
  );
}

/** Reserves concurrency; `undefined` takes the reservation away. */
export async function ensureReserved(
  session: Session,
  changes: Changes,
  { wanted, present }: { readonly wanted: number | undefined; readonly present: number | undefined },
): Promise<void> {
  if (wanted === present) return;
  const FunctionName = changes.function;
  if (wanted === undefined)
    await changes.make({ action: 'delete', resource: 'concurrency', id: FunctionName }, () =>
      session.write('lambda', (lambda, request) => lambda.deleteFunctionConcurrency({ FunctionName }, request)),
    );
  else
    await changes.make(
      present === undefined
        ? { action: 'create', resource: 'concurrency', id: FunctionName }
        : { action: 'update', resource: 'concurrency', id: FunctionName, fields: ['reserved'] },
      () =>
        session.write('lambda', (lambda, request) =>
          lambda.putFunctionConcurrency({ FunctionName, ReservedConcurrentExecutions: wanted }, request),
        ),
    );
}

export interface Provisioned {
  readonly wanted: number;
  readonly status: string;
  readonly reason?: string;
}

export const readProvisioned = (session: Session, at: Qualified): Promise<Provisioned | undefined> =>
  session.known(`provisioned ${at.FunctionName}:${at.Qualifier}`, () => provisionedOf(session, at));

async function provisionedOf(session: Session, at: Qualified): Promise<Provisioned | undefined> {
  const found = await session.find('lambda', (lambda, request) => lambda.getProvisionedConcurrencyConfig(at, request), isAbsent);
  if (!found) return undefined;
  const { RequestedProvisionedConcurrentExecutions: wanted = 0, Status = 'READY', StatusReason } = found;
  return { wanted, status: Status, ...(StatusReason !== undefined && { reason: StatusReason }) };
}

const PROVISIONED_MS_MAX = 600_000;
const POLL_MS = 2_000;

/** Keeps so many instances ready, and waits until they are; 0 keeps none. */
export async function ensureProvisioned(changes: Changes, at: Qualified, count: number): Promise<void> {
  const { session } = changes;
  const present = await readProvisioned(session, at);
  const id = `${at.FunctionName}:${at.Qualifier}`;
  if (count === 0) {
    if (present)
      await changes.make({ action: 'delete', resource: 'provisioned-concurrency', id }, () =>
        session.write('lambda', (lambda, request) => lambda.deleteProvisionedConcurrencyConfig(at, request)),
      );
    return;
  }
  if (present?.wanted !== count)
    await changes.make({ action: present ? 'update' : 'create', resource: 'provisioned-concurrency', id }, () =>
      session.write('lambda', (lambda, request) =>
        lambda.putProvisionedConcurrencyConfig({ ...at, ProvisionedConcurrentExecutions: count }, request),
      ),
    );
  if (changes.isDry) return;
  const until = session.aws.clock.now() + PROVISIONED_MS_MAX;
  for (;;) {
    const now = await readProvisioned(session, at);
    if (now?.status === 'READY') return;
    if (now?.status === 'FAILED' || session.aws.clock.now() >= until) {
      const reason = now?.reason ?? `they are ${now?.status ?? 'gone'} after ${PROVISIONED_MS_MAX / 1_000} s`;
      throw new RunnerError('DEPLOY_FAILED', `${count} ready instances of ${id} were not provided: ${reason}`, { details: { ...now } });
    }
    changes.tell(`waiting for ${count} ready instances`);
    await session.sleep(POLL_MS);
    session.forget();
  }
}

/** What may not be looked at, or whose package is not installed, is not told. */
export async function ifTold<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    const isMissing = error instanceof Error && 'code' in error && error.code === 'PEER_MISSING';
    if (isMissing || isDenied(error)) return undefined;
    throw error;
  }
}
