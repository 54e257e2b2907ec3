import { join } from 'node:path';
import { describe, it } from 'vitest';
import { WasmBackend } from '../../plugins/wasm/index.ts';
import { runBackendConformance } from '../../src/conformance/conformance.ts';
import { buildModule } from '../../src/deploy/assembly-script.ts';

const source = join(import.meta.dirname, '../fixtures/wasm/conformance.ts');
const { bytes } = await buildModule(source, { kind: 'module', flags: ['--initialMemory', '32'] });
const NO_FILES = 'a module has no files';
const ANEW = 'a module begins anew with each event: its exit ends the call, and the instance goes on';

runBackendConformance(
  { describe, it },
  {
    name: 'wasm',
    create: () => new WasmBackend(),
    runtime: 'wasm',
    program: { files: { 'handler.wasm': bytes }, handler: 'handler.wasm', seesRuntimeApi: false },
    skip: {
      'terminate ends a program that ignores signals, and all that it started': 'a module starts no other programs',
      'reapStale ends what its owner left, and nothing of others': 'threads end with the process that started them',
      'terminate can be repeated, also at the same time and after the end': ANEW,
      'an exit has its status, and the last words have arrived': ANEW,
      'a signal is told': 'a module is no process: it has no signals',
      'a program that ends before it asks for work says why': ANEW,
      'output arrives complete, each stream apart': 'stdout is the answer',
      '/tmp can be written, the code cannot': NO_FILES,
      '/tmp holds no more than it should': NO_FILES,
    },
  },
);
