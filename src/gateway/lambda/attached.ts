/** Operations on what is attached to a function: reserved concurrency, permissions, rules for queued calls, tags; and the account. */

import { RunnerError } from '../../errors.ts';
import { LIMITS } from '../../executor/limits.ts';
import type { Attachment } from '../../runtime/attachments.ts';
import type { AsyncConfig, JsonObject } from '../../runtime/store-records.ts';
import { breaks } from '../../runtime/store-settings.ts';
import { demand } from '../http.ts';
import { SETTING_TAGS, tagSettings, unsetByTags } from './configuration.ts';
import type { Destinations } from './destinations.ts';
import { demandTold } from './destinations.ts';
import type { Fields } from './fields.ts';
import { missing } from './fields.ts';
import { functionArn, parseFunctionName } from './names.ts';
import type { Place } from './names.ts';
import { NO_CONTENT, answer, nextMarker, pageOf } from './operation.ts';
import type { Handlers, LambdaParts, OperationRequest } from './operation.ts';

const PAGE_MAX = 50;
const STATEMENT_ID = /^[a-zA-Z0-9-_]{1,100}$/;

export function concurrencyHandlers({ store }: LambdaParts) {
  return {
    PutFunctionConcurrency({ fn, fields }) {
      const calls = fields().whole('ReservedConcurrentExecutions');
      if (calls === undefined) throw missing('ReservedConcurrentExecutions');
      store.setReserved(fn.name, calls);
      return answer(200, { ReservedConcurrentExecutions: calls });
    },
    GetFunctionConcurrency({ fn }) {
      const calls = store.reserved(fn.name);
      return answer(200, calls === undefined ? {} : { ReservedConcurrentExecutions: calls });
    },
    DeleteFunctionConcurrency({ fn }) {
      store.setReserved(fn.name, undefined);
      return NO_CONTENT;
    },
    GetAccountSettings() {
      const { functions, codeBytes, reserved } = store.usage();
      const { concurrencyMax, unpackedBytesMax, zipBytesMax } = LIMITS.aws;
      return answer(200, {
        AccountLimit: {
          TotalCodeSize: 80_530_636_800,
          CodeSizeUnzipped: unpackedBytesMax,
          CodeSizeZipped: zipBytesMax,
          ConcurrentExecutions: concurrencyMax,
          UnreservedConcurrentExecutions: concurrencyMax - reserved,
        },
        AccountUsage: { TotalCodeSize: codeBytes, FunctionCount: functions },
      });
    },
  } satisfies Partial<Handlers>;
}

export function policyHandlers({ store, place }: LambdaParts) {
  return {
    AddPermission({ fn, fields: read }) {
      const fields = read();
      const id = fields.required('StatementId');
      if (!STATEMENT_ID.test(id)) throw breaks('statementId', id, { pattern: STATEMENT_ID.source.replaceAll(/^\^|\$$/g, '') });
      const revisionId = fields.text('RevisionId');
      const statement = statementOf(fields, { id, resource: functionArn(place, fn.name, fn.qualifier) });
      store.attachments.addPermission(fn, id, { statement, ...(revisionId !== undefined && { revisionId }) });
      return answer(201, { Statement: JSON.stringify(statement) });
    },
    RemovePermission({ fn, params, query }) {
      store.get(fn.name, fn.qualifier);
      store.attachments.removePermission(fn, params['StatementId'] ?? '', query.get('RevisionId') ?? undefined);
      return NO_CONTENT;
    },
    GetPolicy({ fn }) {
      store.get(fn.name, fn.qualifier);
      const { statements, revisionId } = store.attachments.policy(fn);
      return answer(200, {
        Policy: JSON.stringify({ Version: '2012-10-17', Id: 'default', Statement: statements }),
        RevisionId: revisionId,
      });
    },
  } satisfies Partial<Handlers>;
}

function statementOf(fields: Fields, { id, resource }: { readonly id: string; readonly resource: string }): JsonObject {
  const principal = fields.required('Principal');
  const [sourceArn, sourceAccount, organisation, token, urlAuth] = [
    'SourceArn',
    'SourceAccount',
    'PrincipalOrgID',
    'EventSourceToken',
    'FunctionUrlAuthType',
  ].map((name) => fields.text(name));
  const equals = {
    ...(sourceAccount !== undefined && { 'AWS:SourceAccount': sourceAccount }),
    ...(organisation !== undefined && { 'aws:PrincipalOrgID': organisation }),
    ...(token !== undefined && { 'lambda:EventSourceToken': token }),
    ...(urlAuth !== undefined && { 'lambda:FunctionUrlAuthType': urlAuth }),
  };
  const condition = {
    ...(Object.keys(equals).length > 0 && { StringEquals: equals }),
    ...(sourceArn !== undefined && { ArnLike: { 'AWS:SourceArn': sourceArn } }),
  };
  const who =
    principal === '*'
      ? '*'
      : /^[a-z0-9-]+(\.[a-z0-9-]+)*\.(amazonaws|alexa)[a-z.-]*$/.test(principal)
        ? { Service: principal }
        : { AWS: principalArn(principal) };
  return {
    Sid: id,
    Effect: 'Allow',
    Principal: who,
    Action: fields.required('Action'),
    Resource: resource,
    ...(Object.keys(condition).length > 0 && { Condition: condition }),
  };
}

function principalArn(principal: string): string {
  return /^\d{12}$/.test(principal) ? `arn:aws:iam::${principal}:root` : principal;
}

export function asyncHandlers({ store, place }: LambdaParts, destinations: Destinations) {
  const { attachments } = store;
  const show = (config: Attachment<AsyncConfig>): JsonObject => toEventInvoke(config, place);
  const found = ({ fn }: OperationRequest): Attachment<AsyncConfig> => {
    store.get(fn.name, fn.qualifier);
    const config = attachments.async(fn);
    if (config) return config;
    throw new RunnerError(
      'NOT_FOUND',
      `The function ${functionArn(place, fn.name, fn.qualifier ?? '$LATEST')} doesn't have an EventInvokeConfig`,
    );
  };
  const put = (request: OperationRequest, base: AsyncConfig): JsonObject => {
    const given = asyncConfigOf(request.fields());
    for (const target of [given.onSuccess, given.onFailure]) {
      if (!target) continue;
      destinations.check(target);
      demandTold(request.caller, target);
    }
    const { onSuccess, onFailure, ...rules } = { ...base, ...given };
    return show(attachments.putAsync(request.fn, { ...rules, ...(onSuccess && { onSuccess }), ...(onFailure && { onFailure }) }));
  };
  return {
    PutFunctionEventInvokeConfig: (request) => answer(200, put(request, {})),
    UpdateFunctionEventInvokeConfig: (request) => answer(200, put(request, found(request).value)),
    GetFunctionEventInvokeConfig: (request) => answer(200, show(found(request))),
    DeleteFunctionEventInvokeConfig(request) {
      found(request);
      attachments.remove({ ...request.fn, kind: 'async' });
      return NO_CONTENT;
    },
    ListFunctionEventInvokeConfigs({ fn, query }) {
      store.get(fn.name);
      const page = attachments.list<AsyncConfig>(fn.name, 'async', pageOf(query, PAGE_MAX));
      return answer(200, { FunctionEventInvokeConfigs: page.items.map(show), ...nextMarker(page) });
    },
  } satisfies Partial<Handlers>;
}

/** An empty destination takes away the one that was there. */
function asyncConfigOf(fields: Fields): AsyncConfig {
  const retriesMax = fields.whole('MaximumRetryAttempts');
  const ageMaxSeconds = fields.whole('MaximumEventAgeInSeconds');
  const destinations = fields.inner('DestinationConfig');
  const onSuccess = destinations?.inner('OnSuccess')?.text('Destination');
  const onFailure = destinations?.inner('OnFailure')?.text('Destination');
  return {
    ...(retriesMax !== undefined && { retriesMax }),
    ...(ageMaxSeconds !== undefined && { ageMaxSeconds }),
    ...(onSuccess !== undefined && { onSuccess }),
    ...(onFailure !== undefined && { onFailure }),
  };
}

function toEventInvoke({ name, qualifier, value, modifiedAt }: Attachment<AsyncConfig>, place: Place): JsonObject {
  return {
    FunctionArn: functionArn(place, name, qualifier),
    LastModified: modifiedAt / 1_000,
    ...(value.retriesMax !== undefined && { MaximumRetryAttempts: value.retriesMax }),
    ...(value.ageMaxSeconds !== undefined && { MaximumEventAgeInSeconds: value.ageMaxSeconds }),
    DestinationConfig: {
      OnSuccess: value.onSuccess === undefined ? {} : { Destination: value.onSuccess },
      OnFailure: value.onFailure === undefined ? {} : { Destination: value.onFailure },
    },
  };
}

export function tagHandlers({ store }: LambdaParts) {
  /** The resource is no parameter that the server knows as a function. */
  const named = ({ params, caller }: OperationRequest, scope: 'functions:read' | 'functions:write'): string => {
    const { name } = parseFunctionName(params['Resource'] ?? '');
    demand(caller, scope, name);
    return name;
  };
  const change = async (name: string, tags: Readonly<Record<string, string>>): Promise<void> => {
    const before = store.tags(name);
    if (before[SETTING_TAGS.profile] !== tags[SETTING_TAGS.profile]) {
      throw new RunnerError('REQUEST_INVALID', `the tag ${SETTING_TAGS.profile} is set when the function is made, and stays`, {
        details: { awsType: 'InvalidParameterValueException' },
      });
    }
    const settings = { ...unsetByTags(before), ...tagSettings(tags) };
    // First, as it may refuse: a tag that means nothing is not to be shown.
    if (Object.keys(settings).length > 0) await store.updateSettings(name, settings);
    store.setTags(name, tags);
  };
  return {
    async TagResource(request) {
      const name = named(request, 'functions:write');
      await change(name, { ...store.tags(name), ...request.fields().textMap('Tags') });
      return NO_CONTENT;
    },
    async UntagResource(request) {
      const name = named(request, 'functions:write');
      const removed = new Set(request.query.getAll('tagKeys'));
      await change(name, Object.fromEntries(Object.entries(store.tags(name)).filter(([key]) => !removed.has(key))));
      return NO_CONTENT;
    },
    ListTags: (request) => answer(200, { Tags: store.tags(named(request, 'functions:read')) }),
  } satisfies Partial<Handlers>;
}
