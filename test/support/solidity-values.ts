/** Random Solidity types with values of them, for property tests. */

import fc from 'fast-check';

type Shape =
  | { readonly kind: 'leaf'; readonly type: string }
  | { readonly kind: 'list' | 'array'; readonly item: Shape; readonly length: number }
  | { readonly kind: 'tuple'; readonly fields: readonly Shape[]; readonly isNamed: boolean };

const hexOf = (size: number): fc.Arbitrary<string> =>
  fc.uint8Array({ minLength: size, maxLength: size }).map((bytes) => `0x${Buffer.from(bytes).toString('hex')}`);

function leafValue(type: string): fc.Arbitrary<unknown> {
  const [, kind = '', digits = ''] = /^([a-z]+)(\d*)$/.exec(type) ?? [];
  const bits = Number(digits);
  if (kind === 'uint')
    return bits <= 48 ? fc.integer({ min: 0, max: 2 ** bits - 1 }) : fc.bigInt({ min: 0n, max: 2n ** BigInt(bits) - 1n });
  if (kind === 'int') {
    return bits <= 48
      ? fc.integer({ min: -(2 ** (bits - 1)), max: 2 ** (bits - 1) - 1 })
      : fc.bigInt({ min: -(2n ** BigInt(bits - 1)), max: 2n ** BigInt(bits - 1) - 1n });
  }
  if (type === 'bool') return fc.boolean();
  if (type === 'address') return hexOf(20);
  if (type === 'string') return fc.string({ unit: 'binary', maxLength: 80 });
  if (type === 'bytes') return fc.uint8Array({ maxLength: 100 }).map((bytes) => `0x${Buffer.from(bytes).toString('hex')}`);
  return hexOf(bits);
}

function shapeText(shape: Shape): string {
  if (shape.kind === 'leaf') return shape.type;
  if (shape.kind === 'tuple')
    return `(${shape.fields.map((field, index) => `${shapeText(field)}${shape.isNamed ? ` f${index}` : ''}`).join(', ')})`;
  return `${shapeText(shape.item)}[${shape.kind === 'array' ? shape.length : ''}]`;
}

function shapeValue(shape: Shape): fc.Arbitrary<unknown> {
  if (shape.kind === 'leaf') return leafValue(shape.type);
  if (shape.kind !== 'tuple') {
    const [minLength, maxLength] = shape.kind === 'array' ? [shape.length, shape.length] : [0, 3];
    return fc.array(shapeValue(shape.item), { minLength, maxLength });
  }
  const fields = fc.tuple(...shape.fields.map(shapeValue));
  return shape.isNamed ? fields.map((values) => Object.fromEntries(values.map((value, index) => [`f${index}`, value]))) : fields;
}

/** A parameter list as text and values for it. `integerBits`: the widths of integers to use. */
export function typedValues(integerBits: readonly number[]): fc.Arbitrary<{ readonly types: string; readonly values: readonly unknown[] }> {
  const integers = integerBits.flatMap((bits) => [`uint${bits}`, `int${bits}`]);
  const leaf = fc
    .constantFrom('bool', 'address', 'string', 'bytes', 'bytes1', 'bytes20', 'bytes32', ...integers)
    .map((type): Shape => ({ kind: 'leaf', type }));
  const { shape } = fc.letrec<{ shape: Shape }>((tie) => ({
    shape: fc.oneof(
      { maxDepth: 3, withCrossShrink: true },
      { weight: 4, arbitrary: leaf },
      {
        weight: 1,
        arbitrary: fc.record({
          kind: fc.constantFrom('list' as const, 'array' as const),
          item: tie('shape'),
          length: fc.integer({ min: 1, max: 3 }),
        }),
      },
      {
        weight: 1,
        arbitrary: fc.record({
          kind: fc.constant('tuple' as const),
          fields: fc.array(tie('shape'), { minLength: 1, maxLength: 3 }),
          isNamed: fc.boolean(),
        }),
      },
    ),
  }));
  return fc
    .array(shape, { maxLength: 4 })
    .chain((shapes) =>
      fc
        .tuple(...shapes.map(shapeValue))
        .map((values) => ({ types: shapes.map((each, index) => `${shapeText(each)} p${index}`).join(', '), values })),
    );
}
