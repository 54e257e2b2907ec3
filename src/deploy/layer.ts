/**
 * Layers: packages that lie beside the code instead of in the bundle, for several functions or because they cannot be bundled. And what code
 * imports, found by the bundler.
 */

import { builtinModules } from 'node:module';
import { dirname, resolve } from 'node:path';
import type { Metafile } from 'esbuild';
import { RunnerError } from '../errors.ts';
import type { FunctionLimits, Provider } from '../executor/limits.ts';
import { LIMITS } from '../executor/limits.ts';
import type { LimitViolation } from '../executor/deployer.ts';
import { importPeer } from '../plugin/peer.ts';
import { installedPackages, readModules } from './dependencies.ts';
import { packFiles, sha256Of, unpackFiles } from './zip.ts';
import type { PackedFiles } from './zip.ts';

export interface LayerOptions {
  /** Names of installed packages; with all that they need they go into the layer. */
  readonly packages: readonly string[];
  /** Where the packages are looked up from. */
  readonly from: string;
  /** For which machines the native parts among the packages are; said in the name of the layer, not changed. Default: those of this machine. */
  readonly architecture?: 'x86_64' | 'arm64';
}

export interface BuiltLayer {
  /** `nodejs/node_modules/...`, as Lambda looks for it. */
  readonly zip: Uint8Array;
  /** Of the zip, hex. */
  readonly sha256: string;
  readonly architecture: 'x86_64' | 'arm64';
  readonly packages: readonly { readonly name: string; readonly version: string }[];
}

/**
 * A layer of installed packages. The same packages give the same bytes. Throws `PEER_MISSING` for one that is not installed, `BUILD_FAILED` when
 * two versions of one are needed.
 */
export async function buildLayer({ packages, from, architecture = thisArchitecture() }: LayerOptions): Promise<BuiltLayer> {
  const files: PackedFiles = Object.fromEntries(
    Object.entries(await readModules(packages, from)).map(([name, file]) => [`nodejs/${name}`, file]),
  );
  const zip = await packFiles(files);
  const installed = installedPackages(packages, from).map(({ name, version }) => ({ name, version }));
  return { zip, sha256: sha256Of(zip), architecture, packages: installed };
}

const thisArchitecture = (): 'x86_64' | 'arm64' => (process.arch === 'arm64' ? 'arm64' : 'x86_64');

export interface DetectedImport {
  /** Of the package, not of the file in it. */
  readonly name: string;
  /** Installed where the code is; absent when it is not installed. */
  readonly version?: string;
  readonly kinds: readonly ('import' | 'dynamic-import' | 'require')[];
}

export interface ImportOptions {
  /** What is needed besides what is found, `name` or `name@version`. */
  readonly explicit?: readonly string[];
}

const KINDS = {
  'import-statement': 'import',
  'dynamic-import': 'dynamic-import',
  'require-call': 'require',
  'require-resolve': 'require',
} as const;

/**
 * The packages that a module and its own files import, static, dynamic or by `require`, sorted by name; modules of node are none. What is explicit
 * is added. Throws `BUILD_FAILED` when an explicit version is not the installed one, or the code cannot be read; `PEER_MISSING` without esbuild.
 */
export async function detectImports(entry: string, { explicit = [] }: ImportOptions = {}): Promise<readonly DetectedImport[]> {
  const file = resolve(entry);
  const found = new Map<string, Set<DetectedImport['kinds'][number]>>();
  for (const { path, kind } of importsIn(await scan(file))) {
    const name = packageName(path);
    if (name === undefined) continue;
    const kinds = found.get(name) ?? new Set();
    found.set(name, kinds.add(kind));
  }
  const wanted = new Map(explicit.map((text) => nameAndVersion(text)));
  for (const name of wanted.keys()) if (!found.has(name)) found.set(name, new Set());
  const result = [...found].map(([name, kinds]) => ({ name, ...versionOf(name, dirname(file)), kinds: [...kinds].toSorted() }));
  const conflicts = result.filter(({ name, version }) => wanted.get(name) !== undefined && wanted.get(name) !== version);
  if (conflicts.length === 0) return result.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  const shown = conflicts.map(
    ({ name, version }) => `${name} is wanted in version ${wanted.get(name)} and installed in ${version ?? 'none'}`,
  );
  throw new RunnerError('BUILD_FAILED', shown.join('; '), { details: { conflicts: shown } });
}

async function scan(file: string): Promise<Metafile> {
  const esbuild = await importPeer('build', 'esbuild', () => import('esbuild'));
  const { metafile } = await esbuild
    .build({
      entryPoints: [file],
      bundle: true,
      write: false,
      metafile: true,
      platform: 'node',
      format: 'esm',
      packages: 'external',
      logLevel: 'silent',
    })
    .catch((cause: Error) => {
      throw new RunnerError('BUILD_FAILED', `${file} cannot be read: ${cause.message}`, { cause });
    });
  return metafile;
}

function* importsIn({ inputs }: Metafile): Generator<{ readonly path: string; readonly kind: DetectedImport['kinds'][number] }> {
  for (const { imports } of Object.values(inputs)) {
    for (const { path, kind, external } of imports) {
      const known = KINDS[kind as keyof typeof KINDS] as (typeof KINDS)[keyof typeof KINDS] | undefined;
      if (external === true && known !== undefined) yield { path, kind: known };
    }
  }
}

/** Undefined for a module of node. */
function packageName(path: string): string | undefined {
  if (path.startsWith('node:') || builtinModules.includes(path)) return undefined;
  return path.split('/', path.startsWith('@') ? 2 : 1).join('/');
}

function nameAndVersion(text: string): readonly [name: string, version: string | undefined] {
  const at = text.indexOf('@', 1);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

function versionOf(name: string, from: string): { readonly version?: string } {
  try {
    const installed = installedPackages([name], from).find((each) => each.name === name);
    return installed ? { version: installed.version } : {};
  } catch {
    return {};
  }
}

/** All limits of the provider that a package and its layers would break. A zip above the limit of a direct upload may still go through a bucket. */
export async function packageViolations(
  provider: Provider,
  zip: Uint8Array,
  layers: readonly Uint8Array[] = [],
): Promise<readonly LimitViolation[]> {
  const limits: FunctionLimits = LIMITS[provider];
  const unpacked = await Promise.all([zip, ...layers].map(unpackedBytes));
  const measures = [
    { limit: 'zipBytes', value: zip.length, max: limits.zipBytesMax, what: 'the zip has', unit: 'bytes' },
    {
      limit: 'unpackedBytes',
      value: unpacked.reduce((sum, bytes) => sum + bytes, 0),
      max: limits.unpackedBytesMax,
      what: 'code and layers have',
      unit: 'bytes unpacked',
    },
    { limit: 'layers', value: layers.length, max: limits.layersMax, what: 'there are', unit: 'layers' },
  ];
  return measures
    .filter(({ value, max }) => value > max)
    .map(({ limit, value, max, what, unit }) => ({
      limit,
      value,
      allowed: `at most ${max}`,
      message: `${what} ${value} ${unit}; ${provider} takes ${max}`,
    }));
}

async function unpackedBytes(zip: Uint8Array): Promise<number> {
  return Object.values(await unpackFiles(zip)).reduce((sum, { data }) => sum + data.length, 0);
}
