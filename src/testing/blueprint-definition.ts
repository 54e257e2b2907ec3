/** What a test says of a blueprint, and the definition that the contract takes. */

import { gzipSync } from 'node:zlib';
import type { ContractFunctionArgs } from 'viem';
import { encodeAbiParameters, encodeDeployData, keccak256 } from 'viem/utils';
import type { JobProfile } from '../chain/chain.ts';
import type { tangleAbi } from '../chain/contracts.ts';
import type { Address, Hex } from '../job/call.ts';
import { JOB_MANAGER_BYTECODE } from './contracts/tangle-artifact.ts';
import type { LocalAccount } from './local-chain.ts';

export interface JobSpec {
  readonly name: string;
  readonly description?: string;
  /** The compact schema; absent: any bytes. */
  readonly paramsSchema?: Hex;
  readonly resultSchema?: Hex;
  readonly profile?: JobProfile;
  /** How many operators must answer; default 1. */
  readonly requiredResults?: number;
  /** The contract refuses every plain result of this job with AggregationRequired. */
  readonly requiresAggregation?: boolean;
}

export interface BlueprintSpec {
  readonly jobs: readonly JobSpec[];
  /** Default `local`. */
  readonly name?: string;
  /** Default: made of the profiles of the jobs. */
  readonly profilingData?: string;
  /** Wei for each call; makes the blueprint event-driven. */
  readonly eventRate?: bigint;
  /** Default: account 0. */
  readonly owner?: LocalAccount;
}

const deployAbi = [
  {
    type: 'constructor',
    stateMutability: 'nonpayable',
    inputs: [
      { name: 'requiredResults', type: 'uint32[]' },
      { name: 'requiresAggregationOf', type: 'bool[]' },
    ],
  },
] as const;

/** `profilingData` as a blueprint carries it: JSON with the gzipped profiles inside. */
export function encodeProfilingData(profiles: Readonly<Record<number, JobProfile>>, confidentiality = 'any'): string {
  const jobs: Record<string, unknown> = {};
  for (const [index, profile] of Object.entries(profiles)) {
    jobs[index] = {
      avg_duration_ms: profile.avgDurationMs,
      ...(profile.p95DurationMs !== undefined && { p95_duration_ms: profile.p95DurationMs }),
      peak_memory_mb: profile.peakMemoryMb,
      stateful: profile.stateful,
      persistent_connections: profile.persistentConnections,
    };
  }
  return JSON.stringify({
    schema: 'tangle.blueprint.metadata.v1',
    execution_profile: { confidentiality, gpu: { policy: 'none', min_count: 0, min_vram_gb: 0 } },
    job_profiles_b64_gzip: gzipSync(JSON.stringify({ jobs })).toString('base64'),
  });
}

/** The deployment of a manager that knows how many results each job needs. */
export function deployManager(jobs: readonly JobSpec[]): Hex {
  const required = jobs.map((job) => job.requiredResults ?? 1);
  const aggregated = jobs.map((job) => job.requiresAggregation ?? false);
  return encodeDeployData({ abi: deployAbi, bytecode: JOB_MANAGER_BYTECODE, args: [required, aggregated] });
}

type Definition = ContractFunctionArgs<typeof tangleAbi, 'nonpayable', 'createBlueprint'>[0];

/** The argument of createBlueprint. */
export function definition(spec: BlueprintSpec, manager: Address): Definition {
  const name = spec.name ?? 'local';
  const profiles = Object.fromEntries(spec.jobs.flatMap((job, index) => (job.profile ? [[index, job.profile] as const] : [])));
  const pricing = spec.eventRate === undefined ? 0 : 2;
  return {
    metadataUri: `ipfs://${name}`,
    metadataHash: keccak256(encodeAbiParameters([{ type: 'string' }], [name])),
    manager,
    masterManagerRevision: 0,
    hasConfig: true,
    config: {
      membership: 1,
      pricing,
      minOperators: 1,
      maxOperators: 100,
      subscriptionRate: 0n,
      subscriptionInterval: 0n,
      eventRate: spec.eventRate ?? 0n,
    },
    metadata: {
      name,
      description: `blueprint ${name}`,
      author: 'local',
      category: 'test',
      codeRepository: '',
      logo: '',
      website: '',
      license: 'MIT',
      profilingData: spec.profilingData ?? (Object.keys(profiles).length > 0 ? encodeProfilingData(profiles) : ''),
    },
    jobs: spec.jobs.map((job) => ({
      name: job.name,
      description: job.description ?? `job ${job.name}`,
      metadataUri: '',
      paramsSchema: job.paramsSchema ?? '0x',
      resultSchema: job.resultSchema ?? '0x',
    })),
    registrationSchema: '0x',
    requestSchema: '0x',
    sources: [
      {
        kind: 2,
        container: { registry: '', image: '', tag: '' },
        wasm: { runtime: 0, fetcher: 0, artifactUri: '', entrypoint: '' },
        native: { fetcher: 0, artifactUri: 'file://local', entrypoint: 'main' },
        testing: { cargoPackage: '', cargoBin: '', basePath: '' },
        binaries: [{ arch: 5, os: 1, name: 'main', sha256: keccak256('0x01') }],
      },
    ],
    supportedMemberships: [0, 1],
  };
}
