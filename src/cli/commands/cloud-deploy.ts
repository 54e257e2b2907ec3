import type { Command } from 'commander';
import { RunnerError } from '../../errors.ts';
import { deployOptions, reportText, shownReport, withDeployer, withPlatform, withWrites } from '../deployer-flags.ts';
import type { PlatformFlags, WriteFlags } from '../deployer-flags.ts';
import { configOf, packageOf, withConfig } from '../function-flags.ts';
import type { ConfigFlags } from '../function-flags.ts';
import { print } from '../output.ts';
import type { Cli } from '../output.ts';

interface DeployFlags extends PlatformFlags, WriteFlags, ConfigFlags {
  readonly name: string;
}

interface UpdateFlags extends PlatformFlags, WriteFlags, ConfigFlags {
  readonly code?: string;
}

const EXAMPLES = `
Examples:
  bpr cloud deploy src/jobs.ts --name squaring
  bpr cloud deploy build/handler.zip --name squaring -p aws-lambda --memory 1024 --timeout 60
  bpr cloud deploy src/jobs.ts --name report --schedule 'daily=Mon-Fri 09:00 Europe/Berlin' --schedule 'often={"kind":"periodic","periodMs":300000}'
  bpr cloud deploy --name squaring -p aws-lambda --platform-option image=ACCOUNT.dkr.ecr.REGION.amazonaws.com/squaring@sha256:...
  bpr cloud deploy src/jobs.ts --name squaring --dry-run

Deploying again changes what differs, and goes on with a deployment that stopped halfway.

Exit status: 0 calls get the new version; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way; 130 and 143
interrupted by SIGINT and SIGTERM, the message says what is done.`;

/** `bpr cloud deploy`: one function, from a module or a package. */
export function addDeploy(cloud: Command, { io }: Cli): void {
  const command = cloud
    .command('deploy')
    .description('deploy jobs as one function')
    .argument('[entry]', 'module that exports the jobs, or a zip; none for an image of AWS Lambda')
    .requiredOption('--name <name>', 'name of the function');
  withWrites(withConfig(withPlatform(command)))
    .addHelpText('after', EXAMPLES)
    .action(async (entry: string | undefined, flags: DeployFlags) => {
      const wanted = configOf(flags);
      if (entry === undefined && wanted.platform?.['image'] === undefined) command.error("error: missing required argument 'entry'");
      const { NO_PACKAGE, codeForPlugin, needsPackage, withScheduleEvents } = await import('../../deploy/platform-code.ts');
      const code = entry === undefined ? NO_PACKAGE : await packageOf(io, entry);
      await withDeployer(io, flags, async ({ deployer, plugin, size, ...work }) => {
        if (entry === undefined && needsPackage(plugin, wanted))
          throw new RunnerError('CONFIG_INVALID', `a function of ${plugin} needs a package, also with an image: name a module or a zip`);
        const config = await withScheduleEvents({ ...size, ...wanted }, code);
        const report = await deployer.deploy(flags.name, await codeForPlugin(plugin, code, io.cwd), config, deployOptions(work, flags));
        print(io, flags.json, { document: shownReport(report), text: reportText(report, flags.dryRun === true) });
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
    const { codeForPlugin } = await import('../../deploy/platform-code.ts');
    await withDeployer(io, flags, async ({ deployer, plugin, ...work }) => {
      const options = deployOptions(work, flags);
      const first = code && (await deployer.updateCode(name, await codeForPlugin(plugin, code, io.cwd), options));
      const report = Object.keys(config).length === 0 && first ? first : await deployer.updateConfiguration(name, config, options);
      const both = {
        ...report,
        changes: first && first !== report ? [...first.changes, ...report.changes] : report.changes,
        warnings: first && first !== report ? [...first.warnings, ...report.warnings] : report.warnings,
      };
      print(io, flags.json, { document: shownReport(both), text: reportText(both, flags.dryRun === true) });
    });
  });
}
