/** The compact codec and the contract agree on what is a payload of a schema. */

import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { isRunnerError } from '../../src/errors.ts';
import type { Hex } from '../../src/job/call.ts';
import { decodeCompact, encodeCompact } from '../../src/job/compact.ts';
import { parseSchema, schemaOf } from '../../src/job/schema.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import type { LocalChain, LocalTangle } from '../../src/testing/testing.ts';
import { deployTangle, startLocalChain } from '../../src/testing/testing.ts';
import { typedValues } from '../support/solidity-values.ts';

const SEED = 20_261_121;
const JOBS = 60;
const JOBS_PER_SERVICE = 10;
const CALL_GAS = '0x1c9c380';
const SCHEMA_VALIDATION_FAILED = '0x9038fe73';
/** What the contract does not look at. */
const STRICTER = /a bool is|is not UTF-8/;

let chain: LocalChain;
let tangle: LocalTangle;

beforeAll(async () => {
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
});
afterAll(() => chain.stop());

const hex = (bytes: Uint8Array): Hex => `0x${Buffer.from(bytes).toString('hex')}`;
const samples = fc.sample(
  typedValues([8, 16, 32, 64, 128, 256]).filter(({ types }) => types !== ''),
  { seed: SEED, numRuns: JOBS },
);

async function isAccepted(serviceId: bigint, jobIndex: number, inputs: Uint8Array): Promise<boolean> {
  try {
    await chain.request('eth_call', [{ ...tangle.jobTransaction(serviceId, { jobIndex, inputs: hex(inputs) }), gas: CALL_GAS }, 'latest']);
    return true;
  } catch (error) {
    expect(isRunnerError(error) && JSON.stringify(error.details)).toContain(SCHEMA_VALIDATION_FAILED);
    return false;
  }
}

/** Undefined when our codec reads the payload, else why it does not. */
function refusal(schema: Uint8Array, payload: Uint8Array): string | undefined {
  try {
    decodeCompact(parseSchema(schema) ?? [], payload);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

test(`${JOBS} random schemas: payloads as they were written, cut, extended and with one byte changed (seed ${SEED})`, async () => {
  const schemas = samples.map(({ types }) => schemaOf(parseParameters(types)));
  const services: bigint[] = [];
  for (let first = 0; first < JOBS; first += JOBS_PER_SERVICE) {
    const jobs = schemas.slice(first, first + JOBS_PER_SERVICE).map((schema) => ({ name: 'job', paramsSchema: hex(schema) }));
    services.push((await tangle.startService({ jobs })).serviceId);
  }
  const outcomes = { accepted: 0, refused: 0, stricter: 0 };
  for (const [index, { types, values }] of samples.entries()) {
    const schema = schemas[index] as Uint8Array;
    const serviceId = services[Math.floor(index / JOBS_PER_SERVICE)] as bigint;
    const jobIndex = index % JOBS_PER_SERVICE;
    const payload = encodeCompact(parseParameters(types), values);
    expect([types, await isAccepted(serviceId, jobIndex, payload)]).toEqual([types, true]);
    const changed = Uint8Array.from(payload);
    const at = (index * 7) % Math.max(1, payload.length);
    if (payload.length > 0) changed[at] = ((changed[at] as number) + 1 + index) & 0xff;
    for (const variant of [changed, payload.subarray(0, -1), Uint8Array.of(...payload, 0)]) {
      const accepted = await isAccepted(serviceId, jobIndex, variant);
      const reason = refusal(schema, variant);
      if (accepted && reason !== undefined) {
        expect(reason).toMatch(STRICTER);
        outcomes.stricter += 1;
      } else {
        expect([types, hex(variant), accepted]).toEqual([types, hex(variant), reason === undefined]);
        outcomes[accepted ? 'accepted' : 'refused'] += 1;
      }
    }
  }
  // The variants reach both sides: otherwise nothing was compared.
  expect(outcomes.accepted).toBeGreaterThan(5);
  expect(outcomes.refused).toBeGreaterThan(100);
});

test.each([127, 128, 16_383, 16_384, 70_000])('a text of %d bytes', async (length) => {
  const schema = schemaOf(parseParameters('string text'));
  const { serviceId } = await tangle.startService({ jobs: [{ name: 'text', paramsSchema: hex(schema) }] });
  expect(await isAccepted(serviceId, 0, encodeCompact(parseParameters('string text'), ['x'.repeat(length)]))).toBe(true);
});
