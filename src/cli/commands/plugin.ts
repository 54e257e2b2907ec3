import { join, resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import { PLUGIN_KINDS, checkPluginName, pluginFiles } from '../plugin-project.ts';
import type { PluginKind } from '../plugin-project.ts';
import { print } from '../output.ts';
import type { Cli } from '../output.ts';
import { nextCommands, writeScaffold } from '../scaffold.ts';

interface NewFlags {
  readonly dir?: string;
  readonly kind: PluginKind;
  readonly force?: true;
  readonly dryRun?: true;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr plugin new acme                      an executor and a deployer in ./blueprint-plugin-acme
  bpr plugin new acme --kind executor      only what runs calls
  bpr plugin new acme --kind backend       instances for the function runtime of the gateway
  bpr plugin new acme --dir plugins/acme --dry-run

The package works at once: it brings a small platform that its tests run the conformance suites against. Its client.ts
is the one file to be replaced by the API of the real platform.

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

/** `bpr plugin`: plugins of one's own. */
export function addPlugin(program: Command, { io }: Cli): void {
  const plugin = program.command('plugin').description('write plugins for other platforms');
  plugin
    .command('new')
    .description('write a plugin package that passes the conformance suites')
    .argument('<name>', 'of the plugin: lower-case letters, digits and dashes')
    .option('--dir <dir>', 'where to (default: blueprint-plugin-<name>)')
    .addOption(
      new Option('--kind <kind>', 'what the plugin adds; a deployer comes with its executor').choices(PLUGIN_KINDS).default('deployer'),
    )
    .option('--force', 'write into a directory that is not empty')
    .option('--dry-run', 'say what would be written')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    .action((name: string, { dir = `blueprint-plugin-${name}`, kind, force, dryRun, json }: NewFlags) => {
      checkPluginName(name);
      const root = resolve(io.cwd, dir);
      const files = pluginFiles(name, kind);
      writeScaffold({ root, files, force, dryRun });
      const names = Object.keys(files);
      const next = nextCommands(dir, 'npm install', 'npm test');
      const head = dryRun ? 'Would write:' : 'Written:';
      print(io, json, {
        document: { name, kind, root, files: names, next, dryRun: dryRun === true },
        text: [head, ...names.map((file) => join(dir, file)), '', `Next: ${next}`].join('\n'),
      });
    });
}
