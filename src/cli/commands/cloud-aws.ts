import type { Command } from 'commander';
import { RunnerError } from '../../errors.ts';
import type { DeployChange, DeployOptions, FaasDeployer } from '../../executor/deployer.ts';
import { changesText, collectDeployerOptions, deployOptions, withDeployer } from '../deployer-flags.ts';
import type { PluginOptions } from '../deployer-flags.ts';
import { print } from '../output.ts';
import type { Cli } from '../output.ts';

interface RoleFlags {
  readonly name: string;
  readonly print?: true;
  readonly config?: string;
  readonly deployerOption?: PluginOptions;
  readonly dryRun?: true;
  readonly json?: true;
}

/** What the deployer of the plugin `aws-lambda` has besides. */
interface RoleMaker extends FaasDeployer {
  bootstrapRole(name: string, options: DeployOptions): Promise<{ readonly arn?: string; readonly changes: readonly DeployChange[] }>;
  bootstrapRoleCommands(name: string): Promise<readonly string[]>;
}

const EXAMPLES = `
Examples:
  bpr cloud aws bootstrap-role                 makes the role, or finds that it is there, and prints its ARN
  bpr cloud aws bootstrap-role --print         the same as commands of the AWS CLI; nothing is asked or done
  bpr cloud deploy src/jobs.ts --name squaring --platform-option role="$(bpr cloud aws bootstrap-role)"

What is done is told on stderr. A deployment needs no such role: it makes one for each function, unless it is given one.

Exit status: 0 the role is there; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way; 130 and 143
interrupted by SIGINT and SIGTERM, the message says what is done.`;

/** `bpr cloud aws`: what only AWS has. */
export function addAws(cloud: Command, { io }: Cli): void {
  const aws = cloud.command('aws').description('what only AWS has');
  aws
    .command('bootstrap-role')
    .description('make the execution role that functions may share, and print its ARN')
    .option('--name <role>', 'name of the role', 'blueprint-lambda-execution')
    .option('--print', 'print the commands of the AWS CLI that do the same')
    .option('--dry-run', 'say what would be done, and do nothing')
    .option('--config <file>', 'the deployment policy, when it is not in the configuration directory')
    .option('--deployer-option <plugin.name=value>', 'an option of the platform; can be repeated', collectDeployerOptions)
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    .action((flags: RoleFlags) =>
      withDeployer(io, { ...flags, provider: 'aws-lambda' }, async ({ deployer, ...work }) => {
        if (!makesRoles(deployer)) throw new RunnerError('OPERATION_UNSUPPORTED', `the deployer ${deployer.name} makes no roles of AWS`);
        if (flags.print) {
          const commands = await deployer.bootstrapRoleCommands(flags.name);
          print(io, flags.json, { document: { name: flags.name, commands }, text: commands.join('\n') });
          return;
        }
        const role = await deployer.bootstrapRole(flags.name, deployOptions(work, flags));
        const changes = changesText(role.changes, flags.dryRun === true);
        if (!flags.json && changes !== '') io.stderr.write(`${changes}\n`);
        print(io, flags.json, { document: role, text: role.arn ?? '(its ARN is known when it is there)' });
      }),
    );
}

function makesRoles(deployer: FaasDeployer): deployer is RoleMaker {
  return 'bootstrapRole' in deployer && 'bootstrapRoleCommands' in deployer;
}
