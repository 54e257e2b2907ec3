/** What the function store keeps of functions, aliases and layers. */

import type { Provider } from '../executor/limits.ts';
import type { NetworkAccess } from './runtime.ts';

export type JsonValue = string | number | boolean | null | readonly JsonValue[] | JsonObject;
export interface JsonObject {
  readonly [name: string]: JsonValue | undefined;
}

export type CodeInput =
  | { readonly kind: 'zip'; readonly bytes: Uint8Array }
  | { readonly kind: 'image'; readonly uri: string; readonly command?: readonly string[]; readonly entryPoint?: readonly string[] };

export type CodeRecord =
  /** `sha256` is of the zip, hex. */
  | { readonly kind: 'zip'; readonly sha256: string; readonly zipBytes: number; readonly unpackedBytes: number }
  | { readonly kind: 'image'; readonly uri: string; readonly command?: readonly string[]; readonly entryPoint?: readonly string[] };

export type Architecture = 'x86_64' | 'arm64';

export interface LayerName {
  readonly name: string;
  readonly version: number;
}

/** A layer as a function took it: it stays when the layer is removed. */
export interface LayerReference extends LayerName {
  readonly sha256: string;
  readonly zipBytes: number;
  readonly unpackedBytes: number;
}

/** What an author sets. */
export interface FunctionSettings {
  readonly description: string;
  /** Empty for images. */
  readonly runtime: string;
  /** Empty for images. */
  readonly handler: string;
  readonly memoryMb: number;
  readonly timeoutMs: number;
  readonly ephemeralMb: number;
  /** Secrets: never logged. */
  readonly environment: Readonly<Record<string, string>>;
  /** A later one overrides the files of an earlier one. */
  readonly layers: readonly LayerName[];
  readonly concurrencyPerInstance: number;
  readonly network: NetworkAccess;
  readonly architecture: Architecture;
  /** What the store keeps for others without looking into it. No part of the fingerprint. */
  readonly extra: JsonObject;
}

export interface NewFunction extends Partial<FunctionSettings> {
  readonly name: string;
  readonly code: CodeInput;
  /** Whose limits hold. Default `aws`. */
  readonly profile?: Provider;
  readonly tags?: Readonly<Record<string, string>>;
}

/** One version of a function. Numbered ones never change. */
export interface FunctionRecord extends Omit<FunctionSettings, 'layers'> {
  readonly name: string;
  /** `$LATEST` or a decimal number. */
  readonly version: string;
  /** Changes with every change: whoever names an old one is refused. */
  readonly revisionId: string;
  /** Milliseconds since the epoch. */
  readonly modifiedAt: number;
  readonly profile: Provider;
  readonly code: CodeRecord;
  readonly layers: readonly LayerReference[];
  /** SHA-256 of the tree that the layers make at /opt; absent without layers. */
  readonly layerTree?: string;
  readonly fingerprint: string;
}

export interface AliasRecord {
  readonly functionName: string;
  readonly name: string;
  readonly version: string;
  readonly description: string;
  /** Of other versions: the share of calls they get, 0 to 1. */
  readonly weights: Readonly<Record<string, number>>;
  readonly revisionId: string;
}

export interface LayerRecord extends LayerReference {
  readonly description: string;
  readonly license: string;
  readonly runtimes: readonly string[];
  readonly architectures: readonly string[];
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
}

/** What happens to a call that nobody waits for. */
export interface AsyncConfig {
  /** 0 to 2. Default 2. */
  readonly retriesMax?: number;
  /** 60 to 21,600. Default 21,600. */
  readonly ageMaxSeconds?: number;
  /** Where the outcome is told: a function ARN or name, `file://` folder, `http(s)://` URL. */
  readonly onSuccess?: string;
  readonly onFailure?: string;
}

export interface PageOptions {
  /** What the page before gave as `next`. */
  readonly after?: string;
  /** Default and most: 10,000. */
  readonly limit?: number;
}

export interface Page<T> {
  readonly items: readonly T[];
  /** Absent on the last page. */
  readonly next?: string;
}

/** `items` is one longer than the page when there is more. */
export function toPage<T>(items: readonly T[], limit: number, keyOf: (item: T) => string): Page<T> {
  const page = items.slice(0, limit);
  const last = page.at(-1);
  return items.length > limit && last !== undefined ? { items: page, next: keyOf(last) } : { items: page };
}

export function pageLimit({ limit = 10_000 }: PageOptions): number {
  return Math.max(1, Math.min(10_000, limit));
}
