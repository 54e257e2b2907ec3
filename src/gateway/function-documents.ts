/** A function as the API tells it, and what the API says of one as the store takes it. */

import type { CodeInput, FunctionRecord, FunctionSettings } from '../runtime/store-records.ts';
import type { CreateFunction, FunctionDocument, UpdateFunction } from './api.ts';
import { isIdempotent } from './functions.ts';
import type { Functions } from './functions.ts';
import { allows, badRequest } from './http.ts';
import type { GatewayRequest } from './http.ts';

/** Exactly one of zip and image. Throws `REQUEST_INVALID`. */
export function codeOf({ zip, image }: Pick<CreateFunction, 'zip' | 'image'>): CodeInput {
  if (zip && !image) return { kind: 'zip', bytes: zip };
  if (!image || zip) throw badRequest('the body has neither zip nor image, or both');
  const { uri, command, entry_point: entryPoint } = image;
  return { kind: 'image', uri, ...(command && { command }), ...(entryPoint && { entryPoint }) };
}

export function settingsOf(input: Omit<UpdateFunction, 'revision_id'>): Partial<FunctionSettings> {
  const settings = {
    runtime: input.runtime,
    handler: input.handler,
    description: input.description,
    memoryMb: input.memory_mb,
    timeoutMs: input.timeout_ms,
    ephemeralMb: input.ephemeral_mb,
    environment: input.environment,
    concurrencyPerInstance: input.concurrency_per_instance,
    network: input.network,
  };
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

/** Settings that are ours, not the runtime's. */
export function extraOf({ backend, idempotent }: Pick<UpdateFunction, 'backend' | 'idempotent'>): FunctionRecord['extra'] {
  return { ...(backend !== undefined && { backend }), ...(idempotent !== undefined && { idempotent }) };
}

export function patchOf(input: Omit<UpdateFunction, 'revision_id'>, { extra }: FunctionRecord): Partial<FunctionSettings> {
  const own = extraOf(input);
  return { ...settingsOf(input), ...(Object.keys(own).length > 0 && { extra: { ...extra, ...own } }) };
}

/** Values of variables are for those who may change the function. */
export function documentOf(functions: Functions, record: FunctionRecord, { caller }: Pick<GatewayRequest, 'caller'>): FunctionDocument {
  const { code } = record;
  return {
    name: record.name,
    version: record.version,
    backend: functions.backendOf(record),
    runtime: record.runtime,
    handler: record.handler,
    description: record.description,
    memory_mb: record.memoryMb,
    timeout_ms: record.timeoutMs,
    ephemeral_mb: record.ephemeralMb,
    ...(allows(caller, 'functions:write', record.name) && { environment: record.environment }),
    environment_names: Object.keys(record.environment),
    concurrency_per_instance: record.concurrencyPerInstance,
    network: record.network,
    idempotent: isIdempotent(record),
    package: code.kind,
    ...(code.kind === 'zip' ? { sha256: code.sha256, zip_bytes: code.zipBytes } : { image_uri: code.uri }),
    fingerprint: record.fingerprint,
    revision_id: record.revisionId,
    modified_at: new Date(record.modifiedAt).toISOString(),
  };
}
