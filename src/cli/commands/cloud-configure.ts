import { resolve } from 'node:path';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { CONFIGURABLE, cloudConfigPath, configureCloud } from '../../deploy/cloud-config.ts';
import type { Configurable } from '../../deploy/cloud-config.ts';
import { print } from '../output.ts';
import type { Cli } from '../output.ts';

interface ConfigureFlags {
  readonly region?: string;
  readonly project?: string;
  readonly setDefault?: true;
  readonly config?: string;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr cloud configure aws -r eu-west-1 -d     aws in Ireland, by default
  bpr cloud configure gcp --project my-project

The file is tangle/cloud.json in the configuration directory (XDG_CONFIG_HOME or ~/.config). It holds no credentials.

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

/** `bpr cloud configure`: which clouds are used, and where. */
export function addConfigure(cloud: Command, { io }: Cli): void {
  cloud
    .command('configure')
    .alias('cfg')
    .description('say which cloud is used, and where')
    .argument('<provider>', CONFIGURABLE.join(', '), parseConfigurable)
    .option('-r, --region <region>', 'its region; default: what the environment says, or a usual one')
    .option('--project <id>', 'its project, of gcp')
    .option('-d, --set-default', 'use it when none is named')
    .option('--config <file>', 'the file, when it is elsewhere')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    .action((provider: Configurable, flags: ConfigureFlags) => {
      const path = flags.config === undefined ? cloudConfigPath(io.env) : resolve(io.cwd, flags.config);
      const config = configureCloud(path, provider, {
        env: io.env,
        isDefault: flags.setDefault ?? false,
        ...(flags.region !== undefined && { region: flags.region }),
        ...(flags.project !== undefined && { projectId: flags.project }),
      });
      const settings = config.providers.get(provider);
      const said = [settings?.region, settings?.projectId, config.defaultProvider === provider ? 'default' : undefined].filter(Boolean);
      print(io, flags.json, {
        document: { path, defaultProvider: config.defaultProvider, providers: Object.fromEntries(config.providers) },
        text: `${provider}: ${said.join(', ') || 'configured'}\nwritten to ${path}`,
      });
    });
}

export function parseConfigurable(text: string): Configurable {
  const found = CONFIGURABLE.find((known) => known === text.toLowerCase());
  if (!found) throw new InvalidArgumentError(`It must be one of ${CONFIGURABLE.join(', ')}.`);
  return found;
}
