/** The worker as one file that runs with node alone, without a folder of packages. */

import { existsSync, readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { dirname, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import type { BuildFailure, Plugin } from 'esbuild';
import { RunnerError } from '../errors.ts';
import { importPeer } from '../plugin/peer.ts';
import { explain, ownPackage, packageRootOf } from './bundler.ts';
import { sha256Of } from './zip.ts';

export interface WorkerBundle {
  readonly code: Uint8Array;
  /** Hex. */
  readonly sha256: string;
  readonly gzipBytes: number;
}

const HERE = fileURLToPath(import.meta.url);
const END = extname(HERE);
/** Of src, or of dist/src. */
const SRC = dirname(dirname(HERE));
const HEAD = `#!/usr/bin/env node
import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);
`;
/** What worker threads and processes run is read as text, from files that lie beside: here they lie in the bundle. */
const READER = 'node-client-source';
const READ = "readFileSync(url, 'utf8')";
const LISTS = [join(SRC, 'runtime', `${READER}${END}`), join(SRC, '../plugins/wasm', `engine-thread${END}`)];
/** Plugins of platforms that no worker runs functions on. */
const PLUGINS_LEFT_OUT = /\/plugins\/(?:aws-lambda|azure|cloudflare|digitalocean|gcp|http)\/index\.[jt]s$/;

/**
 * Bundles `bpr worker` with all backends but what they load of others: the packages of containers and of NATS are looked for when they are
 * used. The same sources give the same bytes. Throws `BUILD_FAILED`, and `PEER_MISSING` without esbuild.
 *
 * @example
 * const { code } = await bundleWorker();
 * writeFileSync('worker.mjs', code, { mode: 0o755 });
 */
export async function bundleWorker(): Promise<WorkerBundle> {
  const esbuild = await importPeer('worker bundle', 'esbuild', () => import('esbuild'));
  const root = packageRootOf(HERE) ?? SRC;
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    readonly dependencies: Readonly<Record<string, string>>;
  };
  const { outputFiles } = await esbuild
    .build({
      stdin: { contents: ENTRY, resolveDir: SRC, sourcefile: 'worker-entry.mjs', loader: 'js' },
      absWorkingDir: root,
      outfile: 'worker.mjs',
      bundle: true,
      write: false,
      platform: 'node',
      format: 'esm',
      target: 'node22',
      mainFields: ['module', 'main'],
      minify: true,
      legalComments: 'none',
      charset: 'utf8',
      logLevel: 'silent',
      plugins: [embedded(), ownPackage((name) => Object.hasOwn(dependencies, name))],
    })
    .catch((failure: BuildFailure) => {
      const reasons = failure.errors?.map(explain) ?? [failure.message];
      throw new RunnerError('BUILD_FAILED', `the worker cannot be bundled:\n${reasons.join('\n')}`, { cause: failure });
    });
  const code = Buffer.from(HEAD + (outputFiles[0]?.text ?? ''));
  return { code, sha256: sha256Of(code), gzipBytes: gzipSync(code).length };
}

const ENTRY = `
import { run } from './cli/program${END}';
import { addWorker } from './cli/commands/worker${END}';
process.exitCode = await run([addWorker], ['worker', ...process.argv.slice(2)]);
`;

function embedded(): Plugin {
  return {
    name: 'embedded',
    setup(build) {
      build.onLoad({ filter: new RegExp(`/${READER}\\.[jt]s$`) }, ({ path }) => {
        const source = readFileSync(path, 'utf8');
        if (!source.includes(READ)) throw new Error(`${path} does not read its parts as the bundle expects`);
        const parts = `\nconst PARTS_IN_BUNDLE = ${JSON.stringify(partTexts())};\n`;
        const contents = source.replace(READ, "PARTS_IN_BUNDLE[url.pathname.split('/').pop()]") + parts;
        return { contents, loader: path.endsWith('.ts') ? 'ts' : 'js' };
      });
      build.onResolve({ filter: /\/plugins\/[a-z-]+\/index\.[jt]s$/ }, ({ path }) =>
        PLUGINS_LEFT_OUT.test(path) ? { path, namespace: 'left-out' } : undefined,
      );
      build.onLoad({ filter: /.*/, namespace: 'left-out' }, () => ({
        contents: "throw Object.assign(new Error('it is not in the bundle of a worker'), { code: 'ERR_MODULE_NOT_FOUND' });",
      }));
    },
  };
}

/** By the name that they are read with: the client of the runtime, and what the plugins add to it. */
function partTexts(): Readonly<Record<string, string>> {
  const texts: Record<string, string> = {};
  for (const list of LISTS) {
    for (const [, names = ''] of readFileSync(list, 'utf8').matchAll(/PARTS = \[([^\]]*)\]/g)) {
      for (const [, name = ''] of names.matchAll(/'([a-z-]+)'/g)) {
        const file = join(dirname(list), `${name}${END}`);
        if (!existsSync(file)) throw new RunnerError('BUILD_FAILED', `there is no ${file}, which ${list} names`);
        const text = readFileSync(file, 'utf8');
        texts[`${name}.js`] = END === '.ts' ? stripTypeScriptTypes(text) : text;
      }
    }
  }
  return texts;
}
