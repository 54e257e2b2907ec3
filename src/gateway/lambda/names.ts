/** Names as the Lambda API knows them: plain, partial ARN, full ARN, each with or without a qualifier. */

import { RunnerError } from '../../errors.ts';

export interface Place {
  readonly region: string;
  /** Twelve digits. */
  readonly accountId: string;
}

export interface FunctionName {
  readonly name: string;
  readonly qualifier?: string;
}

const FUNCTION =
  /^(?:(?:arn:aws[a-zA-Z-]*:lambda:[a-z0-9-]+:)?\d{12}:function:|function:)?([a-zA-Z0-9-_@.]+)(?::(\$LATEST|[a-zA-Z0-9-_]+))?$/;
const LAYER = /^arn:aws[a-zA-Z-]*:lambda:[a-z0-9-]+:\d{12}:layer:([a-zA-Z0-9-_]+)(?::(\d+))?$/;

type Parts = readonly [all: string, name: string, qualifier: string | undefined];

/** What was asked for last: requests come for few functions, and each asks twice. */
let last: Parts | undefined;

function partsOf(value: string): Parts | undefined {
  if (last?.[0] === value) return last;
  const found = FUNCTION.exec(value) as unknown as Parts | null;
  if (found) last = found;
  return found ?? undefined;
}

/** Throws `REQUEST_INVALID`. A qualifier may be in the name, or beside it, or in both when they agree. */
export function parseFunctionName(value: string, beside?: string | null): FunctionName {
  const [, name, within] = partsOf(value) ?? [];
  if (name === undefined) {
    throw new RunnerError('REQUEST_INVALID', `${JSON.stringify(value.slice(0, 200))} is neither the name nor the ARN of a function`, {
      details: { awsType: 'ValidationException' },
    });
  }
  if (within !== undefined && beside && within !== beside) {
    throw new RunnerError('REQUEST_INVALID', `the name says ${within} and the qualifier says ${beside}`, {
      details: { awsType: 'InvalidParameterValueException' },
    });
  }
  const qualifier = within ?? (beside || undefined);
  return { name, ...(qualifier !== undefined && { qualifier }) };
}

/** What credentials are checked against: the bare name. Text that is no name stays what it is. */
export function bareName(value: string): string {
  return partsOf(value)?.[1] ?? value;
}

/** A layer by name or ARN. */
export function parseLayerName(value: string): { readonly name: string; readonly version?: number } {
  const [, name, version] = LAYER.exec(value) ?? [];
  if (name === undefined) return { name: value };
  return { name, ...(version !== undefined && { version: Number(version) }) };
}

export function functionArn({ region, accountId }: Place, name: string, qualifier?: string): string {
  const arn = `arn:aws:lambda:${region}:${accountId}:function:${name}`;
  return qualifier === undefined ? arn : `${arn}:${qualifier}`;
}

export function layerArn({ region, accountId }: Place, name: string): string {
  return `arn:aws:lambda:${region}:${accountId}:layer:${name}`;
}
