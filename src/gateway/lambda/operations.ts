/** The operations of the Lambda API that the gateway answers. Paths as in the service's model, in which each has the date of its version. */

import { LIMITS } from '../../executor/limits.ts';
import type { Route } from '../http.ts';

export interface OperationSpec {
  readonly method: Route['method'];
  readonly path: string;
  readonly scope: Route['scope'];
  readonly summary: string;
  /** Default 1 MiB where there is a body. */
  readonly bodyBytesMax?: number;
  /** Another operation of the same path, told apart by its query. */
  readonly also?: string;
}

/** A zip of the largest size as base64, as the service counts, and the other members. */
const UPLOAD_BYTES_MAX = 69_905_067 + 1024 * 1024;
/** The most that any provider takes; each function's own limit is checked when it is known. */
const EVENT_BYTES_MAX = Math.max(...Object.values(LIMITS).map(({ requestBytesMax }) => requestBytesMax));

export const OPERATIONS = {
  CreateFunction: {
    method: 'POST',
    path: '/2015-03-31/functions',
    scope: 'functions:write',
    summary: 'makes a function',
    bodyBytesMax: UPLOAD_BYTES_MAX,
  },
  GetFunction: {
    method: 'GET',
    path: '/2015-03-31/functions/{FunctionName}',
    scope: 'functions:read',
    summary: 'configuration and code of a function',
  },
  GetFunctionConfiguration: {
    method: 'GET',
    path: '/2015-03-31/functions/{FunctionName}/configuration',
    scope: 'functions:read',
    summary: 'configuration of a function',
  },
  ListFunctions: { method: 'GET', path: '/2015-03-31/functions', scope: 'functions:read', summary: 'all functions' },
  UpdateFunctionCode: {
    method: 'PUT',
    path: '/2015-03-31/functions/{FunctionName}/code',
    scope: 'functions:write',
    summary: 'replaces the code',
    bodyBytesMax: UPLOAD_BYTES_MAX,
  },
  UpdateFunctionConfiguration: {
    method: 'PUT',
    path: '/2015-03-31/functions/{FunctionName}/configuration',
    scope: 'functions:write',
    summary: 'replaces settings; what is left out stays',
  },
  DeleteFunction: {
    method: 'DELETE',
    path: '/2015-03-31/functions/{FunctionName}',
    scope: 'functions:write',
    summary: 'removes a function, or one version of it',
  },
  PublishVersion: {
    method: 'POST',
    path: '/2015-03-31/functions/{FunctionName}/versions',
    scope: 'functions:write',
    summary: 'makes a version that never changes',
  },
  ListVersionsByFunction: {
    method: 'GET',
    path: '/2015-03-31/functions/{FunctionName}/versions',
    scope: 'functions:read',
    summary: 'all versions of a function',
  },
  CreateAlias: {
    method: 'POST',
    path: '/2015-03-31/functions/{FunctionName}/aliases',
    scope: 'functions:write',
    summary: 'names a version',
  },
  GetAlias: {
    method: 'GET',
    path: '/2015-03-31/functions/{FunctionName}/aliases/{Name}',
    scope: 'functions:read',
    summary: 'where an alias leads',
  },
  UpdateAlias: {
    method: 'PUT',
    path: '/2015-03-31/functions/{FunctionName}/aliases/{Name}',
    scope: 'functions:write',
    summary: 'lets an alias lead elsewhere; what is left out stays',
  },
  DeleteAlias: {
    method: 'DELETE',
    path: '/2015-03-31/functions/{FunctionName}/aliases/{Name}',
    scope: 'functions:write',
    summary: 'removes an alias',
  },
  ListAliases: {
    method: 'GET',
    path: '/2015-03-31/functions/{FunctionName}/aliases',
    scope: 'functions:read',
    summary: 'all aliases of a function',
  },
  PublishLayerVersion: {
    method: 'POST',
    path: '/2018-10-31/layers/{LayerName}/versions',
    scope: 'functions:write',
    summary: 'makes the next version of a layer',
    bodyBytesMax: UPLOAD_BYTES_MAX,
  },
  GetLayerVersion: {
    method: 'GET',
    path: '/2018-10-31/layers/{LayerName}/versions/{VersionNumber}',
    scope: 'functions:read',
    summary: 'one version of a layer',
  },
  ListLayers: {
    method: 'GET',
    path: '/2018-10-31/layers',
    scope: 'functions:read',
    summary: 'all layers',
    also: 'GetLayerVersionByArn, with find=LayerVersion',
  },
  ListLayerVersions: {
    method: 'GET',
    path: '/2018-10-31/layers/{LayerName}/versions',
    scope: 'functions:read',
    summary: 'all versions of a layer',
  },
  DeleteLayerVersion: {
    method: 'DELETE',
    path: '/2018-10-31/layers/{LayerName}/versions/{VersionNumber}',
    scope: 'functions:write',
    summary: 'removes a version; functions that have it keep it',
  },
  PutFunctionConcurrency: {
    method: 'PUT',
    path: '/2017-10-31/functions/{FunctionName}/concurrency',
    scope: 'functions:write',
    summary: 'reserves concurrency, which is the most that the function may use too',
  },
  GetFunctionConcurrency: {
    method: 'GET',
    path: '/2019-09-30/functions/{FunctionName}/concurrency',
    scope: 'functions:read',
    summary: 'the reserved concurrency',
  },
  DeleteFunctionConcurrency: {
    method: 'DELETE',
    path: '/2017-10-31/functions/{FunctionName}/concurrency',
    scope: 'functions:write',
    summary: 'takes the reservation away',
  },
  GetAccountSettings: {
    method: 'GET',
    path: '/2016-08-19/account-settings',
    scope: 'functions:read',
    summary: 'limits, and how much of them is used',
  },
  AddPermission: {
    method: 'POST',
    path: '/2015-03-31/functions/{FunctionName}/policy',
    scope: 'functions:write',
    summary: 'adds a statement to the policy, which is kept and shown; who may call is decided by the keys of the gateway',
  },
  RemovePermission: {
    method: 'DELETE',
    path: '/2015-03-31/functions/{FunctionName}/policy/{StatementId}',
    scope: 'functions:write',
    summary: 'removes a statement',
  },
  GetPolicy: { method: 'GET', path: '/2015-03-31/functions/{FunctionName}/policy', scope: 'functions:read', summary: 'the policy' },
  PutFunctionEventInvokeConfig: {
    method: 'PUT',
    path: '/2019-09-25/functions/{FunctionName}/event-invoke-config',
    scope: 'functions:write',
    summary: 'sets retries, age and destinations of queued calls; what is left out is the default',
  },
  UpdateFunctionEventInvokeConfig: {
    method: 'POST',
    path: '/2019-09-25/functions/{FunctionName}/event-invoke-config',
    scope: 'functions:write',
    summary: 'sets retries, age and destinations of queued calls; what is left out stays',
  },
  GetFunctionEventInvokeConfig: {
    method: 'GET',
    path: '/2019-09-25/functions/{FunctionName}/event-invoke-config',
    scope: 'functions:read',
    summary: 'retries, age and destinations of queued calls',
  },
  DeleteFunctionEventInvokeConfig: {
    method: 'DELETE',
    path: '/2019-09-25/functions/{FunctionName}/event-invoke-config',
    scope: 'functions:write',
    summary: 'back to the defaults for queued calls',
  },
  ListFunctionEventInvokeConfigs: {
    method: 'GET',
    path: '/2019-09-25/functions/{FunctionName}/event-invoke-config/list',
    scope: 'functions:read',
    summary: 'the rules for queued calls of all versions and aliases',
  },
  TagResource: { method: 'POST', path: '/2017-03-31/tags/{Resource}', scope: 'functions:write', summary: 'adds tags to a function' },
  UntagResource: { method: 'DELETE', path: '/2017-03-31/tags/{Resource}', scope: 'functions:write', summary: 'takes tags from a function' },
  ListTags: { method: 'GET', path: '/2017-03-31/tags/{Resource}', scope: 'functions:read', summary: 'the tags of a function' },
  PutProvisionedConcurrencyConfig: {
    method: 'PUT',
    path: '/2019-09-30/functions/{FunctionName}/provisioned-concurrency',
    scope: 'functions:write',
    summary: 'keeps instances of a version or alias warm',
  },
  GetProvisionedConcurrencyConfig: {
    method: 'GET',
    path: '/2019-09-30/functions/{FunctionName}/provisioned-concurrency',
    scope: 'functions:read',
    summary: 'how many instances are kept warm',
    also: 'ListProvisionedConcurrencyConfigs, with List=ALL',
  },
  DeleteProvisionedConcurrencyConfig: {
    method: 'DELETE',
    path: '/2019-09-30/functions/{FunctionName}/provisioned-concurrency',
    scope: 'functions:write',
    summary: 'keeps no instances warm any more',
  },
  GetFunctionCodeSigningConfig: {
    method: 'GET',
    path: '/2020-06-30/functions/{FunctionName}/code-signing-config',
    scope: 'functions:read',
    summary: 'says that code is not signed here',
  },
  GetRuntimeManagementConfig: {
    method: 'GET',
    path: '/2021-07-20/functions/{FunctionName}/runtime-management-config',
    scope: 'functions:read',
    summary: 'says that runtimes are those of this machine',
  },
  GetFunctionRecursionConfig: {
    method: 'GET',
    path: '/2024-08-31/functions/{FunctionName}/recursion-config',
    scope: 'functions:read',
    summary: 'says that chains of destinations end',
  },
  ListEventSourceMappings: {
    method: 'GET',
    path: '/2015-03-31/event-source-mappings',
    scope: 'functions:read',
    summary: 'says that there are none',
  },
  Invoke: {
    method: 'POST',
    path: '/2015-03-31/functions/{FunctionName}/invocations',
    scope: 'invoke',
    summary: 'calls a function: for its answer, queued, or dry',
    bodyBytesMax: EVENT_BYTES_MAX,
  },
  InvokeAsync: {
    method: 'POST',
    path: '/2014-11-13/functions/{FunctionName}/invoke-async',
    scope: 'invoke',
    summary: 'queues a call, as before Invoke could',
    bodyBytesMax: EVENT_BYTES_MAX,
  },
  InvokeWithResponseStream: {
    method: 'POST',
    path: '/2021-11-15/functions/{FunctionName}/response-streaming-invocations',
    scope: 'invoke',
    summary: 'calls a function and passes its answer on as it is written',
    bodyBytesMax: EVENT_BYTES_MAX,
  },
  GetFunctionCode: {
    method: 'GET',
    path: '/2015-03-31/functions/{FunctionName}/code',
    scope: 'public',
    summary: 'the package, for whoever has the link',
  },
  GetLayerContent: {
    method: 'GET',
    path: '/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/content',
    scope: 'public',
    summary: 'the package, for whoever has the link',
  },
} as const satisfies Readonly<Record<string, OperationSpec>>;

export type OperationName = keyof typeof OPERATIONS;
