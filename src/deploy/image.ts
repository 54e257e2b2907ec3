/**
 * Container images written to disk as an OCI image layout (https://github.com/opencontainers/image-spec), without a daemon: any tool that copies
 * layouts pushes them. The same files give the same digests.
 */

import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { RunnerError } from '../errors.ts';
import { makeFolder } from '../folder.ts';
import { tarOf, tarParts } from './tar.ts';
import type { TarEntry } from './tar.ts';
import { sha256Of, unpackFiles } from './zip.ts';

export interface ImageLayoutOptions {
  /** The zip of `buildHandler` or `packageFor`. */
  readonly zip: Uint8Array;
  /** Where the layout goes; made when it does not exist. */
  readonly outDir: string;
  /** `scratch` (default), or the folder of a layout whose image is built upon. */
  readonly base?: string;
  /** Files for a layer of their own below the code: node and its libraries, for an image from scratch. */
  readonly node?: NodeFiles;
  readonly architecture?: 'amd64' | 'arm64';
  /** Variables of the image; a program that starts it can set others. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Default `handler:latest`. */
  readonly reference?: string;
  /** What is started of the package. Default `handler.mjs`. */
  readonly program?: string;
  /** Files and directories beside the package. */
  readonly extras?: readonly TarEntry[];
  /** Who it runs as, by number. Default: root. */
  readonly user?: string;
}

export interface NodeFiles {
  /** The executable on this machine. */
  readonly file: string;
  /** Libraries that it loads, on this machine; each lies at the same path in the image. See `librariesOf`. */
  readonly libraries?: readonly string[];
}

export interface WrittenImage {
  readonly directory: string;
  /** Of the manifest, `sha256:...`: what a registry calls the image. */
  readonly digest: string;
  /** Of all blobs. */
  readonly bytes: number;
  /** Unpacked, of all layers written here. */
  readonly unpackedBytes: number;
  readonly layers: readonly string[];
}

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

interface ImageConfig {
  readonly architecture?: string;
  readonly config?: { readonly Env?: readonly string[] };
  readonly rootfs?: { readonly diff_ids: readonly string[] };
}

const TYPE = 'application/vnd.oci.image';
/** Where the code lies in the image, and where node does. */
const TASK = 'var/task';
const NODE = 'usr/local/bin/node';
const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** Above it a layer is not compressed: whoever pushes the image does that. */
const LARGE_BYTES = 16 * 1024 * 1024;
const EPOCH = '1970-01-01T00:00:00Z';

/**
 * Writes the image of a handler: its package in `/var/task`, started as `node handler.mjs`. What the platform says in the environment decides
 * what it serves (see the handler's `detect.ts`). Or that of another program.
 *
 * The same package, base and node give the same digest. Throws `PACKAGE_INVALID`, `CONFIG_INVALID` for a base that is no layout.
 *
 * @example
 * const { digest } = await writeImageLayout({ zip, outDir: 'image', node: { file: process.execPath, libraries: librariesOf(process.execPath) } });
 */
export async function writeImageLayout(options: ImageLayoutOptions): Promise<WrittenImage> {
  const { zip, outDir, base = 'scratch', node, reference = 'handler:latest', extras = [] } = options;
  const { gzipSync } = await import('fflate');
  const under = base === 'scratch' ? undefined : readBase(base);
  let bytes = 0;
  const putBlob = (kind: string, data: Uint8Array): Descriptor => {
    const hash = sha256Of(data);
    makeFolder(join(outDir, 'blobs/sha256'));
    writeFileSync(join(outDir, 'blobs/sha256', hash), data);
    bytes += data.length;
    return { mediaType: `${TYPE}.${kind}`, digest: `sha256:${hash}`, size: data.length };
  };
  const layers = [...(under?.layers ?? [])];
  const diffIds = [...(under?.config.rootfs?.diff_ids ?? [])];
  let unpackedBytes = 0;
  for (const entries of [...(node ? [nodeEntries(node)] : []), [...(await codeEntries(zip)), ...extras]]) {
    const tar = tarOf(entries);
    // Compressed in JavaScript, the bytes do not depend on what a version of node brings; for node itself that would take long.
    const isLarge = tar.length > LARGE_BYTES;
    layers.push(isLarge ? putBlob('layer.v1.tar', tar) : putBlob('layer.v1.tar+gzip', gzipSync(tar, { level: 9, mtime: 0 })));
    diffIds.push(`sha256:${sha256Of(tar)}`);
    unpackedBytes += tar.length;
  }
  for (const data of under?.blobs ?? []) putBlob('layer.v1.tar+gzip', data);
  const config = configOf(options, under?.config, diffIds);
  const pointer = putBlob(
    'manifest.v1+json',
    jsonBytes({ schemaVersion: 2, mediaType: `${TYPE}.manifest.v1+json`, config: putBlob('config.v1+json', jsonBytes(config)), layers }),
  );
  const platform = { architecture: config.architecture, os: config.os };
  const manifests = [{ ...pointer, platform, annotations: { 'org.opencontainers.image.ref.name': reference } }];
  writeFileSync(join(outDir, 'index.json'), jsonBytes({ schemaVersion: 2, mediaType: `${TYPE}.index.v1+json`, manifests }));
  writeFileSync(join(outDir, 'oci-layout'), jsonBytes({ imageLayoutVersion: '1.0.0' }));
  return { directory: outDir, digest: pointer.digest, bytes, unpackedBytes, layers: layers.map(({ digest }) => digest) };
}

/**
 * The image of a layout as one file that `docker load`, `podman load` and other tools of OCI archives take, under this name. The same layout and
 * name give the same bytes. Throws `CONFIG_INVALID`.
 */
export function writeImageArchive(directory: string, file: string, name: string): void {
  const { manifests } = JSON.parse(readFileSync(join(directory, 'index.json'), 'utf8')) as { manifests: readonly [Descriptor] };
  const read = (path: string): TarEntry => ({ name: path, mode: 0o644, data: readFileSync(join(directory, path)) });
  const pathOf = ({ digest }: Descriptor): string => `blobs/${digest.replace(':', '/')}`;
  const pointer = read(pathOf(manifests[0]));
  const { config, layers } = JSON.parse(Buffer.from(pointer.data ?? []).toString()) as {
    config: Descriptor;
    layers: readonly Descriptor[];
  };
  const forDocker = jsonBytes([{ Config: pathOf(config), RepoTags: [name], Layers: layers.map(pathOf) }]);
  const blobs = [...new Set([config, ...layers].map(pathOf))].map(read);
  const entries = [pointer, ...blobs, read('index.json'), read('oci-layout'), { name: 'manifest.json', mode: 0o644, data: forDocker }];
  const part = `${file}.${process.pid}.tmp`;
  try {
    makeFolder(dirname(file));
    const target = openSync(part, 'w');
    try {
      for (const bytes of tarParts(entries)) writeFileSync(target, bytes);
    } finally {
      closeSync(target);
    }
    renameSync(part, file);
  } catch (cause) {
    rmSync(part, { force: true });
    throw new RunnerError('CONFIG_INVALID', `${file} cannot be written`, { cause, details: { file } });
  }
}

/** What an executable of this machine loads besides itself, as `ldd` tells. */
export function librariesOf(executable: string): readonly string[] {
  const found = execFileSync('ldd', [executable], { encoding: 'utf8', timeout: 10_000 }).matchAll(/(?:=> |^\s*)(\/\S+) \(0x/gm);
  return [...found].map(([, library = '']) => library);
}

function nodeEntries({ file, libraries = [] }: NodeFiles): TarEntry[] {
  const copied = libraries.map((library) => ({ name: library.slice(1), mode: 0o755, data: readFileSync(library) }));
  return [{ name: NODE, mode: 0o755, data: readFileSync(file) }, ...copied];
}

async function codeEntries(zip: Uint8Array): Promise<TarEntry[]> {
  return Object.entries(await unpackFiles(zip)).map(([name, { data, mode }]) => ({ name: `${TASK}/${name}`, mode, data }));
}

function configOf(
  { environment = {}, architecture, program = 'handler.mjs', user }: ImageLayoutOptions,
  under: ImageConfig | undefined,
  diffIds: readonly string[],
) {
  const inherited = under?.config?.Env ?? [PATH];
  const own = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  return {
    created: EPOCH,
    architecture: architecture ?? under?.architecture ?? 'amd64',
    os: 'linux',
    config: {
      Env: [...inherited, ...own],
      Entrypoint: ['node', `/${TASK}/${program}`],
      WorkingDir: `/${TASK}`,
      ...(user !== undefined && { User: user }),
    },
    rootfs: { type: 'layers', diff_ids: diffIds },
  };
}

/** The first image of a layout. */
function readBase(folder: string) {
  const blob = ({ digest }: Descriptor): Buffer => readFileSync(join(folder, 'blobs', digest.replace(':', '/')));
  try {
    const { manifests } = JSON.parse(readFileSync(join(folder, 'index.json'), 'utf8')) as { manifests: readonly [Descriptor] };
    const { config, layers } = JSON.parse(blob(manifests[0]).toString()) as { config: Descriptor; layers: readonly Descriptor[] };
    return { config: JSON.parse(blob(config).toString()) as ImageConfig, layers, blobs: layers.map(blob) };
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${folder} is no OCI image layout with one image in it`, { cause, details: { base: folder } });
  }
}

const jsonBytes = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));
