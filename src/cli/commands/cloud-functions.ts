import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import { RunnerError } from '../../errors.ts';
import type { FunctionState, InvocationType, LogEntry, LogQuery } from '../../executor/deployer.ts';
import { parseCount, parseSince } from '../calls.ts';
import {
  changesText,
  deployOptions,
  reportText,
  shownReport,
  shownState,
  withDeployer,
  withPlatform,
  withWrites,
} from '../deployer-flags.ts';
import type { DeployerWork, PlatformFlags, WriteFlags } from '../deployer-flags.ts';
import { atPath } from '../named-path.ts';
import { print, table, timeText, toJson } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { untilEnded } from '../work.ts';

interface InvokeFlags extends PlatformFlags {
  readonly data?: string;
  readonly file?: string;
  readonly type: InvocationType;
  readonly functionVersion?: string;
}

interface LogFlags extends PlatformFlags {
  readonly limit: number;
  readonly follow?: true;
  readonly level?: NonNullable<LogQuery['level']>;
  readonly search?: string;
  readonly since?: number;
  readonly requestId?: string;
}

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'];

/** The commands that look at functions, call them, and take them off. */
export function addFunctions(cloud: Command, cli: Cli): void {
  addInvoke(cloud, cli);
  addLogs(cloud, cli);
  addList(cloud, cli);
  addStatus(cloud, cli);
  addRollback(cloud, cli);
  addTerminate(cloud, cli);
}

function addInvoke(cloud: Command, cli: Cli): void {
  const { io } = cli;
  withPlatform(cloud.command('invoke').description('call a function by hand').argument('<name>', 'the function'))
    .option('--data <json>', 'the event (default: {})')
    .option('--file <path>', 'the event, from a file')
    .addOption(
      new Option('--type <how>', 'wait for the answer, queue the call, or only check it')
        .choices(['sync', 'async', 'dry-run'])
        .default('sync'),
    )
    .option('--function-version <version>', 'which version (default: the one that calls go to)')
    .addHelpText('after', '\nExit status: 0 it answered, or took the call; 1 it failed; 2 called in a wrong way.')
    .action(async (name: string, flags: InvokeFlags) => {
      await withDeployer(io, flags, async ({ deployer, signal }) => {
        const { type, functionVersion } = flags;
        const version = functionVersion === undefined ? {} : { version: functionVersion };
        const answer = await deployer.invoke(name, eventOf(io, flags), { type, ...version, signal });
        if (answer.failed) cli.exitCode = 1;
        const text = Buffer.from(answer.body).toString('utf8');
        const shown = type === 'sync' ? text : type === 'async' ? 'the call was taken' : 'the function can be called';
        print(io, flags.json, { document: { ...answer, body: text }, text: shown });
      });
    });
}

function eventOf(io: Io, { data, file }: InvokeFlags): Uint8Array {
  if (data !== undefined && file !== undefined) throw new RunnerError('CONFIG_INVALID', 'the event is given twice: --data and --file');
  if (file === undefined) return Buffer.from(data ?? '{}');
  const path = resolve(io.cwd, file);
  return atPath({ path, flag: '--file', use: 'read' }, () => readFileSync(path));
}

function addLogs(cloud: Command, { io }: Cli): void {
  withPlatform(cloud.command('logs').description('print the log of a function').argument('<name>', 'the function'))
    .option('-n, --limit <count>', 'the newest so many', parseCount, 100)
    .option('-f, --follow', 'go on with what is written from now on, until interrupted')
    .addOption(new Option('-l, --level <level>', 'this level and above').choices(LEVELS))
    .option('-s, --search <text>', 'only lines with this text')
    .option('--since <time>', 'only from then on: 30s, 15m, 2h, 7d ago, or a date', parseSince)
    .option('--request-id <id>', 'only of one call')
    .addHelpText(
      'after',
      '\nWith --json one line of JSON for each line of the log; an error is one line, too. A signal ends --follow with 0.',
    )
    .action(async (name: string, flags: LogFlags) => {
      await withDeployer(io, flags, async ({ deployer, signal }) => {
        const { limit, follow, level, search, since, requestId } = flags;
        const query: LogQuery = {
          limit,
          signal,
          ...(follow && { follow }),
          ...(level && { level }),
          ...(search !== undefined && { search }),
          ...(since !== undefined && { sinceMs: since }),
          ...(requestId !== undefined && { requestId }),
        };
        for await (const entry of untilEnded(deployer.logs(name, query), follow && signal))
          io.stdout.write(`${flags.json ? toJson(entry, 0) : lineOf(entry)}\n`);
      });
    });
}

function lineOf({ at, level, message }: LogEntry): string {
  return `${timeText(at)} ${level === undefined ? '' : `${level} `}${message.trimEnd()}`;
}

function addList(cloud: Command, { io }: Cli): void {
  withPlatform(cloud.command('list').alias('ls').description('list the functions on the platform'))
    .option('--all', 'those of others, too')
    .action(async (flags: PlatformFlags & { readonly all?: true }) => {
      await withDeployer(io, flags, async ({ deployer, signal }) => {
        const functions: FunctionState[] = [];
        for await (const state of deployer.list({ signal, ...(flags.all && { all: true }) })) functions.push(shownState(state));
        const rows = functions.map(({ name, status, version, config, updatedAt }) => [
          name,
          status,
          version ?? '',
          config.memoryMb === undefined ? '' : `${config.memoryMb} MB`,
          updatedAt ?? '',
        ]);
        const text = rows.length === 0 ? 'there are no functions' : table([['name', 'status', 'version', 'memory', 'updated'], ...rows]);
        print(io, flags.json, { document: { functions }, text });
      });
    });
}

function addStatus(cloud: Command, cli: Cli): void {
  const { io } = cli;
  withPlatform(cloud.command('status').alias('s').description('say how a function is').argument('<name>', 'the function'))
    .addHelpText('after', '\nExit status: 0 it takes calls; 1 it does not, or there is none; 2 called in a wrong way.')
    .action(async (name: string, flags: PlatformFlags) => {
      await withDeployer(io, flags, async ({ deployer, signal }) => {
        const state = await deployer.describe(name, { signal });
        if (!state) throw new RunnerError('FUNCTION_NOT_FOUND', `the platform has no function ${name}`, { details: { name } });
        if (state.status !== 'active') cli.exitCode = 1;
        const versions = state.status === 'foreign' ? [] : await versionsOf(deployer, name, signal);
        const shown = versions.map(({ version, current, createdAt, sha256 }) => [
          current ? `${version} *` : version,
          createdAt ?? '',
          sha256?.slice(0, 12) ?? '',
        ]);
        print(io, flags.json, {
          document: { ...shownState(state), versions },
          text: [
            `${name}: ${state.status}${state.reason === undefined ? '' : `, ${state.reason}`}`,
            ...(state.endpoint === undefined ? [] : [state.endpoint]),
            ...state.resources.map(({ kind, id }) => `${kind} ${id}`),
            ...(shown.length === 0 ? [] : [table([['version', 'created', 'package'], ...shown])]),
          ].join('\n'),
        });
      });
    });
}

type Deployer = DeployerWork['deployer'];

/** None where the platform keeps none. */
async function versionsOf(deployer: Deployer, name: string, signal: AbortSignal): ReturnType<Deployer['versions']> {
  try {
    return await deployer.versions(name, { signal });
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'OPERATION_UNSUPPORTED') return [];
    throw error;
  }
}

function addRollback(cloud: Command, { io }: Cli): void {
  const command = cloud.command('rollback').alias('rb').description('send calls to an earlier version').argument('<name>', 'the function');
  withWrites(withPlatform(command))
    .option('-v, --to <version>', 'which one (default: the one before the current one)')
    .action(async (name: string, flags: PlatformFlags & WriteFlags & { readonly to?: string }) => {
      await withDeployer(io, flags, async ({ deployer, ...work }) => {
        const report = await deployer.rollback(name, flags.to, deployOptions(work, flags));
        print(io, flags.json, { document: shownReport(report), text: reportText(report, flags.dryRun === true) });
      });
    });
}

interface TerminateFlags extends PlatformFlags, WriteFlags {
  readonly all?: true;
  readonly yes?: true;
}

function addTerminate(cloud: Command, { io }: Cli): void {
  const command = cloud
    .command('terminate')
    .alias('term')
    .description('remove functions with all that was made for them, except logs')
    .argument('[names...]', 'the functions')
    .option('--all', 'all that this tool deployed there; needs --yes')
    .option('-y, --yes', 'do it without being asked');
  withWrites(withPlatform(command)).action(async (names: readonly string[], flags: TerminateFlags) => {
    if ((names.length === 0) === (flags.all === undefined)) throw new RunnerError('CONFIG_INVALID', 'name functions, or say --all');
    if (flags.all && !flags.yes && !flags.dryRun)
      throw new RunnerError('CONFIG_INVALID', '--all removes every function; say --yes, or --dry-run to see them');
    await withDeployer(io, flags, async ({ deployer, ...work }) => {
      const options = deployOptions(work, flags);
      const wanted = [...names];
      if (flags.all) for await (const { name } of deployer.list({ signal: work.signal })) wanted.push(name);
      const changes = [];
      const warnings = [];
      for (const name of wanted) {
        const report = await deployer.remove(name, options);
        changes.push(...report.changes);
        warnings.push(...report.warnings);
      }
      const text = [
        changesText(changes, flags.dryRun === true) || 'nothing was there',
        ...warnings.map((warning) => `warning: ${warning}`),
      ];
      print(io, flags.json, { document: { changes, warnings }, text: text.join('\n') });
    });
  });
}
