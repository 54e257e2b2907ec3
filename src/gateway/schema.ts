/** Descriptions of values: each parses what came from outside, is a TypeScript type, and shows itself as JSON Schema. */

import { RunnerError } from '../errors.ts';

/** A JSON Schema of the 2020-12 draft, as OpenAPI 3.1 takes it. */
export interface JsonSchema {
  readonly [keyword: string]: unknown;
}

export interface Schema<T> {
  readonly json: JsonSchema;
  /** May be left out of an object. */
  readonly isOptional?: true;
  /** Throws `REQUEST_INVALID`, naming the place. */
  parse(value: unknown, place: string): T;
}

/** The type that a schema describes. */
export type Infer<S> = S extends Schema<infer T> ? T : never;

type Fields = Readonly<Record<string, Schema<unknown>>>;
type OptionalNames<F extends Fields> = { [Name in keyof F]: F[Name] extends { readonly isOptional: true } ? Name : never }[keyof F];
type ObjectOf<F extends Fields> = { readonly [Name in Exclude<keyof F, OptionalNames<F>>]: Infer<F[Name]> } & {
  readonly [Name in OptionalNames<F>]?: Infer<F[Name]>;
};

export function invalid(place: string, what: string): RunnerError {
  return new RunnerError('REQUEST_INVALID', `${place} ${what}`, { details: { place } });
}

interface TextOptions {
  readonly about: string;
  readonly pattern?: RegExp;
  readonly charsMax?: number;
}

export function text({ about, pattern, charsMax = 4_096 }: TextOptions): Schema<string> {
  return {
    json: { type: 'string', description: about, maxLength: charsMax, ...(pattern && { pattern: pattern.source }) },
    parse(value, place) {
      if (typeof value !== 'string') throw invalid(place, `is not text; it is ${about}`);
      if (value.length > charsMax) throw invalid(place, `has ${value.length} characters; the most is ${charsMax}`);
      if (pattern && !pattern.test(value)) throw invalid(place, `is not of the form ${pattern.source}; it is ${about}`);
      return value;
    },
  };
}

interface WholeOptions {
  readonly about: string;
  readonly min: number;
  readonly max: number;
}

export function whole({ about, min, max }: WholeOptions): Schema<number> {
  return {
    json: { type: 'integer', description: about, minimum: min, maximum: max },
    parse(value, place) {
      if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min || value > max)
        throw invalid(place, `is not a whole number from ${min} to ${max}; it is ${about}`);
      return value;
    },
  };
}

export function number(about: string): Schema<number> {
  return {
    json: { type: 'number', description: about },
    parse(value, place) {
      if (typeof value !== 'number' || !Number.isFinite(value)) throw invalid(place, `is not a number; it is ${about}`);
      return value;
    },
  };
}

export function flag(about: string): Schema<boolean> {
  return {
    json: { type: 'boolean', description: about },
    parse(value, place) {
      if (typeof value !== 'boolean') throw invalid(place, `is not true or false; it is ${about}`);
      return value;
    },
  };
}

export function choice<const T extends string>(about: string, values: readonly T[]): Schema<T> {
  return {
    json: { type: 'string', description: about, enum: values },
    parse(value, place) {
      const found = values.find((one) => one === value);
      if (found === undefined) throw invalid(place, `is not one of ${values.join(', ')}`);
      return found;
    },
  };
}

export function list<T>(
  item: Schema<T>,
  { about, itemsMax = 1_000 }: { readonly about: string; readonly itemsMax?: number },
): Schema<readonly T[]> {
  return {
    json: { type: 'array', description: about, items: item.json, maxItems: itemsMax },
    parse(value, place) {
      if (!Array.isArray(value)) throw invalid(place, `is not a list; it is ${about}`);
      if (value.length > itemsMax) throw invalid(place, `has ${value.length} items; the most is ${itemsMax}`);
      return value.map((one, index) => item.parse(one, `${place}[${index}]`));
    },
  };
}

const NAMES_MAX = 1_000;

export function record<T>(item: Schema<T>, about: string): Schema<Readonly<Record<string, T>>> {
  return {
    json: { type: 'object', description: about, additionalProperties: item.json, maxProperties: NAMES_MAX },
    parse(value, place) {
      const entries = Object.entries(objectOf(value, place, about));
      if (entries.length > NAMES_MAX) throw invalid(place, `has ${entries.length} names; the most is ${NAMES_MAX}`);
      return Object.fromEntries(entries.map(([name, one]) => [name, item.parse(one, `${place}.${name}`)]));
    },
  };
}

/** An object of exactly these fields: a name that nobody knows is a mistake of the sender. */
export function object<F extends Fields>(about: string, fields: F): Schema<ObjectOf<F>> & { readonly fields: F } {
  const names = Object.keys(fields);
  const required = names.filter((name) => !fields[name]?.isOptional);
  return {
    fields,
    json: {
      type: 'object',
      description: about,
      properties: Object.fromEntries(names.map((name) => [name, fields[name]?.json])),
      ...(required.length > 0 && { required }),
      additionalProperties: false,
    },
    parse(value, place) {
      const given = objectOf(value, place, about);
      for (const name of Object.keys(given)) {
        if (!Object.hasOwn(fields, name))
          throw invalid(place, `has a field ${JSON.stringify(name.slice(0, 64))}; it may have ${names.join(', ')}`);
      }
      const parsed: Record<string, unknown> = {};
      for (const [name, field] of Object.entries(fields)) {
        const one = Object.hasOwn(given, name) ? given[name] : undefined;
        if (one !== undefined) parsed[name] = field.parse(one, `${place}.${name}`);
        else if (!field.isOptional) throw invalid(place, `lacks ${name}`);
      }
      // Built field by field from the schemas above.
      return parsed as ObjectOf<F>;
    },
  };
}

export function optional<T>(schema: Schema<T>): Schema<T> & { readonly isOptional: true } {
  return { ...schema, isOptional: true };
}

/** Whatever JSON can carry. */
export function anything(about: string): Schema<unknown> {
  return { json: { description: about }, parse: (value) => value };
}

/** Bytes as base64. Strict: what Node would silently skip is refused. */
export function base64(about: string): Schema<Uint8Array> {
  return {
    json: { type: 'string', description: about, contentEncoding: 'base64' },
    parse(value, place) {
      if (typeof value !== 'string' || value.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(value))
        throw invalid(place, `is not base64; it is ${about}`);
      return Buffer.from(value, 'base64');
    },
  };
}

/** A whole number in a query or a path. */
export function decimal(options: WholeOptions): Schema<number> {
  const inner = whole(options);
  return {
    json: inner.json,
    parse: (value, place) => inner.parse(typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : undefined, place),
  };
}

/** What is nested deeper can be read, but not be written again. */
const DEPTH_MAX = 500;

export function parseJson(bytes: Uint8Array, place: string): unknown {
  const source = new TextDecoder('utf-8', { fatal: true });
  let value: unknown;
  try {
    value = JSON.parse(source.decode(bytes));
  } catch (cause) {
    throw new RunnerError('REQUEST_INVALID', `${place} is not JSON: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  if (isDeeper(value, DEPTH_MAX)) throw invalid(place, `is nested deeper than ${DEPTH_MAX} levels`);
  return value;
}

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => isDeeper(inner, levels - 1));
}

function objectOf(value: unknown, place: string, about: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(place, `is not an object; it is ${about}`);
  // A JSON object has text keys and unknown values.
  return value as Record<string, unknown>;
}
