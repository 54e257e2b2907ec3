import { expect, it } from 'vitest';
import { signerFromKey } from './signer.ts';

const KEY = '59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d';

it.each([KEY, `0x${KEY}`, ` 0X${KEY.toUpperCase()}\n`])('%j is a key', (key) => {
  expect(signerFromKey(key).address).toBe('0x70997970C51812dc3A010C7d01b50e0d17dc79C8');
});

it.each([
  ['', 'it must be 64 hexadecimal digits, with or without 0x'],
  [KEY.slice(1), 'it must be 64 hexadecimal digits, with or without 0x'],
  [`${KEY.slice(1)}x`, 'it must be 64 hexadecimal digits, with or without 0x'],
  ['0'.repeat(64), 'no account has these 64 digits, which are 0 or too large'],
  ['f'.repeat(64), 'no account has these 64 digits, which are 0 or too large'],
])('%j is none, and the message says why', (key, reason) => {
  expect(() => signerFromKey(key)).toThrow(
    expect.objectContaining({ code: 'CONFIG_INVALID', message: `the private key of the operator is not a key: ${reason}` }),
  );
});
