/**
 * The contract's schema bytes: reading, building, and whether a job agrees with the schema on chain.
 * Source of the layout: SchemaLib.sol of the Tangle contracts, measured against them.
 */

import { RunnerError } from '../errors.ts';
import type { Codec } from './call.ts';
import { CompactWriter } from './compact.ts';
import { bufferOver, readText, reasonOf } from './scalar.ts';
import { arrayType, DEPTH_MAX, integerType, listType, parseParameters, tupleType, typeText } from './solidity.ts';
import type { Parameter, SolidityType } from './solidity.ts';

const VERSION = 2;
const STRUCT_FIELDS_MAX = 256;
const SCHEMA_BYTES_MAX = 1 << 20;

const KIND = {
  void: 0,
  bool: 1,
  address: 14,
  bytes32: 15,
  fixedBytes: 16,
  string: 17,
  bytes: 18,
  optional: 19,
  array: 20,
  list: 21,
  tuple: 22,
} as const;

/** Kinds 2 to 13: uint8, int8, uint16, ... int256. */
const INTEGER_BITS = [8, 16, 32, 64, 128, 256];

/**
 * The parameters that schema bytes describe; undefined for empty bytes, which mean that the chain checks nothing.
 *
 * @throws `SCHEMA_INVALID`
 */
export function parseSchema(bytes: Uint8Array): readonly Parameter[] | undefined {
  if (bytes.length === 0) return undefined;
  if (bytes.length > SCHEMA_BYTES_MAX) throw schemaInvalid(`they are ${bytes.length} bytes long; the limit is ${SCHEMA_BYTES_MAX}`, bytes);
  try {
    return new SchemaReader(bufferOver(bytes)).all();
  } catch (cause) {
    throw schemaInvalid(reasonOf(cause), bytes, cause);
  }
}

/**
 * The schema bytes of a parameter list: empty for none. The contract knows only integers of 8, 16, 32, 64, 128 and 256 bits.
 *
 * @throws `SCHEMA_INVALID`
 */
export function schemaOf(parameters: readonly Parameter[]): Uint8Array {
  if (parameters.length === 0) return new Uint8Array();
  const writer = new CompactWriter();
  try {
    if (parameters.length > 0xffff) throw new RangeError(`there are ${parameters.length} parameters; 65535 are possible`);
    writer.integer(VERSION, 1);
    writer.integer(parameters.length, 2);
    for (const parameter of parameters) writeSchemaField(writer, parameter, 0);
    return writer.bytes();
  } catch (cause) {
    const types = parameters.map((parameter) => typeText(parameter.type)).join(', ');
    throw new RunnerError('SCHEMA_INVALID', `(${types}) has no compact schema: ${reasonOf(cause)}`, {
      cause,
    });
  }
}

/**
 * Which codec a job needs for a schema on chain: `abi` when there is none, `compact` when kinds and shape agree. Names are not
 * compared: they do not change a payload. `bytes32` and fixed bytes of length 32 are the same.
 *
 * @throws `JOB_SCHEMA_MISMATCH` when they differ, `SCHEMA_INVALID`, `JOB_TYPE_INVALID`.
 *
 * @example
 * const codec = codecFor({ types: 'uint64 n, string greeting', schema, of: 'params of job 3' });
 */
export function codecFor(comparison: { readonly types: string; readonly schema: Uint8Array; readonly of: string }): Codec {
  const { types, schema, of } = comparison;
  const expected = parseSchema(schema);
  if (expected === undefined) return 'abi';
  const difference = differenceOf(parseParameters(types), expected, '');
  if (difference === undefined) return 'compact';
  const onChain = expected.map((parameter) => typeText(parameter.type)).join(', ');
  throw new RunnerError('JOB_SCHEMA_MISMATCH', `${of}: the job says (${types}), the chain says (${onChain}): ${difference}`, {
    details: { of, types, onChain, difference },
  });
}

function differenceOf(ours: readonly Parameter[], theirs: readonly Parameter[], path: string): string | undefined {
  if (ours.length !== theirs.length) return `${path || 'the list'} has ${ours.length} types here and ${theirs.length} on chain`;
  for (const [index, parameter] of ours.entries()) {
    const difference = typeDifference(parameter.type, (theirs[index] as Parameter).type, `${path}[${index}]`);
    if (difference !== undefined) return difference;
  }
  return undefined;
}

function typeDifference(ours: SolidityType, theirs: SolidityType, path: string): string | undefined {
  if (ours.kind === 'tuple' && theirs.kind === 'tuple') return differenceOf(ours.fields, theirs.fields, path);
  if (ours.kind === 'list' && theirs.kind === 'list') return typeDifference(ours.item, theirs.item, `${path}[]`);
  if (ours.kind === 'array' && theirs.kind === 'array' && ours.length === theirs.length)
    return typeDifference(ours.item, theirs.item, `${path}[]`);
  const [a, b] = [typeText(ours), typeText(theirs)];
  return a === b ? undefined : `${path} is ${a} here and ${b} on chain`;
}

function schemaInvalid(reason: string, bytes: Uint8Array, cause?: unknown): RunnerError {
  return new RunnerError('SCHEMA_INVALID', `bytes are not a compact schema: ${reason}`, { cause, details: { bytes: bytes.length } });
}

class SchemaReader {
  readonly #buffer: Buffer;
  #at = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  all(): readonly Parameter[] {
    const version = this.#integer(1);
    if (version !== VERSION) throw new RangeError(`the version is ${version}, not ${VERSION}`);
    const fields = this.#fields(this.#integer(2), 0);
    if (this.#at !== this.#buffer.length) throw new RangeError(`${this.#buffer.length - this.#at} bytes follow the last field`);
    return fields;
  }

  #fields(count: number, depth: number): Parameter[] {
    const fields: Parameter[] = [];
    for (let index = 0; index < count; index += 1) fields.push(this.#field(depth));
    return fields;
  }

  #field(depth: number): Parameter {
    if (depth >= DEPTH_MAX) throw new RangeError(`fields nest deeper than ${DEPTH_MAX}`);
    const kind = this.#integer(1);
    const arrayLength = this.#integer(2);
    const childCount = this.#integer(2);
    const name = this.#name();
    if (kind === KIND.tuple && childCount > STRUCT_FIELDS_MAX)
      throw new RangeError(`a struct has ${childCount} fields; the limit is ${STRUCT_FIELDS_MAX}`);
    const expected = kind === KIND.tuple ? childCount : kind >= KIND.optional && kind < KIND.tuple ? 1 : 0;
    if (childCount !== expected) throw new RangeError(`a field of kind ${kind} has ${childCount} children, not ${expected}`);
    return { name, type: typeOfKind({ kind, arrayLength, children: this.#fields(childCount, depth + 1) }) };
  }

  #name(): string {
    const first = this.#integer(1);
    if (first < 0x80) return this.#text(first);
    if (first < 0xc0) return this.#text(((first & 0x3f) << 8) | this.#integer(1));
    if (first < 0xe0) return this.#text(((first & 0x1f) << 16) | this.#integer(2));
    if (first < 0xf0) return this.#text(((first & 0x0f) << 24) | this.#integer(3));
    throw new RangeError(`a name length starts with ${first}`);
  }

  #text(length: number): string {
    const start = this.#take(length);
    return readText(this.#buffer, start, this.#at);
  }

  #integer(size: 1 | 2 | 3): number {
    return this.#buffer.readUIntBE(this.#take(size), size);
  }

  #take(size: number): number {
    const start = this.#at;
    if (start + size > this.#buffer.length) throw new RangeError(`they end at byte ${this.#buffer.length} in the middle of a field`);
    this.#at += size;
    return start;
  }
}

function typeOfKind({
  kind,
  arrayLength,
  children,
}: {
  readonly kind: number;
  readonly arrayLength: number;
  readonly children: readonly Parameter[];
}): SolidityType {
  const item = children[0]?.type;
  if (kind >= 2 && kind <= 13) return integerType(kind % 2 === 0 ? 'uint' : 'int', INTEGER_BITS[(kind - 2) >> 1] as number);
  switch (kind) {
    case KIND.void:
      return { kind: 'void', dynamic: false, headBytes: 0 };
    case KIND.bool:
      return { kind: 'bool', dynamic: false, headBytes: 32 };
    case KIND.address:
      return { kind: 'address', dynamic: false, headBytes: 32 };
    case KIND.bytes32:
      return { kind: 'fixedBytes', size: 32, dynamic: false, headBytes: 32 };
    case KIND.fixedBytes:
      if (arrayLength < 1 || arrayLength > 32) throw new RangeError(`fixed bytes have length ${arrayLength}; 1 to 32 are possible`);
      return { kind: 'fixedBytes', size: arrayLength, dynamic: false, headBytes: 32 };
    case KIND.string:
      return { kind: 'string', dynamic: true, headBytes: 32 };
    case KIND.bytes:
      return { kind: 'bytes', dynamic: true, headBytes: 32 };
    case KIND.tuple:
      return tupleType(children);
  }
  if (item && kind === KIND.optional) return { kind: 'optional', item, dynamic: true, headBytes: 32 };
  if (item && kind === KIND.array) return arrayType(item, arrayLength);
  if (item && kind === KIND.list) return listType(item);
  throw new RangeError(`${kind} is not a kind`);
}

function writeSchemaField(writer: CompactWriter, parameter: Parameter, depth: number): void {
  if (depth >= DEPTH_MAX) throw new RangeError(`types nest deeper than ${DEPTH_MAX}`);
  const { type } = parameter;
  const children = childrenOf(type);
  if (type.kind === 'tuple' && children.length > STRUCT_FIELDS_MAX)
    throw new RangeError(`a tuple has ${children.length} components; the limit is ${STRUCT_FIELDS_MAX}`);
  writer.integer(kindOf(type), 1);
  writer.integer(type.kind === 'array' ? type.length : type.kind === 'fixedBytes' && type.size < 32 ? type.size : 0, 2);
  writer.integer(children.length, 2);
  writeName(writer, parameter.name);
  for (const child of children) writeSchemaField(writer, child, depth + 1);
}

/** The length has another form than in payloads. */
function writeName(writer: CompactWriter, name: string): void {
  const length = Buffer.byteLength(name);
  if (length < 0x80) writer.integer(length, 1);
  else if (length < 0x4000) writer.integer(0x8000 | length, 2);
  else if (length < 0x20_0000) writer.integer(0xc0_0000 | length, 3);
  else throw new RangeError(`a name has ${length} bytes`);
  writer.text(name, length);
}

function childrenOf(type: SolidityType): readonly Parameter[] {
  if (type.kind === 'tuple') return type.fields;
  return type.kind === 'list' || type.kind === 'array' || type.kind === 'optional' ? [{ name: '', type: type.item }] : [];
}

function kindOf(type: SolidityType): number {
  if (type.kind === 'fixedBytes') return type.size === 32 ? KIND.bytes32 : KIND.fixedBytes;
  if (type.kind !== 'uint' && type.kind !== 'int') return KIND[type.kind];
  const index = INTEGER_BITS.indexOf(type.bits);
  if (index < 0) throw new RangeError(`${typeText(type)} is none of the contract's types; use the next wider integer`);
  return 2 + 2 * index + (type.kind === 'int' ? 1 : 0);
}
