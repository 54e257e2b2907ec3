import { resolve } from 'node:path';
import type { Command } from 'commander';
import { print, progress, sizeText, table } from '../output.ts';
import type { Cli } from '../output.ts';

interface BuildFlags {
  readonly out: string;
  readonly minify: boolean;
  readonly sourcemap?: true;
  readonly name: string;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr build src/jobs.ts                    build/handler.mjs and build/handler.zip
  bpr build src/jobs.ts --out dist --json  what was built, as JSON

The module exports a JobRouter, as default or named router. The same sources give the same bytes.

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

/** `bpr build`: the jobs of a module in one file that runs on every platform, and its zip. */
export function addBuild(program: Command, { io }: Cli): void {
  program
    .command('build')
    .description('bundle jobs into one handler file and its zip')
    .argument('<entry>', 'module that exports the job router')
    .option('--out <dir>', 'where the files go', 'build')
    .option('--no-minify', 'leave the code readable')
    .option('--sourcemap', 'write handler.mjs.map too')
    .option('--name <name>', 'name of the zip', 'handler')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    .action(async (entry: string, flags: BuildFlags) => {
      progress(io, `bundling ${entry} ...`);
      const { buildHandler } = await import('../../deploy/package.ts');
      const built = await buildHandler({
        entry: resolve(io.cwd, entry),
        outDir: resolve(io.cwd, flags.out),
        minify: flags.minify,
        sourcemap: flags.sourcemap ?? false,
        name: flags.name,
        env: io.env,
      });
      const jobs = built.jobs.map(({ id, name, params, result, raw }) => [id, name, raw ? 'raw bytes' : `(${params}) -> (${result})`]);
      const files = [
        [built.file, `${sizeText(built.fileBytes)} (${sizeText(built.gzipBytes)} gzip)`, `sha256 ${built.fileSha256}`],
        [built.zipFile, sizeText(built.zipBytes), `sha256 ${built.sha256}`],
      ];
      const warnings = built.warnings.map((warning) => `warning: ${warning}`);
      print(io, flags.json, {
        document: built,
        text: [table(files), '', table([['JOB', 'NAME', 'TYPES'], ...jobs]), ...warnings].join('\n'),
      });
    });
}
