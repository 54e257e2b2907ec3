/** `bpr doctor --production`: whether the machine is one to run on. */

import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { redactText } from '../../telemetry/redact.ts';
import { lookFor } from '../backends.ts';
import { verdict } from './doctor-check.ts';
import type { Check } from './doctor-check.ts';

const FILES = { fail: 1_024, warn: 65_536 };
const CONTROLLERS = ['cpu', 'memory', 'pids'] as const;
/** Each contains functions in another way; without any of them they run as processes. */
const RUNTIMES = ['docker', 'runc'] as const;
const NTP_FILES = ['/run/systemd/timesync/synchronized', '/run/chrony/chronyd.pid', '/run/ntpd.pid', '/run/openntpd/ntpd.sock'];

export async function checkHost(): Promise<Check[]> {
  return [checkFiles(), checkControllers(), await checkRuntime(), await checkNtp()];
}

function checkFiles(): Check {
  const source = '/proc/self/limits';
  const limits = readText(source);
  const open = Number(/^Max open files +(\S+)/m.exec(limits)?.[1]?.replace('unlimited', 'Infinity') ?? Number.NaN);
  return verdict({ name: 'open files', source, detail: `at most ${open}` }, [
    [Number.isNaN(open), 'warn', 'it cannot be read on this system: see ulimit -n'],
    [open < FILES.fail, 'fail', `a connection is a file: raise it to ${FILES.warn}, with ulimit -n or LimitNOFILE=`],
    [open < FILES.warn, 'warn', `enough for few workers: raise it to ${FILES.warn}, with ulimit -n or LimitNOFILE=`],
  ]);
}

/** Exported for its test: it takes the root of another tree. */
export function checkControllers(root = '/sys/fs/cgroup'): Check {
  const source = join(root, 'cgroup.controllers');
  const found = readText(source).trim().split(' ').filter(Boolean);
  const missing = CONTROLLERS.filter((name) => !found.includes(name));
  const detail = found.length > 0 ? found.join(', ') : 'no unified hierarchy';
  return verdict({ name: 'control groups', source, detail }, [
    [
      missing.length > 0,
      'warn',
      `functions run without limits of ${missing.join(', ')}: boot with cgroup v2, and delegate the controllers`,
    ],
  ]);
}

async function checkRuntime(): Promise<Check> {
  const folder = mkdtempSync(join(tmpdir(), 'bpr-doctor-'));
  try {
    const { backends, missing } = await lookFor(RUNTIMES, { folder });
    const found = [...backends.keys()];
    for (const backend of backends.values()) await backend.close?.();
    const reasons = Object.entries(missing).map(([name, reason]) => `${name}: ${redactText(reason)}`);
    const detail = found.length > 0 ? found.join(', ') : reasons.join('; ');
    return verdict({ name: 'container runtime', source: RUNTIMES.join(', '), detail }, [
      [found.length === 0, 'warn', 'install Docker or runc to run functions of others, or use the wasm backend'],
    ]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function checkNtp(): Promise<Check> {
  const name = 'time synchronisation';
  const file = NTP_FILES.find((path) => existsSync(path));
  if (file !== undefined) return { name, source: file, status: 'ok', detail: 'a time service runs' };
  const source = 'timedatectl show';
  const told = await promisify(execFile)('timedatectl', ['show', '-p', 'NTPSynchronized'], { timeout: 5_000 }).then(
    ({ stdout }) => stdout.trim(),
    () => 'not there',
  );
  const remedy = 'run a time service, such as systemd-timesyncd or chrony: deadlines and tickets go by the clock';
  return verdict({ name, source, detail: told }, [[told !== 'NTPSynchronized=yes', 'warn', remedy]]);
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
