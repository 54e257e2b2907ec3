import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import { RunnerError } from '../../errors.ts';
import type { FunctionConfig, FunctionPackage, FunctionSchedule } from '../../executor/deployer.ts';
import { parseSchedule } from '../../schedule/schedule.ts';
import { parseCount } from '../calls.ts';
import {
  collectOptions,
  collectTexts,
  deployOptions,
  pair,
  reportText,
  withDeployer,
  withPlatform,
  withWrites,
} from '../deployer-flags.ts';
import type { PlatformFlags, WriteFlags } from '../deployer-flags.ts';
import { print, progress } from '../output.ts';
import type { Cli, Io } from '../output.ts';

interface ConfigFlags {
  readonly memory?: number;
  readonly timeout?: number;
  readonly concurrency?: number;
  readonly keepWarm?: number;
  readonly ephemeralStorage?: number;
  readonly architecture?: 'x86_64' | 'arm64';
  readonly runtime?: string;
  readonly handler?: string;
  readonly description?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly tag?: Readonly<Record<string, string>>;
  readonly schedule?: readonly FunctionSchedule[];
  /** False: remove them. */
  readonly schedules?: boolean;
  readonly logRetention?: number;
  readonly platformOption?: Readonly<Record<string, unknown>>;
}

interface DeployFlags extends PlatformFlags, WriteFlags, ConfigFlags {
  readonly name: string;
}

interface UpdateFlags extends PlatformFlags, WriteFlags, ConfigFlags {
  readonly code?: string;
}

const SECOND = 1_000;

const EXAMPLES = `
Examples:
  bpr cloud deploy src/jobs.ts --name squaring
  bpr cloud deploy build/handler.zip --name squaring -p aws-lambda --memory 1024 --timeout 60
  bpr cloud deploy src/jobs.ts --name report --schedule 'daily=Mon-Fri 09:00 Europe/Berlin' --schedule 'often={"kind":"periodic","periodMs":300000}'
  bpr cloud deploy src/jobs.ts --name squaring --dry-run

Deploying again changes what differs, and goes on with a deployment that stopped halfway.

Exit status: 0 calls get the new version; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

/** `bpr cloud deploy`: one function, from a module or a package. */
export function addDeploy(cloud: Command, { io }: Cli): void {
  const command = cloud
    .command('deploy')
    .description('deploy jobs as one function')
    .argument('<entry>', 'module that exports the jobs, or a zip')
    .requiredOption('--name <name>', 'name of the function');
  withWrites(withConfig(withPlatform(command)))
    .addHelpText('after', EXAMPLES)
    .action(async (entry: string, flags: DeployFlags) => {
      const code = await packageOf(io, entry);
      await withDeployer(io, flags, async (deployer) => {
        const report = await deployer.deploy(flags.name, code, configOf(flags), deployOptions(io, flags));
        print(io, flags.json, { document: report, text: reportText(report, flags.dryRun === true) });
      });
    });
}

/** `bpr cloud update`: only the code, or only what the flags name. */
export function addUpdate(cloud: Command, { io }: Cli): void {
  const command = cloud
    .command('update')
    .alias('up')
    .description('update the code or the configuration of a function')
    .argument('<name>', 'the function')
    .option('--code <entry>', 'module that exports the jobs, or a zip');
  withWrites(withConfig(withPlatform(command))).action(async (name: string, flags: UpdateFlags) => {
    const config = configOf(flags);
    if (flags.code === undefined && Object.keys(config).length === 0)
      throw new RunnerError('CONFIG_INVALID', 'nothing is to be updated: name --code or a setting');
    const code = flags.code === undefined ? undefined : await packageOf(io, flags.code);
    await withDeployer(io, flags, async (deployer) => {
      const options = deployOptions(io, flags);
      const first = code && (await deployer.updateCode(name, code, options));
      const report = Object.keys(config).length === 0 && first ? first : await deployer.updateConfiguration(name, config, options);
      const both = {
        ...report,
        changes: first && first !== report ? [...first.changes, ...report.changes] : report.changes,
        warnings: first && first !== report ? [...first.warnings, ...report.warnings] : report.warnings,
      };
      print(io, flags.json, { document: both, text: reportText(both, flags.dryRun === true) });
    });
  });
}

function withConfig(command: Command): Command {
  return command
    .option('--memory <mb>', 'memory', parseCount)
    .option('--timeout <seconds>', 'the longest that one call may run', parseCount)
    .option('--concurrency <count>', 'calls at the same time', parseCount)
    .option('--keep-warm <count>', 'instances that are kept ready', parseCount)
    .option('--ephemeral-storage <mb>', 'size of /tmp', parseCount)
    .addOption(new Option('--architecture <name>', 'processor').choices(['x86_64', 'arm64']))
    .option('--runtime <name>', 'nodejs24, nodejs22 or custom')
    .option('--handler <name>', 'what is called in the package')
    .option('--description <text>', 'for people')
    .option('--env <name=value>', 'a variable of the function; can be repeated', collectTexts)
    .option('--tag <name=value>', 'a tag; can be repeated', collectTexts)
    .option('--schedule <name=schedule>', 'when it runs by itself: systemd calendar, or JSON; can be repeated', collectSchedules)
    .option('--no-schedules', 'remove all schedules')
    .option('--log-retention <days>', 'how long logs are kept', parseCount)
    .option('--platform-option <name=value>', 'what only this platform knows, JSON; can be repeated', collectOptions);
}

function configOf(flags: ConfigFlags): FunctionConfig {
  const schedules = flags.schedules === false ? [] : flags.schedule;
  const all: { readonly [Key in keyof FunctionConfig]: FunctionConfig[Key] | undefined } = {
    memoryMb: flags.memory,
    timeoutMs: flags.timeout === undefined ? undefined : flags.timeout * SECOND,
    concurrencyMax: flags.concurrency,
    instancesMin: flags.keepWarm,
    ephemeralStorageMb: flags.ephemeralStorage,
    architecture: flags.architecture,
    runtime: flags.runtime,
    handler: flags.handler,
    description: flags.description,
    environment: flags.env,
    tags: flags.tag,
    schedules,
    logRetentionDays: flags.logRetention,
    platform: flags.platformOption,
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

/** A zip as it is; a module is bundled first. */
async function packageOf(io: Io, entry: string): Promise<FunctionPackage> {
  const file = resolve(io.cwd, entry);
  if (file.endsWith('.zip')) {
    const zip = read(file);
    return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
  }
  progress(io, `bundling ${entry} ...`);
  const { buildHandler } = await import('../../deploy/package.ts');
  const outDir = mkdtempSync(join(tmpdir(), 'bpr-build-'));
  try {
    const { zipFile, sha256 } = await buildHandler({ entry: file, outDir, env: io.env });
    return { zip: readFileSync(zipFile), sha256 };
  } finally {
    rmSync(outDir, { recursive: true });
  }
}

function read(file: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new RunnerError('CODE_MISSING', `the package ${file} cannot be read`, { cause, details: { file } });
  }
}

function collectSchedules(text: string, previous: readonly FunctionSchedule[] = []): FunctionSchedule[] {
  const [name, value] = pair(text);
  return [...previous, { name, schedule: parseSchedule(value) }];
}
