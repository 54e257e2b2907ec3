import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import { systemClock } from '../../clock.ts';
import { RunnerError } from '../../errors.ts';
import type { ExportFormat } from '../../deploy/export.ts';
import type { OperateOptions, PreparedService } from '../../deploy/operate.ts';
import type { PluginReference, ServiceRecord, ServiceRecords } from '../../deploy/record.ts';
import type { RemovalReport, ServiceOperator, ServiceStatus } from '../../deploy/service.ts';
import type { ServiceReport } from '../../deploy/service-run.ts';
import { parseCount, parseNumber, parseUint64 } from '../calls.ts';
import { changesText, collectOptions, collectPluginOptions, deployOptions, shownState, usablePolicy } from '../deployer-flags.ts';
import type { PluginOptions } from '../deployer-flags.ts';
import { settingsOf } from '../environment.ts';
import type { ChainFlags } from '../environment.ts';
import { withExport, writeExport } from './export.ts';
import { print, sizeText, table } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { interruptible } from '../work.ts';
import type { Work } from '../work.ts';

type Target = 'process' | 'container' | 'kubernetes' | 'ec2';

interface ServiceFlags {
  readonly serviceId: bigint;
  readonly contract?: string;
  readonly chainId?: number;
  readonly json?: true;
}

interface DeployFlags extends ServiceFlags, ChainFlags {
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

const ENTRIES = ['src/jobs.ts', 'jobs.ts', 'src/jobs.js', 'dist/jobs.js', 'jobs.js'];

const EXAMPLES = `
Examples:
  bpr service deploy --service-id 123              by the policy: see bpr cloud policy
  bpr service deploy src/jobs.ts --service-id 123 --target container --key file:/run/operator-key
  bpr service deploy --service-id 123 --dry-run    what would be where, and why; writes nothing
  bpr service status --service-id 123              from any process, at any time
  bpr service remove --service-id 123

Jobs that fit their platform become functions, the others run in the orchestrator: a runner that follows the chain, hands calls out and
settles results. It outlives this command. Running a deployment again changes what differs, and goes on with one that stopped halfway.`;

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

/** `bpr service`: a service as a whole, from the policy to a running orchestrator. */
export function addService(program: Command, cli: Cli): void {
  const service = program
    .command('service')
    .description('deploy a service: functions and orchestrator; see how it is, end it')
    .addHelpText('after', EXAMPLES);
  addDeploy(service, cli);
  addStatus(service, cli);
  addList(service, cli);
  addLogs(service, cli);
  addRemove(service, cli);
  addServiceExport(service, cli);
}

function addDeploy(service: Command, { io }: Cli): void {
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

function addServiceExport(service: Command, { io }: Cli): void {
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

interface ExportFlags {
  readonly format: ExportFormat;
  readonly out: string;
  readonly region?: string;
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
    .option('--deployer-option <plugin.name=value>', 'an option of a platform; can be repeated', collectPluginOptions)
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
      buildFolder: join(stateFolder(io), 'build'),
      environment: io.env,
    });
  } finally {
    await chain.close();
  }
}

function addStatus(service: Command, cli: Cli): void {
  const { io } = cli;
  withService(service.command('status').description('say how a deployed service is'))
    .addHelpText(
      'after',
      '\nExit status: 0 all is as it was deployed; 1 something is not, cannot be asked, or failed; 2 called in a wrong way.',
    )
    .action(async (flags: ServiceFlags) => {
      await withRecord(io, flags, async (record, { operator }) => {
        const status = shownStatus(await operator.status(record));
        if (status.drift.length > 0 || record.status !== 'deployed') cli.exitCode = 1;
        print(io, flags.json, { document: status, text: statusText(status) });
      });
    });
}

function addList(service: Command, { io }: Cli): void {
  service
    .command('list')
    .description('list the services that were deployed from here')
    .option('--json', 'print one JSON document')
    .action(async ({ json }: { readonly json?: true }) => {
      const all = (await recordsOf(io)).list();
      const rows = all.map(({ serviceId, blueprintName, strategy, status, updatedAt }) => [
        serviceId,
        blueprintName,
        strategy,
        status,
        updatedAt,
      ]);
      const text =
        rows.length === 0
          ? 'no service was deployed from here'
          : table([['service', 'blueprint', 'strategy', 'status', 'updated'], ...rows]);
      print(io, json, { document: { services: all }, text });
    });
}

interface LogFlags extends ServiceFlags {
  readonly limit: number;
  readonly follow?: true;
  readonly search?: string;
}

function addLogs(service: Command, { io }: Cli): void {
  withService(service.command('logs').description('print what the orchestrator of a service wrote'))
    .option('--limit <count>', 'the newest so many lines', parseCount, 100)
    .option('--search <text>', 'only lines with this text')
    .option('-f, --follow', 'go on with what is written from now on, until interrupted')
    .action(async (flags: LogFlags) => {
      await withRecord(io, flags, async (record, { operator, signal }) => {
        const { limit, follow, search } = flags;
        const query = { limit, signal, ...(follow && { follow }), ...(search !== undefined && { search }) };
        for await (const { message } of operator.logs(record, query)) io.stdout.write(`${message}\n`);
      });
    });
}

function addRemove(service: Command, { io }: Cli): void {
  withService(service.command('remove').alias('terminate').description('end the orchestrator of a service and remove its functions'))
    .option('--dry-run', 'say what would be removed')
    .option('--forget', 'drop it although a platform or host does not answer any more, and say what may still be there')
    .addHelpText('after', '\nThe ledger of the orchestrator and the logs of the functions stay, and so does what belongs to somebody else.')
    .action(async (flags: ServiceFlags & { readonly dryRun?: true; readonly forget?: true }) => {
      await withRecord(io, flags, async (record, { operator, ...work }) => {
        const report = await operator.remove(record, { ...deployOptions(work, flags), ...(flags.forget && { forget: true }) });
        print(io, flags.json, { document: report, text: removalText(report, flags.dryRun === true) });
      });
    });
}

function withService(command: Command): Command {
  return command
    .requiredOption('--service-id <id>', 'the service', parseUint64)
    .option('--chain-id <id>', 'which one, when services of several chains have this id', parseCount)
    .option('--contract <address>', 'which one, when services of several contracts have this id')
    .option('--json', 'print one JSON document');
}

async function withRecord(
  io: Io,
  { serviceId, contract, chainId }: ServiceFlags,
  action: (record: ServiceRecord, work: OperatorWork) => Promise<void>,
): Promise<void> {
  await withOperator(io, async (work) => {
    const found = work.records
      .list(String(serviceId))
      .filter((one) => contract === undefined || one.contract.toLowerCase() === contract.toLowerCase())
      .filter((one) => chainId === undefined || one.chainId === chainId);
    const [record, other] = found;
    if (!record)
      throw new RunnerError('NOT_FOUND', `service ${serviceId} was not deployed from here`, { details: { serviceId: String(serviceId) } });
    if (other)
      throw new RunnerError(
        'CONFIG_INVALID',
        `service ${serviceId} was deployed on several chains; say which with --chain-id or --contract`,
      );
    await action(record, work);
  });
}

interface OperatorWork extends Work {
  readonly operator: ServiceOperator;
  readonly records: ServiceRecords;
}

async function withOperator(io: Io, action: (work: OperatorWork) => Promise<void>): Promise<void> {
  const records = await recordsOf(io);
  const [{ ServiceOperator: Operator }, { createPluginRegistry }, { silentTelemetry }] = await Promise.all([
    import('../../deploy/service.ts'),
    import('../../plugin/registry.ts'),
    import('../../telemetry/telemetry.ts'),
  ]);
  const plugins = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
  const operator = new Operator({ plugins, records, clock: systemClock });
  await interruptible(io, systemClock, async (work) => {
    try {
      await action({ ...work, operator, records });
    } finally {
      await operator.close();
    }
  });
}

async function recordsOf({ env }: Io): Promise<ServiceRecords> {
  const { ServiceRecords: Records, defaultRecordFolder } = await import('../../deploy/record.ts');
  return new Records(defaultRecordFolder({ ...env }));
}

function stateFolder({ env }: Io): string {
  return join(env['XDG_STATE_HOME'] ?? join(homedir(), '.local', 'state'), 'blueprint-runner');
}

function hostOf(io: Io, { target, network, hostOption }: DeployFlags): PluginReference {
  const folder = stateFolder(io);
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

function shownStatus(status: ServiceStatus): ServiceStatus {
  const functions = Object.entries(status.functions).map(([id, known]) => {
    return [id, known.state ? { ...known, state: shownState(known.state) } : known] as const;
  });
  return { ...status, functions: Object.fromEntries(functions) };
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

function removalText({ changes, left, fromBlock }: RemovalReport, isDryRun: boolean): string {
  return [
    changesText(changes, isDryRun) || 'nothing was left of it',
    ...left.map(({ what, place, problem }) => `may still be there: ${what} on ${place.use} ${JSON.stringify(place.options)}: ${problem}`),
    ...(left.length > 0 && fromBlock !== undefined ? [`to miss no call when it is deployed anew: --from-block ${fromBlock}`] : []),
  ].join('\n');
}

function statusText({ record, orchestrator, functions, drift }: ServiceStatus): string {
  const rows = Object.entries(record.jobs).map(([id, { name, place, reason, function: recorded, fellBack }]) => {
    const known = functions[id];
    const state = place === 'runner' ? 'in the orchestrator' : (known?.problem ?? known?.state?.status ?? 'gone');
    return [id, name, fellBack ? 'runner (fallback)' : place, recorded?.endpoint ?? recorded?.id ?? '', state, fellBack?.message ?? reason];
  });
  const memory = orchestrator?.memoryBytes === undefined ? '' : `, ${sizeText(orchestrator.memoryBytes)}`;
  return [
    `service ${record.serviceId} of blueprint ${record.blueprintId} ${record.blueprintName}: ${record.strategy}, ${record.status}`,
    ...(record.error ? [`${record.error.code}: ${record.error.message}`] : []),
    table([['job', 'name', 'place', 'where', 'state', 'why'], ...rows]),
    orchestrator ? `orchestrator ${orchestrator.name}: ${orchestrator.status}, ${orchestrator.id}${memory}` : 'no orchestrator',
    ...drift.map((what) => `differs: ${what}`),
  ].join('\n');
}
