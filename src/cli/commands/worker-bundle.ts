import { renameSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import type { Command } from 'commander';
import { RunnerError } from '../../errors.ts';
import { makeFolder } from '../../folder.ts';
import { print, progress, sizeText, table } from '../output.ts';
import type { Cli } from '../output.ts';

const EXAMPLES = `
Examples:
  bpr worker bundle --out worker.mjs
  scp worker.mjs elsewhere: && ssh elsewhere 'CONTROL_PLANE_TICKET=... node worker.mjs --concurrency 16'

The file has all that bpr worker does, with its flags, and needs node and nothing else. The same sources give the same bytes. Packages that are
loaded on first use are not in it: dockerode for containers, @nats-io for queues on NATS; they are found in node_modules beside it.

With --json one JSON document is printed.

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

/** `bpr worker bundle`: the worker as one file. After `addWorker`. */
export function addWorkerBundle(program: Command, { io }: Cli): void {
  const worker = program.commands.find((command) => command.name() === 'worker');
  if (!worker) throw new RunnerError('INTERNAL', 'there is no command worker');
  worker
    .command('bundle')
    .description('write the worker as one file that runs with node alone')
    .requiredOption('--out <file>', 'such as worker.mjs')
    // --json is an option of the command above it, which takes it.
    .addHelpText('after', EXAMPLES)
    .action(async ({ out }: { readonly out: string }, command: Command) => {
      const { json } = command.optsWithGlobals<{ readonly json?: true }>();
      if (!out.endsWith('.mjs'))
        throw new RunnerError('CONFIG_INVALID', `--out is to end in .mjs, so that node takes it as a module; it is ${out}`);
      const { bundleWorker } = await import('../../deploy/worker-bundle.ts');
      progress(io, 'bundling the worker ...');
      const { code, sha256, gzipBytes } = await bundleWorker();
      const file = resolve(io.cwd, out);
      makeFolder(dirname(file));
      const part = `${file}.${process.pid}.tmp`;
      writeFileSync(part, code, { mode: 0o755 });
      renameSync(part, file);
      print(io, json, {
        document: { file, bytes: code.length, gzipBytes, sha256 },
        text: table([[file, `${sizeText(code.length)} (${sizeText(gzipBytes)} gzip)`, `sha256 ${sha256}`]]),
      });
    });
}
