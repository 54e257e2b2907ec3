/** What goes into an export and what comes out of it. */

import { createHash } from 'node:crypto';
import { stringify } from 'yaml';
import type { FunctionConfig, FunctionPackage } from '../executor/deployer.ts';
import type { ProgramSpec } from '../executor/machine.ts';

export interface ExportedFunction {
  readonly name: string;
  readonly code: FunctionPackage;
  readonly config: FunctionConfig;
}

export interface ExportInput {
  readonly functions: readonly ExportedFunction[];
  /** The orchestrator. */
  readonly program?: ProgramSpec | undefined;
  /** Where the program keeps its data, as its manifest says. */
  readonly dataFolder?: string | undefined;
  /** Default `us-east-1`. */
  readonly region?: string | undefined;
}

export interface Exported {
  /** By path. */
  readonly files: Readonly<Record<string, Uint8Array | string>>;
  /** What the format cannot say as it was asked for. */
  readonly warnings: readonly string[];
  /** What to run with the files. */
  readonly usage: string;
}

/** Settings of `FunctionConfig.platform`: no other tool knows them. */
export function leftOut({ name, config }: ExportedFunction): string[] {
  const settings = Object.keys(config.platform ?? {});
  return settings.length === 0 ? [] : [`${name}: platform settings are left out: ${settings.join(', ')}`];
}

/** A name that is too long is cut, and a digest tells it from others that begin like it. */
export function nameWithin(name: string, lengthMax: number): string {
  if (name.length <= lengthMax) return name;
  const digest = createHash('sha256').update(name).digest('hex').slice(0, 8);
  return `${name.slice(0, lengthMax - digest.length - 1)}-${digest}`;
}

/** JSON as people read it. */
export function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** Without anchors, and with strings quoted where another reader could take them for something else. */
export function yaml(...documents: readonly unknown[]): string {
  return documents.map((document) => stringify(document, { aliasDuplicateObjects: false, lineWidth: 0 })).join('---\n');
}
