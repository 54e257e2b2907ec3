/** Metadata on the wire: one header for each name of ours, one header for all others; or an object in JSON. */

import type { RunnerError } from '../errors.ts';
import { CALL_KEY, Metadata } from './call.ts';
import { isRecord } from './scalar.ts';
import type { Headers, HeaderValue } from './wire-error.ts';

export const JOB_ID_HEADER = 'x-blueprint-job-id';
/** Base64 of a JSON object: metadata that cannot be headers of their own. */
const OTHERS_HEADER = 'x-blueprint-metadata';
/** The names, separated by commas, whose values must not be logged. */
const SENSITIVE_HEADER = 'x-blueprint-sensitive';
const NOT_METADATA: ReadonlySet<string> = new Set([
  JOB_ID_HEADER,
  OTHERS_HEADER,
  SENSITIVE_HEADER,
  'x-blueprint-config',
  'x-blueprint-wire',
]);

const HEADER_NAME = /^(?:x-(?:tangle|blueprint)-[a-z0-9-]+|trace(?:parent|state))$/;
const HEADER_TEXT = /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/;

/** A new record of headers; the id of the call goes under the name of the call key. */
export function metadataHeaders(metadata: Metadata, type: string, callId?: string): Record<string, string> {
  const headers: Record<string, string> = { 'content-type': type };
  let others: Record<string, string> | undefined;
  let sensitive: string[] | undefined;
  const put = (name: string, value: string): void => {
    if (HEADER_NAME.test(name) && HEADER_TEXT.test(value) && !NOT_METADATA.has(name)) headers[name] = value;
    else (others ??= Object.create(null) as Record<string, string>)[name] = value;
    if (metadata.isSensitive(name)) (sensitive ??= []).push(name);
  };
  for (const [name, value] of metadata) put(name, value);
  if (callId !== undefined) put(CALL_KEY, callId);
  if (others) headers[OTHERS_HEADER] = Buffer.from(JSON.stringify(others)).toString('base64');
  if (sensitive) headers[SENSITIVE_HEADER] = Buffer.from(JSON.stringify(sensitive)).toString('base64');
  return headers;
}

/** Headers that are not metadata of ours, or not readable as such, are left out. */
export function metadataFromHeaders(headers: Headers): Metadata {
  const metadata = new Metadata();
  for (const name in headers) {
    const value = headers[name];
    if (value === undefined || !HEADER_NAME.test(name) || NOT_METADATA.has(name)) continue;
    metadata.set(name, typeof value === 'string' ? value : value.join(', '));
  }
  const others = decoded(headers[OTHERS_HEADER]);
  if (isRecord(others)) {
    for (const [name, value] of Object.entries(others)) if (typeof value === 'string') metadata.set(name, value);
  }
  markSensitive(metadata, decoded(headers[SENSITIVE_HEADER]));
  return metadata;
}

/** The members `"metadata":{...}` and, when there are any, `"sensitive":[...]` of a JSON object. */
export function metadataJson(metadata: Metadata, callId?: string): string {
  const values = Object.create(null) as Record<string, string>;
  const sensitive: string[] = [];
  for (const [name, value] of metadata) {
    values[name] = value;
    if (metadata.isSensitive(name)) sensitive.push(name);
  }
  if (callId !== undefined) values[CALL_KEY] = callId;
  return `"metadata":${JSON.stringify(values)}${sensitive.length > 0 ? `,"sensitive":${JSON.stringify(sensitive)}` : ''}`;
}

export function metadataFromJson(fields: Readonly<Record<string, unknown>>, fail: (reason: string) => RunnerError): Metadata {
  const metadata = new Metadata();
  const { metadata: values = {}, sensitive } = fields;
  if (!isRecord(values)) throw fail('metadata is not an object');
  for (const [name, value] of Object.entries(values)) {
    if (typeof value !== 'string') throw fail('a value of the metadata is not text');
    metadata.set(name, value);
  }
  markSensitive(metadata, sensitive);
  return metadata;
}

function markSensitive(metadata: Metadata, names: unknown): void {
  if (!Array.isArray(names)) return;
  for (const name of names as readonly unknown[]) {
    if (typeof name !== 'string') continue;
    const value = metadata.get(name);
    if (value !== undefined) metadata.set(name, value, { sensitive: true });
  }
}

function decoded(value: HeaderValue): unknown {
  if (typeof value !== 'string') return undefined;
  try {
    return JSON.parse(Buffer.from(value, 'base64').toString('utf8'));
  } catch {
    return undefined;
  }
}
