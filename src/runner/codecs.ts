/** Which encoding the arguments and the result of a call have: the schema of its job on chain decides. */

import type { BlueprintMetadata, ChainClient } from '../chain/chain.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { BLUEPRINT } from '../job/call.ts';
import type { ChainCall, Codec, JobCall } from '../job/call.ts';
import type { JobInfo } from '../job/job.ts';
import { codecFor } from '../job/schema.ts';

interface JobCodec {
  readonly params: Codec;
  readonly result: Codec;
}

interface ServiceCodecs {
  readonly blueprint: BlueprintMetadata | undefined;
  readonly jobs: Map<number, JobCodec | RunnerError>;
}

export interface JobCodecsOptions {
  readonly chain: Pick<ChainClient, 'blueprint' | 'service' | 'contract'>;
  /** Instead of asking the chain whose service it is. */
  readonly blueprintId: bigint | undefined;
  /** What the program defines; undefined when the job runs elsewhere. */
  readonly definition: (jobId: bigint) => JobInfo | undefined;
  /** Said once per service or job. */
  readonly onProblem: (error: RunnerError) => void;
}

const ABI: JobCodec = { params: 'abi', result: 'abi' };
const NOT_THERE: readonly ErrorCode[] = ['SERVICE_NOT_FOUND', 'BLUEPRINT_NOT_FOUND'];
/** Anybody can make services on a chain that is followed as a whole. */
const SERVICES_MAX = 10_000;

export class JobCodecs {
  readonly #options: JobCodecsOptions;
  readonly #services = new Map<bigint, ServiceCodecs>();
  readonly #loading = new Map<bigint, Promise<ServiceCodecs>>();

  constructor(options: JobCodecsOptions) {
    this.#options = options;
  }

  /**
   * Writes the encodings into the metadata of a call. A promise while the blueprint has to be read first. Fails with
   * `JOB_SCHEMA_MISMATCH` when job and schema differ, and with an error whose `retry` is `safe` when the chain cannot be asked now
   * or does not have the service yet.
   */
  prepare(call: JobCall): Promise<void> | undefined {
    const { origin } = call;
    if (!origin) return undefined;
    const known = this.#services.get(origin.serviceId);
    if (!known) return this.load(origin.serviceId).then((loaded) => this.#apply(loaded, origin, call));
    this.#apply(known, origin, call);
    return undefined;
  }

  /** Reads the blueprint of a service, once. */
  load(serviceId: bigint): Promise<ServiceCodecs> {
    const running = this.#loading.get(serviceId);
    if (running) return running;
    const loading = this.#read(serviceId).finally(() => this.#loading.delete(serviceId));
    this.#loading.set(serviceId, loading);
    return loading;
  }

  async #read(serviceId: bigint): Promise<ServiceCodecs> {
    const { chain, blueprintId, onProblem } = this.#options;
    const codecs = { blueprint: undefined as BlueprintMetadata | undefined, jobs: new Map<number, JobCodec | RunnerError>() };
    try {
      codecs.blueprint = await chain.blueprint(blueprintId ?? (await chain.service(serviceId)).blueprintId);
    } catch (thrown) {
      const error = toRunnerError(thrown);
      // A service that is not there yet, or not at an endpoint that lags, has no encoding that could be guessed.
      const isEarly = blueprintId === undefined && NOT_THERE.includes(error.code);
      if (error.retry === 'safe' || error.code === 'RPC_ERROR' || isEarly) {
        // A contract with another interface reverts, too.
        const hint = error.code === 'RPC_ERROR' ? `; make sure that ${chain.contract} is the Tangle contract` : '';
        throw new RunnerError(error.code, `the blueprint of service ${serviceId} cannot be read now: ${error.message}${hint}`, {
          cause: error,
          retry: 'safe',
        });
      }
      onProblem(error);
    }
    if (this.#services.size >= SERVICES_MAX) this.#services.clear();
    this.#services.set(serviceId, codecs);
    for (const job of codecs.blueprint?.jobs ?? []) this.#codecOf(codecs, job.index);
    return codecs;
  }

  #apply(codecs: ServiceCodecs, origin: ChainCall, call: JobCall): void {
    const codec = this.#codecOf(codecs, origin.jobIndex);
    if ('code' in codec) throw codec;
    if (codec.params !== 'abi') call.metadata.set(BLUEPRINT.paramsCodec, codec.params);
    if (codec.result !== 'abi') call.metadata.set(BLUEPRINT.resultCodec, codec.result);
  }

  #codecOf({ blueprint, jobs }: ServiceCodecs, jobIndex: number): JobCodec | RunnerError {
    const known = jobs.get(jobIndex);
    if (known) return known;
    const job = blueprint?.jobs[jobIndex];
    if (!job) return ABI;
    const definition = this.#options.definition(BigInt(jobIndex));
    const compare = (types: string | undefined, schema: Uint8Array, of: string): Codec => {
      if (types !== undefined && definition?.raw !== true) return codecFor({ types, schema, of: `${of} of job ${jobIndex}` });
      return schema.length === 0 ? 'abi' : 'compact';
    };
    let codec: JobCodec | RunnerError;
    try {
      codec = {
        params: compare(definition?.params, job.paramsSchema, 'params'),
        result: compare(definition?.result, job.resultSchema, 'result'),
      };
    } catch (thrown) {
      codec = toRunnerError(thrown, 'JOB_SCHEMA_MISMATCH');
      this.#options.onProblem(codec);
    }
    jobs.set(jobIndex, codec);
    return codec;
  }
}
