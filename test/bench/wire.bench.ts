/**
 * The wire formats against `JSON.stringify` and `JSON.parse` of the same message, the codecs against viem, the router against
 * awaiting the handler.
 *
 * Goals: v1 at most 0.55 of the JSON functions, v2 at most 0.01 of them at 4 KiB; a call through the router less than 1 us above the
 * handler alone.
 */

import { randomFillSync } from 'node:crypto';
import { decodeAbiParameters, encodeAbiParameters, parseAbiParameters } from 'viem';
import { decodeAbi, encodeAbi } from '../../src/job/abi.ts';
import { Metadata, TANGLE } from '../../src/job/call.ts';
import type { JobCall, JobResult } from '../../src/job/call.ts';
import { defineJob } from '../../src/job/job.ts';
import { JobRouter } from '../../src/job/router.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import { decodeRequest, decodeResponse, encodeRequest, encodeResponse } from '../../src/job/wire.ts';
import type { WireFormat } from '../../src/job/wire.ts';
import { encodeBytesJson, scanFlatJson } from '../../src/job/wire-json.ts';
import { compare } from './measure.ts';

const SIZES = [
  ['64 B', 64],
  ['4 KiB', 4_096],
  ['1 MiB', 1_048_576],
] as const;

function makeCall(body: Uint8Array): JobCall {
  const metadata = new Metadata([
    [TANGLE.callId, '7'],
    [TANGLE.serviceId, '9'],
  ]);
  return { id: '1:0x00:9:7', jobId: 0n, body, metadata };
}

/** What a plain implementation does with the message of the SDK, both directions. */
function jsonBothWays(body: Uint8Array): () => Buffer {
  return () => {
    const sent = Buffer.from(JSON.stringify({ job_id: 0, args: Array.from(body) }));
    return Buffer.from((JSON.parse(sent.toString()) as { args: number[] }).args);
  };
}

/** A whole exchange: request there, response back. */
function exchange(format: WireFormat, call: JobCall, result: JobResult): () => unknown {
  return () => {
    const request = encodeRequest(format, call);
    const arrived = decodeRequest(request.headers, request.body);
    const response = encodeResponse(arrived.format, [result]);
    return decodeResponse(response, call);
  };
}

async function wire(): Promise<void> {
  for (const [name, size] of SIZES) {
    const body = randomFillSync(Buffer.alloc(size));
    const call = makeCall(body);
    const result: JobResult = { body, metadata: call.metadata };
    const once = jsonBothWays(body);
    const peer = (): unknown => [once(), once()];
    await compare(
      `v1 bytes there and back, ${name}`,
      { peer: once, ours: () => scanFlatJson(encodeBytesJson('{"job_id":0,"args":', body, '}')) },
      { goal: 0.55 },
    );
    await compare(`v1 exchange with headers, ${name}`, { peer, ours: exchange('json', call, result) }, size >= 4_096 ? { goal: 0.55 } : {});
    await compare(`base64 exchange, ${name}`, { peer, ours: exchange('base64', call, result) });
    await compare(
      `v2 exchange with headers, ${name}`,
      { peer, ours: exchange('octets', call, result) },
      size >= 4_096 ? { goal: 0.01 } : {},
    );
  }
}

async function abi(): Promise<void> {
  const cases: readonly (readonly [string, readonly unknown[]])[] = [
    ['uint64 x', [5n]],
    ['uint256 x', [2n ** 200n]],
    ['string name, bytes data', ['a name', `0x${'ab'.repeat(200)}`]],
    ['(address to, uint256 amount)[] payments', [Array.from({ length: 10 }, () => ({ to: `0x${'0c'.repeat(20)}`, amount: 5n }))]],
    ['bytes data', [`0x${'ab'.repeat(4_096)}`]],
  ];
  for (const [types, values] of cases) {
    const ours = parseParameters(types);
    const peers = parseAbiParameters(types) as readonly { readonly type: string }[];
    const bytes = encodeAbi(ours, values);
    await compare(`ABI decode ${types}`, { peer: () => decodeAbiParameters(peers, bytes), ours: () => decodeAbi(ours, bytes) });
    await compare(`ABI encode ${types}`, {
      peer: () => Buffer.from(encodeAbiParameters(peers, values as never).slice(2), 'hex'),
      ours: () => encodeAbi(ours, values),
    });
  }
}

async function router(): Promise<void> {
  const call = makeCall(Buffer.from('hello'));
  const handler = async (body: Uint8Array): Promise<Uint8Array> => body;
  const bare = new JobRouter().route(0, defineJob({ raw: true }, handler));
  const layered = new JobRouter()
    .route(0, defineJob({ raw: true }, handler))
    .layer((next) => (of, signal) => next(of, signal))
    .layer((next) => (of, signal) => next(of, signal));
  const square = defineJob({ params: 'uint64 x', result: 'uint64' }, ([x]) => x * x);
  const typed = new JobRouter().route(0, square);
  const typedCall = makeCall(encodeAbi(parseParameters('uint64'), [5n]));
  const { peerNs, oursNs } = await compare('raw job through the router', { peer: () => handler(call.body), ours: () => bare.call(call) });
  if (oursNs - peerNs > 1_000) process.exitCode = 1;
  await compare('raw job through the router and two layers', { peer: () => handler(call.body), ours: () => layered.call(call) });
  await compare('uint64 job through the router', { peer: () => handler(call.body), ours: () => typed.call(typedCall) });
}

await wire();
await abi();
await router();
