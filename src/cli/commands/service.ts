import type { Command } from 'commander';
import { RunnerError } from '../../errors.ts';
import type { ServiceRecord } from '../../deploy/record.ts';
import type { RemovalReport, ServiceStatus } from '../../deploy/service.ts';
import { parseChainId, parseCount, parseUint64 } from '../calls.ts';
import { changesText, deployOptions, shownState } from '../deployer-flags.ts';
import { print, sizeText, table, toJson } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { recordsOf, withOperator } from '../service-operator.ts';
import type { OperatorWork } from '../service-operator.ts';
import { untilEnded } from '../work.ts';
import { addServiceDeploy, addServiceExport } from './service-deploy.ts';

interface ServiceFlags {
  readonly serviceId: bigint;
  readonly contract?: string;
  readonly chainId?: number;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr service deploy --service-id 123              by the policy: see bpr cloud policy
  bpr service deploy src/jobs.ts --service-id 123 --target container --key file:/run/operator-key
  bpr service deploy --service-id 123 --dry-run    what would be where, and why; writes nothing
  bpr service status --service-id 123              from any process, at any time
  bpr service remove --service-id 123

Jobs that fit their platform become functions, the others run in the orchestrator: a runner that follows the chain, hands calls out and
settles results. It outlives this command. Running a deployment again changes what differs, and goes on with one that stopped halfway.`;

/** `bpr service`: a service as a whole, from the policy to a running orchestrator. */
export function addService(program: Command, cli: Cli): void {
  const service = program
    .command('service')
    .description('deploy a service: functions and orchestrator; see how it is, end it')
    .addHelpText('after', EXAMPLES);
  addServiceDeploy(service, cli);
  addStatus(service, cli);
  addList(service, cli);
  addLogs(service, cli);
  addRemove(service, cli);
  addServiceExport(service, cli);
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
    .addHelpText(
      'after',
      '\nWith --json one line of JSON for each line of the log; an error is one line, too. A signal ends --follow with 0.',
    )
    .action(async (flags: LogFlags) => {
      await withRecord(io, flags, async (record, { operator, signal }) => {
        const { limit, follow, search } = flags;
        const query = { limit, signal, ...(follow && { follow }), ...(search !== undefined && { search }) };
        for await (const entry of untilEnded(operator.logs(record, query), follow && signal))
          io.stdout.write(`${flags.json ? toJson(entry, 0) : entry.message}\n`);
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
    .option('--chain-id <id>', 'which one, when services of several chains have this id', parseChainId)
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

function shownStatus(status: ServiceStatus): ServiceStatus {
  const functions = Object.entries(status.functions).map(([id, known]) => {
    return [id, known.state ? { ...known, state: shownState(known.state) } : known] as const;
  });
  return { ...status, functions: Object.fromEntries(functions) };
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
