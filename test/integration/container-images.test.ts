/** Images: packages of functions, images without node, and the one that is made of the node on disk. */

import { appendFileSync, copyFileSync } from 'node:fs';
import { join } from 'node:path';
import Docker from 'dockerode';
import { afterAll, describe, expect } from 'vitest';
import { ContainerBackend } from '../../plugins/container/backend.ts';
import { Engine } from '../../plugins/container/client.ts';
import { NODE_PATH, hostRootfs } from '../../plugins/container/rootfs.ts';
import { tarOf } from '../../plugins/container/tar.ts';
import type { RootEntry } from '../../plugins/container/tar.ts';
import { systemClock } from '../../src/plugin.ts';
import type { FunctionVersion } from '../../src/plugin.ts';
import { askEngine, containersWith, testDocker } from '../support/container-engine.ts';
import { InstanceLab } from '../support/instances.ts';

const lab = new InstanceLab();
const state = join(lab.folder, 'state');
const backend = new ContainerBackend({ folder: state, pull: 'never' });
const never = new AbortController().signal;
/** Tags that this file made. */
const made: string[] = [];

afterAll(async () => {
  await backend.close();
  await lab.close();
  for (const tag of made) await askEngine('DELETE', `/images/${tag}?force=true`);
});

const APP = `
const api = 'http://' + process.env.AWS_LAMBDA_RUNTIME_API + '/2018-06-01/runtime/invocation/';
for (;;) {
  const event = await fetch(api + 'next');
  const id = event.headers.get('lambda-runtime-aws-request-id');
  const answer = { got: await event.json(), arguments: process.argv.slice(2), uid: process.getuid(), setting: process.env.SETTING, address: process.env.AWS_LAMBDA_RUNTIME_API };
  await fetch(api + id + '/response', { method: 'POST', body: JSON.stringify(answer) });
}`;
const STDIO = `
import { text } from 'node:stream/consumers';
process.stdout.write(JSON.stringify({ got: JSON.parse(await text(process.stdin)), arguments: process.argv.slice(2) }));`;

/** An image with node at a place that PATH does not name, as an image of another language would have none. */
async function makeImage(name: string, changes: readonly string[]): Promise<string> {
  const { entries } = await hostRootfs(process.execPath);
  const moved = entries.map((entry): RootEntry => (entry.path === NODE_PATH ? { ...entry, path: '/custom-node' } : entry));
  const app = (path: string, text: string): RootEntry => ({ kind: 'text', path, mode: 0o644, text });
  const contents: readonly RootEntry[] = [
    ...moved,
    { kind: 'folder', path: '/app', mode: 0o755 },
    app('/app/app.mjs', APP),
    app('/app/stdio.mjs', STDIO),
  ];
  const engine = await Engine.connect({ clock: systemClock, environment: process.env, platform: 'linux', uid: 0, home: '/' });
  const tag = `${process.pid}`;
  await engine.importImage(tarOf(contents), { repository: `bpr-test/${name}`, tag, changes });
  made.push(`bpr-test/${name}:${tag}`);
  return `bpr-test/${name}:${tag}`;
}

const imageFn = (
  code: Omit<FunctionVersion['code'] & { kind: 'image' }, 'kind'>,
  settings: Partial<FunctionVersion> = {},
): FunctionVersion => lab.fn({ kind: 'image', ...code }, { runtime: '', handler: '', environment: { SETTING: 'set' }, ...settings });
const uid = process.getuid?.() === 0 ? 993 : process.getuid?.();

describe('a function that is an image', () => {
  testDocker('is started as the image says, and reaches its runtime API by host and port', async () => {
    const uri = await makeImage('plain', ['ENTRYPOINT ["/custom-node", "/app/app.mjs"]', 'CMD ["one", "two"]', 'ENV SETTING=of-the-image']);
    expect(await lab.run(backend, imageFn({ uri }), { n: 1 })).toEqual({
      got: { n: 1 },
      arguments: ['one', 'two'],
      uid,
      setting: 'set',
      address: expect.stringMatching(/^127\.0\.0\.1:\d+$/) as string,
    });
    const override = imageFn({ uri, command: ['three'] });
    expect(await lab.run(backend, override)).toMatchObject({ arguments: ['three'] });
    const other = imageFn({ uri, entryPoint: ['/custom-node', '/app/app.mjs', 'four'] });
    expect(await lab.run(backend, other)).toMatchObject({ arguments: ['four'] });
    const once = await backend.runStdio(
      imageFn({ uri, entryPoint: ['/custom-node', '/app/stdio.mjs'], command: ['five'] }),
      Buffer.from('{"n":2}'),
    );
    expect(JSON.parse(Buffer.from(once.output).toString())).toEqual({ got: { n: 2 }, arguments: ['five'] });
  });

  testDocker('that speaks to sockets is given the socket', async () => {
    const source = `const http = require('node:http'); const { pathname } = new URL(process.env.AWS_LAMBDA_RUNTIME_API); http.get({ socketPath: pathname, path: '/2018-06-01/runtime/invocation/next' }, (answer) => { const id = answer.headers['lambda-runtime-aws-request-id']; answer.resume(); http.request({ socketPath: pathname, method: 'POST', path: '/2018-06-01/runtime/invocation/' + id + '/response' }).end(JSON.stringify(process.env.AWS_LAMBDA_RUNTIME_API)); }); setInterval(() => {}, 1000);`;
    const uri = await makeImage('sockets', [
      `ENTRYPOINT ["/custom-node", "-e", ${JSON.stringify(source)}]`,
      'LABEL dev.blueprint-runner.runtime-api=unix',
    ]);
    expect(await lab.run(backend, imageFn({ uri }))).toBe('unix:/run/bpr/api.sock');
  });

  testDocker('that names no program is refused', async () => {
    const uri = await makeImage('empty', []);
    await expect(lab.run(backend, imageFn({ uri }))).rejects.toMatchObject({
      code: 'INSTANCE_START_FAILED',
      message: expect.stringContaining(uri) as string,
    });
  });

  testDocker('that is not here and may not be fetched is refused', async () => {
    await expect(lab.run(backend, imageFn({ uri: 'bpr-test/nowhere:1' }))).rejects.toMatchObject({
      code: 'INSTANCE_START_FAILED',
      message: expect.stringContaining('bpr-test/nowhere:1 is not on this machine') as string,
    });
  });

  testDocker('whose program cannot be started says so, and leaves nothing', async () => {
    const bare = new ContainerBackend({ folder: state, init: false, images: { 'nodejs99.x': 'bpr-test/none:1' } });
    const uri = await makeImage('broken', ['ENTRYPOINT ["/no/such/program"]', 'LABEL dev.blueprint-runner.runtime-api=unix']);
    await expect(lab.run(bare, imageFn({ uri }))).rejects.toMatchObject({
      code: 'INSTANCE_START_FAILED',
      message: expect.stringMatching(/\/no\/such\/program/) as string,
    });
    // With an init process it starts, and ends at once.
    const { instance, output } = await lab.launch(backend, imageFn({ uri }));
    expect(await instance.ended).toEqual({ reason: 'exited', exitCode: 127 });
    expect(output()).toContain('/no/such/program');
    await bare.close();
    expect(await containersWith(`dev.blueprint-runner.owner=${lab.ownerId}`)).toEqual([]);
  });

  testDocker('needs a runtime that the engine has', async () => {
    const strange = new ContainerBackend({ folder: state, runtime: 'no-such-runtime' });
    expect(await strange.unavailable()).toMatch(/no runtime no-such-runtime, only .*runc/);
    await expect(lab.run(strange, lab.fn('export const handler = () => 1;'))).rejects.toMatchObject({ code: 'BACKEND_UNAVAILABLE' });
  });
});

describe('the image of the node on disk', () => {
  const docker = new Docker();
  const own = async (backendOfIt: ContainerBackend): Promise<{ readonly tags: string[]; readonly ids: string[] }> => {
    await backendOfIt.prepull(lab.fn('1'), never);
    const images = await docker.listImages({ filters: { label: ['dev.blueprint-runner.content'] } });
    return { tags: images.flatMap(({ RepoTags: tags }) => tags ?? []), ids: images.map(({ Id: id }) => id) };
  };

  testDocker('is found by its content when only the file is another', async () => {
    const before = await own(backend);
    const copy = join(lab.folder, 'node-copy');
    copyFileSync(process.execPath, copy);
    const after = await own(new ContainerBackend({ folder: state, nodePath: copy }));
    made.push(...after.tags.filter((tag) => !before.tags.includes(tag)));
    expect(after.tags.length).toBe(before.tags.length + 1);
    expect(after.ids).toEqual(before.ids);
  });

  testDocker('is made anew for another node, and functions run in it', async () => {
    const before = await own(backend);
    const changed = join(lab.folder, 'node-changed');
    copyFileSync(process.execPath, changed);
    appendFileSync(changed, 'changed');
    const other = new ContainerBackend({ folder: state, nodePath: changed });
    const after = await own(other);
    made.push(...after.tags.filter((tag) => !before.tags.includes(tag)));
    expect(after.ids.length).toBe(before.ids.length + 1);
    const source = `import fs from 'node:fs'; export const handler = async () => fs.readFileSync('/var/lang/bin/node').subarray(-7).toString();`;
    expect(await lab.run(other, lab.fn(source))).toBe('changed');
    await other.close();
  });
});
