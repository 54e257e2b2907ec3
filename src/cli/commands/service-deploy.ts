/** What begins with a plan: `bpr service deploy` and `bpr service export`. */

import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import { systemClock } from '../../clock.ts';
import { RunnerError } from '../../errors.ts';
import type { ExportFormat } from '../../deploy/export.ts';
import type { OperateOptions, PreparedService } from '../../deploy/operate.ts';
import { stateFolder } from '../../deploy/policy-file.ts';
import type { PluginReference, ServiceRecords } from '../../deploy/record.ts';
import type { ServiceReport } from '../../deploy/service-run.ts';
import { parseNumber, parseUint64 } from '../calls.ts';
import { changesText, collectOptions, collectDeployerOptions, deployOptions, usablePolicy } from '../deployer-flags.ts';
import type { PluginOptions } from '../deployer-flags.ts';
import { settingsOf } from '../environment.ts';
import type { ChainFlags } from '../environment.ts';
import { print } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { recordsOf, withOperator } from '../service-operator.ts';
import { withExport, writeExport } from './export.ts';

type Target = 'process' | 'container' | 'kubernetes' | 'ec2';

interface DeployFlags extends ChainFlags {
  readonly serviceId: bigint;
  readonly contract?: string;
  readonly chainId?: number;
  readonly json?: true;
  readonly wsUrl?: string;
  readonly config?: string;
  readonly profiles?: string;
  readonly assume?: 'function' | 'local';
  readonly target: Target;
  readonly network?: string;
  readonly hostOption?: Readonly<Record<string, unknown>>;
  readonly deployerOption?: PluginOptions;
  readonly key: string;
  readonly fromBlock?: bigint;
  readonly confirmations?: number;
  readonly dryRun?: true;
  readonly strict?: true;
}

interface ExportFlags {
  readonly format: ExportFormat;
  readonly out: string;
  readonly region?: string;
}

const ENTRIES = ['src/jobs.ts', 'jobs.ts', 'src/jobs.js', 'dist/jobs.js', 'jobs.js'];

const DEPLOY_EXAMPLES = `
Examples:
  bpr service deploy --service-id 123
  bpr service deploy --service-id 123 --target container --network host
  bpr service deploy --service-id 123 --deployer-option aws-lambda.endpoint=http://127.0.0.1:4566

Environment: HTTP_RPC_URL or RPC_URL, WS_RPC_URL, TANGLE_CONTRACT, CHAIN_ID, OPERATOR_PRIVATE_KEY, BPR_DEPLOYMENTS (where records lie), and
the credentials of the platforms.

Before anything is deployed: the endpoint serves CHAIN_ID, when that is set; the key belongs to an operator of the service; the host of the
orchestrator takes the program.

Exit status: 0 it runs; 1 failed, the message begins with a code of ERRORS.md, and running it again goes on; 2 called in a wrong way;
130 and 143 interrupted by SIGINT and SIGTERM, the message says what is done.`;

export function addServiceDeploy(service: Command, { io }: Cli): void {
  withPlan(service.command('deploy').description('deploy the jobs of a service and the orchestrator that settles their results'))
    .option('--dry-run', 'say what would be done, and do nothing')
    .option('--strict', 'what a platform cannot do as asked is an error')
    .option('--json', 'print one JSON document')
    .addHelpText('after', DEPLOY_EXAMPLES)
    .action(async (entry: string | undefined, flags: DeployFlags) => {
      const { policy, warnings } = await usablePolicy(io, flags.config);
      await withOperator(io, async ({ operator, records, ...work }) => {
        const { plan, parts } = await prepared(io, { purpose: 'deploy', entry: entryOf(io, entry), flags, policy, records });
        const report = await operator.deploy(plan, parts, deployOptions(work, flags));
        const all = { ...report, warnings: [...warnings, ...report.warnings] };
        print(io, flags.json, { document: { ...all, plan }, text: deployText(all, flags.dryRun === true) });
      });
    });
}

export function addServiceExport(service: Command, { io }: Cli): void {
  withExport(
    withPlan(service.command('export').description('write functions or orchestrator of a service as files of another tool')),
  ).action(async (entry: string | undefined, flags: DeployFlags & ExportFlags) => {
    const { policy } = await usablePolicy(io, flags.config);
    const [{ exportService }, { exportPlan }] = await Promise.all([import('../../deploy/operate.ts'), import('../../deploy/export.ts')]);
    const records = await recordsOf(io);
    const { plan, parts } = await prepared(io, { purpose: 'export', entry: entryOf(io, entry), flags, policy, records });
    writeExport(io, flags, exportPlan(flags.format, { ...(await exportService(plan, parts, records)), region: flags.region }));
  });
}

/** What a plan is made of, and where its orchestrator runs. */
function withPlan(command: Command): Command {
  return command
    .argument('[entry]', `module that exports the jobs (default: the first of ${ENTRIES.join(', ')})`)
    .requiredOption('--service-id <id>', 'the service', parseUint64)
    .option('--rpc-url <url>', 'JSON-RPC endpoint of the chain; several, comma-separated')
    .option('--ws-url <url>', 'websocket endpoint: announces blocks at once')
    .option('--contract <address>', 'address of the Tangle contract')
    .option('--config <file>', 'the deployment policy, when it is not in the configuration directory')
    .option('--profiles <file>', 'what bpr profile measured; wins over what the chain says')
    .addOption(new Option('--assume <place>', 'where jobs without a profile go').choices(['function', 'local']))
    .addOption(
      new Option('--target <host>', 'what the orchestrator runs on')
        .choices(['process', 'container', 'kubernetes', 'ec2'])
        .default('process'),
    )
    .option('--network <name>', 'network of the container: bridge, host, or a name (default: bridge)')
    .option('--host-option <name=value>', 'an option of the host; can be repeated', collectOptions)
    .option('--deployer-option <plugin.name=value>', 'an option of a platform; can be repeated', collectDeployerOptions)
    .option('--key <reference>', 'where the key of the operator is: env:NAME or file:/path', 'env:OPERATOR_PRIVATE_KEY')
    .option('--from-block <number>', 'first block for a new ledger (default: the head)', parseUint64)
    .option('--confirmations <count>', 'blocks on top of a call before its result is signed (default: 1)', parseNumber);
}

interface Wanted {
  readonly purpose: OperateOptions['purpose'];
  readonly entry: string;
  readonly flags: DeployFlags;
  readonly policy: OperateOptions['policy'];
  readonly records: ServiceRecords;
}

async function prepared(io: Io, { purpose, entry, flags, policy, records }: Wanted): Promise<PreparedService> {
  const { rpcUrls, contract, wsUrl, chainId } = settingsOf(io, flags);
  if (contract === undefined) throw new RunnerError('CONFIG_INVALID', 'the contract is not known: set TANGLE_CONTRACT or pass --contract');
  const [{ connectRpcChain }, { prepareService }, { readProfileFile }] = await Promise.all([
    import('../../chain/connect.ts'),
    import('../../deploy/operate.ts'),
    import('../../deploy/profiles.ts'),
  ]);
  const chain = await connectRpcChain({ rpcUrl: rpcUrls, contract, clock: systemClock, ...(chainId !== undefined && { chainId }) });
  try {
    return await prepareService({
      purpose,
      serviceId: flags.serviceId,
      entry,
      chain,
      rpcUrls,
      wsUrl: flags.wsUrl ?? wsUrl,
      policy,
      ...(flags.profiles !== undefined && { profiles: readProfileFile(resolve(io.cwd, flags.profiles)) }),
      assume: flags.assume,
      deployerOptions: flags.deployerOption,
      host: hostOf(io, flags),
      key: flags.key,
      fromBlock: flags.fromBlock,
      confirmations: flags.confirmations,
      records,
      buildFolder: join(stateFolder(io.env), 'build'),
      environment: io.env,
    });
  } finally {
    await chain.close();
  }
}

function hostOf(io: Io, { target, network, hostOption }: DeployFlags): PluginReference {
  const folder = stateFolder(io.env);
  switch (target) {
    case 'process':
      return { use: 'process', options: { folder: join(folder, 'machines'), ...hostOption } };
    case 'container':
      return {
        use: 'container',
        options: {
          folder: join(folder, 'containers'),
          ...(io.env['DOCKER_HOST'] && { host: io.env['DOCKER_HOST'] }),
          ...(network !== undefined && { network }),
          ...hostOption,
        },
      };
    case 'kubernetes':
      return { use: 'kubernetes', options: { ...hostOption } };
    case 'ec2':
      return { use: 'aws-lambda', options: { ...hostOption } };
  }
}

function entryOf({ cwd }: Io, entry: string | undefined): string {
  if (entry !== undefined) return resolve(cwd, entry);
  const found = ENTRIES.map((name) => resolve(cwd, name)).find((file) => existsSync(file));
  if (found === undefined)
    throw new RunnerError('CONFIG_INVALID', `there is none of ${ENTRIES.join(', ')} in ${cwd}; name the module with the jobs`);
  return found;
}

function deployText({ record, machine, changes, warnings }: ServiceReport, isDryRun: boolean): string {
  return [
    `service ${record.serviceId} of blueprint ${record.blueprintId} ${record.blueprintName}: ${record.strategy}`,
    ...record.reasons.map((reason) => `  ${reason}`),
    changesText(changes, isDryRun) || 'nothing had to change',
    ...warnings.map((warning) => `warning: ${warning}`),
    ...(machine
      ? [`orchestrator ${machine.name}: ${machine.status}${machine.healthUrl === undefined ? '' : `, ${machine.healthUrl}`}`]
      : []),
  ].join('\n');
}
