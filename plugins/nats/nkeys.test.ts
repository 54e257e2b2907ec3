import { createPublicKey, generateKeyPairSync, verify } from 'node:crypto';
import { nkeys } from '@nats-io/transport-node';
import { describe, expect, it } from 'vitest';
import { accountOfCreds, publicNkey, readSeed, seedNkey, signClaims } from './nkeys.ts';

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();
const rawOf = (key: ReturnType<typeof createPublicKey>): Buffer => key.export({ format: 'der', type: 'spki' }).subarray(-32);

describe('keys are those of the library of NATS', () => {
  it.each([
    ['account', nkeys.createAccount],
    ['operator', nkeys.createOperator],
    ['user', nkeys.createUser],
  ] as const)('of an %s', (role, create) => {
    for (let count = 0; count < 20; count += 1) {
      const pair = create();
      const read = readSeed(text(pair.getSeed()));
      expect(read).toMatchObject({ role, publicKey: pair.getPublicKey() });
      expect(seedNkey(role, read.privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(-32))).toBe(text(pair.getSeed()));
      expect(publicNkey(role, rawOf(createPublicKey(read.privateKey)))).toBe(pair.getPublicKey());
    }
  });
});

it.each([
  ['nothing', ''],
  ['a word', 'hunter2'],
  ['a public key', nkeys.createAccount().getPublicKey()],
  ['a seed with another letter', text(nkeys.createAccount().getSeed()).replace(/(?<=^.{9})./, (letter) => (letter === 'A' ? 'B' : 'A'))],
  ['a part of a seed', text(nkeys.createAccount().getSeed()).slice(0, 40)],
])('%s is no seed, and is not repeated', (_, seed) => {
  let thrown: unknown;
  try {
    readSeed(seed);
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toMatchObject({ code: 'CONFIG_INVALID' });
  if (seed !== '') expect(String(thrown)).not.toContain(seed);
});

it('signs claims as ed25519-nkey, with an id that their content gives', () => {
  const by = readSeed(text(nkeys.createAccount().getSeed()));
  const jwt = signClaims({ sub: 'U', nats: { type: 'user' } }, by, 1_700_000_000_999);
  const [head = '', body = '', signature = ''] = jwt.split('.');
  const read = (part: string): unknown => JSON.parse(Buffer.from(part, 'base64url').toString());
  expect(read(head)).toEqual({ typ: 'JWT', alg: 'ed25519-nkey' });
  expect(read(body)).toMatchObject({ sub: 'U', iss: by.publicKey, iat: 1_700_000_000, nats: { type: 'user' } });
  expect(verify(null, Buffer.from(`${head}.${body}`), createPublicKey(by.privateKey), Buffer.from(signature, 'base64url'))).toBe(true);
  expect(signClaims({ sub: 'U', nats: { type: 'user' } }, by, 1_700_000_000_000)).toBe(jwt);
  expect(signClaims({ sub: 'V', nats: { type: 'user' } }, by, 1_700_000_000_000)).not.toBe(jwt);
});

it('reads the account of a user in a file of credentials', () => {
  const by = readSeed(
    seedNkey('account', generateKeyPairSync('ed25519').privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(-32)),
  );
  const credsOf = (jwt: string): string => `-----BEGIN NATS USER JWT-----\n${jwt}\n------END NATS USER JWT------\n`;
  expect(accountOfCreds(credsOf(signClaims({ sub: 'U', nats: {} }, by, 0)))).toBe(by.publicKey);
  expect(accountOfCreds(credsOf(signClaims({ sub: 'U', nats: { issuer_account: 'AX' } }, by, 0)))).toBe('AX');
  expect(() => accountOfCreds('hunter2')).toThrow(/no .creds file/);
});
