/**
 * Three jobs that square a number. They differ in how many operators must answer before the contract is content: one, two, three.
 * That number is the blueprint's (`requiredResults`); a job needs to know nothing of it.
 *
 * In a project of your own the imports are `from 'blueprint-runner'`.
 */

import { defineJob } from '../../src/job/job.ts';
import { JobRouter } from '../../src/job/router.ts';

const MODULUS = 1n << 64n;

/** As a uint64 of the contract: the product wraps. */
const squareOf = (x: bigint): bigint => (x * x) % MODULUS;

const options = { params: 'uint64 x', result: 'uint64', idempotent: true } as const;

export const square = defineJob({ ...options, name: 'square' }, ([x]) => squareOf(x));
export const verifiedSquare = defineJob({ ...options, name: 'verified_square' }, ([x]) => squareOf(x));
export const consensusSquare = defineJob({ ...options, name: 'consensus_square' }, ([x]) => squareOf(x));

/** What the blueprint says of the jobs, in the order of their ids. */
export const squaringJobs = [
  { name: 'square', requiredResults: 1 },
  { name: 'verified_square', requiredResults: 2 },
  { name: 'consensus_square', requiredResults: 3 },
] as const;

export const router: JobRouter = new JobRouter().route(0, square).route(1, verifiedSquare).route(2, consensusSquare);
