/** The contract of everything that keeps one long-running program alive: this machine, a container engine, a virtual machine of a cloud. */

import { createHash, createHmac, randomBytes } from 'node:crypto';
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { RunnerError } from '../errors.ts';
import type { DeployChange, DeployOptions, LogEntry, LogQuery } from './deployer.ts';

/** A program for node, with all that it needs. */
export interface ProgramSpec {
  /** Unique on the host; lower-case letters, digits and dashes. */
  readonly name: string;
  /** Files by relative path. Nothing else of the sender's machine is there. */
  readonly files: Readonly<Record<string, Uint8Array>>;
  /** Arguments of node; the first names a file of `files`. */
  readonly args: readonly string[];
  /** The whole environment besides `secrets`; nothing is inherited. */
  readonly environment: Readonly<Record<string, string>>;
  /** Variables by reference: `env:NAME` and `file:/path` are read by the sender, other schemes by the host (`ssm:/name`). Never stored in the clear by the sender. */
  readonly secrets?: Readonly<Record<string, string>>;
  readonly memoryMb?: number;
  /** Where the program serves /healthz and /readyz on its loopback interface. */
  readonly healthPort: number;
  readonly tags?: Readonly<Record<string, string>>;
}

export interface Machine {
  readonly name: string;
  /** The host's own id: process, container, instance. */
  readonly id: string;
  /** `starting`: not ready yet. `foreign`: this tool did not start it and never changes it. */
  readonly status: 'starting' | 'running' | 'stopped' | 'failed' | 'foreign';
  /** Why it failed, with its last lines. */
  readonly reason?: string;
  /** Where its health can be asked from here; absent when it cannot be reached. */
  readonly healthUrl?: string;
  /** Of the whole specification, values of secrets included where the sender reads them: another one is another program. */
  readonly specSha256?: string;
  readonly startedAt?: string;
  readonly memoryBytes?: number;
}

export interface MachineReport {
  readonly machine?: Machine;
  /** Empty: it ran as it should. */
  readonly changes: readonly DeployChange[];
  readonly warnings: readonly string[];
}

/**
 * Keeps programs running. Every operation can be repeated: running what runs already changes nothing, another specification of the same
 * name, or another value of a secret that the sender reads, replaces the program; ending what is not there succeeds. What this tool did not start is `RESOURCE_FOREIGN`.
 * Rejects further with `LIMIT_EXCEEDED`, `CREDENTIALS_MISSING`, `PLATFORM_UNREACHABLE`, `PLATFORM_THROTTLED`, `DEPLOY_FAILED`, `PEER_MISSING`, `ABORTED`.
 * Constructors do no I/O.
 */
export interface MachineHost {
  readonly name: string;
  /**
   * Where the program of that name may keep what has to outlive it, seen from inside: restarts and a new specification for the same machine. A
   * host whose machines end with their programs keeps it no longer than these, and says so in a warning: whatever is lost must be told by another
   * source, as a runner is told by the chain what is settled.
   */
  dataFolder(name: string): string;
  /** Resolves when the program is ready, or when the host cannot tell: then its status is `starting`. */
  run(spec: ProgramSpec, options?: DeployOptions): Promise<MachineReport>;
  /** Undefined when there is none of that name. */
  describe(name: string, options?: { readonly signal?: AbortSignal }): Promise<Machine | undefined>;
  /** Ours. */
  list(options?: { readonly signal?: AbortSignal }): AsyncIterable<Machine>;
  /** Oldest first. */
  logs(name: string, query?: LogQuery): AsyncIterable<LogEntry>;
  /** SIGTERM, time to drain, then by force. No changes in the report: it was not there. */
  terminate(name: string, options?: DeployOptions): Promise<MachineReport>;
  close?(): Promise<void>;
}

const KEY_BYTES = 32;
const NAME = /^[a-z0-9][a-z0-9-]{0,62}$/;

/** Throws `CONFIG_INVALID` for a name or a path that no host takes, or a program that is not among its files. */
export function checkProgram({ name, files, args }: ProgramSpec): void {
  if (!NAME.test(name)) throw new RunnerError('CONFIG_INVALID', `the name ${JSON.stringify(name)} must match ${NAME.source}`);
  for (const path of Object.keys(files)) {
    if (path.startsWith('/') || normalize(path).startsWith('..'))
      throw new RunnerError('CONFIG_INVALID', `the path ${path} of program ${name} leaves its folder`, { details: { path } });
  }
  if (args[0] === undefined || !(args[0] in files))
    throw new RunnerError('CONFIG_INVALID', `the program ${name} starts ${String(args[0])}, which is none of its files`);
}

/**
 * SHA-256, hex, of everything that makes the program what it is; tags are not part of it. Values of secrets are by their fingerprint, where the
 * sender reads them.
 */
export function programDigest({ files, tags: _, ...rest }: ProgramSpec, fingerprint = ''): string {
  const hash = createHash('sha256').update(JSON.stringify(rest)).update(fingerprint);
  for (const path of Object.keys(files).toSorted()) hash.update(path).update(files[path] ?? new Uint8Array());
  return hash.digest('hex');
}

/**
 * HMAC-SHA-256, hex, by which other values are noticed. Its key is random, made once per folder and readable by its owner alone: without it
 * not even a weak secret can be found by trying. A dry run makes none, so that without one everything is another value.
 */
export function secretsFingerprint(
  values: Readonly<Record<string, string>>,
  { folder, dryRun = false }: { readonly folder: string; readonly dryRun?: boolean | undefined },
): string {
  const entries = Object.entries(values).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return createHmac('sha256', fingerprintKey(folder, dryRun)).update(JSON.stringify(entries)).digest('hex');
}

function fingerprintKey(folder: string, isDry: boolean): Buffer {
  const file = join(folder, '.fingerprint-key');
  const known = keyIn(file);
  const fresh = randomBytes(KEY_BYTES);
  if (known || isDry) return known ?? fresh;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const draft = `${file}.${fresh.toString('hex', 0, 8)}`;
  writeFileSync(draft, fresh, { mode: 0o600, flush: true });
  try {
    // Never half written, and the first of two processes wins.
    linkSync(draft, file);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code !== 'EEXIST') throw thrown;
  } finally {
    rmSync(draft, { force: true });
  }
  return keyIn(file) ?? fresh;
}

function keyIn(file: string): Buffer | undefined {
  try {
    return readFileSync(file);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new RunnerError('STORE_FAILED', `the key of fingerprints ${file} cannot be read`, { cause, details: { file } });
  }
}

/** Writes the files into an empty folder. */
export function writeProgram({ files }: ProgramSpec, folder: string, modes: { readonly folder: number; readonly file: number }): void {
  rmSync(folder, { recursive: true, force: true });
  for (const [path, bytes] of Object.entries(files)) {
    const file = join(folder, path);
    mkdirSync(dirname(file), { recursive: true, mode: modes.folder });
    writeFileSync(file, bytes, { mode: modes.file });
  }
}
