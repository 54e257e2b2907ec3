/** The body of a request, member by member. Members that nobody asks for are ignored, as the service does. */

import { RunnerError } from '../../errors.ts';
import type { JsonObject } from '../../runtime/store-records.ts';
import { parseJson } from '../schema.ts';

const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

/** `null` and what is left out are the same. */
export class Fields {
  readonly #values: Readonly<Record<string, unknown>>;

  /** Of a JSON body; an empty one has no members. Throws `REQUEST_INVALID`. */
  static parse(body: Uint8Array): Fields {
    if (body.length === 0) return new Fields({});
    try {
      return new Fields(parseJson(body, 'the body'));
    } catch (cause) {
      throw new RunnerError('REQUEST_INVALID', 'Could not parse request body into json', {
        cause,
        details: { awsType: 'InvalidRequestContentException' },
      });
    }
  }

  private constructor(value: unknown) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrongType('the body', 'a structure');
    // An object out of JSON.
    this.#values = value as Record<string, unknown>;
  }

  has(name: string): boolean {
    return this.#get(name) !== undefined;
  }

  text(name: string): string | undefined {
    const value = this.#get(name);
    if (value === undefined || typeof value === 'string') return value;
    throw wrongType(name, 'a string');
  }

  /** Throws `REQUEST_INVALID` when it is not there. */
  required(name: string): string {
    const value = this.text(name);
    if (value !== undefined) return value;
    throw missing(name);
  }

  whole(name: string): number | undefined {
    const value = this.#get(name);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && Number.isSafeInteger(value)) return value;
    throw wrongType(name, 'an integer');
  }

  flag(name: string): boolean {
    const value = this.#get(name);
    if (value === undefined || typeof value === 'boolean') return value ?? false;
    throw wrongType(name, 'a boolean');
  }

  inner(name: string): Fields | undefined {
    const value = this.#get(name);
    if (value === undefined) return undefined;
    if (typeof value !== 'object' || Array.isArray(value)) throw wrongType(name, 'a structure');
    return new Fields(value);
  }

  /** As it came. */
  object(name: string): JsonObject | undefined {
    const inner = this.inner(name);
    // Out of JSON.
    return inner && (inner.#values as JsonObject);
  }

  texts(name: string): string[] | undefined {
    const value = this.#get(name);
    if (value === undefined) return undefined;
    if (!Array.isArray(value)) throw wrongType(name, 'a list');
    return value.map((item: unknown) => {
      if (typeof item !== 'string') throw wrongType(name, 'a list of strings');
      return item;
    });
  }

  textMap(name: string): Record<string, string> | undefined {
    return this.#map(name, (value): value is string => typeof value === 'string');
  }

  numberMap(name: string): Record<string, number> | undefined {
    return this.#map(name, (value): value is number => typeof value === 'number');
  }

  bytes(name: string): Uint8Array | undefined {
    const value = this.text(name);
    if (value === undefined) return undefined;
    if (!BASE64.test(value)) throw wrongType(name, 'base64');
    return Buffer.from(value, 'base64');
  }

  #map<T>(name: string, isItem: (value: unknown) => value is T): Record<string, T> | undefined {
    const inner = this.inner(name);
    if (!inner) return undefined;
    return Object.fromEntries(
      Object.entries(inner.#values).map(([key, value]) => {
        if (!isItem(value)) throw wrongType(`${name}.${key}`, 'of the type of the others');
        return [key, value];
      }),
    );
  }

  #get(name: string): unknown {
    return Object.hasOwn(this.#values, name) ? (this.#values[name] ?? undefined) : undefined;
  }
}

function wrongType(name: string, type: string): RunnerError {
  return new RunnerError('REQUEST_INVALID', `${name} is not ${type}`, { details: { awsType: 'SerializationException' } });
}

export function missing(name: string): RunnerError {
  const field = name.charAt(0).toLowerCase() + name.slice(1);
  const message = `1 validation error detected: Value null at '${field}' failed to satisfy constraint: Member must not be null`;
  return new RunnerError('REQUEST_INVALID', message, { details: { awsType: 'ValidationException' } });
}
