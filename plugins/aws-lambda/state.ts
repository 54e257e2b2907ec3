/** Functions as they are on Lambda. */

import type { FunctionConfiguration } from '@aws-sdk/client-lambda';
import { RunnerError } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionSchedule, FunctionState } from '../../src/plugin.ts';
import { ifTold, logGroupOf, readAsync, readProvisioned, readRetention, readUrl } from './attached.ts';
import type { PresentUrl } from './attached.ts';
import type { Session } from './client.ts';
import { isNotFound } from './failure.ts';
import { ALIAS_TAG, KEYS_TAG, MANAGED, PARTS_TAG, isManaged, lastOf, queueName, roleName, toHex, words } from './names.ts';
import type { AwsOptions } from './options.ts';
import { configOf } from './plan.ts';
import { placeOf, readEntries } from './schedules.ts';
import type { Place } from './schedules.ts';

export interface PresentFunction {
  readonly configuration: FunctionConfiguration;
  readonly tags: Readonly<Record<string, string>>;
  readonly reserved?: number;
  readonly isOurs: boolean;
  /** The one that calls go to first. */
  readonly aliases: readonly string[];
  readonly parts: readonly string[];
}

export const placesIn = (parts: readonly string[]): readonly Place[] =>
  parts.filter((part) => part === 'rules' || part.startsWith('scheduler:')).map(placeOf);

/** Of a function that has another role now: the one of its own may still be there. */
export const ROLE_PART = 'role';

export const hasOwnRole = ({ configuration, parts }: PresentFunction, name: string): boolean =>
  lastOf(configuration.Role ?? '') === name || parts.includes(ROLE_PART);

function presentOf(configuration: FunctionConfiguration, tags: Readonly<Record<string, string>>, reserved?: number): PresentFunction {
  return {
    configuration,
    tags,
    ...(reserved !== undefined && { reserved }),
    isOurs: isManaged(tags),
    aliases: words(tags[ALIAS_TAG]),
    parts: words(tags[PARTS_TAG]),
  };
}

export const readFunction = (session: Session, FunctionName: string): Promise<PresentFunction | undefined> =>
  session.known(`function ${FunctionName}`, () => functionOf(session, FunctionName));

async function functionOf(session: Session, FunctionName: string): Promise<PresentFunction | undefined> {
  const found = await session.find('lambda', (lambda, request) => lambda.getFunction({ FunctionName }, request), isNotFound);
  return found?.Configuration && presentOf(found.Configuration, found.Tags ?? {}, found.Concurrency?.ReservedConcurrentExecutions);
}

export function notFound(name: string, region: string): RunnerError {
  return new RunnerError('FUNCTION_NOT_FOUND', `there is no function ${name} in ${region}: deploy it first`, { details: { name, region } });
}

/** What an alias leads to. */
export const readLive = (session: Session, FunctionName: string, Qualifier: string): Promise<FunctionConfiguration | undefined> =>
  session.known(`live ${FunctionName}:${Qualifier}`, () =>
    session.find('lambda', (lambda, request) => lambda.getFunctionConfiguration({ FunctionName, Qualifier }, request), isNotFound),
  );

/** Where and as whom functions are called, as far as it may be written down. */
export interface Where {
  readonly region: string;
  readonly options: AwsOptions;
}

/** Everything about a function. */
export async function stateOf(session: Session, present: PresentFunction, where: Where): Promise<FunctionState> {
  const { configuration, aliases, parts, isOurs } = present;
  const name = configuration.FunctionName ?? '';
  const [alias] = aliases;
  if (!isOurs || alias === undefined) return plainState(present, undefined, where);
  const at = { FunctionName: name, Qualifier: alias };
  const [live, url, retention, provisioned, asynchronous, ...entries] = await Promise.all([
    readLive(session, name, alias),
    readUrl(session, at),
    parts.includes('logs') ? ifTold(readRetention(session, name)) : undefined,
    parts.includes('provisioned') ? readProvisioned(session, at) : undefined,
    readAsync(session, at),
    ...placesIn(parts).map((place) => readEntries(session, name, place)),
  ]);
  const state = plainState(present, live, where);
  const schedules = uniqueSchedules(entries.flat().flatMap(({ schedule }) => schedule ?? []));
  const own = entries.flat().filter(({ schedule }) => schedule);
  const platform = {
    ...state.config.platform,
    ...(alias !== 'live' && { alias }),
    ...(url && { url: url.settings }),
    ...(asynchronous && { async: asyncOf(asynchronous) }),
  };
  const config: FunctionConfig = {
    ...state.config,
    ...(retention !== undefined && { logRetentionDays: retention }),
    ...(provisioned && { instancesMin: provisioned.wanted }),
    ...(schedules.length > 0 && { schedules }),
    ...(Object.keys(platform).length > 0 && { platform }),
  };
  return {
    ...state,
    ...(url && { endpoint: url.url }),
    config,
    resources: [
      ...state.resources,
      ...own.map((entry) => ({ kind: 'schedule', id: entry.name })),
      ...urlResource(url),
      ...(retention === undefined ? [] : [{ kind: 'log-group', id: logGroupOf(name) }]),
    ],
  };
}

const urlResource = (url: PresentUrl | undefined) => (url ? [{ kind: 'url', id: url.url }] : []);

function asyncOf(config: NonNullable<Awaited<ReturnType<typeof readAsync>>>): Readonly<Record<string, unknown>> {
  const { MaximumRetryAttempts, MaximumEventAgeInSeconds, DestinationConfig } = config;
  const onSuccess = DestinationConfig?.OnSuccess?.Destination;
  const onFailure = DestinationConfig?.OnFailure?.Destination;
  return {
    ...(MaximumRetryAttempts !== undefined && { retriesMax: MaximumRetryAttempts }),
    ...(MaximumEventAgeInSeconds !== undefined && { ageMaxSeconds: MaximumEventAgeInSeconds }),
    ...(onSuccess !== undefined && { onSuccess }),
    ...(onFailure !== undefined && { onFailure }),
  };
}

/** A schedule may have several entries. */
function uniqueSchedules(schedules: readonly FunctionSchedule[]): readonly FunctionSchedule[] {
  return [...new Map(schedules.map((one) => [one.name, one])).values()].toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

/** What one look at a function tells; `live` is what calls get. */
function plainState(present: PresentFunction, live: FunctionConfiguration | undefined, where: Where): FunctionState {
  const { configuration, reserved, isOurs, aliases } = present;
  const name = configuration.FunctionName ?? '';
  const told = live ?? configuration;
  const [alias] = aliases;
  const [status, reason] = statusOf(configuration, isOurs);
  const tags = Object.fromEntries(Object.entries(present.tags).filter(([key]) => !isOwnTag(key)));
  const sha256 = toHex(told.CodeSha256);
  const arn = configuration.FunctionArn ?? name;
  return {
    name,
    id: arn,
    status,
    ...(reason !== undefined && { reason }),
    endpoint: alias === undefined ? arn : `${arn}:${alias}`,
    ...(sha256 !== undefined && { sha256 }),
    ...(live?.Version !== undefined && { version: live.Version }),
    ...(configuration.LastModified !== undefined && { updatedAt: configuration.LastModified }),
    config: {
      ...configOf(told),
      ...(reserved !== undefined && { concurrencyMax: reserved }),
      ...(Object.keys(tags).length > 0 && { tags }),
    },
    executor: executorOf(name, alias, where),
    resources: isOurs ? resourcesOf(configuration, alias, where.region) : [],
  };
}

export const isOwnTag = (key: string): boolean =>
  key === MANAGED.key || key === ALIAS_TAG || key === PARTS_TAG || key === KEYS_TAG || key.startsWith('aws:');

function resourcesOf(configuration: FunctionConfiguration, alias: string | undefined, region: string): FunctionState['resources'] {
  const name = configuration.FunctionName ?? '';
  const { Role, Layers, DeadLetterConfig } = configuration;
  const queue = DeadLetterConfig?.TargetArn;
  return [
    { kind: 'function', id: configuration.FunctionArn ?? name },
    ...(alias === undefined ? [] : [{ kind: 'alias', id: alias }]),
    ...(Role !== undefined && lastOf(Role) === roleName(name, region, 'role') ? [{ kind: 'role', id: Role }] : []),
    ...(queue !== undefined && lastOf(queue) === queueName(name) ? [{ kind: 'dead-letters', id: queue }] : []),
    ...(Layers ?? []).map(({ Arn }) => ({ kind: 'layer', id: Arn ?? '' })),
  ];
}

function statusOf(configuration: FunctionConfiguration, isOurs: boolean): readonly [FunctionState['status'], string | undefined] {
  const { State, StateReason, LastUpdateStatus, LastUpdateStatusReason } = configuration;
  if (!isOurs) return ['foreign', undefined];
  if (State === 'Failed') return ['failed', StateReason ?? 'no reason is given'];
  if (LastUpdateStatus === 'Failed') return ['failed', LastUpdateStatusReason ?? 'no reason is given'];
  return [isBusy(configuration) ? 'busy' : 'active', undefined];
}

export const isBusy = ({ State, LastUpdateStatus }: FunctionConfiguration): boolean =>
  State === 'Pending' || LastUpdateStatus === 'InProgress';

function executorOf(name: string, alias: string | undefined, { region, options }: Where): FunctionState['executor'] {
  const { endpoint, endpoints, profile } = options;
  const own = endpoints?.lambda ?? endpoint;
  return {
    use: 'aws-lambda',
    options: {
      function: name,
      ...(alias !== undefined && { qualifier: alias }),
      region,
      ...(profile !== undefined && { profile }),
      ...(own !== undefined && { endpoint: own }),
    },
  };
}

const AT_ONCE = 8;

/** All functions of the region, page by page. Tags are asked for one by one: the list does not tell them. */
export async function* listStates(session: Session, where: Where, all: boolean): AsyncGenerator<FunctionState, void, void> {
  let Marker: string | undefined;
  do {
    const page = await session.read('lambda', (lambda, request) => lambda.listFunctions(Marker === undefined ? {} : { Marker }, request));
    const functions = page.Functions ?? [];
    for (let from = 0; from < functions.length; from += AT_ONCE) {
      const states = await Promise.all(functions.slice(from, from + AT_ONCE).map((one) => listed(session, one, where)));
      for (const state of states) if (state && (all || state.status !== 'foreign')) yield state;
    }
    Marker = page.NextMarker;
  } while (Marker);
}

async function listed(session: Session, configuration: FunctionConfiguration, where: Where): Promise<FunctionState | undefined> {
  const { FunctionName = '', FunctionArn = '' } = configuration;
  const found = await session.find('lambda', (lambda, request) => lambda.listTags({ Resource: FunctionArn }, request), isNotFound);
  // Removed meanwhile.
  if (!found) return undefined;
  const present = presentOf(configuration, found.Tags ?? {});
  const [alias] = present.aliases;
  return plainState(present, present.isOurs && alias !== undefined ? await readLive(session, FunctionName, alias) : undefined, where);
}
