/** An instance as `runc` is told of it: the `config.json` of a bundle (https://github.com/opencontainers/runtime-spec). */

import type { NetworkAccess } from '../../src/plugin.ts';
import type { Resources } from './limits.ts';
import { TASK_FOLDER } from './program.ts';
import type { Program } from './program.ts';
import { seccompProfile } from './seccomp.ts';

export interface BundlePlan {
  readonly rootFolder: string;
  readonly cgroupsPath: string;
  readonly program: Program;
  readonly environment: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly resources: Resources;
  readonly network: NetworkAccess;
  readonly uid: number;
  readonly hostname: string;
}

const PERIOD_US = 100_000;
const MASKED = [
  '/proc/acpi', '/proc/asound', '/proc/kcore', '/proc/keys', '/proc/latency_stats', '/proc/timer_list', '/proc/timer_stats', '/proc/sched_debug',
  '/proc/scsi', '/sys/firmware', '/sys/devices/virtual/powercap',
]; // oxfmt-ignore
const READONLY = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];
/** How names are looked up; what an instance with an open network shares with the machine. */
const NAME_FILES = ['/etc/resolv.conf', '/etc/hosts'];
const PRIVATE_NAMESPACES = ['pid', 'ipc', 'uts', 'mount', 'cgroup'];

export function bundleConfig(plan: BundlePlan): object {
  const { program, resources, uid } = plan;
  const environment = { ...plan.environment, ...program.environment };
  const rlimit = (type: string, value: number): object => ({ type, hard: value, soft: value });
  const seccomp = seccompProfile(process.arch);
  return {
    ociVersion: '1.0.2',
    hostname: plan.hostname,
    annotations: plan.annotations,
    root: { path: plan.rootFolder, readonly: true },
    process: {
      terminal: false,
      user: { uid, gid: uid },
      args: withInit(program.argv),
      env: Object.entries(environment).map(([name, value]) => `${name}=${value}`),
      cwd: TASK_FOLDER,
      capabilities: { bounding: [], effective: [], inheritable: [], permitted: [], ambient: [] },
      rlimits: [rlimit('RLIMIT_NOFILE', resources.openFilesMax), rlimit('RLIMIT_CORE', 0)],
      noNewPrivileges: true,
    },
    mounts: mountsOf(plan),
    linux: {
      namespaces: [...PRIVATE_NAMESPACES, ...(plan.network === 'none' ? ['network'] : [])].map((type) => ({ type })),
      cgroupsPath: plan.cgroupsPath,
      resources: {
        devices: [{ allow: false, access: 'rwm' }],
        memory: { limit: resources.memoryBytes, swap: resources.memoryBytes },
        cpu: { quota: Math.round(resources.cpus * PERIOD_US), period: PERIOD_US },
        pids: { limit: resources.pidsMax },
      },
      maskedPaths: MASKED,
      readonlyPaths: READONLY,
      ...(seccomp && { seccomp }),
    },
  };
}

/** A shell as the first process: it collects orphans, and its exit code tells a signal that ended the program. */
function withInit(argv: readonly string[]): string[] {
  return ['/bin/sh', '-c', '"$@"; exit $?', 'init', ...argv];
}

function mountsOf({ program, resources, network }: BundlePlan): object[] {
  const bind = (source: string, destination: string): object => ({
    destination,
    type: 'bind',
    source,
    options: ['rbind', 'rprivate', 'ro', 'nosuid', 'nodev'],
  });
  const memory = (destination: string, ...options: string[]): object => ({ destination, type: 'tmpfs', source: 'tmpfs', options });
  return [
    { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
    memory('/dev', 'nosuid', 'strictatime', 'mode=755', 'size=65536k'),
    memory('/dev/shm', 'nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'),
    { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
    // Node reads there how much memory it has, and keeps its heap below.
    { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
    memory('/tmp', 'nosuid', 'nodev', 'mode=1777', `size=${resources.tmpBytes}`),
    ...(network === 'open' ? NAME_FILES.map((path) => bind(path, path)) : []),
    ...program.mounts.map(({ source, target }) => bind(source, target)),
  ];
}
