/** What is known of a deployed service, on disk: written after every step, so that any later process goes on from there. */

import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { RunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { ExecutorReference } from '../executor/deployer.ts';
import { makeFolder } from '../folder.ts';
import { stateFolder } from './policy-file.ts';

/** A plugin and the options of its deployer or host. */
export interface PluginReference {
  readonly use: string;
  readonly options: Readonly<Record<string, unknown>>;
}

export interface RecordedFunction {
  readonly deployer: PluginReference;
  readonly name: string;
  /** The platform's own id. Absent: its deployment has begun and was not confirmed. */
  readonly id?: string;
  readonly endpoint?: string;
  readonly sha256?: string;
  readonly executor?: ExecutorReference;
}

export interface RecordedJob {
  readonly name: string;
  /** `function`: on a platform. `runner`: in the process of the orchestrator. */
  readonly place: 'function' | 'runner';
  /** Why there, in words. */
  readonly reason: string;
  readonly function?: RecordedFunction;
  /** Why the platform that was chosen does not have it. */
  readonly fellBack?: { readonly code: ErrorCode; readonly message: string; readonly at: string };
}

export interface RecordedEvent {
  readonly at: string;
  readonly event: string;
  readonly detail?: string;
}

export interface ServiceRecord {
  readonly version: 1;
  /** Decimal. */
  readonly serviceId: string;
  readonly blueprintId: string;
  readonly blueprintName: string;
  readonly chainId: number;
  readonly contract: string;
  readonly status: 'deploying' | 'deployed' | 'failed' | 'removing';
  readonly error?: { readonly code: ErrorCode; readonly message: string };
  readonly strategy: 'serverless' | 'hybrid' | 'traditional';
  readonly reasons: readonly string[];
  readonly entry: string;
  /** The first block whose calls are its own, decimal: a ledger that is new begins here. */
  readonly fromBlock?: string;
  /** By decimal id. */
  readonly jobs: Readonly<Record<string, RecordedJob>>;
  /** Functions of jobs that are elsewhere now: to be removed. */
  readonly leftovers: readonly RecordedFunction[];
  readonly orchestrator?: { readonly host: PluginReference; readonly name: string; readonly healthPort: number; readonly id?: string };
  readonly createdAt: string;
  readonly updatedAt: string;
  /** The latest ones, oldest first. */
  readonly history: readonly RecordedEvent[];
}

const HISTORY_MAX = 200;
const SQLITE_BUSY = 5;

/** Where records lie unless told otherwise. */
export function defaultRecordFolder(environment: NodeJS.ProcessEnv): string {
  return environment['BPR_DEPLOYMENTS'] || join(stateFolder(environment), 'deployments');
}

/** Records of services, one file each, written atomically, readable by their owner alone. */
export class ServiceRecords {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Undefined when the service was never deployed. Throws `STORE_FAILED` for a file that is none. */
  read(service: { readonly serviceId: string; readonly chainId: number; readonly contract: string }): ServiceRecord | undefined {
    return this.#load(this.#file(service));
  }

  /** All of a service id, whatever chain it is on; without an id, all. */
  list(serviceId?: string): ServiceRecord[] {
    const names = existsSync(this.#folder) ? readdirSync(this.#folder).toSorted() : [];
    return names
      .filter((name) => name.endsWith('.json') && (serviceId === undefined || name.startsWith(`service-${serviceId}-`)))
      .map((name) => this.#load(join(this.#folder, name)))
      .filter((record) => record !== undefined);
  }

  write(record: ServiceRecord): void {
    makeFolder(this.#folder, 0o700);
    const file = this.#file(record);
    writeFileSync(`${file}.new`, `${JSON.stringify({ ...record, history: record.history.slice(-HISTORY_MAX) }, null, 2)}\n`, {
      mode: 0o600,
      flush: true,
    });
    renameSync(`${file}.new`, file);
  }

  remove(record: ServiceRecord): void {
    rmSync(this.#file(record), { force: true });
  }

  /**
   * Only one process deploys a service at a time. Returns what gives the place free; the kernel does so when the process dies.
   * Throws `STATE_INVALID` while another one has it.
   */
  lock(service: { readonly serviceId: string; readonly chainId: number; readonly contract: string }): () => void {
    makeFolder(this.#folder, 0o700);
    const file = `${this.#file(service)}.lock`;
    const database = new DatabaseSync(file, { timeout: 0 });
    try {
      database.exec('BEGIN EXCLUSIVE');
    } catch (cause) {
      database.close();
      const { serviceId } = service;
      if ((cause as { readonly errcode?: number }).errcode !== SQLITE_BUSY)
        throw new RunnerError('STORE_FAILED', `the lock ${file} cannot be taken`, { cause, details: { file } });
      throw new RunnerError('STATE_INVALID', `another process is deploying service ${serviceId}; wait until it has ended`, {
        cause,
        details: { serviceId },
      });
    }
    return () => database.close();
  }

  #file({ serviceId, chainId, contract }: { readonly serviceId: string; readonly chainId: number; readonly contract: string }): string {
    const chain = createHash('sha256').update(`${chainId}:${contract.toLowerCase()}`).digest('hex').slice(0, 8);
    return join(this.#folder, `service-${serviceId}-${chain}.json`);
  }

  #load(file: string): ServiceRecord | undefined {
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw new RunnerError('STORE_FAILED', `the deployment record ${file} cannot be read`, { cause, details: { file } });
    }
    try {
      const record = JSON.parse(text) as ServiceRecord; // as: we wrote it, and what it must have is looked at
      if (record.version === 1 && record.jobs && record.leftovers && record.history) return record;
    } catch (cause) {
      throw damaged(file, cause);
    }
    throw damaged(file);
  }
}

function damaged(file: string, cause?: unknown): RunnerError {
  return new RunnerError('STORE_FAILED', `the deployment record ${file} is damaged; put back a copy, or move it away to begin anew`, {
    cause,
    details: { file },
  });
}
