/** The program of an orchestrator as one file: the runner, the plugins it needs, and the author's jobs. Any node that is new enough runs it. */

import { existsSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import type { BuildFailure } from 'esbuild';
import { RunnerError } from '../errors.ts';
import type { ProgramSpec } from '../executor/machine.ts';
import { importPeer } from '../plugin/peer.ts';
import type { RunnerManifest } from '../runner/manifest.ts';
import { PACKAGE_NAME, explain, ownPackage, packageRootOf } from './bundler.ts';

export interface ProgramOptions {
  /** The module that exports the jobs. */
  readonly entry: string;
  readonly manifest: RunnerManifest;
  /** Variables of the program by reference: `{ OPERATOR_PRIVATE_KEY: 'file:/run/key' }`. */
  readonly secrets?: Readonly<Record<string, string>>;
  readonly environment?: Readonly<Record<string, string>>;
  readonly memoryMb?: number;
  /** Bundles of this entry that were made before, by what they hold: its sources are read once. */
  readonly bundles?: Map<string, Promise<Uint8Array>>;
}

const ORCHESTRATOR_FILE = 'orchestrator.mjs';
const MANIFEST_FILE = 'deployment.json';
/** Packages that the runner itself loads on first use. */
const CORE: ReadonlySet<string> = new Set(['pino', 'prom-client', 'tsyringe', 'reflect-metadata', 'undici', 'viem', 'ws', 'eventemitter3']);
/** What executors of plugins load on first use; packages of other plugins stay out. */
const OF_PLUGINS: Readonly<Record<string, readonly string[]>> = { 'aws-lambda': ['@aws-sdk/client-lambda'] };
const TARGET = 'node22';
const DEFAULT_MEMORY_MB = 512;
/** CommonJS packages in an ES module. */
const BANNER = "import{createRequire as __createRequire}from'node:module';const require=__createRequire(import.meta.url);";

/**
 * Bundles the orchestrator. The same sources and the same manifest give the same bytes. Throws `BUILD_FAILED`, `PEER_MISSING`.
 *
 * @example
 * const program = await buildProgram({ entry: 'jobs.ts', manifest });
 * await host.run({ ...program, name: 'orchestrator' });
 */
export async function buildProgram(options: ProgramOptions): Promise<Omit<ProgramSpec, 'name'>> {
  const { manifest, secrets, environment = {}, memoryMb = DEFAULT_MEMORY_MB, bundles = new Map<string, Promise<Uint8Array>>() } = options;
  const packages = packagesOf(manifest);
  const made = bundles.get(packages.join()) ?? bundle(resolve(options.entry), packages);
  bundles.set(packages.join(), made);
  const script = await made;
  return {
    files: { [ORCHESTRATOR_FILE]: script, [MANIFEST_FILE]: Buffer.from(`${JSON.stringify(manifest, null, 2)}\n`) },
    args: [ORCHESTRATOR_FILE],
    environment: { NODE_ENV: 'production', ...environment },
    ...(secrets && { secrets }),
    memoryMb,
    healthPort: manifest.metricsPort,
  };
}

function packagesOf({ jobs }: RunnerManifest): readonly string[] {
  const used = new Set(Object.values(jobs).flatMap(({ executor }) => (executor ? [executor.use] : [])));
  return [...new Set([...used].flatMap((plugin) => OF_PLUGINS[plugin] ?? []))].toSorted();
}

async function bundle(entry: string, withPackages: readonly string[]): Promise<Uint8Array> {
  if (!existsSync(entry)) throw new RunnerError('BUILD_FAILED', `there is no ${entry}`, { details: { entry } });
  const esbuild = await importPeer('build', 'esbuild', () => import('esbuild'));
  const packages = new Set(withPackages);
  const result = await esbuild
    .build({
      stdin: { contents: source(entry), resolveDir: dirname(entry), sourcefile: 'orchestrator-entry.mjs', loader: 'js' },
      absWorkingDir: packageRootOf(entry) ?? dirname(entry),
      outfile: ORCHESTRATOR_FILE,
      bundle: true,
      write: false,
      platform: 'node',
      format: 'esm',
      target: TARGET,
      mainFields: ['module', 'main'],
      minify: true,
      keepNames: true,
      charset: 'utf8',
      logLevel: 'silent',
      banner: { js: BANNER },
      // Native speed-ups of ws: it works without.
      external: ['bufferutil', 'utf-8-validate'],
      plugins: [ownPackage((name) => CORE.has(name) || CORE.has(name.split('/')[0] ?? '') || packages.has(name))],
    })
    .catch((failure: BuildFailure) => {
      const reasons = failure.errors?.map(explain) ?? [failure.message];
      throw new RunnerError('BUILD_FAILED', `the orchestrator of ${entry} cannot be bundled:\n${reasons.join('\n')}`, {
        cause: failure,
        details: { entry },
      });
    });
  const [output] = result.outputFiles;
  if (!output) throw new RunnerError('INTERNAL', 'the bundler gave no output');
  return output.contents;
}

function source(entry: string): string {
  return [
    `import { fileURLToPath } from 'node:url';`,
    `import { orchestrate } from '${PACKAGE_NAME}/orchestrator';`,
    `import * as author from ${JSON.stringify(`./${basename(entry)}`)};`,
    `await orchestrate(author, fileURLToPath(new URL('${MANIFEST_FILE}', import.meta.url)));`,
  ].join('\n');
}
