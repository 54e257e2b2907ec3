/** Solidity types: their text, their tree, their TypeScript counterparts, and the scalar values both codecs are made of. */

import type { AbiParameterToPrimitiveType, ParseAbiParameters } from 'viem';

import { RunnerError } from '../errors.ts';

type Primitives<P extends readonly unknown[]> = { readonly [I in keyof P]: Primitive<P[I]> };

/** Arrays of arrays of tuples come as `never` from viem, which is no value at all. */
type Primitive<P> = [P] extends [never] ? unknown : P extends { readonly type: string } ? AbiParameterToPrimitiveType<P> : never;

/**
 * The TypeScript values of a Solidity parameter list: integers up to 48 bits are `number`, wider ones `bigint`; `address`, `bytes`
 * and `bytesN` are 0x strings; a tuple whose components are all named is an object, any other an array. What nests deeper than viem's types
 * can follow, as arrays of arrays of tuples, is `unknown`.
 *
 * @example
 * type Args = JobArgs<'uint64 x, string name'>; // readonly [bigint, string]
 */
export type JobArgs<P extends string> = P extends '' ? readonly [] : Primitives<Extract<ParseAbiParameters<P>, readonly unknown[]>>;

/** What a job with this result list returns: nothing for '', the value itself for one type, an array for several. */
export type JobValue<R extends string> = R extends '' ? void : JobArgs<R> extends readonly [infer Only] ? Only : JobArgs<R>;

export interface Parameter {
  /** Empty when the list does not name it. */
  readonly name: string;
  readonly type: SolidityType;
}

export interface IntegerType {
  readonly kind: 'uint' | 'int';
  readonly bits: number;
  readonly min: bigint;
  readonly max: bigint;
  readonly dynamic: false;
  readonly headBytes: 32;
}

/** `dynamic` and `headBytes` tell how the type lies in an ABI encoding. `void` and `optional` exist only in schemas on chain. */
export type SolidityType =
  | IntegerType
  | { readonly kind: 'bool' | 'address'; readonly dynamic: false; readonly headBytes: 32 }
  | { readonly kind: 'fixedBytes'; readonly size: number; readonly dynamic: false; readonly headBytes: 32 }
  | { readonly kind: 'string' | 'bytes'; readonly dynamic: true; readonly headBytes: 32 }
  | { readonly kind: 'list'; readonly item: SolidityType; readonly dynamic: true; readonly headBytes: 32 }
  | { readonly kind: 'array'; readonly item: SolidityType; readonly length: number; readonly dynamic: boolean; readonly headBytes: number }
  | {
      readonly kind: 'tuple';
      readonly fields: readonly Parameter[];
      readonly named: boolean;
      readonly dynamic: boolean;
      readonly headBytes: number;
    }
  | { readonly kind: 'optional'; readonly item: SolidityType; readonly dynamic: true; readonly headBytes: 32 }
  | { readonly kind: 'void'; readonly dynamic: false; readonly headBytes: 0 };

export const DEPTH_MAX = 32;
const ARRAY_LENGTH_MAX = 65_535;

/** @throws `JOB_TYPE_INVALID` */
export function integerType(kind: 'uint' | 'int', bits: number): IntegerType {
  const width = BigInt(bits);
  const max = kind === 'uint' ? (1n << width) - 1n : (1n << (width - 1n)) - 1n;
  return { kind, bits, min: kind === 'uint' ? 0n : -max - 1n, max, dynamic: false, headBytes: 32 };
}

export function arrayType(item: SolidityType, length: number): SolidityType {
  return { kind: 'array', item, length, dynamic: item.dynamic, headBytes: item.dynamic ? 32 : item.headBytes * length };
}

export function listType(item: SolidityType): SolidityType {
  return { kind: 'list', item, dynamic: true, headBytes: 32 };
}

export function tupleType(fields: readonly Parameter[]): SolidityType {
  const dynamic = fields.some((field) => field.type.dynamic);
  const named = fields.length > 0 && fields.every((field) => field.name !== '');
  return { kind: 'tuple', fields, named, dynamic, headBytes: dynamic ? 32 : headBytesOf(fields) };
}

/** Bytes of the head of a parameter list in an ABI encoding. */
export function headBytesOf(parameters: readonly Parameter[]): number {
  let total = 0;
  for (const parameter of parameters) total += parameter.type.headBytes;
  return total;
}

/** The canonical text of a type, as in a function signature. */
export function typeText(type: SolidityType): string {
  switch (type.kind) {
    case 'uint':
    case 'int':
      return `${type.kind}${type.bits}`;
    case 'fixedBytes':
      return `bytes${type.size}`;
    case 'list':
      return `${typeText(type.item)}[]`;
    case 'array':
      return `${typeText(type.item)}[${type.length}]`;
    case 'tuple':
      return `(${type.fields.map((field) => typeText(field.type)).join(',')})`;
    case 'optional':
      return `optional(${typeText(type.item)})`;
    case 'bool':
    case 'address':
    case 'string':
    case 'bytes':
    case 'void':
      return type.kind;
  }
}

/**
 * The tree of a parameter list such as `uint64 x, (address to, uint256 amount)[] payments`. Names are optional; the empty text is no
 * parameters. `uint` and `int` mean 256 bits. Data locations and zero-length arrays are refused, nesting ends at 32.
 *
 * @throws `JOB_TYPE_INVALID`
 */
export function parseParameters(text: string): readonly Parameter[] {
  let at = 0;

  const fail = (reason: string): never => {
    throw new RunnerError('JOB_TYPE_INVALID', `${JSON.stringify(text)} is not a list of Solidity parameters: ${reason}`, {
      details: { types: text, position: at },
    });
  };

  /** The text at the cursor that matches, without the blanks before it; empty when it does not match. */
  const take = (pattern: RegExp): string => {
    while (at < text.length && text.charAt(at).trim() === '') at += 1;
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0] ?? '';
    at += found.length;
    return found;
  };

  const list = (depth: number): readonly Parameter[] => {
    const parameters: Parameter[] = [];
    const names = new Set<string>();
    do {
      const type = typeAt(depth);
      const name = take(/[A-Za-z_$][\w$]*/y);
      if (name !== '' && (names.has(name) || name === '__proto__')) fail(`the name ${name} cannot be used here`);
      names.add(name);
      parameters.push({ name, type });
    } while (take(/,/y) !== '');
    return parameters;
  };

  const tuple = (depth: number): SolidityType => {
    const fields = list(depth);
    if (take(/\)/y) === '') fail('a tuple is not closed');
    return tupleType(fields);
  };

  const elementary = (): SolidityType => {
    const word = take(/[A-Za-z]\w*/y);
    return elementaryType(word) ?? fail(word === '' ? 'a type is missing' : `${word} is not a Solidity type`);
  };

  const typeAt = (depth: number): SolidityType => {
    let level = depth;
    const deeper = (): void => {
      if (level >= DEPTH_MAX) fail(`types nest deeper than ${DEPTH_MAX}`);
      level += 1;
    };
    deeper();
    let type = take(/\(/y) === '' ? elementary() : tuple(level);
    while (take(/\[/y) !== '') {
      deeper();
      const digits = take(/\d+/y);
      if (take(/\]/y) === '') fail('an array bracket is not closed');
      if (digits === '') type = listType(type);
      else if (Number(digits) >= 1 && Number(digits) <= ARRAY_LENGTH_MAX) type = arrayType(type, Number(digits));
      else fail(`an array has ${digits} items; 1 to ${ARRAY_LENGTH_MAX} are possible`);
    }
    return type;
  };

  if (text.trim() === '') return [];
  const parameters = list(0);
  if (take(/[^]/y) !== '') fail(`${JSON.stringify(text.at(at - 1))} is unexpected`);
  return parameters;
}

function elementaryType(word: string): SolidityType | undefined {
  const [, base = '', digits = ''] = /^([a-z]+)(\d*)$/.exec(word) ?? [];
  const size = Number(digits);
  const sized = digits !== '' && !digits.startsWith('0');
  if ((base === 'uint' || base === 'int') && (digits === '' || (sized && size <= 256 && size % 8 === 0)))
    return integerType(base, size || 256);
  if (base === 'bytes' && sized && size <= 32) return { kind: 'fixedBytes', size, dynamic: false, headBytes: 32 };
  if (word === 'string' || word === 'bytes') return { kind: word, dynamic: true, headBytes: 32 };
  if (word === 'bool' || word === 'address') return { kind: word, dynamic: false, headBytes: 32 };
  return undefined;
}
