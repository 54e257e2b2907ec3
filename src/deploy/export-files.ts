/** What goes into an export and what comes out of it. */

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

/** JSON as people read it. */
export function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** Without anchors, and with strings quoted where another reader could take them for something else. */
export function yaml(...documents: readonly unknown[]): string {
  return documents.map((document) => stringify(document, { aliasDuplicateObjects: false, lineWidth: 0 })).join('---\n');
}
