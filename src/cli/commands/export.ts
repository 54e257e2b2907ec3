import { writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import { EXPORT_FORMATS } from '../../deploy/export.ts';
import type { ExportFormat } from '../../deploy/export.ts';
import type { Exported } from '../../deploy/export-files.ts';
import { makeFolder } from '../../folder.ts';
import { configOf, packageOf, withConfig } from '../function-flags.ts';
import type { ConfigFlags } from '../function-flags.ts';
import { print } from '../output.ts';
import type { Cli, Io } from '../output.ts';

interface ExportFlags extends ConfigFlags {
  readonly name: string;
  readonly format: ExportFormat;
  readonly out: string;
  readonly region?: string;
  readonly json?: true;
}

/** The others are for the orchestrator of a service. */
const FUNCTION_FORMATS = ['cloudformation', 'sam', 'terraform', 'knative'] as const satisfies readonly ExportFormat[];

const EXAMPLES = `
Examples:
  bpr cloud export src/jobs.ts --name squaring --format terraform --out infrastructure
  bpr cloud export src/jobs.ts --name report --format sam --schedule 'daily=Mon-Fri 09:00 Europe/Berlin'
  bpr service export --service-id 123 --format compose     the orchestrator of a service

The same sources give the same files. Whoever deploys them owns what they make: bpr does not touch it.`;

/** `bpr cloud export`: a function as a file of another tool. */
export function addExport(cloud: Command, { io }: Cli): void {
  const command = cloud
    .command('export')
    .description('write a function as CloudFormation, SAM, Terraform or Knative')
    .argument('<entry>', 'module that exports the jobs, or a zip')
    .requiredOption('--name <name>', 'name of the function');
  withConfig(withExport(command, FUNCTION_FORMATS))
    .addHelpText('after', EXAMPLES)
    .action(async (entry: string, flags: ExportFlags) => {
      const [{ exportPlan }, code] = await Promise.all([import('../../deploy/export.ts'), packageOf(io, entry)]);
      const { withScheduleEvents } = await import('../../deploy/platform-code.ts');
      const functions = [{ name: flags.name, code, config: await withScheduleEvents(configOf(flags), code) }];
      writeExport(io, flags, exportPlan(flags.format, { functions, region: flags.region }));
    });
}

export function withExport(command: Command, formats: readonly ExportFormat[] = EXPORT_FORMATS): Command {
  return command
    .addOption(new Option('--format <name>', 'of which tool').choices(formats).makeOptionMandatory())
    .option('--out <dir>', 'where the files go', 'export')
    .option('--region <name>', 'region of the functions (default: us-east-1)')
    .option('--json', 'print one JSON document');
}

/** Writes the files and says what to do with them. */
export function writeExport(io: Io, { out, json }: { readonly out: string; readonly json?: true }, exported: Exported): void {
  const folder = resolve(io.cwd, out);
  const files = Object.entries(exported.files).map(([path, content]) => {
    const file = join(folder, path);
    makeFolder(dirname(file));
    writeFileSync(file, content);
    return file;
  });
  const { warnings, usage } = exported;
  print(io, json, {
    document: { files, warnings, usage },
    text: [...files, ...warnings.map((warning) => `warning: ${warning}`), '', usage].join('\n'),
  });
}
