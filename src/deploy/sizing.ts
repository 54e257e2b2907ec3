/** How large a function has to be, in the sizes that each platform sells. Pure. */

import { TARGET_LIMITS } from '../executor/limits.ts';
import type { Target } from '../executor/limits.ts';

export interface FunctionSize {
  readonly memoryMb: number;
  readonly cpu: number;
}

/** Above what was measured: garbage, larger inputs, another allocator. */
const HEADROOM = 1.5;
const MEMORY_MB_MIN = 512;
const MB_PER_CPU = 2_048;
/** A Lambda function has one whole processor at 1,769 MB (https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html). */
const AWS_MB_PER_CPU = 1_769;
/** Processors that come with the memory of a Cloud Run function (https://docs.cloud.google.com/run/docs/configuring/functions/memory). */
const GCP_CPU: readonly (readonly [memoryMb: number, cpu: number])[] = [
  [128, 0.083],
  [256, 0.167],
  [512, 0.333],
  [1_024, 0.583],
  [2_048, 1],
  [4_096, 2],
  [8_192, 2],
  [16_384, 4],
  [32_768, 8],
];

const MIB = 1024 * 1024;
/** Of inputs and of results, where a call carries less than the platform takes: as base64 within its JSON, and a Worker takes as much as its handler. */
const CARRIED_BYTES: Readonly<Partial<Record<Target, number>>> = {
  aws: ((TARGET_LIMITS.aws.requestBytesMax - 64 * 1024) / 4) * 3,
  digitalocean: 700 * 1024,
  cloudflare: 6 * MIB,
};

/** The largest inputs, and the largest results, of a job on a platform. */
export function payloadBytesMax(target: Target): number {
  const { requestBytesMax, responseBytesMax } = TARGET_LIMITS[target];
  return CARRIED_BYTES[target] ?? Math.min(requestBytesMax, responseBytesMax);
}

/** What a job with this peak should get: half as much again, at least 512 MB, and a processor per 2 GB. */
export function resourceSizing(peakMemoryMb: number): FunctionSize {
  const memoryMb = Math.max(MEMORY_MB_MIN, Math.ceil(peakMemoryMb * HEADROOM));
  return { memoryMb, cpu: Math.max(1, Math.ceil(memoryMb / MB_PER_CPU)) };
}

/** The smallest size of the platform that has so much memory. Undefined: it has none. */
export function fitSize(target: Target, memoryMb: number): FunctionSize | undefined {
  const { steps, min, max } = TARGET_LIMITS[target].memoryMb;
  const fitting = steps ? steps.find((step) => step >= memoryMb) : Math.max(min, Math.ceil(memoryMb));
  return fitting === undefined || fitting > max ? undefined : { memoryMb: fitting, cpu: cpuOf(target, fitting) };
}

/** The processors that a size comes with. */
function cpuOf(target: Target, memoryMb: number): number {
  if (target === 'aws') return Math.round((memoryMb / AWS_MB_PER_CPU) * 1000) / 1000;
  if (target === 'gcp') return GCP_CPU.find(([mb]) => mb >= memoryMb)?.[1] ?? 8;
  return Math.max(1, Math.ceil(memoryMb / MB_PER_CPU));
}
