import { writeFileSync } from 'node:fs';
import { extname, resolve } from 'node:path';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { atPath } from '../named-path.ts';
import { print, progress, sizeText, table } from '../output.ts';
import type { Cli } from '../output.ts';
import { addServing, serve } from './gateway.ts';
import type { GatewayFlags } from './gateway.ts';

interface BuildFlags {
  readonly out: string;
  readonly flag?: readonly string[];
  readonly json?: true;
}

/** Where engines are looked for when nobody says where. */
const PORT = 27_288;

const EXAMPLES = `
Examples:
  bpr wasm build handler.ts --out hello.zip      a package with handler.wasm
  bpr wasm serve                                 the engine at http://127.0.0.1:${PORT}
  curl -T hello.zip 'http://127.0.0.1:${PORT}/api/v1/functions/hello?runtime=wasm&handler=handler.wasm'
  curl -d '{"name":"Ada"}' http://127.0.0.1:${PORT}/api/v1/functions/hello/invoke

Modules are commands of WASI preview 1: the event on stdin, the answer on stdout, words for the log on stderr, an exit status that is not
0 fails the call. Rust: cargo build --target wasm32-wasip1, and zip the .wasm file. Each call has a new instance of the module.`;

/** `bpr wasm`: functions that are WebAssembly modules. */
export function addWasm(program: Command, cli: Cli): void {
  const wasm = program.command('wasm').description('functions that are WebAssembly modules').addHelpText('after', EXAMPLES);
  addServe(wasm, cli);
  addBuild(wasm, cli);
}

const SERVE_EXAMPLES = `
Examples:
  bpr wasm serve                          the engine at http://127.0.0.1:${PORT}
  bpr wasm serve --port 9000 --auth keys  with the keys of bpr gateway keys
  bpr wasm serve --backend-option wasm.stackMb=8 --backend-option wasm.blanks=4

It is the gateway, with the same API, limits and keys, and only modules to run: runtime wasm, handler the name of the file in the package.
Memory is that of the function, and the time of a call its timeout. A module sees the variables of its function; it has no files and no
network. WASM_DETERMINISTIC=SEED in a function's environment makes clock and random bytes depend on the event alone, with WASM_CLOCK_MS as
the time.
Options of the backend: blanks, stackMb, outputBytesMax, moduleBytesMax, modulesMax.

Exit status: 0 ended by a signal; 1 it could not start; 2 called in a wrong way; 130 or 143 ended at once by a second signal.`;

function addServe(wasm: Command, { io }: Cli): void {
  addServing(wasm.command('serve').description('run modules on this machine, behind HTTP'), PORT)
    .addHelpText('after', SERVE_EXAMPLES)
    .action((flags: Omit<GatewayFlags, 'backend'>) => serve(io, { ...flags, backend: 'wasm' }, 'wasm'));
}

const list = (value: string, before: readonly string[] = []): readonly string[] => [...before, value];

function parseOut(text: string): string {
  if (/[^/]\.(?:zip|wasm)$/.test(text)) return text;
  throw new InvalidArgumentError('It must end in .zip or .wasm.');
}

const BUILD_EXAMPLES = `
Examples:
  bpr wasm build handler.ts                         handler.zip, which bpr wasm serve runs
  bpr wasm build handler.ts --out handler.wasm      the module alone
  bpr wasm build handler.ts --flag=--runtime --flag=stub

The file is AssemblyScript (npm install assemblyscript) and exports handler(event: ArrayBuffer): ArrayBuffer. It may import from
"blueprint": log, variable, now, randomBytes, jsonField, quoted, JobCall, jobResult and more. The same file gives the same bytes.

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

function addBuild(wasm: Command, { io }: Cli): void {
  wasm
    .command('build')
    .description('compile a handler in AssemblyScript to a module and pack it')
    .argument('<file>', 'exports handler(event: ArrayBuffer): ArrayBuffer')
    .option('--out <file>', 'ends in .zip, or in .wasm for the module alone', parseOut, 'handler.zip')
    .option('--flag <flag>', 'of the compiler; several by repeating', list)
    .option('--json', 'print one JSON document')
    .addHelpText('after', BUILD_EXAMPLES)
    .action(async (file: string, { out, flag = [], json }: BuildFlags) => {
      const { buildModule } = await import('../../deploy/assembly-script.ts');
      progress(io, `compiling ${file} ...`);
      const kind = extname(out) === '.wasm' ? 'module' : 'package';
      const { bytes, sha256, moduleBytes } = await buildModule(resolve(io.cwd, file), { kind, flags: flag });
      const path = resolve(io.cwd, out);
      atPath({ path, flag: '--out' }, () => writeFileSync(path, bytes));
      print(io, json, {
        document: { file: path, bytes: bytes.length, sha256, moduleBytes },
        text: table([[path, sizeText(bytes.length), `sha256 ${sha256}`]]),
      });
    });
}
