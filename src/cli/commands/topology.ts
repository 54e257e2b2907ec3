/** `bpr topology`: control plane, workers and engines together, on this machine or as files for others. */

import { join, resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import { systemClock } from '../../clock.ts';
import type { ClusterReport } from '../../topology/cluster.ts';
import { engineWarnings } from '../../topology/recommend.ts';
import { TOPOLOGY_OPTIONS } from '../../topology/topology.ts';
import type { TopologyOption } from '../../topology/topology.ts';
import { parseCount, parsePort } from '../calls.ts';
import { baseFolder } from '../environment.ts';
import { logLevelOf } from '../log-level.ts';
import { print, sizeText, table } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { withFolderLock } from '../topology-lock.ts';
import { interruptible } from '../work.ts';
import { addMatrix, addRecommend } from './topology-advice.ts';
import { enginePlace, openCluster } from './topology-cluster.ts';
import type { EngineHost } from './topology-cluster.ts';
import { addRender } from './topology-render.ts';

interface FolderFlags {
  readonly data?: string;
  readonly json?: true;
}

interface UpFlags extends FolderFlags {
  readonly option: TopologyOption;
  readonly workers: number;
  readonly engines?: number;
  readonly port?: number;
  readonly enginePort?: number;
  readonly engineHost?: EngineHost;
  readonly concurrency: number;
  readonly leaseMs: number;
  readonly workersPerEngine?: number;
}

const OPTIONS_HELP = `
Options of a topology:
  1       each worker has a WASM engine of its own
  2       workers share the engine of the control plane, which calls it for them; nobody else reaches it
  3       several engines, among which workers divide their calls (--engines, default 3)
  4       one engine on the network: HTTP for execution, the control plane for distribution
  hybrid  workers as in 1, and beside them engines as in 3 (--engines, default 2) with one worker that divides calls among them
Jobs that require engine:own or engine:shared run on workers that have it.`;

const EXAMPLES = `
Examples:
  bpr topology up --option 1 --workers 4
  bpr topology up --option 3 --workers 2 --engines 3 --data ./cluster
  bpr topology status
  bpr queue stats --data ~/.blueprint-runner/topology/control
  bpr topology down
${OPTIONS_HELP}

All parts are processes of this machine. It ends when all of them are ready; they stay. A second up starts what is missing, and what is to run
otherwise now. Engines ask for the key in engine.token of the folder. That of option 4 listens on all addresses of this machine (--engine-host).
SIGINT or SIGTERM before the end of up ends what it has started. One up or down at a time: another one on the folder is refused meanwhile.

Exit status: 0 done; 1 failed, or of status: not everything runs; 2 called in a wrong way; 130 or 143 interrupted by a signal.`;

export function addTopology(program: Command, cli: Cli): void {
  const topology = program.command('topology').description('control plane, workers and engines together').addHelpText('after', EXAMPLES);
  addUp(topology, cli);
  addDown(topology, cli);
  addStatus(topology, cli);
  addRender(withSize(topology.command('render').description('write one as files: compose, kubernetes, systemd, script, dockerfile')), cli);
  addRecommend(topology, cli);
  addMatrix(topology, cli);
}

function withFolder(command: Command): Command {
  return command
    .option('--data <dir>', 'its folder; a short path (default: topology in BPR_DATA_DIR, or ~/.blueprint-runner/topology)')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES);
}

/** The options that choose a topology. */
function withSize(command: Command): Command {
  return command
    .addOption(new Option('--option <name>', 'how the parts are put together').choices(TOPOLOGY_OPTIONS).makeOptionMandatory())
    .option('--workers <count>', 'workers', parseCount, 2)
    .option('--engines <count>', 'shared engines, of 3 and hybrid', parseCount);
}

function addUp(topology: Command, { io }: Cli): void {
  withFolder(withSize(topology.command('up').description('start one on this machine, or what of it is missing')))
    .option('--port <port>', 'of the control plane; 0: any free one (default: that of before, or 3020)', parsePort)
    .option(
      '--engine-port <port>',
      'of the first engine, the others follow; 0: any free ones (default: those of before, or 27288)',
      parsePort,
    )
    .addOption(
      new Option('--engine-host <address>', 'where engines listen (default: 0.0.0.0 for option 4, else 127.0.0.1)').choices([
        '127.0.0.1',
        '0.0.0.0',
      ]),
    )
    .option('--concurrency <count>', 'jobs at the same time, of each worker', parseCount, 4)
    .option('--lease-ms <ms>', 'how long workers hold a job without a sign of life', parseCount, 30_000)
    .option('--workers-per-engine <count>', 'that one engine keeps busy, as measured; more are warned of (default: 20)', parseCount)
    .action((flags: UpFlags) =>
      interruptible(io, systemClock, async ({ signal, tell }) => {
        const warnings = engineWarnings(flags.option, flags);
        const folder = folderOf(io, flags);
        const settings = { ...flags, ...enginePlace(flags.option, flags.engineHost), logLevel: logLevelOf(io) };
        // Not told as writes: what is interrupted is undone.
        const onProgress = ({ step, function: name }: { readonly step: string; readonly function: string }): void =>
          tell({ step, function: name });
        const report = await withFolderLock(folder, async () => (await openCluster(folder)).up(settings, { signal, onProgress }));
        const { started, ended } = report;
        const news = [
          ...(started.length > 0 ? [`started ${started.join(', ')}`] : ['everything ran already']),
          ...(ended.length > 0 ? [`ended ${ended.join(', ')}`] : []),
        ];
        const text = [reportText(report), '', ...news, ...warnings.map((one) => `warning: ${one}`)].join('\n');
        print(io, flags.json, { document: { ...report, warnings }, text });
      }),
    );
}

function addDown(topology: Command, { io }: Cli): void {
  withFolder(topology.command('down').description('end what up started; what it has written stays'))
    .option('--purge', 'remove what it has written, too: queue, keys, tickets, functions')
    .action((flags: FolderFlags & { readonly purge?: true }) =>
      interruptible(io, systemClock, async ({ tell }) => {
        const folder = folderOf(io, flags);
        const ended = await withFolderLock(folder, async () =>
          (await openCluster(folder)).down({ purge: flags.purge === true }, { onProgress: tell }),
        );
        const text = ended.length === 0 ? 'nothing runs' : `ended ${ended.join(', ')}`;
        print(io, flags.json, { document: { ended, purged: flags.purge === true }, text });
      }),
    );
}

function addStatus(topology: Command, cli: Cli): void {
  const { io } = cli;
  withFolder(topology.command('status').description('what runs')).action(async (flags: FolderFlags) => {
    const report = await (await openCluster(folderOf(io, flags))).status();
    if (!report || report.parts.some(({ status }) => status !== 'running')) cli.exitCode = 1;
    print(io, flags.json, { document: report ?? { parts: [] }, text: report ? reportText(report) : 'there is no topology' });
  });
}

function folderOf(io: Io, { data }: FolderFlags): string {
  return data === undefined ? join(baseFolder(io), 'topology') : resolve(io.cwd, data);
}

function reportText({ option, controlUrl, ticketFile, engineUrls, folder, parts }: ClusterReport): string {
  const head = ['part', 'state', 'pid', 'url', 'memory'];
  const rows = parts.map(({ name, status, pid, url, memoryBytes }) => [
    name,
    status,
    pid === undefined ? '' : String(pid),
    url,
    memoryBytes === undefined ? '' : sizeText(memoryBytes),
  ]);
  return [
    `option         ${option}`,
    `control plane  ${controlUrl}`,
    `ticket         ${ticketFile}`,
    ...(engineUrls.length > 0 ? [`engines        ${engineUrls.join(', ')}`] : []),
    `data           ${folder}`,
    '',
    table([head, ...rows]),
    ...parts.flatMap(({ name, reason }) =>
      reason === undefined || reason === '' ? [] : ['', `${name} ended; the last lines of its log:`, reason],
    ),
  ].join('\n');
}
