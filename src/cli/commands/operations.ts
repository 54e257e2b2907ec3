import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { makeFolder } from '../../folder.ts';
import { controlFolder } from '../control-access.ts';
import { atPath } from '../named-path.ts';
import { print } from '../output.ts';
import type { Cli } from '../output.ts';

interface ExportFlags {
  readonly out: string;
  readonly data?: string;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr operations export                       into ./operations: prometheus.yml, alerts.yml, dashboard.json
  bpr operations export --out /etc/prometheus/bpr --data /var/lib/bpr/control
  promtool check rules operations/alerts.yml

Files of the same names are written anew. prometheus.yml names the default addresses: change them to where things run; its jobs keep their
names, by which alerts know what is down. dashboard.json is imported in Grafana (Dashboards, New, Import).

Exit status: 0 done; 1 they cannot be written there; 2 called in a wrong way.`;

/** `bpr operations`: what watches a fleet. */
export function addOperations(program: Command, { io }: Cli): void {
  const operations = program.command('operations').description('alert rules of Prometheus and a dashboard of Grafana');
  operations
    .command('export')
    .description('write prometheus.yml, alerts.yml and dashboard.json')
    .option('--out <dir>', 'where; it is made', 'operations')
    .option('--data <dir>', 'folder of the control plane, whose metrics.token Prometheus shows')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    .action(async ({ out, data, json }: ExportFlags) => {
      const { operationsFiles } = await import('../../operations/operations.ts');
      const folder = resolve(io.cwd, out);
      const files = Object.entries(operationsFiles({ controlFolder: controlFolder(io, data) }));
      atPath({ path: folder, flag: '--out' }, () => {
        makeFolder(folder);
        for (const [name, text] of files) writeFileSync(join(folder, name), text);
      });
      const paths = files.map(([name]) => join(folder, name));
      print(io, json, { document: { files: paths }, text: paths.join('\n') });
    });
}
