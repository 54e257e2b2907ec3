/** The flags that say how a function is to run, and the package that it runs. */

import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import { RunnerError } from '../errors.ts';
import type { FunctionConfig, FunctionPackage, FunctionSchedule } from '../executor/deployer.ts';
import { parseSchedule } from '../schedule/schedule.ts';
import { parseCount } from './calls.ts';
import { collectOptions, collectTexts, pair } from './deployer-flags.ts';
import { progress } from './output.ts';
import type { Io } from './output.ts';

export interface ConfigFlags {
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
  /** Events of schedules, by name. */
  readonly scheduleEvent?: Readonly<Record<string, unknown>>;
  /** False: remove them. */
  readonly schedules?: boolean;
  readonly logRetention?: number;
  readonly platformOption?: Readonly<Record<string, unknown>>;
}

const SECOND = 1_000;

export function withConfig(command: Command): Command {
  return command
    .option('--memory <mb>', 'memory (default: that of the policy, else of the platform)', parseCount)
    .option('--timeout <seconds>', 'the longest that one call may run (default: likewise)', parseCount)
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
    .option('--schedule-event <name=json>', 'the event of a schedule (default: the one job without input); can be repeated', collectOptions)
    .option('--no-schedules', 'remove all schedules')
    .option('--log-retention <days>', 'how long logs are kept', parseCount)
    .option('--platform-option <name=value>', 'what only this platform knows, JSON; can be repeated', collectOptions);
}

export function configOf(flags: ConfigFlags): FunctionConfig {
  const schedules = flags.schedules === false ? [] : withEvents(flags.schedule, flags.scheduleEvent ?? {});
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
export async function packageOf(io: Io, entry: string): Promise<FunctionPackage> {
  const file = resolve(io.cwd, entry);
  if (file.endsWith('.zip')) {
    const zip = read(file);
    return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
  }
  progress(io, `bundling ${entry} ...`);
  const { buildHandler } = await import('../deploy/package.ts');
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

function withEvents(
  schedules: readonly FunctionSchedule[] | undefined,
  events: Readonly<Record<string, unknown>>,
): readonly FunctionSchedule[] | undefined {
  for (const name of Object.keys(events)) {
    if (!schedules?.some((schedule) => schedule.name === name))
      throw new RunnerError('CONFIG_INVALID', `--schedule-event names the schedule ${name}, which --schedule does not`, {
        details: { name },
      });
  }
  return schedules?.map((schedule) => (schedule.name in events ? { ...schedule, event: events[schedule.name] } : schedule));
}
