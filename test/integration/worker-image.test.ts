/** `bpr worker image`: the worker as Docker runs it, from a file and from a registry. */

import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import { zipSync } from 'fflate';
import { ControlPlane } from '../../src/control/control.ts';
import { functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { requirePeer, runs } from '../require.ts';
import { CliUser } from '../support/cli-user.ts';
import { testDocker } from '../support/container-engine.ts';
import { probeRegistry, startRegistry } from '../support/image-registry.ts';
import { ECHO } from '../support/wasm.ts';

const run = promisify(execFile);
const testRegistry = requirePeer('docker-registry', () => {
  probeRegistry();
  runs('docker', 'version');
});
/** Node is 130 MB, which are written, read and unpacked a few times. */
const LIMIT_MS = 300_000;

let folder: string;
let user: CliUser;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'wi-'));
  user = new CliUser(folder);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function docker(...args: readonly string[]): Promise<string> {
  return (await run('docker', args, { maxBuffer: 64 * 1024 * 1024 })).stdout.trim();
}

/** A worker of the image runs a job on a module, and ends. */
async function expectRuns(image: string): Promise<void> {
  const control = new ControlPlane({ folder: mkdtempSync(join(folder, 'c-')) });
  await control.listen({ port: 0 });
  onTestFinished(() => control.close(0));
  const { ticket } = await control.tickets.create({ uses: 10 });
  const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
  onTestFinished(() => queue.close());
  const object = await new RemoteObjects(queue.control).keep(zipSync({ 'handler.wasm': ECHO }, { mtime: '2026-01-01' }));
  const settings = functionSettings({ runtime: 'wasm', handler: 'handler.wasm', memoryMb: 128 });
  const headers = functionHeaders({ name: 'echo', code: { kind: 'package', object }, settings });
  await queue.publish({ id: 'one', type: 'function', payload: Buffer.from('Ada'), headers, attemptsMax: 1 });
  const flags = [
    '--rm',
    '--network',
    'host',
    '--read-only',
    '--tmpfs',
    '/tmp:mode=1777',
    '--tmpfs',
    '/data:mode=1777',
    '--cap-drop',
    'ALL',
  ];
  const words = ['--env', `CONTROL_PLANE_TICKET=${ticket}`, image, '--backend', 'wasm', '--once', '--json'];
  const printed = await docker('run', '--init', ...flags, '--security-opt', 'no-new-privileges', ...words);
  expect(printed.split('\n').map((line) => (JSON.parse(line) as { readonly event: string }).event)).toContain('ended');
  expect(Buffer.from((await queue.result('one')).body as Uint8Array).toString()).toBe('Ada');
}

/** Removed at the end of the test. */
function removed(image: string): void {
  onTestFinished(async () => {
    await docker('rmi', '--force', image);
  });
}

it('goes nowhere, or where no image can be, is refused before anything is built', async () => {
  const codes = [];
  for (const args of [[], ['--push', 'nowhere'], ['--out', 'x.tar', '--name', 'No Name']])
    codes.push(((await user.json('worker', 'image', ...args))['error'] as { readonly code: string }).code);
  expect(codes).toEqual(['CONFIG_INVALID', 'CONFIG_INVALID', 'CONFIG_INVALID']);
});

testDocker(
  'as a file: the same bytes each time, which docker load takes, and a worker runs without a network of its own, rights or a root to write to',
  async () => {
    const name = `bpr-worker-test:${process.pid}`;
    const first = await user.json('worker', 'image', '--out', 'first.tar', '--name', name);
    const second = await user.json('worker', 'image', '--out', 'second.tar', '--name', name);
    expect([second['digest'], second['bytes']]).toEqual([first['digest'], first['bytes']]);
    expect(readFileSync(join(user.home, 'first.tar')).equals(readFileSync(join(user.home, 'second.tar')))).toBe(true);
    removed(name);
    expect(await docker('load', '--input', join(user.home, 'first.tar'))).toBe(`Loaded image: ${name}`);
    expect(await docker('image', 'inspect', '--format', '{{.Config.User}} {{.Architecture}} {{.Os}}', name)).toMatch(
      /^993:993 a\w+ linux$/,
    );
    await expectRuns(name);
  },
  LIMIT_MS,
);

testRegistry(
  'into a registry: what docker pull gets is what docker load gets from the file, and it runs; a second push sends nothing',
  async () => {
    const registry = await startRegistry();
    onTestFinished(() => registry.close());
    const reference = `${registry.host}/team/bpr-worker:1`;
    const pushed = await user.json('worker', 'image', '--push', reference, '--out', 'pushed.tar');
    expect(pushed).toMatchObject({ name: reference, pushed: { wasThere: false, tag: '1', digest: pushed['digest'] } });
    expect(await user.json('worker', 'image', '--push', reference)).toMatchObject({ pushed: { wasThere: true, uploadedBytes: 0 } });
    await docker('pull', '--quiet', reference);
    removed(reference);
    const idOf = (): Promise<string> => docker('image', 'inspect', '--format', '{{.Id}}', reference);
    const id = await idOf();
    await expectRuns(reference);
    await docker('load', '--input', join(user.home, 'pushed.tar'));
    expect(await idOf()).toBe(id);
  },
  LIMIT_MS,
);
