/** Layers: packages that functions share, in numbered versions that never change. */

import { RunnerError } from '../errors.ts';
import { LIMITS } from '../executor/limits.ts';
import type { BlobStore } from './store-blobs.ts';
import type { LayerName, LayerRecord, LayerReference, Page, PageOptions } from './store-records.ts';
import { pageLimit, toPage } from './store-records.ts';
import { nextNumber, parse } from './store-schema.ts';
import type { StoreParts } from './store-schema.ts';
import { checkDescription, checkLayerName } from './store-settings.ts';
import type { ZipLimits } from './unzip.ts';

export interface NewLayer {
  readonly name: string;
  readonly zip: Uint8Array;
  readonly description?: string;
  readonly license?: string;
  readonly runtimes?: readonly string[];
  readonly architectures?: readonly string[];
}

export class FunctionLayers {
  readonly #parts: StoreParts;
  readonly #blobs: BlobStore;
  readonly #limits: ZipLimits;

  constructor(parts: StoreParts, blobs: BlobStore, limits: ZipLimits) {
    this.#parts = parts;
    this.#blobs = blobs;
    this.#limits = limits;
  }

  /** The next version. Throws `PACKAGE_INVALID`, `PAYLOAD_TOO_LARGE`, `CONFIG_INVALID`. */
  async publish(layer: NewLayer): Promise<LayerRecord> {
    const { name, zip, description = '', license = '', runtimes = [], architectures = [] } = layer;
    checkLayerName(name);
    checkDescription(description);
    checkZipSize(zip, LIMITS.aws.zipBytesMax);
    return this.#blobs.keep(zip, this.#limits, (blob) =>
      this.#parts.database.transact(() => {
        const version = nextNumber(this.#parts.database, 'layer', name);
        const createdAt = this.#parts.clock.now();
        const record: LayerRecord = { name, version, ...blob, description, license, runtimes, architectures, createdAt };
        this.#parts.database.prepare('INSERT INTO layers VALUES (?, ?, ?, ?)').run(name, version, blob.sha256, JSON.stringify(record));
        return record;
      }),
    );
  }

  /** Throws `NOT_FOUND`. */
  get({ name, version }: LayerName): LayerRecord {
    const row = this.#parts.database.prepare('SELECT record FROM layers WHERE name = ? AND version = ?').get(name, version);
    if (!row) throw new RunnerError('NOT_FOUND', `there is no layer ${name}:${version}`, { details: { layer: name, version } });
    return parse<LayerRecord>(row['record']);
  }

  /** The newest version of each. */
  list(options: PageOptions = {}): Page<LayerRecord> {
    const limit = pageLimit(options);
    const sql = 'SELECT record, max(version) FROM layers WHERE name > ? GROUP BY name ORDER BY name LIMIT ?';
    const rows = this.#parts.database.prepare(sql).all(options.after ?? '', limit + 1);
    return toPage(rows.map((row) => parse<LayerRecord>(row['record'])), limit, ({ name }) => name); // prettier-ignore
  }

  /** The newest first. */
  versions(name: string, options: PageOptions = {}): Page<LayerRecord> {
    const limit = pageLimit(options);
    const sql = 'SELECT record FROM layers WHERE name = ? AND version < ? ORDER BY version DESC LIMIT ?';
    const rows = this.#parts.database.prepare(sql).all(name, Number(options.after ?? Number.MAX_SAFE_INTEGER), limit + 1);
    return toPage(rows.map((row) => parse<LayerRecord>(row['record'])), limit, ({ version }) => String(version)); // prettier-ignore
  }

  /** Functions that have it keep it. Idempotent. */
  remove({ name, version }: LayerName): void {
    this.#parts.database.transact(() =>
      this.#parts.database.prepare('DELETE FROM layers WHERE name = ? AND version = ?').run(name, version),
    );
  }

  zipOf({ sha256 }: { readonly sha256: string }): Promise<Uint8Array> {
    return this.#blobs.zipOf(sha256);
  }

  /** The layers of a function, as they are now. `use` gets the tree that they make at /opt: nothing removes it while `use` runs. */
  async attach<T>(
    names: readonly LayerName[],
    use: (layers: readonly LayerReference[], tree: string | undefined) => Promise<T> | T,
  ): Promise<T> {
    const layers = names.map((layer): LayerReference => {
      const { name, version, sha256, zipBytes, unpackedBytes } = this.get(layer);
      return { name, version, sha256, zipBytes, unpackedBytes };
    });
    const [first, ...others] = layers.map(({ sha256 }) => sha256);
    if (first === undefined || others.length === 0) return use(layers, first);
    return this.#blobs.merge([first, ...others], (tree) => use(layers, tree));
  }
}

export function checkZipSize(zip: Uint8Array, limit: number): void {
  if (zip.length <= limit) return;
  throw new RunnerError('PAYLOAD_TOO_LARGE', `the package has ${zip.length} bytes; the limit is ${limit}`, {
    details: { bytes: zip.length, limit, what: 'package' },
  });
}
