import { basename, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { print } from '../output.ts';
import type { Cli } from '../output.ts';
import { projectFiles } from '../project.ts';
import { nextCommands, writeScaffold } from '../scaffold.ts';

interface InitFlags {
  readonly force?: true;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr init my-blueprint        a project with one job, ready to build and to run
  bpr init . --force           into a directory that holds files; those of the same name are replaced

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

/** `bpr init`: a working project. */
export function addInit(program: Command, { io }: Cli): void {
  program
    .command('init')
    .description('write a new project')
    .argument('[dir]', 'where to', '.')
    .option('--force', 'write into a directory that is not empty')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    .action((dir: string, flags: InitFlags) => {
      const root = resolve(io.cwd, dir);
      const files = projectFiles(basename(root));
      writeScaffold({ root, files, force: flags.force });
      const names = Object.keys(files);
      const next = nextCommands(dir, 'npm install', 'npm run dev');
      print(io, flags.json, {
        document: { root, files: names, next },
        text: [...names.map((name) => join(dir, name)), '', `Next: ${next}`].join('\n'),
      });
    });
}
