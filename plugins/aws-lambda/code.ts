/** Packages: directly in a request, or from a bucket when they are too large; layers, each published once. */

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { LayerVersionsListItem } from '@aws-sdk/client-lambda';
import { LIMITS, RunnerError } from '../../src/plugin.ts';
import type { FunctionPackage } from '../../src/plugin.ts';
import type { Changes } from './changes.ts';
import type { Session } from './client.ts';
import { isNotFound, rawOf, readFailure } from './failure.ts';
import { MANAGED, foreign, toBase64 } from './names.ts';
import type { LayerPackage } from './options.ts';

export interface Bucket {
  readonly name: string;
  readonly prefix: string;
}

export type CodeSource = { readonly ZipFile: Uint8Array } | { readonly S3Bucket: string; readonly S3Key: string };

interface Wanted {
  readonly code: FunctionPackage;
  readonly bucket: Bucket | undefined;
  readonly folder: string;
}

/**
 * Where a package that is too large for a request is in the bucket, and whether it is there; undefined for one that is not too large.
 * Throws `RESOURCE_FOREIGN` for something else of its name.
 */
export async function readPackage(
  session: Session,
  { code, bucket, folder }: Wanted,
): Promise<{ readonly where: { readonly Bucket: string; readonly Key: string }; readonly isThere: boolean } | undefined> {
  if (code.zip.length <= LIMITS.aws.zipBytesMax) return undefined;
  if (!bucket) throw new RunnerError('CONFIG_INVALID', 'a package of this size needs the option bucket');
  const where = { Bucket: bucket.name, Key: `${bucket.prefix}${folder}/${code.sha256}.zip` };
  const there = await session.known(`package ${where.Key}`, async () => {
    try {
      const found = await session.find('s3', (s3, request) => s3.headObject(where, request), isAbsentObject);
      return found ?? (await checkBucket(session, bucket.name));
    } catch (cause) {
      if (readFailure(rawOf(cause)).status !== 403) throw cause;
      // A HEAD has no words.
      const message = `the bucket ${bucket.name} cannot be read with these credentials (403): it is somebody else's, or they may not read and list it`;
      throw new RunnerError('DEPLOY_FAILED', message, { cause, retry: 'never', details: { bucket: bucket.name } });
    }
  });
  if (there && there.Metadata?.[MANAGED.key] !== MANAGED.value) throw foreign('package', `${where.Bucket}/${where.Key}`);
  return { where, isThere: there !== undefined };
}

/** Where Lambda gets a package from. Puts it into the bucket when it is too large and not there yet. */
export async function codeSource(session: Session, changes: Changes, wanted: Wanted): Promise<CodeSource> {
  const { code } = wanted;
  const found = await readPackage(session, wanted);
  if (!found) return { ZipFile: code.zip };
  const { where, isThere } = found;
  if (!isThere)
    await changes.make({ action: 'create', resource: 'package', id: `s3://${where.Bucket}/${where.Key}` }, () =>
      session.write('s3', (s3, request) =>
        s3.putObject({ ...where, Body: code.zip, ContentType: 'application/zip', Metadata: { [MANAGED.key]: MANAGED.value } }, request),
      ),
    );
  return { S3Bucket: where.Bucket, S3Key: where.Key };
}

/** A package that is not there says nothing about the bucket. */
async function checkBucket(session: Session, Bucket: string): Promise<undefined> {
  if (await session.find('s3', (s3, request) => s3.headBucket({ Bucket }, request), isAbsentObject)) return;
  throw new RunnerError('CONFIG_INVALID', `there is no bucket ${Bucket}: make it, or name another one with the option bucket`);
}

/** A HEAD has no body: its status is all that is said. */
const isAbsentObject = (thrown: unknown): boolean => isNotFound(thrown) || readFailure(rawOf(thrown)).status === 404;

/** Packages of a function in the bucket that no deployment needs any more. */
export async function removePackages(
  changes: Changes,
  bucket: Bucket,
  options: { readonly folder: string; readonly keep?: string },
): Promise<void> {
  const { session } = changes;
  const Prefix = `${bucket.prefix}${options.folder}/`;
  let ContinuationToken: string | undefined;
  do {
    const page = await session.read('s3', (s3, request) =>
      s3.listObjectsV2({ Bucket: bucket.name, Prefix, ...(ContinuationToken !== undefined && { ContinuationToken }) }, request),
    );
    for (const { Key } of page.Contents ?? []) {
      if (Key === undefined || Key === `${Prefix}${options.keep}.zip` || !/^[0-9a-f]{64}\.zip$/.test(Key.slice(Prefix.length))) continue;
      await changes.make({ action: 'delete', resource: 'package', id: `s3://${bucket.name}/${Key}` }, () =>
        session.write('s3', (s3, request) => s3.deleteObject({ Bucket: bucket.name, Key }, request)),
      );
    }
    ContinuationToken = page.IsTruncated ? page.NextContinuationToken : undefined;
  } while (ContinuationToken !== undefined);
}

export interface LayerZip {
  readonly name: string;
  readonly zip: Uint8Array;
  /** As Lambda writes it. */
  readonly sha256: string;
}

/** The packages among the layers, with their bytes. Before the first write: a file that is missing is known then. */
export async function readLayers(layers: readonly (string | LayerPackage)[]): Promise<readonly (string | LayerZip)[]> {
  return Promise.all(
    layers.map(async (layer) => {
      if (typeof layer === 'string') return layer;
      const zip = typeof layer.zip === 'string' ? await readZip(layer.zip) : layer.zip;
      return { name: layer.name, zip, sha256: toBase64(createHash('sha256').update(zip).digest('hex')) };
    }),
  );
}

async function readZip(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `the package ${path} of a layer cannot be read`, { cause, details: { path } });
  }
}

/** What the description of a layer version says that was published here. */
const LAYER_MARK = `${MANAGED.key}=${MANAGED.value}`;

/** ARNs of the layers. A package that was published under its name before is not published again. */
export async function ensureLayers(
  session: Session,
  changes: Changes,
  { layers, bucket }: { readonly layers: readonly (string | LayerZip)[]; readonly bucket: Bucket | undefined },
): Promise<readonly string[]> {
  const arns: string[] = [];
  for (const layer of layers) arns.push(typeof layer === 'string' ? layer : await ensureLayer(session, changes, { layer, bucket }));
  return arns;
}

async function ensureLayer(
  session: Session,
  changes: Changes,
  { layer, bucket }: { readonly layer: LayerZip; readonly bucket: Bucket | undefined },
): Promise<string> {
  const { name, zip, sha256 } = layer;
  const present = await findLayer(session, name, sha256);
  if (present !== undefined) return present;
  const hex = Buffer.from(sha256, 'base64').toString('hex');
  const Content = await codeSource(session, changes, { code: { zip, sha256: hex }, bucket, folder: `layers/${name}` });
  const arn = await changes.make({ action: 'create', resource: 'layer', id: name }, async () => {
    const made = await session.write('lambda', (lambda, request) =>
      lambda.publishLayerVersion({ LayerName: name, Content, Description: LAYER_MARK }, request),
    );
    return made.LayerVersionArn;
  });
  return arn ?? `arn:aws:lambda:::layer:${name}:0`;
}

async function findLayer(session: Session, LayerName: string, sha256: string): Promise<string | undefined> {
  // A version of somebody else is not built on: they may delete it.
  for await (const { Version, LayerVersionArn, Description } of layerVersions(session, LayerName)) {
    if (Version === undefined || Description !== LAYER_MARK) continue;
    const version = await session.find(
      'lambda',
      (lambda, request) => lambda.getLayerVersion({ LayerName, VersionNumber: Version }, request),
      isNotFound,
    );
    if (version?.Content?.CodeSha256 === sha256) return LayerVersionArn;
  }
  return undefined;
}

async function* layerVersions(session: Session, LayerName: string): AsyncGenerator<LayerVersionsListItem> {
  let Marker: string | undefined;
  do {
    const page = await session.find(
      'lambda',
      (lambda, request) => lambda.listLayerVersions({ LayerName, ...(Marker !== undefined && { Marker }) }, request),
      isNotFound,
    );
    yield* page?.LayerVersions ?? [];
    Marker = page?.NextMarker;
  } while (Marker);
}

/** Removes all versions of the layers that were published here and that no other function has, and packages of layers that nobody has any more. */
export async function removeLayers(changes: Changes, arns: readonly string[], bucket: Bucket | undefined): Promise<void> {
  const { session } = changes;
  const names = [...new Set(arns.flatMap((arn) => /:layer:([^:]+):\d+$/.exec(arn)?.[1] ?? []))];
  const own: { readonly LayerName: string; readonly VersionNumber: number; readonly arn: string }[] = [];
  for (const LayerName of names)
    for await (const { Version, LayerVersionArn, Description } of layerVersions(session, LayerName))
      if (Version !== undefined && LayerVersionArn !== undefined && Description === LAYER_MARK)
        own.push({ LayerName, VersionNumber: Version, arn: LayerVersionArn });
  if (own.length === 0) return;
  const used = await layersOfOthers(session, changes.function);
  const kept = new Set(own.flatMap(({ LayerName, arn }) => (used.has(arn) ? [LayerName] : [])));
  // They are found by their layers, and go before.
  for (const LayerName of new Set(own.map((version) => version.LayerName)))
    if (bucket && !kept.has(LayerName)) await removePackages(changes, bucket, { folder: `layers/${LayerName}` });
  for (const { arn, ...version } of own.filter(({ arn }) => !used.has(arn)))
    await changes.make({ action: 'delete', resource: 'layer', id: arn }, () =>
      session.write('lambda', (lambda, request) => lambda.deleteLayerVersion(version, request)),
    );
}

async function layersOfOthers(session: Session, functionName: string): Promise<ReadonlySet<string>> {
  const used = new Set<string>();
  let Marker: string | undefined;
  do {
    const page = await session.read('lambda', (lambda, request) => lambda.listFunctions(Marker === undefined ? {} : { Marker }, request));
    for (const { FunctionName, Layers } of page.Functions ?? [])
      if (FunctionName !== functionName) for (const { Arn } of Layers ?? []) if (Arn !== undefined) used.add(Arn);
    Marker = page.NextMarker;
  } while (Marker);
  return used;
}
