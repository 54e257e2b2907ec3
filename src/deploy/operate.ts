/** From what an operator says to the deployment of a service: reads chain and policy, plans, and gathers what the deployment needs. */

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { BlueprintMetadata, ChainClient, ServiceState } from '../chain/chain.ts';
import { signerFromKey } from '../chain/signer.ts';
import { RunnerError } from '../errors.ts';
import { Secret } from '../plugin/secret.ts';
import type { RunnerManifest } from '../runner/manifest.ts';
import type { JobFacts } from './analyze.ts';
import type { ExportInput } from './export-files.ts';
import { buildHandler } from './package.ts';
import type { BuiltHandler } from './package.ts';
import { codeForPlugin } from './platform-code.ts';
import { planService } from './planner.ts';
import type { DeploymentPolicy } from './policy-model.ts';
import { freePort } from './port.ts';
import { buildProgram } from './program.ts';
import type { PluginReference, ServiceRecords } from './record.ts';
import type { ServiceParts } from './service-run.ts';
import { functionNameOf, orchestratorNameOf } from './service-plan.ts';
import type { ServicePlan } from './service-plan.ts';

export interface OperateOptions {
  /** A deployment is checked against the chain as it is now; an export is the same wherever and whenever it is made. */
  readonly purpose: 'deploy' | 'export';
  readonly serviceId: bigint;
  /** The module that exports the jobs. */
  readonly entry: string;
  readonly chain: Pick<ChainClient, 'service' | 'blueprint' | 'head' | 'chainId' | 'contract' | 'source'>;
  readonly rpcUrls: readonly string[];
  readonly wsUrl?: string | undefined;
  readonly policy: DeploymentPolicy;
  readonly profiles?: ReadonlyMap<number, JobFacts> | undefined;
  readonly assume?: 'function' | 'local' | undefined;
  /** More options for the deployers of a plugin, by its name. */
  readonly deployerOptions?: Readonly<Record<string, Readonly<Record<string, unknown>>>> | undefined;
  readonly host: PluginReference;
  /** Where the key of the operator is: `env:NAME`, `file:/path`, or what the host understands. */
  readonly key: string;
  readonly fromBlock?: bigint | undefined;
  readonly confirmations?: number | undefined;
  readonly records: ServiceRecords;
  /** For bundles. */
  readonly buildFolder: string;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

export interface PreparedService {
  readonly plan: ServicePlan;
  readonly blueprint: BlueprintMetadata;
  readonly parts: ServiceParts;
}

/** Reads and plans; writes nothing. Rejects with `SERVICE_NOT_FOUND`, `BLUEPRINT_NOT_FOUND`, `STATE_INVALID`, `CONFIG_INVALID` or `RPC_*`. */
export async function prepareService(options: OperateOptions): Promise<PreparedService> {
  const { chain, serviceId, records, entry } = options;
  const service = await chain.service(serviceId);
  const blueprint = await chain.blueprint(service.blueprintId);
  const { chainId, contract } = chain;
  const unchecked = options.purpose === 'deploy' ? await checkOperator(service, options) : [];
  const planned = planService({ ...options, service, blueprint, chainId, contract });
  const plan = { ...planned, warnings: [...planned.warnings, ...unchecked] };
  const earlier = records.read(plan);
  const isExport = options.purpose === 'export';
  const metricsPort = isExport ? EXPORTED_PORT : (earlier?.orchestrator?.healthPort ?? (await freePort()));
  // A ledger that is not where the orchestrator goes on begins where the first one began: what is settled is not executed again.
  const known = options.fromBlock?.toString() ?? earlier?.fromBlock;
  const fromBlock = known ?? (isExport ? undefined : String((await chain.head()).number + 1n));
  let built: Promise<BuiltHandler> | undefined;
  const bundles = new Map<string, Promise<Uint8Array>>();
  const parts: ServiceParts = {
    host: options.host,
    entry,
    manifest: {
      version: 1,
      serviceIds: [String(serviceId)],
      blueprintId: plan.blueprintId,
      rpcUrls: options.rpcUrls,
      ...(options.wsUrl !== undefined && { wsUrl: options.wsUrl }),
      contract,
      chainId,
      ...(fromBlock !== undefined && { fromBlock }),
      ...(options.confirmations !== undefined && { confirmations: options.confirmations }),
      metricsPort,
    },
    functionPackage: async (plugin) => {
      built ??= buildHandler({ entry, outDir: join(options.buildFolder, `service-${serviceId}`) });
      const { zipFile, sha256 } = await built;
      return codeForPlugin(plugin, { zip: readFileSync(zipFile), sha256 }, dirname(entry));
    },
    program: (manifest) => buildProgram({ entry, manifest, bundles, secrets: secretsOf(manifest, options) }),
  };
  return { plan, blueprint, parts };
}

/**
 * Results signed by anybody else would all be refused. Throws `CONFIG_INVALID` for a key that is missing, malformed, or not of an operator of
 * the service; what could not be checked is returned in words.
 */
async function checkOperator(
  { serviceId, operators }: ServiceState,
  { key, environment }: Pick<OperateOptions, 'key' | 'environment'>,
): Promise<readonly string[]> {
  if (/^(?!env:|file:)[a-z][a-z0-9]*:/.test(key))
    return [
      `the key of the operator is read where the orchestrator runs, ${key}: whether it belongs to an operator of the service is not checked`,
    ];
  const address = signerFromKey(await new Secret(key, { environment }).read()).address.toLowerCase();
  if (operators.some((operator) => operator.toLowerCase() === address)) return [];
  throw new RunnerError(
    'CONFIG_INVALID',
    `the key ${key} is that of ${address}, which is no operator of service ${serviceId}: its results would be refused. Operators are ${operators.join(', ') || 'none'}; name the key of one with --key, or join the service first`,
    { details: { serviceId: String(serviceId), operator: address, operators } },
  );
}

/** The data folder of every exported program: what runs it gives it a volume there. */
const EXPORTED_DATA_FOLDER = '/var/lib/blueprint-runner';
/** On the loopback interface of whatever runs it. */
const EXPORTED_PORT = 9_464;

/** What an export is made of. Jobs that are deployed are called where they are; the others run in the orchestrator. */
export async function exportService(plan: ServicePlan, parts: ServiceParts, records: Pick<ServiceRecords, 'read'>): Promise<ExportInput> {
  const functions = plan.jobs.filter(({ place, endpoint }) => place === 'function' && endpoint === undefined);
  const deployed = records.read(plan)?.jobs ?? {};
  const jobs = Object.fromEntries(
    plan.jobs.map(({ id, name, endpoint }) => {
      const executor = endpoint === undefined ? deployed[id]?.function?.executor : { use: 'http', options: { url: endpoint } };
      return [id, { name, ...(executor && { executor, ...(plan.fallback && { fallback: 'in-process' as const }) }) }];
    }),
  );
  const code = functions.length === 0 ? undefined : await parts.functionPackage('aws-lambda');
  const program = await parts.program({ ...parts.manifest, dataDir: EXPORTED_DATA_FOLDER, jobs });
  return {
    functions: functions.flatMap(({ id, config = {} }) => (code ? [{ name: functionNameOf(plan, id), code, config }] : [])),
    program: { ...program, name: orchestratorNameOf(plan) },
    dataFolder: EXPORTED_DATA_FOLDER,
  };
}

/** The key of the operator, and what the executors say that they read. */
function secretsOf({ jobs }: RunnerManifest, { key, environment }: OperateOptions): Record<string, string> {
  const read = Object.values(jobs).flatMap(({ executor }) => executor?.environment ?? []);
  const there = [...new Set(read)].filter((name) => environment[name] !== undefined).toSorted();
  return { OPERATOR_PRIVATE_KEY: key, ...Object.fromEntries(there.map((name) => [name, `env:${name}`])) };
}
