/** What the kernel says of a control group, version 1 or 2. */

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

const ROOT = '/sys/fs/cgroup';

/** The folders of the memory controller that a process may be in, as `/proc/PID/cgroup` names them. */
export function memoryFolders(text: string, root = ROOT): string[] {
  const folders: string[] = [];
  for (const line of text.split('\n')) {
    const [, id, controllers = '', path = ''] = /^(\d+):([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers.split(',').includes('memory')) folders.unshift(join(root, 'memory', path));
    else if (id === '0' && controllers === '') folders.push(join(root, path));
  }
  return folders;
}

/**
 * Bytes that a control group uses, without the files that the kernel may drop at once; undefined where its files are not to be seen
 * from here.
 */
export async function memoryOf(folder: string): Promise<number | undefined> {
  const read = (name: string): Promise<string | undefined> => readFile(join(folder, name), 'utf8').catch(() => undefined);
  const usage = (await read('memory.usage_in_bytes')) ?? (await read('memory.current'));
  if (usage === undefined) return undefined;
  const inactive = /^(?:total_)?inactive_file (\d+)$/m.exec((await read('memory.stat')) ?? '')?.[1] ?? '0';
  return Math.max(0, Number(usage) - Number(inactive));
}

/** Of the control group of a process. */
export async function memoryOfProcess(pid: number): Promise<number | undefined> {
  const text = await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '');
  for (const folder of memoryFolders(text)) {
    const bytes = await memoryOf(folder);
    if (bytes !== undefined) return bytes;
  }
  return undefined;
}

/** How many processes of it the kernel ended for want of memory; 0 where that is not to be seen. */
export async function oomKillsOf(folder: string): Promise<number> {
  for (const name of ['memory.oom_control', 'memory.events']) {
    const text = await readFile(join(folder, name), 'utf8').catch(() => '');
    const [, count] = /^oom_kill (\d+)$/m.exec(text) ?? [];
    if (count !== undefined) return Number(count);
  }
  return 0;
}
