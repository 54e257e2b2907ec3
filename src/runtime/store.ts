/**
 * The function store: code, versions, aliases and layers of functions on the disk of this machine. What was acknowledged is there after a
 * crash at any point; what was not is either whole or not there at all.
 */

import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import type { Clock } from '../clock.ts';
import { systemClock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { FunctionAliases, chooseVersion } from './aliases.ts';
import { FunctionAttachments } from './attachments.ts';
import { FunctionLayers, checkZipSize } from './layers.ts';
import type { FunctionLimits } from '../executor/limits.ts';
import { LIMITS } from '../executor/limits.ts';
import type { FunctionVersion } from './runtime.ts';
import { BlobStore } from './store-blobs.ts';
import { StoreDatabase } from './store-database.ts';
import type {
  AliasRecord,
  CodeInput,
  CodeRecord,
  FunctionRecord,
  FunctionSettings,
  LayerReference,
  NewFunction,
  Page,
  PageOptions,
} from './store-records.ts';
import type { Row, StoreParts, VersionDraft } from './store-schema.ts';
import { LATEST, SCHEMA, checkRevision, notFound, parse, referenced, versionNumber } from './store-schema.ts';
import { checkName, checkProfile, checkRange, checkSettings, checkTags, refuse, withDefaults } from './store-settings.ts';
import { FunctionVersions, checkTotal } from './store-versions.ts';
import type { ZipLimits } from './unzip.ts';
import { ZIP_LIMITS } from './unzip.ts';

export interface FunctionStoreOptions {
  /** Nobody else's. Made when it is not there. */
  readonly folder: string;
  readonly clock?: Clock;
  /** Of a package, below what the provider allows. */
  readonly limits?: Partial<ZipLimits>;
  /** Makes revision ids. */
  readonly newId?: () => string;
  /** After a change of this function: instances whose fingerprint is not in `fingerprints(name)` serve no more. */
  readonly onChange?: (name: string) => void;
}

export interface UpdateCodeOptions {
  /** Publishes a version of it as well. */
  readonly publish?: boolean;
  /** Refused with `REVISION_MISMATCH` unless it is the present one. */
  readonly revisionId?: string;
  /** Checks everything, changes nothing. */
  readonly dryRun?: boolean;
  readonly architecture?: FunctionSettings['architecture'];
  /** What goes with the code; what is left out stays. */
  readonly settings?: Partial<Omit<FunctionSettings, 'layers'>>;
}

export interface PublishOptions {
  readonly description?: string;
  /** Hex, of the zip: refused unless it is the present one. */
  readonly codeSha256?: string;
  readonly revisionId?: string;
}

export interface Resolved {
  readonly fn: FunctionVersion;
  /** `$LATEST` or a number, also when an alias was asked for. */
  readonly executedVersion: string;
  readonly record: FunctionRecord;
  /** Calls of this function that may run at the same time; absent: no reservation. */
  readonly reserved?: number;
}

export interface StoreUsage {
  readonly functions: number;
  /** Packed bytes of the code of all versions and layers. */
  readonly codeBytes: number;
  readonly reserved: number;
}

/** How long removed code stays for instances that still run it: longer than a call can take. */
const GRACE_MS = 60 * 60_000;
const CACHED_MAX = 10_000;

interface CachedFunction {
  readonly reserved: number | undefined;
  readonly aliases: Map<string, AliasRecord>;
  readonly versions: Map<string, Resolved>;
}

export class FunctionStore {
  readonly aliases: FunctionAliases;
  readonly layers: FunctionLayers;
  readonly attachments: FunctionAttachments;
  readonly #parts: StoreParts;
  readonly #database: StoreDatabase;
  readonly #blobs: BlobStore;
  readonly #versions: FunctionVersions;
  readonly #limits: ZipLimits;
  readonly #cache = new Map<string, CachedFunction>();
  /** Unused packages, and since when. */
  readonly #unused = new Map<string, number>();

  /** Throws `STORE_FAILED`: used by another process, damaged, or not writable. */
  static open(options: FunctionStoreOptions): FunctionStore {
    return new FunctionStore(options);
  }

  private constructor({ folder, clock = systemClock, limits, newId = randomUUID, onChange }: FunctionStoreOptions) {
    this.#limits = { ...ZIP_LIMITS, ...limits };
    this.#database = new StoreDatabase({ path: join(folder, 'functions.sqlite'), mark: 'BPRF', version: 1, schema: SCHEMA });
    this.#blobs = new BlobStore(join(folder, 'blobs'), referenced(this.#database));
    this.#parts = {
      database: this.#database,
      clock,
      newId,
      requireVersion: (name, version) => void this.#versions.get(name, version),
      changed: (name) => {
        this.#cache.delete(name);
        onChange?.(name);
      },
    };
    this.#versions = new FunctionVersions(this.#parts, this.#blobs);
    this.aliases = new FunctionAliases(this.#parts);
    this.layers = new FunctionLayers(this.#parts, this.#blobs, this.#limits);
    this.attachments = new FunctionAttachments(this.#parts, (name, qualifier) => void this.get(name, qualifier));
  }

  /** Throws `FUNCTION_EXISTS`, `CONFIG_INVALID`, `PACKAGE_INVALID`, `PAYLOAD_TOO_LARGE`, `NOT_FOUND` for a layer. */
  async create(input: NewFunction): Promise<FunctionRecord> {
    const { name, profile = 'aws', code, tags = {}, layers = [] } = input;
    checkProfile(profile);
    const limits = LIMITS[profile];
    checkName(name, limits);
    checkTags(tags);
    const settings = withDefaults(input, limits);
    checkSettings(settings, profile, code.kind);
    if (this.#database.prepare('SELECT 1 FROM functions WHERE name = ?').get(name)) throw exists(name);
    return this.layers.attach(layers, (references, layerTree) =>
      this.#keepCode(code, limits, (kept) =>
        this.#transact(name, () => {
          if (this.#database.prepare('SELECT 1 FROM functions WHERE name = ?').get(name)) throw exists(name);
          this.#database.prepare('INSERT INTO functions VALUES (?, ?, ?, NULL)').run(name, profile, JSON.stringify(tags));
          return this.#versions.write({
            ...settings,
            name,
            version: LATEST,
            profile,
            code: kept,
            layers: references,
            ...(layerTree !== undefined && { layerTree }),
          });
        }),
      ),
    );
  }

  /** The function, or with `publish` the version. Throws as `create`, and `FUNCTION_NOT_FOUND`, `REVISION_MISMATCH`. */
  async updateCode(name: string, code: CodeInput, options: UpdateCodeOptions = {}): Promise<FunctionRecord> {
    const before = this.get(name);
    checkRevision(options.revisionId, before.revisionId);
    if (before.code.kind !== code.kind) throw refuse('code', `the function ${name} is packaged as ${before.code.kind}; it stays so`);
    return this.#keepCode(code, LIMITS[before.profile], (kept) => {
      const next = (present: FunctionRecord): VersionDraft => ({
        ...present,
        ...options.settings,
        code: kept,
        ...(options.architecture && { architecture: options.architecture }),
      });
      if (options.dryRun) {
        const draft = next(this.get(name));
        checkTotal(draft);
        return { ...before, ...draft };
      }
      return this.#transact(name, () => {
        const written = this.#versions.change(name, options.revisionId, next);
        return options.publish ? this.#versions.publish(written, undefined) : written;
      });
    });
  }

  /** What is left out of `patch` stays. Throws `FUNCTION_NOT_FOUND`, `REVISION_MISMATCH`, `CONFIG_INVALID`, `NOT_FOUND` for a layer. */
  async updateSettings(
    name: string,
    patch: Partial<FunctionSettings>,
    { revisionId }: { readonly revisionId?: string } = {},
  ): Promise<FunctionRecord> {
    const { layers, ...values } = patch;
    checkSettings({ ...this.get(name), ...patch }, this.get(name).profile, this.get(name).code.kind);
    const change = (references?: readonly LayerReference[], layerTree?: string): FunctionRecord =>
      this.#transact(name, () =>
        this.#versions.change(name, revisionId, ({ layerTree: oldTree, ...present }) => {
          const tree = references ? layerTree : oldTree;
          return { ...present, ...values, layers: references ?? present.layers, ...(tree !== undefined && { layerTree: tree }) };
        }),
      );
    return layers ? this.layers.attach(layers, change) : change();
  }

  /** Of a version, or where an alias sends most calls. Throws `FUNCTION_NOT_FOUND`. */
  get(name: string, qualifier: string = LATEST): FunctionRecord {
    return this.#versions.get(name, versionNumber(qualifier) === undefined ? this.aliases.get(name, qualifier).version : qualifier);
  }

  /** `$LATEST` of each, by name. */
  list(options: PageOptions = {}): Page<FunctionRecord> {
    return this.#versions.latest(options);
  }

  /** `$LATEST` first, then the numbers upwards. Throws `FUNCTION_NOT_FOUND`. */
  versions(name: string, options: PageOptions = {}): Page<FunctionRecord> {
    this.#versions.get(name);
    return this.#versions.of(name, options);
  }

  /** The function with all that belongs to it, or one version. Throws `FUNCTION_NOT_FOUND`, `STATE_INVALID` while an alias needs the version. */
  remove(name: string, version?: string): void {
    this.#transact(name, () => {
      this.#versions.get(name, version ?? LATEST);
      if (version === undefined) {
        this.#database.prepare('DELETE FROM functions WHERE name = ?').run(name);
        return;
      }
      if (version === LATEST) throw refuse('version', '$LATEST is removed only with the whole function');
      const users = this.aliases.list(name, { version }).items.map((alias) => alias.name);
      if (users.length > 0)
        throw new RunnerError('STATE_INVALID', `version ${version} is used by the aliases ${users.join(', ')}`, {
          details: { aliases: users },
        });
      this.#database.prepare('DELETE FROM versions WHERE name = ? AND version = ?').run(name, Number(version));
      this.#database.prepare('DELETE FROM attachments WHERE name = ? AND qualifier = ?').run(name, version);
    });
  }

  /** The next version, or the newest when nothing changed since. Throws `FUNCTION_NOT_FOUND`, `REVISION_MISMATCH`, `CONFIG_INVALID`. */
  publish(name: string, { description, codeSha256, revisionId }: PublishOptions = {}): FunctionRecord {
    return this.#transact(name, () => {
      const latest = this.get(name);
      checkRevision(revisionId, latest.revisionId);
      const present = latest.code.kind === 'zip' ? latest.code.sha256 : undefined;
      if (codeSha256 !== undefined && codeSha256 !== present)
        throw refuse('codeSha256', `the code is ${present ?? 'an image'} by now, not ${codeSha256}`);
      return this.#versions.publish(latest, description);
    });
  }

  /** What a call runs. Of an alias that shares its calls, `pick` (0 up to 1) decides. Throws `FUNCTION_NOT_FOUND`, `CODE_MISSING`. */
  resolve(name: string, qualifier: string = LATEST, pick: () => number = Math.random): Resolved {
    const cached = this.#cached(name);
    const version = versionNumber(qualifier) === undefined ? chooseVersion(this.#alias(cached, name, qualifier), pick) : qualifier;
    let found = cached.versions.get(version);
    if (!found) {
      const record = this.get(name, version);
      const fn = this.#versions.toVersion(record);
      found = { fn, record, executedVersion: version, ...(cached.reserved !== undefined && { reserved: cached.reserved }) };
      cached.versions.set(version, found);
    }
    return found;
  }

  /** Of all versions: the only ones that may still serve. Empty when there is no such function. */
  fingerprints(name: string): string[] {
    return this.#versions.fingerprints(name);
  }

  /** The zip as it was uploaded. Throws `CODE_MISSING`. */
  async codeOf({ name, code }: Pick<FunctionRecord, 'name' | 'code'>): Promise<Uint8Array> {
    if (code.kind === 'image') throw new RunnerError('CODE_MISSING', `the function ${name} is an image; it has no zip`);
    return this.#blobs.zipOf(code.sha256);
  }

  /** Undefined takes the reservation away. Throws `FUNCTION_NOT_FOUND`, `CONFIG_INVALID` when too little would be left for the others. */
  setReserved(name: string, calls: number | undefined): void {
    this.#transact(name, () => {
      const { concurrencyMax, unreservedConcurrencyMin } = LIMITS[this.get(name).profile];
      if (calls !== undefined) checkRange('reservedConcurrency', calls, { min: 0, max: concurrencyMax });
      if (calls !== undefined && this.#reservedOfOthers(name) + calls > concurrencyMax - unreservedConcurrencyMin) {
        throw refuse('reservedConcurrency', `a reservation of ${calls} leaves less than ${unreservedConcurrencyMin} of ${concurrencyMax} calls to functions without one`); // prettier-ignore
      }
      this.#database.prepare('UPDATE functions SET reserved = ? WHERE name = ?').run(calls ?? null, name);
    });
  }

  /** Throws `FUNCTION_NOT_FOUND`. */
  reserved(name: string): number | undefined {
    const reserved = this.#function(name)['reserved'];
    return reserved === null ? undefined : Number(reserved);
  }

  /** Throws `FUNCTION_NOT_FOUND`. */
  tags(name: string): Readonly<Record<string, string>> {
    return parse<Record<string, string>>(this.#function(name)['tags']);
  }

  /** Throws `FUNCTION_NOT_FOUND`, `CONFIG_INVALID`. */
  setTags(name: string, tags: Readonly<Record<string, string>>): void {
    checkTags(tags);
    this.#transact(name, () => {
      this.#function(name);
      this.#database.prepare('UPDATE functions SET tags = ? WHERE name = ?').run(JSON.stringify(tags), name);
    });
  }

  usage(): StoreUsage {
    const sum = (sql: string): number => Number(this.#database.prepare(sql).get()?.['value'] ?? 0);
    return {
      functions: sum('SELECT count(*) AS value FROM functions'),
      codeBytes:
        sum("SELECT sum(json_extract(code, '$.zipBytes')) AS value FROM versions") +
        sum("SELECT sum(json_extract(record, '$.zipBytes')) AS value FROM layers"),
      reserved: sum('SELECT sum(reserved) AS value FROM functions'),
    };
  }

  /** Removes packages that nothing has referred to for `graceMs`. To be called now and then. Resolves with how many. */
  async collect(graceMs: number = GRACE_MS): Promise<number> {
    const now = this.#parts.clock.now();
    const inUse = referenced(this.#database);
    const unused = this.#blobs.removable().filter((sha256) => !inUse.has(sha256));
    for (const sha256 of this.#unused.keys()) if (!unused.includes(sha256)) this.#unused.delete(sha256);
    for (const sha256 of unused) if (!this.#unused.has(sha256)) this.#unused.set(sha256, now);
    const due = unused.filter((sha256) => now - (this.#unused.get(sha256) ?? now) >= graceMs);
    for (const sha256 of due) this.#unused.delete(sha256);
    await Promise.all(due.map((sha256) => this.#blobs.remove(sha256)));
    return due.length;
  }

  /** Resolves when nothing is written any more of the packages that are being stored now. */
  settled(): Promise<void> {
    return this.#blobs.settled();
  }

  /** Idempotent. */
  close(): void {
    this.#blobs.close();
    this.#database.close();
  }

  #transact<T>(name: string, change: () => T): T {
    const value = this.#database.transact(change);
    this.#parts.changed(name);
    return value;
  }

  async #keepCode<T>(code: CodeInput, limits: FunctionLimits, use: (code: CodeRecord) => T): Promise<T> {
    if (code.kind === 'image') {
      if (code.uri === '') throw refuse('code', 'the image has no URI');
      return use(code);
    }
    if (code.bytes.length === 0) throw new RunnerError('PACKAGE_INVALID', 'the package is empty');
    checkZipSize(code.bytes, limits.zipBytesMax);
    const zipLimits = { ...this.#limits, unpackedBytesMax: Math.min(this.#limits.unpackedBytesMax, limits.unpackedBytesMax) };
    return this.#blobs.keep(code.bytes, zipLimits, (blob) => use({ kind: 'zip', ...blob }));
  }

  #alias({ aliases }: CachedFunction, name: string, alias: string): AliasRecord {
    const found = aliases.get(alias) ?? this.aliases.get(name, alias);
    aliases.set(alias, found);
    return found;
  }

  #cached(name: string): CachedFunction {
    let cached = this.#cache.get(name);
    if (!cached) {
      if (this.#cache.size >= CACHED_MAX) this.#cache.clear();
      cached = { reserved: this.reserved(name), versions: new Map(), aliases: new Map() };
      this.#cache.set(name, cached);
    }
    return cached;
  }

  /** Of the same provider. */
  #reservedOfOthers(name: string): number {
    const sql = `SELECT sum(reserved) AS value FROM functions
      WHERE name <> ?1 AND profile = (SELECT profile FROM functions WHERE name = ?1)`;
    return Number(this.#database.prepare(sql).get(name)?.['value'] ?? 0);
  }

  #function(name: string): Row {
    const row = this.#database.prepare('SELECT * FROM functions WHERE name = ?').get(name);
    if (!row) throw notFound(name);
    return row;
  }
}

function exists(name: string): RunnerError {
  return new RunnerError('FUNCTION_EXISTS', `the function ${name} exists; update it, or remove it first`, { details: { name } });
}
