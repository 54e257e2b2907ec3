/** The container of a control plane with its engine (option 2): when one of its processes ends, it ends, with the status of that. */

import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished } from 'vitest';
import { HEALTH, START } from '../../src/topology/containers.ts';
import { testDocker } from '../support/container-engine.ts';
import { bpr } from '../support/topology.ts';

const run = promisify(execFile);
/** An image with node in it is built, without a cache. */
const LIMIT_MS = 300_000;
const ENGINE = ['--env', 'BPR_WASM_TOKEN=the-key-of-the-engine', '--env', 'BPR_HEALTH=http://127.0.0.1:27288/readyz'];
/** Ends the process whose command line has these words. */
const KILL = (words: string, signal: string): string =>
  `for (const pid of fs.readdirSync('/proc')) try { if (/^\\d+$/.test(pid) && fs.readFileSync('/proc/' + pid + '/cmdline', 'utf8').includes('bpr.mjs\\0${words}')) process.kill(Number(pid), '${signal}'); } catch { /* It has ended. */ }`;

async function docker(...args: readonly string[]): Promise<string> {
  return (await run('docker', args)).stdout.trim();
}

/** What the container said, on both streams. */
async function logs(id: string): Promise<string> {
  const { stdout, stderr } = await run('docker', ['logs', id]);
  return stdout + stderr;
}

/** A container that runs; removed at the end of the test. */
async function start(image: string, flags: readonly string[], words: readonly string[] = []): Promise<string> {
  const id = await docker('run', '--detach', '--init', '--read-only', '--network', 'none', '--tmpfs', '/tmp', ...flags, image, ...words);
  onTestFinished(async () => {
    await docker('rm', '--force', '--volumes', id);
  });
  return id;
}

testDocker(
  'option 2: a process that ends takes the container with it',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ti-'));
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
    const render = ['--option', '2', '--workers', '1', '--format', 'dockerfile', '--out', folder, '--json'];
    expect(await bpr('topology', 'render', ...render)).toMatchObject({ status: 0 });
    const image = `bpr-option-2-test:${process.pid}`;
    await docker('build', '--quiet', '--tag', image, '--file', join(folder, 'Dockerfile.control-plane'), folder);
    onTestFinished(async () => {
      await docker('rmi', '--force', image);
    });

    // What cannot start: the engine without its key, which is called in a wrong way, or which is something else that ends well.
    const control = ['control-plane', '--data', '/data/control', '--port', '0'];
    const cases = [
      { words: [], status: '1', said: 'wasm serve has ended: 1' },
      { words: [START, ...control, '--', 'wasm', 'serve', '--port', 'many'], status: '2', said: 'wasm serve has ended: 2' },
      { words: [START, ...control, '--', '--version'], status: '1', said: '--version has ended: 0' },
    ];
    for (const { words, status, said } of cases) {
      const id = await start(image, [], words);
      expect([words, await docker('wait', id)]).toEqual([words, status]);
      expect(await logs(id)).toContain(said);
    }

    for (const words of ['wasm', 'control-plane']) {
      const id = await start(image, ENGINE);
      await docker('exec', '--env', 'BPR_WAIT_MS=120000', id, 'node', HEALTH);
      // It may be gone with the container before it ends itself.
      await docker('exec', '--detach', id, 'node', '-e', KILL(words, 'SIGKILL'));
      expect(await docker('wait', id)).toBe('137');
      expect(await logs(id)).toMatch(new RegExp(`^${words}.* has ended: SIGKILL$`, 'm'));
    }

    const id = await start(image, ENGINE);
    await docker('exec', '--env', 'BPR_WAIT_MS=120000', id, 'node', HEALTH);
    await docker('stop', '--time', '120', id);
    expect(await docker('wait', id)).toBe('0');
  },
  LIMIT_MS,
);
