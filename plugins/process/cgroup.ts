/** Control groups of Linux, version 1 and 2, by hand: limits that no process of an instance escapes, and a sure way to end them all. */

import { accessSync, constants, existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface CgroupLimits {
  readonly memoryBytes: number;
  /** Processes and threads. */
  readonly pids: number;
  /** Of one processor; 1.5 is one and a half. */
  readonly cpus: number;
}

export interface CgroupPlaces {
  /** Default `/sys/fs/cgroup`. */
  readonly root?: string;
  /** Default `/proc/self/cgroup`. */
  readonly self?: string;
}

const CONTROLLERS_V1 = ['memory', 'pids', 'cpu'] as const;
const PERIOD_US = 100_000;
/** A kill that races with forks is repeated; with no new process allowed, two rounds are the rule. */
const KILL_ROUNDS_MAX = 1_000;

/** Where groups of instances may be made: below the group of this very process, so that its own limits hold for them, too. */
export interface CgroupHost {
  readonly version: 1 | 2;
  /** Version 1: one folder per controller; version 2: one. */
  readonly folders: readonly string[];
}

/** The host, or why there is none. */
export function probeCgroups({ root = '/sys/fs/cgroup', self = '/proc/self/cgroup' }: CgroupPlaces = {}): CgroupHost | string {
  try {
    const own = ownGroups(readFileSync(self, 'utf8'));
    const unified = own.get('');
    if (existsSync(join(root, 'cgroup.controllers'))) return unifiedHost(join(root, unified ?? '/'));
    const folders = CONTROLLERS_V1.map((controller) => join(root, controller, own.get(controller) ?? '/'));
    for (const folder of folders) accessSync(folder, constants.W_OK);
    return { version: 1, folders };
  } catch (error) {
    return `control groups cannot be used: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** Version 2: controllers must be handed down, which the kernel refuses while the group itself has processes. */
function unifiedHost(folder: string): CgroupHost | string {
  accessSync(folder, constants.W_OK);
  const handedDown = (): string[] => readFileSync(join(folder, 'cgroup.subtree_control'), 'utf8').trim().split(' ');
  const isComplete = (): boolean => CONTROLLERS_V1.every((controller) => handedDown().includes(controller));
  if (!isComplete()) writeFileSync(join(folder, 'cgroup.subtree_control'), '+memory +pids +cpu');
  return isComplete() ? { version: 2, folders: [folder] } : `${folder} hands down only ${handedDown().join(' ')}`;
}

/** Path by controller; of version 2 under the empty name. */
function ownGroups(text: string): Map<string, string> {
  const groups = new Map<string, string>();
  for (const line of text.trim().split('\n')) {
    const [, controllers = '', path = '/'] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    for (const controller of controllers.split(',')) groups.set(controller, path);
  }
  return groups;
}

/** The group of one instance. */
export class Cgroup {
  readonly folders: readonly string[];

  constructor(folders: readonly string[]) {
    this.folders = folders;
  }

  static create(host: CgroupHost, name: string, limits: CgroupLimits): Cgroup {
    const group = new Cgroup(host.folders.map((folder) => join(folder, name)));
    try {
      for (const folder of group.folders) mkdirSync(folder, { recursive: true });
      group.limit(limits);
    } catch (error) {
      group.remove();
      throw error;
    }
    return group;
  }

  /** A process that writes `0` to each of them becomes a member. */
  get joinFiles(): readonly string[] {
    return this.folders.map((folder) => join(folder, 'cgroup.procs'));
  }

  limit({ memoryBytes, pids, cpus }: CgroupLimits): void {
    const names = ['memory.limit_in_bytes', 'memory.memsw.limit_in_bytes'];
    // At no time may the limit without swap be above the one with it.
    const isRaised = memoryBytes > Number(this.#read('memory.limit_in_bytes') ?? 0);
    for (const name of isRaised ? names.toReversed() : names) this.#write(name, memoryBytes);
    this.#write('memory.max', memoryBytes);
    this.#write('memory.swap.max', 0);
    this.#write('pids.max', pids);
    this.#write('cpu.cfs_period_us', PERIOD_US);
    this.#writeQuota(cpus);
    this.#write('cpu.max', `${Math.round(cpus * PERIOD_US)} ${PERIOD_US}`);
  }

  /** Version 1 takes no quota above that of a group around it: then that one holds. */
  #writeQuota(cpus: number): void {
    try {
      this.#write('cpu.cfs_quota_us', Math.round(cpus * PERIOD_US));
    } catch (error) {
      if (!hasCode(error, 'EINVAL')) throw error;
    }
  }

  /** Processes that live in it. */
  pids(): number[] {
    return (this.#read('cgroup.procs') ?? '').split('\n').filter(Boolean).map(Number);
  }

  /** Forbids new processes and kills those that are there. True when none is left. */
  kill(): boolean {
    this.#write('pids.max', 0);
    this.#write('cgroup.kill', 1);
    for (let round = 0; round < KILL_ROUNDS_MAX; round += 1) {
      const pids = this.pids();
      if (pids.length === 0) return true;
      let killed = 0;
      for (const pid of pids) if (kill(pid)) killed += 1;
      if (killed === 0) break;
    }
    return this.pids().length === 0;
  }

  /** How often the kernel killed a member for want of memory. */
  oomKills(): number {
    const text = this.#read('memory.oom_control') ?? this.#read('memory.events') ?? '';
    return Number(/^oom_kill (\d+)$/m.exec(text)?.[1] ?? 0);
  }

  /** What its members use, without pages of files that could be dropped. */
  memoryBytes(): number | undefined {
    const used = this.#read('memory.usage_in_bytes') ?? this.#read('memory.current');
    if (used === undefined) return undefined;
    const inactive = /^inactive_file (\d+)$/m.exec(this.#read('memory.stat') ?? '')?.[1];
    return Math.max(0, Number(used) - Number(inactive ?? 0));
  }

  /** True when it is gone; false while a member is still ending. */
  remove(): boolean {
    for (const folder of this.folders) {
      try {
        rmdirSync(folder);
      } catch (error) {
        if (!isMissing(error)) return false;
      }
    }
    return true;
  }

  /** A file that one of its folders has. */
  #read(name: string): string | undefined {
    for (const folder of this.folders) {
      try {
        return readFileSync(join(folder, name), 'utf8');
      } catch (error) {
        if (!isMissing(error)) throw error;
      }
    }
    return undefined;
  }

  /** Writes it where it is; what a version or a kernel without swap accounting does not have is left out. */
  #write(name: string, value: number | string): void {
    for (const folder of this.folders) {
      const file = join(folder, name);
      if (existsSync(file)) writeFileSync(file, String(value));
    }
  }
}

function kill(pid: number): boolean {
  try {
    process.kill(pid, 'SIGKILL');
    return true;
  } catch {
    return false;
  }
}

function isMissing(error: unknown): boolean {
  return hasCode(error, 'ENOENT') || hasCode(error, 'ENODEV');
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
