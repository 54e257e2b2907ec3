/** Bringing containers up and down: races, leftovers, failures, pauses, by Docker and by runc. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect } from 'vitest';
import type { RunnerError } from '../../src/errors.ts';
import { DRIVERS, containersWith } from '../support/container-engine.ts';
import { InstanceLab } from '../support/instances.ts';

const ECHO = 'export const handler = async (event) => event;';
const LAUNCHER = join(import.meta.dirname, '../fixtures/container/launch.ts');

/** Process ids of everything on this machine that runs the client of these instances. */
function clientProcesses(marker: string): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, 'utf8').includes(marker);
      } catch {
        return false;
      }
    });
}

/** Paths of all below a folder. Those of other tests come and go while it is read. */
function controlGroups(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .flatMap(({ name }) => [join(folder, name), ...controlGroups(join(folder, name))]);
  } catch {
    return [];
  }
}

describe.each(DRIVERS)('containers by $name', ({ name, test, make }) => {
  const lab = new InstanceLab();
  const backend = make({ folder: join(lab.folder, 'state') });
  const failure = (launch: Promise<unknown>): Promise<RunnerError> =>
    launch.then(
      () => {
        throw new Error('it did not fail');
      },
      (error: unknown) => error as RunnerError,
    );
  /** What is left of all instances of an owner. */
  const leftOf = async (ownerId: string): Promise<string[]> => {
    if (name === 'docker') return containersWith(`dev.blueprint-runner.owner=${ownerId}`);
    const bundles = join(lab.folder, 'state/bundles');
    return readdirSync(bundles).filter((id) => readFileSync(join(bundles, id, 'config.json'), 'utf8').includes(ownerId));
  };

  afterAll(async () => {
    await backend.close();
    await lab.close();
  });

  test('end at once, however often and by whomever they are ended', async () => {
    const { instance, ready } = await lab.launch(backend, lab.fn(ECHO));
    await ready;
    await Promise.all(Array.from({ length: 8 }, () => backend.terminate(instance)));
    expect((await instance.ended).reason).toBe('terminated');
    await backend.terminate(instance);
    await expect.poll(() => leftOf(lab.ownerId)).toEqual([]);
  });

  test('may be ended while they start', async () => {
    const launches = Array.from({ length: 3 }, () => lab.launch(backend, lab.fn(ECHO)));
    await Promise.all(
      launches.map(async (launch) => {
        const { instance } = await launch;
        await backend.terminate(instance);
        expect((await instance.ended).reason).toBe('terminated');
      }),
    );
    await expect.poll(() => leftOf(lab.ownerId)).toEqual([]);
  });

  test('that are not wanted any more leave nothing', async () => {
    const outcomes: string[] = [];
    for (const delayMs of [0, 5, 20, 60]) {
      const giveUp = new AbortController();
      const launch = lab.launch(backend, lab.fn(ECHO), giveUp.signal);
      setTimeout(() => giveUp.abort(), delayMs);
      const outcome = await launch.then(
        ({ instance }) => backend.terminate(instance).then(() => 'started'),
        (error: unknown) => (error as RunnerError).code,
      );
      outcomes.push(outcome);
    }
    expect(outcomes.slice(0, 2)).toEqual(['ABORTED', 'ABORTED']);
    expect(['ABORTED', 'started']).toEqual(expect.arrayContaining(outcomes));
    await expect.poll(() => leftOf(lab.ownerId)).toEqual([]);
  });

  test('pause and go on, and can be ended while they are paused', async () => {
    const { instance, ready, call } = await lab.launch(backend, lab.fn(ECHO));
    await ready;
    await backend.pause(instance);
    let isAnswered = false;
    const answer = call({ n: 1 }).finally(() => (isAnswered = true));
    // Another instance does its whole life meanwhile.
    await lab.run(backend, lab.fn(ECHO));
    expect(isAnswered).toBe(false);
    await backend.resume(instance);
    expect(await answer).toEqual({ kind: 'response', body: '{"n":1}' });
    await backend.pause(instance);
    await backend.terminate(instance);
    expect((await instance.ended).reason).toBe('terminated');
  });

  test('tell how much memory they use', async () => {
    const source = `const kept = Buffer.alloc(40 << 20, 1); export const handler = async () => kept.length;`;
    const { instance, ready } = await lab.launch(backend, lab.fn(source));
    await ready;
    const bytes = (await backend.memoryBytes(instance)) ?? 0;
    expect(bytes).toBeGreaterThan(40 << 20);
    expect(bytes).toBeLessThan(120 << 20);
    await backend.terminate(instance);
    expect(await backend.memoryBytes(instance)).toBe(undefined);
  });

  test('whose code is not there or not to be read say so', async () => {
    const gone = lab.fn({ kind: 'folder', path: join(lab.folder, 'nothing'), sha256: 'x' });
    const error = await failure(lab.launch(backend, gone));
    expect(error).toMatchObject({ code: 'CODE_MISSING', cause: { message: expect.stringContaining('nothing') as string } });
    // What a caller elsewhere gets of it.
    expect(JSON.stringify(error)).not.toContain('nothing');
    await expect.poll(() => leftOf(lab.ownerId)).toEqual([]);
  });

  test('whose program is not there say so', async () => {
    const fn = lab.fn({ files: { 'no-bootstrap': '' } }, { runtime: 'provided.al2023' });
    const outcome = await lab.launch(backend, fn).then(
      ({ instance, output }) => instance.ended.then((end) => ({ end, text: output() })),
      (error: unknown) => ({ end: undefined, text: String(error) }),
    );
    expect(outcome.text).toMatch(/bootstrap/);
    if (outcome.end) expect(outcome.end).toEqual({ reason: 'exited', exitCode: 127 });
  });

  test('run a custom runtime that knows only host and port', async () => {
    const bootstrap = `#!/bin/sh\nexec node "\${0%/*}/client.mjs"\n`;
    const client = `
      const api = 'http://' + process.env.AWS_LAMBDA_RUNTIME_API + '/2018-06-01/runtime/invocation/';
      for (;;) {
        const event = await fetch(api + 'next');
        const id = event.headers.get('lambda-runtime-aws-request-id');
        await fetch(api + id + '/response', { method: 'POST', body: JSON.stringify({ got: await event.json(), address: process.env.AWS_LAMBDA_RUNTIME_API }) });
      }`;
    const fn = lab.fn(
      { files: { bootstrap, 'client.mjs': client }, executable: ['bootstrap'] },
      { runtime: 'provided.al2023', handler: 'x' },
    );
    expect(await lab.run(backend, fn, { n: 1 })).toEqual({ got: { n: 1 }, address: expect.stringMatching(/^127\.0\.0\.1:\d+$/) as string });
  });

  test('that crash under a custom runtime tell how', async () => {
    const fn = lab.fn({ files: { bootstrap: `#!/bin/sh\nkill -9 $$\n` }, executable: ['bootstrap'] }, { runtime: 'provided.al2023' });
    const { instance } = await lab.launch(backend, fn);
    expect(await instance.ended).toMatchObject({ reason: 'signalled', signal: 'SIGKILL' });
  });

  test('that take too long to start are given up', async () => {
    const hasty = make({ folder: join(lab.folder, 'state'), startTimeoutMs: 1 });
    expect(await failure(lab.launch(hasty, lab.fn(ECHO)))).toMatchObject({ code: 'INSTANCE_START_FAILED' });
    await hasty.close();
    await expect.poll(() => leftOf(lab.ownerId)).toEqual([]);
  });

  test('of a killed process are reaped by their owner, and nobody else touches them', async () => {
    const owners = [`own-${lab.ownerId}`, `other-${lab.ownerId}`];
    const { path: code } = lab.code(ECHO);
    const children = owners.map((ownerId) =>
      spawn(process.execPath, [LAUNCHER, name, lab.folder, ownerId, code, '2'], { stdio: ['ignore', 'pipe', 'inherit'], env: process.env }),
    );
    await Promise.all(children.map((child) => once(child.stdout, 'data')));
    for (const child of children) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    const [own = '', other = ''] = owners;
    expect(await leftOf(own)).toHaveLength(2);
    // One that this process has itself is not stale.
    const { instance, ready, call } = await lab.launch(backend, lab.fn(ECHO));
    await ready;
    expect(await backend.reapStale(own)).toBe(2);
    expect(await leftOf(own)).toEqual([]);
    expect(await backend.reapStale(own)).toBe(0);
    expect(await backend.reapStale(lab.ownerId)).toBe(0);
    expect(await leftOf(other)).toHaveLength(2);
    expect(await call({ n: 1 })).toEqual({ kind: 'response', body: '{"n":1}' });
    await backend.terminate(instance);
    expect(clientProcesses(`orphan-${children[0]?.pid}`)).toEqual([]);
    expect(await backend.reapStale(other)).toBe(2);
    expect(await leftOf(other)).toEqual([]);
  });

  test('that start while their backend is closed are gone when it is', async () => {
    const closed = make({ folder: join(lab.folder, 'state') });
    const launch = lab.launch(closed, lab.fn(ECHO));
    launch.catch(() => {});
    // It has been made, and runs soon.
    await expect.poll(() => leftOf(lab.ownerId), { interval: 1 }).toHaveLength(1);
    await closed.close();
    const end = await launch.then(
      ({ instance }) => Promise.race([instance.ended, Promise.resolve('it runs')]),
      () => 'it did not start',
    );
    expect(end).not.toBe('it runs');
    await expect.poll(() => leftOf(lab.ownerId)).toEqual([]);
  });

  test('leave nothing after close: no container, no control group; and then nothing starts', async () => {
    const { instance } = await lab.launch(backend, lab.fn(ECHO));
    await Promise.all([backend.close(), backend.close()]);
    expect((await instance.ended).reason).toBe('terminated');
    expect(await failure(lab.launch(backend, lab.fn(ECHO)))).toMatchObject({ code: 'BACKEND_UNAVAILABLE' });
    expect(await leftOf(lab.ownerId)).toEqual([]);
    const groups = controlGroups('/sys/fs/cgroup');
    expect(lab.launched.filter((id) => groups.some((path) => path.includes(id)))).toEqual([]);
    expect(existsSync(join(lab.folder, 'state'))).toBe(true);
  });
});
