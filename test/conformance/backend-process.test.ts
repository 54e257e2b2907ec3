import { describe, expect, it } from 'vitest';
import { ProcessBackend } from '../../plugins/process/index.ts';
import type { ProcessBackendOptions } from '../../plugins/process/index.ts';
import { runBackendConformance } from '../../src/conformance/conformance.ts';
import { requirePeer, runs } from '../require.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';

const OPEN_NETWORK = 'only namespaces keep a process from the network';
const OWN_TMP = 'only a mount gives a process its own /tmp; it has a folder, which TMPDIR names';
const CHILDREN = 'the permission model allows no child processes';
const IS_ROOT = process.getuid?.() === 0;
const folder = temporaryFolder('backend');

function check(name: string, options: ProcessBackendOptions, skip: Readonly<Record<string, string>> = {}): void {
  runBackendConformance({ describe, it }, { name: `process, ${name}`, create: () => new ProcessBackend({ folder, ...options }), skip });
}

const LOOSE = {
  'without network nothing of this machine is reached over TCP': OPEN_NETWORK,
  '/tmp can be written, the code cannot': OWN_TMP,
  '/tmp holds no more than it should': OWN_TMP,
  ...(!IS_ROOT && { 'the Runtime API of another instance is out of reach': 'without root all instances are of one user' }),
};

requirePeer('bwrap', () => {
  runs('bwrap', '--unshare-all', '--ro-bind', '/', '/', 'true');
  check('bubblewrap', { sandbox: 'bubblewrap' });
  check('bubblewrap, none waiting', { sandbox: 'bubblewrap', blanks: 0 });
})('the sandbox is bubblewrap where it is there', async () => {
  const backend = new ProcessBackend({ folder });
  expect(await backend.describe()).toMatchObject({ sandbox: 'bubblewrap' });
  await backend.close();
});
check(
  'permissions',
  { sandbox: 'permissions' },
  { ...LOOSE, 'terminate ends a program that ignores signals, and all that it started': CHILDREN },
);
check('no sandbox', { sandbox: 'none' }, LOOSE);
